// What -device can add: one row for each kind of device and for each of its properties (devices.c). The parser, -device help and the
// manual come from these rows; whoever builds a device asks for its properties by name.
#ifndef POGO_CLI_DEVICES_H
#define POGO_CLI_DEVICES_H

#include "cli/keyval.h"

#define DEVICE_MAX_PROPS 16

enum device_kind {
    DEVICE_DEBUG_EXIT,
    DEVICE_DEBUGCON,
    DEVICE_SERIAL,
    DEVICE_TESTDEV,
    DEVICE_PVPANIC,
    DEVICE_VIRTIO_BLK,
    DEVICE_VIRTIO_RNG,
    DEVICE_VIRTIO_BALLOON,
    DEVICE_VIRTIO_SERIAL,
    DEVICE_VIRTCONSOLE,
    DEVICE_VIRTSERIALPORT,
    DEVICE_KIND_COUNT
};

enum device_prop_type { PROP_NUMBER, PROP_BOOL, PROP_TEXT };

struct device_prop {
    const char *name;
    enum device_prop_type type;
    u64 min, max;    // PROP_NUMBER
    const char *def; // as the user would write it; NULL: none
    const char *help;
};

struct device_type {
    const char *name, *bus, *help;
    struct device_prop prop[DEVICE_MAX_PROPS]; // up to the first without a name
};

// One -device.
struct device_option {
    enum device_kind kind;
    const struct device_type *type;
    const char *id; // NULL: none given
    struct {
        u64 number; // also PROP_BOOL
        const char *text;
        bool set; // by the user
    } value[DEVICE_MAX_PROPS];
};

// By kind.
const struct device_type *device_type(enum device_kind kind);
// "NAME[,KEY=VALUE...]". Returns 0 or a negative errno with *err set.
int device_parse(struct device_option *d, struct text_pool *pool, const char *arg, struct error *err);
// Properties of a parsed device, given or by default (0, NULL without one). The name must be one of its kind's.
u64 device_number(const struct device_option *d, const char *prop);
const char *device_text(const struct device_option *d, const char *prop);
bool device_was_set(const struct device_option *d, const char *prop);
// The devices, a line each; or the properties of the one called `name`. False when there is none.
void devices_print(FILE *out);
bool device_print(FILE *out, const char *name, size_t len);

#endif
