// The reference interpreter as an engine.
#ifndef POGO_ENGINE_INTERP_ENGINE_H
#define POGO_ENGINE_INTERP_ENGINE_H

#include "core/engine.h"

extern const struct engine_ops interp_engine;

#endif
