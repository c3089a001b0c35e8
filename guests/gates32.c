// Calls to inner rings in 32-bit protected mode: call gates of both sizes with parameters between all rings, far returns out of
// them, conforming code, and bad inner stacks, met by calls, interrupts and faults.
//
// QEMU 7.2's TCG differs in 16 checks: error codes lack EXT (7), an absent inner SS is #TS instead of #SS (3), a frame outside the
// inner SS is stored all the same (3), and a call gate to conforming code leaves the gate's RPL in CS (3).
#include "rings32.h"

const char guest_name[] = "gates32";

#define GATE16 4
#define GATE32 12

BODY(body_plain, "lret");
BODY(body_4, "lret $16");
BODY(body_31, "lret $124");
BODY(body_words, "lretw $6");
BODY(body_iret, "iret");

static void set_call_gate(word target, u16 sel, unsigned dpl, unsigned params, unsigned type)
{
    gdt[SEL_GATE / 8] = (target & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
                        (u64)(target >> 16) << 48;
}

static word call_plain(word sel)
{
    struct far_ptr p = {0xdeadbeef, (u16)sel};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "eax");
    return 5;
}

static word jump(word sel)
{
    struct far_ptr p = {0xdeadbeef, (u16)sel};
    __asm__ volatile("ljmp *%0" ::"m"(p) : "memory", "eax");
    return 5;
}

// Push `count` parameters, 1 last; the gate's RET takes them off. The distance of ESP from where it was.
#define CALL_WITH(count) \
    static word call_##count(word sel) \
    { \
        struct far_ptr p = {0xdeadbeef, (u16)sel}; \
        word before, after; \
        __asm__ volatile("mov %%esp, %0; mov $" #count ", %%ecx; 1: push %%ecx; loop 1b; lcall *%2; mov %%esp, %1;" \
                         "mov %0, %%esp" \
                         : "=&b"(before), "=&S"(after) \
                         : "m"(p) \
                         : "memory", "eax", "ecx", "cc"); \
        return after - before; \
    }
CALL_WITH(4)
CALL_WITH(31)

// --- call gates ---------------------------------------------------------------------------------------------------------

static void check_params(unsigned from, unsigned to, unsigned count)
{
    CHECK_TRAP(LAND);
    CHECK_EQ(ring_result, 0);
    CHECK_EQ(landed.cs, RCODE(from));
    CHECK_EQ(seen_cs, RCODE(to));
    CHECK_EQ(seen_stack[1], RCODE(from));
    bool ok = true;
    for (unsigned i = 0; i < count; i++)
        ok = ok && seen_stack[2 + i] == i + 1;
    CHECK(ok);
    if (from == to)
        return;
    CHECK_EQ(seen_ss, RDATA(to));
    CHECK_EQ(seen_esp, INNER_TOP(to) - 16 - count * 4);
    CHECK(seen_stack[2 + count] > (word)ring_stack[from] && seen_stack[2 + count] < (word)ring_stack[from] + 1024);
    CHECK_EQ(seen_stack[3 + count], RDATA(from));
}

static void between_rings(void)
{
    for (unsigned from = 1; from < 4; from++) {
        for (unsigned to = 0; to <= from; to++) {
            set_call_gate((word)body_4, (u16)RCODE(to), from, 4, GATE32);
            run_ring(from, call_4, SEL_GATE | from);
            check_params(from, to, 4);
        }
        // Outwards there is no way by CALL.
        for (unsigned to = from + 1; to < 4; to++) {
            set_call_gate((word)body_4, (u16)RCODE(to), 3, 4, GATE32);
            run_ring(from, call_4, SEL_GATE | from);
            CHECK_TRAP_ERR(13, SEL(to));
        }
    }
    set_call_gate((word)body_31, (u16)RCODE(0), 3, 31, GATE32);
    run_ring(3, call_31, SEL_GATE | 3);
    check_params(3, 0, 31);
    // JMP goes no further in; on one level it is a jump.
    run_ring(3, jump, SEL_GATE | 3);
    CHECK_TRAP_ERR(13, SEL(0));
    set_call_gate((word)ring_return, (u16)RCODE(3), 3, 0, GATE32);
    run_ring(3, jump, SEL_GATE | 3);
    CHECK_TRAP(LAND);
    // A gate of ring 2 is not for ring 3, by CPL or by RPL.
    set_call_gate((word)body_4, (u16)RCODE(0), 2, 4, GATE32);
    run_ring(3, call_4, SEL_GATE);
    CHECK_TRAP_ERR(13, SEL_GATE);
    run_ring(2, call_4, SEL_GATE | 3);
    CHECK_TRAP_ERR(13, SEL_GATE);
    gdt[SEL_GATE / 8] &= ~(0x80ull << 40);
    run_ring(2, call_4, SEL_GATE);
    CHECK_TRAP_ERR(11, SEL_GATE);
}

// A 16-bit gate: words on the stack. Caller, body and the caller's stack need small offsets.
__asm__(".text\n"
        "words_caller: pushw $0x1111; pushw $0x2222; pushw $0x3333\n"
        "  lcall $0xa3, $0\n" // SEL_GATE | 3
        "  movl %esp, %eax\n"
        "  int $0x90\n");
