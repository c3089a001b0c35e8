// Hardware task switches, 16- and 32-bit TSS. SDM 3A chapter 7 (7.3 has the order of events), APM 2 chapter 12.
//
//   check    new TSS descriptor and limits, old TSS limit                            fault: old task, nothing happened
//   probe    everything of both TSSs and the GDT that will be read or written        fault: old task, nothing happened
//   save     old TSS, busy bits, back link                                           cannot fault
//   commit   TR, registers, CR3, selectors (descriptors still unknown)
//   qualify  LDTR, then the segments, each with its checks                           fault: new task
//   enter    T-bit trap, error code on the new stack, EIP against the limit          fault: new task
#include "engine/interp/xfer.h"

#define TSS16_MIN_LIMIT 0x2bu
#define TSS32_MIN_LIMIT 0x67u
#define TSS_BUSY 2u      // type bit that tells a busy TSS from an available one
#define DR7_LOCAL 0x155u // L0 to L3 and LE

// Register order of a TSS, which is that of the encodings: GPRs EAX..EDI, segments ES CS SS DS FS GS.
struct task_image {
    u32 cr3, eip, eflags;
    u32 gpr[8];
    u16 seg[6];
    u16 ldt, trap;
};

// Offsets of the dynamic fields.
struct tss_layout {
    u8 size;                       // of a slot
    u8 eip, eflags, gpr, seg, ldt; // first bytes
    u8 segs, last;                 // number of segment slots; last byte written when a task is left
};

static const struct tss_layout layout16 = {2, 0x0e, 0x10, 0x12, 0x22, 0x2a, 4, 0x29};
static const struct tss_layout layout32 = {4, 0x20, 0x24, 0x28, 0x48, 0x60, 6, 0x5f};

#define TSS32_CR3 0x1c
#define TSS32_TRAP 0x64

static const struct tss_layout *layout_of(u32 attr)
{
    return attr & 8 ? &layout32 : &layout16;
}

static _Noreturn void raise_ts(struct interp *x, u16 sel)
{
    interp_raise_err(x, X86_EXC_TS, xfer_err(sel));
}

static u64 tss_read(struct interp *x, gva base, unsigned off, unsigned size)
{
    return interp_sys_load(x, xfer_lin(x->c, base + off), size);
}

static void tss_write(struct interp *x, gva base, unsigned off, unsigned size, u64 val)
{
    interp_sys_store(x, xfer_lin(x->c, base + off), size, val);
}

// --- check and probe ------------------------------------------------------------------------------------------------------

static void check_limits(struct interp *x, u16 sel, const struct descriptor *d)
{
    const struct x86_seg *tr = &x->c->seg[X86_TR];
    if (d->limit < (d->attr & 8 ? TSS32_MIN_LIMIT : TSS16_MIN_LIMIT))
        raise_ts(x, sel);
    if (tr->limit < layout_of(tr->attr)->last)
        raise_ts(x, tr->sel);
}

static gva tr_descriptor(const struct cpu *c)
{
    return c->gdtr.base + (c->seg[X86_TR].sel & 0xfff8u);
}

static void probe(struct interp *x, const struct descriptor *d, enum task_switch why)
{
    struct cpu *c = x->c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    const struct tss_layout *old = layout_of(tr->attr);
    interp_lin_probe(x, xfer_lin(c, tr->base + old->eip), old->last + 1u - old->eip, MMU_WRITE, TLB_SUPER);
    if (why == TASK_CALL || why == TASK_GATE)
        interp_lin_probe(x, xfer_lin(c, d->base), 2, MMU_WRITE, TLB_SUPER);
    if (why == TASK_JMP || why == TASK_IRET)
        xfer_probe_bits(x, tr_descriptor(c));
    if (why != TASK_IRET)
        xfer_probe_bits(x, d->addr);
}

