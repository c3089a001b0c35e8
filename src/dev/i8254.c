// 8254: three counters whose value is computed from the time when somebody looks. Only channel 0's output has listeners, so
// only it has a timer, armed for the next rising edge.
//
// A count that is written waits in the count register for a pulse of CLK to take it to the counting element: the next one in modes 0
// and 4, and for the first count after a control word in modes 2 and 3; the one after a rising gate in modes 1, 2, 3 and 5; else the
// last one of the running period (mode 2) or half cycle (mode 3). With N the count and t the pulses since, the output is
//   mode 0  low while t < N, then high          mode 3  high for (N+1)/2 pulses, low for N/2, and again
//   mode 1  the same                            mode 4  low only for t = N
//   mode 2  low for t = N-1, then again         mode 5  the same
// Every access first brings its channel up to the time; so between two accesses there is at most one count that waits.

#include "dev/i8254.h"

#include <stdio.h>

#define NS_PER_S 1000000000ull

#define PORT61_GATE 0x01
#define PORT61_REFRESH 0x10
#define PORT61_OUT 0x20

#define STATUS_OUT 0x80
#define STATUS_NULL 0x40

static u64 to_ticks(u64 ns)
{
    return (u64)((unsigned __int128)ns * I8254_HZ / NS_PER_S);
}

// Nanoseconds after which `ticks` are complete.
static u64 to_ns(u64 ticks)
{
    return (u64)(((unsigned __int128)ticks * NS_PER_S + I8254_HZ - 1) / I8254_HZ);
}

static u64 tick_now(const struct i8254 *t)
{
    return to_ticks(clock_now(t->clock));
}

// 1 low byte, 2 high byte, 3 low then high.
static unsigned access_of(const struct i8254_channel *c)
{
    return c->control >> 4 & 3;
}

// 0..5: bit 2 is ignored in modes 2 and 3.
static unsigned mode_of(const struct i8254_channel *c)
{
    unsigned mode = c->control >> 1 & 7;

    return mode > 5 ? mode - 4 : mode;
}

static bool in_bcd(const struct i8254_channel *c)
{
    return c->control & 1;
}

static bool by_gate(const struct i8254_channel *c)
{
    return mode_of(c) == 1 || mode_of(c) == 5;
}

static bool periodic(const struct i8254_channel *c)
{
    return mode_of(c) == 2 || mode_of(c) == 3;
}

// --- counting -----------------------------------------------------------------------------------------------------------------

static u64 elapsed(const struct i8254_channel *c, u64 now)
{
    return c->frozen ? c->ticks : now - c->start;
}

static void load(struct i8254_channel *c, u64 at)
{
    c->count = c->reload;
    c->null = false;
    c->load_at = CLOCK_NEVER;
    c->loaded = true;
    c->low_half = false;
    c->start = at;
    c->ticks = 0;
    c->frozen = !c->gate && !by_gate(c);
}

// Length of a period (mode 2) or of the present half cycle (mode 3).
static u64 stretch(const struct i8254_channel *c)
{
    if (mode_of(c) == 2)
        return c->count;
    return c->low_half ? c->count / 2 : (c->count + 1) / 2;
}

// The present period or half cycle is over: a count that waits is taken.
static void next_stretch(struct i8254_channel *c)
{
    c->start += stretch(c);
    if (mode_of(c) == 3)
        c->low_half = !c->low_half;
    if (c->null) {
        c->count = c->reload;
        c->null = false;
    }
}

// Bring the counting element up to `now`.
static void advance(struct i8254_channel *c, u64 now)
{
    if (c->load_at <= now)
        load(c, c->load_at);
    if (!c->loaded || !periodic(c) || c->frozen)
        return;
    if (now - c->start >= stretch(c))
        next_stretch(c);
    c->start += (now - c->start) / c->count * c->count; // whole periods
    while (now - c->start >= stretch(c))
        next_stretch(c);
}

static bool output(const struct i8254_channel *c, u64 now)
{
    u64 ticks = elapsed(c, now);

    if (!c->loaded)
        return mode_of(c) != 0;
    switch (mode_of(c)) {
    case 0:
    case 1: return ticks >= c->count;
    case 2: return c->frozen || ticks != c->count - 1;
    case 3: return c->frozen || !c->low_half;
    default: return ticks != c->count;
    }
}

