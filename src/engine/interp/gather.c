// Vector instructions whose memory access depends on a mask: MASKMOVQ, MASKMOVDQU, VMASKMOVPS/PD, VPMASKMOVD/Q and the gathers.
// They go through guest memory element by element, so they are done here rather than natively; and the two that only clear
// registers.
//
// VMASKMOV and the gathers access nothing for an element whose mask bit is clear, faults included. MASKMOVQ and MASKMOVDQU
// may fault for any byte of the operand (AMD processors check all of it, whatever the mask), and so they do here.
// No alignment is checked for elements. SDM 2A MASKMOVDQU, 2C VGATHERDPS, VMASKMOV.
#include <string.h>

#include "engine/interp/simd.h"

// --- a YMM register, of which xs holds two halves -----------------------------------------------------------------------------

union ymm {
    u8 b[32];
    u32 d[8];
    u64 q[4];
};

static union ymm ymm_get(const struct cpu *c, unsigned reg)
{
    union ymm y;
    memcpy(y.b, c->xs.xmm[reg], 16);
    memcpy(y.b + 16, c->xs.ymmh[reg], 16);
    return y;
}

static void ymm_set(struct cpu *c, unsigned reg, const union ymm *y)
{
    memcpy(c->xs.xmm[reg], y->b, 16);
    memcpy(c->xs.ymmh[reg], y->b + 16, 16);
}

static bool mask_bit(const union ymm *mask, unsigned i, unsigned size)
{
    return mask->b[(i + 1) * size - 1] >> 7;
}

// --- MASKMOVQ, MASKMOVDQU -----------------------------------------------------------------------------------------------------

static void store_bytes(struct interp *x, const struct insn *in, const u8 *data, const u8 *mask, unsigned n)
{
    u64 off = x->c->gpr[X86_RDI] & size_mask(in->adsize);
    if (x->align_on && interp_linear(x, in->seg, off, 8, MMU_WRITE) & 7) // the first of two halves
        interp_raise_err(x, X86_EXC_AC, 0);
    interp_probe_store(x, in->seg, off, n);
    for (unsigned i = 0; i < n; i++)
        if (mask[i] & 0x80)
            interp_store_buf(x, in->seg, off + i, data + i, 1);
}

void op_maskmovq(struct interp *x, const struct insn *in)
{
    struct x86_xsave *xs = &x->c->xs;
    u8 data[8], mask[8];
    interp_fpu_check(x, in);
    unsigned top = xs->fsw >> 11 & 7; // MMn is physical register n
    memcpy(data, xs->st[(in->opnd[0].reg - top) & 7], 8);
    memcpy(mask, xs->st[(in->opnd[1].reg - top) & 7], 8);
    x87_enter_mmx(xs); // even when the store faults
    store_bytes(x, in, data, mask, 8);
}

void op_maskmovdqu(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    store_bytes(x, in, x->c->xs.xmm[in->opnd[0].reg], x->c->xs.xmm[in->opnd[1].reg], 16);
}

// --- VMASKMOV, VPMASKMOV --------------------------------------------------------------------------------------------------------

static unsigned element_size(const struct insn *in)
{
    return in->op == ISA_OP_VMASKMOVPS || in->op == ISA_OP_VPMASKMOVD ? 4 : 8;
}

static void masked_load(struct interp *x, const struct insn *in, const union ymm *mask, u64 ea)
{
    unsigned size = element_size(in);
    union ymm r = {{0}};
    for (unsigned i = 0; i < in->vl / size; i++)
        if (mask_bit(mask, i, size))
            interp_load_buf(x, in->seg, (ea + i * size) & size_mask(in->adsize), r.b + i * size, size);
    ymm_set(x->c, in->opnd[0].reg, &r);
}

static void masked_store(struct interp *x, const struct insn *in, const union ymm *mask, u64 ea)
{
    unsigned size = element_size(in);
    union ymm data = ymm_get(x->c, in->opnd[2].reg);
    for (unsigned i = 0; i < in->vl / size; i++)
        if (mask_bit(mask, i, size))
            interp_lin_probe(x, interp_linear(x, in->seg, (ea + i * size) & size_mask(in->adsize), size, MMU_WRITE),
                             size, MMU_WRITE, x->view);
    for (unsigned i = 0; i < in->vl / size; i++)
        if (mask_bit(mask, i, size))
            interp_store_buf(x, in->seg, (ea + i * size) & size_mask(in->adsize), data.b + i * size, size);
}

