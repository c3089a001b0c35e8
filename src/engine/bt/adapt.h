// Accesses that keep going slow, and what is done about them: see adapt.c.
#ifndef POGO_ENGINE_BT_ADAPT_H
#define POGO_ENGINE_BT_ADAPT_H

#include "isa/insn.h"

#define ADAPT_SETS 128
#define ADAPT_WAYS 4
#define ADAPT_BOUNCE 64 // bytes of the largest operand that is read in two parts

struct bt;
struct bt_site;

// Why an instruction cannot be run as it is.
enum adapt_reason { ADAPT_DEVICE, ADAPT_CROSSING, ADAPT_CODE, ADAPT_PORT, ADAPT_REASONS };

enum adapt_state {
    ADAPT_COUNTED, // it is looked at, and goes the common way
    ADAPT_SPECIAL, // its misses go to adapt_serve()
    ADAPT_NO_WAY,  // nothing can be done for it, or it goes back and forth too often
};

// What there is between a register or an immediate and memory.
enum adapt_move { ADAPT_OTHER, ADAPT_LOAD, ADAPT_LOAD_SIGNED, ADAPT_STORE, ADAPT_STORE_IMM };

struct adapt_site {
    u64 last;                 // time-stamp counter when it was slow ...
    u64 count[ADAPT_REASONS]; // ... and how often
    u64 seen;                 // the sum of those when its place in the table was last asked for
    u64 rip;                  // of the instruction, the first time ...
    u64 place;                // ... and where it is in the host; 0: none
    u64 hit, resume;          // where to go on: with the operand at HOST_T0, with the next instruction
    i64 imm;
    u32 site;               // struct bt_site, as its distance from the start of the near memory; 0: it is no more
    u32 jump;               // offset in the code memory of its tail's jump
    u16 op;                 // enum isa_op
    u16 size;               // bytes accessed
    u8 state;               // enum adapt_state
    u8 reason;              // the last one
    u8 streak;              // how often it was slow in a row ...
    u8 calm;                // ... and how often not, since it became special
    u8 reverts;             // how often it has gone back
    u8 vec;                 // bt_site.vec
    u8 move, reg, reg_size; // enum adapt_move; of the register
    bool high;              // AH CH DH BH
    bool bounces;           // its operand can be a copy
    bool addend;            // HOST_T0 is to be what is added to the linear address
};

struct adapt {
    u64 slow[ADAPT_REASONS];   // what was not done by special ways ...
    u64 served[ADAPT_REASONS]; // ... and what was
    u64 specialised, reverted, displaced;
    struct adapt_site site[ADAPT_SETS * ADAPT_WAYS];
};

#endif
