// The core of virtio: what every device and every transport share. Virtual I/O Device (VIRTIO) 1.2, sections 2 and 3; a driver
// that does not take VIRTIO_F_VERSION_1 gets the legacy behaviour of the same sections.
//
// A device (virtio_blk.c, ...) fills in a struct virtio: its queues, features and configuration bytes, and struct virtio_ops. A
// transport (virtio_pci.c) turns the driver's accesses into calls of the functions here, and brings interrupts to it.
//
// Everything in guest memory is hostile: it is read once, checked, and used as it was checked. A driver that breaks the rules finds
// its device broken, which is a state (DEVICE_NEEDS_RESET) that a reset ends; the device does nothing until then. Work is bounded: a
// call takes at most as many chains as the queue has entries, and goes on from a timer if there are more.
//
// Called with machine.dev_lock held, like every device.
#ifndef POGO_DEV_VIRTIO_H
#define POGO_DEV_VIRTIO_H

#include "core/clock.h"
#include "core/mem.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_MAX_QUEUE_SIZE 256
#define VIRTIO_MAX_CHAIN 256                   // descriptors in a chain
#define VIRTIO_MAX_SEGS (VIRTIO_MAX_CHAIN + 8) // pieces of memory: a buffer that crosses memory regions is several
#define VIRTIO_CONFIG_MAX 256

// Device status. 2.1.
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01u
#define VIRTIO_STATUS_DRIVER 0x02u
#define VIRTIO_STATUS_DRIVER_OK 0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_NEEDS_RESET 0x40u
#define VIRTIO_STATUS_FAILED 0x80u

// Feature bits that belong to no device type. 6.
#define VIRTIO_F_ANY_LAYOUT (1ull << 27) // legacy: buffers may be cut anywhere
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VIRTIO_ISR_QUEUE 1u
#define VIRTIO_ISR_CONFIG 2u
#define VIRTIO_NO_VECTOR 0xffffu

// Device types. 5.
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG 4
#define VIRTIO_ID_BALLOON 5

struct virtio;
struct host;

struct virtio_ops {
    const char *name;
    // Forget everything that the driver gave. Afterwards nothing of it is touched any more: what is in flight has ended.
    void (*reset)(void *self);
    // Let what is in flight end, and answer it: the device may not reach memory after this. NULL: never anything in flight.
    void (*quiesce)(void *self);
    // The driver says that it is ready; its features are final. May be NULL.
    void (*ready)(void *self);
    // There may be something in this queue.
    void (*notify)(void *self, unsigned queue);
    // The driver is about to read the configuration: fresh values into virtio.config. May be NULL.
    void (*config_read)(void *self);
    // The driver wrote part of the writable configuration, which is in virtio.config already. May be NULL.
    void (*config_written)(void *self);
};

// Split virtqueue. 2.7.
struct virtio_queue {
    u16 max_size; // entries that the device offers; 0: no such queue
    u16 size;     // entries that the driver chose
    u16 vector;
    bool enabled; // the rings lie in RAM, and are in use
    bool again;   // the call's work was at its end before the queue was
    gpa desc, avail, used;
    const u8 *desc_host, *avail_host; // memory never moves: valid while enabled
    u16 last_avail;                   // next entry of the available ring to look at
    u16 used_idx;                     // next entry of the used ring to fill
    u16 signalled;                    // used_idx when the driver was last told
    bool signalled_valid;
    bool news; // the used ring has grown since then
};

struct virtio {
    const struct virtio_ops *ops;
    void *self;
    unsigned queue_count;
    u64 offered; // features
    struct virtio_queue queue[VIRTIO_MAX_QUEUES];
    u8 config[VIRTIO_CONFIG_MAX]; // little-endian, as the driver sees it
    u16 config_size, config_write_off, config_write_len;

    struct mem *mem;
    struct clock *clock; // NULL: a queue with too much work waits for the next notification
    struct host *host;   // for the log; may be NULL

    // The transport's.
    void (*interrupt)(void *transport, int queue); // queue -1: configuration change
    void *transport;

    u64 accepted; // as written by the driver; see virtio_has()
    u8 status, isr, generation;
    bool broken;
    bool stopped; // the bus forbids access to memory
    u16 config_vector;
    u32 budget; // chains that the current call may still take
    struct clock_timer timer;
    bool timer_added;
};

// A piece of a buffer.
struct virtio_seg {
    u8 *host;
    u64 len;
    gpa addr;
};

