// Pages under code that has run: remapped, split and joined, switched with the address space, with and without PCIDs and global
// pages, made inaccessible and accessible again; by other code and by the code itself, whose next instruction then comes from the
// new page or faults. And one page at two linear addresses, with what depends on the address.
//
// QEMU's TCG differs in 26 checks: it faults at the target of a jump that goes to no canonical address, and not where an access only
// ends outside.
#include "code.h"

const char guest_name[] = "smcpage64";

#define CR4_PGE 0x80ull
#define CR4_PCIDE 0x20000ull
#define CR4_SMEP 0x100000ull
#define NOFLUSH (1ull << 63)
#define OLD 0x11111111u
#define NEW 0x22222222u
#define PAGE(n) (PHYS + (n)*4096u) // physical

static u32 features[4], leaf7[4];

static bool has_pcid(void)
{
    return features[2] >> 17 & 1;
}

// Two functions of the same form in pages `a` and `b` of the flat mapping, at one offset.
static void put_pair(unsigned a, unsigned b, unsigned off)
{
    put_return(flat + a * 4096 + off, OLD);
    put_return(flat + b * 4096 + off, NEW);
}

// --- by other code ------------------------------------------------------------------------------------------------------

static void remap_again_and_again(void)
{
    put_pair(0, 1, 0x10);
    for (unsigned i = 0; i < 20; i++) {
        CHECK_EQ(call(code + 0x10), i & 1 ? NEW : OLD);
        map(0, PAGE(~i & 1) | PTE_ALL);
    }
    // By a new CR3 instead of INVLPG, and by one that forgets nothing.
    map_back(0);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_EQ(call(code + 0x10), i & 1 ? NEW : OLD);
        *(volatile u64 *)&code_pte[0] = PAGE(~i & 1) | PTE_ALL;
        write_cr3(read_cr3());
    }
    map_back(0);
}

// Code that runs on from one page into the next without a jump, with an instruction on the border or not.
static void straight_on(void)
{
    for (unsigned before = 0; before < 4; before++) {
        u8 *at = code + 4096 - before - 5;
        PUT(at, 0xb9, 1, 0, 0, 0); // MOV ECX, 1
        put_return(at + 5, OLD);
        put_bytes(flat + 2 * 4096, flat + 4096, 64);
        put_bytes(flat + 2 * 4096 + 4 - before, (const u8 *)&(u32){0x55}, 1); // the immediate's last byte
        for (unsigned i = 0; i < 6; i++) {
            CHECK_EQ(call(at), i & 1 ? 0x55111111 : OLD);
            map(1, PAGE(i & 1 ? 1 : 2) | PTE_ALL);
        }
        map_back(1);
    }
}

// A CALL whose bytes reach the page's end or beyond it, and whose callee lets the page behind be another: MOV [RDI], RDX; INVLPG [RBX]; RET.
static void call_on_border(void)
{
    PUT(flat + 0x100, 0x48, 0x89, 0x17, 0x0f, 0x01, 0x3b, 0xc3);
    for (unsigned before = 1; before < 6; before++) {
        u8 *at = flat + 4096 - before;
        at[0] = 0xe8;
        __builtin_memcpy(at + 1, &(i32){(i32)(0x100 - (4096 - before + 5))}, 4);
        put_bytes(flat + 8192, flat + 4096, 64);
        put_return(at + 5, OLD);
        put_return(flat + 8192 + 5 - before, NEW);
        for (unsigned i = 0; i < 8; i++) {
            u64 got;
            __asm__ volatile("call *%1"
                             : "=a"(got)
                             : "r"(code + 4096 - before), "D"(&code_pte[1]), "d"(PAGE(i & 1 ? 1 : 2) | PTE_ALL),
                               "b"(code + 4096)
                             : "rcx", "memory", "cc");
            CHECK_EQ(got, i & 1 ? OLD : NEW);
        }
        map_back(1);
    }
}

