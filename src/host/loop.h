// The event loop of the thread in control: descriptors to watch, and timers. Everything here belongs to that one thread; others
// reach it through an eventfd that somebody watches.
#ifndef POGO_HOST_LOOP_H
#define POGO_HOST_LOOP_H

#include "pogo/types.h"

#define LOOP_MAX_WATCHES 128
#define LOOP_MAX_TIMERS 64
#define LOOP_NEVER (~0ull)

// Embedded in its owner, who may change everything at any time; fd -1, or no events and no `hangup`: not watched.
struct loop_watch {
    int fd;
    short events; // POLLIN, POLLOUT
    void (*ready)(void *arg, short revents);
    void *arg;
    bool hangup; // call `ready` also when nothing but the other end's leaving (POLLERR, POLLHUP) is to be told
};

struct loop_timer {
    u64 at_ns; // loop_now(); LOOP_NEVER: off. Switched off before `fire` is called
    void (*fire)(void *arg);
    void *arg;
};

struct loop {
    struct loop_watch *watch[LOOP_MAX_WATCHES];
    struct loop_timer *timer[LOOP_MAX_TIMERS];
    unsigned watches, timers;
    bool end; // loop_run() is to return
};

// Monotonic time in nanoseconds.
u64 loop_now(void);
// Return 0 or -ENOSPC. What was added stays the caller's, until it is removed. Removing is allowed at any time, also for what was not
// added.
int loop_add(struct loop *l, struct loop_watch *w);
void loop_remove(struct loop *l, const struct loop_watch *w);
int loop_add_timer(struct loop *l, struct loop_timer *t);
void loop_remove_timer(struct loop *l, const struct loop_timer *t);
// Wait for something, `max_ns` at most, and call everybody concerned.
void loop_step(struct loop *l, u64 max_ns);
// Step until somebody sets `end`.
void loop_run(struct loop *l);

#endif
