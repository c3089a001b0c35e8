// Arithmetic and logic on general registers and memory. One handler for each operation, size and kind of operands, and for
// most another one for when nobody looks at the flags.
#include "engine/cache/exec.h"
#include "engine/cache/pairs.h"

enum alu_op { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, ALU_OPS };

static ALWAYS_INLINE bool writes_result(enum alu_op op)
{
    return op != CMP && op != TEST;
}

static ALWAYS_INLINE bool reads_carry(enum alu_op op)
{
    return op == ADC || op == SBB;
}

// The operation; operands are taken modulo their size. With `live` the flags are noted.
static ALWAYS_INLINE u64 compute(struct cpu *c, struct cache *e, enum alu_op op, unsigned size, u64 a, u64 b, bool live)
{
    u64 r;
    switch (op) {
    case ADD:
        r = a + b;
        if (live)
            flags_note(e, FLAGS_ADD, size, a, b);
        return r;
    case SUB:
    case CMP:
        r = a - b;
        if (live)
            flags_note(e, FLAGS_SUB, size, a, b);
        return r;
    case ADC: return alu_adc(size, a, b, &c->rflags);
    case SBB: return alu_sbb(size, a, b, &c->rflags);
    case OR: r = a | b; break;
    case XOR: r = a ^ b; break;
    default: r = a & b; break;
    }
    if (live)
        flags_note_result(e, FLAGS_LOGIC, size, r);
    return r;
}

// --- the handlers -----------------------------------------------------------------------------------------------------------

#define CARRY_IN(op) \
    if (reads_carry(op)) \
    NEED_FLAGS

