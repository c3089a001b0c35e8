// The balloon: pages that the driver puts in lose their memory at once, and get new memory from the host when they are touched again,
// so taking pages out is nothing to do. Page numbers are of 4 KiB, whatever the guest's pages are.
//
// Queues: 0 inflate, 1 deflate, 2 statistics, 3 reports of free memory. (The specification gives reports number 4, with 3 for
// another feature; drivers count the queues that exist.)

#include "dev/virtio_balloon.h"

#include <string.h>

#define CLASS_OTHER 0x00ff00u
#define QUEUE_SIZE 128

#define F_STATS (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING (1ull << 5)

enum { INFLATE, DEFLATE, STATS, REPORTING };

#define CONFIG_TARGET 0
#define CONFIG_ACTUAL 4
#define CONFIG_SIZE 8

#define PFN_SHIFT 12
#define MAX_LIST (1u << 20)     // bytes of page numbers in a chain: work for one call
#define MAX_REPORT (1ull << 30) // bytes of free memory in a chain, likewise
#define STAT_SIZE 10            // u16 tag, u64 value

// Give memory back, if it is RAM. The bytes change, so whoever derived something from them hears of it.
static void discard(struct virtio_balloon *d, gpa base, u64 len)
{
    u8 *p = len ? mem_write_ptr(d->v.mem, base, len) : NULL;

    if (!p || !d->config.discard)
        return;
    d->config.discard(d->config.host, p, len);
    mem_written(d->v.mem, base, len);
    d->discarded += len;
}

// A list of page numbers; neighbours are joined.
static void inflate(struct virtio_balloon *d)
{
    u32 pfn[256];
    gpa base = 0;
    u64 len = 0;

    for (u64 off = 0; off < d->chain.out_len; off += sizeof(pfn)) {
        u64 n = virtio_read(&d->chain, off, pfn, sizeof(pfn)) / sizeof(pfn[0]);
        for (u64 i = 0; i < n; i++) {
            gpa a = (gpa)pfn[i] << PFN_SHIFT;
            if (len && a == base + len) {
                len += 1u << PFN_SHIFT;
                continue;
            }
            discard(d, base, len);
            base = a;
            len = 1u << PFN_SHIFT;
        }
    }
    discard(d, base, len);
}

// Buffers that are free memory themselves. The guest's page may be more than the host's, so only whole ones inside count.
static void report(struct virtio_balloon *d)
{
    const u64 mask = MEM_PAGE_SIZE - 1;

    if (d->chain.in_len > MAX_REPORT)
        return; // it is only a hint
    for (unsigned i = 0; i < d->chain.in_count; i++) {
        const struct virtio_seg *s = &d->chain.seg[d->chain.out_count + i];
        gpa base = (s->addr + mask) & ~mask, end = (s->addr + s->len) & ~mask;
        if (base < end)
            discard(d, base, end - base);
    }
}

static void take_stats(struct virtio_balloon *d)
{
    for (u64 off = 0; off < STAT_SIZE * 64ull; off += STAT_SIZE) {
        u8 raw[STAT_SIZE];
        u16 tag;
        if (virtio_read(&d->stats, off, raw, sizeof(raw)) != sizeof(raw))
            break;
        tag = (u16)mem_host_load(raw, 2);
        if (tag < BALLOON_STAT_COUNT)
            d->stat[tag] = mem_host_load(raw + 2, 8);
    }
}

static void notify_stats(struct virtio_balloon *d)
{
    // The driver has one buffer; of more, the latest is kept.
    while (virtio_pop(&d->v, STATS, &d->chain) > 0) {
        if (d->holds_stats)
            virtio_push(&d->v, STATS, &d->stats, 0);
        d->stats = d->chain;
        d->holds_stats = true;
        take_stats(d);
    }
    virtio_signal(&d->v, STATS);
}

static void notify(void *self, unsigned queue)
{
    struct virtio_balloon *d = self;

    if (queue == STATS) {
        notify_stats(d);
        return;
    }
    while (virtio_pop(&d->v, queue, &d->chain) > 0) {
        if (d->chain.out_len > MAX_LIST) {
            virtio_break(&d->v, "too many page numbers at once");
            break;
        }
        if (queue == INFLATE)
            inflate(d);
        else if (queue == REPORTING)
            report(d);
        virtio_push(&d->v, queue, &d->chain, 0);
    }
    virtio_signal(&d->v, queue);
}

static void forget_stats(struct virtio_balloon *d)
{
    d->holds_stats = false;
    memset(d->stat, 0xff, sizeof(d->stat));
}

static void reset(void *self)
{
    struct virtio_balloon *d = self;

    forget_stats(d);
    virtio_put32(d->v.config + CONFIG_ACTUAL, 0);
}

void virtio_balloon_set_target(struct virtio_balloon *d, u64 bytes)
{
    u64 pages = bytes >> PFN_SHIFT;

    virtio_put32(d->v.config + CONFIG_TARGET, pages < ~0u ? (u32)pages : ~0u);
    virtio_config_changed(&d->v);
}

u64 virtio_balloon_actual(const struct virtio_balloon *d)
{
    return mem_host_load(d->v.config + CONFIG_ACTUAL, 4) << PFN_SHIFT;
}

void virtio_balloon_ask(struct virtio_balloon *d)
{
    if (!d->holds_stats)
        return;
    virtio_push(&d->v, STATS, &d->stats, 0);
    d->holds_stats = false;
    virtio_signal(&d->v, STATS);
}

static const struct virtio_ops balloon_ops = {.name = "virtio-balloon", .reset = reset, .notify = notify};

int virtio_balloon_create(struct virtio_balloon *d, const struct virtio_attach *at,
                          const struct virtio_balloon_config *c)
{
    virtio_init(&d->v, &balloon_ops, d);
    for (unsigned i = 0; i <= REPORTING; i++)
        virtio_add_queue(&d->v, QUEUE_SIZE);
    d->config = *c;
    d->v.offered |= F_STATS | F_REPORTING | (c->deflate_on_oom ? F_DEFLATE_ON_OOM : 0);
    d->v.config_size = CONFIG_SIZE;
    d->v.config_write_off = CONFIG_ACTUAL;
    d->v.config_write_len = 4;
    forget_stats(d);
    return virtio_pci_add(&d->pci, &d->v, at, VIRTIO_ID_BALLOON, CLASS_OTHER, 0);
}
