// What goes wrong first when processors do not agree, asked by a program of the guest: atomic instructions, the order of loads and
// stores, locks that sleep, stores through translations that were taken away, code that changes while others run it, processes that
// come and go, registers across switches and signals.
//
// Usage: stress [MILLISECONDS]. Every test runs on twice as many threads as there are processors, for that long; what it counts must
// come out exact. It says "ok NAME" or "not ok NAME: why" as the scripts beside it do. It is linked statically: the guest has no
// libraries.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 64
#define PAGE 4096
#define MEMBARRIER_SYNC_CORE 32
#define MEMBARRIER_REGISTER_SYNC_CORE 64

struct worker {
    unsigned id;
    uint64_t count; // of what the test counts
    uint64_t extra;
    unsigned seed;
};

static unsigned threads;
static unsigned duration_us = 1500000;
static _Atomic bool stop;
static struct worker workers[MAX_THREADS];

// The first thing that went wrong in the test that runs; the rest follows from it.
static _Atomic bool wrong;
static char wrong_text[200];

__attribute__((format(printf, 1, 2))) static void fail(const char *fmt, ...)
{
    va_list ap;
    if (atomic_exchange(&wrong, true))
        return;
    va_start(ap, fmt);
    vsnprintf(wrong_text, sizeof wrong_text, fmt, ap);
    va_end(ap);
    atomic_store(&stop, true);
}

// Run `work` on all threads until the time is over; the sum of what they counted.
static uint64_t run_threads(void *(*work)(void *))
{
    pthread_t t[MAX_THREADS];
    uint64_t sum = 0;
    atomic_store(&stop, false);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.id = i, .seed = 12345 + i};
        if (pthread_create(&t[i], NULL, work, &workers[i])) {
            fail("pthread_create: %s", strerror(errno));
            threads = i;
            break;
        }
    }
    for (unsigned us = 0; us < duration_us && !stop; us += 10000)
        usleep(10000);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(t[i], NULL);
        sum += workers[i].count;
    }
    return sum;
}

static void expect(const char *what, uint64_t got, uint64_t want)
{
    if (got != want)
        fail("%s: %lu, not %lu", what, got, want);
}

// --- atomic instructions ------------------------------------------------------------------------------------------------------

static _Atomic uint64_t added, swapped, toggled;
static struct pair {
    uint64_t lo, hi;
} pair __attribute__((aligned(16)));

static bool pair_swap(struct pair *p, struct pair *old, struct pair new)
{
    bool ok;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(ok), "+m"(*p), "+a"(old->lo), "+d"(old->hi)
                     : "b"(new.lo), "c"(new.hi)
                     : "memory");
    return ok;
}

static void *work_atomics(void *arg)
{
    struct worker *w = arg;
    struct pair old = {0, 0};
    while (!stop) {
        atomic_fetch_add(&added, 1);
        uint64_t v = atomic_load(&swapped);
        while (!atomic_compare_exchange_weak(&swapped, &v, v + 3))
            ;
        atomic_fetch_xor(&toggled, 1ull << w->id);
        while (!pair_swap(&pair, &old, (struct pair){old.lo + 1, old.hi - 1}))
            if (old.lo + old.hi)
                fail("the halves of a pair are %lu and %lu", old.lo, old.hi);
        w->count++;
    }
    return NULL;
}

static void test_atomics(void)
{
    uint64_t n = run_threads(work_atomics), bits = 0;
    for (unsigned i = 0; i < threads; i++)
        bits |= (workers[i].count & 1) << i;
    expect("LOCK XADD", added, n);
    expect("LOCK CMPXCHG", swapped, 3 * n);
    expect("LOCK XOR", toggled, bits);
    expect("LOCK CMPXCHG16B", pair.lo, n);
}

// --- order --------------------------------------------------------------------------------------------------------------------

// Between neighbours. Stores are seen in their order; a store and a later load need a fence between them, and keep their order
// then: Peterson's lock.
static struct couple {
    volatile uint64_t data, ready;
    char pad1[112];
    volatile int want[2], turn;
    uint64_t guarded;
    char pad2[104];
} couples[MAX_THREADS / 2];

static void peterson(struct couple *c, unsigned me)
{
    c->want[me] = 1;
    c->turn = (int)!me;
    __asm__ volatile("mfence" ::: "memory");
    for (unsigned n = 1; c->want[!me] && c->turn == (int)!me; n++)
        if (n % 64 == 0)
            sched_yield();
    c->guarded++;
    __asm__ volatile("" ::: "memory");
    c->want[me] = 0;
}

