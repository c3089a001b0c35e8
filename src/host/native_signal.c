// SIGFPE from generated code: an unmasked SIMD exception of a guest instruction that runs natively.
//
// A signal handler belongs to the process, so this file has the one table in pogo that does too: which address ranges are code
// memory and whom to tell. It is read in the handler, by any thread, without a lock: an entry's `size` is stored last (release)
// and cleared first, and a range is only removed when nothing runs in it any more.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <ucontext.h>

#include "host/native_arena.h"

struct range {
    u64 start;
    _Atomic u64 size; // 0: free
    void (*fault)(struct host_fault *f);
};

static struct range ranges[NATIVE_SIGNAL_RANGES];
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER; // protects changes of the table, and `previous`
static struct sigaction previous;

// Not ours: as if we were not here. With the default action the instruction raises its exception again, for good.
static void chain(int sig, siginfo_t *info, void *uc)
{
    if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(sig, info, uc);
    else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
        previous.sa_handler(sig);
    else
        signal(sig, SIG_DFL);
}

static void on_sigfpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    u64 pc = (u64)regs[REG_RIP];
    for (unsigned i = 0; i < NATIVE_SIGNAL_RANGES; i++) {
        struct range *r = &ranges[i];
        u64 size = atomic_load_explicit(&r->size, memory_order_acquire);
        if (!size || pc - r->start >= size)
            continue;
        struct host_fault f = {.pc = pc, .rdi = (u64)regs[REG_RDI], .mxcsr = uc->uc_mcontext.fpregs->mxcsr};
        r->fault(&f);
        regs[REG_RIP] = (greg_t)f.pc;
        regs[REG_RDI] = (greg_t)f.rdi;
        uc->uc_mcontext.fpregs->mxcsr = f.mxcsr;
        return;
    }
    chain(sig, info, context);
}

// Put the handler in place, also when somebody has replaced it since.
static int install(void)
{
    struct sigaction sa, now;
    if (sigaction(SIGFPE, NULL, &now))
        return -errno;
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_sigfpe)
        return 0;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_sigfpe;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK; // generated code may have no usable stack
    sigemptyset(&sa.sa_mask);
    previous = now;
    return sigaction(SIGFPE, &sa, NULL) ? -errno : 0;
}

int native_signal_add(const u8 *exec, u64 size, void (*fault)(struct host_fault *f))
{
    pthread_mutex_lock(&ranges_lock);
    int err = install();
    unsigned i = 0;
    while (i < NATIVE_SIGNAL_RANGES && ranges[i].size)
        i++;
    if (!err && i == NATIVE_SIGNAL_RANGES)
        err = -ENOSPC;
    if (!err) {
        ranges[i].start = (u64)exec;
        ranges[i].fault = fault;
        atomic_store_explicit(&ranges[i].size, size, memory_order_release);
    }
    pthread_mutex_unlock(&ranges_lock);
    return err;
}

void native_signal_remove(const u8 *exec)
{
    pthread_mutex_lock(&ranges_lock);
    for (unsigned i = 0; i < NATIVE_SIGNAL_RANGES; i++)
        if (ranges[i].size && ranges[i].start == (u64)exec)
            atomic_store_explicit(&ranges[i].size, 0, memory_order_release);
    pthread_mutex_unlock(&ranges_lock);
}
