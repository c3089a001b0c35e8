// Instructions per second of an engine on the benchmark guest.
//
//   mips ENGINE IMAGE
//
// Runs the guest on a board, in slices, and cuts the console at its "cycles NAME" lines: each line closes one load. Prints, for
// each, millions of guest instructions retired per second of host time, and fails when something was allocated after start (the
// Makefile wraps the allocators of pogo's own objects).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "board/pc.h"
#include "engine/engines.h"
#include "host/features.h"
#include "host/file.h"
#include "host/linux.h"

static bool started;
static unsigned allocations;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

void *__wrap_malloc(size_t size)
{
    allocations += started;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    allocations += started;
    return __real_calloc(n, size);
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    allocations += started;
    return __real_mmap(addr, len, prot, flags, fd, off);
}

struct line {
    char text[128];
    unsigned len;
    bool complete;
};

static void on_char(void *out, u8 byte)
{
    struct line *l = out;
    if (byte == '\n')
        l->complete = true;
    else if (l->len < sizeof l->text - 1)
        l->text[l->len++] = (char)byte;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "mips: %s: %s\n", what, why);
    exit(1);
}

static void run(struct pc *b, struct line *l)
{
    struct vcpu *v = b->m.vcpu[0];
    double start = seconds();
    u64 insns = v->insns;
    for (;;) {
        struct vm_exit e = v->engine->run(v, 20000);
        if (l->complete) {
            char name[32] = "";
            l->text[l->len] = 0;
            if (sscanf(l->text, "cycles %31s", name) == 1)
                printf("mips %s %.1f\n", name, (double)(v->insns - insns) / (seconds() - start) * 1e-6);
            l->len = 0;
            l->complete = false;
            start = seconds();
            insns = v->insns;
        }
        if (e.reason == VM_EXIT_POWEROFF)
            return;
        if (e.reason != VM_EXIT_BUDGET)
            fail("the guest stopped", "unexpected exit");
    }
}

int main(int argc, char **argv)
{
    static struct linux_host host;
    static struct cpu_model model;
    static struct boot_range range[BOOT_MAX_RANGES];
    struct line l = {.len = 0};
    struct file_data image;
    struct error err;
    u64 features[HOST_FEATURE_WORDS];
    char text[256];
    struct pc *b;
    if (argc != 3)
        fail("usage", "mips ENGINE IMAGE");
    linux_host_init(&host, 0, stderr, NULL);
    host_features(features);
    const char *bad = cpu_model_parse("max", features, &model, text, sizeof text);
    if (bad)
        fail("-cpu max", bad);
    model.tsc_hz = host.host.tsc_hz;
    struct pc_options o = {
        .ram = 32u << 20,
        .engine = engine_find(argv[1]),
        .model = &model,
        .serial = {true},
        .serial_peer[0] = {.tx = on_char, .out = &l},
        .debug_exit = true,
        .debug_exit_base = 0xf4,
        .debug_exit_size = 4,
    };
    if (!o.engine)
        fail(argv[1], "no such engine");
    if (file_load(argv[2], "image", 1u << 30, &image, &err) || pc_create(&host.host, &o, &b, &err))
        fail(argv[2], err.text);
    struct boot_params boot = {
        .path = argv[2], .kernel = image.bytes, .kernel_size = image.size, .cmdline = "", .range = range};
    boot.range_count = pc_memory_map(b, range);
    if (boot_load(&b->m.mem, &boot, &b->m.vcpu[0]->cpu, &err))
        fail(argv[2], err.text);
    b->m.vcpu[0]->engine->push_state(b->m.vcpu[0]);
    started = true;
    run(b, &l);
    started = false;
    pc_destroy(b);
    file_free(&image);
    printf("allocations after start: %u\n", allocations);
    return allocations != 0;
}
