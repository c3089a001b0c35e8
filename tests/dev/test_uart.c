// 16550A: register traces with the answers that the data sheet gives.
#include "dev/uart16550.h"

#include "dev/rig.h"

enum { RBR = 0, THR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

struct line {
    struct rig_clock t;
    struct uart u;
    u8 sent[64];
    unsigned sent_count;
    const u8 *coming;
    unsigned coming_count;
    bool irq;
    unsigned irq_edges;
    bool full;
};

static void take(void *out, u8 byte)
{
    struct line *l = out;

    l->sent[l->sent_count++ % sizeof(l->sent)] = byte;
}

static int give(void *in)
{
    struct line *l = in;

    if (!l->coming_count)
        return -1;
    l->coming_count--;
    return *l->coming++;
}

static void set_irq(void *sink, unsigned n, bool level)
{
    struct line *l = sink;

    (void)n;
    l->irq_edges += level && !l->irq;
    l->irq = level;
}

static void start(struct line *l)
{
    memset(l, 0, sizeof(*l));
    l->u.irq = (struct irq_line){set_irq, l, 4};
    l->u.tx = take;
    l->u.rx = give;
    l->u.out = l->u.in = l;
    rig_start(&l->t);
    l->u.clock = &l->t.clock;
    assert_int_equal(uart_init(&l->u), 0);
}

static u8 rd(struct line *l, unsigned reg)
{
    return (u8)uart_ops.read(&l->u, reg, 1);
}

static void wr(struct line *l, unsigned reg, u8 val)
{
    uart_ops.write(&l->u, reg, 1, val);
}

static void arrive(struct line *l, const char *text, unsigned n)
{
    l->coming = (const u8 *)text;
    l->coming_count = n;
    uart_poll(&l->u);
}

static void reset_values(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    assert_int_equal(rd(&l, IER), 0);
    assert_int_equal(rd(&l, IIR), 0x01);
    assert_int_equal(rd(&l, LCR), 0);
    assert_int_equal(rd(&l, MCR), 0);
    assert_int_equal(rd(&l, LSR), 0x60);
    assert_int_equal(rd(&l, MSR), 0xb0);
    assert_false(l.irq);
}

static void divisor_latch(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, LCR, 0x83);
    wr(&l, 0, 0x34);
    wr(&l, 1, 0x12);
    assert_int_equal(rd(&l, 0), 0x34);
    assert_int_equal(rd(&l, 1), 0x12);
    wr(&l, LCR, 0x03);
    assert_int_equal(rd(&l, IER), 0);
    assert_int_equal(l.sent_count, 0);
    wr(&l, SCR, 0xa5);
    assert_int_equal(rd(&l, SCR), 0xa5);
}

static void transmit(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, THR, 'h');
    wr(&l, THR, 'i');
    assert_int_equal(l.sent_count, 2);
    assert_memory_equal(l.sent, "hi", 2);
    assert_int_equal(rd(&l, LSR), 0x60);
}

static void thre_interrupt(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x0b);
    wr(&l, IER, 0x02); // THR is empty: at once
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR), 0x02);
    assert_false(l.irq); // reading IIR takes it away
    assert_int_equal(rd(&l, IIR), 0x01);
    wr(&l, THR, 'x'); // empties again
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR), 0x02);
    wr(&l, IER, 0x00);
    wr(&l, IER, 0x02); // off and on again
    assert_true(l.irq);
}

static void thre_without_iir(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x0b);
    wr(&l, IER, 0x02);
    assert_int_equal(l.irq_edges, 1);
    wr(&l, THR, 'x'); // a handler that only refills
    assert_int_equal(l.irq_edges, 2);
    wr(&l, MCR, 0x1b);
    wr(&l, THR, 'x'); // also in loopback
    assert_int_equal(l.irq_edges, 3);
}

static void out2_gates_the_pin(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, IER, 0x02);
    assert_false(l.irq);
    wr(&l, MCR, 0x08);
    assert_true(l.irq);
}

