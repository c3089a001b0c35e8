// host_ops on Linux. Everything that the machine asks of its host goes through one struct linux_host.
#ifndef POGO_HOST_LINUX_H
#define POGO_HOST_LINUX_H

#include <stdatomic.h>
#include <stdio.h>

#include "core/host.h"

#define LINUX_HOST_WAITERS (HOST_WAITER_TIMER + 1)

// Both clocks at one moment.
struct linux_clocks {
    u64 tsc, ns;
};

struct linux_host {
    struct host host; // what the machine is given
    FILE *log;
    int log_fd;             // what is written to directly, because it may block: a terminal or a pipe; -1: `log`
    _Atomic bool log_stuck; // nobody reads there
    _Atomic u64 log_lost;   // lines
    FILE *perf_map;         // names of generated code; NULL: nobody wants to know them
    _Atomic u64 perf_names; // lines in it
    _Atomic u32 woken[LINUX_HOST_WAITERS]; // futex words: 1 = a wake-up that wait() has not yet consumed
};

void linux_clocks_read(struct linux_clocks *c);
// Fill *h. `log_mask`: bits 1 << enum host_log; `log`: where lines go, stays the caller's. Where the processor does not tell the
// TSC's frequency it is measured from `since` on (NULL: now) until 4 ms have passed: the time of other work counts.
void linux_host_init(struct linux_host *h, u32 log_mask, FILE *log, const struct linux_clocks *since);
// Write names of generated code to /tmp/perf-PID.map from now on, where perf looks for them; call it before the machine is built. The
// file stays; linux_host_fini() closes it. Returns 0 or a negative errno.
int linux_host_perf_map(struct linux_host *h);
void linux_host_fini(struct linux_host *h);
// Frequency of the host's TSC, measured from `since` on (NULL: for 4 ms) where the processor does not tell it; *by_cpuid: it does.
u64 linux_host_tsc_hz(const struct linux_clocks *since, bool *by_cpuid);
// Name of a log category as the -d option spells it ("int", "cpu", ...).
const char *linux_host_log_name(enum host_log category);
// The category with the name of `len` characters at `name`, or -1.
int linux_host_log_find(const char *name, size_t len);

#endif
