// Disk images on a host whose storage fails or is slow: the system calls that reach it are replaced (by the linker) with ones that
// do what a test asks for. What the guest has been told is written must be there, and what is not must be told.
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <time.h>

#include "host/disk_env.h"

ssize_t __real_preadv(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __real_pwritev(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t off);
int __real_fdatasync(int fd);
int __real_fallocate(int fd, int mode, off_t off, off_t len);
ssize_t __wrap_preadv(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off);
int __wrap_fdatasync(int fd);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len);

// The storage: one bad block, how calls fail, and a block that no call gets past until the test lets it.
#define NOWHERE (-1l)
static struct {
    _Atomic long bad_block, slow_block; // offsets, or NOWHERE
    _Atomic int read_error, write_error, sync_error, allocate_error;
    _Atomic bool in_pieces; // few bytes a call, and every other call is interrupted
    _Atomic unsigned calls, stuck;
} storage;

static void storage_sound(void)
{
    atomic_store(&storage.bad_block, NOWHERE);
    atomic_store(&storage.slow_block, NOWHERE);
    atomic_store(&storage.read_error, 0);
    atomic_store(&storage.write_error, 0);
    atomic_store(&storage.sync_error, 0);
    atomic_store(&storage.allocate_error, 0);
    atomic_store(&storage.in_pieces, false);
}

static bool covers(off_t off, size_t len, long block)
{
    return block != NOWHERE && off <= block && block < off + (off_t)len;
}

static void linger(off_t off, size_t len)
{
    if (!covers(off, len, atomic_load(&storage.slow_block)))
        return;
    atomic_fetch_add(&storage.stuck, 1);
    while (covers(off, len, atomic_load(&storage.slow_block)))
        usleep(1000);
    atomic_fetch_sub(&storage.stuck, 1);
}

// How much of a transfer goes through: up to the bad block, as of a real one. 0: errno is set.
static size_t admitted(off_t off, size_t len, int error)
{
    long bad = atomic_load(&storage.bad_block);

    linger(off, len);
    if (atomic_load(&storage.in_pieces)) {
        if (atomic_fetch_add(&storage.calls, 1) & 1) {
            errno = EINTR;
            return 0;
        }
        len = len < 700 ? len : 700;
    }
    if (!error || !covers(off, len, bad))
        return len;
    errno = error;
    return (size_t)(bad - off);
}

static size_t total(const struct iovec *iov, int n)
{
    size_t len = 0;

    for (int i = 0; i < n; i++)
        len += iov[i].iov_len;
    return len;
}

static int cut(const struct iovec *iov, int n, size_t len, struct iovec *out)
{
    int count = 0;

    for (; count < n && len; count++) {
        out[count] = iov[count];
        if (out[count].iov_len > len)
            out[count].iov_len = len;
        len -= out[count].iov_len;
    }
    return count;
}

ssize_t __wrap_preadv(int fd, const struct iovec *iov, int n, off_t off)
{
    struct iovec part[64];
    size_t len = admitted(off, total(iov, n), atomic_load(&storage.read_error));

    return len ? __real_preadv(fd, part, cut(iov, n, len, part), off) : -1;
}

ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
    struct iovec part[64];
    size_t len = admitted(off, total(iov, n), atomic_load(&storage.write_error));

    return len ? __real_pwritev(fd, part, cut(iov, n, len, part), off) : -1;
}

ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off)
{
    len = admitted(off, len, atomic_load(&storage.write_error));
    return len ? __real_pwrite(fd, buf, len, off) : -1;
}

int __wrap_fdatasync(int fd)
{
    int error = atomic_load(&storage.sync_error);

    if (!error)
        return __real_fdatasync(fd);
    errno = error;
    return -1;
}

int __wrap_fallocate(int fd, int mode, off_t off, off_t len)
{
    int error = atomic_load(&storage.allocate_error);

    if (!error)
        return __real_fallocate(fd, mode, off, len);
    errno = error;
    return -1;
}

// --- the tests ------------------------------------------------------------------------------------------------------------

static struct disk d;
static u8 *buf, *back;

