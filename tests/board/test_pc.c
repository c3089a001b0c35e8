// The board: memory map, devices on their ports, wiring, life without leaks, and what the processor's thread does about exits.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "board/pc.h"
#include "cli/cmd.h"
#include "cli/vm.h"
#include "core/fake_host.h"
#include "engine/engines.h"

// The fake host, with an account of memory and a limit on allocations.
struct counting_host {
    struct fake_host f; // first
    struct host_ops ops;
    i64 bytes;
    unsigned blocks, allocations, fail_at; // fail_at: number of the allocation that fails; 0: none
};

static void *count_alloc(void *self, const char *name, u64 size)
{
    struct counting_host *h = self;

    if (++h->allocations == h->fail_at)
        return NULL;
    h->bytes += (i64)size;
    h->blocks++;
    return fake_mem_alloc(self, name, size);
}

static void count_free(void *self, void *p, u64 size)
{
    struct counting_host *h = self;

    assert_non_null(p);
    h->bytes -= (i64)size;
    h->blocks--;
    fake_mem_free(self, p, size);
}

static void host_init(struct counting_host *h)
{
    memset(h, 0, sizeof(*h));
    fake_host_init(&h->f);
    h->ops = fake_host_ops;
    h->ops.mem_alloc = count_alloc;
    h->ops.mem_free = count_free;
    h->f.host.ops = &h->ops;
    h->f.host.self = h;
}

struct rig {
    struct counting_host host;
    struct cpu_model model;
    struct pc_options o;
    struct pc *pc;
    struct error err;
    u8 sent[64];
    unsigned sent_count;
    const char *coming;
    u8 bios[256 << 10];
};

static void take(void *out, u8 byte)
{
    struct rig *r = out;

    r->sent[r->sent_count++ % sizeof(r->sent)] = byte;
}

static int give(void *in)
{
    struct rig *r = in;

    return r->coming && *r->coming ? *r->coming++ : -1;
}

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];

    host_init(&r->host);
    memset(features, 0xff, sizeof(features));
    assert_null(cpu_model_parse("qemu64", features, &r->model, text, sizeof(text)));
    r->o = (struct pc_options){.ram = 16 << 20,
                               .engine = engine_find("interp"),
                               .model = &r->model,
                               .serial = {true, true, true, true},
                               .debugcon = true,
                               .debug_exit = true,
                               .pvpanic = true,
                               .pvpanic_port = PVPANIC_PORT,
                               .testdev = true,
                               .serial_peer[0] = {.tx = take, .rx = give, .out = r, .in = r},
                               .debugcon_peer = {.tx = take, .out = r},
                               .debugcon_base = 0xe9,
                               .debug_exit_base = 0xf4,
                               .debug_exit_size = 4};
    return r;
}

static int create(struct rig *r)
{
    return pc_create(&r->host.f.host, &r->o, &r->pc, &r->err);
}

static void destroy(struct rig *r)
{
    pc_destroy(r->pc);
    assert_int_equal(r->host.blocks, 0);
    assert_int_equal(r->host.bytes, 0);
}

static void out(struct rig *r, u16 port, unsigned size, u32 val)
{
    bus_out(&r->pc->m.bus, port, size, val);
}

static u32 in(struct rig *r, u16 port, unsigned size)
{
    return bus_in(&r->pc->m.bus, port, size);
}

// --- memory -------------------------------------------------------------------------------------------------------------------

static enum mem_kind kind_at(struct rig *r, gpa a)
{
    const struct mem_region *m = mem_find(&r->pc->m.mem, a);

    return m ? m->kind : MEM_NONE;
}

static void memory_map(void **state)
{
    struct rig *r = rig_new();
    struct boot_range map[BOOT_MAX_RANGES];
    u64 usable = 0;

    (void)state;
    assert_int_equal(create(r), 0);
    assert_int_equal(kind_at(r, 0), MEM_RAM);
    assert_int_equal(kind_at(r, 0x9ffff), MEM_RAM);
    assert_int_equal(kind_at(r, 0xa0000), MEM_NONE);
    assert_int_equal(kind_at(r, 0xbffff), MEM_NONE);
    assert_int_equal(kind_at(r, 0xfffff), MEM_RAM);
    assert_int_equal(kind_at(r, (16 << 20) - 1), MEM_RAM);
    assert_int_equal(kind_at(r, 16 << 20), MEM_NONE);
    assert_int_equal(kind_at(r, 0xfee00000), MEM_MMIO);
    assert_int_equal(kind_at(r, 0xffffffff), MEM_NONE);
    unsigned n = pc_memory_map(r->pc, map);
    for (unsigned i = 0; i < n; i++) {
        if (i)
            assert_true(map[i - 1].base + map[i - 1].size <= map[i].base);
        if (map[i].type == BOOT_RANGE_RAM) {
            usable += map[i].size;
            assert_int_equal(kind_at(r, map[i].base), MEM_RAM);
            assert_int_equal(kind_at(r, map[i].base + map[i].size - 1), MEM_RAM);
        }
    }
    assert_int_equal(usable, (16 << 20) - (1 << 20) + 0x9fc00);
    destroy(r);
    free(r);
}

