// String instructions.
//
// A single one is a probe or two and a move. A repeated one is a loop over pages: the elements that lie in the current page of every
// operand are done at once by the host's instruction of the same name on host addresses, which overlap as the guest's do, so that
// overlapping operands come out as the architecture says. RSI, RDI and RCX are exact before each round, so a miss of the TLB, a
// fault or a request in the middle needs nothing undone: whatever is unusual goes to the interpreter, which carries on from there. So
// do elements that cross a page's end, and all that is done with DF set or with a source in FS or GS.
#include "engine/bt/translate.h"

bool string_can(const struct tr *t, const struct insn *in)
{
    if (in->op == ISA_OP_CLD || in->op == ISA_OP_STD)
        return true;
    if (!bt_is_string(in) || in->adsize == 2 || (in->op == ISA_OP_LODS && isa_is_repeated(in)))
        return false;
    return in->seg < X86_FS && (t->wide || in->seg != X86_CS);
}

// --- pieces -----------------------------------------------------------------------------------------------------------------

static unsigned size_log2(unsigned size)
{
    return (unsigned)__builtin_ctz(size);
}

static const i32 rflags_from_gpr = (i32)offsetof(struct cpu, rflags) - (i32)offsetof(struct cpu, gpr);
#define DF_BIT 10

static void emit_df_check(struct tr *t)
{
    struct emit *e = &t->e;
    emit_load(e, 8, HOST_T1, &t->b->ctx->gpr);
    emit_rm(e, 4, 0xf6, 0, HOST_T1, rflags_from_gpr + DF_BIT / 8); // test byte, imm
    emit1(e, 1 << DF_BIT % 8);
    tr_step_from(t, emit_jcc(e, CC_NE));
}

// Host address of the element at RSI or RDI into HOST_T0. After a miss only this probe runs again: two operands may want the same
// entry of the TLB.
static void emit_probe(struct tr *t, bool dst)
{
    unsigned op = tr_in(t)->op;
    u64 retry = emit_here(&t->e);
    emit_mov_rr(&t->e, tr_in(t)->adsize, HOST_T0, dst ? X86_RDI : X86_RSI);
    mem_probe(t, retry, tr_in(t)->opnd[0].size, dst && (op == ISA_OP_MOVS || op == ISA_OP_STOS));
}

static void emit_advance(struct tr *t, unsigned reg)
{
    emit_lea(&t->e, tr_in(t)->adsize, reg, reg, X86_RSP, 0, tr_in(t)->opnd[0].size);
}

// `opcode` (of the form for words and more) with a register and [HOST_T0].
static void emit_sized(struct tr *t, unsigned opcode, unsigned reg)
{
    unsigned size = tr_in(t)->opnd[0].size;
    emit_rm(&t->e, size == 1 ? 4 : size, size == 1 ? opcode - 1 : opcode, reg, HOST_T0, 0);
}

static void emit_string_op(struct tr *t, bool repeat)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    if (repeat)
        emit1(e, in->prefix & ISA_PFX_REP ? 0xf3 : 0xf2);
    if (in->opnd[0].size == 2)
        emit1(e, 0x66);
    if (in->opnd[0].size == 8)
        emit1(e, REX_BASE | REX_W);
    emit1(e, in->opcode);
}

// --- one ----------------------------------------------------------------------------------------------------------------------

static void emit_movs(struct tr *t)
{
    struct emit *e = &t->e;
    emit_probe(t, false);
    emit_sized(t, 0x8b, HOST_T0);
    emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[0]);
    emit_probe(t, true);
    emit_load(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    emit_sized(t, 0x89, HOST_T1);
    emit_advance(t, X86_RSI);
    emit_advance(t, X86_RDI);
}

static void emit_cmps(struct tr *t)
{
    struct emit *e = &t->e;
    emit_probe(t, true); // the order that interp/string.c tells
    emit_sized(t, 0x8b, HOST_T0);
    emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[0]);
    emit_probe(t, false);
    emit_load(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    emit_sized(t, 0x39, HOST_T1);
    emit_advance(t, X86_RSI);
    emit_advance(t, X86_RDI);
}

