// One and the same instruction that meets plain memory, a page's end, memory beside code, code, a device, and pages that are absent or
// read-only: for long in a row, and then another of these. An engine may learn from what an instruction has met; what it does must not change.
//
// The device is the local APIC's logical destination register, whose upper eight bits can be written.
//
// QEMU's TCG reports a page fault of a read-modify-write across pages as one of its read, and writes half of a vector of which the other half
// faults: 44 checks.
#include "code.h"

const char guest_name[] = "adapt64";

#define LAPIC 0xfee00000ul
#define LDR 0xd0
#define ICR 0x300
#define CR0_WP 0x10000ul
#define ROUNDS 40u

// Pages of the window, and what is there.
enum { CODE_PAGE, PLAIN, BEHIND, DEVICE, BEFORE, ABSENT, AFTER, READ_ONLY };
static const u8 sheet[CODE_PAGES] = {0, 1, 5, 0, 4, 0, 6, 7}; // BEHIND is not behind PLAIN in memory

static u64 seed = 88172645463325252ull;

static u32 rnd(u32 below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 32) % below;
}

static u8 *linear(unsigned page, unsigned off)
{
    return code + page * 4096 + off;
}

// Where a byte of the window is in memory, by another way.
static u8 *memory(const u8 *lin)
{
    unsigned at = (unsigned)(lin - code);
    return flat + sheet[at / 4096] * 4096 + at % 4096;
}

// --- the instructions -----------------------------------------------------------------------------------------------------------

// Each is a function: RDI the address, RAX a value, which it may replace.
#define OPS(OP) \
    OP(LOAD8, 1, false, "mov (%%rdi), %%al") \
    OP(LOAD8H, 1, false, "mov (%%rdi), %%ah") \
    OP(LOAD16, 2, false, "mov (%%rdi), %%ax") \
    OP(LOAD32, 4, false, "mov (%%rdi), %%eax") \
    OP(LOAD64, 8, false, "mov (%%rdi), %%rax") \
    OP(LOADX, 8, false, "mov (%%rdi), %%r10; mov %%r10, %%rax") \
    OP(LOADX32, 4, false, "mov (%%rdi), %%r15d; mov %%r15, %%rax") \
    OP(MOVZX16, 2, false, "movzwl (%%rdi), %%eax") \
    OP(MOVSX8, 1, false, "movsbq (%%rdi), %%rax") \
    OP(MOVSX16, 2, false, "movswl (%%rdi), %%eax") \
    OP(MOVSXD, 4, false, "movslq (%%rdi), %%rax") \
    OP(ADD, 8, false, "add (%%rdi), %%rax") \
    OP(ADD32, 4, false, "add (%%rdi), %%eax") \
    OP(CARRY, 4, false, "mov %%eax, %%edx; add %%edx, %%edx; mov (%%rdi), %%eax; adc $0, %%eax") \
    OP(MOVUPS, 16, false, \
       "movups (%%rdi), %%xmm0; movq %%xmm0, %%rax; psrldq $8, %%xmm0; movq %%xmm0, %%rdx; xor %%rdx, %%rax") \
    OP(PUSH, 8, false, "push (%%rdi); pop %%rax") \
    OP(STORE8, 1, true, "mov %%al, (%%rdi)") \
    OP(STORE8H, 1, true, "mov %%ah, (%%rdi)") \
    OP(STORE16, 2, true, "mov %%ax, (%%rdi)") \
    OP(STORE32, 4, true, "mov %%eax, (%%rdi)") \
    OP(STORE64, 8, true, "mov %%rax, (%%rdi)") \
    OP(STOREX, 8, true, "mov %%rax, %%r11; mov %%r11, (%%rdi)") \
    OP(STORE_IMM, 4, true, "movl $0x87654321, (%%rdi)") \
    OP(STORE_IMM64, 8, true, "movq $-0x12345678, (%%rdi)") \
    OP(ADD_TO, 8, true, "add %%rax, (%%rdi)") \
    OP(OR32_TO, 4, true, "or %%eax, (%%rdi)") \
    OP(XCHG32, 4, true, "xchg %%eax, (%%rdi)") \
    OP(MOVUPS_TO, 16, true, "movq %%rax, %%xmm0; punpcklqdq %%xmm0, %%xmm0; movups %%xmm0, (%%rdi)") \
    OP(POP, 8, true, "push %%rax; pop (%%rdi)")

enum op {
#define ENUM(name, size, writes, text) name,
    OPS(ENUM) OP_COUNT
};

