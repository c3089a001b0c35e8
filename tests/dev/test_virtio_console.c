// Consoles and named ports, with and without multiport.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dev/virtio_console.h"
#include "dev/virtio_env.h"

#define RINGS 0x10000
#define BUFFER 0x80000

#define F_MULTIPORT (1ull << 1)

enum { READY = 0, ADD = 1, PORT_READY = 3, CONSOLE = 4, OPEN = 6, NAME = 7 };

// A far end.
struct peer {
    u8 got[8192];
    u64 got_count, room; // room: bytes that it takes before it is full
    const char *coming;
    int opened; // calls, +1 open -1 close
};

struct console {
    struct env *e;
    struct virtio_console *dev;
    struct driver d;
    struct peer peer[2]; // of ports 0 and 2
};

static u64 take(void *out, const u8 *bytes, u64 len)
{
    struct peer *p = out;

    if (len > p->room)
        len = p->room;
    assert_true(p->got_count + len <= sizeof(p->got));
    memcpy(p->got + p->got_count, bytes, len);
    p->got_count += len;
    p->room -= len;
    return len;
}

static u64 give(void *in, u8 *bytes, u64 max)
{
    struct peer *p = in;
    u64 n;

    if (!p->coming)
        return 0;
    n = strlen(p->coming);
    n = n < max ? n : max;
    memcpy(bytes, p->coming, n);
    p->coming += n;
    return n;
}

static void opened(void *out, bool open)
{
    ((struct peer *)out)->opened += open ? 1 : -1;
}

static void start(struct console *c, bool legacy, u64 features)
{
    struct virtio_console_port_config ports[2] = {
        {.nr = 0, .console = true, .connected = true, .peer = {take, give, opened, &c->peer[0], &c->peer[0]}},
        {.nr = 2, .name = "org.test.0", .peer = {take, give, opened, &c->peer[1], &c->peer[1]}}};
    struct virtio_console_config config = {4, ports, 2};
    struct virtio_attach a;

    *c = (struct console){.e = env_new(), .dev = calloc(1, sizeof(*c->dev))};
    c->peer[0].room = c->peer[1].room = 8192;
    a = env_attach(c->e, VIRTIO_PCI_TRANSITIONAL);
    assert_int_equal(virtio_console_create(c->dev, &a, &config), 0);
    driver_init(&c->d, c->e, &c->dev->v, &c->dev->pci, legacy);
    driver_start(&c->d, features, RINGS);
}

static void destroy(struct console *c)
{
    env_free(c->e);
    free(c->dev);
}

// One writable buffer of `len` bytes in a queue.
static void offer(struct console *c, unsigned queue, u32 len)
{
    put_desc(&c->d, queue, 0, BUFFER + queue * 0x1000, len, D_WRITE, 0);
    driver_publish(&c->d, queue, 0);
    driver_kick(&c->d, queue);
}

static void send(struct console *c, unsigned queue, const void *bytes, u32 len)
{
    memcpy(at(&c->d, BUFFER + queue * 0x1000), bytes, len);
    put_desc(&c->d, queue, 0, BUFFER + queue * 0x1000, len, 0, 0);
    driver_publish(&c->d, queue, 0);
    driver_kick(&c->d, queue);
}

static void control(struct console *c, u32 id, u16 event, u16 value)
{
    struct {
        u32 id;
        u16 event, value;
    } m = {id, event, value};

    send(c, 3, &m, sizeof(m));
    assert_int_equal(driver_used(&c->d, 3, NULL), 0);
}

// The next control message, with a fresh buffer for it.
static void expect_control(struct console *c, u32 id, u16 event, u16 value, const char *name)
{
    u64 m = BUFFER + 2 * 0x1000;

    offer(c, 2, 64);
    assert_int_equal(driver_used(&c->d, 2, NULL), 8 + strlen(name));
    assert_int_equal(get32(&c->d, m), id);
    assert_int_equal(get16(&c->d, m + 4), event);
    assert_int_equal(get16(&c->d, m + 6), value);
    assert_memory_equal(at(&c->d, m + 8), name, strlen(name));
}

static void identity(void **state)
{
    struct console c;

    (void)state;
    start(&c, false, F_MULTIPORT);
    assert_int_equal(pci_config_read(c.d.pci, 0, 4), 0x10031af4);
    assert_int_equal(pci_config_read(c.d.pci, 8, 4), 0x07800000);
    assert_int_equal(driver_config(&c.d, 4, 4), 4);
    assert_int_equal(rd(&c.d, 0x12, 2), 10);
    assert_int_equal(c.d.pci->msix.count, 5);
    driver_config_write(&c.d, 8, 4, '!'); // emergency
    assert_memory_equal(c.peer[0].got, "!", 1);
    destroy(&c);
}