static void *work_order(void *arg)
{
    struct worker *w = arg;
    struct couple *c = &couples[w->id / 2];
    unsigned me = w->id % 2;
    while (!stop) {
        if (me == 0) {
            c->data = w->extra + 1;
            c->ready = ++w->extra;
        } else {
            uint64_t ready = c->ready, data = c->data;
            if (data < ready || ready < w->extra)
                fail("stores out of order: %lu, then %lu", data, ready);
            w->extra = ready;
        }
        peterson(c, me);
        w->count++;
    }
    return NULL;
}

static void test_order(void)
{
    uint64_t n = run_threads(work_order), guarded = 0;
    for (unsigned i = 0; i < threads / 2; i++)
        guarded += couples[i].guarded;
    expect("Peterson's lock", guarded, n);
}

// --- locks that sleep -----------------------------------------------------------------------------------------------------------

// A queue that is mostly full or empty, so that its users sleep and wake each other.
static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_full, not_empty;
    uint64_t slot[4];
    unsigned used, at;
    uint64_t guarded;
    bool closed;
} queue = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .not_full = PTHREAD_COND_INITIALIZER, .not_empty = PTHREAD_COND_INITIALIZER};

static void put(uint64_t v)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.used == 4 && !queue.closed)
        pthread_cond_wait(&queue.not_full, &queue.lock);
    if (queue.used < 4) {
        queue.slot[(queue.at + queue.used++) % 4] = v;
        queue.guarded += v;
    }
    pthread_cond_signal(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
}

static bool get(uint64_t *v)
{
    pthread_mutex_lock(&queue.lock);
    while (!queue.used && !queue.closed)
        pthread_cond_wait(&queue.not_empty, &queue.lock);
    bool some = queue.used;
    if (some) {
        *v = queue.slot[queue.at];
        queue.at = (queue.at + 1) % 4;
        queue.used--;
    }
    pthread_cond_signal(&queue.not_full);
    pthread_mutex_unlock(&queue.lock);
    return some;
}

static void *work_locks(void *arg)
{
    struct worker *w = arg;
    uint64_t v;
    if (w->id % 2) {
        while (get(&v))
            w->count += v;
        return NULL;
    }
    while (!stop)
        put(++w->extra);
    pthread_mutex_lock(&queue.lock);
    queue.closed = true;
    pthread_cond_broadcast(&queue.not_full);
    pthread_cond_broadcast(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

static void test_locks(void)
{
    uint64_t got = run_threads(work_locks), v;
    while (queue.used && get(&v))
        got += v;
    expect("what went through the queue", got, queue.guarded);
    if (!got)
        fail("nothing went through the queue");
}

// --- translations that are taken away ---------------------------------------------------------------------------------------------

// All threads but the first store into a page all the time. The first takes away the right to, or puts another page there: from
// then on the old page, which it sees elsewhere, stays as it is.
static volatile uint64_t *shared_page; // where they store
static uint64_t *alias;                // two pages of the same file
static int shared_file;
static __thread sigjmp_buf on_fault;

static void handle_fault(int sig)
{
    (void)sig;
    siglongjmp(on_fault, 1);
}

static void *work_stores(void *arg)
{
    struct worker *w = arg;
    if (sigsetjmp(on_fault, 1)) {
        w->extra++;
        sched_yield();
    }
    while (!stop) {
        for (unsigned i = 0; i < 100; i++)
            shared_page[w->id] = ++w->seed;
        w->count++;
    }
    return NULL;
}

static uint64_t sum_page(unsigned page)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < threads; i++)
        sum += ((volatile uint64_t *)alias)[page * PAGE / 8 + i];
    return sum;
}

static void must_be_still(unsigned page, const char *what)
{
    uint64_t before = sum_page(page);
    usleep(300);
    if (sum_page(page) != before)
        fail("a store after %s", what);
}

static void *map_shared(unsigned page)
{
    return mmap((void *)shared_page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, shared_file, page * PAGE);
}

static void *work_mappings(void *arg)
{
    struct worker *w = arg;
    void *p = (void *)shared_page;
    if (w->id)
        return work_stores(arg);
    while (!stop) {
        mprotect(p, PAGE, w->extra & 2 ? PROT_READ : PROT_NONE);
        must_be_still(0, "mprotect");
        mprotect(p, PAGE, PROT_READ | PROT_WRITE);
        usleep(200);
        map_shared(1);
        must_be_still(0, "mmap of another page");
        uint64_t before = sum_page(1);
        for (unsigned i = 0; i < 1000 && sum_page(1) == before; i++)
            usleep(100);
        map_shared(0);
        must_be_still(1, "mmap of the first page");
        w->extra++;
    }
    return NULL;
}

