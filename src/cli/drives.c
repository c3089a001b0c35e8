// -drive and virtio devices: parsing, opening, attaching. Each key is a row of a table.

#include "cli/drives.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/blockio.h"
#include "host/random.h"

// --- KEY=VALUE,... ----------------------------------------------------------------------------------------------------------

struct property {
    char key[32], value[PATH_SIZE];
};

// The next "key=value" or "key" of a list; ",," in a value is a comma. Returns what follows, NULL when it is too long.
static const char *next_property(const char *text, struct property *p)
{
    size_t key = strcspn(text, "=,"), n = 0;

    if (key >= sizeof(p->key))
        return NULL;
    memcpy(p->key, text, key);
    p->key[key] = 0;
    text += key;
    if (*text == '=')
        for (text++; *text && (*text != ',' || text[1] == ','); text++) {
            text += *text == ',';
            if (n + 1 == sizeof(p->value))
                return NULL;
            p->value[n++] = *text;
        }
    p->value[n] = 0;
    return *text == ',' ? text + 1 : text;
}

// A row of a table of keys: set() gets the object that the option makes.
struct key_row {
    const char *key, *values; // values: for messages
    bool (*set)(void *object, const char *value);
};

static int set_property(const char *option, const struct key_row *rows, size_t count, void *object,
                        const struct property *p, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].key, p->key))
            continue;
        if (rows[i].set(object, p->value))
            return 0;
        return error_set(err, -EINVAL, "%s: %s=%s: must be %s", option, p->key, p->value, rows[i].values);
    }
    char known[400] = "";
    for (size_t i = 0; i < count; i++) {
        strncat(known, i ? " " : "", sizeof(known) - strlen(known) - 1);
        strncat(known, rows[i].key, sizeof(known) - strlen(known) - 1);
    }
    return error_set(err, -EINVAL, "%s: unknown property %s; known are %s", option, p->key, known);
}

static int parse_list(const char *option, const struct key_row *rows, size_t count, void *object, const char *text,
                      struct error *err)
{
    struct property p;
    int ret = 0;

    while (*text && !ret) {
        text = next_property(text, &p);
        if (!text)
            return error_set(err, -EINVAL, "%s: a property is longer than %d characters", option, PATH_SIZE - 1);
        ret = set_property(option, rows, count, object, &p, err);
    }
    return ret;
}

static bool set_flag(bool *flag, const char *value)
{
    *flag = !*value || !strcmp(value, "on");
    return *flag || !strcmp(value, "off");
}

static bool set_text(char *to, size_t size, const char *value)
{
    if (!*value || strlen(value) >= size)
        return false;
    memcpy(to, value, strlen(value) + 1);
    return true;
}

// --- -drive -----------------------------------------------------------------------------------------------------------------

static bool drive_file(void *d, const char *v)
{
    return set_text(((struct drive_spec *)d)->file, PATH_SIZE, v);
}

static bool drive_id(void *d, const char *v)
{
    return set_text(((struct drive_spec *)d)->id, ID_SIZE, v);
}

static bool drive_format(void *d, const char *v)
{
    (void)d;
    return !strcmp(v, "raw");
}

static bool drive_if(void *d, const char *v)
{
    ((struct drive_spec *)d)->on_virtio = !strcmp(v, "virtio");
    return !strcmp(v, "virtio") || !strcmp(v, "none");
}

static bool drive_media(void *d, const char *v)
{
    (void)d;
    return !strcmp(v, "disk");
}

static bool drive_readonly(void *d, const char *v)
{
    return set_flag(&((struct drive_spec *)d)->readonly, v);
}

static bool drive_snapshot(void *d, const char *v)
{
    return set_flag(&((struct drive_spec *)d)->snapshot, v);
}

static bool drive_discard(void *d, const char *v)
{
    bool on = !strcmp(v, "unmap") || !strcmp(v, "on");

    ((struct drive_spec *)d)->unmap = on;
    return on || !strcmp(v, "ignore") || !strcmp(v, "off");
}

static bool drive_cache(void *d, const char *v)
{
    struct drive_spec *s = d;

    s->writethrough = !strcmp(v, "writethrough");
    s->no_flush = !strcmp(v, "unsafe");
    return s->writethrough || s->no_flush || !strcmp(v, "writeback");
}

