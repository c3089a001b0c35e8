// The block device over a disk in memory whose requests end when the test says so.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "core/fake_host.h"
#include "dev/blk_timed.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_env.h"

#define RINGS 0x10000
#define HEADER 0x40000
#define DATA 0x42000
#define STATUS 0x60000
#define TABLES 0x70000
#define SECTORS 64u

enum { T_IN = 0, T_OUT = 1, T_SCSI = 2, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZERO = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define F_CONFIG_WCE (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_ZERO (1ull << 14)

// A disk that keeps requests until complete() or drain.
struct disk {
    struct blk_backend b; // first
    u8 bytes[SECTORS * BLK_SECTOR];
    struct blk_request *waiting[VIRTIO_BLK_REQUESTS];
    unsigned count, drains, cancelled;
    int error; // what requests end with
};

struct blk {
    struct env *e;
    struct virtio_blk *dev;
    struct disk *disk;
    struct driver d;
};

static int disk_start(struct blk_backend *b, struct lock *dev_lock)
{
    (void)b, (void)dev_lock;
    return 0;
}

static void disk_submit(struct blk_backend *b, struct blk_request *r)
{
    struct disk *k = (struct disk *)b;
    u64 sum = 0;

    assert_true(k->count < ARRAY_LEN(k->waiting));
    assert_true(r->off <= k->b.size && r->len <= k->b.size - r->off && !(r->off % BLK_SECTOR) &&
                !(r->len % BLK_SECTOR));
    for (unsigned i = 0; i < r->seg_count; i++)
        sum += r->seg[i].len;
    if (r->op == BLK_READ || r->op == BLK_WRITE)
        assert_int_equal(sum, r->len);
    k->waiting[k->count++] = r;
}

static void finish(struct disk *k, struct blk_request *r, bool more)
{
    u64 at = r->off;

    r->result = k->error;
    for (unsigned i = 0; i < r->seg_count && !k->error; at += r->seg[i++].len) {
        if (r->op == BLK_READ)
            memcpy(r->seg[i].host, k->bytes + at, r->seg[i].len);
        else
            memcpy(k->bytes + at, r->seg[i].host, r->seg[i].len);
    }
    if (r->op == BLK_ZERO && !k->error)
        memset(k->bytes + r->off, 0, r->len);
    r->done(r, more);
}

// End the first n requests, together.
static void complete(struct disk *k, unsigned n)
{
    struct blk_request *now[VIRTIO_BLK_REQUESTS];

    assert_true(n <= k->count);
    memcpy(now, k->waiting, n * sizeof(*now));
    k->count -= n;
    memmove(k->waiting, k->waiting + n, k->count * sizeof(*now));
    for (unsigned i = 0; i < n; i++)
        finish(k, now[i], i + 1 < n);
}

static void disk_drain(struct blk_backend *b, bool cancel)
{
    struct disk *k = (struct disk *)b;

    k->drains++;
    k->cancelled += cancel;
    if (cancel)
        k->error = -ECANCELED;
    while (k->count)
        complete(k, k->count);
    k->error = 0;
}

static const struct blk_backend_ops disk_ops = {disk_start, disk_submit, disk_drain};

static void create(struct blk *b, bool readonly, bool writethrough)
{
    struct virtio_blk_config c = {.serial = "serial-of-20-letters", .writethrough = writethrough};
    struct virtio_attach a;

    *b = (struct blk){.e = env_new(), .dev = calloc(1, sizeof(*b->dev)), .disk = calloc(1, sizeof(*b->disk))};
    b->disk->b = (struct blk_backend){
        .ops = &disk_ops, .size = SECTORS * BLK_SECTOR, .readonly = readonly, .logical = 512, .physical = 4096};
    for (unsigned i = 0; i < sizeof(b->disk->bytes); i++)
        b->disk->bytes[i] = (u8)(i * 7 + i / 512);
    c.backend = &b->disk->b;
    a = env_attach(b->e, VIRTIO_PCI_TRANSITIONAL);
    assert_int_equal(virtio_blk_create(b->dev, &a, &c), 0);
}

static void start(struct blk *b, bool readonly, bool legacy, u64 features)
{
    create(b, readonly, false);
    driver_init(&b->d, b->e, &b->dev->v, &b->dev->pci, legacy);
    driver_start(&b->d, features, RINGS);
}

static void destroy(struct blk *b)
{
    env_free(b->e);
    free(b->dev);
    free(b->disk);
}

// A request of three buffers: header, data of `len` bytes, status.
static void request(struct blk *b, u32 type, u64 sector, u32 len)
{
    bool in = type == T_IN || type == T_GET_ID;

    put(&b->d, HEADER, 4, type);
    put(&b->d, HEADER + 8, 8, sector);
    put(&b->d, STATUS, 1, 0xee);
    put_desc(&b->d, 0, 0, HEADER, 16, D_NEXT, len ? 1 : 2);
    put_desc(&b->d, 0, 1, DATA, len, D_NEXT | (in ? D_WRITE : 0), 2);
    put_desc(&b->d, 0, 2, STATUS, 1, D_WRITE, 0);
    driver_publish(&b->d, 0, 0);
    driver_kick(&b->d, 0);
}

// The status of a request that ends at once or needs the disk to finish one.
static u8 status_of(struct blk *b)
{
    if (b->disk->count)
        complete(b->disk, 1);
    assert_int_not_equal(driver_used(&b->d, 0, NULL), -1);
    return *at(&b->d, STATUS);
}

static void configuration(void **state)
{
    struct blk b;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        start(&b, false, legacy, 0);
        assert_int_equal(driver_config(&b.d, 0, 8), SECTORS);
        assert_int_equal(driver_config(&b.d, 12, 4), 254);
        assert_int_equal(driver_config(&b.d, 20, 4), 512);
        assert_int_equal(driver_config(&b.d, 24, 1), 3);
        assert_int_equal(driver_config(&b.d, 59, 1), 0);
        assert_int_equal(driver_config(&b.d, 60, 4), 0xffffffff);
        driver_config_write(&b.d, 0, 8, 0); // read-only
        assert_int_equal(driver_config(&b.d, 0, 8), SECTORS);
        assert_true(driver_offered(&b.d) & F_DISCARD);
        assert_false(driver_offered(&b.d) & F_RO);
        assert_int_equal(pci_config_read(b.d.pci, 0, 4), 0x10011af4);
        assert_int_equal(pci_config_read(b.d.pci, 8, 4), 0x01000000);
        assert_int_equal(pci_config_read(b.d.pci, 0x2c, 4), 0x00021af4);
        destroy(&b);
    }
    create(&b, true, false);
    b.d.legacy = false;
    driver_init(&b.d, b.e, &b.dev->v, &b.dev->pci, false);
    assert_true(driver_offered(&b.d) & F_RO);
    assert_false(driver_offered(&b.d) & (F_DISCARD | F_ZERO));
    destroy(&b);
}

static void read_and_write(void **state)
{
    struct blk b;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        start(&b, false, legacy, F_FLUSH);
        request(&b, T_IN, 3, 1024);
        assert_int_equal(driver_used(&b.d, 0, NULL), -1); // not before the disk is done
        complete(b.disk, 1);
        assert_true(env_irq(b.e));
        assert_int_equal(driver_used(&b.d, 0, NULL), 1025);
        assert_int_equal(*at(&b.d, STATUS), S_OK);
        assert_memory_equal(at(&b.d, DATA), b.disk->bytes + 3 * 512, 1024);
        memset(at(&b.d, DATA), 0x5a, 512);
        request(&b, T_OUT, 63, 512);
        assert_false(b.disk->waiting[0]->durable);
        assert_int_equal(status_of(&b), S_OK);
        assert_memory_equal(b.disk->bytes + 63 * 512, at(&b.d, DATA), 512);
        request(&b, T_FLUSH, 0, 0);
        assert_int_equal(b.disk->waiting[0]->op, BLK_FLUSH);
        assert_int_equal(status_of(&b), S_OK);
        request(&b, T_GET_ID, 0, 20);
        assert_int_equal(status_of(&b), S_OK);
        assert_memory_equal(at(&b.d, DATA), "serial-of-20-letters", 20);
        request(&b, T_GET_ID, 0, 6);
        assert_int_equal(status_of(&b), S_OK);
        destroy(&b);
    }
}

