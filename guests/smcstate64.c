// Processor state that changes under code that has run: segment bases, write protection, SMAP, the rights of ring 3, what CR0, CR4 and
// XCR0 allow, alignment checks, rounding, the direction flag, the code segment's size. The same bytes at the same address must do
// something else each time, and the old thing when the state comes back.
//
// QEMU's TCG differs in 144 checks: it knows no alignment check and no unmasked SIMD exceptions, lets CR0.EM forbid AVX, and
// has other rules for EMMS, PXOR and XSAVE, and for MMX and SSE with CR4.OSFXSR clear.
#include "code.h"
#include "xstate.h"

const char guest_name[] = "smcstate64";

#define CR0_WP 0x10000ull
#define CR0_AM 0x40000ull
#define CR4_TSD 0x4ull
#define CR4_DE 0x8ull
#define CR4_UMIP 0x800ull
#define CR4_FSGSBASE 0x10000ull
#define CR4_SMAP 0x200000ull
#define FL_IOPL 0x3000u
#define FL_AC 0x40000u
#define ROUNDS 4u

static u32 leaf7[4];
static u32 cells[2][512] __attribute__((aligned(4096)));

// Call with RDI, RSI, RCX, which may trap.
__attribute__((noinline)) static u64 run(const void *fn, const void *rdi, const void *rsi, u64 rcx)
{
    u64 result = 0;
    TRY(__asm__ volatile("call *%1"
                         : "=a"(result)
                         : "r"(fn), "D"(rdi), "S"(rsi), "c"(rcx), "0"(0)
                         : "rdx", "memory", "cc"));
    return result;
}

// --- segment bases ------------------------------------------------------------------------------------------------------

static void by_selector(bool gs, u64 base)
{
    gdt[SEL_FREE / 8] = make_desc((u32)base, 0xfffff, 0xc0f3);
    if (gs)
        __asm__ volatile("mov %w0, %%gs" ::"r"(SEL_FREE));
    else
        __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_FREE));
}

static void by_far_pointer(bool gs, u64 base)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {0, SEL_FREE};
    gdt[SEL_FREE / 8] = make_desc((u32)base, 0xfffff, 0xc0f3);
    if (gs)
        __asm__ volatile("lgs %0, %%eax" ::"m"(p) : "rax");
    else
        __asm__ volatile("lfs %0, %%eax" ::"m"(p) : "rax");
}

static void by_msr(bool gs, u64 base)
{
    wrmsr(gs ? 0xc0000101 : 0xc0000100, base);
}

static void by_instruction(bool gs, u64 base)
{
    if (gs)
        __asm__ volatile("wrgsbase %0" ::"r"(base));
    else
        __asm__ volatile("wrfsbase %0" ::"r"(base));
}

static void by_swapgs(bool gs, u64 base)
{
    wrmsr(gs ? 0xc0000102 : 0xc0000100, base);
    if (gs)
        __asm__ volatile("swapgs");
}

static void segment_bases(void)
{
    static void (*const set[])(bool, u64) = {by_selector, by_far_pointer, by_msr, by_swapgs, by_instruction};
    unsigned ways = leaf7[1] & 1 ? 5 : 4;
    if (ways == 5)
        set_cr4(CR4_FSGSBASE, true);
    for (unsigned gs = 0; gs < 2; gs++) {
        // MOV EAX, fs/gs:[0]; INC DWORD fs/gs:[4]; MOVS from fs/gs:[RSI]; RET
        PUT(code, 0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x64, 0xff, 0x04, 0x25, 4, 0, 0, 0, 0x64, 0xa5, 0xc3);
        if (gs)
            code[0] = code[8] = code[16] = 0x65;
        for (unsigned way = 0; way < ways; way++)
            for (unsigned i = 0; i < ROUNDS; i++) {
                u32 copy = 0, *cell = cells[i & 1];
                cell[0] = 100 * way + i;
                cell[1] = 7;
                cell[2] = 0x8000 + i;
                set[way](gs, (u64)cell);
                CHECK_EQ(run(code, &copy, (void *)8, 0), 100 * way + i);
                CHECK_EQ(cell[1], 8);
                CHECK_EQ(copy, 0x8000 + i);
            }
        by_msr(gs, 0);
    }
    if (ways < 5)
        return;
    PUT(code, 0xf3, 0x48, 0x0f, 0xae, 0xc0, 0xc3); // RDFSBASE RAX
    for (unsigned i = 0; i < ROUNDS; i++) {
        set_cr4(CR4_FSGSBASE, ~i & 1);
        by_msr(false, 0x1234);
        u64 got = run(code, NULL, NULL, 0);
        CHECK_TRAP(i & 1 ? 6 : -1);
        CHECK_EQ(got, i & 1 ? 0 : 0x1234);
    }
    by_msr(false, 0);
}

