// Contract: a disk's contents, as disk controllers see them. Requests are answered later, by a call from another thread, so that a
// slow disk stops nobody. A backend belongs to one controller.
#ifndef POGO_DEV_BLK_H
#define POGO_DEV_BLK_H

#include "core/lock.h"
#include "pogo/types.h"

#define BLK_SECTOR 512u

enum blk_op {
    BLK_READ,
    BLK_WRITE,
    BLK_FLUSH,   // what was written, and answered before this request came, is to survive a loss of power
    BLK_DISCARD, // contents no longer needed; a hint
    BLK_ZERO,    // contents become zeros
    BLK_OP_COUNT
};

// A piece of memory that the data is in or goes to.
struct blk_seg {
    u8 *host;
    u64 len;
};

// One request. The submitter's from done() on, the backend's before.
struct blk_request {
    enum blk_op op;
    bool durable; // BLK_WRITE, BLK_ZERO: as if a flush followed
    bool unmap;   // BLK_ZERO: the space may be given back
    u64 off,
        len; // bytes, multiples of BLK_SECTOR, inside the disk; of BLK_READ and BLK_WRITE len is the sum of the pieces
    const struct blk_seg *seg;
    unsigned seg_count;
    int result; // at done(): 0 or a negative errno; -ECANCELED when drain() dropped it
    // Called with the device lock held. `more`: others follow at once.
    void (*done)(struct blk_request *r, bool more);
    void *owner;
    struct blk_request *next; // the backend's
};

struct blk_backend;

struct blk_backend_ops {
    // From now on done() is called with `dev_lock` held. Returns 0 or a negative errno.
    int (*start)(struct blk_backend *b, struct lock *dev_lock);
    // Called with the device lock held, as drain().
    void (*submit)(struct blk_backend *b, struct blk_request *r);
    // Return when every request has been answered, its done() called from here. `cancel`: those not yet begun are dropped, and a
    // long one is cut short.
    void (*drain)(struct blk_backend *b, bool cancel);
};

struct blk_backend {
    const struct blk_backend_ops *ops;
    u64 size; // bytes, a multiple of BLK_SECTOR
    bool readonly;
    u32 logical, physical; // block sizes, powers of two, at least BLK_SECTOR
};

#endif
