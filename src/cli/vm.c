// Running a machine: one thread executes the guest, the main thread listens to the user.
//
// The processor's thread runs slices of instructions; between them it fires the timers that are due and flushes output.
// The main thread never touches a device: it puts characters into the ring and makes the processor's thread look there.

#include "cli/vm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "cli/report.h"
#include "host/term.h"

// Instructions in a slice: SLICE is about a millisecond; with a timer due sooner the slice is shorter, so that it fires in time.
#define SLICE 50000
#define SLICE_MIN 1000
#define SLICE_NS_PER_INSN 20

static struct vcpu *cpu_of(struct vm *vm)
{
    return vm->board->vcpu;
}

static void flush_output(struct vm *vm)
{
    for (size_t i = 0; i < ARRAY_LEN(vm->out); i++)
        out_flush(&vm->out[i]);
}

static bool fail(struct vm *vm, int status)
{
    vm->has_error = true;
    vm->status = status;
    return false;
}

// --- exits ------------------------------------------------------------------------------------------------------------------

static bool on_budget(struct vm *vm, const struct vm_exit *e)
{
    (void)e;
    clock_run(&vm->board->m.clock);
    flush_output(vm);
    return true;
}

static bool on_kick(struct vm *vm, const struct vm_exit *e)
{
    (void)e;
    pc_poll_input(vm->board);
    flush_output(vm);
    return true;
}

// A halted processor sleeps until a request that can wake it, or the next timer.
static bool on_halt(struct vm *vm, const struct vm_exit *e)
{
    struct machine *m = &vm->board->m;
    struct vcpu *v = cpu_of(vm);
    u32 wakes = v->cpu.rflags & X86_FL_IF ? ~0u : ~VCPU_REQ_INTR;

    (void)e;
    flush_output(vm);
    if (!(atomic_load(&v->request) & wakes)) {
        clock_skip_idle(&m->clock);
        m->host->ops->wait(m->host->self, v->id, clock_host_deadline(&m->clock));
    }
    clock_run(&m->clock);
    return true;
}

static bool on_shutdown(struct vm *vm, const struct vm_exit *e)
{
    struct vcpu *v = cpu_of(vm);

    (void)e;
    v->engine->pull_state(v);
    flush_output(vm);
    error_format(&vm->error,
                 "triple fault: the guest's processor has shut down (see the state above; -d int logs what led to it)");
    report_cpu(stderr, v);
    return fail(vm, CMD_TRIPLE_FAULT);
}

static bool on_reset(struct vm *vm, const struct vm_exit *e)
{
    struct pc *b = vm->board;

    (void)e;
    if (vm->no_reboot) {
        vm->status = CMD_OK;
        return false;
    }
    pc_reset(b);
    if (vm->boot && boot_load(&b->m.mem, vm->boot, &b->vcpu->cpu, &vm->error))
        return fail(vm, CMD_ERROR);
    b->vcpu->engine->push_state(b->vcpu);
    return true;
}

static bool on_poweroff(struct vm *vm, const struct vm_exit *e)
{
    vm->status = e->code;
    return false;
}

static bool on_error(struct vm *vm, const struct vm_exit *e)
{
    error_format(&vm->error, "the %s engine cannot go on: %s", cpu_of(vm)->engine->name,
                 e->message ? e->message : "no reason given");
    report_cpu(stderr, cpu_of(vm));
    return fail(vm, CMD_ERROR);
}

static bool (*const handlers[VM_EXIT_COUNT])(struct vm *vm, const struct vm_exit *e) = {
    [VM_EXIT_BUDGET] = on_budget,     [VM_EXIT_KICK] = on_kick,   [VM_EXIT_HALT] = on_halt,
    [VM_EXIT_SHUTDOWN] = on_shutdown, [VM_EXIT_RESET] = on_reset, [VM_EXIT_POWEROFF] = on_poweroff,
    [VM_EXIT_DEBUG] = on_error,       [VM_EXIT_ERROR] = on_error,
};

bool vm_handle_exit(struct vm *vm, const struct vm_exit *e)
{
    return handlers[e->reason](vm, e);
}

static u64 slice(const struct clock *c)
{
    u64 now, insns;

    if (c->next_deadline == CLOCK_NEVER)
        return SLICE;
    now = clock_now(c);
    insns = c->next_deadline > now ? (c->next_deadline - now) / SLICE_NS_PER_INSN : 0;
    return insns < SLICE_MIN ? SLICE_MIN : insns < SLICE ? insns : SLICE;
}

