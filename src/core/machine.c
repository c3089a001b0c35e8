// What concerns all processors of a machine.
#include "core/machine.h"

#include <errno.h>

#include "core/cpu_fields.h"
#include "core/hash.h"
#include "core/pvclock.h"

_Static_assert(MACHINE_MAX_VCPUS <= MEM_MAX_CPUS, "each has a page of its own");
_Static_assert(MACHINE_MAX_VCPUS <= HOST_WAITER_TIMER,
               "waiters of the host: the vCPUs by number, then the timer's thread");

// A deadline in front of the end of the budget that the processor's engine was given: have it come back for a new one.
static void deadline_nearer(void *owner)
{
    struct machine *m = owner;

    if (m->vcpu_count)
        vcpu_request(m->vcpu[0], VCPU_REQ_TIMER);
}

static void held_up(void *owner)
{
    struct machine *m = owner;

    for (unsigned i = 0; i < m->vcpu_count; i++)
        pvclock_held_up(m->vcpu[i]);
}

void machine_init(struct machine *m, struct host *host)
{
    __builtin_memset(m, 0, sizeof(*m));
    m->host = host;
    atomic_init(&m->a20_mask, ~0ull);
    lock_init(&m->dev_lock, host);
    m->bus.lock = m->mem.lock = &m->dev_lock;
    clock_init(&m->clock, host);
    m->clock.nearer = deadline_nearer;
    m->clock.held_up = held_up;
    m->clock.owner = m;
    atomic_init(&m->stop_reason, -1);
}

int machine_add_vcpu(struct machine *m, struct vcpu *v)
{
    if (m->vcpu_count == MACHINE_MAX_VCPUS)
        return -ENOSPC;
    v->machine = m;
    if (!m->vcpu_count)
        m->clock.insns = &v->insns;
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

static u64 hash_region(u64 h, const struct mem_region *r)
{
    for (u64 off = 0; off < r->size; off += MEM_PAGE_SIZE)
        h = hash_u64(h, hash_page(r->host + off));
    return h;
}

u64 machine_hash(const struct machine *m)
{
    u64 h = HASH_START;

    for (unsigned i = 0; i < m->vcpu_count; i++)
        h = hash_u64(hash_u64(h, cpu_hash(&m->vcpu[i]->cpu)), m->vcpu[i]->insns);
    for (unsigned i = 0; i < m->mem.count; i++)
        if (m->mem.region[i].kind == MEM_RAM && !m->mem.region[i].shadow)
            h = hash_region(h, &m->mem.region[i]);
    for (unsigned i = 0; i < m->mem.shadow_count; i++)
        h = hash_region(h, &m->mem.shadow[i].view[MEM_SHADOW_READ | MEM_SHADOW_WRITE]);
    return h;
}

struct vm_exit machine_run(struct vcpu *v, u64 budget)
{
    struct machine *m = v->machine;
    u64 left;

    if (!m->clock.icount)
        return v->engine->run(v, budget);
    lock_take(&m->dev_lock);
    if (clock_due(&m->clock))
        clock_run(&m->clock);
    vcpu_request_clear(v, VCPU_REQ_TIMER);
    left = clock_insns_left(&m->clock);
    lock_drop(&m->dev_lock);
    // A timer that is due however often it is fired does not keep the guest from running.
    left = left ? left : 1;
    return v->engine->run(v, left < budget ? left : budget);
}
