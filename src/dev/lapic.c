// Local APIC.
//
// IRR and ISR are 256-bit sets; the highest bit wins, in classes of 16 vectors. An interrupt is handed over when its class is above
// that of PPR, which is the greater of TPR and the highest vector in service.
//
// One table of behaviour serves both faces: the page in memory and the MSRs have the same register numbers (offset / 16);
// what only one of them has is sorted out in the two entry points.

#include "dev/lapic.h"

#include <stdio.h>

#define BASE_EXTD 0x400u
#define BASE_ENABLE 0x800u
#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC 0x800u

// Register numbers: offset / 16.
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

#define VERSION (0x14u | (LAPIC_LVT_COUNT - 1) << 16)

#define LVT_REMOTE_IRR 0x4000u
#define LVT_LEVEL 0x8000u
#define LVT_MASKED 0x10000u
#define LVT_TIMER_MODE 0x60000u
#define LVT_PERIODIC 0x20000u
#define LVT_DEADLINE 0x40000u

#define SVR_ENABLE 0x100u

#define ICR_LOGICAL 0x800u
#define ICR_BUSY 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_LEVEL 0x8000u
#define ICR_VALID 0xccfffu // writable bits of the low half, without the busy bit

#define ESR_SEND_VECTOR 0x20u
#define ESR_RECEIVE_VECTOR 0x40u
#define ESR_REGISTER 0x80u

#define NS_PER_S 1000000000ull

static bool x2apic(const struct lapic *l)
{
    return (l->base & (BASE_ENABLE | BASE_EXTD)) == (BASE_ENABLE | BASE_EXTD);
}

// --- vectors ----------------------------------------------------------------------------------------------------------------

static int highest(const u32 set[8])
{
    for (int i = 7; i >= 0; i--)
        if (set[i])
            return i * 32 + 31 - __builtin_clz(set[i]);
    return -1;
}

static void set_vector(u32 set[8], unsigned v, bool on)
{
    u32 bit = 1u << (v & 31);

    set[v >> 5] = on ? set[v >> 5] | bit : set[v >> 5] & ~bit;
}

static bool has_vector(const u32 set[8], unsigned v)
{
    return set[v >> 5] >> (v & 31) & 1;
}

static u32 get_tpr(const struct lapic *l)
{
    return (u32)(*l->cr8 & 15) << 4 | l->tpr_low;
}

// SDM 3A 11.8.3.1.
static u32 get_ppr(const struct lapic *l)
{
    int service = highest(l->isr);
    u32 tpr = get_tpr(l), class = service < 0 ? 0 : (u32)service & 0xf0;

    return (tpr & 0xf0) >= class ? tpr : class;
}

// Vector that would be handed over now, or -1.
static int pending(const struct lapic *l)
{
    int v = (l->base & BASE_ENABLE) && (l->svr & SVR_ENABLE) ? highest(l->irr) : -1;

    return v >= 0 && ((u32)v & 0xf0) > (get_ppr(l) & 0xf0) ? v : -1;
}

bool lapic_extint(const struct lapic *l)
{
    u32 lvt = l->lvt[LAPIC_LVT_LINT0];

    // Without its APIC the processor has an INTR pin in place of LINT0.
    return l->lint0 && (!(l->base & BASE_ENABLE) || (!(lvt & LVT_MASKED) && (lvt >> 8 & 7) == LAPIC_EXTINT));
}

static void update(struct lapic *l)
{
    bool out = lapic_extint(l) || pending(l) >= 0;

    if (out == l->out)
        return;
    l->out = out;
    irq_set(l->intr, out);
}

int lapic_ack(struct lapic *l)
{
    int v = pending(l);

    if (v < 0)
        return -1;
    l->count++;
    set_vector(l->irr, (unsigned)v, false);
    set_vector(l->isr, (unsigned)v, true);
    update(l);
    return v;
}

