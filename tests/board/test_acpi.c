// The tables of the board: sums, pointers and contents. `test_acpi dump DIR` writes them to files instead, one a table and
// variant, for a disassembler to judge.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "board/acpi.h"
#include "board/aml.h"
#include "board/mptable.h"
#include "board/smbios.h"

#define BASE 0xf0000u
#define ROOM 0x10000u

static const struct acpi_params full = {.cpus = 4,
                                        .lapic = 0xfee00000,
                                        .ioapic = 0xfec00000,
                                        .hpet = 0xfed00000,
                                        .sci_irq = 9,
                                        .pm_base = 0x600,
                                        .smbus_base = 0x700,
                                        .apm_port = 0xb2,
                                        .acpi_enable = 0xf1,
                                        .acpi_disable = 0xf0,
                                        .reset_port = 0xcf9,
                                        .reset_value = 6,
                                        .mem_base = 0xc0000000,
                                        .mem_end = 0xfec00000,
                                        .mem64_base = 0x800000000,
                                        .mem64_end = 0x1000000000,
                                        .com = {0x3f8, 0x2f8, 0x3e8, 0x2e8},
                                        .com_irq = {4, 3, 4, 3},
                                        .i8042 = true};

static struct acpi_params variant(unsigned n)
{
    struct acpi_params p = full;

    if (n == 1) { // as little as there can be
        p.cpus = 1;
        p.ioapic = p.hpet = 0;
        p.smbus_base = 0;
        p.mem64_base = p.mem64_end = 0;
        memset(p.com, 0, sizeof(p.com));
        p.i8042 = false;
        p.vga = true;
    } else if (n == 2) {
        p.cpus = 64;
    }
    return p;
}

static u32 get(const u8 *at, unsigned n)
{
    u32 val = 0;

    for (unsigned i = 0; i < n; i++)
        val |= (u32)at[i] << i * 8;
    return val;
}

static u8 sum(const u8 *at, size_t n)
{
    u8 s = 0;

    while (n--)
        s += *at++;
    return s;
}

static const u8 *table(const u8 *buf, unsigned n)
{
    const u8 *rsdt = buf + (get(buf + 16, 4) - BASE);

    if (n >= (get(rsdt + 4, 4) - 36) / 4)
        return NULL;
    return buf + (get(rsdt + 36 + 4 * n, 4) - BASE);
}

static const u8 *find(const u8 *buf, const char *signature)
{
    const u8 *t;

    for (unsigned i = 0; (t = table(buf, i)); i++)
        if (!memcmp(t, signature, 4))
            return t;
    return NULL;
}

static void test_sums(void **state)
{
    static u8 buf[ROOM];

    (void)state;
    for (unsigned v = 0; v < 3; v++) {
        struct acpi_params p = variant(v);
        const u8 *t, *xsdt;
        long n = acpi_build(&p, buf, sizeof(buf), BASE);

        assert_in_range(n, 1000, 16384);
        assert_memory_equal(buf, "RSD PTR ", 8);
        assert_int_equal(sum(buf, 20), 0);
        assert_int_equal(sum(buf, 36), 0);
        xsdt = buf + (get(buf + 24, 4) - BASE);
        assert_int_equal(sum(xsdt, get(xsdt + 4, 4)), 0);
        for (unsigned i = 0; (t = table(buf, i)); i++) {
            assert_in_range(t - buf, 36, n - 36);
            assert_int_equal(sum(t, get(t + 4, 4)), 0);
            assert_int_equal(get(xsdt + 36 + 8 * i, 4), t - buf + BASE);
        }
        t = find(buf, "FACP");
        assert_int_equal(get(t + 4, 4), 268);
        assert_int_equal(get(t + 36, 4) % 64, 0);
        assert_memory_equal(buf + (get(t + 36, 4) - BASE), "FACS", 4);
        t = buf + (get(t + 40, 4) - BASE);
        assert_memory_equal(t, "DSDT", 4);
        assert_int_equal(sum(t, get(t + 4, 4)), 0);
        assert_int_equal(find(buf, "HPET") != NULL, v != 1);
        // 44 bytes, then per processor 8, the I/O APIC and its overrides 32, NMI 6.
        assert_int_equal(get(find(buf, "APIC") + 4, 4), 44 + 8 * p.cpus + (v == 1 ? 0 : 32) + 6);
    }
}

