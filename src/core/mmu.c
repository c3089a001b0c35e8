// Page walks and the slow paths of linear memory accesses.
//
// A walk reads the guest's tables as the processor does: present bit, then reserved bits of each entry on the way down,
// then the permissions of all levels together. Accessed bits are set in table entries as they are passed and in the
// leaf, with the dirty bit, once the access is permitted, each by one compare-and-exchange on guest memory. Where the
// entry changed meanwhile (another vCPU), the walk starts over. SDM 3A 4.3 to 4.8; APM 2 5.3 to 5.6.
//
// Tables may lie anywhere: entries in ROM or MMIO are read, A and D updates there do what a store would; a hole reads
// as all ones, which is a present entry with reserved bits set in all but 32-bit paging.
#include "core/mmu.h"

#include "core/cpuid.h"
#include "core/machine.h"

enum paging { PAGING_NONE, PAGING_32, PAGING_PAE, PAGING_LONG };

#define ADDR_MASK 0x000ffffffffff000ull
#define PERM_R 1u
#define PERM_W 2u
#define PERM_X 4u

// What a walk depends on, gathered once.
struct walk {
    struct vcpu *v; // whose before_device() to call, or NULL
    struct mem *mem;
    const struct cpu *cpu;
    const struct cpu_model *model;
    enum paging paging;
    u64 rsvd; // reserved bits in every entry of this paging mode
    gva addr;
};

// A table entry in guest memory.
struct pte {
    u64 val;
    u8 *host; // NULL when not in RAM
    gpa addr;
    unsigned size;
};

static enum paging paging_mode(const struct cpu *c)
{
    if (!(c->cr0 & X86_CR0_PG))
        return PAGING_NONE;
    if (!(c->cr4 & X86_CR4_PAE))
        return PAGING_32;
    return c->msr.efer & X86_EFER_LMA ? PAGING_LONG : PAGING_PAE;
}

// Address bits at and above MAXPHYADDR, up to bit `top`.
static u64 phys_rsvd(const struct cpu_model *m, unsigned top)
{
    unsigned bits = m && m->maxphyaddr ? m->maxphyaddr : 48;
    u64 all = (2ull << top) - 1;
    return bits > top ? 0 : all & ~((1ull << bits) - 1);
}

static void walk_init(struct walk *w, const struct vcpu *v, gva a)
{
    w->v = NULL;
    w->mem = &v->machine->mem;
    w->cpu = &v->cpu;
    w->model = v->model;
    w->paging = paging_mode(&v->cpu);
    w->addr = a;
    w->rsvd = 0;
    // Bits 62:52 are free for software in 4-level paging and reserved in PAE paging.
    if (w->paging >= PAGING_PAE) {
        w->rsvd = phys_rsvd(v->model, w->paging == PAGING_LONG ? 51 : 62);
        if (!(v->cpu.msr.efer & X86_EFER_NXE))
            w->rsvd |= X86_PTE_NX;
    }
}

static void before_device(const struct walk *w)
{
    if (w->v && w->v->before_device)
        w->v->before_device(w->v);
}

static void pte_read(const struct walk *w, struct pte *p, gpa addr, unsigned size)
{
    addr &= w->cpu->a20_mask;
    const struct mem_region *r = mem_find(w->mem, addr);
    p->addr = addr;
    p->size = size;
    p->host = NULL;
    // Tables are naturally aligned, so an entry never straddles two regions of memory.
    if (LIKELY(r && r->kind == MEM_RAM)) {
        p->host = r->host + (addr - r->base);
        p->val = size == 8 ? __atomic_load_n((u64 *)p->host, __ATOMIC_RELAXED)
                           : __atomic_load_n((u32 *)p->host, __ATOMIC_RELAXED);
    } else {
        before_device(w);
        p->val = mem_load(w->mem, addr, size);
    }
}

