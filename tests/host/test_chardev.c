// Character devices: rings, peers that are slow or go, shared devices and keys.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/chardev.h"

#define STEP_NS 6000000ull

struct rig {
    struct loop loop;
    struct chardevs s;
    struct chardev *c;
    struct chardev_front f[3];
    unsigned inputs[3], rooms[3], events[3][4];
    unsigned stalls, unstalls, quits;
    char dir[64], path[96];
    struct error err;
};

static unsigned front_index(struct rig *r, void *arg)
{
    return (unsigned)((struct chardev_front *)arg - r->f);
}

static struct rig *rig; // callbacks of fronts have only the front

static void on_input(void *arg)
{
    rig->inputs[front_index(rig, arg)]++;
}

static void on_room(void *arg)
{
    rig->rooms[front_index(rig, arg)]++;
}

static void on_event(void *arg, enum chardev_event e)
{
    rig->events[front_index(rig, arg)][e]++;
}

static void on_stall(void *arg)
{
    ((struct rig *)arg)->stalls++;
}

static void on_unstall(void *arg)
{
    ((struct rig *)arg)->unstalls++;
}

static void on_quit(void *arg)
{
    ((struct rig *)arg)->quits++;
}

static int setup(void **state)
{
    struct rig *r = rig = calloc(1, sizeof(*r));

    strcpy(r->dir, "/tmp/pogo-chardev.XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/it", r->dir);
    assert_int_equal(chardevs_init(&r->s, &r->loop), 0);
    r->s.stall = on_stall;
    r->s.unstall = on_unstall;
    r->s.quit = on_quit;
    r->s.arg = r;
    for (unsigned i = 0; i < 3; i++)
        r->f[i] = (struct chardev_front){.arg = &r->f[i], .input = on_input, .room = on_room, .event = on_event};
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    chardevs_fini(&r->s);
    assert_int_equal(r->loop.watches, 0);
    assert_int_equal(r->loop.timers, 0);
    unlink(r->path);
    rmdir(r->dir);
    free(r);
    return 0;
}

static void open_it(struct rig *r, struct chardev_spec spec)
{
    spec.path = r->path;
    assert_int_equal(chardev_create(&r->s, &spec, "test", &r->c, &r->err), 0);
    assert_int_equal(chardev_attach(r->c, &r->f[0]), 0);
}

static void run(struct rig *r, unsigned steps)
{
    while (steps--)
        loop_step(&r->loop, STEP_NS);
}

