// The HPET on a clock that the test moves.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "dev/hpet.h"

#define MS 1000000ull

struct rig {
    u64 now;
    struct host host;
    struct clock clock;
    struct hpet h;
    unsigned rises[HPET_PINS + 2]; // the last two: legacy
    bool level[HPET_PINS + 2];
};

static u64 rig_now(void *host)
{
    return ((struct rig *)host)->now;
}

static const struct host_ops rig_host = {.now_ns = rig_now};

static void on_irq(void *sink, unsigned n, bool level)
{
    struct rig *r = sink;

    r->rises[n] += level && !r->level[n];
    r->level[n] = level;
}

static void start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->host = (struct host){.ops = &rig_host, .self = r};
    clock_init(&r->clock, &r->host);
    for (unsigned n = 0; n < HPET_PINS; n++)
        r->h.pin[n] = (struct irq_line){on_irq, r, n};
    r->h.legacy[0] = (struct irq_line){on_irq, r, HPET_PINS};
    r->h.legacy[1] = (struct irq_line){on_irq, r, HPET_PINS + 1};
    r->h.clock = &r->clock;
    assert_int_equal(hpet_init(&r->h), 0);
}

static void at(struct rig *r, u64 ns)
{
    r->now = ns;
    clock_run(&r->clock);
}

static u64 get(struct rig *r, u64 off)
{
    return hpet_ops.read(&r->h, off, 8);
}

static void put(struct rig *r, u64 off, u64 val)
{
    hpet_ops.write(&r->h, off, 8, val);
}

static void counting(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    assert_int_equal(get(&r, 0) >> 32, 10000000);
    assert_int_equal(get(&r, 0) & 0xffffffff, 0x8086a201);
    at(&r, MS);
    assert_int_equal(get(&r, 0xf0), 0); // stands
    put(&r, 0xf0, 1000);
    put(&r, 0x10, 1);
    at(&r, 2 * MS);
    assert_int_equal(get(&r, 0xf0), 101000);
    assert_int_equal(hpet_ops.read(&r.h, 0xf4, 4), 0);
    assert_int_equal(hpet_ops.read(&r.h, 0xf0, 4), 101000);
    assert_int_equal(hpet_ops.read(&r.h, 0xf2, 4), 0); // misaligned
    assert_int_equal(hpet_ops.read(&r.h, 0xf0, 1), 0);
    put(&r, 0xf0, 5); // not while it runs
    assert_int_equal(get(&r, 0xf0), 101000);
    put(&r, 0x10, 0);
    at(&r, 3 * MS);
    assert_int_equal(get(&r, 0xf0), 101000);
}

static void one_shot(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x10, 1);
    put(&r, 0x100, 2 << 9 | 4); // edge, pin 2
    put(&r, 0x108, 200000);     // 2 ms
    at(&r, 2 * MS - 10);
    assert_int_equal(r.rises[2], 0);
    at(&r, 2 * MS);
    assert_int_equal(r.rises[2], 1);
    assert_false(r.level[2]);
    at(&r, 100 * MS);
    assert_int_equal(r.rises[2], 1);
    // A 32-bit comparator behind the counter matches after a turn.
    put(&r, 0x100, 2 << 9 | 4 | 0x100);
    put(&r, 0x108, 0x100000005ull);
    assert_int_equal(get(&r, 0x108), 5);
    at(&r, (1ull << 32) * 10 + 40);
    assert_int_equal(r.rises[2], 1);
    at(&r, (1ull << 32) * 10 + 50);
    assert_int_equal(r.rises[2], 2);
    // Level: until the status bit is cleared.
    put(&r, 0x120, 2 << 9 | 4 | 2);
    put(&r, 0x128, get(&r, 0xf0) + 100);
    at(&r, r.now + 1000);
    assert_int_equal(get(&r, 0x20), 2);
    assert_true(r.level[2]);
    put(&r, 0x20, 1); // another timer's
    assert_true(r.level[2]);
    put(&r, 0x20, 2);
    assert_false(r.level[2]);
    assert_int_equal(get(&r, 0x20), 0);
}

