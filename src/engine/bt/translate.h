// One translation at work: what the files that emit a block's code share.
//
// A block is emitted in one pass over its instructions, after analyse.c has decoded them and worked out for each which status flags
// may still be looked at. Meanwhile t->flags says where the guest's status flags are.
#ifndef POGO_ENGINE_BT_TRANSLATE_H
#define POGO_ENGINE_BT_TRANSLATE_H

#include "engine/bt/bt.h"

// How an access gets at its host address (share.c).
enum access_role {
    ACCESS_ALONE,  // by a probe of its own
    ACCESS_LEADER, // by a probe for [base + lo, base + lo + size) for the whole group
    ACCESS_MEMBER, // by the leader's
};

enum { ACCESS_OPERAND, ACCESS_STACK, ACCESSES };

struct tr_access {
    u8 role, slot; // slot: of ctx.place
    bool upgraded; // a read that probes as for a write
    bool addend;   // LEADER: ctx.place is for what to add to linear addresses, and all members can do with that
    u16 size;      // LEADER: of the group's range, from `lo` on
    i32 at, lo;    // relative to the quantities of which its registers consist
};

// Which of the functions below emits an instruction.
enum tr_emitter {
    TR_STEP, // none: it goes to the interpreter
    TR_IDENT,
    TR_LEA,
    TR_NOTHING, // nothing need be done
    TR_STACK,
    TR_STRING,
    TR_BITS,
    TR_FLOW,
    TR_VECTOR,
    TR_X87,
    TR_SYS
};

// Where a memory operand is in the host: [HOST_T0 + disp], or [base + HOST_T0 + disp].
struct mem_ref {
    bool has_base;
    u8 base;
    i32 disp;
};

// How an instruction that stays what it is gets encoded for the host (shape.h).
struct shape {
    const struct insn *in;
    const struct isa_form_info *f;
    int mem;              // operand number, or -1
    bool vex, high, low8; // AH and friends; SPL and friends
    u8 opcode;            // instead of the instruction's, or 0
    bool lent;            // the memory operand is [rsi]
    u8 at[8];             // host registers by ISA_FIELD_*
    u8 scratches;
    u8 guest[2], host[2]; // guest registers in scratch registers
    bool load[2], store[2];
    bool ok;
    struct mem_ref ref; // where the memory operand is
};

// What is known of ctx.place.
struct tr_place {
    bool addend;    // tr_access.addend of the group ...
    i32 lo;         // ... and tr_access.lo
    i32 aligned_at; // what is there, as tr_access.at, is known to be aligned ...
    u8 aligned;     // ... to so many bytes; 0: nothing is
};

struct tr_insn {
    struct insn in;
    const struct bt_form *form;
    const u8 *bytes;
    struct shape shape; // TR_IDENT, TR_VECTOR
    i8 mem;             // number of the memory operand, or -1
    u8 emitter;         // enum tr_emitter
    u16 off, next;      // in the page
    u32 at;             // its code, from the block's start
    bool step;          // goes to the interpreter ...
    bool call;          // ... decoded
    bool ends;          // nothing is emitted after it
    bool follows;       // a JMP in the page, forwards: the block goes on where it leads, which is `next`
    bool shares;        // its memory operand may be one of a group: it is emitted by mem_operand()
    struct tr_access access[ACCESSES];
    u8 check;  // VEC_*: what has to be seen to before it
    u8 known;  // VEC_*: what holds after that check, up to the next instruction
    u32 seen;  // status flags, as they are before it, that it or something after it may look at
    u32 kills; // those that it overwrites in any case
    u32 reads; // those that it looks at
};

// Code that is put behind the block, or apart.
enum tail_kind {
    TAIL_SERVICE,
    TAIL_MISS,
    TAIL_SP_RESET,
    TAIL_FLOW, // these and the following ones are flow.c's
    TAIL_EDGE = TAIL_FLOW,
    TAIL_FAR,       // a way into another page has to be looked for
    TAIL_RENEW,     // the same for the jump table
    TAIL_LOOKUP,    // the look-up of an indirect call
    TAIL_CANONICAL, // is the target canonical?
    TAIL_KINDS
};

