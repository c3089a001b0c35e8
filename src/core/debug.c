// The debugger's breakpoints: a small unordered table behind a filter, since nearly every look-up is a miss.
#include "core/debug.h"

#include <errno.h>

const struct debug_break *debug_find_break(const struct debug_points *d, gva a)
{
    for (u32 i = 0; i < d->break_count; i++)
        if (d->brk[i].at == a)
            return &d->brk[i];
    return NULL;
}

const struct debug_watch *debug_watch_hit(const struct debug_points *d, gva a, u64 len, u8 access)
{
    for (u32 i = 0; i < d->watch_count; i++) {
        const struct debug_watch *w = &d->watch[i];
        // Either begins inside the other; differences, because an access may wrap.
        if ((w->access & access) && (w->first - a < len || a - w->first <= w->last - w->first))
            return w;
    }
    return NULL;
}

static void filter_add(struct debug_points *d, gva a)
{
    unsigned h = debug_hash(a);
    d->filter[h / 64] |= 1ull << h % 64;
}

int debug_add_break(struct debug_points *d, gva a, u8 kind)
{
    struct debug_break *b = (struct debug_break *)debug_find_break(d, a);
    if (b) {
        b->kinds |= kind;
        return 0;
    }
    if (d->break_count == DEBUG_MAX_BREAKS)
        return -ENOSPC;
    d->brk[d->break_count++] = (struct debug_break){a, kind};
    filter_add(d, a);
    return 0;
}

int debug_remove_break(struct debug_points *d, gva a, u8 kind)
{
    struct debug_break *b = (struct debug_break *)debug_find_break(d, a);
    if (!b || !(b->kinds & kind))
        return -ENOENT;
    b->kinds &= (u8)~kind;
    if (b->kinds)
        return 0;
    *b = d->brk[--d->break_count];
    __builtin_memset(d->filter, 0, sizeof(d->filter));
    for (u32 i = 0; i < d->break_count; i++)
        filter_add(d, d->brk[i].at);
    return 0;
}

static struct debug_watch *find_watch(struct debug_points *d, gva a, u64 len, u8 access)
{
    for (u32 i = 0; i < d->watch_count; i++)
        if (d->watch[i].first == a && d->watch[i].last == a + len - 1 && d->watch[i].access == access)
            return &d->watch[i];
    return NULL;
}

int debug_add_watch(struct debug_points *d, gva a, u64 len, u8 access)
{
    if (!len || a + len - 1 < a)
        return -EINVAL;
    if (find_watch(d, a, len, access))
        return 0;
    if (d->watch_count == DEBUG_MAX_WATCHES)
        return -ENOSPC;
    d->watch[d->watch_count++] = (struct debug_watch){a, a + len - 1, access};
    return 0;
}

int debug_remove_watch(struct debug_points *d, gva a, u64 len, u8 access)
{
    struct debug_watch *w = find_watch(d, a, len, access);
    if (!w)
        return -ENOENT;
    *w = d->watch[--d->watch_count];
    return 0;
}

void debug_clear(struct debug_points *d)
{
    d->break_count = d->watch_count = 0;
    __builtin_memset(d->filter, 0, sizeof(d->filter));
}
