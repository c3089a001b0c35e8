// The list of engines, the fastest first: who does not ask for one gets the first that works. A new engine adds one row here and
// nothing anywhere else.
#include "engine/engines.h"

#include <string.h>

#include "engine/bt/engine_bt.h"
#include "engine/cache/engine_cache.h"
#include "engine/interp/engine_interp.h"

static const struct engine_ops *const engines[] = {
    &bt_engine,
    &cache_engine,
    &interp_engine,
};

const struct engine_ops *engine_at(unsigned n)
{
    return n < ARRAY_LEN(engines) ? engines[n] : NULL;
}

const struct engine_ops *engine_find(const char *name)
{
    for (unsigned n = 0; n < ARRAY_LEN(engines); n++) {
        if (strcmp(engines[n]->name, name) == 0)
            return engines[n];
    }
    return NULL;
}