// --- memory rights ------------------------------------------------------------------------------------------------------

// Code that stores, adds to memory, pushes, and stores vectors: each must fault as the page's rights and CR0.WP say.
static void write_protection(void)
{
    static const struct {
        u8 bytes[8];
    } stores[] = {{{0x89, 0x0f, 0xc3}},             // MOV [RDI], ECX
                  {{0x01, 0x0f, 0xc3}},             // ADD
                  {{0xf0, 0x0f, 0xc1, 0x0f, 0xc3}}, // LOCK XADD
                  {{0x6a, 0x01, 0x8f, 0x07, 0xc3}}, // PUSH 1; POP [RDI]
                  {{0xaa, 0xc3}},                   // STOSB
                  {{0x0f, 0x11, 0x07, 0xc3}},       // MOVUPS
                  {{0xd9, 0x3f, 0xc3}},             // FNSTCW
                  {{0xdd, 0x37, 0xc3}}};            // FNSAVE
    u64 *pte = pte_of((u64)cells);
    for (unsigned s = 0; s < sizeof stores / sizeof *stores; s++) {
        put_bytes(code + 16 * s, stores[s].bytes, 8);
        for (unsigned i = 0; i < 8; i++) {
            bool wp = i & 1, writable = i & 2;
            set_cr0(CR0_WP, wp);
            *(volatile u64 *)pte = writable ? *pte | PTE_W : *pte & ~PTE_W;
            invlpg(cells);
            run(code + 16 * s, cells, NULL, 1);
            if (wp && !writable)
                CHECK_TRAP_ERR(14, 3);
            else
                CHECK_TRAP(-1);
        }
    }
    *pte |= PTE_W;
    invlpg(cells);
    set_cr0(CR0_WP, true);
}

static void supervisor_access(void)
{
    if (!(leaf7[1] >> 20 & 1))
        return;
    u64 *pte = pte_of((u64)cells);
    // MOV EAX, [RDI]; MOV [RDI], ECX; MOVS; RET
    PUT(code, 0x8b, 0x07, 0x89, 0x0f, 0xa5, 0xc3);
    for (unsigned i = 0; i < 16; i++) {
        bool smap = i & 1, user = i & 2, ac = i & 4;
        *(volatile u64 *)pte = user ? *pte | PTE_U : *pte & ~PTE_U;
        invlpg(cells);
        write_cr4(smap ? read_cr4() | CR4_SMAP : read_cr4() & ~CR4_SMAP);
        if (ac)
            write_flags(read_flags() | FL_AC);
        run(code, cells, cells[1], 3);
        set_cr4(CR4_SMAP, false);
        write_flags(read_flags() & ~(word)FL_AC);
        if (smap && user && !ac)
            CHECK_TRAP_ERR(14, 1);
        else
            CHECK_TRAP(-1);
    }
    // By STAC and CLAC in the code itself: allowed, then not, at an instruction that is the same each time.
    PUT(code, 0x0f, 0x01, 0xcb, 0x8b, 0x07, 0x0f, 0x01, 0xca, 0x8b, 0x07, 0xc3);
    *(volatile u64 *)pte |= PTE_U;
    invlpg(cells);
    for (unsigned i = 0; i < ROUNDS; i++) {
        set_cr4(CR4_SMAP, i & 1);
        TRY(__asm__ volatile("stac; call *%0" ::"r"(code), "D"(cells) : "rax", "memory", "cc"));
        set_cr4(CR4_SMAP, false);
        CHECK_TRAP(i & 1 ? 14 : i == 0 || i == 2 ? (leaf7[1] >> 20 & 1 ? -1 : 6) : -1);
        if (i & 1)
            CHECK_EQ(trap.ip, (word)code + 8);
    }
    write_flags(read_flags() & ~(word)FL_AC);
}

