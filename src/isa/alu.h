// Integer operations, executed by the host processor.
//
// A VMM on the same instruction set need not imitate the ALU: every function here runs the instruction itself, so that results
// and all six status flags, including those that the manuals leave undefined, are the host's own. That is what makes it
// impossible for a guest to see on which engine an instruction ran.
//
// Calling convention: operands and results are u64 with the value in the low bytes (excess input bits are ignored, results
// are zero-extended); `size` is 1, 2, 4 or 8 bytes; `fl` points to an RFLAGS image of which only the X86_FL_STATUS bits are
// read or replaced.
//
// Flags travel in AX, because LAHF and SETO are much cheaper than PUSHF, and SAHF much cheaper than POPF:
//
//     15             8 7             0
//     SF ZF 0 AF 0 PF 1 CF   0 or 1: OF       `add al, 0x7f` turns the low byte into OF, then SAHF loads the others
//
// Instructions whose flags depend on their operands alone take the flags out only (ALU_OUT); those that read or may pass through
// a flag, undefined ones included, also load them first (ALU_IN).
//
// Freestanding: no libc, general registers only.
#ifndef POGO_ISA_ALU_H
#define POGO_ISA_ALU_H

#include "isa/x86.h"

#define ALU_OUT "lahf\n\tseto %%al"
#define ALU_IN "addb $0x7f, %%al\n\tsahf\n\t"

static inline u16 alu_flags_pack(u64 fl)
{
    return (u16)(fl << 8) | (fl >> 11 & 1);
}

static inline void alu_flags_unpack(u64 *fl, u16 ax)
{
    *fl = (*fl & ~(u64)X86_FL_STATUS) | (ax >> 8 & (X86_FL_STATUS & 0xff)) | (u64)(ax & 1) << 11;
}

// --- two operands, result depends on them alone: ADD OR AND SUB XOR ------------------------------------------------------

