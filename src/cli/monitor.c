// The monitor's line editor and commands.

#include "cli/monitor.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmd.h"
#include "core/mmu.h"
#include "dev/virtio_balloon.h"
#include "host/linux.h"
#include "pogo/version.h"

#define PROMPT "(pogo) "
#define CTRL_C 0x03
#define BACKSPACE 0x08
#define CTRL_U 0x15
#define ESCAPE 0x1b
#define DELETE 0x7f

char *monitor_word(char **args)
{
    char *start = *args + strspn(*args, " \t"), *end = start + strcspn(start, " \t");

    *args = *end ? end + 1 : end;
    *end = 0;
    return start;
}

struct vcpu *monitor_cpu(struct monitor *m)
{
    struct vcpu *v = m->vm->board->m.vcpu[m->cpu];

    v->engine->pull_state(v);
    return v;
}

// --- commands -------------------------------------------------------------------------------------------------------------

static void cmd_stop(struct monitor *m, char *args)
{
    (void)args;
    vm_stop(m->vm);
}

static void cmd_cont(struct monitor *m, char *args)
{
    (void)args;
    if (vm_state(m->vm) == VM_OFF)
        fprintf(m->out, "the guest has switched itself off: 'system_reset' first\n");
    else
        vm_cont(m->vm, 0);
}

static void cmd_quit(struct monitor *m, char *args)
{
    (void)args;
    vm_quit(m->vm, CMD_OK);
}

static void cmd_system_reset(struct monitor *m, char *args)
{
    (void)args;
    vm_reset(m->vm);
}

static void cmd_system_powerdown(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;

    (void)args;
    lock_take(&b->m.dev_lock);
    bool heard = piix4_power_button(&b->pm);
    lock_drop(&b->m.dev_lock);
    if (!heard)
        fprintf(m->out, "the guest does not listen to the power button\n");
}

static void cmd_nmi(struct monitor *m, char *args)
{
    struct machine *machine = &m->vm->board->m;

    (void)args;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_nmi(machine->vcpu[i]);
        machine->host->ops->wake(machine->host->self, i);
    }
}

static void cmd_cpu(struct monitor *m, char *args)
{
    u64 n;

    if (!parse_number(args, strlen(args), m->vm->board->m.vcpu_count - 1, &n))
        fprintf(m->out, "cpu: the processors are 0 to %u\n", m->vm->board->m.vcpu_count - 1);
    else
        m->cpu = (unsigned)n;
}

static void cmd_balloon(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;
    u64 mib;

    if (!b->balloon) {
        fprintf(m->out, "balloon: there is none; start with -device virtio-balloon-pci\n");
    } else if (!parse_number(args, strlen(args), b->ram_size >> 20, &mib) || !mib) {
        fprintf(m->out, "balloon: the memory in MiB, from 1 to %llu\n", (unsigned long long)(b->ram_size >> 20));
    } else {
        lock_take(&b->m.dev_lock);
        virtio_balloon_set_target(b->balloon, b->ram_size - (mib << 20));
        lock_drop(&b->m.dev_lock);
    }
}

static void cmd_x(struct monitor *m, char *args)
{
    monitor_dump(m, args, false);
}

static void cmd_xp(struct monitor *m, char *args)
{
    monitor_dump(m, args, true);
}

static void cmd_print(struct monitor *m, char *args)
{
    monitor_print(m, args);
}

static void cmd_in(struct monitor *m, char *args)
{
    monitor_port_in(m, args);
}

static void cmd_out(struct monitor *m, char *args)
{
    monitor_port_out(m, args);
}

static void cmd_memsave(struct monitor *m, char *args)
{
    monitor_save(m, args, false);
}

static void cmd_pmemsave(struct monitor *m, char *args)
{
    monitor_save(m, args, true);
}

static void cmd_gva2gpa(struct monitor *m, char *args)
{
    gpa phys;
    u64 a;

    if (!monitor_eval(m, args, &a))
        return;
    if (mmu_peek(monitor_cpu(m), a, &phys))
        fprintf(m->out, "gpa: 0x%llx\n", (unsigned long long)phys);
    else
        fprintf(m->out, "not mapped\n");
}

static void cmd_log(struct monitor *m, char *args)
{
    u32 mask = 1u << LOG_ERROR | 1u << LOG_WARN;

    if (!strcmp(args, "none"))
        args += 4;
    while (*args) {
        size_t len = strcspn(args, ",");
        int c = linux_host_log_find(args, len);

        if (c < 0) {
            fprintf(m->out, "log: %.*s: unknown category; known are none", (int)len, args);
            for (c = 0; c < LOG_COUNT; c++)
                fprintf(m->out, " %s", linux_host_log_name((enum host_log)c));
            fprintf(m->out, "\n");
            return;
        }
        mask |= 1u << c;
        args += len + (args[len] == ',');
    }
    m->vm->board->m.host->log_mask = mask;
}

static void cmd_engine(struct monitor *m, char *args)
{
    (void)args;
    fprintf(m->out, "%s\n", monitor_cpu(m)->engine->name);
}