static const struct {
    const char *name;
    u8 size;
    bool writes;
} ops[] = {
#define ROW(name, size, writes, text) {#name, size, writes},
    OPS(ROW)};

static u8 *function[OP_COUNT];

static void put_functions(void)
{
    u8 *at = code;
#define PLACE(name, size, writes, text) \
    function[name] = at; \
    at += PUT_ASM(at, text "; ret");
    OPS(PLACE)
    CHECK(at < code + 0x400);
}

static u64 run(const u8 *fn, const void *lin, u64 rax)
{
    __asm__ volatile("push %%r15; call *%[fn]; pop %%r15"
                     : "+a"(rax)
                     : "D"(lin), [fn] "b"(fn)
                     : "rdx", "r10", "r11", "memory", "cc");
    return rax;
}

static u64 get(const u8 *m, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size && i < 8; i++)
        v |= (u64)m[i] << 8 * i;
    return v;
}

static void set(u8 *m, unsigned size, u64 v)
{
    for (unsigned i = 0; i < size; i++)
        m[i] = (u8)(v >> 8 * (i & 7));
}

// What becomes of RAX, and of the operand.
static u64 model(enum op op, u8 *m, u64 rax)
{
    u64 v = get(m, ops[op].size);
    switch (op) {
    case LOAD8: return (rax & ~0xfful) | v;
    case LOAD8H: return (rax & ~0xff00ul) | v << 8;
    case LOAD16: return (rax & ~0xfffful) | v;
    case MOVSX8: return (u64)(i64)(signed char)v;
    case MOVSX16: return (u32)(i32)(short)v;
    case MOVSXD: return (u64)(i64)(i32)v;
    case ADD: return rax + v;
    case ADD32: return (u32)(rax + v);
    case CARRY: return (u32)(v + (rax >> 31 & 1));
    case MOVUPS: return v ^ get(m + 8, 8);
    case STORE8H: m[0] = (u8)(rax >> 8); return rax;
    case STORE_IMM: set(m, 4, 0x87654321); return rax;
    case STORE_IMM64: set(m, 8, (u64)-0x12345678l); return rax;
    case ADD_TO: set(m, 8, v + rax); return rax;
    case OR32_TO: set(m, 4, v | rax); return rax;
    case XCHG32: set(m, 4, rax); return v;
    default: break;
    }
    if (!ops[op].writes)
        return v;
    set(m, ops[op].size, rax);
    return rax;
}

// --- places ---------------------------------------------------------------------------------------------------------------------

enum place { IN_PAGE, ACROSS, BESIDE_CODE, ACROSS_FROM_CODE, AT_DEVICE, PLACES };

static u8 *choose(enum op op, enum place p)
{
    unsigned size = ops[op].size, before = size > 1 ? 1 + rnd(size - 1u) : 0;
    switch (p) {
    case ACROSS: return linear(PLAIN, 4096 - before);
    case BESIDE_CODE: return linear(CODE_PAGE, 0x800 + rnd(64) * 3);
    case ACROSS_FROM_CODE: return linear(CODE_PAGE, 4096 - before);
    case AT_DEVICE: return linear(DEVICE, LDR);
    default: return linear(PLAIN, 0x100 + rnd(256) * 3);
    }
}

static bool possible(enum op op, enum place p)
{
    return (p != AT_DEVICE || ops[op].size == 4) && ((p != ACROSS && p != ACROSS_FROM_CODE) || ops[op].size > 1);
}

static u32 ldr; // what the device holds

// One access to memory: is everything as it should be?
static bool right_in_memory(enum op op, const u8 *lin)
{
    u8 want[16];
    u64 rax = seed * 0x9e3779b97f4a7c15ull;
    bool right = true;
    for (unsigned i = 0; i < ops[op].size; i++)
        want[i] = *memory(lin + i);
    u64 result = model(op, want, rax);
    right &= run(function[op], lin, rax) == result;
    for (unsigned i = 0; i < ops[op].size; i++)
        right &= *(volatile u8 *)memory(lin + i) == want[i];
    return right;
}

static bool right_at_device(enum op op)
{
    u8 want[16];
    u64 rax = seed * 0x9e3779b97f4a7c15ull;
    set(want, 4, ldr);
    u64 result = model(op, want, rax);
    ldr = (u32)get(want, 4) & 0xff000000;
    return run(function[op], linear(DEVICE, LDR), rax) == result && *(volatile u32 *)(LAPIC + LDR) == ldr;
}

