// Aim the operands of an instruction: effective addresses, stack, strings, branch targets, memory contents.
#include <string.h>

#include "oracle/gen.h"

// --- segments and addresses -----------------------------------------------------------------------------------------------

static u64 seg_base(const struct orc_case *c, unsigned seg)
{
    const struct orc_state *s = &c->in;
    if (c->mode == ISA_MODE_64)
        return seg == X86_FS ? s->fs_base : seg == X86_GS ? s->gs_base : 0;
    u16 sel = s->sel[seg];
    return (sel & X86_SEL_TI) && (sel >> 3) < ORC_LDT_COUNT ? orc_ldt[sel >> 3].base : 0;
}

static u64 mask_of(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << size * 8) - 1;
}

// An arena offset for an operand of `size` bytes.
static u32 pick_place(struct gen *g, unsigned size, unsigned align_percent)
{
    static const u16 edges[] = {0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000, 0xf000};
    struct orc_rng *r = &g->r;
    unsigned x = orc_below(r, 100);
    u32 off;
    if (x < 62)
        off = 0x4000 + orc_below(r, 0x2000 - size);
    else if (x < 72)
        off = (orc_chance(r, 50) ? 0x1000 : 0xe000) + orc_below(r, 0x1000 - size);
    else if (x < 77)
        off = (orc_chance(r, 50) ? 0x3000 : 0x6000) + orc_below(r, 0x1000 - size);
    else if (x < 87)
        off = 0x5000 - orc_below(r, size + 1);
    else if (x < 97)
        off = edges[orc_below(r, ARRAY_LEN(edges))] - orc_below(r, size + 1);
    else
        off = orc_below(r, ORC_ARENA_SIZE - size);
    if (size > 1 && orc_chance(r, align_percent)) {
        u32 a = size >= 64 ? 64 : size >= 32 ? 32 : size >= 16 ? 16 : size >= 8 ? 8 : size >= 4 ? 4 : 2;
        off &= ~(a - 1);
    }
    // The code itself as data only rarely: its exits differ from mode to mode.
    return off;
}

// Put `len` bytes into the arena at `off` before the case runs; what does not fit in writable pages is dropped. Returns whether
// all of it is in place.
static bool patch(struct gen *g, u32 off, const void *bytes, unsigned len)
{
    struct orc_case *c = g->c;
    const u8 *b = bytes;
    bool all = true;
    while (len) {
        u32 room = 4096 - (off & 4095), n = len < room ? len : room;
        if (off >= ORC_ARENA_SIZE)
            return false;
        if (orc_page_kind[off >> 12] == ORC_RW && c->npatch < ORC_MAX_PATCHES && g->data_used + n <= ORC_PATCH_BYTES) {
            c->patch[c->npatch++] = (struct orc_patch){(u16)off, (u16)n, (u16)g->data_used};
            memcpy(c->data + g->data_used, b, n);
            g->data_used += n;
        } else {
            all = false;
        }
        off += n;
        b += n;
        len -= n;
    }
    return all;
}

static void set_gpr(struct gen *g, unsigned reg, unsigned size, u64 val)
{
    u64 m = mask_of(size), *p = &g->c->in.gpr[reg];
    u64 keep = g->c->mode == ISA_MODE_64 ? *p : (u32)*p;
    *p = (keep & ~m) | (val & m);
}

// --- the memory operand ---------------------------------------------------------------------------------------------------

static void store_disp(struct orc_case *c, i64 disp)
{
    struct insn *in = &c->insn;
    unsigned at = in->has_modrm ? in->imm_off - in->disp_size : in->imm_off - in->disp_size;
    if (!in->disp_size || at + in->disp_size > c->len)
        return;
    memcpy(c->code + at, &disp, in->disp_size);
    struct insn again;
    if (isa_decode(c->code, 15, c->mode, orc_isa_options, &again) == ISA_OK)
        *in = again;
}

static const struct isa_operand *mem_operand(const struct insn *in, unsigned *index)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == ISA_OPND_MEM) {
            *index = i;
            return &in->opnd[i];
        }
    return NULL;
}

