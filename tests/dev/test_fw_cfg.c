// fw_cfg: items, the directory, reading by ports and by DMA, and DMA commands that ask for what must not be.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "dev/fw_cfg.h"

#define RAM_SIZE (16u * MEM_PAGE_SIZE)
#define ROM_BASE 0x100000u
#define MMIO_BASE 0x200000u
#define CMD 0x800u // where the tests put their commands

static u8 ram[RAM_SIZE] __attribute__((aligned(4096)));
static u8 rom[MEM_PAGE_SIZE] __attribute__((aligned(4096)));
static _Atomic u8 ram_flags[16], rom_flags[1];
static u8 notes[8];
static unsigned touched;

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    touched++;
    return 0;
}

static void mmio_write(void *dev, u64 off, unsigned size, u64 val)
{
    (void)dev, (void)off, (void)size, (void)val;
    touched++;
}

static const struct dev_ops mmio_ops = {.name = "mmio", .read = mmio_read, .write = mmio_write};

static struct mem mem;
static struct fw_cfg f;

static int setup(void **state)
{
    (void)state;
    memset(ram, 0xee, sizeof(ram));
    memset((void *)ram_flags, 0, sizeof(ram_flags));
    memset(notes, 0x11, sizeof(notes));
    touched = 0;
    mem = (struct mem){.phys_mask = ~0ull};
    assert_int_equal(mem_add_ram(&mem, 0, RAM_SIZE, ram, ram_flags, "ram"), 0);
    assert_int_equal(mem_add_rom(&mem, ROM_BASE, sizeof(rom), rom, rom_flags, "rom"), 0);
    assert_int_equal(mem_add_mmio(&mem, MMIO_BASE, 0x1000, &mmio_ops, NULL, "mmio"), 0);
    fw_cfg_init(&f, &mem);
    assert_int_equal(fw_cfg_add_value(&f, FW_CFG_RAM_SIZE, 0x123456789a, 8), 0);
    assert_int_equal(fw_cfg_add_file(&f, "etc/text", "abcdef", 6), 0);
    assert_int_equal(fw_cfg_add_writable_file(&f, "etc/notes", notes, sizeof(notes)), 0);
    return 0;
}

static void select_key(u16 key)
{
    fw_cfg_ops.write(&f, 0, 2, key);
}

static u64 read_le(unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n; i++)
        val |= fw_cfg_ops.read(&f, 1, 1) << i * 8;
    return val;
}

static u32 be32(const u8 *p)
{
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static void put_be(u8 *p, unsigned n, u64 val)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (u8)(val >> (n - 1 - i) * 8);
}

static void start_at(u64 a)
{
    fw_cfg_dma_ops.write(&f, 0, 4, __builtin_bswap32((u32)(a >> 32)));
    fw_cfg_dma_ops.write(&f, 4, 4, __builtin_bswap32((u32)a));
}

// Run a command; returns the control word afterwards.
static u32 dma(u32 control, u32 len, u64 a)
{
    put_be(ram + CMD, 4, control);
    put_be(ram + CMD + 4, 4, len);
    put_be(ram + CMD + 8, 8, a);
    start_at(CMD);
    return be32(ram + CMD);
}

static u32 file_key(const char *name)
{
    for (u32 i = 0; i < be32(f.dir); i++)
        if (!strcmp((const char *)f.dir + 4 + i * 64 + 8, name))
            return be32(f.dir + 4 + i * 64 + 4) >> 16;
    fail();
    return 0;
}

static void items(void **state)
{
    (void)state;
    assert_int_equal(read_le(4), 0x554d4551); // selected after reset: the signature
    assert_int_equal(read_le(4), 0);          // past its end
    select_key(FW_CFG_ID);
    assert_int_equal(read_le(4), 3);
    select_key(FW_CFG_RAM_SIZE);
    assert_int_equal(read_le(8), 0x123456789a);
    select_key(FW_CFG_RAM_SIZE); // from the beginning
    assert_int_equal(read_le(2), 0x789a);
    select_key(0x7777);
    assert_int_equal(read_le(4), 0);
    select_key(file_key("etc/text"));
    assert_int_equal(read_le(8), 0x666564636261);
    // Other sizes and directions do nothing.
    select_key(FW_CFG_RAM_SIZE);
    assert_int_equal(fw_cfg_ops.read(&f, 0, 2), 0);
    fw_cfg_ops.write(&f, 1, 1, 0x55);
    fw_cfg_ops.write(&f, 0, 1, FW_CFG_ID);
    assert_int_equal(read_le(8), 0x123456789a);
    fw_cfg_ops.reset(&f);
    assert_int_equal(read_le(4), 0x554d4551);
}

