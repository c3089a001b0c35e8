// The entropy device: one queue of buffers to fill. It may fill a part (5.4.6), so that a huge buffer is no long call.

#include "dev/virtio_rng.h"

#define CLASS_OTHER 0x00ff00u
#define QUEUE_SIZE 8
#define VECTORS 2
#define MOST 1024u

static void notify(void *self, unsigned queue)
{
    struct virtio_rng *d = self;
    u8 bytes[MOST];

    while (virtio_pop(&d->v, queue, &d->chain) > 0) {
        u64 len = d->chain.in_len < MOST ? d->chain.in_len : MOST;
        len = d->config.random(d->config.source, bytes, len);
        virtio_push(&d->v, queue, &d->chain, (u32)virtio_write(&d->v, &d->chain, 0, bytes, len));
    }
    virtio_signal(&d->v, queue);
}

static void reset(void *self)
{
    (void)self;
}

static const struct virtio_ops rng_ops = {.name = "virtio-rng", .reset = reset, .notify = notify};

int virtio_rng_create(struct virtio_rng *d, const struct virtio_attach *at, const struct virtio_rng_config *c)
{
    virtio_init(&d->v, &rng_ops, d);
    virtio_add_queue(&d->v, QUEUE_SIZE);
    d->config = *c;
    return virtio_pci_add(&d->pci, &d->v, at, VIRTIO_ID_RNG, CLASS_OTHER, VECTORS);
}