static void emit_one(struct tr *t)
{
    flags_clobber(t);
    emit_df_check(t);
    switch (tr_in(t)->op) {
    case ISA_OP_MOVS: emit_movs(t); break;
    case ISA_OP_CMPS: emit_cmps(t); break;
    case ISA_OP_LODS:
        emit_probe(t, false);
        emit_sized(t, 0x8b, X86_RAX);
        emit_advance(t, X86_RSI);
        break;
    case ISA_OP_STOS:
        emit_probe(t, true);
        emit_sized(t, 0x89, X86_RAX);
        emit_advance(t, X86_RDI);
        break;
    default:
        emit_probe(t, true);
        emit_sized(t, 0x3b, X86_RAX);
        emit_advance(t, X86_RDI);
        break;
    }
}

// --- repeated -------------------------------------------------------------------------------------------------------------------

static bool has_src(const struct insn *in)
{
    return in->op == ISA_OP_MOVS || in->op == ISA_OP_CMPS;
}

static bool is_compare(const struct insn *in)
{
    return in->op == ISA_OP_CMPS || in->op == ISA_OP_SCAS;
}

// How many elements this round does, into ctx.tmp[2]: as many as RCX says and as lie in the current pages. None: one crosses its end.
static void emit_round(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    emit_mov_rr(e, 4, HOST_T1, X86_RDI);
    emit_alu_imm(e, 4, 4, HOST_T1, 4095);
    if (has_src(in)) {
        emit_mov_rr(e, 4, HOST_T0, X86_RSI);
        emit_alu_imm(e, 4, 4, HOST_T0, 4095);
        emit_rr(e, 4, 0x3b, HOST_T1, HOST_T0);
        emit_rr(e, 4, 0x140 | CC_B, HOST_T1, HOST_T0); // cmovb: what is nearer to its page's end
    }
    emit_rr(e, 4, 0xf7, 3, HOST_T1); // neg
    emit_alu_imm(e, 4, 0, HOST_T1, 4096);
    if (in->opnd[0].size > 1) {
        emit_rr(e, 4, 0xc1, 5, HOST_T1); // shr
        emit1(e, size_log2(in->opnd[0].size));
        tr_step_from(t, emit_jcc(e, CC_E));
    }
    emit_rr(e, in->adsize, 0x3b, HOST_T1, X86_RCX);
    emit_rr(e, in->adsize, 0x140 | CC_A, HOST_T1, X86_RCX);
    emit_store(e, 8, HOST_T1, &t->b->ctx->tmp[2]);
}

// Host addresses of the current elements: of the source into ctx.tmp[0], of the destination into HOST_T0.
static void emit_addresses(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    bool src_first = in->op == ISA_OP_MOVS || (in->opnd[0].size == 1 && in->prefix & ISA_PFX_REP);
    if (!has_src(in)) {
        emit_probe(t, true);
        return;
    }
    emit_probe(t, !src_first);
    emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[src_first ? 0 : 3]);
    emit_probe(t, src_first);
    if (!src_first) {
        emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[0]);
        emit_load(e, 8, HOST_T0, &t->b->ctx->tmp[3]);
    }
}

