// Code memory: one memfd, mapped once writable and once executable at different addresses, so that no page of the process is
// both. Works where a policy forbids changing a page from writable to executable.
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/native_arena.h"

static int map_twice(int fd, u64 size, struct host_code *code)
{
    if (ftruncate(fd, (off_t)size))
        return -errno;
    void *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (w == MAP_FAILED)
        return -errno;
    void *x = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (x == MAP_FAILED) {
        int err = -errno;
        munmap(w, size);
        return err;
    }
    *code = (struct host_code){.write = w, .exec = x, .size = size};
    return 0;
}

int native_arena_alloc(void *host, const char *name, u64 size, void (*fault)(struct host_fault *f),
                       struct host_code *code)
{
    (void)host;
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = map_twice(fd, (size + 4095) & ~4095ull, code);
    close(fd); // the mappings keep the memory
    if (err)
        return err;
    err = fault ? native_signal_add(code->exec, code->size, fault) : 0;
    if (err) {
        munmap(code->write, code->size);
        munmap((void *)(uintptr_t)code->exec, code->size);
        *code = (struct host_code){0};
    }
    return err;
}

void native_arena_free(void *host, struct host_code *code)
{
    (void)host;
    if (!code->exec)
        return;
    native_signal_remove(code->exec);
    munmap(code->write, code->size);
    munmap((void *)(uintptr_t)code->exec, code->size);
    *code = (struct host_code){0};
}
