// Choosing a processor model: models.def, limited to what pogo implements and the host executes, changed by the options of
// -cpu. CPUID itself is cpuid.c.
//
// Freestanding: the messages are put together by hand. The only thing asked of the host is the CPUID instruction, for "host" and
// "max".
#include "core/cpuid.h"

#include <cpuid.h>

#define SET_WORDS ((ISA_FEAT_COUNT + 63) / 64)
#define LIST_END 0xffff

enum vendor { VENDOR_AMD, VENDOR_INTEL, VENDOR_HOST };

static const char *const vendor_names[] = {[VENDOR_AMD] = "AuthenticAMD", [VENDOR_INTEL] = "GenuineIntel"};

struct model_row {
    u8 vendor; // enum vendor
    u8 phys_bits;
    u32 level, xlevel;
    const char *brand;
    const u16 *features; // enum isa_feature, ends with LIST_END
};

#define f(name) ISA_FEAT_##name,
#define MODEL(name_, desc, vendor_, fam, mod, step, lvl, xlvl, phys, brand_, feats) \
    {.name = name_, .description = desc, .family = fam, .model = mod, .stepping = step},
static const struct cpu_model model_heads[] = {
#include "core/models.def"
};
#undef MODEL
#define MODEL(name_, desc, vendor_, fam, mod, step, lvl, xlvl, phys, brand_, feats) \
    {VENDOR_##vendor_, phys, lvl, xlvl, brand_, (const u16[]){feats LIST_END}},
static const struct model_row model_rows[] = {
#include "core/models.def"
};
#undef MODEL

static const u16 emulated[] = {FEATS_EMULATED LIST_END};
static const u16 native[] = {FEATS_NATIVE LIST_END};
static const u16 amd_only[] = {FEATS_AMD_ONLY LIST_END};
static const u16 intel_only[] = {FEATS_INTEL_ONLY LIST_END};
#undef f

#define needs(feature, prerequisite) {ISA_FEAT_##feature, ISA_FEAT_##prerequisite},
static const u16 prerequisites[][2] = {FEATS_NEED};
#undef needs

// --- feature sets ---------------------------------------------------------------------------------------------------------

static void set_add(u64 *set, unsigned feature)
{
    set[feature / 64] |= 1ull << feature % 64;
}

static void set_remove(u64 *set, unsigned feature)
{
    set[feature / 64] &= ~(1ull << feature % 64);
}

static bool set_has(const u64 *set, unsigned feature)
{
    return (set[feature / 64] >> feature % 64) & 1;
}

static void set_add_list(u64 *set, const u16 *list)
{
    for (; *list != LIST_END; list++)
        set_add(set, *list);
}

static void set_remove_list(u64 *set, const u16 *list)
{
    for (; *list != LIST_END; list++)
        set_remove(set, *list);
}

static void set_clear(u64 *set)
{
    for (unsigned i = 0; i < SET_WORDS; i++)
        set[i] = 0;
}

void cpu_model_implemented(u64 *features)
{
    set_clear(features);
    set_add(features, ISA_FEAT_NONE);
    set_add_list(features, emulated);
    set_add_list(features, native);
}

void cpu_model_native(u64 *features)
{
    set_clear(features);
    set_add_list(features, native);
}

// Remove what lacks a prerequisite, until nothing changes.
static void set_close(u64 *set)
{
    bool again = true;
    while (again) {
        again = false;
        for (unsigned i = 0; i < ARRAY_LEN(prerequisites); i++) {
            if (set_has(set, prerequisites[i][0]) && !set_has(set, prerequisites[i][1])) {
                set_remove(set, prerequisites[i][0]);
                again = true;
            }
        }
    }
}

// A prerequisite of `feature` that the set lacks, or ISA_FEAT_NONE.
static unsigned missing_prerequisite(const u64 *set, unsigned feature)
{
    for (unsigned i = 0; i < ARRAY_LEN(prerequisites); i++) {
        if (prerequisites[i][0] == feature && !set_has(set, prerequisites[i][1]))
            return prerequisites[i][1];
    }
    return ISA_FEAT_NONE;
}

// --- the host -------------------------------------------------------------------------------------------------------------

static void host_cpuid(u32 leaf, u32 subleaf, u32 r[4])
{
    r[0] = r[1] = r[2] = r[3] = 0;
    u32 top = __get_cpuid_max(leaf & 0x80000000u, NULL);
    if (top >= leaf)
        __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
}

static void host_brand(char brand[49])
{
    for (unsigned i = 0; i < 3; i++) {
        u32 r[4];
        host_cpuid(0x80000002 + i, 0, r);
        __builtin_memcpy(brand + i * 16, r, 16);
    }
    brand[48] = 0;
}

static u8 host_phys_bits(void)
{
    u32 r[4];
    host_cpuid(0x80000008, 0, r);
    u32 bits = r[0] & 0xff;
    return bits >= 32 && bits <= 52 ? (u8)bits : 36;
}

// Vendor, signature, brand and address width of the processor we run on.
static void host_identity(struct cpu_model *m)
{
    u32 r[4];
    host_cpuid(0, 0, r);
    u32 vendor[3] = {r[1], r[3], r[2]};
    __builtin_memcpy(m->vendor, vendor, 12);
    // Only two behaviours are modelled; the rest of the world follows Intel or, Hygon, AMD.
    bool amd = m->vendor[0] == 'A' || m->vendor[0] == 'H';
    __builtin_memcpy(m->vendor, vendor_names[amd ? VENDOR_AMD : VENDOR_INTEL], 13);
    host_cpuid(1, 0, r);
    m->family = r[0] >> 8 & 15;
    m->model = r[0] >> 4 & 15;
    if (m->family == 6 || m->family == 15)
        m->model |= (r[0] >> 16 & 15) << 4;
    if (m->family == 15)
        m->family += r[0] >> 20 & 255;
    m->stepping = r[0] & 15;
    m->maxphyaddr = host_phys_bits();
    m->xlevel = amd ? 0x80000021 : 0x80000008;
    if (amd)
        m->level = 0x10;
    host_brand(m->brand);
}

// --- text -----------------------------------------------------------------------------------------------------------------

static size_t text_len(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

static void text_copy(char *to, size_t size, const char *from, size_t len)
{
    size_t n = len < size ? len : size - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = from[i];
    to[n] = 0;
}

struct message {
    char *text;
    size_t size, len;
};

// Append at most `max` characters of s.
static void message_add(struct message *m, const char *s, size_t max)
{
    for (; max && *s && m->len + 1 < m->size; s++, max--)
        m->text[m->len++] = *s;
    if (m->size)
        m->text[m->len] = 0;
}

static void message_str(struct message *m, const char *s)
{
    message_add(m, s, ~(size_t)0);
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

// A piece of the specification.
struct word {
    const char *s;
    size_t len;
};

static bool word_is(struct word w, const char *name)
{
    for (size_t i = 0; i < w.len; i++) {
        if (name[i] != w.s[i])
            return false;
    }
    return !name[w.len];
}

// Feature names are written with '-', '_' or '.', whatever the case.
static char plain(char c)
{
    return c == '_' || c == '.' ? '-' : lower(c);
}

static bool word_is_feature(struct word w, const char *name)
{
    for (size_t i = 0; i < w.len; i++) {
        if (!name[i] || plain(name[i]) != plain(w.s[i]))
            return false;
    }
    return !name[w.len];
}

static unsigned find_feature(struct word w)
{
    for (unsigned i = 1; i < ISA_FEAT_COUNT; i++) {
        if (word_is_feature(w, isa_features[i].name))
            return i;
    }
    return ISA_FEAT_NONE;
}

// Decimal or 0x number; false when it is none or above max.
static bool word_number(struct word w, u64 max, u64 *val)
{
    u64 base = 10, v = 0;
    if (w.len > 2 && w.s[0] == '0' && lower(w.s[1]) == 'x') {
        base = 16;
        w.s += 2;
        w.len -= 2;
    }
    if (!w.len)
        return false;
    for (; w.len; w.s++, w.len--) {
        char c = lower(*w.s);
        u64 d = c >= '0' && c <= '9' ? (u64)(c - '0') : c >= 'a' && c <= 'f' ? (u64)(c - 'a') + 10 : base;
        if (d >= base)
            return false;
        v = v * base + d;
        if (v > max)
            return false;
    }
    *val = v;
    return true;
}

// --- the specification ------------------------------------------------------------------------------------------------------

struct parse {
    struct cpu_model *out;
    const u64 *host;
    u64 asked[SET_WORDS]; // turned on by name
    struct message err;
};

// "-cpu MODEL: <a>WORD<b>" as the error text.
static const char *fail(struct parse *p, const char *a, struct word w, const char *b)
{
    message_str(&p->err, "-cpu ");
    message_str(&p->err, p->out->name ? p->out->name : "");
    message_str(&p->err, p->out->name ? ": " : "");
    message_str(&p->err, a);
    message_add(&p->err, w.s, w.len);
    message_str(&p->err, b);
    return p->err.text;
}

static struct word word_of(const char *s)
{
    return (struct word){s, text_len(s)};
}

const struct cpu_model *cpu_model_at(unsigned i)
{
    return i < ARRAY_LEN(model_heads) ? &model_heads[i] : NULL;
}

static const char *start_model(struct parse *p, struct word name)
{
    struct cpu_model *m = p->out;
    unsigned i = 0;
    while (i < ARRAY_LEN(model_heads) && !word_is(name, model_heads[i].name))
        i++;
    if (i == ARRAY_LEN(model_heads))
        return fail(p, "unknown processor model '", name, "' (`-cpu help` lists the models)");
    const struct model_row *row = &model_rows[i];
    *m = model_heads[i];
    m->level = row->level;
    m->xlevel = row->xlevel;
    m->maxphyaddr = row->phys_bits;
    text_copy(m->brand, sizeof m->brand, row->brand, text_len(row->brand));
    set_add_list(m->features, row->features);
    if (row->vendor == VENDOR_HOST) {
        host_identity(m);
        set_remove_list(m->features, cpu_model_is_amd(m) ? intel_only : amd_only);
    } else {
        __builtin_memcpy(m->vendor, vendor_names[row->vendor], 13);
    }
    set_add(m->features, ISA_FEAT_NONE);
    set_add(m->features, ISA_FEAT_HYPERVISOR);
    return NULL;
}

struct property {
    const char *name;
    u64 max;
    size_t offset;
};

static const struct property properties[] = {
    {"family", 15 + 255, offsetof(struct cpu_model, family)},   {"model", 255, offsetof(struct cpu_model, model)},
    {"stepping", 15, offsetof(struct cpu_model, stepping)},     {"level", 0x20, offsetof(struct cpu_model, level)},
    {"xlevel", 0x80000021, offsetof(struct cpu_model, xlevel)},
};

static const char *set_phys_bits(struct parse *p, struct word val)
{
    u64 n;
    if (!word_number(val, 52, &n) || n < 32)
        return fail(p, "phys-bits='", val, "': must be 32 to 52");
    p->out->maxphyaddr = (u8)n;
    return NULL;
}

// Also takes away what parts of this vendor never have, unless it was asked for before.
static const char *set_vendor(struct parse *p, struct word val)
{
    if (!word_is(val, vendor_names[VENDOR_AMD]) && !word_is(val, vendor_names[VENDOR_INTEL]))
        return fail(p, "vendor='", val, "': must be AuthenticAMD or GenuineIntel");
    __builtin_memcpy(p->out->vendor, val.s, 12);
    for (const u16 *other = cpu_model_is_amd(p->out) ? intel_only : amd_only; *other != LIST_END; other++) {
        if (!set_has(p->asked, *other))
            set_remove(p->out->features, *other);
    }
    return NULL;
}

// NAME=VALUE that is not a feature. Sets *known to false when there is no such property.
static const char *set_property(struct parse *p, struct word name, struct word val, bool *known)
{
    *known = true;
    if (word_is(name, "vendor"))
        return set_vendor(p, val);
    if (word_is(name, "phys-bits"))
        return set_phys_bits(p, val);
    if (word_is(name, "model-id")) {
        text_copy(p->out->brand, sizeof p->out->brand, val.s, val.len);
        return NULL;
    }
    if (word_is(name, "kvm")) {
        if (!word_is(val, "on") && !word_is(val, "off"))
            return fail(p, "kvm='", val, "': must be on or off");
        p->out->hide_kvm = word_is(val, "off");
        return NULL;
    }
    for (unsigned i = 0; i < ARRAY_LEN(properties); i++) {
        u64 n;
        if (!word_is(name, properties[i].name))
            continue;
        if (!word_number(val, properties[i].max, &n)) {
            fail(p, properties[i].name, word_of("='"), "");
            message_add(&p->err, val.s, val.len);
            message_str(&p->err, "': not a number, or too large");
            return p->err.text;
        }
        *(u32 *)((char *)p->out + properties[i].offset) = (u32)n;
        return NULL;
    }
    *known = false;
    return NULL;
}

static const char *set_feature(struct parse *p, struct word name, bool on)
{
    unsigned feature = find_feature(name);
    if (feature == ISA_FEAT_NONE)
        return fail(p, "unknown feature '", name, "' (`-cpu help` lists the features)");
    if (!on) {
        set_remove(p->out->features, feature);
        set_remove(p->asked, feature);
        return NULL;
    }
    u64 set[SET_WORDS];
    cpu_model_implemented(set);
    if (!set_has(set, feature))
        return fail(p, "feature '", name, "' is not implemented by pogo: leave it out");
    cpu_model_native(set);
    if (set_has(set, feature) && !set_has(p->host, feature))
        return fail(p, "feature '", name, "': this host's processor does not have it");
    set_add(p->out->features, feature);
    set_add(p->asked, feature);
    return NULL;
}

// "+feature", "-feature", "feature=on", "feature=off", "feature", "property=value".
static const char *apply_option(struct parse *p, struct word w)
{
    if (!w.len)
        return fail(p, "empty option", w, " (two commas, or one at the end)");
    if (w.s[0] == '+' || w.s[0] == '-')
        return set_feature(p, (struct word){w.s + 1, w.len - 1}, w.s[0] == '+');
    size_t eq = 0;
    while (eq < w.len && w.s[eq] != '=')
        eq++;
    if (eq == w.len)
        return set_feature(p, w, true);
    struct word name = {w.s, eq}, val = {w.s + eq + 1, w.len - eq - 1};
    bool known;
    const char *err = set_property(p, name, val, &known);
    if (err || known)
        return err;
    if (word_is(val, "on"))
        return set_feature(p, name, true);
    if (word_is(val, "off"))
        return set_feature(p, name, false);
    return find_feature(name) != ISA_FEAT_NONE ? fail(p, "'", w, "': a feature is on or off")
                                               : fail(p, "unknown property '", name, "'");
}

// Leave what can be given, and complain about what was asked for in vain.
static const char *limit_features(struct parse *p)
{
    struct cpu_model *m = p->out;
    u64 implemented[SET_WORDS], needs_host[SET_WORDS], before[SET_WORDS];
    cpu_model_implemented(implemented);
    cpu_model_native(needs_host);
    for (unsigned i = 0; i < SET_WORDS; i++) {
        m->features[i] &= implemented[i] & (p->host[i] | ~needs_host[i]);
        before[i] = m->features[i];
    }
    set_close(m->features);
    for (unsigned i = 1; i < ISA_FEAT_COUNT; i++) {
        if (!set_has(p->asked, i) || set_has(m->features, i))
            continue;
        unsigned need = missing_prerequisite(before, i);
        if (need == ISA_FEAT_NONE)
            need = missing_prerequisite(m->features, i);
        fail(p, "feature '", word_of(isa_features[i].name), "' needs '");
        message_str(&p->err, isa_features[need].name);
        message_str(&p->err, "'");
        return p->err.text;
    }
    return NULL;
}

static void finish_model(struct cpu_model *m)
{
    m->linear_bits = cpu_model_has(m, ISA_FEAT_LM) ? 48 : 32;
    if (!cpu_model_has(m, ISA_FEAT_PAE) && !cpu_model_has(m, ISA_FEAT_PSE36))
        m->maxphyaddr = 32;
    if (cpu_model_has(m, ISA_FEAT_LM) && m->xlevel < 0x80000008)
        m->xlevel = 0x80000008;
}

const char *cpu_model_parse(const char *spec, const u64 *host_features, struct cpu_model *out, char *err, size_t size)
{
    struct parse p = {.out = out, .host = host_features, .err = {.text = err, .size = size}};
    const char *s = spec, *why = NULL;
    bool first = true;
    out->name = NULL;
    for (;;) {
        struct word w = {s, 0};
        while (w.s[w.len] && w.s[w.len] != ',')
            w.len++;
        why = first ? start_model(&p, w) : apply_option(&p, w);
        if (why)
            return why;
        first = false;
        if (!w.s[w.len])
            break;
        s = w.s + w.len + 1;
    }
    why = limit_features(&p);
    if (!why)
        finish_model(out);
    return why;
}

u32 cpu_model_signature(const struct cpu_model *m)
{
    u32 family = m->family > 15 ? 15 : m->family;
    u32 ext_family = m->family > 15 ? m->family - 15 : 0;
    return (ext_family & 255) << 20 | (m->model >> 4 & 15) << 16 | family << 8 | (m->model & 15) << 4 |
           (m->stepping & 15);
}
