// Sites that keep missing the TLB for a reason that will not go away: a device is there, the operand crosses into another page, the page
// has code. The interpreter does these right, at the price of everything that it takes to get there and back.
//
// Such sites are counted, in a table of limited size, by reason and with the time. One that has been slow again and again becomes
// *special*: its tail, which its probe jumps to when it misses, is patched to lead here by a way that is hardly longer than that to
// service_miss(), with what there is to know about the instruction worked out before. The probe itself stays, so where the site
// meets plain memory it is as fast as any.
//
//   device     a register or an immediate is moved: the device is called from here
//   crossing   a read finds both parts, and the instruction goes on with a copy of its operand (glue_bounce); a move to memory writes
//              both parts, when both are known to be there
//   code       a move to memory that changes no byte that a block was made of: nobody need hear of it
//
// Whatever is not like that goes the common way from here. Every special way ends as the interpreter does: what has become due meanwhile
// is seen to before the next instruction.
//
// A special site that meets nothing but plain pages goes back, and takes longer each time to become special again, up to a limit.
//
// Writes to page tables need nothing of the kind: they are plain writes, and nobody looks before the guest says so.
#include "engine/bt/adapt.h"

#include "engine/bt/translate.h"
#include "engine/bt/vecstate.h"
#include "isa/alu.h"

#define WITHIN 100000000u // cycles from one slow access to the next, for both to be of one streak
#define AFTER 8           // accesses, doubled each time that it has gone back ...
#define REVERTS 4         // ... at most so often
#define CALM 48           // misses in a row that were plain ones
#define PORTS 64          // accesses to a port are entered in the table so many at a time

// --- the table ------------------------------------------------------------------------------------------------------------------

// Where the instruction of a site is in the host, and how far behind its block's start: the block may be made anew.
static u64 place_of(const struct bt_site *s)
{
    const struct bt_block *k = bt_site_block(s);
    return (k->page + s->off) | (u64)(u16)(s->off - k->off) << 48;
}

static struct adapt_site *set_of(struct bt *b, u64 place)
{
    return &b->adapt.site[(place * 0x9e3779b97f4a7c15ull >> 57) * ADAPT_WAYS];
}

_Static_assert(ADAPT_SETS == 1u << (64 - 57), "set_of() shifts by it");

static void patch(struct bt *b, const struct adapt_site *a, u32 record, u64 glue)
{
    const struct host_code *m = &b->cache.mem;
    const struct emit e = {.to_exec = (u64)m->exec - (u64)m->write};
    u8 *jump = m->write + a->jump;
    memcpy(jump - 5, &record, 4); // mov r11d, record; jmp glue
    emit_patch(&e, jump, glue);
}

static u64 total(const struct adapt_site *a)
{
    u64 n = 0;
    for (unsigned i = 0; i < ADAPT_REASONS; i++)
        n += a->count[i];
    return n;
}

static void go_back(struct bt *b, struct adapt_site *a)
{
    patch(b, a, a->site, b->glue[BT_MISS]);
    a->state = ADAPT_COUNTED;
    a->streak = 0;
}

// Nobody looks at the time when a site is served.
static void look_at_time(struct adapt_site *a, u64 now)
{
    u64 n = total(a);
    if (a->state == ADAPT_SPECIAL && a->seen != n) {
        a->seen = n;
        a->last = now;
    }
}

// When what is there has been slow; 0: it is no more, or it was one time.
static u64 last_of(const struct bt *b, const struct adapt_site *a)
{
    bool dead = !a->site || !bt_site_block(bt_near(b, a->site))->page;
    return dead || (a->state == ADAPT_COUNTED && a->streak < 2) ? 0 : a->last;
}

// The record of a site, which may be new, or left of what was in its place before; NULL: all that it could have are in use. Of those that are
// not, the one that was slow least often makes room: the others are worth knowing of.
static struct adapt_site *record_of(struct bt *b, const struct bt_site *s, u64 now)
{
    u64 place = place_of(s);
    u32 site = bt_distance(b, s);
    struct adapt_site *set = set_of(b, place), *best = NULL, *old = NULL;
    for (unsigned i = 0; i < ADAPT_WAYS; i++) {
        struct adapt_site *a = &set[i];
        if (a->site == site)
            return a;
        look_at_time(a, now);
        if (!a->site && a->place == place && a->op == s->op)
            old = a;
        if (now - last_of(b, a) >= WITHIN && (!best || total(a) < total(best)))
            best = a;
    }
    if (old) {
        old->site = site;
        return old;
    }
    if (!best)
        return NULL;
    if (best->state == ADAPT_SPECIAL)
        go_back(b, best);
    b->adapt.displaced += best->site != 0;
    *best = (struct adapt_site){.site = site, .place = place, .rip = b->ctx->page_base + s->off, .op = s->op};
    return best;
}

