// Rings, fronts, escape keys, and the traffic between rings and descriptors. Opening things is chardev_open.c's and
// chardev_socket.c's business.
//
// A device that puts a byte into an empty ring wakes the thread in control, which waits FLUSH_NS for company before it writes: a
// guest that prints costs one system call for many characters, and a user who types does not notice a millisecond.

#include "host/chardev.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/term.h"

#define CTRL_A 0x01
#define FLUSH_NS 1000000ull
#define HALF (CHARDEV_OUT_SIZE / 2)
#define PRINT_PATIENCE_MS 1000
#define DRAIN_STEP_NS 50000000ull
#define FOREGROUND_LOOK_NS 200000000ull

// --- any thread ---------------------------------------------------------------------------------------------------------------

static void wake(struct chardevs *s)
{
    u64 one = 1;

    // The counter cannot overflow: one write until it is read.
    if (!atomic_exchange(&s->woken, true) && write(s->wake_watch.fd, &one, sizeof(one)) < 0)
        return;
}

// Put what fits. *call: the thread in control is to be woken; *stall: the processors are to pause.
static size_t put_locked(struct chardev *c, const u8 *buf, size_t len, bool *call, bool *stall)
{
    u32 fill = c->tail - c->head, room = CHARDEV_OUT_SIZE - fill, n = len < room ? (u32)len : room;
    u32 at = c->tail % CHARDEV_OUT_SIZE, first = CHARDEV_OUT_SIZE - at < n ? CHARDEV_OUT_SIZE - at : n;

    if (!c->connected)
        return len;
    memcpy(c->out + at, buf, first);
    memcpy(c->out, buf + first, n - first);
    c->tail += n;
    *call = n && (!fill || (fill < HALF && fill + n >= HALF));
    if (fill + n > CHARDEV_OUT_STALL && !c->stalled && !c->stuck) {
        c->stalled = *stall = true;
        atomic_fetch_add(&c->all->stalls, 1);
    }
    return n;
}

size_t chardev_write(struct chardev_front *f, const void *buf, size_t len)
{
    struct chardev *c = f->dev;
    bool call = false, stall = false;

    if (!c)
        return len;
    pthread_mutex_lock(&c->lock);
    size_t n = put_locked(c, buf, len, &call, &stall);
    pthread_mutex_unlock(&c->lock);
    if (call)
        wake(c->all);
    if (stall && c->all->stall)
        c->all->stall(c->all->arg);
    return n;
}

void chardev_put(void *front, u8 byte)
{
    struct chardev_front *f = front;

    if (chardev_write(f, &byte, 1) == 1)
        return;
    pthread_mutex_lock(&f->dev->lock);
    f->dev->dropped++;
    pthread_mutex_unlock(&f->dev->lock);
}

bool chardev_room(void *front)
{
    struct chardev_front *f = front;
    struct chardev *c = f->dev;

    if (!c)
        return true;
    pthread_mutex_lock(&c->lock);
    bool room = !c->connected || c->tail - c->head <= CHARDEV_OUT_READY;
    c->waiting |= !room;
    pthread_mutex_unlock(&c->lock);
    return room;
}

bool chardev_connected(struct chardev_front *f)
{
    struct chardev *c = f->dev;

    if (!c)
        return false;
    pthread_mutex_lock(&c->lock);
    bool connected = c->connected;
    pthread_mutex_unlock(&c->lock);
    return connected;
}

size_t chardev_read(struct chardev_front *f, void *buf, size_t len)
{
    u32 head = atomic_load_explicit(&f->head, memory_order_relaxed);
    u32 fill = atomic_load_explicit(&f->tail, memory_order_acquire) - head;
    u8 *p = buf;
    size_t n = len < fill ? len : fill;

    for (size_t i = 0; i < n; i++)
        p[i] = f->in[(head + i) % CHARDEV_IN_SIZE];
    atomic_store_explicit(&f->head, head + (u32)n, memory_order_release);
    if (n && fill == CHARDEV_IN_SIZE)
        wake(f->dev->all);
    return n;
}