// However the driver cuts it: the header in bytes, status with the data.
static void any_layout(void **state)
{
    struct blk b;
    u16 n = 0;

    (void)state;
    start(&b, false, false, 0);
    put(&b.d, HEADER, 4, T_IN);
    put(&b.d, HEADER + 8, 8, 1);
    for (; n < 16; n++)
        put_desc(&b.d, 0, n, HEADER + n, 1, D_NEXT, n + 1);
    put_desc(&b.d, 0, n, DATA, 100, D_WRITE | D_NEXT, n + 1);
    put_desc(&b.d, 0, n + 1, DATA + 100, 413, D_WRITE, 0);
    driver_publish(&b.d, 0, 0);
    driver_kick(&b.d, 0);
    complete(b.disk, 1);
    assert_int_equal(driver_used(&b.d, 0, NULL), 513);
    assert_int_equal(*at(&b.d, DATA + 512), S_OK);
    assert_memory_equal(at(&b.d, DATA), b.disk->bytes + 512, 512);

    memset(at(&b.d, DATA), 0x77, 1024);
    put(&b.d, DATA, 4, T_OUT); // header and data in one buffer
    put(&b.d, DATA + 8, 8, 5);
    put_desc(&b.d, 0, 0, DATA, 16 + 512, D_NEXT, 1);
    put_desc(&b.d, 0, 1, STATUS, 1, D_WRITE, 0);
    driver_publish(&b.d, 0, 0);
    driver_kick(&b.d, 0);
    complete(b.disk, 1);
    assert_int_equal(driver_used(&b.d, 0, NULL), 1);
    assert_memory_equal(b.disk->bytes + 5 * 512, at(&b.d, DATA + 16), 512);
    destroy(&b);
}

