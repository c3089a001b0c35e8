// Processor state after RESET and INIT, its invariants; stopping the machine; log lines.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/cpu_fields.h"
#include "core/cpuid.h"
#include "core/fake_host.h"

static void test_reset(void **state)
{
    (void)state;
    struct cpu c;

    memset(&c, 0x5a, sizeof(c));
    cpu_reset(&c, true);
    assert_null(cpu_check(&c));
    assert_int_equal(c.seg[X86_CS].base + c.rip, 0xfffffff0);
    assert_int_equal(c.seg[X86_CS].sel, 0xf000);
    assert_int_equal(c.seg[X86_CS].limit, 0xffff);
    assert_int_equal(c.rflags, 2);
    assert_int_equal(c.cr0, 0x60000010);
    assert_int_equal(c.cr2 | c.cr3 | c.cr4 | c.cr8 | c.msr.efer, 0);
    assert_int_equal(c.dr6, 0xffff0ff0);
    assert_int_equal(c.dr7, 0x400);
    assert_int_equal(c.idtr.limit, 0xffff);
    assert_int_equal(c.xcr0, 1);
    assert_int_equal(c.xs.fcw, 0x40);
    assert_int_equal(c.xs.mxcsr, 0x1f80);
    assert_true(c.msr.pat == 0x0007040600070406);
    assert_int_equal(c.msr.apic_base, 0xfee00900);
    assert_int_equal(c.activity, CPU_RUNNING);
    assert_true(c.a20_mask == ~0ull);
    cpu_reset(&c, false);
    assert_int_equal(c.msr.apic_base, 0xfee00800);
    assert_int_equal(c.activity, CPU_WAIT_SIPI);
}

// Every byte of the structure but padding belongs to a field, and to one only; a change of it is seen.
static void test_fields(void **state)
{
    (void)state;
    static struct cpu a, b;
    static u8 owner[sizeof(struct cpu)];
    const struct cpu_field *f;
    char name[CPU_FIELD_NAME];

    for (unsigned i = 0; (f = cpu_field_at(i)); i++)
        for (unsigned n = 0; n < f->count; n++)
            for (unsigned k = 0; k < f->size; k++)
                owner[cpu_field_value(&a, f, n) + k - (const u8 *)&a]++;
    unsigned gaps = 0;
    for (size_t i = 0; i < sizeof(a); i++) {
        assert_true(owner[i] <= 1);
        gaps += !owner[i];
        memset(&a, 0x5a, sizeof(a));
        memset(&b, 0x5a, sizeof(b));
        ((u8 *)&b)[i] ^= 1;
        assert_int_equal(cpu_same(&a, &b), !owner[i]);
        assert_int_equal(cpu_hash(&a) == cpu_hash(&b), !owner[i]);
    }
    // Padding of segments, tables and the event, unused bytes of ST0 to ST7, and what XSAVE reserves. A new field makes this more.
    assert_int_equal(gaps, 316);
    cpu_field_name(cpu_field_at(1), 4, name);
    assert_string_equal(name, "rsp");
}

static void test_init(void **state)
{
    (void)state;
    struct cpu c;

    cpu_reset(&c, false);
    c.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NW | X86_CR0_TS;
    c.cr4 = X86_CR4_PAE;
    c.msr.efer = X86_EFER_LME | X86_EFER_LMA;
    c.rip = 0x1234;
    c.dr[2] = 5;
    c.cpl = 3;
    c.xcr0 = 7;
    c.xs.fcw = 0x37f;
    c.xs.xmm[3][5] = 9;
    c.msr.pat = 1;
    c.msr.tsc_offset = 77;
    c.msr.lstar = 88;
    c.msr.mtrr_def_type = 0xc06;
    c.a20_mask = ~(1ull << 20);
    c.nmi_blocked = true;
    c.shadow = CPU_SHADOW_MOVSS;
    c.pending_dr6 = X86_DR6_B(0);
    cpu_init_ipi(&c, false);
    assert_null(cpu_check(&c));
    assert_int_equal(c.cr0, X86_CR0_NW | X86_CR0_ET); // cache control stays
    assert_int_equal(c.rip, 0xfff0);
    assert_int_equal(c.cr4 | c.msr.efer | c.dr[2] | c.cpl | c.nmi_blocked | c.shadow | c.pending_dr6, 0);
    assert_int_equal(c.activity, CPU_WAIT_SIPI);
    assert_int_equal(c.xcr0, 7);
    assert_int_equal(c.xs.fcw, 0x37f);
    assert_int_equal(c.xs.xmm[3][5], 9);
    assert_int_equal(c.msr.pat, 1);
    assert_int_equal(c.msr.tsc_offset, 77);
    assert_int_equal(c.msr.lstar, 88);
    assert_int_equal(c.msr.mtrr_def_type, 0xc06);
    assert_true(c.a20_mask == ~(1ull << 20)); // a pin of the board
}

