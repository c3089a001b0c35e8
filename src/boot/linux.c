// Linux bzImages by the 64-bit and the 32-bit boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst).
//
// A bzImage is a real-mode setup part, which is not run here, and the protected-mode kernel behind it. The setup header inside the
// setup part says what the kernel needs:
//
//   file    | boot sector with header | more setup sectors | protected-mode kernel (syssize paragraphs) | ...
//   guest   low:  | page tables | GDT | boot_params ("zero page") | command line |
//           load: | kernel ... room to unpack itself, init_size in all |       ... below initrd_addr_max: | initrds |
//
// A kernel with XLF_KERNEL_64 is entered in long mode at load + 0x200, the first 4 GiB mapped to themselves; any other in flat
// 32-bit mode at code32_start. Either finds boot_params at RSI. Several initrds are one to the kernel: they lie one behind the
// other, each begun at a multiple of 4.

#include "boot/linux.h"

#include <errno.h>
#include <string.h>

#define PAGE 4096ull
#define MIB (1ull << 20)
#define FOUR_GIB (1ull << 32)

// boot_params beside the header.
#define BP_EXT_MEM_K 0x002
#define BP_RSDP 0x070
#define BP_EXT_RAMDISK 0x0c0
#define BP_EXT_RAMDISK_SIZE 0x0c4
#define BP_ALT_MEM_K 0x1e0
#define BP_E820_COUNT 0x1e8
#define BP_E820 0x2d0
#define BP_E820_SIZE 20

#define XLF_KERNEL_64 0x01
#define XLF_ABOVE_4G 0x02   // boot_params' addresses may be above 4 GiB
#define HIGH_LOAD 0x100000u // where a kernel that cannot choose is loaded
#define ENTRY_64 0x200

#define VERSION_MIN 0x206
#define VERSION_PREF 0x20a
#define VERSION_XLF 0x20c

#define BOOT_CS 0x10
#define BOOT_DS 0x18

// Where things lie in the guest.
struct placement {
    gpa kernel, initrd, tables, block;
    u64 initrd_size, cmdline_size;
};

// The low block, from its page-aligned start.
#define BLOCK_GDT PAGE
#define BLOCK_CMDLINE (PAGE + 64)
// One PML4, one page-directory-pointer table, four page directories.
#define TABLE_PAGES 6

static u64 get(const u8 *p, unsigned n)
{
    u64 v = 0;

    memcpy(&v, p, n);
    return v;
}

static void put(u8 *p, u64 v, unsigned n)
{
    memcpy(p, &v, n);
}

bool linux_has_header(const u8 *image, u64 size)
{
    return size >= LINUX_HDR_VERSION && !memcmp(image + LINUX_HDR_MAGIC, "HdrS", 4);
}

// --- the header -------------------------------------------------------------------------------------------------------------

static int check_header(const struct boot_params *p, struct linux_setup *s, struct error *err)
{
    const u8 *k = p->kernel;

    s->header_end = LINUX_HDR_MAGIC + (u32)get(k + LINUX_HDR_LENGTH, 1);
    if (get(k + LINUX_HDR_BOOT_FLAG, 2) != 0xaa55)
        return error_set(err, -ENOEXEC, "-kernel %s: boot_flag is 0x%04x; a Linux image has 0xaa55: give another",
                         p->path, (unsigned)get(k + LINUX_HDR_BOOT_FLAG, 2));
    if (p->kernel_size < LINUX_HDR_LIMIT)
        return error_set(err, -ENOEXEC, "-kernel %s: %llu bytes end inside the setup header; the file is truncated",
                         p->path, (unsigned long long)p->kernel_size);
    s->version = (u16)get(k + LINUX_HDR_VERSION, 2);
    if (s->version < VERSION_MIN)
        return error_set(
            err, -ENOEXEC,
            "-kernel %s: boot protocol version %u.%02u; must be at least 2.06 (Linux 2.6.22): give a newer "
            "kernel",
            p->path, s->version >> 8, s->version & 0xff);
    if (!(k[LINUX_HDR_LOADFLAGS] & LINUX_LOADFLAG_HIGH))
        return error_set(err, -ENOEXEC,
                         "-kernel %s: loadflags is 0x%02x, a zImage that loads below 1 MiB; give a bzImage", p->path,
                         k[LINUX_HDR_LOADFLAGS]);
    // Fields behind the header's own end are not there, whatever the version promises.
    if (s->header_end < (s->version >= VERSION_PREF ? LINUX_HDR_INIT_SIZE + 4 : LINUX_HDR_CMDLINE_SIZE + 4))
        return error_set(err, -ENOEXEC,
                         "-kernel %s: the setup header ends at 0x%x, too early for protocol version %u.%02u; the file "
                         "is damaged",
                         p->path, s->header_end, s->version >> 8, s->version & 0xff);
    if (s->header_end > LINUX_HDR_LIMIT)
        s->header_end = LINUX_HDR_LIMIT;
    return 0;
}

