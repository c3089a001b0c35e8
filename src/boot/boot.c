// What the boot protocols share: finding out what an image is, finding room in guest memory, the flat 32-bit entry state.
//
// Room is found first-fit in the RAM ranges below 4 GiB. The kernel's own segments are taken first, so nothing that the
// loader adds can ever land in them; modules go above the kernel, where kernels expect them.

#include "boot/boot.h"

#include <errno.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/linux.h"
#include "boot/multiboot.h"

#define FOUR_GIB (1ull << 32)
#define PAGE 4096ull

enum boot_kind boot_detect(const u8 *kernel, u64 size)
{
    struct elf_image elf;
    struct error ignored;
    u32 entry;

    // The setup header stands at a fixed place; a multiboot header may be anywhere in the first 8 KiB, so it is looked for later.
    if (linux_has_header(kernel, size))
        return BOOT_LINUX;
    if (multiboot_find(kernel, size) >= 0)
        return BOOT_MULTIBOOT;
    if (!elf_open(&elf, "", kernel, size, &ignored) && elf_pvh_entry(&elf, &entry))
        return BOOT_PVH;
    return BOOT_UNKNOWN;
}

// Why an image is none that can be loaded, as exactly as its first bytes tell.
static int explain_unknown(const struct boot_params *p, struct error *err)
{
    struct elf_image elf;

    if (p->kernel_size == 0)
        return error_set(err, -ENOEXEC, "-kernel %s: the file is empty; give a Linux, multiboot or PVH image", p->path);
    if (p->kernel_size >= 4 && !memcmp(p->kernel, "\177ELF", 4)) {
        int ret = elf_open(&elf, p->path, p->kernel, p->kernel_size, err);
        if (ret)
            return ret;
        return error_set(err, -ENOEXEC,
                         "-kernel %s: an ELF file without a multiboot header (magic 0x1badb002 in the first 8 KiB) and "
                         "without a PVH entry note (Xen type 18); link one in",
                         p->path);
    }
    return error_set(
        err, -ENOEXEC,
        "-kernel %s: neither a Linux bzImage nor a multiboot or ELF image (first bytes %02x %02x); give one of these",
        p->path, p->kernel[0], p->kernel_size > 1 ? p->kernel[1] : 0);
}

int boot_load(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err)
{
    if (strlen(p->cmdline) >= BOOT_MAX_CMDLINE)
        return error_set(err, -E2BIG, "-append: %zu characters; at most %d are possible", strlen(p->cmdline),
                         BOOT_MAX_CMDLINE - 1);
    if (p->module_count > BOOT_MAX_MODULES)
        return error_set(err, -E2BIG, "-initrd: %u modules; at most %d are possible", p->module_count,
                         BOOT_MAX_MODULES);
    switch (boot_detect(p->kernel, p->kernel_size)) {
    case BOOT_LINUX: return boot_linux(mem, p, cpu, err);
    case BOOT_MULTIBOOT: return boot_multiboot(mem, p, cpu, err);
    case BOOT_PVH: return boot_pvh(mem, p, cpu, err);
    default: return explain_unknown(p, err);
    }
}

void boot_layout_init(struct boot_layout *l, struct mem *mem, const struct boot_params *p)
{
    l->mem = mem;
    l->p = p;
    l->count = 0;
}

bool boot_take(struct boot_layout *l, gpa base, u64 size)
{
    if (l->count == BOOT_MAX_USED)
        return false;
    for (unsigned i = 0; i < l->count; i++)
        if (base < l->used[i].base + l->used[i].size && l->used[i].base < base + size)
            return false;
    l->used[l->count].base = base;
    l->used[l->count++].size = size;
    return true;
}

gpa boot_top(const struct boot_layout *l)
{
    gpa top = 0;

    for (unsigned i = 0; i < l->count; i++)
        if (l->used[i].base + l->used[i].size > top)
            top = l->used[i].base + l->used[i].size;
    return top;
}

// Lowest address at or above `a` where `size` bytes meet nothing taken; may lie beyond the range the caller looks at.
static gpa skip_used(const struct boot_layout *l, gpa a, u64 size, u64 align)
{
    bool moved = true;

    while (moved) {
        moved = false;
        a = (a + align - 1) & ~(align - 1);
        for (unsigned i = 0; i < l->count; i++) {
            gpa end = l->used[i].base + l->used[i].size;
            if (a < end && l->used[i].base < a + size) {
                a = end;
                moved = true;
            }
        }
    }
    return a;
}

