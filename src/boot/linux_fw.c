// What a boot loader would do with a kernel's setup header, done before the guest starts; see linux_fw.h and linux_rom.S.

#include "boot/linux_fw.h"

#include <errno.h>
#include <string.h>

#include "boot/linux.h"
#include "dev/fw_cfg.h"

#define PAGE 4096ull
#define FIRMWARE_RAM (1ull << 20) // at the end of RAM, where firmware has its tables
#define HEAP_END 0xfe00u          // offset in the setup's segment; the stack is behind it
#define PNP_SIZE 32
#define PNP_CHECKSUM 9

extern const u8 linux_rom[], linux_rom_pnp[], linux_rom_commands[], linux_rom_end[];

static void put_be(u8 *p, unsigned n, u64 val)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (u8)(val >> (n - 1 - i) * 8);
}

static void put_le32(u8 *p, u32 val)
{
    memcpy(p, &val, 4);
}

// Out of the way of the kernel while it unpacks itself, and below what firmware keeps for itself.
static int place_initrd(const struct boot_params *p, const struct linux_setup *s, u64 size, u64 low_ram, u32 *at,
                        struct error *err)
{
    u64 kernel_end = LINUX_FW_KERNEL_ADDR + s->payload_size, end = (u64)s->initrd_max + 1, base;

    if (kernel_end < s->pref_address + s->init_size)
        kernel_end = s->pref_address + s->init_size;
    if (low_ram < FIRMWARE_RAM || s->pref_address > low_ram || kernel_end > low_ram - FIRMWARE_RAM)
        return error_set(err, -ENOSPC,
                         "-kernel %s: no room in guest memory for init_size 0x%llx at pref_address 0x%llx; give more "
                         "memory (-m)",
                         p->path, (unsigned long long)s->init_size, (unsigned long long)s->pref_address);
    if (end > low_ram - FIRMWARE_RAM)
        end = low_ram - FIRMWARE_RAM;
    *at = 0;
    if (!size)
        return 0;
    base = size <= end ? (end - size) & ~(PAGE - 1) : 0;
    if (base < kernel_end)
        return error_set(err, -ENOSPC,
                         "-initrd: %llu bytes do not fit into guest memory between the kernel and 0x%llx; give more "
                         "memory (-m)",
                         (unsigned long long)size, (unsigned long long)end);
    *at = (u32)base;
    return 0;
}

static void fill_setup(const struct boot_params *p, struct linux_offer *o)
{
    u8 *s = o->setup;

    memcpy(s, p->kernel, o->setup_size);
    s[LINUX_HDR_LOADER] = LINUX_LOADER_OTHER;
    s[LINUX_HDR_LOADFLAGS] |= LINUX_LOADFLAG_HEAP;
    s[LINUX_HDR_HEAP_END] = (u8)((HEAP_END - 0x200) & 0xff);
    s[LINUX_HDR_HEAP_END + 1] = (u8)((HEAP_END - 0x200) >> 8);
    put_le32(s + LINUX_HDR_RAMDISK, o->initrd_addr);
    put_le32(s + LINUX_HDR_RAMDISK_SIZE, o->initrd_size);
    put_le32(s + LINUX_HDR_CMDLINE, LINUX_FW_CMDLINE_ADDR);
}

static u8 minus_sum(const u8 *p, size_t n)
{
    u8 sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += p[i];
    return (u8)-sum;
}

static void fill_rom(struct linux_offer *o)
{
    const struct {
        u16 item;
        u32 len, to;
    } parts[] = {
        {FW_CFG_SETUP_DATA, o->setup_size, LINUX_FW_SETUP_ADDR},
        {FW_CFG_CMDLINE_DATA, o->cmdline_size, LINUX_FW_CMDLINE_ADDR},
        {FW_CFG_KERNEL_DATA, o->kernel_size, LINUX_FW_KERNEL_ADDR},
        {FW_CFG_INITRD_DATA, o->initrd_size, o->initrd_addr},
    };
    u8 *command = o->rom + (linux_rom_commands - linux_rom), *pnp = o->rom + (linux_rom_pnp - linux_rom);

    memcpy(o->rom, linux_rom, (size_t)(linux_rom_end - linux_rom));
    for (size_t i = 0; i < ARRAY_LEN(parts); i++, command += FW_CFG_DMA_SIZE) {
        put_be(command, 4, (u32)parts[i].item << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_READ);
        put_be(command + 4, 4, parts[i].len);
        put_be(command + 8, 8, parts[i].to);
    }
    pnp[PNP_CHECKSUM] = minus_sum(pnp, PNP_SIZE);
    o->rom[LINUX_FW_ROM_SIZE - 1] = minus_sum(o->rom, LINUX_FW_ROM_SIZE - 1);
}

int linux_offer(const struct boot_params *p, const u8 *initrd, u64 initrd_size, u64 low_ram, struct linux_offer *out,
                struct error *err)
{
    struct linux_setup s;
    int ret = linux_read_setup(p, &s, err);
    u64 setup_size;

    if (ret)
        return ret;
    setup_size = (u64)(s.payload - p->kernel);
    if (setup_size > LINUX_FW_SETUP_ROOM)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: its setup has %llu bytes; firmware has room for %u: leave out -bios", p->path,
                         (unsigned long long)setup_size, LINUX_FW_SETUP_ROOM);
    ret = place_initrd(p, &s, initrd_size, low_ram, &out->initrd_addr, err);
    if (ret)
        return ret;
    out->setup_size = (u32)setup_size;
    out->kernel = s.payload;
    out->kernel_size = (u32)s.payload_size;
    out->initrd = initrd;
    out->initrd_size = (u32)initrd_size;
    out->cmdline_size = (u32)strlen(p->cmdline) + 1;
    fill_setup(p, out);
    fill_rom(out);
    return 0;
}
