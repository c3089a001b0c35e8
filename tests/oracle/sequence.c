// From a seed to a sequence: instructions in a row, with forward branches, counted loops, functions, jumps through registers and stores into
// the sequence itself.
//
// It grows while it runs, in the reference engine: an instruction is drawn and aimed at the state that the processor is in by then;
// what aiming changes in registers and memory becomes instructions in front of it. What faults is mostly taken back, else the sequence
// ends there. Behind a branch that is taken the skipped instructions are drawn as if it were not, and at its target the state is what
// the branch left. So the first pass does what was intended; what later passes of loops and modified code do is left to chance.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa/disasm.h"
#include "oracle/gen.h"

#define MAX_FIXUPS 4
#define MAX_CELLS 8
#define CELLS 0x1f80u // loop counters, in the arena
#define SPARE 0x1fc0u // where a store goes until its target is there
#define ROOM 64       // bytes that one draw may take

// A target that is not there yet.
struct fixup {
    u16 at;  // of the displacement or address in the code
    u8 size; // bytes
    bool relative;
    u16 due;                    // number of the draw that is the target
    struct orc_snapshot *taken; // state on arrival, or NULL: not taken
};

struct builder {
    struct gen g;
    struct orc_sequence *q;
    struct orc_guest *guest;
    const struct orc_sequence_options *o;
    struct orc_snapshot *before, *pool[MAX_FIXUPS], *outer; // outer: before a function and its call
    struct fixup fix[MAX_FIXUPS];
    unsigned fixups, draws, cells;
    u16 start[ORC_MAX_ITEMS]; // of each draw, in the code
    bool ended;
    struct orc_case scratch;
};

static u64 here(const struct builder *b)
{
    return b->q->c.in.rip + b->q->c.len;
}

// --- writing ------------------------------------------------------------------------------------------------------------

static void emit(struct builder *b, const u8 *bytes, unsigned len)
{
    struct orc_case *c = &b->q->c;
    memcpy(c->code + c->len, bytes, len);
    orc_guest_write(b->guest, c->code_off + c->len, bytes, len);
    b->q->item[b->q->items++] = (struct orc_item){c->len, (u8)len};
    c->len = (u16)(c->len + len);
}

static void rewrite(struct builder *b, unsigned at, u64 value, unsigned size)
{
    memcpy(b->q->c.code + at, &value, size);
    orc_guest_write(b->guest, b->q->c.code_off + at, b->q->c.code + at, size);
}

static bool room(const struct builder *b)
{
    return b->q->items + 24 < ORC_MAX_ITEMS && b->q->c.len + 4 * ROOM < ORC_CODE_BYTES &&
           b->q->c.code_off + b->q->c.len + 4 * ROOM < 0xa000;
}

struct mark {
    u16 len;
    unsigned items, cells;
};

static struct mark mark(struct builder *b)
{
    orc_guest_save(b->guest, b->before);
    return (struct mark){b->q->c.len, b->q->items, b->cells};
}

static void take_back(struct builder *b, struct mark m)
{
    orc_guest_restore(b->guest, b->before);
    b->q->c.len = m.len;
    b->q->items = m.items;
    b->cells = m.cells;
}

static bool advance(struct builder *b)
{
    return orc_guest_run_to(b->guest, here(b), 3000);
}

// --- operands -----------------------------------------------------------------------------------------------------------

// ModRM and displacement for a plain absolute address in DS, or 0 when DS does not reach it for writing.
static unsigned absolute(const struct builder *b, unsigned reg, u32 off, u8 *p)
{
    const struct x86_seg *ds = &orc_guest_cpu(b->guest)->seg[X86_DS];
    unsigned mode = b->q->c.mode;
    u32 a = ORC_ARENA + off;
    if (mode == ISA_MODE_64) {
        p[0] = (u8)(reg << 3 | 4);
        p[1] = 0x25;
        memcpy(p + 2, &a, 4);
        return 6;
    }
    if (!(ds->attr & X86_SEG_W) || (ds->attr & (X86_SEG_UNUSABLE | X86_SEG_CODE)) || (ds->attr & X86_SEG_E))
        return 0;
    a -= (u32)ds->base;
    if (a > ds->limit || ds->limit - a < 4 || (mode == ISA_MODE_16 && a > 0xffff))
        return 0;
    p[0] = (u8)(reg << 3 | (mode == ISA_MODE_16 ? 6 : 5));
    memcpy(p + 1, &a, 4);
    return mode == ISA_MODE_16 ? 3 : 5;
}