// The bytes of an instruction that crosses into the next page are written to, in either page, also by way of another address; and it is
// run at two addresses, behind one of which is another page.
static void written_on_border(void)
{
    for (unsigned before = 1; before < 5; before++) {
        u8 *at = flat + 4096 - before;
        put_return(at, OLD);
        put_bytes(flat + 8192, flat + 4096, 16);
        flat[8192 + 4 - before] = 0x77; // the immediate's last byte
        alias_pte[1] = PAGE(2) | PTE_ALL;
        invlpg(alias + 4096);
        for (unsigned i = 0; i < 6; i++) {
            CHECK_EQ(call(code + 4096 - before), 0x11111111 ^ i << 24);
            CHECK_EQ(call(alias + 4096 - before), 0x77111111);
            ((volatile u8 *)flat)[4096 + 4 - before] = (u8)(0x11 ^ (i + 1));
            serialize();
        }
        for (unsigned i = 0; i < 4; i++) {
            ((volatile u8 *)at)[0] = i & 1 ? 0xb8 : 0xb9; // MOV EAX, MOV ECX
            serialize();
            if (i & 1)
                CHECK_EQ(call(code + 4096 - before), 0x17111111);
            else
                CHECK(call(code + 4096 - before) != 0x17111111);
        }
        alias_pte[1] = PAGE(1) | PTE_ALL;
        invlpg(alias + 4096);
    }
}

// A loop over two pages, the second of which changes while it runs: the first calls `swap` once a round.
static unsigned rounds;
__attribute__((used)) static void swap(void)
{
    rounds++;
    map(1, PAGE(rounds & 1 ? 2 : 1) | PTE_ALL);
}

static void loop_over_pages(void)
{
    // Page 0: L: CALL RSI; JMP page 1. Page 1 and 2: ADD EBX, n; DEC EBP; JNZ L; RET
    PUT(code, 0xff, 0xd6, 0xe9, 0xf9, 0x0f, 0x00, 0x00);
    PUT(flat + 4096, 0x83, 0xc3, 1, 0xff, 0xcd, 0x0f, 0x85, 0xf5, 0xef, 0xff, 0xff, 0xc3);
    PUT(flat + 8192, 0x83, 0xc3, 100, 0xff, 0xcd, 0x0f, 0x85, 0xf5, 0xef, 0xff, 0xff, 0xc3);
    u64 sum;
    rounds = 0;
    __asm__ volatile("push %%rbp; mov $1000, %%ebp; xor %%ebx, %%ebx; call *%1; pop %%rbp"
                     : "=&b"(sum)
                     : "D"(code), "S"(swap)
                     : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
    CHECK_EQ(sum, 500 * 101);
    map_back(1);
}

// The page that a call comes from is another when it returns.
static void return_elsewhere(void)
{
    for (unsigned i = 0; i < 4; i++) {
        // CALL RSI; MOV EAX, imm32; RET
        PUT(flat, 0x51, 0xff, 0xd6, 0x59, 0xb8, 1, 0, 0, 0, 0xc3);
        PUT(flat + 4096, 0x51, 0xff, 0xd6, 0x59, 0xb8, 2, 0, 0, 0, 0xc3);
        u32 got;
        map(0, PAGE(0) | PTE_ALL);
        // The function called: MOV [RDI], RDX; INVLPG [RBX]; RET
        PUT(flat + 3 * 4096, 0x48, 0x89, 0x17, 0x0f, 0x01, 0x3b, 0xc3);
        __asm__ volatile("call *%1"
                         : "=a"(got)
                         : "r"(code), "S"(flat + 3 * 4096), "D"(&code_pte[0]), "d"(PAGE(1) | PTE_ALL), "b"(code)
                         : "rcx", "memory", "cc");
        CHECK_EQ(got, 2);
        __asm__ volatile("call *%1"
                         : "=a"(got)
                         : "r"(code), "S"(flat + 3 * 4096), "D"(&code_pte[0]), "d"(PAGE(0) | PTE_ALL), "b"(code)
                         : "rcx", "memory", "cc");
        CHECK_EQ(got, 1);
    }
    map_back(0);
}

// Large pages: code runs in a 2 MiB page, which is split and leads elsewhere, and joined again.
static void split_and_join(void)
{
    u64 region = 0x50000000, *table = table_page();
    pte_of(region);
    u64 *pd = (u64 *)(read_cr3() & ~0xfffull);
    pd = (u64 *)(pd[0] & ~0xfffull);
    pd = (u64 *)(pd[region >> 30] & ~0xfffull);
    volatile u64 *entry = &pd[region >> 21 & 511];
    u64 saved = *entry;
    for (unsigned i = 0; i < 512; i++)
        table[i] = PAGE(i) | PTE_ALL;
    table[0] = PAGE(1) | PTE_ALL;
    put_pair(0, 1, 0x20);
    for (unsigned i = 0; i < 8; i++) {
        *entry = i & 1 ? (u64)table | PTE_ALL : PHYS | PTE_ALL | PTE_PS;
        invlpg((void *)(region + 0x20));
        CHECK_EQ(call((void *)(region + 0x20)), i & 1 ? NEW : OLD);
    }
    *entry = saved;
    write_cr3(read_cr3());
}

// --- by the code itself -------------------------------------------------------------------------------------------------

// In page 0: MOV [RDI], RDX; INVLPG [RBX]; then what is in the page now. CR3 likewise.
static u32 call_self(const void *fn, const void *rdi, u64 rdx)
{
    u64 result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(fn), "D"(rdi), "d"(rdx), "b"(code) : "rcx", "memory", "cc");
    return (u32)result;
}

