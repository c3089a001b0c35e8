// x87 and MMX instructions, on the guest's registers in the host's (vecstate.c), with [r10] for the memory operand.
//
// No exception is unmasked while they are there, so none is ever pending and waiting instructions do not wait. FLDCW with a word that
// unmasks one goes to the interpreter. The instruction and data pointers of the host's registers would be those of translated code, so
// the guest's are stored in the context after each instruction that sets them.
#include "engine/bt/translate.h"
#include "engine/bt/vecstate.h"

static bool is_word(unsigned op)
{
    return op == ISA_OP_FLDCW || op == ISA_OP_FNSTCW || op == ISA_OP_FNSTSW;
}

bool x87_form(unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    if (!(f->attr & (ISA_ATTR_X87 | ISA_ATTR_MMX)) || f->attr & (ISA_ATTR_SSE | ISA_ATTR_AVX) || f->cls > ISA_CLASS_MEM)
        return false;
    return is_word(f->op) || (interp_handler(form) == interp_native && !(f->implicit_read & ISA_IMPLICIT_MEM));
}

// General registers of MMX instructions that would have to be renamed are rare enough to be left out.
static bool names_gpr(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].kind == ISA_OPND_GPR && f->field[i] != ISA_FIELD_NO)
            return true;
    }
    return false;
}

bool x87_can(const struct tr *t, const struct insn *in)
{
    if (!(t->b->opts & BT_OPT_X87) || !t->b->has_xsave || names_gpr(in))
        return false;
    return isa_memory_operand(in) < 0 || mem_can(t, in);
}

static void set_pointers(struct tr *t, bool mem)
{
    const struct tr_insn *x = tr_now(t);
    struct bt_ctx *c = t->b->ctx;
    struct emit *e = &t->e;
    emit_store_imm(e, &c->fop, (u32)((x->in.opcode & 7) << 8 | x->in.modrm));
    emit_load(e, 8, HOST_T1, &c->page_base);
    emit_lea(e, t->wide ? 8 : 4, HOST_T1, HOST_T1, X86_RSP, 0, x->off);
    emit_store(e, 8, HOST_T1, &c->fip);
    if (!mem)
        return;
    mem_ea(t, HOST_T0);
    emit_store(e, 8, HOST_T0, &c->fdp);
    emit_store_imm(e, &c->fseg, x->in.seg);
}

static void emit_insn(struct tr *t, bool mem)
{
    const struct tr_insn *x = tr_now(t);
    struct emit *e = &t->e;
    const struct insn *in = &x->in;
    if (mem)
        emit1(e, REX_BASE | (in->rex & ISA_REX_W) | 1);
    if (in->map != ISA_MAP_1)
        emit1(e, 0x0f);
    if (in->map == ISA_MAP_0F38 || in->map == ISA_MAP_0F3A)
        emit1(e, in->map == ISA_MAP_0F38 ? 0x38 : 0x3a);
    emit1(e, in->opcode);
    if (in->has_modrm)
        emit1(e, mem ? (in->modrm & 0x38) | (HOST_T0 & 7) : in->modrm);
    emit_bytes(e, x->bytes + in->imm_off, in->len - in->imm_off);
}

// To the interpreter if the control word in memory unmasks something.
static void check_masks(struct tr *t)
{
    struct emit *e = &t->e;
    flags_clobber(t);
    emit_rm(e, 4, 0x1b7, HOST_T1, HOST_T0, 0); // movzx r11d, word [r10]
    emit_alu_imm(e, 4, 4, HOST_T1, 0x3f);
    emit_alu_imm(e, 4, 7, HOST_T1, 0x3f);
    tr_step_if(t, CC_NE);
}

bool tr_x87(struct tr *t)
{
    const struct insn *in = tr_in(t);
    const struct isa_form_info *f = &isa_forms[in->form];
    int mem = isa_memory_operand(in);
    vector_check(t);
    bool wanted = flags_wanted(t);
    if (mem >= 0)
        mem_operand(t, in->opnd[mem].size, f->access[mem] & ISA_ACC_W);
    if (in->op == ISA_OP_FLDCW)
        check_masks(t);
    if (wanted)
        flags_need(t);
    emit_insn(t, mem >= 0);
    if ((f->flags_written | f->flags_undef) & X86_FL_STATUS)
        flags_now_host(t);
    if (f->attr & ISA_ATTR_X87 && !is_word(in->op))
        set_pointers(t, mem >= 0);
    return true;
}
