// Where the guest's status flags are.
//
// Most code that the translator adds destroys the host's flags. When the guest's are in there and somebody may look at them, they are
// saved first, by LAHF and SETO, into ctx.slot; what reads flags, or leaves some as they were, gets them back from there. A block knows at
// each place where they are, so nothing is saved twice.
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

void flags_save(struct tr *t)
{
    if (t->flags != FLAGS_HOST)
        return;
    flags_emit_save(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

void flags_clobber(struct tr *t)
{
    if (t->flags == FLAGS_HOST && !tr_now(t)->seen)
        t->flags = FLAGS_NONE;
    flags_save(t);
    t->flags &= ~FLAGS_HOST;
}

void flags_need(struct tr *t)
{
    if (t->flags != FLAGS_SLOT)
        return;
    flags_emit_restore(&t->e, t->b->ctx);
    t->flags = FLAGS_BOTH;
}

void flags_now_host(struct tr *t)
{
    t->flags = FLAGS_HOST;
}

bool flags_wanted(const struct tr *t)
{
    const struct tr_insn *x = &t->insn[t->i];
    const struct isa_form_info *f = &isa_forms[x->in.form];
    u32 touched = (f->flags_written | f->flags_undef) & X86_FL_STATUS;
    if (isa_flags_read(&x->in) & X86_FL_STATUS)
        return true;
    if (!touched)
        return false;
    u32 after = t->i + 1 < t->n ? t->insn[t->i + 1].seen : X86_FL_STATUS;
    return (after & ~x->kills) != 0;
}
