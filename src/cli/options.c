// Parser of `pogo run`'s options, made from options.def.

#include "cli/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/host.h"
#include "core/machine.h"
#include "host/linux.h"

#define DEFAULT_RAM (128ull << 20)

// --- values ---------------------------------------------------------------------------------------------------------------

// Unsigned number, decimal or 0x hexadecimal, to the end of the text or `end`.
static bool parse_number(const char *text, size_t len, u64 max, u64 *out)
{
    char buf[32];
    char *rest;

    if (!len || len >= sizeof(buf) || text[0] < '0' || text[0] > '9')
        return false;
    memcpy(buf, text, len);
    buf[len] = 0;
    errno = 0;
    *out = strtoull(buf, &rest, text[0] == '0' && len > 1 && (text[1] | 32) == 'x' ? 16 : 10);
    return !errno && !*rest && *out <= max;
}

// "SIZE[K|M|G|T]", MiB without a letter.
static bool parse_size(const char *text, u64 *bytes)
{
    static const char letters[] = "kmgt";
    size_t len = strlen(text);
    unsigned shift = 20;
    u64 n;

    if (len && (text[len - 1] | 32) == 'b')
        return false;
    const char *letter = len ? strchr(letters, text[len - 1] | 32) : NULL;
    if (letter && *letter) {
        shift = 10 * (unsigned)(letter - letters + 1);
        len--;
    }
    if (!parse_number(text, len, ~0ull >> shift, &n))
        return false;
    *bytes = n << shift;
    return true;
}

static int parse_stream(const char *option, const char *arg, struct stream_spec *s, struct error *err)
{
    if (!strcmp(arg, "stdio") || !strcmp(arg, "mon:stdio"))
        *s = (struct stream_spec){STREAM_STDIO, NULL};
    else if (!strcmp(arg, "none") || !strcmp(arg, "null"))
        *s = (struct stream_spec){STREAM_NONE, NULL};
    else if (!strncmp(arg, "file:", 5) && arg[5])
        *s = (struct stream_spec){STREAM_FILE, arg + 5};
    else
        return error_set(err, -EINVAL, "-%s %s: unknown destination; must be stdio, file:PATH or none", option, arg);
    return 0;
}

// --- one handler per row ----------------------------------------------------------------------------------------------------

static int opt_kernel(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->kernel = arg;
    return 0;
}

static int opt_append(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->append = arg;
    return 0;
}

static int opt_initrd(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->initrd = arg;
    return 0;
}

static int opt_bios(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->bios = arg;
    return 0;
}

static int opt_m(struct run_options *o, const char *arg, struct error *err)
{
    if (!parse_size(!strncmp(arg, "size=", 5) ? arg + 5 : arg, &o->ram))
        return error_set(err, -EINVAL, "-m %s: not a size; write a number with K, M, G or T, like 512M", arg);
    return 0;
}

static int opt_cpu(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->cpu = arg;
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        o->help_for = "cpu";
    return 0;
}

static int opt_smp(struct run_options *o, const char *arg, struct error *err)
{
    const char *text = !strncmp(arg, "cpus=", 5) ? arg + 5 : arg;
    u64 n;

    if (!parse_number(text, strlen(text), MACHINE_MAX_VCPUS, &n) || !n)
        return error_set(err, -EINVAL, "-smp %s: not a number of processors; must be from 1 to %d", arg,
                         MACHINE_MAX_VCPUS);
    o->cpus = (unsigned)n;
    return 0;
}

static int opt_accel(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->accel = arg;
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        o->help_for = "accel";
    return 0;
}

static int opt_machine(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    if (strcmp(arg, "pc"))
        return error_set(err, -EINVAL, "-machine %s: unknown board; must be pc", arg);
    return 0;
}

static int opt_serial(struct run_options *o, const char *arg, struct error *err)
{
    return parse_stream("serial", arg, &o->serial, err);
}

static int opt_debugcon(struct run_options *o, const char *arg, struct error *err)
{
    return parse_stream("debugcon", arg, &o->debugcon, err);
}

// "key=value" at `text` (up to `len`) for a 16-bit number.
static int device_number(const char *text, size_t len, const char *key, u64 min, u64 max, u16 *out, struct error *err)
{
    size_t skip = strlen(key) + 1;
    u64 n;

    if (!parse_number(text + skip, len - skip, max, &n) || n < min)
        return error_set(err, -EINVAL, "-device isa-debug-exit: %.*s: must be a number from 0x%llx to 0x%llx", (int)len,
                         text, (unsigned long long)min, (unsigned long long)max);
    *out = (u16)n;
    return 0;
}

