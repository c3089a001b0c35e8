// Page faults and IRET as they nearly always are, without the interpreter and without setting the vector state aside: 64-bit code
// goes to a handler at CPL 0 and comes back, through flat segments and a frame that lies in one page.
//
// Each function looks at everything first, in memory that the TLB has, and changes nothing until it knows that the event is as
// usual. (The x87's pointers go with CS, so that state is set aside.) Where it is not, or something is switched on that wants to see
// it, the interpreter does it all: its event.c and iret.c say what the steps are and why. Faults are its business, too.
#include "engine/bt/vecstate.h"

#define FLAT_CODE (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_A | X86_SEG_L)
#define FLAT_STACK (X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A)
#define GATE_WORDS 2
#define FRAME_WORDS 5 // RIP, CS, RFLAGS, RSP, SS

static bool nobody_looks(const struct bt *b)
{
    const struct interp *x = &b->in;
    return !(x->stop | x->debug_on | x->break_on | x->align_on | x->trace) && x->budget && cpu_64bit(x->c) &&
           !host_logs(x->v->machine->host, LOG_INT);
}

static void keep_x87(struct bt *b)
{
    if (UNLIKELY(b->ctx->vec & VEC_X87))
        vecstate_park(b);
}

static bool sys_words(const struct bt *b, gva a, unsigned n, u64 *to)
{
    hva h = tlb_read(&b->in.v->tlb, TLB_SUPER, a, n * 8);
    if (h)
        memcpy(to, (const void *)h, n * 8);
    return h != 0;
}

// The segment that a selector of the GDT loads, if it has the bits `want` of those in `of` and its privilege is that of the selector.
static bool usual_segment(const struct bt *b, u16 sel, u32 want, u32 of, struct x86_seg *s)
{
    const struct x86_dtable *t = &b->in.c->gdtr;
    u64 raw;
    if (sel & X86_SEL_TI || sel < 4 || (sel | 7u) > t->limit || !sys_words(b, t->base + (sel & 0xfff8u), 1, &raw))
        return false;
    u32 hi = (u32)(raw >> 32), limit = ((u32)raw & 0xffff) | (hi & 0xf0000);
    s->sel = sel;
    s->attr = hi >> 8 & 0xf0ff;
    s->base = (raw >> 16 & 0xffffff) | (hi & 0xff000000u);
    s->limit = s->attr & X86_SEG_G ? limit << 12 | 0xfff : limit;
    return (s->attr & of) == want && X86_SEG_DPL(s->attr) == (sel & X86_SEL_RPL);
}

static bool usual_code(const struct bt *b, u16 sel, struct x86_seg *s)
{
    return usual_segment(b, sel, FLAT_CODE, FLAT_CODE | X86_SEG_C | X86_SEG_DB, s);
}

// The stack pointer that the handler gets, or 0.
static u64 handler_stack(const struct bt *b, unsigned ist)
{
    const struct cpu *c = b->in.c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    u64 sp = c->gpr[X86_RSP];
    unsigned off = ist ? 28 + ist * 8 : 4;
    if ((ist || c->cpl) && (off + 7 > tr->limit || !sys_words(b, tr->base + off, 1, &sp)))
        return 0;
    return sp & ~15ull;
}

bool event_page_fault(struct bt *b, const struct mmu_fault *f)
{
    struct interp *x = &b->in;
    struct cpu *c = x->c;
    struct x86_seg cs;
    u64 gate[GATE_WORDS];
    const unsigned off = X86_EXC_PF * 16;
    if (!nobody_looks(b) || atomic_load_explicit(&x->v->request, memory_order_relaxed) || off + 15 > c->idtr.limit ||
        !sys_words(b, c->idtr.base + off, GATE_WORDS, gate))
        return false;
    u32 attr = (u32)(gate[0] >> 40) & 0xff, kind = attr & (X86_SEG_S | X86_SEG_TYPE);
    u64 rip = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000u) | gate[1] << 32;
    u16 sel = (u16)(gate[0] >> 16) & 0xfffcu;
    if ((kind != X86_SYS_INT && kind != X86_SYS_TRAP) || !(attr & X86_SEG_P) || !gva_canonical(rip) ||
        !usual_code(b, sel, &cs))
        return false;
    u64 top = handler_stack(b, gate[0] >> 32 & 7), sp = top - (FRAME_WORDS + 1) * 8;
    enum tlb_view view = c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
    u64 *frame = (u64 *)tlb_write(&x->v->tlb, view, sp, (FRAME_WORDS + 1) * 8);
    if (!top || !frame)
        return false;
    keep_x87(b);
    frame[0] = f->error;
    frame[1] = c->rip;
    frame[2] = c->seg[X86_CS].sel;
    frame[3] = c->rflags | X86_FL_RF;
    frame[4] = c->gpr[X86_RSP];
    frame[5] = c->seg[X86_SS].sel;
    c->event = (struct cpu_event){.vector = X86_EXC_PF, .has_error = true, .error = f->error, .cr2 = f->addr}; // over
    c->cr2 = f->addr;
    if (c->cpl) // to a null SS
        c->seg[X86_SS] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    c->seg[X86_CS] = cs;
    c->cpl = 0;
    c->gpr[X86_RSP] = sp;
    c->rip = rip;
    flags_set(c, X86_FL_TF | X86_FL_VM | X86_FL_RF | X86_FL_NT | (kind == X86_SYS_INT ? X86_FL_IF : 0), 0);
    interp_mode_changed(x);
    return true;
}

// Would going to CPL `to` make a data segment unusable?
static bool drops_segment(const struct cpu *c, unsigned to)
{
    static const u8 regs[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof regs; i++) {
        u32 attr = c->seg[regs[i]].attr;
        if (!(attr & X86_SEG_UNUSABLE) && X86_SEG_DPL(attr) < to)
            return true;
    }
    return false;
}

bool event_iret(struct bt *b)
{
    const u64 awkward = X86_FL_TF | X86_FL_NT | X86_FL_VM | X86_FL_VIF | X86_FL_VIP;
    const u64 mask = X86_FL_STATUS | X86_FL_DF | X86_FL_IF | X86_FL_IOPL | X86_FL_RF | X86_FL_AC | X86_FL_ID;
    struct interp *x = &b->in;
    struct cpu *c = x->c;
    struct x86_seg cs, ss;
    hva at = tlb_read(&x->v->tlb, x->view, c->gpr[X86_RSP], FRAME_WORDS * 8);
    u64 frame[FRAME_WORDS]; // once: another processor may be writing there
    if (!at || !nobody_looks(b) || c->cpl || c->nmi_blocked)
        return false;
    memcpy(frame, (const void *)at, sizeof frame);
    if ((c->rflags | frame[2]) & awkward)
        return false;
    u64 rip = frame[0], sp = frame[3], flags = frame[2];
    u16 cs_sel = (u16)frame[1], ss_sel = (u16)frame[4], cpl = cs_sel & X86_SEL_RPL;
    if (!gva_canonical(rip) || !usual_code(b, cs_sel, &cs) || drops_segment(c, cpl))
        return false;
    if (!ss_sel && !cpl)
        ss = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    else if ((ss_sel & X86_SEL_RPL) != cpl || !usual_segment(b, ss_sel, FLAT_STACK, FLAT_STACK | X86_SEG_CODE, &ss))
        return false;
    keep_x87(b);
    c->seg[X86_CS] = cs;
    c->seg[X86_SS] = ss;
    c->cpl = (u8)cpl;
    c->gpr[X86_RSP] = sp;
    c->rip = rip;
    flags_set(c, mask, flags);
    interp_mode_changed(x);
    return true;
}
