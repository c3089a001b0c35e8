// Exceptions, interrupts and IRET as they nearly always are, without the interpreter and without setting the vector state aside: 64-bit
// code goes to a handler at CPL 0 and comes back, through flat segments and a frame that lies in one page.
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

// A gate of the IDT that leads where gates usually lead.
struct usual_gate {
    u64 rip;
    struct x86_seg cs;
    u8 ist, dpl;
    u32 clears; // flags
};

static bool usual_gate(const struct bt *b, unsigned vector, struct usual_gate *g)
{
    const struct cpu *c = b->in.c;
    u64 raw[GATE_WORDS];
    const unsigned off = vector * sizeof raw;
    if (off + sizeof raw - 1 > c->idtr.limit || !sys_words(b, c->idtr.base + off, GATE_WORDS, raw))
        return false;
    u32 attr = (u32)(raw[0] >> 40) & 0xff, kind = attr & (X86_SEG_S | X86_SEG_TYPE);
    g->rip = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000u) | raw[1] << 32;
    g->ist = raw[0] >> 32 & 7;
    g->dpl = X86_SEG_DPL(attr);
    g->clears = X86_FL_TF | X86_FL_VM | X86_FL_RF | X86_FL_NT | (kind == X86_SYS_INT ? X86_FL_IF : 0);
    return (kind == X86_SYS_INT || kind == X86_SYS_TRAP) && attr & X86_SEG_P && gva_canonical(g->rip) &&
           usual_code(b, (u16)(raw[0] >> 16) & 0xfffcu, &g->cs);
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

// Would something else be due before the handler's first instruction?
static bool more_is_due(const struct bt *b, u32 clears)
{
    u32 req = atomic_load_explicit(&b->in.v->request, memory_order_relaxed);
    bool masked = !(b->in.c->rflags & ~(u64)clears & X86_FL_IF);
    return req & ~(masked ? VCPU_REQ_INTR : 0);
}

static bool is_soft(const struct cpu_event *ev)
{
    return ev->type == CPU_EVENT_SOFT_INT || ev->type == CPU_EVENT_SOFT_EXC;
}

// RF as the handler will find it: set by faults, cleared by instructions that ask for the event.
static u64 flags_image(const struct cpu *c, const struct cpu_event *ev)
{
    if (is_soft(ev))
        return c->rflags & ~(u64)X86_FL_RF;
    return ev->type == CPU_EVENT_EXCEPTION ? c->rflags | X86_FL_RF : c->rflags;
}

static void enter_handler(struct bt *b, const struct usual_gate *g, u64 sp)
{
    struct cpu *c = b->in.c;
    if (c->cpl) // to a null SS
        c->seg[X86_SS] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    c->seg[X86_CS] = g->cs;
    c->cpl = 0;
    c->gpr[X86_RSP] = sp;
    c->rip = g->rip;
    c->shadow = 0;
    flags_set(c, g->clears, 0);
    b->in.resume_rf = false;
    interp_mode_changed(&b->in);
}

static bool deliver(struct bt *b, const struct cpu_event *ev)
{
    struct cpu *c = b->in.c;
    struct usual_gate g;
    if (!nobody_looks(b) || !usual_gate(b, ev->vector, &g) || (is_soft(ev) && g.dpl < c->cpl) ||
        more_is_due(b, g.clears))
        return false;
    const unsigned size = (FRAME_WORDS + ev->has_error) * 8;
    u64 top = handler_stack(b, g.ist), sp = top - size;
    enum tlb_view view = c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
    u64 *frame = (u64 *)tlb_write(&b->in.v->tlb, view, sp, size);
    if (!top || !frame)
        return false;
    keep_x87(b);
    if (ev->has_error)
        *frame++ = ev->error;
    frame[0] = c->rip + (is_soft(ev) ? ev->insn_len : 0);
    frame[1] = c->seg[X86_CS].sel;
    frame[2] = flags_image(c, ev);
    frame[3] = c->gpr[X86_RSP];
    frame[4] = c->seg[X86_SS].sel;
    if (ev->type == CPU_EVENT_EXCEPTION && ev->vector == X86_EXC_PF)
        c->cr2 = ev->cr2;
    enter_handler(b, &g, sp);
    return true;
}

bool event_fault(struct bt *b, const struct cpu_event *ev)
{
    struct cpu *c = b->in.c;
    bool done = deliver(b, ev);
    c->event = *ev;
    if (done)
        c->event.type = CPU_EVENT_NONE;
    return done;
}

bool event_soft(struct bt *b, enum cpu_event_type type, unsigned vector, unsigned len)
{
    return deliver(b, &(struct cpu_event){.type = (u8)type, .vector = (u8)vector, .insn_len = (u8)len});
}

// Faults, whose frame shows what comes before the instruction. (Debug exceptions do more; NMIs, double faults and machine checks are rare.)
static bool is_fault(const struct cpu_event *ev)
{
    const u32 others = 1u << X86_EXC_DB | 1u << X86_EXC_NMI | 1u << X86_EXC_BP | 1u << X86_EXC_OF | 1u << X86_EXC_DF |
                       1u << X86_EXC_MC;
    return ev->type == CPU_EVENT_EXCEPTION && ev->vector < 32 && !(others >> ev->vector & 1);
}

// Make the external interrupt that is due the pending event, as the interpreter does.
static void take_interrupt(struct bt *b)
{
    struct vcpu *v = b->in.v;
    struct cpu *c = b->in.c;
    int vector;
    if (atomic_load_explicit(&v->request, memory_order_acquire) != VCPU_REQ_INTR || !(c->rflags & X86_FL_IF) ||
        c->shadow || c->nmi_pending || !v->intc.ack || !nobody_looks(b))
        return;
    vector = v->intc.ack(v->intc.intc);
    if (vector >= 0)
        c->event = (struct cpu_event){.type = CPU_EVENT_EXTERNAL, .vector = (u8)vector};
}

void event_pending(struct bt *b)
{
    struct cpu *c = b->in.c;
    if (c->activity != CPU_RUNNING)
        return;
    if (c->event.type == CPU_EVENT_NONE)
        take_interrupt(b);
    bool external = c->event.type == CPU_EVENT_EXTERNAL;
    if ((!external && !is_fault(&c->event)) || !deliver(b, &c->event))
        return;
    c->event.type = CPU_EVENT_NONE;
    if (external)
        b->stats.interrupts++;
    else
        b->stats.exceptions++;
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
