// How the interpreter reaches guest memory: effective addresses, segmentation, alignment and data breakpoints, then the TLB
// probe of core/tlb.h with core/mmu.h behind it. Also operands, read-modify-write and the stack, which all end here.
//
// Order of checks, as on the processor: segment limit and type or canonical form (#GP, #SS), then alignment (#AC; a page fault
// has priority over it only in implementations we do not have), then paging (#PF).
#include <string.h>

#include "engine/interp/interp.h"

// --- addresses ----------------------------------------------------------------------------------------------------------

u64 interp_ea(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    u64 ea = (u64)in->disp;
    if (in->base == ISA_REG_RIP)
        ea += x->next_rip;
    else if (in->base != ISA_REG_NONE)
        ea += c->gpr[in->base];
    if (in->index != ISA_REG_NONE)
        ea += c->gpr[in->index] << in->scale;
    return ea & size_mask(in->adsize);
}

static _Noreturn void raise_segment(struct interp *x, unsigned seg)
{
    interp_raise_err(x, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);
}

// Limit and type of a segment outside 64-bit mode. SDM 3A 5.3 (limit), 5.4 (type).
static void check_segment(struct interp *x, unsigned seg, u64 off, unsigned len, enum mmu_access access)
{
    const struct x86_seg *s = &x->c->seg[seg];
    u32 a = s->attr;
    if (a & X86_SEG_UNUSABLE)
        raise_segment(x, seg);
    bool code = a & X86_SEG_CODE;
    if (access == MMU_WRITE && (code || !(a & X86_SEG_W)) && cpu_pmode(x->c))
        raise_segment(x, seg);
    if (access == MMU_READ && code && !(a & X86_SEG_R) && cpu_pmode(x->c))
        raise_segment(x, seg);
    u64 last = off + len - 1;
    if (!code && (a & X86_SEG_E)) { // expand-down: valid above the limit
        u64 top = a & X86_SEG_DB ? 0xffffffffu : 0xffffu;
        if (off <= s->limit || last > top)
            raise_segment(x, seg);
    } else if (last > s->limit) {
        raise_segment(x, seg);
    }
}

gva interp_linear(struct interp *x, unsigned seg, u64 off, unsigned len, enum mmu_access access)
{
    const struct x86_seg *s = &x->c->seg[seg];
    if (x->mode == ISA_MODE_64) {
        gva a = seg >= X86_FS ? off + s->base : off;
        if (!gva_canonical(a) || !gva_canonical(a + len - 1))
            raise_segment(x, seg);
        // AMD processors want the offset canonical, too, to its end.
        if (UNLIKELY(a != off) && x->isa_options & ISA_OPT_AMD &&
            (!gva_canonical(off) || !gva_canonical(off + len - 1)))
            raise_segment(x, seg);
        return a;
    }
    // Flat 4 GiB segments are the common case: nothing to check but wrap-around, which a limit of 4 GiB - 1 catches below.
    check_segment(x, seg, off, len, access);
    return (u32)(off + s->base);
}

// --- data breakpoints and alignment ---------------------------------------------------------------------------------------

static void check_debugger_watch(struct interp *x, gva a, unsigned len, bool write)
{
    const struct debug_watch *w = debug_watch_hit(x->points, a, len, write ? DEBUG_WATCH_WRITE : DEBUG_WATCH_READ);
    if (w && !x->watch_hit) {
        x->watch_hit = true;
        interp_stop_debug(x, write ? DEBUG_WRITE : DEBUG_READ, a - w->first <= w->last - w->first ? a : w->first);
    }
}

