// Paging outside long mode: 32-bit paging without and with 4 MiB pages and PSE-36, PAE paging with NX, 2 MiB pages and the
// page-directory pointers that only a load of CR3 reads. Permissions against CR0.WP, SMEP and SMAP, error codes, accessed and
// dirty bits, implicit supervisor accesses, switches between the modes.
//
// QEMU 7.2's TCG differs in 14 checks: it neither checks nor caches the four page-directory pointers (5), its error code for
// reserved bits lacks P, which SDM 3A 4.7 says is set (5: RSVD is 1 only when P is), and EFLAGS.AC lifts SMAP from the
// processor's own accesses too (2), and it accepts invalid combinations of CR0's bits (2).
#include "guest.h"

const char guest_name[] = "paging32";

#define WINDOW 0x40000000u // 1 GiB: remapped by every test
#define PHYS 0x00c00000u   // 12 MiB: plain memory behind the window
#define MIB32 8192u        // 4 KiB pages that are mapped as they are

#define CR0_PG 0x80000000u
#define CR0_WP 0x10000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define RSVD 8

enum access { READ, WRITE, FETCH, ACCESS_COUNT };

static u32 pd[1024] __attribute__((aligned(4096)));
static u32 pt[MIB32 / 1024 + 1][1024] __attribute__((aligned(4096))); // the last one is the window's
static u64 pae_pd[4][512] __attribute__((aligned(4096)));
static u64 pae_pt[MIB32 / 512 + 1][512] __attribute__((aligned(4096)));
static u64 pae_page[512] __attribute__((aligned(4096)));
#define pdpt (&pae_page[4]) // 32-byte aligned is enough

static bool pae;              // the mode that is on
static bool pointers_checked; // PAE's: found out in passing
static bool has_smep, has_smap, has_nx, has_pse36;

// --- modes ------------------------------------------------------------------------------------------------------------------

static u32 page_flags(u32 address)
{
    extern u8 user_start[], user_end[];
    bool user = address >= (u32)user_start && address < (u32)user_end;
    return PTE_P | PTE_W | (user ? PTE_U : 0);
}

static void build_tables(void)
{
    for (u32 i = 0; i < MIB32; i++) {
        pt[i / 1024][i % 1024] = i << 12 | page_flags(i << 12);
        pae_pt[i / 512][i % 512] = i << 12 | page_flags(i << 12);
    }
    for (u32 i = 0; i < MIB32 / 1024; i++)
        pd[i] = (u32)pt[i] | PTE_P | PTE_W | PTE_U;
    for (u32 i = 0; i < MIB32 / 512; i++)
        pae_pd[0][i] = (u32)pae_pt[i] | PTE_P | PTE_W | PTE_U;
    pd[WINDOW >> 22] = (u32)pt[MIB32 / 1024] | PTE_P | PTE_W | PTE_U;
    pae_pd[1][0] = (u32)pae_pt[MIB32 / 512] | PTE_P | PTE_W | PTE_U;
    for (u32 i = 0; i < 4; i++)
        pdpt[i] = (u32)pae_pd[i] | PTE_P;
}

static void set_bits_cr4(u32 bits, bool on)
{
    write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}

static void set_wp(bool on)
{
    write_cr0(on ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
}

static void flush(void)
{
    write_cr3(read_cr3());
}

static void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    pae = false;
}

// 32-bit paging ignores the low bits of CR3 but PWT and PCD.
static void enter_32(bool pse)
{
    paging_off();
    set_bits_cr4(CR4_PAE, false);
    set_bits_cr4(CR4_PSE, pse);
    write_cr3((u32)pd | 0xe07);
    write_cr0(read_cr0() | CR0_PG);
}

static void enter_pae(void)
{
    paging_off();
    set_bits_cr4(CR4_PAE, true);
    write_cr3((u32)pdpt);
    write_cr0(read_cr0() | CR0_PG);
    pae = true;
}

