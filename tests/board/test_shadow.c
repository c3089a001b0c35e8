// Memory between 0xc0000 and 0xfffff: what the host bridge's PAM registers make of it, for accesses and for running code.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "engine/engines.h"

extern const u8 shadow_rom[], shadow_rom_end[];

struct rig {
    struct fake_host host;
    struct cpu_model model;
    struct pc_options o;
    struct pc *pc;
    struct error err;
    struct engine_ops engine;
};

// An engine, with an account of what it is told to forget.
static const struct engine_ops *engine;
static u64 forgotten;

static void note_invalidate(struct vcpu *v, gpa base, u64 len)
{
    engine->invalidate(v, base, len);
    if (base >= I440FX_AREA_BASE && base + len <= 1 << 20)
        forgotten += len;
}

static int interp(void **state)
{
    (void)state;
    engine = engine_find("interp");
    return 0;
}

static int cache(void **state)
{
    (void)state;
    engine = engine_find("cache");
    return 0;
}

static struct rig *rig_new(bool firmware, unsigned cpus)
{
    struct rig *r = calloc(1, sizeof(*r));
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];

    fake_host_init(&r->host);
    memset(features, 0xff, sizeof(features));
    assert_null(cpu_model_parse("qemu64", features, &r->model, text, sizeof(text)));
    r->engine = *engine;
    r->engine.invalidate = note_invalidate;
    r->o = (struct pc_options){.ram = 2 << 20, .cpus = cpus, .engine = &r->engine, .model = &r->model};
    if (firmware) {
        r->o.bios = shadow_rom;
        r->o.bios_size = (u64)(shadow_rom_end - shadow_rom);
    }
    assert_int_equal(pc_create(&r->host.host, &r->o, &r->pc, &r->err), 0);
    return r;
}

static void rig_free(struct rig *r)
{
    pc_destroy(r->pc);
    free(r);
}

static void set_pam(struct rig *r, unsigned n, u8 val)
{
    bus_out(&r->pc->m.bus, 0xcf8, 4, 0x80000000 | ((0x59 + n) & ~3u));
    bus_out(&r->pc->m.bus, (u16)(0xcfc + ((0x59 + n) & 3)), 1, val);
}

static u8 load(struct rig *r, gpa a)
{
    return (u8)mem_load(&r->pc->m.mem, a, 1);
}

// First byte, register and shift of every area.
static const struct {
    gpa base;
    u8 reg, shift;
} areas[] = {{0xc0000, 1, 0}, {0xc4000, 1, 4}, {0xc8000, 2, 0}, {0xcc000, 2, 4}, {0xd0000, 3, 0},
             {0xd4000, 3, 4}, {0xd8000, 4, 0}, {0xdc000, 4, 4}, {0xe0000, 5, 0}, {0xe4000, 5, 4},
             {0xe8000, 6, 0}, {0xec000, 6, 4}, {0xf0000, 0, 4}};

static void registers(void **state)
{
    struct rig *r = rig_new(true, 1);

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(areas); i++) {
        gpa a = areas[i].base, last = i == 12 ? 0xfffff : a + 0x3fff;
        u8 rom = load(r, a);

        assert_int_equal(rom, i == 12 ? shadow_rom[0] : 0xff);
        mem_store(&r->pc->m.mem, a, 1, 0x5a); // vanishes
        set_pam(r, areas[i].reg, (u8)(1 << areas[i].shift));
        assert_int_equal(load(r, a), 0);
        mem_store(&r->pc->m.mem, a, 1, 0x5a);
        assert_int_equal(load(r, a), 0);
        set_pam(r, areas[i].reg, (u8)(2 << areas[i].shift));
        mem_store(&r->pc->m.mem, a, 1, 0x5b);
        mem_store(&r->pc->m.mem, last, 1, 0x5c);
        assert_int_equal(load(r, a), rom);
        set_pam(r, areas[i].reg, (u8)(3 << areas[i].shift));
        assert_int_equal(load(r, a), 0x5b);
        assert_int_equal(load(r, last), 0x5c);
        assert_int_equal(load(r, last + 1), i == 11 ? shadow_rom[0] : i == 12 ? 0 : 0xff); // the next one's
        set_pam(r, areas[i].reg, 0);
        assert_int_equal(load(r, a), rom);
    }
    rig_free(r);
}

