// A host for tests: time stands still until the test moves it, and log lines are kept. Plus a small machine on top of
// it. Included by one file per program.
#ifndef POGO_TESTS_FAKE_HOST_H
#define POGO_TESTS_FAKE_HOST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/machine.h"
#include "core/mmu.h"
#include "host/native_arena.h"

struct fake_host {
    struct host host;
    u64 now_ns, tsc;
    i64 wall_ns;
    u64 waited_until; // deadline of the last wait
    unsigned waits, wakes, logs;
    enum host_log last_category;
    char last_log[1024];
};

static void *fake_mem_alloc(void *self, const char *name, u64 size)
{
    (void)self, (void)name;
    void *p = aligned_alloc(4096, (size + 4095) & ~4095ull);
    if (p)
        memset(p, 0, size);
    return p;
}

static void fake_mem_free(void *self, void *p, u64 size)
{
    (void)self, (void)size;
    free(p);
}

static u64 fake_now_ns(void *self)
{
    return ((struct fake_host *)self)->now_ns;
}

static u64 fake_tsc(void *self)
{
    return ((struct fake_host *)self)->tsc;
}

static i64 fake_wall_ns(void *self)
{
    return ((struct fake_host *)self)->wall_ns;
}

// Nothing else runs in a test, so waiting moves time to the deadline.
static void fake_wait(void *self, u32 vcpu_id, u64 deadline_ns)
{
    struct fake_host *f = self;
    (void)vcpu_id;
    f->waits++;
    f->waited_until = deadline_ns;
    if (deadline_ns != ~0ull && deadline_ns > f->now_ns)
        f->now_ns = deadline_ns;
}

static void fake_wake(void *self, u32 vcpu_id)
{
    (void)vcpu_id;
    ((struct fake_host *)self)->wakes++;
}

static void fake_log(void *self, enum host_log category, const char *text)
{
    struct fake_host *f = self;
    f->logs++;
    f->last_category = category;
    snprintf(f->last_log, sizeof(f->last_log), "%s", text);
}

static const struct host_ops fake_host_ops = {
    .mem_alloc = fake_mem_alloc,
    .mem_free = fake_mem_free,
    .code_alloc = native_arena_alloc,
    .code_free = native_arena_free,
    .now_ns = fake_now_ns,
    .tsc = fake_tsc,
    .wall_ns = fake_wall_ns,
    .wait = fake_wait,
    .wake = fake_wake,
    .log = fake_log,
};

static inline void fake_host_init(struct fake_host *f)
{
    memset(f, 0, sizeof(*f));
    f->host = (struct host){.ops = &fake_host_ops, .self = f, .tsc_hz = 1000000000};
}

// A machine with one vCPU and RAM at 0. Other regions are for the test to add.
struct fake_machine {
    struct fake_host host;
    struct machine machine;
    struct vcpu vcpu;
    u8 *ram;
    u64 ram_size;
    _Atomic u8 *flags;
};

static inline struct fake_machine *fake_machine_new(u64 ram_size)
{
    struct fake_machine *f = aligned_alloc(64, (sizeof(*f) + 63) & ~63ull);
    if (!f)
        abort();
    memset(f, 0, sizeof(*f));
    fake_host_init(&f->host);
    machine_init(&f->machine, &f->host.host);
    f->ram_size = ram_size;
    f->ram = fake_mem_alloc(NULL, "ram", ram_size);
    f->flags = calloc(ram_size / 4096 + 1, 1);
    if (!f->ram || !f->flags || mem_add_ram(&f->machine.mem, 0, ram_size, f->ram, f->flags, "ram"))
        abort();
    vcpu_init(&f->vcpu, &f->machine, 0, NULL);
    if (machine_add_vcpu(&f->machine, &f->vcpu))
        abort();
    return f;
}

static inline void fake_machine_free(struct fake_machine *f)
{
    free(f->ram);
    free((void *)f->flags);
    free(f);
}

// Switch paging on for data accesses at CPL 0. `cr4` with PAE and `efer` with LME: 4-level paging.
static inline void fake_paging_on(struct fake_machine *f, u64 cr3, u64 cr4, u64 efer)
{
    struct cpu *c = &f->vcpu.cpu;
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
    c->cr3 = cr3;
    c->cr4 = cr4;
    c->msr.efer = efer & X86_EFER_LME ? efer | X86_EFER_LMA : efer;
    mmu_state_changed(&f->vcpu);
}

#endif
