// Which engine runs the guest, and what it is to do differently: the argument of -accel.
#ifndef POGO_CLI_ACCEL_H
#define POGO_CLI_ACCEL_H

#include <stdio.h>

#include "cli/keyval.h"
#include "core/engine.h"

#define ACCEL_MAX_NAMES 8
#define ACCEL_MAX_ENGINES 8 // that a build has

struct accel_option {
    const char *name[ACCEL_MAX_NAMES]; // engines in order of preference; none: any
    unsigned count;
    struct engine_tuning tuning;
    u64 off[ACCEL_MAX_ENGINES]; // tuning.off of engine_at(n)
};

// "ENGINE[:ENGINE...][,tb-size=MB][,tb-insns=N][,opt-NAME=on|off]" behind what *a has already. `option` is for messages, without dash; strings
// go into `pool`. Returns 0 or a negative errno with *err set.
int accel_parse(struct accel_option *a, struct text_pool *pool, const char *option, const char *arg, struct error *err);
// Only the names.
int accel_add(struct accel_option *a, struct text_pool *pool, const char *list, struct error *err);

// The first usable engine of those in *a, or of all. Returns it, with the reason for the choice in `why`, or NULL with *err set.
const struct engine_ops *accel_choose(const struct accel_option *a, char *why, size_t size, struct error *err);
struct engine_tuning accel_tuning(const struct accel_option *a, const struct engine_ops *e);
// The engines with their optimisations, for -accel help.
void accel_print(FILE *out);

#endif