static void firmware(void **state)
{
    struct rig *r = rig_new();
    static const unsigned sizes[] = {64, 128, 256};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        u64 size = sizes[i] << 10, low = size < (128 << 10) ? size : 128 << 10, val;

        memset(r->bios, 0x5a, size);
        memcpy(r->bios + size - 16, "reset vector ...", 16);
        r->o.bios = r->bios;
        r->o.bios_size = size;
        assert_int_equal(create(r), 0);
        assert_int_equal(kind_at(r, (1ull << 32) - size), MEM_ROM);
        assert_int_equal(kind_at(r, (1ull << 32) - size - 1), MEM_NONE);
        assert_int_equal(kind_at(r, 0x100000 - low), MEM_ROM);
        assert_int_equal(mem_load(&r->pc->m.mem, 0x100000 - low, 1), 0x5a);
        assert_int_equal(mem_load(&r->pc->m.mem, 0x100000 - low - 1, 1), 0xff); // nothing there
        val = mem_load(&r->pc->m.mem, 0xfffffff0, 8);
        assert_memory_equal(&val, "reset ve", 8);
        mem_store(&r->pc->m.mem, 0xffff0, 8, 0); // ROM
        val = mem_load(&r->pc->m.mem, 0xffff0, 8);
        assert_memory_equal(&val, "reset ve", 8);
        destroy(r);
    }
    free(r);
}

static void limits(void **state)
{
    struct rig *r = rig_new();
    static const u64 bad[] = {0, 4096, PC_MIN_RAM - 4096, PC_MIN_RAM + 1, PC_MAX_RAM + 4096, ~0ull};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        r->o.ram = bad[i];
        assert_true(create(r) < 0);
        assert_non_null(strstr(r->err.text, "-m"));
    }
    r->o.ram = PC_MIN_RAM;
    assert_int_equal(create(r), 0);
    destroy(r);
    r->o.bios = r->bios;
    r->o.bios_size = 1000;
    assert_true(create(r) < 0);
    assert_non_null(strstr(r->err.text, "-bios"));
    assert_int_equal(r->host.blocks, 0);
    free(r);
}

// Whichever allocation fails, all the others are given back.
static void no_memory(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->o.bios = r->bios;
    r->o.bios_size = sizeof(r->bios);
    assert_int_equal(create(r), 0);
    unsigned total = r->host.allocations;
    destroy(r);
    assert_true(total >= 6);
    for (unsigned n = 1; n <= total; n++) {
        r->host.allocations = 0;
        r->host.fail_at = n;
        assert_true(create(r) < 0);
        assert_non_null(strstr(r->err.text, "memory"));
        assert_int_equal(r->host.blocks, 0);
        assert_int_equal(r->host.bytes, 0);
    }
    free(r);
}

static void taken_ports(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->o.debug_exit_base = 0x3f8;
    assert_true(create(r) < 0);
    assert_non_null(strstr(r->err.text, "0x3f8"));
    assert_int_equal(r->host.blocks, 0);
    r->o.debug_exit_base = 0xffff;
    assert_true(create(r) < 0);
    assert_int_equal(r->host.blocks, 0);
    free(r);
}

// --- wiring -------------------------------------------------------------------------------------------------------------------

static void pic_init(struct rig *r)
{
    static const u16 seq[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 0x04}, {0x21, 0x01}, {0xa0, 0x11},
                                 {0xa1, 0x28}, {0xa1, 0x02}, {0xa1, 0x01}, {0x21, 0x00}, {0xa1, 0x00}};

    for (unsigned i = 0; i < ARRAY_LEN(seq); i++)
        out(r, seq[i][0], 1, seq[i][1]);
}

static bool intr(struct rig *r)
{
    return atomic_load(&r->pc->m.vcpu[0]->request) & VCPU_REQ_INTR;
}

static u8 cmos(struct rig *r, u8 reg)
{
    out(r, 0x70, 1, reg);
    return (u8)in(r, 0x71, 1);
}