static struct task_image read_image(struct interp *x, const struct descriptor *d)
{
    const struct tss_layout *l = layout_of(d->attr);
    gva base = d->base;
    struct task_image t = {0};
    t.eip = (u32)tss_read(x, base, l->eip, l->size);
    t.eflags = (u32)tss_read(x, base, l->eflags, l->size);
    for (unsigned i = 0; i < 8; i++) {
        t.gpr[i] = (u32)tss_read(x, base, l->gpr + i * l->size, l->size);
        // A 16-bit TSS has no upper halves; processors since the 386 fill them with ones.
        if (l->size == 2)
            t.gpr[i] |= 0xffff0000u;
    }
    for (unsigned i = 0; i < l->segs; i++)
        t.seg[i] = (u16)tss_read(x, base, l->seg + i * l->size, 2);
    t.ldt = (u16)tss_read(x, base, l->ldt, 2);
    if (l->size == 4) {
        t.cr3 = (u32)tss_read(x, base, TSS32_CR3, 4);
        t.trap = (u16)tss_read(x, base, TSS32_TRAP, 2);
    }
    return t;
}

// --- save -----------------------------------------------------------------------------------------------------------------

static void save_old(struct interp *x, const struct task_request *req)
{
    struct cpu *c = x->c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    const struct tss_layout *l = layout_of(tr->attr);
    u64 flags = req->why == TASK_IRET ? req->flags & ~(u64)X86_FL_NT : req->flags;
    tss_write(x, tr->base, l->eip, l->size, req->ret);
    tss_write(x, tr->base, l->eflags, l->size, flags);
    for (unsigned i = 0; i < 8; i++)
        tss_write(x, tr->base, l->gpr + i * l->size, l->size, c->gpr[i]);
    for (unsigned i = 0; i < l->segs; i++)
        tss_write(x, tr->base, l->seg + i * l->size, 2, c->seg[i].sel);
}

static void save_links(struct interp *x, const struct descriptor *d, enum task_switch why)
{
    struct cpu *c = x->c;
    if (why == TASK_JMP || why == TASK_IRET)
        xfer_desc_bits(x, tr_descriptor(c), TSS_BUSY, 0);
    if (why == TASK_CALL || why == TASK_GATE)
        tss_write(x, d->base, 0, 2, c->seg[X86_TR].sel);
    if (why != TASK_IRET)
        xfer_desc_bits(x, d->addr, 0, TSS_BUSY);
}

// --- commit ---------------------------------------------------------------------------------------------------------------

static void commit_regs(struct interp *x, const struct task_image *t, bool nested)
{
    struct cpu *c = x->c;
    c->rflags = (t->eflags & X86_FL_ALL) | X86_FL_RSVD1 | (nested ? X86_FL_NT : 0);
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = t->gpr[i];
    c->rip = x->next_rip = t->eip;
    x->restart_rsp = c->gpr[X86_RSP];
    c->cpl = cpu_v8086(c) ? 3 : t->seg[X86_CS] & X86_SEL_RPL;
    for (unsigned i = 0; i < 6; i++) {
        xfer_set_null(x, i, t->seg[i]);
        c->seg[i].attr |= (u32)c->cpl << X86_SEG_DPL_SHIFT;
    }
    xfer_set_null(x, X86_LDTR, t->ldt);
    c->shadow = 0;
    x->resume_rf = true;
}

static void commit(struct interp *x, u16 sel, const struct descriptor *d, const struct task_image *t,
                   enum task_switch why)
{
    struct cpu *c = x->c;
    interp_desc_to_seg(d, sel, &c->seg[X86_TR]);
    c->seg[X86_TR].attr |= TSS_BUSY;
    c->cr0 |= X86_CR0_TS;
    c->dr7 &= ~(u64)DR7_LOCAL;
    commit_regs(x, t, why == TASK_CALL || why == TASK_GATE);
    interp_mode_changed(x);
    if ((d->attr & 8) && (c->cr0 & X86_CR0_PG))
        interp_write_cr3(x, t->cr3);
}

// --- qualify --------------------------------------------------------------------------------------------------------------

static void load_ldtr(struct interp *x, u16 sel)
{
    struct descriptor d;
    if (xfer_null(sel))
        return;
    if ((sel & X86_SEL_TI) || !interp_fetch_desc(x, sel, &d) ||
        (d.attr & (X86_SEG_S | X86_SEG_TYPE | X86_SEG_P)) != (X86_SYS_LDT | X86_SEG_P))
        raise_ts(x, sel);
    interp_desc_to_seg(&d, sel, &x->c->seg[X86_LDTR]);
}

