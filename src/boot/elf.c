// ELF32 and ELF64 for boot loaders. Nothing in the file is trusted: offsets and sizes are compared by subtraction, never
// added before they are known to be small.

#include "boot/elf.h"

#include <errno.h>
#include <string.h>

#define EM_386 3
#define EM_X86_64 62
#define ET_EXEC 2
#define ET_DYN 3
#define NOTE_PVH 18 // XEN_ELFNOTE_PHYS32_ENTRY

// Field of `n` bytes, little-endian. The caller has checked the bounds.
static u64 field(const u8 *p, unsigned n)
{
    u64 v = 0;

    memcpy(&v, p, n);
    return v;
}

static int check_ident(const struct elf_image *e, struct error *err)
{
    u64 machine, type;

    if (e->size < 20 || memcmp(e->bytes, "\177ELF", 4))
        return error_set(err, -ENOEXEC, "-kernel %s: not an ELF file; give a multiboot or PVH image", e->path);
    if (e->bytes[4] != 1 && e->bytes[4] != 2)
        return error_set(err, -ENOEXEC, "-kernel %s: ELF class %u; must be 1 (32-bit) or 2 (64-bit)", e->path,
                         e->bytes[4]);
    if (e->bytes[5] != 1)
        return error_set(err, -ENOEXEC, "-kernel %s: ELF data encoding %u; must be 1 (little-endian)", e->path,
                         e->bytes[5]);
    machine = field(e->bytes + 18, 2);
    if (machine != EM_386 && machine != EM_X86_64)
        return error_set(err, -ENOEXEC, "-kernel %s: ELF machine %llu; give an image for x86 (3 or 62)", e->path,
                         (unsigned long long)machine);
    type = field(e->bytes + 16, 2);
    if (type != ET_EXEC && type != ET_DYN)
        return error_set(err, -ENOEXEC, "-kernel %s: ELF type %llu; give a linked executable (2 or 3)", e->path,
                         (unsigned long long)type);
    return 0;
}

int elf_open(struct elf_image *e, const char *path, const u8 *bytes, u64 size, struct error *err)
{
    unsigned header, phent;
    int ret;

    *e = (struct elf_image){.path = path, .bytes = bytes, .size = size};
    ret = check_ident(e, err);
    if (ret)
        return ret;
    e->is64 = bytes[4] == 2;
    header = e->is64 ? 64 : 52;
    phent = e->is64 ? 56 : 32;
    if (size < header)
        return error_set(err, -ENOEXEC, "-kernel %s: %llu bytes, but the ELF header has %u; the file is truncated",
                         path, (unsigned long long)size, header);
    e->entry = e->is64 ? field(bytes + 24, 8) : field(bytes + 24, 4);
    e->phoff = e->is64 ? field(bytes + 32, 8) : field(bytes + 28, 4);
    e->phentsize = (u32)field(bytes + (e->is64 ? 54 : 42), 2);
    e->phnum = (u32)field(bytes + (e->is64 ? 56 : 44), 2);
    if (e->phnum && e->phentsize < phent)
        return error_set(err, -ENOEXEC, "-kernel %s: e_phentsize is %u; must be at least %u", path, e->phentsize,
                         phent);
    if (e->phoff > size || (u64)e->phnum * e->phentsize > size - e->phoff)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: e_phoff 0x%llx with %u program headers lies outside the file (0x%llx bytes); the "
                         "file is truncated",
                         path, (unsigned long long)e->phoff, e->phnum, (unsigned long long)size);
    return 0;
}

struct elf_phdr elf_phdr_at(const struct elf_image *e, unsigned i)
{
    const u8 *p = e->bytes + e->phoff + (u64)i * e->phentsize;

    if (e->is64)
        return (struct elf_phdr){.type = (u32)field(p, 4),
                                 .offset = field(p + 8, 8),
                                 .vaddr = field(p + 16, 8),
                                 .paddr = field(p + 24, 8),
                                 .filesz = field(p + 32, 8),
                                 .memsz = field(p + 40, 8)};
    return (struct elf_phdr){.type = (u32)field(p, 4),
                             .offset = field(p + 4, 4),
                             .vaddr = field(p + 8, 4),
                             .paddr = field(p + 12, 4),
                             .filesz = field(p + 16, 4),
                             .memsz = field(p + 20, 4)};
}

// Check one load segment against the file, the guest's memory and the segments before it.
static int check_segment(const struct elf_image *e, const struct elf_phdr *ph, unsigned i, struct boot_layout *l,
                         struct error *err)
{
    unsigned long long paddr = ph->paddr, memsz = ph->memsz;

