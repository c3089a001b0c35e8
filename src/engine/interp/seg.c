// Segment descriptors and segment registers.
//
// Descriptors are read by linear address as implicit supervisor accesses. The accessed bit is set in memory with a locked
// operation on the descriptor's access byte only, so that a descriptor table may be shared between processors and may even
// be misaligned; a set bit is never written again. SDM 3A chapter 3 and 5, APM 2 chapter 4.
#include "engine/interp/xfer.h"

#define DESC_ACCESS_BYTE 5
#define REAL_MODE_LIMIT 0xffffu
#define ATTR_REAL 0x93u  // present, writable, accessed data
#define ATTR_V8086 0xf3u // the same at DPL 3

// --- fetching -------------------------------------------------------------------------------------------------------------

static bool table_entry(const struct cpu *c, u16 sel, unsigned size, gva *addr)
{
    u32 off = sel & 0xfff8u;
    u64 base = c->gdtr.base;
    u32 limit = c->gdtr.limit;
    if (sel & X86_SEL_TI) {
        const struct x86_seg *ldt = &c->seg[X86_LDTR];
        if (ldt->attr & X86_SEG_UNUSABLE)
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    if (off + size - 1 > limit)
        return false;
    *addr = xfer_lin(c, base + off);
    return true;
}

static void parse(struct descriptor *d, gva addr, u64 raw)
{
    u32 hi = (u32)(raw >> 32);
    u32 limit = (raw & 0xffff) | (hi & 0xf0000);
    d->raw = raw;
    d->addr = addr;
    d->base = ((raw >> 16) & 0xffffff) | (hi & 0xff000000u);
    d->attr = (hi >> 8) & 0xf0ff;
    d->limit = d->attr & X86_SEG_G ? limit << 12 | 0xfff : limit;
}

bool interp_fetch_desc(struct interp *x, u16 sel, struct descriptor *d)
{
    gva addr;
    if (xfer_null(sel) || !table_entry(x->c, sel, 8, &addr))
        return false;
    parse(d, addr, interp_sys_load(x, addr, 8));
    return true;
}

bool xfer_fetch_high(struct interp *x, u16 sel, struct descriptor *d)
{
    gva addr;
    if (!cpu_long_mode(x->c))
        return true;
    if (!table_entry(x->c, sel, 16, &addr))
        return false;
    u64 high = interp_sys_load(x, addr + 8, 8);
    if (high & 0x00001f0000000000ull)
        return false;
    d->base |= high << 32;
    return true;
}

void interp_desc_to_seg(const struct descriptor *d, u16 sel, struct x86_seg *s)
{
    s->sel = sel;
    s->base = d->base;
    s->limit = d->limit;
    s->attr = d->attr & X86_SEG_S ? d->attr | X86_SEG_A : d->attr;
}

// --- access byte ----------------------------------------------------------------------------------------------------------

void xfer_probe_bits(struct interp *x, gva desc)
{
    interp_lin_probe(x, xfer_lin(x->c, desc + DESC_ACCESS_BYTE), 1, MMU_WRITE, TLB_SUPER);
}

void xfer_desc_bits(struct interp *x, gva desc, u8 clear, u8 set)
{
    gva a = xfer_lin(x->c, desc + DESC_ACCESS_BYTE);
    hva host = tlb_write(&x->v->tlb, TLB_SUPER, a, 1);
    if (!host) {
        struct mmu_fault fault;
        gpa phys;
        if (!mmu_fill(x->v, a, MMU_WRITE, TLB_SUPER, &host, &phys, &fault))
            interp_raise_pf(x, &fault);
    }
    if (!host) {
        // A table in ROM or device memory: no locked access to be had, and none needed.
        u8 old = (u8)interp_sys_load(x, a, 1);
        interp_sys_store(x, a, 1, (u8)((old & ~clear) | set));
        return;
    }
    u8 *p = (u8 *)host;
    u8 old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, (u8)((old & ~clear) | set), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}

static bool needs_touch(const struct descriptor *d)
{
    return (d->attr & (X86_SEG_S | X86_SEG_A)) == X86_SEG_S;
}

void xfer_touch_probe(struct interp *x, const struct descriptor *d)
{
    if (needs_touch(d))
        xfer_probe_bits(x, d->addr);
}

void xfer_touch(struct interp *x, const struct descriptor *d)
{
    if (needs_touch(d))
        xfer_desc_bits(x, d->addr, 0, X86_SEG_A);
}

// --- null selectors -------------------------------------------------------------------------------------------------------

// Base and limit are cleared too, as on Intel and on AMD since Zen 2 (CPUID 8000_0021 NullSelectorClearsBase); older AMD
// processors left the base in place, which shows for FS and GS in 64-bit mode.
void xfer_set_null(struct interp *x, unsigned seg, u16 sel)
{
    x->c->seg[seg] = (struct x86_seg){.sel = sel, .attr = X86_SEG_UNUSABLE};
}

void xfer_set_ss_null(struct interp *x, u16 sel, unsigned cpl)
{
    xfer_set_null(x, X86_SS, sel);
    x->c->seg[X86_SS].attr |= cpl << X86_SEG_DPL_SHIFT;
}

// The return makes the register unusable and its selector null; unlike a load of a null selector it leaves the base, which 64-bit
// code goes on to use in FS and GS.
void xfer_drop_data_segs(struct interp *x, unsigned cpl)
{
    static const u8 regs[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(regs); i++) {
        struct x86_seg *s = &x->c->seg[regs[i]];
        if (s->attr & X86_SEG_UNUSABLE)
            continue;
        if (!desc_is_conforming(s->attr) && X86_SEG_DPL(s->attr) < cpl) {
            s->sel = 0;
            s->attr = X86_SEG_UNUSABLE;
        }
    }
}

// --- loads ----------------------------------------------------------------------------------------------------------------

void interp_load_seg_real(struct interp *x, unsigned seg, u16 sel)
{
    struct x86_seg *s = &x->c->seg[seg];
    s->sel = sel;
    s->base = (u64)sel << 4;
    if (cpu_v8086(x->c)) {
        s->limit = REAL_MODE_LIMIT;
        s->attr = ATTR_V8086;
        return;
    }
    // Limit and D/B stay as protected mode left them ("unreal" mode); access rights become usable again.
    if (s->attr & X86_SEG_UNUSABLE) {
        s->limit = REAL_MODE_LIMIT;
        s->attr = ATTR_REAL;
    } else if (seg == X86_CS) {
        s->attr = (s->attr & ~0xffu) | ATTR_REAL;
    }
}

static void load_ss(struct interp *x, u16 sel)
{
    struct cpu *c = x->c;
    unsigned rpl = sel & X86_SEL_RPL;
    struct descriptor d;
    if (xfer_null(sel)) {
        // APM 3 MOV asks for CPL < 3 only; SDM 2B MOV also for RPL = CPL.
        if (!cpu_64bit(c) || c->cpl == 3 || (!xfer_amd(x) && rpl != c->cpl))
            interp_gp0(x);
        xfer_set_ss_null(x, sel, c->cpl);
        return;
    }
    if (!interp_fetch_desc(x, sel, &d) || rpl != c->cpl || !desc_is_writable_data(d.attr) ||
        X86_SEG_DPL(d.attr) != c->cpl)
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
    if (!(d.attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_SS, xfer_err(sel));
    xfer_touch(x, &d);
    interp_desc_to_seg(&d, sel, &c->seg[X86_SS]);
}

static bool data_loadable(u32 attr)
{
    if (!(attr & X86_SEG_S))
        return false;
    return !(attr & X86_SEG_CODE) || (attr & X86_SEG_R);
}

void interp_load_seg(struct interp *x, unsigned seg, u16 sel)
{
    struct cpu *c = x->c;
    struct descriptor d;
    if (!cpu_pmode(c)) {
        interp_load_seg_real(x, seg, sel);
        return;
    }
    if (seg == X86_SS) {
        load_ss(x, sel);
        return;
    }
    if (xfer_null(sel)) {
        xfer_set_null(x, seg, sel);
        return;
    }
    if (!interp_fetch_desc(x, sel, &d) || !data_loadable(d.attr))
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
    unsigned dpl = X86_SEG_DPL(d.attr);
    if (!desc_is_conforming(d.attr) && ((sel & X86_SEL_RPL) > dpl || c->cpl > dpl))
        interp_raise_err(x, X86_EXC_GP, xfer_err(sel));
    if (!(d.attr & X86_SEG_P))
        interp_raise_err(x, X86_EXC_NP, xfer_err(sel));
    xfer_touch(x, &d);
    interp_desc_to_seg(&d, sel, &c->seg[seg]);
}

// --- code segments --------------------------------------------------------------------------------------------------------

void xfer_check_ip(struct interp *x, const struct descriptor *d, u64 rip)
{
    bool ok = desc_is_long(x, d->attr) ? gva_canonical(rip) : rip <= d->limit;
    if (!ok)
        interp_gp0(x);
}

void xfer_set_cs(struct interp *x, const struct descriptor *d, u16 sel, unsigned cpl, u64 rip)
{
    struct cpu *c = x->c;
    xfer_touch(x, d);
    interp_desc_to_seg(d, (u16)((sel & ~X86_SEL_RPL) | cpl), &c->seg[X86_CS]);
    c->cpl = (u8)cpl;
    x->next_rip = desc_is_long(x, d->attr) ? rip : (u32)rip;
}
