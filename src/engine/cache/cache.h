// The decoded-instruction cache engine's inside: what its files share.
//
// A *run* is a straight piece of guest code inside one page, decoded once into *cells*: one cell for each instruction, with a
// pointer to the handler that does exactly this operation on operands of exactly this kind and size. A handler does its work
// and goes on to the next cell's handler by a tail call, so a guest branch is the host's own indirect branch and the processor
// learns the guest's control flow. Runs are found by host address and mode, so all linear aliases of a page share them; direct
// branches are linked to the runs they lead to.
//
//   cache.c      the loop around the handlers, engine operations
//   store.c      memory for runs: look-up, links, eviction, invalidation
//   build.c      from guest bytes to a run: choice of handlers, flags that nobody reads
//   slow.c       handlers that leave a run or go to the interpreter
//   alu.c, data.c, branch.c, vector.c, pairs.c    the fast handlers; exec.h and flags.h: what they are made of
//
// The interpreter is inside (struct cache holds a struct interp): whatever is unusual goes to it for one instruction, and
// faults, events and everything between instructions are its business. So handlers never raise: one that cannot do its work
// (TLB miss, segment limit, divide error) passes its cell to slow_op() before it has changed anything.
//
// While handlers run, the guest's state is in struct cpu with three exceptions, which sync() puts right: RIP is page_rip plus
// the cell's offset; status flags may be pending (flags.h); the count of instructions and the budget are behind by what `left`
// tells. `left` is the budget minus all instructions of the run, taken when it is entered; a cell knows how many are still to
// come (`rest`), so any cell can work out the exact count.
//
// Interrupts and requests from other threads are polled where a run is entered. What an instruction itself causes (a device
// access that raises an interrupt, a store that changes code) is noticed right after it, so that the cache and the interpreter
// agree on every instruction boundary where something happens.
#ifndef POGO_ENGINE_CACHE_H
#define POGO_ENGINE_CACHE_H

#include "engine/host_flags.h"
#include "engine/interp/interp.h"
#include "engine/keeper.h"

struct cell;
struct cache;
struct run;

// Handlers call each other without returning where the compiler turns `return f(...)` into a jump. Elsewhere (sanitizers, -O0)
// they return the next cell to a loop.
//
// The third and fourth argument are not used: they keep the registers that the compiler likes best for temporary values free of
// things that would have to be moved out of the way.
#if !defined(__OPTIMIZE__) && !defined(CACHE_TRAMPOLINE)
#define CACHE_TRAMPOLINE
#endif
#ifdef CACHE_TRAMPOLINE
typedef const struct cell *cell_fn(struct cpu *c, const struct cell *o, u64 t0, u64 t1, struct cache *e, i64 left);
#define HANDLER(name) \
    const struct cell *name(struct cpu *c, const struct cell *o, __attribute__((unused)) u64 t0, \
                            __attribute__((unused)) u64 t1, struct cache *e, i64 left)
#define GO(next_cell) \
    do { \
        e->left = left; \
        (void)c; \
        return (next_cell); \
    } while (0)
#define TO(handler, cell) return handler(c, (cell), 0, 0, e, left)
#define DONE return NULL
#else
typedef void cell_fn(struct cpu *c, const struct cell *o, u64 t0, u64 t1, struct cache *e, i64 left);
#define HANDLER(name) \
    void name(struct cpu *c, const struct cell *o, __attribute__((unused)) u64 t0, __attribute__((unused)) u64 t1, \
              struct cache *e, i64 left)
// Whatever is in those two registers.
#define TO(handler, cell) \
    do { \
        u64 any0_, any1_; \
        __asm__("" : "=d"(any0_), "=c"(any1_)); \
        return handler(c, (cell), any0_, any1_, e, left); \
    } while (0)
#define GO(next_cell) \
    do { \
        o = (next_cell); \
        __asm__("" : "+S"(o)); /* where the next handler wants it, and no copy on the way */ \
        TO(o->fn, o); \
    } while (0)
