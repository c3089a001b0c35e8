// Debug registers, single-stepping, INT1, INT3 and the shadows that hold debug traps back, in long mode.
//
// QEMU 7.2's TCG differs in 7 checks: it has no general-detect faults (3), no INT1 (2), and pushes RF clear (2).
#include "guest.h"

const char guest_name[] = "debug64";

static word hit_ip[64], hit_dr6[64], hit_flags[64];
static volatile unsigned hits;
static word stop_tf_at; // number of hits after which the handler clears TF

static bool on_debug(struct trap_frame *f)
{
    if (hits < 64) {
        hit_ip[hits] = f->ip;
        hit_dr6[hits] = read_dr6();
        hit_flags[hits] = f->flags;
    }
    hits = hits + 1;
    write_dr6(0xffff0ff0);
    if (hits >= stop_tf_at)
        f->flags &= ~0x100ull;
    f->flags |= 1u << 16; // RF: do not meet the same code breakpoint again
    return true;
}

static void start(unsigned stop)
{
    hits = 0;
    stop_tf_at = stop;
    trap_handler[1] = on_debug;
    write_dr6(0xffff0ff0);
}

extern u8 step_begin[], step_1[], step_2[], step_3[], step_4[], step_end[];

static void single_step(void)
{
    start(100);
    __asm__ volatile("pushf\n"
                     "orq $0x100, (%%rsp)\n"
                     "popf\n" // TF takes effect after the next instruction
                     "step_begin: nop\n"
                     "step_1: mov $1, %%eax\n"
                     "step_2: pushf\n"
                     "step_3: andq $~0x100, (%%rsp)\n"
                     "step_4: popf\n"
                     "step_end: nop\n" ::
                         : "rax", "memory", "cc");
    CHECK_EQ(hits, 5);
    CHECK_EQ(hit_ip[0], (word)step_1);
    CHECK_EQ(hit_ip[1], (word)step_2);
    CHECK_EQ(hit_ip[2], (word)step_3);
    CHECK_EQ(hit_ip[3], (word)step_4);
    CHECK_EQ(hit_ip[4], (word)step_end);
    for (unsigned i = 0; i < 5; i++)
        CHECK_EQ(hit_dr6[i], 0xffff4ff0);
}

extern u8 ss_after[];

// A load of SS holds the single-step trap back until the instruction after it is done. SDM 3A 6.8.3.
static void mov_ss_shadow(void)
{
    start(2);
    __asm__ volatile("mov %%ss, %%ecx\n"
                     "pushf\n"
                     "orq $0x100, (%%rsp)\n"
                     "popf\n"
                     "mov %%ecx, %%ss\n"
                     "nop\n"
                     "ss_after: nop\n"
                     "nop\n" ::
                         : "rcx", "memory", "cc");
    CHECK_EQ(hit_ip[0], (word)ss_after);
    CHECK_EQ(hits, 2);
}

extern u8 rep_insn[], rep_after[];

// REP traps after each iteration.
static void step_rep(void)
{
    static u8 from[4] = {1, 2, 3, 4}, to[4];
    start(5);
    __asm__ volatile("pushf\n"
                     "orq $0x100, (%%rsp)\n"
                     "mov $4, %%ecx\n"
                     "lea %0, %%rsi\n"
                     "lea %1, %%rdi\n"
                     "popf\n"
                     "rep_insn: rep movsb\n"
                     "rep_after: nop\n"
                     "nop\n" ::"m"(from),
                     "m"(to)
                     : "rcx", "rsi", "rdi", "memory", "cc");
    CHECK_EQ(hits, 5);
    CHECK_EQ(hit_ip[0], (word)rep_insn);
    CHECK_EQ(hit_ip[2], (word)rep_insn);
    CHECK_EQ(hit_ip[3], (word)rep_after);
    CHECK_EQ(to[3], 4);
}

extern u8 bp_1[], bp_2[];

static void code_breakpoint(void)
{
    start(0);
    write_dr0((word)bp_1);
    write_dr7(0x402);
    __asm__ volatile("nop; bp_1: nop; bp_2: nop");
    write_dr7(0x400);
    CHECK_EQ(hits, 1);
    CHECK_EQ(hit_ip[0], (word)bp_1);
    CHECK_EQ(hit_dr6[0] & 0xe00f, 1);
    // Disabled: nothing.
    start(0);
    __asm__ volatile("nop; nop");
    CHECK_EQ(hits, 0);
}

static volatile u64 watched[4] __attribute__((aligned(16)));
extern u8 watch_1[], watch_2[], watch_3[];

