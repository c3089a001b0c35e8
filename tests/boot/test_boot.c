// Boot loaders: good images of every kind, and every way in which an image can lie.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "boot/guest_mem.h"

#define MAX_IMAGE 65536

// An image under construction.
struct image {
    u8 bytes[MAX_IMAGE];
    u64 size;
    bool is64;
};

struct fixture {
    struct guest_mem *g;
    struct image i;
    struct cpu cpu;
    struct error err;
};

static void put(struct image *i, u64 off, u64 val, unsigned n)
{
    memcpy(i->bytes + off, &val, n);
    if (off + n > i->size)
        i->size = off + n;
}

static void elf_header(struct image *i, bool is64, u64 entry, unsigned phnum)
{
    memset(i, 0, sizeof(*i));
    i->is64 = is64;
    memcpy(i->bytes, "\177ELF\1\1\1", 7);
    i->bytes[4] = is64 ? 2 : 1;
    put(i, 16, 2, 2);
    put(i, 18, is64 ? 62 : 3, 2);
    put(i, 20, 1, 4);
    put(i, 24, entry, is64 ? 8 : 4);
    put(i, is64 ? 32 : 28, is64 ? 64 : 52, is64 ? 8 : 4);
    put(i, is64 ? 52 : 40, is64 ? 64 : 52, 2);
    put(i, is64 ? 54 : 42, is64 ? 56 : 32, 2);
    put(i, is64 ? 56 : 44, phnum, 2);
}

static void elf_segment(struct image *i, unsigned n, u32 type, u64 offset, u64 vaddr, u64 paddr, u64 filesz, u64 memsz)
{
    u64 at = i->is64 ? 64 + n * 56 : 52 + n * 32;
    const u64 fields[5] = {offset, vaddr, paddr, filesz, memsz};

    put(i, at, type, 4);
    for (unsigned f = 0; f < 5; f++)
        put(i, i->is64 ? at + 8 + f * 8 : at + 4 + f * 4, fields[f], i->is64 ? 8 : 4);
}

static void mb_header(struct image *i, u64 off, u32 flags)
{
    put(i, off, 0x1badb002, 4);
    put(i, off + 4, flags, 4);
    put(i, off + 8, 0u - 0x1badb002 - flags, 4);
}

// A multiboot ELF32 of one segment at 1 MiB: 0x100 bytes in the file, 0x300 in memory.
static void good_multiboot(struct image *i)
{
    elf_header(i, false, 0x100010, 1);
    elf_segment(i, 0, 1, 0x1000, 0x100000, 0x100000, 0x100, 0x300);
    mb_header(i, 0x1000, 3);
    memset(i->bytes + 0x1010, 0x90, 0xf0);
    i->size = 0x1100;
}

static void good_pvh(struct image *i, bool is64)
{
    elf_header(i, is64, 0x100010, 2);
    elf_segment(i, 0, 1, 0x1000, 0xffffffff80100000, 0x100000, 0x100, 0x300);
    elf_segment(i, 1, 4, 0x1100, 0, 0, 20, 20);
    memset(i->bytes + 0x1000, 0x90, 0x100);
    put(i, 0x1100, 4, 4);
    put(i, 0x1104, 4, 4);
    put(i, 0x1108, 18, 4);
    memcpy(i->bytes + 0x110c, "Xen", 4);
    put(i, 0x1110, 0x100020, 4);
    i->size = 0x1114;
}

static int setup(void **state)
{
    struct fixture *f = aligned_alloc(_Alignof(struct fixture), sizeof(*f));

    memset(f, 0, sizeof(*f));
    f->g = guest_mem_new();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_mem_free(f->g);
    free(f);
    return 0;
}

static int load(struct fixture *f)
{
    f->g->params.kernel = f->i.bytes;
    f->g->params.kernel_size = f->i.size;
    f->err.text[0] = 0;
    cpu_reset(&f->cpu, true);
    return boot_load(&f->g->mem, &f->g->params, &f->cpu, &f->err);
}

// Loading fails, and the message is one line that holds `part` and names the file.
static void refused(struct fixture *f, const char *part)
{
    assert_true(load(f) < 0);
    if (!strstr(f->err.text, part))
        fail_msg("message \"%s\" lacks \"%s\"", f->err.text, part);
    assert_null(strchr(f->err.text, '\n'));
    assert_non_null(strstr(f->err.text, "-kernel k"));
}

static u32 peek32(struct fixture *f, u64 a)
{
    u32 v = 0xdeadbeef;

    assert_true(mem_read(&f->g->mem, a, &v, 4));
    return v;
}

static u64 peek64(struct fixture *f, u64 a)
{
    return (u64)peek32(f, a + 4) << 32 | peek32(f, a);
}