static void test_shootdown(void)
{
    struct sigaction sa = {.sa_handler = handle_fault}, old;
    sigaction(SIGSEGV, &sa, &old);
    shared_file = memfd_create("stress", 0);
    if (shared_file < 0 || ftruncate(shared_file, 2 * PAGE))
        fail("memfd: %s", strerror(errno));
    shared_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file, 0);
    alias = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file, 0);
    uint64_t stores = run_threads(work_mappings), faults = 0;
    for (unsigned i = 1; i < threads; i++)
        faults += workers[i].extra;
    if (!stores || !faults)
        fail("%lu stores, %lu faults", stores, faults);
    if (workers[0].extra < 3)
        fail("only %lu rounds", workers[0].extra);
    sigaction(SIGSEGV, &old, NULL);
}

// Fresh memory is zero, also where there was something a moment ago.
static void *work_memory(void *arg)
{
    struct worker *w = arg;
    while (!stop) {
        size_t size = (1 + rand_r(&w->seed) % 24) * PAGE;
        uint64_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            fail("mmap: %s", strerror(errno));
            break;
        }
        for (size_t i = 0; i < size / 8; i += 64) {
            if (p[i])
                fail("fresh memory has %lx", p[i]);
            p[i] = (uint64_t)(uintptr_t)&p[i];
        }
        madvise(p, PAGE, MADV_DONTNEED);
        for (size_t i = 0; i < size / 8; i += 64)
            if (p[i] != (i < PAGE / 8 ? 0 : (uint64_t)(uintptr_t)&p[i]))
                fail("memory lost what was written");
        munmap(p, size);
        w->count++;
    }
    return NULL;
}

static void test_memory(void)
{
    if (!run_threads(work_memory))
        fail("no round");
}

// --- code that changes ----------------------------------------------------------------------------------------------------------

// mov eax, GENERATION; ret. Who has seen a generation announced must not run an older one.
static unsigned char *code;
static _Atomic uint32_t generation;

static void *work_code(void *arg)
{
    struct worker *w = arg;
    uint32_t (*call)(void) = (uint32_t(*)(void))(uintptr_t)code;
    while (!stop) {
        if (w->id == 0) {
            *(volatile uint32_t *)(code + 4) = generation + 1;
            if (syscall(SYS_membarrier, MEMBARRIER_SYNC_CORE, 0, 0))
                fail("membarrier: %s", strerror(errno));
            generation++;
            usleep(50);
        } else {
            uint32_t seen = generation, got = call();
            if (got < seen)
                fail("code of generation %u ran after %u", got, seen);
            w->extra += got != w->count;
            w->count = got;
        }
    }
    return NULL;
}

static void test_code(void)
{
    code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED || syscall(SYS_membarrier, MEMBARRIER_REGISTER_SYNC_CORE, 0, 0)) {
        fail("membarrier: %s", strerror(errno));
        return;
    }
    // The immediate lies on a boundary of four.
    memcpy(code, "\x0f\x1f\x00\xb8\0\0\0\0\xc3", 9);
    run_threads(work_code);
    if (generation < 10 || workers[1].extra < 2)
        fail("%u generations, of which %lu were seen", generation, workers[1].extra);
}

// --- registers -------------------------------------------------------------------------------------------------------------------

static double compute(uint64_t *hash)
{
    double sum = 0;
    uint64_t h = 0xcbf29ce484222325;
    for (unsigned i = 1; i <= 2000; i++) {
        sum += 1.0 / i - (double)(i % 7) * 1e-3;
        h = (h ^ i) * 0x100000001b3;
        h ^= h >> 29 | h << 7;
    }
    *hash = h;
    return sum;
}

static _Atomic uint64_t ticks;

// The handler has its own idea of what is in the registers.
static void handle_tick(int sig)
{
    uint64_t h;
    (void)sig;
    if (compute(&h) < 0)
        fail("the handler computes %lx", h);
    ticks++;
}

static void *work_registers(void *arg)
{
    struct worker *w = arg;
    uint64_t want_hash, hash;
    double want = compute(&want_hash);
    while (!stop) {
        double got = compute(&hash);
        if (memcmp(&got, &want, sizeof got) || hash != want_hash)
            fail("%.17g and %lx, not %.17g and %lx", got, hash, want, want_hash);
        w->count++;
        if (w->count % 8 == 0)
            sched_yield();
    }
    return NULL;
}

