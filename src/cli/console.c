// Streams, the input ring and the escape key.

#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define CTRL_A 0x01

int out_open(struct out_stream *s, const char *option, const struct stream_spec *spec, struct error *err)
{
    s->count = 0;
    s->owned = false;
    atomic_init(&s->hurry, false);
    s->fd = spec->kind == STREAM_STDIO ? STDOUT_FILENO : -1;
    if (spec->kind != STREAM_FILE)
        return 0;
    s->fd = open(spec->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->fd < 0)
        return error_set(err, -errno, "-%s file:%s: cannot create: %s; check the path and its permissions", option,
                         spec->path, strerror(errno));
    s->owned = true;
    return 0;
}

void out_flush(struct out_stream *s)
{
    u32 done = 0;

    while (done < s->count) {
        ssize_t n = write(s->fd, s->buf + done, s->count - done);

        if (n > 0) {
            done += (u32)n;
            continue;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            break; // nowhere to put it: a serial line does not notice either
        if (errno == EAGAIN)
            poll(&(struct pollfd){.fd = s->fd, .events = POLLOUT}, 1, -1);
        if (atomic_load(&s->hurry))
            break;
    }
    s->count = 0;
}

void out_byte(void *stream, u8 byte)
{
    struct out_stream *s = stream;

    if (s->fd < 0)
        return;
    s->buf[s->count++] = byte;
    if (byte == '\n' || s->count == sizeof(s->buf))
        out_flush(s);
}

void out_close(struct out_stream *s)
{
    if (s->fd < 0)
        return;
    out_flush(s);
    if (s->owned)
        close(s->fd);
    s->fd = -1;
}

u32 in_room(struct in_ring *r)
{
    return IN_RING_SIZE - (atomic_load_explicit(&r->tail, memory_order_relaxed) -
                           atomic_load_explicit(&r->head, memory_order_acquire));
}

bool in_put(struct in_ring *r, u8 byte)
{
    u32 tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

    if (!in_room(r))
        return false;
    r->buf[tail % IN_RING_SIZE] = byte;
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return true;
}

int in_get(void *ring)
{
    struct in_ring *r = ring;
    u32 head = atomic_load_explicit(&r->head, memory_order_relaxed);
    u8 byte;

    if (head == atomic_load_explicit(&r->tail, memory_order_acquire))
        return -1;
    byte = r->buf[head % IN_RING_SIZE];
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return byte;
}

enum key_action key_input(struct key_filter *f, u8 byte)
{
    if (!f->active)
        return KEY_SEND;
    if (!f->escaped) {
        f->escaped = byte == CTRL_A;
        return f->escaped ? KEY_NONE : KEY_SEND;
    }
    f->escaped = false;
    switch (byte) {
    case CTRL_A: return KEY_SEND;
    case 'x':
    case 'X': return KEY_QUIT;
    default: return KEY_HELP;
    }
}
