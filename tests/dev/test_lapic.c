// The local APIC on a clock that the test moves.
#include "dev/lapic.h"

#include "dev/rig.h"

struct rig {
    struct rig_clock t;
    struct lapic apic;
    u64 cr8;
    struct rig_wire irq; // to the processor
    unsigned events;
    enum lapic_mode last_event;
    u8 last_eoi;
};

static void on_event(void *cpu, enum lapic_mode mode, u8 vector)
{
    struct rig *r = cpu;

    (void)vector;
    r->events++;
    r->last_event = mode;
}

static void on_send(void *bus, struct lapic *from, u32 icr, u32 dest)
{
    unsigned shorthand = icr >> 18 & 3;

    (void)bus;
    if (shorthand == 1 || shorthand == 2 || (shorthand == 0 && lapic_addressed(from, dest, icr & 0x800)))
        lapic_accept(from, (enum lapic_mode)(icr >> 8 & 7), (u8)icr, false);
}

static void on_eoi(void *bus, u8 vector)
{
    ((struct rig *)bus)->last_eoi = vector;
}

// The guest's TSC: two ticks a nanosecond.
static u64 rig_tsc(void *cpu)
{
    return ((struct rig *)cpu)->t.now * 2;
}

#define BASE_XAPIC 0xfee00900ull
#define BASE_X2APIC 0xfee00d00ull

static void apic_start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    rig_start(&r->t);
    struct lapic *l = &r->apic;
    l->cr8 = &r->cr8;
    l->clock = &r->t.clock;
    l->timer_hz = 1000000000;
    l->tsc_hz = 2000000000;
    l->intr = rig_line(&r->irq);
    l->tsc = rig_tsc;
    l->event = on_event;
    l->send = on_send;
    l->eoi = on_eoi;
    l->cpu = l->bus = r;
    assert_int_equal(lapic_init(l, 0), 0);
    lapic_reset(l, BASE_XAPIC);
}

static u32 apic_rd(struct rig *r, unsigned off)
{
    return (u32)lapic_ops.read(&r->apic, off, 4);
}

static void apic_wr(struct rig *r, unsigned off, u32 val)
{
    lapic_ops.write(&r->apic, off, 4, val);
}

static void apic_priorities(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x41, false);
    assert_false(r.irq.level); // disabled by software
    apic_wr(&r, 0xf0, 0x1ff);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x41, false);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x65, true);
    assert_true(r.irq.level);
    assert_int_equal(lapic_ack(&r.apic), 0x65);
    assert_false(r.irq.level);
    assert_int_equal(lapic_ack(&r.apic), -1);
    assert_int_equal(apic_rd(&r, 0xa0), 0x60);
    assert_int_equal(apic_rd(&r, 0x130), 1u << 5);
    assert_int_equal(apic_rd(&r, 0x220), 1u << 1);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x68, false); // same class
    assert_false(r.irq.level);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(r.last_eoi, 0x65); // level-triggered: told
    assert_int_equal(lapic_ack(&r.apic), 0x68);
    apic_wr(&r, 0xb0, 0);
    apic_wr(&r, 0x80, 0x4f);
    assert_int_equal(r.cr8, 4);
    assert_false(r.irq.level);
    r.cr8 = 3;
    lapic_cr8_written(&r.apic);
    assert_true(r.irq.level);
    assert_int_equal(apic_rd(&r, 0x80), 0x30);
    assert_int_equal(lapic_ack(&r.apic), 0x41);
}

static void apic_timer(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x3e0, 0x3);     // divide by 16
    apic_wr(&r, 0x320, 0x20050); // periodic
    apic_wr(&r, 0x380, 62500);   // 1 ms
    r.t.now += MS / 4;
    assert_in_range(apic_rd(&r, 0x390), 46870, 46880);
    r.t.now -= MS / 4;
    for (unsigned i = 0; i < 10; i++) {
        rig_advance(&r.t, MS);
        assert_int_equal(lapic_ack(&r.apic), 0x50);
        apic_wr(&r, 0xb0, 0);
    }
    apic_wr(&r, 0x320, 0x00051); // one shot
    apic_wr(&r, 0x3e0, 0xb);     // divide by 1
    apic_wr(&r, 0x380, 1000);
    rig_advance(&r.t, 999);
    assert_int_equal(lapic_ack(&r.apic), -1);
    rig_advance(&r.t, 1);
    assert_int_equal(lapic_ack(&r.apic), 0x51);
    assert_int_equal(apic_rd(&r, 0x390), 0);
    apic_wr(&r, 0xb0, 0);
    rig_advance(&r.t, S);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0x320, 0x10051);
    apic_wr(&r, 0x380, 1000);
    rig_advance(&r.t, MS);
    assert_int_equal(lapic_ack(&r.apic), -1); // masked
}

