// Random encodings of a form.
//
// The decoder itself is asked which bytes belong to which form: every opcode of every map, with every mandatory prefix, VEX
// length and W, and every kind of ModRM, is decoded once. What comes out is a list of *skeletons* per form and mode; a
// random skeleton is then dressed with prefixes, registers, displacement and immediate.
#include <stdlib.h>
#include <string.h>

#include "oracle/oracle.h"

struct skeleton {
    u8 vex; // 0: legacy; else 1 + L
    u8 w;
    u8 pfx; // 0, 0x66, 0xf3, 0xf2
    u8 map;
    u8 opcode;
    u8 has_modrm;
    u8 rexb;       // needs REX.B (XCHG r8, rAX has the opcode of NOP)
    u8 vvvv;       // VEX: takes a register there
    u8 mem;        // bit r: a memory operand with reg field r is this form
    u64 reg_pairs; // bit reg * 8 + rm: register operands
};

struct list {
    struct skeleton *s;
    unsigned count, room;
};

static struct list lists[ISA_FORM_COUNT][ISA_MODE_COUNT];

static const u8 pfx_byte[4] = {0, 0x66, 0xf3, 0xf2};

static struct skeleton *add(unsigned form, unsigned mode, const struct skeleton *key)
{
    struct list *l = &lists[form][mode];
    for (unsigned i = 0; i < l->count; i++) {
        struct skeleton *s = &l->s[i];
        if (s->vex == key->vex && s->w == key->w && s->pfx == key->pfx && s->map == key->map &&
            s->opcode == key->opcode && s->rexb == key->rexb)
            return s;
    }
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 4;
        l->s = realloc(l->s, l->room * sizeof *l->s);
        if (!l->s)
            abort();
    }
    l->s[l->count] = *key;
    return &l->s[l->count++];
}

// The bytes up to and with the opcode. REX and VEX bits R, X, B in `rxb`, as ISA_REX_*.
static unsigned put_opcode(const struct skeleton *k, unsigned vvvv, unsigned rxb, bool rex, bool vex2, u8 *p)
{
    unsigned n = 0;
    if (k->vex) {
        static const u8 pp[4] = {0, 1, 2, 3};
        unsigned ppi = k->pfx == 0 ? pp[0] : k->pfx == 0x66 ? pp[1] : k->pfx == 0xf3 ? pp[2] : pp[3];
        u8 last = (u8)((~vvvv & 15) << 3 | (k->vex - 1) << 2 | ppi);
        if (vex2) {
            p[n++] = 0xc5;
            p[n++] = (u8)(last | (rxb & ISA_REX_R ? 0 : 0x80));
        } else {
            p[n++] = 0xc4;
            p[n++] = (u8)(k->map | (rxb & ISA_REX_R ? 0 : 0x80) | (rxb & ISA_REX_X ? 0 : 0x40) |
                          (rxb & ISA_REX_B ? 0 : 0x20));
            p[n++] = (u8)(last | k->w << 7);
        }
    } else {
        if (k->pfx)
            p[n++] = k->pfx;
        if (k->w || rxb || rex)
            p[n++] = (u8)(0x40 | k->w << 3 | rxb);
        if (k->map != ISA_MAP_1)
            p[n++] = 0x0f;
        if (k->map == ISA_MAP_0F38)
            p[n++] = 0x38;
        if (k->map == ISA_MAP_0F3A)
            p[n++] = 0x3a;
    }
    p[n++] = k->opcode;
    return n;
}

static bool is_prefix(unsigned mode, unsigned opcode)
{
    if ((opcode & 0xe7) == 0x26 || (opcode >= 0x64 && opcode <= 0x67) || opcode == 0xf0 || opcode == 0xf2 ||
        opcode == 0xf3 || opcode == 0x0f)
        return true;
    return mode == ISA_MODE_64 && (opcode & 0xf0) == 0x40;
}

