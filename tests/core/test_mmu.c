// The page walk against an independent model: modes × permissions of every level × control bits × kinds of access,
// every reserved bit, accessed and dirty bits in the guest's tables, what the TLB is given; and cases with literal
// expected values.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/paging_model.h"

#define RAM_SIZE (16ull << 20)
#define TABLE(n) (0x100000ull + (n)*0x1000ull) // table pages: 0 is the root
#define FRAME 0x400000ull                      // page that is mapped; aligned for 2 and 4 MiB pages
#define CR4_MATRIX (X86_CR4_SMEP | X86_CR4_SMAP)

struct layout {
    const char *name;
    u64 cr4, efer;
    unsigned levels; // of tables in memory
    unsigned first;  // level of the root: 4 PML4, 2 page directory
    bool large;      // the last table's entry maps a large page
    unsigned entry;  // bytes
    gva a;
};

static const struct layout layouts[] = {
    {"32-bit, 4 KiB", 0, 0, 2, 2, false, 4, 0x40567890},
    {"32-bit, 4 MiB", X86_CR4_PSE, 0, 1, 2, true, 4, 0x40567890},
    {"PAE, 4 KiB", X86_CR4_PAE, 0, 2, 2, false, 8, 0xc0567890},
    {"PAE, 2 MiB", X86_CR4_PAE, 0, 1, 2, true, 8, 0xc0567890},
    {"4-level, 4 KiB", X86_CR4_PAE, X86_EFER_LME, 4, 4, false, 8, 0xffff8880c0567890},
    {"4-level, 2 MiB", X86_CR4_PAE, X86_EFER_LME, 3, 4, true, 8, 0xffff8880c0567890},
    {"4-level, 1 GiB", X86_CR4_PAE, X86_EFER_LME, 2, 4, true, 8, 0xffff8880c0567890},
};

static u64 seed = 1;

static u32 rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)(seed >> 33);
}

static struct cpu_model model_of(const char *vendor, u8 maxphyaddr, bool gb, bool pse36)
{
    struct cpu_model m = {.maxphyaddr = maxphyaddr, .linear_bits = 48};
    strcpy(m.vendor, vendor);
    if (gb)
        m.features[ISA_FEAT_PDPE1GB / 64] |= 1ull << (ISA_FEAT_PDPE1GB % 64);
    if (pse36)
        m.features[ISA_FEAT_PSE36 / 64] |= 1ull << (ISA_FEAT_PSE36 % 64);
    return m;
}

static void put(struct fake_machine *f, gpa at, unsigned size, u64 val)
{
    memcpy(f->ram + at, &val, size);
}

static gpa entry_at(const struct layout *l, unsigned n)
{
    unsigned bits = l->entry == 4 ? 10 : 9, level = l->first - n;
    return TABLE(n) + (l->a >> (12 + bits * (level - 1)) & ((1u << bits) - 1)) * l->entry;
}

// Entry n (0: root) with the given permission bits; the last one maps FRAME.
static u64 entry_value(const struct layout *l, unsigned n, u64 flags)
{
    if (n + 1 < l->levels)
        return TABLE(n + 1) | flags;
    if (!l->large)
        return FRAME | flags;
    u64 base = l->levels == 2 && l->first == 4 ? 0 : FRAME; // a 1 GiB page can only begin at 0 here
    return base | X86_PTE_PS | flags;
}

static void setup(struct fake_machine *f, const struct layout *l, const u64 *flags)
{
    for (unsigned n = 0; n < l->levels; n++)
        put(f, entry_at(l, n), l->entry, entry_value(l, n, flags[n]));
    fake_paging_on(f, TABLE(0), l->cr4, l->efer);
    for (unsigned i = 0; i < 4; i++)
        f->vcpu.cpu.pdpte[i] = TABLE(0) | X86_PTE_P;
}

// Walk, and compare outcome and table memory with the model's. Returns whether the access was allowed.
static bool check_walk(struct fake_machine *f, const char *name, gva a, enum mmu_access access, enum tlb_view view)
{
    struct mmu_page page = {0};
    struct mmu_fault fault = {0};
    struct model_result want = model_translate(f, a, access, view);
    gpa peek = 0;
    bool peek_ok = mmu_peek(&f->vcpu, a, &peek);
    bool ok = mmu_walk(&f->vcpu, a, access, view, &page, &fault);

    if (ok != want.ok || (!ok && (fault.error != want.error || fault.addr != a)) ||
        (ok && (page.addr != want.addr || page.page_size != want.page_size || page.global != want.global ||
                page.dirty != want.dirty))) {
        const struct cpu *c = &f->vcpu.cpu;
        fail_msg("%s: access %d view %d cr0 %llx cr4 %llx efer %llx leaf %llx: got ok %d error %x addr %llx size %llx, "
                 "want ok %d error %x addr %llx size %llx",
                 name, access, view, (unsigned long long)c->cr0, (unsigned long long)c->cr4,
                 (unsigned long long)c->msr.efer, (unsigned long long)want.entry[want.entries - 1].val, ok, fault.error,
                 (unsigned long long)page.addr, (unsigned long long)page.page_size, want.ok, want.error,
                 (unsigned long long)want.addr, (unsigned long long)want.page_size);
    }
    bool in_ram = true;
    for (unsigned n = 0; n < want.entries; n++)
        in_ram = in_ram && want.entry[n].at < f->ram_size;
    if (ok && in_ram) {
        assert_true(peek_ok);
        assert_int_equal(peek, page.addr);
    }
    for (unsigned n = 0; n < want.entries; n++)
        assert_int_equal(model_ram(f, want.entry[n].at, want.entry[n].size), want.entry[n].val | want.set[n]);
    return ok;
}

