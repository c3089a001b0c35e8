#ifndef POGO_ENGINE_BT_ENGINE_BT_H
#define POGO_ENGINE_BT_ENGINE_BT_H

#include "core/engine.h"

// The binary translator.
extern const struct engine_ops bt_engine;

#endif
