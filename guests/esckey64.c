// Ways from one piece of code to another that an engine may have learnt, and that do not hold any more: the caller's page changes between a
// call and its return; one page of code is mapped twice, and what it calls differs by where it is; rings 0 and 3 run the same code at the
// same addresses; address spaces with PCIDs have different code at one address, or share global pages; code changes that is reached by
// indirect branches only; a tree of forward calls goes on for long enough that an interrupt has to get in.
#include "code.h"

const char guest_name[] = "esckey64";

#define CR4_PGE 0x80ull
#define CR4_PCIDE 0x20000ull
#define NOFLUSH (1ull << 63)
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define SHEET(n) (PHYS + (n)*4096u)
#define SHEETS 16u
#define LAPIC 0xfee00000ul
#define VEC_TIMER 0x40
#define ROUNDS 1000u

// Call `fn` with what the pieces of code use: RSI something to call, RDI, RDX, R8, R9 for that, RCX a count, RAX from 0.
static u64 call_with(const u8 *fn, const void *rsi, u64 rdi, u64 rdx, u64 r8v, u64 r9v, u64 rcx)
{
    u64 rax = 0;
    register u64 r8 __asm__("r8") = r8v;
    register u64 r9 __asm__("r9") = r9v;
    __asm__ volatile("call *%[fn]"
                     : "+a"(rax), "+c"(rcx), "+S"(rsi), "+D"(rdi), "+d"(rdx), "+r"(r8), "+r"(r9)
                     : [fn] "b"(fn)
                     : "r10", "r11", "memory", "cc");
    return rax;
}

// What RSI leads to.
#define HELPER(text) \
    ({ \
        const u8 *at_; \
        __asm__ volatile(".pushsection .text.helpers, \"ax\"; 771: " text "; .popsection; mov $771b, %0" : "=r"(at_)); \
        at_; \
    })

static void fill_sheets(void)
{
    for (unsigned i = 0; i < SHEETS * 4096; i++)
        ((volatile u8 *)flat)[i] = 0xcc;
}

static void put32(u8 *at, u32 v)
{
    for (unsigned i = 0; i < 4; i++)
        ((volatile u8 *)at)[i] = (u8)(v >> 8 * i);
}

// --- the caller's page changes ------------------------------------------------------------------------------------------

// Sheet n, at 010: CALL RSI; ADD EAX, id; RET.
// At 040: DEC ECX; JZ 1f; CALL 040; ADD EAX, id; RET; 1: CALL RSI; ADD EAX, id; RET.
// At ff9: ADD EAX, 0; CALL RSI, at the page's end; in the next page ADD EAX, id; RET at 000.
static void put_callers(unsigned n, u32 id)
{
    u8 *s = flat + n * 4096;
    PUT(s + 0x10, 0xff, 0xd6, 0x05, 0, 0, 0, 0, 0xc3);
    PUT(s + 0x40, 0xff, 0xc9, 0x74, 0x0b, 0xe8, 0xf7, 0xff, 0xff, 0xff, 0x05, 0, 0, 0, 0, 0xc3, 0xff, 0xd6, 0x05, 0, 0,
        0, 0, 0xc3);
    PUT(s + 0xff9, 0x05, 0, 0, 0, 0, 0xff, 0xd6);
    PUT(s, 0x05, 0, 0, 0, 0, 0xc3);
    put32(s + 0x13, id);
    put32(s + 0x4a, id);
    put32(s + 0x52, id);
    put32(s + 1, id);
}