static void refused(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, F_FLUSH);
    request(&b, T_IN, SECTORS, 512);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_IN, SECTORS - 1, 1024);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_OUT, ~0ull, 512);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_OUT, 1ull << 55, 512); // times 512: around
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_IN, 0, 511);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_SCSI, 0, 512);
    assert_int_equal(status_of(&b), S_UNSUPP);
    request(&b, 0xffffffff, 0, 512);
    assert_int_equal(status_of(&b), S_UNSUPP);
    request(&b, T_IN, 0, 0);
    assert_int_equal(status_of(&b), S_OK);
    b.disk->error = -EIO;
    request(&b, T_OUT, 0, 512);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_FLUSH, 0, 0);
    assert_int_equal(status_of(&b), S_IOERR);
    assert_int_equal(b.disk->count, 0);
    destroy(&b);

    start(&b, true, false, F_FLUSH);
    request(&b, T_OUT, 0, 512);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_DISCARD, 0, 16);
    assert_int_equal(status_of(&b), S_IOERR);
    destroy(&b);
}

static u8 range(struct blk *b, u32 type, u64 sector, u32 count, u32 flags)
{
    put(&b->d, DATA, 8, sector);
    put(&b->d, DATA + 8, 4, count);
    put(&b->d, DATA + 12, 4, flags);
    request(b, type, 0, 16);
    return status_of(b);
}

static void discard_and_zero(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, F_DISCARD | F_ZERO);
    assert_int_equal(range(&b, T_DISCARD, 2, 4, 0), S_OK);
    assert_int_equal(range(&b, T_ZERO, 2, 4, 0), S_OK);
    assert_int_equal(b.disk->bytes[2 * 512], 0);
    assert_int_equal(b.disk->bytes[6 * 512 - 1], 0);
    assert_int_not_equal(b.disk->bytes[6 * 512], 0);
    assert_int_equal(range(&b, T_ZERO, 0, SECTORS, 1), S_OK);
    assert_int_equal(range(&b, T_ZERO, 0, 0, 0), S_OK);
    assert_int_equal(range(&b, T_ZERO, 0, SECTORS + 1, 0), S_IOERR);
    assert_int_equal(range(&b, T_DISCARD, SECTORS, 1, 0), S_IOERR);
    assert_int_equal(range(&b, T_DISCARD, ~0ull, 2, 0), S_IOERR);
    assert_int_equal(range(&b, T_DISCARD, 0, ~0u, 0), S_IOERR);
    assert_int_equal(range(&b, T_DISCARD, 0, 1, 1), S_UNSUPP);
    assert_int_equal(range(&b, T_ZERO, 0, 1, 2), S_UNSUPP);
    request(&b, T_ZERO, 0, 8);
    assert_int_equal(status_of(&b), S_IOERR);
    request(&b, T_ZERO, 0, 32);
    assert_int_equal(status_of(&b), S_UNSUPP);
    destroy(&b);
}

static void malformed(void **state)
{
    struct blk b;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        start(&b, false, false, 0);
        if (i == 0) // header too short
            put_desc(&b.d, 0, 0, HEADER, 15, D_NEXT, 1);
        else
            put_desc(&b.d, 0, 0, HEADER, 16, i == 1 ? 0 : D_WRITE, 1); // no status; nothing to read
        put_desc(&b.d, 0, 1, STATUS, 1, D_WRITE, 0);
        driver_publish(&b.d, 0, 0);
        driver_kick(&b.d, 0);
        assert_true(b.dev->v.broken);
        assert_int_equal(b.disk->count, 0);
        driver_start(&b.d, 0, RINGS);
        request(&b, T_IN, 0, 512);
        assert_int_equal(status_of(&b), S_OK);
        destroy(&b);
    }
}