static void set_window_at(u32 page, u64 e)
{
    if (pae)
        pae_pt[MIB32 / 512][page] = e;
    else
        pt[MIB32 / 1024][page] = (u32)e;
    invlpg((void *)(WINDOW + page * 4096));
}

static void set_window(u64 e)
{
    set_window_at(0, e);
}

static u64 window_entry(void)
{
    return pae ? pae_pt[MIB32 / 512][0] : pt[MIB32 / 1024][0];
}

// --- permissions ------------------------------------------------------------------------------------------------------------

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

struct setting {
    bool user, wp, smep, smap, ac;
};

// SDM 3A 4.6, 4.7: -1 for success, or the error code. I/D tells of a fetch only where fetches have rights of their own.
__attribute__((noinline)) static int expected(u64 e, enum access how, struct setting s)
{
    bool fetch_bit = how == FETCH && ((pae && has_nx) || s.smep);
    int code = (how == WRITE ? 2 : 0) | (s.user ? 4 : 0) | (fetch_bit ? 16 : 0);
    if (!(e & PTE_P))
        return code;
    code |= 1;
    if (s.user ? !(e & PTE_U) : (e & PTE_U) && (how == FETCH ? s.smep : s.smap && !s.ac))
        return code;
    if (how == WRITE && !(e & PTE_W) && (s.user || s.wp))
        return code;
    return how == FETCH && pae && (e & PTE_NX) ? code : -1;
}

// Run one access; -1 for success, or the page fault's error code.
__attribute__((noinline)) static int attempt(enum access how, struct setting s)
{
    set_wp(s.wp);
    if (has_smep)
        set_bits_cr4(CR4_SMEP, s.smep);
    if (has_smap)
        set_bits_cr4(CR4_SMAP, s.smap);
    if (s.user) {
        run_user(user_access, how);
        if (trap.vector == 0x80)
            trap.vector = -1;
    } else {
        TRY({
            if (s.ac)
                __asm__ volatile("stac" ::: "cc", "memory");
            do_access(how);
            if (s.ac)
                __asm__ volatile("clac" ::: "cc", "memory");
        });
    }
    set_bits_cr4((has_smep ? CR4_SMEP : 0) | (has_smap ? CR4_SMAP : 0), false);
    return trap.vector == 14 ? (int)trap.error : trap.vector == -1 ? -1 : 1000 + trap.vector;
}

static void one_case(u64 flags, enum access how, struct setting s)
{
    set_window(PHYS | flags);
    int want = expected(flags, how, s), got = attempt(how, s);
    bool addr_ok = got < 0 || trap.cr2 == WINDOW;
    u32 ad = (u32)window_entry() & (PTE_A | PTE_D);
    u32 want_ad = want >= 0 ? 0 : how == WRITE ? PTE_A | PTE_D : PTE_A;
    check_at(got == want && addr_ok && ad == want_ad, __FILE__, __LINE__,
             "pae %d flags %x:%x access %d user %d wp %d smep %d smap %d ac %d: error %d, not %d; cr2 %x, A/D %x", pae,
             (u32)(flags >> 32), (u32)flags, how, s.user, s.wp, s.smep, s.smap, s.ac, got, want, trap.cr2, ad);
}

static void permission_matrix(void)
{
    *(volatile u8 *)PHYS = 0xc3; // RET, for fetches
    for (unsigned bits = 0; bits < (pae && has_nx ? 16 : 8); bits++) {
        u64 flags = (bits & 1 ? PTE_P : 0) | (bits & 2 ? PTE_W : 0) | (bits & 4 ? PTE_U : 0) | (bits & 8 ? PTE_NX : 0);
        for (unsigned how = 0; how < ACCESS_COUNT; how++) {
            for (unsigned n = 0; n < 32; n++) {
                struct setting s = {n & 1, n >> 1 & 1, n >> 2 & 1, n >> 3 & 1, n >> 4 & 1};
                if ((!s.smep || has_smep) && (!s.smap || has_smap) && (!s.ac || (s.smap && !s.user)))
                    one_case(flags, how, s);
            }
        }
    }
    set_wp(true);
}