int chardev_get(void *front)
{
    u8 byte;

    return chardev_read(front, &byte, 1) ? byte : -1;
}

// --- output -------------------------------------------------------------------------------------------------------------------

static void tell(struct chardev *c, enum chardev_event e)
{
    for (unsigned i = 0; i < c->fronts; i++)
        if (c->front[i]->event)
            c->front[i]->event(c->front[i]->arg, e);
}

// After the ring's fill has changed: who waited for room, and who paused?
static void notify_room(struct chardev *c)
{
    bool room, calm = false;

    pthread_mutex_lock(&c->lock);
    u32 fill = c->tail - c->head;
    room = c->waiting && fill <= HALF;
    if (room)
        c->waiting = false;
    if (c->stalled && fill <= HALF) {
        c->stalled = false;
        calm = atomic_fetch_sub(&c->all->stalls, 1) == 1;
    }
    pthread_mutex_unlock(&c->lock);
    if (calm && c->all->unstall)
        c->all->unstall(c->all->arg);
    for (unsigned i = 0; room && i < c->fronts; i++)
        if (c->front[i]->room)
            c->front[i]->room(c->front[i]->arg);
}

// Nobody is there to read what was put: forget it.
static void disconnect(struct chardev *c)
{
    pthread_mutex_lock(&c->lock);
    c->connected = c->stuck = false;
    c->head = c->tail;
    pthread_mutex_unlock(&c->lock);
    notify_room(c);
}

static bool has_peers(const struct chardev *c)
{
    return c->spec.kind == CHARDEV_UNIX || c->spec.kind == CHARDEV_TCP || c->spec.kind == CHARDEV_PTY;
}

static void close_out(struct chardev *c)
{
    if (c->own_out && c->out_fd >= 0 && c->out_fd != c->in_fd)
        close(c->out_fd);
    c->out_fd = c->out_watch.fd = -1;
}

static void close_in(struct chardev *c)
{
    if (c->own_in && c->in_fd >= 0)
        close(c->in_fd);
    c->in_fd = c->in_watch.fd = -1;
}

void chardev_peer_came(struct chardev *c)
{
    c->in_watch.fd = c->in_fd;
    c->out_watch.fd = c->out_fd;
    c->at_end = false;
    pthread_mutex_lock(&c->lock);
    c->connected = true;
    pthread_mutex_unlock(&c->lock);
    chardev_update(c);
    tell(c, CHARDEV_OPENED);
}

void chardev_peer_left(struct chardev *c)
{
    disconnect(c);
    if (c->spec.kind == CHARDEV_PTY) {
        c->in_watch.fd = c->out_watch.fd = -1;
        c->timer.at_ns = loop_now();
    } else {
        close_out(c);
        close_in(c);
        if (c->spec.reconnect)
            c->timer.at_ns = loop_now() + c->spec.reconnect * 1000000000ull;
    }
    chardev_update(c);
    tell(c, CHARDEV_CLOSED);
}

