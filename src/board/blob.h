// Bytes in the making: what the table builders write into. Little-endian. Writing past the end is remembered, not done, so
// that a builder checks once, at its end.
#ifndef POGO_BOARD_BLOB_H
#define POGO_BOARD_BLOB_H

#include <string.h>

#include "pogo/types.h"

struct blob {
    u8 *buf;
    size_t size, len;
    bool full; // something did not fit
};

static inline void blob_bytes(struct blob *b, const void *bytes, size_t n)
{
    if (n > b->size - b->len) {
        b->full = true;
        return;
    }
    memcpy(b->buf + b->len, bytes, n);
    b->len += n;
}

// `n` low bytes of val.
static inline void blob_put(struct blob *b, unsigned n, u64 val)
{
    u8 bytes[8];

    for (unsigned i = 0; i < n; i++)
        bytes[i] = (u8)(val >> i * 8);
    blob_bytes(b, bytes, n);
}

static inline void blob_zero(struct blob *b, size_t n)
{
    if (n > b->size - b->len) {
        b->full = true;
        return;
    }
    memset(b->buf + b->len, 0, n);
    b->len += n;
}

// Zeros up to a multiple of `align`.
static inline void blob_align(struct blob *b, size_t align)
{
    blob_zero(b, (align - b->len % align) % align);
}

// Make room for n bytes at `at` and put them there.
static inline void blob_insert(struct blob *b, size_t at, const void *bytes, size_t n)
{
    if (n > b->size - b->len) {
        b->full = true;
        return;
    }
    memmove(b->buf + at + n, b->buf + at, b->len - at);
    memcpy(b->buf + at, bytes, n);
    b->len += n;
}

// Change n bytes at `at`, which were written before.
static inline void blob_patch(struct blob *b, size_t at, unsigned n, u64 val)
{
    for (unsigned i = 0; i < n && at + i < b->len; i++)
        b->buf[at + i] = (u8)(val >> i * 8);
}

// The byte that makes the sum of [at, at+n) zero.
static inline u8 blob_checksum(const struct blob *b, size_t at, size_t n)
{
    u8 sum = 0;

    for (size_t i = 0; i < n && at + i < b->len; i++)
        sum += b->buf[at + i];
    return (u8)-sum;
}

#endif
