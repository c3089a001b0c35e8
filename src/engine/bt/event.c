// Exceptions, interrupts and IRET as they nearly always are, without the interpreter and without setting the vector state aside: code goes
// to a 64-bit handler at CPL 0 and comes back, through flat segments and a frame that lies in one page. (32-bit handlers: event32.c.)
//
// Each function looks at everything first, in memory that the TLB has, and changes nothing until it knows that the event is as
// usual. (The x87's pointers go with CS, so that state is set aside.) Where it is not, or something is switched on that wants to see
// it, the interpreter does it all: its event.c and iret.c say what the steps are and why. Faults are its business, too.
#include "engine/bt/event.h"

#define GATE_WORDS 2
#define FRAME_WORDS 5 // RIP, CS, RFLAGS, RSP, SS

bool event_unseen(const struct bt *b)
{
    const struct interp *x = &b->in;
    return !(x->stop | x->debug_on | x->break_on | x->align_on | x->trace) && x->budget &&
           !host_logs(x->v->machine->host, LOG_INT);
}

static bool usual_code(const struct bt *b, u16 sel, struct x86_seg *s)
{
    const u32 want = EVENT_CODE | X86_SEG_L;
    return event_segment(b, sel, want, want | X86_SEG_C | X86_SEG_DB, s);
}

static bool usual_gate(const struct bt *b, unsigned vector, struct usual_gate *g)
{
    const struct cpu *c = b->in.c;
    u64 raw[GATE_WORDS];
    const unsigned off = vector * sizeof raw;
    if (off + sizeof raw - 1 > c->idtr.limit || !event_sys_words(b, c->idtr.base + off, GATE_WORDS, raw) ||
        !event_gate(raw[0], g))
        return false;
    g->rip |= raw[1] << 32;
    return gva_canonical(g->rip) && usual_code(b, (u16)(raw[0] >> 16) & 0xfffcu, &g->cs);
}

// The stack pointer that the handler gets, or 0.
static u64 handler_stack(const struct bt *b, unsigned ist)
{
    const struct cpu *c = b->in.c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    u64 sp = c->gpr[X86_RSP];
    unsigned off = ist ? 28 + ist * 8 : 4;
    if ((ist || c->cpl) && (off + 7 > tr->limit || !event_sys_words(b, tr->base + off, 1, &sp)))
        return 0;
    return sp & ~15ull;
}

bool event_more_is_due(const struct bt *b, u32 clears)
{
    u32 req = atomic_load_explicit(&b->in.v->request, memory_order_relaxed);
    bool masked = !(b->in.c->rflags & ~(u64)clears & X86_FL_IF);
    return req & ~(masked ? VCPU_REQ_INTR : 0);
}

// RF as the handler will find it: set by faults, cleared by instructions that ask for the event.
u64 event_flags_image(const struct cpu *c, const struct cpu_event *ev)
{
    if (event_is_soft(ev))
        return c->rflags & ~(u64)X86_FL_RF;
    return ev->type == CPU_EVENT_EXCEPTION ? c->rflags | X86_FL_RF : c->rflags;
}

void event_enter(struct bt *b, const struct usual_gate *g, u64 sp)
{
    struct cpu *c = b->in.c;
    c->seg[X86_CS] = g->cs;
    c->cpl = 0;
    c->gpr[X86_RSP] = sp;
    c->rip = g->rip;
    c->shadow = 0;
    flags_set(c, g->clears, 0);
    b->in.resume_rf = false;
    interp_mode_changed(&b->in);
}

