// Into long mode and out of it, from 32-bit protected mode: what CR0.PG asks for when EFER.LME is set, what EFER.LMA says, code that
// goes on in compatibility mode as if nothing had happened, 64-bit code called from there, and back.
//
// No peer: QEMU 7.2's TCG checks none of the conditions, and enters long mode regardless.
#include "guest.h"

const char guest_name[] = "long32";

#define EFER 0xc0000080
#define LME 0x100u
#define LMA 0x400u
#define CR0_PG 0x80000000u
#define CR4_PAE 0x20u
#define SEL_L SEL_FREE            // 64-bit code
#define SEL_LD (SEL_FREE + 8)     // L and D: 32-bit code as long as long mode is not active
#define SEL_TSS16 (SEL_FREE + 16) // available 16-bit TSS

static u64 pml4[512] __attribute__((aligned(4096))), pdpt[512] __attribute__((aligned(4096)));
static u64 pd[512] __attribute__((aligned(4096)));
static u64 pae_pointers[4] __attribute__((aligned(32)));

static u32 efer(void)
{
    return (u32)rdmsr(EFER);
}

static void set_lme(bool on)
{
    wrmsr(EFER, on ? efer() | LME : efer() & ~LME);
}

static void set_pae(bool on)
{
    write_cr4(on ? read_cr4() | CR4_PAE : read_cr4() & ~CR4_PAE);
}

static void set_paging(bool on)
{
    write_cr0(on ? read_cr0() | CR0_PG : read_cr0() & ~CR0_PG);
}

__attribute__((noinline)) static void try_paging(void)
{
    TRY(set_paging(true));
}

static void build_tables(void)
{
    pml4[0] = (u32)pdpt | PTE_P | PTE_W;
    pdpt[0] = (u32)pd | PTE_P | PTE_W;
    pae_pointers[0] = (u32)pd | PTE_P;
    for (u32 i = 0; i < 512; i++)
        pd[i] = i << 21 | PTE_P | PTE_W | PTE_PS;
}

static void expect_refused(void)
{
    try_paging();
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(read_cr0() & CR0_PG, 0);
    CHECK_EQ(efer() & LMA, 0);
}

// Turn paging on from a code segment with L set.
__asm__(".text\n"
        "paging_from_l:\n"
        "  mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
        "  lret\n");
extern u8 paging_from_l[];

static void refusals(void)
{
    write_cr3((u32)pml4);
    set_lme(true);
    expect_refused(); // without PAE
    set_pae(true);
    struct far_ptr p = {(u32)paging_from_l, SEL_LD};
    TRY(__asm__ volatile("lcall *%0" ::"m"(p) : "eax", "memory"));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(trap.cs, SEL_LD);
    CHECK_EQ(read_cr0() & CR0_PG, 0);
    // A 16-bit TSS in TR.
    gdt[SEL_TSS16 / 8] = make_desc((u32)&tss, 103, 0x81);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS16));
    expect_refused();
    gdt[SEL_TSS / 8] = make_desc((u32)&tss, sizeof tss - 1, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    set_lme(false);
}

// With paging on, LME cannot change.
static void lme_under_paging(void)
{
    write_cr3((u32)pae_pointers);
    set_pae(true);
    try_paging();
    CHECK_TRAP(-1);
    CHECK_EQ(efer() & (LME | LMA), 0);
    TRY(set_lme(true));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(efer() & (LME | LMA), 0);
    set_paging(false);
}

// 64-bit code: RAX = RDX << 32 | EAX, by way of R15, and back the high half in EDX.
__asm__(".text\n"
        "wide:\n"
        "  .byte 0x48, 0xc1, 0xe2, 0x20\n" // SHL RDX, 32
        "  .byte 0x4c, 0x8d, 0x3c, 0x02\n" // LEA R15, [RDX + RAX]
        "  .byte 0x4c, 0x89, 0xfa\n"       // MOV RDX, R15
        "  .byte 0x48, 0xc1, 0xea, 0x20\n" // SHR RDX, 32
        "  .byte 0x44, 0x89, 0xf8\n"       // MOV EAX, R15D
        "  .byte 0xcb\n"                   // RETF, 32-bit operands
        "wide_again:\n"
        "  .byte 0x4c, 0x89, 0xfa\n"       // MOV RDX, R15
        "  .byte 0x48, 0xc1, 0xea, 0x20\n" // SHR RDX, 32
        "  .byte 0x44, 0x89, 0xf8\n"       // MOV EAX, R15D
        "  .byte 0xcb\n");
extern u8 wide[], wide_again[];

struct seen {
    u32 efer[2], cr0, esp[2], lo[2], hi[2];
    u16 cs;
};

// Enter long mode, look around, leave. No faults in here: the IDT is not one for long mode.
static void visit(struct seen *s)
{
    struct far_ptr p = {(u32)wide, SEL_L}, again = {(u32)wide_again, SEL_L};
    __asm__ volatile("mov %%esp, %0" : "=r"(s->esp[0]));
    set_paging(true);
    s->efer[0] = efer();
    s->cr0 = read_cr0();
    __asm__ volatile("mov %%cs, %0" : "=r"(s->cs));
    __asm__ volatile("lcall *%2"
                     : "=a"(s->lo[0]), "=d"(s->hi[0])
                     : "m"(p), "a"(0x89abcdef), "d"(0x01234567)
                     : "memory", "cc");
    __asm__ volatile("lcall *%2" : "=a"(s->lo[1]), "=d"(s->hi[1]) : "m"(again) : "memory", "cc"); // R15 was kept
    __asm__ volatile("mov %%esp, %0" : "=r"(s->esp[1]));
    set_paging(false);
    s->efer[1] = efer();
}

static void round_trips(void)
{
    for (unsigned i = 0; i < 3; i++) {
        static struct seen s;
        write_cr3((u32)pml4);
        set_pae(true);
        set_lme(true);
        CHECK_EQ(efer() & (LME | LMA), LME);
        visit(&s);
        CHECK_EQ(s.efer[0] & (LME | LMA), LME | LMA);
        CHECK_EQ(s.efer[1] & (LME | LMA), LME);
        CHECK(s.cr0 & CR0_PG);
        CHECK_EQ(s.cs, SEL_CODE);
        CHECK_EQ(s.lo[0], 0x89abcdef);
        CHECK_EQ(s.hi[0], 0x01234567);
        CHECK_EQ(s.lo[1], 0x89abcdef);
        CHECK_EQ(s.hi[1], 0x01234567);
        CHECK_EQ(s.esp[0], s.esp[1]);
        set_lme(false);
        // The same without LME is PAE paging.
        write_cr3((u32)pae_pointers);
        set_paging(true);
        CHECK_EQ(efer() & (LME | LMA), 0);
        TRY(__asm__ volatile("ud2")); // with the usual IDT
        CHECK_TRAP(6);
        set_paging(false);
        set_pae(false);
    }
}

void guest_main(void)
{
    u32 r[4];
    cpuid(0x80000001, 0, r);
    if (!(r[3] >> 29 & 1)) {
        TRY(set_lme(true));
        CHECK_TRAP_ERR(13, 0);
        return;
    }
    gdt[SEL_L / 8] = make_desc(0, 0xfffff, 0xa09b);
    gdt[SEL_LD / 8] = make_desc(0, 0xfffff, 0xe09b);
    build_tables();
    refusals();
    lme_under_paging();
    round_trips();
}
