// CPUID: what each leaf answers, put together from the processor model and the moment's state.
//
// Feature bits come from the rows of features.def; this file adds identification, topology (one thread per core, one package),
// caches, XSAVE sizes and the hypervisor's leaves. Caches are those of a plain part of the vendor: guests use them for tuning
// only. Leaves beyond the highest one answer as the vendor's parts do: AMD zeros, Intel the highest basic leaf.
#include "core/cpuid.h"

#include "core/machine.h"

#define EXTENDED 0x80000000u
#define HYPERVISOR_BASE 0x40000000u
#define HYPERVISOR_TIMING 0x40000010u

// Features of leaf 0x40000001 EAX: both sets of clock registers and the TSC-is-stable flag; no delays between port accesses.
#define KVM_CLOCK (1u | 1u << 3 | 1u << 24)
#define KVM_NOP_IO_DELAY 2u

#define LEAF1_EDX_HTT (1u << 28)
// AMD repeats these bits of leaf 1 EDX in 0x80000001 EDX. APM 3 E.4.2.
#define AMD_EDX_SHARED 0x0183f3ffu
#define AMD_ECX_CMP_LEGACY 2u
// Not affected by branch type confusion (retbleed): 0x80000008 EBX.
#define AMD_BTC_NO (1u << 29)
// Not affected by speculative return stack overflow, transient scheduler attacks: 0x80000021 EAX, ECX.
#define AMD_SRSO_NO (1u << 29)
#define AMD_TSA_NO 6u

#define MISC_ENABLE_LIMIT_CPUID (1ull << 22)
#define MISC_ENABLE_XD_DISABLE (1ull << 34)
#define APIC_BASE_ENABLE 0x800u

#define XSAVE_LEGACY_SIZE 576u // legacy region and header
#define XSAVE_AVX_SIZE 256u

static u32 *reg_of(struct cpuid_regs *r, unsigned reg)
{
    switch (reg) {
    case ISA_CPUID_EAX: return &r->eax;
    case ISA_CPUID_EBX: return &r->ebx;
    case ISA_CPUID_ECX: return &r->ecx;
    default: return &r->edx;
    }
}

// Feature bits of a leaf.
static void add_features(const struct cpu_model *m, u32 leaf, u32 subleaf, struct cpuid_regs *r)
{
    for (unsigned i = 1; i < ISA_FEAT_COUNT; i++) {
        const struct isa_feature_info *info = &isa_features[i];
        if (info->leaf == leaf && info->subleaf == subleaf && cpu_model_has(m, i))
            *reg_of(r, info->reg) |= 1u << info->bit;
    }
}

static u32 text_word(const char *s)
{
    u32 w;
    __builtin_memcpy(&w, s, 4);
    return w;
}

static struct cpuid_regs vendor_leaf(const char *vendor, u32 eax)
{
    return (struct cpuid_regs){eax, text_word(vendor), text_word(vendor + 8), text_word(vendor + 4)};
}

static u32 core_count(const struct vcpu *v)
{
    return v->machine && v->machine->vcpu_count > 1 ? v->machine->vcpu_count : 1;
}

// Bits of the APIC id that number the cores of a package.
static u32 core_bits(const struct vcpu *v)
{
    u32 bits = 0;
    while (1u << bits < core_count(v))
        bits++;
    return bits;
}

static u64 tsc_khz(const struct vcpu *v)
{
    return v->model->tsc_hz / 1000;
}

static u32 basic_max(const struct vcpu *v)
{
    u32 level = v->model->level;
    return v->cpu.msr.misc_enable & MISC_ENABLE_LIMIT_CPUID && level > 3 ? 3 : level;
}

// --- basic leaves -----------------------------------------------------------------------------------------------------------

