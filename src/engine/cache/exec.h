// What fast handlers are made of: registers, effective addresses, the TLB probe, jumps from run to run. Everything here is
// inlined into handlers with constant arguments, so that each becomes a dozen host instructions.
#ifndef POGO_ENGINE_CACHE_EXEC_H
#define POGO_ENGINE_CACHE_EXEC_H

#include <string.h>

#include "engine/cache/flags.h"

// --- registers ----------------------------------------------------------------------------------------------------------

static ALWAYS_INLINE u64 reg_get(const struct cpu *c, unsigned reg, unsigned size)
{
    switch (size) {
    case 1: return (u8)c->gpr[reg];
    case 2: return (u16)c->gpr[reg];
    case 4: return (u32)c->gpr[reg];
    default: return c->gpr[reg];
    }
}

// Always stores the whole register: a narrow store would hold up the wide load that follows.
static ALWAYS_INLINE void reg_set(struct cpu *c, unsigned reg, unsigned size, u64 v)
{
    switch (size) {
    case 1: c->gpr[reg] = (c->gpr[reg] & ~0xffull) | (u8)v; break;
    case 2: c->gpr[reg] = (c->gpr[reg] & ~0xffffull) | (u16)v; break;
    case 4: c->gpr[reg] = (u32)v; break;
    default: c->gpr[reg] = v; break;
    }
}

// --- memory -------------------------------------------------------------------------------------------------------------

static ALWAYS_INLINE u64 host_load(const u8 *p, unsigned size)
{
    return mem_host_load(p, size);
}

static ALWAYS_INLINE void host_store(u8 *p, unsigned size, u64 v)
{
    mem_host_store(p, size, v);
}

static ALWAYS_INLINE const struct tlb_entry *tlb_slot(const struct cache *e, gva a)
{
    return &e->tlb[tlb_index(a)];
}

// Is the code at `a` in this host page?
static ALWAYS_INLINE bool code_is_in(const struct cache *e, gva a, hva page)
{
    const struct tlb_table *tab = (const void *)e->tlb;
    unsigned i = tlb_index(a);
    return LIKELY(a - tab->tag_x[i] <= 4095 && tab->e[i].page == page);
}

// Host pointer for an access inside one page of plain RAM; false: something else.
static ALWAYS_INLINE bool probe(const struct cache *e, gva a, unsigned size, bool write, u8 **p)
{
    const struct tlb_entry *t = tlb_slot(e, a);
    u64 off = a - (write ? t->tag_w : t->tag_r);
    *p = (u8 *)(t->page + off);
    return LIKELY(off <= 4096u - size);
}

// Kinds of memory operand. In all but G the segment is flat.
enum ea_kind {
    EA_B,   // base + disp, 64-bit
    EA_X,   // base + index << scale + disp, 64-bit
    EA_R,   // disp from the page: RIP-relative
    EA_B32, // the same with 32-bit addresses
    EA_X32,
    EA_G, // anything else
    EA_COUNT
};

// Segments outside 64-bit mode, FS and GS, other address sizes, no base. False: let the interpreter find out.
static ALWAYS_INLINE bool ea_general(const struct cpu *c, const struct cell *o, const struct cache *e, unsigned size,
                                     bool write, gva *a)
{
    const struct x86_seg *s = &c->seg[o->seg];
    u64 off = (u64)(i64)o->disp;
    if (o->base == ISA_REG_RIP)
        off += e->page_rip;
    else if (o->base != ISA_REG_NONE)
        off += c->gpr[o->base];
    if (o->index != ISA_REG_NONE)
        off += c->gpr[o->index] << (o->scale & CELL_SCALE);
    if (o->scale & CELL_AD32)
        off = (u32)off;
    else if (o->scale & CELL_AD16)
        off = (u16)off;
    if (in_64bit(e)) {
        *a = o->seg >= X86_FS ? off + s->base : off;
        return gva_canonical(off); // that *a is, the TLB knows; the end of the access is in the same page
    }
    u32 need = write && cpu_pmode(c) ? X86_SEG_W : 0;
    if ((s->attr & (X86_SEG_UNUSABLE | X86_SEG_CODE | X86_SEG_E | need)) != need || off + size - 1 > s->limit)
        return false;
    *a = (u32)(off + s->base);
    return true;
}

static ALWAYS_INLINE bool mem_at(const struct cpu *c, const struct cell *o, const struct cache *e, enum ea_kind kind,
                                 unsigned size, bool write, u8 **p)
{
    gva a = 0;
    switch (kind) {
    case EA_B: a = c->gpr[o->base] + (u64)(i64)o->disp; break;
    case EA_X: a = c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (u64)(i64)o->disp; break;
    case EA_R: a = e->page_rip + (u64)(i64)o->disp; break;
    case EA_B32: a = (u32)(c->gpr[o->base] + (u64)(i64)o->disp); break;
    case EA_X32: a = (u32)(c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (u64)(i64)o->disp); break;
    default:
        if (UNLIKELY(!ea_general(c, o, e, size, write, &a)))
            return false;
    }
    return probe(e, a, size, write, p);
}

