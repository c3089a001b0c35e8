// Processes, threads and mappings in numbers.
#include "trial.h"

#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#ifdef __x86_64__
#include <asm/prctl.h>
#include <sys/auxv.h>
#endif
#include <setjmp.h>

// --- processes ----------------------------------------------------------------------------------------------------------------

static volatile u32 *shared_by_copy;

// A tree of processes; each sees its parent's memory and changes its own. The status is the number of leaves.
static int tree(unsigned depth, u32 mark)
{
    int leaves = 0;
    if (depth == 0)
        return 1;
    for (unsigned i = 0; i < 2; i++) {
        u32 mine = mark * 2 + i;
        pid_t pid = fork();
        if (pid < 0)
            fail("fork: %s", strerror(errno));
        if (pid == 0) {
            for (unsigned k = 0; k < 8; k++) {
                if (shared_by_copy[k * 1024] != mark)
                    _exit(200);
                shared_by_copy[k * 1024] = mine;
            }
            _exit(tree(depth - 1, mine));
        }
        int status = reap(pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status) >= 200)
            return 201;
        leaves += WEXITSTATUS(status);
    }
    for (unsigned k = 0; k < 8; k++)
        if (shared_by_copy[k * 1024] != mark)
            return 202;
    return leaves;
}

// Many at once, which end in any order.
static void brood(void)
{
    pid_t pid[24];
    unsigned sum = 0, want = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(pid); i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            u32 h = i;
            for (unsigned k = 0; k < 20000; k++)
                h = h * 1664525 + 1013904223;
            _exit((int)(i + (h == 0)));
        }
        want += i;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(pid); i++) {
        int status = reap(-1);
        sum += WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 1000;
    }
    if (sum != want)
        fail("the children say %u, not %u", sum, want);
}

u64 trial_fork_storm(void)
{
    u64 n = 0;
    shared_by_copy = map(NULL, 8 * PAGE, PROT_READ | PROT_WRITE);
    do {
        for (unsigned k = 0; k < 8; k++)
            shared_by_copy[k * 1024] = 1;
        int leaves = tree(5, 1);
        if (leaves != 32)
            fail("%d leaves of a tree of processes", leaves);
        brood();
        n++;
    } while (more());
    return n;
}

u64 trial_exec_storm(void)
{
    volatile u64 n = 0;
    do {
        char number[16];
        char *argv[] = {"trial", "--answer", number, NULL}, *envp[] = {"A=1", NULL};
        pid_t pid;
        snprintf(number, sizeof number, "%u", (unsigned)n % 100);
        if (n % 3 == 0) {
            int e = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, envp);
            if (e)
                fail("posix_spawn: %s", strerror(e));
        } else {
            pid = n % 3 == 1 ? vfork() : fork();
            if (pid == 0) {
                execve("/proc/self/exe", argv, envp);
                _exit(210);
            }
        }
        int status = reap(pid);
        if (status != ((int)(n % 100) + 1) << 8)
            fail("exec %lu: status %x", (long)n, status);
        n++;
    } while (more());
    return n;
}

// --- threads ------------------------------------------------------------------------------------------------------------------

static __thread u32 own_word;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned turn;
static u64 guarded;
static u32 counted;

#define RING 6

static void *ring(void *arg)
{
    unsigned id = (unsigned)(uintptr_t)arg;
    own_word = id * 1000;
    for (unsigned i = 0; i < 50; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % RING != id)
            pthread_cond_wait(&cond, &mutex);
        turn++;
        guarded += id;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&mutex);
        own_word++;
        __atomic_fetch_add(&counted, 1, __ATOMIC_SEQ_CST);
    }
    return (void *)(uintptr_t)own_word;
}

u64 trial_thread_storm(void)
{
    u64 n = 0;
    do {
        pthread_t t[RING];
        turn = 0;
        guarded = counted = 0;
        for (unsigned i = 0; i < RING; i++)
            if (pthread_create(&t[i], NULL, ring, (void *)(uintptr_t)i))
                fail("pthread_create: %s", strerror(errno));
        for (unsigned i = 0; i < RING; i++) {
            void *v;
            pthread_join(t[i], &v);
            if ((uintptr_t)v != i * 1000 + 50)
                fail("thread %u ended with %lu", i, (long)(uintptr_t)v);
        }
        if (turn != 50 * RING || counted != turn || guarded != 50 * RING * (RING - 1) / 2)
            fail("%u turns, %u counted, sum %lu", turn, counted, (long)guarded);
        n++;
    } while (more());
    return n;
}

#ifdef __x86_64__
static uintptr_t read_gs(unsigned offset)
{
    uintptr_t v;
    __asm__ volatile("mov %%gs:(%1),%0" : "=r"(v) : "r"((uintptr_t)offset));
    return v;
}

// GS is the program's own.
static void *work_bases(void *arg)
{
    uintptr_t id = (uintptr_t)arg, n = 0;
    uintptr_t *area = map(NULL, 2 * PAGE, PROT_READ | PROT_WRITE);
    bool by_insn = getauxval(AT_HWCAP2) & 2;
    for (unsigned i = 0; i < 2 * PAGE / 8; i++)
        area[i] = id << 32 | i;
    do {
        unsigned from = (unsigned)(n % 64) * 8;
        if (by_insn && n % 2)
            __asm__ volatile("wrgsbase %0" : : "r"(area + from / 8));
        else
            syscall(SYS_arch_prctl, ARCH_SET_GS, area + from / 8);
        own_word = (u32)(id * 100000 + n);
        for (unsigned i = 0; i < 40; i++) {
            if (read_gs(i * 8) != (id << 32 | (from / 8 + i)))
                fail("thread %lu finds %lx at GS:%x", (long)id, (long)read_gs(i * 8), i * 8);
            if (own_word != (u32)(id * 100000 + n))
                fail("thread %lu finds another's word", (long)id);
            if (i % 16 == 15)
                sched_yield();
        }
        uintptr_t base = 0;
        syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
        if (base != (uintptr_t)(area + from / 8))
            fail("GS base %lx, not %p", (long)base, (void *)(area + from / 8));
        n++;
    } while (more());
    return (void *)n;
}

