// Disks and virtio devices of the command line: -drive, and -device virtio-*.
#ifndef POGO_CLI_DRIVES_H
#define POGO_CLI_DRIVES_H

#include "board/pc_virtio.h"
#include "pogo/error.h"

#define MAX_DRIVES 16
#define MAX_VIRTIO 24
#define ID_SIZE 64
#define PATH_SIZE 4096

struct drive_spec {
    char file[PATH_SIZE], id[ID_SIZE];
    bool on_virtio; // if=virtio: a virtio-blk-pci of its own
    bool readonly, snapshot, unmap, writethrough, no_flush;
};

enum virtio_kind { VIRTIO_BLK, VIRTIO_RNG };

struct virtio_spec {
    enum virtio_kind kind;
    struct pc_place place;
    char drive[ID_SIZE]; // VIRTIO_BLK: the id of a drive
    char serial[VIRTIO_BLK_SERIAL + 1];
};

struct drives {
    struct drive_spec drive[MAX_DRIVES];
    struct virtio_spec device[MAX_VIRTIO];
    unsigned drive_count, device_count;
    struct blk_backend *backend[MAX_DRIVES]; // open ones
    bool used[MAX_DRIVES];                   // by a device
};

// The arguments of -drive and of -device NAME where drives_know() says so. Return 0 or a negative errno with *err set.
int drives_parse(struct drives *d, const char *arg, struct error *err);
bool drives_know(const char *device_arg);
int drives_parse_device(struct drives *d, const char *arg, struct error *err);
// Open the images and put the devices on the board. On failure drives_close() is still to be called.
int drives_create(struct drives *d, struct pc *b, struct error *err);
// Close the images: after the last vCPU has stopped, before the board is destroyed.
void drives_close(struct drives *d);

#endif
