// What each packet of gdb's remote protocol does. Replies are made in s->tx; a handler returns whether there is one to send now:
// orders to run are answered by the next stop.

#include "cli/gdb_session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/debug.h"
#include "core/mmu.h"

#define SIGNAL_INT 2 // in gdb's numbering
#define SIGNAL_TRAP 5
#define SIGNAL_SEGV 11

// --- replies ----------------------------------------------------------------------------------------------------------------

static void begin(struct gdb_session *s)
{
    s->tx.len = 0;
    s->tx.full = false;
}

static void send(struct gdb_session *s)
{
    s->last_len = gdb_frame(&s->tx, s->last);
    s->ops->send(s->self, s->last, s->last_len);
}

static bool reply_text(struct gdb_session *s, const char *text)
{
    begin(s);
    gdb_put_text(&s->tx, text);
    return true;
}

static bool reply_ok(struct gdb_session *s)
{
    return reply_text(s, "OK");
}

// What the protocol has for packets that a stub does not know.
static bool reply_unknown(struct gdb_session *s)
{
    return reply_text(s, "");
}

// `error`: a positive errno.
static bool reply_error(struct gdb_session *s, int error)
{
    char text[8];

    snprintf(text, sizeof(text), "E%02x", (unsigned)error & 0xff);
    return reply_text(s, text);
}

static bool reply_status(struct gdb_session *s, bool ok, int error)
{
    return ok ? reply_ok(s) : reply_error(s, error);
}

// --- threads ----------------------------------------------------------------------------------------------------------------

static struct vcpu *vcpu_of(struct gdb_session *s)
{
    return s->m->vcpu[s->cpu];
}

// A thread id: a vCPU's number, or -1 for all of them; 0 ("any") gives the current one.
static bool take_thread(struct gdb_session *s, struct gdb_text *t, i64 *cpu)
{
    u64 id;

    if (gdb_take_word(t, "-1")) {
        *cpu = -1;
        return true;
    }
    if (!gdb_take_number(t, &id) || id > s->m->vcpu_count)
        return false;
    *cpu = id ? (i64)id - 1 : s->cpu;
    return true;
}

static bool cmd_set_thread(struct gdb_session *s, struct gdb_text *t)
{
    bool memory = gdb_take_char(t, 'g');
    i64 cpu;

    if (!memory && !gdb_take_char(t, 'c'))
        return reply_unknown(s);
    if (!take_thread(s, t, &cpu))
        return reply_error(s, EINVAL);
    if (!memory)
        s->step_cpu = cpu;
    else if (cpu >= 0)
        s->cpu = (u32)cpu;
    return reply_ok(s);
}

static bool cmd_alive(struct gdb_session *s, struct gdb_text *t)
{
    i64 cpu;

    return reply_status(s, take_thread(s, t, &cpu), EINVAL);
}

// --- stopping and going on --------------------------------------------------------------------------------------------------

static void at_rest(struct gdb_session *s)
{
    s->running = false;
    for (unsigned i = 0; i < s->m->vcpu_count; i++) {
        struct vcpu *v = s->m->vcpu[i];
        v->debug_step = DEBUG_STEP_NONE;
        if (v->engine)
            v->engine->pull_state(v);
    }
}

static void halt(struct gdb_session *s)
{
    s->running = false; // nobody needs to tell of this stop
    s->ops->stop(s->self);
    at_rest(s);
}

static void put_watch(struct gdb_session *s, const struct vm_exit *e)
{
    u8 access = e->code == DEBUG_READ ? DEBUG_WATCH_READ : DEBUG_WATCH_WRITE;
    const struct debug_watch *w = debug_watch_hit(&s->m->debug, e->addr, 1, access);

    if (!w)
        return;
    gdb_put_text(&s->tx, w->access == DEBUG_WATCH_WRITE  ? "watch:"
                         : w->access == DEBUG_WATCH_READ ? "rwatch:"
                                                         : "awatch:");
    gdb_put_number(&s->tx, e->addr);
    gdb_put_char(&s->tx, ';');
}

