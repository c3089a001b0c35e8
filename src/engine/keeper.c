// Writes to code that an engine keeps something of; see keeper.h.
#include "engine/keeper.h"

#include "core/machine.h"
#include "core/mmu.h"

#define BUSY_DROPS 24 // before a page is left alone
#define BUSY_LEVELS 6 // the time is doubled so many times at most

void keeper_init(struct keeper *k, const struct keeper_ops *ops, void *engine)
{
    k->ops = ops;
    k->engine = engine;
}

void keeper_post(struct keeper *k, struct vcpu *v, gpa base, u64 len)
{
    u64 w = base << 12 | (len - 1);
    unsigned i = 0;
    if (len > MEM_PAGE_SIZE - (base & 4095) || !w) {
        i = KEEPER_WRITES;
    } else {
        for (; i < KEEPER_WRITES; i++) {
            u64 none = 0;
            u64 now = atomic_load_explicit(&k->write[i], memory_order_relaxed);
            if (now == w || (!now && atomic_compare_exchange_strong(&k->write[i], &none, w)))
                break;
        }
    }
    if (i == KEEPER_WRITES)
        atomic_store(&k->all, true);
    vcpu_request(v, VCPU_REQ_CODE);
}

// --- busy pages -----------------------------------------------------------------------------------------------------------------

static unsigned busy_index(hva page)
{
    return (page >> 12 ^ page >> 18) % KEEPER_BUSY;
}

bool keeper_is_busy(const struct keeper *k, hva page, u64 now)
{
    const struct keeper_busy *b = &k->busy[busy_index(page)];
    return UNLIKELY(b->page == page && now < b->until);
}

// Something of the page was dropped. True: leave it alone for a while.
static bool becomes_busy(struct keeper *k, hva page, u64 now)
{
    struct keeper_busy *b = &k->busy[busy_index(page)];
    if (b->page != page || now - b->last > k->ops->window << b->level)
        *b = (struct keeper_busy){.page = page};
    b->last = now;
    if (++b->drops < BUSY_DROPS)
        return false;
    b->until = now + (k->ops->time << b->level);
    b->drops = BUSY_DROPS - 4; // it has to prove itself
    if (b->level < BUSY_LEVELS)
        b->level++;
    k->left_alone++;
    return true;
}

// --- dropping -------------------------------------------------------------------------------------------------------------------

static void drop_write(struct keeper *k, struct machine *m, u64 write, u64 now)
{
    gpa a = write >> 12;
    unsigned off = (unsigned)(a & 4095), len = (unsigned)(write & 4095) + 1;
    const u8 *host = mem_ptr(&m->mem, a, 1, false);
    if (!host)
        return;
    bool alone = m->vcpu_count == 1;
    if (!alone) { // the flag of the page was cleared for all
        off = 0;
        len = MEM_PAGE_SIZE;
    }
    hva page = (hva)host & ~4095ull;
    u64 before = k->dropped;
    bool left = k->ops->drop(k->engine, page, off, len, &k->dropped);
    if (k->dropped != before && becomes_busy(k, page, now))
        left = k->ops->drop(k->engine, page, 0, MEM_PAGE_SIZE, &k->dropped);
    if (!left && alone)
        mmu_unprotect_page(m, a);
}

void keeper_drop(struct keeper *k, struct vcpu *v, u64 now)
{
    vcpu_request_clear(v, VCPU_REQ_CODE);
    if (atomic_exchange(&k->all, false)) {
        k->ops->flush(k->engine);
        k->flushes++;
    }
    for (unsigned i = 0; i < KEEPER_WRITES; i++) {
        u64 w = atomic_exchange(&k->write[i], 0);
        if (w)
            drop_write(k, v->machine, w, now);
    }
}

bool keeper_may_read(struct vcpu *v, gpa phys)
{
    struct machine *m = v->machine;
    mmu_protect_page(m, v, phys);
    for (unsigned i = 0; i < m->vcpu_count; i++) {
        if (m->vcpu[i] != v && !mmu_queue_empty(m->vcpu[i]))
            return false;
    }
    return true;
}
