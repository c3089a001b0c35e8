// Host instructions, byte by byte.
//
// Code is written through one mapping of the code memory and runs in another (core/host.h), so addresses that code refers to are
// computed for where it will run. Everything the emitted code keeps in memory is within reach of RIP-relative addressing.
//
// Up to eight bytes behind what is emitted may be written to.
#ifndef POGO_ENGINE_BT_EMIT_H
#define POGO_ENGINE_BT_EMIT_H

#include <string.h>

#include "isa/x86.h"
#include "pogo/types.h"

struct emit {
    u8 *p;       // where the next byte goes
    u8 *end;     // of the room there is
    u64 to_exec; // what to add to a writable address for the executable one
};

// Condition codes as in the opcodes of Jcc.
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

#define REX_BASE 0x40u
#define REX_W 8u

static inline u64 emit_here(const struct emit *e)
{
    return (u64)e->p + e->to_exec;
}

static inline void emit1(struct emit *e, unsigned b)
{
    *e->p++ = (u8)b;
}

static inline void emit2(struct emit *e, unsigned v)
{
    u16 w = (u16)v;
    memcpy(e->p, &w, 2);
    e->p += 2;
}

static inline void emit4(struct emit *e, u32 v)
{
    memcpy(e->p, &v, 4);
    e->p += 4;
}

static inline void emit8(struct emit *e, u64 v)
{
    memcpy(e->p, &v, 8);
    e->p += 8;
}

static inline void emit_bytes(struct emit *e, const u8 *p, unsigned n)
{
    memcpy(e->p, p, n);
    e->p += n;
}

#define EMIT(e, ...) emit_bytes(e, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

// Bytes of an instruction that are put together before they are written: the first ones lowest. Writing them one by one would
// have each wait for the one before.
struct emit_word {
    u64 v;
    unsigned n;
};

static inline void word_put(struct emit_word *w, unsigned b)
{
    w->v |= (u64)b << 8 * w->n++;
}

// Writes eight bytes, of which w->n count.
static inline void emit_word(struct emit *e, struct emit_word w)
{
    memcpy(e->p, &w.v, 8);
    e->p += w.n;
}

// Operand size, REX for the three register numbers, opcode (two bytes where it has 0f in its second byte). `size` 2 (66 goes first), 4 or 8.
static inline struct emit_word word_opcode(unsigned size, unsigned opcode, unsigned reg, unsigned index, unsigned base)
{
    struct emit_word w = {0, 0};
    unsigned rex = (size == 8 ? REX_W : 0) | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    if (size == 2)
        word_put(&w, 0x66);
    if (rex)
        word_put(&w, REX_BASE | rex);
    if (opcode > 0xff)
        word_put(&w, 0x0f);
    word_put(&w, opcode & 0xff);
    return w;
}

// An instruction on two registers. `size` 4 or 8.
static inline void emit_rr(struct emit *e, unsigned size, unsigned opcode, unsigned reg, unsigned rm)
{
    struct emit_word w = word_opcode(size == 8 ? 8 : 4, opcode, reg, 0, rm);
    word_put(&w, 0xc0 | (reg & 7) << 3 | (rm & 7));
    emit_word(e, w);
}

static inline void emit_mov_rr(struct emit *e, unsigned size, unsigned to, unsigned from)
{
    emit_rr(e, size, 0x8b, to, from);
}

// The mod field of ModRM that [base + disp] takes, and the displacement for it.
static inline unsigned emit_mod(unsigned base, i32 disp)
{
    return disp == 0 && (base & 7) != X86_RBP ? 0 : disp >= -128 && disp <= 127 ? 1 : 2;
}

// What was put together, and the displacement.
static inline void emit_word_disp(struct emit *e, struct emit_word w, unsigned mod, i32 disp)
{
    if (mod == 1)
        word_put(&w, (u8)disp);
    emit_word(e, w);
    if (mod == 2)
        emit4(e, (u32)disp);
}

static inline void emit_word_base(struct emit *e, struct emit_word w, unsigned reg, unsigned base, i32 disp)
{
    unsigned mod = emit_mod(base, disp);
    word_put(&w, mod << 6 | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == X86_RSP)
        word_put(&w, 0x24);
    emit_word_disp(e, w, mod, disp);
}

static inline void emit_word_sib(struct emit *e, struct emit_word w, unsigned reg, unsigned base, unsigned index,
                                 unsigned scale, i32 disp)
{
    unsigned mod = emit_mod(base, disp);
    word_put(&w, mod << 6 | (reg & 7) << 3 | 4);
    word_put(&w, scale << 6 | (index & 7) << 3 | (base & 7));
    emit_word_disp(e, w, mod, disp);
}

// ModRM, SIB and displacement for [base + disp].
static inline void emit_modrm_base(struct emit *e, unsigned reg, unsigned base, i32 disp)
{
    emit_word_base(e, (struct emit_word){0, 0}, reg, base, disp);
}

// The same for [base + index + disp].
static inline void emit_modrm_sib(struct emit *e, unsigned reg, unsigned base, unsigned index, i32 disp)
{
    emit_word_sib(e, (struct emit_word){0, 0}, reg, base, index, 0, disp);
}