static void apic_deadline(void **state)
{
    struct rig r;
    u64 val;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 1000));
    assert_true(lapic_msr_read(&r.apic, 0x6e0, &val));
    assert_int_equal(val, 0); // ignored in the other modes
    apic_wr(&r, 0x320, 0x40052);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 2000));
    rig_advance(&r.t, 999);
    assert_int_equal(lapic_ack(&r.apic), -1);
    rig_advance(&r.t, 2);
    assert_int_equal(lapic_ack(&r.apic), 0x52);
    apic_wr(&r, 0xb0, 0);
    assert_true(lapic_msr_read(&r.apic, 0x6e0, &val));
    assert_int_equal(val, 0);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, 1)); // long ago: at once
    rig_advance(&r.t, 0);
    assert_int_equal(lapic_ack(&r.apic), 0x52);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, ~0ull)); // never
    rig_advance(&r.t, S);
}

static void apic_x2(void **state)
{
    struct rig r;
    u64 val;

    (void)state;
    apic_start(&r);
    assert_false(lapic_msr_read(&r.apic, 0x802, &val));
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_X2APIC));
    assert_int_equal(apic_rd(&r, 0x30), 0xffffffff); // the page is off
    assert_true(lapic_msr_read(&r.apic, 0x80d, &val));
    assert_int_equal(val, 1);
    assert_true(lapic_msr_write(&r.apic, 0x80f, 0x1ff));
    assert_false(lapic_msr_write(&r.apic, 0x80f, 0x2000)); // reserved
    assert_false(lapic_msr_write(&r.apic, 0x808, 0x100));
    assert_false(lapic_msr_write(&r.apic, 0x80b, 1));
    assert_false(lapic_msr_write(&r.apic, 0x802, 0));
    assert_false(lapic_msr_write(&r.apic, 0x831, 0));
    assert_false(lapic_msr_read(&r.apic, 0x80e, &val));
    assert_false(lapic_msr_read(&r.apic, 0x8ff, &val));
    assert_true(lapic_msr_write(&r.apic, 0x83f, 0x77)); // self IPI
    assert_int_equal(lapic_ack(&r.apic), 0x77);
    assert_true(lapic_msr_write(&r.apic, 0x80b, 0));
    assert_true(lapic_msr_write(&r.apic, 0x830, 0x00004078)); // to id 0
    assert_int_equal(lapic_ack(&r.apic), 0x78);
    assert_true(lapic_msr_write(&r.apic, 0x830, 0x100000400)); // NMI to id 1
    assert_true(lapic_msr_write(&r.apic, 0x835, 0x5700));      // read-only bits may be written as ones
    assert_false(lapic_msr_write(&r.apic, 0x837, 0x4000));     // reserved ones may not
    assert_int_equal(r.events, 0);
    assert_true(lapic_msr_write(&r.apic, 0x830, 0xffffffff00000400)); // to all
    assert_int_equal(r.events, 1);
    assert_int_equal(r.last_event, LAPIC_NMI);
}

static void apic_errors(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x370, 0x99);
    apic_wr(&r, 0x300, 0x40005); // self, vector 5
    assert_int_equal(lapic_ack(&r.apic), 0x99);
    assert_int_equal(apic_rd(&r, 0x280), 0);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x20);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0);
}

static void apic_lint0(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    lapic_set_lint0(&r.apic, true); // as firmware leaves it
    assert_true(r.irq.level);
    assert_true(lapic_extint(&r.apic));
    apic_wr(&r, 0x350, 0x10700);
    assert_false(r.irq.level);
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0xfee00100)); // off: the pin is INTR
    assert_true(r.irq.level);
}

// --- the timer in detail ------------------------------------------------------------------------------------------------------

