// pogo run: from options to a running machine, and back to an exit status.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "board/pc.h"
#include "cli/accel.h"
#include "cli/cmd.h"
#include "cli/consoles.h"
#include "cli/daemon.h"
#include "cli/disks.h"
#include "cli/gdbstub.h"
#include "cli/monitor.h"
#include "cli/options.h"
#include "cli/ports.h"
#include "cli/vm.h"
#include "host/features.h"
#include "host/file.h"
#include "host/linux.h"

#define MAX_KERNEL (1ull << 30)

// Everything that one run holds; released by run_free() whatever happened.
struct run {
    struct run_options o;
    struct linux_host host;
    FILE *log;
    struct cpu_model model;
    struct file_data kernel, bios, module_file[BOOT_MAX_MODULES];
    char *module_text; // the -initrd argument cut into strings
    struct boot_module module[BOOT_MAX_MODULES];
    struct boot_range range[BOOT_MAX_RANGES];
    struct boot_params boot;
    struct disks disks;
    struct ports ports;
    struct monitors monitors;
    char why[640]; // this engine
    bool has_pidfile;
    struct vm vm;
};

static int usage(void)
{
    printf("usage: pogo run -kernel IMAGE [OPTIONS]\n       pogo run -bios ROM [OPTIONS]\n\n");
    options_print(stdout);
    printf(
        "\nOn a terminal Ctrl-A x quits and Ctrl-A h lists the keys.\n"
        "Exit status: what the guest wrote to isa-debug-exit (value * 2 + 1), 0 after power-off, %d after a triple fault,\n"
        "%d for errors.\n",
        CMD_TRIPLE_FAULT, CMD_ERROR);
    return CMD_OK;
}

// Names of the features that -cpu can add and take away, in lines that fit a terminal.
static void print_features(void)
{
    static const char *const names[ISA_FEAT_COUNT] = {
#define F(id, name, leaf, subleaf, reg, bit) [ISA_FEAT_##id] = name,
#include "isa/features.def"
#undef F
    };
    struct cpu_model all = {0};
    int column = 80;

    cpu_model_implemented(all.features);
    printf("\nfeatures, as far as the host has what they need:");
    for (unsigned i = 0; i < ISA_FEAT_COUNT; i++) {
        if (!names[i] || !cpu_model_has(&all, i))
            continue;
        if (column + strlen(names[i]) >= 79)
            column = printf("\n ") - 1;
        column += printf(" %s", names[i]);
    }
    printf("\n");
}

static void help_cpu(void)
{
    const struct cpu_model *m;

    for (unsigned i = 0; (m = cpu_model_at(i)); i++)
        printf("  %-14s %s\n", m->name, m->description);
    print_features();
}

static int help_device(const char *name)
{
    struct error err;

    if (!name) {
        devices_print(stdout);
        return CMD_OK;
    }
    if (device_print(stdout, name, strlen(name)))
        return CMD_OK;
    error_format(&err, "-device %s: unknown device; '-device help' lists them", name);
    return cmd_fail(&err);
}

static int help_for(const struct run_options *o)
{
    const char *option = o->help_for;

    if (!strcmp(option, "cpu"))
        help_cpu();
    else if (!strcmp(option, "accel"))
        accel_print(stdout);
    else if (!strcmp(option, "machine"))
        printf("  pc   i440FX and PIIX, as QEMU's pc (the only one)\n");
    else if (!strcmp(option, "chardev"))
        chars_print_kinds(stdout);
    else if (!strcmp(option, "device"))
        return help_device(o->help_name);
    else
        for (int c = 0; c < LOG_COUNT; c++)
            printf("  %s\n", linux_host_log_name((enum host_log)c));
    return CMD_OK;
}

// --- loading ----------------------------------------------------------------------------------------------------------------

// Cut the -initrd argument at single commas; ",," is a comma. Each piece begins with a file name. In place.
static int split_modules(struct run *r, struct error *err)
{
    char *in, *out;

    r->module_text = strdup(r->o.initrd);
    if (!r->module_text)
        return error_set(err, -ENOMEM, "-initrd: no memory for its argument");
    in = out = r->module_text;
    while (in) {
        if (r->boot.module_count == BOOT_MAX_MODULES)
            return error_set(err, -E2BIG, "-initrd: more than %d modules; put several files into one archive",
                             BOOT_MAX_MODULES);
        r->module[r->boot.module_count++].cmdline = out;
        while (*in && (*in != ',' || in[1] == ',')) {
            in += *in == ',';
            *out++ = *in++;
        }
        in = *in ? in + 1 : NULL;
        *out++ = 0;
    }
    return 0;
}

