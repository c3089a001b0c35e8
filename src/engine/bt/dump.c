// A translation as text: each guest instruction, and beside it what it became (-d bt, and the golden tests).
//
//     1000  add eax, [rbx]              9/41   lea r10, [rbx]
//                                              mov r11d, r10d
//     ...                                      add r11, [ctx.tlb]
//
// "9/41" are host instructions and bytes. What is rarely run is behind the block, under the number of the instruction that it belongs to.
// Addresses are shown by what is there, so that the same translation always gives the same text.
#include <stdio.h>
#include <stdlib.h>

#include "engine/bt/translate.h"
#include "isa/disasm.h"

#define TEXT 192
#define NAME 48

struct dump {
    struct tr *t;
    u64 page; // guest address of the page
    bool offsets;
    void (*line)(void *arg, const char *text);
    void *arg;
    unsigned labels;
    u64 label[64]; // where jumps inside the block go, but for tails
};

// --- names ------------------------------------------------------------------------------------------------------------------------

static const struct {
    const char *name;
    u16 off, size;
} context_fields[] = {
#define FIELD(f) \
    { \
#f, offsetof(struct bt_ctx, f), sizeof(((struct bt_ctx *)0)->f) \
    }
    FIELD(r10),        FIELD(r11),      FIELD(r15),       FIELD(page_base), FIELD(tlb),   FIELD(slot),
    FIELD(key_user),   FIELD(doorbell), FIELD(key_super), FIELD(why),       FIELD(left),  FIELD(site),
    FIELD(addr),       FIELD(target),   FIELD(ret_site),  FIELD(go),        FIELD(sp),    FIELD(sp_other),
    FIELD(sp_limit),   FIELD(sp_top),   FIELD(c_sp),      FIELD(gpr),       FIELD(jump),  FIELD(tmp),
    FIELD(kept),       FIELD(seg_base), FIELD(seg_flat),  FIELD(scratch),   FIELD(place), FIELD(vec),
    FIELD(host_mxcsr), FIELD(fip),      FIELD(fdp),       FIELD(fop),       FIELD(fseg),  FIELD(xstate_bv),
#undef FIELD
};

static const char *const why_names[BT_WHYS] = {
    [BT_MISS] = "miss",   [BT_STEP] = "step",     [BT_LEAVE] = "leave",   [BT_BUDGET] = "budget",
    [BT_LINK] = "link",   [BT_LOOKUP] = "lookup", [BT_VECTOR] = "vector", [BT_PORT] = "port",
    [BT_AFTER] = "after", [BT_LIGHT] = "light",   [BT_ADAPT] = "adapt",
};

_Static_assert(BT_WHYS == 11, "each has a name");

static bool name_context(u64 off, char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(context_fields); i++) {
        u64 in = off - context_fields[i].off;
        if (in >= context_fields[i].size)
            continue;
        if (context_fields[i].size > 8 || in)
            snprintf(name, NAME, "ctx.%s[%llu]", context_fields[i].name, (unsigned long long)in);
        else
            snprintf(name, NAME, "ctx.%s", context_fields[i].name);
        return true;
    }
    snprintf(name, NAME, "ctx+%llu", (unsigned long long)off);
    return off < sizeof(struct bt_ctx);
}

static const char *far_field(size_t off)
{
    return off == offsetof(struct bt_far, base) ? ".base" : off == offsetof(struct bt_far, page) ? ".page" : ".key";
}

// Records of the block, by their distance.
static bool name_record(const struct tr *t, u32 distance, char *name)
{
    struct bt *b = t->b;
    const u8 *p = bt_near(b, distance), *k = (const u8 *)t->k;
    const u8 *fars = (const u8 *)bt_fars(t->k), *links = (const u8 *)bt_links(t->k),
             *sites = (const u8 *)bt_sites(t->k);
    if (p < k || p >= sites + t->k->sites * sizeof(struct bt_site))
        return false;
    if (p >= sites)
        snprintf(name, NAME, "site%u", (unsigned)((size_t)(p - sites) / sizeof(struct bt_site)));
    else if (p >= links)
        snprintf(name, NAME, (size_t)(p - links) % sizeof(struct bt_link) ? "link%u+%u" : "link%u",
                 (unsigned)((size_t)(p - links) / sizeof(struct bt_link)),
                 (unsigned)((size_t)(p - links) % sizeof(struct bt_link)));
    else if (p >= fars)
        snprintf(name, NAME, "far%u%s", (unsigned)((size_t)(p - fars) / sizeof(struct bt_far)),
                 far_field((size_t)(p - fars) % sizeof(struct bt_far)));
    else
        snprintf(name, NAME, p == k ? "block" : "block+%u", (unsigned)(p - k));
    return true;
}

