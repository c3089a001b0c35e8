// Virtual time and its timers: a short unsorted list, since a board has a dozen, and the earliest deadline kept beside
// it. Called with the machine's dev_lock held.
#include "core/clock.h"

#include <errno.h>

// Processors that tell a guest how time and TSC belong together must all tell the same, so it is found out once.
static void pair(struct clock *c)
{
    const struct host_ops *ops = c->host->ops;

    if (c->icount)
        return;
    c->pair_ns = clock_now(c);
    c->pair_tsc = ops->tsc ? ops->tsc(c->host->self) : 0;
}

void clock_init(struct clock *c, struct host *h)
{
    *c = (struct clock){.host = h, .running = true, .next_deadline = CLOCK_NEVER};
    c->offset_ns = h->ops->now_ns(h->self);
    pair(c);
}

void clock_use_icount(struct clock *c, u32 num, u32 den, i64 utc_ns)
{
    c->icount = true;
    c->icount_ns_num = num;
    c->icount_ns_den = den;
    c->icount_skipped_ns = 0;
    c->icount_utc_ns = utc_ns;
}

// Other threads (input from outside, the monitor) may look while the processor runs.
static u64 icount(const struct clock *c)
{
    return c->insns ? __atomic_load_n(c->insns, __ATOMIC_RELAXED) : 0;
}

int clock_add_timer(struct clock *c, struct clock_timer *t)
{
    if (!t->fire)
        return -EINVAL;
    if (c->count == CLOCK_MAX_TIMERS)
        return -ENOSPC;
    t->deadline_ns = CLOCK_NEVER;
    c->timer[c->count++] = t;
    return 0;
}

u64 clock_now(const struct clock *c)
{
    if (c->icount) {
        // Split so that the product cannot overflow before 2^64 ns.
        u64 insns = icount(c), whole = insns / c->icount_ns_den, part = insns % c->icount_ns_den;
        return c->icount_skipped_ns + whole * c->icount_ns_num + part * c->icount_ns_num / c->icount_ns_den;
    }
    if (!c->running)
        return c->stopped_at;
    return c->host->ops->now_ns(c->host->self) - c->offset_ns;
}

i64 clock_utc(const struct clock *c)
{
    return c->icount ? c->icount_utc_ns : c->host->ops->wall_ns(c->host->self) - (i64)clock_now(c);
}

static void find_next(struct clock *c)
{
    u64 next = CLOCK_NEVER;
    for (unsigned i = 0; i < c->count; i++)
        if (c->timer[i]->deadline_ns < next)
            next = c->timer[i]->deadline_ns;
    c->next_deadline = next;
}

// A processor may go on, and set timers, before the thread that runs them does: who first looks at an overdue one, tells.
static void look(struct clock *c, u64 now)
{
    u64 due = c->next_deadline > c->looked_ns ? c->next_deadline : c->looked_ns;

    c->looked_ns = now;
    if (c->held_up && now > due && now - due > CLOCK_HELD_UP_NS)
        c->held_up(c->owner);
}

void clock_arm(struct clock *c, struct clock_timer *t, u64 deadline_ns)
{
    bool earlier = deadline_ns < c->next_deadline;

    if (!c->icount && (earlier || t->deadline_ns == c->next_deadline))
        look(c, clock_now(c));
    t->deadline_ns = deadline_ns;
    find_next(c);
    if (earlier && c->icount && c->nearer)
        c->nearer(c->owner);
    if (earlier && !c->icount && c->host->ops->wake)
        c->host->ops->wake(c->host->self, HOST_WAITER_TIMER);
}

void clock_disarm(struct clock *c, struct clock_timer *t)
{
    if (!c->icount && t->deadline_ns == c->next_deadline)
        look(c, clock_now(c));
    t->deadline_ns = CLOCK_NEVER;
    find_next(c);
}

static struct clock_timer *earliest(struct clock *c)
{
    struct clock_timer *t = NULL;
    for (unsigned i = 0; i < c->count; i++)
        if (c->timer[i]->deadline_ns != CLOCK_NEVER && (!t || c->timer[i]->deadline_ns < t->deadline_ns))
            t = c->timer[i];
    return t;
}

void clock_run(struct clock *c)
{
    if (c->next_deadline == CLOCK_NEVER)
        return;
    u64 now = clock_now(c);
    if (!c->icount)
        look(c, now);
    for (unsigned fired = 0; fired < CLOCK_MAX_FIRES && c->next_deadline <= now; fired++) {
        struct clock_timer *t = earliest(c);
        if (!t)
            break;
        t->deadline_ns = CLOCK_NEVER;
        find_next(c);
        t->fire(t->dev, now);
    }
}

u64 clock_host_deadline(const struct clock *c)
{
    if (c->next_deadline == CLOCK_NEVER || !c->running || c->icount)
        return CLOCK_NEVER;
    u64 at = c->next_deadline + c->offset_ns;
    return at < c->offset_ns ? CLOCK_NEVER : at;
}

// The least n with floor((insns + n) * num / den) >= deadline - skipped.
u64 clock_insns_left(const struct clock *c)
{
    u64 goal, at, now = icount(c);

    if (c->next_deadline == CLOCK_NEVER)
        return CLOCK_NEVER;
    if (c->next_deadline <= c->icount_skipped_ns)
        return 0;
    goal = c->next_deadline - c->icount_skipped_ns;
    if (__builtin_mul_overflow(goal / c->icount_ns_num, c->icount_ns_den, &at))
        return CLOCK_NEVER;
    at += (goal % c->icount_ns_num * c->icount_ns_den + c->icount_ns_num - 1) / c->icount_ns_num;
    return at > now ? at - now : 0;
}

u64 clock_idle_ns(const struct clock *c)
{
    u64 now = clock_now(c);

    if (c->next_deadline == CLOCK_NEVER)
        return CLOCK_NEVER;
    return c->next_deadline > now ? c->next_deadline - now : 0;
}

void clock_skip(struct clock *c, u64 ns)
{
    if (c->icount)
        c->icount_skipped_ns += ns;
}

void clock_stop(struct clock *c)
{
    if (!c->running)
        return;
    c->stopped_at = clock_now(c);
    c->running = false;
}

void clock_start(struct clock *c)
{
    if (c->running)
        return;
    c->running = true;
    if (c->icount)
        return;
    c->offset_ns = c->host->ops->now_ns(c->host->self) - c->stopped_at;
    pair(c);
}
