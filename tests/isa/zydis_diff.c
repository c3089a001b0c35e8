// The decoder against Zydis: the same bytes through both, every disagreement counted.
//
//   zydis_diff [--quick | --long] [--count N] [--seed S] [--verbose]
//
// Two sources of encodings: a systematic walk (mode x prefix set x opcode map x opcode x ModRM x SIB class, and the
// same for VEX with its W, L, pp and vvvv), and seeded random ones (prefix soup, truncation, length limit). Compared:
// validity, length, operation, operand and address size, every visible operand (kind, register, size, access, memory operand,
// immediate), flags. What Zydis knows and the table does not have (EVEX, XOP, 3DNow!, AMX ...) must be invalid here.
// `exceptions` lists the places where the two differ on purpose; QUIRKS.md repeats it.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "isa/insn.h"

#define BUF 24

struct pair {
    const u8 *bytes;
    size_t avail;
    enum isa_mode mode;
    u32 options;
    enum isa_status status; // ours
    struct insn in;
    ZyanStatus zstatus; // theirs
    ZydisDecodedInstruction z;
    ZydisDecodedOperand zop[ZYDIS_MAX_OPERAND_COUNT];
};

static ZydisDecoder decoders[ISA_MODE_COUNT][2];
static u64 total, valid_total, differences, excepted;
static bool verbose;

// --- reporting -------------------------------------------------------------------------------------------------------

#define MAX_KEYS 4000

static struct {
    char text[160];
    char example[64];
    u64 count;
    bool justified;
} keys[MAX_KEYS];
static int key_count;

static void example_of(const struct pair *p, char *out, size_t size)
{
    size_t n = 0;
    n += (size_t)snprintf(out, size, "%d:", p->mode == ISA_MODE_16 ? 16 : p->mode == ISA_MODE_32 ? 32 : 64);
    for (size_t i = 0; i < p->avail && i < 15 && n + 3 < size; i++)
        n += (size_t)snprintf(out + n, size - n, " %02x", p->bytes[i]);
}

static void record(const struct pair *p, const char *text, bool justified)
{
    int i = 0;
    *(justified ? &excepted : &differences) += 1;
    while (i < key_count && strcmp(keys[i].text, text))
        i++;
    if (i == MAX_KEYS)
        return;
    if (i == key_count) {
        snprintf(keys[i].text, sizeof keys[i].text, "%s", text);
        example_of(p, keys[i].example, sizeof keys[i].example);
        keys[i].justified = justified;
        key_count++;
    }
    keys[i].count++;
}

static const char *zname(const struct pair *p)
{
    return ZYAN_SUCCESS(p->zstatus) ? ZydisMnemonicGetString(p->z.mnemonic) : "-";
}

static const char *our_name(const struct pair *p)
{
    return p->status == ISA_OK ? isa_forms[p->in.form].name : "-";
}

// --- exceptions ------------------------------------------------------------------------------------------------------

enum aspect {
    ASPECT_VALIDITY,
    ASPECT_LENGTH,
    ASPECT_NAME,
    ASPECT_SIZES,
    ASPECT_OPERAND,
    ASPECT_ACCESS,
    ASPECT_FLAGS,
    ASPECT_ATTR
};
static const char *const aspect_names[] = {"validity", "length", "operation", "sizes",
                                           "operand",  "access", "flags",     "attributes"};

struct exception {
    enum aspect aspect;
    bool (*applies)(const struct pair *p);
    const char *reason;
};

#include "zydis_exceptions.h"

static void differ(const struct pair *p, enum aspect aspect, const char *detail)
{
    char text[160];
    for (size_t i = 0; i < ARRAY_LEN(exceptions); i++) {
        if (exceptions[i].aspect == aspect && exceptions[i].applies(p)) {
            snprintf(text, sizeof text, "%s: %s", aspect_names[aspect], exceptions[i].reason);
            record(p, text, true);
            return;
        }
    }
    snprintf(text, sizeof text, "%s: ours %s, Zydis %s: %s", aspect_names[aspect], our_name(p), zname(p), detail);
    record(p, text, false);
}