// After a fill, a tag must be there for the access just made, and for others only what the model allows.
static void check_tags(struct fake_machine *f, gva a, enum mmu_access access, enum tlb_view view)
{
    struct mmu_fault fault;
    hva host;
    gpa phys;
    struct tlb *t = &f->vcpu.tlb;

    tlb_flush_all(t);
    struct model_result want = model_translate(f, a, access, view);
    bool ok = mmu_fill(&f->vcpu, a, access, view, &host, &phys, &fault);
    assert_int_equal(ok, want.ok);
    if (!ok || want.addr >= f->ram_size)
        return;
    assert_int_equal(phys, want.addr);
    hva here = (hva)f->ram + want.addr;
    assert_int_equal(host, here);

    hva hit[] = {tlb_read(t, view, a, 1), tlb_write(t, view, a, 1), tlb_exec(t, view, a)};
    assert_int_equal(hit[access], here);
    for (unsigned other = 0; other < 3; other++) {
        struct model_result r = model_translate(f, a, other, view);
        bool may = r.ok && (other != MMU_WRITE || (r.entry[r.entries - 1].val & X86_PTE_D));
        if (hit[other])
            assert_true(may && hit[other] == here);
    }
}

static const u64 perm_bits[] = {X86_PTE_P, X86_PTE_W, X86_PTE_U, X86_PTE_NX};

static u64 perms(unsigned combo)
{
    u64 flags = 0;
    for (unsigned i = 0; i < 4; i++)
        flags |= combo >> i & 1 ? perm_bits[i] : 0;
    return flags;
}

static void all_accesses(struct fake_machine *f, const struct layout *l, const u64 *flags)
{
    for (enum mmu_access access = MMU_READ; access <= MMU_EXEC; access++)
        for (enum tlb_view view = 0; view < TLB_VIEW_COUNT; view++) {
            for (unsigned n = 0; n < l->levels; n++)
                put(f, entry_at(l, n), l->entry, entry_value(l, n, flags[n]));
            check_walk(f, l->name, l->a, access, view);
            if (rnd() % 8 == 0) {
                check_tags(f, l->a, access, view);
            }
        }
}

// WP, SMEP, SMAP, NXE, PGE from the bits of `combo`.
static void set_controls(struct fake_machine *f, const struct layout *l, unsigned combo)
{
    struct cpu *c = &f->vcpu.cpu;
    c->cr0 = X86_CR0_PE | X86_CR0_PG | (combo & 1 ? X86_CR0_WP : 0);
    c->cr4 = l->cr4 | (combo & 2 ? X86_CR4_SMEP : 0) | (combo & 4 ? X86_CR4_SMAP : 0) | (combo & 16 ? X86_CR4_PGE : 0);
    c->msr.efer = l->efer | (l->efer ? X86_EFER_LMA : 0) | (combo & 8 ? X86_EFER_NXE : 0);
}

// Every combination of P, W, U and NX at every level; all controls for layouts of up to two levels, random ones beyond.
static void test_permission_matrix(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);

    for (unsigned i = 0; i < ARRAY_LEN(layouts); i++) {
        const struct layout *l = &layouts[i];
        unsigned combos = 1u << (4 * l->levels), controls = l->levels <= 2 ? 32 : 1;
        u64 flags[4] = {0};
        setup(f, l, flags);
        for (unsigned combo = 0; combo < combos; combo++)
            for (unsigned control = 0; control < controls; control++) {
                set_controls(f, l, controls == 1 ? rnd() % 32 : control);
                for (unsigned n = 0; n < l->levels; n++)
                    flags[n] = perms(combo >> (4 * n) & 15) | (rnd() & (X86_PTE_A | X86_PTE_D));
                flags[l->levels - 1] |= rnd() & X86_PTE_G;
                all_accesses(f, l, flags);
            }
    }
    fake_machine_free(f);
}

static void reserved_bits(struct fake_machine *f, const struct layout *l)
{
    for (unsigned n = 0; n < l->levels; n++)
        for (unsigned bit = 3; bit < l->entry * 8; bit++)
            for (unsigned combo = 0; combo < 8; combo++) {
                u64 flags[4];
                for (unsigned k = 0; k < l->levels; k++)
                    flags[k] = X86_PTE_P | X86_PTE_W | (combo & 2 ? X86_PTE_U : 0);
                flags[n] ^= 1ull << bit;
                if (combo & 4)
                    flags[n] &= ~X86_PTE_P; // then no other bit matters
                setup(f, l, flags);
                if (combo & 1)
                    f->vcpu.cpu.msr.efer |= X86_EFER_NXE;
                check_walk(f, l->name, l->a, rnd() % 3, rnd() % TLB_VIEW_COUNT);
            }
}

