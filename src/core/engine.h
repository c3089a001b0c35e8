// Contract: an execution engine.
//
// Between calls the architectural state belongs to vcpu.cpu; while run() is on the stack the engine may keep any part of it
// elsewhere (host registers, a KVM vcpu). pull_state() makes vcpu.cpu complete, push_state() tells the engine that somebody
// changed it. Every engine can stop at any instruction boundary, and any other can go on from there.
//
// Where exactly things happen is the same on all engines, so that runs repeat and engines can be compared (icount mode, pogo lockstep):
//  - run() retires no instruction beyond its budget, and comes back for the budget only at that boundary (or after as many attempts that
//    fault). What is due there (the pending event, interrupts) is left to the next run(), before whose first instruction it is looked at.
//  - Requests that an instruction raises by an access to a device, an MSR or CR8 are served at the boundary behind that instruction
//    (in a repeated one, behind that iteration); requests that are pending when run() begins, before its first instruction. Only
//    those of other threads may wait for the end of a block.
//  - vcpu.insns, from which virtual time and the TSC may follow, is exact during such accesses and RDTSC: the instructions before this one.
#ifndef POGO_CORE_ENGINE_H
#define POGO_CORE_ENGINE_H

#include "core/vcpu.h"

enum vm_exit_reason {
    VM_EXIT_BUDGET,   // the instruction budget is used up
    VM_EXIT_KICK,     // VCPU_REQ_EXIT was set
    VM_EXIT_HALT,     // HLT with interrupts enabled or not: nothing to do until a request arrives
    VM_EXIT_SHUTDOWN, // triple fault. SDM 3A 6.15, "Interrupt 8"
    VM_EXIT_RESET,    // the guest asked for a reset (keyboard controller, port 92, reset register)
    VM_EXIT_POWEROFF, // the guest asked to be switched off; `code` is the exit status
    VM_EXIT_DEBUG,    // the debugger asked for it (see core/debug.h); nothing to do with the guest's own breakpoints
    VM_EXIT_ERROR,    // the engine cannot go on; `message` says why
    VM_EXIT_COUNT
};

struct vm_exit {
    enum vm_exit_reason reason;
    int code;            // POWEROFF: exit status; DEBUG: enum debug_cause
    const char *message; // static or owned by the engine until the next run()
    gva addr;            // DEBUG: see core/debug.h
};

#define ENGINE_NO_BUDGET (~0ull)

// What an engine is asked to do differently from what it does by itself.
struct engine_tuning {
    u64 memory; // bytes to keep decoded or translated code in at most, per vCPU; 0: its own choice
    u64 off;    // bit n: do without engine_ops.opts[n]
    u32 block;  // instructions in a translated block at most; 0: its own choice
};

// Something that an engine does for speed and can do without. A table of them ends with a row without name; 64 at most.
struct engine_opt {
    const char *name, *help;
};

struct engine_ops {
    const char *name;
    const struct engine_opt *opts; // NULL: there is nothing to switch off
    // 0 when usable here; else a negative errno, and *why says what is missing and what to do about it.
    int (*probe)(const char **why);
    int (*vcpu_create)(struct vcpu *v);
    // Run at most `budget` instructions, retired or faulting. A repeated one counts when it is done and when a trap interrupts it; of
    // events that are delivered with no instruction in between all but the first count.
    struct vm_exit (*run)(struct vcpu *v, u64 budget);
    void (*pull_state)(struct vcpu *v);
    void (*push_state)(struct vcpu *v);
    // Code in [base, base+len), inside one page, has changed: forget what was derived from it before the next instruction of the
    // calling thread's vCPU, soon on others. Called by any thread. With several vCPUs the page's MEM_PAGE_CODE has been cleared,
    // so everything derived from that page goes.
    void (*invalidate)(struct vcpu *v, gpa base, u64 len);
    // Make a run() in another thread return soon. Async-signal-safe.
    void (*kick)(struct vcpu *v);
    void (*stats)(struct vcpu *v, char *buf, size_t size);
    void (*vcpu_destroy)(struct vcpu *v);
};

#endif
