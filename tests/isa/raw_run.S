// Run the code at raw_code with the registers in raw_gpr, raw_flags and raw_xs, and put what they are afterwards there. The
// code ends with a jump to raw_back; a signal handler may go there, too.

    .text
    .globl raw_run
    .type raw_run, @function
raw_run:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     %rsp, host_rsp(%rip)
    mov     $7, %eax
    xor     %edx, %edx
    xrstor64 raw_xs(%rip)
    pushq   raw_flags(%rip)
    popfq
    mov     raw_gpr+8(%rip), %rcx
    mov     raw_gpr+16(%rip), %rdx
    mov     raw_gpr+24(%rip), %rbx
    mov     raw_gpr+32(%rip), %rsp
    mov     raw_gpr+40(%rip), %rbp
    mov     raw_gpr+48(%rip), %rsi
    mov     raw_gpr+56(%rip), %rdi
    mov     raw_gpr+64(%rip), %r8
    mov     raw_gpr+72(%rip), %r9
    mov     raw_gpr+80(%rip), %r10
    mov     raw_gpr+88(%rip), %r11
    mov     raw_gpr+96(%rip), %r12
    mov     raw_gpr+104(%rip), %r13
    mov     raw_gpr+112(%rip), %r14
    mov     raw_gpr+120(%rip), %r15
    mov     raw_gpr(%rip), %rax
    jmp     *raw_code(%rip)

    .globl raw_back
raw_back:
    mov     %rax, raw_gpr(%rip)
    mov     %rcx, raw_gpr+8(%rip)
    mov     %rdx, raw_gpr+16(%rip)
    mov     %rbx, raw_gpr+24(%rip)
    mov     %rsp, raw_gpr+32(%rip)
    mov     %rbp, raw_gpr+40(%rip)
    mov     %rsi, raw_gpr+48(%rip)
    mov     %rdi, raw_gpr+56(%rip)
    mov     %r8, raw_gpr+64(%rip)
    mov     %r9, raw_gpr+72(%rip)
    mov     %r10, raw_gpr+80(%rip)
    mov     %r11, raw_gpr+88(%rip)
    mov     %r12, raw_gpr+96(%rip)
    mov     %r13, raw_gpr+104(%rip)
    mov     %r14, raw_gpr+112(%rip)
    mov     %r15, raw_gpr+120(%rip)
    mov     host_rsp(%rip), %rsp
    pushfq
    popq    raw_flags(%rip)
    mov     $7, %eax
    xor     %edx, %edx
    xsave64 raw_xs(%rip)
    fninit
    ldmxcsr default_mxcsr(%rip)
    vzeroupper
    cld
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret
    .size raw_run, . - raw_run

    .section .rodata
default_mxcsr:
    .long 0x1f80

    .bss
    .balign 64
    .globl raw_xs
raw_xs:
    .skip 832
    .globl raw_gpr
raw_gpr:
    .skip 128
    .globl raw_flags
raw_flags:
    .skip 8
    .globl raw_code
raw_code:
    .skip 8
host_rsp:
    .skip 8

    .section .note.GNU-stack, "", @progbits
