// Reports about a guest processor, for people.
#ifndef POGO_CLI_REPORT_H
#define POGO_CLI_REPORT_H

#include <stdio.h>

#include "core/machine.h"

// All registers, segments, control registers and EFER, and the code at CS:RIP. The vCPU must not be running.
void report_cpu(FILE *out, const struct vcpu *v);

// At most `len` bytes of guest memory at a linear address, as far as there is any. Returns how many.
size_t report_peek(const struct vcpu *v, gva a, u8 *buf, size_t len);

// How long the run was, and a fingerprint of how it ended: two runs that are alike say the same.
void report_icount(FILE *out, const struct machine *m);

#endif
