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
        cmocka_unit_test(pit_rate),      cmocka_unit_test(pit_one_shot),  cmocka_unit_test(pit_square_and_gate),
        cmocka_unit_test(pit_read_back), cmocka_unit_test(pit_any_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
