// -daemonize and -pidfile.

#include "cli/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ready_fd = -1; // the process's: the parent waits for a byte from it

static _Noreturn void wait_for_child(int fd)
{
    char byte;
    ssize_t n;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    _exit(n == 1 ? 0 : 1); // the child has said what is wrong
}

int daemon_fork(struct error *err)
{
    int fd[2];
    pid_t pid;

    fflush(NULL);
    if (pipe2(fd, O_CLOEXEC))
        return error_set(err, -errno, "-daemonize: cannot make a pipe: %s", strerror(errno));
    pid = fork();
    if (pid < 0)
        return error_set(err, -errno, "-daemonize: cannot fork: %s", strerror(errno));
    if (pid) {
        close(fd[1]);
        wait_for_child(fd[0]);
    }
    close(fd[0]);
    ready_fd = fd[1];
    setsid();
    return 0;
}

void daemon_ready(void)
{
    int null;

    if (ready_fd < 0)
        return;
    fflush(NULL);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
    // A parent that was killed meanwhile does not matter.
    if (write(ready_fd, "", 1) == 1)
        close(ready_fd);
    ready_fd = -1;
}

int pidfile_create(const char *path, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    if (fd < 0)
        return error_set(err, -errno, "-pidfile %s: cannot create: %s", path, strerror(errno));
    // The descriptor stays open: the lock ends with the process.
    if (lockf(fd, F_TLOCK, 0)) {
        close(fd);
        return error_set(err, -EBUSY, "-pidfile %s: another process has it; choose another file", path);
    }
    if (ftruncate(fd, 0) || write(fd, text, (size_t)len) != len) {
        int ret = -errno;
        close(fd);
        return error_set(err, ret, "-pidfile %s: cannot write: %s", path, strerror(-ret));
    }
    return 0;
}

void pidfile_remove(const char *path)
{
    unlink(path);
}
