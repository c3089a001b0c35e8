// Thunk generation. A thunk is called as fn(ctx: rdi, xs: rsi, gpr: rdx) and has this shape:
//
//     registers in     FRSTOR where x87 or MMX state is involved; vector registers from rsi; MXCSR where it matters;
//                      flags; general registers from rdx, rdx itself last
//     the instruction  memory operand [rdi], general operands in r8 (ModRM.reg), r9 (VEX.vvvv), r10 (ModRM.rm)
//     registers out    flags; FNSAVE; MXCSR, and the host's back; vector registers to rsi; general registers
//     xor eax, eax; ret
//
// Only registers that a called function may clobber are used, so there is nothing to save. General operands that the encoding
// names are moved to r8..r10 whatever their number was (this takes care of RSP and of our own rdi, rsi, rdx); implicit ones
// (RAX, RCX, RDX) stay where they are. Vector registers keep their numbers.
//
// The instruction is encoded anew for 64-bit code: address-size and segment prefixes go, the operand-size prefix says what
// the guest's mode meant, REX and VEX name the new registers.
#include "isa/native.h"

// XSAVE area, SDM 1 13.4.
enum { XS_FCW = 0, XS_FSW = 2, XS_FTW = 4, XS_MXCSR = 24, XS_ST = 32, XS_XMM = 160, XS_YMMH = 576 };

enum host_reg { HOST_REG = 8, HOST_VVVV = 9, HOST_RM = 10 };

#define STATUS_FLAGS X86_FL_STATUS
#define IMPLICIT_HERE (ISA_IMPLICIT_GPR(X86_RAX) | ISA_IMPLICIT_GPR(X86_RCX) | ISA_IMPLICIT_GPR(X86_RDX))

// Fixed address, defined in native_entry.S.
extern const u8 native_recover[] __attribute__((visibility("hidden")));

const void *native_fault(u64 rdi, u32 mxcsr)
{
    ((struct native_ctx *)rdi)->fault_mxcsr = mxcsr;
    return native_recover;
}

// --- bytes ----------------------------------------------------------------------------------------------------------------

struct emit {
    u8 buf[NATIVE_THUNK_MAX];
    unsigned n;
};

static void emit1(struct emit *e, unsigned b)
{
    e->buf[e->n++] = (u8)b;
}

static void emit_bytes(struct emit *e, const u8 *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        emit1(e, p[i]);
}

#define EMIT(e, ...) emit_bytes(e, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void emit4(struct emit *e, u32 v)
{
    EMIT(e, (u8)v, (u8)(v >> 8), (u8)(v >> 16), (u8)(v >> 24));
}

// ModRM for [base + disp8] and [base + disp32]; base is one of rdx, rsi, rdi.
static void emit_mem8(struct emit *e, unsigned reg, unsigned base, unsigned disp)
{
    EMIT(e, (u8)(0x40 | (reg & 7) << 3 | base), (u8)disp);
}

static void emit_mem32(struct emit *e, unsigned reg, unsigned base, u32 disp)
{
    emit1(e, 0x80 | (reg & 7) << 3 | base);
    emit4(e, disp);
}

// mov r64, [base + 8 * guest] (opcode 8b) or the reverse (89).
static void emit_gpr_move(struct emit *e, unsigned opcode, unsigned host, unsigned base, unsigned guest)
{
    EMIT(e, (u8)(0x48 | (host & 8) >> 1), (u8)opcode);
    emit_mem8(e, host, base, 8 * guest);
}

// (v)movaps between xmm and the low half in the XSAVE area: opcode 28 loads, 29 stores.
static void emit_xmm_move(struct emit *e, unsigned opcode, bool vex, unsigned reg)
{
    if (vex)
        EMIT(e, 0xc4, (u8)((reg & 8 ? 0 : 0x80) | 0x61), 0x78);
    else if (reg & 8)
        EMIT(e, 0x44, 0x0f);
    else
        emit1(e, 0x0f);
    emit1(e, opcode);
    emit_mem32(e, reg, X86_RSI, XS_XMM + 16 * reg);
}