static void directory(void **state)
{
    char name[FW_CFG_NAME_SIZE + 1];
    int ret = 0;

    (void)state;
    select_key(FW_CFG_FILE_DIR);
    assert_int_equal(read_le(4), 0x02000000);
    assert_int_equal(read_le(4), 0x06000000);
    assert_int_equal(read_le(2), 0x2000);
    assert_int_equal(read_le(2), 0);
    assert_int_equal(read_le(8), 0x747865742f637465); // "etc/text"
    assert_int_equal(fw_cfg_add_file(&f, "etc/text", "x", 1), -EEXIST);
    assert_int_equal(fw_cfg_add(&f, FW_CFG_ID, "x", 1), -EEXIST);
    assert_int_equal(fw_cfg_add_file(&f, "", "x", 1), -EINVAL);
    memset(name, 'n', sizeof(name));
    name[FW_CFG_NAME_SIZE] = 0;
    assert_int_equal(fw_cfg_add_file(&f, name, "x", 1), -EINVAL);
    name[FW_CFG_NAME_SIZE - 1] = 0;
    assert_int_equal(fw_cfg_add_file(&f, name, "x", 1), 0);
    for (unsigned i = 0; i < FW_CFG_MAX_FILES && !ret; i++) {
        name[0] = (char)('A' + i);
        ret = fw_cfg_add_file_value(&f, name, i, 8);
    }
    assert_int_equal(ret, -ENOSPC);
    assert_int_equal(be32(f.dir), FW_CFG_MAX_FILES);
}

static void dma_ports(void **state)
{
    (void)state;
    assert_int_equal(fw_cfg_dma_ops.read(&f, 0, 4), 0x554d4551);
    assert_int_equal(fw_cfg_dma_ops.read(&f, 4, 4), 0x47464320);
    assert_int_equal(fw_cfg_dma_ops.read(&f, 1, 1), 'E');
    assert_int_equal(fw_cfg_dma_ops.read(&f, 6, 4), 0x4746); // no more than there is
    // A narrow write starts nothing, and the address is forgotten when a command has run.
    put_be(ram + CMD, 4, FW_CFG_DMA_SELECT | FW_CFG_ID << 16);
    fw_cfg_dma_ops.write(&f, 4, 2, 0xffff);
    assert_int_equal(be32(ram + CMD), FW_CFG_DMA_SELECT | FW_CFG_ID << 16);
    start_at(1ull << 32 | CMD); // nowhere
    assert_int_equal(be32(ram + CMD), FW_CFG_DMA_SELECT | FW_CFG_ID << 16);
    put_be(ram + CMD + 4, 4, 0);
    fw_cfg_dma_ops.write(&f, 4, 4, __builtin_bswap32(CMD));
    assert_int_equal(be32(ram + CMD), 0);
    assert_int_equal(f.selector, FW_CFG_ID);
    // Without memory there is none of it.
    fw_cfg_init(&f, NULL);
    assert_int_equal((u32)fw_cfg_dma_ops.read(&f, 0, 4), 0xffffffff);
    start_at(CMD);
    select_key(FW_CFG_ID);
    assert_int_equal(read_le(4), 1);
}

