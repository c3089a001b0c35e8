// Two engines on the same guest, compared as they go; on a difference, the instruction that made it.
//
// Both machines run `every` instructions at a time. Then what is cheap to compare is compared: the processor's whole state, its requests, the
// clock and its timers, what the guest has written to its consoles. Every `memory_every` of such pieces so is memory, by the pages that were
// written, and the state of devices; once in a long while all of memory, in case an engine writes without saying so.
//
// When something differs, the machines are made anew and run again up to the last point where everything was equal, in the same pieces, so that
// the engines are in the same inner state. From there copies of the process look closer: first in smaller pieces, then instruction by
// instruction; and when an engine goes wrong in longer runs only, by looking for the shortest run that goes wrong.
#ifndef POGO_CLI_LOCKSTEP_H
#define POGO_CLI_LOCKSTEP_H

#include "cli/side.h"

#define LOCKSTEP_DUMPS 16

struct lockstep_config {
    const struct run_options *o; // icount, and one processor
    const struct engine_ops *engine[2];
    struct engine_tuning tuning[2];
    const struct script *script; // what is typed; NULL: nothing
    u64 every;                   // instructions; not 0
    u64 memory_every;            // pieces; not 0
    u64 full_every;              // instructions between comparisons of all of memory
    u64 limit;                   // instructions; ~0: none
    const char *until;           // end when the guest has written this; NULL: go on
    u64 dump_at[LOCKSTEP_DUMPS]; // print both processors when so many instructions have retired
    unsigned dumps;
    bool progress; // say on stderr how far it is
    bool echo;     // show what the guest writes to its first console on stdout
    FILE *log[2];  // of the two machines
    FILE *out;     // the report; a file of the system, since other processes write it, too
};

struct lockstep_result {
    bool different;
    bool narrowed; // down to one instruction: it is number `insns`, the first being 1
    u64 insns;     // how many were compared, or where the difference is
    u64 run;       // not 0: only a run of so many instructions, of which this is the last, goes wrong
    u64 rip;       // of the instruction
    u64 hash;      // of the end, when there is no difference
};

// Returns 0 and *r, or a negative errno with *err set.
int lockstep(const struct lockstep_config *c, struct lockstep_result *r, struct error *err);

// --- between the files of lockstep --------------------------------------------------------------------------------------------

#define LOCKSTEP_HISTORY 32
#define LOCKSTEP_CODE 15

// One step of the first machine.
struct lockstep_step {
    enum side_step kind;
    u64 insns;       // retired before it
    u64 rip;         // where it began
    u64 base;        // of the code segment
    u8 mode;         // enum isa_mode
    u8 vector, type; // SIDE_EVENT
    u8 len;
    u8 bytes[LOCKSTEP_CODE];
};

struct lockstep_history {
    struct lockstep_step step[LOCKSTEP_HISTORY];
    u64 count; // ever; the last is at (count - 1) % LOCKSTEP_HISTORY
};

// What is compared.
enum lockstep_depth {
    DEPTH_STATE,  // processor, clock, consoles
    DEPTH_MEMORY, // and memory that was written since, and devices
    DEPTH_ALL     // and all of memory
};

// Is everything the same? Dirty flags are cleared by DEPTH_MEMORY and above, if so.
bool lockstep_same(struct side *a, struct side *b, enum lockstep_depth depth);
// Print every difference. `before`: the processor before the instruction, or NULL.
void lockstep_print(FILE *out, const struct lockstep_config *c, struct side *a, struct side *b,
                    const struct cpu *before);
void lockstep_print_history(FILE *out, const struct lockstep_history *h);

#endif
