// From guest bytes to a run.
//
// A run ends at a branch that always leaves, at an instruction that the loop has to run (what can change modes, mappings or
// interrupts), at the end of the page, or when it is long enough. An instruction that crosses the page's end is never cached.
//
// Flags that the next instructions overwrite need not be worked out at all. Walking backwards, a flag is live when a later
// instruction reads it before one sets it; everything is live where the run can be left: at its end, at branches, and before
// every instruction that can fault, because the fault shows them.
#include <string.h>

#include "engine/cache/exec.h"

// --- operands -------------------------------------------------------------------------------------------------------------

enum ea_kind ea_kind(const struct cache *e, const struct insn *in)
{
    bool wide = in_64bit(e);
    if (!(e->mode & RUN_FLAT) || in->adsize != (wide ? 8 : 4) || in->seg >= X86_FS || in->op == ISA_OP_CMOVCC)
        return EA_G;
    if (!wide && in->seg == X86_CS)
        return EA_G;
    if (in->base == ISA_REG_RIP)
        return EA_R;
    if (in->base == ISA_REG_NONE)
        return EA_G;
    if (in->index == ISA_REG_NONE)
        return wide ? EA_B : EA_B32;
    return wide ? EA_X : EA_X32;
}

static bool has_memory(const struct insn *in)
{
    return isa_memory_operand(in) >= 0;
}

// Fill in what handlers find in cells. False: does not fit.
static bool fill_operands(const struct cache *e, const struct insn *in, struct cell *o)
{
    o->dst = in->opnd[0].reg;
    o->src = in->opnd[in->opnd[0].kind == ISA_OPND_MEM || in->nopnd > 1 ? 1 : 0].reg;
    o->imm = (u64)in->imm;
    if (!has_memory(in))
        return true;
    i64 disp = in->base == ISA_REG_RIP ? in->disp + o->next : in->disp;
    if (disp < INT32_MIN || disp > INT32_MAX)
        return false;
    o->base = in->base;
    o->index = in->index;
    o->seg = in->seg;
    o->scale = in->scale;
    o->disp = (i32)disp;
    if (ea_kind(e, in) == EA_G && in->op != ISA_OP_LEA)
        o->scale |= in->adsize == 4 ? CELL_AD32 : in->adsize == 2 ? CELL_AD16 : 0;
    return true;
}

// --- kinds of instructions --------------------------------------------------------------------------------------------------

// Sensitive ones that change nothing that runs depend on: the interpreter's handler will do.
static bool is_callable(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_RDTSC:
    case ISA_OP_RDTSCP:
    case ISA_OP_RDPID:
    case ISA_OP_CPUID:
    case ISA_OP_SWAPGS:
    case ISA_OP_PUSHF:
    case ISA_OP_RDFSBASE:
    case ISA_OP_RDGSBASE:
    case ISA_OP_WRFSBASE:
    case ISA_OP_WRGSBASE:
    case ISA_OP_XGETBV:
    case ISA_OP_RDMSR: return true;
    default: return false;
    }
}

// Must the loop run it?
static bool is_for_loop(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    if (in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE) && f->attr & (ISA_ATTR_REP | ISA_ATTR_REPCC))
        return true;
    if (f->cls == ISA_CLASS_IDENT || f->cls == ISA_CLASS_MEM)
        return false;
    return !is_callable(in);
}

// Neither memory nor devices, and no faults that would show more than the boundary before it.
static bool is_quiet(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    const u32 memory = ISA_IMPLICIT_MEM | ISA_IMPLICIT_STACK;
    return (f->cls == ISA_CLASS_IDENT || f->cls == ISA_CLASS_MEM) && !has_memory(in) &&
           !((f->implicit_read | f->implicit_written) & memory) && in->op != ISA_OP_PAUSE;
}

static u32 flags_needed(const struct insn *in)
{
    return isa_flags_read(in) & X86_FL_STATUS;
}

// --- choice -----------------------------------------------------------------------------------------------------------------

struct plan {
    struct cell cell[RUN_MAX + 1];
    bool extra[RUN_MAX];
    unsigned n; // instructions
    unsigned extras;
    bool ends; // the last one never falls through
};

static bool can_fault(const struct plan *p, const struct insn *in, unsigned i)
{
    return p->extra[i] || has_memory(in) || p->cell[i].fn == slow_op ||
           (isa_forms[in->form].implicit_read | isa_forms[in->form].implicit_written) &
               (ISA_IMPLICIT_STACK | ISA_IMPLICIT_MEM);
}

// The handler for instruction i, whose flags in `live` are wanted.
static cell_fn *choose(struct cache *e, struct plan *p, unsigned i, u32 live)
{
    const struct insn *in = &e->decoded[i];
    const struct isa_form_info *f = &isa_forms[in->form];
    struct cell *o = &p->cell[i];
    cell_fn *fn = NULL;
    if (!cpu_model_offers(e->in.v->model, f->feature) || !interp_handler(in->form))
        return f->cls == ISA_CLASS_IDENT || f->cls == ISA_CLASS_MEM ? slow_op : slow_step;
    if (fill_operands(e, in, o)) {
        fn = select_alu(e, in, o, live);
        if (!fn)
            fn = select_data(e, in, o);
        if (!fn)
            fn = select_branch(e, in, o);
        if (fn)
            return fn;
    }
    if (is_for_loop(in))
        return slow_step;
    bool pmode_only = f->attr & (ISA_ATTR_PMODE | ISA_ATTR_VEX_GPR | ISA_ATTR_AVX);
    fn = select_vector(e, in, o);
    if (!fn && pmode_only)
        return slow_op;
    p->extra[i] = true;
    p->extras++;
    return fn ? fn : is_quiet(in) ? slow_quiet : slow_call;
}

