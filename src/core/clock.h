// Virtual time. One clock per machine; devices set timers on it and never look at the host's clock.
//
// In *real* mode virtual time follows the host's monotonic clock, minus the time the machine was stopped. In *icount* mode
// virtual time is derived from retired instructions, so that runs repeat exactly.
#ifndef POGO_CORE_CLOCK_H
#define POGO_CORE_CLOCK_H

#include "core/host.h"
#include "pogo/types.h"

#define CLOCK_MAX_TIMERS 64
#define CLOCK_NEVER (~0ull)

struct clock_timer {
    void (*fire)(void *dev, u64 now_ns);
    void *dev;
    u64 deadline_ns; // virtual; CLOCK_NEVER when not armed
};

struct clock {
    struct host *host;
    bool icount;
    u64 icount_ns_num, icount_ns_den; // virtual ns per instruction as a fraction
    u64 icount_insns;                 // instructions retired so far (icount mode)
    u64 offset_ns;                    // host monotonic - offset = virtual (real mode)
    u64 stopped_at;                   // virtual time while stopped
    bool running;
    struct clock_timer *timer[CLOCK_MAX_TIMERS];
    unsigned count;
    u64 next_deadline; // earliest armed deadline
};

void clock_init(struct clock *c, struct host *h);
int clock_add_timer(struct clock *c, struct clock_timer *t);
// Virtual time in nanoseconds since the machine was created; monotonic.
u64 clock_now(const struct clock *c);
void clock_arm(struct clock *c, struct clock_timer *t, u64 deadline_ns);
void clock_disarm(struct clock *c, struct clock_timer *t);
// Fire every timer whose deadline has passed, in order of deadline.
void clock_run(struct clock *c);
void clock_stop(struct clock *c);
void clock_start(struct clock *c);

#endif
