// Parser of `pogo run`'s options, made from options.def.

#include "cli/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/host.h"
#include "core/machine.h"
#include "host/linux.h"

#define DEFAULT_RAM (128ull << 20)
#define GDB_DEFAULT "tcp::1234"
#define ICOUNT_UTC_S 1767225600 // 2026-01-01: a start that does not depend on when it is
#define ICOUNT_MAX_SHIFT 10

static bool asks(const char *arg)
{
    return !strcmp(arg, "help") || !strcmp(arg, "?");
}

// --- options that keep their argument ---------------------------------------------------------------------------------------

#define KEEP(option, field) \
    static int opt_##option(struct run_options *o, const char *arg, struct error *err) \
    { \
        (void)err; \
        o->field = arg; \
        return 0; \
    }

KEEP(kernel, kernel)
KEEP(append, append)
KEEP(initrd, initrd)
KEEP(bios, bios)
KEEP(gdb, gdb)
KEEP(pidfile, pidfile)
KEEP(log_file, log_file)

#define FLAG(option, field) \
    static int opt_##option(struct run_options *o, const char *arg, struct error *err) \
    { \
        (void)arg, (void)err; \
        o->field = true; \
        return 0; \
    }

FLAG(nographic, nographic)
FLAG(nodefaults, nodefaults)
FLAG(no_reboot, no_reboot)
FLAG(no_shutdown, no_shutdown)
FLAG(stopped, stopped)
FLAG(daemonize, daemonize)
FLAG(perf_map, perf_map)

static int opt_no_user_config(struct run_options *o, const char *arg, struct error *err)
{
    (void)o, (void)arg, (void)err;
    return 0;
}

static int opt_gdb_default(struct run_options *o, const char *arg, struct error *err)
{
    (void)arg, (void)err;
    o->gdb = GDB_DEFAULT;
    return 0;
}

static int only_none(const char *option, const char *what, const char *arg, struct error *err)
{
    return strcmp(arg, "none") ? error_set(err, -EINVAL, "-%s %s: there is %s; must be none", option, arg, what) : 0;
}

static int opt_display(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    return only_none("display", "nothing graphical", arg, err);
}

static int opt_vga(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    return only_none("vga", "nothing graphical", arg, err);
}

static int opt_net(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    return only_none("nic", "no network", arg, err);
}

static int opt_parallel(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    return only_none("parallel", "no parallel port", arg, err);
}

// --- the machine ------------------------------------------------------------------------------------------------------------

static int opt_m(struct run_options *o, const char *arg, struct error *err)
{
    if (!parse_size(!strncmp(arg, "size=", 5) ? arg + 5 : arg, 20, &o->ram))
        return error_set(err, -EINVAL, "-m %s: not a size; write a number with K, M, G or T, like 512M", arg);
    return 0;
}

static int opt_cpu(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->cpu = arg;
    if (asks(arg))
        o->help_for = "cpu";
    return 0;
}

static int opt_smp(struct run_options *o, const char *arg, struct error *err)
{
    static const char *const parts[] = {"sockets", "dies", "clusters", "cores", "threads"};
    struct keyvals k;
    u64 cpus = 0, max = 0, product = 1, n;
    bool any = false;
    int ret = keyvals_parse(&k, &o->pool, "smp", arg, "cpus", err);

    if (ret)
        return ret;
    const char *text = keyvals_get(&k, "cpus");
    if (text && (!parse_number(text, strlen(text), MACHINE_MAX_VCPUS, &cpus) || !cpus))
        return error_set(err, -EINVAL, "-smp %s: not a number of processors; must be from 1 to %d", arg,
                         MACHINE_MAX_VCPUS);
    for (size_t i = 0; i < ARRAY_LEN(parts) && !ret; i++) {
        n = 0;
        ret = keyvals_number(&k, parts[i], 1, MACHINE_MAX_VCPUS, &n, err);
        any |= n > 0;
        product *= n ? n : 1;
    }
    if (!ret)
        ret = keyvals_number(&k, "maxcpus", 1, MACHINE_MAX_VCPUS, &max, err);
    if (!ret)
        ret = keyvals_done(&k, err);
    if (ret)
        return ret;
    cpus = cpus ? cpus : max && !any ? max : product;
    if (cpus > MACHINE_MAX_VCPUS || (max && max != cpus))
        return error_set(err, -EINVAL, "-smp %s: must be from 1 to %d processors, all present (maxcpus the same)", arg,
                         MACHINE_MAX_VCPUS);
    if (any && cpus % product)
        return error_set(err, -EINVAL, "-smp %s: %llu processors are no multiple of the %llu in the topology", arg,
                         (unsigned long long)cpus, (unsigned long long)product);
    o->cpus = (unsigned)cpus;
    return 0;
}