// LINT0 as an interrupt of its own, when it is not the 8259's. Level-triggered (fixed mode only) it is not accepted again before
// its EOI. SDM 3A 11.5.1.
static void service_lint0(struct lapic *l, bool rose)
{
    u32 *lvt = &l->lvt[LAPIC_LVT_LINT0], mode = *lvt >> 8 & 7;
    bool level = (*lvt & LVT_LEVEL) && mode == LAPIC_FIXED;

    if (!l->lint0 || !(l->base & BASE_ENABLE) || (*lvt & LVT_MASKED) || mode == LAPIC_EXTINT)
        return;
    if (level ? *lvt & LVT_REMOTE_IRR : !rose)
        return;
    if (level)
        *lvt |= LVT_REMOTE_IRR;
    lapic_accept(l, (enum lapic_mode)mode, (u8)*lvt, level);
}

void lapic_set_lint0(struct lapic *l, bool level)
{
    bool rose = level && !l->lint0;

    l->lint0 = level;
    service_lint0(l, rose);
    update(l);
}

void lapic_cr8_written(struct lapic *l)
{
    l->tpr_low = 0;
    update(l);
}

// Note an error; its interrupt comes with the first note after the last reading.
static void note_error(struct lapic *l, u32 bit)
{
    u32 lvt = l->lvt[LAPIC_LVT_ERROR];

    if (l->esr_pending & bit)
        return;
    l->esr_pending |= bit;
    if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
        lapic_accept(l, LAPIC_FIXED, (u8)lvt, false);
}

void lapic_accept(struct lapic *l, enum lapic_mode mode, u8 vector, bool level)
{
    if (!(l->base & BASE_ENABLE))
        return;
    switch (mode) {
    case LAPIC_FIXED:
    case LAPIC_LOWEST:
        if (!(l->svr & SVR_ENABLE))
            return;
        if (vector < 16) {
            note_error(l, ESR_RECEIVE_VECTOR);
            return;
        }
        set_vector(l->irr, vector, true);
        set_vector(l->tmr, vector, level);
        update(l);
        break;
    case LAPIC_NMI:
    case LAPIC_SMI:
    case LAPIC_SIPI: l->event(l->cpu, mode, vector); break;
    case LAPIC_INIT:
        lapic_reset(l, l->base);
        l->event(l->cpu, mode, vector);
        break;
    default: break;
    }
}

static u32 get_ldr(const struct lapic *l)
{
    // In x2APIC mode it follows from the id. SDM 3A 11.12.10.2.
    return x2apic(l) ? (l->id >> 4) << 16 | 1u << (l->id & 15) : l->ldr;
}

