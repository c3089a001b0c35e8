// The loop around the handlers, and the engine's operations.
//
// The loop is the interpreter's: what is due before an instruction, then the instruction. Where a run can be entered it stands
// for many instructions at once; where it cannot (single-stepping, breakpoints, tracing, alignment checks, interrupt shadows,
// code that is not in RAM, a budget that ends inside the run) the interpreter runs one.
#include <stdio.h>
#include <string.h>

#include "engine/cache/cache.h"
#include "engine/cache/engine_cache.h"
#include "isa/alu.h"

#define STORE_SIZE (64ull << 20)

// --- what handlers rely on ----------------------------------------------------------------------------------------------------

static bool is_flat(const struct x86_seg *s, u32 must, u32 must_not)
{
    return s->base == 0 && s->limit == ~0u && (s->attr & must) == must && !(s->attr & (must_not | X86_SEG_UNUSABLE));
}

// 32-bit code whose ES, CS, SS and DS cover everything, SS with a 32-bit stack pointer.
static bool segments_flat(const struct cpu *c)
{
    const u32 data = X86_SEG_W, not_data = X86_SEG_CODE | X86_SEG_E;
    return cpu_pmode(c) && is_flat(&c->seg[X86_CS], X86_SEG_CODE, 0) &&
           is_flat(&c->seg[X86_SS], data | X86_SEG_DB, not_data) && is_flat(&c->seg[X86_DS], data, not_data) &&
           is_flat(&c->seg[X86_ES], data, not_data);
}

// SDM 2A 2.4 and 3A 2.5: what the control registers allow; the interpreter finds out about the rest.
static void refresh_fpu(struct cache *e)
{
    const struct cpu *c = e->in.c;
    const u64 avx = X86_XCR0_SSE | X86_XCR0_AVX;
    e->cr0 = c->cr0;
    e->cr4 = c->cr4;
    e->xcr0 = c->xcr0;
    e->fpu = 0;
    if (c->cr0 & X86_CR0_TS)
        return;
    if (!(c->cr0 & X86_CR0_EM) && c->cr4 & X86_CR4_OSFXSR)
        e->fpu |= FPU_SSE;
    if (c->cr4 & X86_CR4_OSXSAVE && (c->xcr0 & avx) == avx)
        e->fpu |= FPU_AVX;
}

static void refresh(struct cache *e)
{
    const struct interp *x = &e->in;
    const struct cpu *c = x->c;
    if (UNLIKELY(e->cr0 != c->cr0 || e->cr4 != c->cr4 || e->xcr0 != c->xcr0))
        refresh_fpu(e);
    e->mode = (u8)x->mode;
    e->fpu &= (u8)~FPU_PMODE;
    if (x->mode == ISA_MODE_64) {
        e->mode |= RUN_FLAT;
        e->fpu |= FPU_PMODE;
    } else {
        if (x->mode == ISA_MODE_32 && segments_flat(c))
            e->mode |= RUN_FLAT;
        if (cpu_pmode(c))
            e->fpu |= FPU_PMODE;
    }
    e->tlb = x->v->tlb.cur[x->view].e;
    e->poll = ~0u;
    if (!(c->rflags & X86_FL_IF))
        e->poll &= ~VCPU_REQ_INTR;
    if (c->nmi_blocked)
        e->poll &= ~VCPU_REQ_NMIS;
}

// --- pages whose code keeps changing ----------------------------------------------------------------------------------------

#define BUSY_DROPS 24          // before a page is left alone ...
#define BUSY_WINDOW 1000000ull // ... with less than so many instructions from one to the next
#define BUSY_INSNS 100000u     // how long at first
#define BUSY_STEPS 30          // instructions from one question whether it still is to the next
#define BUSY_LEVELS 6          // doubled so many times at most

static struct busy_page *busy_slot(struct cache *e, hva page)
{
    return &e->busy[(page >> 12 ^ page >> 18) % BUSY];
}

