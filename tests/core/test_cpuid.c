// Processor models: parsing, limits and prerequisites; and the consistency of what CPUID says.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpuid.h"
#include "core/machine.h"
#include "host/features.h"

static u64 all_features[HOST_FEATURE_WORDS];

static int set_up(void **state)
{
    (void)state;
    memset(all_features, 0xff, sizeof all_features);
    return 0;
}

static struct cpu_model parse_on(const char *spec, const u64 *host)
{
    struct cpu_model m;
    char err[200];
    const char *why = cpu_model_parse(spec, host, &m, err, sizeof err);
    if (why)
        fail_msg("%s: %s", spec, why);
    return m;
}

static struct cpu_model parse(const char *spec)
{
    return parse_on(spec, all_features);
}

static bool in_set(const u64 *set, unsigned f)
{
    return (set[f / 64] >> f % 64) & 1;
}

static struct cpuid_regs cpuid_of(const struct cpu_model *m, u32 leaf, u32 subleaf)
{
    static struct vcpu v;
    memset(&v, 0, sizeof v);
    v.model = m;
    cpu_reset(&v.cpu, true);
    return cpuid_guest(&v, leaf, subleaf);
}

static struct vcpu *new_vcpu(void)
{
    struct vcpu *v = aligned_alloc(_Alignof(struct vcpu), sizeof *v);
    assert_non_null(v);
    memset(v, 0, sizeof *v);
    return v;
}

// --- parsing ----------------------------------------------------------------------------------------------------------------

static void test_names(void **state)
{
    (void)state;
    static const char *const wanted[] = {"qemu64",   "qemu32",   "kvm64",     "486",       "pentium",  "pentium2",
                                         "pentium3", "core2duo", "Nehalem",   "Haswell",   "EPYC",     "max",
                                         "host",     "base",     "x86-64-v1", "x86-64-v2", "x86-64-v3"};
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        assert_string_equal(parse(wanted[i]).name, wanted[i]);
    for (unsigned i = 0; cpu_model_at(i); i++)
        assert_true(strlen(cpu_model_at(i)->description) > 0);
}

static void test_signatures(void **state)
{
    (void)state;
    struct cpu_model m = parse("EPYC"); // family 17h, model 1, stepping 2
    assert_int_equal(cpu_model_signature(&m), 0x00800f12);
    m = parse("Haswell");
    assert_int_equal(cpu_model_signature(&m), 0x000306c4);
    m = parse("486");
    assert_int_equal(cpu_model_signature(&m), 0x00000480);
}

// What guests look for on parts of these names.
static void test_generations(void **state)
{
    (void)state;
    struct cpu_model m = parse("EPYC");
    assert_true(cpu_model_has(&m, ISA_FEAT_MISALIGNSSE));
    assert_false(cpu_model_has(&m, ISA_FEAT_XSAVEERPTR)); // since Zen 2; Linux works around it where it is missing
    m = parse("EPYC-Milan");
    assert_true(cpu_model_has(&m, ISA_FEAT_XSAVEERPTR));
    m = parse("SandyBridge");
    assert_false(cpu_model_has(&m, ISA_FEAT_F16C));
}

