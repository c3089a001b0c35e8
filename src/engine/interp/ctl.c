// Control, debug and extended control registers, and what invalidates translations: MOV CR, MOV DR, CLTS, XGETBV, XSETBV,
// INVLPG, INVPCID. SDM 3A 2.5, 4.10.4, 10.8.6; 3B 18.2; APM 2 3.1, 5.5.
//
// A write checks everything before it changes anything, then tells the MMU what changed and recomputes the interpreter's caches.
#include "engine/interp/simd.h"

#define CR0_BITS \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | \
     X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static bool has(const struct interp *x, enum isa_feature f)
{
    return cpu_model_offers(x->v->model, f);
}

static void require_cpl0(struct interp *x)
{
    if (x->c->cpl != 0)
        interp_gp0(x);
}

// --- CR0 --------------------------------------------------------------------------------------------------------------------

// EFER as CR0.PG makes it: LMA follows LME while paging is on.
static u64 efer_with_paging(const struct cpu *c, u64 cr0)
{
    u64 efer = c->msr.efer & ~(u64)X86_EFER_LMA;
    return efer & X86_EFER_LME && cr0 & X86_CR0_PG ? efer | X86_EFER_LMA : efer;
}

// A 16-bit TSS cannot be the current one in long mode. SDM 3A 9.8.5.4.
static bool tss16_loaded(const struct cpu *c)
{
    u32 type = c->seg[X86_TR].attr & X86_SEG_TYPE;
    return type == X86_SYS_TSS16_AVAIL || type == X86_SYS_TSS16_BUSY;
}

static void check_paging_change(struct interp *x, u64 cr0)
{
    const struct cpu *c = x->c;
    bool on = cr0 & X86_CR0_PG;
    if (on && c->msr.efer & X86_EFER_LME) {
        if (!(c->cr4 & X86_CR4_PAE) || c->seg[X86_CS].attr & X86_SEG_L || tss16_loaded(c))
            interp_gp0(x);
    } else if (!on && (cpu_64bit(c) || c->cr4 & X86_CR4_PCIDE)) {
        interp_gp0(x);
    }
}

// PAE paging outside long mode keeps the four page-directory pointers in the processor. SDM 3A 4.4.1.
static void load_pdptes(struct interp *x, u64 cr3)
{
    if (!mmu_load_pdptes(x->v, cr3))
        interp_gp0(x);
}

void interp_write_cr0(struct interp *x, u64 val)
{
    struct cpu *c = x->c;
    u64 old = c->cr0, old_efer = c->msr.efer;
    if (val >> 32)
        interp_gp0(x);
    val = (val & CR0_BITS) | X86_CR0_ET; // other bits are ignored
    if ((val & X86_CR0_PG && !(val & X86_CR0_PE)) || (val & X86_CR0_NW && !(val & X86_CR0_CD)))
        interp_gp0(x);
    if ((val ^ old) & X86_CR0_PG)
        check_paging_change(x, val);
    u64 efer = efer_with_paging(c, val);
    bool pae = val & X86_CR0_PG && c->cr4 & X86_CR4_PAE && !(efer & X86_EFER_LMA);
    if (pae && (val ^ old) & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW))
        load_pdptes(x, c->cr3);
    c->cr0 = val;
    c->msr.efer = efer;
    if (!(val & X86_CR0_PE))
        c->cpl = 0;
    mmu_cr0_changed(x->v, old);
    if (efer != old_efer)
        mmu_efer_changed(x->v, old_efer);
    interp_mode_changed(x);
}

// --- CR3, CR4, CR8 ------------------------------------------------------------------------------------------------------------

void interp_write_cr3(struct interp *x, u64 val)
{
    if (!mmu_write_cr3(x->v, val))
        interp_gp0(x);
}

