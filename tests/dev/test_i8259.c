// 8259A pair: initialisation, priorities, EOIs and modes by register traces.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "dev/i8259.h"

struct rig {
    struct i8259 p;
    bool intr;
};

static void set_intr(void *sink, unsigned n, bool level)
{
    (void)n;
    ((struct rig *)sink)->intr = level;
}

static void out(struct rig *r, unsigned port, u8 val)
{
    if (port >= 0x4d0)
        i8259_elcr_ops.write(&r->p, port - 0x4d0, 1, val);
    else
        i8259_ops.write(&r->p.window[port >= 0xa0], port & 1, 1, val);
}

static u8 in(struct rig *r, unsigned port)
{
    if (port >= 0x4d0)
        return (u8)i8259_elcr_ops.read(&r->p, port - 0x4d0, 1);
    return (u8)i8259_ops.read(&r->p.window[port >= 0xa0], port & 1, 1);
}

// The usual PC set-up: vectors 0x20 and 0x28, everything unmasked.
static void start_icw4(struct rig *r, u8 icw4)
{
    memset(r, 0, sizeof(*r));
    i8259_init(&r->p, (struct irq_line){set_intr, r, 0});
    out(r, 0x20, 0x11);
    out(r, 0x21, 0x20);
    out(r, 0x21, 0x04);
    out(r, 0x21, icw4);
    out(r, 0xa0, 0x11);
    out(r, 0xa1, 0x28);
    out(r, 0xa1, 0x02);
    out(r, 0xa1, icw4);
    out(r, 0x21, 0);
    out(r, 0xa1, 0);
}

static void start(struct rig *r)
{
    start_icw4(r, 0x01);
}

static void line(struct rig *r, unsigned n, bool level)
{
    i8259_set_irq(&r->p, n, level);
}

static int ack(struct rig *r)
{
    return i8259_ack(&r->p);
}

static u8 isr(struct rig *r, unsigned port)
{
    out(r, port, 0x0b);
    u8 v = in(r, port);
    out(r, port, 0x0a);
    return v;
}

static void edge_and_eoi(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 1, true);
    assert_true(r.intr);
    assert_int_equal(in(&r, 0x20), 0x02);
    assert_int_equal(ack(&r), 0x21);
    assert_false(r.intr);
    assert_int_equal(in(&r, 0x20), 0x00); // the edge is used up
    assert_int_equal(isr(&r, 0x20), 0x02);
    out(&r, 0x20, 0x20);
    assert_int_equal(isr(&r, 0x20), 0);
    assert_false(r.intr); // still high, but no new edge
    line(&r, 1, false);
    line(&r, 1, true);
    assert_true(r.intr);
}

static void priority_and_nesting(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 5, true);
    line(&r, 3, true);
    assert_int_equal(ack(&r), 0x23);
    assert_false(r.intr); // 5 is lower than 3 in service
    line(&r, 1, true);
    assert_true(r.intr);
    assert_int_equal(ack(&r), 0x21);
    assert_int_equal(isr(&r, 0x20), 0x0a);
    out(&r, 0x20, 0x20); // non-specific: the highest, 1
    assert_int_equal(isr(&r, 0x20), 0x08);
    out(&r, 0x20, 0x63); // specific: 3
    assert_true(r.intr);
    assert_int_equal(ack(&r), 0x25);
}

static void cascade(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 12, true);
    assert_true(r.intr);
    assert_int_equal(ack(&r), 0x2c);
    assert_int_equal(isr(&r, 0x20), 0x04);
    assert_int_equal(isr(&r, 0xa0), 0x10);
    line(&r, 3, true);
    assert_false(r.intr); // below the cascade input
    line(&r, 8, true);
    assert_false(r.intr); // the master holds its own input 2 back
    out(&r, 0xa0, 0x20);
    out(&r, 0x20, 0x20);
    assert_int_equal(ack(&r), 0x28);
}

static void special_fully_nested(void **state)
{
    struct rig r;

    (void)state;
    start_icw4(&r, 0x11);
    line(&r, 12, true);
    ack(&r);
    line(&r, 8, true);
    assert_true(r.intr);
    assert_int_equal(ack(&r), 0x28);
}

static void masks(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    out(&r, 0x21, 0x10);
    line(&r, 4, true);
    assert_false(r.intr);
    assert_int_equal(in(&r, 0x20), 0x10);
    assert_int_equal(in(&r, 0x21), 0x10);
    out(&r, 0x21, 0x00);
    assert_true(r.intr);
}

static void spurious(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 4, true);
    out(&r, 0x21, 0xff); // masked between request and acknowledge
    assert_int_equal(ack(&r), 0x27);
    assert_int_equal(isr(&r, 0x20), 0);
    start(&r);
    out(&r, 0x4d1, 0x02); // input 9 by level
    line(&r, 9, true);
    out(&r, 0xa1, 0xff);
    assert_false(r.intr);
    assert_int_equal(ack(&r), 0x27);
}