static void test_reserved_bits(void **state)
{
    (void)state;
    static const u8 widths[] = {32, 36, 39, 40, 46, 48, 52};
    struct fake_machine *f = fake_machine_new(RAM_SIZE);

    for (unsigned w = 0; w < ARRAY_LEN(widths); w++)
        for (unsigned combo = 0; combo < 8; combo++) {
            struct cpu_model m = model_of(combo & 1 ? "AuthenticAMD" : "GenuineIntel", widths[w], combo & 2, combo & 4);
            f->vcpu.model = &m;
            for (unsigned i = 0; i < ARRAY_LEN(layouts); i++)
                reserved_bits(f, &layouts[i]);
        }
    f->vcpu.model = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(layouts); i++)
        reserved_bits(f, &layouts[i]);
    fake_machine_free(f);
}

// Random entries, so that several conditions meet and the first one on the way down must win.
static void test_random_entries(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct cpu_model m[] = {model_of("AuthenticAMD", 48, true, true), model_of("GenuineIntel", 39, false, false)};

    for (unsigned round = 0; round < 300000; round++) {
        const struct layout *l = &layouts[rnd() % ARRAY_LEN(layouts)];
        u64 flags[4];
        for (unsigned n = 0; n < l->levels; n++) {
            flags[n] = X86_PTE_P | (rnd() & 0x166);
            if (rnd() % 4)
                flags[n] |= X86_PTE_W | X86_PTE_U;
            if (rnd() % 8 == 0)
                flags[n] ^= 1ull << rnd() % 64;
        }
        f->vcpu.model = &m[rnd() % 2];
        setup(f, l, flags);
        set_controls(f, l, rnd() % 32);
        if (rnd() % 16 == 0)
            f->vcpu.cpu.cr4 ^= X86_CR4_PSE;
        if (rnd() % 16 == 0)
            f->vcpu.cpu.pdpte[rnd() % 4] ^= X86_PTE_P;
        check_walk(f, l->name, l->a, rnd() % 3, rnd() % TLB_VIEW_COUNT);
    }
    fake_machine_free(f);
}

struct literal {
    u64 flags; // of the leaf; the levels above allow all
    u64 cr0, cr4, efer;
    enum mmu_access access;
    enum tlb_view view;
    int error; // -1: allowed
};

#define P X86_PTE_P
#define W X86_PTE_W
#define U X86_PTE_U
#define NX X86_PTE_NX
#define NXE X86_EFER_NXE

// 4-level paging, by hand from the manuals.
static const struct literal literals[] = {
    {0, X86_CR0_WP, 0, 0, MMU_READ, TLB_SUPER, 0x00},
    {W | U, X86_CR0_WP, 0, 0, MMU_WRITE, TLB_USER, 0x06},
    {P | U, X86_CR0_WP, 0, 0, MMU_WRITE, TLB_USER, 0x07},
    {P | W, X86_CR0_WP, 0, 0, MMU_READ, TLB_USER, 0x05},
    {P | U, X86_CR0_WP, 0, 0, MMU_WRITE, TLB_SUPER, 0x03},
    {P | U, 0, 0, 0, MMU_WRITE, TLB_SUPER, -1},
    {P | U, 0, 0, 0, MMU_WRITE, TLB_USER, 0x07},
    {P | W | U | NX, X86_CR0_WP, 0, NXE, MMU_EXEC, TLB_USER, 0x15},
    {P | W | U | NX, X86_CR0_WP, 0, 0, MMU_READ, TLB_USER, 0x0d},
    {P | W | U | NX, X86_CR0_WP, 0, 0, MMU_EXEC, TLB_USER, 0x0d}, // no I bit without NXE
    {P | W | U | NX, X86_CR0_WP, 0, NXE, MMU_READ, TLB_USER, -1},
    {0, X86_CR0_WP, 0, NXE, MMU_EXEC, TLB_SUPER, 0x10},
    {0, X86_CR0_WP, 0, 0, MMU_EXEC, TLB_SUPER, 0x00},
    {P | U, X86_CR0_WP, X86_CR4_SMEP, 0, MMU_EXEC, TLB_SUPER, 0x11},
    {P | U, X86_CR0_WP, X86_CR4_SMEP, 0, MMU_EXEC, TLB_USER, -1},
    {P, X86_CR0_WP, X86_CR4_SMEP, 0, MMU_EXEC, TLB_SUPER, -1},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_READ, TLB_SUPER, 0x01},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_WRITE, TLB_SUPER, 0x03},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_READ, TLB_SUPER_AC, -1},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_EXEC, TLB_SUPER, -1},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_READ, TLB_USER, -1},
    {P | U, X86_CR0_WP, X86_CR4_SMAP, 0, MMU_WRITE, TLB_SUPER_AC, 0x03},
    {P | W | U | 1ull << 50, X86_CR0_WP, 0, NXE, MMU_READ, TLB_SUPER, 0x09}, // MAXPHYADDR 48
    {P | 1ull << 50, X86_CR0_WP, 0, NXE, MMU_WRITE, TLB_USER, 0x0f},         // reserved before permission
};

#undef P
#undef W
#undef U
#undef NX
#undef NXE

