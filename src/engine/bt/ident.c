// Instructions on general registers and memory that stay what they are: encoded anew with other register numbers and with [r10] for
// the memory operand.
//
// Guest registers that live in the context are loaded into a scratch register before the instruction and stored after it. With a memory
// operand there is one scratch register left, without there are two; what needs more goes to the interpreter. AH CH DH BH cannot be
// named together with [r10], so RSI lends itself for the address.
#include "engine/bt/shape.h"
#include "isa/native.h"

static bool is_known(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_ADD:
    case ISA_OP_OR:
    case ISA_OP_ADC:
    case ISA_OP_SBB:
    case ISA_OP_AND:
    case ISA_OP_SUB:
    case ISA_OP_XOR:
    case ISA_OP_CMP:
    case ISA_OP_TEST:
    case ISA_OP_INC:
    case ISA_OP_DEC:
    case ISA_OP_NEG:
    case ISA_OP_NOT:
    case ISA_OP_MOVZX:
    case ISA_OP_MOVSX:
    case ISA_OP_MOVSXD:
    case ISA_OP_MOVNTI:
    case ISA_OP_XCHG:
    case ISA_OP_ROL:
    case ISA_OP_ROR:
    case ISA_OP_RCL:
    case ISA_OP_RCR:
    case ISA_OP_SHL:
    case ISA_OP_SHR:
    case ISA_OP_SAR:
    case ISA_OP_SHLD:
    case ISA_OP_SHRD:
    case ISA_OP_BSF:
    case ISA_OP_BSR:
    case ISA_OP_TZCNT:
    case ISA_OP_LZCNT:
    case ISA_OP_POPCNT:
    case ISA_OP_IMUL:
    case ISA_OP_MUL:
    case ISA_OP_DIV:
    case ISA_OP_IDIV:
    case ISA_OP_CBW:
    case ISA_OP_CWD:
    case ISA_OP_CMOVCC:
    case ISA_OP_SETCC:
    case ISA_OP_MOVBE:
    case ISA_OP_XADD:
    case ISA_OP_CMPXCHG:
    case ISA_OP_CMPXCHG8B:
    case ISA_OP_CMPXCHG16B:
    case ISA_OP_LAHF:
    case ISA_OP_SAHF:
    case ISA_OP_CLC:
    case ISA_OP_STC:
    case ISA_OP_CMC:
    case ISA_OP_CRC32:
    case ISA_OP_ADCX:
    case ISA_OP_ADOX:
    case ISA_OP_ANDN:
    case ISA_OP_BEXTR:
    case ISA_OP_BLSI:
    case ISA_OP_BLSMSK:
    case ISA_OP_BLSR:
    case ISA_OP_BZHI:
    case ISA_OP_MULX:
    case ISA_OP_PDEP:
    case ISA_OP_PEXT:
    case ISA_OP_RORX:
    case ISA_OP_SARX:
    case ISA_OP_SHLX:
    case ISA_OP_SHRX:
    case ISA_OP_LFENCE:
    case ISA_OP_MFENCE:
    case ISA_OP_SFENCE: return true;
    case ISA_OP_MOV: return isa_forms[in->form].cls <= ISA_CLASS_MEM;
    case ISA_OP_BSWAP: return in->opsize != 2;
    // A register as bit number reaches memory beyond the operand.
    case ISA_OP_BT:
    case ISA_OP_BTS:
    case ISA_OP_BTR:
    case ISA_OP_BTC: return in->opnd[0].kind != ISA_OPND_MEM || in->opnd[1].kind == ISA_OPND_IMM;
    default: return false;
    }
}

static bool is_nothing(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_NOP:
    case ISA_OP_PAUSE:
    case ISA_OP_PREFETCH:
    case ISA_OP_PREFETCHW:
    case ISA_OP_PREFETCHNTA:
    case ISA_OP_PREFETCHT0:
    case ISA_OP_PREFETCHT1:
    case ISA_OP_PREFETCHT2: return true;
    default: return false;
    }
}

// --- registers ------------------------------------------------------------------------------------------------------------------

