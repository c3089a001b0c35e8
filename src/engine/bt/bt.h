// The binary translator's inside: what its files share.
//
// Guest and host are the same architecture, so a *block* of translated code is mostly the guest's own instructions, in which
// registers are renamed, memory operands go through a probe of the software TLB, and control transfers and sensitive instructions
// are replaced.
//
//   bt.c          the loop around translated code, engine operations
//   service.c     what translated code calls: TLB misses, instructions for the interpreter, branches without a link
//   adapt.c       accesses that keep missing the TLB for another reason than that it is small
//   glue.c        the code between C and translated code
//   codecache.c   memory for blocks: look-up, eviction, invalidation
//   link.c        branches from block to block
//   forms.c       what is known of an instruction beforehand
//   analyse.c     decoding, and which status flags somebody may look at
//   translate.c   one block
//   light.c       system instructions in C, without the interpreter
//   event.c       exceptions, interrupts and IRET; event32.c those of 32-bit protected mode
//   vecstate.c    the guest's vector registers in the host's
//   flags.c, recipe.c, mem.c, ident.c, vector.c, x87.c, stack.c, string.c, bits.c, sys.c, flow.c    what the code of a block is made of; emit.h encodes it
//
// While translated code runs:
//
//   host          guest
//   rax rcx rdx rbx rbp rsi rdi r8 r9 r12 r13 r14     the same
//   r15           rsp
//   r10 r11       nothing: scratch
//   gs            its base: the TLB of user code, where the host allows to set it
//   rsp           a private stack that holds host return addresses of guest calls (flow.c)
//   host flags    status flags, or nothing when they are in ctx.slot: every place in a block knows which (flags.c)
//
// and the guest's r10 r11 r15 are in struct bt_ctx. Vector registers are in the host's when ctx.vec says so (vecstate.c). All other state is in struct cpu; RIP is ctx.page_base plus what the place in the
// block says. struct bt_ctx lies right before the code, in reach of RIP-relative operands. Blocks are found by host page and mode,
// hold no linear address, and so serve all aliases of a page. Code of CPL 3 and of the others are different blocks (BLOCK_USER), so
// that a block knows the privilege of what it does; each has a private stack.
//
// The interpreter is inside (struct bt holds a struct interp): what is unusual goes to it for one instruction. A place in a block that
// may have to leave it is a *site*: a record with all that is needed to bring struct cpu up to date there and to come back.
//
// Counting. When run() has a budget, each block takes its instructions off ctx.left when it is entered, so the number of
// instructions is exact at every site; without one nothing is counted and blocks end early only where they poll ctx.doorbell: at
// backward branches, at branches to other pages and at indirect ones, which every loop has.
#ifndef POGO_ENGINE_BT_H
#define POGO_ENGINE_BT_H

#include "engine/bt/adapt.h"
#include "engine/bt/emit.h"
#include "engine/host_flags.h"
#include "engine/interp/interp.h"
#include "engine/keeper.h"

#define BT_INSNS 64 // in a block, at most
#define BT_PLACES 16
#define BT_JUMP_BITS 13
#define BT_JUMPS (1u << BT_JUMP_BITS)
#define BT_PARTS 8
#define BT_STACK (256u << 10) // bytes of a private stack: 16 for each nested call, and the reserve for signal handlers
#define BT_STACK_RESERVE (16u << 10)
#define BT_CACHE_MAX (2000ull << 20) // bytes: code and its context are within 32-bit displacements of each other

// Nonzero: service() and what it calls may use vector registers.
#ifndef BT_VEC_EAGER
#define BT_VEC_EAGER 0
#endif

// Registers that translated code uses for itself, and where the guest's RSP is.
enum { HOST_T0 = X86_R10, HOST_T1 = X86_R11, HOST_SP = X86_R15 };

struct bt_block;
struct bt;

// What became of a miss of the TLB.
struct bt_missed {
    u64 *outcome;           // the counter for it
    gpa phys;               // where the access goes, if it was found out
    bool good;              // the probe will hit
    bool forbidden;         // the page tables do not allow the access ...
    struct mmu_fault fault; // ... and this comes of it
};