// Registers so that base + index * scale + disp is `want`, modulo the address size.
static void solve_ea(struct gen *g, u64 want)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    unsigned as = in->adsize;
    if (in->base == ISA_REG_RIP) {
        store_disp(c, (i64)(want - (c->in.rip + c->len)));
        return;
    }
    bool base = in->base != ISA_REG_NONE, index = in->index != ISA_REG_NONE;
    if (base && index && in->base == in->index) {
        u64 x = c->in.gpr[in->base];
        store_disp(c, (i64)(want - x - (x << in->scale)));
        return;
    }
    if (base) {
        u64 idx = index ? c->in.gpr[in->index] << in->scale : 0;
        set_gpr(g, in->base, as, want - idx - (u64)in->disp);
        return;
    }
    if (index) {
        if (in->disp_size == 4 && orc_chance(&g->r, 70))
            set_gpr(g, in->index, as, orc_below(&g->r, 64));
        store_disp(c, (i64)(want - (c->in.gpr[in->index] << in->scale)));
        return;
    }
    store_disp(c, (i64)want);
}

// Gathers: indices near zero, the base does the rest.
static void steer_gather(struct gen *g, u64 want)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    const char *name = isa_op_names[in->op], *p = strstr(name, "GATHER");
    bool qword = p && p[6] == 'Q';
    for (unsigned i = 0; i < 32; i += qword ? 8 : 4) {
        i64 idx = (i64)orc_below(&g->r, 0x600) - 0x200;
        if (!orc_below(&g->r, 20))
            idx = (i64)orc_value(&g->r);
        u8 *at = i < 16 ? c->in.xs.xmm[in->index] + i : c->in.xs.ymmh[in->index] + i - 16;
        memcpy(at, &idx, qword ? 8 : 4);
    }
    if (in->base != ISA_REG_NONE && in->base != ISA_REG_RIP)
        set_gpr(g, in->base, in->adsize, want - (u64)in->disp);
    else
        store_disp(c, (i64)want);
}

static void patch_operand(struct gen *g, u32 off, unsigned size)
{
    u8 buf[32];
    if (size <= 8) {
        u64 v = orc_value(&g->r);
        const u8 *f = orc_vector(&g->r);
        memcpy(buf, &v, 8);
        patch(g, off, (isa_forms[g->c->insn.form].attr & ISA_ATTR_X87) || orc_chance(&g->r, 30) ? f : buf, size);
    } else if (size == 10) {
        patch(g, off, orc_f80(&g->r), 10);
    } else if (size <= 32) {
        memcpy(buf, orc_vector(&g->r), 32);
        patch(g, off, buf, size);
    }
}

static bool stack_op(const struct insn *in)
{
    const struct isa_form_info *f = &isa_forms[in->form];
    return (f->implicit_read | f->implicit_written) & ISA_IMPLICIT_GPR(X86_RSP);
}

static void steer_bit_offset(struct gen *g)
{
    struct insn *in = &g->c->insn;
    if (in->opnd[1].kind != ISA_OPND_GPR || in->opnd[1].reg == in->base || in->opnd[1].reg == in->index)
        return;
    i64 v = (i64)orc_below(&g->r, 1024) - 512;
    if (orc_chance(&g->r, 15))
        v = (i64)orc_below(&g->r, 0x8000) - 0x4000;
    if (orc_chance(&g->r, 95))
        set_gpr(g, in->opnd[1].reg, in->opnd[1].size, (u64)v);
}

static void steer_image(struct gen *g, u32 off);

static void steer_memory(struct gen *g)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    unsigned i;
    const struct isa_operand *m = mem_operand(in, &i);
    if (!m)
        return;
    const struct isa_form_info *f = &isa_forms[in->form];
    bool image = m->size > 32 || (m->size == 0 && strstr(isa_op_names[in->op], "SAVE")) ||
                 (m->size == 0 && strstr(isa_op_names[in->op], "XRSTOR"));
    unsigned size = m->size ? m->size : image ? 832 : 8;
    unsigned align = (f->attr & ISA_ATTR_ALIGN) || image ? 88 : 50;
    u32 off = pick_place(g, size, align);
    if (image && orc_chance(&g->r, 80))
        off = 0x4000 + orc_below(&g->r, (0x2000 - 1024) / 64) * 64;
    if (m->size == 0 && !image && orc_chance(&g->r, 50))
        return; // LEA and friends: anything
    if (orc_chance(&g->r, 2))
        return; // a wild address
    if (in->op == ISA_OP_BT || in->op == ISA_OP_BTS || in->op == ISA_OP_BTR || in->op == ISA_OP_BTC)
        steer_bit_offset(g);
    u64 want = ORC_ARENA + off - seg_base(c, in->seg);
    if (f->attr & ISA_ATTR_VSIB) {
        steer_gather(g, want);
        return;
    }
    if (in->base == X86_RSP && stack_op(in))
        return;
    solve_ea(g, want);
    if (image)
        steer_image(g, off);
    else if ((f->access[i] & ISA_ACC_R) && orc_chance(&g->r, 70))
        patch_operand(g, off, size);
}

