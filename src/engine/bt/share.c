// Accesses that share a probe.
//
// Code reaches for several fields of a structure, or pushes several registers, off one address. Such accesses form a *group*: the first, its
// leader, probes for the whole range that they cover, and keeps where that is in the host (ctx.place). The others take it from there: no
// probe, no flags, no way out.
//
// Registers are followed through the block as *values*: an unknown quantity and a constant. Two accesses belong together when base and
// index are the same quantities; how far they are apart is then known. A group lasts until something may have changed what pages are
// mapped to. That a place stays right while a block runs follows from what the guest may expect of its processor's TLB; whatever takes a
// page's permission away (pages that get code, page tables that are given up) is done when blocks have been left.
//
// A write can join reads when nothing between the leader and it leaves the straight path, or on the stack, which is written to sooner or
// later: the leader then probes as for a write, though it never makes a page dirty before its time.
//
// The range has to lie in one page of plain memory, which the leader's probe checks as it checks a single access. Where it does not, the
// others have no place: the code goes on, from the leader's instruction, in a block without groups (BLOCK_ALONE). A block on which that
// happens again and again is translated anew without groups itself (service.c).
#include "engine/bt/translate.h"

#define RANGE 256       // bytes that a group may cover
#define REACH (1 << 28) // how far the constants of values may go

// What a register holds.
struct value {
    u16 quantity; // 0: there is no register
    i32 plus;
};

struct group {
    bool write;
    u8 leader, leader_access; // which instruction
    u8 scale, members;
    bool addend;
    u8 branches; // groups.branches then
    u16 base, index;
    i32 lo, hi; // relative to the quantities
};

struct groups {
    struct value reg[X86_GPR_COUNT];
    unsigned quantities, slots, branches;
    u16 stack;             // the quantity of RSP at the block's start
    unsigned first, count; // those before the first are over
    struct group group[BT_INSNS * ACCESSES];
};

// An access: at base + index << scale + at.
struct reach {
    u16 base, index;
    u8 scale;
    bool write;
    bool addend; // it can do with an addend
    i32 at;
    unsigned size;
};

static struct tr_access *leader_of(struct tr *t, const struct group *g)
{
    return &t->insn[g->leader].access[g->leader_access];
}

static void changed(struct groups *s, unsigned reg)
{
    s->reg[reg] = (struct value){.quantity = (u16)++s->quantities};
}

static void is_value(struct groups *s, unsigned reg, struct value v, i64 plus)
{
    plus += v.plus;
    if (plus < -REACH || plus > REACH)
        changed(s, reg);
    else
        s->reg[reg] = (struct value){.quantity = v.quantity, .plus = (i32)plus};
}

static bool joins(const struct groups *s, const struct group *g, const struct reach *r)
{
    if (g->base != r->base || g->index != r->index || g->scale != r->scale)
        return false;
    i32 lo = r->at < g->lo ? r->at : g->lo, hi = r->at + (i32)r->size > g->hi ? r->at + (i32)r->size : g->hi;
    if (hi - lo > RANGE)
        return false;
    return !r->write || g->write || g->branches == s->branches || (g->base == s->stack && !g->index);
}

static void join(struct tr *t, struct groups *s, struct group *g, unsigned n, const struct reach *r)
{
    struct tr_access *l = leader_of(t, g), *a = &t->insn[t->i].access[n];
    if (!g->members && s->slots == BT_PLACES)
        return; // no more room: a probe of its own
    if (!g->members)
        l->slot = (u8)s->slots++;
    g->members++;
    g->lo = r->at < g->lo ? r->at : g->lo;
    g->hi = r->at + (i32)r->size > g->hi ? r->at + (i32)r->size : g->hi;
    l->role = ACCESS_LEADER;
    l->lo = g->lo;
    l->size = (u16)(g->hi - g->lo);
    l->addend = g->addend &= r->addend;
    l->upgraded |= r->write && !g->write;
    g->write |= r->write;
    a->role = ACCESS_MEMBER;
    a->slot = l->slot;
    a->at = r->at;
}

// Access number `n` of the current instruction.
static void add(struct tr *t, struct groups *s, unsigned n, const struct reach *r)
{
    if (!r->size || r->size > RANGE)
        return;
    for (unsigned i = s->count; i-- > s->first;) {
        if (joins(s, &s->group[i], r) && (t->upgrade || !r->write || s->group[i].write)) {
            join(t, s, &s->group[i], n, r);
            return;
        }
    }
    t->insn[t->i].access[n].at = r->at;
    s->group[s->count++] = (struct group){.write = r->write,
                                          .addend = r->addend,
                                          .leader = (u8)t->i,
                                          .leader_access = (u8)n,
                                          .branches = (u8)s->branches,
                                          .scale = r->scale,
                                          .base = r->base,
                                          .index = r->index,
                                          .lo = r->at,
                                          .hi = r->at + (i32)r->size};
}