// --- operations ------------------------------------------------------------------------------------------------------

static const char *const conditions[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                           "s", "ns", "p", "np", "l", "nl", "le", "nle"};

// Zydis mnemonics that one of our operations covers; for everything else the names are the same.
static const struct {
    const char *ours, *theirs;
} aliases[] = {
    {"MOVS", "movsb"},
    {"MOVS", "movsw"},
    {"MOVS", "movsd"},
    {"MOVS", "movsq"},
    {"CMPS", "cmpsb"},
    {"CMPS", "cmpsw"},
    {"CMPS", "cmpsd"},
    {"CMPS", "cmpsq"},
    {"STOS", "stosb"},
    {"STOS", "stosw"},
    {"STOS", "stosd"},
    {"STOS", "stosq"},
    {"LODS", "lodsb"},
    {"LODS", "lodsw"},
    {"LODS", "lodsd"},
    {"LODS", "lodsq"},
    {"SCAS", "scasb"},
    {"SCAS", "scasw"},
    {"SCAS", "scasd"},
    {"SCAS", "scasq"},
    {"INS", "insb"},
    {"INS", "insw"},
    {"INS", "insd"},
    {"OUTS", "outsb"},
    {"OUTS", "outsw"},
    {"OUTS", "outsd"},
    {"CBW", "cwde"},
    {"CBW", "cdqe"},
    {"CWD", "cdq"},
    {"CWD", "cqo"},
    {"JCXZ", "jecxz"},
    {"JCXZ", "jrcxz"},
    {"PUSHA", "pushad"},
    {"POPA", "popad"},
    {"PUSHF", "pushfd"},
    {"PUSHF", "pushfq"},
    {"POPF", "popfd"},
    {"POPF", "popfq"},
    {"IRET", "iretd"},
    {"IRET", "iretq"},
    {"MOV_CR", "mov"},
    {"MOV_DR", "mov"},
    {"JMP_FAR", "jmp"},
    {"CALL_FAR", "call"},
    {"RET_FAR", "ret"},
    {"XLAT", "xlatb"},
    {"FXSAVE", "fxsave64"},
    {"FXRSTOR", "fxrstor64"},
    {"XSAVE", "xsave64"},
    {"XRSTOR", "xrstor64"},
    {"XSAVEC", "xsavec64"},
    {"XSAVES", "xsaves64"},
    {"XRSTORS", "xrstors64"},
    {"XSAVEOPT", "xsaveopt64"},
    {"SYSEXIT", "sysexit"},
    {"FNOP", "fnop"},
    {"FENI", "feni8087_nop"},
    {"FDISI", "fdisi8087_nop"},
    {"FSETPM", "fsetpm287_nop"},
    {"FXCH", "fxch"},
    {"CMOVCC", "fcmov"},
};

static bool same_name(const struct pair *p)
{
    const char *ours = isa_op_names[p->in.op], *theirs = zname(p);
    char expect[24];
    unsigned cc = p->in.opcode & 15;
    bool far = p->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    if (p->in.op == ISA_OP_JCC || p->in.op == ISA_OP_SETCC || p->in.op == ISA_OP_CMOVCC) {
        snprintf(expect, sizeof expect, "%s%s",
                 p->in.op == ISA_OP_JCC     ? "j"
                 : p->in.op == ISA_OP_SETCC ? "set"
                                            : "cmov",
                 conditions[cc]);
        return !strcmp(theirs, expect);
    }
    if (far != (p->in.op == ISA_OP_JMP_FAR || p->in.op == ISA_OP_CALL_FAR || p->in.op == ISA_OP_RET_FAR) &&
        (!strcmp(theirs, "jmp") || !strcmp(theirs, "call") || !strcmp(theirs, "ret")))
        return false;
    size_t i = 0;
    for (; ours[i]; i++)
        if ((ours[i] | 0x20) != theirs[i] && ours[i] != theirs[i])
            break;
    if (!ours[i] && !theirs[i])
        return true;
    for (i = 0; i < ARRAY_LEN(aliases); i++)
        if (!strcmp(ours, aliases[i].ours) && !strcmp(theirs, aliases[i].theirs))
            return true;
    return false;
}

