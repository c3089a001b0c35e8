// Descriptor tables of a guest.
#include "guest.h"

struct tss tss __attribute__((aligned(16)));

extern u8 trap_stubs[];
void guest_init(void);

#ifdef __x86_64__
static u64 idt[256][2] __attribute__((aligned(16)));

void set_gate(unsigned vector, word target, u16 sel, unsigned type, unsigned dpl, unsigned ist)
{
    idt[vector][0] = (target & 0xffff) | (u64)sel << 16 | (u64)ist << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
                     (target >> 16 & 0xffff) << 48;
    idt[vector][1] = target >> 32;
}
#else
static u64 idt[256] __attribute__((aligned(16)));

void set_gate(unsigned vector, word target, u16 sel, unsigned type, unsigned dpl, unsigned ist)
{
    (void)ist;
    idt[vector] = (target & 0xffff) | (u64)sel << 16 | (u64)(0x80 | dpl << 5 | type) << 40 | (u64)(target >> 16) << 48;
}
#endif

void gate_absent(unsigned vector)
{
    *(u64 *)&idt[vector] &= ~(0x80ull << 40);
}

void *gate_stub(unsigned vector)
{
    return trap_stubs + vector * 16;
}

void reset_gate(unsigned vector)
{
    set_gate(vector, (word)gate_stub(vector), SEL_CODE, 14, vector == 0x80 || vector == 3 || vector == 4 ? 3 : 0, 0);
}

void guest_init(void)
{
    for (unsigned v = 0; v < 256; v++)
        reset_gate(v);
    struct table_reg idtr = {sizeof idt - 1, (word)idt};
    __asm__ volatile("lidt %0" ::"m"(idtr));

    tss.iomap = sizeof tss; // beyond the limit: no port allowed at CPL 3
    word top = (word)trap_stack + sizeof trap_stack;
#ifdef __x86_64__
    tss.rsp[0] = top;
    gdt[SEL_TSS / 8 + 1] = (word)&tss >> 32;
#else
    tss.esp0 = top;
    tss.ss0 = SEL_DATA;
#endif
    gdt[SEL_TSS / 8] = make_desc((u32)(word)&tss, sizeof tss - 1, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    // The 8259s are masked; a test that wants interrupts programs them itself.
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

#ifdef __x86_64__
static u64 tables[64][512] __attribute__((aligned(4096)));
static unsigned tables_used;

u64 *table_page(void)
{
    if (tables_used == 64) {
        print("out of page-table pages\n");
        failed++;
        guest_exit(1);
    }
    u64 *t = tables[tables_used++];
    for (unsigned i = 0; i < 512; i++)
        t[i] = 0;
    return t;
}

u64 other_space(u64 **pte)
{
    const u64 all = PTE_P | PTE_W | PTE_U;
    u64 *first = (u64 *)(read_cr3() & 0x000ffffffffff000ull), *first_pdpt = (u64 *)(first[0] & ~0xfffull);
    u64 *first_pd = (u64 *)(first_pdpt[1] & ~0xfffull);
    u64 *top = table_page(), *pdpt = table_page(), *pd = table_page();
    *pte = table_page();
    top[0] = (u64)pdpt | all;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = first_pdpt[i];
    pdpt[1] = (u64)pd | all;
    for (unsigned i = 0; i < 512; i++)
        pd[i] = first_pd[i];
    pd[0] = (u64)*pte | all;
    return (u64)top;
}

static u64 *next_level(u64 *entry, unsigned shift)
{
    u64 e = *entry;
    if ((e & PTE_P) && !(e & PTE_PS))
        return (u64 *)(e & 0x000ffffffffff000ull);
    u64 *t = table_page();
    if (e & PTE_P) { // split a large page
        u64 size = 1ull << (shift - 9);
        u64 base = e & 0x000fffffffe00000ull & ~((1ull << shift) - 1);
        u64 keep = (e & 0xfff & ~PTE_PS) | (shift > 21 ? PTE_PS : 0);
        for (u64 i = 0; i < 512; i++)
            t[i] = (base + i * size) | keep;
    }
    *entry = (u64)t | PTE_P | PTE_W | PTE_U;
    return t;
}

u64 *pte_of(u64 linear)
{
    u64 *t = (u64 *)(read_cr3() & 0x000ffffffffff000ull);
    for (unsigned shift = 39; shift > 12; shift -= 9)
        t = next_level(&t[linear >> shift & 511], shift);
    write_cr3(read_cr3());
    return &t[linear >> 12 & 511];
}

void kernel_only(void)
{
    extern u8 user_start[], user_end[], image_end[];
    for (u64 a = 0x100000; a < (u64)image_end; a += 4096) {
        if (a < (u64)user_start || a >= (u64)user_end)
            *pte_of(a) &= ~PTE_U;
    }
    write_cr3(read_cr3());
}
#endif
