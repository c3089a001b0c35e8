// One block.
//
//     entry_host:  what brings the flags to where the block wants them first
//     entry_slot:
//     the instructions, one after the other
//     tails: edges, and elsewhere what is rarely run (TLB misses, unlinked branches)
//
// Which of the two entries has something to do depends on what comes first in the block, a need for the flags or code that destroys
// them.
#include <stdio.h>

#include "engine/bt/translate.h"

#define RECORD_ALIGN 8u // bytes; bit 0 of distances is SECOND's (codecache.c)
#define CODE_ALIGN 16u

u32 tr_distance(const struct tr *t, const void *record)
{
    return bt_distance(t->b, record);
}

static u32 code_used(const struct tr *t)
{
    return (u32)(t->e.p - t->code);
}

// Instructions of vectors and strings have faults that come before a page fault, or state that goes with it.
static bool faults_directly(const struct tr_insn *x)
{
    const u32 other = ISA_ATTR_X87 | ISA_ATTR_MMX | ISA_ATTR_SSE | ISA_ATTR_AVX;
    return !(isa_forms[x->in.form].attr & other) && !bt_is_string(&x->in) && x->in.op != ISA_OP_CMPXCHG16B;
}

// Bits of the memory operand's address that must be clear.
static u8 alignment(const struct insn *in)
{
    int mem = isa_memory_operand(in);
    bool aligned = isa_forms[in->form].attr & ISA_ATTR_ALIGN || in->op == ISA_OP_CMPXCHG16B;
    return aligned && mem >= 0 ? (u8)(in->opnd[mem].size - 1) : 0;
}

struct bt_site *tr_site(struct tr *t)
{
    struct bt_site *s = &bt_sites(t->k)[t->k->sites];
    const struct tr_insn *x = tr_now(t);
    t->at_hand = 0; // code that comes back here has lost it
    if (t->k->sites + 1u < tr_sites_max(t->n))
        t->k->sites++;
    else
        t->failed = true;
    *s = (struct bt_site){.block = (u16)(((const u8 *)s - (const u8 *)t->k) / BT_UNIT),
                          .off = x->off,
                          .len = x->in.len,
                          .idx = (u8)t->i,
                          .op = x->in.op,
                          .vec = x->known,
                          .align = alignment(&x->in) & 31,
                          .direct = faults_directly(x)};
    if (t->flags == FLAGS_RECIPE)
        s->recipe = t->recipe;
    return s;
}

struct tail *tr_tail(struct tr *t, enum tail_kind kind, u8 *from, const void *record)
{
    struct tail *l = &t->tail[t->tails];
    if (t->tails + 1 < TAILS)
        t->tails++;
    else
        t->failed = true;
    *l = (struct tail){.kind = (u8)kind, .from = from, .record = tr_distance(t, record), .insn = (u8)t->i};
    return l;
}

struct bt_site *tr_step_from(struct tr *t, u8 *from)
{
    struct bt_site *s = tr_site(t);
    tr_tail(t, TAIL_SERVICE, from, s)->why = BT_STEP;
    return s;
}

struct bt_site *tr_step_if(struct tr *t, unsigned cc)
{
    return tr_step_from(t, emit_jcc(&t->e, cc));
}

void tr_step(struct tr *t)
{
    if (t->flags == FLAGS_HALF)
        flags_clobber(t);
    struct bt_site *s = tr_site(t);
    s->call = tr_now(t)->call ? t->i + 1 : 0;
    s->access = s->op == ISA_OP_UD2 ? SITE_RAISES + X86_EXC_UD : 0;
    emit_mov_imm32(&t->e, HOST_T1, tr_distance(t, s));
    emit_jmp_to(&t->e, t->flags == FLAGS_HOST ? t->b->glue_step_host : t->b->glue[BT_STEP]);
    t->flags = FLAGS_BOTH;
}

static u64 service_entry(const struct tr *t, const struct tail *l)
{
    if (l->host && l->why == BT_LINK)
        return t->b->glue_link_host;
    return l->host ? t->b->glue_step_host : t->b->glue[l->why];
}

