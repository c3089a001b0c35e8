// Every kind of store, made to code that has run before: by the instruction right before the one that changes, by one some way before
// it in a straight line, by other code, through another mapping of 4 KiB or 2 MiB, and over the storing instruction itself. Then the
// stores that no operand names: pushed frames, CALL, accessed and dirty bits, descriptors.
//
// What is stored at the linear address that is executed is seen by the next instruction; what is stored through another mapping,
// after a serializing one (SDM 3A 8.1.3).
#include "code.h"
#include "xstate.h"

const char guest_name[] = "smcstore64";

#define STALE 0x11223344u
#define FRESH 0x55667788u

// The code that is changed: MOV EAX, imm32; MOV RSP, R10; RET. Its first 8 and 16 bytes as numbers.
static const u8 tail[16] = {0xb8, 0x44, 0x33, 0x22, 0x11, 0x4c, 0x89, 0xd4,
                            0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};
#define WIDE(imm) (0xd4894c00000000b8ull | (u64)(imm) << 8)
#define WIDE_UPPER 0x90909090909090c3ull

static u8 source[64] __attribute__((aligned(64)));

// One way to store: some instructions, the last of which stores to RDI and on. The tail is `delta` bytes behind RDI, or RDI is its
// immediate (NARROW). Registers on entry: R8 and R9 what to store (the tail's 16 bytes with another immediate, or the immediate), RSI
// `source` with the same, YMM0 (each half) and ST0 likewise, YMM1 all ones, RDX:RAX what is there, R10 the stack pointer.
struct way {
    const u8 *from, *to;
    const char *name;
    u16 delta, needs;
} __attribute__((packed));
#define NARROW 0x1000
#define CODE_ONLY 0x3000 // the same, and not relocatable
#define ALIGNED 0x4000   // RDI must be a multiple of 64
#define ANY 0
#define WITH_AVX 1
#define WITH_MOVBE 2

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define WAY(name, text, delta, needs) \
    __asm__(".pushsection .rodata.code; 771: " text "; 772: .popsection\n" \
            ".pushsection .rodata.names; 773: .asciz \"" #name "\"; .popsection\n" \
            ".pushsection .rodata.ways; .quad 771b, 772b, 773b; .short " STRING(delta) ", " STRING( \
                needs) "; .popsection");
__asm__(".pushsection .rodata.ways, \"a\"; ways: .popsection; .pushsection .rodata.names, \"a\"; .popsection\n"
        ".pushsection .rodata.code, \"a\"; .popsection");
#include "smcstore64_ways.def"
__asm__(".pushsection .rodata.ways; ways_end: .popsection");
extern const struct way ways[], ways_end[];

static bool has[3] = {[ANY] = true};

static bool narrow(const struct way *w)
{
    return w->delta & NARROW;
}

static u8 *tail_at(const struct way *w, u8 *rdi)
{
    return narrow(w) ? rdi - 1 : rdi + (w->delta & 0xfff);
}

static void fill_source(const struct way *w, u32 imm)
{
    ((u64 *)source)[0] = narrow(w) ? imm : WIDE(imm);
    ((u64 *)source)[1] = WIDE_UPPER;
    __asm__ volatile("fninit; fldt (%0); movups (%0), %%xmm0; pcmpeqd %%xmm1, %%xmm1" ::"r"(source) : "memory");
    if (has[WITH_AVX])
        __asm__ volatile("vinsertf128 $1, %xmm0, %ymm0, %ymm0; vinsertf128 $1, %xmm1, %ymm1, %ymm1");
}

// Call `fn` with the registers that ways expect.
__attribute__((noinline)) static u32 call_way(const void *fn, const struct way *w, void *rdi, u32 imm)
{
    u64 result;
    fill_source(w, imm);
    register u64 r8 __asm__("r8") = ((u64 *)source)[0];
    register u64 r9 __asm__("r9") = ((u64 *)source)[1];
    register void *r11 __asm__("r11") = rdi;
    __asm__ volatile(
        "push %%rbp; push %%rbx; mov %%rdi, %%rbp; mov (%%r11), %%rax; mov 8(%%r11), %%rdx; mov %%r11, %%rdi\n"
        "call *%%rbp; pop %%rbx; pop %%rbp"
        : "=a"(result), "+r"(r8), "+r"(r9), "+r"(r11), "+D"(fn)
        : "S"(source)
        : "rcx", "rdx", "r10", "r12", "memory", "cc");
    return (u32)result;
}

