// What the translator counts, as text for `info bt` and `info stats`.
#include <stdarg.h>
#include <stdio.h>

#include "engine/bt/bt.h"

#define N(x) ((unsigned long long)(x))
#define STEPPED_SHOWN 12
#define SITES_SHOWN 8

struct text {
    char *at, *end;
};

__attribute__((format(printf, 2, 3))) static void say(struct text *t, const char *fmt, ...)
{
    size_t room = (size_t)(t->end - t->at);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at, room, fmt, ap);
    va_end(ap);
    t->at += (size_t)n < room ? (size_t)n : room - 1;
}

static const char *operation_name(unsigned op)
{
    for (unsigned f = 0; f < ISA_FORM_COUNT; f++)
        if (isa_forms[f].op == op)
            return isa_forms[f].name;
    return "?";
}

// The operations that were stepped most often.
static void report_stepped(const struct bt *b, struct text *t)
{
    u64 below = ~0ull;
    unsigned last = ISA_OP_COUNT;
    for (unsigned rank = 0; rank < STEPPED_SHOWN; rank++) {
        unsigned best = ISA_OP_COUNT;
        u64 most = 0;
        for (unsigned op = 0; op < ISA_OP_COUNT; op++) {
            u64 k = b->stepped[op].loop + b->stepped[op].inside;
            bool shown = k > below || (k == below && op <= last);
            if (!shown && k > most) {
                best = op;
                most = k;
            }
        }
        if (!most)
            break;
        say(t, "  %-10s %llu, of which outside blocks %llu\n", operation_name(best), N(most), N(b->stepped[best].loop));
        below = most;
        last = best;
    }
}

static void report_cache(const struct bt *b, struct text *t)
{
    const struct bt_cache *m = &b->cache;
    const struct bt_stats *s = &b->stats;
    u64 code = 0, meta = 0;
    for (unsigned i = 0; i < BT_PARTS; i++) {
        code += m->part[i].code_used;
        meta += m->part[i].meta_used;
    }
    say(t,
        "code cache: %llu of %llu KiB of code and %llu of %llu KiB of records used; parts evicted %llu; emptied %llu times\n",
        N(code >> 10), N((u64)m->code_part * BT_PARTS >> 10), N(meta >> 10), N((u64)m->meta_part * BT_PARTS >> 10),
        N(s->evictions), N(b->keeper.flushes));
    say(t, "blocks dropped by writes to code %llu; pages left alone for that %llu\n", N(b->keeper.dropped),
        N(b->keeper.left_alone));
}

// Why translated code was left for C, which costs a hundred cycles or more.
static void report_reasons(const struct bt *b, struct text *t)
{
    const struct bt_stats *s = &b->stats;
    say(t,
        "TLB misses %llu: filled %llu, access across pages %llu, device or unbacked %llu, page with code %llu, fault %llu; "
        "groups of accesses that failed %llu\n",
        N(s->why[BT_MISS]), N(s->refills), N(s->crossings), N(s->devices), N(s->code_writes), N(s->faults),
        N(s->unshared));
    say(t, "branches without a link %llu, of which links were made %llu; indirect branches not in the table %llu\n",
        N(s->why[BT_LINK]), N(s->links), N(s->why[BT_LOOKUP]));
    say(t, "execution keys changed %llu times\n", N(s->keys));
    say(t,
        "left for other reasons %llu, for the budget %llu; vector state loaded %llu times\n"
        "past the interpreter: page faults %llu, other exceptions %llu, INT n %llu, interrupts %llu, IRETs %llu, system instructions %llu\n",
        N(s->why[BT_LEAVE]), N(s->why[BT_BUDGET]), N(s->vec_loads), N(s->page_faults), N(s->exceptions),
        N(s->soft_ints), N(s->interrupts), N(s->irets), N(s->light));
}

// --- sites that are slow -----------------------------------------------------------------------------------------------------------

static const char *const reasons[ADAPT_REASONS] = {
    [ADAPT_DEVICE] = "device", [ADAPT_CROSSING] = "page end", [ADAPT_CODE] = "code", [ADAPT_PORT] = "port"};
static const char *const states[] = {[ADAPT_COUNTED] = "", [ADAPT_SPECIAL] = ", special", [ADAPT_NO_WAY] = ", no way"};

static u64 times_slow(const struct adapt_site *a)
{
    u64 n = 0;
    for (unsigned i = 0; i < ADAPT_REASONS; i++)
        n += a->count[i];
    return n;
}

static void report_site(const struct adapt_site *a, struct text *t)
{
    say(t, "  %llx %s", N(a->rip), isa_op_names[a->op]);
    for (unsigned i = 0; i < ADAPT_REASONS; i++)
        if (a->count[i])
            say(t, ", %s %llu", reasons[i], N(a->count[i]));
    say(t, "%s\n", states[a->state]);
}

static void report_sites(const struct bt *b, struct text *t)
{
    const struct adapt *a = &b->adapt;
    const struct adapt_site *shown[SITES_SHOWN];
    unsigned n = 0, special = 0;
    for (unsigned i = 0; i < ARRAY_LEN(a->site); i++) {
        const struct adapt_site *s = &a->site[i];
        unsigned at = n;
        special += s->state == ADAPT_SPECIAL;
        while (at > 0 && times_slow(shown[at - 1]) < times_slow(s))
            at--;
        if (!s->rip || at == SITES_SHOWN)
            continue;
        n += n < SITES_SHOWN;
        for (unsigned k = n - 1; k > at; k--)
            shown[k] = shown[k - 1];
        shown[at] = s;
    }
    say(t, "slow accesses, past the interpreter and not:");
    for (unsigned i = 0; i < ADAPT_REASONS; i++)
        say(t, "%s %s %llu, %llu", i ? ";" : "", reasons[i], N(a->served[i]), N(a->slow[i]));
    say(t, "\nspecial sites %u; made %llu, reverted %llu, displaced %llu. Sites that are slow most often:\n", special,
        N(a->specialised), N(a->reverted), N(a->displaced));
    for (unsigned i = 0; i < n; i++)
        report_site(shown[i], t);
}

void stats_print(const struct bt *b, char *buf, size_t size)
{
    struct text t = {buf, buf + size};
    const struct bt_stats *s = &b->stats;
    u64 insns = s->insns ? s->insns : 1, blocks = s->blocks ? s->blocks : 1;
    if (!size)
        return;
    say(&t,
        "translated %llu blocks of %llu instructions, %llu.%llu each, to %llu bytes, %llu.%llu for an instruction, in %llu cycles for each\n",
        N(s->blocks), N(s->insns), N(s->insns / blocks), N(s->insns * 10 / blocks % 10), N(s->code_bytes),
        N(s->code_bytes / insns), N(s->code_bytes * 10 / insns % 10), N(s->cycles / insns));
    report_cache(b, &t);
    say(&t, "entered from the loop %llu times; blocks found in the index %llu times\n", N(s->entries), N(s->found));
    report_reasons(b, &t);
    say(&t, "instructions run by the interpreter %llu, and %llu from inside blocks:\n", N(s->steps), N(s->inner_steps));
    report_stepped(b, &t);
    report_sites(b, &t);
}