// Register and register, register and immediate.
#define DEFINE_REG(op, size, live) \
    static HANDLER(op##_rr_##size##_##live) \
    { \
        CARRY_IN(op); \
        unsigned dst = o->dst; \
        u64 r = compute(c, e, op, size, reg_get(c, dst, size), reg_get(c, o->src, size), live); \
        if (writes_result(op)) \
            reg_set(c, dst, size, r); \
        NEXT; \
    } \
    static HANDLER(op##_ri_##size##_##live) \
    { \
        CARRY_IN(op); \
        unsigned dst = o->dst; \
        u64 r = compute(c, e, op, size, reg_get(c, dst, size), o->imm, live); \
        if (writes_result(op)) \
            reg_set(c, dst, size, r); \
        NEXT; \
    }

// Register and memory; memory and register, or immediate. CMP and TEST only read.
#define DEFINE_MEM(kind, op, size) \
    static HANDLER(op##_rm_##size##_##kind) \
    { \
        CARRY_IN(op); \
        MEM(p, kind, size, false); \
        unsigned dst = o->dst; \
        u64 r = compute(c, e, op, size, reg_get(c, dst, size), host_load(p, size), true); \
        if (writes_result(op)) \
            reg_set(c, dst, size, r); \
        NEXT; \
    } \
    static HANDLER(op##_mr_##size##_##kind) \
    { \
        CARRY_IN(op); \
        MEM(p, kind, size, writes_result(op)); \
        u64 r = compute(c, e, op, size, host_load(p, size), reg_get(c, o->src, size), true); \
        if (writes_result(op)) \
            host_store(p, size, r); \
        NEXT; \
    } \
    static HANDLER(op##_mi_##size##_##kind) \
    { \
        CARRY_IN(op); \
        MEM(p, kind, size, writes_result(op)); \
        u64 r = compute(c, e, op, size, host_load(p, size), o->imm, true); \
        if (writes_result(op)) \
            host_store(p, size, r); \
        NEXT; \
    }

#define DEFINE_SIZE(op, size) \
    DEFINE_REG(op, size, 0) \
    DEFINE_REG(op, size, 1) \
    EACH_EA(DEFINE_MEM, op, size)
#define DEFINE(op) DEFINE_SIZE(op, 1) DEFINE_SIZE(op, 2) DEFINE_SIZE(op, 4) DEFINE_SIZE(op, 8)
#define EACH_ALU(m) m(ADD) m(OR) m(ADC) m(SBB) m(AND) m(SUB) m(XOR) m(CMP) m(TEST)

EACH_ALU(DEFINE)

// Tables: [operation][log2 size] ...
struct reg_forms {
    cell_fn *rr[2], *ri[2]; // [live]
};
struct mem_forms {
    cell_fn *rm[EA_COUNT], *mr[EA_COUNT], *mi[EA_COUNT];
};

#define REG_ROW(op, size) \
    { \
        {op##_rr_##size##_0, op##_rr_##size##_1}, \
        { \
            op##_ri_##size##_0, op##_ri_##size##_1 \
        } \
    }
#define FORM(kind, op, size, form) [kind] = op##_##form##_##size##_##kind,
#define MEM_ROW(op, size) \
    { \
        {EACH_EA(FORM, op, size, rm)}, {EACH_EA(FORM, op, size, mr)}, \
        { \
            EACH_EA(FORM, op, size, mi) \
        } \
    }
#define REG_ROWS(op) [op] = {REG_ROW(op, 1), REG_ROW(op, 2), REG_ROW(op, 4), REG_ROW(op, 8)},
#define MEM_ROWS(op) [op] = {MEM_ROW(op, 1), MEM_ROW(op, 2), MEM_ROW(op, 4), MEM_ROW(op, 8)},

static const struct reg_forms reg_forms[ALU_OPS][4] = {EACH_ALU(REG_ROWS)};
static const struct mem_forms mem_forms[ALU_OPS][4] = {EACH_ALU(MEM_ROWS)};

// --- one operand --------------------------------------------------------------------------------------------------------------

enum unary_op { INC, DEC, NEG, NOT, UNARY_OPS };

static ALWAYS_INLINE u64 compute_unary(struct cache *e, enum unary_op op, unsigned size, u64 a)
{
    u64 r;
    switch (op) {
    case INC:
        r = a + 1;
        flags_note_result(e, FLAGS_INC, size, r);
        return r;
    case DEC:
        r = a - 1;
        flags_note_result(e, FLAGS_DEC, size, r);
        return r;
    case NEG:
        r = 0 - a;
        flags_note(e, FLAGS_SUB, size, 0, a);
        return r;
    default: return ~a;
    }
}

// INC and DEC pass CF through: it has to be in RFLAGS.
#define CARRY_THROUGH(op) \
    if ((op == INC || op == DEC) && UNLIKELY(!carry_ready(e))) \
    PASS(slow_flags)

static ALWAYS_INLINE bool carry_ready(const struct cache *e)
{
    unsigned kind = e->flags_kind & (FLAGS_KIND | FLAGS_PRODUCT);
    return kind == FLAGS_READY || kind == FLAGS_INC || kind == FLAGS_DEC;
}

#define DEFINE_UNARY_MEM(kind, op, size) \
    static HANDLER(op##_m_##size##_##kind) \
    { \
        CARRY_THROUGH(op); \
        MEM(p, kind, size, true); \
        host_store(p, size, compute_unary(e, op, size, host_load(p, size))); \
        NEXT; \
    }
#define DEFINE_UNARY_SIZE(op, size) \
    static HANDLER(op##_r_##size) \
    { \
        CARRY_THROUGH(op); \
        unsigned dst = o->dst; \
        reg_set(c, dst, size, compute_unary(e, op, size, reg_get(c, dst, size))); \
        NEXT; \
    } \
    EACH_EA(DEFINE_UNARY_MEM, op, size)
#define DEFINE_UNARY(op) \
    DEFINE_UNARY_SIZE(op, 1) DEFINE_UNARY_SIZE(op, 2) DEFINE_UNARY_SIZE(op, 4) DEFINE_UNARY_SIZE(op, 8)
#define EACH_UNARY(m) m(INC) m(DEC) m(NEG) m(NOT)

EACH_UNARY(DEFINE_UNARY)

struct unary_forms {
    cell_fn *r, *m[EA_COUNT];
};
#define UNARY_FORM(kind, op, size) [kind] = op##_m_##size##_##kind,
#define UNARY_ROW(op, size) \
    { \
        op##_r_##size, \
        { \
            EACH_EA(UNARY_FORM, op, size) \
        } \
    }
#define UNARY_ROWS(op) [op] = {UNARY_ROW(op, 1), UNARY_ROW(op, 2), UNARY_ROW(op, 4), UNARY_ROW(op, 8)},

static const struct unary_forms unary_forms[UNARY_OPS][4] = {EACH_UNARY(UNARY_ROWS)};

// --- shifts of registers ----------------------------------------------------------------------------------------------------

enum shift_op { SHL, SHR, SAR, ROL, ROR, SHIFT_OPS };

static ALWAYS_INLINE u64 shift_plain(enum shift_op op, unsigned size, u64 a, unsigned n)
{
    unsigned bits = size * 8;
    switch (op) {
    case SHL: return a << n; // n may be 8 to 31 for small sizes: fits
    case SHR: return a >> n;
    case SAR: return (u64)((i64)extend(a, size) >> n);
    case ROL: n &= bits - 1; return n ? a << n | a >> (bits - n) : a;
    default: n &= bits - 1; return n ? a >> n | a << (bits - n) : a;
    }
}

static ALWAYS_INLINE u64 shift_now(enum shift_op op, unsigned size, u64 a, unsigned n, u64 *fl)
{
    switch (op) {
    case SHL: return alu_shl(size, a, (u8)n, fl);
    case SHR: return alu_shr(size, a, (u8)n, fl);
    case SAR: return alu_sar(size, a, (u8)n, fl);
    case ROL: return alu_rol(size, a, (u8)n, fl);
    default: return alu_ror(size, a, (u8)n, fl);
    }
}

static ALWAYS_INLINE unsigned shift_kind(enum shift_op op)
{
    return op == SHL ? FLAGS_SHL : op == SHR ? FLAGS_SHR : FLAGS_SAR;
}

// dead: nobody looks at the flags; noted: they follow from the operands alone; now: they depend on those before.
#define DEFINE_SHIFT_BY(op, size, by, count) \
    static HANDLER(op##_dead_##size##_##by) \
    { \
        reg_set(c, o->dst, size, shift_plain(op, size, reg_get(c, o->dst, size), (count))); \
        NEXT; \
    } \
    static HANDLER(op##_noted_##size##_##by) \
    { \
        unsigned n = (count); \
        u64 a = reg_get(c, o->dst, size), r = shift_plain(op, size, a, n); \
        reg_set(c, o->dst, size, r); \
        if (n) \
            flags_note(e, shift_kind(op), size, a, n); \
        NEXT; \
    } \
    static HANDLER(op##_now_##size##_##by) \
    { \
        NEED_FLAGS; \
        reg_set(c, o->dst, size, shift_now(op, size, reg_get(c, o->dst, size), (count), &c->rflags)); \
        NEXT; \
    }
#define DEFINE_SHIFT_SIZE(op, size) \
    DEFINE_SHIFT_BY(op, size, i, (unsigned)o->imm &(size == 8 ? 63 : 31)) \
    DEFINE_SHIFT_BY(op, size, c, (unsigned)c->gpr[X86_RCX] & (size == 8 ? 63 : 31))
#define DEFINE_SHIFT(op) \
    DEFINE_SHIFT_SIZE(op, 1) DEFINE_SHIFT_SIZE(op, 2) DEFINE_SHIFT_SIZE(op, 4) DEFINE_SHIFT_SIZE(op, 8)
#define EACH_SHIFT(m) m(SHL) m(SHR) m(SAR) m(ROL) m(ROR)

EACH_SHIFT(DEFINE_SHIFT)

struct shift_forms {
    cell_fn *dead[2], *noted[2], *now[2]; // [by CL]
};
#define SHIFT_ROW(op, size) \
    { \
        {op##_dead_##size##_i, op##_dead_##size##_c}, {op##_noted_##size##_i, op##_noted_##size##_c}, \
        { \
            op##_now_##size##_i, op##_now_##size##_c \
        } \
    }
#define SHIFT_ROWS(op) [op] = {SHIFT_ROW(op, 1), SHIFT_ROW(op, 2), SHIFT_ROW(op, 4), SHIFT_ROW(op, 8)},

static const struct shift_forms shift_forms[SHIFT_OPS][4] = {EACH_SHIFT(SHIFT_ROWS)};

// --- IMUL with two or three operands --------------------------------------------------------------------------------------------

// What becomes of the flags: nobody looks, all follow from the operands, CF and OF do.
enum imul_flags { DEAD, CLEAN, PARTIAL };

static ALWAYS_INLINE void multiply(struct cpu *c, const struct cell *o, struct cache *e, unsigned size, u64 a, u64 b,
                                   enum imul_flags flags)
{
    u64 r = a * b;
    reg_set(c, o->dst, size, r);
    if (flags == CLEAN)
        flags_note(e, FLAGS_IMUL, size, a, b);
    else if (flags == PARTIAL)
        flags_note_product(e, size, a, b);
}

#define DEFINE_IMUL_MEM(kind, size, live) \
    static HANDLER(imul_rm_##size##_##live##_##kind) \
    { \
        MEM(p, kind, size, false); \
        multiply(c, o, e, size, reg_get(c, o->dst, size), host_load(p, size), live); \
        NEXT; \
    } \
    static HANDLER(imul_rmi_##size##_##live##_##kind) \
    { \
        MEM(p, kind, size, false); \
        multiply(c, o, e, size, host_load(p, size), o->imm, live); \
        NEXT; \
    }
#define DEFINE_IMUL(size, live) \
    static HANDLER(imul_rr_##size##_##live) \
    { \
        multiply(c, o, e, size, reg_get(c, o->dst, size), reg_get(c, o->src, size), live); \
        NEXT; \
    } \
    static HANDLER(imul_rri_##size##_##live) \
    { \
        multiply(c, o, e, size, reg_get(c, o->src, size), o->imm, live); \
        NEXT; \
    } \
    EACH_EA(DEFINE_IMUL_MEM, size, live)

DEFINE_IMUL(4, DEAD)
DEFINE_IMUL(4, CLEAN)
DEFINE_IMUL(4, PARTIAL)
DEFINE_IMUL(8, DEAD)
DEFINE_IMUL(8, CLEAN)
DEFINE_IMUL(8, PARTIAL)

struct imul_forms {
    cell_fn *rr, *rri, *rm[EA_COUNT], *rmi[EA_COUNT];
};
#define IMUL_RM(kind, size, live) [kind] = imul_rm_##size##_##live##_##kind,
#define IMUL_RMI(kind, size, live) [kind] = imul_rmi_##size##_##live##_##kind,
#define IMUL_ROW(size, live) \
    { \
        imul_rr_##size##_##live, imul_rri_##size##_##live, {EACH_EA(IMUL_RM, size, live)}, \
        { \
            EACH_EA(IMUL_RMI, size, live) \
        } \
    }

static const struct imul_forms imul_forms[2][3] = {{IMUL_ROW(4, DEAD), IMUL_ROW(4, CLEAN), IMUL_ROW(4, PARTIAL)},
                                                   {IMUL_ROW(8, DEAD), IMUL_ROW(8, CLEAN), IMUL_ROW(8, PARTIAL)}};

// --- choice ---------------------------------------------------------------------------------------------------------------------

static int alu_op_of(unsigned op)
{
    switch (op) {
    case ISA_OP_ADD: return ADD;
    case ISA_OP_OR: return OR;
    case ISA_OP_ADC: return ADC;
    case ISA_OP_SBB: return SBB;
    case ISA_OP_AND: return AND;
    case ISA_OP_SUB: return SUB;
    case ISA_OP_XOR: return XOR;
    case ISA_OP_CMP: return CMP;
    case ISA_OP_TEST: return TEST;
    default: return -1;
    }
}

static cell_fn *select_binary(const struct cache *e, const struct insn *in, int op, bool live)
{
    unsigned size = log2_size(in->opnd[0].size);
    const struct reg_forms *rf = &reg_forms[op][size];
    const struct mem_forms *mf = &mem_forms[op][size];
    unsigned a = in->opnd[0].kind, b = in->opnd[1].kind;
    if (a == ISA_OPND_GPR && b == ISA_OPND_GPR)
        return rf->rr[live];
    if (a == ISA_OPND_GPR && b == ISA_OPND_IMM)
        return rf->ri[live];
    if (a == ISA_OPND_GPR && b == ISA_OPND_MEM)
        return mf->rm[ea_kind(e, in)];
    if (a == ISA_OPND_MEM && b == ISA_OPND_GPR)
        return mf->mr[ea_kind(e, in)];
    if (a == ISA_OPND_MEM && b == ISA_OPND_IMM)
        return mf->mi[ea_kind(e, in)];
    return NULL;
}

static cell_fn *select_unary(const struct cache *e, const struct insn *in, struct cell *o, enum unary_op op, u32 live)
{
    unsigned size = log2_size(in->opnd[0].size);
    unsigned kind = in->opnd[0].kind;
    if ((op == INC || op == DEC) && !(live & X86_FL_CF)) { // then it is an addition or subtraction
        int as = op == INC ? ADD : SUB;
        o->imm = 1;
        if (kind == ISA_OPND_GPR)
            return reg_forms[as][size].ri[live != 0];
        if (kind == ISA_OPND_MEM)
            return mem_forms[as][size].mi[ea_kind(e, in)];
    }
    if (kind == ISA_OPND_GPR)
        return unary_forms[op][size].r;
    if (kind == ISA_OPND_MEM)
        return unary_forms[op][size].m[ea_kind(e, in)];
    return NULL;
}

// Shifts and rotates: by an immediate, by 1, by CL.
static cell_fn *select_shift(const struct cache *e, const struct insn *in, enum shift_op op, u32 live)
{
    if (in->opnd[0].kind != ISA_OPND_GPR)
        return NULL;
    const struct shift_forms *f = &shift_forms[op][log2_size(in->opnd[0].size)];
    bool by_cl = in->opnd[1].kind == ISA_OPND_GPR, rotate = op == ROL || op == ROR;
    if (!(live & (rotate ? X86_FL_CF | X86_FL_OF : X86_FL_STATUS)))
        return f->dead[by_cl];
    // Where bits above the operand's size would come in the plain way is not good enough.
    return rotate || !e->host_flags.shifts_clean ? f->now[by_cl] : f->noted[by_cl];
}

static cell_fn *select_imul(const struct cache *e, const struct insn *in, u32 live)
{
    if (in->nopnd < 2 || in->opnd[0].kind != ISA_OPND_GPR || in->opnd[0].size < 4)
        return NULL;
    enum imul_flags flags = CLEAN;
    if (!live || (e->host_flags.imul_partial && !(live & (X86_FL_CF | X86_FL_OF))))
        flags = DEAD;
    else if (e->host_flags.imul_partial)
        flags = PARTIAL;
    else if (!e->host_flags.imul_clean)
        return NULL;
    const struct imul_forms *f = &imul_forms[in->opnd[0].size == 8][flags];
    bool mem = in->opnd[1].kind == ISA_OPND_MEM;
    if (in->nopnd == 2)
        return mem ? f->rm[ea_kind(e, in)] : f->rr;
    return mem ? f->rmi[ea_kind(e, in)] : f->rri;
}

cell_fn *select_alu(const struct cache *e, const struct insn *in, struct cell *o, u32 live)
{
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].kind == ISA_OPND_GPR8H)
            return NULL;
    }
    if (in->prefix & ISA_PFX_LOCK)
        return NULL;
    int op = alu_op_of(in->op);
    if (op >= 0)
        return select_binary(e, in, op, live || op == ADC || op == SBB);
    switch (in->op) {
    case ISA_OP_INC: return select_unary(e, in, o, INC, live);
    case ISA_OP_DEC: return select_unary(e, in, o, DEC, live);
    case ISA_OP_NEG: return select_unary(e, in, o, NEG, live);
    case ISA_OP_NOT: return select_unary(e, in, o, NOT, live);
    case ISA_OP_SHL: return select_shift(e, in, SHL, live);
    case ISA_OP_SHR: return select_shift(e, in, SHR, live);
    case ISA_OP_SAR: return select_shift(e, in, SAR, live);
    case ISA_OP_ROL: return select_shift(e, in, ROL, live);
    case ISA_OP_ROR: return select_shift(e, in, ROR, live);
    case ISA_OP_IMUL: return select_imul(e, in, live);
    default: return NULL;
    }
}

const cell_fn_table alu_joinable = {
    [JOIN_ADD8] = ADD_rr_8_0,  [JOIN_ADDI8] = ADD_ri_8_0,     [JOIN_ANDI4] = AND_ri_4_0,  [JOIN_SHRI4] = SHR_dead_4_i,
    [JOIN_SUB4] = SUB_rr_4_0,  [JOIN_IMUL4] = imul_rr_4_DEAD, [JOIN_ADD4F] = ADD_rr_4_1,  [JOIN_SUB4F] = SUB_rr_4_1,
    [JOIN_XOR4F] = XOR_rr_4_1, [JOIN_ADDI4F] = ADD_ri_4_1,    [JOIN_SUBI4F] = SUB_ri_4_1,
};

// --- comparison and branch ------------------------------------------------------------------------------------------------------

#define PAIR_BODY(op, size, a_, b_, cc_) \
    u64 a = extend(a_, size), b = extend(b_, size); \
    if (op == CMP) \
        flags_note(e, FLAGS_SUB, size, a, b); \
    else \
        flags_note_result(e, FLAGS_LOGIC, size, a &b); \
    if (op == CMP ? cond_sub(cc_, a, b, size) : cond_logic(cc_, a & b)) \
        FOLLOW(o + 1, (i64)o[1].rest - 1); \
    GO(o + 2)

#define DEFINE_PAIR(cc_, op, size) \
    static HANDLER(op##_rr_j_##size##_##cc_) \
    { \
        PAIR_BODY(op, size, c->gpr[o->dst], c->gpr[o->src], 0x##cc_); \
    } \
    static HANDLER(op##_ri_j_##size##_##cc_) \
    { \
        PAIR_BODY(op, size, c->gpr[o->dst], o->imm, 0x##cc_); \
    } \
    static HANDLER(op##_mi_j_##size##_##cc_) \
    { \
        MEM(p, EA_B, size, false); \
        PAIR_BODY(op, size, host_load(p, size), o->imm, 0x##cc_); \
    } \
    static HANDLER(op##_rm_j_##size##_##cc_) \
    { \
        MEM(p, EA_B, size, false); \
        PAIR_BODY(op, size, c->gpr[o->dst], host_load(p, size), 0x##cc_); \
    }
#define EACH_PAIR(m) m(CMP, 1) m(CMP, 4) m(CMP, 8) m(TEST, 1) m(TEST, 4) m(TEST, 8)
#define DEFINE_PAIRS(op, size) EACH_CC(DEFINE_PAIR, op, size)

EACH_PAIR(DEFINE_PAIRS)

struct pair_forms {
    cell_fn *first[4], *pair[4][16]; // rr ri mi rm
};
#define PAIR_CC(cc_, op, size, form) op##_##form##_j_##size##_##cc_,
#define PAIR_ROW(op, size) \
    {{op##_rr_##size##_1, op##_ri_##size##_1, op##_mi_##size##_EA_B, op##_rm_##size##_EA_B}, \
     {{EACH_CC(PAIR_CC, op, size, rr)}, \
      {EACH_CC(PAIR_CC, op, size, ri)}, \
      {EACH_CC(PAIR_CC, op, size, mi)}, \
      {EACH_CC(PAIR_CC, op, size, rm)}}},

static const struct pair_forms pair_forms[] = {EACH_PAIR(PAIR_ROW)};

cell_fn *select_pair(cell_fn *first, const struct cell *jcc)
{
    for (unsigned i = 0; i < ARRAY_LEN(pair_forms); i++) {
        for (unsigned form = 0; form < 4; form++) {
            if (pair_forms[i].first[form] == first)
                return pair_forms[i].pair[form][jcc->cc];
        }
    }
    return NULL;
}
