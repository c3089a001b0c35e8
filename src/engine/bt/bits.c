// Instructions whose memory operand is not where ModRM says: bit strings, where the bit number reaches beyond the operand, XLAT, and POP,
// which addresses its destination with RSP already incremented. And MOV from a segment register.
#include "engine/bt/translate.h"

static bool is_bit_string(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_BT:
    case ISA_OP_BTS:
    case ISA_OP_BTR:
    case ISA_OP_BTC: return in->opnd[0].kind == ISA_OPND_MEM && in->opnd[1].kind == ISA_OPND_GPR;
    default: return false;
    }
}

static bool is_pop(const struct tr *t, const struct insn *in)
{
    return in->op == ISA_OP_POP && in->opnd[0].kind == ISA_OPND_MEM && in->opsize == (t->wide ? 8 : 4) &&
           in->adsize == in->opsize;
}

static bool is_read_selector(const struct insn *in)
{
    return in->op == ISA_OP_MOV && in->opnd[1].kind == ISA_OPND_SEG;
}

bool bits_can(const struct tr *t, const struct insn *in)
{
    if (!t->wide && in->seg == X86_CS)
        return false;
    return is_read_selector(in) || is_bit_string(in) || is_pop(t, in) || (in->op == ISA_OP_XLAT && in->adsize >= 4);
}

// --- bit strings ------------------------------------------------------------------------------------------------------------

// The host address of the element of the bit string that holds the bit.
static void emit_element(struct tr *t, bool write)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    unsigned size = in->opnd[0].size;
    flags_clobber(t);
    u64 retry = emit_here(e);
    mem_ea(t, HOST_T0);
    mem_get_reg(t, HOST_T1, in->opnd[1].reg);
    if (size < 8)
        emit_rr(e, 8, size == 4 ? 0x63 : 0x1bf, HOST_T1, HOST_T1); // movsxd, movsx
    emit_rr(e, 8, 0xc1, 7, HOST_T1);                               // sar
    emit1(e, 3);
    emit_alu_imm(e, 8, 4, HOST_T1, -(i32)size);
    emit_rr(e, in->adsize == 8 ? 8 : 4, 0x03, HOST_T0, HOST_T1);
    if (in->adsize == 2)
        emit_rr(e, 4, 0x1b7, HOST_T0, HOST_T0); // movzx
    mem_segment(t);
    mem_probe(t, retry, size, write);
}

// `opcode` for the operand's size; with LOCK where it is the guest's.
static void emit_sized(struct tr *t, unsigned opcode, unsigned reg, bool memory)
{
    const struct insn *in = tr_in(t);
    unsigned size = in->opnd[0].size;
    if (memory && in->prefix & ISA_PFX_LOCK && opcode > 0xff)
        emit1(&t->e, 0xf0);
    if (memory)
        emit_rm(&t->e, size, opcode, reg, HOST_T0, 0);
    else if (size == 2)
        emit1(&t->e, 0x66);
    if (!memory)
        emit_rr(&t->e, size == 8 ? 8 : 4, opcode, reg, HOST_T1);
}

// On a register the host takes the bit number modulo the size. What has to be done to memory itself needs it masked.
static void emit_bit_string(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    unsigned opcode = 0x100 | in->opcode;
    int bit = host_reg(in->opnd[1].reg);
    bool test = in->op == ISA_OP_BT, load = test || (bit >= 0 && !(in->prefix & ISA_PFX_LOCK));
    emit_element(t, !test);
    if (!load) {
        mem_get_reg(t, HOST_T1, in->opnd[1].reg);
        emit_alu_imm(e, 4, 4, HOST_T1, in->opnd[0].size * 8 - 1);
        emit_store(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
        flags_need(t);
        emit_load(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
        emit_sized(t, opcode, HOST_T1, true);
        return;
    }
    flags_need(t);
    emit_sized(t, 0x8b, HOST_T1, true);
    if (bit < 0)
        emit_load(e, 8, HOST_T0, context_reg(t, in->opnd[1].reg));
    emit_sized(t, opcode, bit < 0 ? HOST_T0 : (unsigned)bit, false);
    if (!test)
        emit_sized(t, 0x89, HOST_T1, true);
}

// --- XLAT, POP ----------------------------------------------------------------------------------------------------------------

static void emit_xlat(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    flags_clobber(t);
    u64 retry = emit_here(e);
    emit_rr(e, 4, 0x1b6, HOST_T0, X86_RAX); // movzx
    emit_lea(e, in->adsize, HOST_T0, HOST_T0, X86_RBX, 0, 0);
    mem_segment(t);
    mem_probe(t, retry, 1, false);
    emit_rm(e, 4, 0x8a, X86_RAX, HOST_T0, 0);
}

static void emit_pop_memory(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    unsigned size = in->opsize;
    i32 disp = mem_stack(t, X86_RSP, 0, false);
    emit_rm(e, size, 0x8b, HOST_T0, HOST_T0, disp);
    emit_store(e, 8, HOST_T0, &t->b->ctx->tmp[0]);
    flags_clobber(t);
    u64 retry = emit_here(e);
    mem_ea(t, HOST_T0);
    if (in->base == X86_RSP)
        emit_lea(e, size, HOST_T0, HOST_T0, X86_RSP, 0, (i32)size);
    mem_segment(t);
    mem_probe(t, retry, size, true);
    emit_load(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    emit_rm(e, size, 0x89, HOST_T1, HOST_T0, 0);
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, (i32)size);
}

static void emit_selector(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    i32 from_gpr = (i32)offsetof(struct cpu, seg[in->opnd[1].reg].sel) - (i32)offsetof(struct cpu, gpr);
    bool memory = in->opnd[0].kind == ISA_OPND_MEM;
    unsigned g = in->opnd[0].reg;
    if (memory)
        mem_operand(t, 2, true);
    emit_load(e, 8, HOST_T1, &t->b->ctx->gpr);
    emit_rm(e, 4, 0x1b7, HOST_T1, HOST_T1, from_gpr); // movzx
    if (memory)
        emit_rm(e, 2, 0x89, HOST_T1, HOST_T0, 0);
    else if (in->opnd[0].size > 2)
        mem_put_reg(t, g, HOST_T1);
    else if (host_reg(g) < 0)
        emit_store(e, 2, HOST_T1, context_reg(t, g));
    else {
        emit1(e, 0x66);
        emit_mov_rr(e, 4, (unsigned)host_reg(g), HOST_T1);
    }
}

bool tr_bits(struct tr *t)
{
    const struct insn *in = tr_in(t);
    if (is_read_selector(in)) {
        emit_selector(t);
    } else if (is_bit_string(in)) {
        emit_bit_string(t);
        flags_now_host(t);
    } else if (is_pop(t, in)) {
        emit_pop_memory(t);
    } else if (in->op == ISA_OP_XLAT) {
        emit_xlat(t);
    } else {
        return false;
    }
    return true;
}
