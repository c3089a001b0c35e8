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

// --- addresses ------------------------------------------------------------------------------------------------------------------

static int unix_address(struct chardev *c, const char *option, struct error *err)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&c->address[0].addr;

    if (strlen(c->spec.path) >= sizeof(un->sun_path))
        return error_set(err, -ENAMETOOLONG,
                         "-%s unix:%s: longer than the %zu characters that a socket's path may have", option,
                         c->spec.path, sizeof(un->sun_path) - 1);
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, c->spec.path);
    c->address[0].len = sizeof(*un);
    c->addresses = 1;
    return 0;
}

// getaddrinfo() takes any number, modulo 65536.
static bool port_valid(const char *port)
{
    char *end;
    unsigned long n = strtoul(port, &end, 10);

    return *end || *port == '-' || *port == '+' || (n > 0 && n < 65536); // something else is a service's name
}

static int tcp_addresses(struct chardev *c, const char *option, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = c->spec.server ? AI_PASSIVE : 0}, *found, *i;
    const char *host = c->spec.host && *c->spec.host ? c->spec.host : NULL;
    int ret;

    if (!port_valid(c->spec.port))
        return error_set(err, -EINVAL, "-%s tcp:%s:%s: not a port; must be from 1 to 65535", option, host ? host : "",
                         c->spec.port);
    ret = getaddrinfo(host, c->spec.port, &hints, &found);
    if (ret)
        return error_set(err, -EINVAL, "-%s tcp:%s:%s: %s", option, host ? host : "", c->spec.port, gai_strerror(ret));
    for (i = found; i && c->addresses < CHARDEV_MAX_ADDRESSES; i = i->ai_next) {
        struct chardev_address *a = &c->address[c->addresses++];
        memcpy(&a->addr, i->ai_addr, i->ai_addrlen);
        a->len = i->ai_addrlen;
    }
    freeaddrinfo(found);
    return 0;
}

// Once: a name server that does not answer must not hold up the thread in control later.
static int find_addresses(struct chardev *c, const char *option, struct error *err)
{
    return c->spec.kind == CHARDEV_UNIX ? unix_address(c, option, err) : tcp_addresses(c, option, err);
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

static int connect_now(struct chardev *c)
{
    int ret = -EADDRNOTAVAIL, fd;

    for (unsigned i = 0; i < c->addresses; i++) {
        const struct chardev_address *a = &c->address[i];
        fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !connect(fd, (const struct sockaddr *)&a->addr, a->len)) {
            use_socket(c, fd);
            return 0;
        }
        ret = -errno;
        if (fd >= 0)
            close(fd);
    }
    return ret;
}

// --- clients that try again -------------------------------------------------------------------------------------------------
//
// Nothing here waits. While a connection is being made, listen_fd is its socket; when nothing has come of it until the next try, it
// is given up.

static void give_up(struct chardev *c)
{
    if (c->listen_fd >= 0)
        close(c->listen_fd);
    c->listen_fd = c->listen_watch.fd = -1;
}

// Returns 0: connected, or -EINPROGRESS, or another negative errno.
static int start_connecting(struct chardev *c)
{
    const struct chardev_address *a = &c->address[c->address_next++ % c->addresses];
    int fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;

    if (fd < 0)
        return -errno;
    ret = connect(fd, (const struct sockaddr *)&a->addr, a->len) ? -errno : 0;
    if (!ret)
        use_socket(c, fd);
    else if (ret == -EINPROGRESS)
        c->listen_fd = fd;
    else
        close(fd);
    return ret;
}

static int try_addresses(struct chardev *c)
{
    int ret = -EADDRNOTAVAIL;

    for (unsigned i = 0; i < c->addresses && ret && ret != -EINPROGRESS; i++)
        ret = start_connecting(c);
    c->timer.at_ns = ret ? loop_now() + c->spec.reconnect * 1000000000ull : LOOP_NEVER;
    return ret;
}

static void reconnect(void *arg)
{
    struct chardev *c = arg;

    if (c->in_fd >= 0)
        return;
    give_up(c);
    if (!try_addresses(c))
        chardev_peer_came(c);
    else
        chardev_update(c);
}

static void connecting(void *arg, short revents)
{
    struct chardev *c = arg;
    int fd = c->listen_fd, failed = 0;
    socklen_t len = sizeof(failed);

    (void)revents;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) || failed) {
        give_up(c); // until the next try
        if (c->address_next % c->addresses)
            reconnect(c); // with the next address
        return;
    }
    c->listen_fd = c->listen_watch.fd = -1;
    c->timer.at_ns = LOOP_NEVER;
    use_socket(c, fd);
    chardev_peer_came(c);
}

// --- opening --------------------------------------------------------------------------------------------------------------------

// A socket that a dead process left behind is in the way; one that somebody listens on is his.
static int clear_path(struct chardev *c, const char *option, struct error *err)
{
    const struct chardev_address *a = &c->address[0];
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

static int listen_now(struct chardev *c, const char *option, struct error *err)
{
    const struct chardev_address *a = &c->address[0];
    int on = 1, ret = 0, fd;

    if (c->spec.kind == CHARDEV_UNIX)
        ret = clear_path(c, option, err);
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
    int ret = find_addresses(c, option, err);

    if (ret)
        return ret;
    describe(c);
    if (c->spec.server) {
        ret = listen_now(c, option, err);
        return ret || !c->spec.wait ? ret : wait_peer(c, option, err);
    }
    if (c->spec.reconnect) {
        c->timer = (struct loop_timer){LOOP_NEVER, reconnect, c};
        c->listen_watch = (struct loop_watch){.fd = -1, .ready = connecting, .arg = c};
        try_addresses(c);
        return 0;
    }
    ret = connect_now(c);
    if (ret)
        return error_set(err, ret, "-%s %s: cannot connect: %s; start who listens there first, or give server=on",
                         option, c->name, strerror(-ret));
    return 0;
}
