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

// The divider's reset holds the clock; the first update comes half a second after it ends.
static void rtc_divider(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000); // 01:46:40
    r.t.now += 300 * MS;
    rtc_put(&r, 0x0a, 0x66);
    rtc_get(&r, 0x0c);
    r.t.now += 10 * S;
    assert_int_equal(rtc_get(&r, 0), 0x40);
    assert_int_equal(rtc_get(&r, 0x0c), 0); // neither updates nor periods
    assert_int_equal(rtc_get(&r, 0x0a), 0x66);
    rtc_put(&r, 0, 0x20);
    r.t.now += 123 * MS;
    rtc_put(&r, 0x0b, 0x12);
    rtc_put(&r, 0x0a, 0x20);
    r.irq.rises = 0;
    rig_run(&r.t, 500 * MS - 1);
    assert_int_equal(rtc_get(&r, 0x0a), 0xa0); // an update is near
    assert_int_equal(rtc_get(&r, 0), 0x20);
    assert_int_equal(r.irq.rises, 0);
    rig_run(&r.t, 1);
    assert_int_equal(r.irq.rises, 1);
    assert_int_equal(rtc_get(&r, 0), 0x21);
    // As kernels set it: both stop it, SET is released first.
    rtc_put(&r, 0x0b, 0x92);
    rtc_put(&r, 0x0a, 0x70);
    rtc_put(&r, 2, 0x30);
    r.t.now += 3 * S;
    rtc_put(&r, 0x0b, 0x02);
    r.t.now += 3 * S;
    assert_int_equal(rtc_get(&r, 0), 0x21);
    rtc_put(&r, 0x0a, 0x26);
    r.t.now += 499 * MS;
    assert_int_equal(rtc_get(&r, 0), 0x21);
    r.t.now += MS;
    expect_time(&r, 0x20010909, 0x013022, 1);
}

// Setting the time does not touch the divider: seconds end where they did.
static void rtc_phase(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000);
    r.t.now += 300 * MS;
    rtc_put(&r, 0x0b, 0x82);
    r.t.now += 5 * S + 200 * MS;
    rtc_put(&r, 0, 0x10);
    rtc_put(&r, 0x0b, 0x02);
    r.t.now += 500 * MS - 1;
    assert_int_equal(rtc_get(&r, 0), 0x10);
    r.t.now += 1;
    assert_int_equal(rtc_get(&r, 0), 0x11);
    r.t.now += 600 * MS;
    rtc_get(&r, 0x0c);
    rtc_put(&r, 0, 0x30); // without SET
    assert_int_equal(rtc_get(&r, 0x0c) & 0x10, 0);
    r.t.now += 400 * MS;
    assert_int_equal(rtc_get(&r, 0), 0x31);
    assert_int_equal(rtc_get(&r, 0x0c) & 0x10, 0x10);
}

static void set_alarm(struct rig *r, u8 hour, u8 minute, u8 second)
{
    rtc_put(r, 5, hour);
    rtc_put(r, 3, minute);
    rtc_put(r, 1, second);
    rtc_get(r, 0x0c);
    r->irq.rises = 0;
}

