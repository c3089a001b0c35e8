// MC146818: the divider chain is the virtual clock plus an offset. Its seconds plus another offset are the time of day, turned into
// registers when somebody reads them. Setting the clock changes the second offset, and so leaves the chain alone; only the
// divider's reset, which holds the chain, changes the first.
//
//   virtual ns + base_ns = chain ns ------- / 1 s ----- + base_s = seconds since 1970
//                             '-- x 32768 Hz / 2^(rate-1): periodic interrupts
//
// Interrupt flags are worked out, for all the time since the last look, when somebody looks or something changes that they depend
// on; a timer runs only while an interrupt is enabled.

#include "dev/mc146818.h"

#include <stdio.h>

#define NS_PER_S 1000000000ull

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32
};

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_32KHZ 0x20
#define A_RATE 0x0f
#define B_SET 0x80
#define B_PIE 0x40 // the enable bits of B are the flag bits of C
#define B_AIE 0x20
#define B_UIE 0x10
#define B_SQWE 0x08
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQF 0x80
#define D_VALID 0x80

#define CHAIN_HZ 32768
#define UIP_NS (8 * NS_PER_S / CHAIN_HZ) // the update-in-progress bit rises this long before the second ends
#define DAY_S 86400
#define MAX_OWED 0x10000
#define ANY 0xc0 // an alarm register with these bits set matches everything

// --- calendar -----------------------------------------------------------------------------------------------------------------

// Days since 1970-01-01 of a date in the proleptic Gregorian calendar; years begin in March, so that leap days come last.
static i64 days_of(i64 year, unsigned month, unsigned day)
{
    year -= month <= 2;
    i64 era = (year >= 0 ? year : year - 399) / 400;
    unsigned yoe = (unsigned)(year - era * 400), doy = (153 * (month + (month > 2 ? -3u : 9u)) + 2) / 5 + day - 1;

    return era * 146097 + (i64)(yoe * 365 + yoe / 4 - yoe / 100 + doy) - 719468;
}

