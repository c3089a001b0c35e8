// The processor oracle: random instructions, run natively on the host processor and in an engine, and compared.
//
//   gen.c, encode.c, values.c   a 64-bit seed -> one case: mode, instruction bytes, registers, memory
//   arena.c                     the memory that both sides have
//   native.c, tramp.S           the case on the host processor, in a sandboxed child process
//   guest.c                     the case in an engine: a machine whose page tables, GDT, LDT and IDT look as Linux' do
//   compare.c                   differences, printed so that a person can judge them
//   sequence.c                  a seed -> many instructions in a row, with branches, loops and changes to themselves
//   minimise.c                  a sequence that fails -> one that is as short as can be
//   mutant.c                    wrong behaviours on purpose, to check the harness itself
//   main.c, sequences.c         options, worker processes, totals; the same for sequences
//
// Both sides run user code (CPL 3, IOPL 0) in the same *arena*, 16 pages at one fixed linear address below 2 GiB, so that the
// same code works in 64-, 32- and 16-bit segments:
//
//   page  0 1  2 3  4  5  6  7 8  9  10 11 12 13 14 15
//         - RW - RO RW RW RO - RX RX -  RX -  RX RW -        (- absent; 14 is the no-execute neighbour of 13)
//
// so that data can straddle every kind of page end, and code can end before a present, an absent and a no-execute page. For
// sequences, pages 8 and 9 can be written, too.
#ifndef POGO_ORACLE_H
#define POGO_ORACLE_H

#include "core/cpu.h"
#include "core/engine.h"
#include "isa/insn.h"

#define ORC_ARENA 0x20000000u
#define ORC_PAGES 16u
#define ORC_ARENA_SIZE (ORC_PAGES * 4096u)
#define ORC_LINE 64u // memory is compared in lines of this size
#define ORC_MAX_LINES 96
#define ORC_MAX_PATCHES 6
#define ORC_PATCH_BYTES 1024
#define ORC_CODE_BYTES 1024

// What a page of the arena allows.
enum orc_page { ORC_ABSENT, ORC_RO, ORC_RW, ORC_RX, ORC_RWX };
extern u8 orc_page_kind[ORC_PAGES];

// Selectors of the host's GDT that user code can load, and the LDT that both sides have.
#define ORC_SEL_USER_CS32 0x23
#define ORC_SEL_USER_DS 0x2b
#define ORC_SEL_USER_CS 0x33
#define ORC_LDT_SEL(i) ((u16)((i) << 3 | 7))

// Limit of the guest's per-processor segment. The host's holds the number of the processor.
#define ORC_SEL_CPU 0x78
#define ORC_CPU_LIMIT 0x7a5

enum orc_ldt {
    ORC_LDT_CODE16,     // base at the arena, 64 KiB
    ORC_LDT_DATA16,     // the same, writable data, 16-bit stack
    ORC_LDT_DATA32,     // base at the arena, 64 KiB, 32-bit stack
    ORC_LDT_SMALL,      // data from page 4 on, limit in the middle of page 5
    ORC_LDT_EXPDOWN,    // expand-down 32-bit data
    ORC_LDT_EXPDOWN16,  // expand-down 16-bit data
    ORC_LDT_RO,         // read-only data
    ORC_LDT_NOTPRESENT, // writable data, not present
    ORC_LDT_CODE32,     // readable code, base 0, 4 GiB
    ORC_LDT_XONLY,      // execute-only code
    ORC_LDT_CONFORMING, // conforming code, not present (Linux takes no other)
    ORC_LDT_SHORT16,    // 16-bit code, base at the arena, limit in the middle of page 9
    ORC_LDT_SHORT32,    // 32-bit code, the same
    ORC_LDT_PAGEGRAN,   // page granularity, base at page 3, limit 2 pages
    ORC_LDT_COUNT
};

#define ORC_SHORT_LIMIT 0x97ffu

struct orc_ldt_desc {
    u32 base, limit; // limit in units of the granularity
    bool seg_32bit, code, expdown_or_conforming, read_or_write, pages, present;
};
extern const struct orc_ldt_desc orc_ldt[ORC_LDT_COUNT];

// User-visible processor state before and after.
struct orc_state {
    struct x86_xsave xs; // first: 64-byte aligned
    u64 gpr[X86_GPR_COUNT];
    u64 rip; // offset in the code segment
    u64 rflags;
    u64 fs_base, gs_base;
    u16 sel[6];
    u16 pad[2];
};

struct orc_patch {
    u16 off; // in the arena
    u16 len;
    u16 data; // offset into case.data
};

#define ORC_F_SINGLE_STEP 0x1 // TF is set
#define ORC_F_SEGS 0x2        // 64-bit mode: selectors or bases are not the defaults
#define ORC_F_SEQUENCE 0x4    // many instructions: runs until it faults or arrives at its exit

