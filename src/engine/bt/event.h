// What event.c and event32.c share. Segments are found inline: a segment that is stored field by field and then read as a whole costs the
// processor more than finding it.
#ifndef POGO_ENGINE_BT_EVENT_H
#define POGO_ENGINE_BT_EVENT_H

#include "engine/bt/vecstate.h"

#define EVENT_CODE (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_A)
#define EVENT_STACK (X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A)

// A gate of the IDT that leads where gates usually lead.
struct usual_gate {
    u64 rip;
    struct x86_seg cs;
    u8 ist, dpl;
    u32 clears; // flags
};

// Nothing is switched on that wants to see events.
bool event_unseen(const struct bt *b);
// `n` words of 8 bytes that only the processor reads.
static inline bool event_sys_words(const struct bt *b, gva a, unsigned n, u64 *to)
{
    hva h = tlb_read(&b->in.v->tlb, TLB_SUPER, a, n * 8);
    for (unsigned i = 0; i < n && h; i++)
        to[i] = mem_host_load((const u8 *)h + 8ull * i, 8);
    return h != 0;
}

// The segment that a selector of the GDT loads, if it has the bits `want` of those in `of` and its privilege is that of the selector.
static inline bool event_segment(const struct bt *b, u16 sel, u32 want, u32 of, struct x86_seg *s)
{
    const struct x86_dtable *t = &b->in.c->gdtr;
    u64 raw;
    if (sel & X86_SEL_TI || sel < 4 || (sel | 7u) > t->limit || !event_sys_words(b, t->base + (sel & 0xfff8u), 1, &raw))
        return false;
    u32 hi = (u32)(raw >> 32), limit = ((u32)raw & 0xffff) | (hi & 0xf0000);
    s->sel = sel;
    s->attr = hi >> 8 & 0xf0ff;
    s->base = (raw >> 16 & 0xffffff) | (hi & 0xff000000u);
    s->limit = s->attr & X86_SEG_G ? limit << 12 | 0xfff : limit;
    return (s->attr & of) == want && X86_SEG_DPL(s->attr) == (sel & X86_SEL_RPL);
}

static inline bool event_covers_4g(const struct x86_seg *s)
{
    return !s->base && s->limit == ~0u;
}

// The same for 32-bit code that covers the 4 GiB, and for such a stack.
static inline bool event_code32(const struct bt *b, u16 sel, struct x86_seg *s)
{
    const u32 want = EVENT_CODE | X86_SEG_DB;
    return event_segment(b, sel, want, want | X86_SEG_C | X86_SEG_L, s) && event_covers_4g(s);
}

static inline bool event_stack32(const struct bt *b, u16 sel, struct x86_seg *s)
{
    const u32 want = EVENT_STACK | X86_SEG_DB;
    return event_segment(b, sel, want, want | X86_SEG_CODE | X86_SEG_E, s) && event_covers_4g(s);
}

// What a gate's first 8 bytes say, but for where it leads; false: it is of another kind.
static inline bool event_gate(u64 raw, struct usual_gate *g)
{
    u32 attr = (u32)(raw >> 40) & 0xff, kind = attr & (X86_SEG_S | X86_SEG_TYPE);
    g->rip = (raw & 0xffff) | (raw >> 32 & 0xffff0000u);
    g->ist = raw >> 32 & 7;
    g->dpl = X86_SEG_DPL(attr);
    g->clears = X86_FL_TF | X86_FL_VM | X86_FL_RF | X86_FL_NT | (kind == X86_SYS_INT ? X86_FL_IF : 0);
    return (kind == X86_SYS_INT || kind == X86_SYS_TRAP) && attr & X86_SEG_P;
}

// Would something else be due before the first instruction of a handler that begins with these flags cleared?
bool event_more_is_due(const struct bt *b, u32 clears);
// INT n, INT3.
static inline bool event_is_soft(const struct cpu_event *ev)
{
    return ev->type == CPU_EVENT_SOFT_INT || ev->type == CPU_EVENT_SOFT_EXC;
}
// Flags for the frame.
u64 event_flags_image(const struct cpu *c, const struct cpu_event *ev);
// After CS and CPL are the handler's.
void event_enter(struct bt *b, const struct usual_gate *g, u64 sp);
// Would going to CPL `to` make a data segment unusable?
bool event_drops_segment(const struct cpu *c, unsigned to);
// The x87's pointers go with CS: set that state aside.
static inline void event_keep_x87(struct bt *b)
{
    if (UNLIKELY(b->ctx->vec & VEC_X87))
        vecstate_park(b);
}

// Protected mode with flat segments: false, and nothing has changed, where it is not that or not as usual.
bool event32_deliver(struct bt *b, const struct cpu_event *ev);
bool event32_iret(struct bt *b);

// The last of an IRET, when RIP and flags are what it returns to: to these segments, at CPL `cpl`.
static inline void event_return(struct bt *b, const struct x86_seg *cs, const struct x86_seg *ss, unsigned cpl, u64 sp)
{
    struct cpu *c = b->in.c;
    event_keep_x87(b);
    c->seg[X86_CS] = *cs;
    c->seg[X86_SS] = *ss;
    c->cpl = (u8)cpl;
    c->gpr[X86_RSP] = sp;
    interp_mode_changed(&b->in);
}

#endif
