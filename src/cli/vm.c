// Running a machine: one thread executes the guest, the main thread listens to the user.
//
// The processor's thread runs slices of instructions; between them it fires the timers that are due and flushes output.
// The main thread never touches a device: it puts characters into the ring and makes the processor's thread look there. It never
// waits for the guest or for a reader of the guest's output either, so that the user can always end it.

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

// Milliseconds: until the end is made to happen that the user asked for, and between looks whether a guest reads its input.
#define HURRY_MS 200
#define FULL_MS 10
#define HURRY_SIGNAL SIGURG // ignored by default: nothing else sends it

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

static bool on_poweroff(struct vm *vm, const struct vm_exit *e)
{
    int asked = atomic_load(&vm->asked);

    vm->status = asked ? asked - 1 : e->code;
    return false;
}

static bool on_reset(struct vm *vm, const struct vm_exit *e)
{
    struct pc *b = vm->board;

    if (vm->no_reboot) {
        vm->status = CMD_OK;
        return false;
    }
    pc_reset(b);
    // A request to end that came between the guest's and the reset was not the first, and is forgotten with it.
    if (atomic_load(&vm->asked))
        return on_poweroff(vm, e);
    if (vm->boot && boot_load(&b->m.mem, vm->boot, &b->vcpu->cpu, &vm->error))
        return fail(vm, CMD_ERROR);
    b->vcpu->engine->push_state(b->vcpu);
    return true;
}

static bool on_error(struct vm *vm, const struct vm_exit *e)
{
    struct vcpu *v = cpu_of(vm);

    v->engine->pull_state(v);
    error_format(&vm->error, "the %s engine cannot go on: %s", v->engine->name,
                 e->message ? e->message : "no reason given");
    report_cpu(stderr, v);
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
    int none = 0;

    atomic_compare_exchange_strong(&vm->asked, &none, status + 1);
    machine_stop(&vm->board->m, VM_EXIT_POWEROFF, status);
    kick(vm);
}

// Read what there is on standard input. Returns false at its end. What a user types while the ring is full is lost, as on any
// serial line; a file or a pipe is only read when there is room.
static bool serve_input(struct vm *vm, struct key_filter *filter)
{
    u8 buf[512];
    u32 room = filter->active ? sizeof(buf) : in_room(&vm->input);
    ssize_t n = read(STDIN_FILENO, buf, room < sizeof(buf) ? room : sizeof(buf));

    if (n <= 0)
        return n < 0 && (errno == EINTR || errno == EAGAIN);
    for (ssize_t i = 0; i < n; i++) {
        switch (key_input(filter, buf[i])) {
        case KEY_NONE: break;
        case KEY_SEND: in_put(&vm->input, buf[i]); break;
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

// The user wants to end, but the processor's thread may be waiting for somebody to read its output: interrupt it.
static void hurry(struct vm *vm, pthread_t thread)
{
    for (size_t i = 0; i < ARRAY_LEN(vm->out); i++)
        atomic_store(&vm->out[i].hurry, true);
    pthread_kill(thread, HURRY_SIGNAL);
}

static void listen_until_done(struct vm *vm, pthread_t thread, int signal_fd, bool read_stdin)
{
    struct key_filter filter = {.active = read_stdin && term_raw(STDIN_FILENO)};
    struct pollfd p[3] = {{.fd = vm->done_fd, .events = POLLIN},
                          {.fd = signal_fd, .events = POLLIN},
                          {.fd = STDIN_FILENO, .events = POLLIN}};
    bool open = read_stdin;

    while (!(p[0].revents & POLLIN)) {
        bool ending = atomic_load(&vm->asked), full = open && !filter.active && !in_room(&vm->input);
        int ready;

        p[2].fd = open && !full ? STDIN_FILENO : -1;
        ready = poll(p, 3, ending ? HURRY_MS : full ? FULL_MS : -1);
        if (ready < 0)
            continue;
        if (ready == 0 && ending)
            hurry(vm, thread);
        if (full)
            kick(vm);
        if (p[1].revents & POLLIN)
            serve_signal(vm, signal_fd);
        if (!(p[0].revents & POLLIN) && (p[2].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL)))
            open = serve_input(vm, &filter);
    }
    term_restore();
}

static void on_hurry(int sig)
{
    (void)sig;
}

// Signals that end the process come through a descriptor, so that output and logs are complete. Who started pogo with one of
// them ignored (nohup, a shell's background job) wants it to stay so. Blocks them; returns the descriptor or -1.
static int open_signals(sigset_t *before)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction interrupt = {.sa_handler = on_hurry}, now; // no SA_RESTART: writes are to end
    sigset_t ending;

    sigaction(HURRY_SIGNAL, &interrupt, NULL);
    sigemptyset(&ending);
    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        if (!sigaction(ends[i], NULL, &now) && now.sa_handler != SIG_IGN)
            sigaddset(&ending, ends[i]);
    pthread_sigmask(SIG_BLOCK, &ending, before);
    return signalfd(-1, &ending, SFD_CLOEXEC);
}

int vm_run(struct vm *vm, bool read_stdin)
{
    sigset_t before;
    pthread_t thread;
    int signal_fd = open_signals(&before), ret;

    vm->done_fd = eventfd(0, EFD_CLOEXEC);
    ret = signal_fd < 0 || vm->done_fd < 0 ? errno : pthread_create(&thread, NULL, cpu_thread, vm);
    if (ret) {
        error_format(&vm->error, "cannot start the processor's thread: %s; free some memory or processes",
                     strerror(ret));
        fail(vm, CMD_ERROR);
    } else {
        listen_until_done(vm, thread, signal_fd, read_stdin);
        pthread_join(thread, NULL);
    }
    if (signal_fd >= 0)
        close(signal_fd);
    if (vm->done_fd >= 0)
        close(vm->done_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return vm->status;
}
