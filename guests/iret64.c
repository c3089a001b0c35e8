// IRET and far RET in 64-bit code: to 64-bit and compatibility code, to every level, with every check of the code and stack
// segments and its error code; flags by privilege, RF and TF, data segments on the way out; NMIs and what ends their blocking.
//
// QEMU 7.2's TCG differs in 10 checks: it takes code segments with both L and D, compatibility code without SS and targets outside
// the limit; finds targets that are not canonical only after the return (2); takes an absent SS for #NP (2) and a stack pointer
// that is not canonical for #GP; and IRETQ leaves VIF and VIP alone.
#include "guest.h"

const char guest_name[] = "iret64";

#define SEL(n) (SEL_FREE + 8 * (n))
#define LAND 0x90 // INT of the landing places
#define NON_CANONICAL 0x0000900000000000ull
#define LOW_LAND 0x8000u // a landing place below 64 KiB
#define A_CODE64 0xa09b
#define A_CODE32 0xc09b
#define A_DATA 0xc093
#define NOT_PRESENT 0x80
#define USER_SP ((word)user_stack + 4096)

static u8 land_stack[4096] __attribute__((aligned(16))), ss_stack[4096] __attribute__((aligned(16)));

__asm__(".text\n"
        "land: int $0x90\n"
        "land_nop: nop\n"
        "  int $0x90\n");
extern u8 land[], land_nop[];

static u16 put(unsigned n, u32 attr)
{
    gdt[SEL(n) / 8] = make_desc(0, 0xfffff, attr);
    return (u16)SEL(n);
}

