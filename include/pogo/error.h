// An error on its way up: one line for the user, naming the thing, the value and the remedy. Code below src/cli fills it and
// returns a negative errno; only src/cli prints it.
#ifndef POGO_ERROR_H
#define POGO_ERROR_H

#include <stdarg.h>
#include <stdio.h>

struct error {
    char text[400];
};

// Fill *e and return `code` (a negative errno), so that callers can write `return error_set(e, -EINVAL, ...)`.
__attribute__((format(printf, 3, 4))) static inline int error_set(struct error *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    return code;
}

#endif
