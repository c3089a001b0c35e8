// Consoles and serial ports. Each port has a queue for either direction; with multiport, two more carry control messages:
//
//   queue 0, 1   port 0: to the guest, from the guest
//   queue 2, 3   control: to the guest, from the guest
//   queue 4, 5   port 1, ...
//
// Control messages to the guest wait as bits, one for each kind and port, so that a driver that never gives buffers makes nothing
// grow. A port's bytes stay with the peer until the guest has a buffer for them.

#include "dev/virtio_console.h"

#include <errno.h>
#include <string.h>

#define CLASS_COMMUNICATION_OTHER 0x078000u
#define QUEUE_SIZE 128
#define CONTROL_QUEUE_SIZE 32

#define F_MULTIPORT (1ull << 1)
#define F_EMERGENCY (1ull << 2)

#define CONFIG_MAX_PORTS 4
#define CONFIG_EMERGENCY 8
#define CONFIG_SIZE 12

#define CONTROL_IN 2
#define CONTROL_OUT 3

// Control messages. 5.3.6.2.
#define DEVICE_READY 0
#define DEVICE_ADD 1
#define PORT_READY 3
#define CONSOLE_PORT 4
#define PORT_OPEN 6
#define PORT_NAME 7

// Bits of `pending`, in the order in which they are sent.
#define PEND_ADD 1u
#define PEND_CONSOLE 2u
#define PEND_NAME 4u
#define PEND_OPEN 8u

#define TX_PIECE 4096u
#define TX_MOST (256u << 10) // bytes in one call

struct control {
    u32 id;
    u16 event, value;
};

static unsigned rx_queue(unsigned nr)
{
    return nr ? 2 * nr + 2 : 0;
}

static bool multiport(const struct virtio_console *d)
{
    return virtio_has(&d->v, F_MULTIPORT);
}

// May bytes go to the guest? Without multiport nobody opens the port: it always is.
static bool listening(const struct virtio_console *d, unsigned nr)
{
    return multiport(d) ? d->port[nr].guest_open : nr == 0;
}

// --- control --------------------------------------------------------------------------------------------------------------

static struct control message(const struct virtio_console *d, unsigned nr, unsigned bit)
{
    switch (bit) {
    case PEND_ADD: return (struct control){nr, DEVICE_ADD, 1};
    case PEND_CONSOLE: return (struct control){nr, CONSOLE_PORT, 1};
    case PEND_NAME: return (struct control){nr, PORT_NAME, 1};
    default: return (struct control){nr, PORT_OPEN, d->port[nr].connected};
    }
}

static void send_control(struct virtio_console *d)
{
    bool room = true;

    for (unsigned nr = 0; nr < d->max_ports && room; nr++) {
        struct virtio_console_port *p = &d->port[nr];
        while (p->pending && room) {
            unsigned bit = p->pending & -p->pending;
            struct control c = message(d, nr, bit);
            u64 n;
            room = virtio_pop(&d->v, CONTROL_IN, &d->chain) > 0;
            if (!room)
                break;
            n = virtio_write(&d->v, &d->chain, 0, &c, sizeof(c));
            if (bit == PEND_NAME)
                n += virtio_write(&d->v, &d->chain, sizeof(c), p->name, strlen(p->name));
            virtio_push(&d->v, CONTROL_IN, &d->chain, (u32)n);
            p->pending &= (u8)~bit;
        }
    }
    virtio_signal(&d->v, CONTROL_IN);
}

static void set_guest_open(struct virtio_console *d, unsigned nr, bool open)
{
    struct virtio_console_port *p = &d->port[nr];

    if (p->guest_open == open)
        return;
    p->guest_open = open;
    if (p->peer.opened)
        p->peer.opened(p->peer.out, open);
    if (open)
        virtio_run(&d->v, rx_queue(nr));
}

static void take_control(struct virtio_console *d, const struct control *c)
{
    struct virtio_console_port *p = c->id < d->max_ports ? &d->port[c->id] : NULL;

    if (c->event == DEVICE_READY) {
        for (unsigned nr = 0; nr < d->max_ports && c->value; nr++)
            d->port[nr].pending |= d->port[nr].exists ? PEND_ADD : 0;
        return;
    }
    if (!p || !p->exists)
        return;
    if (c->event == PORT_READY && c->value)
        p->pending |= (p->console ? PEND_CONSOLE : 0) | (p->name[0] ? PEND_NAME : 0) | (p->connected ? PEND_OPEN : 0);
    else if (c->event == PORT_OPEN)
        set_guest_open(d, c->id, c->value);
}

static void receive_control(struct virtio_console *d)
{
    while (virtio_pop(&d->v, CONTROL_OUT, &d->chain) > 0) {
        struct control c;
        bool whole = virtio_read(&d->chain, 0, &c, sizeof(c)) == sizeof(c);
        virtio_push(&d->v, CONTROL_OUT, &d->chain, 0);
        if (whole)
            take_control(d, &c);
    }
    virtio_signal(&d->v, CONTROL_OUT);
    virtio_run(&d->v, CONTROL_IN);
}

// --- bytes ----------------------------------------------------------------------------------------------------------------

