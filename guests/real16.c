// Real mode: the vector table and LIDT, exceptions, limits and wrap-around of data, code and stack, 32-bit operands and addresses,
// string instructions, big ("unreal") segments, far transfers, flags of INT and IRET, and the A20 gate.
//
// QEMU 7.2's TCG differs in 21 checks: it knows no segment limits.
#include "real.h"

const char guest_name[] = "real16";

// --- interrupts and exceptions ------------------------------------------------------------------------------------------

static void interrupts(void)
{
    RUN("mov $0x1234, %ax");
    CHECK_OUT(DONE, 5);
    CHECK_EQ(out.eax, 0x1234);
    CHECK_EQ(out.esp, 0xfff0);
    // A handler of its own: the frame, and what INT and IRET do to flags.
    set_vector(0x61, CODE_SEG, 0x80);
    // MOV BP, SP; MOV CX, [BP]; MOV SI, [BP + 2]; MOV DI, [BP + 4]; PUSHF; POP AX; IRET
    static const u8 handler[] = {0x89, 0xe5, 0x8b, 0x4e, 0, 0x8b, 0x76, 2, 0x8b, 0x7e, 4, 0x9c, 0x58, 0xcf};
    for (unsigned i = 0; i < sizeof handler; i++)
        *AT(CODE_SEG, 0x80 + i) = handler[i];
    RUN("pushw $0x7ad7; popf; int $0x61; pushf; pop %dx; cli; cld; pushw $2; popf");
    CHECK_OUT(DONE, 15);
    CHECK_EQ(out.ebp, 0xfff0 - 6);
    CHECK_EQ(out.eax & 0xffff, 0x78d7); // IF and TF cleared; NT stays in real mode
    CHECK_EQ(out.edx & 0xffff, 0x7ad7);
    CHECK_EQ(out.ecx, 6);
    CHECK_EQ(out.esi, CODE_SEG);
    CHECK_EQ(out.edi, 0x7ad7);
    // IRET with 32-bit operands reaches ID and AC, and never VM.
    RUN("pushl $0x00260002; pushw $0; push %cs; pushl $(1f - 771b); iretl; 1: pushfl; pop %edx; pushl $2; popfl");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.edx, 0x240002);
    CHECK_EQ(out.esp, 0xfff0);
    // Another table, and its limit.
    *AT16(0x500, 0x61 * 4) = 0x80;
    *AT16(0x500, 0x61 * 4 + 2) = CODE_SEG;
    *AT32(DATA_SEG, 2) = 0x5000;
    *AT16(DATA_SEG, 0) = 0x61 * 4 + 3;
    *AT32(DATA_SEG, 10) = 0;
    *AT16(DATA_SEG, 8) = 0x3ff;
    RUN("lidt 0; int $0x61; lidt 8");
    CHECK_OUT(DONE, 14);
    CHECK_EQ(out.ebp, 0xfff0 - 6);
    *AT16(0x500, 13 * 4) = *AT16(0, 13 * 4); // #GP's vector
    *AT16(0x500, 13 * 4 + 2) = 0;
    *AT16(DATA_SEG, 0) = 0x61 * 4 + 2;
    RUN("lidt 0; int $0x61");
    CHECK_OUT(13, 5);
    CHECK_EQ(out.esp, 0xfff0); // no error code in real mode
}