static bool right(enum op op, enum place p)
{
    return p == AT_DEVICE ? right_at_device(op) : right_in_memory(op, choose(op, p));
}

static void one_instruction(enum op op)
{
    unsigned wrong = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        enum place p = (enum place)rnd(PLACES);
        for (unsigned n = 1 + rnd(24); possible(op, p) && n; n--)
            wrong += !right(op, p);
        for (unsigned n = rnd(6); n; n--) {
            p = (enum place)rnd(PLACES);
            wrong += possible(op, p) && !right(op, p);
        }
    }
    check_at(!wrong, ops[op].name, 0, "%u accesses went wrong", wrong);
}

// --- faults ---------------------------------------------------------------------------------------------------------------------

__attribute__((noinline)) static void try_run(const u8 *fn, const u8 *lin)
{
    TRY(run(fn, lin, 0x5a5a5a5a5a5a5a5aull));
}

// `fault`: what CR2 is to be.
static void check_fault(enum op op, const u8 *lin, const u8 *fault, word error)
{
    u8 before[16], after[16];
    unsigned size = ops[op].size;
    for (unsigned i = 0; i < size; i++)
        before[i] = (u64)(lin + i) / 4096 != (u64)fault / 4096 ? *memory(lin + i) : 0;
    try_run(function[op], lin);
    CHECK_TRAP_ERR(14, error);
    check_at(trap.cr2 == (word)fault, ops[op].name, 0, "CR2 is %lx, not %lx", (u64)trap.cr2, (u64)fault);
    for (unsigned i = 0; i < size; i++)
        after[i] = (u64)(lin + i) / 4096 != (u64)fault / 4096 ? *memory(lin + i) : 0;
    for (unsigned i = 0; i < size; i++)
        check_at(before[i] == after[i], ops[op].name, 0, "half of it was written");
}

// The same instruction where all is well, and then where it is not.
static void faults(enum op op)
{
    unsigned size = ops[op].size, wrong = 0;
    word write = ops[op].writes ? 2 : 0;
    if (size == 1)
        return;
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned n = 0; n < 20; n++)
            wrong += !right(op, ACROSS);
        check_fault(op, linear(ABSENT, 0) - 1 - rnd(size - 1u), linear(ABSENT, 0), write);
        const u8 *lin = linear(AFTER, 0) - 1 - rnd(size - 1u);
        check_fault(op, lin, lin, write);
        if (write)
            check_fault(op, linear(READ_ONLY, 0) - 1 - rnd(size - 1u), linear(READ_ONLY, 0), 3);
        else
            wrong += !right_in_memory(op, linear(READ_ONLY, 0) - 1);
    }
    check_at(!wrong, ops[op].name, 0, "%u accesses went wrong", wrong);
}

// --- pages that change ------------------------------------------------------------------------------------------------------------

// A device where memory was, and the other way round: seen when the guest has said so.
static void device_comes_and_goes(void)
{
    unsigned wrong = 0;
    u8 *at = linear(BEFORE, LDR);
    for (unsigned round = 0; round < 24; round++) {
        u64 entry = round & 1 ? (PHYS + sheet[BEFORE] * 4096) | PTE_ALL : LAPIC | PTE_ALL;
        *(volatile u64 *)&code_pte[BEFORE] = entry;
        if (round & 2)
            write_cr3(read_cr3());
        else
            invlpg(at);
        for (unsigned n = 0; n < 20; n++) {
            u32 v = rnd(256) << 24;
            run(function[STORE32], at, v);
            wrong += run(function[LOAD32], at, 1) != v;
            if (round & 1)
                wrong += *(volatile u32 *)memory(at) != v;
            else
                wrong += *(volatile u32 *)(LAPIC + LDR) != v;
        }
    }
    CHECK_EQ(wrong, 0);
    ldr = *(volatile u32 *)(LAPIC + LDR);
    // Absent, and read-only.
    for (unsigned round = 0; round < 2; round++) {
        map(BEFORE, LAPIC | PTE_ALL);
        for (unsigned n = 0; n < 20; n++) {
            run(function[LOAD32], at, 0);
            run(function[STORE32], at, ldr);
        }
        map(BEFORE, LAPIC | PTE_P | PTE_U);
        CHECK_EQ(run(function[LOAD32], at, 0), ldr);
        try_run(function[STORE32], at);
        CHECK_TRAP_ERR(14, 3);
        CHECK_EQ(*(volatile u32 *)(LAPIC + LDR), ldr);
        map(BEFORE, 0);
        try_run(function[LOAD32], at);
        CHECK_TRAP_ERR(14, 0);
    }
    map_back(BEFORE);
}