USER static word user_run(word at)
{
    u64 result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(at), "D"(0x40001000), "d"(0x80), "0"(0) : "rcx", "memory", "cc");
    return result;
}

static void ring3(const void *at)
{
    run_user(user_run, (word)at);
}

// What ring 3 may do at one address: read a page, time, ports, flags, the machine status word.
static void rights_of_ring3(void)
{
    PUT(code, 0x8b, 0x07, 0xc3); // MOV EAX, [RDI = page 1 of the window]
    for (unsigned i = 0; i < ROUNDS; i++) {
        map(1, (PHYS + 4096) | PTE_P | PTE_W | (i & 1 ? 0 : PTE_U));
        ring3(code);
        if (i & 1)
            CHECK_TRAP_ERR(14, 5);
        else
            CHECK_TRAP(0x80);
        run(code, code + 4096, NULL, 0);
        CHECK_TRAP(-1);
    }
    map_back(1);
    PUT(code, 0x0f, 0x31, 0xc3); // RDTSC
    for (unsigned i = 0; i < ROUNDS; i++) {
        set_cr4(CR4_TSD, i & 1);
        ring3(code);
        CHECK_TRAP(i & 1 ? 13 : 0x80);
    }
    set_cr4(CR4_TSD, false);
    PUT(code, 0xec, 0xc3); // IN AL, DX: port 80
    for (unsigned i = 0; i < 6; i++) {
        static const u16 map_at[3] = {sizeof tss, offsetof(struct tss, bitmap), offsetof(struct tss, bitmap)};
        tss.iomap = map_at[i % 3];
        tss.bitmap[0x80 / 8] = i % 3 == 1 ? 0xff : 0;
        ring3(code);
        CHECK_TRAP(i % 3 == 2 ? 0x80 : 13);
        user_flags = FL_IOPL;
        ring3(code);
        CHECK_TRAP(0x80);
        user_flags = 0;
    }
    tss.iomap = sizeof tss;
    PUT(code, 0xfa, 0xfb, 0xc3); // CLI; STI
    for (unsigned i = 0; i < ROUNDS; i++) {
        user_flags = i & 1 ? FL_IOPL : 0;
        ring3(code);
        CHECK_TRAP(i & 1 ? 0x80 : 13);
    }
    user_flags = 0;
    if (!(leaf7[2] >> 2 & 1))
        return;
    PUT(code, 0x0f, 0x01, 0xe0, 0xc3); // SMSW EAX
    for (unsigned i = 0; i < ROUNDS; i++) {
        set_cr4(CR4_UMIP, i & 1);
        ring3(code);
        CHECK_TRAP(i & 1 ? 13 : 0x80);
    }
    set_cr4(CR4_UMIP, false);
}

static void alignment(void)
{
    PUT(code, 0x8b, 0x47, 0x01, 0xc3); // MOV EAX, [RDI + 1]
    for (unsigned i = 0; i < 8; i++) {
        set_cr0(CR0_AM, i & 1);
        user_flags = i & 2 ? FL_AC : 0;
        ring3(code);
        CHECK_TRAP((i & 3) == 3 ? 17 : 0x80);
        run(code, code + 4096, NULL, 0); // never in ring 0
        CHECK_TRAP(-1);
    }
    user_flags = 0;
    set_cr0(CR0_AM, false);
}