// MOV reg, val
static unsigned put_mov(unsigned mode, unsigned reg, u64 val, u8 *p)
{
    unsigned n = 0;
    if (mode == ISA_MODE_16)
        p[n++] = 0x66;
    if (mode == ISA_MODE_64 && (reg >= 8 || val >> 32))
        p[n++] = (u8)(0x40 | (val >> 32 ? ISA_REX_W : 0) | (reg >= 8 ? ISA_REX_B : 0));
    p[n++] = (u8)(0xb8 | (reg & 7));
    unsigned size = mode == ISA_MODE_64 && val >> 32 ? 8 : 4;
    memcpy(p + n, &val, size);
    return n + size;
}

// MOV DWORD [a], imm32
static unsigned put_store(const struct builder *b, u32 off, u32 val, u8 *p)
{
    unsigned n = 0;
    if (b->q->c.mode == ISA_MODE_16)
        p[n++] = 0x66;
    p[n++] = 0xc7;
    unsigned m = absolute(b, 0, off, p + n);
    memcpy(p + n + m, &val, 4);
    return m ? n + m + 4 : 0;
}

// Put the processor's present state into the scratch case.
static void take_state(struct builder *b)
{
    const struct cpu *c = orc_guest_cpu(b->guest);
    struct orc_case *s = &b->scratch;
    memcpy(s->in.gpr, c->gpr, sizeof s->in.gpr);
    s->in.rip = here(b);
    s->in.rflags = c->rflags;
    s->in.xs = c->xs;
    for (unsigned i = 0; i < 6; i++)
        s->in.sel[i] = c->seg[i].sel;
    s->in.fs_base = c->seg[X86_FS].base;
    s->in.gs_base = c->seg[X86_GS].base;
    s->mode = b->q->c.mode;
    s->flags = b->q->c.flags;
    s->code_off = (u16)(b->q->c.code_off + b->q->c.len);
    s->npatch = s->nland = 0;
    s->valid = 1;
}

// --- ordinary instructions ----------------------------------------------------------------------------------------------

// What gives another answer each time, or leaves the code segment.
bool orc_unwanted(const struct orc_sequence_options *o, const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_RDTSC:
    case ISA_OP_RDTSCP:
    case ISA_OP_RDRAND:
    case ISA_OP_RDSEED:
    case ISA_OP_RDPID:
    case ISA_OP_INT:
    case ISA_OP_IRET:
    case ISA_OP_JMP_FAR:
    case ISA_OP_CALL_FAR:
    case ISA_OP_RET_FAR: return true;
    case ISA_OP_CPUID:
    case ISA_OP_XGETBV:
    case ISA_OP_LSL:
    case ISA_OP_POPF: return o->host;
    default: break;
    }
    const char *name = isa_op_names[in->op];
    if (!strcmp(name, "XSAVEOPT") || !strcmp(name, "XSAVES"))
        return true;
    return o->host && !strncmp(name, "XSAVE", 5);
}