static void test_options(void **state)
{
    (void)state;
    struct cpu_model m = parse("qemu64,+avx2,+xsave,+avx,+ssse3,+sse4.1,sse4_2=on,-nx,cx16=off,pcid");
    assert_true(cpu_model_has(&m, ISA_FEAT_AVX2));
    assert_true(cpu_model_has(&m, ISA_FEAT_PCID));
    assert_false(cpu_model_has(&m, ISA_FEAT_NX));
    assert_false(cpu_model_has(&m, ISA_FEAT_CX16));
    m = parse("qemu64,vendor=GenuineIntel,family=6,model=0x5e,stepping=3,model-id=Some processor,phys-bits=46,kvm=off");
    assert_string_equal(m.vendor, "GenuineIntel");
    assert_string_equal(m.brand, "Some processor");
    assert_int_equal(cpu_model_signature(&m), 0x000506e3);
    assert_int_equal(m.maxphyaddr, 46);
    assert_int_equal(cpuid_of(&m, 0x40000000, 0).ebx, cpuid_of(&m, m.level, 0).ebx);
    // The other vendor's own features go, but for those asked for.
    m = parse("EPYC-Rome,+clzero,vendor=GenuineIntel,+auto-ibrs");
    assert_true(cpu_model_has(&m, ISA_FEAT_CLZERO));
    assert_true(cpu_model_has(&m, ISA_FEAT_AUTO_IBRS));
    assert_false(cpu_model_has(&m, ISA_FEAT_TOPOEXT));
    assert_false(cpu_model_has(&m, ISA_FEAT_CR8LEGACY));
    m = parse("Haswell,vendor=AuthenticAMD");
    assert_false(cpu_model_has(&m, ISA_FEAT_ARCH_CAPABILITIES));
    m = parse("max,-avx");
    assert_false(cpu_model_has(&m, ISA_FEAT_AVX2));
    assert_false(cpu_model_has(&m, ISA_FEAT_FMA));
    assert_true(cpu_model_has(&m, ISA_FEAT_XSAVE));
    m = parse("max,-fpu");
    assert_false(cpu_model_has(&m, ISA_FEAT_MMX));
    assert_false(cpu_model_has(&m, ISA_FEAT_SSE2));
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *part;
    } bad[] = {
        {"pentium9", "unknown processor model 'pentium9'"},
        {"", "unknown processor model ''"},
        {"qemu64,+blah", "unknown feature 'blah'"},
        {"qemu64,+svm", "'svm' is not implemented"},
        {"qemu64,avx512f=on", "'avx512f' is not implemented"},
        {"qemu64,+avx", "'avx' needs '"},
        {"486,+lm", "'lm' needs '"},
        {"qemu64,avx=maybe", "a feature is on or off"},
        {"qemu64,colour=red", "unknown property 'colour'"},
        {"qemu64,phys-bits=99", "must be 32 to 52"},
        {"qemu64,family=x", "not a number"},
        {"qemu64,family=9999999999999999999999", "not a number, or too large"},
        {"qemu64,vendor=Me", "must be AuthenticAMD or GenuineIntel"},
        {"qemu64,,-nx", "empty option"},
        {"qemu64,", "empty option"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct cpu_model m;
        char err[200];
        const char *why = cpu_model_parse(bad[i].spec, all_features, &m, err, sizeof err);
        if (!why || !strstr(why, bad[i].part) || strchr(why, '\n'))
            fail_msg("%s: \"%s\" lacks \"%s\"", bad[i].spec, why ? why : "(accepted)", bad[i].part);
        // A short buffer truncates and stays terminated.
        char small[8];
        cpu_model_parse(bad[i].spec, all_features, &m, small, sizeof small);
        assert_true(strlen(small) < sizeof small);
    }
}

static void test_host_lacks_feature(void **state)
{
    (void)state;
    u64 host[HOST_FEATURE_WORDS];
    struct cpu_model m;
    char err[200];
    memcpy(host, all_features, sizeof host);
    host[ISA_FEAT_AVX / 64] &= ~(1ull << ISA_FEAT_AVX % 64);
    m = parse_on("x86-64-v3", host);
    assert_false(cpu_model_has(&m, ISA_FEAT_AVX));
    assert_false(cpu_model_has(&m, ISA_FEAT_AVX2));
    assert_true(cpu_model_has(&m, ISA_FEAT_BMI2));
    const char *why = cpu_model_parse("x86-64-v3,+avx", host, &m, err, sizeof err);
    assert_non_null(why);
    assert_non_null(strstr(why, "host's processor does not have it"));
    // What pogo emulates does not need the host.
    memset(host, 0, sizeof host);
    m = parse_on("pentium,+umip,+smep", host);
    assert_true(cpu_model_has(&m, ISA_FEAT_UMIP));
    assert_false(cpu_model_has(&m, ISA_FEAT_MMX));
}

// --- consistency --------------------------------------------------------------------------------------------------------------

