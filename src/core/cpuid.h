// Processor models and CPUID. A model is a name, a vendor/family/model signature and a set of features; the guest is given the
// features that the model has *and* pogo implements *and* the host executes (native thunks and direct execution need the host).
#ifndef POGO_CORE_CPUID_H
#define POGO_CORE_CPUID_H

#include "isa/insn.h"

struct cpu_model {
    const char *name;
    const char *description;
    char vendor[13]; // "AuthenticAMD", "GenuineIntel"
    char brand[49];
    u32 family, model, stepping;
    u8 maxphyaddr, linear_bits;
    u64 tsc_hz;
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
};

struct cpuid_regs {
    u32 eax, ebx, ecx, edx;
};

static inline bool cpu_model_has(const struct cpu_model *m, enum isa_feature f)
{
    return (m->features[f / 64] >> (f % 64)) & 1;
}

// Find a model by QEMU-style specification: "NAME[,+feature][,-feature][,feature=on|off]". Fills *out, limited to
// pogo-implemented ∩ host features (host features are given by the caller: see host/features). Returns NULL, or a one-line
// error text (static buffer inside *out is not used; text is written to err[size]).
const char *cpu_model_parse(const char *spec, const u64 *host_features, struct cpu_model *out, char *err, size_t size);
// Features pogo implements, as a bit set.
void cpu_model_implemented(u64 *features);
// Names and descriptions of the models, for -cpu help; NULL past the end.
const struct cpu_model *cpu_model_at(unsigned i);

// CPUID as the guest sees it at this moment (OSXSAVE, APIC id, XCR0-dependent sizes). SDM 2A CPUID; APM 3 appendix E.
struct vcpu;
struct cpuid_regs cpuid_guest(const struct vcpu *v, u32 leaf, u32 subleaf);

#endif
