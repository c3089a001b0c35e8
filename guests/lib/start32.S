// Entry of 32-bit guests: multiboot's 32-bit protected mode with our own tables, no paging; and the trap stubs.
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 0x3

    .section .multiboot, "a"
    .align 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

    .code32
    .text
    .globl _start
_start:
    cld
    mov %ebx, mb_info
    mov %eax, mb_magic
    mov $stack_end, %esp
    lgdt gdt_reg
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %cr0, %eax
    or $0x22, %eax              // NE, MP
    mov %eax, %cr0
    call guest_init
    call guest_main
    xor %eax, %eax
    cmpl $0, failed
    setne %al
    push %eax
    call guest_exit

    .macro STUB n
    .align 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21)
    .byte 0x90, 0x90
    .else
    push $0
    .endif
    push $\n
    jmp trap_common
    .endm

    .align 16
    .globl trap_stubs
trap_stubs:
    .altmacro
    .set i, 0
    .rept 256
    STUB %i
    .set i, i + 1
    .endr
    .noaltmacro

    .globl trap_common
trap_common:
    pusha
    push %ds
    push %es
    push %fs
    push %gs
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    mov %esp, %eax
    push %eax
    call trap_entry
    add $4, %esp
    .globl trap_return
trap_return:
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

    .globl try_save
try_save:
    mov 4(%esp), %ecx
    mov %ebx, 0(%ecx)
    mov %ebp, 4(%ecx)
    mov %esi, 8(%ecx)
    mov %edi, 12(%ecx)
    lea 4(%esp), %eax
    mov %eax, 16(%ecx)
    mov (%esp), %eax
    mov %eax, 20(%ecx)
    mov $-1, %eax
    ret

    .globl try_resume
try_resume:
    mov 4(%esp), %ecx
    mov 8(%esp), %eax
    mov $0x10, %edx
    mov %edx, %ds
    mov %edx, %es
    mov %edx, %ss
    mov 0(%ecx), %ebx
    mov 4(%ecx), %ebp
    mov 8(%ecx), %esi
    mov 12(%ecx), %edi
    mov 16(%ecx), %esp
    push $2
    popf
    jmp *20(%ecx)

// enter_user(ip, sp, arg): arg is on the user stack already
    .globl enter_user
enter_user:
    mov 4(%esp), %ecx
    mov 8(%esp), %edx
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    push $0x23
    push %edx
    pushf
    mov user_flags, %eax
    or %eax, (%esp)
    push $0x1b
    push %ecx
    iret

    .data
    .align 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 08 code
    .quad 0x00cf93000000ffff    // 10 data
    .quad 0x00cffb000000ffff    // 18 user code
    .quad 0x00cff3000000ffff    // 20 user data
    .quad 0x00cf9b000000ffff    // 28 code (as in 64-bit guests)
    .quad 0x00cffb000000ffff    // 30
    .quad 0x008f9b000000ffff    // 38 code16
    .quad 0x008f93000000ffff    // 40 data16
    .fill 55, 8, 0
    .globl gdt_reg
gdt_reg:
    .word 64 * 8 - 1
    .long gdt
    .globl mb_info, mb_magic
mb_info: .long 0
mb_magic: .long 0

    .bss
    .align 4096
    .space 32768
stack_end:
    .section .note.GNU-stack, "", @progbits
