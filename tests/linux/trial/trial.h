// What the parts of this program share; main.c says what it is.
#ifndef TRIAL_H
#define TRIAL_H

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PAGE 4096ul
#define ARRAY_SIZE(a) (sizeof(a) / sizeof(a)[0])

// Registers by the names that they have in both widths: R(di) in a string of assembly, CTX_DI of a ucontext.
#ifdef __x86_64__
#define BITS 64
#define R(name) "%r" #name
#define R2(name) "%%r" #name
#define WORD ".quad "
#define CTX_IP REG_RIP
#define CTX_SP REG_RSP
#define CTX_AX REG_RAX
#define CTX_CX REG_RCX
#define CTX_DX REG_RDX
#define CTX_SI REG_RSI
#define CTX_DI REG_RDI
#else
#define BITS 32
#define R(name) "%e" #name
#define R2(name) "%%e" #name
#define WORD ".long "
#define CTX_IP REG_EIP
#define CTX_SP REG_ESP
#define CTX_AX REG_EAX
#define CTX_CX REG_ECX
#define CTX_DX REG_EDX
#define CTX_SI REG_ESI
#define CTX_DI REG_EDI
#endif
#define CTX(uc, reg) (((ucontext_t *)(uc))->uc_mcontext.gregs[CTX_##reg])

#define FLAG_CF 0x001
#define FLAG_TF 0x100
#define FLAG_DF 0x400
#define FLAG_AC 0x40000

// End the trial that runs, which did not go well.
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *fmt, ...);
// There is time for another round.
bool more(void);
// Reproducible noise.
u32 noise(void);
// mmap() of private memory that cannot fail; `at` is NULL or where it must be.
void *map(void *at, size_t len, int prot);
void protect(void *p, size_t len, int prot);
// A handler with siginfo; `flags` beside SA_SIGINFO.
void handle(int sig, void (*handler)(int, siginfo_t *, void *), int flags);
// A stack for handlers with SA_ONSTACK, of this thread.
void own_signal_stack(void);
// Every so many microseconds a signal of ITIMER_REAL; 0: no more.
void tick_every(unsigned us);
// waitpid() that goes on after signals.
int reap(pid_t pid);
// Call code with `arg` in the DI register; the code may change everything that functions may change. Returns the AX register.
uintptr_t call_with(const void *code, uintptr_t arg);

// A trial returns how many rounds it made.
#define TRIALS(X) \
    X(divide_and_trap) \
    X(bad_addresses) \
    X(half_stores) \
    X(strings_that_fault) \
    X(float_traps) \
    X(faults_mended) \
    X(alignment_checks) \
    X(fork_storm) \
    X(exec_storm) \
    X(thread_storm) \
    X(thread_bases) \
    X(mapping_churn) \
    X(mapping_swaps) \
    X(signal_storm) \
    X(signal_queue) \
    X(signal_nesting) \
    X(signal_surgery) \
    X(float_state) \
    X(deep_calls) \
    X(jumps_out) \
    X(coroutines) \
    X(odd_returns) \
    X(jit_rewrite) \
    X(jit_two_views) \
    X(jit_kernel_writes) \
    X(jit_forked) \
    X(jit_remapped) \
    X(jit_self) \
    X(single_steps) \
    X(own_steps) \
    X(watchpoints) \
    X(system_calls) \
    X(other_width) \
    X(local_segments)

#define TRIAL_DECLARE(name) u64 trial_##name(void);
TRIALS(TRIAL_DECLARE)

#endif