// --- x87 and vectors ----------------------------------------------------------------------------------------------------

enum unit { X87_, FWAIT_, MMX_, SSE_, AVX_, FXSAVE_, XSAVE_, NONE_ };

static const struct {
    u8 bytes[8];
    enum unit unit;
} unit_code[] = {
    {{0xd9, 0xe8, 0xdd, 0xd8, 0xc3}, X87_}, // FLD1; FSTP ST0
    {{0xdd, 0x3f, 0xc3}, X87_},             // FNSTSW [RDI]
    {{0x9b, 0xc3}, FWAIT_},                 //
    {{0x0f, 0xef, 0xc0, 0xc3}, MMX_},       // PXOR MM0, MM0
    {{0x0f, 0x77, 0xc3}, MMX_},             // EMMS
    {{0x0f, 0x57, 0xc0, 0xc3}, SSE_},       // XORPS XMM0, XMM0
    {{0x0f, 0x11, 0x07, 0xc3}, SSE_},       // MOVUPS [RDI], XMM0
    {{0x66, 0x0f, 0x7e, 0xc0, 0xc3}, SSE_}, // MOVD EAX, XMM0
    {{0xf2, 0x0f, 0x2c, 0xc0, 0xc3}, SSE_}, // CVTTSD2SI EAX, XMM0
    {{0x0f, 0xae, 0x1f, 0xc3}, SSE_},       // STMXCSR [RDI]
    {{0xc5, 0xfc, 0x57, 0xc0, 0xc3}, AVX_}, // VXORPS YMM0, YMM0, YMM0
    {{0xc5, 0xfc, 0x11, 0x07, 0xc3}, AVX_}, // VMOVUPS [RDI], YMM0
    {{0xc5, 0xf8, 0x77, 0xc3}, AVX_},       // VZEROUPPER
    {{0x0f, 0xae, 0x07, 0xc3}, FXSAVE_},    //
    {{0x0f, 0xae, 0x27, 0xc3}, XSAVE_},     // with EDX:EAX = 0
    {{0x0f, 0xc3, 0x0f, 0xc3}, NONE_},      // MOVNTI [RDI], ECX
    {{0x0f, 0x18, 0x07, 0xc3}, NONE_},      // PREFETCHNTA [RDI]
    {{0x0f, 0xae, 0xf0, 0xc3}, NONE_},      // MFENCE
};

static int expected(enum unit unit, u64 cr0, bool osfxsr, bool osxsave)
{
    bool ts = cr0 & CR0_TS, em = cr0 & CR0_EM;
    switch (unit) {
    case X87_:
    case FXSAVE_: return ts || em ? 7 : -1;
    case FWAIT_: return ts && (cr0 & CR0_MP) ? 7 : -1;
    case MMX_: return em ? 6 : ts ? 7 : -1;
    case SSE_: return em || !osfxsr ? 6 : ts ? 7 : -1;
    case AVX_:
    case XSAVE_: return !osxsave ? 6 : ts ? 7 : -1;
    default: return -1;
    }
}

// Every unit under every combination of the bits that close it; then one bit flips at a time, which is how kernels do it.
static void units(void)
{
    u64 cr0 = read_cr0() & ~(CR0_TS | CR0_EM | CR0_MP), cr4 = read_cr4();
    for (unsigned k = 0; k < sizeof unit_code / sizeof *unit_code; k++) {
        enum unit unit = unit_code[k].unit;
        if ((unit == AVX_ && !has_avx) || (unit == XSAVE_ && !has_xsave))
            continue;
        put_bytes(code + 16 * k, unit_code[k].bytes, 8);
        for (unsigned i = 0; i < 64; i++) {
            unsigned gray = (i ^ i >> 1) & 31; // one bit after the other
            u64 c = cr0 | (gray & 1 ? CR0_TS : 0) | (gray & 2 ? CR0_EM : 0) | (gray & 4 ? CR0_MP : 0);
            bool osfxsr = ~gray & 8, osxsave = has_xsave && (~gray & 16);
            write_cr0(c);
            write_cr4((osfxsr ? cr4 | CR4_OSFXSR : cr4 & ~CR4_OSFXSR) & (osxsave ? ~0ull : ~CR4_OSXSAVE));
            run(code + 16 * k, image, NULL, 0);
            write_cr4(cr4);
            write_cr0(cr0 | CR0_MP);
            int want = expected(unit, c, osfxsr, osxsave);
            check_at(trap.vector == want, __FILE__, __LINE__, "code %u with %x: vector %d, not %d", k, gray,
                     trap.vector, want);
        }
    }
    if (!has_avx)
        return;
    for (unsigned i = 0; i < ROUNDS; i++) { // VXORPS again, with AVX off in XCR0
        xsetbv(0, i & 1 ? X87 | SSE : X87 | SSE | AVX);
        run(code + 16 * 10, image, NULL, 0);
        CHECK_TRAP(i & 1 ? 6 : -1);
    }
    xsetbv(0, X87 | SSE | AVX);
}

