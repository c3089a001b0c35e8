// Control transfers.
//
// A direct branch jumps to its target block when that is linked. On the way, *edge* code does what the branch needs: take the
// instructions that are not run off the count, poll for requests where the branch goes backwards, and for a target in another
// page see that this page is where it was and make it the current one. It is, as long as the execution key (core/tlb.h) is the one that
// was noted then, and the branch itself is at the same linear address; otherwise the glue looks at the execute tag, and notes them anew. The
// comparison of keys is a poll at the same time (bt_key_at()).
//
// CALL pushes the guest's return address twice, for the guest and on the private stack, and makes a host call; RET pops the guest's address
// into r10 and makes a host ret, so that the host's return predictor works. Where that arrives, the code behind the call holds r10
// against the address on the private stack, and goes to the look-up when the guest went somewhere else. It need not look where that
// address is mapped: the private stack is emptied when the key changes. It is bounded: when it is full it is emptied, and when it is empty
// its last entry is the look-up. There is never anything between the two pushes, or the two pops, that could leave for C.
//
// Indirect branches look for their target in the jump table, by RIP and key; what is found is entered without looking at its block.
//
// What calls, returns and indirect branches do on their way destroys host flags, so they have the guest's in the slot. Direct jumps do
// without, where a recipe says what the flags are (flags.c).
#include "engine/bt/translate.h"

// Does the displacement from the page fit? Also with 32-bit addresses that wrap.
static bool target_fits(i64 target)
{
    return target >= INT32_MIN && target <= INT32_MAX;
}

static i64 target_of(const struct tr_insn *x)
{
    return (i64)x->next + x->in.imm;
}

bool flow_can(const struct tr *t, const struct insn *in)
{
    unsigned kind = in->opnd[0].kind;
    if (in->opsize != tr_natural(t))
        return false;
    switch (in->op) {
    case ISA_OP_JCC: return target_fits(in->imm + 2 * 4096) && target_fits(in->imm - 4096);
    case ISA_OP_LOOP:
    case ISA_OP_LOOPE:
    case ISA_OP_LOOPNE: // with RCX as the counter: ECX could not be undone
    case ISA_OP_JCXZ:
        return in->adsize == (t->wide ? 8 : 4) && !(in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE)); // see interp/branch.c
    case ISA_OP_JMP:
    case ISA_OP_CALL:
        if (kind == ISA_OPND_REL)
            return target_fits(in->imm + 2 * 4096) && target_fits(in->imm - 4096);
        return kind == ISA_OPND_GPR || (kind == ISA_OPND_MEM && (t->wide || in->seg != X86_CS));
    case ISA_OP_RET: return true;
    default: return false;
    }
}

static bool is_far(i64 target)
{
    return target < 0 || target > 4095;
}

unsigned flow_count_fars(const struct tr *t)
{
    unsigned n = is_far(t->insn[t->n - 1].next);
    for (unsigned i = 0; i < t->n; i++) {
        const struct tr_insn *x = &t->insn[i];
        n += x->in.opnd[0].kind == ISA_OPND_REL && !x->follows && is_far(target_of(x));
        n += x->in.op == ISA_OP_CALL && is_far(x->next);
    }
    return n;
}

static struct bt_far *new_far(struct tr *t, i32 disp)
{
    struct bt_far *f = &bt_fars(t->k)[t->fars++];
    *f = (struct bt_far){.disp = disp};
    return f;
}

static struct bt_link *new_link(struct tr *t, i64 target)
{
    struct bt_link *l = &bt_links(t->k)[t->links++];
    *l = (struct bt_link){.disp = (i32)target, .from = tr_distance(t, t->k), .flags = FLAGS_SLOT};
    if (is_far(target))
        l->far = tr_distance(t, new_far(t, (i32)target & ~4095));
    return l;
}

