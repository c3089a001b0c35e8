// What the board tells through fw_cfg, as firmware reads it: numbers, files, and tables that it puts where it likes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "board/acpi_loader.h"
#include "board/pc.h"
#include "core/fake_host.h"
#include "engine/engines.h"

#define GIB (1ull << 30)

struct rig {
    struct fake_host host;
    struct host_ops ops;
    struct cpu_model model;
    struct pc_options o;
    struct pc *pc;
    struct error err;
    u8 bios[64 << 10];
};

// Large machines, of which next to nothing is touched.
static void *map_memory(void *self, const char *name, u64 size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)self, (void)name;
    return p == MAP_FAILED ? NULL : p;
}

static void unmap_memory(void *self, void *p, u64 size)
{
    (void)self;
    munmap(p, size);
}

static struct rig *rig_new(u64 memory, unsigned cpus, bool firmware)
{
    struct rig *r = calloc(1, sizeof(*r));
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];

    fake_host_init(&r->host);
    r->ops = fake_host_ops;
    r->ops.mem_alloc = map_memory;
    r->ops.mem_free = unmap_memory;
    r->host.host.ops = &r->ops;
    memset(features, 0xff, sizeof(features));
    assert_null(cpu_model_parse("qemu64", features, &r->model, text, sizeof(text)));
    r->o = (struct pc_options){.ram = memory,
                               .cpus = cpus,
                               .engine = engine_find("interp"),
                               .model = &r->model,
                               .serial = {true},
                               .nographic = firmware,
                               .boot = firmware ? "dcn" : NULL,
                               .boot_menu = firmware};
    if (firmware) {
        r->o.bios = r->bios;
        r->o.bios_size = sizeof(r->bios);
    }
    assert_int_equal(pc_create(&r->host.host, &r->o, &r->pc, &r->err), 0);
    return r;
}

static void rig_free(struct rig *r)
{
    pc_destroy(r->pc);
    free(r);
}

static u64 in_le(struct rig *r, unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n; i++)
        val |= (u64)bus_in(&r->pc->m.bus, 0x511, 1) << i * 8;
    return val;
}

static u64 item(struct rig *r, u16 key, unsigned n)
{
    bus_out(&r->pc->m.bus, 0x510, 2, key);
    return in_le(r, n);
}

// Read a file by its name; returns its size, 0 when there is none.
static u32 file(struct rig *r, const char *name, u8 *buf, u32 room)
{
    u32 files = __builtin_bswap32((u32)item(r, FW_CFG_FILE_DIR, 4));

    for (u32 i = 0; i < files; i++) {
        u32 size = __builtin_bswap32((u32)in_le(r, 4));
        u16 key = __builtin_bswap16((u16)in_le(r, 2));
        char got[56];

        in_le(r, 2);
        for (unsigned j = 0; j < sizeof(got); j++)
            got[j] = (char)in_le(r, 1);
        if (strcmp(got, name))
            continue;
        assert_true(size <= room);
        bus_out(&r->pc->m.bus, 0x510, 2, key);
        for (u32 j = 0; j < size; j++)
            buf[j] = (u8)in_le(r, 1);
        return size;
    }
    return 0;
}

static u64 le(const u8 *p, unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n; i++)
        val |= (u64)p[i] << i * 8;
    return val;
}

static void numbers(void **state)
{
    struct rig *r = rig_new(5 * GIB, 3, true);
    u8 buf[256];

    (void)state;
    assert_int_equal(bus_in(&r->pc->m.bus, 0x514, 4), 0x554d4551);
    assert_int_equal(item(r, FW_CFG_SIGNATURE, 4), 0x554d4551);
    assert_int_equal(item(r, FW_CFG_ID, 4), 3);
    assert_int_equal(item(r, FW_CFG_RAM_SIZE, 8), 5 * GIB);
    assert_int_equal(item(r, FW_CFG_NB_CPUS, 2), 3);
    assert_int_equal(item(r, FW_CFG_MAX_CPUS, 2), 3);
    assert_int_equal(item(r, FW_CFG_NOGRAPHIC, 2), 1);
    assert_int_equal(item(r, FW_CFG_BOOT_MENU, 2), 1);
    assert_int_equal(item(r, FW_CFG_IRQ0_OVERRIDE, 1), 1);
    assert_int_equal(file(r, "etc/e820", buf, sizeof(buf)), 40);
    assert_int_equal(le(buf, 8), 0);
    assert_int_equal(le(buf + 8, 8), 3 * GIB);
    assert_int_equal(le(buf + 16, 4), 1);
    assert_int_equal(le(buf + 20, 8), 4 * GIB);
    assert_int_equal(le(buf + 28, 8), 2 * GIB);
    assert_int_equal(file(r, "etc/sercon-port", buf, sizeof(buf)), 8);
    assert_int_equal(le(buf, 8), 0x3f8);
    assert_int_equal(file(r, "etc/nothing", buf, sizeof(buf)), 0);
    bus_out(&r->pc->m.bus, 0x70, 1, 0x3d);
    assert_int_equal(bus_in(&r->pc->m.bus, 0x71, 1), 0x23); // CD, hard disk
    bus_out(&r->pc->m.bus, 0x70, 1, 0x38);
    assert_int_equal(bus_in(&r->pc->m.bus, 0x71, 1), 0x40); // network
    pc_reset(r->pc);
    assert_int_equal(in_le(r, 4), 0x554d4551);
    rig_free(r);
}