    if (ph->offset > e->size || ph->filesz > e->size - ph->offset)
        return error_set(
            err, -ENOEXEC,
            "-kernel %s: segment %u: p_offset 0x%llx + p_filesz 0x%llx is past the end of the file (0x%llx "
            "bytes); the file is truncated",
            e->path, i, (unsigned long long)ph->offset, (unsigned long long)ph->filesz, (unsigned long long)e->size);
    if (ph->filesz > ph->memsz)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: segment %u: p_filesz 0x%llx is larger than p_memsz 0x%llx; relink the image",
                         e->path, i, (unsigned long long)ph->filesz, memsz);
    if (paddr + memsz < paddr)
        return error_set(err, -ENOEXEC,
                         "-kernel %s: segment %u: p_paddr 0x%llx + p_memsz 0x%llx wraps around; relink the image",
                         e->path, i, paddr, memsz);
    if (!mem_ptr(l->mem, ph->paddr, ph->memsz, true))
        return error_set(
            err, -ENOSPC,
            "-kernel %s: segment %u: p_paddr 0x%llx with p_memsz 0x%llx is not RAM of this guest; give more memory "
            "(-m) or link it elsewhere",
            e->path, i, paddr, memsz);
    if (!boot_take(l, ph->paddr, ph->memsz))
        return error_set(
            err, -ENOEXEC,
            "-kernel %s: segment %u: p_paddr 0x%llx with p_memsz 0x%llx overlaps an earlier segment; relink the image",
            e->path, i, paddr, memsz);
    return 0;
}

static bool is_load(const struct elf_phdr *ph)
{
    return ph->type == ELF_PT_LOAD && ph->memsz;
}

int elf_load(const struct elf_image *e, struct boot_layout *l, struct error *err)
{
    unsigned loads = 0;

    for (unsigned i = 0; i < e->phnum; i++) {
        struct elf_phdr ph = elf_phdr_at(e, i);
        int ret;

        if (!is_load(&ph))
            continue;
        if (++loads > ELF_MAX_SEGMENTS)
            return error_set(err, -E2BIG, "-kernel %s: e_phnum %u: more than %d load segments; relink the image",
                             e->path, e->phnum, ELF_MAX_SEGMENTS);
        ret = check_segment(e, &ph, i, l, err);
        if (ret)
            return ret;
    }
    if (!loads)
        return error_set(err, -ENOEXEC, "-kernel %s: e_phnum %u: no load segment; give a linked executable", e->path,
                         e->phnum);
    for (unsigned i = 0; i < e->phnum; i++) {
        struct elf_phdr ph = elf_phdr_at(e, i);

        if (is_load(&ph))
            boot_copy(l->mem, ph.paddr, e->bytes + ph.offset, ph.filesz, ph.memsz);
    }
    return 0;
}

bool elf_contains(const struct elf_image *e, u64 a)
{
    for (unsigned i = 0; i < e->phnum; i++) {
        struct elf_phdr ph = elf_phdr_at(e, i);

        if (is_load(&ph) && a >= ph.paddr && a - ph.paddr < ph.memsz)
            return true;
    }
    return false;
}

bool elf_entry(const struct elf_image *e, u64 *entry)
{
    for (unsigned i = 0; i < e->phnum; i++) {
        struct elf_phdr ph = elf_phdr_at(e, i);

        if (is_load(&ph) && e->entry >= ph.vaddr && e->entry - ph.vaddr < ph.memsz) {
            *entry = e->entry - ph.vaddr + ph.paddr;
            return true;
        }
    }
    // Linked at virtual addresses, entered at a physical one: some kernels do that.
    *entry = e->entry;
    return elf_contains(e, e->entry);
}

// Walk the notes in [p, p+len): namesz, descsz, type, name and descriptor padded to 4 bytes each.
static bool find_note(const u8 *p, u64 len, u32 *entry)
{
    while (len >= 12) {
        u64 namesz = field(p, 4), descsz = field(p + 4, 4), type = field(p + 8, 4);
        u64 name_room = (namesz + 3) & ~3ull, desc_room = (descsz + 3) & ~3ull;

        p += 12;
        len -= 12;
        if (name_room > len || descsz > len - name_room)
            return false;
        if (type == NOTE_PVH && namesz == 4 && !memcmp(p, "Xen", 4) && descsz >= 4) {
            *entry = (u32)field(p + name_room, 4);
            return true;
        }
        if (desc_room > len - name_room)
            return false;
        p += name_room + desc_room;
        len -= name_room + desc_room;
    }
    return false;
}

bool elf_pvh_entry(const struct elf_image *e, u32 *entry)
{
    for (unsigned i = 0; i < e->phnum; i++) {
        struct elf_phdr ph = elf_phdr_at(e, i);

        if (ph.type == ELF_PT_NOTE && ph.offset <= e->size && ph.filesz <= e->size - ph.offset &&
            find_note(e->bytes + ph.offset, ph.filesz, entry))
            return true;
    }
    return false;
}
