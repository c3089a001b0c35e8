// Virtual-8086 mode: 16-bit code at ring 3 inside a 32-bit kernel. IOPL-sensitive instructions with IOPL 0 and 3, interrupts and
// exceptions to the kernel with the long frame, the I/O bitmap, and VME: VIF, VIP and the redirection bitmap.
//
// QEMU 7.2's TCG differs in 3 checks: it does not enforce the 64 KiB segment limit (2), and looks for a ring 1 stack where a gate
// leads to ring 1.
#include "guest.h"

const char guest_name[] = "v86";

// The 8086 program lives at 1000:0000 (linear 0x10000), its stack at 2000:fffe. It ends with INT 0x80.
#define CODE ((u8 *)0x10000)
#define STACK_SEG 0x2000

struct v86_frame {
    word ip, cs, flags, sp, ss, es, ds, fs, gs;
};

static volatile struct trap_frame last;
static volatile word last_seg[4]; // es ds fs gs of the long frame

// v86_run(): enter with IRET, leave through the trap handler and TRY.
__attribute__((noinline)) static void enter_v86(word flags, word ip)
{
    struct v86_frame f = {ip, 0x1000, flags | 0x20002, 0xfffe, STACK_SEG, 0x3000, 0x3001, 0x3002, 0x3003};
    __asm__ volatile("mov %0, %%esp; iret" ::"r"(&f) : "memory");
}

static bool note(struct trap_frame *f)
{
    last = *f;
    if (f->flags & 0x20000) {
        const word *more = (const word *)(&f->ss + 1);
        for (unsigned i = 0; i < 4; i++)
            last_seg[i] = more[i];
    }
    return false;
}

static void run(const u8 *code, unsigned len, word flags)
{
    for (unsigned i = 0; i < len; i++)
        CODE[i] = code[i];
    CODE[len] = 0xcd; // INT 0x80
    CODE[len + 1] = 0x80;
    TRY(enter_v86(flags, 0));
}
#define RUN(flags, ...) \
    do { \
        static const u8 code_[] = {__VA_ARGS__}; \
        run(code_, sizeof code_, (flags)); \
    } while (0)

#define IOPL3 0x3000

static void basics(void)
{
    RUN(IOPL3, 0xb8, 0x34, 0x12); // MOV AX, 1234
    CHECK_TRAP(0x80);
    CHECK_EQ(last.eax & 0xffff, 0x1234);
    CHECK_EQ(last.cs, 0x1000);
    CHECK_EQ(last.ip, 5);
    CHECK_EQ(last.ss, STACK_SEG);
    CHECK_EQ(last.sp, 0xfffe);
    CHECK(last.flags & 0x20000);
    CHECK_EQ(last_seg[0], 0x3000);
    CHECK_EQ(last_seg[1], 0x3001);
    CHECK_EQ(last_seg[2], 0x3002);
    CHECK_EQ(last_seg[3], 0x3003);
    CHECK_EQ(last.ds, 0); // nulled for the handler
    // Segments are base = selector * 16, limit 64 KiB.
    RUN(IOPL3, 0xb8, 0x00, 0x15, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0x77, 0x66); // MOV DS, 1500; MOV [10], 6677
    CHECK_TRAP(0x80);
    CHECK_EQ(*(u16 *)0x15010, 0x6677);
    RUN(IOPL3, 0xa1, 0xff, 0xff); // MOV AX, [ffff]: beyond the limit
    CHECK_TRAP_ERR(13, 0);
    RUN(IOPL3, 0x66, 0x67, 0xa1, 0x00, 0x00, 0x01, 0x00); // MOV EAX, [00010000]
    CHECK_TRAP_ERR(13, 0);
    // 32-bit operands work; privileged and protected-mode instructions do not.
    RUN(IOPL3, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12);
    CHECK_EQ(last.eax, 0x12345678);
    RUN(IOPL3, 0xf4); // HLT
    CHECK_TRAP_ERR(13, 0);
    RUN(IOPL3, 0x0f, 0x20, 0xc0); // MOV EAX, CR0
    CHECK_TRAP_ERR(13, 0);
    RUN(IOPL3, 0x0f, 0x01, 0xe0); // SMSW AX: allowed
    CHECK_TRAP(0x80);
    RUN(IOPL3, 0x0f, 0x00, 0xc0); // SLDT AX
    CHECK_TRAP(6);
    RUN(IOPL3, 0x0f, 0x02, 0xc0); // LAR
    CHECK_TRAP(6);
    RUN(IOPL3, 0x63, 0xc0); // ARPL
    CHECK_TRAP(6);
    RUN(IOPL3, 0xf6, 0xf4); // DIV AH
    CHECK(trap.vector == 0 || trap.vector == 0x80);
    RUN(IOPL3, 0x31, 0xc9, 0xf7, 0xf1); // XOR CX, CX; DIV CX
    CHECK_TRAP(0);
    CHECK_EQ(last.ip, 2);
    // Far jump inside the 8086 world.
    CODE[0x20] = 0xb8;
    CODE[0x21] = 0x99;
    CODE[0x22] = 0x00;
    CODE[0x23] = 0xcd;
    CODE[0x24] = 0x80;
    RUN(IOPL3, 0xea, 0x10, 0x00, 0x01, 0x10); // JMP 1001:0010
    CHECK_TRAP(0x80);
    CHECK_EQ(last.eax & 0xffff, 0x99);
    CHECK_EQ(last.cs, 0x1001);
}

