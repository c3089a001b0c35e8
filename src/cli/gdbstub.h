// The debugger's end of a running machine: a session of gdb's remote protocol (gdb_session.h) over a character device, with the
// processors' threads under its orders. All for the control thread.
#ifndef POGO_CLI_GDBSTUB_H
#define POGO_CLI_GDBSTUB_H

#include "cli/options.h"
#include "core/engine.h"

struct vm;
struct gdb;

// Wait for a debugger where o->gdb says: a character device as for -serial, where sockets are servers that nobody has to wait for,
// and TCP without a host is this machine's alone. vm->board is created, its threads do not run yet. Sets vm->gdb. Returns 0 or a
// negative errno with *err set.
int gdb_open(struct vm *vm, struct run_options *o, struct error *err);
void gdb_close(struct gdb *g);

// The calls below allow NULL: no debugger.

// `v` left its engine with VM_EXIT_DEBUG or VM_EXIT_SHUTDOWN and everybody is parked. True: somebody has been told, the machine is to
// stay at rest; of a processor that has shut down once only. (NULL, NULL): the machine was stopped, and it was not the debugger's
// idea.
bool gdb_stopped(struct gdb *g, const struct vcpu *v, const struct vm_exit *e);
// The machine goes on, and it was not the debugger's idea.
void gdb_continued(struct gdb *g);
// The machine has ended with this exit status.
void gdb_ended(struct gdb *g, int status);

#endif
