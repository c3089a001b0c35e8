// The block device: requests come from one queue, go to the backend, and are answered when that is done with them.
//
// A request is a header, data and one byte of status, however the driver cut it into buffers:
//
//   device reads:  u32 type, u32 reserved, u64 sector | data to write, or ranges to discard
//   device writes: data read, or the identity | u8 status
//
// There is a fixed number of requests; when all are out, the queue waits for the next that comes back.

#include "dev/virtio_blk.h"

#include <errno.h>
#include <string.h>

#define CLASS_STORAGE_SCSI 0x010000u
#define VECTORS 2

#define F_SEG_MAX (1ull << 2)
#define F_GEOMETRY (1ull << 4)
#define F_RO (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH (1ull << 9)
#define F_TOPOLOGY (1ull << 10)
#define F_CONFIG_WCE (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

// Configuration. 5.2.4.
#define CONFIG_CAPACITY 0
#define CONFIG_SEG_MAX 12
#define CONFIG_CYLINDERS 16
#define CONFIG_HEADS 18
#define CONFIG_SECTORS 19
#define CONFIG_BLK_SIZE 20
#define CONFIG_PHYSICAL_EXP 24
#define CONFIG_MIN_IO 26
#define CONFIG_OPT_IO 28
#define CONFIG_WRITEBACK 32
#define CONFIG_MAX_DISCARD 36
#define CONFIG_MAX_DISCARD_SEG 40
#define CONFIG_DISCARD_ALIGN 44
#define CONFIG_MAX_ZERO 48
#define CONFIG_MAX_ZERO_SEG 52
#define CONFIG_ZERO_UNMAP 56
#define CONFIG_SIZE 60

// Requests. 5.2.6.
#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_WRITE_ZEROES 13
#define HEADER_SIZE 16
#define RANGE_SIZE 16
#define RANGE_UNMAP 1u

#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2

#define MAX_DISCARD_SECTORS 0x3fffffffu
#define MAX_ZERO_SECTORS 0x3fffffu

struct header {
    u32 type, reserved;
    u64 sector;
};

struct range {
    u64 sector;
    u32 count, flags;
};

static struct virtio_blk_request *take_request(struct virtio_blk *d)
{
    struct virtio_blk_request *q = d->free;

    d->free = q->free;
    return q;
}

static void free_request(struct virtio_blk *d, struct virtio_blk_request *q)
{
    q->free = d->free;
    d->free = q;
}

// The answer: status in the last byte that the device may write.
static void answer(struct virtio_blk_request *q, u8 status)
{
    struct virtio_blk *d = q->blk;

    virtio_write(&d->v, &q->chain, q->chain.in_len - 1, &status, 1);
    virtio_push(&d->v, 0, &q->chain, q->chain.in_len < ~0u ? (u32)q->chain.in_len : ~0u);
    free_request(d, q);
}

static void request_done(struct blk_request *r, bool more)
{
    struct virtio_blk_request *q = r->owner;
    struct virtio_blk *d = q->blk;

    if (d->resetting) {
        free_request(d, q);
        return;
    }
    if (r->op == BLK_READ)
        virtio_touch(&d->v, &q->chain, 0, r->len);
    answer(q, r->result ? S_IOERR : S_OK);
    if (more)
        return;
    virtio_signal(&d->v, 0);
    if (!d->quiescing)
        virtio_run(&d->v, 0); // there may be some that waited for a free request
}

static bool in_disk(const struct virtio_blk *d, u64 sector, u64 len)
{
    u64 sectors = d->backend->size / BLK_SECTOR;

    return !(len % d->backend->logical) && !(sector * BLK_SECTOR % d->backend->logical) && sector <= sectors &&
           len / BLK_SECTOR <= sectors - sector;
}

// Does every write have to reach the disk before it is answered? 5.2.6.2: unless the driver can ask for a flush.
static bool durable(const struct virtio_blk *d)
{
    if (virtio_has(&d->v, F_CONFIG_WCE))
        return !d->v.config[CONFIG_WRITEBACK];
    return d->writethrough || !virtio_has(&d->v, F_FLUSH);
}

