// Loading whole files. They are read rather than mapped: a mapped file that somebody truncates kills the process.

#include "host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// Room for `need` bytes in all: doubled, so that pipes of unknown length cost linear time.
static int grow(struct file_data *f, u64 *capacity, u64 need)
{
    u64 size = *capacity ? *capacity : 65536;
    u8 *p;

    while (size < need)
        size *= 2;
    if (size == *capacity)
        return 0;
    p = realloc(f->bytes, size);
    if (!p)
        return -ENOMEM;
    f->bytes = p;
    *capacity = size;
    return 0;
}

// All pages at once cost a fraction of a page fault each. A kernel that cannot do it leaves it to the faults.
static void populate(const u8 *p, u64 size)
{
    uintptr_t from = ((uintptr_t)p + 4095) & ~(uintptr_t)4095, to = ((uintptr_t)p + size) & ~(uintptr_t)4095;

#ifdef MADV_POPULATE_WRITE
    if (to > from)
        madvise((void *)from, to - from, MADV_POPULATE_WRITE);
#else
    (void)from, (void)to;
#endif
}

// Read to the end; stops one byte beyond `max` so that the caller sees that there was more.
static int read_all(int fd, u64 max, struct file_data *f)
{
    u64 capacity = 0;
    struct stat st;

    if (fstat(fd, &st))
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (S_ISCHR(st.st_mode)) // no image comes from one, and /dev/zero has no end
        return -ENODEV;
    if (S_ISREG(st.st_mode)) {
        if ((u64)st.st_size > max) {
            f->size = max + 1; // no need to read what will be refused
            return 0;
        }
        if (grow(f, &capacity, (u64)st.st_size + 1))
            return -ENOMEM;
        populate(f->bytes, (u64)st.st_size + 1);
    }
    while (f->size <= max) {
        if (grow(f, &capacity, f->size + 1))
            return -ENOMEM;
        u64 room = capacity - f->size;
        ssize_t n = read(fd, f->bytes + f->size, room > 1u << 30 ? 1u << 30 : room);
        if (n == 0)
            return 0;
        if (n > 0)
            f->size += (u64)n;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int load_fd(int fd, const char *path, const char *option, u64 max, struct file_data *out, struct error *err)
{
    int ret = read_all(fd, max, out);

    if (ret)
        ret = error_set(err, ret, "%s %s: cannot read: %s; give a readable file", option, path, strerror(-ret));
    else if (out->size > max)
        ret = error_set(err, -EFBIG, "%s %s: larger than %llu bytes, the most that it can have; use a smaller file",
                        option, path, (unsigned long long)max);
    if (ret)
        file_free(out);
    return ret;
}

static int open_path(const char *path, const char *option, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd >= 0 ? fd
                   : error_set(err, -errno, "%s %s: cannot open: %s; check the path and its permissions", option, path,
                               strerror(errno));
}

int file_load(const char *path, const char *option, u64 max, struct file_data *out, struct error *err)
{
    int fd = open_path(path, option, err), ret;

    *out = (struct file_data){0};
    if (fd < 0)
        return fd;
    ret = load_fd(fd, path, option, max, out, err);
    close(fd);
    return ret;
}

void file_free(struct file_data *f)
{
    free(f->bytes);
    *f = (struct file_data){0};
}

// --- files that are read again ----------------------------------------------------------------------------------------------

int file_open(const char *path, const char *option, u64 max, struct file_again *f, struct error *err)
{
    struct stat st;
    int fd = open_path(path, option, err), ret;

    *f = (struct file_again){.fd = -1};
    if (fd < 0)
        return fd;
    f->open = true;
    ret = fstat(fd, &st) ? -errno : 0;
    ret = ret ? error_set(err, ret, "%s %s: cannot read: %s", option, path, strerror(-ret))
              : load_fd(fd, path, option, max, &f->data, err);
    if (ret || !S_ISREG(st.st_mode)) {
        close(fd);
        return ret;
    }
    f->fd = fd;
    f->mtime = st.st_mtim;
    f->size = (u64)st.st_size;
    return 0;
}

void file_drop(struct file_again *f)
{
    if (f->fd >= 0)
        file_free(&f->data);
}

int file_read(const char *path, const char *option, u64 max, struct file_again *f, struct error *err)
{
    struct stat st;

    f->changed = false;
    if (f->data.bytes || f->fd < 0)
        return 0;
    if (lseek(f->fd, 0, SEEK_SET) < 0 || fstat(f->fd, &st))
        return error_set(err, -errno, "%s %s: cannot read it again: %s", option, path, strerror(errno));
    f->changed =
        st.st_mtim.tv_sec != f->mtime.tv_sec || st.st_mtim.tv_nsec != f->mtime.tv_nsec || (u64)st.st_size != f->size;
    f->mtime = st.st_mtim;
    f->size = (u64)st.st_size;
    return load_fd(f->fd, path, option, max, &f->data, err);
}

void file_close(struct file_again *f)
{
    file_free(&f->data);
    if (f->open && f->fd >= 0)
        close(f->fd);
    f->fd = -1;
    f->open = false;
}