// Bind `p` to the memory operand, or let the interpreter do the instruction.
#define MEM_OR(otherwise, p, kind, size, write) \
    u8 *p; \
    if (UNLIKELY(!mem_at(c, o, e, kind, size, write, &p))) \
    PASS(otherwise)
#define MEM(p, kind, size, write) MEM_OR(slow_op, p, kind, size, write)

// Flags have to be in RFLAGS.
#define NEED_FLAGS \
    if (UNLIKELY(e->flags_kind != FLAGS_READY)) \
    PASS(slow_flags)

// Instantiate m(kind) for every kind of memory operand, and the table row of a handler family.
#define EACH_EA(m, ...) \
    m(EA_B, __VA_ARGS__) m(EA_X, __VA_ARGS__) m(EA_R, __VA_ARGS__) m(EA_B32, __VA_ARGS__) m(EA_X32, __VA_ARGS__) \
        m(EA_G, __VA_ARGS__)

// And for every condition.
#define EACH_CC(m, ...) \
    m(0, __VA_ARGS__) m(1, __VA_ARGS__) m(2, __VA_ARGS__) m(3, __VA_ARGS__) m(4, __VA_ARGS__) m(5, __VA_ARGS__) \
        m(6, __VA_ARGS__) m(7, __VA_ARGS__) m(8, __VA_ARGS__) m(9, __VA_ARGS__) m(a, __VA_ARGS__) m(b, __VA_ARGS__) \
            m(c, __VA_ARGS__) m(d, __VA_ARGS__) m(e, __VA_ARGS__) m(f, __VA_ARGS__)

// Handlers are in tables by size.
static inline unsigned log2_size(unsigned size)
{
    return (unsigned)__builtin_ctz(size);
}

// Which kind of memory operand the cell has (build.c fills it in and says so).
enum ea_kind ea_kind(const struct cache *e, const struct insn *in);

// --- from run to run --------------------------------------------------------------------------------------------------------

static ALWAYS_INLINE bool must_stop(const struct cpu *c, const struct cache *e, i64 left)
{
    const struct vcpu *v = (const struct vcpu *)c; // cpu is its first member
    return left < 0 || atomic_load_explicit(&v->request, memory_order_relaxed) & e->poll;
}

_Static_assert(offsetof(struct vcpu, cpu) == 0, "must_stop() relies on it");

// Enter run r.
#define ENTER(r) \
    do { \
        left -= (r)->n; \
        if (UNLIKELY(must_stop(c, e, left))) \
            TO(slow_leave, (r)->cell); \
        GO((r)->cell); \
    } while (0)

// Go where the direct branch in cell `b` leads, in the same page; `skipped`: instructions of this run that are not run.
#define FOLLOW(b, skipped) \
    do { \
        const struct cell *b_ = (b); \
        struct run *r_ = b_->link; \
        left += (i64)(skipped); \
        if (UNLIKELY(!r_)) \
            TO(slow_link, b_); \
        ENTER(r_); \
    } while (0)

// The same into another page: the link holds while that page is what it was. `branch`: it is the fault of the branch itself when that is
// no canonical address; not when code only runs on to it.
#define FOLLOW_FAR(b, skipped, branch) \
    do { \
        const struct cell *b_ = (b); \
        struct run *r_ = b_->link; \
        u64 rip_ = e->page_rip + (u64)(i64)b_->disp; \
        if (!in_64bit(e)) \
            rip_ = (u32)rip_; \
        if (UNLIKELY(!r_ || !code_is_in(e, rip_, r_->page))) { \
            if ((branch) && in_64bit(e) && !gva_canonical(rip_)) \
                TO(slow_branch, b_); \
            left += (i64)(skipped); \
            TO(slow_link, b_); \
        } \
        left += (i64)(skipped); \
        e->page_rip = rip_ & ~4095ull; \
        ENTER(r_); \
    } while (0)

// The run at `rip` if it was there lately and its page still is; flat code only.
static ALWAYS_INLINE struct run *jump_find(struct cache *e, u64 rip)
{
    const struct jump *j = jump_slot(e, rip);
    if (UNLIKELY(j->rip != rip))
        return NULL;
    struct run *r = j->run;
    if (UNLIKELY(r->mode != e->mode || !code_is_in(e, rip, r->page)))
        return NULL;
    return r;
}

#endif