static u16 to_bcd(u32 v)
{
    return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static u32 from_bcd(u32 v)
{
    return (v & 15) + (v >> 4 & 15) * 10 + (v >> 8 & 15) * 100 + (v >> 12 & 15) * 1000;
}

// The counting element as it is read.
static u16 value(const struct i8254_channel *c, u64 now)
{
    u64 whole = in_bcd(c) ? 10000 : 65536, ticks = elapsed(c, now), v = c->count;

    // The pulse comes before a program on a real bus can read, so the old contents are never seen.
    if (c->load_at != CLOCK_NEVER)
        v = mode_of(c) == 3 ? c->reload & ~1u : c->reload;
    else if (!c->loaded)
        return c->residue;
    else if (mode_of(c) == 3) // an even number that counts down by two
        v = (c->count & ~1u) - 2 * ticks;
    else
        v += whole - ticks % whole;
    return in_bcd(c) ? to_bcd((u32)(v % whole)) : (u16)v;
}

// Stop, and keep what is shown.
static void unload(struct i8254_channel *c, u64 now)
{
    c->residue = value(c, now);
    c->loaded = false;
    c->load_at = CLOCK_NEVER;
}

// --- channel 0's interrupt ------------------------------------------------------------------------------------------------

// The tick of the output's next rising edge after `now`.
static u64 next_rise(const struct i8254_channel *c, u64 now)
{
    bool fresh = c->load_at != CLOCK_NEVER;
    u64 count = fresh ? c->reload : c->count, from = fresh ? c->load_at : c->start, after = c->null ? c->reload : count;
    u64 rise;

    if (!fresh && (!c->loaded || c->frozen))
        return CLOCK_NEVER;
    switch (mode_of(c)) {
    case 3: rise = c->low_half && !fresh ? from + count / 2 : from + (count + 1) / 2 + after / 2; break;
    case 4:
    case 5: rise = from + count + 1; break;
    default: rise = from + count; break;
    }
    return rise > now ? rise : CLOCK_NEVER;
}

// Make the interrupt line what the output is, with the edge in between that nobody may have been there to make.
static void show(struct i8254 *t, u64 now)
{
    if (t->rise <= now) {
        irq_set(t->irq, false);
        irq_set(t->irq, true);
        t->rise = CLOCK_NEVER;
    }
    irq_set(t->irq, output(&t->ch[0], now));
}

static void schedule(struct i8254 *t, u64 not_before_ns)
{
    u64 now = tick_now(t);

    show(t, now);
    t->rise = next_rise(&t->ch[0], now);
    if (t->rise == CLOCK_NEVER)
        clock_disarm(t->clock, &t->timer);
    else
        clock_arm(t->clock, &t->timer, to_ns(t->rise) > not_before_ns ? to_ns(t->rise) : not_before_ns);
}

static void fire(void *dev, u64 now)
{
    struct i8254 *t = dev;

    advance(&t->ch[0], tick_now(t));
    schedule(t, now + CLOCK_MIN_PERIOD_NS);
}

// Around every change of a channel.
static u64 begin(struct i8254 *t, struct i8254_channel *c)
{
    u64 now = tick_now(t);

    advance(c, now);
    if (c == &t->ch[0])
        show(t, now);
    return now;
}

static void end(struct i8254 *t, const struct i8254_channel *c)
{
    if (c == &t->ch[0])
        schedule(t, 0);
}

// --- registers --------------------------------------------------------------------------------------------------------------

static void set_count(struct i8254_channel *c, u32 val, u64 now)
{
    bool first = !c->written;

    if (in_bcd(c))
        val = from_bcd(val);
    c->reload = val ? val : in_bcd(c) ? 10000 : 65536;
    // A count of 1 is illegal in the periodic modes; the shortest period that the chip makes is 2.
    if (c->reload == 1 && periodic(c))
        c->reload = 2;
    c->written = true;
    c->null = true;
    if (mode_of(c) == 0)
        unload(c, now); // the output falls at once
    if (mode_of(c) == 0 || mode_of(c) == 4 || (periodic(c) && first))
        c->load_at = now + 1;
}

static void write_count(struct i8254 *t, struct i8254_channel *c, u8 val)
{
    u64 now = begin(t, c);

    switch (access_of(c)) {
    case 1: set_count(c, val, now); break;
    case 2: set_count(c, (u32)val << 8, now); break;
    default:
        c->write_high = !c->write_high;
        if (!c->write_high) {
            set_count(c, (u32)val << 8 | c->write_low, now);
            break;
        }
        c->write_low = val;
        if (mode_of(c) == 0) // half a count stops the old one
            unload(c, now);
    }
    end(t, c);
}

static void latch_count(struct i8254_channel *c, u64 now)
{
    if (c->latched)
        return; // the first latch stays until it is read
    c->latch = value(c, now);
    c->latched = access_of(c) == 3 ? 2 : 1;
    c->read_high = false;
}

static void latch_status(struct i8254_channel *c, u64 now)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->status = (u8)((output(c, now) ? STATUS_OUT : 0) | (c->null ? STATUS_NULL : 0) | c->control);
}

