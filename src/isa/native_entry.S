// Where a thunk goes on after an unmasked SIMD exception (see native.h): the host's vector state is put back, the guest's
// registers in the context are still those before the instruction. rdi is the context, as in every thunk; the stack is at the
// thunk's return address.
#include "isa/native.h"

    .text
    .globl native_recover
    .hidden native_recover
    .type native_recover, @function
native_recover:
    fninit
    ldmxcsr NATIVE_CTX_HOST_MXCSR(%rdi)
    movl    $1, %eax
    ret
    .size native_recover, . - native_recover

    .section .note.GNU-stack, "", @progbits
