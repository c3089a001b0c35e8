// Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT. SDM 2B; APM 3.
//
// The vendors differ. Intel has SYSCALL and SYSRET in 64-bit mode only, AMD in every mode; AMD has no SYSENTER and SYSEXIT in long
// mode. Intel's SYSRET checks RCX while still at CPL 0 and loads SS with a flat descriptor; AMD's leaves the faulting to
// the fetch at CPL 3 and leaves SS alone but for the selector.
//
// TF counts as it is *after* SYSCALL and SYSRET: an operating system masks TF and sees no single-step trap on its entry, and
// a debugger's trap comes right after SYSRET, with the target as return address.
#include "engine/interp/interp.h"

#define FLAT_CODE (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_R | X86_SEG_A | X86_SEG_G)
#define FLAT_DATA (X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A | X86_SEG_G | X86_SEG_DB)
#define DPL3 (3u << X86_SEG_DPL_SHIFT)

static bool is_amd(const struct interp *x)
{
    return x->isa_options & ISA_OPT_AMD;
}

static void set_flat(struct cpu *c, unsigned seg, u32 sel, u32 attr)
{
    c->seg[seg] = (struct x86_seg){.sel = (u16)sel, .attr = attr, .limit = 0xffffffff, .base = 0};
}

// Flat CS (64-bit or 32-bit) and the privilege that goes with it.
static void enter_code(struct interp *x, u32 sel, unsigned cpl, bool long_code)
{
    u32 attr = FLAT_CODE | (long_code ? X86_SEG_L : X86_SEG_DB) | cpl << X86_SEG_DPL_SHIFT;
    set_flat(x->c, X86_CS, sel, attr);
    x->c->cpl = (u8)cpl;
}

// --- SYSCALL ------------------------------------------------------------------------------------------------------------------

static void syscall_long(struct interp *x)
{
    struct cpu *c = x->c;
    const struct cpu_msrs *m = &c->msr;
    u64 flags = is_amd(x) ? c->rflags & ~(u64)X86_FL_RF : c->rflags;
    u64 target = cpu_64bit(c) ? m->lstar : m->cstar;
    u32 sel = (u16)(m->star >> 32);
    bool tf = c->rflags & X86_FL_TF;
    c->gpr[X86_RCX] = x->next_rip;
    c->gpr[X86_R11] = flags;
    c->rflags = (c->rflags & ~m->sfmask & ~(u64)X86_FL_RF) | X86_FL_RSVD1;
    enter_code(x, sel & ~3u, 0, true);
    set_flat(c, X86_SS, sel + 8, FLAT_DATA);
    x->next_rip = target;
    x->tf_cleared = tf && !(c->rflags & X86_FL_TF);
}

// AMD outside long mode: the target is in STAR, and IF is cleared.
static void syscall_legacy(struct interp *x)
{
    struct cpu *c = x->c;
    u32 sel = (u16)(c->msr.star >> 32);
    gpr_set(c, X86_RCX, 4, x->next_rip);
    c->rflags &= ~(u64)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    enter_code(x, sel & ~3u, 0, false);
    set_flat(c, X86_SS, sel + 8, FLAT_DATA);
    x->next_rip = (u32)c->msr.star;
}

void op_syscall(struct interp *x, const struct insn *in)
{
    (void)in;
    if (!(x->c->msr.efer & X86_EFER_SCE) || (!is_amd(x) && !cpu_64bit(x->c)))
        interp_ud(x);
    if (cpu_long_mode(x->c))
        syscall_long(x);
    else
        syscall_legacy(x);
    interp_mode_changed(x);
}

// --- SYSRET -------------------------------------------------------------------------------------------------------------------

static void sysret_stack(struct interp *x, u32 sel)
{
    struct x86_seg *ss = &x->c->seg[X86_SS];
    if (!is_amd(x)) {
        set_flat(x->c, X86_SS, sel | 3, FLAT_DATA | DPL3);
        return;
    }
    // Base, limit and the other attributes stay, even those of a null SS. Nothing shows the DPL; it follows CPL.
    ss->sel = (u16)(sel | 3);
    ss->attr |= DPL3;
}

static void sysret_flags(struct interp *x, u64 flags)
{
    struct cpu *c = x->c;
    bool before = c->rflags & X86_FL_TF;
    c->rflags = (flags & X86_FL_ALL & ~(u64)(X86_FL_RF | X86_FL_VM)) | X86_FL_RSVD1;
    bool after = c->rflags & X86_FL_TF;
    x->tf_cleared = before && !after;
    if (after && !before)
        x->dr6_trap |= X86_DR6_BS;
}

void op_sysret(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    bool amd = is_amd(x), from64 = cpu_64bit(c), to64 = from64 && in->opsize == 8;
    u32 sel = (u16)(c->msr.star >> 48);
    u64 target = to64 ? c->gpr[X86_RCX] : gpr_get(c, X86_RCX, 4);
    if (!(c->msr.efer & X86_EFER_SCE) || (!amd && !from64))
        interp_ud(x);
    if (!cpu_pmode(c) || c->cpl != 0 || (!amd && to64 && !gva_canonical(target)))
        interp_gp0(x);
    sysret_stack(x, sel + 8);
    enter_code(x, (to64 ? sel + 16 : sel) | 3, 3, to64);
    if (from64)
        sysret_flags(x, c->gpr[X86_R11]);
    else
        c->rflags |= X86_FL_IF;
    x->next_rip = target;
    interp_mode_changed(x);
}

// --- SYSENTER and SYSEXIT -------------------------------------------------------------------------------------------------------

static void check_sysenter(struct interp *x)
{
    const struct cpu *c = x->c;
    if (is_amd(x) && cpu_long_mode(c))
        interp_ud(x);
    if (cpu_real_mode(c) || !(c->msr.sysenter_cs & 0xfffc))
        interp_gp0(x);
}

void op_sysenter(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    const struct cpu_msrs *m = &c->msr;
    bool lm = cpu_long_mode(c);
    u32 sel = (u32)m->sysenter_cs & 0xfffc;
    (void)in;
    check_sysenter(x);
    c->rflags &= ~(u64)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    c->gpr[X86_RSP] = lm ? m->sysenter_esp : (u32)m->sysenter_esp;
    x->next_rip = lm ? m->sysenter_eip : (u32)m->sysenter_eip;
    enter_code(x, sel, 0, lm);
    set_flat(c, X86_SS, sel + 8, FLAT_DATA);
    interp_mode_changed(x);
}

void op_sysexit(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    bool to64 = in->opsize == 8;
    unsigned size = to64 ? 8 : 4;
    u64 rip = gpr_get(c, X86_RDX, size), rsp = gpr_get(c, X86_RCX, size);
    u32 sel = (u32)c->msr.sysenter_cs & 0xfffc;
    if (c->cpl != 0)
        interp_gp0(x);
    check_sysenter(x);
    if (to64 && (!gva_canonical(rip) || !gva_canonical(rsp)))
        interp_gp0(x);
    c->gpr[X86_RSP] = rsp;
    x->next_rip = rip;
    enter_code(x, (sel + (to64 ? 32 : 16)) | 3, 3, to64);
    set_flat(c, X86_SS, (sel + (to64 ? 40 : 24)) | 3, FLAT_DATA | DPL3);
    interp_mode_changed(x);
}
