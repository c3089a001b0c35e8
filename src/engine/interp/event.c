// Delivery of interrupts and exceptions, and the INT family. SDM 3A chapter 6 (6.12 protected, 6.14 64-bit mode), 20.1.4 (real
// mode), 20.3 (v8086); APM 2 chapter 8.
//
// interp_deliver() is called by the run loop between instructions, and by INT n, INT3, INTO and INT1 as the last act of the
// instruction. It leaves RIP in both cpu.rip and x->next_rip. A fault on the way leaves the interrupted state as it was,
// except after the commit point of a task switch; whether it becomes a double fault is the loop's decision.
#include "engine/interp/xfer.h"

#define DEBUGCTL_LBR_BTF 3ull

struct delivery {
    const struct cpu_event *ev;
    bool soft; // INT n, INT3, INTO: gate DPL is checked, EXT stays clear
    u64 ret;   // return address
    u64 flags; // EFLAGS image to push
};

// --- the pushed state -----------------------------------------------------------------------------------------------------

static bool is_fault(const struct cpu_event *ev)
{
    if (ev->type != CPU_EVENT_EXCEPTION)
        return false;
    switch (ev->vector) {
    case X86_EXC_DB: return (ev->dr6 & X86_DR6_BD) != 0;
    case X86_EXC_NMI:
    case X86_EXC_BP:
    case X86_EXC_OF:
    case X86_EXC_DF:
    case X86_EXC_MC: return false;
    default: return true;
    }
}

// RF in the image: set for faults, so that the restarted instruction does not meet its breakpoint again, but not for the
// instruction breakpoint itself; otherwise as it stands, which is set inside a REP instruction. SDM 3B 17.3.1.1.
static u64 flags_image(const struct interp *x, const struct cpu_event *ev)
{
    u64 flags = x->c->rflags;
    switch (ev->type) {
    case CPU_EVENT_SOFT_INT:
    case CPU_EVENT_SOFT_EXC:
    case CPU_EVENT_PRIV_INT: return flags & ~(u64)X86_FL_RF;
    default: return is_fault(ev) ? flags | X86_FL_RF : flags;
    }
}

static struct delivery prepare(struct interp *x, const struct cpu_event *ev)
{
    struct cpu *c = x->c;
    struct delivery dv = {.ev = ev, .ret = c->rip, .flags = flags_image(x, ev)};
    dv.soft = ev->type == CPU_EVENT_SOFT_INT || ev->type == CPU_EVENT_SOFT_EXC;
    if (dv.soft || ev->type == CPU_EVENT_PRIV_INT)
        dv.ret += ev->insn_len;
    if (!cpu_64bit(c))
        dv.ret = (u32)dv.ret;
    x->ext = !dv.soft;
    return dv;
}

// What detecting the event does, however its delivery ends.
static void note_event(struct interp *x, const struct cpu_event *ev)
{
    struct cpu *c = x->c;
    if (ev->type == CPU_EVENT_NMI)
        c->nmi_blocked = true;
    if (ev->type != CPU_EVENT_EXCEPTION)
        return;
    if (ev->vector == X86_EXC_PF)
        c->cr2 = ev->cr2;
    if (ev->vector == X86_EXC_DB) {
        // B0 to B3 tell of this exception alone; the other bits stay until software clears them. SDM 3B 18.2.3.
        c->dr6 = (c->dr6 & ~0xfull) | ev->dr6;
        c->dr7 &= ~(u64)X86_DR7_GD;
        c->msr.debugctl &= ~DEBUGCTL_LBR_BTF;
    }
}

static void enter_handler(struct interp *x, u64 clear_flags)
{
    struct cpu *c = x->c;
    flags_set(c, clear_flags, 0);
    c->rip = x->next_rip;
    c->shadow = 0;
    interp_mode_changed(x);
}

// --- real mode ------------------------------------------------------------------------------------------------------------

static u32 idt_error(const struct cpu_event *ev)
{
    return ev->vector * 8u + X86_ERR_IDT;
}

