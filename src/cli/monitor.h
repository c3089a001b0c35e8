// The monitor: commands for the machine, typed on a character device.
#ifndef POGO_CLI_MONITOR_H
#define POGO_CLI_MONITOR_H

#include <stdio.h>

#include "cli/options.h"
#include "cli/vm.h"

#define MONITOR_LINE 512
#define MONITOR_HISTORY 16

struct monitor {
    struct vm *vm;
    const struct run_options *o;
    struct chardev_front front;
    FILE *out;    // while a command runs
    unsigned cpu; // that commands are about
    bool greeted, crlf;
    u64 stats_ns, stats_insns; // guest time and instructions when they were last shown
    char line[MONITOR_LINE], history[MONITOR_HISTORY][MONITOR_LINE];
    unsigned len, past, shown; // of the line; lines in the history; how far back the user has gone
    unsigned escape;           // characters of a terminal's escape sequence seen
};

struct monitors {
    struct monitor m[OPTIONS_MAX_MONITORS];
    unsigned count;
};

// Attach a monitor to each device that -monitor and -mon name; without them, to standard input and output, if that is used for
// something else, too, or -nographic was given. Returns 0 or a negative errno with *err set.
int monitors_open(struct monitors *ms, struct vm *vm, const struct run_options *o, struct error *err);
// Run one command; its output goes to m->out. For tests, too.
void monitor_command(struct monitor *m, char *line);

// --- between the files of the monitor -----------------------------------------------------------------------------------------

// 'info' with what follows it.
void monitor_info(struct monitor *m, char *args);
void monitor_list_info(FILE *out);
// The n-th topic, or NULL past the end.
const char *monitor_info_name(size_t n);
// The next word of *args, cut off with 0; "" at the end.
char *monitor_word(char **args);
// The processor that commands are about, its state complete.
struct vcpu *monitor_cpu(struct monitor *m);
// Numbers and $registers with C's operators. False, with a message, when it is something else.
bool monitor_eval(struct monitor *m, const char *text, u64 *out);
// One of several arguments: a word without blanks.
bool monitor_eval_word(struct monitor *m, char **args, u64 *out);
// i and o.
void monitor_port_in(struct monitor *m, char *args);
void monitor_port_out(struct monitor *m, char *args);
void monitor_save(struct monitor *m, char *args, bool physical);
// x and xp: `args` begins with "/FMT" or the address.
void monitor_dump(struct monitor *m, char *args, bool physical);
void monitor_print(struct monitor *m, char *args);

#endif
