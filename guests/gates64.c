// Gates in long mode: interrupt and trap gates with every check of the gate and of its code segment, IST and stack alignment,
// conforming handlers, 16-byte call gates, and IRETQ to all kinds of targets. Error codes with their IDT and EXT bits.
//
// QEMU 7.2's TCG differs in 34 checks: the vector in an error code is multiplied by 16 (23), IST nulls SS also when the level
// stays (7), EXT is missing from #GP for the handler's code segment and target (2), and INT1 is unknown (2).
#include "guest.h"

const char guest_name[] = "gates64";

#define SEL(n) (SEL_FREE + 8 * (n))
#define VEC 0x90
#define IDT_ERR(v) ((v)*8 + 2)
#define NON_CANONICAL 0x0000900000000000ull
#define A_CODE64 0xa09b // present, DPL 0, readable, L
#define A_CODE32 0xc09b
#define A_DATA 0xc093
#define NOT_PRESENT 0x80

static u8 ist_stack[4096] __attribute__((aligned(16)));
static struct trap_frame seen; // of the last trap through VEC
static word seen_at, seen_flags, seen_ss;

static bool note(struct trap_frame *f)
{
    seen = *f;
    seen_at = (word)&f->ip;
    seen_flags = read_flags();
    __asm__ volatile("mov %%ss, %0" : "=r"(seen_ss));
    return true;
}

static u16 put(unsigned n, u32 attr)
{
    gdt[SEL(n) / 8] = make_desc(0, 0xfffff, attr);
    return (u16)SEL(n);
}

static void gate_to(u16 sel, unsigned type, unsigned dpl, unsigned ist)
{
    set_gate(VEC, (word)gate_stub(VEC), sel, type, dpl, ist);
}

__attribute__((noinline)) static void fire(void)
{
    TRY(__asm__ volatile("int %0" ::"i"(VEC) : "memory"));
}

USER static word user_fire(word arg)
{
    __asm__ volatile("int %0" ::"i"(VEC) : "memory");
    return arg;
}

// --- what delivery does -------------------------------------------------------------------------------------------------

static void flags_by_gate_type(void)
{
    word after;
    for (unsigned type = 14; type < 16; type++) {
        gate_to(SEL_CODE, type, 0, 0);
        __asm__ volatile("push $0x246; popf; stc; int %1; pushf; cli; pop %0"
                         : "=r"(after)
                         : "i"(VEC)
                         : "memory", "cc");
        CHECK_EQ(after & 0xfff, 0x247); // IRET brought them back
        CHECK_EQ(seen.flags & 0xfff, 0x247);
        CHECK_EQ(seen_flags & 0x200, type == 15 ? 0x200 : 0);
        CHECK_EQ(seen.cs, SEL_CODE);
        CHECK_EQ(seen.ss, SEL_DATA);
        CHECK_EQ(seen_ss, SEL_DATA); // same level: SS stays
    }
    gate_to(SEL_CODE, 14, 0, 0);
    __asm__ volatile("push $0x4002; popf; int %1; pushf; push $2; popf; pop %0"
                     : "=r"(after)
                     : "i"(VEC)
                     : "memory", "cc");
    CHECK(seen.flags & 0x4000);
    CHECK(!(seen_flags & 0x4000)); // NT is cleared for the handler
    CHECK(after & 0x4000);
}

// The frame is 16-byte aligned, wherever RSP was, and RSP comes back as it was.
static void alignment(void)
{
    gate_to(SEL_CODE, 14, 0, 0);
    for (unsigned i = 0; i < 16; i++) {
        word before, after;
        __asm__ volatile("mov %%rsp, %%rbx\n"
                         "sub $256, %%rsp\n"
                         "sub %2, %%rsp\n"
                         "mov %%rsp, %0\n"
                         "int %3\n"
                         "mov %%rsp, %1\n"
                         "mov %%rbx, %%rsp\n"
                         : "=&r"(before), "=&r"(after)
                         : "r"((word)i), "i"(VEC)
                         : "rbx", "memory", "cc");
        CHECK_EQ(seen.sp, before);
        CHECK_EQ(after, before);
        CHECK_EQ(seen_at + 40, before & ~15ull);
    }
}

