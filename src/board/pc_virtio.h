// Virtio devices of the board: added after pc_create(), before the guest starts. They live until pc_destroy().
#ifndef POGO_BOARD_PC_VIRTIO_H
#define POGO_BOARD_PC_VIRTIO_H

#include "board/pc.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_rng.h"

// Where on the PCI bus, and how.
struct pc_place {
    unsigned devfn; // PCI_DEVFN_ANY: the first free slot
    enum virtio_pci_kind kind;
    bool no_msix;
};

// Each returns 0 or a negative errno with *err set. What the configurations point to stays the caller's, and must outlive the board;
// disks' backends are closed before the board is destroyed.
int pc_add_virtio_blk(struct pc *b, const struct pc_place *p, const struct virtio_blk_config *c, struct error *err);
int pc_add_virtio_rng(struct pc *b, const struct pc_place *p, const struct virtio_rng_config *c, struct error *err);
// One at most: b->balloon.
int pc_add_virtio_balloon(struct pc *b, const struct pc_place *p, const struct virtio_balloon_config *c,
                          struct error *err);
// *out is for the functions of the device, to be called with the device lock held.
int pc_add_virtio_console(struct pc *b, const struct pc_place *p, const struct virtio_console_config *c,
                          struct virtio_console **out, struct error *err);

#endif
