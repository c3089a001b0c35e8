// virtio over PCI.
//
//   region 0  I/O ports, legacy layout (transitional and legacy devices)
//   region 1  memory, MSI-X table and pending bits
//   region 4  memory, 64 bits, modern layout:
//               0000  common configuration
//               1000  interrupt status
//               2000  device configuration
//               3000  notification, 4 bytes a queue
//
// Both layouts drive the same struct virtio; which one a driver uses shows only in what it accepts.

#include "dev/virtio_pci.h"

#include <errno.h>

#define VENDOR_VIRTIO 0x1af4
#define DEVICE_TRANSITIONAL 0x1000 // + see transitional_id()
#define DEVICE_MODERN 0x1040       // + type
#define SUBSYSTEM_MODERN 0x1100

#define BAR_LEGACY 0
#define BAR_MSIX 1
#define BAR_MODERN 4

#define AREA 0x1000u // of each part of the modern region
#define NOTIFY_STEP 4u
#define MSIX_PBA 0x800u // in region 1

// Capabilities. 4.1.4.
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_DEVICE 4
#define CAP_WINDOW 5
#define CAP_SIZE 16
#define CAP_NOTIFY_SIZE 20
#define CAP_WINDOW_SIZE 20
#define CAP_TYPE 3 // offsets in a capability
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_EXTRA 16 // notification: bytes between queues; window: the data

// Common configuration. 4.1.4.3.
#define COMMON_OFFERED_SEL 0x00
#define COMMON_OFFERED 0x04
#define COMMON_ACCEPTED_SEL 0x08
#define COMMON_ACCEPTED 0x0c
#define COMMON_CONFIG_VECTOR 0x10
#define COMMON_QUEUES 0x12
#define COMMON_STATUS 0x14
#define COMMON_GENERATION 0x15
#define COMMON_QUEUE_SEL 0x16
#define COMMON_QUEUE_SIZE 0x18
#define COMMON_QUEUE_VECTOR 0x1a
#define COMMON_QUEUE_ENABLE 0x1c
#define COMMON_QUEUE_NOTIFY 0x1e
#define COMMON_QUEUE_DESC 0x20
#define COMMON_QUEUE_DRIVER 0x28
#define COMMON_QUEUE_DEVICE 0x30
#define COMMON_SIZE 0x38

// Legacy layout. 4.1.4.10. The vectors are there only while MSI-X is enabled; the device's configuration follows.
#define LEGACY_OFFERED 0x00
#define LEGACY_ACCEPTED 0x04
#define LEGACY_QUEUE_PFN 0x08
#define LEGACY_QUEUE_SIZE 0x0c
#define LEGACY_QUEUE_SEL 0x0e
#define LEGACY_NOTIFY 0x10
#define LEGACY_STATUS 0x12
#define LEGACY_ISR 0x13
#define LEGACY_CONFIG_VECTOR 0x14
#define LEGACY_QUEUE_VECTOR 0x16
#define LEGACY_SIZE 0x14
#define LEGACY_SIZE_MSIX 0x18

// --- interrupts ---------------------------------------------------------------------------------------------------------

static void interrupt(void *transport, int queue)
{
    struct virtio_pci *t = transport;
    struct virtio *v = t->v;

    if (pci_msix_enabled(&t->pci)) {
        u16 vector = queue < 0 ? v->config_vector : v->queue[queue].vector;
        if (vector != VIRTIO_NO_VECTOR)
            pci_msix_notify(&t->pci, vector);
        return;
    }
    v->isr |= queue < 0 ? VIRTIO_ISR_CONFIG : VIRTIO_ISR_QUEUE;
    pci_intx(&t->pci, true);
}

static u8 read_isr(struct virtio_pci *t)
{
    u8 isr = t->v->isr;

    t->v->isr = 0;
    pci_intx(&t->pci, false);
    return isr;
}

// A vector that does not exist is refused: the driver reads it back. 4.1.5.1.2.
static u16 vector_of(const struct virtio_pci *t, u64 val)
{
    return val < t->pci.msix.count ? (u16)val : VIRTIO_NO_VECTOR;
}

static struct virtio_queue *selected(struct virtio_pci *t)
{
    return t->queue_sel < t->v->queue_count ? &t->v->queue[t->queue_sel] : NULL;
}

static void set_queue_vector(struct virtio_pci *t, u64 val)
{
    struct virtio_queue *q = selected(t);

    if (q)
        q->vector = vector_of(t, val);
}

static void set_status(struct virtio_pci *t, u8 status, bool legacy)
{
    u16 command = pci_get16(t->pci.config, PCI_COMMAND);

    // Old Linux drivers start devices without having switched on bus mastering.
    if (legacy && status & VIRTIO_STATUS_DRIVER_OK && !(command & PCI_COMMAND_MASTER))
        pci_config_write(&t->pci, PCI_COMMAND, 2, command | PCI_COMMAND_MASTER);
    virtio_set_status(t->v, status, legacy);
    if (!status)
        pci_intx(&t->pci, false);
}

