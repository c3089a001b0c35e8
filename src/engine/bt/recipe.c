// Recipes: how status flags that are nowhere can be had again.
//
// Most flags follow from two operands, or from a result and an operand, and the instruction that wrote them can be run again on those
// as long as they are what they were. Each of them is an immediate, a guest register, or has been *kept*, by one store in the
// context: because the register is about to be overwritten, or because it came from memory. INC and DEC leave CF as it was; with
// their recipe goes that CF is in the slot.
//
// To keep an operand costs less than to save the flags, but nothing at all would be better still: it is done only where flags are lost
// before long while somebody may look at them.
#include "engine/bt/translate.h"

enum { OP_ADD = 0, OP_OR = 1, OP_AND = 4, OP_SUB = 5, OP_XOR = 6, OP_CMP = 7 };

// --- encoding, of any operand size ----------------------------------------------------------------------------------------------

static unsigned sized(unsigned size, unsigned opcode)
{
    return size == 1 ? opcode - 1 : opcode;
}

static void op_rr(struct emit *e, unsigned size, unsigned opcode, unsigned reg, unsigned rm)
{
    if (size == 2)
        emit1(e, 0x66);
    if (size == 1) // with REX, for SPL and friends
        EMIT(e, (u8)(REX_BASE | (reg >> 3) << 2 | rm >> 3), (u8)(opcode - 1), (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
    else
        emit_rr(e, size, opcode, reg, rm);
}

static void op_rip(struct emit *e, unsigned size, unsigned opcode, unsigned reg, const void *addr, unsigned imm)
{
    if (size == 1 && reg < 8)
        emit1(e, REX_BASE);
    emit_rip(e, size == 1 ? 4 : size, sized(size, opcode), reg, addr, imm);
}

static void put_imm(struct emit *e, unsigned size, i32 imm)
{
    if (size == 1)
        emit1(e, (u8)imm);
    else if (size == 2)
        emit2(e, (u16)imm);
    else
        emit4(e, (u32)imm);
}

static unsigned imm_bytes(unsigned size)
{
    return size > 4 ? 4 : size;
}

static void op_imm(struct emit *e, unsigned size, unsigned digit, unsigned reg, i32 imm)
{
    bool is_short = size > 1 && imm >= -128 && imm <= 127;
    op_rr(e, size, is_short ? 0x83 : 0x81, digit, reg);
    put_imm(e, is_short ? 1 : size, imm);
}

// --- operands -------------------------------------------------------------------------------------------------------------------

// The host register that an operand is in, or -1: it is in the context.
static int in_host(unsigned g)
{
    return g < RECIPE_KEPT ? host_reg(g) : -1;
}

static u64 *in_context(const struct tr *t, unsigned g)
{
    return g < RECIPE_KEPT ? context_reg(t, g) : &t->b->ctx->kept[g - RECIPE_KEPT];
}

static void load(struct tr *t, unsigned to, unsigned g)
{
    if (in_host(g) >= 0)
        emit_mov_rr(&t->e, 8, to, (unsigned)in_host(g));
    else
        emit_load(&t->e, 8, to, in_context(t, g));
}

// op reg, the recipe's second operand.
static void op_second(struct tr *t, const struct bt_recipe *r, unsigned op, unsigned reg)
{
    if (r->b == ISA_REG_NONE)
        op_imm(&t->e, r->size, op, reg, r->imm);
    else if (in_host(r->b) >= 0)
        op_rr(&t->e, r->size, op << 3 | 3, reg, (unsigned)in_host(r->b));
    else
        op_rip(&t->e, r->size, op << 3 | 3, reg, in_context(t, r->b), 0);
}

// --- again ----------------------------------------------------------------------------------------------------------------------

static void emit_compare(struct tr *t, const struct bt_recipe *r)
{
    struct emit *e = &t->e;
    bool is_short = r->imm >= -128 && r->imm <= 127 && r->size > 1;
    if (in_host(r->a) >= 0) {
        op_second(t, r, OP_CMP, (unsigned)in_host(r->a));
    } else if (r->b == ISA_REG_NONE) {
        unsigned n = is_short ? 1 : imm_bytes(r->size);
        if (r->size == 1)
            emit_rip(e, 4, 0x80, OP_CMP, in_context(t, r->a), n);
        else
            emit_rip(e, r->size, is_short ? 0x83 : 0x81, OP_CMP, in_context(t, r->a), n);
        put_imm(e, is_short ? 1 : r->size, r->imm);
    } else if (in_host(r->b) >= 0) {
        op_rip(e, r->size, 0x39, (unsigned)in_host(r->b), in_context(t, r->a), 0);
    } else {
        load(t, HOST_T1, r->a);
        op_second(t, r, OP_CMP, HOST_T1);
    }
}

static void emit_test(struct tr *t, const struct bt_recipe *r)
{
    struct emit *e = &t->e;
    unsigned a = HOST_T1;
    if (in_host(r->a) >= 0)
        a = (unsigned)in_host(r->a);
    else
        load(t, HOST_T1, r->a);
    if (r->kind == RECIPE_LOGIC) {
        op_rr(e, r->size, 0x85, a, a);
    } else if (r->b == ISA_REG_NONE) {
        op_rr(e, r->size, 0xf7, 0, a);
        put_imm(e, r->size, r->imm);
    } else if (in_host(r->b) >= 0) {
        op_rr(e, r->size, 0x85, (unsigned)in_host(r->b), a);
    } else {
        op_rip(e, r->size, 0x85, a, in_context(t, r->b), 0);
    }
}

// The first operand, from the result: into HOST_T1.
static void emit_original(struct tr *t, const struct bt_recipe *r)
{
    struct emit *e = &t->e;
    int a = in_host(r->a), b = r->b == ISA_REG_NONE ? X86_RSP : in_host(r->b);
    bool step = r->kind == RECIPE_INC || r->kind == RECIPE_DEC;
    if (step && a >= 0 && r->size >= 4) {
        emit_lea(e, r->size, HOST_T1, (unsigned)a, X86_RSP, 0, r->kind == RECIPE_INC ? -1 : 1);
    } else if (r->kind == RECIPE_SUB && a >= 0 && b >= 0 && r->size >= 4) {
        emit_lea(e, r->size, HOST_T1, (unsigned)a, (unsigned)b, 0, r->imm);
    } else {
        load(t, HOST_T1, r->a);
        if (step)
            op_imm(e, r->size, r->kind == RECIPE_INC ? OP_SUB : OP_ADD, HOST_T1, 1);
        else if (r->kind == RECIPE_NEG)
            op_rr(e, r->size, 0xf7, 3, HOST_T1);
        else if (r->kind == RECIPE_SUB || r->kind == RECIPE_ADD)
            op_second(t, r, r->kind == RECIPE_SUB ? OP_ADD : OP_SUB, HOST_T1);
    }
}

static unsigned shift_digit(unsigned kind)
{
    return kind == RECIPE_SHL ? 4 : kind == RECIPE_SHR ? 5 : 7;
}

void recipe_emit(struct tr *t, const struct bt_recipe *r, bool carry)
{
    struct emit *e = &t->e;
    switch (r->kind) {
    case RECIPE_CMP: emit_compare(t, r); return;
    case RECIPE_TEST:
    case RECIPE_LOGIC: emit_test(t, r); return;
    default: break;
    }
    emit_original(t, r);
    switch (r->kind) {
    case RECIPE_SUB: op_second(t, r, OP_CMP, HOST_T1); break;
    case RECIPE_ADD: op_second(t, r, OP_ADD, HOST_T1); break;
    case RECIPE_NEG: op_rr(e, r->size, 0xf7, 3, HOST_T1); break;
    case RECIPE_INC:
    case RECIPE_DEC:
        if (carry)
            recipe_emit_carry(t);
        op_rr(e, r->size, 0xff, r->kind == RECIPE_DEC, HOST_T1);
        break;
    default:
        op_rr(e, r->size, 0xc1, shift_digit(r->kind), HOST_T1);
        emit1(e, (u8)r->imm);
        break;
    }
}

void recipe_emit_result(struct tr *t, const struct bt_recipe *r)
{
    struct bt_recipe logic = *r;
    logic.kind = RECIPE_LOGIC;
    emit_test(t, &logic);
}

void recipe_emit_carry(struct tr *t)
{
    emit_rip(&t->e, 4, 0x1ba, 4, &t->b->ctx->slot, 1); // bt dword [slot], 8
    emit1(&t->e, 8);
}

// --- which ----------------------------------------------------------------------------------------------------------------------

static unsigned kind_of(const struct tr *t, const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_CMP: return RECIPE_CMP;
    case ISA_OP_TEST: return RECIPE_TEST;
    case ISA_OP_SUB: return RECIPE_SUB;
    case ISA_OP_ADD: return RECIPE_ADD;
    case ISA_OP_AND:
    case ISA_OP_OR:
    case ISA_OP_XOR: return t->b->host_flags.logic_same ? RECIPE_LOGIC : RECIPE_NONE;
    case ISA_OP_INC: return RECIPE_INC;
    case ISA_OP_DEC: return RECIPE_DEC;
    case ISA_OP_NEG: return RECIPE_NEG;
    default: return RECIPE_NONE;
    }
}

static bool is_unary(unsigned kind)
{
    return kind == RECIPE_INC || kind == RECIPE_DEC || kind == RECIPE_NEG;
}

bool recipe_has_carry(const struct bt_recipe *r)
{
    return r->kind != RECIPE_INC && r->kind != RECIPE_DEC;
}

struct bt_recipe recipe_of(const struct tr *t)
{
    const struct insn *in = tr_in(t);
    const struct isa_operand *o = in->opnd;
    struct bt_recipe r = {.kind = (u8)kind_of(t, in), .size = (u8)o[0].size, .a = o[0].reg, .b = ISA_REG_NONE};
    bool logic = r.kind == RECIPE_LOGIC;
    bool ok = o[0].kind == ISA_OPND_GPR && (is_unary(r.kind) ? in->nopnd == 1 : in->nopnd == 2);
    if (ok && !is_unary(r.kind) && o[1].kind == ISA_OPND_IMM) {
        r.imm = logic ? 0 : (i32)in->imm;
    } else if (ok && !is_unary(r.kind)) {
        bool same = o[1].kind == ISA_OPND_GPR && o[1].reg == o[0].reg && (r.kind == RECIPE_ADD || r.kind == RECIPE_SUB);
        ok = !same && (o[1].kind == ISA_OPND_GPR || logic);
        r.b = logic ? ISA_REG_NONE : o[1].reg;
    }
    if (!ok)
        r.kind = RECIPE_NONE;
    return r;
}

static bool writes(const struct insn *in, unsigned reg)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    if (f->implicit_written & ISA_IMPLICIT_GPR(reg))
        return true;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct isa_operand *o = &in->opnd[i];
        if ((o->kind == ISA_OPND_GPR || o->kind == ISA_OPND_GPR8H) && o->reg == reg && f->access[i] & ISA_ACC_W)
            return true;
    }
    return false;
}

