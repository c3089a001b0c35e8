// The software TLB alone: what each flush drops and, as important, what it keeps.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/fake_host.h"

#define HOST(n) (0x7f0000000000ull + (n)*0x1000ull)
#define PHYS(n) (0x100000ull + (n)*0x1000ull)

static struct tlb *tlb_new(void)
{
    struct tlb *t = malloc(sizeof(*t));
    memset(t, 0, sizeof(*t));
    tlb_init(t);
    return t;
}

static void fill(struct tlb *t, enum tlb_view view, gva a, unsigned n, unsigned shift, bool global)
{
    tlb_fill(t, view, a,
             &(struct tlb_page){
                 .host = HOST(n), .phys = PHYS(n), .shift = shift, .global = global, .r = true, .w = true, .x = true});
}

static bool has(struct tlb *t, enum tlb_view view, gva a)
{
    return tlb_read(t, view, a, 1) != 0;
}

// Bitmaps and tags tell the same, for every table.
static void check_invariants(const struct tlb *t)
{
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        for (unsigned view = 0; t->ctx[c].used && view < TLB_VIEW_COUNT; view++) {
            const struct tlb_table *tab = &t->ctx[c].view[view];
            unsigned fragments = 0, counted = 0;
            for (unsigned i = 0; i < 1u << TLB_FILTER_BITS; i++)
                counted += tab->large_4m[i] + tab->large_1g[i];
            for (unsigned i = 0; i < TLB_ENTRIES; i++) {
                const struct tlb_entry *e = &tab->e[i];
                const struct tlb_bits *b = &tab->bits[i / 64];
                u64 bit = 1ull << (i % 64);
                bool valid = e->tag_r != tlb_invalid(i) || e->tag_x != tlb_invalid(i);
                assert_int_equal((b->valid & bit) != 0, valid);
                assert_int_equal((b->writable & bit) != 0, e->tag_w != tlb_invalid(i));
                if (!valid)
                    assert_int_equal((b->global | b->large | b->writable) & bit, 0);
                if (b->valid & ~b->global & bit)
                    assert_true(tab->local >> (i / 64) & 1);
                fragments += (b->large & bit) != 0;
                gva tag[] = {e->tag_r, e->tag_w, e->tag_x};
                for (unsigned k = 0; k < 3; k++)
                    if (tag[k] != tlb_invalid(i))
                        assert_true(tlb_index(tag[k]) == i && (tag[k] & 0xfff) == 0);
            }
            assert_int_equal(fragments, counted);
        }
}

// Probes may come with addresses that are not canonical: those find nothing, in an empty table, in a used one and after a flush.
static void test_not_canonical(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();
    for (unsigned round = 0; round < 3; round++) {
        for (u64 top = 0x8000; top <= 0xff7f; top += 0x1f)
            for (unsigned i = 0; i < TLB_ENTRIES; i++) {
                gva a = top << 48 | (gva)i << 12;
                for (unsigned off = 0; off < 4096; off += 63)
                    assert_false(tlb_read(t, TLB_USER, a + off, 1) || tlb_write(t, TLB_USER, a + off, 1) ||
                                 tlb_exec(t, TLB_USER, a + off));
            }
        if (round == 0)
            for (unsigned i = 0; i < TLB_ENTRIES; i++)
                fill(t, TLB_USER, (gva)i << 12, i, 12, i & 1);
        else
            tlb_flush_all(t);
    }
    free(t);
}

