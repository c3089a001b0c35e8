// What the files of segment loads and far transfers share (seg.c, segops.c, frame.c, far.c, gate.c, iret.c, event.c, task.c).
//
// Every transfer has three phases. *Check*: fetch descriptors and raise what has to be raised. *Probe*: make sure that
// every store to come (stack frame, accessed and busy bits, TSS) cannot fault. *Commit*: store, then change registers. Only a
// task switch can still fault after its commit, in the context of the new task, as the manuals say.
#ifndef POGO_ENGINE_XFER_H
#define POGO_ENGINE_XFER_H

#include "engine/interp/interp.h"

static inline bool xfer_amd(const struct interp *x)
{
    return (x->isa_options & ISA_OPT_AMD) != 0;
}

// A selector as an error code: index and TI, without RPL. SDM 3A 6.13.
static inline u32 xfer_err(u16 sel)
{
    return sel & 0xfffcu;
}

static inline bool xfer_null(u16 sel)
{
    return (sel & 0xfffc) == 0;
}

// Linear addresses are 32 bits wide outside long mode.
static inline gva xfer_lin(const struct cpu *c, u64 a)
{
    return cpu_long_mode(c) ? a : (u32)a;
}

static inline bool desc_is_code(u32 attr)
{
    return (attr & (X86_SEG_S | X86_SEG_CODE)) == (X86_SEG_S | X86_SEG_CODE);
}

static inline bool desc_is_conforming(u32 attr)
{
    return desc_is_code(attr) && (attr & X86_SEG_C);
}

static inline bool desc_is_writable_data(u32 attr)
{
    return (attr & (X86_SEG_S | X86_SEG_CODE | X86_SEG_W)) == (X86_SEG_S | X86_SEG_W);
}

// 64-bit code: only where long mode is active does L mean anything.
static inline bool desc_is_long(const struct interp *x, u32 attr)
{
    return cpu_long_mode(x->c) && (attr & X86_SEG_L);
}

static inline enum tlb_view xfer_view(const struct cpu *c, unsigned cpl)
{
    if (cpl == 3)
        return TLB_USER;
    return c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
}

// --- seg.c ----------------------------------------------------------------------------------------------------------------

// Complete a system descriptor with its second half in long mode: base bits 63:32. False when it does not fit its table or its
// reserved type bits are set. Outside long mode: true, nothing to do.
bool xfer_fetch_high(struct interp *x, u16 sel, struct descriptor *d);
// The accessed bit: make sure that setting it cannot fault; set it (a locked access).
void xfer_touch_probe(struct interp *x, const struct descriptor *d);
void xfer_touch(struct interp *x, const struct descriptor *d);
// Clear and set bits in the access byte of the descriptor at `desc`, atomically.
void xfer_desc_bits(struct interp *x, gva desc, u8 clear, u8 set);
void xfer_probe_bits(struct interp *x, gva desc);
// Load a null selector: the segment is unusable, base and limit are zero.
void xfer_set_null(struct interp *x, unsigned seg, u16 sel);
// SS of a 64-bit transfer to an inner level: null, with RPL and DPL of the new level.
void xfer_set_ss_null(struct interp *x, u16 sel, unsigned cpl);
// On a return to an outer level: segments that the new level may not use become null. SDM 2B RET.
void xfer_drop_data_segs(struct interp *x, unsigned cpl);
// Commit to code segment `d`: accessed bit, CS, CPL and x->next_rip.
void xfer_set_cs(struct interp *x, const struct descriptor *d, u16 sel, unsigned cpl, u64 rip);
// #GP(0) unless all 64 bits of `rip` are inside the limit of `d`, or canonical for a 64-bit segment.
void xfer_check_ip(struct interp *x, const struct descriptor *d, u64 rip);

// --- frame.c: stack frames ------------------------------------------------------------------------------------------------

struct xfer_stack {
    u64 base;
    u32 limit, attr;
    u64 sp;         // the whole register; `width` bytes of it move
    unsigned width; // 2, 4, 8
    enum tlb_view view;
    u32 err;    // error code of #SS when the frame does not fit
    bool align; // alignment checks apply
};

void xfer_stack_current(struct interp *x, struct xfer_stack *st);
// A stack of level `cpl` in segment `d`.
void xfer_stack_in(struct interp *x, struct xfer_stack *st, const struct descriptor *d, u16 sel, u64 sp, unsigned cpl);
// A 64-bit stack of level `cpl`.
void xfer_stack_64(struct interp *x, struct xfer_stack *st, u64 sp, unsigned cpl);
// Raise whatever `count` pushes of `size` bytes would raise.
void xfer_probe(struct interp *x, const struct xfer_stack *st, unsigned count, unsigned size);
// Push; it was probed.
void xfer_push(struct interp *x, struct xfer_stack *st, unsigned size, u64 val);
// Make st->sp the stack pointer.
void xfer_stack_commit(struct interp *x, const struct xfer_stack *st);
// Slot at `disp` bytes above the stack pointer, without moving it.
u64 xfer_peek(struct interp *x, unsigned disp, unsigned size);
// A return at the same level: take `bytes` off the stack; on the way into 64-bit code all of ESP moves, whatever SS.B.
void xfer_release_stack(struct interp *x, u32 bytes, bool to_long);
// SS:RSP for level `dpl` from the current TSS (SS is null in long mode). #TS(TR) when outside the TSS.
void xfer_tss_stack(struct interp *x, unsigned dpl, u16 *ss, u64 *sp);
// IST entry 1..7.
u64 xfer_tss_ist(struct interp *x, unsigned ist);
// Checks on the SS of an inner level: #TS(ss), #SS(ss).
void xfer_check_inner_ss(struct interp *x, u16 ss, unsigned dpl, struct descriptor *d);

// --- far.c ----------------------------------------------------------------------------------------------------------------

// Code segment of a far return or IRET: #GP(sel), #NP(sel).
void xfer_check_return_cs(struct interp *x, u16 sel, struct descriptor *d);
// Stack segment of a return to level `rpl`: #GP(sel), #SS(sel). False for an allowed null selector.
bool xfer_check_return_ss(struct interp *x, u16 sel, unsigned rpl, bool to_long, struct descriptor *d);
// Load SS:RSP for a return to level `cpl` after CS was set; adds `release` to the stack pointer.
void xfer_set_return_stack(struct interp *x, const struct descriptor *d, u16 sel, unsigned cpl, u64 sp, u32 release);

// --- gate.c ---------------------------------------------------------------------------------------------------------------

struct gate {
    u16 sel;
    u8 type, dpl, ist, params;
    bool present;
    u64 offset;
};

struct gate xfer_parse_gate(const struct descriptor *d);
// Far CALL or JMP through call gate `d`, already completed by xfer_fetch_high().
void xfer_call_gate(struct interp *x, u16 gate_sel, const struct descriptor *d, bool call);

// --- task.c ---------------------------------------------------------------------------------------------------------------

enum task_switch { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };

struct task_request {
    enum task_switch why;
    u64 ret;   // RIP to save in the old TSS
    u64 flags; // EFLAGS image to save there
    bool has_error;
    u32 error;
};

// The TSS that a task gate names: #GP(sel), #NP(sel).
void xfer_check_gate_tss(struct interp *x, u16 sel, struct descriptor *d);
void xfer_task_switch(struct interp *x, u16 sel, const struct descriptor *d, const struct task_request *req);
// IRET with NT set: return to the task that the back link names.
void xfer_task_return(struct interp *x);

#endif