static void test_registers(void)
{
    struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    struct sigaction sa = {.sa_handler = handle_tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    uint64_t n = run_threads(work_registers);
    setitimer(ITIMER_REAL, &never, NULL);
    if (!n || ticks < 5)
        fail("%lu rounds, %lu signals", n, ticks);
}

// --- processes --------------------------------------------------------------------------------------------------------------------

static volatile uint64_t *private_pages; // copied when written

static int reap(pid_t pid)
{
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static void *work_forks(void *arg)
{
    struct worker *w = arg;
    volatile uint64_t *mine = private_pages + w->id * PAGE / 8;
    while (!stop) {
        *mine = w->count;
        pid_t pid = fork();
        if (pid == 0) {
            uint64_t was = *mine;
            *mine = ~was;
            _exit(was == w->count && *mine == ~was ? (int)(was & 63) : 99);
        }
        int status = pid < 0 ? -1 : reap(pid);
        if (status != (int)(w->count & 63) << 8)
            fail("fork %lu of thread %u: status %x", w->count, w->id, (unsigned)status);
        if (*mine != w->count)
            fail("a child's store is in its parent");
        w->count++;
    }
    return NULL;
}

static void test_forks(void)
{
    private_pages = mmap(NULL, MAX_THREADS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!run_threads(work_forks))
        fail("no process");
}

// The child is this program, which answers what it was told.
static void *work_execs(void *arg)
{
    struct worker *w = arg;
    while (!stop) {
        char number[16];
        snprintf(number, sizeof number, "%lu", w->count & 63);
        pid_t pid = vfork();
        if (pid == 0) {
            execl("/proc/self/exe", "stress", "--answer", number, NULL);
            _exit(98);
        }
        int status = pid < 0 ? -1 : reap(pid);
        if (status != (int)(w->count & 63) << 8)
            fail("exec %lu of thread %u: status %x", w->count, w->id, (unsigned)status);
        w->count++;
    }
    return NULL;
}

static void test_execs(void)
{
    if (!run_threads(work_execs))
        fail("no process");
}

// Bytes through a pipe to another process and back.
static void *work_pipes(void *arg)
{
    struct worker *w = arg;
    int to[2], from[2];
    unsigned char out[600], in[600];
    if (pipe(to) || pipe(from)) {
        fail("pipe: %s", strerror(errno));
        return NULL;
    }
    pid_t pid = fork();
    if (pid == 0) {
        for (ssize_t n; (n = read(to[0], in, sizeof in)) > 0;)
            if (in[0] == 0 || write(from[1], in, (size_t)n) != n)
                break;
        _exit(7);
    }
    while (!stop) {
        size_t len = 1 + (unsigned)rand_r(&w->seed) % sizeof out, have = 0;
        memset(out, 1 + rand_r(&w->seed) % 255, len);
        if (write(to[1], out, len) != (ssize_t)len)
            fail("write: %s", strerror(errno));
        for (ssize_t n; have < len && (n = read(from[0], in + have, len - have)) > 0;)
            have += (size_t)n;
        if (have != len || memcmp(in, out, len))
            fail("a pipe changed what went through it");
        w->count++;
    }
    out[0] = 0;
    if (write(to[1], out, 1) != 1 || reap(pid) != 7 << 8)
        fail("the other end of a pipe did not end well");
    for (unsigned i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
    return NULL;
}

static void test_pipes(void)
{
    if (!run_threads(work_pipes))
        fail("nothing went through");
}

// --- all of it ----------------------------------------------------------------------------------------------------------------------

static const struct test {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"atomic instructions", test_atomics},
    {"order of memory", test_order},
    {"locks that sleep", test_locks},
    {"revoked mappings", test_shootdown},
    {"fresh memory", test_memory},
    {"code that changes", test_code},
    {"registers", test_registers},
    {"processes", test_forks},
    {"programs", test_execs},
    {"pipes", test_pipes},
};

int main(int argc, char **argv)
{
    unsigned failed = 0;
    if (argc == 3 && !strcmp(argv[1], "--answer"))
        return atoi(argv[2]);
    if (argc > 1)
        duration_us = 1000 * (unsigned)atoi(argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    threads = 2 * (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    for (unsigned i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        uint64_t n = 0;
        atomic_store(&wrong, false);
        tests[i].run();
        for (unsigned k = 0; k < threads; k++)
            n += workers[k].count + workers[k].extra;
        if (wrong) {
            failed++;
            printf("not ok %s: %s\n", tests[i].name, wrong_text);
        } else {
            printf("ok %s (%u threads, %lu)\n", tests[i].name, threads, n);
        }
    }
    return failed > 0;
}