// DR7 data breakpoints that an access touches become DR6 bits; the trap comes after the instruction. SDM 3B 18.2.4, 18.2.5.
void interp_check_watch(struct interp *x, gva a, unsigned len, bool write)
{
    static const u8 length[4] = {1, 2, 8, 4};
    const struct cpu *c = x->c;
    if (x->points)
        check_debugger_watch(x, a, len, write);
    for (unsigned n = 0; n < 4; n++) {
        if (!(c->dr7 & (X86_DR7_L(n) | X86_DR7_G(n))))
            continue;
        unsigned rw = X86_DR7_RW(c->dr7, n);
        if (rw != 3 && !(rw == 1 && write))
            continue;
        u64 size = length[X86_DR7_LEN(c->dr7, n)];
        gva base = c->dr[n] & ~(size - 1);
        if (a - base < size || base - a < len)
            x->dr6_trap |= X86_DR6_B(n);
    }
}

static void check_access(struct interp *x, gva a, unsigned size, bool write)
{
    if (x->align_on && (a & (size - 1)) && size <= 8)
        interp_raise_err(x, X86_EXC_AC, 0);
    if (x->debug_on)
        interp_check_watch(x, a, size, write);
}

// --- linear access ----------------------------------------------------------------------------------------------------------

u64 interp_lin_load(struct interp *x, gva a, unsigned size, enum tlb_view view)
{
    hva h = tlb_read(&x->v->tlb, view, a, size);
    if (LIKELY(h)) {
        u64 v = 0;
        switch (size) { // constant lengths: single moves
        case 1: return *(const u8 *)h;
        case 2: memcpy(&v, (const void *)h, 2); return v;
        case 4: memcpy(&v, (const void *)h, 4); return v;
        default: memcpy(&v, (const void *)h, 8); return v;
        }
    }
    struct mmu_fault f;
    u64 val;
    if (!mmu_load(x->v, a, size, view, &val, &f))
        interp_raise_pf(x, &f);
    return val;
}

void interp_lin_store(struct interp *x, gva a, unsigned size, enum tlb_view view, u64 val)
{
    hva h = tlb_write(&x->v->tlb, view, a, size);
    if (LIKELY(h)) {
        switch (size) {
        case 1: *(u8 *)h = (u8)val; return;
        case 2: memcpy((void *)h, &val, 2); return;
        case 4: memcpy((void *)h, &val, 4); return;
        default: memcpy((void *)h, &val, 8); return;
        }
    }
    struct mmu_fault f;
    if (!mmu_store(x->v, a, size, view, val, &f))
        interp_raise_pf(x, &f);
}

void interp_lin_probe(struct interp *x, gva a, unsigned len, enum mmu_access access, enum tlb_view view)
{
    struct mmu_fault f;
    if (!mmu_probe(x->v, a, len, access, view, &f))
        interp_raise_pf(x, &f);
}

// A canonical table base plus an offset may still run out of the lower half.
static void check_canonical(struct interp *x, gva a, unsigned size)
{
    if (UNLIKELY(!gva_canonical(a) || !gva_canonical(a + size - 1)))
        interp_gp0(x);
}

u64 interp_sys_load(struct interp *x, gva a, unsigned size)
{
    check_canonical(x, a, size);
    return interp_lin_load(x, a, size, TLB_SUPER);
}

void interp_sys_store(struct interp *x, gva a, unsigned size, u64 val)
{
    check_canonical(x, a, size);
    interp_lin_store(x, a, size, TLB_SUPER, val);
}

// --- access through a segment -------------------------------------------------------------------------------------------------

u64 interp_load(struct interp *x, unsigned seg, u64 off, unsigned size)
{
    gva a = interp_linear(x, seg, off, size, MMU_READ);
    if (UNLIKELY(x->align_on || x->debug_on))
        check_access(x, a, size, false);
    return interp_lin_load(x, a, size, x->view);
}

void interp_store(struct interp *x, unsigned seg, u64 off, unsigned size, u64 val)
{
    gva a = interp_linear(x, seg, off, size, MMU_WRITE);
    if (UNLIKELY(x->align_on || x->debug_on))
        check_access(x, a, size, true);
    interp_lin_store(x, a, size, x->view, val);
}

