// What the loader fuzzers share: one guest memory for all inputs, and the checks after each.
#ifndef TESTS_FUZZ_BOOT_H
#define TESTS_FUZZ_BOOT_H

#include "boot/guest_mem.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

typedef int loader(struct mem *mem, const struct boot_params *p, struct cpu *cpu, struct error *err);

// Load; a refusal must say why in one line, a success must leave a processor that can run.
static inline void fuzz_loader(loader *load, const u8 *data, size_t size)
{
    static struct guest_mem *g;
    static const struct boot_module module = {"initrd", (const u8 *)"xyz", 3};
    struct cpu cpu;
    struct error err = {.text = ""};

    if (!g)
        g = guest_mem_new();
    g->params.kernel = data;
    g->params.kernel_size = size;
    g->params.cmdline = "console=ttyS0";
    g->params.module = &module;
    g->params.module_count = size & 1;
    cpu_reset(&cpu, true);
    if (load(&g->mem, &g->params, &cpu, &err)) {
        if (!err.text[0] || strchr(err.text, '\n'))
            abort();
    } else if (cpu_check(&cpu) || !mem_ptr(&g->mem, cpu.rip, 1, false)) {
        abort();
    }
}

#endif