static void caller_moves(void)
{
    // MOV [RDI], R8; then INVLPG of it, of another page besides, or all.
    const u8 *change[] = {
        HELPER("mov %%r8, (%%rdi); invlpg (%%rdx); ret"),
        HELPER("mov %%r8, (%%rdi); invlpg 4096(%%rdx); invlpg (%%rdx); invlpg (%%rsp); ret"),
        HELPER("mov %%r8, (%%rdi); mov %%cr3, %%r10; mov %%r10, %%cr3; ret"),
    };
    const u8 *other = HELPER("mov %%r8, (%%rdi); invlpg (%%rdx); ret"); // of data
    for (unsigned n = 0; n < 4; n++)
        put_callers(n, 1000 + n);
    unsigned now = 0, wrong = 0;
    map(0, SHEET(0) | PTE_ALL);
    map(1, SHEET(0) | PTE_ALL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned next = (now + 1 + i / 16) & 3, way = i % 3;
        u64 entry = SHEET(next) | PTE_ALL;
        wrong += call_with(code + 0x10, change[way], (u64)code_pte, (u64)code, entry, 0, 0) != 1000 + next;
        now = next;
        next = (now + 3) & 3;
        entry = SHEET(next) | PTE_ALL;
        wrong += call_with(code + 0x40, change[way], (u64)code_pte, (u64)code, entry, 0, 20) != 20 * (1000 + next);
        now = next;
        // A page that only data is in.
        entry = SHEET(i & 7) | PTE_ALL;
        wrong +=
            call_with(code + 0x40, other, (u64)&code_pte[3], (u64)(code + 3 * 4096), entry, 0, 20) != 20 * (1000 + now);
        wrong += *(volatile u8 *)(code + 3 * 4096 + 0x10) != ((i & 7) < 4 ? 0xff : 0xcc);
        // The return address is in the page behind.
        next = (i + i / 7) & 3;
        entry = SHEET(next) | PTE_ALL;
        wrong +=
            call_with(code + 0xff9, change[way], (u64)&code_pte[1], (u64)(code + 4096), entry, 0, 0) != 1000 + next;
    }
    CHECK_EQ(wrong, 0);
    // It is gone when the call returns: the fault is the return's target's.
    for (unsigned i = 0; i < 6; i++) {
        bool absent = i & 1;
        map(0, SHEET(0) | PTE_ALL);
        call_with(code + 0x10, change[0], (u64)code_pte, (u64)code, SHEET(1) | PTE_ALL, 0, 0);
        TRY(call_with(code + 0x10, change[i % 3], (u64)code_pte, (u64)code, absent ? 0 : SHEET(1) | PTE_ALL | PTE_NX, 0,
                      0));
        CHECK_TRAP_ERR(14, absent ? 16 : 17);
        CHECK_EQ(trap.ip, (u64)code + 0x12);
        CHECK_EQ(trap.cr2, (u64)code + 0x12);
    }
    map_back(0);
    map_back(1);
    map_back(3);
}

// --- one page, two places -----------------------------------------------------------------------------------------------

// In sheet 0, with the next page another one in each place:
//   010  JMP to 020 of the next page                    there: ADD EAX, id; RET
//   030  CALL 020 of the next page; ADD EAX, 1; RET
//   050  TEST ECX, ECX; JNZ to 020 of the next page; RET
//   070  LEA RDX of 020 of the next page; JMP RDX
//   090  LEA RDX of the same; CALL RDX; ADD EAX, 2; RET
//   0b0  PUSH of the same, by way of LEA; RET
//   ff9  5 NOPs; CALL RSI, which returns to the next page: ADD EAX, id; RET at 000
//   ffb  NOP; NOP; ADD EAX, imm32 that ends in the next page is at 0xffd of sheet 3 only
static void put_places(void)
{
    u8 *s = flat;
    PUT(s + 0x10, 0xe9, 0x0b, 0x10, 0, 0);
    PUT(s + 0x30, 0xe8, 0xeb, 0x0f, 0, 0, 0x05, 1, 0, 0, 0, 0xc3);
    PUT(s + 0x50, 0x85, 0xc9, 0x0f, 0x85, 0xc8, 0x0f, 0, 0, 0xc3);
    PUT(s + 0x70, 0x48, 0x8d, 0x15, 0xa9, 0x0f, 0, 0, 0xff, 0xe2);
    PUT(s + 0x90, 0x48, 0x8d, 0x15, 0x89, 0x0f, 0, 0, 0xff, 0xd2, 0x05, 2, 0, 0, 0, 0xc3);
    PUT(s + 0xb0, 0x48, 0x8d, 0x15, 0x69, 0x0f, 0, 0, 0x52, 0xc3);
    PUT(s + 0xff9, 0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd6);
    for (unsigned n = 1; n < 4; n++) {
        s = flat + n * 4096;
        PUT(s, 0x05, 0, 0, 0, 0, 0xc3);
        PUT(s + 0x20, 0x05, 0, 0, 0, 0, 0xc3);
        put32(s + 1, 100 * n);
        put32(s + 0x21, 10000 * n);
    }
}