static void receive_without_fifo(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x08);
    wr(&l, IER, 0x01);
    arrive(&l, "ab", 2);
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR), 0x04);
    assert_int_equal(rd(&l, LSR), 0x61);
    assert_int_equal(rd(&l, RBR), 'a');
    assert_int_equal(rd(&l, RBR), 'b'); // pulled when there was room
    assert_int_equal(rd(&l, LSR), 0x60);
    assert_int_equal(rd(&l, RBR), 'b'); // nothing new
    assert_false(l.irq);
}

static void receive_with_fifo(void **state)
{
    struct line l;
    static const char text[] = "0123456789abcdefXYZ";

    (void)state;
    start(&l);
    wr(&l, MCR, 0x08);
    wr(&l, FCR, 0x81); // trigger level 8
    wr(&l, IER, 0x01);
    arrive(&l, text, 3);
    assert_int_equal(rd(&l, IIR), 0xc1); // below the trigger: after a while
    rig_advance(&l.t, 10 * MS);
    assert_int_equal(rd(&l, IIR), 0xcc);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rd(&l, RBR), text[i]);
    assert_int_equal(rd(&l, IIR), 0xc1);
    arrive(&l, text, 19);
    assert_int_equal(l.coming_count, 3); // sixteen fit
    assert_int_equal(rd(&l, IIR), 0xc4);
    for (unsigned i = 0; i < 19; i++)
        assert_int_equal(rd(&l, RBR), text[i]);
    assert_int_equal(rd(&l, LSR), 0x60);
}

static void fifo_clear(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, FCR, 0x01);
    arrive(&l, "abc", 3);
    wr(&l, FCR, 0x03);
    assert_int_equal(rd(&l, LSR), 0x60);
    assert_int_equal(rd(&l, IIR), 0xc1);
    wr(&l, FCR, 0x00);
    assert_int_equal(rd(&l, IIR), 0x01);
}

static void loopback_data_and_overrun(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x10);
    wr(&l, THR, 0x55);
    assert_int_equal(l.sent_count, 0);
    assert_int_equal(rd(&l, LSR), 0x61);
    wr(&l, THR, 0xaa); // the receiver holds one
    assert_int_equal(rd(&l, LSR), 0x63);
    assert_int_equal(rd(&l, LSR), 0x61); // reading clears OE
    assert_int_equal(rd(&l, RBR), 0xaa);
    wr(&l, FCR, 0x01);
    for (unsigned i = 0; i < 17; i++)
        wr(&l, THR, (u8)i);
    assert_int_equal(rd(&l, LSR), 0x63);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(rd(&l, RBR), i);
    assert_int_equal(rd(&l, LSR), 0x60);
}

static void loopback_modem_lines(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x10); // all outputs off: CTS, DSR and DCD fall
    assert_int_equal(rd(&l, MSR), 0x0b);
    assert_int_equal(rd(&l, MSR), 0x00);
    wr(&l, MCR, 0x1f);
    assert_int_equal(rd(&l, MSR), 0xfb);
    wr(&l, MCR, 0x1b); // OUT1 off: trailing edge of RI
    assert_int_equal(rd(&l, MSR), 0xb4);
    wr(&l, MCR, 0x00);
    assert_int_equal(rd(&l, MSR) & 0xf0, 0xb0);
}

static void modem_interrupt(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, IER, 0x08);
    wr(&l, MCR, 0x18);
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR), 0x00);
    rd(&l, MSR);
    assert_false(l.irq);
}

static void priorities(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, IER, 0x0f);
    wr(&l, THR, 1);
    uart_break(&l.u);
    wr(&l, MCR, 0x18);
    assert_int_equal(rd(&l, IIR), 0x06);
    assert_int_equal(rd(&l, LSR) & 0x10, 0x10);
    assert_int_equal(rd(&l, IIR), 0x04);
    rd(&l, RBR);
    assert_int_equal(rd(&l, IIR), 0x02);
    assert_int_equal(rd(&l, IIR), 0x00);
    rd(&l, MSR);
    assert_int_equal(rd(&l, IIR), 0x01);
}