// Set bits in the entry in guest memory if it still is what was read.
static bool pte_set(const struct walk *w, struct pte *p, u64 bits)
{
    if (LIKELY((p->val & bits) == bits))
        return true;
    u64 want = p->val | bits;
    if (!p->host) {
        before_device(w);
        mem_store(w->mem, p->addr, p->size, want);
        return true;
    }
    if (UNLIKELY(*mem_flags(w->mem, p->addr) & MEM_PAGE_CODE)) // engines will hear of it
        before_device(w);
    u8 *host = mem_write_ptr(w->mem, p->addr, p->size);
    bool ok;
    if (UNLIKELY(!host)) // shadow memory that has ceased to be RAM since
        return false;
    if (p->size == 8) {
        u64 old = p->val;
        ok = __atomic_compare_exchange_n((u64 *)host, &old, want, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        u32 old = (u32)p->val;
        ok = __atomic_compare_exchange_n((u32 *)host, &old, (u32)want, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    mem_written(w->mem, p->addr, p->size);
    return ok;
}

// Reserved bits of a present entry at `level` (1: page table) beyond w->rsvd. SDM 3A tables 4-4 to 4-19; APM 2 5.3.
static u64 level_rsvd(const struct walk *w, unsigned level, u64 val)
{
    bool ps = val & X86_PTE_PS;
    switch (level) {
    case 4: // AMD also reserves bit 8 here
        return X86_PTE_PS | (w->model && cpu_model_is_amd(w->model) ? X86_PTE_G : 0);
    case 3:
        if (!ps)
            return 0;
        return cpu_model_offers(w->model, ISA_FEAT_PDPE1GB) ? 0x3fffe000ull : X86_PTE_PS;
    case 2:
        if (!ps)
            return 0;
        if (w->paging != PAGING_32)
            return 0x1fe000ull;
        // PSE-36: bits 20:13 are bits 39:32 of the address, as far as MAXPHYADDR goes.
        return cpu_model_offers(w->model, ISA_FEAT_PSE36) ? 1ull << 21 | phys_rsvd(w->model, 39) >> 32 << 13
                                                          : 0x3fe000ull;
    default: return 0;
    }
}

static unsigned index_bits(const struct walk *w)
{
    return w->paging == PAGING_32 ? 10 : 9;
}

static bool is_leaf(const struct walk *w, unsigned level, u64 val)
{
    if (level == 1)
        return true;
    if (!(val & X86_PTE_PS))
        return false;
    return w->paging != PAGING_32 || (w->cpu->cr4 & X86_CR4_PSE);
}

// Physical address of the table where the walk begins, or false: a PAE directory pointer that is not present.
static bool walk_root(const struct walk *w, gpa *table, unsigned *level)
{
    switch (w->paging) {
    case PAGING_32:
        *level = 2;
        *table = w->cpu->cr3 & 0xfffff000u;
        return true;
    case PAGING_PAE: {
        u64 pdpte = w->cpu->pdpte[(w->addr >> 30) & 3];
        *level = 2;
        *table = pdpte & ADDR_MASK;
        return pdpte & X86_PTE_P;
    }
    default:
        *level = 4;
        *table = w->cpu->cr3 & ADDR_MASK;
        return true;
    }
}

enum step { STEP_OK, STEP_RETRY, STEP_ABSENT, STEP_RESERVED };

// Go down to the leaf. *prot: W, U and NX combined over the levels. `touch`: set accessed bits of the tables passed.
static enum step walk_down(const struct walk *w, struct pte *leaf, unsigned *shift, u64 *prot, bool touch)
{
    unsigned level, bits = index_bits(w), size = bits == 10 ? 4 : 8;
    u64 all = X86_PTE_W | X86_PTE_U | X86_PTE_NX; // NX inverted: the AND of "may execute"
    gpa table;

    if (!walk_root(w, &table, &level))
        return STEP_ABSENT;
    for (;; level--) {
        unsigned sh = 12 + bits * (level - 1);
        pte_read(w, leaf, table + ((w->addr >> sh) & ((1u << bits) - 1)) * size, size);
        if (!(leaf->val & X86_PTE_P))
            return STEP_ABSENT;
        bool last = is_leaf(w, level, leaf->val);
        u64 rsvd = w->rsvd;
        if (UNLIKELY(level != 1 && (leaf->val & (X86_PTE_PS | X86_PTE_G))) && (last || w->paging == PAGING_LONG))
            rsvd |= level_rsvd(w, level, leaf->val);
        if (UNLIKELY(leaf->val & rsvd))
            return STEP_RESERVED;
        all &= leaf->val ^ X86_PTE_NX;
        if (last) {
            *shift = sh;
            *prot = all ^ X86_PTE_NX;
            return STEP_OK;
        }
        if (touch && UNLIKELY(!pte_set(w, leaf, X86_PTE_A)))
            return STEP_RETRY;
        table = leaf->val & (w->paging == PAGING_32 ? 0xfffff000u : ADDR_MASK);
    }
}

static gpa leaf_addr(const struct walk *w, const struct pte *leaf, unsigned shift)
{
    u64 in_page = (1ull << shift) - 1;
    gpa base = leaf->val & ADDR_MASK;

    if (w->paging == PAGING_32 && shift == 22)
        base |= ((leaf->val >> 13) & 0xff) << 32;
    return ((base & ~in_page) | (w->addr & in_page)) & w->cpu->a20_mask;
}

// What a view may do with a page of protection `prot`. SDM 3A 4.6.1.
static unsigned permissions(const struct cpu *c, u64 prot, enum tlb_view view)
{
    unsigned perm = PERM_R | PERM_X;

    if (!(c->cr0 & X86_CR0_PG))
        return PERM_R | PERM_W | PERM_X;
    if (view == TLB_USER) {
        if (!(prot & X86_PTE_U))
            return 0;
        if (prot & X86_PTE_W)
            perm |= PERM_W;
    } else {
        if ((prot & X86_PTE_W) || !(c->cr0 & X86_CR0_WP))
            perm |= PERM_W;
        if ((prot & X86_PTE_U) && (c->cr4 & X86_CR4_SMEP))
            perm &= ~PERM_X;
        if ((prot & X86_PTE_U) && (c->cr4 & X86_CR4_SMAP) && view == TLB_SUPER)
            perm &= ~(PERM_R | PERM_W);
    }
    return prot & X86_PTE_NX ? perm & ~PERM_X : perm;
}

static bool walk_fault(const struct cpu *c, gva a, enum mmu_access access, enum tlb_view view, u32 error,
                       struct mmu_fault *fault)
{
    bool nxe = (c->cr4 & X86_CR4_PAE) && (c->msr.efer & X86_EFER_NXE);

    if (access == MMU_WRITE)
        error |= X86_PF_W;
    if (view == TLB_USER)
        error |= X86_PF_U;
    if (access == MMU_EXEC && (nxe || (c->cr4 & X86_CR4_SMEP)))
        error |= X86_PF_I;
    *fault = (struct mmu_fault){.addr = a, .error = error};
    return false;
}

// Host address of a table's entry in one of the largest regions of RAM, or NULL.
static const u64 *quick_entry(const struct mem *m, gpa addr)
{
    for (unsigned i = 0; i < MEM_HOT; i++) {
        const struct mem_region *r = &m->region[m->hot[i]];
        if (LIKELY(addr - r->base < r->size && r->kind == MEM_RAM))
            return (const u64 *)(const void *)(r->host + (addr - r->base));
    }
    return NULL;
}

// The walk that nearly all are: 64-bit paging, tables in RAM, nothing to set in them. False: that is not so, or there is a fault.
static bool quick_walk(const struct vcpu *v, gva a, enum mmu_access access, struct mmu_page *page)
{
    const struct cpu *c = &v->cpu;
    u64 bad = phys_rsvd(v->model, 51) | (c->msr.efer & X86_EFER_NXE ? 0 : X86_PTE_NX);
    u64 val = c->cr3, all = X86_PTE_W | X86_PTE_U | X86_PTE_NX;
    unsigned shift = 39;

    if (UNLIKELY(!(c->msr.efer & X86_EFER_LMA) || ~c->a20_mask))
        return false;
    for (;; shift -= 9) {
        const u64 *e = quick_entry(&v->machine->mem, (val & ADDR_MASK) + ((a >> shift) & 511) * 8);
        if (UNLIKELY(!e))
            return false;
        val = __atomic_load_n(e, __ATOMIC_RELAXED);
        if (UNLIKELY((val & (X86_PTE_P | X86_PTE_A)) != (X86_PTE_P | X86_PTE_A) || val & bad))
            return false;
        all &= val ^ X86_PTE_NX;
        if (shift == 12)
            break;
        if (shift == 21 && val & X86_PTE_PS) {
            bad |= 0x1fe000;
            break;
        }
        if (shift == 30 && val & X86_PTE_PS && cpu_model_offers(v->model, ISA_FEAT_PDPE1GB)) {
            bad |= 0x3fffe000;
            break;
        }
        if (val & X86_PTE_PS || (shift == 39 && val & X86_PTE_G))
            return false;
    }
    if (UNLIKELY(val & bad || (access == MMU_WRITE && !(val & X86_PTE_D))))
        return false;
    u64 in_page = (1ull << shift) - 1;
    *page = (struct mmu_page){
        .addr = (val & ADDR_MASK & ~in_page) | (a & in_page),
        .page_size = 1ull << shift,
        .global = (val & X86_PTE_G) && (c->cr4 & X86_CR4_PGE),
        .prot = all ^ X86_PTE_NX,
        .dirty = val & X86_PTE_D,
    };
    return true;
}

static const u8 permission_for[] = {[MMU_READ] = PERM_R, [MMU_WRITE] = PERM_W, [MMU_EXEC] = PERM_X};

bool mmu_walk(struct vcpu *v, gva a, enum mmu_access access, enum tlb_view view, struct mmu_page *page,
              struct mmu_fault *fault)
{
    struct walk w;
    struct pte leaf;
    unsigned shift;
    u64 prot;
    // The 386 and 486 mark the page directory's entry only when the access goes through.
    bool late = v->model && (v->model->family == 3 || v->model->family == 4);

    if (LIKELY(quick_walk(v, a, access, page) && permissions(&v->cpu, page->prot, view) & permission_for[access]))
        return true;
    walk_init(&w, v, a);
    w.v = v;
    if (w.paging == PAGING_NONE) {
        *page = (struct mmu_page){
            .addr = a & v->cpu.a20_mask, .page_size = 4096, .prot = X86_PTE_W | X86_PTE_U, .dirty = true};
        return true;
    }
    for (;;) {
        enum step step = walk_down(&w, &leaf, &shift, &prot, !late);
        if (UNLIKELY(step == STEP_RETRY))
            continue;
        if (UNLIKELY(step != STEP_OK))
            return walk_fault(&v->cpu, a, access, view, step == STEP_RESERVED ? X86_PF_P | X86_PF_RSVD : 0, fault);
        if (UNLIKELY(!(permissions(&v->cpu, prot, view) & permission_for[access])))
            return walk_fault(&v->cpu, a, access, view, X86_PF_P, fault);
        if (UNLIKELY(late) && walk_down(&w, &leaf, &shift, &prot, true) != STEP_OK)
            continue;
        if (LIKELY(pte_set(&w, &leaf, access == MMU_WRITE ? X86_PTE_A | X86_PTE_D : X86_PTE_A)))
            break;
    }
    *page = (struct mmu_page){
        .addr = leaf_addr(&w, &leaf, shift),
        .page_size = 1ull << shift,
        .global = (leaf.val & X86_PTE_G) && (v->cpu.cr4 & X86_CR4_PGE),
        .prot = prot,
        .dirty = access == MMU_WRITE || (leaf.val & X86_PTE_D),
    };
    return true;
}

// A debugger must not disturb devices: tables in MMIO count as absent.
bool mmu_peek(const struct vcpu *v, gva a, gpa *out)
{
    struct walk w;
    struct pte leaf = {0};
    unsigned level, bits;
    gpa table;

    walk_init(&w, v, a);
    if (w.paging == PAGING_NONE) {
        *out = a & v->cpu.a20_mask;
        return true;
    }
    if (!walk_root(&w, &table, &level))
        return false;
    bits = index_bits(&w);
    for (;; level--) {
        unsigned sh = 12 + bits * (level - 1), size = bits == 10 ? 4 : 8;
        gpa at = (table + ((a >> sh) & ((1u << bits) - 1)) * size) & v->cpu.a20_mask;
        if (!mem_ptr(w.mem, at, size, false))
            return false;
        pte_read(&w, &leaf, at, size);
        bool last = is_leaf(&w, level, leaf.val);
        u64 rsvd = w.rsvd | (last || w.paging == PAGING_LONG ? level_rsvd(&w, level, leaf.val) : 0);
        if (!(leaf.val & X86_PTE_P) || (leaf.val & rsvd))
            return false;
        if (last) {
            *out = leaf_addr(&w, &leaf, sh);
            return true;
        }
        table = leaf.val & (w.paging == PAGING_32 ? 0xfffff000u : ADDR_MASK);
    }
}

// A page that is not memory.
static void fill_device(struct vcpu *v, gva a, enum tlb_view view, const struct mmu_page *page)
{
    unsigned perm = permissions(&v->cpu, page->prot, view);
    tlb_fill(&v->tlb, view, a,
             &(struct tlb_page){.phys = page->addr & ~0xfffull,
                                .shift = (unsigned)__builtin_ctzll(page->page_size),
                                .global = page->global,
                                .r = perm & PERM_R,
                                .w = perm & PERM_W && page->dirty,
                                .device = true});
}

bool mmu_fill(struct vcpu *v, gva a, enum mmu_access access, enum tlb_view view, hva *host, gpa *phys,
              struct mmu_fault *fault)
{
    struct mmu_page page;

    if (UNLIKELY(!mmu_walk(v, a, access, view, &page, fault))) {
        tlb_flush_page(&v->tlb, a);
        return false;
    }
    *phys = page.addr;
    *host = 0;
    const struct mem_region *r = mem_find(&v->machine->mem, page.addr);
    if (UNLIKELY(!r || (r->kind != MEM_RAM && r->kind != MEM_ROM)) || mem_is_own(&v->machine->mem, v->id, page.addr)) {
        fill_device(v, a, view, &page);
        return true;
    }

    u64 off = page.addr - r->base;
    bool writable = r->kind == MEM_RAM && page.dirty;
    if (LIKELY(r->kind == MEM_RAM)) {
        _Atomic u8 *flags = &r->page_flags[off >> MEM_PAGE_SHIFT];
        if (access == MMU_WRITE)
            mem_flag_set(flags, MEM_PAGE_DIRTY);
        // A read leaves the page clean for us, and then the first write has to come here again.
        u8 now = atomic_load_explicit(flags, memory_order_acquire);
        writable = writable && (now & (MEM_PAGE_DIRTY | MEM_PAGE_CODE)) == MEM_PAGE_DIRTY;
    }
    unsigned perm = permissions(&v->cpu, page.prot, view);
    hva here = (hva)r->host + off;
    tlb_fill(&v->tlb, view, a,
             &(struct tlb_page){
                 .host = here & ~0xfffull,
                 .phys = page.addr & ~0xfffull,
                 .shift = (unsigned)__builtin_ctzll(page.page_size),
                 .global = page.global,
                 .r = perm & PERM_R,
                 .w = writable && (perm & PERM_W),
                 // Only what code is taken from concerns the execution keys.
                 .x = perm & PERM_X && (access == MMU_EXEC || tlb_exec(&v->tlb, view, a)),
             });
    if (access != MMU_WRITE || writable)
        *host = here;
    return true;
}

// --- accesses through the TLB ----------------------------------------------------------------------------------------

// Where a piece of an access that lies in one page goes.
struct piece {
    hva host; // 0: through mem_load/mem_store at phys
    gpa phys;
};

static bool piece_find(struct vcpu *v, gva a, enum mmu_access access, enum tlb_view view, struct piece *p,
                       struct mmu_fault *fault)
{
    switch (access) {
    case MMU_READ: p->host = tlb_read(&v->tlb, view, a, 1); break;
    case MMU_WRITE: p->host = tlb_write(&v->tlb, view, a, 1); break;
    case MMU_EXEC: p->host = tlb_exec(&v->tlb, view, a); break;
    }
    if (UNLIKELY(!p->host) && access != MMU_EXEC && tlb_device(&v->tlb, view, a, access == MMU_WRITE, &p->phys))
        return true;
    return p->host || mmu_fill(v, a, access, view, &p->host, &p->phys, fault);
}

// First byte of the next page. Linear addresses are 32 bits wide outside 64-bit mode; only the processor's own accesses
// to descriptor tables go above 4 GiB from compatibility mode.
static gva next_page(const struct vcpu *v, gva a)
{
    gva next = (a | 0xfff) + 1;
    return next == 1ull << 32 && !cpu_64bit(&v->cpu) ? 0 : next;
}

static unsigned left_in_page(gva a)
{
    return MEM_PAGE_SIZE - (unsigned)(a & (MEM_PAGE_SIZE - 1));
}

// Move bytes within one page; MMIO sees the widest aligned accesses that fit.
static void piece_read(struct vcpu *v, const struct piece *p, u8 *buf, unsigned len)
{
    if (p->host) {
        __builtin_memcpy(buf, (const void *)p->host, len);
        return;
    }
    for (unsigned at = 0, size; at < len; at += size) {
        for (size = 8; size > len - at || ((p->phys + at) & (size - 1)); size /= 2)
            ;
        u64 val = mem_cpu_load(&v->machine->mem, v->id, p->phys + at, size);
        __builtin_memcpy(buf + at, &val, size);
    }
}

static void piece_write(struct vcpu *v, const struct piece *p, const u8 *buf, unsigned len)
{
    if (p->host) {
        __builtin_memcpy((void *)p->host, buf, len);
        return;
    }
    for (unsigned at = 0, size; at < len; at += size) {
        u64 val = 0;
        for (size = 8; size > len - at || ((p->phys + at) & (size - 1)); size /= 2)
            ;
        __builtin_memcpy(&val, buf + at, size);
        mem_cpu_store(&v->machine->mem, v->id, p->phys + at, size, val);
    }
}

bool mmu_load_slow(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 *val, struct mmu_fault *fault)
{
    struct piece p;

    if (left_in_page(a) < size) {
        u64 out = 0;
        if (!mmu_read_buf(v, a, &out, size, view, fault))
            return false;
        *val = out;
        return true;
    }
    if (!piece_find(v, a, MMU_READ, view, &p, fault))
        return false;
    *val = LIKELY(p.host) ? mem_host_load((const void *)p.host, size)
                          : mem_cpu_load(&v->machine->mem, v->id, p.phys, size);
    return true;
}

bool mmu_store_slow(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 val, struct mmu_fault *fault)
{
    struct piece p;

    if (left_in_page(a) < size)
        return mmu_write_buf(v, a, &val, size, view, fault);
    if (!piece_find(v, a, MMU_WRITE, view, &p, fault))
        return false;
    if (LIKELY(p.host))
        mem_host_store((void *)p.host, size, val);
    else
        mem_cpu_store(&v->machine->mem, v->id, p.phys, size, val);
    return true;
}

// The one or two pages of [a, a+len), len at most a page: both looked up before either is used. Two pages can share a
// slot of the TLB only when they are the same page, so the second look-up leaves the first result valid.
static bool pieces_find(struct vcpu *v, gva a, unsigned len, enum mmu_access access, enum tlb_view view,
                        struct piece p[2], unsigned *first, struct mmu_fault *fault)
{
    *first = left_in_page(a) < len ? left_in_page(a) : len;
    if (!piece_find(v, a, access, view, &p[0], fault))
        return false;
    return *first == len || piece_find(v, next_page(v, a), access, view, &p[1], fault);
}

bool mmu_read_buf(struct vcpu *v, gva a, void *buf, unsigned len, enum tlb_view view, struct mmu_fault *fault)
{
    struct piece p[2];
    unsigned first;

    if (len == 0)
        return true;
    if (!pieces_find(v, a, len, MMU_READ, view, p, &first, fault))
        return false;
    piece_read(v, &p[0], buf, first);
    if (first < len)
        piece_read(v, &p[1], (u8 *)buf + first, len - first);
    return true;
}

bool mmu_write_buf(struct vcpu *v, gva a, const void *buf, unsigned len, enum tlb_view view, struct mmu_fault *fault)
{
    struct piece p[2];
    unsigned first;

    if (len == 0)
        return true;
    if (!pieces_find(v, a, len, MMU_WRITE, view, p, &first, fault))
        return false;
    piece_write(v, &p[0], buf, first);
    if (first < len)
        piece_write(v, &p[1], (const u8 *)buf + first, len - first);
    return true;
}

bool mmu_probe(struct vcpu *v, gva a, unsigned len, enum mmu_access access, enum tlb_view view, struct mmu_fault *fault)
{
    struct piece p;

    while (len) {
        unsigned part = left_in_page(a) < len ? left_in_page(a) : len;
        if (!piece_find(v, a, access, view, &p, fault))
            return false;
        len -= part;
        a = next_page(v, a);
    }
    return true;
}

// --- control registers -----------------------------------------------------------------------------------------------

void mmu_cr0_changed(struct vcpu *v, u64 old)
{
    // WP is part of what a supervisor write tag proves.
    if ((v->cpu.cr0 ^ old) & (X86_CR0_PG | X86_CR0_WP))
        tlb_flush_all(&v->tlb);
}

static u16 current_pcid(const struct cpu *c)
{
    return c->cr4 & X86_CR4_PCIDE ? c->cr3 & X86_CR3_PCID : 0;
}

void mmu_cr4_changed(struct vcpu *v, u64 old)
{
    u64 diff = v->cpu.cr4 ^ old;

    if (diff & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_LA57))
        tlb_flush_all(&v->tlb);
    if (diff & X86_CR4_PCIDE)
        tlb_switch_pcid(&v->tlb, current_pcid(&v->cpu), true);
}

void mmu_efer_changed(struct vcpu *v, u64 old)
{
    if ((v->cpu.msr.efer ^ old) & (X86_EFER_NXE | X86_EFER_LMA))
        tlb_flush_all(&v->tlb);
}

void mmu_cr3_loaded(struct vcpu *v, bool noflush)
{
    if (v->cpu.cr4 & X86_CR4_PCIDE)
        tlb_switch_pcid(&v->tlb, v->cpu.cr3 & X86_CR3_PCID, !noflush);
    else
        tlb_flush_nonglobal(&v->tlb);
}

bool mmu_write_cr3(struct vcpu *v, u64 val)
{
    struct cpu *c = &v->cpu;
    bool pcide = c->cr4 & X86_CR4_PCIDE, noflush = pcide && val & X86_CR3_NOFLUSH;
    if (pcide)
        val &= ~X86_CR3_NOFLUSH;
    if (cpu_long_mode(c) && val >> (v->model ? v->model->maxphyaddr : 48))
        return false;
    if (c->cr0 & X86_CR0_PG && c->cr4 & X86_CR4_PAE && !cpu_long_mode(c) && !mmu_load_pdptes(v, val))
        return false;
    c->cr3 = val;
    mmu_cr3_loaded(v, noflush);
    return true;
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

bool mmu_invpcid(struct vcpu *v, u64 type, const u64 desc[2])
{
    struct tlb *t = &v->tlb;
    u16 pcid = (u16)desc[0];
    if (type > INVPCID_ALL || desc[0] >> 12 || (type <= INVPCID_CONTEXT && pcid && !(v->cpu.cr4 & X86_CR4_PCIDE)) ||
        (type == INVPCID_ADDRESS && !gva_canonical(desc[1])))
        return false;
    switch (type) {
    case INVPCID_ADDRESS: tlb_flush_pcid_gva(t, pcid, desc[1]); break;
    case INVPCID_CONTEXT: tlb_flush_pcid(t, pcid); break;
    case INVPCID_ALL_GLOBAL: tlb_flush_all(t); break;
    default: tlb_flush_all_nonglobal(t); break;
    }
    return true;
}

void mmu_a20_update(struct vcpu *v)
{
    vcpu_request_clear(v, VCPU_REQ_A20);
    v->cpu.a20_mask = atomic_load(&v->machine->a20_mask);
    tlb_flush_all(&v->tlb);
}

void mmu_state_changed(struct vcpu *v)
{
    tlb_flush_all(&v->tlb);
    tlb_switch_pcid(&v->tlb, current_pcid(&v->cpu), true);
}

bool mmu_load_pdptes(struct vcpu *v, u64 cr3)
{
    u64 rsvd = phys_rsvd(v->model, 62) | X86_PTE_NX | 0x1e6;
    u64 pdpte[4];

    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = mem_cpu_load(&v->machine->mem, v->id, ((cr3 & 0xffffffe0u) + i * 8) & v->cpu.a20_mask, 8);
        if ((pdpte[i] & X86_PTE_P) && (pdpte[i] & rsvd))
            return false;
    }
    __builtin_memcpy(v->cpu.pdpte, pdpte, sizeof(pdpte));
    return true;
}

// --- write protection across vCPUs -----------------------------------------------------------------------------------

// The count goes up after the work is visible: who drains reads the count first, so it never reports work done that it
// did not see.
static void queue_post(struct vcpu *v, gpa page)
{
    struct vcpu_tlb_queue *q = &v->tlb_queue;
    unsigned i;

    for (i = 0; i < VCPU_TLB_QUEUE; i++) {
        u64 empty = 0;
        if (atomic_compare_exchange_strong(&q->slot[i], &empty, page | 1))
            break;
    }
    if (i == VCPU_TLB_QUEUE)
        atomic_store(&q->all, true);
    atomic_fetch_add(&q->pending, 1);
    vcpu_request(v, VCPU_REQ_TLB);
    if (v->engine && v->engine->kick)
        v->engine->kick(v);
}

void mmu_protect_page(struct machine *m, struct vcpu *self, gpa page)
{
    page &= ~(gpa)(MEM_PAGE_SIZE - 1);
    _Atomic u8 *flags = mem_flags(&m->mem, page);
    if (!flags)
        return;
    bool had = atomic_fetch_or(flags, MEM_PAGE_CODE) & MEM_PAGE_CODE;
    for (unsigned i = 0; i < m->vcpu_count && !had; i++)
        if (m->vcpu[i] != self)
            queue_post(m->vcpu[i], page);
    // No write tag is made while the flag is set, so whoever set it first has seen to it, or has queued it for us.
    if (self && (!had || !mmu_queue_empty(self)))
        tlb_protect_gpa(&self->tlb, page);
}

// The map changes in the middle of other processors' instructions. What they derive from the old one until they have come here is
// forgotten here, in the thread that derived it, so nothing can be left over. Which areas changed is not recorded: it is a matter of
// a few dozen changes in the life of a machine.
void mmu_map_changed(struct machine *m)
{
    for (unsigned i = 0; i < m->vcpu_count; i++) {
        struct vcpu *v = m->vcpu[i];
        atomic_store(&v->tlb_queue.map_changed, true);
        vcpu_request(v, VCPU_REQ_TLB);
        if (v->engine && v->engine->kick)
            v->engine->kick(v);
    }
}

static void forget_shadow_memory(struct vcpu *v)
{
    const struct mem *m = &v->machine->mem;

    tlb_flush_all(&v->tlb);
    for (unsigned i = 0; i < m->shadow_count; i++) {
        const struct mem_region *r = &m->shadow[i].view[0];
        if (v->engine && v->engine->invalidate)
            v->engine->invalidate(v, r->base, r->size);
    }
}

void mmu_unprotect_page(struct machine *m, gpa page)
{
    _Atomic u8 *flags = mem_flags(&m->mem, page);
    if (flags)
        atomic_fetch_and(flags, (u8)~MEM_PAGE_CODE);
}

void mmu_serve_tlb_requests(struct vcpu *v)
{
    struct vcpu_tlb_queue *q = &v->tlb_queue;

    vcpu_request_clear(v, VCPU_REQ_TLB);
    if (atomic_exchange(&q->map_changed, false))
        forget_shadow_memory(v);
    u32 done = atomic_load(&q->pending);
    if (atomic_exchange(&q->all, false))
        tlb_protect_all(&v->tlb);
    for (unsigned i = 0; i < VCPU_TLB_QUEUE; i++) {
        u64 page = atomic_exchange(&q->slot[i], 0);
        if (page)
            tlb_protect_gpa(&v->tlb, page & ~1ull);
    }
    atomic_fetch_sub(&q->pending, done);
}

bool mmu_queue_empty(const struct vcpu *v)
{
    return atomic_load(&v->tlb_queue.pending) == 0 || atomic_load(&v->tlb_queue.asleep);
}