// Stores of one instruction to what is beside code, and to code: a function that is called, and the store's own next instruction.
static void stores_to_code(void)
{
    unsigned wrong = 0;
    u8 *called = linear(CODE_PAGE, 0x600), *own = linear(CODE_PAGE, 0x680);
    put_return(called, 1);
    // MOV [RDI], EAX; MOV EAX, 1; RET
    PUT(own, 0x89, 0x07, 0xb8, 1, 0, 0, 0, 0xc3);
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned n = rnd(20); n; n--) {
            run(function[STORE32], linear(CODE_PAGE, 0x700 + rnd(64)), round);
            run(own, linear(CODE_PAGE, 0x780 + rnd(64)), round);
        }
        run(function[STORE32], called + 1, round);
        wrong += call(called) != round;
        wrong += run(own, own + 3, round) != round;
        run(function[STORE8], called + 4, 0x40);
        wrong += call(called) != (round | 0x40000000);
    }
    CHECK_EQ(wrong, 0);
}

// --- interrupts -------------------------------------------------------------------------------------------------------------------

static volatile u32 interrupts;

static bool count_interrupt(struct trap_frame *f)
{
    (void)f;
    interrupts++;
    *(volatile u32 *)(LAPIC + 0xb0) = 0;
    return true;
}

// The store that asks for an interrupt does nothing else, before and after.
static void interrupts_of_stores(void)
{
    unsigned late = 0;
    trap_handler[0x41] = count_interrupt;
    *(volatile u32 *)(LAPIC + 0x80) = 0;
    *(volatile u32 *)(LAPIC + 0xf0) = 0x1ff;
    __asm__ volatile("sti");
    for (u32 n = 1; n <= 100; n++) {
        run(function[STORE32], linear(DEVICE, ICR), 0x40041);
        for (unsigned wait = 0; interrupts != n && wait < 100000; wait++)
            __asm__ volatile("" ::: "memory");
        late += interrupts != n;
        run(function[STORE32], linear(DEVICE, LDR), ldr);
    }
    __asm__ volatile("cli");
    CHECK_EQ(late, 0);
    CHECK_EQ(interrupts, 100);
}

// --- ring 3 -----------------------------------------------------------------------------------------------------------------------

USER static word read_often(word lin)
{
    u64 sum = 0;
    for (unsigned n = 0; n < 30; n++)
        sum += *(volatile u64 *)lin;
    return sum;
}

static void user_across(void)
{
    u8 *lin = linear(PLAIN, 4093);
    u64 v = 0;
    for (unsigned i = 0; i < 8; i++)
        v |= (u64)*memory(lin + i) << 8 * i;
    for (unsigned round = 0; round < 3; round++) {
        run_user(read_often, (word)lin);
        CHECK_TRAP(0x80);
        CHECK_EQ(user_result, 30 * v);
        map(BEHIND, (PHYS + sheet[BEHIND] * 4096) | PTE_P | PTE_W);
        run_user(read_often, (word)lin);
        CHECK_TRAP_ERR(14, 5);
        CHECK_EQ(trap.cr2, (word)linear(BEHIND, 0));
        map(BEHIND, (PHYS + sheet[BEHIND] * 4096) | PTE_ALL);
    }
    map(DEVICE, LAPIC | PTE_P | PTE_W);
    run_user(read_often, (word)linear(DEVICE, LDR));
    CHECK_TRAP_ERR(14, 5);
    map(DEVICE, LAPIC | PTE_ALL);
}

void guest_main(void)
{
    code_init();
    put_functions();
    for (unsigned i = 0; i < CODE_PAGES; i++)
        map(i, (PHYS + sheet[i] * 4096) | PTE_ALL);
    map(DEVICE, LAPIC | PTE_ALL);
    map(ABSENT, 0);
    map(READ_ONLY, (PHYS + sheet[READ_ONLY] * 4096) | PTE_P | PTE_U);
    write_cr0(read_cr0() | CR0_WP);
    ldr = 0x12000000;
    *(volatile u32 *)(LAPIC + LDR) = ldr;
    for (unsigned op = 0; op < OP_COUNT; op++)
        one_instruction((enum op)op);
    for (unsigned op = 0; op < OP_COUNT; op++)
        faults((enum op)op);
    device_comes_and_goes();
    stores_to_code();
    interrupts_of_stores();
    user_across();
}
