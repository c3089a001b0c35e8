// The board's virtio devices: memory for each, and a place on the PCI bus.

#include "board/pc_virtio.h"

#include <errno.h>
#include <string.h>

// In front of each device's memory.
struct pc_virtio {
    struct pc_virtio *next;
    u64 size; // with this
};

#define HEAD 64u // bytes of it, so that the device is aligned

_Static_assert(sizeof(struct pc_virtio) <= HEAD, "it fits");

static void *new_device(struct pc *b, const char *name, u64 size, struct error *err)
{
    struct host *h = b->m.host;
    struct pc_virtio *p = h->ops->mem_alloc(h->self, name, size + HEAD);

    if (!p) {
        error_format(err, "-device %s: cannot allocate host memory; free some", name);
        return NULL;
    }
    p->size = size + HEAD;
    p->next = b->virtio;
    b->virtio = p;
    return (u8 *)p + HEAD;
}

void pc_free_virtio(struct pc *b)
{
    struct host *h = b->m.host;

    while (b->virtio) {
        struct pc_virtio *p = b->virtio;
        b->virtio = p->next;
        h->ops->mem_free(h->self, p, p->size);
    }
}

static struct virtio_attach attach(struct pc *b, const struct pc_place *p)
{
    return (struct virtio_attach){.bus = &b->pci,
                                  .devfn = p->devfn,
                                  .kind = p->kind,
                                  .no_msix = p->no_msix,
                                  .mem = &b->m.mem,
                                  .clock = &b->m.clock,
                                  .dev_lock = &b->m.dev_lock,
                                  .host = b->m.host};
}

static int done(const char *name, const struct pc_place *p, int ret, struct error *err)
{
    if (ret == -EBUSY)
        return error_set(err, ret, "-device %s: slot 0x%x of the PCI bus is taken; choose another addr", name,
                         PCI_SLOT(p->devfn));
    if (ret == -ENOSPC)
        return error_set(err, ret, "-device %s: the PCI bus is full; leave a device out", name);
    return ret ? error_set(err, ret, "-device %s: cannot create it: %s", name, strerror(-ret)) : 0;
}

int pc_add_virtio_blk(struct pc *b, const struct pc_place *p, const struct virtio_blk_config *c, struct error *err)
{
    static const char name[] = "virtio-blk-pci";
    struct virtio_blk *d = new_device(b, name, sizeof(*d), err);
    struct virtio_attach at = attach(b, p);

    return d ? done(name, p, virtio_blk_create(d, &at, c), err) : -ENOMEM;
}

int pc_add_virtio_rng(struct pc *b, const struct pc_place *p, const struct virtio_rng_config *c, struct error *err)
{
    static const char name[] = "virtio-rng-pci";
    struct virtio_rng *d = new_device(b, name, sizeof(*d), err);
    struct virtio_attach at = attach(b, p);

    return d ? done(name, p, virtio_rng_create(d, &at, c), err) : -ENOMEM;
}

int pc_add_virtio_balloon(struct pc *b, const struct pc_place *p, const struct virtio_balloon_config *c,
                          struct error *err)
{
    static const char name[] = "virtio-balloon-pci";
    struct virtio_attach at = attach(b, p);

    if (b->balloon)
        return error_set(err, -EEXIST, "-device %s: there is one already; leave one out", name);
    b->balloon = new_device(b, name, sizeof(*b->balloon), err);
    return b->balloon ? done(name, p, virtio_balloon_create(b->balloon, &at, c), err) : -ENOMEM;
}

int pc_add_virtio_console(struct pc *b, const struct pc_place *p, const struct virtio_console_config *c,
                          struct virtio_console **out, struct error *err)
{
    static const char name[] = "virtio-serial-pci";
    struct virtio_attach at = attach(b, p);

    *out = new_device(b, name, sizeof(**out), err);
    return *out ? done(name, p, virtio_console_create(*out, &at, c), err) : -ENOMEM;
}
