// The 8254 on a clock that the test moves.
#include "dev/i8254.h"

#include "dev/rig.h"

struct rig {
    struct rig_clock t;
    struct i8254 pit;
    struct rig_wire irq;
};

static void pit_start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    rig_start(&r->t);
    r->pit.irq = rig_line(&r->irq);
    r->pit.clock = &r->t.clock;
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
    pit_out(&r, 3, 0x34);             // channel 0, both bytes, mode 2
    pit_out(&r, 0, 0x9c);             // 11932: 100 Hz
    assert_int_equal(r.irq.rises, 1); // the output rises with the mode
    pit_out(&r, 0, 0x2e);
    r.irq.rises = 0;
    for (unsigned i = 0; i < 100; i++)
        rig_advance(&r.t, 10 * MS + 500);
    assert_in_range(r.irq.rises, 99, 100);
    r.irq.rises = 0;
    rig_advance(&r.t, 100 * MS); // late: missed ones count once
    assert_int_equal(r.irq.rises, 1);
    rig_advance(&r.t, 10 * MS);
    assert_int_equal(r.irq.rises, 2);
}

static void pit_one_shot(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    pit_out(&r, 3, 0x30); // mode 0
    pit_out(&r, 0, 0xa9);
    pit_out(&r, 0, 0x04); // 1193: 1 ms
    rig_advance(&r.t, MS / 2);
    assert_false(r.irq.level);
    assert_in_range(pit_count(&r, 0), 594, 599);
    rig_advance(&r.t, MS);
    assert_true(r.irq.level);
    rig_advance(&r.t, S);
    assert_int_equal(r.irq.rises, 1);
    pit_out(&r, 3, 0x30); // a control word takes the output down
    assert_false(r.irq.level);
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
    r.t.now += 6 * MS; // in the second half
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    i8254_port61_ops.write(&r.pit, 0, 1, 0);
    assert_true(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20); // gate low: output high
    // Mode 0 on channel 2 is how kernels measure the TSC.
    i8254_port61_ops.write(&r.pit, 0, 1, 1);
    pit_out(&r, 3, 0xb0);
    pit_out(&r, 2, 0xff);
    pit_out(&r, 2, 0xff);
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    r.t.now += 20 * MS;
    i8254_port61_ops.write(&r.pit, 0, 1, 0); // paused
    u16 paused = pit_count(&r, 2);
    r.t.now += 50 * MS;
    assert_int_equal(pit_count(&r, 2), paused);
    i8254_port61_ops.write(&r.pit, 0, 1, 1);
    r.t.now += 30 * MS;
    assert_false(i8254_port61_ops.read(&r.pit, 0, 1) & 0x20);
    r.t.now += 6 * MS;
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
    r.t.now += US;
    pit_out(&r, 3, 0xc2); // status and count
    r.t.now += MS;
    assert_int_equal(pit_in(&r, 0), 0xb4);
    assert_int_equal(pit_in(&r, 0), 0x00);
    assert_int_equal(pit_in(&r, 0), 0x80); // as it was when latched
    pit_out(&r, 3, 0x35);                  // BCD
    pit_out(&r, 0, 0x00);
    pit_out(&r, 0, 0x10);
    r.t.now += 100 * 838; // 99 ticks
    assert_in_range(pit_count(&r, 0), 0x0900, 0x0901);
}

// --- traces by the tick -----------------------------------------------------------------------------------------------------

// Move into the middle of the `n`th tick from the present one.
static void ticks(struct rig *r, u64 n)
{
    u64 now = (u64)((unsigned __int128)(r->t.now - 5 * S) * I8254_HZ / S);

    r->t.now = 5 * S + ((now + n) * S + S / 2) / I8254_HZ;
    clock_run(&r->t.clock);
}

static void gate(struct rig *r, bool on)
{
    i8254_port61_ops.write(&r->pit, 0, 1, on);
}

static unsigned out2(struct rig *r)
{
    return (unsigned)i8254_port61_ops.read(&r->pit, 0, 1) >> 5 & 1;
}

static u8 status(struct rig *r, unsigned ch)
{
    pit_out(r, 3, (u8)(0xe0 | 2u << ch));
    return pit_in(r, ch);
}

static void put2(struct rig *r, u16 val)
{
    pit_out(r, 2, (u8)val);
    pit_out(r, 2, (u8)(val >> 8));
}

