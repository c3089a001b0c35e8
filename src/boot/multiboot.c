// Multiboot 1 kernels (Multiboot Specification 0.6.96).
//
// The image is an ELF executable, or any file whose header gives load addresses itself (flag 16). What the kernel is told
// lies in one block, placed in low memory when the kernel leaves room there:
//
//   GDT | information structure | memory map | module list | loader name | command line | module strings

#include "boot/multiboot.h"

#include <errno.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/elf.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define SEARCH 8192

#define FLAG_ADDRESSES 0x00010000u
#define FLAGS_UNKNOWN 0x0000fff8u // requirements that this loader does not know: the specification says to refuse

#define MBI_MEMORY 0x001u
#define MBI_CMDLINE 0x004u
#define MBI_MODULES 0x008u
#define MBI_MMAP 0x040u
#define MBI_LOADER 0x200u

struct mb_info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
    u32 drives_length, drives_addr, config_table, boot_loader_name, apm_table;
};

struct mb_module {
    u32 start, end, string, reserved;
};

struct mb_mmap {
    u32 size; // of what follows
    u64 base, length;
    u32 type;
} __attribute__((packed));

static u32 get32(const u8 *p)
{
    u32 v;

    memcpy(&v, p, 4);
    return v;
}

i64 multiboot_find(const u8 *image, u64 size)
{
    for (u64 off = 0; off + 12 <= size && off + 12 <= SEARCH; off += 4)
        if (get32(image + off) == HEADER_MAGIC &&
            get32(image + off) + get32(image + off + 4) + get32(image + off + 8) == 0)
            return (i64)off;
    return -1;
}

// Where a kernel with load addresses in its header goes.
struct addresses {
    u32 header, load, load_end, bss_end, entry;
    u64 offset, file_size, mem_size;
};

static int read_addresses(const struct boot_params *p, u64 off, struct addresses *a, struct error *err)
{
    const u8 *h = p->kernel + off + 12;

    if (p->kernel_size - off < 32)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: multiboot header at 0x%llx: address fields are cut off; the file is truncated",
                         p->path, (unsigned long long)off);
    *a = (struct addresses){get32(h), get32(h + 4), get32(h + 8), get32(h + 12), get32(h + 16), 0, 0, 0};
    if (a->load > a->header || a->header - a->load > off)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: multiboot load_addr 0x%x and header_addr 0x%x do not fit a header at file offset "
                         "0x%llx; relink the image",
                         p->path, a->load, a->header, (unsigned long long)off);
    a->offset = off - (a->header - a->load);
    a->file_size = p->kernel_size - a->offset;
    if (a->load_end) {
        if (a->load_end < a->load || a->load_end - a->load > a->file_size)
            return error_set(err, -ENOEXEC,
                             "-kernel %s: multiboot load_end_addr 0x%x is below load_addr 0x%x or past the end of the "
                             "file; the file is truncated",
                             p->path, a->load_end, a->load);
        a->file_size = a->load_end - a->load;
    }
    a->mem_size = a->file_size;
    if (a->bss_end) {
        if (a->bss_end < a->load || a->bss_end - a->load < a->file_size)
            return error_set(err, -ENOEXEC,
                             "-kernel %s: multiboot bss_end_addr 0x%x is below the end of the loaded part; relink the "
                             "image",
                             p->path, a->bss_end);
        a->mem_size = a->bss_end - a->load;
    }
    return 0;
}

static int load_addresses(struct boot_layout *l, u64 off, u32 *entry, struct error *err)
{
    const struct boot_params *p = l->p;
    struct addresses a;
    int ret = read_addresses(p, off, &a, err);

    if (ret)
        return ret;
    if (!a.mem_size || !mem_ptr(l->mem, a.load, a.mem_size, true) || !boot_take(l, a.load, a.mem_size))
        return error_set(err, -ENOSPC,
                         "-kernel %s: multiboot load_addr 0x%x with 0x%llx bytes is not RAM of this guest; give more "
                         "memory (-m)",
                         p->path, a.load, (unsigned long long)a.mem_size);
    if (a.entry < a.load || a.entry - a.load >= a.mem_size)
        return error_set(err, -ENOEXEC, "-kernel %s: multiboot entry_addr 0x%x lies outside the image; relink it",
                         p->path, a.entry);
    boot_copy(l->mem, a.load, p->kernel + a.offset, a.file_size, a.mem_size);
    *entry = a.entry;
    return 0;
}

static int load_elf(struct boot_layout *l, u32 *entry, struct error *err)
{
    const struct boot_params *p = l->p;
    struct elf_image elf;
    u64 where;
    int ret = elf_open(&elf, p->path, p->kernel, p->kernel_size, err);

    if (!ret)
        ret = elf_load(&elf, l, err);
    if (ret)
        return ret;
    if (!elf_entry(&elf, &where) || where > 0xffffffff)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: e_entry 0x%llx lies in no load segment below 4 GiB; relink the image", p->path,
                         (unsigned long long)elf.entry);
    *entry = (u32)where;
    return 0;
}

