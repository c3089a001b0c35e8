// Does a 64-bit guest start, trap and return, and reach ring 3?
#include "guest.h"

const char guest_name[] = "smoke64";

static word user_add(word arg)
{
    return arg + 1;
}

static word user_cli(word arg)
{
    __asm__ volatile("cli");
    return arg;
}

void guest_main(void)
{
    CHECK_EQ(1 + 1, 2);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP(6);
    TRY((void)*(volatile u8 *)0x8000000000000000ull);
    CHECK_TRAP_ERR(13, 0);
    TRY(__asm__ volatile("nop"));
    CHECK_TRAP(-1);
    run_user(user_add, 41);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 42);
    CHECK_EQ(trap.cs, SEL_UCODE);
    run_user(user_cli, 0);
    CHECK_TRAP_ERR(13, 0);
    *pte_of(0x40000000) = 0;
    invlpg((void *)0x40000000);
    TRY(*(volatile u32 *)0x40000004 = 1);
    CHECK_TRAP_ERR(14, 2);
    CHECK_EQ(trap.cr2, 0x40000004);
}