// Write [p, p+n), as much as is taken without blocking. -EAGAIN: nothing is.
static ssize_t write_some(struct chardev *c, const u8 *p, size_t n)
{
    ssize_t ret;

    if (c->chunk) {
        struct pollfd ready = {.fd = c->out_fd, .events = POLLOUT};
        if (poll(&ready, 1, 0) < 1)
            return -EAGAIN;
        n = n < c->chunk ? n : c->chunk;
    }
    do {
        ret = has_peers(c) && c->spec.kind != CHARDEV_PTY ? send(c->out_fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL)
                                                          : write(c->out_fd, p, n);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : ret;
}

static void output_failed(struct chardev *c, u32 n, int error)
{
    if (has_peers(c)) {
        chardev_peer_left(c);
    } else if (c->regular) {
        // A full disk: there may be room again.
        pthread_mutex_lock(&c->lock);
        c->head += n;
        c->dropped += n;
        pthread_mutex_unlock(&c->lock);
    } else {
        disconnect(c);
        close_out(c);
        if (error == EPIPE && c->spec.kind == CHARDEV_STDIO && c->all->broken)
            c->all->broken(c->all->arg);
    }
}

// One piece of the ring. False: no more for now.
static bool flush_piece(struct chardev *c)
{
    u32 fill, at, n;
    ssize_t ret;

    pthread_mutex_lock(&c->lock);
    fill = c->tail - c->head;
    at = c->head % CHARDEV_OUT_SIZE;
    pthread_mutex_unlock(&c->lock);
    if (!fill || c->out_fd < 0)
        return false;
    n = CHARDEV_OUT_SIZE - at < fill ? CHARDEV_OUT_SIZE - at : fill;
    ret = write_some(c, c->out + at, n); // the ring's owner never touches what is filled
    if (ret == -EAGAIN)
        return false;
    if (ret <= 0) {
        output_failed(c, n, (int)-ret);
        return true;
    }
    pthread_mutex_lock(&c->lock);
    c->head += (u32)ret;
    c->stuck = false;
    pthread_mutex_unlock(&c->lock);
    return true;
}

static u32 pending(struct chardev *c)
{
    pthread_mutex_lock(&c->lock);
    u32 fill = c->tail - c->head;
    pthread_mutex_unlock(&c->lock);
    return fill;
}

// A guest that prints all the time must not keep control here.
static void flush(struct chardev *c)
{
    for (unsigned pieces = 0; pieces < 16 && flush_piece(c); pieces++)
        ;
    notify_room(c);
    chardev_update(c);
}

static void out_ready(void *arg, short revents)
{
    struct chardev *c = arg;

    flush(c);
    // The reader of a pipe has gone, and there is nothing to write that would tell.
    if (c->out_watch.hangup && c->out_fd >= 0 && revents & (POLLERR | POLLHUP))
        output_failed(c, 0, EPIPE);
    chardev_update(c);
}

static void flush_all(void *arg)
{
    struct chardevs *s = arg;

    for (unsigned i = 0; i < s->count; i++)
        if (!s->dev[i]->out_watch.events)
            flush(s->dev[i]);
}

void chardevs_flush(struct chardevs *s)
{
    for (unsigned i = 0; i < s->count; i++)
        flush(s->dev[i]);
}

static void on_wake(void *arg, short revents)
{
    struct chardevs *s = arg;
    u64 count;

    (void)revents;
    if (read(s->wake_watch.fd, &count, sizeof(count)) < 0)
        return;
    atomic_store(&s->woken, false);
    for (unsigned i = 0; i < s->count; i++) {
        struct chardev *c = s->dev[i];
        u32 fill = pending(c);
        if (fill >= HALF)
            flush(c);
        else if (fill && s->flush_timer.at_ns == LOOP_NEVER)
            s->flush_timer.at_ns = loop_now() + FLUSH_NS;
        chardev_update(c);
    }
}

void chardevs_give_up(struct chardevs *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct chardev *c = s->dev[i];
        pthread_mutex_lock(&c->lock);
        if (c->stalled) {
            c->stalled = false;
            c->stuck = true;
            atomic_fetch_sub(&s->stalls, 1);
        }
        pthread_mutex_unlock(&c->lock);
    }
}

void chardev_print(struct chardev_front *f, const void *buf, size_t len)
{
    struct chardev *c = f->dev;
    const u8 *p = buf;

    while (c && len) {
        size_t n = chardev_write(f, p, len);
        p += n;
        len -= n;
        if (!len)
            return;
        flush(c);
        if (c->out_fd < 0 || pending(c) < CHARDEV_OUT_SIZE)
            continue;
        struct pollfd ready = {.fd = c->out_fd, .events = POLLOUT};
        pthread_mutex_lock(&c->lock);
        bool stuck = c->stuck;
        pthread_mutex_unlock(&c->lock);
        if (stuck || poll(&ready, 1, PRINT_PATIENCE_MS) < 1) {
            pthread_mutex_lock(&c->lock);
            c->stuck = true;
            c->dropped += len;
            pthread_mutex_unlock(&c->lock);
            return;
        }
    }
}

