// The software TLB: filling, switching and flushing. Probing is inline in tlb.h.
//
// Every table keeps bitmaps of its valid, global, writable and large-page entries. Flushes walk the set bits only:
// loading CR3 after a handful of fills costs a handful of stores, and a flush of an empty table is eight loads. An
// entry is valid in the bitmap exactly when tag_r or tag_x is not tlb_invalid(i) (whatever can be written can be read).
//
// A guest's large page enters as 4 KiB fragments. INVLPG of one address must drop every fragment of the page; so that
// it need not search for them each time, a table has two small filters (hash bits of the 2 MiB and 1 GiB ranges in
// which it has fragments) which answer "certainly none" for nearly every address.
#include "core/tlb.h"

static unsigned entry_shift(const struct tlb_table *tab, unsigned i)
{
    return tab->phys[i] & 0xfff;
}

static gpa entry_phys(const struct tlb_table *tab, unsigned i)
{
    return tab->phys[i] & ~0xfffull;
}

static gva entry_gva(const struct tlb_table *tab, unsigned i)
{
    return tab->e[i].tag_r != tlb_invalid(i) ? tab->e[i].tag_r : tab->e[i].tag_x;
}

static u64 filter_bit(gva a, unsigned shift)
{
    return 1ull << (((a >> shift) ^ (a >> (shift + 6)) ^ (a >> (shift + 12))) & 63);
}

static bool bit_get(const u64 *map, unsigned i)
{
    return (map[i / 64] >> (i % 64)) & 1;
}

static void bit_put(u64 *map, unsigned i, bool on)
{
    u64 bit = 1ull << (i % 64);
    map[i / 64] = on ? map[i / 64] | bit : map[i / 64] & ~bit;
}

static void tags_clear(struct tlb_table *tab, unsigned i)
{
    struct tlb_entry *e = &tab->e[i];
    e->tag_r = e->tag_w = e->tag_x = tlb_invalid(i);
}

static void entry_drop(struct tlb_table *tab, unsigned i)
{
    tags_clear(tab, i);
    bit_put(tab->valid, i, false);
    bit_put(tab->global, i, false);
    bit_put(tab->writable, i, false);
    bit_put(tab->large, i, false);
}

static void table_init(struct tlb_table *tab)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        tags_clear(tab, i);
    for (unsigned w = 0; w < TLB_WORDS; w++)
        tab->valid[w] = tab->global[w] = tab->writable[w] = tab->large[w] = 0;
    tab->filter_2m = tab->filter_1g = 0;
}

static void table_flush(struct tlb_table *tab, bool keep_global)
{
    u64 large = 0;
    for (unsigned w = 0; w < TLB_WORDS; w++) {
        u64 keep = keep_global ? tab->global[w] : 0;
        for (u64 drop = tab->valid[w] & ~keep; drop; drop &= drop - 1)
            tags_clear(tab, w * 64 + (unsigned)__builtin_ctzll(drop));
        tab->valid[w] &= keep;
        tab->global[w] &= keep;
        tab->writable[w] &= keep;
        tab->large[w] &= keep;
        large |= tab->large[w];
    }
    if (!large)
        tab->filter_2m = tab->filter_1g = 0;
}

static void context_flush(struct tlb_context *c, bool keep_global)
{
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        table_flush(&c->view[view], keep_global);
}

// Which entries a flush of one address is about.
enum flush_scope { FLUSH_ANY, FLUSH_GLOBAL, FLUSH_NONGLOBAL };

static bool in_scope(const struct tlb_table *tab, unsigned i, enum flush_scope scope)
{
    return scope == FLUSH_ANY || bit_get(tab->global, i) == (scope == FLUSH_GLOBAL);
}

static void table_flush_large(struct tlb_table *tab, gva a, enum flush_scope scope)
{
    for (unsigned w = 0; w < TLB_WORDS; w++)
        for (u64 left = tab->large[w]; left; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (((entry_gva(tab, i) ^ a) >> entry_shift(tab, i)) == 0 && in_scope(tab, i, scope))
                entry_drop(tab, i);
        }
}

static void table_flush_gva(struct tlb_table *tab, gva a, enum flush_scope scope)
{
    unsigned i = tlb_index(a);
    if (bit_get(tab->valid, i) && entry_gva(tab, i) == (a & ~0xfffull) && in_scope(tab, i, scope))
        entry_drop(tab, i);
    if ((tab->filter_2m & filter_bit(a, 21)) || (tab->filter_1g & filter_bit(a, 30)))
        table_flush_large(tab, a, scope);
}

static void context_flush_gva(struct tlb_context *c, gva a, enum flush_scope scope)
{
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        table_flush_gva(&c->view[view], a, scope);
}

// A context is made ready when it is first used: that writes to all of its memory, and most guests never use more than one.
static void context_init(struct tlb_context *c, u16 pcid)
{
    c->used = true;
    c->pcid = pcid;
    c->last_use = 0;
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        table_init(&c->view[view]);
}

void tlb_init(struct tlb *t)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        t->ctx[i].used = false;
    t->use_clock = 0;
    t->cur_ctx = 0;
    context_init(&t->ctx[0], 0);
    t->cur = t->ctx[0].view;
}

