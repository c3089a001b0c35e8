// Choosing an engine. What is passed over is remembered with its reason, for the line that says what runs, or why nothing does.
//
// An optimisation is switched off by its name, for those of the engines asked for that have one of that name.

#include "cli/accel.h"

#include <errno.h>
#include <string.h>

#include "engine/engines.h"

#define MAX_TB_SIZE 2000 // megabytes: translated code reaches all of it by 32-bit displacements
#define MAX_TB_INSNS 64

struct choice {
    char passed[512]; // "kvm: unknown; "
};

__attribute__((format(printf, 2, 3))) static void pass_over(struct choice *c, const char *fmt, ...)
{
    size_t len = strlen(c->passed);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(c->passed + len, sizeof(c->passed) - len, fmt, ap);
    va_end(ap);
}

static bool usable(struct choice *c, const struct engine_ops *e)
{
    const char *why = "it does not say why";

    if (!e->probe || !e->probe(&why))
        return true;
    pass_over(c, "%s: not usable here: %s; ", e->name, why);
    return false;
}

static const struct engine_ops *try_all(struct choice *c)
{
    const struct engine_ops *e;

    for (unsigned i = 0; (e = engine_at(i)); i++)
        if (usable(c, e))
            return e;
    return NULL;
}

static bool means_any(const char *name)
{
    return !strcmp(name, "auto") || !strcmp(name, "tcg");
}

// Engines that other builds, or other programs with such an option, have.
static bool is_elsewhere(const char *name)
{
    static const char *const names[] = {"kvm", "bt", "cache", "hybrid", "hvf", "whpx", "nvmm", "xen", "hax"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

static const struct engine_ops *try_name(struct choice *c, const char *name)
{
    const struct engine_ops *e = engine_find(name);

    if (means_any(name))
        return try_all(c);
    if (!e)
        pass_over(c, "%s: %s; ", name, is_elsewhere(name) ? "not in this build" : "unknown engine");
    return e && usable(c, e) ? e : NULL;
}

const struct engine_ops *accel_choose(const struct accel_option *a, char *why, size_t size, struct error *err)
{
    const struct engine_ops *e = a->count ? NULL : engine_at(0);
    struct choice c = {{0}};
    unsigned i;

    if (!a->count) {
        e = try_all(&c);
        snprintf(why, size, "%s%s", c.passed,
                 engine_at(1) ? "the first that works here" : "the only one of this build");
    }
    for (i = 0; i < a->count && !e; i++)
        e = try_name(&c, a->name[i]);
    if (!e) {
        c.passed[strlen(c.passed) - 2] = 0;
        error_format(err, "-accel %s%s; '-accel help' lists the engines", c.passed,
                     a->count > 1 ? ": none is left" : "");
        return NULL;
    }
    if (a->count)
        snprintf(why, size, "%s%s", c.passed, i > 1 ? "next in the list" : "asked for by -accel");
    return e;
}

struct engine_tuning accel_tuning(const struct accel_option *a, const struct engine_ops *e)
{
    struct engine_tuning t = a->tuning;

    for (unsigned i = 0; engine_at(i) && i < ACCEL_MAX_ENGINES; i++)
        if (engine_at(i) == e)
            t.off = a->off[i];
    return t;
}

// --- the argument ---------------------------------------------------------------------------------------------------------

int accel_add(struct accel_option *a, struct text_pool *pool, const char *list, struct error *err)
{
    while (*list) {
        size_t len = strcspn(list, ":");
        char *name = text_keep(pool, list, len);

        if (a->count == ACCEL_MAX_NAMES || !name)
            return error_set(err, -E2BIG, "-accel %s: more than %d engines", list, ACCEL_MAX_NAMES);
        a->name[a->count++] = name;
        list += len + (list[len] == ':');
    }
    return 0;
}

static bool is_asked_for(const struct accel_option *a, const struct engine_ops *e)
{
    for (unsigned i = 0; i < a->count; i++)
        if (means_any(a->name[i]) || !strcmp(a->name[i], e->name))
            return true;
    return false;
}

// Bits of `e` for an optimisation, or for all of them.
static u64 bits_of(const struct engine_ops *e, const char *name)
{
    u64 bits = 0;

    for (unsigned i = 0; e->opts && e->opts[i].name; i++)
        if (!strcmp(name, e->opts[i].name) || !strcmp(name, "all"))
            bits |= 1ull << i;
    return bits;
}

static int set_opt(struct accel_option *a, struct keyvals *k, const char *key, struct error *err)
{
    const struct engine_ops *e;
    bool on = true, found = false;
    int ret = keyvals_bool(k, key, &on, err);

    for (unsigned i = 0; !ret && (e = engine_at(i)) && i < ACCEL_MAX_ENGINES; i++) {
        u64 bits = is_asked_for(a, e) ? bits_of(e, key + strlen("opt-")) : 0;
        found |= bits != 0;
        a->off[i] = on ? a->off[i] & ~bits : a->off[i] | bits;
    }
    if (!ret && !found)
        return error_set(err, -EINVAL, "%s: %s: no such optimisation; '-accel help' lists them", k->what, key);
    return ret;
}

int accel_parse(struct accel_option *a, struct text_pool *pool, const char *option, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, pool, option, arg, "accel", err);
    const char *list = ret ? NULL : keyvals_get(&k, "accel");
    u64 megabytes = a->tuning.memory >> 20, insns = a->tuning.block;

    if (ret)
        return ret;
    if (!list || !*list)
        return error_set(err, -EINVAL, "-%s %s: names no engine; 'pogo run -accel help' lists them", option, arg);
    // QEMU's way to ask for what is always so.
    const char *thread = keyvals_get(&k, "thread");
    if (thread && strcmp(thread, "multi"))
        return error_set(err, -EINVAL, "-%s %s: thread=%s: must be multi: each processor has a thread of its own",
                         option, list, thread);
    ret = keyvals_number(&k, "tb-size", 1, MAX_TB_SIZE, &megabytes, err);
    if (!ret)
        ret = keyvals_number(&k, "tb-insns", 1, MAX_TB_INSNS, &insns, err);
    a->tuning.memory = megabytes << 20;
    a->tuning.block = (u32)insns;
    if (!ret)
        ret = accel_add(a, pool, list, err);
    for (unsigned i = 0; i < k.count && !ret; i++)
        if (!strncmp(k.item[i].key, "opt-", 4))
            ret = set_opt(a, &k, k.item[i].key, err);
    return ret ? ret : keyvals_done(&k, err);
}

// --- help -------------------------------------------------------------------------------------------------------------------

static void print_opts(FILE *out, const struct engine_ops *e)
{
    for (unsigned i = 0; e->opts && e->opts[i].name; i++)
        fprintf(out, "           opt-%-10s %s\n", e->opts[i].name, e->opts[i].help);
}

void accel_print(FILE *out)
{
    const struct engine_ops *e;

    for (unsigned i = 0; (e = engine_at(i)); i++) {
        const char *why = "it does not say why";
        bool works = !e->probe || !e->probe(&why);
        fprintf(out, "  %-8s %s%s\n", e->name, works ? "works here" : "does not work here: ", works ? "" : why);
        print_opts(out, e);
    }
    fprintf(out, "  %-8s the first of these that works here (also under QEMU's name for software: tcg)\n", "auto");
    fprintf(
        out,
        "\nopt-NAME=off behind an engine does without something that makes it fast, opt-all=off without all that\n");
}
