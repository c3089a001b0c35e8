// External interrupts and their shadows in long mode. The source is the UART's "transmitter empty" interrupt on IRQ 4 through
// the 8259: it comes the moment it is enabled, so that every step is deterministic.
#include "guest.h"

const char guest_name[] = "intr64";

#define UART_IER 0x3f9
#define IRQ4_VECTOR 0x24
#define IPI_VECTOR 0x55
#define LAPIC 0xfee00000ul

static volatile unsigned taken;
static volatile word taken_ip, taken_flags;

static bool on_irq(struct trap_frame *f)
{
    taken = taken + 1;
    taken_ip = f->ip;
    taken_flags = f->flags;
    outb(UART_IER, 0);
    (void)inb(0x3fa);
    outb(0x20, 0x20); // EOI
    f->flags &= ~0x200ull;
    return true;
}

static void pic_init(void)
{
    outb(0x20, 0x11);
    outb(0x21, 0x20);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, 0x28);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, 0xef); // IRQ 4 only
    outb(0xa1, 0xff);
    outb(0x3fc, 0x0b); // OUT2 gates the interrupt on a PC
}

static void arm(void)
{
    taken = 0;
    outb(UART_IER, 2);
}

extern u8 sti_1[], sti_2[], ss_1[], ss_2[], both_1[], hlt_after[];

static void masked(void)
{
    arm();
    for (volatile int i = 0; i < 1000; i = i + 1)
        ;
    CHECK_EQ(taken, 0);
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(taken, 1);
}

// STI holds interrupts back for one instruction.
static void sti_shadow(void)
{
    arm();
    __asm__ volatile("sti; sti_1: nop; sti_2: nop; cli");
    CHECK_EQ(taken, 1);
    CHECK_EQ(taken_ip, (word)sti_2);
    CHECK(taken_flags & 0x200);
    // STI; CLI lets nothing in.
    arm();
    __asm__ volatile("sti; cli; nop; nop");
    CHECK_EQ(taken, 0);
    // STI with IF already set casts no shadow; the interrupt comes at once when it is enabled.
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(taken, 1);
    // POPF has no shadow.
    arm();
    __asm__ volatile("pushf; orq $0x200, (%%rsp); popf; both_1: nop; cli" ::: "memory", "cc");
    CHECK_EQ(taken, 1);
    CHECK_EQ(taken_ip, (word)both_1);
}

// A load of SS holds them back too; right after STI, whose shadow covers it, a processor may ignore that.
static void ss_shadow(void)
{
    arm();
    __asm__ volatile("mov %%ss, %%ecx\n"
                     "sti\n"
                     "mov %%ecx, %%ss\n"
                     "ss_1: nop\n"
                     "ss_2: nop\n"
                     "cli" ::
                         : "rcx");
    CHECK_EQ(taken, 1);
    CHECK(taken_ip == (word)ss_1 || taken_ip == (word)ss_2);
}

static void halt(void)
{
    arm();
    __asm__ volatile("sti; hlt; hlt_after: nop; cli");
    CHECK_EQ(taken, 1);
    CHECK_EQ(taken_ip, (word)hlt_after);
}

// A long REP is interrupted between iterations and goes on after it.
static void rep_interruptible(void)
{
    static u8 buffer[1 << 20];
    arm();
    word count = sizeof buffer;
    __asm__ volatile("lea %1, %%rdi\n"
                     "mov $0x5a, %%al\n"
                     "sti\n"
                     "nop\n"
                     "rep stosb\n"
                     "cli"
                     : "+c"(count)
                     : "m"(buffer)
                     : "rdi", "rax", "memory");
    CHECK_EQ(count, 0);
    CHECK_EQ(taken, 1);
    CHECK_EQ(buffer[0], 0x5a);
    CHECK_EQ(buffer[sizeof buffer - 1], 0x5a);
}

static word user_wait(word arg)
{
    for (volatile word i = 0; i < arg; i = i + 1)
        ;
    return 7;
}

// From ring 3: through the TSS stack, back to ring 3.
static bool on_irq_user(struct trap_frame *f)
{
    CHECK_EQ(f->cs, SEL_UCODE);
    CHECK_EQ(f->ss, SEL_UDATA);
    CHECK(f->flags & 0x200);
    return on_irq(f);
}

static void from_user(void)
{
    trap_handler[IRQ4_VECTOR] = on_irq_user;
    arm();
    user_flags = 0x200;
    run_user(user_wait, 10);
    user_flags = 0;
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 7);
    CHECK_EQ(taken, 1);
    trap_handler[IRQ4_VECTOR] = on_irq;
}

static void spurious_and_mask(void)
{
    outb(0x21, 0xff);
    arm();
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(taken, 0);
    outb(0x21, 0xef);
    __asm__ volatile("sti; nop; nop; cli");
    CHECK_EQ(taken, 1);
    outb(0x20, 0x0a);
    CHECK_EQ(inb(0x20) & 0x10, 0);
}

// --- CR8 ------------------------------------------------------------------------------------------------------------------

static volatile unsigned ipis;

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static bool on_ipi(struct trap_frame *f)
{
    (void)f;
    ipis = ipis + 1;
    lapic_write(0xb0, 0); // EOI
    return true;
}

static inline void write_cr8(word v)
{
    __asm__ volatile("mov %0, %%cr8" ::"r"(v) : "memory");
}

// Interrupts whose class CR8 does not exceed wait until it does not, and then come at once; often enough for code that is adapted.
static void task_priority(void)
{
    trap_handler[IPI_VECTOR] = on_ipi;
    lapic_write(0xf0, 0x1ff); // on
    for (unsigned i = 0; i < 300; i++) {
        write_cr8(5 + i % 4); // to the IPI's class or above
        lapic_write(0x300, 0x40000 | IPI_VECTOR);
        __asm__ volatile("sti; nop; nop" ::: "memory");
        CHECK_EQ(ipis, i);
        write_cr8(9 + i % 4); // higher, with an interrupt waiting
        CHECK_EQ(ipis, i);
        write_cr8(5);
        CHECK_EQ(ipis, i);
        write_cr8(4);
        __asm__ volatile("nop; cli" ::: "memory");
        CHECK_EQ(ipis, i + 1);
        write_cr8(i % 16);
        write_cr8(0);
    }
    lapic_write(0xf0, 0xff);
}

void guest_main(void)
{
    trap_handler[IRQ4_VECTOR] = on_irq;
    pic_init();
    masked();
    sti_shadow();
    ss_shadow();
    halt();
    rep_interruptible();
    spurious_and_mask();
    from_user();
    task_priority();
}
