// Virtio devices of the command line: disks, sources of randomness, the memory balloon.
#ifndef POGO_CLI_DISKS_H
#define POGO_CLI_DISKS_H

#include "board/pc_virtio.h"
#include "cli/options.h"
#include "dev/blk_timed.h"

struct disks {
    struct blk_backend *backend[OPTIONS_MAX_DRIVES]; // open ones, by number of the drive
    bool used[OPTIONS_MAX_DRIVES];                   // by a device
    struct blk_timed timed[OPTIONS_MAX_DRIVES];      // before the backends, with icount
    u64 random;                                      // state of the source of randomness, with icount
};

// Open the images and put the devices on the board. Returns 0 or a negative errno with *err set; disks_close() in any case.
int disks_create(struct disks *d, const struct run_options *o, struct pc *b, struct error *err);
// Close the images: after the last vCPU has stopped, before the board is destroyed.
void disks_close(struct disks *d);
// Where a virtio device goes, by the properties that each has.
int disks_place(const struct device_option *d, struct pc_place *p, struct error *err);

#endif
