// A virtual machine as `pogo run` runs it: board, console, and the thread of its processor.
#ifndef POGO_CLI_VM_H
#define POGO_CLI_VM_H

#include "board/pc.h"
#include "boot/boot.h"
#include "cli/console.h"

struct vm {
    struct pc *board;
    const struct boot_params *boot; // NULL: firmware alone
    bool no_reboot;
    struct in_ring input;
    struct out_stream out[2]; // [0]: serial and whatever shares standard output with it; [1]: debug console of its own
    int done_fd;              // eventfd: readable when the processor's thread has ended
    _Atomic int asked;        // exit status + 1 once the user asked for the end; 0 before
    int status;               // exit status, valid then
    bool has_error;
    struct error error; // for the user, with has_error
};

// Run until the guest ends; the calling thread serves standard input when `read_stdin`. vm->board is created and booted.
// Returns the exit status.
int vm_run(struct vm *vm, bool read_stdin);

// What the processor's thread does about an exit; true: go on running. Table-driven; exposed for tests.
bool vm_handle_exit(struct vm *vm, const struct vm_exit *e);

#endif