// The same for the current instruction, a branch.
static struct bt_link *branch_link(struct tr *t, i64 target)
{
    struct bt_link *l = new_link(t, target);
    unsigned op = tr_in(t)->op;
    bool loops = op == ISA_OP_LOOP || op == ISA_OP_LOOPE || op == ISA_OP_LOOPNE;
    l->way = loops ? LINK_LOOP : op == ISA_OP_CALL ? LINK_CALL : LINK_JUMP;
    l->off = tr_now(t)->off;
    return l;
}

static u32 code_offset(const struct tr *t, const u8 *at)
{
    return (u32)(at - t->b->cache.mem.write);
}

// A jump that is patched when the link is made, and the code for as long as it is not. `tail`: that follows later.
static void emit_link_jump(struct tr *t, struct bt_link *l, u8 *jump)
{
    l->jump = code_offset(t, jump);
    struct tail *s = tr_tail(t, TAIL_SERVICE, jump, l);
    s->why = BT_LINK;
    s->host = l->flags == FLAGS_HOST;
}

// --- pieces -----------------------------------------------------------------------------------------------------------------

static void emit_service_if(struct tr *t, unsigned cc, enum bt_why why, const void *record)
{
    tr_tail(t, TAIL_SERVICE, emit_jcc(&t->e, cc), record)->why = (u8)why;
}

// RIP of page offset `disp`.
static void emit_rip_of(struct tr *t, unsigned to, i32 disp)
{
    emit_load(&t->e, 8, to, &t->b->ctx->page_base);
    emit_lea(&t->e, tr_natural(t), to, to, X86_RSP, 0, disp);
}

// See that a way holds: HOST_T0 is the current page's RIP then. Destroys nothing else but flags; where it does not, and the glue cannot help,
// leaves by `record`.
static void emit_far_check(struct tr *t, const struct bt_far *f, enum bt_why why, const void *record)
{
    struct emit *e = &t->e;
    u64 again = emit_here(e);
    emit_load(e, 8, HOST_T0, bt_key_at(t->b, t->user));
    emit_rip(e, 8, 0x3b, HOST_T0, &f->key, 0);
    u8 *key = emit_jcc(e, CC_NE);
    emit_load(e, 8, HOST_T0, &t->b->ctx->page_base);
    emit_rip(e, 8, 0x3b, HOST_T0, &f->base, 0);
    struct tail *l = tr_tail(t, TAIL_FAR, emit_jcc(e, CC_NE), record);
    l->from2 = key;
    l->why = (u8)why;
    l->far = tr_distance(t, f);
    l->back = again;
}

// Make the link's page the current one. Leaves by the link's service.
static void emit_page_change(struct tr *t, struct bt_link *l)
{
    const struct bt_far *f = bt_near(t->b, l->far);
    emit_far_check(t, f, BT_LINK, l);
    emit_lea(&t->e, tr_natural(t), HOST_T0, HOST_T0, X86_RSP, 0, f->disp);
    emit_store(&t->e, 8, HOST_T0, &t->b->ctx->page_base);
}

// Take `n` instructions that are not run off the block's count.
static void emit_uncount(struct tr *t, unsigned n)
{
    if (!t->b->counting || !n)
        return;
    emit_rip(&t->e, 8, 0x81, 0, &t->b->ctx->left, 4); // add qword [left], n
    emit4(&t->e, n);
}

// What a branch to the link does before it jumps; flags are in the slot. Keeps HOST_T1.
static void emit_edge(struct tr *t, struct bt_link *l, unsigned skipped, bool back)
{
    emit_uncount(t, skipped);
    if (l->far) {
        emit_page_change(t, l);
    } else if (back) {
        glue_emit_doorbell(&t->e, t->b);
        emit_service_if(t, CC_NE, BT_LINK, l);
    }
}

static bool goes_back(const struct tr *t, i64 target)
{
    return target <= t->insn[t->i].off;
}

bool flow_frees_flags(const struct tr_insn *x)
{
    i64 target = target_of(x);
    if (x->follows)
        return false;
    switch (x->in.op) {
    case ISA_OP_CALL:
    case ISA_OP_RET: return true;
    case ISA_OP_JMP: return x->in.opnd[0].kind != ISA_OPND_REL || target <= x->off || target > 4095;
    default: return false;
    }
}