// CR4 bits exist with the features that define them. SDM 3A 2.5; APM 2 3.1.3.
static u64 cr4_valid(const struct interp *x)
{
    static const struct {
        u16 feature;
        u32 bits;
    } defined[] = {
        {ISA_FEAT_VME, X86_CR4_VME | X86_CR4_PVI},
        {ISA_FEAT_TSC, X86_CR4_TSD},
        {ISA_FEAT_DE, X86_CR4_DE},
        {ISA_FEAT_PSE, X86_CR4_PSE},
        {ISA_FEAT_PAE, X86_CR4_PAE},
        {ISA_FEAT_MCE, X86_CR4_MCE},
        {ISA_FEAT_PGE, X86_CR4_PGE},
        {ISA_FEAT_MMX, X86_CR4_PCE}, // RDPMC came with the Pentium MMX and has no bit of its own
        {ISA_FEAT_FXSR, X86_CR4_OSFXSR},
        {ISA_FEAT_SSE, X86_CR4_OSXMMEXCPT},
        {ISA_FEAT_UMIP, X86_CR4_UMIP},
        {ISA_FEAT_FSGSBASE, X86_CR4_FSGSBASE},
        {ISA_FEAT_PCID, X86_CR4_PCIDE},
        {ISA_FEAT_XSAVE, X86_CR4_OSXSAVE},
        {ISA_FEAT_SMEP, X86_CR4_SMEP},
        {ISA_FEAT_SMAP, X86_CR4_SMAP},
    };
    u64 valid = 0;
    for (unsigned i = 0; i < ARRAY_LEN(defined); i++) {
        if (has(x, defined[i].feature))
            valid |= defined[i].bits;
    }
    return valid;
}

void interp_write_cr4(struct interp *x, u64 val)
{
    struct cpu *c = x->c;
    u64 old = c->cr4, diff = val ^ old;
    if (val & ~cr4_valid(x))
        interp_gp0(x);
    if (cpu_long_mode(c) && !(val & X86_CR4_PAE))
        interp_gp0(x);
    if (diff & val & X86_CR4_PCIDE && (!cpu_long_mode(c) || c->cr3 & X86_CR3_PCID))
        interp_gp0(x);
    bool pae = c->cr0 & X86_CR0_PG && val & X86_CR4_PAE && !cpu_long_mode(c);
    if (pae && diff & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP))
        load_pdptes(x, c->cr3);
    c->cr4 = val;
    mmu_cr4_changed(x->v, old);
    interp_mode_changed(x);
}

static void write_cr8(struct interp *x, u64 val)
{
    if (val & ~15ull)
        interp_gp0(x);
    x->c->cr8 = val;
    if (x->v->intc.cr8_written)
        x->v->intc.cr8_written(x->v->intc.intc);
}

// --- MOV CR -------------------------------------------------------------------------------------------------------------------

// #UD for numbers without a register comes before #GP for privilege. CR8 outside 64-bit mode is LOCK MOV CR0, where AMD's
// AltMovCr8 announces it.
static void check_cr(struct interp *x, const struct insn *in, unsigned cr)
{
    bool legacy_cr8 = in->prefix & ISA_PFX_LOCK;
    if (cr == 1 || (cr > 4 && cr != 8) || (legacy_cr8 && !has(x, ISA_FEAT_CR8LEGACY)))
        interp_ud(x);
    require_cpl0(x);
}

static u64 read_cr(const struct cpu *c, unsigned cr)
{
    switch (cr) {
    case 0: return c->cr0;
    case 2: return c->cr2;
    case 3: return c->cr3;
    case 4: return c->cr4;
    default: return c->cr8;
    }
}

static void write_cr(struct interp *x, unsigned cr, u64 val)
{
    switch (cr) {
    case 0: interp_write_cr0(x, val); return;
    case 2: x->c->cr2 = val; return;
    case 3: interp_write_cr3(x, val); return;
    case 4: interp_write_cr4(x, val); return;
    default: write_cr8(x, val); return;
    }
}

// The operand is 64 bits in 64-bit mode, else 32, whatever the prefixes say.
void op_mov_cr(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = x->mode == ISA_MODE_64 ? 8 : 4;
    bool write = in->opnd[0].kind == ISA_OPND_CR;
    unsigned cr = in->opnd[write ? 0 : 1].reg, gpr = in->opnd[write ? 1 : 0].reg;
    check_cr(x, in, cr);
    if (write)
        write_cr(x, cr, gpr_get(c, gpr, size));
    else
        gpr_set(c, gpr, size, read_cr(c, cr));
}

void op_clts(struct interp *x, const struct insn *in)
{
    (void)in;
    require_cpl0(x);
    x->c->cr0 &= ~(u64)X86_CR0_TS;
    interp_mode_changed(x);
}

