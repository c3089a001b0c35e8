// System instructions that need C, but neither the interpreter nor more than the registers that C destroys: MSRs, CPUID, and what changes or
// invalidates the TLB.
//
// Translated code puts what the instruction needs beyond RAX, RCX and RDX into ctx.tmp and calls service_light() by way of the glue. Each
// function here checks first and changes nothing where it says LIGHT_NOT: faults and whatever is unusual are the interpreter's. The block
// goes on behind the instruction when its code is sure to be mapped where it was; the execution key tells.
#include <string.h>

#include "core/msr.h"
#include "engine/bt/event.h"
#include "engine/interp/simd.h"

enum light {
    LIGHT_NOT,  // for the interpreter; nothing has changed
    LIGHT_DONE, // on behind it
    LIGHT_LEAVE // done, but something may be due now, or the code be elsewhere
};

// --- CPUID --------------------------------------------------------------------------------------------------------------------

// What the answers follow from apart from leaf and subleaf.
static struct bt_cpuid_state cpuid_state(const struct cpu *c)
{
    return (struct bt_cpuid_state){.cr4 = c->cr4,
                                   .xcr0 = c->xcr0,
                                   .xss = c->msr.xss,
                                   .apic_base = c->msr.apic_base,
                                   .misc_enable = c->msr.misc_enable,
                                   .wide = cpu_64bit(c)};
}

static bool same_state(const struct bt_cpuid_state *a, const struct bt_cpuid_state *b)
{
    return a->cr4 == b->cr4 && a->xcr0 == b->xcr0 && a->xss == b->xss && a->apic_base == b->apic_base &&
           a->misc_enable == b->misc_enable && a->wide == b->wide;
}

static const struct cpuid_regs *cpuid(struct bt *b, u32 leaf, u32 subleaf)
{
    struct bt_cpuid_state now = cpuid_state(b->in.c);
    struct bt_cpuid *k = &b->cpuid[(leaf ^ leaf >> 28 ^ subleaf << 3) % BT_CPUIDS];
    if (!k->valid || k->leaf != leaf || k->subleaf != subleaf || !same_state(&k->state, &now)) {
        vecstate_park(b);
        *k = (struct bt_cpuid){
            .valid = true, .leaf = leaf, .subleaf = subleaf, .state = now, .regs = cpuid_guest(b->in.v, leaf, subleaf)};
    }
    return &k->regs;
}

// RBX goes by way of ctx.tmp[0] where the block goes on.
static enum light light_cpuid(struct bt *b)
{
    u64 *gpr = b->in.c->gpr;
    const struct cpuid_regs *r = cpuid(b, (u32)gpr[X86_RAX], (u32)gpr[X86_RCX]);
    gpr[X86_RAX] = r->eax;
    b->ctx->tmp[0] = gpr[X86_RBX] = r->ebx;
    gpr[X86_RCX] = r->ecx;
    gpr[X86_RDX] = r->edx;
    return LIGHT_DONE;
}

// --- MSRs ---------------------------------------------------------------------------------------------------------------------

// Registers that hold a canonical address, or NULL.
static u64 *address_msr(struct cpu *c, u32 index)
{
    switch (index) {
    case X86_MSR_FS_BASE: return &c->seg[X86_FS].base;
    case X86_MSR_GS_BASE: return &c->seg[X86_GS].base;
    case X86_MSR_KERNEL_GS_BASE: return &c->msr.kernel_gs_base;
    case X86_MSR_LSTAR: return &c->msr.lstar;
    default: return NULL;
    }
}

// Does the local APIC answer? Its registers are of one kind: nothing about translated code depends on them.
static bool is_apic(u32 index)
{
    return index == X86_MSR_TSC_DEADLINE || (index >= X86_MSR_X2APIC_FIRST && index <= X86_MSR_X2APIC_FIRST + 0xff);
}

// Time and devices want to know exactly how many instructions have been run, where those are counted.
static bool read_msr(struct bt *b, u32 index, u64 *val)
{
    struct cpu *c = b->in.c;
    const u64 *reg = cpu_long_mode(c) ? address_msr(c, index) : NULL;
    if (reg) {
        *val = *reg;
        return true;
    }
    if (b->counting)
        return false;
    vecstate_park(b);
    return msr_read(b->in.v, index, val);
}

static enum light light_rdmsr(struct bt *b)
{
    u64 val, *gpr = b->in.c->gpr;
    if (b->in.c->cpl || !read_msr(b, (u32)gpr[X86_RCX], &val))
        return LIGHT_NOT;
    gpr[X86_RAX] = (u32)val;
    gpr[X86_RDX] = val >> 32;
    return b->counting || bt_undisturbed(b) ? LIGHT_DONE : LIGHT_LEAVE;
}

