// Console, checks and the end of a guest.
#include <stdarg.h>

#include "guest.h"

unsigned passed, failed;

static void put(char c)
{
    outb(0x3f8, (u8)c);
}

static void put_number(unsigned long v, unsigned base, unsigned width, char pad, bool negative)
{
    char buf[24];
    unsigned n = 0;
    do {
        buf[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    if (negative)
        buf[n++] = '-';
    while (n < width && n < sizeof buf)
        buf[n++] = pad;
    while (n)
        put(buf[--n]);
}

static void vprint(const char *f, va_list ap)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        char pad = ' ';
        unsigned width = 0;
        bool wide = false;
        f++;
        if (*f == '0')
            pad = '0';
        while (*f >= '0' && *f <= '9')
            width = width * 10 + (unsigned)(*f++ - '0');
        while (*f == 'l') {
            wide = true;
            f++;
        }
        if (*f == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
        } else if (*f == 'c') {
            put((char)va_arg(ap, int));
        } else if (*f == 'd') {
            long v = wide ? va_arg(ap, long) : va_arg(ap, int);
            put_number(v < 0 ? 0ul - (unsigned long)v : (unsigned long)v, 10, width, pad, v < 0);
        } else {
            unsigned long v = wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned);
            put_number(v, *f == 'u' ? 10 : 16, width, pad, false);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

void check_at(bool ok, const char *file, int line, const char *fmt, ...)
{
    if (ok) {
        passed++;
        return;
    }
    failed++;
    va_list ap;
    va_start(ap, fmt);
    print("%s:%d: ", file, line);
    vprint(fmt, ap);
    print("\n");
    va_end(ap);
}

void check_trap(int vector, bool with_error, word error, const char *file, int line)
{
    check_at(trap.vector == vector && (!with_error || trap.error == error), file, line,
             "trap %d error %lx at %lx, not trap %d error %lx", trap.vector, (unsigned long)trap.error,
             (unsigned long)trap.ip, vector, (unsigned long)error);
}

_Noreturn void guest_exit(int code)
{
    print("%s: %u passed, %u failed\n", guest_name, passed, failed);
    for (;;) {
        outl(0xf4, (u32)code);
        __asm__ volatile("cli; hlt");
    }
}