// Every room that is too small is noticed, and nothing is written outside.
static void test_room(void **state)
{
    static u8 buf[ROOM + 1];
    struct acpi_params p = full;
    struct smbios_params s = {.cpus = 1, .ram_low = 1u << 27, .version = "1"};
    long n = acpi_build(&p, buf, ROOM, BASE);

    (void)state;
    for (long size = 0; size < n; size++) {
        buf[size] = 0xa5;
        assert_int_equal(acpi_build(&p, buf, (size_t)size, BASE), -ENOSPC);
        assert_int_equal(buf[size], 0xa5);
    }
    n = smbios_build(&s, buf, ROOM, BASE);
    for (long size = 0; size < n; size++) {
        buf[size] = 0xa5;
        assert_int_equal(smbios_build(&s, buf, (size_t)size, BASE), -ENOSPC);
        assert_int_equal(buf[size], 0xa5);
    }
}

static void test_aml_lengths(void **state)
{
    static const struct {
        size_t string, want; // bytes of the string with its end; of the package length
    } cases[] = {{10, 1}, {57, 1}, {58, 2}, {4088, 2}, {4089, 3}};
    static u8 buf[8192];
    static char text[8192];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct aml a = {.out = {.buf = buf, .size = sizeof(buf)}};
        size_t n;
        memset(text, 'x', sizeof(text));
        text[cases[i].string - 1] = 0;
        aml_begin_scope(&a, "NAME");
        aml_string(&a, text);
        aml_end(&a);
        assert_false(a.bad || a.out.full);
        n = buf[1] >> 6 ? (buf[1] & 15u) | (size_t)buf[2] << 4 : buf[1];
        if (buf[1] >> 6 == 2)
            n |= (size_t)buf[3] << 12;
        assert_int_equal(n, a.out.len - 1);
        assert_int_equal((buf[1] >> 6) + 1, cases[i].want);
    }
}

static void test_aml_misuse(void **state)
{
    u8 buf[256];
    struct aml a = {.out = {.buf = buf, .size = sizeof(buf)}};

    (void)state;
    aml_end(&a);
    assert_true(a.bad);
    a.bad = false;
    aml_path(&a, "TOOLONG");
    assert_true(a.bad);
    a.bad = false;
    for (unsigned i = 0; i <= AML_MAX_DEPTH; i++)
        aml_begin_if(&a);
    assert_true(a.bad);
}

static void test_smbios(void **state)
{
    static u8 buf[ROOM];
    static const struct smbios_params p = {.cpus = 4,
                                           .cpu_vendor = "AuthenticAMD",
                                           .cpu_name = "a processor",
                                           .ram_low = 3ull << 30,
                                           .ram_high = 61ull << 30,
                                           .high_base = 4ull << 30,
                                           .version = "0.1"};
    long n = smbios_build(&p, buf, sizeof(buf), BASE);
    unsigned seen[256] = {0}, count = 0, largest = 0;
    const u8 *at = buf + (get(buf + 0x18, 4) - BASE), *last = at + get(buf + 0x16, 2);

    (void)state;
    assert_memory_equal(buf, "_SM_", 4);
    assert_int_equal(sum(buf, 31), 0);
    assert_int_equal(sum(buf + 16, 15), 0);
    assert_ptr_equal(last, buf + n);
    while (at < last) {
        const u8 *next = at + at[1];
        while (next[0] || next[1])
            next++;
        next += 2;
        seen[at[0]]++;
        count++;
        if (next - at > largest)
            largest = (unsigned)(next - at);
        at = next;
    }
    assert_ptr_equal(at, last);
    assert_int_equal(get(buf + 0x1c, 2), count);
    assert_int_equal(get(buf + 8, 2), largest);
    assert_int_equal(seen[0] & seen[1] & seen[3] & seen[4] & seen[16] & seen[32] & seen[127], 1);
    assert_int_equal(seen[17], 4); // 16 GiB each
    assert_int_equal(seen[19], 2);
}

