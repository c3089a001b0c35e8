// Randomness from the host's kernel.
#ifndef POGO_HOST_RANDOM_H
#define POGO_HOST_RANDOM_H

#include "pogo/types.h"

// Fill `buf`; `source` is not used (the signature is that of a device's source). Returns the number of bytes: fewer only when the
// kernel has none to give, which it has once it is up.
u64 host_random(void *source, void *buf, u64 len);

#endif
