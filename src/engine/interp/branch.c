// Near control transfers. The target is checked before anything changes: #GP(0) belongs to the branch, not to the fetch.
#include "engine/interp/operand.h"
#include "isa/alu.h"

// Truncates to the operand size; false when the target lies outside the code segment or is not canonical.
static bool near_target(const struct interp *x, u64 *target, unsigned opsize)
{
    u64 t = *target & size_mask(opsize);
    *target = t;
    return x->mode == ISA_MODE_64 ? gva_canonical(t) : t <= x->c->seg[X86_CS].limit;
}

void interp_jump(struct interp *x, u64 target, unsigned opsize)
{
    if (UNLIKELY(!near_target(x, &target, opsize)))
        interp_gp0(x);
    x->next_rip = target;
}

static u64 branch_operand(struct interp *x, const struct insn *in)
{
    if (in->opnd[0].kind == ISA_OPND_REL)
        return x->next_rip + (u64)in->imm;
    return operand(x, in, 0);
}

void op_jmp(struct interp *x, const struct insn *in)
{
    interp_jump(x, branch_operand(x, in), in->opsize);
}

// A stack that cannot be written wins over a bad target, but a bad target leaves the stack unwritten.
void op_call(struct interp *x, const struct insn *in)
{
    u64 target = branch_operand(x, in), ret = x->next_rip;
    if (UNLIKELY(!near_target(x, &target, in->opsize))) {
        u64 sp = (x->c->gpr[X86_RSP] - in->opsize) & size_mask(interp_stack_size(x));
        interp_probe_store(x, X86_SS, sp, in->opsize);
        interp_gp0(x);
    }
    interp_push(x, in->opsize, ret);
    x->next_rip = target;
}

void op_ret(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    interp_jump(x, interp_pop(x, in->opsize), in->opsize);
    if (in->nopnd)
        gpr_set(c, X86_RSP, interp_stack_size(x), c->gpr[X86_RSP] + (u16)in->imm);
}

void op_jcc(struct interp *x, const struct insn *in)
{
    if (alu_cond(in->opcode, x->c->rflags))
        interp_jump(x, x->next_rip + (u64)in->imm, in->opsize);
}

// The counter has the address size and stays when the jump faults.
static void loop_if(struct interp *x, const struct insn *in, bool cond)
{
    u64 count = (x->c->gpr[X86_RCX] - 1) & size_mask(in->adsize);
    if (count && cond)
        interp_jump(x, x->next_rip + (u64)in->imm, in->opsize);
    gpr_set(x->c, X86_RCX, in->adsize, count);
}

void op_loop(struct interp *x, const struct insn *in)
{
    loop_if(x, in, true);
}

// On AMD processors a repeat prefix decides instead of the opcode: F3 makes either LOOPE, F2 makes it LOOPNE.
static void loop_zf(struct interp *x, const struct insn *in, bool wanted)
{
    if ((x->isa_options & ISA_OPT_AMD) && (in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE)))
        wanted = in->prefix & ISA_PFX_REP;
    bool zf = x->c->rflags & X86_FL_ZF;
    loop_if(x, in, zf == wanted);
}

void op_loope(struct interp *x, const struct insn *in)
{
    loop_zf(x, in, true);
}

void op_loopne(struct interp *x, const struct insn *in)
{
    loop_zf(x, in, false);
}

void op_jcxz(struct interp *x, const struct insn *in)
{
    if (gpr_get(x->c, X86_RCX, in->adsize) == 0)
        interp_jump(x, x->next_rip + (u64)in->imm, in->opsize);
}
