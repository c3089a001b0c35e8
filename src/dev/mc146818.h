// Motorola MC146818 real-time clock with 128 bytes of CMOS memory, at ports 0x70 (index) and 0x71 (data). Facts from the MC146818A data
// sheet; the meaning of the CMOS bytes beyond 0x0e is the PC's firmware convention.
#ifndef POGO_DEV_MC146818_H
#define POGO_DEV_MC146818_H

#include "core/clock.h"
#include "core/dev.h"

#define MC146818_SIZE 128

struct mc146818 {
    u8 reg[MC146818_SIZE]; // time registers are valid only while they are frozen (SET, divider reset)
    u8 index;
    u64 base_ns;      // the divider chain has run for the virtual time plus this
    i64 base_s;       // the clock shows the chain's seconds plus this, since 1970
    i64 seen_second;  // second of the last look: an update has ended since when it is another
    u64 seen_periods; // the same for periodic interrupts
    bool slew;        // periodic interrupts that came too late or found the one before unread are made up for
    u32 owed;         // so many
    u64 owed_at;      // the next of them, not before: virtual ns
    bool irq_level;
    struct irq_line irq;
    struct clock *clock;
    struct clock_timer timer;
};

extern const struct dev_ops mc146818_ops;

// `irq`, `clock` and `slew` are set by the caller before. `utc_ns` is the time of day; `ram` the bytes of guest memory, told in CMOS.
// Adds a timer to the clock; 0 or a negative errno.
int mc146818_init(struct mc146818 *r, i64 utc_ns, u64 ram_low, u64 ram_high);
// RESET: interrupts off; time and memory stay.
void mc146818_reset(void *dev);

#endif