static void test_literal_error_codes(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    const struct layout *l = &layouts[4];
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;

    for (unsigned i = 0; i < ARRAY_LEN(literals); i++) {
        const struct literal *t = &literals[i];
        u64 flags[4] = {all, all, all, t->flags};
        struct mmu_page page;
        struct mmu_fault fault = {0};
        setup(f, l, flags);
        f->vcpu.cpu.cr0 = X86_CR0_PE | X86_CR0_PG | t->cr0;
        f->vcpu.cpu.cr4 |= t->cr4;
        f->vcpu.cpu.msr.efer |= t->efer;
        bool ok = mmu_walk(&f->vcpu, l->a, t->access, t->view, &page, &fault);
        if (ok != (t->error < 0) || (!ok && (int)fault.error != t->error))
            fail_msg("row %u: got %s %x, want %x", i, ok ? "allowed" : "fault", fault.error, t->error);
    }
    fake_machine_free(f);
}

static void test_pse36(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct cpu_model m = model_of("AuthenticAMD", 40, false, true);
    struct mmu_page page;
    struct mmu_fault fault;

    f->vcpu.model = &m;
    put(f, TABLE(0) + 4, 4, 0x00c00000u | 0xabu << 13 | X86_PTE_PS | X86_PTE_P);
    fake_paging_on(f, TABLE(0), X86_CR4_PSE, 0);
    assert_true(mmu_walk(&f->vcpu, 0x00456789, MMU_READ, TLB_SUPER, &page, &fault));
    assert_int_equal(page.addr, 0xab00c56789);
    assert_int_equal(page.page_size, 4 << 20);
    fake_machine_free(f);
}

// Before the Pentium an access that faults leaves the directory's accessed bit alone; since then the walk sets it on its way.
static void test_accessed_bit_of_old_models(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    const struct layout *l = &layouts[0];
    struct mmu_page page;
    struct mmu_fault fault;

    for (u32 family = 4; family <= 6; family++) {
        struct cpu_model m = model_of("GenuineIntel", 32, false, false);
        m.family = family;
        f->vcpu.model = &m;
        setup(f, l, (const u64[]){X86_PTE_P, 0});
        assert_false(mmu_walk(&f->vcpu, l->a, MMU_READ, TLB_SUPER, &page, &fault));
        assert_int_equal(model_ram(f, entry_at(l, 0), 4) & X86_PTE_A, family == 4 ? 0 : X86_PTE_A);
        put(f, entry_at(l, 1), 4, entry_value(l, 1, X86_PTE_P));
        assert_true(mmu_walk(&f->vcpu, l->a, MMU_READ, TLB_SUPER, &page, &fault));
        assert_int_equal(model_ram(f, entry_at(l, 0), 4) & X86_PTE_A, X86_PTE_A);
        assert_int_equal(model_ram(f, entry_at(l, 1), 4) & X86_PTE_A, X86_PTE_A);
    }
    fake_machine_free(f);
}

