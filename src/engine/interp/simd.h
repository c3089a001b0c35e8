// What the interpreter's vector and x87 files share.
#ifndef POGO_ENGINE_INTERP_SIMD_H
#define POGO_ENGINE_INTERP_SIMD_H

#include "engine/interp/interp.h"

#define X86_MXCSR_MM 0x20000u // AMD's misaligned mode, CPUID misalignsse. APM 1 4.2.2

// An unmasked x87 exception waits to be raised (what FSW.ES says).
static inline bool x87_pending(const struct x86_xsave *xs)
{
    return (xs->fsw & ~xs->fcw & 0x3f) != 0;
}

// #MF if one is pending.
void x87_check_pending(struct interp *x);

// Offset of the memory operand, after the alignment checks of its form: #GP(0) for ISA_ATTR_ALIGN off a multiple of `size`,
// #AC off a multiple of `align` where alignment checking is on.
u64 simd_address(struct interp *x, const struct insn *in, unsigned size, unsigned align, enum mmu_access access);

// Bits that software may set in MXCSR.
u32 simd_mxcsr_mask(const struct interp *x);

#endif
