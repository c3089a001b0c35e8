// The reference interpreter's inside: what its files share.
//
// One handler per operation (`enum isa_op`), listed in ops_*.def. A handler runs with cpu.rip still at its own instruction and
// x->next_rip at the following one; branches store into x->next_rip (through interp_jump, which checks limits), and the
// loop commits it when the handler returns.
//
// Faults leave through interp_raise(), a longjmp to the run loop. A handler therefore does everything that can fault before
// it changes any state, memory included; RSP alone is put back by the loop (x->restart_rsp), so pushes and pops may move it
// early. Data that was loaded and discarded is fine.
//
// The interpreter holds no state of the guest outside struct cpu between instructions: x->mode, x->view and friends are
// caches that interp_mode_changed() recomputes.
#ifndef POGO_ENGINE_INTERP_H
#define POGO_ENGINE_INTERP_H

#include <setjmp.h>

#include "core/cpuid.h"
#include "core/debug.h"
#include "core/machine.h"
#include "core/mmu.h"
#include "isa/insn.h"
#include "isa/native.h"

#define INTERP_MEMO_BITS 12
#define INTERP_MEMO (1u << INTERP_MEMO_BITS)

struct interp;
typedef void interp_fn(struct interp *x, const struct insn *in);

// Decoded instructions remembered by address and *validated by their bytes*: a hit needs the same mode and the same bytes, so
// nothing ever has to be invalidated, and the interpreter stays a pure function of memory.
struct interp_memo {
    u64 bytes[2]; // the instruction's bytes, zero beyond its length
    u64 mask[2];  // ff for each of them
    interp_fn *fn;
    u8 mode;         // enum isa_mode, or 0xff: empty
    bool pmode_only; // #UD in real and v8086 mode
    struct insn insn;
};

struct interp {
    struct cpu *c;
    struct vcpu *v;
    const u8 *insn_bytes; // raw bytes of the instruction being run
    u64 next_rip;
    u64 restart_rsp;    // RSP to restore when the current instruction faults
    enum tlb_view view; // of ordinary data accesses
    enum isa_mode mode; // of the code being run
    u32 isa_options;    // ISA_OPT_* for the decoder, by CPU vendor
    bool debug_on;      // data accesses are compared: DR7 enables some breakpoint, or the debugger watches memory
    bool break_on;      // so are addresses of instructions, or the debugger steps
    bool watch_hit;     // the debugger's watchpoint is why `stop` is set
    bool align_on;      // alignment checks are in force: CR0.AM, EFLAGS.AC, CPL 3
    bool rep_more;      // a REP instruction has iterations left: RIP stays
    bool resume_rf;     // keep RF set after this instruction (IRET, REP in progress, task switch)
    u8 shadow_next;     // CPU_SHADOW_* that this instruction casts on the next
    u32 dr6_trap;       // DR6 bits of data and I/O breakpoints and T-bit traps met by this instruction: #DB after it
    bool delivering;    // an event is being delivered; `delivered` is it
    bool ext;           // EXT bit for error codes of faults met during delivery
    bool tf_cleared;    // this instruction took an interrupt or trap itself: its single-step trap is lost
    bool trace;         // log every instruction
    bool stop;          // leave the run loop after this instruction with `exit`
    struct cpu_event delivered;
    struct cpu_event raised;
    struct vm_exit exit;
    const struct debug_points *points; // the debugger's, or NULL when there are none
    u64 budget;                        // instructions left in this run()
    jmp_buf fault;
    u32 pauses; // PAUSE instructions run
    struct native_cache *native;
    struct host_code native_code;
    u8 fetch_buf[16];
    struct interp_memo memo[INTERP_MEMO];
};

// --- the run loop (loop.c), for engines that lean on the interpreter ------------------------------------------------------
//
//     interp_enter(x, budget);
//     if (setjmp(x->fault))
//         interp_take_fault(x);
//     while (interp_ready(x))
//         interp_step(x);
//     return x->exit;
//
// An engine does something faster than interp_step() where it can, and gives back the instruction of budget that it did not
// use; v->insns is its business then, too.

// Memory is zeroed by the caller and stays where it is. 0 or a negative errno.
int interp_init(struct interp *x, struct vcpu *v);
void interp_fini(struct interp *x);
// Begin a run(): at most `budget` instructions.
void interp_enter(struct interp *x, u64 budget);
// All that is due before the next instruction: events, requests, the clock. True when one is to be run, for which budget has
// been spent; false: return x->exit.
bool interp_ready(struct interp *x);
// Run one instruction. Faults leave by longjmp to x->fault. Returns its operation, or ISA_OP_COUNT: a breakpoint of the debugger's
// came first.
unsigned interp_step(struct interp *x);
// The same for the instruction at RIP that the caller has decoded, where neither breakpoints nor tracing are on. `fn`:
// interp_handler() of its form, which the processor offers in this mode. `bytes` live as long as the call.
void interp_call(struct interp *x, interp_fn *fn, const struct insn *in, const u8 *bytes);
// After that longjmp: a handler or a delivery raised x->raised; make it the pending event.
void interp_take_fault(struct interp *x);

