// pogo lockstep: one guest on two engines. Its own options are in lockstep.def; all others are those of `pogo run`, and make the guest.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmd.h"
#include "cli/lockstep.h"
#include "engine/engines.h"

// Two machines that differ, and bad usage, are told apart.
#define STATUS_DIFFERENT 1
#define STATUS_ERROR 2

#define EVERY 1024
#define MEMORY_EVERY 64
#define FULL_EVERY (1ull << 24)
#define ICOUNT_SHIFT 3 // as fast as 125 million instructions a second

struct request {
    struct lockstep_config c;
    struct run_options o;
    struct script script;
    struct text_pool pool;
    bool help;
    FILE *log[2];
};

// --- options --------------------------------------------------------------------------------------------------------------

// A number with K, M or G for powers of ten.
static int number(const char *option, const char *arg, u64 *out, struct error *err)
{
    char *end;
    unsigned long long n, unit = 1;

    errno = 0;
    n = strtoull(arg, &end, 0);
    if (*end == 'K')
        unit = 1000;
    else if (*end == 'M')
        unit = 1000000;
    else if (*end == 'G')
        unit = 1000000000;
    end += unit > 1;
    if (arg[0] < '0' || arg[0] > '9' || *end || errno || __builtin_mul_overflow(n, unit, &n) || !n)
        return error_set(err, -EINVAL, "lockstep: --%s %s: not a number of instructions; write one like 5000 or 20M",
                         option, arg);
    *out = n;
    return 0;
}

// One engine, as -accel has it.
static int engine(struct request *r, const char *option, int side, const char *arg, struct error *err)
{
    struct accel_option a = {.count = 0};
    const char *why = "it does not say why";
    int ret = accel_parse(&a, &r->pool, option, arg, err);

    if (ret)
        return ret;
    const struct engine_ops *e = a.count == 1 ? engine_find(a.name[0]) : NULL;
    if (!e)
        return error_set(err, -EINVAL, "lockstep: -%s %s: must be an engine; 'pogo run -accel help' lists them", option,
                         arg);
    if (e->probe && e->probe(&why))
        return error_set(err, -ENODEV, "lockstep: -%s %s: not usable here: %s", option, e->name, why);
    r->c.engine[side] = e;
    r->c.tuning[side] = accel_tuning(&a, e);
    return 0;
}

static int opt_a(struct request *r, const char *arg, struct error *err)
{
    return engine(r, "a", 0, arg, err);
}

static int opt_b(struct request *r, const char *arg, struct error *err)
{
    return engine(r, "b", 1, arg, err);
}

static int opt_every(struct request *r, const char *arg, struct error *err)
{
    return number("every", arg, &r->c.every, err);
}

static int opt_memory_every(struct request *r, const char *arg, struct error *err)
{
    return number("memory-every", arg, &r->c.memory_every, err);
}

static int opt_limit(struct request *r, const char *arg, struct error *err)
{
    return number("limit", arg, &r->c.limit, err);
}

static int opt_until(struct request *r, const char *arg, struct error *err)
{
    (void)err;
    r->c.until = arg;
    return 0;
}

static int opt_input(struct request *r, const char *arg, struct error *err)
{
    if (r->c.script)
        return error_set(err, -EEXIST, "lockstep: --input %s: there is one already", arg);
    r->c.script = &r->script;
    return script_load(&r->script, arg, err);
}

static int opt_dump_at(struct request *r, const char *arg, struct error *err)
{
    if (r->c.dumps == LOCKSTEP_DUMPS)
        return error_set(err, -E2BIG, "lockstep: --dump-at %s: more than %d of them", arg, LOCKSTEP_DUMPS);
    return number("dump-at", arg, &r->c.dump_at[r->c.dumps++], err);
}

static int opt_progress(struct request *r, const char *arg, struct error *err)
{
    (void)arg, (void)err;
    r->c.progress = true;
    return 0;
}

static int opt_quiet(struct request *r, const char *arg, struct error *err)
{
    (void)arg, (void)err;
    r->c.echo = false;
    return 0;
}

static const struct row {
    const char *name, *arg, *help;
    int (*set)(struct request *r, const char *arg, struct error *err);
} rows[] = {
#define LOCKSTEP_OPTION(id, name, arg, help) {name, arg, help, opt_##id},
#include "cli/lockstep.def"
#undef LOCKSTEP_OPTION
};

static const struct row *find(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (option_is(text, rows[i].name))
            return &rows[i];
    return NULL;
}

