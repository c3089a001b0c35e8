// What translated code calls when it cannot go on by itself.
//
// Counting. Blocks take all their instructions off ctx.left when they are entered. At the instruction of site s, ctx.left plus
// those from this one on is what is really left; b->chunk is what was left when the interpreter's own counters were last exact.
#include "engine/bt/vecstate.h"

#include "isa/alu.h"

static void count(struct bt *b, i64 really_left)
{
    if (!b->counting)
        return;
    u64 run = (u64)(b->chunk - really_left);
    b->chunk = really_left;
    b->in.budget -= run;
    b->in.v->insns += run;
}

void service_sync_at(struct bt *b, u64 rip, i64 left)
{
    struct cpu *c = b->in.c;
    c->rip = bt_mode_64(b->mode) ? rip : (u32)rip;
    c->gpr[X86_R10] = b->ctx->r10;
    c->gpr[X86_R11] = b->ctx->r11;
    c->gpr[X86_R15] = b->ctx->r15;
    alu_flags_unpack(&c->rflags, (u16)b->ctx->slot);
    count(b, left);
}

static u64 recipe_operand(struct bt *b, unsigned g)
{
    return g >= RECIPE_KEPT ? b->ctx->kept[g - RECIPE_KEPT] : *bt_reg(b, g);
}

// Status flags that the host's registers did not hold any more: as the instruction that wrote them left them.
void service_follow_recipe(struct bt *b, const struct bt_recipe *r)
{
    u64 *fl = &b->in.c->rflags, x = r->kind ? recipe_operand(b, r->a) : 0;
    u64 y = r->b == ISA_REG_NONE ? (u64)(i64)r->imm : recipe_operand(b, r->b);
    switch (r->kind) {
    case RECIPE_CMP: alu_sub(r->size, x, y, fl); break;
    case RECIPE_SUB: alu_sub(r->size, x + y, y, fl); break;
    case RECIPE_ADD: alu_add(r->size, x - y, y, fl); break;
    case RECIPE_TEST: alu_and(r->size, x, y, fl); break;
    case RECIPE_LOGIC: alu_and(r->size, x, x, fl); break;
    case RECIPE_NEG: alu_neg(r->size, -x, fl); break;
    case RECIPE_INC: alu_inc(r->size, x - 1, fl); break;
    case RECIPE_DEC: alu_dec(r->size, x + 1, fl); break;
    case RECIPE_SHL: alu_shl(r->size, x, (u8)y, fl); break;
    case RECIPE_SHR: alu_shr(r->size, x, (u8)y, fl); break;
    case RECIPE_SAR: alu_sar(r->size, x, (u8)y, fl); break;
    default: break;
    }
}

void service_sync(struct bt *b, const struct bt_site *s)
{
    service_sync_at(b, b->ctx->page_base + s->off, b->ctx->left + bt_site_block(s)->n - s->idx);
    service_follow_recipe(b, &s->recipe);
}

// What C may have changed, back to where translated code has it.
static void unsync(struct bt *b)
{
    const struct cpu *c = b->in.c;
    b->ctx->r10 = c->gpr[X86_R10];
    b->ctx->r11 = c->gpr[X86_R11];
    b->ctx->r15 = c->gpr[X86_R15];
    b->ctx->slot = alu_flags_pack(c->rflags);
    b->ctx->tlb = b->ctx->view[b->in.view];    // POPF
    b->ctx->seg_base[0] = c->seg[X86_FS].base; // SWAPGS
    b->ctx->seg_base[1] = c->seg[X86_GS].base;
}

// On to the block at RIP.
static u64 go_on(struct bt *b)
{
    const struct bt_block *k = bt_go_on(b);
    return k ? k->entry_slot : 0;
}

// Whatever was done has parked the vector state, or has not: code at the site relies on it.
static bool vec_back(struct bt *b, u8 need)
{
    return LIKELY(!need) || vecstate_load(b, need);
}

// May the instruction change what its own block relies on?
static bool shakes_ground(const struct bt_site *s)
{
    return s->access == SITE_SHAKES || s->op == ISA_OP_MOV_CR || s->op == ISA_OP_WRMSR || s->op == ISA_OP_INVLPG ||
           s->op == ISA_OP_INVPCID;
}

// Run the instruction at a site in the interpreter. Device accesses may have asked for anything.
static u64 step(struct bt *b, const struct bt_site *s)
{
    const struct bt_block *k = bt_site_block(s);
    const struct bt_call *call = bt_call_of(s);
    u32 resume = s->resume && !shakes_ground(s) ? k->code + s->resume : 0;
    u8 vec = s->vec;
    u64 next = b->ctx->page_base + s->off + s->len;
    if (!bt_mode_64(b->mode))
        next = (u32)next;
    b->stats.inner_steps++;
    b->stepped[s->op].inside++;
    vecstate_park(b);
    service_sync(b, s);
    b->in.budget--;
    b->chunk--;
    if (call)
        interp_call(&b->in, call->fn, &call->in, call->bytes);
    else
        interp_step(&b->in);
    if (!resume || b->in.c->rip != next || !bt_undisturbed(b) || !vec_back(b, vec))
        return go_on(b);
    unsync(b);
    return bt_exec(b, resume);
}

