// Running a machine.
//
// A vCPU's thread runs its engine until an exit needs control; then it leaves the exit as the event, has everybody park, and
// parks too. Control handles the event with the machine at rest and lets all go on, or ends it. Timers fire in a thread of their
// own, so that a busy or halted processor is interrupted on time.
//
// Control serves everything else by an event loop. It touches devices with the device lock, which nobody holds while he waits for
// something outside, so the user can always end the machine. Output goes through the rings of host/chardev.h; a processor whose guest
// fills one faster than it is read pauses here, in its own thread.

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
#include "cli/gdbstub.h"
#include "cli/report.h"
#include "core/pvclock.h"
#include "host/term.h"

#define SLICE 50000 // instructions: about a millisecond

// How long the end waits for a reader who takes nothing: the guest's end, the user's.
#define DRAIN_MS 10000
#define DRAIN_ASKED_MS 200

static bool fail(struct vm *vm, int status)
{
    vm->has_error = true;
    vm->status = status;
    return false;
}

static void keep_report(struct vm *vm, const struct vcpu *v)
{
    FILE *out = fmemopen(vm->report, sizeof(vm->report), "w");

    if (!out)
        return;
    report_cpu(out, v);
    fclose(out);
}

// --- exits that a vCPU's thread handles itself ----------------------------------------------------------------------------

static bool on_slice(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    (void)vm, (void)v, (void)e;
    return true;
}

// A device whose output nobody reads is nearly full: wait until it is not, but not for good, and not when control wants this thread
// to park.
static void wait_for_reader(struct vm *vm)
{
    struct timespec until;
    int late = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CHARDEV_PATIENCE_MS / 1000;
    pthread_mutex_lock(&vm->gate);
    while (!late && !vm->hold && !vm->finished && atomic_load(&vm->chars.stalls))
        late = pthread_cond_clockwait(&vm->go, &vm->gate, CLOCK_MONOTONIC, &until);
    pthread_mutex_unlock(&vm->gate);
    if (late)
        chardevs_give_up(&vm->chars);
}

static bool on_kick(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    (void)v, (void)e;
    if (atomic_load(&vm->chars.stalls))
        wait_for_reader(vm);
    return true;
}

// With icount, no instruction takes virtual time to the next deadline while the processor is halted. It is put forward instead: at once,
// or as long as that really takes. Somebody outside may end the wait, or arm a nearer timer meanwhile. False: there is no deadline.
static bool pass_idle_time(struct vm *vm, struct vcpu *v, bool sleep)
{
    struct machine *m = &vm->board->m;
    struct host *h = m->host;

    lock_take(&m->dev_lock);
    u64 ns = clock_idle_ns(&m->clock);
    lock_drop(&m->dev_lock);
    if (ns == CLOCK_NEVER)
        return false;
    if (sleep && ns) {
        u64 start = h->ops->now_ns(h->self);
        h->ops->wait(h->self, v->id, start + ns < start ? CLOCK_NEVER : start + ns);
        u64 passed = h->ops->now_ns(h->self) - start;
        ns = passed < ns ? passed : ns;
    }
    lock_take(&m->dev_lock);
    u64 left = clock_idle_ns(&m->clock);
    clock_skip(&m->clock, ns < left ? ns : left);
    lock_drop(&m->dev_lock);
    return true;
}

