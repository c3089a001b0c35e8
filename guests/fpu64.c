// Who may use x87, MMX, SSE and AVX (CR0.TS, EM, MP, CR4.OSFXSR), lazy switching, the images of FNSAVE and FXSAVE, MXCSR, #MF and
// #XM, and the alignment that legacy SSE asks for.
//
// QEMU 7.2's TCG differs in 15 checks: it has no #XM (4), #MF comes from FWAIT alone (2), reserved bits of MXCSR are taken (4),
// XSAVE and XRSTOR ignore CR0.TS (2), EM concerns VEX instructions, and FNSTENV does not mask exceptions (2).
#include "xstate.h"

const char guest_name[] = "fpu64";

// --- who may ------------------------------------------------------------------------------------------------------------

static void task_switched(void)
{
    set_cr0(CR0_TS, true);
    RUN("fld1");
    CHECK_TRAP(7);
    RUN("movaps %%xmm0, %%xmm1");
    CHECK_TRAP(7);
    RUN("movq %%mm0, %%mm1");
    CHECK_TRAP(7);
    RUN("fxsave (%%rdi)");
    CHECK_TRAP(7);
    RUN("fxrstor (%%rdi)");
    CHECK_TRAP(7);
    RUN("ldmxcsr (%%rdi)");
    CHECK_TRAP(7);
    RUN("fnstsw (%%rdi)");
    CHECK_TRAP(7);
    RUN("fwait"); // MP is set
    CHECK_TRAP(7);
    RUN("prefetcht0 (%%rdi); sfence; movnti %%eax, (%%rdi)"); // no state
    CHECK_TRAP(-1);
    set_cr0(CR0_MP, false);
    RUN("fwait");
    CHECK_TRAP(-1);
    RUN("fld1");
    CHECK_TRAP(7);
    set_cr0(CR0_MP, true);
    if (has_xsave) {
        RUN("xsave (%%rdi)");
        CHECK_TRAP(7);
        RUN("xrstor (%%rdi)");
        CHECK_TRAP(7);
        RUN("xor %%ecx, %%ecx; xgetbv"); // XCR0 is not part of it
        CHECK_TRAP(-1);
    }
    if (has_avx) {
        RUN("vmovaps %%ymm0, %%ymm1");
        CHECK_TRAP(7);
    }
    set_cr0(CR0_TS, false);
}

static void emulation(void)
{
    set_cr0(CR0_EM, true);
    RUN("fld1");
    CHECK_TRAP(7);
    RUN("fxsave (%%rdi)");
    CHECK_TRAP(7);
    RUN("movaps %%xmm0, %%xmm1");
    CHECK_TRAP(6);
    RUN("movq %%mm0, %%mm1");
    CHECK_TRAP(6);
    RUN("fwait");
    CHECK_TRAP(-1);
    if (has_avx) { // VEX instructions do not ask
        RUN("vmovaps %%ymm0, %%ymm1");
        CHECK_TRAP(-1);
    }
    set_cr0(CR0_EM, false);
    set_cr4(CR4_OSFXSR, false);
    RUN("movaps %%xmm0, %%xmm1");
    CHECK_TRAP(6);
    RUN("stmxcsr (%%rdi)");
    CHECK_TRAP(6);
    RUN("fld1; fstp %%st; movq %%mm0, %%mm1; emms");
    CHECK_TRAP(-1);
    set_cr4(CR4_OSFXSR, true);
}

// The classic use of TS: the first use traps, the handler loads the state, the instruction runs again.
static bool on_nm(struct trap_frame *f)
{
    (void)f;
    __asm__ volatile("clts; fxrstor %0" ::"m"(image));
    return true;
}

static void lazy_switch(void)
{
    fill();
    RUN("fxsave (%%rdi)");
    empty();
    trap_handler[7] = on_nm;
    set_cr0(CR0_TS, true);
    u64 v[2];
    __asm__ volatile("movups %%xmm15, %0" : "=m"(v)::"memory");
    trap_handler[7] = NULL;
    CHECK_EQ(v[1], 0x2222);
    CHECK_EQ(read_cr0() & CR0_TS, 0);
}

// --- FXSAVE and MXCSR ---------------------------------------------------------------------------------------------------

