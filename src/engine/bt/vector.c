// Vector instructions (SSE, AVX). They stay what they are, with [r10] for the memory operand and other numbers for general registers;
// vector registers and MXCSR are the guest's own in the host's (vecstate.c).
//
// Whether they are there, and whether the control registers let the guest use them, is asked once in a block: before the first
// vector instruction and after everything that may have set the state aside. analyse.c's pass over the block ends with
// vector_plan(), which works out where that is.
#include "engine/bt/shape.h"
#include "engine/bt/vecstate.h"

static bool is_zeroing(unsigned op)
{
    return op == ISA_OP_VZEROUPPER || op == ISA_OP_VZEROALL;
}

static bool loads_mxcsr(unsigned op)
{
    return op == ISA_OP_LDMXCSR || op == ISA_OP_VLDMXCSR;
}

static bool moves_mxcsr(unsigned op)
{
    return loads_mxcsr(op) || op == ISA_OP_STMXCSR || op == ISA_OP_VSTMXCSR;
}

bool vector_form(unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    const u32 not_these = ISA_ATTR_X87 | ISA_ATTR_MMX | ISA_ATTR_VSIB;
    if (!(f->attr & (ISA_ATTR_SSE | ISA_ATTR_AVX)) || f->attr & not_these || f->cls > ISA_CLASS_MEM)
        return false;
    return is_zeroing(f->op) || moves_mxcsr(f->op) ||
           (interp_handler(form) == interp_native && !(f->implicit_read & ISA_IMPLICIT_MEM));
}

bool vector_can(const struct tr *t, struct tr_insn *x)
{
    if (!(t->b->opts & BT_OPT_VECTOR))
        return false;
    if (is_zeroing(x->in.op))
        return t->wide; // elsewhere only eight registers are meant
    shape_of(&x->in, &x->shape);
    return x->shape.ok && (x->shape.mem < 0 || mem_can(t, &x->in));
}

static u8 need_of(const struct insn *in)
{
    u32 attr = isa_forms[in->form].attr;
    bool masked = attr & ISA_ATTR_FPEXC || loads_mxcsr(in->op);
    if (attr & ISA_ATTR_AVX)
        return masked ? VEC_AVX_MASKED : VEC_AVX;
    return masked ? VEC_SSE_MASKED : VEC_SSE;
}

void vector_plan(struct tr *t)
{
    u8 known = 0;
    for (unsigned i = 0; i < t->n; i++) {
        struct tr_insn *x = &t->insn[i];
        x->check = 0;
        if (x->step || x->form->cls > ISA_CLASS_BRANCH) {
            known = 0; // it may load MXCSR or control registers, and what runs it sets the state aside in any case
        } else if (x->emitter == TR_X87) {
            x->check = known & VEC_X87 ? 0 : VEC_X87;
            known |= VEC_X87;
        } else if (x->emitter == TR_VECTOR) {
            u8 need = need_of(&x->in);
            x->check = known & need ? 0 : need;
            known |= need == VEC_SSE_MASKED ? VEC_SSE | need : need == VEC_AVX_MASKED ? VEC_AVX | need : need;
        }
        x->known = known;
    }
}

void vector_check(struct tr *t)
{
    const struct tr_insn *x = tr_now(t);
    if (!x->check)
        return;
    flags_clobber(t);
    u64 retry = emit_here(&t->e);
    emit_rip(&t->e, 4, 0xf6, 0, &t->b->ctx->vec, 1); // test byte [vec], what has to be there
    emit1(&t->e, x->check);
    struct bt_site *s = tr_site(t);
    s->retry = tr_offset(t, retry);
    s->access = x->check;
    tr_tail(t, TAIL_SERVICE, emit_jcc(&t->e, CC_E), s)->why = BT_VECTOR;
}

// Has the alignment of an access been seen to by an earlier one of its group?
static bool known_aligned(struct tr *t, unsigned size)
{
    const struct tr_access *a = &tr_now(t)->access[ACCESS_OPERAND];
    if (a->role == ACCESS_ALONE)
        return false;
    struct tr_place *p = &t->place[a->slot];
    if (p->aligned >= size && ((a->at - p->aligned_at) & (i32)(size - 1)) == 0)
        return true;
    p->aligned = (u8)size;
    p->aligned_at = a->at;
    return false;
}

static void emit_operand(struct tr *t, struct shape *s)
{
    unsigned size = s->in->opnd[s->mem].size;
    s->ref = mem_operand_ref(t, size, s->f->access[s->mem] & ISA_ACC_W);
    if (!(s->f->attr & ISA_ATTR_ALIGN) || known_aligned(t, size))
        return;
    flags_clobber(t); // an operand that shares another's probe leaves them alone
    if (s->ref.disp & (i32)(size - 1)) {
        mem_sum(t, s->ref);
        s->ref = (struct mem_ref){0};
    }
    unsigned low = s->ref.has_base ? s->ref.base : HOST_T0;                         // what else there is ends in zeros
    EMIT(&t->e, REX_BASE | (u8)(low >> 3), 0xf6, 0xc0 | (low & 7), (u8)(size - 1)); // test low byte, size - 1
    tr_step_if(t, CC_NE);
}

// A value that unmasks an exception, or that may not be, is the interpreter's.
static void emit_ldmxcsr(struct tr *t)
{
    struct emit *e = &t->e;
    const void *at = &t->b->ctx->tmp[0];
    flags_clobber(t);
    mem_operand(t, 4, false);
    emit_rm(e, 4, 0x8b, HOST_T1, HOST_T0, 0);
    emit_store(e, 4, HOST_T1, &t->b->ctx->tmp[0]);
    emit_alu_imm(e, 4, 6, HOST_T1, X86_MXCSR_MASKS);
    emit_rr(e, 4, 0xf7, 0, HOST_T1); // test
    emit4(e, X86_MXCSR_MASKS | ~(u32)X86_MXCSR_VALID);
    tr_step_if(t, CC_NE);
    EMIT(e, 0x0f, 0xae, 0x15); // ldmxcsr [rip]
    emit4(e, (u32)((u64)at - (emit_here(e) + 4)));
}

bool tr_vector(struct tr *t)
{
    const struct insn *in = tr_in(t);
    vector_check(t);
    if (loads_mxcsr(in->op)) {
        emit_ldmxcsr(t);
        return true;
    }
    if (is_zeroing(in->op)) {
        EMIT(&t->e, 0xc5, in->op == ISA_OP_VZEROALL ? 0xfc : 0xf8, 0x77);
        return true;
    }
    struct shape *s = &tr_now(t)->shape;
    bool wanted = flags_wanted(t);
    if (s->mem >= 0)
        emit_operand(t, s);
    if (wanted)
        flags_need(t);
    shape_emit(t, s);
    if (tr_now(t)->form->is & FORM_STATUS)
        flags_now_host(t);
    return true;
}
