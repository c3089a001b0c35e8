// An independent model of paging, written for clarity from SDM 3A chapter 4 and APM 2 chapter 5: it collects the
// entries that translate an address, decides bit by bit what is reserved, and works out the outcome. Slow; shares no
// code with core/mmu.c.
//
// Everything is read from RAM at address 0 of a fake machine; what lies outside reads as all ones.
#ifndef POGO_TESTS_PAGING_MODEL_H
#define POGO_TESTS_PAGING_MODEL_H

#include "core/cpuid.h"
#include "core/fake_host.h"

enum model_mode { MODEL_NONE, MODEL_32, MODEL_PAE, MODEL_LONG };
enum model_kind { KIND_PML4E, KIND_PDPTE, KIND_PDE, KIND_PTE };

struct model_entry {
    enum model_kind kind;
    gpa at;
    u64 val;
    unsigned size;
};

struct model_result {
    bool ok;
    u32 error;
    gpa addr;
    u64 page_size;
    bool global, dirty;
    struct model_entry entry[4]; // those used, as read
    unsigned entries;
    u64 set[4]; // bits that the access sets in each
};

static enum model_mode model_mode(const struct cpu *c)
{
    if ((c->cr0 >> 31 & 1) == 0)
        return MODEL_NONE;
    if ((c->cr4 >> 5 & 1) == 0)
        return MODEL_32;
    return c->msr.efer >> 10 & 1 ? MODEL_LONG : MODEL_PAE;
}

static u64 model_ram(const struct fake_machine *f, gpa a, unsigned size)
{
    u64 val = 0;
    a &= f->vcpu.cpu.a20_mask;
    if (a > f->ram_size - size)
        return size == 8 ? ~0ull : 0xffffffffull;
    memcpy(&val, f->ram + a, size);
    return val;
}

static unsigned model_maxphyaddr(const struct fake_machine *f)
{
    return f->vcpu.model ? f->vcpu.model->maxphyaddr : 48;
}

static bool model_feature(const struct fake_machine *f, enum isa_feature feature)
{
    return !f->vcpu.model || cpu_model_has(f->vcpu.model, feature);
}

// Does this entry map a page?
static bool model_maps(const struct fake_machine *f, const struct model_entry *e)
{
    bool ps = e->val >> 7 & 1;
    switch (e->kind) {
    case KIND_PML4E: return false;
    case KIND_PDPTE: return ps && model_mode(&f->vcpu.cpu) == MODEL_LONG && model_feature(f, ISA_FEAT_PDPE1GB);
    case KIND_PDE:
        if (model_mode(&f->vcpu.cpu) == MODEL_32)
            return ps && (f->vcpu.cpu.cr4 >> 4 & 1);
        return ps;
    default: return true;
    }
}

static bool model_bit_reserved(const struct fake_machine *f, const struct model_entry *e, unsigned bit)
{
    enum model_mode mode = model_mode(&f->vcpu.cpu);
    unsigned m = model_maxphyaddr(f);
    bool maps = model_maps(f, e);
    bool amd = f->vcpu.model && strcmp(f->vcpu.model->vendor, "AuthenticAMD") == 0;

    if (mode == MODEL_32) {
        if (e->kind != KIND_PDE || !maps || bit < 13 || bit > 21)
            return false;
        if (!model_feature(f, ISA_FEAT_PSE36) || bit == 21)
            return true;
        return bit - 13 + 32 >= m; // address bit that the processor does not have
    }
    if (bit == 63)
        return !(f->vcpu.cpu.msr.efer >> 11 & 1);
    if (bit >= 52 && mode == MODEL_PAE)
        return true;
    if (bit >= m && bit <= 51)
        return true;
    if (e->kind == KIND_PML4E)
        return bit == 7 || (bit == 8 && amd);
    if (e->kind == KIND_PDPTE && bit == 7)
        return !model_feature(f, ISA_FEAT_PDPE1GB);
    if (e->kind == KIND_PDPTE && maps)
        return bit >= 13 && bit <= 29;
    if (e->kind == KIND_PDE && maps)
        return bit >= 13 && bit <= 20;
    return false;
}

static bool model_reserved(const struct fake_machine *f, const struct model_entry *e)
{
    for (unsigned bit = 1; bit < 64; bit++)
        if ((e->val >> bit & 1) && model_bit_reserved(f, e, bit))
            return true;
    return false;
}

