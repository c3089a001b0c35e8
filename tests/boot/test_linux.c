// The Linux loader: good images by both protocols, and every field that can be wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "boot/guest_mem.h"
#include "boot/linux_fw.h"
#include "boot/linux_image.h"

struct fixture {
    struct guest_mem *g;
    u8 image[LINUX_SIZE];
    u64 size;
    struct cpu cpu;
    struct error err;
};

static void good(struct fixture *f, bool is64)
{
    linux_image(f->image, is64);
    f->size = LINUX_SIZE;
}

static int setup(void **state)
{
    struct fixture *f = aligned_alloc(_Alignof(struct fixture), sizeof(*f));

    memset(f, 0, sizeof(*f));
    f->g = guest_mem_new();
    f->g->params.long_mode = true;
    good(f, true);
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
    f->g->params.kernel = f->image;
    f->g->params.kernel_size = f->size;
    f->err.text[0] = 0;
    cpu_reset(&f->cpu, true);
    return boot_load(&f->g->mem, &f->g->params, &f->cpu, &f->err);
}

static void loads(struct fixture *f)
{
    if (load(f))
        fail_msg("refused: %s", f->err.text);
}

// Loading fails, and the message is one line that names the option and holds `part`.
static void refused(struct fixture *f, const char *option, const char *part)
{
    assert_true(load(f) < 0);
    if (!strstr(f->err.text, part) || strncmp(f->err.text, option, strlen(option)))
        fail_msg("message \"%s\" lacks \"%s\" or \"%s\"", f->err.text, option, part);
    assert_null(strchr(f->err.text, '\n'));
    good(f, true);
}

static u64 peek(struct fixture *f, u64 a, unsigned n)
{
    u64 v = 0;

    assert_true(mem_read(&f->g->mem, a, &v, n));
    return v;
}

static void check_string(struct fixture *f, u64 a, const char *want)
{
    char got[256];

    assert_true(mem_read(&f->g->mem, a, got, strlen(want) + 1));
    assert_string_equal(got, want);
}

// The descriptor that a segment register claims to have been loaded from is in the GDT.
static void check_descriptor(struct fixture *f, const struct x86_seg *s)
{
    u64 d = peek(f, f->cpu.gdtr.base + (s->sel & ~7u), 8);

    assert_in_range(s->sel, 8, f->cpu.gdtr.limit - 7);
    assert_int_equal((d >> 40 & 0xff) | (d >> 40 & 0xf000), s->attr);
}

static void check_segments(struct fixture *f)
{
    assert_int_equal(f->cpu.seg[X86_CS].sel, 0x10);
    for (unsigned i = 0; i <= X86_GS; i++) {
        assert_int_equal(f->cpu.seg[i].base, 0);
        assert_int_equal(f->cpu.seg[i].limit, 0xffffffff);
        if (i != X86_CS)
            assert_int_equal(f->cpu.seg[i].sel, 0x18);
        check_descriptor(f, &f->cpu.seg[i]);
    }
    check_descriptor(f, &f->cpu.seg[X86_TR]);
    assert_int_equal(f->cpu.rflags & (X86_FL_IF | X86_FL_TF | X86_FL_VM), 0);
    assert_null(cpu_check(&f->cpu));
}

// Follow the loader's page tables for one address.
static u64 translate(struct fixture *f, u64 a)
{
    u64 t = f->cpu.cr3;

    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        u64 e = peek(f, t + (a >> shift & 511) * 8, 8);

        assert_true(e & X86_PTE_P);
        assert_true(e & X86_PTE_W);
        t = e & 0xffffffffff000;
        if (e & X86_PTE_PS)
            return t + (a & 0x1fffff);
    }
    fail_msg("no large page for %llx", (unsigned long long)a);
    return 0;
}

