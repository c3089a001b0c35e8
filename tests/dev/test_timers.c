// 8254, MC146818 and the local APIC on a clock that the test moves.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "dev/i8254.h"
#include "dev/lapic.h"
#include "dev/mc146818.h"

#define MS 1000000ull
#define S 1000000000ull

struct rig {
    u64 now;
    struct host host;
    struct clock clock;
    struct i8254 pit;
    struct mc146818 rtc;
    struct lapic apic;
    u64 cr8;
    unsigned rises; // of the device's interrupt
    bool level;
    unsigned events;
    enum lapic_mode last_event;
    u8 last_eoi;
};

static u64 rig_now(void *host)
{
    return ((struct rig *)host)->now;
}

static const struct host_ops rig_host = {.now_ns = rig_now};

static void on_irq(void *sink, unsigned n, bool level)
{
    struct rig *r = sink;

    (void)n;
    r->rises += level && !r->level;
    r->level = level;
}

static void on_event(void *cpu, enum lapic_mode mode, u8 vector)
{
    struct rig *r = cpu;

    (void)vector;
    r->events++;
    r->last_event = mode;
}

static void on_send(void *bus, struct lapic *from, u32 icr, u32 dest)
{
    unsigned shorthand = icr >> 18 & 3;

    (void)bus;
    if (shorthand == 1 || shorthand == 2 || (shorthand == 0 && lapic_addressed(from, dest, icr & 0x800)))
        lapic_accept(from, (enum lapic_mode)(icr >> 8 & 7), (u8)icr, false);
}

static void on_eoi(void *bus, u8 vector)
{
    ((struct rig *)bus)->last_eoi = vector;
}

// The guest's TSC: two ticks a nanosecond.
static u64 rig_tsc(void *cpu)
{
    return ((struct rig *)cpu)->now * 2;
}

static void start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->now = 5 * S;
    r->host = (struct host){.ops = &rig_host, .self = r};
    clock_init(&r->clock, &r->host);
}

static void advance(struct rig *r, u64 ns)
{
    r->now += ns;
    clock_run(&r->clock);
}

// --- 8254 -------------------------------------------------------------------------------------------------------------------

static void pit_start(struct rig *r)
{
    start(r);
    r->pit.irq = (struct irq_line){on_irq, r, 0};
    r->pit.clock = &r->clock;
    assert_int_equal(i8254_init(&r->pit), 0);
}

static void pit_out(struct rig *r, unsigned off, u8 val)
{
    i8254_ops.write(&r->pit, off, 1, val);
}

static u8 pit_in(struct rig *r, unsigned off)
{
    return (u8)i8254_ops.read(&r->pit, off, 1);
}

static u16 pit_count(struct rig *r, unsigned ch)
{
    pit_out(r, 3, (u8)(ch << 6));
    u16 low = pit_in(r, ch);
    return (u16)(low | pit_in(r, ch) << 8);
}

static void pit_rate(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    pit_out(&r, 3, 0x34);         // channel 0, both bytes, mode 2
    pit_out(&r, 0, 0x9c);         // 11932: 100 Hz
    assert_int_equal(r.rises, 1); // the output rises with the mode
    pit_out(&r, 0, 0x2e);
    r.rises = 0;
    for (unsigned i = 0; i < 100; i++)
        advance(&r, 10 * MS + 500);
    assert_in_range(r.rises, 99, 100);
    r.rises = 0;
    advance(&r, 100 * MS); // late: missed ones count once
    assert_int_equal(r.rises, 1);
    advance(&r, 10 * MS);
    assert_int_equal(r.rises, 2);
}

static void pit_one_shot(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    pit_out(&r, 3, 0x30); // mode 0
    pit_out(&r, 0, 0xa9);
    pit_out(&r, 0, 0x04); // 1193: 1 ms
    advance(&r, MS / 2);
    assert_false(r.level);
    assert_in_range(pit_count(&r, 0), 594, 599);
    advance(&r, MS);
    assert_true(r.level);
    advance(&r, S);
    assert_int_equal(r.rises, 1);
    pit_out(&r, 3, 0x30); // a control word takes the output down
    assert_false(r.level);
}