static void test_no_paging_and_a20(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct mmu_fault fault;
    u64 val;

    put(f, 0x000010, 4, 0x11111111);
    put(f, 0x100010, 4, 0x22222222);
    assert_true(mmu_load(&f->vcpu, 0x100010, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x22222222);
    assert_true(mmu_load(&f->vcpu, 0x100010, 4, TLB_USER, &val, &fault)); // CPL 3 without paging
    atomic_store(&f->machine.a20_mask, ~(1ull << 20));
    mmu_a20_update(&f->vcpu);
    assert_true(mmu_load(&f->vcpu, 0x100010, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x11111111);
    assert_true(mmu_store(&f->vcpu, 0x100010, 4, TLB_SUPER, 0x33333333, &fault));
    assert_int_equal(model_ram(f, 0x10, 4), 0x33333333);
    fake_machine_free(f);
}

// Tables and page are all reached through A20.
static void test_a20_in_walk(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct mmu_page page;
    struct mmu_fault fault;
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;

    f->vcpu.cpu.a20_mask = ~(1ull << 20);
    put(f, 0x200000, 4, 0x301000 | all); // the table that CR3 = 0x300000 means
    put(f, 0x201000, 4, 0x304000 | all);
    fake_paging_on(f, 0x300000, 0, 0);
    assert_true(mmu_walk(&f->vcpu, 0x123, MMU_WRITE, TLB_SUPER, &page, &fault));
    assert_int_equal(page.addr, 0x204123);
    assert_int_equal(model_ram(f, 0x201000, 4), 0x304000 | all | X86_PTE_A | X86_PTE_D);
    fake_machine_free(f);
}

// --- tables in odd places --------------------------------------------------------------------------------------------

struct mmio_table {
    u64 entry[512];
    unsigned writes;
};

static u64 mmio_table_read(void *dev, u64 off, unsigned size)
{
    assert_int_equal(size, 8);
    return ((struct mmio_table *)dev)->entry[off / 8];
}

static void mmio_table_write(void *dev, u64 off, unsigned size, u64 val)
{
    assert_int_equal(size, 8);
    ((struct mmio_table *)dev)->entry[off / 8] = val;
    ((struct mmio_table *)dev)->writes++;
}

static const struct dev_ops mmio_table_ops = {.name = "table", .read = mmio_table_read, .write = mmio_table_write};

// PD at `pd` maps 0..2 MiB to FRAME; returns the walk's result for a write.
static bool walk_through(struct fake_machine *f, gpa pd, struct mmu_page *page, struct mmu_fault *fault)
{
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;
    put(f, TABLE(0), 8, TABLE(1) | all);
    put(f, TABLE(1), 8, pd | all);
    fake_paging_on(f, TABLE(0), X86_CR4_PAE, X86_EFER_LME);
    return mmu_walk(&f->vcpu, 0x1234, MMU_WRITE, TLB_SUPER, page, fault);
}

static void test_tables_outside_ram(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    u64 entry = FRAME | X86_PTE_PS | X86_PTE_P | X86_PTE_W;
    u64 *rom = fake_mem_alloc(NULL, "rom", 4096);
    _Atomic u8 rom_flags[1] = {0};
    struct mmio_table dev = {.entry = {entry}};
    struct mmu_page page;
    struct mmu_fault fault;

    rom[0] = entry;
    assert_int_equal(mem_add_rom(&f->machine.mem, 0xfffff000, 4096, (u8 *)rom, rom_flags, "rom"), 0);
    assert_int_equal(mem_add_mmio(&f->machine.mem, 0xfe000000, 4096, &mmio_table_ops, &dev, "mmio"), 0);

    assert_true(walk_through(f, 0xfffff000, &page, &fault));
    assert_int_equal(page.addr, FRAME + 0x1234);
    assert_int_equal(rom[0], entry); // A and D cannot be set

    assert_true(walk_through(f, 0xfe000000, &page, &fault));
    assert_int_equal(page.addr, FRAME + 0x1234);
    assert_int_equal(dev.entry[0], entry | X86_PTE_A | X86_PTE_D);
    assert_int_equal(dev.writes, 1);
    gpa peek;
    assert_false(mmu_peek(&f->vcpu, 0x1234, &peek)); // not through a device

    assert_false(walk_through(f, 0xfd000000, &page, &fault)); // a hole: all ones
    assert_int_equal(fault.error, X86_PF_P | X86_PF_W | X86_PF_RSVD);
    free(rom);
    fake_machine_free(f);
}

static void test_pdpte_load(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct cpu_model m = model_of("AuthenticAMD", 40, false, true);
    f->vcpu.model = &m;
    u64 old[4];
    gpa at = 0x5020;

    for (unsigned bit = 0; bit < 64; bit++) {
        bool bad = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 40;
        for (unsigned i = 0; i < 4; i++) {
            for (unsigned k = 0; k < 4; k++)
                put(f, at + k * 8, 8, 0x1001 + k * 0x1000);
            memset(f->vcpu.cpu.pdpte, 0x5a, sizeof(old));
            memcpy(old, f->vcpu.cpu.pdpte, sizeof(old));
            put(f, at + i * 8, 8, 0x1001 | 1ull << bit);
            assert_int_equal(mmu_load_pdptes(&f->vcpu, at | 0x1f), !bad);
            if (bad)
                assert_memory_equal(f->vcpu.cpu.pdpte, old, sizeof(old));
            else
                assert_memory_equal(f->vcpu.cpu.pdpte, f->ram + at, sizeof(old));
            put(f, at + i * 8, 8, 1ull << bit & ~1ull); // not present: anything goes
            assert_true(mmu_load_pdptes(&f->vcpu, at));
        }
    }
    assert_false(mmu_load_pdptes(&f->vcpu, 0xe0000000)); // hole
    fake_machine_free(f);
}

// --- races and code pages --------------------------------------------------------------------------------------------

struct hook {
    struct fake_machine *f;
    unsigned calls;
    gpa base;
    u64 len;
    u64 seen;   // first 8 bytes at base when called
    gpa change; // nonzero: change this entry, as another processor might, on the first call
    u64 change_to;
};

static void on_code_write(void *owner, gpa base, u64 len)
{
    struct hook *h = owner;
    h->calls++;
    h->base = base;
    h->len = len;
    memcpy(&h->seen, h->f->ram + base, 8);
    if (h->change) {
        put(h->f, h->change, 8, h->change_to);
        h->change = 0;
    }
}

// The hook runs between reading an entry and exchanging it: the walk must see the change and start over.
static void test_entry_changed_during_walk(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    const struct layout *l = &layouts[4];
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;
    u64 flags[4] = {all | X86_PTE_A, all | X86_PTE_A, all | X86_PTE_A, all};
    struct hook h = {.f = f};
    struct mmu_page page;
    struct mmu_fault fault;

    f->machine.mem.code_write = on_code_write;
    f->machine.mem.owner = &h;
    for (unsigned n = 2; n < 4; n++) {
        flags[2] = n == 2 ? all : all | X86_PTE_A;
        setup(f, l, flags);
        mmu_protect_page(&f->machine, &f->vcpu, TABLE(n));
        h.change = entry_at(l, 3);
        h.change_to = (FRAME + 0x7000) | all;
        h.calls = 0;
        if (n == 2) {
            h.change = entry_at(l, 2);
            h.change_to = TABLE(5) | all;
            put(f, TABLE(5) + (entry_at(l, 3) & 0xfff), 8, (FRAME + 0x7000) | all);
        }
        assert_true(mmu_walk(&f->vcpu, l->a, MMU_WRITE, TLB_SUPER, &page, &fault));
        assert_int_equal(page.addr, FRAME + 0x7000 + (l->a & 0xfff));
        assert_int_equal(h.calls, 4); // before and after, of two attempts
        if (n == 3)
            assert_int_equal(model_ram(f, entry_at(l, 3), 8), (FRAME + 0x7000) | all | X86_PTE_A | X86_PTE_D);
        *mem_flags(&f->machine.mem, TABLE(n)) = 0;
    }

    // The change takes the page away.
    flags[2] |= X86_PTE_A;
    setup(f, l, flags);
    mmu_protect_page(&f->machine, &f->vcpu, TABLE(3));
    h.change = entry_at(l, 3);
    h.change_to = 0;
    assert_false(mmu_walk(&f->vcpu, l->a, MMU_WRITE, TLB_SUPER, &page, &fault));
    assert_int_equal(fault.error, X86_PF_W);
    assert_int_equal(model_ram(f, entry_at(l, 3), 8), 0);
    fake_machine_free(f);
}

// Another processor exchanges the leaf entry all the while. No update may bring back an older value of it.
struct exchanger {
    u64 *entry;
    _Atomic bool stop;
    unsigned lost, touched;
};

static void *exchange_loop(void *arg)
{
    struct exchanger *x = arg;
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U, ad = X86_PTE_A | X86_PTE_D;
    u64 mine = __atomic_load_n(x->entry, __ATOMIC_RELAXED) & ~ad;

    for (u64 i = 0; !atomic_load(&x->stop); i++) {
        u64 next = (FRAME + i % 64 * 0x1000) | all | (i / 64 % 1024) << 52; // software bits count
        u64 old = __atomic_exchange_n(x->entry, next, __ATOMIC_SEQ_CST);
        x->lost += (old & ~ad) != mine;
        x->touched += (old & ad) != 0;
        mine = next;
    }
    return NULL;
}

static void test_concurrent_exchange(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    const struct layout *l = &layouts[4];
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;
    u64 flags[4] = {all, all, all, all};
    pthread_t thread;

    setup(f, l, flags);
    struct exchanger x = {.entry = (u64 *)(f->ram + entry_at(l, 3))};
    assert_int_equal(pthread_create(&thread, NULL, exchange_loop, &x), 0);
    for (unsigned i = 0; i < 300000; i++) {
        struct mmu_page page;
        struct mmu_fault fault;
        assert_true(mmu_walk(&f->vcpu, l->a, i % 2 ? MMU_WRITE : MMU_READ, TLB_SUPER, &page, &fault));
        assert_true(page.addr - FRAME < 64 * 0x1000);
    }
    atomic_store(&x.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(x.lost, 0);
    assert_true(x.touched > 0);
    fake_machine_free(f);
}

static void test_code_pages(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct hook h = {.f = f};
    struct mmu_fault fault;
    _Atomic u8 *flags = mem_flags(&f->machine.mem, 0x5000);

    f->machine.mem.code_write = on_code_write;
    f->machine.mem.owner = &h;
    assert_true(mmu_store(&f->vcpu, 0x5008, 8, TLB_SUPER, 0x1111, &fault));
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0x5008, 8) != 0);
    assert_int_equal(*flags, MEM_PAGE_DIRTY);

    mmu_protect_page(&f->machine, &f->vcpu, 0x5abc);
    assert_int_equal(*flags, MEM_PAGE_DIRTY | MEM_PAGE_CODE);
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0x5008, 8) == 0);
    assert_true(tlb_read(&f->vcpu.tlb, TLB_SUPER, 0x5008, 8) != 0);

    for (unsigned i = 1; i <= 3; i++) { // as long as the flag stays, every store is told of, when it has happened
        assert_true(mmu_store(&f->vcpu, 0x5008, 4, TLB_SUPER, 0x2222 + i, &fault));
        assert_int_equal(h.calls, i);
        assert_int_equal(h.base, 0x5008);
        assert_int_equal(h.len, 4);
        assert_int_equal(h.seen, 0x2222 + i);
    }
    atomic_fetch_and(flags, (u8)~MEM_PAGE_CODE);
    assert_true(mmu_store(&f->vcpu, 0x5008, 8, TLB_SUPER, 0x3333, &fault));
    assert_int_equal(h.calls, 3);
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0x5008, 8) != 0);

    // A store across into a code page tells of its own part only.
    mmu_protect_page(&f->machine, &f->vcpu, 0x6000);
    assert_true(mmu_store(&f->vcpu, 0x5ffd, 8, TLB_SUPER, 0x8877665544332211, &fault));
    assert_int_equal(model_ram(f, 0x5ffd, 8), 0x8877665544332211);
    assert_int_equal(h.base + h.len, 0x6005);
    fake_machine_free(f);
}