// Nothing beyond what pogo implements, or what runs natively beyond the host.
static void test_within_limits(void **state)
{
    (void)state;
    u64 host[HOST_FEATURE_WORDS], implemented[HOST_FEATURE_WORDS], native[HOST_FEATURE_WORDS];
    host_features(host);
    cpu_model_implemented(implemented);
    cpu_model_native(native);
    for (unsigned i = 0; cpu_model_at(i); i++) {
        struct cpu_model m = parse_on(cpu_model_at(i)->name, host);
        assert_true(cpu_model_has(&m, ISA_FEAT_NONE));
        for (unsigned f = 1; f < ISA_FEAT_COUNT; f++) {
            if (!cpu_model_has(&m, f))
                continue;
            if (!in_set(implemented, f) || (in_set(native, f) && !in_set(host, f)))
                fail_msg("%s offers %s", m.name, isa_features[f].name);
        }
    }
}

// Every feature of a model is visible at its place in CPUID, and nothing else but the bits that state adds.
static void test_bits_shown(void **state)
{
    (void)state;
    for (unsigned i = 0; cpu_model_at(i); i++) {
        struct cpu_model m = parse(cpu_model_at(i)->name);
        for (unsigned f = 1; f < ISA_FEAT_COUNT; f++) {
            const struct isa_feature_info *info = &isa_features[f];
            u32 top = info->leaf >> 31 ? m.xlevel : m.level;
            struct cpuid_regs r = cpuid_of(&m, info->leaf, info->subleaf);
            u32 reg[] = {r.eax, r.ebx, r.ecx, r.edx};
            bool shown = (reg[info->reg] >> info->bit) & 1;
            if (info->leaf > top)
                continue;
            if (f == ISA_FEAT_SYSCALL && m.vendor[0] == 'G')
                continue; // hidden outside 64-bit mode
            if (shown != cpu_model_has(&m, f))
                fail_msg("%s: %s %s", m.name, info->name, shown ? "shown" : "not shown");
        }
    }
}

static void test_identity(void **state)
{
    (void)state;
    struct cpu_model m = parse("EPYC");
    struct cpuid_regs r = cpuid_of(&m, 0, 0);
    assert_memory_equal(&r.ebx, "Auth", 4);
    assert_memory_equal(&r.edx, "enti", 4);
    assert_memory_equal(&r.ecx, "cAMD", 4);
    assert_int_equal(r.eax, 0xd);
    r = cpuid_of(&m, 0x40000000, 0);
    assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
    r = cpuid_of(&m, 0x80000002, 0);
    assert_memory_equal(&r, "AMD EPYC Process", 16);
    r = cpuid_of(&m, 0x80000008, 0);
    assert_int_equal(r.eax, 48 << 8 | 40);
}

