// Running a machine.
//
// A vCPU's thread runs its engine until an exit needs control; then it leaves the exit as the event, has everybody park, and
// parks too. Control handles the event with the machine at rest and lets all go on, or ends it. Timers fire in a thread of their
// own, so that a busy or halted processor is interrupted on time.
//
// Control touches devices only while everybody is parked, and never waits for a guest or for a reader of the guest's output, so
// that the user can always end it.

#include "cli/vm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "cli/report.h"
#include "core/pvclock.h"
#include "host/term.h"

#define SLICE 50000 // instructions: about a millisecond, after which buffered output is written

// Milliseconds: until the end is made to happen that the user asked for, and between looks whether a guest reads its input.
#define HURRY_MS 200
#define FULL_MS 10
#define HURRY_SIGNAL SIGURG // ignored by default: nothing else sends it

// With the device lock: a device may be writing to the same stream.
static void flush_output(struct vm *vm)
{
    lock_take(&vm->board->m.dev_lock);
    for (size_t i = 0; i < ARRAY_LEN(vm->out); i++)
        out_flush(&vm->out[i]);
    lock_drop(&vm->board->m.dev_lock);
}

static bool fail(struct vm *vm, int status)
{
    vm->has_error = true;
    vm->status = status;
    return false;
}

// --- exits that a vCPU's thread handles itself ----------------------------------------------------------------------------

static bool on_slice(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    (void)v;
    (void)e;
    flush_output(vm);
    return true;
}

// Somebody wants this thread's attention: there may be input.
static bool on_kick(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    if (v->id == 0) {
        lock_take(&vm->board->m.dev_lock);
        pc_poll_input(vm->board);
        lock_drop(&vm->board->m.dev_lock);
    }
    return on_slice(vm, v, e);
}

// A halted processor sleeps until a request that can wake it. (With icount the next timer comes at once.)
static bool on_halt(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    struct machine *m = &vm->board->m;
    u32 wakes = v->cpu.rflags & X86_FL_IF && v->cpu.activity == CPU_HALTED ? ~0u : ~VCPU_REQ_INTR;

    (void)e;
    flush_output(vm);
    lock_take(&m->dev_lock);
    clock_skip_idle(&m->clock);
    bool due = m->clock.icount && m->clock.next_deadline != CLOCK_NEVER;
    if (due)
        clock_run(&m->clock);
    lock_drop(&m->dev_lock);
    if (!due && !(atomic_load(&v->request) & wakes))
        m->host->ops->wait(m->host->self, v->id, CLOCK_NEVER);
    return true;
}

static bool (*const vcpu_handlers[VM_EXIT_COUNT])(struct vm *vm, struct vcpu *v, const struct vm_exit *e) = {
    [VM_EXIT_BUDGET] = on_slice,
    [VM_EXIT_KICK] = on_kick,
    [VM_EXIT_HALT] = on_halt,
};

bool vm_vcpu_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    return vcpu_handlers[e->reason] && vcpu_handlers[e->reason](vm, v, e);
}

// --- exits for control ----------------------------------------------------------------------------------------------------

static bool on_shutdown(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    (void)e;
    v->engine->pull_state(v);
    flush_output(vm);
    error_format(&vm->error,
                 "triple fault: the guest's processor has shut down (see the state above; -d int logs what led to it)");
    report_cpu(stderr, v);
    return fail(vm, CMD_TRIPLE_FAULT);
}

static bool on_poweroff(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    int asked = atomic_load(&vm->asked);

    (void)v;
    vm->status = asked ? asked - 1 : e->code;
    return false;
}

static bool on_reset(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    struct pc *b = vm->board;
    gpa rsdp;

    if (vm->no_reboot) {
        vm->status = CMD_OK;
        return false;
    }
    pc_reset(b);
    // A request to end that came between the guest's and the reset was not the first, and is forgotten with it.
    if (atomic_load(&vm->asked))
        return on_poweroff(vm, v, e);
    if (vm->boot &&
        (pc_install_tables(b, &rsdp, &vm->error) || boot_load(&b->m.mem, vm->boot, &b->m.vcpu[0]->cpu, &vm->error)))
        return fail(vm, CMD_ERROR);
    b->m.vcpu[0]->engine->push_state(b->m.vcpu[0]);
    return true;
}

static bool on_error(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    v->engine->pull_state(v);
    error_format(&vm->error, "the %s engine cannot go on: %s", v->engine->name,
                 e->message ? e->message : "no reason given");
    report_cpu(stderr, v);
    return fail(vm, CMD_ERROR);
}

static bool (*const control_handlers[VM_EXIT_COUNT])(struct vm *vm, struct vcpu *v, const struct vm_exit *e) = {
    [VM_EXIT_BUDGET] = on_error,      [VM_EXIT_KICK] = on_error,  [VM_EXIT_HALT] = on_error,
    [VM_EXIT_SHUTDOWN] = on_shutdown, [VM_EXIT_RESET] = on_reset, [VM_EXIT_POWEROFF] = on_poweroff,
    [VM_EXIT_DEBUG] = on_error,       [VM_EXIT_ERROR] = on_error,
};