static void put_break(struct gdb_session *s, const struct vm_exit *e)
{
    const struct debug_break *b = debug_break_at(&s->m->debug, e->addr);

    if (!b)
        return;
    if (b->kinds & DEBUG_BREAK_SOFT && s->knows_swbreak)
        gdb_put_text(&s->tx, "swbreak:;");
    else if (b->kinds & DEBUG_BREAK_HARD && s->knows_hwbreak)
        gdb_put_text(&s->tx, "hwbreak:;");
}

// The stop of the current vCPU; `e` may be NULL.
static bool reply_stop(struct gdb_session *s, unsigned signal, const struct vm_exit *e)
{
    char text[32];

    snprintf(text, sizeof(text), "T%02xthread:%x;", signal, s->cpu + 1);
    reply_text(s, text);
    if (!e || e->reason != VM_EXIT_DEBUG)
        return true;
    if (e->code == DEBUG_READ || e->code == DEBUG_WRITE)
        put_watch(s, e);
    else if (e->code == DEBUG_BREAK)
        put_break(s, e);
    return true;
}

void gdb_session_stopped(struct gdb_session *s, const struct vcpu *v, const struct vm_exit *e)
{
    if (!s->open || !s->running)
        return;
    at_rest(s);
    if (v)
        s->cpu = v->id;
    if (!s->awaited)
        return;
    reply_stop(s, !e ? SIGNAL_INT : e->reason == VM_EXIT_SHUTDOWN ? SIGNAL_SEGV : SIGNAL_TRAP, e);
    send(s);
}

static void changed(struct vcpu *v)
{
    if (v->engine)
        v->engine->push_state(v);
}

void gdb_session_continued(struct gdb_session *s)
{
    if (!s->open || s->running)
        return;
    s->running = true;
    s->awaited = false;
}

enum action { STAY, GO, STEP };

static bool resume(struct gdb_session *s, const u8 *action)
{
    u64 cpus = 0;

    for (unsigned i = 0; i < s->m->vcpu_count; i++) {
        struct vcpu *v = s->m->vcpu[i];
        v->debug_step = action[i] != STEP ? DEBUG_STEP_NONE : s->step_interrupts ? DEBUG_STEP_ANY : DEBUG_STEP_QUIET;
        cpus |= (u64)(action[i] != STAY) << i;
    }
    if (!cpus)
        return reply_error(s, EINVAL);
    s->running = s->awaited = true;
    s->ops->resume(s->self, cpus);
    return false;
}

// c [addr], s [addr], C sig[;addr], S sig[;addr]: the thread chosen by Hc, or all; a step is always one thread's. There are no
// signals that a processor could be given.
static bool run(struct gdb_session *s, struct gdb_text *t, bool step, bool has_signal)
{
    u8 action[MACHINE_MAX_VCPUS];
    u32 cpu = s->step_cpu >= 0 ? (u32)s->step_cpu : s->cpu;
    u64 signal, rip = s->m->vcpu[cpu]->cpu.rip;

    if (has_signal && !gdb_take_number(t, &signal))
        return reply_error(s, EINVAL);
    if (!gdb_at_end(t) && ((has_signal && !gdb_take_char(t, ';')) || !gdb_take_number(t, &rip) || !gdb_at_end(t)))
        return reply_error(s, EINVAL);
    s->m->vcpu[cpu]->cpu.rip = rip;
    changed(s->m->vcpu[cpu]);
    memset(action, s->step_cpu >= 0 ? STAY : GO, sizeof(action));
    action[cpu] = step ? STEP : GO;
    return resume(s, action);
}

static bool take_action(struct gdb_text *t, u8 *action)
{
    u64 signal;

    if (gdb_take_char(t, 'c'))
        *action = GO;
    else if (gdb_take_char(t, 's'))
        *action = STEP;
    else if (gdb_take_char(t, 'C') && gdb_take_number(t, &signal))
        *action = GO;
    else if (gdb_take_char(t, 'S') && gdb_take_number(t, &signal))
        *action = STEP;
    else
        return false;
    return true;
}