static void write_cache(void **state)
{
    struct blk b;

    (void)state;
    // Without flushes every write is durable.
    start(&b, false, true, 0);
    request(&b, T_OUT, 0, 512);
    assert_true(b.disk->waiting[0]->durable);
    destroy(&b);
    start(&b, false, false, F_FLUSH | F_CONFIG_WCE);
    assert_int_equal(driver_config(&b.d, 32, 1), 1);
    driver_config_write(&b.d, 32, 1, 0);
    request(&b, T_OUT, 0, 512);
    assert_true(b.disk->waiting[0]->durable);
    assert_int_equal(status_of(&b), S_OK);
    driver_config_write(&b.d, 32, 1, 0x55);
    assert_int_equal(driver_config(&b.d, 32, 1), 1);
    request(&b, T_OUT, 0, 512);
    assert_false(b.disk->waiting[0]->durable);
    driver_config_write(&b.d, 32, 1, 0);
    driver_set_status(&b.d, 0);
    assert_int_equal(driver_config(&b.d, 32, 1), 1);
    destroy(&b);
    create(&b, false, true);
    driver_init(&b.d, b.e, &b.dev->v, &b.dev->pci, false);
    driver_start(&b.d, F_FLUSH, RINGS);
    request(&b, T_OUT, 0, 512);
    assert_true(b.disk->waiting[0]->durable);
    destroy(&b);
}

// Indirect chains let a driver have as many requests as the queue has entries: more than the device works on.
static void publish_many(struct blk *b, unsigned count)
{
    for (u16 i = 0; i < count; i++) {
        u64 t = TABLES + i * 64u;
        put(&b->d, HEADER + i * 16u, 4, T_IN);
        put(&b->d, HEADER + i * 16u + 8, 8, i % SECTORS);
        put_desc_at(&b->d, t, HEADER + i * 16u, 16, D_NEXT, 1);
        put_desc_at(&b->d, t + 16, DATA + i * 512u, 512, D_WRITE | D_NEXT, 2);
        put_desc_at(&b->d, t + 32, 0x80000 + i, 1, D_WRITE, 0);
        put(&b->d, 0x80000 + i, 1, 0xee);
        put_desc(&b->d, 0, i, t, 48, D_INDIRECT, 0);
        driver_publish(&b->d, 0, i);
    }
    driver_kick(&b->d, 0);
}

static void many(void **state)
{
    struct blk b;
    u32 id = 0;

    (void)state;
    start(&b, false, false, VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    publish_many(&b, 200);
    assert_int_equal(b.disk->count, VIRTIO_BLK_REQUESTS);
    complete(b.disk, 28);
    assert_int_equal(b.disk->count, VIRTIO_BLK_REQUESTS);
    while (b.disk->count)
        complete(b.disk, b.disk->count > 3 ? 3 : b.disk->count);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(driver_used(&b.d, 0, &id), 513);
        assert_int_equal(*at(&b.d, 0x80000 + id), S_OK);
        assert_memory_equal(at(&b.d, DATA + id * 512), b.disk->bytes + id % SECTORS * 512, 512);
    }
    assert_int_equal(driver_used(&b.d, 0, NULL), -1);
    destroy(&b);
}

static void reset_in_flight(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, VIRTIO_F_INDIRECT_DESC);
    publish_many(&b, 200);
    b.disk->cancelled = 0;
    driver_set_status(&b.d, 0);
    assert_int_equal(b.disk->cancelled, 1);
    assert_int_equal(b.disk->count, 0);
    assert_int_equal(get16(&b.d, b.d.ring[0].used + 2), 0);
    assert_int_equal(*at(&b.d, 0x80000), 0xee);
    assert_false(env_irq(b.e));
    driver_start(&b.d, VIRTIO_F_INDIRECT_DESC, RINGS);
    publish_many(&b, 1);
    assert_int_equal(b.disk->count, 1);
    destroy(&b);
}