static enum light light_wrmsr(struct bt *b)
{
    struct cpu *c = b->in.c;
    const u64 *gpr = c->gpr;
    u32 index = (u32)gpr[X86_RCX];
    u64 val = gpr[X86_RDX] << 32 | (u32)gpr[X86_RAX];
    u64 *reg = address_msr(c, index);
    if (c->cpl)
        return LIGHT_NOT;
    if (reg && cpu_long_mode(c)) {
        if (!gva_canonical(val))
            return LIGHT_NOT;
        *reg = val;
        b->ctx->seg_base[0] = c->seg[X86_FS].base;
        b->ctx->seg_base[1] = c->seg[X86_GS].base;
        return LIGHT_DONE;
    }
    bool plain = is_apic(index) || index == X86_MSR_SPEC_CTRL || index == X86_MSR_PRED_CMD;
    if (b->counting || !plain)
        return LIGHT_NOT;
    vecstate_park(b);
    if (!msr_write(b->in.v, index, val))
        return LIGHT_NOT;
    return bt_undisturbed(b) ? LIGHT_DONE : LIGHT_LEAVE;
}

// --- control registers, invalidation ------------------------------------------------------------------------------------------

// The TLB is another one, or has lost entries.
static enum light mappings_changed(struct bt *b)
{
    struct bt_ctx *k = b->ctx;
    bool user = bt_mode_user(b->mode);
    u64 key = bt_key(b, user);
    b->in.view = mmu_view(b->in.c);
    bt_take_views(b);
    bt_take_keys(b);
    bt_set_gs(b);
    return bt_key(b, user) == key && !atomic_load_explicit(&k->doorbell, memory_order_relaxed) ? LIGHT_DONE
                                                                                               : LIGHT_LEAVE;
}

static enum light light_cr3(struct bt *b, u64 val)
{
    return mmu_write_cr3(b->in.v, val) ? mappings_changed(b) : LIGHT_NOT;
}

static enum light light_cr8(struct bt *b, u64 val)
{
    const struct vcpu_intc *intc = &b->in.v->intc;
    if (val & ~15ull || b->counting)
        return LIGHT_NOT;
    vecstate_park(b);
    b->in.c->cr8 = val;
    if (intc->cr8_written)
        intc->cr8_written(intc->intc);
    return bt_undisturbed(b) ? LIGHT_DONE : LIGHT_LEAVE;
}

// ctx.tmp[0]: the value.
static enum light light_mov_cr(struct bt *b, const struct bt_site *s)
{
    const struct bt_call *call = bt_call_of(s);
    if (b->in.c->cpl || !call)
        return LIGHT_NOT;
    switch (call->in.opnd[0].reg) {
    case 3: return light_cr3(b, b->ctx->tmp[0]);
    case 8: return light_cr8(b, b->ctx->tmp[0]);
    default: return LIGHT_NOT;
    }
}

// ctx.tmp[0]: the address.
static enum light light_invlpg(struct bt *b)
{
    gva a = b->ctx->tmp[0];
    if (b->in.c->cpl)
        return LIGHT_NOT;
    if (!gva_canonical(a))
        return LIGHT_DONE;
    mmu_invlpg(b->in.v, a);
    return mappings_changed(b);
}

// ctx.tmp: the descriptor, and the type.
static enum light light_invpcid(struct bt *b)
{
    const u64 *desc = b->ctx->tmp;
    return !b->in.c->cpl && mmu_invpcid(b->in.v, desc[2], desc) ? mappings_changed(b) : LIGHT_NOT;
}

// --- segments -----------------------------------------------------------------------------------------------------------------

// The data segment that a selector loads as it nearly always is: from the GDT, accessed before, allowed; or none.
static bool data_segment(const struct bt *b, u16 sel, struct x86_seg *s)
{
    const u32 want = X86_SEG_P | X86_SEG_S | X86_SEG_A;
    if (sel < 4) {
        *s = (struct x86_seg){.sel = sel, .attr = X86_SEG_UNUSABLE};
        return true;
    }
    return event_segment(b, sel, want, want | X86_SEG_CODE, s) && X86_SEG_DPL(s->attr) >= b->in.c->cpl;
}

// MOV and POP of DS, ES, FS, GS. ctx.tmp[0]: the selector, or where it is. Outside 64-bit mode DS and ES stay what blocks rely on.
static enum light light_segment(struct bt *b, const struct bt_site *s)
{
    const struct bt_call *call = bt_call_of(s);
    u64 sel = b->ctx->tmp[0];
    struct x86_seg new;
    if (!call)
        return LIGHT_NOT;
    if (s->op == ISA_OP_POP) {
        hva h = tlb_read(&b->in.v->tlb, mmu_view(b->in.c), sel, call->in.opsize);
        if (!h)
            return LIGHT_NOT;
        sel = mem_host_load((const void *)h, 2);
    }
    unsigned reg = call->in.opnd[0].reg;
    bool flat = bt_mode_64(b->mode) || reg == X86_FS || reg == X86_GS;
    if (!data_segment(b, (u16)sel, &new) || (!flat && (new.base || new.limit != ~0u || new.attr &X86_SEG_E ||
                                                       !(new.attr &X86_SEG_W) || new.attr &X86_SEG_UNUSABLE)))
        return LIGHT_NOT;
    event_keep_x87(b); // it has the selector of its last operand
    b->in.c->seg[reg] = new;
    bt_take_segments(b);
    return LIGHT_DONE;
}

