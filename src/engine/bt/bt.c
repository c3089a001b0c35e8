// The loop around translated code, and the engine's operations.
//
// The loop is the interpreter's: what is due before an instruction, then the instruction. Where a block can be entered it and those that
// follow it run at once; where it cannot (single-stepping, breakpoints, tracing, alignment checks, interrupt shadows, code that is not in
// RAM, modes that are not translated, a budget that ends inside the block) the interpreter runs one.
#include <stdio.h>

#include "engine/bt/bt.h"
#include "engine/bt/engine_bt.h"
#include "engine/bt/vecstate.h"
#include "isa/alu.h"

#define CACHE_SIZE (192ull << 20) // bytes; memory is touched as it is used

// --- what blocks rely on ------------------------------------------------------------------------------------------------------

// Translated code may have gone from one privilege to the other, C may have, or both.
static void use_stack(struct bt_ctx *k, bool user)
{
    u64 sp = k->sp;
    if (k->sp_top[user] - sp < BT_STACK)
        return;
    k->sp = k->sp_other;
    k->sp_other = sp;
}

// Is code of the current mode translated?
static bool is_translated(const struct interp *x)
{
    return x->mode == ISA_MODE_64 || (x->mode == ISA_MODE_32 && cpu_flat32(x->c));
}

static bool refresh(struct bt *b)
{
    const struct interp *x = &b->in;
    const struct cpu *c = x->c;
    struct bt_ctx *k = b->ctx;
    bool user = c->cpl == 3;
    u8 mode = (u8)(x->mode | BLOCK_FLAT | (user ? BLOCK_USER : 0));
    if (!is_translated(x))
        return false;
    b->mode = mode;
    use_stack(k, user);
    if (b->stack_mode[user] != mode) {
        b->stack_mode[user] = mode;
        k->sp = k->sp_top[user]; // return addresses there are into code of the other mode
        *(u64 *)k->sp = b->glue_ret[bt_number(bt_mode_64(mode), user)];
    }
    bt_take_views(b);
    bt_take_segments(b);
    return true;
}

static void take_key(struct bt *b, bool user, u32 key)
{
    struct bt_ctx *k = b->ctx;
    u32 *now = user ? &k->key_user : &k->key_super;
    if (LIKELY(*now == key))
        return;
    *now = key;
    // What is on the private stack leads to where code was mapped under the other one.
    if (k->sp_top[user] - k->sp < BT_STACK)
        k->sp = k->sp_top[user];
    else
        k->sp_other = k->sp_top[user];
    b->stats.keys++;
}

// Keys are longer than what translated code compares. When the rest of them changes, everything begins anew.
static bool keys_are_old(const struct bt *b)
{
    return b->in.v->tlb.last_key >> 32 != b->key_age;
}

__attribute__((noinline)) static void renew_keys(struct bt *b)
{
    vecstate_park(b);
    codecache_flush(b);
    tlb_flush_all(&b->in.v->tlb);
    b->key_age = b->in.v->tlb.last_key >> 32;
}

void bt_take_keys(struct bt *b)
{
    const struct tlb *t = &b->in.v->tlb;
    if (UNLIKELY(keys_are_old(b))) { // nothing holds any more: the next branch has to come here
        take_key(b, false, 0);
        take_key(b, true, 0);
        atomic_store(&b->ctx->doorbell, 1);
        return;
    }
    take_key(b, false, (u32)t->key[0]);
    take_key(b, true, (u32)t->key[1]);
}

// --- blocks ---------------------------------------------------------------------------------------------------------------------

static gva address_behind(const struct bt *b, gva lin)
{
    gva next = (lin | 4095) + 1;
    return bt_mode_64(b->mode) ? next : (u32)next;
}

hva bt_page_behind(struct bt *b, gva lin, gpa *phys)
{
    struct mmu_fault f;
    hva host;
    gva next = address_behind(b, lin);
    if (!next || !gva_canonical(next) || !mmu_fill(b->in.v, next, MMU_EXEC, b->in.view, &host, phys, &f) || !host)
        return 0;
    return keeper_is_busy(&b->keeper, host, b->now) ? 0 : host;
}

