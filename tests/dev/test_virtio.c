// Virtqueues and both register layouts, driven through the entropy device (which fills what it is given), and every way in which a
// driver can break the rules.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "core/clock.h"
#include "dev/virtio_env.h"
#include "dev/virtio_rng.h"

#define RINGS 0x10000
#define BUFFER 0x40000
#define TABLE 0x50000

struct rng {
    struct env *e;
    struct virtio_rng *dev;
    struct driver d;
    u8 next;
};

static u64 count_up(void *source, void *buf, u64 len)
{
    struct rng *r = source;

    for (u64 i = 0; i < len; i++)
        ((u8 *)buf)[i] = ++r->next;
    return len;
}

static void create(struct rng *r, enum virtio_pci_kind kind, bool legacy)
{
    struct virtio_rng_config c = {count_up, r};
    struct virtio_attach a;

    *r = (struct rng){.e = env_new(), .dev = calloc(1, sizeof(*r->dev))};
    a = env_attach(r->e, kind);
    assert_int_equal(virtio_rng_create(r->dev, &a, &c), 0);
    driver_init(&r->d, r->e, &r->dev->v, &r->dev->pci, legacy);
}

static void destroy(struct rng *r)
{
    env_free(r->e);
    free(r->dev);
}

static void start(struct rng *r, bool legacy, u64 features)
{
    create(r, VIRTIO_PCI_TRANSITIONAL, legacy);
    driver_start(&r->d, features, RINGS);
    assert_int_equal(driver_status(&r->d), legacy ? 7 : 0x0f);
}

static void offer(struct rng *r, u16 head)
{
    driver_publish(&r->d, 0, head);
    driver_kick(&r->d, 0);
}

// --- registers ------------------------------------------------------------------------------------------------------------

