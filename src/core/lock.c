// The contended side of core/lock.h: spin for a moment, since holders are quick, then sleep in the host.
#include "core/lock.h"

#define SPINS 100

void lock_init(struct lock *l, struct host *host)
{
    atomic_init(&l->word, 0);
    l->host = host;
}

void lock_take_slow(struct lock *l)
{
    const struct host_ops *ops = l->host ? l->host->ops : NULL;

    for (unsigned i = 0; i < SPINS || !ops || !ops->futex_wait; i++) {
        u32 free = 0;
        if (atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed))
            return;
        __builtin_ia32_pause();
    }
    // Whoever sleeps leaves 2 behind, also when it then gets the lock: a spurious wake-up is cheap, a lost one is not.
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
        ops->futex_wait(l->host->self, &l->word, 2);
}

void lock_drop_slow(struct lock *l)
{
    if (l->host && l->host->ops->futex_wake)
        l->host->ops->futex_wake(l->host->self, &l->word);
}
