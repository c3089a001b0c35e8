// x87 control instructions and the environment in memory: FLDCW, FNSTCW, FNSTSW, FNCLEX, FNINIT, FWAIT, FNSTENV, FLDENV, FNSAVE,
// FRSTOR. None of them sets the instruction and data pointers. SDM 1 8.1.8-8.1.10.
//
// The environment has four formats. Words of the 32-bit ones are padded to doublewords (with ones when stored).
//
//                 protected                        real and v8086
//     16-bit  0   FCW FSW FTW                      FCW FSW FTW
//             6   FIP                              FIP 15..0
//             8   FCS                              FIP 19..16 | 0 | FOP
//            10   FDP                              FDP 15..0
//            12   FDS                              FDP 19..16 | 0 (12)
//     32-bit  0   FCW FSW FTW                      FCW FSW FTW
//            12   FIP                              FIP 15..0
//            16   FOP | FCS                        0 (4) | FIP 31..16 | 0 | FOP
//            20   FDP                              FDP 15..0
//            24   FDS                              0 (4) | FDP 31..16 | 0 (12)
//
// In real mode the pointers are linear: selector * 16 + offset.
#include <string.h>

#include "engine/interp/simd.h"

#define FSW_TOP_SHIFT 11

static unsigned top(u16 fsw)
{
    return fsw >> FSW_TOP_SHIFT & 7;
}

