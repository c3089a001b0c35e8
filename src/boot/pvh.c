// PVH: direct boot of an ELF image at the entry that its Xen note names, in 32-bit protected mode with EBX pointing to the start
// information (Xen docs/misc/pvh, public/arch-x86/hvm/start_info.h: layout and entry state).
//
// One block in low memory: GDT | start information | memory map | module list | command line | module strings

#include <errno.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/elf.h"

#define START_MAGIC 0x336ec578u

struct start_info {
    u32 magic, version, flags, nr_modules;
    u64 modlist, cmdline, rsdp, memmap;
    u32 memmap_entries, reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info version 1");

struct start_module {
    u64 addr, size, cmdline, reserved;
};

struct start_range {
    u64 base, size;
    u32 type, reserved;
};

struct block {
    gpa base;
    u64 memmap, mods, cmdline, strings, size;
};

static void lay_out(const struct boot_params *p, struct block *b)
{
    b->memmap = BOOT_GDT_SIZE + sizeof(struct start_info);
    b->mods = b->memmap + p->range_count * sizeof(struct start_range);
    b->cmdline = b->mods + p->module_count * sizeof(struct start_module);
    b->strings = b->cmdline + strlen(p->cmdline) + 1;
    b->size = b->strings;
    for (unsigned i = 0; i < p->module_count; i++)
        b->size += strlen(p->module[i].cmdline) + 1;
}

static void write_block(struct boot_layout *l, const struct block *b, const gpa *module)
{
    const struct boot_params *p = l->p;
    u64 string = b->base + b->strings;
    struct start_info info = {.magic = START_MAGIC,
                              .version = 1,
                              .nr_modules = p->module_count,
                              .modlist = p->module_count ? b->base + b->mods : 0,
                              .cmdline = b->base + b->cmdline,
                              .rsdp = p->rsdp,
                              .memmap = b->base + b->memmap,
                              .memmap_entries = p->range_count};

    mem_write(l->mem, b->base + BOOT_GDT_SIZE, &info, sizeof(info));
    mem_write(l->mem, info.cmdline, p->cmdline, strlen(p->cmdline) + 1);
    for (unsigned i = 0; i < p->range_count; i++) {
        struct start_range r = {p->range[i].base, p->range[i].size, p->range[i].type, 0};
        mem_write(l->mem, info.memmap + i * sizeof(r), &r, sizeof(r));
    }
    for (unsigned i = 0; i < p->module_count; i++) {
        struct start_module m = {module[i], p->module[i].size, string, 0};
        u64 len = strlen(p->module[i].cmdline) + 1;

        mem_write(l->mem, b->base + b->mods + i * sizeof(m), &m, sizeof(m));
        mem_write(l->mem, string, p->module[i].cmdline, len);
        string += len;
    }
}

int boot_pvh(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err)
{
    struct elf_image elf;
    struct boot_layout l;
    struct block b;
    gpa module[BOOT_MAX_MODULES];
    u32 entry = 0;
    int ret = elf_open(&elf, p->path, p->kernel, p->kernel_size, err);

    if (ret)
        return ret;
    boot_layout_init(&l, mem, p);
    ret = elf_load(&elf, &l, err);
    if (ret)
        return ret;
    if (!elf_pvh_entry(&elf, &entry) || !elf_contains(&elf, entry))
        return error_set(err, -ENOEXEC, "-kernel %s: PVH entry 0x%x lies in no load segment; relink the image", p->path,
                         entry);
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
    write_block(&l, &b, module);
    boot_enter_flat32(mem, cpu, b.base, entry);
    cpu->gpr[X86_RBX] = b.base + BOOT_GDT_SIZE;
    return 0;
}