static void nothing(int sig, siginfo_t *info, void *uc)
{
    (void)sig;
    (void)info;
    (void)uc;
}

u64 trial_thread_bases(void)
{
    pthread_t t[4];
    uintptr_t n = 0;
    handle(SIGALRM, nothing, SA_RESTART);
    tick_every(500);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        if (pthread_create(&t[i], NULL, work_bases, (void *)(uintptr_t)(i + 1)))
            fail("pthread_create: %s", strerror(errno));
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        void *v;
        pthread_join(t[i], &v);
        n += (uintptr_t)v;
    }
    return n;
}
#else
u64 trial_thread_bases(void)
{
    return 1; // segments.c has what GS is in 32 bits
}
#endif

// --- mappings -----------------------------------------------------------------------------------------------------------------

#define SLOTS 48
enum slot_state { GONE, CLOSED, READABLE, WRITABLE, SLOT_STATES };
static const int slot_prot[SLOT_STATES] = {0, PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};

static sigjmp_buf churn_out;
static void churn_fault(int sig, siginfo_t *info, void *uc)
{
    (void)sig;
    (void)info;
    (void)uc;
    siglongjmp(churn_out, 1);
}

static bool can_read(volatile u32 *p, u32 *v)
{
    if (sigsetjmp(churn_out, 1))
        return false;
    *v = *p;
    return true;
}

static bool can_write(volatile u32 *p, u32 v)
{
    if (sigsetjmp(churn_out, 1))
        return false;
    *p = v;
    return true;
}

// What memory should be, against what it is: pages are mapped, closed, opened, moved and taken away.
u64 trial_mapping_churn(void)
{
    static enum slot_state state[SLOTS];
    static u32 value[SLOTS];
    volatile u64 n = 0;
    char *area = map(NULL, (SLOTS + 1) * PAGE, PROT_NONE);
    handle(SIGSEGV, churn_fault, 0);
    handle(SIGBUS, churn_fault, 0);
    munmap(area, SLOTS * PAGE);
    do {
        unsigned i = noise() % SLOTS, k = noise() % SLOTS;
        char *p = area + i * PAGE;
        enum slot_state s = 1 + noise() % 3;
        u32 v;
        switch (noise() % 8) {
        case 0:
            munmap(p, PAGE);
            state[i] = GONE;
            break;
        case 1:
            map(p, PAGE, slot_prot[s]);
            state[i] = s;
            value[i] = 0;
            break;
        case 2:
            if (state[i] != GONE && madvise(p, PAGE, MADV_DONTNEED) == 0)
                value[i] = 0;
            break;
        case 3:
            if (i != k && state[i] != GONE) {
                if (mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, area + k * PAGE) == MAP_FAILED)
                    fail("mremap: %s", strerror(errno));
                state[k] = state[i];
                value[k] = value[i];
                state[i] = GONE;
            }
            break;
        default:
            if (state[i] != GONE) {
                protect(p, PAGE, slot_prot[s]);
                state[i] = s;
            }
            break;
        }
        for (unsigned j = 0; j < 3; j++, i = (i + k + j) % SLOTS) {
            u32 fresh = noise();
            volatile u32 *word = (volatile u32 *)(area + i * PAGE) + 5;
            if (can_read(word, &v) != (state[i] >= READABLE))
                fail("round %lu: page %u in state %u can or cannot be read", (long)n, i, state[i]);
            if (state[i] >= READABLE && v != value[i])
                fail("round %lu: page %u has %x, not %x", (long)n, i, v, value[i]);
            if (can_write(word, fresh) != (state[i] == WRITABLE))
                fail("round %lu: page %u in state %u can or cannot be written", (long)n, i, state[i]);
            if (state[i] == WRITABLE)
                value[i] = fresh;
        }
        n++;
    } while (n % 64 || more());
    return n;
}

// Two pages change places under the addresses that a loop reads and writes, of a file in memory that is mapped at other places, too.
u64 trial_mapping_swaps(void)
{
    u64 n = 0;
    int fd = memfd_create("trial", 0);
    if (fd < 0 || ftruncate(fd, 4 * PAGE))
        fail("memfd_create: %s", strerror(errno));
    volatile u32 *all = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *view = map(NULL, 2 * PAGE, PROT_NONE);
    do {
        unsigned a = noise() % 4, b = noise() % 4;
        for (unsigned i = 0; i < 2; i++)
            if (mmap(view + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                     (off_t)((i ? b : a) * PAGE)) == MAP_FAILED)
                fail("mmap: %s", strerror(errno));
        volatile u32 *x = (volatile u32 *)view, *y = (volatile u32 *)(view + PAGE);
        u32 v = noise();
        *x = v;
        *y = v + 1;
        if (*x != (a == b ? v + 1 : v) || all[b * 1024] != v + 1 || all[a * 1024] != *x)
            fail("page %u has %x and %x, page %u %x and %x", a, *x, all[a * 1024], b, *y, all[b * 1024]);
        // An access over the boundary of the two.
        volatile u64 *both = (volatile u64 *)(view + PAGE - 4);
        *both = v * 0x100000001ull;
        if (all[a * 1024 + 1023] != v || all[b * 1024] != v || *both != v * 0x100000001ull)
            fail("over the boundary of %u and %u: %llx", a, b, (unsigned long long)*both);
        n++;
    } while (n % 64 || more());
    return n;
}
