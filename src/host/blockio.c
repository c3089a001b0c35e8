// Disk images. The controller puts requests into a list (as long as the controller has requests), threads take them from there,
// read or write the image with the guest's memory as the buffer, and put them into the list of those that are done. Then the thread
// takes the device lock and answers everything in that list: what other threads finished meanwhile is answered along with it.
//
// Locks: `mutex` protects the lists and counts, and is taken inside the device lock. No thread waits for the device lock with a
// request in its hands, so that drain(), which runs with the device lock held, can wait for the threads.
//
// What is written goes through the host's page cache. A flush is fdatasync(). When that has failed once, the kernel considers what
// it could not write as clean, and a later success says nothing: from then on every flush fails.
//
// A snapshot is an unlinked temporary file with the layout of the image, and a bit for each sector that is in it.

#include "host/blockio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS 4
#define STACK_SIZE (128u << 10)
#define IOVS 64
#define CHUNK (1u << 20) // bytes between two looks whether to go on
#define PHYSICAL_BLOCK 4096u

struct list {
    struct blk_request *first, **last;
};

struct blockio {
    struct blk_backend backend;
    int fd;
    bool is_file; // a regular file: it may shrink
    bool unmap, no_flush;

    int overlay; // -1: no snapshot
    _Atomic u64 *in_overlay;
    u64 bitmap_size; // bytes

    struct lock *dev_lock;
    pthread_mutex_t mutex;
    pthread_cond_t work, idle;
    struct list todo, done;
    unsigned busy;              // requests that threads have in their hands
    _Atomic bool cancel;        // end what is under way
    bool stop;                  // threads end
    _Atomic int lost;           // the errno of the first failed flush
    struct blockio_stats stats; // protected by the device lock
    unsigned thread_count;
    pthread_t thread[THREADS];
};

// --- lists --------------------------------------------------------------------------------------------------------------

