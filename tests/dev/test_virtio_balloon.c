// The memory balloon: which memory is given back, and what the two sides tell each other.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dev/virtio_balloon.h"
#include "dev/virtio_env.h"

#define RINGS 0x10000
#define LIST 0x40000

#define F_STATS (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING (1ull << 5)

struct balloon {
    struct env *e;
    struct virtio_balloon *dev;
    struct driver d;
    unsigned calls;
    u64 last_off, last_len;
};

static void give_back(void *host, u8 *p, u64 len)
{
    struct balloon *b = host;

    b->calls++;
    b->last_off = (u64)(p - b->e->ram);
    b->last_len = len;
    memset(p, 0, len);
}

static void start(struct balloon *b, bool legacy, u64 features)
{
    struct virtio_balloon_config c = {give_back, b, true};
    struct virtio_attach a;

    *b = (struct balloon){.e = env_new(), .dev = calloc(1, sizeof(*b->dev))};
    a = env_attach(b->e, VIRTIO_PCI_TRANSITIONAL);
    assert_int_equal(virtio_balloon_create(b->dev, &a, &c), 0);
    driver_init(&b->d, b->e, &b->dev->v, &b->dev->pci, legacy);
    driver_start(&b->d, features, RINGS);
}

static void destroy(struct balloon *b)
{
    env_free(b->e);
    free(b->dev);
}

// A list of page numbers in a queue.
static void send(struct balloon *b, unsigned queue, const u32 *pfn, u32 count)
{
    memcpy(at(&b->d, LIST), pfn, count * 4);
    put_desc(&b->d, queue, 0, LIST, count * 4, 0, 0);
    driver_publish(&b->d, queue, 0);
    driver_kick(&b->d, queue);
    assert_int_equal(driver_used(&b->d, queue, NULL), 0);
}

static void inflate(void **state)
{
    struct balloon b;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        start(&b, legacy, F_STATS);
        memset(at(&b.d, 0x80000), 0x55, 0x10000);
        b.e->flags[0x81] = MEM_PAGE_CODE;
        send(&b, 0, (u32[]){0x81, 0x82, 0x83, 0x86}, 4);
        assert_int_equal(b.calls, 2);
        assert_int_equal(b.last_off, 0x86000);
        assert_int_equal(b.dev->discarded, 0x4000);
        assert_int_equal(*at(&b.d, 0x80fff), 0x55);
        assert_int_equal(*at(&b.d, 0x81000), 0);
        assert_int_equal(*at(&b.d, 0x84000), 0x55);
        assert_true(b.e->code_writes > 0);
        assert_true(b.e->flags[0x82] & MEM_PAGE_DIRTY);
        send(&b, 1, (u32[]){0x81, 0x82}, 2); // comes back when it is touched
        assert_int_equal(b.calls, 2);
        destroy(&b);
    }
}

static void nonsense(void **state)
{
    struct balloon b;

    (void)state;
    start(&b, false, 0);
    // ROM, MMIO, holes, the end of the address space.
    send(&b, 0, (u32[]){ENV_ROM >> 12, ENV_MMIO >> 12, ENV_HOLE >> 12, ~0u, 0xfffff, 2 * ENV_RAM >> 12}, 6);
    assert_int_equal(b.calls, 0);
    // Not a whole number; only writable buffers.
    put_desc(&b.d, 0, 0, LIST, 3, 0, 0);
    put_desc(&b.d, 0, 1, LIST, 64, D_WRITE, 0);
    driver_publish(&b.d, 0, 0);
    driver_publish(&b.d, 0, 1);
    driver_kick(&b.d, 0);
    assert_int_equal(b.calls, 0);
    assert_false(b.dev->v.broken);
    // More at once than is sensible.
    for (u16 i = 0; i < 3; i++)
        put_desc(&b.d, 0, i, 0, 0x80000, i < 2 ? D_NEXT : 0, i + 1);
    driver_publish(&b.d, 0, 0);
    driver_kick(&b.d, 0);
    assert_true(b.dev->v.broken);
    destroy(&b);
}

static void target(void **state)
{
    struct balloon b;

    (void)state;
    start(&b, false, F_DEFLATE_ON_OOM);
    assert_int_equal(driver_config(&b.d, 0, 4), 0);
    virtio_balloon_set_target(b.dev, 64 << 20);
    assert_true(env_irq(b.e));
    assert_int_equal(driver_isr(&b.d), VIRTIO_ISR_CONFIG);
    assert_int_equal(driver_config(&b.d, 0, 4), 16384);
    driver_config_write(&b.d, 4, 4, 1000);
    driver_config_write(&b.d, 0, 4, 1000); // not the driver's
    assert_int_equal(virtio_balloon_actual(b.dev), 1000 << 12);
    assert_int_equal(driver_config(&b.d, 0, 4), 16384);
    virtio_balloon_set_target(b.dev, ~0ull);
    assert_int_equal(driver_config(&b.d, 0, 4), 0xffffffff);
    destroy(&b);
}

static void put_stat(struct balloon *b, unsigned i, u16 tag, u64 value)
{
    put(&b->d, LIST + 10 * i, 2, tag);
    put(&b->d, LIST + 10 * i + 2, 8, value);
}

static void statistics(void **state)
{
    struct balloon b;

    (void)state;
    start(&b, false, F_STATS);
    assert_int_equal(b.dev->stat[BALLOON_FREE], BALLOON_UNKNOWN);
    virtio_balloon_ask(b.dev); // nobody has given a buffer
    put_stat(&b, 0, BALLOON_FREE, 12345);
    put_stat(&b, 1, BALLOON_TOTAL, 99999);
    put_stat(&b, 2, 0xffff, 1);
    put_desc(&b.d, 2, 0, LIST, 35, 0, 0); // and a half one
    driver_publish(&b.d, 2, 0);
    driver_kick(&b.d, 2);
    assert_int_equal(driver_used(&b.d, 2, NULL), -1);
    assert_int_equal(b.dev->stat[BALLOON_FREE], 12345);
    assert_int_equal(b.dev->stat[BALLOON_TOTAL], 99999);
    virtio_balloon_ask(b.dev);
    assert_true(env_irq(b.e));
    assert_int_equal(driver_used(&b.d, 2, NULL), 0);
    put_stat(&b, 0, BALLOON_FREE, 777);
    driver_publish(&b.d, 2, 0);
    driver_kick(&b.d, 2);
    assert_int_equal(b.dev->stat[BALLOON_FREE], 777);
    driver_set_status(&b.d, 0);
    assert_int_equal(b.dev->stat[BALLOON_FREE], BALLOON_UNKNOWN);
    virtio_balloon_ask(b.dev);
    destroy(&b);
}

static void reports(void **state)
{
    struct balloon b;

    (void)state;
    start(&b, false, F_STATS | F_REPORTING);
    put_desc(&b.d, 3, 0, 0x80000, 0x4000, D_WRITE | D_NEXT, 1);
    put_desc(&b.d, 3, 1, 0x90800, 0x2000, D_WRITE, 0); // one whole page in it
    driver_publish(&b.d, 3, 0);
    driver_kick(&b.d, 3);
    assert_int_equal(driver_used(&b.d, 3, NULL), 0);
    assert_int_equal(b.calls, 2);
    assert_int_equal(b.last_off, 0x91000);
    assert_int_equal(b.last_len, 0x1000);
    destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inflate),    cmocka_unit_test(nonsense), cmocka_unit_test(target),
        cmocka_unit_test(statistics), cmocka_unit_test(reports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
