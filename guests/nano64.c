// Nanobenchmarks: what the operations cost that the software of a virtual machine has to help with. Cycles of each, by nano.h.
//
//   -append short  few and short samples: a test that all of it works
//
// Where a name ends in -user, the operation starts in ring 3; the others are ring 0's.
#include "guest.h"

#define nano_print print
#include "nano.h"

const char guest_name[] = "nano64";

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define LAPIC 0xfee00000ul
#define CR4_PCIDE (1ul << 17)

#define PAGES 0x40000000ul // 512 pages of one table
#define WALK 0x48000000ul
#define WALK_PAGES 16384u
#define MEMORY 0x01f00000ul // what they all map
#define COLD 0x00a00000ul   // never-run code

extern u32 mb_info; // address of the multiboot information

// What the loops of nano_sys.S find in R8, R9 and R10.
struct {
    u64 linear;
    u64 *pte;
    u64 entry;
} nano_page;

void nano_syscall(u64 n);
void nano_int(u64 n);
void nano_divide(u64 n);
void nano_fault(u64 n);
void nano_fault_map(u64 n);
void nano_in(u64 n);
void nano_out(u64 n);
void nano_write_cr8(u64 n);
void nano_write_cr3(u64 n);
void nano_write_cr3_touch(u64 n);
void nano_write_cr3_pcid(u64 n);
void nano_rdmsr(u64 n);
void nano_wrmsr(u64 n);
void nano_swapgs(u64 n);
void nano_cli_sti(u64 n);
void nano_pushf_popf(u64 n);
void nano_pte_same(u64 n);
void nano_pte_remove(u64 n);
void nano_pte_add(u64 n);
void nano_invlpg(u64 n);
void nano_walk(u64 n);
void nano_mmio_read(u64 n);
void nano_write_code_page(u64 n);
void nano_ipi(u64 n);
void nano_hlt(u64 n);

// Handlers, for gates of the IDT or for SYSCALL.
extern u8 nano_syscall_entry[], nano_iretq[], nano_skip_divide[], nano_skip_access[], nano_map[], nano_interrupt[];

// --- system state that an operation needs -----------------------------------------------------------------------------------------

// SYSRET wants user data and user code in this order, behind the selector in STAR.
static bool with_syscall(void)
{
    gdt[SEL_FREE / 8 + 1] = gdt[SEL_UDATA / 8];
    gdt[SEL_FREE / 8 + 2] = gdt[SEL_UCODE / 8];
    wrmsr(MSR_STAR, (u64)SEL_FREE << 48 | (u64)SEL_CODE << 32);
    wrmsr(MSR_LSTAR, (word)nano_syscall_entry);
    wrmsr(MSR_SFMASK, 0x200);
    return true;
}

static bool with_gate(unsigned vector, const u8 *handler, unsigned dpl)
{
    set_gate(vector, (word)handler, SEL_CODE, 14, dpl, 0);
    return true;
}

static bool with_int(void)
{
    return with_gate(0x81, nano_iretq, 3);
}

static bool with_divide(void)
{
    return with_gate(0, nano_skip_divide, 0);
}

static void no_pages(u64 n)
{
    for (u64 i = 0; i < n; i++)
        nano_page.pte[i] = 0;
    write_cr3(read_cr3());
}

static void all_pages(u64 n)
{
    for (u64 i = 0; i < n; i++) {
        nano_page.pte[i] = nano_page.entry;
        (void)*(volatile u8 *)(nano_page.linear + i * 4096);
    }
}

static bool with_fault(void)
{
    no_pages(1);
    return with_gate(14, nano_skip_access, 0);
}

static bool with_fault_map(void)
{
    no_pages(1);
    return with_gate(14, nano_map, 0);
}

static bool with_pages(void)
{
    all_pages(512);
    return true;
}

static bool with_pcid(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 17 & 1))
        return false;
    all_pages(512);
    write_cr4(read_cr4() | CR4_PCIDE);
    return true;
}

