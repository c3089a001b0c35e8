// What concerns all processors of a machine.
#include "core/machine.h"

#include <errno.h>

_Static_assert(MACHINE_MAX_VCPUS <= HOST_WAITER_TIMER,
               "waiters of the host: the vCPUs by number, then the timer's thread");

void machine_init(struct machine *m, struct host *host)
{
    __builtin_memset(m, 0, sizeof(*m));
    m->host = host;
    atomic_init(&m->a20_mask, ~0ull);
    lock_init(&m->dev_lock, host);
    m->bus.lock = m->mem.lock = &m->dev_lock;
    clock_init(&m->clock, host);
    atomic_init(&m->stop_reason, -1);
}

int machine_add_vcpu(struct machine *m, struct vcpu *v)
{
    if (m->vcpu_count == MACHINE_MAX_VCPUS)
        return -ENOSPC;
    v->machine = m;
    m->vcpu[m->vcpu_count++] = v;
    return 0;
}

// The request bit comes last and with release, so who sees it sees reason and code.
void machine_stop(struct machine *m, enum vm_exit_reason reason, int code)
{
    int none = -1;

    if (!atomic_compare_exchange_strong(&m->stop_reason, &none, (int)reason))
        return;
    atomic_store(&m->stop_code, code);
    for (unsigned i = 0; i < m->vcpu_count; i++) {
        struct vcpu *v = m->vcpu[i];
        vcpu_request(v, VCPU_REQ_EXIT);
        if (v->engine && v->engine->kick)
            v->engine->kick(v);
        if (m->host->ops->wake)
            m->host->ops->wake(m->host->self, v->id);
    }
}

void machine_resume(struct machine *m)
{
    atomic_store(&m->stop_code, 0);
    atomic_store(&m->stop_reason, -1);
}