static void identity(void **state)
{
    struct rng r;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    assert_int_equal(pci_config_read(r.d.pci, 0, 4), 0x10051af4);
    assert_int_equal(pci_config_read(r.d.pci, 8, 4), 0x00ff0000);
    assert_int_equal(pci_config_read(r.d.pci, 0x2c, 4), 0x00041af4);
    assert_int_equal(driver_offered(&r.d), VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    r.d.legacy = true;
    assert_int_equal(driver_offered(&r.d), VIRTIO_F_ANY_LAYOUT | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    destroy(&r);
    create(&r, VIRTIO_PCI_MODERN, false);
    assert_int_equal(pci_config_read(r.d.pci, 0, 4), 0x10441af4);
    assert_int_equal(pci_config_read(r.d.pci, 8, 1), 1);
    assert_int_equal(pci_config_read(r.d.pci, 0x10, 4), 0);
    destroy(&r);
    create(&r, VIRTIO_PCI_LEGACY, true);
    assert_int_equal(pci_config_read(r.d.pci, 0, 4), 0x10051af4);
    assert_int_equal(r.d.pci->region[4].kind, PCI_REGION_NONE);
    destroy(&r);
}

// The capability of a type, or 0.
static unsigned find_cap(struct driver *d, u8 type)
{
    for (unsigned at = pci_config_read(d->pci, PCI_CAP_POINTER, 1); at; at = pci_config_read(d->pci, at + 1, 1))
        if (pci_config_read(d->pci, at, 1) == PCI_CAP_VENDOR && pci_config_read(d->pci, at + 3, 1) == type)
            return at;
    return 0;
}

static void capabilities(void **state)
{
    struct rng r;
    unsigned cap;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    for (u8 type = 1; type <= 4; type++) {
        static const u32 offset[] = {0, 0x0000, 0x3000, 0x1000, 0x2000};
        cap = find_cap(&r.d, type);
        assert_int_not_equal(cap, 0);
        assert_int_equal(pci_config_read(r.d.pci, cap + 4, 1), 4);
        assert_int_equal(pci_config_read(r.d.pci, cap + 8, 4), offset[type]);
        assert_int_equal(pci_config_read(r.d.pci, cap + 12, 4), 0x1000);
    }
    assert_int_equal(pci_config_read(r.d.pci, find_cap(&r.d, 2) + 16, 4), 4);
    // The window reaches the status register.
    cap = find_cap(&r.d, 5);
    assert_int_not_equal(cap, 0);
    pci_config_write(r.d.pci, cap + 4, 1, 4);
    pci_config_write(r.d.pci, cap + 8, 4, 0x14);
    pci_config_write(r.d.pci, cap + 12, 4, 1);
    pci_config_write(r.d.pci, cap + 16, 1, 3);
    assert_int_equal(driver_status(&r.d), 3);
    driver_set_status(&r.d, 1);
    assert_int_equal(pci_config_read(r.d.pci, cap + 16, 1), 1);
    // Nonsense in it does nothing.
    for (unsigned bar = 0; bar < 256; bar += 5)
        for (unsigned len = 0; len < 9; len++) {
            pci_config_write(r.d.pci, cap + 4, 1, bar);
            pci_config_write(r.d.pci, cap + 8, 4, 0xfffffffd);
            pci_config_write(r.d.pci, cap + 12, 4, len);
            pci_config_write(r.d.pci, cap + 16, 4, 0);
            pci_config_read(r.d.pci, cap + 16, 4);
        }
    assert_int_equal(driver_status(&r.d), 1);
    destroy(&r);
}

static void negotiation(void **state)
{
    struct rng r;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    driver_set_status(&r.d, 3);
    driver_accept(&r.d, VIRTIO_F_VERSION_1 | 1); // never offered
    driver_set_status(&r.d, 0x0b);
    assert_int_equal(driver_status(&r.d), 3);
    driver_accept(&r.d, 0); // a modern driver has to take VERSION_1
    driver_set_status(&r.d, 0x0b);
    assert_int_equal(driver_status(&r.d), 3);
    driver_accept(&r.d, VIRTIO_F_VERSION_1);
    driver_set_status(&r.d, 0x0b);
    assert_int_equal(driver_status(&r.d), 0x0b);
    driver_accept(&r.d, 0); // too late
    assert_int_equal(r.dev->v.accepted, VIRTIO_F_VERSION_1);
    driver_set_status(&r.d, 0);
    assert_int_equal(driver_status(&r.d), 0);
    assert_int_equal(r.dev->v.accepted, 0);
    // A legacy driver is given the bits that exist.
    r.d.legacy = true;
    driver_accept(&r.d, ~0ull);
    assert_int_equal(r.dev->v.accepted, VIRTIO_F_ANY_LAYOUT | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    destroy(&r);
}

static void queue_registers(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    assert_int_equal(rd(&r.d, 0x12, 2), 1); // queues
    wr(&r.d, 0x16, 2, 0);
    assert_int_equal(rd(&r.d, 0x18, 2), 8);
    assert_int_equal(rd(&r.d, 0x1c, 2), 1);
    assert_int_equal(rd(&r.d, 0x20, 8), RINGS);
    assert_int_equal(rd(&r.d, 0x28, 8), RINGS + 0x1000);
    assert_int_equal(rd(&r.d, 0x30, 8), RINGS + 0x2000);
    wr(&r.d, 0x20, 8, 0x123450); // in use: stays
    wr(&r.d, 0x18, 2, 4);
    assert_int_equal(rd(&r.d, 0x20, 8), RINGS);
    assert_int_equal(rd(&r.d, 0x18, 2), 8);
    wr(&r.d, 0x16, 2, 1); // there is no second queue
    assert_int_equal(rd(&r.d, 0x18, 2), 0);
    wr(&r.d, 0x16, 2, 0xffff);
    wr(&r.d, 0x1c, 2, 1);
    assert_int_equal(rd(&r.d, 0x1c, 2), 0);
    // Vectors that do not exist read back as none.
    wr(&r.d, 0x10, 2, 1);
    assert_int_equal(rd(&r.d, 0x10, 2), 1);
    wr(&r.d, 0x10, 2, 2);
    assert_int_equal(rd(&r.d, 0x10, 2), 0xffff);
    // Everything can be read and written with any size.
    for (u64 off = 0; off < 0x4000; off += off < 0x60 ? 1 : 61)
        for (unsigned size = 1; size <= 8; size *= 2) {
            rd(&r.d, off, size);
            wr(&r.d, off, size, 0x5a5a5a5a5a5a5a5aull);
        }
    destroy(&r);
}

// --- transfers ------------------------------------------------------------------------------------------------------------

static void fill_with(bool legacy, u64 features)
{
    struct rng r;
    u32 id;

    start(&r, legacy, features);
    for (unsigned round = 0; round < 40; round++) {
        u16 head = round % 8;
        put_desc(&r.d, 0, head, BUFFER, 5, D_WRITE | D_NEXT, (head + 1) % 8);
        put_desc(&r.d, 0, (head + 1) % 8, BUFFER + 0x1000, 3, D_WRITE, 0);
        put(&r.d, r.d.ring[0].avail + 4 + 2 * 8, 2, round); // used_event: the next one
        r.next = 0;
        offer(&r, head);
        assert_int_equal(driver_used(&r.d, 0, &id), 8);
        assert_int_equal(id, head);
        assert_memory_equal(at(&r.d, BUFFER), "\1\2\3\4\5", 5);
        assert_memory_equal(at(&r.d, BUFFER + 0x1000), "\6\7\10", 3);
        assert_true(env_irq(r.e));
        assert_int_equal(driver_isr(&r.d), VIRTIO_ISR_QUEUE);
        assert_false(env_irq(r.e));
        assert_int_equal(driver_isr(&r.d), 0);
    }
    driver_kick(&r.d, 0);
    assert_false(env_irq(r.e));
    if (features & VIRTIO_F_EVENT_IDX) // the device asks for the next
        assert_int_equal(get16(&r.d, r.d.ring[0].used + 4 + 8 * 8), 40);
    destroy(&r);
}

static void fill(void **state)
{
    (void)state;
    fill_with(false, 0);
    fill_with(false, VIRTIO_F_EVENT_IDX);
    fill_with(true, 0);
    fill_with(true, VIRTIO_F_EVENT_IDX);
}

// What a driver did before it said ready is done when it does.
static void kick_before_ready(void **state)
{
    struct rng r;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    driver_set_status(&r.d, 3);
    driver_accept(&r.d, VIRTIO_F_VERSION_1);
    driver_set_status(&r.d, 0x0b);
    driver_place(&r.d, 0, RINGS);
    driver_enable(&r.d, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), -1);
    driver_set_status(&r.d, 0x0f);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    destroy(&r);
    // Old drivers do not wait.
    create(&r, VIRTIO_PCI_TRANSITIONAL, true);
    driver_place(&r.d, 0, RINGS);
    driver_enable(&r.d, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    destroy(&r);
}

static void indirect(void **state)
{
    struct rng r;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        start(&r, legacy, VIRTIO_F_INDIRECT_DESC);
        put_desc_at(&r.d, TABLE, BUFFER, 4, D_WRITE | D_NEXT, 2);
        put_desc_at(&r.d, TABLE + 16, ENV_HOLE, 0, 0, 9); // not used
        put_desc_at(&r.d, TABLE + 32, BUFFER + 64, 4, D_WRITE, 0);
        put_desc(&r.d, 0, 3, TABLE, 48, D_INDIRECT | D_WRITE, 0); // WRITE is to be ignored here
        offer(&r, 3);
        assert_int_equal(driver_used(&r.d, 0, NULL), 8);
        assert_memory_equal(at(&r.d, BUFFER + 64), "\5\6\7\10", 4);
        destroy(&r);
    }
}

static void suppression(void **state)
{
    struct rng r;
    u64 event;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    put(&r.d, r.d.ring[0].avail, 2, 1); // NO_INTERRUPT
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    assert_false(env_irq(r.e));
    put(&r.d, r.d.ring[0].avail, 2, 0);
    offer(&r, 0);
    assert_true(env_irq(r.e));
    destroy(&r);

    start(&r, false, VIRTIO_F_EVENT_IDX);
    event = r.d.ring[0].avail + 4 + 2 * 8;
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0); // the first always interrupts
    driver_isr(&r.d);
    put(&r.d, event, 2, 3);
    offer(&r, 0);
    offer(&r, 0);
    assert_false(env_irq(r.e));
    offer(&r, 0); // used index 3 to 4: crosses
    assert_true(env_irq(r.e));
    driver_isr(&r.d);
    offer(&r, 0);
    assert_false(env_irq(r.e));
    destroy(&r);
}

static void msix(void **state)
{
    struct rng r;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        create(&r, VIRTIO_PCI_TRANSITIONAL, legacy);
        driver_msix(&r.d);
        driver_start(&r.d, 0, RINGS);
        wr(&r.d, legacy ? 0x0e : 0x16, 2, 0);
        wr(&r.d, legacy ? 0x16 : 0x1a, 2, 1);
        assert_int_equal(rd(&r.d, legacy ? 0x16 : 0x1a, 2), 1);
        wr(&r.d, legacy ? 0x14 : 0x10, 2, 0);
        put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
        offer(&r, 0);
        assert_int_equal(r.e->messages, 1);
        assert_int_equal(r.e->last_message, 1);
        assert_false(env_irq(r.e));
        assert_int_equal(driver_isr(&r.d), 0);
        // Masked: pending until it is not.
        pci_region_write(r.d.pci, 1, 16 + 12, 4, 1);
        offer(&r, 0);
        assert_int_equal(r.e->messages, 1);
        pci_region_write(r.d.pci, 1, 16 + 12, 4, 0);
        assert_int_equal(r.e->messages, 2);
        virtio_config_changed(&r.dev->v);
        assert_int_equal(r.e->messages, 3);
        assert_int_equal(r.e->last_message, 0);
        // Without a vector: nothing.
        wr(&r.d, legacy ? 0x16 : 0x1a, 2, 0xffff);
        offer(&r, 0);
        assert_int_equal(r.e->messages, 3);
        driver_set_status(&r.d, 0);
        wr(&r.d, legacy ? 0x0e : 0x16, 2, 0);
        assert_int_equal(rd(&r.d, legacy ? 0x16 : 0x1a, 2), 0xffff);
        destroy(&r);
    }
}