// The way into a block that knows nothing of the recipe.
static void emit_settle(struct tr *t, struct bt_link *l)
{
    recipe_emit(t, &l->recipe, true);
    u8 *jump = emit_jmp(&t->e);
    l->settle = (u8)(t->e.p - (t->b->cache.mem.write + l->stub));
    emit_patch(&t->e, jump, bt_exec(t->b, l->stub));
}

static void emit_tail(struct tr *t, const struct tail *l)
{
    struct emit *e = &t->e;
    if (l->kind >= TAIL_FLOW) {
        flow_tail(t, l);
        return;
    }
    emit_patch(e, l->from, emit_here(e));
    struct bt_link *stub = NULL;
    if (l->kind == TAIL_SERVICE && l->why == BT_LINK) {
        struct bt_link *k = bt_near(t->b, l->record);
        stub = k->jump == (u32)(l->from - t->b->cache.mem.write) ? k : NULL;
    }
    if (stub)
        stub->stub = (u32)(e->p - t->b->cache.mem.write);
    switch (l->kind) {
    case TAIL_SP_RESET:
        emit_load(e, 8, X86_RSP, &t->b->ctx->sp_top[t->user]);
        emit_jmp_to(e, l->back);
        break;
    case TAIL_MISS:
        mem_entry_op(t, 0x03, l->tag); // add
        emit_mov_imm32(e, HOST_T1, l->record);
        emit_jmp_to(e, t->b->glue[BT_MISS]);
        break;
    default:
        emit_mov_imm32(e, HOST_T1, l->record);
        emit_jmp_to(e, service_entry(t, l));
        break;
    }
    if (stub && stub->flags == FLAGS_RECIPE)
        emit_settle(t, stub);
}

// --- entries ------------------------------------------------------------------------------------------------------------------

// Where the flags should be at the block's start: where what comes first wants them.
static enum flags_at wanted_at_start(struct tr *t)
{
    if (t->b->counting || t->insn[0].next > MEM_PAGE_SIZE)
        return FLAGS_SLOT;
    for (t->i = 0; t->i < t->n; t->i++) {
        const struct tr_insn *x = tr_now(t);
        if (!x->seen)
            return FLAGS_NONE;
        if (x->follows)
            continue;
        if (x->step || x->check || x->form->is & (FORM_STRING | FORM_STACK) || x->form->cls > ISA_CLASS_BRANCH ||
            flow_frees_flags(x))
            return FLAGS_SLOT;
        if (x->mem >= 0 && !(x->form->is & FORM_ADDRESS))
            return FLAGS_SLOT;
        if (x->in.op == ISA_OP_JCC || flags_wanted(t) || (isa_forms[x->in.form].flags_written & X86_FL_STATUS))
            return FLAGS_HOST;
    }
    return FLAGS_HOST;
}

// With flags that have to be in the slot: would they often not have to be, if they followed from registers?
static bool wants_recipe(const struct tr *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        const struct tr_insn *x = &t->insn[i];
        if (!x->seen)
            return true;
        if (x->step || x->emitter == TR_SYS || x->form->is & FORM_STRING || flow_saves_flags(x))
            return false;
    }
    return true;
}

static void emit_variant_entry(struct tr *t)
{
    t->k->recipe = t->recipe;
    t->k->entry_slot = emit_here(&t->e);
    t->flags = FLAGS_RECIPE;
}

static void emit_entries(struct tr *t)
{
    struct bt_block *k = t->k;
    enum flags_at want = wanted_at_start(t);
    t->i = 0;
    if (t->k->mode & BLOCK_VARIANTS) {
        emit_variant_entry(t);
        return;
    }
    k->wants = want;
    k->wants_recipe = want == FLAGS_SLOT && !k->second && wants_recipe(t);
    k->entry_slot = emit_here(&t->e);
    k->entry_host = 0;
    if (want == FLAGS_SLOT)
        flags_emit_save(&t->e, t->b->ctx);
    else if (want == FLAGS_HOST)
        flags_emit_restore(&t->e, t->b->ctx);
    k->entry_both = (u16)code_used(t);
    if (want == FLAGS_SLOT)
        k->entry_slot = emit_here(&t->e);
    else if (want == FLAGS_HOST)
        k->entry_host = k->entry_both;
    t->flags = want;
}