// Where indirect branches went lately, by RIP. What is in here was mapped and executable there under `key`.
struct bt_jump {
    u64 rip;
    u64 key;                      // bt_key()
    u64 code;                     // entry_slot of the block, which leads out again where the block has been forgotten
    const struct bt_block *block; // to see to it when the key is another one
};

// What translated code has at hand.
struct bt_ctx {
    u64 r10, r11, r15; // the guest's
    u64 page_base;     // RIP of the first byte of the current page
    u64 tlb;           // struct tlb_entry *: current view and context
    u64 slot;          // status flags as LAHF and SETO leave them in AX (isa/alu.h)
    // Lower halves of tlb.key[]. With the doorbell between them, one comparison of eight bytes sees a change of either: bt_key_at().
    u32 key_user;
    _Atomic u32 doorbell;
    u32 key_super;
    u32 why; // enum bt_why, on the way out
    i64 left;
    u64 site;                   // the site or link concerned, as its distance from the start of the near memory
    u64 addr;                   // linear address that missed the TLB
    u64 target;                 // RIP that an indirect branch goes to
    u64 ret_site;               // the indirect branch that is going to ctx.target
    u64 go;                     // where to enter translated code
    u64 sp;                     // of the private stack in use ...
    u64 sp_other;               // ... and of that for the other privilege
    u64 sp_limit[2], sp_top[2]; // of each: [1] for CPL 3
    u64 c_sp;
    u64 gpr;              // the guest's other registers: struct cpu.gpr
    u64 jump[2];          // struct bt_jump *, of 64-bit code and of 32-bit code
    u64 tmp[4];           // of one instruction; [0] to [2] also of the glue
    u64 kept[2];          // operands of a recipe
    u64 place[BT_PLACES]; // host addresses of groups of accesses (share.c)
    u64 seg_base[2];      // FS and GS
    u32 seg_flat[2];      // outside 64-bit mode: they are usable, writable and have no limit
    u64 scratch;          // of the glue
    u32 vec;              // VEC_*: the guest's vector state is in the host's registers, and may be used
    u32 host_mxcsr;
    u64 fip, fdp;             // the x87 pointers while that state is in the host's registers
    u32 fop, fseg;            // FOP_OLD, ~0: not set since then
    u64 xstate_bv;            // of struct cpu, meanwhile
    u64 view[TLB_VIEW_COUNT]; // struct tlb_entry *: each view of the current context
    u64 bounce_to;            // where the copy of an operand is wanted ...
    u64 bounce_at;            // ... HOST_T0 for it ...
    u8 bounce[ADAPT_BOUNCE] __attribute__((aligned(ADAPT_BOUNCE))); // ... and that copy
};

// Why translated code calls service().
enum bt_why {
    BT_MISS,   // a probe of the TLB failed for ctx.addr at a site
    BT_STEP,   // run the instruction at a site in the interpreter
    BT_LEAVE,  // leave before the instruction at a site
    BT_BUDGET, // the same at the start of a block whose instructions have been taken off ctx.left
    BT_LINK,   // a direct branch has no usable link
    BT_LOOKUP, // go to ctx.target
    BT_PORT,   // run the IN or OUT at a site
    BT_ADAPT,  // a probe of the TLB failed for ctx.addr at a site that is special: ctx.site is the number of its record
    BT_AFTER,  // that has been done, but something is due now
    BT_VECTOR, // ctx.vec does not allow what a vector instruction at a site needs
    BT_LIGHT,  // run the system instruction at a site in C
    BT_WHYS
};

// Kinds of access at a site.
enum { SITE_READ, SITE_WRITE };

// For the instruction at a site: an exception without error code is all that comes of it.
#define SITE_RAISES 0x20u
// For the instruction at a site, if the interpreter runs it: the block cannot rely on anything afterwards.
#define SITE_SHAKES 0x10u

// How status flags follow from two operands (recipe.c).
enum {
    RECIPE_NONE,
    RECIPE_CMP,
    RECIPE_SUB,
    RECIPE_ADD,
    RECIPE_TEST,
    RECIPE_LOGIC,
    RECIPE_NEG,
    RECIPE_INC,
    RECIPE_DEC,
    RECIPE_SHL,
    RECIPE_SHR,
    RECIPE_SAR
};

#define RECIPE_KEPT 16 // this one and the next: ctx.kept[]

