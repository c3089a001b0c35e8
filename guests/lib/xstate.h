// Extended state in 64-bit guests: a pattern to put into it and to look for, an image area, and single instructions under TRY.
#ifndef XSTATE_H
#define XSTATE_H

#include "guest.h"

#define CR0_MP 2ull
#define CR0_EM 4ull
#define CR0_TS 8ull
#define CR4_OSFXSR 0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define CR4_OSXSAVE 0x40000ull
#define X87 1u
#define SSE 2u
#define AVX 4u

static bool has_xsave, has_avx;

static u8 image[1024] __attribute__((aligned(64)));

// Run one instruction that may touch [rdi]; the outcome is in `trap`.
#define RUN(insn) TRY(__asm__ volatile(insn ::"D"(image), "a"(~0u), "d"(0) : "memory", "cc", "rcx"))
#define RUN_AT(insn, at, mask) TRY(__asm__ volatile(insn ::"D"(at), "a"(mask), "d"(0) : "memory", "cc", "rcx"))

static inline void clear(u8 *p, u8 value)
{
    for (unsigned i = 0; i < sizeof image; i++)
        p[i] = value;
}

static inline u16 get16(const u8 *p)
{
    return *(const u16 *)p;
}

static inline u32 *mxcsr_of(u8 *p)
{
    return (u32 *)(p + 24);
}

static inline void set_cr0(u64 bits, bool on)
{
    write_cr0(on ? read_cr0() | bits : read_cr0() & ~bits);
}

static inline void set_cr4(u64 bits, bool on)
{
    write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}

static inline void set_mxcsr(u32 v)
{
    __asm__ volatile("ldmxcsr %0" ::"m"(v));
}

static inline u32 get_mxcsr(void)
{
    u32 v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

// Something recognizable in x87, XMM0, XMM15 and, where there is AVX, in the upper half of YMM0.
static inline void fill(void)
{
    static const u64 lo[4] = {0x1111, 0x2222, 0x3333, 0x4444};
    __asm__ volatile("fninit; fldpi; movups %0, %%xmm0; movups %0, %%xmm15" ::"m"(lo));
    if (has_avx)
        __asm__ volatile("vmovups %0, %%ymm0" ::"m"(lo));
    set_mxcsr(0x1fa0);
}

static inline void empty(void)
{
    __asm__ volatile("fninit; xorps %xmm0, %xmm0; xorps %xmm15, %xmm15");
    if (has_avx)
        __asm__ volatile("vxorps %ymm0, %ymm0, %ymm0");
    set_mxcsr(0x1f80);
}

static inline void check_filled(int line, unsigned what)
{
    u64 v[4] __attribute__((aligned(32))) = {0};
    __asm__ volatile("movups %%xmm15, %0" : "=m"(v));
    check_at(v[1] == (what & SSE ? 0x2222 : 0), __FILE__, line, "xmm15 %lx", v[1]);
    if (has_avx) {
        __asm__ volatile("vmovups %%ymm0, %0" : "=m"(v));
        check_at(v[2] == (what & AVX ? 0x3333 : 0), __FILE__, line, "ymm0 upper %lx", v[2]);
    }
    u16 status;
    __asm__ volatile("fnstsw %0" : "=m"(status));
    check_at((status >> 11 & 7) == (what & X87 ? 7 : 0), __FILE__, line, "fsw %x", status);
}
#define CHECK_FILLED(what) check_filled(__LINE__, (what))

static inline void xsetbv(u32 index, u64 v)
{
    TRY(__asm__ volatile("xsetbv" ::"a"((u32)v), "d"((u32)(v >> 32)), "c"(index) : "memory"));
}

// Find out what there is and turn it on.
static inline void xstate_init(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    has_xsave = r[2] >> 26 & 1;
    has_avx = has_xsave && r[2] >> 28 & 1;
    if (has_xsave) {
        set_cr4(CR4_OSXSAVE, true);
        xsetbv(0, has_avx ? X87 | SSE | AVX : X87 | SSE);
    }
    empty();
}

#endif
