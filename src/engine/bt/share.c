// Accesses that share a probe.
//
// Code reaches for several fields of a structure, or pushes several registers, off one base register. Such accesses form a *group*: the
// first, its leader, probes for the whole range that they cover, and keeps the distance from guest to host addresses in that page
// (ctx.delta). The others add it to their address: no probe, no flags, no way out.
//
// A group ends when its base register is changed other than by a constant, or when something may have changed what pages are mapped to. That
// a distance stays right while a block runs follows from what the guest may expect of its processor's TLB; whatever takes a page's
// permission away (pages that get code, page tables that are given up) is done when blocks have been left.
//
// The range has to lie in one page, which the leader's probe checks as it checks a single access; and where the page is not plain memory the
// leader's instruction goes to the interpreter and the block is left, because the others have no distance. A block on which that
// happens again and again is translated anew without groups (service.c).
#include "engine/bt/translate.h"

#define RANGE 256 // bytes that a group may cover

struct group {
    bool write;
    u8 leader, leader_access; // which instruction
    u8 index, scale;
    u8 members;
    i32 lo, hi; // relative to the base register's value at the leader
};

// What a register points into: its value is that of the group's base register at the leader plus `adjust`.
struct pointer {
    bool valid;
    u8 group;
    i32 adjust;
};

struct groups {
    struct group group[BT_INSNS * ACCESSES];
    struct pointer reg[X86_GPR_COUNT];
    unsigned count, slots;
};

static struct tr_access *leader_of(struct tr *t, const struct group *g)
{
    return &t->insn[g->leader].access[g->leader_access];
}

static void forget_all(struct groups *s)
{
    for (unsigned g = 0; g < X86_GPR_COUNT; g++)
        s->reg[g].valid = false;
}

// Groups with this index register are over.
static void index_changed(struct groups *s, unsigned reg)
{
    for (unsigned g = 0; g < X86_GPR_COUNT; g++) {
        if (s->reg[g].valid && s->group[s->reg[g].group].index == reg)
            s->reg[g].valid = false;
    }
}

static void changed(struct groups *s, unsigned reg)
{
    s->reg[reg].valid = false;
    index_changed(s, reg);
}

static void moved(struct groups *s, unsigned reg, i64 by)
{
    struct pointer *p = &s->reg[reg];
    index_changed(s, reg);
    if (p->valid && s->group[p->group].index == ISA_REG_NONE && by > -RANGE && by < RANGE && p->adjust > -RANGE &&
        p->adjust < RANGE)
        p->adjust += (i32)by;
    else
        p->valid = false;
}

static void copied(struct groups *s, unsigned to, unsigned from)
{
    struct pointer p = s->reg[from];
    changed(s, to);
    if (p.valid && s->group[p.group].index == ISA_REG_NONE)
        s->reg[to] = p;
}

static bool joins(const struct group *g, i32 at, unsigned size, bool write, unsigned index, unsigned scale)
{
    i32 lo = at < g->lo ? at : g->lo, hi = at + (i32)size > g->hi ? at + (i32)size : g->hi;
    return g->index == index && g->scale == scale && (!write || g->write) && hi - lo <= RANGE;
}

static void join(struct tr *t, struct groups *s, struct group *g, struct tr_access *a, i32 at, unsigned size)
{
    struct tr_access *l = leader_of(t, g);
    if (!g->members && s->slots == BT_DELTAS)
        return; // no more room: a probe of its own
    if (!g->members)
        l->slot = (u8)s->slots++;
    l->role = ACCESS_LEADER;
    g->members++;
    g->lo = at < g->lo ? at : g->lo;
    g->hi = at + (i32)size > g->hi ? at + (i32)size : g->hi;
    l->lo = g->lo;
    l->size = (u16)(g->hi - g->lo);
    a->role = ACCESS_MEMBER;
    a->slot = l->slot;
}