static void control_messages(void **state)
{
    struct console c;

    (void)state;
    start(&c, false, F_MULTIPORT);
    control(&c, 0, READY, 1);
    expect_control(&c, 0, ADD, 1, "");
    expect_control(&c, 2, ADD, 1, "");
    offer(&c, 2, 64);
    assert_int_equal(driver_used(&c.d, 2, NULL), -1);
    driver_start(&c.d, F_MULTIPORT, RINGS);
    control(&c, 0, PORT_READY, 1);
    control(&c, 2, PORT_READY, 1);
    expect_control(&c, 0, CONSOLE, 1, "");
    expect_control(&c, 0, OPEN, 1, "");
    expect_control(&c, 2, NAME, 1, "org.test.0");
    virtio_console_connect(c.dev, 2, true);
    expect_control(&c, 2, OPEN, 1, "");
    virtio_console_connect(c.dev, 2, false);
    expect_control(&c, 2, OPEN, 0, "");
    // Ports and messages that do not exist.
    control(&c, 1, PORT_READY, 1);
    control(&c, 77, PORT_READY, 1);
    control(&c, ~0u, OPEN, 1);
    control(&c, 2, 0x1234, 1);
    send(&c, 3, "abc", 3);
    virtio_console_connect(c.dev, 1, true);
    virtio_console_connect(c.dev, 99, true);
    virtio_console_poll(c.dev, 99);
    assert_false(c.dev->v.broken);
    // Open and closed by a program, and by a reset.
    control(&c, 2, OPEN, 1);
    control(&c, 2, OPEN, 1);
    assert_int_equal(c.peer[1].opened, 1);
    control(&c, 2, OPEN, 0);
    assert_int_equal(c.peer[1].opened, 0);
    control(&c, 2, OPEN, 1);
    driver_set_status(&c.d, 0);
    assert_int_equal(c.peer[1].opened, 0);
    destroy(&c);
}

static void without_multiport(void **state)
{
    struct console c;

    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        start(&c, legacy, 0);
        send(&c, 1, "hello", 5);
        assert_int_equal(driver_used(&c.d, 1, NULL), 0);
        assert_memory_equal(c.peer[0].got, "hello", 5);
        c.peer[0].coming = "typed";
        virtio_console_poll(c.dev, 0);
        offer(&c, 0, 3);
        assert_int_equal(driver_used(&c.d, 0, NULL), 3);
        assert_memory_equal(at(&c.d, BUFFER), "typ", 3);
        offer(&c, 0, 16);
        assert_int_equal(driver_used(&c.d, 0, NULL), 2);
        offer(&c, 0, 16);
        assert_int_equal(driver_used(&c.d, 0, NULL), -1);
        c.peer[0].coming = "more";
        virtio_console_poll(c.dev, 0);
        assert_int_equal(driver_used(&c.d, 0, NULL), 4);
        destroy(&c);
    }
}

static void named_port(void **state)
{
    struct console c;

    (void)state;
    start(&c, false, F_MULTIPORT);
    c.peer[1].coming = "early";
    offer(&c, 6, 64);
    assert_int_equal(driver_used(&c.d, 6, NULL), -1); // no program has it open
    control(&c, 2, OPEN, 1);
    assert_int_equal(driver_used(&c.d, 6, NULL), 5);
    // Nobody at the far end: lost.
    send(&c, 7, "void", 4);
    assert_int_equal(driver_used(&c.d, 7, NULL), 0);
    assert_int_equal(c.peer[1].got_count, 0);
    virtio_console_connect(c.dev, 2, true);
    send(&c, 7, "heard", 5);
    assert_memory_equal(c.peer[1].got, "heard", 5);
    // A port without a peer.
    send(&c, 5, "nothing", 7);
    offer(&c, 4, 64);
    assert_int_equal(driver_used(&c.d, 4, NULL), -1);
    destroy(&c);
}

// A far end that is full: the driver's buffer stays until there is room.
static void full(void **state)
{
    struct console c;
    u8 bytes[3000];

    (void)state;
    start(&c, false, 0);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (u8)(i / 3);
    c.peer[0].room = 1000;
    send(&c, 1, bytes, sizeof(bytes));
    assert_int_equal(driver_used(&c.d, 1, NULL), -1);
    c.peer[0].room = 500;
    virtio_console_poll(c.dev, 0);
    assert_int_equal(driver_used(&c.d, 1, NULL), -1);
    c.peer[0].room = 5000;
    virtio_console_poll(c.dev, 0);
    assert_int_equal(driver_used(&c.d, 1, NULL), 0);
    assert_int_equal(c.peer[0].got_count, 3000);
    assert_memory_equal(c.peer[0].got, bytes, sizeof(bytes));
    // A reset drops it.
    c.peer[0].room = 0;
    send(&c, 1, bytes, 100);
    driver_start(&c.d, 0, RINGS);
    c.peer[0].room = 1000;
    virtio_console_poll(c.dev, 0);
    assert_int_equal(c.peer[0].got_count, 3000);
    send(&c, 1, bytes, 100);
    assert_int_equal(c.peer[0].got_count, 3100);
    destroy(&c);
}

static void bad_configurations(void **state)
{
    static const struct virtio_console_port_config far = {.nr = 4}, twice[2] = {{.nr = 1}, {.nr = 1}};
    static const char letters[] = "0123456789012345678901234567890123456789012345678901234567890123";
    const struct virtio_console_port_config named = {.nr = 1, .name = letters};
    const struct virtio_console_config bad[] = {
        {0, NULL, 0}, {32, NULL, 0}, {4, &far, 1}, {4, twice, 2}, {4, &named, 1}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct env *e = env_new();
        struct virtio_console *dev = calloc(1, sizeof(*dev));
        struct virtio_attach a = env_attach(e, VIRTIO_PCI_TRANSITIONAL);
        assert_true(virtio_console_create(dev, &a, &bad[i]) < 0);
        env_free(e);
        free(dev);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),
        cmocka_unit_test(control_messages),
        cmocka_unit_test(without_multiport),
        cmocka_unit_test(named_port),
        cmocka_unit_test(full),
        cmocka_unit_test(bad_configurations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