static void submit(struct virtio_blk_request *q, enum blk_op op, u64 sector, u64 len)
{
    struct virtio_blk *d = q->blk;

    q->r.op = op;
    q->r.off = sector * BLK_SECTOR;
    q->r.len = len;
    q->r.durable = durable(d);
    q->r.result = 0;
    d->backend->ops->submit(d->backend, &q->r);
}

// The pieces of bytes [off, off+len) of one side of a chain.
static void collect(struct virtio_blk_request *q, const struct virtio_seg *s, unsigned count, u64 off, u64 len)
{
    q->r.seg_count = 0;
    for (unsigned i = 0; i < count && len; i++) {
        u64 n;
        if (off >= s[i].len) {
            off -= s[i].len;
            continue;
        }
        n = s[i].len - off < len ? s[i].len - off : len;
        q->seg[q->r.seg_count++] = (struct blk_seg){s[i].host + off, n};
        off = 0;
        len -= n;
    }
}

// Returns a status, or -1: the request is on its way.
static int start_transfer(struct virtio_blk_request *q, const struct header *h, bool write)
{
    struct virtio_blk *d = q->blk;
    struct virtio_chain *c = &q->chain;
    u64 len = write ? c->out_len - HEADER_SIZE : c->in_len - 1;

    if (!in_disk(d, h->sector, len) || (write && d->backend->readonly))
        return S_IOERR;
    if (!len)
        return S_OK;
    if (write) {
        collect(q, c->seg, c->out_count, HEADER_SIZE, len);
    } else {
        collect(q, c->seg + c->out_count, c->in_count, 0, len);
        virtio_touch(&d->v, c, 0, len);
    }
    submit(q, write ? BLK_WRITE : BLK_READ, h->sector, len);
    return -1;
}

// Discard and write zeroes: one range each, as the configuration says. 5.2.6.2.
static int start_range(struct virtio_blk_request *q, bool zero)
{
    struct virtio_blk *d = q->blk;
    struct range r;

    if (q->chain.out_len != HEADER_SIZE + RANGE_SIZE)
        return q->chain.out_len < HEADER_SIZE + RANGE_SIZE ? S_IOERR : S_UNSUPP;
    virtio_read(&q->chain, HEADER_SIZE, &r, sizeof(r));
    if (r.flags & ~(zero ? RANGE_UNMAP : 0))
        return S_UNSUPP;
    if (d->backend->readonly || r.count > (zero ? MAX_ZERO_SECTORS : MAX_DISCARD_SECTORS) ||
        !in_disk(d, r.sector, (u64)r.count * BLK_SECTOR))
        return S_IOERR;
    if (!r.count)
        return S_OK;
    q->r.unmap = r.flags & RANGE_UNMAP;
    submit(q, zero ? BLK_ZERO : BLK_DISCARD, r.sector, (u64)r.count * BLK_SECTOR);
    return -1;
}

static int start(struct virtio_blk_request *q)
{
    struct virtio_blk *d = q->blk;
    struct header h;

    virtio_read(&q->chain, 0, &h, sizeof(h));
    q->r.seg_count = 0;
    q->r.unmap = false;
    switch (h.type) {
    case T_IN: return start_transfer(q, &h, false);
    case T_OUT: return start_transfer(q, &h, true);
    case T_FLUSH: submit(q, BLK_FLUSH, 0, 0); return -1;
    case T_GET_ID: {
        u64 room = q->chain.in_len - 1;
        virtio_write(&d->v, &q->chain, 0, d->serial, room < sizeof(d->serial) ? room : sizeof(d->serial));
        return S_OK;
    }
    case T_DISCARD: return start_range(q, false);
    case T_WRITE_ZEROES: return start_range(q, true);
    default: return S_UNSUPP;
    }
}

static void notify(void *self, unsigned queue)
{
    struct virtio_blk *d = self;

    while (d->free) {
        struct virtio_blk_request *q = d->free;
        int status;
        if (virtio_pop(&d->v, queue, &q->chain) <= 0)
            break;
        if (q->chain.out_len < HEADER_SIZE || !q->chain.in_len) {
            virtio_break(&d->v, "request without a header or a status");
            break;
        }
        take_request(d);
        status = start(q);
        if (status >= 0)
            answer(q, (u8)status);
    }
    virtio_signal(&d->v, queue);
}