static void stacks(void)
{
    word top = (word)ist_stack + sizeof ist_stack;
    // From ring 3: RSP0; SS is null, its RPL the new level.
    gate_to(SEL_CODE, 14, 3, 0);
    run_user(user_fire, 1);
    CHECK_TRAP(0x80);
    CHECK_EQ(seen_at + 40, (word)trap_stack + sizeof trap_stack);
    CHECK_EQ(seen_ss, 0);
    CHECK_EQ(seen.ss, SEL_UDATA);
    CHECK_EQ(seen.cs, SEL_UCODE);
    // IST, from both levels, and aligned down.
    for (unsigned ist = 1; ist < 8; ist++) {
        for (unsigned i = 0; i < 7; i++)
            tss.ist[i] = NON_CANONICAL;
        tss.ist[ist - 1] = top - 64 * ist - 7;
        gate_to(SEL_CODE, 14, 3, ist);
        fire();
        CHECK_TRAP(VEC);
        CHECK_EQ(seen_at + 40, top - 64 * ist - 16);
        CHECK_EQ(seen_ss, SEL_DATA);
        run_user(user_fire, 1);
        CHECK_EQ(seen_at + 40, top - 64 * ist - 16);
        CHECK_EQ(seen_ss, 0);
    }
    // Bad stacks: with #SS's own IST entry, so that it can be delivered.
    tss.ist[0] = top;
    tss.ist[1] = NON_CANONICAL;
    set_gate(12, (word)gate_stub(12), SEL_CODE, 14, 0, 1);
    gate_to(SEL_CODE, 14, 3, 2);
    fire();
    CHECK_TRAP_ERR(12, 0);
    run_user(user_fire, 1);
    CHECK_TRAP_ERR(12, 0);
    gate_to(SEL_CODE, 14, 3, 0);
    word rsp0 = tss.rsp[0];
    tss.rsp[0] = NON_CANONICAL;
    run_user(user_fire, 1);
    tss.rsp[0] = rsp0;
    CHECK_TRAP_ERR(12, 0);
    CHECK_EQ(trap.cs, SEL_UCODE);
    reset_gate(12);
}

// A handler in conforming code runs at the interrupted level, on its stack.
__attribute__((naked)) USER static void conforming_handler(void)
{
    __asm__ volatile("mov %cs, %eax; mov %ss, %edx; iretq");
}

USER static word user_conforming(word arg)
{
    word cs, ss;
    __asm__ volatile("int %2" : "=a"(cs), "=d"(ss) : "i"(VEC) : "memory");
    return cs << 16 | ss | arg;
}

static void conforming(void)
{
    set_gate(VEC, (word)conforming_handler, put(0, A_CODE64 | 4), 14, 3, 0);
    run_user(user_conforming, 0);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, (SEL(0) | 3) << 16 | SEL_UDATA);
}

// --- what it checks -----------------------------------------------------------------------------------------------------