static void list_init(struct list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_append(struct list *l, struct blk_request *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static struct blk_request *list_take(struct list *l)
{
    struct blk_request *r = l->first;

    l->first = r->next;
    if (!l->first)
        l->last = &l->first;
    return r;
}

// --- the snapshot's map ---------------------------------------------------------------------------------------------------

static void overlay_mark(struct blockio *b, u64 off, u64 len)
{
    u64 at = off / BLK_SECTOR, end = (off + len) / BLK_SECTOR;

    while (at < end) {
        unsigned bit = at % 64;
        u64 n = end - at < 64 - bit ? end - at : 64 - bit;
        u64 mask = (n == 64 ? ~0ull : (1ull << n) - 1) << bit;
        atomic_fetch_or(&b->in_overlay[at / 64], mask);
        at += n;
    }
}

// How many bytes from `off` on, at most `len`, are on the same side as the first sector; *there: in the overlay.
static u64 overlay_run(const struct blockio *b, u64 off, u64 len, bool *there)
{
    u64 first = off / BLK_SECTOR, at = first, end = (off + len) / BLK_SECTOR;

    *there = atomic_load(&b->in_overlay[at / 64]) >> at % 64 & 1;
    while (at < end) {
        u64 word = atomic_load(&b->in_overlay[at / 64]);
        u64 other = (*there ? ~word : word) >> at % 64;
        if (other) {
            at += (u64)__builtin_ctzll(other);
            break;
        }
        at += 64 - at % 64;
    }
    return at < end ? (at - first) * BLK_SECTOR : len;
}

// --- requests -------------------------------------------------------------------------------------------------------------

// Where a transfer is: in the image, and in the request's pieces.
struct cursor {
    u64 off, left;
    const struct blk_seg *seg;
    u64 skip; // bytes of *seg that are behind
};

// At most `most` bytes from the cursor on. Returns the number of entries.
static int cursor_iov(const struct cursor *c, struct iovec *iov, u64 most)
{
    const struct blk_seg *s = c->seg;
    u64 skip = c->skip;
    int n = 0;

    for (; n < IOVS && most; n++, s++) {
        u64 len = s->len - skip < most ? s->len - skip : most;
        iov[n] = (struct iovec){s->host + skip, len};
        most -= len;
        skip = 0;
    }
    return n;
}

static void cursor_advance(struct cursor *c, u64 n)
{
    c->off += n;
    c->left -= n;
    c->skip += n;
    while (c->left && c->skip >= c->seg->len) {
        c->skip -= c->seg->len;
        c->seg++;
    }
}

// A file that has become shorter is damaged: writing must not hide it by making it long again.
static int check_end(const struct blockio *b, u64 end)
{
    struct stat st;

    if (!b->is_file)
        return 0;
    if (fstat(b->fd, &st))
        return -errno;
    return (u64)st.st_size < end ? -EIO : 0;
}

static int transfer(struct blockio *b, struct blk_request *r, bool write)
{
    struct cursor c = {r->off, r->len, r->seg, 0};
    struct iovec iov[IOVS];
    int ret = write && b->overlay < 0 ? check_end(b, r->off + r->len) : 0;

    while (c.left && !ret) {
        u64 most = c.left < CHUNK ? c.left : CHUNK;
        bool there = write;
        int fd, count;
        ssize_t n;
        if (atomic_load(&b->cancel))
            return -ECANCELED;
        if (b->overlay >= 0 && !write)
            most = overlay_run(b, c.off, most, &there);
        fd = b->overlay >= 0 && there ? b->overlay : b->fd;
        count = cursor_iov(&c, iov, most);
        n = write ? pwritev(fd, iov, count, (off_t)c.off) : preadv(fd, iov, count, (off_t)c.off);
        if (n > 0)
            cursor_advance(&c, (u64)n);
        else if (n == 0)
            ret = -EIO; // the image ends here
        else if (errno != EINTR)
            ret = -errno;
    }
    if (write && !ret && b->overlay >= 0)
        overlay_mark(b, r->off, r->len);
    return ret;
}

static int flush(struct blockio *b)
{
    int lost = atomic_load(&b->lost);

    if (lost)
        return -lost;
    if (b->overlay >= 0 || b->no_flush || b->backend.readonly)
        return 0;
    while (fdatasync(b->fd)) {
        if (errno == EINTR)
            continue;
        lost = errno;
        atomic_store(&b->lost, lost);
        return -lost;
    }
    return 0;
}

static int write_zeros(struct blockio *b, int fd, u64 off, u64 len)
{
    static const u8 zeros[65536];

    while (len) {
        ssize_t n = pwrite(fd, zeros, len < sizeof(zeros) ? len : sizeof(zeros), (off_t)off);
        if (atomic_load(&b->cancel))
            return -ECANCELED;
        if (n == 0 || (n < 0 && errno != EINTR))
            return n ? -errno : -EIO;
        if (n > 0) {
            off += (u64)n;
            len -= (u64)n;
        }
    }
    return 0;
}

static bool unsupported(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == ENODEV || error == EINVAL;
}

static int zero(struct blockio *b, const struct blk_request *r)
{
    bool overlay = b->overlay >= 0, punch = overlay || (r->unmap && b->unmap);
    int fd = overlay ? b->overlay : b->fd, mode = punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    int ret = overlay ? 0 : check_end(b, r->off + r->len);

    if (ret)
        return ret;
    if (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len))
        ret = unsupported(errno) ? write_zeros(b, fd, r->off, r->len) : -errno;
    if (!ret && overlay)
        overlay_mark(b, r->off, r->len);
    return ret;
}

// A hint: a host that cannot follow it is no error.
static int discard(struct blockio *b, const struct blk_request *r)
{
    int fd = b->fd, ret;

    if (b->overlay >= 0 || !b->unmap)
        return 0;
    ret = check_end(b, r->off + r->len);
    if (!ret && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len))
        ret = unsupported(errno) ? 0 : -errno;
    return ret;
}

static int perform(struct blockio *b, struct blk_request *r)
{
    int ret;

    switch (r->op) {
    case BLK_READ: return transfer(b, r, false);
    case BLK_FLUSH: return flush(b);
    case BLK_DISCARD: return discard(b, r);
    case BLK_WRITE: ret = transfer(b, r, true); break;
    case BLK_ZERO: ret = zero(b, r); break;
    default: return -EINVAL;
    }
    return !ret && r->durable ? flush(b) : ret;
}

// --- threads --------------------------------------------------------------------------------------------------------------

static void count(struct blockio *b, const struct blk_request *r)
{
    if (r->result) {
        b->stats.errors++;
        return;
    }
    b->stats.requests[r->op]++;
    b->stats.bytes[r->op] += r->op == BLK_FLUSH ? 0 : r->len;
}

// Answer what is done. Called with the device lock held, and not the mutex.
static void answer(struct blockio *b)
{
    struct list done;

    pthread_mutex_lock(&b->mutex);
    done = b->done;
    list_init(&b->done);
    pthread_mutex_unlock(&b->mutex);
    while (done.first) {
        struct blk_request *r = list_take(&done);
        count(b, r);
        r->done(r, done.first != NULL);
    }
}

