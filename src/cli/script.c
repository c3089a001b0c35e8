// Console scripts. The player moves on in a timer of the machine's clock, one millisecond after what it waited for, so it acts at the same
// instruction in every run.
#include "cli/script.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SCRIPT (1u << 20)
#define REACTION_NS 1000000
#define NS_PER_MS 1000000

// --- reading --------------------------------------------------------------------------------------------------------------

static int hex(u8 c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Replace escapes in place; false when one is unknown.
static bool unescape(u8 *text, size_t *len)
{
    static const char from[] = "nrt\\", to[] = "\n\r\t\\";
    size_t out = 0;

    for (size_t i = 0; i < *len; i++) {
        u8 c = text[i];
        if (c == '\\') {
            const char *known = ++i < *len && text[i] ? strchr(from, text[i]) : NULL;
            if (known) {
                c = (u8)to[known - from];
            } else if (i + 2 < *len && text[i] == 'x' && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
                c = (u8)(hex(text[i + 1]) << 4 | hex(text[i + 2]));
                i += 2;
            } else {
                return false;
            }
        }
        text[out++] = c;
    }
    *len = out;
    return true;
}

static bool parse_ms(const u8 *text, size_t len, u64 *ns)
{
    u64 ms = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || ms > 1000000000)
            return false;
        ms = ms * 10 + (text[i] - '0');
    }
    *ns = ms * NS_PER_MS;
    return len;
}

// False: not a line of a script.
static bool parse_line(struct script *s, u8 *text, size_t len)
{
    static const char *const verbs[] = {"wait ", "send ", "sleep "};
    struct script_line *l = &s->line[s->count];

    if (!len || *text == '#')
        return true;
    for (unsigned v = 0; v < ARRAY_LEN(verbs); v++) {
        size_t n = strlen(verbs[v]);
        if (len <= n || memcmp(text, verbs[v], n))
            continue;
        s->count++;
        *l = (struct script_line){.verb = (enum script_verb)v, .text = text + n, .len = len - n};
        return v == SCRIPT_SLEEP ? parse_ms(text + n, len - n, &l->ns) : unescape(text + n, &l->len);
    }
    return false;
}

int script_load(struct script *s, const char *path, struct error *err)
{
    int ret = file_load(path, "--input", MAX_SCRIPT, &s->file, err);
    u8 *end = s->file.bytes + s->file.size, *next;
    unsigned lines = 1, n = 0;

    if (ret)
        return ret;
    for (u64 i = 0; i < s->file.size; i++)
        lines += s->file.bytes[i] == '\n';
    s->line = calloc(lines, sizeof(*s->line));
    if (!s->line)
        return error_set(err, -ENOMEM, "--input %s: no memory", path);
    for (u8 *p = s->file.bytes; p < end; p = next + 1) {
        next = memchr(p, '\n', (size_t)(end - p));
        next = next ? next : end;
        n++;
        if (!parse_line(s, p, (size_t)(next - p)))
            return error_set(err, -EINVAL, "--input %s: line %u: must be 'wait TEXT', 'send TEXT' or 'sleep MS'", path,
                             n);
    }
    return 0;
}

void script_free(struct script *s)
{
    free(s->line);
    file_free(&s->file);
}

// --- playing --------------------------------------------------------------------------------------------------------------

static const struct script_line *now(const struct script_player *p)
{
    return p->at < p->script->count ? &p->script->line[p->at] : NULL;
}

static void go_on(struct script_player *p, u64 ns)
{
    struct clock *k = &p->board->m.clock;

    p->at++;
    p->typed = 0;
    clock_arm(k, &p->timer, clock_now(k) + ns);
}

// Is what one waits for in what the guest has written?
static void look(struct script_player *p)
{
    const struct script_line *l = now(p);
    const u8 *found = p->len ? memmem(p->heard, p->len, l->text, l->len) : NULL;

    if (!found)
        return;
    size_t end = (size_t)(found - p->heard) + l->len;
    p->len -= end;
    memmove(p->heard, p->heard + end, p->len);
    go_on(p, REACTION_NS);
}

static void act(void *arg, u64 now_ns)
{
    struct script_player *p = arg;
    const struct script_line *l = now(p);

    (void)now_ns;
    if (!l)
        return;
    switch (l->verb) {
    case SCRIPT_WAIT: look(p); break;
    case SCRIPT_SEND: pc_serial_input(p->board, 0); break;
    case SCRIPT_SLEEP: go_on(p, l->ns); break;
    }
}

int script_start(struct script_player *p, const struct script *s, struct pc *b)
{
    *p = (struct script_player){.script = s, .board = b, .timer = {.fire = act, .dev = p}};
    int ret = clock_add_timer(&b->m.clock, &p->timer);

    if (!ret && s->count)
        clock_arm(&b->m.clock, &p->timer, REACTION_NS);
    return ret;
}

void script_stop(struct script_player *p)
{
    free(p->heard);
    p->heard = NULL;
}

// Once the timer has fired the last byte can only complete the text.
void script_heard(struct script_player *p, u8 byte)
{
    const struct script_line *l = p->script ? now(p) : NULL;

    if (!l)
        return;
    if (p->len == p->room) {
        size_t room = p->room ? 2 * p->room : 4096;
        u8 *more = realloc(p->heard, room);
        if (!more)
            abort();
        p->heard = more;
        p->room = room;
    }
    p->heard[p->len++] = byte;
    if (l->verb == SCRIPT_WAIT && p->timer.deadline_ns == CLOCK_NEVER && l->len <= p->len &&
        !memcmp(p->heard + p->len - l->len, l->text, l->len))
        look(p);
}

int script_rx(struct script_player *p)
{
    const struct script_line *l = p->script ? now(p) : NULL;

    // While the timer runs nobody types yet.
    if (!l || l->verb != SCRIPT_SEND || p->timer.deadline_ns != CLOCK_NEVER)
        return -1;
    u8 c = l->text[p->typed++];
    if (p->typed == l->len)
        go_on(p, REACTION_NS);
    return c;
}