// --- operands --------------------------------------------------------------------------------------------------------

static bool same_register(const struct isa_operand *o, ZydisRegister r)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(r);
    int id = ZydisRegisterGetId(r);
    switch (class) {
    case ZYDIS_REGCLASS_GPR8:
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            return o->kind == ISA_OPND_GPR8H && o->reg == r - ZYDIS_REGISTER_AH;
        id = r >= ZYDIS_REGISTER_SPL ? r - ZYDIS_REGISTER_SPL + 4 : r - ZYDIS_REGISTER_AL;
        return o->kind == ISA_OPND_GPR && o->size == 1 && o->reg == id;
    case ZYDIS_REGCLASS_GPR16: return o->kind == ISA_OPND_GPR && o->size == 2 && o->reg == id;
    case ZYDIS_REGCLASS_GPR32: return o->kind == ISA_OPND_GPR && o->size == 4 && o->reg == id;
    case ZYDIS_REGCLASS_GPR64: return o->kind == ISA_OPND_GPR && o->size == 8 && o->reg == id;
    case ZYDIS_REGCLASS_X87: return o->kind == ISA_OPND_ST && o->reg == id;
    case ZYDIS_REGCLASS_MMX: return o->kind == ISA_OPND_MMX && o->reg == id;
    case ZYDIS_REGCLASS_XMM: return o->kind == ISA_OPND_XMM && o->reg == id;
    case ZYDIS_REGCLASS_YMM: return o->kind == ISA_OPND_YMM && o->reg == id;
    case ZYDIS_REGCLASS_SEGMENT: return o->kind == ISA_OPND_SEG && o->reg == id;
    case ZYDIS_REGCLASS_CONTROL: return o->kind == ISA_OPND_CR && o->reg == id;
    case ZYDIS_REGCLASS_DEBUG: return o->kind == ISA_OPND_DR && o->reg == id;
    default: return false;
    }
}

static u8 base_number(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return ISA_REG_NONE;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return ISA_REG_RIP;
    return (u8)ZydisRegisterGetId(r);
}

static const char *memory_difference(const struct pair *p, const struct isa_operand *o, const ZydisDecodedOperand *z)
{
    const struct insn *in = &p->in;
    if (z->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
        ZydisRegisterGetId(z->mem.segment) != (o->kind == ISA_OPND_STR_DST ? X86_ES : in->seg))
        return "segment";
    if (o->size && o->size * 8u != z->size)
        return "memory size";
    if (o->kind != ISA_OPND_MEM)
        return NULL;
    if (base_number(z->mem.base) != in->base)
        return "base";
    if (base_number(z->mem.index) != in->index)
        return "index";
    if (z->mem.index != ZYDIS_REGISTER_NONE && z->mem.scale != 1u << in->scale && z->mem.scale)
        return "scale";
    u64 disp_mask = in->base == ISA_REG_NONE && in->adsize < 8 ? (1ull << 8 * in->adsize) - 1 : ~0ull;
    if (((u64)z->mem.disp.value ^ (u64)in->disp) & disp_mask)
        return "displacement";
    return NULL;
}

