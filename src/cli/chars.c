// Character devices as QEMU spells them.

#include "cli/chars.h"

#include <errno.h>
#include <string.h>

static const struct {
    const char *name, *help;
    enum chardev_kind kind;
} kinds[] = {
    {"null", "nothing comes, and what is sent is forgotten", CHARDEV_NULL},
    {"stdio", "standard input and output", CHARDEV_STDIO},
    {"file", "path=FILE[,append=on|off]: output to a file", CHARDEV_FILE},
    {"pipe", "path=PATH: named pipes PATH.in and PATH.out, or PATH for both", CHARDEV_PIPE},
    {"pty", "[path=LINK]: a new pseudo-terminal, and a symbolic link to it", CHARDEV_PTY},
    {"socket", "path=PATH or host=HOST,port=PORT[,server=on|off][,wait=on|off][,nodelay=on|off][,reconnect=SECONDS]",
     CHARDEV_UNIX},
};

void chars_print_kinds(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        fprintf(out, "  %-8s %s\n", kinds[i].name, kinds[i].help);
}

// --- -chardev -------------------------------------------------------------------------------------------------------------

static int socket_properties(struct chardev_spec *s, struct keyvals *k, struct error *err)
{
    u64 reconnect = 0;
    bool no = false;
    int ret = keyvals_bool(k, "server", &s->server, err);

    s->wait = s->server;
    if (!ret)
        ret = keyvals_bool(k, "wait", &s->wait, err);
    if (!ret)
        ret = keyvals_bool(k, "nodelay", &s->nodelay, err);
    if (!ret)
        ret = keyvals_bool(k, "telnet", &no, err);
    if (!ret)
        ret = keyvals_number(k, "reconnect", 0, 3600, &reconnect, err);
    // Which address family: getaddrinfo() knows better.
    keyvals_get(k, "ipv4");
    keyvals_get(k, "ipv6");
    if (ret)
        return ret;
    s->reconnect = (unsigned)reconnect;
    if (no)
        return error_set(err, -EINVAL, "%s: there is no telnet protocol; leave telnet=on out and use a raw client",
                         k->what);
    if (s->server && reconnect)
        return error_set(err, -EINVAL, "%s: reconnect= is for clients, and this is a server", k->what);
    return 0;
}

static int socket_address(struct chardev_spec *s, struct keyvals *k, struct error *err)
{
    s->path = keyvals_get(k, "path");
    s->host = keyvals_get(k, "host");
    s->port = keyvals_get(k, "port");
    if (s->path ? s->host || s->port || !*s->path : !s->port || !*s->port)
        return error_set(err, -EINVAL, "%s: needs either path=PATH, or port=PORT and maybe host=HOST", k->what);
    s->kind = s->path ? CHARDEV_UNIX : CHARDEV_TCP;
    return 0;
}

static int backend_properties(struct chardev_spec *s, struct keyvals *k, struct error *err)
{
    bool signal = true;
    int ret = keyvals_bool(k, "mux", &s->mux, err);

    if (!ret && s->kind == CHARDEV_UNIX) {
        ret = socket_address(s, k, err);
        return ret ? ret : socket_properties(s, k, err);
    }
    if (s->kind == CHARDEV_FILE || s->kind == CHARDEV_PIPE || s->kind == CHARDEV_PTY)
        s->path = keyvals_get(k, "path");
    if (!ret && (s->kind == CHARDEV_FILE || s->kind == CHARDEV_PIPE) && (!s->path || !*s->path))
        return error_set(err, -EINVAL, "%s: needs path=PATH", k->what);
    if (!ret && s->kind == CHARDEV_FILE)
        ret = keyvals_bool(k, "append", &s->append, err);
    // Ctrl-C is the guest's, whatever this says: Ctrl-A x is the way out.
    if (!ret && s->kind == CHARDEV_STDIO)
        ret = keyvals_bool(k, "signal", &signal, err);
    return ret;
}

int chars_parse_chardev(struct chardev_spec *s, struct text_pool *pool, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, pool, "chardev", arg, "backend", err);
    const char *name = ret ? NULL : keyvals_get(&k, "backend");
    size_t i;

    if (ret)
        return ret;
    for (i = 0; name && i < ARRAY_LEN(kinds); i++)
        if (!strcmp(kinds[i].name, name))
            break;
    if (!name || i == ARRAY_LEN(kinds))
        return error_set(err, -EINVAL, "%s: unknown kind of character device; '-chardev help' lists them", k.what);
    *s = (struct chardev_spec){.kind = kinds[i].kind, .id = keyvals_get(&k, "id")};
    if (!s->id || !*s->id)
        return error_set(err, -EINVAL, "%s: needs id=ID, by which other options name it", k.what);
    ret = backend_properties(s, &k, err);
    s->keys = s->mux ? CHARDEV_KEYS_ON : s->kind == CHARDEV_STDIO ? CHARDEV_KEYS_TTY : CHARDEV_KEYS_OFF;
    return ret ? ret : keyvals_done(&k, err);
}

// --- the short form -------------------------------------------------------------------------------------------------------

