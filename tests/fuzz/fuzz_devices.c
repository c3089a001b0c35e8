// A hostile driver: any sequence of port and memory accesses, time and interrupts on a whole board. Nothing may be touched
// outside, divide by zero, overflow or hang.
#include <stdlib.h>
#include <string.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "engine/engines.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static int never(void *in)
{
    (void)in;
    return -1;
}

static struct pc *new_board(struct fake_host *host)
{
    static struct cpu_model model;
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];
    struct error err;
    struct pc *b = NULL;

    fake_host_init(host);
    memset(features, 0xff, sizeof(features));
    if (cpu_model_parse("qemu64", features, &model, text, sizeof(text)))
        abort();
    struct pc_options o = {.ram = PC_MIN_RAM,
                           .engine = engine_find("interp"),
                           .model = &model,
                           .serial = {true},
                           .debugcon = true,
                           .testdev = true,
                           .serial_peer[0] = {.rx = never},
                           .debugcon_base = 0xe9};
    if (pc_create(&host->host, &o, &b, &err))
        abort();
    return b;
}

// One step of 8 bytes: what, size, address (16 bits), value (32 bits).
static void step(struct pc *b, struct fake_host *host, const u8 *d)
{
    static const u16 bases[] = {0x20, 0xa0, 0x40, 0x60, 0x70, 0x92, 0x3f8, 0x4d0, 0x510, 0x2000, 0xe0, 0xb2, 0xcf8};
    unsigned size = 1u << (d[1] & 3), port_size = size > 4 ? 4 : size;
    u16 at = (u16)(d[2] | d[3] << 8), port = d[1] & 0x80 ? at : bases[d[2] % ARRAY_LEN(bases)] + (d[3] & 15);
    u32 val;
    u64 wide;
    struct vcpu *v = b->m.vcpu[0];
    gpa page = d[1] & 0x40 ? IOAPIC_BASE : LAPIC_BASE;

    memcpy(&val, d + 4, 4);
    switch (d[0] % 10) {
    case 0:
    case 1: bus_out(&b->m.bus, port, port_size, val); break;
    case 2: bus_in(&b->m.bus, port, port_size); break;
    case 3: mem_store(&b->m.mem, page + (at & 0xff8), size, val); break;
    case 4: mem_load(&b->m.mem, page + (at & 0xff8), size); break;
    case 5: v->intc.msr_write(v->intc.intc, 0x800 + (at & 0xff), (u64)d[1] << 32 | val); break;
    case 6: v->intc.msr_read(v->intc.intc, 0x800 + (at & 0xff), &wide); break;
    case 7: v->intc.msr_write(v->intc.intc, d[1] & 4 ? 0x6e0 : 0x1b, (u64)val << (d[1] >> 3)); break;
    case 8: v->intc.ack(v->intc.intc); break;
    case 9:
        host->now_ns += (u64)val << (d[1] & 7);
        clock_run(&b->m.clock);
        break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct fake_host host;
    static struct pc *b;

    if (!b)
        b = new_board(&host);
    // Time begins anew, so that it never comes near the end of its 64 bits.
    host.now_ns = b->m.clock.offset_ns = 0;
    pc_reset(b);
    for (size_t at = 0; at + 8 <= size; at += 8)
        step(b, &host, data + at);
    return 0;
}
