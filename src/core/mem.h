// Guest-physical memory: RAM, ROM and MMIO, and the flags of each RAM page.
//
// RAM is one host mapping; guest-physical RAM is one or two ranges of it (below and above the PCI hole). Everything that
// reaches guest memory goes through here: bounds, MMIO dispatch, dirty and has-code flags are in this one place. Addresses
// have had A20 applied by the caller (mmu does).
#ifndef POGO_CORE_MEM_H
#define POGO_CORE_MEM_H

#include <stdatomic.h>

#include "core/dev.h"
#include "pogo/types.h"

#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE 4096u
#define MEM_MAX_REGIONS 48

enum mem_kind { MEM_NONE, MEM_RAM, MEM_ROM, MEM_MMIO };

// Flags of a RAM or ROM page, one byte each, changed atomically.
#define MEM_PAGE_CODE 1u  // some engine holds translated or decoded code from it
#define MEM_PAGE_DIRTY 2u // written since the flag was cleared

struct mem_region {
    gpa base;
    u64 size;
    enum mem_kind kind;
    u8 *host;                  // RAM, ROM: first byte
    _Atomic u8 *page_flags;    // RAM, ROM: flags of the first page
    const struct dev_ops *ops; // MMIO
    void *dev;
    const char *name;
};

struct mem {
    struct mem_region region[MEM_MAX_REGIONS]; // sorted by base, disjoint
    unsigned count;
    gpa phys_mask; // addresses are below 1 << MAXPHYADDR
    // Called when a write hits a page with MEM_PAGE_CODE, before the bytes change: engines drop what they derived.
    void (*code_write)(void *owner, gpa base, u64 len);
    void *owner;
};

int mem_add_ram(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name);
int mem_add_rom(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name);
int mem_add_mmio(struct mem *m, gpa base, u64 size, const struct dev_ops *ops, void *dev, const char *name);

// The region that holds `a`, or NULL.
const struct mem_region *mem_find(const struct mem *m, gpa a);
// Host address of [a, a+len) if it is RAM (or ROM when !write) inside one region; else NULL. Does not touch flags.
u8 *mem_ptr(const struct mem *m, gpa a, u64 len, bool write);
// Page flags byte of RAM or ROM page at `a`, or NULL.
_Atomic u8 *mem_flags(const struct mem *m, gpa a);

// Bulk access by devices, loaders and the debugger. Handles region ends and sets dirty flags and code invalidation; MMIO and
// holes make it fail: returns false and may have done a part.
bool mem_read(const struct mem *m, gpa a, void *buf, u64 len);
bool mem_write(struct mem *m, gpa a, const void *buf, u64 len);
// Single access by a processor, 1, 2, 4 or 8 bytes, not crossing a page: RAM, ROM (writes ignored), MMIO, or hole (reads
// all ones).
u64 mem_load(struct mem *m, gpa a, unsigned size);
void mem_store(struct mem *m, gpa a, unsigned size, u64 val);

#endif