static void open_image(struct blockio_options o)
{
    storage_sound();
    make_image(&d, SIZE);
    assert_int_equal(open_disk(&d, o), 0);
    buf = malloc(SIZE);
    back = malloc(SIZE);
    for (unsigned i = 0; i < SIZE; i++)
        buf[i] = (u8)(i * 31 + i / 1021);
}

static void close_image(void)
{
    storage_sound();
    remove_disk(&d);
    free(buf);
    free(back);
}

static int flush(void)
{
    return run(&d, (struct blk_request){.op = BLK_FLUSH});
}

static void bad_block_read(void **state)
{
    struct blockio_stats s;

    (void)state;
    open_image((struct blockio_options){0});
    atomic_store(&storage.read_error, EIO);
    atomic_store(&storage.bad_block, 8192);
    assert_int_equal(transfer(&d, BLK_READ, 8192, back, 512), -EIO);
    assert_int_equal(transfer(&d, BLK_READ, 0, back, 65536), -EIO);
    assert_int_equal(transfer(&d, BLK_READ, 0, back, 8192), 0);
    assert_int_equal(transfer(&d, BLK_READ, 8704, back, 8192), 0);
    assert_int_equal(back[0], (u8)(8704 * 13 + 8704 / 509));
    storage_sound();
    assert_int_equal(transfer(&d, BLK_READ, 0, back, 65536), 0);
    lock_take(&d.lock);
    blockio_stats(d.b, &s);
    lock_drop(&d.lock);
    assert_int_equal(s.errors, 2);
    assert_int_equal(s.requests[BLK_READ], 3);
    close_image();
}

// The guest hears of every write that failed; what it was told is done is there, whatever failed around it.
static void bad_block_write(void **state)
{
    static const int errors[] = {EIO, ENOSPC, EDQUOT, EROFS};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(errors); i++) {
        open_image((struct blockio_options){0});
        atomic_store(&storage.write_error, errors[i]);
        atomic_store(&storage.bad_block, 100 * 4096);
        for (unsigned n = 0; n < SIZE / 4096; n++) {
            int want = n == 100 ? -errors[i] : 0;
            assert_int_equal(transfer(&d, BLK_WRITE, n * 4096, buf + n * 4096, 4096), want);
        }
        assert_int_equal(transfer(&d, BLK_WRITE, 98 * 4096, buf + 98 * 4096, 5 * 4096), -errors[i]);
        assert_int_equal(flush(), 0); // of what was acknowledged
        assert_int_equal(transfer(&d, BLK_READ, 0, back, SIZE), 0);
        assert_memory_equal(back, buf, 100 * 4096);
        assert_memory_equal(back + 101 * 4096, buf + 101 * 4096, SIZE - 101 * 4096);
        storage_sound(); // room was made, and the guest tries again
        assert_int_equal(transfer(&d, BLK_WRITE, 100 * 4096, buf + 100 * 4096, 4096), 0);
        assert_int_equal(transfer(&d, BLK_READ, 0, back, SIZE), 0);
        assert_memory_equal(back, buf, SIZE);
        close_image();
    }
}

static void in_pieces(void **state)
{
    (void)state;
    open_image((struct blockio_options){0});
    atomic_store(&storage.in_pieces, true);
    assert_int_equal(transfer(&d, BLK_WRITE, 512, buf, 40960), 0);
    assert_int_equal(transfer(&d, BLK_READ, 512, back, 40960), 0);
    assert_memory_equal(back, buf, 40960);
    atomic_store(&storage.allocate_error, EOPNOTSUPP);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_ZERO, .off = 1024, .len = 20480}), 0);
    assert_int_equal(transfer(&d, BLK_READ, 512, back, 40960), 0);
    memset(buf + 512, 0, 20480);
    assert_memory_equal(back, buf, 40960);
    close_image();
}