static void gate_checks(void)
{
    static const u8 wrong_types[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
    gate_to(SEL_CODE, 14, 0, 0);
    run_user(user_fire, 1); // DPL 0
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    fire();
    CHECK_TRAP(VEC);
    for (unsigned i = 0; i < sizeof wrong_types; i++) {
        gate_to(SEL_CODE, wrong_types[i], 3, 0);
        fire();
        CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    }
    gate_to(SEL_CODE, 0x10 | 14, 3, 0); // S
    fire();
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    gate_to(SEL_CODE, 14, 0, 0);
    gate_absent(VEC);
    fire();
    CHECK_TRAP_ERR(11, IDT_ERR(VEC));
    run_user(user_fire, 1); // DPL comes before presence
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    set_gate(VEC, NON_CANONICAL, SEL_CODE, 14, 0, 0);
    fire();
    CHECK_TRAP_ERR(13, 0);
    // The limit of the IDT counts in 16-byte entries, the error code in 8.
    struct table_reg whole, part;
    __asm__ volatile("sidt %0" : "=m"(whole));
    part = whole;
    part.limit = VEC * 16 + 14;
    gate_to(SEL_CODE, 14, 0, 0);
    __asm__ volatile("lidt %0" ::"m"(part));
    fire();
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    part.limit++;
    __asm__ volatile("lidt %0" ::"m"(part));
    fire();
    CHECK_TRAP(VEC);
    __asm__ volatile("lidt %0" ::"m"(whole));
}

static void expect_code(u16 sel, int vector, word error)
{
    gate_to(sel, 14, 0, 0);
    fire();
    CHECK_TRAP_ERR(vector, error);
}

static void code_checks(void)
{
    expect_code(0, 13, 0);
    expect_code(3, 13, 0);
    expect_code(SEL_DATA, 13, SEL_DATA);
    expect_code(SEL_TSS, 13, SEL_TSS);
    expect_code(GDT_ENTRIES * 8, 13, GDT_ENTRIES * 8);
    expect_code(4, 13, 4); // no LDT
    expect_code(SEL_CODE32, 13, SEL_CODE32);
    expect_code(put(0, A_CODE64 | 0x4000), 13, SEL(0)); // L and D
    expect_code(SEL_UCODE, 13, SEL_UCODE & ~3);         // DPL 3 from ring 0
    expect_code(put(0, A_CODE64 & ~NOT_PRESENT), 11, SEL(0));
    expect_code(put(0, A_CODE64) | 3, VEC, 0); // RPL does not count
    // Without S it is no code segment.
    expect_code(put(0, A_CODE64 & ~0x10), 13, SEL(0));
}

// EXT tells that an event from outside the program was being delivered; INT n, INT3 and INTO are not, INT1 and faults are.
static void ext_bit(void)
{
    gate_absent(6);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP_ERR(11, IDT_ERR(6) | 1);
    TRY(__asm__ volatile("int $6"));
    CHECK_TRAP_ERR(11, IDT_ERR(6));
    set_gate(6, (word)gate_stub(6), SEL_DATA, 14, 0, 0);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP_ERR(13, SEL_DATA | 1);
    set_gate(6, NON_CANONICAL, SEL_CODE, 14, 0, 0);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP_ERR(13, 1);
    reset_gate(6);
    set_gate(3, 0, SEL_CODE, 0, 0, 0);
    TRY(__asm__ volatile("int3"));
    CHECK_TRAP_ERR(13, IDT_ERR(3));
    reset_gate(3);
    set_gate(1, 0, SEL_CODE, 0, 0, 0);
    TRY(__asm__ volatile(".byte 0xf1"));
    CHECK_TRAP_ERR(13, IDT_ERR(1) | 1);
    reset_gate(1);
}

USER static word user_int3(word arg)
{
    __asm__ volatile("int3");
    return arg;
}

USER static word user_int1(word arg)
{
    __asm__ volatile(".byte 0xf1");
    return arg;
}

USER static word user_ud2(word arg)
{
    __asm__ volatile("ud2");
    return arg;
}

static void dpl_by_event(void)
{
    set_gate(3, (word)gate_stub(3), SEL_CODE, 14, 0, 0);
    run_user(user_int3, 0);
    CHECK_TRAP_ERR(13, IDT_ERR(3));
    reset_gate(3);
    run_user(user_int3, 0);
    CHECK_TRAP(3);
    run_user(user_int1, 0); // not checked
    CHECK_TRAP(1);
    run_user(user_ud2, 0);
    CHECK_TRAP(6);
}

// --- call gates ---------------------------------------------------------------------------------------------------------

static word gate_rsp __attribute__((used)), gate_ss __attribute__((used)), gate_cs __attribute__((used));
static u64 gate_frame[4] __attribute__((used));

// Note the stack, take a copy of the four slots above RSP and return.
__asm__(".text\n"
        "gate_body:\n"
        "  mov %rsp, gate_rsp\n"
        "  mov %ss, gate_ss\n"
        "  mov %cs, gate_cs\n"
        "  mov (%rsp), %rax; mov %rax, gate_frame\n"
        "  mov 8(%rsp), %rax; mov %rax, gate_frame+8\n"
        "  mov 16(%rsp), %rax; mov %rax, gate_frame+16\n"
        "  mov 24(%rsp), %rax; mov %rax, gate_frame+24\n"
        "  lretq\n");
extern u8 gate_body[];

static u16 call_gate(u64 target, u16 sel, unsigned attr)
{
    gdt[SEL(4) / 8] = (target & 0xffff) | (u64)sel << 16 | (u64)attr << 40 | (target >> 16 & 0xffff) << 48;
    gdt[SEL(5) / 8] = target >> 32;
    return SEL(4);
}

USER static word user_call(word sel)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {0x12345678, (u16)sel};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "rax");
    return 7;
}

static void far_call(word sel)
{
    user_call(sel);
}

USER static word far_jump(word sel)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {0x12345678, (u16)sel};
    __asm__ volatile("ljmp *%0" ::"m"(p) : "memory");
    return 7;
}

