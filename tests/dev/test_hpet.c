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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(counting), cmocka_unit_test(one_shot),
                                       cmocka_unit_test(periodic)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