// Execute `insn` with RSP at these words. They lie at the top of a stack of their own, because a fault's frame goes below.
#define FRAME (frame_stack + 504)
static word frame_stack[512];
#define on_frame(insn, words, count) \
    do { \
        for (unsigned i_ = 0; i_ < (count); i_++) \
            FRAME[i_] = (words)[i_]; \
        TRY(__asm__ volatile("mov %0, %%rsp; " #insn ::"r"(FRAME) : "memory")); \
    } while (0)

__attribute__((noinline)) static void iretq(word ip, word cs, word flags, word sp, word ss)
{
    on_frame(iretq, ((word[]){ip, cs, flags, sp, ss}), 5);
}

// Did the return get to a landing place at `cs`, with this stack?
static void check_landed_at(int line, word ip, word cs, word sp, word ss)
{
    check_at(trap.vector == LAND && trap.ip == ip + 2 && trap.cs == cs && trap.sp == sp && trap.ss == ss, __FILE__,
             line, "trap %d error %lx at %lx:%lx, stack %lx:%lx", trap.vector, trap.error, trap.cs, trap.ip, trap.ss,
             trap.sp);
}
#define CHECK_LANDED(cs, sp, ss) check_landed_at(__LINE__, (word)land, (cs), (sp), (ss))

static void to(word cs, word ss)
{
    iretq((word)land, cs, 2, USER_SP, ss);
}

static void targets(void)
{
    // All of RSP is loaded; the landing place has a stack of its own.
    iretq((word)land, SEL_CODE, 2, 0x123456789abcdef1ull, SEL_DATA);
    CHECK_LANDED(SEL_CODE, 0x123456789abcdef1ull, SEL_DATA);
    to(SEL_CODE, 0);
    CHECK_LANDED(SEL_CODE, USER_SP, 0);
    to(SEL_UCODE, SEL_UDATA);
    CHECK_LANDED(SEL_UCODE, USER_SP, SEL_UDATA);
    to(SEL_CODE32, SEL_DATA);
    CHECK_LANDED(SEL_CODE32, USER_SP, SEL_DATA);
    to(SEL_UCODE32, SEL_UDATA);
    CHECK_LANDED(SEL_UCODE32, USER_SP, SEL_UDATA);
    to(put(0, 0xa0bb) | 1, put(1, 0xc0b3) | 1); // level 1 is a level too
    CHECK_LANDED(SEL(0) | 1, USER_SP, SEL(1) | 1);
    to(put(0, 0xa0db) | 2, 2); // with a null SS
    CHECK_LANDED(SEL(0) | 2, USER_SP, 2);
    to(put(0, A_CODE64 | 4) | 3, SEL_UDATA); // conforming, DPL 0
    CHECK_LANDED(SEL(0) | 3, USER_SP, SEL_UDATA);
    // A stack that is not aligned.
    u8 *odd = (u8 *)FRAME + 5;
    __builtin_memcpy(odd, ((word[]){(word)land, SEL_CODE, 2, USER_SP, SEL_DATA}), 40);
    TRY(__asm__ volatile("mov %0, %%rsp; iretq" ::"r"(odd) : "memory"));
    CHECK_LANDED(SEL_CODE, USER_SP, SEL_DATA);
}

// 64-bit code pops SS:RSP with smaller operands too.
static void operand_sizes(void)
{
    *(volatile u16 *)(word)LOW_LAND = 0x90cd;
    on_frame(iretl, ((word[]){LOW_LAND | (word)SEL_CODE << 32, 2 | 0x89abcdefull << 32, SEL_DATA}), 3);
    check_landed_at(__LINE__, LOW_LAND, SEL_CODE, 0x89abcdef, SEL_DATA);
    on_frame(iretw, ((word[]){LOW_LAND | SEL_CODE << 16 | 2ull << 32 | 0x89abull << 48, SEL_DATA}), 2);
    check_landed_at(__LINE__, LOW_LAND, SEL_CODE, 0x89ab, SEL_DATA);
}

static void expect(int line, word cs, word ss, int vector, word error)
{
    to(cs, ss);
    check_at(trap.vector == vector && trap.error == error && trap.cs == SEL_CODE, __FILE__, line,
             "%lx, %lx: trap %d error %lx at %lx:%lx, not trap %d error %lx", cs, ss, trap.vector, trap.error, trap.cs,
             trap.ip, vector, error);
}
#define EXPECT(cs, ss, vector, error) expect(__LINE__, (cs), (ss), (vector), (error))

static void code_checks(void)
{
    EXPECT(0, SEL_DATA, 13, 0);
    EXPECT(3, SEL_DATA, 13, 0);
    EXPECT(GDT_ENTRIES * 8, SEL_DATA, 13, GDT_ENTRIES * 8);
    EXPECT(SEL_DATA, SEL_DATA, 13, SEL_DATA);
    EXPECT(SEL_TSS, SEL_DATA, 13, SEL_TSS);
    EXPECT(4, SEL_DATA, 13, 4);
    EXPECT(SEL_CODE | 3, SEL_UDATA, 13, SEL_CODE);        // DPL 0, RPL 3
    EXPECT(SEL_UCODE & ~3, SEL_DATA, 13, SEL_UCODE & ~3); // DPL 3, RPL 0
    EXPECT(put(0, 0xa0fb | 4), SEL_DATA, 13, SEL(0));     // conforming: DPL above RPL
    EXPECT(put(0, A_CODE64 | 0x4000), SEL_DATA, 13, SEL(0));
    EXPECT(put(0, A_CODE64 & ~NOT_PRESENT), SEL_DATA, 11, SEL(0));
    EXPECT(put(0, 0xa07b) | 3, SEL_UDATA, 11, SEL(0));
    iretq(NON_CANONICAL, SEL_CODE, 2, USER_SP, SEL_DATA);
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(trap.cs, SEL_CODE);
    iretq(NON_CANONICAL, SEL_UCODE, 2, USER_SP, SEL_UDATA);
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(trap.cs, SEL_CODE); // still before the change of level
    iretq(0x100000000ull + (word)land, SEL_CODE32, 2, USER_SP, SEL_DATA);
    CHECK_TRAP_ERR(13, 0);
    gdt[SEL(0) / 8] = make_desc(0, 0xff, 0x409b); // outside the limit
    iretq((word)land, SEL(0), 2, USER_SP, SEL_DATA);
    CHECK_TRAP_ERR(13, 0);
}

static void stack_checks(void)
{
    EXPECT(SEL_UCODE, 0, 13, 0);
    EXPECT(SEL_UCODE, 3, 13, 0);  // null at level 3
    EXPECT(SEL_CODE32, 0, 13, 0); // null for compatibility code
    EXPECT(SEL_CODE, SEL_UDATA, 13, SEL_UDATA & ~3);
    EXPECT(SEL_UCODE, SEL_DATA, 13, SEL_DATA);
    EXPECT(SEL_UCODE, SEL_DATA | 3, 13, SEL_DATA);        // DPL
    EXPECT(SEL_CODE, SEL_UDATA & ~3, 13, SEL_UDATA & ~3); // DPL
    EXPECT(SEL_CODE, SEL_CODE, 13, SEL_CODE);
    EXPECT(SEL_CODE, SEL_TSS, 13, SEL_TSS);
    EXPECT(SEL_CODE, put(0, 0xc091), 13, SEL(0)); // read-only
    EXPECT(SEL_CODE, put(0, A_DATA & ~NOT_PRESENT), 12, SEL(0));
    EXPECT(SEL_CODE, GDT_ENTRIES * 8, 13, GDT_ENTRIES * 8);
    set_gate(13, (word)gate_stub(13), SEL_CODE, 14, 0, 2); // for who takes it for one
    TRY(__asm__ volatile("mov %0, %%rsp; iretq" ::"r"(NON_CANONICAL)));
    reset_gate(13);
    CHECK_TRAP_ERR(12, 0);
}

// --- flags --------------------------------------------------------------------------------------------------------------

// IRET to the next instruction with `image`, at whatever level; the flags after it.
USER static word flags_after(word image)
{
    word flags, code, stack;
    __asm__ volatile("mov %%cs, %1\n"
                     "mov %%ss, %2\n"
                     "mov %%rsp, %0\n"
                     "push %2\n"
                     "push %0\n"
                     "push %3\n"
                     "push %1\n"
                     "lea 1f(%%rip), %0\n"
                     "push %0\n"
                     "iretq\n"
                     "1: pushf\n"
                     "pop %0\n"
                     : "=&r"(flags), "=&r"(code), "=&r"(stack)
                     : "r"(image)
                     : "memory", "cc");
    return flags;
}

#define ALL_FLAGS 0x3e7ed7 // without TF and RF

static void flags(void)
{
    word image = ALL_FLAGS & ~0x4000ull & ~0x20000ull;
    CHECK_EQ(flags_after(image), image);
    CHECK_EQ(flags_after(0), 2);
    CHECK_EQ(flags_after(0x20002), 2); // no v8086 mode
    CHECK_EQ(flags_after(0x4002), 0x4002);
    write_flags(2);
    TRY(__asm__ volatile("push $0x4002; popf; iretq")); // nested task
    CHECK_TRAP_ERR(13, 0);
    write_flags(2);
    // Ring 3 at IOPL 0: IF, IOPL, VIF, VIP stay.
    run_user(flags_after, image);
    CHECK_EQ(user_result, image & ~0x183200ull);
    user_flags = 0x3000;
    run_user(flags_after, image & ~0x3000ull); // IOPL 3: IF too
    CHECK_EQ(user_result, image & ~0x180000ull);
    user_flags = 0;
    // RF lets the instruction at the target pass its breakpoint; TF traps after it.
    write_dr0((word)land_nop);
    write_dr7(2);
    iretq((word)land_nop, SEL_CODE, 2, USER_SP, SEL_DATA);
    CHECK_TRAP(1);
    CHECK_EQ(trap.ip, (word)land_nop);
    write_dr6(0xffff0ff0);
    iretq((word)land_nop, SEL_CODE, 0x10002, USER_SP, SEL_DATA);
    CHECK_TRAP(LAND);
    write_dr7(0);
    iretq((word)land_nop, SEL_UCODE, 0x102, USER_SP, SEL_UDATA);
    CHECK_TRAP(1);
    CHECK_EQ(trap.ip, (word)land_nop + 1);
    write_dr6(0xffff0ff0);
}

// --- data segments ------------------------------------------------------------------------------------------------------

USER static word user_segments(word arg)
{
    u16 ds, es, fs, gs;
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3" : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
    return arg | ds | (word)es << 16 | (word)fs << 32 | (word)gs << 48;
}

static void data_segments(void)
{
    __asm__ volatile("mov %w0, %%ds; mov %w1, %%es; mov %w2, %%fs; mov %w3, %%gs" ::"r"(SEL_DATA), "r"(SEL_UDATA),
                     "r"(put(0, 0xc0d3) | 2), "r"(put(1, 0xc09f)));
    run_user(user_segments, 0);
    // DS (DPL 0) and FS (DPL 2) are lost, ES (DPL 3) and GS (conforming code) are not.
    CHECK_EQ(user_result, (word)SEL(1) << 48 | (word)SEL_UDATA << 16);
    __asm__ volatile("mov %w0, %%fs; mov %w0, %%gs" ::"r"(0));
}

// --- far RET ------------------------------------------------------------------------------------------------------------

__attribute__((noinline)) static void lretq(word ip, word cs, word sp, word ss)
{
    on_frame(lretq $16, ((word[]){ip, cs, 0x1111, 0x2222, sp, ss}), 6);
}

static void far_returns(void)
{
    lretq((word)land, SEL_UCODE, USER_SP, SEL_UDATA);
    CHECK_LANDED(SEL_UCODE, USER_SP + 16, SEL_UDATA); // parameters are released on the outer stack too
    lretq((word)land, SEL_UCODE32, USER_SP, SEL_UDATA);
    CHECK_LANDED(SEL_UCODE32, USER_SP + 16, SEL_UDATA);
    lretq((word)land, SEL_CODE, 0, 0); // same level: no SS:RSP
    CHECK_TRAP(LAND);
    CHECK_EQ(trap.ss, SEL_DATA);
    lretq((word)land, SEL_CODE32, 0, 0);
    CHECK_TRAP(LAND);
    CHECK_EQ(trap.cs, SEL_CODE32);
    lretq((word)land, SEL_UCODE, USER_SP, 0);
    CHECK_TRAP_ERR(13, 0);
    lretq((word)land, SEL_UCODE, USER_SP, SEL_DATA | 3);
    CHECK_TRAP_ERR(13, SEL_DATA);
    lretq((word)land, SEL_UCODE, USER_SP, put(0, 0xc073) | 3);
    CHECK_TRAP_ERR(12, SEL(0));
    lretq((word)land, SEL_CODE | 3, USER_SP, SEL_UDATA);
    CHECK_TRAP_ERR(13, SEL_CODE);
    lretq((word)land, 0, USER_SP, SEL_UDATA);
    CHECK_TRAP_ERR(13, 0);
    lretq((word)land, put(0, A_CODE64 & ~NOT_PRESENT), 0, 0);
    CHECK_TRAP_ERR(11, SEL(0));
    lretq(NON_CANONICAL, SEL_UCODE, USER_SP, SEL_UDATA);
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(trap.cs, SEL_CODE);
}

USER static word user_iret_inward(word arg)
{
    word f[] = {arg, SEL_CODE, 2, arg, SEL_DATA};
    __asm__ volatile("mov %0, %%rsp; iretq" ::"r"(f) : "memory");
    return arg;
}

USER static word user_lret_inward(word arg)
{
    word f[] = {arg, SEL_CODE, arg, SEL_DATA};
    __asm__ volatile("mov %0, %%rsp; lretq" ::"r"(f) : "memory");
    return arg;
}

// --- NMI ----------------------------------------------------------------------------------------------------------------

#define APIC 0xfee00000ull

static volatile unsigned nmis, nmis_in_handler;
static bool unblock;

static void send_nmi(void)
{
    u32 id = *(volatile u32 *)(APIC + 0x20);
    *(volatile u32 *)(APIC + 0x310) = id;
    *(volatile u32 *)(APIC + 0x300) = 0x4400; // assert, NMI, physical destination: ourselves
    for (volatile int i = 0; i < 100; i = i + 1)
        ;
}

static bool on_nmi(struct trap_frame *f)
{
    (void)f;
    nmis = nmis + 1;
    if (nmis > 1)
        return true;
    if (unblock)
        __asm__ volatile("int $0x91"); // its IRET ends the blocking
    send_nmi();
    nmis_in_handler = nmis;
    return true;
}

static bool ignore(struct trap_frame *f)
{
    (void)f;
    return true;
}

static void nmi(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[3] >> 9 & 1))
        return;
    trap_handler[2] = on_nmi;
    trap_handler[0x91] = ignore;
    for (unsigned i = 0; i < 2; i++) {
        unblock = i;
        nmis = 0;
        send_nmi(); // interrupts are off: it is not maskable
        CHECK_EQ(nmis, 2);
        CHECK_EQ(nmis_in_handler, i ? 2 : 1); // held until IRET
    }
}

void guest_main(void)
{
    tss.ist[0] = (word)land_stack + sizeof land_stack;
    tss.ist[1] = (word)ss_stack + sizeof ss_stack;
    set_gate(LAND, (word)gate_stub(LAND), SEL_CODE, 14, 3, 1);
    set_gate(12, (word)gate_stub(12), SEL_CODE, 14, 0, 2);
    targets();
    operand_sizes();
    code_checks();
    stack_checks();
    flags();
    data_segments();
    far_returns();
    run_user(user_iret_inward, (word)land);
    CHECK_TRAP_ERR(13, SEL_CODE);
    run_user(user_lret_inward, (word)land);
    CHECK_TRAP_ERR(13, SEL_CODE);
    nmi();
}