static void call_gates(void)
{
    call_gate((word)gate_body, SEL_CODE, 0xec); // DPL 3
    run_user(user_call, SEL(4) | 3);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 7);
    CHECK_EQ(gate_cs, SEL_CODE);
    CHECK_EQ(gate_ss, 0);
    CHECK_EQ(gate_rsp, (word)trap_stack + sizeof trap_stack - 32);
    CHECK(gate_frame[0] > (word)user_call && gate_frame[0] < (word)user_call + 100);
    CHECK_EQ(gate_frame[1], SEL_UCODE);
    CHECK(gate_frame[2] > (word)user_stack && gate_frame[2] < (word)user_stack + sizeof user_stack);
    CHECK_EQ(gate_frame[3], SEL_UDATA);
    // No alignment: the frame starts right below RSP0.
    tss.rsp[0] -= 8;
    run_user(user_call, SEL(4) | 3);
    CHECK_EQ(gate_rsp, (word)trap_stack + sizeof trap_stack - 40);
    tss.rsp[0] += 8;
    TRY(far_call(SEL(4))); // same level: two slots on the same stack
    CHECK_TRAP(-1);
    CHECK_EQ(gate_ss, SEL_DATA);
    CHECK_EQ(gate_frame[1], SEL_CODE);
    run_user(far_jump, SEL(4) | 3); // JMP does not change the level
    CHECK_TRAP_ERR(13, SEL_CODE);
}

static void expect_gate(int vector, word error)
{
    TRY(far_call(SEL(4)));
    CHECK_TRAP_ERR(vector, error);
}

static void call_gate_checks(void)
{
    call_gate((word)gate_body, SEL_CODE, 0x8c); // DPL 0
    run_user(user_call, SEL(4) | 3);
    CHECK_TRAP_ERR(13, SEL(4));
    TRY(far_call(SEL(4) | 3)); // RPL
    CHECK_TRAP_ERR(13, SEL(4));
    call_gate((word)gate_body, SEL_CODE, 0x0c);
    expect_gate(11, SEL(4));
    call_gate((word)gate_body, 0, 0x8c);
    expect_gate(13, 0);
    call_gate((word)gate_body, SEL_CODE32, 0x8c);
    expect_gate(13, SEL_CODE32);
    call_gate((word)gate_body, put(0, A_CODE64 & ~NOT_PRESENT), 0x8c);
    expect_gate(11, SEL(0));
    call_gate((word)gate_body, SEL_UCODE, 0x8c);
    expect_gate(13, SEL_UCODE & ~3);
    call_gate(NON_CANONICAL, SEL_CODE, 0x8c);
    expect_gate(13, 0);
    call_gate((word)gate_body, SEL_CODE, 0x8c);
    gdt[SEL(5) / 8] |= 0x0c0000000000ull; // a type in the second half
    expect_gate(13, SEL(4));
    call_gate((word)gate_body, SEL_CODE, 0x84); // 16-bit call gate
    expect_gate(13, SEL(4));
    call_gate((word)gate_body, SEL_TSS, 0x85); // task gate
    expect_gate(13, SEL(4));
    TRY(far_call(SEL_TSS));
    CHECK_TRAP_ERR(13, SEL_TSS);
    // The second half must be inside the table.
    struct table_reg whole, part;
    __asm__ volatile("sgdt %0" : "=m"(whole));
    call_gate((word)gate_body, SEL_CODE, 0x8c);
    part = whole;
    part.limit = SEL(5) + 6;
    __asm__ volatile("lgdt %0" ::"m"(part));
    TRY(far_call(SEL(4)));
    __asm__ volatile("lgdt %0" ::"m"(whole));
    CHECK_TRAP_ERR(13, SEL(4));
    // A stack that is not canonical, and one outside the TSS.
    static u8 ss_stack[4096] __attribute__((aligned(16)));
    tss.ist[0] = (word)ss_stack + sizeof ss_stack;
    set_gate(12, (word)gate_stub(12), SEL_CODE, 14, 0, 1);
    call_gate((word)gate_body, SEL_CODE, 0xec);
    word rsp0 = tss.rsp[0];
    tss.rsp[0] = NON_CANONICAL;
    run_user(user_call, SEL(4) | 3);
    CHECK_TRAP_ERR(12, 0);
    tss.rsp[0] = rsp0;
    reset_gate(12);
}

void guest_main(void)
{
    trap_handler[VEC] = note;
    flags_by_gate_type();
    alignment();
    stacks();
    conforming();
    gate_checks();
    code_checks();
    ext_bit();
    dpl_by_event();
    call_gates();
    call_gate_checks();
}
