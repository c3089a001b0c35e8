// ACPI tables for firmware that puts them where it likes: the tables as acpi_build() made them, and a script that says how to
// allocate room, to turn offsets into addresses and to mend checksums. QEMU docs/specs and the firmware's own sources call it the
// table loader: fw_cfg files of 128-byte commands.
#ifndef POGO_BOARD_ACPI_LOADER_H
#define POGO_BOARD_ACPI_LOADER_H

#include "board/acpi.h"

#define ACPI_LOADER_MAX 8192 // bytes of a script; more than it takes

// The two blobs that the script names.
#define ACPI_LOADER_RSDP "etc/acpi/rsdp"
#define ACPI_LOADER_TABLES "etc/acpi/tables"

struct acpi_loader {
    const u8 *rsdp, *tables; // in the caller's buffer
    u32 rsdp_size, tables_size;
    u32 script_size;
};

// Write tables to `buf` and the script to `script` (ACPI_LOADER_MAX bytes). Returns 0 or -ENOSPC.
int acpi_loader_build(const struct acpi_params *p, u8 *buf, size_t size, u8 *script, struct acpi_loader *out);

#endif