// Does control never reach the next cell?
static bool ends_run(const struct insn *in, cell_fn *fn)
{
    return fn == slow_step || in->op == ISA_OP_JMP || in->op == ISA_OP_CALL || in->op == ISA_OP_RET;
}

static unsigned decode(struct cache *e, struct plan *p, const u8 *code, unsigned off)
{
    u8 buf[RUN_MAX * ISA_MAX_LEN];
    unsigned room = MEM_PAGE_SIZE - off, at = 0;
    if (room > sizeof buf)
        room = sizeof buf;
    memcpy(buf, code, room); // a private copy: another processor may be writing these bytes
    for (p->n = 0; p->n < RUN_MAX && !p->ends; p->n++) {
        struct insn *in = &e->decoded[p->n];
        struct cell *o = &p->cell[p->n];
        unsigned have = room - at < ISA_MAX_LEN ? room - at : ISA_MAX_LEN;
        if (isa_decode(buf + at, have, e->mode & 3, e->in.isa_options, in) != ISA_OK)
            break;
        memcpy(e->bytes[p->n], buf + at, have);
        *o = (struct cell){.off = (u16)(off + at), .next = (u16)(off + at + in->len)};
        // The final choice is made below; this one tells where the run ends and what can fault.
        o->fn = choose(e, p, p->n, X86_FL_STATUS);
        p->ends = ends_run(in, o->fn);
        at += in->len;
    }
    return at;
}

static void choose_by_flags(struct cache *e, struct plan *p)
{
    u32 live = X86_FL_STATUS;
    for (unsigned i = p->n; i-- > 0;) {
        const struct insn *in = &e->decoded[i];
        if (!p->extra[i] && live != X86_FL_STATUS && p->cell[i].fn != slow_step && p->cell[i].fn != slow_op)
            p->cell[i].fn = choose(e, p, i, live);
        live = (live & ~host_flags_killed(&e->host_flags, in)) | flags_needed(in);
        if (in->op == ISA_OP_JCC || can_fault(p, in, i) || isa_forms[in->form].cls > ISA_CLASS_MEM)
            live = X86_FL_STATUS;
    }
}

static bool is_near_jcc(const struct insn *in, const struct cell *o)
{
    return in->op == ISA_OP_JCC && o->seg == CELL_DIRECT && o->disp >= 0 && o->disp <= 4095;
}

// Two instructions by one handler where there is one. The second keeps its own cell, which such a handler uses and skips.
static void join_pairs(const struct cache *e, struct plan *p)
{
    for (unsigned i = 0; i + 1 < p->n; i++) {
        struct cell *o = &p->cell[i];
        cell_fn *fn =
            is_near_jcc(&e->decoded[i + 1], o + 1) ? select_pair(o->fn, o + 1) : select_joined(o->fn, o[1].fn);
        if (!fn)
            continue;
        o->fn = fn;
        i++;
    }
}

static void finish(struct cache *e, struct plan *p, struct run *r, struct extra *t)
{
    memcpy(r->cell, p->cell, (p->n + !p->ends) * sizeof(struct cell));
    for (unsigned i = 0; i < p->n + !p->ends; i++) {
        struct cell *o = &r->cell[i];
        if (o->seg == CELL_DIRECT)
            o->scale = (u8)i;
        if (i == p->n || !p->extra[i])
            continue;
        *t = (struct extra){.fn = interp_handler(e->decoded[i].form), .generation = ~0u, .in = e->decoded[i]};
        memcpy(t->bytes, e->bytes[i], 16);
        o->extra = t++;
    }
}

// After the last instruction, where that falls through. Without flat segments every run's end has to be held against the limit
// of CS, which the loop does.
static struct cell last_cell(const struct cache *e, unsigned end)
{
    struct cell o = {.fn = slow_leave, .off = (u16)end, .next = (u16)end};
    if (e->mode & RUN_FLAT) {
        o.fn = end > 4095 ? next_page : next_run;
        o.seg = CELL_DIRECT;
        o.disp = (i32)end;
    }
    return o;
}

struct run *build_run(struct cache *e, hva page, gpa phys, unsigned off)
{
    struct plan p = {.ends = false};
    if (!keeper_may_read(e->in.v, phys))
        return NULL;
    unsigned len = decode(e, &p, (const u8 *)page + off, off);
    if (!p.n)
        return NULL;
    choose_by_flags(e, &p);
    if (!p.ends)
        p.cell[p.n] = last_cell(e, off + len);
    for (unsigned i = 0; i < p.n; i++)
        p.cell[i].rest = (u8)(p.n - i);
    if (e->mode & RUN_FLAT)
        join_pairs(e, &p);
    struct extra *t;
    struct run *r = store_alloc(e, p.n + !p.ends, p.extras, &t);
    r->page = page;
    r->off = (u16)off;
    r->end = (u16)(off + len);
    r->mode = e->mode;
    r->n = (u8)p.n;
    finish(e, &p, r, t);
    store_add(e, r);
    return r;
}