static void test_probe(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();
    gva edges[] = {0, 0x7ffffffff000, 0xffff800000000000, 0xfffffffffffff000, 0xfffff000};

    for (unsigned i = 0; i < ARRAY_LEN(edges); i++) { // nothing matches at first, page 0 least of all
        assert_false(has(t, TLB_SUPER, edges[i]));
        assert_true(tlb_write(t, TLB_SUPER, edges[i] + 4088, 8) == 0);
        assert_true(tlb_exec(t, TLB_SUPER, edges[i] + 4095) == 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(edges); i++) {
        gva a = edges[i];
        fill(t, TLB_SUPER, a + 5, i, 12, false);
        for (unsigned size = 1; size <= 8; size *= 2) {
            assert_int_equal(tlb_read(t, TLB_SUPER, a, size), HOST(i));
            assert_int_equal(tlb_read(t, TLB_SUPER, a + 4096 - size, size), HOST(i) + 4096 - size);
            assert_int_equal(tlb_write(t, TLB_SUPER, a + 4096 - size, size), HOST(i) + 4096 - size);
            if (size > 1) // crosses the page
                assert_true(tlb_read(t, TLB_SUPER, a + 4097 - size, size) == 0);
        }
        assert_int_equal(tlb_exec(t, TLB_SUPER, a + 4095), HOST(i) + 4095);
        assert_false(has(t, TLB_SUPER, a + 4096));
        assert_false(has(t, TLB_SUPER, a - 1));
        assert_false(has(t, TLB_USER, a));
        check_invariants(t);
    }
    free(t);
}

static void test_tags_are_separate(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned bits = 0; bits < 8; bits++) {
        bool r = bits & 1, w = bits & 2, x = bits & 4;
        tlb_fill(t, TLB_USER, 0x1000,
                 &(struct tlb_page){.host = HOST(1), .phys = PHYS(1), .shift = 12, .r = r, .w = w, .x = x});
        assert_int_equal(has(t, TLB_USER, 0x1000), r);
        assert_int_equal(tlb_write(t, TLB_USER, 0x1000, 1) != 0, w && r);
        assert_int_equal(tlb_exec(t, TLB_USER, 0x1000) != 0, x);
        check_invariants(t);
    }
    free(t);
}

static void test_global_survives_cr3(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        fill(t, i % 3, i * 0x1000ull, i, 12, i % 2);
    tlb_flush_nonglobal(t);
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        assert_int_equal(has(t, i % 3, i * 0x1000ull), i % 2);
    check_invariants(t);
    tlb_flush_all(t);
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        assert_false(has(t, i % 3, i * 0x1000ull));
    check_invariants(t);
    free(t);
}

static void test_flush_gva(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        for (unsigned i = 0; i < 3; i++)
            fill(t, view, 0x10000 + i * 0x1000, i, 12, i == 0);
    tlb_flush_gva(t, 0x11abc);
    tlb_flush_gva(t, 0x10000 + TLB_ENTRIES * 0x1000ull); // same slot, other page
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++) {
        assert_true(has(t, view, 0x10000));
        assert_false(has(t, view, 0x11000));
        assert_true(has(t, view, 0x12000));
    }
    check_invariants(t);
    free(t);
}

// Fragments all over a large page; one address anywhere in it drops them all, one outside none.
static void test_flush_large(void **state)
{
    (void)state;
    static const unsigned shifts[] = {21, 22, 30};
    struct tlb *t = tlb_new();

    for (unsigned s = 0; s < ARRAY_LEN(shifts); s++)
        for (unsigned global = 0; global < 2; global++) {
            u64 size = 1ull << shifts[s];
            gva base = 0xffff888000000000 + 5 * size;
            gva inside[] = {base, base + size / 2, base + size - 1, base + size / 2 - 1};
            gva outside[] = {base - 1, base + size, base + (1ull << 36), base - size};
            for (unsigned i = 0; i < ARRAY_LEN(inside); i++) {
                gva frag[] = {base + 0x1000, base + size / 2 + 0x2000, base + size - 0x3000};
                for (unsigned k = 0; k < 3; k++)
                    fill(t, TLB_SUPER, frag[k], k, shifts[s], global);
                fill(t, TLB_SUPER, base - 0x5000, 9, 12, false); // a neighbour
                tlb_flush_gva(t, outside[i]);
                for (unsigned k = 0; k < 3; k++)
                    assert_true(has(t, TLB_SUPER, frag[k]));
                tlb_flush_gva(t, inside[i]);
                for (unsigned k = 0; k < 3; k++)
                    assert_false(has(t, TLB_SUPER, frag[k]));
                assert_true(has(t, TLB_SUPER, base - 0x5000));
                check_invariants(t);
            }
        }
    free(t);
}