static void rounding(void)
{
    static const float value = 2.5f;
    static const double x87_value = -2.5;
    static const u32 want[4] = {2, 2, 3, 2}, x87_want[4] = {-2u, -3u, -2u, -2u};
    // MOVSS XMM0, [RDI]; CVTSS2SI EAX, XMM0; RET and FLD QWORD [RDI]; FISTP DWORD [RSI]; RET
    PUT(code, 0xf3, 0x0f, 0x10, 0x07, 0xf3, 0x0f, 0x2d, 0xc0, 0xc3);
    PUT(code + 16, 0xdd, 0x07, 0xdb, 0x1e, 0xc3);
    for (unsigned i = 0; i < 8; i++) {
        u32 out = 0;
        u16 fcw = (u16)(0x37f | (i & 3) << 10);
        set_mxcsr(0x1f80 | (i & 3) << 13);
        __asm__ volatile("fninit; fldcw %0" ::"m"(fcw));
        CHECK_EQ(run(code, &value, NULL, 0), want[i & 3]);
        run(code + 16, &x87_value, &out, 0);
        CHECK_EQ(out, x87_want[i & 3]);
    }
    // DIVSS with everything masked, with zero divide unmasked (#XM), and that without CR4.OSXMMEXCPT (#UD).
    PUT(code, 0x0f, 0x57, 0xc9, 0xf3, 0x0f, 0x10, 0x07, 0xf3, 0x0f, 0x5e, 0xc1, 0xc3);
    for (unsigned i = 0; i < 9; i++) {
        set_mxcsr(i % 3 ? 0x1d80 : 0x1f80);
        set_cr4(CR4_OSXMMEXCPT, i % 3 != 2);
        run(code, &value, NULL, 0);
        CHECK_TRAP(i % 3 == 0 ? -1 : i % 3 == 1 ? 19 : 6);
    }
    set_cr4(CR4_OSXMMEXCPT, true);
    set_mxcsr(0x1f80);
    // FDIV by zero, unmasked: the next x87 instruction reports it.
    PUT(code, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b, 0xdd, 0xd8, 0xc3);
    for (unsigned i = 0; i < ROUNDS; i++) {
        u16 fcw = i & 1 ? 0x37b : 0x37f;
        __asm__ volatile("fninit; fldcw %0" ::"m"(fcw));
        run(code, NULL, NULL, 0);
        CHECK_TRAP(i & 1 ? 16 : -1);
        if (i & 1)
            CHECK_EQ(trap.ip, (word)code + 6);
    }
    __asm__ volatile("fninit");
}

// --- flags and modes ----------------------------------------------------------------------------------------------------