static const char *operand_difference(const struct pair *p, const struct isa_operand *o, const ZydisDecodedOperand *z)
{
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: return same_register(o, z->reg.value) ? NULL : "register";
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (o->kind != ISA_OPND_MEM && o->kind != ISA_OPND_STR_SRC && o->kind != ISA_OPND_STR_DST)
            return "not memory";
        return memory_difference(p, o, z);
    case ZYDIS_OPERAND_TYPE_POINTER:
        return o->kind == ISA_OPND_FAR && z->ptr.segment == p->in.imm2 && z->ptr.offset == p->in.imm ? NULL : "pointer";
    default:
        if (o->kind == ISA_OPND_IMM2)
            return z->imm.value.u == p->in.imm2 ? NULL : "second immediate";
        if (o->kind != ISA_OPND_IMM && o->kind != ISA_OPND_REL)
            return "not an immediate";
        // Zydis extends some unsigned immediates, we others: what counts is the operand's width.
        unsigned width = o == &p->in.opnd[1] && p->in.opnd[0].size <= 8 ? p->in.opnd[0].size : p->in.opsize;
        u64 mask = width == 8 ? ~0ull : (1ull << 8 * width) - 1;
        return ((z->imm.value.u ^ (u64)p->in.imm) & mask) ? "immediate" : NULL;
    }
}

static unsigned access_of(const ZydisDecodedOperand *z)
{
    unsigned r = z->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE) ? ISA_ACC_R : 0;
    return r | (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? ISA_ACC_W : 0);
}

static void compare_operands(const struct pair *p)
{
    const struct isa_form_info *f = &isa_forms[p->in.form];
    int n = p->z.operand_count_visible, first = 0, skip = 0;
    // Zydis shows ST(0) where the manuals' syntax leaves it out.
    if (f->attr & ISA_ATTR_X87 && n == p->in.nopnd + 1)
        first = p->zop[0].type == ZYDIS_OPERAND_TYPE_REGISTER && p->zop[0].reg.value == ZYDIS_REGISTER_ST0 ? 1 : 0;
    if (n - first > p->in.nopnd && f->implicit_read & ISA_IMPLICIT_XMM0)
        n--;
    if (f->attr & ISA_ATTR_X87 && n - first == p->in.nopnd + 1)
        n--;
    // It hides the operands of string instructions and the like.
    if (n == 0 && p->in.nopnd)
        n = p->in.nopnd;
    if (f->attr & ISA_ATTR_X87 && p->in.opnd[0].kind == ISA_OPND_ST && n == p->in.nopnd - 1)
        skip = 1;
    if (n - first + skip != p->in.nopnd) {
        char text[40];
        snprintf(text, sizeof text, "%d operands, Zydis %d", p->in.nopnd, n - first);
        differ(p, ASPECT_OPERAND, text);
        return;
    }
    for (int i = skip; i < p->in.nopnd; i++) {
        const ZydisDecodedOperand *z = &p->zop[first + i - skip];
        const char *d = operand_difference(p, &p->in.opnd[i], z);
        char text[80];
        if (d) {
            snprintf(text, sizeof text, "#%d %s (kind %d size %d, Zydis size %d)", i, d, p->in.opnd[i].kind,
                     p->in.opnd[i].size, z->size);
            differ(p, ASPECT_OPERAND, text);
        } else if (z->type != ZYDIS_OPERAND_TYPE_IMMEDIATE && z->type != ZYDIS_OPERAND_TYPE_POINTER &&
                   !(f->attr & ISA_ATTR_X87) && f->access[i] != access_of(z)) {
            snprintf(text, sizeof text, "#%d access %d, Zydis %d", i, f->access[i], access_of(z));
            differ(p, ASPECT_ACCESS, text);
        }
    }
}

// --- facts of the form -----------------------------------------------------------------------------------------------

static void compare_flags(const struct pair *p)
{
    const struct isa_form_info *f = &isa_forms[p->in.form];
    static const ZydisAccessedFlags none;
    const ZydisAccessedFlags *z = p->z.cpu_flags ? p->z.cpu_flags : &none;
    u32 zw = (z->modified | z->set_0 | z->set_1) & X86_FL_STATUS, zu = z->undefined & X86_FL_STATUS;
    u32 zr = z->tested & X86_FL_STATUS, fr = isa_flags_read(&p->in) & X86_FL_STATUS,
        changed = f->flags_written | f->flags_undef;
    char text[100];
    // A flag that a form may leave alone is read and written here, but only written for Zydis.
    u32 conditional = fr & changed;
    if (((changed ^ (zw | zu)) & X86_FL_STATUS) == 0 && ((fr ^ zr) & ~conditional) == 0 && (zr & ~fr) == 0 &&
        ((f->flags_undef ^ zu) & X86_FL_STATUS & ~conditional) == 0)
        return;
    snprintf(text, sizeof text, "r %x w %x u %x, Zydis r %x w %x u %x", fr, f->flags_written & X86_FL_STATUS,
             f->flags_undef & X86_FL_STATUS, zr, zw, zu);
    differ(p, ASPECT_FLAGS, text);
}

