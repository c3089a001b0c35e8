// host_ops on Linux: memory, the monotonic clock, futexes for wake-ups, a log file.
//
// A wake-up is sticky: wake() before wait() makes that wait() return at once. So a vCPU that looks at its requests, finds none
// and goes to sleep cannot miss one that came in between, and no lock is held around both.

#include "host/linux.h"
#include "host/native_arena.h"

#include <asm/hwcap2.h>
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define LOG_PATIENCE_MS 1000
#define NS_PER_S 1000000000ull

static u64 clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (u64)ts.tv_sec * NS_PER_S + (u64)ts.tv_nsec;
}

static void *linux_mem_alloc(void *host, const char *name, u64 size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)host;
    if (p == MAP_FAILED)
        return NULL;
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, size, name); // for /proc; older kernels do not know it
    return p;
}

// Anonymous, because that is the memory for which Linux has huge pages without being configured for it: guests touch theirs all over,
// and would take a fault of the host's for every 4 KiB.
static void *linux_ram_alloc(void *host, const char *name, u64 size)
{
    const u64 huge = 2 << 20;
    u8 *p = size < huge ? NULL : linux_mem_alloc(host, name, size + huge);

    if (!p)
        return linux_mem_alloc(host, name, size);
    u64 before = -(u64)p & (huge - 1);
    if (before)
        munmap(p, before);
    munmap(p + before + size, huge - before);
    madvise(p + before, size, MADV_HUGEPAGE);
    return p + before;
}

static void linux_mem_free(void *host, void *p, u64 size)
{
    (void)host;
    if (p)
        munmap(p, size);
}

static u64 linux_now_ns(void *host)
{
    (void)host;
    return clock_ns(CLOCK_MONOTONIC);
}

static u64 linux_tsc(void *host)
{
    (void)host;
    // Not before what the guest did until then: its own LFENCE is not executed.
    _mm_lfence();
    return __rdtsc();
}

static i64 linux_wall_ns(void *host)
{
    (void)host;
    return (i64)clock_ns(CLOCK_REALTIME);
}

static void linux_wait(void *host, u32 waiter, u64 deadline_ns)
{
    struct linux_host *h = host;
    _Atomic u32 *word = &h->woken[waiter % LINUX_HOST_WAITERS];
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NS_PER_S), .tv_nsec = (long)(deadline_ns % NS_PER_S)};

    while (!atomic_exchange(word, 0)) {
        // The BITSET variant takes an absolute monotonic time.
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, 0, deadline_ns == ~0ull ? NULL : &ts, NULL,
                    FUTEX_BITSET_MATCH_ANY) < 0 &&
            errno == ETIMEDOUT)
            return;
    }
}