static void direction(void)
{
    static u8 from[8] = {1, 2, 3, 4, 5, 6, 7, 8}, to[8];
    PUT(code, 0xf3, 0xa4, 0x89, 0xf8, 0xc3); // REP MOVSB; MOV EAX, EDI; RET
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 end;
        for (unsigned k = 0; k < 8; k++)
            to[k] = 0;
        if (i & 1)
            __asm__ volatile("std; call *%1; cld"
                             : "=a"(end)
                             : "r"(code), "S"(from + 7), "D"(to + 7), "c"(3)
                             : "memory", "cc");
        else
            __asm__ volatile("call *%1" : "=a"(end) : "r"(code), "S"(from), "D"(to), "c"(3) : "memory", "cc");
        CHECK_EQ(end, (u32)(u64)(i & 1 ? to + 4 : to + 3));
        CHECK_EQ(to[0], i & 1 ? 0 : 1);
        CHECK_EQ(to[7], i & 1 ? 8 : 0);
    }
}

// The same bytes in a 64-, a 32- and a 16-bit segment: MOV RAX, imm64; DEC EAX, MOV EAX, imm32; DEC AX, MOV AX, imm16. Each goes on
// at another place, to a far return of 32 bits. One selector, of which the descriptor changes.
static void code_sizes(void)
{
    static const u16 attr[3] = {0xa09b, 0xc09b, 0x809b};
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {WINDOW, SEL_FREE};
    // 16: JMP at 4 to 16. 32: JMP at 6 to 20. 64: goes on at 10.
    PUT(code, 0x48, 0xb8, 0x11, 0x22, 0xeb, 0x0a, 0xeb, 0x0c, 0x00, 0x00, 0xcb, 0x90, 0x90, 0x90, 0x90, 0x90, 0x66,
        0xcb, 0x90, 0x90, 0xcb);
    for (unsigned i = 0; i < 18; i++) {
        static const u8 order[6] = {0, 1, 2, 1, 0, 2};
        unsigned k = order[i % 6];
        u64 got;
        code[2] = (u8)(0x11 + i);
        gdt[SEL_FREE / 8] = make_desc(k == 2 ? WINDOW : 0, 0xfffff, attr[k]);
        p.offset = k == 2 ? 0 : WINDOW;
        __asm__ volatile("lcall *%1" : "=a"(got) : "m"(p), "0"(1) : "memory", "cc");
        if (k == 0)
            CHECK_EQ(got, 0x00000ceb0aeb2200ull + 0x11 + i);
        else if (k == 1)
            CHECK_EQ(got, 0x0aeb2200u + 0x11 + i);
        else
            CHECK_EQ(got, 0x2200u + 0x11 + i);
    }
}

// PUSH stores 8 bytes or 4; an address of 32 bits wraps where a sum of 64-bit registers goes on past 4 GiB, into nothing.
static u64 far_before, far_pushed;

__attribute__((noinline)) static void far_call(u16 sel)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {WINDOW, sel};
    TRY(__asm__ volatile("mov %%rsp, %1; lcall *%2"
                         : "=a"(far_pushed), "=m"(far_before)
                         : "m"(p), "0"(5), "b"(0xffffff00u), "S"(0x100u + (u32)(u64)cells)
                         : "rcx", "rdx", "memory", "cc"));
}

static void stack_and_address_sizes(void)
{
    // PUSH RAX; MOV EAX, ESP; POP RCX; MOV EDX, [RBX + RSI]; far RET
    PUT(code, 0x50, 0x89, 0xe0, 0x59, 0x8b, 0x14, 0x33, 0xcb);
    for (unsigned i = 0; i < 6; i++) {
        far_call(i & 1 ? SEL_CODE32 : SEL_CODE);
        CHECK_TRAP(i & 1 ? -1 : 14);
        if (i & 1)
            CHECK_EQ(far_before - far_pushed, 12); // the far pointer of 8 bytes, and 4
        else
            CHECK_EQ(trap.cr2, 0x100000000ull + (u64)cells);
    }
}

void guest_main(void)
{
    code_init();
    xstate_init();
    cpuid(7, 0, leaf7);
    segment_bases();
    write_protection();
    rights_of_ring3();
    alignment();
    units();
    rounding();
    direction();
    code_sizes();
    stack_and_address_sizes();
    kernel_only();
    supervisor_access();
}
