// A small guest memory for loader tests: 16 MiB with the PC's holes, a ROM below 1 MiB. Freed by guest_mem_free().
#ifndef TESTS_BOOT_GUEST_MEM_H
#define TESTS_BOOT_GUEST_MEM_H

#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"

#define GUEST_RAM (16u << 20)

struct guest_mem {
    struct mem mem;
    u8 *ram, *rom;
    _Atomic u8 flags[GUEST_RAM / MEM_PAGE_SIZE], rom_flags[16];
    struct boot_range range[4];
    struct boot_params params;
};

static inline struct guest_mem *guest_mem_new(void)
{
    struct guest_mem *g = calloc(1, sizeof(*g));

    g->ram = aligned_alloc(MEM_PAGE_SIZE, GUEST_RAM);
    g->rom = aligned_alloc(MEM_PAGE_SIZE, 65536);
    memset(g->ram, 0xcc, GUEST_RAM);
    memset(g->rom, 0, 65536);
    mem_add_ram(&g->mem, 0, 0xa0000, g->ram, g->flags, "low");
    mem_add_rom(&g->mem, 0xf0000, 65536, g->rom, g->rom_flags, "rom");
    mem_add_ram(&g->mem, 0x100000, GUEST_RAM - 0x100000, g->ram + 0x100000, g->flags + 0x100, "main");
    g->range[0] = (struct boot_range){0, 0x9fc00, BOOT_RANGE_RAM};
    g->range[1] = (struct boot_range){0x9fc00, 0x400, BOOT_RANGE_RESERVED};
    g->range[2] = (struct boot_range){0xf0000, 0x10000, BOOT_RANGE_RESERVED};
    g->range[3] = (struct boot_range){0x100000, GUEST_RAM - 0x100000, BOOT_RANGE_RAM};
    g->params = (struct boot_params){.path = "k", .cmdline = "", .range = g->range, .range_count = 4};
    return g;
}

static inline void guest_mem_free(struct guest_mem *g)
{
    free(g->ram);
    free(g->rom);
    free(g);
}

#endif
