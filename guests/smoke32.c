// Does a 32-bit guest start, trap and return, and reach ring 3?
#include "guest.h"

const char guest_name[] = "smoke32";

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
    TRY(__asm__ volatile("mov %0, %%ds" ::"r"(0x1234)));
    CHECK_TRAP_ERR(13, 0x1234 & 0xfffc);
    TRY(__asm__ volatile("nop"));
    CHECK_TRAP(-1);
    run_user(user_add, 41);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 42);
    CHECK_EQ(trap.cs, SEL_UCODE);
    run_user(user_cli, 0);
    CHECK_TRAP_ERR(13, 0);
}
