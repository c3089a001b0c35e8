// The shape of a nanobenchmark's loop, for assembly: OP(name), what the loop needs, LOOP(operation). RDI counts groups of eight.
#ifndef NANO_LOOP_H
#define NANO_LOOP_H

// clang-format off
#define EIGHT(...) \
    __VA_ARGS__; __VA_ARGS__; __VA_ARGS__; __VA_ARGS__; __VA_ARGS__; __VA_ARGS__; __VA_ARGS__; __VA_ARGS__

#define OP(name) \
    .p2align 6; \
    .globl nano_##name; \
nano_##name: \
    shr $3, %rdi

#define LOOP(...) \
    .p2align 4; \
1:  EIGHT(__VA_ARGS__); \
    dec %rdi; \
    jnz 1b; \
    ret
// clang-format on

#endif
