// From a seed to a case.
//
// A random form and encoding first; then registers and memory such that the instruction does something worth looking at: the
// memory operand hits the arena, often across a page end; stack, string and branch operands point where they can succeed;
// state images for the restoring instructions are mostly well-formed. What is not steered is random.
#include <stdlib.h>
#include <string.h>

#include "oracle/gen.h"

static u16 *form_list[ISA_MODE_COUNT];
static unsigned form_count[ISA_MODE_COUNT];

static u32 host_mxcsr_mask;

void orc_gen_init(void)
{
    struct x86_xsave fx = {0};
    __asm__("fxsave %0" : "+m"(fx));
    host_mxcsr_mask = fx.mxcsr_mask;
    for (unsigned m = 0; m < ISA_MODE_COUNT; m++) {
        form_list[m] = calloc(ISA_FORM_COUNT, sizeof *form_list[m]);
        if (!form_list[m])
            abort();
        for (unsigned f = 1; f < ISA_FORM_COUNT; f++)
            if (orc_encodable(f, m) && !orc_excluded(f, m))
                form_list[m][form_count[m]++] = (u16)f;
    }
}

// --- bytes --------------------------------------------------------------------------------------------------------------

// The host has extensions that the guest's model has not: bytes that the decoder rejects but the host may run.
static bool host_only(const u8 *b, unsigned mode)
{
    bool simd = false, rex = false;
    unsigned i = 0;
    for (;; i++) {
        bool is_rex = mode == ISA_MODE_64 && (b[i] & 0xf0) == 0x40;
        bool is_simd = b[i] == 0x66 || b[i] == 0xf0 || b[i] == 0xf2 || b[i] == 0xf3;
        bool other = b[i] == 0x67 || b[i] == 0x26 || b[i] == 0x2e || b[i] == 0x36 || b[i] == 0x3e || b[i] == 0x64 ||
                     b[i] == 0x65;
        if (i >= 14 || (!is_rex && !is_simd && !other))
            break;
        simd |= is_simd;
        rex = is_rex;
    }
    bool vex = b[i] == 0xc4 || b[i] == 0xc5 || b[i] == 0x62;
    // #UD whatever follows; but near the length limit it may also be #GP, by rules of its own.
    if (vex && (simd || rex))
        return i > 4;
    if (b[i] == 0x62 || b[i] == 0x8f) // EVEX, XOP
        return true;
    if (b[i] == 0xc5)
        return b[i + 2] >= 0x41 && b[i + 2] <= 0x9f; // opmask instructions
    if (b[i] == 0xc4)
        return true;
    if (b[i] != 0x0f)
        return false;
    // With LOCK the host reads the operands of these before it finds the prefix invalid: 0F 00.
    u8 op = b[i + 1];
    return op == 0x00 || op == 0x01 || op == 0x0e || op == 0x0f || op == 0x0d || op == 0x2b || op == 0x78 ||
           op == 0x79 || op == 0x38 || op == 0x3a || op == 0x05 || op == 0x34 || op == 0xa2 || op == 0xc7 ||
           op == 0xae || op == 0x1e;
}

// Take the bytes in case.code if both sides can run them.
static bool take_bytes(struct gen *g)
{
    struct orc_case *c = g->c;
    enum isa_status st = isa_decode(c->code, 15, c->mode, orc_isa_options, &c->insn);
    if (st == ISA_OK && !orc_excluded(c->insn.form, c->mode)) {
        c->valid = 1;
        c->len = c->insn.len;
        return true;
    }
    if (st != ISA_OK && !host_only(c->code, c->mode)) {
        memset(&c->insn, 0, sizeof c->insn);
        c->len = 15;
        return true;
    }
    return false;
}

// Prefixes in front of an instruction, REX among them where it does not count, up to more than 15 bytes.
static void pile_prefixes(struct gen *g)
{
    static const u8 pfx[] = {0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x48, 0x41, 0xf2, 0xf3};
    struct orc_case *c = g->c;
    unsigned n = 1 + orc_below(&g->r, orc_chance(&g->r, 30) ? 14 : 4);
    u8 one = pfx[orc_below(&g->r, ARRAY_LEN(pfx))];
    memmove(c->code + n, c->code, 16 - n);
    for (unsigned i = 0; i < n; i++)
        c->code[i] = orc_chance(&g->r, 40) ? one : pfx[orc_below(&g->r, ARRAY_LEN(pfx))];
}

static void random_bytes(struct gen *g)
{
    u64 a = orc_rnd(&g->r), b = orc_rnd(&g->r);
    memcpy(g->c->code, &a, 8);
    memcpy(g->c->code + 8, &b, 8);
    if (orc_chance(&g->r, 30))
        g->c->code[0] = 0x0f;
}

