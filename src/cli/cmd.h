// Subcommands: one file and one row of the table in main.c each.
#ifndef POGO_CLI_CMD_H
#define POGO_CLI_CMD_H

#include "pogo/error.h"

// Exit statuses of pogo itself. A guest that ends through isa-debug-exit gives an odd one.
enum cmd_status {
    CMD_OK = 0,
    CMD_ERROR = 1,       // bad usage or input, or something that the host refused
    CMD_TRIPLE_FAULT = 4 // the guest shut its processor down
};

// argv[0] is the first argument after the subcommand. Returns the exit status.
int cmd_run(int argc, char **argv);
int cmd_lockstep(int argc, char **argv);
int cmd_disasm(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
};

// n-th command, or NULL past the end.
const struct command *command_at(unsigned n);

// Print an error as the user sees it. Returns CMD_ERROR.
int cmd_fail(const struct error *err);

#endif