// The strictest level decides; the directory entry's accessed bit is set, and has no dirty bit.
static void directory_level(void)
{
    u32 *pde = pae ? (u32 *)&pae_pd[1][0] : &pd[WINDOW >> 22];
    u32 saved = *pde & ~(u32)PTE_A;
    set_window(PHYS | PTE_P | PTE_W | PTE_U);
    *pde = saved;
    flush();
    TRY(do_access(WRITE));
    CHECK_TRAP(-1);
    CHECK_EQ(*pde, saved | PTE_A);
    *pde = saved & ~(u32)PTE_W;
    flush();
    TRY(do_access(WRITE));
    CHECK_TRAP_ERR(14, 3);
    *pde = saved & ~(u32)PTE_U;
    flush();
    run_user(user_access, READ);
    CHECK_TRAP_ERR(14, 5);
    *pde = saved & ~(u32)PTE_P;
    flush();
    TRY(do_access(READ));
    CHECK_TRAP_ERR(14, 0);
    *pde = saved;
    flush();
}

static void page_crossing(void)
{
    volatile u32 *last = (volatile u32 *)(WINDOW + 0xffe);
    set_window(PHYS | PTE_P | PTE_W | PTE_U);
    set_window_at(1, PHYS | PTE_P); // read-only alias
    *(volatile u16 *)PHYS = 0x1122;
    *(volatile u16 *)(PHYS + 0xffe) = 0x3344;
    CHECK_EQ(*last, 0x11223344);
    TRY(*last = 0);
    CHECK_TRAP_ERR(14, 3);
    CHECK_EQ(trap.cr2, WINDOW + 0x1000);
    CHECK_EQ(*(volatile u16 *)(PHYS + 0xffe), 0x3344);
    set_window_at(1, 0);
    TRY((void)*last);
    CHECK_TRAP_ERR(14, 0);
    CHECK_EQ(trap.cr2, WINDOW + 0x1000);
}

// --- implicit supervisor accesses --------------------------------------------------------------------------------------------

USER static word user_load_fs(word sel)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(sel) : "memory");
    return 1;
}

// The processor's own read of a descriptor is a supervisor access, whatever CPL is; EFLAGS.AC does not lift SMAP from it.
static void implicit_access(void)
{
    *(volatile u64 *)PHYS = make_desc(0, 0xfffff, 0xc0f3);
    gdt[SEL_FREE / 8] = make_desc(WINDOW, 0xfff, 0x82); // an LDT in the window
    set_window(PHYS | PTE_P | PTE_W);
    __asm__ volatile("lldt %w0" ::"r"(SEL_FREE));
    run_user(user_load_fs, 4 | 3);
    CHECK_TRAP(0x80);
    set_window(0);
    run_user(user_load_fs, 4 | 3);
    CHECK_TRAP_ERR(14, 0);
    CHECK_EQ(trap.cr2, WINDOW);
    if (has_smap) {
        set_window(PHYS | PTE_P | PTE_W | PTE_U);
        set_bits_cr4(CR4_SMAP, true);
        TRY(__asm__ volatile("stac; mov %w0, %%fs" ::"r"(4) : "cc", "memory"));
        CHECK_TRAP_ERR(14, 1);
        set_bits_cr4(CR4_SMAP, false);
    }
    __asm__ volatile("lldt %w0; mov %w0, %%fs" ::"r"(0));
}

// --- large pages and reserved bits -------------------------------------------------------------------------------------------

#define LARGE 0x80000000u // 2 GiB

