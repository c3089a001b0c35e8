// Paging in long mode: every combination of present, writable, user and no-execute bits, against reads, writes and fetches from
// ring 0 and ring 3, with and without CR0.WP; accessed and dirty bits; reserved bits; large pages; SMEP and SMAP; global pages.
//
// QEMU 7.2's TCG differs in the 5 checks of reserved bits: its error code lacks P, which SDM 3A 4.7 says is set (RSVD is 1
// only when P is). It raises #GP instead of #SS for a push through a non-canonical RSP, and takes the page fault of the first
// byte before the #GP of a second that is not canonical.
#include "guest.h"

const char guest_name[] = "paging64";

#define WINDOW 0x40000000ull // 1 GiB: mapped by 2 MiB pages at the start, remapped here
#define PHYS 0x00a00000ull   // 10 MiB: plain memory behind the window

enum access { READ, WRITE, FETCH, ACCESS_COUNT };

static u64 *pte; // of WINDOW

static bool has_smep, has_smap, has_1g;

static inline __attribute__((always_inline)) word access_window(word how)
{
    if (how == READ)
        return *(volatile u8 *)WINDOW;
    if (how == WRITE)
        *(volatile u8 *)WINDOW = 0xc3;
    else
        __asm__ volatile("call *%0" ::"r"(WINDOW) : "memory");
    return 0;
}

static __attribute__((noinline)) word do_access(word how)
{
    return access_window(how);
}

USER static word user_access(word how)
{
    return access_window(how);
}

// What the architecture says (SDM 3A 4.6, 4.7): -1 for success, or the error code.
__attribute__((noinline)) static int expected(u64 e, enum access how, bool user, bool wp, bool smep, bool smap, bool ac)
{
    int code = (how == WRITE ? 2 : 0) | (user ? 4 : 0) | (how == FETCH ? 16 : 0);
    if (!(e & PTE_P))
        return code;
    code |= 1;
    if (user && !(e & PTE_U))
        return code;
    if (how == WRITE && !(e & PTE_W) && (user || wp))
        return code;
    if (how == FETCH && (e & PTE_NX))
        return code;
    if (!user && (e & PTE_U) && how == FETCH && smep)
        return code;
    if (!user && (e & PTE_U) && how != FETCH && smap && !ac)
        return code;
    return -1;
}

static void set_wp(bool on)
{
    write_cr0(on ? read_cr0() | 0x10000 : read_cr0() & ~0x10000ull);
}

static void set_cr4(u64 bits, bool on)
{
    write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}

static void one_case(u64 flags, enum access how, bool user, bool wp, bool smep, bool smap, bool ac)
{
    *pte = PHYS | flags;
    invlpg((void *)WINDOW);
    set_wp(wp);
    if (has_smep)
        set_cr4(1u << 20, smep);
    if (has_smap)
        set_cr4(1u << 21, smap);
    int want = expected(flags, how, user, wp, smep, smap, ac);
    if (user) {
        run_user(user_access, how);
        if (trap.vector == 0x80)
            trap.vector = -1;
    } else {
        TRY({
            if (ac)
                __asm__ volatile("stac" ::: "cc");
            do_access(how);
            if (ac)
                __asm__ volatile("clac" ::: "cc");
        });
    }
    if (has_smap)
        set_cr4(1u << 21, false);
    int got = trap.vector == 14 ? (int)trap.error : trap.vector == -1 ? -1 : 1000 + trap.vector;
    check_at(got == want, __FILE__, __LINE__,
             "flags %lx access %d user %d wp %d smep %d smap %d ac %d: error %d, not %d", (unsigned long)flags, how,
             user, wp, smep, smap, ac, got, want);
    if (got >= 0)
        CHECK_EQ(trap.cr2, WINDOW);
    u64 ad = *pte & (PTE_A | PTE_D);
    u64 want_ad = want >= 0 ? 0 : how == WRITE ? PTE_A | PTE_D : PTE_A;
    check_at(ad == want_ad, __FILE__, __LINE__, "flags %lx access %d user %d: A/D %lx, not %lx", (unsigned long)flags,
             how, user, (unsigned long)ad, (unsigned long)want_ad);
}