void adapt_forget(struct bt *b, u32 lo, u32 hi)
{
    for (unsigned i = 0; i < ARRAY_LEN(b->adapt.site); i++) {
        struct adapt_site *a = &b->adapt.site[i];
        if (a->site - lo >= hi - lo)
            continue;
        a->site = 0;
        a->state = ADAPT_COUNTED;
    }
}

// --- becoming special -----------------------------------------------------------------------------------------------------------

// The jump of a site's tail; 0: it is not where it should be.
static u32 tail_jump(const struct bt *b, const struct bt_site *s)
{
    const u8 *code = b->cache.mem.write, *from = code + bt_site_block(s)->code + s->miss;
    u32 record = bt_distance(b, s), found;
    i32 rel;
    memcpy(&rel, from, 4);
    for (unsigned i = 3; i <= 5; i++) { // behind the ADD that undoes the probe's SUB
        const u8 *mov = from + 4 + rel + i;
        memcpy(&found, mov + 2, 4);
        if (mov[0] == 0x41 && mov[1] == 0xbb && found == record && mov[6] == 0xe9)
            return (u32)(mov + 7 - code);
    }
    return 0;
}

// The instruction of a site once more. Its bytes may have changed, which its block will hear of.
static bool decode(const struct bt_block *k, const struct bt_site *s, const struct bt *b, struct insn *in)
{
    u8 bytes[ISA_MAX_LEN] = {0};
    if (s->off + s->len > MEM_PAGE_SIZE)
        return false;
    memcpy(bytes, (const u8 *)k->page + s->off, s->len);
    return isa_decode(bytes, s->len, k->mode & 3, b->in.isa_options, in) == ISA_OK && in->op == s->op &&
           in->len == s->len;
}

static bool is_register(const struct isa_operand *o)
{
    return o->kind == ISA_OPND_GPR || o->kind == ISA_OPND_GPR8H;
}

static enum adapt_move move_of(const struct insn *in)
{
    if (isa_forms[in->form].cls > ISA_CLASS_MEM || in->nopnd != 2)
        return ADAPT_OTHER;
    const struct isa_operand *to = &in->opnd[0], *from = &in->opnd[1];
    if (in->op == ISA_OP_MOV && to->kind == ISA_OPND_MEM && from->kind == ISA_OPND_IMM)
        return ADAPT_STORE_IMM;
    if (in->op == ISA_OP_MOV && to->kind == ISA_OPND_MEM && is_register(from))
        return ADAPT_STORE;
    if (!is_register(to) || from->kind != ISA_OPND_MEM)
        return ADAPT_OTHER;
    switch (in->op) {
    case ISA_OP_MOV:
    case ISA_OP_MOVZX: return ADAPT_LOAD;
    case ISA_OP_MOVSX: return ADAPT_LOAD_SIGNED;
    case ISA_OP_MOVSXD: return to->size > 2 ? ADAPT_LOAD_SIGNED : ADAPT_OTHER;
    default: return ADAPT_OTHER;
    }
}

static void study(const struct bt *b, const struct bt_site *s, const struct insn *in, struct adapt_site *a)
{
    const struct bt_form *f = &b->form[in->form];
    int mem = isa_memory_operand(in);
    a->move = ADAPT_OTHER;
    a->bounces = false;
    if (mem < 0 || in->opnd[mem].size != s->size || f->is & FORM_STRING || (f->is & FORM_BITS && in->op != ISA_OP_MOV))
        return;
    a->bounces = s->access == SITE_READ && !s->align && s->size <= ADAPT_BOUNCE &&
                 (f->emitter == TR_IDENT || f->emitter == TR_VECTOR || f->emitter == TR_X87);
    if (f->emitter != TR_IDENT)
        return;
    a->move = (u8)move_of(in);
    bool stores = a->move >= ADAPT_STORE;
    const struct isa_operand *o = &in->opnd[stores];
    a->reg = o->reg;
    a->reg_size = (u8)o->size;
    a->high = o->kind == ISA_OPND_GPR8H;
    a->imm = in->imm;
    if (stores != (s->access == SITE_WRITE))
        a->move = ADAPT_OTHER;
}

// Is there a way for its reason?
static bool helps(const struct adapt_site *a)
{
    switch ((enum adapt_reason)a->reason) {
    case ADAPT_DEVICE: return a->move != ADAPT_OTHER;
    case ADAPT_CROSSING: return a->bounces || a->move >= ADAPT_STORE;
    case ADAPT_CODE: return a->move >= ADAPT_STORE;
    default: return false;
    }
}