void op_vmaskmov(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    union ymm mask = ymm_get(x->c, in->opnd[1].reg);
    u64 ea = interp_ea(x, in);
    if (in->opnd[0].kind == ISA_OPND_MEM)
        masked_store(x, in, &mask, ea);
    else
        masked_load(x, in, &mask, ea);
}

// --- gathers ----------------------------------------------------------------------------------------------------------------------

static bool qword_index(const struct insn *in)
{
    return in->op == ISA_OP_VPGATHERQD || in->op == ISA_OP_VPGATHERQQ || in->op == ISA_OP_VGATHERQPS ||
           in->op == ISA_OP_VGATHERQPD;
}

// Element i, and the end of its mask element whether it was loaded or not. Returns whether it was.
static bool gather_element(struct interp *x, const struct insn *in, const union ymm *index, unsigned i)
{
    struct cpu *c = x->c;
    unsigned size = in->opnd[1].size, dst = in->opnd[0].reg;
    union ymm mask = ymm_get(c, in->vvvv), r = ymm_get(c, dst);
    u64 ix = qword_index(in) ? index->q[i] : (u64)(i64)(i32)index->d[i];
    u64 base = (u64)in->disp + (in->base == ISA_REG_NONE ? 0 : c->gpr[in->base]);
    bool load = mask_bit(&mask, i, size);
    if (load)
        interp_load_buf(x, in->seg, (base + (ix << in->scale)) & size_mask(in->adsize), r.b + i * size, size);
    memset(mask.b + i * size, 0, size);
    ymm_set(c, dst, &r);
    ymm_set(c, in->vvvv, &mask);
    return load;
}

// The same when a debug trap is due after what was loaded so far: instead of a fault the trap is taken, and the instruction goes
// on afterwards. Returns false for that. SDM 2C VGATHERDPS.
static bool gather_trapping(struct interp *x, const struct insn *in, const union ymm *index, unsigned i, bool *loaded)
{
    jmp_buf outer;
    memcpy(&outer, &x->fault, sizeof outer);
    if (setjmp(x->fault)) {
        memcpy(&x->fault, &outer, sizeof outer);
        if (!*loaded || !((x->c->rflags & X86_FL_TF) || x->dr6_trap || x->watch_hit))
            longjmp(x->fault, 1);
        x->next_rip = x->c->rip;
        return false;
    }
    *loaded |= gather_element(x, in, index, i);
    memcpy(&x->fault, &outer, sizeof outer);
    return true;
}

// Elements are done in order and each is committed at once, its mask element cleared, so that after a fault the instruction
// starts again with what is left. The upper halves are cleared when all are done.
void op_gather(struct interp *x, const struct insn *in)
{
    struct cpu *c = x->c;
    unsigned dst = in->opnd[0].reg, size = in->opnd[1].size;
    interp_fpu_check(x, in);
    union ymm index = ymm_get(c, in->index), zero = {{0}};
    unsigned n = in->vl / (qword_index(in) || size == 8 ? 8 : 4);
    bool traps = c->rflags & X86_FL_TF || x->debug_on, loaded = false;
    for (unsigned i = 0; i < n; i++) {
        if (UNLIKELY(traps)) {
            if (!gather_trapping(x, in, &index, i, &loaded))
                return;
        } else {
            gather_element(x, in, &index, i);
        }
    }
    union ymm r = ymm_get(c, dst);
    memset(r.b + n * size, 0, sizeof r - n * size);
    ymm_set(c, dst, &r);
    ymm_set(c, in->vvvv, &zero);
}

// --- clearing ---------------------------------------------------------------------------------------------------------------------

// Outside 64-bit mode there are eight registers to clear.
void op_vzeroupper(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    memset(x->c->xs.ymmh, 0, x->mode == ISA_MODE_64 ? 256 : 128);
}

void op_vzeroall(struct interp *x, const struct insn *in)
{
    interp_fpu_check(x, in);
    memset(x->c->xs.xmm, 0, x->mode == ISA_MODE_64 ? 256 : 128);
    memset(x->c->xs.ymmh, 0, x->mode == ISA_MODE_64 ? 256 : 128);
}