// --- raising (loop.c) ---------------------------------------------------------------------------------------------------

_Noreturn void interp_raise(struct interp *x, unsigned vector); // no error code
_Noreturn void interp_raise_err(struct interp *x, unsigned vector,
                                u32 err); // adds EXT during delivery where it applies
_Noreturn void interp_raise_pf(struct interp *x, const struct mmu_fault *f);
_Noreturn void interp_raise_db(struct interp *x, u32 dr6); // fault-like #DB (general detect, instruction breakpoint)

static inline _Noreturn void interp_ud(struct interp *x)
{
    interp_raise(x, X86_EXC_UD);
}

static inline _Noreturn void interp_gp0(struct interp *x)
{
    interp_raise_err(x, X86_EXC_GP, 0);
}

// Recompute the caches after CS, CPL, EFLAGS (VM, AC), CR0, CR4, EFER, DR7 or a mode changed.
void interp_mode_changed(struct interp *x);
// Leave run() after this instruction (HLT, reset).
void interp_stop(struct interp *x, enum vm_exit_reason reason);
// The same for the debugger.
void interp_stop_debug(struct interp *x, enum debug_cause cause, gva a);

// The handler that runs a form, or NULL when there is none (a hole in the interpreter; tests look for them).
interp_fn *interp_handler(unsigned form);

// --- registers ----------------------------------------------------------------------------------------------------------