void adapt_specialise(struct bt *b, const struct bt_site *s, struct adapt_site *a)
{
    const struct bt_block *k = bt_site_block(s);
    struct insn in;
    a->streak = 0;
    if (!k->page || keeper_pending(b->in.v))
        return;
    a->state = ADAPT_NO_WAY;
    if (a->reason >= ADAPT_PORT || s->shared || s->upgraded || a->reverts > REVERTS || !decode(k, s, b, &in) ||
        (!s->resume && isa_forms[in.form].cls > ISA_CLASS_MEM))
        return;
    study(b, s, &in, a);
    a->jump = helps(a) ? tail_jump(b, s) : 0;
    if (!a->jump)
        return;
    a->size = s->size;
    a->vec = s->vec;
    a->hit = bt_exec(b, k->code + mem_hit(b, s, &a->addend));
    a->resume = bt_exec(b, k->code + s->resume);
    a->state = ADAPT_SPECIAL;
    a->calm = 0;
    b->adapt.specialised++;
    patch(b, a, (u32)(a - b->adapt.site), b->glue[BT_ADAPT]);
}

static struct adapt_site *note(struct bt *b, const struct bt_site *s, enum adapt_reason why, u64 n)
{
    u64 now = __builtin_ia32_rdtsc();
    struct adapt_site *a = bt_site_block(s)->page ? record_of(b, s, now) : NULL;
    if (!a)
        return NULL;
    a->reason = (u8)why;
    a->count[why] += n;
    a->streak = now - a->last < WITHIN ? a->streak + (a->streak < 255) : 1;
    a->last = now;
    return a;
}

void adapt_slow(struct bt *b, const struct bt_site *s, enum adapt_reason why)
{
    struct adapt_site *a = note(b, s, why, 1);
    b->adapt.slow[why]++;
    if (a && a->state == ADAPT_COUNTED && a->streak >= AFTER << a->reverts && b->opts & BT_OPT_ADAPT) {
        vecstate_park(b);
        adapt_specialise(b, s, a);
    }
}

void adapt_port(struct bt *b, const struct bt_site *s)
{
    if (UNLIKELY(++b->adapt.served[ADAPT_PORT] % PORTS == 0))
        note(b, s, ADAPT_PORT, PORTS);
}

// --- serving --------------------------------------------------------------------------------------------------------------------

static void loaded(struct bt *b, const struct adapt_site *a, u64 val)
{
    u64 *r = bt_reg(b, a->reg);
    if (a->move == ADAPT_LOAD_SIGNED)
        val = sign_extend(val, a->size);
    if (a->high)
        *r = (*r & ~0xff00ull) | (val & 0xff) << 8;
    else if (a->reg_size >= 4)
        *r = val & size_mask(a->reg_size);
    else
        *r = (*r & ~size_mask(a->reg_size)) | (val & size_mask(a->reg_size));
}

static u64 to_store(struct bt *b, const struct adapt_site *a)
{
    if (a->move == ADAPT_STORE_IMM)
        return (u64)a->imm;
    u64 r = *bt_reg(b, a->reg);
    return a->high ? r >> 8 : r;
}

static void was_slow(struct bt *b, struct adapt_site *a, enum adapt_reason why)
{
    a->count[why]++;
    a->reason = (u8)why;
    a->calm = 0;
    b->adapt.served[why]++;
}

// It is for service() to do, which finds what it needs as after service_miss().
static u64 common_way(struct bt *b, u64 *outcome)
{
    b->missed.good = b->missed.forbidden = false;
    b->missed.outcome = outcome;
    return 0;
}

// Flags that follow from registers are worked out before one of them changes. A move leaves them alone, whoever looks.
static void keep_flags(struct bt *b, const struct bt_site *s)
{
    struct cpu *c = b->in.c;
    if (!s->recipe.kind)
        return;
    alu_flags_unpack(&c->rflags, (u16)b->ctx->slot);
    service_follow_recipe(b, &s->recipe);
    b->ctx->slot = alu_flags_pack(c->rflags);
}

// Done but for the register that is loaded: to the next instruction, unless something is due before it.
static u64 done(struct bt *b, const struct adapt_site *a)
{
    b->ctx->why = BT_AFTER;
    if (LIKELY(bt_undisturbed(b) && (!a->vec || vecstate_load(b, a->vec))))
        return a->resume;
    keep_flags(b, bt_near(b, a->site));
    return 0;
}

// Devices may look at the exact time, and logs and breakpoints are the interpreter's.
static u64 device(struct bt *b, struct adapt_site *a, gpa phys)
{
    const struct interp *x = &b->in;
    struct mem *mem = &x->v->machine->mem;
    if (UNLIKELY(a->move == ADAPT_OTHER || b->counting || x->debug_on || x->trace))
        return common_way(b, &b->stats.devices);
    was_slow(b, a, ADAPT_DEVICE);
    vecstate_park(b);
    if (a->move >= ADAPT_STORE) {
        mem_cpu_store(mem, x->v->id, phys, a->size, to_store(b, a));
        return done(b, a);
    }
    u64 val = mem_cpu_load(mem, x->v->id, phys, a->size);
    u64 go = done(b, a);
    loaded(b, a, val);
    return go;
}