static void level_inputs(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    out(&r, 0x4d0, 0xff);
    out(&r, 0x4d1, 0xff);
    assert_int_equal(in(&r, 0x4d0), 0xf8);
    assert_int_equal(in(&r, 0x4d1), 0xde);
    line(&r, 5, true);
    assert_int_equal(ack(&r), 0x25);
    out(&r, 0x20, 0x20);
    assert_true(r.intr); // still high
    line(&r, 5, false);
    assert_false(r.intr);
}

// A level-triggered request is the input itself, from the moment the input is made one.
static void elcr_takes_the_level(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 5, true);
    assert_int_equal(ack(&r), 0x25);
    out(&r, 0x20, 0x20);
    assert_false(r.intr); // an edge counts once
    out(&r, 0x4d0, 0x20);
    assert_true(r.intr);
    line(&r, 5, false);
    assert_false(r.intr);
    line(&r, 6, true);
    out(&r, 0x4d0, 0x60);
    line(&r, 6, false);
    assert_false(r.intr);
}

static void auto_eoi_and_rotation(void **state)
{
    struct rig r;

    (void)state;
    start_icw4(&r, 0x03);
    line(&r, 3, true);
    assert_int_equal(ack(&r), 0x23);
    assert_int_equal(isr(&r, 0x20), 0);
    out(&r, 0x20, 0x80); // rotate in automatic EOI mode
    line(&r, 3, false);
    line(&r, 3, true);
    assert_int_equal(ack(&r), 0x23); // now 3 is lowest and 4 highest
    line(&r, 3, false);
    line(&r, 3, true);
    line(&r, 5, true);
    assert_int_equal(ack(&r), 0x25);
}

static void rotation_by_eoi(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 1, true);
    line(&r, 6, true);
    assert_int_equal(ack(&r), 0x21);
    out(&r, 0x20, 0xa0); // rotate on non-specific EOI: 1 is lowest
    line(&r, 1, false);
    line(&r, 1, true);
    assert_int_equal(ack(&r), 0x26);
    out(&r, 0x20, 0xe6); // rotate on specific EOI
    assert_int_equal(isr(&r, 0x20), 0);
    out(&r, 0x20, 0xc0); // set priority: 0 is lowest
    line(&r, 0, true);
    assert_int_equal(ack(&r), 0x21);
}

static void special_mask(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    line(&r, 1, true);
    ack(&r);
    line(&r, 4, true);
    assert_false(r.intr);
    out(&r, 0x21, 0x02); // mask the one in service
    assert_false(r.intr);
    out(&r, 0x20, 0x68); // special mask mode
    assert_true(r.intr);
    assert_int_equal(ack(&r), 0x24);
    out(&r, 0x20, 0x20); // passes over the masked one
    assert_int_equal(isr(&r, 0x20), 0x02);
    out(&r, 0x20, 0x48);
    out(&r, 0x20, 0x20);
    assert_int_equal(isr(&r, 0x20), 0x00);
}

static void poll_mode(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    out(&r, 0x20, 0x0c);
    assert_int_equal(in(&r, 0x20), 0);
    line(&r, 6, true);
    out(&r, 0x20, 0x0c);
    assert_int_equal(in(&r, 0x20), 0x86);
    assert_int_equal(isr(&r, 0x20), 0x40);
    assert_false(r.intr);
}

static void initialisation(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    out(&r, 0x21, 0xfb);
    line(&r, 2, true); // the cascade input is not wired to anything else
    assert_false(r.intr);
    line(&r, 0, true);
    out(&r, 0x20, 0x11); // ICW1 clears masks and edges
    out(&r, 0x21, 0x40);
    out(&r, 0x21, 0x04);
    out(&r, 0x21, 0x01);
    assert_int_equal(in(&r, 0x21), 0);
    assert_false(r.intr);
    line(&r, 0, false);
    line(&r, 0, true);
    assert_int_equal(ack(&r), 0x40);
    out(&r, 0x20, 0x12); // single, no ICW4: ready after ICW2
    out(&r, 0x21, 0x50);
    out(&r, 0x21, 0x0f);
    assert_int_equal(in(&r, 0x21), 0x0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edge_and_eoi),
        cmocka_unit_test(priority_and_nesting),
        cmocka_unit_test(cascade),
        cmocka_unit_test(special_fully_nested),
        cmocka_unit_test(masks),
        cmocka_unit_test(spurious),
        cmocka_unit_test(level_inputs),
        cmocka_unit_test(elcr_takes_the_level),
        cmocka_unit_test(auto_eoi_and_rotation),
        cmocka_unit_test(rotation_by_eoi),
        cmocka_unit_test(special_mask),
        cmocka_unit_test(poll_mode),
        cmocka_unit_test(initialisation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
