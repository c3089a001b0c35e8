// Vector registers when something else happens in between: exceptions whose handlers look at them and change them, a processor that is
// shared by two contexts and switched lazily, interrupts whose handlers use them all, devices, page faults, unmasked floating-point
// exceptions, and rounding that changes. Everything is done again and again, so that it is found in hot code, too.
//
// QEMU's TCG is no peer: it knows no unmasked SIMD exceptions.
#include "code.h"
#include "xstate.h"

const char guest_name[] = "escvec64";

#define LAPIC 0xfee00000ul
#define VEC_TIMER 0x40
#define ABSENT 0x60000000ul
#define ROUNDS 40u

static u8 regs[16][16] __attribute__((aligned(16))), upper[16][16];
static u8 source[4096] __attribute__((aligned(4096)));

// All sixteen, from or to a table of 16 bytes each.
#define EACH_XMM(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define LOAD_ONE(n) "movups " #n "*16(%0), %%xmm" #n "\n"
#define SAVE_ONE(n) "movups %%xmm" #n ", " #n "*16(%0)\n"
#define LOAD_UPPER(n) "vinsertf128 $1, " #n "*16(%0), %%ymm" #n ", %%ymm" #n "\n"
#define SAVE_UPPER(n) "vextractf128 $1, %%ymm" #n ", " #n "*16(%0)\n"

static void load_all(u8 seed)
{
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 16; k++) {
            regs[i][k] = (u8)(seed + 16 * i + k);
            upper[i][k] = (u8)(seed * 3 + 16 * i - k);
        }
    __asm__ volatile(EACH_XMM(LOAD_ONE)::"r"(regs) : "memory");
    if (has_avx)
        __asm__ volatile(EACH_XMM(LOAD_UPPER)::"r"(upper) : "memory");
}

// How many registers are not what load_all(seed) made of them, plus `add` in each byte.
static unsigned wrong_ones(u8 seed, u8 add)
{
    unsigned wrong = 0;
    __asm__ volatile(EACH_XMM(SAVE_ONE)::"r"(regs) : "memory");
    if (has_avx)
        __asm__ volatile(EACH_XMM(SAVE_UPPER)::"r"(upper) : "memory");
    for (unsigned i = 0; i < 16; i++) {
        bool same = true;
        for (unsigned k = 0; k < 16; k++) {
            same &= regs[i][k] == (u8)(seed + 16 * i + k + add);
            same &= !has_avx || upper[i][k] == (u8)(seed * 3 + 16 * i - k);
        }
        wrong += !same;
    }
    return wrong;
}

// --- exceptions ---------------------------------------------------------------------------------------------------------

static unsigned seen, wrong;
static u8 expect_seed, expect_add;

// Looks at all registers, and goes on behind UD2.
static bool look(struct trap_frame *f)
{
    seen++;
    wrong += wrong_ones(expect_seed, expect_add) != 0;
    f->ip += 2;
    return true;
}

// Adds 1 to every byte of every register's lower half.
static bool add_one(struct trap_frame *f)
{
    static const u8 ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    seen++;
#define ADD_ONE_SSE(n) "paddb (%0), %%xmm" #n "\n"
    __asm__ volatile(EACH_XMM(ADD_ONE_SSE)::"r"(ones) : "memory");
    f->ip += 2;
    return true;
}

// What is added to all of them in the code between two traps.
#define TEN \
    "paddb (%0), %%xmm0; paddb (%0), %%xmm1; paddb (%0), %%xmm2; paddb (%0), %%xmm3; paddb (%0), %%xmm4; paddb (%0), %%xmm5\n" \
    "paddb (%0), %%xmm6; paddb (%0), %%xmm7; paddb (%0), %%xmm8; paddb (%0), %%xmm9; paddb (%0), %%xmm10; paddb (%0), %%xmm11\n" \
    "paddb (%0), %%xmm12; paddb (%0), %%xmm13; paddb (%0), %%xmm14; paddb (%0), %%xmm15\n"

