// Memory type range registers. They are kept and checked, and have no effect: memory has one type here.
#ifndef POGO_CORE_MTRR_H
#define POGO_CORE_MTRR_H

#include "core/vcpu.h"

// Is this the index of MTRRCAP, MTRR_DEF_TYPE or one of the range registers?
bool mtrr_is_msr(u32 index);
// As msr_read() and msr_write(), for those indices. SDM 3A 11.11; APM 2 7.7.
bool mtrr_read(const struct vcpu *v, u32 index, u64 *val);
bool mtrr_write(struct vcpu *v, u32 index, u64 val);

#endif
