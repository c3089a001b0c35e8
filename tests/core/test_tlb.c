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
                bool valid = e->tag_r != tlb_invalid(i) || tab->tag_x[i] != tlb_invalid(i);
                assert_int_equal((b->valid & bit) != 0, valid);
                assert_int_equal((b->writable & bit) != 0, e->tag_w != tlb_invalid(i));
                if (!valid)
                    assert_int_equal((b->global | b->large | b->writable) & bit, 0);
                if (b->valid & ~b->global & bit)
                    assert_true(tab->local >> (i / 64) & 1);
                fragments += (b->large & bit) != 0;
                gva tag[] = {e->tag_r, e->tag_w, tab->tag_x[i]};
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

// --- pages that are not memory ----------------------------------------------------------------------------------------

static void fill_device(struct tlb *t, enum tlb_view view, gva a, unsigned shift, bool global, bool write)
{
    tlb_fill(
        t, view, a,
        &(struct tlb_page){.phys = PHYS(9), .shift = shift, .global = global, .r = true, .w = write, .device = true});
}

static bool finds_device(struct tlb *t, enum tlb_view view, gva a, bool write)
{
    gpa phys = 0;
    return tlb_device(t, view, a, write, &phys) && phys == PHYS(9) + (a & 0xfff);
}

// No access takes them for memory, where they are and beside.
static void test_devices_are_not_memory(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();
    for (gva page = 0; page < 0x4000; page += 0x1000) {
        fill_device(t, TLB_SUPER, page, 12, false, true);
        for (gva a = 0; a < 0x6000; a += 0x3f)
            assert_false(tlb_read(t, TLB_SUPER, a, 1) || tlb_write(t, TLB_SUPER, a, 1) || tlb_exec(t, TLB_SUPER, a));
        assert_true(finds_device(t, TLB_SUPER, page + 0xfff, false) && finds_device(t, TLB_SUPER, page, true));
        assert_false(finds_device(t, TLB_USER, page, false) || finds_device(t, TLB_SUPER_AC, page, false));
        assert_false(finds_device(t, TLB_SUPER, page + 0x1000, false));
        assert_false(finds_device(t, TLB_SUPER, page + TLB_ENTRIES * 0x1000ull, false));
    }
    fill_device(t, TLB_SUPER, 0x1000, 12, false, false);
    assert_true(finds_device(t, TLB_SUPER, 0x1000, false));
    assert_false(finds_device(t, TLB_SUPER, 0x1000, true));
    fill(t, TLB_SUPER, 0x1000, 1, 12, false);
    assert_true(has(t, TLB_SUPER, 0x1000));
    assert_false(finds_device(t, TLB_SUPER, 0x1000, false) || finds_device(t, TLB_SUPER, 0x1000, true));
    free(t);
}

// They go when others would.
static void test_devices_are_flushed(void **state)
{
    const gva a = 0xffff800000201000ull;
    (void)state;
    struct tlb *t = tlb_new();
    for (unsigned how = 0; how < 8; how++) {
        bool global = how & 1;
        fill_device(t, TLB_SUPER, a, how & 2 ? 21 : 12, global, true);
        fill_device(t, TLB_USER, 0x5000, 12, false, true);
        tlb_flush_gva(t, 0x6000);
        tlb_protect_all(t);
        assert_true(finds_device(t, TLB_SUPER, a, true) && finds_device(t, TLB_USER, 0x5000, true));
        tlb_flush_nonglobal(t);
        assert_int_equal(finds_device(t, TLB_SUPER, a, false), global);
        assert_false(finds_device(t, TLB_USER, 0x5000, false));
        fill_device(t, TLB_SUPER, a, how & 2 ? 21 : 12, global, true);
        if (how < 4)
            tlb_flush_gva(t, how & 2 ? a + 0x5000 : a + 0x123);
        else
            tlb_flush_page(t, a + 0x123);
        assert_false(finds_device(t, TLB_SUPER, a, false) || finds_device(t, TLB_SUPER, a, true));
    }
    fill_device(t, TLB_SUPER, a, 12, false, true);
    tlb_switch_pcid(t, 1, false);
    assert_false(finds_device(t, TLB_SUPER, a, false));
    tlb_switch_pcid(t, 0, false);
    assert_true(finds_device(t, TLB_SUPER, a, false));
    tlb_flush_gpa(t, PHYS(9));
    assert_false(finds_device(t, TLB_SUPER, a, false));
    free(t);
}

