// Hostile command lines: each line of the input is one argument. A first byte below 8 gives the rest as one argument to one of the
// options with a grammar of its own.
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static char *const grammars[] = {"-device", "-drive",  "-blockdev", "-chardev",
                                     "-serial", "-object", "-smp",      "-rtc"};
    static struct run_options o;
    struct error err = {.text = ""};
    char *text = malloc(size + 1), *argv[64];
    int argc = 0;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    if (size && data[0] < 8) {
        argv[argc++] = grammars[data[0]];
        argv[argc++] = text + 1;
    } else {
        for (char *p = strtok(text, "\n"); p && argc < 64; p = strtok(NULL, "\n"))
            argv[argc++] = p;
    }
    int ret = options_parse(&o, argc, argv, &err);
    if (ret > 0 || (ret < 0 && !err.text[0]))
        abort(); // an error always says what it is
    options_free(&o);
    free(text);
    return 0;
}