// --- MOV DR -------------------------------------------------------------------------------------------------------------------

#define DR6_WRITABLE (X86_DR6_B(0) | X86_DR6_B(1) | X86_DR6_B(2) | X86_DR6_B(3) | X86_DR6_BD | X86_DR6_BS | X86_DR6_BT)
#define DR7_WRITABLE 0xffff23ffu // enables, LE, GE, GD, and type and length of each

static void write_dr(struct interp *x, unsigned dr, u64 val)
{
    struct cpu *c = x->c;
    if (dr < 4) {
        c->dr[dr] = val;
        return;
    }
    if (val >> 32)
        interp_gp0(x);
    if (dr == 6) {
        c->dr6 = (val & DR6_WRITABLE) | X86_DR6_FIXED;
    } else {
        c->dr7 = (val & DR7_WRITABLE) | X86_DR7_FIXED;
        interp_mode_changed(x);
    }
}

// DR4 and DR5 are DR6 and DR7 until CR4.DE takes them away, which Intel looks at before the privilege level and AMD after it.
// General detect comes last of the checks. SDM 3B 18.2.2, 18.2.4.
void op_mov_dr(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = x->mode == ISA_MODE_64 ? 8 : 4;
    bool write = in->opnd[0].kind == ISA_OPND_DR;
    unsigned dr = in->opnd[write ? 0 : 1].reg, gpr = in->opnd[write ? 1 : 0].reg;
    bool absent = (dr == 4 || dr == 5) && c->cr4 & X86_CR4_DE;
    if (dr > 7 || (absent && !(x->isa_options & ISA_OPT_AMD)))
        interp_ud(x);
    require_cpl0(x);
    if (absent)
        interp_ud(x);
    if (c->dr7 & X86_DR7_GD)
        interp_raise_db(x, X86_DR6_BD);
    if (dr == 4 || dr == 5)
        dr += 2;
    if (write)
        write_dr(x, dr, gpr_get(c, gpr, size));
    else
        gpr_set(c, gpr, size, dr < 4 ? c->dr[dr] : dr == 6 ? c->dr6 : c->dr7);
}

// --- XCR0 ---------------------------------------------------------------------------------------------------------------------

void op_xgetbv(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u32 index = (u32)c->gpr[X86_RCX];
    (void)in;
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        interp_ud(x);
    if (index > 1 || (index == 1 && !has(x, ISA_FEAT_XGETBV1)))
        interp_gp0(x);
    u64 val = index ? c->xcr0 & simd_xinuse_mxcsr(c) : c->xcr0;
    gpr_set(c, X86_RAX, 4, val);
    gpr_set(c, X86_RDX, 4, val >> 32);
}

void op_xsetbv(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 val = (u64)gpr_get(c, X86_RDX, 4) << 32 | gpr_get(c, X86_RAX, 4);
    u64 valid = x->v->model ? cpu_model_xcr0(x->v->model) : X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    (void)in;
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        interp_ud(x);
    require_cpl0(x);
    if ((u32)c->gpr[X86_RCX] != 0 || !(val & X86_XCR0_X87) || val & ~valid)
        interp_gp0(x);
    if (val & X86_XCR0_AVX && !(val & X86_XCR0_SSE))
        interp_gp0(x);
    c->xcr0 = val;
    interp_mode_changed(x);
}

// --- invalidation -------------------------------------------------------------------------------------------------------------

// Only the address counts: neither limit nor type are checked, and one that is not canonical does nothing.
void op_invlpg(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    require_cpl0(x);
    gva a = interp_ea(x, in);
    if (x->mode == ISA_MODE_64) {
        if (in->seg == X86_FS || in->seg == X86_GS)
            a += c->seg[in->seg].base;
        if (!gva_canonical(a))
            return;
    } else {
        a = (u32)(a + c->seg[in->seg].base);
    }
    mmu_invlpg(x->v, a);
}

void op_invpcid(struct interp *x, const struct insn *in)
{
    u64 desc[2];
    require_cpl0(x);
    u64 type = gpr_get(x->c, in->opnd[0].reg, x->mode == ISA_MODE_64 ? 8 : 4);
    interp_load_buf(x, in->seg, interp_ea(x, in), desc, sizeof desc);
    if (!mmu_invpcid(x->v, type, desc))
        interp_gp0(x);
}
