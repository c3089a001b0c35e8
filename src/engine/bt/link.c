// Direct branches from block to block. A link is patched into the branch when its target is known. A branch inside a page is right
// as long as its target exists. One to another page also sees, each time, that the execution key is the one under which this page
// was found where the branch goes, and looks for it again when it is not (flow.c, glue.c), so links survive whatever the guest does to its
// page tables.
//
// Each block knows the links that lead to it, so that they can be cut when it goes.
#include "engine/bt/bt.h"

static struct bt_far *far_of(struct bt *b, const struct bt_link *l)
{
    return l->far ? bt_near(b, l->far) : NULL;
}

static void patch(struct bt *b, u32 jump, u64 target)
{
    const struct host_code *m = &b->cache.mem;
    struct emit e = {.to_exec = (u64)m->exec - (u64)m->write};
    emit_patch(&e, m->write + jump, target);
}

// Where the link enters the block.
static u64 way_in(struct bt *b, const struct bt_link *l, const struct bt_block *to)
{
    u64 host = bt_exec(b, to->code + to->entry_host);
    if (to->recipe.kind)
        return to->entry_slot;
    switch (l->flags) {
    case FLAGS_BOTH: return bt_exec(b, to->code + to->entry_both);
    case FLAGS_HOST: return host;
    case FLAGS_RECIPE:
        if (to->wants == FLAGS_NONE)
            return host;
        patch(b, l->stub + l->settle - 4, host);
        return bt_exec(b, l->stub + LINK_STUB);
    default: return to->entry_slot;
    }
}

static void cut(struct bt *b, struct bt_link *l);

void link_make(struct bt *b, struct bt_link *l, struct bt_block *to)
{
    if (l->to)
        cut(b, l);
    l->to = bt_distance(b, to);
    l->next_in = to->links_in;
    to->links_in = bt_distance(b, l);
    struct bt_far *f = far_of(b, l);
    if (f)
        f->page = to->page;
    patch(b, l->jump, way_in(b, l, to));
    b->stats.links++;
}

static void reset(struct bt *b, struct bt_link *l)
{
    struct bt_far *f = far_of(b, l);
    l->to = l->next_in = 0;
    if (f)
        f->key = f->page = 0;
    patch(b, l->jump, bt_exec(b, l->stub));
}

void link_cut_incoming(struct bt *b, struct bt_block *k)
{
    for (u32 at = k->links_in; at;) {
        struct bt_link *l = bt_near(b, at);
        at = l->next_in;
        reset(b, l);
    }
    k->links_in = 0;
}

static void cut(struct bt *b, struct bt_link *l)
{
    struct bt_block *to = bt_near(b, l->to);
    u32 *at = &to->links_in, self = bt_distance(b, l);
    while (*at != self)
        at = &((struct bt_link *)bt_near(b, *at))->next_in;
    *at = l->next_in;
    reset(b, l);
}

void link_cut_outgoing(struct bt *b, struct bt_block *k)
{
    struct bt_link *l = bt_links(k);
    for (unsigned i = 0; i < k->links; i++) {
        if (l[i].to)
            cut(b, &l[i]);
    }
}

static bool within(u32 at, u32 lo, u32 hi)
{
    return at - lo < hi - lo;
}

// Take all links in [lo, hi) off a block's list. They are not patched.
static void drop_incoming(struct bt *b, struct bt_block *to, u32 lo, u32 hi)
{
    for (u32 *at = &to->links_in; *at;) {
        struct bt_link *l = bt_near(b, *at);
        if (!within(*at, lo, hi)) {
            at = &l->next_in;
            continue;
        }
        *at = l->next_in;
        l->to = 0;
    }
}

void link_cut_outside(struct bt *b, struct bt_block *k, u32 lo, u32 hi)
{
    struct bt_link *out = bt_links(k);
    for (u32 at = k->links_in; at;) {
        struct bt_link *l = bt_near(b, at);
        u32 next = l->next_in;
        if (!within(at, lo, hi))
            reset(b, l);
        at = next;
    }
    for (unsigned i = 0; i < k->links; i++) {
        if (out[i].to && !within(out[i].to, lo, hi))
            drop_incoming(b, bt_near(b, out[i].to), lo, hi);
    }
}
