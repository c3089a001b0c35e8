// isa/alu.h against models that work bit by bit or in wide arithmetic: results and the flags that the manuals define, over
// corner-case and random operands. Bits of RFLAGS that are no status flags must pass through untouched.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "isa/alu.h"

__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 i128;

#define CF X86_FL_CF
#define PF X86_FL_PF
#define AF X86_FL_AF
#define ZF X86_FL_ZF
#define SF X86_FL_SF
#define OF X86_FL_OF
#define ALL X86_FL_STATUS
#define OTHER_FLAGS (X86_FL_IF | X86_FL_DF | X86_FL_RSVD1 | X86_FL_ID)

#define ROUNDS 30000

static u64 seed = 0x9e3779b97f4a7c15ull;

static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static u64 mask_of(unsigned size)
{
    return ~0ull >> (64 - size * 8);
}

// Values around the places where carries and signs turn, and random ones of every magnitude.
static u64 operand(void)
{
    static const u64 corner[] = {0,          1,          2,          0xf,    0x10,      0x7f,
                                 0x80,       0xff,       0x100,      0x7fff, 0x8000,    0x7fffffff,
                                 0x80000000, 0xffffffff, 1ull << 63, ~0ull,  1ull << 62};
    u64 r = rnd();
    if (r & 1)
        return corner[(r >> 8) % (sizeof corner / sizeof corner[0])] + ((r >> 1 & 7) == 0 ? (r >> 5 & 3) - 1 : 0);
    return rnd() >> (r >> 8 & 63);
}

static u64 random_flags(void)
{
    return (rnd() & ALL) | OTHER_FLAGS;
}

static u64 flag_if(bool cond, u64 flag)
{
    return cond ? flag : 0;
}

// ZF, SF and PF of a result.
static u64 zsp(unsigned size, u64 r)
{
    r &= mask_of(size);
    return flag_if(r == 0, ZF) | flag_if(r >> (size * 8 - 1), SF) | flag_if(!(__builtin_popcountll(r & 0xff) & 1), PF);
}

static void check(const char *what, unsigned size, u64 want, u64 got, u64 want_fl, const u64 *flags, u64 defined)
{
    u64 got_fl = *flags; // by pointer: the call that sets it is another argument

    if (want != got)
        fail_msg("%s size %u: result %lx, want %lx", what, size, got, want);
    if ((want_fl ^ got_fl) & defined)
        fail_msg("%s size %u result %lx: flags %lx, want %lx of %lx", what, size, got, got_fl, want_fl, defined);
    if ((got_fl & ~(u64)ALL) != OTHER_FLAGS)
        fail_msg("%s size %u: other flags changed: %lx", what, size, got_fl);
}

// --- addition and logic ---------------------------------------------------------------------------------------------------

// a + b + c, or a - b - c, with all six flags.
static u64 model_sum(unsigned size, u64 a, u64 b, unsigned c, bool subtract, u64 *fl)
{
    unsigned bits = size * 8;
    a &= mask_of(size);
    b &= mask_of(size);
    u128 wide = subtract ? (u128)a - b - c : (u128)a + b + c;
    i128 sa = (i64)(a << (64 - bits)) >> (64 - bits), sb = (i64)(b << (64 - bits)) >> (64 - bits);
    i128 exact = subtract ? sa - sb - c : sa + sb + c;
    u64 r = (u64)wide & mask_of(size);
    i128 sr = (i64)(r << (64 - bits)) >> (64 - bits);
    int nibble = subtract ? (int)(a & 15) - (int)(b & 15) - (int)c : (int)(a & 15) + (int)(b & 15) + (int)c;
    *fl = zsp(size, r) | flag_if(wide >> bits & 1, CF) | flag_if(exact != sr, OF) |
          flag_if(nibble < 0 || nibble > 15, AF);
    return r;
}

static void test_sums(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            u64 a = operand(), b = operand(), fl0 = random_flags(), fl, want_fl, want;
            unsigned carry = fl0 & CF;
            want = model_sum(size, a, b, 0, false, &want_fl);
            fl = fl0;
            check("add", size, want, alu_add(size, a, b, &fl), want_fl, &fl, ALL);
            want = model_sum(size, a, b, carry, false, &want_fl);
            fl = fl0;
            check("adc", size, want, alu_adc(size, a, b, &fl), want_fl, &fl, ALL);
            want = model_sum(size, a, b, 0, true, &want_fl);
            fl = fl0;
            check("sub", size, want, alu_sub(size, a, b, &fl), want_fl, &fl, ALL);
            want = model_sum(size, a, b, carry, true, &want_fl);
            fl = fl0;
            check("sbb", size, want, alu_sbb(size, a, b, &fl), want_fl, &fl, ALL);
            want = model_sum(size, 0, a, 0, true, &want_fl);
            fl = fl0;
            check("neg", size, want, alu_neg(size, a, &fl), want_fl, &fl, ALL);
            want = model_sum(size, a, 1, 0, false, &want_fl);
            fl = fl0;
            check("inc", size, want, alu_inc(size, a, &fl), (want_fl & ~(u64)CF) | carry, &fl, ALL);
            want = model_sum(size, a, 1, 0, true, &want_fl);
            fl = fl0;
            check("dec", size, want, alu_dec(size, a, &fl), (want_fl & ~(u64)CF) | carry, &fl, ALL);
        }
    }
}

