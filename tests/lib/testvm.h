// A machine for tests and benchmarks: RAM from 0, one vCPU, any engine; no devices, no board. The host behind it is this
// process: aligned memory, real time, log lines on stderr.
#ifndef TESTVM_H
#define TESTVM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <x86intrin.h>

#include "core/machine.h"
#include "core/mmu.h"
#include "engine/engines.h"
#include "host/native_arena.h"

struct testvm {
    struct host host;
    struct machine *machine;
    struct vcpu *v;
    u8 *ram;
    _Atomic u8 *flags;
    u64 ram_size;
};

static void *testvm_alloc(void *host, const char *name, u64 size)
{
    (void)host;
    (void)name;
    u64 rounded = (size + 4095) & ~4095ull;
    void *p = aligned_alloc(4096, rounded);
    if (p)
        memset(p, 0, rounded);
    return p;
}

// What engines ask for, which may be much and not all used: pages that cost nothing before they are touched.
static void *testvm_pages(void *host, const char *name, u64 size)
{
    (void)host;
    (void)name;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void testvm_release(void *host, void *p, u64 size)
{
    (void)host;
    munmap(p, size);
}

static u64 testvm_now(void *host)
{
    (void)host;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

static u64 testvm_tsc(void *host)
{
    (void)host;
    return __rdtsc();
}

static i64 testvm_wall(void *host)
{
    (void)host;
    return (i64)time(NULL) * 1000000000;
}

static void testvm_wait(void *host, u32 id, u64 deadline)
{
    (void)host;
    (void)id;
    (void)deadline;
}

static void testvm_wake(void *host, u32 id)
{
    (void)host;
    (void)id;
}

static void testvm_log(void *host, enum host_log category, const char *text)
{
    (void)host;
    (void)category;
    fprintf(stderr, "%s\n", text);
}

static const struct host_ops testvm_host_ops = {
    .mem_alloc = testvm_pages,
    .mem_free = testvm_release,
    .code_alloc = native_arena_alloc,
    .code_free = native_arena_free,
    .now_ns = testvm_now,
    .tsc = testvm_tsc,
    .wall_ns = testvm_wall,
    .wait = testvm_wait,
    .wake = testvm_wake,
    .log = testvm_log,
};

// What the board does: code that was written to is the engine's business.
static void testvm_code_write(void *owner, gpa base, u64 len)
{
    struct testvm *t = owner;
    t->v->engine->invalidate(t->v, base, len);
}

static void testvm_die(const char *what)
{
    fprintf(stderr, "test machine: %s\n", what);
    exit(2);
}

// The engine that tests of instructions, as opposed to tests of an engine's own parts, are about: TEST_ENGINE in the environment, or the
// interpreter.
static inline const char *testvm_engine(void)
{
    const char *name = getenv("TEST_ENGINE");
    return name ? name : "interp";
}

static struct engine_tuning
    testvm_tuning; // what the engines of machines created from now on are asked to do differently

// Put code where a guest's processor may have run other code: engines hear of it.
static inline void testvm_put_code(struct testvm *t, gpa a, const void *code, size_t len)
{
    if (!mem_write(&t->machine->mem, a, code, len))
        testvm_die("no memory for code");
}

// Build it with `ram_size` bytes of RAM; the vCPU is in its reset state. `model` may be NULL: every feature.
static struct testvm *testvm_create(const char *engine, u64 ram_size, const struct cpu_model *model)
{
    struct testvm *t = calloc(1, sizeof *t);
    if (!t)
        testvm_die("out of memory");
    t->host = (struct host){.ops = &testvm_host_ops, .self = t, .log_mask = 0, .tsc_hz = 1000000000};
    t->machine = testvm_alloc(NULL, "machine", sizeof *t->machine);
    t->v = testvm_alloc(NULL, "vcpu", sizeof *t->v);
    t->ram = testvm_alloc(NULL, "ram", ram_size);
    t->flags = testvm_alloc(NULL, "flags", ram_size >> MEM_PAGE_SHIFT);
    if (!t->machine || !t->v || !t->ram || !t->flags)
        testvm_die("out of memory");
    t->ram_size = ram_size;
    struct machine *m = t->machine;
    machine_init(m, &t->host);
    m->mem.phys_mask = (1ull << 48) - 1;
    m->mem.code_write = testvm_code_write;
    m->mem.owner = t;
    if (mem_add_ram(&m->mem, 0, ram_size, t->ram, t->flags, "ram"))
        testvm_die("cannot add RAM");
    machine_add_vcpu(m, t->v);
    t->v->model = model;
    cpu_reset(&t->v->cpu, true);
    tlb_init(&t->v->tlb);
    m->tuning = testvm_tuning;
    t->v->engine = engine_find(engine);
    if (!t->v->engine)
        testvm_die("no such engine");
    if (t->v->engine->vcpu_create(t->v))
        testvm_die("engine: vcpu_create failed");
    return t;
}

static inline void testvm_destroy(struct testvm *t)
{
    t->v->engine->vcpu_destroy(t->v);
    free((void *)t->flags);
    free(t->ram);
    free(t->v);
    free(t->machine);
    free(t);
}

// Run after changing t->v->cpu from outside.
static inline struct vm_exit testvm_run(struct testvm *t, u64 budget)
{
    t->v->engine->push_state(t->v);
    struct vm_exit e = t->v->engine->run(t->v, budget);
    t->v->engine->pull_state(t->v);
    return e;
}

#endif