// --- input --------------------------------------------------------------------------------------------------------------------

static u32 front_room(struct chardev_front *f)
{
    return CHARDEV_IN_SIZE - (atomic_load_explicit(&f->tail, memory_order_relaxed) -
                              atomic_load_explicit(&f->head, memory_order_acquire));
}

// What a user types while the ring is full is lost, as on any serial line.
static void front_input(struct chardev_front *f, u8 byte)
{
    u32 tail = atomic_load_explicit(&f->tail, memory_order_relaxed);

    if (!front_room(f))
        return;
    f->in[tail % CHARDEV_IN_SIZE] = byte;
    atomic_store_explicit(&f->tail, tail + 1, memory_order_release);
}

// Who gets the input, or NULL.
static struct chardev_front *focused(struct chardev *c)
{
    struct chardev_front *f = c->fronts ? c->front[c->focus] : NULL;

    return f && !f->no_input ? f : NULL;
}

// How much may be read: what every front has room for, since the focus may move inside a piece of input.
static size_t readable(struct chardev *c)
{
    u32 room = 512;
    bool any = false;

    if (c->in_fd < 0 || c->at_end || c->background)
        return 0;
    for (unsigned i = 0; i < c->fronts; i++) {
        if (c->front[i]->no_input)
            continue;
        any = true;
        room = front_room(c->front[i]) < room ? front_room(c->front[i]) : room;
    }
    // The keys of a terminal are always heard, and a peer that leaves is noticed.
    if (c->terminal || (!any && has_peers(c)))
        return 512;
    return any && !c->all->draining ? room : 0;
}

void chardev_update(struct chardev *c)
{
    bool peerless = c->in_fd < 0 && c->out_fd < 0;

    c->in_watch.events = readable(c) ? POLLIN : 0;
    c->out_watch.events = c->out_fd >= 0 && pending(c) && c->all->flush_timer.at_ns == LOOP_NEVER ? POLLOUT : 0;
    c->out_watch.hangup = c->spec.kind == CHARDEV_STDIO && c->fifo;
    c->listen_watch.fd = c->listen_fd;
    c->listen_watch.events = !peerless ? 0 : c->spec.server ? POLLIN : POLLOUT;
}

static void next_focus(struct chardev *c)
{
    for (unsigned i = 1; i <= c->fronts; i++) {
        unsigned n = (c->focus + i) % c->fronts;
        if (c->front[n]->no_input)
            continue;
        c->focus = n;
        if (c->front[n]->event)
            c->front[n]->event(c->front[n]->arg, CHARDEV_FOCUS);
        return;
    }
}

static void show_keys(struct chardev *c)
{
    static const char keys[] = "\r\nCtrl-A h    this help\r\nCtrl-A x    quit\r\nCtrl-A b    send a break\r\n"
                               "Ctrl-A c    switch between guest and monitor\r\nCtrl-A Ctrl-A    send Ctrl-A\r\n";

    if (c->fronts)
        chardev_print(c->front[0], keys, sizeof(keys) - 1);
}

static void escape_key(struct chardev *c, u8 byte)
{
    struct chardev_front *f = focused(c);

    switch (byte) {
    case CTRL_A:
        if (f)
            front_input(f, byte);
        break;
    case 'x':
    case 'X':
        if (c->all->quit)
            c->all->quit(c->all->arg);
        break;
    case 'c':
    case 'C': next_focus(c); break;
    case 'b':
    case 'B':
        if (f && f->event)
            f->event(f->arg, CHARDEV_BREAK);
        break;
    default: show_keys(c);
    }
}