bool flow_saves_flags(const struct tr_insn *x)
{
    return flow_frees_flags(x) && !(x->in.op == ISA_OP_JMP && x->in.opnd[0].kind == ISA_OPND_REL);
}

bool flow_goes_back(const struct tr_insn *x)
{
    unsigned op = x->in.op;
    return (op == ISA_OP_JCC || op == ISA_OP_JMP) && !x->step && !x->follows && x->in.opnd[0].kind == ISA_OPND_REL &&
           target_of(x) >= 0 && target_of(x) <= x->off;
}

// One poll in a block does for all branches in it that go back in the page: where the flags are in the slot before the next
// instruction, it costs nothing more.
void flow_poll(struct tr *t)
{
    if (t->polled || (int)t->i > t->poll_before || (t->flags != FLAGS_SLOT && t->flags != FLAGS_RECIPE))
        return;
    if (t->i && t->insn[t->i - 1].in.op == ISA_OP_STI) // its shadow
        return;
    glue_emit_doorbell(&t->e, t->b);
    emit_service_if(t, CC_NE, BT_LEAVE, tr_site(t));
    t->polled = true;
}

// --- the block's start and end ----------------------------------------------------------------------------------------------------

void flow_count(struct tr *t)
{
    struct emit *e = &t->e;
    flags_clobber(t);
    emit_rip(e, 8, 0x81, 5, &t->b->ctx->left, 4); // sub qword [left], n
    emit4(e, t->n);
    struct bt_site *s = tr_site(t);
    emit_service_if(t, CC_S, BT_BUDGET, s);
}

void flow_check_page2(struct tr *t)
{
    struct bt_far *f = new_far(t, MEM_PAGE_SIZE);
    f->page = bt_page2(t->k);
    struct bt_site *s = tr_site(t);
    flags_clobber(t);
    emit_far_check(t, f, BT_LEAVE, s);
}

// The block's last jump. `edge`: with something on its way.
static void emit_last_jump(struct tr *t, struct bt_link *l, bool edge, bool back)
{
    flags_leave(t, l, edge);
    if (l->flags == FLAGS_SLOT)
        flags_save(t);
    if (edge)
        emit_edge(t, l, 0, back);
    emit_link_jump(t, l, emit_jmp(&t->e));
}

void flow_end(struct tr *t, unsigned off)
{
    struct bt_link *l = new_link(t, off);
    emit_last_jump(t, l, l->far || t->b->counting, false);
}

static void edge_tail(struct tr *t, const struct tail *l)
{
    struct bt_link *link = bt_near(t->b, l->record);
    if (l->host)
        flags_emit_save(&t->e, t->b->ctx);
    emit_edge(t, link, l->skipped, l->tag);
    emit_link_jump(t, link, emit_jmp(&t->e));
}

static void emit_leave(struct tr *t, enum bt_why why, u32 record)
{
    emit_mov_imm32(&t->e, HOST_T1, record);
    emit_jmp_to(&t->e, t->b->glue[why]);
}

static void far_tail(struct tr *t, const struct tail *l)
{
    struct emit *e = &t->e;
    u8 *end = NULL;
    if (l->why == BT_LEAVE && !t->wide) { // 32-bit code does not run on at 0
        emit_load(e, 4, HOST_T0, &t->b->ctx->page_base);
        emit_alu_imm(e, 4, 0, HOST_T0, MEM_PAGE_SIZE);
        end = emit_jcc(e, CC_E);
    }
    emit_store_imm(e, &t->b->ctx->site, l->far);
    emit_patch(e, emit_call(e), t->b->glue_far[bt_number(t->wide, t->user)]);
    emit_jcc_to(e, CC_E, l->back);
    if (end)
        emit_patch(e, end, emit_here(e));
    emit_leave(t, l->why, l->record);
}

