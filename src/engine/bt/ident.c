// Instructions on general registers and memory that stay what they are: encoded anew with other register numbers and with [r10] for
// the memory operand.
//
// Guest registers that live in the context are loaded into a scratch register before the instruction and stored after it. With a memory
// operand there is one scratch register left, without there are two; what needs more goes to the interpreter. AH CH DH BH cannot be
// named together with [r10], so RSI lends itself for the address.
#include "engine/bt/shape.h"
#include "isa/native.h"

#define NO_OPR 0xffu // in shape.at: no register in the opcode

// --- registers ------------------------------------------------------------------------------------------------------------------

// The host register for guest register g, which is in the context and operand i.
static u8 assign(struct shape *s, unsigned g, unsigned i)
{
    static const u8 scratch[2] = {HOST_T1, HOST_T0};
    unsigned access = s->f->access[i], size = s->in->opnd[i].size;
    bool partly = size < 4 || s->in->op == ISA_OP_BSF || s->in->op == ISA_OP_BSR || s->in->op == ISA_OP_CMOVCC;
    unsigned n = 0;
    while (n < s->scratches && s->guest[n] != g)
        n++;
    if (n == s->scratches) {
        if (n == (s->mem >= 0 ? 1u : 2u)) {
            s->ok = false;
            return HOST_T1;
        }
        s->scratches++;
        s->guest[n] = (u8)g;
        s->host[n] = scratch[n];
        s->load[n] = s->store[n] = false;
    }
    s->load[n] |= access & ISA_ACC_R || partly;
    s->store[n] |= (access & ISA_ACC_W) != 0;
    return s->host[n];
}

static void place_operand(struct shape *s, unsigned i)
{
    const struct isa_operand *o = &s->in->opnd[i];
    bool vector = o->kind == ISA_OPND_XMM || o->kind == ISA_OPND_YMM;
    if (o->kind == ISA_OPND_GPR8H)
        s->high = true;
    if (o->kind != ISA_OPND_GPR && o->kind != ISA_OPND_GPR8H && !vector)
        return;
    if (s->f->field[i] == ISA_FIELD_NO)
        return; // AL, CL, rAX, XMM0: the same in the host
    u8 h = o->reg;
    if (o->kind == ISA_OPND_GPR8H)
        h += 4;
    else if (o->kind == ISA_OPND_GPR)
        h = host_reg(o->reg) >= 0 ? (u8)host_reg(o->reg) : assign(s, o->reg, i);
    if (o->kind == ISA_OPND_GPR && o->size == 1 && h >= 4 && h < 8)
        s->low8 = true;
    s->at[s->f->field[i]] = h; // ISA_FIELD_IS4: a vector register, which is in the immediate
}

void shape_of(const struct insn *in, struct shape *s)
{
    *s = (struct shape){.in = in, .f = &isa_forms[in->form], .ok = true, .mem = isa_memory_operand(in)};
    s->vex = in->enc != ISA_ENC_LEGACY;
    s->at[ISA_FIELD_REG] = in->modrm >> 3 & 7; // an opcode's digit
    s->at[ISA_FIELD_OPR] = NO_OPR;
    for (unsigned i = 0; i < in->nopnd; i++)
        place_operand(s, i);
    unsigned opr = s->at[ISA_FIELD_OPR] & 15 & -(unsigned)(s->at[ISA_FIELD_OPR] != NO_OPR);
    bool rex = s->low8 || (s->at[ISA_FIELD_REG] | s->at[ISA_FIELD_RM] | opr) & 8;
    if (s->high && rex)
        s->ok = false;
    s->lent = s->high && s->mem >= 0;
}

bool mem_can(const struct tr *t, const struct insn *in)
{
    return t->wide || in->seg != X86_CS;
}

static bool is_division(const struct insn *in)
{
    return in->op == ISA_OP_DIV || in->op == ISA_OP_IDIV;
}

static bool division_can(const struct insn *in)
{
    return in->opnd[0].size > 1 || (in->op == ISA_OP_DIV && in->opnd[0].kind != ISA_OPND_GPR8H);
}

