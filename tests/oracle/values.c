// Values that sit on boundaries, and the pools that vectors and memory are filled from.
//
// The pools are the same in every run (they come from a fixed seed), so a case needs only an index.
#include <string.h>

#include "oracle/oracle.h"

#define VECTORS 4096
#define F80S 1024

static u8 vectors[VECTORS][32];
static u8 f80s[F80S][10];

static const u64 corners[] = {
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    0x7f,
    0x80,
    0x81,
    0xfe,
    0xff,
    0x100,
    0x7ffe,
    0x7fff,
    0x8000,
    0x8001,
    0xfffe,
    0xffff,
    0x10000,
    0x7ffffffe,
    0x7fffffff,
    0x80000000,
    0x80000001,
    0xfffffffe,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0x8000000000000001,
    0xfffffffffffffffe,
    0xffffffffffffffff,
    0xffffffff80000000,
    0xffffffffffff8000,
    0xffffffffffffff80,
    0x00007fffffffffff,
    0x0000800000000000,
    0xffff800000000000,
    0x5555555555555555,
    0xaaaaaaaaaaaaaaaa,
    0x0123456789abcdef,
    0x99,
    0x9999,
    0x0f0f,
    0xf0f0,
};

u64 orc_value(struct orc_rng *r)
{
    u64 x = orc_rnd(r);
    unsigned shift = (x >> 8) & 63;
    switch (x & 7) {
    case 0:
    case 1: return corners[(x >> 16) % ARRAY_LEN(corners)];
    case 2: return (1ull << shift) + ((x >> 16) % 3) - 1;
    case 3: return orc_rnd(r) >> shift;
    case 4: return (u64)((i64)orc_rnd(r) >> shift);
    case 5: return (x >> 16 & 0xff) * 0x0101010101010101ull;
    default: return orc_rnd(r);
    }
}

static const u32 f32s[] = {
    0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000,
    0x80800000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001,
    0x7fbfffff, 0x7fffffff, 0x4b000000, 0x4b800000, 0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001, 0x5f000000,
    0xdf000000, 0x3f000000, 0x3effffff, 0x3fc00000, 0x40200000, 0xbf000000, 0x33800000, 0x477fe000, 0x477ff000,
    0x33000000, 0x38800000, 0x387fffff, 0x3f7fffff, 0x3f800001, 0x00400000, 0x40490fdb,
};

static const u64 f64s[] = {
    0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x0000000000000001,
    0x8000000000000001, 0x000fffffffffffff, 0x800fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
    0xffefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0xfff8000000000000,
    0x7ff0000000000001, 0xfff0000000000001, 0x7ff7ffffffffffff, 0x41dfffffffc00000, 0x41e0000000000000,
    0xc1e0000000000000, 0xc1e0000000200000, 0x43e0000000000000, 0xc3e0000000000000, 0x43dfffffffffffff,
    0x3fe0000000000000, 0x3fdfffffffffffff, 0x3ff8000000000000, 0x4004000000000000, 0x380fffffe0000000,
    0x3810000000000000, 0x369fffffffffffff, 0x36a0000000000000, 0x47efffffe0000000, 0x47efffffefffffff,
    0x47f0000000000000, 0x3ff0000000000001, 0x3fefffffffffffff, 0x0008000000000000, 0x400921fb54442d18,
};

// Sign and exponent, significand: zeros, denormals, pseudo-denormals, unnormals, infinities and pseudo-infinities, NaNs, edges
// of the integer and decimal conversions.
static const struct {
    u16 se;
    u64 m;
} x80s[] = {
    {0x0000, 0},
    {0x8000, 0},
    {0x3fff, 0x8000000000000000},
    {0xbfff, 0x8000000000000000},
    {0x0000, 1},
    {0x8000, 1},
    {0x0000, 0x7fffffffffffffff},
    {0x0000, 0x8000000000000000},
    {0x8000, 0xc000000000000000},
    {0x0001, 0x8000000000000000},
    {0x0001, 0x4000000000000000},
    {0x3fff, 0x4000000000000000},
    {0x4001, 0x0000000000000001},
    {0x7ffe, 0xffffffffffffffff},
    {0xfffe, 0xffffffffffffffff},
    {0x7fff, 0x8000000000000000},
    {0xffff, 0x8000000000000000},
    {0x7fff, 0x0000000000000000},
    {0xffff, 0x4000000000000000},
    {0x7fff, 0x8000000000000001},
    {0x7fff, 0xbfffffffffffffff},
    {0x7fff, 0xc000000000000000},
    {0xffff, 0xc000000000000000},
    {0xffff, 0xffffffffffffffff},
    {0xffff, 0xa000000000000000},
    {0x403d, 0xffffffffffffffff},
    {0x403e, 0x8000000000000000},
    {0xc03e, 0x8000000000000000},
    {0xc03e, 0x8000000000000001},
    {0x403a, 0xde0b6b3a763fffff},
    {0x403a, 0xde0b6b3a76400000},
    {0x401d, 0xfffffffe00000000},
    {0x401e, 0x8000000000000000},
    {0x400d, 0xfffe000000000000},
    {0x400e, 0x8000000000000000},
    {0x3ffe, 0x8000000000000000},
    {0x3ffe, 0xffffffffffffffff},
    {0x3fff, 0xc000000000000000},
    {0x4000, 0xc90fdaa22168c235},
    {0xbffd, 0x9a209a84fbcff799},
    {0x407e, 0xffffff8000000000},
    {0x407e, 0xffffff7fffffffff},
    {0x3f81, 0x8000000000000000},
    {0x3f69, 0x8000000000000000},
    {0x43fe, 0xfffffffffffffc00},
    {0x3c01, 0x8000000000000000},
    {0x3bcd, 0x8000000000000000},
    {0xffff, 0x0123456789abcdef}, // an MMX value
};