void interp_load_buf(struct interp *x, unsigned seg, u64 off, void *buf, unsigned len)
{
    gva a = interp_linear(x, seg, off, len, MMU_READ);
    if (UNLIKELY(x->debug_on))
        interp_check_watch(x, a, len, false);
    hva h = tlb_read(&x->v->tlb, x->view, a, len);
    if (LIKELY(h)) {
        memcpy(buf, (const void *)h, len);
        return;
    }
    struct mmu_fault f;
    if (!mmu_read_buf(x->v, a, buf, len, x->view, &f))
        interp_raise_pf(x, &f);
}

void interp_store_buf(struct interp *x, unsigned seg, u64 off, const void *buf, unsigned len)
{
    gva a = interp_linear(x, seg, off, len, MMU_WRITE);
    if (UNLIKELY(x->debug_on))
        interp_check_watch(x, a, len, true);
    hva h = tlb_write(&x->v->tlb, x->view, a, len);
    if (LIKELY(h)) {
        memcpy((void *)h, buf, len);
        return;
    }
    struct mmu_fault f;
    if (!mmu_write_buf(x->v, a, buf, len, x->view, &f))
        interp_raise_pf(x, &f);
}

void interp_probe_store(struct interp *x, unsigned seg, u64 off, unsigned len)
{
    gva a = interp_linear(x, seg, off, len, MMU_WRITE);
    if (x->align_on && (a & (len - 1)) && len <= 8)
        interp_raise_err(x, X86_EXC_AC, 0);
    if (!tlb_write(&x->v->tlb, x->view, a, len))
        interp_lin_probe(x, a, len, MMU_WRITE, x->view);
}

// --- operands -----------------------------------------------------------------------------------------------------------------

u64 opnd_get(struct interp *x, const struct insn *in, unsigned i)
{
    const struct isa_operand *o = &in->opnd[i];
    switch (o->kind) {
    case ISA_OPND_GPR: return gpr_get(x->c, o->reg, o->size);
    case ISA_OPND_GPR8H: return (u8)(x->c->gpr[o->reg] >> 8);
    case ISA_OPND_MEM: return interp_load(x, in->seg, interp_ea(x, in), o->size);
    case ISA_OPND_IMM: return (u64)in->imm & (o->size ? size_mask(o->size) : ~0ull);
    case ISA_OPND_IMM2: return in->imm2;
    case ISA_OPND_REL: return (u64)in->imm;
    case ISA_OPND_SEG: return x->c->seg[o->reg].sel;
    default: __builtin_unreachable(); // other kinds have handlers that know them
    }
}

void opnd_set(struct interp *x, const struct insn *in, unsigned i, u64 val)
{
    const struct isa_operand *o = &in->opnd[i];
    switch (o->kind) {
    case ISA_OPND_GPR: gpr_set(x->c, o->reg, o->size, val); return;
    case ISA_OPND_GPR8H: x->c->gpr[o->reg] = (x->c->gpr[o->reg] & ~0xff00ull) | (val & 0xff) << 8; return;
    case ISA_OPND_MEM: interp_store(x, in->seg, interp_ea(x, in), o->size, val); return;
    default: __builtin_unreachable();
    }
}

void rmw_begin(struct interp *x, const struct insn *in, unsigned i, struct rmw *m)
{
    const struct isa_operand *o = &in->opnd[i];
    m->kind = o->kind;
    m->size = (u8)o->size;
    m->reg = o->reg;
    m->host = NULL;
    if (o->kind != ISA_OPND_MEM) {
        m->old = opnd_get(x, in, i);
        return;
    }
    m->locked = in->prefix & ISA_PFX_LOCK || in->op == ISA_OP_XCHG;
    rmw_begin_at(x, in->seg, interp_ea(x, in), m);
}

u8 *interp_code_page(struct interp *x, gva a, unsigned size, gpa *phys)
{
    struct mmu_fault f;
    hva h;
    if ((a & 4095) > 4096u - size)
        return NULL;
    if (!mmu_fill(x->v, a, MMU_WRITE, x->view, &h, phys, &f))
        interp_raise_pf(x, &f);
    return mem_write_ptr(&x->v->machine->mem, *phys, size);
}

