// Faults on the way to a handler (SDM 3A table 6-5): every class of first event against every class of second. Benign first, or a
// page fault after a contributory one: the second is handled. Contributory twice, or anything after a page fault: double fault.
// And the same from ring 3, where the stack in the TSS is what is bad.
//
// QEMU 7.2's TCG differs in the error codes of 14 checks: EXT is missing, and the vector is multiplied by 16; and in 18 frames of page
// faults, where RF is clear.
#include "guest.h"

const char guest_name[] = "fault64";

#define SEL_ABSENT (SEL_FREE)
#define BAD_STACK 0x40000000ull // 1 GiB: a page that is taken away
#define STACK_TOP (BAD_STACK + 4096)
#define NON_CANONICAL 0x0000900000000000ull
#define IDT_ERR(v) ((v)*8 + 2)
#define IST_GOOD 1
#define IST_SS 2 // not canonical
#define IST_PF 3 // not mapped
#define IST_TS 7 // outside the TSS

enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static u8 good_stack[4096] __attribute__((aligned(16)));

// --- first events -------------------------------------------------------------------------------------------------------

struct first {
    const char *name;
    u8 vector;
    enum class class;
    bool soft; // INT n and INT3: no EXT in the second's error code
    void (*raise)(void);
};

static void raise_ud(void)
{
    __asm__ volatile("ud2");
}

static void raise_bp(void)
{
    __asm__ volatile("int3");
}

static void raise_nm(void)
{
    __asm__ volatile("fwait");
}

static void raise_de(void)
{
    __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx", "cc");
}

static void raise_np(void)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_ABSENT));
}

static void raise_ss(void)
{
    __asm__ volatile("mov %w0, %%ss" ::"r"(SEL_ABSENT));
}

static void raise_gp(void)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(0x7ff8));
}

static void raise_ts(void)
{
    __asm__ volatile("int $0x91");
}

static void raise_pf(void)
{
    __asm__ volatile("mov (%0), %%al" ::"r"(BAD_STACK + 16) : "rax");
}

static const struct first firsts[] = {
    {"#UD", 6, BENIGN, false, raise_ud},        {"#BP", 3, BENIGN, true, raise_bp},
    {"#NM", 7, BENIGN, false, raise_nm},        {"#DE", 0, CONTRIBUTORY, false, raise_de},
    {"#NP", 11, CONTRIBUTORY, false, raise_np}, {"#SS", 12, CONTRIBUTORY, false, raise_ss},
    {"#GP", 13, CONTRIBUTORY, false, raise_gp}, {"#TS", 10, CONTRIBUTORY, false, raise_ts},
    {"#PF", 14, PAGE_FAULT, false, raise_pf},
};

// --- second events ------------------------------------------------------------------------------------------------------

enum second { GATE_NP, GATE_GP, CODE_GP, STACK_SS, STACK_TS, STACK_PF, SECOND_COUNT };

struct outcome {
    int vector;
    word error;
};

// Make delivery of `vector` fail; what that raises for itself (EXT to be added).
static struct outcome spoil(unsigned vector, enum second how)
{
    word stub = (word)gate_stub(vector);
    switch (how) {
    case GATE_NP: gate_absent(vector); return (struct outcome){11, IDT_ERR(vector)};
    case GATE_GP: set_gate(vector, stub, SEL_CODE, 12, 3, 0); return (struct outcome){13, IDT_ERR(vector)};
    case CODE_GP: set_gate(vector, stub, SEL_DATA, 14, 3, 0); return (struct outcome){13, SEL_DATA};
    case STACK_SS: set_gate(vector, stub, SEL_CODE, 14, 3, IST_SS); return (struct outcome){12, 0};
    case STACK_TS: set_gate(vector, stub, SEL_CODE, 14, 3, IST_TS); return (struct outcome){10, SEL_TSS};
    default: set_gate(vector, stub, SEL_CODE, 14, 3, IST_PF); return (struct outcome){14, 2};
    }
}

