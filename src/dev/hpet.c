// The HPET. For each comparator it is known when the counter will match next. A timer on the clock is armed for that moment where the match
// would be noticed by itself: for an edge interrupt that is enabled, or a level one whose status bit is still clear. Other matches
// are made up for at the next access.

#include "dev/hpet.h"

#include <stdio.h>

#define REG_CAPABILITIES 0x000
#define REG_CONFIG 0x010
#define REG_STATUS 0x020
#define REG_COUNTER 0x0f0
#define REG_TIMER 0x100
#define TIMER_STRIDE 0x20
#define TIMER_CONFIG 0x00
#define TIMER_CMP 0x08

#define CONFIG_ENABLE 1ull
#define CONFIG_LEGACY 2ull

// Timer configuration. Bits 63:32: the I/O APIC inputs that it may use.
#define T_LEVEL (1ull << 1)
#define T_ENABLE (1ull << 2)
#define T_PERIODIC (1ull << 3)
#define T_PERIODIC_CAP (1ull << 4)
#define T_64BIT_CAP (1ull << 5)
#define T_SET_VALUE (1ull << 6)
#define T_32BIT (1ull << 8)
#define T_ROUTE_MASK (31ull << 9)
#define T_ROUTE(config) ((config) >> 9 & 31)
#define T_WRITABLE 0x3f4eull // FSB delivery is not offered
#define T_PINS 0x00000004ull // input 2

#define FEMTOSECONDS (HPET_TICK_NS * 1000000ull)

static bool running(const struct hpet *h)
{
    return h->config & CONFIG_ENABLE;
}

static u64 counter_at(const struct hpet *h, u64 now)
{
    return running(h) ? h->base + (now - h->start) / HPET_TICK_NS : h->base;
}

static u64 counter(const struct hpet *h)
{
    return counter_at(h, clock_now(h->clock));
}

// Width of a comparator: what it sees of the counter.
static u64 width(const struct hpet_timer *t)
{
    return t->config & T_32BIT ? 0xffffffff : ~0ull;
}

static bool repeats(const struct hpet_timer *t)
{
    return (t->config & T_PERIODIC) && t->period;
}

// --- interrupts ---------------------------------------------------------------------------------------------------------------

// Wires by number: 0 none, then the inputs of the I/O APIC, then the legacy ones.
static struct irq_line line_of(const struct hpet *h, unsigned wire)
{
    return wire <= HPET_PINS ? h->pin[wire - 1] : h->legacy[wire - 1 - HPET_PINS];
}

// Where a timer's interrupts go at present.
static unsigned wire_of(const struct hpet_timer *t)
{
    if (!(t->config & T_ENABLE) || !running(t->hpet))
        return 0;
    if (hpet_legacy(t->hpet) && t->n < 2)
        return 1 + HPET_PINS + t->n;
    return T_PINS >> T_ROUTE(t->config) & 1 ? 1 + (unsigned)T_ROUTE(t->config) : 0;
}

static void release(struct hpet_timer *t)
{
    if (t->wire)
        irq_set(line_of(t->hpet, t->wire), false);
    t->wire = 0;
}

// A level interrupt holds its wire while its status bit is set, and only there.
static void drive(struct hpet_timer *t)
{
    unsigned wire = t->config & T_LEVEL && t->hpet->status >> t->n & 1 ? wire_of(t) : 0;

    if (wire == t->wire)
        return;
    release(t);
    t->wire = (u8)wire;
    if (wire)
        irq_set(line_of(t->hpet, wire), true);
}

// Wake up for the next match, if that can change anything that is not worked out at the next access as well.
static void arm(struct hpet_timer *t, u64 not_before_ns)
{
    struct clock *c = t->hpet->clock;
    bool wanted = t->config & T_LEVEL ? !(t->hpet->status >> t->n & 1) : wire_of(t) != 0;

    if (!wanted || t->due_ns == CLOCK_NEVER)
        clock_disarm(c, &t->timer);
    else
        clock_arm(c, &t->timer, t->due_ns > not_before_ns ? t->due_ns : not_before_ns);
}

