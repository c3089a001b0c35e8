// The Linux boot protocol (Documentation/arch/x86/boot.rst): images with a setup header, which bzImages and memtest86+ have.
#ifndef POGO_BOOT_LINUX_H
#define POGO_BOOT_LINUX_H

#include "boot/boot.h"

// Offsets in the file and in boot_params alike.
#define LINUX_HDR_SETUP_SECTS 0x1f1
#define LINUX_HDR_SYSSIZE 0x1f4
#define LINUX_HDR_BOOT_FLAG 0x1fe
#define LINUX_HDR_LENGTH 0x201 // of what follows 0x202
#define LINUX_HDR_MAGIC 0x202
#define LINUX_HDR_VERSION 0x206
#define LINUX_HDR_LOADER 0x210
#define LINUX_HDR_LOADFLAGS 0x211
#define LINUX_HDR_CODE32 0x214
#define LINUX_HDR_RAMDISK 0x218
#define LINUX_HDR_RAMDISK_SIZE 0x21c
#define LINUX_HDR_HEAP_END 0x224
#define LINUX_HDR_CMDLINE 0x228
#define LINUX_HDR_INITRD_MAX 0x22c
#define LINUX_HDR_ALIGNMENT 0x230
#define LINUX_HDR_RELOCATABLE 0x234
#define LINUX_HDR_XLOADFLAGS 0x236
#define LINUX_HDR_CMDLINE_SIZE 0x238
#define LINUX_HDR_PREF_ADDRESS 0x258
#define LINUX_HDR_INIT_SIZE 0x260
#define LINUX_HDR_LIMIT 0x290 // boot_params has other things from here on

#define LINUX_SECTOR 512u
#define LINUX_LOADFLAG_HIGH 0x01
#define LINUX_LOADFLAG_HEAP 0x80 // the heap's end is given
#define LINUX_LOADER_OTHER 0xff

// What a loader needs from the header, checked.
struct linux_setup {
    const u8 *payload; // the protected-mode kernel; before it in the file, setup
    u64 payload_size;
    u32 header_end;
    u16 version, xloadflags;
    u32 code32, initrd_max, alignment, cmdline_size;
    bool relocatable;
    u64 pref_address, init_size;
};

// Whether an image bears the setup header's signature. Whether the rest of it makes sense is linux_read_setup()'s business.
bool linux_has_header(const u8 *image, u64 size);
// Read and judge the header of p->kernel, and p->cmdline by it. Returns 0 or -ENOEXEC, -E2BIG with *err set.
int linux_read_setup(const struct boot_params *p, struct linux_setup *s, struct error *err);

#endif