// What `pogo run` offers and two machines that nobody attends to cannot have.
static int check_guest(const struct run_options *o, struct error *err)
{
    if (o->cpus > 1)
        return error_set(err, -EINVAL,
                         "lockstep: virtual time follows the instructions of one processor; leave -smp %u away",
                         o->cpus);
    if (o->gdb || o->stopped || o->daemonize || o->pidfile)
        return error_set(err, -EINVAL,
                         "lockstep: nobody attends to the machines; leave -gdb, -s, -S, -daemonize and -pidfile away");
    if (o->perf_map)
        return error_set(err, -EINVAL, "lockstep: -perfmap: what takes time here is the comparison; use pogo run");
    if (o->accel.count)
        return error_set(err, -EINVAL, "lockstep: -accel: name the engines with -a and -b");
    for (unsigned i = 0; i < o->device_count; i++)
        if (o->device[i].kind == DEVICE_VIRTIO_SERIAL)
            return error_set(err, -EINVAL,
                             "lockstep: -device virtio-serial-pci: its ports are not compared; use -serial");
    return 0;
}

// Take this command's options out of argv and give the rest to the parser of `pogo run`.
static int parse(struct request *r, int argc, char **argv, struct error *err)
{
    int rest = 0, ret = 0;

    for (int i = 0; i < argc && !ret; i++) {
        const struct row *row = find(argv[i]);
        if (!row)
            argv[rest++] = argv[i];
        else if (row->arg && i + 1 == argc)
            ret = error_set(err, -EINVAL, "lockstep: %s: needs an argument", argv[i]);
        else
            ret = row->set(r, row->arg ? argv[++i] : NULL, err);
    }
    if (!ret)
        ret = options_parse(&r->o, rest, argv, err);
    r->help = r->o.help || r->o.help_for;
    if (ret || r->help)
        return ret;
    if (!r->c.engine[1])
        return error_set(err, -EINVAL, "lockstep: -b ENGINE is missing; 'pogo run -accel help' lists the engines");
    return check_guest(&r->o, err);
}

// Nothing that two runs could find different, or change for each other.
static void make_repeatable(struct run_options *o)
{
    if (!o->icount)
        o->icount_shift = ICOUNT_SHIFT;
    o->icount = true;
    for (unsigned i = 0; i < o->drive_count; i++)
        o->drive[i].snapshot = true;
}

// -D FILE: the two machines write FILE.a and FILE.b.
static int open_logs(struct request *r, struct error *err)
{
    char name[4096];

    for (int i = 0; i < 2; i++) {
        r->c.log[i] = stderr;
        if (!r->o.log_file)
            continue;
        snprintf(name, sizeof(name), "%s.%c", r->o.log_file, "ab"[i]);
        r->c.log[i] = r->log[i] = fopen(name, "we");
        if (!r->log[i])
            return error_set(err, -errno, "-D %s: cannot create: %s; check the path and its permissions", name,
                             strerror(errno));
    }
    return 0;
}

static int usage(void)
{
    printf(
        "usage: pogo lockstep [-a ENGINE] -b ENGINE [OPTIONS] -kernel IMAGE [OPTIONS of pogo run]\n\n"
        "Runs one guest on two engines, with time that follows its instructions (-icount), and compares the machines all the\n"
        "time. On a difference it finds the instruction that makes it, and shows what led there.\n\n");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        printf("  --%s%s%s\n        %s\n", rows[i].name, rows[i].arg ? " " : "", rows[i].arg ? rows[i].arg : "",
               rows[i].help);
    printf(
        "\nDisk images are not changed. The comparison ends when the guest does, or at its first reset with -no-reboot. With -D FILE the logs of -d go to FILE.a and\n"
        "FILE.b. Exit status: 0 no difference, %d a difference, %d errors of usage.\n",
        STATUS_DIFFERENT, STATUS_ERROR);
    return CMD_OK;
}

static int fail(const struct error *err)
{
    cmd_fail(err);
    return STATUS_ERROR;
}

static int go(struct request *r, int argc, char **argv)
{
    struct lockstep_result result;
    struct error err;
    int ret = parse(r, argc, argv, &err);

    if (!ret && r->help)
        return usage();
    make_repeatable(&r->o);
    if (!ret)
        ret = open_logs(r, &err);
    if (!ret)
        ret = lockstep(&r->c, &result, &err);
    if (ret)
        return fail(&err);
    return result.different ? STATUS_DIFFERENT : 0;
}

int cmd_lockstep(int argc, char **argv)
{
    struct request *r = calloc(1, sizeof(*r));
    struct error err;
    int status;

    if (!r) {
        error_format(&err, "lockstep: no memory");
        return fail(&err);
    }
    r->c = (struct lockstep_config){.engine = {engine_find("interp")},
                                    .o = &r->o,
                                    .every = EVERY,
                                    .memory_every = MEMORY_EVERY,
                                    .full_every = FULL_EVERY,
                                    .limit = ~0ull,
                                    .echo = true,
                                    .out = stdout};
    status = go(r, argc, argv);
    for (int i = 0; i < 2; i++)
        if (r->log[i])
            fclose(r->log[i]);
    options_free(&r->o);
    text_free(&r->pool);
    script_free(&r->script);
    free(r);
    return status;
}
