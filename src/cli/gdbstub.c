// Between a debugger's session, a character device and the machine's threads.

#include "cli/gdbstub.h"

#include <errno.h>
#include <stdlib.h>

#include "cli/chars.h"
#include "cli/cmd.h"
#include "cli/gdb_session.h"
#include "cli/monitor.h"
#include "cli/vm.h"

struct gdb {
    struct vm *vm;
    struct chardev_front front;
    struct gdb_session session;
    struct monitor monitor; // of the debugger's `monitor` command
    bool shut_down;         // the debugger knows of the processor that has
};

// --- what the session asks for ----------------------------------------------------------------------------------------------

// At once: a debugger waits for each answer before it asks again.
static void on_send(void *self, const void *buf, size_t len)
{
    struct gdb *g = self;

    chardev_print(&g->front, buf, len);
    chardevs_flush(&g->vm->chars);
}

static void on_stop(void *self)
{
    vm_stop(((struct gdb *)self)->vm);
}

static void on_resume(void *self, u64 cpus)
{
    struct gdb *g = self;
    struct machine *m = &g->vm->board->m;
    struct vm_exit e;
    unsigned cpu;

    while (vm_take_missed(g->vm, cpus, &cpu, &e)) {
        u8 access = e.code == DEBUG_READ ? DEBUG_WATCH_READ : DEBUG_WATCH_WRITE;
        if (debug_watch_hit(&m->debug, e.addr, 1, access)) {
            gdb_session_stopped(&g->session, m->vcpu[cpu], &e);
            return;
        }
    }
    if (vm_state(g->vm) != VM_OFF)
        vm_cont(g->vm, ~cpus);
}

static void on_kill(void *self)
{
    vm_quit(((struct gdb *)self)->vm, CMD_OK);
}

static void on_hang_up(void *self)
{
    (void)self; // the debugger does
}

static void on_monitor(void *self, const char *command)
{
    struct gdb *g = self;
    char line[MONITOR_LINE], *text = NULL;
    size_t size = 0;

    snprintf(line, sizeof(line), "%s", command);
    g->monitor.out = open_memstream(&text, &size);
    if (!g->monitor.out)
        return;
    g->monitor.cpu = g->session.cpu;
    monitor_command(&g->monitor, line);
    fclose(g->monitor.out);
    gdb_session_print(&g->session, text, size);
    free(text);
}

static const struct gdb_ops ops = {on_send, on_stop, on_resume, on_kill, on_hang_up, on_monitor};

// --- the character device ---------------------------------------------------------------------------------------------------

static void on_input(void *arg)
{
    struct gdb *g = arg;
    u8 buf[512];
    size_t n;

    while ((n = chardev_read(&g->front, buf, sizeof(buf))))
        gdb_session_input(&g->session, buf, n);
}

static void on_event(void *arg, enum chardev_event e)
{
    struct gdb *g = arg;

    if (e == CHARDEV_OPENED)
        gdb_session_open(&g->session);
    else if (e == CHARDEV_CLOSED)
        gdb_session_close(&g->session);
}

int gdb_open(struct vm *vm, struct run_options *o, struct error *err)
{
    struct char_use u;
    struct chardev *c;
    int ret = chars_parse(&u, &o->pool, "gdb", o->gdb, err);

    if (!ret && u.how == CHAR_OPEN) {
        u.spec.server = u.spec.nodelay = true;
        u.spec.wait = false;
        if (u.spec.kind == CHARDEV_TCP && !*u.spec.host)
            u.spec.host = "127.0.0.1";
    }
    if (!ret)
        ret = chars_open(&vm->chars, &u, &c, err);
    if (ret || !c)
        return ret;
    vm->gdb = calloc(1, sizeof(*vm->gdb));
    if (!vm->gdb)
        return error_set(err, -ENOMEM, "-gdb %s: no memory", o->gdb);
    vm->gdb->vm = vm;
    vm->gdb->monitor.vm = vm;
    vm->gdb->monitor.o = o;
    vm->gdb->front = (struct chardev_front){.arg = vm->gdb, .input = on_input, .event = on_event};
    gdb_session_init(&vm->gdb->session, &vm->board->m, &ops, vm->gdb);
    ret = chars_attach(c, &vm->gdb->front, "gdb", err);
    // Standard streams and pipes are there from the start and never tell.
    if (!ret && chardev_connected(&vm->gdb->front))
        gdb_session_open(&vm->gdb->session);
    return ret;
}

void gdb_close(struct gdb *g)
{
    if (!g)
        return;
    chardev_detach(&g->front);
    free(g);
}

// --- what the machine tells -------------------------------------------------------------------------------------------------

bool gdb_stopped(struct gdb *g, const struct vcpu *v, const struct vm_exit *e)
{
    if (!g || !g->session.open || !g->session.running)
        return false;
    bool shut_down = e && e->reason == VM_EXIT_SHUTDOWN;
    if (shut_down && g->shut_down)
        return false;
    g->shut_down = shut_down;
    gdb_session_stopped(&g->session, v, e);
    return true;
}

void gdb_continued(struct gdb *g)
{
    if (g)
        gdb_session_continued(&g->session);
}

void gdb_ended(struct gdb *g, int status)
{
    if (g)
        gdb_session_ended(&g->session, status);
}
