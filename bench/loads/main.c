// loads NAME SIZE: run one load of loads.h.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loads.h"

static const struct load {
    const char *name;
    int (*run)(unsigned size);
} loads[] = {
    {"sort", load_sort},       {"chase", load_chase}, {"recurse", load_recurse}, {"nbody", load_nbody},
    {"matmul", load_matmul},   {"fft", load_fft},     {"mandel", load_mandel},   {"fork", load_fork},
    {"exec", load_exec},       {"pipe", load_pipe},   {"fault", load_fault},     {"mmap", load_mmap},
    {"syscall", load_syscall},
};

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc == 3) {
        for (unsigned i = 0; i < sizeof loads / sizeof loads[0]; i++) {
            if (!strcmp(argv[1], loads[i].name))
                return loads[i].run((unsigned)strtoul(argv[2], NULL, 0));
        }
    }
    fprintf(stderr, "usage: loads NAME SIZE\n");
    return 1;
}
