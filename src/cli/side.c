// A machine for comparisons: building it, and running it to an exact count.
#include "cli/side.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/debug.h"

// A processor that is halted with interrupts off, with nothing but timers ticking, does not come back.
#define ASLEEP_NS 1000000000ull
// So many runs without one instruction: the guest faults for ever.
#define STUCK 10000

// --- the host -------------------------------------------------------------------------------------------------------------

static void *private_alloc(void *host, const char *name, u64 size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)host, (void)name;
    return p == MAP_FAILED ? NULL : p;
}

static void private_free(void *host, void *p, u64 size)
{
    (void)host;
    if (p)
        munmap(p, size);
}

// --- consoles -------------------------------------------------------------------------------------------------------------

static void keep_output(void *out, u8 byte)
{
    struct side_stream *t = out;

    if (t->len == t->room) {
        size_t room = t->room ? 2 * t->room : 4096;
        u8 *p = realloc(t->bytes, room);
        if (!p)
            abort();
        t->bytes = p;
        t->room = room;
    }
    t->bytes[t->len++] = byte;
    if (t == &t->side->stream[0])
        script_heard(&t->side->player, byte);
}

static int type(void *in)
{
    struct side_stream *t = in;

    return script_rx(&t->side->player);
}

static int no_input(void *in)
{
    (void)in;
    return -1;
}

// Which serial ports there are is as for `pogo run`; what they are connected to does not matter.
static void add_consoles(struct side *s, const struct run_options *o, struct pc_options *pc)
{
    for (unsigned i = 0; i < SIDE_STREAMS; i++)
        s->stream[i].side = s;
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        pc->serial[i] = i < o->serial_count ? o->serial[i].how != CHAR_NONE : !i && !o->serial_count && !o->nodefaults;
        pc->serial_peer[i] =
            (struct pc_peer){.tx = keep_output, .rx = i ? no_input : type, .out = &s->stream[i], .in = &s->stream[i]};
    }
    pc->debugcon = o->debugcon.how != CHAR_DEFAULT && o->debugcon.how != CHAR_NONE;
    pc->debugcon_base = 0xe9;
    pc->debugcon_peer = (struct pc_peer){.tx = keep_output, .out = &s->stream[PC_SERIALS]};
}

// --- life -----------------------------------------------------------------------------------------------------------------

int side_create(struct side *s, const struct run_options *o, const struct engine_ops *engine,
                const struct engine_tuning *tuning, const struct script *script, FILE *log, struct error *err)
{
    struct pc_options pc;
    int ret;

    s->engine = engine;
    linux_host_init(&s->host, o->log_mask, log, NULL);
    s->ops = *s->host.host.ops;
    s->ops.mem_alloc = s->ops.ram_alloc = private_alloc;
    s->ops.mem_free = private_free;
    s->host.host.ops = &s->ops;
    ret = images_open(&s->images, o, err);
    if (!ret)
        ret = board_model(o, s->host.host.tsc_hz, &s->model, err);
    if (ret)
        return ret;
    board_options(o, &s->images, &s->model, &pc);
    pc.engine = engine;
    pc.tuning = *tuning;
    add_consoles(s, o, &pc);
    ret = pc_create(&s->host.host, &pc, &s->board, err);
    if (!ret && script && script_start(&s->player, script, s->board))
        ret = error_set(err, -ENOSPC, "--input: no timer left for it; have fewer devices");
    if (!ret)
        ret = disks_create(&s->disks, o, s->board, err);
    if (!ret)
        ret = images_boot(&s->images, s->board, err);
    if (ret)
        return ret;
    s->v = s->board->m.vcpu[0];
    s->v->engine->push_state(s->v);
    return 0;
}

void side_destroy(struct side *s)
{
    disks_close(&s->disks);
    if (s->board)
        pc_destroy(s->board);
    images_close(&s->images);
    script_stop(&s->player);
    for (unsigned i = 0; i < SIDE_STREAMS; i++)
        free(s->stream[i].bytes);
    memset(s, 0, sizeof(*s));
}

// --- running --------------------------------------------------------------------------------------------------------------

static void end(struct side *s, const struct vm_exit *e)
{
    s->ended = true;
    s->exit = *e;
}

