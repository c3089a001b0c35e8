// Moves, exchanges and conversions: everything that carries data about without computing, and the flag loads and stores that
// need no privilege.
#include "core/machine.h"
#include "engine/interp/operand.h"
#include "isa/alu.h"

// --- moves ------------------------------------------------------------------------------------------------------------------

static void load_segment(struct interp *x, unsigned seg, u16 sel)
{
    interp_load_seg(x, seg, sel);
    if (seg == X86_SS)
        x->shadow_next = CPU_SHADOW_MOVSS;
}

void op_mov(struct interp *x, const struct insn *in)
{
    if (UNLIKELY(in->opnd[0].kind == ISA_OPND_SEG)) {
        load_segment(x, in->opnd[0].reg, (u16)operand(x, in, 1));
        return;
    }
    operand_set(x, in, 0, operand_raw(x, in, 1));
}

void op_movzx(struct interp *x, const struct insn *in)
{
    gpr_set(x->c, in->opnd[0].reg, in->opnd[0].size, operand(x, in, 1));
}

void op_movsx(struct interp *x, const struct insn *in)
{
    u64 v = sign_extend(operand(x, in, 1), in->opnd[1].size);
    gpr_set(x->c, in->opnd[0].reg, in->opnd[0].size, v);
}

// With a 16-bit operand size AMD processors still read 32 bits of memory; the result has the low 16 of them.
void op_movsxd(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[1].size;
    if (size == 2 && (x->isa_options & ISA_OPT_AMD) && in->opnd[1].kind == ISA_OPND_MEM) {
        gpr_set(x->c, in->opnd[0].reg, 2, interp_load(x, in->seg, interp_ea(x, in), 4));
        return;
    }
    gpr_set(x->c, in->opnd[0].reg, in->opnd[0].size, sign_extend(operand(x, in, 1), size));
}

void op_movbe(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 v = __builtin_bswap64(operand(x, in, 1)) >> (64 - size * 8);
    operand_set(x, in, 0, v);
}

void op_bswap(struct interp *x, const struct insn *in)
{
    u64 *r = &x->c->gpr[in->opnd[0].reg];
    *r = alu_bswap(in->opnd[0].size, *r);
}

void op_lea(struct interp *x, const struct insn *in)
{
    gpr_set(x->c, in->opnd[0].reg, in->opnd[0].size, interp_ea(x, in));
}

void op_xlat(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 off = (c->gpr[X86_RBX] + (u8)c->gpr[X86_RAX]) & size_mask(in->adsize);
    gpr_set(c, X86_RAX, 1, interp_load(x, in->seg, off, 1));
}

// The source is read, and a 32-bit destination cleared above, whatever the condition.
void op_cmovcc(struct interp *x, const struct insn *in)
{
    unsigned reg = in->opnd[0].reg, size = in->opnd[0].size;
    u64 v = operand_raw(x, in, 1);
    if (!alu_cond(in->opcode, x->c->rflags))
        v = x->c->gpr[reg];
    gpr_set(x->c, reg, size, v);
}

void op_setcc(struct interp *x, const struct insn *in)
{
    operand_set(x, in, 0, alu_cond(in->opcode, x->c->rflags));
}

// CBW CWDE CDQE: the accumulator from half its size.
void op_cbw(struct interp *x, const struct insn *in)
{
    gpr_set(x->c, X86_RAX, in->opsize, sign_extend(x->c->gpr[X86_RAX], in->opsize / 2u));
}

// CWD CDQ CQO: the accumulator's sign into all of rDX.
void op_cwd(struct interp *x, const struct insn *in)
{
    u64 v = sign_extend(x->c->gpr[X86_RAX], in->opsize);
    gpr_set(x->c, X86_RDX, in->opsize, v >> 63 ? ~0ull : 0);
}

// LES LDS LSS LFS LGS. AMD processors have no 64-bit offsets here: REX.W is ignored. APM 3 "LDS".
static void load_far_pointer(struct interp *x, const struct insn *in, unsigned seg)
{
    unsigned size = in->opsize;
    if (size == 8 && (x->isa_options & ISA_OPT_AMD))
        size = 4;
    u64 ea = interp_ea(x, in);
    u64 off = interp_load(x, in->seg, ea, size);
    u16 sel = (u16)interp_load(x, in->seg, (ea + size) & size_mask(in->adsize), 2);
    interp_load_seg(x, seg, sel);
    gpr_set(x->c, in->opnd[0].reg, size, off);
}

