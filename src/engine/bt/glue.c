// The code between C and translated code. It is emitted at the start of the code memory, so it has the context in reach as
// translated code has.
//
//   enter    save what C wants kept, load the guest's registers, jump to ctx.go
//   call     store the guest's registers, change to C's stack, call service(); back to where that says, or out
//   miss     store the guest's registers, call service_miss(); back to the probe with those loaded that C does not preserve, or on to `call`
//
// and, all in translated code's own surroundings,
//
//   far      a branch to another page was made under another execution key: is that page still there?
//   lookup   an indirect branch that cannot have the look-up inline
//   renew    the same as `far` for an entry of the jump table
//
// But for misses of the TLB, which are many and short, everything is loaded and stored each time: some forty moves, and the guest's
// state is where C expects it.
#include "engine/bt/translate.h"
#include "engine/bt/vecstate.h"

static const u8 kept[] = {X86_RBX, X86_RBP, X86_R12, X86_R13, X86_R14, X86_R15};
// Guest registers that are in the host's of the same number.
static const u8 same[] = {X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RBP, X86_RSI,
                          X86_RDI, X86_R8,  X86_R9,  X86_R12, X86_R13, X86_R14};

// Those of them that C may destroy, and those that it preserves.
static const u8 lost[] = {X86_RAX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_R8, X86_R9};
static const u8 preserved[] = {X86_RBX, X86_RBP, X86_R12, X86_R13, X86_R14};

static void emit_push(struct emit *e, unsigned reg)
{
    if (reg & 8)
        emit1(e, 0x41);
    emit1(e, 0x50 | (reg & 7));
}

static void emit_pop(struct emit *e, unsigned reg)
{
    if (reg & 8)
        emit1(e, 0x41);
    emit1(e, 0x58 | (reg & 7));
}

// HOST_T0: where they are. Opcode 89 stores, 8b loads.
static void emit_gprs(struct emit *e, unsigned opcode, const u8 *reg, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        emit_rm(e, 8, opcode, reg[i], HOST_T0, 8 * reg[i]);
}

// rax is free; flags from the slot, then all registers, r10 last used, and away.
static void emit_go(struct emit *e, struct bt_ctx *c)
{
    emit_rip(e, 4, 0x1b7, X86_RAX, &c->slot, 0); // movzx eax, word
    EMIT(e, 0x04, 0x7f, 0x9e);                   // add al, 0x7f; sahf
    emit_load(e, 8, HOST_T0, &c->gpr);
    emit_gprs(e, 0x8b, same, ARRAY_LEN(same));
    emit_rm(e, 8, 0x8b, HOST_SP, HOST_T0, 8 * X86_RSP);
    emit_load(e, 8, X86_RSP, &c->sp);
    emit_rip(e, 4, 0xff, 4, &c->go, 0); // jmp [go]
}

static void emit_enter(struct emit *e, struct bt_ctx *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++)
        emit_push(e, kept[i]);
    emit_alu_imm(e, 8, 5, X86_RSP, 8); // so that calls find the stack aligned
    emit_store(e, 8, X86_RSP, &c->c_sp);
    emit_go(e, c);
}

static void emit_call_c(struct emit *e, struct bt *b, const void *fn)
{
    emit_mov_imm(e, X86_RDI, (u64)b);
    emit_mov_imm(e, X86_RAX, (u64)fn);
    EMIT(e, 0xff, 0xd0);       // call rax
    EMIT(e, 0x48, 0x85, 0xc0); // test rax, rax
}

// To C's stack.
static void emit_leave_stack(struct emit *e, struct bt_ctx *c)
{
    emit_store(e, 8, X86_RSP, &c->sp);
    emit_load(e, 8, X86_RSP, &c->c_sp);
}