static bool spoils_operand(const struct tr *t, unsigned g)
{
    return g < RECIPE_KEPT && (t->insn[t->i].step || writes(tr_in(t), g));
}

bool recipe_spoiled(const struct tr *t)
{
    const struct bt_recipe *r = &t->recipe;
    return r->kind && (t->insn[t->i].step || spoils_operand(t, r->a) || spoils_operand(t, r->b));
}

// --- keeping --------------------------------------------------------------------------------------------------------------------

static void keep_one(struct tr *t, u8 *g, unsigned n)
{
    unsigned from = HOST_T1;
    if (in_host(*g) >= 0)
        from = (unsigned)in_host(*g);
    else
        load(t, from, *g);
    emit_store(&t->e, 8, from, &t->b->ctx->kept[n]);
    *g = (u8)(RECIPE_KEPT + n);
}

void recipe_keep(struct tr *t)
{
    struct bt_recipe *r = &t->recipe;
    if (spoils_operand(t, r->a))
        keep_one(t, &r->a, 0);
    if (spoils_operand(t, r->b))
        keep_one(t, &r->b, 1);
}

void recipe_keep_shifted(struct tr *t)
{
    const struct tr_insn *x = tr_now(t);
    const struct insn *in = &x->in;
    unsigned op = in->op;
    bool shift = op == ISA_OP_SHL || op == ISA_OP_SHR || op == ISA_OP_SAR;
    if (!shift || x->kills != X86_FL_STATUS || in->opnd[0].kind != ISA_OPND_GPR)
        return;
    t->made = (struct bt_recipe){.kind = op == ISA_OP_SHL   ? RECIPE_SHL
                                         : op == ISA_OP_SHR ? RECIPE_SHR
                                                            : RECIPE_SAR,
                                 .size = (u8)in->opnd[0].size,
                                 .a = in->opnd[0].reg,
                                 .b = ISA_REG_NONE,
                                 .imm = (i32)in->imm};
    keep_one(t, &t->made.a, 0);
}