// --- modern layout ------------------------------------------------------------------------------------------------------

static u64 queue_address(const struct virtio_queue *q, u64 off)
{
    gpa a = off < COMMON_QUEUE_DRIVER ? q->desc : off < COMMON_QUEUE_DEVICE ? q->avail : q->used;

    return off & 4 ? a >> 32 : a;
}

static u64 common_queue_read(struct virtio_pci *t, u64 off)
{
    const struct virtio_queue *q = selected(t);

    if (!q)
        return 0;
    switch (off) {
    case COMMON_QUEUE_SIZE: return q->size;
    case COMMON_QUEUE_VECTOR: return q->vector;
    case COMMON_QUEUE_ENABLE: return q->enabled;
    case COMMON_QUEUE_NOTIFY: return t->queue_sel;
    default: return off < COMMON_SIZE && !(off & 3) ? queue_address(q, off) : 0;
    }
}

static u64 common_read(struct virtio_pci *t, u64 off)
{
    const struct virtio *v = t->v;

    switch (off) {
    case COMMON_OFFERED_SEL: return t->offered_sel;
    case COMMON_OFFERED: return t->offered_sel < 2 ? virtio_features(v, false) >> t->offered_sel * 32 : 0;
    case COMMON_ACCEPTED_SEL: return t->accepted_sel;
    case COMMON_ACCEPTED: return t->accepted_sel < 2 ? v->accepted >> t->accepted_sel * 32 : 0;
    case COMMON_CONFIG_VECTOR: return v->config_vector;
    case COMMON_QUEUES: return v->queue_count;
    case COMMON_STATUS: return v->status;
    case COMMON_GENERATION: return v->generation;
    case COMMON_QUEUE_SEL: return t->queue_sel;
    default: return common_queue_read(t, off);
    }
}

static void set_queue_address(struct virtio_queue *q, u64 off, u32 val)
{
    gpa *a = off < COMMON_QUEUE_DRIVER ? &q->desc : off < COMMON_QUEUE_DEVICE ? &q->avail : &q->used;

    *a = off & 4 ? (*a & 0xffffffffull) | (u64)val << 32 : (*a & ~0xffffffffull) | val;
}

// A queue in use keeps its size and place.
static void common_queue_write(struct virtio_pci *t, u64 off, u64 val)
{
    struct virtio_queue *q = selected(t);

    if (!q || q->enabled)
        return;
    if (off == COMMON_QUEUE_SIZE)
        q->size = (u16)val;
    else if (off == COMMON_QUEUE_ENABLE && val == 1)
        virtio_enable_queue(t->v, t->queue_sel);
    else if (off >= COMMON_QUEUE_DESC && off < COMMON_SIZE && !(off & 3))
        set_queue_address(q, off, (u32)val);
}

static void common_write(struct virtio_pci *t, u64 off, u64 val)
{
    switch (off) {
    case COMMON_OFFERED_SEL: t->offered_sel = (u32)val; break;
    case COMMON_ACCEPTED_SEL: t->accepted_sel = (u32)val; break;
    case COMMON_ACCEPTED: virtio_set_features(t->v, t->accepted_sel, (u32)val, false); break;
    case COMMON_CONFIG_VECTOR: t->v->config_vector = vector_of(t, val); break;
    case COMMON_STATUS: set_status(t, (u8)val, false); break;
    case COMMON_QUEUE_SEL: t->queue_sel = (u16)val; break;
    case COMMON_QUEUE_VECTOR: set_queue_vector(t, val); break;
    default: common_queue_write(t, off, val); break;
    }
}

static u64 modern_read(void *dev, u64 off, unsigned size)
{
    struct virtio_pci *t = dev;

    switch (off / AREA) {
    case 0: return common_read(t, off);
    case 1: return off % AREA ? 0 : read_isr(t);
    case 2: return virtio_config_load(t->v, off % AREA, size);
    default: return 0;
    }
}

static void modern_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct virtio_pci *t = dev;

    switch (off / AREA) {
    case 0: common_write(t, off, val); break;
    case 2: virtio_config_store(t->v, off % AREA, size, val); break;
    case 3: virtio_notify(t->v, (unsigned)(off % AREA / NOTIFY_STEP)); break;
    default: break;
    }
}

static const struct dev_ops modern_ops = {.name = "virtio-modern", .read = modern_read, .write = modern_write};

// --- legacy layout ------------------------------------------------------------------------------------------------------