static void config_change(void **state)
{
    struct rng r;
    u8 generation;

    (void)state;
    start(&r, false, 0);
    generation = (u8)rd(&r.d, 0x15, 1);
    virtio_config_changed(&r.dev->v);
    assert_int_not_equal(rd(&r.d, 0x15, 1), generation);
    assert_true(env_irq(r.e));
    assert_int_equal(driver_isr(&r.d), VIRTIO_ISR_CONFIG);
    driver_set_status(&r.d, 0);
    virtio_config_changed(&r.dev->v); // nobody listens
    assert_false(env_irq(r.e));
    destroy(&r);
}

static void pages_are_marked(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, BUFFER + 4090, 12, D_WRITE, 0);
    for (unsigned i = 0; i < ARRAY_LEN(r.e->flags); i++)
        r.e->flags[i] = MEM_PAGE_CODE;
    offer(&r, 0);
    assert_int_equal(r.e->flags[BUFFER >> 12], MEM_PAGE_CODE | MEM_PAGE_DIRTY);
    assert_int_equal(r.e->flags[(BUFFER >> 12) + 1], MEM_PAGE_CODE | MEM_PAGE_DIRTY);
    assert_int_equal(r.e->flags[(BUFFER >> 12) + 2], MEM_PAGE_CODE);
    assert_int_equal(r.e->flags[(RINGS + 0x2000) >> 12], MEM_PAGE_CODE | MEM_PAGE_DIRTY);
    assert_int_equal(r.e->flags[RINGS >> 12], MEM_PAGE_CODE);
    assert_true(r.e->code_writes >= 3);
    destroy(&r);
}