// --- execution keys ---------------------------------------------------------------------------------------------------

static void fill_data(struct tlb *t, enum tlb_view view, gva a)
{
    tlb_fill(t, view, a, &(struct tlb_page){.host = HOST(1), .phys = PHYS(1), .shift = 12, .r = true, .w = true});
}

// What has become of the keys since the last call: bit 0 the supervisor's is another one, bit 1 the user's.
static unsigned changed(const struct tlb *t, u64 last[2])
{
    unsigned bits = (t->key[0] != last[0]) | (unsigned)(t->key[1] != last[1]) << 1;

    last[0] = t->key[0];
    last[1] = t->key[1];
    return bits;
}

enum { NO_KEY = 0, SUPER_KEY = 1, USER_KEY = 2, BOTH_KEYS = 3 };

static void test_key_of_pages(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();
    u64 last[2] = {0, 0};

    assert_int_equal(changed(t, last), BOTH_KEYS);
    assert_int_not_equal(last[0], last[1]);
    // Data can come and go.
    fill_data(t, TLB_USER, 0x5000);
    tlb_flush_gva(t, 0x5000);
    tlb_flush_nonglobal(t);
    assert_int_equal(changed(t, last), NO_KEY);
    tlb_flush_all(t);
    assert_int_equal(changed(t, last), BOTH_KEYS);
    // What code is taken from cannot, whether its entry is still there or not; other pages can.
    fill(t, TLB_USER, 0x5000, 1, 12, false);
    fill_data(t, TLB_USER, 0x6000);
    tlb_flush_gva(t, 0x6000);
    assert_int_equal(changed(t, last), NO_KEY);
    tlb_flush_gva(t, 0x5fff);
    assert_int_equal(changed(t, last), USER_KEY);
    fill(t, TLB_USER, 0x5000, 1, 12, false);
    fill(t, TLB_USER, 0x5000 + TLB_ENTRIES * 0x1000ull, 2, 12, false);
    assert_false(has(t, TLB_USER, 0x5000));
    fill(t, TLB_USER, 0x5000, 3, 12,
         false); // from elsewhere: nothing was said of the old place, which may be used for now
    assert_int_equal(changed(t, last), NO_KEY);
    fill(t, TLB_USER, 0x5000 + TLB_ENTRIES * 0x1000ull, 2, 12, false);
    tlb_flush_gva(t, 0x5000);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_gva(t, 0x5000 + TLB_ENTRIES * 0x1000ull); // from before that, and still there
    assert_int_equal(changed(t, last), USER_KEY);
    fill(t, TLB_USER, 0x7000, 1, 12, false);
    tlb_flush_page(t, 0x7123);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_nonglobal(t);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_nonglobal(t); // there is nothing
    tlb_flush_gva(t, 0x7000);
    assert_int_equal(changed(t, last), NO_KEY);
    fill(t, TLB_USER, 0x7000, 1, 12, true); // global, and so still there afterwards
    tlb_flush_nonglobal(t);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_gva(t, 0x7000);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_gpa(t, PHYS(9));
    assert_int_equal(changed(t, last), BOTH_KEYS);
    free(t);
}

