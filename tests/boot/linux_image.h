// A small, right Linux image for loader tests: 2 setup sectors, a kernel of LINUX_PAYLOAD bytes 0x90.
#ifndef TESTS_BOOT_LINUX_IMAGE_H
#define TESTS_BOOT_LINUX_IMAGE_H

#include <string.h>

#include "pogo/types.h"

#define LINUX_SETUP (3 * 512)
#define LINUX_PAYLOAD 0x1000
#define LINUX_SIZE (LINUX_SETUP + LINUX_PAYLOAD)

static inline void linux_put(u8 *image, u64 off, u64 val, unsigned n)
{
    memcpy(image + off, &val, n);
}

// Protocol 2.15, relocatable in steps of 2 MiB, preferring 4 MiB; `is64`: with a 64-bit entry.
static inline void linux_image(u8 *image, bool is64)
{
    memset(image, 0, LINUX_SETUP);
    memset(image + LINUX_SETUP, 0x90, LINUX_PAYLOAD);
    linux_put(image, 0x1f1, 2, 1);
    linux_put(image, 0x1f4, LINUX_PAYLOAD / 16, 4);
    linux_put(image, 0x1fe, 0xaa55, 2);
    linux_put(image, 0x200, 0x6aeb, 2);
    memcpy(image + 0x202, "HdrS", 4);
    linux_put(image, 0x206, 0x20f, 2);
    linux_put(image, 0x211, 1, 1);
    linux_put(image, 0x214, 0x100000, 4);
    linux_put(image, 0x22c, 0x7fffffff, 4);
    linux_put(image, 0x230, 0x200000, 4);
    linux_put(image, 0x234, 1, 1);
    linux_put(image, 0x236, is64 ? 3 : 0, 2);
    linux_put(image, 0x238, 255, 4);
    linux_put(image, 0x258, 0x400000, 8);
    linux_put(image, 0x260, 0x300000, 4);
}

#endif
