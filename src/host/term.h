// The user's terminal in raw mode: keys go to the guest as they are typed, Ctrl-C too. The terminal is put back on every way
// out of the process: return, exit(), and the signals that end it.
#ifndef POGO_HOST_TERM_H
#define POGO_HOST_TERM_H

#include "pogo/types.h"

// Make `fd` raw when it is a terminal; does nothing else. Returns whether it is one. Output processing stays on, so that a
// line feed from the guest or from a log still starts a new line. Again after SIGCONT: whoever had the terminal in between may have
// left it otherwise. In the background nothing is changed: who does that is stopped by the kernel.
bool term_raw(int fd);
// Is this process in the terminal's foreground, so that it may read from it? Async-signal-safe.
bool term_is_ours(int fd);
// Put the terminal back; harmless when it is not raw. Async-signal-safe.
void term_restore(void);

#endif
