// Entry of 64-bit guests: from multiboot's 32-bit protected mode to long mode, and the trap stubs.
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
    // Long mode: PAE, the boot tables, LME, paging.
    mov %cr4, %eax
    or $0x620, %eax         // PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax         // NXE, LME, SCE
    wrmsr
    mov %cr0, %eax
    and $~0x4, %eax         // not EM
    or $0x80010022, %eax    // PG, WP, NE, MP
    mov %eax, %cr0
    lgdt gdt_reg
    ljmp $0x08, $1f
    .code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_end, %rsp
    call guest_init
    call guest_main
    cmpl $0, failed(%rip)
    setne %dil
    movzbl %dil, %edi
    call guest_exit

// --- traps: every stub pushes an error code where the processor does not, and its vector ---------------------------------

    .macro STUB n
    .align 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21)
    .byte 0x90, 0x90        // keep the stubs alike
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

trap_common:
    push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap_entry
    mov %rbp, %rsp
    .globl trap_return
trap_return:
    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
    pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
    add $16, %rsp
    iretq

// --- TRY ---------------------------------------------------------------------------------------------------------------------

    .globl try_save
try_save:
    mov %rbx, 0(%rdi)
    mov %rbp, 8(%rdi)
    mov %r12, 16(%rdi)
    mov %r13, 24(%rdi)
    mov %r14, 32(%rdi)
    mov %r15, 40(%rdi)
    lea 8(%rsp), %rax
    mov %rax, 48(%rdi)
    mov (%rsp), %rax
    mov %rax, 56(%rdi)
    mov $-1, %eax
    ret

    .globl try_resume
try_resume:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov 0(%rdi), %rbx
    mov 8(%rdi), %rbp
    mov 16(%rdi), %r12
    mov 24(%rdi), %r13
    mov 32(%rdi), %r14
    mov 40(%rdi), %r15
    mov 48(%rdi), %rsp
    push $2
    popf
    mov %esi, %eax
    jmp *56(%rdi)

// enter_user(ip, sp, arg)
    .globl enter_user
enter_user:
    push $0x23
    push %rsi
    pushf
    mov user_flags(%rip), %rax
    or %rax, (%rsp)
    push $0x1b
    push %rdi
    mov %rdx, %rdi
    iretq

// --- tables -------------------------------------------------------------------------------------------------------------------

    .data
    .align 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 08 code64
    .quad 0x00cf93000000ffff    // 10 data
    .quad 0x00affb000000ffff    // 18 user code64
    .quad 0x00cff3000000ffff    // 20 user data
    .quad 0x00cf9b000000ffff    // 28 code32
    .quad 0x00cffb000000ffff    // 30 user code32
    .quad 0x008f9b000000ffff    // 38 code16
    .quad 0x008f93000000ffff    // 40 data16
    .fill 55, 8, 0
    .globl gdt_reg
gdt_reg:
    .word 64 * 8 - 1
    .quad gdt
    .globl mb_info, mb_magic
mb_info: .long 0
mb_magic: .long 0

    .align 4096
boot_pml4:
    .quad boot_pdpt + 7
    .fill 511, 8, 0
boot_pdpt:
    .quad boot_pd + 7, boot_pd + 4096 + 7, boot_pd + 8192 + 7, boot_pd + 12288 + 7
    .fill 508, 8, 0
boot_pd:
    .set a, 0
    .rept 2048
    .quad a + 0xe7              // P W U A D PS
    .set a, a + 0x200000
    .endr

    .bss
    .align 4096
    .space 32768
stack_end:
    .section .note.GNU-stack, "", @progbits