static void test_dirty_flag(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct mmu_fault fault;
    u64 val;
    _Atomic u8 *flags = mem_flags(&f->machine.mem, 0x5000);

    assert_true(mmu_load(&f->vcpu, 0x5000, 8, TLB_SUPER, &val, &fault));
    assert_int_equal(*flags, 0);
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0x5000, 8) == 0);
    assert_true(mmu_store(&f->vcpu, 0x5000, 8, TLB_SUPER, 1, &fault));
    assert_int_equal(*flags, MEM_PAGE_DIRTY);
    *flags = 0;
    tlb_protect_gpa(&f->vcpu.tlb, 0x5000);
    assert_true(mmu_load(&f->vcpu, 0x5000, 8, TLB_SUPER, &val, &fault));
    assert_int_equal(*flags, 0);
    assert_true(mmu_store(&f->vcpu, 0x5000, 8, TLB_SUPER, 1, &fault));
    assert_int_equal(*flags, MEM_PAGE_DIRTY);
    fake_machine_free(f);
}

// --- accesses across pages -------------------------------------------------------------------------------------------

static void test_cross_page(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;
    struct mmu_fault fault;
    u64 val;

    put(f, TABLE(0), 4, TABLE(1) | all);
    put(f, TABLE(1) + 4 * 4, 4, 0x600000 | all); // 0x4000
    put(f, TABLE(1) + 5 * 4, 4, 0x500000 | all); // 0x5000: elsewhere, and before it
    put(f, TABLE(1) + 7 * 4, 4, 0x500000 | all); // 0x7000, with 0x6000 absent
    fake_paging_on(f, TABLE(0), 0, 0);

    assert_true(mmu_store(&f->vcpu, 0x4ffb, 8, TLB_USER, 0x8877665544332211, &fault));
    assert_int_equal(model_ram(f, 0x600ffb, 4), 0x44332211);
    assert_int_equal(model_ram(f, 0x600fff, 1) | model_ram(f, 0x500000, 2) << 8, 0x776655);
    assert_true(mmu_load(&f->vcpu, 0x4ffb, 8, TLB_USER, &val, &fault));
    assert_int_equal(val, 0x8877665544332211);

    // The second page faults: nothing is written, and the address is its first byte.
    memset(f->ram + 0x500ff0, 0xcc, 16);
    assert_false(mmu_store(&f->vcpu, 0x5ffe, 4, TLB_USER, 0, &fault));
    assert_int_equal(fault.addr, 0x6000);
    assert_int_equal(fault.error, X86_PF_W | X86_PF_U);
    assert_int_equal(model_ram(f, 0x500ffe, 2), 0xcccc);
    // The first page faults: the address is that of the access.
    assert_false(mmu_load(&f->vcpu, 0x6ffe, 4, TLB_USER, &val, &fault));
    assert_int_equal(fault.addr, 0x6ffe);

    u8 buf[4096];
    assert_true(mmu_read_buf(&f->vcpu, 0x4800, buf, 4096, TLB_USER, &fault));
    assert_memory_equal(buf, f->ram + 0x600800, 2048);
    assert_memory_equal(buf + 2048, f->ram + 0x500000, 2048);
    assert_false(mmu_write_buf(&f->vcpu, 0x5001, buf, 4096, TLB_USER, &fault));
    assert_int_equal(fault.addr, 0x6000);
    assert_true(mmu_probe(&f->vcpu, 0x4000, 0x2000, MMU_WRITE, TLB_USER, &fault));
    assert_false(mmu_probe(&f->vcpu, 0x4000, 0x2001, MMU_WRITE, TLB_USER, &fault));
    assert_int_equal(fault.addr, 0x6000);
    fake_machine_free(f);
}