// Nobody types and nothing comes from outside: only a timer can wake the processor.
static void on_halt(struct side *s, const struct vm_exit *e)
{
    struct clock *k = &s->board->m.clock;
    bool open = s->v->cpu.rflags & X86_FL_IF && s->v->cpu.activity == CPU_HALTED;

    lock_take(&s->board->m.dev_lock);
    u64 ns = clock_idle_ns(k);
    if (ns != CLOCK_NEVER)
        clock_skip(k, ns);
    lock_drop(&s->board->m.dev_lock);
    s->asleep_ns = open ? 0 : s->asleep_ns + ns;
    if (ns == CLOCK_NEVER || s->asleep_ns > ASLEEP_NS)
        end(s, e);
}

static void on_reset(struct side *s, const struct vm_exit *e)
{
    struct error err;

    if (s->images.o->no_reboot) {
        end(s, e);
        return;
    }
    pc_reset(s->board);
    if (images_boot(&s->images, s->board, &err))
        end(s, &(struct vm_exit){.reason = VM_EXIT_ERROR, .message = "the kernel cannot be read again"});
    s->v->engine->push_state(s->v);
}

static void on_exit_of(struct side *s, const struct vm_exit *e)
{
    switch (e->reason) {
    case VM_EXIT_BUDGET:
        if (++s->stuck > STUCK)
            end(s, &(struct vm_exit){.reason = VM_EXIT_ERROR, .message = "no instruction retires any more"});
        break;
    case VM_EXIT_KICK:
    case VM_EXIT_DEBUG: break;
    case VM_EXIT_HALT: on_halt(s, e); break;
    case VM_EXIT_RESET: on_reset(s, e); break;
    default: end(s, e); break;
    }
}

void side_run(struct side *s, u64 target)
{
    struct vcpu *v = s->v;

    while (!s->ended && v->insns < target) {
        u64 before = v->insns;
        struct vm_exit e = machine_run(v, target - v->insns);
        if (v->insns != before)
            s->stuck = 0, s->asleep_ns = 0;
        on_exit_of(s, &e);
    }
    v->engine->pull_state(v);
}

// Is there something to deliver before the next instruction?
static bool event_due(const struct vcpu *v)
{
    const struct cpu *c = &v->cpu;
    u32 req = atomic_load(&v->request);

    if (c->event.type != CPU_EVENT_NONE)
        return true;
    if (c->shadow)
        return false;
    return ((c->nmi_pending || req & VCPU_REQ_NMIS) && !c->nmi_blocked) ||
           (req & VCPU_REQ_INTR && c->rflags & X86_FL_IF);
}

enum side_step side_step(struct side *s)
{
    struct vcpu *v = s->v;
    u64 before = v->insns;
    struct vm_exit e;

    if (s->ended)
        return SIDE_ENDED;
    e = machine_run(v, 0); // timers that are due
    v->engine->pull_state(v);
    bool event = e.reason == VM_EXIT_BUDGET && event_due(v);
    if (event)
        v->debug_step = DEBUG_STEP_ANY; // ends behind the delivery
    e = machine_run(v, 1);
    v->debug_step = DEBUG_STEP_NONE;
    v->engine->pull_state(v);
    if (v->insns != before)
        s->stuck = 0, s->asleep_ns = 0;
    on_exit_of(s, &e);
    if (s->ended)
        return SIDE_ENDED;
    if (e.reason == VM_EXIT_HALT)
        return SIDE_IDLE;
    if (v->insns != before)
        return SIDE_INSN;
    return event && v->cpu.event.type == CPU_EVENT_NONE ? SIDE_EVENT : SIDE_FAULT;
}

const char *side_end_name(const struct side *s)
{
    static const char *const names[VM_EXIT_COUNT] = {
        [VM_EXIT_HALT] = "it is halted for good",    [VM_EXIT_SHUTDOWN] = "a triple fault",
        [VM_EXIT_RESET] = "it asked for a reset",    [VM_EXIT_POWEROFF] = "it switched itself off",
        [VM_EXIT_ERROR] = "the engine cannot go on",
    };

    if (!s->ended)
        return "it has not ended";
    if (s->exit.reason == VM_EXIT_ERROR && s->exit.message)
        return s->exit.message;
    return names[s->exit.reason] ? names[s->exit.reason] : "an unexpected exit";
}