static void *cpu_thread(void *arg)
{
    struct vm *vm = arg;
    struct vcpu *v = cpu_of(vm);
    struct vm_exit e;
    u64 one = 1;

    do
        e = v->engine->run(v, slice(&vm->board->m.clock));
    while (vm_handle_exit(vm, &e));
    flush_output(vm);
    if (write(vm->done_fd, &one, sizeof(one)) != sizeof(one))
        perror("pogo: eventfd");
    return NULL;
}

// --- the user ---------------------------------------------------------------------------------------------------------------

// Make the processor's thread look at its requests.
static void kick(struct vm *vm)
{
    struct vcpu *v = cpu_of(vm);
    struct host *h = vm->board->m.host;

    vcpu_request(v, VCPU_REQ_EXIT);
    if (v->engine->kick)
        v->engine->kick(v);
    h->ops->wake(h->self, v->id);
}

static void quit(struct vm *vm, int status)
{
    machine_stop(&vm->board->m, VM_EXIT_POWEROFF, status);
    kick(vm);
}

// The ring is full: the guest does not read. Wait for it, or for its end. Returns false at its end.
static bool put_patiently(struct vm *vm, u8 byte)
{
    while (!in_put(&vm->input, byte)) {
        struct pollfd p = {.fd = vm->done_fd, .events = POLLIN};

        kick(vm);
        if (poll(&p, 1, 10) > 0)
            return false;
    }
    return true;
}

// Read what there is on standard input. Returns false at its end.
static bool serve_input(struct vm *vm, struct key_filter *filter)
{
    u8 buf[512];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

    if (n <= 0)
        return n < 0 && (errno == EINTR || errno == EAGAIN);
    for (ssize_t i = 0; i < n; i++) {
        switch (key_input(filter, buf[i])) {
        case KEY_NONE: break;
        case KEY_SEND:
            if (!put_patiently(vm, buf[i]))
                return false;
            break;
        case KEY_QUIT: quit(vm, CMD_OK); return false;
        case KEY_HELP: fprintf(stderr, "\nCtrl-A x quits, Ctrl-A h shows this, Ctrl-A Ctrl-A sends Ctrl-A\n"); break;
        }
    }
    kick(vm);
    return true;
}

// A signal that asks the process to end, as the shell reports it.
static void serve_signal(struct vm *vm, int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info))
        quit(vm, 128 + (int)info.ssi_signo);
}

static void listen_until_done(struct vm *vm, int signal_fd, bool read_stdin)
{
    struct key_filter filter = {.active = read_stdin && term_raw(STDIN_FILENO)};
    struct pollfd p[3] = {{.fd = vm->done_fd, .events = POLLIN},
                          {.fd = signal_fd, .events = POLLIN},
                          {.fd = STDIN_FILENO, .events = POLLIN}};
    bool open = read_stdin;

    while (!(p[0].revents & POLLIN)) {
        if (poll(p, open ? 3 : 2, -1) < 0)
            continue;
        if (p[1].revents & POLLIN)
            serve_signal(vm, signal_fd);
        if (open && !(p[0].revents & POLLIN) && (p[2].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL)))
            open = serve_input(vm, &filter);
    }
    term_restore();
}

int vm_run(struct vm *vm, bool read_stdin)
{
    sigset_t ending, before;
    pthread_t thread;
    int signal_fd, ret;

    // Signals that end the process come through a descriptor, so that output and logs are complete.
    sigemptyset(&ending);
    sigaddset(&ending, SIGINT);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ending, &before);
    signal_fd = signalfd(-1, &ending, SFD_CLOEXEC);
    vm->done_fd = eventfd(0, EFD_CLOEXEC);
    ret = signal_fd < 0 || vm->done_fd < 0 ? errno : pthread_create(&thread, NULL, cpu_thread, vm);
    if (ret) {
        error_format(&vm->error, "cannot start the processor's thread: %s; free some memory or processes",
                     strerror(ret));
        fail(vm, CMD_ERROR);
    } else {
        listen_until_done(vm, signal_fd, read_stdin);
        pthread_join(thread, NULL);
    }
    if (signal_fd >= 0)
        close(signal_fd);
    if (vm->done_fd >= 0)
        close(vm->done_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return vm->status;
}
