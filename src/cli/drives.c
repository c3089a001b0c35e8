// -drive, -blockdev and -object.

#include "cli/drives.h"

#include <errno.h>
#include <string.h>

static int parse_discard(struct drive_option *d, struct keyvals *k, struct error *err)
{
    const char *text = keyvals_get(k, "discard");

    if (!text || !strcmp(text, "ignore") || !strcmp(text, "off"))
        return 0;
    if (strcmp(text, "unmap") && strcmp(text, "on"))
        return error_set(err, -EINVAL, "%s: discard=%s: must be unmap or ignore", k->what, text);
    d->unmap = true;
    return 0;
}

// Which of QEMU's caching modes keep what promises. The host's page cache is always used.
static int parse_cache(struct drive_option *d, struct keyvals *k, struct error *err)
{
    static const struct {
        const char *name;
        bool writethrough, no_flush;
    } modes[] = {{"writeback", false, false},
                 {"none", false, false},
                 {"writethrough", true, false},
                 {"directsync", true, false},
                 {"unsafe", false, true}};
    const char *text = keyvals_get(k, "cache");

    if (!text)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        if (!strcmp(modes[i].name, text)) {
            d->writethrough = modes[i].writethrough;
            d->no_flush = modes[i].no_flush;
            return 0;
        }
    return error_set(err, -EINVAL, "%s: cache=%s: must be writeback, none, writethrough, directsync or unsafe", k->what,
                     text);
}

static int parse_format(struct keyvals *k, const char *key, struct error *err)
{
    const char *text = keyvals_get(k, key);

    if (text && strcmp(text, "raw"))
        return error_set(err, -EINVAL, "%s: %s=%s: only raw images; convert it with qemu-img convert -O raw", k->what,
                         key, text);
    return 0;
}

static int parse_interface(struct drive_option *d, struct keyvals *k, struct error *err)
{
    const char *text = keyvals_get(k, "if");

    // Without if= it is the board's default controller: here that is virtio.
    d->attach = !text || !strcmp(text, "virtio");
    if (!d->attach && strcmp(text, "none"))
        return error_set(err, -EINVAL, "%s: if=%s: must be virtio or none", k->what, text);
    return 0;
}

static int parse_locking(struct drive_option *d, struct keyvals *k, const char *key, struct error *err)
{
    const char *text = keyvals_get(k, key);

    if (!text || !strcmp(text, "auto") || !strcmp(text, "on"))
        return 0;
    if (strcmp(text, "off"))
        return error_set(err, -EINVAL, "%s: %s=%s: must be on, off or auto", k->what, key, text);
    d->no_lock = true;
    return 0;
}

int drive_parse(struct drive_option *d, struct text_pool *pool, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, pool, "drive", arg, NULL, err);

    *d = (struct drive_option){.what = k.what};
    if (ret)
        return ret;
    d->id = keyvals_get(&k, "id");
    d->file = keyvals_get(&k, "file");
    d->serial = keyvals_get(&k, "serial");
    keyvals_get(&k, "index"); // order on the command line is order on the bus
    if (!d->file || !*d->file)
        return error_set(err, -EINVAL, "%s: needs file=PATH", k.what);
    const char *media = keyvals_get(&k, "media");
    if (media && strcmp(media, "disk"))
        return error_set(err, -EINVAL, "%s: media=%s: must be disk", k.what, media);
    ret = parse_format(&k, "format", err);
    if (!ret)
        ret = parse_interface(d, &k, err);
    if (!ret)
        ret = keyvals_bool(&k, "readonly", &d->readonly, err);
    if (!ret)
        ret = keyvals_bool(&k, "read-only", &d->readonly, err);
    if (!ret)
        ret = keyvals_bool(&k, "snapshot", &d->snapshot, err);
    if (!ret)
        ret = parse_cache(d, &k, err);
    if (!ret)
        ret = parse_discard(d, &k, err);
    if (!ret)
        ret = parse_locking(d, &k, "file.locking", err);
    return ret ? ret : keyvals_done(&k, err);
}

// driver=file,filename=F | driver=raw,file.driver=file,file.filename=F | driver=raw,file=NODE
static int blockdev_source(struct drive_option *d, struct keyvals *k, const char *driver, struct error *err)
{
    const char *below = keyvals_get(k, "file.driver");

    if (!strcmp(driver, "file") || !strcmp(driver, "host_device")) {
        d->file = keyvals_get(k, "filename");
        return 0;
    }
    if (strcmp(driver, "raw"))
        return error_set(err, -EINVAL, "%s: unknown driver; must be raw, file or host_device", k->what);
    if (below && strcmp(below, "file") && strcmp(below, "host_device"))
        return error_set(err, -EINVAL, "%s: file.driver=%s: must be file or host_device", k->what, below);
    d->file = keyvals_get(k, "file.filename");
    d->node = keyvals_get(k, "file");
    return 0;
}

int blockdev_parse(struct drive_option *d, struct text_pool *pool, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, pool, "blockdev", arg, "driver", err);
    const char *driver;
    bool ignored = false;

    *d = (struct drive_option){.what = k.what};
    if (ret)
        return ret;
    driver = keyvals_get(&k, "driver");
    d->id = keyvals_get(&k, "node-name");
    if (!driver || *driver == '{')
        return error_set(err, -EINVAL, "%s: needs driver=raw or driver=file, and no JSON", k.what);
    if (!d->id || !*d->id)
        return error_set(err, -EINVAL, "%s: needs node-name=NAME, by which -device names it", k.what);
    ret = blockdev_source(d, &k, driver, err);
    if (!ret && !d->file == !d->node)
        ret = error_set(err, -EINVAL, "%s: needs filename=PATH, or with driver=raw file=NODE", k.what);
    if (!ret)
        ret = keyvals_bool(&k, "read-only", &d->readonly, err);
    if (!ret)
        ret = keyvals_bool(&k, "auto-read-only", &ignored, err);
    if (!ret)
        ret = keyvals_bool(&k, "cache.direct", &ignored, err);
    if (!ret)
        ret = keyvals_bool(&k, "cache.no-flush", &d->no_flush, err);
    if (!ret)
        ret = parse_discard(d, &k, err);
    if (!ret)
        ret = parse_locking(d, &k, "locking", err);
    return ret ? ret : keyvals_done(&k, err);
}

int object_parse(struct object_option *o, struct text_pool *pool, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, pool, "object", arg, "qom-type", err);
    const char *type = ret ? NULL : keyvals_get(&k, "qom-type");

    if (ret)
        return ret;
    *o = (struct object_option){.id = keyvals_get(&k, "id")};
    if (!type || (strcmp(type, "rng-random") && strcmp(type, "rng-builtin")))
        return error_set(err, -EINVAL, "%s: unknown object; must be rng-random or rng-builtin", k.what);
    if (!strcmp(type, "rng-random")) {
        o->filename = keyvals_get(&k, "filename");
        o->filename = o->filename ? o->filename : "/dev/urandom";
        if (strcmp(o->filename, "/dev/urandom") && strcmp(o->filename, "/dev/random"))
            return error_set(err, -EINVAL, "%s: filename=%s: must be /dev/urandom or /dev/random", k.what, o->filename);
    }
    if (!o->id || !*o->id)
        return error_set(err, -EINVAL, "%s: needs id=ID, by which -device names it", k.what);
    return keyvals_done(&k, err);
}