// Host address of the code at RIP, which may have to be entered into the TLB; 0: the interpreter's business.
static hva code_at_rip(struct bt *b, gva lin)
{
    struct vcpu *v = b->in.v;
    struct mmu_fault f;
    gpa phys;
    hva h = tlb_exec(&v->tlb, b->in.view, lin);
    if (LIKELY(h))
        return h;
    if (!gva_canonical(lin) || !mmu_fill(v, lin, MMU_EXEC, b->in.view, &h, &phys, &f))
        return 0;
    return h;
}

static bool same_recipe(const struct bt_recipe *a, const struct bt_recipe *b)
{
    return a->kind == b->kind && a->size == b->size && a->a == b->a && a->b == b->b && a->imm == b->imm;
}

// A variant for the recipe, or where there is none the number that one could have, or 0.
static struct bt_block *find_variant(const struct bt *b, hva page, unsigned off, const struct bt_recipe *r,
                                     unsigned *free)
{
    *free = 0;
    for (unsigned n = 1; n <= BT_VARIANTS; n++) {
        struct bt_block *k = codecache_find(b, page, off, b->mode | n * BLOCK_VARIANT, 0);
        if (k && same_recipe(&k->recipe, r))
            return k;
        if (!k)
            *free = n;
    }
    return NULL;
}

// Translate what is at `lin`, for a recipe where there is one and it does any good.
static struct bt_block *make_block(struct bt *b, gva lin, unsigned mode, hva page, const struct bt_recipe *r)
{
    gpa phys = b->in.v->tlb.cur[b->in.view].phys[tlb_index(lin)] & ~4095ull;
    u64 before = __builtin_ia32_rdtsc();
    vecstate_park(b);
    struct bt_block *k = translate(b, lin, mode, page, phys, r);
    b->stats.cycles += __builtin_ia32_rdtsc() - before;
    return k;
}

struct bt_block *bt_variant(struct bt *b, const struct bt_block *k, const struct bt_recipe *recipe)
{
    struct bt_block *same = (struct bt_block *)(uintptr_t)k;
    gva lin = b->in.mode == ISA_MODE_64 ? b->in.c->rip : (u32)b->in.c->rip;
    unsigned n;
    if (!k->wants_recipe || !(b->opts & BT_OPT_VARIANT))
        return same;
    struct bt_block *v = find_variant(b, k->page, k->off, recipe, &n);
    if (!v && n)
        v = make_block(b, lin, b->mode | n * BLOCK_VARIANT, k->page, recipe);
    return v ? v : same;
}

// What find_block() is to look for was for another RIP.
static void forget_wishes(struct bt *b)
{
    b->alone = false;
    b->coming_with = NULL;
}

// The block at RIP, translated if need be; NULL: the interpreter's business.
static struct bt_block *find_block(struct bt *b)
{
    const struct cpu *c = b->in.c;
    const struct tlb *tlb = &b->in.v->tlb;
    gva lin = b->in.mode == ISA_MODE_64 ? c->rip : (u32)c->rip;
    hva h = code_at_rip(b, lin);
    if (UNLIKELY(!h))
        return NULL;
    hva page = h & ~4095ull;
    unsigned off = (unsigned)(lin & 4095);
    b->ctx->page_base = c->rip - off;
    bt_take_keys(b);
    u64 key = bt_key(b, bt_mode_user(b->mode));
    struct bt_jump *j = bt_jump_slot(b, c->rip);
    unsigned mode = b->alone ? b->mode | BLOCK_ALONE : b->mode;
    const struct bt_recipe *r = b->coming_with;
    forget_wishes(b);
    if (LIKELY(mode == b->mode && j->rip == c->rip && j->block->page == page && j->block->mode == b->mode &&
               !j->block->second)) {
        j->key = key;
        return (struct bt_block *)j->block;
    }
    hva page2 = off + ISA_MAX_LEN > 4096 ? tlb_exec(tlb, b->in.view, address_behind(b, lin)) : 0;
    unsigned n = 0;
    struct bt_block *k = codecache_find(b, page, off, mode, page2);
    if (!k && r && mode == b->mode)
        k = find_variant(b, page, off, r, &n);
    b->stats.found += k != NULL;
    if (!k && keeper_is_busy(&b->keeper, page, b->now))
        b->quiet_steps = KEEPER_STEPS;
    else if (!k)
        k = make_block(b, lin, mode | n * BLOCK_VARIANT, page, r);
    if (k && !k->recipe.kind && mode == b->mode)
        *bt_jump_slot(b, c->rip) = (struct bt_jump){.rip = c->rip, .key = key, .code = k->entry_slot, .block = k};
    return k;
}

