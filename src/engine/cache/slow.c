// The ways from handlers to the interpreter and out of a run.
//
// Counting. `left`, which handlers carry, is the budget with all of the current run's instructions taken off. Before cell o,
// left + o->rest is what is really left. e->chunk is what was really left when the interpreter's own counters (budget, and
// vcpu.insns, which devices can see through the clock) were last exact; sync() brings them up to date by the difference.
#include "engine/cache/exec.h"

static void count(struct cache *e, i64 really_left)
{
    u64 run = (u64)(e->chunk - really_left);
    e->chunk = really_left;
    e->in.budget -= run;
    e->in.v->insns += run;
}

void sync_flags(struct cache *e)
{
    u64 *fl = &e->in.c->rflags;
    unsigned size = e->flags_kind & FLAGS_SIZE;
    u64 a = e->flags_a, b = e->flags_b;
    switch (e->flags_kind & FLAGS_KIND) {
    case FLAGS_READY: break;
    case FLAGS_SUB: alu_sub(size, a, b, fl); break;
    case FLAGS_ADD: alu_add(size, a, b, fl); break;
    case FLAGS_LOGIC: alu_and(size, a, a, fl); break;
    case FLAGS_INC: alu_inc(size, a - 1, fl); break;
    case FLAGS_DEC: alu_dec(size, a + 1, fl); break;
    case FLAGS_SHL: alu_shl(size, a, (u8)b, fl); break;
    case FLAGS_SHR: alu_shr(size, a, (u8)b, fl); break;
    case FLAGS_SAR: alu_sar(size, a, (u8)b, fl); break;
    case FLAGS_IMUL: alu_imul2(size, a, b, fl); break;
    }
    if (e->flags_kind & FLAGS_PRODUCT)
        alu_imul2(FLAGS_PRODUCT_SIZE(e->flags_kind), e->product_a, e->product_b, fl);
    e->flags_kind = FLAGS_READY;
}

void sync_at(struct cache *e, u64 rip, i64 left)
{
    e->in.c->rip = in_64bit(e) ? rip : (u32)rip;
    e->cur = NULL;
    count(e, left);
    sync_flags(e);
}

void sync(struct cache *e, const struct cell *o, i64 left)
{
    sync_at(e, e->page_rip + o->off, left + o->rest);
}

HANDLER(slow_leave)
{
    (void)c;
    sync(e, o, left);
    DONE;
}

HANDLER(slow_step)
{
    (void)c;
    sync(e, o, left);
    e->step = true;
    DONE;
}

HANDLER(slow_flags)
{
    sync_flags(e);
    GO(o);
}

HANDLER(slow_link)
{
    (void)c;
    sync_at(e, e->page_rip + (u64)(i64)o->disp, left);
    e->unlinked = (struct cell *)o;
    DONE;
}

// After an instruction that the interpreter ran: can the run go on with the next cell? Device accesses may have asked for
// anything.
static bool goes_on(const struct cache *e, u64 next)
{
    const struct interp *x = &e->in;
    const struct cpu *c = x->c;
    return LIKELY(c->rip == next && !x->stop && c->event.type == CPU_EVENT_NONE && !c->shadow && !requested(e));
}

static u64 rip_after(const struct cache *e, const struct cell *o)
{
    u64 next = e->page_rip + o->next;
    return in_64bit(e) ? next : (u32)next;
}

static void step(struct cache *e, const struct cell *o, i64 left)
{
    e->stats.slow++;
    sync(e, o, left);
    e->in.budget--;
    e->chunk--;
    interp_step(&e->in);
}

// Even a branch can go to the instruction that follows it, but there is no cell for that.
HANDLER(slow_branch)
{
    (void)c;
    step(e, o, left);
    DONE;
}

HANDLER(slow_op)
{
    u64 next = rip_after(e, o);
    step(e, o, left);
    if (!goes_on(e, next))
        DONE;
    (void)c;
    NEXT;
}

HANDLER(slow_call)
{
    struct interp *x = &e->in;
    const struct extra *t = o->extra;
    u64 next = rip_after(e, o);
    sync(e, o, left);
    x->budget--;
    e->chunk--;
    x->restart_rsp = c->gpr[X86_RSP];
    x->insn_bytes = t->bytes;
    x->next_rip = next;
    t->fn(x, &t->in);
    x->v->insns++;
    c->rip = next;
    if (!goes_on(e, next))
        DONE;
    NEXT;
}

// Nothing outside can see the counters now, and only a fault needs them: it finds them by e->cur.
HANDLER(slow_quiet)
{
    struct interp *x = &e->in;
    const struct extra *t = o->extra;
    if (UNLIKELY(e->flags_kind != FLAGS_READY))
        sync_flags(e);
    e->cur = o;
    e->left = left;
    x->restart_rsp = c->gpr[X86_RSP];
    x->insn_bytes = t->bytes;
    c->rip = e->page_rip + o->off;
    x->next_rip = rip_after(e, o);
    t->fn(x, &t->in);
    // An x87 error interrupt, with CR0.NE clear.
    if (UNLIKELY(requested(e)))
        TO(slow_leave, o + 1);
    NEXT;
}
