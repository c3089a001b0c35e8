// "first,key=value,..." as most options have it, and plain numbers and sizes.
#ifndef POGO_CLI_KEYVAL_H
#define POGO_CLI_KEYVAL_H

#include "pogo/error.h"
#include "pogo/types.h"

// Strings that live until all of them are freed together.
struct text_pool {
    struct text_node *first;
};

// Copy `len` bytes and end them with 0; NULL: no memory.
char *text_keep(struct text_pool *pool, const char *text, size_t len);
// Both, one after the other.
char *text_join(struct text_pool *pool, const char *a, const char *b);
void text_free(struct text_pool *pool);

#define KEYVALS_MAX 32

struct keyval {
    const char *key, *value; // value: "on" where the key stands alone
    bool bare;               // it does
    bool used;
};

struct keyvals {
    const char *what; // option and first value, for messages: "-device isa-serial"
    struct keyval item[KEYVALS_MAX];
    unsigned count;
};

// Cut `text` at single commas (",," is a comma in a value) and at the first '=' of each piece; a key may come once. With `implied` the first piece may
// leave its key out. Strings go into `pool`. Returns 0 or a negative errno with *err set.
int keyvals_parse(struct keyvals *k, struct text_pool *pool, const char *option, const char *text, const char *implied,
                  struct error *err);
// The value given for `key`, or NULL.
const char *keyvals_get(struct keyvals *k, const char *key);
// "on"/"off" and their synonyms; also "noKEY" alone. *out stays as it is when the key is not there.
int keyvals_bool(struct keyvals *k, const char *key, bool *out, struct error *err);
int keyvals_number(struct keyvals *k, const char *key, u64 min, u64 max, u64 *out, struct error *err);
// Fails when there is a key that nobody has asked for.
int keyvals_done(const struct keyvals *k, struct error *err);

// Unsigned number, decimal or 0x hexadecimal, of exactly `len` characters.
bool parse_number(const char *text, size_t len, u64 max, u64 *out);
// "SIZE[K|M|G|T]": bytes; without a letter in units of 1 << default_shift.
bool parse_size(const char *text, unsigned default_shift, u64 *bytes);
bool parse_bool(const char *text, bool *out);

#endif