// Instructions that bring about what aiming changed in the scratch case. Returns their length; 0xff when it cannot be done.
static unsigned put_preparations(struct builder *b, u8 *p, u8 *lens, unsigned *count)
{
    const struct cpu *c = orc_guest_cpu(b->guest);
    const struct orc_case *s = &b->scratch;
    unsigned n = 0, k = 0;
    for (unsigned i = 0; i < s->npatch && n + 36 < ROOM; i++) {
        for (unsigned at = 0; at + 4 <= s->patch[i].len && at < 8; at += 4) {
            u32 v;
            memcpy(&v, s->data + s->patch[i].data + at, 4);
            unsigned m = put_store(b, s->patch[i].off + at, v, p + n);
            n += m;
            if (m)
                lens[k++] = (u8)m;
        }
    }
    for (unsigned r = 0; r < X86_GPR_COUNT; r++) {
        if (s->in.gpr[r] == c->gpr[r])
            continue;
        if (n + 10 > ROOM)
            return 0xff;
        lens[k] = (u8)put_mov(s->mode, r, s->in.gpr[r], p + n);
        n += lens[k++];
    }
    if ((s->in.rflags ^ c->rflags) & X86_FL_DF) {
        p[n++] = s->in.rflags & X86_FL_DF ? 0xfd : 0xfc;
        lens[k++] = 1;
    }
    *count = k;
    bool rest = ((s->in.rflags ^ c->rflags) & ~(u64)X86_FL_DF) || memcmp(&s->in.xs, &c->xs, sizeof c->xs);
    return rest || n > ROOM - 16 ? 0xff : n;
}

// The preparations move an instruction that finds its operand relative to itself.
static void move_displacement(struct orc_case *s, unsigned by)
{
    const struct insn *in = &s->insn;
    if (in->base != ISA_REG_RIP || !by)
        return;
    u32 d = (u32)in->disp - by;
    memcpy(s->code + in->imm_off - 4, &d, 4);
}

static bool draw_ordinary(struct builder *b)
{
    struct orc_case *s = &b->scratch;
    u8 prep[ROOM + 16], lens[24];
    for (unsigned tries = 0; tries < 40; tries++) {
        unsigned count = 0, form = orc_pick_form(&b->g);
        struct mark m = mark(b);
        take_state(b);
        if (!orc_encode(&b->g.r, form, s->mode, s->code, &s->insn) || orc_unwanted(b->o, &s->insn) ||
            isa_forms[s->insn.form].cls == ISA_CLASS_BRANCH)
            continue;
        s->len = s->insn.len;
        b->g.c = s;
        b->g.data_used = 0;
        orc_steer(&b->g);
        unsigned n = put_preparations(b, prep, lens, &count);
        if (n == 0xff)
            continue;
        move_displacement(s, n);
        for (unsigned i = 0, at = 0; i < count; at += lens[i++])
            emit(b, prep + at, lens[i]);
        bool ok = !count || advance(b);
        emit(b, s->code, s->len);
        if (ok && advance(b))
            return true;
        if (ok && orc_chance(&b->g.r, 1)) {
            b->ended = true;
            return true;
        }
        take_back(b, m);
    }
    return false;
}

// --- branches -----------------------------------------------------------------------------------------------------------

// After one step of the branch that was just written: note where it goes, and go on behind it in any case.
static bool branched(struct builder *b, unsigned at, unsigned size, bool relative, bool taken)
{
    struct fixup *f = &b->fix[b->fixups];
    *f = (struct fixup){(u16)at, (u8)size, relative, (u16)(b->draws + 2 + orc_below(&b->g.r, 4)), NULL};
    if (taken) {
        f->taken = b->pool[b->fixups];
        orc_guest_save(b->guest, f->taken);
        orc_guest_jump(b->guest, here(b));
    }
    b->fixups++;
    return true;
}

// Jcc, JMP or CALL forward, with a displacement of 4 (2) bytes or, but for CALL, 1.
static bool draw_forward(struct builder *b)
{
    unsigned x = orc_below(&b->g.r, 100), n = 0, word = b->q->c.mode == ISA_MODE_16 ? 2 : 4;
    bool is_short = x < 90 && orc_chance(&b->g.r, 50);
    u8 p[8] = {0};
    if (x < 80) { // Jcc
        if (!is_short)
            p[n++] = 0x0f;
        p[n++] = (u8)((is_short ? 0x70 : 0x80) | orc_below(&b->g.r, 16));
    } else {
        p[n++] = x < 90 ? (is_short ? 0xeb : 0xe9) : 0xe8;
    }
    unsigned size = is_short ? 1 : word, at = b->q->c.len + n;
    p[n] = 1; // tells taken from not taken
    struct mark m = mark(b);
    emit(b, p, n + size);
    bool ok = orc_guest_step(b->guest);
    u64 rip = orc_guest_cpu(b->guest)->rip;
    if (!ok || (rip != here(b) && rip != here(b) + 1)) {
        take_back(b, m);
        return false;
    }
    return branched(b, at, size, true, rip != here(b));
}