static void compare_sizes(const struct pair *p)
{
    const struct isa_form_info *f = &isa_forms[p->in.form];
    char text[80];
    if (p->z.address_width != p->in.adsize * 8u) {
        snprintf(text, sizeof text, "address %d, Zydis %d", p->in.adsize * 8, p->z.address_width);
        differ(p, ASPECT_SIZES, text);
    }
    if (f->attr & (ISA_ATTR_X87 | ISA_ATTR_MMX | ISA_ATTR_SSE | ISA_ATTR_AVX) || p->z.operand_width == 8 ||
        f->nopnd == 0)
        return;
    if (p->z.operand_width != p->in.opsize * 8u) {
        snprintf(text, sizeof text, "operand %d, Zydis %d", p->in.opsize * 8, p->z.operand_width);
        differ(p, ASPECT_SIZES, text);
    }
}

// Alignment, #XM, LOCK and repetition, from Zydis' exception classes and prefix attributes.
static void compare_attributes(const struct pair *p)
{
    u32 attr = isa_forms[p->in.form].attr, z = 0, compared = ISA_ATTR_FPEXC | ISA_ATTR_REP | ISA_ATTR_REPCC;
    ZydisExceptionClass class = p->z.meta.exception_class;
    const struct isa_operand *mem = NULL;
    for (unsigned i = 0; i < p->in.nopnd; i++)
        if (p->in.opnd[i].kind == ISA_OPND_MEM)
            mem = &p->in.opnd[i];
    if (class == ZYDIS_EXCEPTION_CLASS_SSE2 || class == ZYDIS_EXCEPTION_CLASS_SSE3 ||
        class == ZYDIS_EXCEPTION_CLASS_AVX2 || class == ZYDIS_EXCEPTION_CLASS_AVX3 ||
        class == ZYDIS_EXCEPTION_CLASS_AVX11)
        z |= ISA_ATTR_FPEXC;
    if (class == ZYDIS_EXCEPTION_CLASS_SSE1 || class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
        class == ZYDIS_EXCEPTION_CLASS_SSE4 || class == ZYDIS_EXCEPTION_CLASS_AVX1)
        z |= ISA_ATTR_ALIGN;
    z |= p->z.attributes & ZYDIS_ATTRIB_ACCEPTS_REP ? ISA_ATTR_REP : 0;
    z |= p->z.attributes & ZYDIS_ATTRIB_ACCEPTS_REPE ? ISA_ATTR_REPCC : 0;
    z |= p->z.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK ? ISA_ATTR_LOCK : 0;
    if (mem)
        compared |= ISA_ATTR_LOCK | (mem->size >= 16 ? ISA_ATTR_ALIGN : 0);
    if ((attr ^ z) & compared) {
        char text[60];
        snprintf(text, sizeof text, "attributes %x, Zydis %x", attr & compared, z & compared);
        differ(p, ASPECT_ATTR, text);
    }
}

// --- one encoding ----------------------------------------------------------------------------------------------------