static void take_input(struct chardev *c, const u8 *buf, size_t n)
{
    bool keys = c->spec.keys == CHARDEV_KEYS_ON || (c->spec.keys == CHARDEV_KEYS_TTY && c->terminal);

    for (size_t i = 0; i < n; i++) {
        struct chardev_front *f = c->all->draining ? NULL : focused(c);
        if (keys && c->escaped) {
            c->escaped = false;
            // What was typed before the key is for the old focus.
            if (f && f->input)
                f->input(f->arg);
            escape_key(c, buf[i]);
        } else if (keys && buf[i] == CTRL_A) {
            c->escaped = true;
        } else if (f) {
            front_input(f, buf[i]);
        }
    }
    if (!c->all->draining && focused(c) && focused(c)->input)
        focused(c)->input(focused(c)->arg);
}

// Make the terminal raw, or leave it alone while it is another job's. Nobody tells a job that runs in the background that it is in the
// foreground again.
static void have_terminal(void *arg)
{
    struct chardev *c = arg;

    c->background = !term_is_ours(c->in_fd);
    if (c->background)
        c->timer = (struct loop_timer){loop_now() + FOREGROUND_LOOK_NS, have_terminal, c};
    else
        term_raw(c->in_fd);
    chardev_update(c);
}

static void in_ready(void *arg, short revents)
{
    struct chardev *c = arg;
    u8 buf[512];
    ssize_t n;

    (void)revents;
    if (c->terminal && !term_is_ours(c->in_fd)) {
        have_terminal(c);
        return;
    }
    n = read(c->in_fd, buf, readable(c));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n > 0)
        take_input(c, buf, (size_t)n);
    else if (has_peers(c))
        chardev_peer_left(c);
    else
        c->at_end = true;
    chardev_update(c);
}

// --- fronts -------------------------------------------------------------------------------------------------------------------

bool chardev_used(const struct chardev *c)
{
    return c->fronts > 0;
}

int chardev_attach(struct chardev *c, struct chardev_front *f)
{
    if (c->fronts && !c->spec.mux)
        return -EBUSY;
    if (c->fronts == CHARDEV_MAX_FRONTS)
        return -ENOSPC;
    f->dev = c;
    c->front[c->fronts++] = f;
    if (!focused(c) && !f->no_input)
        c->focus = c->fronts - 1;
    chardev_update(c);
    return 0;
}

void chardev_detach(struct chardev_front *f)
{
    struct chardev *c = f->dev;

    if (!c)
        return;
    for (unsigned i = 0; i < c->fronts; i++) {
        if (c->front[i] != f)
            continue;
        c->fronts--;
        memmove(&c->front[i], &c->front[i + 1], (c->fronts - i) * sizeof(c->front[0]));
        if (c->focus > i || c->focus == c->fronts)
            c->focus = c->focus ? c->focus - 1 : 0;
        break;
    }
    f->dev = NULL;
    if (!focused(c) && c->fronts)
        next_focus(c);
    chardev_update(c);
}

// --- life ---------------------------------------------------------------------------------------------------------------------

int chardevs_init(struct chardevs *s, struct loop *loop)
{
    *s = (struct chardevs){.loop = loop};
    s->wake_watch =
        (struct loop_watch){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .events = POLLIN, .ready = on_wake, .arg = s};
    s->flush_timer = (struct loop_timer){LOOP_NEVER, flush_all, s};
    if (s->wake_watch.fd < 0)
        return -errno;
    // A reader that has gone, and a file that may not grow, are errors of write().
    s->pipe_ignored = signal(SIGPIPE, SIG_IGN) == SIG_IGN;
    signal(SIGXFSZ, SIG_IGN);
    int ret = loop_add(loop, &s->wake_watch);
    return ret ? ret : loop_add_timer(loop, &s->flush_timer);
}

static int open_null(struct chardev *c, const char *option, struct error *err)
{
    (void)c, (void)option, (void)err;
    return 0;
}

static int (*const openers[CHARDEV_KIND_COUNT])(struct chardev *c, const char *option, struct error *err) = {
    [CHARDEV_NULL] = open_null,         [CHARDEV_STDIO] = chardev_open_stdio, [CHARDEV_FILE] = chardev_open_file,
    [CHARDEV_PIPE] = chardev_open_pipe, [CHARDEV_PTY] = chardev_open_pty,     [CHARDEV_UNIX] = chardev_open_socket,
    [CHARDEV_TCP] = chardev_open_socket};

