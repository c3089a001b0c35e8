// virtio block device. VIRTIO 1.2, 5.2.
#ifndef POGO_DEV_VIRTIO_BLK_H
#define POGO_DEV_VIRTIO_BLK_H

#include "dev/blk.h"
#include "dev/virtio_pci.h"

#define VIRTIO_BLK_REQUESTS 128 // that the device works on at a time
#define VIRTIO_BLK_SERIAL 20

struct virtio_blk_config {
    struct blk_backend *backend; // the caller's; must outlive the device
    const char *serial;          // up to VIRTIO_BLK_SERIAL characters; NULL: none
    bool writethrough;           // writes are on the disk when they are answered, unless the driver asks for less
};

struct virtio_blk;

struct virtio_blk_request {
    struct blk_request r;
    struct virtio_blk *blk;
    struct virtio_blk_request *free; // next in the list of free ones
    struct virtio_chain chain;
    struct blk_seg seg[VIRTIO_MAX_SEGS];
};

struct virtio_blk {
    struct virtio v;
    struct virtio_pci pci;
    struct blk_backend *backend;
    char serial[VIRTIO_BLK_SERIAL];
    bool writethrough; // as configured
    bool resetting;    // what ends now is not to be answered
    bool quiescing;    // no new ones are to be begun
    struct virtio_blk_request *free;
    struct virtio_blk_request request[VIRTIO_BLK_REQUESTS];
};

// Build the device in *d (all zeros before) and put it on the bus. Returns 0 or a negative errno.
int virtio_blk_create(struct virtio_blk *d, const struct virtio_attach *at, const struct virtio_blk_config *c);

#endif