// --- images for the restoring instructions ----------------------------------------------------------------------------------

static void steer_image(struct gen *g, u32 off)
{
    struct orc_case *c = g->c;
    const char *op = isa_op_names[c->insn.op];
    u8 buf[832];
    if (orc_chance(&g->r, 10))
        return;
    struct x86_xsave *x = (struct x86_xsave *)(void *)buf;
    if (!strncmp(op, "FXRSTOR", 7) || !strncmp(op, "XRSTOR", 6)) {
        struct x86_xsave img = c->in.xs;
        for (unsigned i = 0; i < 8; i++)
            memcpy(img.st[i], orc_f80(&g->r), 10);
        for (unsigned i = 0; i < 16; i++)
            memcpy(img.xmm[i], orc_vector(&g->r), 16);
        img.fcw = (u16)((orc_rnd(&g->r) & 0xf00) | 0x7f);
        img.fsw = (u16)(orc_rnd(&g->r) & 0x7f00);
        img.ftw = (u8)orc_rnd(&g->r);
        img.mxcsr = orc_chance(&g->r, 90) ? (u32)(orc_rnd(&g->r) & 0x607f) | 0x1f80 : (u32)orc_value(&g->r);
        img.xstate_bv = orc_chance(&g->r, 95) ? orc_rnd(&g->r) & 7 : orc_rnd(&g->r) & 15;
        if (orc_chance(&g->r, 3))
            img.xcomp_bv = 1ull << 63 | (orc_rnd(&g->r) & 7);
        if (orc_chance(&g->r, 3))
            img.rsvd2[orc_below(&g->r, 48)] = 1;
        memcpy(x, &img, 832);
        patch(g, off, buf, op[0] == 'F' ? 512 : 832);
        return;
    }
    // FRSTOR and FLDENV take anything; words that look like control and status words.
    if (!strcmp(op, "FRSTOR") || !strcmp(op, "FLDENV")) {
        for (unsigned i = 0; i < 108; i += 2) {
            u16 v = (u16)orc_rnd(&g->r);
            memcpy(buf + i, &v, 2);
        }
        u16 fcw = (u16)((orc_rnd(&g->r) & 0xf00) | (orc_chance(&g->r, 85) ? 0x7f : 0x40));
        memcpy(buf, &fcw, 2);
        for (unsigned i = 0; i < 8; i++)
            memcpy(buf + (c->insn.opsize == 2 ? 14 : 28) + i * 10, orc_f80(&g->r), 10);
        patch(g, off, buf, 108);
    }
}

static void steer_xsave_mask(struct gen *g)
{
    const char *op = isa_op_names[g->c->insn.op];
    if (strncmp(op, "XSAVE", 5) && strncmp(op, "XRSTOR", 6))
        return;
    // The host enables more than the guest's x87, SSE and AVX: ask for no more than these.
    u64 keep = g->c->mode == ISA_MODE_64 ? 0xffffffff00000000ull : 0;
    g->c->in.gpr[X86_RAX] = (g->c->in.gpr[X86_RAX] & keep) | (orc_chance(&g->r, 50) ? 7 : orc_rnd(&g->r) & 7);
    g->c->in.gpr[X86_RDX] &= keep;
}

// --- strings --------------------------------------------------------------------------------------------------------------

static bool string_operand(const struct insn *in, unsigned kind, unsigned *size)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == kind) {
            *size = in->opnd[i].size;
            return true;
        }
    return false;
}