static void in_handlers(void)
{
    static u8 ten[16] __attribute__((aligned(16))) = {10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10};
    seen = wrong = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        load_all(expect_seed = (u8)(i * 7));
        expect_add = 10;
        trap_handler[6] = look;
        __asm__ volatile(TEN "ud2" ::"r"(ten) : "memory");
        CHECK_EQ(wrong_ones((u8)(i * 7), 10), 0);
        trap_handler[6] = add_one;
        __asm__ volatile(TEN "ud2; " TEN "ud2" ::"r"(ten) : "memory");
        CHECK_EQ(wrong_ones((u8)(i * 7), 32), 0);
        // Things that leave translated code, or may: none of them touches a vector register.
        __asm__ volatile(
            TEN
            "cpuid; in $0x80, %%al; rdtsc; mov %%cr0, %%rax; mov %%cr3, %%rax; mov %%rax, %%cr3; pushf; popf\n" ::"r"(
                ten)
            : "rax", "rbx", "rcx", "rdx", "memory");
        CHECK_EQ(wrong_ones((u8)(i * 7), 42), 0);
    }
    CHECK_EQ(seen, 3 * ROUNDS);
    CHECK_EQ(wrong, 0);
    trap_handler[6] = NULL;
}

// A page comes into being when it is loaded from, and goes again; the handler uses vector registers and gives them back.
static bool map_page(struct trap_frame *f)
{
    (void)f;
    static u8 area[512] __attribute__((aligned(16)));
    __asm__ volatile("fxsave64 (%0); pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pcmpeqd %%xmm15, %%xmm15" ::"r"(area)
                     : "memory");
    *pte_of(trap.cr2 & ~4095ull) = (u64)source | PTE_ALL;
    invlpg((void *)trap.cr2);
    seen++;
    __asm__ volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
    return true;
}

static void page_faults(void)
{
    trap_handler[14] = map_page;
    for (unsigned i = 0; i < sizeof source; i++)
        source[i] = 1;
    for (unsigned i = 0; i < ROUNDS; i++) {
        seen = 0;
        load_all((u8)i);
        for (unsigned p = 0; p < 5; p++)
            *pte_of(ABSENT + p * 4096) = 0;
        write_cr3(read_cr3());
        u64 at = ABSENT;
        // At the end of the last one, across two pages; nothing of it may be added twice.
        __asm__ volatile(TEN "add $4096, %0; " TEN "add $4088, %0; movups (%0), %%xmm0; movups %%xmm0, 8(%0)"
                         : "+r"(at)::"memory", "cc");
        CHECK_EQ(seen, 3);
        __asm__ volatile("movups %0, %%xmm0" ::"m"(*(const u8(*)[16])regs) : "memory");
        u8 *want = regs[0];
        for (unsigned k = 0; k < 16; k++)
            want[k] = (u8)(i + k + 2);
        __asm__ volatile("movups (%0), %%xmm0" ::"r"(want) : "memory");
        CHECK_EQ(wrong_ones((u8)i, 2), 0);
    }
    trap_handler[14] = NULL;
}

// --- lazily -------------------------------------------------------------------------------------------------------------

static u8 context[2][512] __attribute__((aligned(64)));
static unsigned current, owner, switches;

// #NM: the registers belong to somebody else.
static bool on_nm(struct trap_frame *f)
{
    (void)f;
    __asm__ volatile("clts");
    __asm__ volatile("fxsave64 (%0); fxrstor64 (%1)" ::"r"(context[owner]), "r"(context[current]) : "memory");
    owner = current;
    switches++;
    return true;
}

static void lazily(void)
{
    bool avx = has_avx;
    has_avx = false; // FXSAVE knows nothing of it
    trap_handler[7] = on_nm;
    load_all(1);
    __asm__ volatile("fxsave64 (%0)" ::"r"(context[0]) : "memory");
    load_all(101);
    __asm__ volatile("fxsave64 (%0)" ::"r"(context[1]) : "memory");
    owner = 1;
    static const u8 ones[16] __attribute__((aligned(16))) = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (unsigned i = 0; i < 200; i++) {
        current = i & 1;
        set_cr0(CR0_TS, true);
        if (i % 3)
            __asm__ volatile(TEN ::"r"(ones) : "memory");
        else
            __asm__ volatile("movd %%xmm0, %%eax; movups %%xmm5, %0" : "=m"(regs[0])::"rax", "memory");
        unsigned adds = 0;
        for (unsigned k = current; k <= i; k += 2)
            adds += k % 3 != 0;
        unsigned bad = wrong_ones(current ? 101 : 1, (u8)adds);
        check_at(bad == 0, __FILE__, __LINE__, "round %u: %u registers", i, bad);
    }
    CHECK_EQ(switches, 200);
    trap_handler[7] = NULL;
    has_avx = avx;
}