// When will the counter be `ticks` further? Of 64 bits nobody sees the end.
static u64 time_of(const struct hpet *h, u64 now, u64 ticks)
{
    u64 begun = now - (now - h->start) % HPET_TICK_NS;

    return ticks > (CLOCK_NEVER - now) / HPET_TICK_NS - 1 ? CLOCK_NEVER : begun + ticks * HPET_TICK_NS;
}

// The next match by the comparator. One just behind the counter matches after a whole turn of it: 43 s with 32 bits.
static void plan(struct hpet_timer *t, u64 now)
{
    struct hpet *h = t->hpet;

    t->due_ns = running(h) ? time_of(h, now, (t->cmp - counter_at(h, now)) & width(t)) : CLOCK_NEVER;
}

// The counter has reached the comparator, or passed it.
static void match(struct hpet_timer *t, u64 now)
{
    struct hpet *h = t->hpet;
    u64 behind = (counter_at(h, now) - t->cmp) & width(t);

    if (repeats(t)) {
        // The next multiple after now: a starved host skips ticks rather than delivering them in a burst.
        u64 ahead = t->period - behind % t->period;
        t->cmp = (t->cmp + behind + ahead) & width(t);
        t->due_ns = time_of(h, now, ahead);
    } else { // again after a turn
        t->due_ns = width(t) == ~0ull ? CLOCK_NEVER : time_of(h, now, width(t) + 1 - behind);
    }
    if (t->config & T_LEVEL) {
        h->status |= 1ull << t->n;
        drive(t);
    } else if (wire_of(t)) {
        irq_pulse(line_of(h, wire_of(t)));
    }
}

static void fire(void *dev, u64 now)
{
    struct hpet_timer *t = dev;

    if (t->due_ns <= now)
        match(t, now);
    arm(t, now + CLOCK_MIN_PERIOD_NS);
}

// Make up for the matches that no timer was armed for, or that it was late for.
static void catch_up(struct hpet *h)
{
    u64 now = clock_now(h->clock);

    for (unsigned n = 0; n < HPET_TIMERS; n++)
        if (h->t[n].due_ns <= now) {
            match(&h->t[n], now);
            arm(&h->t[n], now + CLOCK_MIN_PERIOD_NS);
        }
}

// --- registers --------------------------------------------------------------------------------------------------------------

static struct hpet_timer *timer_at(struct hpet *h, u64 off)
{
    u64 n = (off - REG_TIMER) / TIMER_STRIDE;

    return off >= REG_TIMER && n < HPET_TIMERS ? &h->t[n] : NULL;
}

static u64 read64(struct hpet *h, u64 off)
{
    struct hpet_timer *t = timer_at(h, off);

    if (t) {
        switch ((off - REG_TIMER) % TIMER_STRIDE) {
        case TIMER_CONFIG: return t->config;
        case TIMER_CMP: return t->cmp;
        default: return 0;
        }
    }
    switch (off) {
    case REG_CAPABILITIES:
        // Period | vendor | legacy replacement | 64 bits | timers - 1 | revision
        return FEMTOSECONDS << 32 | 0x8086ull << 16 | 1 << 15 | 1 << 13 | (HPET_TIMERS - 1) << 8 | 1;
    case REG_CONFIG: return h->config;
    case REG_STATUS: return h->status;
    case REG_COUNTER: return counter(h);
    default: return 0;
    }
}

static void set_config(struct hpet *h, u64 val)
{
    bool switched = (h->config ^ val) & CONFIG_LEGACY;

    for (unsigned n = 0; n < HPET_TIMERS && switched; n++)
        release(&h->t[n]);
    h->config = val & (CONFIG_ENABLE | CONFIG_LEGACY);
    if (switched && h->switched)
        h->switched(h->board);
}

static void write_config(struct hpet *h, u64 val)
{
    bool was = running(h);
    u64 now = clock_now(h->clock), count = counter_at(h, now);

    set_config(h, val);
    h->base = count;
    h->start = was ? now - (now - h->start) % HPET_TICK_NS : now;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        if (running(h) != was)
            plan(&h->t[n], now);
        drive(&h->t[n]);
        arm(&h->t[n], 0);
    }
}