static const struct key_row drive_rows[] = {
    {"file", "a path", drive_file},
    {"format", "raw", drive_format},
    {"if", "virtio or none", drive_if},
    {"id", "a name of up to 63 characters", drive_id},
    {"media", "disk", drive_media},
    {"readonly", "on or off", drive_readonly},
    {"snapshot", "on or off", drive_snapshot},
    {"cache", "writeback, writethrough or unsafe", drive_cache},
    {"discard", "unmap or ignore", drive_discard},
};

int drives_parse(struct drives *d, const char *arg, struct error *err)
{
    struct drive_spec *s = &d->drive[d->drive_count];
    int ret;

    if (d->drive_count == MAX_DRIVES)
        return error_set(err, -E2BIG, "-drive: more than %d drives; leave some out", MAX_DRIVES);
    *s = (struct drive_spec){.on_virtio = false};
    ret = parse_list("-drive", drive_rows, ARRAY_LEN(drive_rows), s, arg, err);
    if (ret)
        return ret;
    if (!s->file[0])
        return error_set(err, -EINVAL, "-drive %s: no image; add file=PATH", arg);
    if (!s->on_virtio && !s->id[0])
        return error_set(
            err, -EINVAL,
            "-drive %s: on no controller; add if=virtio, or if=none,id=NAME and -device virtio-blk-pci,drive=NAME",
            arg);
    for (unsigned i = 0; s->id[0] && i < d->drive_count; i++)
        if (!strcmp(d->drive[i].id, s->id))
            return error_set(err, -EEXIST, "-drive %s: there is a drive with id=%s already; choose another", arg,
                             s->id);
    d->drive_count++;
    return 0;
}

// --- -device virtio-* ---------------------------------------------------------------------------------------------------------

static bool device_drive(void *d, const char *v)
{
    return set_text(((struct virtio_spec *)d)->drive, ID_SIZE, v);
}

static bool device_serial(void *d, const char *v)
{
    return set_text(((struct virtio_spec *)d)->serial, sizeof(((struct virtio_spec *)d)->serial), v);
}

// SLOT[.FUNCTION], both hexadecimal, as QEMU has it.
static bool device_addr(void *d, const char *v)
{
    struct virtio_spec *s = d;
    char *end;
    unsigned long slot = strtoul(v, &end, 16), fn = *end == '.' ? strtoul(end + 1, &end, 16) : 0;

    s->place.devfn = (unsigned)PCI_DEVFN(slot, fn);
    return *v && !*end && slot < 32 && fn < 8;
}

static bool device_no_legacy(void *d, const char *v)
{
    struct virtio_spec *s = d;
    bool on;

    if (!strcmp(v, "auto"))
        return true;
    if (!set_flag(&on, v))
        return false;
    s->place.kind = on ? VIRTIO_PCI_MODERN : VIRTIO_PCI_TRANSITIONAL;
    return true;
}

static bool device_no_modern(void *d, const char *v)
{
    struct virtio_spec *s = d;
    bool on;

    if (!set_flag(&on, v))
        return false;
    if (on)
        s->place.kind = VIRTIO_PCI_LEGACY;
    return true;
}

static bool device_vectors(void *d, const char *v)
{
    ((struct virtio_spec *)d)->place.no_msix = !strcmp(v, "0");
    return !strcmp(v, "0") || !strcmp(v, "2");
}

#define PCI_ROWS \
    {"addr", "SLOT[.FUNCTION] of the PCI bus", device_addr}, {"disable-legacy", "on, off or auto", device_no_legacy}, \
        {"disable-modern", "on or off", device_no_modern}, \
    { \
        "vectors", "0 or 2", device_vectors \
    }

static const struct key_row blk_rows[] = {
    {"drive", "the id of a -drive", device_drive}, {"serial", "up to 20 characters", device_serial}, PCI_ROWS};
static const struct key_row rng_rows[] = {PCI_ROWS};

static const struct {
    const char *name, *option;
    const struct key_row *rows;
    size_t count;
} devices[] = {
    [VIRTIO_BLK] = {"virtio-blk-pci", "-device virtio-blk-pci", blk_rows, ARRAY_LEN(blk_rows)},
    [VIRTIO_RNG] = {"virtio-rng-pci", "-device virtio-rng-pci", rng_rows, ARRAY_LEN(rng_rows)},
};

