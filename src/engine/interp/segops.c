// Instructions about descriptors and descriptor tables: LAR LSL VERR VERW ARPL, SGDT SIDT LGDT LIDT, SLDT LLDT STR LTR, SMSW LMSW.
// SDM 2A and 2B under each name; UMIP: SDM 3A 2.5 (CR4.UMIP).
#include <string.h>

#include "engine/interp/xfer.h"

static void need_cpl0(struct interp *x)
{
    if (x->c->cpl != 0)
        interp_gp0(x);
}

static void need_pmode(struct interp *x)
{
    if (!cpu_pmode(x->c))
        interp_ud(x);
}

static void check_umip(struct interp *x)
{
    if ((x->c->cr4 & X86_CR4_UMIP) && x->c->cpl > 0)
        interp_gp0(x);
}

static void set_zf(struct interp *x, bool on)
{
    flags_set(x->c, X86_FL_ZF, on ? X86_FL_ZF : 0);
}

// --- LAR, LSL, VERR, VERW, ARPL -------------------------------------------------------------------------------------------

// System types with access rights, and those with a limit; long mode has fewer. SDM 2A tables 3-51 and 3-57.
#define TYPES_LAR ((1u << 1) | (1u << 2) | (1u << 3) | (1u << 4) | (1u << 5) | (1u << 9) | (1u << 11) | (1u << 12))
#define TYPES_LAR_LONG ((1u << 2) | (1u << 9) | (1u << 11) | (1u << 12))
#define TYPES_LSL ((1u << 1) | (1u << 2) | (1u << 3) | (1u << 9) | (1u << 11))
#define TYPES_LSL_LONG ((1u << 2) | (1u << 9) | (1u << 11))

static bool visible(const struct interp *x, u16 sel, u32 attr)
{
    unsigned dpl = X86_SEG_DPL(attr);
    return desc_is_conforming(attr) || (x->c->cpl <= dpl && (sel & X86_SEL_RPL) <= dpl);
}

static bool look_up(struct interp *x, u16 sel, u32 types, u32 types_long, struct descriptor *d)
{
    if (!interp_fetch_desc(x, sel, d))
        return false;
    if (!(d->attr & X86_SEG_S)) {
        u32 allowed = cpu_long_mode(x->c) ? types_long : types;
        if (!((allowed >> (d->attr & X86_SEG_TYPE)) & 1))
            return false;
    }
    return visible(x, sel, d->attr);
}

void op_lar(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    u16 sel = (u16)opnd_get(x, in, 1);
    bool ok = look_up(x, sel, TYPES_LAR, TYPES_LAR_LONG, &d);
    if (ok)
        opnd_set(x, in, 0, (d.raw >> 32) & 0x00ffff00u);
    set_zf(x, ok);
}

void op_lsl(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    u16 sel = (u16)opnd_get(x, in, 1);
    bool ok = look_up(x, sel, TYPES_LSL, TYPES_LSL_LONG, &d);
    if (ok)
        opnd_set(x, in, 0, d.limit);
    set_zf(x, ok);
}

void op_verr(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    u16 sel = (u16)opnd_get(x, in, 0);
    bool ok = look_up(x, sel, 0, 0, &d);
    set_zf(x, ok && (!(d.attr & X86_SEG_CODE) || (d.attr & X86_SEG_R)));
}

void op_verw(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    u16 sel = (u16)opnd_get(x, in, 0);
    set_zf(x, look_up(x, sel, 0, 0, &d) && desc_is_writable_data(d.attr));
}

void op_arpl(struct interp *x, const struct insn *in)
{
    need_pmode(x);
    unsigned rpl = opnd_get(x, in, 1) & X86_SEL_RPL;
    u64 old = opnd_get(x, in, 0);
    bool adjust = (old & X86_SEL_RPL) < rpl;
    // A selector that stays is not written, and need not be writable.
    if (adjust)
        opnd_set(x, in, 0, (old & ~(u64)X86_SEL_RPL) | rpl);
    set_zf(x, adjust);
}

// --- table registers ------------------------------------------------------------------------------------------------------

// Limit and base: 6 bytes, in 64-bit mode 10. Since the 386 a store has all 32 base bits whatever the operand size.
static void store_table(struct interp *x, const struct insn *in, const struct x86_dtable *t)
{
    u8 buf[10];
    check_umip(x);
    memcpy(buf, &t->limit, 2);
    memcpy(buf + 2, &t->base, 8);
    interp_store_buf(x, in->seg, interp_ea(x, in), buf, cpu_64bit(x->c) ? 10 : 6);
}

