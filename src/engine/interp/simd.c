// Vector and x87 instructions: the checks before them, and their execution on the host processor (isa/native).
//
// The order is the processor's: #UD and #NM by control registers, a pending x87 exception (#MF), then the memory operand
// (segment, alignment, page), then the operation and its own exception (#XM). Native code works on a bounce buffer, so guest
// memory is touched by the interpreter's own functions only; a store whose instruction also changes registers is probed first.
//
// Bookkeeping of the XSAVE area: all of cpu.xs is valid all the time. xstate_bv is not kept while running; the XSAVE family
// computes what is in its initial state (xsave.c).
//
// The x87 pointers (FIP, FDP, FOP and selectors) of native code would be the host's, so they are kept by hand: every
// instruction but the control ones (FLDCW and so on, FWAIT, MMX) sets them. FXSAVE's view of them is in xsave.c.
#include <string.h>

#include "engine/interp/simd.h"

// Generated code for some 2500 encodings; a working set is a few hundred.
#define NATIVE_CODE_SIZE (256u << 10)

// --- set-up ---------------------------------------------------------------------------------------------------------------

static void simd_fault(struct host_fault *f)
{
    f->pc = (u64)native_fault(f->rdi, f->mxcsr);
}

int interp_simd_init(struct interp *x)
{
    struct host *h = x->v->machine->host;
    if (!h->ops->code_alloc)
        return -95; // -EOPNOTSUPP
    x->native = h->ops->mem_alloc(h->self, "native", sizeof *x->native);
    if (!x->native)
        return -12; // -ENOMEM
    int err = h->ops->code_alloc(h->self, "native-code", NATIVE_CODE_SIZE, 0, simd_fault, &x->native_code);
    if (err) {
        h->ops->mem_free(h->self, x->native, sizeof *x->native);
        x->native = NULL;
        return err;
    }
    native_init(x->native, x->native_code.write, x->native_code.exec, (u32)x->native_code.size, x->c->gpr, &x->c->xs);
    return 0;
}

void interp_simd_fini(struct interp *x)
{
    struct host *h = x->v->machine->host;
    if (!x->native)
        return;
    h->ops->code_free(h->self, &x->native_code);
    h->ops->mem_free(h->self, x->native, sizeof *x->native);
    x->native = NULL;
}

// --- checks ---------------------------------------------------------------------------------------------------------------

static void set_ferr(struct vcpu *v, bool level)
{
    v->ferr_asserted = level;
    lock_take(&v->machine->dev_lock);
    irq_set(v->ferr, level);
    lock_drop(&v->machine->dev_lock);
}

// FERR# is asserted and the processor stands still before this instruction until an interrupt comes (normally the one that
// FERR# causes). The instruction is tried again when the handler returns.
static _Noreturn void freeze(struct interp *x)
{
    set_ferr(x->v, true);
    x->c->shadow = 0;
    x->c->activity = CPU_HALTED;
    x->raised = (struct cpu_event){.type = CPU_EVENT_NONE};
    longjmp(x->fault, 1);
}

void x87_check_pending(struct interp *x)
{
    struct vcpu *v = x->v;
    if (LIKELY(!x87_pending(&x->c->xs))) {
        if (UNLIKELY(v->ferr_asserted))
            set_ferr(v, false);
        return;
    }
    if (x->c->cr0 & X86_CR0_NE)
        interp_raise(x, X86_EXC_MF);
    if (v->ferr.set && !v->ignne)
        freeze(x);
}

// SDM 2A 2.4-2.7 (exception classes), SDM 3A 2.5 (CR0.EM, MP, TS) and 13.1.3; APM 2 table 11-1.
void interp_fpu_check(struct interp *x, const struct insn *in)
{
    const struct cpu *c = x->c;
    u32 attr = isa_forms[in->form].attr;
    const u32 x87_bits = ISA_ATTR_X87 | ISA_ATTR_MMX | ISA_ATTR_SSE | ISA_ATTR_AVX;
    if (attr & ISA_ATTR_VEX_GPR && !cpu_pmode(c))
        interp_ud(x);
    if (!(attr & x87_bits))
        return;
    if (attr & ISA_ATTR_AVX) {
        const u64 state = X86_XCR0_SSE | X86_XCR0_AVX;
        if (!cpu_pmode(c) || !(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & state) != state)
            interp_ud(x);
    } else if (attr & (ISA_ATTR_SSE | ISA_ATTR_MMX)) {
        if (c->cr0 & X86_CR0_EM || (attr & ISA_ATTR_SSE && !(c->cr4 & X86_CR4_OSFXSR)))
            interp_ud(x);
    } else if (c->cr0 & X86_CR0_EM) {
        interp_raise(x, X86_EXC_NM);
    }
    if (c->cr0 & X86_CR0_TS)
        interp_raise(x, X86_EXC_NM);
    // SSE conversions from an integer pair in memory touch no MMX register and do not wait.
    bool waits = attr & ISA_ATTR_X87 ? !(attr & ISA_ATTR_X87_NOWAIT)
                                     : attr & ISA_ATTR_MMX && (!(attr & ISA_ATTR_SSE) || simd_names_mmx(in));
    if (waits)
        x87_check_pending(x);
}

