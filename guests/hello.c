// The demonstration guest of `make run`: says where it woke up and what it finds there. Ends with the value 0x10, which is no test
// result.
#include "guest.h"

const char guest_name[] = "hello";

extern u32 mb_info; // address of the multiboot information

static void print_processor(void)
{
    u32 r[4], brand[13] = {0};

    cpuid(0, 0, r);
    u32 vendor[4] = {r[1], r[3], r[2], 0};
    print("processor: %s", (const char *)vendor);
    cpuid(0x80000000, 0, r);
    if (r[0] >= 0x80000004) {
        for (u32 i = 0; i < 3; i++)
            cpuid(0x80000002 + i, 0, &brand[i * 4]);
        print(", %s", (const char *)brand);
    }
    print("\n");
}

static void print_memory(const u32 *info)
{
    u32 at = info[12], end = at + info[11];

    // Entries: size of the rest, base, length, type (1: RAM).
    while (at < end) {
        const u32 *e = (const u32 *)(word)at;
        if (e[5] == 1)
            print("memory: %x%08x, %u KiB\n", e[2], e[1], (u32)(((u64)e[4] << 32 | e[3]) >> 10));
        at += e[0] + 4;
    }
}

static u64 sum_to(u64 n)
{
    u64 sum = 0;

    for (u64 i = 1; i <= n; i++) {
        sum += i;
        __asm__ volatile("" : "+r"(sum));
    }
    return sum;
}

void guest_main(void)
{
    const u32 *info = (const u32 *)(word)mb_info;

    print("Hello from 64-bit mode: cr0=%lx cr4=%lx efer=%lx\n", read_cr0(), read_cr4(), (word)rdmsr(0xc0000080));
    print_processor();
    print_memory(info);
    print("command line: %s\n", (const char *)(word)info[4]);
    print("1 + 2 + ... + 1000000 = %lu\n", (unsigned long)sum_to(1000000));
    TRY(*(volatile u32 *)0x7ffffffff000ULL = 0);
    print("a wild store gives exception %d, as it should\n", trap.vector);
    print("That is all; see README.md for what to do next.\n");
    guest_exit(0x10);
}