// A page fault drops what would have translated the address, and no more.
static void test_flush_page(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    fill(t, TLB_SUPER, 0xffff888000200000, 1, 21, true);
    fill(t, TLB_SUPER, 0xffff888000201000, 2, 21, true);
    fill(t, TLB_USER, 0x201000, 3, 21, false);
    tlb_switch_pcid(t, 1, false);
    fill(t, TLB_SUPER, 0xffff888000201000, 2, 21, true);
    fill(t, TLB_USER, 0x201000, 3, 21, false);
    tlb_flush_page(t, 0xffff888000201fff);
    tlb_flush_page(t, 0x201000);
    for (unsigned pcid = 2; pcid-- > 0;) {
        tlb_switch_pcid(t, (u16)pcid, false);
        assert_false(has(t, TLB_SUPER, 0xffff888000201000));
        assert_int_equal(has(t, TLB_USER, 0x201000), pcid == 0);
    }
    assert_true(has(t, TLB_SUPER, 0xffff888000200000));
    check_invariants(t);
    free(t);
}

// Global entries are looked for in other address spaces wherever a guest has them.
static void test_low_globals(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned round = 0; round < 2; round++) {
        tlb_switch_pcid(t, 0, false);
        fill(t, TLB_USER, 0x5000, 1, 12, true);
        fill(t, TLB_USER, 0x7fffffe00000, 1, 21, true);
        tlb_switch_pcid(t, 1, false);
        if (round)
            tlb_flush_page(t, 0x5000);
        else
            tlb_flush_gva(t, 0x5000);
        tlb_flush_gva(t, 0x7fffffe01000);
        tlb_switch_pcid(t, 0, false);
        assert_false(has(t, TLB_USER, 0x5000) || has(t, TLB_USER, 0x7fffffe00000));
        tlb_flush_all(t);
        check_invariants(t);
    }
    free(t);
}

// Fragments are counted until none is left.
static void test_large_filter_after_partial_flush(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    fill(t, TLB_SUPER, 0x200000, 1, 21, true);
    fill(t, TLB_SUPER, 0x40001000, 2, 30, false);
    tlb_flush_nonglobal(t);
    tlb_flush_gva(t, 0x3fffff);
    assert_false(has(t, TLB_SUPER, 0x200000));
    fill(t, TLB_SUPER, 0x200000, 1, 21, false);
    tlb_flush_nonglobal(t);
    check_invariants(t);
    // Several large pages: each is still found.
    for (unsigned i = 0; i < 4; i++) {
        fill(t, TLB_SUPER, 0x40001000 + ((u64)i << 30) + i * 0x1000, i, 30, false);
        fill(t, TLB_USER, 0x200000 + i * 0x201000, i, 21, false);
    }
    for (unsigned i = 0; i < 4; i++) {
        tlb_flush_gva(t, 0x40ff0000 + ((u64)i << 30));
        tlb_flush_gva(t, 0x2ff000 + i * 0x200000);
        assert_false(has(t, TLB_SUPER, 0x40001000 + ((u64)i << 30) + i * 0x1000));
        assert_false(has(t, TLB_USER, 0x200000 + i * 0x201000));
    }
    free(t);
}

static void test_pcid_switch(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    fill(t, TLB_USER, 0x1000, 1, 12, false);
    tlb_switch_pcid(t, 7, false);
    assert_false(has(t, TLB_USER, 0x1000));
    fill(t, TLB_USER, 0x1000, 7, 12, false);
    fill(t, TLB_USER, 0x2000, 8, 12, true);
    tlb_switch_pcid(t, 0, false); // comes back to what it had
    assert_int_equal(tlb_read(t, TLB_USER, 0x1000, 1), HOST(1));
    tlb_switch_pcid(t, 7, false);
    assert_int_equal(tlb_read(t, TLB_USER, 0x1000, 1), HOST(7));
    tlb_switch_pcid(t, 0, false);
    tlb_switch_pcid(t, 7, true); // flushes PCID 7 but global entries, and not PCID 0
    assert_false(has(t, TLB_USER, 0x1000));
    assert_true(has(t, TLB_USER, 0x2000));
    tlb_switch_pcid(t, 0, false);
    assert_true(has(t, TLB_USER, 0x1000));
    free(t);
}