bool recipe_can_keep_memory(const struct tr *t, const struct shape *s)
{
    const struct insn *in = tr_in(t);
    unsigned kind = kind_of(t, in), other = s->mem == 0;
    if (kind == RECIPE_NONE || s->mem < 0 || s->scratches || s->lent || in->prefix & ISA_PFX_LOCK)
        return false;
    if (kind == RECIPE_LOGIC && s->mem == 1)
        return false; // the result is in a register
    return is_unary(kind) || in->opnd[other].kind == ISA_OPND_GPR || in->opnd[other].kind == ISA_OPND_IMM;
}

static void op_memory(struct emit *e, unsigned size, unsigned opcode, struct mem_ref m)
{
    if (m.has_base)
        emit_word_sib(e, word_opcode(size, opcode, HOST_T1, HOST_T0, m.base), HOST_T1, m.base, HOST_T0, 0, m.disp);
    else
        emit_rm(e, size, opcode, HOST_T1, HOST_T0, m.disp);
}

// What is in HOST_T1 with what the register or the immediate is.
static void op_other(struct tr *t, const struct insn *in, unsigned kind, unsigned size)
{
    static const u8 ops[] = {[RECIPE_CMP] = OP_CMP, [RECIPE_SUB] = OP_SUB, [RECIPE_ADD] = OP_ADD};
    struct emit *e = &t->e;
    bool imm = in->opnd[1].kind == ISA_OPND_IMM;
    unsigned reg = imm ? 0 : (unsigned)host_reg(in->opnd[1].reg);
    unsigned op = in->op == ISA_OP_AND ? OP_AND : in->op == ISA_OP_OR ? OP_OR : OP_XOR;
    if (kind == RECIPE_NEG) {
        op_rr(e, size, 0xf7, 3, HOST_T1);
    } else if (is_unary(kind)) {
        op_rr(e, size, 0xff, kind == RECIPE_DEC, HOST_T1);
    } else if (kind == RECIPE_TEST && imm) {
        op_rr(e, size, 0xf7, 0, HOST_T1);
        put_imm(e, size, (i32)in->imm);
    } else if (kind == RECIPE_TEST) {
        op_rr(e, size, 0x85, reg, HOST_T1);
    } else {
        op = kind == RECIPE_LOGIC ? op : ops[kind];
        if (imm)
            op_imm(e, size, op, HOST_T1, (i32)in->imm);
        else
            op_rr(e, size, op << 3 | 3, HOST_T1, reg);
    }
}

