// Which engine runs the guest.
#ifndef POGO_CLI_ACCEL_H
#define POGO_CLI_ACCEL_H

#include "cli/options.h"
#include "core/engine.h"

// The first usable engine of those that -accel names, or of all. Returns it, with the reason for the choice in `why`, or NULL with *err
// set.
const struct engine_ops *accel_choose(const struct run_options *o, char *why, size_t size, struct error *err);
// The engines, for -accel help.
void accel_print(FILE *out);

#endif
