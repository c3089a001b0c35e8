// What the interpreter's vector and x87 files share.
#ifndef POGO_ENGINE_INTERP_SIMD_H
#define POGO_ENGINE_INTERP_SIMD_H

#include "engine/interp/interp.h"

// An unmasked x87 exception waits to be raised (what FSW.ES says).
static inline bool x87_pending(const struct x86_xsave *xs)
{
    return (xs->fsw & ~xs->fcw & 0x3f) != 0;
}

// Change the control or status word: bits that do not exist fall away, ES and B follow from flags and masks.
static inline void x87_set_words(struct x86_xsave *xs, u16 fcw, u16 fsw)
{
    const u16 derived = X86_FSW_ES | X86_FSW_B;
    xs->fcw = (fcw & 0x1f3f) | 0x0040;
    xs->fsw = fsw & (u16)~derived;
    if (x87_pending(xs))
        xs->fsw |= derived;
}

// Does the instruction name an MMX register? CVTPI2PS with a memory operand is among those that do not, and then changes no
// x87 state.
static inline bool simd_names_mmx(const struct insn *in)
{
    return in->opnd[0].kind == ISA_OPND_MMX || in->opnd[1].kind == ISA_OPND_MMX;
}

// What every MMX instruction but EMMS does to the x87 state: TOP is 0, all registers valid. SDM 1 9.5.1.
void x87_enter_mmx(struct x86_xsave *xs);
// What FNINIT does. The data registers keep their contents (physically: they do not move when TOP does).
void x87_init(struct cpu *c);
// State components with other than initial values (X86_XCR0_*), by value; MXCSR does not count. SDM 1 13.6.
u64 simd_xinuse(const struct cpu *c);
// The same as the compacted formats and XGETBV see it, to which MXCSR is part of the SSE state (AMD's XGETBV, too).
u64 simd_xinuse_mxcsr(const struct cpu *c);

// XSAVEC and XSAVES of the components `rfbm` to an area that may be written to, and XRSTOR and XRSTORS of a compacted one that may be read:
// false, and nothing has changed, where it is not of that format or does not allow it. `allowed`: components that it may have.
void simd_store_compact(struct interp *x, const struct insn *in, u64 rfbm, u8 *to);
bool simd_load_compact(struct interp *x, const struct insn *in, u64 rfbm, u64 allowed, const u8 *from);

// A waiting instruction: #MF if an exception is pending, or with CR0.NE clear FERR# and a halt, unless IGNNE# says to go on.
// SDM 1 8.7.
void x87_check_pending(struct interp *x);

// #GP(0) unless the memory operand's linear address is a multiple of `align`. This goes before segment checks: a misaligned
// operand outside the stack segment gives #GP, not #SS.
void simd_require_alignment(struct interp *x, const struct insn *in, unsigned align);

// Offset of the memory operand, after the alignment checks of its form: #GP(0) for ISA_ATTR_ALIGN off a multiple of `size`,
// #AC off a multiple of `align` where alignment checking is on.
u64 simd_address(struct interp *x, const struct insn *in, unsigned size, unsigned align, enum mmu_access access);

// Bits that software may set in MXCSR.
u32 simd_mxcsr_mask(const struct interp *x);

#endif
