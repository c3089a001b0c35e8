// Whole files in memory, for kernels, modules and ROMs.
#ifndef POGO_HOST_FILE_H
#define POGO_HOST_FILE_H

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

#endif
