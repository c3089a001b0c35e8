// The other system instructions: HLT, time stamps, MSRs, CPUID, segment bases, cache control, random numbers, CLAC and STAC,
// MONITOR and MWAIT, and the virtualization instructions that raise #UD because nothing can enable them.
#include "core/msr.h"
#include "engine/interp/interp.h"

static void require_cpl0(struct interp *x)
{
    if (x->c->cpl != 0)
        interp_gp0(x);
}

// EDX:EAX, upper halves cleared.
static void set_edx_eax(struct cpu *c, u64 val)
{
    gpr_set(c, X86_RAX, 4, val);
    gpr_set(c, X86_RDX, 4, val >> 32);
}

// The run loop decides whether something wakes the processor at once.
void op_hlt(struct interp *x, const struct insn *in)
{
    (void)in;
    require_cpl0(x);
    x->c->activity = CPU_HALTED;
}

// --- time and counters ----------------------------------------------------------------------------------------------------------

static void check_tsd(struct interp *x)
{
    if (x->c->cr4 & X86_CR4_TSD && x->c->cpl != 0)
        interp_gp0(x);
}

void op_rdtsc(struct interp *x, const struct insn *in)
{
    (void)in;
    check_tsd(x);
    set_edx_eax(x->c, vcpu_tsc(x->v));
}

void op_rdtscp(struct interp *x, const struct insn *in)
{
    op_rdtsc(x, in);
    gpr_set(x->c, X86_RCX, 4, x->c->msr.tsc_aux);
}

void op_rdpid(struct interp *x, const struct insn *in)
{
    opnd_set(x, in, 0, x->c->msr.tsc_aux);
}

// The legacy counters, two on Intel and four on AMD, stand still (msr.c).
void op_rdpmc(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    u32 counters = x->isa_options & ISA_OPT_AMD ? 4 : 2;
    (void)in;
    if ((c->cpl != 0 && !(c->cr4 & X86_CR4_PCE)) || (u32)c->gpr[X86_RCX] >= counters)
        interp_gp0(x);
    set_edx_eax(x->c, 0);
}

// --- MSRs, CPUID ------------------------------------------------------------------------------------------------------------------

void op_rdmsr(struct interp *x, const struct insn *in)
{
    u64 val;
    (void)in;
    require_cpl0(x);
    if (!msr_read(x->v, (u32)x->c->gpr[X86_RCX], &val)) {
        host_logf(x->v->machine->host, LOG_GUEST_ERROR, "rdmsr %x: no such register", (u32)x->c->gpr[X86_RCX]);
        interp_gp0(x);
    }
    set_edx_eax(x->c, val);
}

void op_wrmsr(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    u64 val = gpr_get(c, X86_RDX, 4) << 32 | gpr_get(c, X86_RAX, 4);
    (void)in;
    require_cpl0(x);
    if (!msr_write(x->v, (u32)c->gpr[X86_RCX], val)) {
        host_logf(x->v->machine->host, LOG_GUEST_ERROR, "wrmsr %x, %lx: no such register or value",
                  (u32)c->gpr[X86_RCX], (unsigned long)val);
        interp_gp0(x);
    }
    interp_mode_changed(x);
}

void op_cpuid(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    struct cpuid_regs r = cpuid_guest(x->v, (u32)c->gpr[X86_RAX], (u32)c->gpr[X86_RCX]);
    (void)in;
    gpr_set(c, X86_RAX, 4, r.eax);
    gpr_set(c, X86_RBX, 4, r.ebx);
    gpr_set(c, X86_RCX, 4, r.ecx);
    gpr_set(c, X86_RDX, 4, r.edx);
}

// --- segment bases ------------------------------------------------------------------------------------------------------------------

static void check_fsgsbase(struct interp *x)
{
    if (!(x->c->cr4 & X86_CR4_FSGSBASE))
        interp_ud(x);
}

static void read_base(struct interp *x, const struct insn *in, unsigned seg)
{
    check_fsgsbase(x);
    opnd_set(x, in, 0, x->c->seg[seg].base);
}

static void write_base(struct interp *x, const struct insn *in, unsigned seg)
{
    check_fsgsbase(x);
    u64 base = opnd_get(x, in, 0);
    if (!gva_canonical(base))
        interp_gp0(x);
    x->c->seg[seg].base = base;
}

void op_rdfsbase(struct interp *x, const struct insn *in)
{
    read_base(x, in, X86_FS);
}