// Tick by tick: the output and the counting element, as 0x10000 * output + element.
static void expect_trace(struct rig *r, const u32 *want, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        ticks(r, 1);
        assert_int_equal(out2(r) << 16 | pit_count(r, 2), want[i]);
    }
}

#define TRACE(r, ...) \
    do { \
        static const u32 want_[] = {__VA_ARGS__}; \
        expect_trace(r, want_, sizeof(want_) / sizeof(want_[0])); \
    } while (0)
#define LOW(n) (n)
#define HIGH(n) (0x10000 | (n))

static void trace_start(struct rig *r, u8 control)
{
    pit_start(r);
    ticks(r, 1000);
    gate(r, true);
    pit_out(r, 3, control);
}

static void mode0_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xb0);
    assert_int_equal(status(&r, 2), 0x70); // low, null count
    put2(&r, 4);
    assert_int_equal(status(&r, 2), 0x70);
    TRACE(&r, LOW(4), LOW(3), LOW(2)); // the first pulse loads
    assert_int_equal(status(&r, 2), 0x30);
    gate(&r, false);
    TRACE(&r, LOW(2), LOW(2));
    gate(&r, true);
    TRACE(&r, LOW(1), HIGH(0), HIGH(0xffff));
    // The first byte of a new count stops the old one and takes the output down.
    pit_out(&r, 2, 3);
    assert_int_equal(out2(&r), 0);
    TRACE(&r, LOW(0xffff), LOW(0xffff));
    pit_out(&r, 2, 0);
    TRACE(&r, LOW(3), LOW(2));
    // Loaded also while the gate is low.
    gate(&r, false);
    put2(&r, 2);
    TRACE(&r, LOW(2), LOW(2));
    gate(&r, true);
    TRACE(&r, LOW(1), HIGH(0));
    // A control word stops it.
    pit_out(&r, 3, 0xb0);
    TRACE(&r, LOW(0), LOW(0));
}

static void mode1_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xb2);
    put2(&r, 3);
    assert_int_equal(status(&r, 2), 0xf2);
    ticks(&r, 10);
    assert_int_equal(out2(&r), 1); // waits for the gate to rise
    assert_int_equal(status(&r, 2), 0xf2);
    gate(&r, false);
    gate(&r, true);
    assert_int_equal(out2(&r), 1);
    TRACE(&r, LOW(3), LOW(2));
    gate(&r, false); // no effect
    TRACE(&r, LOW(1), HIGH(0), HIGH(0xffff));
    gate(&r, true);
    TRACE(&r, LOW(3), LOW(2));
    put2(&r, 2); // for the next pulse
    assert_int_equal(status(&r, 2), 0x72);
    TRACE(&r, LOW(1));
    gate(&r, false);
    gate(&r, true);
    TRACE(&r, LOW(2), LOW(1), HIGH(0));
    assert_int_equal(status(&r, 2), 0xb2);
}

static void mode2_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xb4);
    assert_int_equal(out2(&r), 1);
    put2(&r, 3);
    TRACE(&r, HIGH(3), HIGH(2), LOW(1), HIGH(3));
    // A new count waits for the end of the period.
    put2(&r, 4);
    assert_int_equal(status(&r, 2), 0xf4);
    TRACE(&r, HIGH(2), LOW(1));
    assert_int_equal(status(&r, 2), 0x74);
    TRACE(&r, HIGH(4));
    assert_int_equal(status(&r, 2), 0xb4);
    TRACE(&r, HIGH(3), HIGH(2), LOW(1));
    gate(&r, false); // up at once
    assert_int_equal(out2(&r), 1);
    TRACE(&r, HIGH(1), HIGH(1));
    put2(&r, 2);
    TRACE(&r, HIGH(1));
    assert_int_equal(status(&r, 2), 0xf4);
    gate(&r, true); // reloads
    TRACE(&r, HIGH(2), LOW(1), HIGH(2));
    ticks(&r, 1000001); // many periods later
    assert_int_equal(out2(&r), 0);
    put2(&r, 1); // no such period
    TRACE(&r, HIGH(2), LOW(1), HIGH(2));
}

