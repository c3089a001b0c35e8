// Stack frames of far transfers: where they go, whether they fit, and the pushes.
//
// A frame is probed slot by slot from the top, in the order in which the processor pushes, so that a page fault reports the
// address that hardware would have reported; only then is anything stored. Each slot is checked by itself because a
// 16-bit stack may wrap between two pushes, but never inside one.
#include "engine/interp/xfer.h"

void xfer_stack_current(struct interp *x, struct xfer_stack *st)
{
    struct cpu *c = x->c;
    const struct x86_seg *ss = &c->seg[X86_SS];
    *st = (struct xfer_stack){
        .base = ss->base,
        .limit = ss->limit,
        .attr = ss->attr,
        .sp = c->gpr[X86_RSP],
        .width = interp_stack_size(x),
        .view = x->view,
        .align = x->align_on,
    };
}

void xfer_stack_in(struct interp *x, struct xfer_stack *st, const struct descriptor *d, u16 sel, u64 sp, unsigned cpl)
{
    *st = (struct xfer_stack){
        .base = d->base,
        .limit = d->limit,
        .attr = d->attr,
        .sp = sp,
        .width = d->attr & X86_SEG_DB ? 4 : 2,
        .view = xfer_view(x->c, cpl),
        .err = xfer_err(sel),
    };
}

void xfer_stack_64(struct interp *x, struct xfer_stack *st, u64 sp, unsigned cpl)
{
    *st = (struct xfer_stack){.sp = sp, .width = 8, .view = xfer_view(x->c, cpl)};
}

static bool slot_fits(const struct xfer_stack *st, u64 off, unsigned size)
{
    if (st->width == 8)
        return gva_canonical(off) && gva_canonical(off + size - 1);
    if (st->attr & X86_SEG_UNUSABLE)
        return false;
    u64 last = off + size - 1;
    if ((st->attr & (X86_SEG_CODE | X86_SEG_E)) == X86_SEG_E)
        return off > st->limit && last <= (st->attr & X86_SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= st->limit;
}

static gva slot_lin(const struct xfer_stack *st, u64 off)
{
    return st->width == 8 ? off : (u32)(st->base + off);
}

void xfer_probe(struct interp *x, const struct xfer_stack *st, unsigned count, unsigned size)
{
    u64 mask = size_mask(st->width);
    u64 off = st->sp & mask;
    for (unsigned i = 0; i < count; i++) {
        off = (off - size) & mask;
        if (!slot_fits(st, off, size))
            interp_raise_err(x, X86_EXC_SS, st->err);
        gva a = slot_lin(st, off);
        if (st->align && (a & (size - 1)))
            interp_raise_err(x, X86_EXC_AC, 0);
        if (!tlb_write(&x->v->tlb, st->view, a, size))
            interp_lin_probe(x, a, size, MMU_WRITE, st->view);
    }
}

void xfer_push(struct interp *x, struct xfer_stack *st, unsigned size, u64 val)
{
    st->sp = (st->sp - size) & size_mask(st->width);
    gva a = slot_lin(st, st->sp);
    if (UNLIKELY(x->debug_on))
        interp_check_watch(x, a, size, true);
    interp_lin_store(x, a, size, st->view, val);
}

void xfer_stack_commit(struct interp *x, const struct xfer_stack *st)
{
    gpr_set(x->c, X86_RSP, st->width, st->sp);
}

u64 xfer_peek(struct interp *x, unsigned disp, unsigned size)
{
    u64 off = (x->c->gpr[X86_RSP] + disp) & size_mask(interp_stack_size(x));
    return interp_load(x, X86_SS, off, size);
}

void xfer_release_stack(struct interp *x, u32 bytes, bool to_long)
{
    unsigned width = interp_stack_size(x);
    if (to_long && width < 4)
        width = 4;
    gpr_set(x->c, X86_RSP, width, x->c->gpr[X86_RSP] + bytes);
}

// --- stacks in the TSS ----------------------------------------------------------------------------------------------------

static u64 tss_load(struct interp *x, u32 off, unsigned size)
{
    struct cpu *c = x->c;
    return interp_sys_load(x, xfer_lin(c, c->seg[X86_TR].base + off), size);
}

static void check_tss_room(struct interp *x, u32 last)
{
    const struct x86_seg *tr = &x->c->seg[X86_TR];
    if (last > tr->limit)
        interp_raise_err(x, X86_EXC_TS, xfer_err(tr->sel));
}

void xfer_tss_stack(struct interp *x, unsigned dpl, u16 *ss, u64 *sp)
{
    struct cpu *c = x->c;
    if (cpu_long_mode(c)) {
        check_tss_room(x, 4 + dpl * 8 + 7);
        *ss = (u16)dpl;
        *sp = tss_load(x, 4 + dpl * 8, 8);
    } else if (c->seg[X86_TR].attr & 8) {
        check_tss_room(x, 4 + dpl * 8 + 5);
        *sp = tss_load(x, 4 + dpl * 8, 4);
        *ss = (u16)tss_load(x, 8 + dpl * 8, 2);
    } else {
        check_tss_room(x, 2 + dpl * 4 + 3);
        *sp = tss_load(x, 2 + dpl * 4, 2);
        *ss = (u16)tss_load(x, 4 + dpl * 4, 2);
    }
}

u64 xfer_tss_ist(struct interp *x, unsigned ist)
{
    check_tss_room(x, 28 + ist * 8 + 7);
    return tss_load(x, 28 + ist * 8, 8);
}

void xfer_check_inner_ss(struct interp *x, u16 ss, unsigned dpl, struct descriptor *d)
{
    if (!interp_fetch_desc(x, ss, d) || (ss & X86_SEL_RPL) != dpl || X86_SEG_DPL(d->attr) != dpl ||
        !desc_is_writable_data(d->attr))
        interp_raise_err(x, X86_EXC_TS, xfer_err(ss));
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_SS, xfer_err(ss));
}
