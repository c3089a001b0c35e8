// Standard streams, files, pipes and pseudo-terminals.
//
// Standard streams are shared with other processes, who would be surprised if their descriptors stopped blocking. So a terminal or
// a pipe is opened once more for ourselves, through /proc; where that is not allowed, it is written to only when poll()
// says so, and little at a time.

#include "host/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define PTY_LOOK_NS 200000000ull

// The same terminal or pipe without blocking; `fd` itself when that cannot be.
static int reopen(int fd, int mode, bool *own)
{
    char path[64];
    struct stat st;
    int mine;

    *own = false;
    if (fstat(fd, &st) || (!S_ISCHR(st.st_mode) && !S_ISFIFO(st.st_mode)))
        return fd;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    mine = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    *own = mine >= 0;
    return *own ? mine : fd;
}

static void classify_out(struct chardev *c)
{
    struct stat st;

    if (fstat(c->out_fd, &st))
        return;
    c->regular = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
    c->fifo = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
    if (c->regular || fcntl(c->out_fd, F_GETFL) & O_NONBLOCK)
        return;
    c->chunk = S_ISFIFO(st.st_mode) ? 4096 : 1; // PIPE_BUF: what poll() promises of a pipe
}

int chardev_open_stdio(struct chardev *c, const char *option, struct error *err)
{
    (void)option, (void)err;
    c->in_fd = reopen(STDIN_FILENO, O_RDONLY, &c->own_in);
    c->out_fd = reopen(STDOUT_FILENO, O_WRONLY, &c->own_out);
    classify_out(c);
    c->terminal = isatty(STDIN_FILENO);
    snprintf(c->name, sizeof(c->name), "standard input and output");
    return 0;
}

int chardev_open_file(struct chardev *c, const char *option, struct error *err)
{
    int how = O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (c->spec.append ? O_APPEND : O_TRUNC);

    c->out_fd = open(c->spec.path, how, 0666);
    if (c->out_fd < 0)
        return error_set(err, -errno, "-%s file:%s: cannot create: %s; check the path and its permissions", option,
                         c->spec.path, strerror(errno));
    c->own_out = true;
    classify_out(c);
    snprintf(c->name, sizeof(c->name), "%s", c->spec.path);
    return 0;
}

// PATH.in and PATH.out, if both are there; else PATH both ways.
int chardev_open_pipe(struct chardev *c, const char *option, struct error *err)
{
    size_t size = strlen(c->spec.path) + 5;
    char *name = malloc(size);

    if (!name)
        return error_set(err, -ENOMEM, "-%s pipe:%s: no memory", option, c->spec.path);
    c->own_in = c->own_out = true;
    // Opened for both directions, so that neither waits for, nor ends with, a process at the other end.
    snprintf(name, size, "%s.in", c->spec.path);
    c->in_fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    snprintf(name, size, "%s.out", c->spec.path);
    c->out_fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    free(name);
    if (c->in_fd < 0 || c->out_fd < 0) {
        if (c->in_fd >= 0)
            close(c->in_fd);
        if (c->out_fd >= 0)
            close(c->out_fd);
        c->in_fd = c->out_fd = open(c->spec.path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    if (c->in_fd < 0)
        return error_set(err, -errno, "-%s pipe:%s: cannot open: %s; make %s.in and %s.out with mkfifo", option,
                         c->spec.path, strerror(errno), c->spec.path, c->spec.path);
    snprintf(c->name, sizeof(c->name), "%s", c->spec.path);
    return 0;
}

// --- pseudo-terminals -----------------------------------------------------------------------------------------------------------

// Linux tells only who asks whether somebody has opened the other side.
static void look_for_peer(void *arg)
{
    struct chardev *c = arg;
    struct pollfd p = {.fd = c->in_fd};

    if (poll(&p, 1, 0) > 0 && (p.revents & POLLHUP))
        c->timer.at_ns = loop_now() + PTY_LOOK_NS;
    else
        chardev_peer_came(c);
}

// A raw line: what the guest sends comes out as it is. The settings stay while the master is open; and only a side that was open
// and closed again counts as hung up.
static int prepare_slave(const char *path)
{
    struct termios t;
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (!tcgetattr(fd, &t)) {
        cfmakeraw(&t);
        tcsetattr(fd, TCSANOW, &t);
    }
    close(fd);
    return 0;
}

int chardev_open_pty(struct chardev *c, const char *option, struct error *err)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), ret;

    c->in_fd = c->out_fd = fd;
    c->own_in = c->own_out = fd >= 0;
    if (fd < 0 || grantpt(fd) || unlockpt(fd) || ptsname_r(fd, c->name, sizeof(c->name)))
        return error_set(err, -errno, "-%s pty: cannot make a pseudo-terminal: %s", option, strerror(errno));
    ret = prepare_slave(c->name);
    if (ret)
        return error_set(err, ret, "-%s pty: cannot open %s: %s", option, c->name, strerror(-ret));
    if (c->spec.path && symlink(c->name, c->spec.path))
        return error_set(err, -errno, "-%s pty: cannot make the link %s: %s; remove what is there", option,
                         c->spec.path, strerror(errno));
    c->unlink_path = c->spec.path;
    c->timer = (struct loop_timer){loop_now(), look_for_peer, c};
    return 0;
}
