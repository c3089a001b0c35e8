// The TLB never tells anything else than the tables do: random accesses through the cached paths, mixed with edits of
// the tables followed by the invalidation that the manuals ask for (SDM 3A 4.10.4), switches of address space, changes
// of control registers, code and dirty flags on pages. Every access is compared with the independent model's answer for
// the tables as they are at that moment.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/paging_model.h"

#define RAM_SIZE (8ull << 20)
#define SPACES 12 // address spaces: more than the TLB has contexts
#define GROUPS 3  // of pages, 2 MiB apart, so that their pages compete for the same slots of the TLB
#define GROUP_PAGES 8

#define USER_BASE 0x7f0000000000ull
#define KERNEL_BASE 0xffff888000000000ull
#define TABLES(s) (0x100000ull + (s)*0x8000ull) // root, PDPT, PD, then a PT for each group; SPACES: the kernel's
#define FRAMES 0x400000ull                      // to the end of RAM
#define FRAME_COUNT 1024

struct world {
    struct fake_machine *f;
    u64 seed;
    bool pcid;
    unsigned space;
    bool stale[SPACES]; // edited without invalidation: the next switch to it must flush
    unsigned hook_calls;
    unsigned accesses, faults, hits;
};

static u32 rnd(struct world *w)
{
    w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)(w->seed >> 33);
}

static void put64(struct world *w, gpa at, u64 val)
{
    memcpy(w->f->ram + at, &val, 8);
}

static u64 get64(struct world *w, gpa at)
{
    u64 val;
    memcpy(&val, w->f->ram + at, 8);
    return val;
}

// An engine that sometimes forgets all code of the page, and sometimes only what was overwritten.
static void on_code_write(void *owner, gpa base, u64 len)
{
    struct world *w = owner;
    (void)len;
    w->hook_calls++;
    if (rnd(w) % 2)
        atomic_fetch_and(mem_flags(&w->f->machine.mem, base), (u8)~MEM_PAGE_CODE);
}

static gpa pd_entry(unsigned space, unsigned group)
{
    return TABLES(space) + 0x2000 + group * 8;
}

static gpa pt_entry(unsigned space, unsigned group, unsigned page)
{
    return TABLES(space) + 0x3000 + group * 0x1000 + page * 8;
}

static gva group_gva(unsigned space, unsigned group)
{
    return (space == SPACES ? KERNEL_BASE : USER_BASE) + group * 0x200000ull;
}

static u64 random_flags(struct world *w, bool kernel)
{
    u32 r = rnd(w);
    u64 pte = (r & 0x1f ? X86_PTE_P : 0) | (r & 0x60 ? X86_PTE_W : 0) | (r & 0x180 ? X86_PTE_D : 0) |
              (r & 0x600 ? X86_PTE_A : 0);
    if (kernel ? r % 11 == 0 : r % 11 != 0)
        pte |= X86_PTE_U;
    if (kernel && (r & 0x1800))
        pte |= X86_PTE_G;
    if ((r & 0xe000) == 0)
        pte |= X86_PTE_NX;
    return pte;
}

static u64 random_pte(struct world *w, bool kernel)
{
    return FRAMES | (rnd(w) % FRAME_COUNT) * 0x1000ull | random_flags(w, kernel);
}

static u64 random_pde(struct world *w, unsigned space, unsigned group)
{
    if (rnd(w) % 2)
        return FRAMES | (rnd(w) % 2ull) << 21 | X86_PTE_PS | random_flags(w, space == SPACES);
    return pt_entry(space, group, 0) | X86_PTE_P | X86_PTE_U | (rnd(w) % 4 ? X86_PTE_W : 0);
}

