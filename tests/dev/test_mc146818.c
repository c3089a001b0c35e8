// The MC146818 on a clock that the test moves.
#include "dev/mc146818.h"

#include "dev/rig.h"

struct rig {
    struct rig_clock t;
    struct mc146818 rtc;
    struct rig_wire irq;
};

static void rtc_start(struct rig *r, i64 utc)
{
    memset(r, 0, sizeof(*r));
    rig_start(&r->t);
    r->rtc.irq = rig_line(&r->irq);
    r->rtc.clock = &r->t.clock;
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
    r.t.now += S;
    expect_time(&r, 0x20000301, 0x000000, 4);
    rtc_start(&r, 4102444799); // 2099-12-31 23:59:59, a Thursday
    expect_time(&r, 0x20991231, 0x235959, 5);
    r.t.now += S;
    expect_time(&r, 0x21000101, 0x000000, 6);
    rtc_put(&r, 0x0b, 0x00); // 12 hours, BCD
    assert_int_equal(rtc_get(&r, 4), 0x12);
    r.t.now += 13 * 3600 * S;
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
    r.t.now += 10 * S;
    assert_int_equal(rtc_get(&r, 0), 0x50); // frozen
    rtc_put(&r, 0x0b, 0x02);
    r.t.now += 9 * S;
    expect_time(&r, 0x19991231, 0x235959, 6);
    r.t.now += S;
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
    r.t.now += S + MS;
    assert_int_equal(rtc_get(&r, 0x0c) & 0x10, 0x10); // the flag comes without being enabled
    assert_int_equal(rtc_get(&r, 0x0c) & 0x90, 0);
    rtc_put(&r, 0x0b, 0x12);
    rig_advance(&r.t, S);
    assert_true(r.irq.level);
    assert_int_equal(rtc_get(&r, 0x0c) & 0x90, 0x90);
    assert_false(r.irq.level);
    rtc_put(&r, 0x0a, 0x26); // 1024 Hz
    rtc_put(&r, 0x0b, 0x42);
    rtc_get(&r, 0x0c);
    r.irq.rises = 0;
    for (unsigned i = 0; i < 100; i++) {
        rig_advance(&r.t, 976563);
        rtc_get(&r, 0x0c);
    }
    assert_in_range(r.irq.rises, 99, 100);
    rtc_put(&r, 0x0b, 0x22); // alarm in any hour and minute, at second 30
    rtc_put(&r, 5, 0xff);
    rtc_put(&r, 3, 0xff);
    rtc_put(&r, 1, 0x30);
    rtc_get(&r, 0x0c);
    r.irq.rises = 0;
    for (unsigned i = 0; i < 120; i++) {
        rig_advance(&r.t, S);
        if (r.irq.level) {
            assert_int_equal(rtc_get(&r, 0), 0x30);
            rtc_get(&r, 0x0c);
        }
    }
    assert_int_equal(r.irq.rises, 2);
}

static void rtc_update_bit(void **state)
{
    struct rig r;
    unsigned seen = 0;

    (void)state;
    rtc_start(&r, 1000000000);
    for (unsigned i = 0; i < 10000; i++) {
        r.t.now += S / 10000;
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
        u32 v = rig_random(&seed) >> 1;
        if (v & 0x10000)
            rtc_get(&r, (u8)(v >> 8));
        else
            rtc_put(&r, (u8)(v >> 8 & (v & 0x20000 ? 0xff : 0x0f)), (u8)v);
        rig_advance(&r.t, (u64)(v >> 20) << 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rtc_time),       cmocka_unit_test(rtc_set),    cmocka_unit_test(rtc_interrupts),
        cmocka_unit_test(rtc_update_bit), cmocka_unit_test(rtc_memory), cmocka_unit_test(rtc_any_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