static void test_pcid_eviction(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned p = 1; p <= TLB_CONTEXTS; p++) { // one more than there are contexts, with PCID 0
        tlb_switch_pcid(t, (u16)p, false);
        fill(t, TLB_USER, 0x1000, p, 12, false);
    }
    for (unsigned p = TLB_CONTEXTS; p > 1; p--) {
        tlb_switch_pcid(t, (u16)p, false);
        assert_int_equal(tlb_read(t, TLB_USER, 0x1000, 1), HOST(p));
    }
    // A PCID that was never seen takes the oldest context's place and sees nothing of it.
    tlb_switch_pcid(t, 100, false);
    assert_false(has(t, TLB_USER, 0x1000));
    tlb_switch_pcid(t, 2, false);
    assert_int_equal(tlb_read(t, TLB_USER, 0x1000, 1), HOST(2));
    check_invariants(t);
    free(t);
}

static void test_invpcid(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned p = 1; p <= 3; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        fill(t, TLB_USER, 0x1000, p, 12, false);
        fill(t, TLB_USER, 0x2000, p, 12, false);
        fill(t, TLB_USER, 0x3000, p, 12, true);
    }
    tlb_flush_pcid_gva(t, 1, 0x1000);
    tlb_flush_pcid_gva(t, 1, 0x3000); // global: stays
    tlb_flush_pcid_gva(t, 99, 0x2000);
    tlb_flush_pcid(t, 2);
    static const bool want[4][3] = {{0}, {false, true, true}, {false, false, true}, {true, true, true}};
    for (unsigned p = 1; p <= 3; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(has(t, TLB_USER, 0x1000 + i * 0x1000), want[p][i]);
    }
    tlb_flush_gva(t, 0x3000); // INVLPG: the global page goes in every PCID
    tlb_flush_gva(t, 0x2000); // the other one only in the current one
    for (unsigned p = 1; p <= 3; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        assert_false(has(t, TLB_USER, 0x3000));
        assert_int_equal(has(t, TLB_USER, 0x2000), p == 1);
        fill(t, TLB_USER, 0x3000, p, 12, true);
    }
    tlb_flush_all_nonglobal(t);
    for (unsigned p = 1; p <= 3; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        assert_false(has(t, TLB_USER, 0x1000));
        assert_true(has(t, TLB_USER, 0x3000));
    }
    tlb_flush_all(t);
    for (unsigned p = 1; p <= 3; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        assert_false(has(t, TLB_USER, 0x3000));
    }
    free(t);
}

static void test_flush_by_physical_page(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    for (unsigned p = 0; p < 2; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        fill(t, TLB_USER, 0x1000, 1, 12, false);
        fill(t, TLB_SUPER, 0xffff800000005000, 1, 21, true);
        fill(t, TLB_USER, 0x2000, 2, 12, false);
    }
    tlb_protect_gpa(t, PHYS(1));
    for (unsigned p = 0; p < 2; p++) {
        tlb_switch_pcid(t, (u16)p, false);
        assert_true(tlb_write(t, TLB_USER, 0x1000, 1) == 0 && has(t, TLB_USER, 0x1000));
        assert_true(tlb_write(t, TLB_SUPER, 0xffff800000005000, 1) == 0);
        assert_true(tlb_write(t, TLB_USER, 0x2000, 1) != 0);
    }
    check_invariants(t);
    tlb_flush_gpa(t, PHYS(1));
    assert_false(has(t, TLB_USER, 0x1000));
    assert_false(has(t, TLB_SUPER, 0xffff800000005000));
    assert_true(has(t, TLB_USER, 0x2000));
    tlb_protect_all(t);
    assert_true(tlb_write(t, TLB_USER, 0x2000, 1) == 0 && has(t, TLB_USER, 0x2000));
    check_invariants(t);
    free(t);
}

// --- through the MMU's interface -------------------------------------------------------------------------------------