static bool is_busy(struct cache *e, hva page)
{
    const struct busy_page *b = busy_slot(e, page);
    return UNLIKELY(b->page == page && e->in.v->insns < b->until);
}

// Code of the page was dropped. True: leave it alone for a while.
static bool becomes_busy(struct cache *e, hva page)
{
    struct busy_page *b = busy_slot(e, page);
    u64 now = e->in.v->insns;
    if (b->page != page || now - b->last > BUSY_WINDOW << b->level)
        *b = (struct busy_page){.page = page};
    b->last = now;
    if (++b->drops < BUSY_DROPS)
        return false;
    b->until = now + (BUSY_INSNS << b->level);
    b->drops = BUSY_DROPS - 4; // it has to prove itself
    if (b->level < BUSY_LEVELS)
        b->level++;
    e->stats.left_alone++;
    return true;
}

// --- runs -----------------------------------------------------------------------------------------------------------------------

// The run at RIP, built if need be; NULL: the interpreter's business.
static struct run *find_run(struct cache *e)
{
    const struct cpu *c = e->in.c;
    struct tlb *tlb = &e->in.v->tlb;
    gva lin = e->in.mode == ISA_MODE_64 ? c->rip : (u32)(c->rip + c->seg[X86_CS].base);
    hva h = tlb_exec(tlb, e->in.view, lin);
    if (UNLIKELY(!h))
        return NULL;
    hva page = h & ~4095ull;
    unsigned off = (unsigned)(lin & 4095);
    e->page_rip = c->rip - off;
    struct jump *j = jump_slot(e, c->rip);
    if (LIKELY(j->rip == c->rip && j->run->mode == e->mode && j->run->page == page && j->run->off == off)) {
        e->stats.found++;
        return j->run;
    }
    struct run *r = store_find(e, page, off, e->mode);
    e->stats.found += r != NULL;
    if (!r && is_busy(e, page)) {
        e->quiet_steps = BUSY_STEPS;
    } else if (!r) {
        gpa phys = tlb->cur[e->in.view].phys[tlb_index(lin)] & ~4095ull;
        u64 evictions = e->stats.evictions;
        r = build_run(e, page, phys, off);
        if (e->stats.evictions != evictions)
            e->unlinked = NULL; // its run may be gone
    }
    if (r)
        *j = (struct jump){.rip = c->rip, .run = r};
    return r;
}

// Outside 64-bit mode and flat segments code can run into the limit of CS.
static bool within_limit(const struct cache *e, const struct run *r)
{
    const struct cpu *c = e->in.c;
    return e->mode & RUN_FLAT || c->rip + (u64)(r->end - r->off) <= (u64)c->seg[X86_CS].limit + 1;
}

static void run_cells(struct cache *e, const struct cell *o, i64 left)
{
#ifdef CACHE_TRAMPOLINE
    e->left = left;
    while (o)
        o = o->fn(e->in.c, o, 0, 0, e, e->left);
#else
    o->fn(e->in.c, o, 0, 0, e, left);
#endif
}

// Run from RIP on as long as runs lead to runs. False: run nothing but one instruction in the interpreter.
static bool execute(struct cache *e)
{
    const u64 all = 1ull << 62;
    struct run *r = find_run(e);
    for (;;) {
        u64 budget = e->in.budget < all ? e->in.budget : all;
        if (!r || budget < r->n || !within_limit(e, r))
            return false;
        e->unlinked = NULL;
        e->chunk = (i64)budget;
        e->stats.entries++;
        run_cells(e, r->cell, (i64)budget - r->n);
        struct cell *from = e->unlinked;
        if (!from)
            return true;
        r = find_run(e);
        if (!r || !e->unlinked)
            return true;
        // The link is for a page that is mapped as it is now: in the branch's own page, or checked whenever it is followed.
        bool near = from->disp >= 0 && from->disp <= 4095;
        if (!near || store_run_of(from)->page == r->page)
            store_link(e, from, r);
        if (requested(e))
            return true;
    }
}

// --- writes to code -----------------------------------------------------------------------------------------------------------

