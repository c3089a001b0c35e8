// A disk whose requests are answered at points of virtual time, one after the other in the order in which they came: between any
// backend and a controller, for machines whose runs are to repeat exactly.
#ifndef POGO_DEV_BLK_TIMED_H
#define POGO_DEV_BLK_TIMED_H

#include "core/clock.h"
#include "dev/blk.h"

// From the first request that finds the disk at rest until it and all that came meanwhile are answered.
#define BLK_TIMED_NS 100000

struct blk_timed {
    struct blk_backend b; // first: for the controller
    struct blk_backend *inner;
    struct clock *clock;
    struct clock_timer timer;
    struct blk_request *first, **last;
};

// Make *t the controller's backend in place of `inner`, which must outlive it. Returns 0, or -ENOSPC when the clock has no more timers.
int blk_timed_init(struct blk_timed *t, struct blk_backend *inner, struct clock *clock);

#endif