static struct cpuid_regs leaf_1(const struct vcpu *v)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {.eax = cpu_model_signature(m)};
    add_features(m, 1, 0, &r);
    if (cpu_model_has(m, ISA_FEAT_CLFLUSH))
        r.ebx |= 8 << 8; // CLFLUSH line in quadwords
    r.ebx |= v->id << 24;
    if (core_count(v) > 1) {
        r.ebx |= core_count(v) << 16;
        r.edx |= LEAF1_EDX_HTT;
    }
    if (v->cpu.cr4 & X86_CR4_OSXSAVE)
        r.ecx |= 1u << isa_features[ISA_FEAT_OSXSAVE].bit;
    if (!(v->cpu.msr.apic_base & APIC_BASE_ENABLE))
        r.edx &= ~(1u << isa_features[ISA_FEAT_APIC].bit);
    return r;
}

// Descriptor bytes for parts that have no leaf 4; later ones refer to it (ff). SDM 2A table 3-12.
static struct cpuid_regs leaf_2(const struct cpu_model *m)
{
    if (cpu_model_is_amd(m))
        return (struct cpuid_regs){0};
    if (m->level >= 4)
        return (struct cpuid_regs){.eax = 0x00ff5a01}; // 5a: data TLB of large pages
    // 4-way 16 KB L1 caches with 32-byte lines, 512 KB L2; TLBs 32 and 64 entries.
    return (struct cpuid_regs){.eax = 0x03020101, .edx = 0x0c040843};
}

struct cache {
    u8 level, type; // type: 1 data, 2 instruction, 3 unified
    u16 ways, sets;
};

// 64-byte lines. L3 is shared by the package.
static const struct cache caches[] = {{1, 1, 8, 64}, {1, 2, 8, 64}, {2, 3, 8, 1024}, {3, 3, 16, 16384}};

// Leaf 4, and 0x8000001D in the same format. SDM 2A CPUID; APM 3 E.4.15.
static struct cpuid_regs leaf_cache(const struct vcpu *v, u32 subleaf, bool amd)
{
    if (subleaf >= ARRAY_LEN(caches))
        return (struct cpuid_regs){0};
    const struct cache *c = &caches[subleaf];
    u32 cores = (1u << core_bits(v)) - 1;
    u32 sharing = c->level == 3 ? cores : 0;
    struct cpuid_regs r = {.eax = (u32)c->type | (u32)c->level << 5 | 1u << 8 | sharing << 14};
    if (!amd)
        r.eax |= cores << 26;
    r.ebx = (64 - 1) | (u32)(c->ways - 1) << 22;
    r.ecx = c->sets - 1u;
    return r;
}

// EAX of subleaf 0 is the highest subleaf.
#define LEAF7_SUBLEAVES 3

static struct cpuid_regs leaf_7(const struct cpu_model *m, u32 subleaf)
{
    struct cpuid_regs r = {0};
    add_features(m, 7, subleaf, &r);
    for (u32 i = 1; subleaf == 0 && i < LEAF7_SUBLEAVES; i++) {
        struct cpuid_regs other = {0};
        add_features(m, 7, i, &other);
        if (other.eax | other.ebx | other.ecx | other.edx)
            r.eax = i;
    }
    return r;
}

// Extended topology: level 0 threads, level 1 cores. SDM 2A CPUID leaf 0BH.
static struct cpuid_regs leaf_b(const struct vcpu *v, u32 subleaf)
{
    struct cpuid_regs r = {.ecx = subleaf & 0xff, .edx = v->id};
    if (subleaf == 0) {
        r.ebx = 1;
        r.ecx |= 1 << 8;
    } else if (subleaf == 1) {
        r.eax = core_bits(v);
        r.ebx = core_count(v);
        r.ecx |= 2 << 8;
    }
    return r;
}

static u32 xsave_size(u64 components)
{
    return XSAVE_LEGACY_SIZE + (components & X86_XCR0_AVX ? XSAVE_AVX_SIZE : 0);
}

// SDM 1 13.2. XCR0 reads as 1 when the operating system has not set it: CPUID counts the legacy region and header then.
static struct cpuid_regs leaf_d(const struct vcpu *v, u32 subleaf)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {0};
    u64 all = cpu_model_xcr0(m);
    if (!all)
        return r;
    if (subleaf == 0) {
        r.eax = (u32)all;
        r.ebx = xsave_size(v->cpu.xcr0);
        r.ecx = xsave_size(all);
    } else if (subleaf == 1) {
        add_features(m, 0xd, 1, &r);
        if (cpu_model_has(m, ISA_FEAT_XSAVEC))
            r.ebx = xsave_size(v->cpu.xcr0 | v->cpu.msr.xss);
    } else if (subleaf == 2 && all & X86_XCR0_AVX) {
        r.eax = XSAVE_AVX_SIZE;
        r.ebx = XSAVE_LEGACY_SIZE; // offset in the standard format
    }
    return r;
}

