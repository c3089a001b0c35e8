// Hardware task switching (SDM 3A chapter 7): CALL and JMP to TSS selectors and task gates, IRET back, interrupts through task
// gates, the busy bit, NT, the back link, CR0.TS, the T bit, 16-bit TSSs, and the faults of bad TSSs.
//
// No peer: QEMU's TCG skips several of the checks.
#include "guest.h"

const char guest_name[] = "task32";

#define SEL(n) (SEL_FREE + 8 * (n))
#define SEL_TASK SEL(0)
#define SEL_GATE SEL(1)
#define SEL_BACK SEL(2)
#define SEL_TASK16 SEL(3)

static struct tss other;
static u8 other_stack[4096] __attribute__((aligned(16)));
static volatile word seen_nt, seen_ts, seen_link;
static volatile word seen_arg __attribute__((used)), rounds __attribute__((used));

struct __attribute__((packed)) tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};

static unsigned desc_type(u16 sel)
{
    return gdt[sel / 8] >> 40 & 15;
}

static void make_tss_desc(u16 sel, const void *t, u32 limit, unsigned type)
{
    gdt[sel / 8] = make_desc((u32)t, limit, 0x80 | type);
}

static void other_body(void)
{
    for (;;) {
        seen_nt = read_flags() >> 14 & 1;
        seen_ts = read_cr0() >> 3 & 1;
        seen_link = other.link;
        rounds = rounds + 1;
        __asm__ volatile("iret"); // NT: back to the caller; the next call goes on after this
    }
}

static void prepare(void (*body)(void), u32 flags)
{
    for (unsigned i = 0; i < 104; i++)
        ((u8 *)&other)[i] = 0;
    other.eip = (u32)body;
    other.eflags = flags | 2;
    other.esp = (u32)other_stack + sizeof other_stack - 16;
    other.cs = SEL_CODE;
    other.ss = other.ds = other.es = SEL_DATA;
    other.fs = other.gs = 0;
    other.iomap = 104;
    other.eax = 0x1234;
    make_tss_desc(SEL_TASK, &other, sizeof other - 1, 9);
}

static void far_call(u16 sel)
{
    struct far_ptr p = {0xdeadbeef, sel};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "eax", "ecx", "edx", "cc");
}

static void far_jump(u16 sel)
{
    struct far_ptr p = {0xdeadbeef, sel};
    __asm__ volatile("ljmp *%0" ::"m"(p) : "memory", "eax", "ecx", "edx", "cc");
}

static u16 task_register(void)
{
    u16 v;
    __asm__ volatile("str %0" : "=r"(v));
    return v;
}

static void call_and_return(void)
{
    prepare(other_body, 0);
    rounds = 0;
    __asm__ volatile("clts");
    far_call(SEL_TASK);
    CHECK_EQ(rounds, 1);
    CHECK_EQ(seen_nt, 1);
    CHECK_EQ(seen_ts, 1);
    CHECK_EQ(seen_link, SEL_TSS);
    CHECK_EQ(desc_type(SEL_TASK), 9); // available again
    CHECK_EQ(desc_type(SEL_TSS), 11);
    CHECK_EQ(task_register(), SEL_TSS);
    CHECK_EQ(read_flags() >> 14 & 1, 0);
    CHECK(read_cr0() & 8);
    __asm__ volatile("clts");
    far_call(SEL_TASK); // goes on after its IRET
    CHECK_EQ(rounds, 2);
    CHECK_EQ(other.eflags >> 14 & 1, 0); // IRET stored NT clear
    // Through a task gate.
    gdt[SEL_GATE / 8] = (u64)SEL_TASK << 16 | 0x85ull << 40;
    far_call(SEL_GATE);
    CHECK_EQ(rounds, 3);
    CHECK_EQ(seen_link, SEL_TSS);
}

static void jump_body(void)
{
    for (;;) {
        seen_nt = read_flags() >> 14 & 1;
        rounds = rounds + 1;
        far_jump(SEL_TSS);
    }
}