// See emit_canonical_check().
static void canonical_tail(struct tr *t, const struct tail *l)
{
    struct emit *e = &t->e;
    emit_canonical(&t->e, HOST_T0, HOST_T1);
    emit_jcc_to(e, CC_E, l->back);
    emit_leave(t, BT_STEP, l->record);
}

void flow_tail(struct tr *t, const struct tail *l)
{
    struct emit *e = &t->e;
    emit_patch(e, l->from, emit_here(e));
    if (l->from2)
        emit_patch(e, l->from2, emit_here(e));
    switch (l->kind) {
    case TAIL_EDGE: edge_tail(t, l); break;
    case TAIL_FAR: far_tail(t, l); break;
    case TAIL_CANONICAL: canonical_tail(t, l); break;
    case TAIL_LOOKUP:
        emit_load(e, 8, HOST_T0, &t->b->ctx->target);
        flow_lookup(t, t->user, NULL);
        break;
    default: // TAIL_RENEW
        emit_store_imm(e, &t->b->ctx->ret_site, l->record);
        emit_jmp_to(e, t->b->glue_renew[bt_number(t->wide, l->tag)]);
        break;
    }
}

// --- jumps ------------------------------------------------------------------------------------------------------------------------

// The current instruction's jump, whose displacement is at `jump`, and which goes on behind itself when it is not taken.
static void emit_taken(struct tr *t, u8 *jump)
{
    i64 target = target_of(tr_now(t));
    struct bt_link *l = branch_link(t, target);
    bool back = goes_back(t, target) && !t->polled;
    unsigned skipped = t->n - t->i - 1;
    bool edge = l->far || back || (t->b->counting && skipped);
    flags_leave(t, l, edge);
    if (!edge) {
        emit_link_jump(t, l, jump);
        return;
    }
    struct tail *s = tr_tail(t, TAIL_EDGE, jump, l);
    s->host = t->flags == FLAGS_HOST && l->flags == FLAGS_SLOT;
    s->skipped = (u16)skipped;
    s->tag = back;
}

static void emit_jcc_insn(struct tr *t)
{
    unsigned cc = flags_condition(t, tr_in(t)->opcode & 15);
    emit_taken(t, emit_jcc(&t->e, cc));
}

static u8 *emit_jrcxz(struct tr *t)
{
    if (tr_in(t)->adsize == 4)
        emit1(&t->e, 0x67);
    EMIT(&t->e, 0xe3, 0);
    return t->e.p;
}

// JCXZ and LOOPs look at no flag but ZF and change none.
static void emit_count_jump(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    u8 *over[2] = {NULL, NULL};
    flags_settle(t);
    if (in->op == ISA_OP_LOOPE || in->op == ISA_OP_LOOPNE)
        flags_need(t);
    if (in->op == ISA_OP_JCXZ) {
        u8 *zero = emit_jrcxz(t);
        EMIT(e, 0xeb, 0);
        over[0] = e->p;
        zero[-1] = (u8)(e->p - zero);
    } else {
        flags_spoil(t);
        emit_lea(e, in->adsize, X86_RCX, X86_RCX, X86_RSP, 0, -1);
        over[0] = emit_jrcxz(t);
        if (in->op != ISA_OP_LOOP) {
            EMIT(e, in->op == ISA_OP_LOOPE ? 0x75 : 0x74, 0);
            over[1] = e->p;
        }
    }
    u8 *jump = emit_jmp(e);
    for (unsigned i = 0; i < 2 && over[i]; i++)
        over[i][-1] = (u8)(e->p - over[i]);
    emit_taken(t, jump);
}

static void emit_jmp_direct(struct tr *t)
{
    i64 target = target_of(tr_now(t));
    struct bt_link *l = branch_link(t, target);
    bool back = goes_back(t, target) && !t->polled;
    emit_last_jump(t, l, l->far || back, back);
}

// --- calls ------------------------------------------------------------------------------------------------------------------------

