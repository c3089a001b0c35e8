// Hostile Linux images: the setup header and what follows from it.
#include "boot/linux_fw.h"
#include "boot/linux_image.h"
#include "fuzz_boot.h"

static int load(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err)
{
    struct boot_params q = *p;
    u8 image[LINUX_SIZE];

    // A good image with the input as its header reaches further than the input alone, which is tried when it is long.
    q.long_mode = p->kernel_size & 2;
    if (p->kernel_size <= 0x80) {
        linux_image(image, p->kernel_size & 4);
        memcpy(image + 0x1f1, p->kernel, p->kernel_size);
        q.kernel = image;
        q.kernel_size = sizeof(image);
    }
    // For firmware: whatever it takes must be inside the image and the machine.
    static struct linux_offer o;
    struct error ignored;
    static const u8 initrd[3000];
    u64 ram = (u64)(p->kernel_size & 0x70) << 20;
    if (!linux_offer(&q, initrd, sizeof(initrd), ram, &o, &ignored)) {
        if (o.kernel < q.kernel || o.kernel + o.kernel_size > q.kernel + q.kernel_size ||
            (u64)o.initrd_addr + sizeof(initrd) > ram || memcmp(o.setup, q.kernel, 0x1f1))
            abort();
    }
    return boot_linux(mem, &q, cpu, err);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    fuzz_loader(load, data, size);
    return 0;
}
