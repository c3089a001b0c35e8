// ELF executables of either class, for boot loaders: checked headers, segments to physical addresses, the PVH note.
#ifndef POGO_BOOT_ELF_H
#define POGO_BOOT_ELF_H

#include "boot/boot.h"

#define ELF_MAX_SEGMENTS 128

struct elf_image {
    const char *path;
    const u8 *bytes;
    u64 size;
    bool is64;
    u64 entry;
    u64 phoff;
    u32 phnum, phentsize;
};

// One program header, whatever the class.
struct elf_phdr {
    u32 type;
    u64 offset, vaddr, paddr, filesz, memsz;
};

#define ELF_PT_LOAD 1
#define ELF_PT_NOTE 4

// Check the file header and the bounds of the program header table.
int elf_open(struct elf_image *e, const char *path, const u8 *bytes, u64 size, struct error *err);
struct elf_phdr elf_phdr_at(const struct elf_image *e, unsigned i);
// Check every load segment and copy all of them to their physical addresses; takes their ranges in *l.
int elf_load(const struct elf_image *e, struct boot_layout *l, struct error *err);
// Physical address of the entry point (e_entry is virtual); false when it lies in no load segment.
bool elf_entry(const struct elf_image *e, u64 *entry);
// The XEN_ELFNOTE_PHYS32_ENTRY note; false when there is none.
bool elf_pvh_entry(const struct elf_image *e, u32 *entry);
// Whether [a, a+1) lies in a load segment's physical range.
bool elf_contains(const struct elf_image *e, u64 a);

#endif