static void steer_string(struct gen *g)
{
    struct orc_case *c = g->c;
    const struct insn *in = &c->insn;
    unsigned size = 1;
    bool src = string_operand(in, ISA_OPND_STR_SRC, &size), dst = string_operand(in, ISA_OPND_STR_DST, &size);
    if (!src && !dst)
        return;
    u32 a = pick_place(g, size, 40), b = pick_place(g, size, 40);
    if (orc_chance(&g->r, 25))
        b = a + (orc_chance(&g->r, 50) ? orc_below(&g->r, 9) : 0); // overlap
    if (src)
        set_gpr(g, X86_RSI, in->adsize, ORC_ARENA + a - seg_base(c, in->seg));
    if (dst)
        set_gpr(g, X86_RDI, in->adsize, ORC_ARENA + b - seg_base(c, X86_ES));
    if (orc_chance(&g->r, 50))
        c->in.rflags ^= c->in.rflags & X86_FL_DF ? 0 : X86_FL_DF;
    unsigned x = orc_below(&g->r, 100);
    if (x < 10)
        set_gpr(g, X86_RCX, in->adsize, 0);
    else if (x < 97)
        set_gpr(g, X86_RCX, in->adsize, orc_below(&g->r, 40));
    if (isa_forms[in->form].attr & ISA_ATTR_REPCC) {
        // A run that compares equal for a while.
        u8 run[64];
        memset(run, (int)orc_below(&g->r, 256), sizeof run);
        run[orc_below(&g->r, 64)] ^= 1;
        u64 v = 0x0101010101010101ull * run[0];
        if (orc_chance(&g->r, 70)) {
            patch(g, a, run, 64);
            if (a + 64 <= b || b + 64 <= a)
                patch(g, b, run, 64);
            set_gpr(g, X86_RAX, size, v);
        }
    }
}

// --- stack and branches -----------------------------------------------------------------------------------------------------

// Over the instruction and its exit, of which the middle is no place to go to.
static bool over_code(const struct orc_case *c, u64 off)
{
    return off + 8 > c->code_off && off < c->code_off + c->len + 8u;
}

// Where a branch can go: executable, and not over the instruction and its exits.
static u32 pick_target(struct gen *g)
{
    static const u16 pages[] = {0x8000, 0x9000, 0xb000, 0xd000};
    struct orc_case *c = g->c;
    for (;;) {
        u32 t =
            pages[orc_below(&g->r, 4)] + (orc_chance(&g->r, 90) ? orc_below(&g->r, 0xfe0) : orc_below(&g->r, 0x1000));
        if (!over_code(c, t))
            return t;
    }
}

static void add_landing(struct orc_case *c, u64 target)
{
    u64 off = target + orc_code_base(c) - ORC_ARENA;
    if (off >= ORC_ARENA_SIZE || over_code(c, off))
        return;
    c->land[1] = (u16)off;
    c->nland = 2;
}

static u64 target_value(const struct orc_case *c, u32 off)
{
    return off + ORC_ARENA - orc_code_base(c);
}

static void steer_relative(struct gen *g)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    unsigned size = c->len - in->imm_off;
    for (unsigned tries = 0; tries < 16; tries++) {
        i64 d;
        if (size == 1)
            d = (i8)orc_rnd(&g->r);
        else if (orc_chance(&g->r, 92))
            d = (i64)pick_target(g) - c->code_off - c->len;
        else
            d = (i64)orc_value(&g->r);
        u64 to = c->in.rip + c->len + (u64)(size == 1 ? d : size == 2 ? (i16)d : (i32)d);
        // Not onto the instruction itself: it would run for ever.
        if (to - c->in.rip + 8 < c->len + 16u)
            continue;
        memcpy(c->code + in->imm_off, &d, size);
        struct insn again;
        if (isa_decode(c->code, 15, c->mode, orc_isa_options, &again) == ISA_OK)
            *in = again;
        add_landing(c, in->opsize == 2 ? (u16)to : to);
        return;
    }
    memset(c->code + in->imm_off, 0x40, size);
    isa_decode(c->code, 15, c->mode, orc_isa_options, in);
}

static u16 pick_any_sel(struct gen *g, bool code)
{
    static const u16 sels[] = {ORC_SEL_USER_CS32,
                               ORC_SEL_USER_CS,
                               ORC_SEL_USER_DS,
                               0,
                               3,
                               0x10,
                               0x18,
                               0x20,
                               0x40,
                               0x50,
                               0x60,
                               0x80,
                               0x8b,
                               0x08};
    struct orc_rng *r = &g->r;
    unsigned x = orc_below(r, 10);
    if (code && x < 6) {
        static const u16 good[] = {ORC_SEL_USER_CS32,
                                   ORC_SEL_USER_CS,
                                   ORC_LDT_SEL(ORC_LDT_CODE16),
                                   ORC_LDT_SEL(ORC_LDT_CODE32),
                                   ORC_LDT_SEL(ORC_LDT_SHORT16),
                                   ORC_LDT_SEL(ORC_LDT_SHORT32)};
        return good[orc_below(r, ARRAY_LEN(good))];
    }
    if (x < 8)
        return (u16)(ORC_LDT_SEL(orc_below(r, ORC_LDT_COUNT + 1)) & ~orc_below(r, 4));
    if (x < 9)
        return sels[orc_below(r, ARRAY_LEN(sels))] | (u16)orc_below(r, 4);
    u16 v = (u16)orc_value(r);
    return v;
}