// Flags are in the slot already; ctx.why, ctx.site and so on are set. Returns where to enter when registers and stack have been
// seen to.
static u64 emit_call_service(struct emit *e, struct bt *b)
{
    struct bt_ctx *c = b->ctx;
    emit_load(e, 8, HOST_T0, &c->gpr);
    emit_gprs(e, 0x89, same, ARRAY_LEN(same));
    emit_rm(e, 8, 0x89, HOST_SP, HOST_T0, 8 * X86_RSP);
    emit_leave_stack(e, c);
    u64 saved = emit_here(e);
    vecstate_emit_save(b, e);
    emit_call_c(e, b, &service);
    u8 *out = emit_jcc(e, CC_E);
    emit_store(e, 8, X86_RAX, &c->go);
    vecstate_emit_restore(b, e);
    emit_go(e, c);
    emit_patch(e, out, emit_here(e));
    emit_alu_imm(e, 8, 0, X86_RSP, 8);
    for (unsigned i = ARRAY_LEN(kept); i-- > 0;)
        emit_pop(e, kept[i]);
    emit1(e, 0xc3);
    return saved;
}

// No flags are in the host's: probes destroy them. ctx.site and ctx.addr are set; `fn` says why it leaves the rest to service(). `all`: it may change
// any register.
static void emit_light(struct emit *e, struct bt *b, const void *fn, bool all, u64 saved)
{
    struct bt_ctx *c = b->ctx;
    emit_load(e, 8, HOST_T0, &c->gpr);
    emit_gprs(e, 0x89, lost, ARRAY_LEN(lost));
    emit_gprs(e, 0x89, preserved, ARRAY_LEN(preserved)); // for service()
    emit_rm(e, 8, 0x89, HOST_SP, HOST_T0, 8 * X86_RSP);
    emit_leave_stack(e, c);
    emit_call_c(e, b, fn);
    u8 *other = emit_jcc(e, CC_E);
    emit_mov_rr(e, 8, HOST_T1, X86_RAX);
    emit_load(e, 8, HOST_T0, &c->gpr);
    emit_gprs(e, 0x8b, lost, ARRAY_LEN(lost));
    if (all) {
        emit_gprs(e, 0x8b, preserved, ARRAY_LEN(preserved));
        emit_rm(e, 8, 0x8b, HOST_SP, HOST_T0, 8 * X86_RSP);
    }
    emit_load(e, 8, X86_RSP, &c->sp);
    EMIT(e, 0x41, 0xff, 0xe3); // jmp r11
    emit_patch(e, other, saved);
}

static void emit_save_flags(struct emit *e, struct bt_ctx *c)
{
    emit_store(e, 8, X86_RAX, &c->scratch);
    EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); // lahf; seto al
    emit_store(e, 2, X86_RAX, &c->slot);
    emit_load(e, 8, X86_RAX, &c->scratch);
}

// --- ways into other pages ------------------------------------------------------------------------------------------------------

// Into `reg`: bt_key().
static void emit_key(struct emit *e, struct bt *b, bool user, unsigned reg)
{
    emit_load(e, 4, reg, user ? &b->ctx->key_user : &b->ctx->key_super);
    if (!user) {
        emit_rr(e, 8, 0xc1, 4, reg); // shl
        emit1(e, 32);
    }
}

void glue_emit_doorbell(struct emit *e, struct bt *b)
{
    emit_rip(e, 4, 0x83, 7, (const void *)&b->ctx->doorbell, 1); // cmp dword [doorbell], 0
    emit1(e, 0);
}

static void patch_all(struct emit *e, u8 *const *from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        emit_patch(e, from[i], emit_here(e));
}

// Is the linear page in HOST_T0 in the host page in `page`, and executable? NE at one of two jumps: no. Destroys HOST_T1.
static void emit_where(struct emit *e, struct bt *b, unsigned page, u8 *fail[2])
{
    mem_emit_entry(e, b);
    emit_rm(e, 8, 0x3b, page, HOST_T1, offsetof(struct tlb_entry, page));
    fail[0] = emit_jcc(e, CC_NE);
    emit_rip(e, 8, 0x2b, HOST_T1, &b->ctx->tlb, 0); // sub
    EMIT(e, 0x41, 0xc1, 0xeb, 2);                   // shr r11d, 2: from entries to tags
    emit_rip(e, 8, 0x03, HOST_T1, &b->ctx->tlb, 0);
    emit_rm(e, 8, 0x3b, HOST_T0, HOST_T1, offsetof(struct tlb_table, tag_x));
    fail[1] = emit_jcc(e, CC_NE);
}

