// From guest bytes to a list of instructions, and which status flags matter where.
//
// A block ends at a branch that always leaves, at an instruction that may change modes, mappings or interrupts, at the end of the page, or
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

static bool offered(const struct tr *t, const struct insn *in)
{
    return cpu_model_offers(t->b->in.v->model, isa_forms[in->form].feature) && interp_handler(in->form);
}

static void classify(struct tr *t, struct tr_insn *x)
{
    const struct insn *in = &x->in;
    x->call = offered(t, in) && !isa_is_repeated(in);
    x->step = !offered(t, in) || !(ident_can(t, in) || vector_can(t, in) || x87_can(t, in) || stack_can(t, in) ||
                                   string_can(t, in) || bits_can(t, in) || flow_can(t, in) || sys_can(t, in));
    x->ends = x->step ? !is_callable(in)
                      : in->op == ISA_OP_JMP || in->op == ISA_OP_CALL || in->op == ISA_OP_RET || sys_ends(in);
    x->kills = x->step ? 0 : host_flags_killed(&t->b->host_flags, in);
    x->shares = !x->step && in->op != ISA_OP_LEA && in->op != ISA_OP_NOP &&
                (ident_can(t, in) || vector_can(t, in) || x87_can(t, in) || stack_can(t, in) || flow_can(t, in));
}

static bool may_leave(const struct tr_insn *x)
{
    const struct isa_form_info *f = &isa_forms[x->in.form];
    u32 implicit = f->implicit_read | f->implicit_written;
    bool operand = isa_memory_operand(&x->in) >= 0 && x->in.op != ISA_OP_LEA && x->in.op != ISA_OP_NOP;
    if (x->step || x->check || x->next > MEM_PAGE_SIZE || bt_is_string(&x->in) || f->cls >= ISA_CLASS_BRANCH ||
        x->in.op == ISA_OP_DIV || x->in.op == ISA_OP_IDIV || x->in.op == ISA_OP_CMPXCHG16B ||
        x->in.op == ISA_OP_FLDCW || (operand && f->attr & ISA_ATTR_ALIGN) || implicit & ISA_IMPLICIT_MEM)
        return true;
    return (operand && x->access[ACCESS_OPERAND].role != ACCESS_MEMBER) ||
           (implicit & ISA_IMPLICIT_STACK && x->access[ACCESS_STACK].role != ACCESS_MEMBER);
}

static void see(struct tr *t)
{
    u32 seen = X86_FL_STATUS;
    for (unsigned i = t->n; i-- > 0;) {
        struct tr_insn *x = &t->insn[i];
        seen &= ~x->kills;
        seen |= tr_flags_read(x);
        if (may_leave(x))
            seen = X86_FL_STATUS;
        x->seen = seen;
    }
}

void analyse(struct tr *t, const u8 *code, unsigned room, unsigned off)
{
    unsigned at = 0;
    bool ends = false;
    for (t->n = 0; t->n < t->b->limit && !ends; t->n++) {
        struct tr_insn *x = &t->insn[t->n];
        unsigned have = room - at < ISA_MAX_LEN ? room - at : ISA_MAX_LEN;
        enum isa_status status = isa_decode(code + at, have, t->b->mode & 3, t->b->in.isa_options, &x->in);
        t->cut = status == ISA_TRUNCATED;
        if (status != ISA_OK)
            break;
        memcpy(x->bytes, code + at, have);
        x->off = (u16)(off + at);
        at += x->in.len;
        x->next = (u16)(off + at);
        classify(t, x);
        ends = x->ends || x->next > MEM_PAGE_SIZE;
    }
    vector_plan(t);
    if (t->share)
        share_probes(t);
    see(t);
}
