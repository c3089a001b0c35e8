// The fw_cfg device of QEMU: how firmware and test kernels learn of the machine. Ports 0x510 (selector, 16 bits) and 0x511
// (data, bytes of the selected item one after the other). QEMU docs/specs/fw_cfg.
#ifndef POGO_DEV_FW_CFG_H
#define POGO_DEV_FW_CFG_H

#include "core/dev.h"

#define FW_CFG_PORTS 2

enum fw_cfg_item {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_FILE_DIR = 0x19,
};

struct fw_cfg {
    u64 ram_size;
    u16 cpus;
    u16 selector;
    u32 offset;
};

extern const struct dev_ops fw_cfg_ops;

#endif