static bool known_to_zydis_only(const ZydisDecodedInstruction *z)
{
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_AMD3DNOW:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_CET:
    case ZYDIS_ISA_EXT_CLDEMOTE:
    case ZYDIS_ISA_EXT_ENQCMD:
    case ZYDIS_ISA_EXT_FMA4:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_KNC:
    case ZYDIS_ISA_EXT_KNCE:
    case ZYDIS_ISA_EXT_KNCV:
    case ZYDIS_ISA_EXT_MCOMMIT:
    case ZYDIS_ISA_EXT_MOVDIR:
    case ZYDIS_ISA_EXT_MPX:
    case ZYDIS_ISA_EXT_PADLOCK:
    case ZYDIS_ISA_EXT_PCONFIG:
    case ZYDIS_ISA_EXT_PT:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_SERIALIZE:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
    case ZYDIS_ISA_EXT_SMX:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_TBM:
    case ZYDIS_ISA_EXT_TDX:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_UINTR:
    case ZYDIS_ISA_EXT_WAITPKG:
    case ZYDIS_ISA_EXT_XOP: return true;
    default: return false;
    }
}

static enum isa_status expected_status(const struct pair *p)
{
    switch (p->zstatus) {
    case ZYDIS_STATUS_NO_MORE_DATA: return ISA_TRUNCATED;
    case ZYDIS_STATUS_INSTRUCTION_TOO_LONG: return ISA_TOO_LONG;
    default: return ZYAN_FAILED(p->zstatus) || known_to_zydis_only(&p->z) ? ISA_INVALID : ISA_OK;
    }
}

static void compare(const u8 *bytes, size_t avail, enum isa_mode mode, u32 options)
{
    static struct pair p;
    static const char *const status[] = {"OK", "TRUNCATED", "INVALID", "TOO_LONG"};
    p.bytes = bytes;
    p.avail = avail;
    p.mode = mode;
    p.options = options;
    p.status = isa_decode(bytes, avail, mode, options, &p.in);
    p.zstatus =
        ZydisDecoderDecodeFull(&decoders[mode][options & ISA_OPT_AMD], bytes, avail < 15 ? avail : 15, &p.z, p.zop);
    // With 15 bytes given, Zydis calls an overlong instruction truncated.
    if (p.zstatus == ZYDIS_STATUS_NO_MORE_DATA && avail >= 15)
        p.zstatus = ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
    total++;
    enum isa_status expect = expected_status(&p);
    // Where bytes run out, the order of the checks differs: we go by the processor (see isa/decode.c).
    if (expect == ISA_INVALID && (p.status == ISA_TRUNCATED || p.status == ISA_TOO_LONG))
        return;
    if (p.status == ISA_TRUNCATED && expect == ISA_TOO_LONG)
        return;
    if (p.status != expect) {
        char text[80];
        snprintf(text, sizeof text, "ours %s, Zydis %s (%x)", status[p.status], status[expect], p.zstatus & 0xfffff);
        differ(&p, ASPECT_VALIDITY, text);
        return;
    }
    if (p.status != ISA_OK)
        return;
    valid_total++;
    if (p.in.len != p.z.length) {
        differ(&p, ASPECT_LENGTH, "length");
        return;
    }
    if (!same_name(&p))
        differ(&p, ASPECT_NAME, "operation");
    compare_sizes(&p);
    compare_operands(&p);
    compare_flags(&p);
    compare_attributes(&p);
}

// --- encodings -------------------------------------------------------------------------------------------------------

static u64 rng_state;

static u64 rng(void) // xorshift64*, A. Marsaglia / S. Vigna
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return rng_state * 0x2545f4914f6cdd1dull;
}

static unsigned stride = 1, phase; // sample one encoding in `stride`

static void emit(u8 *b, size_t n, enum isa_mode mode)
{
    static const u8 tail[BUF] = {0x81, 0x12, 0xf3, 0x44, 0x95, 0x26, 0xb7, 0x08,
                                 0x99, 0x2a, 0x7b, 0xcc, 0x1d, 0xee, 0x0f};
    if (stride > 1 && ++phase % stride)
        return;
    memcpy(b + n, tail, BUF - n);
    compare(b, BUF, mode, 0);
}

