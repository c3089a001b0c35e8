// What fw_cfg tells of the board: numbers for whoever asks, and for firmware, which has only this to go by, tables to hand on to the
// operating system.

#include <errno.h>
#include <string.h>

#include "board/acpi_loader.h"
#include "board/pc.h"
#include "board/smbios.h"

#define E820_ROW 20
#define ACPI_ROOM 0xf000u
#define SMBIOS_ROOM 0x2000u

// Memory in which the files are; a board without firmware has none.
struct pc_tables {
    u8 acpi[ACPI_ROOM], script[ACPI_LOADER_MAX], smbios[SMBIOS_ROOM];
};

static u32 put_range(u8 *to, u64 base, u64 size)
{
    const u32 type = BOOT_RANGE_RAM;

    memcpy(to, &base, 8);
    memcpy(to + 8, &size, 8);
    memcpy(to + 16, &type, 4);
    return E820_ROW;
}

// RAM alone, in two ranges: what firmware keeps for itself is its own to know.
static int add_numbers(struct pc *b)
{
    struct fw_cfg *f = &b->fw_cfg;
    u64 low = pc_low_ram(b);
    u16 cpus = (u16)b->m.vcpu_count;
    u32 n = put_range(b->fw_e820, 0, low);
    int ret;

    if (b->ram_size > low)
        n += put_range(b->fw_e820 + n, PC_HIGH_RAM, b->ram_size - low);
    ret = fw_cfg_add(f, FW_CFG_UUID, b->fw_uuid, sizeof(b->fw_uuid));
    ret = ret ? ret : fw_cfg_add_value(f, FW_CFG_RAM_SIZE, b->ram_size, 8);
    ret = ret ? ret : fw_cfg_add_value(f, FW_CFG_NB_CPUS, cpus, 2);
    ret = ret ? ret : fw_cfg_add_value(f, FW_CFG_MAX_CPUS, cpus, 2);
    ret = ret ? ret : fw_cfg_add_value(f, FW_CFG_IRQ0_OVERRIDE, 1, 1); // the timer is at input 2 of the I/O APIC
    return ret ? ret : fw_cfg_add_file(f, "etc/e820", b->fw_e820, n);
}

// What the user wants of the firmware.
static int add_wishes(struct pc *b, const struct pc_options *o)
{
    struct fw_cfg *f = &b->fw_cfg;
    int ret = fw_cfg_add_value(f, FW_CFG_NOGRAPHIC, o->nographic, 2);

    ret = ret ? ret : fw_cfg_add_value(f, FW_CFG_BOOT_MENU, o->boot_menu, 2);
    if (!ret && o->nographic && o->serial[0]) // what goes to the screen goes there, too
        ret = fw_cfg_add_file_value(f, "etc/sercon-port", 0x3f8, 8);
    return ret;
}

static int add_acpi(struct pc *b)
{
    struct acpi_params p = pc_acpi_params(b);
    struct pc_tables *t = b->fw_tables;
    struct fw_cfg *f = &b->fw_cfg;
    struct acpi_loader l;
    int ret = acpi_loader_build(&p, t->acpi, sizeof(t->acpi), t->script, &l);

    ret = ret ? ret : fw_cfg_add_file(f, ACPI_LOADER_RSDP, l.rsdp, l.rsdp_size);
    ret = ret ? ret : fw_cfg_add_file(f, ACPI_LOADER_TABLES, l.tables, l.tables_size);
    return ret ? ret : fw_cfg_add_file(f, "etc/table-loader", t->script, l.script_size);
}

static int add_smbios(struct pc *b)
{
    struct smbios_params p = pc_smbios_params(b);
    struct pc_tables *t = b->fw_tables;
    struct fw_cfg *f = &b->fw_cfg;
    long used = smbios_build(&p, t->smbios, sizeof(t->smbios), 0);
    int ret = used < 0 ? (int)used : 0;

    ret = ret ? ret : fw_cfg_add_file(f, "etc/smbios/smbios-anchor", t->smbios, SMBIOS_ENTRY_SIZE);
    return ret ? ret
               : fw_cfg_add_file(f, "etc/smbios/smbios-tables", t->smbios + SMBIOS_ENTRY_ROOM,
                                 (u32)used - SMBIOS_ENTRY_ROOM);
}

int pc_fill_fw_cfg(struct pc *b, const struct pc_options *o)
{
    struct host *h = b->m.host;
    int ret;

    fw_cfg_init(&b->fw_cfg, &b->m.mem);
    ret = add_numbers(b);
    ret = ret ? ret : add_wishes(b, o);
    if (ret || !b->rom_size)
        return ret;
    b->fw_tables = h->ops->mem_alloc(h->self, "pogo-fw-tables", sizeof(*b->fw_tables));
    if (!b->fw_tables)
        return -ENOMEM;
    ret = add_acpi(b);
    return ret ? ret : add_smbios(b);
}

#define ROM_FILE "genroms/pogo-linux.bin" // what is in this directory, firmware takes for option ROMs

int pc_offer_linux(struct pc *b, const struct linux_offer *o, const char *cmdline)
{
    static const char order[] = "/rom@" ROM_FILE "\n";
    const struct {
        u16 key;
        u32 val;
    } numbers[] = {
        {FW_CFG_SETUP_ADDR, LINUX_FW_SETUP_ADDR},     {FW_CFG_SETUP_SIZE, o->setup_size},
        {FW_CFG_KERNEL_ADDR, LINUX_FW_KERNEL_ADDR},   {FW_CFG_KERNEL_SIZE, o->kernel_size},
        {FW_CFG_INITRD_ADDR, o->initrd_addr},         {FW_CFG_INITRD_SIZE, o->initrd_size},
        {FW_CFG_CMDLINE_ADDR, LINUX_FW_CMDLINE_ADDR}, {FW_CFG_CMDLINE_SIZE, o->cmdline_size},
    };
    struct fw_cfg *f = &b->fw_cfg;
    int ret = 0;

    for (size_t i = 0; i < ARRAY_LEN(numbers) && !ret; i++)
        ret = fw_cfg_add_value(f, numbers[i].key, numbers[i].val, 4);
    ret = ret ? ret : fw_cfg_add(f, FW_CFG_SETUP_DATA, o->setup, o->setup_size);
    ret = ret ? ret : fw_cfg_add(f, FW_CFG_KERNEL_DATA, o->kernel, o->kernel_size);
    ret = ret ? ret : fw_cfg_add(f, FW_CFG_INITRD_DATA, o->initrd, o->initrd_size);
    ret = ret ? ret : fw_cfg_add(f, FW_CFG_CMDLINE_DATA, cmdline, o->cmdline_size);
    ret = ret ? ret : fw_cfg_add_file(f, ROM_FILE, o->rom, sizeof(o->rom));
    return ret ? ret : fw_cfg_add_file(f, "bootorder", order, sizeof(order));
}

void pc_free_fw_cfg(struct pc *b)
{
    struct host *h = b->m.host;

    if (b->fw_tables)
        h->ops->mem_free(h->self, b->fw_tables, sizeof(*b->fw_tables));
}
