// Intel 8259A interrupt controllers, the master and slave pair of the PC/AT with the edge/level registers of the PIIX.
// Facts from the 8259A data sheet and the 82371SB data sheet (ELCR).
//
// Ports: 0x20-0x21 master, 0xa0-0xa1 slave, 0x4d0-0x4d1 ELCR; three register windows on one struct.
#ifndef POGO_DEV_I8259_H
#define POGO_DEV_I8259_H

#include "core/dev.h"

struct i8259_chip {
    u8 irr, isr, imr;
    u8 lines;      // levels of the eight inputs
    u8 elcr;       // level-triggered inputs
    u8 elcr_mask;  // bits of ELCR that can be set
    u8 base;       // vector of input 0
    u8 lowest;     // input with the lowest priority; 7 after initialisation
    u8 init_state; // 0: ready; else the ICW that is expected next
    bool need_icw4, single;
    bool auto_eoi, rotate_auto_eoi;
    bool special_mask, special_nested;
    bool read_isr, poll;
    bool out;     // INT pin
    u64 count[8]; // how often each input has risen, for the monitor
};

struct i8259_window {
    struct i8259 *pic;
    u8 chip;
};

struct i8259 {
    struct i8259_chip chip[2];
    struct i8259_window window[2]; // `dev` of the register windows at 0x20 and 0xa0
    struct irq_line intr;          // to the processor
};

extern const struct dev_ops i8259_ops;      // dev is a struct i8259_window
extern const struct dev_ops i8259_elcr_ops; // dev is the struct i8259

// Power-on state; keeps intr.
void i8259_init(struct i8259 *p, struct irq_line intr);
void i8259_reset(struct i8259 *p);
// Sink of irq_line: input n = 0..15 (2 is the cascade and ignored).
void i8259_set_irq(void *pic, unsigned n, bool level);
// INTA cycle: the vector. When the request went away meanwhile that is the spurious vector (input 7 of the chip).
int i8259_ack(void *pic);

#endif