static void exceptions(void)
{
    RUN("xor %cl, %cl; div %cl");
    CHECK_OUT(0, 2);
    RUN("mov $0x8000, %ax; mov $-1, %cl; idiv %cl");
    CHECK_OUT(0, 5);
    RUN("nop; int3");
    CHECK_OUT(3, 2);
    RUN("mov $0x7f, %al; inc %al; into");
    CHECK_OUT(4, 5);
    *AT32(DATA_SEG, 0) = 0x00090000; // bounds 0 and 9
    RUN("mov $9, %ax; bound %ax, 0; mov $10, %ax; bound %ax, 0");
    CHECK_OUT(5, 10);
    RUN("ud2");
    CHECK_OUT(6, 0);
    RUN("mov %cr0, %eax; or $8, %al; mov %eax, %cr0; fld1");
    CHECK_OUT(7, 8);
    __asm__ volatile("clts");
    // No selectors, no table registers with selectors.
    RUN("sldt %ax");
    CHECK_OUT(6, 0);
    RUN("str %ax");
    CHECK_OUT(6, 0);
    RUN("lldt %ax");
    CHECK_OUT(6, 0);
    RUN("lar %cx, %ax");
    CHECK_OUT(6, 0);
    RUN("lsl %cx, %ax");
    CHECK_OUT(6, 0);
    RUN("verr %ax");
    CHECK_OUT(6, 0);
    RUN("arpl %ax, %cx");
    CHECK_OUT(6, 0);
    RUN(".byte 0x8e, 0xc8"); // MOV CS, AX
    CHECK_OUT(6, 0);
    RUN(".byte 0xf0, 0x40"); // LOCK INC AX
    CHECK_OUT(6, 0);
    RUN("smsw %ax");
    CHECK_OUT(DONE, 5);
    CHECK_EQ(out.eax & 1, 0);
    // Single-stepping: the trap comes after the instruction that follows POPF.
    RUN("pushw $0x102; popf; nop; nop");
    CHECK_OUT(1, 5);
    CHECK(out.out_flags & 0x100);
    write_dr6(0xffff0ff0);
}

// --- limits and wrap-around ---------------------------------------------------------------------------------------------

static void data_limits(void)
{
    *AT16(DATA_SEG, 0xfffe) = 0x1122;
    *AT16(DATA_SEG, 0) = 0x3344;
    RUN("mov 0xffff, %al; mov 0xfffe, %bx");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.eax, 0x11);
    RUN("mov 0xffff, %bx");
    CHECK_OUT(13, 0);
    RUN("mov 0xfffd, %eax");
    CHECK_OUT(13, 0);
    RUN("mov %ax, %ss:0xffff");
    CHECK_OUT(12, 0);
    RUN("mov $0xffff, %bp; mov (%bp), %ax");
    CHECK_OUT(12, 3);
    RUN("mov $0xffff, %bx; mov $1, %si; mov (%bx,%si), %ax"); // 16-bit addresses wrap
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.eax, 0x3344);
    RUN("mov $0xffff, %ebx; mov 1(%ebx), %ax"); // 32-bit ones do not
    CHECK_OUT(13, 6);
    RUN("mov $0xfffe, %ebx; mov (%ebx), %ax");
    CHECK_EQ(out.eax, 0x1122);
    RUN("movw $0x5566, %cs:0x100; mov %cs:0x100, %ax"); // code is writable
    CHECK_EQ(out.eax, 0x5566);
}

static void code_limits(void)
{
    in.ip = 0xfffd; // its INT 60 ends at ffff
    RUN("nop");
    CHECK_OUT(DONE, 0);
    in.ip = 0xffff;
    RUN("nop"); // the next instruction would be at 10000
    CHECK_EQ(out.vector, 13);
    CHECK_EQ(out.out_ip, 0);
    in.ip = 0xfffe;
    RUN("mov $0x1234, %ax"); // cut off by the limit
    CHECK_OUT(13, 0xfffe);
    *AT16(CODE_SEG, 0x10) = 0x60cd;
    in.ip = 0xff00;
    RUN("jmp 771b + 0x110"); // relative jumps wrap
    CHECK_OUT(DONE, 0x12);
    RUN("mov $0x10000, %eax; jmp *%eax");
    CHECK_OUT(13, 6);
    RUN("ljmpl $0x1000, $0x10000");
    CHECK_OUT(13, 0);
}