// Beyond the highest leaf AMD gives zeros, Intel its highest basic leaf.
static void test_out_of_range(void **state)
{
    (void)state;
    struct cpu_model amd = parse("EPYC"), intel = parse("Nehalem");
    struct cpuid_regs r = cpuid_of(&amd, 0x1000, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    struct cpuid_regs a = cpuid_of(&intel, 0x1000, 1), b = cpuid_of(&intel, 0xb, 1);
    assert_memory_equal(&a, &b, sizeof a);
    a = cpuid_of(&intel, 0x80000100, 1);
    assert_memory_equal(&a, &b, sizeof a);
}

// Leaf 0xD follows XCR0.
static void test_xsave_sizes(void **state)
{
    (void)state;
    struct cpu_model m = parse("Haswell");
    struct vcpu *v = new_vcpu();
    v->model = &m;
    cpu_reset(&v->cpu, true);
    struct cpuid_regs r = cpuid_guest(v, 0xd, 0);
    assert_int_equal(r.eax, 7);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(r.ecx, 832);
    v->cpu.xcr0 = 7;
    assert_int_equal(cpuid_guest(v, 0xd, 0).ebx, 832);
    r = cpuid_guest(v, 0xd, 2);
    assert_int_equal(r.eax, 256);
    assert_int_equal(r.ebx, 576);
    m = parse("Skylake-Client,-avx");
    r = cpuid_guest(v, 0xd, 0);
    assert_int_equal(r.eax, 3);
    assert_int_equal(r.ecx, 576);
    assert_int_equal(cpuid_guest(v, 0xd, 2).eax, 0);
    m = parse("Nehalem,level=0xd");
    assert_int_equal(cpuid_guest(v, 0xd, 0).eax, 0);
    free(v);
}

// OSXSAVE, the CPUID limit and XD disable follow the state.
static void test_state_bits(void **state)
{
    (void)state;
    struct cpu_model m = parse("Skylake-Client");
    struct vcpu *v = new_vcpu();
    v->model = &m;
    cpu_reset(&v->cpu, true);
    assert_int_equal(cpuid_guest(v, 1, 0).ecx >> 27 & 1, 0);
    v->cpu.cr4 |= X86_CR4_OSXSAVE;
    assert_int_equal(cpuid_guest(v, 1, 0).ecx >> 27 & 1, 1);
    assert_int_equal(cpuid_guest(v, 0x80000001, 0).edx >> 20 & 1, 1);
    v->cpu.msr.misc_enable |= 1ull << 22 | 1ull << 34;
    assert_int_equal(cpuid_guest(v, 0, 0).eax, 3);
    assert_int_equal(cpuid_guest(v, 0x80000001, 0).edx >> 20 & 1, 0);
    free(v);
}

// Frequency leaves multiply out to the TSC's frequency, in 32-bit arithmetic as guests do it.
static void test_frequency(void **state)
{
    (void)state;
    static const u64 freqs[] = {800000000, 2595124000, 5000000000};
    for (size_t i = 0; i < ARRAY_LEN(freqs); i++) {
        struct cpu_model m = parse("Skylake-Client");
        m.tsc_hz = freqs[i];
        struct cpuid_regs r = cpuid_of(&m, 0x15, 0);
        u32 khz = r.ecx / 1000 * r.ebx / r.eax;
        u64 want = freqs[i] / 1000;
        assert_in_range(khz, want - want / 10000, want);
        assert_int_equal(cpuid_of(&m, 0x40000010, 0).eax, want);
    }
}

// Leaf 7 names its highest subleaf that says anything.
static void test_leaf_7(void **state)
{
    (void)state;
    struct cpu_model m = parse("Haswell");
    assert_int_equal(cpuid_of(&m, 7, 0).eax, 2);
    m = parse("Haswell,-bhi-ctrl");
    assert_int_equal(cpuid_of(&m, 7, 0).eax, 0);
    struct cpuid_regs r = cpuid_of(&m, 7, 9);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
}

static void test_topology(void **state)
{
    (void)state;
    struct cpu_model m = parse("EPYC");
    static struct machine machine;
    struct vcpu *v = new_vcpu();
    machine.vcpu_count = 3;
    v->model = &m;
    v->machine = &machine;
    v->id = 2;
    cpu_reset(&v->cpu, false);
    struct cpuid_regs r = cpuid_guest(v, 1, 0);
    assert_int_equal(r.ebx >> 24, 2);
    assert_int_equal(r.ebx >> 16 & 0xff, 3);
    assert_int_equal(r.edx >> 28 & 1, 1);
    assert_int_equal(cpuid_guest(v, 0x80000008, 0).ecx, 2 << 12 | 2);
    r = cpuid_guest(v, 0x8000001e, 0);
    assert_int_equal(r.eax, 2);
    m = parse("Haswell");
    r = cpuid_guest(v, 0xb, 1);
    assert_int_equal(r.eax, 2);
    assert_int_equal(r.ebx, 3);
    assert_int_equal(r.edx, 2);
    assert_int_equal(cpuid_guest(v, 4, 3).eax >> 14 & 0xfff, 3);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_signatures),
        cmocka_unit_test(test_generations),   cmocka_unit_test(test_options),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_host_lacks_feature),
        cmocka_unit_test(test_within_limits), cmocka_unit_test(test_bits_shown),
        cmocka_unit_test(test_identity),      cmocka_unit_test(test_out_of_range),
        cmocka_unit_test(test_xsave_sizes),   cmocka_unit_test(test_state_bits),
        cmocka_unit_test(test_frequency),     cmocka_unit_test(test_topology),
        cmocka_unit_test(test_leaf_7),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
