// Hostile multiboot images. Detection is part of the input: what has no header goes through the explanation of why.
#include "fuzz_boot.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    fuzz_loader(boot_load, data, size);
    return 0;
}
