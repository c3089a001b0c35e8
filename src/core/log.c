// A small printf for log lines, so that the core needs no libc. Lines longer than the buffer are cut.
#include <stdarg.h>

#include "core/host.h"

struct line {
    char text[512];
    unsigned len;
};

static void put(struct line *l, char ch)
{
    if (l->len < sizeof(l->text) - 1)
        l->text[l->len++] = ch;
}

static void put_number(struct line *l, u64 val, unsigned base, bool negative, unsigned width, char pad)
{
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[val % base];
        val /= base;
    } while (val);
    if (negative && pad == '0')
        put(l, '-');
    for (unsigned i = n + negative; i < width; i++)
        put(l, pad);
    if (negative && pad != '0')
        put(l, '-');
    while (n)
        put(l, digits[--n]);
}

static void put_string(struct line *l, const char *s, unsigned width)
{
    unsigned n = 0;

    if (!s)
        s = "(null)";
    while (s[n])
        n++;
    for (; width > n; width--)
        put(l, ' ');
    while (*s)
        put(l, *s++);
}

// One conversion, after the '%'. Returns the last character used.
static const char *convert(struct line *l, const char *f, va_list *ap)
{
    char pad = ' ';
    unsigned width = 0, longs = 0;

    if (*f == '0')
        pad = *f++;
    for (; *f >= '0' && *f <= '9'; f++)
        width = width * 10 + (unsigned)(*f - '0');
    if (width > sizeof(l->text))
        width = sizeof(l->text);
    for (; *f == 'l'; f++)
        longs++;
    switch (*f) {
    case 'd': {
        i64 val = longs ? va_arg(*ap, long long) : va_arg(*ap, int);
        put_number(l, val < 0 ? -(u64)val : (u64)val, 10, val < 0, width, pad);
        break;
    }
    case 'u':
    case 'x':
        put_number(l, longs ? va_arg(*ap, unsigned long long) : va_arg(*ap, unsigned), *f == 'u' ? 10 : 16, false,
                   width, pad);
        break;
    case 's': put_string(l, va_arg(*ap, const char *), width); break;
    case 'c': put(l, (char)va_arg(*ap, int)); break;
    case '%': put(l, '%'); break;
    case '\0': // a lone '%' at the end
        return f - 1;
    default: put(l, '?'); break;
    }
    return f;
}

void host_logf(const struct host *h, enum host_log category, const char *fmt, ...)
{
    struct line l;
    va_list ap;

    if (!host_logs(h, category) || !h->ops->log)
        return;
    l.len = 0;
    va_start(ap, fmt);
    for (const char *f = fmt; *f; f++) {
        if (*f == '%')
            f = convert(&l, f + 1, &ap);
        else
            put(&l, *f);
    }
    va_end(ap);
    l.text[l.len] = '\0';
    h->ops->log(h->self, category, l.text);
}