// A halted processor sleeps until a request that can wake it.
static bool on_halt(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    struct machine *m = &vm->board->m;
    bool open = v->cpu.rflags & X86_FL_IF && v->cpu.activity == CPU_HALTED;
    u32 wakes = open ? ~0u : ~VCPU_REQ_INTR;

    (void)e;
    if (v->cpu.activity == CPU_WAIT_SIPI)
        wakes &= ~VCPU_REQ_NMIS;
    if (atomic_load(&v->request) & wakes)
        return true;
    // A processor that hardly anything can wake again must not keep the host's busy.
    if (m->clock.icount && pass_idle_time(vm, v, vm->icount_sleep || !open))
        return true;
    // Others need not wait for one that sleeps to give up its translations: it has none that it uses.
    atomic_store(&v->tlb_queue.asleep, true);
    m->host->ops->wait(m->host->self, v->id, CLOCK_NEVER);
    atomic_store(&v->tlb_queue.asleep, false);
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
    if (gdb_stopped(vm->gdb, v, e)) {
        vm_stop(vm);
        return true;
    }
    v->engine->pull_state(v);
    chardevs_flush(&vm->chars);
    error_format(&vm->error,
                 "triple fault: the guest's processor has shut down (see the state above; -d int logs what led to it)");
    keep_report(vm, v);
    return fail(vm, CMD_TRIPLE_FAULT);
}

static bool on_poweroff(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    (void)v;
    // A nonzero code is the debug exit's.
    if (vm->no_shutdown && !e->code) {
        machine_resume(&vm->board->m);
        vm->off = true;
        vm_stop(vm);
        return true;
    }
    vm->status = e->code;
    return false;
}

static bool on_reset(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    struct pc *b = vm->board;

    (void)v, (void)e;
    if (vm->no_reboot) {
        vm->status = CMD_OK;
        return false;
    }
    pc_reset(b);
    vm->off = false;
    if (vm->boot && vm->boot(vm->boot_arg, b, &vm->error))
        return fail(vm, CMD_ERROR);
    b->m.vcpu[0]->engine->push_state(b->m.vcpu[0]);
    return true;
}

// When nobody listens any more, the breakpoint is gone, too.
static bool on_debug(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    if (gdb_stopped(vm->gdb, v, e))
        vm_stop(vm);
    return true;
}

static bool on_error(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    v->engine->pull_state(v);
    error_format(&vm->error, "the %s engine cannot go on: %s", v->engine->name,
                 e->message ? e->message : "no reason given");
    keep_report(vm, v);
    return fail(vm, CMD_ERROR);
}

static bool (*const control_handlers[VM_EXIT_COUNT])(struct vm *vm, struct vcpu *v, const struct vm_exit *e) = {
    [VM_EXIT_BUDGET] = on_error,      [VM_EXIT_KICK] = on_error,  [VM_EXIT_HALT] = on_error,
    [VM_EXIT_SHUTDOWN] = on_shutdown, [VM_EXIT_RESET] = on_reset, [VM_EXIT_POWEROFF] = on_poweroff,
    [VM_EXIT_DEBUG] = on_debug,       [VM_EXIT_ERROR] = on_error,
};

bool vm_control_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e)
{
    return control_handlers[e->reason](vm, v, e);
}

// --- the gate ---------------------------------------------------------------------------------------------------------------

// Make the vCPU leave its engine soon.
static void kick(struct vcpu *v)
{
    vcpu_request(v, VCPU_REQ_EXIT);
    if (v->engine->kick)
        v->engine->kick(v);
}

