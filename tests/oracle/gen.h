// What the generator's two files share.
#ifndef POGO_ORACLE_GEN_H
#define POGO_ORACLE_GEN_H

#include "oracle/oracle.h"

struct gen {
    struct orc_rng r;
    struct orc_case *c;
    unsigned data_used; // bytes of case.data in use
};

// Aim the operands of a valid instruction (steer.c).
void orc_steer(struct gen *g);

// A form that can be encoded in the case's mode and compared with the host.
unsigned orc_pick_form(struct gen *g);

// Mode and processor state of a sequence, all but where it starts.
void orc_pick_start(struct gen *g);

// A canonical address made of `v`.
static inline u64 gva_sign(u64 v)
{
    return (u64)((i64)(v << 16) >> 16);
}

#endif
