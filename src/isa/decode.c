// The instruction decoder: bytes in, struct insn out, driven by the tables that isagen makes from insns.def.
//
// Steps: prefixes; opcode map (escape bytes or VEX); the look-up tree, which ends in a form; ModRM memory operand;
// immediate; operands. Most steps compute rather than branch, because the interpreter decodes streams whose next
// instruction no branch predictor knows.
//
// Bounds: all reading happens in a window that can be read well past the longest instruction: the caller's bytes
// where there are enough of them, else a zero-padded copy. Bytes consumed are compared with what was available and
// with the 15-byte limit once, at the end. Like processors, the decoder takes a whole instruction (ModRM, displacement,
// immediate) before it judges prefixes and operands, so running out of bytes comes before "invalid".
//
// Each byte is read once from the caller's memory when it is copied; when it is not, a byte that changes under the
// decoder (another vCPU writes code) can make a nonsensical instruction but never an access out of bounds.
#include "isa/insn.h"

#define WINDOW 48 // 15 prefixes, opcode, ModRM, SIB, displacement and immediate that may be looked at before the check
#define SAFE_AVAIL 40 // from here on the caller's bytes can serve as the window

enum { BY_OS, BY_VL, BY_MODE, BY_COUNT };
enum { SRC_NO = 0, SRC_REG = 8, SRC_RM = 16, SRC_OPR = 24, SRC_VVVV = 32, SRC_IS4 = 40 };

// Kinds of immediate; from IMM_SPECIAL on they need more than a load and an extension.
enum {
    IMM_NONE,
    IMM_U8,
    IMM_S8,
    IMM_Z,
    IMM_V,
    IMM_ONE,
    IMM_U16,
    IMM_FAR,
    IMM_MOFFS,
    IMM_U16_U8,
    IMM_U8_U8,
    IMM_IS4,
    IMM_SPECIAL = IMM_ONE
};

// What a form asks of the decoder beyond its operands.
enum {
    FC_LOCK = 0x001,     // LOCK allowed
    FC_DF64 = 0x002,     // operand size defaults to 64 bits in 64-bit mode
    FC_NEAR = 0x004,     // near branch
    FC_MODANY = 0x008,   // ModRM always names a register
    FC_VVVV = 0x010,     // VEX.vvvv names an operand
    FC_GATHER = 0x020,   // vector index; destination, index and mask must differ
    FC_FARMEM = 0x080,   // far pointer in memory
    FC_SEGLOAD = 0x100,  // segment register destination
    FC_REGCHECK = 0x200, // has a segment, control or debug register operand
    FC_MODESIZE = 0x400, // some operand's size goes by mode
    FC_SPECIAL = FC_GATHER | FC_REGCHECK | FC_MODESIZE,
};

struct operand_code {
    u8 kind[2]; // register, memory
    u8 high[2]; // 4 where register numbers 4-7 mean AH CH DH BH without REX
    u8 source;  // SRC_*
    u8 mask, base;
    u8 by;           // BY_*
    u16 size[2][3];  // by operand size; by mode for BY_MODE
    u16 size_256[2]; // BY_VL, with a vector length of 256 bits
};

struct form_code {
    u16 op, flags;
    u8 imm, nopnd;
    u8 opnd[ISA_MAX_OPERANDS];
};

#include "isa_tables.inc"

_Static_assert(ISA_OPND_GPR8H == ISA_OPND_GPR + 1 && ISA_OPND_YMM == ISA_OPND_XMM + 1, "kinds are computed by adding");
_Static_assert(ISA_FEAT_COUNT <= 256, "isa_form_info.feature is a byte");

// What a byte at the opcode position is: an opcode, an escape, or a prefix.
enum byte_role {
    ROLE_OPCODE,
    ROLE_ESCAPE,
    ROLE_VEX2,
    ROLE_VEX3,
    ROLE_PREFIX, // from here on: prefixes
    ROLE_REX = ROLE_PREFIX,
    ROLE_SEG, // ROLE_SEG + enum x86_sreg
    ROLE_OPSIZE = ROLE_SEG + 6,
    ROLE_ADSIZE,
    ROLE_LOCK,
    ROLE_REP,
    ROLE_REPNE,
    ROLE_IGNORED_SEG, // ES, CS, SS, DS in 64-bit mode
};