// --- the block ------------------------------------------------------------------------------------------------------------------

// One for each direct branch, one for what a call returns to, and one where the block runs on.
static unsigned count_links(const struct tr *t)
{
    unsigned n = !t->insn[t->n - 1].ends;
    for (unsigned i = 0; i < t->n; i++) {
        const struct tr_insn *x = &t->insn[i];
        if (x->emitter == TR_FLOW)
            n += (x->in.opnd[0].kind == ISA_OPND_REL) + (x->in.op == ISA_OP_CALL);
    }
    return n;
}

static bool emit_one(struct tr *t, enum tr_emitter by)
{
    switch (by) {
    case TR_IDENT: return tr_ident(t);
    case TR_LEA: return tr_lea(t);
    case TR_NOTHING: return true;
    case TR_STACK: return tr_stack(t);
    case TR_STRING: return tr_string(t);
    case TR_BITS: return tr_bits(t);
    case TR_FLOW: return tr_flow(t);
    case TR_VECTOR: return tr_vector(t);
    case TR_X87: return tr_x87(t);
    case TR_SYS: return tr_sys(t);
    default: return false;
    }
}

// Does the current instruction leave HOST_T0 alone but for its own access to memory: before that, and after it?
static void leaves_at_hand(const struct tr *t, bool *before, bool *after)
{
    const struct tr_insn *x = &t->insn[t->i];
    switch (x->emitter) {
    case TR_NOTHING: *before = *after = true; break;
    case TR_IDENT:
    case TR_VECTOR: *before = *after = x->shape.mem >= 0 || x->shape.scratches < 2; break;
    case TR_STACK: *before = *after = x->in.op == ISA_OP_PUSH || x->in.op == ISA_OP_POP; break;
    case TR_FLOW:
        *after = x->in.op == ISA_OP_JCC;
        *before = *after || x->in.op == ISA_OP_RET;
        break;
    default: *before = *after = false; break;
    }
}

// Can the flag that lets it pass its breakpoint be forgotten when the instruction begins? Nothing may leave before it. Between the rounds
// of a repeated one, where the flag is seen as set, the block is left by way of the interpreter alone, which sets it again.
static bool resumes(const struct tr *t)
{
    const struct tr_insn *x = &t->insn[t->i];
    return !t->polled && (x->emitter == TR_STRING || x->form->cls <= ISA_CLASS_MEM);
}

// Loops run through edges, the others are rarely run.
static bool lies_apart(const struct tr *t, const struct tail *l)
{
    return l->kind != TAIL_EDGE && t->b->opts & BT_OPT_APART;
}

static void emit_tails_of(struct tr *t, bool apart)
{
    const u32 before = apart ? t->body : 0;
    const u8 *start = apart ? t->cold : t->code;
    for (unsigned i = 0; i < t->tails; i++) {
        struct tail *l = &t->tail[i];
        if (lies_apart(t, l) != apart)
            continue;
        t->i = l->insn;
        l->at = before + (u32)(t->e.p - start);
        emit_tail(t, l);
        l->end = before + (u32)(t->e.p - start);
    }
}

static void emit_tails(struct tr *t)
{
    t->straight = code_used(t);
    t->e.end += t->b->opts & BT_OPT_APART ? 0 : tr_tails_max(t->n);
    emit_tails_of(t, false);
    t->body = code_used(t);
    t->e.p = t->cold;
    t->e.end = t->cold + tr_tails_max(t->n);
    emit_tails_of(t, true);
    t->size = t->body + (u32)(t->e.p - t->cold);
}