struct tail {
    u8 kind, why;
    bool host;   // flags are in the host's
    u8 *from;    // displacement of the jump that leads here
    u8 *from2;   // TAIL_FAR, TAIL_RENEW: another one
    u32 record;  // site or link
    u32 far;     // TAIL_FAR
    u8 tag;      // TAIL_MISS: offset of the tag in struct tlb_entry
    u16 skipped; // TAIL_EDGE: instructions of the block that are not run
    u64 back;    // where to go on
    u32 at, end; // its code, from the block's start, as if what is apart followed the rest
    u8 insn;     // the instruction it belongs to
};

#define TAILS (BT_INSNS * 4)

struct tr {
    struct bt *b;
    struct emit e;
    struct bt_block *k;
    unsigned n, i; // instructions, the current one
    enum flags_at flags;
    unsigned links, fars; // used
    unsigned tails;
    u8 *code;                // where the block's code begins ...
    u8 *cold;                // ... and what lies apart
    bool wide;               // 64-bit mode
    bool user;               // CPL 3
    bool cut;                // the bytes end inside the instruction after the last one
    bool failed;             // out of room: give up
    u32 done;                // bytes up to the last instruction's end ...
    u32 straight;            // ... up to the tails ...
    u32 body;                // ... up to what lies apart ...
    u32 size;                // ... and with that
    bool wrote_flags;        // the current instruction has
    struct bt_recipe recipe; // of the flags that were written last, or RECIPE_NONE
    struct bt_recipe made;   // of those that the current instruction writes, where it had to be prepared
    bool polled;             // the doorbell has been looked at in this block
    bool share, upgrade;     // groups of accesses are looked for, writes among reads
    unsigned at_hand;        // 1 + the number of the place that is in HOST_T0; 0: none is
    struct tr_place place[BT_PLACES];
    int poll_before;               // the last instruction that branches back in the page, or -1
    struct tr_insn insn[BT_INSNS]; // from here on nothing is set before it is used
    struct tail tail[TAILS];
};

// What a block of `n` instructions may need: bytes of code and of tails, and sites. A block that needs more is given up, which is seen
// when less than tr_code_spare() is left.
static inline u32 tr_code_max(unsigned n)
{
    return 3840 + n * 410;
}

static inline u32 tr_code_spare(unsigned n)
{
    return tr_code_max(n) / 5;
}

static inline u32 tr_tails_max(unsigned n)
{
    return 3072 + n * 328;
}

static inline unsigned tr_sites_max(unsigned n)
{
    return 32 + n * 4;
}

static inline struct tr_insn *tr_now(struct tr *t)
{
    return &t->insn[t->i];
}

static inline const struct insn *tr_in(const struct tr *t)
{
    return &t->insn[t->i].in;
}

// Size of addresses and of what the stack holds, in bytes.
static inline unsigned tr_natural(const struct tr *t)
{
    return t->wide ? 8 : 4;
}

// --- analyse.c ------------------------------------------------------------------------------------------------------------------

// Decode `room` bytes, which nobody else changes and which stay where they are while the block is translated, of the code at page offset `off`, to an instruction that crosses the page's
// end at most. Fills t->insn, t->n and t->cut.
void analyse(struct tr *t, const u8 *code, unsigned room, unsigned off);
// MOVS, CMPS, STOS, LODS, SCAS.
static inline bool bt_is_string(const struct insn *in)
{
    return in->op == ISA_OP_MOVS || in->op == ISA_OP_CMPS || in->op == ISA_OP_STOS || in->op == ISA_OP_LODS ||
           in->op == ISA_OP_SCAS;
}

// --- share.c --------------------------------------------------------------------------------------------------------------------

// Find groups of accesses.
void share_probes(struct tr *t);

// --- translate.c ----------------------------------------------------------------------------------------------------------------

// A new site for the current instruction.
struct bt_site *tr_site(struct tr *t);
u32 tr_distance(const struct tr *t, const void *record);
// An executable address in the block as an offset in its code.
static inline u16 tr_offset(const struct tr *t, u64 at)
{
    return (u16)(at - bt_exec(t->b, t->k->code));
}
struct tail *tr_tail(struct tr *t, enum tail_kind kind, u8 *from, const void *record);
// Run the current instruction in the interpreter.
void tr_step(struct tr *t);
// The same when `cc` holds after what was just emitted; the flags are in the slot.
struct bt_site *tr_step_if(struct tr *t, unsigned cc);
// The same for the jump whose displacement is at `from`.
struct bt_site *tr_step_from(struct tr *t, u8 *from);