struct bt_recipe {
    u8 kind; // SUB, ADD, LOGIC, NEG, INC, DEC: the first operand holds the result; INC, DEC: and CF is in the slot
    u8 size;
    u8 a, b; // guest registers or RECIPE_KEPT; b ISA_REG_NONE: imm
    i32 imm;
};

struct bt_site {
    u16 retry;  // offset in the block's code: start of the probe, or BT_LIGHT: where to go on ...
    u16 resume; // ... and of the next instruction, or 0: leave when this one has been run, which keeps something for a recipe or ends the block
    u16 block;  // how far before this the block is, in units of BT_UNIT
    union {
        u16 call; // BT_STEP: how far behind the block a struct bt_call is, in units of BT_UNIT, or 0
        u16 miss; // of a probe (`size` is not 0): offset in the block's code of the displacement of its jump to its tail
    };
    u16 off;   // of the instruction in its page
    u16 op;    // enum isa_op
    u16 size;  // bytes that the probe is for
    u8 len;    // of the instruction
    u8 idx;    // number of the instruction in its block
    u8 access; // SITE_*; BT_VECTOR: the VEC_* needed; BT_STEP: SITE_RAISES + the exception that is all that comes of it, SITE_SHAKES or 0
    u8 vec;    // VEC_*: what code at `retry` and `resume` relies on
    union {
        u8 pop;     // RET: bytes taken off the stack, to undo it
        u8 operand; // aligned ones: how far behind what is probed
    };
    bool shared : 1;         // the probe is for a group of accesses
    bool upgraded : 1;       // it reads, and the probe is for a write
    bool direct : 1;         // nothing but a page fault can come of an access that the page tables forbid
    u8 align : 5;            // bits of the operand's address that must be clear
    struct bt_recipe recipe; // RECIPE_NONE: status flags are in the slot
};

#define BT_UNIT 4u // bytes: what distances inside a block's records are counted in

// An instruction for the interpreter that need not be decoded again.
struct bt_call {
    interp_fn *fn;
    struct insn in;
    u8 bytes[16];
};

// A way into another page, `disp` from the current one. That is the host page `page` as long as the current page is at `base` and the
// key is `key`; otherwise it has to be looked for (glue.c).
struct bt_far {
    u64 key;  // bt_key(); 0: none
    u64 base; // ctx.page_base
    u64 page; // 0: not linked
    i32 disp; // of that page
    u32 pad;
};

struct bt_link {
    u32 jump;    // offset in the code memory of the displacement to patch
    u32 stub;    // where it leads without a link
    i32 disp;    // target relative to the page
    u32 next_in; // the next link to the same block, as its distance from the start of the near memory
    u32 to;      // block; 0: not linked
    u32 from;
    u32 far;                 // struct bt_far, as its distance, where the target is in another page; or 0
    u16 off;                 // of the branch in its page
    u8 flags : 4;            // enum flags_at: where status flags are
    u8 way : 4;              // enum link_way
    u8 settle;               // FLAGS_RECIPE: how long the stub is with code that brings them into the host's and jumps
    struct bt_recipe recipe; // that the flags follow from as well, or RECIPE_NONE
};

#define LINK_STUB 11 // bytes, without that

// How a link is come to: what to undo when the target turns out not to be canonical, which is the branch's own fault.
enum link_way { LINK_RUNS_ON, LINK_JUMP, LINK_CALL, LINK_LOOP, LINK_RETURN };

// Where status flags are.
enum flags_at {
    FLAGS_NONE = 0, // nowhere: nobody looks at them before they are written
    FLAGS_HOST = 1, // in the host's flags
    FLAGS_SLOT = 2, // in ctx.slot
    FLAGS_BOTH = 3,
    FLAGS_RECIPE = 4, // nowhere, but they follow from registers: struct bt_recipe
    FLAGS_HALF = 8,   // in the host's but for CF, and from a recipe, which has CF in the slot. Only inside a block
};

#define BLOCK_FLAT 0x04u // mode: enum isa_mode with this ...
#define BLOCK_USER 0x08u // ... and with this at CPL 3
// ... and with this without groups of accesses: where code goes on when a group's range is not in one page of plain memory.
#define BLOCK_ALONE 0x10u
// ... and this times a number from 1 on, which is of those at the same place that are entered with a recipe.
#define BLOCK_VARIANT 0x20u
#define BT_VARIANTS 3
#define BLOCK_VARIANTS (BT_VARIANTS * BLOCK_VARIANT)