// vinsertf128 ymm, ymm, [high half], 1 (opcode 18), vextractf128 [high half], ymm, 1 (19).
static void emit_ymmh_move(struct emit *e, unsigned opcode, unsigned reg)
{
    unsigned vvvv = opcode == 0x18 ? reg : 0;
    EMIT(e, 0xc4, (u8)((reg & 8 ? 0 : 0x80) | 0x63), (u8)((~vvvv & 15) << 3 | 0x05), (u8)opcode);
    emit_mem32(e, reg, X86_RSI, XS_YMMH + 16 * reg);
    emit1(e, 1);
}

// ldmxcsr (2) or stmxcsr (3).
static void emit_mxcsr(struct emit *e, unsigned digit, unsigned base, unsigned disp)
{
    EMIT(e, 0x0f, 0xae);
    emit_mem8(e, digit, base, disp);
}

// --- what a thunk has to do -------------------------------------------------------------------------------------------------

struct plan {
    const struct insn *in;
    const struct isa_form_info *f;
    const u8 *bytes;
    bool vex, x87, mxcsr, mem;
    bool flags_in, flags_out;
    u32 xmm_in, xmm_out, ymm_in; // bit per register; ymm_in: the high half too
    u32 gpr_in, gpr_out;         // implicit registers
};

static unsigned host_reg_of(const struct plan *p, unsigned i)
{
    switch (p->f->field[i]) {
    case ISA_FIELD_REG: return HOST_REG;
    case ISA_FIELD_VVVV: return HOST_VVVV;
    case ISA_FIELD_RM: return HOST_RM;
    default: return p->in->opnd[i].reg; // a fixed register
    }
}

static bool is_gpr(const struct isa_operand *o)
{
    return o->kind == ISA_OPND_GPR || o->kind == ISA_OPND_GPR8H;
}

static void plan_operand(struct plan *p, unsigned i)
{
    const struct isa_operand *o = &p->in->opnd[i];
    if (o->kind == ISA_OPND_MEM) {
        p->mem = true;
    } else if (o->kind == ISA_OPND_XMM || o->kind == ISA_OPND_YMM) {
        p->xmm_in |= 1u << o->reg;
        if (o->kind == ISA_OPND_YMM)
            p->ymm_in |= 1u << o->reg;
        if (p->f->access[i] & ISA_ACC_W)
            p->xmm_out |= 1u << o->reg;
    } else if (is_gpr(o) && p->f->field[i] == ISA_FIELD_NO) {
        p->gpr_in |= 1u << o->reg;
        if (p->f->access[i] & ISA_ACC_W)
            p->gpr_out |= 1u << o->reg;
    }
}

// False when the form needs something that thunks do not provide.
static bool make_plan(struct plan *p, const struct insn *in, const u8 *bytes)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    u32 implicit = f->implicit_read | f->implicit_written;
    u32 touched = (f->flags_read | f->flags_written | f->flags_undef) & STATUS_FLAGS;
    *p = (struct plan){.in = in, .f = f, .bytes = bytes, .vex = in->enc != ISA_ENC_LEGACY};
    for (unsigned i = 0; i < in->nopnd; i++)
        plan_operand(p, i);
    p->x87 = (f->attr & (ISA_ATTR_X87 | ISA_ATTR_MMX)) != 0;
    p->mxcsr = (f->attr & ISA_ATTR_FPEXC) != 0;
    p->flags_out = touched != 0;
    p->flags_in = touched && (f->flags_written & STATUS_FLAGS) != STATUS_FLAGS;
    p->gpr_in |= implicit & 0xffff;
    p->gpr_out |= f->implicit_written & 0xffff;
    if (implicit & ISA_IMPLICIT_XMM0)
        p->xmm_in |= 1;
    if (f->implicit_written & ISA_IMPLICIT_XMM0)
        p->xmm_out |= 1;
    return (f->attr & ISA_ATTR_NATIVE) && !(f->attr & ISA_ATTR_VSIB) && !(p->gpr_in & ~IMPLICIT_HERE) &&
           !(implicit & (ISA_IMPLICIT_MEM | ISA_IMPLICIT_STACK));
}