// The block of information: sizes first, so that it can be placed; then offsets within it.
struct block {
    gpa base;
    u64 mmap, mods, loader, cmdline, strings, size;
};

static const char loader_name[] = "pogo";

static void lay_out(const struct boot_params *p, struct block *b)
{
    b->mmap = BOOT_GDT_SIZE + sizeof(struct mb_info);
    b->mods = b->mmap + p->range_count * sizeof(struct mb_mmap);
    b->loader = b->mods + p->module_count * sizeof(struct mb_module);
    b->cmdline = b->loader + sizeof(loader_name);
    b->strings = b->cmdline + strlen(p->path) + 1 + strlen(p->cmdline) + 1;
    b->size = b->strings;
    for (unsigned i = 0; i < p->module_count; i++)
        b->size += strlen(p->module[i].cmdline) + 1;
}

static void write_mmap(struct boot_layout *l, const struct block *b)
{
    for (unsigned i = 0; i < l->p->range_count; i++) {
        const struct boot_range *r = &l->p->range[i];
        struct mb_mmap m = {sizeof(m) - sizeof(m.size), r->base, r->size, r->type};

        mem_write(l->mem, b->base + b->mmap + i * sizeof(m), &m, sizeof(m));
    }
}

static void write_modules(struct boot_layout *l, const struct block *b, const gpa *addr)
{
    u64 string = b->base + b->strings;

    for (unsigned i = 0; i < l->p->module_count; i++) {
        const struct boot_module *m = &l->p->module[i];
        struct mb_module entry = {(u32)addr[i], (u32)(addr[i] + m->size), (u32)string, 0};
        u64 len = strlen(m->cmdline) + 1;

        mem_write(l->mem, b->base + b->mods + i * sizeof(entry), &entry, sizeof(entry));
        mem_write(l->mem, string, m->cmdline, len);
        string += len;
    }
}

// KiB of RAM from 1 MiB up to the first hole.
static u32 upper_memory(const struct boot_params *p)
{
    for (unsigned i = 0; i < p->range_count; i++)
        if (p->range[i].type == BOOT_RANGE_RAM && p->range[i].base == 0x100000)
            return (u32)(p->range[i].size >> 10);
    return 0;
}

// The kernel's own name comes first, as boot loaders have it.
static void write_cmdline(struct boot_layout *l, const struct block *b)
{
    const struct boot_params *p = l->p;
    u64 at = b->base + b->cmdline, name = strlen(p->path);

    mem_write(l->mem, at, p->path, name);
    mem_write(l->mem, at + name, " ", 1);
    mem_write(l->mem, at + name + 1, p->cmdline, strlen(p->cmdline) + 1);
}

static void write_info(struct boot_layout *l, const struct block *b)
{
    const struct boot_params *p = l->p;
    struct mb_info info = {
        .flags = MBI_MEMORY | MBI_CMDLINE | MBI_MODULES | MBI_MMAP | MBI_LOADER,
        .mem_lower = 639,
        .mem_upper = upper_memory(p),
        .cmdline = (u32)(b->base + b->cmdline),
        .mods_count = p->module_count,
        .mods_addr = (u32)(b->base + b->mods),
        .mmap_length = (u32)(p->range_count * sizeof(struct mb_mmap)),
        .mmap_addr = (u32)(b->base + b->mmap),
        .boot_loader_name = (u32)(b->base + b->loader),
    };

    mem_write(l->mem, b->base + BOOT_GDT_SIZE, &info, sizeof(info));
    mem_write(l->mem, b->base + b->loader, loader_name, sizeof(loader_name));
    write_cmdline(l, b);
    write_mmap(l, b);
}

int boot_multiboot(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err)
{
    struct boot_layout l;
    struct block b;
    gpa module[BOOT_MAX_MODULES];
    u64 off = (u64)multiboot_find(p->kernel, p->kernel_size);
    u32 flags = get32(p->kernel + off + 4), entry = 0;
    int ret;

    if (flags & FLAGS_UNKNOWN)
        return error_set(
            err, -ENOEXEC,
            "-kernel %s: multiboot flags 0x%x ask for something unknown; only bits 0 to 2 and 16 are known", p->path,
            flags);
    boot_layout_init(&l, mem, p);
    ret = flags & FLAG_ADDRESSES ? load_addresses(&l, off, &entry, err) : load_elf(&l, &entry, err);
    if (!ret)
        ret = boot_place_modules(&l, module, err);
    if (ret)
        return ret;
    lay_out(p, &b);
    b.base = boot_place(&l, b.size, 16, 0x9000); // above what firmware keeps for itself
    if (!b.base)
        return error_set(
            err, -ENOSPC,
            "-kernel %s: no room in guest memory for %llu bytes of boot information; give more memory (-m)", p->path,
            (unsigned long long)b.size);
    write_info(&l, &b);
    write_modules(&l, &b, module);
    boot_enter_flat32(mem, cpu, b.base, entry);
    cpu->gpr[X86_RAX] = LOADER_MAGIC;
    cpu->gpr[X86_RBX] = b.base + BOOT_GDT_SIZE;
    return 0;
}
