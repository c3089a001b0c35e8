// Putting a kernel into a new machine: Linux bzImages, multiboot 1 and PVH images. Loaders write guest memory and one processor's state; they
// allocate nothing, and judge every field of the image before the first byte is written.
#ifndef POGO_BOOT_BOOT_H
#define POGO_BOOT_BOOT_H

#include "core/cpu.h"
#include "core/mem.h"
#include "pogo/error.h"

// Ranges of guest-physical memory as firmware would report them (E820).
enum boot_range_type { BOOT_RANGE_RAM = 1, BOOT_RANGE_RESERVED = 2, BOOT_RANGE_ACPI = 3 };

struct boot_range {
    gpa base;
    u64 size;
    u32 type; // enum boot_range_type
};

#define BOOT_MAX_RANGES 16
#define BOOT_MAX_MODULES 32
#define BOOT_MAX_CMDLINE 65536 // bytes, with the terminating zero

struct boot_module {
    const char *cmdline; // as the user gave it: file name and arguments
    const u8 *bytes;
    u64 size;
};

struct boot_params {
    const char *path; // of the kernel, for messages
    const u8 *kernel;
    u64 kernel_size;
    const char *cmdline; // "" when there is none
    const struct boot_module *module;
    unsigned module_count;
    const struct boot_range *range; // sorted, disjoint
    unsigned range_count;
    gpa rsdp;       // the ACPI root pointer, which is in guest memory already; 0: none
    bool long_mode; // the processor model has it
};

enum boot_kind { BOOT_LINUX, BOOT_MULTIBOOT, BOOT_PVH, BOOT_UNKNOWN };

// What the bytes of a kernel are.
enum boot_kind boot_detect(const u8 *kernel, u64 size);
// Load p->kernel, its modules and its command line into `mem`, and set *cpu (fresh from reset) to the protocol's entry state.
// Returns 0 or a negative errno with *err set; guest memory may then hold a part.
int boot_load(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err);

int boot_linux(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err);
int boot_multiboot(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err);
int boot_pvh(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err);

// --- shared by the loaders (boot.c) --------------------------------------------------------------------------------------

#define BOOT_MAX_USED (BOOT_MAX_MODULES + 136)

// Where things go: first fit in RAM below 4 GiB, around what is taken already.
struct boot_layout {
    struct mem *mem;
    const struct boot_params *p;
    unsigned count;
    struct {
        gpa base;
        u64 size;
    } used[BOOT_MAX_USED];
};

void boot_layout_init(struct boot_layout *l, struct mem *mem, const struct boot_params *p);
// Take [base, base+size): false when it meets something taken before, or the table is full.
bool boot_take(struct boot_layout *l, gpa base, u64 size);
// Room for `size` bytes at or above `min`, aligned to a power of two; taken. 0 when there is none.
gpa boot_place(struct boot_layout *l, u64 size, u64 align, gpa min);
// The same in any RAM range, as high as possible, wholly in [min, max).
gpa boot_place_high(struct boot_layout *l, u64 size, u64 align, gpa min, gpa max);
// First byte above everything taken.
gpa boot_top(const struct boot_layout *l);
// Room for the modules above the kernel: fills addr[p->module_count] and copies their bytes.
int boot_place_modules(struct boot_layout *l, gpa *addr, struct error *err);
// Put `filesz` bytes and then zeros up to `memsz` at `a`, which is RAM (a machine that was reset has old bytes there).
void boot_copy(struct mem *mem, gpa a, const u8 *bytes, u64 filesz, u64 memsz);
// 32-bit protected mode with flat segments and a GDT at `gdt` (BOOT_GDT_SIZE bytes are written there), paging and interrupts off.
// All protocols begin like this.
#define BOOT_GDT_SIZE 32
void boot_enter_flat32(struct mem *mem, struct cpu *cpu, gpa gdt, u32 entry);

#endif