// MOV reg, target; JMP reg or CALL reg; or PUSH target; RET.
static bool draw_indirect(struct builder *b)
{
    unsigned mode = b->q->c.mode, reg = orc_below(&b->g.r, 8), x = orc_below(&b->g.r, 3);
    u8 p[16] = {0x68}, jump[2] = {0xff, (u8)((x ? 0xe0 : 0xd0) | reg)};
    u64 there = here(b) + 32;
    struct mark m = mark(b);
    if (mode == ISA_MODE_16)
        return false;
    if (x == 2) {
        memcpy(p + 1, &there, 4);
        emit(b, p, 5);
        jump[0] = 0xc3;
    } else {
        emit(b, p, put_mov(mode, reg, there, p));
    }
    unsigned at = b->q->c.len - 4u;
    bool ok = advance(b);
    emit(b, jump, x == 2 ? 1 : 2);
    if (!ok || !orc_guest_step(b->guest) || orc_guest_cpu(b->guest)->rip != there) {
        take_back(b, m);
        return false;
    }
    return branched(b, at, 4, false, true);
}

// Give the branches that go to the draw that comes now, or to the end, their targets.
static void resolve(struct builder *b, bool all)
{
    unsigned kept = 0;
    struct orc_snapshot *arrive = NULL;
    for (unsigned i = 0; i < b->fixups; i++) {
        struct fixup f = b->fix[i];
        unsigned end = f.at + f.size;
        u64 rel = b->q->c.len - end;
        if (!all && b->draws < f.due && !(f.size == 1 && rel > 60)) {
            struct orc_snapshot *swap = b->pool[kept];
            b->pool[kept] = b->pool[i];
            b->pool[i] = swap;
            b->fix[kept++] = f;
            continue;
        }
        rewrite(b, f.at, f.relative ? rel : here(b), f.size);
        if (f.taken)
            arrive = f.taken;
    }
    b->fixups = kept;
    if (!arrive || all)
        return;
    orc_guest_restore(b->guest, arrive);
    orc_guest_write(b->guest, b->q->c.code_off, b->q->c.code, b->q->c.len);
    orc_guest_jump(b->guest, here(b));
}

// --- functions ----------------------------------------------------------------------------------------------------------

// A step that must lead to `there`.
static bool goes_to(struct builder *b, u64 there)
{
    return orc_guest_step(b->guest) && orc_guest_cpu(b->guest)->rip == there;
}

// RET, RET with some bytes to drop, or POP reg; JMP reg. It must go to `back`.
static bool emit_return(struct builder *b, u64 back)
{
    unsigned x = orc_below(&b->g.r, 10), reg = orc_below(&b->g.r, 8);
    u8 ret[3] = {0xc3}, pop = (u8)(0x58 | reg), jump[2] = {0xff, (u8)(0xe0 | reg)};
    if (x < 7) {
        emit(b, ret, 1);
    } else if (x < 8) {
        ret[0] = 0xc2;
        ret[1] = (u8)(8 * orc_below(&b->g.r, 3));
        emit(b, ret, 3);
    } else {
        emit(b, &pop, 1);
        if (reg == X86_RSP || !advance(b))
            return false;
        emit(b, jump, 2);
    }
    return goes_to(b, back);
}