static void timer_mode_changes(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x3e0, 0xb); // 1 ns a count
    apic_wr(&r, 0x320, 0x50);
    apic_wr(&r, 0x380, 1000000);
    rig_advance(&r.t, 600 * US);
    apic_wr(&r, 0x320, 0x20050); // periodic: the count goes on
    assert_in_range(apic_rd(&r, 0x390), 399990, 400010);
    rig_advance(&r.t, 500 * US);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
    apic_wr(&r, 0xb0, 0);
    assert_in_range(apic_rd(&r, 0x390), 899990, 900010);
    apic_wr(&r, 0x320, 0x50); // and back
    assert_in_range(apic_rd(&r, 0x390), 899990, 900010);
    rig_advance(&r.t, MS);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(apic_rd(&r, 0x390), 0);
    assert_int_equal(apic_rd(&r, 0x380), 1000000);
    apic_wr(&r, 0x320, 0x20050); // run down: a change of mode does not start it
    assert_int_equal(apic_rd(&r, 0x390), 0);
    rig_advance(&r.t, 10 * MS);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0x380, 1000000);
    apic_wr(&r, 0x320, 0x40050); // deadline mode stops it
    assert_int_equal(apic_rd(&r, 0x390), 0);
    apic_wr(&r, 0x380, 5);
    assert_int_equal(apic_rd(&r, 0x380), 0);
    apic_wr(&r, 0x320, 0x20050);
    rig_advance(&r.t, 10 * MS);
    assert_int_equal(lapic_ack(&r.apic), -1);
}

// The mode changes after the timer is due and before anybody has come for it.
static void timer_mode_changes_late(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x3e0, 0xb);
    apic_wr(&r, 0x320, 0x50);
    apic_wr(&r, 0x380, 1000000);
    r.t.now += 3 * MS / 2; // one-shot: it has run down
    assert_int_equal(apic_rd(&r, 0x390), 0);
    apic_wr(&r, 0x320, 0x20051);
    assert_int_equal(apic_rd(&r, 0x390), 0);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
    apic_wr(&r, 0xb0, 0);
    rig_advance(&r.t, 10 * MS);
    assert_int_equal(apic_rd(&r, 0x390), 0);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0x380, 1000000);
    r.t.now += 3 * MS / 2; // periodic: it is in its second period
    assert_in_range(apic_rd(&r, 0x390), 499990, 500010);
    apic_wr(&r, 0x320, 0x52);
    assert_int_equal(lapic_ack(&r.apic), 0x51);
    apic_wr(&r, 0xb0, 0);
    assert_in_range(apic_rd(&r, 0x390), 499990, 500010);
    rig_advance(&r.t, 10 * MS);
    assert_int_equal(lapic_ack(&r.apic), 0x52);
    assert_int_equal(apic_rd(&r, 0x390), 0);
}

static void page_address(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    assert_int_equal(lapic_page(&r.apic), LAPIC_BASE);
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0x42000900));
    assert_int_equal(lapic_page(&r.apic), 0x42000000);
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0x42000d00));
    assert_int_equal(lapic_page(&r.apic), 0);
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0x42000100));
    assert_int_equal(lapic_page(&r.apic), 0);
}

static void timer_divisor(void **state)
{
    static const u8 code[8] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x320, 0x50);
    for (unsigned i = 0; i < 8; i++) {
        apic_wr(&r, 0x3e0, code[i]);
        assert_int_equal(apic_rd(&r, 0x3e0), code[i]);
        apic_wr(&r, 0x380, 100000);
        rig_advance(&r.t, (50 * US) << i);
        assert_in_range(apic_rd(&r, 0x390), 49990, 50010);
        rig_advance(&r.t, ((50 * US) << i) - 1000);
        assert_int_equal(lapic_ack(&r.apic), -1);
        rig_advance(&r.t, 2000);
        assert_int_equal(lapic_ack(&r.apic), 0x50);
        apic_wr(&r, 0xb0, 0);
    }
    // A new divisor changes the speed of what is left.
    apic_wr(&r, 0x3e0, 0xb);
    apic_wr(&r, 0x380, 100000);
    rig_advance(&r.t, 60 * US);
    apic_wr(&r, 0x3e0, 0x2); // by 8
    assert_in_range(apic_rd(&r, 0x390), 39990, 40010);
    rig_advance(&r.t, 310 * US);
    assert_int_equal(lapic_ack(&r.apic), -1);
    rig_advance(&r.t, 20 * US);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
}

