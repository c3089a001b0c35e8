// Disk images and other host objects, as options name them.
#ifndef POGO_CLI_DRIVES_H
#define POGO_CLI_DRIVES_H

#include "cli/keyval.h"

// -drive and -blockdev.
struct drive_option {
    const char *id;     // -drive id=, -blockdev node-name=; NULL: none
    const char *file;   // path; NULL while `node` names another -blockdev that has it
    const char *node;   // -blockdev raw on top of this node
    const char *serial; // NULL: none
    const char *what;   // how messages name it: "-drive file=disk.img"
    bool attach;        // a disk controller of its own is wanted (if=virtio); else some -device names it
    bool readonly, snapshot;
    bool unmap;        // discard=unmap
    bool writethrough; // cache=writethrough, directsync
    bool no_flush;     // cache=unsafe
    bool no_lock;      // file.locking=off
};

int drive_parse(struct drive_option *d, struct text_pool *pool, const char *arg, struct error *err);
int blockdev_parse(struct drive_option *d, struct text_pool *pool, const char *arg, struct error *err);

// -object: sources of randomness.
struct object_option {
    const char *id;
    const char *filename; // rng-random; NULL: the kernel's (rng-builtin)
};

int object_parse(struct object_option *o, struct text_pool *pool, const char *arg, struct error *err);

#endif