static void test_check(void **state)
{
    (void)state;
    struct cpu good, c;

    cpu_reset(&good, true);
    good.cr0 |= X86_CR0_PE;
    good.seg[X86_SS].attr |= 3u << X86_SEG_DPL_SHIFT;
    good.cpl = 3;
    assert_null(cpu_check(&good));
#define BROKEN(change) \
    do { \
        c = good; \
        change; \
        assert_non_null(cpu_check(&c)); \
    } while (0)
    BROKEN(c.rflags = 0);
    BROKEN(c.rflags |= 8);
    BROKEN(c.rflags |= 1ull << 32);
    BROKEN(c.msr.efer = X86_EFER_LMA);
    BROKEN(c.msr.efer = X86_EFER_LME; c.cr0 |= X86_CR0_PG);
    BROKEN(c.msr.efer = X86_EFER_LME | X86_EFER_LMA; c.cr0 |= X86_CR0_PG); // no PAE
    BROKEN(c.cr0 = X86_CR0_PG; c.cpl = 0);
    BROKEN(c.cpl = 4);
    BROKEN(c.cpl = 0);
    BROKEN(c.cr0 &= ~(u64)X86_CR0_PE);
    BROKEN(c.cr0 &= ~(u64)X86_CR0_PE; c.cpl = 0); // with SS of level 3
    BROKEN(c.rflags |= X86_FL_VM; c.seg[X86_SS].attr = 0x93);
    BROKEN(c.rflags |= X86_FL_VM; c.msr.efer = X86_EFER_LME | X86_EFER_LMA; c.cr4 = X86_CR4_PAE; c.cr0 |= X86_CR0_PG);
    BROKEN(c.xs.mxcsr = X86_MXCSR_DEFAULT | 1u << 16);
    BROKEN(c.rflags |= X86_FL_VM; c.cpl = 0);
    BROKEN(c.activity = 9);
    BROKEN(c.event.type = 99);
    BROKEN(c.a20_mask = 0);
#undef BROKEN
    c = good;
    c.cpl = 0;
    c.seg[X86_SS].attr = X86_SEG_UNUSABLE; // a null SS says nothing
    assert_null(cpu_check(&c));
}

static void test_vcpu_reset(void **state)
{
    (void)state;
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct cpu_model m = {.family = 0x17, .model = 0x31, .stepping = 2, .maxphyaddr = 48};
    struct mmu_fault fault;
    u64 val;

    f->vcpu.model = &m;
    assert_true(mmu_load(&f->vcpu, 0x1000, 1, TLB_SUPER, &val, &fault));
    vcpu_request(&f->vcpu, VCPU_REQ_NMI | VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_EXIT);
    vcpu_reset(&f->vcpu);
    assert_int_equal(f->vcpu.cpu.gpr[X86_RDX], 0x00830f12);
    assert_int_equal(atomic_load(&f->vcpu.request), VCPU_REQ_EXIT); // events on their way are forgotten
    assert_true(tlb_read(&f->vcpu.tlb, TLB_SUPER, 0x1000, 1) == 0);
    f->vcpu.cpu.gpr[X86_RDX] = 0;
    vcpu_init_ipi(&f->vcpu);
    assert_int_equal(f->vcpu.cpu.gpr[X86_RDX], 0x00830f12);
    fake_machine_free(f);
}

