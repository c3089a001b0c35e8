// The guest's vector state while translated code runs.
//
// It is brought into the host's registers (XMM or YMM, MXCSR) when a vector instruction finds that it is not there, and *parked*
// in struct cpu before anything else may use these registers or look at it there: before an instruction is run by the
// interpreter, before translated code is left, before a device is called. What service() does beyond that (TLB misses above all)
// must get by without vector registers: this directory and the core's memory files are compiled for general registers
// alone (VECTOR_FREE in the Makefile), and tests/bt/vector-free.sh sees that nothing else is called there.
//
// ctx.vec says which kinds of vector instructions may run. Exceptions that MXCSR does not mask must not happen here, so where
// one is unmasked those instructions are the interpreter's; so is everything in AMD's misaligned mode.
//
// x87 and MMX registers are another part, which moves by itself (XSAVE and XRSTOR of that component alone). FOP, FIP and FDP are kept by
// hand, as the interpreter does: translated code leaves them in the context. Selectors cannot change meanwhile.
//
// Where the compiler instruments code (sanitizers), vector registers are used everywhere, so there the state is moved around every
// call of service() (BT_VEC_EAGER).
#include "engine/bt/vecstate.h"

#include <cpuid.h>

#include "core/cpuid.h"

enum { XS_MXCSR = 24, XS_XMM = 160, XS_YMMH = 576 };

static bool has_avx(const struct bt *b)
{
    return cpu_model_offers(b->in.v->model, ISA_FEAT_AVX);
}

// movups between xmm `reg` and its place; opcode 10 loads, 11 stores.
static void emit_xmm(struct emit *e, unsigned opcode, bool vex, unsigned reg)
{
    if (vex)
        EMIT(e, 0xc5, (u8)((reg & 8 ? 0 : 0x80) | 0x78));
    else if (reg & 8)
        EMIT(e, 0x44, 0x0f);
    else
        emit1(e, 0x0f);
    emit1(e, opcode);
    emit_modrm_base(e, reg, X86_RDI, XS_XMM + 16 * (i32)reg);
}

// vinsertf128 (18) and vextractf128 (19) of the upper half.
static void emit_upper(struct emit *e, unsigned opcode, unsigned reg)
{
    unsigned vvvv = opcode == 0x18 ? reg : 0;
    EMIT(e, 0xc4, (u8)((reg & 8 ? 0 : 0x80) | 0x63), (u8)((~vvvv & 15) << 3 | 5), (u8)opcode);
    emit_modrm_base(e, reg, X86_RDI, XS_YMMH + 16 * (i32)reg);
    emit1(e, 1);
}

static void emit_mxcsr(struct emit *e, unsigned digit) // 2 loads, 3 stores
{
    EMIT(e, 0x0f, 0xae);
    emit_modrm_base(e, digit, X86_RDI, XS_MXCSR);
}

// rdi: struct x86_xsave. Destroys rax and flags. The flags of MXCSR do not matter to C, so the host's is loaded only when something else
// is different.
static void emit_store_state(struct bt *b, struct emit *e)
{
    bool avx = has_avx(b);
    for (unsigned i = 0; i < 16; i++)
        emit_xmm(e, 0x11, avx, i);
    for (unsigned i = 0; i < 16 && avx; i++)
        emit_upper(e, 0x19, i);
    if (avx)
        EMIT(e, 0xc5, 0xf8, 0x77); // vzeroupper
    emit_mxcsr(e, 3);
    emit_rm(e, 4, 0x8b, X86_RAX, X86_RDI, XS_MXCSR);
    emit_alu_imm(e, 4, 1, X86_RAX, X86_MXCSR_FLAGS);
    emit_alu_imm(e, 4, 7, X86_RAX, X86_MXCSR_DEFAULT | X86_MXCSR_FLAGS);
    u8 *same = emit_jcc(e, CC_E);
    emit_store_imm(e, &b->ctx->host_mxcsr, X86_MXCSR_DEFAULT);
    EMIT(e, 0x0f, 0xae, 0x15); // ldmxcsr [rip]
    emit4(e, (u32)((u64)&b->ctx->host_mxcsr - (emit_here(e) + 4)));
    emit_patch(e, same, emit_here(e));
    emit1(e, 0xc3);
}

// Where all upper halves are zero they are made so rather than loaded: Intel processors keep account of it, and run legacy SSE code slower
// when they were loaded.
static void emit_load_state(struct bt *b, struct emit *e)
{
    u8 *upper = NULL;
    emit_mxcsr(e, 2);
    if (has_avx(b)) {
        EMIT(e, 0xc5, 0xf8, 0x28); // vmovaps xmm0, [first upper half]
        emit_modrm_base(e, 0, X86_RDI, XS_YMMH);
        for (unsigned i = 1; i < 16; i++) { // vorps xmm0, xmm0, [next]
            EMIT(e, 0xc5, 0xf8, 0x56);
            emit_modrm_base(e, 0, X86_RDI, XS_YMMH + 16 * (i32)i);
        }
        EMIT(e, 0xc4, 0xe2, 0x79, 0x17, 0xc0); // vptest xmm0, xmm0
        upper = emit_jcc(e, CC_NE);
        EMIT(e, 0xc5, 0xf8, 0x77); // vzeroupper
    }
    for (unsigned i = 0; i < 16; i++)
        emit_xmm(e, 0x10, upper != NULL, i);
    emit1(e, 0xc3);
    if (!upper)
        return;
    emit_patch(e, upper, emit_here(e));
    for (unsigned i = 0; i < 16; i++) {
        emit_xmm(e, 0x10, true, i);
        emit_upper(e, 0x18, i);
    }
    emit1(e, 0xc3);
}

