// Programs at their most awkward, asked by a program of the guest: faults of every kind and what a handler is told of them, storms of
// processes and signals, mappings that change, code that is written as it runs, single steps, stacks that are swapped or thrown away,
// floating point across all of that. It is built for 64 and for 32 bits, and runs on the host as well: what fails in the guest but not there
// is the machine's fault.
//
// Usage: trial [MILLISECONDS [NAME...]]. Every trial (or those whose names begin so) goes on for that long, in a process of its own, and
// says "ok NAME (ROUNDS)" or "not ok NAME: why". It is linked statically: the guest has no libraries.
#include "trial.h"

#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>

#define LIMIT_S 300 // for one trial, on a slow machine

static const struct trial {
    const char *name;
    u64 (*run)(void);
} trials[] = {
#define TRIAL_ROW(name) {#name, trial_##name},
    TRIALS(TRIAL_ROW)};

static const char *running;
static u64 duration_ns = 500000000, deadline_ns;
static u32 noise_state;

static u64 now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

void fail(const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dprintf(STDOUT_FILENO, "not ok %s: %s\n", running, text);
    _exit(1);
}

bool more(void)
{
    return now_ns() < deadline_ns;
}

u32 noise(void)
{
    noise_state ^= noise_state << 13;
    noise_state ^= noise_state >> 17;
    return noise_state ^= noise_state << 5;
}

void *map(void *at, size_t len, int prot)
{
    void *p = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);
    if (p == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    return p;
}

void protect(void *p, size_t len, int prot)
{
    if (mprotect(p, len, prot))
        fail("mprotect: %s", strerror(errno));
}

void handle(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    if (sigaction(sig, &sa, NULL))
        fail("sigaction: %s", strerror(errno));
}

void own_signal_stack(void)
{
    stack_t s = {.ss_size = 64 * PAGE};
    s.ss_sp = map(NULL, s.ss_size, PROT_READ | PROT_WRITE);
    if (sigaltstack(&s, NULL))
        fail("sigaltstack: %s", strerror(errno));
}

void tick_every(unsigned us)
{
    struct itimerval t = {{0, us}, {0, us}};
    if (setitimer(ITIMER_REAL, &t, NULL))
        fail("setitimer: %s", strerror(errno));
}

int reap(pid_t pid)
{
    int status = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            fail("waitpid(%d): %s", (int)pid, strerror(errno));
    return status;
}

uintptr_t call_with(const void *code, uintptr_t arg)
{
    uintptr_t result;
#ifdef __x86_64__
    __asm__ volatile("call *%2"
                     : "=a"(result), "+D"(arg)
                     : "b"(code)
                     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
#else
    __asm__ volatile("call *%2" : "=a"(result), "+D"(arg) : "b"(code) : "ecx", "edx", "esi", "memory", "cc");
#endif
    return result;
}

// The child has a group of its own, which goes with it: a trial that fails leaves nobody behind.
static bool run(const struct trial *t)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        running = t->name;
        noise_state = 2463534242;
        deadline_ns = now_ns() + duration_ns;
        u64 rounds = t->run();
        if (!rounds)
            fail("no round");
        dprintf(STDOUT_FILENO, "ok %s (%llu)\n", running, (unsigned long long)rounds);
        _exit(0);
    }
    if (pid < 0) {
        printf("not ok %s: fork: %s\n", t->name, strerror(errno));
        return false;
    }
    u64 limit = now_ns() + duration_ns + LIMIT_S * 1000000000ull;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        usleep(2000);
        if (now_ns() > limit) {
            printf("not ok %s: it did not end\n", t->name);
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            return false;
        }
    }
    kill(-pid, SIGKILL);
    if (WIFSIGNALED(status))
        printf("not ok %s: signal %d\n", t->name, WTERMSIG(status));
    else if (WEXITSTATUS(status) > 1)
        printf("not ok %s: exit status %d\n", t->name, WEXITSTATUS(status));
    return status == 0;
}

int main(int argc, char **argv)
{
    unsigned failed = 0;
    if (argc == 3 && !strcmp(argv[1], "--answer"))
        return atoi(argv[2]) + 1;
    if (argc > 1)
        duration_ns = 1000000 * (u64)atoi(argv[1]);
    setvbuf(stdout, NULL, _IONBF, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(trials); i++) {
        bool wanted = argc < 3;
        for (int k = 2; k < argc; k++)
            wanted |= !strncmp(trials[i].name, argv[k], strlen(argv[k]));
        failed += wanted && !run(&trials[i]);
    }
    return failed > 0;
}
