// Memory for blocks: code in the code memory, everything that is said about it (struct bt_block with its sites and links) in the near
// memory before that.
//
// What of a block's code is rarely run, its tails, lies apart from the rest, so that what is run all the time is close together.
//
// Both are cut into parts that are filled one after the other; when all are full the oldest part is emptied and filled again, so
// a working set that is too large costs a part at a time. A block that is forgotten because its code was written to stays where it
// is, marked dead, until its part is emptied. Emptying a part empties the private stack as well: it may hold return addresses
// into that part.
//
// Records name each other by their distance from the start of the near memory, where struct bt_ctx is, so 0 is none of them.
//
// A block is in the list of its page; one with an instruction that crosses into a second page is in that page's list, too. Lists of pages
// hold the distance of a block, with bit 0 set where it is there for its second page.
#include "engine/bt/bt.h"

#define RECORD_MIN 128 // bytes of near memory for which there is a slot
#define BLOCKS_A_PAGE 8

static u32 hash_address(hva page, unsigned off)
{
    u64 x = (page + off) * 0x9e3779b97f4a7c15ull;
    return (u32)((x ^ x >> 32) * 0xc2b2ae3d27d4eb4full >> 32); // functions at regular distances are common
}

static unsigned hash_page(const struct bt_cache *m, hva page)
{
    return (unsigned)((page >> 12) * 0x9e3779b97f4a7c15ull >> 32) & (m->pages - 1);
}

static u64 round_up(u64 v, u64 to)
{
    return (v + to - 1) & ~(to - 1);
}

// Near memory: context, jump tables, private stack, records.
static void place(struct bt *b, u32 *at, u64 size, u64 *where)
{
    *where = (u64)bt_near(b, *at);
    *at += (u32)round_up(size, 4096);
}

static u64 index_size(const struct bt_cache *m)
{
    return m->slots * sizeof(struct bt_slot) + m->pages * sizeof(u32) + m->pages / 8;
}

static bool index_init(struct bt *b, u64 meta)
{
    struct host *h = b->in.v->machine->host;
    struct bt_cache *m = &b->cache;
    for (m->slots = 1024; m->slots < meta / RECORD_MIN; m->slots *= 2)
        ;
    m->pages = m->slots / BLOCKS_A_PAGE;
    m->by_address = h->ops->mem_alloc(h->self, "bt-index", index_size(m));
    if (!m->by_address)
        return false;
    m->by_page = (u32 *)(m->by_address + m->slots);
    m->seen = m->by_page + m->pages;
    return true;
}

int codecache_init(struct bt *b, u64 size)
{
    struct host *h = b->in.v->machine->host;
    struct bt_cache *m = &b->cache;
    _Static_assert(sizeof(struct bt_jump) == 32, "glue_emit_jump() shifts by it");
    u64 code = round_up(size * 2 / 3, 4096), meta = round_up(size - size * 2 / 3, 4096);
    u64 fixed = round_up(sizeof(struct bt_ctx), 4096) +
                ARRAY_LEN(b->ctx->jump) * round_up(BT_JUMPS * sizeof(struct bt_jump), 4096) + 2 * BT_STACK;
    if (!h->ops->code_alloc)
        return -95; // -EOPNOTSUPP
    if (size > BT_CACHE_MAX)
        return -27; // -EFBIG
    int err = h->ops->code_alloc(h->self, "bt-code", code + 4096, fixed + meta, NULL, &m->mem);
    if (err)
        return err;
    if (!index_init(b, meta)) {
        codecache_fini(b);
        return -12; // -ENOMEM
    }
    u32 at = 0;
    u64 where;
    place(b, &at, sizeof(struct bt_ctx), &where);
    b->ctx = (struct bt_ctx *)where;
    for (unsigned i = 0; i < ARRAY_LEN(b->ctx->jump); i++)
        place(b, &at, BT_JUMPS * sizeof(struct bt_jump), &b->ctx->jump[i]);
    for (unsigned user = 0; user < 2; user++) {
        place(b, &at, BT_STACK, &where);
        b->ctx->sp_limit[user] = where + BT_STACK_RESERVE;
        b->ctx->sp_top[user] = where + BT_STACK - 64;
    }
    u32 glue = glue_emit(b);
    if (!glue) {
        codecache_fini(b);
        return -12; // -ENOMEM
    }
    if (h->names_code)
        h->ops->code_name(h->self, m->mem.exec, glue, "bt:glue");
    for (unsigned user = 0; user < 2; user++)
        *(u64 *)b->ctx->sp_top[user] = b->glue_ret[bt_number(true, user)];
    m->code_part = (u32)(code / BT_PARTS) & ~63u;
    m->hot_part = m->code_part / 8 * 5 & ~63u;
    m->meta_part = (u32)((m->mem.near_size - at) / BT_PARTS) & ~63u;
    for (u32 i = 0; i < BT_PARTS; i++)
        m->part[i] = (struct bt_part){.code = glue + i * m->code_part,
                                      .cold = glue + i * m->code_part + m->hot_part,
                                      .meta = at + i * m->meta_part};
    codecache_flush(b);
    return 0;
}

