// One of the two machines that `pogo lockstep` compares: a board with one processor on one engine, in icount mode, and nothing outside that
// could make two runs of it differ. Its memory is private to the process, so that a fork() of the process is a copy of the machine.
#ifndef POGO_CLI_SIDE_H
#define POGO_CLI_SIDE_H

#include <stdio.h>

#include "cli/board.h"
#include "cli/disks.h"
#include "cli/script.h"
#include "host/linux.h"

#define SIDE_STREAMS (PC_SERIALS + 1) // the serial ports, and the debug console

// What the guest has written to a console.
struct side_stream {
    struct side *side;
    u8 *bytes;
    size_t len, room;
};

struct side {
    const struct engine_ops *engine;
    struct linux_host host;
    struct host_ops ops; // of `host`, with memory of our own
    struct cpu_model model;
    struct images images;
    struct disks disks;
    struct pc *board;
    struct vcpu *v;
    struct side_stream stream[SIDE_STREAMS];
    struct script_player player;
    bool ended; // the guest does not go on, for the reason in `exit`
    struct vm_exit exit;
    u64 asleep_ns;  // idle time that has passed since the processor was halted with interrupts off
    unsigned stuck; // runs without an instruction retired
};

// Build the machine that `o` (with icount set) describes; `script` is played at its first serial port, unless it is NULL. Both stay the
// caller's. `log` is where its log lines go. *s is all zeros. Returns 0 or a negative errno with *err set; side_destroy() in any case.
int side_create(struct side *s, const struct run_options *o, const struct engine_ops *engine,
                const struct engine_tuning *tuning, const struct script *script, FILE *log, struct error *err);
void side_destroy(struct side *s);

// Run until `target` instructions have retired since the start, or the guest ends. The state is in s->v->cpu then, at the boundary
// right behind the last of them: what comes next there (a pending event, an interrupt) has not been looked at.
void side_run(struct side *s, u64 target);
// One step at most: an instruction, an attempt that faults, or the delivery of an event, or a jump over idle time.
enum side_step { SIDE_INSN, SIDE_FAULT, SIDE_EVENT, SIDE_IDLE, SIDE_ENDED };
enum side_step side_step(struct side *s);

// Why the guest ended, for people.
const char *side_end_name(const struct side *s);

#endif
