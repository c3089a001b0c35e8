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

#define CACHE_SIZE (96ull << 20)

// --- what blocks rely on ------------------------------------------------------------------------------------------------------

static bool is_flat(const struct x86_seg *s, u32 must, u32 must_not)
{
    return s->base == 0 && s->limit == ~0u && (s->attr & must) == must && !(s->attr & (must_not | X86_SEG_UNUSABLE));
}

// 32-bit code whose ES, CS, SS and DS cover everything, SS with a 32-bit stack pointer.
static bool segments_flat(const struct cpu *c)
{
    const u32 data = X86_SEG_W, not_data = X86_SEG_CODE | X86_SEG_E;
    return cpu_pmode(c) && is_flat(&c->seg[X86_CS], X86_SEG_CODE, 0) &&
           is_flat(&c->seg[X86_SS], data | X86_SEG_DB, not_data) && is_flat(&c->seg[X86_DS], data, not_data) &&
           is_flat(&c->seg[X86_ES], data, not_data);
}

// Is code of the current mode translated?
static bool refresh(struct bt *b)
{
    const struct interp *x = &b->in;
    const struct cpu *c = x->c;
    struct bt_ctx *k = b->ctx;
    u8 mode = (u8)(x->mode | BLOCK_FLAT);
    if (x->mode == ISA_MODE_16 || (x->mode == ISA_MODE_32 && !segments_flat(c)))
        return false;
    if (b->mode != mode) {
        b->mode = mode;
        k->sp = k->sp_top; // return addresses there are into code of the other mode
    }
    for (unsigned i = 0; i < TLB_VIEW_COUNT; i++)
        k->view[i] = (u64)x->v->tlb.cur[i].e;
    k->tlb = k->view[x->view];
    for (unsigned i = 0; i < 2; i++) {
        const struct x86_seg *s = &c->seg[X86_FS + i];
        k->seg_base[i] = s->base;
        k->seg_flat[i] =
            s->limit == ~0u && !(s->attr & (X86_SEG_UNUSABLE | X86_SEG_CODE | X86_SEG_E)) && s->attr & X86_SEG_W;
    }
    return true;
}

// --- pages whose code keeps changing ----------------------------------------------------------------------------------------

#define BUSY_DROPS 24     // before a page is left alone ...
#define BUSY_WINDOW 20000 // ... with less than so many passes of the loop from one to the next
#define BUSY_TIME 2000    // how long at first, in passes
#define BUSY_STEPS 30     // instructions from one question whether it still is to the next
#define BUSY_LEVELS 6     // doubled so many times at most

static struct bt_busy *busy_slot(struct bt *b, hva page)
{
    return &b->busy[(page >> 12 ^ page >> 18) % BT_BUSY];
}

static bool is_busy(struct bt *b, hva page)
{
    const struct bt_busy *p = busy_slot(b, page);
    return UNLIKELY(p->page == page && b->now < p->until);
}

// Code of the page was dropped. True: leave it alone for a while.
static bool becomes_busy(struct bt *b, hva page)
{
    struct bt_busy *p = busy_slot(b, page);
    if (p->page != page || b->now - p->last > (u64)BUSY_WINDOW << p->level)
        *p = (struct bt_busy){.page = page};
    p->last = b->now;
    if (++p->drops < BUSY_DROPS)
        return false;
    p->until = b->now + ((u64)BUSY_TIME << p->level);
    p->drops = BUSY_DROPS - 4; // it has to prove itself
    if (p->level < BUSY_LEVELS)
        p->level++;
    b->stats.left_alone++;
    return true;
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
    return is_busy(b, host) ? 0 : host;
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
    struct bt_jump *j = bt_jump_slot(b, c->rip);
    if (LIKELY(j->rip == c->rip && j->block->page == page && !j->block->page2))
        return (struct bt_block *)j->block;
    hva page2 = off + ISA_MAX_LEN > 4096 ? tlb_exec(tlb, b->in.view, address_behind(b, lin)) : 0;
    struct bt_block *k = codecache_find(b, page, off, b->mode, page2);
    b->stats.found += k != NULL;
    if (!k && is_busy(b, page)) {
        b->quiet_steps = BUSY_STEPS;
    } else if (!k) {
        gpa phys = tlb->cur[b->in.view].phys[tlb_index(lin)] & ~4095ull;
        u64 before = __builtin_ia32_rdtsc();
        vecstate_park(b);
        k = translate(b, lin, page, phys);
        b->stats.cycles += __builtin_ia32_rdtsc() - before;
    }
    if (k)
        *bt_jump_slot(b, c->rip) = (struct bt_jump){.rip = c->rip, .block = k};
    return k;
}

// --- writes to code -----------------------------------------------------------------------------------------------------------

static void drop_written(struct bt *b)
{
    struct machine *m = b->in.v->machine;
    vcpu_request_clear(b->in.v, VCPU_REQ_CODE);
    if (atomic_exchange(&b->writes.all, false)) {
        codecache_flush(b);
        b->stats.flushes++;
    }
    for (unsigned i = 0; i < BT_WRITES; i++) {
        u64 w = atomic_exchange(&b->writes.slot[i], 0);
        if (!w)
            continue;
        gpa a = w >> 12;
        unsigned off = (unsigned)(a & 4095), len = (unsigned)(w & 4095) + 1;
        const u8 *host = mem_ptr(&m->mem, a, 1, false);
        if (!host)
            continue;
        bool alone = m->vcpu_count == 1;
        if (!alone) { // the flag of the page was cleared for all
            off = 0;
            len = MEM_PAGE_SIZE;
        }
        hva page = (hva)host & ~4095ull;
        u64 dropped = b->stats.dropped;
        bool rest = codecache_drop(b, page, off, len);
        if (b->stats.dropped != dropped && becomes_busy(b, page))
            rest = codecache_drop(b, page, 0, MEM_PAGE_SIZE);
        if (!rest && alone)
            mmu_unprotect_page(m, a);
    }
}