// The host register for guest register g, which operand i is.
static u8 assign(struct shape *s, unsigned g, unsigned i)
{
    static const u8 scratch[2] = {HOST_T1, HOST_T0};
    unsigned access = s->f->access[i], size = s->in->opnd[i].size;
    bool partly = size < 4 || s->in->op == ISA_OP_BSF || s->in->op == ISA_OP_BSR || s->in->op == ISA_OP_CMOVCC;
    if (host_reg(g) >= 0)
        return (u8)host_reg(g);
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
    u8 h = o->kind == ISA_OPND_GPR ? assign(s, o->reg, i) : vector ? o->reg : o->reg + 4;
    if (o->kind == ISA_OPND_GPR && o->size == 1 && h >= 4 && h < 8)
        s->low8 = true;
    switch (s->f->field[i]) {
    case ISA_FIELD_REG: s->reg = h; break;
    case ISA_FIELD_RM: s->rm = h; break;
    case ISA_FIELD_VVVV: s->vvvv = h; break;
    case ISA_FIELD_OPR: s->opr = h; break;
    case ISA_FIELD_IS4: break; // a vector register, in the immediate
    default: s->ok = false; break;
    }
}

struct shape shape_of(const struct insn *in)
{
    struct shape s = {
        .in = in, .f = &isa_forms[in->form], .ok = true, .mem = isa_memory_operand(in), .ref.index = MEM_NO_INDEX};
    s.vex = in->enc != ISA_ENC_LEGACY;
    s.reg = in->has_modrm ? in->modrm >> 3 & 7 : 0; // an opcode's digit
    s.opr = 0xff;
    for (unsigned i = 0; i < in->nopnd; i++)
        place_operand(&s, i);
    bool rex = s.low8 || s.reg >= 8 || s.rm >= 8 || (s.opr != 0xff && s.opr >= 8);
    if (s.high && rex)
        s.ok = false;
    s.lent = s.high && s.mem >= 0;
    return s;
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

bool ident_can(const struct tr *t, const struct insn *in)
{
    if (in->op == ISA_OP_PAUSE)
        return t->b->in.v->machine->vcpu_count == 1; // of several, each gives way now and then
    if (is_nothing(in) || in->op == ISA_OP_LEA)
        return true;
    if (!is_known(in) || (is_division(in) && !division_can(in)))
        return false;
    struct shape s = shape_of(in);
    return s.ok && (s.mem < 0 || mem_can(t, in));
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

static bool has_index(const struct shape *s)
{
    return s->mem >= 0 && s->ref.index != MEM_NO_INDEX;
}

static void emit_vex(struct emit *e, const struct shape *s, const u8 *bytes)
{
    const struct insn *in = s->in;
    unsigned pp = bytes[in->opcode_off - 1] & 3, rm = s->mem >= 0 ? HOST_T0 : s->rm;
    unsigned vvvv = s->vvvv;
    bool w = in->rex & ISA_REX_W && !(in->mode != ISA_MODE_64 && native_w_is_size(in));
    unsigned x = has_index(s) && s->ref.index & 8 ? 0 : 0x40;
    EMIT(e, 0xc4, (u8)((s->reg & 8 ? 0 : 0x80) | x | (rm & 8 ? 0 : 0x20) | in->map),
         (u8)((w ? 0x80 : 0) | (~vvvv & 15) << 3 | (in->vl == 32 ? 4 : 0) | pp), in->opcode);
}

// Opcodes that are something else in 64-bit code, and those whose operand has no ModRM.
static u8 opcode_of(const struct shape *s)
{
    const struct insn *in = s->in;
    if (in->map != ISA_MAP_1)
        return s->opr != 0xff ? (u8)((in->opcode & ~7) | (s->opr & 7)) : in->opcode;
    if (in->opcode >= 0xa0 && in->opcode <= 0xa3)
        return (u8)(in->opcode < 0xa2 ? in->opcode + 0x8a - 0xa0 : in->opcode + 0x88 - 0xa2);
    if (in->opcode == 0x82)
        return 0x80;
    if (s->opr == 0xff)
        return in->opcode;
    if (in->op == ISA_OP_INC || in->op == ISA_OP_DEC)
        return 0xff;
    return (u8)((in->opcode & ~7) | (s->opr & 7));
}

static void emit_opcode(struct emit *e, const struct shape *s, unsigned rm)
{
    const struct insn *in = s->in;
    bool one_byte_inc = s->opr != 0xff && in->map == ISA_MAP_1 && (in->op == ISA_OP_INC || in->op == ISA_OP_DEC);
    unsigned rex = (in->rex & ISA_REX_W) | (s->reg & 8) >> 1 | (rm & 8) >> 3;
    if (s->opr != 0xff)
        rex |= s->opr >> 3;
    if (has_index(s))
        rex |= (s->ref.index & 8) >> 2;
    if (in->prefix & ISA_PFX_LOCK)
        emit1(e, 0xf0);
    if (in->prefix & ISA_PFX_OPSIZE)
        emit1(e, 0x66);
    if (has_mandatory(in) && in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE))
        emit1(e, in->prefix & ISA_PFX_REP ? 0xf3 : 0xf2);
    if (rex || s->low8)
        emit1(e, REX_BASE | rex);
    if (in->map != ISA_MAP_1)
        emit1(e, 0x0f);
    if (in->map == ISA_MAP_0F38 || in->map == ISA_MAP_0F3A)
        emit1(e, in->map == ISA_MAP_0F38 ? 0x38 : 0x3a);
    emit1(e, opcode_of(s));
    if (one_byte_inc)
        emit1(e, 0xc0 | (in->op == ISA_OP_DEC) << 3 | (s->opr & 7));
}

static void emit_insn(struct tr *t, const struct shape *s)
{
    struct emit *e = &t->e;
    const struct insn *in = s->in;
    const u8 *bytes = tr_now(t)->bytes;
    unsigned rm = s->lent ? X86_RSI : s->mem >= 0 ? HOST_T0 : s->rm;
    bool moffs = s->mem >= 0 && !in->has_modrm;
    if (s->lent)
        emit_rr(e, 8, 0x87, X86_RSI, HOST_T0); // xchg
    if (s->vex)
        emit_vex(e, s, bytes);
    else
        emit_opcode(e, s, in->has_modrm || moffs ? rm : 0);
    if (moffs)
        emit1(e, HOST_T0 & 7);
    else if (has_index(s))
        emit_sib(e, s->reg, HOST_T0, s->ref.index, 0, s->ref.disp);
    else if (in->has_modrm && s->mem >= 0)
        emit_modrm_base(e, s->reg, rm, s->ref.disp);
    else if (in->has_modrm)
        emit1(e, (in->modrm & 0xc0) | (s->reg & 7) << 3 | (rm & 7));
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

static void emit_lea_insn(struct tr *t)
{
    const struct insn *in = tr_in(t);
    unsigned g = in->opnd[0].reg;
    int h = host_reg(g);
    if (h >= 0 && in->opsize == 8) {
        mem_ea(t, (unsigned)h);
        return;
    }
    mem_ea(t, HOST_T0);
    if (in->opsize == 2 && h >= 0) {
        emit1(&t->e, 0x66);
        emit_mov_rr(&t->e, 4, (unsigned)h, HOST_T0);
    } else if (in->opsize == 2) {
        emit_store(&t->e, 2, HOST_T0, context_reg(t, g));
    } else if (h >= 0) {
        emit_mov_rr(&t->e, in->opsize, (unsigned)h, HOST_T0);
    } else {
        if (in->opsize == 4)
            emit_mov_rr(&t->e, 4, HOST_T0, HOST_T0);
        emit_store(&t->e, 8, HOST_T0, context_reg(t, g));
    }
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
        tr_step_if(t, CC_AE);
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

bool tr_ident(struct tr *t)
{
    const struct insn *in = tr_in(t);
    if (is_nothing(in))
        return true;
    if (in->op == ISA_OP_LEA) {
        emit_lea_insn(t);
        return true;
    }
    struct shape s = shape_of(in);
    const struct isa_form_info *f = s.f;
    bool wanted = flags_wanted(t);
    if (s.mem >= 0) {
        bool write = f->access[s.mem] & ISA_ACC_W;
        bool plain = is_division(in) || in->op == ISA_OP_CMPXCHG16B || s.lent;
        if (plain)
            mem_operand(t, in->opnd[s.mem].size, write);
        else
            mem_operand_ref(t, in->opnd[s.mem].size, write, &s.ref);
        if (in->op == ISA_OP_CMPXCHG16B) {
            flags_clobber(t);
            EMIT(&t->e, 0x41, 0xf6, 0xc2, 15); // test r10b, 15
            tr_step_if(t, CC_NE);
        }
    }
    if (is_division(in)) {
        flags_clobber(t);
        emit_div_checks(t, &s);
    }
    if (wanted)
        flags_need(t);
    shape_emit(t, &s);
    if ((f->flags_written | f->flags_undef) & X86_FL_STATUS)
        flags_now_host(t);
    return true;
}