static void build(struct world *w)
{
    // Accessed already: a global page cached in one address space is used in the next without a walk through its root.
    u64 all = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;

    for (unsigned s = 0; s <= SPACES; s++) {
        gva base = group_gva(s, 0);
        for (unsigned root = 0; root < SPACES; root++)
            if (s == root || s == SPACES)
                put64(w, TABLES(root) + ((base >> 39) & 511) * 8, (TABLES(s) + 0x1000) | all);
        put64(w, TABLES(s) + 0x1000 + ((base >> 30) & 511) * 8, (TABLES(s) + 0x2000) | all);
        for (unsigned g = 0; g < GROUPS; g++) {
            put64(w, pd_entry(s, g), random_pde(w, s, g));
            for (unsigned i = 0; i < GROUP_PAGES; i++)
                put64(w, pt_entry(s, g, i), random_pte(w, s == SPACES));
        }
    }
    for (gpa a = FRAMES; a < RAM_SIZE; a += 8)
        put64(w, a, a * 0x9e3779b97f4a7c15ull);
}

static u16 pcid_of(unsigned space)
{
    return (u16)(space + 1);
}

static void switch_to(struct world *w, unsigned space, bool flush)
{
    w->space = space;
    w->f->vcpu.cpu.cr3 = TABLES(space) | (w->pcid ? pcid_of(space) : 0);
    mmu_cr3_loaded(&w->f->vcpu, w->pcid && !flush && !w->stale[space]);
    w->stale[space] = false;
}

// --- edits with the right invalidation -------------------------------------------------------------------------------

static void invalidate_kernel(struct world *w, gva a, bool was_global)
{
    struct tlb *t = &w->f->vcpu.tlb;

    if (was_global || !w->pcid)
        mmu_invlpg(&w->f->vcpu, a);
    else if (rnd(w) % 4)
        tlb_flush_all_nonglobal(t); // other PCIDs may hold it too
    else
        tlb_flush_all(t);
}

static void invalidate_user(struct world *w, unsigned space, gva a)
{
    struct tlb *t = &w->f->vcpu.tlb;

    if (space == w->space && rnd(w) % 4) {
        mmu_invlpg(&w->f->vcpu, a);
        return;
    }
    switch (rnd(w) % 3) {
    case 0:
        w->stale[space] = true;
        if (space == w->space)
            switch_to(w, space, true);
        break;
    case 1:
        if (w->pcid || space == w->space)
            tlb_flush_pcid_gva(t, w->pcid ? pcid_of(space) : 0, a);
        break;
    default:
        if (w->pcid || space == w->space)
            tlb_flush_pcid(t, w->pcid ? pcid_of(space) : 0);
        break;
    }
}

static void invalidate(struct world *w, unsigned space, gva a, u64 old)
{
    if (space == SPACES)
        invalidate_kernel(w, a, (old & X86_PTE_G) && (w->f->vcpu.cpu.cr4 & X86_CR4_PGE));
    else
        invalidate_user(w, space, a);
}

static void edit_pte(struct world *w)
{
    unsigned space = rnd(w) % 3 ? w->space : rnd(w) % (SPACES + 1), group = rnd(w) % GROUPS,
             page = rnd(w) % GROUP_PAGES;
    gpa at = pt_entry(space, group, page);
    u64 old = get64(w, at);

    if (rnd(w) % 4 == 0) { // more permissive: needs no invalidation
        put64(w, at, (old | X86_PTE_P | X86_PTE_W) & ~X86_PTE_NX);
        return;
    }
    put64(w, at, random_pte(w, space == SPACES));
    if (!(get64(w, pd_entry(space, group)) & X86_PTE_PS))
        invalidate(w, space, group_gva(space, group) + page * 0x1000ull, old);
}

// A PD entry: a large page needs one invalidation at any of its addresses, a table one for every page that is mapped by
// it.
static void edit_pde(struct world *w)
{
    unsigned space = rnd(w) % 3 ? w->space : rnd(w) % (SPACES + 1), group = rnd(w) % GROUPS;
    gpa at = pd_entry(space, group);
    u64 old = get64(w, at);

    put64(w, at, random_pde(w, space, group));
    if (old & X86_PTE_PS) {
        invalidate(w, space, group_gva(space, group) + (rnd(w) & 0x1fffff), old);
        return;
    }
    for (unsigned page = 0; page < GROUP_PAGES; page++)
        invalidate(w, space, group_gva(space, group) + page * 0x1000ull, get64(w, pt_entry(space, group, page)));
}