static int opt_enable_kvm(struct run_options *o, const char *arg, struct error *err)
{
    (void)arg;
    return accel_add(&o->accel, &o->pool, "kvm", err);
}

static int opt_accel(struct run_options *o, const char *arg, struct error *err)
{
    if (asks(arg)) {
        o->help_for = "accel";
        return 0;
    }
    return accel_parse(&o->accel, &o->pool, "accel", arg, err);
}

static int opt_machine(struct run_options *o, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, &o->pool, "machine", arg, "type", err);
    bool off = false;

    if (ret)
        return ret;
    if (asks(arg)) {
        o->help_for = "machine";
        return 0;
    }
    const char *type = keyvals_get(&k, "type"), *accel = keyvals_get(&k, "accel");
    if (type && strcmp(type, "pc"))
        return error_set(err, -EINVAL, "-machine %s: unknown board; must be pc", type);
    if (accel && !*accel)
        return error_set(err, -EINVAL, "-machine: accel= names no engine; '-accel help' lists them");
    ret = accel ? accel_add(&o->accel, &o->pool, accel, err) : 0;
    // Parts of QEMU's pc that this board never has.
    static const char *const absent[] = {"usb", "graphics", "vmport"};
    for (size_t i = 0; i < ARRAY_LEN(absent) && !ret; i++) {
        off = false;
        ret = keyvals_bool(&k, absent[i], &off, err);
        if (!ret && off)
            ret = error_set(err, -EINVAL, "-machine pc: %s=on: there is none; must be off", absent[i]);
    }
    return ret ? ret : keyvals_done(&k, err);
}

static int opt_device(struct run_options *o, const char *arg, struct error *err)
{
    size_t len = strcspn(arg, ",");

    if (asks(arg)) {
        o->help_for = "device";
        return 0;
    }
    if (arg[len] && asks(arg + len + 1)) {
        o->help_for = "device";
        o->help_name = text_keep(&o->pool, arg, len);
        return 0;
    }
    if (o->device_count == OPTIONS_MAX_DEVICES)
        return error_set(err, -E2BIG, "-device %s: more than %d devices", arg, OPTIONS_MAX_DEVICES);
    return device_parse(&o->device[o->device_count++], &o->pool, arg, err);
}

static int add_drive(struct run_options *o, const char *arg,
                     int (*parse)(struct drive_option *d, struct text_pool *pool, const char *arg, struct error *err),
                     struct error *err)
{
    struct drive_option *d = &o->drive[o->drive_count];
    int ret;

    if (o->drive_count == OPTIONS_MAX_DRIVES)
        return error_set(err, -E2BIG, "%s: more than %d drives", arg, OPTIONS_MAX_DRIVES);
    ret = parse(d, &o->pool, arg, err);
    if (ret)
        return ret;
    for (unsigned i = 0; d->id && i < o->drive_count; i++)
        if (o->drive[i].id && !strcmp(o->drive[i].id, d->id))
            return error_set(err, -EEXIST, "%s: another drive has the id %s", d->what, d->id);
    o->drive_count++;
    return 0;
}

static int opt_drive(struct run_options *o, const char *arg, struct error *err)
{
    return add_drive(o, arg, drive_parse, err);
}

static int opt_blockdev(struct run_options *o, const char *arg, struct error *err)
{
    return add_drive(o, arg, blockdev_parse, err);
}

static int opt_object(struct run_options *o, const char *arg, struct error *err)
{
    if (o->object_count == OPTIONS_MAX_OBJECTS)
        return error_set(err, -E2BIG, "-object %s: more than %d objects", arg, OPTIONS_MAX_OBJECTS);
    return object_parse(&o->object[o->object_count++], &o->pool, arg, err);
}

// --- character devices --------------------------------------------------------------------------------------------------------

static int opt_chardev(struct run_options *o, const char *arg, struct error *err)
{
    struct chardev_spec *s = &o->chardev[o->chardev_count];
    int ret;

    if (asks(arg)) {
        o->help_for = "chardev";
        return 0;
    }
    if (o->chardev_count == OPTIONS_MAX_CHARDEVS)
        return error_set(err, -E2BIG, "-chardev %s: more than %d character devices", arg, OPTIONS_MAX_CHARDEVS);
    ret = chars_parse_chardev(s, &o->pool, arg, err);
    if (ret)
        return ret;
    for (unsigned i = 0; i < o->chardev_count; i++)
        if (!strcmp(o->chardev[i].id, s->id))
            return error_set(err, -EEXIST, "-chardev %s: another character device has this id", s->id);
    o->chardev_count++;
    return 0;
}

