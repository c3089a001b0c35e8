// Where the guest's status flags are.
//
// Most code that the translator adds destroys the host's flags. When the guest's are in there and somebody may look at them, they are
// saved first, by LAHF and SETO, into ctx.slot; what reads flags, or leaves some as they were, gets them back from there. A block knows at
// each place where they are, so nothing is saved twice.
//
// Where they follow from operands that are still there nothing need be saved: the instruction can be run again. Such a *recipe*
// (recipe.c) is recorded with each site, for service() to work the flags out when somebody really wants them there. Where an operand is
// about to go it is kept, unless the flags are going to be saved in any case.
//
// Single flags are read from the slot without bringing back the others. INC and DEC, which pass CF through, leave it there: the
// others are in the host's then, and all of them follow from the slot and a recipe.
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

// --- what comes ------------------------------------------------------------------------------------------------------------------

static u32 seen_after(const struct tr *t)
{
    return t->i + 1 < t->n ? t->insn[t->i + 1].seen : X86_FL_STATUS;
}

// Does the recipe still hold when flags that the current instruction leaves alone are looked at?
static bool recipe_lasts(const struct tr *t)
{
    if (!recipe_spoiled(t))
        return true;
    return !(seen_after(t) & ~t->insn[t->i].kills) &&
           !bt_is_string(tr_in(t)); // which can be left with its registers half-way
}

static bool probes(const struct tr_insn *x)
{
    if (x->mem >= 0 && !(x->form->is & FORM_ADDRESS) && x->access[ACCESS_OPERAND].role != ACCESS_MEMBER)
        return true;
    return x->check || (x->form->is & FORM_STACK && x->access[ACCESS_STACK].role != ACCESS_MEMBER);
}

static bool saves(const struct tr_insn *x)
{
    return x->step || x->emitter == TR_SYS || x->form->is & FORM_STRING || flow_saves_flags(x);
}

// Flags that there are before instruction `from`: will they be overwritten, as far as this can be told, without having been saved for those
// that do that in any case?
static bool never_saved(const struct tr *t, unsigned from)
{
    for (unsigned i = from; i < t->n; i++) {
        const struct tr_insn *x = &t->insn[i];
        if (!x->seen || (!saves(x) && x->kills == X86_FL_STATUS))
            return true;
        if (saves(x))
            return false;
    }
    return true;
}

// The same, but they will be destroyed before that while somebody may look at them.
static bool lost_soon(const struct tr *t, unsigned from)
{
    for (unsigned i = from; i < t->n && t->insn[i].seen; i++) {
        const struct tr_insn *x = &t->insn[i];
        if (probes(x) || x->emitter == TR_FLOW)
            return never_saved(t, from);
        if (x->kills == X86_FL_STATUS)
            return false;
    }
    return false;
}

static bool has_recipe(const struct tr *t)
{
    return t->recipe.kind && t->b->opts & BT_OPT_RECIPE;
}

bool flags_keep_memory(struct tr *t)
{
    return t->b->opts & BT_OPT_RECIPE && t->b->opts & BT_OPT_KEEP && recipe_can_keep_memory(t, &tr_now(t)->shape) &&
           lost_soon(t, t->i + 1);
}

void flags_keep_shifted(struct tr *t)
{
    if (t->b->opts & BT_OPT_RECIPE && t->b->opts & BT_OPT_KEEP && lost_soon(t, t->i + 1))
        recipe_keep_shifted(t);
}

// --- around each instruction -------------------------------------------------------------------------------------------------------

void flags_before(struct tr *t)
{
    bool seen = tr_now(t)->seen, can_keep = t->b->opts & BT_OPT_KEEP && !tr_now(t)->step;
    if ((t->flags == FLAGS_RECIPE || t->flags == FLAGS_HALF) && !seen)
        t->flags = FLAGS_NONE;
    if (!has_recipe(t) || recipe_lasts(t))
        return;
    if (t->flags == FLAGS_HOST && seen && can_keep && lost_soon(t, t->i))
        recipe_keep(t);
    if (t->flags != FLAGS_RECIPE && t->flags != FLAGS_HALF)
        return;
    if (can_keep)
        recipe_keep(t);
    else
        flags_save(t);
}

void flags_spoil(struct tr *t)
{
    if (!recipe_spoiled(t))
        return;
    t->recipe.kind = RECIPE_NONE;
    if (t->flags == FLAGS_RECIPE || t->flags == FLAGS_HALF)
        t->flags = FLAGS_NONE;
}

void flags_after(struct tr *t)
{
    if (t->wrote_flags)
        t->recipe = t->made.kind ? t->made : recipe_of(t);
    else
        flags_spoil(t);
    t->wrote_flags = false;
    t->made.kind = RECIPE_NONE;
}

