// Virtual time and timers, in real and in icount mode.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/fake_host.h"

static struct fake_host host;
static struct clock c;

struct timer {
    struct clock_timer t;
    char name;
    u64 period; // nonzero: re-arms itself
    struct timer *other;
    u64 other_deadline; // for `other`
};

static char fired[4096];
static u64 fired_at[4096];
static unsigned fires;

static void on_fire(void *self, u64 now_ns)
{
    struct timer *t = self;
    assert_true(fires < sizeof(fired) - 1);
    assert_true(t->t.deadline_ns == CLOCK_NEVER); // disarmed before the call
    fired_at[fires] = now_ns;
    fired[fires++] = t->name;
    fired[fires] = '\0';
    if (t->other) {
        if (t->other_deadline == CLOCK_NEVER)
            clock_disarm(&c, &t->other->t);
        else
            clock_arm(&c, &t->other->t, t->other_deadline);
    }
    if (t->period)
        clock_arm(&c, &t->t, now_ns + t->period);
}

static struct timer a = {.name = 'a'}, b = {.name = 'b'}, d = {.name = 'd'};

static int setup(void **state)
{
    (void)state;
    fake_host_init(&host);
    host.now_ns = 5000;
    clock_init(&c, &host.host);
    fires = 0;
    fired[0] = '\0';
    struct timer *all[] = {&a, &b, &d};
    for (unsigned i = 0; i < 3; i++) {
        *all[i] = (struct timer){.t = {.fire = on_fire, .dev = all[i], .deadline_ns = 7}, .name = "abd"[i]};
        assert_int_equal(clock_add_timer(&c, &all[i]->t), 0);
        assert_true(all[i]->t.deadline_ns == CLOCK_NEVER);
    }
    return 0;
}

static void test_time(void **state)
{
    (void)state;
    assert_int_equal(clock_now(&c), 0);
    host.now_ns += 123;
    assert_int_equal(clock_now(&c), 123);
    clock_stop(&c);
    host.now_ns += 1000;
    assert_int_equal(clock_now(&c), 123);
    clock_stop(&c); // twice is once
    host.now_ns += 1000;
    clock_start(&c);
    assert_int_equal(clock_now(&c), 123);
    clock_start(&c);
    host.now_ns += 7;
    assert_int_equal(clock_now(&c), 130);
}

static void test_order(void **state)
{
    (void)state;
    clock_arm(&c, &d.t, 10);
    clock_arm(&c, &a.t, 30);
    clock_arm(&c, &b.t, 20);
    assert_int_equal(c.next_deadline, 10);
    host.now_ns += 9;
    assert_false(clock_due(&c));
    clock_run(&c);
    assert_int_equal(fires, 0);
    host.now_ns += 1;
    assert_true(clock_due(&c));
    clock_run(&c);
    assert_string_equal(fired, "d");
    assert_int_equal(c.next_deadline, 20);
    host.now_ns += 100;
    clock_run(&c);
    assert_string_equal(fired, "dba");
    assert_int_equal(fired_at[2], 110);
    assert_true(c.next_deadline == CLOCK_NEVER);
    clock_run(&c);
    assert_int_equal(fires, 3);
}

static void test_equal_deadlines(void **state)
{
    (void)state;
    clock_arm(&c, &d.t, 10);
    clock_arm(&c, &b.t, 10);
    clock_arm(&c, &a.t, 10);
    host.now_ns += 10;
    clock_run(&c);
    assert_string_equal(fired, "abd");
}

static void test_rearm_and_disarm(void **state)
{
    (void)state;
    clock_arm(&c, &a.t, 10);
    clock_arm(&c, &a.t, 50);
    assert_int_equal(c.next_deadline, 50);
    clock_arm(&c, &a.t, 5);
    assert_int_equal(c.next_deadline, 5);
    clock_disarm(&c, &a.t);
    assert_true(c.next_deadline == CLOCK_NEVER);
    clock_disarm(&c, &a.t);
    host.now_ns += 100;
    clock_run(&c);
    assert_int_equal(fires, 0);
}

// Callbacks that change other timers: one that was due is taken away, one that was not is made due.
static void test_callback_changes_others(void **state)
{
    (void)state;
    clock_arm(&c, &a.t, 10);
    clock_arm(&c, &b.t, 20);
    a.other = &b;
    a.other_deadline = CLOCK_NEVER;
    host.now_ns += 30;
    clock_run(&c);
    assert_string_equal(fired, "a");
    b.other = &d;
    b.other_deadline = 25; // in the past already
    clock_arm(&c, &b.t, 31);
    host.now_ns += 1;
    clock_run(&c);
    assert_string_equal(fired, "abd");
}

