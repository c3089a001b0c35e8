// Whole files in memory, for kernels, modules and ROMs.
#ifndef POGO_HOST_FILE_H
#define POGO_HOST_FILE_H

#include <time.h>

#include "pogo/error.h"
#include "pogo/types.h"

struct file_data {
    u8 *bytes; // from malloc; NULL when size is 0
    u64 size;
};

// Read all of `path`, at most `max` bytes. `option` names the command line option it came from in messages. Works on anything
// that can be read to its end (pipes too, no character devices). Returns 0 or a negative errno with *err set (-EFBIG: more than
// `max`); then nothing stays allocated.
int file_load(const char *path, const char *option, u64 max, struct file_data *out, struct error *err);
void file_free(struct file_data *f);

// A file whose contents are needed now and then: in between its descriptor is kept, not its bytes.
struct file_again {
    struct file_data data; // between file_read() and file_drop()
    struct timespec mtime;
    u64 size;
    int fd; // -1: there is none, and `data` stays: what was read cannot be read again (a pipe)
    bool open;
    bool changed; // what file_read() found is not what it had found before
};

// Open and read, as file_load() does; file_close() in any case.
int file_open(const char *path, const char *option, u64 max, struct file_again *f, struct error *err);
// Give the bytes back for now.
void file_drop(struct file_again *f);
// Have the bytes again, also when the name has gone, or is another file's. `path`, `option` and `max` as before.
int file_read(const char *path, const char *option, u64 max, struct file_again *f, struct error *err);
void file_close(struct file_again *f);

#endif