static void to_guest(struct virtio_console *d, unsigned nr)
{
    struct virtio_console_port *p = &d->port[nr];
    unsigned queue = rx_queue(nr);

    while (listening(d, nr) && p->peer.rx) {
        u64 n;
        if (!p->stage_count) {
            p->stage_off = 0;
            p->stage_count = (u32)p->peer.rx(p->peer.in, p->stage, sizeof(p->stage));
        }
        if (!p->stage_count || virtio_pop(&d->v, queue, &d->chain) <= 0)
            break;
        n = virtio_write(&d->v, &d->chain, 0, p->stage + p->stage_off, p->stage_count);
        virtio_push(&d->v, queue, &d->chain, (u32)n);
        p->stage_off += (u32)n;
        p->stage_count -= (u32)n;
    }
    virtio_signal(&d->v, queue);
}

// Hand the held chain to the peer, within *most bytes; true when it is all gone. A port without a far end loses what is sent.
static bool flush_tx(struct virtio_console_port *p, u64 *most)
{
    u8 piece[TX_PIECE];

    while (p->tx_off < p->tx.out_len) {
        u64 n, taken;
        if (!p->peer.tx || !p->connected)
            return true;
        if (!*most)
            return false;
        n = virtio_read(&p->tx, p->tx_off, piece, *most < sizeof(piece) ? *most : sizeof(piece));
        taken = p->peer.tx(p->peer.out, piece, n);
        p->tx_off += taken;
        *most -= taken;
        if (taken < n)
            return false;
    }
    return true;
}

static void from_guest(struct virtio_console *d, unsigned nr)
{
    struct virtio_console_port *p = &d->port[nr];
    unsigned queue = rx_queue(nr) + 1;
    u64 most = TX_MOST;

    for (;;) {
        if (!p->holds_tx) {
            if (virtio_pop(&d->v, queue, &p->tx) <= 0)
                break;
            p->holds_tx = true;
            p->tx_off = 0;
        }
        if (!flush_tx(p, &most)) {
            if (!most)
                virtio_later(&d->v, queue);
            break;
        }
        p->holds_tx = false;
        virtio_push(&d->v, queue, &p->tx, 0);
    }
    virtio_signal(&d->v, queue);
}

static void notify(void *self, unsigned queue)
{
    struct virtio_console *d = self;
    unsigned nr = queue < 2 ? 0 : queue / 2 - 1;

    if (queue == CONTROL_IN)
        send_control(d);
    else if (queue == CONTROL_OUT)
        receive_control(d);
    else if (queue & 1)
        from_guest(d, nr);
    else
        to_guest(d, nr);
}

void virtio_console_poll(struct virtio_console *d, unsigned nr)
{
    if (nr >= d->max_ports)
        return;
    virtio_run(&d->v, rx_queue(nr));
    virtio_run(&d->v, rx_queue(nr) + 1);
}

void virtio_console_connect(struct virtio_console *d, unsigned nr, bool connected)
{
    struct virtio_console_port *p = nr < d->max_ports ? &d->port[nr] : NULL;

    if (!p || !p->exists || p->connected == connected)
        return;
    p->connected = connected;
    if (!connected)
        p->stage_count = 0;
    if (multiport(d)) {
        p->pending |= PEND_OPEN;
        virtio_run(&d->v, CONTROL_IN);
    }
    virtio_console_poll(d, nr);
}

// The configuration's only writable field: a character for a console of a guest in trouble, without queues. 5.3.4.
static void config_written(void *self)
{
    struct virtio_console *d = self;
    struct virtio_console_port *p = &d->port[0];

    if (p->exists && p->peer.tx)
        p->peer.tx(p->peer.out, d->v.config + CONFIG_EMERGENCY, 1);
}

static void reset(void *self)
{
    struct virtio_console *d = self;

    for (unsigned nr = 0; nr < d->max_ports; nr++) {
        struct virtio_console_port *p = &d->port[nr];
        set_guest_open(d, nr, false);
        p->pending = 0;
        p->holds_tx = false;
        p->stage_count = 0;
    }
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console", .reset = reset, .notify = notify, .config_written = config_written};

static int add_port(struct virtio_console *d, const struct virtio_console_port_config *c)
{
    struct virtio_console_port *p = c->nr < d->max_ports ? &d->port[c->nr] : NULL;
    size_t len = c->name ? strlen(c->name) : 0;

    if (!p || p->exists || len >= sizeof(p->name))
        return -EINVAL;
    *p =
        (struct virtio_console_port){.exists = true, .console = c->console, .connected = c->connected, .peer = c->peer};
    if (len)
        memcpy(p->name, c->name, len);
    return 0;
}

int virtio_console_create(struct virtio_console *d, const struct virtio_attach *at,
                          const struct virtio_console_config *c)
{
    if (!c->max_ports || c->max_ports > VIRTIO_CONSOLE_PORTS)
        return -EINVAL;
    virtio_init(&d->v, &console_ops, d);
    d->max_ports = c->max_ports;
    for (unsigned i = 0; i < c->port_count; i++)
        if (add_port(d, &c->port[i]))
            return -EINVAL;
    for (unsigned i = 0; i < 2 * c->max_ports + 2; i++)
        virtio_add_queue(&d->v, i == CONTROL_IN || i == CONTROL_OUT ? CONTROL_QUEUE_SIZE : QUEUE_SIZE);
    d->v.offered |= F_MULTIPORT | F_EMERGENCY;
    virtio_put32(d->v.config + CONFIG_MAX_PORTS, c->max_ports);
    d->v.config_size = CONFIG_SIZE;
    d->v.config_write_off = CONFIG_EMERGENCY;
    d->v.config_write_len = 4;
    return virtio_pci_add(&d->pci, &d->v, at, VIRTIO_ID_CONSOLE, CLASS_COMMUNICATION_OTHER, c->max_ports + 1);
}