static void rtc_alarms(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000); // 01:46:40
    // A host that comes late by seconds: with the interrupt and without.
    set_alarm(&r, 0x01, 0x46, 0x43);
    rtc_put(&r, 0x0b, 0x22);
    rig_advance(&r.t, 20 * S);
    assert_int_equal(r.irq.rises, 1);
    assert_int_equal(rtc_get(&r, 0x0c) & 0xa0, 0xa0);
    rtc_put(&r, 0x0b, 0x02);
    set_alarm(&r, 0x01, 0x47, 0x05);
    r.t.now += 20 * S;
    rtc_put(&r, 1, 0x30); // another alarm does not undo that
    assert_int_equal(rtc_get(&r, 0x0c) & 0xa0, 0x20);
    // Nothing happens until it is time, and then on the second.
    rtc_put(&r, 0x0b, 0x22);
    set_alarm(&r, 0x00, 0xff, 0x00); // midnight, 22:12:40 away
    rig_run(&r.t, (22 * 3600 + 12 * 60 + 40) * S - 1);
    assert_int_equal(r.irq.rises, 0);
    assert_int_equal(r.t.clock.next_deadline, r.t.now + 1 - 5 * S);
    rig_run(&r.t, 1);
    assert_int_equal(r.irq.rises, 1);
    for (unsigned i = 0; i < 59; i++) { // every minute of that hour
        rtc_get(&r, 0x0c);
        rig_run(&r.t, 60 * S);
        assert_int_equal(r.irq.rises, i + 2);
    }
    rtc_get(&r, 0x0c);
    rig_run(&r.t, 60 * S);
    assert_int_equal(r.irq.rises, 60);
    // A day without anybody looking has every time in it.
    set_alarm(&r, 0x23, 0x59, 0x59);
    rig_advance(&r.t, 100 * 3600 * S);
    assert_int_equal(r.irq.rises, 1);
    // No such time.
    set_alarm(&r, 0x24, 0xff, 0xff);
    rig_advance(&r.t, 100 * 3600 * S);
    set_alarm(&r, 0xff, 0xff, 0x0a);
    rig_advance(&r.t, 100 * 3600 * S);
    assert_int_equal(r.irq.rises, 0);
    // 12 hours: 11 in the evening.
    rtc_put(&r, 0x0b, 0x20);
    set_alarm(&r, 0x91, 0x00, 0x00);
    rig_run(&r.t, 24 * 3600 * S);
    assert_int_equal(r.irq.rises, 1);
    rtc_get(&r, 0x0c);
    assert_int_equal(rtc_get(&r, 4), 0x81);
    // Not while the clock is being set.
    rtc_put(&r, 0x0b, 0xa2);
    set_alarm(&r, 0xff, 0xff, 0xff);
    rig_advance(&r.t, 10 * S);
    assert_int_equal(r.irq.rises, 0);
}

static void rtc_uip(void **state)
{
    struct rig r;

    (void)state;
    rtc_start(&r, 1000000000);
    r.t.now += S - 244141;
    assert_int_equal(rtc_get(&r, 0x0a) & 0x80, 0);
    r.t.now += 1;
    assert_int_equal(rtc_get(&r, 0x0a) & 0x80, 0x80);
    r.t.now += 244139;
    assert_int_equal(rtc_get(&r, 0x0a) & 0x80, 0x80);
    assert_int_equal(rtc_get(&r, 0), 0x40);
    r.t.now += 1;
    assert_int_equal(rtc_get(&r, 0x0a) & 0x80, 0);
    assert_int_equal(rtc_get(&r, 0), 0x41);
    r.t.now += S - 1000;
    rtc_put(&r, 0x0b, 0x82);
    assert_int_equal(rtc_get(&r, 0x0a) & 0x80, 0);
}

// Every rate, over some seconds, to the interrupt.
static void rtc_periods(void **state)
{
    static const unsigned hz[16] = {0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2};
    struct rig r;

    (void)state;
    for (unsigned rate = 0; rate < 16; rate++) {
        u64 end;
        rtc_start(&r, 1000000000);
        rtc_put(&r, 0x0a, (u8)(0x20 | rate));
        rtc_put(&r, 0x0b, 0x42);
        rtc_get(&r, 0x0c);
        for (end = r.t.now + 30 * S; clock_host_deadline(&r.t.clock) <= end;) {
            r.t.now = clock_host_deadline(&r.t.clock);
            clock_run(&r.t.clock);
            assert_int_equal(rtc_get(&r, 0x0c) & 0xc0, 0xc0);
        }
        assert_int_equal(r.irq.rises, hz[rate] * 30);
    }
}

// Time by counting interrupts: on a host that is late, what is missing comes faster afterwards.
static void rtc_slew(void **state)
{
    struct rig r;
    u64 seed = 11;

    (void)state;
    for (unsigned slew = 0; slew < 2; slew++) {
        rtc_start(&r, 1000000000);
        r.rtc.slew = slew;
        rtc_put(&r, 0x0a, 0x26);
        rtc_put(&r, 0x0b, 0x42);
        rtc_get(&r, 0x0c);
        rig_advance(&r.t, 5 * S);
        assert_int_equal(r.irq.rises, 1);
        rtc_get(&r, 0x0c);
        assert_int_equal(r.rtc.owed, slew ? 5 * 1024 - 1 : 0);
        for (u64 end = r.t.now + 6 * S; r.t.now < end;) { // and a guest that takes its time
            rig_advance(&r.t, rig_random(&seed) % 300 * US);
            if (r.irq.level)
                rtc_get(&r, 0x0c);
        }
        if (slew)
            assert_in_range(r.irq.rises, 11 * 1024 - 2, 11 * 1024 + 1);
        else
            assert_in_range(r.irq.rises, 6 * 1024 - 2, 6 * 1024 + 2);
        // Unread ones are made up for, too, by another rate, and forgotten when nobody wants them any more.
        rig_run(&r.t, S);
        assert_in_range(r.rtc.owed, slew ? 1022 : 0, slew ? 1024 : 0);
        rtc_put(&r, 0x0a, 0x2a);
        assert_in_range(r.rtc.owed, slew ? 63 : 0, slew ? 64 : 0);
        rtc_put(&r, 0x0b, 0x02);
        assert_int_equal(r.rtc.owed, 0);
    }
}

