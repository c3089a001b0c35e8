// The PCI bus. Configuration space is bytes with masks: which bits the guest can write, and which a written 1 clears; what a
// write means is looked at afterwards, from the whole contents, so that no order of partial writes is special.
//
// After every write that can move something the bus makes its two maps anew (I/O and memory): sorted, disjoint ranges of those
// regions that are switched on and lie somewhere sensible. There are a few dozen regions at most and guests move them at boot.

#include "dev/pci.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONFIG_HEADER_END 0x40
#define MULTI_FUNCTION 0x80

#define MSIX_CAP_SIZE 12
#define MSIX_ENABLE 0x8000u
#define MSIX_MASK_ALL 0x4000u
#define MSIX_VECTOR_MASKED 1u
#define MSIX_VECTOR_SIZE 16u

#define PORT_LAST 0xffffull

static u64 ones(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

// --- INTx --------------------------------------------------------------------------------------------------------------

// Which of PIRQA..D a pin is wired to: the boards of this family turn the pins by one from slot to slot, INTA of slot 1 being PIRQA.
static unsigned pirq_of(const struct pci_dev *d)
{
    return (PCI_SLOT(d->devfn) + 3u + d->config[PCI_INTERRUPT_PIN] - 1u) & 3;
}

static void update_pirq(struct pci_dev *d)
{
    bool off = pci_get16(d->config, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    bool show = d->intx && !off && d->config[PCI_INTERRUPT_PIN] && !pci_msix_enabled(d);
    unsigned n;

    if (d->intx)
        d->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    else
        d->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTERRUPT;
    if (show == d->pirq || !d->bus)
        return;
    n = pirq_of(d);
    d->pirq = show;
    d->bus->pirq_users[n] += show ? 1u : ~0u;
    if (d->bus->pirq_users[n] == (show ? 1u : 0u))
        irq_set(d->bus->pirq[n], show);
}

void pci_intx(struct pci_dev *d, bool level)
{
    if (d->intx == level)
        return;
    d->intx = level;
    update_pirq(d);
}

// --- MSI-X -------------------------------------------------------------------------------------------------------------

static u16 msix_control(const struct pci_dev *d)
{
    return d->msix.cap ? pci_get16(d->config, d->msix.cap + 2u) : 0;
}

bool pci_msix_enabled(const struct pci_dev *d)
{
    return msix_control(d) & MSIX_ENABLE;
}

// Send what is pending and may be sent. A message is a memory write, so it waits for bus mastering, too.
static void msix_flush(struct pci_dev *d)
{
    struct pci_msix *x = &d->msix;

    if ((msix_control(d) & (MSIX_ENABLE | MSIX_MASK_ALL)) != MSIX_ENABLE || !pci_bus_master(d))
        return;
    for (unsigned word = 0; word < ARRAY_LEN(x->pending); word++) {
        u64 left = x->pending[word];
        for (; left; left &= left - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(left);
            const struct pci_msix_vector *v = &x->vector[word * 64 + bit];
            if (v->control & MSIX_VECTOR_MASKED)
                continue;
            x->pending[word] &= ~(1ull << bit);
            if (d->bus && d->bus->msi)
                d->bus->msi(d->bus->sink, (u64)v->addr_hi << 32 | v->addr_lo, v->data);
        }
    }
}

void pci_msix_notify(struct pci_dev *d, unsigned vector)
{
    if (!pci_msix_enabled(d) || vector >= d->msix.count)
        return;
    d->msix.pending[vector / 64] |= 1ull << vector % 64;
    msix_flush(d);
}

void pci_msix_clear(struct pci_dev *d, unsigned vector)
{
    if (vector < d->msix.count)
        d->msix.pending[vector / 64] &= ~(1ull << vector % 64);
}

static void msix_reset(struct pci_dev *d)
{
    memset(d->msix.vector, 0, sizeof(d->msix.vector));
    memset(d->msix.pending, 0, sizeof(d->msix.pending));
    for (unsigned i = 0; i < d->msix.count; i++)
        d->msix.vector[i].control = MSIX_VECTOR_MASKED;
}

static u64 msix_table_size(const struct pci_msix *x)
{
    return (u64)x->count * MSIX_VECTOR_SIZE;
}

static u64 msix_pba_size(const struct pci_msix *x)
{
    return (x->count + 63ull) / 64 * 8;
}

static bool msix_in_table(const struct pci_dev *d, unsigned region, u64 off)
{
    return region == d->msix.table_bar && off - d->msix.table_off < msix_table_size(&d->msix);
}

// Does [off, off+size) of a region touch the table or the pending bits?
static bool msix_touches(const struct pci_dev *d, unsigned region, u64 off, unsigned size)
{
    const struct pci_msix *x = &d->msix;

    if (!x->cap)
        return false;
    if (region == x->table_bar && off + size > x->table_off && off < x->table_off + msix_table_size(x))
        return true;
    return region == x->pba_bar && off + size > x->pba_off && off < x->pba_off + msix_pba_size(x);
}

static u32 *msix_field(struct pci_dev *d, u64 off)
{
    struct pci_msix_vector *v = &d->msix.vector[(off - d->msix.table_off) / MSIX_VECTOR_SIZE];

    switch ((off - d->msix.table_off) / 4 % 4) {
    case 0: return &v->addr_lo;
    case 1: return &v->addr_hi;
    case 2: return &v->data;
    default: return &v->control;
    }
}

// Within one dword of the table or of the pending bits (both begin at multiples of 8).
static u64 msix_read(struct pci_dev *d, unsigned region, u64 off, unsigned size)
{
    u64 val;

    if (msix_in_table(d, region, off))
        val = *msix_field(d, off);
    else
        val = d->msix.pending[(off - d->msix.pba_off) / 8] >> ((off - d->msix.pba_off) & 4) * 8;
    return val >> (off & 3) * 8 & ones(size);
}

static void msix_write(struct pci_dev *d, unsigned region, u64 off, unsigned size, u64 val)
{
    u32 mask = (u32)(ones(size) << (off & 3) * 8), *field;

    if (!msix_in_table(d, region, off))
        return; // pending bits are read-only
    field = msix_field(d, off);
    *field = (*field & ~mask) | ((u32)(val << (off & 3) * 8) & mask);
    if ((off - d->msix.table_off) / 4 % 4 == 3) {
        *field &= MSIX_VECTOR_MASKED;
        msix_flush(d);
    }
}

// --- regions -----------------------------------------------------------------------------------------------------------

// How much of an access at `off` one handler call may see: a power of two, also where what is left is none.
static unsigned piece(const struct pci_dev *d, unsigned region, u64 off, unsigned size)
{
    const struct pci_region *r = &d->region[region];
    unsigned most = r->max_size ? r->max_size : 4;

    if (msix_touches(d, region, off, size))
        most = (off & 3) + size > 4 && off & 3 ? 1 : 4;
    if (size > most)
        size = most;
    return 1u << (31 - __builtin_clz(size));
}

u64 pci_region_read(struct pci_dev *d, unsigned region, u64 off, unsigned size)
{
    const struct pci_region *r = &d->region[region];
    u64 val = 0;

    if (off >= r->size || size > r->size - off)
        return ones(size);
    for (unsigned done = 0, n; done < size; done += n) {
        u64 at = off + done, part;
        n = piece(d, region, at, size - done);
        if (msix_touches(d, region, at, n))
            part = msix_read(d, region, at, n);
        else
            part = r->ops && r->ops->read ? r->ops->read(r->dev, at, n) & ones(n) : ones(n);
        val |= part << done * 8;
    }
    return val;
}

void pci_region_write(struct pci_dev *d, unsigned region, u64 off, unsigned size, u64 val)
{
    const struct pci_region *r = &d->region[region];

    if (off >= r->size || size > r->size - off)
        return;
    for (unsigned done = 0, n; done < size; done += n) {
        u64 at = off + done, part;
        n = piece(d, region, at, size - done);
        part = val >> done * 8 & ones(n);
        if (msix_touches(d, region, at, n))
            msix_write(d, region, at, n, part);
        else if (r->ops && r->ops->write)
            r->ops->write(r->dev, at, n, part);
    }
}

// Where the guest put a base address register: false when that is nowhere. Address 0 means not assigned.
static bool region_place(const struct pci_dev *d, unsigned i, u64 *base)
{
    const struct pci_region *r = &d->region[i];
    u16 command = pci_get16(d->config, PCI_COMMAND);
    u64 last, limit = r->kind == PCI_REGION_IO ? PORT_LAST : r->kind == PCI_REGION_MEM32 ? 0xffffffffull : ~0ull;

    if (!(command & (r->kind == PCI_REGION_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return false;
    *base = pci_get32(d->config, PCI_BAR0 + 4 * i);
    if (r->kind == PCI_REGION_MEM64)
        *base |= (u64)pci_get32(d->config, PCI_BAR0 + 4 * i + 4) << 32;
    *base &= ~(r->size - 1);
    last = *base + (r->size - 1);
    return *base && last >= *base && last <= limit;
}

// Put a range into a map, unless it meets one that is there.
static bool map_insert(struct pci_map *m, const struct pci_range *n)
{
    unsigned at = 0;

    while (at < m->count && m->range[at].last < n->base)
        at++;
    if (m->count == PCI_MAX_RANGES || (at < m->count && m->range[at].base <= n->last))
        return false;
    memmove(&m->range[at + 1], &m->range[at], (m->count - at) * sizeof(*n));
    m->range[at] = *n;
    m->count++;
    return true;
}

static void map_device(struct pci_bus *b, struct pci_dev *d)
{
    for (unsigned i = 0; i < PCI_REGIONS; i++) {
        struct pci_region *r = &d->region[i];
        if (r->kind == PCI_REGION_NONE)
            continue;
        if (i < PCI_BARS)
            r->mapped = region_place(d, i, &r->base);
        else
            r->mapped = r->wanted;
        if (r->mapped) {
            struct pci_range n = {r->base, r->base + (r->size - 1), d, (u8)i};
            r->mapped = map_insert(r->kind == PCI_REGION_IO ? &b->io : &b->mem, &n);
        }
    }
}

static void remap(struct pci_bus *b)
{
    b->io.count = b->io.hit = 0;
    b->mem.count = b->mem.hit = 0;
    for (unsigned i = 0; i < b->count; i++)
        map_device(b, b->order[i]);
}

void pci_place_extra(struct pci_dev *d, unsigned region, u64 base, bool on)
{
    struct pci_region *r = &d->region[region];

    if (region < PCI_REGION_EXTRA || region >= PCI_REGIONS || r->kind != PCI_REGION_IO)
        return;
    r->base = base;
    r->wanted = on && base && base <= PORT_LAST && r->size - 1 <= PORT_LAST - base;
    if (d->bus)
        remap(d->bus);
}

static const struct pci_range *map_find(struct pci_map *m, u64 a)
{
    const struct pci_range *r = &m->range[m->hit];
    unsigned lo = 0, hi = m->count;

    if (m->count && a >= r->base && a <= r->last)
        return r;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        r = &m->range[mid];
        if (a < r->base) {
            hi = mid;
        } else if (a > r->last) {
            lo = mid + 1;
        } else {
            m->hit = mid;
            return r;
        }
    }
    return NULL;
}

static u64 map_read(struct pci_map *m, u64 a, unsigned size)
{
    const struct pci_range *r = map_find(m, a);
    u64 val = 0;

    if (r && size - 1 <= r->last - a)
        return pci_region_read(r->dev, r->region, a - r->base, size);
    if (size == 1)
        return 0xff;
    for (unsigned i = 0; i < size; i++)
        val |= map_read(m, a + i, 1) << i * 8;
    return val;
}

static void map_write(struct pci_map *m, u64 a, unsigned size, u64 val)
{
    const struct pci_range *r = map_find(m, a);

    if (r && size - 1 <= r->last - a)
        pci_region_write(r->dev, r->region, a - r->base, size, val);
    else if (size > 1)
        for (unsigned i = 0; i < size; i++)
            map_write(m, a + i, 1, val >> i * 8 & 0xff);
}

static u64 io_read(void *dev, u64 off, unsigned size)
{
    return map_read(&((struct pci_bus *)dev)->io, off, size);
}

static void io_write(void *dev, u64 off, unsigned size, u64 val)
{
    map_write(&((struct pci_bus *)dev)->io, off, size, val);
}

const struct dev_ops pci_io_ops = {.name = "pci-io", .read = io_read, .write = io_write};

static u64 window_read(void *dev, u64 off, unsigned size)
{
    struct pci_window *w = dev;

    return map_read(&w->bus->mem, w->base + off, size);
}

static void window_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct pci_window *w = dev;

    map_write(&w->bus->mem, w->base + off, size, val);
}

const struct dev_ops pci_mem_ops = {.name = "pci-mem", .read = window_read, .write = window_write};

// --- configuration space ------------------------------------------------------------------------------------------------

u32 pci_config_read(struct pci_dev *d, unsigned off, unsigned size)
{
    u32 val = 0;

    if (d->ops->config_read)
        d->ops->config_read(d->self, off, size);
    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++)
        val |= (u32)d->config[off + i] << i * 8;
    return val;
}

static bool meets(unsigned off, unsigned size, unsigned base, unsigned len)
{
    return off < base + len && base < off + size;
}

void pci_config_write(struct pci_dev *d, unsigned off, unsigned size, u32 val)
{
    for (unsigned i = 0; i < size && off + i < PCI_CONFIG_SIZE; i++) {
        u8 *c = &d->config[off + i], w = d->wmask[off + i], byte = (u8)(val >> i * 8);
        *c = (u8)((*c & ~w) | (byte & w)) & (u8) ~(d->w1c[off + i] & byte);
    }
    if (d->bus && (meets(off, size, PCI_COMMAND, 2) || meets(off, size, PCI_BAR0, 4 * PCI_BARS)))
        remap(d->bus);
    update_pirq(d);
    msix_flush(d);
    if (d->ops->config_written)
        d->ops->config_written(d->self, off, size);
}

static struct pci_dev *addressed(const struct pci_bus *b)
{
    // Another bus, or, as AMD's northbridges have it in bits 24 to 27, a register past 255 of those that PCI Express has.
    if (!(b->address & 0x80000000u) || (b->address >> 16 & 0xfff))
        return NULL;
    return b->dev[b->address >> 8 & 0xff];
}

// The ports 0xcf8 to 0xcff. The address register is reached by dwords alone; a byte at 0xcf9 is the reset register.
static u64 host_read(void *dev, u64 off, unsigned size)
{
    struct pci_bus *b = dev;
    struct pci_dev *d = addressed(b);

    if (off == 0 && size == 4)
        return b->address;
    if (off == 1 && size == 1)
        return b->reset_control;
    if (off < 4 || !d)
        return ones(size);
    return pci_config_read(d, (b->address & 0xfc) | (unsigned)(off & 3), size);
}

static void host_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct pci_bus *b = dev;
    struct pci_dev *d = addressed(b);

    if (off == 0 && size == 4) {
        b->address = (u32)val & 0x8ffffffcu;
    } else if (off == 1 && size == 1) {
        b->reset_control = (u8)val & 0x02; // bit 1 says which reset; all are hard here
        if (val & 0x04 && b->reset_machine)
            b->reset_machine(b->sink);
    } else if (off >= 4 && d) {
        pci_config_write(d, (b->address & 0xfc) | (unsigned)(off & 3), size, (u32)val);
    }
}

static void host_reset(void *dev)
{
    pci_bus_reset(dev);
}

static void host_dump(void *dev, char *buf, size_t size)
{
    pci_bus_dump(dev, buf, size);
}

const struct dev_ops pci_host_ops = {
    .name = "pci-host", .reset = host_reset, .read = host_read, .write = host_write, .dump = host_dump};

// --- building a device ----------------------------------------------------------------------------------------------------

void pci_dev_init(struct pci_dev *d, const struct pci_id *id, const struct pci_dev_ops *ops, void *self)
{
    u8 *c = d->initial;

    memset(d, 0, sizeof(*d));
    d->ops = ops;
    d->self = self;
    d->cap_end = CONFIG_HEADER_END;
    pci_put16(c, PCI_VENDOR_ID, id->vendor);
    pci_put16(c, PCI_DEVICE_ID, id->device);
    c[PCI_REVISION] = id->revision;
    c[PCI_CLASS_PROG] = (u8)id->class_code;
    pci_put16(c, PCI_CLASS_PROG + 1, (u16)(id->class_code >> 8));
    pci_put16(c, PCI_SUBSYSTEM_VENDOR_ID, id->subvendor);
    pci_put16(c, PCI_SUBSYSTEM_ID, id->subdevice);
    pci_put16(d->wmask, PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE | 0x0140); // parity, SERR#
    d->wmask[PCI_INTERRUPT_LINE] = 0xff;
    d->wmask[0x0c] = 0xff; // cache line size
}

static bool bar_valid(const struct pci_dev *d, unsigned bar, enum pci_region_kind kind, u64 size)
{
    if (!size || size & (size - 1))
        return false;
    switch (kind) {
    case PCI_REGION_IO: return bar < PCI_BARS && size >= 4 && size <= 0x8000;
    case PCI_REGION_MEM32: return bar < PCI_BARS && size >= 16 && size <= 1ull << 31;
    case PCI_REGION_MEM64:
        return bar + 1 < PCI_BARS && size >= 16 && size <= 1ull << 62 && d->region[bar + 1].kind == PCI_REGION_NONE;
    default: return false;
    }
}

int pci_add_bar(struct pci_dev *d, unsigned bar, enum pci_region_kind kind, u64 size, const struct dev_ops *ops,
                void *dev)
{
    u64 mask = ~(size - 1);
    unsigned at = PCI_BAR0 + 4 * bar;

    if (!bar_valid(d, bar, kind, size) || d->region[bar].kind != PCI_REGION_NONE ||
        (bar > 0 && d->region[bar - 1].kind == PCI_REGION_MEM64))
        return -EINVAL;
    d->region[bar] = (struct pci_region){.kind = kind, .size = size, .ops = ops, .dev = dev};
    pci_put32(d->wmask, at, (u32)mask);
    if (kind == PCI_REGION_MEM64)
        pci_put32(d->wmask, at + 4, (u32)(mask >> 32));
    d->wmask[PCI_COMMAND] |= kind == PCI_REGION_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return 0;
}

int pci_add_cap(struct pci_dev *d, u8 id, unsigned len)
{
    unsigned at = d->cap_end;

    if (len < 2 || len > PCI_CONFIG_SIZE - at)
        return -ENOSPC;
    d->initial[at] = id;
    d->initial[d->cap_last ? d->cap_last + 1u : PCI_CAP_POINTER] = (u8)at;
    d->initial[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    d->cap_last = (u8)at;
    at += (len + 3) & ~3u;
    d->cap_end = (u8)(at < PCI_CONFIG_SIZE ? at : PCI_CONFIG_SIZE - 1); // full: no capability has a single byte
    return d->cap_last;
}

int pci_add_msix(struct pci_dev *d, unsigned count, unsigned bar, u32 off, u32 pba_off)
{
    struct pci_msix x = {
        .table_bar = (u8)bar, .pba_bar = (u8)bar, .table_off = off, .pba_off = pba_off, .count = count};
    const struct pci_region *r = bar < PCI_BARS ? &d->region[bar] : NULL;
    u64 table, pba;
    int at;

    if (!r || r->kind < PCI_REGION_MEM32 || !count || count > PCI_MSIX_MAX_VECTORS || (off | pba_off) & 7 ||
        d->msix.cap)
        return -EINVAL;
    table = msix_table_size(&x);
    pba = msix_pba_size(&x);
    if (off + table > r->size || pba_off + pba > r->size || (off < pba_off + pba && pba_off < off + table))
        return -EINVAL;
    at = pci_add_cap(d, PCI_CAP_MSIX, MSIX_CAP_SIZE);
    if (at < 0)
        return at;
    pci_put16(d->initial, (unsigned)at + 2, (u16)(count - 1));
    pci_put32(d->initial, (unsigned)at + 4, off | bar);
    pci_put32(d->initial, (unsigned)at + 8, pba_off | bar);
    pci_put16(d->wmask, (unsigned)at + 2, MSIX_ENABLE | MSIX_MASK_ALL);
    x.cap = (u8)at;
    d->msix = x;
    return 0;
}

void pci_set_pin(struct pci_dev *d, unsigned pin)
{
    d->initial[PCI_INTERRUPT_PIN] = (u8)pin;
}

static int choose_devfn(const struct pci_bus *b, unsigned devfn)
{
    if (devfn < 256)
        return b->dev[devfn] ? -EBUSY : (int)devfn;
    if (devfn != PCI_DEVFN_ANY)
        return -EINVAL;
    for (unsigned slot = 0; slot < 32; slot++) {
        bool used = false;
        for (unsigned fn = 0; fn < 8; fn++)
            used |= b->dev[PCI_DEVFN(slot, fn)] != NULL;
        if (!used)
            return (int)PCI_DEVFN(slot, 0);
    }
    return -ENOSPC;
}

// Functions beside function 0 are looked for only where that says there are some.
static void mark_multi_function(struct pci_bus *b, unsigned slot)
{
    unsigned functions = 0;

    for (unsigned fn = 0; fn < 8; fn++)
        functions += b->dev[PCI_DEVFN(slot, fn)] != NULL;
    for (unsigned fn = 0; fn < 8 && functions > 1; fn++) {
        struct pci_dev *d = b->dev[PCI_DEVFN(slot, fn)];
        if (d) {
            d->initial[PCI_HEADER_TYPE] |= MULTI_FUNCTION;
            d->config[PCI_HEADER_TYPE] |= MULTI_FUNCTION;
        }
    }
}

// The read-only low bits of base address registers.
static void put_bar_kinds(struct pci_dev *d)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_region *r = &d->region[i];
        u8 bits = r->kind == PCI_REGION_IO ? 1 : r->kind == PCI_REGION_MEM64 ? 4 : 0;
        if (r->kind == PCI_REGION_MEM32 || r->kind == PCI_REGION_MEM64)
            bits |= r->prefetch ? 8 : 0;
        d->initial[PCI_BAR0 + 4 * i] |= bits;
    }
}

