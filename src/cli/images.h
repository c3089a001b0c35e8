// The files that a guest is started from: -kernel, -initrd, -bios.
#ifndef POGO_CLI_IMAGES_H
#define POGO_CLI_IMAGES_H

#include "board/pc.h"
#include "boot/boot.h"
#include "cli/options.h"
#include "host/file.h"

struct images {
    const struct run_options *o;
    struct file_again kernel, module_file[BOOT_MAX_MODULES];
    struct file_data bios;
    char *module_text; // the -initrd argument cut into strings
    struct boot_module module[BOOT_MAX_MODULES];
    struct boot_range range[BOOT_MAX_RANGES];
    struct boot_params boot;
    struct linux_offer offer; // for firmware to start; what it points to is kept
    bool offered;
    u8 *initrd; // several modules as one, or NULL
};

// Read the files that `o` names, which stays the caller's. *im is all zeros. Returns 0 or a negative errno with *err set;
// images_close() in any case.
int images_open(struct images *im, const struct run_options *o, struct error *err);
// Put the kernel and what goes with it into a board that was just made or reset; does nothing when there is firmware alone. Kernel
// and modules are read again if need be, and then forgotten: only descriptors are kept for the next reset, or not even these if
// the machine ends with it.
int images_boot(struct images *im, struct pc *b, struct error *err);
void images_close(struct images *im);

#endif