static void cmd_info(struct monitor *m, char *args)
{
    monitor_info(m, args);
}

static void cmd_help(struct monitor *m, char *args);

static const struct {
    const char *name, *brief, *args, *help;
    void (*run)(struct monitor *m, char *args);
} commands[] = {
#define MONITOR(id, name, brief, args, help) {name, brief, args, help, cmd_##id},
#define MONITOR_INFO(id, name, help)
#include "cli/monitor.def"
#undef MONITOR
#undef MONITOR_INFO
};

static int find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].name, name) || (commands[i].brief && !strcmp(commands[i].brief, name)))
            return (int)i;
    return -1;
}

static void cmd_help(struct monitor *m, char *args)
{
    char *name = monitor_word(&args);

    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (*name && find_command(name) != (int)i)
            continue;
        fprintf(m->out, "%s%s%s %s -- %s\n", commands[i].name, commands[i].brief ? "|" : "",
                commands[i].brief ? commands[i].brief : "", commands[i].args, commands[i].help);
    }
    if (!strcmp(name, "info"))
        monitor_list_info(m->out);
}

void monitor_command(struct monitor *m, char *line)
{
    char *args = line + strspn(line, " \t"), *name = args;
    size_t len = strcspn(args, " \t/");
    int i;

    // "x/10i 0": the format may follow the name at once.
    char word[32];
    snprintf(word, sizeof(word), "%.*s", (int)len, name);
    args += len;
    args += strspn(args, " \t");
    for (size_t end = strlen(args); end && (args[end - 1] == ' ' || args[end - 1] == '\t'); end--)
        args[end - 1] = 0;
    if (!*word)
        return;
    i = len < sizeof(word) ? find_command(word) : -1;
    if (i < 0) {
        fprintf(m->out, "%s: unknown command; 'help' lists them\n", word);
        return;
    }
    vm_pause(m->vm);
    commands[i].run(m, args);
    vm_continue(m->vm);
}

// --- the line -------------------------------------------------------------------------------------------------------------

// Terminals other than standard output get what they are sent as it is.
static void show(struct monitor *m, const char *text, size_t len)
{
    if (!m->crlf) {
        chardev_print(&m->front, text, len);
        return;
    }
    while (len) {
        const char *end = memchr(text, '\n', len);
        size_t n = end ? (size_t)(end - text) : len;
        chardev_print(&m->front, text, n);
        if (end)
            chardev_print(&m->front, "\r\n", 2);
        n += end != NULL;
        text += n;
        len -= n;
    }
}

static void show_text(struct monitor *m, const char *text)
{
    show(m, text, strlen(text));
}

static void run_line(struct monitor *m)
{
    char *text = NULL;
    size_t size = 0;

    m->out = open_memstream(&text, &size);
    if (!m->out)
        return;
    monitor_command(m, m->line);
    fclose(m->out);
    m->out = NULL;
    show(m, text, size);
    free(text);
}

static void remember(struct monitor *m)
{
    unsigned last = (m->past + MONITOR_HISTORY - 1) % MONITOR_HISTORY;

    m->shown = 0;
    if (!m->len || (m->past && !strcmp(m->history[last], m->line)))
        return;
    memcpy(m->history[m->past++ % MONITOR_HISTORY], m->line, m->len + 1);
}

static void replace_line(struct monitor *m, const char *text)
{
    for (; m->len; m->len--)
        show_text(m, "\b \b");
    m->len = (unsigned)strlen(text);
    memcpy(m->line, text, m->len + 1);
    show_text(m, m->line);
}

static void go_back(struct monitor *m, bool back)
{
    unsigned kept = m->past < MONITOR_HISTORY ? m->past : MONITOR_HISTORY;

    if (back ? m->shown == kept : !m->shown)
        return;
    m->shown += back ? 1 : -1u;
    replace_line(m, m->shown ? m->history[(m->past - m->shown) % MONITOR_HISTORY] : "");
}

static void end_line(struct monitor *m)
{
    show_text(m, "\n");
    m->line[m->len] = 0;
    remember(m);
    run_line(m);
    m->len = 0;
    m->line[0] = 0;
    if (vm_state(m->vm) != VM_ENDED)
        show_text(m, PROMPT);
}

// Cursor keys are ESC [ letter; other sequences are passed over.
static void escape_byte(struct monitor *m, u8 byte)
{
    if (m->escape == 1 && byte == '[') {
        m->escape = 2;
        return;
    }
    if (m->escape == 2 && (byte == 'A' || byte == 'B'))
        go_back(m, byte == 'A');
    if (m->escape == 2 && (isdigit(byte) || byte == ';'))
        return;
    m->escape = 0;
}

// The names that could stand where the line ends: the n-th, or NULL.
static const char *candidate(const struct monitor *m, size_t n)
{
    size_t word = strspn(m->line, " "), len = strcspn(m->line + word, " ");
    const char *first = m->line + word;

    if (!first[len] || (len == 4 && !strncmp(first, "help", len)))
        return n < ARRAY_LEN(commands) ? commands[n].name : NULL;
    return len == 4 && !strncmp(first, "info", len) ? monitor_info_name(n) : NULL;
}