static int dump_file(const char *dir, const char *name, unsigned v, const u8 *at, size_t n)
{
    char path[512];
    FILE *f;
    bool ok;

    snprintf(path, sizeof(path), "%s/%.4s%u.dat", dir, name, v);
    f = fopen(path, "wb");
    ok = f && fwrite(at, 1, n, f) == n;
    if (f && fclose(f))
        ok = false;
    if (!ok)
        fprintf(stderr, "%s: cannot write\n", path);
    return ok ? 0 : 1;
}

static int dump(const char *dir)
{
    static u8 buf[ROOM];
    int bad = 0;

    for (unsigned v = 0; v < 3; v++) {
        struct acpi_params p = variant(v);
        const u8 *t;
        if (acpi_build(&p, buf, sizeof(buf), BASE) < 0)
            return 1;
        for (unsigned i = 0; (t = table(buf, i)); i++)
            bad |= dump_file(dir, (const char *)t, v, t, get(t + 4, 4));
        t = find(buf, "FACP");
        bad |= dump_file(dir, "FACS", v, buf + (get(t + 36, 4) - BASE), 64);
        t = buf + (get(t + 40, 4) - BASE);
        bad |= dump_file(dir, "DSDT", v, t, get(t + 4, 4));
        for (unsigned i = 16; i <= 24; i += 8) {
            t = buf + (get(buf + i, 4) - BASE);
            bad |= dump_file(dir, (const char *)t, v, t, get(t + 4, 4));
        }
    }
    return bad;
}

// Sums, lengths, the number of entries and what they say.
static void test_mp_table(void **state)
{
    static const unsigned size[] = {20, 8, 8, 8, 8}; // of entries, by type
    const struct mptable_params p = {.cpus = 64,
                                     .signature = 0x806d0,
                                     .features = 0x78bfbff,
                                     .lapic = 0xfee00000,
                                     .ioapic = 0xfec00000,
                                     .ioapic_id = 64,
                                     .gsi_pirqa = 16};
    unsigned count[5] = {0}, entries = 0;
    u8 buf[8192], sum = 0;
    long used = mptable_build(&p, buf, sizeof(buf), BASE);

    (void)state;
    assert_int_equal(mptable_build(&p, buf, (size_t)used - 1, BASE), -ENOSPC);
    assert_int_equal(mptable_build(&p, buf, (size_t)used, BASE), used);
    assert_memory_equal(buf, "_MP_", 4);
    for (unsigned i = 0; i < 16; i++)
        sum += buf[i];
    assert_int_equal(sum, 0);
    assert_int_equal(get(buf + 4, 4), BASE + 16);
    assert_int_equal(buf[11], 0); // there is a configuration table
    const u8 *t = buf + 16;
    assert_memory_equal(t, "PCMP", 4);
    assert_int_equal(get(t + 4, 2), used - 16);
    for (unsigned i = 0; i < used - 16; i++)
        sum += t[i];
    assert_int_equal(sum, 0);
    assert_int_equal(get(t + 36, 4), 0xfee00000);
    for (const u8 *e = t + 44; e < buf + used; e += size[*e], entries++) {
        assert_in_range(*e, 0, 4);
        if (*e == 0) {
            assert_int_equal(e[1], count[0]);
            assert_int_equal(e[3], count[0] ? 1 : 3);
            assert_int_equal(get(e + 4, 4), 0x806d0);
        }
        if (*e == 3 && e[4] == 1) // ISA
            assert_int_equal(e[7], e[5] ? e[5] : 2);
        if (*e == 3 && e[4] == 0) // PCI: INTA of slot 1 is PIRQA
            assert_int_equal(e[7], 16 + ((e[5] >> 2) + (e[5] & 3) + 3) % 4);
        count[*e]++;
    }
    assert_int_equal(entries, get(t + 34, 2));
    assert_int_equal(count[0], 64);
    assert_int_equal(count[1], 2);
    assert_int_equal(count[2], 1);
    assert_int_equal(count[3], 32 * 4 + 15);
    assert_int_equal(count[4], 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),       cmocka_unit_test(test_room),   cmocka_unit_test(test_aml_lengths),
        cmocka_unit_test(test_aml_misuse), cmocka_unit_test(test_smbios), cmocka_unit_test(test_mp_table),
    };

    if (argc == 3 && !strcmp(argv[1], "dump"))
        return dump(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
