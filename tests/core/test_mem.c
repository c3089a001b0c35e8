// Guest-physical memory: the region table, bounds, bulk and single accesses, dirty and code flags.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/fake_host.h"

static u8 host_a[4 * 4096] __attribute__((aligned(4096)));
static u8 host_b[4 * 4096] __attribute__((aligned(4096)));
static _Atomic u8 flags_a[4], flags_b[4];

struct dev {
    unsigned reads, writes, size;
    u64 off, val;
};

static u64 dev_read(void *self, u64 off, unsigned size)
{
    struct dev *d = self;
    d->reads++;
    d->off = off;
    d->size = size;
    return 0x1122334455667788 + off;
}

static void dev_write(void *self, u64 off, unsigned size, u64 val)
{
    struct dev *d = self;
    d->writes++;
    d->off = off;
    d->size = size;
    d->val = val;
}

static const struct dev_ops ops = {.name = "dev", .read = dev_read, .write = dev_write};
static const struct dev_ops mute = {.name = "mute"};

static int setup(void **state)
{
    (void)state;
    memset(host_a, 0xaa, sizeof(host_a));
    memset(host_b, 0xbb, sizeof(host_b));
    memset((void *)flags_a, 0, sizeof(flags_a));
    memset((void *)flags_b, 0, sizeof(flags_b));
    return 0;
}