static void remaps_itself(void)
{
    static const u8 head[] = {0x48, 0x89, 0x17, 0x0f, 0x01, 0x3b};
    for (unsigned gap = 0; gap < 3; gap++) { // instructions between
        for (unsigned page = 0; page < 2; page++) {
            u8 *at = flat + page * 4096;
            put_bytes(at, head, sizeof head);
            PUT(at + 6, 0x90, 0x90, 0x90);
            put_return(at + 6 + gap, page ? NEW : OLD);
        }
        for (unsigned i = 0; i < 6; i++)
            CHECK_EQ(call_self(code, &code_pte[0], PAGE(~i & 1) | PTE_ALL), i & 1 ? OLD : NEW);
    }
    map_back(0);
}

__attribute__((noinline)) static void vanish(u64 entry)
{
    TRY(call_self(code, &code_pte[0], entry));
}

static void makes_itself_vanish(void)
{
    static const struct {
        u64 entry;
        u32 error;
    } ways[] = {{0, 16}, {PAGE(0) | PTE_ALL | PTE_NX, 17}};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < 3; k++) {
            PUT(flat, 0x48, 0x89, 0x17, 0x0f, 0x01, 0x3b, 0xb8, 1, 0, 0, 0, 0xc3);
            vanish(ways[i].entry);
            CHECK_TRAP_ERR(14, ways[i].error);
            CHECK_EQ(trap.ip, (word)code + 6);
            CHECK_EQ(trap.cr2, (word)code + 6);
            CHECK_EQ(call_self(flat, &code_pte[0], PAGE(0) | PTE_ALL), 1); // and back, from where it is mapped
            CHECK_EQ(call_self(code, &code_pte[0], PAGE(0) | PTE_ALL), 1);
        }
    map_back(0);
}

// --- address spaces -----------------------------------------------------------------------------------------------------

// Another address space, like the first but for the first page of the window.
static u64 *other_pte;
static u64 make_space(void)
{
    u64 top = other_space(&other_pte);
    for (unsigned i = 0; i < CODE_PAGES; i++)
        other_pte[i] = PAGE(i) | PTE_ALL;
    other_pte[0] = PAGE(1) | PTE_ALL;
    return top;
}