static int find_payload(const struct boot_params *p, struct linux_setup *s, struct error *err)
{
    u32 sectors = p->kernel[LINUX_HDR_SETUP_SECTS] ? p->kernel[LINUX_HDR_SETUP_SECTS] : 4;
    u64 start = (sectors + 1) * LINUX_SECTOR, size = get(p->kernel + LINUX_HDR_SYSSIZE, 4) * 16;

    if (start >= p->kernel_size)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: setup_sects %u puts the kernel at 0x%llx, past the end of the file (0x%llx "
                         "bytes); the file is truncated",
                         p->path, sectors, (unsigned long long)start, (unsigned long long)p->kernel_size);
    // syssize counts paragraphs of 16 bytes, rounded up.
    s->payload = p->kernel + start;
    s->payload_size = p->kernel_size - start;
    if (size > s->payload_size + 15)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: syssize 0x%llx asks for 0x%llx bytes of kernel, the file has 0x%llx; the file is "
                         "truncated",
                         p->path, (unsigned long long)(size / 16), (unsigned long long)size,
                         (unsigned long long)s->payload_size);
    return 0;
}

static int read_header(const struct boot_params *p, struct linux_setup *s, struct error *err)
{
    const u8 *k = p->kernel;
    int ret = check_header(p, s, err);

    if (!ret)
        ret = find_payload(p, s, err);
    if (ret)
        return ret;
    s->code32 = (u32)get(k + LINUX_HDR_CODE32, 4);
    s->initrd_max = (u32)get(k + LINUX_HDR_INITRD_MAX, 4);
    s->alignment = (u32)get(k + LINUX_HDR_ALIGNMENT, 4);
    s->relocatable = k[LINUX_HDR_RELOCATABLE] != 0;
    s->cmdline_size = (u32)get(k + LINUX_HDR_CMDLINE_SIZE, 4);
    s->xloadflags = s->version >= VERSION_XLF ? (u16)get(k + LINUX_HDR_XLOADFLAGS, 2) : 0;
    s->pref_address = s->version >= VERSION_PREF ? get(k + LINUX_HDR_PREF_ADDRESS, 8) : HIGH_LOAD;
    s->init_size = s->version >= VERSION_PREF ? get(k + LINUX_HDR_INIT_SIZE, 4) : 0;
    if (s->init_size < s->payload_size)
        s->init_size = s->payload_size;
    return 0;
}

