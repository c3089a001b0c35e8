// pogo.1 in man(7) macros, and completion for bash. `make` writes both by running the program it has just built.

#include "cli/manual.h"

#include <string.h>

#include "cli/cmd.h"
#include "cli/devices.h"
#include "cli/options.h"
#include "core/cpuid.h"
#include "engine/engines.h"
#include "host/linux.h"
#include "pogo/version.h"

// --- the manual -----------------------------------------------------------------------------------------------------------

// Text as roff shows it unchanged.
static void text(FILE *out, const char *s)
{
    if (*s == '.' || *s == '\'')
        fputs("\\&", out);
    for (; *s; s++)
        if (*s == '-')
            fputs("\\-", out);
        else if (*s == '\\')
            fputs("\\e", out);
        else if (*s == '\'')
            fputs("\\(aq", out);
        else
            fputc(*s, out);
}

static void item(FILE *out, const char *prefix, const char *name, const char *arg, const char *help)
{
    fputs(".TP\n\\fB", out);
    text(out, prefix);
    text(out, name);
    fputs("\\fR", out);
    if (arg && *arg) {
        fputs(" \\fI", out);
        text(out, arg);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    text(out, help);
    fputc('\n', out);
}

static void section(FILE *out, const char *name, const char *intro)
{
    fprintf(out, ".SH %s\n", name);
    if (intro) {
        text(out, intro);
        fputc('\n', out);
    }
}

static void devices(FILE *out)
{
    section(out, "DEVICES", "What -device can add, and the properties of each.");
    for (int i = 0; i < DEVICE_KIND_COUNT; i++) {
        const struct device_type *t = device_type((enum device_kind)i);
        item(out, "", t->name, "", t->help);
        for (unsigned p = 0; p < DEVICE_MAX_PROPS && t->prop[p].name; p++) {
            fputs(".br\n", out);
            text(out, t->prop[p].name);
            fputs("=: ", out);
            text(out, t->prop[p].help);
            if (t->prop[p].def) {
                fputs(" (default ", out);
                text(out, t->prop[p].def);
                fputs(")", out);
            }
            fputc('\n', out);
        }
    }
}

static void monitor(FILE *out)
{
    section(out, "MONITOR", "Commands of the monitor, which Ctrl-A c switches to.");
#define MONITOR(id, name, brief, args, help) item(out, "", name, args, help);
#define MONITOR_INFO(id, name, help) item(out, "info ", name, "", help);
#include "cli/monitor.def"
#undef MONITOR
#undef MONITOR_INFO
}

static void lockstep(FILE *out)
{
    section(
        out, "LOCKSTEP",
        "Of pogo lockstep, which takes the options of pogo run beside these. It runs the guest on two engines, with time that follows its "
        "instructions, and compares the two machines: processors, clocks, interrupts, consoles, devices, memory. When they differ, it runs "
        "them again up to the last point where they did not, and looks closer until it has the instruction, which it shows with those before "
        "it. A difference that heals before the next comparison is not seen: --every 1 sees all. It exits with 0 when there was no "
        "difference, 1 when there was one, 2 for errors.");
#define LOCKSTEP_OPTION(id, name, arg, help) item(out, "--", name, arg, help);
#include "cli/lockstep.def"
#undef LOCKSTEP_OPTION
}

static void statuses(FILE *out)
{
    section(out, "EXIT STATUS", NULL);
    item(out, "", "0", "", "the guest switched itself off, or reset with -no-reboot, or the user quit");
    item(out, "", "1", "", "an error: of usage, of an image, or one that the host made");
    item(out, "", "4", "", "triple fault: the guest's processor shut down");
    item(out, "", "2n+1", "", "the guest wrote n to isa-debug-exit");
    item(out, "", "128+n", "", "signal n ended it");
    item(
        out, "", "141", "",
        "standard output is a pipe, and its reader has gone; with SIGPIPE ignored (trap '' PIPE) the machine goes on instead");
}

void manual_print(FILE *out)
{
    const struct option_row *row;
    const struct command *c;

    fprintf(out, ".TH POGO 1 \"\" \"pogo %s\" \"User Commands\"\n", POGO_VERSION);
    section(out, "NAME", "pogo - x86 virtual machine monitor");
    section(out, "SYNOPSIS", NULL);
    fputs(
        "\\fBpogo run \\-kernel\\fR \\fIIMAGE\\fR [\\fIOPTIONS\\fR]\n.br\n\\fBpogo\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]\n",
        out);
    section(
        out, "DESCRIPTION",
        "Runs x86 operating systems in a virtual machine, in software where there is no hardware for it: no root, no kernel "
        "module, no /dev/kvm needed. Options have QEMU's spelling.");
    section(out, "COMMANDS", NULL);
    for (unsigned i = 0; (c = command_at(i)); i++)
        item(out, "pogo ", c->name, "", c->summary);
    section(out, "OPTIONS", "Of pogo run. One dash or two.");
    for (unsigned i = 0; (row = option_at(i)); i++)
        item(out, "-", row->name, row->arg, row->help);
    section(out, "KEYS", "On a terminal, and with -nographic or mon: on anything:");
    item(out, "", "Ctrl-A x", "", "quit");
    item(out, "", "Ctrl-A c", "", "switch between guest and monitor");
    item(out, "", "Ctrl-A b", "", "send a break");
    item(out, "", "Ctrl-A h", "", "list the keys");
    item(out, "", "Ctrl-A Ctrl-A", "", "send Ctrl-A");
    devices(out);
    monitor(out);
    lockstep(out);
    statuses(out);
    section(out, "SEE ALSO", "qemu-system-x86_64(1)");
}

// --- completion -----------------------------------------------------------------------------------------------------------

static void words_after(FILE *out, const char *option)
{
    const struct engine_ops *e;
    const struct cpu_model *m;

    fprintf(out, "    -%s) words='", option);
    if (!strcmp(option, "accel")) {
        for (unsigned i = 0; (e = engine_at(i)); i++)
            fprintf(out, "%s ", e->name);
        fputs("auto help", out);
    } else if (!strcmp(option, "cpu")) {
        for (unsigned i = 0; (m = cpu_model_at(i)); i++)
            fprintf(out, "%s ", m->name);
        fputs("help", out);
    } else if (!strcmp(option, "device")) {
        for (int i = 0; i < DEVICE_KIND_COUNT; i++)
            fprintf(out, "%s ", device_type((enum device_kind)i)->name);
        fputs("help", out);
    } else if (!strcmp(option, "d")) {
        for (int i = 0; i < LOG_COUNT; i++)
            fprintf(out, "%s ", linux_host_log_name((enum host_log)i));
        fputs("help", out);
    }
    fputs("' ;;\n", out);
}

static void fixed_after(FILE *out, const char *options, const char *words)
{
    fprintf(out, "    %s) words='%s' ;;\n", options, words);
}

void completion_print(FILE *out)
{
    static const char *const from_tables[] = {"accel", "cpu", "device", "d"};
    const struct option_row *row;
    const struct command *c;

    fputs("# bash completion for pogo, made by 'pogo help --completion'\n_pogo()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=\n"
          "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W '",
          out);
    for (unsigned i = 0; (c = command_at(i)); i++)
        fprintf(out, "%s ", c->name);
    fputs(
        "' -- \"$cur\"))\n        return\n    fi\n"
        "    [[ ${COMP_WORDS[1]} == run || ${COMP_WORDS[1]} == lockstep ]] || { COMPREPLY=($(compgen -f -- \"$cur\")); return; }\n"
        "    case $prev in\n",
        out);
    for (size_t i = 0; i < ARRAY_LEN(from_tables); i++)
        words_after(out, from_tables[i]);
    fixed_after(out, "-machine | -M", "pc help");
    fixed_after(out, "-display | -vga | -nic | -net | -parallel", "none");
    fixed_after(out, "-serial | -monitor | -debugcon", "stdio mon:stdio file: pipe: pty unix: tcp: chardev: null none");
    fixed_after(out, "-gdb", "tcp::1234 unix: stdio");
    fixed_after(out, "-chardev", "null stdio file pipe pty socket help");
    fixed_after(out, "-drive", "file=");
    fixed_after(out, "-object", "rng-random rng-builtin");
    fixed_after(out, "-rtc", "base=utc base=localtime");
    fputs("    -kernel | -initrd | -bios | -D | -pidfile) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
          "    -append | -m | -smp | -blockdev | -mon | -boot | -name) return ;;\n    *) words='",
          out);
    for (unsigned i = 0; (row = option_at(i)); i++)
        fprintf(out, "-%s ", row->name);
    fputs(
        "' ;;\n    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -o filenames -F _pogo pogo\n",
        out);
}