static void drop_all(struct cache *e)
{
    store_flush(e);
    e->stats.flushes++;
}

static void drop_written(struct cache *e)
{
    struct machine *m = e->in.v->machine;
    vcpu_request_clear(e->in.v, VCPU_REQ_CODE);
    if (atomic_exchange(&e->writes.all, false))
        drop_all(e);
    for (unsigned i = 0; i < WRITES; i++) {
        u64 w = atomic_exchange(&e->writes.slot[i], 0);
        if (!w)
            continue;
        gpa a = w >> 12;
        unsigned off = (unsigned)(a & 4095), len = (unsigned)(w & 4095) + 1;
        const u8 *host = mem_ptr(&m->mem, a, 1, false);
        if (!host)
            continue;
        bool alone = m->vcpu_count == 1;
        if (!alone) { // the flag of the page was cleared for all
            off = 0;
            len = MEM_PAGE_SIZE;
        }
        hva page = (hva)host & ~4095ull;
        u64 dropped = e->stats.dropped;
        bool rest = store_drop(e, page, off, len);
        if (e->stats.dropped != dropped && becomes_busy(e, page))
            rest = store_drop(e, page, 0, MEM_PAGE_SIZE);
        if (!rest && alone)
            mmu_unprotect_page(m, a);
    }
}

// Any thread.
static void cache_invalidate(struct vcpu *v, gpa base, u64 len)
{
    struct cache *e = v->engine_state;
    u64 w = base << 12 | (len - 1);
    unsigned i = 0;
    if (len > MEM_PAGE_SIZE - (base & 4095) || !w) {
        i = WRITES;
    } else {
        for (; i < WRITES; i++) {
            u64 none = 0;
            u64 now = atomic_load_explicit(&e->writes.slot[i], memory_order_relaxed);
            if (now == w || (!now && atomic_compare_exchange_strong(&e->writes.slot[i], &none, w)))
                break;
        }
    }
    if (i == WRITES)
        atomic_store(&e->writes.all, true);
    vcpu_request(v, VCPU_REQ_CODE);
}

// --- the loop -----------------------------------------------------------------------------------------------------------------

// May handlers run at all just now?
static bool handlers_allowed(const struct interp *x)
{
    const struct cpu *c = x->c;
    return !(x->break_on | x->debug_on | x->align_on | x->trace | c->shadow) &&
           !(c->rflags & (X86_FL_TF | X86_FL_RF)) && !c->pending_dr6;
}

static void run_loop(struct cache *e)
{
    struct interp *x = &e->in;
    for (;;) {
        if (UNLIKELY(atomic_load_explicit(&x->v->request, memory_order_acquire) & VCPU_REQ_CODE))
            drop_written(e);
        if (!interp_ready(x))
            return;
        if (UNLIKELY(e->quiet_steps)) {
            e->quiet_steps--;
        } else if (LIKELY(handlers_allowed(x))) {
            x->budget++; // interp_ready() took it for one instruction
            refresh(e);
            e->step = false;
            if (execute(e) && !e->step)
                continue;
            // Something may have become due meanwhile.
            if (atomic_load_explicit(&x->v->request, memory_order_acquire) & VCPU_REQ_CODE)
                drop_written(e);
            if (!interp_ready(x))
                return;
        }
        e->stats.steps++;
        interp_step(x);
    }
}

static struct vm_exit cache_run(struct vcpu *v, u64 budget)
{
    struct cache *e = v->engine_state;
    struct interp *x = &e->in;
    interp_enter(x, budget);
    if (setjmp(x->fault)) {
        if (e->cur) { // a handler that had not brought things up to date
            sync(e, e->cur, e->left);
            x->budget--;
        }
        interp_take_fault(x);
    }
    run_loop(e);
    return x->exit;
}

// --- the engine -----------------------------------------------------------------------------------------------------------------

static const u64 samples[] = {0, 1, 0x80, 0x8000, 0x80000000u, 0x8000000000000000u, 0x123456789abcdef1u, ~0ull};

