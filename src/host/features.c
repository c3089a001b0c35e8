// Host features by CPUID, driven by isa/features.def.

#include "host/features.h"

#include <cpuid.h>
#include <string.h>

enum cpuid_reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

struct feature_bit {
    u16 feature;
    u32 leaf;
    u8 subleaf, reg, bit;
};

static const struct feature_bit feature_bits[] = {
#define F(id, name, leaf, subleaf, reg, bit) {ISA_FEAT_##id, leaf, subleaf, REG_##reg, bit},
#include "isa/features.def"
#undef F
};

// A leaf that was asked for: CPUID traps in virtual machines, and rows of the table with the same leaf stand together.
struct leaf {
    bool known;
    u32 leaf, subleaf, r[4];
};

static void read_leaf(struct leaf *l, u32 leaf, u32 subleaf)
{
    *l = (struct leaf){.known = true, .leaf = leaf, .subleaf = subleaf};
    if ((u32)__get_cpuid_max(leaf & 0x80000000, NULL) < leaf)
        return;
    if (leaf == 7 && subleaf) {
        // EAX of subleaf 0 is the highest subleaf.
        __cpuid_count(7, 0, l->r[0], l->r[1], l->r[2], l->r[3]);
        if (l->r[0] < subleaf) {
            memset(l->r, 0, sizeof(l->r));
            return;
        }
    }
    __cpuid_count(leaf, subleaf, l->r[0], l->r[1], l->r[2], l->r[3]);
}

static bool cpuid_bit(struct leaf *l, const struct feature_bit *f)
{
    if (!l->known || l->leaf != f->leaf || l->subleaf != f->subleaf)
        read_leaf(l, f->leaf, f->subleaf);
    return l->r[f->reg] >> f->bit & 1;
}

// State components that the operating system has enabled; 0 when it does not use XSAVE.
static u64 host_xcr0(void)
{
    u32 a, b, c, d;

    __cpuid(1, a, b, c, d);
    if (!(c & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (u64)d << 32 | a;
}

// Features whose instructions need the upper halves of the vector registers.
static const u16 needs_ymm[] = {
    ISA_FEAT_AVX, ISA_FEAT_AVX2, ISA_FEAT_FMA, ISA_FEAT_F16C, ISA_FEAT_VAES, ISA_FEAT_VPCLMULQDQ,
};

void host_features(u64 features[HOST_FEATURE_WORDS])
{
    struct leaf leaf = {0};

    memset(features, 0, HOST_FEATURE_WORDS * sizeof(u64));
    features[ISA_FEAT_NONE / 64] |= 1ull << (ISA_FEAT_NONE % 64);
    for (size_t i = 0; i < ARRAY_LEN(feature_bits); i++) {
        unsigned f = feature_bits[i].feature;
        if (cpuid_bit(&leaf, &feature_bits[i]))
            features[f / 64] |= 1ull << (f % 64);
    }
    if ((host_xcr0() & 6) == 6)
        return;
    for (size_t i = 0; i < ARRAY_LEN(needs_ymm); i++)
        features[needs_ymm[i] / 64] &= ~(1ull << (needs_ymm[i] % 64));
}
