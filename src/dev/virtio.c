// Virtqueues and the life of a device, for every virtio device.
//
//   available ring   u16 flags, u16 idx, u16 ring[size], u16 used_event
//   used ring        u16 flags, u16 idx, { u32 id, u32 len } ring[size], u16 avail_event
//   descriptor       u64 addr, u32 len, u16 flags, u16 next
//
// The driver writes the descriptors and the available ring while the device reads them, from another thread: an index is loaded with
// acquire before what it covers, and stored with release after it. Each side may tell the other when it wants to hear of news
// (used_event, avail_event); whoever publishes looks at that afterwards, and whoever changes it looks for news afterwards, with a full
// barrier in between, so that one of the two sees the other. 2.7.
//
// The memory map of a machine never changes, so the rings' host addresses are looked up once, when the driver enables a queue. Each ring
// has to lie in one memory region.

#include "dev/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define DESC_SIZE 16u
#define AVAIL_NO_INTERRUPT 1u
#define LEGACY_PAGE 4096ull

struct desc {
    u64 addr;
    u32 len;
    u16 flags, next;
};

_Static_assert(sizeof(struct desc) == DESC_SIZE, "descriptors are loaded as they are");

// --- states -------------------------------------------------------------------------------------------------------------

void virtio_break(struct virtio *v, const char *why)
{
    if (v->broken)
        return;
    v->broken = true;
    if (v->host)
        host_logf(v->host, LOG_GUEST_ERROR, "%s: broken by its driver until reset: %s", v->ops->name, why);
    // A legacy driver does not know the bit.
    if (!virtio_has(v, VIRTIO_F_VERSION_1))
        return;
    v->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (v->status & VIRTIO_STATUS_DRIVER_OK)
        virtio_config_changed(v);
}

// May the device look at its queues? Legacy drivers are known to use a device before they say so.
static bool can_run(const struct virtio *v)
{
    u8 need = VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK;

    return !v->broken && !v->stopped && (!virtio_has(v, VIRTIO_F_VERSION_1) || (v->status & need) == need);
}

static bool usable(const struct virtio *v, unsigned queue)
{
    return queue < v->queue_count && v->queue[queue].enabled && can_run(v);
}

static void queue_reset(struct virtio_queue *q)
{
    *q = (struct virtio_queue){.max_size = q->max_size, .size = q->max_size, .vector = VIRTIO_NO_VECTOR};
}

void virtio_reset(struct virtio *v)
{
    v->ops->reset(v->self);
    for (unsigned i = 0; i < v->queue_count; i++)
        queue_reset(&v->queue[i]);
    v->accepted = 0;
    v->status = v->isr = 0;
    v->broken = v->stopped = false;
    v->config_vector = VIRTIO_NO_VECTOR;
    if (v->timer_added)
        clock_disarm(v->clock, &v->timer);
}

static void timer_fired(void *dev, u64 now_ns)
{
    (void)now_ns;
    virtio_continue(dev);
}

void virtio_init(struct virtio *v, const struct virtio_ops *ops, void *self)
{
    memset(v, 0, sizeof(*v));
    v->ops = ops;
    v->self = self;
    v->offered = VIRTIO_F_VERSION_1 | VIRTIO_F_ANY_LAYOUT | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
    v->config_vector = VIRTIO_NO_VECTOR;
    v->timer = (struct clock_timer){.fire = timer_fired, .dev = v};
}

void virtio_add_queue(struct virtio *v, u16 size)
{
    struct virtio_queue *q = &v->queue[v->queue_count++];

    q->max_size = size;
    queue_reset(q);
}

// --- looking for work ---------------------------------------------------------------------------------------------------

static void run(struct virtio *v, unsigned queue)
{
    u32 outer = v->budget;

    v->queue[queue].again = false;
    v->budget = v->queue[queue].size;
    v->ops->notify(v->self, queue);
    v->budget = outer;
}

void virtio_run(struct virtio *v, unsigned queue)
{
    if (usable(v, queue))
        run(v, queue);
}

