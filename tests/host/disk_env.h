// A disk image in a temporary file, and requests to it one at a time. Included by one file per program.
#ifndef POGO_TESTS_DISK_ENV_H
#define POGO_TESTS_DISK_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/blockio.h"
#include "host/linux.h"

#define SIZE (1u << 20)

struct disk {
    char path[256];
    struct linux_host host;
    struct lock lock;
    struct blk_backend *b;
    struct error err;
    _Atomic unsigned done;
};

static void make_image(struct disk *d, u64 size)
{
    const char *dir = getenv("TMPDIR");
    u8 *bytes = calloc(1, size ? size : 1);
    int fd;

    memset(d, 0, sizeof(*d));
    snprintf(d->path, sizeof(d->path), "%s/pogo-disk-XXXXXX", dir && *dir ? dir : "/tmp");
    fd = mkstemp(d->path);
    assert_true(fd >= 0);
    for (u64 i = 0; i < size; i++)
        bytes[i] = (u8)(i * 13 + i / 509);
    assert_int_equal(write(fd, bytes, size), size);
    free(bytes);
    close(fd);
    linux_host_init(&d->host, 0, stderr, NULL);
    lock_init(&d->lock, &d->host.host);
}

static int open_disk(struct disk *d, struct blockio_options o)
{
    int ret;

    o.path = d->path;
    ret = blockio_open(&o, &d->b, &d->err);
    if (!ret)
        assert_int_equal(d->b->ops->start(d->b, &d->lock), 0);
    return ret;
}

static void remove_disk(struct disk *d)
{
    if (d->b)
        blockio_close(d->b);
    unlink(d->path);
}

static void on_done(struct blk_request *r, bool more)
{
    struct disk *d = r->owner;

    (void)more;
    assert_int_equal(atomic_load(&d->lock.word) != 0, 1); // held
    atomic_fetch_add(&d->done, 1);
}

static void submit(struct disk *d, struct blk_request *r)
{
    r->done = on_done;
    r->owner = d;
    lock_take(&d->lock);
    d->b->ops->submit(d->b, r);
    lock_drop(&d->lock);
}

static int wait_for(struct disk *d, struct blk_request *r)
{
    for (unsigned i = 0; i < 20000 && !atomic_load(&d->done); i++)
        usleep(500);
    assert_int_equal(atomic_exchange(&d->done, 0), 1);
    return r->result;
}

static int run(struct disk *d, struct blk_request r)
{
    submit(d, &r);
    return wait_for(d, &r);
}

static int transfer(struct disk *d, enum blk_op op, u64 off, void *buf, u64 len)
{
    struct blk_seg seg[3] = {{buf, len / 3}, {(u8 *)buf + len / 3, 1}, {(u8 *)buf + len / 3 + 1, len - len / 3 - 1}};

    return run(d, (struct blk_request){.op = op, .off = off, .len = len, .seg = seg, .seg_count = 3});
}

#endif