static void deliver_real(struct interp *x, const struct delivery *dv)
{
    struct cpu *c = x->c;
    struct xfer_stack st;
    u32 off = dv->ev->vector * 4u;
    if (off + 3 > c->idtr.limit)
        interp_raise_err(x, X86_EXC_GP, idt_error(dv->ev));
    u32 entry = (u32)interp_sys_load(x, xfer_lin(c, c->idtr.base + off), 4);
    xfer_stack_current(x, &st);
    xfer_probe(x, &st, 3, 2);
    xfer_push(x, &st, 2, dv->flags);
    xfer_push(x, &st, 2, c->seg[X86_CS].sel);
    xfer_push(x, &st, 2, dv->ret);
    xfer_stack_commit(x, &st);
    interp_load_seg_real(x, X86_CS, (u16)(entry >> 16));
    x->next_rip = entry & 0xffff;
    enter_handler(x, X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_RF);
}

// --- v8086 mode: INT n with VME -------------------------------------------------------------------------------------------

#define TSS_IO_BASE 102
#define REDIRECT_BYTES 32

// Does the redirection bitmap (the 32 bytes below the I/O bitmap) send `vector` to the 8086 program's own handler?
static bool redirected(struct interp *x, unsigned vector)
{
    struct cpu *c = x->c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    if (!(c->cr4 & X86_CR4_VME))
        return false;
    if (tr->limit < TSS_IO_BASE + 1)
        interp_gp0(x);
    u32 io_base = (u32)interp_sys_load(x, xfer_lin(c, tr->base + TSS_IO_BASE), 2);
    u32 off = io_base - REDIRECT_BYTES + vector / 8;
    if (off > tr->limit)
        interp_gp0(x);
    return !((interp_sys_load(x, xfer_lin(c, tr->base + off), 1) >> (vector & 7)) & 1);
}

// SDM 3A 20.3.3: through the vector table at linear address 0, on the current stack. At IOPL < 3 the program sees VIF as its
// IF, and IOPL 3.
static void deliver_redirected(struct interp *x, const struct delivery *dv)
{
    struct cpu *c = x->c;
    struct xfer_stack st;
    u64 flags = dv->flags;
    bool virtual_if = cpu_iopl(c) < 3;
    if (virtual_if) {
        flags = (flags & ~(u64)X86_FL_IF) | X86_FL_IOPL;
        if (flags & X86_FL_VIF)
            flags |= X86_FL_IF;
    }
    u32 entry = (u32)interp_lin_load(x, dv->ev->vector * 4u, 4, TLB_USER);
    xfer_stack_current(x, &st);
    xfer_probe(x, &st, 3, 2);
    xfer_push(x, &st, 2, flags);
    xfer_push(x, &st, 2, c->seg[X86_CS].sel);
    xfer_push(x, &st, 2, dv->ret);
    xfer_stack_commit(x, &st);
    interp_load_seg_real(x, X86_CS, (u16)(entry >> 16));
    x->next_rip = entry & 0xffff;
    enter_handler(x, X86_FL_TF | X86_FL_RF | (virtual_if ? X86_FL_VIF : X86_FL_IF));
}

// --- gates ----------------------------------------------------------------------------------------------------------------

static struct gate read_gate(struct interp *x, const struct delivery *dv)
{
    struct cpu *c = x->c;
    bool long_mode = cpu_long_mode(c);
    unsigned size = long_mode ? 16 : 8;
    u32 off = dv->ev->vector * size;
    if (off + size - 1 > c->idtr.limit)
        interp_raise_err(x, X86_EXC_GP, idt_error(dv->ev));
    gva a = xfer_lin(c, c->idtr.base + off);
    struct descriptor d = {.raw = interp_sys_load(x, a, 8)};
    d.attr = (u32)(d.raw >> 40) & 0xff;
    struct gate g = xfer_parse_gate(&d);
    unsigned type = d.attr & (X86_SEG_S | X86_SEG_TYPE);
    bool legal = type == X86_SYS_INT || type == X86_SYS_TRAP;
    if (long_mode)
        g.offset |= interp_sys_load(x, a + 8, 4) << 32;
    else
        legal |= type == X86_SYS_INT16 || type == X86_SYS_TRAP16 || type == X86_SYS_TASK_GATE;
    if (!legal || (dv->soft && g.dpl < c->cpl))
        interp_raise_err(x, X86_EXC_GP, idt_error(dv->ev));
    if (!g.present)
        interp_raise_err(x, X86_EXC_NP, idt_error(dv->ev));
    return g;
}