static void data_breakpoint(void)
{
    // Write of 4 bytes, DR1: LEN=3, RW=1.
    start(0);
    write_dr1((word)&watched[1]);
    write_dr7(0x400 | 8 | 0xdu << 20);
    (void)watched[1];
    CHECK_EQ(hits, 0);
    __asm__ volatile("movl $5, %0; watch_1: nop" : "=m"(watched[1]));
    CHECK_EQ(hits, 1);
    CHECK_EQ(hit_ip[0], (word)watch_1);
    CHECK_EQ(hit_dr6[0] & 0xe00f, 2);
    watched[2] = 1; // next to it
    CHECK_EQ(hits, 1);
    *((volatile u8 *)&watched[1] + 3) = 1; // last watched byte
    CHECK_EQ(hits, 2);
    *((volatile u8 *)&watched[1] + 4) = 1;
    CHECK_EQ(hits, 2);
    *(volatile u32 *)((volatile u8 *)&watched[1] - 2) = 1; // overlaps
    CHECK_EQ(hits, 3);
    // Read or write of 8 bytes, DR2: LEN=2, RW=3.
    start(0);
    write_dr7(0x400);
    write_dr2((word)&watched[2]);
    write_dr7(0x400 | 0x20 | 0xbu << 24);
    __asm__ volatile("mov %0, %%rax; watch_2: nop" ::"m"(watched[2]) : "rax");
    CHECK_EQ(hits, 1);
    CHECK_EQ(hit_ip[0], (word)watch_2);
    CHECK_EQ(hit_dr6[0] & 0xe00f, 4);
    write_dr7(0x400);
}

static void io_breakpoint(void)
{
    start(0);
    write_cr4(read_cr4() | 8); // DE
    write_dr3(0x80);
    write_dr7(0x400 | 0x80 | 0x2u << 28);
    outb(0x80, 1);
    CHECK_EQ(hits, 1);
    CHECK_EQ(hit_dr6[0] & 0xe00f, 8);
    outb(0x81, 1);
    CHECK_EQ(hits, 1);
    write_dr7(0x400);
}

static void register_access(void)
{
    trap_handler[1] = NULL;
    // DR4 and DR5 are DR6 and DR7, or do not exist with CR4.DE.
    write_cr4(read_cr4() & ~8ull);
    word v;
    TRY(__asm__ volatile("mov %%db4, %0" : "=r"(v)));
    CHECK_TRAP(-1);
    write_cr4(read_cr4() | 8);
    TRY(__asm__ volatile("mov %%db5, %0" : "=r"(v)));
    CHECK_TRAP(6);
    write_cr4(read_cr4() & ~8ull);
    // Upper halves of DR6 and DR7 must be zero.
    TRY(write_dr7(1ull << 32));
    CHECK_TRAP_ERR(13, 0);
    TRY(write_dr6(1ull << 32));
    CHECK_TRAP_ERR(13, 0);
    write_dr6(0);
    CHECK_EQ(read_dr6(), 0xffff0ff0);
    write_dr7(0);
    CHECK_EQ(read_dr7(), 0x400);
    // General detect: any access to a debug register faults, and GD is cleared for the handler.
    write_dr7(0x2400);
    TRY(v = read_dr0());
    CHECK_TRAP(1);
    CHECK_EQ(read_dr7() & 0x2000, 0);
    CHECK(read_dr6() & 0x2000);
    write_dr6(0xffff0ff0);
}

static word user_dr(word arg)
{
    __asm__ volatile("mov %%db0, %%rax" ::: "rax");
    return arg;
}

extern u8 int1_next[], int3_next[];

static void soft_traps(void)
{
    trap_handler[1] = NULL;
    TRY(__asm__ volatile(".byte 0xf1; int1_next: nop"));
    CHECK_TRAP(1);
    CHECK_EQ(trap.ip, (word)int1_next);
    TRY(__asm__ volatile("int3; int3_next: nop"));
    CHECK_TRAP(3);
    CHECK_EQ(trap.ip, (word)int3_next);
    run_user(user_dr, 0);
    CHECK_TRAP_ERR(13, 0);
}

// The pushed RF: set for faults, clear for traps and software interrupts.
static void pushed_rf(void)
{
    trap_handler[1] = NULL;
    TRY(__asm__ volatile("ud2"));
    CHECK(trap.flags & 1u << 16);
    TRY(__asm__ volatile("int3"));
    CHECK(!(trap.flags & 1u << 16));
    TRY((void)*(volatile u8 *)0x8000000000000000ull);
    CHECK(trap.flags & 1u << 16);
}

extern u8 int_step_next[];

// Single-stepping over INT n: the handler is not stepped, and the trap of the INT itself is lost.
static bool on_soft(struct trap_frame *f)
{
    CHECK(f->flags & 0x100);
    CHECK(!(read_flags() & 0x100));
    return true;
}

static void step_int(void)
{
    trap_handler[0x81] = on_soft;
    start(1);
    __asm__ volatile("pushf\n"
                     "orq $0x100, (%%rsp)\n"
                     "popf\n"
                     "int $0x81\n"
                     "nop\n"
                     "int_step_next: nop\n" ::
                         : "memory", "cc");
    CHECK_EQ(hits, 1);
    CHECK_EQ(hit_ip[0], (word)int_step_next);
    trap_handler[0x81] = NULL;
}

void guest_main(void)
{
    single_step();
    mov_ss_shadow();
    step_rep();
    code_breakpoint();
    data_breakpoint();
    io_breakpoint();
    register_access();
    soft_traps();
    pushed_rf();
    step_int();
}