static void jump_and_back(void)
{
    prepare(jump_body, 0);
    rounds = 0;
    other.link = 0x5555;
    far_jump(SEL_TASK);
    CHECK_EQ(rounds, 1);
    CHECK_EQ(seen_nt, 0);
    CHECK_EQ(other.link, 0x5555); // JMP sets no link
    CHECK_EQ(desc_type(SEL_TASK), 9);
    CHECK_EQ(desc_type(SEL_TSS), 11);
    far_jump(SEL_TASK);
    CHECK_EQ(rounds, 2);
}

__attribute__((naked)) static void fault_task(void)
{
    __asm__ volatile("1: popl seen_arg\n"
                     "incl rounds\n"
                     "addl $2, %0\n"
                     "iret\n"
                     "jmp 1b\n" ::"m"(tss.eip));
}

__attribute__((naked)) static void irq_task(void)
{
    __asm__ volatile("1: incl rounds\n"
                     "iret\n"
                     "jmp 1b\n");
}

static void interrupt_gates(void)
{
    prepare(irq_task, 0);
    rounds = 0;
    set_gate(0x90, 0, SEL_TASK, 5, 0, 0);
    __asm__ volatile("int $0x90" ::: "memory");
    CHECK_EQ(rounds, 1);
    __asm__ volatile("int $0x90" ::: "memory");
    CHECK_EQ(rounds, 2);
    // A fault with an error code: #GP by loading a bad selector (MOV DS, AX: 2 bytes).
    prepare(fault_task, 0);
    rounds = 0;
    set_gate(13, 0, SEL_TASK, 5, 0, 0);
    __asm__ volatile("mov %w0, %%ds" ::"a"(0x7ff8) : "memory");
    CHECK_EQ(rounds, 1);
    CHECK_EQ(seen_arg, 0x7ff8);
    reset_gate(13);
    reset_gate(0x90);
}

static void bad_tasks(void)
{
    prepare(other_body, 0);
    make_tss_desc(SEL_TASK, &other, sizeof other - 1, 11); // busy
    TRY(far_call(SEL_TASK));
    CHECK_TRAP_ERR(13, SEL_TASK);
    make_tss_desc(SEL_TASK, &other, 102, 9); // too short
    TRY(far_call(SEL_TASK));
    CHECK_TRAP_ERR(10, SEL_TASK);
    make_tss_desc(SEL_TASK, &other, sizeof other - 1, 9);
    gdt[SEL_TASK / 8] &= ~(0x80ull << 40);
    TRY(far_call(SEL_TASK));
    CHECK_TRAP_ERR(11, SEL_TASK);
    TRY(far_call(SEL_TASK | 3)); // RPL > DPL
    CHECK_TRAP_ERR(13, SEL_TASK);
    gdt[SEL_GATE / 8] = (u64)SEL_DATA << 16 | 0x85ull << 40; // gate to something else
    TRY(far_call(SEL_GATE));
    CHECK_TRAP_ERR(13, SEL_DATA);
    gdt[SEL_GATE / 8] = (u64)SEL_TASK << 16 | 0x05ull << 40; // gate not present
    TRY(far_call(SEL_GATE));
    CHECK_TRAP_ERR(11, SEL_GATE);
    // IRET with NT set and a bad back link.
    tss.link = SEL_DATA;
    TRY(__asm__ volatile("pushf; orl $0x4000, (%esp); popf; iret"));
    CHECK_TRAP_ERR(10, SEL_DATA);
    write_flags(2);
}

// Faults after the switch belong to the new task, whose segment registers may be unusable: #TS needs a task gate.
#define SEL_TS SEL(7)

static struct tss ts_tss;
static u8 ts_stack[512] __attribute__((aligned(16)));
static volatile word ts_error __attribute__((used)), ts_tr __attribute__((used));

__attribute__((naked)) static void ts_task(void)
{
    // Note the error code and who failed, mark both tasks available, go on in the first one after its call.
    __asm__ volatile("1: popl ts_error\n"
                     "movzwl ts_tss, %eax\n"
                     "movl %eax, ts_tr\n"
                     "andb $0xfd, gdt+0x48+5\n"
                     "andb $0xfd, gdt+0x60+5\n"
                     "ljmp $0x48, $0\n"
                     "jmp 1b\n");
}

