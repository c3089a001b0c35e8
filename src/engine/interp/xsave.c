// FXSAVE, FXRSTOR and the XSAVE family. SDM 1 chapters 10.5 and 13; APM 2 11.4, 18.
//
// An image is built in a local buffer, together with the list of pieces of it that the instruction writes; all pieces are
// probed before the first is stored, so a fault leaves memory alone, and bytes that the processor does not write are not
// touched.
//
// What is in its initial state (XINUSE) is found by comparing values: all of cpu.xs is always valid, and xstate_bv in it is
// not looked at. Processors may be less precise ("in use" although the value is initial); the AMD ones that were looked at
// compare, too.
//
// x87 pointers: AMD processors store FOP, FIP and FDP as zero unless an unmasked exception is pending.
#include <string.h>

#include "engine/interp/simd.h"

#define XS_LEGACY_FP 24 // FCW..FDP
#define XS_MXCSR 24     // and the mask
#define XS_ST 32
#define XS_XMM 160
#define XS_HEADER 512
#define XS_YMMH 576
#define XCOMP_COMPACT (1ull << 63)

struct piece {
    u16 off, len;
};

struct image {
    u8 b[832] __attribute__((aligned(16)));
    struct piece piece[8];
    unsigned pieces;
};

static void put(struct image *im, unsigned off, unsigned len)
{
    im->piece[im->pieces++] = (struct piece){(u16)off, (u16)len};
}

static void store_image(struct interp *x, const struct insn *in, const struct image *im)
{
    u64 ea = interp_ea(x, in);
    for (unsigned i = 0; i < im->pieces; i++)
        interp_probe_store(x, in->seg, ea + im->piece[i].off, im->piece[i].len);
    for (unsigned i = 0; i < im->pieces; i++)
        interp_store_buf(x, in->seg, ea + im->piece[i].off, im->b + im->piece[i].off, im->piece[i].len);
}

// Registers that the mode can name: 16 or 8.
static unsigned vector_bytes(const struct interp *x)
{
    return x->mode == ISA_MODE_64 ? 256 : 128;
}

static bool wide_pointers(const struct interp *x, const struct insn *in)
{
    return x->mode == ISA_MODE_64 && in->rex & ISA_REX_W;
}

// --- the x87 part -----------------------------------------------------------------------------------------------------------

static void put_x87(const struct interp *x, const struct insn *in, u8 *b)
{
    const struct cpu *c = x->c;
    struct x86_xsave s;
    u16 fcs = c->fcs, fds = c->fds;
    memcpy(&s, &c->xs, XS_XMM);
    if (x->isa_options & ISA_OPT_AMD && !x87_pending(&s)) {
        s.fop = fcs = fds = 0;
        s.fip = s.fdp = 0;
    }
    if (!wide_pointers(x, in)) {
        s.fip = (u32)s.fip | (u64)fcs << 32;
        s.fdp = (u32)s.fdp | (u64)fds << 32;
    }
    s.rsvd0 = 0;
    memcpy(b, &s, XS_LEGACY_FP);
    memcpy(b + XS_ST, s.st, sizeof s.st);
}

// The pointer registers hold 57 bits.
static u64 sign_extend57(u64 v)
{
    return (u64)((i64)(v << 7) >> 7);
}

static void get_x87(struct interp *x, const struct insn *in, const u8 *b)
{
    struct cpu *c = x->c;
    struct x86_xsave *s = &c->xs;
    memcpy(s, b, XS_LEGACY_FP);
    s->rsvd0 = 0;
    s->fop &= 0x7ff;
    if (wide_pointers(x, in)) {
        s->fip = sign_extend57(s->fip);
        s->fdp = sign_extend57(s->fdp);
        c->fcs = c->fds = 0;
    } else {
        c->fcs = (u16)(s->fip >> 32);
        c->fds = (u16)(s->fdp >> 32);
        s->fip = (u32)s->fip;
        s->fdp = (u32)s->fdp;
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(s->st[i], b + XS_ST + 16 * i, 10);
        memset(s->st[i] + 10, 0, 6);
    }
    x87_set_words(s, s->fcw, s->fsw);
}

static void init_x87(struct cpu *c)
{
    x87_init(c);
    memset(c->xs.st, 0, sizeof c->xs.st);
}

// --- FXSAVE, FXRSTOR --------------------------------------------------------------------------------------------------------