// Bits 5 and 4 low ask for count and status of the channels whose bits are set.
static void read_back(struct i8254 *t, u8 val)
{
    u64 now = tick_now(t);

    for (unsigned i = 0; i < 3; i++) {
        struct i8254_channel *c = &t->ch[i];
        if (!(val >> (i + 1) & 1))
            continue;
        advance(c, now);
        if (!(val & 0x20))
            latch_count(c, now);
        if (!(val & 0x10))
            latch_status(c, now);
    }
}

static void write_control(struct i8254 *t, u8 val)
{
    struct i8254_channel *c = &t->ch[val >> 6 & 3];
    u64 now;

    if (val >> 6 == 3) {
        read_back(t, val);
        return;
    }
    now = begin(t, c);
    if (!(val & 0x30)) {
        latch_count(c, now);
        return;
    }
    unload(c, now);
    c->control = val & 0x3f;
    c->null = true;
    c->written = c->write_high = c->read_high = false;
    c->latched = 0;
    c->status_latched = false;
    end(t, c);
}

static u8 read_count(struct i8254 *t, struct i8254_channel *c)
{
    u64 now = tick_now(t);
    u16 v;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    advance(c, now);
    v = c->latched ? c->latch : value(c, now);
    if (c->latched)
        c->latched--;
    if (access_of(c) == 1)
        return (u8)v;
    if (access_of(c) == 2)
        return (u8)(v >> 8);
    c->read_high = !c->read_high;
    return c->read_high ? (u8)v : (u8)(v >> 8);
}

static u64 i8254_read(void *dev, u64 off, unsigned size)
{
    struct i8254 *t = dev;

    (void)size;
    return off < 3 ? read_count(t, &t->ch[off]) : 0xff;
}

static void i8254_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8254 *t = dev;

    (void)size;
    if (off == 3)
        write_control(t, (u8)val);
    else
        write_count(t, &t->ch[off], (u8)val);
}

static void set_gate(struct i8254 *t, struct i8254_channel *c, bool gate)
{
    u64 now;

    if (gate == c->gate)
        return;
    now = begin(t, c);
    if (gate && (by_gate(c) || periodic(c))) {
        if (c->written)
            c->load_at = now + 1;
    } else if (!gate && !by_gate(c) && !c->frozen) {
        c->ticks = now - c->start;
        c->frozen = true;
    } else if (gate && c->frozen) {
        c->start = now - c->ticks;
        c->frozen = false;
    }
    c->gate = gate;
    end(t, c);
}

static u64 port61_read(void *dev, u64 off, unsigned size)
{
    struct i8254 *t = dev;
    u64 ns = clock_now(t->clock), now = to_ticks(ns);
    u64 refresh = ns / 15085 & 1; // toggles with every refresh of the DRAM

    (void)off, (void)size;
    advance(&t->ch[2], now);
    return t->port61 | (refresh ? PORT61_REFRESH : 0) | (output(&t->ch[2], now) ? PORT61_OUT : 0);
}

static void port61_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8254 *t = dev;

    (void)off, (void)size;
    t->port61 = (u8)val & 0x0f;
    set_gate(t, &t->ch[2], val & PORT61_GATE);
}

void i8254_reset(void *dev)
{
    struct i8254 *t = dev;

    for (unsigned i = 0; i < 3; i++)
        t->ch[i] = (struct i8254_channel){
            .control = i == 0 ? 0x30 : 0x36, .gate = i < 2, .reload = 65536, .null = true, .load_at = CLOCK_NEVER};
    t->port61 = 0;
    t->rise = CLOCK_NEVER;
    schedule(t, 0);
}

static void i8254_dump(void *dev, char *buf, size_t size)
{
    struct i8254 *t = dev;
    size_t n = 0;

    for (unsigned i = 0; i < 3 && n < size; i++) {
        struct i8254_channel *c = &t->ch[i];
        u64 now = tick_now(t);
        advance(c, now);
        n += (size_t)snprintf(buf + n, size - n, "channel %u: control %02x count %u%s value %u gate %d output %d\n", i,
                              c->control, c->reload, c->null ? " (waits)" : "", value(c, now), c->gate, output(c, now));
    }
}

const struct dev_ops i8254_ops = {
    .name = "i8254", .reset = i8254_reset, .read = i8254_read, .write = i8254_write, .dump = i8254_dump};

const struct dev_ops i8254_port61_ops = {.name = "port61", .read = port61_read, .write = port61_write};

int i8254_init(struct i8254 *t)
{
    int ret;

    t->timer = (struct clock_timer){.fire = fire, .dev = t};
    ret = clock_add_timer(t->clock, &t->timer);
    if (!ret)
        i8254_reset(t);
    return ret;
}
