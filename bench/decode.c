// Decoder throughput over the code of a real program: bench/decode [FILE [SECONDS]], /usr/bin/python3 by default, else
// this program itself. The executable segment of a 64-bit ELF file is decoded from end to end, again and again.
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "isa/insn.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const u8 *map_file(const char *path, size_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(Elf64_Ehdr)) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    *size = (size_t)st.st_size;
    return p == MAP_FAILED ? NULL : p;
}

// The first executable segment of the file, or NULL.
static const u8 *find_code(const u8 *file, size_t size, size_t *code_size)
{
    Elf64_Ehdr eh;
    memcpy(&eh, file, sizeof eh);
    if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_machine != EM_X86_64)
        return NULL;
    for (unsigned i = 0; i < eh.e_phnum; i++) {
        Elf64_Phdr ph;
        u64 at = eh.e_phoff + (u64)i * sizeof ph;
        if (at > size || size - at < sizeof ph)
            return NULL;
        memcpy(&ph, file + at, sizeof ph);
        if (ph.p_type == PT_LOAD && ph.p_flags & PF_X && ph.p_offset <= size && ph.p_filesz <= size - ph.p_offset) {
            *code_size = ph.p_filesz;
            return file + ph.p_offset;
        }
    }
    return NULL;
}

// Decode everything once; `window` bounds what the decoder may read. Returns instructions.
static u64 sweep(const u8 *code, size_t size, size_t window, u64 *bad)
{
    struct insn in;
    u64 n = 0;
    for (size_t at = 0; at < size; n++) {
        size_t left = size - at;
        if (isa_decode(code + at, left < window ? left : window, ISA_MODE_64, 0, &in) == ISA_OK) {
            at += in.len;
        } else {
            at++;
            ++*bad;
        }
    }
    return n;
}

static void measure(const char *what, const u8 *code, size_t size, size_t window, double limit)
{
    u64 n = 0, bad = 0;
    sweep(code, size, window, &bad);
    bad = 0;
    double start = seconds(), t;
    do
        n += sweep(code, size, window, &bad);
    while ((t = seconds() - start) < limit);
    printf("decode, %s: %.1f M instructions/s (%.1f%% not instructions)\n", what, (double)n / t * 1e-6,
           100.0 * (double)bad / (double)n);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/usr/bin/python3";
    double limit = argc > 2 ? atof(argv[2]) : 1.0;
    size_t size, code_size = 0;
    const u8 *file = map_file(path, &size);
    if (!file && argc == 1)
        file = map_file(argv[0], &size);
    const u8 *code = file ? find_code(file, size, &code_size) : NULL;
    if (!code) {
        fprintf(stderr, "%s: not a readable 64-bit x86 ELF file\n", path);
        return 1;
    }
    measure("long window", code, code_size, code_size, limit);
    measure("15-byte window", code, code_size, 15, limit);
    return 0;
}
