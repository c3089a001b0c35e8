// Memory type range registers: eleven fixed ranges for the first megabyte, eight variable ranges. SDM 3A 11.11; APM 2 7.7-7.9.
#include "core/mtrr.h"

#include "core/cpuid.h"

#define MTRRCAP_FIX 0x100u
#define MTRRCAP_WC 0x400u
#define DEF_TYPE_VALID 0xcffull // E, FE, type
#define MASK_VALID_BIT 0x800ull
#define PHYSBASE_LAST (X86_MSR_MTRR_PHYSBASE0 + 2 * CPU_MTRR_VAR - 1)

// AMD: SYSCFG.MtrrFixDramModEn shows and opens bits 4:3 of every fixed field (RdMem, WrMem). APM 2 7.9.1.
#define SYSCFG_FIX_DRAM_MOD (1ull << 19)
#define FIX_DRAM_BITS 0x1818181818181818ull

// Position of a fixed-range register in cpu_msrs.mtrr_fix, or -1.
static int fixed_index(u32 index)
{
    switch (index) {
    case 0x250: return 0;
    case 0x258: return 1;
    case 0x259: return 2;
    default: return index >= 0x268 && index <= 0x26f ? (int)(index - 0x268) + 3 : -1;
    }
}

bool mtrr_is_msr(u32 index)
{
    return index == X86_MSR_MTRRCAP || index == X86_MSR_MTRR_DEF_TYPE || fixed_index(index) >= 0 ||
           (index >= X86_MSR_MTRR_PHYSBASE0 && index <= PHYSBASE_LAST);
}

static bool present(const struct vcpu *v)
{
    return cpu_model_offers(v->model, ISA_FEAT_MTRR);
}

// UC, WC, WT, WP, WB.
static bool valid_type(unsigned type)
{
    return type <= 6 && type != 2 && type != 3;
}

static bool fix_dram_open(const struct vcpu *v)
{
    return v->cpu.msr.syscfg & SYSCFG_FIX_DRAM_MOD;
}

bool mtrr_read(const struct vcpu *v, u32 index, u64 *val)
{
    const struct cpu_msrs *m = &v->cpu.msr;
    if (!present(v))
        return false;
    int fixed = fixed_index(index);
    if (fixed >= 0) {
        *val = fix_dram_open(v) ? m->mtrr_fix[fixed] : m->mtrr_fix[fixed] & ~FIX_DRAM_BITS;
    } else if (index == X86_MSR_MTRRCAP) {
        *val = CPU_MTRR_VAR | MTRRCAP_FIX | MTRRCAP_WC;
    } else if (index == X86_MSR_MTRR_DEF_TYPE) {
        *val = m->mtrr_def_type;
    } else {
        unsigned n = index - X86_MSR_MTRR_PHYSBASE0;
        *val = n & 1 ? m->mtrr_mask[n / 2] : m->mtrr_base[n / 2];
    }
    return true;
}

static bool write_fixed(struct vcpu *v, unsigned fixed, u64 val)
{
    u64 *reg = &v->cpu.msr.mtrr_fix[fixed];
    u64 types = fix_dram_open(v) ? val & ~FIX_DRAM_BITS : val;
    for (unsigned i = 0; i < 8; i++) {
        if (!valid_type((u8)(types >> i * 8)))
            return false;
    }
    *reg = fix_dram_open(v) ? val : val | (*reg & FIX_DRAM_BITS);
    return true;
}

static bool write_variable(struct vcpu *v, unsigned n, u64 val)
{
    struct cpu_msrs *m = &v->cpu.msr;
    u64 pages = ((v->model ? 1ull << v->model->maxphyaddr : 1ull << 52) - 1) & ~0xfffull;
    if (n & 1) {
        if (val & ~(pages | MASK_VALID_BIT))
            return false;
        m->mtrr_mask[n / 2] = val;
    } else {
        if (val & ~(pages | 0xff) || !valid_type(val & 0xff))
            return false;
        m->mtrr_base[n / 2] = val;
    }
    return true;
}

bool mtrr_write(struct vcpu *v, u32 index, u64 val)
{
    if (!present(v) || index == X86_MSR_MTRRCAP)
        return false;
    int fixed = fixed_index(index);
    if (fixed >= 0)
        return write_fixed(v, (unsigned)fixed, val);
    if (index != X86_MSR_MTRR_DEF_TYPE)
        return write_variable(v, index - X86_MSR_MTRR_PHYSBASE0, val);
    if (val & ~DEF_TYPE_VALID || !valid_type(val & 0xff))
        return false;
    v->cpu.msr.mtrr_def_type = val;
    return true;
}
