// Port I/O: claiming ports, and how accesses that do not fit a device are taken apart. Interrupt lines too.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/fake_host.h"

// A device of 16 bytes of memory that records its accesses.
struct dev {
    u8 byte[16];
    unsigned count;
    struct {
        u64 off, val;
        unsigned size;
        bool write;
    } seen[16];
};

static u64 dev_read(void *self, u64 off, unsigned size)
{
    struct dev *d = self;
    u64 val = ~0ull; // junk above `size` bytes
    assert_true(off + size <= 16 && d->count < 16);
    memcpy(&val, d->byte + off, size);
    d->seen[d->count].off = off;
    d->seen[d->count].size = size;
    d->seen[d->count++].write = false;
    return val;
}

static void dev_write(void *self, u64 off, unsigned size, u64 val)
{
    struct dev *d = self;
    assert_true(off + size <= 16 && d->count < 16);
    memcpy(d->byte + off, &val, size);
    d->seen[d->count].off = off;
    d->seen[d->count].size = size;
    d->seen[d->count].val = val;
    d->seen[d->count++].write = true;
}

static const struct dev_ops ops = {.name = "dev", .read = dev_read, .write = dev_write};
static const struct dev_ops mute = {.name = "mute"};
static struct bus bus;
static struct dev a, b;

static int setup(void **state)
{
    (void)state;
    memset(&bus, 0, sizeof(bus));
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    for (unsigned i = 0; i < 16; i++) {
        a.byte[i] = (u8)(0xa0 + i);
        b.byte[i] = (u8)(0xb0 + i);
    }
    return 0;
}

static void test_claim(void **state)
{
    (void)state;
    static const struct {
        u64 base, size;
        int want;
    } cases[] = {
        {0x100, 16, 0},
        {0x100, 1, -EEXIST},
        {0x10f, 1, -EEXIST},
        {0xff, 2, -EEXIST},
        {0x110, 16, 0},
        {0xf0, 16, 0},
        {0, 0, -EINVAL},
        {0xffff, 1, 0},
        {0xffff, 2, -EINVAL},
        {0x10000, 1, -EINVAL},
        {0, ~0ull, -EINVAL},
        {0, 0x10000, -EEXIST},
        {0, 16, 0},
        {~0ull, 2, -EINVAL},
        {0x600, ~0ull - 0x500, -EINVAL},
    };

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(bus_add(&bus, cases[i].base, cases[i].size, &ops, &a), cases[i].want);
    assert_int_equal(bus_add(&bus, 0x500, 1, NULL, &a), -EINVAL);
    for (unsigned i = 1; i < bus.count; i++)
        assert_true(bus.region[i - 1].base + bus.region[i - 1].size <= bus.region[i].base);
}

static void test_table_full(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BUS_MAX_REGIONS; i++)
        assert_int_equal(bus_add(&bus, (BUS_MAX_REGIONS - i) * 16, 8, &ops, i % 2 ? &a : &b), 0);
    assert_int_equal(bus_add(&bus, 0x8000, 1, &ops, &a), -ENOSPC);
    for (unsigned i = 0; i < BUS_MAX_REGIONS; i++) { // insertion moved nearly all of them
        assert_int_equal(bus_in(&bus, (u16)((BUS_MAX_REGIONS - i) * 16 + 3), 1), i % 2 ? 0xa3 : 0xb3);
        assert_int_equal(bus_in(&bus, (u16)((BUS_MAX_REGIONS - i) * 16 + 8), 1), 0xff);
        a.count = b.count = 0;
    }
}

static void test_plain(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0x100, 16, &ops, &a), 0);
    assert_int_equal(bus_in(&bus, 0x102, 1), 0xa2);
    assert_int_equal(bus_in(&bus, 0x102, 2), 0xa3a2);
    assert_int_equal(bus_in(&bus, 0x103, 4), 0xa6a5a4a3);
    bus_out(&bus, 0x104, 2, 0x12345678);
    assert_int_equal(a.count, 4);
    assert_int_equal(a.seen[3].val, 0x5678);
    assert_int_equal(a.seen[3].off, 4);
    // Nobody's ports.
    assert_int_equal(bus_in(&bus, 0x200, 1), 0xff);
    assert_int_equal(bus_in(&bus, 0x200, 2), 0xffff);
    assert_int_equal(bus_in(&bus, 0x200, 4), 0xffffffff);
    bus_out(&bus, 0x200, 4, 0);
    // A device without handlers.
    assert_int_equal(bus_add(&bus, 0x300, 4, &mute, NULL), 0);
    assert_int_equal(bus_in(&bus, 0x300, 4), 0xffffffff);
    bus_out(&bus, 0x300, 1, 0);
    assert_int_equal(a.count, 4);
}

static void test_straddle(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0x100, 16, &ops, &a), 0);
    assert_int_equal(bus_add(&bus, 0x110, 2, &ops, &b), 0);
    assert_int_equal(bus_in(&bus, 0x10e, 4), 0xb1b0afae);
    assert_int_equal(a.count, 2);
    assert_int_equal(b.count, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(a.seen[i].size, 1);
    assert_int_equal(bus_in(&bus, 0x111, 4), 0xffffffb1);
    assert_int_equal(bus_in(&bus, 0xfe, 4), 0xa1a0ffff);
    a.count = b.count = 0;
    bus_out(&bus, 0x10f, 4, 0x44332211);
    assert_int_equal(a.byte[15], 0x11);
    assert_int_equal(b.byte[0], 0x22);
    assert_int_equal(b.byte[1], 0x33);
    assert_int_equal(a.count + b.count, 3);
}

