// Guest-physical memory: RAM, ROM and MMIO, and the flags of each RAM page.
//
// RAM is one host mapping; guest-physical RAM is one or two ranges of it (below and above the PCI hole). Everything
// that reaches guest memory goes through here: bounds, MMIO dispatch, dirty and has-code flags are in this one place.
// Addresses have had A20 applied by the caller (mmu does).
//
// Regions are for good, with one exception: an area of *shadow memory* is ROM with RAM under it, and who reads and who writes
// there meets the one or the other as mem_shadow_set() says, at any time. Such an area has one region for each of the four
// combinations, made when it is added and never changed, and an atomic number says which of them holds. So look-ups need no
// lock, what mem_find() returned stays true of the memory it names, and host addresses stay valid whatever the guest does.
// What remembers a translation or anything derived from code must be told: mmu_map_changed().
#ifndef POGO_CORE_MEM_H
#define POGO_CORE_MEM_H

#include <stdatomic.h>

#include "core/dev.h"
#include "core/lock.h"
#include "pogo/types.h"

#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE 4096u
#define MEM_MAX_REGIONS 48
#define MEM_HOT 2
#define MEM_MAX_SHADOWS 16
#define MEM_MAX_CPUS 64

enum mem_kind { MEM_NONE, MEM_RAM, MEM_ROM, MEM_MMIO };

// Flags of a RAM or ROM page, one byte each, changed atomically.
#define MEM_PAGE_CODE 1u  // some engine holds translated or decoded code from it
#define MEM_PAGE_DIRTY 2u // written since the flag was cleared

struct mem_region {
    gpa base;
    u64 size;
    enum mem_kind kind;
    u8 *host;               // RAM, ROM: first byte
    _Atomic u8 *page_flags; // RAM, ROM: flags of the first page
    u8 *under;              // ROM: the RAM that takes processors' stores; NULL: they vanish
    _Atomic u8 *under_flags;
    u8 shadow;                 // in the table only: number of the area of shadow memory, plus 1
    const struct dev_ops *ops; // MMIO
    void *dev;
    const char *name;
};

// Index of a view: bit 0 when reads meet RAM, bit 1 when writes do.
#define MEM_SHADOW_READ 1u
#define MEM_SHADOW_WRITE 2u

struct mem_shadow {
    struct mem_region view[4];
    _Atomic u32 now; // which of them holds
};

struct mem {
    struct lock *lock; // taken around MMIO accesses; NULL: none
    u32 accessor;      // vCPU whose MMIO access is being served, for per-processor devices; valid in their handlers
    struct mem_region region[MEM_MAX_REGIONS + 1]; // sorted by base, disjoint; the last holds nothing
    unsigned count;
    unsigned hot[MEM_HOT]; // indices of the largest RAM regions, which nearly every look-up is for
    struct mem_shadow shadow[MEM_MAX_SHADOWS];
    unsigned shadow_count;
    // A page that a processor has for itself, whatever the map says of its address: its local APIC, where that is not at the
    // default address. Its last byte; 0: none. Changed by that processor's thread.
    gpa own_last[MEM_MAX_CPUS];
    const struct dev_ops *own_ops; // who answers there, as in an MMIO region
    void *own_dev;
    gpa phys_mask; // addresses are below 1 << MAXPHYADDR; 0: no limit
    // Called when a write has hit a page with MEM_PAGE_CODE, by any thread, after the bytes have changed and before the next
    // instruction of the processor that wrote them: engines drop what they derived.
    void (*code_write)(void *owner, gpa base, u64 len);
    void *owner;
};

// Regions are added while the machine is built. RAM and ROM: base, size and
// host address are multiples of the page size, and there is one flags byte a page (both kinds). Return 0, -EINVAL
// (alignment, zero size, past phys_mask, or past the end of the address space), -EEXIST on overlap with an earlier
// region, -ENOSPC when the table is full. The memory stays the caller's and must outlive `m`.
int mem_add_ram(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name);
int mem_add_rom(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name);
int mem_add_mmio(struct mem *m, gpa base, u64 size, const struct dev_ops *ops, void *dev, const char *name);
// Shadow memory: `rom` with `ram` under it. At first both reads and writes are the ROM's. -ENOSPC also when there are
// MEM_MAX_SHADOWS of them.
int mem_add_shadow(struct mem *m, gpa base, u64 size, const struct mem_region *rom, const struct mem_region *ram,
                   const char *name);
