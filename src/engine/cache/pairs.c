// Two instructions by one handler; pairs.h has the list. The second's cell is the one after: its operands are taken from there, and when it
// has to be left to the interpreter it is as if that cell had been reached alone.
#include "engine/cache/pairs.h"

#include "engine/cache/exec.h"

#define LOAD(size, kind) \
    MEM(p, kind, size, false); \
    c->gpr[o->dst] = host_load(p, size)
#define STORE(size) \
    MEM(p, EA_B, size, true); \
    host_store(p, size, c->gpr[o->src])
#define ARITHMETIC(kind, op, b_) \
    unsigned dst = o->dst; \
    u64 a = c->gpr[dst], b = (b_); \
    flags_note(e, kind, 4, a, b); \
    c->gpr[dst] = (u32)(a op b)

#define DO_RR4 c->gpr[o->dst] = (u32)c->gpr[o->src]
#define DO_RR8 c->gpr[o->dst] = c->gpr[o->src]
#define DO_LEA8 c->gpr[o->dst] = c->gpr[o->base] + (u64)(i64)o->disp
#define DO_LEAX8 c->gpr[o->dst] = c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (u64)(i64)o->disp
#define DO_ZX1 c->gpr[o->dst] = (u8)c->gpr[o->src]
#define DO_L1B LOAD(1, EA_B)
#define DO_L1X LOAD(1, EA_X)
#define DO_L2B LOAD(2, EA_B)
#define DO_L4B LOAD(4, EA_B)
#define DO_L8B LOAD(8, EA_B)
#define DO_L8X LOAD(8, EA_X)
#define DO_S4B STORE(4)
#define DO_S8B STORE(8)
#define DO_ADD8 c->gpr[o->dst] += c->gpr[o->src]
#define DO_ADDI8 c->gpr[o->dst] += o->imm
#define DO_ANDI4 c->gpr[o->dst] = (u32)(c->gpr[o->dst] & o->imm)
#define DO_SHRI4 c->gpr[o->dst] = (u32)c->gpr[o->dst] >> (o->imm & 31)
#define DO_SUB4 c->gpr[o->dst] = (u32)(c->gpr[o->dst] - c->gpr[o->src])
#define DO_IMUL4 c->gpr[o->dst] = (u32)(c->gpr[o->dst] * c->gpr[o->src])
#define DO_ADD4F ARITHMETIC(FLAGS_ADD, +, c->gpr[o->src])
#define DO_SUB4F ARITHMETIC(FLAGS_SUB, -, c->gpr[o->src])
#define DO_ADDI4F ARITHMETIC(FLAGS_ADD, +, o->imm)
#define DO_SUBI4F ARITHMETIC(FLAGS_SUB, -, o->imm)
#define DO_XOR4F \
    unsigned dst = o->dst; \
    u64 r = c->gpr[dst] ^ c->gpr[o->src]; \
    flags_note_result(e, FLAGS_LOGIC, 4, r); \
    c->gpr[dst] = (u32)r

#define DEFINE(first, second) \
    static HANDLER(first##_##second) \
    { \
        { \
            DO_##first; \
        } \
        o++; \
        { \
            DO_##second; \
        } \
        NEXT; \
    }
#define DEFINE_FROM(first) EACH_SECOND(DEFINE, first)
EACH_FIRST(DEFINE_FROM)

#define CELL(first, second) [JOIN_##second] = first##_##second,
#define ROW(first) [JOIN_##first] = {EACH_SECOND(CELL, first)},
static const cell_fn_table joined[JOINABLE] = {EACH_FIRST(ROW)};

static int join_of(cell_fn *fn)
{
    for (int i = 0; i < JOINABLE; i++) {
        if (data_joinable[i] == fn || alu_joinable[i] == fn)
            return i;
    }
    return -1;
}

cell_fn *select_joined(cell_fn *first, cell_fn *second)
{
    int a = join_of(first), b = join_of(second);
    return a < 0 || b < 0 ? NULL : joined[a][b];
}
