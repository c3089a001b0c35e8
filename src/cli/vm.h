// A virtual machine as `pogo run` runs it: one thread per processor, one that fires timers, and the calling thread, which is in
// control: it serves the user, and alone resets, stops, inspects and ends the machine, while every processor is parked.
#ifndef POGO_CLI_VM_H
#define POGO_CLI_VM_H

#include <pthread.h>

#include "board/pc.h"
#include "host/chardev.h"
#include "host/loop.h"

// A serial port or debug console, and who is at its other end.
struct vm_line {
    struct vm *vm;
    unsigned n;
    struct chardev_front front;
};

enum vm_state { VM_RUNNING, VM_STOPPED, VM_OFF, VM_ENDED }; // OFF: the guest has switched itself off (-no-shutdown)

struct vm {
    struct pc *board;
    // After a reset: put a guest into the machine. Returns 0 or a negative errno with *err set. NULL: firmware does.
    int (*boot)(void *arg, struct pc *b, struct error *err);
    void *boot_arg;
    bool no_reboot, no_shutdown;
    bool icount_sleep; // with icount: idle time takes as long as it says, instead of no time
    struct loop loop;  // of the thread in control
    struct chardevs chars;
    struct gdb *gdb;           // the debugger's end, or NULL
    const struct disks *disks; // for the monitor; NULL: none
    struct vm_line serial[PC_SERIALS], debugcon;

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
    u64 missed; // bit n: vCPU n met a debugger's watchpoint, in missed_hit[n], while another event was on its way
    struct vm_exit missed_hit[MACHINE_MAX_VCPUS];
    struct loop_watch event_watch; // eventfd: readable when there is an event

    // Control's own.
    struct loop_watch signal_watch;
    unsigned pauses; // vm_pause() without vm_continue() so far
    bool stopped;    // vm_stop() without vm_cont() so far
    bool off;        // the guest has switched itself off
    bool asked;      // the user wants the end

    pthread_t thread[MACHINE_MAX_VCPUS], timer_thread;
    unsigned threads;

    int status; // exit status, valid at the end
    bool has_error;
    struct error error; // for the user, with has_error
    char
        report[8192]; // the state of a processor that came to grief: shown at the end, when signals work as usual again
};

// Returns 0 or a negative errno with *err set; vm_fini() in any case.
int vm_init(struct vm *vm, struct error *err);
void vm_fini(struct vm *vm);
// Where the board finds serial port n (PC_SERIALS: the debug console): the peer for pc_options, once its front is attached to a
// character device.
struct pc_peer vm_peer(struct vm *vm, unsigned n);
// Run until the guest ends; the calling thread is in control. vm->board is created and booted; vm_stop() may have been called.
// Returns the exit status.
int vm_run(struct vm *vm);

// For the control thread: park every processor and stop virtual time; let them go on. Calls nest.
void vm_pause(struct vm *vm);
void vm_continue(struct vm *vm);

// Stop and start by somebody's wish (monitor, debugger, -S), for the control thread. While stopped, events are served but do not set
// the machine going again; a request to end does. Both do nothing when it is so already.
void vm_stop(struct vm *vm);
// `frozen`: vCPUs (bit n: number n) that stay parked until the next vm_cont().
void vm_cont(struct vm *vm, u64 frozen);
// A watchpoint that one of `cpus` (bit n: number n) has met and nobody was told of, since the machine came to rest for something
// else: once each. False: none.
bool vm_take_missed(struct vm *vm, u64 cpus, unsigned *cpu, struct vm_exit *e);
enum vm_state vm_state(const struct vm *vm);
// The user's wish to end, with this exit status; to reset the machine; for the control thread.
void vm_quit(struct vm *vm, int status);
void vm_reset(struct vm *vm);

// What the thread of `v` does about an exit; false: it is for control. Table-driven; exposed for tests.
bool vm_vcpu_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e);
// What control does about an exit of `v`, all processors being parked; false: the machine has ended.
bool vm_control_exit(struct vm *vm, struct vcpu *v, const struct vm_exit *e);

#endif