static int check_fields(const struct boot_params *p, const struct linux_setup *s, struct error *err)
{
    u32 entry = s->code32 - HIGH_LOAD;

    if (s->relocatable && (!s->alignment || s->alignment & (s->alignment - 1)))
        return error_set(err, -ENOEXEC,
                         "-kernel %s: kernel_alignment is 0x%x; must be a power of two: the file is damaged", p->path,
                         s->alignment);
    if (!(s->xloadflags & XLF_KERNEL_64) && (s->code32 < HIGH_LOAD || entry >= s->payload_size))
        return error_set(err, -ENOEXEC,
                         "-kernel %s: code32_start 0x%x lies outside the kernel, 0x%x to 0x%llx; the file is damaged",
                         p->path, s->code32, HIGH_LOAD, (unsigned long long)(HIGH_LOAD + s->payload_size));
    if (s->xloadflags & XLF_KERNEL_64 && s->payload_size <= ENTRY_64)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: the kernel has %llu bytes, its 64-bit entry is at 0x%x; the file is damaged",
                         p->path, (unsigned long long)s->payload_size, ENTRY_64);
    if (s->xloadflags & XLF_KERNEL_64 && !p->long_mode)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: a 64-bit kernel (xloadflags 0x%x), and the processor model has no long mode; "
                         "choose another -cpu or a 32-bit kernel",
                         p->path, s->xloadflags);
    if (strlen(p->cmdline) > s->cmdline_size)
        return error_set(err, -E2BIG,
                         "-append: %zu characters; this kernel takes at most %u (cmdline_size): shorten it",
                         strlen(p->cmdline), s->cmdline_size);
    return 0;
}

int linux_read_setup(const struct boot_params *p, struct linux_setup *s, struct error *err)
{
    int ret;

    if (!linux_has_header(p->kernel, p->kernel_size))
        return error_set(err, -ENOEXEC, "-kernel %s: no Linux setup header (HdrS at 0x202); give a bzImage", p->path);
    ret = read_header(p, s, err);
    return ret ? ret : check_fields(p, s, err);
}

// --- placement --------------------------------------------------------------------------------------------------------------

// Whether [base, base+size) is RAM by the memory map, and by the memory itself.
static bool is_ram(const struct boot_layout *l, gpa base, u64 size)
{
    for (unsigned i = 0; i < l->p->range_count; i++) {
        const struct boot_range *r = &l->p->range[i];

        if (r->type == BOOT_RANGE_RAM && base >= r->base && base - r->base < r->size &&
            size <= r->size - (base - r->base))
            return mem_ptr(l->mem, base, size, true) != NULL;
    }
    return false;
}

// A kernel that cannot choose is loaded at 1 MiB and moves itself to pref_address: all from one to the other's end is its.
static bool place_fixed(struct boot_layout *l, const struct linux_setup *s, struct placement *at)
{
    gpa base = s->pref_address < HIGH_LOAD ? s->pref_address : HIGH_LOAD;
    gpa end = HIGH_LOAD + s->payload_size;

    if (s->pref_address >= FOUR_GIB)
        return false;
    if (end < s->pref_address + s->init_size)
        end = s->pref_address + s->init_size;
    at->kernel = HIGH_LOAD;
    return is_ram(l, base, end - base) && boot_take(l, base, end - base);
}

// At the address that the kernel prefers, where it need not relocate itself; else the lowest that it can live with.
static bool place_relocatable(struct boot_layout *l, const struct linux_setup *s, struct placement *at)
{
    at->kernel = s->pref_address;
    if (at->kernel < FOUR_GIB && !(at->kernel & (s->alignment - 1)) && is_ram(l, at->kernel, s->init_size) &&
        boot_take(l, at->kernel, s->init_size))
        return true;
    at->kernel = boot_place(l, s->init_size, s->alignment > PAGE ? s->alignment : PAGE, MIB);
    return at->kernel != 0;
}

static int place_kernel(struct boot_layout *l, const struct linux_setup *s, struct placement *at, struct error *err)
{
    if (s->relocatable ? place_relocatable(l, s, at) : place_fixed(l, s, at))
        return 0;
    return error_set(err, -ENOSPC,
                     "-kernel %s: no room in guest memory for init_size 0x%llx at pref_address 0x%llx%s; give more "
                     "memory (-m)",
                     l->p->path, (unsigned long long)s->init_size, (unsigned long long)s->pref_address,
                     s->relocatable ? " or elsewhere" : "");
}

static u64 padded(u64 size)
{
    return (size + 3) & ~3ull;
}

