// 8259A pair.
//
// Priority is a ring: `lowest` has the lowest, the next input the highest. A request is let through when it beats every
// input in service; the master sees its slave as input 2. Edge-triggered requests stay latched in IRR until acknowledged, also when
// the input goes low before (the data sheet has it so only while the input stays high; every PC driver works with both).

#include "dev/i8259.h"

#include <stdio.h>

#define CASCADE 2
#define NONE 8 // no input; also "priority" below all others

#define ICW1_INIT 0x10
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
#define ICW4_SPECIAL_NESTED 0x10
#define ICW4_AUTO_EOI 0x02
#define OCW3_SELECT 0x08

// Number of the input in `mask` with the highest priority, or NONE.
static unsigned highest(const struct i8259_chip *c, u8 mask)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned n = (c->lowest + i) & 7;
        if (mask & (1u << n))
            return n;
    }
    return NONE;
}

// Rank of an input: 0 is highest, NONE for none.
static unsigned rank(const struct i8259_chip *c, unsigned n)
{
    return n == NONE ? NONE : (n - c->lowest - 1) & 7;
}

// The input that would be acknowledged now, or NONE.
static unsigned request(const struct i8259_chip *c, bool master)
{
    u8 blocking = c->isr;
    unsigned n = highest(c, c->irr & (u8)~c->imr);

    // Special mask mode: inputs that are masked do not hold back others. Special fully nested: the slave may interrupt
    // itself, it does its own ordering.
    if (c->special_mask)
        blocking &= (u8)~c->imr;
    if (c->special_nested && master)
        blocking &= (u8) ~(1u << CASCADE);
    return rank(c, n) < rank(c, highest(c, blocking)) ? n : NONE;
}

static void set_input(struct i8259_chip *c, unsigned n, bool level)
{
    u8 bit = (u8)(1u << n);

    c->count[n] += level && !(c->lines & bit);
    if (c->elcr & bit) {
        c->irr = level ? c->irr | bit : c->irr & (u8)~bit;
    } else if (level && !(c->lines & bit)) {
        c->irr |= bit;
    }
    c->lines = level ? c->lines | bit : c->lines & (u8)~bit;
}

// Work out both INT pins: slave first, its pin is an input of the master. The cascade input follows the pin like a level.
static void update(struct i8259 *p)
{
    struct i8259_chip *m = &p->chip[0], *s = &p->chip[1];
    u8 cascade = 1u << CASCADE;
    bool out;

    s->out = !s->init_state && request(s, false) != NONE;
    m->irr = s->out ? m->irr | cascade : m->irr & (u8)~cascade;
    out = !m->init_state && request(m, true) != NONE;
    if (out != m->out) {
        m->out = out;
        irq_set(p->intr, out);
    }
}

void i8259_set_irq(void *pic, unsigned n, bool level)
{
    struct i8259 *p = pic;

    if (n > 15 || n == CASCADE)
        return;
    set_input(&p->chip[n >> 3], n & 7, level);
    update(p);
}

// Acknowledge input n of one chip. Returns n, or 7 (spurious: nothing goes in service) for NONE.
static unsigned acknowledge(struct i8259_chip *c, unsigned n)
{
    u8 bit = (u8)(1u << (n & 7));

    if (n == NONE)
        return 7;
    if (!(c->elcr & bit))
        c->irr &= (u8)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto_eoi)
        c->lowest = (u8)n;
    return n;
}

int i8259_ack(void *pic)
{
    struct i8259 *p = pic;
    struct i8259_chip *m = &p->chip[0], *s = &p->chip[1];
    unsigned wanted = request(m, true);
    unsigned n = acknowledge(m, wanted);
    int vector = m->base + (int)n;

    if (wanted == CASCADE)
        vector = s->base + (int)acknowledge(s, request(s, false));
    update(p);
    return vector;
}

static void write_icw1(struct i8259_chip *c, u8 val)
{
    c->init_state = 2;
    c->need_icw4 = val & ICW1_ICW4;
    c->single = val & ICW1_SINGLE;
    // The edge sense is reset: inputs must rise again. Level inputs stay requested as long as they are high.
    c->irr &= c->elcr;
    c->isr = c->imr = 0;
    c->lowest = 7;
    c->auto_eoi = c->rotate_auto_eoi = c->special_mask = c->special_nested = c->read_isr = c->poll = false;
}

