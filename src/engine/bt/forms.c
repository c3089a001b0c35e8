// What the translator knows of each instruction form beforehand, so that an instruction costs one look at a small table: who emits it,
// and which questions about it need not be asked.
#include "engine/bt/shape.h"

// By operation, where neither x87_form() nor vector_form() claims it. bits.c has the first word on those that ask for it.
static const u8 emitters[ISA_OP_COUNT] = {
    // ident.c
    [ISA_OP_ADD] = TR_IDENT,
    [ISA_OP_OR] = TR_IDENT,
    [ISA_OP_ADC] = TR_IDENT,
    [ISA_OP_SBB] = TR_IDENT,
    [ISA_OP_AND] = TR_IDENT,
    [ISA_OP_SUB] = TR_IDENT,
    [ISA_OP_XOR] = TR_IDENT,
    [ISA_OP_CMP] = TR_IDENT,
    [ISA_OP_TEST] = TR_IDENT,
    [ISA_OP_INC] = TR_IDENT,
    [ISA_OP_DEC] = TR_IDENT,
    [ISA_OP_NEG] = TR_IDENT,
    [ISA_OP_NOT] = TR_IDENT,
    [ISA_OP_MOV] = TR_IDENT,
    [ISA_OP_MOVZX] = TR_IDENT,
    [ISA_OP_MOVSX] = TR_IDENT,
    [ISA_OP_MOVSXD] = TR_IDENT,
    [ISA_OP_MOVNTI] = TR_IDENT,
    [ISA_OP_XCHG] = TR_IDENT,
    [ISA_OP_ROL] = TR_IDENT,
    [ISA_OP_ROR] = TR_IDENT,
    [ISA_OP_RCL] = TR_IDENT,
    [ISA_OP_RCR] = TR_IDENT,
    [ISA_OP_SHL] = TR_IDENT,
    [ISA_OP_SHR] = TR_IDENT,
    [ISA_OP_SAR] = TR_IDENT,
    [ISA_OP_SHLD] = TR_IDENT,
    [ISA_OP_SHRD] = TR_IDENT,
    [ISA_OP_BSF] = TR_IDENT,
    [ISA_OP_BSR] = TR_IDENT,
    [ISA_OP_BSWAP] = TR_IDENT,
    [ISA_OP_BT] = TR_IDENT,
    [ISA_OP_BTS] = TR_IDENT,
    [ISA_OP_BTR] = TR_IDENT,
    [ISA_OP_BTC] = TR_IDENT,
    [ISA_OP_TZCNT] = TR_IDENT,
    [ISA_OP_LZCNT] = TR_IDENT,
    [ISA_OP_POPCNT] = TR_IDENT,
    [ISA_OP_IMUL] = TR_IDENT,
    [ISA_OP_MUL] = TR_IDENT,
    [ISA_OP_DIV] = TR_IDENT,
    [ISA_OP_IDIV] = TR_IDENT,
    [ISA_OP_CBW] = TR_IDENT,
    [ISA_OP_CWD] = TR_IDENT,
    [ISA_OP_CMOVCC] = TR_IDENT,
    [ISA_OP_SETCC] = TR_IDENT,
    [ISA_OP_MOVBE] = TR_IDENT,
    [ISA_OP_XADD] = TR_IDENT,
    [ISA_OP_CMPXCHG] = TR_IDENT,
    [ISA_OP_CMPXCHG8B] = TR_IDENT,
    [ISA_OP_CMPXCHG16B] = TR_IDENT,
    [ISA_OP_LAHF] = TR_IDENT,
    [ISA_OP_SAHF] = TR_IDENT,
    [ISA_OP_CLC] = TR_IDENT,
    [ISA_OP_STC] = TR_IDENT,
    [ISA_OP_CMC] = TR_IDENT,
    [ISA_OP_CRC32] = TR_IDENT,
    [ISA_OP_ADCX] = TR_IDENT,
    [ISA_OP_ADOX] = TR_IDENT,
    [ISA_OP_ANDN] = TR_IDENT,
    [ISA_OP_BEXTR] = TR_IDENT,
    [ISA_OP_BLSI] = TR_IDENT,
    [ISA_OP_BLSMSK] = TR_IDENT,
    [ISA_OP_BLSR] = TR_IDENT,
    [ISA_OP_BZHI] = TR_IDENT,
    [ISA_OP_MULX] = TR_IDENT,
    [ISA_OP_PDEP] = TR_IDENT,
    [ISA_OP_PEXT] = TR_IDENT,
    [ISA_OP_RORX] = TR_IDENT,
    [ISA_OP_SARX] = TR_IDENT,
    [ISA_OP_SHLX] = TR_IDENT,
    [ISA_OP_SHRX] = TR_IDENT,
    [ISA_OP_LFENCE] = TR_IDENT,
    [ISA_OP_MFENCE] = TR_IDENT,
    [ISA_OP_SFENCE] = TR_IDENT,
    [ISA_OP_LEA] = TR_LEA,
    [ISA_OP_NOP] = TR_NOTHING,
    [ISA_OP_PAUSE] = TR_NOTHING,
    [ISA_OP_PREFETCH] = TR_NOTHING,
    [ISA_OP_PREFETCHW] = TR_NOTHING,
    [ISA_OP_PREFETCHNTA] = TR_NOTHING,
    [ISA_OP_PREFETCHT0] = TR_NOTHING,
    [ISA_OP_PREFETCHT1] = TR_NOTHING,
    [ISA_OP_PREFETCHT2] = TR_NOTHING,
    // stack.c
    [ISA_OP_PUSH] = TR_STACK,
    [ISA_OP_POP] = TR_STACK,
    [ISA_OP_LEAVE] = TR_STACK,
    // bits.c
    [ISA_OP_XLAT] = TR_BITS,
    // string.c
    [ISA_OP_CLD] = TR_STRING,
    [ISA_OP_STD] = TR_STRING,
    [ISA_OP_MOVS] = TR_STRING,
    [ISA_OP_CMPS] = TR_STRING,
    [ISA_OP_STOS] = TR_STRING,
    [ISA_OP_LODS] = TR_STRING,
    [ISA_OP_SCAS] = TR_STRING,
    // flow.c
    [ISA_OP_JCC] = TR_FLOW,
    [ISA_OP_JMP] = TR_FLOW,
    [ISA_OP_CALL] = TR_FLOW,
    [ISA_OP_RET] = TR_FLOW,
    [ISA_OP_LOOP] = TR_FLOW,
    [ISA_OP_LOOPE] = TR_FLOW,
    [ISA_OP_LOOPNE] = TR_FLOW,
    [ISA_OP_JCXZ] = TR_FLOW,
};

