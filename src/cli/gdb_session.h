// A debugger's session: gdb's remote protocol against a machine, with the wire and the machine's threads left to callbacks, so that a
// test can script it. All calls come from the control thread.
//
// The machine is at rest while a session waits for orders, and everything a packet asks for is done then. vCPU n is thread n + 1.
// Between an order to go on and the next stop the only thing that counts is Ctrl-C; any other packet stops the machine first.
#ifndef POGO_CLI_GDB_SESSION_H
#define POGO_CLI_GDB_SESSION_H

#include "cli/gdb_packet.h"
#include "cli/gdb_regs.h"
#include "core/machine.h"

struct gdb_ops {
    // May end the session: gdb_session_close() from inside.
    void (*send)(void *self, const void *buf, size_t len);
    // Bring all vCPUs to rest, on return; nothing if they are. Let those in `cpus` (bit n: number n) go on.
    void (*stop)(void *self);
    void (*resume)(void *self, u64 cpus);
    // The debugger wants the machine to end; it wants the connection to end.
    void (*kill)(void *self);
    void (*hang_up)(void *self);
    // A command for the monitor; answers go to gdb_session_print(). NULL: there is no monitor.
    void (*monitor)(void *self, const char *command);
};

struct gdb_session {
    struct machine *m;
    const struct gdb_ops *ops;
    void *self;
    bool open;     // somebody is connected
    bool running;  // the machine has been told to go on ...
    bool awaited;  // ... by the client, which waits for the next stop
    bool no_acks;  // QStartNoAckMode
    bool physical; // memory packets name guest-physical addresses
    bool step_interrupts;
    bool knows_swbreak, knows_hwbreak; // what the client says it understands in a stop reply
    u32 cpu;                           // of register and memory packets (Hg), and the one that stopped last
    i64 step_cpu;                      // of legacy 'c' and 's' (Hc): -1 all
    struct gdb_receiver rx;
    struct gdb_writer tx;
    u32 last_len;
    u8 last[GDB_FRAME_MAX]; // the last packet sent, for '-'
    struct gdb_regs regs;
};

// For a machine with at least one vCPU. Nobody is connected.
void gdb_session_init(struct gdb_session *s, struct machine *m, const struct gdb_ops *ops, void *self);
// A client has connected: stops the machine. It has gone: forgets breakpoints and lets the machine go on.
void gdb_session_open(struct gdb_session *s);
void gdb_session_close(struct gdb_session *s);
void gdb_session_input(struct gdb_session *s, const u8 *buf, size_t len);
// The machine has come to rest: vCPU `v` left its engine with VM_EXIT_DEBUG or VM_EXIT_SHUTDOWN (which gdb sees as SIGSEGV), or (NULL, NULL) somebody else stopped it.
void gdb_session_stopped(struct gdb_session *s, const struct vcpu *v, const struct vm_exit *e);
// Somebody else has let it go on: stops stay stops, but the client is not told.
void gdb_session_continued(struct gdb_session *s);
// The machine has ended with this exit status.
void gdb_session_ended(struct gdb_session *s, int status);
// Output of a monitor command.
void gdb_session_print(struct gdb_session *s, const char *text, size_t len);

#endif
