// Disk images: raw files and block devices behind the block backend contract (dev/blk.h). Threads do the I/O.
#ifndef POGO_HOST_BLOCKIO_H
#define POGO_HOST_BLOCKIO_H

#include "dev/blk.h"
#include "pogo/error.h"

struct blockio_options {
    const char *path;
    const char *option; // how messages name the image, for instance "-drive file=disk.img"; NULL: by its path
    bool readonly;      // open for reading only
    bool snapshot; // writes go to a temporary file that ends with the process; the image is opened for reading only
    bool unmap;    // discarded ranges give their space back to the host
    bool no_flush; // flushes do nothing: fast, and unsafe
    bool no_lock;  // do not ask whether somebody else uses the image
};

// What a backend has answered so far.
struct blockio_stats {
    u64 requests[BLK_OP_COUNT], bytes[BLK_OP_COUNT];
    u64 errors;
};

// Open an image. Refuses one that another process (this program, or QEMU) has open for writing, and for writing one that another
// has open at all. Returns 0 and *out, or a negative errno with *err set.
int blockio_open(const struct blockio_options *o, struct blk_backend **out, struct error *err);
// End its threads and close the image. Requests that are not begun are dropped; done() is called for all. Called without the device
// lock, while the device still exists.
void blockio_close(struct blk_backend *b);
// Called with the device lock held.
void blockio_stats(const struct blk_backend *b, struct blockio_stats *out);

#endif
