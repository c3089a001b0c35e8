// Unix and TCP sockets, as server or client. One peer at a time: others queue up until it has gone.

#include "host/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct address {
    struct sockaddr_storage addr;
    socklen_t len;
};

// --- addresses ------------------------------------------------------------------------------------------------------------------

static int unix_address(struct chardev *c, struct address *a, const char *option, struct error *err)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&a->addr;

    if (strlen(c->spec.path) >= sizeof(un->sun_path))
        return error_set(err, -ENAMETOOLONG,
                         "-%s unix:%s: longer than the %zu characters that a socket's path may have", option,
                         c->spec.path, sizeof(un->sun_path) - 1);
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, c->spec.path);
    a->len = sizeof(*un);
    return 0;
}

// getaddrinfo() takes any number, modulo 65536.
static bool port_valid(const char *port)
{
    char *end;
    unsigned long n = strtoul(port, &end, 10);

    return *end || *port == '-' || *port == '+' || (n > 0 && n < 65536); // something else is a service's name
}

static int tcp_address(struct chardev *c, struct address *a, const char *option, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = c->spec.server ? AI_PASSIVE : 0}, *found;
    const char *host = c->spec.host && *c->spec.host ? c->spec.host : NULL;
    int ret;

    if (!port_valid(c->spec.port))
        return error_set(err, -EINVAL, "-%s tcp:%s:%s: not a port; must be from 1 to 65535", option, host ? host : "",
                         c->spec.port);
    ret = getaddrinfo(host, c->spec.port, &hints, &found);

    if (ret)
        return error_set(err, -EINVAL, "-%s tcp:%s:%s: %s", option, host ? host : "", c->spec.port, gai_strerror(ret));
    memcpy(&a->addr, found->ai_addr, found->ai_addrlen);
    a->len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int find_address(struct chardev *c, struct address *a, const char *option, struct error *err)
{
    memset(a, 0, sizeof(*a));
    return c->spec.kind == CHARDEV_UNIX ? unix_address(c, a, option, err) : tcp_address(c, a, option, err);
}

static void describe(struct chardev *c)
{
    const char *end = c->spec.server ? ",server=on" : "";

    if (c->spec.kind == CHARDEV_UNIX)
        snprintf(c->name, sizeof(c->name), "unix:%s%s", c->spec.path, end);
    else
        snprintf(c->name, sizeof(c->name), "tcp:%s:%s%s", c->spec.host ? c->spec.host : "", c->spec.port, end);
}

// --- peers ----------------------------------------------------------------------------------------------------------------------

static void use_socket(struct chardev *c, int fd)
{
    int on = 1;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (c->spec.kind == CHARDEV_TCP && c->spec.nodelay)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    c->in_fd = c->out_fd = fd;
    c->own_in = c->own_out = true;
}

static void accept_peer(void *arg, short revents)
{
    struct chardev *c = arg;
    int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    (void)revents;
    if (fd < 0)
        return;
    use_socket(c, fd);
    chardev_peer_came(c);
}

static int connect_now(struct chardev *c, const struct address *a)
{
    int fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&a->addr, a->len)) {
        ret = -errno;
        close(fd);
        return ret;
    }
    use_socket(c, fd);
    return 0;
}

// Without waiting: the address is that of a machine that answered before, or of a local socket. A peer that does not answer at
// once is tried again.
static void reconnect(void *arg)
{
    struct chardev *c = arg;
    struct address a;
    struct error err;
    int fd;

    c->timer.at_ns = loop_now() + c->spec.reconnect * 1000000000ull;
    if (c->in_fd >= 0 || find_address(c, &a, "chardev", &err))
        return;
    fd = socket(a.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int failed = connect(fd, (struct sockaddr *)&a.addr, a.len) ? errno : 0;
    socklen_t len = sizeof(failed);
    if (failed == EINPROGRESS && (poll(&p, 1, 20) < 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len)))
        failed = ETIMEDOUT;
    if (failed) {
        close(fd);
        return;
    }
    c->timer.at_ns = LOOP_NEVER;
    use_socket(c, fd);
    chardev_peer_came(c);
}

// --- opening --------------------------------------------------------------------------------------------------------------------

// A socket that a dead process left behind is in the way; one that somebody listens on is his.
static int clear_path(struct chardev *c, const struct address *a, const char *option, struct error *err)
{
    struct stat st;
    int fd, ret;

    if (lstat(c->spec.path, &st))
        return 0; // bind() will say what else is wrong
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "-%s unix:%s: there is something that is no socket; remove it", option,
                         c->spec.path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ret = fd < 0 ? -1 : connect(fd, (const struct sockaddr *)&a->addr, a->len);
    if (ret && errno == EAGAIN)
        ret = 0; // its queue is full
    if (fd >= 0)
        close(fd);
    if (!ret)
        return error_set(err, -EADDRINUSE, "-%s unix:%s: another process listens there; choose another path", option,
                         c->spec.path);
    unlink(c->spec.path);
    return 0;
}

static int listen_now(struct chardev *c, const struct address *a, const char *option, struct error *err)
{
    int on = 1, ret = 0, fd;

    if (c->spec.kind == CHARDEV_UNIX)
        ret = clear_path(c, a, option, err);
    if (ret)
        return ret;
    fd = c->listen_fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->spec.kind == CHARDEV_TCP && fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (const struct sockaddr *)&a->addr, a->len))
        return error_set(err, -errno, "-%s %s: cannot listen: %s; choose another address", option, c->name,
                         strerror(errno));
    c->unlink_path = c->spec.kind == CHARDEV_UNIX;
    if (listen(fd, 1))
        return error_set(err, -errno, "-%s %s: cannot listen: %s", option, c->name, strerror(errno));
    c->listen_watch = (struct loop_watch){.fd = fd, .events = POLLIN, .ready = accept_peer, .arg = c};
    return 0;
}

static int wait_peer(struct chardev *c, const char *option, struct error *err)
{
    struct pollfd p = {.fd = c->listen_fd, .events = POLLIN};
    int fd = -1;

    if (c->all->waits)
        c->all->waits(c->all->arg, c, option);
    while (fd < 0) {
        if (poll(&p, 1, -1) < 0 && errno != EINTR)
            return error_set(err, -errno, "-%s %s: cannot wait for a connection: %s", option, c->name, strerror(errno));
        fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    }
    use_socket(c, fd);
    return 0;
}

int chardev_open_socket(struct chardev *c, const char *option, struct error *err)
{
    struct address a;
    int ret = find_address(c, &a, option, err);

    if (ret)
        return ret;
    describe(c);
    if (c->spec.server) {
        ret = listen_now(c, &a, option, err);
        return ret || !c->spec.wait ? ret : wait_peer(c, option, err);
    }
    c->timer = (struct loop_timer){LOOP_NEVER, reconnect, c};
    ret = connect_now(c, &a);
    if (ret && c->spec.reconnect) {
        c->timer.at_ns = loop_now() + c->spec.reconnect * 1000000000ull;
        return 0;
    }
    if (ret)
        return error_set(err, ret, "-%s %s: cannot connect: %s; start who listens there first, or give server=on",
                         option, c->name, strerror(-ret));
    return 0;
}
