// pogo run: from options to a running machine, and back to an exit status.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "board/pc.h"
#include "cli/accel.h"
#include "cli/board.h"
#include "cli/cmd.h"
#include "cli/consoles.h"
#include "cli/daemon.h"
#include "cli/disks.h"
#include "cli/gdbstub.h"
#include "cli/images.h"
#include "cli/monitor.h"
#include "cli/options.h"
#include "cli/ports.h"
#include "cli/report.h"
#include "cli/vm.h"
#include "host/linux.h"

// Everything that one run holds; released by run_free() whatever happened.
struct run {
    struct run_options o;
    struct linux_host host;
    FILE *log;
    struct cpu_model model;
    struct images images;
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

static int create_board(struct run *r, struct error *err)
{
    struct pc_options pc;
    const struct engine_ops *engine = accel_choose(&r->o.accel, r->why, sizeof(r->why), err);
    int ret = engine ? board_model(&r->o, r->host.host.tsc_hz, &r->model, err) : -EINVAL;

    if (ret)
        return ret;
    board_options(&r->o, &r->images, &r->model, &pc);
    pc.engine = engine;
    pc.tuning = accel_tuning(&r->o.accel, engine);
    ret = consoles_open(&r->vm, &r->o, &pc, err);
    if (!ret)
        ret = monitors_open(&r->monitors, &r->vm, &r->o, err);
    if (!ret)
        ret = consoles_check(&r->vm, &r->o, err);
    if (ret)
        return ret;
    for (unsigned i = 0; i < PC_SERIALS && r->o.icount; i++)
        pc.serial_peer[i].room = NULL; // how fast somebody reads is not to show
    ret = pc_create(&r->host.host, &pc, &r->vm.board, err);
    file_free(&r->images.bios); // the board has a copy
    return ret;
}

static int boot(void *arg, struct pc *b, struct error *err)
{
    return images_boot(arg, b, err);
}

static int build(struct run *r, struct error *err)
{
    struct linux_clocks started;
    int ret;

    linux_clocks_read(&started);
    ret = images_open(&r->images, &r->o, err);
    if (!ret && r->o.daemonize)
        ret = daemon_fork(err);
    if (!ret)
        ret = vm_init(&r->vm, err);
    if (!ret)
        ret = open_log(r, err);
    if (ret)
        return ret;
    linux_host_init(&r->host, r->o.log_mask, r->log, &started);
    ret = r->o.perf_map ? linux_host_perf_map(&r->host) : 0;
    if (ret)
        return error_set(err, ret, "-perfmap: /tmp/perf-%d.map cannot be created: %s", (int)getpid(), strerror(-ret));
    ret = create_board(r, err);
    if (!ret)
        ret = disks_create(&r->disks, &r->o, r->vm.board, err);
    if (!ret)
        ret = ports_create(&r->ports, &r->o, &r->vm.chars, r->vm.board, err);
    if (!ret)
        ret = images_boot(&r->images, r->vm.board, err);
    if (ret)
        return ret;
    r->vm.boot = boot;
    r->vm.boot_arg = &r->images;
    r->vm.disks = &r->disks;
    for (unsigned i = 0; i < r->vm.board->m.vcpu_count; i++)
        r->vm.board->m.vcpu[i]->engine->push_state(r->vm.board->m.vcpu[i]);
    r->vm.icount_sleep = r->o.icount_sleep;
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
    images_close(&r->images);
    linux_host_fini(&r->host);
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
    if (r->o.icount)
        report_icount(stderr, &r->vm.board->m);
    if (atomic_load(&r->host.log_lost))
        fprintf(stderr, "pogo: %llu lines of the log were lost: they could not be written, or nobody read them\n",
                (unsigned long long)atomic_load(&r->host.log_lost));
    if (r->o.log_file && (fflush(r->log) || ferror(r->log)))
        fprintf(stderr, "pogo: -D %s: the log is not complete: it could not be written\n", r->o.log_file);
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
