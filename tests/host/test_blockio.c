// Disk images: round trips against a model, snapshots, locks, and disks that fail.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/disk_env.h"

static void read_file(struct disk *d, u8 *bytes, u64 size)
{
    int fd = open(d->path, O_RDONLY);

    assert_int_equal(pread(fd, bytes, size, 0), size);
    close(fd);
}

// --- contents -------------------------------------------------------------------------------------------------------------

// Random operations, against a copy of the disk in memory.
static void against_model(struct disk *d, unsigned seed, unsigned rounds, u8 *model)
{
    u8 *buf = malloc(SIZE);

    srandom(seed);
    for (unsigned i = 0; i < rounds; i++) {
        u64 at = (u64)random() % (SIZE / 512), n = 1 + (u64)random() % (random() % 8 ? 12 : 600);
        if (n > SIZE / 512 - at)
            n = SIZE / 512 - at;
        at *= 512;
        n *= 512;
        switch (random() % 5) {
        case 0:
        case 1:
            assert_int_equal(transfer(d, BLK_READ, at, buf, n), 0);
            assert_memory_equal(buf, model + at, n);
            break;
        case 2:
            for (u64 j = 0; j < n; j++)
                buf[j] = (u8)random();
            assert_int_equal(transfer(d, BLK_WRITE, at, buf, n), 0);
            memcpy(model + at, buf, n);
            break;
        case 3:
            assert_int_equal(run(d, (struct blk_request){.op = BLK_ZERO, .off = at, .len = n, .unmap = random() & 1}),
                             0);
            memset(model + at, 0, n);
            break;
        default: assert_int_equal(run(d, (struct blk_request){.op = BLK_FLUSH}), 0); break;
        }
    }
    assert_int_equal(transfer(d, BLK_READ, 0, buf, SIZE), 0);
    assert_memory_equal(buf, model, SIZE);
    free(buf);
}

static void raw_file(void **state)
{
    struct disk d;
    u8 *model = malloc(SIZE), *after = malloc(SIZE);

    (void)state;
    make_image(&d, SIZE);
    read_file(&d, model, SIZE);
    assert_int_equal(open_disk(&d, (struct blockio_options){.unmap = true}), 0);
    assert_int_equal(d.b->size, SIZE);
    against_model(&d, 1, 400, model);
    read_file(&d, after, SIZE);
    assert_memory_equal(model, after, SIZE);
    remove_disk(&d);
    free(model);
    free(after);
}

static void snapshot(void **state)
{
    struct disk d;
    u8 *before = malloc(SIZE), *model = malloc(SIZE), *after = malloc(SIZE);

    (void)state;
    make_image(&d, SIZE);
    read_file(&d, before, SIZE);
    memcpy(model, before, SIZE);
    chmod(d.path, 0400);
    assert_int_equal(open_disk(&d, (struct blockio_options){.snapshot = true}), 0);
    assert_false(d.b->readonly);
    against_model(&d, 2, 600, model);
    read_file(&d, after, SIZE);
    assert_memory_equal(before, after, SIZE);
    // What is discarded may read as anything; here it stays.
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_DISCARD, .len = SIZE}), 0);
    remove_disk(&d);
    free(before);
    free(model);
    free(after);
}

static void discard(void **state)
{
    struct disk d;
    struct stat before, after;

    (void)state;
    for (int unmap = 0; unmap < 2; unmap++) {
        make_image(&d, SIZE);
        assert_int_equal(open_disk(&d, (struct blockio_options){.unmap = unmap}), 0);
        stat(d.path, &before);
        assert_int_equal(run(&d, (struct blk_request){.op = BLK_DISCARD, .len = SIZE / 2}), 0);
        stat(d.path, &after);
        assert_int_equal(after.st_size, SIZE);
        if (!unmap)
            assert_int_equal(after.st_blocks, before.st_blocks);
        else
            assert_true(after.st_blocks <= before.st_blocks);
        remove_disk(&d);
    }
}

// --- opening ----------------------------------------------------------------------------------------------------------------

static void expect_refusal(struct disk *d, struct blockio_options o, int error, const char *part)
{
    d->err.text[0] = 0;
    o.path = d->path;
    assert_int_equal(blockio_open(&o, &d->b, &d->err), error);
    if (!strstr(d->err.text, part) || strchr(d->err.text, '\n'))
        fail_msg("%s: no '%s' in it", d->err.text, part);
    d->b = NULL;
}

