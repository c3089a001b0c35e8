// Model-specific registers: RDMSR and WRMSR as the guest sees them.
//
// The catalogue is what Linux, the BSDs and Windows touch on processors of these models. A register that the model's features
// say does not exist raises #GP(0) like any unknown one; that is how guests probe. Registers that only tune hardware pogo does
// not have (chicken bits, chipset copies, stopped performance counters) read as a fixed value and swallow writes: the
// `quiet` tables, each row with who touches it. MTRRs are in mtrr.c, KVM's clock is in pvclock.c. SDM 4; APM 2 appendix A.
#include "core/msr.h"

#include "core/cpuid.h"
#include "core/machine.h"
#include "core/mmu.h"
#include "core/mtrr.h"
#include "core/pvclock.h"

#define APIC_BASE_BSP 0x100ull
#define APIC_BASE_EXTD 0x400ull
#define APIC_BASE_ENABLE 0x800ull

#define EFER_TCE (1ull << 15)
#define EFER_AIBRSE (1ull << 21)

#define MSR_LASTBRANCH_FIRST 0x1dbu // LASTBRANCHFROMIP, LASTBRANCHTOIP, LASTINTFROMIP, LASTINTTOIP
#define MSR_MCE_FIRST 0x400u
#define MSR_MCE_LAST (MSR_MCE_FIRST + CPU_MCE_BANKS * 4 - 1)
#define MSR_X2APIC_LAST 0x8ffu
#define MSR_PLATFORM_INFO 0xceu

#define SPEC_CTRL_IBRS 1u
#define SPEC_CTRL_BHI_DIS_S 0x400u
#define MCG_CTL_P 0x100u
#define MCG_STATUS_VALID 7u
#define HWCR_MC_STATUS_WR_EN (1ull << 18)
#define HWCR_TSC_FREQ_SEL (1ull << 24)
// SmmLock, TlbCacheDis, INVDWBINVD, FFDis, IgnneEm, MonMwaitDis, McStatusWrEn, TscFreqSel, CpbDis.
#define HWCR_VALID (0x359ull | HWCR_MC_STATUS_WR_EN | HWCR_TSC_FREQ_SEL | 1ull << 25)
// MtrrFixDramEn, MtrrFixDramModEn, MtrrVarDramEn, MtrrTom2En, Tom2ForceMemTypeWB.
#define SYSCFG_VALID 0x7c0000ull
#define VM_CR_SVMDIS 0x10u

// Bits that exist on some part: fast strings (0), thermal control (1, 3), prefetcher switches (9, 19, 37, 39), FERR
// multiplexing (10), TM2 (13), SpeedStep (16) and its lock (20), MONITOR (18), CPUID limit (22), xTPR off (23), XD off (34),
// turbo off (38). Read-only: performance monitoring (7), BTS and PEBS unavailable (11, 12).
#define MISC_ENABLE_VALID 0xe400dd3e8bull
#define MISC_ENABLE_READ_ONLY 0x1880ull
#define MISC_ENABLE_NO_BTS_PEBS 0x1800ull
#define MISC_ENABLE_XD_DISABLE (1ull << 34)

static bool has(const struct vcpu *v, enum isa_feature f)
{
    return cpu_model_offers(v->model, f);
}

static bool amd(const struct vcpu *v)
{
    return v->model && cpu_model_is_amd(v->model);
}

// --- TSC ------------------------------------------------------------------------------------------------------------------

// What the guest's TSC counts before its offset: the host's TSC, or ticks of the virtual clock where runs must repeat exactly.
static u64 tsc_base(const struct vcpu *v)
{
    const struct machine *m = v->machine;
    if (!m)
        return 0;
    if (!m->clock.icount)
        return m->host->ops->tsc(m->host->self);
    u64 ns = clock_now(&m->clock);
    u64 hz = v->model && v->model->tsc_hz ? v->model->tsc_hz : m->host->tsc_hz;
    return ns / 1000000000 * hz + ns % 1000000000 * hz / 1000000000;
}

u64 vcpu_tsc(const struct vcpu *v)
{
    return tsc_base(v) + v->cpu.msr.tsc_offset;
}