static void two_places(void)
{
    static const struct {
        u16 at;
        u32 unit, more;
    } ways[] = {{0x10, 10000, 0}, {0x30, 10000, 1}, {0x50, 10000, 0}, {0x70, 10000, 0},
                {0x90, 10000, 2}, {0xb0, 10000, 0}, {0xff9, 100, 0}};
    const u8 *nothing = HELPER("ret");
    unsigned wrong = 0;
    put_places();
    map(0, SHEET(0) | PTE_ALL);
    alias_pte[0] = SHEET(0) | PTE_ALL;
    invlpg(alias);
    for (unsigned i = 0; i < ROUNDS; i++) {
        // The second one changes from time to time.
        unsigned first = 1, second = 2 + (i / 50 & 1);
        if (i % 50 == 0) {
            map(1, SHEET(first) | PTE_ALL);
            alias_pte[1] = SHEET(second) | PTE_ALL;
            invlpg(alias + 4096);
        }
        for (unsigned w = 0; w < sizeof ways / sizeof *ways; w++) {
            bool which = (i * 5 + w * 3) >> 1 & 1;
            u64 got = call_with((which ? alias : code) + ways[w].at, nothing, 0, 0, 0, 0, 1);
            wrong += got != (which ? second : first) * ways[w].unit + ways[w].more;
        }
    }
    CHECK_EQ(wrong, 0);
    // Only where it is looked for is it gone.
    alias_pte[1] = 0;
    invlpg(alias + 4096);
    for (unsigned w = 0; w < sizeof ways / sizeof *ways; w++) {
        CHECK_EQ(call_with(code + ways[w].at, nothing, 0, 0, 0, 0, 1), ways[w].unit + ways[w].more);
        TRY(call_with(alias + ways[w].at, nothing, 0, 0, 0, 0, 1));
        CHECK_TRAP_ERR(14, 16);
        CHECK_EQ(trap.ip, (u64)alias + 4096 + (ways[w].unit == 100 ? 0 : 0x20));
    }
    map_back(1);
    alias_pte[1] = SHEET(1) | PTE_ALL;
    invlpg(alias + 4096);
}

// --- rings --------------------------------------------------------------------------------------------------------------

static unsigned user_faults;

// In ring 3 the load faults; it is skipped.
static bool skip_load(struct trap_frame *f)
{
    if ((f->cs & 3) != 3 || f->error != 5)
        return false;
    user_faults++;
    f->ip += 3;
    return true;
}

// In page 0, at the same address in both rings. RDX: a supervisor's page, RBX: what comes of it.
//   000  ring 3: ECX times CALL 080 and SYSCALL and a CALL of it in page 1, then RET
//   040  ring 0, SYSCALL's: CALL 080; CALL 020 in page 1; CALL by R9 of 080; SYSRETQ
//   080  MOV RAX, [RDX]; ADD RBX, 1; RET
//   1020 CALL 080 of page 0; RET
static word in_user(word count)
{
    u64 rbx = 0, rcx = count;
    register u64 r9 __asm__("r9") = (u64)code + 0x80;
    __asm__ volatile("mov %[n], %%r8; call *%[fn]"
                     : "+b"(rbx), "+c"(rcx), "+r"(r9)
                     : [n] "r"(count), [fn] "S"(code), "d"(code + 2 * 4096)
                     : "rax", "r8", "r11", "memory", "cc");
    return rbx;
}