// vCont;action[:thread]...: of the actions that name a thread the first counts, and threads without one stay where they are.
static bool cmd_vcont(struct gdb_session *s, struct gdb_text *t)
{
    u8 action[MACHINE_MAX_VCPUS] = {0}, what;
    u64 chosen = 0;

    while (gdb_take_char(t, ';')) {
        i64 cpu = -1;
        if (!take_action(t, &what) || (gdb_take_char(t, ':') && !take_thread(s, t, &cpu)))
            return reply_error(s, EINVAL);
        for (unsigned i = 0; i < s->m->vcpu_count; i++) {
            if ((cpu >= 0 && cpu != i) || chosen >> i & 1)
                continue;
            action[i] = what;
            chosen |= 1ull << i;
        }
    }
    return gdb_at_end(t) ? resume(s, action) : reply_error(s, EINVAL);
}

// --- registers --------------------------------------------------------------------------------------------------------------

static bool cmd_read_registers(struct gdb_session *s)
{
    u8 buf[GDB_REG_MAX_SIZE];

    begin(s);
    for (unsigned i = 0; i < s->regs.count; i++) {
        gdb_reg_read(&s->regs.reg[i], vcpu_of(s), buf);
        gdb_put_hex(&s->tx, buf, s->regs.reg[i].size);
    }
    return true;
}

// Registers that cannot take the value keep theirs: gdb sends all of them to change one.
static bool cmd_write_registers(struct gdb_session *s, struct gdb_text *t)
{
    u8 buf[GDB_REG_MAX_SIZE];

    for (unsigned i = 0; i < s->regs.count; i++) {
        if (!gdb_take_hex(t, buf, s->regs.reg[i].size))
            return reply_error(s, EINVAL);
        gdb_reg_write(&s->regs.reg[i], vcpu_of(s), buf);
    }
    changed(vcpu_of(s));
    return reply_status(s, gdb_at_end(t), EINVAL);
}

static bool cmd_read_register(struct gdb_session *s, struct gdb_text *t)
{
    u8 buf[GDB_REG_MAX_SIZE];
    u64 n;

    if (!gdb_take_number(t, &n) || n >= s->regs.count)
        return reply_error(s, EINVAL);
    gdb_reg_read(&s->regs.reg[n], vcpu_of(s), buf);
    begin(s);
    gdb_put_hex(&s->tx, buf, s->regs.reg[n].size);
    return true;
}