// A stack pointer that is good for something, in pages 4 and 5.
static void emit_stack(struct builder *b)
{
    const struct x86_seg *ss = &orc_guest_cpu(b->guest)->seg[X86_SS];
    u64 base = b->q->c.mode == ISA_MODE_64 ? 0 : ss->base;
    u8 p[12];
    u32 off = orc_chance(&b->g.r, 70) ? 0x5000 + 8 * orc_below(&b->g.r, 5) : 0x4800 + orc_below(&b->g.r, 0x1000);
    emit(b, p, put_mov(b->q->c.mode, X86_RSP, (u32)(ORC_ARENA + off - base), p));
}

// CALL F; JMP END; F: some instructions; RET; END.
static bool draw_function(struct builder *b)
{
    unsigned word = b->q->c.mode == ISA_MODE_16 ? 2 : 4;
    u8 call[5] = {0xe8, (u8)(1 + word)}, jump[5] = {0xe9};
    orc_guest_save(b->guest, b->outer);
    struct mark m = {b->q->c.len, b->q->items, b->cells};
    bool ok = true;
    if (orc_chance(&b->g.r, 80)) {
        emit_stack(b);
        ok = advance(b);
    }
    emit(b, call, 1 + word);
    u64 back = here(b);
    unsigned at = b->q->c.len + 1;
    emit(b, jump, 1 + word);
    ok = ok && goes_to(b, here(b));
    for (unsigned i = orc_below(&b->g.r, 4); i > 0 && ok && !b->ended; i--)
        draw_ordinary(b);
    if (b->ended)
        return true;
    if (ok && emit_return(b, back)) {
        rewrite(b, at, b->q->c.len - (at + word), word);
        if (goes_to(b, here(b)))
            return true;
    }
    orc_guest_restore(b->guest, b->outer);
    b->q->c.len = m.len;
    b->q->items = m.items;
    b->cells = m.cells;
    return false;
}

// --- loops --------------------------------------------------------------------------------------------------------------

static void emit_change(struct builder *b, u32 off);

// DEC DWORD [cell]; JG back to an earlier draw. The cell counts how often: it is not above zero for ever after.
static bool draw_loop(struct builder *b)
{
    u8 p[16];
    unsigned n = 0, word = b->q->c.mode == ISA_MODE_16 ? 2 : 4;
    if (b->draws < 2 || b->fixups || b->cells == MAX_CELLS)
        return false;
    unsigned back = b->start[b->draws - 1 - orc_below(&b->g.r, b->draws < 8 ? b->draws : 8)];
    struct mark m = mark(b);
    if (b->o->modify && orc_chance(&b->g.r, 30))
        emit_change(b, b->q->c.code_off + back + orc_below(&b->g.r, b->q->c.len - back));
    if (b->q->c.mode == ISA_MODE_16)
        p[n++] = 0x66;
    p[n++] = 0xff;
    unsigned k = absolute(b, 1, CELLS + 4 * b->cells++, p + n);
    if (k)
        emit(b, p, n + k);
    int d = (int)back - (int)b->q->c.len;
    bool is_short = d - 2 >= -128 && orc_chance(&b->g.r, 70);
    p[0] = is_short ? 0x7f : 0x0f;
    p[1] = 0x8f;
    d -= is_short ? 2 : 2 + (int)word;
    memcpy(p + (is_short ? 1 : 2), &d, 4);
    emit(b, p, is_short ? 2 : 2 + word);
    if (k && advance(b))
        return true;
    take_back(b, m);
    return false;
}

// --- changes to itself --------------------------------------------------------------------------------------------------

// A store of 1, 2 or 4 bytes, or an addition, to the arena at `off`. The code that it changes may be any.
static void emit_change(struct builder *b, u32 off)
{
    static const u8 ops[][3] = {{0xc6, 0, 1}, {0xc7, 0, 4}, {0x80, 0, 1}, {0x80, 6, 1},
                                {0x83, 0, 1}, {0xfe, 0, 0}, {0xd0, 0, 0}};
    const u8 *op = ops[orc_below(&b->g.r, ARRAY_LEN(ops))];
    u8 p[16];
    unsigned n = 0;
    if (op[0] == 0xc7 && b->q->c.mode == ISA_MODE_16)
        p[n++] = 0x66;
    p[n++] = op[0];
    unsigned k = absolute(b, op[1], off, p + n);
    u64 v = orc_value(&b->g.r);
    memcpy(p + n + k, &v, 4);
    if (k)
        emit(b, p, n + k + op[2]);
}