// As high as the kernel allows, out of its way while it unpacks itself; above 4 GiB only when there is no other room.
static int place_initrd(struct boot_layout *l, const struct linux_setup *s, struct placement *at, struct error *err)
{
    const struct boot_params *p = l->p;
    u64 size = 0;

    at->initrd = 0;
    for (unsigned i = 0; i < p->module_count; i++) {
        if (p->module[i].size > FOUR_GIB)
            return error_set(err, -E2BIG, "-initrd %.200s: %llu bytes; at most 4 GiB are possible",
                             p->module[i].cmdline, (unsigned long long)p->module[i].size);
        size += padded(p->module[i].size);
    }
    at->initrd_size = size;
    if (!size)
        return 0;
    at->initrd = boot_place_high(l, size, PAGE, MIB, (u64)s->initrd_max + 1);
    if (!at->initrd && s->xloadflags & XLF_ABOVE_4G && s->xloadflags & XLF_KERNEL_64)
        at->initrd = boot_place_high(l, size, PAGE, FOUR_GIB, ~0ull);
    if (!at->initrd)
        return error_set(err, -ENOSPC,
                         "-initrd %.200s: %llu bytes do not fit into guest memory below initrd_addr_max 0x%x; give "
                         "more memory (-m)",
                         p->module[0].cmdline, (unsigned long long)size, s->initrd_max);
    return 0;
}

static int place_low(struct boot_layout *l, const struct linux_setup *s, struct placement *at, struct error *err)
{
    bool is64 = s->xloadflags & XLF_KERNEL_64;

    at->cmdline_size = strlen(l->p->cmdline) + 1;
    at->tables = is64 ? boot_place(l, TABLE_PAGES * PAGE, PAGE, 0x9000) : 0; // above what firmware keeps for itself
    at->block = boot_place(l, BLOCK_CMDLINE + at->cmdline_size, PAGE, 0x9000);
    if (!at->block || (is64 && !at->tables))
        return error_set(err, -ENOSPC,
                         "-kernel %s: no room in guest memory for %llu bytes of boot information; give more memory "
                         "(-m)",
                         l->p->path, (unsigned long long)(TABLE_PAGES * PAGE + BLOCK_CMDLINE + at->cmdline_size));
    return 0;
}

// --- writing ----------------------------------------------------------------------------------------------------------------

static void write_initrd(struct boot_layout *l, gpa a)
{
    static const u8 zeros[4];

    for (unsigned i = 0; i < l->p->module_count; i++) {
        const struct boot_module *m = &l->p->module[i];

        mem_write(l->mem, a, m->bytes, m->size);
        mem_write(l->mem, a + m->size, zeros, padded(m->size) - m->size);
        a += padded(m->size);
    }
}

// KiB of the RAM range that begins at 1 MiB: what firmware told before there was E820.
static u64 extended_kib(const struct boot_params *p)
{
    for (unsigned i = 0; i < p->range_count; i++)
        if (p->range[i].type == BOOT_RANGE_RAM && p->range[i].base == MIB)
            return p->range[i].size >> 10;
    return 0;
}

static void write_e820(const struct boot_params *p, u8 *zero_page)
{
    _Static_assert(BP_E820 + BOOT_MAX_RANGES * BP_E820_SIZE <= PAGE, "the E820 map fits");
    put(zero_page + BP_E820_COUNT, p->range_count, 1);
    for (unsigned i = 0; i < p->range_count; i++) {
        u8 *e = zero_page + BP_E820 + i * BP_E820_SIZE;

        put(e, p->range[i].base, 8);
        put(e + 8, p->range[i].size, 8);
        put(e + 16, p->range[i].type, 4);
    }
}

