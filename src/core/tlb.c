// The software TLB: filling, switching and flushing. Probing is inline in tlb.h.
//
// Every table keeps bitmaps of its valid, global, writable and large-page entries. Flushes walk the set bits only:
// loading CR3 after a handful of fills costs a handful of stores, and where nothing was filled one load. An
// entry is valid in the bitmap exactly when tag_r or tag_x is not tlb_invalid(i) (whatever can be written can be read).
//
// A guest's large page enters as 4 KiB fragments. INVLPG of one address must drop every fragment of the page; so that
// it need not search for them each time, a table counts its fragments by a hash of the range they are in, and nearly every
// address finds a count of 0. Fragments of one page of 2 or 4 MiB are in neighbouring entries.
//
// Global entries count in every address space, and so INVLPG looks for them in all contexts. Guests have them in the upper half of
// the address space, as a rule; while that is so, addresses in the lower half are looked for in the current context alone.
//
// Execution keys. A struct tlb_code says of which pages the guest may expect that they are forgotten; a flush that concerns one of them
// draws a new key. Its filter cannot give up a single page, so it is only cleared when no valid tag_x can be left of what it
// stands for. Global supervisor pages are in tlb.shared whichever context filled them. A context that also has others goes by its own key
// until they are flushed, and that is replaced for the shared pages' sake, too.
#include "core/tlb.h"

_Static_assert(TLB_WORDS <= 64, "struct tlb_table.local has a bit for each");

static unsigned entry_shift(const struct tlb_table *tab, unsigned i)
{
    return tab->phys[i] & 0xfff;
}

static gpa entry_phys(const struct tlb_table *tab, unsigned i)
{
    return tab->phys[i] & ~0xfffull;
}

// What is in entry i, whose tag may be tlb_device_tag().
static gva entry_gva(const struct tlb_table *tab, unsigned i)
{
    gva tag = tab->e[i].tag_r != tlb_invalid(i) ? tab->e[i].tag_r : tab->tag_x[i];
    return (tag & ~((gva)(TLB_ENTRIES - 1) << 12)) | (gva)i << 12;
}

static u16 *large_count(struct tlb_table *tab, gva a, unsigned shift)
{
    u64 range = a >> (shift == 30 ? 30 : 22);
    u16 *count = shift == 30 ? tab->large_1g : tab->large_4m;
    return &count[range * 0x9e3779b97f4a7c15ull >> (64 - TLB_FILTER_BITS)];
}

static bool bit_get(u64 map, unsigned i)
{
    return (map >> (i % 64)) & 1;
}

static void tags_clear(struct tlb_table *tab, unsigned i)
{
    struct tlb_entry *e = &tab->e[i];
    e->tag_r = e->tag_w = tab->tag_x[i] = tlb_invalid(i);
}

// Entry i is a fragment of a large page, and will not be any more.
static void forget_large(struct tlb_table *tab, unsigned i)
{
    --*large_count(tab, entry_gva(tab, i), entry_shift(tab, i));
}

static void entry_drop(struct tlb_table *tab, unsigned i)
{
    struct tlb_bits *b = &tab->bits[i / 64];
    u64 bit = 1ull << (i % 64);
    if (b->large & bit)
        forget_large(tab, i);
    tags_clear(tab, i);
    b->valid &= ~bit;
    b->global &= ~bit;
    b->writable &= ~bit;
    b->large &= ~bit;
}

static void table_init(struct tlb_table *tab)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        tags_clear(tab, i);
    for (unsigned w = 0; w < TLB_WORDS; w++)
        tab->bits[w] = (struct tlb_bits){0};
    for (unsigned i = 0; i < 1u << TLB_FILTER_BITS; i++)
        tab->large_4m[i] = tab->large_1g[i] = 0;
    tab->local = 0;
}

static void word_flush(struct tlb_table *tab, unsigned w, u64 keep)
{
    struct tlb_bits *b = &tab->bits[w];
    for (u64 drop = b->large & ~keep; drop; drop &= drop - 1)
        forget_large(tab, w * 64 + (unsigned)__builtin_ctzll(drop));
    for (u64 drop = b->valid & ~keep; drop; drop &= drop - 1)
        tags_clear(tab, w * 64 + (unsigned)__builtin_ctzll(drop));
    b->valid &= keep;
    b->global &= keep;
    b->writable &= keep;
    b->large &= keep;
}

