// Model-specific registers: which exist on which model, what values they take, and the time-stamp counter.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_host.h"

#include "core/cpuid.h"
#include "core/msr.h"
#include "core/pvclock.h"
#include "host/features.h"

struct env {
    struct fake_machine *f;
    struct cpu_model model;
    struct vcpu *v;
};

static struct env env;

static void use_model(const char *spec)
{
    u64 host[HOST_FEATURE_WORDS];
    char err[200];
    memset(host, 0xff, sizeof host);
    const char *why = cpu_model_parse(spec, host, &env.model, err, sizeof err);
    if (why)
        fail_msg("%s", why);
    env.model.tsc_hz = 1000000000;
    vcpu_init(env.v, &env.f->machine, 0, &env.model);
}

static int set_up(void **state)
{
    (void)state;
    env.f = fake_machine_new(1 << 20);
    env.v = &env.f->vcpu;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fake_machine_free(env.f);
    return 0;
}

#define NONCANONICAL 0x0000800000000000ull

// One write, and what it leaves behind.
enum outcome { GP, OK };

struct write_case {
    const char *model;
    u32 index;
    u64 val;
    enum outcome outcome;
    u64 read_back;
};

static const struct write_case writes[] = {
    // EFER: bits of absent features, LMA ignored.
    {"EPYC", X86_MSR_EFER, 0xd01, OK, 0x901},
    {"EPYC", X86_MSR_EFER, 0x1000, GP, 0},
    {"EPYC", X86_MSR_EFER, 2, GP, 0},
    {"EPYC", X86_MSR_EFER, 1 << 21, OK, 1 << 21},
    {"Haswell", X86_MSR_EFER, 1 << 21, GP, 0},
    {"EPYC,-nx", X86_MSR_EFER, 0x800, GP, 0},
    {"pentium3", X86_MSR_EFER, 0, GP, 0},
    // System calls.
    {"EPYC", X86_MSR_STAR, ~0ull, OK, ~0ull},
    {"EPYC", X86_MSR_LSTAR, NONCANONICAL, GP, 0},
    {"EPYC", X86_MSR_LSTAR, 0xffff800000000000, OK, 0xffff800000000000},
    {"EPYC", X86_MSR_CSTAR, NONCANONICAL, GP, 0},
    {"EPYC", X86_MSR_SFMASK, 0x1234567847700, OK, 0x67847700},
    {"pentium3", X86_MSR_STAR, 0, GP, 0},
    {"Haswell", X86_MSR_SYSENTER_EIP, NONCANONICAL, GP, 0},
    {"Haswell", X86_MSR_SYSENTER_ESP, 0xffffffff80000000, OK, 0xffffffff80000000},
    {"EPYC", X86_MSR_SYSENTER_EIP, NONCANONICAL | 5, OK, 5},
    {"EPYC", X86_MSR_SYSENTER_CS, 0x10, OK, 0x10},
    {"pentium", X86_MSR_SYSENTER_CS, 0x10, GP, 0},
    // Segment bases.
    {"EPYC", X86_MSR_FS_BASE, NONCANONICAL, GP, 0},
    {"EPYC", X86_MSR_GS_BASE, 0x7fffffffffff, OK, 0x7fffffffffff},
    {"EPYC", X86_MSR_KERNEL_GS_BASE, ~0ull, OK, ~0ull},
    {"pentium3", X86_MSR_GS_BASE, 0, GP, 0},
    {"Haswell", X86_MSR_TSC_AUX, 1ull << 32, GP, 0},
    {"EPYC", X86_MSR_TSC_AUX, 1ull << 32 | 7, OK, 7},
    {"Nehalem", X86_MSR_TSC_AUX, 7, GP, 0},
    // PAT.
    {"EPYC", X86_MSR_PAT, 0x0007040600070406, OK, 0x0007040600070406},
    {"EPYC", X86_MSR_PAT, 0x0007010500070406, OK, 0x0007010500070406},
    {"EPYC", X86_MSR_PAT, 0x0007040600070402, GP, 0},
    {"EPYC", X86_MSR_PAT, 0x0307040600070406, GP, 0},
    {"EPYC", X86_MSR_PAT, 0x0008040600070406, GP, 0},
    {"pentium", X86_MSR_PAT, 0x0007040600070406, GP, 0},
    // MTRRs.
    {"EPYC", X86_MSR_MTRRCAP, 0x508, GP, 0},
    {"EPYC", X86_MSR_MTRR_DEF_TYPE, 0xc06, OK, 0xc06},
    {"EPYC", X86_MSR_MTRR_DEF_TYPE, 0xc02, GP, 0},
    {"EPYC", X86_MSR_MTRR_DEF_TYPE, 0x1000, GP, 0},
    {"EPYC", X86_MSR_MTRR_DEF_TYPE, 0x106, GP, 0},
    {"EPYC", 0x200, 0xc0000006, OK, 0xc0000006},
    {"EPYC", 0x200, 0xc0000007, GP, 0},
    {"EPYC", 0x200, 0xc0000106, GP, 0},
    {"EPYC", 0x200, 1ull << 40, GP, 0},
    {"EPYC", 0x201, 0xff80000800, OK, 0xff80000800},
    {"EPYC", 0x201, 0x400, GP, 0},
    {"EPYC", 0x201, 1ull << 40 | 0x800, GP, 0},
    {"EPYC", 0x20f, 0x800, OK, 0x800},
    {"EPYC", 0x210, 0, GP, 0},
    {"EPYC", 0x250, 0x0606060606060606, OK, 0x0606060606060606},
    {"EPYC", 0x26f, 0x0505050505050505, OK, 0x0505050505050505},
    {"EPYC", 0x26f, 0x0505050505050503, GP, 0},
    {"EPYC", 0x268, 0x1e1e1e1e1e1e1e1e, GP, 0}, // SYSCFG.MtrrFixDramModEn is clear
    {"EPYC", 0x251, 0, GP, 0},
    {"pentium", 0x250, 0, GP, 0},
    // Machine check.
    {"EPYC", X86_MSR_MCG_CAP, 0, GP, 0},
    {"EPYC", X86_MSR_MCG_CTL, ~0ull, OK, ~0ull},
    {"EPYC", X86_MSR_MCG_CTL, 1, GP, 0},
    {"EPYC", X86_MSR_MCG_STATUS, 8, GP, 0},
    {"EPYC", 0x400, ~0x400ull, OK, ~0x400ull},
    {"EPYC", 0x400, 0xff, GP, 0},
    {"EPYC", 0x402, 0xff, OK, 0xff},
    {"EPYC", 0x401, 0, OK, 0},
    {"EPYC", 0x401, 1, GP, 0},
    {"EPYC", 0x40f, 0, OK, 0},
    {"EPYC", 0x410, 0, GP, 0},
    {"486,msr", 0x400, 0, GP, 0},
    // Vendors.
    {"Haswell", X86_MSR_MISC_ENABLE, 1ull << 34 | 1, OK, 1ull << 34 | 0x1801},
    {"Haswell", X86_MSR_MISC_ENABLE, 0x89, OK, 0x1809},
    {"Haswell", X86_MSR_MISC_ENABLE, 1ull << 63, GP, 0},
    {"EPYC", X86_MSR_MISC_ENABLE, 1, GP, 0},
    {"Haswell", X86_MSR_SPEC_CTRL, 1, OK, 1},
    {"Haswell", X86_MSR_SPEC_CTRL, 0x401, OK, 0x401},
    {"Haswell,-bhi-ctrl", X86_MSR_SPEC_CTRL, 0x401, GP, 0},
    {"Haswell", X86_MSR_SPEC_CTRL, 8, GP, 0},
    {"EPYC", X86_MSR_SPEC_CTRL, 0, GP, 0},
    {"EPYC,+spec-ctrl", X86_MSR_SPEC_CTRL, 1, OK, 1}, // CPUID says so, whoever the vendor is
    {"EPYC", X86_MSR_PRED_CMD, 1, GP, 0},
    {"EPYC,+spec-ctrl", X86_MSR_PRED_CMD, 1, OK, 0},
    {"EPYC", X86_MSR_HWCR, 1 << 18, OK, 1 << 24 | 1 << 18},
    {"EPYC", X86_MSR_HWCR, 1ull << 40, GP, 0},
    {"Haswell", X86_MSR_HWCR, 0, GP, 0},
    {"EPYC", X86_MSR_SYSCFG, 1 << 19, OK, 1 << 19},
    {"EPYC", X86_MSR_SYSCFG, 1 << 23, GP, 0},
    {"EPYC", 0xc0011029, 0, OK, 2},
    {"EPYC", 0xc0010000, 0x430076, OK, 0},
    {"Haswell", 0xc0010000, 0, GP, 0},
    {"Haswell", X86_MSR_DEBUGCTL, 2, OK, 2},
    {"Haswell", X86_MSR_DEBUGCTL, 4, GP, 0},
    {"Haswell", X86_MSR_ARCH_CAPABILITIES, 0, GP, 0},
    {"Skylake-Client", X86_MSR_XSS, 0, OK, 0},
    {"Skylake-Client", X86_MSR_XSS, 1 << 8, GP, 0},
    {"Haswell", X86_MSR_XSS, 0, GP, 0},
    {"Haswell", X86_MSR_TSC_ADJUST, 5, OK, 5},
    {"Nehalem", X86_MSR_TSC_ADJUST, 5, GP, 0},
    {"Haswell", X86_MSR_APIC_BASE, 0xfee00900, OK, 0xfee00900},
    {"Haswell", X86_MSR_APIC_BASE, 1ull << 45, GP, 0},
    // What nothing announces, or nobody answers.
    {"pentium3,-apic", X86_MSR_APIC_BASE, 0xfee00900, GP, 0},
    {"Haswell", X86_MSR_TSC_DEADLINE, 0, GP, 0},
    {"Haswell", X86_MSR_X2APIC_FIRST + 8, 0, GP, 0},
    {"Haswell", X86_MSR_FEATURE_CONTROL, 0, GP, 0},
    {"Haswell", 0x480, 0, GP, 0},
    {"EPYC", X86_MSR_VM_HSAVE_PA, 0, GP, 0},
    {"Haswell", 0x12345678, 0, GP, 0},
    {"Haswell,kvm=off", X86_MSR_KVM_SYSTEM_TIME_NEW, 1, GP, 0},
    {"EPYC,-hypervisor", 0x11, 0, GP, 0},
};