static void name_tail(const struct tr *t, unsigned n, char *name)
{
    static const char *const kinds[TAIL_KINDS] = {
        [TAIL_SERVICE] = "service", [TAIL_MISS] = "miss",   [TAIL_SP_RESET] = "reset", [TAIL_EDGE] = "edge",
        [TAIL_FAR] = "far",         [TAIL_RENEW] = "renew", [TAIL_LOOKUP] = "lookup",  [TAIL_CANONICAL] = "canonical"};
    const struct tail *l = &t->tail[n];
    unsigned same = 0;
    const char *kind = l->kind == TAIL_SERVICE && l->why < BT_WHYS ? why_names[l->why] : kinds[l->kind];
    for (unsigned i = 0; i < n; i++)
        same += t->tail[i].kind == l->kind && t->tail[i].why == l->why && t->tail[i].insn == l->insn;
    snprintf(name, NAME, same ? "%s.%u%c" : "%s.%u", kind, l->insn, 'a' + same);
}

static bool name_glue(const struct bt *b, u64 a, char *name)
{
    const struct {
        const char *name;
        u64 at;
    } others[] = {
        {"enter", b->glue_enter}, {"link, save flags", b->glue_link_host}, {"step, save flags", b->glue_step_host}};
    for (unsigned why = 0; why < BT_WHYS; why++) {
        if (b->glue[why] == a) {
            snprintf(name, NAME, "<%s>", why_names[why]);
            return true;
        }
    }
    for (unsigned n = 0; n < ARRAY_LEN(b->glue_far); n++) {
        const char *what = b->glue_far[n] == a      ? "far"
                           : b->glue_lookup[n] == a ? "lookup"
                           : b->glue_renew[n] == a  ? "renew"
                           : b->glue_ret[n] == a    ? "ret"
                                                    : NULL;
        if (what) {
            snprintf(name, NAME, "<%s%s%s>", what, n & 1 ? "32" : "", n & 2 ? ", user" : "");
            return true;
        }
    }
    for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
        if (others[i].at == a) {
            snprintf(name, NAME, "<%s>", others[i].name);
            return true;
        }
    }
    snprintf(name, NAME, "<glue+%llu>", (unsigned long long)(a - b->glue_enter));
    return a < bt_exec(b, b->cache.part[0].code);
}

// Where the code at an offset of the block's is in the code memory.
static u32 code_at(const struct tr *t, u32 at)
{
    return at < t->body ? t->k->code + at : (u32)(t->cold - t->b->cache.mem.write) + at - t->body;
}

static bool name_code(const struct dump *d, u64 a, char *name)
{
    const struct tr *t = d->t;
    for (unsigned i = 0; i < t->tails; i++) {
        if (t->tail[i].at < t->tail[i].end && bt_exec(t->b, code_at(t, t->tail[i].at)) == a) {
            name_tail(t, i, name);
            return true;
        }
    }
    for (unsigned i = 0; i < d->labels; i++) {
        if (d->label[i] == a) {
            snprintf(name, NAME, "L%u", i);
            return true;
        }
    }
    return name_glue(t->b, a, name);
}

static bool name_address(const struct dump *d, u64 a, char *name)
{
    extern char __executable_start[], etext[];
    const struct bt *b = d->t->b;
    u64 near = (u64)b->cache.mem.near, exec = (u64)b->cache.mem.exec;
    if (a >= near && a < exec)
        return name_context(a - near, name) || name_record(d->t, (u32)(a - near), name);
    if (a >= exec && a < exec + b->cache.mem.size)
        return name_code(d, a, name);
    snprintf(name, NAME, a == (u64)b ? "bt" : "function");
    return a == (u64)b || (a >= (u64)__executable_start && a < (u64)etext);
}

// --- host instructions ----------------------------------------------------------------------------------------------------------

// Is this number the distance of a record? Those are loaded into one register, or left for a fault of RET.
static bool holds_record(const char *text)
{
    return strncmp(text, "mov r11d, ", 10) == 0 || strstr(text, "[ctx.ret_site]") || strstr(text, "[ctx.site]");
}

// Addresses in the text become names.
static void symbolic(const struct dump *d, const char *in, char *out)
{
    char *const start = out, *const end = out + TEXT - NAME - 1;
    while (*in && out < end) {
        char *rest, name[NAME];
        if (in[0] != '0' || in[1] != 'x') {
            *out++ = *in++;
            continue;
        }
        u64 v = strtoull(in, &rest, 16);
        *out = 0;
        if (name_address(d, v, name) || (holds_record(start) && name_record(d->t, (u32)v, name)))
            out += snprintf(out, NAME, "%s", name);
        else
            out += snprintf(out, NAME, v < 10 ? "%llu" : "0x%llx", (unsigned long long)v);
        in = rest;
    }
    *out = 0;
}

// One host instruction at an offset of the block's code. Returns its length.
static unsigned host_insn(const struct dump *d, u32 at, char *text)
{
    const struct tr *t = d->t;
    u32 where = code_at(t, at);
    u32 room = (at < t->body ? t->body : t->size) - at;
    char raw[TEXT];
    size_t len = isa_disasm(t->b->cache.mem.write + where, room, ISA_MODE_64, bt_exec(t->b, where), raw, sizeof raw);
    symbolic(d, raw, text);
    return len ? (unsigned)len : 1;
}