// Linear addresses are 32 bits wide outside 64-bit mode.
static void test_wrap_at_4g(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U;
    struct mmu_fault fault;
    u64 val;

    put(f, TABLE(0), 4, TABLE(1) | all);
    put(f, TABLE(0) + 0xffc, 4, TABLE(2) | all);
    put(f, TABLE(1), 4, 0x500000 | all);
    put(f, TABLE(2) + 0xffc, 4, 0x600000 | all);
    fake_paging_on(f, TABLE(0), 0, 0);
    assert_true(mmu_store(&f->vcpu, 0xfffffffe, 4, TLB_USER, 0x44332211, &fault));
    assert_int_equal(model_ram(f, 0x600ffe, 2), 0x2211);
    assert_int_equal(model_ram(f, 0x500000, 2), 0x4433);
    assert_true(mmu_load(&f->vcpu, 0xfffffffe, 4, TLB_USER, &val, &fault));
    assert_int_equal(val, 0x44332211);
    put(f, TABLE(1), 4, 0);
    tlb_flush_all(&f->vcpu.tlb);
    assert_false(mmu_load(&f->vcpu, 0xfffffffe, 4, TLB_USER, &val, &fault));
    assert_int_equal(fault.addr, 0);

    // In 64-bit code they are not: the next page is at 4 GiB.
    const struct layout *l = &layouts[5];
    gva a = 0xfffffffe;
    put(f, TABLE(4), 8, TABLE(5) | all);
    put(f, TABLE(5) + 3 * 8, 8, TABLE(6) | all);
    put(f, TABLE(5) + 4 * 8, 8, TABLE(7) | all);
    put(f, TABLE(6) + 511 * 8, 8, 0x400000 | X86_PTE_PS | all);
    put(f, TABLE(7), 8, 0x600000 | X86_PTE_PS | all);
    fake_paging_on(f, TABLE(4), l->cr4, l->efer);
    f->vcpu.cpu.seg[X86_CS].attr |= X86_SEG_L;
    assert_true(mmu_store(&f->vcpu, a, 4, TLB_USER, 0x88776655, &fault));
    assert_int_equal(model_ram(f, 0x5ffffe, 2), 0x6655);
    assert_int_equal(model_ram(f, 0x600000, 2), 0x8877);
    fake_machine_free(f);
}