// --- the instruction, encoded anew ------------------------------------------------------------------------------------------

static bool field_is_gpr(const struct plan *p, enum isa_field field)
{
    for (unsigned i = 0; i < p->in->nopnd; i++)
        if (p->f->field[i] == field && is_gpr(&p->in->opnd[i]))
            return true;
    return false;
}

static bool field_is_mmx(const struct plan *p, enum isa_field field)
{
    for (unsigned i = 0; i < p->in->nopnd; i++)
        if (p->f->field[i] == field && p->in->opnd[i].kind == ISA_OPND_MMX)
            return true;
    return false;
}

struct fields {
    unsigned modrm, rex, vvvv;
};

static struct fields new_fields(const struct plan *p)
{
    const struct insn *in = p->in;
    struct fields n = {.modrm = in->modrm, .rex = in->rex & (ISA_REX_W | ISA_REX_R | ISA_REX_B), .vvvv = in->vvvv};
    if (field_is_gpr(p, ISA_FIELD_REG)) {
        n.modrm = (n.modrm & 0xc7) | (HOST_REG & 7) << 3;
        n.rex |= ISA_REX_R;
    } else if (field_is_mmx(p, ISA_FIELD_REG)) {
        n.rex &= ~(unsigned)ISA_REX_R;
    }
    if (field_is_gpr(p, ISA_FIELD_VVVV))
        n.vvvv = HOST_VVVV;
    if (p->mem) {
        n.modrm = (n.modrm & 0x38) | X86_RDI;
        n.rex &= ~(unsigned)ISA_REX_B;
    } else if (field_is_gpr(p, ISA_FIELD_RM)) {
        n.modrm = (n.modrm & 0xf8) | (HOST_RM & 7);
        n.rex |= ISA_REX_B;
    } else if (field_is_mmx(p, ISA_FIELD_RM)) {
        n.rex &= ~(unsigned)ISA_REX_B;
    }
    return n;
}

bool native_w_is_size(const struct insn *in)
{
    if (isa_forms[in->form].attr & ISA_ATTR_VEX_GPR)
        return true;
    switch (in->map << 8 | in->opcode) {
    case ISA_MAP_0F << 8 | 0x2a:
    case ISA_MAP_0F << 8 | 0x2c:
    case ISA_MAP_0F << 8 | 0x2d:
    case ISA_MAP_0F << 8 | 0x6e:
    case ISA_MAP_0F << 8 | 0x7e:
    case ISA_MAP_0F3A << 8 | 0x16:
    case ISA_MAP_0F3A << 8 | 0x22:
    case ISA_MAP_0F3A << 8 | 0x60:
    case ISA_MAP_0F3A << 8 | 0x61: return true;
    default: return false;
    }
}

static void emit_vex(struct emit *e, const struct plan *p, const struct fields *n)
{
    const struct insn *in = p->in;
    unsigned pp = p->bytes[in->opcode_off - 1] & 3;
    bool w = (n->rex & ISA_REX_W) && !(in->mode != ISA_MODE_64 && native_w_is_size(in));
    EMIT(e, 0xc4, (u8)((n->rex & ISA_REX_R ? 0 : 0x80) | 0x40 | (n->rex & ISA_REX_B ? 0 : 0x20) | in->map),
         (u8)((w ? 0x80 : 0) | (~n->vvvv & 15) << 3 | (in->vl == 32 ? 4 : 0) | pp), in->opcode);
}

// Does 66 select the operand size (rather than the form) here?
static bool opsize_is_size(const struct plan *p)
{
    switch (p->f->op) {
    case ISA_OP_POPCNT:
    case ISA_OP_LZCNT:
    case ISA_OP_TZCNT:
    case ISA_OP_CRC32: return true;
    default: return false;
    }
}

