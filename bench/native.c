// The core benchmark's loads run natively: the base line of the ratios.
#include <stdio.h>
#include <x86intrin.h>

#include "workload.h"

int main(void)
{
    unsigned long t = __rdtsc();
    unsigned long sum = work_int(WORK_INT_ROUNDS);
    printf("cycles int %lu sum %lu\n", (unsigned long)__rdtsc() - t, sum);
    t = __rdtsc();
    sum = work_mix(WORK_MIX_ROUNDS);
    printf("cycles mix %lu sum %lu\n", (unsigned long)__rdtsc() - t, sum);
    return 0;
}
