// Memory for runs.
//
// The memory is cut into parts that are filled one after the other; when all are full the oldest part is emptied and filled
// again, so a working set that is too large costs a part at a time and not everything. A run that is forgotten because its code
// was written to stays where it is, marked dead, until its part is emptied.
//
// Direct branches hold pointers to the runs they lead to. Each run knows the cells that lead to it (a list through the cells),
// so that they can be unlinked when it goes. Cells are named by their distance from the start of the memory in units of 32
// bytes; number 0 is the first run's header, never a cell.
#include <string.h>

#include "engine/cache/cache.h"

#define HASH_BITS 15
#define HASH (1u << HASH_BITS)

static unsigned hash_address(hva page, unsigned off)
{
    return (unsigned)(((page >> 12) * 0x9e3779b97f4a7c15ull + off * 0xc2b2ae3d27d4eb4full) >> (64 - HASH_BITS));
}

static unsigned hash_page(hva page)
{
    return (unsigned)((page >> 12) * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS));
}

int store_init(struct cache *e, u64 size)
{
    struct host *h = e->in.v->machine->host;
    struct store *s = &e->store;
    s->size = size;
    s->part_size = size / STORE_PARTS & ~31ull;
    s->mem = h->ops->mem_alloc(h->self, "cache-runs", size);
    s->by_address = h->ops->mem_alloc(h->self, "cache-index", 2 * HASH * sizeof(struct run *));
    if (!s->mem || !s->by_address) {
        store_fini(e);
        return -12; // -ENOMEM
    }
    s->by_page = s->by_address + HASH;
    store_flush(e);
    return 0;
}

void store_fini(struct cache *e)
{
    struct host *h = e->in.v->machine->host;
    struct store *s = &e->store;
    if (s->mem)
        h->ops->mem_free(h->self, s->mem, s->size);
    if (s->by_address)
        h->ops->mem_free(h->self, s->by_address, 2 * HASH * sizeof(struct run *));
    s->mem = NULL;
    s->by_address = NULL;
}

static void forget_jumps(struct cache *e)
{
    for (unsigned i = 0; i < JUMPS; i++)
        e->jump[i] = (struct jump){.rip = TLB_INVALID};
}

void store_flush(struct cache *e)
{
    struct store *s = &e->store;
    memset(s->by_address, 0, 2 * HASH * sizeof(struct run *));
    memset(s->used, 0, sizeof s->used);
    s->part = 0;
    forget_jumps(e);
}

struct run *store_find(const struct cache *e, hva page, unsigned off, unsigned mode)
{
    struct run *r = e->store.by_address[hash_address(page, off)];
    while (r && (r->page != page || r->off != off || r->mode != mode))
        r = r->chain;
    return r;
}

void store_add(struct cache *e, struct run *r)
{
    struct run **head = &e->store.by_address[hash_address(r->page, r->off)];
    r->chain = *head;
    *head = r;
    head = &e->store.by_page[hash_page(r->page)];
    r->peer = *head;
    *head = r;
    e->stats.runs++;
    e->stats.insns += r->n;
}

// --- links --------------------------------------------------------------------------------------------------------------

static u32 cell_number(const struct cache *e, const struct cell *o)
{
    return (u32)(((const u8 *)o - e->store.mem) / sizeof(struct cell));
}

static struct cell *cell_at(const struct cache *e, u32 number)
{
    return (struct cell *)(void *)(e->store.mem + (u64)number * sizeof(struct cell));
}

struct run *store_run_of(const struct cell *o)
{
    return (struct run *)((u8 *)(o - o->scale) - offsetof(struct run, cell));
}

static void unlink_cell(struct cache *e, struct cell *o)
{
    u32 number = cell_number(e, o);
    u32 *at = &o->link->links_in;
    while (*at != number)
        at = &cell_at(e, *at)->next_in;
    *at = o->next_in;
    o->link = NULL;
    o->next_in = 0;
}

void store_link(struct cache *e, struct cell *o, struct run *to)
{
    if (o->link)
        unlink_cell(e, o);
    o->link = to;
    o->next_in = to->links_in;
    to->links_in = cell_number(e, o);
    e->stats.links++;
}

static void unlink_incoming(struct cache *e, struct run *r)
{
    for (u32 number = r->links_in; number;) {
        struct cell *o = cell_at(e, number);
        number = o->next_in;
        o->link = NULL;
        o->next_in = 0;
    }
    r->links_in = 0;
}

static bool is_direct(const struct cell *o)
{
    return o->seg == CELL_DIRECT;
}

static void unlink_outgoing(struct cache *e, struct run *r)
{
    for (unsigned i = 0; i < r->cells; i++) {
        if (is_direct(&r->cell[i]) && r->cell[i].link)
            unlink_cell(e, &r->cell[i]);
    }
}

// --- forgetting ---------------------------------------------------------------------------------------------------------

static void take_off_address(struct cache *e, struct run *r)
{
    struct run **at = &e->store.by_address[hash_address(r->page, r->off)];
    while (*at != r)
        at = &(*at)->chain;
    *at = r->chain;
}

static void take_off_page(struct cache *e, struct run *r)
{
    struct run **at = &e->store.by_page[hash_page(r->page)];
    while (*at != r)
        at = &(*at)->peer;
    *at = r->peer;
}

// The run is in no table any more; whoever still runs it finds its way out.
static void kill(struct cache *e, struct run *r)
{
    take_off_address(e, r);
    unlink_incoming(e, r);
    unlink_outgoing(e, r);
    r->mode = RUN_DEAD;
}

bool store_drop(struct cache *e, hva page, unsigned off, unsigned len, u64 *dropped)
{
    struct run **at = &e->store.by_page[hash_page(page)];
    bool left = false;
    while (*at) {
        struct run *r = *at;
        if (r->page != page) {
            at = &r->peer;
        } else if (r->off < off + len && off < r->end) {
            *at = r->peer;
            kill(e, r);
            ++*dropped;
        } else {
            left = true;
            at = &r->peer;
        }
    }
    return left;
}

static void evict_part(struct cache *e, unsigned part)
{
    struct store *s = &e->store;
    u8 *base = s->mem + part * s->part_size;
    for (u64 at = 0; at < s->used[part];) {
        struct run *r = (struct run *)(void *)(base + at);
        at += r->bytes;
        if (r->mode == RUN_DEAD)
            continue;
        take_off_page(e, r);
        kill(e, r);
    }
    s->used[part] = 0;
    forget_jumps(e);
    e->stats.evictions++;
}

struct run *store_alloc(struct cache *e, unsigned cells, unsigned extras, struct extra **extra)
{
    struct store *s = &e->store;
    u64 head = sizeof(struct run) + cells * sizeof(struct cell);
    u64 bytes = (head + extras * sizeof(struct extra) + 31) & ~31ull;
    if (s->used[s->part] + bytes > s->part_size) {
        s->part = (s->part + 1) % STORE_PARTS;
        if (s->used[s->part])
            evict_part(e, s->part);
    }
    u8 *p = s->mem + s->part * s->part_size + s->used[s->part];
    s->used[s->part] += bytes;
    struct run *r = (struct run *)(void *)p;
    memset(r, 0, sizeof *r);
    r->bytes = bytes;
    r->cells = (u16)cells;
    *extra = (struct extra *)(void *)(p + head);
    return r;
}