// Push the guest's return address, which is in HOST_T1 afterwards.
static void emit_push_return(struct tr *t)
{
    struct emit *e = &t->e;
    unsigned size = tr_natural(t);
    i32 disp = mem_stack(t, X86_RSP, -(i32)size, true);
    emit_rip_of(t, HOST_T1, tr_now(t)->next);
    emit_rm(e, size, 0x89, HOST_T1, HOST_T0, disp);
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, -(i32)size);
}

// Do CALL and RET use the private stack?
static bool pairs(const struct tr *t)
{
    return t->b->opts & BT_OPT_RET;
}

static void emit_stack_check(struct tr *t)
{
    emit_rip(&t->e, 8, 0x3b, X86_RSP, &t->b->ctx->sp_limit[t->user], 0);
    u8 *full = emit_jcc(&t->e, CC_B);
    tr_tail(t, TAIL_SP_RESET, full, t->k)->back = emit_here(&t->e);
}

// Where the host's RET arrives, with the guest's address in HOST_T0.
static void emit_return_here(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    struct bt_link *l = new_link(t, tr_now(t)->next);
    l->way = LINK_RETURN;
    EMIT(e, 0x41, 0x5b); // pop r11
    emit_rr(e, 8, 0x3b, HOST_T0, HOST_T1);
    emit_jcc_to(e, CC_NE, t->b->glue_lookup[bt_number(t->wide, t->user)]);
    if (l->far) { // the call was at the page's end, and the fault of what is not canonical there is the RET's
        emit_load(e, 8, HOST_T0, &c->page_base);
        emit_store(e, 8, HOST_T0, &c->tmp[3]);
    }
    emit_lea(e, tr_natural(t), HOST_T1, HOST_T1, X86_RSP, 0, -l->disp);
    emit_store(e, 8, HOST_T1, &c->page_base);
    emit_edge(t, l, 0, false);
    emit_link_jump(t, l, emit_jmp(e));
}

// The host's call, to what `from` will be patched to lead to.
static u8 *emit_paired_call(struct tr *t)
{
    EMIT(&t->e, 0x41, 0x53); // push r11
    return emit_call(&t->e);
}

// Chains of calls that only go forwards, each into two of the next, run for ages: calls poll wherever they go.
static void emit_call_direct(struct tr *t)
{
    struct bt_link *l = branch_link(t, target_of(tr_now(t)));
    flags_save(t);
    flags_clobber(t);
    t->flags = FLAGS_SLOT;
    emit_push_return(t);
    if (!pairs(t)) {
        emit_edge(t, l, 0, true);
        emit_link_jump(t, l, emit_jmp(&t->e));
        return;
    }
    emit_stack_check(t);
    emit_edge(t, l, 0, true);
    emit_link_jump(t, l, emit_paired_call(t));
    emit_return_here(t);
}

// --- indirect -----------------------------------------------------------------------------------------------------------------------

void flow_lookup(struct tr *t, bool user, const struct bt_site *site)
{
    struct emit *e = &t->e;
    u8 *miss[2];
    if (!(t->b->opts & BT_OPT_JUMP)) {
        if (site)
            emit_store_imm(e, &t->b->ctx->ret_site, tr_distance(t, site));
        emit_jmp_to(e, t->b->glue[BT_LOOKUP]);
        return;
    }
    glue_emit_jump(e, t->b, t->wide, user, miss);
    if (!site) {
        emit_patch(e, miss[0], t->b->glue_renew[bt_number(t->wide, user)]);
        emit_patch(e, miss[1], t->b->glue_renew[bt_number(t->wide, user)]);
        return;
    }
    struct tail *l = tr_tail(t, TAIL_RENEW, miss[0], site);
    l->from2 = miss[1];
    l->tag = user;
}

// A site for the fault of an indirect branch to what is not canonical, when it has taken `pop` bytes off the stack.
static struct bt_site *branch_site(struct tr *t, unsigned pop)
{
    struct bt_site *s = tr_site(t);
    s->pop = (u8)pop;
    return s;
}