static void load_table(struct interp *x, const struct insn *in, struct x86_dtable *t)
{
    u8 buf[10] = {0};
    u64 base;
    u16 limit;
    need_cpl0(x);
    bool wide = cpu_64bit(x->c);
    interp_load_buf(x, in->seg, interp_ea(x, in), buf, wide ? 10 : 6);
    memcpy(&limit, buf, 2);
    memcpy(&base, buf + 2, 8);
    if (wide && !gva_canonical(base))
        interp_gp0(x);
    if (!wide && in->opsize == 2)
        base &= 0xffffff;
    t->limit = limit;
    t->base = base;
}

void op_sgdt(struct interp *x, const struct insn *in)
{
    store_table(x, in, &x->c->gdtr);
}

void op_sidt(struct interp *x, const struct insn *in)
{
    store_table(x, in, &x->c->idtr);
}

void op_lgdt(struct interp *x, const struct insn *in)
{
    load_table(x, in, &x->c->gdtr);
}

void op_lidt(struct interp *x, const struct insn *in)
{
    load_table(x, in, &x->c->idtr);
}

// --- LDTR, TR, machine status word ----------------------------------------------------------------------------------------

// A memory destination gets 16 bits; a register as many as the operand size says.
static void store_word_or_reg(struct interp *x, const struct insn *in, u64 val)
{
    const struct isa_operand *o = &in->opnd[0];
    if (o->kind == ISA_OPND_GPR)
        gpr_set(x->c, o->reg, in->opsize, val);
    else
        interp_store(x, in->seg, interp_ea(x, in), 2, val & 0xffff);
}

void op_sldt(struct interp *x, const struct insn *in)
{
    need_pmode(x);
    check_umip(x);
    store_word_or_reg(x, in, x->c->seg[X86_LDTR].sel);
}

void op_str(struct interp *x, const struct insn *in)
{
    need_pmode(x);
    check_umip(x);
    store_word_or_reg(x, in, x->c->seg[X86_TR].sel);
}

void op_smsw(struct interp *x, const struct insn *in)
{
    check_umip(x);
    store_word_or_reg(x, in, x->c->cr0);
}

void op_lmsw(struct interp *x, const struct insn *in)
{
    u64 cr0 = x->c->cr0;
    need_cpl0(x);
    u64 low = opnd_get(x, in, 0) & (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS);
    // PE can be set, not cleared.
    interp_write_cr0(x, (cr0 & ~(u64)(X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)) | low);
}

// A system segment from the GDT; `types` is a set of allowed type values.
static void fetch_system(struct interp *x, u16 sel, u32 types, struct descriptor *d)
{
    bool ok = !(sel & X86_SEL_TI) && interp_fetch_desc(x, sel, d) && !(d->attr & X86_SEG_S) &&
              ((types >> (d->attr & X86_SEG_TYPE)) & 1) && xfer_fetch_high(x, sel, d);
    if (!ok)
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
    if (!(d->attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    if (cpu_long_mode(x->c) && !gva_canonical(d->base))
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
}

void op_lldt(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    need_cpl0(x);
    u16 sel = (u16)opnd_get(x, in, 0);
    if (xfer_null(sel)) {
        xfer_set_null(x, X86_LDTR, sel);
        return;
    }
    fetch_system(x, sel, 1u << X86_SYS_LDT, &d);
    interp_desc_to_seg(&d, sel, &x->c->seg[X86_LDTR]);
}

void op_ltr(struct interp *x, const struct insn *in)
{
    struct descriptor d;
    need_pmode(x);
    need_cpl0(x);
    u16 sel = (u16)opnd_get(x, in, 0);
    if (xfer_null(sel))
        interp_gp0(x);
    u32 types = 1u << X86_SYS_TSS_AVAIL;
    if (!cpu_long_mode(x->c))
        types |= 1u << X86_SYS_TSS16_AVAIL;
    fetch_system(x, sel, types, &d);
    xfer_desc_bits(x, d.addr, 0, X86_SYS_TSS_BUSY & ~X86_SYS_TSS_AVAIL);
    interp_desc_to_seg(&d, sel, &x->c->seg[X86_TR]);
    x->c->seg[X86_TR].attr |= X86_SYS_TSS_BUSY & ~X86_SYS_TSS_AVAIL;
}