static void check_handler_code(struct interp *x, const struct gate *g, struct descriptor *cs)
{
    struct cpu *c = x->c;
    if (!interp_fetch_desc(x, g->sel, cs) || !desc_is_code(cs->attr) || X86_SEG_DPL(cs->attr) > c->cpl)
        interp_raise_err(x, X86_EXC_GP, xfer_err(g->sel));
    if (cpu_long_mode(c) && (cs->attr & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        interp_raise_err(x, X86_EXC_GP, xfer_err(g->sel));
    if (!(cs->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(g->sel));
    // v8086 mode is left to level 0 only.
    if (cpu_v8086(c) && (desc_is_conforming(cs->attr) || X86_SEG_DPL(cs->attr) != 0))
        interp_raise_err(x, X86_EXC_GP, xfer_err(g->sel));
}

static u64 handler_flags(const struct gate *g)
{
    bool interrupt_gate = !(g->type & 1);
    return X86_FL_TF | X86_FL_VM | X86_FL_RF | X86_FL_NT | (interrupt_gate ? X86_FL_IF : 0);
}

static void push_tail(struct interp *x, struct xfer_stack *st, const struct delivery *dv, unsigned size)
{
    xfer_push(x, st, size, dv->flags);
    xfer_push(x, st, size, x->c->seg[X86_CS].sel);
    xfer_push(x, st, size, dv->ret);
    if (dv->ev->has_error)
        xfer_push(x, st, size, dv->ev->error);
}

// The frame goes onto a 16-byte aligned 64-bit stack and always has SS:RSP. SDM 3A 6.14.2 to 6.14.5.
static void deliver_long(struct interp *x, const struct delivery *dv, const struct gate *g)
{
    struct cpu *c = x->c;
    struct descriptor cs;
    struct xfer_stack st;
    check_handler_code(x, g, &cs);
    bool inner = !desc_is_conforming(cs.attr) && X86_SEG_DPL(cs.attr) < c->cpl;
    unsigned cpl = inner ? X86_SEG_DPL(cs.attr) : c->cpl;
    u16 ss = (u16)cpl;
    u64 sp = c->gpr[X86_RSP];
    if (g->ist)
        sp = xfer_tss_ist(x, g->ist);
    else if (inner)
        xfer_tss_stack(x, cpl, &ss, &sp);
    xfer_stack_64(x, &st, sp & ~15ull, cpl);
    xfer_probe(x, &st, dv->ev->has_error ? 6 : 5, 8);
    xfer_check_ip(x, &cs, g->offset);
    xfer_touch_probe(x, &cs);

    xfer_push(x, &st, 8, c->seg[X86_SS].sel);
    xfer_push(x, &st, 8, c->gpr[X86_RSP]);
    push_tail(x, &st, dv, 8);
    xfer_set_cs(x, &cs, g->sel, cpl, g->offset);
    if (inner)
        xfer_set_ss_null(x, ss, cpl);
    xfer_stack_commit(x, &st);
    enter_handler(x, handler_flags(g));
}

static void deliver_same(struct interp *x, const struct delivery *dv, const struct gate *g, const struct descriptor *cs)
{
    struct xfer_stack st;
    unsigned size = g->type & 8 ? 4 : 2;
    xfer_stack_current(x, &st);
    xfer_probe(x, &st, dv->ev->has_error ? 4 : 3, size);
    xfer_check_ip(x, cs, g->offset);
    xfer_touch_probe(x, cs);
    push_tail(x, &st, dv, size);
    xfer_stack_commit(x, &st);
    xfer_set_cs(x, cs, g->sel, x->c->cpl, g->offset);
}

static void push_v8086_segs(struct interp *x, struct xfer_stack *st, unsigned size)
{
    static const u8 order[] = {X86_GS, X86_FS, X86_DS, X86_ES};
    for (unsigned i = 0; i < sizeof(order); i++) {
        xfer_push(x, st, size, x->c->seg[order[i]].sel);
        xfer_set_null(x, order[i], 0);
    }
}

static void deliver_inner(struct interp *x, const struct delivery *dv, const struct gate *g,
                          const struct descriptor *cs)
{
    struct cpu *c = x->c;
    struct descriptor ss;
    struct xfer_stack st;
    unsigned dpl = X86_SEG_DPL(cs->attr), size = g->type & 8 ? 4 : 2;
    unsigned count = 5 + dv->ev->has_error + (cpu_v8086(c) ? 4 : 0);
    u16 ss_sel;
    u64 sp;
    xfer_tss_stack(x, dpl, &ss_sel, &sp);
    xfer_check_inner_ss(x, ss_sel, dpl, &ss);
    xfer_stack_in(x, &st, &ss, ss_sel, sp, dpl);
    xfer_probe(x, &st, count, size);
    xfer_check_ip(x, cs, g->offset);
    xfer_touch_probe(x, cs);
    xfer_touch_probe(x, &ss);

    if (cpu_v8086(c))
        push_v8086_segs(x, &st, size);
    xfer_push(x, &st, size, c->seg[X86_SS].sel);
    xfer_push(x, &st, size, c->gpr[X86_RSP]);
    push_tail(x, &st, dv, size);
    xfer_set_cs(x, cs, g->sel, dpl, g->offset);
    xfer_touch(x, &ss);
    interp_desc_to_seg(&ss, ss_sel, &c->seg[X86_SS]);
    xfer_stack_commit(x, &st);
}

static void deliver_task(struct interp *x, const struct delivery *dv, const struct gate *g)
{
    struct descriptor tss;
    struct task_request req = {
        .why = TASK_GATE,
        .ret = dv->ret,
        .flags = dv->flags,
        .has_error = dv->ev->has_error,
        .error = dv->ev->error,
    };
    xfer_check_gate_tss(x, g->sel, &tss);
    xfer_task_switch(x, g->sel, &tss, &req);
}

static void deliver_legacy(struct interp *x, const struct delivery *dv, const struct gate *g)
{
    struct descriptor cs;
    if (g->type == X86_SYS_TASK_GATE) {
        deliver_task(x, dv, g);
        return;
    }
    check_handler_code(x, g, &cs);
    if (!desc_is_conforming(cs.attr) && X86_SEG_DPL(cs.attr) < x->c->cpl)
        deliver_inner(x, dv, g, &cs);
    else
        deliver_same(x, dv, g, &cs);
    enter_handler(x, handler_flags(g));
}

void interp_deliver(struct interp *x, const struct cpu_event *ev)
{
    struct cpu *c = x->c;
    struct delivery dv = prepare(x, ev);
    note_event(x, ev);
    if (cpu_real_mode(c)) {
        deliver_real(x, &dv);
    } else if (cpu_v8086(c) && ev->type == CPU_EVENT_SOFT_INT && redirected(x, ev->vector)) {
        deliver_redirected(x, &dv);
    } else {
        if (cpu_v8086(c) && ev->type == CPU_EVENT_SOFT_INT && cpu_iopl(c) < 3)
            interp_gp0(x);
        struct gate g = read_gate(x, &dv);
        if (cpu_long_mode(c))
            deliver_long(x, &dv, &g);
        else
            deliver_legacy(x, &dv, &g);
    }
    x->ext = false;
}

// --- instructions ---------------------------------------------------------------------------------------------------------

static void soft_event(struct interp *x, const struct insn *in, enum cpu_event_type type, unsigned vector)
{
    struct cpu_event ev = {.type = (u8)type, .vector = (u8)vector, .insn_len = in->len};
    interp_deliver(x, &ev);
    x->tf_cleared = true;
}

void op_int(struct interp *x, const struct insn *in)
{
    soft_event(x, in, CPU_EVENT_SOFT_INT, (u8)in->imm);
}

void op_int3(struct interp *x, const struct insn *in)
{
    soft_event(x, in, CPU_EVENT_SOFT_EXC, X86_EXC_BP);
}

void op_into(struct interp *x, const struct insn *in)
{
    if (x->c->rflags & X86_FL_OF)
        soft_event(x, in, CPU_EVENT_SOFT_EXC, X86_EXC_OF);
}

// A data breakpoint that a MOV SS held back is part of the #DB that INT1 makes.
void op_int1(struct interp *x, const struct insn *in)
{
    soft_event(x, in, CPU_EVENT_PRIV_INT, X86_EXC_DB);
    x->c->dr6 |= x->c->pending_dr6;
    x->c->pending_dr6 = 0;
}