static void protocol64(void **state)
{
    struct fixture *f = *state;
    static const u64 probes[] = {0, 0x1234, 0x3fffff, 0x40000000, 0xbfffffff, 0xfee00030, 0xffffffff};

    f->g->params.cmdline = "console=ttyS0 quiet";
    f->g->params.rsdp = 0xe0040;
    assert_int_equal(boot_detect(f->image, f->size), BOOT_LINUX);
    loads(f);
    check_segments(f);
    assert_int_equal(f->cpu.rip, 0x400200);
    assert_true(f->cpu.cr0 & X86_CR0_PG);
    assert_true(f->cpu.cr4 & X86_CR4_PAE);
    assert_int_equal(f->cpu.msr.efer, X86_EFER_LME | X86_EFER_LMA);
    assert_true(cpu_64bit(&f->cpu));
    for (size_t i = 0; i < ARRAY_LEN(probes); i++)
        assert_int_equal(translate(f, probes[i]), probes[i]);
    assert_int_equal(peek(f, 0x400200, 8), 0x9090909090909090);

    u64 bp = f->cpu.gpr[X86_RSI];
    assert_int_equal(peek(f, bp + 0x202, 4), 0x53726448);
    assert_int_equal(peek(f, bp + 0x1ef, 1), 0); // sentinel
    assert_int_equal(peek(f, bp + 0x210, 1), 0xff);
    assert_int_equal(peek(f, bp + 0x214, 4), 0x400000);
    assert_int_equal(peek(f, bp + 0x070, 8), 0xe0040);
    assert_int_equal(peek(f, bp + 0x26c, 8), 0); // behind the header's end
    check_string(f, peek(f, bp + 0x228, 4), "console=ttyS0 quiet");
    assert_int_equal(peek(f, bp + 0x002, 2), 15 << 10);
    assert_int_equal(peek(f, bp + 0x1e0, 4), 15 << 10);
    assert_int_equal(peek(f, bp + 0x1e8, 1), 4);
    assert_int_equal(peek(f, bp + 0x2d0 + 3 * 20, 8), 0x100000);
    assert_int_equal(peek(f, bp + 0x2d0 + 3 * 20 + 8, 8), GUEST_RAM - 0x100000);
    assert_int_equal(peek(f, bp + 0x2d0 + 2 * 20 + 16, 4), BOOT_RANGE_RESERVED);
    assert_int_equal(peek(f, bp + 0x218, 8), 0); // no initrd
}

