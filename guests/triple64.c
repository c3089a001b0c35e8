// A triple fault: the processor shuts down, which is how this guest is expected to end. Before that it makes sure that a double
// fault alone is survived; when anything goes wrong it leaves with a failure instead.
//
// No peer: QEMU resets the machine, and ends with status 0 under -no-reboot.
#include "guest.h"

const char guest_name[] = "triple64";

static void raise_gp(void)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(0x7ff8));
}

void guest_main(void)
{
    gate_absent(13);
    TRY(raise_gp());
    CHECK_TRAP_ERR(8, 0);
    if (failed)
        return;
    gate_absent(8);
    TRY(__asm__ volatile("ud2")); // still fine
    CHECK_TRAP(6);
    if (failed)
        return;
    TRY(raise_gp());
    CHECK(!"the machine goes on after a triple fault");
}
