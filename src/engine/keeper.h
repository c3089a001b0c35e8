// What engines share that keep something they derived from guest code: how they hear of writes to it, and when they give a page up.
//
// Any thread posts a write; the vCPU's own thread drops what it concerns when it sees VCPU_REQ_CODE. A page whose code keeps changing
// costs more to derive from than that saves: it is *busy*, left to the interpreter for a while, and its writes go at full speed.
#ifndef POGO_ENGINE_KEEPER_H
#define POGO_ENGINE_KEEPER_H

#include "core/vcpu.h"

#define KEEPER_WRITES 16
#define KEEPER_BUSY 64
#define KEEPER_STEPS 30 // instructions from one question whether a page still is busy to the next

struct keeper_ops {
    // Forget what was derived from [off, off+len) of a host page, and add the number of pieces to *dropped. Returns whether
    // anything of that page is left.
    bool (*drop)(void *engine, hva page, unsigned off, unsigned len, u64 *dropped);
    // Forget everything.
    void (*flush)(void *engine);
    // In the unit of the engine's `now`: so little time from one drop to the next makes a page busy, at first for so long.
    u64 window, time;
};

struct keeper_busy {
    hva page;
    u32 drops; // lately
    u32 level; // how often it was left alone: the next time is longer
    u64 last, until;
};

struct keeper {
    const struct keeper_ops *ops;
    void *engine;
    _Atomic u64 write[KEEPER_WRITES]; // address << 12 | length - 1, never 0
    _Atomic bool all;                 // there was no room for more
    struct keeper_busy busy[KEEPER_BUSY];
    u64 dropped, flushes; // how many pieces; how often all of them
    u64 left_alone;       // pages
};

// Memory is zeroed by the caller.
void keeper_init(struct keeper *k, const struct keeper_ops *ops, void *engine);
// Code in [base, base+len) has changed. Any thread; see engine_ops.invalidate.
void keeper_post(struct keeper *k, struct vcpu *v, gpa base, u64 len);
// Has something been posted that was not dropped yet?
static inline bool keeper_pending(const struct vcpu *v)
{
    return UNLIKELY(atomic_load_explicit(&v->request, memory_order_acquire) & VCPU_REQ_CODE);
}
// Drop what was posted.
void keeper_drop(struct keeper *k, struct vcpu *v, u64 now);
bool keeper_is_busy(const struct keeper *k, hva page, u64 now);
// The engine of `v` is about to derive something from the code at `phys`. False: not now, another processor may still be writing there
// without being noticed.
bool keeper_may_read(struct vcpu *v, gpa phys);

#endif
