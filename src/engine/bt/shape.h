// How an instruction that stays what it is gets encoded for the host: ident.c and vector.c.
#ifndef POGO_ENGINE_BT_SHAPE_H
#define POGO_ENGINE_BT_SHAPE_H

#include "engine/bt/translate.h"

struct shape {
    const struct insn *in;
    const struct isa_form_info *f;
    int mem;               // operand number, or -1
    bool vex, high, low8;  // AH and friends; SPL and friends
    bool lent;             // the memory operand is [rsi]
    u8 reg, rm, vvvv, opr; // host registers of the fields
    unsigned scratches;
    u8 guest[2], host[2]; // guest registers in scratch registers
    bool load[2], store[2];
    struct mem_ref ref; // the memory operand: [HOST_T0 + ref.index + ref.disp]
    bool ok;
};

// Assign host registers. !ok: it takes more scratch registers than there are.
struct shape shape_of(const struct insn *in);
// Emit the current instruction, with its memory operand at s->ref, and the moves of guest registers that live in the
// context.
void shape_emit(struct tr *t, const struct shape *s);

#endif
