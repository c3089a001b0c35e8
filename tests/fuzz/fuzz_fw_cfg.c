// A hostile driver of fw_cfg: selections, reads, and DMA commands that lie anywhere and say anything. Only RAM may be written, items that
// are not writable stay what they are, and no device is ever reached.
#include <stdlib.h>
#include <string.h>

#include "dev/fw_cfg.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RAM_PAGES 8u
#define RAM_SIZE (RAM_PAGES * MEM_PAGE_SIZE)
#define HIGH_BASE (1ull << 32)
#define ROM_BASE 0x10000u
#define MMIO_BASE 0x20000u

static u8 ram[2 * RAM_SIZE] __attribute__((aligned(4096)));
static u8 rom[MEM_PAGE_SIZE] __attribute__((aligned(4096)));
static _Atomic u8 ram_flags[2 * RAM_PAGES], rom_flags[1];
static u8 text[5000], notes[64], zeros[MEM_PAGE_SIZE];
static struct mem mem;
static struct fw_cfg f;

static void check(bool ok)
{
    if (!ok)
        abort();
}

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    abort();
}

static void mmio_write(void *dev, u64 off, unsigned size, u64 val)
{
    (void)val;
    mmio_read(dev, off, size);
}

static void build(void)
{
    static const struct dev_ops ops = {.name = "mmio", .read = mmio_read, .write = mmio_write};

    for (unsigned i = 0; i < sizeof(text); i++)
        text[i] = (u8)(i * 7 + i / 256);
    check(!mem_add_ram(&mem, 0, RAM_SIZE, ram, ram_flags, "low"));
    check(!mem_add_ram(&mem, HIGH_BASE, RAM_SIZE, ram + RAM_SIZE, ram_flags + RAM_PAGES, "high"));
    check(!mem_add_rom(&mem, ROM_BASE, sizeof(rom), rom, rom_flags, "rom"));
    check(!mem_add_mmio(&mem, MMIO_BASE, 0x1000, &ops, NULL, "mmio"));
    fw_cfg_init(&f, &mem);
    check(!fw_cfg_add_value(&f, FW_CFG_RAM_SIZE, RAM_SIZE, 8));
    check(!fw_cfg_add_file(&f, "text", text, sizeof(text)));
    check(!fw_cfg_add_writable_file(&f, "notes", notes, sizeof(notes)));
    check(!fw_cfg_add_file(&f, "empty", text, 0));
}

// Addresses that are worth trying, from 16 bits.
static u64 address(u16 a)
{
    static const u64 special[] = {RAM_SIZE - 3, HIGH_BASE,     HIGH_BASE - 3,       ROM_BASE,
                                  MMIO_BASE,    MMIO_BASE - 3, 0x20000000000000ull, HIGH_BASE + RAM_SIZE - 1,
                                  ~0ull,        ~0ull - 15};

    return a < 0xff00 ? a : special[a % ARRAY_LEN(special)];
}

static void put_be(u64 at, unsigned n, u64 val)
{
    for (unsigned i = 0; i < n && at + i < RAM_SIZE; i++)
        ram[at + i] = (u8)(val >> (n - 1 - i) * 8);
}

static void start_dma(u64 at)
{
    fw_cfg_dma_ops.write(&f, 0, 4, __builtin_bswap32((u32)(at >> 32)));
    fw_cfg_dma_ops.write(&f, 4, 4, __builtin_bswap32((u32)at));
}

// One step of 8 bytes: what, then 16 bits twice, three more.
static void step(const u8 *d)
{
    u16 a = (u16)(d[1] | d[2] << 8), b = (u16)(d[3] | d[4] << 8);
    u32 key = d[5] & 0x80 ? d[5] % 5 + FW_CFG_FIRST_FILE : d[5];

    switch (d[0] % 8) {
    case 0: fw_cfg_ops.write(&f, d[1] & 1, 1u << (d[2] & 1), b); break;
    case 1: fw_cfg_ops.read(&f, d[1] & 1, 1u << (d[2] & 1)); break;
    case 2: fw_cfg_dma_ops.read(&f, d[1] & 7, 1u << (d[2] & 3)); break;
    case 3: fw_cfg_dma_ops.write(&f, d[1] & 7, 1u << (d[2] & 3), (u32)b << 16 | d[5]); break;
    case 4: start_dma(address(a)); break;
    case 5:
        if (a < RAM_SIZE)
            ram[a] = d[3];
        break;
    default: // a whole command
        put_be(a % RAM_SIZE, 4, key << 16 | (d[6] & 0x1f));
        put_be(a % RAM_SIZE + 4, 4, d[6] & 0x80 ? ~0u - d[7] : (u32)d[7] << (d[6] >> 5 & 3) * 4);
        put_be(a % RAM_SIZE + 8, 8, address(b));
        start_dma(a % RAM_SIZE);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static bool built;

    if (!built)
        build();
    built = true;
    memset(ram, 0, sizeof(ram));
    fw_cfg_ops.reset(&f);
    for (size_t at = 0; at + 8 <= size && at < 8 * 400; at += 8) {
        step(data + at);
        for (unsigned i = 0; i < f.count; i++)
            check(f.item[i].key != f.selector || f.offset <= f.item[i].size);
    }
    check(!memcmp(rom, zeros, sizeof(rom)));
    for (unsigned i = 0; i < sizeof(text); i++)
        check(text[i] == (u8)(i * 7 + i / 256));
    return 0;
}