static u64 legacy_config(const struct virtio_pci *t)
{
    return pci_msix_enabled(&t->pci) ? LEGACY_SIZE_MSIX : LEGACY_SIZE;
}

static u64 legacy_read(void *dev, u64 off, unsigned size)
{
    struct virtio_pci *t = dev;
    const struct virtio_queue *q = selected(t);

    if (off >= legacy_config(t))
        return virtio_config_load(t->v, off - legacy_config(t), size);
    switch (off) {
    case LEGACY_OFFERED: return virtio_features(t->v, true);
    case LEGACY_ACCEPTED: return (u32)t->v->accepted;
    case LEGACY_QUEUE_PFN: return q && q->enabled ? q->desc >> 12 : 0;
    case LEGACY_QUEUE_SIZE: return q ? q->max_size : 0;
    case LEGACY_QUEUE_SEL: return t->queue_sel;
    case LEGACY_STATUS: return t->v->status;
    case LEGACY_ISR: return read_isr(t);
    case LEGACY_CONFIG_VECTOR: return t->v->config_vector;
    case LEGACY_QUEUE_VECTOR: return q ? q->vector : VIRTIO_NO_VECTOR;
    default: return 0;
    }
}

static void legacy_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct virtio_pci *t = dev;

    if (off >= legacy_config(t)) {
        virtio_config_store(t->v, off - legacy_config(t), size, val);
        return;
    }
    switch (off) {
    case LEGACY_ACCEPTED: virtio_set_features(t->v, 0, (u32)val, true); break;
    case LEGACY_QUEUE_PFN:
        virtio_set_pfn(t->v, t->queue_sel, (u32)val);
        if (!val)
            pci_intx(&t->pci, false);
        break;
    case LEGACY_QUEUE_SEL: t->queue_sel = (u16)val; break;
    case LEGACY_NOTIFY: virtio_notify(t->v, (unsigned)val); break;
    case LEGACY_STATUS: set_status(t, (u8)val, true); break;
    case LEGACY_CONFIG_VECTOR: t->v->config_vector = vector_of(t, val); break;
    case LEGACY_QUEUE_VECTOR: set_queue_vector(t, val); break;
    default: break;
    }
}

static const struct dev_ops legacy_ops = {.name = "virtio-legacy", .read = legacy_read, .write = legacy_write};

// --- configuration space ------------------------------------------------------------------------------------------------

static void transport_reset(void *self)
{
    struct virtio_pci *t = self;

    virtio_reset(t->v);
    t->offered_sel = t->accepted_sel = 0;
    t->queue_sel = 0;
}

// The window: an access to its data is one to the region, offset and length that its other fields say. 4.1.4.9.
static bool window_target(const struct virtio_pci *t, unsigned off, unsigned size, unsigned *bar, u32 *at, u32 *len)
{
    const u8 *cap = &t->pci.config[t->window_cap];
    unsigned data = t->window_cap + CAP_EXTRA;

    if (!t->window_cap || off >= data + 4 || off + size <= data)
        return false;
    *bar = cap[CAP_BAR];
    *at = pci_get32(cap, CAP_OFFSET);
    *len = pci_get32(cap, CAP_LENGTH);
    return *bar < PCI_BARS && (*len == 1 || *len == 2 || *len == 4) && !(*at & (*len - 1));
}

static void config_read(void *self, unsigned off, unsigned size)
{
    struct virtio_pci *t = self;
    unsigned bar;
    u32 at, len;

    if (window_target(t, off, size, &bar, &at, &len))
        pci_put32(t->pci.config, t->window_cap + CAP_EXTRA, (u32)pci_region_read(&t->pci, bar, at, len));
}

static void config_written(void *self, unsigned off, unsigned size)
{
    struct virtio_pci *t = self;
    unsigned bar;
    u32 at, len;

    // Before bus mastering was ever on, old drivers are let have their way: what counts is that it goes off.
    if (off <= PCI_COMMAND && off + size > PCI_COMMAND)
        virtio_set_stopped(t->v, !pci_bus_master(&t->pci) && t->v->status & VIRTIO_STATUS_DRIVER_OK);
    if (window_target(t, off, size, &bar, &at, &len)) {
        u32 val = pci_get32(t->pci.config, t->window_cap + CAP_EXTRA);
        pci_region_write(&t->pci, bar, at, len, len == 4 ? val : val & ((1u << len * 8) - 1));
    }
}

static void transport_dump(void *self, char *buf, size_t size)
{
    virtio_dump(((struct virtio_pci *)self)->v, buf, size);
}

// --- building -----------------------------------------------------------------------------------------------------------

