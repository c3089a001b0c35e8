// Native execution: the instruction itself, run by the host processor on guest registers.
//
// What is not sensitive can be executed rather than emulated. For each distinct encoding a short host routine (a thunk) is
// built once; it loads the guest registers that the instruction names, runs the instruction with its memory operand redirected
// to a bounce buffer, and stores the results. That gives x87, MMX, SSE, AVX, BMI, AES, SHA... bit-exactly, undefined flags
// included.
//
// The caller (an engine) does everything around it: mode and control-register checks, guest memory into and out of the bounce
// buffer, alignment faults, delivery of exceptions, the x87 instruction and data pointers.
//
// A cache belongs to one virtual processor and is used by its thread only. Nothing here allocates or calls the host: the
// caller brings the memory, code memory as two mappings of the same pages, one writable and one executable.
//
// Exceptions. Masked SIMD exceptions need nothing. With unmasked ones the host processor raises its own exception inside the
// thunk, before anything was stored; the host's handler calls native_fault() with the registers of that moment and goes on at
// the address it returns, and the thunk returns 1 with the MXCSR flags in ctx.fault_mxcsr; for forms with MMX registers, what is
// left to the caller is the change to MMX state, which the processor makes before it raises the exception. x87 exceptions never
// trap here as long as none is pending when a waiting instruction is run: a thunk ends with FNSAVE, and a new exception stays
// in the guest's status word for the caller to deliver. FOP, FIP and FDP are left alone: those of the thunk mean nothing.
#ifndef POGO_ISA_NATIVE_H
#define POGO_ISA_NATIVE_H

#define NATIVE_CTX_GPR 64
#define NATIVE_CTX_FLAGS 80
#define NATIVE_CTX_HOST_MXCSR 88
#define NATIVE_CTX_X87 96

#ifndef __ASSEMBLER__

#include "isa/insn.h"

// What a thunk works on. Thunks address it by the constants above and below.
struct native_ctx {
    u8 mem[64];      // the memory operand
    u64 *gpr;        // 16 guest registers
    void *xs;        // guest XSAVE area, standard format with AVX (832 bytes, aligned to 64). SDM 1 13.4
    u64 flags;       // status flags: in and out for operations with NATIVE_OP_FLAGS; other bits mean nothing on return
    u32 host_mxcsr;  // loaded when a thunk is done
    u32 fault_mxcsr; // after a SIMD exception: MXCSR with the flags that were raised
    u8 x87[108];     // x87 state on its way in and out, in FNSAVE's 32-bit format
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct native_ctx, gpr) == NATIVE_CTX_GPR, "thunks load it");
_Static_assert(offsetof(struct native_ctx, flags) == NATIVE_CTX_FLAGS, "thunks load it");
_Static_assert(offsetof(struct native_ctx, host_mxcsr) == NATIVE_CTX_HOST_MXCSR, "thunks load it");
_Static_assert(offsetof(struct native_ctx, x87) == NATIVE_CTX_X87, "thunks load it");

// 0, or 1 when an unmasked SIMD exception was raised and no register changed.
typedef int native_fn(struct native_ctx *ctx, void *xs, u64 *gpr);

#define NATIVE_OP_FLAGS 1u // reads or writes status flags
#define NATIVE_OP_X87 2u   // works on x87 or MMX state

struct native_op {
    u64 key; // what was encoded; 0: the entry is free
    native_fn *fn;
    u32 flags; // NATIVE_OP_*
};

#define NATIVE_TABLE_BITS 12
#define NATIVE_TABLE (1u << NATIVE_TABLE_BITS)
#define NATIVE_THUNK_MAX 256

struct native_cache {
    struct native_ctx ctx;
    u8 *write;      // code memory as it is written ...
    const u8 *exec; // ... and as it is run
    u32 size, used; // bytes of it
    u32 count;      // entries in use
    u32 generation; // changes when everything is thrown away: operations bound before are void
    struct native_op table[NATIVE_TABLE];
};

// `size` bytes of code memory, at least NATIVE_THUNK_MAX; gpr and xs are the guest registers that thunks will work on.
void native_init(struct native_cache *nc, u8 *write, const u8 *exec, u32 size, u64 *gpr, void *xs);

// The operation for an instruction with ISA_ATTR_NATIVE; `bytes` are the instruction's own. Throws all others away when the
// code memory is full. NULL when the form cannot be run natively, which is an error in the table. The operation does not depend
// on the memory operand's address, only on there being one.
const struct native_op *native_bind(struct native_cache *nc, const struct insn *in, const u8 *bytes);

// The x87 part of native_call.
int native_call_x87(const struct native_op *op, struct native_ctx *ctx);

// Run it. The bounce buffer and the flags of ctx are in place.
static inline int native_call(const struct native_op *op, struct native_ctx *ctx)
{
    if (op->flags & NATIVE_OP_X87)
        return native_call_x87(op, ctx);
    return op->fn(ctx, ctx->xs, ctx->gpr);
}

// Outside 64-bit mode VEX.W means nothing to forms that select an integer operand's size with it: MOVD, CVTSI2SS and
// relatives, PEXTR, PINSR, PCMPESTRI (which counts in EAX or RAX), and all on general registers only. Elsewhere it is part of the opcode.
bool native_w_is_size(const struct insn *in);

// For the host's exception handler: a SIMD exception was raised at a pc inside the code memory, with these registers. Returns
// the address to go on at. Async-signal-safe.
const void *native_fault(u64 rdi, u32 mxcsr);

#endif
#endif