// The far end takes nothing for a while: the transmitter is busy, but what is written all the same goes on.
static bool has_room(void *out)
{
    return !((struct line *)out)->full;
}

static void busy_far_end(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    l.u.room = has_room;
    wr(&l, MCR, 0x08);
    wr(&l, IER, 0x02);
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR) & 0x0f, 2);
    wr(&l, THR, 'a');
    assert_true(l.irq);
    l.full = true;
    wr(&l, THR, 'b');
    assert_false(l.irq);
    assert_int_equal(rd(&l, LSR) & 0x60, 0);
    assert_int_equal(rd(&l, IIR) & 0x0f, 1);
    wr(&l, THR, 'c');
    assert_int_equal(l.sent_count, 3);
    wr(&l, IER, 0x00); // switching the interrupt on again does not make it ready
    wr(&l, IER, 0x02);
    assert_false(l.irq);
    uart_tx_ready(&l.u); // not true
    assert_false(l.irq);
    l.full = false;
    uart_tx_ready(&l.u);
    assert_true(l.irq);
    assert_int_equal(rd(&l, LSR) & 0x60, 0x60);
    assert_int_equal(rd(&l, IIR) & 0x0f, 2);
    uart_tx_ready(&l.u); // no second interrupt
    assert_false(l.irq);
    // In loopback nobody else counts.
    l.full = true;
    wr(&l, MCR, 0x18);
    wr(&l, THR, 'd');
    assert_int_equal(rd(&l, LSR) & 0x61, 0x61);
    assert_int_equal(rd(&l, RBR), 'd');
}

// Errors belong to characters: each is shown when its character is the next to be read.
static void errors_in_fifo(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x08);
    wr(&l, FCR, 0xc1);
    wr(&l, IER, 0x04);
    arrive(&l, "ab", 2);
    uart_break(&l.u);
    arrive(&l, "c", 1);
    uart_break(&l.u);
    assert_false(l.irq);                 // not yet at the top,
    assert_int_equal(rd(&l, LSR), 0xe1); // but somewhere in the FIFO
    assert_int_equal(rd(&l, RBR), 'a');
    assert_int_equal(rd(&l, LSR), 0xe1);
    assert_int_equal(rd(&l, RBR), 'b');
    assert_true(l.irq);
    assert_int_equal(rd(&l, IIR), 0xc6);
    assert_int_equal(rd(&l, LSR), 0xf1);
    assert_false(l.irq);
    assert_int_equal(rd(&l, LSR), 0xe1); // another one is left
    assert_int_equal(rd(&l, RBR), 0);
    assert_int_equal(rd(&l, RBR), 'c');
    assert_int_equal(rd(&l, LSR), 0xf1); // the last
    assert_int_equal(rd(&l, LSR), 0x61);
    assert_int_equal(rd(&l, RBR), 0);
    assert_int_equal(rd(&l, LSR), 0x60);
    // Clearing the FIFO clears its errors.
    uart_break(&l.u);
    wr(&l, FCR, 0x03);
    assert_int_equal(rd(&l, LSR), 0x60);
    assert_false(l.irq);
    // A character that finds no room takes its errors with it.
    arrive(&l, "0123456789abcdef", 16);
    uart_break(&l.u);
    assert_int_equal(rd(&l, LSR), 0x63);
    assert_int_equal(rd(&l, LSR), 0x61);
    // Without FIFOs there is no bit 7.
    wr(&l, FCR, 0x00);
    uart_break(&l.u);
    assert_int_equal(rd(&l, LSR), 0x71);
    assert_int_equal(rd(&l, LSR), 0x61);
}

static void break_in_loopback(void **state)
{
    struct line l;

    (void)state;
    start(&l);
    wr(&l, MCR, 0x10);
    uart_break(&l.u); // the line is cut off,
    assert_int_equal(rd(&l, LSR), 0x60);
    wr(&l, LCR, 0x43); // and a break of our own goes to the pin only
    assert_int_equal(rd(&l, LSR), 0x60);
    wr(&l, THR, 'x');
    assert_int_equal(rd(&l, RBR), 'x');
    wr(&l, MCR, 0x00);
    uart_break(&l.u);
    assert_int_equal(rd(&l, LSR), 0x71);
}

