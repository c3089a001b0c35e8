// The way into and out of one test instruction, without a system call.
//
// The instruction may use every register, so all that has to survive sits at fixed addresses below 2 GiB (layout.h), reached
// by absolute addressing. Code after the instruction jumps to one of the exits; faults arrive at the signal entry.
#include "oracle/layout.h"

        .text

// int orc_native_enter(const struct orc_state *in, int way): returns 0 after an exit, 1 after a signal.
        .globl  orc_native_enter
        .type   orc_native_enter, @function
        .p2align 6
orc_native_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, CTX + CTX_HOST_RSP
        mov     $7, %eax
        xor     %edx, %edx
        xrstor64 ST_XS(%rdi)
        cmpb    $0, CTX + CTX_SEGS
        je      1f
        movzwl  ST_SEL + 0(%rdi), %eax
        mov     %eax, %es
        movzwl  ST_SEL + 6(%rdi), %eax
        mov     %eax, %ds
        movzwl  ST_SEL + 8(%rdi), %eax
        mov     %eax, %fs
        movzwl  ST_SEL + 10(%rdi), %eax
        mov     %eax, %gs
        cmp     $ENTER_FAR, %esi
        je      2f
        cmp     $ENTER_IRET_LEGACY, %esi
        je      3f
        mov     ST_FS(%rdi), %rax
        wrfsbase %rax
        mov     ST_GS(%rdi), %rax
        wrgsbase %rax
1:      cmp     $ENTER_64, %esi
        jne     3f
        pushq   ST_RFLAGS(%rdi)
        popfq
        mov     ST_GPR + 0(%rdi), %rax
        mov     ST_GPR + 8(%rdi), %rcx
        mov     ST_GPR + 16(%rdi), %rdx
        mov     ST_GPR + 24(%rdi), %rbx
        mov     ST_GPR + 32(%rdi), %rsp
        mov     ST_GPR + 40(%rdi), %rbp
        mov     ST_GPR + 48(%rdi), %rsi
        mov     ST_GPR + 64(%rdi), %r8
        mov     ST_GPR + 72(%rdi), %r9
        mov     ST_GPR + 80(%rdi), %r10
        mov     ST_GPR + 88(%rdi), %r11
        mov     ST_GPR + 96(%rdi), %r12
        mov     ST_GPR + 104(%rdi), %r13
        mov     ST_GPR + 112(%rdi), %r14
        mov     ST_GPR + 120(%rdi), %r15
        mov     ST_GPR + 56(%rdi), %rdi
        jmp     *CTX + CTX_TARGET

        // Legacy modes: SS and RSP are loaded in 64-bit mode, where they are not used, and then CS by a far jump.
2:      pushq   ST_RFLAGS(%rdi)
        popfq
        movzwl  ST_SEL + 4(%rdi), %eax
        mov     %eax, %ss
        mov     ST_GPR + 32(%rdi), %rsp
        mov     ST_GPR + 0(%rdi), %rax
        mov     ST_GPR + 8(%rdi), %rcx
        mov     ST_GPR + 16(%rdi), %rdx
        mov     ST_GPR + 24(%rdi), %rbx
        mov     ST_GPR + 40(%rdi), %rbp
        mov     ST_GPR + 48(%rdi), %rsi
        mov     ST_GPR + 56(%rdi), %rdi
        ljmp    *CTX + CTX_TARGET

        // IRETQ sets TF so that it traps after the instruction and not before it.