// Does anything about an access to a port want the interpreter: permission, breakpoints, logs, exact counters?
static bool port_is_simple(const struct bt *b)
{
    const struct interp *x = &b->in;
    return x->c->cpl <= cpu_iopl(x->c) && !(x->debug_on | x->trace | b->counting) &&
           !host_logs(x->v->machine->host, LOG_IO);
}

u64 service_port(struct bt *b)
{
    const struct bt_site *s = bt_near(b, (u32)b->ctx->site);
    const struct bt_block *k = bt_site_block(s);
    const struct bt_call *call = bt_call_of(s);
    u32 resume = k->code + s->resume;
    u8 vec = s->vec;
    bool out = s->op == ISA_OP_OUT;
    b->ctx->why = BT_STEP;
    if (!call || !s->resume || !port_is_simple(b))
        return 0;
    u64 *gpr = b->in.c->gpr;
    const struct isa_operand *o = call->in.opnd;
    u16 port = o[!out].kind == ISA_OPND_IMM ? (u8)call->in.imm : (u16)gpr[X86_RDX];
    unsigned size = o[out].size;
    struct bus *bus = &b->in.v->machine->bus;
    adapt_port(b, s);
    vecstate_park(b);
    if (out)
        bus_out(bus, port, size, (u32)(gpr[X86_RAX] & size_mask(size)));
    else
        gpr_set(b->in.c, X86_RAX, size, bus_in(bus, port, size));
    b->ctx->why = BT_AFTER;
    return bt_undisturbed(b) && vec_back(b, vec) ? bt_exec(b, resume) : 0;
}

// After service_port() and service_light().
static u64 after(struct bt *b, const struct bt_site *s)
{
    service_sync_at(b, b->ctx->page_base + s->off + s->len, b->ctx->left + bt_site_block(s)->n - s->idx - 1);
    return go_on(b);
}

// What the interpreter would find out: the fault of the instruction at a site, which has changed nothing yet.
static u64 fault(struct bt *b, const struct bt_site *s, const struct cpu_event *ev)
{
    service_sync(b, s);
    b->in.budget--;
    b->chunk--;
    u64 *past = ev->vector == X86_EXC_PF ? &b->stats.page_faults : &b->stats.exceptions;
    *past += event_fault(b, ev);
    return go_on(b);
}

static u64 page_fault(struct bt *b, const struct bt_site *s)
{
    const struct mmu_fault *f = &b->missed.fault;
    return fault(
        b, s,
        &(struct cpu_event){
            .type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_PF, .has_error = true, .error = f->error, .cr2 = f->addr});
}

static bool is_transfer(unsigned op)
{
    return op == ISA_OP_IRET || op == ISA_OP_INT || op == ISA_OP_INT3 || op == ISA_OP_SYSENTER || op == ISA_OP_SYSEXIT;
}

// Run one of these past the interpreter.
static bool transfer(struct bt *b, const struct bt_site *s, const struct insn *in)
{
    bool done;
    if (s->op == ISA_OP_IRET) {
        done = event_iret(b, in->opsize);
        b->stats.irets += done;
    } else if (s->op == ISA_OP_SYSENTER || s->op == ISA_OP_SYSEXIT) {
        done = s->op == ISA_OP_SYSENTER ? event_sysenter(b) : in->opsize == 4 && event_sysexit(b);
        b->stats.light += done;
    } else {
        bool int3 = s->op == ISA_OP_INT3;
        done = event_soft(b, int3 ? CPU_EVENT_SOFT_EXC : CPU_EVENT_SOFT_INT, int3 ? X86_EXC_BP : (u8)in->imm, s->len);
        b->stats.soft_ints += done;
    }
    return done;
}

// An instruction that is not translated, or not for what it has met.
static u64 other(struct bt *b, const struct bt_site *s)
{
    const struct bt_call *call = bt_call_of(s);
    if (s->access >= SITE_RAISES)
        return fault(b, s, &(struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = s->access - SITE_RAISES});
    if (!call || !is_transfer(s->op))
        return step(b, s);
    service_sync(b, s);
    if (!transfer(b, s, &call->in))
        return step(b, s);
    b->in.v->insns++;
    b->in.budget--;
    b->chunk--;
    return go_on(b);
}