struct bt_block {
    u64 page;                   // host page; 0: forgotten
    u64 entry_slot;             // where to enter it: flags in the slot
    u32 code;                   // offset in the code memory
    u32 peer;                   // next of the same page, as its distance from the start of the near memory
    u32 links_in;               // first link to this block, likewise
    u16 off, end;               // in the page: first byte, after the last one (also beyond the page)
    u16 entry_host, entry_both; // where to enter it with the flags in the host's, or in both: offsets in its code
    u16 code_size;              // bytes, without its tails
    u16 bytes;                  // of near memory
    u16 sites;                  // how many follow ...
    u8 second, fars, links;     // ... the others, in this order
    u8 mode;
    u8 n : 7; // instructions
    u8 resumes : 1; // can be entered with RF set, which ends with its first instruction: that looks at nothing but its operands
    u8 wants : 3;            // enum flags_at: where flags are best when it is entered ...
    u8 wants_recipe : 1;     // ... but a recipe for them is better
    struct bt_recipe recipe; // of a variant: it is entered by its entry_slot, but the flags follow from this
};

_Static_assert(sizeof(struct bt_block) == 56 && sizeof(struct bt_link) == 40 && sizeof(struct bt_site) == 28,
               "there are many of them");

// Of a block with an instruction that crosses into a second page.
struct bt_second {
    u64 page;
    u32 peer; // next of the same second page: see codecache.c
    u32 pad;
};

struct bt_part {
    u32 code, code_used; // offsets in the code memory ...
    u32 cold, cold_used; // ... of blocks' tails
    u32 meta, meta_used; // distances from the start of the near memory
};

// A place of the hash table of blocks. The hash says all that has to be known about a block to move it or go past it, so that few
// blocks are touched.
struct bt_slot {
    u32 hash;
    u32 block; // distance from the start of the near memory; 0: free
};

#define BT_LINES 16
#define BT_LINE 64u // bytes

// Of which lines of a page there are blocks, as of a number of changes.
struct bt_lines {
    hva page;
    u64 changes;
    u64 code; // a bit for each
};

struct bt_cache {
    struct host_code mem;
    u32 code_part, meta_part; // bytes of a part ...
    u32 hot_part;             // ... those of its code that are not for tails
    struct bt_part part[BT_PARTS];
    unsigned now;               // being filled
    struct bt_slot *by_address; // hash table of blocks, `slots` long
    u32 *by_page;               // heads of their pages' lists, by hash, `pages` long
    u32 *seen;                  // one bit for each of those
    u32 slots, pages, blocks;   // blocks: in by_address
    u64 changes;                // of what blocks there are
    struct bt_lines lines[BT_LINES];
};

struct bt_stats {
    u64 blocks, insns, code_bytes, cycles; // translated
    u64 keys;                              // changes of the execution keys
    u64 entries, found, links, evictions;
    u64 why[BT_WHYS];                                     // calls of service()
    u64 refills, crossings, devices, code_writes, faults; // what became of BT_MISS
    u64 unshared, steps, inner_steps, vec_loads;
    u64 page_faults, irets, exceptions, soft_ints, interrupts, light; // past the interpreter
};

enum {
#define BT_OPT(id, name, help) BT_OPT_NUMBER_##id,
#include "engine/bt/opts.def"
#undef BT_OPT
};

enum bt_opt {
#define BT_OPT(id, name, help) BT_OPT_##id = 1u << BT_OPT_NUMBER_##id,
#include "engine/bt/opts.def"
#undef BT_OPT
};

#define BT_SHARINGS 4096
#define BT_UNSHARE_AFTER 8
#define BT_UNSHARE_WITHIN 20000 // cycles from one time to the next

// How groups of accesses do in blocks at a place.
struct bt_sharing {
    u32 last;  // time-stamp counter when one failed
    u8 failed; // how often, again and again
    u8 level;  // enum bt_share
};

// Where a site whose group failed goes on: in the block of kind BLOCK_ALONE that begins with its instruction.
#define BT_ALONES 1024
struct bt_alone {
    u32 site, block; // distances from the start of the near memory
};