static struct outcome combine(const struct first *f, struct outcome second)
{
    bool fatal = f->class == PAGE_FAULT || (f->class == CONTRIBUTORY && second.vector != 14);
    if (fatal)
        return (struct outcome){8, 0};
    if (second.vector != 14 && !f->soft)
        second.error |= 1;
    return second;
}

__attribute__((noinline)) static void attempt(const struct first *f)
{
    TRY(f->raise());
}

static void matrix(void)
{
    for (unsigned i = 0; i < sizeof firsts / sizeof firsts[0]; i++) {
        const struct first *f = &firsts[i];
        attempt(f);
        check_at(trap.vector == f->vector, __FILE__, __LINE__, "%s: trap %d", f->name, trap.vector);
        for (unsigned how = 0; how < SECOND_COUNT; how++) {
            struct outcome want = combine(f, spoil(f->vector, how));
            attempt(f);
            reset_gate(f->vector);
            check_at(trap.vector == want.vector && trap.error == want.error, __FILE__, __LINE__,
                     "%s, then %u: trap %d error %lx, not trap %d error %lx", f->name, how, trap.vector, trap.error,
                     want.vector, want.error);
            if (how == STACK_PF)
                CHECK_EQ(trap.cr2, STACK_TOP - 8); // that of the second, double fault or not
        }
    }
}

// --- from ring 3 --------------------------------------------------------------------------------------------------------

USER static word user_ud(word arg)
{
    __asm__ volatile("ud2");
    return arg;
}

USER static word user_gp(word arg)
{
    __asm__ volatile("hlt");
    return arg;
}

USER static word user_pf(word arg)
{
    __asm__ volatile("mov (%0), %%al" ::"r"(BAD_STACK + 16) : "rax");
    return arg;
}

static void expect_user(word (*fn)(word), int vector, word error)
{
    word good = tss.rsp[0], bad = tss.ist[IST_SS - 1];
    tss.rsp[0] = bad;
    run_user(fn, 0);
    tss.rsp[0] = good;
    CHECK_TRAP_ERR(vector, error);
    CHECK_EQ(trap.cs, SEL_UCODE);
}

static void from_ring3(void)
{
    static const u8 on_ist[] = {8, 12, 14};
    for (unsigned i = 0; i < sizeof on_ist; i++)
        set_gate(on_ist[i], (word)gate_stub(on_ist[i]), SEL_CODE, 14, 0, IST_GOOD);
    expect_user(user_ud, 12, 1);
    expect_user(user_gp, 8, 0);
    tss.ist[IST_SS - 1] = STACK_TOP;
    expect_user(user_ud, 14, 2); // a write by the processor, not by ring 3
    CHECK_EQ(trap.cr2, STACK_TOP - 8);
    expect_user(user_gp, 14, 2); // a page fault after a contributory fault is handled
    set_gate(14, (word)gate_stub(14), SEL_CODE, 14, 0, 0);
    expect_user(user_ud, 8, 0); // #PF on the way to #UD, and another on the way to #PF
    expect_user(user_pf, 8, 0);
    set_gate(14, (word)gate_stub(14), SEL_CODE, 14, 0, IST_GOOD);
    run_user(user_pf, 0);
    CHECK_TRAP_ERR(14, 4);
    CHECK_EQ(trap.cr2, BAD_STACK + 16);
    for (unsigned i = 0; i < sizeof on_ist; i++)
        reset_gate(on_ist[i]);
}

// --- the double fault itself --------------------------------------------------------------------------------------------

static struct trap_frame df_frame;
static word df_at;

static bool on_double_fault(struct trap_frame *f)
{
    df_frame = *f;
    df_at = (word)f;
    return false;
}

static void double_fault_frame(void)
{
    set_gate(8, (word)gate_stub(8), SEL_CODE, 14, 0, IST_GOOD);
    trap_handler[8] = on_double_fault;
    gate_absent(13);
    attempt(&firsts[6]);
    reset_gate(13);
    CHECK_TRAP_ERR(8, 0);
    CHECK(df_at > (word)good_stack && df_at < (word)good_stack + sizeof good_stack);
    CHECK_EQ(df_frame.ss, SEL_DATA);
    CHECK_EQ(df_frame.cs, SEL_CODE);
    // A fault inside the double fault's handler is an ordinary one.
    attempt(&firsts[6]);
    CHECK_TRAP_ERR(13, 0x7ff8);
    reset_gate(8);
    trap_handler[8] = NULL;
}

