// Raw terminal. The saved settings are process-wide state because a terminal is: exit handlers and signal handlers have no other
// way to reach them.

#include "host/term.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved, raw_settings;
static int saved_fd;
static bool known; // the process has had the terminal raw before
static atomic_bool raw;

// A terminal that is not the controlling one has no background.
bool term_is_ours(int fd)
{
    pid_t group = tcgetpgrp(fd);

    return group < 0 || group == getpgrp();
}

void term_restore(void)
{
    if (atomic_exchange(&raw, false) && term_is_ours(saved_fd))
        tcsetattr(saved_fd, TCSANOW, &saved);
}

static void restore_and_die(int sig)
{
    term_restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

// Signals that end a process. Only where the default would: who ignores one, or has a handler (engines, for faults of generated
// code), keeps it.
static const int fatal_signals[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGABRT, SIGPIPE,  SIGSEGV, SIGBUS,
                                    SIGILL,  SIGFPE,  SIGTRAP, SIGSYS,  SIGXCPU, SIGXFSZ,  SIGALRM, SIGVTALRM,
                                    SIGPROF, SIGUSR1, SIGUSR2, SIGPOLL, SIGPWR,  SIGSTKFLT};

static void catch_fatal(int sig)
{
    const struct sigaction ours = {.sa_handler = restore_and_die, .sa_flags = SA_ONSTACK};
    struct sigaction now;

    if (!sigaction(sig, NULL, &now) && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL)
        sigaction(sig, &ours, NULL);
}

bool term_raw(int fd)
{
    struct termios t;

    if (!isatty(fd))
        return false;
    if (!term_is_ours(fd))
        return true;
    if (atomic_load(&raw)) {
        tcsetattr(fd, TCSANOW, &raw_settings);
        return true;
    }
    if (tcgetattr(fd, &saved))
        return false;
    saved_fd = fd;
    t = saved;
    t.c_iflag &= (tcflag_t) ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= (tcflag_t) ~(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
    t.c_cflag = (t.c_cflag & (tcflag_t) ~(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    if (!known)
        atexit(term_restore);
    known = true;
    for (size_t i = 0; i < ARRAY_LEN(fatal_signals); i++)
        catch_fatal(fatal_signals[i]);
    raw_settings = t;
    atomic_store(&raw, true);
    tcsetattr(fd, TCSANOW, &t);
    return true;
}
