// Processor models and CPUID. A model is a name, a vendor/family/model signature and a set of features; the guest is given the
// features that the model has *and* pogo implements *and*, for instructions that run as host instructions, the host executes.
#ifndef POGO_CORE_CPUID_H
#define POGO_CORE_CPUID_H

#include "isa/insn.h"

struct cpu_model {
    const char *name;
    const char *description;
    char vendor[13]; // "AuthenticAMD", "GenuineIntel"
    char brand[49];
    u32 family, model, stepping;
    u32 level, xlevel; // highest basic and extended CPUID leaf; xlevel 0: no extended leaves
    u8 maxphyaddr, linear_bits;
    bool hide_kvm; // leaf 0x40000000 gives no KVM signature
    u64 tsc_hz;    // the caller sets it after cpu_model_parse(); 0: unknown, the frequency leaves stay empty
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
};

// TSC ticks per tick of the crystal that leaf 0x15 tells of, which is also what the local APIC's timer counts. A hundredth of the
// TSC's frequency keeps every product that guests form of it in 32 bits.
#define CPUID_CRYSTAL_RATIO 100

struct cpuid_regs {
    u32 eax, ebx, ecx, edx;
};

static inline bool cpu_model_has(const struct cpu_model *m, enum isa_feature f)
{
    return (m->features[f / 64] >> (f % 64)) & 1;
}

// The same for a processor that may be without a model, as in tests: such a one has everything.
static inline bool cpu_model_offers(const struct cpu_model *m, enum isa_feature f)
{
    return !m || cpu_model_has(m, f);
}

static inline bool cpu_model_is_amd(const struct cpu_model *m)
{
    return m->vendor[0] == 'A';
}

// State components that XCR0 can enable on this model; 0 without XSAVE.
static inline u64 cpu_model_xcr0(const struct cpu_model *m)
{
    if (!cpu_model_has(m, ISA_FEAT_XSAVE))
        return 0;
    u64 avx = cpu_model_has(m, ISA_FEAT_AVX) ? X86_XCR0_AVX : 0;
    return X86_XCR0_X87 | X86_XCR0_SSE | avx;
}

// The guest is told that it runs under KVM.
static inline bool cpu_model_is_kvm(const struct cpu_model *m)
{
    return cpu_model_has(m, ISA_FEAT_HYPERVISOR) && !m->hide_kvm;
}

// KVM's paravirtual clock (pvclock.h) is offered: it needs the TSC's frequency.
static inline bool cpu_model_has_kvmclock(const struct cpu_model *m)
{
    return cpu_model_is_kvm(m) && cpu_model_has(m, ISA_FEAT_TSC) && cpu_model_has(m, ISA_FEAT_MSR) && m->tsc_hz;
}

// The signature as leaf 1 EAX and RDX after RESET show it. SDM 2A CPUID, figure 3-6.
u32 cpu_model_signature(const struct cpu_model *m);

// Find a model by QEMU-style specification: "NAME[,+feature][,-feature][,feature=on|off][,property=value]", properties being
// vendor, family, model, stepping, level, xlevel, model-id, phys-bits and kvm. Fills *out, limited to what pogo implements and
// `host_features` (from host/features.h) allows; features that were asked for by
// name and cannot be given are an error. Returns NULL, or err, which holds one line of text.
const char *cpu_model_parse(const char *spec, const u64 *host_features, struct cpu_model *out, char *err, size_t size);
// Features pogo implements, as a bit set.
void cpu_model_implemented(u64 *features);
// Those among them that need the host to have them.
void cpu_model_native(u64 *features);
// Names and descriptions of the models, for -cpu help; NULL past the end. Only `name`, `description` and the signature
// are filled in.
const struct cpu_model *cpu_model_at(unsigned i);

// CPUID as the guest sees it at this moment (OSXSAVE, APIC id, XCR0-dependent sizes). SDM 2A CPUID; APM 3 appendix E.
struct vcpu;
struct cpuid_regs cpuid_guest(const struct vcpu *v, u32 leaf, u32 subleaf);

#endif
