// Call gates: far CALL and JMP through a 16-, 32- or 64-bit gate, with stack switch and parameter copy on a CALL to an inner level.
// SDM 3A 5.8.3 to 5.8.5, SDM 2A CALL; APM 2 4.8, 4.11.
#include "engine/interp/xfer.h"

#define MAX_PARAMS 31

struct gate xfer_parse_gate(const struct descriptor *d)
{
    u64 raw = d->raw;
    struct gate g = {
        .sel = (u16)(raw >> 16),
        .type = d->attr & X86_SEG_TYPE,
        .dpl = X86_SEG_DPL(d->attr),
        .ist = (raw >> 32) & 7,
        .params = (raw >> 32) & 31,
        .present = (d->attr & X86_SEG_P) != 0,
        .offset = raw & 0xffff,
    };
    if (g.type & 8)
        g.offset |= (raw >> 32) & 0xffff0000u;
    return g;
}

static _Noreturn void raise_gp(struct interp *x, u16 sel)
{
    interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
}

static void check_gate_access(struct interp *x, u16 gate_sel, const struct gate *g)
{
    if (g->dpl < x->c->cpl || g->dpl < (gate_sel & X86_SEL_RPL))
        raise_gp(x, gate_sel);
    if (!g->present)
        interp_raise_err(x, X86_EXC_NP, xfer_err(gate_sel));
}

static void check_gate_code(struct interp *x, const struct gate *g, struct descriptor *cs, bool call)
{
    unsigned cpl = x->c->cpl;
    if (!interp_fetch_desc(x, g->sel, cs) || !desc_is_code(cs->attr))
        raise_gp(x, g->sel);
    unsigned dpl = X86_SEG_DPL(cs->attr);
    if (dpl > cpl || (!call && !desc_is_conforming(cs->attr) && dpl != cpl))
        raise_gp(x, g->sel);
    // Long mode gates lead to 64-bit code only.
    if (cpu_long_mode(x->c) && (cs->attr & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        raise_gp(x, g->sel);
    if (!(cs->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(g->sel));
}

static void call_inner(struct interp *x, const struct gate *g, const struct descriptor *cs, unsigned size)
{
    struct cpu *c = x->c;
    unsigned dpl = X86_SEG_DPL(cs->attr);
    unsigned params = size == 8 ? 0 : g->params;
    u32 param[MAX_PARAMS];
    struct descriptor ss;
    struct xfer_stack st;
    u16 ss_sel;
    u64 sp;
    xfer_tss_stack(x, dpl, &ss_sel, &sp);
    if (size == 8) {
        xfer_stack_64(x, &st, sp, dpl);
    } else {
        xfer_check_inner_ss(x, ss_sel, dpl, &ss);
        xfer_stack_in(x, &st, &ss, ss_sel, sp, dpl);
    }
    xfer_probe(x, &st, 4 + params, size);
    xfer_check_ip(x, cs, g->offset);
    for (unsigned i = 0; i < params; i++)
        param[i] = (u32)xfer_peek(x, i * size, size);
    xfer_touch_probe(x, cs);
    if (size != 8)
        xfer_touch_probe(x, &ss);

    xfer_push(x, &st, size, c->seg[X86_SS].sel);
    xfer_push(x, &st, size, c->gpr[X86_RSP]);
    for (unsigned i = params; i-- > 0;)
        xfer_push(x, &st, size, param[i]);
    xfer_push(x, &st, size, c->seg[X86_CS].sel);
    xfer_push(x, &st, size, x->next_rip);
    xfer_set_cs(x, cs, g->sel, dpl, g->offset);
    if (size == 8) {
        xfer_set_ss_null(x, (u16)dpl, dpl);
    } else {
        xfer_touch(x, &ss);
        interp_desc_to_seg(&ss, ss_sel, &c->seg[X86_SS]);
    }
    xfer_stack_commit(x, &st);
}

static void call_same(struct interp *x, const struct gate *g, const struct descriptor *cs, unsigned size)
{
    struct cpu *c = x->c;
    struct xfer_stack st;
    xfer_stack_current(x, &st);
    // A 64-bit gate used from compatibility mode pushes on the flat 64-bit stack.
    if (size == 8)
        xfer_stack_64(x, &st, c->gpr[X86_RSP], c->cpl);
    st.align = x->align_on;
    xfer_probe(x, &st, 2, size);
    xfer_check_ip(x, cs, g->offset);
    xfer_touch_probe(x, cs);
    xfer_push(x, &st, size, c->seg[X86_CS].sel);
    xfer_push(x, &st, size, x->next_rip);
    xfer_stack_commit(x, &st);
    xfer_set_cs(x, cs, g->sel, c->cpl, g->offset);
}

void xfer_call_gate(struct interp *x, u16 gate_sel, const struct descriptor *d, bool call)
{
    struct gate g = xfer_parse_gate(d);
    struct descriptor cs;
    unsigned size = g.type & 8 ? 4 : 2;
    if (cpu_long_mode(x->c)) {
        size = 8;
        g.offset |= d->base & ~0xffffffffull;
    }
    check_gate_access(x, gate_sel, &g);
    check_gate_code(x, &g, &cs, call);
    if (!call) {
        xfer_check_ip(x, &cs, g.offset);
        xfer_touch_probe(x, &cs);
        xfer_set_cs(x, &cs, g.sel, x->c->cpl, g.offset);
    } else if (!desc_is_conforming(cs.attr) && X86_SEG_DPL(cs.attr) < x->c->cpl) {
        call_inner(x, &g, &cs, size);
    } else {
        call_same(x, &g, &cs, size);
    }
    interp_mode_changed(x);
}
