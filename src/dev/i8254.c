// 8254: three counters whose value is computed from the time when somebody looks. Only channel 0's output has listeners, so
// only it has a timer, armed for the next rising edge.
//
// With N the count and t the ticks since it was loaded, the output is
//   mode 0  low while t < N, then high          mode 3  high while t mod N < (N+1)/2
//   mode 1  the same, from the gate's rise      mode 4  low only for t = N
//   mode 2  low for t mod N = N-1               mode 5  the same, from the gate's rise

#include "dev/i8254.h"

#include <stdio.h>

#define NS_PER_S 1000000000ull

#define PORT61_GATE 0x01
#define PORT61_REFRESH 0x10
#define PORT61_OUT 0x20

static u64 to_ticks(u64 ns)
{
    return (u64)((unsigned __int128)ns * I8254_HZ / NS_PER_S);
}

// Nanoseconds after which `ticks` are complete.
static u64 to_ns(u64 ticks)
{
    return (u64)(((unsigned __int128)ticks * NS_PER_S + I8254_HZ - 1) / I8254_HZ);
}

static bool by_gate(const struct i8254_channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

static bool counting(const struct i8254_channel *c)
{
    return c->loaded && (by_gate(c) ? c->triggered : c->gate);
}

static u64 elapsed(const struct i8254 *t, const struct i8254_channel *c)
{
    return counting(c) ? to_ticks(clock_now(t->clock) - c->start) : c->stopped;
}

static bool output(const struct i8254 *t, const struct i8254_channel *c)
{
    u64 n = c->count, ticks = elapsed(t, c);

    if (!c->loaded || (by_gate(c) && !c->triggered))
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1: return ticks >= n;
    case 2: return !c->gate || ticks % n != n - 1;
    case 3: return !c->gate || ticks % n < (n + 1) / 2;
    default: return ticks != n;
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
static u16 value(const struct i8254 *t, const struct i8254_channel *c)
{
    u64 n = c->count, ticks = elapsed(t, c), whole = c->bcd ? 10000 : 65536;
    u64 v;

    if (!c->loaded)
        return 0;
    if (c->mode == 2)
        v = n - ticks % n;
    else if (c->mode == 3) // counts down by two, twice a period
        v = n - ticks * 2 % n;
    else
        v = (n + whole - ticks % whole) % whole;
    return c->bcd ? to_bcd((u32)(v % whole)) : (u16)v;
}

// --- channel 0's interrupt ------------------------------------------------------------------------------------------------

// Ticks, counted from the load, of the next rising edge of the output after `ticks`; 0 when there is none.
static u64 next_rise(const struct i8254_channel *c, u64 ticks)
{
    u64 n = c->count;

    switch (c->mode) {
    case 2:
    case 3: return (ticks / n + 1) * n;
    case 4:
    case 5: return ticks <= n ? n + 1 : 0;
    default: return ticks < n ? n : 0;
    }
}

static void schedule(struct i8254 *t)
{
    struct i8254_channel *c = &t->ch[0];
    u64 rise = counting(c) ? next_rise(c, elapsed(t, c)) : 0;

    irq_set(t->irq, output(t, c));
    if (rise)
        clock_arm(t->clock, &t->timer, c->start + to_ns(rise));
    else
        clock_disarm(t->clock, &t->timer);
}

static void fire(void *dev, u64 now)
{
    struct i8254 *t = dev;

    (void)now;
    // The low phase before the edge may have been shorter than anybody could see.
    irq_set(t->irq, false);
    irq_set(t->irq, true);
    schedule(t);
}

static void changed(struct i8254 *t, const struct i8254_channel *c)
{
    if (c == &t->ch[0])
        schedule(t);
}

// --- registers --------------------------------------------------------------------------------------------------------------

static void load(struct i8254 *t, struct i8254_channel *c, u32 val)
{
    if (c->bcd)
        val = from_bcd(val);
    c->count = val ? val : c->bcd ? 10000 : 65536;
    // A count of 1 is illegal in the periodic modes; the shortest period that the chip makes is 2.
    if (c->count == 1 && (c->mode == 2 || c->mode == 3))
        c->count = 2;
    c->loaded = true;
    // While a period runs, the chip would take the new count at its end; here it starts anew at once.
    if (!by_gate(c)) {
        c->start = clock_now(t->clock);
        c->stopped = 0;
    }
    changed(t, c);
}

static void write_count(struct i8254 *t, struct i8254_channel *c, u8 val)
{
    switch (c->access) {
    case 1: load(t, c, val); break;
    case 2: load(t, c, (u32)val << 8); break;
    default:
        if (!c->write_high)
            c->write_low = val;
        else
            load(t, c, (u32)val << 8 | c->write_low);
        c->write_high = !c->write_high;
    }
}

static void latch_count(const struct i8254 *t, struct i8254_channel *c)
{
    if (c->latched)
        return; // the first latch stays until it is read
    c->latch = value(t, c);
    c->latched = c->access == 3 ? 2 : 1;
}

static void latch_status(const struct i8254 *t, struct i8254_channel *c)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->status = (u8)(output(t, c) << 7 | !c->loaded << 6 | c->access << 4 | c->mode << 1 | c->bcd);
}

static void write_control(struct i8254 *t, u8 val)
{
    struct i8254_channel *c = &t->ch[val >> 6 & 3];

    if (val >> 6 == 3) { // read-back: bits 5 and 4 low mean count and status
        for (unsigned i = 0; i < 3; i++) {
            if (!(val >> (i + 1) & 1))
                continue;
            if (!(val & 0x20))
                latch_count(t, &t->ch[i]);
            if (!(val & 0x10))
                latch_status(t, &t->ch[i]);
        }
        return;
    }
    if (!(val & 0x30)) {
        latch_count(t, c);
        return;
    }
    c->access = val >> 4 & 3;
    c->mode = val >> 1 & 7;
    if (c->mode > 5)
        c->mode -= 4; // bit 2 is ignored in modes 2 and 3
    c->bcd = val & 1;
    c->loaded = c->triggered = c->write_high = c->read_high = false;
    c->latched = 0;
    c->status_latched = false;
    c->stopped = 0;
    changed(t, c);
}

static u8 read_count(const struct i8254 *t, struct i8254_channel *c)
{
    u16 v;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    v = c->latched ? c->latch : value(t, c);
    if (c->latched)
        c->latched--;
    if (c->access == 1)
        return (u8)v;
    if (c->access == 2)
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
    bool rise = gate && !c->gate;
    u64 ticks = elapsed(t, c), now = clock_now(t->clock);

    if (gate == c->gate)
        return;
    c->gate = gate;
    if (by_gate(c)) {
        if (rise && c->loaded) {
            c->triggered = true;
            c->start = now;
        }
    } else if (!gate) {
        c->stopped = ticks;
    } else if (c->mode == 2 || c->mode == 3) {
        c->start = now; // a rising gate reloads
    } else {
        c->start = now - to_ns(c->stopped);
    }
    changed(t, c);
}

static u64 port61_read(void *dev, u64 off, unsigned size)
{
    struct i8254 *t = dev;
    u64 refresh = clock_now(t->clock) / 15085 & 1; // toggles with every refresh of the DRAM

    (void)off, (void)size;
    return t->port61 | (refresh ? PORT61_REFRESH : 0) | (output(t, &t->ch[2]) ? PORT61_OUT : 0);
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
        t->ch[i] = (struct i8254_channel){.access = 3, .mode = i == 0 ? 0 : 3, .gate = i < 2, .count = 65536};
    t->port61 = 0;
    schedule(t);
}

static void i8254_dump(void *dev, char *buf, size_t size)
{
    const struct i8254 *t = dev;

    snprintf(buf, size, "ch0 mode %u count %u value %u, ch1 mode %u count %u, ch2 mode %u count %u gate %d",
             t->ch[0].mode, t->ch[0].count, value(t, &t->ch[0]), t->ch[1].mode, t->ch[1].count, t->ch[2].mode,
             t->ch[2].count, t->ch[2].gate);
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