static u8 other[64];
static u32 mxcsr_mask;

__attribute__((noinline)) static void load_mxcsr(const void *at)
{
    RUN_AT("ldmxcsr (%%rdi)", at, 0);
}

static void fxsave(void)
{
    fill();
    clear(image, 0xcc);
    RUN("fxsave64 (%%rdi)");
    CHECK_TRAP(-1);
    CHECK_EQ(get16(image), 0x37f);
    CHECK_EQ(get16(image + 2) >> 11 & 7, 7);
    CHECK_EQ(image[4], 0x80); // abridged tags: one register is full
    CHECK_EQ(*mxcsr_of(image), 0x1fa0);
    CHECK_EQ(*(u64 *)(image + 32), 0xc90fdaa22168c235ull);
    CHECK_EQ(get16(image + 40), 0x4000);
    CHECK_EQ(*(u64 *)(image + 160 + 8), 0x2222);
    CHECK_EQ(*(u64 *)(image + 160 + 15 * 16), 0x1111);
    CHECK_EQ(image[511], 0xcc); // the last 48 bytes are software's
    mxcsr_mask = *(u32 *)(image + 28);
    empty();
    RUN("fxrstor64 (%%rdi)");
    CHECK_FILLED(X87 | SSE);
    CHECK_EQ(get_mxcsr(), 0x1fa0);
    *mxcsr_of(image) = 0x10000; // reserved
    empty();
    RUN("fxrstor (%%rdi)");
    CHECK_TRAP_ERR(13, 0);
    CHECK_FILLED(0);
    RUN_AT("fxsave (%%rdi)", image + 8, 0);
    CHECK_TRAP_ERR(13, 0);
    RUN_AT("fxrstor (%%rdi)", image + 8, 0);
    CHECK_TRAP_ERR(13, 0);
    u32 accepted = 0;
    for (unsigned bit = 0; bit < 32; bit++) {
        *(u32 *)other = 0x1f80 ^ 1u << bit;
        load_mxcsr(other);
        accepted |= trap.vector == -1 ? 1u << bit : 0;
    }
    CHECK_EQ(accepted, mxcsr_mask);
    empty();
}

// --- FNSAVE -------------------------------------------------------------------------------------------------------------

static void fnsave(void)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        unsigned step = wide ? 4 : 2, size = wide ? 108 : 94;
        fill();
        u16 control = 0x27f;
        __asm__ volatile("fldcw %0" ::"m"(control));
        clear(image, 0xcc);
        if (wide)
            __asm__ volatile("fnsave (%0)" ::"r"(image) : "memory");
        else
            __asm__ volatile("data16 fnsave (%0)" ::"r"(image) : "memory");
        CHECK_EQ(get16(image), 0x27f);
        CHECK_EQ(get16(image + step) >> 11 & 7, 7);
        CHECK_EQ(get16(image + 2 * step), 0x3fff);
        CHECK_EQ(*(u64 *)(image + 7 * step), 0xc90fdaa22168c235ull);
        CHECK_EQ(image[size - 1], 0);
        CHECK_EQ(image[size], 0xcc);
        CHECK_FILLED(SSE | (has_avx ? AVX : 0)); // x87 is as after FNINIT
        __asm__ volatile("fnstcw %0" : "=m"(control));
        CHECK_EQ(control, 0x37f);
        if (wide)
            __asm__ volatile("frstor (%0)" ::"r"(image) : "memory");
        else
            __asm__ volatile("data16 frstor (%0)" ::"r"(image) : "memory");
        CHECK_FILLED(X87 | SSE | (has_avx ? AVX : 0));
        __asm__ volatile("fnstcw %0" : "=m"(control));
        CHECK_EQ(control, 0x27f);
        // FNSTENV masks exceptions after it has stored the control word.
        control = 0x340;
        __asm__ volatile("fldcw %1; fnstenv (%2); fnstcw %0" : "=m"(control) : "m"(control), "r"(image) : "memory");
        CHECK_EQ(control, 0x37f);
        CHECK_EQ(get16(image), 0x340);
    }
    empty();
}

// --- exceptions ---------------------------------------------------------------------------------------------------------