static void rings(void)
{
    u64 saved[] = {rdmsr(MSR_EFER), rdmsr(MSR_STAR), rdmsr(MSR_LSTAR), rdmsr(MSR_FMASK)};
    gdt[SEL_FREE / 8 + 1] = gdt[SEL_UDATA / 8];
    gdt[SEL_FREE / 8 + 2] = gdt[SEL_UCODE / 8];
    wrmsr(MSR_EFER, saved[0] | 1);
    wrmsr(MSR_STAR, (u64)(SEL_FREE | 3) << 48 | (u64)SEL_CODE << 32);
    wrmsr(MSR_LSTAR, (u64)code + 0x40);
    wrmsr(MSR_FMASK, 0);
    fill_sheets();
    for (unsigned i = 0; i < 3; i++)
        map(i, SHEET(i) | PTE_ALL);
    map(2, SHEET(2) | PTE_P | PTE_W);
    PUT_ASM(flat, "1: call 1b + 0x80; syscall; call 1b + 0x1020; mov %%r9, %%rax; call *%%rax; dec %%r8d; jnz 1b; ret");
    PUT_ASM(flat + 0x40,
            "2: push %%rcx; push %%r11; call 2b + 0x40; call 2b + 0xfe0; call *%%r9; pop %%r11; pop %%rcx; sysretq");
    PUT_ASM(flat + 0x80, "mov (%%rdx), %%rax; add $1, %%rbx; ret");
    PUT_ASM(flat + 0x1020, "3: call 3b - 0xfa0; ret");
    trap_handler[14] = skip_load;
    for (unsigned round = 0; round < 3; round++) {
        u32 n = 50 + round;
        user_faults = 0;
        // From ring 0 alone: no fault.
        u64 rbx = 0, rdx = (u64)(code + 2 * 4096);
        for (u32 i = 0; i < n; i++)
            __asm__ volatile("call *%[fn]" : "+b"(rbx) : [fn] "S"(code + 0x1020), "d"(rdx) : "rax", "memory", "cc");
        CHECK_EQ(rbx, n);
        CHECK_EQ(user_faults, 0);
        run_user(in_user, n);
        CHECK_TRAP(0x80);
        CHECK_EQ(user_result, 6 * n);
        CHECK_EQ(user_faults, 3 * n);
    }
    trap_handler[14] = NULL;
    // Where ring 3 may not execute what ring 0 may, and has.
    map(0, SHEET(0) | PTE_P | PTE_W);
    u64 rbx = 0;
    __asm__ volatile("call *%[fn]" : "+b"(rbx) : [fn] "S"(code + 0x1020), "d"(code) : "rax", "memory", "cc");
    CHECK_EQ(rbx, 1);
    run_user((word(*)(word))(code + 0x1020), 0);
    CHECK_TRAP_ERR(14, 21);
    CHECK_EQ(trap.ip, (u64)code + 0x80);
    map_back(0);
    map_back(2);
    wrmsr(MSR_FMASK, saved[3]);
    wrmsr(MSR_LSTAR, saved[2]);
    wrmsr(MSR_STAR, saved[1]);
    wrmsr(MSR_EFER, saved[0]);
}

// --- address spaces -----------------------------------------------------------------------------------------------------

static u64 *other_pte;

// All that both spaces have, which is the first gigabyte, is global, or nothing is.
static void set_global(bool on)
{
    u64 *top = (u64 *)(read_cr3() & 0x000ffffffffff000ull), *pdpt = (u64 *)(top[0] & ~0xfffull);
    u64 *pd = (u64 *)(pdpt[0] & ~0xfffull);
    for (unsigned i = 0; i < 512; i++) {
        bool large = pd[i] & PTE_PS;
        u64 *entry = large ? &pd[i] : (u64 *)(pd[i] & ~0xfffull);
        for (unsigned k = 0; k < (large ? 1 : 512) && pd[i] & PTE_P; k++)
            if (entry[k] & PTE_P)
                entry[k] = on ? entry[k] | PTE_G : entry[k] & ~PTE_G;
    }
}