static void check_string(struct fixture *f, u64 a, const char *want)
{
    char got[64];

    assert_true(mem_read(&f->g->mem, a, got, sizeof(got)));
    assert_string_equal(got, want);
}

static void expect_flat32(const struct cpu *c)
{
    assert_int_equal(c->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(c->cr4, 0);
    assert_int_equal(c->rflags & (X86_FL_IF | X86_FL_VM | X86_FL_TF), 0);
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        assert_int_equal(c->seg[s].base, 0);
        assert_int_equal(c->seg[s].limit, 0xffffffff);
        assert_int_equal(c->seg[s].attr, s == X86_CS ? 0xc09b : 0xc093);
    }
    assert_int_equal(c->seg[X86_TR].limit, 0x67);
    assert_int_equal(c->seg[X86_TR].attr & 0xff, 0x8b);
    assert_null(cpu_check(c));
}

static void multiboot_elf32(void **state)
{
    struct fixture *f = *state;
    u8 bss;

    good_multiboot(&f->i);
    f->g->params.cmdline = "one two";
    assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_MULTIBOOT);
    assert_int_equal(load(f), 0);
    expect_flat32(&f->cpu);
    assert_int_equal(f->cpu.rip, 0x100010);
    assert_int_equal(f->cpu.gpr[X86_RAX], 0x2badb002);
    assert_int_equal(peek32(f, 0x100010), 0x90909090);
    assert_true(mem_read(&f->g->mem, 0x1002ff, &bss, 1));
    assert_int_equal(bss, 0);
    u64 info = f->cpu.gpr[X86_RBX];
    assert_int_equal(peek32(f, info), 0x24d);
    assert_int_equal(peek32(f, info + 4), 639);
    assert_int_equal(peek32(f, info + 8), 15 * 1024);
    check_string(f, peek32(f, info + 16), "k one two");
    u32 map = peek32(f, info + 48);
    assert_int_equal(peek32(f, info + 44), 4 * 24);
    assert_int_equal(peek32(f, map), 20);
    assert_int_equal(peek64(f, map + 24 * 3 + 4), 0x100000);
    assert_int_equal(peek64(f, map + 24 * 3 + 12), GUEST_RAM - 0x100000);
}

static void multiboot_modules(void **state)
{
    struct fixture *f = *state;
    static const u8 a[5000] = {1, 2, 3}, b[1] = {9};
    const struct boot_module m[2] = {{"first x y", a, sizeof(a)}, {"second", b, sizeof(b)}};

    good_multiboot(&f->i);
    f->g->params.module = m;
    f->g->params.module_count = 2;
    assert_int_equal(load(f), 0);
    u64 info = f->cpu.gpr[X86_RBX];
    assert_int_equal(peek32(f, info + 20), 2);
    u32 list = peek32(f, info + 24);
    assert_int_equal(peek32(f, list) & 0xfff, 0);
    assert_true(peek32(f, list) >= 0x100300);
    assert_int_equal(peek32(f, list + 4) - peek32(f, list), sizeof(a));
    assert_int_equal(peek32(f, peek32(f, list)) & 0xffffff, 0x030201);
    check_string(f, peek32(f, list + 8), "first x y");
    assert_true(peek32(f, list + 16) >= peek32(f, list + 4));
    check_string(f, peek32(f, list + 24), "second");
}

static void multiboot_addresses(void **state)
{
    struct fixture *f = *state;

    memset(&f->i, 0, sizeof(f->i));
    mb_header(&f->i, 0x40, 0x10003);
    put(&f->i, 0x4c, 0x200040, 4); // header_addr
    put(&f->i, 0x50, 0x200000, 4); // load_addr
    put(&f->i, 0x54, 0x200100, 4);
    put(&f->i, 0x58, 0x201000, 4);
    put(&f->i, 0x5c, 0x200060, 4);
    put(&f->i, 0xfc, 0x12345678, 4);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->cpu.rip, 0x200060);
    assert_int_equal(peek32(f, 0x2000fc), 0x12345678);
    assert_int_equal(peek32(f, 0x200ffc), 0);

    put(&f->i, 0x50, 0x200041, 4);
    refused(f, "load_addr 0x200041");
    put(&f->i, 0x50, 0x1fff00, 4);
    refused(f, "load_addr 0x1fff00");
    put(&f->i, 0x50, 0x200000, 4);
    put(&f->i, 0x54, 0x200101, 4);
    refused(f, "load_end_addr 0x200101");
    put(&f->i, 0x54, 0x1fffff, 4);
    refused(f, "load_end_addr 0x1fffff");
    put(&f->i, 0x54, 0x200100, 4);
    put(&f->i, 0x58, 0x2000ff, 4);
    refused(f, "bss_end_addr 0x2000ff");
    put(&f->i, 0x58, 0xffffffff, 4);
    refused(f, "not RAM");
    put(&f->i, 0x58, 0, 4);
    put(&f->i, 0x5c, 0x200100, 4);
    refused(f, "entry_addr 0x200100");
    f->i.size = 0x50;
    refused(f, "cut off");
}