// xs.st is in stack order: when TOP changes and the registers do not, it turns.
static void turn_stack(struct x86_xsave *xs, unsigned old_top, unsigned new_top)
{
    u8 st[8][16];
    unsigned by = (new_top - old_top) & 7;
    if (!by)
        return;
    memcpy(st, xs->st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(xs->st[i], st[(i + by) & 7], 16);
}

void x87_init(struct cpu *c)
{
    struct x86_xsave *xs = &c->xs;
    turn_stack(xs, top(xs->fsw), 0);
    xs->fcw = X86_FCW_DEFAULT;
    xs->fsw = 0;
    xs->ftw = 0;
    xs->fop = 0;
    xs->fip = xs->fdp = 0;
    c->fcs = c->fds = 0;
}

void x87_enter_mmx(struct x86_xsave *xs)
{
    turn_stack(xs, top(xs->fsw), 0);
    xs->fsw &= (u16) ~(7u << FSW_TOP_SHIFT);
    xs->ftw = 0xff;
}

// --- words ----------------------------------------------------------------------------------------------------------------

void op_fwait(struct interp *x, const struct insn *in)
{
    (void)in;
    if ((x->c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
        interp_raise(x, X86_EXC_NM);
    x87_check_pending(x);
}

void op_fninit(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    x87_init(x->c);
}

void op_fnclex(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    x->c->xs.fsw &= 0x7f00;
}

// FENI, FDISI and FSETPM of older coprocessors.
void op_fnop_control(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
}

void op_fldcw(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    x87_set_words(&x->c->xs, (u16)interp_load(x, in->seg, interp_ea(x, in), 2), x->c->xs.fsw);
}

void op_fnstcw(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    interp_store(x, in->seg, interp_ea(x, in), 2, x->c->xs.fcw);
}

void op_fnstsw(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    opnd_set(x, in, 0, x->c->xs.fsw);
}

// --- tags -----------------------------------------------------------------------------------------------------------------

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

// Tag of a register by its contents. SDM 1 8.1.7.
static unsigned tag_of(const u8 *st)
{
    u64 m;
    u16 se;
    memcpy(&m, st, 8);
    memcpy(&se, st + 8, 2);
    unsigned exp = se & 0x7fff;
    if (exp == 0)
        return m ? TAG_SPECIAL : TAG_ZERO;
    if (exp == 0x7fff || !(m >> 63))
        return TAG_SPECIAL;
    return TAG_VALID;
}

static u16 full_tags(const struct x86_xsave *xs)
{
    unsigned ftw = 0;
    for (unsigned phys = 0; phys < 8; phys++) {
        unsigned tag = xs->ftw >> phys & 1 ? tag_of(xs->st[(phys - top(xs->fsw)) & 7]) : TAG_EMPTY;
        ftw |= tag << 2 * phys;
    }
    return (u16)ftw;
}

static u8 abridged_tags(u16 ftw)
{
    unsigned r = 0;
    for (unsigned phys = 0; phys < 8; phys++)
        r |= (ftw >> 2 * phys & 3) != TAG_EMPTY ? 1u << phys : 0;
    return (u8)r;
}

// --- environment ------------------------------------------------------------------------------------------------------------

static bool wide(const struct insn *in)
{
    return in->opsize != 2;
}

static unsigned env_size(const struct insn *in)
{
    return wide(in) ? 28 : 14;
}

static void build_env(const struct interp *x, const struct insn *in, u8 *out)
{
    const struct cpu *c = x->c;
    const struct x86_xsave *xs = &c->xs;
    u32 w[7] = {xs->fcw, xs->fsw, full_tags(xs), (u32)xs->fip, c->fcs, (u32)xs->fdp, c->fds};
    if (!cpu_pmode(c)) {
        u32 ip = (u32)xs->fip + c->fcs * 16u, dp = (u32)xs->fdp + c->fds * 16u;
        w[3] = (u16)ip;
        w[4] = (ip >> 16) << 12 | xs->fop;
        w[5] = (u16)dp;
        w[6] = (dp >> 16) << 12;
    } else if (wide(in)) {
        w[4] |= (u32)xs->fop << 16;
    }
    for (unsigned i = 0; i < 7; i++) {
        bool padded = i < 3 || i == 6 || (!cpu_pmode(c) && (i == 3 || i == 5));
        u32 v = padded && !(i == 6 && !cpu_pmode(c)) ? w[i] | 0xffff0000u : w[i];
        memcpy(out + i * (wide(in) ? 4 : 2), &v, wide(in) ? 4 : 2);
    }
}

static void take_env(struct interp *x, const struct insn *in, const u8 *env)
{
    struct cpu *c = x->c;
    struct x86_xsave *xs = &c->xs;
    u32 w[7] = {0};
    for (unsigned i = 0; i < 7; i++)
        memcpy(&w[i], env + i * (wide(in) ? 4 : 2), wide(in) ? 4 : 2);
    unsigned old_top = top(xs->fsw);
    x87_set_words(xs, (u16)w[0], (u16)w[1]);
    turn_stack(xs, old_top, top(xs->fsw));
    xs->ftw = abridged_tags((u16)w[2]);
    if (!cpu_pmode(c)) {
        u32 high = wide(in) ? 0xffff0000u : 0xf0000u;
        xs->fip = (u16)w[3] | (w[4] << 4 & high);
        xs->fdp = (u16)w[5] | (w[6] << 4 & high);
        xs->fop = w[4] & 0x7ff;
        c->fcs = c->fds = 0;
        return;
    }
    xs->fip = w[3];
    xs->fdp = w[5];
    xs->fop = wide(in) ? w[4] >> 16 & 0x7ff : 0;
    c->fcs = (u16)w[4];
    c->fds = (u16)w[6];
}

// The first word of the image is touched, then its last byte, and segment and page faults are reported for these.
static void probe_image(struct interp *x, const struct insn *in, u64 off, unsigned size, enum mmu_access access)
{
    unsigned word = wide(in) ? 4 : 2;
    interp_lin_probe(x, interp_linear(x, in->seg, off, word, access), word, access, x->view);
    interp_lin_probe(x, interp_linear(x, in->seg, off + size - 1, 1, access), 1, access, x->view);
}

void op_fnstenv(struct interp *x, const struct insn *in)
{
    u8 env[28];
    interp_fpu_check(x, in);
    u64 off = simd_address(x, in, wide(in) ? 4 : 2, wide(in) ? 4 : 2, MMU_WRITE);
    probe_image(x, in, off, env_size(in), MMU_WRITE);
    build_env(x, in, env);
    interp_store_buf(x, in->seg, off, env, env_size(in));
    x87_set_words(&x->c->xs, x->c->xs.fcw | 0x3f, x->c->xs.fsw);
}

void op_fldenv(struct interp *x, const struct insn *in)
{
    u8 env[28];
    interp_fpu_check(x, in);
    u64 off = simd_address(x, in, wide(in) ? 4 : 2, wide(in) ? 4 : 2, MMU_READ);
    probe_image(x, in, off, env_size(in), MMU_READ);
    interp_load_buf(x, in->seg, off, env, env_size(in));
    take_env(x, in, env);
}

// FNSAVE and FRSTOR: the environment, then ST(0) to ST(7), ten bytes each.
void op_fnsave(struct interp *x, const struct insn *in)
{
    u8 b[108];
    unsigned env = env_size(in);
    interp_fpu_check(x, in);
    u64 off = simd_address(x, in, wide(in) ? 4 : 2, wide(in) ? 4 : 2, MMU_WRITE);
    probe_image(x, in, off, env + 80, MMU_WRITE);
    build_env(x, in, b);
    for (unsigned i = 0; i < 8; i++)
        memcpy(b + env + 10 * i, x->c->xs.st[i], 10);
    interp_store_buf(x, in->seg, off, b, env + 80);
    x87_init(x->c);
}

void op_frstor(struct interp *x, const struct insn *in)
{
    u8 b[108];
    unsigned env = env_size(in);
    interp_fpu_check(x, in);
    u64 off = simd_address(x, in, wide(in) ? 4 : 2, wide(in) ? 4 : 2, MMU_READ);
    probe_image(x, in, off, env + 80, MMU_READ);
    interp_load_buf(x, in->seg, off, b, env + 80);
    take_env(x, in, b);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(x->c->xs.st[i], b + env + 10 * i, 10);
        memset(x->c->xs.st[i] + 10, 0, 6);
    }
}
