// Reports about a guest processor, for people.
#ifndef POGO_CLI_REPORT_H
#define POGO_CLI_REPORT_H

#include <stdio.h>

#include "core/vcpu.h"

// All registers, segments, control registers and EFER, and the code at CS:RIP. The vCPU must not be running.
void report_cpu(FILE *out, const struct vcpu *v);

#endif