static void switch_spaces(u64 first, u64 second)
{
    put_pair(0, 1, 0x30);
    for (unsigned i = 0; i < 6; i++) {
        write_cr3(second);
        u32 b = call(code + 0x30);
        write_cr3(first);
        u32 a = call(code + 0x30);
        CHECK_EQ(a, OLD);
        CHECK_EQ(b, NEW);
    }
    // The other way round: what is at 0x30 changes in the space that is not in use.
    put_pair(1, 0, 0x30);
    u32 a = call(code + 0x30);
    write_cr3(second);
    u32 b = call(code + 0x30);
    write_cr3(first);
    CHECK_EQ(a, NEW);
    CHECK_EQ(b, OLD);
}

// MOV CR3, RDX in the window: the next instruction is the other space's.
static void switches_itself(u64 first, u64 second)
{
    for (unsigned page = 0; page < 2; page++) {
        PUT(flat + page * 4096 + 0x40, 0x0f, 0x22, 0xda); // MOV CR3, RDX
        put_return(flat + page * 4096 + 0x43, page ? NEW : OLD);
    }
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQ(call_self(code + 0x40, NULL, i & 1 ? first : second), i & 1 ? OLD : NEW);
}

static void spaces(void)
{
    u64 first = read_cr3(), second = make_space();
    switch_spaces(first, second);
    switches_itself(first, second);
    if (!has_pcid())
        return;
    write_cr4(read_cr4() | CR4_PCIDE);
    switch_spaces(first | 1, second | 2); // each forgets what it knew
    switches_itself(first | 1, second | 2);
    switch_spaces(first | 1 | NOFLUSH, second | 2 | NOFLUSH);
    switches_itself(first | 1 | NOFLUSH, second | 2 | NOFLUSH);
    // The same tables under another identifier; and one identifier for both, with what was known of the other.
    switch_spaces(first | 3, second | 1);
    switch_spaces(first | 4, second | 4);
    // A page changes in a space that is not in use: INVPCID of that page, of that space, of everything.
    put_pair(0, 1, 0x30);
    for (unsigned type = 0; type < 4 && (leaf7[1] >> 10 & 1); type++) {
        struct {
            u64 pcid, linear;
        } d = {type < 2 ? 2 : 0, WINDOW};
        write_cr3(second | 2);
        u32 a = call(code + 0x30);
        write_cr3(first | 1 | NOFLUSH);
        *(volatile u64 *)&other_pte[0] = PAGE(0) | PTE_ALL;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"((u64)type) : "memory");
        write_cr3(second | 2 | NOFLUSH);
        u32 b = call(code + 0x30);
        write_cr3(first);
        *(volatile u64 *)&other_pte[0] = PAGE(1) | PTE_ALL;
        CHECK_EQ(a, NEW);
        CHECK_EQ(b, OLD);
    }
    write_cr3(first);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

// Global pages stay over CR3, and go by INVLPG and by CR4.PGE.
static void global_pages(void)
{
    u64 first = read_cr3(), second = make_space();
    put_pair(0, 1, 0x50);
    for (unsigned i = 0; i < 3; i++) {
        write_cr4(read_cr4() | CR4_PGE);
        map(0, PAGE(0) | PTE_ALL | PTE_G);
        other_pte[0] = PAGE(0) | PTE_ALL | PTE_G;
        u32 a = call(code + 0x50);
        write_cr3(second);
        u32 b = call(code + 0x50);
        *(volatile u64 *)&other_pte[0] = PAGE(1) | PTE_ALL | PTE_G;
        invlpg(code);
        u32 c = call(code + 0x50);
        *(volatile u64 *)&other_pte[0] = PAGE(0) | PTE_ALL | PTE_G;
        write_cr4(read_cr4() & ~CR4_PGE);
        u32 d = call(code + 0x50);
        write_cr3(first);
        CHECK_EQ(a, OLD);
        CHECK_EQ(b, OLD);
        CHECK_EQ(c, NEW);
        CHECK_EQ(d, OLD);
    }
    map_back(0);
}

// --- permissions --------------------------------------------------------------------------------------------------------

static void not_executable(void)
{
    put_return(code + 0x60, OLD);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(call(code + 0x60), OLD);
        map(0, PAGE(0) | PTE_ALL | PTE_NX);
        try_call(code + 0x60);
        CHECK_TRAP_ERR(14, 17);
        CHECK_EQ(trap.ip, (word)code + 0x60);
        CHECK_EQ(*(volatile u8 *)(code + 0x60), 0xb8);
        map_back(0);
        CHECK_EQ(call(code + 0x60), OLD);
        map(0, 0);
        try_call(code + 0x60);
        CHECK_TRAP_ERR(14, 16);
        map(0, PAGE(0) | PTE_P); // read-only does not matter
        CHECK_EQ(call(code + 0x60), OLD);
        map_back(0);
    }
    // On the second page of an instruction, and on the second page of straight code.
    for (unsigned before = 1; before < 6; before++) {
        u8 *at = code + 4096 - before;
        put_return(at, NEW);
        for (unsigned i = 0; i < 2; i++) {
            CHECK_EQ(call(at), NEW);
            map(1, i ? 0 : PAGE(1) | PTE_ALL | PTE_NX);
            try_call(at);
            CHECK_TRAP_ERR(14, i ? 16 : 17);
            CHECK_EQ(trap.cr2, (word)code + 4096);
            CHECK_EQ(trap.ip, before == 5 ? (word)code + 4096 : (word)at);
            map_back(1);
        }
    }
}