static bool deliver_long(struct bt *b, const struct cpu_event *ev)
{
    struct cpu *c = b->in.c;
    struct usual_gate g;
    if (!usual_gate(b, ev->vector, &g) || (event_is_soft(ev) && g.dpl < c->cpl) || event_more_is_due(b, g.clears))
        return false;
    const unsigned size = (FRAME_WORDS + ev->has_error) * 8;
    u64 top = handler_stack(b, g.ist), sp = top - size;
    enum tlb_view view = c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
    u64 *frame = (u64 *)tlb_write(&b->in.v->tlb, view, sp, size);
    if (!top || !frame)
        return false;
    event_keep_x87(b);
    if (ev->has_error)
        *frame++ = ev->error;
    u64 ret = c->rip + (event_is_soft(ev) ? ev->insn_len : 0);
    frame[0] = cpu_64bit(c) ? ret : (u32)ret;
    frame[1] = c->seg[X86_CS].sel;
    frame[2] = event_flags_image(c, ev);
    frame[3] = c->gpr[X86_RSP];
    frame[4] = c->seg[X86_SS].sel;
    if (ev->type == CPU_EVENT_EXCEPTION && ev->vector == X86_EXC_PF)
        c->cr2 = ev->cr2;
    if (c->cpl) // to a null SS
        c->seg[X86_SS] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    event_enter(b, &g, sp);
    return true;
}

static bool deliver(struct bt *b, const struct cpu_event *ev)
{
    return event_unseen(b) && (cpu_long_mode(b->in.c) ? deliver_long(b, ev) : event32_deliver(b, ev));
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
        c->shadow || c->nmi_pending || !v->intc.ack || !event_unseen(b))
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

bool event_drops_segment(const struct cpu *c, unsigned to)
{
    static const u8 regs[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof regs; i++) {
        u32 attr = c->seg[regs[i]].attr;
        if (!(attr & X86_SEG_UNUSABLE) && X86_SEG_DPL(attr) < to)
            return true;
    }
    return false;
}

// Code and stack of 64 bits, or both of 32.
static bool usual_target(const struct bt *b, const u64 *frame, struct x86_seg *cs, struct x86_seg *ss)
{
    u16 cs_sel = (u16)frame[1], ss_sel = (u16)frame[4], cpl = cs_sel & X86_SEL_RPL;
    if (ss_sel && (ss_sel & X86_SEL_RPL) != cpl)
        return false;
    if (!usual_code(b, cs_sel, cs))
        return !((frame[0] | frame[3]) >> 32) && event_code32(b, cs_sel, cs) && event_stack32(b, ss_sel, ss);
    if (!ss_sel && !cpl) {
        *ss = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
        return true;
    }
    return event_segment(b, ss_sel, EVENT_STACK, EVENT_STACK | X86_SEG_CODE, ss);
}

static bool iret_long(struct bt *b)
{
    const u64 awkward = X86_FL_TF | X86_FL_NT | X86_FL_VM | X86_FL_VIF | X86_FL_VIP;
    const u64 mask = X86_FL_STATUS | X86_FL_DF | X86_FL_IF | X86_FL_IOPL | X86_FL_RF | X86_FL_AC | X86_FL_ID;
    struct interp *x = &b->in;
    struct cpu *c = x->c;
    struct x86_seg cs, ss;
    hva at = tlb_read(&x->v->tlb, x->view, c->gpr[X86_RSP], FRAME_WORDS * 8);
    u64 frame[FRAME_WORDS]; // once: another processor may be writing there
    if (!at || !event_unseen(b) || c->cpl || c->nmi_blocked)
        return false;
    memcpy(frame, (const void *)at, sizeof frame);
    if ((c->rflags | frame[2]) & awkward)
        return false;
    u64 rip = frame[0], sp = frame[3], flags = frame[2];
    u16 cpl = (u16)frame[1] & X86_SEL_RPL;
    if (!gva_canonical(rip) || !usual_target(b, frame, &cs, &ss) || event_drops_segment(c, cpl))
        return false;
    c->rip = rip;
    flags_set(c, mask, flags);
    event_return(b, &cs, &ss, cpl, sp);
    return true;
}

bool event_iret(struct bt *b, unsigned opsize)
{
    if (opsize == 8)
        return cpu_64bit(b->in.c) && iret_long(b);
    return opsize == 4 && event32_iret(b);
}
