// Somebody at the guest's console who does the same in every run: waits for text, types text, lets virtual time pass. A script is a file of
// lines:
//
//   wait TEXT    until the guest has written TEXT, beginning behind what the wait before it found
//   send TEXT    type TEXT; \n \r \t \\ and \xNN are characters
//   sleep MS     milliseconds of virtual time
//   # ...        nothing
#ifndef POGO_CLI_SCRIPT_H
#define POGO_CLI_SCRIPT_H

#include "board/pc.h"
#include "host/file.h"

enum script_verb { SCRIPT_WAIT, SCRIPT_SEND, SCRIPT_SLEEP };

struct script_line {
    enum script_verb verb;
    const u8 *text; // in the file, unescaped in place
    size_t len;
    u64 ns;
};

struct script {
    struct file_data file;
    struct script_line *line;
    unsigned count;
};

// Read a script. Returns 0 or a negative errno with *err set; script_free() in any case.
int script_load(struct script *s, const char *path, struct error *err);
void script_free(struct script *s);

// One guest's visitor, at its first serial port.
struct script_player {
    const struct script *script;
    struct pc *board;
    struct clock_timer timer;
    unsigned at;  // line
    size_t typed; // bytes of a line that is being sent
    u8 *heard;    // written by the guest since the last wait was over
    size_t len, room;
};

// Begin. The script stays the caller's; the board's clock is in icount mode. Returns 0, or -ENOSPC when it has no more timers.
// script_stop() in any case.
int script_start(struct script_player *p, const struct script *s, struct pc *b);
void script_stop(struct script_player *p);
// The guest has written a byte. Called with the device lock held, as script_rx().
void script_heard(struct script_player *p, u8 byte);
// The next character that is typed, or -1.
int script_rx(struct script_player *p);

#endif