// A buffer across two regions of RAM is one buffer.
static void region_crossing(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, ENV_HIGH - 2, 6, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 6);
    assert_memory_equal(r.e->high - 2, "\1\2\3\4\5\6", 6);
    destroy(&r);
}

static void bus_master(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    pci_config_write(r.d.pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), -1);
    pci_config_write(r.d.pci, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    // An old driver that forgets is helped.
    driver_set_status(&r.d, 0);
    pci_config_write(r.d.pci, PCI_COMMAND, 2, PCI_COMMAND_IO);
    r.d.legacy = true;
    driver_start(&r.d, 0, RINGS);
    assert_true(pci_bus_master(r.d.pci));
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    destroy(&r);
}

static void bus_reset(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0);
    assert_true(env_irq(r.e));
    pci_bus_reset(&r.e->bus);
    assert_false(env_irq(r.e));
    assert_int_equal(driver_status(&r.d), 0);
    offer(&r, 0);
    assert_int_equal(r.dev->v.queue[0].enabled, false);
    destroy(&r);
}

static void legacy_pfn(void **state)
{
    struct rng r;

    (void)state;
    start(&r, true, 0);
    assert_int_equal(rd(&r.d, 8, 4), RINGS >> 12);
    wr(&r.d, 8, 4, ENV_HOLE >> 12); // in use: stays
    assert_int_equal(rd(&r.d, 8, 4), RINGS >> 12);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 4);
    wr(&r.d, 8, 4, 0);
    assert_int_equal(rd(&r.d, 8, 4), 0);
    assert_int_equal(driver_status(&r.d), 0);
    wr(&r.d, 0x0e, 2, 7);
    assert_int_equal(rd(&r.d, 0x0c, 2), 0);
    wr(&r.d, 8, 4, RINGS >> 12);
    assert_int_equal(rd(&r.d, 8, 4), 0);
    destroy(&r);
}