#define ALU_BINARY_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u##bits b, u64 *fl) \
    { \
        u16 f; \
        __asm__(#op " %2, %0\n\t" ALU_OUT : "+&r"(a), "=&a"(f) : "r"(b) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

// One function for all sizes from the four of one size each.
#define ALU_DISPATCH2(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u64 b, u64 *fl) \
    { \
        switch (size) { \
        case 1: return alu_##op##8((u8)a, (u8)b, fl); \
        case 2: return alu_##op##16((u16)a, (u16)b, fl); \
        case 4: return alu_##op##32((u32)a, (u32)b, fl); \
        default: return alu_##op##64(a, b, fl); \
        } \
    }

#define ALU_SIZES(m, op) m(op, 8) m(op, 16) m(op, 32) m(op, 64)

ALU_SIZES(ALU_BINARY_SIZE, add)
ALU_SIZES(ALU_BINARY_SIZE, or)
ALU_SIZES(ALU_BINARY_SIZE, and)
ALU_SIZES(ALU_BINARY_SIZE, sub)
ALU_SIZES(ALU_BINARY_SIZE, xor)
ALU_DISPATCH2(add)
ALU_DISPATCH2(or)
ALU_DISPATCH2(and)
ALU_DISPATCH2(sub)
ALU_DISPATCH2(xor)

// --- two operands and the carry: ADC SBB -----------------------------------------------------------------------------------

#define ALU_CARRY_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u##bits b, u64 *fl) \
    { \
        u16 f; \
        __asm__("btl $0, %k3\n\t" #op " %2, %0\n\t" ALU_OUT : "+&r"(a), "=&a"(f) : "r"(b), "r"(*fl) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

ALU_SIZES(ALU_CARRY_SIZE, adc)
ALU_SIZES(ALU_CARRY_SIZE, sbb)
ALU_DISPATCH2(adc)
ALU_DISPATCH2(sbb)

// --- one operand: INC DEC (CF passes through) NEG ------------------------------------------------------------------------

#define ALU_UNARY_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u64 *fl) \
    { \
        u16 f; \
        __asm__("btl $0, %k2\n\t" #op " %0\n\t" ALU_OUT : "+&r"(a), "=&a"(f) : "r"(*fl) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

#define ALU_DISPATCH1(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u64 *fl) \
    { \
        switch (size) { \
        case 1: return alu_##op##8((u8)a, fl); \
        case 2: return alu_##op##16((u16)a, fl); \
        case 4: return alu_##op##32((u32)a, fl); \
        default: return alu_##op##64(a, fl); \
        } \
    }

ALU_SIZES(ALU_UNARY_SIZE, inc)
ALU_SIZES(ALU_UNARY_SIZE, dec)
ALU_SIZES(ALU_UNARY_SIZE, neg)
ALU_DISPATCH1(inc)
ALU_DISPATCH1(dec)
ALU_DISPATCH1(neg)

// --- shifts and rotates: operand, count in CL ------------------------------------------------------------------------------
//
// The host masks the count (to 5 bits, 6 for 64-bit operands) and leaves all flags alone when nothing remains.

#define ALU_SHIFT_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u8 count, u64 *fl) \
    { \
        u16 f = alu_flags_pack(*fl); \
        __asm__(ALU_IN #op " %2, %0\n\t" ALU_OUT : "+&r"(a), "+&a"(f) : "c"(count) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

#define ALU_DISPATCH_SHIFT(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u8 count, u64 *fl) \
    { \
        switch (size) { \
        case 1: return alu_##op##8((u8)a, count, fl); \
        case 2: return alu_##op##16((u16)a, count, fl); \
        case 4: return alu_##op##32((u32)a, count, fl); \
        default: return alu_##op##64(a, count, fl); \
        } \
    }

ALU_SIZES(ALU_SHIFT_SIZE, rol)
ALU_SIZES(ALU_SHIFT_SIZE, ror)
ALU_SIZES(ALU_SHIFT_SIZE, rcl)
ALU_SIZES(ALU_SHIFT_SIZE, rcr)
ALU_SIZES(ALU_SHIFT_SIZE, shl)
ALU_SIZES(ALU_SHIFT_SIZE, shr)
ALU_SIZES(ALU_SHIFT_SIZE, sar)
ALU_DISPATCH_SHIFT(rol)
ALU_DISPATCH_SHIFT(ror)
ALU_DISPATCH_SHIFT(rcl)
ALU_DISPATCH_SHIFT(rcr)
ALU_DISPATCH_SHIFT(shl)
ALU_DISPATCH_SHIFT(shr)
ALU_DISPATCH_SHIFT(sar)

// Double shifts: bits of `b` move into `a`. 16-bit operands with counts above 16 do whatever the host does.
#define ALU_DOUBLE_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u##bits b, u8 count, u64 *fl) \
    { \
        u16 f = alu_flags_pack(*fl); \
        __asm__(ALU_IN #op " %%cl, %2, %0\n\t" ALU_OUT : "+&r"(a), "+&a"(f) : "r"(b), "c"(count) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

#define ALU_DISPATCH_DOUBLE(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u64 b, u8 count, u64 *fl) \
    { \
        switch (size) { \
        case 2: return alu_##op##16((u16)a, (u16)b, count, fl); \
        case 4: return alu_##op##32((u32)a, (u32)b, count, fl); \
        default: return alu_##op##64(a, b, count, fl); \
        } \
    }

#define ALU_WIDE_SIZES(m, op) m(op, 16) m(op, 32) m(op, 64)

ALU_WIDE_SIZES(ALU_DOUBLE_SIZE, shld)
ALU_WIDE_SIZES(ALU_DOUBLE_SIZE, shrd)
ALU_DISPATCH_DOUBLE(shld)
ALU_DISPATCH_DOUBLE(shrd)

// --- bit test: BT BTS BTR BTC, register forms -------------------------------------------------------------------------------
//
// The bit number is taken modulo the operand's width; sizes 2, 4, 8. Returns the operand after the operation.

#define ALU_BIT_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u##bits bit, u64 *fl) \
    { \
        u16 f = alu_flags_pack(*fl); \
        __asm__(ALU_IN #op " %2, %0\n\t" ALU_OUT : "+&r"(a), "+&a"(f) : "r"(bit) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

#define ALU_DISPATCH_BIT(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u64 bit, u64 *fl) \
    { \
        switch (size) { \
        case 2: return alu_##op##16((u16)a, (u16)bit, fl); \
        case 4: return alu_##op##32((u32)a, (u32)bit, fl); \
        default: return alu_##op##64(a, bit, fl); \
        } \
    }

ALU_WIDE_SIZES(ALU_BIT_SIZE, bt)
ALU_WIDE_SIZES(ALU_BIT_SIZE, bts)
ALU_WIDE_SIZES(ALU_BIT_SIZE, btr)
ALU_WIDE_SIZES(ALU_BIT_SIZE, btc)
ALU_DISPATCH_BIT(bt)
ALU_DISPATCH_BIT(bts)
ALU_DISPATCH_BIT(btr)
ALU_DISPATCH_BIT(btc)

// --- bit scan: BSF BSR --------------------------------------------------------------------------------------------------------
//
// A source of zero leaves the destination as the host does, so the whole 64-bit destination register goes in and comes out.

#define ALU_SCAN(op) \
    static inline u64 alu_##op(unsigned size, u64 dst, u64 src, u64 *fl) \
    { \
        u16 f = alu_flags_pack(*fl); \
        switch (size) { \
        case 2: __asm__(ALU_IN #op " %w2, %w0\n\t" ALU_OUT : "+&r"(dst), "+&a"(f) : "r"(src) : "cc"); break; \
        case 4: __asm__(ALU_IN #op " %k2, %k0\n\t" ALU_OUT : "+&r"(dst), "+&a"(f) : "r"(src) : "cc"); break; \
        default: __asm__(ALU_IN #op " %2, %0\n\t" ALU_OUT : "+&r"(dst), "+&a"(f) : "r"(src) : "cc"); break; \
        } \
        alu_flags_unpack(fl, f); \
        return dst; \
    }

ALU_SCAN(bsf)
ALU_SCAN(bsr)

// BSWAP on the whole register; 16 bits, undefined by the manuals, as the host does it.
static inline u64 alu_bswap(unsigned size, u64 v)
{
    switch (size) {
    case 2: __asm__("data16 bswap %k0" : "+r"(v)); break;
    case 4: __asm__("bswap %k0" : "+r"(v)); break;
    default: __asm__("bswap %0" : "+r"(v)); break;
    }
    return v;
}

// --- multiply ---------------------------------------------------------------------------------------------------------------
//
// Full products: `lo` and `hi` are the halves, each of `size` bytes (8-bit operands: AL and AH of AX).

#define ALU_MUL8(op) \
    static inline u64 alu_##op##8(u8 a, u8 b, u64 * hi, u64 * fl) \
    { \
        u16 ax = (u16)(alu_flags_pack(*fl) & 0xff00) | a, f; \
        u8 of = *fl >> 11 & 1; \
        __asm__("addb $0x7f, %b2\n\tsahf\n\t" #op " %b3\n\tmovw %%ax, %1\n\t" ALU_OUT \
                : "+&a"(ax), "=&r"(f), "+&r"(of) \
                : "r"(b) \
                : "cc"); \
        alu_flags_unpack(fl, ax); \
        *hi = f >> 8; \
        return f & 0xff; \
    }

#define ALU_MUL_SIZE(op, bits) \
    static inline u64 alu_##op##bits(u##bits a, u##bits b, u64 *hi, u64 *fl) \
    { \
        u64 f = alu_flags_pack(*fl); \
        u##bits lo, d; \
        __asm__(ALU_IN "mov %3, %%rax\n\t" #op " %4\n\tmov %%rax, %q1\n\t" ALU_OUT \
                : "+&a"(f), "=&r"(lo), "=&d"(d) \
                : "r"((u64)a), "r"(b) \
                : "cc"); \
        alu_flags_unpack(fl, (u16)f); \
        *hi = d; \
        return lo; \
    }

#define ALU_DISPATCH_MUL(op) \
    static inline u64 alu_##op(unsigned size, u64 a, u64 b, u64 *hi, u64 *fl) \
    { \
        switch (size) { \
        case 1: return alu_##op##8((u8)a, (u8)b, hi, fl); \
        case 2: return alu_##op##16((u16)a, (u16)b, hi, fl); \
        case 4: return alu_##op##32((u32)a, (u32)b, hi, fl); \
        default: return alu_##op##64(a, b, hi, fl); \
        } \
    }

ALU_MUL8(mul)
ALU_MUL8(imul)
ALU_WIDE_SIZES(ALU_MUL_SIZE, mul)
ALU_WIDE_SIZES(ALU_MUL_SIZE, imul)
ALU_DISPATCH_MUL(mul)
ALU_DISPATCH_MUL(imul)

// Truncated product of the two- and three-operand forms; sizes 2, 4, 8.
#define ALU_IMUL2_SIZE(op, bits) \
    static inline u##bits alu_##op##bits(u##bits a, u##bits b, u64 *fl) \
    { \
        u16 f = alu_flags_pack(*fl); \
        __asm__(ALU_IN "imul %2, %0\n\t" ALU_OUT : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); \
        alu_flags_unpack(fl, f); \
        return a; \
    }

ALU_WIDE_SIZES(ALU_IMUL2_SIZE, imul2_)

static inline u64 alu_imul2(unsigned size, u64 a, u64 b, u64 *fl)
{
    switch (size) {
    case 2: return alu_imul2_16((u16)a, (u16)b, fl);
    case 4: return alu_imul2_32((u32)a, (u32)b, fl);
    default: return alu_imul2_64(a, b, fl);
    }
}

// --- divide -----------------------------------------------------------------------------------------------------------------
//
// Dividend hi:lo, each half of `size` bytes (8-bit operands: AH and AL). False where the processor raises #DE; then nothing
// has changed and nothing has trapped on the host. Else quotient and remainder, each of `size` bytes.

static inline bool alu_div_ok(unsigned size, u64 hi, u64 divisor)
{
    u64 mask = ~0ull >> (64 - size * 8);
    return (hi & mask) < (divisor & mask);
}

// The quotient of magnitudes must stay below 2^(n-1), or reach it when the result is negative; compared by multiplying the
// divisor, as a division might itself trap.
static inline bool alu_idiv_ok(unsigned size, u64 hi, u64 lo, u64 divisor)
{
    unsigned bits = size * 8;
    u64 mask = ~0ull >> (64 - bits);
    i64 d = (i64)(divisor << (64 - bits)) >> (64 - bits);
    i64 h = (i64)(hi << (64 - bits)) >> (64 - bits);
    __extension__ typedef __int128 i128;
    __extension__ typedef unsigned __int128 u128;
    u128 n = (u128)(i128)h << bits | (lo & mask);
    u128 abs_n = h < 0 ? -n : n, abs_d = d < 0 ? -(u128)d : (u128)d;
    u128 bound = abs_d << (bits - 1);
    if ((h < 0) != (d < 0))
        bound += abs_d;
    return abs_n < bound; // a divisor of zero bounds it by zero
}

#define ALU_DIV8(op) \
    static inline void alu_##op##8(u8 hi, u8 lo, u8 d, u64 * quot, u64 * rem, u64 * fl) \
    { \
        u64 f = alu_flags_pack(*fl); \
        u16 res; \
        __asm__ volatile(ALU_IN "mov %2, %%eax\n\t" #op " %b3\n\tmovw %%ax, %1\n\t" ALU_OUT \
                         : "+&a"(f), "=&r"(res) \
                         : "r"((u32)hi << 8 | lo), "r"(d) \
                         : "cc"); \
        alu_flags_unpack(fl, (u16)f); \
        *quot = res & 0xff; \
        *rem = res >> 8; \
    }

#define ALU_DIV_SIZE(op, bits) \
    static inline void alu_##op##bits(u##bits hi, u##bits lo, u##bits d, u64 *quot, u64 *rem, u64 *fl) \
    { \
        u64 f = alu_flags_pack(*fl), q, r = hi; \
        __asm__ volatile(ALU_IN "mov %3, %%rax\n\t" #op " %4\n\tmov %%rax, %1\n\t" ALU_OUT \
                         : "+&a"(f), "=&r"(q), "+&d"(r) \
                         : "r"((u64)lo), "r"(d) \
                         : "cc"); \
        alu_flags_unpack(fl, (u16)f); \
        *quot = (u##bits)q; \
        *rem = (u##bits)r; \
    }

#define ALU_DISPATCH_DIV(op) \
    static inline void alu_##op##_raw(unsigned size, u64 hi, u64 lo, u64 d, u64 *quot, u64 *rem, u64 *fl) \
    { \
        switch (size) { \
        case 1: alu_##op##8((u8)hi, (u8)lo, (u8)d, quot, rem, fl); break; \
        case 2: alu_##op##16((u16)hi, (u16)lo, (u16)d, quot, rem, fl); break; \
        case 4: alu_##op##32((u32)hi, (u32)lo, (u32)d, quot, rem, fl); break; \
        default: alu_##op##64(hi, lo, d, quot, rem, fl); break; \
        } \
    }

ALU_DIV8(div)
ALU_DIV8(idiv)
ALU_WIDE_SIZES(ALU_DIV_SIZE, div)
ALU_WIDE_SIZES(ALU_DIV_SIZE, idiv)
ALU_DISPATCH_DIV(div)
ALU_DISPATCH_DIV(idiv)

static inline bool alu_div(unsigned size, u64 hi, u64 lo, u64 d, u64 *quot, u64 *rem, u64 *fl)
{
    if (!alu_div_ok(size, hi, d))
        return false;
    alu_div_raw(size, hi, lo, d, quot, rem, fl);
    return true;
}

static inline bool alu_idiv(unsigned size, u64 hi, u64 lo, u64 d, u64 *quot, u64 *rem, u64 *fl)
{
    if (!alu_idiv_ok(size, hi, lo, d))
        return false;
    alu_idiv_raw(size, hi, lo, d, quot, rem, fl);
    return true;
}

// --- decimal adjustment: DAA DAS AAA AAS AAM AAD ----------------------------------------------------------------------------
//
// The host's 64-bit mode has no such instructions. Results and defined flags are the manuals' (SDM 2A 3.2); the undefined
// flags are those of the addition by which AMD processors carry the adjustment out (measured, all inputs): the byte added or
// subtracted for DAA and DAS, 0x106 on the whole of AX for AAA and AAS, the sum for AAD; AAM clears CF, AF and OF.

static inline u64 alu_daa(u64 al, u64 *fl)
{
    bool low = (al & 15) > 9 || (*fl & X86_FL_AF), high = (u8)al > 0x99 || (*fl & X86_FL_CF);
    u8 res = alu_add8((u8)al, (u8)((low ? 6 : 0) + (high ? 0x60 : 0)), fl);
    *fl = (*fl & ~(u64)(X86_FL_CF | X86_FL_AF)) | (low ? X86_FL_AF : 0) | (high ? X86_FL_CF : 0);
    return res;
}

// Unlike DAA's, DAS's carry also comes from the low digit's borrow.
static inline u64 alu_das(u64 al, u64 *fl)
{
    bool low = (al & 15) > 9 || (*fl & X86_FL_AF), high = (u8)al > 0x99 || (*fl & X86_FL_CF);
    bool borrow = high || (low && (u8)al < 6);
    u8 res = alu_sub8((u8)al, (u8)((low ? 6 : 0) + (high ? 0x60 : 0)), fl);
    *fl = (*fl & ~(u64)(X86_FL_CF | X86_FL_AF)) | (low ? X86_FL_AF : 0) | (borrow ? X86_FL_CF : 0);
    return res;
}

static inline u64 alu_aaa(u64 ax, u64 *fl)
{
    bool adjust = (ax & 15) > 9 || (*fl & X86_FL_AF);
    u16 res = alu_add16((u16)ax, adjust ? 0x106 : 0, fl);
    *fl = (*fl & ~(u64)(X86_FL_CF | X86_FL_AF)) | (adjust ? X86_FL_AF | X86_FL_CF : 0);
    return res & 0xff0f;
}

static inline u64 alu_aas(u64 ax, u64 *fl)
{
    bool adjust = (ax & 15) > 9 || (*fl & X86_FL_AF);
    u16 res = alu_sub16((u16)ax, adjust ? 0x106 : 0, fl);
    *fl = (*fl & ~(u64)(X86_FL_CF | X86_FL_AF)) | (adjust ? X86_FL_AF | X86_FL_CF : 0);
    return res & 0xff0f;
}

// `base` is the immediate; the caller has raised #DE when it is zero.
static inline u64 alu_aam(u64 ax, u8 base, u64 *fl)
{
    u8 al = (u8)ax, low = alu_or8(al % base, 0, fl);
    return (u64)(al / base) << 8 | low;
}

static inline u64 alu_aad(u64 ax, u8 base, u64 *fl)
{
    return alu_add8((u8)ax, (u8)((u8)(ax >> 8) * base), fl);
}

// --- conditions ---------------------------------------------------------------------------------------------------------------

// Condition code 0..15 of JCC, SETCC and CMOVCC. SDM 1 appendix B.
static inline bool alu_cond(unsigned cc, u64 fl)
{
    bool r;
    switch (cc >> 1 & 7) {
    case 0: r = fl & X86_FL_OF; break;
    case 1: r = fl & X86_FL_CF; break;
    case 2: r = fl & X86_FL_ZF; break;
    case 3: r = fl & (X86_FL_CF | X86_FL_ZF); break;
    case 4: r = fl & X86_FL_SF; break;
    case 5: r = fl & X86_FL_PF; break;
    case 6: r = (fl >> 7 ^ fl >> 11) & 1; break;
    default: r = ((fl >> 7 ^ fl >> 11) & 1) || (fl & X86_FL_ZF); break;
    }
    return r != (cc & 1);
}

#endif
