// Guest characters out and in: files and standard output on one side, the user's keys on the other.
//
// Output belongs to the vCPU's thread. Input comes from the main thread through a ring of one producer (the main thread) and one
// consumer (the vCPU's thread).
#ifndef POGO_CLI_CONSOLE_H
#define POGO_CLI_CONSOLE_H

#include <stdatomic.h>

#include "cli/options.h"
#include "pogo/error.h"
#include "pogo/types.h"

// A buffered output: flushed at line ends, when full, and whenever the vCPU's thread has a moment.
struct out_stream {
    int fd; // -1: discard
    bool owned;
    _Atomic bool hurry; // set by any thread: a write that a signal interrupts is given up
    u32 count;
    u8 buf[4096];
};

int out_open(struct out_stream *s, const char *option, const struct stream_spec *spec, struct error *err);
void out_byte(void *stream, u8 byte);
void out_flush(struct out_stream *s);
void out_close(struct out_stream *s);

#define IN_RING_SIZE 4096

struct in_ring {
    _Atomic u32 head, tail; // consumed, produced; free-running
    u8 buf[IN_RING_SIZE];
};

u32 in_room(struct in_ring *r);          // for the producer: bytes that fit
bool in_put(struct in_ring *r, u8 byte); // false when full
int in_get(void *ring);                  // -1 when empty

// Escape sequences of the terminal: Ctrl-A and a key.
enum key_action { KEY_NONE, KEY_SEND, KEY_QUIT, KEY_HELP };

struct key_filter {
    bool active; // input is a terminal
    bool escaped;
};

// What to do about one byte from the user; KEY_SEND gives it to the guest.
enum key_action key_input(struct key_filter *f, u8 byte);

#endif