void codecache_fini(struct bt *b)
{
    struct host *h = b->in.v->machine->host;
    struct bt_cache *m = &b->cache;
    if (m->mem.exec)
        h->ops->code_free(h->self, &m->mem);
    if (m->by_address)
        h->ops->mem_free(h->self, m->by_address, index_size(m));
    m->by_address = NULL;
}

// Jumps into [from, to) of the code memory, and all returns.
static void forget_jumps(struct bt *b, u32 from, u32 to)
{
    for (unsigned t = 0; t < ARRAY_LEN(b->ctx->jump); t++) {
        struct bt_jump *j = (struct bt_jump *)b->ctx->jump[t];
        for (unsigned i = 0; i < BT_JUMPS; i++)
            if (!j[i].code || j[i].code - bt_exec(b, from) < to - from)
                j[i] = (struct bt_jump){.rip = TLB_INVALID};
    }
    b->ctx->sp = b->ctx->sp_top[0];
    b->ctx->sp_other = b->ctx->sp_top[1];
    memset(b->alones, 0, sizeof b->alones);
}

void codecache_flush(struct bt *b)
{
    struct bt_cache *m = &b->cache;
    memset(m->by_address, 0, index_size(m));
    m->blocks = 0;
    m->changes++;
    for (unsigned i = 0; i < BT_PARTS; i++)
        m->part[i].code_used = m->part[i].cold_used = m->part[i].meta_used = 0;
    m->now = 0;
    b->unlinked = 0;
    adapt_forget(b, 0, ~0u);
    forget_jumps(b, 0, (u32)m->mem.size);
}

// --- the hash table -----------------------------------------------------------------------------------------------------------

struct bt_block *codecache_find(const struct bt *b, hva page, unsigned off, unsigned mode, hva page2)
{
    const struct bt_cache *m = &b->cache;
    u32 hash = hash_address(page, off);
    for (u32 i = hash & (m->slots - 1); m->by_address[i].block; i = (i + 1) & (m->slots - 1)) {
        if (m->by_address[i].hash != hash)
            continue;
        struct bt_block *k = bt_near(b, m->by_address[i].block);
        if (k->page == page && k->off == off && k->mode == mode && (!k->second || bt_page2(k) == page2))
            return k;
    }
    return NULL;
}

static void slot_add(struct bt_cache *m, u32 hash, u32 block)
{
    u32 i = hash & (m->slots - 1);
    while (m->by_address[i].block)
        i = (i + 1) & (m->slots - 1);
    m->by_address[i] = (struct bt_slot){hash, block};
    m->blocks++;
}

// Empty a slot; what follows it and would not be found behind a free one moves up.
static void slot_empty(struct bt_cache *m, u32 hole)
{
    struct bt_slot *s = m->by_address;
    for (u32 i = (hole + 1) & (m->slots - 1); s[i].block; i = (i + 1) & (m->slots - 1)) {
        u32 from_home = (i - s[i].hash) & (m->slots - 1);
        if (from_home >= ((i - hole) & (m->slots - 1))) {
            s[hole] = s[i];
            hole = i;
        }
    }
    s[hole].block = 0;
    m->blocks--;
}