static void watch(struct chardev *c)
{
    struct loop *l = c->all->loop;

    c->in_watch = (struct loop_watch){.fd = c->in_fd, .ready = in_ready, .arg = c};
    c->out_watch = (struct loop_watch){.fd = c->out_fd, .ready = out_ready, .arg = c};
    c->listen_watch.fd = c->listen_fd;
    if (has_peers(c) && !c->connected)
        c->in_watch.fd = c->out_watch.fd = -1;
    // CHARDEV_MAX devices fit by construction.
    loop_add(l, &c->in_watch);
    loop_add(l, &c->out_watch);
    loop_add(l, &c->listen_watch);
    loop_add_timer(l, &c->timer);
}

_Static_assert(3 * CHARDEV_MAX + 16 <= LOOP_MAX_WATCHES && CHARDEV_MAX + 16 <= LOOP_MAX_TIMERS, "room in the loop");

static void destroy(struct chardev *c)
{
    struct loop *l = c->all->loop;

    loop_remove(l, &c->in_watch);
    loop_remove(l, &c->out_watch);
    loop_remove(l, &c->listen_watch);
    loop_remove_timer(l, &c->timer);
    close_out(c);
    close_in(c);
    if (c->listen_fd >= 0)
        close(c->listen_fd);
    if (c->unlink_path)
        unlink(c->spec.path);
    for (unsigned i = 0; i < c->fronts; i++)
        c->front[i]->dev = NULL;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

int chardev_create(struct chardevs *s, const struct chardev_spec *spec, const char *option, struct chardev **out,
                   struct error *err)
{
    struct chardev *c = s->count < CHARDEV_MAX ? calloc(1, sizeof(*c)) : NULL;
    int ret;

    if (!c)
        return error_set(err, -ENOSPC, "-%s: more than %d character devices, or no memory for one", option,
                         CHARDEV_MAX);
    c->spec = *spec;
    c->all = s;
    c->in_fd = c->out_fd = c->listen_fd = c->listen_watch.fd = -1;
    c->timer.at_ns = LOOP_NEVER;
    pthread_mutex_init(&c->lock, NULL);
    ret = openers[spec->kind](c, option, err);
    if (ret) {
        destroy(c);
        return ret;
    }
    c->connected = c->out_fd >= 0 && c->timer.at_ns == LOOP_NEVER;
    watch(c);
    chardev_update(c);
    s->dev[s->count++] = c;
    *out = c;
    return 0;
}

struct chardev *chardev_find(struct chardevs *s, const char *id)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->dev[i]->spec.id && !strcmp(s->dev[i]->spec.id, id))
            return s->dev[i];
    return NULL;
}

void chardevs_raw(struct chardevs *s)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->dev[i]->terminal)
            have_terminal(s->dev[i]);
}

void chardevs_drain(struct chardevs *s, unsigned patience_ms)
{
    u64 sent = ~0ull, since = loop_now();

    s->draining = true;
    while (!s->loop->end) {
        u64 total = 0;
        bool more = false;

        for (unsigned i = 0; i < s->count; i++) {
            flush(s->dev[i]);
            more |= pending(s->dev[i]) > 0;
            total += s->dev[i]->head;
        }
        if (total != sent)
            since = loop_now();
        sent = total;
        if (!more || loop_now() - since > patience_ms * 1000000ull)
            return;
        loop_step(s->loop, DRAIN_STEP_NS);
    }
}

void chardevs_fini(struct chardevs *s)
{
    for (unsigned i = 0; i < s->count; i++)
        destroy(s->dev[i]);
    s->count = 0;
    term_restore();
    if (!s->loop)
        return;
    loop_remove(s->loop, &s->wake_watch);
    loop_remove_timer(s->loop, &s->flush_timer);
    if (s->wake_watch.fd >= 0)
        close(s->wake_watch.fd);
}