static void test_bad_regions(void **state)
{
    (void)state;
    struct mem m = {.phys_mask = (1ull << 40) - 1};

    assert_int_equal(mem_add_ram(&m, 0x1000, 0, host_a, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, 0x1800, 0x1000, host_a, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, 0x1000, 0x1001, host_a, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, 0x1000, 0x1000, host_a + 8, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, 0x1000, 0x1000, NULL, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_rom(&m, 0x1000, 0x1000, host_a, NULL, "r"), -EINVAL);
    assert_int_equal(mem_add_mmio(&m, 0x1000, 0x1000, NULL, NULL, "m"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, (1ull << 40) - 0x1000, 0x2000, host_a, flags_a, "r"), -EINVAL);
    assert_int_equal(mem_add_ram(&m, 1ull << 40, 0x1000, host_a, flags_a, "r"), -EINVAL);
    m.phys_mask = 0;
    assert_int_equal(mem_add_ram(&m, ~0xfffull, 0x2000, host_a, flags_a, "r"), -EINVAL); // wraps
    assert_int_equal(m.count, 0);
    assert_null(mem_find(&m, 0));
    assert_int_equal(mem_add_ram(&m, ~0xfffull, 0x1000, host_a, flags_a, "r"), 0);
    assert_non_null(mem_find(&m, ~0ull));
}

static void test_overlap(void **state)
{
    (void)state;
    struct mem m = {0};
    static const struct {
        gpa base;
        u64 size;
        int want;
    } cases[] = {
        {0x10000, 0x4000, -EEXIST}, {0xf000, 0x1000, 0},      {0xe000, 0x1001, -EEXIST},
        {0x13fff, 1, -EEXIST},      {0x14000, 1, 0},          {0x14001, 0xfff, 0},
        {0, 0x100000, -EEXIST},     {0x12000, 0x10, -EEXIST}, {0x10000, 1, -EEXIST},
        {0, ~0ull, -EEXIST},
    };

    assert_int_equal(mem_add_ram(&m, 0x10000, 0x4000, host_a, flags_a, "r"), 0);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(mem_add_mmio(&m, cases[i].base, cases[i].size, &ops, NULL, "m"), cases[i].want);
    for (unsigned i = 1; i < m.count; i++)
        assert_true(m.region[i - 1].base + m.region[i - 1].size <= m.region[i].base);
}

static void test_table_full(void **state)
{
    (void)state;
    struct mem m = {0};

    for (unsigned i = 0; i < MEM_MAX_REGIONS; i++) // backwards: every insertion moves the others
        assert_int_equal(mem_add_mmio(&m, (MEM_MAX_REGIONS - i) * 0x100, 0x10, &ops, NULL, "m"), 0);
    assert_int_equal(mem_add_mmio(&m, 0x100000, 0x10, &ops, NULL, "m"), -ENOSPC);
    for (unsigned i = 1; i <= MEM_MAX_REGIONS; i++) {
        assert_int_equal(mem_find(&m, i * 0x100 + 0xf)->base, i * 0x100);
        assert_null(mem_find(&m, i * 0x100 + 0x10));
        assert_null(mem_find(&m, i * 0x100 - 1));
    }
}

static void layout(struct mem *m, struct dev *d)
{
    assert_int_equal(mem_add_rom(m, 0x14000, 0x4000, host_b, flags_b, "rom"), 0);
    assert_int_equal(mem_add_ram(m, 0x10000, 0x4000, host_a, flags_a, "ram"), 0);
    assert_int_equal(mem_add_mmio(m, 0x18000, 0x100, &ops, d, "dev"), 0);
    assert_int_equal(mem_add_mmio(m, 0x1a000, 0x100, &mute, NULL, "mute"), 0);
}

static void test_pointers(void **state)
{
    (void)state;
    struct mem m = {0};
    struct dev d = {0};
    layout(&m, &d);

    assert_ptr_equal(mem_ptr(&m, 0x10000, 0x4000, true), host_a);
    assert_ptr_equal(mem_ptr(&m, 0x13fff, 1, true), host_a + 0x3fff);
    assert_null(mem_ptr(&m, 0x10000, 0x4001, true));
    assert_null(mem_ptr(&m, 0x13fff, ~0ull, false)); // length overflows
    assert_null(mem_ptr(&m, 0x13ffe, ~0ull - 1, false));
    assert_ptr_equal(mem_ptr(&m, 0x14000, 8, false), host_b);
    assert_null(mem_ptr(&m, 0x14000, 8, true));
    assert_null(mem_ptr(&m, 0x18000, 8, false));
    assert_null(mem_ptr(&m, 0x19000, 8, false));
    assert_ptr_equal(mem_flags(&m, 0x12abc), &flags_a[2]);
    assert_ptr_equal(mem_flags(&m, 0x17fff), &flags_b[3]);
    assert_null(mem_flags(&m, 0x18000));
    assert_null(mem_flags(&m, 0x20000));
    assert_null(mem_write_ptr(&m, 0x14000, 1));
    assert_null(mem_write_ptr(&m, 0x13fff, 2));
    assert_ptr_equal(mem_write_ptr(&m, 0x11ffe, 4), host_a + 0x1ffe);
    assert_int_equal(flags_a[1] & flags_a[2], MEM_PAGE_DIRTY);
    assert_int_equal(flags_a[0] | flags_a[3], 0);
}

static void test_bulk(void **state)
{
    (void)state;
    struct mem m = {0};
    struct dev d = {0};
    u8 buf[0x9000];
    layout(&m, &d);

    assert_true(mem_read(&m, 0x10000, buf, 0x8000)); // RAM and ROM in one go
    assert_int_equal(buf[0x3fff], 0xaa);
    assert_int_equal(buf[0x4000], 0xbb);
    assert_false(mem_read(&m, 0x10000, buf, 0x8001));
    assert_false(mem_read(&m, 0xffff, buf, 2));
    assert_false(mem_read(&m, 0x10000, buf, ~0ull)); // stops at the end of ROM
    memset(buf, 0x11, sizeof(buf));
    assert_true(mem_write(&m, 0x11fff, buf, 0x1002));
    assert_int_equal(host_a[0x1ffe], 0xaa);
    assert_int_equal(host_a[0x1fff], 0x11);
    assert_int_equal(host_a[0x3000], 0x11);
    assert_int_equal(host_a[0x3001], 0xaa);
    assert_int_equal(flags_a[0], 0);
    assert_int_equal(flags_a[1] & flags_a[2] & flags_a[3], MEM_PAGE_DIRTY);
    assert_false(mem_write(&m, 0x13fff, buf, 2));
    assert_int_equal(host_b[0], 0xbb);
    assert_true(mem_write(&m, 0x19000, buf, 0)); // nothing to do
    assert_int_equal(d.reads + d.writes, 0);
}

static void test_bulk_at_the_end(void **state)
{
    (void)state;
    struct mem m = {0};
    u8 buf[16];

    assert_int_equal(mem_add_ram(&m, ~0xfffull, 0x1000, host_a, flags_a, "high"), 0);
    assert_int_equal(mem_add_ram(&m, 0, 0x1000, host_b, flags_b, "low"), 0);
    assert_true(mem_read(&m, ~7ull, buf, 8));
    assert_false(mem_read(&m, ~7ull, buf, 9)); // no wrapping to 0
    assert_false(mem_write(&m, ~7ull, buf, 9));
}

static void test_single(void **state)
{
    (void)state;
    struct mem m = {0};
    struct dev d = {0};
    layout(&m, &d);

    for (unsigned size = 1; size <= 8; size *= 2) {
        u64 ones = size == 8 ? ~0ull : (1ull << size * 8) - 1;
        mem_store(&m, 0x10001, size, 0x8877665544332211);
        assert_int_equal(mem_load(&m, 0x10001, size), 0x8877665544332211 & ones);
        assert_int_equal(mem_load(&m, 0x10001 + size, 1), 0xaa); // and no further
        memset(host_a, 0xaa, 32);
        mem_store(&m, 0x14000, size, 0);
        assert_int_equal(mem_load(&m, 0x14000, size), 0xbbbbbbbbbbbbbbbb & ones);
        mem_store(&m, 0x20000, size, 0);
        assert_int_equal(mem_load(&m, 0x20000, size), ones);
        assert_int_equal(mem_load(&m, 0x1a000, size), ones); // a device that cannot be read
        mem_store(&m, 0x1a000, size, 0);
        assert_int_equal(mem_load(&m, 0x18010, size), (0x1122334455667788 + 0x10) & ones);
        assert_int_equal(d.size, size);
        assert_int_equal(d.off, 0x10);
        mem_store(&m, 0x18020, size, ~0ull);
        assert_int_equal(d.val, ones);
        assert_int_equal(d.off, 0x20);
    }
    // Over the device's end: bytes, and ones from the hole.
    d.reads = 0;
    assert_int_equal(mem_load(&m, 0x180fc, 8), 0xffffffff00000000ull | 0x87868584u);
    assert_int_equal(d.reads, 4);
    assert_int_equal(d.size, 1);
    d.writes = 0;
    mem_store(&m, 0x180ff, 2, 0x1234);
    assert_int_equal(d.writes, 1);
    assert_int_equal(d.val, 0x34);
    mem_store(&m, 0x17ffc, 8, 0x8877665544332211); // ROM, then the device
    assert_int_equal(d.writes, 5);
    assert_int_equal(d.val, 0x88);
    // From a hole into RAM.
    assert_int_equal(mem_load(&m, 0xfffc, 8), 0xaaaaaaaaffffffff);
}

struct code {
    struct mem *m;
    unsigned calls;
    gpa base[4];
    u64 len[4];
    u8 seen;
};

static void on_code(void *owner, gpa base, u64 len)
{
    struct code *c = owner;
    assert_true(c->calls < 4);
    c->base[c->calls] = base;
    c->len[c->calls++] = len;
    c->seen = *mem_ptr(c->m, base, 1, false);
}

static void test_code_hook(void **state)
{
    (void)state;
    struct mem m = {0};
    struct dev d = {0};
    u8 buf[0x3000] = {0};
    struct code c = {.m = &m};
    layout(&m, &d);

    flags_a[1] = flags_a[2] = MEM_PAGE_CODE;
    mem_store(&m, 0x11000, 4, 0); // no hook yet: harmless
    host_a[0x1000] = 0xaa;
    m.code_write = on_code;
    m.owner = &c;
    mem_store(&m, 0x10ffc, 4, 0);
    assert_int_equal(c.calls, 0);
    mem_store(&m, 0x11000, 4, 0);
    assert_int_equal(c.calls, 1);
    assert_int_equal(c.base[0], 0x11000);
    assert_int_equal(c.len[0], 4);
    assert_int_equal(c.seen, 0); // the bytes have changed
    c.calls = 0;
    assert_true(mem_write(&m, 0x10800, buf, 0x3000)); // page 0 and 3 hold no code
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.base[0], 0x11000);
    assert_int_equal(c.len[0], 0x1000);
    assert_int_equal(c.base[1], 0x12000);
    assert_int_equal(c.len[1], 0x1000);
    c.calls = 0;
    assert_true(mem_write(&m, 0x11ff0, buf, 0x20));
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.len[0], 0x10);
    assert_int_equal(c.base[1], 0x12000);
    assert_int_equal(c.len[1], 0x10);
    c.calls = 0;
    assert_non_null(mem_write_ptr(&m, 0x12ff8, 16));
    assert_int_equal(c.calls, 1);
    assert_int_equal(c.len[0], 8);
    assert_int_equal(flags_a[1], MEM_PAGE_CODE | MEM_PAGE_DIRTY);
}