bool vm_control_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    return control_handlers[e->reason](vm, v, e);
}

// --- the gate ---------------------------------------------------------------------------------------------------------------

void vm_init(struct vm *vm)
{
    pthread_mutex_init(&vm->gate, NULL);
    pthread_cond_init(&vm->parked, NULL);
    pthread_cond_init(&vm->go, NULL);
    vm->event_fd = -1;
}

void vm_fini(struct vm *vm)
{
    pthread_cond_destroy(&vm->go);
    pthread_cond_destroy(&vm->parked);
    pthread_mutex_destroy(&vm->gate);
}

// Called with the gate locked: make every vCPU look at it.
static void close_gate_locked(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    vm->hold = true;
    for (unsigned i = 0; i < m->vcpu_count; i++) {
        struct vcpu *v = m->vcpu[i];
        vcpu_request(v, VCPU_REQ_EXIT);
        if (v->engine->kick)
            v->engine->kick(v);
        m->host->ops->wake(m->host->self, v->id);
    }
}

static bool shut_locked(const struct vm *vm, const struct vcpu *v)
{
    return vm->hold || vm->frozen >> v->id & 1;
}

// Park while the gate is closed to `v`. False: the machine has ended.
static bool pass_gate(struct vm *vm, const struct vcpu *v)
{
    pthread_mutex_lock(&vm->gate);
    if (shut_locked(vm, v)) {
        vm->running--;
        pthread_cond_signal(&vm->parked);
        while (shut_locked(vm, v))
            pthread_cond_wait(&vm->go, &vm->gate);
        vm->running++;
    }
    bool on = !vm->finished;
    pthread_mutex_unlock(&vm->gate);
    return on;
}

// The first event counts: another vCPU that meets the same reset has nothing to add.
static void post_event(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    u64 one = 1;

    pthread_mutex_lock(&vm->gate);
    if (!vm->has_event && !vm->finished) {
        vm->has_event = true;
        vm->event = *e;
        vm->event_vcpu = v->id;
        close_gate_locked(vm);
        if (write(vm->event_fd, &one, sizeof(one)) != sizeof(one))
            perror("pogo: eventfd");
    }
    pthread_mutex_unlock(&vm->gate);
}

// The user wants to end, but a vCPU's thread may be waiting for somebody to read its output: interrupt it.
static void hurry(struct vm *vm)
{
    for (size_t i = 0; i < ARRAY_LEN(vm->out); i++)
        atomic_store(&vm->out[i].hurry, true);
    for (unsigned i = 0; i < vm->threads; i++)
        pthread_kill(vm->thread[i], HURRY_SIGNAL);
}

static void wait_parked_locked(struct vm *vm)
{
    while (vm->running) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += HURRY_MS * 1000000l;
        until.tv_sec += until.tv_nsec / 1000000000l;
        until.tv_nsec %= 1000000000l;
        if (pthread_cond_timedwait(&vm->parked, &vm->gate, &until) == ETIMEDOUT && atomic_load(&vm->asked))
            hurry(vm);
    }
}

void vm_pause(struct vm *vm)
{
    pthread_mutex_lock(&vm->gate);
    close_gate_locked(vm);
    wait_parked_locked(vm);
    pthread_mutex_unlock(&vm->gate);
    lock_take(&vm->board->m.dev_lock);
    clock_stop(&vm->board->m.clock);
    lock_drop(&vm->board->m.dev_lock);
}

void vm_continue(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    lock_take(&m->dev_lock);
    clock_start(&m->clock);
    lock_drop(&m->dev_lock);
    for (unsigned i = 0; i < m->vcpu_count; i++)
        pvclock_update(m->vcpu[i]);
    m->host->ops->wake(m->host->self, HOST_WAITER_TIMER);
    pthread_mutex_lock(&vm->gate);
    vm->hold = false;
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
}

void vm_stop(struct vm *vm)
{
    if (!vm->stopped)
        vm_pause(vm);
    vm->stopped = true;
}

void vm_cont(struct vm *vm, u64 frozen)
{
    if (!vm->stopped)
        return;
    vm->stopped = false;
    pthread_mutex_lock(&vm->gate);
    vm->frozen = frozen;
    pthread_mutex_unlock(&vm->gate);
    vm_continue(vm);
}

// --- threads ------------------------------------------------------------------------------------------------------------------

struct vcpu_start {
    struct vm *vm;
    struct vcpu *v;
};

static void run_vcpu(struct vm *vm, struct vcpu *v)
{
    while (pass_gate(vm, v)) {
        struct vm_exit e = v->engine->run(v, SLICE);
        if (!vm_vcpu_exit(vm, v, &e))
            post_event(vm, v, &e);
    }
}

static void *vcpu_thread(void *arg)
{
    struct vcpu_start start = *(struct vcpu_start *)arg;

    free(arg);
    run_vcpu(start.vm, start.v);
    return NULL;
}

