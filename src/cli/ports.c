// Ports between guest and character devices. The device calls chardev functions with its lock held; the other way, callbacks of the
// character device (in the thread in control) take the lock and have the device look.

#include "cli/ports.h"

#include <errno.h>
#include <string.h>

#include "cli/disks.h"

// --- a port at work -------------------------------------------------------------------------------------------------------

// Nothing is sent that does not fit: the device keeps it until on_room(), which asking for room orders.
static u64 port_tx(void *out, const u8 *bytes, u64 len)
{
    struct chardev_front *f = out;

    // With icount the guest does not see how fast somebody reads.
    if (((const struct port *)f->arg)->all->always) {
        chardev_write(f, bytes, len);
        return len;
    }
    return chardev_room(f) ? chardev_write(f, bytes, len) : 0;
}

static u64 port_rx(void *in, u8 *bytes, u64 max)
{
    return chardev_read(in, bytes, max);
}

static void on_room(void *arg)
{
    struct port *p = arg;
    struct ports *all = p->all;

    if (!all->dev)
        return; // not built yet
    lock_take(&all->board->m.dev_lock);
    virtio_console_poll(all->dev, p->nr);
    lock_drop(&all->board->m.dev_lock);
}

static void on_event(void *arg, enum chardev_event e)
{
    struct port *p = arg;
    struct ports *all = p->all;

    if (!all->dev || (e != CHARDEV_OPENED && e != CHARDEV_CLOSED))
        return;
    lock_take(&all->board->m.dev_lock);
    virtio_console_connect(all->dev, p->nr, e == CHARDEV_OPENED);
    lock_drop(&all->board->m.dev_lock);
}

// --- building ---------------------------------------------------------------------------------------------------------------

static const struct device_option *find_controller(const struct run_options *o, struct error *err, int *ret)
{
    const struct device_option *found = NULL;

    *ret = 0;
    for (unsigned i = 0; i < o->device_count; i++) {
        if (o->device[i].kind != DEVICE_VIRTIO_SERIAL)
            continue;
        if (found)
            *ret = error_set(err, -EEXIST, "-device virtio-serial-pci: there is one already; put all ports on that");
        found = &o->device[i];
    }
    return found;
}

// The number that a port wants, or the first that is free. Number 0 is kept for a console, as drivers want it.
static int choose_number(const struct device_option *d, u32 taken, unsigned max, unsigned *nr, struct error *err)
{
    *nr = device_was_set(d, "nr") ? (unsigned)device_number(d, "nr") : d->kind == DEVICE_VIRTCONSOLE ? 0 : 1;
    if (device_was_set(d, "nr") && *nr < max && taken >> *nr & 1)
        return error_set(err, -EBUSY, "-device %s: nr=%u is taken; give another", d->type->name, *nr);
    while (*nr < max && taken >> *nr & 1)
        ++*nr;
    if (*nr >= max)
        return error_set(err, -ENOSPC,
                         "-device %s: port %u of virtio-serial-pci is past its max_ports=%u; give it more",
                         d->type->name, *nr, max);
    if (!*nr && d->kind == DEVICE_VIRTSERIALPORT)
        return error_set(err, -EINVAL, "-device virtserialport: nr=0 is for a virtconsole; give another");
    return 0;
}

static int check_bus(const struct device_option *d, const struct device_option *controller, struct error *err)
{
    const char *bus = device_text(d, "bus");
    size_t len = bus ? strcspn(bus, ".") : 0;

    if (!bus || (controller->id && strlen(controller->id) == len && !strncmp(bus, controller->id, len)))
        return 0;
    return error_set(err, -ENOENT, "-device %s: bus=%s: no virtio-serial-pci has this id", d->type->name, bus);
}

static int add_port(struct ports *p, const struct device_option *d, unsigned nr, struct chardevs *chars,
                    struct virtio_console_port_config *c, struct error *err)
{
    struct char_use u = {.how = CHAR_ID, .option = "device", .spec.id = device_text(d, "chardev")};
    struct port *port = &p->port[p->count];
    struct chardev *dev;
    int ret;

    *c = (struct virtio_console_port_config){
        .nr = nr, .name = device_text(d, "name"), .console = d->kind == DEVICE_VIRTCONSOLE};
    if (c->name && strlen(c->name) >= VIRTIO_CONSOLE_NAME)
        return error_set(err, -EINVAL, "-device %s: name=%s: longer than %d characters", d->type->name, c->name,
                         VIRTIO_CONSOLE_NAME - 1);
    if (!u.spec.id)
        return 0; // nobody there
    *port = (struct port){.all = p, .nr = nr};
    port->front.arg = port;
    port->front.input = on_room;
    port->front.room = on_room;
    port->front.event = on_event;
    ret = chars_open(chars, &u, &dev, err);
    if (!ret)
        ret = chars_attach(dev, &port->front, d->type->name, err);
    c->connected = !ret && chardev_connected(&port->front);
    c->peer = (struct virtio_console_peer){port_tx, port_rx, NULL, &port->front, &port->front};
    p->count += !ret;
    return ret;
}

static int collect(struct ports *p, const struct run_options *o, const struct device_option *controller,
                   struct chardevs *chars, struct virtio_console_config *c, struct virtio_console_port_config *port,
                   struct error *err)
{
    u32 taken = 0;
    int ret = 0;

    // Ports with a number of their own first, so that the others do not take it.
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < o->device_count && !ret; i++) {
            const struct device_option *d = &o->device[i];
            unsigned nr;
            if ((d->kind != DEVICE_VIRTCONSOLE && d->kind != DEVICE_VIRTSERIALPORT) ||
                device_was_set(d, "nr") != (pass == 0))
                continue;
            ret = check_bus(d, controller, err);
            if (!ret)
                ret = choose_number(d, taken, c->max_ports, &nr, err);
            if (!ret)
                ret = add_port(p, d, nr, chars, &port[c->port_count], err);
            if (ret)
                return ret;
            taken |= 1u << nr;
            c->port_count++;
        }
    return ret;
}

int ports_create(struct ports *p, const struct run_options *o, struct chardevs *chars, struct pc *b, struct error *err)
{
    struct virtio_console_port_config port[VIRTIO_CONSOLE_PORTS];
    struct virtio_console_config c = {.port = port};
    struct pc_place place;
    int ret;
    const struct device_option *controller = find_controller(o, err, &ret);

    p->board = b;
    p->always = o->icount;
    for (unsigned i = 0; i < o->device_count && !controller; i++)
        if (o->device[i].kind == DEVICE_VIRTCONSOLE || o->device[i].kind == DEVICE_VIRTSERIALPORT)
            return error_set(err, -ENOENT, "-device %s: no controller; put -device virtio-serial-pci before it",
                             o->device[i].type->name);
    if (ret || !controller)
        return ret;
    c.max_ports = (unsigned)device_number(controller, "max_ports");
    ret = collect(p, o, controller, chars, &c, port, err);
    if (!ret)
        ret = disks_place(controller, &place, err);
    return ret ? ret : pc_add_virtio_console(b, &place, &c, &p->dev, err);
}
