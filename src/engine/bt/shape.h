// How an instruction that stays what it is gets encoded for the host: ident.c and vector.c.
#ifndef POGO_ENGINE_BT_SHAPE_H
#define POGO_ENGINE_BT_SHAPE_H

#include "engine/bt/translate.h"

// Assign host registers; `in` stays where it is as long as the shape is used. !ok: it takes more scratch registers than there are.
void shape_of(const struct insn *in, struct shape *s);
// Emit the current instruction, with its memory operand where s->ref says, and the moves of guest registers that live in the
// context.
void shape_emit(struct tr *t, const struct shape *s);

#endif