static bool has_immediate(struct builder *b, const struct orc_item *t)
{
    struct insn in;
    return isa_decode(b->q->c.code + t->off, t->len, b->q->c.mode, orc_isa_options, &in) == ISA_OK &&
           in.imm_off < in.len;
}

// One of the items from `first` on, mostly one with an immediate.
static const struct orc_item *pick_item(struct builder *b, unsigned first)
{
    const struct orc_item *t = NULL;
    for (unsigned tries = 0; tries < 4; tries++) {
        t = &b->q->item[first + orc_below(&b->g.r, b->q->items - first)];
        if (has_immediate(b, t))
            break;
    }
    return t;
}

// A byte of an instruction to change: mostly of its immediate, which leaves it what it is.
static unsigned pick_byte(struct builder *b, const struct orc_item *t)
{
    struct insn in;
    if (isa_decode(b->q->c.code + t->off, t->len, b->q->c.mode, orc_isa_options, &in) == ISA_OK &&
        in.imm_off < in.len && orc_chance(&b->g.r, 85))
        return in.imm_off + orc_below(&b->g.r, in.len - in.imm_off);
    return orc_below(&b->g.r, t->len);
}

// A store into the instruction that is drawn next, or one after that, and those.
static bool draw_change(struct builder *b)
{
    struct mark m = mark(b);
    unsigned store = b->q->c.len, before = b->q->items;
    emit_change(b, SPARE);
    if (b->q->items == before || !advance(b)) {
        take_back(b, m);
        return false;
    }
    unsigned len = b->q->c.len - store;
    for (unsigned i = orc_below(&b->g.r, 3); i > 0 && !b->ended; i--)
        draw_ordinary(b);
    unsigned first = b->q->items;
    if (b->ended || !draw_ordinary(b))
        return true;
    const struct orc_item *t = pick_item(b, first);
    unsigned into = pick_byte(b, t);
    u32 to = ORC_ARENA + b->q->c.code_off + t->off + into, from = ORC_ARENA + SPARE;
    // The address stands somewhere in the store's bytes, less the segment's base.
    u8 *p = b->q->c.code + store;
    for (unsigned i = 0; i + 2 <= len; i++) {
        u32 have = 0;
        unsigned size = b->q->c.mode == ISA_MODE_16 ? 2 : 4;
        memcpy(&have, p + i, size);
        if (i + size <= len && ((have ^ from) & 0xffff) == 0) {
            rewrite(b, store + i, have + (to - from), size);
            break;
        }
    }
    return true;
}

// --- the whole ----------------------------------------------------------------------------------------------------------

static void start(struct builder *b, u64 seed)
{
    struct orc_case *c = &b->q->c;
    b->g.r.s = orc_mix(seed);
    b->g.c = c;
    b->g.data_used = 0;
    orc_pick_start(&b->g);
    c->seed = seed;
    c->in.rflags &= ~(u64)X86_FL_TF;
    // Mostly segments that all of it can use.
    if (c->mode != ISA_MODE_64 && orc_chance(&b->g.r, 85)) {
        u16 plain = c->mode == ISA_MODE_16 ? ORC_LDT_SEL(ORC_LDT_DATA16) : ORC_SEL_USER_DS;
        c->in.sel[X86_DS] = c->in.sel[X86_SS] = plain;
        c->in.sel[X86_CS] = c->mode == ISA_MODE_16 ? ORC_LDT_SEL(ORC_LDT_CODE16) : ORC_SEL_USER_CS32;
    }
    u32 off = orc_chance(&b->g.r, 50) ? 0x8000 + orc_below(&b->g.r, 0x1c00) : 0x9000 - orc_below(&b->g.r, 200);
    u16 cs = c->in.sel[X86_CS];
    if (cs == ORC_LDT_SEL(ORC_LDT_SHORT16) || cs == ORC_LDT_SEL(ORC_LDT_SHORT32)) // its limit may be on the way
        off = orc_chance(&b->g.r, 50) ? 0x9000 + orc_below(&b->g.r, 0x600) : ORC_SHORT_LIMIT - orc_below(&b->g.r, 100);
    c->code_off = (u16)off;
    c->in.rip = ORC_ARENA + off - orc_code_base(c);
    c->len = 0;
    u32 cells[MAX_CELLS];
    for (unsigned i = 0; i < MAX_CELLS; i++)
        cells[i] = 1 + orc_below(&b->g.r, orc_chance(&b->g.r, 10) ? 60 : 6);
    c->patch[c->npatch++] = (struct orc_patch){CELLS, sizeof cells, 0};
    memcpy(c->data, cells, sizeof cells);
}