// Offset for a far target in `sel`.
static u64 far_offset(struct gen *g, u16 sel)
{
    u32 t = pick_target(g);
    u64 base = (sel & X86_SEL_TI) && (sel >> 3) < ORC_LDT_COUNT ? orc_ldt[sel >> 3].base : 0;
    return orc_chance(&g->r, 95) ? ORC_ARENA + t - base : orc_value(&g->r);
}

static void steer_far_memory(struct gen *g)
{
    struct insn *in = &g->c->insn;
    unsigned i;
    const struct isa_operand *m = mem_operand(in, &i);
    u8 buf[10];
    u16 sel = pick_any_sel(g, true);
    u64 off = far_offset(g, sel);
    unsigned os = m->size >= 10 ? 8 : m->size >= 6 ? 4 : 2;
    memcpy(buf, &off, os);
    memcpy(buf + os, &sel, 2);
    u32 at = 0x4000 + orc_below(&g->r, 0x1ff0);
    solve_ea(g, ORC_ARENA + at - seg_base(g->c, in->seg));
    patch(g, at, buf, os + 2);
}

static void steer_far_immediate(struct gen *g)
{
    struct orc_case *c = g->c;
    unsigned os = c->len - c->insn.imm_off - 2u;
    u16 sel = pick_any_sel(g, true);
    u64 off = far_offset(g, sel);
    memcpy(c->code + c->insn.imm_off, &off, os);
    memcpy(c->code + c->insn.imm_off + os, &sel, 2);
    isa_decode(c->code, 15, c->mode, orc_isa_options, &c->insn);
}

// Bytes of the stack pointer in use.
static unsigned stack_size(const struct orc_case *c)
{
    if (c->mode == ISA_MODE_64)
        return 8;
    u16 ss = c->in.sel[X86_SS];
    return (ss & X86_SEL_TI) && !orc_ldt[ss >> 3].seg_32bit ? 2 : 4;
}

static bool patch_words(struct gen *g, u32 off, unsigned size, const u64 *w, unsigned n)
{
    u8 buf[64];
    for (unsigned i = 0; i < n; i++)
        memcpy(buf + i * size, &w[i], size);
    return patch(g, off, buf, n * size);
}

static u64 flags_image(struct gen *g)
{
    u64 v = orc_rnd(&g->r);
    if (orc_chance(&g->r, 90))
        v &= ~(u64)X86_FL_TF;
    return orc_chance(&g->r, 90) ? v & 0xffffff : v & 0xffffffff;
}

static void steer_stack(struct gen *g)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    if (!stack_op(in) || orc_chance(&g->r, 2))
        return;
    unsigned ss = stack_size(c), os = in->opsize;
    u32 off = pick_place(g, 8, 60);
    bool reads = in->op == ISA_OP_RET || in->op == ISA_OP_RET_FAR || in->op == ISA_OP_IRET || in->op == ISA_OP_POP ||
                 in->op == ISA_OP_POPF || in->op == ISA_OP_POPA || in->op == ISA_OP_LEAVE;
    u64 base = ORC_ARENA - seg_base(c, X86_SS);
    if (in->op == ISA_OP_LEAVE || in->op == ISA_OP_ENTER)
        set_gpr(g, X86_RBP, ss, base + pick_place(g, 8, 60));
    if (in->op == ISA_OP_LEAVE)
        return;
    set_gpr(g, X86_RSP, ss, base + off + (reads ? 0 : orc_chance(&g->r, 50) ? os : 8));
    if (in->op == ISA_OP_RET && orc_chance(&g->r, 95)) {
        u64 to = target_value(c, pick_target(g));
        if (patch_words(g, off, os, &to, 1))
            add_landing(c, to);
    } else if (in->op == ISA_OP_RET_FAR || in->op == ISA_OP_IRET) {
        u16 cs = pick_any_sel(g, true);
        u64 w[5] = {far_offset(g, cs), cs, flags_image(g), base + pick_place(g, 8, 60),
                    orc_chance(&g->r, 60) ? c->in.sel[X86_SS] : pick_any_sel(g, false)};
        if (in->op == ISA_OP_RET_FAR)
            w[2] = w[3];
        patch_words(g, off, os, w, 5);
    } else if (in->op == ISA_OP_POPF) {
        u64 f = flags_image(g);
        patch_words(g, off, os, &f, 1);
    } else if (in->op == ISA_OP_POP && in->opnd[0].kind == ISA_OPND_SEG) {
        u64 sel = pick_any_sel(g, false);
        patch_words(g, off, os, &sel, 1);
    }
}