// --- bounded work ---------------------------------------------------------------------------------------------------------

// A driver whose index runs ahead as fast as the device follows: the available index lies in a buffer that the device fills, so that
// every chain it takes makes another one available.
static void endless_supply(void **state)
{
    struct rng r;
    u16 taken;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, r.d.ring[0].avail + 2, 1, D_WRITE, 0); // count_up() makes it the next index
    r.next = 1;
    driver_publish(&r.d, 0, 0);
    driver_kick(&r.d, 0);
    taken = r.dev->v.queue[0].last_avail;
    assert_int_equal(taken, 8); // as many as the queue has entries
    assert_true(r.dev->v.queue[0].again);
    virtio_continue(&r.dev->v);
    assert_int_equal(r.dev->v.queue[0].last_avail, 16);
    assert_false(r.dev->v.broken);
    destroy(&r);
}

// --- broken rules -----------------------------------------------------------------------------------------------------------

static void expect_broken(struct rng *r, bool legacy)
{
    u16 used = get16(&r->d, r->d.ring[0].used + 2);

    assert_true(r->dev->v.broken);
    if (!legacy) {
        assert_true(driver_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(driver_isr(&r->d) & VIRTIO_ISR_CONFIG, VIRTIO_ISR_CONFIG);
    }
    // Nothing works any more,
    put_desc(&r->d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(r, 0);
    assert_int_equal(get16(&r->d, r->d.ring[0].used + 2), used);
    // until a reset.
    driver_start(&r->d, 0, RINGS);
    assert_false(r->dev->v.broken);
    put_desc(&r->d, 0, 0, BUFFER, 4, D_WRITE, 0);
    offer(r, 0);
    assert_int_equal(driver_used(&r->d, 0, NULL), 4);
}

struct bad_chain {
    const char *what;
    struct {
        u64 addr;
        u32 len;
        u16 flags, next;
    } desc[3], table[3];
    u16 head;
    bool no_indirect;
};

static const struct bad_chain bad_chains[] = {
    {"head", .head = 8},
    {"head far", .head = 0xffff},
    {"empty buffer", .desc = {{BUFFER, 0, D_WRITE, 0}}},
    {"next out of range", .desc = {{BUFFER, 4, D_WRITE | D_NEXT, 8}}},
    {"loop of one", .desc = {{BUFFER, 4, D_WRITE | D_NEXT, 0}}},
    {"loop of two", .desc = {{BUFFER, 4, D_WRITE | D_NEXT, 1}, {BUFFER, 4, D_WRITE | D_NEXT, 0}}},
    {"read after write", .desc = {{BUFFER, 4, D_WRITE | D_NEXT, 1}, {BUFFER, 4, 0, 0}}},
    {"write to MMIO", .desc = {{ENV_MMIO, 4, D_WRITE, 0}}},
    {"read from MMIO", .desc = {{ENV_MMIO, 4, 0, 0}}},
    {"write to ROM", .desc = {{ENV_ROM, 4, D_WRITE, 0}}},
    {"hole", .desc = {{ENV_HOLE, 4, D_WRITE, 0}}},
    {"into a hole", .desc = {{ENV_ROM + 4090, 16, 0, 0}}},
    {"RAM into ROM", .desc = {{ENV_ROM - 4, 16, D_WRITE, 0}}},
    {"end of the address space", .desc = {{~0ull - 3, 4, D_WRITE, 0}}},
    {"around the address space", .desc = {{~0ull - 3, 16, D_WRITE, 0}}},
    {"huge", .desc = {{0, ~0u, D_WRITE, 0}}},
    {"indirect without the feature", .desc = {{TABLE, 16, D_INDIRECT, 0}}, .table = {{BUFFER, 4, D_WRITE, 0}},
     .no_indirect = true},
    {"indirect with next", .desc = {{TABLE, 16, D_INDIRECT | D_NEXT, 1}, {BUFFER, 4, D_WRITE, 0}},
     .table = {{BUFFER, 4, D_WRITE, 0}}},
    {"indirect in indirect", .desc = {{TABLE, 32, D_INDIRECT, 0}},
     .table = {{TABLE + 16, 16, D_INDIRECT, 0}, {BUFFER, 4, D_WRITE, 0}}},
    {"indirect of no length", .desc = {{TABLE, 0, D_INDIRECT, 0}}, .table = {{BUFFER, 4, D_WRITE, 0}}},
    {"indirect of odd length", .desc = {{TABLE, 24, D_INDIRECT, 0}}, .table = {{BUFFER, 4, D_WRITE, 0}}},
    {"indirect in a hole", .desc = {{ENV_HOLE, 16, D_INDIRECT, 0}}},
    {"indirect in MMIO", .desc = {{ENV_MMIO, 16, D_INDIRECT, 0}}},
    {"indirect into a hole", .desc = {{ENV_ROM + 4080, 32, D_INDIRECT, 0}}},
    {"indirect huge", .desc = {{TABLE, 0xfffffff0, D_INDIRECT, 0}}, .table = {{BUFFER, 4, D_WRITE, 0}}},
    {"indirect next", .desc = {{TABLE, 32, D_INDIRECT, 0}},
     .table = {{BUFFER, 4, D_WRITE | D_NEXT, 2}, {BUFFER, 4, D_WRITE, 0}}},
    {"indirect loop", .desc = {{TABLE, 32, D_INDIRECT, 0}},
     .table = {{BUFFER, 4, D_WRITE | D_NEXT, 1}, {BUFFER, 4, D_WRITE | D_NEXT, 0}}},
};

static void bad_chain(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad_chains); i++)
        for (int legacy = 0; legacy < 2; legacy++) {
            const struct bad_chain *b = &bad_chains[i];
            struct rng r;
            start(&r, legacy, b->no_indirect ? 0 : VIRTIO_F_INDIRECT_DESC);
            for (u16 j = 0; j < 3; j++) {
                put_desc(&r.d, 0, j, b->desc[j].addr, b->desc[j].len, b->desc[j].flags, b->desc[j].next);
                put_desc_at(&r.d, TABLE + 16u * j, b->table[j].addr, b->table[j].len, b->table[j].flags,
                            b->table[j].next);
            }
            offer(&r, b->head);
            if (!r.dev->v.broken)
                fail_msg("%s: not noticed", b->what);
            expect_broken(&r, legacy);
            destroy(&r);
        }
}

