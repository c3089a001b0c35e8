// The high-precision event timer: one 64-bit counter of 100 MHz and three comparators. IA-PC HPET specification 1.0a.
#ifndef POGO_DEV_HPET_H
#define POGO_DEV_HPET_H

#include "core/clock.h"
#include "core/dev.h"

#define HPET_BASE 0xfed00000ull
#define HPET_SIZE 0x400
#define HPET_TIMERS 3
#define HPET_TICK_NS 10
#define HPET_PINS 24

struct hpet;

struct hpet_timer {
    struct hpet *hpet;
    unsigned n;
    u64 config, cmp, period;
    bool set_value; // the next write of the comparator sets it, not the period
    u64 due_ns;     // virtual time of the next match; CLOCK_NEVER: none in sight
    u8 wire;        // the wire that it holds up (a level interrupt), or 0
    struct clock_timer timer;
};

struct hpet {
    u64 config, status;
    u64 base;  // the counter while it stands, and what it was
    u64 start; // at this virtual time, in ns, while it runs
    struct hpet_timer t[HPET_TIMERS];

    // Links, kept over a reset. pin[n] is input n of the I/O APIC; with legacy replacement timer 0 drives legacy[0] in place of
    // the 8254, and timer 1 legacy[1] in place of the RTC. The board asks hpet_legacy() whose those wires are, and is told when
    // that has changed, with the wires as the HPET drives them low.
    struct irq_line pin[HPET_PINS], legacy[2];
    void (*switched)(void *board); // may be NULL
    void *board;
    struct clock *clock;
};

extern const struct dev_ops hpet_ops; // the page in memory

// Links are set by the caller before; adds the timers to the clock. Returns 0 or a negative errno.
int hpet_init(struct hpet *h);
void hpet_reset(struct hpet *h);
static inline bool hpet_legacy(const struct hpet *h)
{
    return h->config >> 1 & 1;
}

#endif
