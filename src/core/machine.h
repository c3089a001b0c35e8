// The machine: what its processors share. Built by src/board, run by src/cli. No statics anywhere: two machines in one
// process are independent.
#ifndef POGO_CORE_MACHINE_H
#define POGO_CORE_MACHINE_H

#include "core/bus.h"
#include "core/clock.h"
#include "core/debug.h"
#include "core/engine.h"
#include "core/host.h"
#include "core/mem.h"
#include "core/vcpu.h"

#define MACHINE_MAX_VCPUS 64

struct machine {
    struct host *host;
    struct lock dev_lock; // see core/lock.h
    struct mem mem;
    struct bus bus;
    struct clock clock;
    _Atomic u64 a20_mask; // what each cpu.a20_mask is to become; see VCPU_REQ_A20
    struct vcpu *vcpu[MACHINE_MAX_VCPUS];
    unsigned vcpu_count;
    struct engine_tuning tuning;
    struct debug_points debug; // the debugger's; changed only while every vCPU is outside run()
    // A device asked for the machine to stop: engines return it as their exit when VCPU_REQ_EXIT is seen.
    _Atomic int stop_reason; // enum vm_exit_reason, or -1
    _Atomic int stop_code;
};

// Empty machine: no memory, no ports, no vCPUs, clock running at 0.
void machine_init(struct machine *m, struct host *host);
// Add a vCPU (made by vcpu_init). Returns 0 or -ENOSPC.
int machine_add_vcpu(struct machine *m, struct vcpu *v);
// Ask every vCPU to leave its engine with this reason (VM_EXIT_RESET, VM_EXIT_POWEROFF). Callable from devices.
// The first request counts until machine_resume().
void machine_stop(struct machine *m, enum vm_exit_reason reason, int code);

// Forget the request to stop: the machine may run again.
void machine_resume(struct machine *m);

// Fingerprint of what the guest can see: the processors, whose engines have been asked to pull their state, and all of RAM. Not the devices.
u64 machine_hash(const struct machine *m);

// Run `v` by its engine for at most `budget` instructions. In icount mode, in which there is only one processor, this fires the timers
// that are due and ends at the next deadline at the latest: call it again and again. Takes the device lock.
struct vm_exit machine_run(struct vcpu *v, u64 budget);

#endif