enum bt_share { SHARE_ALL, SHARE_NO_UPGRADES, SHARE_NOTHING };

#define BT_CPUIDS 64

// State of the processor that CPUID shows.
struct bt_cpuid_state {
    u64 cr4, xcr0, xss, apic_base, misc_enable;
    bool wide;
};

// An answer of CPUID.
struct bt_cpuid {
    u32 leaf, subleaf;
    struct bt_cpuid_state state;
    struct cpuid_regs regs;
    bool valid;
};

// Instructions that the interpreter ran, by operation.
struct bt_stepped {
    u64 loop, inside;
};

// What the translator knows of an instruction's form beforehand (forms.c).
enum {
    FORM_OFFERED = 1,        // by the processor model, and known to the interpreter
    FORM_BITS = 2,           // bits.c may want it
    FORM_STRING = 4,         // bt_is_string()
    FORM_STACK = 8,          // it uses the stack
    FORM_LEAVES = 0x10,      // it may leave the block, whatever becomes of its probes
    FORM_STATUS = 0x20,      // it writes status flags, or leaves some undefined
    FORM_ADDRESS = 0x40,     // its memory operand is not accessed
    FORM_ALIGN = 0x80,       // its memory operand has to be aligned
    FORM_KILLS_SOME = 0x100, // host_flags_killed() decides
    FORM_READS_SOME = 0x200, // isa_flags_read() decides
};

struct bt_form {
    u8 emitter;       // enum tr_emitter: who has to be asked
    u8 cls;           // enum isa_class
    u16 is;           // FORM_*
    u16 kills, reads; // status flags
};

struct bt {
    struct bt_ctx *ctx; // in the near memory
    struct bt_cache cache;
    u64 glue_enter;                               // executable addresses
    u64 vec_store, vec_load, x87_store, x87_load; // the same; vecstate.c
    u64 glue[BT_WHYS], glue_link_host, glue_step_host;
    u64 glue_bounce;                                             // to ctx.bounce_to, with ctx.bounce_at in HOST_T0
    u64 glue_ret[4], glue_far[4], glue_lookup[4], glue_renew[4]; // by bt_number()
    u32 opts;                                                    // enum bt_opt: those that are on
    u32 limit;                                                   // instructions in a block, at most
    u8 mode;
    u8 stack_mode[2]; // of the code that each private stack leads to
    bool counting;    // blocks count their instructions
    i64 chunk;        // ctx.left when the interpreter's counters were last exact
    u64 now;          // passes of time for the keeper: entries from the loop
    u32 quiet_steps;
    bool plain;  // dumps without offsets: golden tests
    u64 key_age; // upper half of the TLB's last execution key
    struct bt_missed missed;
    u32 unlinked; // a link that wants to lead to RIP, or 0
    struct bt_stats stats;
    struct bt_stepped stepped[ISA_OP_COUNT + 1];
    struct keeper keeper;
    struct host_flags host_flags;
    bool has_xsave, has_bmi2;               // the host
    bool by_gs;                             // the base of GS is where user code finds the TLB: ctx.view[TLB_USER] ...
    u64 gs;                                 // ... or this was, when it was last set
    bool host_tsc;                          // the guest's TSC is the host's plus cpu.msr.tsc_offset
    struct bt_sharing sharing[BT_SHARINGS]; // by hash of a block's place
    bool alone;                             // find_block() wants one of kind BLOCK_ALONE ...
    const struct bt_recipe *coming_with;    // ... or comes with a recipe
    struct bt_alone alones[BT_ALONES];      // by number of the site; of blocks that have not been evicted
    struct bt_form form[ISA_FORM_COUNT];
    struct bt_cpuid cpuid[BT_CPUIDS]; // by hash of leaf and subleaf
    struct adapt adapt;
    struct interp in;
};

static inline bool bt_mode_64(unsigned mode)
{
    return (mode & 3) == ISA_MODE_64;
}

static inline bool bt_mode_user(unsigned mode)
{
    return mode & BLOCK_USER;
}

// Number of the glue for code of a width and a privilege.
static inline unsigned bt_number(bool wide, bool user)
{
    return (wide ? 0 : 1) + (user ? 2 : 0);
}