// Decode one skeleton with one ModRM and file it. Returns false when the opcode has no ModRM byte.
static bool ask(unsigned mode, struct skeleton *k, unsigned reg, unsigned rm, bool mem)
{
    u8 b[32] = {0};
    for (unsigned v = 0; v < (k->vex ? 2u : 1u); v++) {
        unsigned vvvv = v ? 5 : 0;
        unsigned n = put_opcode(k, vvvv, k->rexb ? ISA_REX_B : 0, false, false, b);
        b[n] = (u8)(mem ? reg << 3 | 4 : 0xc0 | reg << 3 | rm);
        b[n + 1] = mem ? 0x30 : 0; // SIB: base 0, index 6
        struct insn in;
        if (isa_decode(b, 15, mode, orc_isa_options, &in) != ISA_OK)
            continue;
        if (in.map != k->map || in.opcode != k->opcode)
            return false;
        k->has_modrm = in.has_modrm;
        k->vvvv = (u8)v;
        struct skeleton *s = add(in.form, mode, k);
        if (!in.has_modrm)
            return false;
        if (mem)
            s->mem |= (u8)(1u << reg);
        else
            s->reg_pairs |= 1ull << (reg * 8 + rm);
        s->vvvv |= (u8)v;
        return true;
    }
    return true;
}

static void scan_opcode(unsigned mode, struct skeleton *k)
{
    for (unsigned reg = 0; reg < 8; reg++) {
        if (!ask(mode, k, reg, 0, true))
            return;
        for (unsigned rm = 0; rm < 8; rm++)
            if (!ask(mode, k, reg, rm, false))
                return;
    }
}

static void scan_map(unsigned mode, unsigned vex, unsigned w, unsigned map)
{
    for (unsigned p = 0; p < 4; p++)
        for (unsigned op = 0; op < 256; op++) {
            if (!vex && map == ISA_MAP_1 && is_prefix(mode, op))
                continue;
            if (!vex && map == ISA_MAP_0F && (op == 0x38 || op == 0x3a))
                continue;
            struct skeleton k = {.vex = (u8)vex, .w = (u8)w, .pfx = pfx_byte[p], .map = (u8)map, .opcode = (u8)op};
            scan_opcode(mode, &k);
            k = (struct skeleton){.w = (u8)w, .pfx = pfx_byte[p], .map = (u8)map, .opcode = (u8)op, .rexb = 1};
            if (mode == ISA_MODE_64 && !vex && map == ISA_MAP_1 && op == 0x90)
                scan_opcode(mode, &k);
        }
}

u32 orc_isa_options;