static void iopl_sensitive(void)
{
    RUN(0, 0xfa); // CLI
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0xfb); // STI
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0x9c); // PUSHF
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0x9d); // POPF
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0xcf); // IRET
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0xcd, 0x21); // INT n
    CHECK_TRAP_ERR(13, 0);
    RUN(0, 0xcc); // INT3 is not sensitive
    CHECK_TRAP(3);
    RUN(IOPL3, 0xcd, 0x21); // through the IDT: gate DPL 0
    CHECK_TRAP_ERR(13, 0x21 * 8 + 2);
    RUN(IOPL3, 0xfb, 0x9c, 0x58, 0xfa); // STI; PUSHF; POP AX; CLI
    CHECK_TRAP(0x80);
    CHECK_EQ(last.eax & 0x3200, 0x3200);
    RUN(IOPL3, 0x68, 0x02, 0x00, 0x9d, 0x9c, 0x58); // POPF cannot change IOPL
    CHECK_EQ(last.eax & 0x3000, 0x3000);
    // Ports: the bitmap decides, whatever IOPL is.
    RUN(IOPL3, 0xe4, 0x80);
    CHECK_TRAP_ERR(13, 0);
    tss.iomap = offsetof(struct tss, bitmap);
    for (unsigned i = 0; i < sizeof tss.bitmap; i++)
        tss.bitmap[i] = 0xff;
    tss.bitmap[0x80 / 8] &= (u8)~1u;
    RUN(0, 0xe4, 0x80);
    CHECK_TRAP(13); // IN is fine, the final INT 0x80 is not at IOPL 0
    CHECK_EQ(last.ip, 2);
    RUN(IOPL3, 0xe4, 0x80);
    CHECK_TRAP(0x80);
    RUN(IOPL3, 0xe5, 0x80); // two ports, one closed
    CHECK_TRAP_ERR(13, 0);
}