// Whoever boots a kernel has put the tables into memory already.
static void without_firmware(void **state)
{
    struct rig *r = rig_new(64 << 20, 1, false);
    u8 buf[256];

    (void)state;
    assert_int_equal(file(r, "etc/e820", buf, sizeof(buf)), 20);
    assert_int_equal(le(buf + 8, 8), 64 << 20);
    assert_int_equal(file(r, "etc/table-loader", buf, sizeof(buf)), 0);
    assert_int_equal(file(r, "etc/sercon-port", buf, sizeof(buf)), 0);
    assert_int_equal(item(r, FW_CFG_BOOT_MENU, 2), 0);
    rig_free(r);
}

// --- the table loader, as firmware runs it ----------------------------------------------------------------------------------

struct place {
    const char *name;
    u32 base, size, align;
    u8 bytes[0x10000];
};

static struct place *find_place(struct place *p, const u8 *name)
{
    for (unsigned i = 0; i < 2; i++)
        if (!strcmp(p[i].name, (const char *)name))
            return &p[i];
    fail();
    return NULL;
}

static void run_command(struct place *place, const u8 *c)
{
    struct place *to = find_place(place, c + 4), *from;
    u32 off, start, len;
    u64 val;
    u8 sum = 0;

    switch (le(c, 4)) {
    case 1: to->align = (u32)le(c + 60, 4); break;
    case 2:
        from = find_place(place, c + 60);
        off = (u32)le(c + 116, 4);
        assert_true(off + c[120] <= to->size);
        val = le(to->bytes + off, c[120]);
        assert_true(val < from->size);
        val += from->base;
        memcpy(to->bytes + off, &val, c[120]);
        break;
    case 3:
        off = (u32)le(c + 60, 4);
        start = (u32)le(c + 64, 4);
        len = (u32)le(c + 68, 4);
        assert_true(start + len <= to->size);
        assert_int_equal(to->bytes[off], 0); // some firmware relies on it
        for (u32 i = 0; i < len; i++)
            sum += to->bytes[start + i];
        to->bytes[off] = (u8)-sum;
        break;
    default: fail();
    }
}

// The outcome is what acpi_build() would have made for that place.
static void table_loader(void **state)
{
    struct rig *r = rig_new(64 << 20, 4, true);
    struct acpi_params params = pc_acpi_params(r->pc);
    struct place *place = calloc(2, sizeof(*place));
    u8 *script = calloc(1, ACPI_LOADER_MAX), *want = calloc(1, 0x10000);
    u32 size = file(r, "etc/table-loader", script, ACPI_LOADER_MAX);

    (void)state;
    place[0].name = ACPI_LOADER_RSDP;
    place[0].base = 0xf5a30;
    place[1].name = ACPI_LOADER_TABLES;
    place[1].base = 0x3ffe640;
    for (unsigned i = 0; i < 2; i++)
        place[i].size = file(r, place[i].name, place[i].bytes, sizeof(place[i].bytes));
    assert_true(size && size % 128 == 0);
    for (u32 at = 0; at < size; at += 128)
        run_command(place, script + at);
    assert_int_equal(place[1].align, 64);
    assert_int_equal(acpi_build(&params, want, 0x10000, place[1].base - 64), 64 + (long)place[1].size);
    assert_memory_equal(place[0].bytes, want, place[0].size);
    assert_memory_equal(place[1].bytes, want + 64, place[1].size);
    free(script);
    free(want);
    free(place);
    rig_free(r);
}

static void smbios(void **state)
{
    struct rig *r = rig_new(64 << 20, 2, true);
    u8 anchor[64], tables[4096], sum = 0;
    u32 size = file(r, "etc/smbios/smbios-tables", tables, sizeof(tables));

    (void)state;
    assert_int_equal(file(r, "etc/smbios/smbios-anchor", anchor, sizeof(anchor)), 31);
    assert_memory_equal(anchor, "_SM_", 4);
    for (unsigned i = 0; i < 31; i++)
        sum += anchor[i];
    assert_int_equal(sum, 0);
    assert_int_equal(le(anchor + 0x16, 2), size);
    assert_int_equal(tables[0], 0); // BIOS information first
    assert_int_equal(tables[size - 6], 127);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(without_firmware),
        cmocka_unit_test(table_loader),
        cmocka_unit_test(smbios),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