// Bus mastering goes off: what is in flight ends before, nothing new begins until it is on.
static void bus_master_off(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, VIRTIO_F_INDIRECT_DESC);
    publish_many(&b, 200);
    pci_config_write(b.d.pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(b.disk->count, 0);
    assert_int_equal(get16(&b.d, b.d.ring[0].used + 2), VIRTIO_BLK_REQUESTS);
    driver_kick(&b.d, 0);
    assert_int_equal(b.disk->count, 0);
    pci_config_write(b.d.pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(b.disk->count, 200 - VIRTIO_BLK_REQUESTS);
    destroy(&b);
}

// Requests of a device that its driver has broken meanwhile are not answered, and not lost either.
static void broken_in_flight(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, 0);
    request(&b, T_IN, 0, 512);
    driver_publish(&b.d, 0, 0xffff);
    driver_kick(&b.d, 0);
    assert_true(b.dev->v.broken);
    complete(b.disk, 1);
    assert_int_equal(driver_used(&b.d, 0, NULL), -1);
    driver_start(&b.d, VIRTIO_F_INDIRECT_DESC, RINGS);
    publish_many(&b, 200);
    assert_int_equal(b.disk->count, VIRTIO_BLK_REQUESTS);
    destroy(&b);
}

static void read_marks_pages(void **state)
{
    struct blk b;

    (void)state;
    start(&b, false, false, 0);
    request(&b, T_IN, 0, 8192);
    // As if an engine had decoded code there meanwhile, and somebody had saved the page.
    b.e->flags[DATA >> 12] = b.e->flags[(DATA + 4096) >> 12] = MEM_PAGE_CODE;
    b.e->code_writes = 0;
    complete(b.disk, 1);
    assert_true(b.e->code_writes >= 2);
    assert_int_equal(b.e->flags[DATA >> 12], MEM_PAGE_CODE | MEM_PAGE_DIRTY);
    destroy(&b);
}

// --- disks in virtual time ------------------------------------------------------------------------------------------------

static char answered[16];

static void note_answer(struct blk_request *r, bool more)
{
    char letter[2] = {(char)((r->result ? 'A' : 'a') + r->off / BLK_SECTOR), 0};

    (void)more;
    strcat(answered, letter);
    if (r->owner) { // who asks again while he is answered
        struct blk_request *next = r->owner;
        struct blk_backend *b = next->owner;
        next->owner = NULL;
        b->ops->submit(b, next);
    }
}

// Requests are answered in order, at times that do not depend on the backend; what an answer brings waits for its own time.
static void timed(void **state)
{
    struct fake_host host;
    struct clock k;
    struct blk_timed t;
    struct blk_request r[4];
    struct disk *disk = calloc(1, sizeof(*disk));
    u64 insns = 0;

    (void)state;
    disk->b = (struct blk_backend){.ops = &disk_ops, .size = SECTORS * BLK_SECTOR, .logical = 512, .physical = 4096};
    fake_host_init(&host);
    clock_init(&k, &host.host);
    clock_use_icount(&k, 1, 1, 0);
    k.insns = &insns;
    assert_int_equal(blk_timed_init(&t, &disk->b, &k), 0);
    assert_int_equal(t.b.size, disk->b.size);
    for (unsigned i = 0; i < 4; i++)
        r[i] = (struct blk_request){.op = BLK_FLUSH, .off = i * BLK_SECTOR, .done = note_answer};
    r[0].owner = &r[3];
    r[3].owner = &t.b;
    t.b.ops->submit(&t.b, &r[0]);
    insns = 10;
    t.b.ops->submit(&t.b, &r[1]);
    t.b.ops->submit(&t.b, &r[2]);
    assert_int_equal(disk->count, 0);
    insns = BLK_TIMED_NS - 1;
    clock_run(&k);
    assert_string_equal(answered, "");
    insns++;
    clock_run(&k);
    assert_string_equal(answered, "abc");
    assert_int_equal(k.next_deadline, 2 * BLK_TIMED_NS);
    t.b.ops->drain(&t.b, false);
    assert_string_equal(answered, "abcd");
    assert_true(k.next_deadline == CLOCK_NEVER);
    t.b.ops->submit(&t.b, &r[1]);
    t.b.ops->drain(&t.b, true);
    assert_string_equal(answered, "abcdB");
    assert_int_equal(r[1].result, -ECANCELED);
    free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration),
        cmocka_unit_test(read_and_write),
        cmocka_unit_test(any_layout),
        cmocka_unit_test(refused),
        cmocka_unit_test(discard_and_zero),
        cmocka_unit_test(malformed),
        cmocka_unit_test(write_cache),
        cmocka_unit_test(many),
        cmocka_unit_test(reset_in_flight),
        cmocka_unit_test(bus_master_off),
        cmocka_unit_test(broken_in_flight),
        cmocka_unit_test(read_marks_pages),
        cmocka_unit_test(timed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