// Legacy SSE needs aligned operands, but AMD's SHA instructions do not, and AMD's misaligned mode (MXCSR.MM) asks it of the
// moves that are meant to be aligned only. APM 1 4.3.2.
static bool needs_alignment(const struct interp *x, const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    if (LIKELY(!(f->attr & ISA_ATTR_ALIGN)))
        return false;
    if (f->feature == ISA_FEAT_SHA_NI && x->isa_options & ISA_OPT_AMD)
        return false;
    if (LIKELY(!(x->c->xs.mxcsr & X86_MXCSR_MM)) || in->enc != ISA_ENC_LEGACY)
        return true;
    switch (f->op) {
    case ISA_OP_MOVAPS:
    case ISA_OP_MOVAPD:
    case ISA_OP_MOVDQA:
    case ISA_OP_MOVNTPS:
    case ISA_OP_MOVNTPD:
    case ISA_OP_MOVNTDQ:
    case ISA_OP_MOVNTDQA: return true;
    default: return false;
    }
}

void simd_require_alignment(struct interp *x, const struct insn *in, unsigned align)
{
    u64 off = interp_ea(x, in);
    gva base = x->mode != ISA_MODE_64 || in->seg >= X86_FS ? x->c->seg[in->seg].base : 0;
    if ((base + off) & (align - 1))
        interp_gp0(x);
}

u64 simd_address(struct interp *x, const struct insn *in, unsigned size, unsigned align, enum mmu_access access)
{
    u64 off = interp_ea(x, in);
    bool strict = needs_alignment(x, in);
    if (LIKELY(!strict && !x->align_on))
        return off;
    if (strict)
        simd_require_alignment(x, in, size);
    unsigned first = size > 8 && size < 16 ? 8 : size; // x87's ten bytes are accessed as eight and two
    if (x->align_on && interp_linear(x, in->seg, off, first, access) & (align - 1))
        interp_raise_err(x, X86_EXC_AC, 0);
    return off;
}

// --- native execution -----------------------------------------------------------------------------------------------------

// What alignment checks ask of an operand: 128- and 256-bit ones 16 bytes, x87's ten bytes 8.
static unsigned natural_alignment(unsigned size)
{
    return size >= 16 ? 16 : size == 10 ? 8 : size;
}

// Of a misaligned operand, AMD processors load only what these use; segment and alignment are checked for all of it. Aligned, it
// makes no difference.
static bool loads_low_half(const struct interp *x, const struct insn *in)
{
    if (LIKELY(!(x->c->xs.mxcsr & X86_MXCSR_MM)) || in->enc != ISA_ENC_LEGACY)
        return false;
    switch (in->op) {
    case ISA_OP_PUNPCKLBW:
    case ISA_OP_PUNPCKLWD:
    case ISA_OP_PUNPCKLDQ:
    case ISA_OP_PUNPCKLQDQ:
    case ISA_OP_UNPCKLPS:
    case ISA_OP_UNPCKLPD:
    case ISA_OP_PSLLW:
    case ISA_OP_PSLLD:
    case ISA_OP_PSLLQ:
    case ISA_OP_PSRLW:
    case ISA_OP_PSRLD:
    case ISA_OP_PSRLQ:
    case ISA_OP_PSRAW:
    case ISA_OP_PSRAD: return true;
    default: return false;
    }
}

static void load_operand(struct interp *x, const struct insn *in, unsigned size)
{
    u8 *mem = x->native->ctx.mem;
    u64 off = simd_address(x, in, size, natural_alignment(size), MMU_READ);
    if (size == 4 || size == 8) {
        u64 v = interp_load(x, in->seg, off, size);
        memcpy(mem, &v, 8);
    } else if (UNLIKELY(size == 16 && loads_low_half(x, in))) {
        u64 v[2] = {interp_lin_load(x, interp_linear(x, in->seg, off, 16, MMU_READ), 8, x->view)};
        memcpy(mem, v, 16);
    } else if (size == 10) { // two accesses, each with its own faults
        interp_load_buf(x, in->seg, off, mem, 8);
        interp_load_buf(x, in->seg, off + 8, mem + 8, 2);
    } else {
        interp_load_buf(x, in->seg, off, mem, size);
    }
}

// x87 stores that met an unmasked exception left memory alone, unless it was only inexactness. SDM 1 8.5.
// `old`: exceptions that were pending before.
static bool store_happened(const struct interp *x, u32 attr, u16 old)
{
    return !(attr & ISA_ATTR_X87) || !(x->c->xs.fsw & ~x->c->xs.fcw & 0x1f & ~old);
}