// The struct bt_far whose distance is in ctx.site does not hold as things are now. See whether its page is where it was, and make it hold
// then: ZF. Flags and r10 are destroyed, nothing else.
static void emit_far(struct emit *e, struct bt *b, bool wide, bool user)
{
    struct bt_ctx *c = b->ctx;
    u8 *fail[3];
    emit_store(e, 8, X86_RAX, &c->tmp[0]);
    emit_store(e, 8, X86_RCX, &c->tmp[1]);
    emit_store(e, 8, HOST_T1, &c->tmp[2]);
    emit_load(e, 4, X86_RAX, &c->site);
    emit_rip(e, 8, 0x8d, HOST_T1, c, 0); // lea: where distances count from
    emit_rr(e, 8, 0x03, X86_RAX, HOST_T1);
    emit_rm(e, 8, 0x63, HOST_T0, X86_RAX, offsetof(struct bt_far, disp)); // movsxd
    emit_rip(e, 8, 0x03, HOST_T0, &c->page_base, 0);
    if (!wide)
        emit_mov_rr(e, 4, HOST_T0, HOST_T0);
    emit_rm(e, 8, 0x8b, X86_RCX, X86_RAX, offsetof(struct bt_far, page));
    emit_where(e, b, X86_RCX, fail);
    emit_key(e, b, user, X86_RCX);
    glue_emit_doorbell(e, b);
    fail[2] = emit_jcc(e, CC_NE);
    emit_rm(e, 8, 0x89, X86_RCX, X86_RAX, offsetof(struct bt_far, key));
    emit_load(e, 8, X86_RCX, &c->page_base);
    emit_rm(e, 8, 0x89, X86_RCX, X86_RAX, offsetof(struct bt_far, base));
    patch_all(e, fail, ARRAY_LEN(fail));
    emit_load(e, 8, HOST_T1, &c->tmp[2]);
    emit_load(e, 8, X86_RCX, &c->tmp[1]);
    emit_load(e, 8, X86_RAX, &c->tmp[0]);
    emit1(e, 0xc3);
}

// Into the block of the jump table's entry at HOST_T1, for ctx.target.
static void emit_enter_entry(struct emit *e, struct bt_ctx *c)
{
    emit_load(e, 8, HOST_T0, &c->target);
    emit_alu_imm(e, 8, 4, HOST_T0, -4096);
    emit_store(e, 8, HOST_T0, &c->page_base);
    emit_rm(e, 4, 0xff, 4, HOST_T1, offsetof(struct bt_jump, code)); // jmp
}

void glue_emit_jump(struct emit *e, struct bt *b, bool wide, bool user, u8 *miss[2])
{
    emit_lea(e, 4, HOST_T1, HOST_T0, HOST_T0, 3, 0); // bt_jump_slot()
    emit_alu_imm(e, 4, 4, HOST_T1, (BT_JUMPS - 1) << 5);
    emit_rip(e, 8, 0x03, HOST_T1, &b->ctx->jump[!wide], 0);
    emit_rm(e, 8, 0x3b, HOST_T0, HOST_T1, offsetof(struct bt_jump, rip));
    miss[0] = emit_jcc(e, CC_NE);
    emit_load(e, 8, HOST_T0, bt_key_at(b, user));
    emit_rm(e, 8, 0x3b, HOST_T0, HOST_T1, offsetof(struct bt_jump, key));
    miss[1] = emit_jcc(e, CC_NE);
    emit_enter_entry(e, b->ctx);
}