static void mode3_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xbe); // mode 7 is mode 3
    put2(&r, 4);
    TRACE(&r, HIGH(4), HIGH(2), LOW(4), LOW(2), HIGH(4));
    assert_int_equal(status(&r, 2), 0xbe); // and reads back as it was written
    put2(&r, 5);                           // waits for the end of the half cycle
    TRACE(&r, HIGH(2), LOW(4), LOW(2));
    TRACE(&r, HIGH(4), HIGH(2), HIGH(0), LOW(4), LOW(2), HIGH(4));
    ticks(&r, 5 * 1000 + 3);
    assert_int_equal(out2(&r), 0);
    gate(&r, false);
    assert_int_equal(out2(&r), 1);
    ticks(&r, 5);
    assert_int_equal(pit_count(&r, 2), 4);
    gate(&r, true);
    TRACE(&r, HIGH(4), HIGH(2), HIGH(0), LOW(4));
    put2(&r, 6);
    gate(&r, false);
    gate(&r, true); // takes the new count at once
    TRACE(&r, HIGH(6), HIGH(4), HIGH(2), LOW(6));
}

static void mode4_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xb8);
    put2(&r, 2);
    TRACE(&r, HIGH(2), HIGH(1), LOW(0), HIGH(0xffff));
    put2(&r, 3);
    TRACE(&r, HIGH(3));
    pit_out(&r, 2, 2); // half a count changes nothing
    TRACE(&r, HIGH(2));
    pit_out(&r, 2, 0);
    TRACE(&r, HIGH(2));
    gate(&r, false);
    TRACE(&r, HIGH(2));
    gate(&r, true);
    TRACE(&r, HIGH(1), LOW(0), HIGH(0xffff));
    ticks(&r, 0xffff);
    assert_int_equal(pit_count(&r, 2), 0); // no second strobe
    assert_int_equal(out2(&r), 1);
}

static void mode5_trace(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0xba);
    gate(&r, false);
    gate(&r, true); // too early
    put2(&r, 2);
    ticks(&r, 10);
    assert_int_equal(status(&r, 2), 0xfa);
    gate(&r, false);
    gate(&r, true);
    TRACE(&r, HIGH(2), HIGH(1));
    gate(&r, false);
    gate(&r, true); // again from the beginning
    TRACE(&r, HIGH(2), HIGH(1), LOW(0), HIGH(0xffff));
}

static void bytes_and_latches(void **state)
{
    struct rig r;

    (void)state;
    trace_start(&r, 0x94); // low byte only, mode 2
    pit_out(&r, 2, 200);
    ticks(&r, 11);
    pit_out(&r, 3, 0x80);
    ticks(&r, 1);
    assert_int_equal(pit_in(&r, 2), 190); // latched
    assert_int_equal(pit_in(&r, 2), 189);
    pit_out(&r, 3, 0xa4); // high byte only
    pit_out(&r, 2, 0x12);
    ticks(&r, 2);
    assert_int_equal(pit_in(&r, 2), 0x11);
    assert_int_equal(pit_in(&r, 2), 0x11);
    pit_out(&r, 3, 0xb4);
    put2(&r, 0x1234);
    ticks(&r, 1);
    assert_int_equal(pit_in(&r, 2), 0x34);
    pit_out(&r, 3, 0x80); // in the middle of a reading: begins anew
    ticks(&r, 1);
    pit_out(&r, 3, 0x80); // the first latch stays
    assert_int_equal(pit_in(&r, 2), 0x34);
    assert_int_equal(pit_in(&r, 2), 0x12);
    assert_int_equal(pit_in(&r, 2), 0x33);
    assert_int_equal(pit_in(&r, 2), 0x12);
    // Several channels at once; the status comes first.
    pit_out(&r, 3, 0x16);
    pit_out(&r, 0, 100);
    pit_out(&r, 3, 0x54);
    pit_out(&r, 1, 50);
    ticks(&r, 3);
    pit_out(&r, 3, 0xce);
    ticks(&r, 5);
    assert_int_equal(pit_in(&r, 0), 0x96);
    assert_int_equal(pit_in(&r, 0), 96);
    assert_int_equal(pit_in(&r, 1), 0x94);
    assert_int_equal(pit_in(&r, 1), 48);
    assert_int_equal(pit_in(&r, 2), 0xb4);
    assert_int_equal(pit_in(&r, 2), 0x30);
    assert_int_equal(pit_in(&r, 2), 0x12);
    pit_out(&r, 3, 0xd8); // a latched channel that is programmed anew forgets it
    pit_out(&r, 3, 0xb4);
    put2(&r, 0x100);
    ticks(&r, 1);
    assert_int_equal(pit_in(&r, 2), 0x00);
    // BCD
    pit_out(&r, 3, 0xb1);
    put2(&r, 0);
    ticks(&r, 2);
    assert_int_equal(pit_count(&r, 2), 0x9999);
    put2(&r, 0x0100);
    TRACE(&r, LOW(0x100), LOW(0x99));
    ticks(&r, 99);
    assert_int_equal(out2(&r), 1);
    TRACE(&r, HIGH(0x9999));
}