static void pick_bytes(struct gen *g)
{
    struct orc_case *c = g->c;
    for (unsigned tries = 0; tries < 64; tries++) {
        bool hit = orc_encode(&g->r, c->form, c->mode, c->code, &c->insn);
        unsigned odd = orc_below(&g->r, 256);
        if (hit && odd >= 5) {
            c->valid = 1;
            c->len = c->insn.len;
            return;
        }
        if (odd < 3)
            pile_prefixes(g);
        else if (odd < 5)
            random_bytes(g);
        else if (odd >= 40)
            continue;
        if (take_bytes(g))
            return;
    }
    memset(c->code, 0x90, 16);
    c->valid = isa_decode(c->code, 15, c->mode, orc_isa_options, &c->insn) == ISA_OK;
    c->len = 1;
}

// Offset of the instruction in a segment that ends at ORC_SHORT_LIMIT.
static u32 place_in_short(struct gen *g)
{
    u32 end = ORC_SHORT_LIMIT + 1, len = g->c->len;
    unsigned x = orc_below(&g->r, 100);
    if (x < 50)
        return 0x8000 + orc_below(&g->r, 0x1700);
    return x < 80 ? end - len - orc_below(&g->r, 16) : end - 1 - orc_below(&g->r, len);
}

static u32 place_in_arena(struct gen *g)
{
    static const u16 ends[] = {0x9000, 0xa000, 0xc000, 0xe000};
    u32 end = ends[orc_below(&g->r, 4)], len = g->c->len;
    unsigned x = orc_below(&g->r, 100);
    if (x < 82)
        return 0x8000 + orc_below(&g->r, 0x1f00);
    return x < 94 ? end - len - orc_below(&g->r, 16) : end - orc_below(&g->r, len + 1);
}

static void pick_code_place(struct gen *g)
{
    struct orc_case *c = g->c;
    u16 cs = c->in.sel[X86_CS];
    bool is_short = cs == ORC_LDT_SEL(ORC_LDT_SHORT16) || cs == ORC_LDT_SEL(ORC_LDT_SHORT32);
    u32 off = is_short ? place_in_short(g) : place_in_arena(g);
    // How many bytes a processor fetches before it finds them invalid is its own business.
    if (!c->valid)
        off = 0x8000 + orc_below(&g->r, 0xf00);
    // Most of those that start past the end of a page go back into it.
    if (!is_short && orc_page_kind[off >> 12] != ORC_RX && orc_below(&g->r, 4))
        off--;
    c->code_off = (u16)off;
    c->in.rip = ORC_ARENA + off - orc_code_base(c);
    c->land[0] = (u16)(off + c->len);
    c->nland = c->valid ? 1 : 0;
}

// --- processor state ----------------------------------------------------------------------------------------------------

static void pick_x87(struct gen *g, struct x86_xsave *x)
{
    struct orc_rng *r = &g->r;
    u64 v = orc_rnd(r);
    x->fcw = 0x37f;
    if (v & 1)
        x->fcw = (u16)((x->fcw & ~0xf00) | (v >> 8 & 0xf00));
    if ((v >> 1 & 7) == 0)
        x->fcw = (u16)((x->fcw & ~0x3f) | (v >> 20 & 0x3f));
    x->fsw = (u16)(v >> 28 & 0x4700);
    if (v >> 4 & 1)
        x->fsw |= (u16)(v >> 30 & 0x3800);
    if ((v >> 5 & 3) == 0)
        x->fsw |= (u16)(v >> 44 & 0x7f);
    // A pending exception makes every instruction fault alike: rarely.
    if ((x->fsw & ~x->fcw & 0x3f) && (v >> 7 & 7))
        x->fsw &= (u16)(x->fcw | ~0x3f);
    if (x->fsw & ~x->fcw & 0x3f)
        x->fsw |= 0x8080;
    unsigned k = v >> 52 & 7;
    x->ftw = k < 4 ? 0xff : k == 4 ? 0 : (u8)(v >> 56);
    x->fop = (u16)(orc_rnd(r) & 0x7ff);
    x->fip = orc_rnd(r) >> 17;
    x->fdp = orc_rnd(r) >> 17;
    for (unsigned i = 0; i < 8; i++)
        memcpy(x->st[i], orc_f80(r), 10);
}

static u32 pick_mxcsr(struct gen *g)
{
    u64 v = orc_rnd(&g->r);
    u32 m = X86_MXCSR_DEFAULT;
    if (v & 1)
        m |= (u32)(v >> 8) & 0x6000;
    if (v & 2)
        m |= (u32)(v >> 8) & (X86_MXCSR_DAZ | X86_MXCSR_FTZ);
    if (v & 4)
        m |= (u32)(v >> 32) & X86_MXCSR_FLAGS;
    if ((v >> 52 & 31) == 0)
        m |= host_mxcsr_mask & X86_MXCSR_MM;
    if ((v >> 40 & 15) == 0)
        m = (m & ~X86_MXCSR_MASKS) | ((u32)(v >> 44) & X86_MXCSR_MASKS);
    return m;
}

static void pick_vectors(struct gen *g, struct x86_xsave *x)
{
    for (unsigned i = 0; i < 16; i++) {
        const u8 *v = orc_vector(&g->r);
        memcpy(x->xmm[i], v, 16);
        memcpy(x->ymmh[i], v + 16, 16);
    }
}

// Components in their initial state, loaded as such or by their values.
static void pick_initial(struct gen *g, struct x86_xsave *x)
{
    u64 v = orc_rnd(&g->r);
    if (v & 1) {
        x->fcw = X86_FCW_DEFAULT;
        x->fsw = x->fop = x->ftw = 0;
        x->fip = x->fdp = 0;
        memset(x->st, 0, sizeof x->st);
    }
    if (v & 2)
        memset(x->xmm, 0, sizeof x->xmm);
    if (v & 4)
        memset(x->ymmh, 0, sizeof x->ymmh);
    if (v & 8)
        x->mxcsr = X86_MXCSR_DEFAULT;
    if (v & 16)
        x->xstate_bv &= ~(v & 7);
}

static void pick_xsave(struct gen *g)
{
    struct x86_xsave *x = &g->c->in.xs;
    memset(x, 0, sizeof *x);
    pick_x87(g, x);
    x->mxcsr = pick_mxcsr(g);
    x->mxcsr_mask = X86_MXCSR_VALID;
    x->xstate_bv = 7;
    pick_vectors(g, x);
    if (g->c->valid && !strncmp(isa_op_names[g->c->insn.op], "XSAVE", 5) && orc_chance(&g->r, 40))
        pick_initial(g, x);
}

static u64 pick_flags(struct gen *g)
{
    u64 v = orc_rnd(&g->r);
    u64 f = (v & (X86_FL_STATUS | X86_FL_ID)) | X86_FL_RSVD1 | X86_FL_IF;
    if ((v >> 32 & 7) == 0)
        f |= X86_FL_DF;
    if ((v >> 35 & 31) == 0)
        f |= X86_FL_AC;
    if ((v >> 40 & 63) == 0)
        f |= X86_FL_NT;
    return f;
}

static u16 pick_data_sel(struct gen *g, bool stack)
{
    static const u16 any[] = {ORC_LDT_SEL(ORC_LDT_DATA32),
                              ORC_LDT_SEL(ORC_LDT_SMALL),
                              ORC_LDT_SEL(ORC_LDT_EXPDOWN),
                              ORC_LDT_SEL(ORC_LDT_EXPDOWN16),
                              ORC_LDT_SEL(ORC_LDT_PAGEGRAN),
                              ORC_LDT_SEL(ORC_LDT_DATA16),
                              ORC_LDT_SEL(ORC_LDT_RO),
                              ORC_LDT_SEL(ORC_LDT_CODE32),
                              ORC_SEL_USER_DS,
                              0,
                              2};
    return any[orc_below(&g->r, stack ? 6 : ARRAY_LEN(any))];
}

static void pick_segments(struct gen *g)
{
    struct orc_state *s = &g->c->in;
    unsigned mode = g->c->mode;
    s->fs_base = s->gs_base = 0;
    memset(s->sel, 0, sizeof s->sel);
    s->sel[X86_SS] = ORC_SEL_USER_DS;
    s->sel[X86_CS] = ORC_SEL_USER_CS;
    if (mode == ISA_MODE_64) {
        if (g->c->flags & ORC_F_SEGS) {
            for (unsigned i = X86_ES; i <= X86_GS; i++)
                if (i != X86_CS && i != X86_SS)
                    s->sel[i] = orc_chance(&g->r, 50) ? 0 : pick_data_sel(g, false);
            s->fs_base = orc_chance(&g->r, 80) ? orc_below(&g->r, 0x7000) : gva_sign(orc_value(&g->r));
            s->gs_base = orc_chance(&g->r, 80) ? orc_below(&g->r, 0x7000) : gva_sign(orc_value(&g->r));
        }
        return;
    }
    u16 plain = mode == ISA_MODE_16 ? ORC_LDT_SEL(ORC_LDT_DATA16) : ORC_SEL_USER_DS;
    for (unsigned i = X86_ES; i <= X86_GS; i++)
        s->sel[i] = orc_chance(&g->r, i < X86_FS ? 80 : 30) ? plain : pick_data_sel(g, i == X86_SS);
    static const u16 code32[] = {ORC_LDT_SEL(ORC_LDT_CODE32), ORC_LDT_SEL(ORC_LDT_XONLY), ORC_LDT_SEL(ORC_LDT_SHORT32)};
    s->sel[X86_CS] = ORC_SEL_USER_CS32;
    if (mode == ISA_MODE_16)
        s->sel[X86_CS] = ORC_LDT_SEL(orc_chance(&g->r, 10) ? ORC_LDT_SHORT16 : ORC_LDT_CODE16);
    else if (orc_chance(&g->r, 20))
        s->sel[X86_CS] = code32[orc_below(&g->r, ARRAY_LEN(code32))];
}

static void pick_state(struct gen *g)
{
    struct orc_state *s = &g->c->in;
    pick_xsave(g);
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        s->gpr[i] = orc_value(&g->r);
        if (g->c->mode != ISA_MODE_64)
            s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
    }
    s->rflags = pick_flags(g);
    pick_segments(g);
}

static bool uses_segments(const struct orc_case *c)
{
    const struct insn *in = &c->insn;
    if (in->prefix & ISA_PFX_SEG)
        return true;
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == ISA_OPND_SEG)
            return true;
    switch (in->op) {
    case ISA_OP_LFS:
    case ISA_OP_LGS:
    case ISA_OP_LSS:
    case ISA_OP_RDFSBASE:
    case ISA_OP_RDGSBASE:
    case ISA_OP_WRFSBASE:
    case ISA_OP_WRGSBASE:
    case ISA_OP_IRET:
    case ISA_OP_JMP_FAR:
    case ISA_OP_CALL_FAR:
    case ISA_OP_RET_FAR: return true;
    default: return !c->valid;
    }
}

// Single step goes in by IRETQ, which does not load the upper half of ESP for a 16-bit stack.
static void pick_single_step(struct gen *g)
{
    u16 ss = g->c->in.sel[X86_SS];
    bool big = ss == ORC_SEL_USER_DS || ((ss & X86_SEL_TI) && orc_ldt[ss >> 3].seg_32bit);
    if (!big || !orc_chance(&g->r, 2))
        return;
    g->c->flags |= ORC_F_SINGLE_STEP;
    g->c->in.rflags |= X86_FL_TF;
}

unsigned orc_pick_form(struct gen *g)
{
    unsigned mode = g->c->mode;
    return form_list[mode][orc_below(&g->r, form_count[mode])];
}

void orc_pick_start(struct gen *g)
{
    struct orc_case *c = g->c;
    memset(&c->seed, 0, offsetof(struct orc_case, code) - offsetof(struct orc_case, seed));
    memset(&c->insn, 0, sizeof c->insn);
    unsigned x = orc_below(&g->r, 100);
    c->mode = x < 60 ? ISA_MODE_64 : x < 85 ? ISA_MODE_32 : ISA_MODE_16;
    c->valid = 1;
    c->flags = ORC_F_SEGS | ORC_F_SEQUENCE;
    pick_state(g);
}

void orc_generate(u64 seed, struct orc_case *c)
{
    struct gen g = {.r = {orc_mix(seed)}, .c = c};
    unsigned form = (unsigned)(seed >> 48), mode = seed >> 46 & 3;
    memset(&c->seed, 0, offsetof(struct orc_case, code) - offsetof(struct orc_case, seed));
    c->seed = seed;
    if (mode)
        c->mode = (u8)(mode - 1);
    else {
        unsigned x = orc_below(&g.r, 100);
        c->mode = x < 60 ? ISA_MODE_64 : x < 85 ? ISA_MODE_32 : ISA_MODE_16;
    }
    if (form && form < ISA_FORM_COUNT && !orc_encodable(form, c->mode))
        for (c->mode = ISA_MODE_64; c->mode > 0 && !orc_encodable(form, c->mode); c->mode--)
            ;
    if (!form || form >= ISA_FORM_COUNT || !orc_encodable(form, c->mode))
        form = form_list[c->mode][orc_below(&g.r, form_count[c->mode])];
    c->form = (u16)form;
    pick_bytes(&g);
    if (c->mode != ISA_MODE_64 || uses_segments(c))
        c->flags |= ORC_F_SEGS;
    pick_state(&g);
    pick_code_place(&g);
    pick_single_step(&g);
    if (c->valid)
        orc_steer(&g);
}