void op_rdgsbase(struct interp *x, const struct insn *in)
{
    read_base(x, in, X86_GS);
}

void op_wrfsbase(struct interp *x, const struct insn *in)
{
    write_base(x, in, X86_FS);
}

void op_wrgsbase(struct interp *x, const struct insn *in)
{
    write_base(x, in, X86_GS);
}

void op_swapgs(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 base = c->seg[X86_GS].base;
    (void)in;
    require_cpl0(x);
    c->seg[X86_GS].base = c->msr.kernel_gs_base;
    c->msr.kernel_gs_base = base;
}

// --- caches -------------------------------------------------------------------------------------------------------------------------

// INVD, WBINVD, WBNOINVD: the guest's memory is coherent, there is nothing to write back.
void op_wbinvd(struct interp *x, const struct insn *in)
{
    (void)in;
    require_cpl0(x);
}

// Zero the 64-byte line that DS:rAX (or an override) lies in. APM 3 CLZERO.
void op_clzero(struct interp *x, const struct insn *in)
{
    static const u8 zeros[64];
    u64 off = gpr_get(x->c, X86_RAX, in->adsize) & ~63ull;
    interp_store_buf(x, in->seg, off, zeros, sizeof zeros);
}

// --- random numbers -----------------------------------------------------------------------------------------------------------------

// CF tells success; a failure gives zero.
static void random(struct interp *x, const struct insn *in, bool seed)
{
    u64 val = 0;
    bool ok = vcpu_random(x->v, seed, &val);
    opnd_set(x, in, 0, ok ? val & size_mask(in->opnd[0].size) : 0);
    flags_set(x->c, X86_FL_STATUS, ok ? X86_FL_CF : 0);
}

void op_rdrand(struct interp *x, const struct insn *in)
{
    random(x, in, false);
}

void op_rdseed(struct interp *x, const struct insn *in)
{
    random(x, in, true);
}

// --- the rest -----------------------------------------------------------------------------------------------------------------------

// SMAP's flag: #UD, not #GP, above CPL 0.
static void set_ac(struct interp *x, u64 val)
{
    if (x->c->cpl != 0)
        interp_ud(x);
    flags_set(x->c, X86_FL_AC, val);
    interp_mode_changed(x);
}

void op_clac(struct interp *x, const struct insn *in)
{
    (void)in;
    set_ac(x, 0);
}

void op_stac(struct interp *x, const struct insn *in)
{
    (void)in;
    set_ac(x, X86_FL_AC);
}

// No store is watched: MWAIT returns at once, as the architecture allows at any time. SDM 2B MONITOR, MWAIT.
void op_monitor(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    if (in->op == ISA_OP_MONITOR && c->cpl != 0)
        interp_ud(x);
    if ((u32)c->gpr[X86_RCX] != 0)
        interp_gp0(x);
    interp_load(x, in->seg, gpr_get(c, X86_RAX, in->adsize), 1);
}

void op_mwait(struct interp *x, const struct insn *in)
{
    if (in->op == ISA_OP_MWAIT && x->c->cpl != 0)
        interp_ud(x);
}

// Calls to the hypervisor, by KVM's convention: number in RAX, as is the result. What CPUID offers needs none, but guests try
// before they know. KVM answers polls for interrupts with 0 and knows no error apart from these.
#define HYPERCALL_POLL 1
#define HYPERCALL_EPERM (-1ll)
#define HYPERCALL_ENOSYS (-1000ll)

void op_hypercall(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    const struct cpu_model *m = x->v->model;
    bool wide = cpu_64bit(c);
    u64 number = wide ? c->gpr[X86_RAX] : (u32)c->gpr[X86_RAX], result = (u64)HYPERCALL_ENOSYS;

    (void)in;
    if (!m || !cpu_model_is_kvm(m))
        interp_ud(x);
    if (c->cpl != 0)
        result = (u64)HYPERCALL_EPERM;
    else if (number == HYPERCALL_POLL)
        result = 0;
    c->gpr[X86_RAX] = wide ? result : (u32)result;
}

// RSM outside system management mode; VMX, SVM and SMX instructions while CR4.VMXE, EFER.SVME and CR4.SMXE
// are clear, which they always are: #UD precedes every other check. SDM 3C chapter 31; APM 3 chapter 4.
void op_undefined(struct interp *x, const struct insn *in)
{
    (void)in;
    interp_ud(x);
}