static void table_flush(struct tlb_table *tab, bool keep_global)
{
    if (keep_global) {
        for (u64 left = tab->local; left; left &= left - 1) {
            unsigned w = (unsigned)__builtin_ctzll(left);
            word_flush(tab, w, tab->bits[w].global);
        }
    } else {
        for (unsigned w = 0; w < TLB_WORDS; w++)
            word_flush(tab, w, 0);
    }
    tab->local = 0;
}

// Which entries a flush of one address is about.
enum flush_scope { FLUSH_ANY, FLUSH_GLOBAL, FLUSH_NONGLOBAL };

static bool in_scope(const struct tlb_table *tab, unsigned i, enum flush_scope scope)
{
    return scope == FLUSH_ANY || bit_get(tab->bits[i / 64].global, i) == (scope == FLUSH_GLOBAL);
}

// Fragments in the bitmaps' words [w, end).
static void table_flush_large(struct tlb_table *tab, unsigned w, unsigned end, gva a, enum flush_scope scope)
{
    for (; w < end; w++)
        for (u64 left = tab->bits[w].large; left; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (((entry_gva(tab, i) ^ a) >> entry_shift(tab, i)) == 0 && in_scope(tab, i, scope))
                entry_drop(tab, i);
        }
}

static void table_flush_page(struct tlb_table *tab, gva a, enum flush_scope scope)
{
    unsigned i = tlb_index(a);
    if (bit_get(tab->bits[i / 64].valid, i) && entry_gva(tab, i) == (a & ~0xfffull) && in_scope(tab, i, scope))
        entry_drop(tab, i);
}

#define WORDS_4M ((4u << 20) / 4096 / 64)

static void table_flush_gva(struct tlb_table *tab, gva a, enum flush_scope scope)
{
    table_flush_page(tab, a, scope);
    if (UNLIKELY(*large_count(tab, a, 21))) {
        unsigned first = TLB_WORDS > WORDS_4M ? tlb_index(a) / 64 & ~(WORDS_4M - 1) : 0;
        table_flush_large(tab, first, TLB_WORDS > WORDS_4M ? first + WORDS_4M : TLB_WORDS, a, scope);
    }
    if (UNLIKELY(*large_count(tab, a, 30)))
        table_flush_large(tab, 0, TLB_WORDS, a, scope);
}

static void context_flush_gva(struct tlb_context *c, gva a, enum flush_scope scope)
{
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        table_flush_gva(&c->view[view], a, scope);
}

// --- execution keys ---------------------------------------------------------------------------------------------------

static u64 new_key(struct tlb *t)
{
    do
        t->last_key++;
    while (!(u32)t->last_key);
    return t->last_key;
}

static void code_init(struct tlb *t, struct tlb_code *s)
{
    s->key = new_key(t);
    s->any = s->large = s->global = false;
    __builtin_memset(s->filter, 0, sizeof s->filter);
}

// All of its pages go, but global ones stay where they are when `keep_global`.
static void code_flush(struct tlb *t, struct tlb_code *s, bool keep_global)
{
    if (keep_global && !s->any)
        return;
    if (!s->any || (keep_global && s->global))
        s->key = new_key(t);
    else
        code_init(t, s);
}

// Where the filter has the page of size 1 << shift with `a`: bit numbers.
static void filter_bits(gva a, unsigned shift, unsigned bit[2])
{
    u64 x = ((a >> shift) + shift) * 0x9e3779b97f4a7c15ull;
    bit[0] = (unsigned)(x >> (64 - TLB_CODE_BITS));
    bit[1] = (unsigned)(x >> (64 - 2 * TLB_CODE_BITS)) & ((1u << TLB_CODE_BITS) - 1);
}

static bool filter_has(const struct tlb_code *s, gva a, unsigned shift)
{
    unsigned bit[2];
    filter_bits(a, shift, bit);
    return bit_get(s->filter[bit[0] / 64], bit[0]) && bit_get(s->filter[bit[1] / 64], bit[1]);
}

static bool code_may_hold(const struct tlb_code *s, gva a)
{
    if (!s->any)
        return false;
    return filter_has(s, a, 12) || (s->large && (filter_has(s, a, 21) || filter_has(s, a, 22) || filter_has(s, a, 30)));
}