// TSC frequency as crystal times ratio.
static struct cpuid_regs leaf_15(const struct vcpu *v)
{
    u64 crystal = v->model->tsc_hz / CPUID_CRYSTAL_RATIO;
    if (!crystal || crystal >> 32)
        return (struct cpuid_regs){0};
    return (struct cpuid_regs){.eax = 1, .ebx = CPUID_CRYSTAL_RATIO, .ecx = (u32)crystal};
}

static struct cpuid_regs leaf_16(const struct vcpu *v)
{
    u32 mhz = (u32)((tsc_khz(v) + 500) / 1000);
    return (struct cpuid_regs){.eax = mhz, .ebx = mhz, .ecx = mhz ? 100 : 0};
}

static struct cpuid_regs basic_leaf(const struct vcpu *v, u32 leaf, u32 subleaf)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {0};
    bool intel = !cpu_model_is_amd(m);
    switch (leaf) {
    case 0: return vendor_leaf(m->vendor, basic_max(v));
    case 1: return leaf_1(v);
    case 2: return leaf_2(m);
    case 4: return intel ? leaf_cache(v, subleaf, false) : r;
    case 7: return leaf_7(m, subleaf);
    case 0xb: return leaf_b(v, subleaf);
    case 0xd: return leaf_d(v, subleaf);
    case 0x15: return intel ? leaf_15(v) : r;
    case 0x16: return intel ? leaf_16(v) : r;
    default:
        add_features(m, leaf, subleaf, &r);
        return r; // 5: no MONITOR; 6; 0xa: no counters; 0x14 and others: nothing
    }
}

// --- hypervisor leaves --------------------------------------------------------------------------------------------------------

static struct cpuid_regs hypervisor_leaf(const struct vcpu *v, u32 leaf)
{
    static const char kvm[12] = "KVMKVMKVM";
    switch (leaf) {
    case HYPERVISOR_BASE:
        return (struct cpuid_regs){HYPERVISOR_TIMING, text_word(kvm), text_word(kvm + 4), text_word(kvm + 8)};
    case HYPERVISOR_TIMING:
        return (struct cpuid_regs){.eax = (u32)tsc_khz(v), .ebx = (u32)(tsc_khz(v) / CPUID_CRYSTAL_RATIO)};
    case HYPERVISOR_BASE + 1:
        return (struct cpuid_regs){.eax = KVM_NOP_IO_DELAY | (cpu_model_has_kvmclock(v->model) ? KVM_CLOCK : 0)};
    default: return (struct cpuid_regs){0};
    }
}

// --- extended leaves ----------------------------------------------------------------------------------------------------------

static struct cpuid_regs leaf_ext_1(const struct vcpu *v)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {0};
    add_features(m, EXTENDED + 1, 0, &r);
    if (cpu_model_is_amd(m)) {
        struct cpuid_regs basic = leaf_1(v);
        r.eax = basic.eax;
        r.edx |= basic.edx & AMD_EDX_SHARED;
        if (core_count(v) > 1)
            r.ecx |= AMD_ECX_CMP_LEGACY;
    } else if (!cpu_64bit(&v->cpu)) {
        // Intel shows SYSCALL in 64-bit mode only. SDM 2A table 3-8.
        r.edx &= ~(1u << isa_features[ISA_FEAT_SYSCALL].bit);
    }
    if (v->cpu.msr.misc_enable & MISC_ENABLE_XD_DISABLE)
        r.edx &= ~(1u << isa_features[ISA_FEAT_NX].bit);
    return r;
}

static struct cpuid_regs leaf_brand(const struct cpu_model *m, unsigned part)
{
    const char *s = m->brand + part * 16;
    return (struct cpuid_regs){text_word(s), text_word(s + 4), text_word(s + 8), text_word(s + 12)};
}

