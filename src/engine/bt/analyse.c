// From guest bytes to a list of instructions, and which status flags matter where.
//
// A block goes on where a JMP forwards in the page leads, and ends at any other branch that always leaves, at an instruction that may change modes, mappings or interrupts, at the end of the page, or
// when it is long enough. An instruction that crosses the page's end is a block of its own.
//
// Walking backwards, a flag is *seen* before an instruction when that one or a later one may look at it before it is overwritten:
// by reading it, by faulting (the frame shows it), or because the block is left.
#include "engine/bt/translate.h"

// May it go to the interpreter and the block be continued after it? Not where what the block relies on can change.
static bool is_callable(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    if (isa_is_repeated(in))
        return true;
    if (f->cls == ISA_CLASS_IDENT || f->cls == ISA_CLASS_MEM)
        return true;
    switch (in->op) {
    case ISA_OP_RDTSC:
    case ISA_OP_RDTSCP:
    case ISA_OP_RDPID:
    case ISA_OP_CPUID:
    case ISA_OP_SWAPGS:
    case ISA_OP_PUSHF:
    case ISA_OP_RDFSBASE:
    case ISA_OP_RDGSBASE:
    case ISA_OP_XGETBV:
    case ISA_OP_RDMSR:
    case ISA_OP_IN:
    case ISA_OP_OUT: return true;
    default: return false;
    }
}

static u8 emitter_of(const struct tr *t, struct tr_insn *x)
{
    const struct insn *in = &x->in;
    bool can = false;
    if (!(x->form->is & FORM_OFFERED))
        return TR_STEP;
    if (x->form->is & FORM_BITS && bits_can(t, in))
        return TR_BITS;
    switch ((enum tr_emitter)x->form->emitter) {
    case TR_IDENT: can = ident_can(t, x); break;
    case TR_VECTOR: can = vector_can(t, x); break;
    case TR_X87: can = x87_can(t, in); break;
    case TR_STACK: can = stack_can(t, in); break;
    case TR_STRING: can = string_can(t, in); break;
    case TR_BITS: can = bits_can(t, in); break;
    case TR_FLOW: can = flow_can(t, in); break;
    case TR_SYS: can = sys_can(t, in); break;
    case TR_NOTHING: // of several processors, each gives way now and then
        can = in->op != ISA_OP_PAUSE || t->b->in.v->machine->vcpu_count == 1;
        break;
    case TR_LEA: can = true; break;
    case TR_STEP: break;
    }
    return can ? x->form->emitter : TR_STEP;
}

static bool always_leaves(const struct tr_insn *x)
{
    unsigned op = x->in.op;
    if (x->step)
        return !is_callable(&x->in);
    return (x->emitter == TR_FLOW && (op == ISA_OP_JMP || op == ISA_OP_CALL || op == ISA_OP_RET)) ||
           (x->emitter == TR_SYS && sys_ends(&x->in));
}

// Status flags that the instruction looks at. A shift that overwrites them all for certain does not, though shifts by 0 would.
static u32 flags_read(const struct tr_insn *x)
{
    unsigned op = x->in.op;
    if (x->kills && (op == ISA_OP_SHL || op == ISA_OP_SHR || op == ISA_OP_SAR))
        return 0;
    return x->form->is & FORM_READS_SOME ? isa_flags_read(&x->in) & X86_FL_STATUS : x->form->reads;
}

static void classify(struct tr *t, struct tr_insn *x)
{
    const struct insn *in = &x->in;
    x->form = &t->b->form[in->form];
    x->mem = (i8)isa_memory_operand(in);
    x->emitter = emitter_of(t, x);
    x->step = x->emitter == TR_STEP;
    x->call = x->form->is & FORM_OFFERED && !isa_is_repeated(in);
    x->ends = always_leaves(x);
    x->kills = x->form->kills;
    if (x->form->is & FORM_KILLS_SOME)
        x->kills = host_flags_killed(&t->b->host_flags, in);
    if (x->step)
        x->kills = 0;
    x->reads = flags_read(x);
    x->shares =
        !(x->form->is & FORM_ADDRESS) && (x->emitter == TR_IDENT || x->emitter == TR_VECTOR || x->emitter == TR_X87 ||
                                          x->emitter == TR_STACK || x->emitter == TR_FLOW);
    x->follows = false;
    memset(x->access, 0, sizeof x->access);
}

// Forwards only: a way that comes back to where it has been goes backwards somewhere, and polls there.
static bool can_follow(const struct tr *t, const struct tr_insn *x, unsigned off, unsigned room)
{
    i64 target = (i64)x->next + x->in.imm;
    return t->b->opts & BT_OPT_FOLLOW && x->emitter == TR_FLOW && x->in.op == ISA_OP_JMP &&
           x->in.opnd[0].kind == ISA_OPND_REL && target >= x->next && target + ISA_MAX_LEN < (i64)off + room;
}

static void follow(struct tr_insn *x)
{
    x->follows = true;
    x->ends = false;
    x->emitter = TR_NOTHING;
    x->next = (u16)(x->next + x->in.imm);
}

static bool may_leave(const struct tr_insn *x)
{
    if (x->follows)
        return false;
    if (x->form->is & FORM_LEAVES || x->step || x->check || x->next > MEM_PAGE_SIZE)
        return true;
    if (x->mem >= 0 && !(x->form->is & FORM_ADDRESS) &&
        (x->form->is & FORM_ALIGN || x->access[ACCESS_OPERAND].role != ACCESS_MEMBER))
        return true;
    return x->form->is & FORM_STACK && x->access[ACCESS_STACK].role != ACCESS_MEMBER;
}

static void see(struct tr *t)
{
    u32 seen = X86_FL_STATUS;
    for (unsigned i = t->n; i-- > 0;) {
        struct tr_insn *x = &t->insn[i];
        seen &= ~x->kills;
        seen |= x->reads;
        if (may_leave(x))
            seen = X86_FL_STATUS;
        x->seen = seen;
    }
}

void analyse(struct tr *t, const u8 *code, unsigned room, unsigned off)
{
    unsigned at = 0;
    bool ends = false;
    t->poll_before = -1;
    for (t->n = 0; t->n < t->b->limit && !ends; t->n++) {
        struct tr_insn *x = &t->insn[t->n];
        enum isa_status status = isa_decode(code + at, room - at, t->b->mode & 3, t->b->in.isa_options, &x->in);
        t->cut = status == ISA_TRUNCATED;
        if (status != ISA_OK)
            break;
        x->bytes = code + at;
        x->off = (u16)(off + at);
        at += x->in.len;
        x->next = (u16)(off + at);
        classify(t, x);
        if (can_follow(t, x, off, room)) {
            follow(x);
            at = x->next - off;
        }
        if (flow_goes_back(x))
            t->poll_before = (int)t->n;
        ends = x->ends || x->next > MEM_PAGE_SIZE;
    }
    vector_plan(t);
    if (t->share)
        share_probes(t);
    see(t);
}