// Late hosts: periods that were missed count once, and the phase stays.
static void timer_late(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x3e0, 0xb);
    apic_wr(&r, 0x320, 0x20050);
    apic_wr(&r, 0x380, MS);
    r.t.now += 10 * MS + 300 * US; // nobody has looked
    assert_in_range(apic_rd(&r, 0x390), 699990, 700010);
    rig_advance(&r.t, 0);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), -1);
    assert_in_range(apic_rd(&r, 0x390), 699990, 700010);
    rig_advance(&r.t, 690 * US);
    assert_int_equal(lapic_ack(&r.apic), -1);
    rig_advance(&r.t, 20 * US);
    assert_int_equal(lapic_ack(&r.apic), 0x50);
    // A period of nothing does not fire more often than anybody can handle.
    apic_wr(&r, 0xb0, 0);
    apic_wr(&r, 0x380, 1);
    r.irq.rises = 0;
    for (unsigned i = 0; i < 1000; i++) {
        rig_run(&r.t, US);
        if (lapic_ack(&r.apic) >= 0)
            apic_wr(&r, 0xb0, 0);
    }
    assert_in_range(r.irq.rises, 90, 101);
    assert_in_range(apic_rd(&r, 0x390), 0, 1);
}

static void deadline_with_the_write(void **state)
{
    struct rig r;
    u64 val;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x320, 0x40052);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r)));
    assert_int_equal(lapic_ack(&r.apic), 0x52); // without waiting for a timer
    apic_wr(&r, 0xb0, 0);
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 2 * MS));
    assert_true(lapic_msr_write(&r.apic, 0x6e0, 0)); // disarmed
    rig_advance(&r.t, 5 * MS);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0x320, 0x50052); // masked: it runs down all the same
    assert_true(lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + 2000));
    rig_advance(&r.t, 5 * US);
    assert_true(lapic_msr_read(&r.apic, 0x6e0, &val));
    assert_int_equal(val, 0);
    assert_int_equal(lapic_ack(&r.apic), -1);
}

// --- registers and acceptance ---------------------------------------------------------------------------------------------------

static void reset_values(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    assert_int_equal(apic_rd(&r, 0x20), 0);
    assert_int_equal(apic_rd(&r, 0x30), 0x50014);
    assert_int_equal(apic_rd(&r, 0xd0), 0);
    assert_int_equal(apic_rd(&r, 0xe0), 0xffffffff);
    assert_int_equal(apic_rd(&r, 0xf0), 0xff);
    for (unsigned reg = 0x320; reg <= 0x370; reg += 0x10)
        assert_int_equal(apic_rd(&r, reg), reg == 0x350 ? 0x700 : 0x10000);
    // LVT entries cannot be unmasked while the APIC is disabled by software, and are masked when it is.
    apic_wr(&r, 0x360, 0x400);
    assert_int_equal(apic_rd(&r, 0x360), 0x10400);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x360, 0xffffffff);
    assert_int_equal(apic_rd(&r, 0x360), 0x1a7ff);
    apic_wr(&r, 0x360, 0x400);
    apic_wr(&r, 0xf0, 0xff);
    assert_int_equal(apic_rd(&r, 0x360), 0x10400);
    apic_wr(&r, 0xe0, 0);
    assert_int_equal(apic_rd(&r, 0xe0), 0x0fffffff);
    apic_wr(&r, 0xd0, 0x12345678);
    assert_int_equal(apic_rd(&r, 0xd0), 0x12000000);
    // Parts of registers can be read, not written.
    assert_int_equal((u8)lapic_ops.read(&r.apic, 0x31, 1), 0);
    assert_int_equal(lapic_ops.read(&r.apic, 0x32, 2), 5);
    lapic_ops.write(&r.apic, 0xf0, 1, 0);
    assert_int_equal(apic_rd(&r, 0xf0), 0xff);
    // The xAPIC's ID can be written; that of x2APIC mode cannot, and the first comes back.
    apic_wr(&r, 0x20, 0x77000000);
    assert_int_equal(apic_rd(&r, 0x20), 0x77000000);
    assert_true(lapic_addressed(&r.apic, 0x77, false));
    assert_false(lapic_addressed(&r.apic, 0, false));
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_X2APIC));
    assert_true(lapic_addressed(&r.apic, 0, false));
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0xfee00100));
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_XAPIC));
    assert_int_equal(apic_rd(&r, 0x20), 0);
}