static void test_writes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) {
        const struct write_case *w = &writes[i];
        u64 before = 0, after = 0;
        use_model(w->model);
        bool readable = msr_read(env.v, w->index, &before);
        bool ok = msr_write(env.v, w->index, w->val);
        if (ok != (w->outcome == OK))
            fail_msg("%s: wrmsr %x, %lx %s", w->model, w->index, (unsigned long)w->val, ok ? "accepted" : "refused");
        bool again = msr_read(env.v, w->index, &after);
        assert_int_equal(readable, again);
        u64 want = ok ? w->read_back : before;
        if (after != want)
            fail_msg("%s: wrmsr %x, %lx reads back %lx", w->model, w->index, (unsigned long)w->val,
                     (unsigned long)after);
    }
}

static void test_reads(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        u32 index;
        bool there;
        u64 val;
    } reads[] = {
        {"EPYC", X86_MSR_MTRRCAP, true, 0x508},
        {"EPYC", X86_MSR_MCG_CAP, true, 0x104},
        {"EPYC", X86_MSR_VM_CR, true, 0x10},
        {"Haswell", X86_MSR_BIOS_SIGN_ID, true, 1ull << 32},
        {"Haswell", X86_MSR_PLATFORM_ID, true, 0},
        {"EPYC", X86_MSR_PLATFORM_ID, false, 0},
        {"Haswell", 0xce, true, 10 << 8},
        {"Haswell", X86_MSR_ARCH_CAPABILITIES, true, 0x400000000d10e17b},
        {"EPYC", X86_MSR_ARCH_CAPABILITIES, false, 0},
        {"EPYC,+arch-capabilities", X86_MSR_ARCH_CAPABILITIES, true, 0x400000000d10e17b},
        {"Haswell", X86_MSR_PRED_CMD, false, 0},
        {"Haswell", X86_MSR_BIOS_UPDT_TRIG, false, 0},
        {"Haswell", X86_MSR_MPERF, false, 0},
        {"pentium", 0, true, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(reads); i++) {
        u64 val = 0;
        use_model(reads[i].model);
        if (msr_read(env.v, reads[i].index, &val) != reads[i].there || val != reads[i].val)
            fail_msg("%s: rdmsr %x gives %lx", reads[i].model, reads[i].index, (unsigned long)val);
    }
}