static void vme(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[3] >> 1 & 1))
        return;
    write_cr4(read_cr4() | 1);
    tss.iomap = offsetof(struct tss, bitmap);
    for (unsigned i = 0; i < 32; i++)
        tss.redirect[i] = 0xff; // all to the kernel
    // CLI and STI act on VIF.
    RUN(0, 0xfb, 0x9c, 0x58, 0xcc); // STI; PUSHF; POP AX; INT3
    CHECK_TRAP(3);
    CHECK(last.flags & 0x80000);
    CHECK_EQ(last.eax & 0x3200, 0x3200); // the image shows IF = VIF and IOPL 3
    RUN(0x80000, 0xfa, 0x9c, 0x58, 0xcc);
    CHECK_TRAP(3);
    CHECK(!(last.flags & 0x80000));
    CHECK_EQ(last.eax & 0x3200, 0x3000);
    // STI with VIP pending is for the kernel.
    RUN(0x100000, 0xfb, 0xcc);
    CHECK_TRAP_ERR(13, 0);
    // INT n through the redirection bitmap goes to the program's own vector table at linear 0.
    tss.redirect[0x21 / 8] &= (u8) ~(1u << (0x21 % 8));
    *(u16 *)(0x21 * 4) = 0x40;
    *(u16 *)(0x21 * 4 + 2) = 0x1000;
    CODE[0x40] = 0xb8; // MOV AX, 4321; INT3
    CODE[0x41] = 0x21;
    CODE[0x42] = 0x43;
    CODE[0x43] = 0xcc;
    RUN(0x80000, 0xcd, 0x21);
    CHECK_TRAP(3);
    CHECK_EQ(last.eax & 0xffff, 0x4321);
    CHECK_EQ(last.sp, 0xfff8);
    CHECK_EQ(*(u16 *)(STACK_SEG * 16 + 0xfff8), 2);
    CHECK_EQ(*(u16 *)(STACK_SEG * 16 + 0xfffa), 0x1000);
    CHECK_EQ(*(u16 *)(STACK_SEG * 16 + 0xfffc) & 0x3200, 0x3200);
    CHECK(!(last.flags & 0x80000)); // VIF cleared
    RUN(0, 0xcd, 0x22);             // not redirected: IOPL 0 faults
    CHECK_TRAP_ERR(13, 0);
    // With IOPL 3 redirected interrupts go the same way, with the real IF.
    RUN(IOPL3, 0xcd, 0x21);
    CHECK_TRAP(3);
    CHECK_EQ(last.eax & 0xffff, 0x4321);
    write_cr4(read_cr4() & ~1u);
}

// A 16-bit gate stores words. The code segment's base makes its 16-bit offset reach.
__asm__(".text\n"
        "words_handler: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %esp, words_esp; int $0x80\n");
extern u8 words_handler[];
static volatile word words_esp __attribute__((used));

// v8086 mode is left to ring 0 only, and not into conforming code.
static void gates(void)
{
    static const u32 wrong[] = {0xc0bb, 0xc0fb, 0xc09f, 0xc0ff}; // DPL 1, DPL 3, conforming
    for (unsigned i = 0; i < 4; i++) {
        gdt[SEL_FREE / 8] = make_desc(0, 0xfffff, wrong[i]);
        set_gate(0x91, (word)gate_stub(0x91), SEL_FREE, 14, 3, 0);
        RUN(IOPL3, 0xcd, 0x91);
        CHECK_TRAP_ERR(13, SEL_FREE);
        CHECK(last.flags & 0x20000);
    }
    gdt[SEL_FREE / 8] = make_desc((word)words_handler, 0xffff, 0x409b);
    set_gate(0x91, 0, SEL_FREE, 6, 3, 0);
    RUN(IOPL3 | 1, 0xcd, 0x91);
    CHECK_TRAP(0x80);
    CHECK_EQ(last.cs, SEL_FREE);
    CHECK_EQ(words_esp, tss.esp0 - 18);
    static const u16 want[] = {2, 0x1000, IOPL3 | 3, 0xfffe, STACK_SEG, 0x3000, 0x3001, 0x3002, 0x3003};
    const u16 *frame = (const u16 *)words_esp;
    for (unsigned i = 0; i < 9; i++)
        CHECK_EQ(frame[i], want[i]);
    reset_gate(0x91);
}

void guest_main(void)
{
    for (unsigned v = 0; v < 256; v++)
        trap_handler[v] = note;
    basics();
    iopl_sensitive();
    gates();
    vme();
}
