// Entry point: finds the subcommand.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "cli/manual.h"
#include "pogo/types.h"
#include "pogo/version.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command commands[] = {
    {"run", "run a virtual machine ('pogo run --help' lists the options)", cmd_run},
    {"lockstep", "run a guest on two engines at once and find the instruction on which they differ", cmd_lockstep},
    {"disasm", "disassemble bytes or a file", cmd_disasm},
    {"doctor", "say which engines work on this machine, and what keeps others from it", cmd_doctor},
    {"help", "show this, or the help of a command", cmd_help},
    {"version", "show the version", cmd_version},
};

int cmd_fail(const struct error *err)
{
    fflush(stdout);
    fprintf(stderr, "pogo: %s\n", err->text);
    return CMD_ERROR;
}

const struct command *command_at(unsigned n)
{
    return n < ARRAY_LEN(commands) ? &commands[n] : NULL;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static void usage(FILE *out)
{
    fprintf(out, "usage: pogo COMMAND [ARGUMENTS]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\nFirst try: make run\n");
}

static int cmd_version(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("pogo %s\n", POGO_VERSION);
    return CMD_OK;
}

static int unknown_command(const char *name)
{
    struct error err;

    error_format(&err, "%s: unknown command; 'pogo help' lists them", name);
    return cmd_fail(&err);
}

static int cmd_help(int argc, char **argv)
{
    static char help[] = "--help";
    char *ask[] = {help, NULL};
    const struct command *c;

    if (argc == 0) {
        usage(stdout);
        return CMD_OK;
    }
    if (!strcmp(argv[0], "--man") || !strcmp(argv[0], "--completion")) {
        argv[0][2] == 'm' ? manual_print(stdout) : completion_print(stdout);
        return CMD_OK;
    }
    c = find_command(argv[0]);
    if (!c)
        return unknown_command(argv[0]);
    return c->run == cmd_help || c->run == cmd_version ? cmd_help(0, NULL) : c->run(1, ask);
}

// Started with a standard descriptor closed, pogo would get some file of its own under that number, and write the guest's output
// into it.
static void fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return;
}

static int run_command(int argc, char **argv)
{
    const struct command *c;

    if (argc < 2) {
        usage(stderr);
        return CMD_ERROR;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-version"))
        return cmd_version(0, NULL);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-help") || !strcmp(argv[1], "-h"))
        return cmd_help(0, NULL);
    c = find_command(argv[1]);
    return c ? c->run(argc - 2, argv + 2) : unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
    struct error err;
    int status;

    fill_standard_descriptors();
    status = run_command(argc, argv);
    if (fflush(stdout) || ferror(stdout)) {
        error_format(&err, "standard output: cannot write: %s; give it a place with room", strerror(errno));
        status = cmd_fail(&err);
    }
    return status;
}