// Lay out a function of the way's instructions, `gap` bytes of others and the tail, with RDI at `to`. Returns its first byte.
static u8 *lay_out(const struct way *w, u8 *to, unsigned gap)
{
    unsigned n = (unsigned)(w->to - w->from);
    u8 *next = tail_at(w, to), *first = next - gap - n - 3;
    PUT(first, 0x49, 0x89, 0xe2); // MOV R10, RSP
    put_bytes(first + 3, w->from, n);
    for (unsigned i = 0; i < gap; i += 4)
        PUT(first + 3 + n + i, 0x48, 0x8d, 0x49, 0x01); // LEA RCX, [RCX + 1]
    put_bytes(next, tail, sizeof tail);
    return first;
}

static void check_way(const struct way *w, const char *how, u32 got, const u8 *next)
{
    u32 there;
    __builtin_memcpy(&there, next + 1, 4);
    check_at(got == there && got != STALE, w->name, 0, "%s: ran with %x, memory has %x", how, got, there);
}

// The way followed by what it changes; again and again, as the second time may not be like the first.
static void straight(const struct way *w, u8 *to, unsigned gap, const char *how)
{
    static const u32 stale = STALE;
    u8 *first = NULL, *next = tail_at(w, to);
    for (u32 i = 0; i < 3; i++) {
        first = lay_out(w, to, gap);
        check_way(w, how, call_way(first, w, to, FRESH + i), next);
    }
    // Only the immediate comes back; ways that leave their own instructions as they are.
    for (u32 i = 0; i < 3 && !(w->delta & 0xfff); i++) {
        put_bytes(next + 1, (const u8 *)&stale, 4);
        check_way(w, how, call_way(first, w, to, FRESH + i), next);
    }
}

static u32 run_tail(const u8 *next)
{
    u32 result;
    __asm__ volatile("mov %%rsp, %%r10; call 1f; jmp 2f; 1: mov %%rsp, %%r10; jmp *%1; 2:"
                     : "=a"(result)
                     : "r"(next)
                     : "r10", "rcx", "memory");
    return result;
}

// The tail runs in one mapping, a function elsewhere stores to it in another (or the same), the tail runs again.
static void outside(const struct way *w, u8 *run, u8 *store, const char *how)
{
    const unsigned to = 0x1400;
    u8 *next = tail_at(w, run + to), *first = lay_out(w, run + to, 0), *other = code + 0x800;
    unsigned n = (unsigned)(next - first);
    put_bytes(other, first, n); // the same instructions, with another end: MOV RSP, R10; RET
    PUT(other + n, 0x4c, 0x89, 0xd4, 0xc3);
    for (u32 i = 0; i < 3; i++) {
        put_bytes(next, tail, sizeof tail);
        serialize();
        CHECK_EQ(run_tail(next), STALE);
        call_way(other, w, store + to, FRESH + i);
        serialize();
        check_way(w, how, run_tail(next), next);
    }
}

static void every_way(const struct way *w)
{
    straight(w, code + 0x400, 0, "next instruction");
    if (!(w->delta & 0xfff)) { // images also overwrite what is in front of the tail
        straight(w, code + 0x400, 4, "second next instruction");
        straight(w, code + 0x400, 60, "later instruction");
    }
    for (unsigned k = 0; k < 9 && w->delta != CODE_ONLY && !(w->delta & ALIGNED); k++)
        straight(w, code + 0x1000 - k, 0, "across a page end");
    if (w->delta == CODE_ONLY)
        return;
    outside(w, code, code, "from outside");
    outside(w, code, alias, "through another page");
    outside(w, code, flat, "through a large page");
    outside(w, flat, code, "executed in a large page");
}

// --- stores without an operand ------------------------------------------------------------------------------------------

// CALL to the next instruction, whose bytes are overwritten by the return address that it pushes: B8 00 00 40 00 00 00 00, which is
// MOV EAX, 0x00400000; ADD [RAX], AL, and so on.
static void by_call(void)
{
    u8 *at = code + 0xb8;
    for (unsigned i = 0; i < 3; i++) {
        put_return(at, STALE);
        PUT(at + 8, 0xc3, 0x4c, 0x89, 0xd4, 0xc3); // the first ends 00 C3: ADD BL, AL
        PUT(at - 12, 0x49, 0x89, 0xe2, 0x48, 0x8d, 0x67, 0x08, 0xe8, 0, 0, 0,
            0); // MOV R10, RSP; LEA RSP, [RDI + 8]; CALL
        u64 result;
        __asm__ volatile("push %%rbx; call *%1; pop %%rbx"
                         : "=a"(result)
                         : "r"(at - 12), "D"(at)
                         : "r10", "memory", "cc");
        CHECK_EQ(result, 0x00400000);
    }
}