// A write to TSC moves TSC_ADJUST by the same amount. SDM 3B 17.17.3.
void vcpu_tsc_write(struct vcpu *v, u64 val)
{
    u64 offset = val - tsc_base(v);
    v->cpu.msr.tsc_adjust += offset - v->cpu.msr.tsc_offset;
    v->cpu.msr.tsc_offset = offset;
    pvclock_update(v);
}

static bool tsc_adjust_write(struct vcpu *v, u64 val)
{
    v->cpu.msr.tsc_offset += val - v->cpu.msr.tsc_adjust;
    v->cpu.msr.tsc_adjust = val;
    pvclock_update(v);
    return true;
}

// --- registers that do nothing here -----------------------------------------------------------------------------------------

struct quiet {
    u32 first, last;
    u64 value;
    bool writable; // writes are swallowed; else #GP(0)
};

static const struct quiet quiet_intel[] = {
    {0x17, 0x17, 0, false},                   // PLATFORM_ID: microcode loaders
    {0x2a, 0x2a, 0, true},                    // EBL_CR_POWERON: FreeBSD, OpenBSD on P6
    {0x2c, 0x2c, 1 << 24, false},             // EBC_FREQUENCY_ID: OpenBSD on NetBurst; bus of 133 MHz
    {0xc1, 0xc2, 0, true},                    // PERFCTR0-1: stopped
    {0x11e, 0x11e, 0xbe702111, true},         // BBL_CR_CTL3: Windows XP; L2 of 256 KB, enabled
    {0x140, 0x140, 0, false},                 // MISC_FEATURES_ENABLES: Linux
    {0x186, 0x187, 0, true},                  // EVNTSEL0-1
    {0x198, 0x198, 1000 | 4ull << 40, false}, // PERF_STATUS: Windows, macOS; some multiplier
    {0x199, 0x199, 0, true},                  // PERF_CTL
    {0x606, 0x606, 0, false},                 // RAPL units and energy counters: Linux
    {0x611, 0x611, 0, false},
    {0x619, 0x619, 0, false},
    {0x639, 0x639, 0, false},
    {0x641, 0x641, 0, false},
};

static const struct quiet quiet_amd[] = {
    {0xc0010000, 0xc0010007, 0, true},          // PERF_CTL0-3, PERF_CTR0-3: stopped
    {0xc001001a, 0xc001001a, 0, false},         // TOP_MEM
    {0xc001001b, 0xc001001b, 0x20000000, true}, // CLK_CTL: Linux on K7
    {0xc001001d, 0xc001001d, 0, false},         // TOP_MEM2: Linux
    {0xc001001f, 0xc001001f, 0, true},          // NB_CFG: Linux, NetBSD
    {0xc0010055, 0xc0010055, 0, true},          // INT_PENDING: Linux, C1E workaround
    {0xc0010058, 0xc0010058, 0, true},          // MMIO_CFG_BASE: Linux
    {0xc0010112, 0xc0010113, 0, true},          // SMM_ADDR, SMM_MASK: Linux
    {0xc0010115, 0xc0010115, 0, true},          // IGNNE
    {0xc0011020, 0xc0011020, 0, true},          // LS_CFG: errata workarounds
    {0xc0011021, 0xc0011021, 0, true},          // IC_CFG
    {0xc0011022, 0xc0011022, 0, true},          // DC_CFG
    {0xc0011023, 0xc0011023, 0, true},          // BU_CFG
    {0xc0011029, 0xc0011029, 2, true},          // DE_CFG: LFENCE serialises, and stays so: Linux, OpenBSD
    {0xc001102a, 0xc001102a, 0, true},          // BU_CFG2
    {0xc001102c, 0xc001102c, 0, true},          // EX_CFG
};

static const struct quiet *find_quiet(const struct vcpu *v, u32 index)
{
    const struct quiet *q = amd(v) ? quiet_amd : quiet_intel;
    size_t n = amd(v) ? ARRAY_LEN(quiet_amd) : ARRAY_LEN(quiet_intel);
    for (; n; n--, q++) {
        if (index >= q->first && index <= q->last)
            return q;
    }
    return NULL;
}

// --- reading --------------------------------------------------------------------------------------------------------------

