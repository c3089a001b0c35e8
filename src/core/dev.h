// Contract: what a device model is to the rest of the machine. A device is a pure state machine: it is told of accesses and
// of time, and answers through return values and irq lines. It knows no engine, no host, no other device.
#ifndef POGO_CORE_DEV_H
#define POGO_CORE_DEV_H

#include "pogo/types.h"

struct state_writer; // snapshot streams; no device writes or reads one yet
struct state_reader;

// Accesses: `off` is the offset into the region that was registered, `size` is 1, 2, 4 or 8 bytes, `val` is zero-extended.
// Port I/O and MMIO use the same two functions.
struct dev_ops {
    const char *name;
    void (*reset)(void *dev);
    u64 (*read)(void *dev, u64 off, unsigned size);
    void (*write)(void *dev, u64 off, unsigned size, u64 val);
    void (*save)(void *dev, struct state_writer *w);
    int (*load)(void *dev, struct state_reader *r);
    void (*dump)(void *dev, char *buf, size_t size); // for the monitor: human-readable state
    void (*fini)(void *dev);
};

// One end of an interrupt wire: where a device's output goes.
struct irq_line {
    void (*set)(void *sink, unsigned n, bool level);
    void *sink;
    unsigned n;
};

static inline void irq_set(struct irq_line line, bool level)
{
    if (line.set)
        line.set(line.sink, line.n, level);
}

static inline void irq_pulse(struct irq_line line)
{
    irq_set(line, true);
    irq_set(line, false);
}

#endif