static void expect_ts(word error)
{
    ts_error = ts_tr = 0;
    far_call(SEL_TASK);
    CHECK_EQ(ts_error, error);
    CHECK_EQ(ts_tr, SEL_TASK);
    CHECK_EQ(tss.cs, SEL_CODE); // the old state was saved
    CHECK_EQ(task_register(), SEL_TSS);
}

static void bad_state(void)
{
    ts_tss.eip = (u32)ts_task;
    ts_tss.eflags = 2;
    ts_tss.esp = (u32)ts_stack + sizeof ts_stack;
    ts_tss.cs = SEL_CODE;
    ts_tss.ss = ts_tss.ds = ts_tss.es = SEL_DATA;
    ts_tss.iomap = 104;
    make_tss_desc(SEL_TS, &ts_tss, sizeof ts_tss - 1, 9);
    set_gate(10, 0, SEL_TS, 5, 0, 0);
    prepare(other_body, 0);
    other.cs = SEL_DATA; // not code
    expect_ts(SEL_DATA);
    prepare(other_body, 0);
    other.ds = 0x7f0; // outside the table
    expect_ts(0x7f0);
    prepare(other_body, 0);
    other.ss = SEL_CODE; // not data
    expect_ts(SEL_CODE);
    prepare(other_body, 0);
    other.ldt = SEL_DATA; // not an LDT
    expect_ts(SEL_DATA);
    reset_gate(10);
    write_flags(2);
}

static volatile unsigned debug_traps;
static volatile word debug_dr6;

static bool on_debug(struct trap_frame *f)
{
    (void)f;
    debug_traps = debug_traps + 1;
    debug_dr6 = read_dr6();
    write_dr6(0xffff0ff0);
    return true;
}

static void t_bit(void)
{
    prepare(other_body, 0);
    other.trap_bit = 1;
    trap_handler[1] = on_debug;
    rounds = 0;
    far_call(SEL_TASK);
    CHECK_EQ(rounds, 1);
    CHECK_EQ(debug_traps, 1);
    CHECK(debug_dr6 & 0x8000);
    trap_handler[1] = NULL;
}

// --- 16-bit TSS ------------------------------------------------------------------------------------------------------------------

static struct tss16 small;
static u8 code16[32] __attribute__((aligned(16)));

static void task16(void)
{
    // In a 16-bit code segment based at code16: INC word [rounds]; IRET.
    static const u8 body[] = {0xff, 0x06, 0x10, 0x00, 0xcf};
    for (unsigned i = 0; i < sizeof body; i++)
        code16[i] = body[i];
    *(u16 *)(code16 + 16) = 0;
    gdt[SEL(4) / 8] = make_desc((u32)code16, 31, 0x9b);
    gdt[SEL(5) / 8] = make_desc((u32)code16, 31, 0x93);
    gdt[SEL(6) / 8] = make_desc((u32)other_stack, 4095, 0x93);
    for (unsigned i = 0; i < sizeof small; i++)
        ((u8 *)&small)[i] = 0;
    small.cs = SEL(4);
    small.ds = small.es = SEL(5);
    small.ss = SEL(6);
    small.sp = 4094;
    small.flags = 2;
    small.ax = 0xabcd;
    make_tss_desc(SEL_TASK16, &small, sizeof small - 1, 1);
    far_call(SEL_TASK16);
    CHECK_EQ(*(u16 *)(code16 + 16), 1);
    CHECK_EQ(small.link, SEL_TSS);
    CHECK_EQ(desc_type(SEL_TASK16), 1);
    CHECK_EQ(small.ip, 5);
    CHECK_EQ(small.ax, 0xabcd);
    make_tss_desc(SEL_TASK16, &small, 42, 1);
    TRY(far_call(SEL_TASK16));
    CHECK_TRAP_ERR(10, SEL_TASK16);
}

void guest_main(void)
{
    call_and_return();
    jump_and_back();
    interrupt_gates();
    bad_tasks();
    bad_state();
    t_bit();
    task16();
}