// An unmasked SIMD exception: the flags are set, the registers are as before. SDM 1 11.5.2.
static _Noreturn void raise_simd(struct interp *x, const struct insn *in)
{
    x->c->xs.mxcsr = x->native->ctx.fault_mxcsr;
    if (simd_names_mmx(in))
        x87_enter_mmx(&x->c->xs);
    interp_raise(x, x->c->cr4 & X86_CR4_OSXMMEXCPT ? X86_EXC_XM : X86_EXC_UD);
}

static void run_flags(struct interp *x, const struct insn *in, const struct native_op *op)
{
    struct native_ctx *ctx = &x->native->ctx;
    ctx->flags = (x->c->rflags & X86_FL_STATUS) | X86_FL_RSVD1;
    if (UNLIKELY(native_call(op, ctx)))
        raise_simd(x, in);
    flags_set(x->c, X86_FL_STATUS, ctx->flags);
}

// Exceptions that are pending all the same (IGNNE#) have to be out of the host processor's sight.
static void run_x87(struct interp *x, const struct insn *in, const struct native_op *op)
{
    struct x86_xsave *xs = &x->c->xs;
    u16 pending = x87_pending(xs) ? xs->fsw & 0x3f : 0;
    if (UNLIKELY(pending))
        x87_set_words(xs, xs->fcw, xs->fsw & 0x7fc0);
    if (op->flags & NATIVE_OP_FLAGS) {
        run_flags(x, in, op);
    } else if (UNLIKELY(native_call(op, &x->native->ctx))) {
        x87_set_words(xs, xs->fcw, xs->fsw | pending);
        raise_simd(x, in);
    }
    if (UNLIKELY(pending))
        x87_set_words(xs, xs->fcw, xs->fsw | pending);
}

// What an x87 instruction, other than control ones, leaves in the pointers.
static void set_pointers(struct interp *x, const struct insn *in, bool mem)
{
    struct cpu *c = x->c;
    c->xs.fop = (u16)((in->opcode & 7) << 8 | in->modrm);
    c->xs.fip = c->rip;
    c->fcs = c->seg[X86_CS].sel;
    if (mem) {
        c->xs.fdp = interp_ea(x, in);
        c->fds = c->seg[in->seg].sel;
    }
}

static void run(struct interp *x, const struct insn *in, const struct native_op *op, bool mem)
{
    if (op->flags & NATIVE_OP_X87) {
        run_x87(x, in, op);
        if (isa_forms[in->form].attr & ISA_ATTR_X87)
            set_pointers(x, in, mem);
    } else if (op->flags & NATIVE_OP_FLAGS) {
        run_flags(x, in, op);
    } else if (UNLIKELY(native_call(op, &x->native->ctx))) {
        raise_simd(x, in);
    }
}

static void run_store(struct interp *x, const struct insn *in, const struct native_op *op, unsigned size)
{
    u32 attr = isa_forms[in->form].attr;
    u64 off = simd_address(x, in, size, natural_alignment(size), MMU_WRITE);
    const u8 *mem = x->native->ctx.mem;
    u16 old = x87_pending(&x->c->xs) ? x->c->xs.fsw : 0;
    if (size == 10)
        interp_probe_store(x, in->seg, off, 8);
    if (attr & (ISA_ATTR_X87 | ISA_ATTR_MMX | ISA_ATTR_FPEXC))
        interp_probe_store(x, in->seg, off, size);
    run(x, in, op, true);
    if (!store_happened(x, attr, old))
        return;
    if (size == 4 || size == 8) {
        u64 v;
        memcpy(&v, mem, 8);
        interp_store(x, in->seg, off, size, v);
    } else {
        interp_store_buf(x, in->seg, off, mem, size);
    }
}

void interp_native(struct interp *x, const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    interp_fpu_check(x, in);
    const struct native_op *op = native_bind(x->native, in, x->insn_bytes);
    if (UNLIKELY(!op)) {
        host_logf(x->v->machine->host, LOG_UNIMP, "no native form of %s", f->name);
        interp_ud(x);
    }
    unsigned i = 0;
    while (i < in->nopnd && in->opnd[i].kind != ISA_OPND_MEM)
        i++;
    if (i == in->nopnd) {
        run(x, in, op, false);
    } else if (f->access[i] & ISA_ACC_W) {
        run_store(x, in, op, in->opnd[i].size);
    } else {
        load_operand(x, in, in->opnd[i].size);
        run(x, in, op, true);
    }
}

// --- MXCSR and small ones ---------------------------------------------------------------------------------------------------

u32 simd_mxcsr_mask(const struct interp *x)
{
    const struct cpu_model *m = x->v->model;
    return m && cpu_model_has(m, ISA_FEAT_MISALIGNSSE) ? X86_MXCSR_VALID | X86_MXCSR_MM : X86_MXCSR_VALID;
}

void op_ldmxcsr(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    u32 v = (u32)interp_load(x, in->seg, interp_ea(x, in), 4);
    if (v & ~simd_mxcsr_mask(x))
        interp_gp0(x);
    x->c->xs.mxcsr = v;
}

void op_stmxcsr(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    interp_store(x, in->seg, interp_ea(x, in), 4, x->c->xs.mxcsr);
}