static int connect_it(struct rig *r)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(a.sun_path, r->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

// --- output -------------------------------------------------------------------------------------------------------------------

static void file(void **state)
{
    struct rig *r = *state;
    char text[3 * 4096], back[sizeof(text)];

    memset(text, 'a', sizeof(text));
    for (unsigned i = 0; i < sizeof(text); i += 61)
        text[i] = (char)('b' + i % 20);
    open_it(r, (struct chardev_spec){.kind = CHARDEV_FILE});
    assert_true(chardev_connected(&r->f[0]));
    // More than the ring has, so that it wraps.
    for (unsigned round = 0; round < 20; round++) {
        assert_int_equal(chardev_write(&r->f[0], text, sizeof(text)), sizeof(text));
        run(r, 3);
    }
    int fd = open(r->path, O_RDONLY);
    for (unsigned round = 0; round < 20; round++) {
        assert_int_equal(read(fd, back, sizeof(back)), sizeof(back));
        assert_memory_equal(back, text, sizeof(text));
    }
    assert_int_equal(read(fd, back, 1), 0);
    close(fd);
    assert_int_equal(r->c->dropped, 0);
}

static void single_bytes(void **state)
{
    struct rig *r = *state;
    char back[8] = "";

    open_it(r, (struct chardev_spec){.kind = CHARDEV_FILE});
    for (const char *p = "single"; *p; p++)
        chardev_put(&r->f[0], (u8)*p);
    run(r, 3);
    int fd = open(r->path, O_RDONLY);
    assert_int_equal(read(fd, back, sizeof(back)), 6);
    assert_string_equal(back, "single");
    close(fd);
    assert_int_equal(chardev_get(&r->f[0]), -1);
}

static void nothing(void **state)
{
    struct rig *r = *state;

    open_it(r, (struct chardev_spec){.kind = CHARDEV_NULL});
    for (unsigned i = 0; i < 3 * CHARDEV_OUT_SIZE; i++)
        chardev_put(&r->f[0], 0);
    assert_true(chardev_room(&r->f[0]));
    assert_false(chardev_connected(&r->f[0]));
    run(r, 2);
    assert_int_equal(r->c->dropped, 0);
    assert_int_equal(r->stalls, 0);
}

static void full_disk(void **state)
{
    struct rig *r = *state;
    struct chardev_spec spec = {.kind = CHARDEV_FILE, .path = "/dev/full"};

    assert_int_equal(chardev_create(&r->s, &spec, "test", &r->c, &r->err), 0);
    assert_int_equal(chardev_attach(r->c, &r->f[0]), 0);
    for (unsigned i = 0; i < 2 * CHARDEV_OUT_SIZE; i++)
        chardev_put(&r->f[0], 0);
    run(r, 3);
    assert_true(chardev_room(&r->f[0])); // nobody waits for ever
}

// A pipe that nobody reads: the transmitter shows busy, then processors pause, then bytes are lost; a reader mends all.
static void slow_reader(void **state)
{
    struct rig *r = *state;
    static u8 block[1024], back[1 << 20];
    size_t sent = 0, got = 0;

    assert_int_equal(mkfifo(r->path, 0600), 0);
    r->f[0].no_input = true; // what it sent
    open_it(r, (struct chardev_spec){.kind = CHARDEV_PIPE});
    while (chardev_room(&r->f[0])) {
        sent += chardev_write(&r->f[0], block, sizeof(block));
        run(r, 1);
        assert_true(sent < 1 << 20);
    }
    assert_int_equal(r->stalls, 0);
    assert_true(sent >= CHARDEV_OUT_READY);
    while (!r->stalls)
        sent += chardev_write(&r->f[0], block, 64);
    assert_int_equal(atomic_load(&r->s.stalls), 1);
    for (size_t n; (n = chardev_write(&r->f[0], block, 64)); sent += n)
        ;
    chardev_put(&r->f[0], 1);
    assert_int_equal(r->c->dropped, 1);
    assert_int_equal(r->stalls, 1);
    chardevs_give_up(&r->s);
    assert_int_equal(atomic_load(&r->s.stalls), 0);
    chardev_put(&r->f[0], 1);
    assert_int_equal(r->stalls, 1); // not again, until it reads
    // Who is in control does not wait either.
    chardev_print(&r->f[0], block, sizeof(block));
    assert_int_equal(r->rooms[0], 0);
    // (The device itself has the pipe open for both directions.)
    int fd = open(r->path, O_RDONLY | O_NONBLOCK);
    for (unsigned i = 0; i < 200 && got < sent; i++) {
        ssize_t n = read(fd, back, sizeof(back));
        got += n > 0 ? (size_t)n : 0;
        run(r, 1);
    }
    assert_int_equal(got, sent);
    assert_int_equal(r->rooms[0], 1);
    assert_true(chardev_room(&r->f[0]));
    while (r->stalls == 1)
        chardev_write(&r->f[0], block, 64);
    for (unsigned i = 0; i < 100 && !r->unstalls; i++) {
        if (read(fd, back, sizeof(back)) < 0)
            assert_int_equal(errno, EAGAIN);
        run(r, 1);
    }
    assert_int_equal(r->unstalls, 1);
    close(fd);
}

static void drain(void **state)
{
    struct rig *r = *state;
    static u8 block[60000];

    assert_int_equal(mkfifo(r->path, 0600), 0);
    r->f[0].no_input = true;
    open_it(r, (struct chardev_spec){.kind = CHARDEV_PIPE});
    for (unsigned i = 0; i < 2; i++) {
        chardev_write(&r->f[0], block, sizeof(block));
        run(r, 2);
    }
    u64 before = loop_now();
    chardevs_drain(&r->s, 100); // gives up
    assert_true(loop_now() - before < 2000000000ull);
    assert_true(r->c->tail != r->c->head);
}

// --- input and sharing ----------------------------------------------------------------------------------------------------------

static void expect_input(struct rig *r, unsigned front, const char *text)
{
    for (; *text; text++)
        assert_int_equal(chardev_get(&r->f[front]), *text);
    assert_int_equal(chardev_get(&r->f[front]), -1);
}

static void send_it(struct rig *r, int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    run(r, 2);
}

static void sockets(void **state)
{
    struct rig *r = *state;
    char back[16];

    open_it(r, (struct chardev_spec){.kind = CHARDEV_UNIX, .server = true});
    assert_false(chardev_connected(&r->f[0]));
    chardev_put(&r->f[0], 'x'); // to nobody
    for (unsigned round = 1; round <= 3; round++) {
        int fd = connect_it(r);
        run(r, 2);
        assert_true(chardev_connected(&r->f[0]));
        assert_int_equal(r->events[0][CHARDEV_OPENED], round);
        send_it(r, fd, "hello");
        expect_input(r, 0, "hello");
        assert_int_equal(r->inputs[0], round);
        chardev_write(&r->f[0], "world", 5);
        run(r, 3);
        assert_int_equal(read(fd, back, sizeof(back)), 5);
        assert_memory_equal(back, "world", 5);
        close(fd);
        run(r, 2);
        assert_int_equal(r->events[0][CHARDEV_CLOSED], round);
        assert_false(chardev_connected(&r->f[0]));
    }
}

// A peer that goes while the ring is full sets everybody free.
static void peer_goes(void **state)
{
    struct rig *r = *state;
    static u8 block[4096];

    open_it(r, (struct chardev_spec){.kind = CHARDEV_UNIX, .server = true});
    int fd = connect_it(r);
    run(r, 2);
    while (!r->stalls) {
        chardev_write(&r->f[0], block, sizeof(block));
        run(r, 1);
    }
    assert_false(chardev_room(&r->f[0]));
    close(fd);
    run(r, 3);
    assert_int_equal(r->unstalls, 1);
    assert_int_equal(r->rooms[0], 1);
    assert_true(chardev_room(&r->f[0]));
    assert_int_equal(r->c->head, r->c->tail);
}

// Input is only read when there is room for it, and none is lost.
static void much_input(void **state)
{
    struct rig *r = *state;
    unsigned sent = 0, got = 0;
    u8 block[512];

    open_it(r, (struct chardev_spec){.kind = CHARDEV_UNIX, .server = true});
    int fd = connect_it(r);
    run(r, 2);
    while (sent < 100000) {
        for (unsigned i = 0; i < sizeof(block); i++)
            block[i] = (u8)((sent + i) % 251);
        ssize_t n = write(fd, block, sizeof(block));
        sent += n > 0 ? (unsigned)n : 0;
        run(r, 1);
        for (int c; (n < 0 || sent >= 100000) && (c = chardev_get(&r->f[0])) >= 0; got++)
            assert_int_equal(c, got % 251);
    }
    for (unsigned i = 0; i < 1000 && got < sent; i++) {
        run(r, 1);
        for (int c; (c = chardev_get(&r->f[0])) >= 0; got++)
            assert_int_equal(c, got % 251);
    }
    assert_int_equal(got, sent);
    close(fd);
}

static void shared(void **state)
{
    struct rig *r = *state;

    open_it(r, (struct chardev_spec){.kind = CHARDEV_UNIX, .server = true, .mux = true, .keys = CHARDEV_KEYS_ON});
    r->f[1].no_input = true;
    assert_int_equal(chardev_attach(r->c, &r->f[1]), 0);
    assert_int_equal(chardev_attach(r->c, &r->f[2]), 0);
    int fd = connect_it(r);
    run(r, 2);
    send_it(r, fd, "guest\001\001\001");
    expect_input(r, 0, "guest\001");
    send_it(r, fd, "cmonitor"); // the key came in two pieces
    expect_input(r, 0, "");
    expect_input(r, 2, "monitor");
    assert_int_equal(r->events[2][CHARDEV_FOCUS], 1);
    send_it(r, fd, "a\001cb\001cc");
    expect_input(r, 0, "b");
    expect_input(r, 2, "ac");
    expect_input(r, 1, "");
    send_it(r, fd, "\001b\001c\001b\001x");
    assert_int_equal(r->events[2][CHARDEV_BREAK], 1);
    assert_int_equal(r->events[0][CHARDEV_BREAK], 1);
    assert_int_equal(r->quits, 1);
    chardev_detach(&r->f[0]);
    assert_int_equal(r->events[2][CHARDEV_FOCUS], 3);
    send_it(r, fd, "d");
    expect_input(r, 2, "d");
    close(fd);
}

static void users(void **state)
{
    struct rig *r = *state;
    struct chardev_spec spec = {.kind = CHARDEV_NULL, .id = "a"};

    assert_int_equal(chardev_create(&r->s, &spec, "test", &r->c, &r->err), 0);
    assert_ptr_equal(chardev_find(&r->s, "a"), r->c);
    assert_null(chardev_find(&r->s, "b"));
    assert_false(chardev_used(r->c));
    assert_int_equal(chardev_attach(r->c, &r->f[0]), 0);
    assert_int_equal(chardev_attach(r->c, &r->f[1]), -EBUSY);
    chardev_detach(&r->f[0]);
    chardev_detach(&r->f[0]);
    assert_int_equal(chardev_attach(r->c, &r->f[1]), 0);
    assert_true(chardev_used(r->c));
    // A front without a device swallows output.
    assert_int_equal(chardev_write(&r->f[2], "x", 1), 1);
    assert_int_equal(chardev_get(&r->f[2]), -1);
    assert_true(chardev_room(&r->f[2]));
}

static void limits(void **state)
{
    struct rig *r = *state;
    struct chardev_spec spec = {.kind = CHARDEV_NULL};

    for (unsigned i = 0; i < CHARDEV_MAX; i++)
        assert_int_equal(chardev_create(&r->s, &spec, "test", &r->c, &r->err), 0);
    assert_int_equal(chardev_create(&r->s, &spec, "test", &r->c, &r->err), -ENOSPC);
}

static void failures(void **state)
{
    struct rig *r = *state;
    static char longer[200];
    struct chardev_spec spec[] = {{.kind = CHARDEV_FILE, .path = "/no/such/file"},
                                  {.kind = CHARDEV_PIPE, .path = "/no/such/pipe"},
                                  {.kind = CHARDEV_UNIX, .path = r->path},
                                  {.kind = CHARDEV_UNIX, .path = "/no/such/socket", .server = true},
                                  {.kind = CHARDEV_UNIX, .path = longer, .server = true},
                                  {.kind = CHARDEV_UNIX, .path = "/etc/passwd", .server = true},
                                  {.kind = CHARDEV_TCP, .host = "127.0.0.1", .port = "no-such-port"},
                                  {.kind = CHARDEV_TCP, .host = "127.0.0.1", .port = "1"},
                                  {.kind = CHARDEV_PTY, .path = "/etc/passwd"}};

    memset(longer, 'x', sizeof(longer) - 1);
    for (size_t i = 0; i < ARRAY_LEN(spec); i++) {
        r->err.text[0] = 0;
        assert_true(chardev_create(&r->s, &spec[i], "test", &r->c, &r->err) < 0);
        assert_int_equal(strncmp(r->err.text, "-test ", 6), 0);
    }
    assert_int_equal(r->s.count, 0);
    assert_int_equal(access("/etc/passwd", F_OK), 0);
}

static void terminal(void **state)
{
    struct rig *r = *state;
    char name[128];

    open_it(r, (struct chardev_spec){.kind = CHARDEV_PTY});
    run(r, 3);
    assert_false(chardev_connected(&r->f[0]));
    chardev_put(&r->f[0], 'x'); // to nobody
    assert_int_equal(readlink(r->path, name, sizeof(name)), strlen(r->c->name));
    for (unsigned round = 1; round <= 2; round++) {
        char back[8];
        int fd = open(r->path, O_RDWR | O_NOCTTY | O_NONBLOCK);
        assert_true(fd >= 0);
        for (unsigned i = 0; i < 50 && !chardev_connected(&r->f[0]); i++)
            run(r, 1);
        assert_int_equal(r->events[0][CHARDEV_OPENED], round);
        send_it(r, fd, "\001hi\n");
        expect_input(r, 0, "\001hi\n");
        chardev_write(&r->f[0], "a\n", 2);
        run(r, 3);
        assert_int_equal(read(fd, back, sizeof(back)), 2); // no carriage return added
        close(fd);
        for (unsigned i = 0; i < 50 && chardev_connected(&r->f[0]); i++)
            run(r, 1);
        assert_int_equal(r->events[0][CHARDEV_CLOSED], round);
    }
}

// A listener on the loopback device; its port as text.
static int listen_tcp(char port[8], int backlog)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    snprintf(port, 8, "%u", ntohs(a.sin_port));
    return fd;
}

