// Reading kernels, modules and firmware, and putting them into the machine.
//
// A machine is started again at each reset from the files that are open since the start: what became of their names meanwhile
// does not matter. Who writes into such a file has the guest start what it holds then, as a disk's boot loader would, and is told.

#include "cli/images.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KERNEL (1ull << 30)

// Cut the -initrd argument at single commas; ",," is a comma. Each piece begins with a file name. In place.
static int split_modules(struct images *im, struct error *err)
{
    char *in, *out, *start;

    im->module_text = strdup(im->o->initrd);
    if (!im->module_text)
        return error_set(err, -ENOMEM, "-initrd: no memory for its argument");
    in = out = im->module_text;
    while (in) {
        if (im->boot.module_count == BOOT_MAX_MODULES)
            return error_set(err, -E2BIG, "-initrd: more than %d modules; put several files into one archive",
                             BOOT_MAX_MODULES);
        im->module[im->boot.module_count++].cmdline = start = out;
        while (*in && (*in != ',' || in[1] == ',')) {
            in += *in == ',';
            *out++ = *in++;
        }
        in = *in ? in + 1 : NULL;
        *out++ = 0;
        if (!*start || *start == ' ')
            return error_set(err, -EINVAL, "-initrd %s: module %u has no file name", im->o->initrd,
                             im->boot.module_count);
    }
    return 0;
}

typedef int read_file(const char *path, const char *option, u64 max, struct file_again *f, struct error *err);

static int read_kernel(struct images *im, read_file *read, struct error *err)
{
    int ret = read(im->o->kernel, "-kernel", MAX_KERNEL, &im->kernel, err);

    im->boot.kernel = im->kernel.data.bytes;
    im->boot.kernel_size = im->kernel.data.size;
    return ret;
}

static int read_modules(struct images *im, read_file *read, struct error *err)
{
    u64 left = im->o->ram;
    int ret = 0;

    for (unsigned i = 0; !ret && i < im->boot.module_count; i++) {
        struct file_again *f = &im->module_file[i];
        char *name = strndup(im->module[i].cmdline, strcspn(im->module[i].cmdline, " "));

        if (!name)
            return error_set(err, -ENOMEM, "-initrd: no memory for a file name");
        ret = read(name, "-initrd", left, f, err);
        if (ret == -EFBIG)
            error_format(err, "-initrd %s: larger than the %llu bytes left of the guest's memory; give more (-m)", name,
                         (unsigned long long)left);
        if (f->changed)
            fprintf(stderr, "pogo: -initrd %s: has changed since the guest was started from it\n", name);
        free(name);
        left -= f->data.size;
        im->module[i].bytes = f->data.bytes;
        im->module[i].size = f->data.size;
    }
    return ret;
}

static int check_options(const struct run_options *o, struct error *err)
{
    if (!o->kernel && !o->bios)
        return error_set(
            err, -EINVAL,
            "run: no guest: give -kernel IMAGE (Linux bzImage, multiboot or PVH ELF) or -bios ROM; 'make run' in pogo's "
            "source fetches Debian's kernel and boots it, and most systems have theirs: -kernel /boot/vmlinuz-VERSION "
            "-initrd /boot/initrd.img-VERSION -append console=ttyS0 -m 1G");
    if (o->initrd && !o->kernel)
        return error_set(err, -EINVAL, "-initrd: modules need a kernel; give -kernel IMAGE");
    return 0;
}

int images_open(struct images *im, const struct run_options *o, struct error *err)
{
    int ret = check_options(o, err);

    im->o = o;
    if (!ret && o->bios)
        ret = file_load(o->bios, "-bios", PC_MAX_BIOS, &im->bios, err);
    if (!ret && o->bios && im->bios.size < PC_MIN_BIOS)
        ret = error_set(err, -EINVAL, "-bios %s: %llu bytes; a firmware image has at least %llu KiB", o->bios,
                        (unsigned long long)im->bios.size, PC_MIN_BIOS >> 10);
    if (!ret && o->kernel)
        ret = read_kernel(im, file_open, err);
    if (!ret && o->initrd)
        ret = split_modules(im, err);
    return ret ? ret : read_modules(im, file_open, err);
}

static void forget(struct images *im, void (*what)(struct file_again *f))
{
    what(&im->kernel);
    for (unsigned i = 0; i < im->boot.module_count; i++)
        what(&im->module_file[i]);
}

static u64 padded(u64 size)
{
    return (size + 3) & ~3ull;
}

// The modules as one initrd, each begun at a multiple of 4.
static int join_modules(struct images *im, const u8 **initrd, u64 *size, struct error *err)
{
    u64 at = 0;

    *size = 0;
    for (unsigned i = 0; i < im->boot.module_count; i++)
        *size += padded(im->module[i].size);
    *initrd = im->module[0].bytes;
    if (im->boot.module_count == 1)
        *size = im->module[0].size;
    if (im->boot.module_count < 2)
        return 0;
    *initrd = im->initrd = calloc(1, *size ? *size : 1);
    if (!im->initrd)
        return error_set(err, -ENOMEM, "-initrd: no memory for %llu bytes", (unsigned long long)*size);
    for (unsigned i = 0; i < im->boot.module_count; i++) {
        if (im->module[i].size)
            memcpy(im->initrd + at, im->module[i].bytes, im->module[i].size);
        at += padded(im->module[i].size);
    }
    return 0;
}

// Firmware is to start the kernel, now and after each reset. The files stay in memory.
static int offer(struct images *im, struct pc *b, struct error *err)
{
    const u8 *initrd;
    u64 size;
    int ret = join_modules(im, &initrd, &size, err);

    if (!ret)
        ret = linux_offer(&im->boot, initrd, size, pc_low_ram(b), &im->offer, err);
    if (ret)
        return ret;
    im->offered = true;
    ret = pc_offer_linux(b, &im->offer, im->boot.cmdline);
    return ret ? error_set(err, ret, "-kernel %s: fw_cfg has no room for it; leave out -bios", im->boot.path) : 0;
}

int images_boot(struct images *im, struct pc *b, struct error *err)
{
    int ret;

    if (!im->o->kernel || im->offered)
        return 0;
    ret = read_kernel(im, file_read, err);
    if (im->kernel.changed)
        fprintf(stderr, "pogo: -kernel %s: has changed since the guest was started from it\n", im->o->kernel);
    if (!ret)
        ret = read_modules(im, file_read, err);
    if (ret)
        return ret;
    im->boot.path = im->o->kernel;
    im->boot.cmdline = im->o->append;
    im->boot.long_mode = cpu_model_has(b->m.vcpu[0]->model, ISA_FEAT_LM);
    im->boot.module = im->module;
    if (im->o->bios && boot_detect(im->boot.kernel, im->boot.kernel_size) == BOOT_LINUX)
        return offer(im, b, err);
    im->boot.range = im->range;
    im->boot.range_count = pc_memory_map(b, im->range);
    ret = pc_install_tables(b, &im->boot.rsdp, err);
    if (!ret)
        ret = boot_load(&b->m.mem, &im->boot, &b->m.vcpu[0]->cpu, err);
    forget(im, im->o->no_reboot ? file_close : file_drop);
    return ret;
}

void images_close(struct images *im)
{
    file_close(&im->kernel);
    for (unsigned i = 0; i < BOOT_MAX_MODULES; i++)
        file_close(&im->module_file[i]);
    file_free(&im->bios);
    free(im->initrd);
    free(im->module_text);
    im->module_text = NULL;
}