static void pit_square_and_gate(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    i8254_port61_ops.write(&r.pit, 0, 1, 1);
    pit_out(&r, 3, 0xb6); // channel 2, mode 3
    pit_out(&r, 2, 0x51);
    pit_out(&r, 2, 0x2e); // 11857
    assert_true(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    r.now += 6 * MS; // in the second half
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    i8254_port61_ops.write(&r.pit, 0, 1, 0);
    assert_true(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20); // gate low: output high
    // Mode 0 on channel 2 is how kernels measure the TSC.
    i8254_port61_ops.write(&r.pit, 0, 1, 1);
    pit_out(&r, 3, 0xb0);
    pit_out(&r, 2, 0xff);
    pit_out(&r, 2, 0xff);
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    r.now += 20 * MS;
    i8254_port61_ops.write(&r.pit, 0, 1, 0); // paused
    u16 paused = pit_count(&r, 2);
    r.now += 50 * MS;
    assert_int_equal(pit_count(&r, 2), paused);
    i8254_port61_ops.write(&r.pit, 0, 1, 1);
    r.now += 30 * MS;
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    r.now += 6 * MS;
    assert_true(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
}

static void pit_read_back(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    pit_out(&r, 3, 0x34);
    pit_out(&r, 3, 0xe2); // status of channel 0: no count yet
    assert_int_equal(pit_in(&r, 0), 0x80 | 0x40 | 0x34);
    pit_out(&r, 0, 0x00);
    pit_out(&r, 0, 0x80);
    pit_out(&r, 3, 0xc2); // status and count
    r.now += MS;
    assert_int_equal(pit_in(&r, 0), 0xb4);
    assert_int_equal(pit_in(&r, 0), 0x00);
    assert_int_equal(pit_in(&r, 0), 0x80); // as it was when latched
    pit_out(&r, 3, 0x35);                  // BCD
    pit_out(&r, 0, 0x00);
    pit_out(&r, 0, 0x10);
    r.now += 100 * 838; // 99 ticks
    assert_in_range(pit_count(&r, 0), 0x0900, 0x0901);
}

// Whatever is written, nothing divides by zero or hangs.
static void pit_any_write(void **state)
{
    struct rig r;
    u64 seed = 1;

    (void)state;
    pit_start(&r);
    for (unsigned i = 0; i < 100000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned v = (unsigned)(seed >> 33);
        if (v & 0x10000)
            pit_in(&r, v >> 8 & 3);
        else if (v & 0x20000)
            i8254_port61_ops.write(&r.pit, 0, 1, v & 0xff);
        else
            pit_out(&r, v >> 8 & 3, (u8)v);
        advance(&r, v >> 20);
    }
}

// --- MC146818 -----------------------------------------------------------------------------------------------------------------

static void rtc_start(struct rig *r, i64 utc)
{
    start(r);
    r->rtc.irq = (struct irq_line){on_irq, r, 8};
    r->rtc.clock = &r->clock;
    assert_int_equal(mc146818_init(&r->rtc, utc * (i64)S, 512ull << 20, 0), 0);
}

static u8 rtc_get(struct rig *r, u8 reg)
{
    mc146818_ops.write(&r->rtc, 0, 1, reg);
    return (u8)mc146818_ops.read(&r->rtc, 1, 1);
}

static void rtc_put(struct rig *r, u8 reg, u8 val)
{
    mc146818_ops.write(&r->rtc, 0, 1, reg);
    mc146818_ops.write(&r->rtc, 1, 1, val);
}

static void expect_time(struct rig *r, u32 date, u32 time, unsigned weekday)
{
    assert_int_equal(rtc_get(r, 0x32) << 24 | rtc_get(r, 9) << 16 | rtc_get(r, 8) << 8 | rtc_get(r, 7), date);
    assert_int_equal(rtc_get(r, 4) << 16 | rtc_get(r, 2) << 8 | rtc_get(r, 0), time);
    assert_int_equal(rtc_get(r, 6), weekday);
}

static void rtc_time(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 951868799); // 2000-02-29 23:59:59, a Tuesday
    expect_time(&r, 0x20000229, 0x235959, 3);
    r.now += S;
    expect_time(&r, 0x20000301, 0x000000, 4);
    rtc_start(&r, 4102444799); // 2099-12-31 23:59:59, a Thursday
    expect_time(&r, 0x20991231, 0x235959, 5);
    r.now += S;
    expect_time(&r, 0x21000101, 0x000000, 6);
    rtc_put(&r, 0x0b, 0x00); // 12 hours, BCD
    assert_int_equal(rtc_get(&r, 4), 0x12);
    r.now += 13 * 3600 * S;
    assert_int_equal(rtc_get(&r, 4), 0x81);
    rtc_put(&r, 0x0b, 0x06); // 24 hours, binary
    assert_int_equal(rtc_get(&r, 4), 13);
}

static void rtc_set(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000);
    rtc_put(&r, 0x0b, 0x82);
    rtc_put(&r, 0x32, 0x19);
    rtc_put(&r, 9, 0x99);
    rtc_put(&r, 8, 0x12);
    rtc_put(&r, 7, 0x31);
    rtc_put(&r, 4, 0x23);
    rtc_put(&r, 2, 0x59);
    rtc_put(&r, 0, 0x50);
    r.now += 10 * S;
    assert_int_equal(rtc_get(&r, 0), 0x50); // frozen
    rtc_put(&r, 0x0b, 0x02);
    r.now += 9 * S;
    expect_time(&r, 0x19991231, 0x235959, 6);
    r.now += S;
    expect_time(&r, 0x20000101, 0x000000, 7);
    rtc_put(&r, 7, 0x15); // one register, without SET
    expect_time(&r, 0x20000115, 0x000000, 7);
}

