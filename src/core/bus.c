// Port I/O. A byte per port names the region that owns it, so an access costs one look-up; the usual access lies in one
// region and has a size that its device understands, everything else is taken apart here.
#include "core/bus.h"

#include <errno.h>

#define PORT_COUNT 0x10000u

_Static_assert(BUS_MAX_REGIONS < 255, "port_owner is a byte");

static void own_ports(struct bus *b, unsigned index)
{
    const struct bus_region *r = &b->region[index];
    for (u64 i = 0; i < r->size; i++)
        b->port_owner[r->base + i] = (u8)(index + 1);
}

int bus_add(struct bus *b, u64 base, u64 size, const struct dev_ops *ops, void *dev)
{
    if (size == 0 || !ops || base >= PORT_COUNT || size > PORT_COUNT - base)
        return -EINVAL;
    for (u64 i = 0; i < size; i++)
        if (b->port_owner[base + i])
            return -EEXIST;
    if (b->count == BUS_MAX_REGIONS)
        return -ENOSPC;

    unsigned at = b->count++;
    for (; at > 0 && b->region[at - 1].base > base; at--) {
        b->region[at] = b->region[at - 1];
        own_ports(b, at);
    }
    b->region[at] = (struct bus_region){.base = base, .size = size, .ops = ops, .dev = dev};
    own_ports(b, at);
    return 0;
}

void bus_set_fallback(struct bus *b, const struct dev_ops *ops, void *dev)
{
    b->fallback = (struct bus_region){.base = 0, .size = PORT_COUNT, .ops = ops, .dev = dev};
}

static bool valid_size(unsigned n)
{
    return n == 1 || n == 2 || n == 4;
}

int bus_set_sizes(struct bus *b, u64 base, unsigned min_size, unsigned max_size)
{
    if (!valid_size(min_size) || !valid_size(max_size) || min_size > max_size)
        return -EINVAL;
    for (unsigned i = 0; i < b->count; i++)
        if (b->region[i].base == base) {
            b->region[i].min_size = (u8)min_size;
            b->region[i].max_size = (u8)max_size;
            return 0;
        }
    return -ENOENT;
}

// The region that an access begins in. The fallback has holes where the others are, so it counts for accesses that meet none.
static const struct bus_region *port_region(const struct bus *b, u32 port, unsigned size)
{
    u8 owner = b->port_owner[port];

    if (owner)
        return &b->region[owner - 1];
    for (unsigned i = 1; i < size && port + i < PORT_COUNT; i++)
        if (b->port_owner[port + i])
            return NULL;
    return b->fallback.ops ? &b->fallback : NULL;
}

static u32 size_mask(unsigned size)
{
    return size == 4 ? ~0u : (1u << (size * 8)) - 1;
}

static u32 region_read(const struct bus_region *r, u64 off, unsigned size)
{
    return r->ops->read ? (u32)r->ops->read(r->dev, off, size) & size_mask(size) : size_mask(size);
}

static void region_write(const struct bus_region *r, u64 off, unsigned size, u32 val)
{
    if (r->ops->write)
        r->ops->write(r->dev, off, size, val & size_mask(size));
}

// The widened access that [off, off+size) lies in: its offset, or false when there is none (it would leave the region
// or the access straddles two of them).
static bool widen(const struct bus_region *r, u64 off, unsigned size, u64 *wide)
{
    *wide = off & ~(u64)(r->min_size - 1);
    return r->min_size > size && off + size <= *wide + r->min_size && *wide + r->min_size <= r->size;
}

static unsigned max_size(const struct bus_region *r)
{
    return r->max_size ? r->max_size : 4;
}

static u32 in_locked(struct bus *b, u16 port, unsigned size)
{
    const struct bus_region *r = port_region(b, port, size);
    unsigned step = r ? max_size(r) : 1;
    u64 off = r ? port - r->base : 0, wide;

    if (!r && size == 1)
        return 0xff;
    if (r && off + size <= r->size && size <= step) {
        if (r->min_size && widen(r, off, size, &wide))
            return region_read(r, wide, r->min_size) >> ((off - wide) * 8) & size_mask(size);
        return region_read(r, off, size);
    }
    // Too wide for the device: in its widest pieces. Across regions: bytes, of which those past port 0xffff are
    // nobody's.
    if (!r || off + size > r->size)
        step = 1;
    u32 val = 0;
    for (unsigned i = 0; i < size; i += step)
        val |= (port + i < PORT_COUNT ? in_locked(b, (u16)(port + i), step) : 0xff) << (i * 8);
    return val;
}

static void out_locked(struct bus *b, u16 port, unsigned size, u32 val)
{
    const struct bus_region *r = port_region(b, port, size);
    unsigned step = r ? max_size(r) : 1;
    u64 off = r ? port - r->base : 0, wide;

    if (!r && size == 1)
        return;
    if (r && off + size <= r->size && size <= step) {
        if (r->min_size && widen(r, off, size, &wide)) {
            u32 keep = size_mask(size) << ((off - wide) * 8);
            val = (val & size_mask(size)) << ((off - wide) * 8);
            region_write(r, wide, r->min_size, (region_read(r, wide, r->min_size) & ~keep) | val);
            return;
        }
        region_write(r, off, size, val);
        return;
    }
    if (!r || off + size > r->size)
        step = 1;
    for (unsigned i = 0; i < size; i += step)
        if (port + i < PORT_COUNT)
            out_locked(b, (u16)(port + i), step, (val >> (i * 8)) & size_mask(step));
}

u32 bus_in(struct bus *b, u16 port, unsigned size)
{
    lock_take(b->lock);
    u32 val = in_locked(b, port, size);
    lock_drop(b->lock);
    return val;
}

void bus_out(struct bus *b, u16 port, unsigned size, u32 val)
{
    lock_take(b->lock);
    out_locked(b, port, size, val);
    lock_drop(b->lock);
}