static void emit_legacy(struct emit *e, const struct plan *p, const struct fields *n)
{
    const struct insn *in = p->in;
    bool opsize = opsize_is_size(p) ? in->opnd[1].size == 2 : in->prefix & ISA_PFX_OPSIZE;
    if (in->map != ISA_MAP_1) { // x87 ignores these prefixes
        if (opsize)
            emit1(e, 0x66);
        if (in->prefix & ISA_PFX_REP)
            emit1(e, 0xf3);
        if (in->prefix & ISA_PFX_REPNE)
            emit1(e, 0xf2);
        if (n->rex)
            emit1(e, 0x40 | n->rex);
        emit1(e, 0x0f);
        if (in->map == ISA_MAP_0F38)
            emit1(e, 0x38);
        if (in->map == ISA_MAP_0F3A)
            emit1(e, 0x3a);
    }
    emit1(e, in->opcode);
}

static void emit_instruction(struct emit *e, const struct plan *p)
{
    const struct insn *in = p->in;
    struct fields n = new_fields(p);
    if (p->vex)
        emit_vex(e, p, &n);
    else
        emit_legacy(e, p, &n);
    if (in->has_modrm)
        emit1(e, n.modrm);
    for (unsigned i = in->imm_off; i < in->len; i++) {
        // Bit 7 of a register immediate names nothing outside 64-bit mode.
        bool is4 = p->f->field[3] == ISA_FIELD_IS4 && in->mode != ISA_MODE_64;
        emit1(e, is4 ? p->bytes[i] & 0x7f : p->bytes[i]);
    }
}

// --- the thunk ----------------------------------------------------------------------------------------------------------------

static void emit_inputs(struct emit *e, const struct plan *p)
{
    if (p->x87) { // frstor [x87]
        emit1(e, 0xdd);
        emit_mem8(e, 4, X86_RDI, NATIVE_CTX_X87);
    }
    for (unsigned r = 0; r < 16; r++)
        if (p->xmm_in & 1u << r)
            emit_xmm_move(e, 0x28, p->vex, r);
    for (unsigned r = 0; r < 16; r++)
        if (p->ymm_in & 1u << r)
            emit_ymmh_move(e, 0x18, r);
    if (p->mxcsr)
        emit_mxcsr(e, 2, X86_RSI, XS_MXCSR);
    if (p->flags_in) {
        emit1(e, 0xff); // push [flags]; popfq
        emit_mem8(e, 6, X86_RDI, NATIVE_CTX_FLAGS);
        emit1(e, 0x9d);
    }
    for (unsigned i = 0; i < p->in->nopnd; i++) {
        const struct isa_operand *o = &p->in->opnd[i];
        if (!is_gpr(o) || p->f->field[i] == ISA_FIELD_NO)
            continue;
        unsigned host = host_reg_of(p, i);
        if (o->kind == ISA_OPND_GPR) {
            emit_gpr_move(e, 0x8b, host, X86_RDX, o->reg);
        } else { // movzx r32, byte: the operand becomes the low byte
            EMIT(e, 0x44, 0x0f, 0xb6);
            emit_mem8(e, host, X86_RDX, 8u * o->reg + 1);
        }
    }
    static const u8 implicit[] = {X86_RAX, X86_RCX, X86_RDX};
    for (unsigned i = 0; i < sizeof implicit; i++)
        if (p->gpr_in & 1u << implicit[i])
            emit_gpr_move(e, 0x8b, implicit[i], X86_RDX, implicit[i]);
}