// The interrupt of channel 0 follows the new count from the end of the old period on.
static void interrupt_times(void **state)
{
    struct rig r;

    (void)state;
    pit_start(&r);
    pit_out(&r, 3, 0x34);
    pit_out(&r, 0, 100);
    pit_out(&r, 0, 0);
    r.irq.rises = 0;
    ticks(&r, 100);
    assert_int_equal(r.irq.rises, 0);
    ticks(&r, 1);
    assert_int_equal(r.irq.rises, 1);
    ticks(&r, 50);
    pit_out(&r, 0, 200);
    pit_out(&r, 0, 0);
    ticks(&r, 49);
    assert_int_equal(r.irq.rises, 1);
    ticks(&r, 1);
    assert_int_equal(r.irq.rises, 2);
    ticks(&r, 199);
    assert_int_equal(r.irq.rises, 2);
    ticks(&r, 1);
    assert_int_equal(r.irq.rises, 3);
    // Mode 3: after the half cycle.
    pit_out(&r, 3, 0x36);
    pit_out(&r, 0, 100);
    pit_out(&r, 0, 0);
    ticks(&r, 101);
    assert_int_equal(r.irq.rises, 4);
    pit_out(&r, 0, 200);
    pit_out(&r, 0, 0);
    ticks(&r, 149);
    assert_int_equal(r.irq.rises, 4);
    ticks(&r, 1);
    assert_int_equal(r.irq.rises, 5);
    ticks(&r, 100); // a mode that begins with the output high, from the low half: an edge
    pit_out(&r, 3, 0x34);
    assert_int_equal(r.irq.rises, 6);
    // An edge that the host was too late for comes before what is written.
    pit_out(&r, 3, 0x30);
    pit_out(&r, 0, 10);
    pit_out(&r, 0, 0);
    r.t.now += MS;
    pit_out(&r, 3, 0x30);
    assert_int_equal(r.irq.rises, 7);
    assert_false(r.irq.level);
    // Nobody gets an interrupt every two microseconds.
    pit_out(&r, 3, 0x14);
    pit_out(&r, 0, 2);
    r.irq.rises = 0;
    rig_run(&r.t, 10 * MS);
    assert_in_range(r.irq.rises, 100, 1001);
}

// How kernels measure a processor: however late the reader, count and output tell the time.
static void calibration(void **state)
{
    struct rig r;
    u64 seed = 5, begun;

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        trace_start(&r, 0xb0);
        put2(&r, 59659); // 50 ms
        begun = r.t.now;
        while (!out2(&r))
            rig_advance(&r.t, 1 + rig_random(&seed) % 20000);
        assert_in_range(r.t.now - begun, 50 * MS, 50 * MS + 22 * US);
        put2(&r, 0);
        begun = r.t.now;
        rig_advance(&r.t, rig_random(&seed) % (54 * MS));
        u64 told = (65536 - pit_count(&r, 2)) % 65536 * S / I8254_HZ;
        assert_in_range(told + 2 * US, r.t.now - begun, r.t.now - begun + 2 * US);
    }
}

// Whatever is written, nothing divides by zero or hangs.
static void pit_any_write(void **state)
{
    struct rig r;
    u64 seed = 1;

    (void)state;
    pit_start(&r);
    for (unsigned i = 0; i < 100000; i++) {
        u32 v = rig_random(&seed) >> 1;
        if (v & 0x10000)
            pit_in(&r, v >> 8 & 3);
        else if (v & 0x20000)
            i8254_port61_ops.write(&r.pit, 0, 1, v & 0xff);
        else
            pit_out(&r, v >> 8 & 3, (u8)v);
        rig_advance(&r.t, v >> 20);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pit_rate),      cmocka_unit_test(pit_one_shot),      cmocka_unit_test(pit_square_and_gate),
        cmocka_unit_test(pit_read_back), cmocka_unit_test(mode0_trace),       cmocka_unit_test(mode1_trace),
        cmocka_unit_test(mode2_trace),   cmocka_unit_test(mode3_trace),       cmocka_unit_test(mode4_trace),
        cmocka_unit_test(mode5_trace),   cmocka_unit_test(bytes_and_latches), cmocka_unit_test(interrupt_times),
        cmocka_unit_test(calibration),   cmocka_unit_test(pit_any_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
