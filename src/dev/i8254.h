// Intel 8254 programmable interval timer, and port 0x61 (system control port B), which holds channel 2's gate and output.
// Facts from the 8254 data sheet. Counts follow the machine's clock at 1.193182 MHz.
#ifndef POGO_DEV_I8254_H
#define POGO_DEV_I8254_H

#include "core/clock.h"
#include "core/dev.h"

#define I8254_HZ 1193182u

struct i8254_channel {
    u8 mode;   // 0..5
    u8 access; // 1 low byte, 2 high byte, 3 low then high
    bool bcd, gate;
    bool loaded;     // a count was written since the control word
    bool write_high; // access 3: the high byte comes next
    bool read_high;
    u8 write_low;   // access 3: the low byte, until the high one comes
    u32 count;      // what was written; 1..65536 (10000 in BCD)
    u64 start;      // virtual ns at which counting began, as if never stopped
    u64 stopped;    // gate low: ticks counted before
    bool triggered; // modes 1 and 5: counting since a rising gate
    u8 latched;     // bytes of `latch` still to be read
    u16 latch;
    bool status_latched;
    u8 status;
};

struct i8254 {
    struct i8254_channel ch[3];
    u8 port61;           // bits 0 (gate 2), 1 (speaker)
    struct irq_line irq; // channel 0's output
    struct clock *clock;
    struct clock_timer timer;
};

extern const struct dev_ops i8254_ops;        // ports 0x40..0x43
extern const struct dev_ops i8254_port61_ops; // port 0x61

// `irq` and `clock` are set by the caller before. Adds a timer to the clock; 0 or a negative errno.
int i8254_init(struct i8254 *t);
void i8254_reset(void *dev);

#endif
