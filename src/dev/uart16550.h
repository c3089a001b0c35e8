// National Semiconductor 16550A UART. Facts from the PC16550D data sheet; register names as there.
//
// Characters take no time on the line: what is written to THR is handed to `tx` at once, and received characters come from `rx`
// whenever the receiver has room for one. So there are no overruns except in loopback. The receiver's timeout interrupt does wait for the
// time of four characters. While the far end has no `room`, the transmitter shows itself busy (LSR.THRE and TEMT clear, no
// interrupt); what is written to it all the same is handed on.
#ifndef POGO_DEV_UART16550_H
#define POGO_DEV_UART16550_H

#include "core/clock.h"
#include "core/dev.h"

#define UART_PORTS 8
#define UART_FIFO_SIZE 16

struct uart {
    u8 ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm;
    u8 fifo[UART_FIFO_SIZE];
    u8 errors[UART_FIFO_SIZE]; // of each character, as LSR bits, until they have been shown
    u8 head, count;            // receiver FIFO; without FIFOs only one entry is used (RBR)
    bool timeout;              // characters wait in the FIFO, fewer than the trigger level, and nothing moves
    bool thre_pending;         // THRE interrupt condition: set when THR empties, cleared by reading IIR or writing THR
    bool tx_busy;              // THRE waits for room at the far end
    bool irq_level;
    struct irq_line irq;
    void (*tx)(void *out, u8 byte); // may be NULL
    bool (*room)(void *out);        // may be NULL: always
    int (*rx)(void *in);            // next character, or -1: none; may be NULL
    void *out, *in;
    struct clock *clock;
    struct clock_timer timer; // for the timeout
};

extern const struct dev_ops uart_ops;

// `irq`, `clock`, and tx to in are set by the caller before, and kept over a reset. Adds a timer to the clock; 0 or a negative
// errno.
int uart_init(struct uart *u);
// Power-on state.
void uart_reset(void *dev);
// Take what `rx` has, up to the FIFO's room. Called when there is something new.
void uart_poll(struct uart *u);
// There is room at the far end again.
void uart_tx_ready(struct uart *u);
// The line was held low for a whole character: a break. Not heard in loopback.
void uart_break(struct uart *u);

#endif
