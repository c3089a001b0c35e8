// Shifts and rotates, bit tests and bit scans.
//
// Shifts of memory store, and fault as stores, even when the count is zero; a 32-bit register is written (its upper half
// cleared) then too.
#include "engine/interp/operand.h"
#include "isa/alu.h"

#define SHIFT(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        unsigned size = in->opnd[0].size; \
        u8 count = (u8)operand_raw(x, in, 1); \
        if (LIKELY(operand_is_gpr(in, 0))) { \
            unsigned reg = in->opnd[0].reg; \
            gpr_set(x->c, reg, size, alu_##name(size, x->c->gpr[reg], count, &x->c->rflags)); \
            return; \
        } \
        struct rmw m; \
        rmw_begin(x, in, 0, &m); \
        rmw_end(x, &m, alu_##name(size, m.old, count, &x->c->rflags)); \
    }

SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
#undef SHIFT

#define DOUBLE_SHIFT(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        unsigned size = in->opnd[0].size; \
        u8 count = (u8)operand_raw(x, in, 2); \
        u64 b = x->c->gpr[in->opnd[1].reg]; \
        struct rmw m; \
        rmw_begin(x, in, 0, &m); \
        rmw_end(x, &m, alu_##name(size, m.old, b, count, &x->c->rflags)); \
    }

DOUBLE_SHIFT(shld)
DOUBLE_SHIFT(shrd)
#undef DOUBLE_SHIFT

// --- bit tests --------------------------------------------------------------------------------------------------------------

// Memory with a bit number in a register is a bit string: the number is signed and reaches beyond the operand, in steps of
// the operand's size. SDM 2A "BT". An immediate only counts modulo the operand's width.
static u64 bit_offset(struct interp *x, const struct insn *in, u64 bit)
{
    unsigned size = in->opnd[0].size;
    u64 ea = interp_ea(x, in);
    if (in->opnd[1].kind != ISA_OPND_GPR)
        return ea;
    unsigned log2_size = (unsigned)__builtin_ctz(size);
    i64 element = (i64)sign_extend(bit, size) >> (log2_size + 3);
    return (ea + (u64)element * size) & size_mask(in->adsize);
}

void op_bt(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 bit = operand_raw(x, in, 1), a;
    if (operand_is_gpr(in, 0))
        a = x->c->gpr[in->opnd[0].reg];
    else
        a = interp_load(x, in->seg, bit_offset(x, in, bit), size);
    alu_bt(size, a, bit, &x->c->rflags);
}

#define BIT_CHANGE(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        unsigned size = in->opnd[0].size; \
        u64 bit = operand_raw(x, in, 1); \
        if (operand_is_gpr(in, 0)) { \
            unsigned reg = in->opnd[0].reg; \
            gpr_set(x->c, reg, size, alu_##name(size, x->c->gpr[reg], bit, &x->c->rflags)); \
            return; \
        } \
        struct rmw m = {.size = (u8)size, .locked = in->prefix & ISA_PFX_LOCK}; \
        u64 fl, r; \
        rmw_begin_at(x, in->seg, bit_offset(x, in, bit), &m); \
        do { \
            fl = x->c->rflags; \
            r = alu_##name(size, m.old, bit, &fl); \
        } while (!rmw_end(x, &m, r)); \
        x->c->rflags = fl; \
    }

BIT_CHANGE(bts)
BIT_CHANGE(btr)
BIT_CHANGE(btc)
#undef BIT_CHANGE

// --- bit scans --------------------------------------------------------------------------------------------------------------

// The host decides about the whole destination register: a source of zero leaves all of it alone, where a write of a 32-bit
// register would clear the upper half.
void op_bsf(struct interp *x, const struct insn *in)
{
    u64 *dst = &x->c->gpr[in->opnd[0].reg];
    u64 src = operand_raw(x, in, 1);
    *dst = alu_bsf(in->opnd[0].size, *dst, src, &x->c->rflags);
}

void op_bsr(struct interp *x, const struct insn *in)
{
    u64 *dst = &x->c->gpr[in->opnd[0].reg];
    u64 src = operand_raw(x, in, 1);
    *dst = alu_bsr(in->opnd[0].size, *dst, src, &x->c->rflags);
}