void op_les(struct interp *x, const struct insn *in)
{
    load_far_pointer(x, in, X86_ES);
}

void op_lds(struct interp *x, const struct insn *in)
{
    load_far_pointer(x, in, X86_DS);
}

void op_lss(struct interp *x, const struct insn *in)
{
    load_far_pointer(x, in, X86_SS);
}

void op_lfs(struct interp *x, const struct insn *in)
{
    load_far_pointer(x, in, X86_FS);
}

void op_lgs(struct interp *x, const struct insn *in)
{
    load_far_pointer(x, in, X86_GS);
}

// --- exchanges --------------------------------------------------------------------------------------------------------------

// With memory it is LOCKed, prefix or not. SDM 3A 8.1.2.1.
void op_xchg(struct interp *x, const struct insn *in)
{
    u64 b = operand(x, in, 1);
    struct rmw m;
    rmw_begin(x, in, 0, &m);
    while (!rmw_end(x, &m, b))
        ;
    operand_set(x, in, 1, m.old);
}

// Of two equal registers the sum stays: the destination is written last.
void op_xadd(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 b = operand(x, in, 1), fl, sum;
    struct rmw m;
    rmw_begin(x, in, 0, &m);
    if (m.kind != ISA_OPND_MEM) {
        sum = alu_add(size, m.old, b, &x->c->rflags);
        operand_set(x, in, 1, m.old);
        rmw_end(x, &m, sum);
        return;
    }
    do {
        fl = x->c->rflags;
        sum = alu_add(size, m.old, b, &fl);
    } while (!rmw_end(x, &m, sum));
    x->c->rflags = fl;
    operand_set(x, in, 1, m.old);
}

// Memory is written back even when the comparison fails. Of the two registers only the one that receives a value is written,
// which shows in the upper half of 32-bit ones.
void op_cmpxchg(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = in->opnd[0].size;
    u64 b = operand(x, in, 1), acc = c->gpr[X86_RAX], fl;
    struct rmw m;
    rmw_begin(x, in, 0, &m);
    if (m.kind != ISA_OPND_MEM) {
        alu_sub(size, acc, m.old, &c->rflags);
        if (c->rflags & X86_FL_ZF)
            rmw_end(x, &m, b);
        else
            gpr_set(c, X86_RAX, size, m.old);
        return;
    }
    u64 old;
    do {
        old = m.old;
        fl = c->rflags;
        alu_sub(size, acc, old, &fl);
    } while (!rmw_end(x, &m, fl & X86_FL_ZF ? b : old));
    c->rflags = fl;
    if (!(fl & X86_FL_ZF))
        gpr_set(c, X86_RAX, size, old);
}

void op_cmpxchg8b(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 expected = gpr_get(c, X86_RDX, 4) << 32 | gpr_get(c, X86_RAX, 4);
    u64 desired = gpr_get(c, X86_RCX, 4) << 32 | gpr_get(c, X86_RBX, 4);
    struct rmw m;
    u64 old;
    rmw_begin(x, in, 0, &m);
    do
        old = m.old;
    while (!rmw_end(x, &m, old == expected ? desired : old));
    if (old == expected) {
        c->rflags |= X86_FL_ZF;
        return;
    }
    c->rflags &= ~(u64)X86_FL_ZF;
    gpr_set(c, X86_RAX, 4, old);
    gpr_set(c, X86_RDX, 4, old >> 32);
}