// The HPET takes the wires of the 8254 and the RTC and gives them back as they are by then.
static void timer_wires(void **state)
{
    struct rig *r = rig_new();
    struct vcpu *v;

    (void)state;
    assert_int_equal(create(r), 0);
    v = r->pc->m.vcpu[0];
    pic_init(r);
    cmos(r, 0x0c);
    cmos(r, 0x0b);
    out(r, 0x71, 1, 0x12); // an interrupt each second
    mem_store(&r->pc->m.mem, HPET_BASE + 0x10, 8, 2);
    r->host.f.now_ns += 2000000000;
    clock_run(&r->pc->m.clock);
    assert_false(intr(r));
    mem_store(&r->pc->m.mem, HPET_BASE + 0x10, 8, 0);
    assert_true(intr(r));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x28);
    out(r, 0xa0, 1, 0x20);
    out(r, 0x20, 1, 0x20);
    assert_int_equal(cmos(r, 0x0c) & 0x90, 0x90);
    // A level interrupt of timer 1 goes where the RTC's went, and leaves with it.
    mem_store(&r->pc->m.mem, HPET_BASE + 0x120, 8, 6);
    mem_store(&r->pc->m.mem, HPET_BASE + 0x128, 8, 100);
    mem_store(&r->pc->m.mem, HPET_BASE + 0x10, 8, 3);
    r->host.f.now_ns += 1000000;
    clock_run(&r->pc->m.clock);
    assert_true(intr(r));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x28);
    assert_true(r->pc->isa_irq[0] >> 8 & 1);
    mem_store(&r->pc->m.mem, HPET_BASE + 0x10, 8, 1);
    assert_false(r->pc->isa_irq[0] >> 8 & 1);
    pc_destroy(r->pc);
    free(r);
}

static void interrupts(void **state)
{
    struct rig *r = rig_new();
    struct vcpu *v;

    (void)state;
    assert_int_equal(create(r), 0);
    v = r->pc->m.vcpu[0];
    pic_init(r);
    assert_false(intr(r));
    out(r, 0x2005, 1, 1); // test device: input 5
    assert_true(intr(r));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x25);
    assert_false(intr(r));
    out(r, 0x2005, 1, 0);
    out(r, 0x20, 1, 0x20);
    // Serial: a character comes in.
    out(r, 0x3fc, 1, 0x08);
    out(r, 0x3f9, 1, 0x01);
    r->coming = "x";
    pc_serial_input(r->pc, 0);
    assert_true(intr(r));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x24);
    assert_int_equal(in(r, 0x3f8, 1), 'x');
    out(r, 0x20, 1, 0x20);
    // Interval timer: 1 ms, one shot.
    out(r, 0x43, 1, 0x30);
    out(r, 0x40, 1, 0xa9);
    out(r, 0x40, 1, 0x04);
    r->host.f.now_ns += 2000000;
    clock_run(&r->pc->m.clock);
    assert_true(intr(r));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x20);
    destroy(r);
    free(r);
}

static void ports(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    assert_int_equal(create(r), 0);
    assert_int_equal(in(r, 0xe9, 1), 0xe9);
    out(r, 0xe9, 1, 'd');
    out(r, 0x3f8, 2, 's'); // too wide: taken apart; the second byte goes to IER
    assert_memory_equal(r->sent, "ds", 2);
    assert_int_equal(r->sent_count, 2);
    out(r, 0xe0, 4, 0x11223344);
    assert_int_equal(in(r, 0xe0, 4), 0x11223344);
    out(r, 0xe1, 1, 0x99);
    assert_int_equal(in(r, 0xe0, 4), 0x11229944);
    assert_int_equal(in(r, 0xe2, 2), 0x1122);
    out(r, 0x80, 1, 0x42);
    assert_int_equal(in(r, 0x80, 1), 0x42);
    out(r, 0x510, 2, 0);
    assert_int_equal(in(r, 0x511, 1), 'Q');
    assert_int_equal(in(r, 0x511, 1), 'E');
    out(r, 0x510, 2, 5);
    assert_int_equal(in(r, 0x511, 1), 1);
    assert_int_equal(in(r, 0x300, 4), 0xffffffff);
    mem_store(&r->pc->m.mem, 0xff000ffc, 8, 0x1122334455667788);
    assert_int_equal(mem_load(&r->pc->m.mem, 0xff000ffe, 4), 0x33445566);
    destroy(r);
    free(r);
}

static void gate_a20(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    assert_int_equal(create(r), 0);
    assert_int_equal(in(r, 0x92, 1), 2);
    out(r, 0x92, 1, 0);
    assert_int_equal(r->pc->m.a20_mask, ~(1ull << 20));
    out(r, 0x64, 1, 0xdf); // the keyboard controller's gate
    assert_int_equal(r->pc->m.a20_mask, ~0ull);
    out(r, 0x64, 1, 0xdd);
    assert_int_equal(r->pc->m.a20_mask, ~(1ull << 20));
    out(r, 0x92, 1, 2);
    assert_int_equal(r->pc->m.a20_mask, ~0ull);
    destroy(r);
    free(r);
}

