// Choosing an engine. What is passed over is remembered with its reason, for the line that says what runs, or why nothing does.

#include "cli/accel.h"

#include <errno.h>
#include <string.h>

#include "engine/engines.h"

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

    if (!strcmp(name, "auto") || !strcmp(name, "tcg"))
        return try_all(c);
    if (!e)
        pass_over(c, "%s: %s; ", name, is_elsewhere(name) ? "not in this build" : "unknown engine");
    return e && usable(c, e) ? e : NULL;
}

const struct engine_ops *accel_choose(const struct run_options *o, char *why, size_t size, struct error *err)
{
    const struct engine_ops *e = o->accel_count ? NULL : engine_at(0);
    struct choice c = {{0}};
    unsigned i;

    if (!o->accel_count) {
        e = try_all(&c);
        snprintf(why, size, "%s%s", c.passed,
                 engine_at(1) ? "the first that works here" : "the only one of this build");
    }
    for (i = 0; i < o->accel_count && !e; i++)
        e = try_name(&c, o->accel[i]);
    if (!e) {
        c.passed[strlen(c.passed) - 2] = 0;
        error_format(err, "-accel %s%s; '-accel help' lists the engines", c.passed,
                     o->accel_count > 1 ? ": none is left" : "");
        return NULL;
    }
    if (o->accel_count)
        snprintf(why, size, "%s%s", c.passed, i > 1 ? "next in the list" : "asked for by -accel");
    return e;
}

void accel_print(FILE *out)
{
    const struct engine_ops *e;

    for (unsigned i = 0; (e = engine_at(i)); i++) {
        const char *why = "it does not say why";
        bool works = !e->probe || !e->probe(&why);
        fprintf(out, "  %-8s %s%s\n", e->name, works ? "works here" : "does not work here: ", works ? "" : why);
    }
    fprintf(out, "  %-8s the first of these that works here (also under QEMU's name for software: tcg)\n", "auto");
}