// "unix:PATH,..." or "tcp:HOST:PORT,...": what follows the colon, up to a comma, and properties.
static int parse_socket(struct char_use *u, struct text_pool *pool, const char *arg, bool tcp, struct error *err)
{
    char *text = text_join(pool, "address=", arg), *address, *colon;
    char what[80];
    struct keyvals k;
    int ret;

    if (!text)
        return error_set(err, -ENOMEM, "-%s: no memory for its argument", u->option);
    // A path may have '=' in it.
    ret = keyvals_parse(&k, pool, u->option, text, NULL, err);
    if (ret)
        return ret;
    snprintf(what, sizeof(what), "-%s %s:%.*s", u->option, tcp ? "tcp" : "unix", (int)strcspn(arg, ","), arg);
    k.what = text_keep(pool, what, strlen(what));
    k.what = k.what ? k.what : u->option;
    address = (char *)keyvals_get(&k, "address");
    u->spec.kind = tcp ? CHARDEV_TCP : CHARDEV_UNIX;
    u->spec.path = address;
    if (tcp) {
        colon = address ? strrchr(address, ':') : NULL;
        if (!colon || !colon[1])
            return error_set(err, -EINVAL, "-%s tcp:%s: must be tcp:HOST:PORT", u->option, address ? address : "");
        *colon = 0;
        u->spec.path = NULL;
        u->spec.host = address;
        u->spec.port = colon + 1;
    }
    if (!address || (!tcp && !*address))
        return error_set(err, -EINVAL, "-%s unix:: must be unix:PATH", u->option);
    ret = socket_properties(&u->spec, &k, err);
    return ret ? ret : keyvals_done(&k, err);
}

static bool starts(const char **arg, const char *prefix)
{
    size_t n = strlen(prefix);

    if (strncmp(*arg, prefix, n))
        return false;
    *arg += n;
    return true;
}

static int parse_path(struct char_use *u, enum chardev_kind kind, const char *path, struct error *err)
{
    if (!*path)
        return error_set(err, -EINVAL, "-%s: a path is missing after the colon", u->option);
    u->spec.kind = kind;
    u->spec.path = path;
    return 0;
}

int chars_parse(struct char_use *u, struct text_pool *pool, const char *option, const char *arg, struct error *err)
{
    const char *whole = arg;
    bool mux = starts(&arg, "mon:");
    int ret = 0;

    *u = (struct char_use){.how = CHAR_OPEN, .option = option};
    if (!strcmp(arg, "none") && !mux)
        u->how = CHAR_NONE;
    else if (!strcmp(arg, "null"))
        u->spec.kind = CHARDEV_NULL;
    else if (!strcmp(arg, "stdio"))
        u->spec = (struct chardev_spec){.kind = CHARDEV_STDIO, .keys = CHARDEV_KEYS_TTY};
    else if (!strcmp(arg, "pty"))
        u->spec.kind = CHARDEV_PTY;
    else if (starts(&arg, "file:"))
        ret = parse_path(u, CHARDEV_FILE, arg, err);
    else if (starts(&arg, "pipe:"))
        ret = parse_path(u, CHARDEV_PIPE, arg, err);
    else if (starts(&arg, "unix:"))
        ret = parse_socket(u, pool, arg, false, err);
    else if (starts(&arg, "tcp:"))
        ret = parse_socket(u, pool, arg, true, err);
    else if (starts(&arg, "chardev:") && *arg && !mux)
        *u = (struct char_use){.how = CHAR_ID, .spec = {.id = arg}, .option = option};
    else
        return error_set(err, -EINVAL,
                         "-%s %s: unknown destination; must be [mon:]stdio, file:PATH, pipe:PATH, pty, unix:PATH, "
                         "tcp:HOST:PORT, chardev:ID, null or none",
                         option, whole);
    if (mux) {
        u->spec.mux = true;
        u->spec.keys = CHARDEV_KEYS_ON;
    }
    return ret;
}

// --- devices --------------------------------------------------------------------------------------------------------------

static struct chardev *find_stdio(struct chardevs *all)
{
    for (unsigned i = 0; i < all->count; i++)
        if (all->dev[i]->spec.kind == CHARDEV_STDIO)
            return all->dev[i];
    return NULL;
}

static int share_stdio(struct chardev *c, const struct char_use *u, struct chardev **out, struct error *err)
{
    if (c->spec.id)
        return error_set(err, -EBUSY, "-%s stdio: -chardev %s has standard input and output; name that: chardev:%s",
                         u->option, c->spec.id, c->spec.id);
    if (u->spec.keys > c->spec.keys)
        c->spec.keys = u->spec.keys;
    *out = c;
    return 0;
}

int chars_open(struct chardevs *all, const struct char_use *u, struct chardev **out, struct error *err)
{
    struct chardev_spec spec = u->spec;
    struct chardev *c;
    int ret;

    *out = NULL;
    if (u->how == CHAR_DEFAULT || u->how == CHAR_NONE)
        return 0;
    if (u->how == CHAR_ID) {
        *out = chardev_find(all, spec.id);
        return *out ? 0 : error_set(err, -ENOENT, "-%s chardev:%s: no -chardev has this id", u->option, spec.id);
    }
    c = spec.kind == CHARDEV_STDIO ? find_stdio(all) : NULL;
    if (c)
        return share_stdio(c, u, out, err);
    if (spec.kind == CHARDEV_STDIO && !spec.id)
        spec.mux = true;
    ret = chardev_create(all, &spec, u->option, out, err);
    if (!ret && spec.kind == CHARDEV_PTY)
        fprintf(stderr, "char device redirected to %s (label %s)\n", (*out)->name, spec.id ? spec.id : u->option);
    return ret;
}

int chars_attach(struct chardev *c, struct chardev_front *f, const char *option, struct error *err)
{
    int ret = chardev_attach(c, f);

    if (ret == -EBUSY)
        return error_set(err, ret, "-%s: the character device %s has a user already; give it mux=on to share it",
                         option, c->spec.id ? c->spec.id : c->name);
    return ret ? error_set(err, ret, "-%s: the character device %s has %d users already", option,
                           c->spec.id ? c->spec.id : c->name, CHARDEV_MAX_FRONTS)
               : 0;
}