static void dev_reset(struct pci_dev *d)
{
    memcpy(d->config, d->initial, sizeof(d->config));
    msix_reset(d);
    d->intx = false;
    update_pirq(d);
    for (unsigned i = PCI_REGION_EXTRA; i < PCI_REGIONS; i++)
        d->region[i].wanted = false;
    if (d->ops->reset)
        d->ops->reset(d->self);
}

int pci_add(struct pci_bus *b, struct pci_dev *d, unsigned devfn)
{
    int at = choose_devfn(b, devfn);

    if (at < 0)
        return at;
    d->bus = b;
    d->devfn = (u16)at;
    b->dev[at] = d;
    b->order[b->count++] = d;
    put_bar_kinds(d);
    dev_reset(d);
    mark_multi_function(b, PCI_SLOT((unsigned)at));
    remap(b);
    return 0;
}

// --- the bus ------------------------------------------------------------------------------------------------------------

void pci_bus_init(struct pci_bus *b)
{
    struct pci_bus keep = *b;

    memset(b, 0, sizeof(*b));
    memcpy(b->pirq, keep.pirq, sizeof(b->pirq));
    b->msi = keep.msi;
    b->reset_machine = keep.reset_machine;
    b->sink = keep.sink;
}

void pci_bus_reset(struct pci_bus *b)
{
    b->address = 0;
    b->reset_control = 0;
    for (unsigned i = 0; i < b->count; i++)
        dev_reset(b->order[i]);
    remap(b);
}

