// Arithmetic and logic on general registers and memory, decimal adjustment, multiplication and division. The operations are
// the host's (isa/alu.h); what is left to do here is where operands come from and in which order things may fault.
//
// A memory destination goes through rmw_begin(), which faults as a write does before anything changes, and rmw_end(), which
// asks for another round when a LOCKed store lost to another processor: flags are computed into a copy meanwhile.
#include "isa/alu.h"
#include "engine/interp/operand.h"

#define BINARY(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        unsigned size = in->opnd[0].size; \
        u64 b = operand_raw(x, in, 1); \
        if (LIKELY(operand_is_gpr(in, 0))) { \
            unsigned reg = in->opnd[0].reg; \
            gpr_set(x->c, reg, size, alu_##name(size, x->c->gpr[reg], b, &x->c->rflags)); \
            return; \
        } \
        struct rmw m; \
        u64 fl, r; \
        rmw_begin(x, in, 0, &m); \
        do { \
            fl = x->c->rflags; \
            r = alu_##name(size, m.old, b, &fl); \
        } while (!rmw_end(x, &m, r)); \
        x->c->rflags = fl; \
    }

BINARY(add)
BINARY(or)
BINARY(adc)
BINARY(sbb)
BINARY(and)
BINARY(sub)
BINARY(xor)
#undef BINARY

void op_cmp(struct interp *x, const struct insn *in)
{
    u64 a = operand_raw(x, in, 0);
    alu_sub(in->opnd[0].size, a, operand_raw(x, in, 1), &x->c->rflags);
}

void op_test(struct interp *x, const struct insn *in)
{
    u64 a = operand_raw(x, in, 0);
    alu_and(in->opnd[0].size, a, operand_raw(x, in, 1), &x->c->rflags);
}

#define UNARY(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        unsigned size = in->opnd[0].size; \
        if (LIKELY(operand_is_gpr(in, 0))) { \
            unsigned reg = in->opnd[0].reg; \
            gpr_set(x->c, reg, size, alu_##name(size, x->c->gpr[reg], &x->c->rflags)); \
            return; \
        } \
        struct rmw m; \
        u64 fl, r; \
        rmw_begin(x, in, 0, &m); \
        do { \
            fl = x->c->rflags; \
            r = alu_##name(size, m.old, &fl); \
        } while (!rmw_end(x, &m, r)); \
        x->c->rflags = fl; \
    }

UNARY(inc)
UNARY(dec)
UNARY(neg)
#undef UNARY

void op_not(struct interp *x, const struct insn *in)
{
    struct rmw m;
    rmw_begin(x, in, 0, &m);
    while (!rmw_end(x, &m, ~m.old))
        ;
}

// --- multiplication and division ------------------------------------------------------------------------------------------

// The double-width accumulator: AX for bytes, else rDX:rAX.
static void set_wide(struct cpu *c, unsigned size, u64 lo, u64 hi)
{
    if (size == 1) {
        gpr_set(c, X86_RAX, 2, hi << 8 | lo);
        return;
    }
    gpr_set(c, X86_RAX, size, lo);
    gpr_set(c, X86_RDX, size, hi);
}

void op_mul(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = in->opnd[0].size;
    u64 hi, b = operand_raw(x, in, 0);
    u64 lo = alu_mul(size, c->gpr[X86_RAX], b, &hi, &c->rflags);
    set_wide(c, size, lo, hi);
}

void op_imul(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned size = in->opnd[0].size;
    u64 hi, r;
    if (in->nopnd == 1) {
        u64 b = operand_raw(x, in, 0);
        r = alu_imul(size, c->gpr[X86_RAX], b, &hi, &c->rflags);
        set_wide(c, size, r, hi);
        return;
    }
    u64 b = operand_raw(x, in, 1);
    u64 a = in->nopnd == 3 ? (u64)in->imm : c->gpr[in->opnd[0].reg];
    r = alu_imul2(size, a, b, &c->rflags);
    gpr_set(c, in->opnd[0].reg, size, r);
}

// DIV and IDIV differ in the division alone.
#define DIVIDE(name) \
    void op_##name(struct interp *x, const struct insn *in) \
    { \
        struct cpu *c = x->c; \
        unsigned size = in->opnd[0].size; \
        u64 quot, rem, d = operand_raw(x, in, 0); \
        u64 hi = size == 1 ? c->gpr[X86_RAX] >> 8 : c->gpr[X86_RDX]; \
        if (!alu_##name(size, hi, c->gpr[X86_RAX], d, &quot, &rem, &c->rflags)) \
            interp_raise(x, X86_EXC_DE); \
        set_wide(c, size, quot, rem); \
    }

DIVIDE(div)
DIVIDE(idiv)
#undef DIVIDE

// --- decimal adjustment -----------------------------------------------------------------------------------------------------

void op_daa(struct interp *x, const struct insn *in)
{
    (void)in;
    gpr_set(x->c, X86_RAX, 1, alu_daa(x->c->gpr[X86_RAX], &x->c->rflags));
}

void op_das(struct interp *x, const struct insn *in)
{
    (void)in;
    gpr_set(x->c, X86_RAX, 1, alu_das(x->c->gpr[X86_RAX], &x->c->rflags));
}

void op_aaa(struct interp *x, const struct insn *in)
{
    (void)in;
    gpr_set(x->c, X86_RAX, 2, alu_aaa(x->c->gpr[X86_RAX], &x->c->rflags));
}

void op_aas(struct interp *x, const struct insn *in)
{
    (void)in;
    gpr_set(x->c, X86_RAX, 2, alu_aas(x->c->gpr[X86_RAX], &x->c->rflags));
}

void op_aam(struct interp *x, const struct insn *in)
{
    u8 base = (u8)in->imm;
    if (base == 0)
        interp_raise(x, X86_EXC_DE);
    gpr_set(x->c, X86_RAX, 2, alu_aam(x->c->gpr[X86_RAX], base, &x->c->rflags));
}

void op_aad(struct interp *x, const struct insn *in)
{
    gpr_set(x->c, X86_RAX, 2, alu_aad(x->c->gpr[X86_RAX], (u8)in->imm, &x->c->rflags));
}