static void permission_matrix(void)
{
    *(volatile u8 *)PHYS = 0xc3; // RET, for fetches
    for (unsigned bits = 0; bits < 16; bits++) {
        u64 flags = (bits & 1 ? PTE_P : 0) | (bits & 2 ? PTE_W : 0) | (bits & 4 ? PTE_U : 0) | (bits & 8 ? PTE_NX : 0);
        for (unsigned how = 0; how < ACCESS_COUNT; how++) {
            for (unsigned wp = 0; wp < 2; wp++) {
                one_case(flags, how, true, wp, false, false, false);
                one_case(flags, how, false, wp, false, false, false);
                if (has_smep)
                    one_case(flags, how, false, wp, true, false, false);
                if (has_smap) {
                    one_case(flags, how, false, wp, false, true, false);
                    one_case(flags, how, false, wp, false, true, true);
                    one_case(flags, how, true, wp, true, true, false);
                }
            }
        }
    }
    set_wp(true);
    if (has_smep)
        set_cr4(1u << 20, false);
}

// Permissions combine over the levels: the strictest wins.
static void upper_levels(void)
{
    u64 *pml4 = (u64 *)(read_cr3() & 0x000ffffffffff000ull);
    u64 *pdpt = (u64 *)(pml4[0] & 0x000ffffffffff000ull);
    u64 *pde = &((u64 *)(pdpt[1] & 0x000ffffffffff000ull))[0];
    u64 saved = *pde;
    *pte = PHYS | PTE_P | PTE_W | PTE_U;
    *pde = saved & ~PTE_W;
    write_cr3(read_cr3());
    TRY(*(volatile u8 *)WINDOW = 0xc3);
    CHECK_TRAP_ERR(14, 3);
    *pde = saved & ~PTE_U;
    write_cr3(read_cr3());
    run_user(user_access, READ);
    CHECK_TRAP_ERR(14, 5);
    *pde = saved | PTE_NX;
    write_cr3(read_cr3());
    TRY(do_access(FETCH));
    CHECK_TRAP_ERR(14, 17);
    *pde = saved & ~PTE_P;
    write_cr3(read_cr3());
    TRY(do_access(READ));
    CHECK_TRAP_ERR(14, 0);
    *pde = saved & ~PTE_A;
    write_cr3(read_cr3());
    TRY(do_access(READ));
    CHECK_TRAP(-1);
    CHECK(*pde & PTE_A);
    *pde = saved;
    write_cr3(read_cr3());
}

static void reserved_bits(void)
{
    u32 r[4];
    cpuid(0x80000008, 0, r);
    unsigned maxphy = r[0] & 255;
    CHECK(maxphy >= 36 && maxphy <= 52);
    if (maxphy < 52) {
        *pte = PHYS | PTE_P | PTE_W | PTE_U | 1ull << 51;
        invlpg((void *)WINDOW);
        TRY(do_access(READ));
        CHECK_TRAP_ERR(14, 9);
        run_user(user_access, WRITE);
        CHECK_TRAP_ERR(14, 15);
        // Not present: nothing is reserved.
        *pte = 1ull << 51;
        invlpg((void *)WINDOW);
        TRY(do_access(READ));
        CHECK_TRAP_ERR(14, 0);
    }
    // NX is reserved while EFER.NXE is clear.
    u64 efer = rdmsr(0xc0000080);
    *pte = PHYS | PTE_P | PTE_W | PTE_U | PTE_NX;
    wrmsr(0xc0000080, efer & ~0x800ull);
    invlpg((void *)WINDOW);
    TRY(do_access(READ));
    CHECK_TRAP_ERR(14, 9);
    wrmsr(0xc0000080, efer);
    invlpg((void *)WINDOW);
    TRY(do_access(READ));
    CHECK_TRAP(-1);
    *pte = PHYS | PTE_P | PTE_W | PTE_U;
    invlpg((void *)WINDOW);
}