// Any thread.
static void bt_invalidate(struct vcpu *v, gpa base, u64 len)
{
    struct bt *b = v->engine_state;
    u64 w = base << 12 | (len - 1);
    unsigned i = 0;
    if (len > MEM_PAGE_SIZE - (base & 4095) || !w) {
        i = BT_WRITES;
    } else {
        for (; i < BT_WRITES; i++) {
            u64 none = 0;
            u64 now = atomic_load_explicit(&b->writes.slot[i], memory_order_relaxed);
            if (now == w || (!now && atomic_compare_exchange_strong(&b->writes.slot[i], &none, w)))
                break;
        }
    }
    if (i == BT_WRITES)
        atomic_store(&b->writes.all, true);
    vcpu_request(v, VCPU_REQ_CODE);
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
    // Without budget nothing may be touched, not even the accessed bits of the code's pages.
    if (!bt_blocks_allowed(&b->in) || !b->in.budget || !refresh(b))
        return NULL;
    struct bt_block *k = find_block(b);
    // The page may have been mapped here just now, by another processor that had changed its code before: look only then.
    if (!k || bt_code_pending(b) || (b->counting && b->in.budget < k->n))
        return NULL;
    load_context(b);
    return k;
}

// What is due at an instruction boundary, as in run_loop(); budget is not touched. False: leave.
static bool serve(struct bt *b)
{
    struct interp *x = &b->in;
    vecstate_park(b);
    if (atomic_load_explicit(&x->v->request, memory_order_acquire) & VCPU_REQ_CODE)
        drop_written(b);
    if (!interp_ready(x))
        return false;
    x->budget++;
    b->unlinked = 0; // that was for another RIP
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

static void run_loop(struct bt *b)
{
    struct interp *x = &b->in;
    for (;;) {
        atomic_exchange(&b->ctx->doorbell, 0);
        b->now++;
        if (UNLIKELY(atomic_load_explicit(&x->v->request, memory_order_acquire) & VCPU_REQ_CODE))
            drop_written(b);
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
                glue_enter(b);
                continue;
            }
            // Something may have become due meanwhile.
            if (atomic_load_explicit(&x->v->request, memory_order_acquire) & VCPU_REQ_CODE)
                drop_written(b);
            if (!interp_ready(x))
                return;
        }
        b->stats.steps++;
        b->stepped[interp_step(x)].loop++;
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
    interp_enter(x, budget);
    if (setjmp(x->fault))
        interp_take_fault(x);
    run_loop(b);
    return x->exit;
}

// --- the engine -----------------------------------------------------------------------------------------------------------------

static const u64 samples[] = {0, 1, 0x80, 0x8000, 0x80000000u, 0x8000000000000000u, 0x123456789abcdef1u, ~0ull};

// Status flags that come out different after `op` on the same operands when they were different before.
static u64 flags_kept(unsigned op, unsigned size, u64 a, u64 b)
{
    u64 fl[2] = {0, X86_FL_STATUS};
    for (unsigned k = 0; k < 2; k++) {
        switch (op) {
        case 0: alu_shl(size, a, (u8)b, &fl[k]); break;
        case 1: alu_shr(size, a, (u8)b, &fl[k]); break;
        case 2: alu_sar(size, a, (u8)b, &fl[k]); break;
        default: alu_imul2(size, a, b, &fl[k]); break;
        }
    }
    return fl[0] ^ fl[1];
}

// Do AND, OR and XOR leave the flags that TEST leaves for the same result?
static bool logic_is_same(void)
{
    bool same = true;
    for (unsigned size = 4; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ARRAY_LEN(samples) * ARRAY_LEN(samples); i++) {
            u64 a = samples[i % ARRAY_LEN(samples)], b = samples[i / ARRAY_LEN(samples)];
            u64 fl[4] = {0, 0, 0, 0};
            alu_and(size, a, b, &fl[0]);
            alu_and(size, a & b, a & b, &fl[1]);
            same &= fl[0] == fl[1];
            alu_or(size, a, b, &fl[0]);
            alu_and(size, a | b, a | b, &fl[1]);
            same &= fl[0] == fl[1];
            alu_xor(size, a, b, &fl[2]);
            alu_and(size, a ^ b, a ^ b, &fl[3]);
            same &= fl[2] == fl[3];
        }
    }
    return same;
}

// What the host leaves in the flags that the manuals do not define.
static void study_host(struct bt *b)
{
    u64 shifts = 0, product = 0;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ARRAY_LEN(samples); i++) {
            for (unsigned n = 1; n < (size == 8 ? 64 : 32); n++) {
                for (unsigned op = 0; op < 3; op++)
                    shifts |= flags_kept(op, size, samples[i], n);
            }
            for (unsigned j = 0; j < ARRAY_LEN(samples) && size > 1; j++)
                product |= flags_kept(3, size, samples[i], samples[j]);
        }
    }
    b->logic_same = logic_is_same();
    b->shifts_clean = !shifts;
    b->imul_clean = !product;
    const struct host *h = b->in.v->machine->host;
    u64 before = __builtin_ia32_rdtsc(), tsc = h->ops->tsc ? h->ops->tsc(h->self) : 0;
    b->host_tsc = before <= tsc && tsc <= __builtin_ia32_rdtsc();
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
        return -12; // -ENOMEM
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
    study_host(b);
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
