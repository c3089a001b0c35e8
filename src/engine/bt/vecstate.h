// The guest's vector state in the host's registers: see vecstate.c.
#ifndef POGO_ENGINE_BT_VECSTATE_H
#define POGO_ENGINE_BT_VECSTATE_H

#include "engine/bt/bt.h"

// ctx.vec: what vector instructions may run just now. None of it: the state is in struct cpu.
#define VEC_SSE 1u        // legacy encoded
#define VEC_AVX 2u        // VEX encoded
#define VEC_SSE_MASKED 4u // the same for those that can raise exceptions in MXCSR: all are masked
#define VEC_AVX_MASKED 8u
#define VEC_REGS 15u // some of these: XMM or YMM and MXCSR are there
#define VEC_X87 16u  // x87 and MMX: no exception is unmasked

void vecstate_init(struct bt *b);
// Emit the code that moves it.
void vecstate_emit(struct bt *b, struct emit *e);
// Emitted around calls of service() where that may be instrumented code: see BT_VEC_EAGER.
void vecstate_emit_save(struct bt *b, struct emit *e);
void vecstate_emit_restore(struct bt *b, struct emit *e);
// Bring it into the host's registers, if need be. False: the guest's control registers do not allow all of `need`.
bool vecstate_load(struct bt *b, u8 need);
// Store it in struct cpu, if it is not there. Before anything that looks at that or may use vector registers.
static inline void vecstate_park(struct bt *b);
void vecstate_store(struct bt *b);

static inline void vecstate_park(struct bt *b)
{
    if (b->ctx->vec)
        vecstate_store(b);
}

#endif
