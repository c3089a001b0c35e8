// A driver for virtio tests: guest memory, a PCI bus, and what a driver does with a device on it, over either register layout.
#ifndef TESTS_VIRTIO_ENV_H
#define TESTS_VIRTIO_ENV_H

#include <stdlib.h>
#include <string.h>

#include "dev/virtio_pci.h"

#define ENV_RAM (1u << 20)
#define ENV_ROM 0x200000u // a page
#define ENV_MMIO 0x300000u
#define ENV_HOLE 0x400000u
#define ENV_HIGH 0x100000u // RAM that adjoins the first region

#define D_NEXT 1
#define D_WRITE 2
#define D_INDIRECT 4

struct env {
    struct mem mem;
    struct pci_bus bus;
    u8 *ram, *rom, *high;
    _Atomic u8 flags[2 * ENV_RAM / 4096], rom_flags[1];
    bool pirq[4];
    unsigned messages;
    u32 last_message;
    unsigned code_writes;
};

// A queue as the driver sees it.
struct ring {
    u64 desc, avail, used;
    u16 size, next, seen; // next available index; used index up to which it looked
};

struct driver {
    struct env *e;
    struct pci_dev *pci;
    struct virtio *v;
    bool legacy;
    struct ring ring[VIRTIO_MAX_QUEUES];
};

static inline void env_pirq(void *sink, unsigned n, bool level)
{
    ((struct env *)sink)->pirq[n] = level;
}

static inline void env_msi(void *sink, u64 addr, u32 data)
{
    struct env *e = sink;

    (void)addr;
    e->messages++;
    e->last_message = data;
}

static inline void env_code_write(void *owner, gpa base, u64 len)
{
    (void)base, (void)len;
    ((struct env *)owner)->code_writes++;
}

static inline u64 env_mmio_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    abort(); // devices never get here
}

static inline struct env *env_new(void)
{
    static const struct dev_ops mmio = {.name = "mmio", .read = env_mmio_read};
    struct env *e = calloc(1, sizeof(*e));

    e->ram = aligned_alloc(4096, 2 * ENV_RAM);
    e->rom = aligned_alloc(4096, 4096);
    memset(e->ram, 0, 2 * ENV_RAM);
    memset(e->rom, 0, 4096);
    e->high = e->ram + ENV_RAM;
    if (mem_add_ram(&e->mem, 0, ENV_RAM, e->ram, e->flags, "ram") ||
        mem_add_ram(&e->mem, ENV_HIGH, ENV_RAM, e->high, e->flags + ENV_RAM / 4096, "high") ||
        mem_add_rom(&e->mem, ENV_ROM, 4096, e->rom, e->rom_flags, "rom") ||
        mem_add_mmio(&e->mem, ENV_MMIO, 4096, &mmio, e, "mmio"))
        abort();
    e->mem.code_write = env_code_write;
    e->mem.owner = e;
    for (unsigned i = 0; i < 4; i++)
        e->bus.pirq[i] = (struct irq_line){env_pirq, e, i};
    e->bus.msi = env_msi;
    e->bus.sink = e;
    pci_bus_init(&e->bus);
    return e;
}

static inline void env_free(struct env *e)
{
    free(e->ram);
    free(e->rom);
    free(e);
}

static inline struct virtio_attach env_attach(struct env *e, enum virtio_pci_kind kind)
{
    return (struct virtio_attach){.bus = &e->bus, .devfn = PCI_DEVFN_ANY, .kind = kind, .mem = &e->mem};
}

static inline bool env_irq(const struct env *e)
{
    return e->pirq[0] || e->pirq[1] || e->pirq[2] || e->pirq[3];
}

static inline u8 *at(struct driver *d, u64 a)
{
    return d->e->ram + a;
}

static inline u16 get16(struct driver *d, u64 a)
{
    return (u16)mem_host_load(at(d, a), 2);
}

static inline u32 get32(struct driver *d, u64 a)
{
    return (u32)mem_host_load(at(d, a), 4);
}

static inline void put(struct driver *d, u64 a, unsigned size, u64 val)
{
    mem_host_store(at(d, a), size, val);
}

// --- registers ------------------------------------------------------------------------------------------------------------

static inline u64 rd(struct driver *d, u64 off, unsigned size)
{
    return pci_region_read(d->pci, d->legacy ? 0 : 4, off, size);
}

static inline void wr(struct driver *d, u64 off, unsigned size, u64 val)
{
    pci_region_write(d->pci, d->legacy ? 0 : 4, off, size, val);
}

static inline u8 driver_status(struct driver *d)
{
    return (u8)rd(d, d->legacy ? 0x12 : 0x14, 1);
}

static inline void driver_set_status(struct driver *d, u8 status)
{
    wr(d, d->legacy ? 0x12 : 0x14, 1, status);
}

static inline u8 driver_isr(struct driver *d)
{
    return (u8)rd(d, d->legacy ? 0x13 : 0x1000, 1);
}

static inline u64 driver_offered(struct driver *d)
{
    u64 val;

    if (d->legacy)
        return rd(d, 0, 4);
    wr(d, 0, 4, 1);
    val = rd(d, 4, 4) << 32;
    wr(d, 0, 4, 0);
    return val | rd(d, 4, 4);
}

