// From a sequence that fails to one that a person can read. Instructions become NOPs of the same length, so that nothing else moves;
// registers and memory become zero; each only if it still fails. What remains is what it takes.
#include <string.h>

#include "oracle/oracle.h"

struct search {
    struct orc_sequence *q;
    bool (*fails)(void *arg, const struct orc_case *c);
    void *arg;
};

// Fill with `byte`; put the old contents back when the failure goes away. Returns whether something changed.
static bool try_fill(const struct search *s, void *at, u8 byte, size_t len)
{
    u8 old[1024];
    bool same = true;
    for (size_t i = 0; i < len; i++)
        same &= ((u8 *)at)[i] == byte;
    if (same || len > sizeof old)
        return false;
    memcpy(old, at, len);
    memset(at, byte, len);
    if (s->fails(s->arg, &s->q->c))
        return true;
    memcpy(at, old, len);
    return false;
}

// Halves first, then quarters, down to single instructions, from the end.
static bool drop_instructions(const struct search *s)
{
    struct orc_sequence *q = s->q;
    bool changed = false;
    for (unsigned n = q->items; n > 0; n /= 2)
        for (unsigned end = q->items; end > 0; end -= end < n ? end : n) {
            unsigned first = end < n ? 0 : end - n, from = q->item[first].off;
            unsigned to = q->item[end - 1].off + q->item[end - 1].len;
            changed |= try_fill(s, q->c.code + from, 0x90, to - from);
        }
    return changed;
}

static bool drop_state(const struct search *s)
{
    struct orc_case *c = &s->q->c;
    bool changed = false;
    for (unsigned i = 0; i < X86_GPR_COUNT; i++)
        changed |= try_fill(s, &c->in.gpr[i], 0, 8);
    changed |= try_fill(s, c->in.xs.xmm, 0, sizeof c->in.xs.xmm);
    changed |= try_fill(s, c->in.xs.ymmh, 0, sizeof c->in.xs.ymmh);
    changed |= try_fill(s, c->in.xs.st, 0, sizeof c->in.xs.st);
    for (unsigned i = 0; i < c->npatch; i++)
        changed |= try_fill(s, c->data + c->patch[i].data, 0, c->patch[i].len);
    u64 flags = c->in.rflags;
    c->in.rflags = X86_FL_RSVD1 | X86_FL_IF;
    if (flags != c->in.rflags && s->fails(s->arg, c))
        return true;
    c->in.rflags = flags;
    return changed;
}

void orc_minimise(struct orc_sequence *q, bool (*fails)(void *arg, const struct orc_case *c), void *arg)
{
    struct search s = {q, fails, arg};
    for (unsigned round = 0; round < 8; round++) {
        bool changed = drop_instructions(&s);
        changed |= drop_state(&s);
        if (!changed)
            break;
    }
}