static void stack_edges(void)
{
    in.esp = 0;
    RUN("pushw $0x1234");
    CHECK_EQ(out.esp, 0xfffe);
    CHECK_EQ(*AT16(STACK_SEG, 0xfffe), 0x1234);
    in.esp = 0xfffe;
    RUN("pop %ax");
    CHECK_EQ(out.eax, 0x1234);
    CHECK_EQ(out.esp, 0);
    in.esp = 0xffff;
    RUN("pop %ax");
    CHECK_OUT(12, 0);
    CHECK_EQ(out.esp, 0xffff);
    in.esp = 2;
    RUN("pushl $0x12345678"); // would wrap inside
    CHECK_OUT(12, 0);
    CHECK_EQ(out.esp, 2);
    in.esp = 4;
    in.eax = 0xaaaa;
    in.edi = 0x7777;
    RUN("pusha");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.esp, 0xfff4);
    CHECK_EQ(*AT16(STACK_SEG, 2), 0xaaaa);
    CHECK_EQ(*AT16(STACK_SEG, 0xfff4), 0x7777);
    CHECK_EQ(*AT16(STACK_SEG, 0xfffa), 4); // SP as it was
    in.esp = 0x12340000;                   // a 16-bit stack leaves the upper half
    RUN("pushw $1; pushw $2; pop %ax");
    CHECK_EQ(out.esp, 0x1234fffe);
    in.esp = 2;
    in.ebp = 0x4321;
    RUN("enter $8, $0; mov %sp, %ax; leave");
    CHECK_EQ(out.eax, 0xfff8);
    CHECK_EQ(out.esp, 2);
    CHECK_EQ(out.ebp, 0x4321);
    in.ebp = 0x100;
    *AT16(STACK_SEG, 0xfe) = 0xbeef;
    RUN("enter $4, $2; mov %sp, %ax; mov -2(%bp), %bx; mov -4(%bp), %cx");
    CHECK_EQ(out.ebp, 0xffee);
    CHECK_EQ(out.eax, 0xffee - 4 - 4);
    CHECK_EQ(out.ebx, 0xbeef);
    CHECK_EQ(out.ecx, 0xffee);
}

static void strings(void)
{
    for (u32 i = 0; i < 0x20; i++)
        *AT(DATA_SEG, 0xfff0 + i) = (u8)i; // the second half lies behind the segment
    for (u32 i = 0; i < 0x10; i++)
        *AT(DATA_SEG, i) = (u8)(0x80 + i);
    in.esi = 0x1234fff8;
    in.edi = 0x5678fffc;
    in.ecx = 0xffff0010;
    RUN("rep movsb");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.esi, 0x12340008);
    CHECK_EQ(out.edi, 0x5678000c);
    CHECK_EQ(out.ecx, 0xffff0000);
    CHECK_EQ(*AT(EXTRA_SEG, 0xffff), 11);
    CHECK_EQ(*AT(EXTRA_SEG, 4), 0x80);
    // Words that reach the end fault there, with the registers of that iteration.
    in.esi = 0xfffb;
    in.ecx = 5;
    RUN("rep lodsw");
    CHECK_OUT(13, 0);
    CHECK_EQ(out.esi, 0xffff);
    CHECK_EQ(out.ecx, 3);
    in.esi = 2;
    in.ecx = 3;
    RUN("std; rep lodsw; cld"); // downwards through 0
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.esi, 0xfffc);
    in.edi = 0xfffe;
    in.eax = 0x11223344;
    RUN("stosl");
    CHECK_OUT(13, 0);
    // 32-bit counts and addresses.
    in.esi = 0xfff0;
    in.edi = 0x100;
    in.ecx = 0x10;
    RUN("addr32 rep movsb");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.esi, 0x10000);
    in.ecx = 0x10001;
    RUN("1: inc %ax; addr32 loop 1b"); // counts ECX
    CHECK_EQ(out.eax, 1);
    CHECK_EQ(out.ecx, 0);
}

// --- big segments -------------------------------------------------------------------------------------------------------

