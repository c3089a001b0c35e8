// The multiboot 1 header (Multiboot Specification 0.6.96, section 3.1).
#ifndef POGO_BOOT_MULTIBOOT_H
#define POGO_BOOT_MULTIBOOT_H

#include "pogo/types.h"

// Offset of the header: in the first 8192 bytes, aligned to 4, its checksum right; or -1.
i64 multiboot_find(const u8 *image, u64 size);

#endif