static void periodic(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x10, 3);             // with legacy replacement
    put(&r, 0x100, 0x40 | 8 | 4); // set value, periodic
    put(&r, 0x108, 100000);       // first match at 1 ms
    put(&r, 0x108, 50000);        // then every 0.5 ms
    for (unsigned n = 0; n < 10; n++)
        at(&r, MS + n * MS / 2);
    assert_int_equal(r.rises[HPET_PINS], 10);
    assert_int_equal(r.rises[2], 0);
    at(&r, 100 * MS + MS / 4); // a starved host: one for all that were missed
    assert_int_equal(r.rises[HPET_PINS], 11);
    at(&r, 100 * MS + MS / 2);
    assert_int_equal(r.rises[HPET_PINS], 12);
    put(&r, 0x10, 0);
    at(&r, 200 * MS);
    assert_int_equal(r.rises[HPET_PINS], 12);
    hpet_reset(&r.h);
    assert_false(hpet_legacy(&r.h));
    assert_int_equal(get(&r, 0x108), ~0ull);
}

// Interrupt status goes away by writing ones to it, and by nothing else.
static void level_status(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x10, 1);
    put(&r, 0x120, 2 << 9 | 4 | 2);
    put(&r, 0x128, 1000);
    at(&r, MS);
    assert_true(r.level[2]);
    put(&r, 0x120, 2 << 9 | 2); // interrupt off: the wire falls, the bit stays
    assert_false(r.level[2]);
    assert_int_equal(get(&r, 0x20), 2);
    put(&r, 0x120, 2 << 9 | 4 | 2);
    assert_true(r.level[2]);
    put(&r, 0x10, 0); // no interrupts from a counter that stands
    assert_false(r.level[2]);
    assert_int_equal(get(&r, 0x20), 2);
    put(&r, 0x10, 1);
    assert_true(r.level[2]);
    hpet_ops.write(&r.h, 0x20, 4, 2);
    assert_false(r.level[2]);
    assert_int_equal(get(&r, 0x20), 0);
    // The bit is set without an interrupt, too, and nobody wakes up for it again.
    put(&r, 0x120, 2 << 9 | 2);
    put(&r, 0x128, 200000);
    at(&r, 3 * MS);
    assert_int_equal(get(&r, 0x20), 2);
    assert_int_equal(r.clock.next_deadline, CLOCK_NEVER);
    put(&r, 0x120, 2 << 9 | 4 | 2);
    assert_true(r.level[2]);
    // With legacy replacement it moves to the other wire.
    put(&r, 0x10, 3);
    assert_false(r.level[2]);
    assert_true(r.level[HPET_PINS + 1]);
    hpet_reset(&r.h);
    assert_false(r.level[HPET_PINS + 1]);
    assert_int_equal(get(&r, 0x20), 0);
    // The bit is there although the clock's timer comes too late.
    put(&r, 0x10, 1);
    put(&r, 0x120, 2 << 9 | 4 | 2);
    put(&r, 0x128, 1000);
    r.now += MS;
    assert_int_equal(get(&r, 0x20), 2);
    assert_true(r.level[2]);
    hpet_reset(&r.h);
    assert_false(r.level[2]);
}

static void routes(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    for (unsigned n = 0; n < 3; n++) {
        u64 config = 0x100 + n * 0x20, pins = get(&r, config) >> 32;
        assert_int_equal(pins, 4);
        assert_int_equal(get(&r, config) & 0x8000, 0); // no messages
        put(&r, config, ~0ull);
        assert_int_equal(get(&r, config), pins << 32 | 0x13e);
        for (unsigned pin = 0; pin < 32; pin++) {
            put(&r, config, pin << 9);
            assert_true(pin == 2 || (get(&r, config) >> 9 & 31) != pin || n || !pin);
        }
        put(&r, config, 2 << 9);
        assert_int_equal(get(&r, config) >> 9 & 31, 2);
        put(&r, config, 5 << 9);
        assert_int_equal(get(&r, config) >> 9 & 31, 2);
        put(&r, config + 0x10, ~0ull);
        assert_int_equal(get(&r, config + 0x10), 0);
    }
    // Before a route was chosen, interrupts go nowhere.
    hpet_reset(&r.h);
    put(&r, 0x10, 1);
    put(&r, 0x100, 4);
    put(&r, 0x108, 1000);
    at(&r, MS);
    for (unsigned n = 0; n < ARRAY_LEN(r.rises); n++)
        assert_int_equal(r.rises[n], 0);
}