static void load_cs(struct interp *x, u16 sel)
{
    struct descriptor d;
    if (!interp_fetch_desc(x, sel, &d) || !desc_is_code(d.attr))
        raise_ts(x, sel);
    unsigned dpl = X86_SEG_DPL(d.attr), rpl = sel & X86_SEL_RPL;
    if (desc_is_conforming(d.attr) ? dpl > rpl : dpl != rpl)
        raise_ts(x, sel);
    if (!(d.attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    xfer_touch(x, &d);
    interp_desc_to_seg(&d, sel, &x->c->seg[X86_CS]);
}

static void load_ss(struct interp *x, u16 sel)
{
    struct descriptor d;
    xfer_check_inner_ss(x, sel, x->c->cpl, &d);
    xfer_touch(x, &d);
    interp_desc_to_seg(&d, sel, &x->c->seg[X86_SS]);
}

static void load_data(struct interp *x, unsigned seg, u16 sel)
{
    struct descriptor d;
    if (xfer_null(sel))
        return;
    if (!interp_fetch_desc(x, sel, &d) || !(d.attr & X86_SEG_S) ||
        (d.attr & (X86_SEG_CODE | X86_SEG_R)) == X86_SEG_CODE)
        raise_ts(x, sel);
    unsigned dpl = X86_SEG_DPL(d.attr);
    if (!desc_is_conforming(d.attr) && (dpl < x->c->cpl || dpl < (sel & X86_SEL_RPL)))
        raise_ts(x, sel);
    if (!(d.attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    xfer_touch(x, &d);
    interp_desc_to_seg(&d, sel, &x->c->seg[seg]);
}

static void qualify(struct interp *x, const struct task_image *t)
{
    static const u8 data_regs[] = {X86_DS, X86_ES, X86_FS, X86_GS};
    load_ldtr(x, t->ldt);
    if (cpu_v8086(x->c)) {
        for (unsigned i = 0; i < 6; i++)
            interp_load_seg_real(x, i, t->seg[i]);
        return;
    }
    // SS first (SDM 3A table 7-1): a handler of a bad CS then still has a stack.
    load_ss(x, t->seg[X86_SS]);
    load_cs(x, t->seg[X86_CS]);
    for (unsigned i = 0; i < sizeof(data_regs); i++)
        load_data(x, data_regs[i], t->seg[data_regs[i]]);
}

// --- enter ----------------------------------------------------------------------------------------------------------------

static void push_error(struct interp *x, u32 error, unsigned size)
{
    struct xfer_stack st;
    xfer_stack_current(x, &st);
    xfer_probe(x, &st, 1, size);
    xfer_push(x, &st, size, error);
    xfer_stack_commit(x, &st);
}

void xfer_task_switch(struct interp *x, u16 sel, const struct descriptor *d, const struct task_request *req)
{
    struct cpu *c = x->c;
    check_limits(x, sel, d);
    probe(x, d, req->why);
    struct task_image t = read_image(x, d);
    save_old(x, req);
    save_links(x, d, req->why);
    commit(x, sel, d, &t, req->why);
    qualify(x, &t);
    interp_mode_changed(x);
    if (t.trap & 1)
        x->dr6_trap |= X86_DR6_BT;
    if (req->has_error)
        push_error(x, req->error, layout_of(d->attr)->size);
    if (c->rip > c->seg[X86_CS].limit)
        interp_gp0(x);
}

static bool tss_type(const struct descriptor *d, bool busy)
{
    u32 type = d->attr & (X86_SEG_S | X86_SEG_TYPE);
    return (type & ~(8u | TSS_BUSY)) == X86_SYS_TSS16_AVAIL && busy == ((type & TSS_BUSY) != 0);
}

void xfer_check_gate_tss(struct interp *x, u16 sel, struct descriptor *d)
{
    if ((sel & X86_SEL_TI) || !interp_fetch_desc(x, sel, d) || !tss_type(d, false))
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
}

void xfer_task_return(struct interp *x)
{
    struct cpu *c = x->c;
    struct descriptor d;
    struct task_request req = {.why = TASK_IRET, .ret = x->next_rip, .flags = c->rflags & ~(u64)X86_FL_RF};
    u16 sel = (u16)tss_read(x, c->seg[X86_TR].base, 0, 2);
    if ((sel & X86_SEL_TI) || !interp_fetch_desc(x, sel, &d) || !tss_type(&d, true))
        raise_ts(x, sel);
    if (!(d.attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    xfer_task_switch(x, sel, &d, &req);
}