struct recorder {
    unsigned count;
    struct {
        u64 off, val;
        unsigned size;
        bool write;
    } seen[32];
};

static u64 recorder_read(void *dev, u64 off, unsigned size)
{
    struct recorder *r = dev;
    assert_true(r->count < 32);
    r->seen[r->count].off = off;
    r->seen[r->count].size = size;
    r->seen[r->count++].write = false;
    return 0x8877665544332211 >> (off % 8 * 8);
}

static void recorder_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct recorder *r = dev;
    assert_true(r->count < 32);
    r->seen[r->count].off = off;
    r->seen[r->count].size = size;
    r->seen[r->count].val = val;
    r->seen[r->count++].write = true;
}

static const struct dev_ops recorder_ops = {.name = "recorder", .read = recorder_read, .write = recorder_write};

static void test_mmio_access(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    struct recorder r = {0};
    struct mmu_fault fault;
    u64 val;

    assert_int_equal(mem_add_mmio(&f->machine.mem, 0xfe000000, 0x2000, &recorder_ops, &r, "rec"), 0);
    assert_true(mmu_load(&f->vcpu, 0xfe000004, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x88776655);
    assert_true(mmu_store(&f->vcpu, 0xfe000010, 2, TLB_SUPER, 0x12345678, &fault));
    assert_int_equal(r.count, 2);
    assert_int_equal(r.seen[1].val, 0x5678);
    assert_int_equal(r.seen[1].size, 2);
    assert_true(tlb_read(&f->vcpu.tlb, TLB_SUPER, 0xfe000004, 1) == 0);
    // Across a page: each part in aligned pieces.
    r.count = 0;
    assert_true(mmu_store(&f->vcpu, 0xfe000ffd, 8, TLB_SUPER, 0x8877665544332211, &fault));
    assert_int_equal(r.count, 4);
    assert_int_equal(r.seen[0].off, 0xffd);
    assert_int_equal(r.seen[0].size, 1);
    assert_int_equal(r.seen[1].size, 2);
    assert_int_equal(r.seen[1].val, 0x3322);
    assert_int_equal(r.seen[2].off, 0x1000);
    assert_int_equal(r.seen[2].size, 4);
    assert_int_equal(r.seen[2].val, 0x77665544);
    assert_int_equal(r.seen[3].val, 0x88);
    fake_machine_free(f);
}

static void test_rom_access(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(RAM_SIZE);
    u8 *rom = fake_mem_alloc(NULL, "rom", 4096);
    _Atomic u8 flags[1] = {0};
    struct mmu_fault fault;
    hva host;
    gpa phys;
    u64 val;

    rom[0] = 0x5a;
    assert_int_equal(mem_add_rom(&f->machine.mem, 0xfffff000, 4096, rom, flags, "rom"), 0);
    assert_true(mmu_load(&f->vcpu, 0xfffff000, 1, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x5a);
    assert_true(mmu_store(&f->vcpu, 0xfffff000, 1, TLB_SUPER, 0, &fault));
    assert_int_equal(rom[0], 0x5a);
    assert_true(tlb_read(&f->vcpu.tlb, TLB_SUPER, 0xfffff000, 1) == (hva)rom);
    // It becomes executable when code is taken from it, and stays so when it is read again.
    assert_true(tlb_exec(&f->vcpu.tlb, TLB_SUPER, 0xfffff000) == 0);
    assert_true(mmu_fill(&f->vcpu, 0xfffff000, MMU_EXEC, TLB_SUPER, &host, &phys, &fault) && host == (hva)rom);
    assert_true(tlb_exec(&f->vcpu.tlb, TLB_SUPER, 0xfffff000) == (hva)rom);
    assert_true(mmu_fill(&f->vcpu, 0xfffff000, MMU_READ, TLB_SUPER, &host, &phys, &fault) && host == (hva)rom);
    assert_true(tlb_exec(&f->vcpu.tlb, TLB_SUPER, 0xfffff000) == (hva)rom);
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0xfffff000, 1) == 0);
    free(rom);
    fake_machine_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permission_matrix),
        cmocka_unit_test(test_reserved_bits),
        cmocka_unit_test(test_random_entries),
        cmocka_unit_test(test_literal_error_codes),
        cmocka_unit_test(test_pse36),
        cmocka_unit_test(test_accessed_bit_of_old_models),
        cmocka_unit_test(test_no_paging_and_a20),
        cmocka_unit_test(test_a20_in_walk),
        cmocka_unit_test(test_tables_outside_ram),
        cmocka_unit_test(test_pdpte_load),
        cmocka_unit_test(test_entry_changed_during_walk),
        cmocka_unit_test(test_concurrent_exchange),
        cmocka_unit_test(test_code_pages),
        cmocka_unit_test(test_dirty_flag),
        cmocka_unit_test(test_cross_page),
        cmocka_unit_test(test_wrap_at_4g),
        cmocka_unit_test(test_mmio_access),
        cmocka_unit_test(test_rom_access),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
