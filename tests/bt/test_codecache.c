// The store of blocks under random operations: translate, find, link, drop, kill, evict, flush; the whole structure is looked through in between.
// And which status flags analyse.c takes to be looked at, on small pieces of code.
//
// The seed is printed; POGO_SEED repeats it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "lib/testvm.h"

#include "engine/bt/translate.h"

#define PAGES 12
#define FIRST 4 // page number of the first one
#define ROUNDS 30000
#define CHECK_EVERY 50

static struct testvm *vm;
static struct bt *b;
static u64 seed;

static u64 rnd(u64 n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (seed >> 11) % n;
}

// --- looking through -------------------------------------------------------------------------------------------------------------

static u64 lead_to(const struct bt_link *l)
{
    i32 rel;

    memcpy(&rel, b->cache.mem.write + l->jump, 4);
    return bt_exec(b, l->jump + 4) + (u64)(i64)rel;
}

static bool is_in(const struct bt_block *to, const struct bt_link *l)
{
    unsigned n = 0;

    for (u32 at = to->links_in; at; at = ((struct bt_link *)bt_near(b, at))->next_in) {
        n += at == bt_distance(b, l);
        assert_int_equal(((struct bt_link *)bt_near(b, at))->to, bt_distance(b, to));
    }
    assert_true(n <= 1);
    return n;
}

static void check_block(struct bt_block *k)
{
    assert_int_not_equal(k->page, 0);
    assert_ptr_equal(codecache_find(b, k->page, k->off, k->mode, bt_page2(k)), k);
    for (unsigned i = 0; i < k->links; i++) {
        const struct bt_link *l = &bt_links(k)[i];
        if (!l->jump)
            continue;
        assert_int_equal(l->from, bt_distance(b, k));
        if (!l->to) {
            assert_int_equal(lead_to(l), bt_exec(b, l->stub));
            continue;
        }
        const struct bt_block *to = bt_near(b, l->to);
        u64 at = lead_to(l);
        assert_int_not_equal(to->page, 0);
        assert_true(is_in(to, l));
        assert_true(at == to->entry_slot || at == bt_exec(b, to->code + to->entry_host) ||
                    at == bt_exec(b, to->code + to->entry_both) ||
                    (l->flags == FLAGS_RECIPE && at == bt_exec(b, l->stub + LINK_STUB)));
    }
}

// Page lists have live blocks and nothing else.
static void check_lists(unsigned live)
{
    unsigned first = 0;

    for (unsigned i = 0; i < b->cache.pages; i++)
        for (u32 at = b->cache.by_page[i]; at;) {
            const struct bt_block *k = bt_near(b, at & ~1u);
            assert_int_not_equal(k->page, 0);
            first += !(at & 1);
            at = at & 1 ? bt_second(k)->peer : k->peer;
        }
    assert_int_equal(first, live);
}

// Every live block is found by its address, and is in the list of its page. Returns how many there are.
static unsigned check_all(void)
{
    unsigned by_address = 0, by_page = 0;

    for (unsigned i = 0; i < b->cache.slots; i++)
        if (b->cache.by_address[i].block) {
            check_block(bt_near(b, b->cache.by_address[i].block));
            by_address++;
        }
    for (unsigned p = 0; p < BT_PARTS; p++)
        for (u32 at = 0; at < b->cache.part[p].meta_used;) {
            const struct bt_block *k = bt_near(b, b->cache.part[p].meta + at);
            by_page += k->page != 0;
            at += k->bytes;
        }
    assert_int_equal(by_address, by_page);
    assert_int_equal(by_address, b->cache.blocks);
    check_lists(by_page);
    return by_address;
}

// --- operations ------------------------------------------------------------------------------------------------------------------

static struct bt_block *kept[256]; // some blocks, alive or not; checked before use
static struct {
    hva page;
    u16 off;
} where[256];

static hva host_page(unsigned n)
{
    return (hva)vm->ram + (FIRST + n) * 4096ull;
}

// A block that was translated before and is still there.
static struct bt_block *some_block(void)
{
    unsigned i = (unsigned)rnd(ARRAY_LEN(kept));

    return kept[i] ? codecache_find(b, where[i].page, where[i].off, b->mode, 0) : NULL;
}

static void do_translate(void)
{
    unsigned n = (unsigned)rnd(PAGES), off = (unsigned)rnd(4000), i = (unsigned)rnd(ARRAY_LEN(kept));
    struct bt_block *k = codecache_find(b, host_page(n), off, b->mode, 0);

    b->ctx->page_base = (FIRST + n) * 4096ull;
    if (!k)
        k = translate(b, b->ctx->page_base + off, b->mode, host_page(n), (FIRST + n) * 4096ull, NULL);
    if (!k || k->second)
        return;
    assert_ptr_equal(codecache_find(b, host_page(n), off, b->mode, 0), k);
    kept[i] = k;
    where[i].page = host_page(n);
    where[i].off = (u16)off;
}

static void do_link(void)
{
    struct bt_block *from = some_block(), *to = some_block();

    if (!from || !to)
        return;
    for (unsigned i = 0; i < from->links; i++)
        if (bt_links(from)[i].jump && rnd(2))
            link_make(b, &bt_links(from)[i], to);
}