static void test_control_registers(void **state)
{
    (void)state;
    static const struct {
        char reg;
        u64 bits;
        bool flushes;
    } cases[] = {
        {'0', X86_CR0_PG, true},   {'0', X86_CR0_WP, true},      {'0', X86_CR0_TS, false},   {'0', X86_CR0_CD, false},
        {'4', X86_CR4_PGE, true},  {'4', X86_CR4_PSE, true},     {'4', X86_CR4_PAE, true},   {'4', X86_CR4_SMEP, true},
        {'4', X86_CR4_SMAP, true}, {'4', X86_CR4_OSFXSR, false}, {'4', X86_CR4_TSD, false},  {'e', X86_EFER_NXE, true},
        {'e', X86_EFER_LMA, true}, {'e', X86_EFER_SCE, false},   {'4', X86_CR4_PCIDE, true},
    };
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct vcpu *v = &f->vcpu;

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        u64 *reg = cases[i].reg == '0' ? &v->cpu.cr0 : cases[i].reg == '4' ? &v->cpu.cr4 : &v->cpu.msr.efer;
        for (unsigned direction = 0; direction < 2; direction++) {
            u64 old = *reg;
            fill(&v->tlb, TLB_SUPER, 0x1000, 1, 12, true);
            *reg ^= cases[i].bits;
            (cases[i].reg == '0' ? mmu_cr0_changed : cases[i].reg == '4' ? mmu_cr4_changed : mmu_efer_changed)(v, old);
            assert_int_equal(has(&v->tlb, TLB_SUPER, 0x1000), !cases[i].flushes);
        }
    }
    fake_machine_free(f);
}

static void test_cr3_load(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct vcpu *v = &f->vcpu;

    fill(&v->tlb, TLB_SUPER, 0x1000, 1, 12, false);
    fill(&v->tlb, TLB_SUPER, 0x2000, 1, 12, true);
    v->cpu.cr3 = 0x5003; // without PCIDE the low bits are no PCID
    mmu_cr3_loaded(v, true);
    assert_false(has(&v->tlb, TLB_SUPER, 0x1000)); // and bit 63 means nothing
    assert_true(has(&v->tlb, TLB_SUPER, 0x2000));

    u64 old = v->cpu.cr4;
    v->cpu.cr3 = 0x5000;
    v->cpu.cr4 |= X86_CR4_PCIDE;
    mmu_cr4_changed(v, old);
    fill(&v->tlb, TLB_SUPER, 0x1000, 1, 12, false);
    v->cpu.cr3 = 0x6003;
    mmu_cr3_loaded(v, true);
    assert_false(has(&v->tlb, TLB_SUPER, 0x1000));
    v->cpu.cr3 = 0x5000;
    mmu_cr3_loaded(v, true);
    assert_true(has(&v->tlb, TLB_SUPER, 0x1000));
    mmu_cr3_loaded(v, false);
    assert_false(has(&v->tlb, TLB_SUPER, 0x1000));
    fake_machine_free(f);
}