static void reset(void *self)
{
    struct virtio_blk *d = self;

    d->resetting = true;
    d->backend->ops->drain(d->backend, true);
    d->resetting = false;
    d->v.config[CONFIG_WRITEBACK] = !d->writethrough;
}

static void quiesce(void *self)
{
    struct virtio_blk *d = self;

    d->quiescing = true;
    d->backend->ops->drain(d->backend, false);
    d->quiescing = false;
}

static void config_written(void *self)
{
    struct virtio_blk *d = self;

    d->v.config[CONFIG_WRITEBACK] = d->v.config[CONFIG_WRITEBACK] != 0;
}

// The geometry that firmware of the time would make up: at most 16 heads of 63 sectors.
static void put_geometry(u8 *config, u64 sectors)
{
    u64 cylinders = sectors / (16 * 63);

    virtio_put16(config + CONFIG_CYLINDERS, cylinders > 16383 ? 16383 : cylinders < 2 ? 2 : (u16)cylinders);
    config[CONFIG_HEADS] = 16;
    config[CONFIG_SECTORS] = 63;
}

static void put_config(struct virtio_blk *d)
{
    const struct blk_backend *b = d->backend;
    u8 *c = d->v.config;

    virtio_put64(c + CONFIG_CAPACITY, b->size / BLK_SECTOR);
    virtio_put32(c + CONFIG_SEG_MAX, VIRTIO_MAX_CHAIN - 2); // beside header and status
    put_geometry(c, b->size / BLK_SECTOR);
    virtio_put32(c + CONFIG_BLK_SIZE, b->logical);
    c[CONFIG_PHYSICAL_EXP] = (u8)__builtin_ctz(b->physical / b->logical);
    virtio_put16(c + CONFIG_MIN_IO, 0);
    virtio_put32(c + CONFIG_OPT_IO, 0);
    c[CONFIG_WRITEBACK] = !d->writethrough;
    virtio_put32(c + CONFIG_MAX_DISCARD, MAX_DISCARD_SECTORS);
    virtio_put32(c + CONFIG_MAX_DISCARD_SEG, 1);
    virtio_put32(c + CONFIG_DISCARD_ALIGN, b->logical / BLK_SECTOR);
    virtio_put32(c + CONFIG_MAX_ZERO, MAX_ZERO_SECTORS);
    virtio_put32(c + CONFIG_MAX_ZERO_SEG, 1);
    c[CONFIG_ZERO_UNMAP] = 1;
    d->v.config_size = CONFIG_SIZE;
    d->v.config_write_off = CONFIG_WRITEBACK;
    d->v.config_write_len = 1;
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk", .reset = reset, .quiesce = quiesce, .notify = notify, .config_written = config_written};

int virtio_blk_create(struct virtio_blk *d, const struct virtio_attach *at, const struct virtio_blk_config *c)
{
    int ret;

    virtio_init(&d->v, &blk_ops, d);
    virtio_add_queue(&d->v, VIRTIO_MAX_QUEUE_SIZE);
    d->backend = c->backend;
    d->writethrough = c->writethrough;
    if (c->serial)
        memcpy(d->serial, c->serial, strnlen(c->serial, sizeof(d->serial)));
    d->v.offered |= F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
    d->v.offered |= c->backend->readonly ? F_RO : F_DISCARD | F_WRITE_ZEROES;
    put_config(d);
    d->free = NULL;
    for (unsigned i = VIRTIO_BLK_REQUESTS; i-- > 0;) {
        struct virtio_blk_request *q = &d->request[i];
        q->blk = d;
        q->r = (struct blk_request){.seg = q->seg, .done = request_done, .owner = q};
        free_request(d, q);
    }
    ret = c->backend->ops->start(c->backend, at->dev_lock);
    return ret ? ret : virtio_pci_add(&d->pci, &d->v, at, VIRTIO_ID_BLOCK, CLASS_STORAGE_SCSI, VECTORS);
}
