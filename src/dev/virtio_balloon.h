// virtio memory balloon. VIRTIO 1.2, 5.5.
#ifndef POGO_DEV_VIRTIO_BALLOON_H
#define POGO_DEV_VIRTIO_BALLOON_H

#include "dev/virtio_pci.h"

// Statistics, by their tags. 5.5.6.3.1.
enum virtio_balloon_stat {
    BALLOON_SWAP_IN,
    BALLOON_SWAP_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_CACHES,
    BALLOON_HUGE_ALLOC,
    BALLOON_HUGE_FAIL,
    BALLOON_STAT_COUNT
};

#define BALLOON_UNKNOWN (~0ull)

struct virtio_balloon_config {
    // Give the host memory of [p, p+len) back; what is read there afterwards is zeros. NULL: it stays.
    void (*discard)(void *host, u8 *p, u64 len);
    void *host;
    bool deflate_on_oom;
};

struct virtio_balloon {
    struct virtio v;
    struct virtio_pci pci;
    struct virtio_balloon_config config;
    u64 discarded;                // bytes given back since the device was made
    u64 stat[BALLOON_STAT_COUNT]; // as last told, or BALLOON_UNKNOWN
    bool holds_stats;             // `stats` is the driver's buffer, kept until fresh values are wanted
    struct virtio_chain chain, stats;
};

// Build the device in *d (all zeros before) and put it on the bus. Returns 0 or a negative errno.
int virtio_balloon_create(struct virtio_balloon *d, const struct virtio_attach *at,
                          const struct virtio_balloon_config *c);
// Ask the guest to have `bytes` (a multiple of 4 KiB) in the balloon; it gets there in time, or not.
void virtio_balloon_set_target(struct virtio_balloon *d, u64 bytes);
// How much it says that there are.
u64 virtio_balloon_actual(const struct virtio_balloon *d);
// Ask for fresh statistics: they come into d->stat.
void virtio_balloon_ask(struct virtio_balloon *d);

#endif