// A fault drops what was cached for its address: software may rely on it after making a mapping more restrictive
// elsewhere.
static void test_fault_drops_entry(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct vcpu *v = &f->vcpu;
    u32 pde = 0x2000 | X86_PTE_P | X86_PTE_W, pte = 0x5000 | X86_PTE_P;
    struct mmu_fault fault;
    u64 val;

    memcpy(f->ram + 0x1000, &pde, 4);
    memcpy(f->ram + 0x2000, &pte, 4);
    f->ram[0x5000] = 5;
    f->ram[0x6000] = 6;
    fake_paging_on(f, 0x1000, 0, 0);
    assert_true(mmu_load(v, 0, 1, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 5);
    pte = 0x6000 | X86_PTE_P;
    memcpy(f->ram + 0x2000, &pte, 4);
    assert_true(mmu_load(v, 0, 1, TLB_SUPER, &val, &fault)); // no invalidation: the old page may still be used
    assert_false(mmu_store(v, 0, 1, TLB_SUPER, 0, &fault));
    assert_int_equal(fault.error, X86_PF_P | X86_PF_W);
    assert_true(mmu_load(v, 0, 1, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 6);
    fake_machine_free(f);
}

static void test_protect_other_vcpu(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct vcpu *other = aligned_alloc(64, (sizeof(*other) + 63) & ~63ull);

    vcpu_init(other, &f->machine, 1, NULL);
    assert_int_equal(machine_add_vcpu(&f->machine, other), 0);
    for (unsigned count = 1; count <= VCPU_TLB_QUEUE + 4; count++) { // past the end: everything is write-protected
        for (unsigned i = 0; i < count; i++) {
            fill(&f->vcpu.tlb, TLB_SUPER, i * 0x1000, 0, 12, false);
            fill(&other->tlb, TLB_SUPER, i * 0x1000, 0, 12, false);
            f->vcpu.tlb.cur[TLB_SUPER].phys[i] = other->tlb.cur[TLB_SUPER].phys[i] = i * 0x1000 | 12;
        }
        assert_true(mmu_queue_empty(other));
        memset((void *)f->flags, 0, f->ram_size / 4096);
        for (unsigned i = 0; i < count; i++)
            mmu_protect_page(&f->machine, &f->vcpu, i * 0x1000);
        assert_true(mmu_queue_empty(&f->vcpu));
        assert_false(mmu_queue_empty(other));
        atomic_store(&other->tlb_queue.asleep, true); // it will come for it before it can store
        assert_true(mmu_queue_empty(other));
        atomic_store(&other->tlb_queue.asleep, false);
        assert_false(mmu_queue_empty(other));
        assert_true(atomic_load(&other->request) & VCPU_REQ_TLB);
        assert_false(atomic_load(&f->vcpu.request) & VCPU_REQ_TLB);
        mmu_serve_tlb_requests(other);
        assert_true(mmu_queue_empty(other));
        assert_false(atomic_load(&other->request) & VCPU_REQ_TLB);
        for (unsigned i = 0; i < count; i++) {
            assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, i * 0x1000, 1) == 0);
            assert_true(tlb_write(&other->tlb, TLB_SUPER, i * 0x1000, 1) == 0);
            assert_true(has(&other->tlb, TLB_SUPER, i * 0x1000));
            assert_true(*mem_flags(&f->machine.mem, i * 0x1000) & MEM_PAGE_CODE);
        }
    }
    // Once is enough while the flag is set, unless this vCPU has not yet been through its queue.
    mmu_protect_page(&f->machine, &f->vcpu, 0x5000);
    assert_true(mmu_queue_empty(other));
    mmu_protect_page(&f->machine, other, 0x50000);
    fill(&f->vcpu.tlb, TLB_SUPER, 0x50000, 0, 12, false); // made before the flag was set
    f->vcpu.tlb.cur[TLB_SUPER].phys[0x50] = 0x50000 | 12;
    mmu_protect_page(&f->machine, &f->vcpu, 0x50000);
    assert_true(tlb_write(&f->vcpu.tlb, TLB_SUPER, 0x50000, 1) == 0);
    mmu_serve_tlb_requests(&f->vcpu);
    *mem_flags(&f->machine.mem, 0x5000) = 0;

    mmu_protect_page(&f->machine, NULL, 0x5000); // from no vCPU's thread: both are told
    assert_false(mmu_queue_empty(&f->vcpu));
    assert_false(mmu_queue_empty(other));
    mmu_protect_page(&f->machine, &f->vcpu, 0xe0000000); // not memory: nothing to do
    free(other);
    fake_machine_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_canonical),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_tags_are_separate),
        cmocka_unit_test(test_global_survives_cr3),
        cmocka_unit_test(test_flush_gva),
        cmocka_unit_test(test_flush_large),
        cmocka_unit_test(test_flush_page),
        cmocka_unit_test(test_low_globals),
        cmocka_unit_test(test_large_filter_after_partial_flush),
        cmocka_unit_test(test_pcid_switch),
        cmocka_unit_test(test_pcid_eviction),
        cmocka_unit_test(test_invpcid),
        cmocka_unit_test(test_flush_by_physical_page),
        cmocka_unit_test(test_control_registers),
        cmocka_unit_test(test_cr3_load),
        cmocka_unit_test(test_fault_drops_entry),
        cmocka_unit_test(test_protect_other_vcpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