static void refusals(void **state)
{
    struct disk d, other;

    (void)state;
    make_image(&d, SIZE + 5);
    expect_refusal(&d, (struct blockio_options){0}, -EINVAL, "truncate -s");
    unlink(d.path);
    expect_refusal(&d, (struct blockio_options){0}, -ENOENT, "check the path");
    mkdir(d.path, 0700);
    expect_refusal(&d, (struct blockio_options){.readonly = true}, -EINVAL, "neither");
    rmdir(d.path);
    mkfifo(d.path, 0600);
    expect_refusal(&d, (struct blockio_options){.readonly = true}, -EINVAL, "neither");
    unlink(d.path);
    strcpy(d.path, "/dev/full");
    expect_refusal(&d, (struct blockio_options){.readonly = true}, -EINVAL, "neither");
    make_image(&other, 0);
    assert_int_equal(open_disk(&other, (struct blockio_options){0}), 0);
    assert_int_equal(other.b->size, 0);
    assert_int_equal(run(&other, (struct blk_request){.op = BLK_FLUSH}), 0);
    remove_disk(&other);
}

static void locks(void **state)
{
    static const struct {
        struct blockio_options first, second;
        bool together;
    } cases[] = {
        {{0}, {0}, false},
        {{0}, {.readonly = true}, false},
        {{.readonly = true}, {0}, false},
        {{0}, {.snapshot = true}, false},
        {{.snapshot = true}, {0}, false},
        {{.readonly = true}, {.readonly = true}, true},
        {{.snapshot = true}, {.snapshot = true}, true},
        {{.snapshot = true}, {.readonly = true}, true},
        {{0}, {.no_lock = true}, true},
    };
    struct disk d, second;

    (void)state;
    make_image(&d, SIZE);
    second = d;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(open_disk(&d, cases[i].first), 0);
        if (cases[i].together) {
            assert_int_equal(open_disk(&second, cases[i].second), 0);
            blockio_close(second.b);
        } else {
            expect_refusal(&second, cases[i].second, -EBUSY, "in use");
        }
        blockio_close(d.b);
    }
    // Gone with who held them.
    assert_int_equal(open_disk(&d, (struct blockio_options){0}), 0);
    remove_disk(&d);
}

// --- failures -----------------------------------------------------------------------------------------------------------------

static void shrunk(void **state)
{
    struct disk d;
    struct stat st;
    u8 *buf = calloc(1, SIZE);

    (void)state;
    make_image(&d, SIZE);
    assert_int_equal(open_disk(&d, (struct blockio_options){0}), 0);
    assert_int_equal(truncate(d.path, SIZE / 2), 0);
    assert_int_equal(transfer(&d, BLK_READ, 0, buf, SIZE / 2), 0);
    assert_int_equal(transfer(&d, BLK_READ, SIZE / 2, buf, 512), -EIO);
    assert_int_equal(transfer(&d, BLK_READ, SIZE / 2 - 512, buf, 1024), -EIO);
    assert_int_equal(transfer(&d, BLK_WRITE, SIZE / 2 - 512, buf, 1024), -EIO);
    assert_int_equal(run(&d, (struct blk_request){.op = BLK_ZERO, .off = SIZE / 2, .len = 512}), -EIO);
    stat(d.path, &st);
    assert_int_equal(st.st_size, SIZE / 2);
    assert_int_equal(transfer(&d, BLK_WRITE, 0, buf, 1024), 0);
    remove_disk(&d);
    free(buf);
}

// A limit on the size of files: as a full disk, with a signal beside it.
static void too_large(void **state)
{
    struct disk d;
    struct rlimit before, limit;
    u8 buf[4096] = {0};

    (void)state;
    make_image(&d, SIZE);
    assert_int_equal(open_disk(&d, (struct blockio_options){0}), 0);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){SIZE / 2, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(transfer(&d, BLK_WRITE, SIZE / 2, buf, sizeof(buf)), -EFBIG);
    assert_int_equal(transfer(&d, BLK_WRITE, SIZE / 2 - 2048, buf, sizeof(buf)), -EFBIG); // a part fits
    assert_int_equal(transfer(&d, BLK_WRITE, 0, buf, sizeof(buf)), 0);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(transfer(&d, BLK_WRITE, SIZE / 2, buf, sizeof(buf)), 0);
    remove_disk(&d);
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return done;
}