static bool is_excluded(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_MOV: return isa_forms[in->form].cls > ISA_CLASS_MEM;
    case ISA_OP_BSWAP: return in->opsize == 2;
    case ISA_OP_DIV:
    case ISA_OP_IDIV: return !division_can(in);
    // A register as bit number reaches memory beyond the operand.
    case ISA_OP_BT:
    case ISA_OP_BTS:
    case ISA_OP_BTR:
    case ISA_OP_BTC: return in->opnd[0].kind == ISA_OPND_MEM && in->opnd[1].kind != ISA_OPND_IMM;
    default: return false;
    }
}

bool ident_can(const struct tr *t, struct tr_insn *x)
{
    if (is_excluded(&x->in))
        return false;
    shape_of(&x->in, &x->shape);
    return x->shape.ok && (x->shape.mem < 0 || mem_can(t, &x->in));
}

// --- encoding -------------------------------------------------------------------------------------------------------------------

// F3 and F2 that are part of the opcode.
static bool has_mandatory(const struct insn *in)
{
    if (isa_forms[in->form].attr & ISA_ATTR_SSE)
        return true;
    switch (in->op) {
    case ISA_OP_POPCNT:
    case ISA_OP_TZCNT:
    case ISA_OP_LZCNT:
    case ISA_OP_CRC32:
    case ISA_OP_ADOX: return true;
    default: return false;
    }
}

// The base of the memory operand, and the bit of its index that REX and VEX have.
static unsigned mem_base(const struct shape *s)
{
    return s->lent ? X86_RSI : s->ref.has_base ? s->ref.base : HOST_T0;
}

static unsigned mem_index(const struct shape *s)
{
    return s->ref.has_base ? HOST_T0 & 8 : 0;
}

static void emit_vex(struct emit *e, const struct shape *s, const u8 *bytes)
{
    const struct insn *in = s->in;
    unsigned pp = bytes[in->opcode_off - 1] & 3, rm = s->mem >= 0 ? mem_base(s) : s->at[ISA_FIELD_RM];
    unsigned vvvv = s->at[ISA_FIELD_VVVV];
    bool w = in->rex & ISA_REX_W && !(in->mode != ISA_MODE_64 && native_w_is_size(in));
    EMIT(e, 0xc4,
         (u8)((s->at[ISA_FIELD_REG] & 8 ? 0 : 0x80) | (mem_index(s) ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) | in->map),
         (u8)((w ? 0x80 : 0) | (~vvvv & 15) << 3 | (in->vl == 32 ? 4 : 0) | pp), in->opcode);
}

// Opcodes that are something else in 64-bit code, and those whose operand has no ModRM.
static u8 opcode_of(const struct shape *s)
{
    const struct insn *in = s->in;
    u8 opr = s->at[ISA_FIELD_OPR];
    if (s->opcode)
        return s->opcode;
    if (in->map != ISA_MAP_1)
        return opr != NO_OPR ? (u8)((in->opcode & ~7) | (opr & 7)) : in->opcode;
    if (in->opcode >= 0xa0 && in->opcode <= 0xa3)
        return (u8)(in->opcode < 0xa2 ? in->opcode + 0x8a - 0xa0 : in->opcode + 0x88 - 0xa2);
    if (in->opcode == 0x82)
        return 0x80;
    if (opr == NO_OPR)
        return in->opcode;
    if (in->op == ISA_OP_INC || in->op == ISA_OP_DEC)
        return 0xff;
    return (u8)((in->opcode & ~7) | (opr & 7));
}