static void model_page_address(const struct fake_machine *f, const struct model_entry *e, gva a, struct model_result *r)
{
    bool small_entries = model_mode(&f->vcpu.cpu) == MODEL_32;
    u64 frame;

    switch (e->kind) {
    case KIND_PDPTE: r->page_size = 1ull << 30; break;
    case KIND_PDE: r->page_size = small_entries ? 4ull << 20 : 2ull << 20; break;
    default: r->page_size = 4096; break;
    }
    frame = e->val & 0x000fffffffffffffull;
    frame -= frame % r->page_size;
    if (small_entries && e->kind == KIND_PDE)
        frame += (e->val >> 13 & 0xff) * (1ull << 32);
    r->addr = (frame + a % r->page_size) & f->vcpu.cpu.a20_mask;
}

// May an access go ahead that is permitted by present entries? SDM 3A 4.6.1, literally.
static bool model_allowed(const struct cpu *c, enum mmu_access access, enum tlb_view view, bool writable, bool user,
                          bool nx)
{
    bool wp = c->cr0 >> 16 & 1, smep = c->cr4 >> 20 & 1, smap = c->cr4 >> 21 & 1;

    if (view == TLB_USER) {
        if (!user)
            return false;
        if (access == MMU_WRITE)
            return writable;
        return access == MMU_READ || !nx;
    }
    if (access == MMU_EXEC)
        return !nx && !(user && smep);
    if (user && smap && view != TLB_SUPER_AC)
        return false;
    return access == MMU_READ || writable || !wp;
}

static struct model_result model_fault(struct model_result r, const struct cpu *c, enum mmu_access access,
                                       enum tlb_view view, bool present, bool reserved)
{
    bool nx_on = (c->cr4 >> 5 & 1) && (c->msr.efer >> 11 & 1), smep = c->cr4 >> 20 & 1;

    r.ok = false;
    r.error = (present ? 1 : 0) + (access == MMU_WRITE ? 2 : 0) + (view == TLB_USER ? 4 : 0) + (reserved ? 8 : 0) +
              (access == MMU_EXEC && (nx_on || smep) ? 16 : 0);
    return r;
}

static struct model_result model_translate(const struct fake_machine *f, gva a, enum mmu_access access,
                                           enum tlb_view view)
{
    static const unsigned shift_long[] = {39, 30, 21, 12};
    const struct cpu *c = &f->vcpu.cpu;
    enum model_mode mode = model_mode(c);
    struct model_result r = {0};
    bool writable = true, user = true, nx = false;
    gpa table = c->cr3;

    if (mode == MODEL_NONE) {
        r.ok = r.dirty = true;
        r.addr = a & c->a20_mask;
        r.page_size = 4096;
        return r;
    }
    enum model_kind kind = mode == MODEL_LONG ? KIND_PML4E : KIND_PDE;
    table = mode == MODEL_LONG ? c->cr3 & 0x000ffffffffff000ull : c->cr3 & 0xfffff000;
    if (mode == MODEL_PAE) {
        u64 pdpte = c->pdpte[a >> 30 & 3];
        if (!(pdpte & 1))
            return model_fault(r, c, access, view, false, false);
        table = pdpte & 0x000ffffffffff000ull;
    }
    for (;; kind++) {
        struct model_entry *e = &r.entry[r.entries];
        unsigned shift = mode == MODEL_32 ? (kind == KIND_PDE ? 22 : 12) : shift_long[kind];
        e->kind = kind;
        e->size = mode == MODEL_32 ? 4 : 8;
        e->at = table + (a >> shift & (mode == MODEL_32 ? 1023 : 511)) * e->size;
        e->val = model_ram(f, e->at, e->size);
        if (!(e->val & 1))
            return model_fault(r, c, access, view, false, false);
        if (model_reserved(f, e))
            return model_fault(r, c, access, view, true, true);
        r.entries++;
        writable &= e->val >> 1 & 1;
        user &= e->val >> 2 & 1;
        nx |= mode != MODEL_32 && (e->val >> 63 & 1);
        if (model_maps(f, e))
            break;
        r.set[r.entries - 1] = 0x20 & ~e->val;
        table = e->val & (mode == MODEL_32 ? 0xfffff000ull : 0x000ffffffffff000ull);
    }
    struct model_entry *leaf = &r.entry[r.entries - 1];
    if (!model_allowed(c, access, view, writable, user, nx))
        return model_fault(r, c, access, view, true, false);
    r.set[r.entries - 1] = (access == MMU_WRITE ? 0x60 : 0x20) & ~leaf->val;
    r.ok = true;
    r.dirty = access == MMU_WRITE || (leaf->val >> 6 & 1);
    r.global = (leaf->val >> 8 & 1) && (c->cr4 >> 7 & 1);
    model_page_address(f, leaf, a, &r);
    return r;
}

#endif
