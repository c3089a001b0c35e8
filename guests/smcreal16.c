// Code that changes in real mode, and the same bytes of memory run in real mode by different CS:IP, in virtual-8086 mode, as 16-bit and
// as 32-bit protected-mode code; address line 20; segment limits that come and go under one piece of code.
//
// QEMU 7.2's TCG differs in 9 checks: it knows no segment limits.
#include "real.h"

const char guest_name[] = "smcreal16";

#define AGAIN 4u

// Run what is there already.
static void again(void)
{
    run_real(NULL, NULL);
}

// --- code that changes --------------------------------------------------------------------------------------------------

static void changes_itself(void)
{
    for (u32 i = 0; i < AGAIN; i++) {
        // The next instruction, by CS:, by DS of another number, by STOSB, by a push, and far ahead in a straight line.
        RUN("movw $0x1234, %cs:1f - 771b + 1; 1: mov $0, %ax");
        CHECK_EQ(out.eax & 0xffff, 0x1234);
        in.ds = CODE_SEG - 0x10;
        RUN("movw $0x1235, 1f - 771b + 0x101; 1: mov $0, %ax");
        CHECK_EQ(out.eax & 0xffff, 0x1235);
        in.es = CODE_SEG;
        RUN("mov $0x36, %al; mov $1f - 771b + 1, %di; stosb; 1: mov $0, %ax");
        CHECK_EQ(out.eax & 0xffff, 0x36);
        in.ss = CODE_SEG;
        RUN("mov $1f - 771b + 3, %sp; push $0x37; 1: mov $0, %ax; mov $0xfff0, %sp");
        CHECK_EQ(out.eax & 0xffff, 0x37);
        RUN("movw $0x1238, %cs:1f - 771b + 1; mov %ax, %bx; inc %bx; xchg %bx, %cx; shl $2, %cx; 1: mov $0, %ax");
        CHECK_EQ(out.eax & 0xffff, 0x1238);
        // REP MOVSB over itself, with the same, and on. (What it does when it becomes another instruction is nowhere said.)
        in.es = in.ds = CODE_SEG;
        RUN("xor %ax, %ax; mov $2f - 771b, %si; mov $1f - 771b, %di; mov $6, %cx; 1: rep movsb; hlt; hlt; hlt; hlt; jmp 3f;"
            "2: rep movsb; inc %ax; inc %ax; inc %ax; inc %ax; 3:");
        CHECK_EQ(out.vector, DONE);
        CHECK_EQ(out.eax, 4);
    }
    // The oldest trick: how long is the queue. On all processors since the Pentium it has no length.
    for (u32 i = 0; i < AGAIN; i++) {
        in.es = CODE_SEG;
        RUN("xor %dx, %dx; mov $0x42, %al; mov $2f - 771b - 1, %di; mov $8, %cx; std; rep stosb; cld; "
            "inc %cx; inc %cx; inc %cx; inc %cx; inc %cx; inc %cx; inc %cx; inc %cx; 2:");
        CHECK_EQ(out.edx, 8);
        CHECK_EQ(out.ecx, 0);
    }
}

// A loop whose body counts itself up, in real mode.
static void changing_loop(void)
{
    for (u32 i = 0; i < AGAIN; i++) {
        RUN("xor %ax, %ax; mov $1000, %cx; 1: add $0, %ax; .byte 0x05; 2: .word 0; incw %cs:2b - 771b; loop 1b");
        CHECK_EQ(out.eax, 499500 & 0xffff);
    }
}

// --- one place in memory, many ways to get there ------------------------------------------------------------------------

// MOV AX, CS; CALL +0; POP BX; MOV CX, CS:[x], x = 100: all that depends on CS and IP.
static void many_segments(void)
{
    static const u8 piece_[] = {0x8c, 0xc8, 0xe8, 0x00, 0x00, 0x5b, 0x2e, 0x8b, 0x0e, 0x00, 0x01, 0xcd, 0x60};
    for (u32 i = 0; i < sizeof piece_; i++)
        *AT(CODE_SEG, i) = piece_[i];
    for (u16 k = 0; k < 3; k++)
        for (u16 i = 0; i < 16; i++) {
            u16 seg = (u16)(CODE_SEG - (i * 7 & 15) * 0x80);
            u16 ip = (u16)((i * 7 & 15) * 0x800);
            *AT16(seg, 0x100) = (u16)(0x7000 + i + k); // at another address for each
            in.cs = seg;
            in.ip = ip;
            again();
            CHECK_EQ(out.vector, DONE);
            CHECK_EQ(out.eax & 0xffff, seg);
            CHECK_EQ(out.ebx & 0xffff, ip + 5);
            CHECK_EQ(out.ecx & 0xffff, 0x7000u + i + k);
        }
}

