// Character devices of one run.
//
// Without -serial the first port is standard input and output, unless -nodefaults or -daemonize say otherwise.

#include "cli/consoles.h"

#include <errno.h>

static int open_chardevs(struct vm *vm, const struct run_options *o, struct error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < o->chardev_count && !ret; i++) {
        struct char_use u = {.how = CHAR_OPEN, .spec = o->chardev[i], .option = "chardev"};
        struct chardev *c;
        ret = chars_open(&vm->chars, &u, &c, err);
    }
    return ret;
}

// Open what `u` names and attach `f`. *there: there is something.
static int connect_front(struct vm *vm, const struct char_use *u, struct chardev_front *f, bool *there,
                         struct error *err)
{
    struct chardev *c;
    int ret = chars_open(&vm->chars, u, &c, err);

    *there = !ret && c;
    return *there ? chars_attach(c, f, u->option, err) : ret;
}

static int connect_serial(struct vm *vm, struct pc_options *pc, unsigned n, const struct char_use *u, struct error *err)
{
    int ret = connect_front(vm, u, &vm->serial[n].front, &pc->serial[n], err);

    pc->serial_peer[n] = vm_peer(vm, n);
    return ret;
}

static int open_serials(struct vm *vm, const struct run_options *o, struct pc_options *pc, struct error *err)
{
    struct char_use standard = {
        .how = CHAR_OPEN,
        .option = "serial",
        .spec = {.kind = CHARDEV_STDIO, .keys = o->nographic ? CHARDEV_KEYS_ON : CHARDEV_KEYS_TTY}};
    int ret = 0;

    if (!o->serial_count && !o->nodefaults && !o->daemonize)
        return connect_serial(vm, pc, 0, &standard, err);
    for (unsigned i = 0; i < o->serial_count && !ret; i++)
        ret = connect_serial(vm, pc, i, &o->serial[i], err);
    return ret;
}

static int open_debugcon(struct vm *vm, const struct char_use *u, u16 base, struct pc_options *pc, struct error *err)
{
    if (pc->debugcon)
        return error_set(err, -EEXIST, "-%s: there is a debug console already; give one of them", u->option);
    pc->debugcon_base = base;
    pc->debugcon_peer = vm_peer(vm, PC_SERIALS);
    return connect_front(vm, u, &vm->debugcon.front, &pc->debugcon, err);
}

static int add_serial(struct vm *vm, const struct device_option *d, struct pc_options *pc, const struct char_use *u,
                      struct error *err)
{
    unsigned n = (unsigned)device_number(d, "index");

    for (; !device_was_set(d, "index") && n < PC_SERIALS - 1 && pc->serial[n]; n++)
        ;
    if (pc->serial[n])
        return error_set(err, -EBUSY,
                         "-device isa-serial: serial port %u is taken; give another index=, or -serial none", n);
    return connect_serial(vm, pc, n, u, err);
}

// Devices of -device that are character devices at the board's ports.
static int open_devices(struct vm *vm, const struct run_options *o, struct pc_options *pc, struct error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < o->device_count && !ret; i++) {
        const struct device_option *d = &o->device[i];
        struct char_use u = {.how = CHAR_ID, .option = "device"};

        if (d->kind != DEVICE_SERIAL && d->kind != DEVICE_DEBUGCON)
            continue;
        u.spec.id = device_text(d, "chardev");
        if (!u.spec.id)
            return error_set(err, -EINVAL, "-device %s: needs chardev=ID", d->type->name);
        ret = d->kind == DEVICE_SERIAL ? add_serial(vm, d, pc, &u, err)
                                       : open_debugcon(vm, &u, (u16)device_number(d, "iobase"), pc, err);
    }
    return ret;
}

int consoles_check(const struct vm *vm, const struct run_options *o, struct error *err)
{
    for (unsigned i = 0; o->daemonize && i < vm->chars.count; i++)
        if (vm->chars.dev[i]->spec.kind == CHARDEV_STDIO)
            return error_set(
                err, -EINVAL,
                "-daemonize: there are no standard streams in the background; use file:, unix:, pty or none");
    if (o->daemonize && o->nographic)
        return error_set(err, -EINVAL, "-daemonize: -nographic is for the foreground; use -display none");
    return 0;
}

int consoles_open(struct vm *vm, const struct run_options *o, struct pc_options *pc, struct error *err)
{
    int ret = open_chardevs(vm, o, err);

    if (!ret)
        ret = open_serials(vm, o, pc, err);
    if (!ret && o->debugcon.how != CHAR_DEFAULT)
        ret = open_debugcon(vm, &o->debugcon, 0xe9, pc, err);
    if (!ret)
        ret = open_devices(vm, o, pc, err);
    return ret;
}