// What the model claims about speculation: see G_SAFE_INTEL in models.def. RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
// PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
#define ARCH_CAPABILITIES \
    (1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 | \
     1ull << 15 | 1ull << 20 | 1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62)

static bool set(u64 *val, u64 v)
{
    *val = v;
    return true;
}

static bool have_efer(const struct vcpu *v)
{
    return has(v, ISA_FEAT_SYSCALL) || has(v, ISA_FEAT_NX) || has(v, ISA_FEAT_LM);
}

static bool have_tsc_aux(const struct vcpu *v)
{
    return has(v, ISA_FEAT_RDTSCP) || has(v, ISA_FEAT_RDPID);
}

// Microcode revision: as plain as can be.
static u64 microcode(const struct vcpu *v)
{
    return amd(v) ? 0x01000065 : 1ull << 32;
}

static bool read_amd(const struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_SYSCFG: return set(val, m->syscfg);
    // Linux wants to hear that the TSC counts at P0 frequency.
    case X86_MSR_HWCR: return set(val, m->hwcr | HWCR_TSC_FREQ_SEL);
    case X86_MSR_VM_CR: return set(val, m->vm_cr | VM_CR_SVMDIS);
    default: return false;
    }
}

static bool read_intel(const struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_MISC_ENABLE: return set(val, m->misc_enable | MISC_ENABLE_NO_BTS_PEBS);
    case MSR_PLATFORM_INFO: return v->model && set(val, v->model->tsc_hz / 100000000 << 8); // base ratio of 100 MHz
    default: return false;
    }
}

static bool read_mce(const struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu_msrs *m = &v->cpu.msr;
    if (!has(v, ISA_FEAT_MCA))
        return index <= 1 && set(val, 0);
    switch (index) {
    case 0:
    case 1: return set(val, 0); // P5_MC_ADDR, P5_MC_TYPE
    case X86_MSR_MCG_CAP: return set(val, CPU_MCE_BANKS | MCG_CTL_P);
    case X86_MSR_MCG_STATUS: return set(val, m->mcg_status);
    case X86_MSR_MCG_CTL: return set(val, m->mcg_ctl);
    default: return set(val, m->mce_bank[(index - MSR_MCE_FIRST) / 4][(index - MSR_MCE_FIRST) % 4]);
    }
}

static bool is_mce(u32 index)
{
    return index <= 1 || (index >= X86_MSR_MCG_CAP && index <= X86_MSR_MCG_CTL) ||
           (index >= MSR_MCE_FIRST && index <= MSR_MCE_LAST);
}

// Registers of the local APIC proper: x2APIC mode's, and the deadline.
static bool is_apic(const struct vcpu *v, u32 index)
{
    if (index == X86_MSR_TSC_DEADLINE)
        return has(v, ISA_FEAT_TSC_DEADLINE);
    u64 x2apic = APIC_BASE_ENABLE | APIC_BASE_EXTD;
    return index >= X86_MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST && (v->cpu.msr.apic_base & x2apic) == x2apic;
}

// SYSCALL, FS, GS: the registers of 64-bit processors.
static bool read_long(const struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu *c = &v->cpu;
    if (index == X86_MSR_STAR)
        return has(v, ISA_FEAT_SYSCALL) && set(val, c->msr.star);
    if (!has(v, ISA_FEAT_LM))
        return false;
    switch (index) {
    case X86_MSR_LSTAR: return set(val, c->msr.lstar);
    case X86_MSR_CSTAR: return set(val, c->msr.cstar);
    case X86_MSR_SFMASK: return set(val, c->msr.sfmask);
    case X86_MSR_FS_BASE: return set(val, c->seg[X86_FS].base);
    case X86_MSR_GS_BASE: return set(val, c->seg[X86_GS].base);
    default: return set(val, c->msr.kernel_gs_base);
    }
}