// How much of `name` and of what is known so far, if anything, is the same.
static size_t common(const char *so_far, size_t len, const char *name)
{
    size_t n = 0;

    if (!so_far)
        return strlen(name);
    while (n < len && so_far[n] == name[n])
        n++;
    return n;
}

static void insert(struct monitor *m, const char *text, size_t len)
{
    if (m->len + len >= MONITOR_LINE)
        return;
    memcpy(m->line + m->len, text, len);
    m->len += (unsigned)len;
    m->line[m->len] = 0;
    show(m, text, len);
}

// Complete the last word; when there are several ways to, show them.
static void complete(struct monitor *m)
{
    const char *word = strrchr(m->line, ' '), *name, *best = NULL;
    size_t same = 0, typed, found = 0;

    word = word ? word + 1 : m->line;
    typed = strlen(word);
    for (size_t n = 0; (name = candidate(m, n)); n++) {
        if (strncmp(name, word, typed))
            continue;
        same = common(best, same, name);
        best = name;
        found++;
    }
    if (!found)
        return;
    insert(m, best + typed, same - typed);
    if (found == 1)
        insert(m, " ", 1);
    if (found == 1 || same > typed)
        return;
    show_text(m, "\n");
    for (size_t n = 0; (name = candidate(m, n)); n++) {
        if (strncmp(name, word, typed))
            continue;
        show_text(m, name);
        show_text(m, " ");
    }
    show_text(m, "\n" PROMPT);
    show_text(m, m->line);
}

static void take_byte(struct monitor *m, u8 byte)
{
    if (m->escape) {
        escape_byte(m, byte);
        return;
    }
    switch (byte) {
    case ESCAPE: m->escape = 1; return;
    case '\r':
    case '\n': end_line(m); return;
    case CTRL_C:
    case CTRL_U: replace_line(m, ""); return;
    case BACKSPACE:
    case DELETE:
        if (m->len) {
            m->line[--m->len] = 0;
            show_text(m, "\b \b");
        }
        return;
    case '\t': complete(m); return;
    default: break;
    }
    if (byte < ' ' || byte > '~' || m->len == MONITOR_LINE - 1)
        return;
    m->line[m->len++] = (char)byte;
    m->line[m->len] = 0;
    show(m, (char *)&byte, 1);
}

static void on_input(void *arg)
{
    struct monitor *m = arg;
    int byte;

    while ((byte = chardev_get(&m->front)) >= 0) {
        if (vm_state(m->vm) == VM_ENDED)
            return;
        take_byte(m, (u8)byte);
    }
}

static void greet(struct monitor *m)
{
    char text[128];

    snprintf(text, sizeof(text), "pogo %s monitor: 'help' lists the commands\n", POGO_VERSION);
    if (!m->greeted)
        show_text(m, text);
    m->greeted = true;
    show_text(m, PROMPT);
    show_text(m, m->line);
}

static void on_event(void *arg, enum chardev_event e)
{
    struct monitor *m = arg;

    if (e == CHARDEV_OPENED) {
        m->len = 0;
        m->line[0] = 0;
        m->greeted = false;
    }
    if (e == CHARDEV_FOCUS) {
        show_text(m, "\n");
        greet(m);
    } else if (e == CHARDEV_OPENED && m->front.dev->fronts == 1) {
        greet(m);
    }
}

// --- attaching ------------------------------------------------------------------------------------------------------------

static int open_one(struct monitors *ms, struct vm *vm, const struct run_options *o, const struct char_use *u,
                    struct error *err)
{
    struct monitor *m = &ms->m[ms->count];
    struct chardev *c;
    int ret = chars_open(&vm->chars, u, &c, err);

    if (ret || !c)
        return ret;
    m->vm = vm;
    m->o = o;
    m->front.arg = m;
    m->front.input = on_input;
    m->front.event = on_event;
    m->crlf = c->spec.kind != CHARDEV_STDIO && c->spec.kind != CHARDEV_FILE;
    ret = chars_attach(c, &m->front, u->option, err);
    if (ret)
        return ret;
    ms->count++;
    if (c->fronts == 1 && chardev_connected(&m->front))
        greet(m);
    return 0;
}

int monitors_open(struct monitors *ms, struct vm *vm, const struct run_options *o, struct error *err)
{
    struct char_use standard = {
        .how = CHAR_OPEN, .option = "monitor", .spec = {.kind = CHARDEV_STDIO, .keys = CHARDEV_KEYS_TTY}};
    bool shared = false;
    int ret = 0;

    for (unsigned i = 0; i < vm->chars.count; i++)
        shared |= vm->chars.dev[i]->spec.kind == CHARDEV_STDIO && !vm->chars.dev[i]->spec.id;
    if (!o->monitor_count && !o->nodefaults && !o->daemonize && (shared || o->nographic))
        return open_one(ms, vm, o, &standard, err);
    for (unsigned i = 0; i < o->monitor_count && !ret; i++)
        ret = open_one(ms, vm, o, &o->monitor[i], err);
    return ret;
}
