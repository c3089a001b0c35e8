// What event.c and event32.c share.
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
bool event_sys_words(const struct bt *b, gva a, unsigned n, u64 *to);
// The segment that a selector of the GDT loads, if it has the bits `want` of those in `of` and its privilege is that of the selector.
bool event_segment(const struct bt *b, u16 sel, u32 want, u32 of, struct x86_seg *s);
// The same for 32-bit code that covers the 4 GiB, and for such a stack.
bool event_code32(const struct bt *b, u16 sel, struct x86_seg *s);
bool event_stack32(const struct bt *b, u16 sel, struct x86_seg *s);
// What a gate's first 8 bytes say, but for where it leads; false: it is of another kind.
bool event_gate(u64 raw, struct usual_gate *g);
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

#endif
