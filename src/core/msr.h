// Model-specific registers. Reads and writes return false where hardware raises #GP(0): unknown register, reserved bits, bad
// values. The catalogue is what Linux, the BSDs and Windows touch on a machine of this kind.
#ifndef POGO_CORE_MSR_H
#define POGO_CORE_MSR_H

#include "core/vcpu.h"

bool msr_read(struct vcpu *v, u32 index, u64 *val);
bool msr_write(struct vcpu *v, u32 index, u64 val);
// Guest TSC now, and setting it (adjusts msr.tsc_offset; with TSC_ADJUST as SDM 3B 17.17.3 says).
u64 vcpu_tsc(const struct vcpu *v);
void vcpu_tsc_write(struct vcpu *v, u64 val);

#endif