static void protocol32(void **state)
{
    struct fixture *f = *state;

    good(f, false);
    f->g->params.long_mode = false;
    linux_put(f->image, 0x214, 0x100040, 4);
    loads(f);
    check_segments(f);
    assert_int_equal(f->cpu.rip, 0x400040);
    assert_int_equal(f->cpu.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(f->cpu.gpr[X86_RBX] | f->cpu.gpr[X86_RBP] | f->cpu.gpr[X86_RDI], 0);
    assert_int_equal(peek(f, f->cpu.gpr[X86_RSI] + 0x202, 4), 0x53726448);
    assert_int_equal(peek(f, f->cpu.gpr[X86_RSI] + 0x214, 4), 0x400040);

    // xloadflags came with 2.12: before that there is no 64-bit entry, whatever the bytes are.
    linux_put(f->image, 0x206, 0x20b, 2);
    linux_put(f->image, 0x236, 0xffff, 2);
    loads(f);
    assert_int_equal(f->cpu.cr0 & X86_CR0_PG, 0);
}

static void placement(void **state)
{
    struct fixture *f = *state;

    linux_put(f->image, 0x258, 0xe00000, 8); // 2 MiB left there
    loads(f);
    assert_int_equal(f->cpu.rip, 0x200200); // lowest multiple of 2 MiB above 1 MiB
    linux_put(f->image, 0x258, 0x401000, 8);
    loads(f);
    assert_int_equal(f->cpu.rip, 0x200200);
    linux_put(f->image, 0x258, ~0xfffull, 8);
    loads(f);
    assert_int_equal(f->cpu.rip, 0x200200);
    linux_put(f->image, 0x230, 0x1000000, 4);
    refused(f, "-kernel k", "init_size 0x300000");
    linux_put(f->image, 0x260, 0x1000000, 4);
    refused(f, "-kernel k", "init_size 0x1000000");

    // One that cannot choose is loaded at 1 MiB; what it moves to must be there too.
    linux_put(f->image, 0x234, 0, 1);
    loads(f);
    assert_int_equal(f->cpu.rip, 0x100200);
    linux_put(f->image, 0x258, 0xe00000, 8);
    refused(f, "-kernel k", "pref_address 0xe00000");
    linux_put(f->image, 0x234, 0, 1);
    linux_put(f->image, 0x258, 1ull << 63, 8);
    refused(f, "-kernel k", "pref_address 0x8000000000000000");
    linux_put(f->image, 0x234, 0, 1);
    linux_put(f->image, 0x258, 0x50000, 8);
    refused(f, "-kernel k", "pref_address 0x50000"); // into the hole

    // Before 2.10 there is neither address nor size.
    linux_put(f->image, 0x206, 0x206, 2);
    linux_put(f->image, 0x234, 0, 1);
    linux_put(f->image, 0x258, ~0ull, 8);
    linux_put(f->image, 0x260, ~0u, 4);
    loads(f);
    assert_int_equal(f->cpu.rip, 0x100000);
}

// A range that the map reserves is no place for a kernel, RAM or not.
static void reserved_range(void **state)
{
    struct fixture *f = *state;

    f->g->range[2] = (struct boot_range){0x100000, 0x600000, BOOT_RANGE_RESERVED};
    f->g->range[3] = (struct boot_range){0x700000, GUEST_RAM - 0x700000, BOOT_RANGE_RAM};
    loads(f);
    assert_int_equal(f->cpu.rip, 0x800200);
    assert_int_equal(peek(f, f->cpu.gpr[X86_RSI] + 0x1e0, 4), 0);
}

static void initrds(void **state)
{
    struct fixture *f = *state;
    static const u8 a[5001] = {1, 2, 3}, b[3] = {7, 8, 9};
    const struct boot_module m[2] = {{"first", a, sizeof(a)}, {"second", b, sizeof(b)}};

    f->g->params.module = m;
    f->g->params.module_count = 2;
    loads(f);
    u64 bp = f->cpu.gpr[X86_RSI], at = peek(f, bp + 0x218, 4);
    assert_int_equal(peek(f, bp + 0x21c, 4), 5004 + 4);
    assert_int_equal(peek(f, bp + 0x0c0, 8), 0);
    assert_int_equal(at, GUEST_RAM - 0x2000); // as high as possible, on a page
    assert_int_equal(peek(f, at, 4), 0x030201);
    assert_int_equal(peek(f, at + 5001, 3), 0); // padding
    assert_int_equal(peek(f, at + 5004, 4), 0x090807);

    linux_put(f->image, 0x22c, 0x8fffff, 4);
    loads(f);
    assert_int_equal(peek(f, bp + 0x218, 4), 0x900000 - 0x2000);
    linux_put(f->image, 0x22c, 0x6fffff, 4); // ends in the kernel
    loads(f);
    assert_int_equal(peek(f, bp + 0x218, 4), 0x400000 - 0x2000);
    linux_put(f->image, 0x22c, 0x100fff, 4);
    refused(f, "-initrd first", "initrd_addr_max 0x100fff");

    f->g->params.module_count = 0;
    loads(f);
    assert_int_equal(peek(f, bp + 0x218, 8), 0);
}

static void initrd_sizes(void **state)
{
    struct fixture *f = *state;
    static const u8 byte;
    struct boot_module m = {"huge", &byte, GUEST_RAM};

    f->g->params.module = &m;
    f->g->params.module_count = 1;
    refused(f, "-initrd huge", "do not fit");
    m.size = ~0ull;
    refused(f, "-initrd huge", "at most 4 GiB");
}

// Guest memory above 4 GiB takes what does not fit below, for a kernel that can use it there.
static void initrd_above_4g(void **state)
{
    struct fixture *f = *state;
    const u64 size = 8 << 20;
    u8 *high = aligned_alloc(MEM_PAGE_SIZE, size + MEM_PAGE_SIZE);
    u8 *data = calloc(1, size);
    _Atomic u8 *flags = calloc(1, size / MEM_PAGE_SIZE + 1);
    const struct boot_module m = {"big", data, size};

    data[0] = 0x42;
    mem_add_ram(&f->g->mem, 1ull << 32, size, high, flags, "high");
    f->g->range[1] = f->g->range[3];
    f->g->range[2] = (struct boot_range){1ull << 32, size, BOOT_RANGE_RAM};
    f->g->params.range_count = 3;
    f->g->params.module = &m;
    f->g->params.module_count = 1;
    linux_put(f->image, 0x260, 0x600000, 4);
    loads(f);
    u64 bp = f->cpu.gpr[X86_RSI];
    assert_int_equal(peek(f, bp + 0x218, 4), 0);
    assert_int_equal(peek(f, bp + 0x0c0, 4), 1);
    assert_int_equal(peek(f, bp + 0x21c, 4), size);
    assert_int_equal(peek(f, 1ull << 32, 1), 0x42);
    linux_put(f->image, 0x236, 1, 2); // not able to
    refused(f, "-initrd big", "do not fit");
    free(high);
    free(data);
    free((void *)flags);
}

static void command_line(void **state)
{
    struct fixture *f = *state;
    char text[258];

    memset(text, 'x', 256);
    text[256] = 0;
    f->g->params.cmdline = text;
    refused(f, "-append", "256 characters; this kernel takes at most 255");
    text[255] = 0;
    loads(f);
    check_string(f, peek(f, f->cpu.gpr[X86_RSI] + 0x228, 4), text);
}

static void fields(void **state)
{
    struct fixture *f = *state;

    linux_put(f->image, 0x1fe, 0x55aa, 2);
    refused(f, "-kernel k", "boot_flag is 0x55aa");
    linux_put(f->image, 0x206, 0x205, 2);
    refused(f, "-kernel k", "version 2.05");
    linux_put(f->image, 0x211, 0, 1);
    refused(f, "-kernel k", "loadflags is 0x00");
    linux_put(f->image, 0x201, 0x61, 1);
    refused(f, "-kernel k", "header ends at 0x263");
    linux_put(f->image, 0x1f1, 255, 1);
    refused(f, "-kernel k", "setup_sects 255");
    linux_put(f->image, 0x1f4, LINUX_PAYLOAD / 16 + 1, 4);
    refused(f, "-kernel k", "syssize 0x101");
    linux_put(f->image, 0x1f4, 0xffffffff, 4);
    refused(f, "-kernel k", "syssize 0xffffffff");
    linux_put(f->image, 0x230, 0, 4);
    refused(f, "-kernel k", "kernel_alignment is 0x0");
    linux_put(f->image, 0x230, 0x300000, 4);
    refused(f, "-kernel k", "kernel_alignment is 0x300000");
    linux_put(f->image, 0x1f1, 9, 1);
    linux_put(f->image, 0x1f4, 0x20, 4);
    f->size = 10 * 512 + 0x200;
    refused(f, "-kernel k", "64-bit entry");
    f->g->params.long_mode = false;
    refused(f, "-kernel k", "no long mode");
    good(f, false);
    linux_put(f->image, 0x214, 0x101000, 4);
    refused(f, "-kernel k", "code32_start 0x101000");
    good(f, false);
    linux_put(f->image, 0x214, 0xfffff, 4);
    refused(f, "-kernel k", "code32_start 0xfffff");
}

// No setup sectors mean four, as in the oldest images; a last paragraph may be cut off.
static void odd_but_right(void **state)
{
    struct fixture *f = *state;

    linux_put(f->image, 0x1f1, 0, 1);
    linux_put(f->image, 0x1f4, (LINUX_SIZE - 5 * 512) / 16, 4);
    f->size -= 15;
    loads(f);
    f->size -= 1;
    refused(f, "-kernel k", "truncated");
    linux_put(f->image, 0x201, 0xff, 1); // a header longer than boot_params has room for
    loads(f);
    assert_int_equal(peek(f, f->cpu.gpr[X86_RSI] + 0x290, 8), 0);
}

static void truncation(void **state)
{
    struct fixture *f = *state;

    for (u64 n = 0; n < LINUX_SIZE; n += n < 0x300 ? 1 : 0x33) {
        good(f, true);
        f->size = n;
        assert_true(load(f) < 0);
        assert_true(f->err.text[0]);
    }
}

static void no_low_memory(void **state)
{
    struct fixture *f = *state;

    f->g->range[0] = (struct boot_range){0, 0x9000, BOOT_RANGE_RAM};
    f->g->range[3].size = 0x600000;
    linux_put(f->image, 0x258, 0x100000, 8);
    linux_put(f->image, 0x234, 0, 1);
    linux_put(f->image, 0x260, 0x600000, 4);
    refused(f, "-kernel k", "boot information");
}

// --- for firmware -----------------------------------------------------------------------------------------------------------

static int offer(struct fixture *f, u64 initrd_size, u64 ram, struct linux_offer *o)
{
    static const u8 initrd[4096];

    f->g->params.kernel = f->image;
    f->g->params.kernel_size = f->size;
    f->g->params.cmdline = "word";
    f->err.text[0] = 0;
    return linux_offer(&f->g->params, initrd_size ? initrd : NULL, initrd_size, ram, o, &f->err);
}

static void expect_no_offer(struct fixture *f, u64 initrd_size, u64 ram, struct linux_offer *o, const char *part)
{
    assert_true(offer(f, initrd_size, ram, o) < 0);
    if (!strstr(f->err.text, part) || strchr(f->err.text, '\n'))
        fail_msg("message \"%s\" lacks \"%s\"", f->err.text, part);
    good(f, true);
}

static u64 big_endian(const u8 *p, unsigned n)
{
    u64 v = 0;

    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

static void offered(void **state)
{
    const u64 ram = 64 << 20;
    struct fixture *f = *state;
    struct linux_offer *o = calloc(1, sizeof(*o));
    u8 sum = 0;
    unsigned commands = 0;
    u64 setup = (f->image[0x1f1] + 1u) * 512;

    assert_int_equal(offer(f, 4000, ram, o), 0);
    assert_int_equal(o->setup_size, setup);
    assert_ptr_equal(o->kernel, f->image + setup);
    assert_int_equal(o->kernel_size, LINUX_SIZE - setup);
    assert_int_equal(o->cmdline_size, 5);
    assert_int_equal(o->initrd_addr & 0xfff, 0);
    assert_true(o->initrd_addr + 4000 <= ram - (1 << 20));
    assert_int_equal(o->setup[0x210], 0xff);
    assert_int_equal(o->setup[0x211] & 0x81, 0x81);
    assert_memory_equal(o->setup + 0x218, &o->initrd_addr, 4);
    assert_memory_equal(o->setup + 0x228, "\0\0\2\0", 4);
    // The ROM: signature, size, sums, and the commands, which are its only items in these words.
    assert_memory_equal(o->rom, "\x55\xaa\1", 3);
    for (unsigned i = 0; i < sizeof(o->rom); i++)
        sum += o->rom[i];
    assert_int_equal(sum, 0);
    for (unsigned at = 0; at + 16 <= sizeof(o->rom); at += 16)
        if (big_endian(o->rom + at, 4) == 0x0011000a) {
            assert_int_equal(big_endian(o->rom + at + 4, 4), o->kernel_size);
            assert_int_equal(big_endian(o->rom + at + 8, 8), 0x100000);
            commands++;
        } else if (big_endian(o->rom + at, 4) == 0x0012000a) {
            assert_int_equal(big_endian(o->rom + at + 4, 4), 4000);
            assert_int_equal(big_endian(o->rom + at + 8, 8), o->initrd_addr);
            commands++;
        }
    assert_int_equal(commands, 2);
    assert_int_equal(offer(f, 0, ram, o), 0);
    assert_int_equal(o->initrd_addr, 0);
    linux_put(f->image, 0x22c, 0x1ffffff, 4); // not above 32 MiB
    assert_int_equal(offer(f, 4000, ram, o), 0);
    assert_int_equal(o->initrd_addr, 0x1fff000);
    free(o);
}

static void not_offered(void **state)
{
    struct fixture *f = *state;
    struct linux_offer *o = calloc(1, sizeof(*o));

    expect_no_offer(f, 0, 1 << 20, o, "init_size");
    expect_no_offer(f, 0, 0, o, "init_size");
    expect_no_offer(f, 64 << 20, 64 << 20, o, "-initrd: 67108864 bytes");
    expect_no_offer(f, ~0ull, 64 << 20, o, "-initrd:");
    linux_put(f->image, 0x258, ~0xfffull, 8);
    expect_no_offer(f, 0, 64 << 20, o, "pref_address");
    linux_put(f->image, 0x22c, 0xfffff, 4);
    expect_no_offer(f, 1, 64 << 20, o, "-initrd: 1 bytes");
    linux_put(f->image, 0x1fe, 0, 2);
    expect_no_offer(f, 0, 64 << 20, o, "boot_flag");
    free(o);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(protocol64),   TEST(protocol32),      TEST(placement),    TEST(reserved_range), TEST(initrds),
        TEST(initrd_sizes), TEST(initrd_above_4g), TEST(command_line), TEST(fields),         TEST(odd_but_right),
        TEST(truncation),   TEST(no_low_memory),   TEST(offered),      TEST(not_offered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
