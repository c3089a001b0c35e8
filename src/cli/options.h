// Options of `pogo run`, as parsed.
#ifndef POGO_CLI_OPTIONS_H
#define POGO_CLI_OPTIONS_H

#include <stdio.h>

#include "cli/accel.h"
#include "cli/chars.h"
#include "cli/devices.h"
#include "cli/drives.h"
#include "pogo/error.h"
#include "pogo/types.h"

#define OPTIONS_MAX_SERIALS 4
#define OPTIONS_MAX_MONITORS 4
#define OPTIONS_MAX_CHARDEVS 16
#define OPTIONS_MAX_DEVICES 32
#define OPTIONS_MAX_DRIVES 16
#define OPTIONS_MAX_OBJECTS 8

struct run_options {
    struct text_pool pool;
    const char *kernel, *append, *initrd, *bios, *cpu, *log_file, *name, *process, *pidfile;
    const char *boot; // letters of drives in the order to try them, or NULL
    const char *gdb;  // NULL: no debugger
    struct accel_option accel;
    u64 ram; // bytes
    unsigned cpus;
    struct char_use serial[OPTIONS_MAX_SERIALS], monitor[OPTIONS_MAX_MONITORS], debugcon;
    unsigned serial_count, monitor_count;
    struct chardev_spec chardev[OPTIONS_MAX_CHARDEVS];
    unsigned chardev_count;
    struct device_option device[OPTIONS_MAX_DEVICES];
    unsigned device_count;
    struct drive_option drive[OPTIONS_MAX_DRIVES];
    unsigned drive_count;
    struct object_option object[OPTIONS_MAX_OBJECTS];
    unsigned object_count;
    i64 rtc_shift_s; // the guest's wall clock at the start, less UTC
    i64 utc_s;       // UTC at the start, with icount; then rtc_shift_s counts unless rtc_date
    bool rtc_date;   // base= is a date
    bool rtc_slew;   // driftfix=slew
    bool icount, icount_sleep;
    unsigned icount_shift; // 1 << icount_shift ns for each instruction
    bool boot_menu, nographic, nodefaults, no_reboot, no_shutdown, stopped, daemonize, perf_map;
    u32 log_mask;
    bool help;             // --help was asked for
    const char *help_for;  // an option whose argument was 'help': "cpu", "accel"...
    const char *help_name; // "device" with 'NAME,help'
};

// Fill *o from the arguments after the subcommand. Strings stay in argv or in o->pool. Returns 0 or a negative errno with *err set;
// options_free() in any case.
int options_parse(struct run_options *o, int argc, char **argv, struct error *err);
void options_free(struct run_options *o);

// One row of options.def.
struct option_row {
    const char *name, *arg, *help;
    int (*set)(struct run_options *o, const char *arg, struct error *err);
};

// Is `text` this option? With one dash or two, as in QEMU.
bool option_is(const char *text, const char *name);
// n-th row, or NULL past the end.
const struct option_row *option_at(unsigned n);
// Print the list of options, for --help.
void options_print(FILE *out);

#endif
