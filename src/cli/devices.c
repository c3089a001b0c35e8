// The table of devices, and -device made from it.

#include "cli/devices.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

// What every virtio device has.
#define PCI_PROPS \
    {"addr", PROP_TEXT, 0, 0, NULL, "SLOT[.FUNCTION] of the PCI bus, in hexadecimal; without it the first free slot"}, \
        {"disable-legacy", PROP_TEXT, 0, 0, "auto", "on: no legacy interface (on, off or auto)"}, \
        {"disable-modern", PROP_BOOL, 0, 0, "off", "on: legacy interface alone"}, \
    { \
        "vectors", PROP_NUMBER, 0, 2, "2", "interrupt vectors; 0: no MSI-X" \
    }

// What every port has.
#define PORT_PROPS \
    {"chardev", PROP_TEXT, 0, 0, NULL, "id of the -chardev at its other end"}, \
        {"name", PROP_TEXT, 0, 0, NULL, "its name in the guest"}, \
        {"nr", PROP_NUMBER, 0, 30, NULL, "its number; without it the first that is free"}, \
    { \
        "bus", PROP_TEXT, 0, 0, NULL, "ID.0, with the id of the virtio-serial-pci" \
    }

static const struct device_type types[DEVICE_KIND_COUNT] = {
    [DEVICE_DEBUG_EXIT] = {"isa-debug-exit",
                           "ISA",
                           "ends pogo with status 2 * N + 1 when the guest writes N",
                           {{"iobase", PROP_NUMBER, 0, 0xffff, "0x501", "first port"},
                            {"iosize", PROP_NUMBER, 1, 8, "2", "number of ports"}}},
    [DEVICE_DEBUGCON] = {"isa-debugcon",
                         "ISA",
                         "a port that prints what is written to it",
                         {{"iobase", PROP_NUMBER, 0, 0xffff, "0xe9", "its number"},
                          {"chardev", PROP_TEXT, 0, 0, NULL, "id of the -chardev that gets the output"}}},
    [DEVICE_SERIAL] = {"isa-serial",
                       "ISA",
                       "a serial port (16550A)",
                       {{"chardev", PROP_TEXT, 0, 0, NULL, "id of the -chardev at its other end"},
                        {"index", PROP_NUMBER, 0, 3, NULL, "0 is COM1; without it the first that is free"}}},
    [DEVICE_TESTDEV] = {"pc-testdev", "ISA", "ports and memory for unit-test kernels", {{0}}},
    [DEVICE_PVPANIC] = {"pvpanic",
                        "ISA",
                        "ends pogo with status 6 when the guest's kernel panics",
                        {{"ioport", PROP_NUMBER, 1, 0xffff, "0x505", "its number"}}},
    [DEVICE_VIRTIO_BLK] = {"virtio-blk-pci",
                           "PCI",
                           "a disk",
                           {{"drive", PROP_TEXT, 0, 0, NULL, "id of the -drive or -blockdev with its contents"},
                            {"serial", PROP_TEXT, 0, 0, NULL, "serial number, up to 20 characters"},
                            PCI_PROPS}},
    [DEVICE_VIRTIO_RNG] = {"virtio-rng-pci",
                           "PCI",
                           "a source of randomness",
                           {{"rng", PROP_TEXT, 0, 0, NULL, "id of an -object; without it the host's kernel"},
                            PCI_PROPS}},
    [DEVICE_VIRTIO_BALLOON] = {"virtio-balloon-pci",
                               "PCI",
                               "gives memory that the guest does not need back to the host",
                               {{"deflate-on-oom", PROP_BOOL, 0, 0, "off",
                                 "on: the guest may take memory out of it rather than end programs"},
                                PCI_PROPS}},
    [DEVICE_VIRTIO_SERIAL] = {"virtio-serial-pci",
                              "PCI",
                              "controller for virtconsole and virtserialport",
                              {{"max_ports", PROP_NUMBER, 1, 31, "31", "number of ports that it can have"}, PCI_PROPS}},
    [DEVICE_VIRTCONSOLE] = {"virtconsole", "virtio-serial", "a console (hvc0, ...)", {PORT_PROPS}},
    [DEVICE_VIRTSERIALPORT] = {"virtserialport",
                               "virtio-serial",
                               "a port for programs, /dev/virtio-ports/NAME in the guest",
                               {PORT_PROPS}},
};

