// The core benchmark's loads in a guest: time-stamp counter cycles of each.
#include "guest.h"
#include "jit.h"
#include "workload.h"

const char guest_name[] = "bench64";

static u8 pages[8192] __attribute__((aligned(4096)));

static u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

void guest_main(void)
{
    u64 t = tsc();
    u64 sum = work_int(WORK_INT_ROUNDS);
    print("cycles int %lu sum %lu\n", (unsigned long)(tsc() - t), (unsigned long)sum);
    t = tsc();
    sum = work_mix(WORK_MIX_ROUNDS);
    print("cycles mix %lu sum %lu\n", (unsigned long)(tsc() - t), (unsigned long)sum);
    t = tsc();
    sum = work_jit(pages, WORK_JIT_ROUNDS);
    print("cycles jit %lu sum %lu\n", (unsigned long)(tsc() - t), (unsigned long)sum);
    CHECK(sum != 0);
}