static void emit_opcode(struct emit *e, const struct shape *s, unsigned rm)
{
    const struct insn *in = s->in;
    unsigned opr = s->at[ISA_FIELD_OPR];
    bool one_byte_inc = opr != NO_OPR && in->map == ISA_MAP_1 && (in->op == ISA_OP_INC || in->op == ISA_OP_DEC);
    unsigned rex = (in->rex & ISA_REX_W) | (s->at[ISA_FIELD_REG] & 8) >> 1 | mem_index(s) >> 2 | (rm & 8) >> 3;
    struct emit_word w = {0, 0};
    if (opr != NO_OPR)
        rex |= opr >> 3;
    if (in->prefix & ISA_PFX_LOCK)
        word_put(&w, 0xf0);
    if (in->prefix & ISA_PFX_OPSIZE)
        word_put(&w, 0x66);
    if (in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE) && has_mandatory(in))
        word_put(&w, in->prefix & ISA_PFX_REP ? 0xf3 : 0xf2);
    if (rex || s->low8)
        word_put(&w, REX_BASE | rex);
    if (in->map != ISA_MAP_1)
        word_put(&w, 0x0f);
    if (in->map == ISA_MAP_0F38 || in->map == ISA_MAP_0F3A)
        word_put(&w, in->map == ISA_MAP_0F38 ? 0x38 : 0x3a);
    word_put(&w, opcode_of(s));
    emit_word(e, w);
    if (one_byte_inc)
        emit1(e, 0xc0 | (in->op == ISA_OP_DEC) << 3 | (opr & 7));
}

static void emit_insn(struct tr *t, const struct shape *s)
{
    struct emit *e = &t->e;
    const struct insn *in = s->in;
    const u8 *bytes = tr_now(t)->bytes;
    unsigned rm = s->mem >= 0 ? mem_base(s) : s->at[ISA_FIELD_RM];
    bool moffs = s->mem >= 0 && !in->has_modrm;
    if (s->lent)
        emit_rr(e, 8, 0x87, X86_RSI, HOST_T0); // xchg
    if (s->vex)
        emit_vex(e, s, bytes);
    else
        emit_opcode(e, s, in->has_modrm || moffs ? rm : 0);
    if (moffs)
        emit1(e, HOST_T0 & 7);
    else if (in->has_modrm && s->ref.has_base)
        emit_modrm_sib(e, s->at[ISA_FIELD_REG], rm, HOST_T0, s->ref.disp);
    else if (in->has_modrm && s->mem >= 0)
        emit_modrm_base(e, s->at[ISA_FIELD_REG], rm, s->ref.disp);
    else if (in->has_modrm)
        emit1(e, (in->modrm & 0xc0) | (s->at[ISA_FIELD_REG] & 7) << 3 | (rm & 7));
    if (!moffs)
        emit_bytes(e, bytes + in->imm_off, in->len - in->imm_off);
    if (s->f->field[3] == ISA_FIELD_IS4 && in->mode != ISA_MODE_64)
        e->p[-1] &= 0x7f; // bit 7 of a register immediate names nothing outside 64-bit mode
    if (s->lent)
        emit_rr(e, 8, 0x87, X86_RSI, HOST_T0);
}

void shape_emit(struct tr *t, const struct shape *s)
{
    for (unsigned n = 0; n < s->scratches; n++) {
        if (s->load[n])
            emit_load(&t->e, 8, s->host[n], context_reg(t, s->guest[n]));
    }
    emit_insn(t, s);
    for (unsigned n = 0; n < s->scratches; n++) {
        if (s->store[n])
            emit_store(&t->e, 8, s->host[n], context_reg(t, s->guest[n]));
    }
}

// --- particular instructions --------------------------------------------------------------------------------------------------------

bool tr_lea(struct tr *t)
{
    const struct insn *in = tr_in(t);
    unsigned g = in->opnd[0].reg;
    int h = host_reg(g);
    unsigned to = h >= 0 && in->opsize > 2 ? (unsigned)h : HOST_T0;
    if (in->opsize == 4)
        mem_ea32(t, to);
    else
        mem_ea(t, to);
    if (in->opsize == 2 && h >= 0) {
        emit1(&t->e, 0x66);
        emit_mov_rr(&t->e, 4, (unsigned)h, HOST_T0);
    } else if (h < 0) {
        emit_store(&t->e, in->opsize == 2 ? 2 : 8, HOST_T0, context_reg(t, g));
    }
    return true;
}