static void emit_outputs(struct emit *e, const struct plan *p)
{
    if (p->flags_out) {
        EMIT(e, 0x9c, 0x8f); // pushfq; pop [flags]
        emit_mem8(e, 0, X86_RDI, NATIVE_CTX_FLAGS);
    }
    if (p->x87) { // fnsave [x87], which leaves the host's x87 initialised
        emit1(e, 0xdd);
        emit_mem8(e, 6, X86_RDI, NATIVE_CTX_X87);
    }
    if (p->mxcsr) {
        emit_mxcsr(e, 3, X86_RSI, XS_MXCSR);
        emit_mxcsr(e, 2, X86_RDI, NATIVE_CTX_HOST_MXCSR);
    }
    for (unsigned r = 0; r < 16; r++) {
        if (!(p->xmm_out & 1u << r))
            continue;
        emit_xmm_move(e, 0x29, p->vex, r);
        if (p->vex)
            emit_ymmh_move(e, 0x19, r);
    }
    EMIT(e, 0x48, 0x8b); // mov rsi, [gpr]
    emit_mem8(e, X86_RSI, X86_RDI, NATIVE_CTX_GPR);
    // Last operand first: where MULX names one register twice, its first operand wins.
    for (unsigned i = p->in->nopnd; i-- > 0;) {
        const struct isa_operand *o = &p->in->opnd[i];
        if (o->kind == ISA_OPND_GPR && p->f->field[i] != ISA_FIELD_NO && p->f->access[i] & ISA_ACC_W)
            emit_gpr_move(e, 0x89, host_reg_of(p, i), X86_RSI, o->reg);
    }
    for (unsigned r = 0; r < X86_RBX; r++)
        if (p->gpr_out & 1u << r)
            emit_gpr_move(e, 0x89, r, X86_RSI, r);
    if (p->vex && p->ymm_in)
        EMIT(e, 0xc5, 0xf8, 0x77); // vzeroupper
    EMIT(e, 0x31, 0xc0, 0xc3);     // xor eax, eax; ret
}

// --- x87 state ------------------------------------------------------------------------------------------------------------

// FRSTOR and FNSAVE take half the time of FXRSTOR and FXSAVE. Their image has the same registers without gaps, doublewords for
// the words, and two tag bits for each register, of which only "empty" (3) against anything else matters.
enum { IMAGE_FCW = 0, IMAGE_FSW = 4, IMAGE_FTW = 8, IMAGE_ST = 28 };

static unsigned full_tags(unsigned abridged)
{
    unsigned t = ~abridged & 0xff;
    t = (t | t << 4) & 0x0f0f;
    t = (t | t << 2) & 0x3333;
    t = (t | t << 1) & 0x5555;
    return t | t << 1;
}

static unsigned abridged_tags(unsigned full)
{
    unsigned t = ~(full & full >> 1) & 0x5555;
    t = (t | t >> 1) & 0x3333;
    t = (t | t >> 2) & 0x0f0f;
    return (t | t >> 4) & 0xff;
}

static void x87_in(u8 *image, const u8 *xs)
{
    u16 tags = (u16)full_tags(xs[XS_FTW]);
    __builtin_memcpy(image + IMAGE_FCW, xs + XS_FCW, 2);
    __builtin_memcpy(image + IMAGE_FSW, xs + XS_FSW, 2);
    __builtin_memcpy(image + IMAGE_FTW, &tags, 2);
    for (unsigned i = 0; i < 8; i++) {
        __builtin_memcpy(image + IMAGE_ST + 10 * i, xs + XS_ST + 16 * i, 8);
        __builtin_memcpy(image + IMAGE_ST + 10 * i + 8, xs + XS_ST + 16 * i + 8, 2);
    }
}

static void x87_out(u8 *xs, const u8 *image)
{
    u16 tags;
    __builtin_memcpy(&tags, image + IMAGE_FTW, 2);
    __builtin_memcpy(xs + XS_FCW, image + IMAGE_FCW, 2);
    __builtin_memcpy(xs + XS_FSW, image + IMAGE_FSW, 2);
    xs[XS_FTW] = (u8)abridged_tags(tags);
    for (unsigned i = 0; i < 8; i++) {
        __builtin_memcpy(xs + XS_ST + 16 * i, image + IMAGE_ST + 10 * i, 8);
        __builtin_memcpy(xs + XS_ST + 16 * i + 8, image + IMAGE_ST + 10 * i + 8, 2);
    }
}

int native_call_x87(const struct native_op *op, struct native_ctx *ctx)
{
    x87_in(ctx->x87, ctx->xs);
    int r = op->fn(ctx, ctx->xs, ctx->gpr);
    if (!r)
        x87_out(ctx->xs, ctx->x87);
    return r;
}

