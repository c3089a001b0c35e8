// XCR0 and the XSAVE family: what is stored and what is not, initial states, the standard and the compacted form, and every fault
// of their headers; the upper halves of YMM registers.
//
// QEMU 7.2's TCG differs in 3 checks: XRSTOR of AVX alone leaves MXCSR (2), and takes reserved bits in it.
#include "xstate.h"

const char guest_name[] = "xstate";

static bool has_xsavec, has_xsaves, has_xgetbv1;

static u64 *header(u8 *p) // XSTATE_BV, XCOMP_BV, reserved...
{
    return (u64 *)(p + 512);
}

USER static word user_xgetbv(word arg)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"((u32)arg));
    return lo;
}

USER static word user_xsetbv(word arg)
{
    __asm__ volatile("xsetbv" ::"a"((u32)arg), "d"(0), "c"(0));
    return 1;
}

static void xcr0(void)
{
    u32 r[4];
    set_cr4(CR4_OSXSAVE, false);
    cpuid(1, 0, r);
    CHECK_EQ(r[2] >> 27 & 1, 0);
    xsetbv(0, 3);
    CHECK_TRAP(6);
    RUN("xsave (%%rdi)");
    CHECK_TRAP(6);
    if (has_avx) {
        RUN("vmovaps %%xmm0, %%xmm1");
        CHECK_TRAP(6);
    }
    set_cr4(CR4_OSXSAVE, true);
    cpuid(1, 0, r);
    CHECK_EQ(r[2] >> 27 & 1, 1);
    xsetbv(0, SSE); // without x87
    CHECK_TRAP_ERR(13, 0);
    xsetbv(0, X87 | AVX); // AVX without SSE
    CHECK_TRAP_ERR(13, 0);
    xsetbv(0, 1ull << 62 | X87);
    CHECK_TRAP_ERR(13, 0);
    xsetbv(5, X87);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_xsetbv, X87 | SSE);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_xgetbv, 0);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, has_avx ? 7 : 3);
    run_user(user_xgetbv, 2);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_xgetbv, 1);
    CHECK(has_xgetbv1 ? trap.vector == 0x80 : trap.vector == 13);
    if (has_avx) {
        xsetbv(0, X87 | SSE);
        RUN("vmovaps %%xmm0, %%xmm1");
        CHECK_TRAP(6);
        RUN("movaps %%xmm0, %%xmm1");
        CHECK_TRAP(-1);
        cpuid(13, 0, r);
        CHECK_EQ(r[1], 576);
        xsetbv(0, X87 | SSE | AVX);
        cpuid(13, 0, r);
        CHECK_EQ(r[1], 832);
    }
}

// --- XSAVE --------------------------------------------------------------------------------------------------------------

static u32 all_components(void)
{
    return X87 | SSE | (has_avx ? AVX : 0);
}

__attribute__((noinline)) static void xrstor(u32 mask)
{
    RUN_AT("xrstor64 (%%rdi)", image, mask);
}

static void xsave(void)
{
    // What is asked for, and nothing else, is stored; the rest of the header stays.
    fill();
    clear(image, 0xcc);
    header(image)[0] = 0x8000000000000001ull;
    RUN_AT("xsave64 (%%rdi)", image, SSE);
    CHECK_TRAP(-1);
    CHECK_EQ(header(image)[0], 0x8000000000000003ull);
    CHECK_EQ(header(image)[1], 0xccccccccccccccccull);
    CHECK_EQ(*(u64 *)(image + 168), 0x2222);
    CHECK_EQ(*mxcsr_of(image), 0x1fa0);
    CHECK_EQ(get16(image), 0xcccc);
    CHECK_EQ(image[576], 0xcc);
    // All, and back.
    clear(image, 0);
    RUN_AT("xsave64 (%%rdi)", image, ~0u);
    CHECK_EQ(header(image)[0], all_components());
    for (unsigned mask = 0; mask < 8; mask++) {
        empty();
        xrstor(mask);
        CHECK_TRAP(-1);
        CHECK_FILLED(mask & all_components());
        CHECK_EQ(get_mxcsr(), mask & (SSE | AVX) ? 0x1fa0 : 0x1f80);
    }
    // A clear bit means the initial state; MXCSR comes from memory all the same.
    fill();
    header(image)[0] = 0;
    *mxcsr_of(image) = 0x1f00;
    xrstor(~0u);
    CHECK_FILLED(0);
    CHECK_EQ(get_mxcsr(), 0x1f00);
    RUN_AT("xsave (%%rdi)", image + 16, 1);
    CHECK_TRAP_ERR(13, 0);
    RUN_AT("xrstor (%%rdi)", image + 16, 1);
    CHECK_TRAP_ERR(13, 0);
    empty();
}