void tlb_fill(struct tlb *t, enum tlb_view view, gva a, const struct tlb_page *p)
{
    struct tlb_table *tab = &t->cur[view];
    unsigned i = tlb_index(a);
    gva page = a & ~0xfffull;

    if (!(p->r || p->x)) {
        entry_drop(tab, i);
        return;
    }
    tab->e[i] = (struct tlb_entry){
        .tag_r = p->r ? page : tlb_invalid(i),
        .tag_w = p->w && p->r ? page : tlb_invalid(i),
        .tag_x = p->x ? page : tlb_invalid(i),
        .page = p->host,
    };
    tab->phys[i] = p->phys | p->shift;
    bit_put(tab->valid, i, true);
    bit_put(tab->global, i, p->global);
    bit_put(tab->writable, i, p->w && p->r);
    bit_put(tab->large, i, p->shift > 12);
    if (p->shift == 30)
        tab->filter_1g |= filter_bit(a, 30);
    else if (p->shift == 21)
        tab->filter_2m |= filter_bit(a, 21);
    else if (p->shift > 12)
        tab->filter_2m |= filter_bit(a & ~(1ull << 21), 21) | filter_bit(a | 1ull << 21, 21); // a 4 MiB page
}

void tlb_flush_all(struct tlb *t)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used)
            context_flush(&t->ctx[i], false);
}

void tlb_flush_all_nonglobal(struct tlb *t)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used)
            context_flush(&t->ctx[i], true);
}

void tlb_flush_nonglobal(struct tlb *t)
{
    context_flush(&t->ctx[t->cur_ctx], true);
}

void tlb_flush_gva(struct tlb *t, gva a)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used)
            context_flush_gva(&t->ctx[i], a, i == t->cur_ctx ? FLUSH_ANY : FLUSH_GLOBAL);
}

static struct tlb_context *context_find(struct tlb *t, u16 pcid)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used && t->ctx[i].pcid == pcid)
            return &t->ctx[i];
    return NULL;
}

void tlb_flush_pcid_gva(struct tlb *t, u16 pcid, gva a)
{
    struct tlb_context *c = context_find(t, pcid);
    if (c)
        context_flush_gva(c, a, FLUSH_NONGLOBAL);
}

void tlb_flush_pcid(struct tlb *t, u16 pcid)
{
    struct tlb_context *c = context_find(t, pcid);
    if (c)
        context_flush(c, true);
}

static struct tlb_context *context_oldest(struct tlb *t)
{
    struct tlb_context *oldest = &t->ctx[0];
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *c = &t->ctx[i];
        if (!c->used)
            return c;
        if (c->last_use < oldest->last_use)
            oldest = c;
    }
    return oldest;
}

void tlb_switch_pcid(struct tlb *t, u16 pcid, bool flush)
{
    t->ctx[t->cur_ctx].last_use = ++t->use_clock;
    struct tlb_context *c = context_find(t, pcid);
    if (c) {
        if (flush)
            context_flush(c, true);
    } else {
        c = context_oldest(t);
        if (!c->used)
            context_init(c, pcid);
        else
            // Its global entries are valid in every address space, so the new owner may as well keep them.
            context_flush(c, true);
        c->pcid = pcid;
    }
    c->last_use = ++t->use_clock;
    t->cur_ctx = (unsigned)(c - t->ctx);
    t->cur = c->view;
}

// Calls for every table with an entry for a physical page would need an index by physical page; they are rare (an
// engine takes code from a page for the first time), so the set bits are walked instead.
static void table_protect_gpa(struct tlb_table *tab, gpa page)
{
    for (unsigned w = 0; w < TLB_WORDS; w++)
        for (u64 left = tab->writable[w]; left; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (entry_phys(tab, i) == page) {
                tab->e[i].tag_w = tlb_invalid(i);
                bit_put(tab->writable, i, false);
            }
        }
}

static void table_flush_gpa(struct tlb_table *tab, gpa page)
{
    for (unsigned w = 0; w < TLB_WORDS; w++)
        for (u64 left = tab->valid[w]; left; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (entry_phys(tab, i) == page)
                entry_drop(tab, i);
        }
}

void tlb_protect_gpa(struct tlb *t, gpa page)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        for (unsigned view = 0; t->ctx[i].used && view < TLB_VIEW_COUNT; view++)
            table_protect_gpa(&t->ctx[i].view[view], page & ~0xfffull);
}

void tlb_protect_all(struct tlb *t)
{
    for (unsigned c = 0; c < TLB_CONTEXTS; c++)
        for (unsigned view = 0; t->ctx[c].used && view < TLB_VIEW_COUNT; view++) {
            struct tlb_table *tab = &t->ctx[c].view[view];
            for (unsigned w = 0; w < TLB_WORDS; w++) {
                for (u64 left = tab->writable[w]; left; left &= left - 1) {
                    unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
                    tab->e[i].tag_w = tlb_invalid(i);
                }
                tab->writable[w] = 0;
            }
        }
}

void tlb_flush_gpa(struct tlb *t, gpa page)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        for (unsigned view = 0; t->ctx[i].used && view < TLB_VIEW_COUNT; view++)
            table_flush_gpa(&t->ctx[i].view[view], page & ~0xfffull);
}