// --- writes to code -----------------------------------------------------------------------------------------------------------

static bool drop(void *engine, hva page, unsigned off, unsigned len, u64 *dropped)
{
    return codecache_drop(engine, page, off, len, dropped);
}

static void flush(void *engine)
{
    codecache_flush(engine);
}

// `now` counts passes of the loop.
static const struct keeper_ops keeper_ops = {.drop = drop, .flush = flush, .window = 20000, .time = 2000};

// Any thread.
static void bt_invalidate(struct vcpu *v, gpa base, u64 len)
{
    struct bt *b = v->engine_state;
    keeper_post(&b->keeper, v, base, len);
}

// --- the loop -----------------------------------------------------------------------------------------------------------------

// From struct cpu to where translated code has it.
static void load_context(struct bt *b)
{
    const struct cpu *c = b->in.c;
    struct bt_ctx *x = b->ctx;
    const u64 all = 1ull << 62;
    x->r10 = c->gpr[X86_R10];
    x->r11 = c->gpr[X86_R11];
    x->r15 = c->gpr[X86_R15];
    x->slot = alu_flags_pack(c->rflags);
    b->chunk = x->left = (i64)(b->in.budget < all ? b->in.budget : all);
}

// The block at RIP, when it may be entered now.
static struct bt_block *enterable(struct bt *b)
{
    if (UNLIKELY(keys_are_old(b)))
        renew_keys(b);
    // Without budget nothing may be touched, not even the accessed bits of the code's pages.
    if (!bt_blocks_allowed(&b->in) || !b->in.budget || !refresh(b))
        return NULL;
    struct bt_block *k = find_block(b);
    // The page may have been mapped here just now, by another processor that had changed its code before: look only then.
    if (!k || keeper_pending(b->in.v) || (b->counting && b->in.budget < k->n))
        return NULL;
    if (UNLIKELY(b->in.c->rflags & X86_FL_RF)) {
        if (!k->resumes)
            return NULL;
        b->in.c->rflags &= ~(u64)X86_FL_RF;
    }
    load_context(b);
    return k;
}

// What is due at an instruction boundary, as in run_loop(); budget is not touched. False: leave.
static bool serve(struct bt *b)
{
    struct interp *x = &b->in;
    vecstate_park(b);
    if (keeper_pending(x->v))
        keeper_drop(&b->keeper, x->v, b->now);
    event_pending(b);
    if (!interp_ready(x))
        return false;
    x->budget++;
    b->unlinked = 0;
    forget_wishes(b);
    return true;
}

const struct bt_block *bt_go_on(struct bt *b)
{
    b->now++;
    if (UNLIKELY(atomic_load_explicit(&b->ctx->doorbell, memory_order_relaxed)))
        atomic_exchange(&b->ctx->doorbell, 0);
    if (UNLIKELY(b->quiet_steps) || (!bt_undisturbed(b) && !serve(b)))
        return NULL;
    return enterable(b);
}

// One instruction in the interpreter, for which budget has been spent; and on, without looking for blocks, as long as the mode is none that
// is translated. False: leave.
static bool interpret(struct bt *b)
{
    struct interp *x = &b->in;
    for (;;) {
        b->stats.steps++;
        b->stepped[interp_step(x)].loop++;
        if (is_translated(x))
            return true;
        b->now++;
        if (keeper_pending(x->v))
            keeper_drop(&b->keeper, x->v, b->now);
        if (!interp_ready(x))
            return false;
    }
}

static void run_loop(struct bt *b)
{
    struct interp *x = &b->in;
    for (;;) {
        atomic_exchange(&b->ctx->doorbell, 0);
        b->unlinked = 0; // a branch that led out leads nowhere else
        forget_wishes(b);
        b->now++;
        if (keeper_pending(x->v))
            keeper_drop(&b->keeper, x->v, b->now);
        event_pending(b);
        if (!interp_ready(x))
            return;
        if (UNLIKELY(b->quiet_steps)) {
            b->quiet_steps--;
        } else {
            x->budget++; // interp_ready() took it for one instruction
            const struct bt_block *k = enterable(b);
            if (LIKELY(k != NULL)) {
                b->stats.entries++;
                b->ctx->go = k->entry_slot;
                bt_set_gs(b);
                glue_enter(b);
                continue;
            }
            // Something may have become due meanwhile.
            if (keeper_pending(x->v))
                keeper_drop(&b->keeper, x->v, b->now);
            if (!interp_ready(x))
                return;
        }
        if (!interpret(b))
            return;
    }
}