static void index_jump(void **state)
{
    struct rng r;

    (void)state;
    start(&r, false, 0);
    put_desc(&r.d, 0, 0, BUFFER, 4, D_WRITE, 0);
    put(&r.d, r.d.ring[0].avail + 2, 2, 9);
    driver_kick(&r.d, 0);
    expect_broken(&r, false);
    put(&r.d, r.d.ring[0].avail + 2, 2, 0); // backwards
    driver_kick(&r.d, 0);
    expect_broken(&r, false);
    destroy(&r);
}

struct bad_ring {
    const char *what;
    u64 desc, avail, used;
    u16 size;
};

static const struct bad_ring bad_rings[] = {
    {"size 0", RINGS, RINGS + 0x1000, RINGS + 0x2000, 0},
    {"size 3", RINGS, RINGS + 0x1000, RINGS + 0x2000, 3},
    {"size too large", RINGS, RINGS + 0x1000, RINGS + 0x2000, 16},
    {"size 32768", RINGS, RINGS + 0x1000, RINGS + 0x2000, 32768},
    {"descriptors not aligned", RINGS + 8, RINGS + 0x1000, RINGS + 0x2000, 8},
    {"available ring not aligned", RINGS, RINGS + 0x1001, RINGS + 0x2000, 8},
    {"used ring not aligned", RINGS, RINGS + 0x1000, RINGS + 0x2002, 8},
    {"descriptors in MMIO", ENV_MMIO, RINGS + 0x1000, RINGS + 0x2000, 8},
    {"available ring in a hole", RINGS, ENV_HOLE, RINGS + 0x2000, 8},
    {"used ring in ROM", RINGS, RINGS + 0x1000, ENV_ROM, 8},
    {"descriptors into MMIO", ENV_MMIO - 64, RINGS + 0x1000, RINGS + 0x2000, 8},
    {"available ring out of RAM", RINGS, ENV_ROM + 4096 - 20, RINGS + 0x2000, 8},
    {"used ring out of RAM", RINGS, RINGS + 0x1000, 2 * ENV_RAM - 68, 8},
    {"past the end", ~0ull << 4, ~0ull << 1, ~0ull << 2, 8},
};