static void multiboot_flags(void **state)
{
    struct fixture *f = *state;

    good_multiboot(&f->i);
    mb_header(&f->i, 0x1000, 0x8);
    refused(f, "flags 0x8");
}

static void pvh(void **state)
{
    struct fixture *f = *state;
    static const u8 a[3] = {7, 8, 9};
    const struct boot_module m = {"initrd", a, sizeof(a)};

    for (unsigned is64 = 0; is64 < 2; is64++) {
        good_pvh(&f->i, is64);
        f->g->params.cmdline = "console=ttyS0";
        f->g->params.module = &m;
        f->g->params.module_count = 1;
        assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_PVH);
        assert_int_equal(load(f), 0);
        expect_flat32(&f->cpu);
        assert_int_equal(f->cpu.rip, 0x100020);
        u64 info = f->cpu.gpr[X86_RBX];
        assert_int_equal(peek32(f, info), 0x336ec578);
        assert_int_equal(peek32(f, info + 4), 1);
        assert_int_equal(peek32(f, info + 12), 1);
        check_string(f, peek64(f, info + 24), "console=ttyS0");
        u64 list = peek64(f, info + 16);
        assert_int_equal(peek32(f, peek64(f, list)) & 0xffffff, 0x090807);
        assert_int_equal(peek64(f, list + 8), 3);
        assert_int_equal(peek32(f, info + 48), 4);
        assert_int_equal(peek64(f, peek64(f, info + 40) + 3 * 24), 0x100000);
    }
}

static void pvh_bad(void **state)
{
    struct fixture *f = *state;

    good_pvh(&f->i, true);
    put(&f->i, 0x1110, 0x100300, 4);
    refused(f, "PVH entry 0x100300");
    good_pvh(&f->i, true);
    put(&f->i, 0x1100, 0xffffffff, 4); // namesz beyond everything
    refused(f, "without a multiboot header");
    good_pvh(&f->i, true);
    put(&f->i, 0x1104, 0xfffffffd, 4);
    refused(f, "without a multiboot header");
    good_pvh(&f->i, true);
    elf_segment(&f->i, 1, 4, 0x1100, 0, 0, 1ull << 60, 20);
    refused(f, "without a multiboot header");
}

static void elf_fields(void **state)
{
    struct fixture *f = *state;

    good_multiboot(&f->i);
    f->i.bytes[4] = 3;
    refused(f, "ELF class 3");
    good_multiboot(&f->i);
    f->i.bytes[5] = 2;
    refused(f, "encoding 2");
    good_multiboot(&f->i);
    put(&f->i, 18, 40, 2);
    refused(f, "machine 40");
    good_multiboot(&f->i);
    put(&f->i, 16, 1, 2);
    refused(f, "type 1");
    good_multiboot(&f->i);
    put(&f->i, 42, 31, 2);
    refused(f, "e_phentsize is 31");
    good_multiboot(&f->i);
    put(&f->i, 28, 0x1100, 4);
    refused(f, "e_phoff 0x1100");
    good_multiboot(&f->i);
    put(&f->i, 44, 0xffff, 2);
    refused(f, "65535 program headers");
    good_multiboot(&f->i);
    put(&f->i, 44, 0, 2);
    refused(f, "no load segment");
    good_multiboot(&f->i);
    put(&f->i, 24, 0x100300, 4);
    refused(f, "e_entry 0x100300");
}

static void elf_segments(void **state)
{
    struct fixture *f = *state;

    good_multiboot(&f->i);
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0x100000, 0x101, 0x300);
    refused(f, "past the end of the file");
    elf_segment(&f->i, 0, 1, 0xfffff000, 0x100000, 0x100000, 0x100, 0x300);
    refused(f, "p_offset 0xfffff000");
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0x100000, 0x100, 0xff);
    refused(f, "p_filesz 0x100 is larger than p_memsz 0xff");
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0x100000, 0x100, GUEST_RAM);
    refused(f, "not RAM"); // larger than the guest
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0xf0000, 0x100, 0x300);
    refused(f, "p_paddr 0xf0000"); // ROM
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0x9ff00, 0x100, 0x300);
    refused(f, "not RAM"); // into the hole
    elf_segment(&f->i, 0, 1, 0x1000, 0x100000, 0xfffffff0, 0x10, 0x300);
    refused(f, "not RAM");
    good_multiboot(&f->i);
    put(&f->i, 44, 2, 2);
    elf_segment(&f->i, 1, 1, 0x1000, 0x1002ff, 0x1002ff, 0x10, 0x10);
    refused(f, "overlaps");
    assert_null(strstr(f->err.text, "segment 0"));
}