static void test_periodic(void **state)
{
    (void)state;
    a.period = 10;
    clock_arm(&c, &a.t, 10);
    for (unsigned i = 0; i < 5; i++) {
        host.now_ns += 10;
        clock_run(&c);
        assert_int_equal(fires, i + 1);
    }
    assert_int_equal(c.next_deadline, 60);
}

static void always_due(void *self, u64 now_ns)
{
    struct timer *t = self;
    fires++;
    clock_arm(&c, &t->t, now_ns);
}

static void test_always_due_does_not_hang(void **state)
{
    (void)state;
    a.t.fire = always_due;
    clock_arm(&c, &a.t, 0);
    clock_run(&c);
    assert_int_equal(fires, CLOCK_MAX_FIRES);
    assert_true(clock_due(&c)); // still, so nobody sleeps
}

static void test_host_deadline(void **state)
{
    (void)state;
    assert_true(clock_host_deadline(&c) == CLOCK_NEVER);
    host.now_ns += 50;
    clock_stop(&c);
    host.now_ns += 1000;
    clock_start(&c);
    clock_arm(&c, &a.t, 60);
    assert_int_equal(clock_host_deadline(&c), host.now_ns + 10);
    clock_stop(&c);
    assert_true(clock_host_deadline(&c) == CLOCK_NEVER);
    clock_start(&c);
    clock_arm(&c, &a.t, CLOCK_NEVER - 1); // past the end of the host's time
    assert_true(clock_host_deadline(&c) == CLOCK_NEVER);
}

static u64 insns;
static unsigned nearer;

static void on_nearer(void *owner)
{
    assert_ptr_equal(owner, &insns);
    nearer++;
}

static void test_icount(void **state)
{
    (void)state;
    host.now_ns += 40;
    clock_use_icount(&c, 10, 3, 777);
    assert_int_equal(clock_utc(&c), 777);
    assert_int_equal(clock_now(&c), 0); // begins anew
    assert_true(clock_insns_left(&c) == CLOCK_NEVER);
    assert_true(clock_idle_ns(&c) == CLOCK_NEVER);
    insns = 3;
    assert_int_equal(clock_now(&c), 0); // no processor yet
    c.insns = &insns;
    host.now_ns += 1000; // no longer of any interest
    assert_int_equal(clock_now(&c), 10);
    insns = 4;
    assert_int_equal(clock_now(&c), 13);
    insns = 3ull << 60; // the product does not overflow on the way
    assert_true(clock_now(&c) == 10ull << 60);
    insns = 3;
    clock_arm(&c, &a.t, 20);
    assert_true(clock_host_deadline(&c) == CLOCK_NEVER);
    assert_false(clock_due(&c));
    assert_int_equal(clock_idle_ns(&c), 10);
    clock_skip(&c, 4);
    assert_int_equal(clock_now(&c), 14);
    clock_skip(&c, 6);
    assert_true(clock_due(&c));
    assert_int_equal(clock_idle_ns(&c), 0);
    assert_int_equal(clock_insns_left(&c), 0);
    clock_run(&c);
    assert_string_equal(fired, "a");
    insns = 6;
    assert_int_equal(clock_now(&c), 30);
}

// The number of instructions to a deadline is exact: one less is too early, whatever the fraction.
static void test_icount_left(void **state)
{
    static const u32 fraction[][2] = {{1, 1}, {8, 1}, {10, 3}, {3, 10}, {1, 7}, {4294967295u, 4294967294u}};

    (void)state;
    c.insns = &insns;
    for (unsigned f = 0; f < 6; f++) {
        clock_use_icount(&c, fraction[f][0], fraction[f][1], 0);
        clock_skip(&c, 5);
        for (u64 deadline = 0; deadline < 200; deadline++) {
            insns = 0;
            clock_arm(&c, &a.t, deadline);
            insns = clock_insns_left(&c);
            assert_true(clock_due(&c));
            assert_int_equal(clock_insns_left(&c), 0);
            if (!insns)
                continue;
            insns--;
            assert_false(clock_due(&c));
            assert_int_equal(clock_insns_left(&c), 1);
        }
    }
    clock_use_icount(&c, 1, 4000000000u, 0);
    clock_arm(&c, &a.t, CLOCK_NEVER - 1); // beyond what can be counted
    assert_true(clock_insns_left(&c) == CLOCK_NEVER);
}

