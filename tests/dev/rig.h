// What device tests share: a clock that the test moves, and interrupt wires that count. Included by one file per program.
#ifndef POGO_TESTS_RIG_H
#define POGO_TESTS_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/dev.h"

#define US 1000ull
#define MS 1000000ull
#define S 1000000000ull

struct rig_clock {
    u64 now;
    struct host host;
    struct clock clock;
};

static u64 rig_now(void *host)
{
    return ((struct rig_clock *)host)->now;
}

static const struct host_ops rig_host = {.now_ns = rig_now};

// Virtual time 0 is some time after the host's.
static inline void rig_start(struct rig_clock *r)
{
    r->now = 5 * S;
    r->host = (struct host){.ops = &rig_host, .self = r};
    clock_init(&r->clock, &r->host);
}

static inline void rig_advance(struct rig_clock *r, u64 ns)
{
    r->now += ns;
    clock_run(&r->clock);
}

// Step from deadline to deadline, as a host that is always on time.
static inline void rig_run(struct rig_clock *r, u64 ns)
{
    u64 end = r->now + ns;

    for (;;) {
        u64 next = clock_host_deadline(&r->clock);
        if (next > end)
            break;
        if (next > r->now)
            r->now = next;
        clock_run(&r->clock);
    }
    r->now = end;
}

struct rig_wire {
    unsigned rises;
    bool level;
};

static inline void rig_wire_set(void *sink, unsigned n, bool level)
{
    struct rig_wire *w = sink;

    (void)n;
    w->rises += level && !w->level;
    w->level = level;
}

static inline struct irq_line rig_line(struct rig_wire *w)
{
    return (struct irq_line){rig_wire_set, w, 0};
}

// A cheap source of numbers for tests that try anything.
static inline u32 rig_random(u64 *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)(*seed >> 32);
}

#endif
