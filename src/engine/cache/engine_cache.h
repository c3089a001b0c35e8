// The decoded-instruction cache as an engine.
#ifndef POGO_ENGINE_CACHE_ENGINE_H
#define POGO_ENGINE_CACHE_ENGINE_H

#include "core/engine.h"

extern const struct engine_ops cache_engine;

#endif