// The divisor into HOST_T1, sign-extended or zero-extended to 32 bits. With a memory operand HOST_T0 is its address.
static void emit_divisor(struct tr *t, const struct shape *s)
{
    struct emit *e = &t->e;
    unsigned size = s->in->opnd[0].size;
    unsigned extend = (s->in->op == ISA_OP_DIV ? 0x1b6 : 0x1be) + (size == 2); // movzx, movsx
    if (s->mem >= 0) {
        emit_rm(e, size == 8 ? 8 : 4, size >= 4 ? 0x8b : extend, HOST_T1, HOST_T0, 0);
        return;
    }
    mem_get_reg(t, HOST_T1, s->in->opnd[0].reg);
    if (size < 4)
        emit_rr(e, 4, extend, HOST_T1, HOST_T1);
}

// DIV and IDIV that would raise an error, and signed ones whose dividend is not the extension of its lower half, are the
// interpreter's.
static void emit_div_checks(struct tr *t, const struct shape *s)
{
    struct emit *e = &t->e;
    unsigned size = s->in->opnd[0].size, wide = size == 8 ? 8 : 4;
    emit_divisor(t, s);
    if (s->in->op == ISA_OP_DIV) {
        if (size == 1)
            EMIT(e, 0x41, 0xc1, 0xe3, 8); // shl r11d, 8
        if (size < 4)
            emit1(e, 0x66);
        emit_rr(e, wide, 0x3b, size == 1 ? X86_RAX : X86_RDX, HOST_T1); // cmp: upper half, divisor
        tr_step_if(t, CC_AE)->access = SITE_RAISES + X86_EXC_DE;
        return;
    }
    emit_alu_imm(e, wide, 0, HOST_T1, 1); // 0 and -1
    emit_alu_imm(e, wide, 7, HOST_T1, 1);
    tr_step_if(t, CC_BE);
    if (size == 2)
        emit_rr(e, 4, 0x1bf, HOST_T1, X86_RAX); // movsx
    else
        emit_mov_rr(e, wide, HOST_T1, X86_RAX);
    emit_rr(e, wide, 0xc1, 7, HOST_T1); // sar
    emit1(e, size == 8 ? 63 : 31);
    if (size == 2)
        emit1(e, 0x66);
    emit_rr(e, wide, 0x3b, HOST_T1, X86_RDX);
    tr_step_if(t, CC_NE);
}

// The flags that the current instruction looks at or passes through. True: afterwards they are FLAGS_HALF.
static bool flags_ready(struct tr *t, struct shape *s, bool kept)
{
    const struct tr_insn *x = tr_now(t);
    unsigned op = x->in.op;
    if (op == ISA_OP_INC || op == ISA_OP_DEC)
        return flags_pass_carry(t, kept);
    if (op == ISA_OP_SETCC || op == ISA_OP_CMOVCC)
        s->opcode = (u8)((x->in.opcode & 0xf0) | flags_condition(t, x->in.opcode & 15));
    else if (x->reads == X86_FL_CF && x->kills == X86_FL_STATUS)
        flags_need_carry(t);
    else
        flags_need(t);
    return false;
}

bool tr_ident(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct shape *s = &tr_now(t)->shape;
    bool wanted = flags_wanted(t);
    if (s->mem >= 0) {
        bool write = s->f->access[s->mem] & ISA_ACC_W;
        bool plain = is_division(in) || in->op == ISA_OP_CMPXCHG16B || s->lent;
        if (plain)
            mem_operand(t, in->opnd[s->mem].size, write);
        else
            s->ref = mem_operand_ref(t, in->opnd[s->mem].size, write);
        if (in->op == ISA_OP_CMPXCHG16B) {
            flags_clobber(t);
            EMIT(&t->e, 0x41, 0xf6, 0xc2, 15); // test r10b, 15
            tr_step_if(t, CC_NE);
        }
    }
    if (is_division(in)) {
        flags_clobber(t);
        emit_div_checks(t, s);
    }
    bool kept = flags_keep_memory(t), half = wanted && flags_ready(t, s, kept);
    if (!kept)
        flags_keep_shifted(t);
    if (kept)
        recipe_emit_memory(t, s);
    else
        shape_emit(t, s);
    if (tr_now(t)->form->is & FORM_STATUS)
        flags_now_host(t);
    if (half)
        t->flags = FLAGS_HALF;
    return true;
}