// LME cannot change while paging is on; LMA follows paging, not the write.
static void test_efer_paging(void **state)
{
    (void)state;
    struct cpu *c = &env.v->cpu;
    use_model("EPYC");
    c->cr0 |= X86_CR0_PE | X86_CR0_PG;
    assert_false(msr_write(env.v, X86_MSR_EFER, X86_EFER_LME));
    assert_true(msr_write(env.v, X86_MSR_EFER, X86_EFER_NXE));
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    assert_false(msr_write(env.v, X86_MSR_EFER, 0));
    assert_true(msr_write(env.v, X86_MSR_EFER, X86_EFER_LME | X86_EFER_SCE));
    assert_int_equal(c->msr.efer, X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE);
}

static void test_xd_disable(void **state)
{
    (void)state;
    use_model("Haswell");
    assert_true(msr_write(env.v, X86_MSR_EFER, X86_EFER_NXE));
    use_model("Haswell");
    assert_true(msr_write(env.v, X86_MSR_MISC_ENABLE, 1ull << 34));
    assert_false(msr_write(env.v, X86_MSR_EFER, X86_EFER_NXE));
}

// RdMem and WrMem in fixed ranges show while SYSCFG opens them, and survive writes while it does not.
static void test_fixed_dram_bits(void **state)
{
    (void)state;
    u64 val;
    use_model("EPYC");
    assert_true(msr_write(env.v, X86_MSR_SYSCFG, 1 << 19));
    assert_true(msr_write(env.v, 0x250, 0x1e1e1e1e1e1e1e1e));
    assert_true(msr_read(env.v, 0x250, &val));
    assert_int_equal(val, 0x1e1e1e1e1e1e1e1e);
    assert_true(msr_write(env.v, X86_MSR_SYSCFG, 0));
    assert_true(msr_read(env.v, 0x250, &val));
    assert_int_equal(val, 0x0606060606060606);
    assert_true(msr_write(env.v, 0x250, 0x0404040404040404));
    assert_true(msr_write(env.v, X86_MSR_SYSCFG, 1 << 19));
    assert_true(msr_read(env.v, 0x250, &val));
    assert_int_equal(val, 0x1c1c1c1c1c1c1c1c);
}