static void *worker(void *arg)
{
    struct blockio *b = arg;

    pthread_mutex_lock(&b->mutex);
    while (!b->stop) {
        struct blk_request *r;
        if (!b->todo.first) {
            pthread_cond_wait(&b->work, &b->mutex);
            continue;
        }
        r = list_take(&b->todo);
        b->busy++;
        pthread_mutex_unlock(&b->mutex);
        r->result = perform(b, r);
        pthread_mutex_lock(&b->mutex);
        list_append(&b->done, r);
        if (--b->busy == 0)
            pthread_cond_broadcast(&b->idle);
        pthread_mutex_unlock(&b->mutex);
        lock_take(b->dev_lock);
        answer(b);
        lock_drop(b->dev_lock);
        pthread_mutex_lock(&b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

static struct blockio *of(struct blk_backend *backend)
{
    return (struct blockio *)backend; // its first member
}

static void blockio_submit(struct blk_backend *backend, struct blk_request *r)
{
    struct blockio *b = of(backend);

    pthread_mutex_lock(&b->mutex);
    list_append(&b->todo, r);
    pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->mutex);
}

// The threads may all be waiting for the device lock, which the caller holds: what is left in the list is done here.
static void blockio_drain(struct blk_backend *backend, bool cancel)
{
    struct blockio *b = of(backend);
    sigset_t xfsz, before;

    sigemptyset(&xfsz);
    sigaddset(&xfsz, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &xfsz, &before);
    pthread_mutex_lock(&b->mutex);
    atomic_store(&b->cancel, cancel);
    while (b->todo.first) {
        struct blk_request *r = list_take(&b->todo);
        pthread_mutex_unlock(&b->mutex);
        r->result = cancel ? -ECANCELED : perform(b, r);
        pthread_mutex_lock(&b->mutex);
        list_append(&b->done, r);
    }
    while (b->busy)
        pthread_cond_wait(&b->idle, &b->mutex);
    atomic_store(&b->cancel, false);
    pthread_mutex_unlock(&b->mutex);
    while (sigtimedwait(&xfsz, NULL, &(struct timespec){0}) == SIGXFSZ) // forget it
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    answer(b);
}

// Signals are for the threads that know what to do with them; SIGXFSZ, too, which would end the process where a file may not grow.
static int start_threads(struct blockio *b)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int ret = pthread_attr_init(&attr);

    if (ret)
        return -ret;
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (b->thread_count < THREADS) {
        ret = pthread_create(&b->thread[b->thread_count], &attr, worker, b);
        if (ret)
            break;
        b->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return b->thread_count ? 0 : -ret; // one is enough
}

static int blockio_start(struct blk_backend *backend, struct lock *dev_lock)
{
    struct blockio *b = of(backend);

    if (b->thread_count)
        return -EBUSY;
    b->dev_lock = dev_lock;
    return start_threads(b);
}

static const struct blk_backend_ops blockio_ops = {
    .start = blockio_start, .submit = blockio_submit, .drain = blockio_drain};

// --- opening --------------------------------------------------------------------------------------------------------------

// QEMU's way of sharing images, so that the two keep out of each other's way: whoever uses an image holds a shared lock on byte 100 +
// n for each use n that it makes of it, and on byte 200 + n for each that it does not let others make.
#define LOCK_USES 100
#define LOCK_DENIES 200
#define USE_READ 0
#define USE_WRITE 1
#define USE_RESIZE 3

static int lock_byte(int fd, int cmd, short type, off_t byte)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, cmd, &l))
        return -errno;
    return cmd == F_OFD_GETLK && l.l_type != F_UNLCK ? -EBUSY : 0;
}

static int lock_image(int fd, bool write)
{
    static const struct {
        off_t mine, theirs; // bytes that this process locks, and that nobody else may have locked
        bool writer;        // only for writing
    } rows[] = {
        {LOCK_USES + USE_READ, LOCK_DENIES + USE_READ, false},
        {LOCK_USES + USE_WRITE, LOCK_DENIES + USE_WRITE, true},
        {LOCK_DENIES + USE_WRITE, LOCK_USES + USE_WRITE, false},
        {LOCK_DENIES + USE_RESIZE, LOCK_USES + USE_RESIZE, false},
    };
    int ret = 0;

    for (size_t i = 0; i < ARRAY_LEN(rows) && !ret; i++)
        if (write || !rows[i].writer)
            ret = lock_byte(fd, F_OFD_SETLK, F_RDLCK, rows[i].mine);
    for (size_t i = 0; i < ARRAY_LEN(rows) && !ret; i++)
        if (write || !rows[i].writer)
            ret = lock_byte(fd, F_OFD_GETLK, F_WRLCK, rows[i].theirs);
    // File systems without locks are used without.
    return ret == -EBUSY || ret == -EAGAIN || ret == -EACCES ? -EBUSY : 0;
}