bool msr_read(struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_TSC: return set(val, vcpu_tsc(v));
    case X86_MSR_APIC_BASE: return has(v, ISA_FEAT_APIC) && set(val, m->apic_base);
    case X86_MSR_TSC_ADJUST: return has(v, ISA_FEAT_TSC_ADJUST) && set(val, m->tsc_adjust);
    case X86_MSR_SPEC_CTRL: return has(v, ISA_FEAT_SPEC_CTRL) && set(val, m->spec_ctrl);
    case X86_MSR_ARCH_CAPABILITIES: return has(v, ISA_FEAT_ARCH_CAPABILITIES) && set(val, ARCH_CAPABILITIES);
    case X86_MSR_BIOS_SIGN_ID: return set(val, microcode(v));
    case X86_MSR_SYSENTER_CS: return has(v, ISA_FEAT_SEP) && set(val, m->sysenter_cs);
    case X86_MSR_SYSENTER_ESP: return has(v, ISA_FEAT_SEP) && set(val, m->sysenter_esp);
    case X86_MSR_SYSENTER_EIP: return has(v, ISA_FEAT_SEP) && set(val, m->sysenter_eip);
    case X86_MSR_DEBUGCTL: return set(val, m->debugctl);
    case MSR_LASTBRANCH_FIRST:
    case MSR_LASTBRANCH_FIRST + 1:
    case MSR_LASTBRANCH_FIRST + 2:
    case MSR_LASTBRANCH_FIRST + 3: return set(val, 0); // last branches are not recorded
    case X86_MSR_PAT: return has(v, ISA_FEAT_PAT) && set(val, m->pat);
    case X86_MSR_XSS: return has(v, ISA_FEAT_XSAVES) && set(val, m->xss);
    case X86_MSR_EFER: return have_efer(v) && set(val, m->efer);
    case X86_MSR_STAR:
    case X86_MSR_LSTAR:
    case X86_MSR_CSTAR:
    case X86_MSR_SFMASK:
    case X86_MSR_FS_BASE:
    case X86_MSR_GS_BASE:
    case X86_MSR_KERNEL_GS_BASE: return read_long(v, index, val);
    case X86_MSR_TSC_AUX: return have_tsc_aux(v) && set(val, m->tsc_aux);
    default: break;
    }
    if (mtrr_is_msr(index))
        return mtrr_read(v, index, val);
    if (is_mce(index))
        return read_mce(v, index, val);
    if (is_apic(v, index))
        return v->intc.msr_read && v->intc.msr_read(v->intc.intc, index, val);
    if (pvclock_is_msr(v, index)) {
        pvclock_read(v, index, val);
        return true;
    }
    const struct quiet *q = find_quiet(v, index);
    if (q)
        return set(val, q->value);
    return amd(v) ? read_amd(v, index, val) : read_intel(v, index, val);
}

// --- writing --------------------------------------------------------------------------------------------------------------

// Store when no bit outside `valid` is set.
static bool put(u64 *reg, u64 val, u64 valid)
{
    if (val & ~valid)
        return false;
    *reg = val;
    return true;
}

static bool put_canonical(u64 *reg, u64 val)
{
    return gva_canonical(val) && put(reg, val, ~0ull);
}

static u64 efer_valid(const struct vcpu *v)
{
    u64 bits = 0;
    if (has(v, ISA_FEAT_SYSCALL))
        bits |= X86_EFER_SCE;
    if (has(v, ISA_FEAT_LM))
        bits |= X86_EFER_LME | X86_EFER_LMA;
    if (has(v, ISA_FEAT_NX) && !(v->cpu.msr.misc_enable & MISC_ENABLE_XD_DISABLE))
        bits |= X86_EFER_NXE;
    if (v->model && has(v, ISA_FEAT_FXSR_OPT))
        bits |= X86_EFER_FFXSR;
    if (v->model && has(v, ISA_FEAT_TCE))
        bits |= EFER_TCE;
    if (v->model && has(v, ISA_FEAT_AUTO_IBRS))
        bits |= EFER_AIBRSE;
    return bits;
}

// LMA is not written: it follows LME and CR0.PG. APM 2 3.1.7.
static bool write_efer(struct vcpu *v, u64 val)
{
    struct cpu *c = &v->cpu;
    u64 old = c->msr.efer;
    if (!have_efer(v) || val & ~efer_valid(v))
        return false;
    if ((val ^ old) & X86_EFER_LME && c->cr0 & X86_CR0_PG)
        return false;
    c->msr.efer = (val & ~(u64)X86_EFER_LMA) | (old & X86_EFER_LMA);
    mmu_efer_changed(v, old);
    return true;
}

