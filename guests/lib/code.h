// What guests share that write code, run it and change it: pieces of code in a window of pages that is mapped twice, and calls.
//
// code: pages 0 to CODE_PAGES - 1 at WINDOW, by 4 KiB entries; alias: the same memory as other linear pages; and the memory itself at
// PHYS, by the 2 MiB entries of the first 4 GiB. 32-bit guests have no paging, and find all three in one place.
#ifndef CODE_H
#define CODE_H

#include "guest.h"

#define PHYS 0x00a00000u
#define CODE_PAGES 8u
#ifdef __x86_64__
#define WINDOW 0x40000000u
#define ALIAS 0x40200000u
#define PTE_ALL (PTE_P | PTE_W | PTE_U)
#else
#define WINDOW PHYS
#define ALIAS PHYS
#endif

static u8 *const code = (u8 *)WINDOW;
static u8 *const alias __attribute__((unused)) = (u8 *)ALIAS;
static u8 *const flat __attribute__((unused)) = (u8 *)PHYS;

static inline void serialize(void)
{
    u32 r[4];
    cpuid(0, 0, r);
}

static inline void put_bytes(u8 *at, const u8 *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((volatile u8 *)at)[i] = bytes[i];
}
#define PUT(at, ...) \
    do { \
        static const u8 bytes_[] = {__VA_ARGS__}; \
        put_bytes((at), bytes_, sizeof bytes_); \
    } while (0)

// Copy the instructions of `text` there and return how many bytes they are. They must not depend on where they are.
#define PUT_ASM(at, text) \
    ({ \
        const u8 *from_, *to_; \
        __asm__ volatile(".pushsection .rodata; 771: " text "; 772: .popsection; mov $771b, %0; mov $772b, %1" \
                         : "=r"(from_), "=r"(to_)); \
        put_bytes((at), from_, (unsigned)(to_ - from_)); \
        (unsigned)(to_ - from_); \
    })

// MOV EAX, value; RET
static inline void put_return(u8 *at, u32 value)
{
    at[0] = 0xb8;
    __builtin_memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
    __asm__ volatile("" ::: "memory");
}

static inline u32 call(const void *fn)
{
    u32 result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(fn) : "ecx", "edx", "memory", "cc");
    return result;
}

// The same where it may trap.
__attribute__((noinline, unused)) static void try_call(const void *fn)
{
    TRY(call(fn));
}

#ifdef __x86_64__
static u64 *code_pte, *alias_pte;

// Let page `page` of the window be `entry`.
static inline void map(unsigned page, u64 entry)
{
    *(volatile u64 *)&code_pte[page] = entry;
    invlpg(code + page * 4096);
}

static inline void map_back(unsigned page)
{
    map(page, (PHYS + page * 4096) | PTE_ALL);
}

static inline void code_init(void)
{
    code_pte = pte_of(WINDOW);
    alias_pte = pte_of(ALIAS);
    for (unsigned i = 0; i < CODE_PAGES; i++) {
        map_back(i);
        alias_pte[i] = (PHYS + 4096 * i) | PTE_ALL;
    }
    write_cr3(read_cr3());
}
#endif

#endif