static void bad_ring(void **state)
{
    struct rng r;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad_rings); i++) {
        const struct bad_ring *b = &bad_rings[i];
        create(&r, VIRTIO_PCI_TRANSITIONAL, false);
        driver_set_status(&r.d, 3);
        driver_accept(&r.d, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
        driver_set_status(&r.d, 0x0b);
        r.d.ring[0] = (struct ring){b->desc, b->avail, b->used, b->size, 0, 0};
        driver_enable(&r.d, 0);
        if (!r.dev->v.broken)
            fail_msg("%s: not noticed", b->what);
        assert_int_equal(rd(&r.d, 0x1c, 2), 0);
        driver_set_status(&r.d, 0x0f);
        assert_int_equal(driver_status(&r.d), 0x4f);
        driver_kick(&r.d, 0);
        r.d.ring[0].used = RINGS + 0x2000;
        driver_start(&r.d, 0, RINGS);
        assert_int_equal(driver_status(&r.d), 0x0f);
        destroy(&r);
    }
    create(&r, VIRTIO_PCI_TRANSITIONAL, true);
    wr(&r.d, 8, 4, ENV_HOLE >> 12);
    assert_true(r.dev->v.broken);
    assert_int_equal(rd(&r.d, 8, 4), 0);
    wr(&r.d, 8, 4, 0xffffffff);
    driver_start(&r.d, 0, RINGS);
    assert_false(r.dev->v.broken);
    destroy(&r);
}