// SDM 3A 10.12.5 and figure 10-27: x2APIC mode is entered from xAPIC mode and left for "disabled" only.
static bool write_apic_base(struct vcpu *v, u64 val)
{
    u64 *reg = &v->cpu.msr.apic_base;
    u64 phys = v->model ? (1ull << v->model->maxphyaddr) - 1 : ~0ull >> 12;
    u64 valid = (phys & ~0xfffull) | APIC_BASE_BSP | APIC_BASE_ENABLE;
    if (!has(v, ISA_FEAT_APIC))
        return false;
    if (v->model && has(v, ISA_FEAT_X2APIC))
        valid |= APIC_BASE_EXTD;
    u64 from = *reg & (APIC_BASE_ENABLE | APIC_BASE_EXTD), to = val & (APIC_BASE_ENABLE | APIC_BASE_EXTD);
    if (to == APIC_BASE_EXTD || (to == (APIC_BASE_ENABLE | APIC_BASE_EXTD) && from == 0) ||
        (to == APIC_BASE_ENABLE && from == (APIC_BASE_ENABLE | APIC_BASE_EXTD)))
        return false;
    if (!put(reg, val, valid))
        return false;
    return !v->intc.msr_write || v->intc.msr_write(v->intc.intc, X86_MSR_APIC_BASE, val);
}

// Eight memory types; 2 and 3 do not exist. SDM 3A 11.12.2.
static bool write_pat(struct vcpu *v, u64 val)
{
    if (!has(v, ISA_FEAT_PAT))
        return false;
    for (unsigned i = 0; i < 8; i++) {
        u8 type = (u8)(val >> i * 8);
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    v->cpu.msr.pat = val;
    return true;
}

// CTL takes all ones or zero, where guests leave out bit 0 or 10 for errata of old parts; STATUS takes zero, unless AMD's HWCR opens
// it. SDM 3B 15.3.2; APM 2 9.3.2.
static bool valid_bank_write(const struct vcpu *v, unsigned reg, u64 val)
{
    if (val == 0 || reg > 1)
        return true;
    if (reg == 0)
        return (val | 0x401) == ~0ull;
    return amd(v) && v->cpu.msr.hwcr & HWCR_MC_STATUS_WR_EN;
}

static bool write_mce(struct vcpu *v, u32 index, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    if (index <= 1)
        return true;
    if (!has(v, ISA_FEAT_MCA))
        return false;
    switch (index) {
    case X86_MSR_MCG_CAP: return false;
    case X86_MSR_MCG_STATUS: return put(&m->mcg_status, val, MCG_STATUS_VALID);
    case X86_MSR_MCG_CTL: return (val == 0 || val == ~0ull) && put(&m->mcg_ctl, val, ~0ull);
    default: break;
    }
    unsigned bank = (index - MSR_MCE_FIRST) / 4, reg = (index - MSR_MCE_FIRST) % 4;
    return valid_bank_write(v, reg, val) && put(&m->mce_bank[bank][reg], val, ~0ull);
}

static bool write_long(struct vcpu *v, u32 index, u64 val)
{
    struct cpu *c = &v->cpu;
    if (index == X86_MSR_STAR)
        return has(v, ISA_FEAT_SYSCALL) && put(&c->msr.star, val, ~0ull);
    if (!has(v, ISA_FEAT_LM))
        return false;
    switch (index) {
    case X86_MSR_LSTAR: return put_canonical(&c->msr.lstar, val);
    case X86_MSR_CSTAR: return put_canonical(&c->msr.cstar, val);
    case X86_MSR_SFMASK: return put(&c->msr.sfmask, (u32)val, ~0ull); // bits 63:32 are not kept
    case X86_MSR_FS_BASE: return put_canonical(&c->seg[X86_FS].base, val);
    case X86_MSR_GS_BASE: return put_canonical(&c->seg[X86_GS].base, val);
    default: return put_canonical(&c->msr.kernel_gs_base, val);
    }
}

// SYSENTER's targets. AMD has no 64-bit SYSENTER: the upper halves do not exist there.
static bool write_sysenter(struct vcpu *v, u32 index, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    u64 *reg = index == X86_MSR_SYSENTER_ESP ? &m->sysenter_esp : &m->sysenter_eip;
    if (!has(v, ISA_FEAT_SEP))
        return false;
    if (index == X86_MSR_SYSENTER_CS)
        return put(&m->sysenter_cs, (u32)val, ~0ull);
    if (amd(v) || !has(v, ISA_FEAT_LM))
        return put(reg, (u32)val, ~0ull);
    return put_canonical(reg, val);
}

// Intel reserves bits 63:32, AMD drops them.
static bool write_tsc_aux(struct vcpu *v, u64 val)
{
    if (!have_tsc_aux(v))
        return false;
    return put(&v->cpu.msr.tsc_aux, amd(v) ? (u32)val : val, 0xffffffff);
}

static bool write_amd(struct vcpu *v, u32 index, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_SYSCFG: return put(&m->syscfg, val, SYSCFG_VALID);
    case X86_MSR_HWCR: return put(&m->hwcr, val, HWCR_VALID);
    case X86_MSR_VM_CR: return put(&m->vm_cr, val, 0x1f);
    case 0xc0010020: return true; // microcode loader: there is nothing to load
    default: return false;
    }
}

