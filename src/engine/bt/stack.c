// PUSH (of segment registers, too), POP and LEAVE, with the stack pointer's natural size.
//
// RSP changes last, so that an access that leaves the block finds everything as it was before the instruction.
#include "engine/bt/translate.h"

bool stack_can(const struct tr *t, const struct insn *in)
{
    unsigned kind = in->opnd[0].kind;
    if (in->op == ISA_OP_PUSH && kind == ISA_OPND_SEG)
        return in->opsize == tr_natural(t);
    if (in->opsize != tr_natural(t) || isa_forms[in->form].cls > ISA_CLASS_MEM)
        return false;
    switch (in->op) {
    case ISA_OP_PUSH:
        return kind == ISA_OPND_GPR || kind == ISA_OPND_IMM || (kind == ISA_OPND_MEM && (t->wide || in->seg != X86_CS));
    case ISA_OP_POP: return kind == ISA_OPND_GPR;
    case ISA_OP_LEAVE: return true;
    default: return false;
    }
}

static void get_selector(struct tr *t, unsigned to, unsigned seg)
{
    const u64 at = offsetof(struct cpu, seg) + seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, sel);
    _Static_assert(offsetof(struct cpu, gpr) == 0, "ctx.gpr is the address of struct cpu");
    emit_load(&t->e, 8, to, &t->b->ctx->gpr);
    emit_rm(&t->e, 4, 0x1b7, to, to, (i32)at); // movzx
}

static void emit_push(struct tr *t)
{
    const struct insn *in = tr_in(t);
    const struct isa_operand *o = &in->opnd[0];
    struct emit *e = &t->e;
    unsigned size = tr_natural(t);
    if (o->kind == ISA_OPND_MEM) {
        mem_operand(t, size, false);
        emit_rm(e, size, 0x8b, HOST_T0, HOST_T0, 0);
        emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[0]);
    }
    unsigned from = HOST_T1;
    i32 disp = mem_stack(t, X86_RSP, -(i32)size, true);
    if (o->kind == ISA_OPND_MEM)
        emit_load(e, 8, from, &t->b->ctx->tmp[0]);
    else if (o->kind == ISA_OPND_SEG)
        get_selector(t, from, o->reg);
    else if (o->kind == ISA_OPND_GPR && host_reg(o->reg) < 0)
        emit_load(e, 8, from, context_reg(t, o->reg));
    else if (o->kind == ISA_OPND_GPR)
        from = (unsigned)host_reg(o->reg);
    if (o->kind == ISA_OPND_IMM) {
        emit_rm(e, size, 0xc7, 0, HOST_T0, disp);
        emit4(e, (u32)in->imm);
    } else {
        emit_rm(e, size, 0x89, from, HOST_T0, disp);
    }
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, -(i32)size);
}

static void emit_pop(struct tr *t)
{
    unsigned g = tr_in(t)->opnd[0].reg, size = tr_natural(t);
    struct emit *e = &t->e;
    i32 disp = mem_stack(t, X86_RSP, 0, false);
    unsigned to = host_reg(g) < 0 ? HOST_T1 : (unsigned)host_reg(g);
    emit_rm(e, size, 0x8b, to, HOST_T0, disp);
    if (host_reg(g) < 0)
        emit_store(e, 8, to, context_reg(t, g));
    if (g != X86_RSP)
        emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, (i32)size);
}

bool tr_stack(struct tr *t)
{
    unsigned size = tr_natural(t);
    i32 disp;
    switch (tr_in(t)->op) {
    case ISA_OP_PUSH: emit_push(t); return true;
    case ISA_OP_POP: emit_pop(t); return true;
    case ISA_OP_LEAVE:
        disp = mem_stack(t, X86_RBP, 0, false);
        emit_lea(&t->e, size, HOST_SP, X86_RBP, X86_RSP, 0, (i32)size);
        emit_rm(&t->e, size, 0x8b, X86_RBP, HOST_T0, disp);
        return true;
    default: return false;
    }
}
