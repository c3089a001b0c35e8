// Far CALL, JMP and RET: real and v8086 mode, code segments at the same level, and returns to outer levels. Gates are in
// gate.c, task switches in task.c. SDM 2A CALL, JMP, SDM 2B RET; APM 3 CALL (Far), JMP (Far), RET (Far).
#include "engine/interp/xfer.h"

// The far pointer of the instruction. In memory the offset comes first; each part is aligned by itself (SDM 3A table 6-7).
static void far_operand(struct interp *x, const struct insn *in, u16 *sel, u64 *off)
{
    if (in->opnd[0].kind == ISA_OPND_FAR) {
        *sel = (u16)in->imm2;
        *off = (u64)in->imm & size_mask(in->opsize);
        return;
    }
    unsigned size = in->opnd[0].size - 2u;
    u64 ea = interp_ea(x, in);
    *off = interp_load(x, in->seg, ea, size);
    *sel = (u16)interp_load(x, in->seg, ea + size, 2);
}

// AMD has no m16:64: with REX.W the pointer is m16:32, but what a CALL pushes is 8 bytes wide.
static unsigned push_size(const struct insn *in)
{
    return in->mode == ISA_MODE_64 && (in->rex & ISA_REX_W) ? 8 : in->opsize;
}

static void push_return(struct interp *x, struct xfer_stack *st, unsigned size)
{
    xfer_push(x, st, size, x->c->seg[X86_CS].sel);
    xfer_push(x, st, size, x->next_rip);
    xfer_stack_commit(x, st);
}

// --- real and v8086 mode --------------------------------------------------------------------------------------------------

static void check_real_ip(struct interp *x, u64 off)
{
    u32 limit = cpu_v8086(x->c) ? 0xffff : x->c->seg[X86_CS].limit;
    if (off > limit)
        interp_gp0(x);
}

static void far_real(struct interp *x, u16 sel, u64 off, unsigned opsize, bool call)
{
    struct xfer_stack st;
    if (call) {
        xfer_stack_current(x, &st);
        xfer_probe(x, &st, 2, opsize);
    }
    check_real_ip(x, off);
    if (call)
        push_return(x, &st, opsize);
    interp_load_seg_real(x, X86_CS, sel);
    x->next_rip = off;
    interp_mode_changed(x);
}

static void ret_real(struct interp *x, unsigned opsize, u32 release)
{
    struct cpu *c = x->c;
    u64 off = xfer_peek(x, 0, opsize);
    u16 sel = (u16)xfer_peek(x, opsize, opsize);
    check_real_ip(x, off);
    gpr_set(c, X86_RSP, interp_stack_size(x), c->gpr[X86_RSP] + 2 * opsize + release);
    interp_load_seg_real(x, X86_CS, sel);
    x->next_rip = off;
    interp_mode_changed(x);
}

// --- protected mode: CALL and JMP -----------------------------------------------------------------------------------------

static _Noreturn void bad_target(struct interp *x, u16 sel)
{
    interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
}

// A far call pushes the way the new code does: no base and limit in 64-bit code, a stack segment elsewhere.
static void new_code_stack(struct interp *x, const struct descriptor *d, struct xfer_stack *st)
{
    bool to_long = desc_is_long(x, d->attr);
    xfer_stack_current(x, st);
    if (to_long && st->width != 8) {
        xfer_stack_64(x, st, (u32)st->sp, x->c->cpl);
        st->align = x->align_on;
    } else if (!to_long && st->width == 8) {
        st->width = st->attr & X86_SEG_DB ? 4 : 2;
    }
}

