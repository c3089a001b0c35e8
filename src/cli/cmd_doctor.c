// pogo doctor: which engines work here, and for each that does not why, and what to do; and facts about the host.

#include <string.h>

#include "cli/cmd.h"
#include "core/cpuid.h"
#include "engine/engines.h"
#include "host/facts.h"
#include "host/features.h"

#define GIB (1ull << 30)

static void line(const char *name, const char *state, const char *text)
{
    printf("  %-15s %s%*s%s\n", name, state, *text ? 13 - (int)strlen(state) : 0, "", text);
}

static unsigned show_engines(void)
{
    const struct engine_ops *e;
    unsigned usable = 0;

    printf("engines of this build\n");
    for (unsigned i = 0; (e = engine_at(i)); i++) {
        const char *why = "it does not say why";
        bool works = !e->probe || !e->probe(&why);

        line(e->name, works ? "works" : "does not", works ? "" : why);
        usable += works;
    }
    return usable;
}

static void show_kvm(void)
{
    static const char *const states[] = {[KVM_ABSENT] = "missing",
                                         [KVM_FORBIDDEN] = "forbidden",
                                         [KVM_BROKEN] = "broken",
                                         [KVM_SOFT] = "no hardware",
                                         [KVM_USABLE] = "there"};
    const char *remedy;
    char why[512];
    enum kvm_state state = host_kvm_state(why, sizeof(why), &remedy);

    printf("hardware virtualization\n");
    line("/dev/kvm", states[state], why);
    if (remedy)
        line("", "to do:", remedy);
    if (!engine_find("kvm"))
        line("", "", "this build has no kvm engine: guests do not use it, whatever its state");
}

// The models that this host can run at full.
static void show_models(void)
{
    u64 features[HOST_FEATURE_WORDS];
    const struct cpu_model *known;
    struct cpu_model m;
    char text[512];

    host_features(features);
    printf("processor models (-cpu)\n");
    for (unsigned i = 0; (known = cpu_model_at(i)); i++) {
        const char *bad = cpu_model_parse(known->name, features, &m, text, sizeof(text));
        line(known->name, bad ? "does not" : "works", bad ? bad : "");
    }
}

static void show_host(void)
{
    struct host_facts f;

    host_facts(&f);
    printf("host\n  processor       %s\n", f.processor);
    printf("  below           %s\n", f.hypervisor[0] ? f.hypervisor : "nothing: it is a real machine");
    printf("  virtual         %s\n", f.svm ? "SVM" : f.vmx ? "VMX" : "neither SVM nor VMX");
    printf("  processors      %u for this process\n", f.cpus);
    printf("  memory          %.1f GiB, %.1f GiB free", (double)f.memory / GIB, (double)f.memory_free / GIB);
    if (f.memory_limit)
        printf(", limited to %.1f GiB by the control group", (double)f.memory_limit / GIB);
    printf("\n  TSC             %.3f MHz, %s, %s\n", (double)f.tsc_hz / 1e6, f.tsc_from_cpuid ? "by CPUID" : "measured",
           f.invariant_tsc ? "invariant" : "not said to be invariant: guest time may drift");
    printf("  kernel          %s\n", f.kernel);
}

int cmd_doctor(int argc, char **argv)
{
    struct error err;
    unsigned usable;

    if (argc && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))) {
        printf(
            "usage: pogo doctor\n\nShows which engines work here, what keeps others from it, and facts about the host.\n"
            "Exit status: 0 when at least one engine works.\n");
        return CMD_OK;
    }
    if (argc) {
        error_format(&err, "doctor: %s: takes no arguments", argv[0]);
        return cmd_fail(&err);
    }
    usable = show_engines();
    show_kvm();
    show_models();
    show_host();
    return usable ? CMD_OK : CMD_ERROR;
}