// --- interrupts and devices ---------------------------------------------------------------------------------------------

static volatile unsigned interrupts;

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static bool on_timer(struct trap_frame *f)
{
    static u8 area[512] __attribute__((aligned(16)));
    (void)f;
    __asm__ volatile("fxsave64 (%0)" ::"r"(area) : "memory");
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; ldmxcsr %0" ::"m"((u32){0x7f80}) : "memory");
    interrupts = interrupts + 1;
    lapic_write(0xb0, 0);
    lapic_write(0x380, 3000 + interrupts * 37 % 1000);
    __asm__ volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
    return true;
}

static void interrupted(void)
{
    static const u8 ones[16] __attribute__((aligned(16))) = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    trap_handler[VEC_TIMER] = on_timer;
    lapic_write(0xf0, 0x1ff);
    lapic_write(0x3e0, 0xb);
    lapic_write(0x320, VEC_TIMER);
    for (unsigned i = 0; i < 20; i++) {
        load_all((u8)i);
        interrupts = 0;
        unsigned times = 0;
        lapic_write(0x380, 2000);
        do { // as long as it takes
            u32 count = 20000;
            const u8 *from = ones;
            __asm__ volatile("sti; 1: " TEN "dec %1; jnz 1b; cli" : "+r"(from), "+r"(count)::"memory", "cc");
            times++;
        } while (interrupts < 3 && times < 10000);
        CHECK_EQ(wrong_ones((u8)i, (u8)(20000 * times)), 0);
        CHECK_EQ(get_mxcsr(), 0x1f80);
        CHECK(interrupts >= 3);
        lapic_write(0x380, 0);
    }
    __asm__ volatile("sti; nop; cli");
    trap_handler[VEC_TIMER] = NULL;
    lapic_write(0x320, 0x10000);
    // A device's register by MOVD, and to it.
    for (unsigned i = 0; i < ROUNDS; i++) {
        u32 got;
        load_all((u8)i);
        __asm__ volatile("movd %1, %%xmm3; movd %%xmm3, %2; movd %2, %%xmm4; movd %%xmm4, %0"
                         : "=r"(got)
                         : "r"(0x01000000 * i), "m"(*(volatile u32 *)(LAPIC + 0xd0))
                         : "memory");
        CHECK_EQ(got, 0x01000000 * i);
        __asm__ volatile("movups 3*16(%0), %%xmm3; movups 4*16(%0), %%xmm4" ::"r"(regs) : "memory");
        CHECK_EQ(wrong_ones((u8)i, 0), 0);
    }
    lapic_write(0xd0, 0);
}

// --- floating point -----------------------------------------------------------------------------------------------------

static const float three[4] __attribute__((aligned(16))) = {1, 2, 4, 3}, zeros[4] __attribute__((aligned(16)));

