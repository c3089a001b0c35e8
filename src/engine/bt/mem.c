// Memory operands: effective address, segment, and the probe of the software TLB.
//
//     lea r10, [operand]
//     rorx r11d, r10d, 7; and r11d, 0x1ffe0                  how far into the table the entry for this page is
//     sub r10, gs:[r11 + tag]; cmp r10, 4096 - size; ja miss hit, permission and page end in one compare
//     add r10, gs:[r11 + page]
//
// An access off one register need not wait for the comparison's operands: with `mov r10, gs:[r11 + addend]` in the last place its operand is
// [base + r10 + disp].
//
// That is user code's; supervisor code, which has two views, and hosts without WRGSBASE add ctx.tlb to r11 instead.
//
// A miss is a site: service() fills the TLB and lets the probe run again, or gives the instruction to the interpreter.
#include "engine/bt/translate.h"

_Static_assert(sizeof(struct tlb_entry) == 32, "the probe shifts by it");

u64 *context_reg(const struct tr *t, unsigned g)
{
    struct bt_ctx *c = t->b->ctx;
    return g == X86_R10 ? &c->r10 : g == X86_R11 ? &c->r11 : &c->r15;
}

void mem_get_reg(struct tr *t, unsigned host, unsigned g)
{
    if (host_reg(g) >= 0)
        emit_mov_rr(&t->e, 8, host, (unsigned)host_reg(g));
    else
        emit_load(&t->e, 8, host, context_reg(t, g));
}

void mem_put_reg(struct tr *t, unsigned g, unsigned host)
{
    if (host_reg(g) >= 0)
        emit_mov_rr(&t->e, 8, (unsigned)host_reg(g), host);
    else
        emit_store(&t->e, 8, host, context_reg(t, g));
}

// The host register with guest register g, which is `spare` where it has to be loaded.
static unsigned reg_or_load(struct tr *t, unsigned g, unsigned spare)
{
    if (host_reg(g) >= 0)
        return (unsigned)host_reg(g);
    emit_load(&t->e, 8, spare, context_reg(t, g));
    return spare;
}

static void ea_no_base(struct tr *t, unsigned to, unsigned size)
{
    const struct insn *in = tr_in(t);
    if (in->index == ISA_REG_NONE) {
        emit_mov_imm(&t->e, to, size == 8 ? (u64)in->disp : (u32)in->disp);
        return;
    }
    unsigned index = reg_or_load(t, in->index, HOST_T1);
    emit_lea_index(&t->e, size, to, index, in->scale, (i32)in->disp);
}

// `size`: of the sum.
static void effective_address(struct tr *t, unsigned to, unsigned size)
{
    const struct insn *in = tr_in(t);
    if (in->base == ISA_REG_RIP) {
        emit_load(&t->e, 8, HOST_T1, &t->b->ctx->page_base);
        i64 disp = in->disp + tr_now(t)->next;
        bool fits = disp <= INT32_MAX;
        emit_lea(&t->e, size, to, HOST_T1, X86_RSP, 0, fits ? (i32)disp : (i32)in->disp);
        if (!fits)
            emit_lea(&t->e, size, to, to, X86_RSP, 0, tr_now(t)->next);
    } else if (in->base == ISA_REG_NONE) {
        ea_no_base(t, to, size);
    } else {
        unsigned base = reg_or_load(t, in->base, HOST_T0), index = X86_RSP;
        if (in->index != ISA_REG_NONE)
            index = reg_or_load(t, in->index, HOST_T1);
        emit_lea(&t->e, size, to, base, index, in->scale, (i32)in->disp);
    }
    if (in->adsize == 2)
        emit_rr(&t->e, 4, 0x1b7, to, to); // movzx r32, r16
}

void mem_ea(struct tr *t, unsigned to)
{
    effective_address(t, to, tr_in(t)->adsize == 8 ? 8 : 4);
}

void mem_ea32(struct tr *t, unsigned to)
{
    effective_address(t, to, 4);
}

// HOST_T1: distance of the TLB entry for the linear address in HOST_T0.
static void emit_distance(struct emit *e, const struct bt *b)
{
    if (b->has_bmi2) {
        EMIT(e, 0xc4, 0x43, 0x7b, 0xf0, 0xda, 7); // rorx r11d, r10d, 7
    } else {
        emit_mov_rr(e, 4, HOST_T1, HOST_T0);
        EMIT(e, 0x41, 0xc1, 0xeb, 7); // shr r11d, 7
    }
    emit_alu_imm(e, 4, 4, HOST_T1, (TLB_ENTRIES - 1) << 5);
}

