// A disk that goes bad, for the program that this is loaded into by LD_PRELOAD. EIO_FILE names an image: reads and writes that touch
// its bytes from EIO_FROM up to EIO_TO end with EIO, and so do flushes while the file EIO_FLUSH exists.
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t off);
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t off);

static bool is_the_image(int fd)
{
    char link[32], path[PATH_MAX];
    const char *image = getenv("EIO_FILE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return image && n > 0 && (size_t)n == strlen(image) && !memcmp(path, image, (size_t)n);
}

static off_t number(const char *name)
{
    const char *text = getenv(name);
    return text ? atoll(text) : 0;
}

static bool is_bad(int fd, const struct iovec *iov, int count, off_t off)
{
    size_t len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    return is_the_image(fd) && off < number("EIO_TO") && off + (off_t)len > number("EIO_FROM");
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t off)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "preadv");
    if (!is_bad(fd, iov, count, off))
        return real(fd, iov, count, off);
    errno = EIO;
    return -1;
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t off)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "pwritev");
    if (!is_bad(fd, iov, count, off))
        return real(fd, iov, count, off);
    errno = EIO;
    return -1;
}

int fdatasync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    const char *trigger = getenv("EIO_FLUSH");
    if (!trigger || !is_the_image(fd) || access(trigger, F_OK))
        return real(fd);
    errno = EIO;
    return -1;
}