// 4 MiB pages; without CR4.PSE the PS bit means nothing.
static void large_32(void)
{
    u32 *pde = &pd[LARGE >> 22];
    *(volatile u32 *)(PHYS + 0x123450) = 0xabcd1234;
    enter_32(true);
    *pde = PHYS | PTE_P | PTE_W | PTE_PS;
    CHECK_EQ(*(volatile u32 *)(LARGE + 0x123450), 0xabcd1234);
    CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A);
    *(volatile u32 *)(LARGE + 0x123450) = 0x5555;
    CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A | PTE_D);
    CHECK_EQ(*(volatile u32 *)(PHYS + 0x123450), 0x5555);
    run_user(user_access, READ);
    *pde = PHYS | PTE_P | PTE_W | PTE_PS | 1u << 12; // PAT: not part of the address
    flush();
    CHECK_EQ(*(volatile u32 *)(LARGE + 0x123450), 0x5555);
    *pde = PHYS | PTE_P | PTE_PS | 1u << 21; // reserved also with PSE-36
    flush();
    TRY((void)*(volatile u8 *)LARGE);
    CHECK_TRAP_ERR(14, RSVD | 1);
    *pde = PHYS | PTE_P | PTE_W | PTE_PS | 1u << 13; // physical 4 GiB and up with PSE-36, else reserved
    flush();
    TRY(*(volatile u32 *)(LARGE + 0x123450) = 0x6666);
    if (has_pse36)
        CHECK_TRAP(-1);
    else
        CHECK_TRAP_ERR(14, RSVD | 3);
    CHECK_EQ(*(volatile u32 *)(PHYS + 0x123450), 0x5555);
    // Without PSE the entry points to a table: the window's.
    set_window(PHYS | PTE_P | PTE_W);
    *(volatile u32 *)(PHYS + 0x50) = 0x7777;
    *pde = (pd[WINDOW >> 22] & ~0xfffu) | PTE_P | PTE_W | PTE_PS;
    set_bits_cr4(CR4_PSE, false);
    CHECK_EQ(*(volatile u32 *)(LARGE + 0x50), 0x7777);
    *pde = 0;
    flush();
}

static void expect_reserved(u64 *entry, u64 bits, u32 address)
{
    u64 saved = *entry;
    *entry |= bits;
    flush();
    TRY((void)*(volatile u8 *)address);
    CHECK_TRAP_ERR(14, RSVD | 1);
    CHECK_EQ(trap.cr2, address);
    *entry = saved & ~PTE_P; // nothing is reserved in an absent entry
    *entry |= bits;
    flush();
    TRY((void)*(volatile u8 *)address);
    CHECK_TRAP_ERR(14, 0);
    *entry = saved;
    flush();
}

static void large_pae(void)
{
    u64 *pde = &pae_pd[LARGE >> 30][0];
    *(volatile u32 *)(PHYS + 0x123450) = 0xabcd1234;
    *pde = PHYS | PTE_P | PTE_W | PTE_PS;
    set_bits_cr4(CR4_PSE, false); // PAE has its large pages without it
    CHECK_EQ(*(volatile u32 *)(LARGE + 0x123450), 0xabcd1234);
    CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A);
    *(volatile u32 *)(LARGE + 0x123450) = 0x5555;
    CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A | PTE_D);
    TRY((void)*(volatile u8 *)(LARGE + 0x200000)); // 2 MiB, not 4
    CHECK_TRAP_ERR(14, 0);
    expect_reserved(pde, 1u << 13, LARGE);
    expect_reserved(pde, 1ull << 62, LARGE);
    *pde = 0;
    set_window(PHYS | PTE_P | PTE_W);
    expect_reserved(&pae_pt[MIB32 / 512][0], 1ull << 52, WINDOW);
    if (has_nx) { // NX is reserved while EFER.NXE is clear
        wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
        expect_reserved(&pae_pt[MIB32 / 512][0], PTE_NX, WINDOW);
        wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    }
}

// --- page-directory pointers -------------------------------------------------------------------------------------------------