// A 32-bit comparator matches again after every turn of the counter, to the tick, however late the host is.
static void turns(void **state)
{
    struct rig r;
    const u64 turn = (1ull << 32) * 10;

    (void)state;
    start(&r);
    put(&r, 0x10, 1);
    put(&r, 0x100, 2 << 9 | 4 | 0x100);
    put(&r, 0x108, 100);
    for (unsigned i = 0; i < 4; i++) {
        at(&r, i * turn + 999);
        assert_int_equal(r.rises[2], i);
        at(&r, i * turn + 1000 + i * MS);
        assert_int_equal(r.rises[2], i + 1);
    }
    // The whole counter turns, too.
    put(&r, 0x10, 0);
    put(&r, 0xf0, ~0ull - 9);
    put(&r, 0x10, 1);
    put(&r, 0x100, 2 << 9 | 4);
    put(&r, 0x108, 5);
    r.rises[2] = 0;
    at(&r, r.now + 90);
    assert_int_equal(get(&r, 0xf0), ~0ull);
    at(&r, r.now + 59);
    assert_int_equal(r.rises[2], 0);
    at(&r, r.now + 1);
    assert_int_equal(get(&r, 0xf0), 5);
    assert_int_equal(r.rises[2], 1);
}

static void periods(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    // By halves, each into the register that it is for.
    put(&r, 0x100, 2 << 9 | 0x40 | 8 | 4);
    hpet_ops.write(&r.h, 0x108, 4, 100000);
    put(&r, 0x100, 2 << 9 | 0x40 | 8 | 4);
    hpet_ops.write(&r.h, 0x10c, 4, 0);
    hpet_ops.write(&r.h, 0x108, 4, 30000);
    assert_int_equal(get(&r, 0x108), 100000);
    put(&r, 0x10, 1);
    for (unsigned i = 0; i < 100; i++) {
        at(&r, MS + i * 300000 - 1);
        assert_int_equal(r.rises[2], i);
        at(&r, MS + i * 300000);
        assert_int_equal(r.rises[2], i + 1);
    }
    // Switched off, the comparator goes on, but nobody wakes up for it.
    put(&r, 0x100, 2 << 9 | 8);
    assert_int_equal(r.clock.next_deadline, CLOCK_NEVER);
    r.now = 100 * MS + 299990;
    assert_int_equal(get(&r, 0x108), 10000000 + 30000);
    put(&r, 0x100, 2 << 9 | 8 | 4);
    r.rises[2] = 0;
    at(&r, 100 * MS + 300000);
    assert_int_equal(r.rises[2], 1);
    // The first value may lie further ahead than a period.
    put(&r, 0x100, 2 << 9 | 0x40 | 8 | 4);
    put(&r, 0x108, get(&r, 0xf0) + 500000);
    put(&r, 0x108, 10);
    r.rises[2] = 0;
    at(&r, r.now + 4 * MS);
    assert_int_equal(r.rises[2], 0);
    // A period that nobody could keep up with.
    for (unsigned i = 0; i < 100000; i++)
        at(&r, r.now + 200);
    assert_in_range(r.rises[2], 100, 2001);
}

// The counter tells the time to whoever reads it, however late.
static void calibration(void **state)
{
    struct rig r;
    u64 seed = 9;

    (void)state;
    start(&r);
    put(&r, 0x10, 1);
    put(&r, 0x100, 2 << 9 | 0x40 | 8 | 4);
    put(&r, 0x108, 100000);
    put(&r, 0x108, 100000);
    for (unsigned i = 0; i < 1000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        r.now += seed >> 38;
        if (seed >> 32 & 1)
            clock_run(&r.clock);
        assert_int_equal(get(&r, 0xf0), r.now / 10);
        assert_in_range(get(&r, 0x108) - r.now / 10, 1, 100000);
        if (!(seed >> 33 & 15))
            put(&r, 0x10, 3); // does not disturb it
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(counting), cmocka_unit_test(one_shot),
                                       cmocka_unit_test(periodic), cmocka_unit_test(level_status),
                                       cmocka_unit_test(routes),   cmocka_unit_test(turns),
                                       cmocka_unit_test(periods),  cmocka_unit_test(calibration)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
