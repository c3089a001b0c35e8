// Vector instructions: plain moves by hand, all others through the native thunks that the interpreter uses, bound once. What is
// out of the ordinary (a control register forbids them, an operand is misaligned, an unmasked exception) goes to the interpreter
// as a whole, which then finds everything as it was.
#include "engine/cache/exec.h"

// In these cells: cc is what must be in e->fpu, dst the size of the memory operand, src nonzero where it has to be aligned.
#define ALLOWED \
    if (UNLIKELY((e->fpu & o->cc) != o->cc)) \
    PASS(slow_op)

#define ALIGNED(p) \
    if (UNLIKELY(o->src && (u64)(p) & (o->dst - 1u))) \
    PASS(slow_op)

static HANDLER(bind)
{
    struct extra *t = o->extra;
    struct native_cache *nc = e->in.native;
    t->native = native_bind(nc, &t->in, t->bytes);
    t->generation = nc->generation;
    GO(o);
}

#define BOUND(op) \
    struct native_cache *nc = e->in.native; \
    const struct extra *t = o->extra; \
    if (UNLIKELY(t->generation != nc->generation)) \
        PASS(bind); \
    const struct native_op *op = t->native

static ALWAYS_INLINE bool run_native(struct native_cache *nc, const struct native_op *op)
{
    return LIKELY(op->fn(&nc->ctx, nc->ctx.xs, nc->ctx.gpr) == 0);
}

static ALWAYS_INLINE void flags_in(const struct cpu *c, struct native_cache *nc)
{
    nc->ctx.flags = (c->rflags & X86_FL_STATUS) | X86_FL_RSVD1;
}

static ALWAYS_INLINE void flags_out(struct cpu *c, const struct native_cache *nc)
{
    flags_set(c, X86_FL_STATUS, nc->ctx.flags);
}

static ALWAYS_INLINE void copy(u8 *to, const u8 *from, unsigned size)
{
    switch (size) {
    case 1: memcpy(to, from, 1); break;
    case 2: memcpy(to, from, 2); break;
    case 4: memcpy(to, from, 4); break;
    case 8: memcpy(to, from, 8); break;
    case 16: memcpy(to, from, 16); break;
    default: memcpy(to, from, 32); break;
    }
}

static HANDLER(native_reg)
{
    ALLOWED;
    BOUND(op);
    if (!run_native(nc, op))
        PASS(slow_op);
    NEXT;
}

static HANDLER(native_reg_flags)
{
    ALLOWED;
    NEED_FLAGS;
    BOUND(op);
    flags_in(c, nc);
    if (!run_native(nc, op))
        PASS(slow_op);
    flags_out(c, nc);
    NEXT;
}

