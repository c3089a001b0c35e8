// Loops of one operation each that run at any privilege level, in the guest and in a native program: nano_NAME(n) does n of them, n a
// multiple of 64. The loop's own two instructions are shared by eight operations and counted among them.
#include "nano_loop.h"

    .text

// --- calls ------------------------------------------------------------------------------------------------------------------

    .p2align 4
leaf:
    ret

OP(call_direct)
LOOP(call leaf)

OP(call_indirect)
    lea leaf(%rip), %rsi
LOOP(call *%rsi)

// Two targets in turn, as virtual functions have them.
    .p2align 4
other_leaf:
    ret

OP(call_two_targets)
    lea leaf(%rip), %rsi
    lea other_leaf(%rip), %rdx
LOOP(xchg %rsi, %rdx; call *%rsi)

// 64 calls deep and back: more than processors predict the returns of.
    .p2align 4
deeper:
    dec %esi
    jz 1f
    call deeper
1:  ret

OP(call_recursive)
    shr $3, %rdi
2:  mov $64, %esi
    call deeper
    dec %rdi
    jnz 2b
    ret

// --- memory, always the same 32 KiB of the caller's --------------------------------------------------------------------------

OP(read)
    lea nano_area(%rip), %rsi
    xor %ecx, %ecx
LOOP(mov (%rsi, %rcx), %rax; add $72, %ecx; and $0x7fff, %ecx)

OP(write)
    lea nano_area(%rip), %rsi
    xor %ecx, %ecx
LOOP(mov %rax, (%rsi, %rcx); add $72, %ecx; and $0x7fff, %ecx)

OP(modify)
    lea nano_area(%rip), %rsi
    xor %ecx, %ecx
LOOP(add %rax, (%rsi, %rcx); add $72, %ecx; and $0x7fff, %ecx)

// From one page into the next, one of four in turn.
OP(read_cross)
    lea nano_area(%rip), %rsi
    xor %ecx, %ecx
LOOP(mov 4093(%rsi, %rcx), %rax; add $4096, %ecx; and $0x3fff, %ecx)

OP(write_cross)
    lea nano_area(%rip), %rsi
    xor %ecx, %ecx
LOOP(mov %rax, 4093(%rsi, %rcx); add $4096, %ecx; and $0x3fff, %ecx)

OP(copy)
    lea nano_area(%rip), %rdx
LOOP(mov %rdx, %rsi; lea 4096(%rdx), %rax; xchg %rdi, %rax; mov $512, %ecx; rep movsq; mov %rax, %rdi)

// --- instructions that some monitors trap ------------------------------------------------------------------------------------

OP(rdtsc)
LOOP(rdtsc)

OP(cpuid)
    push %rbx
1:  EIGHT(xor %eax, %eax; cpuid)
    dec %rdi
    jnz 1b
    pop %rbx
    ret

    .bss
    .p2align 12
nano_area:
    .space 32768 + 4096
    .section .note.GNU-stack, "", @progbits