#define COMMON_ROLES \
    [0x0f] = ROLE_ESCAPE, [0x64] = ROLE_SEG + X86_FS, [0x65] = ROLE_SEG + X86_GS, [0x66] = ROLE_OPSIZE, \
    [0x67] = ROLE_ADSIZE, [0xc4] = ROLE_VEX3, [0xc5] = ROLE_VEX2, [0xf0] = ROLE_LOCK, [0xf2] = ROLE_REPNE, \
    [0xf3] = ROLE_REP

static const u8 byte_roles[2][256] = {
    {COMMON_ROLES, [0x26] = ROLE_SEG + X86_ES, [0x2e] = ROLE_SEG + X86_CS, [0x36] = ROLE_SEG + X86_SS,
     [0x3e] = ROLE_SEG + X86_DS},
    {COMMON_ROLES, [0x26] = ROLE_IGNORED_SEG, [0x2e] = ROLE_IGNORED_SEG, [0x36] = ROLE_IGNORED_SEG,
     [0x3e] = ROLE_IGNORED_SEG, [0x40 ... 0x4f] = ROLE_REX},
};

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define COLD __attribute__((noinline))

#define NO_SEG 0xff
#define SPACE_OTHER 7 // an opcode map of which nothing is known: all opcodes have ModRM and no immediate

// State of one decoding.
struct dec {
    const u8 *start, *p;
    struct insn *in;
    u32 options;
    bool mode64;
    u8 prefix, rex, seg, sib;
    u8 vvvv, vl; // vl: 0 legacy, 1 128 bits, 2 256 bits
    u8 pp;       // column of the mandatory prefix in VEX: NP 66 F3 F2
    u8 space;    // row of tree_roots
    u16 flags;   // FC_* of the form
    bool invalid;
};

