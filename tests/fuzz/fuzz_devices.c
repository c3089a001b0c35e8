// A hostile driver: any sequence of port and memory accesses, time and interrupts on a whole board. Nothing may be touched
// outside, divide by zero, overflow or hang.
#include <stdlib.h>
#include <string.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "engine/engines.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

// The far end of every serial line: so many characters to come, and whether it takes any.
static struct {
    unsigned coming;
    u8 byte;
    bool full;
} peer;

static int give(void *in)
{
    (void)in;
    if (!peer.coming)
        return -1;
    peer.coming--;
    return peer.byte++;
}

static bool has_room(void *out)
{
    (void)out;
    return !peer.full;
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
    struct pc_peer line = {.rx = give, .room = has_room};
    struct pc_options o = {.ram = PC_MIN_RAM,
                           .cpus = 2,
                           .rtc_slew = true,
                           .engine = engine_find("interp"),
                           .model = &model,
                           .serial = {true, true, true, true},
                           .debugcon = true,
                           .testdev = true,
                           .serial_peer = {line, line, line, line},
                           .debugcon_base = 0xe9};
    if (pc_create(&host->host, &o, &b, &err))
        abort();
    return b;
}

// What does not come from the guest: hands, serial lines, interrupt lines.
static void outside(struct pc *b, const u8 *d)
{
    unsigned n = d[2] % PC_SERIALS;

    switch (d[1] % 8) {
    case 0: i8042_key(&b->i8042, d[2], d[3] & 1); break;
    case 1: i8042_mouse(&b->i8042, (i8)d[2] * d[7], (i8)d[3] * d[7], (i8)d[4], d[5]); break;
    case 2:
        peer.coming += d[3] & 31;
        pc_serial_input(b, n);
        break;
    case 3: pc_serial_break(b, n); break;
    case 4:
        peer.full = d[3] & 1;
        pc_serial_room(b, n);
        break;
    case 5: irq_set(pc_isa_irq(b, d[2] & 15), d[3] & 1); break;
    case 6: ioapic_set_irq(&b->ioapic, d[2] % IOAPIC_PINS, d[3] & 1); break;
    case 7: ioapic_eoi(&b->ioapic, d[2]); break;
    }
}

// The processors' TSC goes with time.
static void move_time(struct fake_host *host, u64 to)
{
    host->now_ns = to;
    host->tsc = (u64)((unsigned __int128)to * host->host.tsc_hz / 1000000000);
}

// Where guests write: everywhere, or at one chip, which goes deeper.
struct focus {
    u16 ports[4];
    gpa page;
    u16 registers; // offsets in the page, as a mask
};

static const struct focus focuses[] = {
    {{0x40, 0x41, 0x42, 0x61}, HPET_BASE, 0x7c},         {{0x70}, HPET_BASE, 0xfc},
    {{0x60, 0x64, 0x60, 0x92}, LAPIC_BASE, 0x3f0},       {{0x2f8, 0x2f8, 0x2fa, 0x2fd}, LAPIC_BASE, 0x3f0},
    {{0x43, 0x61, 0x20, 0xa0}, HPET_BASE + 0x100, 0x7c}, {{0x20, 0x21, 0xa0, 0x4d0}, LAPIC_BASE, 0x3f0},
    {{0x20, 0x70, 0x4d0, 0x2000}, IOAPIC_BASE, 0x50},
};

static u16 port_of(const struct focus *f, const u8 *d)
{
    static const u16 bases[] = {0x20,  0xa0,  0x40,  0x60,  0x70,   0x92, 0x3f8, 0x2f8,
                                0x3e8, 0x2e8, 0x4d0, 0x510, 0x2000, 0xe0, 0xb2,  0xcf8};

    if (f)
        return f->ports[d[2] & 3] + (d[3] & 3);
    return d[1] & 0x80 ? (u16)(d[2] | d[3] << 8) : bases[d[2] % ARRAY_LEN(bases)] + (d[3] & 15);
}

static gpa address_of(const struct focus *f, const u8 *d)
{
    static const gpa pages[] = {LAPIC_BASE, IOAPIC_BASE, HPET_BASE, HPET_BASE + 0x100};
    u16 at = (u16)(d[2] | d[3] << 8);

    return f ? f->page + (at & f->registers) : pages[d[1] >> 4 & 3] + (at & 0xffc);
}

// One step of 8 bytes: what, size, address (16 bits), value (32 bits).
static void step(struct pc *b, struct fake_host *host, const struct focus *f, const u8 *d)
{
    unsigned size = 1u << (d[1] & 3), port_size = size > 4 ? 4 : size;
    u16 at = (u16)(d[2] | d[3] << 8), port = port_of(f, d);
    gpa where = address_of(f, d);
    struct vcpu *v = b->m.vcpu[d[1] >> 2 & 1];
    u32 val;
    u64 wide;

    memcpy(&val, d + 4, 4);
    switch (d[0] % 12) {
    case 0:
    case 1: bus_out(&b->m.bus, port, port_size, val); break;
    case 2: bus_in(&b->m.bus, port, port_size); break;
    case 3: mem_store(&b->m.mem, where, size, val | (u64)at << 32); break;
    case 4: mem_load(&b->m.mem, where, size); break;
    case 5: v->intc.msr_write(v->intc.intc, 0x800 + (at & 0xff), (u64)d[1] << 32 | val); break;
    case 6: v->intc.msr_read(v->intc.intc, 0x800 + (at & 0xff), &wide); break;
    case 7: v->intc.msr_write(v->intc.intc, d[1] & 8 ? 0x6e0 : 0x1b, (u64)val << (d[1] >> 3)); break;
    case 8: v->intc.ack(v->intc.intc); break;
    case 9:
        move_time(host, host->now_ns + ((u64)val << (d[1] & 7)));
        clock_run(&b->m.clock);
        break;
    case 10: move_time(host, host->now_ns + (val >> (d[1] & 15))); break; // and nobody had the time to see to timers
    case 11: outside(b, d); break;
    }
}

// Whatever was set up, a guest that does nothing more must not keep the host from everything else: no timer comes due more often
// than its floor.
static void watch_timers(struct pc *b, struct fake_host *host)
{
    u64 end, next;
    unsigned stops = 0, ms = 2;

    clock_run(&b->m.clock);
    end = host->now_ns + ms * 1000000;
    while ((next = clock_host_deadline(&b->m.clock)) <= end) {
        if (next > host->now_ns)
            move_time(host, next);
        clock_run(&b->m.clock);
        if (++stops > b->m.clock.count * (ms * 1000000 / CLOCK_MIN_PERIOD_NS + 2))
            abort();
    }
}

// What the monitor shows, in a buffer that is too small for most.
static void dump_all(struct pc *b)
{
    for (unsigned i = 0; i < b->m.bus.count; i++) {
        const struct bus_region *r = &b->m.bus.region[i];
        char text[48];
        if (r->ops->dump)
            r->ops->dump(r->dev, text, sizeof(text));
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct fake_host host;
    static struct pc *b;

    if (!b)
        b = new_board(&host);
    // Time begins anew, so that it never comes near the end of its 64 bits.
    b->m.clock.offset_ns = 0;
    move_time(&host, 0);
    memset(&peer, 0, sizeof(peer));
    pc_reset(b);
    // The first byte says what it is about.
    const struct focus *f = size && data[0] < ARRAY_LEN(focuses) ? &focuses[data[0]] : NULL;
    for (size_t at = 1; at + 8 <= size; at += 8)
        step(b, &host, f, data + at);
    watch_timers(b, &host);
    dump_all(b);
    return 0;
}
