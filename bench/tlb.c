// What address translation costs: nanoseconds per TLB hit, per miss with a 4-level walk, and per flush.
#include <time.h>

#include "core/fake_host.h"

#define RAM_SIZE (64ull << 20)
#define PAGES 4096u // eight times the TLB's reach, so that a sweep misses every time
#define SWEEPS 500u

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void put64(struct fake_machine *f, gpa a, u64 val)
{
    memcpy(f->ram + a, &val, 8);
}

// Map PAGES pages at `base` to RAM from 16 MiB on: tables at 1 MiB.
static void map(struct fake_machine *f, gva base)
{
    u64 bits = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D;
    gpa pml4 = 0x100000, pdpt = 0x101000, pd = 0x102000, pt = 0x103000;

    put64(f, pml4 + ((base >> 39) & 511) * 8, pdpt | bits);
    put64(f, pdpt + ((base >> 30) & 511) * 8, pd | bits);
    for (unsigned i = 0; i < PAGES / 512; i++)
        put64(f, pd + (((base >> 21) & 511) + i) * 8, (pt + i * 4096) | bits);
    for (unsigned i = 0; i < PAGES; i++)
        put64(f, pt + i * 8, (0x1000000 + i * 4096ull) | bits);
    fake_paging_on(f, pml4, X86_CR4_PAE, X86_EFER_LME | X86_EFER_NXE);
}

static double loads(struct fake_machine *f, gva base, unsigned pages, unsigned sweeps)
{
    struct mmu_fault fault;
    u64 val, sum = 0;
    double start = seconds();

    for (unsigned s = 0; s < sweeps; s++)
        for (unsigned i = 0; i < pages; i++) {
            if (!mmu_load(&f->vcpu, base + i * 4096ull + (i & 63) * 8, 8, TLB_SUPER, &val, &fault))
                abort();
            sum += val;
        }
    __asm__ volatile("" : : "r"(sum));
    return (seconds() - start) * 1e9 / ((double)pages * sweeps);
}

static double stores(struct fake_machine *f, gva base, unsigned pages, unsigned sweeps)
{
    struct mmu_fault fault;
    double start = seconds();

    for (unsigned s = 0; s < sweeps; s++)
        for (unsigned i = 0; i < pages; i++)
            if (!mmu_store(&f->vcpu, base + i * 4096ull + (i & 63) * 8, 8, TLB_SUPER, i, &fault))
                abort();
    return (seconds() - start) * 1e9 / ((double)pages * sweeps);
}

static double cr3_loads(struct fake_machine *f, gva base, unsigned fills)
{
    struct mmu_fault fault;
    u64 val;
    double spent = 0;

    for (unsigned i = 0; i < 20000; i++) {
        for (unsigned j = 0; j < fills; j++)
            if (!mmu_load(&f->vcpu, base + j * 4096ull, 8, TLB_SUPER, &val, &fault))
                abort();
        double start = seconds();
        mmu_cr3_loaded(&f->vcpu, false);
        spent += seconds() - start;
    }
    return spent * 1e9 / 20000;
}

int main(void)
{
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    gva base = 0xffff888000000000;

    map(f, base);
    loads(f, base, PAGES, 10);
    printf("tlb: load, hit            %6.2f ns\n", loads(f, base, 256, SWEEPS * 16));
    printf("tlb: store, hit           %6.2f ns\n", stores(f, base, 256, SWEEPS * 16));
    printf("tlb: load, 4-level walk   %6.2f ns\n", loads(f, base, PAGES, SWEEPS));
    printf("tlb: store, 4-level walk  %6.2f ns\n", stores(f, base, PAGES, SWEEPS));
    double timer = 0;
    for (unsigned i = 0; i < 20000; i++) {
        double start = seconds();
        timer += seconds() - start;
    }
    timer = timer * 1e9 / 20000;
    printf("tlb: CR3 load, 0 fills    %6.2f ns\n", cr3_loads(f, base, 0) - timer);
    printf("tlb: CR3 load, 10 fills   %6.2f ns\n", cr3_loads(f, base, 10) - timer);
    printf("tlb: CR3 load, 512 fills  %6.2f ns\n", cr3_loads(f, base, 512) - timer);
    fake_machine_free(f);
    return 0;
}