void virtio_notify(struct virtio *v, unsigned queue)
{
    virtio_run(v, queue);
}

void virtio_continue(struct virtio *v)
{
    for (unsigned i = 0; i < v->queue_count; i++)
        if (v->queue[i].again)
            virtio_run(v, i);
}

static void run_all(struct virtio *v)
{
    for (unsigned i = 0; i < v->queue_count; i++)
        virtio_run(v, i);
}

// Few devices ever come here, so only those take one of the clock's places.
void virtio_later(struct virtio *v, unsigned queue)
{
    v->queue[queue].again = true;
    if (!v->clock)
        return;
    if (!v->timer_added && clock_add_timer(v->clock, &v->timer))
        return;
    v->timer_added = true;
    clock_arm(v->clock, &v->timer, clock_now(v->clock));
}

void virtio_set_stopped(struct virtio *v, bool stopped)
{
    if (v->stopped == stopped)
        return;
    if (stopped && v->ops->quiesce)
        v->ops->quiesce(v->self);
    v->stopped = stopped;
    if (!stopped)
        run_all(v);
}

// --- negotiation --------------------------------------------------------------------------------------------------------

u64 virtio_features(const struct virtio *v, bool legacy)
{
    return legacy ? v->offered & 0xffffffffull : v->offered & ~VIRTIO_F_ANY_LAYOUT;
}

void virtio_set_features(struct virtio *v, unsigned sel, u32 bits, bool legacy)
{
    if (sel > 1 || v->status & VIRTIO_STATUS_FEATURES_OK)
        return;
    if (legacy)
        v->accepted = bits & virtio_features(v, true);
    else if (sel)
        v->accepted = (v->accepted & 0xffffffffull) | (u64)bits << 32;
    else
        v->accepted = (v->accepted & ~0xffffffffull) | bits;
}

void virtio_set_status(struct virtio *v, u8 status, bool legacy)
{
    u8 was = v->status;

    if (!status) {
        virtio_reset(v);
        return;
    }
    // 3.1.1: the device says what it thinks of the features by keeping the bit or not.
    if (!legacy && status & ~was & VIRTIO_STATUS_FEATURES_OK &&
        (v->accepted & ~virtio_features(v, false) || !(v->accepted & VIRTIO_F_VERSION_1)))
        status &= (u8)~VIRTIO_STATUS_FEATURES_OK;
    v->status = (status & (u8)~VIRTIO_STATUS_NEEDS_RESET) | (was & VIRTIO_STATUS_NEEDS_RESET);
    if (!(v->status & ~was & VIRTIO_STATUS_DRIVER_OK) || !can_run(v))
        return;
    if (v->ops->ready)
        v->ops->ready(v->self);
    run_all(v);
}

// --- queues -------------------------------------------------------------------------------------------------------------

static u64 avail_len(const struct virtio_queue *q)
{
    return 4 + 2ull * q->size;
}

static u64 used_len(const struct virtio_queue *q)
{
    return 4 + 8ull * q->size;
}

static const char *ring_fault(const struct virtio *v, const struct virtio_queue *q)
{
    // Both rings end in an event field, whether it is used or not: the driver may still change its mind.
    const u64 event = 2;

    if (!q->size || q->size & (q->size - 1) || q->size > q->max_size)
        return "queue size";
    if (q->desc & 15 || q->avail & 1 || q->used & 3)
        return "alignment of a ring";
    if (!mem_ptr(v->mem, q->desc, (u64)DESC_SIZE * q->size, false) ||
        !mem_ptr(v->mem, q->avail, avail_len(q) + event, false) || !mem_ptr(v->mem, q->used, used_len(q) + event, true))
        return "a ring outside of RAM";
    return NULL;
}