extern u8 words_caller[];

static void sixteen_bits(void)
{
    set_desc(SEL_X, (word)words_caller, 0xffff, 0x40fb);
    set_desc(SEL_Y, (word)ring_stack[3], 0xffff, 0x40f3);
    set_desc(SEL_Z, (word)body_words, 0xffff, 0x409b);
    set_call_gate(0, SEL_Z, 3, 3, GATE16);
    TRY(__asm__ volatile(
        "mov %0, %%ds; mov %0, %%es; push %1; push $0x300; push $2; push %2; push $0; iret" ::"r"(RDATA(3)),
        "r"(SEL_Y | 3), "r"(SEL_X | 3)
        : "memory"));
    CHECK_TRAP(LAND);
    CHECK_EQ(ring_result, 0x300);
    CHECK_EQ(seen_cs, SEL_Z);
    CHECK_EQ(seen_esp, INNER_TOP(0) - 14);
    const u16 *words = (const u16 *)seen_stack;
    CHECK(words[0] > 0 && words[0] < 32);
    CHECK_EQ(words[1], SEL_X | 3);
    CHECK_EQ(words[2], 0x3333);
    CHECK_EQ(words[3], 0x2222);
    CHECK_EQ(words[4], 0x1111);
    CHECK_EQ(words[5], 0x300 - 6);
    CHECK_EQ(words[6], SEL_Y | 3);
}

static word call_body(word sel)
{
    struct far_ptr p = {(word)body_plain, (u16)sel};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "eax");
    return 5;
}

// Conforming code runs at the caller's level, which shows in CS.
static void conforming(void)
{
    set_desc(SEL_X, 0, 0xfffff, 0xc09f);
    for (unsigned ring = 1; ring < 4; ring++) {
        run_ring(ring, call_body, SEL_X);
        CHECK_TRAP(LAND);
        CHECK_EQ(seen_cs, SEL_X | ring);
        CHECK_EQ(seen_ss, RDATA(ring));
        set_call_gate((word)body_plain, SEL_X, 3, 0, GATE32);
        run_ring(ring, call_plain, SEL_GATE);
        CHECK_TRAP(LAND);
        CHECK_EQ(seen_cs, SEL_X | ring);
        CHECK_EQ(seen_ss, RDATA(ring));
    }
    set_desc(SEL_X, 0, 0xfffff, 0xc0df); // DPL 2
    run_ring(1, call_body, SEL_X);
    CHECK_TRAP_ERR(13, SEL_X);
}

// --- bad inner stacks ---------------------------------------------------------------------------------------------------

static word raise_int(word arg)
{
    __asm__ volatile("int $0x91" ::: "memory");
    return arg;
}

static word raise_ud(word arg)
{
    __asm__ volatile("ud2");
    return arg;
}

// Ring 1's stack is the bad one, so that ring 0 can take the fault.
static void expect_ss1(u16 ss1, int vector, word error)
{
    tss.ss1 = ss1;
    set_call_gate((word)body_plain, (u16)RCODE(1), 3, 0, GATE32);
    run_ring(3, call_plain, SEL_GATE);
    CHECK_TRAP_ERR(vector, error);
    CHECK_EQ(trap.cs, RCODE(3));
    set_gate(VEC, (word)body_iret, (u16)RCODE(1), INT32, 3, 0);
    run_ring(3, raise_int, 0);
    CHECK_TRAP_ERR(vector, error);
    set_gate(6, (word)ring_return, (u16)RCODE(1), INT32, 0, 0);
    run_ring(3, raise_ud, 0);
    CHECK_TRAP_ERR(vector, error | 1); // a fault is an event from outside the program
    reset_gate(6);
    tss.ss1 = RDATA(1);
}

static void bad_stacks(void)
{
    expect_ss1(0, 10, 0);
    expect_ss1(GDT_ENTRIES * 8 | 1, 10, GDT_ENTRIES * 8);
    expect_ss1(RDATA(1) & ~3, 10, SEL(5));  // RPL
    expect_ss1(SEL_DATA | 1, 10, SEL_DATA); // DPL
    expect_ss1(RCODE(1), 10, SEL(1));       // code
    set_desc(SEL_X, 0, 0xfffff, 0xc0b1);    // read-only
    expect_ss1(SEL_X | 1, 10, SEL_X);
    set_desc(SEL_X, 0, 0xfffff, 0xc033); // not present
    expect_ss1(SEL_X | 1, 12, SEL_X);
    set_desc(SEL_X, 0, 0xff, 0x40b3); // ESP1 is outside
    expect_ss1(SEL_X | 1, 12, SEL_X);
    // SS1 outside the TSS.
    set_desc(SEL_TSS, (word)&tss, 16, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    expect_ss1(RDATA(1), 10, SEL_TSS);
    set_desc(SEL_TSS, (word)&tss, sizeof tss - 1, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
}

void guest_main(void)
{
    rings_init();
    between_rings();
    sixteen_bits();
    conforming();
    bad_stacks();
}