// The eight bytes that tell whether what is known under a key still holds, and nobody has asked for anything: those of the key and of
// the doorbell, which are compared with bt_key().
static inline const void *bt_key_at(const struct bt *b, bool user)
{
    return user ? (const void *)&b->ctx->key_user : (const void *)&b->ctx->doorbell;
}

_Static_assert(offsetof(struct bt_ctx, key_user) % 16 == 0, "bt_key_at() is within a cache line");

static inline u64 bt_key(const struct bt *b, bool user)
{
    return user ? b->ctx->key_user : (u64)b->ctx->key_super << 32;
}

static inline void *bt_near(const struct bt *b, u32 distance)
{
    return b->cache.mem.near + distance;
}

static inline u32 bt_distance(const struct bt *b, const void *p)
{
    return (u32)((const u8 *)p - b->cache.mem.near);
}

static inline u64 bt_exec(const struct bt *b, u32 offset)
{
    return (u64)b->cache.mem.exec + offset;
}

static inline struct bt_second *bt_second(const struct bt_block *k)
{
    return (struct bt_second *)(void *)(k + 1);
}

// The second page, or 0.
static inline hva bt_page2(const struct bt_block *k)
{
    return k->second ? bt_second(k)->page : 0;
}

static inline struct bt_far *bt_fars(struct bt_block *k)
{
    return (struct bt_far *)(void *)(bt_second(k) + k->second);
}

static inline struct bt_link *bt_links(struct bt_block *k)
{
    return (struct bt_link *)(void *)(bt_fars(k) + k->fars);
}

static inline struct bt_site *bt_sites(struct bt_block *k)
{
    return (struct bt_site *)(void *)(bt_links(k) + k->links);
}

// The block that a site is in.
static inline struct bt_block *bt_site_block(const struct bt_site *s)
{
    return (struct bt_block *)(void *)((u8 *)(uintptr_t)s - s->block * BT_UNIT);
}

// The decoded instruction of a site, or NULL.
static inline const struct bt_call *bt_call_of(const struct bt_site *s)
{
    return s->call && !s->size ? (const void *)((const u8 *)bt_site_block(s) + s->call * BT_UNIT) : NULL;
}

static inline struct bt_sharing *bt_sharing(struct bt *b, hva page, unsigned off)
{
    return &b->sharing[((page >> 12) * 0x9e3779b97f4a7c15ull + off * 0xc2b2ae3d27d4eb4full) >> 52];
}

// Where guest register `g` is while a light call is served: those of the context are not in struct cpu then.
static inline u64 *bt_reg(struct bt *b, unsigned g)
{
    struct bt_ctx *c = b->ctx;
    return g == X86_R10 ? &c->r10 : g == X86_R11 ? &c->r11 : g == X86_R15 ? &c->r15 : &b->in.c->gpr[g];
}

static inline struct bt_alone *bt_alone_slot(struct bt *b, u32 site)
{
    return &b->alones[(site / BT_UNIT * 0x9e3779b1u) >> 22];
}

// Has somebody asked for something that can be had now?
static inline bool bt_requested(const struct bt *b)
{
    const struct cpu *c = b->in.c;
    u32 req = atomic_load_explicit(&b->in.v->request, memory_order_relaxed);
    if (LIKELY(!req))
        return false;
    return req & ~(c->rflags & X86_FL_IF ? 0 : VCPU_REQ_INTR);
}

// May translated code run at all just now?
static inline bool bt_blocks_allowed(const struct interp *x)
{
    const struct cpu *c = x->c;
    return !(x->break_on | x->debug_on | x->align_on | x->trace | c->shadow) && !(c->rflags & X86_FL_TF) &&
           !c->pending_dr6;
}

// Can the instruction at RIP just be run: is nothing due before it, and nothing switched on that needs the interpreter?
static inline bool bt_undisturbed(const struct bt *b)
{
    const struct interp *x = &b->in;
    const struct cpu *c = x->c;
    return LIKELY(!(x->stop | c->nmi_pending) && c->event.type == CPU_EVENT_NONE && c->activity == CPU_RUNNING &&
                  !bt_requested(b) && bt_blocks_allowed(x));
}