static int debug_exit_property(struct run_options *o, const char *text, size_t len, struct error *err)
{
    if (len >= 7 && !strncmp(text, "iobase=", 7))
        return device_number(text, len, "iobase", 0, 0xffff, &o->debug_exit_base, err);
    if (len >= 7 && !strncmp(text, "iosize=", 7))
        return device_number(text, len, "iosize", 1, 8, &o->debug_exit_size, err);
    return error_set(err, -EINVAL,
                     "-device isa-debug-exit: unknown property %.*s; known are iobase= and iosize=", (int)len, text);
}

static int opt_device(struct run_options *o, const char *arg, struct error *err)
{
    size_t len = strcspn(arg, ",");

    if (len == 10 && !strncmp(arg, "pc-testdev", len) && !arg[len]) {
        o->testdev = true;
        return 0;
    }
    if (drives_know(arg))
        return drives_parse_device(&o->drives, arg, err);
    if (len != 14 || strncmp(arg, "isa-debug-exit", len))
        return error_set(
            err, -EINVAL,
            "-device %s: unknown device; known are isa-debug-exit, pc-testdev, virtio-blk-pci and virtio-rng-pci", arg);
    o->debug_exit = true;
    o->debug_exit_base = 0x501;
    o->debug_exit_size = 2;
    while (arg[len]) {
        int ret;

        arg += len + 1;
        len = strcspn(arg, ",");
        ret = debug_exit_property(o, arg, len, err);
        if (ret)
            return ret;
    }
    return 0;
}

static int opt_drive(struct run_options *o, const char *arg, struct error *err)
{
    return drives_parse(&o->drives, arg, err);
}

static int opt_nographic(struct run_options *o, const char *arg, struct error *err)
{
    (void)o, (void)arg, (void)err;
    return 0;
}

static int opt_display(struct run_options *o, const char *arg, struct error *err)
{
    (void)o;
    if (strcmp(arg, "none"))
        return error_set(err, -EINVAL, "-display %s: there is no graphical display; must be none", arg);
    return 0;
}

static int opt_no_reboot(struct run_options *o, const char *arg, struct error *err)
{
    (void)arg, (void)err;
    o->no_reboot = true;
    return 0;
}

static int log_category(const char *name, size_t len)
{
    for (int c = 0; c < LOG_COUNT; c++) {
        const char *known = linux_host_log_name((enum host_log)c);
        if (strlen(known) == len && !strncmp(known, name, len))
            return c;
    }
    return -1;
}

static int opt_log(struct run_options *o, const char *arg, struct error *err)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        o->help_for = "d";
        return 0;
    }
    for (;;) {
        size_t len = strcspn(arg, ",");
        int c = log_category(arg, len);

        if (c < 0)
            return error_set(err, -EINVAL, "-d %.*s: unknown log category; '-d help' lists them", (int)len, arg);
        o->log_mask |= 1u << c;
        if (!arg[len])
            return 0;
        arg += len + 1;
    }
}

static int opt_log_file(struct run_options *o, const char *arg, struct error *err)
{
    (void)err;
    o->log_file = arg;
    return 0;
}

// --- the table --------------------------------------------------------------------------------------------------------------

struct option_row {
    const char *name, *arg, *help;
    int (*set)(struct run_options *o, const char *arg, struct error *err);
};

static const struct option_row rows[] = {
#define OPTION(id, name, arg, help) {name, arg, help, opt_##id},
#include "cli/options.def"
#undef OPTION
};

static const struct option_row *find_option(const char *text)
{
    // One dash or two, as in QEMU.
    if (*text++ != '-')
        return NULL;
    if (*text == '-')
        text++;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (!strcmp(rows[i].name, text))
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
                              .accel = "interp",
                              .ram = DEFAULT_RAM,
                              .serial = {STREAM_STDIO, NULL},
                              .log_mask = 1u << LOG_ERROR | 1u << LOG_WARN};
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
        if (ret)
            return ret;
    }
    return 0;
}

void options_print(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        fprintf(out, "  -%s%s%s\n        %s\n", rows[i].name, rows[i].arg ? " " : "", rows[i].arg ? rows[i].arg : "",
                rows[i].help);
}