static void far_code(struct interp *x, const struct descriptor *d, u16 sel, u64 off, unsigned opsize, bool call)
{
    unsigned cpl = x->c->cpl, dpl = X86_SEG_DPL(d->attr);
    struct xfer_stack st;
    if (desc_is_long(x, d->attr) && (d->attr & X86_SEG_DB))
        bad_target(x, sel);
    if (desc_is_conforming(d->attr) ? dpl > cpl : (sel & X86_SEL_RPL) > cpl || dpl != cpl)
        bad_target(x, sel);
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    if (call) {
        new_code_stack(x, d, &st);
        // Each slot is stored before the next is looked at, and both before the target: hardware, too, leaves them behind when
        // what follows faults.
        xfer_touch_probe(x, d);
        xfer_probe(x, &st, 1, opsize);
        xfer_push(x, &st, opsize, x->c->seg[X86_CS].sel);
        xfer_probe(x, &st, 1, opsize);
        xfer_push(x, &st, opsize, x->next_rip);
        xfer_check_ip(x, d, off);
        xfer_stack_commit(x, &st);
    } else {
        xfer_check_ip(x, d, off);
        xfer_touch_probe(x, d);
    }
    xfer_set_cs(x, d, sel, cpl, off);
    interp_mode_changed(x);
}

static void far_task(struct interp *x, const struct descriptor *d, u16 sel, bool call)
{
    struct task_request req = {
        .why = call ? TASK_CALL : TASK_JMP,
        .ret = x->next_rip,
        .flags = x->c->rflags & ~(u64)X86_FL_RF,
    };
    struct descriptor tss = *d;
    unsigned dpl = X86_SEG_DPL(d->attr);
    if (dpl < x->c->cpl || dpl < (sel & X86_SEL_RPL))
        bad_target(x, sel);
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    if ((d->attr & X86_SEG_TYPE) == X86_SYS_TASK_GATE) {
        sel = xfer_parse_gate(d).sel;
        xfer_check_gate_tss(x, sel, &tss);
    }
    xfer_task_switch(x, sel, &tss, &req);
}

// System descriptors: long mode knows the 64-bit call gate only.
static void far_system(struct interp *x, struct descriptor *d, u16 sel, bool call)
{
    unsigned type = d->attr & X86_SEG_TYPE;
    if (cpu_long_mode(x->c)) {
        if (type != X86_SYS_CALL || !xfer_fetch_high(x, sel, d))
            bad_target(x, sel);
        xfer_call_gate(x, sel, d, call);
        return;
    }
    switch (type) {
    case X86_SYS_CALL16:
    case X86_SYS_CALL: xfer_call_gate(x, sel, d, call); return;
    case X86_SYS_TASK_GATE:
    case X86_SYS_TSS16_AVAIL:
    case X86_SYS_TSS_AVAIL: far_task(x, d, sel, call); return;
    default: bad_target(x, sel);
    }
}

static void far_transfer(struct interp *x, const struct insn *in, bool call)
{
    struct descriptor d;
    u16 sel;
    u64 off;
    far_operand(x, in, &sel, &off);
    if (!cpu_pmode(x->c)) {
        far_real(x, sel, off, in->opsize, call);
        return;
    }
    if (!interp_fetch_desc(x, sel, &d))
        bad_target(x, sel);
    if (!(d.attr & X86_SEG_S))
        far_system(x, &d, sel, call);
    else if (d.attr & X86_SEG_CODE)
        far_code(x, &d, sel, off, push_size(in), call);
    else
        bad_target(x, sel);
}

void op_call_far(struct interp *x, const struct insn *in)
{
    far_transfer(x, in, true);
}

void op_jmp_far(struct interp *x, const struct insn *in)
{
    far_transfer(x, in, false);
}

// --- protected mode: returns ----------------------------------------------------------------------------------------------

void xfer_check_return_cs(struct interp *x, u16 sel, struct descriptor *d)
{
    unsigned rpl = sel & X86_SEL_RPL;
    if (!interp_fetch_desc(x, sel, d) || !desc_is_code(d->attr) || rpl < x->c->cpl)
        bad_target(x, sel);
    unsigned dpl = X86_SEG_DPL(d->attr);
    if (desc_is_long(x, d->attr) && (d->attr & X86_SEG_DB))
        bad_target(x, sel);
    if (desc_is_conforming(d->attr) ? dpl > rpl : dpl != rpl)
        bad_target(x, sel);
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
}