static void rtc_interrupts(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000);
    rtc_get(&r, 0x0c);
    r.now += S + MS;
    assert_int_equal(rtc_get(&r, 0x0c) & 0x10, 0x10); // the flag comes without being enabled
    assert_int_equal(rtc_get(&r, 0x0c) & 0x90, 0);
    rtc_put(&r, 0x0b, 0x12);
    advance(&r, S);
    assert_true(r.level);
    assert_int_equal(rtc_get(&r, 0x0c) & 0x90, 0x90);
    assert_false(r.level);
    rtc_put(&r, 0x0a, 0x26); // 1024 Hz
    rtc_put(&r, 0x0b, 0x42);
    rtc_get(&r, 0x0c);
    r.rises = 0;
    for (unsigned i = 0; i < 100; i++) {
        advance(&r, 976563);
        rtc_get(&r, 0x0c);
    }
    assert_in_range(r.rises, 99, 100);
    rtc_put(&r, 0x0b, 0x22); // alarm in any hour and minute, at second 30
    rtc_put(&r, 5, 0xff);
    rtc_put(&r, 3, 0xff);
    rtc_put(&r, 1, 0x30);
    rtc_get(&r, 0x0c);
    r.rises = 0;
    for (unsigned i = 0; i < 120; i++) {
        advance(&r, S);
        if (r.level) {
            assert_int_equal(rtc_get(&r, 0), 0x30);
            rtc_get(&r, 0x0c);
        }
    }
    assert_int_equal(r.rises, 2);
}

static void rtc_update_bit(void **state)
{
    struct rig r;
    unsigned seen = 0;

    (void)state;
    rtc_start(&r, 1000000000);
    for (unsigned i = 0; i < 10000; i++) {
        r.now += S / 10000;
        seen += rtc_get(&r, 0x0a) >> 7;
    }
    assert_in_range(seen, 1, 4); // 244 us of every second
    assert_int_equal(rtc_get(&r, 0x0d), 0x80);
}

static void rtc_memory(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000);
    assert_int_equal(rtc_get(&r, 0x34) | rtc_get(&r, 0x35) << 8, (512 - 16) * 16);
    rtc_put(&r, 0x0f, 0x0a);
    mc146818_reset(&r.rtc);
    assert_int_equal(rtc_get(&r, 0x0f), 0x0a);
}