// Called with the gate locked: make every vCPU look at it.
static void close_gate_locked(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    vm->hold = true;
    pthread_cond_broadcast(&vm->go); // for who waits for a reader
    for (unsigned i = 0; i < m->vcpu_count; i++) {
        kick(m->vcpu[i]);
        m->host->ops->wake(m->host->self, m->vcpu[i]->id);
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

// Breakpoints are met again when the vCPU goes on, but a watched access has happened.
static void keep_watch_hit_locked(struct vm *vm, unsigned cpu, const struct vm_exit *e)
{
    if (e->reason != VM_EXIT_DEBUG || (e->code != DEBUG_READ && e->code != DEBUG_WRITE))
        return;
    vm->missed |= 1ull << cpu;
    vm->missed_hit[cpu] = *e;
}

bool vm_take_missed(struct vm *vm, u64 cpus, unsigned *cpu, struct vm_exit *e)
{
    pthread_mutex_lock(&vm->gate);
    u64 which = vm->missed & cpus;
    if (which) {
        *cpu = (unsigned)__builtin_ctzll(which);
        *e = vm->missed_hit[*cpu];
        vm->missed &= ~(1ull << *cpu);
    }
    pthread_mutex_unlock(&vm->gate);
    return which;
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
        if (write(vm->event_watch.fd, &one, sizeof(one)) != sizeof(one))
            perror("pogo: eventfd");
    } else {
        keep_watch_hit_locked(vm, v->id, e);
    }
    pthread_mutex_unlock(&vm->gate);
}

void vm_pause(struct vm *vm)
{
    if (vm->pauses++)
        return;
    pthread_mutex_lock(&vm->gate);
    close_gate_locked(vm);
    while (vm->running)
        pthread_cond_wait(&vm->parked, &vm->gate);
    pthread_mutex_unlock(&vm->gate);
    lock_take(&vm->board->m.dev_lock);
    clock_stop(&vm->board->m.clock);
    lock_drop(&vm->board->m.dev_lock);
}

void vm_continue(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    if (--vm->pauses)
        return;
    lock_take(&m->dev_lock);
    clock_start(&m->clock);
    lock_drop(&m->dev_lock);
    // The TSC went on.
    for (unsigned i = 0; i < m->vcpu_count && !m->clock.icount; i++) {
        pvclock_update(m->vcpu[i]);
        pvclock_held_up(m->vcpu[i]);
    }
    m->host->ops->wake(m->host->self, HOST_WAITER_TIMER);
    pthread_mutex_lock(&vm->gate);
    vm->hold = false;
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
}

void vm_stop(struct vm *vm)
{
    if (vm->stopped)
        return;
    vm_pause(vm);
    vm->stopped = true;
    // What a debugger's breakpoint has to tell is overtaken.
    pthread_mutex_lock(&vm->gate);
    if (vm->has_event && vm->event.reason == VM_EXIT_DEBUG) {
        vm->has_event = false;
        keep_watch_hit_locked(vm, vm->event_vcpu, &vm->event);
    }
    pthread_mutex_unlock(&vm->gate);
    gdb_stopped(vm->gdb, NULL, NULL);
}

void vm_cont(struct vm *vm, u64 frozen)
{
    if (!vm->stopped)
        return;
    vm->stopped = vm->off = false;
    gdb_continued(vm->gdb);
    pthread_mutex_lock(&vm->gate);
    vm->frozen = frozen;
    pthread_mutex_unlock(&vm->gate);
    vm_continue(vm);
}

enum vm_state vm_state(const struct vm *vm)
{
    if (vm->loop.end)
        return VM_ENDED;
    return vm->off ? VM_OFF : vm->stopped ? VM_STOPPED : VM_RUNNING;
}

void vm_quit(struct vm *vm, int status)
{
    if (!vm->loop.end && !vm->chars.draining)
        vm->status = status;
    vm->asked = vm->loop.end = true;
}

void vm_reset(struct vm *vm)
{
    vm_pause(vm);
    if (!on_reset(vm, vm->board->m.vcpu[0], NULL))
        vm->loop.end = true;
    vm_continue(vm);
}

// --- character devices ----------------------------------------------------------------------------------------------------

// With the device lock held: a processor is filling a ring.
static void on_stall(void *arg)
{
    struct vm *vm = arg;

    for (unsigned i = 0; i < vm->board->m.vcpu_count; i++)
        kick(vm->board->m.vcpu[i]);
}

static void on_unstall(void *arg)
{
    struct vm *vm = arg;

    pthread_mutex_lock(&vm->gate);
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
}

static void on_quit_key(void *arg)
{
    vm_quit(arg, CMD_OK);
}

// What any program in a pipeline does, unless it was started to do otherwise; but the guest's own end counts.
static void on_broken(void *arg)
{
    struct vm *vm = arg;

    if (vm->chars.pipe_ignored || vm->chars.draining || vm->loop.end)
        return;
    error_format(&vm->error,
                 "standard output: its reader has gone; to go on without one, start pogo with SIGPIPE ignored "
                 "(trap '' PIPE) or send the guest's output elsewhere (-serial)");
    vm->has_error = true;
    vm_quit(vm, 128 + SIGPIPE);
}

static void on_waits(void *arg, const struct chardev *c, const char *option)
{
    (void)arg;
    fprintf(stderr, "pogo: -%s %s: waiting for a connection\n", option, c->name);
}

static void tell_line(struct vm_line *l, void (*what)(struct pc *b, unsigned n))
{
    struct pc *b = l->vm->board;

    if (!b)
        return; // not built yet
    lock_take(&b->m.dev_lock);
    what(b, l->n);
    lock_drop(&b->m.dev_lock);
}

static void on_line_input(void *arg)
{
    tell_line(arg, pc_serial_input);
}

static void on_line_room(void *arg)
{
    tell_line(arg, pc_serial_room);
}

static void on_line_event(void *arg, enum chardev_event e)
{
    if (e == CHARDEV_BREAK)
        tell_line(arg, pc_serial_break);
}

struct pc_peer vm_peer(struct vm *vm, unsigned n)
{
    struct vm_line *l = n == PC_SERIALS ? &vm->debugcon : &vm->serial[n];

    return (struct pc_peer){
        .tx = chardev_put, .rx = chardev_get, .room = chardev_room, .out = &l->front, .in = &l->front};
}

static void init_lines(struct vm *vm)
{
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        struct vm_line *l = &vm->serial[i];
        l->vm = vm;
        l->n = i;
        l->front.arg = l;
        l->front.input = on_line_input;
        l->front.room = on_line_room;
        l->front.event = on_line_event;
    }
    vm->debugcon.vm = vm;
    vm->debugcon.front.no_input = true;
}