// Rings in memory that becomes ROM while the device uses them: it reads on, and what it writes is lost.
static void ring_under_rom(void **state)
{
    u8 *rom = aligned_alloc(4096, ENV_RAM);
    struct mem_region below, above = {.host = rom};
    struct rng r;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    memset(rom, 0xff, ENV_RAM);
    above.page_flags = r.e->flags;
    below = (struct mem_region){.host = r.e->high, .page_flags = r.e->flags + ENV_RAM / 4096};
    r.e->mem = (struct mem){.phys_mask = 0};
    assert_int_equal(mem_add_ram(&r.e->mem, 0, ENV_RAM, r.e->ram, r.e->flags, "ram"), 0);
    assert_int_equal(mem_add_shadow(&r.e->mem, ENV_HIGH, ENV_RAM, &above, &below, "shadow"), 0);
    mem_shadow_set(&r.e->mem, ENV_HIGH, MEM_SHADOW_READ | MEM_SHADOW_WRITE);
    driver_start(&r.d, VIRTIO_F_EVENT_IDX, ENV_HIGH);
    put_desc(&r.d, 0, 0, BUFFER, 16, D_WRITE, 0);
    offer(&r, 0);
    assert_int_equal(driver_used(&r.d, 0, NULL), 16);
    for (u32 what = 0; what < 3; what++) { // no writing into all of them
        mem_shadow_set(&r.e->mem, ENV_HIGH, what);
        offer(&r, 0);
        assert_int_equal(driver_used(&r.d, 0, NULL), -1);
    }
    assert_int_equal(rom[0x1000], 0xff);
    destroy(&r);
    free(rom);
}

// A driver that enables a ring before it takes the feature that makes the ring longer.
static void feature_after_ring(void **state)
{
    struct rng r;

    (void)state;
    create(&r, VIRTIO_PCI_TRANSITIONAL, false);
    driver_set_status(&r.d, 3);
    driver_place(&r.d, 0, RINGS);
    r.d.ring[0].used = ENV_RAM - 4 - 8 * 8; // the event field would be the first bytes of the next region
    driver_enable(&r.d, 0);
    driver_accept(&r.d, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
    driver_set_status(&r.d, 0x0b);
    driver_set_status(&r.d, 0x0f);
    driver_kick(&r.d, 0);
    assert_true(r.dev->v.broken);
    destroy(&r);
}

static void text(void **state)
{
    struct rng r;
    char buf[400];

    (void)state;
    start(&r, false, 0);
    r.d.pci->ops->dump(r.d.pci->self, buf, sizeof(buf));
    assert_non_null(strstr(buf, "virtio-rng"));
    assert_non_null(strstr(buf, "queue 0: size 8"));
    for (size_t n = 0; n < sizeof(buf); n++)
        r.d.pci->ops->dump(r.d.pci->self, buf, n);
    destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),
        cmocka_unit_test(capabilities),
        cmocka_unit_test(negotiation),
        cmocka_unit_test(queue_registers),
        cmocka_unit_test(fill),
        cmocka_unit_test(kick_before_ready),
        cmocka_unit_test(indirect),
        cmocka_unit_test(suppression),
        cmocka_unit_test(msix),
        cmocka_unit_test(config_change),
        cmocka_unit_test(pages_are_marked),
        cmocka_unit_test(region_crossing),
        cmocka_unit_test(bus_master),
        cmocka_unit_test(bus_reset),
        cmocka_unit_test(legacy_pfn),
        cmocka_unit_test(endless_supply),
        cmocka_unit_test(bad_chain),
        cmocka_unit_test(index_jump),
        cmocka_unit_test(bad_ring),
        cmocka_unit_test(ring_under_rom),
        cmocka_unit_test(feature_after_ring),
        cmocka_unit_test(text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