// A store that crosses into a bad page faults on that page and changes nothing in the good one.
static void page_crossing(void)
{
    volatile u8 *last = (volatile u8 *)(WINDOW + 0xffc);
    u64 *second = pte_of(WINDOW + 0x1000);
    *pte = PHYS | PTE_P | PTE_W | PTE_U;
    *second = 0;
    write_cr3(read_cr3());
    *(volatile u32 *)last = 0x11223344;
    TRY(*(volatile u64 *)last = ~0ull);
    CHECK_TRAP_ERR(14, 2);
    CHECK_EQ(trap.cr2, WINDOW + 0x1000);
    CHECK_EQ(*(volatile u32 *)last, 0x11223344);
    *second = PHYS | PTE_P; // read-only alias of the first page
    invlpg((void *)(WINDOW + 0x1000));
    TRY(*(volatile u64 *)last = ~0ull);
    CHECK_TRAP_ERR(14, 3);
    CHECK_EQ(*(volatile u32 *)last, 0x11223344);
    *(volatile u32 *)WINDOW = 0x55667788;
    CHECK_EQ(*(volatile u64 *)last, 0x5566778811223344ull);
    // An instruction that runs into a page that is absent faults there.
    *second = 0;
    invlpg((void *)(WINDOW + 0x1000));
    *(volatile u32 *)last = 0x90909090;
    TRY(__asm__ volatile("call *%0" ::"r"(last) : "memory"));
    CHECK_TRAP_ERR(14, 16);
    CHECK_EQ(trap.cr2, WINDOW + 0x1000);
    CHECK_EQ(trap.ip, WINDOW + 0x1000);
    *(volatile u32 *)last = 0x0090b890; // NOP; MOV EAX, imm32 cut off by the page end
    TRY(__asm__ volatile("call *%0" ::"r"(last) : "memory", "rax"));
    CHECK_TRAP_ERR(14, 16);
    CHECK_EQ(trap.cr2, WINDOW + 0x1000);
    CHECK_EQ(trap.ip, WINDOW + 0xffd);
}

// The TLB may hold what a PTE said before INVLPG, and must not after it; CR3 loads keep global pages.
static void invalidation(void)
{
    *(volatile u8 *)PHYS = 1;
    *(volatile u8 *)(PHYS + 0x1000) = 2;
    *pte = PHYS | PTE_P | PTE_W | PTE_U;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 1);
    *pte = (PHYS + 0x1000) | PTE_P | PTE_W | PTE_U;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 2);
    *pte = PHYS | PTE_P | PTE_W | PTE_U;
    write_cr3(read_cr3());
    CHECK_EQ(*(volatile u8 *)WINDOW, 1);
    // Permission raised in the table: a fault may be spurious on hardware only if the TLB held it; after INVLPG never.
    *pte = PHYS | PTE_P;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 1);
    *pte |= PTE_W;
    invlpg((void *)WINDOW);
    TRY(*(volatile u8 *)WINDOW = 7);
    CHECK_TRAP(-1);
    // Toggling CR4.PGE flushes global entries too.
    set_cr4(0x80, true);
    *pte = PHYS | PTE_P | PTE_W | PTE_G;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 7);
    *pte = (PHYS + 0x1000) | PTE_P | PTE_W | PTE_G;
    set_cr4(0x80, false);
    CHECK_EQ(*(volatile u8 *)WINDOW, 2);
    // INVLPG drops a global entry.
    set_cr4(0x80, true);
    *pte = (PHYS + 0x1000) | PTE_P | PTE_W | PTE_G;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 2);
    *pte = PHYS | PTE_P | PTE_W | PTE_G;
    invlpg((void *)WINDOW);
    CHECK_EQ(*(volatile u8 *)WINDOW, 7);
    set_cr4(0x80, false);
}