// The video fields stay zero: there is no display, and Linux takes its dummy console then.
static void write_zero_page(struct boot_layout *l, const struct linux_setup *s, const struct placement *at)
{
    const struct boot_params *p = l->p;
    gpa cmdline = at->block + BLOCK_CMDLINE;
    u64 kib = extended_kib(p);
    u8 z[PAGE] = {0};

    memcpy(z + LINUX_HDR_SETUP_SECTS, p->kernel + LINUX_HDR_SETUP_SECTS, s->header_end - LINUX_HDR_SETUP_SECTS);
    z[LINUX_HDR_LOADER] = LINUX_LOADER_OTHER;
    put(z + LINUX_HDR_CODE32, at->kernel + s->code32 - HIGH_LOAD, 4);
    put(z + LINUX_HDR_RAMDISK, at->initrd, 4);
    put(z + LINUX_HDR_RAMDISK_SIZE, at->initrd_size, 4);
    put(z + LINUX_HDR_CMDLINE, cmdline, 4);
    put(z + BP_EXT_RAMDISK, at->initrd >> 32, 4);
    put(z + BP_EXT_RAMDISK_SIZE, at->initrd_size >> 32, 4);
    put(z + BP_RSDP, p->rsdp, 8);
    put(z + BP_EXT_MEM_K, kib < 0xfc00 ? kib : 0xfc00, 2);
    put(z + BP_ALT_MEM_K, kib < 0xffffffff ? kib : 0xffffffff, 4);
    write_e820(p, z);
    mem_write(l->mem, at->block, z, sizeof(z));
    mem_write(l->mem, cmdline, p->cmdline, at->cmdline_size);
}

// The first 4 GiB at themselves, in 2 MiB pages.
static void write_page_tables(struct mem *mem, gpa tables)
{
    const u64 link = X86_PTE_P | X86_PTE_W;
    u64 t[PAGE / 8] = {tables + PAGE + link};

    mem_write(mem, tables, t, sizeof(t));
    for (unsigned i = 0; i < 4; i++)
        t[i] = (tables + (2 + i) * PAGE) + link;
    mem_write(mem, tables + PAGE, t, sizeof(t));
    for (unsigned d = 0; d < 4; d++) {
        for (unsigned i = 0; i < PAGE / 8; i++)
            t[i] = (((u64)d << 30) + ((u64)i << 21)) | link | X86_PTE_PS;
        mem_write(mem, tables + (2 + d) * PAGE, t, sizeof(t));
    }
}

// --- entry ------------------------------------------------------------------------------------------------------------------

// The protocol's selectors: code at 0x10, data at 0x18. The TSS at 0x08 is this loader's, as TR must hold something.
static void enter(struct mem *mem, struct cpu *cpu, const struct linux_setup *s, const struct placement *at)
{
    bool is64 = s->xloadflags & XLF_KERNEL_64;
    const u64 gdt[4] = {0, 0x00008b0000000067, is64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};

    boot_enter_flat32(mem, cpu, at->block + BLOCK_GDT, (u32)(at->kernel + s->code32 - HIGH_LOAD));
    mem_write(mem, at->block + BLOCK_GDT, gdt, sizeof(gdt));
    for (unsigned i = 0; i <= X86_GS; i++)
        cpu->seg[i].sel = i == X86_CS ? BOOT_CS : BOOT_DS;
    cpu->seg[X86_TR].sel = 0x08;
    cpu->gpr[X86_RSI] = at->block;
    if (!is64)
        return;
    write_page_tables(mem, at->tables);
    cpu->seg[X86_CS].attr = (u16)((cpu->seg[X86_CS].attr & ~X86_SEG_DB) | X86_SEG_L);
    cpu->cr0 |= X86_CR0_PG;
    cpu->cr3 = at->tables;
    cpu->cr4 = X86_CR4_PAE;
    cpu->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    cpu->rip = at->kernel + ENTRY_64;
}

int boot_linux(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err)
{
    struct boot_layout l;
    struct placement at;
    struct linux_setup s;
    int ret;

    ret = linux_read_setup(p, &s, err);
    if (ret)
        return ret;
    boot_layout_init(&l, mem, p);
    ret = place_kernel(&l, &s, &at, err);
    if (!ret)
        ret = place_low(&l, &s, &at, err);
    if (!ret)
        ret = place_initrd(&l, &s, &at, err);
    if (ret)
        return ret;
    mem_write(mem, at.kernel, s.payload, s.payload_size);
    write_initrd(&l, at.initrd);
    write_zero_page(&l, &s, &at);
    enter(mem, cpu, &s, &at);
    return 0;
}
