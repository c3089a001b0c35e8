// Two processors that call work() for ever, each with its own counter, until `stop` is set; then status 1. Multiboot, 32-bit, flat.
#define TRAMPOLINE 0x8000
#define LAPIC 0xfee00000

    .text
    .align 4
    .long 0x1badb002, 0, -0x1badb002

    .globl _start
_start:
    mov $bsp_stack, %esp
    cld
    mov $trampoline, %esi
    mov $TRAMPOLINE, %edi
    mov $(trampoline_end - trampoline), %ecx
    rep movsb
    movl $0x1ff, LAPIC + 0xf0                         // software-enabled
    movl $0x000c4500, LAPIC + 0x300                   // INIT to all others
    movl $(0x000c4600 | TRAMPOLINE >> 12), LAPIC + 0x300 // SIPI
1:  mov $count0, %eax
    call work
    cmpl $0, stop
    je 1b
    xor %eax, %eax
    mov $0xf4, %edx
    out %eax, %dx
2:  hlt
    jmp 2b

    .globl work
    .type work, @function
work:
    incl (%eax)
    ret
    .size work, . - work

    .code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    data32 lgdt TRAMPOLINE + (gdt_reg - trampoline)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    data32 ljmp $0x08, $second
gdt_reg:
    .word 23
    .long gdt
trampoline_end:

    .code32
    .globl second
second:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $ap_stack, %esp
1:  mov $count1, %eax
    call work
    jmp 1b

    .data
    .align 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .align 64
    .globl count0, count1, stop
count0: .long 0
    .align 64
count1: .long 0
    .align 64
stop: .long 0

    .bss
    .align 16
    .space 4096
bsp_stack:
    .space 4096
ap_stack:
