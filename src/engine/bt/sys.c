// System instructions that are short when nothing is unusual: flags of the processor, privilege, segment bases, time, control registers,
// SYSCALL and SYSRET.
//
// They work on struct cpu in place. What translated code knows of the processor's state besides, the TLB's view and the bases of FS and
// GS, is in the context and changes with it; what C code knows (interp.view), service() brings up to date. Each checks first, and has the
// interpreter run it where a check fails: another privilege level than usual, interrupts that may be taken after it, single-stepping.
//
// The shadow of STI needs no state: nothing polls between STI and the instruction after it, which is in the same block.
#include "engine/bt/translate.h"
#include "engine/bt/vecstate.h"

#define CPU(field) ((i32)offsetof(struct cpu, field))
#define CPU_REQUEST ((i32)offsetof(struct vcpu, request))
#define SLOT_OF 0 // in ctx.slot: OF ...
#define SLOT_AH 1 // ... and what LAHF gives
#define OF_BIT 11
#define FLAGS_POPPED (X86_FL_STATUS | X86_FL_DF | X86_FL_ID | X86_FL_NT | X86_FL_IF)
#define FLAGS_AWKWARD (X86_FL_TF | X86_FL_RF | X86_FL_VM | X86_FL_AC)

#define FLAT_CODE64 (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_R | X86_SEG_A | X86_SEG_G | X86_SEG_L)
#define FLAT_DATA (X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A | X86_SEG_G | X86_SEG_DB)
#define DPL3 (3u << X86_SEG_DPL_SHIFT)

_Static_assert(offsetof(struct cpu, gpr) == 0 && offsetof(struct vcpu, cpu) == 0, "ctx.gpr is the vCPU's address");

static bool reads_cr(const struct insn *in)
{
    return in->opnd[1].kind == ISA_OPND_CR && !(in->prefix & ISA_PFX_LOCK) && in->opnd[1].reg != 1 &&
           (in->opnd[1].reg <= 4 || in->opnd[1].reg == 8);
}

static bool writes_cr(const struct tr *t, const struct insn *in)
{
    return in->opnd[0].kind == ISA_OPND_CR && !(in->prefix & ISA_PFX_LOCK) &&
           (in->opnd[0].reg == 3 || (in->opnd[0].reg == 8 && t->wide));
}

static bool reads_dr(const struct insn *in)
{
    return in->opnd[1].kind == ISA_OPND_DR && (in->opnd[1].reg < 4 || in->opnd[1].reg == 6 || in->opnd[1].reg == 7);
}

// SS casts a shadow.
static bool loads_segment(const struct insn *in)
{
    unsigned reg = in->opnd[0].reg;
    return in->opnd[0].kind == ISA_OPND_SEG && (reg == X86_DS || reg == X86_ES || reg == X86_FS || reg == X86_GS);
}

bool sys_can(const struct tr *t, const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_CLI:
    case ISA_OP_STI:
    case ISA_OP_CLAC:
    case ISA_OP_STAC:
    case ISA_OP_IN:
    case ISA_OP_OUT: return true;
    case ISA_OP_PUSHF:
    case ISA_OP_POPF: return in->opsize == tr_natural(t);
    case ISA_OP_SWAPGS:
    case ISA_OP_RDFSBASE:
    case ISA_OP_RDGSBASE:
    case ISA_OP_WRFSBASE:
    case ISA_OP_WRGSBASE:
    case ISA_OP_SYSCALL: return t->wide;
    case ISA_OP_SYSRET: return t->wide && in->opsize == 8;
    case ISA_OP_RDTSC:
    case ISA_OP_RDTSCP: return t->b->host_tsc && !t->b->in.v->machine->clock.icount;
    case ISA_OP_MOV_CR: return reads_cr(in) || writes_cr(t, in);
    case ISA_OP_MOV_DR: return reads_dr(in);
    case ISA_OP_CLTS:
    case ISA_OP_CPUID:
    case ISA_OP_RDMSR:
    case ISA_OP_WRMSR: return true;
    case ISA_OP_INVLPG: return in->seg < X86_FS && (t->wide || in->seg != X86_CS);
    case ISA_OP_INVPCID: return mem_can(t, in);
    case ISA_OP_MOV: return loads_segment(in) && in->opnd[1].kind == ISA_OPND_GPR;
    case ISA_OP_POP: return loads_segment(in) && in->opsize == tr_natural(t);
    case ISA_OP_XSAVEC:
    case ISA_OP_XSAVES:
    case ISA_OP_XRSTORS: return t->wide && in->seg < X86_FS;
    case ISA_OP_XRSTOR:
        return t->wide && in->seg < X86_FS && cpu_model_offers(t->b->in.v->model, ISA_FEAT_XSAVEC); // reads the format
    default: return false;
    }
}

bool sys_ends(const struct insn *in)
{
    return in->op == ISA_OP_SYSCALL || in->op == ISA_OP_SYSRET;
}

// --- pieces -----------------------------------------------------------------------------------------------------------------

// To the interpreter, often enough for the instruction to be kept decoded.
static void step_if(struct tr *t, unsigned cc)
{
    tr_step_if(t, cc)->call = t->i + 1;
}

// HOST_T0: struct cpu.
static void get_cpu(struct tr *t)
{
    emit_load(&t->e, 8, HOST_T0, &t->b->ctx->gpr);
}

// The guest's status flags are in the slot, and nowhere else.
static void flags_in_slot(struct tr *t)
{
    flags_save(t);
    t->flags = FLAGS_SLOT;
}

static void begin(struct tr *t)
{
    flags_clobber(t);
    get_cpu(t);
}

// op dword [cpu + off], imm: 0 test, 1 or, 4 and
static void cpu_imm(struct tr *t, unsigned digit, i32 off, u32 imm)
{
    emit_rm(&t->e, 4, digit ? 0x81 : 0xf7, digit, HOST_T0, off);
    emit4(&t->e, imm);
}

static void cpu_load(struct tr *t, unsigned size, unsigned reg, i32 off)
{
    emit_rm(&t->e, size, 0x8b, reg, HOST_T0, off);
}

static void cpu_store(struct tr *t, unsigned size, unsigned reg, i32 off)
{
    emit_rm(&t->e, size, 0x89, reg, HOST_T0, off);
}

static void cpu_store_imm(struct tr *t, unsigned size, i32 off, u32 imm)
{
    emit_rm(&t->e, size, 0xc7, 0, HOST_T0, off);
    emit4(&t->e, imm);
}

static void need_cpl0(struct tr *t)
{
    emit_rm(&t->e, 4, 0x80, 7, HOST_T0, CPU(cpl)); // cmp byte, 0
    emit1(&t->e, 0);
    step_if(t, CC_NE);
}

// Nothing waits for interrupts to be enabled.
static void need_no_request(struct tr *t)
{
    emit_rm(&t->e, 4, 0x83, 7, HOST_T0, CPU_REQUEST); // cmp dword, 0
    emit1(&t->e, 0);
    step_if(t, CC_NE);
}

// CS may change: no x87 state whose instruction pointer goes with it is in the host's registers.
static void need_x87_parked(struct tr *t)
{
    emit_rip(&t->e, 4, 0xf6, 0, &t->b->ctx->vec, 1); // test byte, imm
    emit1(&t->e, VEC_X87);
    step_if(t, CC_NE);
}

static void need_bit(struct tr *t, i32 off, u32 bit)
{
    cpu_imm(t, 0, off, bit);
    step_if(t, CC_E);
}

static void and_imm(struct tr *t, unsigned reg, u32 imm)
{
    emit_rr(&t->e, 4, 0x81, 4, reg);
    emit4(&t->e, imm);
}

static void test_imm(struct tr *t, unsigned reg, u32 imm)
{
    emit_rr(&t->e, 4, 0xf7, 0, reg);
    emit4(&t->e, imm);
}

static void shift(struct tr *t, unsigned size, unsigned digit, unsigned reg, unsigned by) // 4 shl, 5 shr, 7 sar
{
    emit_rr(&t->e, size, 0xc1, digit, reg);
    emit1(&t->e, by);
}

static const void *slot_byte(const struct tr *t, unsigned n)
{
    return (const u8 *)&t->b->ctx->slot + n;
}

// RFLAGS of struct cpu with the status flags of the slot into HOST_T1; destroys `spare`.
static void get_flags(struct tr *t, unsigned spare)
{
    struct emit *e = &t->e;
    cpu_load(t, 4, HOST_T1, CPU(rflags));
    and_imm(t, HOST_T1, ~(u32)X86_FL_STATUS);
    emit_rip(e, 4, 0x1b6, spare, slot_byte(t, SLOT_AH), 0); // movzx
    and_imm(t, spare, X86_FL_STATUS & 0xff);
    emit_rr(e, 4, 0x0b, HOST_T1, spare);
    emit_rip(e, 4, 0x1b6, spare, slot_byte(t, SLOT_OF), 0);
    shift(t, 4, 4, spare, OF_BIT);
    emit_rr(e, 4, 0x0b, HOST_T1, spare);
}

// Status flags of HOST_T1, which is destroyed, into the slot.
static void put_status(struct tr *t)
{
    struct emit *e = &t->e;
    emit_rip(e, 4, 0x88, HOST_T1, slot_byte(t, SLOT_AH), 0);
    shift(t, 4, 5, HOST_T1, OF_BIT);
    and_imm(t, HOST_T1, 1);
    emit_rip(e, 4, 0x88, HOST_T1, slot_byte(t, SLOT_OF), 0);
}

static void set_view(struct tr *t, enum tlb_view view)
{
    emit_load(&t->e, 8, HOST_T1, &t->b->ctx->view[view]);
    emit_store(&t->e, 8, HOST_T1, &t->b->ctx->tlb);
}

// The value in `reg` is a canonical address; destroys HOST_T0.
static void need_canonical(struct tr *t, unsigned reg)
{
    emit_canonical(&t->e, reg, HOST_T0);
    step_if(t, CC_NE);
}

// --- flags ------------------------------------------------------------------------------------------------------------------

static void emit_cli(struct tr *t)
{
    begin(t);
    need_cpl0(t);
    cpu_imm(t, 4, CPU(rflags), ~(u32)X86_FL_IF);
}

static void emit_sti(struct tr *t)
{
    begin(t);
    need_cpl0(t);
    need_no_request(t);
    cpu_imm(t, 1, CPU(rflags), X86_FL_IF);
}

static void emit_ac(struct tr *t, bool on)
{
    begin(t);
    need_cpl0(t);
    cpu_imm(t, on ? 1 : 4, CPU(rflags), on ? X86_FL_AC : ~(u32)X86_FL_AC);
    set_view(t, on ? TLB_SUPER_AC : TLB_SUPER);
}

// Host address of the word at RSP + disp into HOST_T0.
static void probe_stack(struct tr *t, i32 disp, bool write)
{
    u64 retry = emit_here(&t->e);
    emit_lea(&t->e, tr_natural(t), HOST_T0, HOST_SP, X86_RSP, 0, disp);
    mem_probe(t, retry, tr_natural(t), write);
}

static void emit_pushf(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    unsigned size = tr_natural(t);
    flags_in_slot(t);
    probe_stack(t, -(i32)size, true);
    emit_store(e, 8, HOST_T0, &c->tmp[0]);
    emit_store(e, 8, X86_RAX, &c->tmp[1]);
    get_cpu(t);
    get_flags(t, X86_RAX); // VM and RF are clear
    emit_load(e, 8, X86_RAX, &c->tmp[1]);
    emit_load(e, 8, HOST_T0, &c->tmp[0]);
    emit_rm(e, size, 0x89, HOST_T1, HOST_T0, 0);
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, -(i32)size);
}

static void emit_popf(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    unsigned size = tr_natural(t);
    flags_clobber(t);
    probe_stack(t, 0, false);
    emit_rm(e, 4, 0x8b, HOST_T1, HOST_T0, 0);
    emit_store(e, 8, HOST_T1, &c->tmp[0]);
    get_cpu(t);
    emit_rm(e, 4, 0x33, HOST_T1, HOST_T0, CPU(rflags));
    test_imm(t, HOST_T1, X86_FL_TF | X86_FL_IOPL | X86_FL_AC);
    step_if(t, CC_NE);
    test_imm(t, HOST_T1, X86_FL_IF);
    u8 *same = emit_jcc(e, CC_E);
    need_cpl0(t);
    need_no_request(t);
    emit_patch(e, same, emit_here(e));
    emit_load(e, 8, HOST_T1, &c->tmp[0]);
    and_imm(t, HOST_T1, FLAGS_POPPED);
    cpu_imm(t, 4, CPU(rflags), ~(u32)FLAGS_POPPED);
    emit_rm(e, 4, 0x09, HOST_T1, HOST_T0, CPU(rflags)); // or
    put_status(t);
    emit_lea(e, size, HOST_SP, HOST_SP, X86_RSP, 0, (i32)size);
    t->flags = FLAGS_SLOT;
    t->recipe.kind = RECIPE_NONE;
}

// --- segment bases ----------------------------------------------------------------------------------------------------------

static void emit_swapgs(struct tr *t)
{
    struct emit *e = &t->e;
    u64 *base = &t->b->ctx->seg_base[1];
    begin(t);
    need_cpl0(t);
    emit_load(e, 8, HOST_T1, base); // the same as in struct cpu
    emit_store(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    cpu_load(t, 8, HOST_T1, CPU(msr.kernel_gs_base));
    emit_store(e, 8, HOST_T1, base);
    cpu_store(t, 8, HOST_T1, CPU(seg[X86_GS].base));
    emit_load(e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    cpu_store(t, 8, HOST_T1, CPU(msr.kernel_gs_base));
}

static i32 base_of(unsigned n)
{
    return n ? CPU(seg[X86_GS].base) : CPU(seg[X86_FS].base);
}

static void emit_read_base(struct tr *t, unsigned n)
{
    const struct isa_operand *o = &tr_in(t)->opnd[0];
    begin(t);
    need_bit(t, CPU(cr4), X86_CR4_FSGSBASE);
    cpu_load(t, o->size, HOST_T1, base_of(n));
    mem_put_reg(t, o->reg, HOST_T1);
}

static void emit_write_base(struct tr *t, unsigned n)
{
    const struct isa_operand *o = &tr_in(t)->opnd[0];
    struct emit *e = &t->e;
    begin(t);
    need_bit(t, CPU(cr4), X86_CR4_FSGSBASE);
    mem_get_reg(t, HOST_T1, o->reg);
    if (o->size == 4)
        emit_mov_rr(e, 4, HOST_T1, HOST_T1);
    else
        need_canonical(t, HOST_T1);
    get_cpu(t);
    cpu_store(t, 8, HOST_T1, base_of(n));
    emit_store(e, 8, HOST_T1, &t->b->ctx->seg_base[n]);
}

// --- time and control registers ---------------------------------------------------------------------------------------------

static void emit_rdtsc(struct tr *t, bool with_aux)
{
    struct emit *e = &t->e;
    begin(t);
    cpu_imm(t, 0, CPU(cr4), X86_CR4_TSD);
    step_if(t, CC_NE);
    if (with_aux)
        EMIT(e, 0x0f, 0x01, 0xf9);
    else
        EMIT(e, 0x0f, 0x31);
    shift(t, 8, 4, X86_RDX, 32);
    emit_rr(e, 8, 0x0b, X86_RAX, X86_RDX);
    emit_rm(e, 8, 0x03, X86_RAX, HOST_T0, CPU(msr.tsc_offset));
    emit_mov_rr(e, 8, X86_RDX, X86_RAX);
    shift(t, 8, 5, X86_RDX, 32);
    emit_mov_rr(e, 4, X86_RAX, X86_RAX);
    if (with_aux)
        cpu_load(t, 4, X86_RCX, CPU(msr.tsc_aux));
}

static void emit_read_cr(struct tr *t)
{
    static const i32 where[] = {CPU(cr0), 0, CPU(cr2), CPU(cr3), CPU(cr4), 0, 0, 0, CPU(cr8)};
    const struct insn *in = tr_in(t);
    begin(t);
    need_cpl0(t);
    cpu_load(t, tr_natural(t), HOST_T1, where[in->opnd[1].reg]);
    mem_put_reg(t, in->opnd[0].reg, HOST_T1);
}

static void emit_read_dr(struct tr *t)
{
    const struct insn *in = tr_in(t);
    unsigned n = in->opnd[1].reg;
    begin(t);
    need_cpl0(t);
    cpu_imm(t, 0, CPU(dr7), X86_DR7_GD);
    step_if(t, CC_NE);
    cpu_load(t, tr_natural(t), HOST_T1, n < 4 ? CPU(dr) + 8 * (i32)n : n == 6 ? CPU(dr6) : CPU(dr7));
    mem_put_reg(t, in->opnd[0].reg, HOST_T1);
}

static void emit_clts(struct tr *t)
{
    begin(t);
    need_cpl0(t);
    cpu_imm(t, 4, CPU(cr0), ~(u32)X86_CR0_TS);
}

// --- by light.c -------------------------------------------------------------------------------------------------------------

// What it needs is in ctx.tmp, the flags are in the slot.
static struct bt_site *call_light(struct tr *t)
{
    struct bt_site *s = tr_site(t);
    s->call = tr_now(t)->call ? t->i + 1 : 0;
    emit_mov_imm32(&t->e, HOST_T1, tr_distance(t, s));
    emit_jmp_to(&t->e, t->b->glue[BT_LIGHT]);
    s->retry = tr_offset(t, emit_here(&t->e));
    return s;
}

static void emit_load_segment(struct tr *t)
{
    const struct insn *in = tr_in(t);
    struct emit *e = &t->e;
    unsigned from = HOST_SP;
    flags_in_slot(t);
    if (in->op == ISA_OP_MOV)
        mem_get_reg(t, from = HOST_T1, in->opnd[1].reg);
    emit_store(e, 8, from, &t->b->ctx->tmp[0]);
    call_light(t)->access = SITE_SHAKES;
    if (in->op == ISA_OP_POP)
        emit_lea(e, in->opsize, HOST_SP, HOST_SP, X86_RSP, 0, in->opsize);
}

static void emit_cpuid(struct tr *t)
{
    flags_in_slot(t);
    call_light(t);
    emit_load(&t->e, 8, X86_RBX, &t->b->ctx->tmp[0]);
}

static void emit_msr(struct tr *t)
{
    flags_in_slot(t);
    call_light(t);
}

// CR8 is the local APIC's business: a lower value may set interrupts free. The same one does nothing, and neither does a higher one where no
// interrupt is due.
static void emit_higher_cr8(struct tr *t, u8 *done[2])
{
    struct emit *e = &t->e;
    u8 *other[4];
    get_cpu(t);
    emit_rm(e, 4, 0x80, 7, HOST_T0, CPU(cpl)); // cmp byte, 0
    emit1(e, 0);
    other[0] = emit_jcc(e, CC_NE);
    emit_mov_imm(e, HOST_T1, (u64)t->b->in.v->intc.tpr_low);
    emit_rm(e, 4, 0x80, 7, HOST_T1, 0); // cmp byte, 0
    emit1(e, 0);
    other[1] = emit_jcc(e, CC_NE);
    mem_get_reg(t, HOST_T1, tr_in(t)->opnd[1].reg);
    emit_rm(e, 8, 0x3b, HOST_T1, HOST_T0, CPU(cr8));
    done[0] = emit_jcc(e, CC_E);
    other[2] = emit_jcc(e, CC_B);
    emit_alu_imm(e, 8, 7, HOST_T1, 15);
    other[3] = emit_jcc(e, CC_A);
    emit_rm(e, 4, 0x83, 7, HOST_T0, CPU_REQUEST); // cmp dword, 0
    emit1(e, 0);
    u8 *due = emit_jcc(e, CC_NE);
    cpu_store(t, 8, HOST_T1, CPU(cr8));
    done[1] = emit_jmp(e);
    emit_patch(e, due, emit_here(e));
    for (unsigned i = 0; i < ARRAY_LEN(other); i++)
        emit_patch(e, other[i], emit_here(e));
}

static void emit_write_cr(struct tr *t)
{
    const struct insn *in = tr_in(t);
    bool quick = in->opnd[0].reg == 8 && t->b->in.v->intc.tpr_low;
    u8 *done[2];
    flags_in_slot(t);
    if (quick)
        emit_higher_cr8(t, done);
    mem_get_reg(t, HOST_T1, in->opnd[1].reg);
    if (!t->wide)
        emit_mov_rr(&t->e, 4, HOST_T1, HOST_T1);
    emit_store(&t->e, 8, HOST_T1, &t->b->ctx->tmp[0]);
    call_light(t);
    for (unsigned i = 0; i < ARRAY_LEN(done) && quick; i++)
        emit_patch(&t->e, done[i], emit_here(&t->e));
}

// INVLPG, XSAVE and the like, by address. Segments have no base.
static void emit_by_address(struct tr *t)
{
    flags_in_slot(t);
    mem_ea(t, HOST_T0);
    emit_store(&t->e, 8, HOST_T0, &t->b->ctx->tmp[0]);
    call_light(t);
}

static void emit_invpcid(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    flags_in_slot(t);
    get_cpu(t);
    need_cpl0(t);
    mem_operand(t, 16, false);
    for (unsigned i = 0; i < 2; i++) {
        emit_rm(e, 8, 0x8b, HOST_T1, HOST_T0, 8 * (i32)i);
        emit_store(e, 8, HOST_T1, &c->tmp[i]);
    }
    mem_get_reg(t, HOST_T1, tr_in(t)->opnd[0].reg);
    if (!t->wide)
        emit_mov_rr(e, 4, HOST_T1, HOST_T1);
    emit_store(e, 8, HOST_T1, &c->tmp[2]);
    call_light(t);
}

// --- ports ------------------------------------------------------------------------------------------------------------------

static void emit_port(struct tr *t)
{
    flags_in_slot(t);
    struct bt_site *s = tr_site(t);
    s->call = tr_now(t)->call ? t->i + 1 : 0;
    emit_mov_imm32(&t->e, HOST_T1, tr_distance(t, s));
    emit_jmp_to(&t->e, t->b->glue[BT_PORT]);
}

// --- SYSCALL, SYSRET --------------------------------------------------------------------------------------------------------

// A flat segment with the selector in HOST_T1.
static void set_flat(struct tr *t, unsigned seg, u32 attr)
{
    const i32 at = (i32)(offsetof(struct cpu, seg) + seg * sizeof(struct x86_seg));
    cpu_store(t, 2, HOST_T1, at + (i32)offsetof(struct x86_seg, sel));
    cpu_store_imm(t, 4, at + (i32)offsetof(struct x86_seg, attr), attr);
    cpu_store_imm(t, 4, at + (i32)offsetof(struct x86_seg, limit), ~0u);
    cpu_store_imm(t, 8, at + (i32)offsetof(struct x86_seg, base), 0);
}

static void set_cpl(struct tr *t, unsigned cpl)
{
    emit_rm(&t->e, 4, 0xc6, 0, HOST_T0, CPU(cpl)); // mov byte
    emit1(&t->e, cpl);
    set_view(t, cpl ? TLB_USER : TLB_SUPER);
}

// Go on to code of CPL 3, or not. Destroys HOST_T1.
static void use_stack_of(struct tr *t, bool user)
{
    struct bt_ctx *c = t->b->ctx;
    if (user == t->user)
        return;
    emit_load(&t->e, 8, HOST_T1, &c->sp_other);
    emit_store(&t->e, 8, X86_RSP, &c->sp_other);
    emit_mov_rr(&t->e, 8, X86_RSP, HOST_T1);
}

static void emit_syscall(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    flags_in_slot(t);
    get_cpu(t);
    need_bit(t, CPU(msr.efer), X86_EFER_SCE);
    need_x87_parked(t);
    // Flags as they will be, but for the status.
    cpu_load(t, 4, HOST_T1, CPU(msr.sfmask));
    emit_rr(e, 4, 0xf7, 2, HOST_T1); // not
    emit_rm(e, 4, 0x23, HOST_T1, HOST_T0, CPU(rflags));
    test_imm(t, HOST_T1, FLAGS_AWKWARD);
    step_if(t, CC_NE);
    get_flags(t, X86_RCX);
    emit_store(e, 8, HOST_T1, &c->r11);
    cpu_load(t, 4, X86_RCX, CPU(msr.sfmask));
    emit_rr(e, 4, 0xf7, 2, X86_RCX);
    emit_rr(e, 4, 0x23, HOST_T1, X86_RCX);
    emit_alu_imm(e, 4, 1, HOST_T1, X86_FL_RSVD1);
    cpu_store(t, 8, HOST_T1, CPU(rflags));
    put_status(t);
    emit_load(e, 8, X86_RCX, &c->page_base);
    emit_lea(e, 8, X86_RCX, X86_RCX, X86_RSP, 0, tr_now(t)->next);
    emit_rm(e, 4, 0x1b7, HOST_T1, HOST_T0, CPU(msr.star) + 4); // movzx word
    emit_alu_imm(e, 4, 0, HOST_T1, 8);
    set_flat(t, X86_SS, FLAT_DATA);
    emit_alu_imm(e, 4, 5, HOST_T1, 8);
    emit_alu_imm(e, 4, 4, HOST_T1, ~3);
    set_flat(t, X86_CS, FLAT_CODE64);
    set_cpl(t, 0);
    cpu_load(t, 8, HOST_T0, CPU(msr.lstar));
    emit_store(e, 8, HOST_T0, &c->target);
    t->flags = FLAGS_SLOT;
    use_stack_of(t, false);
    flow_lookup(t, false, NULL);
}

static void emit_sysret(struct tr *t)
{
    struct emit *e = &t->e;
    struct bt_ctx *c = t->b->ctx;
    bool amd = t->b->in.isa_options & ISA_OPT_AMD;
    flags_clobber(t);
    need_canonical(t, X86_RCX); // else vendors differ
    get_cpu(t);
    need_cpl0(t);
    need_bit(t, CPU(msr.efer), X86_EFER_SCE);
    need_no_request(t);
    need_x87_parked(t);
    emit_load(e, 8, HOST_T1, &c->r11);
    test_imm(t, HOST_T1, FLAGS_AWKWARD);
    step_if(t, CC_NE);
    and_imm(t, HOST_T1, X86_FL_ALL);
    emit_alu_imm(e, 4, 1, HOST_T1, X86_FL_RSVD1);
    cpu_store(t, 8, HOST_T1, CPU(rflags));
    put_status(t);
    emit_rm(e, 4, 0x1b7, HOST_T1, HOST_T0, CPU(msr.star) + 6);
    emit_alu_imm(e, 4, 0, HOST_T1, 8);
    emit_alu_imm(e, 4, 1, HOST_T1, 3);
    if (amd) {
        cpu_store(t, 2, HOST_T1, CPU(seg[X86_SS].sel));
        cpu_imm(t, 1, CPU(seg[X86_SS].attr), DPL3);
    } else {
        set_flat(t, X86_SS, FLAT_DATA | DPL3);
    }
    emit_alu_imm(e, 4, 0, HOST_T1, 8);
    set_flat(t, X86_CS, FLAT_CODE64 | DPL3);
    set_cpl(t, 3);
    emit_mov_rr(e, 8, HOST_T0, X86_RCX);
    emit_store(e, 8, HOST_T0, &c->target);
    t->flags = FLAGS_SLOT;
    use_stack_of(t, true);
    flow_lookup(t, true, NULL);
}

bool tr_sys(struct tr *t)
{
    const struct insn *in = tr_in(t);
    if (!sys_can(t, in))
        return false;
    switch (in->op) {
    case ISA_OP_CLI: emit_cli(t); return true;
    case ISA_OP_STI:
        if (t->i + 1 == t->n) // its shadow reaches beyond the block
            tr_step(t);
        else
            emit_sti(t);
        return true;
    case ISA_OP_CLAC: emit_ac(t, false); return true;
    case ISA_OP_STAC: emit_ac(t, true); return true;
    case ISA_OP_PUSHF: emit_pushf(t); return true;
    case ISA_OP_POPF: emit_popf(t); return true;
    case ISA_OP_SWAPGS: emit_swapgs(t); return true;
    case ISA_OP_RDFSBASE:
    case ISA_OP_RDGSBASE: emit_read_base(t, in->op == ISA_OP_RDGSBASE); return true;
    case ISA_OP_WRFSBASE:
    case ISA_OP_WRGSBASE: emit_write_base(t, in->op == ISA_OP_WRGSBASE); return true;
    case ISA_OP_RDTSC: emit_rdtsc(t, false); return true;
    case ISA_OP_RDTSCP: emit_rdtsc(t, true); return true;
    case ISA_OP_MOV_CR: reads_cr(in) ? emit_read_cr(t) : emit_write_cr(t); return true;
    case ISA_OP_MOV_DR: emit_read_dr(t); return true;
    case ISA_OP_CLTS: emit_clts(t); return true;
    case ISA_OP_CPUID: emit_cpuid(t); return true;
    case ISA_OP_RDMSR:
    case ISA_OP_WRMSR: emit_msr(t); return true;
    case ISA_OP_INVLPG:
    case ISA_OP_XSAVEC:
    case ISA_OP_XSAVES:
    case ISA_OP_XRSTOR:
    case ISA_OP_XRSTORS: emit_by_address(t); return true;
    case ISA_OP_INVPCID: emit_invpcid(t); return true;
    case ISA_OP_MOV:
    case ISA_OP_POP: emit_load_segment(t); return true;
    case ISA_OP_IN:
    case ISA_OP_OUT: emit_port(t); return true;
    case ISA_OP_SYSCALL: emit_syscall(t); return true;
    case ISA_OP_SYSRET: emit_sysret(t); return true;
    default: return false;
    }
}