__attribute__((format(printf, 4, 5))) static void append(char *buf, size_t size, size_t *used, const char *fmt, ...)
{
    va_list args;
    int n;

    if (*used >= size)
        return;
    va_start(args, fmt);
    n = vsnprintf(buf + *used, size - *used, fmt, args);
    va_end(args);
    *used += n > 0 ? (size_t)n : 0;
}

static void dump_device(const struct pci_dev *d, char *buf, size_t size, size_t *used)
{
    char text[160] = "";

    append(buf, size, used, "%02x.%x %04x:%04x %s command %04x msix %d intx %d\n", PCI_SLOT(d->devfn), d->devfn & 7,
           pci_get16(d->config, PCI_VENDOR_ID), pci_get16(d->config, PCI_DEVICE_ID), d->ops->name,
           pci_get16(d->config, PCI_COMMAND), pci_msix_enabled(d), d->intx);
    for (unsigned i = 0; i < PCI_REGIONS; i++) {
        const struct pci_region *r = &d->region[i];
        if (r->mapped)
            append(buf, size, used, "     region %u: %s 0x%llx size 0x%llx\n", i,
                   r->kind == PCI_REGION_IO ? "ports" : "memory", (unsigned long long)r->base,
                   (unsigned long long)r->size);
    }
    if (d->ops->dump) {
        d->ops->dump(d->self, text, sizeof(text));
        append(buf, size, used, "     %s\n", text);
    }
}

