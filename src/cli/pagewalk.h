// The guest's page tables, for people.
#ifndef POGO_CLI_PAGEWALK_H
#define POGO_CLI_PAGEWALK_H

#include <stdio.h>

#include "core/vcpu.h"

// Every present page: linear address, physical address, flags. Tables that refer to themselves can name more pages than anybody wants
// to read: it ends after a while and says so. The vCPU must not be running, and its state be complete.
void pagewalk_pages(FILE *out, const struct vcpu *v);
// Ranges of linear memory with the same permissions.
void pagewalk_ranges(FILE *out, const struct vcpu *v);

#endif