static void test_logic(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            u64 a = operand(), b = operand(), fl, m = mask_of(size);
            fl = random_flags();
            check("and", size, a & b & m, alu_and(size, a, b, &fl), zsp(size, a & b), &fl, ALL & ~AF);
            fl = random_flags();
            check("or", size, (a | b) & m, alu_or(size, a, b, &fl), zsp(size, a | b), &fl, ALL & ~AF);
            fl = random_flags();
            check("xor", size, (a ^ b) & m, alu_xor(size, a, b, &fl), zsp(size, a ^ b), &fl, ALL & ~AF);
        }
    }
}

// --- shifts -----------------------------------------------------------------------------------------------------------------

enum shift { ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHIFT_COUNT };

static const char *const shift_names[SHIFT_COUNT] = {"rol", "ror", "rcl", "rcr", "shl", "shr", "sar"};

static u64 run_shift(enum shift op, unsigned size, u64 a, u8 count, u64 *fl)
{
    switch (op) {
    case ROL: return alu_rol(size, a, count, fl);
    case ROR: return alu_ror(size, a, count, fl);
    case RCL: return alu_rcl(size, a, count, fl);
    case RCR: return alu_rcr(size, a, count, fl);
    case SHL: return alu_shl(size, a, count, fl);
    case SHR: return alu_shr(size, a, count, fl);
    default: return alu_sar(size, a, count, fl);
    }
}

// One step; `*cf` goes in and out.
static u64 shift_once(enum shift op, unsigned size, u64 v, bool *cf)
{
    unsigned top = size * 8 - 1;
    bool msb = v >> top & 1, lsb = v & 1, in = *cf;
    bool left = op == ROL || op == RCL || op == SHL;
    *cf = left ? msb : lsb;
    switch (op) {
    case ROL: in = msb; break;
    case ROR: in = lsb; break;
    case SAR: in = msb; break;
    case SHL:
    case SHR: in = false; break;
    default: break;
    }
    return left ? (v << 1 | in) & mask_of(size) : v >> 1 | (u64)in << top;
}

static void test_shifts(void **state)
{
    (void)state;
    for (unsigned op = 0; op < SHIFT_COUNT; op++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            for (unsigned i = 0; i < ROUNDS; i++) {
                u64 a = operand(), fl0 = random_flags(), fl = fl0, top = size * 8 - 1;
                u8 count = (u8)(i & 1 ? rnd() : rnd() % (size * 8 + 2));
                unsigned n = count & (size == 8 ? 63 : 31);
                u64 r = a & mask_of(size);
                bool cf = fl0 & CF, rotate = op <= RCR;
                for (unsigned k = 0; k < n; k++)
                    r = shift_once(op, size, r, &cf);
                u64 want_fl = (rotate ? fl0 & (SF | ZF | AF | PF) : zsp(size, r)) | flag_if(cf, CF);
                u64 defined = ALL & ~(rotate ? 0 : AF) & ~OF;
                if (!rotate && op != SAR && n > size * 8)
                    defined &= ~CF;
                if (n == 0) {
                    want_fl = fl0;
                    defined = ALL;
                } else if (n == 1) {
                    bool left = op == ROL || op == RCL || op == SHL, a_top = a >> top & 1, r_top = r >> top & 1;
                    bool of = left        ? r_top != cf
                              : op == SHR ? a_top
                              : op == SAR ? false
                                          : r_top != (r >> (top - 1) & 1);
                    want_fl |= flag_if(of, OF);
                    defined |= OF;
                }
                check(shift_names[op], size, r, run_shift(op, size, a, count, &fl), want_fl, &fl, defined);
            }
        }
    }
}

