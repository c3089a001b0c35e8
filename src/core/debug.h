// Contract: the debugger's breakpoints, as engines honour them.
//
// A machine has one set (machine.debug) and each vCPU a step order (vcpu.debug_step). Both change only while every vCPU is
// outside engine_ops.run(); an engine looks at them when run() begins and may specialise itself on what it finds. The guest sees
// nothing of them: its memory, DR0..DR7, RFLAGS.TF and #DB are its own and go on working.
//
// What an engine does, always by leaving run() with VM_EXIT_DEBUG, vm_exit.code being an enum debug_cause:
//  - DEBUG_BREAK before it executes an instruction whose first byte is at a breakpoint, also when it has just been resumed there:
//    who wants to get past it steps. Events that are due come first. vm_exit.addr: the linear address.
//  - DEBUG_READ or DEBUG_WRITE after an instruction (for REP: an iteration) or a delivery of an event that accessed watched bytes through a
//    segment or the stack; a read-modify-write is a write. Accesses of an instruction that faulted do not count, nor do those that the processor makes on its own
//    (descriptors, TSS, page tables). vm_exit.addr: the first such byte.
//  - DEBUG_STEP after one instruction, one REP iteration, or the delivery of one event, when vcpu.debug_step is set; breakpoints
//    on that instruction do not stop it. The order stays until the debugger takes it back.
//
// While one vCPU steps, the others may be parked for as long as the debugger likes, and then do not serve their TLB queues: who waits
// for that must stop waiting when VCPU_REQ_EXIT is set for himself.
#ifndef POGO_CORE_DEBUG_H
#define POGO_CORE_DEBUG_H

#include "pogo/types.h"

#define DEBUG_MAX_BREAKS 512
#define DEBUG_MAX_WATCHES 32

enum debug_cause { DEBUG_BREAK, DEBUG_READ, DEBUG_WRITE, DEBUG_STEP };

// Values of vcpu.debug_step. DEBUG_STEP_QUIET keeps maskable interrupts and NMIs waiting, unless the processor is halted, so that
// a step does not end in an interrupt handler.
enum debug_step { DEBUG_STEP_NONE, DEBUG_STEP_QUIET, DEBUG_STEP_ANY };

// Who set a breakpoint may have reasons to tell two kinds apart; to engines they are the same.
#define DEBUG_BREAK_SOFT 1u
#define DEBUG_BREAK_HARD 2u

#define DEBUG_WATCH_READ 1u
#define DEBUG_WATCH_WRITE 2u

struct debug_break {
    gva at;
    u8 kinds; // DEBUG_BREAK_*
};

struct debug_watch {
    gva first, last; // inclusive
    u8 access;       // DEBUG_WATCH_*: any of these accesses counts
};

struct debug_points {
    u32 break_count, watch_count;
    u64 filter[4]; // bit hash(at) is set for each breakpoint: most addresses need no search
    struct debug_break brk[DEBUG_MAX_BREAKS];
    struct debug_watch watch[DEBUG_MAX_WATCHES];
};

static inline unsigned debug_hash(gva a)
{
    return (unsigned)(a ^ a >> 8 ^ a >> 16) & 255;
}

const struct debug_break *debug_find_break(const struct debug_points *d, gva a);

// The breakpoint at `a`, or NULL.
static inline const struct debug_break *debug_break_at(const struct debug_points *d, gva a)
{
    unsigned h = debug_hash(a);
    return d->filter[h / 64] >> h % 64 & 1 ? debug_find_break(d, a) : NULL;
}

// A watchpoint that an access of [a, a+len) meets, or NULL. `access`: one of DEBUG_WATCH_*.
const struct debug_watch *debug_watch_hit(const struct debug_points *d, gva a, u64 len, u8 access);

// 0, or -ENOSPC when the table is full. Adding what is there already changes nothing.
int debug_add_break(struct debug_points *d, gva a, u8 kind);
// -EINVAL for an empty range or one that wraps.
int debug_add_watch(struct debug_points *d, gva a, u64 len, u8 access);
// 0, or -ENOENT.
int debug_remove_break(struct debug_points *d, gva a, u8 kind);
int debug_remove_watch(struct debug_points *d, gva a, u64 len, u8 access);
void debug_clear(struct debug_points *d);

#endif
