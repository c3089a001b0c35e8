// Contract: what the machine needs from its host. Everything below src/host and src/cli reaches the operating system (or,
// one day, bare metal) through this table only; tests substitute a fake.
#ifndef POGO_CORE_HOST_H
#define POGO_CORE_HOST_H

#include <stdatomic.h>

#include "pogo/types.h"

enum host_log { LOG_ERROR, LOG_WARN, LOG_INT, LOG_CPU, LOG_IO, LOG_ASM, LOG_UNIMP, LOG_GUEST_ERROR, LOG_BT, LOG_COUNT };

// Memory for generated code, mapped twice so that no mapping is both writable and executable.
struct host_code {
    u8 *write;      // where code is put
    const u8 *exec; // where it runs
    u64 size;       // bytes
    u8 *near;       // plain memory that ends where exec begins, so that code can address it relative to RIP
    u64 near_size;  // bytes
};

// An arithmetic exception that the host processor raised in generated code. The handler changes what it wants to differ when
// the code goes on.
struct host_fault {
    u64 pc, rdi;
    u32 mxcsr;
};

// The thread that fires the clock's timers, as a waiter.
#define HOST_WAITER_TIMER 64u

struct host_ops {
    // Zeroed, page-aligned memory that stays until mem_free; NULL when there is none. `size` in bytes. Only called while a
    // machine is built. `name` is for /proc and messages.
    void *(*mem_alloc)(void *host, const char *name, u64 size);
    void (*mem_free)(void *host, void *p, u64 size);
    // The same for guest RAM, in huge pages where the host has them; mem_free frees it. NULL: mem_alloc will do.
    void *(*ram_alloc)(void *host, const char *name, u64 size);
    // Code memory of at least `size` bytes, with at least `near` bytes of zeroed plain memory before it. `fault` is called on the
    // faulting thread, where only async-signal-safe things are allowed, for exceptions whose pc is in this memory. 0 or a negative
    // errno; a host that cannot run code has NULL here.
    int (*code_alloc)(void *host, const char *name, u64 size, u64 near, void (*fault)(struct host_fault *f),
                      struct host_code *code);
    void (*code_free)(void *host, struct host_code *code);
    // For profilers: the `size` bytes at `at` in code memory stand for `name`. Only called when host.names_code is set.
    void (*code_name)(void *host, const void *at, u64 size, const char *name);
    // Monotonic time in nanoseconds, and the host's time-stamp counter.
    u64 (*now_ns)(void *host);
    u64 (*tsc)(void *host);
    // UTC in nanoseconds since 1970.
    i64 (*wall_ns)(void *host);
    // Block the calling thread until host_ops.wake(waiter) or `deadline_ns` (monotonic; ~0: none). A waiter is a vCPU's number
    // or HOST_WAITER_TIMER.
    void (*wait)(void *host, u32 waiter, u64 deadline_ns);
    void (*wake)(void *host, u32 waiter);
    // Let other threads run: this one waits for some of them. May be NULL.
    void (*yield)(void *host);
    // Sleep while *word == seen (may wake for no reason); wake one sleeper. NULL: locks spin.
    void (*futex_wait)(void *host, _Atomic u32 *word, u32 seen);
    void (*futex_wake)(void *host, _Atomic u32 *word);
    // A line for the log category; formatted text without newline. `log_mask` bit n enables category n.
    void (*log)(void *host, enum host_log category, const char *text);
};

struct host {
    const struct host_ops *ops;
    void *self;   // first argument of every operation
    u32 log_mask; // bits 1 << enum host_log
    u64 tsc_hz;   // frequency of ops->tsc
    bool names_code;
    // Programs may set the base of GS (WRGSBASE), which nobody else in this process does.
    bool gs_is_free;
};

static inline bool host_logs(const struct host *h, enum host_log category)
{
    return (h->log_mask >> category) & 1;
}

// Format and log. Freestanding: understands %s %c %d %u %x with l, ll, 0 and width only. Dropped unless the category is on.
void host_logf(const struct host *h, enum host_log category, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