// Number the places that jumps inside the block lead to.
static void find_labels(struct dump *d)
{
    struct tr *t = d->t;
    const u64 start = bt_exec(t->b, t->k->code), apart = bt_exec(t->b, code_at(t, t->body));
    for (u32 at = 0; at < t->size;) {
        char text[TEXT], name[NAME];
        const u32 where = code_at(t, at), room = (at < t->body ? t->body : t->size) - at;
        size_t len =
            isa_disasm(t->b->cache.mem.write + where, room, ISA_MODE_64, bt_exec(t->b, where), text, sizeof text);
        const char *number = text[0] == 'j' || strncmp(text, "call", 4) == 0 ? strstr(text, " 0x") : NULL;
        u64 to = number ? strtoull(number + 1, NULL, 16) : 0;
        at += len ? (u32)len : 1;
        bool inside = to - start < t->body || to - apart < t->size - t->body;
        if (inside && d->labels < ARRAY_LEN(d->label) && !name_code(d, to, name))
            d->label[d->labels++] = to;
    }
}

// --- lines ------------------------------------------------------------------------------------------------------------------------

static void mark(const struct dump *d, u32 at)
{
    const struct bt_block *k = d->t->k;
    u64 a = bt_exec(d->t->b, code_at(d->t, at));
    char text[TEXT];
    const struct {
        const char *name;
        u64 at;
    } entries[] = {{"entry host", bt_exec(d->t->b, k->code + k->entry_host)},
                   {"entry slot", k->entry_slot},
                   {"entry both", bt_exec(d->t->b, k->code + k->entry_both)}};
    for (unsigned i = 0; i < ARRAY_LEN(entries); i++) {
        if (entries[i].at == a) {
            snprintf(text, sizeof text, "%50s%s:", "", entries[i].name);
            d->line(d->arg, text);
        }
    }
    for (unsigned i = 0; i < d->labels; i++) {
        if (d->label[i] == a) {
            snprintf(text, sizeof text, "%50sL%u:", "", i);
            d->line(d->arg, text);
        }
    }
}

// Host instructions in [at, end).
static unsigned count(const struct dump *d, u32 at, u32 end)
{
    char text[TEXT];
    unsigned n = 0;
    for (; at < end; n++)
        at += host_insn(d, at, text);
    return n;
}

// Host code [at, end) beside `guest`.
static void side_by_side(const struct dump *d, const char *guest, u32 at, u32 end)
{
    char host[TEXT], text[2 * TEXT], size[16];
    snprintf(size, sizeof size, "%u/%u", count(d, at, end), end - at);
    if (at == end) {
        snprintf(text, sizeof text, "%-40.40s %7s", guest, size);
        d->line(d->arg, text);
    }
    for (const char *left = guest; at < end; left = "") {
        char where[16] = "";
        mark(d, at);
        if (d->offsets)
            snprintf(where, sizeof where, "+%03x  ", at);
        u32 len = host_insn(d, at, host);
        snprintf(text, sizeof text, "%-40.40s %7s  %s%s", left, *left ? size : "", where, host);
        d->line(d->arg, text);
        at += len;
    }
}

static void guest_insn(const struct dump *d, unsigned n, char *text)
{
    const struct tr_insn *x = &d->t->insn[n];
    char insn[TEXT];
    isa_disasm(x->bytes, x->in.len, (enum isa_mode)(d->t->b->mode & 3), d->page + x->off, insn, sizeof insn);
    snprintf(text, TEXT, "%llx  %.90s", (unsigned long long)(d->page + x->off), insn);
}

void dump_block(struct tr *t, u64 page, bool offsets, void (*line)(void *arg, const char *text), void *arg)
{
    struct dump d = {.t = t, .page = page, .offsets = offsets, .line = line, .arg = arg};
    const struct bt_block *k = t->k;
    char text[TEXT], name[NAME];
    snprintf(text, sizeof text,
             "block %llx: %u instructions, %u bytes; now %u instructions, %u bytes; tails: %u instructions, %u bytes",
             (unsigned long long)(page + k->off), k->n, (unsigned)(k->end - k->off), count(&d, 0, t->body), t->body,
             count(&d, t->body, t->size), t->size - t->body);
    line(arg, text);
    find_labels(&d);
    if (t->insn[0].at)
        side_by_side(&d, "(entry)", 0, t->insn[0].at);
    for (unsigned i = 0; i < t->n; i++) {
        guest_insn(&d, i, text);
        side_by_side(&d, text, t->insn[i].at, i + 1 < t->n ? t->insn[i + 1].at : t->done);
    }
    if (t->done < t->straight)
        side_by_side(&d, "(end)", t->done, t->straight);
    for (unsigned i = 0; i < t->tails; i++) {
        name_tail(t, i, name);
        side_by_side(&d, name, t->tail[i].at, t->tail[i].end);
    }
}