USER static word user_call(word at)
{
    return call((const void *)at);
}

// Rings 0 and 3 share a page; it is closed to one and the other.
static void user_and_supervisor(void)
{
    put_return(code + 0x70, OLD);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(call(code + 0x70), OLD);
        run_user(user_call, (word)code + 0x70);
        CHECK_TRAP(0x80);
        CHECK_EQ(user_result, OLD);
        map(0, PAGE(0) | PTE_P | PTE_W);
        run_user(user_call, (word)code + 0x70);
        CHECK_TRAP_ERR(14, 21);
        CHECK_EQ(trap.ip, (word)code + 0x70);
        CHECK_EQ(call(code + 0x70), OLD);
        map_back(0);
        run_user(user_call, (word)code + 0x70);
        CHECK_EQ(user_result, OLD);
    }
    if (!(leaf7[1] >> 7 & 1))
        return;
    kernel_only();
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(call(code + 0x70), OLD);
        write_cr4(read_cr4() | CR4_SMEP);
        try_call(code + 0x70);
        CHECK_TRAP_ERR(14, 17);
        run_user(user_call, (word)code + 0x70);
        CHECK_TRAP(0x80);
        CHECK_EQ(user_result, OLD);
        map(0, PAGE(0) | PTE_P | PTE_W);
        CHECK_EQ(call(code + 0x70), OLD);
        map_back(0);
        try_call(code + 0x70);
        CHECK_TRAP_ERR(14, 17);
        write_cr4(read_cr4() & ~CR4_SMEP);
    }
}

// Hot loads and stores meet addresses that are not canonical, near both ends of the hole and of what the upper bits can be.
__attribute__((noinline)) static void access(const void *fn, u64 at)
{
    TRY(__asm__ volatile("call *%0" ::"r"(fn), "D"(at) : "rax", "memory", "cc"));
}