// An interrupt's frame, with SS at its top: 8 NOPs become ADC [RAX], AL and three times ADD [RAX], AL.
static bool resume(struct trap_frame *f)
{
    (void)f;
    return true;
}

static void by_interrupt(void)
{
    static u8 cell[256] __attribute__((aligned(256)));
    u8 *top = code + 0x800;
    trap_handler[0x90] = resume;
    set_gate(0x90, (word)gate_stub(0x90), SEL_CODE, 14, 0, 1);
    tss.ist[0] = (u64)top;
    for (unsigned i = 0; i < 3; i++) {
        u64 result;
        PUT(top - 8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x8b, 0x00, 0xc3); // ...; MOV EAX, [RAX]; RET
        cell[0x11] = 1;
        __asm__ volatile("clc; call *%1" : "=a"(result) : "r"(top - 8), "0"(&cell[0x11]) : "memory", "cc");
        CHECK_EQ(result, 1);
        __asm__ volatile("int $0x90" ::: "memory");
        __asm__ volatile("clc; call *%1" : "=a"(result) : "r"(top - 8), "0"(&cell[0x11]) : "memory", "cc");
        CHECK_EQ(result, 0x45);
    }
    reset_gate(0x90);
}

// A page of code that is a page table, too: setting the accessed bit turns ADD EAX, imm32 (05) into AND EAX, imm32 (25).
static void by_page_walk(void)
{
    u64 region = WINDOW + 0x10000000u, *pd_entry;
    pte_of(region); // the levels above
    u64 *table = (u64 *)(read_cr3() & ~0xfffull);
    table = (u64 *)(table[0] & ~0xfffull);
    table = (u64 *)(table[region >> 30] & ~0xfffull);
    pd_entry = &table[region >> 21 & 511];
    u64 saved = *pd_entry;
    u8 *page = code + 0x3000;
    *pd_entry = (PHYS + 0x3000) | PTE_ALL;
    for (unsigned i = 0; i < 3; i++) {
        u32 result[2];
        *(volatile u64 *)page = 0x00a03005; // ADD EAX, 0x00a030..; ADD [RAX], AL; ADD BL, AL
        PUT(page + 8, 0xc3, 0xc3);
        invlpg((void *)region);
        for (unsigned k = 0; k < 2; k++) {
            __asm__ volatile("call *%1" : "=a"(result[k]) : "r"(page), "0"(0x00b00000) : "rbx", "memory", "cc");
            if (!k)
                (void)*(volatile u8 *)region;
        }
        serialize();
        CHECK_EQ(*(volatile u64 *)page & 0xff, 0x25);
        CHECK_EQ(result[0], 0x00b0a030);
        CHECK_EQ(result[1], 0x00b00000 & 0xa030);
    }
    *pd_entry = saved;
    write_cr3(read_cr3());
}

// A descriptor table on a page of code: the accessed bit turns XCHG EAX, EDX into XCHG EAX, EBX.
static void by_segment_load(void)
{
    u64 *table = (u64 *)(code + 0x3000);
    struct table_reg old, new = {sizeof gdt - 1, (word)table};
    __asm__ volatile("sgdt %0" : "=m"(old));
    for (unsigned i = 0; i < 3; i++) {
        u64 before, after;
        for (unsigned k = 0; k < GDT_ENTRIES; k++)
            table[k] = gdt[k];
        table[SEL_FREE / 8] = 0xc34f920000000000ull; // ... 92 4F C3
        u8 *at = (u8 *)&table[SEL_FREE / 8] + 5;
        __asm__ volatile("lgdt %0" ::"m"(new));
        __asm__ volatile("call *%1" : "=a"(before) : "r"(at), "0"(1), "d"(2), "b"(3) : "memory");
        __asm__ volatile("mov %w1, %%fs; mov $2, %%edx; mov $3, %%ebx; call *%2"
                         : "=a"(after)
                         : "r"(SEL_FREE), "r"(at), "0"(1)
                         : "rdx", "rbx", "memory");
        __asm__ volatile("mov %w0, %%fs; lgdt %1" ::"r"(0), "m"(old) : "memory");
        CHECK_EQ(before, 2);
        CHECK_EQ(after, 3);
    }
}

void guest_main(void)
{
    u32 r[4];
    code_init();
    xstate_init();
    has[WITH_AVX] = has_avx;
    cpuid(1, 0, r);
    has[WITH_MOVBE] = r[2] >> 22 & 1;
    for (const struct way *w = ways; w < ways_end; w++)
        if (has[w->needs])
            every_way(w);
    by_call();
    by_interrupt();
    by_page_walk();
    by_segment_load();
}
