// Pending status flags.
//
// Most flags that instructions set are never read, so handlers only note what the flags would follow from: the operands or
// the result, sign-extended to 64 bits, and the kind of operation with its size. Sign extension keeps both the signed and
// the unsigned order, so conditions after a comparison need no look at the size. sync_flags() runs the operation again, on the
// host, when somebody wants RFLAGS.
#ifndef POGO_ENGINE_CACHE_FLAGS_H
#define POGO_ENGINE_CACHE_FLAGS_H

#include "engine/cache/cache.h"
#include "isa/alu.h"

// e->flags_kind: one of these | size in bytes.
#define FLAGS_READY 0x00u // in RFLAGS
#define FLAGS_SUB 0x10u   // a minus b
#define FLAGS_ADD 0x20u
#define FLAGS_LOGIC 0x30u // a is the result
#define FLAGS_INC 0x40u   // a is the result; CF is in RFLAGS
#define FLAGS_DEC 0x50u
#define FLAGS_SHL 0x60u // a by b
#define FLAGS_SHR 0x70u
#define FLAGS_SAR 0x80u
#define FLAGS_IMUL 0x90u
#define FLAGS_KIND 0xf0u
#define FLAGS_SIZE 0x0fu
// Or'd in: after all that, IMUL of product_a and product_b (size in the low bits of FLAGS_PRODUCT_SIZE) changed CF and OF only.
#define FLAGS_PRODUCT 0x100u
#define FLAGS_PRODUCT_SIZE(kind) ((kind) >> 12)

#define ALWAYS_INLINE inline __attribute__((always_inline))

static ALWAYS_INLINE u64 extend(u64 v, unsigned size)
{
    switch (size) {
    case 1: return (u64)(i64)(i8)v;
    case 2: return (u64)(i64)(i16)v;
    case 4: return (u64)(i64)(i32)v;
    default: return v;
    }
}

// IMUL where it leaves the other flags alone.
static ALWAYS_INLINE void flags_note_product(struct cache *e, unsigned size, u64 a, u64 b)
{
    e->flags_kind = (e->flags_kind & 0xffu) | FLAGS_PRODUCT | size << 12;
    e->product_a = a;
    e->product_b = b;
}

static ALWAYS_INLINE void flags_note(struct cache *e, unsigned kind, unsigned size, u64 a, u64 b)
{
    e->flags_kind = kind | size;
    e->flags_a = extend(a, size);
    e->flags_b = extend(b, size);
}

// Of operations whose flags follow from the result.
static ALWAYS_INLINE void flags_note_result(struct cache *e, unsigned kind, unsigned size, u64 r)
{
    e->flags_kind = kind | size;
    e->flags_a = extend(r, size);
}

// The sign of v as a number of `size` bytes; bits above are ignored.
static ALWAYS_INLINE bool negative(u64 v, unsigned size)
{
    return v >> (size * 8 - 1) & 1;
}

static ALWAYS_INLINE bool is_zero(u64 v, unsigned size)
{
    return v << (64 - size * 8) == 0;
}

// Condition `cc` after SUB or CMP of a and b, sign-extended from `size`.
static ALWAYS_INLINE bool cond_sub(unsigned cc, u64 a, u64 b, unsigned size)
{
    bool t;
    switch (cc >> 1) {
    case 0: t = negative((a ^ b) & (a ^ (a - b)), size); break;
    case 1: t = a < b; break;
    case 2: t = a == b; break;
    case 3: t = a <= b; break;
    case 4: t = negative(a - b, size); break;
    case 5: t = __builtin_parity((unsigned)(a - b) & 0xff) == 0; break;
    case 6: t = (i64)a < (i64)b; break;
    default: t = (i64)a <= (i64)b; break;
    }
    return t != (cc & 1);
}

// After AND, OR, XOR, TEST with result r, sign-extended: CF and OF are clear.
static ALWAYS_INLINE bool cond_logic(unsigned cc, u64 r)
{
    bool t;
    switch (cc >> 1) {
    case 0:
    case 1: t = false; break;
    case 2:
    case 3: t = r == 0; break;
    case 4:
    case 6: t = (i64)r < 0; break;
    case 5: t = __builtin_parity((unsigned)r & 0xff) == 0; break;
    default: t = (i64)r <= 0; break;
    }
    return t != (cc & 1);
}

// Can the condition be told from what is pending, without RFLAGS?
static ALWAYS_INLINE bool cond_known(const struct cache *e, unsigned cc)
{
    unsigned kind = e->flags_kind & (FLAGS_KIND | FLAGS_PRODUCT);
    if (cc >> 1 == 2 || cc >> 1 == 4)
        return kind <= FLAGS_DEC;
    return kind == FLAGS_SUB || kind == FLAGS_LOGIC || kind == FLAGS_READY;
}

// The condition, where cond_known().
static ALWAYS_INLINE bool cond_now(const struct cpu *c, const struct cache *e, unsigned cc)
{
    unsigned kind = e->flags_kind & FLAGS_KIND, size = e->flags_kind & FLAGS_SIZE;
    u64 a = e->flags_a;
    if (kind == FLAGS_SUB)
        return cond_sub(cc, a, e->flags_b, size);
    if (kind == FLAGS_READY)
        return alu_cond(cc, c->rflags);
    if ((cc >> 1 == 2 || cc >> 1 == 4) && kind == FLAGS_ADD) {
        a += e->flags_b;
        return (cc >> 1 == 2 ? is_zero(a, size) : negative(a, size)) != (cc & 1);
    }
    return cond_logic(cc, a); // of INC and DEC only Z and S
}

#endif