static void do_drop(void)
{
    unsigned n = (unsigned)rnd(PAGES), off = (unsigned)rnd(4096), len = 1 + (unsigned)rnd(rnd(4) ? 16 : 4096 - off);
    unsigned overlap = 0, rest = 0;
    u64 dropped = 0;
    u32 before = b->cache.blocks;

    bool left = codecache_drop(b, host_page(n), off, len, &dropped);
    for (unsigned i = 0; i < b->cache.slots; i++)
        if (b->cache.by_address[i].block) {
            const struct bt_block *k = bt_near(b, b->cache.by_address[i].block);
            if (k->page != host_page(n))
                continue;
            overlap += k->off < off + len && off < k->end;
            rest++;
        }
    assert_int_equal(overlap, 0);
    assert_int_equal(dropped, before - b->cache.blocks);
    if (rest)
        assert_true(left);
}

static void do_kill(void)
{
    struct bt_block *k = some_block();

    if (k)
        codecache_kill(b, k);
}

static void random_operations(void **state)
{
    unsigned most = 0;

    (void)state;
    for (unsigned n = 0; n < ROUNDS; n++) {
        unsigned what = (unsigned)rnd(1000);
        if (what < 600)
            do_translate();
        else if (what < 900)
            do_link();
        else if (what < 970)
            do_drop();
        else if (what < 999)
            do_kill();
        else if (what == 999 && !rnd(8))
            codecache_flush(b);
        if (n % CHECK_EVERY == 0) {
            unsigned live = check_all();
            most = live > most ? live : most;
        }
    }
    check_all();
    assert_true(most > 100);
    assert_true(b->stats.evictions > 2);
}

// --- flags ------------------------------------------------------------------------------------------------------------------------

static void flags(void **state)
{
    static struct tr t;
    static const struct {
        const char *code;
        unsigned n, at;
        u32 seen;
    } cases[] = {
        {"\x01\xd8\x29\xd8", 2, 0, 0},                                 // add; sub: nobody sees those before
        {"\x01\xd8\x29\xd8", 2, 1, 0},                                 // nor those of the addition
        {"\x11\xd8\x29\xd8", 2, 0, X86_FL_CF},                         // adc
        {"\xff\xc0\xff\xc0", 2, 1, X86_FL_CF},                         // inc; inc: the carry stays
        {"\x89\xd8\x90", 2, 0, X86_FL_STATUS},                         // mov; nop: the block is left with them
        {"\x01\xd8\x8b\x03\x29\xd8", 3, 1, X86_FL_STATUS},             // a load may fault and show them
        {"\x01\xd8\x8d\x03\x29\xd8", 3, 1, 0},                         // lea does not
        {"\x01\xd8\x0f\x94\xc0\x29\xd8", 3, 1, X86_FL_ZF},             // setz
        {"\x01\xd8\x0f\x4c\xc3\x29\xd8", 3, 1, X86_FL_SF | X86_FL_OF}, // cmovl
        {"\x01\xd8\xd3\xe0", 2, 1, X86_FL_STATUS},                     // shl by cl: perhaps by 0
        {"\x01\xd8\xc1\xe0\x03\x29\xd8", 3, 1, 0},                     // shl by 3
        {"\x01\xd8\x74\x00", 2, 1, X86_FL_STATUS},                     // jz leaves
    };

    (void)state;
    b->host_flags.shifts_clean = b->host_flags.imul_clean = true;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        u8 code[64];
        memset(code, 0x90, sizeof(code));
        memcpy(code, cases[i].code, strlen(cases[i].code) + (cases[i].code[strlen(cases[i].code)] ? 0 : 1));
        memset(&t, 0, sizeof(t));
        t.b = b;
        t.wide = true;
        b->limit = cases[i].n;
        analyse(&t, code, sizeof(code), 0);
        assert_int_equal(t.n, cases[i].n);
        if (t.insn[cases[i].at].seen != cases[i].seen)
            print_message("case %zu\n", i);
        assert_int_equal(t.insn[cases[i].at].seen, cases[i].seen);
    }
    b->limit = BT_INSNS;
}

// Code of every kind of length, with branches.
static void fill(void)
{
    static const char *const pieces[] = {
        "\x01\xd8", "\x8b\x03", "\x48\x89\x43\x08", "\x75\xf0", "\xeb\x10", "\xe8\x00\x10\x00\x00",
        "\xc3",     "\x90",     "\xff\xe0",         "\x0f\xa2"};
    static const u8 lengths[] = {2, 2, 4, 2, 2, 5, 1, 1, 2, 2};

    for (unsigned at = FIRST * 4096; at < (FIRST + PAGES) * 4096;) {
        unsigned i = (unsigned)rnd(ARRAY_LEN(pieces));
        memcpy(vm->ram + at, pieces[i], lengths[i]);
        at += lengths[i];
    }
}

static int setup(void **state)
{
    const char *given = getenv("POGO_SEED");

    (void)state;
    seed = given ? strtoull(given, NULL, 0) : (u64)time(NULL) * 0x9e3779b97f4a7c15ull | 1;
    print_message("POGO_SEED=0x%llx\n", (unsigned long long)seed);
    vm = testvm_create("cache", 1 << 20, NULL);
    vm->v->engine->vcpu_destroy(vm->v);
    vm->v->engine = engine_find("bt");
    vm->machine->tuning.memory = 1 << 20;
    assert_int_equal(vm->v->engine->vcpu_create(vm->v), 0);
    b = vm->v->engine_state;
    b->mode = ISA_MODE_64 | BLOCK_FLAT;
    b->in.mode = ISA_MODE_64;
    fill();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    testvm_destroy(vm);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(flags), cmocka_unit_test(random_operations)};

    return cmocka_run_group_tests(tests, setup, teardown);
}
