// Lists of keys and values.

#include "cli/keyval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct text_node {
    struct text_node *next;
    char text[];
};

static char *text_new(struct text_pool *pool, size_t len)
{
    struct text_node *n = malloc(sizeof(*n) + len + 1);

    if (!n)
        return NULL;
    n->text[len] = 0;
    n->next = pool->first;
    pool->first = n;
    return n->text;
}

char *text_keep(struct text_pool *pool, const char *text, size_t len)
{
    char *to = text_new(pool, len);

    return to ? memcpy(to, text, len) : NULL;
}

char *text_join(struct text_pool *pool, const char *a, const char *b)
{
    size_t len = strlen(a);
    char *to = text_new(pool, len + strlen(b));

    if (!to)
        return NULL;
    memcpy(to, a, len);
    memcpy(to + len, b, strlen(b));
    return to;
}

void text_free(struct text_pool *pool)
{
    while (pool->first) {
        struct text_node *n = pool->first;
        pool->first = n->next;
        free(n);
    }
}

// --- values ---------------------------------------------------------------------------------------------------------------

bool parse_number(const char *text, size_t len, u64 max, u64 *out)
{
    char buf[32];
    char *rest;

    if (!len || len >= sizeof(buf) || text[0] < '0' || text[0] > '9')
        return false;
    memcpy(buf, text, len);
    buf[len] = 0;
    errno = 0;
    *out = strtoull(buf, &rest, text[0] == '0' && len > 1 && (text[1] | 32) == 'x' ? 16 : 10);
    return !errno && !*rest && *out <= max;
}

bool parse_size(const char *text, unsigned default_shift, u64 *bytes)
{
    static const char letters[] = "kmgt";
    size_t len = strlen(text);
    unsigned shift = default_shift;
    u64 n;

    const char *letter = len ? strchr(letters, text[len - 1] | 32) : NULL;
    if (letter && *letter) {
        shift = 10 * (unsigned)(letter - letters + 1);
        len--;
    } else if (len && (text[len - 1] | 32) == 'b') {
        shift = 0;
        len--;
    }
    if (!parse_number(text, len, ~0ull >> shift, &n))
        return false;
    *bytes = n << shift;
    return true;
}

bool parse_bool(const char *text, bool *out)
{
    static const char *const words[2][4] = {{"off", "no", "false", "n"}, {"on", "yes", "true", "y"}};

    for (unsigned v = 0; v < 2; v++)
        for (unsigned i = 0; i < 4; i++)
            if (!strcmp(text, words[v][i])) {
                *out = v;
                return true;
            }
    return false;
}

// --- lists ----------------------------------------------------------------------------------------------------------------

// In place: the piece at *text ends with 0, its double commas become single ones; *text moves on to the next piece, or NULL.
static char *next_piece(char **text)
{
    char *start = *text, *in = start, *out = start;

    while (*in && (*in != ',' || in[1] == ',')) {
        in += *in == ',';
        *out++ = *in++;
    }
    *text = *in ? in + 1 : NULL;
    *out = 0;
    return start;
}

static int add(struct keyvals *k, char *piece, const char *implied, struct error *err)
{
    struct keyval *kv = &k->item[k->count];
    char *equals = strchr(piece, '=');

    if (k->count == KEYVALS_MAX)
        return error_set(err, -E2BIG, "%s: more than %d properties", k->what, KEYVALS_MAX);
    *kv = (struct keyval){.key = piece, .value = "on", .bare = true};
    if (implied && !equals) {
        kv->key = implied;
        kv->value = piece;
        kv->bare = false;
    } else if (equals) {
        *equals = 0;
        kv->value = equals + 1;
        kv->bare = false;
    }
    if (!*kv->key)
        return error_set(err, -EINVAL, "%s: an empty property: write KEY=VALUE, and a comma in a value twice", k->what);
    for (unsigned i = 0; i < k->count; i++)
        if (!strcmp(k->item[i].key, kv->key))
            return error_set(err, -EINVAL, "%s: %s=%s: it was %s before; give it once", k->what, kv->key, kv->value,
                             k->item[i].value);
    k->count++;
    return 0;
}

static char *describe(struct text_pool *pool, const char *option, const char *first)
{
    size_t size = strlen(option) + strlen(first) + 3;
    char *what = text_new(pool, size);

    if (what)
        snprintf(what, size, "-%s %s", option, first);
    return what;
}

int keyvals_parse(struct keyvals *k, struct text_pool *pool, const char *option, const char *text, const char *implied,
                  struct error *err)
{
    char *copy = text_keep(pool, text, strlen(text)), *piece = copy ? next_piece(&copy) : NULL;

    *k = (struct keyvals){.what = piece ? describe(pool, option, piece) : NULL};
    if (!k->what)
        return error_set(err, -ENOMEM, "-%s: no memory for its argument", option);
    for (;;) {
        int ret = add(k, piece, implied, err);
        if (ret || !copy)
            return ret;
        implied = NULL;
        piece = next_piece(&copy);
    }
}

const char *keyvals_get(struct keyvals *k, const char *key)
{
    const char *value = NULL;

    for (unsigned i = 0; i < k->count; i++)
        if (!strcmp(k->item[i].key, key)) {
            k->item[i].used = true;
            value = k->item[i].value;
        }
    return value;
}

int keyvals_bool(struct keyvals *k, const char *key, bool *out, struct error *err)
{
    for (unsigned i = 0; i < k->count; i++) {
        struct keyval *kv = &k->item[i];

        if (kv->bare && !strncmp(kv->key, "no", 2) && !strcmp(kv->key + 2, key)) {
            kv->used = true;
            *out = false;
        } else if (!strcmp(kv->key, key)) {
            kv->used = true;
            if (!parse_bool(kv->value, out))
                return error_set(err, -EINVAL, "%s: %s=%s: must be on or off", k->what, key, kv->value);
        }
    }
    return 0;
}

int keyvals_number(struct keyvals *k, const char *key, u64 min, u64 max, u64 *out, struct error *err)
{
    const char *value = keyvals_get(k, key);
    u64 n;

    if (!value)
        return 0;
    if (!parse_number(value, strlen(value), max, &n) || n < min)
        return error_set(err, -EINVAL, "%s: %s=%s: must be a number from %llu to %llu", k->what, key, value,
                         (unsigned long long)min, (unsigned long long)max);
    *out = n;
    return 0;
}

int keyvals_done(const struct keyvals *k, struct error *err)
{
    for (unsigned i = 0; i < k->count; i++)
        if (!k->item[i].used)
            return error_set(err, -EINVAL, "%s: unknown property %s=%s", k->what, k->item[i].key, k->item[i].value);
    return 0;
}