static int measure(struct blockio *b, const char *name, struct error *err)
{
    struct stat st;
    u64 size;

    if (fstat(b->fd, &st))
        return error_set(err, -errno, "%s: cannot look at it: %s; give a readable file", name, strerror(errno));
    b->is_file = S_ISREG(st.st_mode);
    if (!b->is_file && !S_ISBLK(st.st_mode))
        return error_set(err, -EINVAL, "%s: neither a file nor a block device; give a raw disk image", name);
    if (b->is_file)
        size = (u64)st.st_size;
    else if (ioctl(b->fd, BLKGETSIZE64, &size))
        return error_set(err, -errno, "%s: cannot find out its size: %s; give another disk", name, strerror(errno));
    if (size % BLK_SECTOR)
        return error_set(err, -EINVAL,
                         "%s: its size of %llu bytes is no multiple of 512; make it longer with `truncate -s %%512`",
                         name, (unsigned long long)size);
    b->backend.size = size;
    b->backend.logical = BLK_SECTOR;
    b->backend.physical = PHYSICAL_BLOCK;
    return 0;
}

static int temporary_file(void)
{
    const char *dir = getenv("TMPDIR");
    char name[PATH_MAX];
    int fd;

    if (!dir || !*dir)
        dir = "/var/tmp"; // on a disk, where /tmp may be memory
    fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (fd >= 0)
        return fd;
    // Not every file system can make a file without a name.
    if (snprintf(name, sizeof(name), "%s/pogo-XXXXXX", dir) >= (int)sizeof(name))
        return -1;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
        unlink(name);
    return fd;
}

static int open_overlay(struct blockio *b, const char *name, struct error *err)
{
    u64 sectors = b->backend.size / BLK_SECTOR;

    b->overlay = temporary_file();
    if (b->overlay < 0 || ftruncate(b->overlay, (off_t)b->backend.size))
        return error_set(err, -errno, "%s: snapshot=on: no temporary file in $TMPDIR or /var/tmp: %s; make room there",
                         name, strerror(errno));
    b->bitmap_size = (sectors / 64 + 1) * sizeof(u64);
    b->in_overlay =
        mmap(NULL, b->bitmap_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->in_overlay == MAP_FAILED) {
        b->in_overlay = NULL;
        return error_set(err, -ENOMEM, "%s: snapshot=on: no memory for its map; free some", name);
    }
    return 0;
}

static void destroy(struct blockio *b)
{
    if (b->in_overlay)
        munmap((void *)b->in_overlay, b->bitmap_size);
    if (b->overlay >= 0)
        close(b->overlay);
    if (b->fd >= 0)
        close(b->fd);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->idle);
    pthread_mutex_destroy(&b->mutex);
    free(b);
}

static int open_image(struct blockio *b, const struct blockio_options *o, const char *name, struct error *err)
{
    bool write = !o->readonly && !o->snapshot;
    int ret;

    // Nonblocking: a FIFO without a writer would make open() wait, and is refused anyway.
    b->fd = open(o->path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (b->fd < 0 && write && (errno == EACCES || errno == EROFS || errno == EPERM))
        return error_set(err, -errno, "%s: cannot open it for writing: %s; add readonly=on or snapshot=on", name,
                         strerror(errno));
    if (b->fd < 0)
        return error_set(err, -errno, "%s: cannot open it: %s; check the path and its permissions", name,
                         strerror(errno));
    ret = measure(b, name, err);
    if (!ret && !o->no_lock && lock_image(b->fd, write))
        return error_set(err, -EBUSY, "%s: in use by another virtual machine; end that one, or use a copy%s", name,
                         write ? "" : " (a disk that somebody writes cannot be read meanwhile)");
    if (!ret && o->snapshot)
        ret = open_overlay(b, name, err);
    return ret;
}

int blockio_open(const struct blockio_options *o, struct blk_backend **out, struct error *err)
{
    struct blockio *b = calloc(1, sizeof(*b));
    int ret;

    if (!b)
        return error_set(err, -ENOMEM, "%s: no memory; free some", o->path);
    b->fd = b->overlay = -1;
    b->unmap = o->unmap;
    b->no_flush = o->no_flush;
    b->backend.ops = &blockio_ops;
    b->backend.readonly = o->readonly;
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->idle, NULL);
    list_init(&b->todo);
    list_init(&b->done);
    ret = open_image(b, o, o->option ? o->option : o->path, err);
    if (ret) {
        destroy(b);
        return ret;
    }
    *out = &b->backend;
    return 0;
}

void blockio_close(struct blk_backend *backend)
{
    struct blockio *b = of(backend);

    if (!b)
        return;
    lock_take(b->dev_lock);
    blockio_drain(backend, true);
    lock_drop(b->dev_lock);
    pthread_mutex_lock(&b->mutex);
    b->stop = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->mutex);
    for (unsigned i = 0; i < b->thread_count; i++)
        pthread_join(b->thread[i], NULL);
    destroy(b);
}

void blockio_stats(const struct blk_backend *backend, struct blockio_stats *out)
{
    *out = ((const struct blockio *)backend)->stats;
}
