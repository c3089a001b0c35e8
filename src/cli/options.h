// Options of `pogo run`, as parsed.
#ifndef POGO_CLI_OPTIONS_H
#define POGO_CLI_OPTIONS_H

#include <stdio.h>

#include "cli/drives.h"
#include "pogo/error.h"
#include "pogo/types.h"

enum stream_kind { STREAM_NONE, STREAM_STDIO, STREAM_FILE };

struct stream_spec {
    enum stream_kind kind;
    const char *path; // STREAM_FILE
};

struct run_options {
    const char *kernel, *append, *initrd, *bios, *cpu, *accel, *log_file;
    u64 ram; // bytes
    unsigned cpus;
    struct stream_spec serial, debugcon;
    bool debug_exit, testdev;
    u16 debug_exit_base, debug_exit_size;
    struct drives drives;
    bool no_reboot;
    u32 log_mask;
    bool help;            // --help was asked for
    const char *help_for; // an option whose argument was 'help': "cpu", "accel" or "d"
};

// Fill *o from the arguments after the subcommand. Strings stay in argv. Returns 0 or a negative errno with *err set.
int options_parse(struct run_options *o, int argc, char **argv, struct error *err);
// The list of options, for --help.
void options_print(FILE *out);

#endif
