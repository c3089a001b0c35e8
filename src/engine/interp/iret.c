// IRET in every mode. SDM 2A IRET; APM 3 IRET; v8086 mode with VME: SDM 3A 20.3.
//
// What IRET may write into RFLAGS depends on the operand size and on CPL and IOPL before the return; it is the only
// instruction that can set VM, and it loads RF, which the run loop must then leave alone.
#include "engine/interp/xfer.h"

#define FLAGS_16 0x7fd5u // all of FLAGS, IOPL and IF included
#define FLAGS_USER (X86_FL_STATUS | X86_FL_TF | X86_FL_DF | X86_FL_NT)
#define FLAGS_USER_32 (X86_FL_RF | X86_FL_AC | X86_FL_ID)

static void set_flags(struct interp *x, u64 mask, u64 image)
{
    flags_set(x->c, mask, image);
    x->resume_rf = (mask & X86_FL_RF) != 0;
}

// Flags writable by an IRET of protected mode, from the level that executes it.
static u64 writable_flags(const struct cpu *c, unsigned opsize)
{
    u64 mask = FLAGS_USER;
    if (opsize >= 4)
        mask |= FLAGS_USER_32;
    if (c->cpl <= cpu_iopl(c))
        mask |= X86_FL_IF;
    if (c->cpl == 0) {
        mask |= X86_FL_IOPL;
        if (opsize >= 4)
            mask |= X86_FL_VIF | X86_FL_VIP;
    }
    return mask;
}

// --- real and v8086 mode --------------------------------------------------------------------------------------------------

static void pop_real(struct interp *x, unsigned opsize, u64 *image)
{
    struct cpu *c = x->c;
    u64 off = xfer_peek(x, 0, opsize);
    u16 sel = (u16)xfer_peek(x, opsize, opsize);
    *image = xfer_peek(x, 2 * opsize, opsize);
    if (off > (cpu_v8086(c) ? 0xffff : c->seg[X86_CS].limit))
        interp_gp0(x);
    // VME at IOPL < 3: enabling interrupts with one pending, or single-stepping, is the monitor's business.
    if (cpu_v8086(c) && cpu_iopl(c) < 3) {
        bool pending = (*image & X86_FL_IF) && (c->rflags & X86_FL_VIP);
        if (pending || (*image & X86_FL_TF))
            interp_gp0(x);
    }
    gpr_set(c, X86_RSP, interp_stack_size(x), c->gpr[X86_RSP] + 3 * opsize);
    interp_load_seg_real(x, X86_CS, sel);
    x->next_rip = off;
}

static void iret_real(struct interp *x, unsigned opsize)
{
    u64 image;
    pop_real(x, opsize, &image);
    set_flags(x, opsize == 2 ? FLAGS_16 : FLAGS_16 | FLAGS_USER_32, image);
}

static void iret_v8086(struct interp *x, unsigned opsize)
{
    struct cpu *c = x->c;
    u64 image, mask = FLAGS_16 & ~X86_FL_IOPL;
    bool vme = cpu_iopl(c) < 3;
    if (vme && (!(c->cr4 & X86_CR4_VME) || opsize != 2))
        interp_gp0(x);
    pop_real(x, opsize, &image);
    if (vme) {
        mask = (mask & ~X86_FL_IF) | X86_FL_VIF;
        image = (image & ~(u64)X86_FL_VIF) | (image & X86_FL_IF ? X86_FL_VIF : 0);
    } else if (opsize == 4) {
        mask |= FLAGS_USER_32;
    }
    set_flags(x, mask, image);
}

// --- protected mode -------------------------------------------------------------------------------------------------------

// Level 0 to v8086 mode: the frame goes on with ESP SS ES DS FS GS.
static void to_v8086(struct interp *x, u64 rip, u16 cs, u64 image)
{
    static const u8 order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    struct cpu *c = x->c;
    u16 sel[sizeof(order)];
    u64 sp = xfer_peek(x, 12, 4);
    for (unsigned i = 0; i < sizeof(order); i++)
        sel[i] = (u16)xfer_peek(x, 16 + 4 * i, 4);
    set_flags(x, X86_FL_ALL, image);
    c->cpl = 3;
    interp_load_seg_real(x, X86_CS, cs);
    for (unsigned i = 0; i < sizeof(order); i++)
        interp_load_seg_real(x, order[i], sel[i]);
    gpr_set(c, X86_RSP, 4, sp);
    x->next_rip = rip & 0xffff;
}

static void to_same(struct interp *x, const struct descriptor *cs, u16 sel, u64 rip, unsigned opsize)
{
    struct cpu *c = x->c;
    xfer_check_ip(x, cs, rip);
    xfer_touch_probe(x, cs);
    xfer_release_stack(x, 3 * opsize, desc_is_long(x, cs->attr));
    xfer_set_cs(x, cs, sel, c->cpl, rip);
}

static void to_stack(struct interp *x, const struct descriptor *cs, u16 sel, u64 rip, unsigned opsize)
{
    unsigned rpl = sel & X86_SEL_RPL, old_cpl = x->c->cpl;
    struct descriptor ss;
    u64 sp = xfer_peek(x, 3 * opsize, opsize);
    u16 ss_sel = (u16)xfer_peek(x, 4 * opsize, opsize);
    xfer_check_ip(x, cs, rip);
    bool have_ss = xfer_check_return_ss(x, ss_sel, rpl, desc_is_long(x, cs->attr), &ss);
    xfer_touch_probe(x, cs);
    if (have_ss)
        xfer_touch_probe(x, &ss);
    xfer_set_cs(x, cs, sel, rpl, rip);
    xfer_set_return_stack(x, have_ss ? &ss : NULL, ss_sel, rpl, sp, 0);
    if (rpl != old_cpl)
        xfer_drop_data_segs(x, rpl);
}

static void iret_pmode(struct interp *x, unsigned opsize)
{
    struct cpu *c = x->c;
    bool from_long = cpu_64bit(c);
    struct descriptor cs;
    if (c->rflags & X86_FL_NT) {
        if (cpu_long_mode(c))
            interp_gp0(x);
        xfer_task_return(x);
        return;
    }
    // The order of the loads is what page faults show.
    u64 image = xfer_peek(x, 2 * opsize, opsize);
    u16 sel = (u16)xfer_peek(x, opsize, opsize);
    u64 rip = xfer_peek(x, 0, opsize);
    u64 mask = writable_flags(c, opsize);
    if (opsize == 4 && (image & X86_FL_VM) && c->cpl == 0 && !cpu_long_mode(c)) {
        to_v8086(x, rip, sel, image);
        return;
    }
    if (from_long || (sel & X86_SEL_RPL) != c->cpl) {
        xfer_peek(x, 4 * opsize, opsize);
        xfer_peek(x, 3 * opsize, opsize);
    }
    xfer_check_return_cs(x, sel, &cs);
    // 64-bit code always pops SS:RSP, at the same level too.
    if (from_long || (sel & X86_SEL_RPL) > c->cpl)
        to_stack(x, &cs, sel, rip, opsize);
    else
        to_same(x, &cs, sel, rip, opsize);
    set_flags(x, mask, image);
}

void op_iret(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    // On Intel even an IRET that faults ends NMI blocking (SDM 3A 6.7.1); on AMD one that completes does (APM 2 8.2.3).
    if (!xfer_amd(x))
        c->nmi_blocked = false;
    if (cpu_real_mode(c))
        iret_real(x, in->opsize);
    else if (cpu_v8086(c))
        iret_v8086(x, in->opsize);
    else
        iret_pmode(x, in->opsize);
    c->nmi_blocked = false;
    interp_mode_changed(x);
}