static void date_of(i64 days, i64 *year, unsigned *month, unsigned *day)
{
    days += 719468;
    i64 era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned doe = (unsigned)(days - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

    *day = doy - (153 * mp + 2) / 5 + 1;
    *month = mp < 10 ? mp + 3 : mp - 9;
    *year = (i64)yoe + era * 400 + (*month <= 2);
}

static u8 encode(const struct mc146818 *r, unsigned v)
{
    return (u8)(r->reg[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *r, u8 v)
{
    return r->reg[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct mc146818 *r, unsigned h)
{
    if (r->reg[REG_B] & B_24H)
        return encode(r, h);
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct mc146818 *r, u8 v)
{
    if (r->reg[REG_B] & B_24H)
        return decode(r, v) % 24;
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

// --- time -----------------------------------------------------------------------------------------------------------------------

static u64 chain_ns(const struct mc146818 *r)
{
    return clock_now(r->clock) + r->base_ns;
}

// Seconds since 1970 that the clock shows.
static i64 shown_s(const struct mc146818 *r)
{
    return r->base_s + (i64)(chain_ns(r) / NS_PER_S);
}

// The second of the day.
static unsigned of_day(i64 s)
{
    return (unsigned)((s % DAY_S + DAY_S) % DAY_S);
}

// The divider's reset, and its test modes: the chain stands.
static bool held(const struct mc146818 *r)
{
    return (r->reg[REG_A] & A_DIVIDER) > A_32KHZ;
}

// The time registers are just memory: nothing counts them up.
static bool frozen(const struct mc146818 *r)
{
    return (r->reg[REG_B] & B_SET) || held(r);
}

static void fill_time(struct mc146818 *r)
{
    i64 s = shown_s(r), days = (s - of_day(s)) / DAY_S, year;
    unsigned month, day;

    date_of(days, &year, &month, &day);
    r->reg[SECONDS] = encode(r, of_day(s) % 60);
    r->reg[MINUTES] = encode(r, of_day(s) / 60 % 60);
    r->reg[HOURS] = encode_hour(r, of_day(s) / 3600);
    r->reg[WEEKDAY] = encode(r, (unsigned)((days % 7 + 7 + 4) % 7) + 1); // 1970-01-01 was a Thursday; Sunday is 1
    r->reg[DAY] = encode(r, day);
    r->reg[MONTH] = encode(r, month);
    r->reg[YEAR] = encode(r, (unsigned)(year % 100));
    r->reg[CENTURY] = encode(r, (unsigned)(year / 100 % 100));
}

// The registers were set: make the clock show them for the rest of this second. What is no date is taken modulo.
static void take_time(struct mc146818 *r)
{
    unsigned month = (decode(r, r->reg[MONTH]) + 11) % 12 + 1;
    i64 year = decode(r, r->reg[CENTURY]) * 100 + decode(r, r->reg[YEAR]) % 100;
    unsigned day = decode(r, r->reg[DAY]);
    i64 days = days_of(year, month, day ? day : 1);
    i64 s = days * DAY_S + decode_hour(r, r->reg[HOURS]) * 3600 + decode(r, r->reg[MINUTES]) * 60 +
            decode(r, r->reg[SECONDS]);

    r->base_s = s - (i64)(chain_ns(r) / NS_PER_S);
}

// --- interrupts -------------------------------------------------------------------------------------------------------------------

// Chain pulses of 32768 Hz between periodic interrupts; 0: none. Rates 1 and 2 are those of 8 and 9 with the PC's crystal.
static u64 period(const struct mc146818 *r)
{
    unsigned rate = r->reg[REG_A] & A_RATE;

    if (!rate || held(r))
        return 0;
    if (rate <= 2)
        rate += 7;
    return 1ull << (rate - 1);
}

// Periods since the chain's beginning.
static u64 periods(const struct mc146818 *r)
{
    u64 pulses = (u64)((unsigned __int128)chain_ns(r) * CHAIN_HZ / NS_PER_S);

    return period(r) ? pulses / period(r) : 0;
}

static bool second_matches(const struct mc146818 *r, unsigned s)
{
    u8 alarm = r->reg[SECONDS_ALARM];

    return (alarm & ANY) == ANY || alarm == encode(r, s);
}

static bool minute_matches(const struct mc146818 *r, unsigned m)
{
    u8 alarm = r->reg[MINUTES_ALARM];

    return (alarm & ANY) == ANY || alarm == encode(r, m);
}

static bool hour_matches(const struct mc146818 *r, unsigned h)
{
    u8 alarm = r->reg[HOURS_ALARM];

    return (alarm & ANY) == ANY || alarm == encode_hour(r, h);
}

// Seconds after `s` at which the alarm matches next; 0: never, for it is no time.
static unsigned next_alarm(const struct mc146818 *r, i64 s)
{
    unsigned ahead = 1, second = 0;

    while (second < 60 && !second_matches(r, second))
        second++;
    if (second == 60)
        return 0;
    while (ahead <= DAY_S) {
        unsigned at = of_day(s + ahead);
        if (!hour_matches(r, at / 3600))
            ahead += 3600 - at % 3600;
        else if (!minute_matches(r, at / 60 % 60))
            ahead += 60 - at % 60;
        else if (!second_matches(r, at % 60))
            ahead++;
        else
            return ahead;
    }
    return 0;
}

static void update_irq(struct mc146818 *r)
{
    bool level = r->reg[REG_C] & r->reg[REG_B] & (B_PIE | B_AIE | B_UIE);

    r->reg[REG_C] = (r->reg[REG_C] & 0x70) | (level ? C_IRQF : 0);
    if (level != r->irq_level) {
        r->irq_level = level;
        irq_set(r->irq, level);
    }
}

// From now on flags are about what comes after this moment.
static void mark(struct mc146818 *r)
{
    r->seen_second = shown_s(r);
    r->seen_periods = periods(r);
}

static void owe(struct mc146818 *r, u64 interrupts)
{
    r->owed = interrupts < MAX_OWED ? (u32)interrupts : MAX_OWED;
}

// `n` periods have ended since the last look. Of those that nobody can have noticed, guests that count time by them want
// the interrupts all the same.
static void add_periods(struct mc146818 *r, u64 n)
{
    if (!n)
        return;
    if (r->slew && (r->reg[REG_B] & B_PIE))
        owe(r, r->owed + n - 1 + (r->reg[REG_C] & B_PIE ? 1 : 0));
    r->reg[REG_C] |= B_PIE;
}

// Set the flags of what has happened since the last look.
static void look(struct mc146818 *r)
{
    i64 second = shown_s(r);

    if (!frozen(r) && second > r->seen_second) {
        unsigned alarm = next_alarm(r, r->seen_second);
        r->reg[REG_C] |= B_UIE;
        if (alarm && alarm <= second - r->seen_second)
            r->reg[REG_C] |= B_AIE;
    }
    add_periods(r, periods(r) - r->seen_periods);
    mark(r);
    update_irq(r);
}

static void schedule(struct mc146818 *r)
{
    u64 chain = chain_ns(r), next = CLOCK_NEVER;
    u64 second = chain - chain % NS_PER_S; // began then
    u8 b = r->reg[REG_B];

    if ((b & B_UIE) && !frozen(r)) {
        next = second + NS_PER_S;
    } else if ((b & B_AIE) && !frozen(r)) {
        unsigned alarm = next_alarm(r, shown_s(r));
        next = alarm ? second + alarm * NS_PER_S : CLOCK_NEVER;
    }
    if ((b & B_PIE) && period(r)) {
        unsigned __int128 pulses = (unsigned __int128)(periods(r) + 1) * period(r);
        u64 at = (u64)((pulses * NS_PER_S + CHAIN_HZ - 1) / CHAIN_HZ);
        next = at < next ? at : next;
    }
    if (r->owed && !(r->reg[REG_C] & B_PIE) && r->owed_at + r->base_ns < next)
        next = r->owed_at + r->base_ns;
    if (next == CLOCK_NEVER)
        clock_disarm(r->clock, &r->timer);
    else
        clock_arm(r->clock, &r->timer, next - r->base_ns);
}

static void fire(void *dev, u64 now)
{
    struct mc146818 *r = dev;

    look(r);
    if (r->owed && !(r->reg[REG_C] & B_PIE) && r->owed_at <= now) {
        r->owed--;
        r->reg[REG_C] |= B_PIE;
        update_irq(r);
    }
    schedule(r);
}

// --- registers --------------------------------------------------------------------------------------------------------------------

static u8 read_a(const struct mc146818 *r)
{
    bool uip = !frozen(r) && chain_ns(r) % NS_PER_S >= NS_PER_S - UIP_NS;

    return (r->reg[REG_A] & 0x7f) | (uip ? A_UIP : 0);
}

static u8 read_c(struct mc146818 *r)
{
    u8 c;

    look(r);
    c = r->reg[REG_C];
    r->reg[REG_C] = 0;
    update_irq(r);
    if (r->owed && (c & B_PIE)) { // four times as fast as they should have come
        r->owed_at = clock_now(r->clock) + period(r) * NS_PER_S / CHAIN_HZ / 4;
        schedule(r);
    }
    return c;
}

static u64 mc146818_read(void *dev, u64 off, unsigned size)
{
    struct mc146818 *r = dev;

    (void)size;
    if (off == 0)
        return 0xff; // the index cannot be read
    if (!frozen(r) && (r->index <= YEAR || r->index == CENTURY))
        fill_time(r);
    switch (r->index) {
    case REG_A: return read_a(r);
    case REG_C: return read_c(r);
    default: return r->reg[r->index];
    }
}

static bool is_time(u8 index)
{
    return index == CENTURY ||
           (index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM && index != HOURS_ALARM);
}

// Registers A and B say whether the clock runs. Where it stops, the registers keep what it showed last; where it runs again, it goes
// on from what they say, by their number format of that moment.
static void write_mode(struct mc146818 *r, u8 index, u8 val)
{
    bool was_frozen = frozen(r), was_held = held(r);
    u64 old_period = period(r);

    if (!was_frozen)
        fill_time(r);
    if (index == REG_A)
        r->reg[REG_A] = val & (u8)~A_UIP;
    else
        r->reg[REG_B] = val & B_SET ? val & (u8)~B_UIE : val; // setting clears UIE
    if (was_held && !held(r))                                 // the first update comes half a second after the reset
        r->base_ns = NS_PER_S + NS_PER_S / 2 - clock_now(r->clock) % NS_PER_S;
    if (was_frozen && !frozen(r))
        take_time(r);
    if (!period(r) || !(r->reg[REG_B] & B_PIE))
        r->owed = 0;
    else if (old_period) // the same time by another measure
        owe(r, r->owed * old_period / period(r));
}

static void write_data(struct mc146818 *r, u8 val)
{
    look(r);
    switch (r->index) {
    case REG_A:
    case REG_B: write_mode(r, r->index, val); break;
    case REG_C:
    case REG_D: break; // read-only
    default:
        if (frozen(r) || !is_time(r->index)) {
            r->reg[r->index] = val;
            break;
        }
        fill_time(r);
        r->reg[r->index] = val;
        take_time(r);
    }
    mark(r);
    update_irq(r);
    schedule(r);
}

static void mc146818_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct mc146818 *r = dev;

    (void)size;
    if (off == 0)
        r->index = (u8)val & (MC146818_SIZE - 1); // bit 7 masks NMI on the PC; there is none to mask
    else
        write_data(r, (u8)val);
}

void mc146818_reset(void *dev)
{
    struct mc146818 *r = dev;

    r->reg[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    r->reg[REG_C] = 0;
    r->owed = 0;
    update_irq(r);
    schedule(r);
}

static void mc146818_dump(void *dev, char *buf, size_t size)
{
    const struct mc146818 *r = dev;

    snprintf(buf, size, "a %02x b %02x c %02x index %02x irq %d", r->reg[REG_A], r->reg[REG_B], r->reg[REG_C], r->index,
             r->irq_level);
}

const struct dev_ops mc146818_ops = {
    .name = "mc146818", .reset = mc146818_reset, .read = mc146818_read, .write = mc146818_write, .dump = mc146818_dump};

static void put16(struct mc146818 *r, unsigned at, u64 val)
{
    if (val > 0xffff)
        val = 0xffff;
    r->reg[at] = (u8)val;
    r->reg[at + 1] = (u8)(val >> 8);
}

// Memory sizes where firmware looks for them: KiB below 640 K, KiB above 1 MiB, 64 KiB units above 16 MiB and above 4 GiB.
static void put_memory(struct mc146818 *r, u64 low, u64 high)
{
    u64 above_1m = low > 0x100000 ? (low - 0x100000) >> 10 : 0;

    put16(r, 0x15, 640);
    put16(r, 0x17, above_1m);
    put16(r, 0x30, above_1m);
    put16(r, 0x34, low > 0x1000000 ? (low - 0x1000000) >> 16 : 0);
    put16(r, 0x5b, high >> 16);
    r->reg[0x5d] = (u8)(high >> 32);
    r->reg[0x14] = 0x02; // equipment: a coprocessor, no display, no floppy
}

int mc146818_init(struct mc146818 *r, i64 utc_ns, u64 ram_low, u64 ram_high)
{
    int ret;

    r->timer = (struct clock_timer){.fire = fire, .dev = r};
    ret = clock_add_timer(r->clock, &r->timer);
    if (ret)
        return ret;
    r->base_ns = 2 * NS_PER_S + (u64)(utc_ns % (i64)NS_PER_S) - clock_now(r->clock) % NS_PER_S;
    r->base_s = utc_ns / (i64)NS_PER_S - 2 - (i64)(clock_now(r->clock) / NS_PER_S);
    r->reg[REG_A] = A_32KHZ | 6; // 1024 Hz
    r->reg[REG_B] = B_24H;
    r->reg[REG_D] = D_VALID;
    mark(r);
    put_memory(r, ram_low, ram_high);
    return 0;
}
