// From -drive, -blockdev, -object and -device virtio-* to images and devices.

#include "cli/disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/blockio.h"
#include "host/discard.h"
#include "host/random.h"

// --- where a device goes --------------------------------------------------------------------------------------------------

// SLOT[.FUNCTION], both hexadecimal, as QEMU has it.
static bool parse_addr(const char *text, unsigned *devfn)
{
    char *end;
    unsigned long slot, fn;

    if (*text == '-' || *text == '+' || *text == ' ')
        return false;
    slot = strtoul(text, &end, 16);
    fn = *end == '.' && end[1] >= '0' && end[1] <= '7' ? strtoul(end + 1, &end, 16) : 0;
    *devfn = (unsigned)PCI_DEVFN(slot, fn);
    return *text && !*end && slot < 32 && fn < 8;
}

int disks_place(const struct device_option *d, struct pc_place *p, struct error *err)
{
    const char *addr = device_text(d, "addr"), *no_legacy = device_text(d, "disable-legacy");
    bool modern = false;

    *p = (struct pc_place){.devfn = PCI_DEVFN_ANY, .no_msix = !device_number(d, "vectors")};
    if (addr && !parse_addr(addr, &p->devfn))
        return error_set(err, -EINVAL, "-device %s: addr=%s: must be SLOT or SLOT.FUNCTION in hexadecimal",
                         d->type->name, addr);
    if (strcmp(no_legacy, "auto") && !parse_bool(no_legacy, &modern))
        return error_set(err, -EINVAL, "-device %s: disable-legacy=%s: must be on, off or auto", d->type->name,
                         no_legacy);
    p->kind = modern ? VIRTIO_PCI_MODERN : VIRTIO_PCI_TRANSITIONAL;
    if (device_number(d, "disable-modern"))
        p->kind = VIRTIO_PCI_LEGACY;
    if (modern && p->kind == VIRTIO_PCI_LEGACY)
        return error_set(err, -EINVAL, "-device %s: disable-legacy=on and disable-modern=on leave nothing",
                         d->type->name);
    return 0;
}

// --- disks ----------------------------------------------------------------------------------------------------------------

static int find_drive(const struct run_options *o, const char *id)
{
    for (unsigned i = 0; i < o->drive_count; i++)
        if (o->drive[i].id && !strcmp(o->drive[i].id, id))
            return (int)i;
    return -1;
}

// The -blockdev that has the file: a raw one names another.
static int resolve(const struct run_options *o, unsigned i, struct error *err)
{
    const struct drive_option *d = &o->drive[i];
    int below = d->node ? find_drive(o, d->node) : (int)i;

    if (below < 0 || !o->drive[below].file)
        return error_set(err, -ENOENT, "%s: file=%s: no -blockdev has this node-name and a file", d->what, d->node);
    return below;
}

static int attach(struct disks *disks, const struct run_options *o, unsigned i, struct pc *b,
                  const struct pc_place *place, const char *serial, struct error *err)
{
    const struct drive_option *top = &o->drive[i], *d;
    int n = resolve(o, i, err), ret;

    if (n < 0)
        return n;
    d = &o->drive[n];
    struct blockio_options options = {.path = d->file,
                                      .option = d->what,
                                      .readonly = d->readonly || top->readonly,
                                      .snapshot = d->snapshot,
                                      .unmap = d->unmap || top->unmap,
                                      .no_flush = d->no_flush || top->no_flush,
                                      .no_lock = d->no_lock};
    struct virtio_blk_config c = {.serial = serial ? serial : d->serial, .writethrough = d->writethrough};
    if (c.serial && strlen(c.serial) > VIRTIO_BLK_SERIAL)
        return error_set(err, -EINVAL, "%s: serial=%s: longer than %d characters", d->what, c.serial,
                         VIRTIO_BLK_SERIAL);
    if (disks->used[n])
        return error_set(err, -EBUSY, "%s: two devices use it; give each a drive of its own", d->what);
    disks->used[n] = true;
    ret = blockio_open(&options, &disks->backend[n], err);
    if (ret)
        return ret;
    c.backend = disks->backend[n];
    if (o->icount) {
        if (blk_timed_init(&disks->timed[n], disks->backend[n], &b->m.clock))
            return error_set(err, -ENOSPC, "%s: no timer left for it; have fewer devices", d->what);
        c.backend = &disks->timed[n].b;
    }
    return pc_add_virtio_blk(b, place, &c, err);
}