static int opt_serial(struct run_options *o, const char *arg, struct error *err)
{
    if (o->serial_count == OPTIONS_MAX_SERIALS)
        return error_set(err, -E2BIG, "-serial %s: more than %d serial ports", arg, OPTIONS_MAX_SERIALS);
    return chars_parse(&o->serial[o->serial_count++], &o->pool, "serial", arg, err);
}

static int add_monitor(struct run_options *o, const char *option, const char *arg, struct error *err)
{
    if (o->monitor_count == OPTIONS_MAX_MONITORS)
        return error_set(err, -E2BIG, "-%s %s: more than %d monitors", option, arg, OPTIONS_MAX_MONITORS);
    return chars_parse(&o->monitor[o->monitor_count++], &o->pool, option, arg, err);
}

static int opt_monitor(struct run_options *o, const char *arg, struct error *err)
{
    return add_monitor(o, "monitor", arg, err);
}

static int opt_mon(struct run_options *o, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, &o->pool, "mon", arg, "chardev", err);
    const char *id, *mode;
    char use[256];
    char *kept;

    if (ret)
        return ret;
    id = keyvals_get(&k, "chardev");
    mode = keyvals_get(&k, "mode");
    if (mode && strcmp(mode, "readline"))
        return error_set(err, -EINVAL, "-mon mode=%s: must be readline; there is no machine protocol", mode);
    if (!id || !*id || strlen(id) > 200)
        return error_set(err, -EINVAL, "-mon %s: needs chardev=ID", arg);
    snprintf(use, sizeof(use), "chardev:%s", id);
    kept = text_keep(&o->pool, use, strlen(use));
    if (!kept)
        return error_set(err, -ENOMEM, "-mon: no memory for its argument");
    ret = keyvals_done(&k, err);
    return ret ? ret : add_monitor(o, "mon", kept, err);
}

static int opt_debugcon(struct run_options *o, const char *arg, struct error *err)
{
    return chars_parse(&o->debugcon, &o->pool, "debugcon", arg, err);
}

// --- time, names, logs ----------------------------------------------------------------------------------------------------------

// "YYYY-MM-DD[THH:MM:SS]" as seconds since 1970, or false.
static bool parse_date(const char *text, time_t *out)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (!end) {
        tm = (struct tm){0};
        end = strptime(text, "%Y-%m-%d", &tm);
    }
    if (!end || *end)
        return false;
    *out = timegm(&tm);
    return true;
}

static int opt_rtc(struct run_options *o, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, &o->pool, "rtc", arg, NULL, err);
    time_t now = time(NULL), then = 0;
    struct tm local;

    if (ret)
        return ret;
    const char *base = keyvals_get(&k, "base"), *clock = keyvals_get(&k, "clock"), *fix = keyvals_get(&k, "driftfix");
    o->utc_s = base ? now : ICOUNT_UTC_S;
    o->rtc_date = false;
    if (!base || !strcmp(base, "utc"))
        o->rtc_shift_s = 0;
    else if (!strcmp(base, "localtime") && localtime_r(&now, &local))
        o->rtc_shift_s = local.tm_gmtoff;
    else if (parse_date(base, &then))
        o->rtc_date = true;
    else
        return error_set(err, -EINVAL, "-rtc base=%s: must be utc, localtime or a date like 2006-06-17T16:01:21", base);
    if (o->rtc_date) {
        o->utc_s = then;
        o->rtc_shift_s = then - now;
    }
    if (clock && strcmp(clock, "host") && strcmp(clock, "rt") && strcmp(clock, "vm"))
        return error_set(err, -EINVAL, "-rtc clock=%s: must be host, rt or vm", clock);
    if (fix && strcmp(fix, "none") && strcmp(fix, "slew"))
        return error_set(err, -EINVAL, "-rtc driftfix=%s: must be none or slew", fix);
    o->rtc_slew = fix && !strcmp(fix, "slew");
    return keyvals_done(&k, err);
}

static int opt_icount(struct run_options *o, const char *arg, struct error *err)
{
    struct keyvals k;
    u64 shift = 0;
    bool align = false;
    int ret = keyvals_parse(&k, &o->pool, "icount", arg, "shift", err);

    if (ret)
        return ret;
    const char *text = keyvals_get(&k, "shift");
    if (!text || !parse_number(text, strlen(text), ICOUNT_MAX_SHIFT, &shift))
        return error_set(err, -EINVAL,
                         "-icount %s: needs shift=N with N from 0 to %d: 2^N nanoseconds an instruction%s", arg,
                         ICOUNT_MAX_SHIFT, text && !strcmp(text, "auto") ? "; runs with auto do not repeat" : "");
    o->icount = true;
    o->icount_shift = (unsigned)shift;
    ret = keyvals_bool(&k, "sleep", &o->icount_sleep, err);
    if (!ret)
        ret = keyvals_bool(&k, "align", &align, err);
    if (!ret && align)
        return error_set(err, -EINVAL, "-icount align=on: virtual time is not held against the host's; must be off");
    return ret ? ret : keyvals_done(&k, err);
}