// Say what reads and writes of the area that begins at `base` meet: MEM_SHADOW_READ, MEM_SHADOW_WRITE for RAM. Returns whether
// that is a change, of which the caller then tells the processors by mmu_map_changed(). One caller at a time.
bool mem_shadow_set(struct mem *m, gpa base, u32 what);

// Is this address in the page that processor `cpu` has for itself? It is in that processor's TLB as a device at most.
static inline bool mem_is_own(const struct mem *m, u32 cpu, gpa a)
{
    return UNLIKELY((a | (MEM_PAGE_SIZE - 1)) == m->own_last[cpu]);
}

// The region that holds `a` now, or NULL. Called through mem_find.
const struct mem_region *mem_find_slow(const struct mem *m, gpa a);
static inline const struct mem_region *mem_find(const struct mem *m, gpa a)
{
    for (unsigned i = 0; i < MEM_HOT; i++) {
        const struct mem_region *r = &m->region[m->hot[i]];
        if (LIKELY(a - r->base < r->size))
            return r;
    }
    return mem_find_slow(m, a);
}

// Host address of [a, a+len) if it is RAM (or ROM when !write) inside one region; else NULL. Does not touch flags.
u8 *mem_ptr(const struct mem *m, gpa a, u64 len, bool write);
// The same for a write that the caller is about to do in place (locked operations, device DMA): sets the dirty flags and has
// engines forget code in [a, a+len). RAM only. The caller says mem_written() when the bytes are there, for what engines
// derived meanwhile.
u8 *mem_write_ptr(struct mem *m, gpa a, u64 len);
// Bytes [a, a+len) of RAM were changed in place: sets the dirty flags and has engines forget code from there.
void mem_written(struct mem *m, gpa a, u64 len);
// Page flags byte of RAM or ROM page at `a`, or NULL.
_Atomic u8 *mem_flags(const struct mem *m, gpa a);

// Set bits of a page's flags; cheap when they are set already.
static inline void mem_flag_set(_Atomic u8 *flags, u8 bits)
{
    if ((atomic_load_explicit(flags, memory_order_relaxed) & bits) != bits)
        atomic_fetch_or_explicit(flags, bits, memory_order_seq_cst);
}

// Bulk access by devices, loaders and the debugger. Handles region ends and sets dirty flags and code invalidation;
// MMIO and holes make it fail: returns false and may have done a part.
bool mem_read(const struct mem *m, gpa a, void *buf, u64 len);
bool mem_write(struct mem *m, gpa a, const void *buf, u64 len);
// Single access by a processor, 1, 2, 4 or 8 bytes, not crossing a page: RAM, ROM (writes ignored), MMIO, or hole
// (reads all ones).
// `cpu` is the vCPU that accesses.
u64 mem_cpu_load(struct mem *m, u32 cpu, gpa a, unsigned size);
void mem_cpu_store(struct mem *m, u32 cpu, gpa a, unsigned size, u64 val);

static inline u64 mem_load(struct mem *m, gpa a, unsigned size)
{
    return mem_cpu_load(m, 0, a, size);
}

static inline void mem_store(struct mem *m, gpa a, unsigned size, u64 val)
{
    mem_cpu_store(m, 0, a, size, val);
}

// Little-endian host access of 1, 2, 4 or 8 bytes as one machine access, any alignment.
static inline u64 mem_host_load(const void *p, unsigned size)
{
    u16 v2;
    u32 v4;
    u64 v8;
    switch (size) {
    case 1: return *(const u8 *)p;
    case 2: __builtin_memcpy(&v2, p, 2); return v2;
    case 4: __builtin_memcpy(&v4, p, 4); return v4;
    default: __builtin_memcpy(&v8, p, 8); return v8;
    }
}

static inline void mem_host_store(void *p, unsigned size, u64 val)
{
    u16 v2 = (u16)val;
    u32 v4 = (u32)val;
    switch (size) {
    case 1: *(u8 *)p = (u8)val; break;
    case 2: __builtin_memcpy(p, &v2, 2); break;
    case 4: __builtin_memcpy(p, &v4, 4); break;
    default: __builtin_memcpy(p, &val, 8); break;
    }
}

#endif
