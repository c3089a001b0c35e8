// Loads that ask the operating system: processes, pipes, memory, system calls.
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loads.h"

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int done(unsigned size)
{
    printf("%u\n", size);
    return 0;
}

int load_fork(unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        int status;
        pid_t child = fork();
        if (child < 0)
            return failed("fork");
        if (!child)
            _exit(7);
        if (waitpid(child, &status, 0) != child || status != 7 << 8)
            return failed("wait");
    }
    return done(size);
}

static int exec_once(void)
{
    int status;
    pid_t child = vfork();
    if (child < 0)
        return failed("vfork");
    if (!child) {
        execl("/bench/loads", "loads", "nothing", (char *)NULL);
        _exit(1);
    }
    return waitpid(child, &status, 0) != child || status ? failed("exec") : 0;
}

int load_exec(unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        if (exec_once())
            return 1;
    }
    return done(size);
}

int load_pipe(unsigned size)
{
    int there[2], back[2];
    unsigned char c = 0;
    if (pipe(there) || pipe(back))
        return failed("pipe");
    pid_t child = fork();
    if (child < 0)
        return failed("fork");
    if (!child) {
        close(there[1]);
        while (read(there[0], &c, 1) == 1) {
            c++;
            if (write(back[1], &c, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    for (unsigned i = 0; i < size; i++) {
        unsigned char want = (unsigned char)(c + 1);
        if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1 || c != want)
            return failed("ping-pong");
    }
    close(there[1]);
    waitpid(child, NULL, 0);
    return done(size);
}

#define PAGE 4096u
#define CHUNK 1024u // pages

int load_fault(unsigned size)
{
    for (unsigned i = 0; i < size; i += CHUNK) {
        char *p = mmap(NULL, CHUNK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return failed("mmap");
        madvise(p, CHUNK * PAGE, MADV_NOHUGEPAGE);
        for (unsigned k = 0; k < CHUNK; k++)
            p[k * PAGE]++;
        munmap(p, CHUNK * PAGE);
    }
    return done(size);
}

int load_mmap(unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return failed("mmap");
        p[(i & 15) * PAGE] = 1;
        if (munmap(p, 16 * PAGE))
            return failed("munmap");
    }
    return done(size);
}

int load_syscall(unsigned size)
{
    long sum = 0, parent = syscall(SYS_getppid);
    for (unsigned i = 0; i < size; i++)
        sum += syscall(SYS_getppid) != parent;
    return sum ? failed("getppid") : done(size);
}