void virtio_enable_queue(struct virtio *v, unsigned queue)
{
    struct virtio_queue *q = queue < v->queue_count ? &v->queue[queue] : NULL;
    const char *fault;

    if (!q || q->enabled)
        return;
    fault = ring_fault(v, q);
    if (fault) {
        virtio_break(v, fault);
        return;
    }
    q->desc_host = mem_ptr(v->mem, q->desc, 1, false);
    q->avail_host = mem_ptr(v->mem, q->avail, 1, false);
    q->last_avail = q->used_idx = q->signalled = 0;
    q->signalled_valid = q->news = false;
    q->enabled = true;
}

void virtio_set_pfn(struct virtio *v, unsigned queue, u32 pfn)
{
    struct virtio_queue *q = queue < v->queue_count ? &v->queue[queue] : NULL;

    if (!q)
        return;
    if (!pfn) { // as a legacy driver's removal of the queue: there is no other way for it
        virtio_reset(v);
        return;
    }
    if (q->enabled)
        return; // a queue in use keeps its place
    q->desc = (u64)pfn * LEGACY_PAGE;
    q->avail = q->desc + (u64)DESC_SIZE * q->size;
    q->used = (q->avail + avail_len(q) + 2 + LEGACY_PAGE - 1) & ~(LEGACY_PAGE - 1);
    virtio_enable_queue(v, queue);
}

static u16 load16(const u8 *p)
{
    return __atomic_load_n((const u16 *)(const void *)p, __ATOMIC_ACQUIRE);
}

// Store a field of the used ring. The ring was checked when it was enabled; only what a guest hides under firmware since is lost.
static void used_store(struct virtio *v, const struct virtio_queue *q, u64 off, unsigned size, u32 val)
{
    u8 *p = mem_write_ptr(v->mem, q->used + off, size);

    if (!p)
        return;
    if (size == 2)
        __atomic_store_n((u16 *)(void *)p, (u16)val, __ATOMIC_RELEASE);
    else
        __atomic_store_n((u32 *)(void *)p, val, __ATOMIC_RELAXED);
    mem_written(v->mem, q->used + off, size);
}

u16 virtio_available(const struct virtio *v, unsigned queue)
{
    const struct virtio_queue *q = &v->queue[queue];

    return usable(v, queue) ? (u16)(load16(q->avail_host + 2) - q->last_avail) : 0;
}

// Are there entries? If not, ask for a notification of the next one, and look again.
static bool more(struct virtio *v, struct virtio_queue *q)
{
    if (load16(q->avail_host + 2) != q->last_avail)
        return true;
    if (!virtio_has(v, VIRTIO_F_EVENT_IDX))
        return false; // notifications are never switched off
    used_store(v, q, used_len(q), 2, q->last_avail);
    atomic_thread_fence(memory_order_seq_cst);
    return load16(q->avail_host + 2) != q->last_avail;
}

// --- chains -------------------------------------------------------------------------------------------------------------

// Add a buffer; NULL or what is wrong with it.
static const char *add_buffer(const struct virtio *v, struct virtio_chain *c, const struct desc *d)
{
    bool write = d->flags & DESC_WRITE;
    gpa a = d->addr;
    u64 left = d->len;

    if (!left)
        return "empty buffer";
    if (!write && c->in_count)
        return "buffer to read after one to write";
    if (left - 1 > ~a)
        return "buffer that wraps";
    while (left) {
        const struct mem_region *r = mem_find(v->mem, a);
        u64 part;
        if (!r || (r->kind != MEM_RAM && (write || r->kind != MEM_ROM)))
            return "buffer outside of RAM";
        if (c->out_count + c->in_count == VIRTIO_MAX_SEGS)
            return "chain of too many pieces";
        part = r->size - (a - r->base) < left ? r->size - (a - r->base) : left;
        c->seg[c->out_count + c->in_count] = (struct virtio_seg){r->host + (a - r->base), part, a};
        *(write ? &c->in_count : &c->out_count) += 1;
        *(write ? &c->in_len : &c->out_len) += part;
        a += part;
        left -= part;
    }
    return NULL;
}

