// The way to real mode and back, for 32-bit guests.
//
// Each RUN copies a piece of 16-bit code to in.cs:in.ip (1000:0000), goes to real mode, executes it with the registers in `in`, and
// comes back when it raises any interrupt: INT 60 at its end, or an exception before that. All 256 vectors lead back to protected mode.
// real_init() comes first.
#ifndef REAL_H
#define REAL_H

#include "guest.h"

#define STATE 0x7000 // struct state
#define STUBS 0x9000 // for each vector: PUSH vector; JMP leave
#define CODE_SEG 0x1000
#define STACK_SEG 0x2000
#define DATA_SEG 0x3000
#define EXTRA_SEG 0x4000
#define SEL_DATA64K SEL_FREE
#define SEL_CODE64K (SEL_FREE + 8)
#define DONE 0x60 // the INT at the end of each piece
#define AT(seg, off) ((volatile u8 *)((seg)*16 + (off)))
#define AT16(seg, off) ((volatile u16 *)AT(seg, off))
#define AT32(seg, off) ((volatile u32 *)AT(seg, off))

struct __attribute__((packed)) state {
    u32 eax, ebx, ecx, edx, esi, edi, ebp, esp; // 00
    u16 ds, es, fs, gs, ss;                     // 20
    u16 ip, cs;                                 // 2a
    u16 vector, out_ip, out_cs, out_flags;      // 2e
    u32 flags;                                  // 36
    u32 pm_esp;                                 // 3a
};
static struct state in, out;
static const u8 *volatile piece[2] __attribute__((used)); // the code of RUN
static bool big;                                          // leave DS and FS with 4 GiB limits

__asm__(".text\n"
        ".code16\n"
        "real_start:\n" // 16-bit protected mode, at 8000
        "  mov %cr0, %eax; and $~1, %eax; mov %eax, %cr0\n"
        "  ljmp $0, $(1f - real_start + 0x8000)\n"
        "1: xor %ax, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x6f00, %sp\n"
        "  lidtl (real_idt - real_start + 0x8000)\n"
        "  pushl 0x7036; popfl\n"
        "  mov 0x7000, %eax; mov 0x7004, %ebx; mov 0x7008, %ecx; mov 0x700c, %edx\n"
        "  mov 0x7010, %esi; mov 0x7014, %edi; mov 0x7018, %ebp\n"
        "  mov 0x7022, %es; mov 0x7024, %fs; mov 0x7026, %gs\n"
        "  mov 0x7028, %ss; mov 0x701c, %esp; mov 0x7020, %ds\n"
        "  ljmp *%cs:0x702a\n"
        "real_leave:\n"
        "  popw %cs:0x702e; popw %cs:0x7030; popw %cs:0x7032; popw %cs:0x7034\n"
        "  mov %ds, %cs:0x7020; mov %es, %cs:0x7022; mov %fs, %cs:0x7024; mov %gs, %cs:0x7026; mov %ss, %cs:0x7028\n"
        "  mov %eax, %cs:0x7000; mov %ebx, %cs:0x7004; mov %ecx, %cs:0x7008; mov %edx, %cs:0x700c\n"
        "  mov %esi, %cs:0x7010; mov %edi, %cs:0x7014; mov %ebp, %cs:0x7018; mov %esp, %cs:0x701c\n"
        "  xor %ax, %ax; mov %ax, %ss; mov $0x6f00, %sp; pushfl; popl %cs:0x7036\n"
        "  mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
        "  ljmpl $0x08, $real_back\n"
        "real_idt: .word 0x3ff; .long 0\n"
        "real_end:\n"
        ".code32\n"
        "enter_real:\n" // with the kind of segments for DS and FS in EAX
        "  pusha\n"
        "  mov %esp, 0x703a\n"
        "  mov $0x60, %ecx; mov %ecx, %es; mov %ecx, %gs; mov %ecx, %ss; mov %eax, %ds; mov %eax, %fs\n"
        "  ljmp $0x68, $0x8000\n"
        "real_back:\n"
        "  mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
        "  mov 0x703a, %esp\n"
        "  popa\n"
        "  ret\n");
extern u8 real_start[], real_leave[], real_end[];

static void defaults(void)
{
    in = (struct state){.esp = 0xfff0, .ds = DATA_SEG, .es = EXTRA_SEG, .ss = STACK_SEG, .cs = CODE_SEG, .flags = 2};
}

static void set_vector(unsigned vector, u16 seg, u16 off)
{
    *AT16(0, vector * 4) = off;
    *AT16(0, vector * 4 + 2) = seg;
}

static void real_init(void)
{
    gdt[SEL_DATA64K / 8] = make_desc(0, 0xffff, 0x93);
    gdt[SEL_CODE64K / 8] = make_desc(0, 0xffff, 0x9b);
    for (u32 i = 0; i < (u32)(real_end - real_start); i++)
        *AT(0, 0x8000 + i) = real_start[i];
    u32 leave = 0x8000 + (u32)(real_leave - real_start);
    for (u32 v = 0; v < 256; v++) {
        u32 at = STUBS + v * 6;
        *AT(0, at) = 0x68; // PUSH
        *AT16(0, at + 1) = (u16)v;
        *AT(0, at + 3) = 0xe9; // JMP
        *AT16(0, at + 4) = (u16)(leave - (at + 6));
        set_vector(v, 0, (u16)at);
    }
    defaults();
}

__attribute__((noinline)) static void run_real(const u8 *start, const u8 *end)
{
    struct table_reg idtr;
    __asm__ volatile("sidt %0" : "=m"(idtr));
    for (u32 i = 0; i < (u32)(end - start); i++)
        *AT(in.cs, in.ip + i) = start[i];
    *(struct state *)STATE = in;
    __asm__ volatile("call enter_real" ::"a"(big ? SEL_DATA : SEL_DATA64K) : "memory", "cc");
    __asm__ volatile("lidt %0" ::"m"(idtr));
    out = *(struct state *)STATE;
    defaults();
}

// Without operands, so that the code reads as it is.
#define RUN(code) \
    do { \
        __asm__ volatile(".pushsection .rodata; .code16; 771: " code "; int $0x60; 772: .code32; .popsection;" \
                         "movl $771b, piece; movl $772b, piece + 4"); \
        run_real(piece[0], piece[1]); \
    } while (0)
// Where it ended: vector and IP of the frame.
#define CHECK_OUT(v, at) \
    check_at(out.vector == (v) && out.out_ip == (u16)(at) && out.out_cs == CODE_SEG, __FILE__, __LINE__, \
             "vector %x at %x:%x, not %x at %x", out.vector, out.out_cs, out.out_ip, (unsigned)(v), \
             (unsigned)(u16)(at))

#endif