static void code_add(struct tlb_code *s, gva a, const struct tlb_page *p)
{
    unsigned bit[2];
    s->any = true;
    s->large |= p->shift > 12;
    s->global |= p->global;
    filter_bits(a, p->shift, bit);
    for (unsigned i = 0; i < 2; i++)
        s->filter[bit[i] / 64] |= 1ull << (bit[i] % 64);
}

static void keys_update(struct tlb *t)
{
    const struct tlb_context *c = &t->ctx[t->cur_ctx];
    t->key[0] = c->own.any ? c->own.key : t->shared.key;
    t->key[1] = c->user.key;
}

// The page has become executable in the current context.
static void code_filled(struct tlb *t, enum tlb_view view, gva a, const struct tlb_page *p)
{
    struct tlb_context *c = &t->ctx[t->cur_ctx];
    if (view == TLB_USER) {
        code_add(&c->user, a, p);
    } else if (p->global) {
        code_add(&t->shared, a, p);
    } else {
        if (!c->own.any)
            c->own.key = new_key(t);
        code_add(&c->own, a, p);
        keys_update(t);
    }
}

// A global page, supervisor's or not, is to be forgotten in all contexts, if it was executable.
static void code_global_gone(struct tlb *t, gva a)
{
    bool shared = code_may_hold(&t->shared, a);
    if (shared)
        t->shared.key = new_key(t);
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *c = &t->ctx[i];
        if (!c->used)
            continue;
        if (shared)
            c->own.key = new_key(t);
        if (c->user.global && code_may_hold(&c->user, a))
            c->user.key = new_key(t);
    }
}

// The same for a page of one context that is not global.
static void code_gone(struct tlb *t, struct tlb_context *c, gva a)
{
    if (code_may_hold(&c->user, a))
        c->user.key = new_key(t);
    if (code_may_hold(&c->own, a))
        c->own.key = new_key(t);
}

// --- contexts ---------------------------------------------------------------------------------------------------------

// All but global entries.
static void context_flush(struct tlb *t, struct tlb_context *c)
{
    for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
        table_flush(&c->view[view], true);
    code_flush(t, &c->user, true);
    code_flush(t, &c->own, true);
    keys_update(t);
}

// A context is made ready when it is first used: that writes to all of its memory, and most guests never use more than one.
static void context_init(struct tlb *t, struct tlb_context *c, u16 pcid)
{
    code_init(t, &c->user);
    code_init(t, &c->own);
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
    if (!t->last_key)
        t->last_key = 0xfffff000; // what is rare is better seen early: engines may compare lower halves only
    t->low_globals = false;
    context_init(t, &t->ctx[0], 0);
    code_init(t, &t->shared);
    t->cur = t->ctx[0].view;
    keys_update(t);
}

void tlb_fill(struct tlb *t, enum tlb_view view, gva a, const struct tlb_page *p)
{
    struct tlb_table *tab = &t->cur[view];
    unsigned i = tlb_index(a);
    gva page = a & ~0xfffull, tag = UNLIKELY(p->device) ? tlb_device_tag(page) : page;

    if (!(p->r || p->x)) {
        entry_drop(tab, i);
        return;
    }
    struct tlb_bits *b = &tab->bits[i / 64];
    u64 bit = 1ull << (i % 64);
    if (UNLIKELY(b->large & bit))
        forget_large(tab, i);
    tab->e[i] = (struct tlb_entry){
        .tag_r = p->r ? tag : tlb_invalid(i),
        .tag_w = p->w && p->r ? tag : tlb_invalid(i),
        .addend = p->host - page,
        .page = p->host,
    };
    tab->tag_x[i] = p->x ? page : tlb_invalid(i);
    tab->phys[i] = p->phys | p->shift;
    b->valid |= bit;
    b->global = p->global ? b->global | bit : b->global & ~bit;
    b->writable = p->w && p->r && !p->device ? b->writable | bit : b->writable & ~bit;
    b->large = p->shift > 12 ? b->large | bit : b->large & ~bit;
    if (p->shift > 12)
        ++*large_count(tab, a, p->shift);
    if (!p->global)
        tab->local |= 1ull << i / 64;
    else if (!(a >> 63))
        t->low_globals = true;
    if (p->x)
        code_filled(t, view, page, p);
}

