// The core benchmark's loads run natively: the base line of the ratios.
#include <stdio.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "jit.h"
#include "workload.h"

int main(void)
{
    unsigned long t = __rdtsc();
    unsigned long sum = work_int(WORK_INT_ROUNDS);
    printf("cycles int %lu sum %lu\n", (unsigned long)__rdtsc() - t, sum);
    t = __rdtsc();
    sum = work_mix(WORK_MIX_ROUNDS);
    printf("cycles mix %lu sum %lu\n", (unsigned long)__rdtsc() - t, sum);
    void *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return 1;
    t = __rdtsc();
    sum = work_jit(pages, WORK_JIT_ROUNDS);
    printf("cycles jit %lu sum %lu\n", (unsigned long)__rdtsc() - t, sum);
    return sum != 1;
}