#define DEFINE_NATIVE_MEM(kind, ...) \
    static HANDLER(native_load_##kind) \
    { \
        ALLOWED; \
        BOUND(op); \
        MEM(p, kind, o->dst, false); \
        ALIGNED(p); \
        copy(nc->ctx.mem, p, o->dst); \
        if (UNLIKELY(c->xs.mxcsr & X86_MXCSR_MM) || !run_native(nc, op)) \
            PASS(slow_op); \
        NEXT; \
    } \
    static HANDLER(native_load_flags_##kind) \
    { \
        ALLOWED; \
        NEED_FLAGS; \
        BOUND(op); \
        MEM(p, kind, o->dst, false); \
        ALIGNED(p); \
        copy(nc->ctx.mem, p, o->dst); \
        flags_in(c, nc); \
        if (UNLIKELY(c->xs.mxcsr & X86_MXCSR_MM) || !run_native(nc, op)) \
            PASS(slow_op); \
        flags_out(c, nc); \
        NEXT; \
    } \
    static HANDLER(native_store_##kind) \
    { \
        ALLOWED; \
        BOUND(op); \
        MEM(p, kind, o->dst, true); \
        ALIGNED(p); \
        if (!run_native(nc, op)) \
            PASS(slow_op); \
        copy(p, nc->ctx.mem, o->dst); \
        NEXT; \
    }
EACH_EA(DEFINE_NATIVE_MEM, )

struct native_forms {
    cell_fn *load, *load_flags, *store;
};
#define NATIVE_ROW(kind, ...) [kind] = {native_load_##kind, native_load_flags_##kind, native_store_##kind},
static const struct native_forms native_forms[EA_COUNT] = {EACH_EA(NATIVE_ROW, )};

// --- plain moves --------------------------------------------------------------------------------------------------------------

// 16 bytes, legacy encoding: the upper half of the YMM register stays. extra.in has the register.
static ALWAYS_INLINE u8 *xmm(struct cpu *c, const struct cell *o, unsigned i)
{
    return c->xs.xmm[o->extra->in.opnd[i].reg];
}

static HANDLER(move_reg)
{
    ALLOWED;
    memcpy(xmm(c, o, 0), xmm(c, o, 1), 16);
    NEXT;
}

#define DEFINE_MOVE(kind, ...) \
    static HANDLER(move_load_##kind) \
    { \
        ALLOWED; \
        MEM(p, kind, 16, false); \
        ALIGNED(p); \
        memcpy(xmm(c, o, 0), p, 16); \
        NEXT; \
    } \
    static HANDLER(move_store_##kind) \
    { \
        ALLOWED; \
        MEM(p, kind, 16, true); \
        ALIGNED(p); \
        memcpy(p, xmm(c, o, 1), 16); \
        NEXT; \
    }
EACH_EA(DEFINE_MOVE, )
#define MOVE_LOAD(kind, ...) [kind] = move_load_##kind,
#define MOVE_STORE(kind, ...) [kind] = move_store_##kind,
static cell_fn *const move_load[EA_COUNT] = {EACH_EA(MOVE_LOAD, )};
static cell_fn *const move_store[EA_COUNT] = {EACH_EA(MOVE_STORE, )};

static bool is_plain_move(const struct insn *in)
{
    if (in->enc != ISA_ENC_LEGACY)
        return false;
    switch (in->op) {
    case ISA_OP_MOVAPS:
    case ISA_OP_MOVUPS:
    case ISA_OP_MOVAPD:
    case ISA_OP_MOVUPD:
    case ISA_OP_MOVDQA:
    case ISA_OP_MOVDQU: return true;
    default: return false;
    }
}

// --- choice -------------------------------------------------------------------------------------------------------------------

static cell_fn *select_move(const struct cache *e, const struct insn *in, int mem)
{
    return mem < 0 ? move_reg : mem == 0 ? move_store[ea_kind(e, in)] : move_load[ea_kind(e, in)];
}

cell_fn *select_vector(const struct cache *e, const struct insn *in, struct cell *o)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    // x87 and MMX state needs more care: pending exceptions, pointers, tags.
    if (!(f->attr & ISA_ATTR_NATIVE) || f->attr & (ISA_ATTR_X87 | ISA_ATTR_MMX))
        return NULL;
    int mem = isa_memory_operand(in);
    if (mem >= 0 && ((u64)in->disp + o->next + 0x80000000u > 0xffffffffu || in->opnd[mem].size > 32 ||
                     in->opnd[mem].size & (in->opnd[mem].size - 1) || !in->opnd[mem].size))
        return NULL;
    o->cc = f->attr & ISA_ATTR_AVX       ? FPU_AVX
            : f->attr & ISA_ATTR_SSE     ? FPU_SSE
            : f->attr & ISA_ATTR_VEX_GPR ? FPU_PMODE
                                         : 0;
    o->dst = mem >= 0 ? (u8)in->opnd[mem].size : 0;
    o->src = (f->attr & ISA_ATTR_ALIGN) != 0;
    if (is_plain_move(in))
        return select_move(e, in, mem);
    const struct native_op *op = native_bind(e->in.native, in, e->bytes[in - e->decoded]);
    if (!op || op->flags & NATIVE_OP_X87)
        return NULL;
    bool flags = op->flags & NATIVE_OP_FLAGS;
    if (mem < 0)
        return flags ? native_reg_flags : native_reg;
    const struct native_forms *n = &native_forms[ea_kind(e, in)];
    if (f->access[mem] & ISA_ACC_W)
        return flags ? NULL : n->store;
    return flags ? n->load_flags : n->load;
}