static void not_canonical(void)
{
    static const u64 bad[] = {0x8000000000000000, 0x8000000000000001, 0x8000000000001001, 0x80000000001ff008,
                              0x0000800000000000, 0x00007ffffffffffd, 0xffff7fffffffffff, 0x7fffffffffffffff,
                              0xdead000000000100, 0xfffe000000000ff8};
    PUT(code + 0x80, 0x03, 0x07, 0xc3);                   // ADD EAX, [RDI]
    PUT(code + 0x90, 0x89, 0x07, 0xc3);                   // MOV [RDI], EAX
    PUT(code + 0xa0, 0x0f, 0x10, 0x07, 0xc3);             // MOVUPS XMM0, [RDI]
    PUT(code + 0xb0, 0xff, 0xe7);                         // JMP RDI
    PUT(code + 0xc0, 0xf0, 0x0f, 0xc1, 0x07, 0x90, 0xc3); // LOCK XADD [RDI], EAX
    for (unsigned k = 0; k < 5; k++)
        for (unsigned i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
            u8 *at = code + 0x80 + 0x10 * k;
            if (k != 3) {
                access(at, (u64)flat + 0x800); // as it ought to be
                CHECK_TRAP(-1);
            }
            if (k == 3 && bad[i / 2] == 0x00007ffffffffffd) // a place to jump to, if not to read four bytes from
                continue;
            access(at, bad[i / 2]);
            CHECK(trap.vector == 13 && trap.error == 0 && trap.ip == (word)at);
        }
}

// --- one page at two addresses ------------------------------------------------------------------------------------------

// What the code does depends on where it is: CALL's return address, RIP-relative data and LEA, relative jumps out of the page.
static void two_addresses(void)
{
    // LEA RAX, [RIP]; CALL +0; POP RCX; SUB RCX, RAX (5); MOV RDX, [RIP + 0xff2] (0x1000 on); RET
    PUT(flat, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x59, 0x48, 0x29, 0xc1, 0x48, 0x8b, 0x15, 0xe9, 0x0f, 0,
        0, 0xc3);
    *(u64 *)(flat + 4096) = 0x1111;
    *(u64 *)(flat + 2 * 4096) = 0x2222;
    alias_pte[1] = PAGE(2) | PTE_ALL;
    invlpg(alias + 4096);
    for (unsigned i = 0; i < 6; i++) {
        u8 *at = i & 1 ? alias : code;
        u64 a, c, d;
        __asm__ volatile("call *%3" : "=&a"(a), "=&c"(c), "=&d"(d) : "r"(at) : "memory", "cc");
        CHECK_EQ(a, (u64)at + 7);
        CHECK_EQ(c, 5);
        CHECK_EQ(d, i & 1 ? 0x2222 : 0x1111);
    }
    // JMP +0x1000: to code + 0x1020 or alias + 0x1020, which are different pages.
    PUT(flat + 0x20, 0xe9, 0xfb, 0x0f, 0, 0);
    put_return(flat + 0x1020, OLD);
    put_return(flat + 0x2020, NEW);
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQ(call((i & 1 ? alias : code) + 0x20), i & 1 ? NEW : OLD);
    // A trap in it, at either address.
    PUT(flat + 0x30, 0x90, 0x0f, 0x0b);
    for (unsigned i = 0; i < 4; i++) {
        u8 *at = i & 1 ? alias : code;
        try_call(at + 0x30);
        CHECK_TRAP(6);
        CHECK_EQ(trap.ip, (word)at + 0x31);
    }
    alias_pte[1] = PAGE(1) | PTE_ALL;
    invlpg(alias + 4096);
}

void guest_main(void)
{
    code_init();
    cpuid(1, 0, features);
    cpuid(7, 0, leaf7);
    remap_again_and_again();
    straight_on();
    call_on_border();
    written_on_border();
    loop_over_pages();
    return_elsewhere();
    split_and_join();
    remaps_itself();
    makes_itself_vanish();
    spaces();
    global_pages();
    not_executable();
    two_addresses();
    not_canonical();
    user_and_supervisor();
}