// Firmware's own end, and a reset, which brings the ROM back and keeps the RAM.
static void moves_itself(void **state)
{
    static const u8 found[] = {0x11, 0x22, 0x33, 0x33, 0x11};
    struct rig *r = rig_new(true, 1);
    struct vcpu *v = r->pc->m.vcpu[0];
    struct vm_exit e = {.reason = VM_EXIT_KICK};
    u8 got[5];

    (void)state;
    while (e.reason == VM_EXIT_KICK)
        e = r->engine.run(v, 1000000);
    assert_int_equal(e.reason, VM_EXIT_HALT);
    assert_true(mem_read(&r->pc->m.mem, 0x500, got, 5));
    assert_memory_equal(got, found, 5);
    set_pam(r, 0, 0x30);
    assert_int_equal(load(r, 0xffff5), shadow_rom[0xfff5]);
    mem_store(&r->pc->m.mem, 0xffff0, 1, 0x90);
    pc_reset(r->pc);
    assert_int_equal(load(r, 0xffff0), shadow_rom[0xfff0]);
    set_pam(r, 0, 0x30);
    assert_int_equal(load(r, 0xffff0), 0x90);
    rig_free(r);
}

// Every processor and engine hears of it, once for each change and not without one.
static void everybody_is_told(void **state)
{
    struct rig *r = rig_new(true, 2);

    (void)state;
    for (unsigned i = 0; i < 2; i++)
        mmu_serve_tlb_requests(r->pc->m.vcpu[i]);
    for (unsigned turn = 0; turn < 4; turn++) {
        set_pam(r, 0, turn < 3 ? 0x10 : 0);
        for (unsigned i = 0; i < 2; i++) {
            struct vcpu *v = r->pc->m.vcpu[i];
            bool told = atomic_load(&v->request) & VCPU_REQ_TLB;

            assert_int_equal(told, turn == 0 || turn == 3);
            forgotten = 0;
            mmu_serve_tlb_requests(v);
            assert_int_equal(forgotten, told ? 256 << 10 : 0);
            assert_true(mmu_queue_empty(v));
        }
    }
    rig_free(r);
}

// Page tables in RAM that becomes ROM: the processor reads on, and what it would mark there is lost.
static void tables_under_rom(void **state)
{
    struct rig *r = rig_new(true, 1);
    struct vcpu *v = r->pc->m.vcpu[0];
    struct mem *m = &r->pc->m.mem;
    struct mmu_page page;
    struct mmu_fault fault;

    (void)state;
    set_pam(r, 1, 0x33);
    mem_store(m, 0xc0000, 4, 0xc1003); // page directory
    mem_store(m, 0xc1000, 4, 0x1003);
    v->cpu.cr0 = X86_CR0_PE | X86_CR0_PG;
    v->cpu.cr3 = 0xc0000;
    set_pam(r, 1, 0x11);
    assert_true(mmu_walk(v, 0, MMU_WRITE, TLB_SUPER, &page, &fault));
    assert_int_equal(page.addr, 0x1000);
    assert_int_equal(mem_load(m, 0xc1000, 4), 0x1003);
    set_pam(r, 1, 0x33);
    assert_true(mmu_walk(v, 0, MMU_WRITE, TLB_SUPER, &page, &fault));
    assert_int_equal(mem_load(m, 0xc1000, 4), 0x1063);
    rig_free(r);
}

static void without_firmware(void **state)
{
    struct rig *r = rig_new(false, 1);

    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) {
        for (unsigned i = 0; i < ARRAY_LEN(areas); i++) {
            mem_store(&r->pc->m.mem, areas[i].base, 1, 0x77);
            assert_int_equal(load(r, areas[i].base), 0x77);
        }
        set_pam(r, 0, 0x00); // who looks at where a ROM would be finds nothing
        assert_int_equal(load(r, 0xf0000), 0xff);
        pc_reset(r->pc);
    }
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(registers, interp),        cmocka_unit_test_setup(moves_itself, interp),
        cmocka_unit_test_setup(moves_itself, cache),      cmocka_unit_test_setup(everybody_is_told, interp),
        cmocka_unit_test_setup(tables_under_rom, interp), cmocka_unit_test_setup(without_firmware, interp),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
