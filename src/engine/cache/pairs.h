// Instructions of which two in a row can be run by one handler.
//
// What limits the engine is not so much the work of a handler as the indirect jump to the next, which processors predict less well
// the more branches of the guest they do not predict. These are the simple instructions that most often follow each other,
// counted over a boot of Linux; all pairs of them have a handler.
#ifndef POGO_ENGINE_CACHE_PAIRS_H
#define POGO_ENGINE_CACHE_PAIRS_H

#include "engine/cache/cache.h"

// RR: MOV of registers. L, S: loads (extended with zeros) and stores with base and displacement, X with an index. An I at the end of
// a name: with an immediate; F: with flags that somebody may look at.
#define EACH_FIRST(m) \
    m(RR4) m(RR8) m(LEA8) m(LEAX8) m(ZX1) m(L1B) m(L1X) m(L2B) m(L4B) m(L8B) m(L8X) m(S4B) m(S8B) m(ADD8) m(ADDI8) \
        m(ANDI4) m(SHRI4) m(SUB4) m(IMUL4) m(ADD4F) m(SUB4F) m(XOR4F) m(ADDI4F) m(SUBI4F)
#define EACH_SECOND(m, first) \
    m(first, RR4) m(first, RR8) m(first, LEA8) m(first, LEAX8) m(first, ZX1) m(first, L1B) m(first, L1X) m(first, L2B) \
        m(first, L4B) m(first, L8B) m(first, L8X) m(first, S4B) m(first, S8B) m(first, ADD8) m(first, ADDI8) \
            m(first, ANDI4) m(first, SHRI4) m(first, SUB4) m(first, IMUL4) m(first, ADD4F) m(first, SUB4F) \
                m(first, XOR4F) m(first, ADDI4F) m(first, SUBI4F)

enum joinable {
#define JOIN_ENUM(name) JOIN_##name,
    EACH_FIRST(JOIN_ENUM) JOINABLE
#undef JOIN_ENUM
};

// The handlers of one such instruction alone; each file has some of them.
typedef cell_fn *const cell_fn_table[JOINABLE];
extern const cell_fn_table data_joinable, alu_joinable;

#endif