static void fill_lanes(struct orc_rng *r, u8 *v)
{
    unsigned kind = orc_below(r, 10);
    for (unsigned i = 0; i < 32; i += 8) {
        u64 x;
        if (kind < 4) {
            u64 lo = orc_chance(r, 75) ? f32s[orc_below(r, ARRAY_LEN(f32s))] : (u32)orc_rnd(r);
            u64 hi = orc_chance(r, 75) ? f32s[orc_below(r, ARRAY_LEN(f32s))] : (u32)orc_rnd(r);
            x = hi << 32 | lo;
        } else if (kind < 7) {
            x = orc_chance(r, 75) ? f64s[orc_below(r, ARRAY_LEN(f64s))] : orc_rnd(r);
        } else if (kind == 7) {
            x = orc_value(r);
        } else if (kind == 8) {
            x = 0;
            for (unsigned b = 0; b < 64; b += 16)
                x |= (corners[orc_below(r, ARRAY_LEN(corners))] & 0xffff) << b;
        } else {
            x = orc_rnd(r);
        }
        memcpy(v + i, &x, 8);
    }
}

// Ordinary floats of like magnitude, so that sums and products round rather than overflow.
static void fill_tame(struct orc_rng *r, u8 *v, bool f64)
{
    for (unsigned i = 0; i < 32; i += 8) {
        u64 x = orc_rnd(r), y;
        if (f64)
            y = (x & 0x800fffffffffffffull) | (u64)(1023 - 8 + orc_below(r, 70)) << 52;
        else
            y = (x & 0x807fffff807fffffull) | (u64)(127 - 8 + orc_below(r, 40)) << 23 |
                (u64)(127 - 8 + orc_below(r, 40)) << 55;
        memcpy(v + i, &y, 8);
    }
}

static void fill_f80(struct orc_rng *r, u8 *v)
{
    u64 m;
    u16 se;
    unsigned kind = orc_below(r, 8);
    if (kind < 4) {
        unsigned i = orc_below(r, ARRAY_LEN(x80s));
        se = x80s[i].se;
        m = x80s[i].m;
    } else if (kind < 7) {
        m = orc_rnd(r) | 1ull << 63;
        if (kind == 4)
            m &= ~0ull << orc_below(r, 63);
        se = (u16)(0x3fff - 40 + orc_below(r, 110)) | (orc_chance(r, 50) ? 0x8000 : 0);
    } else {
        m = orc_value(r);
        se = (u16)orc_value(r);
    }
    memcpy(v, &m, 8);
    memcpy(v + 8, &se, 2);
}

static void fill_arena(struct orc_rng *r)
{
    for (unsigned page = 0; page < ORC_PAGES; page++) {
        u8 *p = orc_pristine + page * 4096;
        memset(p, 0, 4096);
        if (orc_page_kind[page] == ORC_RX || orc_page_kind[page] == ORC_RWX)
            memset(p, 0xcc, 4096);
        if (orc_page_kind[page] == ORC_RO || orc_page_kind[page] == ORC_RW)
            for (unsigned i = 0; i < 4096; i += 32)
                memcpy(p + i, vectors[orc_below(r, VECTORS)], 32);
    }
}

void orc_values_init(void)
{
    struct orc_rng r = {0x706f676f};
    for (unsigned i = 0; i < VECTORS; i++) {
        if (i % 4 == 0)
            fill_tame(&r, vectors[i], i % 8 == 0);
        else
            fill_lanes(&r, vectors[i]);
    }
    for (unsigned i = 0; i < F80S; i++)
        fill_f80(&r, f80s[i]);
    fill_arena(&r);
}

const u8 *orc_vector(struct orc_rng *r)
{
    return vectors[orc_rnd(r) % VECTORS];
}

const u8 *orc_f80(struct orc_rng *r)
{
    return f80s[orc_rnd(r) % F80S];
}
