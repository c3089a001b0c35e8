// 16550A UART: registers, FIFOs, loopback and interrupt priority.
//
// Offset  read            write          with LCR.DLAB
//   0     RBR             THR            DLL
//   1     IER             IER            DLM
//   2     IIR             FCR
//   3     LCR   4 MCR   5 LSR   6 MSR   7 SCR
//
// Interrupt output: on the PC it reaches the bus through a buffer that MCR.OUT2 opens.

#include "dev/uart16550.h"

#include <stdio.h>

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_RLS 0x04
#define IER_MSI 0x08

#define IIR_NONE 0x01
#define IIR_MSI 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_RLS 0x06
#define IIR_TIMEOUT 0x0c // characters in the FIFO, fewer than the trigger level, for a while
#define IIR_FIFOS 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04

#define LCR_BITS 0x03 // of a character, less 5
#define LCR_STOP 0x04
#define LCR_PARITY 0x08
#define LCR_DLAB 0x80

#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_BI 0x10
#define LSR_ERRORS 0x1e // OE, PE, FE, BI: cleared by reading; all but OE belong to the character that is read next
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define LSR_FIFO_ERROR 0x80

#define MSR_DELTA 0x0f
#define MSR_TERI 0x04 // trailing edge of RI: set when RI goes from 1 to 0
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_CONNECTED (MSR_CTS | MSR_DSR | MSR_DCD)

#define BAUD_MAX 115200u // of the PC's crystal, with divisor 1

static unsigned rx_trigger(const struct uart *u)
{
    static const u8 level[4] = {1, 4, 8, 14};

    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

// Highest-priority condition that is present and enabled, as IIR[3:0]. Data sheet table 4.
static u8 pending(const struct uart *u)
{
    if ((u->ier & IER_RLS) && (u->lsr & LSR_ERRORS))
        return IIR_RLS;
    if ((u->ier & IER_RDA) && u->count >= rx_trigger(u))
        return IIR_RDA;
    if ((u->ier & IER_RDA) && u->timeout)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre_pending)
        return IIR_THRE;
    if ((u->ier & IER_MSI) && (u->msr & MSR_DELTA))
        return IIR_MSI;
    return IIR_NONE;
}

static void update_irq(struct uart *u)
{
    bool level = pending(u) != IIR_NONE && (u->mcr & MCR_OUT2);

    if (level == u->irq_level)
        return;
    u->irq_level = level;
    irq_set(u->irq, level);
}

static unsigned rx_size(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? UART_FIFO_SIZE : 1;
}

// Nanoseconds that a character would take on a line of this speed: start bit, data, parity, stop bits.
static u64 character_ns(const struct uart *u)
{
    unsigned bits = 7 + (u->lcr & LCR_BITS) + !!(u->lcr & LCR_PARITY) + !!(u->lcr & LCR_STOP);
    unsigned divisor = u->dll | u->dlm << 8;

    return (u64)bits * (divisor ? divisor : 1) * 1000000000 / BAUD_MAX;
}

// A character went into the FIFO or came out of it: what is left there waits for four more to come.
static void restart_timeout(struct uart *u)
{
    u->timeout = false;
    if (u->count && (u->fcr & FCR_ENABLE))
        clock_arm(u->clock, &u->timer, clock_now(u->clock) + 4 * character_ns(u));
    else
        clock_disarm(u->clock, &u->timer);
}

static void on_timeout(void *dev, u64 now)
{
    struct uart *u = dev;

    (void)now;
    u->timeout = true;
    update_irq(u);
}

// Show the errors of the character that is read next.
static void show_errors(struct uart *u)
{
    if (!u->count)
        return;
    u->lsr |= u->errors[u->head];
    u->errors[u->head] = 0;
}

// Put a character in the receiver. Without room: the FIFO keeps what it has, RBR is overwritten; both set OE.
static void receive(struct uart *u, u8 byte, u8 errors)
{
    unsigned size = rx_size(u), at = (u->head + u->count) % UART_FIFO_SIZE;

    u->lsr |= LSR_DR;
    if (u->count == size) {
        u->lsr |= LSR_OE;
        if (size > 1)
            return;
        at = u->head;
    } else {
        u->count++;
    }
    u->fifo[at] = byte;
    u->errors[at] = errors;
    if (errors && size > 1)
        u->lsr |= LSR_FIFO_ERROR;
    show_errors(u);
    restart_timeout(u);
}

static void clear_rx(struct uart *u)
{
    u->head = u->count = 0;
    u->lsr &= (u8) ~(LSR_DR | LSR_FIFO_ERROR | (LSR_ERRORS & ~LSR_OE));
    restart_timeout(u);
}

static void pull(struct uart *u)
{
    // In loopback the receiver is disconnected from the line.
    while (u->rx && u->count < rx_size(u) && !(u->mcr & MCR_LOOP)) {
        int c = u->rx(u->in);
        if (c < 0)
            return;
        receive(u, (u8)c, 0);
    }
}

void uart_poll(struct uart *u)
{
    pull(u);
    update_irq(u);
}

void uart_break(struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        receive(u, 0, LSR_BI);
    update_irq(u);
}

static u8 read_rbr(struct uart *u)
{
    u8 c = u->fifo[u->head]; // an empty receiver gives the last character again

    if (u->count) {
        if (--u->count)
            u->head = (u->head + 1) % UART_FIFO_SIZE;
        else
            u->lsr &= (u8)~LSR_DR;
        show_errors(u);
        restart_timeout(u);
    }
    pull(u);
    return c;
}