static int opt_boot(struct run_options *o, const char *arg, struct error *err)
{
    static const char *const known[] = {"splash", "splash-time", "reboot-timeout"};
    struct keyvals k;
    int ret = keyvals_parse(&k, &o->pool, "boot", arg, "order", err);
    bool strict = false;

    if (ret)
        return ret;
    const char *order = keyvals_get(&k, "order"), *once = keyvals_get(&k, "once");
    for (int i = 0; i < 2; i++) {
        const char *letters = i ? once : order;
        if (letters && strspn(letters, "abcdefghijklmnop") != strlen(letters))
            return error_set(err, -EINVAL, "-boot %s: drives are letters from a to p", letters);
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        keyvals_get(&k, known[i]);
    if (order || once)
        o->boot = once ? once : order;
    ret = keyvals_bool(&k, "menu", &o->boot_menu, err);
    if (!ret)
        ret = keyvals_bool(&k, "strict", &strict, err);
    return ret ? ret : keyvals_done(&k, err);
}

static int opt_name(struct run_options *o, const char *arg, struct error *err)
{
    struct keyvals k;
    int ret = keyvals_parse(&k, &o->pool, "name", arg, "guest", err);
    bool flag = false;

    if (ret)
        return ret;
    o->name = keyvals_get(&k, "guest");
    o->process = keyvals_get(&k, "process");
    ret = keyvals_bool(&k, "debug-threads", &flag, err);
    return ret ? ret : keyvals_done(&k, err);
}

static int opt_log(struct run_options *o, const char *arg, struct error *err)
{
    if (asks(arg)) {
        o->help_for = "d";
        return 0;
    }
    for (;;) {
        size_t len = strcspn(arg, ",");
        int c = linux_host_log_find(arg, len);

        if (c < 0)
            return error_set(err, -EINVAL, "-d %.*s: unknown log category; '-d help' lists them", (int)len, arg);
        o->log_mask |= 1u << c;
        if (!arg[len])
            return 0;
        arg += len + 1;
    }
}

// --- the table --------------------------------------------------------------------------------------------------------------

static const struct option_row rows[] = {
#define OPTION(id, name, arg, help) {name, arg, help, opt_##id},
#include "cli/options.def"
#undef OPTION
};

const struct option_row *option_at(unsigned n)
{
    return n < ARRAY_LEN(rows) ? &rows[n] : NULL;
}

bool option_is(const char *text, const char *name)
{
    return *text == '-' && !strcmp(text + 1 + (text[1] == '-'), name);
}

static const struct option_row *find_option(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (option_is(text, rows[i].name))
            return &rows[i];
    return NULL;
}

static bool asks_help(const char *text)
{
    return !strcmp(text, "-h") || !strcmp(text, "-help") || !strcmp(text, "--help");
}

int options_parse(struct run_options *o, int argc, char **argv, struct error *err)
{
    *o = (struct run_options){.append = "",
                              .cpu = "max",
                              .ram = DEFAULT_RAM,
                              .cpus = 1,
                              .log_mask = 1u << LOG_ERROR | 1u << LOG_WARN,
                              .icount_sleep = true,
                              .utc_s = ICOUNT_UTC_S};
    for (int i = 0; i < argc; i++) {
        const struct option_row *row = find_option(argv[i]);
        const char *arg = NULL;
        int ret;

        if (asks_help(argv[i])) {
            o->help = true;
            return 0;
        }
        if (!row)
            return error_set(err, -EINVAL, "%s: unknown option; 'pogo run --help' lists them", argv[i]);
        if (row->arg) {
            if (++i == argc)
                return error_set(err, -EINVAL, "-%s: needs an argument: -%s %s", row->name, row->name, row->arg);
            arg = argv[i];
        }
        ret = row->set(o, arg, err);
        if (ret || o->help_for)
            return ret;
    }
    return 0;
}

void options_free(struct run_options *o)
{
    text_free(&o->pool);
}

void options_print(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        fprintf(out, "  -%s%s%s\n        %s\n", rows[i].name, rows[i].arg ? " " : "", rows[i].arg ? rows[i].arg : "",
                rows[i].help);
}
