// Guest RAM is a shared mapping of a memfd: MADV_DONTNEED would only unmap its pages, a hole in the file frees them.
#include "host/discard.h"

#include <sys/mman.h>

void host_discard(void *unused, u8 *p, u64 len)
{
    (void)unused;
    madvise(p, len, MADV_REMOVE);
}
