// A fast fingerprint of memory, for comparisons within a program and between runs of it. Nobody's attack is to be withstood.
#ifndef POGO_CORE_HASH_H
#define POGO_CORE_HASH_H

#include "pogo/types.h"

#define HASH_START 0x9e3779b97f4a7c15ull

// One step: every bit of the result depends on every bit of both.
static inline u64 hash_u64(u64 h, u64 x)
{
    unsigned __int128 product = (unsigned __int128)(h ^ x) * 0xd6e8feb86659fd93ull;

    return (u64)product ^ (u64)(product >> 64) ^ h >> 29;
}

// `h` goes on over `len` bytes.
static inline u64 hash_bytes(u64 h, const void *p, u64 len)
{
    const u8 *b = p;
    u64 word;

    for (; len >= 8; len -= 8, b += 8) {
        __builtin_memcpy(&word, b, 8);
        h = hash_u64(h, word);
    }
    word = len;
    for (u64 i = 0; i < len; i++)
        word = word << 8 | b[i];
    return len ? hash_u64(h, word) : h;
}

// The same for a page, four lanes at a time.
static inline u64 hash_page(const u8 *page)
{
    u64 lane[4] = {1, 2, 3, 4}, h = HASH_START;

    for (unsigned i = 0; i < 4096; i += 32) {
        u64 word[4];
        __builtin_memcpy(word, page + i, 32);
        for (unsigned n = 0; n < 4; n++)
            lane[n] = hash_u64(lane[n], word[n]);
    }
    for (unsigned n = 0; n < 4; n++)
        h = hash_u64(h, lane[n]);
    return h;
}

#endif