// Host address of one part of an access, or 0: it is not plain memory, or there is a fault.
static hva part(struct bt *b, gva lin, bool write)
{
    struct vcpu *v = b->in.v;
    struct mmu_fault f;
    hva h = write ? tlb_write(&v->tlb, b->in.view, lin, 1) : tlb_read(&v->tlb, b->in.view, lin, 1);
    gpa phys;
    if (UNLIKELY(!h) && !mmu_fill(v, lin, write ? MMU_WRITE : MMU_READ, b->in.view, &h, &phys, &f))
        return 0;
    return h;
}

// memcpy() uses vector registers.
static void copy(u8 *to, const u8 *from, unsigned n)
{
    unsigned i = 0;
    for (; i + 8 <= n; i += 8)
        __builtin_memcpy(to + i, from + i, 8);
    for (; i < n; i++)
        *(volatile u8 *)(to + i) = from[i];
}

// The two parts are in different pages: looking for one leaves the other alone.
static u64 crossing(struct bt *b, struct adapt_site *a, gva lin)
{
    bool write = a->move >= ADAPT_STORE;
    unsigned first = 4096 - (unsigned)(lin & 4095), size = a->size;
    gva behind = bt_mode_64(b->mode) ? lin + first : (u32)(lin + first);
    if (!(write || a->bounces) || !gva_canonical(lin) || !gva_canonical(lin + size - 1))
        return common_way(b, &b->stats.crossings);
    hva lo = part(b, lin, write), hi = lo ? part(b, behind, write) : 0;
    bt_take_keys(b);
    if (!hi || keeper_pending(b->in.v))
        return common_way(b, &b->stats.crossings);
    was_slow(b, a, ADAPT_CROSSING);
    if (write) {
        u64 val = to_store(b, a);
        copy((u8 *)lo, (const u8 *)&val, first);
        val >>= first * 8;
        copy((u8 *)hi, (const u8 *)&val, size - first);
        return done(b, a);
    }
    if (a->vec && !vecstate_load(b, a->vec))
        return common_way(b, &b->stats.crossings);
    copy(b->ctx->bounce, (const u8 *)lo, first);
    copy(b->ctx->bounce + first, (const u8 *)hi, size - first);
    b->ctx->bounce_to = a->hit;
    b->ctx->bounce_at = (u64)b->ctx->bounce - (a->addend ? lin : 0);
    return b->glue_bounce;
}

// A store to a page with code. Where no block was made of what it changes, no engine has to hear of it; there is one processor then. When
// there are no blocks left in the page it is told all the same, and ceases to be one with code.
static u64 code(struct bt *b, struct adapt_site *a, gpa phys)
{
    struct vcpu *v = b->in.v;
    struct mem *mem = &v->machine->mem;
    u8 *host = mem_ptr(mem, phys, a->size, true);
    if (UNLIKELY(a->move < ADAPT_STORE || !host))
        return common_way(b, &b->stats.code_writes);
    was_slow(b, a, ADAPT_CODE);
    if (v->machine->vcpu_count == 1 &&
        codecache_spares(b, (hva)host & ~4095ull, (unsigned)((hva)host & 4095), a->size)) {
        mem_flag_set(mem_flags(mem, phys), MEM_PAGE_DIRTY);
        mem_host_store(host, a->size, to_store(b, a));
    } else {
        vecstate_park(b);
        mem_cpu_store(mem, v->id, phys, a->size, to_store(b, a));
    }
    return done(b, a);
}

// None of what made it special, as far as that is known without a look at the page tables.
static u64 other(struct bt *b, struct adapt_site *a)
{
    u64 go = service_miss(b);
    if (go) {
        if (++a->calm >= CALM) {
            a->reverts++;
            b->adapt.reverted++;
            go_back(b, a);
        }
        return go;
    }
    if (b->missed.outcome == &b->stats.code_writes)
        return code(b, a, b->missed.phys);
    return b->missed.outcome == &b->stats.devices ? device(b, a, b->missed.phys) : 0;
}

u64 adapt_serve(struct bt *b)
{
    struct adapt_site *a = &b->adapt.site[b->ctx->site];
    gva lin = b->ctx->addr;
    gpa phys;
    b->in.view = mmu_view(b->in.c);
    b->ctx->site = a->site;
    b->ctx->why = BT_MISS;
    if (UNLIKELY((lin & 4095) > 4096u - a->size))
        return crossing(b, a, lin);
    if (tlb_device(&b->in.v->tlb, b->in.view, lin, a->move >= ADAPT_STORE, &phys))
        return device(b, a, phys);
    return other(b, a);
}