static void unmasked_x87(void)
{
    static const u16 control = 0x37b; // ZM clear
    u16 status;
    __asm__ volatile("fninit; fldcw %0" ::"m"(control));
    RUN("fld1; fldz; fdivrp"); // pending now
    CHECK_TRAP(-1);
    RUN("fnstsw (%%rdi); fnstcw 2(%%rdi); fxsave 64(%%rdi)"); // those that do not wait
    CHECK_TRAP(-1);
    CHECK_EQ(get16(image) & 0x80ff, 0x8084);
    extern u8 waiting[];
    TRY(__asm__ volatile("nop; waiting: fwait"));
    CHECK_TRAP(16);
    CHECK_EQ(trap.ip, (word)waiting);
    RUN("fld1");
    CHECK_TRAP(16);
    RUN("movq %%mm0, %%mm1");
    CHECK_TRAP(16);
    RUN("addps %%xmm0, %%xmm1"); // SSE has nothing to do with it
    CHECK_TRAP(-1);
    set_cr0(CR0_TS, true); // #NM comes first
    RUN("fld1");
    CHECK_TRAP(7);
    set_cr0(CR0_TS, false);
    RUN("fnclex; fwait");
    CHECK_TRAP(-1);
    __asm__ volatile("fnstsw %0" : "=m"(status));
    CHECK_EQ(status & 0x80ff, 0);
    __asm__ volatile("fninit");
}

static void unmasked_sse(void)
{
    static const float one[4] __attribute__((aligned(16))) = {1, 1, 1, 1};
    u64 v[2];
    empty();
    set_mxcsr(0x1d80); // ZM clear
    TRY(__asm__ volatile("movaps %0, %%xmm1; divps %%xmm0, %%xmm1" ::"m"(one)));
    CHECK_TRAP(19);
    CHECK_EQ(get_mxcsr(), 0x1d84); // the flag is set all the same
    __asm__ volatile("movups %%xmm1, %0" : "=m"(v));
    CHECK_EQ(v[0], 0x3f8000003f800000ull);
    set_cr4(CR4_OSXMMEXCPT, false);
    RUN("divps %%xmm0, %%xmm1");
    CHECK_TRAP(6);
    set_cr4(CR4_OSXMMEXCPT, true);
    set_mxcsr(0x1f80);
    RUN("divps %%xmm0, %%xmm1");
    CHECK_TRAP(-1);
    CHECK_EQ(get_mxcsr(), 0x1f84);
    set_mxcsr(0x1d84); // a flag that is set already raises nothing
    RUN("movaps %%xmm0, %%xmm2; addps %%xmm2, %%xmm2");
    CHECK_TRAP(-1);
    set_mxcsr(0x1f80);
}

static void alignment(void)
{
    static const char *const name[] = {"movaps", "addps", "pxor", "movntps", "movups", "lddqu", "movss"};
    for (unsigned i = 0; i < 7; i++) {
        switch (i) {
        case 0: RUN_AT("movaps (%%rdi), %%xmm2", image + 8, 0); break;
        case 1: RUN_AT("addps (%%rdi), %%xmm2", image + 4, 0); break;
        case 2: RUN_AT("pxor (%%rdi), %%xmm2", image + 1, 0); break;
        case 3: RUN_AT("movntps %%xmm2, (%%rdi)", image + 8, 0); break;
        case 4: RUN_AT("movups (%%rdi), %%xmm2", image + 8, 0); break;
        case 5: RUN_AT("lddqu (%%rdi), %%xmm2", image + 1, 0); break;
        default: RUN_AT("movss (%%rdi), %%xmm2", image + 1, 0); break;
        }
        check_at(trap.vector == (i < 4 ? 13 : -1) && trap.error == 0, __FILE__, __LINE__, "%s: trap %d", name[i],
                 trap.vector);
    }
    if (!has_avx)
        return;
    RUN_AT("vaddps (%%rdi), %%ymm1, %%ymm2", image + 4, 0);
    CHECK_TRAP(-1);
    RUN_AT("vmovaps (%%rdi), %%ymm2", image + 16, 0);
    CHECK_TRAP_ERR(13, 0);
}

void guest_main(void)
{
    xstate_init();
    task_switched();
    emulation();
    lazy_switch();
    fxsave();
    fnsave();
    unmasked_x87();
    unmasked_sse();
    alignment();
}
