// host_ops on Linux. Everything that the machine asks of its host goes through one struct linux_host.
#ifndef POGO_HOST_LINUX_H
#define POGO_HOST_LINUX_H

#include <stdatomic.h>
#include <stdio.h>

#include "core/host.h"

#define LINUX_HOST_WAITERS (HOST_WAITER_TIMER + 1)

struct linux_host {
    struct host host; // what the machine is given
    FILE *log;
    u64 tsc0, ns0;                         // of linux_host_begin()
    _Atomic u32 woken[LINUX_HOST_WAITERS]; // futex words: 1 = a wake-up that wait() has not yet consumed
};

// Note the clocks as they are now: where the processor does not tell the TSC's frequency, linux_host_init() measures it from here
// on, so that the time of other work counts. Before linux_host_init(), or not at all.
void linux_host_begin(struct linux_host *h);
// Fill *h, which is zeroed or begun. `log_mask`: bits 1 << enum host_log; `log`: where lines go, stays the caller's. Waits until
// the TSC has been measured for 10 ms, if it has to be.
void linux_host_init(struct linux_host *h, u32 log_mask, FILE *log);
// Name of a log category as the -d option spells it ("int", "cpu", ...).
const char *linux_host_log_name(enum host_log category);
// The category with the name of `len` characters at `name`, or -1.
int linux_host_log_find(const char *name, size_t len);

#endif