// Four characters' time after the FIFO was last touched, at the speed and format that are set.
static void timeout(void **state)
{
    static const struct {
        u16 divisor;
        u8 lcr;
        u64 ns;
    } want[] = {{1, 0x03, 4 * 10 * S / 115200},
                {12, 0x03, 4 * 10 * S / 9600},
                {12, 0x00, 4 * 7 * S / 9600},
                {3, 0x1f, 4 * 12 * S / 38400}};
    struct line l;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        start(&l);
        wr(&l, LCR, 0x80);
        wr(&l, 0, (u8)want[i].divisor);
        wr(&l, 1, (u8)(want[i].divisor >> 8));
        wr(&l, LCR, want[i].lcr);
        wr(&l, MCR, 0x08);
        wr(&l, FCR, 0x41); // trigger level 4
        wr(&l, IER, 0x01);
        arrive(&l, "a", 1);
        rig_advance(&l.t, want[i].ns / 2);
        arrive(&l, "b", 1);
        rig_advance(&l.t, want[i].ns - 4);
        assert_false(l.irq);
        rig_advance(&l.t, 4);
        assert_true(l.irq);
        assert_int_equal(rd(&l, IIR), 0xcc);
        assert_int_equal(rd(&l, IIR), 0xcc); // until something is read
        assert_int_equal(rd(&l, RBR), 'a');
        assert_false(l.irq);
        assert_int_equal(rd(&l, IIR), 0xc1);
        rig_advance(&l.t, want[i].ns);
        assert_int_equal(rd(&l, IIR), 0xcc);
        arrive(&l, "cde", 3);
        assert_int_equal(rd(&l, IIR), 0xc4); // the level is reached
        for (unsigned n = 0; n < 4; n++)
            assert_int_equal(rd(&l, RBR), 'b' + n);
        rig_advance(&l.t, S);
        assert_false(l.irq);
        arrive(&l, "x", 1);
        wr(&l, FCR, 0x43); // what is cleared has no timeout
        rig_advance(&l.t, S);
        assert_false(l.irq);
    }
}

static void trigger_levels(void **state)
{
    static const u8 level[4] = {1, 4, 8, 14};
    struct line l;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        start(&l);
        wr(&l, MCR, 0x08);
        wr(&l, FCR, (u8)(i << 6 | 1));
        wr(&l, IER, 0x01);
        for (unsigned n = 1; n <= 16; n++) {
            arrive(&l, "x", 1);
            assert_int_equal(l.irq, n >= level[i]);
        }
        for (unsigned n = 15; n < 16; n--) {
            rd(&l, RBR);
            assert_int_equal(l.irq, n >= level[i]);
        }
    }
    // Without FIFO the level does not count.
    wr(&l, FCR, 0xc0);
    arrive(&l, "x", 1);
    assert_int_equal(rd(&l, IIR), 0x04);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_values),
        cmocka_unit_test(divisor_latch),
        cmocka_unit_test(transmit),
        cmocka_unit_test(thre_interrupt),
        cmocka_unit_test(thre_without_iir),
        cmocka_unit_test(out2_gates_the_pin),
        cmocka_unit_test(receive_without_fifo),
        cmocka_unit_test(receive_with_fifo),
        cmocka_unit_test(fifo_clear),
        cmocka_unit_test(loopback_data_and_overrun),
        cmocka_unit_test(loopback_modem_lines),
        cmocka_unit_test(modem_interrupt),
        cmocka_unit_test(priorities),
        cmocka_unit_test(busy_far_end),
        cmocka_unit_test(errors_in_fifo),
        cmocka_unit_test(break_in_loopback),
        cmocka_unit_test(timeout),
        cmocka_unit_test(trigger_levels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