struct orc_case {
    struct orc_state in;
    u64 seed;
    u16 form;
    u16 len; // code bytes
    u8 mode;
    u8 flags;
    u8 valid; // the decoder accepts the bytes; else both sides must raise the decoder's exception
    u8 npatch, nland;
    u16 code_off; // of the instruction in the arena
    u16 land[2];  // arena offsets where control is expected to arrive; the native side puts its exits there
    u8 code[ORC_CODE_BYTES];
    struct orc_patch patch[ORC_MAX_PATCHES];
    u8 data[ORC_PATCH_BYTES];
    struct insn insn;
};

#define ORC_NO_VECTOR 0xff

// What the host tells of the x87 instruction and data pointers.
enum { ORC_X87_UNKNOWN, ORC_X87_ENV /* low 32 bits, and selectors */, ORC_X87_XSAVE /* 64 bits */ };

struct orc_result {
    struct orc_state out;
    u8 vector; // exception, or ORC_NO_VECTOR when the instruction completed
    u8 nlines; // lines of writable memory that differ from the pristine contents
    u8 overflow;
    u8 x87_pointers;
    u8 hang; // 0, or why there is no result
    u16 fcs, fds;
    u32 error;
    u64 cr2;
    u16 line[ORC_MAX_LINES];
    u8 bytes[ORC_MAX_LINES][ORC_LINE];
};

// --- random numbers and values (values.c) -------------------------------------------------------------------------------

struct orc_rng {
    u64 s;
};