bool lapic_addressed(const struct lapic *l, u32 dest, bool logical)
{
    u32 ldr = get_ldr(l);

    if (x2apic(l)) {
        if (dest == 0xffffffff || !logical)
            return dest == 0xffffffff || dest == l->id;
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    if (dest == 0xff || dest == 0xffffffff || !logical)
        return dest == 0xff || dest == 0xffffffff || dest == l->xapic_id;
    ldr >>= 24;
    if (l->dfr >> 28 == 0xf) // flat model
        return dest & ldr;
    return dest >> 4 == ldr >> 4 && (dest & ldr & 0xf);
}

// --- timer ------------------------------------------------------------------------------------------------------------------

static u64 scale(u64 val, u64 num, u64 den)
{
    unsigned __int128 r = (unsigned __int128)val * num / den;

    return r > CLOCK_NEVER - 1 ? CLOCK_NEVER - 1 : (u64)r;
}

// `ns` from `now`; never so far that it wraps.
static u64 after(u64 now, u64 ns)
{
    return ns < CLOCK_NEVER - 1 - now ? now + ns : CLOCK_NEVER - 1;
}

// Nanoseconds that `counts` of the timer take. Divide configuration: bits 3, 1, 0. SDM 3A figure 11-10.
static u64 timer_ns(const struct lapic *l, u64 counts)
{
    unsigned code = (l->timer_divide >> 1 & 4) | (l->timer_divide & 3);
    unsigned shift = (code + 1) & 7;
    u64 ns = scale(counts << shift, NS_PER_S, l->timer_hz);

    return ns ? ns : 1;
}

static u32 timer_mode(const struct lapic *l)
{
    return l->lvt[LAPIC_LVT_TIMER] & LVT_TIMER_MODE;
}

// The timer counts from timer_from, which it had at timer_start, to 0; from 0 it does not count.
static u32 timer_current(const struct lapic *l)
{
    u64 elapsed = clock_now(l->clock) - l->timer_start, whole = timer_ns(l, l->timer_from);

    if (!l->timer_from || timer_mode(l) == LVT_DEADLINE)
        return 0;
    if (elapsed >= whole) { // due, but nobody has come yet
        if (timer_mode(l) != LVT_PERIODIC)
            return 0;
        elapsed -= whole;
        whole = timer_ns(l, l->timer_initial);
        return l->timer_initial - (u32)scale(elapsed % whole, l->timer_initial, whole);
    }
    return l->timer_from - (u32)scale(elapsed, l->timer_from, whole);
}

// Nanoseconds until it gets there.
static u64 timer_left(const struct lapic *l)
{
    u64 elapsed = clock_now(l->clock) - l->timer_start, whole = timer_ns(l, l->timer_from);

    return elapsed < whole ? whole - elapsed : 0;
}

// Count down from `count`, now.
static void timer_start(struct lapic *l, u32 count)
{
    l->timer_start = clock_now(l->clock);
    l->timer_from = count;
    if (count)
        clock_arm(l->clock, &l->timer, after(l->timer_start, timer_ns(l, count)));
    else
        clock_disarm(l->clock, &l->timer);
}

static void expire(struct lapic *l)
{
    u32 lvt = l->lvt[LAPIC_LVT_TIMER];

    if (!(lvt & LVT_MASKED))
        lapic_accept(l, LAPIC_FIXED, (u8)lvt, false);
}

static void deadline_start(struct lapic *l)
{
    u64 now = clock_now(l->clock), tsc = l->tsc(l->cpu);

    clock_disarm(l->clock, &l->timer);
    if (!l->tsc_deadline)
        return;
    if (l->tsc_deadline > tsc) {
        clock_arm(l->clock, &l->timer, after(now, scale(l->tsc_deadline - tsc, NS_PER_S, l->tsc_hz)));
    } else { // past: the interrupt comes with the write
        l->tsc_deadline = 0;
        expire(l);
    }
}

// The periodic timer: the next end of a period. Periods that were missed altogether count once, since IRR has one bit, and
// so do those that are too short for anybody to notice.
static void next_period(struct lapic *l, u64 now)
{
    u64 period = timer_ns(l, l->timer_initial), next;

    l->timer_start += timer_ns(l, l->timer_from);
    l->timer_start += (now - l->timer_start) / period * period;
    l->timer_from = l->timer_initial;
    next = after(l->timer_start, period);
    clock_arm(l->clock, &l->timer, next > now + CLOCK_MIN_PERIOD_NS ? next : now + CLOCK_MIN_PERIOD_NS);
}

static void timer_fire(void *dev, u64 now)
{
    struct lapic *l = dev;

    if (timer_mode(l) == LVT_DEADLINE) {
        // Nanoseconds are coarser than the TSC: never early.
        if (l->tsc(l->cpu) < l->tsc_deadline) {
            clock_arm(l->clock, &l->timer, now + 1);
            return;
        }
        l->tsc_deadline = 0;
    } else if (timer_mode(l) == LVT_PERIODIC && l->timer_initial) {
        next_period(l, now);
    } else {
        l->timer_from = 0;
    }
    expire(l);
}

static void write_lvt_timer(struct lapic *l, u32 val)
{
    u32 changed = (l->lvt[LAPIC_LVT_TIMER] ^ val) & LVT_TIMER_MODE;

    // What is due, though nobody has come yet, ends in the mode that it was begun in.
    if (changed && l->timer_from && timer_mode(l) != LVT_DEADLINE && !timer_left(l)) {
        clock_disarm(l->clock, &l->timer);
        timer_fire(l, clock_now(l->clock));
    }
    l->lvt[LAPIC_LVT_TIMER] = val;
    // Changing to or from deadline mode disarms the timer; between the others the count goes on. SDM 3A 11.5.4.1.
    if (changed & LVT_DEADLINE) {
        l->timer_initial = l->timer_from = 0;
        l->tsc_deadline = 0;
        clock_disarm(l->clock, &l->timer);
    }
}

// Another divisor: what is left is counted at the new rate.
static void write_divide(struct lapic *l, u32 val)
{
    u32 current = timer_current(l);

    if (timer_mode(l) != LVT_DEADLINE && l->timer_from) {
        l->timer_divide = val & 0xb;
        timer_start(l, current ? current : 1); // due is due
    }
    l->timer_divide = val & 0xb;
}

// --- registers ----------------------------------------------------------------------------------------------------------------

static const u32 lvt_valid[LAPIC_LVT_COUNT] = {
    [LAPIC_LVT_TIMER] = 0x700ff, [LAPIC_LVT_THERMAL] = 0x107ff, [LAPIC_LVT_PERF] = 0x107ff,
    [LAPIC_LVT_LINT0] = 0x1a7ff, [LAPIC_LVT_LINT1] = 0x1a7ff,   [LAPIC_LVT_ERROR] = 0x100ff,
};

static u32 read_reg(const struct lapic *l, unsigned reg)
{
    if (reg >= REG_ISR && reg < REG_ISR + 8)
        return l->isr[reg - REG_ISR];
    if (reg >= REG_TMR && reg < REG_TMR + 8)
        return l->tmr[reg - REG_TMR];
    if (reg >= REG_IRR && reg < REG_IRR + 8)
        return l->irr[reg - REG_IRR];
    if (reg >= REG_LVT && reg < REG_LVT + LAPIC_LVT_COUNT)
        return l->lvt[reg - REG_LVT];
    switch (reg) {
    case REG_ID: return x2apic(l) ? l->id : (u32)l->xapic_id << 24;
    case REG_VERSION: return VERSION;
    case REG_TPR: return get_tpr(l);
    case REG_PPR: return get_ppr(l);
    case REG_LDR: return get_ldr(l);
    case REG_DFR: return l->dfr;
    case REG_SVR: return l->svr;
    case REG_ESR: return l->esr;
    case REG_ICR: return (u32)l->icr;
    case REG_ICR_HIGH: return (u32)(l->icr >> 32);
    case REG_INITIAL: return l->timer_initial;
    case REG_CURRENT: return timer_current(l);
    case REG_DIVIDE: return l->timer_divide;
    default: return 0;
    }
}

static void end_of_interrupt(struct lapic *l)
{
    int v = highest(l->isr);

    if (v < 0)
        return;
    set_vector(l->isr, (unsigned)v, false);
    if (!has_vector(l->tmr, (unsigned)v))
        return;
    if ((l->lvt[LAPIC_LVT_LINT0] & LVT_REMOTE_IRR) && (l->lvt[LAPIC_LVT_LINT0] & 0xff) == (unsigned)v) {
        l->lvt[LAPIC_LVT_LINT0] &= ~LVT_REMOTE_IRR;
        service_lint0(l, false);
    }
    if (l->eoi)
        l->eoi(l->bus, (u8)v);
}

static void write_svr(struct lapic *l, u32 val)
{
    l->svr = val & 0x1ff;
    if (l->svr & SVR_ENABLE)
        return;
    // Disabling by software masks every LVT entry. SDM 3A 11.4.7.2.
    for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
        l->lvt[i] |= LVT_MASKED;
}

static void write_lvt(struct lapic *l, unsigned n, u32 val)
{
    val &= lvt_valid[n];
    if (!(l->svr & SVR_ENABLE))
        val |= LVT_MASKED;
    if (n == LAPIC_LVT_TIMER) {
        write_lvt_timer(l, val);
    } else if (n == LAPIC_LVT_LINT0) {
        // Remote IRR is the APIC's, and only a level has it.
        l->lvt[n] = val | (val & LVT_LEVEL ? l->lvt[n] & LVT_REMOTE_IRR : 0);
        service_lint0(l, false);
    } else {
        l->lvt[n] = val;
    }
}

static void send_ipi(struct lapic *l)
{
    u32 low = (u32)l->icr, dest = x2apic(l) ? (u32)(l->icr >> 32) : (u32)(l->icr >> 56);
    unsigned mode = low >> 8 & 7;

    if ((mode == LAPIC_FIXED || mode == LAPIC_LOWEST) && (low & 0xff) < 16) {
        note_error(l, ESR_SEND_VECTOR);
        return;
    }
    // INIT level de-assert only synchronises arbitration ids, on processors that have them.
    if (mode == LAPIC_INIT && (low & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
        return;
    l->send(l->bus, l, low, dest);
}

static void write_reg(struct lapic *l, unsigned reg, u32 val)
{
    if (reg >= REG_LVT && reg < REG_LVT + LAPIC_LVT_COUNT) {
        write_lvt(l, reg - REG_LVT, val);
    } else {
        switch (reg) {
        case REG_ID: l->xapic_id = (u8)(val >> 24); break;
        case REG_TPR:
            *l->cr8 = val >> 4 & 15;
            l->tpr_low = val & 15;
            break;
        case REG_EOI: end_of_interrupt(l); break;
        case REG_LDR: l->ldr = val & 0xff000000; break;
        case REG_DFR: l->dfr = val | 0x0fffffff; break;
        case REG_SVR: write_svr(l, val); break;
        case REG_ESR:
            l->esr = l->esr_pending;
            l->esr_pending = 0;
            break;
        case REG_ICR:
            l->icr = (l->icr & ~0xffffffffull) | (val & ICR_VALID);
            send_ipi(l);
            break;
        case REG_ICR_HIGH: l->icr = (u32)l->icr | (u64)(val & 0xff000000) << 32; break;
        case REG_INITIAL:
            if (timer_mode(l) == LVT_DEADLINE)
                break;
            l->timer_initial = val;
            timer_start(l, val);
            break;
        case REG_DIVIDE: write_divide(l, val); break;
        default: break;
        }
    }
    update(l);
}

// --- the page -----------------------------------------------------------------------------------------------------------------

// Registers that exist: the others are an error to touch. SDM 3A table 11-1.
static bool exists(unsigned reg)
{
    return reg == REG_ID || reg == REG_VERSION || (reg >= REG_TPR && reg <= REG_ESR) ||
           (reg >= REG_ICR && reg < REG_LVT + LAPIC_LVT_COUNT) || reg == REG_INITIAL || reg == REG_CURRENT ||
           reg == REG_DIVIDE;
}

static u64 lapic_read(void *dev, u64 off, unsigned size)
{
    struct lapic *l = dev;
    unsigned reg = (unsigned)(off >> 4);

    if (!(l->base & BASE_ENABLE) || x2apic(l))
        return ~0ull;
    (void)size;
    if (!exists(reg))
        note_error(l, ESR_REGISTER);
    // Registers are 32 bits wide; parts of them can be read. What lies between them reads as zero.
    return off & 0xc ? 0 : read_reg(l, reg) >> ((off & 3) * 8);
}

static void lapic_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct lapic *l = dev;
    unsigned reg = (unsigned)(off >> 4);

    if (!(l->base & BASE_ENABLE) || x2apic(l) || (off & 0xf) || size < 4)
        return;
    if (exists(reg))
        write_reg(l, reg, (u32)val);
    else
        note_error(l, ESR_REGISTER);
}

u64 lapic_page(const struct lapic *l)
{
    return (l->base & (BASE_ENABLE | BASE_EXTD)) == BASE_ENABLE ? l->base & ~0xfffull : 0;
}

static void lapic_dump(void *dev, char *buf, size_t size)
{
    const struct lapic *l = dev;

    snprintf(buf, size, "id %u base %llx svr %x tpr %x ppr %x irr %d isr %d timer %u/%u", l->id,
             (unsigned long long)l->base, l->svr, get_tpr(l), get_ppr(l), highest(l->irr), highest(l->isr),
             timer_current(l), l->timer_initial);
}

const struct dev_ops lapic_ops = {.name = "lapic", .read = lapic_read, .write = lapic_write, .dump = lapic_dump};

// --- MSRs -----------------------------------------------------------------------------------------------------------------------

// x2APIC registers: which exist, which can be read and written, and their valid bits. SDM 3A table 11-6.
static bool x2_readable(unsigned reg)
{
    switch (reg) {
    case REG_APR:
    case REG_EOI:
    case REG_RRD:
    case REG_DFR:
    case REG_ICR_HIGH:
    case REG_SELF_IPI: return false;
    case REG_ID:
    case REG_VERSION:
    case REG_DIVIDE: return true;
    default:
        return (reg >= REG_TPR && reg <= REG_ESR) || (reg >= REG_ICR && reg < REG_LVT + LAPIC_LVT_COUNT) ||
               (reg >= REG_INITIAL && reg <= REG_CURRENT);
    }
}

// Valid bits of a write; false when the register cannot be written.
static bool x2_writable(unsigned reg, u64 *valid)
{
    if (reg >= REG_LVT && reg < REG_LVT + LAPIC_LVT_COUNT) {
        *valid = lvt_valid[reg - REG_LVT] | 0x1000; // delivery status is read-only, not reserved;
        if (reg == REG_LVT + LAPIC_LVT_LINT0 || reg == REG_LVT + LAPIC_LVT_LINT1)
            *valid |= 0x4000; // so is remote IRR
        return true;
    }
    switch (reg) {
    case REG_TPR: *valid = 0xff; return true;
    case REG_EOI:
    case REG_ESR: *valid = 0; return true;
    case REG_SVR: *valid = 0x1ff; return true;
    case REG_ICR: *valid = 0xffffffff00000000ull | ICR_VALID; return true;
    case REG_INITIAL: *valid = 0xffffffff; return true;
    case REG_DIVIDE: *valid = 0xb; return true;
    case REG_SELF_IPI: *valid = 0xff; return true;
    default: return false;
    }
}

bool lapic_msr_read(struct lapic *l, u32 index, u64 *val)
{
    unsigned reg = index - MSR_X2APIC;

    if (index == MSR_TSC_DEADLINE) {
        *val = l->tsc_deadline;
        return true;
    }
    if (!x2apic(l) || reg > 0xff || !x2_readable(reg))
        return false;
    *val = reg == REG_ICR ? l->icr : read_reg(l, reg);
    return true;
}

static void set_base(struct lapic *l, u64 base)
{
    bool was_on = l->base & BASE_ENABLE;

    l->base = base;
    if (was_on && !(base & BASE_ENABLE)) {
        // Switching it off is a reset of it, which brings the ID back too. SDM 3A 11.4.3, 11.12.5.
        l->xapic_id = (u8)l->id;
        lapic_reset(l, base);
        return;
    }
    if (x2apic(l))
        l->icr &= 0xffffffff;
    update(l);
}

bool lapic_msr_write(struct lapic *l, u32 index, u64 val)
{
    unsigned reg = index - MSR_X2APIC;
    u64 valid;

    if (index == MSR_APIC_BASE) {
        set_base(l, val);
        return true;
    }
    if (index == MSR_TSC_DEADLINE) {
        // Ignored in the other timer modes. SDM 3A 11.5.4.1.
        if (timer_mode(l) != LVT_DEADLINE)
            return true;
        l->tsc_deadline = val;
        deadline_start(l);
        return true;
    }
    if (!x2apic(l) || reg > 0xff || !x2_writable(reg, &valid) || (val & ~valid))
        return false;
    if (reg == REG_SELF_IPI) {
        l->send(l->bus, l, (u32)val | 1u << 18, 0);
        return true;
    }
    if (reg == REG_ICR)
        l->icr = val;
    write_reg(l, reg, (u32)val);
    return true;
}

// --- life -----------------------------------------------------------------------------------------------------------------------

void lapic_reset(struct lapic *l, u64 apic_base)
{
    l->base = apic_base;
    l->ldr = 0;
    l->dfr = 0xffffffff;
    l->svr = 0xff;
    l->esr = l->esr_pending = 0;
    l->icr = 0;
    l->tpr_low = 0;
    l->timer_initial = l->timer_from = l->timer_divide = 0;
    l->tsc_deadline = 0;
    for (unsigned i = 0; i < 8; i++)
        l->isr[i] = l->irr[i] = l->tmr[i] = 0;
    for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
        l->lvt[i] = LVT_MASKED;
    if (l->id == 0)
        l->lvt[LAPIC_LVT_LINT0] = LAPIC_EXTINT << 8;
    clock_disarm(l->clock, &l->timer);
    update(l);
}

int lapic_init(struct lapic *l, u32 id)
{
    l->id = id;
    l->xapic_id = (u8)id;
    l->timer = (struct clock_timer){.fire = timer_fire, .dev = l};
    return clock_add_timer(l->clock, &l->timer);
}