static void large_pages(void)
{
    u64 *pml4 = (u64 *)(read_cr3() & 0x000ffffffffff000ull);
    u64 *pdpt = (u64 *)(pml4[0] & 0x000ffffffffff000ull);
    u64 *pd = (u64 *)(pdpt[2] & 0x000ffffffffff000ull); // 2..3 GiB
    u64 saved = pd[0], saved_pdpte = pdpt[2];
    *(volatile u32 *)(PHYS + 0x123450) = 0xabcd1234;
    pd[0] = (PHYS & ~0x1fffffull) | PTE_P | PTE_W | PTE_U | PTE_PS;
    write_cr3(read_cr3());
    u64 off = (PHYS & 0x1fffff) + 0x123450;
    CHECK_EQ(*(volatile u32 *)(0x80000000ull + off), 0xabcd1234);
    CHECK(pd[0] & PTE_A);
    CHECK(!(pd[0] & PTE_D));
    *(volatile u32 *)(0x80000000ull + off) = 5;
    CHECK(pd[0] & PTE_D);
    CHECK_EQ(*(volatile u32 *)(PHYS + 0x123450), 5);
    pd[0] |= 1ull << 13; // reserved in a 2 MiB entry (bit 12 is PAT)
    write_cr3(read_cr3());
    TRY((void)*(volatile u8 *)0x80000000ull);
    CHECK_TRAP_ERR(14, 9);
    // INVLPG of any address inside drops the whole large page.
    pd[0] = (PHYS & ~0x1fffffull) | PTE_P | PTE_W | PTE_U | PTE_PS;
    write_cr3(read_cr3());
    CHECK_EQ(*(volatile u32 *)(0x80000000ull + off), 5);
    pd[0] = 0;
    invlpg((void *)(0x80000000ull + 0x1ff000));
    TRY((void)*(volatile u32 *)(0x80000000ull + off));
    CHECK_TRAP_ERR(14, 0);
    pd[0] = saved;
    if (has_1g) {
        pdpt[2] = 0 | PTE_P | PTE_W | PTE_U | PTE_PS; // physical 0
        write_cr3(read_cr3());
        CHECK_EQ(*(volatile u32 *)(0x80000000ull + PHYS + 0x123450), 5);
        CHECK(pdpt[2] & PTE_A);
        pdpt[2] |= 1ull << 20; // reserved
        write_cr3(read_cr3());
        TRY((void)*(volatile u8 *)0x80000000ull);
        CHECK_TRAP_ERR(14, 9);
        pdpt[2] = saved_pdpte;
    }
    write_cr3(read_cr3());
}

static void canonical(void)
{
    TRY((void)*(volatile u8 *)0x0000800000000000ull);
    CHECK_TRAP_ERR(13, 0);
    static u8 ist_stack[4096] __attribute__((aligned(16))); // #SS comes with an unusable RSP
    tss.ist[0] = (word)ist_stack + sizeof ist_stack;
    set_gate(12, (word)gate_stub(12), SEL_CODE, 14, 0, 1);
    set_gate(13, (word)gate_stub(13), SEL_CODE, 14, 0, 1);
    TRY(__asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; mov %%rbx, %%rsp" ::"r"(0x0000900000000000ull)
                         : "rbx"));
    CHECK_TRAP_ERR(12, 0);
    TRY(__asm__ volatile("mov (%0), %%al" ::"r"(0x00007fffffffffffull) : "rax"));
    CHECK_TRAP(14); // canonical but not mapped
    TRY(__asm__ volatile("mov (%0), %%ax" ::"r"(0x00007fffffffffffull) : "rax"));
    CHECK_TRAP_ERR(13, 0); // second byte is not canonical
    TRY(__asm__ volatile("jmp *%0" ::"r"(0x0000800000000000ull)));
    CHECK_TRAP_ERR(13, 0);
}

void guest_main(void)
{
    u32 r[4];
    cpuid(7, 0, r);
    has_smep = r[1] >> 7 & 1;
    has_smap = r[1] >> 20 & 1;
    cpuid(0x80000001, 0, r);
    has_1g = r[3] >> 26 & 1;
    if (has_smap)
        __asm__ volatile("clac" ::: "cc");
    pte = pte_of(WINDOW);
    kernel_only();
    permission_matrix();
    upper_levels();
    reserved_bits();
    page_crossing();
    invalidation();
    large_pages();
    canonical();
}