static void bad_header(unsigned word_index, u64 bits, bool compact)
{
    for (unsigned i = 0; i < 8; i++)
        header(image)[i] = 0;
    header(image)[1] = compact ? 1ull << 63 | X87 | SSE : 0;
    *mxcsr_of(image) = 0x1f80;
    xrstor(~0u);
    CHECK_TRAP(-1);
    header(image)[word_index] |= bits;
    xrstor(~0u);
    check_at(trap.vector == 13 && trap.error == 0, __FILE__, __LINE__, "header word %u with %lx, compact %d: trap %d",
             word_index, bits, compact, trap.vector);
}

static void headers(void)
{
    clear(image, 0);
    bad_header(0, 1ull << 62, false); // a component that XCR0 does not have
    bad_header(0, 1ull << 63, false);
    bad_header(1, 1, false); // XCOMP_BV without compaction
    bad_header(2, 1, false); // reserved
    header(image)[2] = 0;
    header(image)[0] = SSE;
    *mxcsr_of(image) = 0x10000;
    xrstor(~0u);
    CHECK_TRAP_ERR(13, 0);
    xrstor(X87); // MXCSR is not wanted
    CHECK_TRAP(-1);
    if (!has_xsavec) {
        header(image)[1] = 1ull << 63 | X87;
        xrstor(X87);
        CHECK_TRAP_ERR(13, 0);
        return;
    }
    bad_header(0, AVX, true); // not in XCOMP_BV
    bad_header(1, 1ull << 62, true);
    for (unsigned i = 2; i < 8; i++)
        bad_header(i, 1ull << 40, true);
}

static void compacted(void)
{
    fill();
    clear(image, 0xcc);
    RUN_AT("xsavec64 (%%rdi)", image, X87 | AVX);
    CHECK_TRAP(-1);
    u64 wanted = (X87 | AVX) & all_components();
    CHECK_EQ(header(image)[0], wanted);
    CHECK_EQ(header(image)[1], 1ull << 63 | wanted);
    CHECK_EQ(*(u64 *)(image + 168), 0xccccccccccccccccull);
    if (has_avx)
        CHECK_EQ(*(u64 *)(image + 576), 0x3333);
    for (unsigned i = 2; i < 8; i++)
        header(image)[i] = 0;
    empty();
    xrstor(~SSE);
    CHECK_TRAP(-1);
    CHECK_FILLED((u32)wanted);
    empty();
    if (!has_xsaves)
        return;
    wrmsr(0xda0, 0);
    TRY(wrmsr(0xda0, 1ull << 62));
    CHECK_TRAP_ERR(13, 0);
    fill();
    clear(image, 0);
    RUN_AT("xsaves64 (%%rdi)", image, ~0u);
    CHECK_EQ(header(image)[1], 1ull << 63 | all_components());
    empty();
    RUN_AT("xrstors64 (%%rdi)", image, ~0u);
    CHECK_TRAP(-1);
    CHECK_FILLED(all_components());
    header(image)[1] = 0; // it knows the compacted form only
    RUN_AT("xrstors64 (%%rdi)", image, ~0u);
    CHECK_TRAP_ERR(13, 0);
    empty();
}

USER static word user_xsaves(word at)
{
    __asm__ volatile("xsaves64 (%0)" ::"r"(at), "a"(1), "d"(0) : "memory");
    return 1;
}

// The upper halves: VEX instructions clear them, legacy SSE does not.
static void upper_halves(void)
{
    fill();
    RUN("addps %%xmm1, %%xmm0");
    CHECK_FILLED(X87 | SSE | AVX);
    RUN("vaddps %%xmm1, %%xmm0, %%xmm0");
    CHECK_FILLED(X87 | SSE);
    fill();
    RUN("vzeroupper");
    CHECK_FILLED(X87 | SSE);
    empty();
}

void guest_main(void)
{
    u32 r[4];
    xstate_init();
    if (!has_xsave) {
        TRY(__asm__ volatile("xor %%ecx, %%ecx; xgetbv" ::: "eax", "ecx", "edx"));
        CHECK_TRAP(6);
        return;
    }
    cpuid(13, 1, r);
    has_xsavec = r[0] >> 1 & 1;
    has_xgetbv1 = r[0] >> 2 & 1;
    has_xsaves = r[0] >> 3 & 1;
    xcr0();
    xsave();
    headers();
    if (has_xsavec)
        compacted();
    if (has_xsaves) {
        run_user(user_xsaves, (word)image);
        CHECK_TRAP_ERR(13, 0);
    }
    if (has_avx)
        upper_halves();
}