void mem_emit_entry(struct emit *e, struct bt *b)
{
    emit_distance(e, b);
    emit_rip(e, 8, 0x03, HOST_T1, &b->ctx->tlb, 0);
}

static bool mem_by_gs(const struct tr *t)
{
    return t->b->by_gs && t->user;
}

// An instruction on HOST_T0 and the TLB entry that mem_probe() has found.
void mem_entry_op(struct tr *t, unsigned opcode, unsigned offset)
{
    if (mem_by_gs(t))
        emit1(&t->e, 0x65);
    emit_rm(&t->e, 8, opcode, HOST_T0, HOST_T1, (i32)offset);
}

u32 mem_hit(const struct bt *b, const struct bt_site *s, bool *addend)
{
    const struct bt_block *k = bt_site_block(s);
    u32 at = s->miss + 4u, prefix = b->by_gs && bt_mode_user(k->mode); // behind the jump
    *addend = b->cache.mem.write[k->code + at + prefix + 1] == 0x8b;
    return at + prefix + 4;
}

// `as_write`: where it could be written to, too. `addend`: HOST_T0 becomes what to add to a linear address instead.
static void mem_probe_as(struct tr *t, u64 retry, unsigned size, bool write, bool as_write, bool addend)
{
    struct emit *e = &t->e;
    unsigned tag = as_write ? offsetof(struct tlb_entry, tag_w) : offsetof(struct tlb_entry, tag_r);
    if (mem_by_gs(t))
        emit_distance(e, t->b);
    else
        mem_emit_entry(e, t->b);
    mem_entry_op(t, 0x2b, tag); // sub
    emit_alu_imm(e, 8, 7, HOST_T0, (i32)(4096 - size));
    u8 *miss = emit_jcc(e, CC_A);
    if (addend)
        mem_entry_op(t, 0x8b, offsetof(struct tlb_entry, addend)); // mov
    else
        mem_entry_op(t, 0x03, offsetof(struct tlb_entry, page)); // add
    struct bt_site *s = tr_site(t);
    s->miss = tr_offset(t, (u64)miss + e->to_exec);
    s->retry = tr_offset(t, retry);
    s->access = write ? SITE_WRITE : SITE_READ;
    s->upgraded = as_write && !write;
    s->size = (u16)size;
    tr_tail(t, TAIL_MISS, miss, s)->tag = (u8)tag;
}

void mem_probe(struct tr *t, u64 retry, unsigned size, bool write)
{
    mem_probe_as(t, retry, size, write, write, false);
}

static void service_if(struct tr *t, unsigned cc)
{
    struct bt_site *s = tr_site(t);
    tr_tail(t, TAIL_SERVICE, emit_jcc(&t->e, cc), s)->why = BT_STEP;
}

// AMD processors want the offset canonical, even where adding the base makes it so.
static void check_offset(struct tr *t)
{
    const struct insn *in = tr_in(t);
    bool fixed =
        in->op != ISA_OP_XLAT && in->index == ISA_REG_NONE && (in->base == ISA_REG_NONE || in->base == ISA_REG_RIP);
    if (!(t->b->in.isa_options & ISA_OPT_AMD) || in->adsize != 8 || fixed)
        return;
    emit_canonical(&t->e, HOST_T0, HOST_T1);
    service_if(t, CC_NE);
}

void mem_segment(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct bt_ctx *c = t->b->ctx;
    unsigned n = in->seg - X86_FS;
    if (in->seg < X86_FS)
        return;
    if (t->wide) {
        check_offset(t);
        emit_rip(&t->e, 8, 0x03, HOST_T0, &c->seg_base[n], 0);
        return;
    }
    emit_rip(&t->e, 4, 0x83, 7, &c->seg_flat[n], 1); // cmp dword [seg_flat], 0
    emit1(&t->e, 0);
    service_if(t, CC_E);
    emit_rip(&t->e, 4, 0x03, HOST_T0, &c->seg_base[n], 0);
}

// --- groups -----------------------------------------------------------------------------------------------------------------------

// Where an access is: base + index << scale + disp.
struct place {
    unsigned base, index, scale;
    i32 disp;
};