// No code is run that is not global: what a kernel does. Pages 2 and 3 of the alias lead to each other.
static void only_global(const u64 value[2])
{
    const u8 *swap = HELPER("mov %%r9, %%cr3; xchg %%r8, %%r9; ret");
    unsigned wrong = 0, in = 0;
    for (unsigned i = 0; i < 2; i++)
        code_pte[i] = other_pte[i] = 0;
    for (unsigned i = 0; i < 2; i++) {
        write_cr3(value[i] & ~NOFLUSH);
        in = i;
    }
    for (unsigned n = 0; n < 4; n++) // 100: CALL 010 of the next page; RET
        PUT(flat + n * 4096 + 0x100, 0xe8, 0x0b, 0x0f, 0, 0, 0xc3);
    alias_pte[2] = SHEET(0) | PTE_ALL | PTE_G;
    invlpg(alias + 2 * 4096);
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 5 == 0) {
            alias_pte[3] = SHEET(i / 5 & 3) | PTE_ALL | PTE_G;
            invlpg(alias + 3 * 4096);
        }
        u64 want = 1000 + (i / 5 & 3);
        wrong += call_with(alias + 2 * 4096 + 0x100, swap, 0, 0, value[in], value[!in], 0) != want;
        in = !in;
    }
    CHECK_EQ(wrong, 0);
}

static void spaces(void)
{
    // R8, R9: the two values of CR3. To the other one and back; or there only.
    const u8 *swap = HELPER("mov %%r9, %%cr3; xchg %%r8, %%r9; ret");
    const u8 *twice = HELPER("mov %%r9, %%cr3; mov %%r8, %%cr3; ret");
    u32 r[4];
    cpuid(1, 0, r);
    bool pcid = r[2] >> 17 & 1;
    fill_sheets();
    for (unsigned n = 0; n < 4; n++)
        put_callers(n, 1000 + n);
    u64 cr3[2] = {read_cr3() & ~0xfffull, other_space(&other_pte)};
    u64 cr4 = read_cr4();
    for (unsigned kind = 0; kind < 3; kind++) { // without PCIDs, with them, and with global pages
        if (kind && !pcid)
            break;
        u64 global = kind == 2 ? PTE_G : 0;
        set_global(global);
        write_cr4(cr4 | (global ? CR4_PGE : 0));
        for (unsigned i = 0; i < 2; i++) {
            code_pte[i] = SHEET(i) | PTE_ALL;
            other_pte[i] = SHEET(i + 2) | PTE_ALL;
        }
        alias_pte[2] = SHEET(0) | PTE_ALL | global;
        write_cr3(cr3[0]);
        u64 value[2] = {cr3[0], cr3[1]};
        if (kind) {
            write_cr4(read_cr4() | CR4_PCIDE);
            for (unsigned i = 0; i < 2; i++) {
                write_cr3(cr3[!i] | (2 - i));
                value[!i] = cr3[!i] | (2 - i) | NOFLUSH;
            }
        }
        unsigned wrong = 0;
        for (unsigned i = 0; i < ROUNDS; i++) {
            unsigned in = i & 1; // where this round begins
            u64 base = in ? 1002 : 1000, then = in ? 1000 : 1002;
            wrong += call_with(code + 0x40, twice, 0, 0, value[in], value[!in], 5) != 5 * base;
            wrong += call_with(code + 0x40, swap, 0, 0, value[in], value[!in], 9) != 9 * then;
            wrong += call_with(code + 0x10, swap, 0, 0, value[!in], value[in], 0) != base;
            // A page that both have, by one page table: what becomes of it in one is seen in the other.
            if (i % 10 == 0 && global) {
                u64 entry = SHEET(i / 10 & 3) | PTE_ALL | global;
                alias_pte[2] = entry;
                invlpg(alias + 2 * 4096);
            }
            u64 shared = global ? 1000 + (i / 10 & 3) : 1000;
            wrong += call_with(alias + 2 * 4096 + 0x40, swap, 0, 0, value[in], value[!in], 3) != 3 * shared;
        }
        CHECK_EQ(wrong, 0);
        if (global)
            only_global(value);
        write_cr3(cr3[0]);
        write_cr4(cr4);
    }
    set_global(false);
    code_init();
}

