// Code that is made while it runs, 100000 rounds of a write and a call for each habit of programs that do so; and with the pages mapped
// twice, one mapping to write and one to run.
#include "code.h"
#include "jit.h"

const char guest_name[] = "smcjit64";

#define ROUNDS 100000u

// Written in one mapping and run in another, as hardened programs do it. The writer serializes.
static u32 two_mappings(u32 rounds)
{
    u32 wrong = 0;
    put_return(alias, 0);
    for (u32 i = 0; i < rounds; i++) {
        *(volatile u32 *)(alias + 1) = i;
        serialize();
        wrong += call(code) != i;
    }
    return wrong;
}

// A page that is writable or executable, never both: it flips for each piece of code.
static u32 flipping_page(u32 rounds)
{
    u32 wrong = 0;
    for (u32 i = 0; i < rounds; i++) {
        map(0, PHYS | PTE_ALL | PTE_NX);
        put_return(code, i);
        map(0, PHYS | PTE_P | PTE_U);
        wrong += call(code) != i;
    }
    map_back(0);
    return wrong;
}

void guest_main(void)
{
    code_init();
    CHECK_EQ(jit_data(code, ROUNDS), 0);
    CHECK_EQ(jit_patch(code, ROUNDS), 0);
    CHECK_EQ(jit_emit(code, ROUNDS), 0);
    CHECK_EQ(jit_link(code, ROUNDS), 0);
    CHECK_EQ(jit_stack(code, ROUNDS), 0);
    CHECK_EQ(two_mappings(ROUNDS / 10), 0);
    CHECK_EQ(flipping_page(ROUNDS / 10), 0);
    CHECK_EQ(jit_data(code, ROUNDS), 0); // on pages with that past
}