// The round itself. RCX becomes what is left; of flags, only those of a comparison change.
static void emit_bulk(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    emit_rr(e, 8, 0x87, X86_RDI, HOST_T0);
    emit_rr(e, 8, 0x2b, HOST_T0, X86_RDI); // from host to guest
    if (has_src(in)) {
        emit_mov_rr(e, 8, HOST_T1, X86_RSI);
        emit_load(e, 8, X86_RSI, &c->tmp[0]);
        emit_rr(e, 8, 0x2b, HOST_T1, X86_RSI);
    }
    emit_rip(e, 8, 0x2b, X86_RCX, &c->tmp[2], 0);
    emit_store(e, 8, X86_RCX, &c->tmp[1]);
    emit_load(e, 8, X86_RCX, &c->tmp[2]);
    emit_string_op(t, true);
    emit_lea(e, in->adsize, X86_RDI, X86_RDI, HOST_T0, 0, 0);
    if (has_src(in))
        emit_lea(e, in->adsize, X86_RSI, X86_RSI, HOST_T1, 0, 0);
    if (is_compare(in)) {
        emit_load(e, 8, HOST_T0, &c->tmp[1]);
        emit_lea(e, in->adsize, X86_RCX, X86_RCX, HOST_T0, 0, 0);
    } else {
        emit_load(e, in->adsize, X86_RCX, &c->tmp[1]);
    }
}

// The next round, unless somebody wants the processor. Flags are in the slot.
static void emit_again(struct tr *t, u64 again)
{
    struct emit *e = &t->e;
    emit_rip(e, 4, 0x83, 7, (const void *)&t->b->ctx->doorbell, 1); // cmp dword [doorbell], 0
    emit1(e, 0);
    emit_jcc_to(e, CC_E, again);
    tr_step_from(t, emit_jmp(e));
}

static void emit_repeated(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    flags_clobber(t);
    u64 again = emit_here(e);
    emit_df_check(t);
    emit_rr(e, in->adsize, 0x85, X86_RCX, X86_RCX); // test
    u8 *none = emit_jcc(e, CC_E);
    emit_round(t);
    emit_addresses(t);
    emit_bulk(t);
    emit_rr(e, in->adsize, 0x85, X86_RCX, X86_RCX);
    u8 *done = emit_jcc(e, CC_E);
    emit_again(t, again);
    emit_patch(e, none, emit_here(e));
    emit_patch(e, done, emit_here(e));
}

// Comparisons end with the flags in the host's.
static void emit_repeated_compare(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    flags_save(t);
    t->flags = FLAGS_SLOT; // where each round leaves them
    u64 again = emit_here(e);
    emit_df_check(t);
    emit_rr(e, in->adsize, 0x85, X86_RCX, X86_RCX);
    u8 *some = emit_jcc(e, CC_NE);
    flags_emit_restore(e, t->b->ctx);
    u8 *none = emit_jmp(e);
    emit_patch(e, some, emit_here(e));
    emit_round(t);
    emit_addresses(t);
    emit_bulk(t);
    u8 *ended = emit_jcc(e, in->prefix & ISA_PFX_REP ? CC_NE : CC_E);
    if (in->adsize == 4)
        emit1(e, 0x67);
    EMIT(e, 0xe3, 0); // jrcxz
    u8 *done = e->p;
    flags_emit_save(e, t->b->ctx);
    emit_again(t, again);
    done[-1] = (u8)(e->p - done);
    emit_patch(e, ended, emit_here(e));
    emit_patch(e, none, emit_here(e));
}

// --- DF -------------------------------------------------------------------------------------------------------------------------

static void emit_set_df(struct tr *t, bool set)
{
    struct emit *e = &t->e;
    flags_clobber(t);
    emit_load(e, 8, HOST_T1, &t->b->ctx->gpr);
    emit_rm(e, 4, 0x80, set ? 1 : 4, HOST_T1, rflags_from_gpr + DF_BIT / 8); // or, and byte, imm
    emit1(e, set ? 1 << DF_BIT % 8 : (u8) ~(1 << DF_BIT % 8));
}

bool tr_string(struct tr *t)
{
    const struct insn *in = tr_in(t);
    if (in->op == ISA_OP_CLD || in->op == ISA_OP_STD) {
        emit_set_df(t, in->op == ISA_OP_STD);
        return true;
    }
    if (!bt_is_string(in))
        return false;
    if (isa_is_repeated(in) && is_compare(in))
        emit_repeated_compare(t);
    else if (isa_is_repeated(in))
        emit_repeated(t);
    else
        emit_one(t);
    if (is_compare(in))
        flags_now_host(t);
    return true;
}
