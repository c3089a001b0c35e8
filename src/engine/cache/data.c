// Moves: MOV, the extending moves, LEA, CMOVCC, SETCC, XCHG of registers, PUSH and POP, sign extensions of the accumulator.
#include "engine/cache/exec.h"
#include "engine/cache/pairs.h"

// --- MOV ------------------------------------------------------------------------------------------------------------------

#define DEFINE_MOV_MEM(kind, size) \
    static HANDLER(mov_rm_##size##_##kind) \
    { \
        MEM(p, kind, size, false); \
        reg_set(c, o->dst, size, host_load(p, size)); \
        NEXT; \
    } \
    static HANDLER(mov_mr_##size##_##kind) \
    { \
        MEM(p, kind, size, true); \
        host_store(p, size, c->gpr[o->src]); \
        NEXT; \
    } \
    static HANDLER(mov_mi_##size##_##kind) \
    { \
        MEM(p, kind, size, true); \
        host_store(p, size, o->imm); \
        NEXT; \
    }
#define DEFINE_MOV(size) \
    static HANDLER(mov_rr_##size) \
    { \
        reg_set(c, o->dst, size, c->gpr[o->src]); \
        NEXT; \
    } \
    static HANDLER(mov_ri_##size) \
    { \
        reg_set(c, o->dst, size, o->imm); \
        NEXT; \
    } \
    EACH_EA(DEFINE_MOV_MEM, size)

DEFINE_MOV(1)
DEFINE_MOV(2)
DEFINE_MOV(4)
DEFINE_MOV(8)

struct mov_forms {
    cell_fn *rr, *ri, *rm[EA_COUNT], *mr[EA_COUNT], *mi[EA_COUNT];
};
#define MOV_FORM(kind, size, form) [kind] = mov_##form##_##size##_##kind,
#define MOV_ROW(size) \
    { \
        mov_rr_##size, mov_ri_##size, {EACH_EA(MOV_FORM, size, rm)}, {EACH_EA(MOV_FORM, size, mr)}, \
        { \
            EACH_EA(MOV_FORM, size, mi) \
        } \
    }

static const struct mov_forms mov_forms[4] = {MOV_ROW(1), MOV_ROW(2), MOV_ROW(4), MOV_ROW(8)};

// --- extension ------------------------------------------------------------------------------------------------------------

static ALWAYS_INLINE u64 widen(u64 v, unsigned from, bool sign)
{
    if (sign)
        return extend(v, from);
    return from == 1 ? (u8)v : from == 2 ? (u16)v : (u32)v;
}

#define DEFINE_EXTEND_MEM(kind, name, from, to, sign) \
    static HANDLER(name##_rm_##kind) \
    { \
        MEM(p, kind, from, false); \
        reg_set(c, o->dst, to, widen(host_load(p, from), from, sign)); \
        NEXT; \
    }
#define DEFINE_EXTEND(name, from, to, sign) \
    static HANDLER(name##_rr) \
    { \
        reg_set(c, o->dst, to, widen(c->gpr[o->src], from, sign)); \
        NEXT; \
    } \
    EACH_EA(DEFINE_EXTEND_MEM, name, from, to, sign)
// Zero extension to 64 bits is the one to 32.
#define EACH_EXTEND(m) \
    m(zx_1_2, 1, 2, false) m(zx_1_4, 1, 4, false) m(zx_2_4, 2, 4, false) m(sx_1_2, 1, 2, true) m(sx_1_4, 1, 4, true) \
        m(sx_1_8, 1, 8, true) m(sx_2_4, 2, 4, true) m(sx_2_8, 2, 8, true) m(sx_4_8, 4, 8, true)

EACH_EXTEND(DEFINE_EXTEND)

struct extend_forms {
    u8 from, to;
    bool sign;
    cell_fn *rr, *rm[EA_COUNT];
};
#define EXTEND_RM(kind, name, from, to, sign) [kind] = name##_rm_##kind,
#define EXTEND_ROW(name, from, to, sign) {from, to, sign, name##_rr, {EACH_EA(EXTEND_RM, name, from, to, sign)}},

static const struct extend_forms extend_forms[] = {EACH_EXTEND(EXTEND_ROW)};

static cell_fn *select_extend(const struct cache *e, const struct insn *in, bool sign)
{
    unsigned from = in->opnd[1].size, to = in->opnd[0].size;
    if (!sign && to == 8)
        to = 4;
    for (unsigned i = 0; i < ARRAY_LEN(extend_forms); i++) {
        const struct extend_forms *f = &extend_forms[i];
        if (f->from == from && f->to == to && f->sign == sign)
            return in->opnd[1].kind == ISA_OPND_MEM ? f->rm[ea_kind(e, in)] : f->rr;
    }
    return NULL;
}

// --- LEA ------------------------------------------------------------------------------------------------------------------

// The address is not used, so only its form matters: 64-bit or 32-bit, with or without index.
#define DEFINE_LEA(size) \
    static HANDLER(lea_b_##size) \
    { \
        reg_set(c, o->dst, size, c->gpr[o->base] + (u64)(i64)o->disp); \
        NEXT; \
    } \
    static HANDLER(lea_x_##size) \
    { \
        reg_set(c, o->dst, size, c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (u64)(i64)o->disp); \
        NEXT; \
    } \
    static HANDLER(lea_i_##size) \
    { \
        reg_set(c, o->dst, size, (c->gpr[o->index] << o->scale) + (u64)(i64)o->disp); \
        NEXT; \
    } \
    static HANDLER(lea_r_##size) \
    { \
        reg_set(c, o->dst, size, e->page_rip + (u64)(i64)o->disp); \
        NEXT; \
    } \
    static HANDLER(lea_d_##size) \
    { \
        reg_set(c, o->dst, size, (u64)(i64)o->disp); \
        NEXT; \
    }
DEFINE_LEA(4)
DEFINE_LEA(8)

static cell_fn *select_lea(const struct insn *in)
{
    static cell_fn *const forms[2][5] = {{lea_b_4, lea_x_4, lea_i_4, lea_r_4, lea_d_4},
                                         {lea_b_8, lea_x_8, lea_i_8, lea_r_8, lea_d_8}};
    // A 32-bit address in a 64-bit register needs its own truncation: rare.
    if (in->opnd[0].size < 4 || in->adsize < in->opnd[0].size)
        return NULL;
    cell_fn *const *f = forms[in->opnd[0].size == 8];
    if (in->base == ISA_REG_RIP)
        return f[3];
    if (in->base == ISA_REG_NONE)
        return in->index == ISA_REG_NONE ? f[4] : f[2];
    return in->index == ISA_REG_NONE ? f[0] : f[1];
}

// --- on conditions --------------------------------------------------------------------------------------------------------

#define NEED_COND(cc_) \
    if (UNLIKELY(!cond_known(e, cc_))) \
    PASS(slow_flags)

#define DEFINE_SETCC(cc_, ...) \
    static HANDLER(setcc_##cc_) \
    { \
        NEED_COND(0x##cc_); \
        reg_set(c, o->dst, 1, cond_now(c, e, 0x##cc_)); \
        NEXT; \
    }
EACH_CC(DEFINE_SETCC, )
#define SETCC_ROW(cc_, ...) setcc_##cc_,
static cell_fn *const setcc_forms[16] = {EACH_CC(SETCC_ROW, )};

// The memory operand is read whatever the condition, and a 32-bit destination is cut to 32 bits in any case.
#define DEFINE_CMOV(cc_, size) \
    static HANDLER(cmov_rr_##size##_##cc_) \
    { \
        NEED_COND(0x##cc_); \
        u64 v = cond_now(c, e, 0x##cc_) ? c->gpr[o->src] : c->gpr[o->dst]; \
        reg_set(c, o->dst, size, v); \
        NEXT; \
    } \
    static HANDLER(cmov_rm_##size##_##cc_) \
    { \
        NEED_COND(0x##cc_); \
        MEM(p, EA_G, size, false); \
        u64 m = host_load(p, size); \
        reg_set(c, o->dst, size, cond_now(c, e, 0x##cc_) ? m : c->gpr[o->dst]); \
        NEXT; \
    }
EACH_CC(DEFINE_CMOV, 4)
EACH_CC(DEFINE_CMOV, 8)
#define CMOV_ROW(cc_, size, form) cmov_##form##_##size##_##cc_,
static cell_fn *const cmov_forms[2][2][16] = {{{EACH_CC(CMOV_ROW, 4, rr)}, {EACH_CC(CMOV_ROW, 4, rm)}},
                                              {{EACH_CC(CMOV_ROW, 8, rr)}, {EACH_CC(CMOV_ROW, 8, rm)}}};

static cell_fn *select_cmov(const struct insn *in)
{
    if (in->opnd[0].size < 4)
        return NULL;
    return cmov_forms[in->opnd[0].size == 8][in->opnd[1].kind == ISA_OPND_MEM][in->opcode & 15];
}

// --- stack ----------------------------------------------------------------------------------------------------------------

// Flat stacks of 64-bit and 32-bit code; a slot has the size of the stack pointer.
#define PUSH(size, value) \
    u64 sp = reg_get(c, X86_RSP, size) - size; \
    u8 *to; \
    if (UNLIKELY(!probe(e, size == 8 ? sp : (u32)sp, size, true, &to))) \
        PASS(slow_op); \
    host_store(to, size, (value)); \
    reg_set(c, X86_RSP, size, sp)
#define DEFINE_PUSH_MEM(kind, size) \
    static HANDLER(push_m_##size##_##kind) \
    { \
        MEM(from, kind, size, false); \
        PUSH(size, host_load(from, size)); \
        NEXT; \
    }
#define DEFINE_STACK(size) \
    static HANDLER(push_r_##size) \
    { \
        PUSH(size, c->gpr[o->dst]); \
        NEXT; \
    } \
    static HANDLER(push_i_##size) \
    { \
        PUSH(size, o->imm); \
        NEXT; \
    } \
    static HANDLER(pop_r_##size) \
    { \
        u64 sp = reg_get(c, X86_RSP, size); \
        u8 *from; \
        if (UNLIKELY(!probe(e, sp, size, false, &from))) \
            PASS(slow_op); \
        u64 v = host_load(from, size); \
        reg_set(c, X86_RSP, size, sp + size); \
        reg_set(c, o->dst, size, v); \
        NEXT; \
    } \
    static HANDLER(leave_##size) \
    { \
        u64 sp = reg_get(c, X86_RBP, size); \
        u8 *from; \
        if (UNLIKELY(!probe(e, sp, size, false, &from))) \
            PASS(slow_op); \
        u64 v = host_load(from, size); \
        reg_set(c, X86_RSP, size, sp + size); \
        reg_set(c, X86_RBP, size, v); \
        NEXT; \
    } \
    EACH_EA(DEFINE_PUSH_MEM, size)

DEFINE_STACK(4)
DEFINE_STACK(8)

struct stack_forms {
    cell_fn *push_r, *push_i, *pop_r, *leave, *push_m[EA_COUNT];
};
#define PUSH_M(kind, size) [kind] = push_m_##size##_##kind,
#define STACK_ROW(size) \
    { \
        push_r_##size, push_i_##size, pop_r_##size, leave_##size, \
        { \
            EACH_EA(PUSH_M, size) \
        } \
    }
static const struct stack_forms stack_forms[2] = {STACK_ROW(4), STACK_ROW(8)};

static cell_fn *select_stack(const struct cache *e, const struct insn *in)
{
    unsigned size = in_64bit(e) ? 8 : 4;
    if (!(e->mode & RUN_FLAT) || in->opsize != size)
        return NULL;
    const struct stack_forms *f = &stack_forms[size == 8];
    unsigned kind = in->opnd[0].kind;
    if (in->op == ISA_OP_LEAVE)
        return f->leave;
    if (in->op == ISA_OP_POP)
        return kind == ISA_OPND_GPR ? f->pop_r : NULL;
    return kind == ISA_OPND_GPR   ? f->push_r
           : kind == ISA_OPND_IMM ? f->push_i
           : kind == ISA_OPND_MEM ? f->push_m[ea_kind(e, in)]
                                  : NULL;
}

const cell_fn_table data_joinable = {
    [JOIN_RR4] = mov_rr_4,       [JOIN_RR8] = mov_rr_8,       [JOIN_LEA8] = lea_b_8,      [JOIN_L1B] = zx_1_4_rm_EA_B,
    [JOIN_L1X] = zx_1_4_rm_EA_X, [JOIN_L2B] = zx_2_4_rm_EA_B, [JOIN_L4B] = mov_rm_4_EA_B, [JOIN_L8B] = mov_rm_8_EA_B,
    [JOIN_L8X] = mov_rm_8_EA_X,  [JOIN_S4B] = mov_mr_4_EA_B,  [JOIN_S8B] = mov_mr_8_EA_B, [JOIN_ZX1] = zx_1_4_rr,
    [JOIN_LEAX8] = lea_x_8,
};

// --- others ---------------------------------------------------------------------------------------------------------------

static HANDLER(xchg_rr_4)
{
    u64 a = c->gpr[o->dst], b = c->gpr[o->src];
    c->gpr[o->dst] = (u32)b;
    c->gpr[o->src] = (u32)a;
    NEXT;
}

static HANDLER(xchg_rr_8)
{
    u64 a = c->gpr[o->dst], b = c->gpr[o->src];
    c->gpr[o->dst] = b;
    c->gpr[o->src] = a;
    NEXT;
}

static HANDLER(cbw_4) // CWDE
{
    c->gpr[X86_RAX] = (u32)(i32)(i16)c->gpr[X86_RAX];
    NEXT;
}

static HANDLER(cbw_8) // CDQE
{
    c->gpr[X86_RAX] = (u64)(i64)(i32)c->gpr[X86_RAX];
    NEXT;
}

static HANDLER(cwd_4) // CDQ
{
    c->gpr[X86_RDX] = (u32)((i32)c->gpr[X86_RAX] >> 31);
    NEXT;
}

static HANDLER(cwd_8) // CQO
{
    c->gpr[X86_RDX] = (u64)((i64)c->gpr[X86_RAX] >> 63);
    NEXT;
}

static HANDLER(bswap_4)
{
    c->gpr[o->dst] = __builtin_bswap32((u32)c->gpr[o->dst]);
    NEXT;
}

static HANDLER(bswap_8)
{
    c->gpr[o->dst] = __builtin_bswap64(c->gpr[o->dst]);
    NEXT;
}

static HANDLER(nop)
{
    NEXT;
}

static cell_fn *select_mov(const struct cache *e, const struct insn *in)
{
    const struct mov_forms *f = &mov_forms[log2_size(in->opnd[0].size)];
    unsigned a = in->opnd[0].kind, b = in->opnd[1].kind;
    if (a == ISA_OPND_GPR)
        return b == ISA_OPND_GPR ? f->rr : b == ISA_OPND_IMM ? f->ri : b == ISA_OPND_MEM ? f->rm[ea_kind(e, in)] : NULL;
    if (a == ISA_OPND_MEM)
        return b == ISA_OPND_GPR ? f->mr[ea_kind(e, in)] : b == ISA_OPND_IMM ? f->mi[ea_kind(e, in)] : NULL;
    return NULL;
}

static cell_fn *by_size(const struct insn *in, cell_fn *four, cell_fn *eight)
{
    return in->opsize == 4 ? four : in->opsize == 8 ? eight : NULL;
}

cell_fn *select_data(const struct cache *e, const struct insn *in, struct cell *o)
{
    (void)o;
    for (unsigned i = 0; i < in->nopnd; i++) {
        unsigned kind = in->opnd[i].kind;
        if (kind != ISA_OPND_GPR && kind != ISA_OPND_MEM && kind != ISA_OPND_IMM)
            return NULL;
    }
    if (in->prefix & ISA_PFX_LOCK)
        return NULL;
    switch (in->op) {
    case ISA_OP_MOV:
    case ISA_OP_MOVNTI: return select_mov(e, in);
    case ISA_OP_MOVZX: return select_extend(e, in, false);
    case ISA_OP_MOVSX: return select_extend(e, in, true);
    case ISA_OP_MOVSXD: return in->opnd[0].size == 8 ? select_extend(e, in, true) : NULL;
    case ISA_OP_LEA: return select_lea(in);
    case ISA_OP_CMOVCC: return select_cmov(in);
    case ISA_OP_SETCC: return in->opnd[0].kind == ISA_OPND_GPR ? setcc_forms[in->opcode & 15] : NULL;
    case ISA_OP_PUSH:
    case ISA_OP_POP:
    case ISA_OP_LEAVE: return select_stack(e, in);
    case ISA_OP_XCHG:
        if (in->opnd[0].kind != ISA_OPND_GPR || in->opnd[1].kind != ISA_OPND_GPR || in->opnd[0].size < 4)
            return NULL;
        return by_size(in, xchg_rr_4, xchg_rr_8);
    case ISA_OP_CBW: return by_size(in, cbw_4, cbw_8);
    case ISA_OP_CWD: return by_size(in, cwd_4, cwd_8);
    case ISA_OP_BSWAP: return by_size(in, bswap_4, bswap_8);
    case ISA_OP_NOP:
    case ISA_OP_PREFETCH:
    case ISA_OP_PREFETCHW:
    case ISA_OP_PREFETCHNTA:
    case ISA_OP_PREFETCHT0:
    case ISA_OP_PREFETCHT1:
    case ISA_OP_PREFETCHT2: return nop;
    default: return NULL;
    }
}
