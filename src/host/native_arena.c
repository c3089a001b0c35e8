// Code memory: one memfd, mapped once writable and once executable at different addresses, so that no page of the process is
// both. Works where a policy forbids changing a page from writable to executable.
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/native_arena.h"

static int map_twice(int fd, u64 size, u64 near, struct host_code *code)
{
    if (ftruncate(fd, (off_t)size))
        return -errno;
    void *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (w == MAP_FAILED)
        return -errno;
    // Plain memory first, its end replaced by the code.
    u8 *all = mmap(NULL, near + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *x = all;
    if (x != MAP_FAILED)
        x = mmap(all + near, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
    if (x == MAP_FAILED) {
        int err = -errno;
        if (all != MAP_FAILED)
            munmap(all, near + size);
        munmap(w, size);
        return err;
    }
    *code = (struct host_code){.write = w, .exec = x, .size = size, .near = all, .near_size = near};
    return 0;
}

static void unmap(struct host_code *code)
{
    munmap(code->write, code->size);
    munmap(code->near, code->near_size + code->size);
    *code = (struct host_code){0};
}

int native_arena_alloc(void *host, const char *name, u64 size, u64 near, void (*fault)(struct host_fault *f),
                       struct host_code *code)
{
    (void)host;
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = map_twice(fd, (size + 4095) & ~4095ull, (near + 4095) & ~4095ull, code);
    close(fd); // the mappings keep the memory
    if (err)
        return err;
    err = fault ? native_signal_add(code->exec, code->size, fault) : 0;
    if (err)
        unmap(code);
    return err;
}

void native_arena_free(void *host, struct host_code *code)
{
    (void)host;
    if (!code->exec)
        return;
    native_signal_remove(code->exec);
    unmap(code);
}