static void slot_remove(struct bt_cache *m, u32 hash, u32 block)
{
    u32 i = hash & (m->slots - 1);
    while (m->by_address[i].block != block)
        i = (i + 1) & (m->slots - 1);
    slot_empty(m, i);
}

// --- lists of pages -------------------------------------------------------------------------------------------------------------

#define SECOND 1u

static struct bt_block *block_of_member(const struct bt *b, u32 member)
{
    return bt_near(b, member & ~SECOND);
}

static u32 *member_peer(struct bt_block *k, u32 member)
{
    return member & SECOND ? &bt_second(k)->peer : &k->peer;
}

static hva member_page(const struct bt_block *k, u32 member)
{
    return member & SECOND ? bt_second(k)->page : k->page;
}

// Does it have bytes in [off, off+len) of that page?
static bool member_overlaps(const struct bt_block *k, u32 member, unsigned off, unsigned len)
{
    if (member & SECOND)
        return off + MEM_PAGE_SIZE < k->end;
    return k->off < off + len && off < k->end;
}

static void put_on_page(struct bt *b, u32 member)
{
    struct bt_block *k = block_of_member(b, member);
    u32 *head = &b->cache.by_page[hash_page(&b->cache, member_page(k, member))];
    b->cache.changes++;
    *member_peer(k, member) = *head;
    *head = member;
}

static void take_off_page(struct bt *b, u32 member)
{
    struct bt_block *k = block_of_member(b, member);
    u32 *at = &b->cache.by_page[hash_page(&b->cache, member_page(k, member))];
    while (*at != member)
        at = member_peer(block_of_member(b, *at), *at);
    *at = *member_peer(k, member);
}

void codecache_add(struct bt *b, struct bt_block *k)
{
    u32 self = bt_distance(b, k);
    slot_add(&b->cache, hash_address(k->page, k->off), self);
    put_on_page(b, self);
    if (k->second)
        put_on_page(b, self | SECOND);
}

// --- forgetting -----------------------------------------------------------------------------------------------------------------

// The block is in no table any more, but for the jump tables: its entry leads to the look-up, with ctx.target set. Whoever still runs it
// finds its way out, but cannot be sent back to its start.
static void kill(struct bt *b, struct bt_block *k)
{
    b->cache.changes++;
    slot_remove(&b->cache, hash_address(k->page, k->off), bt_distance(b, k));
    link_cut_incoming(b, k);
    link_cut_outgoing(b, k);
    k->page = 0;
    const struct host_code *m = &b->cache.mem;
    const struct emit e = {.to_exec = (u64)m->exec - (u64)m->write};
    u8 *jump = m->write + (k->entry_slot - (u64)m->exec);
    *jump = 0xe9;
    emit_patch(&e, jump + 1, b->glue[BT_LOOKUP]);
}

void codecache_kill(struct bt *b, struct bt_block *k)
{
    if (!k->page)
        return;
    take_off_page(b, bt_distance(b, k));
    if (k->second)
        take_off_page(b, bt_distance(b, k) | SECOND);
    kill(b, k);
}

bool codecache_drop(struct bt *b, hva page, unsigned off, unsigned len, u64 *dropped)
{
    u32 *head = &b->cache.by_page[hash_page(&b->cache, page)], *at = head;
    bool left = false;
    while (*at) {
        u32 member = *at;
        struct bt_block *k = block_of_member(b, member);
        bool here = member_page(k, member) == page;
        if (!here || !member_overlaps(k, member, off, len)) {
            left |= here;
            at = member_peer(k, member);
            continue;
        }
        *at = *member_peer(k, member);
        if (k->second) {
            take_off_page(b, member ^ SECOND);
            at = head; // that may have been where we were
            left = false;
        }
        kill(b, k);
        ++*dropped;
    }
    return left;
}