// --- vector.c -------------------------------------------------------------------------------------------------------------------

// Fill check and known of all instructions.
void vector_plan(struct tr *t);
// See to x->check of the current instruction.
void vector_check(struct tr *t);
// Are instructions of the form vector.c's?
bool vector_form(unsigned form);

// --- x87.c ----------------------------------------------------------------------------------------------------------------------

// Does the form work on x87 or MMX registers, and on no others, in a way that x87.c can do?
bool x87_form(unsigned form);

// --- flags.c --------------------------------------------------------------------------------------------------------------------

// Before code that destroys the host's flags: see that nothing is lost.
void flags_clobber(struct tr *t);
// Before code that looks at the host's flags, or passes some through.
void flags_need(struct tr *t);
// The same where it looks at CF alone and overwrites all.
void flags_need_carry(struct tr *t);
// The same for INC and DEC: true where CF stays in the slot, so that the state afterwards is FLAGS_HALF. `kept`: their operand is.
bool flags_pass_carry(struct tr *t, bool kept);
// The same for a condition: returns the code to use for it then.
unsigned flags_condition(struct tr *t, unsigned cc);
// Before the current instruction is emitted: is its recipe going to be needed? With its memory operand kept, or what it shifts: which is
// done here.
bool flags_keep_memory(struct tr *t);
void flags_keep_shifted(struct tr *t);
// The current instruction's own flags are in the host's now. Those that it passes through were there before.
void flags_now_host(struct tr *t);
// Around each instruction.
void flags_before(struct tr *t);
void flags_after(struct tr *t);
// Not by a recipe any more.
void flags_settle(struct tr *t);
// Into the slot, whoever looks at them.
void flags_save(struct tr *t);
void flags_emit_save(struct emit *e, struct bt_ctx *c);
void flags_emit_restore(struct emit *e, struct bt_ctx *c);
// The current instruction has overwritten what it overwrites, and there is more to come.
void flags_spoil(struct tr *t);
// Tell a link where the flags are when the block is left here. `lost`: not in the host's then.
void flags_leave(const struct tr *t, struct bt_link *l, bool lost);
// Does the current instruction need the flags as they are, to read or to pass through?
bool flags_wanted(const struct tr *t);

// --- recipe.c -------------------------------------------------------------------------------------------------------------------

// How the flags that the current instruction has just written can be had again, as long as its registers are what they are now.
struct bt_recipe recipe_of(const struct tr *t);
// Is CF part of it, and not in the slot?
bool recipe_has_carry(const struct bt_recipe *r);
// Does the current instruction overwrite an operand of the recipe?
bool recipe_spoiled(const struct tr *t);
// Keep those operands.
void recipe_keep(struct tr *t);
// The flags into the host's; destroys HOST_T1. Without `carry` CF is not what it should be, where it is in the slot.
void recipe_emit(struct tr *t, const struct bt_recipe *r, bool carry);
// Only ZF, SF and PF, of a recipe whose first operand is the result.
void recipe_emit_result(struct tr *t, const struct bt_recipe *r);
// CF out of the slot.
void recipe_emit_carry(struct tr *t);
// Can the current instruction be emitted so that its memory operand is kept? Emit it so, with the operand at s->ref.
bool recipe_can_keep_memory(const struct tr *t, const struct shape *s);
void recipe_emit_memory(struct tr *t, const struct shape *s);
// If it shifts a register by a constant: keep that.
void recipe_keep_shifted(struct tr *t);

// --- mem.c ----------------------------------------------------------------------------------------------------------------------

