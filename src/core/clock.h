// Virtual time. One clock per machine; devices set timers on it and never look at the host's clock.
//
// In *real* mode virtual time follows the host's monotonic clock, minus the time the machine was stopped.
//
// In *icount* mode virtual time is derived from the instructions that the machine's only processor has retired, plus the idle
// time that was jumped over, so that runs repeat exactly. The clock reads the processor's own counter (vcpu.insns), which engines
// keep exact wherever somebody can look: during accesses to devices and MSRs, RDTSC, and whenever run() returns. Engines never look at the clock.
// They are given a budget that ends at the next deadline (machine_run() in core/machine.h); when somebody arms a timer before that, `nearer`
// has the processor leave its engine at the next instruction boundary. So a timer fires at the very boundary at which virtual time
// reaches its deadline, on every engine.
#ifndef POGO_CORE_CLOCK_H
#define POGO_CORE_CLOCK_H

#include "core/host.h"
#include "pogo/types.h"

#define CLOCK_MAX_TIMERS 96 // a local APIC's for every processor, and the board's
#define CLOCK_NEVER (~0ull)
// Periodic timers of devices fire at most this often: what a guest asks for beyond that, nobody could handle, and the machine
// would do nothing else.
#define CLOCK_MIN_PERIOD_NS 10000
// A timer that is later than this: the host did not let the machine run at all (SIGSTOP, a laptop that slept).
#define CLOCK_HELD_UP_NS 2000000000ull

struct clock_timer {
    void (*fire)(void *dev, u64 now_ns);
    void *dev;
    u64 deadline_ns; // virtual; CLOCK_NEVER when not armed
};

struct clock {
    struct host *host;
    bool icount;
    u64 icount_ns_num, icount_ns_den; // virtual ns per instruction as a fraction
    const u64 *insns;                 // the processor's count of retired instructions; NULL: none yet (icount mode)
    u64 icount_skipped_ns;            // idle time jumped over (icount mode)
    i64 icount_utc_ns;                // UTC at virtual time 0 (icount mode)
    void (*nearer)(void *owner);      // a timer was armed before next_deadline (icount mode)
    void *owner;
    u64 offset_ns;         // host monotonic - offset = virtual (real mode)
    u64 stopped_at;        // virtual time while stopped
    u64 pair_tsc, pair_ns; // host TSC and virtual time of one moment since it was last started (real mode)
    bool running;
    struct clock_timer *timer[CLOCK_MAX_TIMERS];
    unsigned count;
    u64 next_deadline; // earliest armed deadline
    u64 looked_ns;     // virtual time when timers were last run, or the earliest one changed
    // Told before timers fire that are late by CLOCK_HELD_UP_NS (real mode), with the dev_lock held; may be NULL.
    void (*held_up)(void *owner);
};

// A running clock in real mode that shows 0.
void clock_init(struct clock *c, struct host *h);
// Derive time from instructions: `num` / `den` nanoseconds each (both below 2^32, not 0); it is 0 now, and `utc_ns` since 1970.
// Before the first timer is armed.
void clock_use_icount(struct clock *c, u32 num, u32 den, i64 utc_ns);
// Returns 0, -ENOSPC when there are too many timers, -EINVAL without a `fire`. The timer is the caller's, disarmed.
int clock_add_timer(struct clock *c, struct clock_timer *t);
// Virtual time in nanoseconds since the machine was created; monotonic.
u64 clock_now(const struct clock *c);
// UTC in nanoseconds since 1970 at virtual time 0. In real mode that moves as the host's clock is corrected.
i64 clock_utc(const struct clock *c);
void clock_arm(struct clock *c, struct clock_timer *t, u64 deadline_ns);
void clock_disarm(struct clock *c, struct clock_timer *t);
// Fire every timer whose deadline has passed, in order of deadline (equal ones in the order in which they were added).
// `fire` may arm and disarm any timer. Returns after CLOCK_MAX_FIRES so that a timer that is always due cannot hang the
// machine: what is left is due at once.
#define CLOCK_MAX_FIRES 1024
void clock_run(struct clock *c);
// Is a timer due? For the engine's decision to leave its loop.
static inline bool clock_due(const struct clock *c)
{
    return c->next_deadline != CLOCK_NEVER && clock_now(c) >= c->next_deadline;
}
// Host monotonic time of the next deadline, for host_ops.wait; CLOCK_NEVER if there is none or the clock is stopped
// (real mode).
u64 clock_host_deadline(const struct clock *c);
// Instructions until virtual time reaches the next deadline: 0 when it has, CLOCK_NEVER when there is none (icount mode).
u64 clock_insns_left(const struct clock *c);
// Idle time until the next deadline in nanoseconds; CLOCK_NEVER when there is none.
u64 clock_idle_ns(const struct clock *c);
// The processor was idle for `ns`, at most clock_idle_ns(): jump over that time (icount mode).
void clock_skip(struct clock *c, u64 ns);
// Stop virtual time, and let it go on from there. Idempotent.
void clock_stop(struct clock *c);
void clock_start(struct clock *c);

#endif