static void emit_insns(struct tr *t)
{
    if (t->b->counting)
        flow_count(t);
    if (t->k->second)
        flow_check_page2(t);
    for (t->i = 0; t->i < t->n && !t->failed; t->i++) {
        flags_before(t);
        flow_poll(t);
        if (!t->i)
            t->k->resumes = resumes(t);
        unsigned first = t->k->sites;
        struct tr_insn *x = tr_now(t);
        x->at = code_used(t);
        bool leads = x->access[ACCESS_OPERAND].role == ACCESS_LEADER || x->access[ACCESS_STACK].role == ACCESS_LEADER;
        bool before, after;
        leaves_at_hand(t, &before, &after);
        t->at_hand = before ? t->at_hand : 0;
        if (!emit_one(t, (enum tr_emitter)x->emitter)) {
            t->failed = t->failed || leads; // others wait for its probe
            tr_step(t);
        }
        bool kept = t->made.kind; // the interpreter would not have kept it
        flags_after(t);
        // The interpreter comes back behind the instruction, with something else there.
        if (!after || (t->k->sites != first && !leads))
            t->at_hand = 0;
        // After a step by the interpreter there is no place for the leader's group.
        for (unsigned s = first; s < t->k->sites && !x->ends && !leads && !kept; s++)
            bt_sites(t->k)[s].resume = (u16)code_used(t);
        t->failed = t->failed || (u64)(t->e.end - t->e.p) < tr_code_spare(t->n);
    }
    const struct tr_insn *last = &t->insn[t->n - 1];
    t->i = t->n - 1;
    t->done = code_used(t);
    if (!last->ends)
        flow_end(t, last->next);
    emit_tails(t);
    t->failed = t->failed || t->links > t->k->links || t->fars > t->k->fars; // never
}

// Behind the last byte that is translated. What JMPs go past is counted as if it were: that only costs when it is written to.
static u16 end_of(const struct tr *t)
{
    const struct tr_insn *last = &t->insn[t->n - 1];
    return (u16)(last->off + last->in.len);
}

static struct bt_block *new_block(struct tr *t, unsigned mode, hva page, hva page2)
{
    struct bt *b = t->b;
    unsigned links = count_links(t), fars = flow_count_fars(t) + (page2 != 0);
    u32 records =
        (u32)((page2 ? sizeof(struct bt_second) : 0) + fars * sizeof(struct bt_far) + links * sizeof(struct bt_link));
    u32 meta = (u32)(sizeof(struct bt_block) + records + tr_sites_max(t->n) * sizeof(struct bt_site) +
                     t->n * sizeof(struct bt_call) + 8);
    const bool apart = b->opts & BT_OPT_APART;
    const u32 room = tr_code_max(t->n) + (apart ? 0 : tr_tails_max(t->n));
    codecache_room(b, room, apart ? tr_tails_max(t->n) : 0, meta);
    struct bt_part *p = &b->cache.part[b->cache.now];
    struct bt_block *k = bt_near(b, p->meta + p->meta_used);
    t->code = b->cache.mem.write + p->code + p->code_used;
    t->cold = b->cache.mem.write + p->cold + p->cold_used;
    memset(k, 0, sizeof *k + records);
    k->page = page;
    if (page2) {
        k->second = 1;
        *bt_second(k) = (struct bt_second){.page = page2};
    }
    k->off = t->insn[0].off;
    k->end = end_of(t);
    k->mode = (u8)mode;
    k->n = (u8)t->n;
    k->fars = (u8)fars;
    k->links = (u8)links;
    k->code = p->code + p->code_used;
    t->e = (struct emit){
        .p = t->code, .end = t->code + tr_code_max(t->n), .to_exec = (u64)b->cache.mem.exec - (u64)b->cache.mem.write};
    t->k = k;
    return k;
}

// Instructions that need not be decoded again each time: their records follow the sites.
static u32 keep_calls(struct tr *t)
{
    struct bt_call *call = (void *)(((uintptr_t)(bt_sites(t->k) + t->k->sites) + 7) & ~(uintptr_t)7);
    for (unsigned i = 0; i < t->k->sites; i++) {
        struct bt_site *s = &bt_sites(t->k)[i];
        if (!s->call || s->size)
            continue;
        const struct tr_insn *x = &t->insn[s->call - 1];
        *call = (struct bt_call){.fn = interp_handler(x->in.form), .in = x->in};
        memcpy(call->bytes, x->bytes, sizeof call->bytes);
        s->call = (u16)(((u8 *)call++ - (u8 *)t->k) / BT_UNIT);
    }
    return (u32)((u8 *)call - (u8 *)t->k);
}

