// Hostile PVH images: the ELF loader and the note search whatever detection would say.
#include "fuzz_boot.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    fuzz_loader(boot_pvh, data, size);
    return 0;
}
