// Where the guest's status flags are.
//
// Most code that the translator adds destroys the host's flags. When the guest's are in there and somebody may look at them, they are
// saved first, by LAHF and SETO, into ctx.slot; what reads flags, or leaves some as they were, gets them back from there. A block knows at
// each place where they are, so nothing is saved twice.
//
// After a comparison or an addition of registers that keep their values nothing need be saved: the instruction can be run again. Such
// a *recipe* is recorded with each site, for service() to work the flags out when somebody really wants them there.
//
// A block may be left with a recipe, too. Where the one that comes next would have to save the flags first, because it begins with what
// destroys them, a *variant* of it is translated that starts with that recipe instead: the first time a branch comes there, and once more
// for a loop's. All others bring the flags to where the block wants them.
#include "engine/bt/translate.h"

void flags_emit_save(struct emit *e, struct bt_ctx *c)
{
    emit_mov_rr(e, 8, HOST_T1, X86_RAX);
    EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); // lahf; seto al
    emit_store(e, 2, X86_RAX, &c->slot);
    emit_mov_rr(e, 8, X86_RAX, HOST_T1);
}

void flags_emit_restore(struct emit *e, struct bt_ctx *c)
{
    emit_mov_rr(e, 8, HOST_T1, X86_RAX);
    emit_rip(e, 4, 0x1b7, X86_RAX, &c->slot, 0); // movzx eax, word
    EMIT(e, 0x04, 0x7f, 0x9e);                   // add al, 0x7f; sahf
    emit_mov_rr(e, 8, X86_RAX, HOST_T1);
}

// --- recipes ----------------------------------------------------------------------------------------------------------------------

static bool is_plain(const struct isa_operand *o)
{
    return o->kind == ISA_OPND_GPR && o->size >= 4 && host_reg(o->reg) >= 0;
}

// How the flags that the current instruction has just written can be had again, as long as its registers are what they are now.
static struct bt_recipe recipe_of(const struct tr *t)
{
    const struct insn *in = tr_in(t);
    const struct isa_operand *o = in->opnd;
    struct bt_recipe r = {.kind = RECIPE_NONE, .b = ISA_REG_NONE};
    if (in->nopnd != 2 || !is_plain(&o[0]) || !(is_plain(&o[1]) || o[1].kind == ISA_OPND_IMM))
        return r;
    bool same = o[1].kind == ISA_OPND_GPR && o[1].reg == o[0].reg;
    unsigned kind = RECIPE_NONE;
    switch (in->op) {
    case ISA_OP_CMP: kind = RECIPE_CMP; break;
    case ISA_OP_TEST: kind = RECIPE_TEST; break;
    case ISA_OP_SUB: kind = same ? RECIPE_NONE : RECIPE_SUB; break;
    case ISA_OP_ADD: kind = same ? RECIPE_NONE : RECIPE_ADD; break;
    case ISA_OP_AND:
    case ISA_OP_OR:
    case ISA_OP_XOR: kind = t->b->host_flags.logic_same ? RECIPE_LOGIC : RECIPE_NONE; break;
    default: break;
    }
    r = (struct bt_recipe){.kind = (u8)kind, .size = (u8)o[0].size, .a = o[0].reg, .b = ISA_REG_NONE};
    if (o[1].kind == ISA_OPND_IMM)
        r.imm = (i32)in->imm;
    else if (kind != RECIPE_LOGIC)
        r.b = o[1].reg;
    return r;
}

// cmp a, b again, where a is minus b or the difference plus b.
static void emit_again(struct tr *t, const struct bt_recipe *r, unsigned a)
{
    if (r->b == ISA_REG_NONE)
        emit_alu_imm(&t->e, r->size, 7, a, r->imm);
    else
        emit_rr(&t->e, r->size, 0x3b, a, (unsigned)host_reg(r->b));
}