bool xfer_check_return_ss(struct interp *x, u16 sel, unsigned rpl, bool to_long, struct descriptor *d)
{
    if (xfer_null(sel)) {
        // 64-bit code below level 3 may run with a null SS; SDM asks for RPL = level of the code there too.
        if (!to_long || rpl == 3 || (!xfer_amd(x) && (sel & X86_SEL_RPL) != rpl))
            interp_gp0(x);
        return false;
    }
    if (!interp_fetch_desc(x, sel, d) || (sel & X86_SEL_RPL) != rpl || !desc_is_writable_data(d->attr) ||
        X86_SEG_DPL(d->attr) != rpl)
        bad_target(x, sel);
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_SS, xfer_err(sel));
    return true;
}

void xfer_set_return_stack(struct interp *x, const struct descriptor *d, u16 sel, unsigned cpl, u64 sp, u32 release)
{
    struct cpu *c = x->c;
    unsigned width = 8;
    if (d) {
        xfer_touch(x, d);
        interp_desc_to_seg(d, sel, &c->seg[X86_SS]);
        width = d->attr & X86_SEG_DB ? 4 : 2;
    } else {
        xfer_set_ss_null(x, sel, cpl);
    }
    // A 16-bit stack gets SP only: the upper half of ESP keeps the inner level's, on hardware too.
    gpr_set(c, X86_RSP, cpu_64bit(c) ? 8 : width, sp + release);
}

static void ret_outer(struct interp *x, const struct descriptor *cs, u16 sel, u64 rip, unsigned opsize, u32 release)
{
    unsigned rpl = sel & X86_SEL_RPL;
    struct descriptor ss;
    u64 sp = xfer_peek(x, 2 * opsize + release, opsize);
    u16 ss_sel = (u16)xfer_peek(x, 3 * opsize + release, opsize);
    bool have_ss = xfer_check_return_ss(x, ss_sel, rpl, desc_is_long(x, cs->attr), &ss);
    xfer_check_ip(x, cs, rip);
    xfer_touch_probe(x, cs);
    if (have_ss)
        xfer_touch_probe(x, &ss);
    xfer_set_cs(x, cs, sel, rpl, rip);
    xfer_set_return_stack(x, have_ss ? &ss : NULL, ss_sel, rpl, sp, release);
    xfer_drop_data_segs(x, rpl);
    interp_mode_changed(x);
}

static void ret_pmode(struct interp *x, unsigned opsize, u32 release)
{
    struct cpu *c = x->c;
    struct descriptor cs;
    // The order of the loads is what page faults show; a change of level is met before CS is checked.
    u16 sel = (u16)xfer_peek(x, opsize, opsize);
    u64 rip = xfer_peek(x, 0, opsize);
    if ((sel & X86_SEL_RPL) != c->cpl) {
        xfer_peek(x, 3 * opsize + release, opsize);
        xfer_peek(x, 2 * opsize + release, opsize);
    }
    xfer_check_return_cs(x, sel, &cs);
    if ((sel & X86_SEL_RPL) > c->cpl) {
        ret_outer(x, &cs, sel, rip, opsize, release);
        return;
    }
    xfer_check_ip(x, &cs, rip);
    xfer_touch_probe(x, &cs);
    xfer_release_stack(x, 2 * opsize + release, desc_is_long(x, cs.attr));
    xfer_set_cs(x, &cs, sel, c->cpl, rip);
    interp_mode_changed(x);
}

void op_ret_far(struct interp *x, const struct insn *in)
{
    u32 release = in->nopnd ? (u16)in->imm : 0;
    if (cpu_pmode(x->c))
        ret_pmode(x, in->opsize, release);
    else
        ret_real(x, in->opsize, release);
}
