// Code where code seldom is: in a ROM (which is this very image, given as firmware), which no store changes and which is at two physical
// addresses; and at the end of memory, where the next byte is nobody's.
//
// No peer: other machines start their own firmware.
#include "code.h"

const char guest_name[] = "smcrom64";

#define RAM_END 0x2000000ul // -m 32

// What to find in the ROM: at the end of a line of 64 bytes, so that nothing else looks like it.
__asm__(".pushsection .rodata; .balign 64; .ascii \"code for the ROM\"\n"
        "  .byte 0xb8; .long 0x00c0ffee; .byte 0xc3; .balign 16, 0x90\n"            // 16: MOV EAX, n; RET
        "  lea 0(%rip), %rax; ret; .balign 16, 0x90\n"                              // 32: where am I
        "  movl $0x90909090, -16 - 20 - 10(%rip); mov $7, %eax; ret; .popsection"); // 48: writes before itself
#define LINE 64u

static u8 *find(u8 *from, u8 *to)
{
    static const char mark[] = "code for the ROM";
    for (; from < to; from += 16) {
        unsigned i = 0;
        while (i < 16 && from[i] == (u8)mark[i])
            i++;
        if (i == 16)
            return from;
    }
    return NULL;
}

static void rom(void)
{
    // ... 16 bytes aligned in the file as in memory, as pages are.
    u8 *high = find((u8 *)0xfffc0000ul, (u8 *)0xffffffc0ul), *low = find((u8 *)0xe0000ul, (u8 *)0xfffc0ul);
    CHECK(high && low);
    if (!high || !low)
        return;
    CHECK_EQ((word)high - (word)low, 0xfff00000ul);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(call(high + 16), 0xc0ffee);
        CHECK_EQ(call(low + 16), 0xc0ffee);
        CHECK_EQ(call(high + 32), (u32)(word)high + 32 + 7);
        CHECK_EQ(call(low + 32), (u32)(word)low + 32 + 7);
        *(volatile u32 *)(high + 17) = 0x11111111;
        __asm__ volatile("lock incl %0" : "+m"(*(volatile u32 *)(low + 17)));
        serialize();
        CHECK_EQ(call(high + 48), 7);
        CHECK_EQ(call(high + 16), 0xc0ffee);
        CHECK_EQ(call(low + 16), 0xc0ffee);
    }
    // A page of the window turns from RAM to ROM and back.
    for (unsigned i = 0; i < 6; i++) {
        unsigned off = (unsigned)((word)high & 4095);
        put_return(flat + off + 16, 0x1000 + i);
        map(0, i & 1 ? ((word)high & ~4095ul) | PTE_ALL : PHYS | PTE_ALL);
        CHECK_EQ(call(code + off + 16), i & 1 ? 0xc0ffee : 0x1000 + i);
    }
    map_back(0);
}

// The last bytes of memory. What follows reads as ones: FF FF is no instruction.
static void memory_end(void)
{
    for (unsigned before = 1; before < 8; before++) {
        u8 *at = (u8 *)RAM_END - before;
        for (unsigned i = 0; i < before; i++)
            at[i] = 0x90;
        for (unsigned i = 0; i < 3; i++) {
            try_call(at);
            CHECK_TRAP(6);
            CHECK_EQ(trap.ip, RAM_END);
        }
        if (before < 6) { // MOV EAX, imm32 with the rest of the immediate from nowhere
            at[0] = 0xb8;
            try_call(at);
            CHECK_TRAP(6);
            CHECK_EQ(trap.ip, (word)at + 5);
        }
        at[before - 1] = 0xc3;
        if (before > 5) {
            put_return(at, before);
            CHECK_EQ(call(at), before);
        }
    }
    // The window leads to memory, to nowhere, to memory.
    put_return(code, 5);
    for (unsigned i = 0; i < 6; i++) {
        map(0, i & 1 ? RAM_END | PTE_ALL : PHYS | PTE_ALL);
        try_call(code);
        CHECK_TRAP(i & 1 ? 6 : -1);
    }
    map_back(0);
}

void guest_main(void)
{
    code_init();
    rom();
    memory_end();
}
