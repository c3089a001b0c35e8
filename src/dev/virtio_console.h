// virtio console with several ports: consoles (hvc0, ...) and named serial ports for programs. VIRTIO 1.2, 5.3.
#ifndef POGO_DEV_VIRTIO_CONSOLE_H
#define POGO_DEV_VIRTIO_CONSOLE_H

#include "dev/virtio_pci.h"

#define VIRTIO_CONSOLE_PORTS 31
#define VIRTIO_CONSOLE_NAME 64
#define VIRTIO_CONSOLE_STAGE 1024

// The far end of a port. Called with the device lock held; they do not wait.
struct virtio_console_peer {
    // Bytes from the guest. Returns how many were taken; when fewer, virtio_console_poll() is called once there is room.
    u64 (*tx)(void *out, const u8 *bytes, u64 len);
    // Bytes for the guest, at most `max`; 0: none now. NULL: never any.
    u64 (*rx)(void *in, u8 *bytes, u64 max);
    // A program in the guest has opened or closed the port. May be NULL.
    void (*opened)(void *out, bool open);
    void *out, *in;
};

struct virtio_console_port_config {
    unsigned nr;      // number; 0 is the one that drivers without multiport have, and should be a console
    const char *name; // the guest's /dev/virtio-ports/NAME; NULL: none
    bool console;     // virtconsole rather than virtserialport
    bool connected;   // the far end is there from the start
    struct virtio_console_peer peer;
};

struct virtio_console_config {
    unsigned max_ports; // 1 to VIRTIO_CONSOLE_PORTS
    const struct virtio_console_port_config *port;
    unsigned port_count;
};

struct virtio_console_port {
    bool exists, console, connected;
    bool guest_open;
    u8 pending; // control messages that the driver is still to get
    char name[VIRTIO_CONSOLE_NAME];
    struct virtio_console_peer peer;
    // From the guest: a chain whose bytes the peer did not all take.
    bool holds_tx;
    u64 tx_off;
    struct virtio_chain tx;
    // To the guest: taken from the peer, not yet in a buffer.
    u32 stage_off, stage_count;
    u8 stage[VIRTIO_CONSOLE_STAGE];
};

struct virtio_console {
    struct virtio v;
    struct virtio_pci pci;
    unsigned max_ports;
    struct virtio_chain chain;
    struct virtio_console_port port[VIRTIO_CONSOLE_PORTS];
};

// Build the device in *d (all zeros before) and put it on the bus. Returns 0, -EINVAL (port numbers, names), or another negative errno.
int virtio_console_create(struct virtio_console *d, const struct virtio_attach *at,
                          const struct virtio_console_config *c);
// The peer of a port has something, or room again.
void virtio_console_poll(struct virtio_console *d, unsigned nr);
// Somebody came to the far end of a port, or left it.
void virtio_console_connect(struct virtio_console *d, unsigned nr, bool connected);

#endif