static void check_fx(struct interp *x)
{
    if (x->c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        interp_raise(x, X86_EXC_NM);
}

// Faults of the memory operand in the order of AMD processors: segment limit where it begins; alignment (#AC where checks are on
// and a doubleword is not aligned, else #GP); its last byte, found with wrap-around at the address size; the rest, which is the
// caller's.
static void check_fx_operand(struct interp *x, const struct insn *in, enum mmu_access access)
{
    u64 ea = interp_ea(x, in);
    gva a = interp_linear(x, in->seg, ea, 4, MMU_READ);
    if (x->align_on && a & 3)
        interp_raise_err(x, X86_EXC_AC, 0);
    if (a & 15)
        interp_gp0(x);
    gva last = interp_linear(x, in->seg, (ea + 511) & size_mask(in->adsize), 1, access);
    interp_lin_probe(x, last, 1, access, x->view);
}

// Fast FXSAVE: EFER.FFXSR leaves the XMM registers out in 64-bit code at CPL 0. APM 2 3.1.7.
static bool fx_with_xmm(const struct interp *x)
{
    const struct cpu *c = x->c;
    return c->cr4 & X86_CR4_OSFXSR && !(c->msr.efer & X86_EFER_FFXSR && c->cpl == 0 && x->mode == ISA_MODE_64);
}

void op_fxsave(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    struct image im = {.pieces = 0};
    check_fx(x);
    check_fx_operand(x, in, MMU_WRITE);
    interp_probe_store(x, in->seg, interp_ea(x, in), 512);
    put_x87(x, in, im.b);
    put(&im, 0, XS_LEGACY_FP);
    put(&im, XS_ST, 128);
    if (c->cr4 & X86_CR4_OSFXSR) {
        u32 mxcsr[2] = {c->xs.mxcsr, simd_mxcsr_mask(x)};
        memcpy(im.b + XS_MXCSR, mxcsr, 8);
        put(&im, XS_MXCSR, 8);
    }
    if (fx_with_xmm(x)) {
        memcpy(im.b + XS_XMM, c->xs.xmm, 256);
        put(&im, XS_XMM, vector_bytes(x));
    }
    store_image(x, in, &im);
}

void op_fxrstor(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u8 b[512] __attribute__((aligned(16)));
    u32 mxcsr;
    check_fx(x);
    check_fx_operand(x, in, MMU_READ);
    interp_load_buf(x, in->seg, interp_ea(x, in), b, 512);
    memcpy(&mxcsr, b + XS_MXCSR, 4);
    if (c->cr4 & X86_CR4_OSFXSR) {
        if (mxcsr & ~simd_mxcsr_mask(x))
            interp_gp0(x);
        c->xs.mxcsr = mxcsr;
    }
    get_x87(x, in, b);
    if (fx_with_xmm(x))
        memcpy(c->xs.xmm, b + XS_XMM, vector_bytes(x));
}

// --- XSAVE ------------------------------------------------------------------------------------------------------------------

// `len` is a multiple of 8.
static bool all_zero(const void *p, unsigned len)
{
    u64 any = 0, word;
    for (unsigned i = 0; i < len; i += sizeof word) {
        memcpy(&word, (const u8 *)p + i, sizeof word);
        any |= word;
    }
    return !any;
}

u64 simd_xinuse(const struct cpu *c)
{
    const struct x86_xsave *s = &c->xs;
    u64 r = 0;
    if (s->fcw != X86_FCW_DEFAULT || s->fsw || s->ftw || s->fop || s->fip || s->fdp || c->fcs || c->fds ||
        !all_zero(s->st, sizeof s->st))
        r |= X86_XCR0_X87;
    if (!all_zero(s->xmm, sizeof s->xmm))
        r |= X86_XCR0_SSE;
    if (!all_zero(s->ymmh, sizeof s->ymmh))
        r |= X86_XCR0_AVX;
    return r;
}

u64 simd_xinuse_mxcsr(const struct cpu *c)
{
    return simd_xinuse(c) | (c->xs.mxcsr != X86_MXCSR_DEFAULT ? X86_XCR0_SSE : 0);
}

static void check_xsave(struct interp *x, bool supervisor)
{
    const struct cpu *c = x->c;
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        interp_ud(x);
    if (c->cr0 & X86_CR0_TS)
        interp_raise(x, X86_EXC_NM);
    if (supervisor && c->cpl)
        interp_gp0(x);
}

// Requested features: EDX:EAX, limited to what is enabled.
static u64 requested(const struct cpu *c, bool supervisor)
{
    u64 mask = (u32)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    return mask & (c->xcr0 | (supervisor ? c->msr.xss : 0));
}

// `save`: components whose data are written; `mxcsr`: MXCSR and its mask too.
static void put_components(struct interp *x, const struct insn *in, struct image *im, u64 save, bool mxcsr)
{
    const struct cpu *c = x->c;
    if (save & X86_XCR0_X87) {
        put_x87(x, in, im->b);
        put(im, 0, XS_LEGACY_FP);
        put(im, XS_ST, 128);
    }
    if (mxcsr) {
        u32 v[2] = {c->xs.mxcsr, simd_mxcsr_mask(x)};
        memcpy(im->b + XS_MXCSR, v, 8);
        put(im, XS_MXCSR, 8);
    }
    if (save & X86_XCR0_SSE) {
        memcpy(im->b + XS_XMM, c->xs.xmm, 256);
        put(im, XS_XMM, vector_bytes(x));
    }
    if (save & X86_XCR0_AVX) {
        memcpy(im->b + XS_YMMH, c->xs.ymmh, 256);
        put(im, XS_YMMH, vector_bytes(x));
    }
}

// The whole area that the requested components span is accessed as far as faults go, whatever of it is moved in the end:
// its first byte, its last, then what is between. XSAVE writes, even where it only reads the header.
static void probe_area(struct interp *x, const struct insn *in, u64 rfbm, enum mmu_access access)
{
    unsigned len = rfbm & X86_XCR0_AVX ? sizeof(struct x86_xsave) : XS_YMMH;
    u64 ea = interp_ea(x, in);
    const struct piece p[] = {{0, 1}, {(u16)(len - 1), 1}, {0, (u16)len}};
    for (unsigned i = 0; i < ARRAY_LEN(p); i++)
        interp_lin_probe(x, interp_linear(x, in->seg, ea + p[i].off, p[i].len, access), p[i].len, access, x->view);
}

// XSAVE and XSAVEOPT: standard format. SDM 1 13.7, 13.9. XSAVEOPT leaves out what is initial; the other optimisation it may
// make, leaving out what did not change since the last XRSTOR, is not made.
void op_xsave(struct interp *x, const struct insn *in)
{
    struct image im = {.pieces = 0};
    check_xsave(x, false);
    simd_require_alignment(x, in, 64);
    u64 rfbm = requested(x->c, false), inuse = simd_xinuse(x->c), bv;
    probe_area(x, in, rfbm, MMU_WRITE);
    interp_load_buf(x, in->seg, interp_ea(x, in) + XS_HEADER, &bv, 8);
    bv = (bv & ~rfbm) | (inuse & rfbm);
    memcpy(im.b + XS_HEADER, &bv, 8);
    put(&im, XS_HEADER, 8);
    put_components(x, in, &im, in->op == ISA_OP_XSAVEOPT ? rfbm & inuse : rfbm, rfbm & (X86_XCR0_SSE | X86_XCR0_AVX));
    store_image(x, in, &im);
}

// XSAVEC and XSAVES: compacted format. SDM 1 13.10, 13.11. AVX state, the only component that could move, stays at 576 because
// none comes before it. MXCSR belongs to the SSE component here.
void op_xsavec(struct interp *x, const struct insn *in)
{
    struct image im = {.pieces = 0};
    bool supervisor = in->op == ISA_OP_XSAVES;
    check_xsave(x, supervisor);
    simd_require_alignment(x, in, 64);
    u64 rfbm = requested(x->c, supervisor), inuse = simd_xinuse_mxcsr(x->c);
    probe_area(x, in, rfbm, MMU_WRITE);
    u64 header[2] = {rfbm & inuse, rfbm | XCOMP_COMPACT};
    memcpy(im.b + XS_HEADER, header, 16);
    put(&im, XS_HEADER, 16);
    put_components(x, in, &im, header[0], header[0] & X86_XCR0_SSE);
    store_image(x, in, &im);
}

// --- XRSTOR -----------------------------------------------------------------------------------------------------------------

// SDM 1 13.8.1 (standard), 13.8.2 (compacted), 13.12 (XRSTORS).
static void check_header(struct interp *x, const u64 *h, bool supervisor)
{
    const struct cpu *c = x->c;
    const struct cpu_model *m = x->v->model;
    u64 allowed = c->xcr0 | (supervisor ? c->msr.xss : 0);
    bool compact_ok = supervisor || cpu_model_offers(m, ISA_FEAT_XSAVEC);
    if (compact_ok && h[1] & XCOMP_COMPACT) {
        u64 comp = h[1] & ~XCOMP_COMPACT;
        if (comp & ~allowed || h[0] & ~comp || !all_zero(h + 2, 48))
            interp_gp0(x);
        return;
    }
    if (supervisor || h[0] & ~allowed || h[1] || h[2])
        interp_gp0(x);
}

// MXCSR as it will be loaded. In the standard format it comes from memory whatever XSTATE_BV says.
static u32 new_mxcsr(struct interp *x, const u8 *b, u64 rfbm, bool compact, u64 bv)
{
    u32 v = x->c->xs.mxcsr;
    bool from_memory = compact ? rfbm & bv & X86_XCR0_SSE : rfbm & (X86_XCR0_SSE | X86_XCR0_AVX);
    if (from_memory)
        memcpy(&v, b + XS_MXCSR, 4);
    else if (compact && rfbm & X86_XCR0_SSE)
        v = X86_MXCSR_DEFAULT;
    if (v & ~simd_mxcsr_mask(x))
        interp_gp0(x);
    return v;
}

static void get_vector(struct interp *x, void *dst, const u8 *src, u64 load)
{
    if (load)
        memcpy(dst, src, vector_bytes(x));
    else
        memset(dst, 0, vector_bytes(x));
}

void op_xrstor(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    u8 b[832] __attribute__((aligned(16)));
    bool supervisor = in->op == ISA_OP_XRSTORS;
    u64 h[8], ea = interp_ea(x, in);
    check_xsave(x, supervisor);
    simd_require_alignment(x, in, 64);
    u64 rfbm = requested(c, supervisor);
    interp_lin_probe(x, interp_linear(x, in->seg, ea, 1, MMU_READ), 1, MMU_READ, x->view); // where AMD processors begin
    interp_load_buf(x, in->seg, ea + XS_HEADER, h, sizeof h);
    check_header(x, h, supervisor);
    bool compact = h[1] & XCOMP_COMPACT;
    probe_area(x, in, compact ? rfbm & h[0] : rfbm, MMU_READ);
    u64 load = rfbm & h[0];
    if (load & (X86_XCR0_X87 | X86_XCR0_SSE) || (!compact && rfbm & X86_XCR0_AVX) || rfbm & X86_XCR0_SSE)
        interp_load_buf(x, in->seg, ea, b, XS_XMM + 256);
    if (load & X86_XCR0_AVX)
        interp_load_buf(x, in->seg, ea + XS_YMMH, b + XS_YMMH, vector_bytes(x));
    c->xs.mxcsr = new_mxcsr(x, b, rfbm, compact, h[0]);
    if (load & X86_XCR0_X87)
        get_x87(x, in, b);
    else if (rfbm & X86_XCR0_X87)
        init_x87(c);
    if (rfbm & X86_XCR0_SSE)
        get_vector(x, c->xs.xmm, b + XS_XMM, load & X86_XCR0_SSE);
    if (rfbm & X86_XCR0_AVX)
        get_vector(x, c->xs.ymmh, b + XS_YMMH, load & X86_XCR0_AVX);
}

// --- areas that are at hand ---------------------------------------------------------------------------------------------------

void simd_store_compact(struct interp *x, const struct insn *in, u64 rfbm, u8 *to)
{
    const struct cpu *c = x->c;
    const u64 header[2] = {rfbm & simd_xinuse_mxcsr(c), rfbm | XCOMP_COMPACT};
    const u32 mxcsr[2] = {c->xs.mxcsr, simd_mxcsr_mask(x)};
    memcpy(to + XS_HEADER, header, sizeof header);
    if (header[0] & X86_XCR0_X87)
        put_x87(x, in, to);
    if (header[0] & X86_XCR0_SSE) {
        memcpy(to + XS_MXCSR, mxcsr, sizeof mxcsr);
        memcpy(to + XS_XMM, c->xs.xmm, vector_bytes(x));
    }
    if (header[0] & X86_XCR0_AVX)
        memcpy(to + XS_YMMH, c->xs.ymmh, vector_bytes(x));
}

bool simd_load_compact(struct interp *x, const struct insn *in, u64 rfbm, u64 allowed, const u8 *from)
{
    struct cpu *c = x->c;
    u64 h[8];
    u32 mxcsr = X86_MXCSR_DEFAULT;
    memcpy(h, from + XS_HEADER, sizeof h); // once: another processor may be writing there
    u64 comp = h[1] & ~XCOMP_COMPACT, load = rfbm & h[0];
    if (!(h[1] & XCOMP_COMPACT) || comp & ~allowed || h[0] & ~comp || !all_zero(h + 2, 48))
        return false;
    if (load & X86_XCR0_SSE)
        memcpy(&mxcsr, from + XS_MXCSR, sizeof mxcsr);
    if (mxcsr & ~simd_mxcsr_mask(x))
        return false;
    if (rfbm & X86_XCR0_SSE)
        c->xs.mxcsr = mxcsr;
    if (load & X86_XCR0_X87)
        get_x87(x, in, from);
    else if (rfbm & X86_XCR0_X87)
        init_x87(c);
    if (rfbm & X86_XCR0_SSE)
        get_vector(x, c->xs.xmm, from + XS_XMM, load & X86_XCR0_SSE);
    if (rfbm & X86_XCR0_AVX)
        get_vector(x, c->xs.ymmh, from + XS_YMMH, load & X86_XCR0_AVX);
    return true;
}