// A group of accesses is not in one page of plain memory, or not in one that may be written to. Now and then that costs less than
// doing without.
static void unshare(struct bt *b, struct bt_block *k, bool upgraded)
{
    struct bt_sharing *s = bt_sharing(b, k->page, k->off);
    u32 now = (u32)__builtin_ia32_rdtsc();
    b->stats.unshared++;
    s->failed = now - s->last < BT_UNSHARE_WITHIN ? s->failed + 1 : 1;
    s->last = now;
    if (!k->page || s->failed < BT_UNSHARE_AFTER)
        return;
    s->failed = 0;
    s->level = upgraded && s->level == SHARE_ALL ? SHARE_NO_UPGRADES : SHARE_NOTHING;
    codecache_kill(b, k);
}

// See to it that the probe will hit.
static void refill(struct bt *b, const struct bt_site *s)
{
    struct vcpu *v = b->in.v;
    struct bt_missed *m = &b->missed;
    gva a = b->ctx->addr;
    hva host;
    enum mmu_access access = s->access == SITE_WRITE ? MMU_WRITE : MMU_READ;
    m->forbidden = false;
    if (UNLIKELY((a & 4095) + s->size > 4096)) {
        m->outcome = &b->stats.crossings;
    } else if (UNLIKELY(!gva_canonical(a) || (a + s->operand) & s->align)) {
        m->outcome = &b->stats.faults; // a misaligned operand's comes before the page tables are touched
    } else if (UNLIKELY(!mmu_fill(v, a, access, b->in.view, &host, &m->phys, &m->fault))) {
        m->forbidden = true;
        m->outcome = &b->stats.faults;
    } else if (LIKELY(host)) {
        m->outcome = &b->stats.refills;
    } else {
        m->outcome = mem_ptr(&v->machine->mem, m->phys, 1, false) ? &b->stats.code_writes : &b->stats.devices;
    }
    (*m->outcome)++;
}

// A site's group failed: on to the same instruction without groups. Flags are in the slot. 0: that block has to be looked for.
static u64 known_alone(struct bt *b, const struct bt_site *s)
{
    u32 site = bt_distance(b, s);
    const struct bt_alone *a = bt_alone_slot(b, site);
    const struct bt_block *k = bt_near(b, a->block);
    if (a->site != site || !k->page || keeper_pending(b->in.v))
        return 0;
    service_sync(b, s);
    b->ctx->slot = alu_flags_pack(b->in.c->rflags);
    b->ctx->left = b->chunk;
    return k->entry_slot;
}

// What known_alone() did not know.
static u64 alone(struct bt *b, const struct bt_site *s)
{
    u32 site = bt_distance(b, s);
    u64 emptied = b->stats.evictions + b->keeper.flushes;
    service_sync(b, s);
    b->alone = true;
    const struct bt_block *k = bt_go_on(b);
    b->alone = false;
    if (!k)
        return 0;
    if (k->mode & BLOCK_ALONE && emptied == b->stats.evictions + b->keeper.flushes)
        *bt_alone_slot(b, site) = (struct bt_alone){site, bt_distance(b, k)};
    return k->entry_slot;
}

u64 service_miss(struct bt *b)
{
    const struct bt_site *s = bt_near(b, (u32)b->ctx->site);
    b->stats.why[BT_MISS]++;
    b->in.view = mmu_view(b->in.c);
    refill(b, s);
    b->missed.good = b->missed.outcome == &b->stats.refills &&
                     (!s->upgraded || tlb_write(&b->in.v->tlb, b->in.view, b->ctx->addr, s->size));
    bt_take_keys(b);
    b->ctx->why = BT_MISS;
    if (LIKELY(b->missed.good) && !keeper_pending(b->in.v) && vec_back(b, s->vec))
        return bt_exec(b, bt_site_block(s)->code + s->retry);
    if (b->missed.good || !s->shared)
        return 0;
    unshare(b, bt_site_block(s), b->missed.outcome == &b->stats.refills);
    return known_alone(b, s);
}

static void note_slow(struct bt *b, const struct bt_site *s)
{
    const u64 *why = b->missed.outcome;
    if (why == &b->stats.devices)
        adapt_slow(b, s, ADAPT_DEVICE);
    else if (why == &b->stats.crossings)
        adapt_slow(b, s, ADAPT_CROSSING);
    else if (why == &b->stats.code_writes)
        adapt_slow(b, s, ADAPT_CODE);
}

// After service_miss() has said 0.
static u64 missed(struct bt *b, const struct bt_site *s)
{
    if (!s->shared)
        note_slow(b, s);
    if (b->missed.forbidden && s->direct && !s->shared)
        return page_fault(b, s);
    if (b->missed.outcome == &b->stats.code_writes)
        service_fill(b, s);
    return s->shared && !b->missed.good ? alone(b, s) : step(b, s);
}

static u64 miss(struct bt *b, const struct bt_site *s)
{
    u64 retry = BT_VEC_EAGER ? service_miss(b) : 0;
    return retry ? retry : missed(b, s);
}