static void write_ocw2(struct i8259_chip *c, u8 val)
{
    unsigned n = val & 7;
    u8 in_service = c->isr;

    // A non-specific EOI in special mask mode passes over inputs that are masked.
    if (c->special_mask)
        in_service &= (u8)~c->imr;
    switch (val >> 5) {
    case 0: c->rotate_auto_eoi = false; break;
    case 1: // non-specific EOI
    case 5: // and rotate
        n = highest(c, in_service);
        if (n == NONE)
            break;
        c->isr &= (u8) ~(1u << n);
        if (val >> 5 == 5)
            c->lowest = (u8)n;
        break;
    case 3: c->isr &= (u8) ~(1u << n); break;
    case 4: c->rotate_auto_eoi = true; break;
    case 6: c->lowest = (u8)n; break;
    case 7:
        c->isr &= (u8) ~(1u << n);
        c->lowest = (u8)n;
        break;
    }
}

static void write_ocw3(struct i8259_chip *c, u8 val)
{
    if (val & 0x40)
        c->special_mask = val & 0x20;
    if (val & 0x04)
        c->poll = true;
    else if (val & 0x02)
        c->read_isr = val & 0x01;
}

// ICW2 to ICW4, or the mask.
static void write_data(struct i8259_chip *c, u8 val)
{
    switch (c->init_state) {
    case 0: c->imr = val; break;
    case 2:
        c->base = val & 0xf8;
        c->init_state = !c->single ? 3 : c->need_icw4 ? 4 : 0;
        break;
    case 3: c->init_state = c->need_icw4 ? 4 : 0; break; // which input is cascaded: wired
    case 4:
        c->special_nested = val & ICW4_SPECIAL_NESTED;
        c->auto_eoi = val & ICW4_AUTO_EOI;
        c->init_state = 0;
        break;
    }
}

static void i8259_write(void *dev, u64 off, unsigned size, u64 val64)
{
    struct i8259_window *w = dev;
    struct i8259_chip *c = &w->pic->chip[w->chip];
    u8 val = (u8)val64;

    (void)size;
    if (off)
        write_data(c, val);
    else if (val & ICW1_INIT)
        write_icw1(c, val);
    else if (val & OCW3_SELECT)
        write_ocw3(c, val);
    else
        write_ocw2(c, val);
    update(w->pic);
}

static u64 i8259_read(void *dev, u64 off, unsigned size)
{
    struct i8259_window *w = dev;
    struct i8259_chip *c = &w->pic->chip[w->chip];

    (void)size;
    if (c->poll) {
        unsigned n = request(c, w->chip == 0);

        // A poll is an acknowledge cycle of this chip alone.
        c->poll = false;
        if (n == NONE)
            return 0;
        acknowledge(c, n);
        update(w->pic);
        return 0x80 | n;
    }
    if (off)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static u64 elcr_read(void *dev, u64 off, unsigned size)
{
    struct i8259 *p = dev;

    (void)size;
    return p->chip[off & 1].elcr;
}

static void elcr_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8259 *p = dev;
    struct i8259_chip *c = &p->chip[off & 1];

    (void)size;
    c->elcr = (u8)val & c->elcr_mask;
    c->irr = (c->irr & (u8)~c->elcr) | (c->lines & c->elcr); // a level-triggered request is its input
    update(p);
}

void i8259_reset(struct i8259 *p)
{
    for (unsigned i = 0; i < 2; i++) {
        u8 lines = p->chip[i].lines;

        p->chip[i] = (struct i8259_chip){.lowest = 7, .lines = lines};
    }
    p->chip[0].elcr_mask = 0xf8; // timer, keyboard and cascade are edge-triggered
    p->chip[1].elcr_mask = 0xde; // clock and coprocessor too
    irq_set(p->intr, false);
}

void i8259_init(struct i8259 *p, struct irq_line intr)
{
    *p = (struct i8259){.intr = intr};
    for (u8 i = 0; i < 2; i++)
        p->window[i] = (struct i8259_window){.pic = p, .chip = i};
    i8259_reset(p);
}

static void window_reset(void *dev)
{
    struct i8259_window *w = dev;

    if (w->chip == 0)
        i8259_reset(w->pic);
}

static void i8259_dump(void *dev, char *buf, size_t size)
{
    struct i8259_window *w = dev;
    const struct i8259_chip *c = &w->pic->chip[w->chip];

    snprintf(buf, size, "irr %02x isr %02x imr %02x lines %02x elcr %02x base %02x lowest %u%s%s%s", c->irr, c->isr,
             c->imr, c->lines, c->elcr, c->base, c->lowest, c->auto_eoi ? " auto-eoi" : "",
             c->special_mask ? " special-mask" : "", c->special_nested ? " special-nested" : "");
}

const struct dev_ops i8259_ops = {
    .name = "i8259", .reset = window_reset, .read = i8259_read, .write = i8259_write, .dump = i8259_dump};

const struct dev_ops i8259_elcr_ops = {.name = "elcr", .read = elcr_read, .write = elcr_write};