static void illegal_registers(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_rd(&r, 0x40);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x80);
    apic_wr(&r, 0x3f0, 1); // self IPI is x2APIC mode's
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x80);
    lapic_accept(&r.apic, LAPIC_FIXED, 3, false);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x40);
    apic_wr(&r, 0x320, 5); // a local interrupt with such a vector
    apic_wr(&r, 0x380, 10);
    rig_advance(&r.t, US);
    apic_wr(&r, 0x280, 0);
    assert_int_equal(apic_rd(&r, 0x280), 0x40);
    assert_int_equal(lapic_ack(&r.apic), -1);
}

static void logical_destinations(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xd0, 0x24000000);
    assert_true(lapic_addressed(&r.apic, 0x04, true)); // flat: any bit
    assert_true(lapic_addressed(&r.apic, 0x30, true));
    assert_false(lapic_addressed(&r.apic, 0xdb, true));
    assert_true(lapic_addressed(&r.apic, 0xff, true));
    apic_wr(&r, 0xe0, 0); // clusters of four
    assert_true(lapic_addressed(&r.apic, 0x24, true));
    assert_true(lapic_addressed(&r.apic, 0x2f, true));
    assert_false(lapic_addressed(&r.apic, 0x34, true));
    assert_false(lapic_addressed(&r.apic, 0x2b, true));
    assert_true(lapic_addressed(&r.apic, 0xff, true));
    assert_false(lapic_addressed(&r.apic, 0x24, false));
    // x2APIC: cluster and bit follow from the ID.
    r.apic.id = 0x123;
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_X2APIC));
    assert_true(lapic_addressed(&r.apic, 0x00120008, true));
    assert_true(lapic_addressed(&r.apic, 0x0012ffff, true));
    assert_false(lapic_addressed(&r.apic, 0x0012fff7, true));
    assert_false(lapic_addressed(&r.apic, 0x00020008, true));
    assert_true(lapic_addressed(&r.apic, 0xffffffff, true));
    assert_true(lapic_addressed(&r.apic, 0x123, false));
    assert_false(lapic_addressed(&r.apic, 0xff, false));
}

// Priorities: the class of TPR and that of the vector in service hold others back; PPR shows which.
static void nesting(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    for (unsigned v = 0x10; v < 0x100; v += 0x11)
        lapic_accept(&r.apic, LAPIC_FIXED, (u8)v, false);
    assert_int_equal(lapic_ack(&r.apic), 0xfe);
    apic_wr(&r, 0xb0, 0);
    apic_wr(&r, 0x80, 0xaf);
    assert_int_equal(apic_rd(&r, 0xa0), 0xaf);
    assert_int_equal(lapic_ack(&r.apic), 0xed);
    assert_int_equal(apic_rd(&r, 0xa0), 0xe0);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), 0xdc);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), 0xcb);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), 0xba);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), -1); // 0xa9 is of TPR's class
    apic_wr(&r, 0x80, 0);
    assert_int_equal(lapic_ack(&r.apic), 0xa9);
    // One waits behind the one in service; more of the same are one.
    lapic_accept(&r.apic, LAPIC_FIXED, 0xa9, false);
    lapic_accept(&r.apic, LAPIC_FIXED, 0xa9, false);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), 0xa9);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), 0x98);
    // What was level-triggered and is not any more ends without telling the I/O APIC.
    r.last_eoi = 0;
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(r.last_eoi, 0);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x87, true);
    assert_int_equal(apic_rd(&r, 0x1c0), 1u << 7);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x87, false);
    assert_int_equal(apic_rd(&r, 0x1c0), 0);
}

static void lint0_as_interrupt(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x350, 0x8044); // fixed, level
    lapic_set_lint0(&r.apic, true);
    assert_int_equal(apic_rd(&r, 0x350), 0xc044);
    assert_int_equal(lapic_ack(&r.apic), 0x44);
    assert_int_equal(lapic_ack(&r.apic), -1);
    apic_wr(&r, 0xb0, 0); // still asserted: again
    assert_int_equal(lapic_ack(&r.apic), 0x44);
    lapic_set_lint0(&r.apic, false);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), -1);
    assert_int_equal(apic_rd(&r, 0x350), 0x8044);
    apic_wr(&r, 0x350, 0x00044); // edge
    lapic_set_lint0(&r.apic, true);
    assert_int_equal(lapic_ack(&r.apic), 0x44);
    apic_wr(&r, 0xb0, 0);
    assert_int_equal(lapic_ack(&r.apic), -1);
    lapic_set_lint0(&r.apic, false);
    apic_wr(&r, 0x350, 0x00400); // NMI
    lapic_set_lint0(&r.apic, true);
    assert_int_equal(r.events, 1);
    assert_int_equal(r.last_event, LAPIC_NMI);
    assert_false(lapic_extint(&r.apic));
}