// Mounts of our own, as root or as who may be root of a namespace.
static bool own_mounts(void)
{
    char map[64];

    if (!unshare(CLONE_NEWNS))
        return true;
    snprintf(map, sizeof(map), "0 %u 1", (unsigned)getuid());
    return !unshare(CLONE_NEWUSER | CLONE_NEWNS) && write_text("/proc/self/uid_map", map);
}

// In a file system of 256 KiB of its own: 2 when that cannot be made here.
static int in_full_file_system(void)
{
    struct disk d;
    u8 *buf;
    unsigned written = 0;
    int ret = 0, fd;

    if (!own_mounts() || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", "/tmp", "tmpfs", 0, "size=256k"))
        return 2;
    setenv("TMPDIR", "/tmp", 1);
    buf = malloc(4096);
    memset(buf, 0x3c, 4096);
    make_image(&d, 0);
    fd = open(d.path, O_RDWR);
    if (ftruncate(fd, SIZE) || open_disk(&d, (struct blockio_options){0}))
        return 1;
    for (; written < SIZE && !ret; written += ret ? 0 : 4096)
        ret = transfer(&d, BLK_WRITE, written, buf, 4096);
    if (ret != -ENOSPC || !written || run(&d, (struct blk_request){.op = BLK_FLUSH}))
        return 1;
    // What was acknowledged is there.
    for (unsigned at = 0; at < written; at += 4096) {
        u8 back[4096];
        if (pread(fd, back, 4096, at) != 4096 || memcmp(back, buf, 4096))
            return 1;
    }
    blockio_close(d.b);
    if (open_disk(&d, (struct blockio_options){.snapshot = true}))
        return 1;
    ret = transfer(&d, BLK_WRITE, 0, buf, 4096);
    if (ret != -ENOSPC || transfer(&d, BLK_READ, 0, buf, 4096) || buf[0] != 0x3c)
        return 1;
    blockio_close(d.b);
    return 0;
}

static void full(void **state)
{
    pid_t child = fork();
    int status;

    (void)state;
    if (!child)
        _exit(in_full_file_system());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

// --- order --------------------------------------------------------------------------------------------------------------------

#define MANY 64

// The i-th part of the disk.
static struct blk_request many_request(struct disk *d, enum blk_op op, unsigned i, const struct blk_seg *seg)
{
    return (struct blk_request){
        .op = op, .off = i * seg->len, .len = seg->len, .seg = seg, .seg_count = 1, .done = on_done, .owner = d};
}

static void drain(void **state)
{
    struct disk d;
    struct blk_request r[MANY];
    struct blk_seg seg[MANY];
    u8 *buf = malloc(SIZE);

    (void)state;
    make_image(&d, SIZE);
    assert_int_equal(open_disk(&d, (struct blockio_options){0}), 0);
    for (unsigned i = 0; i < MANY; i++)
        seg[i] = (struct blk_seg){buf + i * (SIZE / MANY), SIZE / MANY};
    for (int cancel = 0; cancel < 2; cancel++)
        for (unsigned round = 0; round < 20; round++) {
            lock_take(&d.lock);
            for (unsigned i = 0; i < MANY; i++) {
                r[i] = many_request(&d, BLK_READ, i, &seg[i]);
                d.b->ops->submit(d.b, &r[i]);
            }
            if (round & 1) { // let it begin
                lock_drop(&d.lock);
                usleep(1000);
                lock_take(&d.lock);
            }
            d.b->ops->drain(d.b, cancel);
            assert_int_equal(atomic_exchange(&d.done, 0), MANY);
            for (unsigned i = 0; i < MANY; i++)
                assert_true(!r[i].result || (cancel && r[i].result == -ECANCELED));
            lock_drop(&d.lock);
        }
    // Closing with requests in the list answers them.
    lock_take(&d.lock);
    for (unsigned i = 0; i < MANY; i++) {
        r[i] = many_request(&d, BLK_WRITE, i, &seg[i]);
        d.b->ops->submit(d.b, &r[i]);
    }
    lock_drop(&d.lock);
    remove_disk(&d);
    assert_int_equal(atomic_load(&d.done), MANY);
    free(buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_file), cmocka_unit_test(snapshot),  cmocka_unit_test(discard),
        cmocka_unit_test(refusals), cmocka_unit_test(locks),     cmocka_unit_test(shrunk),
        cmocka_unit_test(full),     cmocka_unit_test(too_large), cmocka_unit_test(drain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