static unsigned kicks;

static void on_kick(struct vcpu *v)
{
    (void)v;
    kicks++;
}

static void test_machine_stop(void **state)
{
    (void)state;
    static const struct engine_ops engine = {.name = "test", .kick = on_kick};
    struct fake_machine *f = fake_machine_new(1 << 20);
    struct vcpu *other = aligned_alloc(64, (sizeof(*other) + 63) & ~63ull);

    vcpu_init(other, &f->machine, 1, NULL);
    assert_int_equal(machine_add_vcpu(&f->machine, other), 0);
    other->engine = &engine;
    assert_int_equal(f->machine.stop_reason, -1);
    machine_stop(&f->machine, VM_EXIT_POWEROFF, 42);
    machine_stop(&f->machine, VM_EXIT_RESET, 1); // too late
    assert_int_equal(f->machine.stop_reason, VM_EXIT_POWEROFF);
    assert_int_equal(f->machine.stop_code, 42);
    assert_true(atomic_load(&f->vcpu.request) & VCPU_REQ_EXIT);
    assert_true(atomic_load(&other->request) & VCPU_REQ_EXIT);
    assert_int_equal(kicks, 1);
    vcpu_request_clear(other, VCPU_REQ_EXIT);
    assert_int_equal(atomic_load(&other->request), 0);
    machine_resume(&f->machine);
    machine_stop(&f->machine, VM_EXIT_RESET, 0);
    assert_int_equal(f->machine.stop_reason, VM_EXIT_RESET);
    for (unsigned i = 2; i < MACHINE_MAX_VCPUS; i++)
        assert_int_equal(machine_add_vcpu(&f->machine, other), 0);
    assert_int_equal(machine_add_vcpu(&f->machine, other), -ENOSPC);
    free(other);
    fake_machine_free(f);
}

#define CHECK_LOG(want, ...) \
    do { \
        host_logf(&f.host, LOG_IO, __VA_ARGS__); \
        assert_string_equal(f.last_log, want); \
    } while (0)

static void test_log(void **state)
{
    (void)state;
    struct fake_host f;
    char longer[2000];

    fake_host_init(&f);
    host_logf(&f.host, LOG_IO, "dropped");
    assert_int_equal(f.logs, 0);
    f.host.log_mask = 1u << LOG_IO;
    host_logf(&f.host, LOG_CPU, "dropped too");
    assert_int_equal(f.logs, 0);
    CHECK_LOG("plain 100%", "plain 100%%");
    CHECK_LOG("s=text c=x", "s=%s c=%c", "text", 'x');
    CHECK_LOG("-1 4294967295 ff", "%d %u %x", -1, ~0u, 0xffu);
    CHECK_LOG("-9223372036854775808", "%lld", (long long)(1ull << 63));
    CHECK_LOG("18446744073709551615 ffffffffffffffff", "%llu %lx", ~0ull, ~0ul);
    CHECK_LOG("[   42] [00042] [  -42] [-0042]", "[%5d] [%05d] [%5d] [%05d]", 42, 42, -42, -42);
    CHECK_LOG("0 0 0", "%d %x %u", 0, 0u, 0u);
    CHECK_LOG("0000000000001000", "%016llx", 0x1000ull);
    CHECK_LOG("[   ab]", "[%5s]", "ab");
    assert_int_equal(f.last_category, LOG_IO);
    memset(longer, 'y', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    host_logf(&f.host, LOG_IO, "%s%d", longer, 5);
    assert_int_equal(strlen(f.last_log), 511);
    host_logf(&f.host, LOG_IO, "%999999d", 5);
    assert_int_equal(strlen(f.last_log), 511);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset), cmocka_unit_test(test_fields),     cmocka_unit_test(test_init),
        cmocka_unit_test(test_check), cmocka_unit_test(test_vcpu_reset), cmocka_unit_test(test_machine_stop),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