// Can the address in operand `in` be followed?
static bool followed(const struct tr *t, const struct insn *in)
{
    if (in->adsize != tr_natural(t) || in->seg >= X86_FS || in->base >= X86_GPR_COUNT)
        return false;
    return in->index == ISA_REG_NONE || (host_reg(in->base) >= 0 && host_reg(in->index) >= 0);
}

static void operand(struct tr *t, struct groups *s, const struct insn *in, unsigned mem)
{
    struct value b = s->reg[in->base], x = {0};
    unsigned scale = 0;
    if (in->index != ISA_REG_NONE) {
        x = s->reg[in->index];
        scale = in->scale;
    }
    i64 at = in->disp + b.plus + (i64)x.plus * (1 << scale);
    // The leader's displacement may become less by up to RANGE, and has to fit still.
    if (at < -REACH || at > REACH || in->disp < -REACH)
        return;
    add(t, s, ACCESS_OPERAND,
        &(struct reach){.base = b.quantity,
                        .index = x.quantity,
                        .scale = (u8)scale,
                        .write = isa_forms[in->form].access[mem] & ISA_ACC_W,
                        .addend = mem_has_base(t, in),
                        .at = (i32)at,
                        .size = in->opnd[mem].size});
}

// A register is written by the instruction: with something that is known?
static void written(const struct tr *t, struct groups *s, const struct insn *in, unsigned i)
{
    const struct isa_operand *o = in->opnd;
    unsigned size = tr_natural(t);
    bool whole = i == 0 && o[0].size == size && o[0].kind == ISA_OPND_GPR;
    bool constant = whole && in->nopnd == 2 && o[1].kind == ISA_OPND_IMM;
    if (constant && in->op == ISA_OP_ADD)
        is_value(s, o[0].reg, s->reg[o[0].reg], in->imm);
    else if (constant && in->op == ISA_OP_SUB)
        is_value(s, o[0].reg, s->reg[o[0].reg], -in->imm);
    else if (whole && in->op == ISA_OP_LEA && in->adsize == size && in->base < X86_GPR_COUNT &&
             in->index == ISA_REG_NONE)
        is_value(s, o[0].reg, s->reg[in->base], in->disp);
    else if (whole && in->op == ISA_OP_MOV && o[1].kind == ISA_OPND_GPR)
        is_value(s, o[0].reg, s->reg[o[1].reg], 0);
    else if (whole && in->nopnd == 1 && (in->op == ISA_OP_INC || in->op == ISA_OP_DEC))
        is_value(s, o[0].reg, s->reg[o[0].reg], in->op == ISA_OP_INC ? 1 : -1);
    else
        changed(s, o[i].reg);
}

static void follow_registers(const struct tr *t, struct groups *s, const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    for (unsigned g = 0; g < X86_GPR_COUNT; g++) {
        if (f->implicit_written & ISA_IMPLICIT_GPR(g) && g != X86_RSP)
            changed(s, g);
    }
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (f->access[i] & ISA_ACC_W && (in->opnd[i].kind == ISA_OPND_GPR || in->opnd[i].kind == ISA_OPND_GPR8H))
            written(t, s, in, i);
    }
}

static void stack_access(struct tr *t, struct groups *s, const struct insn *in)
{
    i32 size = (i32)tr_natural(t);
    struct value sp = s->reg[X86_RSP];
    struct reach r = {.base = sp.quantity, .at = sp.plus, .size = (unsigned)size};
    switch (in->op) {
    case ISA_OP_PUSH:
    case ISA_OP_CALL:
        r.at -= size;
        r.write = true;
        add(t, s, ACCESS_STACK, &r);
        is_value(s, X86_RSP, sp, -size);
        break;
    case ISA_OP_POP:
    case ISA_OP_RET:
        add(t, s, ACCESS_STACK, &r);
        is_value(s, X86_RSP, sp, size);
        break;
    default: changed(s, X86_RSP); break;
    }
}

void share_probes(struct tr *t)
{
    struct groups s;
    s.quantities = s.slots = s.branches = s.first = s.count = 0;
    for (unsigned g = 0; g < X86_GPR_COUNT; g++)
        changed(&s, g);
    s.stack = s.reg[X86_RSP].quantity;
    for (t->i = 0; t->i < t->n; t->i++) {
        const struct tr_insn *x = tr_now(t);
        const struct insn *in = &x->in;
        const struct isa_form_info *f = &isa_forms[in->form];
        int mem = isa_memory_operand(in);
        if (x->step || f->cls > ISA_CLASS_BRANCH) {
            for (unsigned g = 0; g < X86_GPR_COUNT; g++)
                changed(&s, g);
            s.stack = s.reg[X86_RSP].quantity;
            s.first = s.count;
            s.slots = 0;
            continue;
        }
        if (x->shares && mem >= 0 && followed(t, in))
            operand(t, &s, in, (unsigned)mem);
        if ((f->implicit_read | f->implicit_written) & ISA_IMPLICIT_STACK)
            stack_access(t, &s, in);
        follow_registers(t, &s, in);
        s.branches += f->cls == ISA_CLASS_BRANCH && !x->follows;
    }
}