static int find_device(const char *arg)
{
    size_t len = strcspn(arg, ",");

    for (size_t i = 0; i < ARRAY_LEN(devices); i++)
        if (strlen(devices[i].name) == len && !strncmp(devices[i].name, arg, len))
            return (int)i;
    return -1;
}

bool drives_know(const char *device_arg)
{
    return find_device(device_arg) >= 0;
}

int drives_parse_device(struct drives *d, const char *arg, struct error *err)
{
    int kind = find_device(arg);
    struct virtio_spec *s = &d->device[d->device_count];
    size_t len = strcspn(arg, ",");
    int ret;

    if (d->device_count == MAX_VIRTIO)
        return error_set(err, -E2BIG, "-device: more than %d virtio devices; leave some out", MAX_VIRTIO);
    *s = (struct virtio_spec){.kind = (enum virtio_kind)kind, .place.devfn = PCI_DEVFN_ANY};
    ret = parse_list(devices[kind].option, devices[kind].rows, devices[kind].count, s, arg[len] ? arg + len + 1 : "",
                     err);
    if (!ret && kind == VIRTIO_BLK && !s->drive[0])
        return error_set(err, -EINVAL,
                         "-device virtio-blk-pci: no drive; add drive=ID, and -drive file=PATH,if=none,id=ID");
    d->device_count += !ret;
    return ret;
}

// --- building -----------------------------------------------------------------------------------------------------------------

static int attach(struct drives *d, unsigned i, struct pc *b, const struct pc_place *place, const char *serial,
                  struct error *err)
{
    const struct drive_spec *s = &d->drive[i];
    char name[600];
    struct blockio_options o = {.path = s->file,
                                .option = name,
                                .readonly = s->readonly,
                                .snapshot = s->snapshot,
                                .unmap = s->unmap,
                                .no_flush = s->no_flush};
    struct virtio_blk_config c = {.serial = serial, .writethrough = s->writethrough};
    int ret;

    snprintf(name, sizeof(name), "-drive file=%.500s", s->file);
    if (d->used[i])
        return error_set(err, -EBUSY, "%s: two devices have drive=%s; give each its own", name, s->id);
    d->used[i] = true;
    ret = blockio_open(&o, &d->backend[i], err);
    if (ret)
        return ret;
    c.backend = d->backend[i];
    return pc_add_virtio_blk(b, place, &c, err);
}

static int attach_named(struct drives *d, const struct virtio_spec *s, struct pc *b, struct error *err)
{
    for (unsigned i = 0; i < d->drive_count; i++)
        if (!strcmp(d->drive[i].id, s->drive)) {
            if (d->drive[i].on_virtio)
                return error_set(err, -EBUSY,
                                 "-device virtio-blk-pci: drive=%s has a device by if=virtio; make it if=none",
                                 s->drive);
            return attach(d, i, b, &s->place, s->serial, err);
        }
    return error_set(err, -ENOENT, "-device virtio-blk-pci: drive=%s: no -drive has this id", s->drive);
}

// Devices with an address of their own first, so that the others do not take it.
static int create_devices(struct drives *d, struct pc *b, bool placed, struct error *err)
{
    const struct virtio_rng_config random = {.random = host_random};
    int ret = 0;

    for (unsigned i = 0; i < d->device_count && !ret; i++) {
        const struct virtio_spec *s = &d->device[i];
        if ((s->place.devfn != PCI_DEVFN_ANY) != placed)
            continue;
        if (s->kind == VIRTIO_BLK)
            ret = attach_named(d, s, b, err);
        else
            ret = pc_add_virtio_rng(b, &s->place, &random, err);
    }
    return ret;
}

int drives_create(struct drives *d, struct pc *b, struct error *err)
{
    const struct pc_place any = {.devfn = PCI_DEVFN_ANY};
    int ret = create_devices(d, b, true, err);

    for (unsigned i = 0; i < d->drive_count && !ret; i++)
        if (d->drive[i].on_virtio)
            ret = attach(d, i, b, &any, NULL, err);
    return ret ? ret : create_devices(d, b, false, err);
}

void drives_close(struct drives *d)
{
    for (unsigned i = 0; i < d->drive_count; i++)
        if (d->backend[i])
            blockio_close(d->backend[i]);
    memset(d->backend, 0, sizeof(d->backend));
}