// Opcode already in b[0..n): every ModRM, and where there is a SIB, one of each class.
static void all_modrm(u8 *b, size_t n, enum isa_mode mode)
{
    static const u8 sibs[] = {0x00, 0x24, 0x25, 0x65, 0x05, 0xd8, 0x4d};
    for (unsigned modrm = 0; modrm < 256; modrm++) {
        b[n] = (u8)modrm;
        if (modrm < 0xc0 && (modrm & 7) == 4)
            for (size_t i = 0; i < sizeof sibs; i++) {
                b[n + 1] = sibs[i];
                emit(b, n + 2, mode);
            }
        else
            emit(b, n + 1, mode);
    }
}

static void systematic_legacy(enum isa_mode mode)
{
    static const struct {
        u8 n, bytes[3];
        bool only64;
    } prefixes[] = {
        {0, {0}, 0},          {1, {0x66}, 0},       {1, {0xf3}, 0},
        {1, {0xf2}, 0},       {1, {0x67}, 0},       {1, {0xf0}, 0},
        {1, {0x64}, 0},       {1, {0x2e}, 0},       {2, {0x66, 0xf3}, 0},
        {2, {0xf2, 0x66}, 0}, {2, {0x66, 0x67}, 0}, {2, {0xf3, 0xf2}, 0},
        {2, {0x66, 0xf0}, 0}, {2, {0xf2, 0xf0}, 0}, {1, {0x48}, 1},
        {1, {0x41}, 1},       {1, {0x42}, 1},       {1, {0x44}, 1},
        {1, {0x40}, 1},       {1, {0x4f}, 1},       {2, {0x66, 0x48}, 1},
        {2, {0xf3, 0x48}, 1}, {2, {0xf2, 0x48}, 1}, {2, {0xf0, 0x48}, 1},
        {2, {0x48, 0x66}, 1}, {2, {0x67, 0x45}, 1}, {3, {0x66, 0xf2, 0x4d}, 1},
        {2, {0xf3, 0x41}, 1},
    };
    static const struct {
        u8 n, bytes[2];
    } maps[] = {{0, {0}}, {1, {0x0f}}, {2, {0x0f, 0x38}}, {2, {0x0f, 0x3a}}};
    u8 b[BUF];
    for (size_t p = 0; p < ARRAY_LEN(prefixes); p++) {
        if (prefixes[p].only64 && mode != ISA_MODE_64)
            continue;
        for (size_t m = 0; m < ARRAY_LEN(maps); m++) {
            size_t n = prefixes[p].n;
            memcpy(b, prefixes[p].bytes, n);
            memcpy(b + n, maps[m].bytes, maps[m].n);
            n += maps[m].n;
            for (unsigned op = 0; op < 256; op++) {
                b[n] = (u8)op;
                all_modrm(b, n + 1, mode);
            }
        }
    }
}

// VEX3 with all of map 0..3, W, L, pp and a few of R X B and vvvv; VEX2 likewise; a prefix in front of some.
static void systematic_vex(enum isa_mode mode)
{
    static const u8 vvvvs[] = {0x78, 0x00, 0x50};
    static const u8 rxbs[] = {0xe0, 0xc0, 0x00, 0x60};
    u8 b[BUF];
    for (unsigned map = 0; map < 5; map++)
        for (size_t x = 0; x < (mode == ISA_MODE_64 ? sizeof rxbs : 2); x++)
            for (size_t v = 0; v < sizeof vvvvs; v++)
                for (unsigned wlp = 0; wlp < 16; wlp++)
                    for (unsigned op = 0; op < 256; op++) {
                        b[0] = 0xc4;
                        b[1] = rxbs[x] | (u8)map;
                        b[2] = vvvvs[v] | (u8)((wlp & 8) << 4) | (wlp & 7);
                        b[3] = (u8)op;
                        all_modrm(b, 4, mode);
                    }
    for (unsigned low = 0; low < 256; low++)
        for (unsigned op = 0; op < 256; op++) {
            b[0] = 0xc5;
            b[1] = (u8)low;
            b[2] = (u8)op;
            if (low % 8 < 8 && (low >> 3) % 5 == 0)
                all_modrm(b, 3, mode);
        }
}