static void change_control(struct world *w)
{
    struct cpu *c = &w->f->vcpu.cpu;
    u64 old;

    switch (rnd(w) % 4) {
    case 0:
        old = c->cr0;
        c->cr0 ^= X86_CR0_WP;
        mmu_cr0_changed(&w->f->vcpu, old);
        break;
    case 1:
        if ((c->msr.efer & X86_EFER_NXE) && rnd(w) % 8)
            break; // without it most of the tables are reserved bits
        old = c->msr.efer;
        c->msr.efer ^= X86_EFER_NXE;
        mmu_efer_changed(&w->f->vcpu, old);
        break;
    default:
        old = c->cr4;
        c->cr4 ^= (u64[]){X86_CR4_SMEP, X86_CR4_SMAP, X86_CR4_PGE}[rnd(w) % 3];
        mmu_cr4_changed(&w->f->vcpu, old);
        break;
    }
}

static void change_page_flags(struct world *w)
{
    gpa page = FRAMES + (rnd(w) % FRAME_COUNT) * 0x1000ull;
    _Atomic u8 *flags = mem_flags(&w->f->machine.mem, page);

    if (rnd(w) % 2) {
        mmu_protect_page(&w->f->machine, &w->f->vcpu, page);
    } else if (rnd(w) % 4) {
        atomic_fetch_and(flags, (u8)~MEM_PAGE_DIRTY);
        tlb_protect_gpa(&w->f->vcpu.tlb, page);
    } else {
        tlb_flush_gpa(&w->f->vcpu.tlb, page);
    }
}

// --- accesses --------------------------------------------------------------------------------------------------------

struct access {
    gva a;
    unsigned size, first; // bytes, bytes in the first page
    enum mmu_access kind;
    enum tlb_view view;
    struct model_result page[2], *bad;
    gva bad_gva;
};

static void choose_access(struct world *w, struct access *x)
{
    unsigned group = rnd(w) % GROUPS;
    // Mostly the few pages that PTs map, often enough that they stay cached; else anywhere in the group.
    unsigned page = rnd(w) % 8 ? rnd(w) % GROUP_PAGES : rnd(w) % 511;
    unsigned offset = rnd(w) % 8 ? rnd(w) % 4088 : 4088 + rnd(w) % 8;

    *x = (struct access){.kind = rnd(w) % 3, .view = rnd(w) % TLB_VIEW_COUNT, .size = 1u << rnd(w) % 4};
    if (x->kind == MMU_EXEC)
        x->size = 1;
    bool kernel = rnd(w) % 2;
    if (rnd(w) % 8) // the usual privilege
        x->view = !kernel ? TLB_USER : rnd(w) % 2 ? TLB_SUPER : TLB_SUPER_AC;
    x->a = group_gva(kernel ? SPACES : w->space, group) + page * 0x1000ull + offset;
    x->first = offset + x->size > 4096 ? 4096 - offset : x->size;
    x->page[0] = model_translate(w->f, x->a, x->kind, x->view);
    if (!x->page[0].ok) {
        x->bad = &x->page[0];
        x->bad_gva = x->a;
    } else if (x->first < x->size) {
        x->bad_gva = (x->a | 0xfff) + 1;
        x->page[1] = model_translate(w->f, x->bad_gva, x->kind, x->view);
        if (!x->page[1].ok)
            x->bad = &x->page[1];
    }
}

static u8 *byte_of(struct world *w, struct access *x, unsigned i)
{
    return w->f->ram + (i < x->first ? x->page[0].addr + i : x->page[1].addr + (i - x->first));
}

static bool do_access(struct world *w, struct access *x, u64 *val, struct mmu_fault *fault)
{
    struct vcpu *v = &w->f->vcpu;
    hva host;
    gpa phys;

    switch (x->kind) {
    case MMU_READ:
        w->hits += tlb_read(&v->tlb, x->view, x->a, x->size) != 0;
        return mmu_load(v, x->a, x->size, x->view, val, fault);
    case MMU_WRITE:
        w->hits += tlb_write(&v->tlb, x->view, x->a, x->size) != 0;
        return mmu_store(v, x->a, x->size, x->view, *val, fault);
    default:
        host = tlb_exec(&v->tlb, x->view, x->a);
        w->hits += host != 0;
        if (!host && !mmu_fill(v, x->a, MMU_EXEC, x->view, &host, &phys, fault))
            return false;
        *val = *(u8 *)host;
        return true;
    }
}