static bool cmd_write_register(struct gdb_session *s, struct gdb_text *t)
{
    u8 buf[GDB_REG_MAX_SIZE];
    u64 n;

    if (!gdb_take_number(t, &n) || n >= s->regs.count || !gdb_take_char(t, '=') ||
        !gdb_take_hex(t, buf, s->regs.reg[n].size) || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    if (!gdb_reg_write(&s->regs.reg[n], vcpu_of(s), buf))
        return reply_error(s, EINVAL);
    changed(vcpu_of(s));
    return reply_ok(s);
}

// --- memory -----------------------------------------------------------------------------------------------------------------

static bool translate(struct gdb_session *s, u64 a, gpa *phys)
{
    const struct vcpu *v = vcpu_of(s);

    *phys = a;
    if (s->physical)
        return true;
    if (cpu_long_mode(&v->cpu) ? !gva_canonical(a) : a >> 32)
        return false;
    return mmu_peek(v, a, phys);
}

static size_t in_page(u64 a, size_t len)
{
    size_t room = MEM_PAGE_SIZE - (a & (MEM_PAGE_SIZE - 1));

    return len < room ? len : room;
}

// How many bytes from `a` could be read. Devices are not memory: reading them would change them.
static size_t read_memory(struct gdb_session *s, u64 a, u8 *buf, size_t len)
{
    size_t done = 0;
    gpa phys;

    while (done < len) {
        size_t n = in_page(a + done, len - done);
        if (!translate(s, a + done, &phys) || !mem_read(&s->m->mem, phys, buf + done, n))
            break;
        done += n;
    }
    return done;
}

static bool write_memory(struct gdb_session *s, u64 a, const u8 *buf, size_t len)
{
    gpa phys;

    for (size_t done = 0, n; done < len; done += n) {
        n = in_page(a + done, len - done);
        if (!translate(s, a + done, &phys) || !mem_write(&s->m->mem, phys, buf + done, n))
            return false;
    }
    return true;
}

static bool take_range(struct gdb_text *t, u64 *a, u64 *len)
{
    return gdb_take_number(t, a) && gdb_take_char(t, ',') && gdb_take_number(t, len);
}

static bool cmd_read_memory(struct gdb_session *s, struct gdb_text *t)
{
    u8 buf[GDB_PACKET_MAX / 2];
    u64 a, len;

    if (!take_range(t, &a, &len) || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    size_t n = read_memory(s, a, buf, len < sizeof(buf) ? len : sizeof(buf));
    if (!n && len)
        return reply_error(s, EFAULT);
    begin(s);
    gdb_put_hex(&s->tx, buf, n);
    return true;
}

static bool cmd_write_memory(struct gdb_session *s, struct gdb_text *t, bool raw)
{
    u8 buf[GDB_PACKET_MAX];
    u64 a, len;

    if (!take_range(t, &a, &len) || !gdb_take_char(t, ':') || len > sizeof(buf))
        return reply_error(s, EINVAL);
    if (raw ? !gdb_take_raw(t, buf, len) : !gdb_take_hex(t, buf, len) || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    return reply_status(s, write_memory(s, a, buf, len), EFAULT);
}

// --- breakpoints ------------------------------------------------------------------------------------------------------------

// Z and z: type,addr,kind. For breakpoints the kind means nothing here, for watchpoints it is the length. Removing what is not
// there is no error: a client may repeat itself.
static bool cmd_point(struct gdb_session *s, struct gdb_text *t, bool add)
{
    static const u8 access[] = {DEBUG_WATCH_WRITE, DEBUG_WATCH_READ, DEBUG_WATCH_READ | DEBUG_WATCH_WRITE};
    struct debug_points *d = &s->m->debug;
    u64 type, a, len;
    int ret;

    if (!gdb_take_number(t, &type) || !gdb_take_char(t, ',') || !take_range(t, &a, &len))
        return reply_error(s, EINVAL);
    if (type > 4)
        return reply_unknown(s);
    if (type < 2) {
        u8 kind = type ? DEBUG_BREAK_HARD : DEBUG_BREAK_SOFT;
        ret = add ? debug_add_break(d, a, kind) : debug_remove_break(d, a, kind);
    } else {
        ret = add ? debug_add_watch(d, a, len, access[type - 2]) : debug_remove_watch(d, a, len, access[type - 2]);
    }
    return reply_status(s, !ret || ret == -ENOENT, -ret);
}

// --- queries ----------------------------------------------------------------------------------------------------------------

static bool query_supported(struct gdb_session *s, struct gdb_text *t)
{
    s->knows_swbreak = memmem(t->p, (size_t)(t->end - t->p), "swbreak+", 8);
    s->knows_hwbreak = memmem(t->p, (size_t)(t->end - t->p), "hwbreak+", 8);
    reply_text(s, "PacketSize=");
    gdb_put_number(&s->tx, GDB_PACKET_MAX);
    gdb_put_text(&s->tx, ";qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+");
    return true;
}

static bool query_features(struct gdb_session *s, struct gdb_text *t)
{
    const u64 most = GDB_PACKET_MAX / 2 - 1; // should every byte need an escape
    u64 at, len;

    if (!gdb_take_word(t, "target.xml:") || !take_range(t, &at, &len) || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    if (at > s->regs.xml_len)
        return reply_error(s, EINVAL);
    u64 left = s->regs.xml_len - at;
    len = len < most ? len : most;
    begin(s);
    gdb_put_char(&s->tx, left > len ? 'm' : 'l');
    gdb_put_raw(&s->tx, s->regs.xml + at, left < len ? left : len);
    return true;
}

static bool query_threads(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    reply_text(s, "m");
    for (unsigned i = 0; i < s->m->vcpu_count; i++) {
        if (i)
            gdb_put_char(&s->tx, ',');
        gdb_put_number(&s->tx, i + 1);
    }
    return true;
}

static bool query_more_threads(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, "l");
}

static bool query_current(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    reply_text(s, "QC");
    gdb_put_number(&s->tx, s->cpu + 1);
    return true;
}

static bool query_thread_text(struct gdb_session *s, struct gdb_text *t)
{
    static const char *const names[] = {"running", "halted", "waiting for SIPI", "shut down"};
    char text[64];
    i64 cpu;

    if (!take_thread(s, t, &cpu) || cpu < 0)
        return reply_error(s, EINVAL);
    snprintf(text, sizeof(text), "CPU#%u [%s]", (unsigned)cpu, names[s->m->vcpu[cpu]->cpu.activity & 3]);
    begin(s);
    gdb_put_hex(&s->tx, text, strlen(text));
    return true;
}

static bool query_attached(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, "1");
}

static bool query_symbol(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_ok(s);
}

static bool query_monitor(struct gdb_session *s, struct gdb_text *t)
{
    char command[1024];
    size_t n = (size_t)(t->end - t->p) / 2;

    if (!s->ops->monitor)
        return reply_unknown(s);
    if (n >= sizeof(command))
        return reply_error(s, E2BIG);
    if (!gdb_take_hex(t, (u8 *)command, n) || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    command[n] = 0;
    s->ops->monitor(s->self, command);
    return reply_ok(s);
}

void gdb_session_print(struct gdb_session *s, const char *text, size_t len)
{
    while (s->open && len) {
        size_t n = len < GDB_PACKET_MAX / 2 - 1 ? len : GDB_PACKET_MAX / 2 - 1;
        reply_text(s, "O");
        gdb_put_hex(&s->tx, text, n);
        send(s);
        text += n;
        len -= n;
    }
}

static bool set_no_acks(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    s->no_acks = s->rx.no_sums = true;
    return reply_ok(s);
}

static bool query_physical(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, s->physical ? "1" : "0");
}

static bool set_physical(struct gdb_session *s, struct gdb_text *t)
{
    u64 on;

    if (!gdb_take_number(t, &on) || on > 1 || !gdb_at_end(t))
        return reply_error(s, EINVAL);
    s->physical = on;
    return reply_ok(s);
}

static bool query_step_bits(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, "ENABLE=1,NOIRQ=2");
}

static bool query_step(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, s->step_interrupts ? "0x1" : "0x3");
}