static void random_case(void)
{
    static const u8 pool[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66};
    u8 b[BUF];
    size_t n = 0;
    u64 r = rng();
    enum isa_mode mode = (enum isa_mode)(r % 3);
    u32 options = r >> 8 & 1 ? ISA_OPT_AMD : 0;
    unsigned prefixes = (r >> 9 & 3) == 0 ? (unsigned)(r >> 11 & 15) : (unsigned)(r >> 11 & 1);
    for (int i = 0; i < BUF; i += 8) {
        u64 v = rng();
        memcpy(b + i, &v, 8);
    }
    for (unsigned i = 0; i < prefixes; i++) {
        u64 q = rng();
        b[n++] = mode == ISA_MODE_64 && q % 5 == 0 ? 0x40 | (q >> 8 & 15) : pool[(q >> 16) % sizeof pool];
    }
    if (mode == ISA_MODE_64 && (r >> 15 & 3) == 0)
        b[n++] = 0x40 | (r >> 17 & 15);
    switch (r >> 21 & 7) {
    case 0: b[n] = 0x0f; break;
    case 1:
        b[n] = 0x0f;
        b[n + 1] = r >> 24 & 1 ? 0x38 : 0x3a;
        break;
    case 2: b[n] = 0xc5; break;
    case 3:
        b[n] = 0xc4;
        b[n + 1] = (b[n + 1] & 0xe0) | (1 + (r >> 25 & 0xff) % 3);
        break;
    default: break;
    }
    size_t avail = (r >> 33 & 7) == 0 ? (r >> 36) % 15 + 1 : BUF;
    compare(b, avail, mode, options);
}

// --- main ------------------------------------------------------------------------------------------------------------

static void init_decoders(void)
{
    static const ZydisMachineMode machine[] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
                                               ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth stack[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
    for (int m = 0; m < ISA_MODE_COUNT; m++)
        for (int amd = 0; amd < 2; amd++) {
            ZydisDecoder *d = &decoders[m][amd];
            ZydisDecoderInit(d, machine[m], stack[m]);
            ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
            ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
            ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
            ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_TRUE);
            ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, amd ? ZYAN_TRUE : ZYAN_FALSE);
        }
}

static int by_count(const void *a, const void *b)
{
    u64 x = ((const __typeof__(keys[0]) *)a)->count, y = ((const __typeof__(keys[0]) *)b)->count;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void report(void)
{
    qsort(keys, (size_t)key_count, sizeof keys[0], by_count);
    for (int i = 0; i < key_count; i++)
        if (!keys[i].justified || verbose)
            printf("%s %8" PRIu64 "  %s  [%s]\n", keys[i].justified ? "known" : "DIFF ", keys[i].count, keys[i].text,
                   keys[i].example);
    printf("zydis_diff: %" PRIu64 " encodings, %" PRIu64 " valid, %" PRIu64 " differences, %" PRIu64
           " known exceptions\n",
           total, valid_total, differences, excepted);
}

int main(int argc, char **argv)
{
    u64 count = 1000000;
    rng_state = 0x9e3779b97f4a7c15ull;
    stride = 7;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--long")) {
            stride = 1;
            count = 20000000;
        } else if (!strcmp(argv[i], "--count") && i + 1 < argc) {
            count = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
            rng_state = strtoull(argv[++i], NULL, 0) | 1;
        } else if (!strcmp(argv[i], "--verbose")) {
            verbose = true;
        } else if (strcmp(argv[i], "--quick")) {
            fprintf(stderr, "usage: zydis_diff [--quick | --long] [--count N] [--seed S] [--verbose]\n");
            return 2;
        }
    }
    init_decoders();
    for (int mode = 0; mode < ISA_MODE_COUNT; mode++) {
        systematic_legacy((enum isa_mode)mode);
        systematic_vex((enum isa_mode)mode);
    }
    while (count--)
        random_case();
    report();
    return differences != 0;
}