static void linux_wake(void *host, u32 waiter)
{
    struct linux_host *h = host;
    _Atomic u32 *word = &h->woken[waiter % LINUX_HOST_WAITERS];

    if (!atomic_exchange(word, 1))
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void linux_futex_wait(void *host, _Atomic u32 *word, u32 seen)
{
    (void)host;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void linux_futex_wake(void *host, _Atomic u32 *word)
{
    (void)host;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static const char *const log_names[LOG_COUNT] = {
    [LOG_ERROR] = "error", [LOG_WARN] = "warn",  [LOG_INT] = "int",     [LOG_CPU] = "cpu",
    [LOG_IO] = "io",       [LOG_ASM] = "in_asm", [LOG_UNIMP] = "unimp", [LOG_GUEST_ERROR] = "guest_errors",
    [LOG_BT] = "bt",
};

const char *linux_host_log_name(enum host_log category)
{
    return log_names[category];
}

int linux_host_log_find(const char *name, size_t len)
{
    for (int c = 0; c < LOG_COUNT; c++)
        if (strlen(log_names[c]) == len && !strncmp(log_names[c], name, len))
            return c;
    return -1;
}

static void linux_log(void *host, enum host_log category, const char *text)
{
    struct linux_host *h = host;
    char line[640];
    int len;

    if (h->log_fd < 0) {
        fprintf(h->log, "%s: %s\n", log_names[category], text);
        return;
    }
    // Whoever logs may hold locks that others need to end the machine: a reader who takes nothing is waited for once, and not for
    // long. A line is shorter than what a ready pipe takes at once.
    struct pollfd ready = {.fd = h->log_fd, .events = POLLOUT};
    if (poll(&ready, 1, atomic_load(&h->log_stuck) ? 0 : LOG_PATIENCE_MS) < 1) {
        atomic_store(&h->log_stuck, true);
        atomic_fetch_add(&h->log_lost, 1);
        return;
    }
    atomic_store(&h->log_stuck, false);
    len = snprintf(line, sizeof(line), "%s: %.600s\n", log_names[category], text);
    if (write(h->log_fd, line, (size_t)len) != len)
        atomic_fetch_add(&h->log_lost, 1);
}

static int blocking_fd(FILE *log)
{
    struct stat st;

    return fstat(fileno(log), &st) || S_ISREG(st.st_mode) ? -1 : fileno(log);
}

static void linux_yield(void *host)
{
    (void)host;
    sched_yield();
}

// --- names of generated code --------------------------------------------------------------------------------------------------

#define PERF_NAMES_MAX (1u << 20) // some 50 MB

static int linux_code_alloc(void *host, const char *name, u64 size, u64 near, void (*fault)(struct host_fault *f),
                            struct host_code *code)
{
    struct linux_host *h = host;

    return h->perf_map ? native_arena_alloc_anonymous(size, near, fault, code)
                       : native_arena_alloc(host, name, size, near, fault, code);
}

// Code that takes the place of other code is named again: perf goes by the last line.
static void linux_code_name(void *host, const void *at, u64 size, const char *name)
{
    struct linux_host *h = host;

    if (h->perf_map && atomic_fetch_add(&h->perf_names, 1) < PERF_NAMES_MAX)
        fprintf(h->perf_map, "%llx %llx %s\n", (unsigned long long)(uintptr_t)at, (unsigned long long)size, name);
}

int linux_host_perf_map(struct linux_host *h)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    unlink(path); // of an earlier process of this number; not through a link of somebody else's
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    h->perf_map = fd < 0 ? NULL : fdopen(fd, "w");
    if (!h->perf_map)
        return -errno;
    setvbuf(h->perf_map, NULL, _IOLBF, 0); // whatever becomes of this process
    h->host.names_code = true;
    return 0;
}

void linux_host_fini(struct linux_host *h)
{
    if (h->perf_map)
        fclose(h->perf_map);
    h->perf_map = NULL;
    h->host.names_code = false;
}

static const struct host_ops linux_ops = {
    .mem_alloc = linux_mem_alloc,
    .mem_free = linux_mem_free,
    .ram_alloc = linux_ram_alloc,
    .code_alloc = linux_code_alloc,
    .code_name = linux_code_name,
    .code_free = native_arena_free,
    .now_ns = linux_now_ns,
    .tsc = linux_tsc,
    .wall_ns = linux_wall_ns,
    .wait = linux_wait,
    .wake = linux_wake,
    .yield = linux_yield,
    .futex_wait = linux_futex_wait,
    .futex_wake = linux_futex_wake,
    .log = linux_log,
};

// Frequency as CPUID tells it: leaf 0x15 (SDM 2A, crystal clock ratio), or the hypervisor's timing leaf 0x40000010 (kHz).
// 0 when it does not.
static u64 tsc_hz_cpuid(void)
{
    u32 a, b, c, d;

    if (__get_cpuid_max(0, NULL) >= 0x15) {
        __cpuid_count(0x15, 0, a, b, c, d);
        if (a && b && c)
            return (u64)c * b / a;
    }
    __cpuid(1, a, b, c, d);
    if (c & (1u << 31)) {
        __cpuid(0x40000000, a, b, c, d);
        if (a >= 0x40000010) {
            __cpuid(0x40000010, a, b, c, d);
            return (u64)a * 1000;
        }
    }
    return 0;
}

#define CLOCK_TRIES 32

// As close together as a few tries allow: on a busy host one of them is interrupted now and then.
void linux_clocks_read(struct linux_clocks *c)
{
    u64 best = ~0ull;

    for (int i = 0; i < CLOCK_TRIES; i++) {
        u64 before = __rdtsc();
        u64 now = clock_ns(CLOCK_MONOTONIC);
        u64 took = __rdtsc() - before;

        if (took < best) {
            best = took;
            *c = (struct linux_clocks){.tsc = before + took / 2, .ns = now};
        }
    }
}

// The two readings are each some ten nanoseconds off: so much time makes the error a few millionths.
#define MEASURE_NS (4 * 1000 * 1000)

static u64 tsc_hz_measure(const struct linux_clocks *since)
{
    struct linux_clocks a, b;
    u64 passed;

    if (since)
        a = *since;
    else
        linux_clocks_read(&a);
    passed = clock_ns(CLOCK_MONOTONIC) - a.ns;
    if (passed < MEASURE_NS)
        nanosleep(&(struct timespec){.tv_nsec = (long)(MEASURE_NS - passed)}, NULL);
    linux_clocks_read(&b);
    return b.ns > a.ns ? (u64)((unsigned __int128)(b.tsc - a.tsc) * NS_PER_S / (b.ns - a.ns)) : NS_PER_S;
}

u64 linux_host_tsc_hz(const struct linux_clocks *since, bool *by_cpuid)
{
    u64 hz = tsc_hz_cpuid();

    *by_cpuid = hz;
    return hz ? hz : tsc_hz_measure(since);
}

void linux_host_init(struct linux_host *h, u32 log_mask, FILE *log, const struct linux_clocks *since)
{
    bool by_cpuid;

    *h = (struct linux_host){.log = log, .log_fd = blocking_fd(log)};
    h->host = (struct host){.ops = &linux_ops, .self = h, .log_mask = log_mask};
    h->host.tsc_hz = linux_host_tsc_hz(since, &by_cpuid);
    h->host.gs_is_free = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
}
