// PUSH, POP and their relatives, and the instructions that move or change the privileged flags: PUSHF, POPF, CLI, STI.
//
// RSP may move before an access that can fault: the run loop puts it back. Whatever else an instruction changes waits until
// nothing can fault any more, but for what shows on processors too when a fault comes half-way: words that PUSHA and ENTER have
// pushed, registers that POPA has popped.
#include "engine/interp/operand.h"

static u64 stack_mask(const struct interp *x)
{
    return size_mask(interp_stack_size(x));
}

// --- push and pop -----------------------------------------------------------------------------------------------------------

// Selectors are pushed zero-extended to the operand size, as AMD processors do; Intel's write 16 bits only.
void op_push(struct interp *x, const struct insn *in)
{
    interp_push(x, in->opsize, operand_raw(x, in, 0));
}

// A memory destination is addressed with RSP already incremented. SDM 2B "POP".
void op_pop(struct interp *x, const struct insn *in)
{
    const struct isa_operand *o = &in->opnd[0];
    u64 v = interp_pop(x, in->opsize);
    if (o->kind == ISA_OPND_SEG) {
        interp_load_seg(x, o->reg, (u16)v);
        if (o->reg == X86_SS)
            x->shadow_next = CPU_SHADOW_MOVSS;
        return;
    }
    operand_set(x, in, 0, v);
}

void op_pusha(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 old = c->gpr[X86_RSP];
    for (unsigned r = X86_RAX; r <= X86_RDI; r++)
        interp_push(x, in->opsize, r == X86_RSP ? old : c->gpr[r]);
}

// A fault on the way leaves the registers popped so far changed, as on AMD processors; RSP goes back.
void op_popa(struct interp *x, const struct insn *in)
{
    for (unsigned r = 8; r-- > 0;) {
        u64 v = interp_pop(x, in->opsize);
        if (r != X86_RSP)
            gpr_set(x->c, r, in->opsize, v);
    }
}

// The frame pointers of the enclosing procedures are copied one by one, each seeing what the earlier pushes wrote. The last
// check is of a store at the new top of stack.
void op_enter(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = in->opsize, level = in->imm2 & 31;
    u64 rbp = c->gpr[X86_RBP], mask = stack_mask(x);
    interp_push(x, size, rbp);
    u64 frame = c->gpr[X86_RSP];
    for (unsigned i = 1; i < level; i++)
        interp_push(x, size, interp_load(x, X86_SS, (rbp - i * size) & mask, size));
    if (level)
        interp_push(x, size, frame);
    u64 rsp = (c->gpr[X86_RSP] - (u16)in->imm) & mask;
    interp_probe_store(x, X86_SS, rsp, size);
    gpr_set(c, X86_RSP, interp_stack_size(x), rsp);
    gpr_set(c, X86_RBP, size, frame);
}

void op_leave(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    gpr_set(c, X86_RSP, interp_stack_size(x), c->gpr[X86_RBP]);
    u64 v = interp_pop(x, in->opsize);
    gpr_set(c, X86_RBP, in->opsize, v);
}

// --- flags ------------------------------------------------------------------------------------------------------------------

// v8086 mode with IOPL below 3, where flag instructions are the monitor's business. True if the VME extensions handle this
// one: 16-bit operand size and CR4.VME. SDM 3B 21.2 (VME), 21.3.
static bool v8086_restricted(const struct interp *x)
{
    return cpu_v8086(x->c) && cpu_iopl(x->c) < 3;
}

static void require_vme(struct interp *x, const struct insn *in)
{
    if (!(x->c->cr4 & X86_CR4_VME) || in->opsize != 2)
        interp_gp0(x);
}

void op_pushf(struct interp *x, const struct insn *in)
{
    u64 fl = x->c->rflags & ~(u64)(X86_FL_VM | X86_FL_RF);
    if (UNLIKELY(v8086_restricted(x))) {
        require_vme(x, in);
        fl = (fl & ~(u64)X86_FL_IF) | X86_FL_IOPL | (fl & X86_FL_VIF ? X86_FL_IF : 0);
    }
    interp_push(x, in->opsize, fl);
}

// What POPF may change: never VM, VIF, VIP and RF (which it clears); IOPL at CPL 0; IF where IOPL allows.
static u64 popf_mask(const struct interp *x, unsigned size)
{
    const struct cpu *c = x->c;
    u64 mask = X86_FL_ALL & ~(u64)(X86_FL_VM | X86_FL_VIF | X86_FL_VIP | X86_FL_RF | X86_FL_IOPL | X86_FL_IF);
    if (c->cpl == 0)
        mask |= X86_FL_IOPL;
    if (c->cpl <= cpu_iopl(c))
        mask |= X86_FL_IF;
    return size == 2 ? mask & 0xffff : mask;
}

// POPF of a v8086 task under VME: IF goes to VIF. SDM 3B 21.3.2.
static void popf_vme(struct interp *x, u64 fl)
{
    struct cpu *c = x->c;
    if ((fl & X86_FL_TF) || ((fl & X86_FL_IF) && (c->rflags & X86_FL_VIP)))
        interp_gp0(x);
    flags_set(c, popf_mask(x, 2), fl);
    flags_set(c, X86_FL_VIF | X86_FL_RF, fl & X86_FL_IF ? X86_FL_VIF : 0);
}

void op_popf(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    bool restricted = v8086_restricted(x);
    if (UNLIKELY(restricted))
        require_vme(x, in);
    u64 fl = interp_pop(x, in->opsize), old = c->rflags;
    if (UNLIKELY(restricted)) {
        popf_vme(x, fl);
        return;
    }
    flags_set(c, popf_mask(x, in->opsize) | X86_FL_RF, fl & ~(u64)X86_FL_RF);
    if ((old ^ c->rflags) & X86_FL_AC)
        interp_mode_changed(x);
}

// Which flag CLI and STI act on: IF, or VIF where a v8086 task (VME) or a CPL 3 program (PVI) may not touch IF. SDM 3B 21.4.
static u64 interrupt_flag(struct interp *x)
{
    const struct cpu *c = x->c;
    if (c->cpl <= cpu_iopl(c))
        return X86_FL_IF;
    u64 ext = cpu_v8086(c) ? X86_CR4_VME : X86_CR4_PVI;
    if (c->cpl == 3 && (c->cr4 & ext))
        return X86_FL_VIF;
    interp_gp0(x);
}

void op_cli(struct interp *x, const struct insn *in)
{
    (void)in;
    x->c->rflags &= ~interrupt_flag(x);
}

// Interrupts stay off for one more instruction when IF was clear.
void op_sti(struct interp *x, const struct insn *in)
{
    (void)in;
    struct cpu *c = x->c;
    u64 flag = interrupt_flag(x);
    if (flag == X86_FL_VIF && (c->rflags & X86_FL_VIP))
        interp_gp0(x);
    if (flag == X86_FL_IF && !(c->rflags & X86_FL_IF))
        x->shadow_next = CPU_SHADOW_STI;
    c->rflags |= flag;
}