// Linear address of a place into a scratch register.
static void linear(struct tr *t, unsigned to, const struct place *p, i32 disp)
{
    unsigned base = reg_or_load(t, p->base, to);
    unsigned index = p->index == ISA_REG_NONE ? X86_RSP : (unsigned)host_reg(p->index);
    emit_lea(&t->e, t->wide ? 8 : 4, to, base, index, p->scale, disp);
}

// An access of a group whose place holds an addend.
static struct mem_ref by_addend(const struct place *p)
{
    return (struct mem_ref){.has_base = true, .base = (u8)host_reg(p->base), .disp = p->disp};
}

static struct mem_ref leader(struct tr *t, const struct tr_access *a, const struct place *p, bool write)
{
    i32 disp = a->at - a->lo;
    flags_clobber(t);
    u64 retry = emit_here(&t->e);
    linear(t, HOST_T0, p, p->disp - disp);
    mem_probe_as(t, retry, a->size, write, write || a->upgraded, a->addend);
    struct bt_site *s = &bt_sites(t->k)[t->k->sites - 1];
    s->shared = true;
    s->operand = (u8)disp;
    emit_store(&t->e, 8, HOST_T0, &t->b->ctx->place[a->slot]);
    t->at_hand = a->slot + 1u;
    t->place[a->slot] = (struct tr_place){.lo = a->lo, .addend = a->addend};
    return a->addend ? by_addend(p) : (struct mem_ref){.disp = disp};
}

static struct mem_ref member(struct tr *t, const struct tr_access *a, const struct place *p)
{
    if (t->at_hand != a->slot + 1u)
        emit_load(&t->e, 8, HOST_T0, &t->b->ctx->place[a->slot]);
    t->at_hand = a->slot + 1u;
    return t->place[a->slot].addend ? by_addend(p) : (struct mem_ref){.disp = a->at - t->place[a->slot].lo};
}

i32 mem_stack(struct tr *t, unsigned reg, i32 disp, bool write)
{
    const struct tr_access *a = &tr_now(t)->access[ACCESS_STACK];
    struct place p = {.base = reg, .index = ISA_REG_NONE, .disp = disp};
    if (a->role != ACCESS_ALONE)
        return (a->role == ACCESS_LEADER ? leader(t, a, &p, write) : member(t, a, &p)).disp;
    flags_clobber(t);
    u64 retry = emit_here(&t->e);
    linear(t, HOST_T0, &p, disp);
    mem_probe(t, retry, tr_natural(t), write);
    return 0;
}

bool mem_has_base(const struct tr *t, const struct insn *in)
{
    return t->b->opts & BT_OPT_ADDEND && t->wide && in->adsize == 8 && in->seg < X86_FS && in->base < X86_GPR_COUNT &&
           host_reg(in->base) >= 0 && in->index == ISA_REG_NONE;
}

static struct mem_ref operand(struct tr *t, unsigned size, bool write, bool addend)
{
    const struct insn *in = tr_in(t);
    const struct tr_access *a = &tr_now(t)->access[ACCESS_OPERAND];
    struct place p = {.base = in->base, .index = in->index, .scale = in->scale, .disp = (i32)in->disp};
    if (a->role != ACCESS_ALONE)
        return a->role == ACCESS_LEADER ? leader(t, a, &p, write) : member(t, a, &p);
    flags_clobber(t);
    u64 retry = emit_here(&t->e);
    mem_ea(t, HOST_T0);
    mem_segment(t);
    mem_probe_as(t, retry, size, write, write, addend);
    return addend ? by_addend(&p) : (struct mem_ref){0};
}

void mem_sum(struct tr *t, struct mem_ref r)
{
    t->at_hand = 0; // the sum takes its place
    if (r.has_base)
        emit_lea(&t->e, 8, HOST_T0, r.base, HOST_T0, 0, r.disp);
    else if (r.disp)
        emit_lea(&t->e, 8, HOST_T0, HOST_T0, X86_RSP, 0, r.disp);
}

void mem_operand(struct tr *t, unsigned size, bool write)
{
    mem_sum(t, operand(t, size, write, false)); // who asks for that may do anything with it
}

struct mem_ref mem_operand_ref(struct tr *t, unsigned size, bool write)
{
    return operand(t, size, write, mem_has_base(t, tr_in(t)));
}
