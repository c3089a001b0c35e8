// The same as event.c for 32-bit protected mode: exceptions, interrupts, IRET, SYSENTER and SYSEXIT between code and stacks that cover the
// 4 GiB, through 32-bit gates and, from another privilege, the 32-bit task state.
#include "engine/bt/event.h"

#define WORDS 3       // EIP, CS, EFLAGS ...
#define WORDS_OUTER 5 // ... ESP, SS

static bool is_usual_mode(const struct bt *b)
{
    const struct cpu *c = b->in.c;
    return b->in.mode == ISA_MODE_32 && !cpu_long_mode(c) && !cpu_v8086(c) && cpu_flat32(c);
}

static bool usual_gate(const struct bt *b, unsigned vector, struct usual_gate *g)
{
    const struct cpu *c = b->in.c;
    u64 raw;
    const unsigned off = vector * sizeof raw;
    if (off + sizeof raw - 1 > c->idtr.limit || !event_sys_words(b, c->idtr.base + off, 1, &raw) || !event_gate(raw, g))
        return false;
    return event_code32(b, (u16)(raw >> 16) & 0xfffcu, &g->cs);
}

// The stack that the handler gets.
static bool handler_stack(const struct bt *b, struct x86_seg *ss, u32 *sp)
{
    const struct cpu *c = b->in.c;
    const struct x86_seg *tr = &c->seg[X86_TR];
    u64 raw; // ESP0, SS0
    *ss = c->seg[X86_SS];
    *sp = (u32)c->gpr[X86_RSP];
    if (!c->cpl)
        return true;
    if (!(tr->attr & 8) || tr->limit < 11 || !event_sys_words(b, tr->base + 4, 1, &raw))
        return false;
    *sp = (u32)raw;
    return !(raw >> 32 & X86_SEL_RPL) && event_stack32(b, (u16)(raw >> 32), ss);
}

bool event32_deliver(struct bt *b, const struct cpu_event *ev)
{
    struct cpu *c = b->in.c;
    struct usual_gate g;
    struct x86_seg ss;
    u32 top;
    if (!is_usual_mode(b) || !usual_gate(b, ev->vector, &g) || (event_is_soft(ev) && g.dpl < c->cpl) ||
        event_more_is_due(b, g.clears) || !handler_stack(b, &ss, &top))
        return false;
    const unsigned size = ((c->cpl ? WORDS_OUTER : WORDS) + ev->has_error) * 4;
    u32 sp = top - size;
    enum tlb_view view = c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
    u32 *frame = (u32 *)tlb_write(&b->in.v->tlb, view, sp, size);
    if (!frame)
        return false;
    event_keep_x87(b);
    if (ev->has_error)
        *frame++ = ev->error;
    frame[0] = (u32)c->rip + (event_is_soft(ev) ? ev->insn_len : 0);
    frame[1] = c->seg[X86_CS].sel;
    frame[2] = (u32)event_flags_image(c, ev);
    if (c->cpl) {
        frame[3] = (u32)c->gpr[X86_RSP];
        frame[4] = c->seg[X86_SS].sel;
    }
    if (ev->type == CPU_EVENT_EXCEPTION && ev->vector == X86_EXC_PF)
        c->cr2 = ev->cr2;
    c->seg[X86_SS] = ss;
    event_enter(b, &g, sp);
    return true;
}

bool event32_iret(struct bt *b)
{
    const u64 awkward = X86_FL_TF | X86_FL_NT | X86_FL_VM | X86_FL_VIF | X86_FL_VIP;
    const u64 mask = X86_FL_STATUS | X86_FL_DF | X86_FL_IF | X86_FL_IOPL | X86_FL_RF | X86_FL_AC | X86_FL_ID;
    struct interp *x = &b->in;
    struct cpu *c = x->c;
    struct x86_seg cs, ss = c->seg[X86_SS];
    u32 frame[WORDS_OUTER], sp = (u32)c->gpr[X86_RSP]; // once: another processor may be writing there
    hva at = tlb_read(&x->v->tlb, x->view, sp, WORDS * 4);
    if (!at || !event_unseen(b) || !is_usual_mode(b) || c->cpl || c->nmi_blocked)
        return false;
    memcpy(frame, (const void *)at, WORDS * 4);
    u16 cs_sel = (u16)frame[1], cpl = cs_sel & X86_SEL_RPL;
    if ((c->rflags | frame[2]) & awkward || !event_code32(b, cs_sel, &cs))
        return false;
    sp += WORDS * 4;
    if (cpl) {
        at = tlb_read(&x->v->tlb, x->view, sp, (WORDS_OUTER - WORDS) * 4);
        if (!at)
            return false;
        memcpy(frame + WORDS, (const void *)at, (WORDS_OUTER - WORDS) * 4);
        u16 ss_sel = (u16)frame[4];
        sp = frame[3];
        if ((ss_sel & X86_SEL_RPL) != cpl || !event_stack32(b, ss_sel, &ss) || event_drops_segment(c, cpl))
            return false;
    }
    c->rip = frame[0];
    flags_set(c, mask, frame[2]);
    event_return(b, &cs, &ss, cpl, sp);
    return true;
}

// --- SYSENTER, SYSEXIT ----------------------------------------------------------------------------------------------------------

static struct x86_seg flat(u32 sel, u32 type, unsigned cpl)
{
    u32 attr = X86_SEG_P | X86_SEG_S | X86_SEG_A | X86_SEG_G | X86_SEG_DB | type | cpl << X86_SEG_DPL_SHIFT;
    return (struct x86_seg){.sel = (u16)(sel | cpl), .attr = attr, .limit = ~0u};
}

static void use_flat(struct bt *b, u32 sel, unsigned cpl)
{
    struct cpu *c = b->in.c;
    event_keep_x87(b);
    c->seg[X86_CS] = flat(sel, X86_SEG_CODE | X86_SEG_R, cpl);
    c->seg[X86_SS] = flat(sel + 8, X86_SEG_W, cpl);
    c->cpl = (u8)cpl;
    interp_mode_changed(&b->in);
}

bool event_sysenter(struct bt *b)
{
    struct cpu *c = b->in.c;
    u32 sel = (u32)c->msr.sysenter_cs & 0xfffc;
    if (!event_unseen(b) || !is_usual_mode(b) || !sel)
        return false;
    flags_set(c, X86_FL_VM | X86_FL_IF | X86_FL_RF, 0);
    c->gpr[X86_RSP] = (u32)c->msr.sysenter_esp;
    c->rip = (u32)c->msr.sysenter_eip;
    use_flat(b, sel, 0);
    return true;
}

bool event_sysexit(struct bt *b)
{
    struct cpu *c = b->in.c;
    u32 sel = (u32)c->msr.sysenter_cs & 0xfffc;
    if (!event_unseen(b) || !is_usual_mode(b) || !sel || c->cpl)
        return false;
    c->rip = (u32)c->gpr[X86_RDX];
    c->gpr[X86_RSP] = (u32)c->gpr[X86_RCX];
    flags_set(c, X86_FL_RF, 0);
    use_flat(b, sel + 16, 3);
    return true;
}