// xsave64 (4) and xrstor64 (5) of the x87 component; rdi: the area. FNINIT leaves C what it expects.
static void emit_x87(struct emit *e, unsigned digit)
{
    emit_mov_imm32(e, X86_RAX, X86_XCR0_X87);
    EMIT(e, 0x31, 0xd2, 0x48, 0x0f, 0xae); // xor edx, edx
    emit_modrm_base(e, digit, X86_RDI, 0);
    if (digit == 4)
        EMIT(e, 0xdb, 0xe3);
    emit1(e, 0xc3);
}

void vecstate_init(struct bt *b)
{
    u32 r[4];
    b->has_xsave = __get_cpuid(1, &r[0], &r[1], &r[2], &r[3]) && r[2] & bit_OSXSAVE;
}

void vecstate_emit(struct bt *b, struct emit *e)
{
    b->x87_store = emit_here(e);
    emit_x87(e, 4);
    b->x87_load = emit_here(e);
    emit_x87(e, 5);
    b->vec_store = emit_here(e);
    emit_store_state(b, e);
    b->vec_load = emit_here(e);
    emit_load_state(b, e);
}

// Call one of them if ctx.vec says so. Destroys rdi, rax and flags.
static void emit_move_if(struct bt *b, struct emit *e, unsigned what, u64 routine)
{
    emit_rip(e, 4, 0xf6, 0, &b->ctx->vec, 1); // test byte [vec], what
    emit1(e, what);
    u8 *over = emit_jcc(e, CC_E);
    emit_mov_imm(e, X86_RDI, (u64)&b->in.c->xs);
    emit_patch(e, emit_call(e), routine);
    emit_patch(e, over, emit_here(e));
}

void vecstate_emit_save(struct bt *b, struct emit *e)
{
    if (BT_VEC_EAGER) {
        emit_move_if(b, e, VEC_REGS, b->vec_store);
        emit_move_if(b, e, VEC_X87, b->x87_store);
    }
}

void vecstate_emit_restore(struct bt *b, struct emit *e)
{
    if (BT_VEC_EAGER) {
        emit_move_if(b, e, VEC_REGS, b->vec_load);
        emit_move_if(b, e, VEC_X87, b->x87_load);
    }
}

static u32 allowed(const struct cpu *c)
{
    const u64 avx = X86_XCR0_SSE | X86_XCR0_AVX;
    u32 r = 0;
    if (c->cr0 & X86_CR0_TS || c->xs.mxcsr & X86_MXCSR_MM)
        return 0;
    if (!(c->cr0 & X86_CR0_EM) && c->cr4 & X86_CR4_OSFXSR)
        r |= VEC_SSE;
    if (c->cr4 & X86_CR4_OSXSAVE && (c->xcr0 & avx) == avx)
        r |= VEC_AVX;
    if ((c->xs.mxcsr & X86_MXCSR_MASKS) == X86_MXCSR_MASKS)
        r |= r * (VEC_SSE_MASKED / VEC_SSE);
    return r;
}

static void move(struct bt *b, u64 routine)
{
    if (!BT_VEC_EAGER)
        ((void (*)(struct x86_xsave *))(uintptr_t)routine)(&b->in.c->xs); // NOLINT
}

static bool x87_allowed(const struct bt *b)
{
    const struct cpu *c = b->in.c;
    return b->has_xsave && !(c->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (c->xs.fcw & 0x3f) == 0x3f &&
           !b->in.v->ferr_asserted;
}

#define FOP_OLD 0x10000u // in ctx.fop: no instruction has set it

static void load_x87(struct bt *b)
{
    struct x86_xsave *xs = &b->in.c->xs;
    struct bt_ctx *k = b->ctx;
    k->xstate_bv = xs->xstate_bv;
    xs->xstate_bv = X86_XCR0_X87; // for XRSTOR
    xs->xcomp_bv = 0;
    k->fop = xs->fop | FOP_OLD;
    k->fip = xs->fip;
    k->fdp = xs->fdp;
    k->fseg = ~0u;
    move(b, b->x87_load);
    k->vec |= VEC_X87;
}

static void store_x87(struct bt *b)
{
    const struct bt_ctx *k = b->ctx;
    struct cpu *c = b->in.c;
    move(b, b->x87_store);
    c->xs.xstate_bv = k->xstate_bv;
    c->xs.fop = (u16)k->fop;
    c->xs.fip = k->fip;
    c->xs.fdp = k->fdp;
    if (!(k->fop & FOP_OLD))
        c->fcs = c->seg[X86_CS].sel;
    if (k->fseg != ~0u)
        c->fds = c->seg[k->fseg].sel;
}

bool vecstate_load(struct bt *b, u8 need)
{
    if (need & VEC_REGS && !(b->ctx->vec & VEC_REGS)) {
        u32 may = allowed(b->in.c);
        if (need & VEC_REGS & ~may)
            return false;
        move(b, b->vec_load);
        b->ctx->vec |= may;
        b->stats.vec_loads++;
    }
    if (need & VEC_X87 && !(b->ctx->vec & VEC_X87)) {
        if (!x87_allowed(b))
            return false;
        load_x87(b);
    }
    return !(need & ~b->ctx->vec);
}

void vecstate_store(struct bt *b)
{
    if (b->ctx->vec & VEC_REGS)
        move(b, b->vec_store);
    if (b->ctx->vec & VEC_X87)
        store_x87(b);
    b->ctx->vec = 0;
}