void tlb_flush_all(struct tlb *t)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *c = &t->ctx[i];
        if (!c->used)
            continue;
        for (unsigned view = 0; view < TLB_VIEW_COUNT; view++)
            table_flush(&c->view[view], false);
        code_flush(t, &c->user, false);
        code_flush(t, &c->own, false);
    }
    code_flush(t, &t->shared, false);
    keys_update(t);
    t->low_globals = false;
}

void tlb_flush_all_nonglobal(struct tlb *t)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used)
            context_flush(t, &t->ctx[i]);
}

void tlb_flush_nonglobal(struct tlb *t)
{
    context_flush(t, &t->ctx[t->cur_ctx]);
}

// Can contexts other than the current one have a global entry for `a`?
static bool may_be_global(const struct tlb *t, gva a)
{
    return t->low_globals || a >> 63;
}

static void code_flush_gva(struct tlb *t, gva a)
{
    if (may_be_global(t, a))
        code_global_gone(t, a);
    code_gone(t, &t->ctx[t->cur_ctx], a);
    keys_update(t);
}

void tlb_flush_gva(struct tlb *t, gva a)
{
    context_flush_gva(&t->ctx[t->cur_ctx], a, FLUSH_ANY);
    for (unsigned i = 0; may_be_global(t, a) && i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used && i != t->cur_ctx)
            context_flush_gva(&t->ctx[i], a, FLUSH_GLOBAL);
    code_flush_gva(t, a);
}

void tlb_flush_page(struct tlb *t, gva a)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        bool current = i == t->cur_ctx;
        for (unsigned view = 0; (current || (t->ctx[i].used && may_be_global(t, a))) && view < TLB_VIEW_COUNT; view++)
            table_flush_page(&t->ctx[i].view[view], a, current ? FLUSH_ANY : FLUSH_GLOBAL);
    }
    code_flush_gva(t, a);
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
    if (!c)
        return;
    context_flush_gva(c, a, FLUSH_NONGLOBAL);
    code_gone(t, c, a);
    keys_update(t);
}

void tlb_flush_pcid(struct tlb *t, u16 pcid)
{
    struct tlb_context *c = context_find(t, pcid);
    if (c)
        context_flush(t, c);
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
            context_flush(t, c);
    } else {
        c = context_oldest(t);
        if (!c->used)
            context_init(t, c, pcid);
        else
            // Its global entries are valid in every address space, so the new owner may as well keep them.
            context_flush(t, c);
        c->pcid = pcid;
    }
    c->last_use = ++t->use_clock;
    t->cur_ctx = (unsigned)(c - t->ctx);
    t->cur = c->view;
    keys_update(t);
}

// Calls for every table with an entry for a physical page would need an index by physical page; they are rare (an
// engine takes code from a page for the first time), so the set bits are walked instead.
static void table_protect_gpa(struct tlb_table *tab, gpa page)
{
    for (unsigned w = 0; w < TLB_WORDS; w++)
        for (u64 left = tab->bits[w].writable; left; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (entry_phys(tab, i) == page) {
                tab->e[i].tag_w = tlb_invalid(i);
                tab->bits[w].writable &= ~(1ull << (i % 64));
            }
        }
}

static void table_flush_gpa(struct tlb_table *tab, gpa page)
{
    for (unsigned w = 0; w < TLB_WORDS; w++)
        for (u64 left = tab->bits[w].valid; left; left &= left - 1) {
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
                for (u64 left = tab->bits[w].writable; left; left &= left - 1) {
                    unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
                    tab->e[i].tag_w = tlb_invalid(i);
                }
                tab->bits[w].writable = 0;
            }
        }
}

void tlb_flush_gpa(struct tlb *t, gpa page)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        for (unsigned view = 0; t->ctx[i].used && view < TLB_VIEW_COUNT; view++)
            table_flush_gpa(&t->ctx[i].view[view], page & ~0xfffull);
    // Code may have been executed from it by way of an entry that has made room since.
    t->shared.key = new_key(t);
    for (unsigned i = 0; i < TLB_CONTEXTS; i++)
        if (t->ctx[i].used)
            t->ctx[i].user.key = t->ctx[i].own.key = new_key(t);
    keys_update(t);
}