// --- vector state -------------------------------------------------------------------------------------------------------------

// XSAVEC, XSAVES, XRSTOR and XRSTORS of the compacted format, to and from an area in one page that the TLB has. ctx.tmp[0]: its address.
static enum light light_xstate(struct bt *b, const struct bt_site *s)
{
    struct interp *x = &b->in;
    const struct cpu *c = x->c;
    const struct bt_call *call = bt_call_of(s);
    bool supervisor = s->op == ISA_OP_XSAVES || s->op == ISA_OP_XRSTORS;
    u64 allowed = c->xcr0 | (supervisor ? c->msr.xss : 0);
    u64 rfbm = ((u32)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32) & allowed;
    gva a = b->ctx->tmp[0];
    const unsigned size = sizeof c->xs;
    if (!call || !(c->cr4 & X86_CR4_OSXSAVE) || c->cr0 & X86_CR0_TS || (supervisor && c->cpl) || a & 63)
        return LIGHT_NOT;
    x->view = mmu_view(c);
    bool save = s->op == ISA_OP_XSAVES || s->op == ISA_OP_XSAVEC;
    hva h = save ? tlb_write(&x->v->tlb, x->view, a, size) : tlb_read(&x->v->tlb, x->view, a, size);
    if (!h)
        return LIGHT_NOT;
    vecstate_park(b);
    if (save)
        simd_store_compact(x, &call->in, rfbm, (u8 *)h);
    else if (!simd_load_compact(x, &call->in, rfbm, allowed, (const u8 *)h))
        return LIGHT_NOT;
    return LIGHT_DONE;
}

// --- filling pages with code --------------------------------------------------------------------------------------------------

// The repeated STOS at a site in `k`; false: it is none.
static bool repeated_stos(const struct bt *b, const struct bt_block *k, const struct bt_site *s, struct insn *in)
{
    return !k->second &&
           isa_decode((const u8 *)(k->page + s->off), s->len, b->mode & 3, b->in.isa_options, in) == ISA_OK &&
           in->op == ISA_OP_STOS && isa_is_repeated(in);
}

void service_fill(struct bt *b, const struct bt_site *s)
{
    const struct bt_block *k = bt_site_block(s);
    struct mem *m = &b->in.v->machine->mem;
    struct cpu *c = b->in.c;
    struct mmu_fault f;
    struct insn in;
    hva host;
    gpa phys;
    gva a = b->ctx->addr;
    if (s->op != ISA_OP_STOS)
        return;
    vecstate_park(b);
    if (!repeated_stos(b, k, s, &in) || !mmu_fill(b->in.v, a, MMU_WRITE, b->in.view, &host, &phys, &f) || host)
        return;
    u64 n = gpr_get(c, X86_RCX, in.adsize), room = (4096 - (a & 4095)) / s->size;
    n = n < room ? n : room;
    const u8 *now = n > 1 ? mem_ptr(m, phys, (n - 1) * s->size, true) : NULL;
    if (!now || ((u64)now & ~4095ull) == k->page)
        return;
    u8 *to = mem_write_ptr(m, phys, --n * s->size);
    for (u64 i = 0; i < n * s->size; i += s->size)
        mem_host_store(to + i, s->size, c->gpr[X86_RAX]);
    mem_written(m, phys, n * s->size);
    gpr_set(c, X86_RCX, in.adsize, c->gpr[X86_RCX] - n);
    gpr_set(c, X86_RDI, in.adsize, c->gpr[X86_RDI] + n * s->size);
}

static enum light run(struct bt *b, const struct bt_site *s)
{
    switch (s->op) {
    case ISA_OP_CPUID: return light_cpuid(b);
    case ISA_OP_RDMSR: return light_rdmsr(b);
    case ISA_OP_WRMSR: return light_wrmsr(b);
    case ISA_OP_MOV_CR: return light_mov_cr(b, s);
    case ISA_OP_INVLPG: return light_invlpg(b);
    case ISA_OP_INVPCID: return light_invpcid(b);
    case ISA_OP_MOV:
    case ISA_OP_POP: return light_segment(b, s);
    case ISA_OP_XSAVEC:
    case ISA_OP_XSAVES:
    case ISA_OP_XRSTOR:
    case ISA_OP_XRSTORS: return light_xstate(b, s);
    default: return LIGHT_NOT;
    }
}

u64 service_light(struct bt *b)
{
    const struct bt_site *s = bt_near(b, (u32)b->ctx->site);
    enum light r = run(b, s);
    // Most of these serialize: code behind them that a device or another processor has written is seen.
    if (r == LIGHT_DONE && keeper_pending(b->in.v))
        r = LIGHT_LEAVE;
    b->ctx->why = r == LIGHT_LEAVE ? BT_AFTER : BT_STEP;
    b->stats.light += r != LIGHT_NOT;
    return r == LIGHT_DONE ? bt_exec(b, bt_site_block(s)->code + s->retry) : 0;
}