// The shortcut for the largest regions must not answer for others.
static void test_hot_regions(void **state)
{
    (void)state;
    struct mem m = {0};

    assert_int_equal(mem_add_ram(&m, 0x8000, 0x1000, host_a, flags_a, "small"), 0);
    assert_int_equal(mem_add_ram(&m, 0x4000, 0x2000, host_a + 0x1000, flags_a, "middle"), 0);
    assert_int_equal(mem_add_mmio(&m, 0x100000, 0x1000000, &ops, NULL, "huge"), 0);
    assert_int_equal(mem_add_ram(&m, 0x20000, 0x4000, host_b, flags_b, "big"), 0);
    assert_int_equal(m.region[m.hot[0]].base, 0x20000);
    assert_int_equal(m.region[m.hot[1]].base, 0x4000);
    assert_int_equal(mem_find(&m, 0x8123)->base, 0x8000);
    assert_int_equal(mem_find(&m, 0x5fff)->base, 0x4000);
    assert_int_equal(mem_find(&m, 0x23fff)->base, 0x20000);
    assert_int_equal(mem_find(&m, 0x100001)->base, 0x100000);
    assert_null(mem_find(&m, 0x6000));
}

// ROM with RAM under it: the four views, and what stays the same whatever the view.
static void test_shadow(void **state)
{
    (void)state;
    struct mem m = {.code_write = NULL};
    struct mem_region rom = {.host = host_a, .page_flags = flags_a}, ram = {.host = host_b, .page_flags = flags_b};
    const struct mem_region *r;

    assert_int_equal(mem_add_shadow(&m, 0x1000, 0x2000, &rom, &(struct mem_region){0}, "s"), -EINVAL);
    assert_int_equal(mem_add_shadow(&m, 0x1000, 0x2001, &rom, &ram, "s"), -EINVAL);
    assert_int_equal(mem_add_shadow(&m, 0x1000, 0x2000, &rom, &ram, "s"), 0);
    assert_int_equal(mem_add_shadow(&m, 0x2000, 0x1000, &rom, &ram, "s"), -EEXIST);
    assert_false(mem_shadow_set(&m, 0x3000, 3)); // no such area

    // As ROM, all by itself in the map.
    mem_store(&m, 0x1ffc, 8, 0x1122334455667788); // crosses a page
    assert_int_equal(mem_load(&m, 0x1000, 1), 0xaa);
    assert_null(mem_write_ptr(&m, 0x1000, 1));
    assert_false(mem_write(&m, 0x1000, "x", 1));
    assert_int_equal(flags_b[0] | flags_b[1], 0);

    // Written through.
    r = mem_find(&m, 0x1000);
    assert_true(mem_shadow_set(&m, 0x1000, MEM_SHADOW_WRITE));
    assert_false(mem_shadow_set(&m, 0x1000, MEM_SHADOW_WRITE));
    mem_store(&m, 0x2000, 2, 0x1234);
    assert_int_equal(mem_load(&m, 0x2000, 2), 0xaaaa);
    assert_int_equal(mem_find(&m, 0x2000)->kind, MEM_ROM);
    assert_int_equal(flags_b[1], MEM_PAGE_DIRTY);
    assert_int_equal(flags_b[0], 0);
    assert_ptr_equal(r->host, host_a); // who still holds the old one is safe

    assert_true(mem_shadow_set(&m, 0x1000, MEM_SHADOW_READ));
    assert_int_equal(mem_load(&m, 0x2000, 2), 0x1234);
    mem_store(&m, 0x2000, 2, 0x5678);
    assert_int_equal(mem_load(&m, 0x2000, 2), 0x1234);
    assert_null(mem_ptr(&m, 0x2000, 1, true));
    assert_ptr_equal(mem_flags(&m, 0x2000), &flags_b[1]);

    assert_true(mem_shadow_set(&m, 0x1000, MEM_SHADOW_READ | MEM_SHADOW_WRITE));
    assert_ptr_equal(mem_write_ptr(&m, 0x1000, 0x2000), host_b);
    assert_null(mem_write_ptr(&m, 0x1000, 0x2001));
    mem_store(&m, 0x2000, 2, 0x5678);
    assert_int_equal(mem_load(&m, 0x2000, 2), 0x5678);
    assert_int_equal(host_a[0x1000], 0xaa);
}