// Host register that holds guest register `g`, or -1: it is in the context.
static inline int host_reg(unsigned g)
{
    const u32 in_context = 1u << X86_R10 | 1u << X86_R11 | 1u << X86_R15;
    if (in_context >> g & 1)
        return -1;
    return g == X86_RSP ? HOST_SP : (int)g;
}
u64 *context_reg(const struct tr *t, unsigned g);
// Host address of the current instruction's memory operand into HOST_T0; destroys HOST_T1 and flags. Code that does not get there
// leaves through a site.
void mem_operand(struct tr *t, unsigned size, bool write);
// The same, but for what the instruction itself can add.
struct mem_ref mem_operand_ref(struct tr *t, unsigned size, bool write);
// HOST_T0: where that is.
void mem_sum(struct tr *t, struct mem_ref r);
// Host address of the stack access of the current instruction, at guest register `reg` plus `disp`, into HOST_T0, but for a displacement, which
// is returned.
i32 mem_stack(struct tr *t, unsigned reg, i32 disp, bool write);
// HOST_T1: the TLB entry for the linear address in HOST_T0, by ctx.tlb; destroys flags.
void mem_emit_entry(struct emit *e, struct bt *b);
// An instruction (`opcode` r, r/m) on HOST_T0 and what is at `offset` in the entry that mem_probe() looked at.
void mem_entry_op(struct tr *t, unsigned opcode, unsigned offset);
// Where, in its block's code, that goes on which the probe of a site is for. *addend: with HOST_T0 to be added to the linear address.
u32 mem_hit(const struct bt *b, const struct bt_site *s, bool *addend);
// Host address for the linear address in HOST_T0, as mem_operand() finds it. `retry`: where its computation began.
void mem_probe(struct tr *t, u64 retry, unsigned size, bool write);
// Can operand `in` be accessed by way of an addend: is it off one register that is in the host's?
bool mem_has_base(const struct tr *t, const struct insn *in);
// Can the memory operand's segment be handled?
bool mem_can(const struct tr *t, const struct insn *in);
// Effective address of the memory operand into a host register, without segment.
void mem_ea(struct tr *t, unsigned to);
void mem_ea32(struct tr *t, unsigned to); // its lower half
// Add the segment's base to it. May leave through a site.
void mem_segment(struct tr *t);
// Guest register to or from a host register, whole.
void mem_get_reg(struct tr *t, unsigned host, unsigned g);
void mem_put_reg(struct tr *t, unsigned g, unsigned host);

// --- the rest: each emits the current instruction and returns true, or emits nothing ------------------------------------------

bool tr_ident(struct tr *t);
bool tr_lea(struct tr *t);
bool tr_stack(struct tr *t);
bool tr_string(struct tr *t);
bool tr_bits(struct tr *t);
bool tr_flow(struct tr *t);
bool tr_vector(struct tr *t);
bool tr_x87(struct tr *t);
bool tr_sys(struct tr *t);

// Can an instruction whose form names one of these be emitted by it? (Before anything is.) Where it stays what it is, x->shape is filled.
bool ident_can(const struct tr *t, struct tr_insn *x);
bool bits_can(const struct tr *t, const struct insn *in);
bool string_can(const struct tr *t, const struct insn *in);
bool stack_can(const struct tr *t, const struct insn *in);
bool flow_can(const struct tr *t, const struct insn *in);
bool vector_can(const struct tr *t, struct tr_insn *x);
bool x87_can(const struct tr *t, const struct insn *in);
bool sys_can(const struct tr *t, const struct insn *in);
bool sys_ends(const struct insn *in); // does it always leave the block?

// Is it a direct branch back in its page?
bool flow_goes_back(const struct tr_insn *x);
// Is it a branch that has the flags in the slot, but for those with a recipe?
bool flow_frees_flags(const struct tr_insn *x);
// Or one that has them there in any case?
bool flow_saves_flags(const struct tr_insn *x);
// Before each instruction: a poll, where there has to be one and this is a good place for it.
void flow_poll(struct tr *t);
// The block goes on at page offset `off`, with nothing emitted after this.
void flow_end(struct tr *t, unsigned off);
// Go to the RIP in HOST_T0 and ctx.target, at CPL 3 or not; flags are in the slot. `site`: of the instruction whose fault it is when that is
// not canonical, or NULL: it is.
void flow_lookup(struct tr *t, bool user, const struct bt_site *site);
void flow_tail(struct tr *t, const struct tail *l); // TAIL_FLOW and following
// How many struct bt_far the block needs at most.
unsigned flow_count_fars(const struct tr *t);
// At the start of a block, in counting mode.
void flow_count(struct tr *t);
// At the start of a block with an instruction that crosses its page's end, in the first struct bt_far: see that the bytes behind are where they were.
void flow_check_page2(struct tr *t);

// --- dump.c -----------------------------------------------------------------------------------------------------------------------

// The finished translation as text, line by line. `page`: guest address of the page, for what is shown; `offsets`: show those of host code.
void dump_block(struct tr *t, u64 page, bool offsets, void (*line)(void *arg, const char *text), void *arg);

#endif