// A register holds such a place by chance.
static bool hits_own_exit(const struct orc_case *c)
{
    const struct isa_operand *o = &c->insn.opnd[0];
    if (o->kind != ISA_OPND_GPR)
        return false;
    u64 to = c->in.gpr[o->reg];
    if (o->size < 8)
        to &= (1ull << o->size * 8) - 1;
    return over_code(c, to - target_value(c, 0));
}

static void steer_branch(struct gen *g)
{
    struct orc_case *c = g->c;
    struct insn *in = &c->insn;
    if (in->nopnd == 0 || in->op == ISA_OP_RET)
        return;
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == ISA_OPND_REL) {
            steer_relative(g);
            return;
        }
    if (in->opnd[0].kind == ISA_OPND_FAR) {
        steer_far_immediate(g);
    } else if (in->op == ISA_OP_JMP_FAR || in->op == ISA_OP_CALL_FAR) {
        steer_far_memory(g);
    } else if ((in->op == ISA_OP_JMP || in->op == ISA_OP_CALL) && (orc_chance(&g->r, 95) || hits_own_exit(c))) {
        u64 to = target_value(c, pick_target(g));
        unsigned i;
        if (in->opnd[0].kind == ISA_OPND_GPR) {
            set_gpr(g, in->opnd[0].reg, in->opnd[0].size, to);
        } else if (mem_operand(in, &i)) {
            u32 at = pick_place(g, 8, 50);
            solve_ea(g, ORC_ARENA + at - seg_base(c, in->seg));
            if (!patch(g, at, &to, in->opnd[0].size))
                return; // it goes elsewhere, perhaps into the middle of an exit
        }
        add_landing(c, in->opsize == 2 ? (u16)to : to);
    }
}

// --- single instructions ----------------------------------------------------------------------------------------------------

static void steer_divide(struct gen *g)
{
    const struct insn *in = &g->c->insn;
    unsigned size = in->opnd[0].size;
    if (orc_chance(&g->r, 25))
        return;
    u64 hi = orc_chance(&g->r, 60) ? 0 : orc_below(&g->r, 64);
    if (in->op == ISA_OP_IDIV && orc_chance(&g->r, 50))
        hi = ~hi;
    if (size == 1)
        set_gpr(g, X86_RAX, 2, (hi << 8) | (orc_value(&g->r) & 0xff));
    else
        set_gpr(g, X86_RDX, size, hi);
}

static void steer_exchange(struct gen *g)
{
    struct orc_case *c = g->c;
    const struct insn *in = &c->insn;
    const struct isa_operand *o = &in->opnd[0];
    if (orc_chance(&g->r, 50))
        return;
    if (in->op == ISA_OP_CMPXCHG && o->kind == ISA_OPND_GPR) {
        set_gpr(g, X86_RAX, o->size, c->in.gpr[o->reg]);
    } else if (c->npatch && o->kind == ISA_OPND_MEM && c->patch[0].len == o->size) {
        u8 *d = c->data + c->patch[0].data;
        if (in->op == ISA_OP_CMPXCHG) {
            memcpy(d, &c->in.gpr[X86_RAX], o->size);
        } else {
            memcpy(d, &c->in.gpr[X86_RAX], o->size / 2);
            memcpy(d + o->size / 2, &c->in.gpr[X86_RDX], o->size / 2);
        }
    }
}