// What could not be written is gone from the host's cache: no later flush may say that all is well.
static void lost_in_cache(void **state)
{
    static const int errors[] = {EIO, ENOSPC};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(errors); i++) {
        open_image((struct blockio_options){0});
        assert_int_equal(transfer(&d, BLK_WRITE, 0, buf, 4096), 0);
        atomic_store(&storage.sync_error, errors[i]);
        assert_int_equal(flush(), -errors[i]);
        storage_sound();
        assert_int_equal(flush(), -errors[i]);
        assert_int_equal(
            run(&d,
                (struct blk_request){
                    .op = BLK_WRITE, .durable = true, .len = 512, .seg = &(struct blk_seg){buf, 512}, .seg_count = 1}),
            -errors[i]);
        assert_int_equal(transfer(&d, BLK_READ, 0, back, 4096), 0);
        close_image();
    }
}

static void zero_and_discard(void **state)
{
    (void)state;
    open_image((struct blockio_options){.unmap = true});
    atomic_store(&storage.allocate_error, EIO);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_ZERO, .len = 4096}), -EIO);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_DISCARD, .len = 4096}), -EIO);
    atomic_store(&storage.allocate_error, EOPNOTSUPP);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_DISCARD, .len = 4096}), 0); // a hint
    atomic_store(&storage.write_error, ENOSPC);
    atomic_store(&storage.bad_block, 2048);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_ZERO, .len = 4096}), -ENOSPC);
    atomic_store(&storage.bad_block, 0);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_ZERO, .len = 4096}), -ENOSPC);
    close_image();
}

// A write to the snapshot that fails leaves what was there before.
static void snapshot_full(void **state)
{
    u8 before[4096];

    (void)state;
    open_image((struct blockio_options){.snapshot = true});
    assert_int_equal(transfer(&d, BLK_READ, 4096, before, 4096), 0);
    atomic_store(&storage.write_error, ENOSPC);
    atomic_store(&storage.bad_block, 4096 + 2048);
    assert_int_equal(transfer(&d, BLK_WRITE, 4096, buf, 4096), -ENOSPC);
    assert_int_equal(transfer(&d, BLK_READ, 4096, back, 4096), 0);
    assert_memory_equal(back, before, 4096);
    assert_int_equal(transfer(&d, BLK_WRITE, 4096, buf, 2048), 0);
    assert_int_equal(transfer(&d, BLK_READ, 4096, back, 4096), 0);
    assert_memory_equal(back, buf, 2048);
    assert_memory_equal(back + 2048, before + 2048, 2048);
    close_image();
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Who submits to a disk that does not answer goes on at once, with the device lock free; what does not need that block is answered.
static void slow(void **state)
{
    struct blk_seg seg[3];
    struct blk_request r[3];
    double start;

    (void)state;
    open_image((struct blockio_options){0});
    atomic_store(&storage.slow_block, 0);
    start = seconds();
    for (unsigned i = 0; i < 3; i++) {
        seg[i] = (struct blk_seg){back + i * 512, 512};
        r[i] = (struct blk_request){.op = i == 2 ? BLK_WRITE : BLK_READ, .len = 512, .seg = &seg[i], .seg_count = 1};
        submit(&d, &r[i]);
    }
    while (atomic_load(&storage.stuck) < 3 && seconds() < start + 20)
        usleep(1000);
    assert_int_equal(atomic_load(&storage.stuck), 3);
    for (unsigned i = 0; i < 50; i++) {
        lock_take(&d.lock); // as every access to a device does
        lock_drop(&d.lock);
    }
    assert_int_equal(transfer(&d, BLK_READ, 512, buf, 4096), 0);
    assert_int_equal(buf[0], (u8)(512 * 13 + 1));
    assert_int_equal(atomic_load(&storage.stuck), 3);
    assert_int_equal(atomic_load(&d.done), 0);
    atomic_store(&storage.slow_block, NOWHERE);
    for (unsigned i = 0; i < 20000 && atomic_load(&d.done) < 3; i++)
        usleep(500);
    assert_int_equal(atomic_exchange(&d.done, 0), 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(r[i].result, 0);
    close_image();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_block_read), cmocka_unit_test(bad_block_write),  cmocka_unit_test(in_pieces),
        cmocka_unit_test(lost_in_cache),  cmocka_unit_test(zero_and_discard), cmocka_unit_test(snapshot_full),
        cmocka_unit_test(slow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