// --- code that changes --------------------------------------------------------------------------------------------------

static void changing(void)
{
    const unsigned functions = 64;
    unsigned wrong = 0;
    u32 value[64], seed = 1;
    fill_sheets();
    for (unsigned i = 0; i < functions; i++) {
        value[i] = i;
        put_return(code + i * 64, i);
    }
    serialize();
    for (unsigned i = 0; i < 20 * ROUNDS; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned f = seed >> 10 & (functions - 1), g = seed >> 20 & (functions - 1);
        if (seed >> 28 < 5) {
            value[f] = seed;
            put32((seed >> 27 & 1 ? flat : code) + f * 64 + 1, seed);
        }
        wrong += call(code + f * 64) != value[f];
        wrong += call(alias + g * 64) != value[g];
    }
    CHECK_EQ(wrong, 0);
    // A piece of code that changes its own start and jumps there: MOV EAX, count; DEC ECX; JZ over; INC DWORD [RDX]; JMP RSI; RET.
    unsigned n = PUT_ASM(code + 0x800, "mov $0, %%eax; dec %%ecx; jz 1f; incl (%%rdx); jmp *%%rsi; 1: ret");
    CHECK(n < 64);
    for (u32 count = 1; count < 300; count += 7) {
        put32(code + 0x801, 0);
        CHECK_EQ(call_with(code + 0x800, code + 0x800, 0, (u64)flat + 0x801, 0, 0, count), count - 1);
    }
}

// --- forwards for ever --------------------------------------------------------------------------------------------------

static u64 came_at;
static unsigned came;

static bool on_timer(struct trap_frame *f)
{
    came++;
    came_at = f->ip;
    *(volatile u32 *)(LAPIC + 0xb0) = 0;
    return true;
}

// Level n: CALL level n + 1, twice; the last one counts. Four million calls, none of them backwards.
static void forwards(void)
{
    const unsigned levels = 21;
    fill_sheets();
    for (unsigned i = 0; i < levels; i++) {
        u8 *at = code + i * 16;
        PUT(at, 0xe8, 0x0b, 0, 0, 0, 0xe8, 0x06, 0, 0, 0, 0xc3);
    }
    PUT(code + levels * 16, 0xff, 0xc0, 0xc3);
    volatile u32 *lapic = (volatile u32 *)LAPIC;
    trap_handler[VEC_TIMER] = on_timer;
    lapic[0xf0 / 4] = 0x1ff;
    lapic[0x3e0 / 4] = 0xb; // divide by 1
    lapic[0x320 / 4] = VEC_TIMER;
    unsigned inside = 0;
    // A busy host makes the one call much slower than the other, now and then.
    for (unsigned i = 0; i < 32 && inside < 3; i++) {
        came = 0;
        lapic[0x380 / 4] = ~0u;
        call_with(code, code, 0, 0, 0, 0, 0);
        u32 took = ~0u - lapic[0x390 / 4];
        lapic[0x380 / 4] = took / 4 + 1;
        __asm__ volatile("sti");
        CHECK_EQ(call_with(code, code, 0, 0, 0, 0, 0), 1u << levels);
        __asm__ volatile("nop; cli");
        lapic[0x380 / 4] = 0;
        inside += came == 1 && came_at >= (u64)code && came_at < (u64)code + 4096;
    }
    CHECK_EQ(inside, 3);
    trap_handler[VEC_TIMER] = NULL;
}

void guest_main(void)
{
    code_init();
    fill_sheets();
    caller_moves();
    two_places();
    rings();
    spaces();
    changing();
    forwards();
}