static inline u64 size_mask(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

static inline u64 sign_extend(u64 v, unsigned size)
{
    unsigned shift = 64 - size * 8;
    return (u64)((i64)(v << shift) >> shift);
}

static inline u64 gpr_get(const struct cpu *c, unsigned reg, unsigned size)
{
    return c->gpr[reg] & size_mask(size);
}

// Writes of 32 bits clear the upper half, of 8 and 16 bits leave the rest. SDM 1 3.4.1.1.
static inline void gpr_set(struct cpu *c, unsigned reg, unsigned size, u64 val)
{
    if (size >= 4)
        c->gpr[reg] = val & size_mask(size);
    else
        c->gpr[reg] = (c->gpr[reg] & ~size_mask(size)) | (val & size_mask(size));
}

static inline void flags_set(struct cpu *c, u64 mask, u64 val)
{
    c->rflags = (c->rflags & ~mask) | (val & mask);
}

// --- memory (access.c) --------------------------------------------------------------------------------------------------

// Effective address of the memory operand: offset in its segment, truncated to the address size.
u64 interp_ea(struct interp *x, const struct insn *in);
// Segmentation: limit, type and canonical checks of [off, off+len) in segment register `seg`, and the linear address. Raises
// #GP(0) or #SS(0). SDM 3A 5.3, 5.4; in 64-bit mode only canonical form.
gva interp_linear(struct interp *x, unsigned seg, u64 off, unsigned len, enum mmu_access access);
// Data access through a segment, 1, 2, 4 or 8 bytes, with alignment check and data breakpoints.
u64 interp_load(struct interp *x, unsigned seg, u64 off, unsigned size);
void interp_store(struct interp *x, unsigned seg, u64 off, unsigned size, u64 val);
// Any length up to 4096 (vectors, FXSAVE, ...); alignment rules of vectors are the caller's.
void interp_load_buf(struct interp *x, unsigned seg, u64 off, void *buf, unsigned len);
void interp_store_buf(struct interp *x, unsigned seg, u64 off, const void *buf, unsigned len);
// Make sure a later store of [off, off+len) cannot fault, without storing.
void interp_probe_store(struct interp *x, unsigned seg, u64 off, unsigned len);
// Data breakpoints, the guest's and the debugger's, that an access by linear address meets; for accesses that do not go through a segment.
void interp_check_watch(struct interp *x, gva a, unsigned len, bool write);
// Implicit supervisor access by linear address (descriptor tables, TSS). SMAP applies whatever EFLAGS.AC is. #GP(0) where the
// address is not canonical.
u64 interp_sys_load(struct interp *x, gva a, unsigned size);
void interp_sys_store(struct interp *x, gva a, unsigned size, u64 val);
// Access by linear address in a given view (stacks of another privilege level during transfers): segment checks are the
// caller's.
u64 interp_lin_load(struct interp *x, gva a, unsigned size, enum tlb_view view);
void interp_lin_store(struct interp *x, gva a, unsigned size, enum tlb_view view, u64 val);
void interp_lin_probe(struct interp *x, gva a, unsigned len, enum mmu_access access, enum tlb_view view);

// Host pointer for a locked operation on [a, a+size) where the TLB has no write tag for it: RAM in a page with code; NULL for anything
// else. mem_written(*phys) when the bytes have changed.
u8 *interp_code_page(struct interp *x, gva a, unsigned size, gpa *phys);

// --- operands (access.c) ------------------------------------------------------------------------------------------------

// Value of operand i, zero-extended from its size (immediates as the decoder extended them, masked to opnd size if nonzero).
u64 opnd_get(struct interp *x, const struct insn *in, unsigned i);
void opnd_set(struct interp *x, const struct insn *in, unsigned i, u64 val);

// Read-modify-write of operand i. rmw_begin faults as a write does and gives the old value in m->old; rmw_end stores, and
// returns false when a LOCKed compare-exchange lost against another processor: m->old is new then, compute again.
//     rmw_begin(x, in, 0, &m);
//     do { r = alu(m.old...); } while (!rmw_end(x, &m, r));
struct rmw {
    u64 old;
    u8 *host; // RAM inside one page; NULL: register or slow memory
    gva lin;
    gpa phys; // where in_code
    u8 size, reg, kind;
    bool locked;
    bool in_code; // in a page with code: engines have to hear of the store
};
void rmw_begin(struct interp *x, const struct insn *in, unsigned i, struct rmw *m);
// The same for a memory operand at seg:off that the caller computed (bit strings); m->size and m->locked are set already.
void rmw_begin_at(struct interp *x, unsigned seg, u64 off, struct rmw *m);
bool rmw_end(struct interp *x, struct rmw *m, u64 val);

// --- stack (access.c) ---------------------------------------------------------------------------------------------------

// Bytes of the stack pointer in use: 2, 4 or 8 by SS.B and mode.
unsigned interp_stack_size(const struct interp *x);
// Push and pop on the current stack; RSP moves at once and is put back by the loop on a fault.
void interp_push(struct interp *x, unsigned size, u64 val);
u64 interp_pop(struct interp *x, unsigned size);

// --- control transfer (branch.c) ----------------------------------------------------------------------------------------

// Near transfer: truncates to `opsize`, checks the CS limit or canonical form (#GP(0)), sets x->next_rip.
void interp_jump(struct interp *x, u64 target, unsigned opsize);

// --- segments and far transfers (seg.c, far.c, gate.c, task.c, event.c) ---------------------------------------------------

struct descriptor {
    u64 raw;   // the 8 bytes
    u64 base;  // with bits 63:32 for 16-byte system descriptors
    u32 limit; // in bytes
    u32 attr;  // X86_SEG_*
    gva addr;  // linear address of the descriptor
};

// Load a data or stack segment register as MOV, POP, LDS... do, in every mode; CS through far transfers only.
void interp_load_seg(struct interp *x, unsigned seg, u16 sel);
// Real and v8086 mode load: base = sel << 4; limit and attributes as the mode says.
void interp_load_seg_real(struct interp *x, unsigned seg, u16 sel);
// Fetch a descriptor from the GDT or LDT. Returns false when the selector is null or outside the table.
bool interp_fetch_desc(struct interp *x, u16 sel, struct descriptor *d);
void interp_desc_to_seg(const struct descriptor *d, u16 sel, struct x86_seg *s);
// Deliver an event: pushes, switches stacks and tasks, sets CS:RIP. cpu.rip is the return address (soft events: the INT's own
// address; its length is in the event). May raise; the loop then forms double and triple faults. SDM 3A 6.12-6.14.
void interp_deliver(struct interp *x, const struct cpu_event *ev);

// --- I/O and system (string.c, sys.c) -------------------------------------------------------------------------------------

// I/O permission: IOPL and the TSS bitmap; raises #GP(0). SDM 1 19.5.
void interp_check_io(struct interp *x, u16 port, unsigned size);
u32 interp_in(struct interp *x, u16 port, unsigned size); // bus access with I/O breakpoints
void interp_out(struct interp *x, u16 port, unsigned size, u32 val);
// Write CR0/CR3/CR4/EFER with the checks of MOV CR and the consequences (mode switch, TLB, PDPTEs). Used by tasks too.
void interp_write_cr0(struct interp *x, u64 val);
void interp_write_cr3(struct interp *x, u64 val);
void interp_write_cr4(struct interp *x, u64 val);

// --- x87 and SIMD (simd.c) ------------------------------------------------------------------------------------------------

// #UD, #NM and pending #MF checks that an x87, MMX, SSE or AVX form needs before it runs, by its attributes.
void interp_fpu_check(struct interp *x, const struct insn *in);
// Set up and release what vector execution needs (the cache of native thunks). 0 or a negative errno.
int interp_simd_init(struct interp *x);
void interp_simd_fini(struct interp *x);
// Execute a form with ISA_ATTR_NATIVE on the host processor.
void interp_native(struct interp *x, const struct insn *in);

// --- the table ------------------------------------------------------------------------------------------------------------

#define OP(op, fn) interp_fn fn;
#include "engine/interp/ops_int.def"
#include "engine/interp/ops_simd.def"
#include "engine/interp/ops_sys.def"
#include "engine/interp/ops_xfer.def"
#undef OP

#endif