// Hash of the jump table: glue_emit_jump() computes it so that it is an offset at once.
static inline struct bt_jump *bt_jump_slot(struct bt *b, u64 rip)
{
    struct bt_jump *t = (struct bt_jump *)b->ctx->jump[!bt_mode_64(b->mode)];
    return &t[rip * 9 >> 5 & (BT_JUMPS - 1)];
}

// Take over where the views of the TLB's current context are; in.view is right.
static inline void bt_take_views(struct bt *b)
{
    for (unsigned i = 0; i < TLB_VIEW_COUNT; i++)
        b->ctx->view[i] = (u64)b->in.v->tlb.cur[i].e;
    b->ctx->tlb = b->ctx->view[b->in.view];
}

// Take over what FS and GS are.
static inline void bt_take_segments(struct bt *b)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct x86_seg *s = &b->in.c->seg[X86_FS + i];
        b->ctx->seg_base[i] = s->base;
        b->ctx->seg_flat[i] =
            s->limit == ~0u && !(s->attr & (X86_SEG_UNUSABLE | X86_SEG_CODE | X86_SEG_E)) && s->attr & X86_SEG_W;
    }
}

// Make GS's base what code relies on: after anything that may have changed what the current context of the TLB is.
static inline void bt_set_gs(struct bt *b)
{
    u64 base = (u64)b->in.v->tlb.cur[TLB_USER].e;
    if (LIKELY(!b->by_gs || b->gs == base))
        return;
    b->gs = base;
    __asm__ volatile("wrgsbase %0" : : "r"(base));
}

// --- bt.c -------------------------------------------------------------------------------------------------------------------

// Host page of the code at the start of the linear page behind that of `lin`, and where it is; 0: there is none to translate now.
hva bt_page_behind(struct bt *b, gva lin, gpa *phys);
// All that is due before the instruction at RIP, then the block to enter there by its entry_slot, the context loaded; NULL: leave. May
// leave by longjmp, and may evict blocks. With b->unlinked set, and still set afterwards, the block is where that link leads.
const struct bt_block *bt_go_on(struct bt *b);
// The variant of the block at RIP for a recipe, or the block itself: there are others enough, or it would not do any better. May evict
// blocks.
struct bt_block *bt_variant(struct bt *b, const struct bt_block *k, const struct bt_recipe *recipe);
// Before translated code is run: take over the TLB's execution keys.
void bt_take_keys(struct bt *b);

// --- forms.c ------------------------------------------------------------------------------------------------------------------

// Fill b->form.
void forms_init(struct bt *b);

// --- glue.c -----------------------------------------------------------------------------------------------------------------

// Go to the RIP in HOST_T0 and ctx.target, at CPL 3 or not, by way of the jump table. The displacements of the jumps that are taken when it
// is not there are left in miss[]; then ctx.target has the RIP, HOST_T1 the table's entry.
void glue_emit_jump(struct emit *e, struct bt *b, bool wide, bool user, u8 *miss[2]);
// Emit the code between C and translated code at the start of the code memory. Returns its size.
u32 glue_emit(struct bt *b);
// Compare the doorbell with 0.
void glue_emit_doorbell(struct emit *e, struct bt *b);
// Enter translated code at ctx.go; comes back when service() says 0.
static inline void glue_enter(struct bt *b)
{
    ((void (*)(void))(uintptr_t)b->glue_enter)(); // NOLINT
}

// --- codecache.c --------------------------------------------------------------------------------------------------------------

int codecache_init(struct bt *b, u64 size);
void codecache_fini(struct bt *b);
// `page2`: the host page behind, where an instruction at `off` could cross into it.
struct bt_block *codecache_find(const struct bt *b, hva page, unsigned off, unsigned mode, hva page2);
// Room for one more block of any size in the current part; may evict the oldest part.
void codecache_room(struct bt *b, u32 code, u32 cold, u32 meta);
void codecache_add(struct bt *b, struct bt_block *k);
// Forget blocks that overlap [off, off+len) of a host page: see keeper_ops.drop.
bool codecache_drop(struct bt *b, hva page, unsigned off, unsigned len, u64 *dropped);
// Are there blocks of a host page, and none that was made of bytes in [off, off+len)?
bool codecache_spares(struct bt *b, hva page, unsigned off, unsigned len);
void codecache_flush(struct bt *b);
// Forget one block.
void codecache_kill(struct bt *b, struct bt_block *k);