static void test_end_of_space(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0xfff8, 8, &ops, &a), 0);
    assert_int_equal(bus_add(&bus, 0, 8, &ops, &b), 0);
    assert_int_equal(bus_in(&bus, 0xfffe, 4), 0xffffa7a6); // no wrap to port 0
    bus_out(&bus, 0xffff, 4, 0x44332211);
    assert_int_equal(a.byte[7], 0x11);
    assert_int_equal(b.count, 0);
}

static void test_narrow_device(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0x100, 16, &ops, &a), 0);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 1, 1), 0);
    assert_int_equal(bus_in(&bus, 0x104, 4), 0xa7a6a5a4);
    assert_int_equal(a.count, 4);
    bus_out(&bus, 0x104, 2, 0x2211);
    assert_int_equal(a.count, 6);
    assert_int_equal(a.seen[4].val, 0x11);
    assert_int_equal(a.seen[5].off, 5);
    assert_int_equal(a.seen[5].val, 0x22);
    a.count = 0;
    assert_int_equal(bus_set_sizes(&bus, 0x100, 1, 2), 0);
    assert_int_equal(bus_in(&bus, 0x106, 4), 0xa9a8a7a6);
    assert_int_equal(a.count, 2);
    assert_int_equal(a.seen[1].size, 2);
}

static void test_wide_device(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0x100, 10, &ops, &a), 0);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 4, 4), 0);
    assert_int_equal(bus_in(&bus, 0x105, 1), 0xa5);
    assert_int_equal(bus_in(&bus, 0x106, 2), 0xa7a6);
    assert_int_equal(a.count, 2);
    assert_int_equal(a.seen[0].off, 4);
    assert_int_equal(a.seen[0].size, 4);
    bus_out(&bus, 0x105, 2, 0x2211);
    assert_int_equal(a.count, 4); // read, then the merged write
    assert_int_equal(a.seen[3].val, 0xa72211a4);
    // The widened access would leave the region, or the access lies in two of them: as it is.
    a.count = 0;
    assert_int_equal(bus_in(&bus, 0x109, 1), 0xa9);
    assert_int_equal(a.seen[0].size, 1);
    assert_int_equal(bus_in(&bus, 0x103, 2), 0xa4a3);
    assert_int_equal(a.seen[1].size, 2);
}

static void test_bad_sizes(void **state)
{
    (void)state;
    assert_int_equal(bus_add(&bus, 0x100, 16, &ops, &a), 0);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 0, 4), -EINVAL);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 1, 3), -EINVAL);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 1, 8), -EINVAL);
    assert_int_equal(bus_set_sizes(&bus, 0x100, 4, 2), -EINVAL);
    assert_int_equal(bus_set_sizes(&bus, 0x101, 1, 1), -ENOENT);
}

// --- interrupt lines -------------------------------------------------------------------------------------------------

struct sink {
    unsigned calls, n;
    unsigned history; // levels, newest in bit 0
};

static void sink_set(void *self, unsigned n, bool level)
{
    struct sink *s = self;
    s->calls++;
    s->n = n;
    s->history = s->history << 1 | level;
}

static void test_irq_line(void **state)
{
    (void)state;
    struct sink s = {0};
    struct irq_line line = {.set = sink_set, .sink = &s, .n = 5}, open_end = {0};

    irq_set(line, true);
    irq_set(line, false);
    irq_pulse(line);
    assert_int_equal(s.calls, 4);
    assert_int_equal(s.n, 5);
    assert_int_equal(s.history, 0xa); // 1 0 1 0
    irq_set(open_end, true);          // connected to nothing
    irq_pulse(open_end);
}

// A bus behind the bus gets what nobody claimed.
static u64 behind_read(void *self, u64 off, unsigned size)
{
    (void)self;
    return off << (size == 1 ? 0 : 8) & 0xffff;
}

static void behind_write(void *self, u64 off, unsigned size, u64 val)
{
    u64 *last = self;
    *last = off << 16 | size << 8 | (val & 0xff);
}

static void test_fallback(void **state)
{
    (void)state;
    static const struct dev_ops behind = {.name = "behind", .read = behind_read, .write = behind_write};
    u64 last = 0;

    assert_int_equal(bus_add(&bus, 0x100, 16, &ops, &a), 0);
    assert_int_equal(bus_in(&bus, 0x42, 2), 0xffff);
    bus_set_fallback(&bus, &behind, &last);
    assert_int_equal(bus_in(&bus, 0x42, 1), 0x42);
    assert_int_equal(bus_in(&bus, 0x42, 2), 0x4200);
    assert_int_equal(bus_in(&bus, 0x100, 1), 0xa0);
    assert_int_equal(bus_in(&bus, 0xfe, 4), 0xa1a0fffe); // meets a device: bytes
    assert_int_equal(bus_in(&bus, 0x10e, 4), 0x1110afae);
    bus_out(&bus, 0xffff, 4, 0x55);
    assert_int_equal(last, 0xffff0155); // and not 0x10000
    bus_out(&bus, 0x3000, 4, 0x66);
    assert_int_equal(last, 0x30000466);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_claim, setup),        cmocka_unit_test_setup(test_table_full, setup),
        cmocka_unit_test_setup(test_plain, setup),        cmocka_unit_test_setup(test_straddle, setup),
        cmocka_unit_test_setup(test_end_of_space, setup), cmocka_unit_test_setup(test_narrow_device, setup),
        cmocka_unit_test_setup(test_wide_device, setup),  cmocka_unit_test_setup(test_bad_sizes, setup),
        cmocka_unit_test_setup(test_irq_line, setup),     cmocka_unit_test_setup(test_fallback, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
