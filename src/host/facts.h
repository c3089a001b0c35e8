// Facts about the host, for reports.
#ifndef POGO_HOST_FACTS_H
#define POGO_HOST_FACTS_H

#include "pogo/types.h"

struct host_facts {
    char processor[64];  // brand string
    char hypervisor[16]; // signature of the one below, or ""
    char kernel[128];    // name and release
    unsigned cpus;       // that this process may use
    u64 memory, memory_free;
    u64 memory_limit; // of the control group; 0: none
    bool svm, vmx;    // hardware virtualization, as CPUID tells
    bool invariant_tsc, tsc_from_cpuid;
    u64 tsc_hz;
};

void host_facts(struct host_facts *f);

// What /dev/kvm is good for.
enum kvm_state {
    KVM_ABSENT,    // no such device
    KVM_FORBIDDEN, // no permission
    KVM_BROKEN,    // opening it, asking its version or making a machine fails
    KVM_SOFT,      // it answers, but this processor shows no hardware virtualization for it to use
    KVM_USABLE
};

// Look, by opening it. *why: a sentence on what is the matter, and *remedy on what to do, or NULL.
enum kvm_state host_kvm_state(char *why, size_t size, const char **remedy);

#endif
