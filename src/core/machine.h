// The machine: what its processors share. Built by src/board, run by src/cli. No statics anywhere: two machines in one process
// are independent.
#ifndef POGO_CORE_MACHINE_H
#define POGO_CORE_MACHINE_H

#include "core/bus.h"
#include "core/clock.h"
#include "core/engine.h"
#include "core/host.h"
#include "core/mem.h"
#include "core/vcpu.h"

#define MACHINE_MAX_VCPUS 64

struct machine {
    struct host *host;
    struct mem mem;
    struct bus bus;
    struct clock clock;
    struct vcpu *vcpu[MACHINE_MAX_VCPUS];
    unsigned vcpu_count;
    // A device asked for the machine to stop: engines return it as their exit when VCPU_REQ_EXIT is seen.
    _Atomic int stop_reason; // enum vm_exit_reason, or -1
    _Atomic int stop_code;
};

// Ask every vCPU to leave its engine with this reason (VM_EXIT_RESET, VM_EXIT_POWEROFF). Callable from devices.
void machine_stop(struct machine *m, enum vm_exit_reason reason, int code);

#endif
