// A hostile guest of the memory map: PAM registers, local APICs that move over RAM, fw_cfg commands, resets, and between them accesses by
// two processors through their TLBs. What a processor sees through its TLB is what is there, the ROM stays what it is, and what is
// told to be forgotten has been.
#include <stdlib.h>
#include <string.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "core/msr.h"
#include "engine/engines.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define CPUS 2
#define COMMAND 0x1000u // where fw_cfg commands are put

static u8 rom[PC_MIN_BIOS];

static void check(bool ok)
{
    if (!ok)
        abort();
}

static struct pc *new_board(struct fake_host *host)
{
    static struct cpu_model model;
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];
    struct error err;
    struct pc *b = NULL;

    fake_host_init(host);
    for (unsigned i = 0; i < sizeof(rom); i++)
        rom[i] = (u8)(i * 37 + i / 256);
    memset(features, 0xff, sizeof(features));
    check(!cpu_model_parse("max", features, &model, text, sizeof(text)));
    struct pc_options o = {.ram = PC_MIN_RAM,
                           .cpus = CPUS,
                           .engine = engine_find("interp"),
                           .model = &model,
                           .bios = rom,
                           .bios_size = sizeof(rom)};
    check(!pc_create(&host->host, &o, &b, &err));
    return b;
}

// PAM register n of the host bridge.
static void set_pam(struct pc *b, unsigned n, u8 val)
{
    bus_out(&b->m.bus, 0xcf8, 4, 0x80000000 | ((0x59 + n) & ~3u));
    bus_out(&b->m.bus, (u16)(0xcfc + ((0x59 + n) & 3)), 1, val);
}

// Paging is off. Registers of a local APIC may change between two looks, memory may not.
static void access_memory(struct vcpu *v, gpa a, bool write, u32 val)
{
    struct mem *m = &v->machine->mem;
    struct mmu_fault fault;
    u64 got;

    mmu_serve_tlb_requests(v);
    if (write)
        check(mmu_store(v, a, 4, TLB_SUPER, val, &fault));
    check(mmu_load(v, a, 4, TLB_SUPER, &got, &fault));
    check(got <= 0xffffffff);
    if (!mem_is_own(m, v->id, a) && !mem_is_own(m, v->id, a + 3))
        check(got == mem_cpu_load(m, v->id, a, 4));
}

// The page of an APIC: within the memory below 1 MiB, just above, or its usual place.
static u64 apic_base(u8 a, u8 bits)
{
    u64 page = a < 0xc0   ? (u64)a << 12
               : a < 0xd0 ? 0xc0000 + ((u64)(a & 0xf) << 14)
                          : LAPIC_BASE + ((u64)(a & 1) << 12);

    return page | (u64)(bits & 3) << 10;
}

// One step of 8 bytes: what, a choice, address (16 bits), value (32 bits).
static void step(struct pc *b, struct fake_host *host, const u8 *d)
{
    struct vcpu *v = b->m.vcpu[d[1] & 1];
    u16 at = (u16)(d[2] | d[3] << 8);
    u32 val;

    memcpy(&val, d + 4, 4);
    switch (d[0] % 8) {
    case 0: set_pam(b, d[1] % 7, d[4]); break;
    case 1: msr_write(v, X86_MSR_APIC_BASE, apic_base(d[2], d[3])); break;
    case 2: // a command for fw_cfg
        for (unsigned i = 0; i < 4; i++)
            mem_store(&b->m.mem, COMMAND + i * 4, 4, __builtin_bswap32(d[2 + i] | (i < 2 ? (u32)d[6 + i] << 8 : 0)));
        bus_out(&b->m.bus, FW_CFG_DMA_PORT + 4, 4, __builtin_bswap32(COMMAND));
        break;
    case 3:
        host->now_ns += val;
        clock_run(&b->m.clock);
        break;
    case 4: mem_write(&b->m.mem, 0xc0000 + (at << 2), d + 4, 4); break; // a device's
    case 5:
        if (!(d[2] & 0xf))
            pc_reset(b);
        break;
    default: access_memory(v, d[1] & 2 ? 0xbfffc + (at << 2) + (d[1] >> 2 & 3) : at << 4, d[1] & 0x80, val);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct fake_host host;
    static struct pc *b;

    if (!b)
        b = new_board(&host);
    host.now_ns = b->m.clock.offset_ns = 0;
    pc_reset(b);
    for (size_t at = 0; at + 8 <= size; at += 8)
        step(b, &host, data + at);
    check(!memcmp(b->rom, rom, sizeof(rom)));
    for (unsigned i = 0; i < I440FX_LAST_AREA_SIZE; i++)
        check(b->blank[i] == 0xff);
    return 0;
}
