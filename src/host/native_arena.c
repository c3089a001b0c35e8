// Code memory: one memfd, mapped once writable and once executable at different addresses, so that no page of the process is
// both. Works where a policy forbids changing a page from writable to executable.
//
// perf looks up names only for code in anonymous memory, so for it there is another way: shared anonymous memory, mapped a second time by
// mremap(2) with an old size of 0.
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/native_arena.h"

static void *map_again(void *w, void *at, u64 size)
{
    void *x = mremap(w, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, at);
    return x == MAP_FAILED || mprotect(x, size, PROT_READ | PROT_EXEC) ? MAP_FAILED : x;
}

// fd -1: anonymous memory.
static int map_twice(int fd, u64 size, u64 near, struct host_code *code)
{
    if (fd >= 0 && ftruncate(fd, (off_t)size))
        return -errno;
    void *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (w == MAP_FAILED)
        return -errno;
    // Plain memory first, its end replaced by the code.
    u8 *all = mmap(NULL, near + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *x = all;
    if (x != MAP_FAILED && fd < 0)
        x = map_again(w, all + near, size);
    else if (x != MAP_FAILED)
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

static int create(int fd, u64 size, u64 near, void (*fault)(struct host_fault *f), struct host_code *code)
{
    int err = map_twice(fd, (size + 4095) & ~4095ull, (near + 4095) & ~4095ull, code);
    if (err)
        return err;
    err = fault ? native_signal_add(code->exec, code->size, fault) : 0;
    if (err)
        unmap(code);
    return err;
}

int native_arena_alloc(void *host, const char *name, u64 size, u64 near, void (*fault)(struct host_fault *f),
                       struct host_code *code)
{
    (void)host;
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = create(fd, size, near, fault, code);
    close(fd); // the mappings keep the memory
    // A limit on the size of files is not meant for memory.
    return err == -EFBIG ? create(-1, size, near, fault, code) : err;
}

int native_arena_alloc_anonymous(u64 size, u64 near, void (*fault)(struct host_fault *f), struct host_code *code)
{
    return create(-1, size, near, fault, code);
}

void native_arena_free(void *host, struct host_code *code)
{
    (void)host;
    if (!code->exec)
        return;
    native_signal_remove(code->exec);
    unmap(code);
}