void flags_emit_recipe(struct tr *t, const struct bt_recipe *r)
{
    struct emit *e = &t->e;
    unsigned a = (unsigned)host_reg(r->a), b = r->b == ISA_REG_NONE ? X86_RSP : (unsigned)host_reg(r->b);
    switch (r->kind) {
    case RECIPE_CMP: emit_again(t, r, a); break;
    case RECIPE_SUB:
        emit_lea(e, r->size, HOST_T1, a, b, 0, r->imm);
        emit_again(t, r, HOST_T1);
        break;
    case RECIPE_ADD:
        emit_mov_rr(e, r->size, HOST_T1, a);
        if (r->b == ISA_REG_NONE) {
            emit_alu_imm(e, r->size, 5, HOST_T1, r->imm);
            emit_alu_imm(e, r->size, 0, HOST_T1, r->imm);
        } else {
            emit_rr(e, r->size, 0x2b, HOST_T1, b);
            emit_rr(e, r->size, 0x03, HOST_T1, b);
        }
        break;
    case RECIPE_TEST:
        if (r->b == ISA_REG_NONE) {
            emit_rr(e, r->size, 0xf7, 0, a);
            emit4(e, (u32)r->imm);
        } else {
            emit_rr(e, r->size, 0x85, b, a);
        }
        break;
    default: emit_rr(e, r->size, 0x85, a, a); break;
    }
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

static bool spoils_recipe(const struct tr *t)
{
    const struct bt_recipe *r = &t->recipe;
    return r->kind &&
           (t->insn[t->i].step || writes(tr_in(t), r->a) || (r->b != ISA_REG_NONE && writes(tr_in(t), r->b)));
}

// Does the recipe still hold when flags that the current instruction leaves alone are looked at?
static bool recipe_lasts(const struct tr *t)
{
    u32 after = t->i + 1 < t->n ? t->insn[t->i + 1].seen : X86_FL_STATUS;
    if (!spoils_recipe(t))
        return true;
    return !(after & ~t->insn[t->i].kills) && !bt_is_string(tr_in(t)); // which can be left with its registers half-way
}

void flags_before(struct tr *t)
{
    if (t->flags == FLAGS_RECIPE && !tr_now(t)->seen)
        t->flags = FLAGS_NONE;
    if (t->flags == FLAGS_RECIPE && !recipe_lasts(t))
        flags_save(t);
}

void flags_spoil(struct tr *t)
{
    if (!spoils_recipe(t))
        return;
    t->recipe.kind = RECIPE_NONE;
    if (t->flags == FLAGS_RECIPE)
        t->flags = FLAGS_NONE;
}

void flags_after(struct tr *t)
{
    if (t->wrote_flags)
        t->recipe = recipe_of(t);
    else
        flags_spoil(t);
    t->wrote_flags = false;
}

void flags_settle(struct tr *t)
{
    if (t->flags != FLAGS_RECIPE)
        return;
    flags_emit_recipe(t, &t->recipe);
    t->flags = FLAGS_HOST;
}

// --- places ---------------------------------------------------------------------------------------------------------------------

void flags_save(struct tr *t)
{
    flags_settle(t);
    if (t->flags != FLAGS_HOST)
        return;
    flags_emit_save(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

void flags_clobber(struct tr *t)
{
    if (t->flags == FLAGS_RECIPE)
        return;
    if (t->flags == FLAGS_HOST && !tr_now(t)->seen)
        t->flags = FLAGS_NONE;
    if (t->flags == FLAGS_HOST && t->recipe.kind && t->b->opts & BT_OPT_RECIPE && recipe_lasts(t)) {
        t->flags = FLAGS_RECIPE;
        return;
    }
    flags_save(t);
    t->flags &= ~FLAGS_HOST;
}

void flags_leave(const struct tr *t, struct bt_link *l, bool lost)
{
    bool follows = t->recipe.kind && t->b->opts & BT_OPT_RECIPE && t->b->opts & BT_OPT_VARIANT &&
                   (t->flags == FLAGS_HOST || t->flags == FLAGS_RECIPE);
    if (follows)
        l->recipe = t->recipe;
    if (!lost)
        l->flags = t->flags;
    else if (follows)
        l->flags = FLAGS_RECIPE;
    else
        l->flags = t->flags == FLAGS_NONE ? FLAGS_NONE : FLAGS_SLOT;
}

void flags_need(struct tr *t)
{
    flags_settle(t);
    if (t->flags != FLAGS_SLOT)
        return;
    flags_emit_restore(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

void flags_now_host(struct tr *t)
{
    t->flags = FLAGS_HOST;
    t->wrote_flags = true;
}

bool flags_wanted(const struct tr *t)
{
    const struct tr_insn *x = &t->insn[t->i];
    if (x->reads)
        return true;
    if (!(x->form->is & FORM_STATUS))
        return false;
    u32 after = t->i + 1 < t->n ? t->insn[t->i + 1].seen : X86_FL_STATUS;
    return (after & ~x->kills) != 0;
}