static int load_modules(struct run *r, struct error *err)
{
    int ret = r->o.initrd ? split_modules(r, err) : 0;
    u64 left = r->o.ram;

    for (unsigned i = 0; !ret && i < r->boot.module_count; i++) {
        struct file_data *f = &r->module_file[i];
        char *name = strndup(r->module[i].cmdline, strcspn(r->module[i].cmdline, " "));

        if (!name)
            return error_set(err, -ENOMEM, "-initrd: no memory for a file name");
        ret = file_load(name, "-initrd", left, f, err);
        if (ret == -EFBIG)
            error_format(err, "-initrd %s: larger than the %llu bytes left of the guest's memory; give more (-m)", name,
                         (unsigned long long)left);
        free(name);
        left -= f->size;
        r->module[i].bytes = f->bytes;
        r->module[i].size = f->size;
    }
    return ret;
}

static int load_files(struct run *r, struct error *err)
{
    int ret = 0;

    if (!r->o.kernel && !r->o.bios)
        return error_set(
            err, -EINVAL,
            "run: no guest: give -kernel IMAGE (Linux bzImage, multiboot or PVH ELF) or -bios ROM; 'make run' in pogo's "
            "source fetches Debian's kernel and boots it, and most systems have theirs: -kernel /boot/vmlinuz-VERSION "
            "-initrd /boot/initrd.img-VERSION -append console=ttyS0 -m 1G");
    if (r->o.initrd && !r->o.kernel)
        return error_set(err, -EINVAL, "-initrd: modules need a kernel; give -kernel IMAGE");
    if (r->o.bios)
        ret = file_load(r->o.bios, "-bios", PC_MAX_BIOS, &r->bios, err);
    if (!ret && r->o.bios && r->bios.size < PC_MIN_BIOS)
        ret = error_set(err, -EINVAL, "-bios %s: %llu bytes; a firmware image has at least %llu KiB", r->o.bios,
                        (unsigned long long)r->bios.size, PC_MIN_BIOS >> 10);
    if (!ret && r->o.kernel)
        ret = file_load(r->o.kernel, "-kernel", MAX_KERNEL, &r->kernel, err);
    if (!ret)
        ret = load_modules(r, err);
    return ret;
}

// --- building ---------------------------------------------------------------------------------------------------------------

static int open_log(struct run *r, struct error *err)
{
    r->log = stderr;
    if (!r->o.log_file)
        return 0;
    r->log = fopen(r->o.log_file, "we");
    if (!r->log)
        return error_set(err, -errno, "-D %s: cannot create: %s; check the path and its permissions", r->o.log_file,
                         strerror(errno));
    return 0;
}

static int choose_cpu(struct run *r, const struct engine_ops **engine, struct error *err)
{
    u64 features[HOST_FEATURE_WORDS];
    char text[512];

    *engine = accel_choose(&r->o, r->why, sizeof(r->why), err);
    if (!*engine)
        return -EINVAL;
    host_features(features);
    const char *bad = cpu_model_parse(r->o.cpu, features, &r->model, text, sizeof(text));
    return bad ? error_set(err, -EINVAL, "%s", bad) : 0;
}

// Devices of -device that belong to the board itself.
static void add_board_devices(const struct run *r, struct pc_options *pc)
{
    for (unsigned i = 0; i < r->o.device_count; i++) {
        const struct device_option *d = &r->o.device[i];

        if (d->kind == DEVICE_TESTDEV)
            pc->testdev = true;
        if (d->kind == DEVICE_PVPANIC) {
            pc->pvpanic = true;
            pc->pvpanic_port = (u16)device_number(d, "ioport");
        }
        if (d->kind != DEVICE_DEBUG_EXIT)
            continue;
        pc->debug_exit = true;
        pc->debug_exit_base = (u16)device_number(d, "iobase");
        pc->debug_exit_size = (u16)device_number(d, "iosize");
    }
}

static int create_board(struct run *r, struct error *err)
{
    struct pc_options pc = {
        .ram = r->o.ram,
        .cpus = r->o.cpus,
        .model = &r->model,
        .bios = r->bios.bytes,
        .bios_size = r->bios.size,
        .rtc_shift_s = r->o.rtc_shift_s,
    };
    int ret = choose_cpu(r, &pc.engine, err);

    add_board_devices(r, &pc);
    if (!ret)
        ret = consoles_open(&r->vm, &r->o, &pc, err);
    if (!ret)
        ret = monitors_open(&r->monitors, &r->vm, &r->o, err);
    if (!ret)
        ret = consoles_check(&r->vm, &r->o, err);
    if (ret)
        return ret;
    r->model.tsc_hz = r->model.tsc_hz ? r->model.tsc_hz : r->host.host.tsc_hz;
    return pc_create(&r->host.host, &pc, &r->vm.board, err);
}

