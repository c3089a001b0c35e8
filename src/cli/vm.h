// A virtual machine as `pogo run` runs it: one thread per processor, one that fires timers, and the calling thread, which is in
// control: it serves the user, and alone resets, stops, inspects and ends the machine, while every processor is parked.
#ifndef POGO_CLI_VM_H
#define POGO_CLI_VM_H

#include <pthread.h>

#include "board/pc.h"
#include "boot/boot.h"
#include "cli/console.h"

struct vm {
    struct pc *board;
    const struct boot_params *boot; // NULL: firmware alone
    bool no_reboot;
    struct in_ring input;
    struct out_stream out[2]; // [0]: serial and whatever shares standard output with it; [1]: debug console of its own

    // The gate between processors and control. `gate` protects what follows.
    pthread_mutex_t gate;
    pthread_cond_t parked, go;
    unsigned running; // vCPU threads that are not parked
    bool hold;        // they are to park
    bool finished;    // they are to end
    u64 frozen;       // bit n: vCPU n stays parked although the others run
    bool has_event;   // `event` of vCPU `event_vcpu` waits for control
    struct vm_exit event;
    unsigned event_vcpu;
    int event_fd; // eventfd: readable when there is an event

    bool stopped; // vm_stop() without vm_cont() so far; control's own

    _Atomic int asked; // exit status + 1 once the user asked for the end; 0 before

    pthread_t thread[MACHINE_MAX_VCPUS], timer_thread;
    unsigned threads;

    int status; // exit status, valid at the end
    bool has_error;
    struct error error; // for the user, with has_error
};

void vm_init(struct vm *vm);
void vm_fini(struct vm *vm);
// Run until the guest ends; the calling thread serves standard input when `read_stdin`. vm->board is created and booted.
// Returns the exit status.
int vm_run(struct vm *vm, bool read_stdin);

// For the control thread: park every processor and stop virtual time; let them go on. Calls do not nest.
void vm_pause(struct vm *vm);
void vm_continue(struct vm *vm);

// Stop and start by somebody's wish (monitor, debugger, -S), for the control thread. While stopped, events are served but do not set
// the machine going again; a request to end does. Both do nothing when it is so already.
void vm_stop(struct vm *vm);
// `frozen`: vCPUs (bit n: number n) that stay parked until the next vm_cont().
void vm_cont(struct vm *vm, u64 frozen);

// What the thread of `v` does about an exit; false: it is for control. Table-driven; exposed for tests.
bool vm_vcpu_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e);
// What control does about an exit of `v`, all processors being parked; false: the machine has ended.
bool vm_control_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e);

#endif