// The state is loaded for the check to succeed; what is not allowed, the interpreter faults.
static u64 vector(struct bt *b, const struct bt_site *s)
{
    return vecstate_load(b, s->access) ? bt_exec(b, bt_site_block(s)->code + s->retry) : step(b, s);
}

static void link_sync(struct bt *b, const struct bt_link *l, u64 rip, i64 left)
{
    service_sync_at(b, rip, left);
    if (l->flags == FLAGS_RECIPE)
        service_follow_recipe(b, &l->recipe);
}

// A direct branch to an address that is not canonical: undo it, and let the interpreter raise its fault.
static u64 bad_target(struct bt *b, const struct bt_link *l)
{
    u64 *gpr = b->in.c->gpr;
    if (l->way == LINK_CALL)
        gpr[X86_RSP] += 8;
    if (l->way == LINK_LOOP)
        gpr[X86_RCX]++;
    vecstate_park(b);
    link_sync(b, l, b->ctx->page_base + l->off, b->ctx->left + 1);
    b->in.budget--;
    b->chunk--;
    interp_step(&b->in);
    return go_on(b);
}

// The fault of an indirect branch to an address that is not canonical: as if it had not been run yet.
static u64 bad_return(struct bt *b)
{
    const struct bt_site *s = bt_near(b, (u32)b->ctx->ret_site);
    b->in.c->gpr[X86_RSP] -= s->pop;
    return step(b, s);
}

// From now on a link whose page was at `base` leads to `to`.
static void connect(struct bt *b, struct bt_link *l, struct bt_block *to, u64 base)
{
    const struct bt_block *from = bt_near(b, l->from);
    // The link is for a page that is mapped as it is now: the branch's own, or checked whenever the link is followed.
    if (b->opts & BT_OPT_CHAIN && from->page && l->to != bt_distance(b, to) && (l->far || from->page == to->page))
        link_make(b, l, to);
    if (l->far && l->to == bt_distance(b, to)) {
        struct bt_far *f = bt_near(b, l->far);
        f->key = bt_key(b, bt_mode_user(b->mode));
        f->base = base;
    }
}

static u64 unlinked(struct bt *b, const struct bt_link *l)
{
    u64 base = b->ctx->page_base, target = base + (u64)(i64)l->disp;
    if (l->way != LINK_RUNS_ON && bt_mode_64(b->mode) && UNLIKELY(!gva_canonical(target))) {
        if (l->way != LINK_RETURN)
            return bad_target(b, l);
        b->ctx->page_base = b->ctx->tmp[3]; // the RET's
        return bad_return(b);
    }
    link_sync(b, l, target, b->ctx->left);
    b->unlinked = bt_distance(b, l);
    b->coming_with = l->recipe.kind && b->opts & BT_OPT_VARIANT ? &l->recipe : NULL;
    struct bt_block *k = (struct bt_block *)bt_go_on(b);
    if (!k)
        return 0;
    if (!b->unlinked)
        return k->entry_slot;
    struct bt_block *to = k;
    if (l->recipe.kind && !k->recipe.kind && l->way == LINK_JUMP && l->disp <= l->off)
        to = bt_variant(b, k, &l->recipe); // a loop
    if (!b->unlinked)                      // the block may have gone, too
        return go_on(b);
    connect(b, bt_near(b, b->unlinked), to, base);
    b->unlinked = 0;
    return k->entry_slot;
}

static u64 dispatch(struct bt *b);

// Only where adapt_serve() is not called as service_miss() is.
static u64 adapted(struct bt *b)
{
    u64 go = adapt_serve(b);
    return go ? go : dispatch(b);
}

static u64 dispatch(struct bt *b)
{
    struct bt_ctx *c = b->ctx;
    const void *record = bt_near(b, (u32)c->site);
    b->stats.why[c->why] += c->why != BT_MISS; // service_miss() counts those
    b->in.view = mmu_view(b->in.c);            // translated code may have changed it
    switch ((enum bt_why)c->why) {
    case BT_MISS: return miss(b, record);
    case BT_STEP: return other(b, record);
    case BT_AFTER: return after(b, record);
    case BT_ADAPT: return adapted(b);
    case BT_LINK: return unlinked(b, record);
    case BT_VECTOR: return vector(b, record);
    case BT_LOOKUP:
        if (bt_mode_64(b->mode) && UNLIKELY(!gva_canonical(c->target)))
            return bad_return(b);
        service_sync_at(b, c->target, c->left);
        return go_on(b);
    case BT_LEAVE: service_sync(b, record); return go_on(b);
    default: service_sync(b, record); return 0;
    }
}

u64 service(struct bt *b)
{
    u64 go = dispatch(b);
    if (go)
        bt_take_keys(b);
    else
        vecstate_park(b);
    bt_set_gs(b);
    return go;
}