#define DONE return
#endif
#define NEXT GO(o + 1)
// Give the cell to another handler.
#define PASS(handler) TO(handler, o)

// Address sizes in cell.scale, beside the scale itself.
#define CELL_SCALE 0x03u
#define CELL_AD32 0x10u
#define CELL_AD16 0x20u
// In cell.seg.
#define CELL_DIRECT 0xffu

struct cell {
    cell_fn *fn;
    union {
        struct {
            u8 dst, src;    // registers
            u8 base, index; // of the memory operand, as in struct insn
        };
        u32 next_in; // direct branches: next cell that leads to the same run (store.c)
    };
    u8 scale; // log2, and CELL_AD*; direct branches: this cell's number in its run
    u8 seg;   // of the memory operand; direct branches: CELL_DIRECT
    u8 cc;    // condition of JCC, SETCC, CMOVCC; size of a vector operand
    u8 rest;  // instructions from this one (included) to the end of the run
    union {
        u64 imm;
        struct run *link; // direct branches: where they lead, or NULL as long as that has not been looked for
        struct extra *extra;
    };
    i32 disp; // displacement; direct branches: the target, relative to the page
    u16 off;  // of the instruction in its page
    u16 next; // of the following one
};

_Static_assert(sizeof(struct cell) == 32, "two to a cache line");

// What a cell needs that goes to the interpreter's handler or to a native thunk.
struct extra {
    interp_fn *fn;
    const struct native_op *native; // bound thunk ...
    u32 generation;                 // ... while the native cache's generation is this
    struct insn in;
    u8 bytes[16];
};

// Mode of a run: enum isa_mode, and whether segments are flat.
#define RUN_FLAT 0x04u
#define RUN_DEAD 0xffu // forgotten; memory stays until it is evicted

#define RUN_MAX 32 // instructions

struct run {
    hva page; // host page
    u16 off;  // of the first instruction
    u16 end;  // after the last byte
    u8 mode;  // RUN_*
    u8 n;     // instructions
    u16 cells;
    u32 links_in;      // first cell that leads here, or 0
    struct run *chain; // next in the hash chain by address
    struct run *peer;  // next in the list of its page
    u64 bytes;         // of memory, extras included
    u64 pad[2];
    struct cell cell[];
};

_Static_assert(sizeof(struct run) == 64, "cells are addressed in units of 32 bytes");

#define JUMP_BITS 12
#define JUMPS (1u << JUMP_BITS)

// Where branches went lately, by RIP.
struct jump {
    u64 rip;
    struct run *run;
};

#define STORE_PARTS 8

struct store {
    u8 *mem;
    u64 size, part_size;
    unsigned part;           // being filled
    u64 used[STORE_PARTS];   // bytes
    struct run **by_address; // hash tables
    struct run **by_page;
};

struct cache_stats {
    u64 runs, insns, evictions, entries, found, links, slow, steps;
};

struct cache {
    // Hot: used by handlers.
    const struct tlb_entry *tlb; // of the current view and context
    u64 page_rip;                // RIP of the first byte of the current page
    u32 poll;                    // requests that end a run
    u32 flags_kind;              // FLAGS_*: status flags follow from the next three
    u64 flags_a, flags_b;
    u64 product_a, product_b; // see FLAGS_PRODUCT
    i64 left;                 // trampoline: the handlers' `left`; else where `cur` is set
    i64 chunk;                // see sync()
    const struct cell *cur;   // a cell whose handler may fault without having called sync()
    u8 mode;                  // RUN_* of the code being run
    u8 fpu;                   // FPU_*: what may run without further checks
    bool step;                // on leaving: run the instruction at RIP in the interpreter
    struct cell *unlinked;    // on leaving: a branch that wants a link to the run at RIP
    struct jump jump[JUMPS];
    // Not so hot.
    struct store store;
    struct cache_stats stats;
    struct keeper keeper;
    struct host_flags host_flags;
    unsigned quiet_steps; // so many instructions go to the interpreter without asking
    u64 cr0, cr4, xcr0;   // `fpu` was computed from these
    struct insn decoded[RUN_MAX];
    u8 bytes[RUN_MAX][16];
    struct interp in;
};