// Somebody has to know when the next deadline comes nearer, and only then.
static void test_icount_nearer(void **state)
{
    (void)state;
    insns = 0;
    clock_use_icount(&c, 1, 1, 0);
    c.nearer = on_nearer;
    c.owner = &insns;
    clock_arm(&c, &a.t, 100);
    assert_int_equal(nearer, 1);
    clock_arm(&c, &b.t, 100);
    clock_arm(&c, &b.t, 300);
    assert_int_equal(nearer, 1);
    clock_arm(&c, &b.t, 99);
    assert_int_equal(nearer, 2);
}

static unsigned held_up;

static void on_held_up(void *self)
{
    assert_ptr_equal(self, &host);
    assert_true(fires == 0 || fired_at[fires - 1] < clock_now(&c)); // before what is late fires
    held_up++;
}

static void test_held_up(void **state)
{
    (void)state;
    held_up = 0;
    c.held_up = on_held_up;
    c.owner = &host;
    // A deadline that has long passed, taken care of at once.
    host.now_ns += 10 * CLOCK_HELD_UP_NS;
    clock_arm(&c, &a.t, 5);
    clock_run(&c);
    // A long sleep.
    clock_arm(&c, &a.t, clock_now(&c) + 5 * CLOCK_HELD_UP_NS);
    host.now_ns += 5 * CLOCK_HELD_UP_NS + 1000;
    clock_run(&c);
    assert_int_equal(held_up, 0);
    // Nothing ran for a while.
    clock_arm(&c, &b.t, clock_now(&c) + 1000);
    host.now_ns += CLOCK_HELD_UP_NS + 2000;
    clock_run(&c);
    assert_int_equal(held_up, 1);
    // The machine was stopped, not its host.
    clock_arm(&c, &b.t, clock_now(&c) + 1000);
    clock_stop(&c);
    host.now_ns += 5 * CLOCK_HELD_UP_NS;
    clock_start(&c);
    host.now_ns += 2000;
    clock_run(&c);
    assert_int_equal(held_up, 1);
    // A processor goes on first: it sets another timer, or the one that is overdue.
    clock_arm(&c, &b.t, clock_now(&c) + 1000);
    host.now_ns += CLOCK_HELD_UP_NS + 2000;
    clock_arm(&c, &a.t, 5);
    assert_int_equal(held_up, 2);
    clock_run(&c);
    clock_arm(&c, &b.t, clock_now(&c) + 1000);
    host.now_ns += CLOCK_HELD_UP_NS + 2000;
    clock_arm(&c, &b.t, clock_now(&c) + 5000);
    assert_int_equal(held_up, 3);
    clock_disarm(&c, &b.t);
    assert_string_equal(fired, "aabbab");
}

static void test_limits(void **state)
{
    (void)state;
    struct clock_timer none = {0}, more[CLOCK_MAX_TIMERS];

    assert_int_equal(clock_add_timer(&c, &none), -EINVAL);
    for (unsigned i = 0; i < CLOCK_MAX_TIMERS - 3; i++) {
        more[i] = (struct clock_timer){.fire = on_fire};
        assert_int_equal(clock_add_timer(&c, &more[i]), 0);
    }
    none.fire = on_fire;
    assert_int_equal(clock_add_timer(&c, &none), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_time, setup),
        cmocka_unit_test_setup(test_order, setup),
        cmocka_unit_test_setup(test_equal_deadlines, setup),
        cmocka_unit_test_setup(test_rearm_and_disarm, setup),
        cmocka_unit_test_setup(test_callback_changes_others, setup),
        cmocka_unit_test_setup(test_periodic, setup),
        cmocka_unit_test_setup(test_always_due_does_not_hang, setup),
        cmocka_unit_test_setup(test_host_deadline, setup),
        cmocka_unit_test_setup(test_icount, setup),
        cmocka_unit_test_setup(test_icount_left, setup),
        cmocka_unit_test_setup(test_icount_nearer, setup),
        cmocka_unit_test_setup(test_held_up, setup),
        cmocka_unit_test_setup(test_limits, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