static void rtc_any_write(void **state)
{
    struct rig r;
    u64 seed = 7;

    (void)state;
    rtc_start(&r, 1000000000);
    for (unsigned i = 0; i < 100000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned v = (unsigned)(seed >> 33);
        if (v & 0x10000)
            rtc_get(&r, (u8)(v >> 8));
        else
            rtc_put(&r, (u8)(v >> 8 & (v & 0x20000 ? 0xff : 0x0f)), (u8)v);
        advance(&r, (u64)(v >> 20) << 10);
    }
}

// --- local APIC -----------------------------------------------------------------------------------------------------------------

#define BASE_XAPIC 0xfee00900ull
#define BASE_X2APIC 0xfee00d00ull

static void apic_start(struct rig *r)
{
    start(r);
    struct lapic *l = &r->apic;
    l->cr8 = &r->cr8;
    l->clock = &r->clock;
    l->timer_hz = 1000000000;
    l->tsc_hz = 2000000000;
    l->intr = (struct irq_line){on_irq, r, 0};
    l->tsc = rig_tsc;
    l->event = on_event;
    l->send = on_send;
    l->eoi = on_eoi;
    l->cpu = l->bus = r;
    assert_int_equal(lapic_init(l, 0), 0);
    lapic_reset(l, BASE_XAPIC);
}

static u32 apic_rd(struct rig *r, unsigned off)
{
    return (u32)lapic_ops.read(&r->apic, off, 4);
}

static void apic_wr(struct rig *r, unsigned off, u32 val)
{
    lapic_ops.write(&r->apic, off, 4, val);
}

static void apic_priorities(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x41, false);
    assert_false(r.level); // disabled by software
    apic_wr(&r, 0xf0, 0x1ff);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x41, false);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x65, true);
    assert_true(r.level);
    assert_int_equal(lapic_ack(&r.apic), 0x65);
    assert_false(r.level);
    assert_int_equal(lapic_ack(&r.apic), -1);
    assert_int_equal(apic_rd(&r, 0xa0), 0x60);
    assert_int_equal(apic_rd(&r, 0x130), 1u << 5);
    assert_int_equal(apic_rd(&r, 0x220), 1u << 1);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x68, false); // same class
    assert_false(r.level);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(r.last_eoi, 0x65); // level-triggered: told
    assert_int_equal(lapic_ack(&r.apic), 0x68);
    apic_wr(&r, 0xb0, 0);
    apic_wr(&r, 0x80, 0x4f);
    assert_int_equal(r.cr8, 4);
    assert_false(r.level);
    r.cr8 = 3;
    lapic_cr8_written(&r.apic);
    assert_true(r.level);
    assert_int_equal(apic_rd(&r, 0x80), 0x30);
    assert_int_equal(lapic_ack(&r.apic), 0x41);
}

static void apic_timer(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x3e0, 0x3);     // divide by 16
    apic_wr(&r, 0x320, 0x20050); // periodic
    apic_wr(&r, 0x380, 62500);   // 1 ms
    r.now += MS / 4;
    assert_in_range(apic_rd(&r, 0x390), 46870, 46880);
    r.now -= MS / 4;
    for (unsigned i = 0; i < 10; i++) {
        advance(&r, MS);
        assert_int_equal(lapic_ack(&r.apic), 0x50);
        apic_wr(&r, 0xb0, 0);
    }
    apic_wr(&r, 0x320, 0x00051); // one shot
    apic_wr(&r, 0x3e0, 0xb);     // divide by 1
    apic_wr(&r, 0x380, 1000);
    advance(&r, 999);
    assert_int_equal(lapic_ack(&r.apic), -1);
    advance(&r, 1);
    assert_int_equal(lapic_ack(&r.apic), 0x51);
    assert_int_equal(apic_rd(&r, 0x390), 0);
    apic_wr(&r, 0xb0, 0);
    advance(&r, S);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0x320, 0x10051);
    apic_wr(&r, 0x380, 1000);
    advance(&r, MS);
    assert_int_equal(lapic_ack(&r.apic), -1); // masked
}

