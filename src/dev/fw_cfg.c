// fw_cfg with the items that describe the machine; no files, no DMA.

#include "dev/fw_cfg.h"

// Value of an item and its size in bytes; at most 8.
static u64 item(const struct fw_cfg *f, unsigned *size)
{
    switch (f->selector) {
    case FW_CFG_SIGNATURE: *size = 4; return 0x554d4551; // "QEMU"
    case FW_CFG_ID: *size = 4; return 1;                 // this interface only
    case FW_CFG_RAM_SIZE: *size = 8; return f->ram_size;
    case FW_CFG_NB_CPUS:
    case FW_CFG_MAX_CPUS: *size = 2; return f->cpus;
    case FW_CFG_FILE_DIR: *size = 4; return 0; // number of files
    default: *size = 0; return 0;
    }
}

static u64 fw_cfg_read(void *dev, u64 off, unsigned size)
{
    struct fw_cfg *f = dev;
    unsigned len;
    u64 val = item(f, &len);

    if (off != 1 || size != 1)
        return 0;
    return f->offset < len ? val >> (f->offset++ * 8) & 0xff : 0;
}

static void fw_cfg_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct fw_cfg *f = dev;

    if (off != 0 || size != 2)
        return;
    f->selector = (u16)val;
    f->offset = 0;
}

static void fw_cfg_reset(void *dev)
{
    struct fw_cfg *f = dev;

    f->selector = 0;
    f->offset = 0;
}

const struct dev_ops fw_cfg_ops = {.name = "fw_cfg", .reset = fw_cfg_reset, .read = fw_cfg_read, .write = fw_cfg_write};