void orc_encode_init(void)
{
    u32 max, vendor, c, d;
    __asm__("cpuid" : "=a"(max), "=b"(vendor), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    if (vendor == 0x68747541) // "Auth"enticAMD
        orc_isa_options = ISA_OPT_AMD;
    for (unsigned mode = 0; mode < ISA_MODE_COUNT; mode++) {
        for (unsigned map = 0; map < ISA_MAP_COUNT; map++) {
            scan_map(mode, 0, 0, map);
            if (mode == ISA_MODE_64)
                scan_map(mode, 0, 1, map);
        }
        for (unsigned map = ISA_MAP_0F; map < ISA_MAP_COUNT; map++)
            for (unsigned lw = 0; lw < 4; lw++)
                scan_map(mode, 1 + (lw & 1), lw >> 1, map);
    }
}

bool orc_encodable(unsigned form, unsigned mode)
{
    return lists[form][mode].count > 0;
}

// --- random encodings ---------------------------------------------------------------------------------------------------

// Prefixes that need not be there. LOCK mostly where it is allowed.
static unsigned put_prefixes(struct orc_rng *r, const struct isa_form_info *f, const struct skeleton *k, bool mem,
                             u8 *p)
{
    static const u8 seg[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    unsigned n = 0;
    u64 x = orc_rnd(r);
    if ((x & 0xf) == 0)
        p[n++] = seg[(x >> 32) % 6];
    if ((x >> 4 & 0xf) == 0)
        p[n++] = 0x67;
    unsigned lock = (f->attr & ISA_ATTR_LOCK) && mem ? 4 : 64;
    if ((x >> 8 & 0xff) % lock == 1)
        p[n++] = 0xf0;
    if (!k->vex && !k->pfx) {
        if (f->attr & (ISA_ATTR_REP | ISA_ATTR_REPCC)) {
            if (x >> 16 & 1)
                p[n++] = x >> 17 & 1 ? 0xf3 : 0xf2;
        } else if ((x >> 18 & 0x3f) == 0) {
            p[n++] = x >> 24 & 1 ? 0xf3 : 0xf2;
        }
    }
    unsigned odd = k->vex ? 0xff : 0x3f;
    if ((x >> 25 & odd) == 0)
        p[n++] = 0x66;
    if (n > 1 && (x >> 40 & 1)) {
        u8 t = p[0];
        p[0] = p[n - 1];
        p[n - 1] = t;
    }
    return n;
}

static void pick_modrm(struct orc_rng *r, const struct skeleton *k, bool mem, u8 *modrm)
{
    for (;;) {
        unsigned x = (unsigned)orc_rnd(r);
        unsigned reg = x & 7, rm = x >> 3 & 7;
        if (mem && (k->mem >> reg & 1)) {
            *modrm = (u8)((x >> 6 & 3) % 3 << 6 | reg << 3 | rm);
            return;
        }
        if (!mem && (k->reg_pairs >> (reg * 8 + rm) & 1)) {
            *modrm = (u8)(0xc0 | reg << 3 | rm);
            return;
        }
    }
}

bool orc_encode(struct orc_rng *r, unsigned form, unsigned mode, u8 *code, struct insn *in)
{
    const struct list *l = &lists[form][mode];
    const struct skeleton *k = &l->s[orc_below(r, l->count)];
    bool mem = k->mem && (!k->reg_pairs || orc_chance(r, 55));
    u8 b[40];
    unsigned n = put_prefixes(r, &isa_forms[form], k, mem, b);
    u64 x = orc_rnd(r);
    unsigned rxb = mode == ISA_MODE_64 ? x & 7 : 0;
    if (x >> 3 & 1)
        rxb &= x >> 4 & 7;
    if (k->rexb)
        rxb |= ISA_REX_B;
    unsigned vvvv = k->vvvv ? x >> 8 & (mode == ISA_MODE_64 ? 15 : 7) : 0;
    bool vex2 = k->vex && k->map == ISA_MAP_0F && !k->w && !(rxb & 3) && (x >> 12 & 1);
    n += put_opcode(k, vvvv, rxb, mode == ISA_MODE_64 && (x >> 13 & 7) == 0, vex2, b + n);
    if (k->has_modrm)
        pick_modrm(r, k, mem, &b[n++]);
    // SIB, displacement and immediate, whatever there is of them: a SIB byte, then values.
    if (mem)
        b[n++] = (u8)orc_rnd(r);
    for (unsigned end = n + 16; n < end && n + 8 <= sizeof b; n += orc_chance(r, 50) ? 1 : 4) {
        u64 v = orc_value(r);
        memcpy(b + n, &v, 8);
    }
    memcpy(code, b, 16);
    return isa_decode(code, 15, mode, orc_isa_options, in) == ISA_OK && in->form == form;
}

// --- what cannot be compared --------------------------------------------------------------------------------------------

struct exclusion {
    const char *op;
    u8 modes; // bit per mode
    const char *why;
};

static const struct exclusion exclusions[] = {
    {"RDPRU", 7, "time"},
    {"SYSCALL", 7, "enters the host's kernel"},
    {"SYSENTER", 7, "enters the host's kernel"},
    {"SGDT", 7, "the host's kernel emulates it under UMIP"},
    {"SIDT", 7, "the host's kernel emulates it under UMIP"},
    {"SLDT", 7, "the host's kernel emulates it under UMIP"},
    {"STR", 7, "the host's kernel emulates it under UMIP"},
    {"SMSW", 7, "the host's kernel emulates it under UMIP"},
    {"VMCALL", 7, "reaches the host's hypervisor"},
    {"VMMCALL", 7, "reaches the host's hypervisor"},
    {"INT1", 7, "the host's hypervisor raises it again, with the address of the instruction itself"},
    {"VMRUN", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"VMLOAD", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"VMSAVE", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"STGI", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"CLGI", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"SKINIT", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"INVLPGA", 7, "the host's hypervisor runs its guests with EFER.SVME set"},
    {"VMREAD", 7, "AMD decodes the opcode as EXTRQ, with two bytes of immediate"},
    {"CLZERO", 7, "not in the guest's model"},
    {"MONITORX", 7, "not in the guest's model"},
    {"MWAITX", 7, "not in the guest's model"},
    {"RDPKRU", 7, "not in the guest's model"},
    {"WRPKRU", 7, "not in the guest's model"},
};

const char *orc_excluded(unsigned form, unsigned mode)
{
    if (form == 0)
        return "not a form";
    const char *op = isa_op_names[isa_forms[form].op];
    for (unsigned i = 0; i < ARRAY_LEN(exclusions); i++)
        if ((exclusions[i].modes >> mode & 1) && !strcmp(op, exclusions[i].op))
            return exclusions[i].why;
    return NULL;
}