static int add_disk(struct disks *disks, const struct run_options *o, const struct device_option *d,
                    const struct pc_place *place, struct pc *b, struct error *err)
{
    const char *id = device_text(d, "drive");
    int n = id ? find_drive(o, id) : -1;

    if (!id)
        return error_set(err, -EINVAL, "-device %s: no drive; add drive=ID, and -drive file=PATH,if=none,id=ID",
                         d->type->name);
    if (n < 0)
        return error_set(err, -ENOENT, "-device %s: drive=%s: no -drive or -blockdev has this id", d->type->name, id);
    if (o->drive[n].attach)
        return error_set(err, -EBUSY, "-device %s: drive=%s has a device already; give the -drive if=none",
                         d->type->name, id);
    return attach(disks, o, (unsigned)n, b, place, device_text(d, "serial"), err);
}

// --- randomness -----------------------------------------------------------------------------------------------------------

// The same numbers in every run (xorshift64*).
static u64 repeatable_random(void *source, void *buf, u64 len)
{
    u64 *state = source;

    for (u64 i = 0; i < len; i++) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        ((u8 *)buf)[i] = (u8)((*state * 0x2545f4914f6cdd1dull) >> 56);
    }
    return len;
}

static int add_rng(struct disks *disks, const struct run_options *o, const struct device_option *d,
                   const struct pc_place *place, struct pc *b, struct error *err)
{
    struct virtio_rng_config config = {.random = host_random};
    const char *id = device_text(d, "rng");
    bool found = !id;

    for (unsigned i = 0; i < o->object_count && !found; i++)
        found = !strcmp(o->object[i].id, id);
    if (!found)
        return error_set(err, -ENOENT, "-device %s: rng=%s: no -object has this id", d->type->name, id);
    if (o->icount) {
        disks->random = 1;
        config.random = repeatable_random;
        config.source = &disks->random;
    }
    return pc_add_virtio_rng(b, place, &config, err);
}

// --- memory -----------------------------------------------------------------------------------------------------------------

static int add_balloon(const struct device_option *d, const struct pc_place *place, struct pc *b, struct error *err)
{
    struct virtio_balloon_config c = {.discard = host_discard, .deflate_on_oom = device_number(d, "deflate-on-oom")};

    return pc_add_virtio_balloon(b, place, &c, err);
}

// --- all ------------------------------------------------------------------------------------------------------------------

// Devices with an address of their own first, so that the others do not take it.
static int create_devices(struct disks *disks, const struct run_options *o, struct pc *b, bool placed,
                          struct error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < o->device_count && !ret; i++) {
        const struct device_option *d = &o->device[i];
        struct pc_place place;

        if (d->kind != DEVICE_VIRTIO_BLK && d->kind != DEVICE_VIRTIO_RNG && d->kind != DEVICE_VIRTIO_BALLOON)
            continue;
        ret = disks_place(d, &place, err);
        if (ret || (place.devfn != PCI_DEVFN_ANY) != placed)
            continue;
        if (d->kind == DEVICE_VIRTIO_BLK)
            ret = add_disk(disks, o, d, &place, b, err);
        else if (d->kind == DEVICE_VIRTIO_RNG)
            ret = add_rng(disks, o, d, &place, b, err);
        else
            ret = add_balloon(d, &place, b, err);
    }
    return ret;
}

int disks_create(struct disks *disks, const struct run_options *o, struct pc *b, struct error *err)
{
    const struct pc_place any = {.devfn = PCI_DEVFN_ANY};
    int ret = create_devices(disks, o, b, true, err);

    for (unsigned i = 0; i < o->drive_count && !ret; i++)
        if (o->drive[i].attach)
            ret = attach(disks, o, i, b, &any, NULL, err);
    return ret ? ret : create_devices(disks, o, b, false, err);
}

void disks_close(struct disks *disks)
{
    for (unsigned i = 0; i < OPTIONS_MAX_DRIVES; i++)
        if (disks->backend[i])
            blockio_close(disks->backend[i]);
    memset(disks->backend, 0, sizeof(disks->backend));
}
