// Giving guest memory back to the host while the guest runs.
#ifndef POGO_HOST_DISCARD_H
#define POGO_HOST_DISCARD_H

#include "pogo/types.h"

// The memory of [p, p+len), page-aligned and from host_ops.mem_alloc, is freed; the range reads as zeros and takes new memory when it
// is touched. A host that cannot leaves it as it is. `unused` makes it fit as a callback.
void host_discard(void *unused, u8 *p, u64 len);

#endif