#define FPU_SSE 1u
#define FPU_AVX 2u
#define FPU_PMODE 4u

static inline bool in_64bit(const struct cache *e)
{
    return (e->mode & 3) == ISA_MODE_64;
}

// Has somebody asked for something that ends a run?
static inline bool requested(const struct cache *e)
{
    return atomic_load_explicit(&e->in.v->request, memory_order_relaxed) & e->poll;
}

static inline struct jump *jump_slot(struct cache *e, u64 rip)
{
    return &e->jump[(rip ^ rip >> JUMP_BITS) & (JUMPS - 1)];
}

// --- store.c ------------------------------------------------------------------------------------------------------------

// Memory for runs, `size` bytes. 0 or a negative errno.
int store_init(struct cache *e, u64 size);
void store_fini(struct cache *e);
struct run *store_find(const struct cache *e, hva page, unsigned off, unsigned mode);
// Room for a run of so many cells and extras; may evict others. It is not findable until store_add().
struct run *store_alloc(struct cache *e, unsigned cells, unsigned extras, struct extra **extra);
void store_add(struct cache *e, struct run *r);
// The run that holds a direct branch's cell.
struct run *store_run_of(const struct cell *o);
void store_link(struct cache *e, struct cell *o, struct run *to);
// Forget runs that overlap [off, off+len) of a host page: see keeper_ops.drop.
bool store_drop(struct cache *e, hva page, unsigned off, unsigned len, u64 *dropped);
void store_flush(struct cache *e);

// --- build.c ------------------------------------------------------------------------------------------------------------

// Decode the code at offset `off` of host page `page` (guest-physical `phys`) in the current mode. NULL: nothing can be cached
// there now, the interpreter is to run the instruction.
struct run *build_run(struct cache *e, hva page, gpa phys, unsigned off);

// The fast handler for an instruction, or NULL. The cell's operands are filled in already.
// `live`: status flags that somebody may look at after it.
cell_fn *select_alu(const struct cache *e, const struct insn *in, struct cell *o, u32 live);
cell_fn *select_data(const struct cache *e, const struct insn *in, struct cell *o);
cell_fn *select_branch(const struct cache *e, const struct insn *in, struct cell *o);
cell_fn *select_vector(const struct cache *e, const struct insn *in, struct cell *o);
// A comparison and the conditional branch after it as one; NULL: as two.
cell_fn *select_pair(cell_fn *first, const struct cell *jcc);
// Two simple instructions, likewise.
cell_fn *select_joined(cell_fn *first, cell_fn *second);

// --- slow.c -------------------------------------------------------------------------------------------------------------

// Make everything in struct cpu and the interpreter's counters exact, as of the boundary before cell o.
void sync(struct cache *e, const struct cell *o, i64 left);
// The same at `rip`, between runs, with `left` instructions of budget.
void sync_at(struct cache *e, u64 rip, i64 left);
// Status flags into RFLAGS.
void sync_flags(struct cache *e);

HANDLER(slow_op);     // run this one instruction in the interpreter, fetched and decoded anew, then go on
HANDLER(slow_branch); // the same for an instruction with no cell after it
HANDLER(slow_call);   // the same by the interpreter's handler in cell.extra
HANDLER(slow_quiet);  // the same for a handler that reaches neither memory nor devices
HANDLER(slow_step);   // leave the run; the loop runs this instruction in the interpreter
HANDLER(slow_leave);  // leave before this cell
HANDLER(slow_flags);  // bring the flags up to date and run this cell again
HANDLER(slow_link);   // a direct branch without a usable link; `left` is exact for its target
HANDLER(next_run);    // pseudo-cell: a run ends without a branch ...
HANDLER(next_page);   // ... and the page with it

#endif