static void steer_selector(struct gen *g)
{
    struct orc_case *c = g->c;
    const struct insn *in = &c->insn;
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].kind == ISA_OPND_GPR && in->opnd[i].reg != in->base && in->opnd[i].reg != in->index)
            set_gpr(g, in->opnd[i].reg, 2, pick_any_sel(g, false));
        if (in->opnd[i].kind == ISA_OPND_MEM && c->npatch && c->patch[0].len >= 2) {
            u16 sel = pick_any_sel(g, false);
            // LDS and friends: the selector follows the offset.
            unsigned at = in->opnd[i].size > 2 ? in->opnd[i].size - 2u : 0;
            if (at + 2u <= c->patch[0].len)
                memcpy(c->data + c->patch[0].data + at, &sel, 2);
        }
    }
}

static bool selector_op(const struct insn *in)
{
    switch (in->op) {
    case ISA_OP_LAR:
    case ISA_OP_LSL:
    case ISA_OP_VERR:
    case ISA_OP_VERW:
    case ISA_OP_ARPL:
    case ISA_OP_LDS:
    case ISA_OP_LES:
    case ISA_OP_LFS:
    case ISA_OP_LGS:
    case ISA_OP_LSS: return true;
    case ISA_OP_MOV: return in->opnd[0].kind == ISA_OPND_SEG || in->opnd[1].kind == ISA_OPND_SEG;
    default: return false;
    }
}

static void steer_special(struct gen *g)
{
    struct orc_case *c = g->c;
    const struct insn *in = &c->insn;
    if (selector_op(in)) {
        steer_selector(g);
        return;
    }
    switch (in->op) {
    case ISA_OP_DIV:
    case ISA_OP_IDIV: steer_divide(g); break;
    case ISA_OP_CMPXCHG:
    case ISA_OP_CMPXCHG8B:
    case ISA_OP_CMPXCHG16B: steer_exchange(g); break;
    case ISA_OP_XLAT:
        set_gpr(g, X86_RBX, in->adsize,
                ORC_ARENA + pick_place(g, 1, 0) - (c->in.gpr[X86_RAX] & 0xff) - seg_base(c, in->seg));
        break;
    case ISA_OP_XGETBV:
        if (orc_chance(&g->r, 80))
            set_gpr(g, X86_RCX, 4, orc_below(&g->r, 2));
        break;
    case ISA_OP_INT:
        // The host's system call.
        if (c->code[in->imm_off] == 0x80)
            c->code[in->imm_off]++;
        isa_decode(c->code, 15, c->mode, orc_isa_options, &c->insn);
        break;
    case ISA_OP_WRFSBASE:
    case ISA_OP_WRGSBASE:
        if (orc_chance(&g->r, 70))
            c->in.gpr[in->opnd[0].reg] = gva_sign(c->in.gpr[in->opnd[0].reg]);
        break;
    case ISA_OP_LDMXCSR:
        if (c->npatch && c->patch[0].len == 4 && orc_chance(&g->r, 85))
            memset(c->data + c->patch[0].data + 2, 0, 2);
        break;
    default: break;
    }
    const char *op = isa_op_names[in->op];
    if (!strcmp(op, "MASKMOVQ") || !strcmp(op, "MASKMOVDQU") || !strcmp(op, "VMASKMOVDQU"))
        set_gpr(g, X86_RDI, in->adsize, ORC_ARENA + pick_place(g, 16, 30) - seg_base(c, in->seg));
    steer_xsave_mask(g);
}

u64 orc_operand_address(const struct orc_case *c)
{
    const struct insn *in = &c->insn;
    u64 ea = (u64)in->disp;
    if (in->base == ISA_REG_RIP)
        ea += c->in.rip + c->len;
    else if (in->base != ISA_REG_NONE)
        ea += c->in.gpr[in->base];
    if (in->index != ISA_REG_NONE)
        ea += c->in.gpr[in->index] << in->scale;
    ea = (ea & mask_of(in->adsize)) + seg_base(c, in->seg);
    return c->mode == ISA_MODE_64 ? ea : (u32)ea;
}

void orc_steer(struct gen *g)
{
    steer_memory(g);
    steer_string(g);
    steer_stack(g);
    steer_branch(g);
    steer_special(g);
    // A far call into 64-bit code pushes with 64-bit addresses. Below zero they would look to Linux like an erratum of the K8 (a
    // fault above 4 GiB in compatibility mode), and it would let the instruction run again for ever.
    struct orc_case *c = g->c;
    if (c->insn.op == ISA_OP_CALL_FAR && c->mode != ISA_MODE_64 && c->in.gpr[X86_RSP] < 16)
        c->in.gpr[X86_RSP] += 0x1000;
}
