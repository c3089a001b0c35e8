// A hostile driver of virtio devices: any sequence of register accesses, on a block, an entropy, a balloon and a console device, with
// rings that say anything. Shortcuts negotiate and enable queues, so that inputs get beyond that.
#include <assert.h>
#include <errno.h>

#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_env.h"
#include "dev/virtio_rng.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RINGS 0x4000
#define DEVICES 4
#define SECTORS 128u

struct disk {
    struct blk_backend b; // first
    struct blk_request *waiting[VIRTIO_BLK_REQUESTS];
    unsigned count;
    u8 bytes[SECTORS * BLK_SECTOR];
};

struct world {
    struct env *e;
    struct disk disk;
    struct virtio_blk blk;
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_console console;
    struct driver d[DEVICES];
};

// --- far ends -------------------------------------------------------------------------------------------------------------

static int disk_start(struct blk_backend *b, struct lock *dev_lock)
{
    (void)b, (void)dev_lock;
    return 0;
}

static void disk_submit(struct blk_backend *b, struct blk_request *r)
{
    struct disk *k = (struct disk *)b;

    assert(k->count < ARRAY_LEN(k->waiting));
    assert(r->off <= b->size && r->len <= b->size - r->off);
    k->waiting[k->count++] = r;
}

static void disk_complete(struct disk *k, int result)
{
    struct blk_request *r = k->waiting[--k->count];
    u8 *p = k->bytes + r->off;

    for (unsigned i = 0; i < r->seg_count && !result; p += r->seg[i++].len) {
        assert(p + r->seg[i].len <= k->bytes + sizeof(k->bytes));
        if (r->op == BLK_READ)
            memcpy(r->seg[i].host, p, r->seg[i].len);
        else
            memmove(p, r->seg[i].host, r->seg[i].len);
    }
    r->result = result;
    r->done(r, k->count & 1);
}

static void disk_drain(struct blk_backend *b, bool cancel)
{
    struct disk *k = (struct disk *)b;

    while (k->count)
        disk_complete(k, cancel ? -ECANCELED : 0);
}

static u64 random_bytes(void *source, void *buf, u64 len)
{
    (void)source;
    memset(buf, 0x11, len);
    return len;
}

static void discard(void *host, u8 *p, u64 len)
{
    (void)host;
    memset(p, 0, len);
}

static u64 port_tx(void *out, const u8 *bytes, u64 len)
{
    static u8 got[4096];

    (void)out;
    memcpy(got, bytes, len);
    return len > 100 ? 100 : len;
}

static u64 port_rx(void *in, u8 *bytes, u64 max)
{
    u64 n = max < 70 ? max : 70;

    (void)in;
    memset(bytes, 'x', n);
    return n;
}

// --- the world ------------------------------------------------------------------------------------------------------------

static struct world *new_world(void)
{
    static const struct blk_backend_ops disk_ops = {disk_start, disk_submit, disk_drain};
    const struct virtio_console_peer peer = {.tx = port_tx, .rx = port_rx};
    const struct virtio_console_port_config ports[] = {{.nr = 0, .console = true, .connected = true, .peer = peer},
                                                       {.nr = 2, .name = "name", .peer = peer}};
    struct world *w = calloc(1, sizeof(*w));
    struct virtio_attach a;

    w->e = env_new();
    a = env_attach(w->e, VIRTIO_PCI_TRANSITIONAL);
    w->disk.b = (struct blk_backend){.ops = &disk_ops, .size = sizeof(w->disk.bytes), .logical = 512, .physical = 512};
    if (virtio_blk_create(&w->blk, &a, &(struct virtio_blk_config){.backend = &w->disk.b, .serial = "serial"}) ||
        virtio_rng_create(&w->rng, &a, &(struct virtio_rng_config){.random = random_bytes}) ||
        virtio_balloon_create(&w->balloon, &a, &(struct virtio_balloon_config){.discard = discard}) ||
        virtio_console_create(&w->console, &a, &(struct virtio_console_config){3, ports, 2}))
        abort();
    return w;
}

static void start_over(struct world *w)
{
    pci_bus_reset(&w->e->bus);
    assert(!w->disk.count);
    memset(w->e->ram, 0, 0x40000);
    driver_init(&w->d[0], w->e, &w->blk.v, &w->blk.pci, false);
    driver_init(&w->d[1], w->e, &w->rng.v, &w->rng.pci, false);
    driver_init(&w->d[2], w->e, &w->balloon.v, &w->balloon.pci, false);
    driver_init(&w->d[3], w->e, &w->console.v, &w->console.pci, false);
}

// Addresses that are worth trying, from 16 bits.
static u64 address(u16 a)
{
    static const u64 special[] = {ENV_HIGH - 8, ENV_ROM,         ENV_ROM + 4090, ENV_MMIO,         ENV_HOLE,
                                  ~0ull - 7,    2 * ENV_RAM - 8, 1ull << 63,     0xfffffffffffull, RINGS};

    return a < 0xff00 ? a * 4ull : special[a % ARRAY_LEN(special)];
}

static void publish(struct driver *d, unsigned queue, u16 head, u16 count)
{
    struct ring *r = &d->ring[queue];

    if (!r->size)
        return;
    for (u16 i = 0; i < count; i++)
        driver_publish(d, queue, head);
    driver_kick(d, queue);
}

static void outside(struct world *w, u8 what, u32 val)
{
    switch (what % 5) {
    case 0:
        if (w->disk.count)
            disk_complete(&w->disk, val & 1 ? -EIO : 0);
        break;
    case 1: virtio_console_poll(&w->console, val % 4); break;
    case 2: virtio_console_connect(&w->console, val % 4, val & 16); break;
    case 3: virtio_balloon_ask(&w->balloon); break;
    case 4: virtio_balloon_set_target(&w->balloon, val); break;
    }
    for (unsigned i = 0; i < DEVICES; i++)
        virtio_continue(w->d[i].v);
}

// One step of 8 bytes: what, for whom, 16 bits, 32 bits.
static void step(struct world *w, const u8 *s)
{
    struct driver *d = &w->d[s[1] % DEVICES];
    unsigned size = 1u << (s[1] >> 2 & 3), queue = (s[1] >> 4) % VIRTIO_MAX_QUEUES;
    u16 a = (u16)(s[2] | s[3] << 8);
    u32 val;

    memcpy(&val, s + 4, 4);
    d->legacy = s[0] & 0x80;
    switch (s[0] % 9) {
    case 0: wr(d, a % 0x3200, size, val); break;
    case 1: wr(d, a % 0x40, size, val); break;
    case 2: rd(d, a % 0x3200, size); break;
    case 3: pci_config_write(d->pci, a % 0xfc & ~3u, 4, val); break;
    case 4: driver_start(d, val | (u64)(a & 0xff) << 32, RINGS); break;
    case 5: // a descriptor
        if (d->ring[queue].size)
            put_desc(d, queue, s[7] % 8, address(a), s[4] & 0xc0 ? s[5] : (u32)s[5] << 8 | s[6], s[4] & 7, s[6] % 9);
        break;
    case 6: publish(d, queue, s[4] % 9, s[5] % 12); break;
    case 7: mem_write(&w->e->mem, address(a), &val, 4); break;
    case 8: outside(w, s[4], val >> 8); break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct world *w;

    if (!w)
        w = new_world();
    start_over(w);
    for (size_t at = 0; at + 8 <= size && at < 8 * 500; at += 8)
        step(w, data + at);
    return 0;
}