// Where those jumps lead: see whether the entry can be made to hold.
static void emit_renew(struct emit *e, struct bt *b, bool wide, bool user)
{
    struct bt_ctx *c = b->ctx;
    const unsigned mode = (wide ? ISA_MODE_64 : ISA_MODE_32) | BLOCK_FLAT | (user ? BLOCK_USER : 0);
    u8 *fail[4];
    emit_load(e, 8, HOST_T0, &c->target);
    emit_rm(e, 8, 0x3b, HOST_T0, HOST_T1, offsetof(struct bt_jump, rip));
    emit_jcc_to(e, CC_NE, b->glue[BT_LOOKUP]);
    emit_store(e, 8, X86_RAX, &c->tmp[0]);
    emit_store(e, 8, HOST_T1, &c->tmp[1]);
    emit_rm(e, 8, 0x8b, X86_RAX, HOST_T1, offsetof(struct bt_jump, block));
    emit_rm(e, 4, 0x80, 7, X86_RAX, offsetof(struct bt_block, mode)); // cmp byte
    emit1(e, mode);
    fail[0] = emit_jcc(e, CC_NE);
    emit_rm(e, 8, 0x8b, X86_RAX, X86_RAX, offsetof(struct bt_block, page));
    emit_alu_imm(e, 8, 4, HOST_T0, -4096);
    emit_where(e, b, X86_RAX, fail + 1);
    glue_emit_doorbell(e, b);
    fail[3] = emit_jcc(e, CC_NE);
    emit_load(e, 8, HOST_T1, &c->tmp[1]);
    emit_key(e, b, user, X86_RAX);
    emit_rm(e, 8, 0x89, X86_RAX, HOST_T1, offsetof(struct bt_jump, key));
    emit_load(e, 8, X86_RAX, &c->tmp[0]);
    emit_enter_entry(e, c);
    patch_all(e, fail, ARRAY_LEN(fail));
    emit_load(e, 8, X86_RAX, &c->tmp[0]);
    emit_jmp_to(e, b->glue[BT_LOOKUP]);
}

static void emit_ways(struct emit *e, struct bt *b, bool wide, bool user)
{
    struct bt_ctx *c = b->ctx;
    unsigned n = bt_number(wide, user);
    u8 *miss[2];
    b->glue_far[n] = emit_here(e);
    emit_far(e, b, wide, user);
    b->glue_renew[n] = emit_here(e);
    emit_renew(e, b, wide, user);
    // A RET whose host return address leads nowhere: the private stack is empty.
    b->glue_ret[n] = emit_here(e);
    emit_load(e, 8, X86_RSP, &c->sp_top[user]);
    b->glue_lookup[n] = emit_here(e);
    emit_store(e, 8, HOST_T0, &c->target);
    glue_emit_jump(e, b, wide, user, miss);
    emit_patch(e, miss[0], b->glue_renew[n]);
    emit_patch(e, miss[1], b->glue_renew[n]);
}

// The address of a site or link is in r11d.
u32 glue_emit(struct bt *b)
{
    const void *const light[BT_WHYS] = {
        [BT_MISS] = &service_miss, [BT_PORT] = &service_port, [BT_LIGHT] = &service_light, [BT_ADAPT] = &adapt_serve};
    struct host_code *m = &b->cache.mem;
    struct emit e = {.p = m->write, .end = m->write + 4096, .to_exec = (u64)m->exec - (u64)m->write};
    vecstate_emit(b, &e);
    b->glue_enter = emit_here(&e);
    emit_enter(&e, b->ctx);
    u64 call = emit_here(&e);
    u64 saved = emit_call_service(&e, b);
    for (unsigned why = 0; why < BT_WHYS; why++) {
        b->glue[why] = emit_here(&e);
        if (why != BT_LOOKUP)
            emit_store(&e, 8, HOST_T1, &b->ctx->site);
        if (why == BT_MISS || why == BT_ADAPT)
            emit_store(&e, 8, HOST_T0, &b->ctx->addr);
        if (light[why] && !BT_VEC_EAGER) {
            emit_light(&e, b, light[why], why == BT_ADAPT, saved);
            continue;
        }
        emit_store_imm(&e, &b->ctx->why, why == BT_PORT || why == BT_LIGHT ? BT_STEP : why);
        emit_jmp_to(&e, call);
    }
    b->glue_bounce = emit_here(&e);
    emit_load(&e, 8, HOST_T0, &b->ctx->bounce_at);
    emit_rip(&e, 4, 0xff, 4, &b->ctx->bounce_to, 0); // jmp
    b->glue_link_host = emit_here(&e);
    emit_save_flags(&e, b->ctx);
    emit_jmp_to(&e, b->glue[BT_LINK]);
    b->glue_step_host = emit_here(&e);
    emit_save_flags(&e, b->ctx);
    emit_jmp_to(&e, b->glue[BT_STEP]);
    for (unsigned user = 0; user < 2; user++) {
        emit_ways(&e, b, true, user);
        emit_ways(&e, b, false, user);
    }
    if (e.p > e.end)
        return 0;
    return (u32)(e.p - m->write + 63) & ~63u;
}