static void write_timer_config(struct hpet_timer *t, u64 val)
{
    u64 old = t->config;

    val = (old & ~T_WRITABLE) | (val & T_WRITABLE);
    if (!(T_PINS >> T_ROUTE(val) & 1)) // a route that it does not have does not stay
        val = (val & ~T_ROUTE_MASK) | (old & T_ROUTE_MASK);
    t->set_value = val & T_SET_VALUE;
    t->config = val & ~T_SET_VALUE;
    t->cmp &= width(t);
    t->period &= width(t);
    if ((old ^ t->config) & (T_32BIT | T_PERIODIC))
        plan(t, clock_now(t->hpet->clock));
    drive(t);
    arm(t, 0);
}

// Bits outside `mask` keep their values, each in the register that is written.
static void write_comparator(struct hpet_timer *t, u64 val, u64 mask)
{
    if (!(t->config & T_PERIODIC) || t->set_value)
        t->cmp = ((t->cmp & ~mask) | val) & width(t);
    if (t->config & T_PERIODIC)
        t->period = ((t->period & ~mask) | val) & width(t);
    t->set_value = false;
    plan(t, clock_now(t->hpet->clock));
    arm(t, 0);
}

static void write_status(struct hpet *h, u64 val)
{
    h->status &= ~val;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        drive(&h->t[n]);
        arm(&h->t[n], 0);
    }
}

// The bits of `mask` are written; `val` is zero elsewhere.
static void write_bits(struct hpet *h, u64 off, u64 val, u64 mask)
{
    struct hpet_timer *t = timer_at(h, off);
    u64 kept = read64(h, off) & ~mask;

    if (t) {
        switch ((off - REG_TIMER) % TIMER_STRIDE) {
        case TIMER_CONFIG: write_timer_config(t, kept | val); break;
        case TIMER_CMP: write_comparator(t, val, mask); break;
        }
        return;
    }
    switch (off) {
    case REG_CONFIG: write_config(h, kept | val); break;
    case REG_STATUS: write_status(h, val); break;
    case REG_COUNTER: // only while it stands
        if (!running(h))
            h->base = kept | val;
        break;
    default: break;
    }
}

// Registers are 64 bits wide and may be accessed by halves.
static u64 hpet_read(void *dev, u64 off, unsigned size)
{
    u64 shift = (off & 7) * 8, val;

    if (size < 4 || (off & (size - 1)))
        return 0;
    catch_up(dev);
    val = read64(dev, off & ~7ull) >> shift;
    return size == 4 ? (u32)val : val;
}

static void hpet_write(void *dev, u64 off, unsigned size, u64 val)
{
    u64 shift = (off & 7) * 8, mask = size == 4 ? 0xffffffffull << shift : ~0ull;

    if (size < 4 || (off & (size - 1)))
        return;
    catch_up(dev);
    write_bits(dev, off & ~7ull, val << shift & mask, mask);
}

void hpet_reset(struct hpet *h)
{
    set_config(h, 0);
    h->status = h->base = h->start = 0;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        drive(t);
        t->config = T_PERIODIC_CAP | T_64BIT_CAP | T_PINS << 32;
        t->cmp = ~0ull;
        t->period = 0;
        t->set_value = false;
        t->due_ns = CLOCK_NEVER;
        clock_disarm(h->clock, &t->timer);
    }
}

int hpet_init(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        t->hpet = h;
        t->n = n;
        t->timer.fire = fire;
        t->timer.dev = t;
        int ret = clock_add_timer(h->clock, &t->timer);
        if (ret)
            return ret;
    }
    hpet_reset(h);
    return 0;
}

static void reset(void *dev)
{
    hpet_reset(dev);
}

static void dump(void *dev, char *buf, size_t size)
{
    struct hpet *h = dev;
    size_t n = 0;

    n += (size_t)snprintf(buf, size, "config %llx status %llx counter %llu\n", (unsigned long long)h->config,
                          (unsigned long long)h->status, (unsigned long long)counter(h));
    for (unsigned i = 0; i < HPET_TIMERS && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "timer %u: config %llx comparator %llu period %llu\n", i,
                              (unsigned long long)h->t[i].config, (unsigned long long)h->t[i].cmp,
                              (unsigned long long)h->t[i].period);
}

const struct dev_ops hpet_ops = {.name = "hpet", .reset = reset, .read = hpet_read, .write = hpet_write, .dump = dump};