static void test_mce_injection(void **state)
{
    (void)state;
    u64 val;
    use_model("EPYC");
    assert_true(msr_write(env.v, X86_MSR_HWCR, 1 << 18));
    assert_true(msr_write(env.v, 0x405, 0xbe00000000000151));
    assert_true(msr_read(env.v, 0x405, &val));
    assert_int_equal(val, 0xbe00000000000151);
}

// --- TSC ----------------------------------------------------------------------------------------------------------------------

static void test_tsc(void **state)
{
    (void)state;
    u64 val;
    use_model("Haswell");
    env.f->host.tsc = 1000;
    assert_int_equal(vcpu_tsc(env.v), 1000);
    assert_true(msr_write(env.v, X86_MSR_TSC, 50));
    env.f->host.tsc += 7;
    assert_true(msr_read(env.v, X86_MSR_TSC, &val));
    assert_int_equal(val, 57);
    // The write moved TSC_ADJUST by the same amount; writing that moves the counter.
    assert_true(msr_read(env.v, X86_MSR_TSC_ADJUST, &val));
    assert_int_equal(val, (u64)-950);
    assert_true(msr_write(env.v, X86_MSR_TSC_ADJUST, 0));
    assert_int_equal(vcpu_tsc(env.v), 1007);
}

// In icount mode the counter is the virtual clock's, at the same frequency.
static void test_tsc_icount(void **state)
{
    (void)state;
    struct clock *k = &env.f->machine.clock;
    use_model("Haswell");
    env.model.tsc_hz = 2500000000; // not the host's
    clock_use_icount(k, 1, 1, 0);
    env.v->insns = 4000000001;
    assert_int_equal(clock_now(k), 4000000001);
    assert_int_equal(vcpu_tsc(env.v), clock_now(k) / 2 * 5 + clock_now(k) % 2 * 5 / 2);
    k->icount = false;
}

// --- KVM's clock ----------------------------------------------------------------------------------------------------------------

struct record {
    u32 version, pad;
    u64 tsc, ns;
    u32 mul;
    i8 shift;
    u8 flags;
};

// Nanoseconds as a guest computes them.
static u64 guest_ns(const struct record *r, u64 tsc)
{
    u64 d = tsc - r->tsc;
    d = r->shift < 0 ? d >> -r->shift : d << r->shift;
    return r->ns + (u64)((unsigned __int128)d * r->mul >> 32);
}