static int connect_tcp(const char *port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((u16)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

// A name with several addresses, of which the first need not be the one that is listened on.
static void client(void **state)
{
    struct rig *r = *state;
    char port[8];
    int fd = listen_tcp(port, 1), peer;

    open_it(r, (struct chardev_spec){.kind = CHARDEV_TCP, .host = "localhost", .port = port});
    assert_true(chardev_connected(&r->f[0]));
    peer = accept(fd, NULL, NULL);
    assert_true(peer >= 0);
    close(peer);
    close(fd);
}

// A peer that does not answer, for a while, holds nobody up.
static void slow_peer(void **state)
{
    struct rig *r = *state;
    char port[8];
    int fd = listen_tcp(port, 0), others[3];
    u64 start;

    for (unsigned i = 0; i < 3; i++)
        others[i] = connect_tcp(port); // more than its queue takes
    start = loop_now();
    open_it(r, (struct chardev_spec){.kind = CHARDEV_TCP, .host = "127.0.0.1", .port = port, .reconnect = 1});
    run(r, 5);
    assert_true(loop_now() - start < 500000000ull);
    assert_false(chardev_connected(&r->f[0]));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (unsigned i = 0; i < 2000 && !r->events[0][CHARDEV_OPENED]; i++) {
        int peer = accept(fd, NULL, NULL);
        if (peer >= 0)
            close(peer);
        run(r, 1);
    }
    assert_int_equal(r->events[0][CHARDEV_OPENED], 1);
    assert_int_equal(chardev_write(&r->f[0], "abc", 3), 3);
    run(r, 3);
    for (unsigned i = 0; i < 3; i++)
        close(others[i]);
    close(fd);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(file),     TEST(single_bytes), TEST(nothing),    TEST(full_disk), TEST(slow_reader), TEST(drain),
        TEST(sockets),  TEST(peer_goes),    TEST(much_input), TEST(shared),    TEST(users),       TEST(limits),
        TEST(failures), TEST(terminal),     TEST(client),     TEST(slow_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