// The target of an indirect JMP or CALL into HOST_T0 and ctx.target.
static void emit_target(struct tr *t)
{
    const struct insn *in = tr_in(t);
    if (in->opnd[0].kind == ISA_OPND_MEM) {
        mem_operand(t, tr_natural(t), false);
        emit_rm(&t->e, tr_natural(t), 0x8b, HOST_T0, HOST_T0, 0);
    } else {
        mem_get_reg(t, HOST_T0, in->opnd[0].reg);
        if (!t->wide)
            emit_mov_rr(&t->e, 4, HOST_T0, HOST_T0);
    }
    emit_store(&t->e, 8, HOST_T0, &t->b->ctx->target);
}

// A target that is not canonical is the branch's own fault. Here it is for branches that cannot be undone later, as CALL after its push.
// What user code calls is in the lower half, mostly.
static void emit_canonical_check(struct tr *t)
{
    struct emit *e = &t->e;
    if (!t->wide)
        return;
    if (!t->user) {
        emit_canonical(&t->e, HOST_T0, HOST_T1);
        emit_service_if(t, CC_NE, BT_STEP, tr_site(t));
        return;
    }
    emit_mov_rr(e, 8, HOST_T1, HOST_T0);
    EMIT(e, 0x49, 0xc1, 0xeb, 47); // shr r11, 47
    struct tail *l = tr_tail(t, TAIL_CANONICAL, emit_jcc(e, CC_NE), tr_site(t));
    l->back = emit_here(e);
}

static void emit_jmp_indirect(struct tr *t)
{
    flags_save(t);
    t->flags = FLAGS_SLOT;
    emit_target(t);
    flow_lookup(t, t->user, branch_site(t, 0));
}

static void emit_call_indirect(struct tr *t)
{
    struct emit *e = &t->e;
    flags_save(t);
    t->flags = FLAGS_SLOT;
    emit_target(t);
    emit_canonical_check(t);
    emit_push_return(t);
    if (!pairs(t)) {
        emit_load(e, 8, HOST_T0, &t->b->ctx->target);
        flow_lookup(t, t->user, NULL);
        return;
    }
    emit_stack_check(t);
    tr_tail(t, TAIL_LOOKUP, emit_paired_call(t), t->k);
    emit_return_here(t);
}

static void emit_ret(struct tr *t)
{
    struct emit *e = &t->e;
    const struct insn *in = tr_in(t);
    unsigned size = tr_natural(t), pop = size + (in->nopnd ? (u16)in->imm : 0);
    flags_save(t);
    t->flags = FLAGS_SLOT;
    i32 disp = mem_stack(t, X86_RSP, 0, false);
    emit_rm(e, size, 0x8b, HOST_T0, HOST_T0, disp);
    const struct bt_site *site = NULL;
    if (pop > 255)
        emit_canonical_check(t); // too much for a site to undo
    else
        site = branch_site(t, pop);
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, (i32)pop);
    if (!pairs(t)) {
        emit_store(e, 8, HOST_T0, &t->b->ctx->target);
        flow_lookup(t, t->user, site);
        return;
    }
    if (site)
        emit_store_imm(e, &t->b->ctx->ret_site, tr_distance(t, site));
    emit1(e, 0xc3);
}

bool tr_flow(struct tr *t)
{
    bool direct = tr_in(t)->opnd[0].kind == ISA_OPND_REL;
    switch (tr_in(t)->op) {
    case ISA_OP_JCC: emit_jcc_insn(t); return true;
    case ISA_OP_LOOP:
    case ISA_OP_LOOPE:
    case ISA_OP_LOOPNE:
    case ISA_OP_JCXZ: emit_count_jump(t); return true;
    case ISA_OP_JMP: direct ? emit_jmp_direct(t) : emit_jmp_indirect(t); return true;
    case ISA_OP_CALL: direct ? emit_call_direct(t) : emit_call_indirect(t); return true;
    case ISA_OP_RET: emit_ret(t); return true;
    default: return false;
    }
}