// A table of descriptors of its own, instead of a buffer. 2.7.5.3.
static const char *enter_indirect(const struct virtio *v, const struct desc *d, const u8 **table, u32 *count)
{
    if (!virtio_has(v, VIRTIO_F_INDIRECT_DESC))
        return "indirect descriptor without the feature";
    if (d->flags & DESC_NEXT)
        return "indirect descriptor with a next one";
    if (!d->len || d->len % DESC_SIZE)
        return "size of an indirect table";
    *table = mem_ptr(v->mem, d->addr, d->len, false);
    *count = d->len / DESC_SIZE;
    return *table ? NULL : "indirect table outside of RAM";
}

static const char *walk(const struct virtio *v, const struct virtio_queue *q, struct virtio_chain *c)
{
    const u8 *table = q->desc_host;
    u32 count = q->size, at = c->head;
    bool indirect = false;
    const char *fault;

    // A chain that is longer than it may be is also how a loop shows.
    for (unsigned steps = 0; steps <= VIRTIO_MAX_CHAIN; steps++) {
        struct desc d;
        if (at >= count)
            return "descriptor number";
        memcpy(&d, table + (u64)at * DESC_SIZE, DESC_SIZE);
        if (d.flags & DESC_INDIRECT) {
            fault = indirect ? "indirect descriptor in an indirect table" : enter_indirect(v, &d, &table, &count);
            if (fault)
                return fault;
            indirect = true;
            at = 0;
            continue;
        }
        fault = add_buffer(v, c, &d);
        if (fault || !(d.flags & DESC_NEXT))
            return fault;
        at = d.next;
    }
    return "chain too long, or a loop";
}

static int fault(struct virtio *v, const char *why)
{
    virtio_break(v, why);
    return -EIO;
}

int virtio_pop(struct virtio *v, unsigned queue, struct virtio_chain *c)
{
    struct virtio_queue *q = &v->queue[queue];
    const char *why;

    if (!usable(v, queue) || !more(v, q))
        return 0;
    if ((u16)(load16(q->avail_host + 2) - q->last_avail) > q->size)
        return fault(v, "more entries available than the queue has");
    if (!v->budget) {
        virtio_later(v, queue);
        return 0;
    }
    v->budget--;
    c->head = load16(q->avail_host + 4 + 2u * (q->last_avail & (q->size - 1u)));
    c->out_count = c->in_count = 0;
    c->out_len = c->in_len = 0;
    if (c->head >= q->size)
        return fault(v, "descriptor number in the available ring");
    why = walk(v, q, c);
    if (why)
        return fault(v, why);
    q->last_avail++;
    return 1;
}

void virtio_push(struct virtio *v, unsigned queue, const struct virtio_chain *c, u32 written)
{
    struct virtio_queue *q = &v->queue[queue];
    u64 at = 4 + 8ull * (q->used_idx & (q->size - 1u));

    if (!usable(v, queue))
        return;
    // Two stores: a pair may lie across two pages.
    used_store(v, q, at, 4, c->head);
    used_store(v, q, at + 4, 4, written);
    q->used_idx++;
    used_store(v, q, 2, 2, q->used_idx);
    q->news = true;
    // An index that went around since the last signal says nothing any more.
    if (q->used_idx == q->signalled)
        q->signalled_valid = false;
}

void virtio_signal(struct virtio *v, unsigned queue)
{
    struct virtio_queue *q = &v->queue[queue];
    u16 was = q->signalled;
    bool wanted;

    if (!usable(v, queue) || !q->news)
        return;
    q->news = false;
    atomic_thread_fence(memory_order_seq_cst);
    if (virtio_has(v, VIRTIO_F_EVENT_IDX)) {
        // Was the entry of interest among those since the last look? 2.7.7.2.
        u16 event = load16(q->avail_host + avail_len(q));
        wanted = !q->signalled_valid || (u16)(q->used_idx - event - 1) < (u16)(q->used_idx - was);
    } else {
        wanted = !(load16(q->avail_host) & AVAIL_NO_INTERRUPT);
    }
    q->signalled = q->used_idx;
    q->signalled_valid = true;
    if (wanted && v->interrupt)
        v->interrupt(v->transport, (int)queue);
}