static void test_many_shadows(void **state)
{
    (void)state;
    struct mem m = {0};
    struct mem_region page = {.host = host_a, .page_flags = flags_a};

    for (unsigned i = 0; i < MEM_MAX_SHADOWS; i++)
        assert_int_equal(mem_add_shadow(&m, i * 0x1000, 0x1000, &page, &page, "s"), 0);
    assert_int_equal(mem_add_shadow(&m, 0x100000, 0x1000, &page, &page, "s"), -ENOSPC);
    assert_true(mem_shadow_set(&m, 0x7000, 3));
    assert_int_equal(mem_find(&m, 0x7fff)->kind, MEM_RAM);
    assert_int_equal(mem_find(&m, 0x8000)->kind, MEM_ROM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_bad_regions, setup),  cmocka_unit_test_setup(test_overlap, setup),
        cmocka_unit_test_setup(test_table_full, setup),   cmocka_unit_test_setup(test_pointers, setup),
        cmocka_unit_test_setup(test_bulk, setup),         cmocka_unit_test_setup(test_bulk_at_the_end, setup),
        cmocka_unit_test_setup(test_single, setup),       cmocka_unit_test_setup(test_code_hook, setup),
        cmocka_unit_test_setup(test_hot_regions, setup),  cmocka_unit_test_setup(test_shadow, setup),
        cmocka_unit_test_setup(test_many_shadows, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