void rmw_begin_at(struct interp *x, unsigned seg, u64 off, struct rmw *m)
{
    m->kind = ISA_OPND_MEM;
    m->host = NULL;
    m->lin = interp_linear(x, seg, off, m->size, MMU_WRITE);
    const u32 attr = x->c->seg[seg].attr;
    if (x->mode != ISA_MODE_64 && (attr & X86_SEG_CODE))
        interp_linear(x, seg, off, m->size, MMU_READ);
    if (UNLIKELY(x->align_on || x->debug_on))
        check_access(x, m->lin, m->size, true);
    hva h = tlb_write(&x->v->tlb, x->view, m->lin, m->size);
    if (!h) {
        interp_lin_probe(x, m->lin, m->size, MMU_WRITE, x->view);
        h = tlb_write(&x->v->tlb, x->view, m->lin, m->size);
    }
    m->host = (u8 *)h;
    m->in_code = false;
    if (UNLIKELY(!h && m->locked)) {
        m->host = interp_code_page(x, m->lin, m->size, &m->phys);
        m->in_code = m->host;
    }
    m->old = interp_lin_load(x, m->lin, m->size, x->view);
}

// Compare-exchange on guest RAM. In assembly because the address may be misaligned, which C's atomics do not allow; inside
// one page the processor's own split lock keeps it atomic.
static bool locked_store(struct rmw *m, u64 val)
{
    u64 old = m->old;
    bool ok;
    switch (m->size) {
    case 1:
        __asm__ volatile("lock cmpxchgb %b3, (%2)" : "=@ccz"(ok), "+a"(old) : "r"(m->host), "q"(val) : "memory");
        break;
    case 2:
        __asm__ volatile("lock cmpxchgw %w3, (%2)" : "=@ccz"(ok), "+a"(old) : "r"(m->host), "r"(val) : "memory");
        break;
    case 4:
        __asm__ volatile("lock cmpxchgl %k3, (%2)" : "=@ccz"(ok), "+a"(old) : "r"(m->host), "r"(val) : "memory");
        break;
    default:
        __asm__ volatile("lock cmpxchgq %3, (%2)" : "=@ccz"(ok), "+a"(old) : "r"(m->host), "r"(val) : "memory");
        break;
    }
    m->old = old & size_mask(m->size);
    return ok;
}

bool rmw_end(struct interp *x, struct rmw *m, u64 val)
{
    if (m->kind == ISA_OPND_GPR) {
        gpr_set(x->c, m->reg, m->size, val);
        return true;
    }
    if (m->kind == ISA_OPND_GPR8H) {
        x->c->gpr[m->reg] = (x->c->gpr[m->reg] & ~0xff00ull) | (val & 0xff) << 8;
        return true;
    }
    if (m->locked && m->host) {
        bool done = locked_store(m, val);
        if (UNLIKELY(m->in_code))
            mem_written(&x->v->machine->mem, m->phys, m->size);
        return done;
    }
    interp_lin_store(x, m->lin, m->size, x->view, val);
    return true;
}

// --- stack ----------------------------------------------------------------------------------------------------------------------

unsigned interp_stack_size(const struct interp *x)
{
    if (x->mode == ISA_MODE_64)
        return 8;
    return x->c->seg[X86_SS].attr & X86_SEG_DB ? 4 : 2;
}

static void set_rsp(struct interp *x, unsigned stack_size, u64 rsp)
{
    gpr_set(x->c, X86_RSP, stack_size, rsp);
}

void interp_push(struct interp *x, unsigned size, u64 val)
{
    unsigned ss = interp_stack_size(x);
    u64 rsp = (x->c->gpr[X86_RSP] - size) & size_mask(ss);
    interp_store(x, X86_SS, rsp, size, val);
    set_rsp(x, ss, rsp);
}

u64 interp_pop(struct interp *x, unsigned size)
{
    unsigned ss = interp_stack_size(x);
    u64 rsp = x->c->gpr[X86_RSP] & size_mask(ss);
    u64 val = interp_load(x, X86_SS, rsp, size);
    set_rsp(x, ss, rsp + size);
    return val;
}