// --- link.c -------------------------------------------------------------------------------------------------------------------

void link_make(struct bt *b, struct bt_link *l, struct bt_block *to);
void link_cut_incoming(struct bt *b, struct bt_block *k);
void link_cut_outgoing(struct bt *b, struct bt_block *k);
// Cut the links between a block whose record is in [lo, hi), distances from the start of the near memory, and those outside. Links among
// those inside are left as they are: all of them go.
void link_cut_outside(struct bt *b, struct bt_block *k, u32 lo, u32 hi);

// --- translate.c ----------------------------------------------------------------------------------------------------------------

// Translate the code at `lin`, which is in host page `page` (guest-physical `phys`), in mode `mode`, that is b->mode but for BLOCK_ALONE and
// BLOCK_VARIANT. A variant is for a recipe; where that would not do any good the block is an ordinary one. NULL: nothing can be translated
// there now.
struct bt_block *translate(struct bt *b, gva lin, unsigned mode, hva page, gpa phys, const struct bt_recipe *recipe);

// --- stats.c ----------------------------------------------------------------------------------------------------------------------

void stats_print(const struct bt *b, char *buf, size_t size);

// --- service.c ------------------------------------------------------------------------------------------------------------------

// Called by translated code, through the glue, on the stack of glue_enter()'s caller. Where to go on, or 0: leave.
u64 service(struct bt *b);
// The same for a miss of the TLB at ctx.site for ctx.addr, with not all of the guest's registers in struct cpu: enters the page. The
// probe to run again, or 0: there is more to it, as b->missed says to service().
u64 service_miss(struct bt *b);
// The same for the IN or OUT at ctx.site. Where to go on; 0: ctx.why says what service() is to do.
u64 service_port(struct bt *b);
// The same for the system instruction at ctx.site (light.c).
u64 service_light(struct bt *b);
// Status flags that a site says how to find, into RFLAGS.
void service_follow_recipe(struct bt *b, const struct bt_recipe *r);
// The access at a site has missed a page with code. If it is a repeated STOS to another page than its own: store all elements in the page
// but one. The site may be forgotten, its block's memory stays.
void service_fill(struct bt *b, const struct bt_site *s);
// Make everything in struct cpu and the interpreter's counters exact, as of the boundary before a site.
void service_sync(struct bt *b, const struct bt_site *s);
// The same at `rip`, with `left` instructions of budget.
void service_sync_at(struct bt *b, u64 rip, i64 left);

// --- adapt.c --------------------------------------------------------------------------------------------------------------------

// Called by translated code through the glue, with all of the guest's registers in struct cpu, for a miss of the TLB at a site that is
// special. Where to go on; 0: ctx.why says what service() is to do.
u64 adapt_serve(struct bt *b);
// An access at a site has missed for a reason that may last.
void adapt_slow(struct bt *b, const struct bt_site *s, enum adapt_reason why);
// The port I/O at a site went past the interpreter.
void adapt_port(struct bt *b, const struct bt_site *s);
// Sites in [lo, hi), distances from the start of the near memory, are no more.
void adapt_forget(struct bt *b, u32 lo, u32 hi);
// Make a site special, if there is a way. The vector state is parked.
void adapt_specialise(struct bt *b, const struct bt_site *s, struct adapt_site *a);

// --- event.c --------------------------------------------------------------------------------------------------------------------

// Take a fault of the instruction at RIP to the guest's handler; struct cpu is exact. False: it is the pending event now, which is for the
// interpreter.
bool event_fault(struct bt *b, const struct cpu_event *ev);
// The same for INT n and INT3 at RIP, `len` bytes long. False, and nothing has changed: it is for the interpreter.
bool event_soft(struct bt *b, enum cpu_event_type type, unsigned vector, unsigned len);
// Deliver what is pending, or the external interrupt that is due, if it is as usual. The vector state has been set aside.
void event_pending(struct bt *b);
// Run the IRET at RIP, SYSENTER or SYSEXIT, the same way.
bool event_iret(struct bt *b, unsigned opsize);
bool event_sysenter(struct bt *b);
bool event_sysexit(struct bt *b);

#endif
