// Raw terminal. The saved settings are process-wide state because a terminal is: exit handlers and signal handlers have no other
// way to reach them.

#include "host/term.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static int saved_fd;
static atomic_bool raw;

void term_restore(void)
{
    if (atomic_exchange(&raw, false))
        tcsetattr(saved_fd, TCSANOW, &saved);
}

static void restore_and_die(int sig)
{
    term_restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

// Signals that end a process from outside, or by abort(). Synchronous faults are left alone: engines have their own
// handlers for them.
static const int fatal_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGPIPE};

bool term_raw(int fd)
{
    struct termios t;

    if (!isatty(fd) || tcgetattr(fd, &saved))
        return false;
    saved_fd = fd;
    t = saved;
    t.c_iflag &= (tcflag_t) ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= (tcflag_t) ~(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
    t.c_cflag = (t.c_cflag & (tcflag_t) ~(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    atexit(term_restore);
    for (size_t i = 0; i < ARRAY_LEN(fatal_signals); i++)
        signal(fatal_signals[i], restore_and_die);
    atomic_store(&raw, true);
    tcsetattr(fd, TCSANOW, &t);
    return true;
}