const struct device_type *device_type(enum device_kind kind)
{
    return &types[kind];
}

static int find_kind(const char *name, size_t len)
{
    for (int i = 0; i < DEVICE_KIND_COUNT; i++)
        if (strlen(types[i].name) == len && !strncmp(types[i].name, name, len))
            return i;
    return -1;
}

static int parse_value(struct device_option *d, unsigned i, const char *text, struct error *err)
{
    const struct device_prop *p = &d->type->prop[i];
    bool on;

    d->value[i].text = text;
    switch (p->type) {
    case PROP_TEXT: return 0;
    case PROP_BOOL:
        if (!parse_bool(text, &on))
            return error_set(err, -EINVAL, "-device %s: %s=%s: must be on or off", d->type->name, p->name, text);
        d->value[i].number = on;
        return 0;
    case PROP_NUMBER:
        if (!parse_number(text, strlen(text), p->max, &d->value[i].number) || d->value[i].number < p->min)
            return error_set(err, -EINVAL, "-device %s: %s=%s: must be a number from 0x%llx to 0x%llx", d->type->name,
                             p->name, text, (unsigned long long)p->min, (unsigned long long)p->max);
    }
    return 0;
}

int device_parse(struct device_option *d, struct text_pool *pool, const char *arg, struct error *err)
{
    int kind = find_kind(arg, strcspn(arg, ",")), ret;
    struct keyvals k;

    if (kind < 0)
        return error_set(err, -EINVAL, "-device %.*s: unknown device; '-device help' lists them",
                         (int)strcspn(arg, ","), arg);
    *d = (struct device_option){.kind = (enum device_kind)kind, .type = &types[kind]};
    ret = keyvals_parse(&k, pool, "device", arg, "driver", err);
    if (ret)
        return ret;
    keyvals_get(&k, "driver");
    d->id = keyvals_get(&k, "id");
    for (unsigned i = 0; !ret && i < DEVICE_MAX_PROPS && d->type->prop[i].name; i++) {
        const char *text = keyvals_get(&k, d->type->prop[i].name);

        d->value[i].set = text;
        text = text ? text : d->type->prop[i].def;
        if (text)
            ret = parse_value(d, i, text, err);
    }
    if (!ret)
        ret = keyvals_done(&k, err);
    if (ret == -EINVAL && strstr(err->text, "unknown property"))
        snprintf(err->text + strlen(err->text), sizeof(err->text) - strlen(err->text), "; '-device %s,help' lists them",
                 d->type->name);
    return ret;
}

static unsigned find_prop(const struct device_option *d, const char *name)
{
    for (unsigned i = 0; i < DEVICE_MAX_PROPS && d->type->prop[i].name; i++)
        if (!strcmp(d->type->prop[i].name, name))
            return i;
    assert(!"a property that the table does not have");
    return 0;
}

u64 device_number(const struct device_option *d, const char *prop)
{
    return d->value[find_prop(d, prop)].number;
}

const char *device_text(const struct device_option *d, const char *prop)
{
    return d->value[find_prop(d, prop)].text;
}

bool device_was_set(const struct device_option *d, const char *prop)
{
    return d->value[find_prop(d, prop)].set;
}

void devices_print(FILE *out)
{
    for (int i = 0; i < DEVICE_KIND_COUNT; i++)
        fprintf(out, "  %-18s %-13s %s\n", types[i].name, types[i].bus, types[i].help);
    fprintf(out, "'-device NAME,help' lists the properties of one.\n");
}

bool device_print(FILE *out, const char *name, size_t len)
{
    int kind = find_kind(name, len);

    if (kind < 0)
        return false;
    for (unsigned i = 0; i < DEVICE_MAX_PROPS && types[kind].prop[i].name; i++) {
        const struct device_prop *p = &types[kind].prop[i];
        static const char *const names[] = {"number", "on|off", "text"};
        fprintf(out, "  %s=<%s>  %s%s%s%s\n", p->name, names[p->type], p->help, p->def ? " (default " : "",
                p->def ? p->def : "", p->def ? ")" : "");
    }
    fprintf(out, "  id=<text>  name of the device\n");
    return true;
}