// Wraps at the end of the segment in one, goes on in the other.
static void segment_end(void)
{
    // At linear 1fffc: NOP; NOP; JMP +4. From 1000:fffc to 1000:0004; from 1800:7ffc to 1800:8004, the next segment's.
    for (u32 i = 0; i < 4; i++)
        *AT(CODE_SEG, 0xfffc + i) = (u8)(0x04eb9090u >> 8 * i);
    for (u32 i = 0; i < 2; i++) {
        volatile u8 *p = i ? AT(CODE_SEG, 0x10004) : AT(CODE_SEG, 4);
        p[0] = 0xb8;
        p[1] = (u8)(0x50 + i);
        p[2] = 0;
        p[3] = 0xcd;
        p[4] = 0x60;
    }
    for (u32 i = 0; i < 6; i++) {
        in.cs = i & 1 ? 0x1800 : CODE_SEG;
        in.ip = i & 1 ? 0x7ffc : 0xfffc;
        again();
        CHECK_EQ(out.vector, DONE);
        CHECK_EQ(out.eax, 0x50 + (i & 1));
    }
}

// Bytes that real mode and 32-bit code read differently. 16: MOV AX, 1234; JMP +1; INT 60. 32: MOV EAX, 01EB1234; RET.
static u32 call32(u32 at)
{
    u32 result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(at) : "ecx", "edx", "memory", "cc");
    return result;
}

// 16-bit protected mode, in a segment of the same base: ends with a far return of 32 bits (66 CB).
static u32 call16(u16 sel, u32 off)
{
    u32 result;
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {off, sel};
    __asm__ volatile("lcall *%1" : "=a"(result) : "m"(p), "0"(0) : "ecx", "edx", "memory", "cc");
    return result;
}

static void other_modes(void)
{
    static const u8 both[] = {0xb8, 0x34, 0x12, 0xeb, 0x01, 0xc3, 0xcd, 0x60};
    static const u8 three[] = {0xb8, 0x34, 0x12, 0xeb, 0x01, 0xc3, 0x66, 0xcb};
    u16 sel = SEL_FREE + 16;
    gdt[sel / 8] = make_desc(CODE_SEG * 16, 0xffff, 0x9b);
    for (u32 i = 0; i < 8; i++) {
        for (u32 k = 0; k < sizeof both; k++) {
            *AT(CODE_SEG, k) = both[k];
            *AT(CODE_SEG, 0x20 + k) = three[k];
        }
        *AT(CODE_SEG, 1) = *AT(CODE_SEG, 0x21) = (u8)(0x34 + (i >> 1));
        for (u32 k = 0; k < 2; k++) {
            again();
            CHECK_EQ(out.vector, DONE);
            CHECK_EQ(out.eax, 0x1234 + (i >> 1));
            CHECK_EQ(call32(CODE_SEG * 16), 0x01eb1234 + (i >> 1));
            CHECK_EQ(call32(CODE_SEG * 16 + 0x20), 0x01eb1234 + (i >> 1));
            CHECK_EQ(call16(sel, 0x20), 0x1234 + (i >> 1));
        }
    }
}

// CLI; MOV AX, DS; INT 60 in real mode and in virtual-8086 mode with IOPL 3 and 0.
static volatile struct trap_frame last;

static bool note(struct trap_frame *f)
{
    last = *f;
    return false;
}

__attribute__((noinline)) static void enter_v86(word flags, word ip)
{
    struct {
        word ip, cs, flags, sp, ss, es, ds, fs, gs;
    } f = {ip, CODE_SEG, flags | 0x20002, 0xfff0, STACK_SEG, 0, 0x4321, 0, 0};
    TRY(__asm__ volatile("mov %0, %%esp; iret" ::"r"(&f) : "memory"));
}

