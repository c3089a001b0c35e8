// Intel 8254 programmable interval timer, and port 0x61 (system control port B), which holds channel 2's gate and output.
// Facts from the 8254 data sheet. Counts follow the machine's clock at 1.193182 MHz.
#ifndef POGO_DEV_I8254_H
#define POGO_DEV_I8254_H

#include "core/clock.h"
#include "core/dev.h"

#define I8254_HZ 1193182u

// Times are in ticks: pulses of CLK since the machine's time 0.
struct i8254_channel {
    u8 control; // bits 5:0 of the control word as written: access, mode, BCD
    bool gate;
    bool written;    // a whole count came since the control word
    bool write_high; // access 3: the high byte comes next
    bool read_high;
    u8 write_low; // access 3: the low byte, until the high one comes
    u8 latched;   // bytes of `latch` still to be read
    u16 latch;
    bool status_latched;
    u8 status;

    u32 reload;  // the count register: 1..65536 (10000 in BCD)
    bool null;   // it has not gone to the counting element yet
    u64 load_at; // it goes there with this pulse; CLOCK_NEVER: it waits for the gate, or the end of the period

    bool loaded;   // the counting element counts, or did until the gate stopped it
    u32 count;     // what it was loaded with
    u64 start;     // when, as if never stopped; in modes 2 and 3 the beginning of this period or half cycle
    bool frozen;   // stopped,
    u64 ticks;     // after so many pulses
    bool low_half; // mode 3: the output is low
    u16 residue;   // what it shows while not loaded
};

struct i8254 {
    struct i8254_channel ch[3];
    u8 port61;           // bits 0 (gate 2), 1 (speaker)
    u64 rise;            // tick of channel 0's next rising edge; CLOCK_NEVER: none
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
