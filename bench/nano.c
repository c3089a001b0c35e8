// The nanobenchmarks that need nothing of the system, run natively: the base line of the guest's.
#include <stdio.h>
#include <sys/mman.h>

#define nano_print printf
#include "nano.h"

int main(void)
{
    size_t size = NANO_COLD_DATA + (size_t)NANO_COLD_BYTES * NANO_MAX_SAMPLES;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (unsigned i = 0; i < NANO_USER_OPS; i++)
        nano_measure(&nano_user_ops[i], nano_timed);
    nano_cold(memory);
    return nano_wrong != 0;
}