static void test_kvmclock(void **state)
{
    (void)state;
    static const u64 freqs[] = {600000000, 1000000000, 2595124000, 4999999999};
    struct record *r = (struct record *)(env.f->ram + 0x2000);
    for (size_t i = 0; i < ARRAY_LEN(freqs); i++) {
        use_model("EPYC");
        env.model.tsc_hz = freqs[i];
        clock_stop(&env.f->machine.clock);
        env.f->host.tsc = 12345;
        env.f->host.now_ns = 777000;
        clock_start(&env.f->machine.clock);
        memset(r, 0, sizeof *r);
        assert_true(msr_write(env.v, X86_MSR_KVM_SYSTEM_TIME_NEW, 0x2001));
        assert_int_equal(r->version, 2);
        assert_int_equal(r->flags, 1);
        u64 now = clock_now(&env.f->machine.clock);
        assert_int_equal(guest_ns(r, 12345), now);
        u64 later = guest_ns(r, 12345 + freqs[i] * 10);
        assert_in_range(later - now, 9999999980, 10000000020);
        // A record that is published later, by any processor, agrees to the last tick.
        struct record *other = (struct record *)(env.f->ram + 0x2200);
        env.f->host.now_ns += 1000;
        env.f->host.tsc += 3;
        assert_true(msr_write(env.v, X86_MSR_KVM_SYSTEM_TIME_NEW, 0x2201));
        assert_int_equal(other->tsc, r->tsc);
        assert_int_equal(other->ns, r->ns);
        env.f->host.now_ns -= 1000;
        env.f->host.tsc -= 3;
        assert_true(msr_write(env.v, X86_MSR_KVM_SYSTEM_TIME_NEW, 0x2001));
        // The guest hears that it was stopped, and clears the flag itself.
        pvclock_held_up(env.v);
        assert_int_equal(r->flags, 3);
        assert_int_equal(r->version, 4);
        // Setting the TSC publishes the new relation.
        assert_true(msr_write(env.v, X86_MSR_TSC, 5));
        assert_int_equal(r->version, 6);
        assert_int_equal(guest_ns(r, 5), now);
        assert_true(msr_write(env.v, X86_MSR_KVM_SYSTEM_TIME_NEW, 0));
        assert_true(msr_write(env.v, X86_MSR_TSC, 6));
        pvclock_held_up(env.v);
        assert_int_equal(r->flags, 1);
        assert_int_equal(r->version, 6);
    }
    // Outside memory: nothing happens.
    assert_true(msr_write(env.v, X86_MSR_KVM_SYSTEM_TIME_NEW, 0xfffffffffffffff1));
    assert_true(msr_write(env.v, X86_MSR_KVM_WALL_CLOCK_NEW, 0xfffffffffffffff0));
}

static void test_kvm_wall_clock(void **state)
{
    (void)state;
    u32 *w = (u32 *)(env.f->ram + 0x2100);
    use_model("EPYC");
    env.f->host.wall_ns = 1700000000500000000 + (i64)clock_now(&env.f->machine.clock);
    assert_true(msr_write(env.v, 0x11, 0x2100));
    assert_int_equal(w[0] & 1, 0);
    assert_int_equal(w[1], 1700000000);
    assert_int_equal(w[2], 500000000);
}

// --- the local APIC's registers -------------------------------------------------------------------------------------------------

static u32 hook_index;

static bool hook_read(void *intc, u32 index, u64 *val)
{
    hook_index = index;
    *val = (u64)(uintptr_t)intc;
    return true;
}

static bool hook_write(void *intc, u32 index, u64 val)
{
    (void)intc;
    hook_index = index;
    return val != 99;
}

static void test_apic(void **state)
{
    (void)state;
    u64 val;
    use_model("x86-64-v3");
    env.v->intc = (struct vcpu_intc){.intc = (void *)5, .msr_read = hook_read, .msr_write = hook_write};
    assert_true(msr_read(env.v, X86_MSR_APIC_BASE, &val));
    assert_int_equal(val, 0xfee00900);
    assert_false(msr_read(env.v, 0x802, &val));                    // not in x2APIC mode
    assert_false(msr_write(env.v, X86_MSR_APIC_BASE, 0xfee00500)); // EXTD without EN
    assert_true(msr_write(env.v, X86_MSR_APIC_BASE, 0xfee00d00));
    assert_int_equal(hook_index, X86_MSR_APIC_BASE);
    assert_false(msr_write(env.v, X86_MSR_APIC_BASE, 0xfee00900)); // back to xAPIC
    assert_false(msr_write(env.v, X86_MSR_APIC_BASE, 1ull << 45 | 0xd00));
    assert_true(msr_read(env.v, 0x802, &val));
    assert_int_equal(val, 5);
    assert_false(msr_write(env.v, 0x80b, 99));
    assert_true(msr_write(env.v, X86_MSR_TSC_DEADLINE, 7));
    assert_int_equal(hook_index, X86_MSR_TSC_DEADLINE);
    assert_true(msr_write(env.v, X86_MSR_APIC_BASE, 0xfee00100));  // disabled
    assert_false(msr_write(env.v, X86_MSR_APIC_BASE, 0xfee00d00)); // and not straight to x2APIC
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes),
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_efer_paging),
        cmocka_unit_test(test_xd_disable),
        cmocka_unit_test(test_fixed_dram_bits),
        cmocka_unit_test(test_mce_injection),
        cmocka_unit_test(test_tsc),
        cmocka_unit_test(test_tsc_icount),
        cmocka_unit_test(test_kvmclock),
        cmocka_unit_test(test_kvm_wall_clock),
        cmocka_unit_test(test_apic),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