3:      movzwl  ST_SEL + 4(%rdi), %eax
        push    %rax
        pushq   ST_GPR + 32(%rdi)
        pushq   ST_RFLAGS(%rdi)
        movzwl  ST_SEL + 2(%rdi), %eax
        push    %rax
        pushq   CTX + CTX_TARGET
        mov     ST_GPR + 0(%rdi), %rax
        mov     ST_GPR + 8(%rdi), %rcx
        mov     ST_GPR + 16(%rdi), %rdx
        mov     ST_GPR + 24(%rdi), %rbx
        mov     ST_GPR + 40(%rdi), %rbp
        mov     ST_GPR + 48(%rdi), %rsi
        mov     ST_GPR + 64(%rdi), %r8
        mov     ST_GPR + 72(%rdi), %r9
        mov     ST_GPR + 80(%rdi), %r10
        mov     ST_GPR + 88(%rdi), %r11
        mov     ST_GPR + 96(%rdi), %r12
        mov     ST_GPR + 104(%rdi), %r13
        mov     ST_GPR + 112(%rdi), %r14
        mov     ST_GPR + 120(%rdi), %r15
        mov     ST_GPR + 56(%rdi), %rdi
        iretq
        .size   orc_native_enter, . - orc_native_enter

        .globl  orc_native_exit0
orc_native_exit0:
        movl    $0, CTX + CTX_LAND
        jmp     leave
        .globl  orc_native_exit1
orc_native_exit1:
        movl    $1, CTX + CTX_LAND
leave:  mov     %rax, CTX + CTX_GPR + 0
        mov     %rcx, CTX + CTX_GPR + 8
        mov     %rdx, CTX + CTX_GPR + 16
        mov     %rbx, CTX + CTX_GPR + 24
        mov     %rsp, CTX + CTX_GPR + 32
        mov     %rbp, CTX + CTX_GPR + 40
        mov     %rsi, CTX + CTX_GPR + 48
        mov     %rdi, CTX + CTX_GPR + 56
        mov     %r8, CTX + CTX_GPR + 64
        mov     %r9, CTX + CTX_GPR + 72
        mov     %r10, CTX + CTX_GPR + 80
        mov     %r11, CTX + CTX_GPR + 88
        mov     %r12, CTX + CTX_GPR + 96
        mov     %r13, CTX + CTX_GPR + 104
        mov     %r14, CTX + CTX_GPR + 112
        mov     %r15, CTX + CTX_GPR + 120
        mov     CTX + CTX_HOST_RSP, %rsp
        pushfq
        popq    CTX + CTX_RFLAGS
        pushq   $2
        popfq
        mov     $7, %eax
        xor     %edx, %edx
        mov     CTX + CTX_OUT_XS, %rcx
        xsave64 (%rcx)
        fnstenv CTX + CTX_ENV
        vzeroupper
        cmpb    $0, CTX + CTX_SEGS
        je      1f
        call    leave_segs
1:      xor     %eax, %eax
back:   movb    $0, CTX + CTX_IN_TEST
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

// Note segment registers and bases, and give the host its own back.
leave_segs:
        mov     %es, CTX + CTX_SEL + 0
        mov     %cs, CTX + CTX_SEL + 2
        mov     %ss, CTX + CTX_SEL + 4
        mov     %ds, CTX + CTX_SEL + 6
        mov     %fs, CTX + CTX_SEL + 8
        mov     %gs, CTX + CTX_SEL + 10
        rdfsbase %rax
        mov     %rax, CTX + CTX_FS
        rdgsbase %rax
        mov     %rax, CTX + CTX_GS
        xor     %eax, %eax
        mov     %eax, %es
        mov     %eax, %ds
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $0x2b, %eax
        mov     %eax, %ss
        mov     CTX + CTX_HOST_FS, %rax
        wrfsbase %rax
        mov     CTX + CTX_HOST_GS, %rax
        wrgsbase %rax
        ret

// Signal handler (alternate stack). The state in the frame is what the exception left; nothing returns through the frame.
        .globl  orc_native_signal
orc_native_signal:
        pushq   $2
        popfq
        call    leave_segs
        sub     $8, %rsp
        mov     %rdx, %rdi
        call    orc_native_fault
        mov     CTX + CTX_HOST_RSP, %rsp
        mov     $1, %eax
        jmp     back

        .section .note.GNU-stack, "", @progbits