static void rtc_formats(void **state)
{
    static const struct {
        u8 b, hour[4]; // at 0, 11, 12 and 23 o'clock
    } want[] = {{0x02, {0x00, 0x11, 0x12, 0x23}},
                {0x06, {0, 11, 12, 23}},
                {0x00, {0x12, 0x11, 0x92, 0x91}},
                {0x04, {12, 11, 0x8c, 0x8b}}};
    static const u8 hours[] = {0, 11, 12, 23};
    struct rig r;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        for (unsigned h = 0; h < 4; h++) {
            rtc_start(&r, 86400 * 365 + 3600 * hours[h]);
            rtc_put(&r, 0x0b, want[i].b);
            assert_int_equal(rtc_get(&r, 4), want[i].hour[h]);
            rtc_put(&r, 4, want[i].hour[h]); // and back
            rtc_put(&r, 0x0b, 0x06);
            assert_int_equal(rtc_get(&r, 4), hours[h]);
            assert_int_equal(rtc_get(&r, 9), 71);
            assert_int_equal(rtc_get(&r, 0x32), 19); // the century follows the format
        }
    }
    rtc_put(&r, 0x0b, 0x86);
    rtc_put(&r, 0x32, 21);
    rtc_put(&r, 9, 34);
    rtc_put(&r, 0x0b, 0x06);
    rtc_put(&r, 0x0b, 0x02);
    assert_int_equal(rtc_get(&r, 0x32) << 8 | rtc_get(&r, 9), 0x2134);
    rtc_put(&r, 0x0b, 0x5a);
    mc146818_reset(&r.rtc);
    assert_int_equal(rtc_get(&r, 0x0b), 0x02); // nor a square wave
}

static void rtc_leap_years(void **state)
{
    static const struct {
        u32 year, next;
    } want[] = {{0x1900, 0x0301}, {0x1970, 0x0301}, {0x1996, 0x0229},
                {0x2000, 0x0229}, {0x2099, 0x0301}, {0x2100, 0x0301}};
    struct rig r;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        rtc_start(&r, 0);
        rtc_put(&r, 0x0b, 0x82);
        rtc_put(&r, 0x32, (u8)(want[i].year >> 8));
        rtc_put(&r, 9, (u8)want[i].year);
        rtc_put(&r, 8, 0x02);
        rtc_put(&r, 7, 0x28);
        rtc_put(&r, 4, 0x23);
        rtc_put(&r, 2, 0x59);
        rtc_put(&r, 0, 0x59);
        rtc_put(&r, 0x0b, 0x02);
        r.t.now += S;
        assert_int_equal(rtc_get(&r, 8) << 8 | rtc_get(&r, 7), want[i].next);
        assert_int_equal(rtc_get(&r, 0x32) << 8 | rtc_get(&r, 9), want[i].year);
    }
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
        cmocka_unit_test(rtc_time),       cmocka_unit_test(rtc_set),       cmocka_unit_test(rtc_interrupts),
        cmocka_unit_test(rtc_update_bit), cmocka_unit_test(rtc_memory),    cmocka_unit_test(rtc_divider),
        cmocka_unit_test(rtc_phase),      cmocka_unit_test(rtc_alarms),    cmocka_unit_test(rtc_uip),
        cmocka_unit_test(rtc_periods),    cmocka_unit_test(rtc_slew),      cmocka_unit_test(rtc_formats),
        cmocka_unit_test(rtc_leap_years), cmocka_unit_test(rtc_any_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