// What must hold after an access that was allowed: the bytes, A and D, dirty flags, and the engines told of overwritten
// code.
static void check_done(struct world *w, struct access *x, u64 val, bool code)
{
    for (unsigned i = 0; i < x->size; i++)
        assert_int_equal(*byte_of(w, x, i), val >> (8 * i) & 0xff);
    for (unsigned p = 0; p < (x->first < x->size ? 2 : 1); p++) {
        struct model_result *r = &x->page[p];
        for (unsigned n = 0; n < r->entries; n++)
            assert_int_equal(get64(w, r->entry[n].at) & r->set[n], r->set[n]);
        if (x->kind == MMU_WRITE)
            assert_true(*mem_flags(&w->f->machine.mem, r->addr) & MEM_PAGE_DIRTY);
    }
    if (x->kind == MMU_WRITE && code)
        assert_true(w->hook_calls > 0);
}

static void step_access(struct world *w)
{
    struct access x;
    struct mmu_fault fault = {0};
    u64 val = (u64)rnd(w) << 32 | rnd(w);
    bool code = false;

    choose_access(w, &x);
    w->accesses++;
    w->hook_calls = 0;
    if (!x.bad)
        for (unsigned p = 0; p < (x.first < x.size ? 2 : 1); p++)
            code = code || (*mem_flags(&w->f->machine.mem, x.page[p].addr) & MEM_PAGE_CODE);
    bool ok = do_access(w, &x, &val, &fault);
    if (ok != !x.bad || (!ok && (fault.error != x.bad->error || fault.addr != x.bad_gva)))
        fail_msg("access %u: %llx kind %d view %d size %u: got ok %d error %x at %llx, want ok %d error %x at %llx",
                 w->accesses, (unsigned long long)x.a, x.kind, x.view, x.size, ok, fault.error,
                 (unsigned long long)fault.addr, !x.bad, x.bad ? x.bad->error : 0, (unsigned long long)x.bad_gva);
    if (ok)
        check_done(w, &x, val, code);
    else
        w->faults++;
}

static void step(struct world *w)
{
    u32 r = rnd(w) % 1000;

    if (r < 2)
        change_control(w);
    else if (r < 12)
        switch_to(w, rnd(w) % SPACES, rnd(w) % 8 == 0);
    else if (r < 32)
        edit_pte(w);
    else if (r < 36)
        edit_pde(w);
    else if (r < 50)
        change_page_flags(w);
    else
        step_access(w);
}

static void run(bool pcid, u64 seed, unsigned steps)
{
    struct world w = {.f = fake_machine_new(RAM_SIZE), .seed = seed, .pcid = pcid};

    w.f->machine.mem.code_write = on_code_write;
    w.f->machine.mem.owner = &w;
    build(&w);
    fake_paging_on(w.f, TABLES(0), X86_CR4_PAE | X86_CR4_PGE | (pcid ? X86_CR4_PCIDE : 0), X86_EFER_LME | X86_EFER_NXE);
    switch_to(&w, 0, true);
    for (unsigned i = 0; i < steps; i++)
        step(&w);
    // The sequence must be worth something: hits to be wrong about, and faults.
    assert_true(w.hits > w.accesses / 10);
    assert_true(w.faults > w.accesses / 10);
    fake_machine_free(w.f);
}

static void test_without_pcid(void **state)
{
    (void)state;
    for (u64 seed = 1; seed <= 4; seed++)
        run(false, seed, 150000);
}

static void test_with_pcid(void **state)
{
    (void)state;
    for (u64 seed = 1; seed <= 4; seed++)
        run(true, seed, 150000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_pcid),
        cmocka_unit_test(test_with_pcid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