// L2 and, AMD, L1, L3 and TLBs. APM 3 E.4.4, E.4.5.
static struct cpuid_regs leaf_ext_cache(const struct cpu_model *m, u32 leaf)
{
    if (!cpu_model_is_amd(m))
        return (struct cpuid_regs){.ecx = leaf == EXTENDED + 6 ? 512u << 16 | 6 << 12 | 64 : 0};
    if (leaf == EXTENDED + 5) // TLBs of 64 entries, fully associative; 32 KB 8-way L1 caches, 64-byte lines
        return (struct cpuid_regs){0xff40ff40, 0xff40ff40, 32 << 24 | 8 << 16 | 1 << 8 | 64,
                                   32 << 24 | 8 << 16 | 1 << 8 | 64};
    return (struct cpuid_regs){.eax = 0x44004400, // L2 TLBs: 1024 entries, 4-way
                               .ebx = 0x44004400,
                               .ecx = 512u << 16 | 6 << 12 | 1 << 8 | 64,
                               .edx = 32u << 18 | 8 << 12 | 1 << 8 | 64}; // L3: 32 units of 512 KB, 16-way
}

static struct cpuid_regs leaf_ext_8(const struct vcpu *v)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {.eax = m->maxphyaddr | (u32)m->linear_bits << 8};
    add_features(m, EXTENDED + 8, 0, &r);
    if (cpu_model_is_amd(m)) {
        r.ecx = (core_count(v) - 1) | core_bits(v) << 12;
        if (cpu_model_has(m, ISA_FEAT_AMD_NO_SSB))
            r.ebx |= AMD_BTC_NO;
    }
    return r;
}

static struct cpuid_regs leaf_ext_21(const struct cpu_model *m)
{
    struct cpuid_regs r = {0};
    add_features(m, EXTENDED + 0x21, 0, &r);
    if (cpu_model_is_amd(m)) {
        r.eax |= AMD_SRSO_NO;
        r.ecx |= AMD_TSA_NO;
    }
    return r;
}

static struct cpuid_regs extended_leaf(const struct vcpu *v, u32 leaf, u32 subleaf)
{
    const struct cpu_model *m = v->model;
    struct cpuid_regs r = {0};
    bool topology = cpu_model_has(m, ISA_FEAT_TOPOEXT);
    switch (leaf) {
    case EXTENDED:
        return cpu_model_is_amd(m) ? vendor_leaf(m->vendor, m->xlevel) : (struct cpuid_regs){.eax = m->xlevel};
    case EXTENDED + 1: return leaf_ext_1(v);
    case EXTENDED + 2:
    case EXTENDED + 3:
    case EXTENDED + 4: return leaf_brand(m, leaf - EXTENDED - 2);
    case EXTENDED + 5:
    case EXTENDED + 6: return leaf_ext_cache(m, leaf);
    case EXTENDED + 8: return leaf_ext_8(v);
    case EXTENDED + 0x1d: return topology ? leaf_cache(v, subleaf, true) : r;
    case EXTENDED + 0x1e:
        if (topology) {
            r.eax = v->id;
            r.ebx = v->id & 0xff; // one thread per core
        }
        return r;
    case EXTENDED + 0x21: return leaf_ext_21(m);
    default: add_features(m, leaf, subleaf, &r); return r;
    }
}

struct cpuid_regs cpuid_guest(const struct vcpu *v, u32 leaf, u32 subleaf)
{
    const struct cpu_model *m = v->model;
    if (!m)
        return (struct cpuid_regs){0};
    if (leaf >> 8 == HYPERVISOR_BASE >> 8 && cpu_model_is_kvm(m))
        return hypervisor_leaf(v, leaf);
    if (leaf <= basic_max(v))
        return basic_leaf(v, leaf, subleaf);
    if (leaf >= EXTENDED && leaf <= m->xlevel)
        return extended_leaf(v, leaf, subleaf);
    return cpu_model_is_amd(m) ? (struct cpuid_regs){0} : basic_leaf(v, basic_max(v), subleaf);
}