// --- places ---------------------------------------------------------------------------------------------------------------------

void flags_settle(struct tr *t)
{
    if (t->flags != FLAGS_RECIPE && t->flags != FLAGS_HALF)
        return;
    recipe_emit(t, &t->recipe, true);
    t->flags = FLAGS_HOST;
}

void flags_save(struct tr *t)
{
    flags_settle(t);
    if (t->flags != FLAGS_HOST)
        return;
    flags_emit_save(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

// From the host's flags to the recipe.
static void to_recipe(struct tr *t)
{
    if (!recipe_has_carry(&t->recipe))
        emit_rip(&t->e, 4, 0x192, 0, (const u8 *)&t->b->ctx->slot + 1, 0); // setc: CF is bit 0 there
    t->flags = FLAGS_RECIPE;
}

void flags_clobber(struct tr *t)
{
    if (t->flags == FLAGS_HALF)
        t->flags = FLAGS_RECIPE;
    if (t->flags == FLAGS_RECIPE)
        return;
    if (t->flags == FLAGS_HOST && !tr_now(t)->seen)
        t->flags = FLAGS_NONE;
    if (t->flags == FLAGS_HOST && has_recipe(t) && recipe_lasts(t) && never_saved(t, t->i)) {
        to_recipe(t);
        return;
    }
    flags_save(t);
    t->flags &= ~FLAGS_HOST;
}

void flags_leave(const struct tr *t, struct bt_link *l, bool lost)
{
    enum flags_at at = t->flags == FLAGS_HALF ? FLAGS_RECIPE : t->flags;
    bool follows = at == FLAGS_HOST && has_recipe(t) && recipe_has_carry(&t->recipe) && t->b->opts & BT_OPT_VARIANT;
    if (at == FLAGS_RECIPE || follows)
        l->recipe = t->recipe;
    if (lost && follows)
        l->flags = FLAGS_RECIPE;
    else if (lost && at != FLAGS_RECIPE && at != FLAGS_NONE)
        l->flags = FLAGS_SLOT;
    else
        l->flags = at;
}

void flags_need(struct tr *t)
{
    flags_settle(t);
    if (t->flags != FLAGS_SLOT)
        return;
    flags_emit_restore(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

// Is CF in the slot, and not in the host's?
static bool carry_apart(const struct tr *t)
{
    if (t->flags == FLAGS_RECIPE)
        return !recipe_has_carry(&t->recipe);
    return t->flags == FLAGS_HALF || t->flags == FLAGS_SLOT;
}

void flags_need_carry(struct tr *t)
{
    if (!carry_apart(t)) {
        flags_need(t);
        return;
    }
    recipe_emit_carry(t);
    if (t->flags == FLAGS_HALF)
        t->flags = FLAGS_RECIPE;
}

bool flags_pass_carry(struct tr *t, bool kept)
{
    if (carry_apart(t) && t->b->opts & BT_OPT_RECIPE && t->b->opts & BT_OPT_CARRY && (kept || recipe_of(t).kind))
        return true;
    flags_need(t);
    return false;
}

// Conditions by half of their code, as far as they are a test of bits in one byte of the slot: which byte, which bits.
static const u8 slot_bits[8][2] = {{0, 1}, {1, 0x01}, {1, 0x40}, {1, 0x41}, {1, 0x80}, {1, 0x04}};

static unsigned condition_in_slot(struct tr *t, unsigned cc)
{
    const u8 *bits = slot_bits[cc >> 1];
    emit_rip(&t->e, 4, 0xf6, 0, (const u8 *)&t->b->ctx->slot + bits[0], 1); // test byte, imm
    emit1(&t->e, bits[1]);
    return cc & 1 ? CC_E : CC_NE;
}

unsigned flags_condition(struct tr *t, unsigned cc)
{
    unsigned kind = cc & ~1u;
    bool on = t->b->opts & BT_OPT_CARRY, carry = kind == CC_B || kind == CC_BE;
    if (on && kind == CC_B && carry_apart(t)) {
        flags_need_carry(t);
    } else if (on && t->flags == FLAGS_SLOT && slot_bits[cc >> 1][1]) {
        return condition_in_slot(t, cc);
    } else if (on && t->flags == FLAGS_RECIPE && carry_apart(t) && !carry) {
        if (kind == CC_E || kind == CC_S || kind == CC_P) {
            recipe_emit_result(t, &t->recipe);
        } else {
            recipe_emit(t, &t->recipe, false);
            t->flags = FLAGS_HALF;
        }
    } else if (t->flags != FLAGS_HALF || carry) {
        flags_need(t);
    }
    return cc;
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
    return (seen_after(t) & ~x->kills) != 0;
}
