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
        if (x->mode == ISA_MODE_32 && cpu_flat32(c))
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
    if (!r && keeper_is_busy(&e->keeper, page, e->in.v->insns)) {
        e->quiet_steps = KEEPER_STEPS;
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

static bool drop(void *engine, hva page, unsigned off, unsigned len, u64 *dropped)
{
    return store_drop(engine, page, off, len, dropped);
}

static void flush(void *engine)
{
    store_flush(engine);
}

// `now` counts instructions.
static const struct keeper_ops keeper_ops = {.drop = drop, .flush = flush, .window = 1000000, .time = 100000};

// Any thread.
static void cache_invalidate(struct vcpu *v, gpa base, u64 len)
{
    struct cache *e = v->engine_state;
    keeper_post(&e->keeper, v, base, len);
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
        if (keeper_pending(x->v))
            keeper_drop(&e->keeper, x->v, x->v->insns);
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
            if (keeper_pending(x->v))
                keeper_drop(&e->keeper, x->v, x->v->insns);
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
    e->host_flags = host_flags_study();
    keeper_init(&e->keeper, &keeper_ops, e);
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
        (unsigned long long)s->found, (unsigned long long)s->links, (unsigned long long)e->keeper.dropped,
        (unsigned long long)e->keeper.left_alone, (unsigned long long)s->evictions,
        (unsigned long long)e->keeper.flushes, (unsigned long long)s->steps, (unsigned long long)s->slow);
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
