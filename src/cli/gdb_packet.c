// Frames, and the small parsers and writers of what is in them.

#include "cli/gdb_packet.h"

#include <string.h>

#define ESCAPE '}'

static int digit(u8 c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static u8 digit_char(unsigned val)
{
    return (u8) "0123456789abcdef"[val & 15];
}

// --- receiving --------------------------------------------------------------------------------------------------------------

static enum gdb_rx between(struct gdb_receiver *r, u8 byte)
{
    switch (byte) {
    case '$':
        r->state = GDB_IN_DATA;
        r->len = 0;
        r->sum = r->told = 0;
        r->overlong = r->bad_sum = false;
        return GDB_RX_MORE;
    case '-': return GDB_RX_NAK;
    case 3: return GDB_RX_INTERRUPT;
    default: return GDB_RX_MORE; // '+', and noise
    }
}

static void in_data(struct gdb_receiver *r, u8 byte)
{
    if (byte == '#') {
        r->state = GDB_IN_SUM;
        return;
    }
    r->sum = (u8)(r->sum + byte);
    if (r->len < GDB_PACKET_MAX)
        r->data[r->len++] = byte;
    else
        r->overlong = true;
}

enum gdb_rx gdb_receive(struct gdb_receiver *r, u8 byte)
{
    int d;

    switch (r->state) {
    case GDB_BETWEEN: return between(r, byte);
    case GDB_IN_DATA: in_data(r, byte); return GDB_RX_MORE;
    default: break;
    }
    d = digit(byte);
    r->bad_sum |= d < 0;
    r->told = (u8)(r->told << 4 | (d & 15));
    if (r->state == GDB_IN_SUM) {
        r->state = GDB_IN_SUM_2;
        return GDB_RX_MORE;
    }
    r->state = GDB_BETWEEN;
    r->data[r->len] = 0;
    if (!r->no_sums && (r->bad_sum || r->told != r->sum))
        return GDB_RX_BAD;
    return r->overlong ? GDB_RX_OVERLONG : GDB_RX_PACKET;
}

// --- writing ----------------------------------------------------------------------------------------------------------------

void gdb_put_char(struct gdb_writer *w, u8 c)
{
    if (w->len < GDB_PACKET_MAX)
        w->data[w->len++] = c;
    else
        w->full = true;
}

void gdb_put_text(struct gdb_writer *w, const char *text)
{
    while (*text)
        gdb_put_char(w, (u8)*text++);
}

void gdb_put_number(struct gdb_writer *w, u64 val)
{
    unsigned shift = 60;

    while (shift && !(val >> shift))
        shift -= 4;
    for (;; shift -= 4) {
        gdb_put_char(w, digit_char((unsigned)(val >> shift)));
        if (!shift)
            return;
    }
}

void gdb_put_hex(struct gdb_writer *w, const void *p, size_t n)
{
    for (const u8 *b = p; n--; b++) {
        gdb_put_char(w, digit_char(*b >> 4));
        gdb_put_char(w, digit_char(*b));
    }
}

void gdb_put_raw(struct gdb_writer *w, const void *p, size_t n)
{
    for (const u8 *b = p; n--; b++) {
        if (*b == '#' || *b == '$' || *b == ESCAPE || *b == '*') {
            gdb_put_char(w, ESCAPE);
            gdb_put_char(w, *b ^ 0x20);
        } else {
            gdb_put_char(w, *b);
        }
    }
}

u32 gdb_frame(const struct gdb_writer *w, u8 *out)
{
    u8 sum = 0;

    out[0] = '$';
    memcpy(out + 1, w->data, w->len);
    for (u32 i = 0; i < w->len; i++)
        sum = (u8)(sum + w->data[i]);
    out[w->len + 1] = '#';
    out[w->len + 2] = digit_char(sum >> 4);
    out[w->len + 3] = digit_char(sum);
    return w->len + 4;
}

// --- parsing ----------------------------------------------------------------------------------------------------------------

bool gdb_take_char(struct gdb_text *t, u8 c)
{
    if (t->p == t->end || *t->p != c)
        return false;
    t->p++;
    return true;
}

bool gdb_take_word(struct gdb_text *t, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(t->end - t->p) < n || memcmp(t->p, word, n))
        return false;
    t->p += n;
    return true;
}

bool gdb_take_number(struct gdb_text *t, u64 *val)
{
    unsigned digits = 0;

    *val = 0;
    for (; t->p < t->end && digit(*t->p) >= 0; t->p++) {
        if (++digits > 16)
            return false;
        *val = *val << 4 | (u64)digit(*t->p);
    }
    return digits > 0;
}

bool gdb_take_hex(struct gdb_text *t, u8 *out, size_t n)
{
    if ((size_t)(t->end - t->p) / 2 < n)
        return false;
    for (; n--; t->p += 2) {
        int high = digit(t->p[0]), low = digit(t->p[1]);
        if (high < 0 || low < 0)
            return false;
        *out++ = (u8)(high << 4 | low);
    }
    return true;
}

bool gdb_take_raw(struct gdb_text *t, u8 *out, size_t n)
{
    for (; n; n--) {
        if (t->p == t->end)
            return false;
        u8 b = *t->p++;
        if (b == ESCAPE) {
            if (t->p == t->end)
                return false;
            b = *t->p++ ^ 0x20;
        }
        *out++ = b;
    }
    return gdb_at_end(t);
}
