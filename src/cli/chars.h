// Options that name character devices, and the devices that come of them.
#ifndef POGO_CLI_CHARS_H
#define POGO_CLI_CHARS_H

#include "cli/keyval.h"
#include "host/chardev.h"

// What -serial, -monitor and the like were given.
enum char_how {
    CHAR_DEFAULT, // nothing
    CHAR_NONE,    // "none": no such line
    CHAR_OPEN,    // a device of its own: `spec`
    CHAR_ID,      // one that -chardev made: `spec.id`
};

struct char_use {
    enum char_how how;
    struct chardev_spec spec;
    const char *option; // "serial", for messages
};

// -chardev BACKEND,id=ID[,KEY=VALUE...]
int chars_parse_chardev(struct chardev_spec *spec, struct text_pool *pool, const char *arg, struct error *err);
// The short form: none, null, stdio, mon:DEVICE, file:PATH, pipe:PATH, pty, unix:PATH[,...], tcp:HOST:PORT[,...], chardev:ID.
int chars_parse(struct char_use *u, struct text_pool *pool, const char *option, const char *arg, struct error *err);
// The device of `u`, opened unless it is there already: all short forms of stdio share one. *out is NULL for CHAR_NONE and
// CHAR_DEFAULT. Says so where one has to wait for somebody, or needs to know a name.
int chars_open(struct chardevs *all, const struct char_use *u, struct chardev **out, struct error *err);
int chars_attach(struct chardev *c, struct chardev_front *f, const char *option, struct error *err);
// One line for each kind of device, for -chardev help.
void chars_print_kinds(FILE *out);

#endif
