// KVM's paravirtual clock: a record in guest memory that turns the TSC into nanoseconds of virtual time, so that a guest need
// not calibrate one timer against another. Offered with KVM's signature where the TSC's frequency is known.
#ifndef POGO_CORE_PVCLOCK_H
#define POGO_CORE_PVCLOCK_H

#include "core/vcpu.h"

// Is the clock offered to this vCPU, and is `index` one of its registers?
bool pvclock_is_msr(const struct vcpu *v, u32 index);
void pvclock_read(const struct vcpu *v, u32 index, u64 *val);
bool pvclock_write(struct vcpu *v, u32 index, u64 val);
// Publish the record anew: after the guest's TSC was set, and by whoever started the virtual clock again after stopping it.
// By the thread that runs `v`, or while nobody runs it.
void pvclock_update(struct vcpu *v);
// Tell the guest that the machine did not run for a while, so that its watchdogs do not take that for its own fault. Any thread.
void pvclock_held_up(struct vcpu *v);

#endif
