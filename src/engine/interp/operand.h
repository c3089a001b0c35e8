// The common operand kinds inline, for the integer handlers: most operands are registers and immediates, and then a call into
// access.c costs more than the operation.
#ifndef POGO_ENGINE_INTERP_OPERAND_H
#define POGO_ENGINE_INTERP_OPERAND_H

#include "engine/interp/interp.h"

// Value of operand i. Immediates come sign-extended as decoded and registers whole: what uses it must ignore the bits above
// the operand's size.
static inline u64 operand_raw(struct interp *x, const struct insn *in, unsigned i)
{
    const struct isa_operand *o = &in->opnd[i];
    if (o->kind == ISA_OPND_GPR)
        return x->c->gpr[o->reg];
    if (o->kind == ISA_OPND_IMM)
        return (u64)in->imm;
    return opnd_get(x, in, i);
}

// Value of operand i, zero-extended from its size.
static inline u64 operand(struct interp *x, const struct insn *in, unsigned i)
{
    const struct isa_operand *o = &in->opnd[i];
    if (o->kind == ISA_OPND_GPR)
        return gpr_get(x->c, o->reg, o->size);
    return opnd_get(x, in, i);
}

static inline void operand_set(struct interp *x, const struct insn *in, unsigned i, u64 val)
{
    const struct isa_operand *o = &in->opnd[i];
    if (o->kind == ISA_OPND_GPR)
        gpr_set(x->c, o->reg, o->size, val);
    else
        opnd_set(x, in, i, val);
}

static inline bool operand_is_gpr(const struct insn *in, unsigned i)
{
    return in->opnd[i].kind == ISA_OPND_GPR;
}

#endif
