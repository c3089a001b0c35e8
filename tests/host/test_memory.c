// Memory of the Linux host: guest RAM lies where huge pages can be used, reads as zeros, and can be given back a page at a time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "host/discard.h"
#include "host/linux.h"

#define HUGE (2ull << 20)

static void ram_is_aligned_zeroed_and_whole(void **state)
{
    static struct linux_host l;
    (void)state;
    linux_host_init(&l, 0, stderr, NULL);
    struct host *h = &l.host;
    static const u64 sizes[] = {4096, HUGE - 4096, HUGE, HUGE + 4096, 3 * HUGE + 8192};
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        u8 *p = h->ops->ram_alloc(h->self, "test", sizes[i]);
        assert_non_null(p);
        assert_int_equal((u64)p & 4095, 0);
        if (sizes[i] >= HUGE)
            assert_int_equal((u64)p & (HUGE - 1), 0);
        for (u64 at = 0; at < sizes[i]; at += 4096)
            assert_int_equal(p[at], 0);
        memset(p, 0x5a, sizes[i]);
        assert_int_equal(p[sizes[i] - 1], 0x5a);
        h->ops->mem_free(h->self, p, sizes[i]);
    }
}

static void discarded_pages_are_zero_and_others_stay(void **state)
{
    static struct linux_host l;
    (void)state;
    linux_host_init(&l, 0, stderr, NULL);
    struct host *h = &l.host;
    u8 *p = h->ops->ram_alloc(h->self, "test", 2 * HUGE);
    assert_non_null(p);
    memset(p, 0x5a, 2 * HUGE);
    host_discard(NULL, p + 4096, 4096);
    assert_int_equal(p[4095], 0x5a);
    assert_int_equal(p[4096], 0);
    assert_int_equal(p[8191], 0);
    assert_int_equal(p[8192], 0x5a);
    p[5000] = 1;
    assert_int_equal(p[5000], 1);
    h->ops->mem_free(h->self, p, 2 * HUGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ram_is_aligned_zeroed_and_whole),
        cmocka_unit_test(discarded_pages_are_zero_and_others_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