// A chain of buffers that the driver made available: first what the device reads, then what it writes.
struct virtio_chain {
    u16 head;
    u16 out_count, in_count; // pieces that the device reads; writes
    u64 out_len, in_len;     // bytes
    struct virtio_seg seg[VIRTIO_MAX_SEGS];
};

// --- for devices --------------------------------------------------------------------------------------------------------

// An inactive device. ops and self are arguments; queues, features and configuration are the caller's to fill in afterwards, before
// the transport gets it.
void virtio_init(struct virtio *v, const struct virtio_ops *ops, void *self);
// Another queue with `size` entries (a power of two up to VIRTIO_MAX_QUEUE_SIZE).
void virtio_add_queue(struct virtio *v, u16 size);

// Has the driver taken this feature?
static inline bool virtio_has(const struct virtio *v, u64 feature)
{
    return (v->accepted & v->offered & feature) == feature;
}

// Take the next chain. Returns 1 and *c; 0: none now; -EIO: the driver broke the rules, and the device is broken.
int virtio_pop(struct virtio *v, unsigned queue, struct virtio_chain *c);
// Chains that can be taken, as far as the driver's index can be believed.
u16 virtio_available(const struct virtio *v, unsigned queue);
// Give a chain back as used, with `written` bytes of it filled. The driver sees it at once; virtio_signal() tells it.
void virtio_push(struct virtio *v, unsigned queue, const struct virtio_chain *c, u32 written);
// Interrupt the driver, if there is something new and it wants to know.
void virtio_signal(struct virtio *v, unsigned queue);
// Have ops->notify look at a queue: after a resource has become free, or something came in from outside.
void virtio_run(struct virtio *v, unsigned queue);
// Have virtio_run() happen to a queue a little later: there is more to do than fits a call.
void virtio_later(struct virtio *v, unsigned queue);
// Copy from what the device reads, `off` bytes into it; to what it writes. Return the bytes copied: fewer where the chain ends.
u64 virtio_read(const struct virtio_chain *c, u64 off, void *buf, u64 len);
u64 virtio_write(struct virtio *v, const struct virtio_chain *c, u64 off, const void *buf, u64 len);
// Bytes [off, off+len) of what the device writes are changed through seg[].host: call before (so that nothing derived from them is
// used meanwhile) and after (so that nothing derived meanwhile stays).
void virtio_touch(struct virtio *v, const struct virtio_chain *c, u64 off, u64 len);
// The device's configuration has changed by itself.
void virtio_config_changed(struct virtio *v);
// The driver broke the rules: nothing works until it resets the device. `why` is for the log.
void virtio_break(struct virtio *v, const char *why);

// --- for transports -----------------------------------------------------------------------------------------------------

void virtio_reset(struct virtio *v);
// Continue queues that had more work than one call may do. The timer does it, too.
void virtio_continue(struct virtio *v);
// The driver's kick.
void virtio_notify(struct virtio *v, unsigned queue);
void virtio_set_status(struct virtio *v, u8 status, bool legacy);
// 32 bits of the accepted features, `sel` 0 or 1.
void virtio_set_features(struct virtio *v, unsigned sel, u32 bits, bool legacy);
// Features as a driver of this kind may see them.
u64 virtio_features(const struct virtio *v, bool legacy);
// Start to use a queue with the addresses and size in it. A bad one breaks the device.
void virtio_enable_queue(struct virtio *v, unsigned queue);
// Legacy layout: all parts from page `pfn` of 4 KiB on; 0 ends the use of the queue. 2.7.2.
void virtio_set_pfn(struct virtio *v, unsigned queue, u32 pfn);
// The bus allows (or not) access to memory.
void virtio_set_stopped(struct virtio *v, bool stopped);
// Configuration space; all ones (or ignored) outside of it.
u64 virtio_config_load(struct virtio *v, u64 off, unsigned size);
void virtio_config_store(struct virtio *v, u64 off, unsigned size, u64 val);
// Text for the monitor.
void virtio_dump(const struct virtio *v, char *buf, size_t size);

static inline void virtio_put16(u8 *p, u16 val)
{
    mem_host_store(p, 2, val);
}

static inline void virtio_put32(u8 *p, u32 val)
{
    mem_host_store(p, 4, val);
}

static inline void virtio_put64(u8 *p, u64 val)
{
    mem_host_store(p, 8, val);
}

#endif