// An access of `size` bytes, number `n` of its instruction, at [reg + index << scale + disp].
static void add(struct tr *t, struct groups *s, unsigned n, unsigned reg, unsigned index, unsigned scale, i64 disp,
                unsigned size, bool write)
{
    struct pointer *p = &s->reg[reg];
    if (disp < -(1 << 30) || disp > 1 << 30 || !size || size > RANGE) {
        p->valid = false;
        return;
    }
    if (p->valid && joins(&s->group[p->group], (i32)disp + p->adjust, size, write, index, scale)) {
        join(t, s, &s->group[p->group], &t->insn[t->i].access[n], (i32)disp + p->adjust, size);
        return;
    }
    s->group[s->count] = (struct group){.write = write,
                                        .leader = (u8)t->i,
                                        .leader_access = (u8)n,
                                        .index = (u8)index,
                                        .scale = (u8)scale,
                                        .lo = (i32)disp,
                                        .hi = (i32)disp + (i32)size};
    *p = (struct pointer){.valid = true, .group = (u8)s->count++};
}

static bool groupable(const struct tr *t, const struct insn *in)
{
    if (in->adsize != (t->wide ? 8 : 4) || in->seg >= X86_FS || in->base >= X86_GPR_COUNT)
        return false;
    return in->index == ISA_REG_NONE || (host_reg(in->base) >= 0 && host_reg(in->index) >= 0);
}

// What the instruction does to the registers that groups are about.
static void follow_registers(const struct tr *t, struct groups *s, const struct tr_insn *x)
{
    const struct insn *in = &x->in;
    const struct isa_form_info *f = &isa_forms[in->form];
    const struct isa_operand *o = in->opnd;
    unsigned size = tr_natural(t);
    for (unsigned g = 0; g < X86_GPR_COUNT; g++) {
        if (f->implicit_written & ISA_IMPLICIT_GPR(g) && g != X86_RSP)
            changed(s, g);
    }
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (!(f->access[i] & ISA_ACC_W) || (o[i].kind != ISA_OPND_GPR && o[i].kind != ISA_OPND_GPR8H))
            continue;
        bool constant = i == 0 && o[0].size == size && in->nopnd == 2 && o[1].kind == ISA_OPND_IMM;
        if (constant && in->op == ISA_OP_ADD)
            moved(s, o[0].reg, in->imm);
        else if (constant && in->op == ISA_OP_SUB)
            moved(s, o[0].reg, -in->imm);
        else if (in->op == ISA_OP_LEA && in->opsize == size && in->adsize == size && in->base == o[0].reg &&
                 in->index == ISA_REG_NONE)
            moved(s, o[0].reg, in->disp);
        else if (in->op == ISA_OP_MOV && i == 0 && o[0].size == size && o[1].kind == ISA_OPND_GPR)
            copied(s, o[0].reg, o[1].reg);
        else if (i == 0 && in->nopnd == 1 && o[0].size == size && (in->op == ISA_OP_INC || in->op == ISA_OP_DEC))
            moved(s, o[0].reg, in->op == ISA_OP_INC ? 1 : -1);
        else
            changed(s, o[i].reg);
    }
}

static void stack_access(struct tr *t, struct groups *s, const struct insn *in)
{
    unsigned size = tr_natural(t);
    switch (in->op) {
    case ISA_OP_PUSH:
    case ISA_OP_CALL:
        add(t, s, ACCESS_STACK, X86_RSP, ISA_REG_NONE, 0, -(i64)size, size, true);
        moved(s, X86_RSP, -(i64)size);
        break;
    case ISA_OP_POP:
    case ISA_OP_RET:
        add(t, s, ACCESS_STACK, X86_RSP, ISA_REG_NONE, 0, 0, size, false);
        moved(s, X86_RSP, size);
        break;
    default: changed(s, X86_RSP); break;
    }
}

void share_probes(struct tr *t)
{
    struct groups s = {.slots = 0};
    for (t->i = 0; t->i < t->n; t->i++) {
        const struct tr_insn *x = tr_now(t);
        const struct insn *in = &x->in;
        const struct isa_form_info *f = &isa_forms[in->form];
        int mem = isa_memory_operand(in);
        if (x->step || f->cls > ISA_CLASS_BRANCH) {
            forget_all(&s);
            continue;
        }
        if (x->shares && mem >= 0 && groupable(t, in))
            add(t, &s, ACCESS_OPERAND, in->base, in->index, in->index == ISA_REG_NONE ? 0 : in->scale, in->disp,
                in->opnd[mem].size, f->access[mem] & ISA_ACC_W);
        if ((f->implicit_read | f->implicit_written) & ISA_IMPLICIT_STACK)
            stack_access(t, &s, in);
        follow_registers(t, &s, x);
    }
}
