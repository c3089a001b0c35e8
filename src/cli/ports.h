// virtio-serial of the command line: its controller, and the consoles and named ports on it, each with a character device behind.
#ifndef POGO_CLI_PORTS_H
#define POGO_CLI_PORTS_H

#include "board/pc_virtio.h"
#include "cli/options.h"

struct port {
    struct ports *all;
    unsigned nr;
    struct chardev_front front;
};

struct ports {
    struct pc *board;
    struct virtio_console *dev; // NULL: none
    struct port port[VIRTIO_CONSOLE_PORTS];
    unsigned count;
    bool always; // ports take everything at once, and lose what nobody reads for long
};

// Create the controller that -device names, with its ports. Returns 0 or a negative errno with *err set. *p must outlive the board and
// the character devices.
int ports_create(struct ports *p, const struct run_options *o, struct chardevs *chars, struct pc *b, struct error *err);

#endif