// INT n with the vector of a fault is no fault: what goes wrong on the way is no double fault.
static void software_vectors(void)
{
    gate_absent(0);
    TRY(__asm__ volatile("int $0"));
    CHECK_TRAP_ERR(11, IDT_ERR(0));
    reset_gate(0);
    gate_absent(14);
    TRY(__asm__ volatile("int $14"));
    CHECK_TRAP_ERR(11, IDT_ERR(14));
    reset_gate(14);
}

// --- page faults that are mended ---------------------------------------------------------------------------------------------

#define IST_TWO 4
#define MENDED (BAD_STACK + 8)

static u8 two_pages[2 * 4096] __attribute__((aligned(4096)));
static word mended_page[512] __attribute__((aligned(4096)));
static word frame_flags, frame_sp, frame_at, handler_flags;

static bool mend(struct trap_frame *f)
{
    frame_flags = f->flags;
    frame_sp = f->sp;
    frame_at = (word)&f->error;
    handler_flags = read_flags();
    *pte_of(BAD_STACK) = (word)mended_page | 0x67;
    return true;
}

static void expect_mended(word top, unsigned gate)
{
    word val, sp;
    u8 carry;
    tss.ist[IST_TWO - 1] = top;
    set_gate(14, (word)gate_stub(14), SEL_CODE, gate, 0, top ? IST_TWO : 0);
    *pte_of(BAD_STACK) = 0;
    write_cr3(read_cr3());
    write_flags(0x200);
    __asm__ volatile("mov %%rsp, %1; stc; mov (%3), %0; setc %2"
                     : "=&r"(val), "=&r"(sp), "=&q"(carry)
                     : "r"(MENDED)
                     : "cc", "memory");
    write_flags(0);
    CHECK_EQ(val, 0x123456789abcdef0);
    CHECK(carry);
    CHECK_EQ(frame_sp, sp);
    CHECK_EQ(frame_at, ((top ? top : sp) & ~15ull) - 48);
    CHECK_EQ(frame_flags & 0x10201, 0x10201); // RF, IF, CF
    CHECK_EQ(handler_flags & 0x10200, gate == 15 ? 0x200 : 0);
}

// The frame wherever it lies, and the instruction again, as if nothing had been.
static void mended(void)
{
    mended_page[1] = 0x123456789abcdef0;
    trap_handler[14] = mend;
    for (unsigned gate = 14; gate <= 15; gate++) {
        expect_mended(0, gate);
        expect_mended((word)two_pages + sizeof two_pages - 5, gate);
        for (unsigned i = 0; i <= 48; i += 8) // across the pages' border
            expect_mended((word)two_pages + 4096 + i, gate);
    }
    trap_handler[14] = NULL;
    reset_gate(14);
}

void guest_main(void)
{
    gdt[SEL_ABSENT / 8] = make_desc(0, 0xfffff, 0xc013);
    *pte_of(BAD_STACK) = 0;
    write_cr3(read_cr3());
    tss.ist[IST_GOOD - 1] = (word)good_stack + sizeof good_stack;
    tss.ist[IST_SS - 1] = NON_CANONICAL;
    tss.ist[IST_PF - 1] = STACK_TOP;
    // All of the IST but its last entry: reload TR with a lower limit.
    gdt[SEL_TSS / 8] = make_desc((u32)(word)&tss, offsetof(struct tss, ist[6]) + 6, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    set_gate(0x91, (word)gate_stub(0x91), SEL_CODE, 14, 0, IST_TS);
    mended();
    *pte_of(BAD_STACK) = 0;
    write_cr3(read_cr3());
    write_cr0(read_cr0() | 8); // TS
    matrix();
    from_ring3();
    double_fault_frame();
    software_vectors();
}