// SDM 3A 4.4.1: a load of CR3 reads all four and checks the present ones; until the next load, memory does not count.
static void pointers(void)
{
    static const u64 reserved[] = {PTE_W, PTE_U, PTE_A, PTE_PS, PTE_NX};
    u64 saved = pdpt[1];
    set_window(PHYS | PTE_P | PTE_W);
    *(volatile u32 *)PHYS = 0x1234;
    for (unsigned i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        pdpt[3] = (u32)pae_pd[3] | PTE_P | reserved[i];
        TRY(flush());
        if (trap.vector != 13)
            break; // the check below tells
    }
    CHECK_TRAP_ERR(13, 0);
    pointers_checked = trap.vector == 13;
    pdpt[3] = 0xffffffff00000000ull | (PTE_W | PTE_A); // not present: not checked
    TRY(flush());
    CHECK_TRAP(-1);
    TRY((void)*(volatile u8 *)0xc0000000);
    CHECK_TRAP_ERR(14, 0);
    pdpt[3] = (u32)pae_pd[3] | PTE_P | PTE_PWT | PTE_PCD | 0xe00; // the bits that mean nothing here
    TRY(flush());
    CHECK_TRAP(-1);
    pdpt[1] = 0;
    invlpg((void *)WINDOW);
    TRY(CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234));
    CHECK_TRAP(-1);
    flush();
    TRY((void)*(volatile u32 *)WINDOW);
    CHECK_TRAP_ERR(14, 0);
    pdpt[1] = saved;
    invlpg((void *)WINDOW);
    TRY((void)*(volatile u32 *)WINDOW);
    CHECK_TRAP_ERR(14, 0);
    flush();
    CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234);
    CHECK_EQ(pdpt[1], saved); // no accessed bit
}

static void mode_switches(void)
{
    set_window(PHYS | PTE_P | PTE_W);
    paging_off();
    // Turning paging on checks the pointers, and changes nothing when they are bad.
    pdpt[2] |= PTE_W;
    write_cr3((u32)pdpt);
    TRY(write_cr0(read_cr0() | CR0_PG));
    CHECK_TRAP_ERR(13, 0);
    CHECK(!(read_cr0() & CR0_PG));
    paging_off(); // for those who let it pass
    pdpt[2] &= ~PTE_W;
    // So does turning PAE on under 32-bit paging: a page directory makes bad pointers.
    enter_32(false);
    pt[MIB32 / 1024][0] = PHYS | PTE_P | PTE_W;
    CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234);
    write_cr3((u32)pd);
    if (pointers_checked) { // nobody survives without
        TRY(write_cr4(read_cr4() | CR4_PAE));
        CHECK_TRAP_ERR(13, 0);
    }
    CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234);
    // Paging needs protection, and NW needs CD.
    TRY(write_cr0(read_cr0() & ~1u));
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr0((read_cr0() | 0x20000000u) & ~0x40000000u));
    CHECK_TRAP_ERR(13, 0);
    enter_pae();
    CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234);
    enter_32(true);
    CHECK_EQ(*(volatile u32 *)WINDOW, 0x1234);
    paging_off();
    CHECK_EQ(*(volatile u32 *)PHYS, 0x1234);
}

static void find_features(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    has_pse36 = r[3] >> 17 & 1;
    cpuid(7, 0, r);
    has_smep = r[1] >> 7 & 1;
    has_smap = r[1] >> 20 & 1;
    cpuid(0x80000001, 0, r);
    has_nx = r[3] >> 20 & 1;
}

void guest_main(void)
{
    find_features();
    build_tables();
    enter_32(false);
    permission_matrix();
    directory_level();
    page_crossing();
    implicit_access();
    large_32();
    if (has_nx)
        wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    enter_pae();
    permission_matrix();
    directory_level();
    page_crossing();
    implicit_access();
    large_pae();
    pointers();
    mode_switches();
}