static void dma_reads(void **state)
{
    u32 text = file_key("etc/text") << 16 | FW_CFG_DMA_SELECT;

    (void)state;
    assert_int_equal(dma(text | FW_CFG_DMA_READ, 4, 0x2000), 0);
    assert_memory_equal(ram + 0x2000, "abcd\xee", 5);
    assert_int_equal(ram_flags[2], MEM_PAGE_DIRTY);
    assert_int_equal(dma(FW_CFG_DMA_READ, 4, 0x2010), 0); // goes on; zeros after the end
    assert_memory_equal(ram + 0x2010, "ef\0\0\xee", 5);
    assert_int_equal(dma(text | FW_CFG_DMA_SKIP, 3, ~0ull), 0);
    assert_int_equal(read_le(1), 'd');
    assert_int_equal(dma(FW_CFG_DMA_SKIP, ~0u, 0), 0);
    assert_int_equal(read_le(1), 0);
    assert_int_equal(dma(0x7777u << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_READ, 3, 0x2020), 0);
    assert_memory_equal(ram + 0x2020, "\0\0\0\xee", 4);
    assert_int_equal(dma(text | FW_CFG_DMA_READ, 0, ~0ull), 0); // nothing to do
    assert_int_equal(dma(0xffe0, 4, 0x2030), 0);                // bits without a meaning, and none with one
    assert_int_equal(ram[0x2030], 0xee);
    // Long zeros.
    assert_int_equal(dma(text | FW_CFG_DMA_READ, 0x4000, 0x3800), 0);
    assert_int_equal(ram[0x37ff], 0xee);
    assert_int_equal(ram[0x77ff], 0);
    assert_int_equal(ram[0x7800], 0xee);
}

static void dma_writes(void **state)
{
    u32 key = file_key("etc/notes") << 16 | FW_CFG_DMA_SELECT;

    (void)state;
    memcpy(ram + 0x2000, "12345678", 8);
    assert_int_equal(dma(key | FW_CFG_DMA_WRITE, 3, 0x2000), 0);
    assert_int_equal(dma(FW_CFG_DMA_WRITE, 2, 0x2006), 0);
    assert_memory_equal(notes, "12378\x11", 6);
    assert_int_equal(dma(FW_CFG_DMA_WRITE, 4, 0x2000), FW_CFG_DMA_ERROR); // more than is left
    assert_memory_equal(notes, "12378\x11", 6);
    assert_int_equal(dma(key | FW_CFG_DMA_WRITE, 8, RAM_SIZE - 4), FW_CFG_DMA_ERROR);
    assert_int_equal(dma(FW_CFG_ID << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_WRITE, 1, 0x2000), FW_CFG_DMA_ERROR);
    assert_int_equal(dma(0x7777u << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_WRITE, 1, 0x2000), FW_CFG_DMA_ERROR);
    // Reading wins over writing.
    assert_int_equal(dma(key | FW_CFG_DMA_WRITE | FW_CFG_DMA_READ, 2, 0x2004), 0);
    assert_memory_equal(ram + 0x2000, "1234", 4);
}

static void hostile_commands(void **state)
{
    static const u64 bad[] = {RAM_SIZE, RAM_SIZE - 2, ROM_BASE, MMIO_BASE, MMIO_BASE - 2, 1ull << 40, ~0ull, ~0ull - 1};
    u32 text = file_key("etc/text") << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_READ;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(dma(text, 4, bad[i]), FW_CFG_DMA_ERROR);
        assert_int_equal(dma(text & ~FW_CFG_DMA_READ, 0, bad[i]), 0);
    }
    assert_int_equal(dma(text, ~0u, 0x2000), FW_CFG_DMA_ERROR); // 4 GiB of zeros: to the end of RAM, no further
    assert_int_equal(touched, 0);
    // Commands that are nowhere, half somewhere, in a device, in ROM.
    setup(NULL);
    put_be(rom, 4, text);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        start_at(bad[i]);
    assert_int_equal(touched, 0);
    assert_int_equal(be32(rom), text);
    // A command that overwrites itself: the status comes last.
    assert_int_equal(dma(text, 6, CMD), 0);
    assert_memory_equal(ram + CMD, "\0\0\0\0ef", 6);
    assert_int_equal(dma(text, 6, CMD + 2), 0);
    assert_memory_equal(ram + CMD, "\0\0\0\0cdef", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(items, setup),      cmocka_unit_test_setup(directory, setup),
        cmocka_unit_test_setup(dma_ports, setup),  cmocka_unit_test_setup(dma_reads, setup),
        cmocka_unit_test_setup(dma_writes, setup), cmocka_unit_test_setup(hostile_commands, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