static inline u64 orc_mix(u64 z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline u64 orc_rnd(struct orc_rng *r)
{
    return orc_mix(r->s += 0x9e3779b97f4a7c15ull);
}

// Uniform below n (n small).
static inline u32 orc_below(struct orc_rng *r, u32 n)
{
    return (u32)(((orc_rnd(r) >> 32) * n) >> 32);
}

static inline bool orc_chance(struct orc_rng *r, u32 percent)
{
    return orc_below(r, 100) < percent;
}

void orc_values_init(void);
// An integer that is likely to sit on some boundary.
u64 orc_value(struct orc_rng *r);
// 32 bytes of vector: integers, floats, doubles with their special values.
const u8 *orc_vector(struct orc_rng *r);
// 10 bytes of extended precision.
const u8 *orc_f80(struct orc_rng *r);
// Contents of the arena before every case.
extern u8 orc_pristine[ORC_ARENA_SIZE];

// --- encoding (encode.c) ----------------------------------------------------------------------------------------------

// ISA_OPT_* of the host's vendor.
extern u32 orc_isa_options;
// Ask the decoder once for every opcode which form it belongs to. Before the first case.
void orc_encode_init(void);
// Whether any encoding of `form` was found in `mode`.
bool orc_encodable(unsigned form, unsigned mode);
// Random bytes of one instruction of `form` in `mode` into code[16] and *in. Returns false when this try gave another form.
bool orc_encode(struct orc_rng *r, unsigned form, unsigned mode, u8 *code, struct insn *in);
// Why forms are not compared with the host, or NULL.
const char *orc_excluded(unsigned form, unsigned mode);

// --- cases (gen.c) ----------------------------------------------------------------------------------------------------

// Seeds carry the wish for one form and mode in their upper bits, so that one number reproduces a case:
//   63..48: form, or 0 for any    47..46: 0 any, else mode + 1    45..0: random
#define ORC_SEED(form, mode1, n) ((u64)(form) << 48 | (u64)(mode1) << 46 | ((n) & ((1ull << 46) - 1)))
void orc_gen_init(void);
void orc_generate(u64 seed, struct orc_case *c);
// Linear address of the memory operand of a valid case (steer.c).
u64 orc_operand_address(const struct orc_case *c);

// --- the arena (arena.c) ----------------------------------------------------------------------------------------------

// Before anything else: make the pages of sequences writable.
void orc_arena_for_sequences(void);

// Base of the code segment of a case: 0 in 64-bit mode.
u64 orc_code_base(const struct orc_case *c);

// Write the case's patches, code and exits into an arena (`place`), or put filler back over the code afterwards. The engine
// gets the same bytes as the host, because instructions can read them as data.
void orc_place(u8 *arena, const struct orc_case *c, bool place);
// Collect the lines of writable pages that differ from orc_pristine, and put the pristine contents back.
void orc_collect(u8 *arena, struct orc_result *r);

// --- native side (native.c) -------------------------------------------------------------------------------------------

struct orc_native;
// Start the sandboxed child with a batch buffer of `batch` cases. NULL on failure with a message on stderr.
struct orc_native *orc_native_start(unsigned batch);
struct orc_case *orc_native_case(struct orc_native *n, unsigned buffer, unsigned i);
struct orc_result *orc_native_result(struct orc_native *n, unsigned buffer, unsigned i);
// Begin running `count` cases of buffer 0 or 1; and wait for the end. wait() returns -1 when all ran, else the index of the case
// that killed or hung the child (a new child is started; cases before it have results).
void orc_native_submit(struct orc_native *n, unsigned buffer, unsigned first, unsigned count);
int orc_native_wait(struct orc_native *n);
// After wait() told of a bad case: go on with the rest of the same buffer.
void orc_native_resubmit(struct orc_native *n, unsigned first, unsigned count);
// Is anything mapped at this address in the native child? For addresses that a case reached by accident.
bool orc_native_maps(const struct orc_native *n, u64 a);
void orc_native_stop(struct orc_native *n);

// --- engine side (guest.c) --------------------------------------------------------------------------------------------

struct orc_guest;
// Single instructions: the interpreter is stopped after them, by the budget. Others run on, to the exit, because an engine that keeps
// code may do single instructions in another way.
struct orc_guest *orc_guest_create(const struct engine_ops *ops, const char **why);
void orc_guest_run(struct orc_guest *g, const struct orc_case *c, struct orc_result *r);
// For those created afterwards: block length, memory and optimisations of engines drawn at random. 0: their own choice.
void orc_guest_tune(u64 seed);
// From now on it runs without a budget, and never stops in between: sequences and single instructions that do not jump.
void orc_guest_uncounted(struct orc_guest *g);
void orc_guest_destroy(struct orc_guest *g);

// Run a sequence to its end, or to an exception. `fresh`: the engine forgets what it knows of the code (it need not otherwise, when
// the case is the one that ran before). `slices`: 0, or a seed for stops after every few instructions. Never comes to an end:
// result.hang is 4.
#define ORC_SEQUENCE_STEPS 20000
void orc_guest_run_sequence(struct orc_guest *g, const struct orc_case *c, bool fresh, u64 slices,
                            struct orc_result *r);

// For the generator: start a case whose code is still to be written, write code, run to an address (false: it does not get there),
// look at and change the state, go back to an earlier state of processor and memory.
struct orc_snapshot {
    struct cpu cpu;
    u8 arena[ORC_ARENA_SIZE];
};
void orc_guest_begin(struct orc_guest *g, const struct orc_case *c);
void orc_guest_write(struct orc_guest *g, u32 off, const u8 *bytes, unsigned len);
bool orc_guest_run_to(struct orc_guest *g, u64 rip, unsigned steps);
bool orc_guest_step(struct orc_guest *g);
void orc_guest_jump(struct orc_guest *g, u64 rip);
const struct cpu *orc_guest_cpu(const struct orc_guest *g);
const u8 *orc_guest_arena(const struct orc_guest *g);
void orc_guest_save(const struct orc_guest *g, struct orc_snapshot *s);
void orc_guest_restore(struct orc_guest *g, const struct orc_snapshot *s);

// --- sequences (sequence.c, minimise.c, sequences.c) ------------------------------------------------------------------

#define ORC_MAX_ITEMS 128

// One instruction of a sequence: where in case.code.
struct orc_item {
    u16 off;
    u8 len;
};

struct orc_sequence {
    struct orc_case c;
    struct orc_item item[ORC_MAX_ITEMS];
    unsigned items;
};

struct orc_sequence_options {
    unsigned length; // most instructions drawn; those that prepare operands come on top
    bool host;       // leave out what the host does otherwise
    bool modify;     // have it change itself
};
// Instructions that no sequence has from the start, for what they do depends on more than the state before.
bool orc_unwanted(const struct orc_sequence_options *o, const struct insn *in);
void orc_sequence_generate(struct orc_guest *interp, const struct orc_sequence_options *o, u64 seed,
                           struct orc_sequence *q);

// Turn into NOPs, and make zero, whatever can be without the failure going away.
void orc_minimise(struct orc_sequence *q, bool (*fails)(void *arg, const struct orc_case *c), void *arg);

void orc_sequence_report(const struct orc_sequence *q, const struct orc_result *want, const struct orc_result *got);

struct orc_sequence_run {
    struct orc_sequence_options o;
    u64 seed, count;
    const char *engine, *against; // against: an engine, or "host"
    unsigned job, jobs, max_reports;
    bool selfcheck;
    _Atomic u64 *passed, *failed, *faulted, *endless, *reports, *instructions;
};
// The part of one worker. 0, or 2 when it cannot start.
int orc_sequences(const struct orc_sequence_run *run);

// --- comparison (compare.c) -------------------------------------------------------------------------------------------

// The instruction completed and went on at `rip`.
void orc_completed(struct orc_result *r, u64 rip);
// Exceptions that come from the harness' landing places rather than from the instruction are none. `exits`: where the exits lead.
void orc_normalise(const struct orc_case *c, struct orc_result *r, const u64 exits[2]);
// Control flow.
bool orc_jumps(const struct insn *in);
// Architectural difference.
bool orc_differs(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got);
// Difference in flags that the manuals leave undefined.
bool orc_undef_differs(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got);
void orc_report(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got);
// The part of it that does not look at the instruction.
void orc_report_states(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got);
// --- mutants (mutant.c) -----------------------------------------------------------------------------------------------

#define ORC_MAX_MUTANTS 128

struct orc_mutant {
    const char *name;
    // Change what the engine answered when the condition of this wrong behaviour holds.
    void (*apply)(const struct orc_case *c, struct orc_result *got);
};
extern const struct orc_mutant orc_mutants[];
extern const unsigned orc_mutant_count;

#endif