// The same with REX and opcode in front.
static inline void emit_rm(struct emit *e, unsigned size, unsigned opcode, unsigned reg, unsigned base, i32 disp)
{
    emit_word_base(e, word_opcode(size, opcode, reg, 0, base), reg, base, disp);
}

// lea to, [base + index << scale + disp]; index X86_RSP: none. `size` truncates the sum.
static inline void emit_lea(struct emit *e, unsigned size, unsigned to, unsigned base, unsigned index, unsigned scale,
                            i32 disp)
{
    if (index == X86_RSP)
        emit_rm(e, size, 0x8d, to, base, disp);
    else
        emit_word_sib(e, word_opcode(size == 8 ? 8 : 4, 0x8d, to, index, base), to, base, index, scale, disp);
}

// lea to, [index << scale + disp]
static inline void emit_lea_index(struct emit *e, unsigned size, unsigned to, unsigned index, unsigned scale, i32 disp)
{
    struct emit_word w = word_opcode(size == 8 ? 8 : 4, 0x8d, to, index, 0);
    word_put(&w, (to & 7) << 3 | 4);
    word_put(&w, scale << 6 | (index & 7) << 3 | 5);
    emit_word(e, w);
    emit4(e, (u32)disp);
}

// An instruction with a RIP-relative operand at `addr`, followed by `imm` bytes of immediate that the caller emits.
static inline void emit_rip(struct emit *e, unsigned size, unsigned opcode, unsigned reg, const void *addr,
                            unsigned imm)
{
    struct emit_word w = word_opcode(size, opcode, reg, 0, 0);
    word_put(&w, (reg & 7) << 3 | 5);
    emit_word(e, w);
    emit4(e, (u32)((u64)addr - (emit_here(e) + 4 + imm)));
}

static inline void emit_load(struct emit *e, unsigned size, unsigned reg, const void *addr)
{
    emit_rip(e, size, 0x8b, reg, addr, 0);
}

static inline void emit_store(struct emit *e, unsigned size, unsigned reg, const void *addr)
{
    emit_rip(e, size, 0x89, reg, addr, 0);
}

// mov dword [addr], imm
static inline void emit_store_imm(struct emit *e, const void *addr, u32 imm)
{
    emit_rip(e, 4, 0xc7, 0, addr, 4);
    emit4(e, imm);
}

static inline void emit_mov_imm32(struct emit *e, unsigned reg, u32 imm) // zero-extends
{
    struct emit_word w = {0, 0};
    if (reg & 8)
        word_put(&w, 0x41);
    word_put(&w, 0xb8 | (reg & 7));
    w.v |= (u64)imm << 8 * w.n;
    w.n += 4;
    emit_word(e, w);
}

static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 imm)
{
    if (imm <= 0xffffffffu) {
        emit_mov_imm32(e, reg, (u32)imm);
        return;
    }
    emit1(e, 0x48 | reg >> 3);
    if ((u64)(i64)(i32)imm == imm) {
        EMIT(e, 0xc7, (u8)(0xc0 | (reg & 7)));
        emit4(e, (u32)imm);
        return;
    }
    emit1(e, 0xb8 | (reg & 7));
    emit8(e, imm);
}

// op reg, imm (81 /digit: 0 add, 1 or, 4 and, 5 sub, 7 cmp), the short form where it fits.
static inline void emit_alu_imm(struct emit *e, unsigned size, unsigned digit, unsigned reg, i32 imm)
{
    bool is_short = imm >= -128 && imm <= 127;
    emit_rr(e, size, is_short ? 0x83 : 0x81, digit, reg);
    if (is_short)
        emit1(e, (u8)imm);
    else
        emit4(e, (u32)imm);
}

// Jumps with 32 bits of displacement. They return where that is, for emit_patch().
static inline u8 *emit_jcc(struct emit *e, unsigned cc)
{
    EMIT(e, 0x0f, (u8)(0x80 | cc));
    emit4(e, 0);
    return e->p - 4;
}

static inline u8 *emit_jmp(struct emit *e)
{
    emit1(e, 0xe9);
    emit4(e, 0);
    return e->p - 4;
}

static inline u8 *emit_call(struct emit *e)
{
    emit1(e, 0xe8);
    emit4(e, 0);
    return e->p - 4;
}

// Is the address in `reg` canonical: E. Destroys `spare`.
static inline void emit_canonical(struct emit *e, unsigned reg, unsigned spare)
{
    emit_mov_rr(e, 8, spare, reg);
    emit_rr(e, 8, 0xc1, 4, spare); // shl
    emit1(e, 16);
    emit_rr(e, 8, 0xc1, 7, spare); // sar
    emit1(e, 16);
    emit_rr(e, 8, 0x3b, spare, reg);
}

// Let the jump whose displacement is at `at` (writable address) go to `target` (executable address). One aligned store or not:
// only the thread that runs the code changes it.
static inline void emit_patch(const struct emit *e, u8 *at, u64 target)
{
    u32 rel = (u32)(target - ((u64)at + e->to_exec + 4));
    memcpy(at, &rel, 4);
}

static inline void emit_jmp_to(struct emit *e, u64 target)
{
    u8 *at = emit_jmp(e);
    emit_patch(e, at, target);
}

static inline void emit_jcc_to(struct emit *e, unsigned cc, u64 target)
{
    u8 *at = emit_jcc(e, cc);
    emit_patch(e, at, target);
}

#endif