static void keep(struct tr *t)
{
    struct bt *b = t->b;
    struct bt_part *p = &b->cache.part[b->cache.now];
    struct bt_block *k = t->k;
    k->code_size = (u16)t->body;
    k->bytes = (u16)((keep_calls(t) + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1));
    p->meta_used += k->bytes;
    p->code_used += (k->code_size + CODE_ALIGN - 1u) & ~(CODE_ALIGN - 1u);
    p->cold_used += t->size - t->body;
    codecache_add(b, k);
    b->stats.blocks++;
    b->stats.insns += t->n;
    b->stats.code_bytes += t->size;
}

static void name_code(const struct tr *t)
{
    const struct bt *b = t->b;
    struct host *h = b->in.v->machine->host;
    const u64 rip = b->ctx->page_base + t->k->off, apart = (u64)t->cold + t->e.to_exec;
    char name[32];
    snprintf(name, sizeof name, "bt:%llx", (unsigned long long)rip);
    h->ops->code_name(h->self, (const void *)bt_exec(b, t->k->code), t->body, name);
    if (t->size == t->body)
        return;
    snprintf(name, sizeof name, "bt-apart:%llx", (unsigned long long)rip);
    h->ops->code_name(h->self, (const void *)apart, t->size - t->body, name);
}

static void log_line(void *host, const char *text)
{
    host_logf(host, LOG_BT, "%s", text);
}

// Bytes of a block are decoded from a private copy: another processor may be writing them.
static bool copy_code(struct bt *b, hva from, gpa phys, u8 *to, unsigned len)
{
    if (!keeper_may_read(b->in.v, phys))
        return false;
    memcpy(to, (const void *)from, len);
    return true;
}

static void begin(struct tr *t, struct bt *b, unsigned mode, hva page, unsigned off)
{
    enum bt_share level =
        b->opts & BT_OPT_SHARE && !(mode & BLOCK_ALONE) ? bt_sharing(b, page, off)->level : SHARE_NOTHING;
    memset(t, 0, offsetof(struct tr, insn));
    t->b = b;
    t->wide = bt_mode_64(b->mode);
    t->user = bt_mode_user(b->mode);
    t->share = level < SHARE_NOTHING;
    t->upgrade = level < SHARE_NO_UPGRADES;
}

static struct bt_block *finish(struct tr *t, unsigned mode, hva page, hva page2)
{
    struct bt *b = t->b;
    new_block(t, mode, page, page2);
    emit_entries(t);
    emit_insns(t);
    if (t->failed)
        return NULL;
    keep(t);
    if (UNLIKELY(b->in.v->machine->host->names_code))
        name_code(t);
    if (UNLIKELY(host_logs(b->in.v->machine->host, LOG_BT)))
        dump_block(t, b->ctx->page_base, !b->plain, log_line, b->in.v->machine->host);
    return t->k;
}

struct bt_block *translate(struct bt *b, gva lin, unsigned mode, hva page, gpa phys, const struct bt_recipe *recipe)
{
    struct tr t;
    u8 code[BT_INSNS * ISA_MAX_LEN + ISA_MAX_LEN];
    unsigned off = (unsigned)(lin & 4095), room = MEM_PAGE_SIZE - off;
    hva page2 = 0;
    begin(&t, b, mode, page, off);
    if (room > BT_INSNS * ISA_MAX_LEN)
        room = BT_INSNS * ISA_MAX_LEN;
    if (!copy_code(b, page + off, phys, code, room))
        return NULL;
    analyse(&t, code, room, off);
    if (!t.n && t.cut) {
        page2 = bt_page_behind(b, lin, &phys);
        struct bt_block *k = page2 ? codecache_find(b, page, off, mode, page2) : NULL;
        if (!page2 || k)
            return k;
        if (!copy_code(b, page2, phys, code + room, ISA_MAX_LEN))
            return NULL;
        analyse(&t, code, room + ISA_MAX_LEN, off);
    }
    if (!t.n)
        return NULL;
    t.recipe.kind = RECIPE_NONE;
    if (mode & BLOCK_VARIANTS && !page2 && wanted_at_start(&t) == FLAGS_SLOT && wants_recipe(&t))
        t.recipe = *recipe;
    else
        mode &= ~BLOCK_VARIANTS;
    return finish(&t, mode, page, page2);
}