static void unreal(void)
{
    static volatile u32 high = 0x600df00d;
    big = true;
    in.ds = 0;
    in.ebx = (u32)&high;
    RUN("mov (%ebx), %eax; movl $0x12345678, (%ebx)");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.eax, 0x600df00d);
    CHECK_EQ(high, 0x12345678);
    // A load of the segment register changes the base and nothing else.
    in.ebx = (u32)&high - 0x1230;
    RUN("mov $0x123, %ax; mov %ax, %ds; mov (%ebx), %eax");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.eax, 0x12345678);
    in.fs = 0;
    in.esi = (u32)&high;
    RUN("addr32 lodsl %fs:(%esi)");
    CHECK_EQ(out.eax, 0x12345678);
    RUN("mov 0xffff, %ax"); // no limit at 64 KiB
    CHECK_EQ(out.vector, DONE);
    in.ebx = (u32)&high;
    RUN("mov %gs:(%ebx), %eax"); // GS is not big
    CHECK_OUT(13, 0);
    big = false;
    in.ebx = 0x10000;
    RUN("mov (%ebx), %al");
    CHECK_OUT(13, 0);
}

static void far_transfers(void)
{
    // At 1000:0020, called: MOV BX, CS; MOV BP, SP; MOV DX, [BP]; MOV DI, [BP + 4]; RETF 2
    static const u8 callee[] = {0x8c, 0xcb, 0x89, 0xe5, 0x8b, 0x56, 0x00, 0x8b, 0x7e, 0x04, 0xca, 0x02, 0x00};
    for (unsigned i = 0; i < sizeof callee; i++)
        *AT(CODE_SEG, 0x50 + i) = callee[i];
    RUN("pushw $0x4444; lcall $0x1001, $0x40");
    CHECK_OUT(DONE, 10);
    CHECK_EQ(out.ebx, 0x1001);
    CHECK_EQ(out.edx, 8);
    CHECK_EQ(out.edi, 0x4444);
    CHECK_EQ(out.esp, 0xfff0);
    *AT16(DATA_SEG, 6) = 0x50;
    *AT16(DATA_SEG, 8) = CODE_SEG;
    RUN("pushw $0x4444; lcall *6");
    CHECK_OUT(DONE, 9);
    CHECK_EQ(out.ebx, CODE_SEG);
    static const u8 wide[] = {0x89, 0xe5, 0x66, 0x8b, 0x56, 0x00, 0x66, 0xcb}; // MOV BP, SP; MOV EDX, [BP]; RETFD
    for (unsigned i = 0; i < sizeof wide; i++)
        *AT(CODE_SEG, 0x50 + i) = wide[i];
    RUN("lcalll $0x1000, $0x50");
    CHECK_OUT(DONE, 10);
    CHECK_EQ(out.edx, 8);
    CHECK_EQ(out.ebp, 0xfff0 - 8);
}

// Bit 1 of port 92 opens and closes address line 20. The code is below 1 MiB, where that does not matter.
static void a20(void)
{
    *AT16(0, 0x510) = 0x1111;
    in.ds = 0xffff;
    *AT16(0xffff, 0x520) = 0x2222; // 1 MiB and 0x510
    u16 saved = *AT16(0xffff, 0x520);
    RUN("mov 0x520, %bx\n in $0x92, %al; and $0xfc, %al; out %al, $0x92\n mov 0x520, %cx; movw $0x3333, 0x520\n"
        "or $2, %al; out %al, $0x92\n mov 0x520, %dx");
    CHECK_EQ(out.vector, DONE);
    CHECK_EQ(out.ebx, saved);
    CHECK_EQ(out.ecx, 0x1111);
    CHECK_EQ(out.edx, saved);
    CHECK_EQ(*AT16(0, 0x510), 0x3333);
}

void guest_main(void)
{
    real_init();
    interrupts();
    exceptions();
    data_limits();
    code_limits();
    stack_edges();
    strings();
    unreal();
    far_transfers();
    a20();
}