static void draw(struct builder *b)
{
    unsigned x = orc_below(&b->g.r, 100);
    bool done = false;
    if (x < 12 && b->fixups < MAX_FIXUPS)
        done = draw_forward(b);
    else if (x < 16 && b->fixups < MAX_FIXUPS)
        done = draw_indirect(b);
    else if (x < 24)
        done = draw_loop(b);
    else if (x < 32 && b->o->modify)
        done = draw_change(b);
    else if (x < 42)
        done = draw_function(b);
    if (!done)
        draw_ordinary(b);
}

void orc_sequence_generate(struct orc_guest *interp, const struct orc_sequence_options *o, u64 seed,
                           struct orc_sequence *q)
{
    static struct builder *b;
    if (!b) {
        b = aligned_alloc(64, (sizeof *b + 63) & ~63ull);
        if (!b)
            abort();
        memset(b, 0, sizeof *b);
        for (unsigned i = 0; i < MAX_FIXUPS + 2; i++) {
            struct orc_snapshot **s = i < MAX_FIXUPS ? &b->pool[i] : i == MAX_FIXUPS ? &b->before : &b->outer;
            *s = aligned_alloc(64, (sizeof **s + 63) & ~63ull);
            if (!*s)
                abort();
        }
    }
    b->q = q;
    b->guest = interp;
    b->o = o;
    b->fixups = b->draws = b->cells = q->items = 0;
    b->ended = false;
    start(b, seed);
    orc_guest_begin(interp, &q->c);
    unsigned length = 2 + orc_below(&b->g.r, o->length - 1);
    while (b->draws < length && !b->ended && room(b)) {
        b->start[b->draws] = q->c.len;
        draw(b);
        b->draws++;
        resolve(b, false);
    }
    resolve(b, true);
    q->c.land[0] = (u16)(q->c.code_off + q->c.len);
    q->c.nland = 1;
}

void orc_sequence_report(const struct orc_sequence *q, const struct orc_result *want, const struct orc_result *got)
{
    static const char *const modes[] = {"16", "32", "64"};
    const struct orc_case *c = &q->c;
    printf("seed 0x%lx %s-bit sequence at %08x:\n", c->seed, modes[c->mode], ORC_ARENA + c->code_off);
    for (unsigned i = 0; i < q->items; i++) {
        const u8 *p = c->code + q->item[i].off;
        char text[128] = "";
        bool nop = true;
        for (unsigned k = 0; k < q->item[i].len; k++)
            nop &= p[k] == 0x90;
        if (nop)
            continue;
        isa_disasm(p, q->item[i].len, c->mode, c->in.rip + q->item[i].off, text, sizeof text);
        printf("  %08lx  ", c->in.rip + q->item[i].off);
        for (unsigned k = 0; k < 15; k++)
            printf(k < q->item[i].len ? "%02x" : "  ", p[k]);
        printf("  %s\n", text);
    }
    printf("  %08lx  end; NOPs in between\n", c->in.rip + c->len);
    orc_report_states(c, want, got);
}