static u8 read_iir(struct uart *u)
{
    u8 iir = pending(u);

    if (iir == IIR_THRE)
        u->thre_pending = false;
    return iir | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

// Modem status lines: in loopback the four MCR outputs come back as inputs. Data sheet 8.6.4.
static void set_msr(struct uart *u)
{
    u8 old = u->msr, now = MSR_CONNECTED, changed;

    if (u->mcr & MCR_LOOP)
        now = (u8)((u->mcr & 0x0c) << 4 | (u->mcr & 0x02) << 3 | (u->mcr & 0x01) << 5);
    changed = (old ^ now) & 0xf0;
    u->msr = now | (old & MSR_DELTA) | (u8)((changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4);
    if ((changed & MSR_RI) && !(now & MSR_RI))
        u->msr |= MSR_TERI;
}

// THR is empty, or will be when the far end has room.
static void thr_empty(struct uart *u)
{
    u->tx_busy = u->room && !(u->mcr & MCR_LOOP) && !u->room(u->out);
    u->thre_pending = !u->tx_busy;
}

void uart_tx_ready(struct uart *u)
{
    if (u->tx_busy)
        thr_empty(u);
    update_irq(u);
}

// Errors go away by being read; that there are some in the FIFO is said until the last was.
static u8 read_lsr(struct uart *u)
{
    u8 val = u->lsr, left = 0;

    for (unsigned i = 0; i < u->count; i++)
        left |= u->errors[(u->head + i) % UART_FIFO_SIZE];
    u->lsr &= (u8) ~(LSR_ERRORS | (left ? 0 : LSR_FIFO_ERROR));
    if (u->room && !(u->mcr & MCR_LOOP) && !u->room(u->out))
        val &= (u8) ~(LSR_THRE | LSR_TEMT);
    return val;
}

static void write_thr(struct uart *u, u8 byte)
{
    // Full for no time at all, then empty again: the interrupt goes away and comes back. A handler that refills without reading IIR
    // depends on that edge.
    u->thre_pending = false;
    update_irq(u);
    if (u->mcr & MCR_LOOP)
        receive(u, byte, 0);
    else if (u->tx)
        u->tx(u->out, byte);
    thr_empty(u);
}

static void write_fcr(struct uart *u, u8 val)
{
    bool switched = (u->fcr ^ val) & FCR_ENABLE;

    // The other bits are written only together with the enable bit; changing that clears both FIFOs.
    u->fcr = val & FCR_ENABLE ? val & 0xc9 : 0;
    if (switched || (val & FCR_CLEAR_RX))
        clear_rx(u);
    if (switched || (val & FCR_CLEAR_TX))
        thr_empty(u);
    pull(u);
}

static void write_ier(struct uart *u, u8 val)
{
    // Enabling the THRE interrupt while THR is empty raises it.
    if (!(u->ier & IER_THRE) && (val & IER_THRE))
        thr_empty(u);
    u->ier = val & 0x0f;
}

static u64 uart_read(void *dev, u64 off, unsigned size)
{
    struct uart *u = dev;
    u8 val = 0;

    (void)size;
    switch (off) {
    case 0: val = u->lcr & LCR_DLAB ? u->dll : read_rbr(u); break;
    case 1: val = u->lcr & LCR_DLAB ? u->dlm : u->ier; break;
    case 2: val = read_iir(u); break;
    case 3: val = u->lcr; break;
    case 4: val = u->mcr; break;
    case 5: val = read_lsr(u); break;
    case 6:
        val = u->msr;
        u->msr &= (u8)~MSR_DELTA;
        break;
    case 7: val = u->scr; break;
    }
    update_irq(u);
    return val;
}

static void uart_write(void *dev, u64 off, unsigned size, u64 val64)
{
    struct uart *u = dev;
    u8 val = (u8)val64;

    (void)size;
    switch (off) {
    case 0:
        if (u->lcr & LCR_DLAB)
            u->dll = val;
        else
            write_thr(u, val);
        break;
    case 1:
        if (u->lcr & LCR_DLAB)
            u->dlm = val;
        else
            write_ier(u, val);
        break;
    case 2: write_fcr(u, val); break;
    case 3: u->lcr = val; break;
    case 4:
        u->mcr = val & 0x1f;
        set_msr(u);
        pull(u);
        break;
    case 5: // factory test
    case 6: break;
    case 7: u->scr = val; break;
    }
    update_irq(u);
}

void uart_reset(void *dev)
{
    struct uart *u = dev;

    u->ier = u->fcr = u->lcr = u->mcr = u->scr = 0;
    u->dll = 0x0c; // 9600 baud from 1.8432 MHz, as firmware leaves it
    u->dlm = 0;
    u->lsr = LSR_THRE | LSR_TEMT;
    u->msr = MSR_CONNECTED;
    u->fifo[0] = 0;
    u->thre_pending = u->tx_busy = false;
    clear_rx(u);
    update_irq(u);
}

static void uart_dump(void *dev, char *buf, size_t size)
{
    const struct uart *u = dev;

    snprintf(buf, size, "ier %02x fcr %02x lcr %02x mcr %02x lsr %02x msr %02x divisor %u rx %u irq %d", u->ier, u->fcr,
             u->lcr, u->mcr, u->lsr, u->msr, u->dll | u->dlm << 8, u->count, u->irq_level);
}

int uart_init(struct uart *u)
{
    int ret;

    u->timer = (struct clock_timer){.fire = on_timeout, .dev = u};
    ret = clock_add_timer(u->clock, &u->timer);
    if (!ret)
        uart_reset(u);
    return ret;
}

const struct dev_ops uart_ops = {
    .name = "uart16550", .reset = uart_reset, .read = uart_read, .write = uart_write, .dump = uart_dump};