static struct vm_exit bt_run(struct vcpu *v, u64 budget)
{
    struct bt *b = v->engine_state;
    struct interp *x = &b->in;
    if (budget != ENGINE_NO_BUDGET && !b->counting) {
        b->counting = true; // from now on blocks count
        codecache_flush(b);
    }
    v->uncounted |= !b->counting;
    b->gs = 0; // the thread may be another one, or have run another engine
    interp_enter(x, budget);
    if (setjmp(x->fault))
        interp_take_fault(x);
    run_loop(b);
    return x->exit;
}

// --- the engine -----------------------------------------------------------------------------------------------------------------

// May RDTSC be run where the guest wants the host's counter?
static bool tsc_is_hosts(const struct host *h)
{
    u64 before = __builtin_ia32_rdtsc(), tsc = h->ops->tsc ? h->ops->tsc(h->self) : 0;
    return before <= tsc && tsc <= __builtin_ia32_rdtsc();
}

static void bt_before_device(struct vcpu *v)
{
    vecstate_park(v->engine_state);
}

static int bt_probe(const char **why)
{
    (void)why;
    return 0;
}

static int bt_vcpu_create(struct vcpu *v)
{
    struct host *h = v->machine->host;
    struct bt *b = h->ops->mem_alloc(h->self, "bt", sizeof *b);
    if (!b)
        return -12;                               // -ENOMEM
    b->has_bmi2 = __builtin_cpu_supports("bmi2"); // what is emitted first asks already
    int err = interp_init(&b->in, v);
    if (!err) {
        u64 size = v->machine->tuning.memory;
        err = codecache_init(b, size ? size : CACHE_SIZE);
        if (err)
            interp_fini(&b->in);
    }
    if (err) {
        h->ops->mem_free(h->self, b, sizeof *b);
        return err;
    }
    const struct engine_tuning *tuning = &v->machine->tuning;
    b->opts = ~(u32)tuning->off;
    b->limit = tuning->block && tuning->block < BT_INSNS ? tuning->block : BT_INSNS;
    b->ctx->gpr = (u64)v->cpu.gpr;
    b->host_flags = host_flags_study();
    forms_init(b);
    b->host_tsc = tsc_is_hosts(h);
    b->by_gs = h->gs_is_free && b->opts & BT_OPT_GS;
    keeper_init(&b->keeper, &keeper_ops, b);
    vecstate_init(b);
    v->engine_state = b;
    v->doorbell = &b->ctx->doorbell;
    v->before_device = bt_before_device;
    return 0;
}

static void bt_vcpu_destroy(struct vcpu *v)
{
    struct host *h = v->machine->host;
    struct bt *b = v->engine_state;
    v->doorbell = NULL;
    v->before_device = NULL;
    codecache_fini(b);
    interp_fini(&b->in);
    h->ops->mem_free(h->self, b, sizeof *b);
    v->engine_state = NULL;
}

static void bt_sync(struct vcpu *v)
{
    (void)v; // between calls of run() the architectural state is in vcpu.cpu
}

static void bt_kick(struct vcpu *v)
{
    vcpu_request(v, VCPU_REQ_EXIT);
}

static void bt_stats(struct vcpu *v, char *buf, size_t size)
{
    stats_print(v->engine_state, buf, size);
}

static const struct engine_opt opts[] = {
#define BT_OPT(id, name, help) {name, help},
#include "engine/bt/opts.def"
#undef BT_OPT
    {NULL, NULL},
};

const struct engine_ops bt_engine = {
    .name = "bt",
    .opts = opts,
    .probe = bt_probe,
    .vcpu_create = bt_vcpu_create,
    .run = bt_run,
    .pull_state = bt_sync,
    .push_state = bt_sync,
    .invalidate = bt_invalidate,
    .kick = bt_kick,
    .stats = bt_stats,
    .vcpu_destroy = bt_vcpu_destroy,
};
