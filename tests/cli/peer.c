// The other end of pogo's character devices, for shell tests.
//
//   peer unix PATH | tcp PORT     connect (trying for some seconds), then play the script
//   peer listen PATH              wait for a connection on a Unix socket, then play the script
//   peer open PATH                open a pseudo-terminal or a pipe for both directions, then play the script
//   peer tty PROGRAM [ARGS...]    run the program on a terminal of its own, and play the script there; its exit status is printed
//
// The script is read from standard input, a command a line:
//   send TEXT      \n \r \e \\ and \xHH are understood
//   expect TEXT    until this comes, or fail after some seconds
//   silence MS     nothing must come for so long
//   sleep MS
//   signal NUMBER  to the program (tty)
//   cooked | raw   check the terminal's mode (tty)
// What comes is copied to standard output. Exit status 0 when all went as the script says.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static int fd;
static pid_t child;
static char seen[1 << 20];
static size_t seen_len, matched; // what came; up to where it was expected already

static _Noreturn void fail(const char *what, const char *about)
{
    fprintf(stderr, "peer: %s: %s\n", what, about);
    if (child)
        kill(child, SIGKILL);
    exit(1);
}

static long now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int connect_now(int domain, const void *addr, socklen_t len)
{
    int s = socket(domain, SOCK_STREAM, 0);
    if (s >= 0 && !connect(s, addr, len))
        return s;
    close(s);
    return -1;
}

static int try_connect(int domain, const void *addr, socklen_t len)
{
    for (long end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(20000)) {
        int s = connect_now(domain, addr, len);
        if (s >= 0)
            return s;
    }
    fail("connect", strerror(errno));
}

static struct sockaddr_un unix_addr(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    return a;
}

static void listen_at(const char *path)
{
    struct sockaddr_un a = unix_addr(path);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(path);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 1))
        fail("listen", strerror(errno));
    fd = accept(s, NULL, NULL);
    close(s);
}

static void run_on_tty(char **argv)
{
    struct winsize size = {.ws_row = 25, .ws_col = 80};
    child = forkpty(&fd, NULL, NULL, &size);
    if (child)
        return;
    execvp(argv[0], argv);
    _exit(127);
}

// Read for at most `ms`. Returns false when nothing came, or nobody is there any more.
static bool take(long ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n;

    if (poll(&p, 1, (int)ms) < 1)
        return false;
    n = read(fd, seen + seen_len, sizeof(seen) - 1 - seen_len);
    if (n <= 0)
        return false;
    fwrite(seen + seen_len, 1, (size_t)n, stdout);
    fflush(stdout);
    seen_len += (size_t)n;
    seen[seen_len] = 0;
    return true;
}

static void expect(const char *text)
{
    long end = now_ms() + PATIENCE_MS;

    for (;;) {
        char *at = memmem(seen + matched, seen_len - matched, text, strlen(text));
        if (at) {
            matched = (size_t)(at - seen) + strlen(text);
            return;
        }
        if (now_ms() > end || (!take(end - now_ms()) && now_ms() < end))
            fail("did not come", text);
    }
}

static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        unsigned code;
        if (*s != '\\' || !s[1])
            *out++ = *s;
        else if (*++s == 'n')
            *out++ = '\n';
        else if (*s == 'r')
            *out++ = '\r';
        else if (*s == 'e')
            *out++ = 033;
        else if (*s == 'x' && sscanf(s + 1, "%2x", &code) == 1)
            *out++ = (char)code, s += 2;
        else
            *out++ = *s;
    }
    *out = 0;
}

static void check_mode(bool raw)
{
    struct termios t;
    long end = now_ms() + PATIENCE_MS;

    do {
        if (!tcgetattr(fd, &t) && !(t.c_lflag & ICANON) == raw)
            return;
        take(20);
    } while (now_ms() < end);
    fail("terminal is not", raw ? "raw" : "cooked");
}

static void play(char *line)
{
    char *arg = strchr(line, ' ');

    if (arg)
        *arg++ = 0;
    else
        arg = line + strlen(line);
    if (!strcmp(line, "send")) {
        unescape(arg);
        if (write(fd, arg, strlen(arg)) != (ssize_t)strlen(arg))
            fail("write", strerror(errno));
    } else if (!strcmp(line, "expect")) {
        unescape(arg);
        expect(arg);
    } else if (!strcmp(line, "silence")) {
        matched = seen_len;
        if (take(atoi(arg)))
            fail("came", seen + matched);
    } else if (!strcmp(line, "sleep")) {
        usleep((unsigned)atoi(arg) * 1000);
    } else if (!strcmp(line, "signal")) {
        kill(child, atoi(arg));
    } else if (!strcmp(line, "raw") || !strcmp(line, "cooked")) {
        check_mode(*line == 'r');
    } else {
        fail("unknown command", line);
    }
}

static void wait_child(void)
{
    int status;

    while (take(PATIENCE_MS))
        ;
    for (long end = now_ms() + PATIENCE_MS; waitpid(child, &status, WNOHANG) == 0; usleep(20000))
        if (now_ms() > end)
            fail("it goes on", "the program");
    printf("\nstatus %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int main(int argc, char **argv)
{
    char line[4096];

    signal(SIGPIPE, SIG_IGN);
    if (argc < 3)
        fail("usage", "see the source");
    if (!strcmp(argv[1], "unix")) {
        struct sockaddr_un a = unix_addr(argv[2]);
        fd = try_connect(AF_UNIX, &a, sizeof(a));
    } else if (!strcmp(argv[1], "tcp")) {
        struct sockaddr_in a = {.sin_family = AF_INET,
                                .sin_port = htons((unsigned short)atoi(argv[2])),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = try_connect(AF_INET, &a, sizeof(a));
    } else if (!strcmp(argv[1], "listen")) {
        listen_at(argv[2]);
    } else if (!strcmp(argv[1], "open")) {
        fd = open(argv[2], O_RDWR | O_NOCTTY);
    } else {
        run_on_tty(argv + 2);
    }
    if (fd < 0)
        fail(argv[2], strerror(errno));
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (*line)
            play(line);
    }
    if (child)
        wait_child();
    return 0;
}