// The part of piece `s` that bytes [off, off+len) of its side cover, `base` being where the piece begins there. Returns its length.
static u64 covered(const struct virtio_seg *s, u64 base, u64 off, u64 len, u64 *skip)
{
    u64 n;

    *skip = off > base ? off - base : 0;
    if (*skip >= s->len || base + *skip >= off + len)
        return 0;
    n = s->len - *skip;
    return n < off + len - (base + *skip) ? n : off + len - (base + *skip);
}

u64 virtio_read(const struct virtio_chain *c, u64 off, void *buf, u64 len)
{
    u64 base = 0, done = 0, skip;

    for (unsigned i = 0; i < c->out_count && base < off + len; i++) {
        const struct virtio_seg *s = &c->seg[i];
        u64 n = covered(s, base, off, len, &skip);
        memcpy((u8 *)buf + done, s->host + skip, n);
        done += n;
        base += s->len;
    }
    return done;
}

u64 virtio_write(struct virtio *v, const struct virtio_chain *c, u64 off, const void *buf, u64 len)
{
    u64 base = 0, done = 0, skip;

    for (unsigned i = 0; i < c->in_count && base < off + len; i++) {
        const struct virtio_seg *s = &c->seg[c->out_count + i];
        u64 n = covered(s, base, off, len, &skip);
        if (n) {
            memcpy(s->host + skip, (const u8 *)buf + done, n);
            mem_written(v->mem, s->addr + skip, n);
        }
        done += n;
        base += s->len;
    }
    return done;
}

void virtio_touch(struct virtio *v, const struct virtio_chain *c, u64 off, u64 len)
{
    u64 base = 0, skip;

    for (unsigned i = 0; i < c->in_count && base < off + len; i++) {
        const struct virtio_seg *s = &c->seg[c->out_count + i];
        u64 n = covered(s, base, off, len, &skip);
        if (n)
            mem_written(v->mem, s->addr + skip, n);
        base += s->len;
    }
}

// --- configuration ------------------------------------------------------------------------------------------------------

void virtio_config_changed(struct virtio *v)
{
    v->generation++;
    if (v->interrupt && v->status & VIRTIO_STATUS_DRIVER_OK)
        v->interrupt(v->transport, -1);
}

u64 virtio_config_load(struct virtio *v, u64 off, unsigned size)
{
    u64 val = 0;

    if (v->ops->config_read)
        v->ops->config_read(v->self);
    for (unsigned i = 0; i < size; i++)
        val |= (u64)(off + i < v->config_size ? v->config[off + i] : 0xff) << i * 8;
    return val;
}

void virtio_config_store(struct virtio *v, u64 off, unsigned size, u64 val)
{
    bool any = false;

    for (unsigned i = 0; i < size; i++) {
        u64 at = off + i;
        if (at - v->config_write_off >= v->config_write_len)
            continue;
        v->config[at] = (u8)(val >> i * 8);
        any = true;
    }
    if (any && v->ops->config_written)
        v->ops->config_written(v->self);
}

void virtio_dump(const struct virtio *v, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s: status %02x features %llx isr %x%s%s\n", v->ops->name, v->status,
                     (unsigned long long)v->accepted, v->isr, v->broken ? " broken" : "", v->stopped ? " stopped" : "");
    size_t used = n > 0 ? (size_t)n : 0;

    for (unsigned i = 0; i < v->queue_count && used < size; i++) {
        const struct virtio_queue *q = &v->queue[i];
        if (!q->enabled)
            continue;
        n = snprintf(buf + used, size - used, "  queue %u: size %u taken %u used %u waiting %u vector %x\n", i, q->size,
                     q->last_avail, q->used_idx, virtio_available(v, i), q->vector);
        used += n > 0 ? (size_t)n : 0;
    }
}