static void init_and_disable(void **state)
{
    struct rig r;

    (void)state;
    apic_start(&r);
    apic_wr(&r, 0xf0, 0x1ff);
    apic_wr(&r, 0x20, 0x05000000);
    apic_wr(&r, 0x320, 0x20050);
    apic_wr(&r, 0x380, 1000);
    lapic_accept(&r.apic, LAPIC_FIXED, 0x44, false);
    lapic_accept(&r.apic, LAPIC_INIT, 0, false);
    assert_int_equal(r.last_event, LAPIC_INIT);
    assert_false(r.irq.level);
    assert_int_equal(apic_rd(&r, 0x20), 0x05000000); // INIT keeps the ID
    assert_int_equal(apic_rd(&r, 0xf0), 0xff);
    assert_int_equal(apic_rd(&r, 0x210), 0);
    rig_advance(&r.t, S);
    assert_int_equal(lapic_ack(&r.apic), -1);
    // Switched off it hears nothing.
    assert_true(lapic_msr_write(&r.apic, 0x1b, 0xfee00100));
    r.events = 0;
    lapic_accept(&r.apic, LAPIC_NMI, 0, false);
    lapic_accept(&r.apic, LAPIC_SIPI, 0, false);
    assert_int_equal(r.events, 0);
    // Disabled by software it takes NMI, INIT and SIPI.
    assert_true(lapic_msr_write(&r.apic, 0x1b, BASE_XAPIC));
    lapic_accept(&r.apic, LAPIC_NMI, 0, false);
    lapic_accept(&r.apic, LAPIC_SIPI, 0x9a, false);
    assert_int_equal(r.events, 2);
}

static void any_write(void **state)
{
    struct rig r;
    u64 seed = 11, val;

    (void)state;
    apic_start(&r);
    for (unsigned i = 0; i < 200000; i++) {
        u32 v = rig_random(&seed), w = rig_random(&seed);
        switch (v & 7) {
        case 0:
        case 1: lapic_ops.write(&r.apic, v >> 8 & 0xff0, 4, w >> (v >> 24 & 31)); break;
        case 2: lapic_ops.read(&r.apic, v >> 8 & 0xfff, 4); break;
        case 3: lapic_msr_write(&r.apic, 0x800 + (v >> 8 & 0x3f), w); break;
        case 4: lapic_msr_read(&r.apic, 0x800 + (v >> 8 & 0xff), &val); break;
        case 5: lapic_accept(&r.apic, LAPIC_FIXED, (u8)w, v >> 9 & 1); break;
        case 6: v & 0x100 ? (void)lapic_ack(&r.apic) : lapic_set_lint0(&r.apic, v & 0x200); break;
        default:
            if (v >> 28 == 0)
                lapic_msr_write(&r.apic, 0x1b, 0xfee00100 | (w & 0xc00));
            else if (v >> 28 == 1)
                lapic_msr_write(&r.apic, 0x6e0, rig_tsc(&r) + w);
            else
                rig_advance(&r.t, w >> (v >> 8 & 31));
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(apic_priorities),
        cmocka_unit_test(apic_timer),
        cmocka_unit_test(apic_deadline),
        cmocka_unit_test(apic_x2),
        cmocka_unit_test(apic_errors),
        cmocka_unit_test(apic_lint0),
        cmocka_unit_test(timer_mode_changes),
        cmocka_unit_test(timer_mode_changes_late),
        cmocka_unit_test(page_address),
        cmocka_unit_test(timer_divisor),
        cmocka_unit_test(timer_late),
        cmocka_unit_test(deadline_with_the_write),
        cmocka_unit_test(reset_values),
        cmocka_unit_test(illegal_registers),
        cmocka_unit_test(logical_destinations),
        cmocka_unit_test(nesting),
        cmocka_unit_test(lint0_as_interrupt),
        cmocka_unit_test(init_and_disable),
        cmocka_unit_test(any_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