// Status flags that come out different after `op` on the same operands when they were different before.
static u64 flags_kept(unsigned op, unsigned size, u64 a, u64 b)
{
    u64 fl[2] = {0, X86_FL_STATUS};
    for (unsigned k = 0; k < 2; k++) {
        switch (op) {
        case 0: alu_shl(size, a, (u8)b, &fl[k]); break;
        case 1: alu_shr(size, a, (u8)b, &fl[k]); break;
        case 2: alu_sar(size, a, (u8)b, &fl[k]); break;
        default: alu_imul2(size, a, b, &fl[k]); break;
        }
    }
    return fl[0] ^ fl[1];
}

static void study_host(struct cache *e)
{
    u64 shifts = 0, product = 0, product_always = ~0ull;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ARRAY_LEN(samples); i++) {
            for (unsigned n = 1; n < (size == 8 ? 64 : 32); n++) {
                for (unsigned op = 0; op < 3; op++)
                    shifts |= flags_kept(op, size, samples[i], n);
            }
            for (unsigned j = 0; j < ARRAY_LEN(samples) && size > 1; j++) {
                u64 kept = flags_kept(3, size, samples[i], samples[j]);
                product |= kept;
                product_always &= kept;
            }
        }
    }
    e->shifts_clean = !shifts;
    e->imul_clean = !product;
    e->imul_partial = product == product_always && product == (X86_FL_STATUS & ~(X86_FL_CF | X86_FL_OF));
}

static int cache_probe(const char **why)
{
    (void)why;
    return 0;
}

static int cache_vcpu_create(struct vcpu *v)
{
    struct host *h = v->machine->host;
    struct cache *e = h->ops->mem_alloc(h->self, "cache", sizeof *e);
    if (!e)
        return -12; // -ENOMEM
    int err = interp_init(&e->in, v);
    if (!err) {
        u64 size = v->machine->tuning.memory;
        err = store_init(e, size ? size : STORE_SIZE);
        if (err)
            interp_fini(&e->in);
    }
    if (err) {
        h->ops->mem_free(h->self, e, sizeof *e);
        return err;
    }
    e->cr0 = ~0ull;
    study_host(e);
    v->engine_state = e;
    return 0;
}

static void cache_vcpu_destroy(struct vcpu *v)
{
    struct host *h = v->machine->host;
    struct cache *e = v->engine_state;
    store_fini(e);
    interp_fini(&e->in);
    h->ops->mem_free(h->self, e, sizeof *e);
    v->engine_state = NULL;
}

static void cache_sync(struct vcpu *v)
{
    (void)v; // between calls of run() the architectural state is in vcpu.cpu
}

static void cache_kick(struct vcpu *v)
{
    vcpu_request(v, VCPU_REQ_EXIT);
}

static void cache_stats(struct vcpu *v, char *buf, size_t size)
{
    const struct cache *e = v->engine_state;
    const struct cache_stats *s = &e->stats;
    snprintf(
        buf, size,
        "runs decoded %llu, of %llu instructions; entered from the loop %llu times, found there %llu times; links made %llu\n"
        "dropped by writes to code %llu; pages left alone for that %llu; parts evicted %llu; emptied %llu times\n"
        "instructions run by the interpreter %llu, and %llu from inside runs\n",
        (unsigned long long)s->runs, (unsigned long long)s->insns, (unsigned long long)s->entries,
        (unsigned long long)s->found, (unsigned long long)s->links, (unsigned long long)s->dropped,
        (unsigned long long)s->left_alone, (unsigned long long)s->evictions, (unsigned long long)s->flushes,
        (unsigned long long)s->steps, (unsigned long long)s->slow);
}

const struct engine_ops cache_engine = {
    .name = "cache",
    .probe = cache_probe,
    .vcpu_create = cache_vcpu_create,
    .run = cache_run,
    .pull_state = cache_sync,
    .push_state = cache_sync,
    .invalidate = cache_invalidate,
    .kick = cache_kick,
    .stats = cache_stats,
    .vcpu_destroy = cache_vcpu_destroy,
};