static void apic_deadline(void **state)
{
    struct rig r;
    u64 val;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 1000));
    assert_true(lapic_msr_read(&r.apic, 0x6e0, &val));
    assert_int_equal(val, 0); // ignored in the other modes
    apic_wr(&r, 0x320, 0x40052);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 2000));
    advance(&r, 999);
    assert_int_equal(lapic_ack(&r.apic), -1);
    advance(&r, 2);
    assert_int_equal(lapic_ack(&r.apic), 0x52);
    apic_wr(&r, 0xb0, 0);
    assert_true(lapic_msr_read(&r.apic, 0x6e0, &val));
    assert_int_equal(val, 0);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, 1)); // long ago: at once
    advance(&r, 0);
    assert_int_equal(lapic_ack(&r.apic), 0x52);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, ~0ull)); // never
    advance(&r, S);
}

static void apic_x2(void **state)
{
    struct rig r;
    u64 val;

    (void)state;
    apic_start(&r);
    assert_false(lapic_msr_read(&r.apic, 0x802, &val));
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_X2APIC));
    assert_int_equal(apic_rd(&r, 0x30), 0xffffffff); // the page is off
    assert_true(lapic_msr_read(&r.apic, 0x80d, &val));
    assert_int_equal(val, 1);
    assert_true(lapic_msr_write(&r.apic, 0x80f, 0x1ff));
    assert_false(lapic_msr_write(&r.apic, 0x80f, 0x2000)); // reserved
    assert_false(lapic_msr_write(&r.apic, 0x808, 0x100));
    assert_false(lapic_msr_write(&r.apic, 0x80b, 1));
    assert_false(lapic_msr_write(&r.apic, 0x802, 0));
    assert_false(lapic_msr_write(&r.apic, 0x831, 0));
    assert_false(lapic_msr_read(&r.apic, 0x80e, &val));
    assert_false(lapic_msr_read(&r.apic, 0x8ff, &val));
    assert_true(lapic_msr_write(&r.apic, 0x83f, 0x77)); // self IPI
    assert_int_equal(lapic_ack(&r.apic), 0x77);
    assert_true(lapic_msr_write(&r.apic, 0x80b, 0));
    assert_true(lapic_msr_write(&r.apic, 0x830, 0x00004078)); // to id 0
    assert_int_equal(lapic_ack(&r.apic), 0x78);
    assert_true(lapic_msr_write(&r.apic, 0x830, 0x100000400)); // NMI to id 1
    assert_true(lapic_msr_write(&r.apic, 0x835, 0x5700));      // read-only bits may be written as ones
    assert_false(lapic_msr_write(&r.apic, 0x837, 0x4000));     // reserved ones may not
    assert_int_equal(r.events, 0);
    assert_true(lapic_msr_write(&r.apic, 0x830, 0xffffffff00000400)); // to all
    assert_int_equal(r.events, 1);
    assert_int_equal(r.last_event, LAPIC_NMI);
}

static void apic_errors(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x370, 0x99);
    apic_wr(&r, 0x300, 0x40005); // self, vector 5
    assert_int_equal(lapic_ack(&r.apic), 0x99);
    assert_int_equal(apic_rd(&r, 0x280), 0);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x20);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0);
}

static void apic_lint0(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    lapic_set_lint0(&r.apic, true); // as firmware leaves it
    assert_true(r.level);
    assert_true(lapic_extint(&r.apic));
    apic_wr(&r, 0x350, 0x10700);
    assert_false(r.level);
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0xfee00100)); // off: the pin is INTR
    assert_true(r.level);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pit_rate),      cmocka_unit_test(pit_one_shot),   cmocka_unit_test(pit_square_and_gate),
        cmocka_unit_test(pit_read_back), cmocka_unit_test(pit_any_write),  cmocka_unit_test(rtc_time),
        cmocka_unit_test(rtc_set),       cmocka_unit_test(rtc_interrupts), cmocka_unit_test(rtc_update_bit),
        cmocka_unit_test(rtc_memory),    cmocka_unit_test(rtc_any_write),  cmocka_unit_test(apic_priorities),
        cmocka_unit_test(apic_timer),    cmocka_unit_test(apic_deadline),  cmocka_unit_test(apic_x2),
        cmocka_unit_test(apic_errors),   cmocka_unit_test(apic_lint0),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