static int add_cap(struct virtio_pci *t, u8 type, u32 area, u32 length, unsigned size)
{
    int at = pci_add_cap(&t->pci, PCI_CAP_VENDOR, size);
    u8 *cap = &t->pci.initial[at < 0 ? 0 : at];

    if (at < 0)
        return at;
    cap[2] = (u8)size;
    cap[CAP_TYPE] = type;
    cap[CAP_BAR] = type == CAP_WINDOW ? 0 : BAR_MODERN;
    pci_put32(cap, CAP_OFFSET, area);
    pci_put32(cap, CAP_LENGTH, length);
    if (type == CAP_NOTIFY)
        pci_put32(cap, CAP_EXTRA, NOTIFY_STEP);
    return at;
}

static int add_window(struct virtio_pci *t)
{
    int at = add_cap(t, CAP_WINDOW, 0, 0, CAP_WINDOW_SIZE);
    u8 *mask = &t->pci.wmask[at < 0 ? 0 : at];

    if (at < 0)
        return at;
    mask[CAP_BAR] = 0xff;
    pci_put32(mask, CAP_OFFSET, ~0u);
    pci_put32(mask, CAP_LENGTH, ~0u);
    pci_put32(mask, CAP_EXTRA, ~0u);
    t->window_cap = (u8)at;
    return 0;
}

static int add_modern(struct virtio_pci *t)
{
    int ret = pci_add_bar(&t->pci, BAR_MODERN, PCI_REGION_MEM64, 4 * AREA, &modern_ops, t);

    if (ret)
        return ret;
    t->pci.region[BAR_MODERN].prefetch = true; // as QEMU has it
    if ((ret = add_cap(t, CAP_COMMON, 0, AREA, CAP_SIZE)) < 0 ||
        (ret = add_cap(t, CAP_ISR, AREA, AREA, CAP_SIZE)) < 0 ||
        (ret = add_cap(t, CAP_DEVICE, 2 * AREA, AREA, CAP_SIZE)) < 0 ||
        (ret = add_cap(t, CAP_NOTIFY, 3 * AREA, AREA, CAP_NOTIFY_SIZE)) < 0)
        return ret;
    return add_window(t);
}

static int add_legacy(struct virtio_pci *t)
{
    u64 size = 32;

    while (size < LEGACY_SIZE_MSIX + (u64)t->v->config_size)
        size *= 2;
    return pci_add_bar(&t->pci, BAR_LEGACY, PCI_REGION_IO, size, &legacy_ops, t);
}

// Device numbers of transitional devices. 4.1.2.1.
static u16 transitional_id(u16 type)
{
    static const u8 number[] = {[1] = 0x00,
                                [VIRTIO_ID_BLOCK] = 0x01,
                                [VIRTIO_ID_CONSOLE] = 0x03,
                                [VIRTIO_ID_RNG] = 0x05,
                                [8] = 0x04,
                                [VIRTIO_ID_BALLOON] = 0x02,
                                [9] = 0x09};

    return (u16)(DEVICE_TRANSITIONAL + (type < ARRAY_LEN(number) ? number[type] : 0));
}

int virtio_pci_add(struct virtio_pci *t, struct virtio *v, const struct virtio_attach *at, u16 type, u32 class_code,
                   unsigned vectors)
{
    static const struct pci_dev_ops ops = {.name = "virtio",
                                           .reset = transport_reset,
                                           .config_read = config_read,
                                           .config_written = config_written,
                                           .dump = transport_dump};
    bool modern = at->kind == VIRTIO_PCI_MODERN;
    struct pci_id id = {.vendor = VENDOR_VIRTIO,
                        .device = modern ? (u16)(DEVICE_MODERN + type) : transitional_id(type),
                        .subvendor = VENDOR_VIRTIO,
                        .subdevice = modern ? SUBSYSTEM_MODERN : type,
                        .class_code = class_code,
                        .revision = modern};
    int ret = 0;

    v->mem = at->mem;
    v->clock = at->clock;
    v->host = at->host;
    v->interrupt = interrupt;
    v->transport = t;
    if (at->kind == VIRTIO_PCI_LEGACY)
        v->offered &= ~VIRTIO_F_VERSION_1;
    *t = (struct virtio_pci){.v = v};
    pci_dev_init(&t->pci, &id, &ops, t);
    pci_set_pin(&t->pci, 1);
    if (!modern)
        ret = add_legacy(t);
    if (!ret && vectors && !at->no_msix) {
        ret = pci_add_bar(&t->pci, BAR_MSIX, PCI_REGION_MEM32, AREA, NULL, NULL);
        if (!ret)
            ret = pci_add_msix(&t->pci, vectors, BAR_MSIX, 0, MSIX_PBA);
    }
    if (!ret && at->kind != VIRTIO_PCI_LEGACY)
        ret = add_modern(t);
    return ret ? ret : pci_add(at->bus, &t->pci, at->devfn);
}