static void exceptions(void)
{
    for (volatile unsigned i = 0; i < ROUNDS; i = i + 1) {
        // Masked, then not, in the same code; the registers keep what they had, MXCSR says what it was.
        static const u32 csr[] = {0x1f80, 0x1d80, 0x1f80, 0x0f80};
        u32 c = csr[i & 3];
        load_all((u8)i);
        set_mxcsr(c);
        TRY(__asm__ volatile(
            "movaps (%0), %%xmm1; movaps (%1), %%xmm2; addps %%xmm1, %%xmm1; divps %%xmm2, %%xmm1" ::"r"(three),
            "r"(zeros)
            : "memory"));
        CHECK_TRAP(i % 4 == 1 ? 19 : -1);
        CHECK_EQ(get_mxcsr(), c | 4);
        u32 first;
        __asm__ volatile("movd %%xmm1, %0" : "=r"(first));
        CHECK_EQ(first, i % 4 == 1 ? 0x40000000 : 0x7f800000);
        // Inexact: 1 / 3, rounded in four ways; flags stay until they are cleared.
        set_mxcsr(0x1f80 | (i & 3) << 13);
        u32 third;
        __asm__ volatile("movss (%1), %%xmm5; divss 12(%1), %%xmm5; movd %%xmm5, %0"
                         : "=r"(third)
                         : "r"(three)
                         : "memory");
        CHECK_EQ(third, (i & 3) == 2 || (i & 3) == 0 ? 0x3eaaaaab : 0x3eaaaaaa);
        CHECK_EQ(get_mxcsr(), 0x1fa0 | (i & 3) << 13);
        TRY(set_mxcsr(0xffff0000));
        CHECK_TRAP_ERR(13, 0);
        CHECK_EQ(get_mxcsr(), 0x1fa0 | (i & 3) << 13);
        set_mxcsr(0x1f80);
    }
    // Unmasked by somebody between two runs of the same loop, and found at its tenth time round.
    for (volatile unsigned i = 0; i < 10; i = i + 1) {
        u32 count = 20;
        set_mxcsr(i & 1 ? 0x0f80 : 0x1f80); // inexact
        TRY(__asm__ volatile(
            "movss (%1), %%xmm5; mov $20, %%ecx; 1: cmp $10, %%ecx; ja 2f; divss 12(%1), %%xmm5; 2: dec %%ecx; jnz 1b; mov %%ecx, %0"
            : "=m"(count)
            : "r"(three)
            : "rcx", "memory", "cc"));
        CHECK_TRAP(i & 1 ? 19 : -1);
        CHECK_EQ(count, i & 1 ? 20 : 0);
        set_mxcsr(0x1f80);
    }
}

USER static word user_vectors(word arg)
{
    u64 v;
    __asm__ volatile("movq %1, %%xmm9; paddq %%xmm9, %%xmm9; int3; paddq %%xmm9, %%xmm9; movq %%xmm9, %0"
                     : "=r"(v)
                     : "r"(arg));
    return v;
}

static bool on_bp(struct trap_frame *f)
{
    (void)f;
    __asm__ volatile("paddq %%xmm9, %%xmm9" ::: "memory");
    return true;
}

static void from_user(void)
{
    trap_handler[3] = on_bp;
    for (unsigned i = 0; i < ROUNDS; i++) {
        load_all((u8)i);
        run_user(user_vectors, i + 1);
        CHECK_EQ(user_result, 8 * (i + 1));
        __asm__ volatile("movups 9*16(%0), %%xmm9" ::"r"(regs) : "memory");
        if (has_avx)
            __asm__ volatile("vinsertf128 $1, 9*16(%0), %%ymm9, %%ymm9" ::"r"(upper) : "memory");
        CHECK_EQ(wrong_ones((u8)i, 0), 0);
    }
    trap_handler[3] = NULL;
}

// Upper halves: kept by SSE, cleared by AVX of 128 bits, gone by VZEROUPPER.
static void upper_halves(void)
{
    if (!has_avx)
        return;
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 v[4];
        load_all((u8)(i | 1));
        __asm__ volatile("paddb %%xmm3, %%xmm3; vmovups %%ymm3, %0" : "=m"(v)::"memory");
        CHECK(v[2] && v[3]);
        __asm__ volatile("vpaddb %%xmm3, %%xmm3, %%xmm3; vmovups %%ymm3, %0" : "=m"(v)::"memory");
        CHECK(!v[2] && !v[3]);
        __asm__ volatile("vmovups %%ymm4, %0" : "=m"(v)::"memory");
        CHECK(v[2] && v[3]);
        __asm__ volatile("vzeroupper; vmovups %%ymm4, %0" : "=m"(v)::"memory");
        CHECK(v[0] && v[1] && !v[2] && !v[3]);
    }
}

void guest_main(void)
{
    xstate_init();
    in_handlers();
    page_faults();
    lazily();
    interrupted();
    exceptions();
    from_user();
    upper_halves();
}
