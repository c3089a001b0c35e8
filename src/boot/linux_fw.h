// A Linux kernel for firmware to start: the parts of the image where fw_cfg's items say they go, and an option ROM that fetches them.
// What the firmware has found out about the machine, the kernel's own real-mode setup asks of it.
#ifndef POGO_BOOT_LINUX_FW_H
#define POGO_BOOT_LINUX_FW_H

#include "boot/boot.h"

#define LINUX_FW_SETUP_ADDR 0x10000u
#define LINUX_FW_CMDLINE_ADDR 0x20000u
#define LINUX_FW_KERNEL_ADDR 0x100000u
#define LINUX_FW_SETUP_ROOM 0xf000u // behind it are its heap and stack
#define LINUX_FW_ROM_SIZE 512u

struct linux_offer {
    u8 setup[LINUX_FW_SETUP_ROOM]; // a copy, with the loader's fields filled in
    const u8 *kernel, *initrd;     // the caller's bytes
    u32 setup_size, kernel_size, initrd_size, cmdline_size;
    u32 initrd_addr;
    u8 rom[LINUX_FW_ROM_SIZE];
};

// Prepare p->kernel with p->cmdline (p->module is not looked at), and `initrd_size` bytes of initrd, for a machine with `low_ram` bytes
// of RAM below 4 GiB. Everything stays the caller's, and must stay. Returns 0 or a negative errno with *err set.
int linux_offer(const struct boot_params *p, const u8 *initrd, u64 initrd_size, u64 low_ram, struct linux_offer *out,
                struct error *err);

#endif
