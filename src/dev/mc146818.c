// MC146818: the time of day is the virtual clock plus an offset, turned into registers when somebody reads them. Setting the clock
// changes the offset.
//
// Interrupt flags are worked out when register C is read; a timer runs only while an interrupt is enabled. The alarm is looked
// at once a second while its interrupt is enabled, and else at the reading.

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
#define B_SET 0x80
#define B_PIE 0x40 // the enable bits of B are the flag bits of C
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQF 0x80
#define D_VALID 0x80

#define UIP_NS 244000 // the update-in-progress bit rises this long before the second ends

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

static u64 shown_ns(const struct mc146818 *r)
{
    return clock_now(r->clock) + r->base_ns;
}

// Seconds since 1970 that the clock shows.
static i64 shown_s(const struct mc146818 *r)
{
    return r->base_s + (i64)(shown_ns(r) / NS_PER_S);
}

// Show `s` from now on, at the beginning of that second.
static void set_clock(struct mc146818 *r, i64 s)
{
    u64 now = clock_now(r->clock);

    r->base_ns = NS_PER_S - now % NS_PER_S;
    r->base_s = s - (i64)((now + r->base_ns) / NS_PER_S);
}

static void fill_time(struct mc146818 *r)
{
    i64 s = shown_s(r), days = s / 86400 - (s % 86400 < 0), year;
    unsigned of_day = (unsigned)(s - days * 86400), month, day;

    date_of(days, &year, &month, &day);
    r->reg[SECONDS] = encode(r, of_day % 60);
    r->reg[MINUTES] = encode(r, of_day / 60 % 60);
    r->reg[HOURS] = encode_hour(r, of_day / 3600);
    r->reg[WEEKDAY] = encode(r, (unsigned)((days % 7 + 7 + 4) % 7) + 1); // 1970-01-01 was a Thursday; Sunday is 1
    r->reg[DAY] = encode(r, day);
    r->reg[MONTH] = encode(r, month);
    r->reg[YEAR] = encode(r, (unsigned)(year % 100));
    r->reg[CENTURY] = (u8)(year / 1000 % 10 << 4 | year / 100 % 10);
}

// The registers were set: make the clock show them from now on. What is no date is taken modulo.
static void take_time(struct mc146818 *r)
{
    unsigned month = (decode(r, r->reg[MONTH]) + 11) % 12 + 1;
    i64 year = ((r->reg[CENTURY] >> 4) * 10 + (r->reg[CENTURY] & 15)) * 100 + decode(r, r->reg[YEAR]) % 100;
    unsigned day = decode(r, r->reg[DAY]);
    i64 days = days_of(year, month, day ? day : 1);
    i64 s = days * 86400 + decode_hour(r, r->reg[HOURS]) * 3600 + decode(r, r->reg[MINUTES]) * 60 +
            decode(r, r->reg[SECONDS]);

    set_clock(r, s);
}

static bool frozen(const struct mc146818 *r)
{
    return r->reg[REG_B] & B_SET;
}

// --- interrupts -------------------------------------------------------------------------------------------------------------------

// Nanoseconds between periodic interrupts: rate 1 and 2 are those of 8 and 9 with the PC's crystal; 0 none.
static u64 period_ns(const struct mc146818 *r)
{
    unsigned rate = r->reg[REG_A] & 15;

    if (!rate)
        return 0;
    if (rate <= 2)
        rate += 7;
    return NS_PER_S * (1u << (rate - 1)) / 32768;
}

static bool alarm_matches(struct mc146818 *r)
{
    static const u8 pairs[3][2] = {{SECONDS, SECONDS_ALARM}, {MINUTES, MINUTES_ALARM}, {HOURS, HOURS_ALARM}};

    fill_time(r);
    for (unsigned i = 0; i < 3; i++) {
        u8 alarm = r->reg[pairs[i][1]];
        if ((alarm & 0xc0) != 0xc0 && alarm != r->reg[pairs[i][0]]) // c0 and above: any
            return false;
    }
    return true;
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

// Set the flags of what has happened since the last look.
static void look(struct mc146818 *r)
{
    u64 now = clock_now(r->clock), period = period_ns(r);
    i64 second = shown_s(r);

    if (!frozen(r) && second != r->seen_second) {
        r->reg[REG_C] |= B_UIE;
        if (alarm_matches(r))
            r->reg[REG_C] |= B_AIE;
    }
    r->seen_second = second;
    if (period && now / period != r->seen_period)
        r->reg[REG_C] |= B_PIE;
    r->seen_period = period ? now / period : 0;
    update_irq(r);
}

static void schedule(struct mc146818 *r)
{
    u64 now = clock_now(r->clock), next = CLOCK_NEVER, period = period_ns(r);

    if ((r->reg[REG_B] & (B_AIE | B_UIE)) && !frozen(r))
        next = now + NS_PER_S - shown_ns(r) % NS_PER_S;
    if ((r->reg[REG_B] & B_PIE) && period && (now / period + 1) * period < next)
        next = (now / period + 1) * period;
    if (next == CLOCK_NEVER)
        clock_disarm(r->clock, &r->timer);
    else
        clock_arm(r->clock, &r->timer, next);
}

static void fire(void *dev, u64 now)
{
    struct mc146818 *r = dev;

    (void)now;
    look(r);
    schedule(r);
}

// --- registers --------------------------------------------------------------------------------------------------------------------

static u8 read_a(const struct mc146818 *r)
{
    bool uip = !frozen(r) && shown_ns(r) % NS_PER_S >= NS_PER_S - UIP_NS;

    return (r->reg[REG_A] & 0x7f) | (uip ? A_UIP : 0);
}

static u8 read_c(struct mc146818 *r)
{
    u8 c;

    look(r);
    c = r->reg[REG_C];
    r->reg[REG_C] = 0;
    update_irq(r);
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

static void write_b(struct mc146818 *r, u8 val)
{
    bool was = frozen(r);

    if (!was)
        fill_time(r); // also when the format changes: registers are kept, not converted
    look(r);
    if (was && !(val & B_SET)) {
        r->reg[REG_B] = val;
        take_time(r);
    }
    r->reg[REG_B] = val & B_SET ? val & (u8)~B_UIE : val; // setting clears UIE
    r->seen_second = shown_s(r);
    update_irq(r);
    schedule(r);
}

static void write_data(struct mc146818 *r, u8 val)
{
    if (!frozen(r) && is_time(r->index)) {
        fill_time(r);
        r->reg[r->index] = val;
        take_time(r);
        return;
    }
    switch (r->index) {
    case REG_A:
        look(r);
        r->reg[REG_A] = val & 0x7f;
        r->seen_period = period_ns(r) ? clock_now(r->clock) / period_ns(r) : 0;
        schedule(r);
        break;
    case REG_B: write_b(r, val); break;
    case REG_C:
    case REG_D: break; // read-only
    default: r->reg[r->index] = val; break;
    }
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

    r->reg[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE);
    r->reg[REG_C] = 0;
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
    set_clock(r, utc_ns / (i64)NS_PER_S);
    r->base_ns += (u64)(utc_ns % (i64)NS_PER_S);
    r->reg[REG_A] = 0x26; // 32.768 kHz, 1024 Hz
    r->reg[REG_B] = B_24H;
    r->reg[REG_D] = D_VALID;
    r->seen_second = shown_s(r);
    put_memory(r, ram_low, ram_high);
    return 0;
}