static int boot(struct run *r, struct error *err)
{
    struct pc *b = r->vm.board;
    int ret;

    if (!r->o.kernel)
        return 0;
    r->boot.path = r->o.kernel;
    r->boot.kernel = r->kernel.bytes;
    r->boot.kernel_size = r->kernel.size;
    r->boot.cmdline = r->o.append;
    r->boot.long_mode = cpu_model_has(&r->model, ISA_FEAT_LM);
    r->boot.module = r->module;
    r->boot.range = r->range;
    r->boot.range_count = pc_memory_map(b, r->range);
    r->vm.boot = &r->boot;
    ret = pc_install_tables(b, &r->boot.rsdp, err);
    return ret ? ret : boot_load(&b->m.mem, &r->boot, &b->m.vcpu[0]->cpu, err);
}

// What was loaded is kept for the next reset, if there can be one.
static void drop_images(struct run *r)
{
    if (!r->o.no_reboot)
        return;
    r->vm.boot = NULL;
    for (unsigned i = 0; i < BOOT_MAX_MODULES; i++)
        file_free(&r->module_file[i]);
    file_free(&r->kernel);
}

static int build(struct run *r, struct error *err)
{
    struct linux_clocks started;
    int ret;

    linux_clocks_read(&started);
    ret = load_files(r, err);
    if (!ret && r->o.daemonize)
        ret = daemon_fork(err);
    if (!ret)
        ret = vm_init(&r->vm, err);
    if (!ret)
        ret = open_log(r, err);
    if (ret)
        return ret;
    linux_host_init(&r->host, r->o.log_mask, r->log, &started);
    ret = create_board(r, err);
    if (!ret)
        ret = disks_create(&r->disks, &r->o, r->vm.board, err);
    if (!ret)
        ret = ports_create(&r->ports, &r->o, &r->vm.chars, r->vm.board, err);
    if (!ret)
        ret = boot(r, err);
    if (ret)
        return ret;
    drop_images(r);
    for (unsigned i = 0; i < r->vm.board->m.vcpu_count; i++)
        r->vm.board->m.vcpu[i]->engine->push_state(r->vm.board->m.vcpu[i]);
    r->vm.no_reboot = r->o.no_reboot;
    r->vm.no_shutdown = r->o.no_shutdown;
    if (r->o.stopped)
        vm_stop(&r->vm);
    return r->o.gdb ? gdb_open(&r->vm, &r->o, err) : 0;
}

static void run_free(struct run *r)
{
    disks_close(&r->disks);
    r->ports.dev = NULL;
    if (r->has_pidfile)
        pidfile_remove(r->o.pidfile);
    if (r->vm.board)
        pc_destroy(r->vm.board);
    vm_fini(&r->vm);
    for (unsigned i = 0; i < BOOT_MAX_MODULES; i++)
        file_free(&r->module_file[i]);
    file_free(&r->kernel);
    file_free(&r->bios);
    free(r->module_text);
    options_free(&r->o);
    if (r->log && r->log != stderr)
        fclose(r->log);
    free(r);
}

// Everything is there: start.
static int go(struct run *r)
{
    struct error err;
    int status;

    if (r->o.pidfile && pidfile_create(r->o.pidfile, &err))
        return cmd_fail(&err);
    r->has_pidfile = r->o.pidfile;
    if (r->o.process)
        prctl(PR_SET_NAME, r->o.process);
    fprintf(stderr, "pogo: engine %s: %s\n", r->vm.board->m.vcpu[0]->engine->name, r->why);
    daemon_ready();
    status = vm_run(&r->vm);
    if (atomic_load(&r->host.log_lost))
        fprintf(stderr, "pogo: %llu lines of the log were lost: nobody read them\n",
                (unsigned long long)atomic_load(&r->host.log_lost));
    if (r->vm.has_error)
        cmd_fail(&r->vm.error);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct run *r = calloc(1, sizeof(*r));
    struct error err;
    int status;

    if (!r) {
        error_format(&err, "run: no memory");
        return cmd_fail(&err);
    }
    if (options_parse(&r->o, argc, argv, &err)) {
        status = cmd_fail(&err);
    } else if (r->o.help || r->o.help_for) {
        status = r->o.help ? usage() : help_for(&r->o);
    } else if (build(r, &err)) {
        status = cmd_fail(&err);
    } else {
        status = go(r);
    }
    run_free(r);
    return status;
}