// --- threads ------------------------------------------------------------------------------------------------------------------

struct vcpu_start {
    struct vm *vm;
    struct vcpu *v;
};

static void run_vcpu(struct vm *vm, struct vcpu *v)
{
    while (pass_gate(vm, v)) {
        struct vm_exit e = machine_run(v, vm->board->m.clock.icount ? SLICE : ENGINE_NO_BUDGET);
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
    vm->hold = !ret && vm->pauses;
    pthread_cond_broadcast(&vm->go);
    pthread_mutex_unlock(&vm->gate);
    for (unsigned i = 0; ret && i < vm->threads; i++)
        pthread_join(vm->thread[i], NULL);
    return ret;
}

static void end_threads(struct vm *vm)
{
    struct machine *m = &vm->board->m;

    if (!vm->pauses)
        vm_pause(vm);
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

// Handle the event that is waiting.
static void serve_event(void *arg, short revents)
{
    struct vm *vm = arg;
    struct machine *m = &vm->board->m;
    u64 count;

    (void)revents;
    if (read(vm->event_watch.fd, &count, sizeof(count)) != sizeof(count) || vm->finished)
        return;
    vm_pause(vm);
    pthread_mutex_lock(&vm->gate);
    bool has_event = vm->has_event;
    struct vm_exit e = vm->event;
    struct vcpu *v = m->vcpu[vm->event_vcpu];
    vm->has_event = false;
    pthread_mutex_unlock(&vm->gate);
    if (has_event && !vm_control_exit(vm, v, &e))
        vm->loop.end = true;
    else
        vm_continue(vm);
}

// --- signals ----------------------------------------------------------------------------------------------------------------

// A signal that asks the process to end gives the status that the shell expects. SIGTSTP, SIGCONT: the terminal is somebody else's
// while the process is stopped.
static void serve_signal(void *arg, short revents)
{
    struct vm *vm = arg;
    struct machine *m = &vm->board->m;
    struct signalfd_siginfo info;

    (void)revents;
    if (read(vm->signal_watch.fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        term_restore();
        raise(SIGSTOP);
    } else if (info.ssi_signo == SIGCONT) {
        chardevs_raw(&vm->chars);
        // No timer may have been due meanwhile.
        lock_take(&m->dev_lock);
        if (!m->clock.icount)
            m->clock.held_up(m->clock.owner);
        lock_drop(&m->dev_lock);
    } else {
        vm_quit(vm, 128 + (int)info.ssi_signo);
    }
}

// Signals that end the process come through a descriptor, so that output and logs are complete. Who started pogo with one of
// them ignored (nohup, a shell's background job) wants it to stay so. Blocks them; returns the descriptor or -1.
static int open_signals(sigset_t *before)
{
    static const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT};
    struct sigaction now;
    sigset_t wanted;

    sigemptyset(&wanted);
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        if (!sigaction(ours[i], NULL, &now) && now.sa_handler != SIG_IGN)
            sigaddset(&wanted, ours[i]);
    pthread_sigmask(SIG_BLOCK, &wanted, before);
    return signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
}

// --- life -------------------------------------------------------------------------------------------------------------------

int vm_init(struct vm *vm, struct error *err)
{
    pthread_mutex_init(&vm->gate, NULL);
    pthread_cond_init(&vm->parked, NULL);
    pthread_cond_init(&vm->go, NULL);
    vm->event_watch = (struct loop_watch){.fd = -1, .events = POLLIN, .ready = serve_event, .arg = vm};
    vm->signal_watch = (struct loop_watch){.fd = -1, .events = POLLIN, .ready = serve_signal, .arg = vm};
    int ret = chardevs_init(&vm->chars, &vm->loop);
    vm->chars.stall = on_stall;
    vm->chars.unstall = on_unstall;
    vm->chars.quit = on_quit_key;
    vm->chars.broken = on_broken;
    vm->chars.waits = on_waits;
    vm->chars.arg = vm;
    init_lines(vm);
    return ret ? error_set(err, ret, "cannot make an event descriptor: %s", strerror(-ret)) : 0;
}

void vm_fini(struct vm *vm)
{
    gdb_close(vm->gdb);
    chardevs_fini(&vm->chars);
    pthread_cond_destroy(&vm->go);
    pthread_cond_destroy(&vm->parked);
    pthread_mutex_destroy(&vm->gate);
}

static void report_losses(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->chars.count; i++)
        if (vm->chars.dev[i]->dropped)
            fprintf(stderr, "pogo: %s: %llu bytes of output were lost: they could not be written\n",
                    vm->chars.dev[i]->name, (unsigned long long)vm->chars.dev[i]->dropped);
}

static void control(struct vm *vm)
{
    loop_add(&vm->loop, &vm->event_watch);
    loop_add(&vm->loop, &vm->signal_watch);
    chardevs_raw(&vm->chars);
    loop_run(&vm->loop);
    end_threads(vm);
    gdb_ended(vm->gdb, vm->status);
    vm->loop.end = false;
    chardevs_drain(&vm->chars, vm->asked ? DRAIN_ASKED_MS : DRAIN_MS);
    loop_remove(&vm->loop, &vm->event_watch);
    loop_remove(&vm->loop, &vm->signal_watch);
    term_restore();
}

int vm_run(struct vm *vm)
{
    sigset_t before;
    int ret;

    vm->signal_watch.fd = open_signals(&before);
    vm->event_watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = vm->signal_watch.fd < 0 || vm->event_watch.fd < 0 ? errno : start_threads(vm);
    if (ret) {
        error_format(&vm->error, "cannot start the processors' threads: %s; free some memory or processes",
                     strerror(ret));
        fail(vm, CMD_ERROR);
    } else {
        control(vm);
    }
    if (vm->signal_watch.fd >= 0)
        close(vm->signal_watch.fd);
    if (vm->event_watch.fd >= 0)
        close(vm->event_watch.fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    fputs(vm->report, stderr);
    report_losses(vm);
    return vm->status;
}