gpa boot_place(struct boot_layout *l, u64 size, u64 align, gpa min)
{
    for (unsigned i = 0; i < l->p->range_count; i++) {
        const struct boot_range *r = &l->p->range[i];
        gpa end = r->base + r->size, a;

        if (r->type != BOOT_RANGE_RAM || r->base >= FOUR_GIB)
            continue;
        if (end > FOUR_GIB)
            end = FOUR_GIB;
        a = skip_used(l, r->base > min ? r->base : min, size, align);
        if (a < end && size <= end - a && mem_ptr(l->mem, a, size, true) && boot_take(l, a, size))
            return a;
    }
    return 0;
}

// Highest address at or below `a` where `size` bytes meet nothing taken; 0 when there is none.
static gpa skip_used_down(const struct boot_layout *l, gpa a, u64 size, u64 align)
{
    bool moved = true;

    while (moved) {
        moved = false;
        a &= ~(align - 1);
        for (unsigned i = 0; i < l->count; i++) {
            gpa base = l->used[i].base;
            if (a < base + l->used[i].size && base < a + size) {
                if (base < size)
                    return 0;
                a = base - size;
                moved = true;
            }
        }
    }
    return a;
}

gpa boot_place_high(struct boot_layout *l, u64 size, u64 align, gpa min, gpa max)
{
    for (unsigned i = l->p->range_count; i-- > 0;) {
        const struct boot_range *r = &l->p->range[i];
        gpa base = r->base > min ? r->base : min, end = r->base + r->size, a;

        if (end > max)
            end = max;
        if (r->type != BOOT_RANGE_RAM || base >= end || size > end - base)
            continue;
        a = skip_used_down(l, end - size, size, align);
        if (a && a >= base && mem_ptr(l->mem, a, size, true) && boot_take(l, a, size))
            return a;
    }
    return 0;
}

int boot_place_modules(struct boot_layout *l, gpa *addr, struct error *err)
{
    gpa min = boot_top(l);

    for (unsigned i = 0; i < l->p->module_count; i++) {
        const struct boot_module *m = &l->p->module[i];

        addr[i] = boot_place(l, m->size ? m->size : 1, PAGE, min);
        if (!addr[i])
            return error_set(
                err, -ENOSPC,
                "-initrd %.200s: %llu bytes do not fit into guest memory above the kernel; give more memory (-m)",
                m->cmdline, (unsigned long long)m->size);
        if (!mem_write(l->mem, addr[i], m->bytes, m->size))
            return error_set(err, -EFAULT, "-initrd %.200s: cannot be written to guest memory", m->cmdline);
    }
    return 0;
}

void boot_copy(struct mem *mem, gpa a, const u8 *bytes, u64 filesz, u64 memsz)
{
    static const u8 zeros[PAGE];

    mem_write(mem, a, bytes, filesz);
    for (u64 done = filesz; done < memsz;) {
        u64 n = memsz - done < PAGE ? memsz - done : PAGE;
        mem_write(mem, a + done, zeros, n);
        done += n;
    }
}

static void flat_segment(struct x86_seg *s, u16 sel, u32 type)
{
    *s = (struct x86_seg){
        .sel = sel, .attr = X86_SEG_P | X86_SEG_S | X86_SEG_DB | X86_SEG_G | type, .limit = 0xffffffff};
}

void boot_enter_flat32(struct mem *mem, struct cpu *cpu, gpa gdt, u32 entry)
{
    // null, code at 0x08, data at 0x10, TSS at 0x18: the descriptors that the segment registers are loaded with
    static const u64 table[BOOT_GDT_SIZE / 8] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067};

    mem_write(mem, gdt, table, sizeof(table));
    cpu->gdtr = (struct x86_dtable){.base = gdt, .limit = sizeof(table) - 1};
    cpu->idtr = (struct x86_dtable){0};
    flat_segment(&cpu->seg[X86_CS], 0x08, X86_SEG_CODE | X86_SEG_R | X86_SEG_A);
    for (unsigned i = 0; i <= X86_GS; i++)
        if (i != X86_CS)
            flat_segment(&cpu->seg[i], 0x10, X86_SEG_W | X86_SEG_A);
    cpu->seg[X86_TR] = (struct x86_seg){.sel = 0x18, .attr = X86_SEG_P | X86_SYS_TSS_BUSY, .limit = 0x67};
    cpu->seg[X86_LDTR] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET;
    cpu->cr4 = 0;
    cpu->rflags = X86_FL_RSVD1;
    cpu->rip = entry;
    cpu->cpl = 0;
    cpu->a20_mask = ~0ull;
}