static void elf64_wraps(void **state)
{
    struct fixture *f = *state;

    good_pvh(&f->i, true);
    elf_segment(&f->i, 0, 1, 0x1000, 0, ~0ull - 0x10, 0x10, 0x300);
    refused(f, "wraps around");
    elf_segment(&f->i, 0, 1, ~0ull - 0x10, 0, 0x100000, 0x300, 0x300);
    refused(f, "past the end of the file");
    put(&f->i, 32, ~0ull - 8, 8);
    refused(f, "e_phoff");
}

static void truncation(void **state)
{
    struct fixture *f = *state;
    struct image whole;

    // Every prefix of a good image is refused in an orderly way.
    good_multiboot(&whole);
    for (u64 n = 0; n < whole.size; n += n < 0x60 ? 1 : 0x33) {
        f->i = whole;
        f->i.size = n;
        assert_true(load(f) < 0);
        assert_true(f->err.text[0]);
    }
    good_pvh(&whole, true);
    for (u64 n = 0; n < whole.size; n += n < 0x100 ? 1 : 0x33) {
        f->i = whole;
        f->i.size = n;
        assert_true(load(f) < 0);
    }
}

static void other_files(void **state)
{
    struct fixture *f = *state;

    memset(&f->i, 0, sizeof(f->i));
    refused(f, "empty");
    put(&f->i, 0, 'M', 1);
    refused(f, "first bytes 4d 00");
    memcpy(f->i.bytes + 0x202, "HdrS", 4);
    f->i.size = 0x1000;
    refused(f, "boot_flag");
}

static void header_position(void **state)
{
    struct fixture *f = *state;

    memset(&f->i, 0, sizeof(f->i));
    mb_header(&f->i, 8192 - 12, 3);
    assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_MULTIBOOT);
    memset(&f->i, 0, sizeof(f->i));
    mb_header(&f->i, 8192 - 8, 3); // not wholly in the first 8 KiB
    assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_UNKNOWN);
    memset(&f->i, 0, sizeof(f->i));
    mb_header(&f->i, 6, 3); // not aligned
    assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_UNKNOWN);
    memset(&f->i, 0, sizeof(f->i));
    mb_header(&f->i, 0, 3);
    f->i.bytes[8]++; // checksum
    assert_int_equal(boot_detect(f->i.bytes, f->i.size), BOOT_UNKNOWN);
}

static void room(void **state)
{
    struct fixture *f = *state;
    static const u8 byte;
    struct boot_module m = {"huge", &byte, GUEST_RAM};

    good_multiboot(&f->i);
    f->g->params.module = &m;
    f->g->params.module_count = 1;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->err.text, "-initrd huge"));
    m.size = ~0ull - 100;
    assert_true(load(f) < 0);
    // A kernel that fills low memory: the information goes elsewhere, and hits nothing.
    f->g->params.module_count = 0;
    good_multiboot(&f->i);
    elf_segment(&f->i, 0, 1, 0x1000, 0, 0, 0x100, 0x9fc00);
    put(&f->i, 24, 0x10, 4);
    assert_int_equal(load(f), 0);
    assert_true(f->cpu.gpr[X86_RBX] >= 0x100000);
    // A kernel that fills everything.
    good_multiboot(&f->i);
    put(&f->i, 44, 2, 2);
    elf_segment(&f->i, 0, 1, 0x1000, 0, 0, 0x100, 0x9fc00);
    elf_segment(&f->i, 1, 1, 0x1000, 0x100000, 0x100000, 0x100, GUEST_RAM - 0x100000);
    refused(f, "no room");
}

static void long_command_line(void **state)
{
    struct fixture *f = *state;
    char *text = malloc(BOOT_MAX_CMDLINE + 1);

    memset(text, 'x', BOOT_MAX_CMDLINE);
    text[BOOT_MAX_CMDLINE] = 0;
    good_multiboot(&f->i);
    f->g->params.cmdline = text;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->err.text, "-append"));
    text[BOOT_MAX_CMDLINE - 1] = 0;
    assert_int_equal(load(f), 0);
    free(text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(multiboot_elf32),
        TEST(multiboot_modules),
        TEST(multiboot_addresses),
        TEST(multiboot_flags),
        TEST(pvh),
        TEST(pvh_bad),
        TEST(elf_fields),
        TEST(elf_segments),
        TEST(elf64_wraps),
        TEST(truncation),
        TEST(other_files),
        TEST(header_position),
        TEST(room),
        TEST(long_command_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
