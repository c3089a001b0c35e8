// Code memory of the host (host_ops.code_alloc): mapped twice, and watched for arithmetic exceptions.
#ifndef POGO_HOST_NATIVE_ARENA_H
#define POGO_HOST_NATIVE_ARENA_H

#include "core/host.h"

#define NATIVE_SIGNAL_RANGES 256 // code memories alive at a time

// See host_ops. `host` is not used.
int native_arena_alloc(void *host, const char *name, u64 size, u64 near, void (*fault)(struct host_fault *f),
                       struct host_code *code);
// The same in memory that perf takes for a translator's.
int native_arena_alloc_anonymous(u64 size, u64 near, void (*fault)(struct host_fault *f), struct host_code *code);
void native_arena_free(void *host, struct host_code *code);

// Call `fault` for SIGFPE at [exec, exec + size), from the thread that raised it. Installs the process's handler if it is
// not in place; a signal from elsewhere goes to the handler that was there before. 0 or a negative errno (-ENOSPC: too many ranges).
int native_signal_add(const u8 *exec, u64 size, void (*fault)(struct host_fault *f));
void native_signal_remove(const u8 *exec);

#endif