static void virtual_8086(void)
{
    static const u8 piece_[] = {0x1e, 0x58, 0xfa, 0xcd, 0x60};
    trap_handler[0x60] = note;
    trap_handler[13] = note;
    set_gate(0x60, (word)gate_stub(0x60), SEL_CODE, 14, 3, 0);
    for (u32 i = 0; i < 12; i++) {
        for (u32 k = 0; k < sizeof piece_ && i < 3; k++)
            *AT(CODE_SEG, k) = piece_[k];
        if (i % 3 == 0) {
            in.ds = 0x4321;
            again();
            CHECK_EQ(out.vector, DONE);
            CHECK_EQ(out.eax, 0x4321);
            continue;
        }
        enter_v86(i % 3 == 1 ? 0x3000 : 0, 0);
        if (i % 3 == 1)
            CHECK_TRAP(0x60);
        else
            CHECK_TRAP_ERR(13, 0);
        CHECK_EQ(last.ip, i % 3 == 1 ? 5 : 2);
        CHECK_EQ(last.eax & 0xffff, 0x4321);
    }
    trap_handler[0x60] = trap_handler[13] = NULL;
}

// --- line 20, limits ----------------------------------------------------------------------------------------------------

// Code at 1 MiB + 500, and at 500; FFFF:0510 is one or the other as address line 20 is open or closed.
static void a20(void)
{
    static u8 saved[32];
    for (u32 i = 0; i < 32; i++)
        saved[i] = *AT(0xffff, 0x510 + i);
    for (u32 k = 0; k < 2; k++) {
        volatile u8 *p = k ? AT(0xffff, 0x510) : AT(0, 0x500);
        p[0] = 0xb8;
        p[1] = 0;
        p[2] = (u8)(0x11 + k * 0x11);
        p[3] = 0xcb;
    }
    for (u32 i = 0; i < AGAIN; i++) {
        RUN("lcall $0xffff, $0x510; mov %ax, %bx\n"
            "in $0x92, %al; and $0xfc, %al; out %al, $0x92; lcall $0xffff, $0x510; mov %ax, %cx\n"
            "mov $0xffff, %ax; mov %ax, %es; incb %es:0x511; lcall $0xffff, $0x510; mov %ax, %bp\n"
            "in $0x92, %al; and $0xfe, %al; or $2, %al; out %al, $0x92; lcall $0xffff, $0x510; mov %ax, %dx\n"
            "lcall $0, $0x500; mov %ax, %si; incb %es:0x511; lcall $0xffff, $0x510; mov %ax, %di");
        CHECK_EQ(out.vector, DONE);
        CHECK_EQ(out.ebx, 0x2200 + i);
        CHECK_EQ(out.ecx, 0x1100 + i);
        CHECK_EQ(out.ebp, 0x1101 + i); // changed through the alias
        CHECK_EQ(out.edx, 0x2200 + i);
        CHECK_EQ(out.esi, 0x1101 + i);
        CHECK_EQ(out.edi, 0x2201 + i);
    }
    for (u32 i = 0; i < 32; i++)
        *AT(0xffff, 0x510 + i) = saved[i];
}

// One piece of code, with data segments of 4 GiB and of 64 KiB.
static void big_segments(void)
{
    static volatile u32 high = 0x600df00d;
    in.ds = 0;
    in.ebx = (u32)&high;
    big = true;
    RUN("mov (%ebx), %eax; addl $1, (%ebx)");
    CHECK_EQ(out.eax, 0x600df00d);
    for (u32 i = 0; i < 6; i++) {
        big = i & 1;
        in.ds = 0;
        in.ebx = (u32)&high;
        again();
        CHECK_EQ(out.vector, big ? DONE : 13);
        CHECK_EQ(high, 0x600df00e + (i + 1) / 2);
    }
    big = false;
}

void guest_main(void)
{
    real_init();
    changes_itself();
    changing_loop();
    many_segments();
    segment_end();
    other_modes();
    virtual_8086();
    a20();
    big_segments();
}
