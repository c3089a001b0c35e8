// virtio entropy device. VIRTIO 1.2, 5.4.
#ifndef POGO_DEV_VIRTIO_RNG_H
#define POGO_DEV_VIRTIO_RNG_H

#include "dev/virtio_pci.h"

struct virtio_rng_config {
    // Random bytes; returns how many, at least 1. Does not wait.
    u64 (*random)(void *source, void *buf, u64 len);
    void *source;
};

struct virtio_rng {
    struct virtio v;
    struct virtio_pci pci;
    struct virtio_rng_config config;
    struct virtio_chain chain;
};

// Build the device in *d (all zeros before) and put it on the bus. Returns 0 or a negative errno.
int virtio_rng_create(struct virtio_rng *d, const struct virtio_attach *at, const struct virtio_rng_config *c);

#endif