static void without_pcid(void)
{
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

// A second set of pages, too many for any TLB, by one page table many times.
static bool with_walk(void)
{
    nano_page.linear = WALK;
    u64 *table = table_page();
    for (unsigned i = 0; i < 512; i++)
        table[i] = nano_page.entry;
    const u64 *pml4 = (const u64 *)read_cr3();
    const u64 *pdpt = (const u64 *)(pml4[0] & ~0xffful);
    u64 *directory = (u64 *)(pdpt[WALK >> 30] & ~0xffful);
    for (unsigned i = 0; i < WALK_PAGES / 512; i++)
        directory[(WALK >> 21 & 511) + i] = (word)table | PTE_P | PTE_W | PTE_U;
    write_cr3(read_cr3());
    return true;
}

static void lapic_write(unsigned reg, u32 v)
{
    *(volatile u32 *)(LAPIC + reg) = v;
}

static bool with_lapic(void)
{
    with_gate(0x41, nano_interrupt, 0);
    lapic_write(0x80, 0);     // every priority
    lapic_write(0xf0, 0x1ff); // on
    lapic_write(0x3e0, 0xb);  // timer: by 1
    lapic_write(0x320, 0x41); // once
    return true;
}

static void without_lapic(void)
{
    lapic_write(0x320, 0x10000);
    lapic_write(0xf0, 0xff);
}

// --- the list --------------------------------------------------------------------------------------------------------------------

static const struct nano_op ops[] = {
    {.name = "syscall-sysret", .run = nano_syscall, .begin = with_syscall, .user = true},
    {.name = "in-80", .run = nano_in},
    {.name = "out-80", .run = nano_out},
    {.name = "mov-cr8", .run = nano_write_cr8},
    {.name = "page-fault", .run = nano_fault, .begin = with_fault},
    {.name = "page-fault-user", .run = nano_fault, .begin = with_fault, .user = true},
    {.name = "page-fault-map", .run = nano_fault_map, .begin = with_fault_map},
    {.name = "divide-error", .run = nano_divide, .begin = with_divide},
    {.name = "divide-error-user", .run = nano_divide, .begin = with_divide, .user = true},
    {.name = "int-iret", .run = nano_int, .begin = with_int},
    {.name = "int-iret-user", .run = nano_int, .begin = with_int, .user = true},
    {.name = "pte-same", .run = nano_pte_same, .begin = with_pages},
    {.name = "pte-remove-invlpg", .run = nano_pte_remove, .setup = all_pages, .max = 512},
    {.name = "pte-add-access", .run = nano_pte_add, .setup = no_pages, .max = 512},
    {.name = "mov-cr3", .run = nano_write_cr3},
    {.name = "mov-cr3-touch-8", .run = nano_write_cr3_touch, .begin = with_pages},
    {.name = "mov-cr3-pcid-touch-8", .run = nano_write_cr3_pcid, .begin = with_pcid, .end = without_pcid},
    {.name = "invlpg", .run = nano_invlpg, .begin = with_pages},
    {.name = "rdmsr", .run = nano_rdmsr},
    {.name = "wrmsr", .run = nano_wrmsr},
    {.name = "swapgs", .run = nano_swapgs},
    {.name = "cli-sti", .run = nano_cli_sti},
    {.name = "pushf-popf", .run = nano_pushf_popf},
    {.name = "mmio-read", .run = nano_mmio_read},
    {.name = "write-code-page", .run = nano_write_code_page},
    {.name = "ipi-self", .run = nano_ipi, .begin = with_lapic, .end = without_lapic},
    {.name = "hlt-timer", .run = nano_hlt, .begin = with_lapic, .end = without_lapic, .max = NANO_STEP},
    {.name = "tlb-miss", .run = nano_walk, .begin = with_walk, .least = WALK_PAGES, .max = WALK_PAGES},
};

// --- running ------------------------------------------------------------------------------------------------------------------------

struct user_sample {
    const struct nano_op *op;
    u64 n;
};

static word sample_in_user(word arg)
{
    const struct user_sample *s = (const struct user_sample *)arg;
    return nano_timed(s->op, s->n);
}

static u64 timed(const struct nano_op *op, u64 n)
{
    if (!op->user)
        return nano_timed(op, n);
    struct user_sample s = {op, n};
    run_user(sample_in_user, (word)&s);
    CHECK_TRAP(0x80);
    return user_result;
}

static bool asked_for_short(void)
{
    const u32 *info = (const u32 *)(word)mb_info;
    if (!(info[0] & 4))
        return false;
    bool found = false;
    for (const char *s = (const char *)(word)info[4]; *s; s++)
        found |= s[0] == 's' && s[1] == 'h' && s[2] == 'o' && s[3] == 'r' && s[4] == 't';
    return found;
}

void guest_main(void)
{
    if (asked_for_short()) {
        nano_samples = 5;
        nano_enough = 20000;
    }
    for (unsigned i = 0; i < NANO_USER_OPS; i++)
        nano_measure(&nano_user_ops[i], nano_timed);
    nano_page.linear = PAGES;
    nano_page.pte = pte_of(PAGES);
    nano_page.entry = MEMORY | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
    for (unsigned i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        nano_measure(&ops[i], timed);
        reset_gate(0);
        reset_gate(14);
    }
    nano_cold((u8 *)COLD);
    CHECK_EQ(nano_wrong, 0);
}
