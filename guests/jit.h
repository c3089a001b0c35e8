// What programs do that make code while they run: data beside code, patched immediates, fresh code behind old, patched calls, a stack on
// the page of the code. Shared by a guest that checks the results, and by the benchmark, in a guest and natively. Each function does
// `rounds` rounds of a write and a call in `page` (two pages, writable and executable) and returns how many results were wrong.
#ifndef JIT_H
#define JIT_H

#include <stdint.h>

typedef uint32_t jit_fn(void);

static inline void jit_put32(uint8_t *at, uint32_t v)
{
    __builtin_memcpy(at, &v, 4);
    __asm__ volatile("" ::: "memory");
}

// MOV EAX, v; RET
static inline uint8_t *jit_put_return(uint8_t *at, uint32_t v)
{
    at[0] = 0xb8;
    jit_put32(at + 1, v);
    at[5] = 0xc3;
    __asm__ volatile("" ::: "memory");
    return at + 6;
}

static inline uint32_t jit_call(const uint8_t *at)
{
    __asm__ volatile("" ::: "memory");
    uint32_t v = ((jit_fn *)(uintptr_t)at)();
    __asm__ volatile("" ::: "memory");
    return v;
}

// A variable beside the code that reads it.
__attribute__((noinline)) static uint32_t jit_data(uint8_t *page, uint32_t rounds)
{
    static const uint8_t code[] = {0x8b, 0x05, 0x7a, 0x00, 0x00, 0x00, 0xff, 0x05, 0x78, 0x00, 0x00, 0x00, 0xc3};
    uint32_t wrong = 0; // MOV EAX, [RIP + 128 - 6]; INC DWORD [RIP + 132 - 12]; RET
    for (unsigned i = 0; i < sizeof code; i++)
        page[i] = code[i];
    jit_put32(page + 132, 0);
    for (uint32_t i = 0; i < rounds; i++) {
        jit_put32(page + 128, i * 3);
        wrong += jit_call(page) != i * 3;
    }
    uint32_t count;
    __builtin_memcpy(&count, page + 132, 4);
    return wrong + (count != rounds);
}

// An immediate that changes each time.
__attribute__((noinline)) static uint32_t jit_patch(uint8_t *page, uint32_t rounds)
{
    uint32_t wrong = 0;
    jit_put_return(page, 0);
    for (uint32_t i = 0; i < rounds; i++) {
        jit_put32(page + 1, i ^ 0x5a5a5a5a);
        wrong += jit_call(page) != (i ^ 0x5a5a5a5a);
    }
    return wrong;
}

// Fresh code behind what is there; when the pages are full, from the start again. The old is called, too.
__attribute__((noinline)) static uint32_t jit_emit(uint8_t *page, uint32_t rounds)
{
    uint32_t wrong = 0, old_value = 0;
    uint8_t *at = page, *old = page;
    jit_put_return(page, 0);
    for (uint32_t i = 0; i < rounds; i++) {
        if (at > page + 8192 - 48)
            at = page;
        uint8_t *fn = at;
        for (unsigned k = 0; k < (i & 3); k++) { // LEA ECX, [RCX + k]
            *at++ = 0x8d;
            *at++ = 0x49;
            *at++ = (uint8_t)k;
        }
        at = jit_put_return(at, i);
        wrong += jit_call(fn) != i;
        if (old + 16 > fn && old < at + 16) { // overwritten, or nearly
            old = fn;
            old_value = i;
        }
        wrong += jit_call(old) != old_value;
        if ((i & 63) == 0) {
            old = fn;
            old_value = i;
        }
    }
    return wrong;
}

// A call and a jump that get new targets.
__attribute__((noinline)) static uint32_t jit_link(uint8_t *page, uint32_t rounds)
{
    uint32_t wrong = 0;
    for (unsigned k = 0; k < 8; k++)
        jit_put_return(page + 0x400 + 0x180 * k, k);
    page[0] = 0xe8; // CALL; LEA EAX, [RAX + RAX * 2]; JMP
    page[5] = 0x8d;
    page[6] = 0x04;
    page[7] = 0x40;
    page[8] = 0xe9;
    page[0x200] = page[0x220] = 0x83; // ADD EAX, n; RET
    page[0x201] = page[0x221] = 0xc0;
    page[0x202] = 10;
    page[0x222] = 20;
    page[0x203] = page[0x223] = 0xc3;
    for (uint32_t i = 0; i < rounds; i++) {
        jit_put32(page + 1, 0x400 + 0x180 * (i & 7) - 5);
        if ((i & 3) == 0)
            jit_put32(page + 9, (i & 4 ? 0x220 : 0x200) - 13);
        wrong += jit_call(page) != (i & 7) * 3 + (i & 4 ? 20u : 10u);
    }
    return wrong;
}

// A stack on the page of the code that pushes to it: XCHG RSP, RDI; PUSH, POP; XCHG RSP, RDI.
__attribute__((noinline)) static uint32_t jit_stack(uint8_t *page, uint32_t rounds)
{
    static const uint8_t code[] = {0x48, 0x87, 0xe7, 0x56, 0x51, 0x58, 0x5a, 0x48, 0x87, 0xe7, 0x29, 0xd0, 0xc3};
    uint32_t wrong = 0; // ... PUSH RSI; PUSH RCX; POP RAX; POP RDX; ...; SUB EAX, EDX; RET
    for (unsigned i = 0; i < sizeof code; i++)
        page[i] = code[i];
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t result, top = (uint64_t)(uintptr_t)page + 0x800, a = i, b = 3 * i;
        __asm__ volatile("sub $128, %%rsp; call *%4; add $128, %%rsp"
                         : "=a"(result), "+D"(top), "+S"(a), "+c"(b)
                         : "r"(page)
                         : "rdx", "memory", "cc");
        wrong += (uint32_t)result != 2 * i;
    }
    return wrong;
}

// All of it, for the benchmark.
__attribute__((noinline, unused)) static uint64_t work_jit(uint8_t *page, uint32_t rounds)
{
    return 1 + jit_data(page, rounds) + jit_patch(page, rounds) + jit_emit(page, rounds) + jit_link(page, rounds) +
           jit_stack(page, rounds);
}

#define WORK_JIT_ROUNDS 4000

#endif