static bool set_step(struct gdb_session *s, struct gdb_text *t)
{
    u64 bits;

    gdb_take_word(t, "0x");
    if (!gdb_take_number(t, &bits) || !gdb_at_end(t) || (bits != 1 && bits != 3))
        return reply_error(s, EINVAL);
    s->step_interrupts = bits == 1;
    return reply_ok(s);
}

static bool query_cont(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    return reply_text(s, "vCont;c;C;s;S");
}

static bool cmd_kill(struct gdb_session *s, struct gdb_text *t)
{
    (void)t;
    reply_ok(s);
    send(s);
    s->ops->kill(s->self);
    return false;
}

// Packets with names. The first that fits counts.
static const struct {
    const char *name;
    bool (*handle)(struct gdb_session *s, struct gdb_text *rest);
    bool more; // something may follow
} named[] = {
    {"qSupported", query_supported, true},
    {"qXfer:features:read:", query_features, true},
    {"qfThreadInfo", query_threads, false},
    {"qsThreadInfo", query_more_threads, false},
    {"qThreadExtraInfo,", query_thread_text, true},
    {"qC", query_current, false},
    {"qAttached", query_attached, true},
    {"qSymbol:", query_symbol, true},
    {"qRcmd,", query_monitor, true},
    {"QStartNoAckMode", set_no_acks, false},
    {"qqemu.PhyMemMode", query_physical, false},
    {"Qqemu.PhyMemMode:", set_physical, true},
    {"qqemu.sstepbits", query_step_bits, false},
    {"qqemu.sstep", query_step, false},
    {"Qqemu.sstep=", set_step, true},
    {"vCont?", query_cont, false},
    {"vCont", cmd_vcont, true},
    {"vKill;", cmd_kill, true},
};

static bool cmd_named(struct gdb_session *s, struct gdb_text *t)
{
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        struct gdb_text rest = *t;
        if (gdb_take_word(&rest, named[i].name) && (named[i].more || gdb_at_end(&rest)))
            return named[i].handle(s, &rest);
    }
    return reply_unknown(s);
}

// --- the session ------------------------------------------------------------------------------------------------------------

// The machine is at rest: engines look at breakpoints and orders to step while they run.
static void let_go(struct gdb_session *s)
{
    debug_clear(&s->m->debug);
    at_rest(s);
    s->open = false;
    s->ops->resume(s->self, ~0ull >> (64 - s->m->vcpu_count));
}