// --- the cache ----------------------------------------------------------------------------------------------------------------

// Everything that the thunk's code depends on; never 0.
//   63 in use | 57 64-bit mode | 54..56 operand size / 2 | 52..53 vector length / 16 | 48..51 prefixes 66 F3 F2 REX |
//   44..47 REX | 40..43 vvvv | 32..39 immediate | 24..31 opcode or second immediate | 16..23 ModRM | 0..15 form
static u64 key_of(const struct insn *in)
{
    unsigned modrm = in->modrm, rex = in->rex;
    u8 opcode = in->opcode;
    bool mem = false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        mem = mem || in->opnd[i].kind == ISA_OPND_MEM;
        if (in->opnd[i].kind == ISA_OPND_IMM2) // its forms have one opcode each
            opcode = (u8)in->imm2;
    }
    if (mem) {
        modrm &= 0x38;
        rex &= ~(unsigned)(ISA_REX_B | ISA_REX_X);
    }
    unsigned pfx = (in->prefix & ISA_PFX_OPSIZE ? 1 : 0) | (in->prefix & ISA_PFX_REP ? 2 : 0) |
                   (in->prefix & ISA_PFX_REPNE ? 4 : 0) | (in->prefix & ISA_PFX_REX ? 8 : 0);
    return 1ull << 63 | (u64)(in->mode == ISA_MODE_64) << 57 | (u64)(in->opsize >> 1) << 54 | (u64)(in->vl >> 4) << 52 |
           (u64)pfx << 48 | (u64)rex << 44 | (u64)in->vvvv << 40 | (u64)(u8)in->imm << 32 | (u64)opcode << 24 |
           (u64)modrm << 16 | in->form;
}

static unsigned slot_of(u64 key)
{
    return (unsigned)(key * 0x9e3779b97f4a7c15ull >> (64 - NATIVE_TABLE_BITS));
}

static void flush(struct native_cache *nc)
{
    for (unsigned i = 0; i < NATIVE_TABLE; i++)
        nc->table[i].key = 0;
    nc->used = 0;
    nc->count = 0;
    nc->generation++;
}

void native_init(struct native_cache *nc, u8 *write, const u8 *exec, u32 size, u64 *gpr, void *xs)
{
    nc->write = write;
    nc->exec = exec;
    nc->size = size;
    nc->generation = 0;
    nc->ctx.gpr = gpr;
    nc->ctx.xs = xs;
    nc->ctx.host_mxcsr = X86_MXCSR_DEFAULT;
    flush(nc);
}

static const struct native_op *build(struct native_cache *nc, const struct insn *in, const u8 *bytes, u64 key)
{
    struct plan p;
    struct emit e = {.n = 0};
    if (!make_plan(&p, in, bytes))
        return NULL;
    emit_inputs(&e, &p);
    emit_instruction(&e, &p);
    emit_outputs(&e, &p);
    if (nc->used + e.n > nc->size || nc->count >= NATIVE_TABLE * 3 / 4)
        flush(nc);
    for (unsigned i = 0; i < e.n; i++)
        nc->write[nc->used + i] = e.buf[i];
    unsigned s = slot_of(key);
    while (nc->table[s].key)
        s = (s + 1) % NATIVE_TABLE;
    struct native_op *op = &nc->table[s];
    op->key = key;
    op->fn = (native_fn *)(uintptr_t)(nc->exec + nc->used);
    op->flags = (p.flags_out ? NATIVE_OP_FLAGS : 0) | (p.x87 ? NATIVE_OP_X87 : 0);
    nc->used += (e.n + 15) & ~15u;
    nc->count++;
    return op;
}

const struct native_op *native_bind(struct native_cache *nc, const struct insn *in, const u8 *bytes)
{
    u64 key = key_of(in);
    for (unsigned s = slot_of(key);; s = (s + 1) % NATIVE_TABLE) {
        const struct native_op *op = &nc->table[s];
        if (op->key == key)
            return op;
        if (!op->key)
            return build(nc, in, bytes, key);
    }
}