static void test_double_shifts(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 8; size *= 2) {
        for (unsigned i = 0; i < 2 * ROUNDS; i++) {
            bool left = i & 1;
            u64 a = operand(), b = operand(), fl0 = random_flags(), fl = fl0;
            unsigned bits = size * 8, top = bits - 1, n = (unsigned)(rnd() & (size == 8 ? 63 : 31));
            if (n > bits)
                n = bits;
            u64 r = a & mask_of(size), src = b & mask_of(size);
            bool cf = fl0 & CF;
            for (unsigned k = 0; k < n; k++) {
                cf = left ? r >> top & 1 : r & 1;
                r = left ? (r << 1 | src >> top) & mask_of(size) : r >> 1 | (src & 1) << top;
                src = left ? src << 1 & mask_of(size) : src >> 1;
            }
            u64 want_fl = n ? zsp(size, r) | flag_if(cf, CF) : fl0, defined = n ? ALL & ~(AF | OF) : ALL;
            if (n == 1) {
                want_fl |= flag_if(((a ^ r) >> top) & 1, OF);
                defined |= OF;
            }
            u64 got = left ? alu_shld(size, a, b, (u8)n, &fl) : alu_shrd(size, a, b, (u8)n, &fl);
            check(left ? "shld" : "shrd", size, r, got, want_fl, &fl, defined);
        }
    }
}

// --- bits ---------------------------------------------------------------------------------------------------------------------

static void test_bits(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            u64 a = operand(), bit = operand(), fl0 = random_flags(), fl, m = mask_of(size);
            u64 one = 1ull << (bit % (size * 8)), want_fl = (fl0 & ZF) | flag_if(a & one, CF);
            fl = fl0;
            check("bt", size, a & m, alu_bt(size, a, bit, &fl), want_fl, &fl, CF | ZF);
            fl = fl0;
            check("bts", size, (a | one) & m, alu_bts(size, a, bit, &fl), want_fl, &fl, CF | ZF);
            fl = fl0;
            check("btr", size, a & ~one & m, alu_btr(size, a, bit, &fl), want_fl, &fl, CF | ZF);
            fl = fl0;
            check("btc", size, (a ^ one) & m, alu_btc(size, a, bit, &fl), want_fl, &fl, CF | ZF);
        }
    }
}

static void test_scans(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            u64 src = operand() & mask_of(size), dst = rnd(), fl = random_flags();
            if (!src) { // the destination is the host's business
                alu_bsf(size, dst, src, &fl);
                assert_true(fl & ZF);
                continue;
            }
            unsigned low = 0, high = size * 8 - 1;
            while (!(src >> low & 1))
                low++;
            while (!(src >> high & 1))
                high--;
            u64 keep = size == 2 ? dst & ~0xffffull : 0;
            check("bsf", size, keep | low, alu_bsf(size, dst, src, &fl), 0, &fl, ZF);
            check("bsr", size, keep | high, alu_bsr(size, dst, src, &fl), 0, &fl, ZF);
        }
    }
    assert_int_equal(alu_bswap(4, 0xffffffff11223344), 0x44332211);
    assert_int_equal(alu_bswap(8, 0x1122334455667788), 0x8877665544332211);
}

// --- multiplication and division ----------------------------------------------------------------------------------------------

static i128 sext(u64 v, unsigned size)
{
    return (i64)(v << (64 - size * 8)) >> (64 - size * 8);
}

static void test_multiply(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            unsigned bits = size * 8;
            u64 a = operand(), b = operand(), m = mask_of(size), hi, fl = random_flags();
            u128 p = (u128)(a & m) * (b & m);
            u64 want_fl = flag_if(p >> bits, CF | OF);
            check("mul", size, (u64)p & m, alu_mul(size, a, b, &hi, &fl), want_fl, &fl, CF | OF);
            assert_int_equal(hi, (u64)(p >> bits) & m);
            fl = random_flags();
            i128 sp = sext(a, size) * sext(b, size);
            want_fl = flag_if(sp != sext((u64)sp, size), CF | OF);
            check("imul", size, (u64)sp & m, alu_imul(size, a, b, &hi, &fl), want_fl, &fl, CF | OF);
            assert_int_equal(hi, (u64)((u128)sp >> bits) & m);
            fl = random_flags();
            if (size > 1)
                check("imul2", size, (u64)sp & m, alu_imul2(size, a, b, &fl), want_fl, &fl, CF | OF);
        }
    }
}

static void check_division(unsigned size, u64 hi, u64 lo, u64 d)
{
    unsigned bits = size * 8;
    u64 m = mask_of(size), q, r, fl = OTHER_FLAGS;
    u128 n = (u128)(hi & m) << bits | (lo & m);
    bool ok = (d & m) && n / (d & m) <= m;
    assert_int_equal(alu_div(size, hi, lo, d, &q, &r, &fl), ok);
    if (ok) {
        assert_int_equal(q, (u64)(n / (d & m)));
        assert_int_equal(r, (u64)(n % (d & m)));
    }
    i128 sd = sext(d, size), sn = (i128)(n << (128 - 2 * bits)) >> (128 - 2 * bits);
    // The one quotient that does not fit 128 bits does not fit anywhere else either.
    ok = sd && !(sd == -1 && sn == (i128)((u128)1 << 127)) && sn / sd == sext((u64)(sn / sd), size);
    assert_int_equal(alu_idiv(size, hi, lo, d, &q, &r, &fl), ok);
    if (ok) {
        assert_int_equal(q, (u64)(sn / sd) & m);
        assert_int_equal(r, (u64)(sn % sd) & m);
    }
    assert_int_equal(fl & ~(u64)ALL, OTHER_FLAGS);
}