void recipe_emit_memory(struct tr *t, const struct shape *s)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    unsigned kind = kind_of(t, in), size = in->opnd[0].size;
    bool first = s->mem == 0, changes = s->f->access[s->mem] & ISA_ACC_W;
    u64 *kept = &t->b->ctx->kept[!first];
    t->made = (struct bt_recipe){.kind = (u8)kind, .size = (u8)size, .a = RECIPE_KEPT, .b = ISA_REG_NONE};
    if (size < 4)
        op_memory(e, 4, size == 1 ? 0x1b6 : 0x1b7, s->ref); // movzx
    else
        op_memory(e, size, 0x8b, s->ref);
    if (!changes)
        emit_store(e, 8, HOST_T1, kept);
    if (!first) { // op reg, [memory]
        unsigned op = kind == RECIPE_CMP ? OP_CMP : kind == RECIPE_SUB ? OP_SUB : OP_ADD;
        unsigned reg = (unsigned)host_reg(in->opnd[0].reg);
        t->made.a = in->opnd[0].reg;
        t->made.b = RECIPE_KEPT + 1;
        op_rr(e, size, kind == RECIPE_TEST ? 0x85 : op << 3 | 3, kind == RECIPE_TEST ? HOST_T1 : reg,
              kind == RECIPE_TEST ? reg : HOST_T1);
        return;
    }
    op_other(t, in, kind, size);
    if (kind != RECIPE_LOGIC && !is_unary(kind)) {
        t->made.b = in->opnd[1].kind == ISA_OPND_IMM ? ISA_REG_NONE : in->opnd[1].reg;
        t->made.imm = in->opnd[1].kind == ISA_OPND_IMM ? (i32)in->imm : 0;
    }
    if (!changes)
        return;
    if (size == 1)
        op_memory(e, 4, 0x88, s->ref);
    else
        op_memory(e, size, 0x89, s->ref);
    emit_store(e, 8, HOST_T1, kept);
}
