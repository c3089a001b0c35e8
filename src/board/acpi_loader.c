// The table loader's script. The tables are built as if the first of them lay at address 0, so that every pointer is an offset into
// the file of tables already; what the script adds is the address where firmware has put the file.

#include "board/acpi_loader.h"

#include <errno.h>

#define COMMAND_SIZE 128
#define FILE_NAME 56

enum { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };

// The first table; before it there is the root pointer.
#define FIRST_TABLE 64
#define RSDP_SIZE 36
#define RSDP_RSDT 16
#define RSDP_XSDT 24
#define RSDP_SUM 8
#define RSDP_SUM_LEN 20
#define RSDP_SUM2 32
#define TABLE_LEN 4
#define TABLE_SUM 9
#define TABLE_HEADER 36
#define FADT_FACS 36
#define FADT_DSDT 40
#define FADT_X_DSDT 140

static u32 get32(const u8 *p)
{
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static void file_name(struct blob *b, const char *name)
{
    blob_bytes(b, name, strlen(name));
    blob_zero(b, FILE_NAME - strlen(name));
}

static void end_command(struct blob *b)
{
    blob_align(b, COMMAND_SIZE);
}

static void allocate(struct blob *b, const char *file, u32 align, u8 zone)
{
    blob_put(b, 4, CMD_ALLOCATE);
    file_name(b, file);
    blob_put(b, 4, align);
    blob_put(b, 1, zone);
    end_command(b);
}

// The number of `size` bytes at `off` of `file` is an offset into the tables.
static void add_pointer(struct blob *b, const char *file, size_t off, unsigned size)
{
    blob_put(b, 4, CMD_ADD_POINTER);
    file_name(b, file);
    file_name(b, ACPI_LOADER_TABLES);
    blob_put(b, 4, off);
    blob_put(b, 1, size);
    end_command(b);
}

// The byte at `off` makes the sum of [start, start + len) zero. It is zero itself until then.
static void add_checksum(struct blob *b, const char *file, u8 *bytes, size_t off, size_t start, size_t len)
{
    bytes[off] = 0;
    blob_put(b, 4, CMD_ADD_CHECKSUM);
    file_name(b, file);
    blob_put(b, 4, off);
    blob_put(b, 4, start);
    blob_put(b, 4, len);
    end_command(b);
}

static void table_checksum(struct blob *b, u8 *tables, u32 at)
{
    add_checksum(b, ACPI_LOADER_TABLES, tables, at + TABLE_SUM, at, get32(tables + at + TABLE_LEN));
}

// RSDT or XSDT: pointers of `width` bytes behind the header.
static void root_table(struct blob *b, u8 *tables, u32 at, unsigned width)
{
    for (u32 off = at + TABLE_HEADER; off < at + get32(tables + at + TABLE_LEN); off += width)
        add_pointer(b, ACPI_LOADER_TABLES, off, width);
    table_checksum(b, tables, at);
}

static void fixed_table(struct blob *b, u8 *tables, u32 rsdt)
{
    for (u32 off = rsdt + TABLE_HEADER; off < rsdt + get32(tables + rsdt + TABLE_LEN); off += 4) {
        u32 at = get32(tables + off);
        if (memcmp(tables + at, "FACP", 4))
            continue;
        add_pointer(b, ACPI_LOADER_TABLES, at + FADT_FACS, 4);
        add_pointer(b, ACPI_LOADER_TABLES, at + FADT_DSDT, 4);
        add_pointer(b, ACPI_LOADER_TABLES, at + FADT_X_DSDT, 8);
        table_checksum(b, tables, at);
    }
}

int acpi_loader_build(const struct acpi_params *p, u8 *buf, size_t size, u8 *script, struct acpi_loader *out)
{
    struct blob b = {.buf = script, .size = ACPI_LOADER_MAX};
    u8 *tables = buf + FIRST_TABLE;
    u32 rsdt, xsdt;
    long used = acpi_build(p, buf, size, -(u64)FIRST_TABLE);

    if (used < 0)
        return (int)used;
    rsdt = get32(buf + RSDP_RSDT);
    xsdt = get32(buf + RSDP_XSDT);
    allocate(&b, ACPI_LOADER_RSDP, 16, ZONE_FSEG);
    allocate(&b, ACPI_LOADER_TABLES, 64, ZONE_HIGH);
    fixed_table(&b, tables, rsdt);
    root_table(&b, tables, rsdt, 4);
    root_table(&b, tables, xsdt, 8);
    add_pointer(&b, ACPI_LOADER_RSDP, RSDP_RSDT, 4);
    add_pointer(&b, ACPI_LOADER_RSDP, RSDP_XSDT, 8);
    add_checksum(&b, ACPI_LOADER_RSDP, buf, RSDP_SUM, 0, RSDP_SUM_LEN);
    add_checksum(&b, ACPI_LOADER_RSDP, buf, RSDP_SUM2, 0, RSDP_SIZE);
    *out = (struct acpi_loader){.rsdp = buf,
                                .rsdp_size = RSDP_SIZE,
                                .tables = tables,
                                .tables_size = (u32)used - FIRST_TABLE,
                                .script_size = (u32)b.len};
    return b.full ? -ENOSPC : 0;
}