static void test_divide(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2) {
        u64 top = 1ull << (size * 8 - 1);
        for (unsigned i = 0; i < 4 * ROUNDS; i++) {
            u64 d = operand(), lo = operand(), hi = i & 1 ? operand() : i & 2 ? 0 : ~0ull;
            check_division(size, hi, lo, d);
        }
        // Quotients at the very edge: divisor * (limit or one less) + remainder near it, both signs.
        for (unsigned i = 0; i < ROUNDS; i++) {
            i128 d = sext(operand(), size);
            if (!d)
                continue;
            i128 q = (i & 1 ? (i128)top : -(i128)top) + (i128)(rnd() % 5) - 2;
            i128 n = d * q + ((i & 2 ? 1 : -1) * (i128)(rnd() % 3));
            check_division(size, (u64)((u128)n >> (size * 8)), (u64)n, (u64)d);
        }
    }
}

// --- decimal --------------------------------------------------------------------------------------------------------------------

// SDM 2A, the pseudo-code of DAA and DAS.
static u8 model_decimal(u8 al, u64 fl0, bool subtract, u64 *fl)
{
    u8 old = al;
    bool old_cf = fl0 & CF, cf = false, af = false;
    if ((al & 15) > 9 || (fl0 & AF)) {
        cf = old_cf || (subtract ? al < 6 : al > 0xff - 6);
        al = (u8)(subtract ? al - 6 : al + 6);
        af = true;
    }
    if (old > 0x99 || old_cf) {
        al = (u8)(subtract ? al - 0x60 : al + 0x60);
        cf = true;
    } else if (!subtract) {
        cf = false;
    }
    *fl = zsp(1, al) | flag_if(cf, CF) | flag_if(af, AF);
    return al;
}

static void test_decimal(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 65536 * 4; i++) {
        u64 ax = i & 0xffff, fl0 = OTHER_FLAGS | flag_if(i >> 16 & 1, CF) | flag_if(i >> 17 & 1, AF), fl, want_fl;
        if (ax < 256) {
            u8 want = model_decimal((u8)ax, fl0, false, &want_fl);
            fl = fl0;
            check("daa", 1, want, alu_daa(ax, &fl), want_fl, &fl, ALL & ~OF);
            want = model_decimal((u8)ax, fl0, true, &want_fl);
            fl = fl0;
            check("das", 1, want, alu_das(ax, &fl), want_fl, &fl, ALL & ~OF);
        }
        bool adjust = (ax & 15) > 9 || (fl0 & AF);
        want_fl = flag_if(adjust, CF | AF);
        fl = fl0;
        check("aaa", 2, (ax + (adjust ? 0x106 : 0)) & 0xff0f, alu_aaa(ax, &fl), want_fl, &fl, CF | AF);
        fl = fl0;
        check("aas", 2, (ax - (adjust ? 0x106 : 0)) & 0xff0f, alu_aas(ax, &fl), want_fl, &fl, CF | AF);
        u8 base = (u8)(rnd() % 255 + 1);
        u64 want = (ax & 0xff) / base << 8 | (ax & 0xff) % base;
        fl = fl0;
        check("aam", 2, want, alu_aam(ax, base, &fl), zsp(1, want), &fl, ZF | SF | PF);
        want = (ax + (ax >> 8) * base) & 0xff;
        fl = fl0;
        check("aad", 2, want, alu_aad(ax, base, &fl), zsp(1, want), &fl, ZF | SF | PF);
    }
}

static void test_conditions(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        u64 fl = flag_if(i & 1, CF) | flag_if(i & 2, PF) | flag_if(i & 4, AF) | flag_if(i & 8, ZF) |
                 flag_if(i & 16, SF) | flag_if(i & 32, OF);
        bool c = fl & CF, p = fl & PF, z = fl & ZF, s = fl & SF, o = fl & OF;
        const bool want[16] = {o, !o, c, !c, z,      !z,     c || z,      !c && !z,
                               s, !s, p, !p, s != o, s == o, z || s != o, !z && s == o};
        for (unsigned cc = 0; cc < 16; cc++)
            assert_int_equal(alu_cond(0x70 + cc, fl), want[cc]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),       cmocka_unit_test(test_logic),         cmocka_unit_test(test_shifts),
        cmocka_unit_test(test_bits),       cmocka_unit_test(test_double_shifts), cmocka_unit_test(test_scans),
        cmocka_unit_test(test_multiply),   cmocka_unit_test(test_divide),        cmocka_unit_test(test_decimal),
        cmocka_unit_test(test_conditions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