void pci_bus_dump(struct pci_bus *b, char *buf, size_t size)
{
    size_t used = 0;

    if (size)
        buf[0] = 0;
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++)
        if (b->dev[i])
            dump_device(b->dev[i], buf, size, &used);
}

// --- what firmware does --------------------------------------------------------------------------------------------------

// Room for `size` bytes in [*next, end), naturally aligned: 0 when there is none.
static u64 take(u64 *next, u64 end, u64 size)
{
    u64 base = (*next + size - 1) & ~(size - 1);

    if (base < *next || base >= end || size > end - base)
        return 0;
    *next = base + size;
    return base;
}

static void assign_region(struct pci_dev *d, unsigned i, struct pci_windows *w)
{
    const struct pci_region *r = &d->region[i];
    bool io = r->kind == PCI_REGION_IO;
    u64 base = io ? take(&w->io_base, w->io_end, r->size) : take(&w->mem_base, w->mem_end, r->size);

    if (!base && r->kind == PCI_REGION_MEM64)
        base = take(&w->mem64_base, w->mem64_end, r->size);
    if (!base)
        return;
    pci_config_write(d, PCI_BAR0 + 4 * i, 4, (u32)base);
    if (r->kind == PCI_REGION_MEM64)
        pci_config_write(d, PCI_BAR0 + 4 * i + 4, 4, (u32)(base >> 32));
    pci_config_write(d, PCI_COMMAND, 2, pci_get16(d->config, PCI_COMMAND) | (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY));
}

void pci_assign(struct pci_bus *b, const struct pci_windows *windows)
{
    struct pci_windows w = *windows;

    // Large ones first: every one is aligned to its size, so nothing is lost in between.
    for (unsigned shift = 62; shift >= 2; shift--)
        for (unsigned i = 0; i < b->count; i++)
            for (unsigned j = 0; j < PCI_BARS; j++)
                if (b->order[i]->region[j].size == 1ull << shift)
                    assign_region(b->order[i], j, &w);
    for (unsigned i = 0; i < b->count; i++) {
        struct pci_dev *d = b->order[i];
        if (d->config[PCI_INTERRUPT_PIN])
            pci_config_write(d, PCI_INTERRUPT_LINE, 1, w.irq[pirq_of(d)]);
    }
}