static void test_key_of_large_pages(void **state)
{
    (void)state;
    static const unsigned shifts[] = {21, 22, 30};
    struct tlb *t = tlb_new();
    u64 last[2];

    for (unsigned i = 0; i < ARRAY_LEN(shifts); i++) {
        gva base = 0xffff888000000000 + (7ull << shifts[i]);
        fill(t, TLB_SUPER, base + 0x3000, 1, shifts[i], true);
        changed(t, last);
        tlb_flush_gva(t, base + (1ull << shifts[i]));
        tlb_flush_gva(t, base - 1);
        assert_int_equal(changed(t, last), NO_KEY);
        tlb_flush_gva(t, base + (1ull << shifts[i]) - 1);
        assert_int_equal(changed(t, last), SUPER_KEY);
        tlb_flush_all(t);
        assert_int_equal(changed(t, last), BOTH_KEYS);
    }
    free(t);
}

// One key for a kernel whose pages are global, as long as they all are.
static void test_key_of_supervisor(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();
    const gva text = 0xffffffff81000000;
    u64 last[2], shared, of[2][2];

    fill(t, TLB_SUPER, text, 1, 12, true);
    changed(t, last);
    shared = last[0];
    tlb_switch_pcid(t, 1, true);
    fill(t, TLB_USER, 0x1000, 1, 12, false);
    fill(t, TLB_SUPER, text, 1, 12, true);
    assert_int_equal(changed(t, last), USER_KEY);
    of[1][1] = last[1];
    fill(t, TLB_SUPER, 0x5000, 1, 12, false);
    assert_int_equal(changed(t, last), SUPER_KEY);
    of[1][0] = last[0];
    tlb_switch_pcid(t, 0, false);
    assert_int_equal(changed(t, last), BOTH_KEYS);
    assert_int_equal(last[0], shared);
    tlb_switch_pcid(t, 1, false); // as it was left
    assert_true(t->key[0] == of[1][0] && t->key[1] == of[1][1]);
    changed(t, last);
    tlb_switch_pcid(t, 0, false);
    tlb_flush_gva(t, text); // of all contexts
    assert_int_not_equal(t->key[0], shared);
    shared = t->key[0];
    tlb_switch_pcid(t, 1, false);
    assert_int_equal(changed(t, last), SUPER_KEY);
    assert_int_not_equal(last[0], shared);
    tlb_flush_pcid_gva(t, 1, 0x5000);
    assert_int_equal(changed(t, last), SUPER_KEY);
    tlb_flush_pcid_gva(t, 1, 0x1000);
    assert_int_equal(changed(t, last), USER_KEY);
    tlb_flush_pcid(t, 1); // what was its own is gone
    assert_int_equal(changed(t, last), BOTH_KEYS);
    assert_int_equal(last[0], shared);
    free(t);
}

static void test_key_halves(void **state)
{
    (void)state;
    struct tlb *t = tlb_new();

    t->last_key = 0xfffffff0;
    for (unsigned i = 0; i < 64; i++) {
        u64 before = t->last_key;
        fill(t, TLB_USER, 0x1000, 1, 12, false);
        tlb_flush_gva(t, 0x1000);
        assert_true(t->key[1] > before && (u32)t->key[1]);
    }
    u64 before = t->last_key;
    tlb_init(t);
    assert_true(t->key[0] > before && t->key[1] > before);
    free(t);
}

// At random: once a page may be expected to be forgotten, no key under which it was executable is ever current again.
struct ran {
    u64 key;
    gva a;
    u16 pcid;
    bool global, super, gone;
};

static void forget_ran(struct ran *r, unsigned n, bool (*hit)(const struct ran *r, u16 pcid, gva a), u16 pcid, gva a)
{
    for (unsigned i = 0; i < n; i++)
        r[i].gone |= hit(&r[i], pcid, a);
}

static bool hit_all(const struct ran *r, u16 pcid, gva a)
{
    (void)r, (void)pcid, (void)a;
    return true;
}

static bool hit_nonglobal(const struct ran *r, u16 pcid, gva a)
{
    (void)a;
    return !r->global && (pcid == 0xffff || r->pcid == pcid);
}

static bool hit_address(const struct ran *r, u16 pcid, gva a)
{
    return r->a == a && (r->global || r->pcid == pcid);
}

