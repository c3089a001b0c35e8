// A mutex for what several vCPUs share, without a C library: an atomic word, and the host's futex when it is contended.
//
// Locks of the machine, outermost first:
//   machine.dev_lock   every device model, the port bus, MMIO dispatch, irq wiring, the clock and its timers
// A vCPU's own state needs none: other threads speak to it through vcpu.request and the TLB queue. Not recursive.
#ifndef POGO_CORE_LOCK_H
#define POGO_CORE_LOCK_H

#include <stdatomic.h>

#include "core/host.h"

struct lock {
    _Atomic u32 word; // 0 free, 1 held, 2 held and somebody may wait
    struct host *host;
};

void lock_init(struct lock *l, struct host *host);
void lock_take_slow(struct lock *l);
void lock_drop_slow(struct lock *l);

// NULL locks are allowed and do nothing: a bus or a device in a unit test has none.
static inline void lock_take(struct lock *l)
{
    u32 free = 0;

    if (l && !atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed))
        lock_take_slow(l);
}

static inline void lock_drop(struct lock *l)
{
    if (l && atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)
        lock_drop_slow(l);
}

#endif