// The operand is aligned, so it lies in one page: either it is RAM, and the host's instruction does it at once, or no other
// processor's access has to be kept out.
void op_cmpxchg16b(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 ea = interp_ea(x, in);
    gva a = ea + (in->seg >= X86_FS ? c->seg[in->seg].base : 0);
    if (a & 15) // before #SS for a non-canonical address
        interp_gp0(x);
    interp_probe_store(x, in->seg, ea, 16);
    u64 old[2] = {c->gpr[X86_RAX], c->gpr[X86_RDX]}, desired[2] = {c->gpr[X86_RBX], c->gpr[X86_RCX]};
    bool equal;
    if (UNLIKELY(x->debug_on))
        interp_check_watch(x, a, 16, true);
    hva h = tlb_write(&x->v->tlb, x->view, a, 16);
    gpa phys = 0;
    bool in_code = false;
    if (UNLIKELY(!h)) {
        h = (hva)interp_code_page(x, a, 16, &phys);
        in_code = h;
    }
    if (LIKELY(h)) {
        __asm__ volatile("lock cmpxchg16b (%3)"
                         : "=@ccz"(equal), "+a"(old[0]), "+d"(old[1])
                         : "r"(h), "b"(desired[0]), "c"(desired[1])
                         : "memory");
        if (UNLIKELY(in_code))
            mem_written(&x->v->machine->mem, phys, 16);
    } else {
        u64 now[2];
        interp_load_buf(x, in->seg, ea, now, 16);
        equal = now[0] == old[0] && now[1] == old[1];
        interp_store_buf(x, in->seg, ea, equal ? desired : now, 16);
        old[0] = now[0];
        old[1] = now[1];
    }
    flags_set(c, X86_FL_ZF, equal ? X86_FL_ZF : 0);
    c->gpr[X86_RAX] = old[0];
    c->gpr[X86_RDX] = old[1];
}

// --- flags ------------------------------------------------------------------------------------------------------------------

void op_lahf(struct interp *x, const struct insn *in)
{
    (void)in;
    struct cpu *c = x->c;
    c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xff00ull) | (c->rflags & 0xff) << 8;
}

void op_sahf(struct interp *x, const struct insn *in)
{
    (void)in;
    flags_set(x->c, X86_FL_STATUS & 0xff, x->c->gpr[X86_RAX] >> 8);
}

void op_clc(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags &= ~(u64)X86_FL_CF;
}

void op_stc(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags |= X86_FL_CF;
}

void op_cmc(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags ^= X86_FL_CF;
}

void op_cld(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags &= ~(u64)X86_FL_DF;
}

void op_std(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags |= X86_FL_DF;
}

void op_salc(struct interp *x, const struct insn *in)
{
    (void)in;
    gpr_set(x->c, X86_RAX, 1, x->c->rflags & X86_FL_CF ? 0xff : 0);
}

// --- nothing, or nearly so ----------------------------------------------------------------------------------------------------

// A loop of these waits for another processor, whose thread may be waiting for this one's time.
#define PAUSES_TO_YIELD 64

void op_pause(struct interp *x, const struct insn *in)
{
    struct machine *m = x->v->machine;

    (void)in;
    if (++x->pauses % PAUSES_TO_YIELD == 0 && m->vcpu_count > 1 && m->host->ops->yield)
        m->host->ops->yield(m->host->self);
}

// NOP, prefetches, and the fences: each guest access is made in program order by the host's own instructions.
void op_nop(struct interp *x, const struct insn *in)
{
    (void)x;
    (void)in;
}

// Orders this processor's stores before its later loads, which the host has to do too.
void op_mfence(struct interp *x, const struct insn *in)
{
    (void)x;
    (void)in;
    __asm__ volatile("mfence" ::: "memory");
}

// CLFLUSH, CLFLUSHOPT, CLWB: subject to the checks of a byte load, caches being invisible otherwise.
void op_clflush(struct interp *x, const struct insn *in)
{
    u64 off = interp_ea(x, in);
    // Checked like a byte read, but for execute-only segments, which it may name (SDM 2A CLFLUSH).
    gva a = interp_linear(x, in->seg, off, 1, MMU_EXEC);
    if (UNLIKELY(x->debug_on))
        interp_check_watch(x, a, 1, false);
    interp_lin_load(x, a, 1, x->view);
}

void op_ud(struct interp *x, const struct insn *in)
{
    (void)in;
    interp_ud(x);
}

void op_bound(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 ea = interp_ea(x, in);
    i64 index = (i64)sign_extend(x->c->gpr[in->opnd[0].reg], size);
    i64 low = (i64)sign_extend(interp_load(x, in->seg, ea, size), size);
    i64 high = (i64)sign_extend(interp_load(x, in->seg, (ea + size) & size_mask(in->adsize), size), size);
    if (index < low || index > high)
        interp_raise(x, X86_EXC_BR);
}