static bool hit_pcid_address(const struct ran *r, u16 pcid, gva a)
{
    return r->a == a && !r->global && r->pcid == pcid;
}

static void test_key_random(void **state)
{
    (void)state;
    enum { RAN = 4096 };
    struct tlb *t = tlb_new();
    struct ran *r = calloc(RAN, sizeof *r);
    u64 seed = 0x9e3779b97f4a7c15ull;
    unsigned n = 0, same = 0;
    u16 now = 0;

    for (unsigned round = 0; round < 40000; round++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        unsigned x = seed >> 20 & 0xffff, page = seed >> 40 & 15;
        u16 pcid = seed >> 50 & 3;
        // Some pages share a slot. What is global is so everywhere.
        gva a = (page & 8 ? 0xffff800000000000 : 0) + (page & 3) * 0x1000ull + (page & 4 ? TLB_ENTRIES * 0x1000ull : 0);
        bool global = page == 9 || page == 13 || (page == 2 && seed >> 60 == 0), super = seed >> 55 & 1;
        switch (x % 16) {
        case 0:
            tlb_flush_gva(t, a + 5);
            forget_ran(r, n, hit_address, now, a);
            break;
        case 1:
            tlb_flush_pcid_gva(t, pcid, a);
            forget_ran(r, n, hit_pcid_address, pcid, a);
            break;
        case 2:
            tlb_flush_page(t, a);
            forget_ran(r, n, hit_address, now, a);
            break;
        case 3:
            tlb_flush_nonglobal(t);
            forget_ran(r, n, hit_nonglobal, now, 0);
            break;
        case 4:
            if (x >> 4 & 15)
                break;
            tlb_flush_all(t);
            forget_ran(r, n, hit_all, 0, 0);
            break;
        case 5:
            if (x >> 4 & 7)
                break;
            tlb_flush_all_nonglobal(t);
            forget_ran(r, n, hit_nonglobal, 0xffff, 0);
            break;
        case 6:
            tlb_flush_pcid(t, pcid);
            forget_ran(r, n, hit_nonglobal, pcid, 0);
            break;
        case 7:
        case 8: // more of them than there are contexts
            now = (u16)(pcid + (x >> 8 & 7));
            tlb_switch_pcid(t, now, x >> 12 == 0);
            if (x >> 12 == 0)
                forget_ran(r, n, hit_nonglobal, now, 0);
            break;
        default: fill(t, super ? TLB_SUPER : TLB_USER, a, page, 12, global); break;
        }
        for (unsigned i = 0; i < n; i++) {
            if (r[i].key != t->key[!r[i].super])
                continue;
            assert_false(r[i].gone);
            same++;
        }
        // Whatever can be had without a walk now may be taken for known under the present key.
        for (unsigned view = TLB_USER; view <= TLB_SUPER; view++)
            for (unsigned p = 0; p < 16; p++) {
                gva at = (p & 8 ? 0xffff800000000000 : 0) + (p & 3) * 0x1000ull + (p & 4 ? TLB_ENTRIES * 0x1000ull : 0);
                unsigned i = tlb_index(at);
                if (n == RAN)
                    n = 0;
                if (tlb_exec(t, view, at))
                    r[n++] = (struct ran){.key = t->key[view == TLB_USER],
                                          .a = at,
                                          .pcid = now,
                                          .super = view == TLB_SUPER,
                                          .global = t->cur[view].bits[i / 64].global >> (i % 64) & 1};
            }
    }
    assert_true(same > 40000);
    free(r);
    free(t);
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
        cmocka_unit_test(test_devices_are_not_memory),
        cmocka_unit_test(test_devices_are_flushed),
        cmocka_unit_test(test_key_of_pages),
        cmocka_unit_test(test_key_of_large_pages),
        cmocka_unit_test(test_key_of_supervisor),
        cmocka_unit_test(test_key_halves),
        cmocka_unit_test(test_key_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
