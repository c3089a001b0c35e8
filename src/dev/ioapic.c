// The I/O APIC. Intel 82093AA data sheet.
//
// Entry: 63..56 destination | 16 masked | 15 level-triggered | 14 remote IRR | 13 polarity | 12 delivery status | 11 logical
//        | 10..8 delivery mode | 7..0 vector

#include "dev/ioapic.h"

#include <stdio.h>

#define REG_SELECT 0x00
#define REG_WINDOW 0x10

#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARBITRATION 0x02
#define REG_ENTRY 0x10
#define VERSION 0x11

#define ENTRY_LOGICAL (1ull << 11)
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL (1ull << 15)
#define ENTRY_MASKED (1ull << 16)
#define ENTRY_WRITABLE 0xff0000000001afffull

static void send(struct ioapic *io, u64 e)
{
    struct apic_message m = {
        .vector = (u8)e,
        .mode = e >> 8 & 7,
        .level = (e & ENTRY_LEVEL) != 0,
        .logical = (e & ENTRY_LOGICAL) != 0,
        .dest = (u32)(e >> 56),
    };

    io->deliver(io->bus, &m);
}

// Send what a level-triggered pin has to say, if it may. Until the local APIC's EOI the same interrupt is not sent again.
static void service(struct ioapic *io, unsigned pin)
{
    u64 *e = &io->entry[pin];

    if (!io->line[pin] || !(*e & ENTRY_LEVEL) || (*e & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
        return;
    *e |= ENTRY_REMOTE_IRR;
    send(io, *e);
}

void ioapic_set_irq(void *sink, unsigned pin, bool level)
{
    struct ioapic *io = sink;

    if (pin >= IOAPIC_PINS || io->line[pin] == level)
        return;
    io->line[pin] = level;
    if (!level)
        return;
    io->count[pin]++;
    if (io->entry[pin] & ENTRY_LEVEL)
        service(io, pin);
    else if (!(io->entry[pin] & ENTRY_MASKED)) // edges at a masked pin are lost
        send(io, io->entry[pin]);
}

void ioapic_eoi(struct ioapic *io, u8 vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 *e = &io->entry[pin];
        if ((u8)*e != vector || !(*e & ENTRY_REMOTE_IRR))
            continue;
        *e &= ~ENTRY_REMOTE_IRR;
        service(io, pin);
    }
}

static u32 read_register(const struct ioapic *io)
{
    unsigned n = io->select - REG_ENTRY;

    if (n < IOAPIC_PINS * 2)
        return (u32)(io->entry[n / 2] >> (n & 1 ? 32 : 0));
    switch (io->select) {
    case REG_ID:
    case REG_ARBITRATION: return (u32)io->id << 24;
    case REG_VERSION: return VERSION | (IOAPIC_PINS - 1) << 16;
    default: return 0;
    }
}

static void write_entry(struct ioapic *io, unsigned pin, unsigned shift, u32 val)
{
    u64 *e = &io->entry[pin];
    u64 keep = *e & ~(0xffffffffull << shift);

    *e = ((keep | (u64)val << shift) & ENTRY_WRITABLE) | (*e & ENTRY_REMOTE_IRR);
    if (!(*e & ENTRY_LEVEL))
        *e &= ~ENTRY_REMOTE_IRR; // an edge has none; guests clear a stuck one this way
    service(io, pin);
}

static u64 ioapic_read(void *dev, u64 off, unsigned size)
{
    struct ioapic *io = dev;

    (void)size;
    switch (off & ~3ull) {
    case REG_SELECT: return io->select;
    case REG_WINDOW: return read_register(io);
    default: return 0;
    }
}

static void ioapic_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct ioapic *io = dev;
    unsigned n;

    (void)size;
    if (off == REG_SELECT)
        io->select = (u8)val;
    if (off != REG_WINDOW)
        return;
    n = io->select - REG_ENTRY;
    if (n < IOAPIC_PINS * 2)
        write_entry(io, n / 2, n & 1 ? 32 : 0, (u32)val);
    else if (io->select == REG_ID)
        io->id = (u8)(val >> 24 & 15);
}

void ioapic_reset(struct ioapic *io)
{
    io->select = 0;
    io->id = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->entry[pin] = ENTRY_MASKED;
}

static void reset(void *dev)
{
    ioapic_reset(dev);
}

static void dump(void *dev, char *buf, size_t size)
{
    struct ioapic *io = dev;
    size_t n = 0;

    for (unsigned pin = 0; pin < IOAPIC_PINS && n < size; pin++)
        if (!(io->entry[pin] & ENTRY_MASKED))
            n += (size_t)snprintf(buf + n, size - n, "pin %u: entry %016llx line %d\n", pin,
                                  (unsigned long long)io->entry[pin], io->line[pin]);
}

const struct dev_ops ioapic_ops = {
    .name = "ioapic", .reset = reset, .read = ioapic_read, .write = ioapic_write, .dump = dump};
