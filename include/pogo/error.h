// An error on its way up: one line for the user, naming the thing, the value and the remedy. Code below src/cli fills it and
// returns a negative errno; only src/cli prints it.
#ifndef POGO_ERROR_H
#define POGO_ERROR_H

#include <stdarg.h>
#include <stdio.h>

struct error {
    char text[1024];
};

__attribute__((format(printf, 2, 3))) static inline void error_format(struct error *e, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
}

// Fill *e; its value is `code` (a negative errno), so that callers can write `return error_set(e, -EINVAL, ...)`. A macro, so that
// the compiler sees that the value is not 0.
#define error_set(e, code, ...) (error_format(e, __VA_ARGS__), (code))

#endif