static void *timer_thread(void *arg)
{
    struct vm *vm = arg;
    struct machine *m = &vm->board->m;

    for (;;) {
        lock_take(&m->dev_lock);
        if (m->clock.running && !m->clock.icount)
            clock_run(&m->clock);
        u64 next = clock_host_deadline(&m->clock);
        lock_drop(&m->dev_lock);
        pthread_mutex_lock(&vm->gate);
        bool finished = vm->finished;
        pthread_mutex_unlock(&vm->gate);
        if (finished)
            return NULL;
        m->host->ops->wait(m->host->self, HOST_WAITER_TIMER, next);
    }
}

static int start_vcpu(struct vm *vm, struct vcpu *v)
{
    struct vcpu_start *start = malloc(sizeof(*start));

    if (!start)
        return ENOMEM;
    *start = (struct vcpu_start){vm, v};
    int ret = pthread_create(&vm->thread[vm->threads], NULL, vcpu_thread, start);
    if (ret) {
        free(start);
        return ret;
    }
    vm->threads++;
    vm->running++;
    return 0;
}

// All vCPUs start at a closed gate, so that either all run or, on an error, none has.
static int start_threads(struct vm *vm)
{
    struct machine *m = &vm->board->m;
    int ret = 0;

    pthread_mutex_lock(&vm->gate);
    vm->hold = true;
    for (unsigned i = 0; i < m->vcpu_count && !ret; i++)
        ret = start_vcpu(vm, m->vcpu[i]);
    if (!ret)
        ret = pthread_create(&vm->timer_thread, NULL, timer_thread, vm);
    if (ret)
        vm->finished = true;
    vm->hold = false;
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
    for (unsigned i = 0; ret && i < vm->threads; i++)
        pthread_join(vm->thread[i], NULL);
    return ret;
}

// Called by control when the machine has ended, its processors parked.
static void end_threads(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    pthread_mutex_lock(&vm->gate);
    vm->finished = true;
    vm->hold = false;
    vm->frozen = 0;
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
    m->host->ops->wake(m->host->self, HOST_WAITER_TIMER);
    for (unsigned i = 0; i < vm->threads; i++)
        pthread_join(vm->thread[i], NULL);
    pthread_join(vm->timer_thread, NULL);
}

// Handle the event that is waiting. False: the machine has ended.
static bool serve_event(struct vm *vm)
{
    struct machine *m = &vm->board->m;
    u64 count;

    if (read(vm->event_fd, &count, sizeof(count)) != sizeof(count))
        return true;
    if (!vm->stopped)
        vm_pause(vm);
    pthread_mutex_lock(&vm->gate);
    bool has_event = vm->has_event;
    struct vm_exit e = vm->event;
    struct vcpu *v = m->vcpu[vm->event_vcpu];
    vm->has_event = false;
    pthread_mutex_unlock(&vm->gate);
    bool on = !has_event || vm_control_exit(vm, v, &e);
    if (on && !vm->stopped)
        vm_continue(vm);
    return on;
}

// --- the user ---------------------------------------------------------------------------------------------------------------

// Make vCPU 0 look for input.
static void kick(struct vm *vm)
{
    struct vcpu *v = vm->board->m.vcpu[0];
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
    vm_cont(vm, 0);
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

static void listen_until_done(struct vm *vm, int signal_fd, bool read_stdin)
{
    struct key_filter filter = {.active = read_stdin && term_raw(STDIN_FILENO)};
    struct pollfd p[3] = {{.fd = vm->event_fd, .events = POLLIN},
                          {.fd = signal_fd, .events = POLLIN},
                          {.fd = STDIN_FILENO, .events = POLLIN}};
    bool open = read_stdin;

    for (;;) {
        bool ending = atomic_load(&vm->asked), full = open && !filter.active && !in_room(&vm->input);
        int ready;

        p[2].fd = open && !full ? STDIN_FILENO : -1;
        ready = poll(p, 3, ending ? HURRY_MS : full ? FULL_MS : -1);
        if (ready < 0)
            continue;
        if (ready == 0 && ending)
            hurry(vm);
        if (full)
            kick(vm);
        if ((p[0].revents & POLLIN) && !serve_event(vm))
            break;
        if (p[1].revents & POLLIN)
            serve_signal(vm, signal_fd);
        if (p[2].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
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
    int signal_fd = open_signals(&before), ret;

    vm->event_fd = eventfd(0, EFD_CLOEXEC);
    ret = signal_fd < 0 || vm->event_fd < 0 ? errno : start_threads(vm);
    if (ret) {
        error_format(&vm->error, "cannot start the processors' threads: %s; free some memory or processes",
                     strerror(ret));
        fail(vm, CMD_ERROR);
    } else {
        listen_until_done(vm, signal_fd, read_stdin);
        end_threads(vm);
        flush_output(vm);
    }
    if (signal_fd >= 0)
        close(signal_fd);
    if (vm->event_fd >= 0)
        close(vm->event_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return vm->status;
}
