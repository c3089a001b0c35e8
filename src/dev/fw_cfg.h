// The fw_cfg device of QEMU: how firmware and test kernels learn of the machine. QEMU docs/specs/fw_cfg.
//
//   0x510  selector, 16 bits        0x511  data, the selected item's bytes one after the other
//   0x514  address of a DMA command, eight bytes, big-endian; the write of the lower half starts it. Reads as "QEMU CFG"
//
// An item is a number and some bytes. Those from FW_CFG_FIRST_FILE on have names, which a directory lists.
//
// A DMA command is the guest's word on what to copy where, and may say anything. Addresses are good for RAM alone; what goes wrong
// is told in the command itself, if that can be written.
#ifndef POGO_DEV_FW_CFG_H
#define POGO_DEV_FW_CFG_H

#include "core/dev.h"
#include "core/mem.h"

#define FW_CFG_PORT 0x510
#define FW_CFG_PORTS 2
#define FW_CFG_DMA_PORT 0x514
#define FW_CFG_DMA_PORTS 8

enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FIRST_FILE = 0x20,
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
};

#define FW_CFG_MAX_ITEMS 64
#define FW_CFG_MAX_FILES 24
#define FW_CFG_NAME_SIZE 56 // with the terminating zero
#define FW_CFG_DIR_ROW 64

// Bits of a DMA command's control word; the upper half is an item for SELECT.
#define FW_CFG_DMA_ERROR 0x01u
#define FW_CFG_DMA_READ 0x02u
#define FW_CFG_DMA_SKIP 0x04u
#define FW_CFG_DMA_SELECT 0x08u
#define FW_CFG_DMA_WRITE 0x10u
#define FW_CFG_DMA_SIZE 16 // control, length (32 bits each), address (64 bits)

struct fw_cfg_item {
    u16 key;
    u32 size;
    const u8 *bytes; // NULL: `value`
    u8 *writable;    // the same bytes if the guest may change them, by DMA; else NULL
    u8 value[8];
};

struct fw_cfg {
    struct mem *mem; // for DMA; NULL: there is none
    struct fw_cfg_item item[FW_CFG_MAX_ITEMS];
    unsigned count, files;
    u8 dir[4 + FW_CFG_MAX_FILES * FW_CFG_DIR_ROW];
    u16 selector;
    u32 offset;
    u64 dma; // the command's address as far as it has been written
};

extern const struct dev_ops fw_cfg_ops;     // both are the same struct fw_cfg
extern const struct dev_ops fw_cfg_dma_ops; // at FW_CFG_DMA_PORT

// Begin: signature, ID and an empty directory. `mem` as above.
void fw_cfg_init(struct fw_cfg *f, struct mem *mem);
// Add an item. The bytes stay the caller's and must outlive the device. Returns 0, -EEXIST or -ENOSPC.
int fw_cfg_add(struct fw_cfg *f, u16 key, const void *bytes, u32 size);
// An item that is a little-endian number of `size` bytes, at most 8.
int fw_cfg_add_value(struct fw_cfg *f, u16 key, u64 val, u32 size);
// The same for files. -EINVAL: no name, or a longer one than FW_CFG_NAME_SIZE - 1. -EEXIST: there is a file of that name.
int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *bytes, u32 size);
int fw_cfg_add_file_value(struct fw_cfg *f, const char *name, u64 val, u32 size);
// A file that the guest may write. It keeps what was written over a reset.
int fw_cfg_add_writable_file(struct fw_cfg *f, const char *name, void *bytes, u32 size);

#endif
