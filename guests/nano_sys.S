// Loops of one operation each that need a processor of one's own: see nano_user.S. What nano64.c has
// prepared is in nano_page: R8 a linear address, R9 the page-table entry that maps it, R10 what that entry is when it is present.
#include "nano_loop.h"

#define LAPIC 0xfee00000
#define LAPIC_EOI 0xb0
#define LAPIC_ICR 0x300
#define LAPIC_INITIAL 0x380

    .text

    .macro page_registers
    mov nano_page+0(%rip), %r8
    mov nano_page+8(%rip), %r9
    mov nano_page+16(%rip), %r10
    .endm

// --- into the kernel and back -------------------------------------------------------------------------------------------------

OP(syscall)
LOOP(syscall)

    .globl nano_syscall_entry
    .p2align 4
nano_syscall_entry:
    sysretq

OP(int)
LOOP(int $0x81)

    .globl nano_iretq
    .p2align 4
nano_iretq:
    iretq

OP(divide)
    xor %ecx, %ecx
    mov $1, %eax
LOOP(div %cl)

    .globl nano_skip_divide
    .p2align 4
nano_skip_divide:
    addq $2, (%rsp)
    iretq

OP(fault)
    page_registers
LOOP(mov (%r8), %eax)

// That instruction is three bytes long.
    .globl nano_skip_access
    .p2align 4
nano_skip_access:
    addq $3, 8(%rsp)
    add $8, %rsp
    iretq

OP(fault_map)
    page_registers
LOOP(mov (%r8), %eax; movq $0, (%r9); invlpg (%r8))

    .globl nano_map
    .p2align 4
nano_map:
    mov %r10, (%r9)
    add $8, %rsp
    iretq

// --- ports, registers, flags --------------------------------------------------------------------------------------------------

OP(in)
LOOP(in $0x80, %al)

OP(out)
LOOP(out %al, $0x80)

OP(write_cr8)
    xor %eax, %eax
LOOP(mov %rax, %cr8)

OP(write_cr3)
    mov %cr3, %rax
LOOP(mov %rax, %cr3)

// What a process switch costs beside: the pages that it touches next.
OP(write_cr3_touch)
    page_registers
    mov %cr3, %rax
    .p2align 4
1:  EIGHT(mov %rax, %cr3; mov 0x0000(%r8), %edx; mov 0x1040(%r8), %edx; mov 0x2080(%r8), %edx; mov 0x30c0(%r8), %edx; \
          mov 0x4100(%r8), %edx; mov 0x5140(%r8), %edx; mov 0x6180(%r8), %edx; mov 0x71c0(%r8), %edx)
    dec %rdi
    jnz 1b
    ret

// Two address spaces in turn, CR3 bit 63 saying that what is known of them stays.
OP(write_cr3_pcid)
    page_registers
    mov $1, %ecx
    shl $63, %rcx
    mov %cr3, %rax
    or %rcx, %rax
    .p2align 4
1:  EIGHT(xor $1, %rax; mov %rax, %cr3; mov 0x0000(%r8), %edx; mov 0x1040(%r8), %edx; mov 0x2080(%r8), %edx; \
          mov 0x30c0(%r8), %edx; mov 0x4100(%r8), %edx; mov 0x5140(%r8), %edx; mov 0x6180(%r8), %edx; \
          mov 0x71c0(%r8), %edx)
    dec %rdi
    jnz 1b
    ret

OP(rdmsr)
    mov $0xc0000100, %ecx
LOOP(rdmsr)

OP(wrmsr)
    mov $0xc0000100, %ecx
    xor %eax, %eax
    xor %edx, %edx
LOOP(wrmsr)

OP(swapgs)
LOOP(swapgs)

OP(cli_sti)
    .p2align 4
1:  EIGHT(sti; cli)
    dec %rdi
    jnz 1b
    ret

OP(pushf_popf)
LOOP(pushf; popf)

// --- page tables ----------------------------------------------------------------------------------------------------------------

OP(pte_same)
    page_registers
LOOP(mov %r10, (%r9))

OP(pte_remove)
    page_registers
LOOP(movq $0, (%r9); invlpg (%r8); add $8, %r9; add $4096, %r8)

OP(pte_add)
    page_registers
LOOP(mov %r10, (%r9); mov (%r8), %eax; add $8, %r9; add $4096, %r8)

OP(invlpg)
    page_registers
LOOP(invlpg (%r8))

// One read in each page, and in another cache line each time: all the pages are the same memory.
OP(walk)
    page_registers
    xor %r11d, %r11d
LOOP(mov (%r8, %r11), %eax; add $4096, %r8; add $64, %r11d; and $0xfff, %r11d)

// --- devices and interrupts -------------------------------------------------------------------------------------------------------

OP(mmio_read)
    mov $LAPIC, %esi
LOOP(mov 0x20(%rsi), %eax)

// A store into the page that this code is in, where there is no code.
    .p2align 12
OP(write_code_page)
    lea 2f(%rip), %rsi
    xor %ecx, %ecx
LOOP(mov %rax, (%rsi, %rcx); add $72, %ecx; and $0x1ff, %ecx)
    .balign 2048
2:  .space 1024

// An interrupt to the processor itself, until its handler has run.
OP(ipi)
    mov $LAPIC, %esi
    xor %r11d, %r11d
    sti
1:  EIGHT(lea 1(%r11), %eax; movl $0x40041, LAPIC_ICR(%rsi); 2: cmp %eax, %r11d; jne 2b)
    dec %rdi
    jnz 1b
    cli
    ret

// The shortest time that the local APIC's timer can be set to, slept through.
OP(hlt)
    mov $LAPIC, %esi
1:  EIGHT(movl $1, LAPIC_INITIAL(%rsi); sti; hlt; cli)
    dec %rdi
    jnz 1b
    ret

    .globl nano_interrupt
    .p2align 4
nano_interrupt:
    inc %r11d
    movl $0, LAPIC_EOI(%rsi)
    iretq
    .section .note.GNU-stack, "", @progbits