static inline void driver_accept(struct driver *d, u64 features)
{
    if (d->legacy) {
        wr(d, 4, 4, (u32)features);
        return;
    }
    for (u32 i = 0; i < 2; i++) {
        wr(d, 8, 4, i);
        wr(d, 12, 4, (u32)(features >> i * 32));
    }
}

static inline u64 driver_config(struct driver *d, u64 off, unsigned size)
{
    u64 base = !d->legacy ? 0x2000 : pci_msix_enabled(d->pci) ? 0x18 : 0x14;

    return rd(d, base + off, size);
}

static inline void driver_config_write(struct driver *d, u64 off, unsigned size, u64 val)
{
    u64 base = !d->legacy ? 0x2000 : pci_msix_enabled(d->pci) ? 0x18 : 0x14;

    wr(d, base + off, size, val);
}

static inline void driver_kick(struct driver *d, unsigned queue)
{
    if (d->legacy)
        wr(d, 0x10, 2, queue);
    else
        wr(d, 0x3000 + 4 * queue, 2, queue);
}

// Rings of a queue in guest memory, four pages from `base` on (a multiple of the page size).
static inline void driver_place(struct driver *d, unsigned queue, u64 base)
{
    struct ring *r = &d->ring[queue];

    *r = (struct ring){.desc = base};
    if (d->legacy) {
        wr(d, 0x0e, 2, queue);
        r->size = (u16)rd(d, 0x0c, 2);
        r->avail = base + 16u * r->size;
        r->used = (r->avail + 6 + 2u * r->size + 4095) & ~4095ull;
    } else {
        wr(d, 0x16, 2, queue);
        r->size = (u16)rd(d, 0x18, 2);
        r->avail = base + 0x1000;
        r->used = base + 0x2000;
    }
    memset(at(d, base), 0, 0x4000);
}

static inline void driver_enable(struct driver *d, unsigned queue)
{
    struct ring *r = &d->ring[queue];

    if (d->legacy) {
        wr(d, 0x0e, 2, queue);
        wr(d, 0x08, 4, r->desc >> 12);
        return;
    }
    wr(d, 0x16, 2, queue);
    wr(d, 0x18, 2, r->size);
    wr(d, 0x20, 8, r->desc);
    wr(d, 0x28, 8, r->avail);
    wr(d, 0x30, 8, r->used);
    wr(d, 0x1c, 2, 1);
}

static inline void driver_init(struct driver *d, struct env *e, struct virtio *v, struct virtio_pci *t, bool legacy)
{
    *d = (struct driver){.e = e, .pci = &t->pci, .v = v, .legacy = legacy};
    pci_config_write(d->pci, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

// Reset, negotiate, enable all queues from guest address `base` on, and say ready. Features that are not offered are left out.
static inline void driver_start(struct driver *d, u64 features, u64 base)
{
    driver_set_status(d, 0);
    driver_set_status(d, 1);
    driver_set_status(d, 3);
    if (!d->legacy)
        features |= VIRTIO_F_VERSION_1;
    driver_accept(d, features & driver_offered(d));
    if (!d->legacy)
        driver_set_status(d, 0x0b);
    for (unsigned i = 0; i < d->v->queue_count; i++) {
        driver_place(d, i, base + i * 0x4000u);
        driver_enable(d, i);
    }
    driver_set_status(d, d->legacy ? 0x07 : 0x0f);
}

// --- rings ----------------------------------------------------------------------------------------------------------------

static inline void put_desc_at(struct driver *d, u64 a, u64 addr, u32 len, u16 flags, u16 next)
{
    put(d, a, 8, addr);
    put(d, a + 8, 4, len);
    put(d, a + 12, 2, flags);
    put(d, a + 14, 2, next);
}

static inline void put_desc(struct driver *d, unsigned queue, u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
    put_desc_at(d, d->ring[queue].desc + 16u * i, addr, len, flags, next);
}

static inline void driver_publish(struct driver *d, unsigned queue, u16 head)
{
    struct ring *r = &d->ring[queue];

    put(d, r->avail + 4 + 2u * (r->next % r->size), 2, head);
    r->next++;
    put(d, r->avail + 2, 2, r->next);
}

// The next used entry: its length, or -1.
static inline i64 driver_used(struct driver *d, unsigned queue, u32 *id)
{
    struct ring *r = &d->ring[queue];
    u64 a = r->used + 4 + 8u * (r->seen % r->size);

    if (__atomic_load_n((u16 *)(void *)at(d, r->used + 2), __ATOMIC_ACQUIRE) == r->seen)
        return -1;
    r->seen++;
    if (id)
        *id = get32(d, a);
    return get32(d, a + 4);
}

// Switch MSI-X on with every vector sending its number.
static inline void driver_msix(struct driver *d)
{
    for (unsigned i = 0; i < d->pci->msix.count; i++) {
        pci_region_write(d->pci, 1, 16 * i, 4, 0xfee00000);
        pci_region_write(d->pci, 1, 16 * i + 8, 4, i);
        pci_region_write(d->pci, 1, 16 * i + 12, 4, 0);
    }
    pci_config_write(d->pci, d->pci->msix.cap + 2u, 2, 0x8000);
}

#endif
