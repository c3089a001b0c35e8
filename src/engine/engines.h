// The engines that this build has, in the order of -accel help.
#ifndef POGO_ENGINE_ENGINES_H
#define POGO_ENGINE_ENGINES_H

#include "core/engine.h"

// Engine by name, or NULL.
const struct engine_ops *engine_find(const char *name);
// n-th engine, or NULL past the end.
const struct engine_ops *engine_at(unsigned n);

#endif