static bool cmd_detach(struct gdb_session *s)
{
    reply_ok(s);
    send(s);
    if (s->open) // the client may have gone meanwhile
        let_go(s);
    s->ops->hang_up(s->self);
    return false;
}

static bool handle(struct gdb_session *s, struct gdb_text *t)
{
    u8 command = t->p < t->end ? *t->p : 0;
    struct gdb_text rest = {t->p + 1, t->end};

    switch (command) {
    case '?': return reply_stop(s, SIGNAL_TRAP, NULL);
    case 'g': return cmd_read_registers(s);
    case 'G': return cmd_write_registers(s, &rest);
    case 'p': return cmd_read_register(s, &rest);
    case 'P': return cmd_write_register(s, &rest);
    case 'm': return cmd_read_memory(s, &rest);
    case 'M': return cmd_write_memory(s, &rest, false);
    case 'X': return cmd_write_memory(s, &rest, true);
    case 'c':
    case 's': return run(s, &rest, command == 's', false);
    case 'C':
    case 'S': return run(s, &rest, command == 'S', true);
    case 'Z': return cmd_point(s, &rest, true);
    case 'z': return cmd_point(s, &rest, false);
    case 'H': return cmd_set_thread(s, &rest);
    case 'T': return cmd_alive(s, &rest);
    case 'D': return cmd_detach(s);
    case 'k': s->ops->kill(s->self); return false;
    case 'q':
    case 'Q':
    case 'v': return cmd_named(s, t);
    default: return reply_unknown(s);
    }
}

static void on_packet(struct gdb_session *s)
{
    struct gdb_text t = {s->rx.data, s->rx.data + s->rx.len};

    if (s->running)
        halt(s);
    if (handle(s, &t))
        send(s);
}

static void on_interrupt(struct gdb_session *s)
{
    if (!s->running)
        return;
    halt(s);
    if (!s->awaited)
        return;
    reply_stop(s, SIGNAL_INT, NULL);
    send(s);
}

static void acknowledge(struct gdb_session *s, const char *sign)
{
    if (!s->no_acks)
        s->ops->send(s->self, sign, 1);
}

void gdb_session_input(struct gdb_session *s, const u8 *buf, size_t len)
{
    for (size_t i = 0; i < len && s->open; i++) {
        switch (gdb_receive(&s->rx, buf[i])) {
        case GDB_RX_MORE: break;
        case GDB_RX_PACKET:
            acknowledge(s, "+");
            if (s->open) // the client may have gone meanwhile, and the machine goes on
                on_packet(s);
            break;
        case GDB_RX_BAD: acknowledge(s, "-"); break;
        case GDB_RX_OVERLONG:
            acknowledge(s, "+");
            reply_error(s, E2BIG);
            send(s);
            break;
        case GDB_RX_INTERRUPT: on_interrupt(s); break;
        case GDB_RX_NAK:
            if (!s->no_acks && s->last_len)
                s->ops->send(s->self, s->last, s->last_len);
            break;
        }
    }
}

void gdb_session_init(struct gdb_session *s, struct machine *m, const struct gdb_ops *ops, void *self)
{
    memset(s, 0, sizeof(*s));
    s->m = m;
    s->ops = ops;
    s->self = self;
    gdb_regs_init(&s->regs, m->vcpu[0]->model);
}

void gdb_session_open(struct gdb_session *s)
{
    s->open = true;
    s->no_acks = s->physical = s->step_interrupts = s->knows_swbreak = s->knows_hwbreak = false;
    s->rx.state = GDB_BETWEEN;
    s->rx.no_sums = false;
    s->cpu = 0;
    s->step_cpu = -1;
    s->last_len = 0;
    halt(s);
}

void gdb_session_close(struct gdb_session *s)
{
    if (!s->open)
        return;
    if (s->running)
        halt(s);
    let_go(s);
}

void gdb_session_ended(struct gdb_session *s, int status)
{
    char text[8];

    if (!s->open)
        return;
    if (s->running && s->awaited) {
        snprintf(text, sizeof(text), "W%02x", (unsigned)status & 0xff);
        reply_text(s, text);
        send(s);
    }
    s->open = s->running = false;
}