// The lines of a page that [off, end) has bytes in, end not beyond the page.
static u64 lines(unsigned off, unsigned end)
{
    return ~0ull >> (63 - (end - 1) / BT_LINE) & ~0ull << off / BT_LINE;
}

_Static_assert(MEM_PAGE_SIZE / BT_LINE == 64, "there is a bit for each line");

// Those that a block has bytes in.
static u64 member_lines(const struct bt_block *k, u32 member)
{
    if (member & SECOND)
        return lines(0, k->end - MEM_PAGE_SIZE);
    return lines(k->off, k->end < MEM_PAGE_SIZE ? k->end : MEM_PAGE_SIZE);
}

static u64 lines_with_code(const struct bt *b, hva page)
{
    u64 all = 0;
    for (u32 member = b->cache.by_page[hash_page(&b->cache, page)]; member;) {
        struct bt_block *k = block_of_member(b, member);
        if (member_page(k, member) == page)
            all |= member_lines(k, member);
        member = *member_peer(k, member);
    }
    return all;
}

static bool overlaps(const struct bt *b, hva page, unsigned off, unsigned len)
{
    for (u32 member = b->cache.by_page[hash_page(&b->cache, page)]; member;) {
        struct bt_block *k = block_of_member(b, member);
        if (member_page(k, member) == page && member_overlaps(k, member, off, len))
            return true;
        member = *member_peer(k, member);
    }
    return false;
}

// Pages that are both written to and run are few, and asked about again and again.
bool codecache_spares(struct bt *b, hva page, unsigned off, unsigned len)
{
    struct bt_lines *l = &b->cache.lines[page / MEM_PAGE_SIZE % BT_LINES];
    if (l->page != page || l->changes != b->cache.changes)
        *l = (struct bt_lines){page, b->cache.changes, lines_with_code(b, page)};
    return l->code && (!(l->code & lines(off, off + len)) || !overlaps(b, page, off, len));
}

static bool is_in(const struct bt_part *p, u32 record)
{
    return record - p->meta < p->meta_used;
}

// Lists have the latest first, and the part that is emptied is the oldest: what is in it ends them. Each list is looked through once.
static void shorten_list(struct bt *b, const struct bt_part *p, hva page)
{
    struct bt_cache *m = &b->cache;
    unsigned n = hash_page(m, page);
    if (m->seen[n / 32] >> n % 32 & 1)
        return;
    m->seen[n / 32] |= 1u << n % 32;
    u32 *at = &m->by_page[n];
    while (*at && !is_in(p, *at))
        at = member_peer(block_of_member(b, *at), *at);
    *at = 0;
}

static void evict(struct bt *b, struct bt_part *p)
{
    struct bt_cache *m = &b->cache;
    m->changes++;
    memset(m->seen, 0, m->pages / 8);
    for (u32 at = 0; at < p->meta_used;) {
        struct bt_block *k = bt_near(b, p->meta + at);
        at += k->bytes;
        if (!k->page)
            continue;
        shorten_list(b, p, k->page);
        if (k->second)
            shorten_list(b, p, bt_page2(k));
        link_cut_outside(b, k, p->meta, p->meta + p->meta_used);
    }
    for (u32 i = 0; i < m->slots; i++) {
        while (m->by_address[i].block && is_in(p, m->by_address[i].block))
            slot_empty(m, i);
    }
    adapt_forget(b, p->meta, p->meta + p->meta_used);
    p->code_used = p->cold_used = p->meta_used = 0;
    b->unlinked = 0;
    forget_jumps(b, p->code, p->code + m->code_part);
    b->stats.evictions++;
}

void codecache_room(struct bt *b, u32 code, u32 cold, u32 meta)
{
    struct bt_cache *m = &b->cache;
    struct bt_part *p = &m->part[m->now];
    if (p->code_used + code <= m->hot_part && p->cold_used + cold <= m->code_part - m->hot_part &&
        p->meta_used + meta <= m->meta_part && m->blocks < m->slots / 8 * 7)
        return;
    m->now = (m->now + 1) % BT_PARTS;
    p = &m->part[m->now];
    if (p->meta_used)
        evict(b, p);
}