// sys.c decides on everything else.
static u8 emitter_of(unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    if ((f->op == ISA_OP_MOV || f->op == ISA_OP_POP) && f->cls > ISA_CLASS_MEM) // of segment registers
        return TR_SYS;
    if (vector_form(form))
        return TR_VECTOR;
    if (x87_form(form))
        return TR_X87;
    return emitters[isa_forms[form].op] ? emitters[isa_forms[form].op] : TR_SYS;
}

static bool asks_bits(unsigned op)
{
    switch (op) {
    case ISA_OP_MOV:
    case ISA_OP_POP:
    case ISA_OP_BT:
    case ISA_OP_BTS:
    case ISA_OP_BTR:
    case ISA_OP_BTC: return true;
    default: return false;
    }
}

// May instructions of the form leave the block even where no probe of theirs does?
static bool leaves(const struct isa_form_info *f, bool string)
{
    return string || f->cls >= ISA_CLASS_BRANCH || f->op == ISA_OP_DIV || f->op == ISA_OP_IDIV ||
           f->op == ISA_OP_CMPXCHG16B || f->op == ISA_OP_FLDCW || f->op == ISA_OP_LDMXCSR || f->op == ISA_OP_VLDMXCSR ||
           (f->implicit_read | f->implicit_written) & ISA_IMPLICIT_MEM;
}

// Flags that the instruction overwrites, where that does not depend on its operands and prefixes.
static void set_kills(const struct bt *b, struct bt_form *x, unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    struct insn in = {.form = (u16)form, .op = f->op};
    bool shift = f->op == ISA_OP_SHL || f->op == ISA_OP_SHR || f->op == ISA_OP_SAR;
    if (shift || f->op == ISA_OP_IMUL || f->attr & (ISA_ATTR_REP | ISA_ATTR_REPCC))
        x->is |= FORM_KILLS_SOME;
    else
        x->kills = (u16)host_flags_killed(&b->host_flags, &in);
}

void forms_init(struct bt *b)
{
    for (unsigned i = 0; i < ISA_FORM_COUNT; i++) {
        const struct isa_form_info *f = &isa_forms[i];
        struct bt_form *x = &b->form[i];
        const struct insn in = {.form = (u16)i, .op = f->op};
        bool string = bt_is_string(&in);
        bool offered = cpu_model_offers(b->in.v->model, f->feature) && interp_handler(i);
        bool stack = (f->implicit_read | f->implicit_written) & ISA_IMPLICIT_STACK;
        bool status = (f->flags_written | f->flags_undef) & X86_FL_STATUS;
        bool condition = f->op == ISA_OP_JCC || f->op == ISA_OP_SETCC || f->op == ISA_OP_CMOVCC;
        *x = (struct bt_form){.emitter = emitter_of(i), .cls = f->cls, .reads = f->flags_read & X86_FL_STATUS};
        x->is = (u16)((offered ? FORM_OFFERED : 0) | (asks_bits(f->op) ? FORM_BITS : 0) | (string ? FORM_STRING : 0) |
                      (stack ? FORM_STACK : 0) | (leaves(f, string) ? FORM_LEAVES : 0) | (status ? FORM_STATUS : 0) |
                      (f->op == ISA_OP_LEA || f->op == ISA_OP_NOP ? FORM_ADDRESS : 0) |
                      (f->attr & ISA_ATTR_ALIGN ? FORM_ALIGN : 0) |
                      (condition || f->attr & ISA_ATTR_REPCC ? FORM_READS_SOME : 0));
        set_kills(b, x, i);
    }
}