static ALWAYS_INLINE u32 load32(const u8 *p)
{
    u32 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static ALWAYS_INLINE u64 load64(const u8 *p)
{
    u64 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

static COLD const u8 *fill_window(u8 *window, const u8 *bytes, size_t avail)
{
    __builtin_memset(window, 0, WINDOW);
    if (avail >= 16) {
        __builtin_memcpy(window, bytes, 16);
    } else if (avail >= 8) {
        u64 low = load64(bytes), high = load64(bytes + avail - 8);
        __builtin_memcpy(window, &low, 8);
        __builtin_memcpy(window + avail - 8, &high, 8);
    } else {
        for (size_t i = 0; i < avail; i++)
            window[i] = bytes[i];
    }
    return window;
}

// --- prefixes and opcode ---------------------------------------------------------------------------------------------

// Prefixes in general; stops at the opcode or the escape and returns its role, or ROLE_PREFIX after 15 of them.
static COLD unsigned scan_prefixes(struct dec *d)
{
    for (; d->p - d->start < ISA_MAX_LEN; d->p++) {
        unsigned role = byte_roles[d->mode64][*d->p];
        if (role < ROLE_PREFIX)
            return role;
        d->rex = 0;
        switch (role) {
        case ROLE_REX: d->rex = *d->p; break;
        case ROLE_OPSIZE: d->prefix |= ISA_PFX_OPSIZE; break;
        case ROLE_ADSIZE: d->prefix |= ISA_PFX_ADSIZE; break;
        case ROLE_LOCK: d->prefix |= ISA_PFX_LOCK; break;
        case ROLE_REP: d->prefix = (d->prefix & ~ISA_PFX_REPNE) | ISA_PFX_REP; break;
        case ROLE_REPNE: d->prefix = (d->prefix & ~ISA_PFX_REP) | ISA_PFX_REPNE; break;
        case ROLE_IGNORED_SEG: break;
        default: d->seg = (u8)(role - ROLE_SEG); d->prefix |= ISA_PFX_SEG;
        }
    }
    return ROLE_PREFIX;
}

static COLD void open_vex(struct dec *d, unsigned role)
{
    struct insn *in = d->in;
    unsigned last;
    if ((d->prefix & (ISA_PFX_LOCK | ISA_PFX_REP | ISA_PFX_REPNE | ISA_PFX_OPSIZE)) || d->rex)
        d->invalid = true;
    if (role == ROLE_VEX2) {
        last = d->p[1];
        d->rex = last & 0x80 ? 0 : ISA_REX_R;
        d->space = 4;
        d->p += 2;
        in->enc = ISA_ENC_VEX2;
    } else {
        unsigned mid = d->p[1], map = mid & 0x1f;
        last = d->p[2];
        d->rex = (~mid >> 5 & 7) | (last & 0x80 ? ISA_REX_W : 0);
        d->space = (u8)(3 + map);
        d->p += 3;
        in->enc = ISA_ENC_VEX3;
        if (map < 1 || map > 3) {
            d->invalid = true;
            d->space = SPACE_OTHER;
        }
    }
    in->map = (d->space - 3) & 3;
    d->pp = last & 3;
    d->vvvv = ~(last >> 3) & 15;
    d->vl = last & 4 ? 2 : 1;
    if (!d->mode64)
        d->rex &= ISA_REX_W;
}

static ALWAYS_INLINE unsigned legacy_column(unsigned prefix)
{
    if (prefix & ISA_PFX_REP)
        return 2;
    if (prefix & ISA_PFX_REPNE)
        return 3;
    return prefix & ISA_PFX_OPSIZE ? 1 : 0;
}

// The F3 forms that a processor without their feature takes for the form without F3.
static COLD bool ignores_rep(const struct dec *d)
{
    if (d->space != ISA_MAP_0F || !(d->prefix & ISA_PFX_REP))
        return false;
    switch (d->in->opcode) {
    case 0x09: return d->options & ISA_OPT_NO_WBNOINVD;
    case 0xbc: return d->options & ISA_OPT_NO_TZCNT;
    case 0xbd: return d->options & ISA_OPT_NO_LZCNT;
    default: return false;
    }
}

// Walk from an opcode's root to its form (0: none).
static unsigned find_form(const struct dec *d, unsigned entry, unsigned modrm, unsigned column)
{
    u64 keys = (u64)d->mode64 << 8 * DIM_MODE | (u64)(modrm >= 0xc0) << 8 * DIM_MOD |
               (u64)(modrm >> 3 & 7) << 8 * DIM_REG | (u64)(modrm & 7) << 8 * DIM_RM | (u64)column << 8 * DIM_PFX |
               (u64)(d->rex >> 3 & 1) << 8 * DIM_W | (u64)(d->rex & 1) << 8 * DIM_B | (u64)(d->vl == 2) << 8 * DIM_L;
    do {
        const u16 *node = &tree_nodes[entry & (ENTRY_MODRM - 1)];
        entry = node[1 + (keys >> 8 * node[0] & 7)];
    } while (entry & ENTRY_NODE);
    return entry;
}

// --- memory operand --------------------------------------------------------------------------------------------------

static ALWAYS_INLINE i64 extend(u64 raw, unsigned size, bool is_signed)
{
    unsigned shift = 64 - 8 * size;
    if (!size)
        return 0;
    return is_signed ? (i64)(raw << shift) >> shift : (i64)(raw << shift >> shift);
}

static COLD void memory16(struct dec *d, unsigned modrm)
{
    static const u8 base[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP, X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const u8 index[8] = {X86_RSI,      X86_RDI,      X86_RSI,      X86_RDI,
                                ISA_REG_NONE, ISA_REG_NONE, ISA_REG_NONE, ISA_REG_NONE};
    struct insn *in = d->in;
    unsigned mod = modrm >> 6, rm = modrm & 7;
    in->base = base[rm];
    in->index = index[rm];
    in->disp_size = (u8)mod; // mod 1: one byte, mod 2: two
    if (mod == 0 && rm == 6) {
        in->base = ISA_REG_NONE;
        in->disp_size = 2;
    }
    in->disp = extend(load32(d->p), in->disp_size, true);
    d->p += in->disp_size;
    if (d->seg == NO_SEG && in->base == X86_RBP)
        in->seg = X86_SS;
}

// ModRM memory operand with 32- or 64-bit addressing. SDM 2A 2.1.5, 2.2.1.
static ALWAYS_INLINE void memory32(struct dec *d, unsigned modrm)
{
    static const u8 disp_sizes[4] = {0, 1, 4, 0};
    struct insn *in = d->in;
    unsigned mod = modrm >> 6, rm = modrm & 7;
    unsigned base = rm, index = 4, scale = 0, size = disp_sizes[mod], none = ISA_REG_NONE;
    if (rm == 4) {
        unsigned sib = *d->p++;
        d->sib = (u8)sib;
        base = sib & 7;
        index = (sib >> 3 & 7) | (d->rex & ISA_REX_X) << 2;
        scale = sib >> 6;
    } else {
        none = d->mode64 ? ISA_REG_RIP : ISA_REG_NONE;
    }
    bool no_base = mod == 0 && base == 5;
    unsigned full = base | (d->rex & ISA_REX_B) << 3;
    size = no_base ? 4 : size;
    in->base = (u8)(no_base ? none : full);
    in->index = (u8)(index == 4 ? ISA_REG_NONE : index);
    in->scale = (u8)scale;
    in->disp_size = (u8)size;
    u32 raw = load32(d->p);
    in->disp = size == 4 ? (i32)raw : size ? (i8)raw : 0;
    d->p += size;
    if (d->seg == NO_SEG && (full == X86_RSP || full == X86_RBP) && !no_base)
        in->seg = X86_SS;
}

static ALWAYS_INLINE void memory(struct dec *d, unsigned modrm)
{
    if (UNLIKELY(d->in->adsize == 2)) {
        struct dec copy = *d;
        memory16(&copy, modrm);
        d->p = copy.p;
    } else
        memory32(d, modrm);
}

// --- immediates ------------------------------------------------------------------------------------------------------

// Bytes by operand size, and what is kept of the sign-extended value.
static const u8 imm_sizes[IMM_SPECIAL][3] = {
    [IMM_U8] = {1, 1, 1}, [IMM_S8] = {1, 1, 1}, [IMM_Z] = {2, 4, 4}, [IMM_V] = {2, 4, 8}};
static const u64 imm_masks[IMM_SPECIAL] = {[IMM_U8] = 0xff, [IMM_S8] = ~0ull, [IMM_Z] = ~0ull, [IMM_V] = ~0ull};

static COLD void special_immediate(struct dec *d, unsigned kind, unsigned os)
{
    struct insn *in = d->in;
    unsigned size;
    switch (kind) {
    case IMM_ONE: in->imm = 1; break;
    case IMM_U16:
        in->imm = load32(d->p) & 0xffff;
        d->p += 2;
        break;
    case IMM_FAR:
        size = os ? 4 : 2;
        in->imm = extend(load32(d->p), size, false);
        in->imm2 = load32(d->p + size) & 0xffff;
        d->p += size + 2;
        break;
    case IMM_MOFFS:
        in->disp_size = in->adsize;
        in->disp = extend(load64(d->p), in->adsize, false);
        d->p += in->adsize;
        in->imm_off = (u8)(d->p - d->start);
        break;
    case IMM_U16_U8:
        in->imm = load32(d->p) & 0xffff;
        in->imm2 = d->p[2];
        d->p += 3;
        break;
    case IMM_U8_U8:
        in->imm = *d->p++;
        in->imm2 = *d->p++;
        break;
    default: in->imm = *d->p++; // IMM_IS4
    }
}

static ALWAYS_INLINE void immediate(struct dec *d, unsigned kind, unsigned os)
{
    struct insn *in = d->in;
    if (UNLIKELY(kind >= IMM_SPECIAL)) {
        struct dec copy = *d;
        special_immediate(&copy, kind, os);
        d->p = copy.p;
        return;
    }
    unsigned size = imm_sizes[kind][os];
    unsigned shift = (64 - 8 * size) & 63;
    in->imm = (i64)((u64)((i64)(load64(d->p) << shift) >> shift) & imm_masks[kind]);
    d->p += size;
}

// --- operands and validity -------------------------------------------------------------------------------------------

static ALWAYS_INLINE void operand(struct isa_operand *o, const struct operand_code *c, u64 regs, unsigned mem,
                                  unsigned os, unsigned no_rex)
{
    unsigned reg = ((regs >> c->source) & c->mask) + c->base;
    unsigned high = reg & c->high[mem] & no_rex;
    o->kind = (u8)(c->kind[mem] + (high >> 2));
    o->reg = (u8)(reg - high);
    o->size = c->size[mem][os];
}

// Registers that do not exist, and what only vector-indexed forms have to obey.
static COLD bool special_valid(struct dec *d)
{
    struct insn *in = d->in;
    for (unsigned i = 0; i < in->nopnd; i++) {
        struct isa_operand *o = &in->opnd[i];
        const struct operand_code *c = &operand_codes[form_codes[in->form].opnd[i]];
        if (c->by == BY_MODE)
            o->size = c->size[o->kind == ISA_OPND_MEM][in->mode];
        if (o->kind == ISA_OPND_SEG && (o->reg > X86_GS || (d->flags & FC_SEGLOAD && i == 0 && o->reg == X86_CS)))
            return false;
        if (o->kind == ISA_OPND_DR && o->reg > 7)
            return false;
        if (o->kind == ISA_OPND_CR && o->reg == 0 && in->prefix & ISA_PFX_LOCK && d->options & ISA_OPT_AMD)
            o->reg = 8; // AltMovCr8, APM 3 MOV CRn
        if (o->kind == ISA_OPND_CR && !(0x11du >> o->reg & 1))
            return false;
    }
    if (!(d->flags & FC_GATHER))
        return true;
    if ((in->modrm & 7) != 4 || in->adsize == 2)
        return false;
    in->index = (u8)((d->sib >> 3 & 7) | (d->rex & ISA_REX_X) << 2);
    return in->opnd[0].reg != in->index && in->index != in->vvvv && in->opnd[0].reg != in->vvvv;
}

static COLD bool valid(struct dec *d)
{
    struct insn *in = d->in;
    if (UNLIKELY(d->vl && d->vvvv && !(d->flags & FC_VVVV)))
        return false;
    if (UNLIKELY(d->flags & FC_SPECIAL) && !special_valid(d))
        return false;
    if (LIKELY(!(d->prefix & ISA_PFX_LOCK)))
        return true;
    return (d->flags & FC_LOCK && in->opnd[0].kind == ISA_OPND_MEM) ||
           (d->flags & FC_REGCHECK &&
            ((in->opnd[0].kind == ISA_OPND_CR && in->opnd[0].reg == 8) ||
             (in->opnd[1].kind == ISA_OPND_CR && in->opnd[1].reg == 8)) &&
            d->options & ISA_OPT_AMD && !(d->rex & ISA_REX_R));
}

// Index 0..2 of the operand size: 16, 32, 64 bits. SDM 1 3.6, APM 3 1.2.2.
static ALWAYS_INLINE unsigned operand_size(const struct dec *d, unsigned mode)
{
    unsigned size = (mode != ISA_MODE_16) ^ !!(d->prefix & ISA_PFX_OPSIZE);
    if (!d->mode64)
        return size;
    if (d->flags & FC_NEAR && !(d->options & ISA_OPT_AMD))
        return 2;
    if (d->rex & ISA_REX_W) // AMD has no 64-bit far pointers and takes 32 bits, even against 66
        return d->flags & FC_FARMEM && d->options & ISA_OPT_AMD ? 1 : 2;
    return d->flags & (FC_DF64 | FC_NEAR) && size ? 2 : size;
}

static COLD enum isa_status failure(struct insn *in, size_t avail, size_t used, enum isa_status status)
{
    if (used > avail && avail < ISA_MAX_LEN) {
        used = avail;
        status = ISA_TRUNCATED;
    } else if (used > ISA_MAX_LEN) {
        used = ISA_MAX_LEN;
        status = ISA_TOO_LONG;
    }
    in->len = (u8)used;
    return status;
}

// Go past the three payload bytes of EVEX or the two of XOP, whose opcodes have no forms here, and past their opcode.
// Returns the row of tree_roots that has the shape of the opcode map, and the bytes of immediate beyond that.
static unsigned open_unknown(struct dec *d, unsigned lead, unsigned *extra)
{
    static const u8 evex_spaces[4] = {SPACE_OTHER, 4, 5, 6};
    bool evex = d->in->opcode == 0x62;
    d->p += evex ? 3 : 2;
    d->in->opcode = *d->p++;
    *extra = !evex && (lead & 0x1f) == 10 ? 4 : 0;
    if (!evex || ((lead & 3) == 1 && (d->in->opcode & 0xfc) == 0x78)) // AVX-512 has given 0F 78-7B a plain ModRM byte
        return SPACE_OTHER;
    return evex_spaces[lead & 3];
}

// EVEX is BOUND with a register operand outside 64-bit mode, XOP is POP with another opcode extension than 0.
static bool escapes_to_unknown(const struct dec *d, unsigned opcode, unsigned lead)
{
    if (d->space != ISA_MAP_1 || d->prefix & ISA_PFX_REX)
        return false;
    return opcode == 0x62 ? d->mode64 || lead >= 0xc0 : opcode == 0x8f && lead & 0x38;
}

// What follows an opcode that has no form: processors know the shape of nearly all of them, and fetch that much before
// they raise #UD. Observed on AMD family 19h (tests/isa/processor.c).
static void skip_unknown(struct dec *d, unsigned os)
{
    unsigned space = d->space, lead = *d->p, opcode = d->in->opcode, extra = 0, tail = IMM_NONE;
    bool modrm = true, mem = true;
    if (escapes_to_unknown(d, opcode, lead)) {
        space = open_unknown(d, lead, &extra);
        opcode = d->in->opcode;
    }
    if (space >= 4)
        os = 1;
    if (space == 4 && !tree_roots[4][opcode])
        space = ISA_MAP_0F;
    if (space == ISA_MAP_0F3A || space == 6 || (space == ISA_MAP_0F && opcode == 0x0f)) { // 0F 0F: 3DNow!
        tail = IMM_U8;
    } else if (space == ISA_MAP_1 || space == ISA_MAP_0F || space == 4) {
        modrm = tree_roots[space][opcode] & ENTRY_MODRM;
        mem = space != ISA_MAP_0F || (opcode & 0xfc) != 0x20; // MOV CR and DR
        tail = tree_tails[space][opcode];
    }
    if (modrm) {
        unsigned byte = *d->p++;
        if (mem && byte < 0xc0)
            memory(d, byte);
    }
    immediate(d, tail, os);
    d->p += extra;
}

static COLD enum isa_status unknown(struct dec *d, size_t avail, unsigned mode)
{
    struct insn *in = d->in;
    d->p = d->start + in->opcode_off + 1;
    if (d->vl && d->prefix & ISA_PFX_REX) { // REX takes VEX's meaning away: the shape is that of LES and LDS
        d->p -= in->enc == ISA_ENC_VEX2 ? 2 : 3;
        d->space = ISA_MAP_1;
        in->opcode = in->enc == ISA_ENC_VEX2 ? 0xc5 : 0xc4;
    }
    skip_unknown(d, operand_size(d, mode));
    return failure(d->in, avail, (size_t)(d->p - d->start), ISA_INVALID);
}

// --- the whole -------------------------------------------------------------------------------------------------------

// Prefixes; returns the role of what follows them.
static ALWAYS_INLINE unsigned prefixes(struct dec *d)
{
    // The common start is an opcode, or one REX byte and an opcode; everything else is scanned.
    unsigned is_rex = d->mode64 && (*d->p & 0xf0) == 0x40;
    unsigned role = byte_roles[d->mode64][d->p[is_rex]];
    if (LIKELY(role < ROLE_PREFIX)) {
        d->rex = is_rex ? *d->p : 0;
        d->p += is_rex;
    } else {
        struct dec copy = *d;
        role = scan_prefixes(&copy);
        *d = copy;
    }
    d->prefix |= d->rex ? ISA_PFX_REX : 0;
    return role;
}

// Opcode map.
static ALWAYS_INLINE void opcode_map(struct dec *d, unsigned role)
{
    struct insn *in = d->in;
    if (role >= ROLE_VEX2 && (d->mode64 || d->p[1] >= 0xc0)) // else LES or LDS
    {
        struct dec copy = *d;
        open_vex(&copy, role);
        *d = copy;
        return;
    }
    if (role == ROLE_ESCAPE) {
        d->space = ISA_MAP_0F;
        if (*++d->p == 0x38 || *d->p == 0x3a)
            d->space = *d->p++ == 0x38 ? ISA_MAP_0F38 : ISA_MAP_0F3A;
    }
    in->map = d->space;
    in->enc = ISA_ENC_LEGACY;
}

// Opcode, ModRM and the form they select (0: none).
static ALWAYS_INLINE unsigned opcode_form(struct dec *d)
{
    struct insn *in = d->in;
    unsigned opcode = *d->p++, entry = tree_roots[d->space][opcode], modrm = 0;
    in->opcode = (u8)opcode;
    in->opcode_off = (u8)(d->p - d->start - 1);
    in->has_modrm = !!(entry & ENTRY_MODRM);
    in->modrm_off = 0;
    if (entry & ENTRY_MODRM) {
        in->modrm_off = (u8)(d->p - d->start);
        modrm = *d->p++;
        entry &= ~(unsigned)ENTRY_MODRM;
    }
    in->modrm = (u8)modrm;
    if (!(entry & ENTRY_NODE))
        return entry;
    unsigned column = d->vl ? d->pp : legacy_column(d->prefix);
    if (UNLIKELY(d->options & ~(u32)ISA_OPT_AMD) && ignores_rep(d))
        column = 0;
    return find_form(d, entry, modrm, column);
}

static ALWAYS_INLINE unsigned address(struct dec *d, unsigned mode)
{
    struct insn *in = d->in;
    unsigned mem = in->has_modrm && in->modrm < 0xc0 && !(d->flags & FC_MODANY);
    in->adsize = (u8)((mode == ISA_MODE_16 ? 2 : 4) << d->mode64);
    if (UNLIKELY(d->prefix & ISA_PFX_ADSIZE))
        in->adsize = (u8)(mode == ISA_MODE_32 ? 2 : 4);
    in->seg = d->seg == NO_SEG ? X86_DS : d->seg;
    in->base = in->index = ISA_REG_NONE;
    in->scale = in->disp_size = 0;
    in->disp = 0;
    if (mem)
        memory(d, in->modrm);
    return mem;
}

// The rest of a VEX form's operands: those in vvvv and imm8[7:4], which have one bit less outside 64-bit mode, and the
// sizes of 256-bit vectors.
static COLD void vex_operands(struct dec *d, const struct form_code *form, unsigned mem)
{
    struct insn *in = d->in;
    unsigned bits = d->mode64 ? 15 : 7;
    in->vvvv = d->vvvv & bits;
    in->vl = (u8)(d->vl << 4);
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct operand_code *c = &operand_codes[form->opnd[i]];
        struct isa_operand *o = &in->opnd[i];
        if (c->source == SRC_VVVV)
            o->reg = in->vvvv;
        else if (c->source == SRC_IS4)
            o->reg = in->imm >> 4 & bits;
        if (d->vl == 2 && c->by == BY_VL) {
            o->size = c->size_256[mem];
            o->kind += o->kind == ISA_OPND_XMM && o->size == 32;
        }
    }
}

static ALWAYS_INLINE void operands(struct dec *d, const struct form_code *form, unsigned mem, unsigned os)
{
    struct insn *in = d->in;
    u64 regs = (u64)((in->modrm >> 3 & 7) | (d->rex & ISA_REX_R) << 1) << SRC_REG |
               (u64)((in->modrm & 7) | (d->rex & ISA_REX_B) << 3) << SRC_RM |
               (u64)((in->opcode & 7) | (d->rex & ISA_REX_B) << 3) << SRC_OPR;
    unsigned no_rex = d->prefix & ISA_PFX_REX ? 0 : 4;
    operand(&in->opnd[0], &operand_codes[form->opnd[0]], regs, mem, os, no_rex);
    operand(&in->opnd[1], &operand_codes[form->opnd[1]], regs, mem, os, no_rex);
    in->opnd[2] = in->opnd[3] = (struct isa_operand){0};
    if (form->nopnd > 2) {
        operand(&in->opnd[2], &operand_codes[form->opnd[2]], regs, mem, os, no_rex);
        operand(&in->opnd[3], &operand_codes[form->opnd[3]], regs, mem, os, no_rex);
    }
    in->nopnd = form->nopnd;
    in->vvvv = in->vl = 0;
    if (UNLIKELY(d->vl))
        vex_operands(d, form, mem);
}

// `mode` is a constant in each of the copies below.
static ALWAYS_INLINE enum isa_status decode(const u8 *start, size_t avail, enum isa_mode mode, u32 options,
                                            struct insn *in)
{
    struct dec d = {
        .in = in, .options = options, .mode64 = mode == ISA_MODE_64, .seg = NO_SEG, .start = start, .p = start};

    unsigned role = prefixes(&d);
    if (UNLIKELY(role == ROLE_PREFIX))
        return failure(in, avail, ISA_MAX_LEN + 1, ISA_TOO_LONG);
    opcode_map(&d, role);
    unsigned entry = opcode_form(&d);
    const struct form_code *form = &form_codes[entry];
    d.flags = form->flags;
    unsigned mem = address(&d, mode);
    if (UNLIKELY(!entry || d.invalid)) {
        struct dec copy = d;
        return unknown(&copy, avail, mode);
    }

    unsigned os = operand_size(&d, mode);
    in->imm_off = (u8)(d.p - d.start);
    in->imm2 = 0;
    immediate(&d, form->imm, os);
    size_t len = (size_t)(d.p - d.start);
    if (UNLIKELY(len > avail || len > ISA_MAX_LEN))
        return failure(in, avail, len, ISA_TOO_LONG);

    operands(&d, form, mem, os);
    in->form = (u16)entry;
    in->op = form->op;
    in->len = (u8)len;
    in->mode = (u8)mode;
    in->opsize = (u8)(2 << os);
    in->prefix = d.prefix;
    in->rex = d.rex & 15;
    if (UNLIKELY(d.vl | (d.flags & FC_SPECIAL) | (d.prefix & ISA_PFX_LOCK))) {
        struct dec copy = d;
        return valid(&copy) ? ISA_OK : ISA_INVALID;
    }
    return ISA_OK;
}

enum isa_status isa_decode(const u8 *bytes, size_t avail, enum isa_mode mode, u32 options, struct insn *in)
{
    u8 window[WINDOW];
    const u8 *start = avail >= SAFE_AVAIL ? bytes : fill_window(window, bytes, avail);
    if (mode == ISA_MODE_64)
        return decode(start, avail, ISA_MODE_64, options, in);
    if (mode == ISA_MODE_32)
        return decode(start, avail, ISA_MODE_32, options, in);
    return decode(start, avail, ISA_MODE_16, options, in);
}
