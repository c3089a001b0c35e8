// The two address spaces that devices sit in: I/O ports (the MMIO space belongs to core/mem.h, same handlers). Ports
// nobody claims read as all ones and ignore writes; an access that straddles two devices is split into bytes.
#ifndef POGO_CORE_BUS_H
#define POGO_CORE_BUS_H

#include "core/dev.h"
#include "core/lock.h"
#include "pogo/types.h"

#define BUS_MAX_REGIONS 96

struct bus_region {
    u64 base, size;
    const struct dev_ops *ops;
    void *dev;
    u8 min_size, max_size; // accesses outside are split or widened by the bus; 0 means 1 and 4
};

struct bus {
    struct lock *lock;                         // taken around every access; NULL: none
    struct bus_region region[BUS_MAX_REGIONS]; // sorted by base, disjoint
    struct bus_region fallback;                // owns what no region owns; no ops: nobody
    unsigned count;
    u8 port_owner[65536]; // index + 1 of the region that owns a port; 0 = nobody
};

// Claim ports [base, base+size). Returns 0, -EEXIST on overlap, -ENOSPC when the table is full, -EINVAL past port
// 0xffff.
int bus_add(struct bus *b, u64 base, u64 size, const struct dev_ops *ops, void *dev);
// Hand accesses to ports that nobody claimed to `ops`, offset 0 being port 0: for a bus behind this one, which has ranges
// that move. Only accesses whose ports are all unclaimed come whole, others as bytes.
void bus_set_fallback(struct bus *b, const struct dev_ops *ops, void *dev);
// Access sizes that the device at `base` understands: wider accesses are split, narrower ones widened (a write merges
// with what a read gives). Powers of two up to 4. Returns 0, -ENOENT, -EINVAL.
int bus_set_sizes(struct bus *b, u64 base, unsigned min_size, unsigned max_size);
// Port access by the guest: size 1, 2 or 4.
u32 bus_in(struct bus *b, u16 port, unsigned size);
void bus_out(struct bus *b, u16 port, unsigned size, u32 val);

#endif