static void leaving(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    assert_int_equal(create(r), 0);
    assert_int_equal(r->pc->m.stop_reason, -1);
    out(r, 0xf4, 4, 0x15);
    assert_int_equal(r->pc->m.stop_reason, VM_EXIT_POWEROFF);
    assert_int_equal(r->pc->m.stop_code, 0x2b);
    assert_true(atomic_load(&r->pc->m.vcpu[0]->request) & VCPU_REQ_EXIT);
    pc_reset(r->pc);
    assert_int_equal(in(r, PVPANIC_PORT, 1), PVPANIC_PANICKED);
    out(r, PVPANIC_PORT, 1, 2);
    assert_int_equal(r->pc->m.stop_reason, -1);
    out(r, PVPANIC_PORT, 1, PVPANIC_PANICKED);
    assert_int_equal(r->pc->m.stop_reason, VM_EXIT_POWEROFF);
    assert_int_equal(r->pc->m.stop_code, PVPANIC_STATUS);
    pc_reset(r->pc);
    out(r, 0x92, 1, 3);
    assert_int_equal(r->pc->m.stop_reason, VM_EXIT_RESET);
    pc_reset(r->pc);
    assert_int_equal(in(r, 0x92, 1), 2);
    assert_int_equal(r->pc->m.vcpu[0]->cpu.rip, 0xfff0);
    destroy(r);
    free(r);
}

// --- exits --------------------------------------------------------------------------------------------------------------------

static void exits(void **state)
{
    struct rig *r = rig_new();
    struct vm *vm = calloc(1, sizeof(*vm));

    (void)state;
    assert_int_equal(create(r), 0);
    struct vcpu *v = r->pc->m.vcpu[0];
    vm->board = r->pc;
    assert_true(vm_vcpu_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_BUDGET}));
    assert_true(vm_vcpu_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_KICK}));
    r->coming = "k";
    pc_serial_input(r->pc, 0);
    assert_int_equal(in(r, 0x3f8, 1), 'k');
    for (int e = VM_EXIT_SHUTDOWN; e < VM_EXIT_COUNT; e++)
        assert_false(vm_vcpu_exit(vm, v, &(struct vm_exit){.reason = e})); // for control
    assert_false(vm_control_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_POWEROFF, .code = 43}));
    assert_int_equal(vm->status, 43);
    assert_true(vm_control_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_RESET}));
    vm->no_reboot = true;
    assert_false(vm_control_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_RESET}));
    assert_int_equal(vm->status, CMD_OK);
    assert_false(vm_control_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_ERROR, .message = "broken"}));
    assert_int_equal(vm->status, CMD_ERROR);
    assert_non_null(strstr(vm->error.text, "broken"));
    assert_false(vm_control_exit(vm, v, &(struct vm_exit){.reason = VM_EXIT_SHUTDOWN}));
    assert_int_equal(vm->status, CMD_TRIPLE_FAULT);
    destroy(r);
    free(vm);
    free(r);
}

static void halting(void **state)
{
    struct rig *r = rig_new();
    struct vm *vm = calloc(1, sizeof(*vm));
    const struct vm_exit halt = {.reason = VM_EXIT_HALT};

    (void)state;
    assert_int_equal(create(r), 0);
    struct vcpu *v = r->pc->m.vcpu[0];
    vm->board = r->pc;
    atomic_store(&v->request, 0);
    v->cpu.activity = CPU_HALTED;
    v->cpu.rflags |= X86_FL_IF;
    assert_true(vm_vcpu_exit(vm, v, &halt));
    assert_int_equal(r->host.f.waits, 1); // until somebody wakes it: timers have a thread of their own
    vcpu_request(v, VCPU_REQ_INTR);
    assert_true(vm_vcpu_exit(vm, v, &halt));
    assert_int_equal(r->host.f.waits, 1); // something to do: no sleep
    v->cpu.rflags &= ~(u64)X86_FL_IF;
    assert_true(vm_vcpu_exit(vm, v, &halt));
    assert_int_equal(r->host.f.waits, 2); // an interrupt that is off does not wake
    destroy(r);
    free(vm);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_map),  cmocka_unit_test(firmware),    cmocka_unit_test(limits),
        cmocka_unit_test(no_memory),   cmocka_unit_test(taken_ports), cmocka_unit_test(interrupts),
        cmocka_unit_test(timer_wires), cmocka_unit_test(ports),       cmocka_unit_test(gate_a20),
        cmocka_unit_test(leaving),     cmocka_unit_test(exits),       cmocka_unit_test(halting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