static u64 spec_ctrl_valid(const struct vcpu *v)
{
    return SPEC_CTRL_IBRS | (has(v, ISA_FEAT_BHI_CTRL) ? SPEC_CTRL_BHI_DIS_S : 0);
}

static bool write_intel(struct vcpu *v, u32 index, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_MISC_ENABLE:
        return !(val & ~MISC_ENABLE_VALID) && put(&m->misc_enable, val & ~MISC_ENABLE_READ_ONLY, ~0ull);
    case X86_MSR_BIOS_UPDT_TRIG: return true; // there is nothing to load
    case X86_MSR_BIOS_SIGN_ID: return true;   // the revision comes back with the next CPUID
    case 0x140: return val == 0;
    default: return false;
    }
}

bool msr_write(struct vcpu *v, u32 index, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    switch (index) {
    case X86_MSR_TSC: vcpu_tsc_write(v, val); return true;
    case X86_MSR_APIC_BASE: return write_apic_base(v, val);
    case X86_MSR_TSC_ADJUST: return has(v, ISA_FEAT_TSC_ADJUST) && tsc_adjust_write(v, val);
    case X86_MSR_SPEC_CTRL: return has(v, ISA_FEAT_SPEC_CTRL) && put(&m->spec_ctrl, val, spec_ctrl_valid(v));
    case X86_MSR_PRED_CMD: return has(v, ISA_FEAT_SPEC_CTRL) && !(val & ~1ull); // IBPB: nothing to flush
    case X86_MSR_SYSENTER_CS:
    case X86_MSR_SYSENTER_ESP:
    case X86_MSR_SYSENTER_EIP: return write_sysenter(v, index, val);
    case X86_MSR_DEBUGCTL: return put(&m->debugctl, val, amd(v) ? 0x3f : 3); // LBR, BTF; AMD: performance pins
    case X86_MSR_PAT: return write_pat(v, val);
    case X86_MSR_XSS: return has(v, ISA_FEAT_XSAVES) && put(&m->xss, val, 0);
    case X86_MSR_EFER: return write_efer(v, val);
    case X86_MSR_STAR:
    case X86_MSR_LSTAR:
    case X86_MSR_CSTAR:
    case X86_MSR_SFMASK:
    case X86_MSR_FS_BASE:
    case X86_MSR_GS_BASE:
    case X86_MSR_KERNEL_GS_BASE: return write_long(v, index, val);
    case X86_MSR_TSC_AUX: return write_tsc_aux(v, val);
    default: break;
    }
    if (mtrr_is_msr(index))
        return mtrr_write(v, index, val);
    if (is_mce(index))
        return write_mce(v, index, val);
    if (is_apic(v, index))
        return v->intc.msr_write && v->intc.msr_write(v->intc.intc, index, val);
    if (pvclock_is_msr(v, index))
        return pvclock_write(v, index, val);
    const struct quiet *q = find_quiet(v, index);
    if (q && q->writable)
        return true;
    return amd(v) ? write_amd(v, index, val) : write_intel(v, index, val);
}
