// The Linux boot protocol (Documentation/arch/x86/boot.rst): images with a setup header, which bzImages and memtest86+ have.
#ifndef POGO_BOOT_LINUX_H
#define POGO_BOOT_LINUX_H

#include "boot/boot.h"

// Whether an image bears the setup header's signature. Whether the rest of it makes sense is boot_linux()'s business.
bool linux_has_header(const u8 *image, u64 size);

#endif
