// The HPET. Each comparator has a timer on the clock, armed for the moment at which the counter will match.

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
    return running(h) ? (now - h->start) / HPET_TICK_NS : h->stopped;
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

static void set_line(struct hpet_timer *t, bool level)
{
    struct hpet *h = t->hpet;

    if (hpet_legacy(h) && t->n < 2)
        irq_set(h->legacy[t->n], level);
    else
        irq_set(h->pin[T_ROUTE(t->config) % HPET_PINS], level);
}

static void arm(struct hpet_timer *t)
{
    struct hpet *h = t->hpet;
    u64 now, ticks;

    if (!running(h) || !(t->config & T_ENABLE)) {
        clock_disarm(h->clock, &t->timer);
        return;
    }
    now = clock_now(h->clock);
    ticks = (t->cmp - counter_at(h, now)) & width(t);
    // A comparator just behind the counter matches after a whole turn of it: 43 s with 32 bits. Of 64 bits nobody sees the end.
    if (ticks > (CLOCK_NEVER - now) / HPET_TICK_NS - 1)
        clock_disarm(h->clock, &t->timer);
    else
        clock_arm(h->clock, &t->timer, now + ticks * HPET_TICK_NS);
}

static void match(void *dev, u64 now)
{
    struct hpet_timer *t = dev;
    struct hpet *h = t->hpet;

    if (t->config & T_PERIODIC && t->period) {
        // The next multiple after now: a starved host skips ticks rather than delivering them in a burst.
        u64 behind = (counter_at(h, now) - t->cmp) & width(t);
        t->cmp = (t->cmp + (behind / t->period + 1) * t->period) & width(t);
    } else if (t->config & T_PERIODIC || width(t) != ~0ull) {
        // Nothing to add: it matches again after a turn, which a tick from now still is.
        clock_disarm(h->clock, &t->timer);
        if (width(t) != ~0ull)
            clock_arm(h->clock, &t->timer, now + (1ull << 32) * HPET_TICK_NS);
    }
    if (t->config & T_PERIODIC && t->period)
        arm(t);
    if (t->config & T_LEVEL) {
        h->status |= 1ull << t->n;
        set_line(t, true);
    } else {
        set_line(t, true);
        set_line(t, false);
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

static void write_config(struct hpet *h, u64 val)
{
    bool was = running(h);
    u64 now = clock_now(h->clock), count = counter_at(h, now);

    h->config = val & (CONFIG_ENABLE | CONFIG_LEGACY);
    if (running(h) && !was)
        h->start = now - h->stopped * HPET_TICK_NS;
    if (!running(h) && was)
        h->stopped = count;
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        arm(&h->t[n]);
}

static void write_timer(struct hpet_timer *t, u64 reg, u64 val)
{
    if (reg == TIMER_CONFIG) {
        struct hpet *h = t->hpet;
        if (h->status >> t->n & 1) { // the line follows its timer
            set_line(t, false);
            h->status &= ~(1ull << t->n);
        }
        t->config = (t->config & ~T_WRITABLE) | (val & T_WRITABLE & ~T_SET_VALUE);
        t->set_value = val & T_SET_VALUE;
        t->cmp &= width(t);
    } else if (reg == TIMER_CMP) {
        val &= width(t);
        if (!(t->config & T_PERIODIC) || t->set_value)
            t->cmp = val;
        if (t->config & T_PERIODIC)
            t->period = val;
        t->set_value = false;
    }
    arm(t);
}

static void write64(struct hpet *h, u64 off, u64 val)
{
    struct hpet_timer *t = timer_at(h, off);

    if (t) {
        write_timer(t, (off - REG_TIMER) % TIMER_STRIDE, val);
        return;
    }
    switch (off) {
    case REG_CONFIG: write_config(h, val); break;
    case REG_STATUS:
        for (unsigned n = 0; n < HPET_TIMERS; n++)
            if (h->status & val & 1ull << n)
                set_line(&h->t[n], false);
        h->status &= ~val;
        break;
    case REG_COUNTER: // only while it stands
        if (!running(h))
            h->stopped = val;
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
    val = read64(dev, off & ~7ull) >> shift;
    return size == 4 ? (u32)val : val;
}

static void hpet_write(void *dev, u64 off, unsigned size, u64 val)
{
    u64 reg = off & ~7ull, old;

    if (size < 4 || (off & (size - 1)))
        return;
    if (size == 4) {
        u64 mask = 0xffffffffull << (off & 7) * 8;
        struct hpet_timer *t = timer_at(dev, reg);
        // A write of half a comparator keeps the other half of what is being written: the period's, where there is one.
        old = t && (reg - REG_TIMER) % TIMER_STRIDE == TIMER_CMP && t->config & T_PERIODIC && !t->set_value ? t->period
              : reg == REG_STATUS                                                                           ? 0
                                  : read64(dev, reg);
        val = (old & ~mask) | (val << (off & 7) * 8 & mask);
    }
    write64(dev, reg, val);
}

void hpet_reset(struct hpet *h)
{
    h->config = h->status = h->stopped = h->start = 0;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        t->config = T_PERIODIC_CAP | T_64BIT_CAP | T_PINS << 32;
        t->cmp = ~0ull;
        t->period = 0;
        t->set_value = false;
        clock_disarm(h->clock, &t->timer);
    }
}

int hpet_init(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        t->hpet = h;
        t->n = n;
        t->timer.fire = match;
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
