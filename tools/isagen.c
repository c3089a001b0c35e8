// Turns src/isa/insns.def and features.def into what the decoder and its users compile:
//
//   isagen enums  > isa_gen.h       enum isa_op, isa_form, isa_feature
//   isagen tables > isa_tables.inc  form facts, operand patterns, opcode look-up tree
//
// A row constrains a handful of dimensions (mandatory prefix, ModRM fields, REX.W ...), each held here as a bit mask of
// the values it accepts. Two rows of one opcode whose masks meet in every dimension are ambiguous, which fails the
// build. The tree for an opcode is made by splitting along the first dimension in which some row does not accept
// everything, until one row (or none) is left. The notation of the rows is described at the head of insns.def.
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa/x86.h"

#define MAX_ROWS 4096
#define MAX_NODES 65536
#define MAX_PATTERNS 256

enum dim { DIM_MODE, DIM_MOD, DIM_REG, DIM_PFX, DIM_RM, DIM_W, DIM_B, DIM_L, DIM_COUNT };
static const int dim_size[DIM_COUNT] = {2, 2, 8, 4, 8, 2, 2, 2};
static const char *const dim_name[DIM_COUNT] = {"MODE", "MOD", "REG", "PFX", "RM", "W", "B", "L"};

#define SPACES 8 // legacy maps 1, 0F, 0F38, 0F3A; VEX maps 0F, 0F38, 0F3A; VEX maps that do not exist

struct row {
    const char *op, *enc, *opnds, *flags, *feature, *implicit, *attr;
    const char *file;
    int line;
    char name[96];
    int op_index;
    int space, first, last;
    bool modrm, vex;
    unsigned mask[DIM_COUNT];
    int nopnd;
    int pattern[4];
    int access[4];
    const char *imm;
    bool has_mem;
};

static struct row rows[MAX_ROWS] = {
#define I(op, enc, opnds, flags, feature, implicit, attr) \
    {#op, enc, opnds, flags, #feature, implicit, attr, .file = __FILE__, .line = __LINE__},
#include "isa/insns.def"
#undef I
};
static int row_count;

static _Noreturn void die(const struct row *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static _Noreturn void die(const struct row *r, const char *fmt, ...)
{
    va_list ap;
    if (r)
        fprintf(stderr, "%s:%d: %s \"%s\" \"%s\": ", r->file, r->line, r->op, r->enc, r->opnds);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

// The next space-separated word of *s in buf, or false at the end.
static bool next_word(const char **s, char *buf, size_t size)
{
    size_t n = 0;
    while (**s == ' ')
        ++*s;
    while (**s && **s != ' ' && n + 1 < size)
        buf[n++] = *(*s)++;
    buf[n] = 0;
    return n != 0;
}

static bool has_attr(const struct row *r, const char *name)
{
    const char *s = r->attr;
    char word[32];
    while (next_word(&s, word, sizeof word))
        if (!strcmp(word, name))
            return true;
    return false;
}

// --- encodings -------------------------------------------------------------------------------------------------------

enum { PFX_NP = 1, PFX_66 = 2, PFX_F3 = 4, PFX_F2 = 8 };

static unsigned prefix_mask(const char *w)
{
    static const struct {
        const char *name;
        unsigned mask;
    } table[] = {{"NP", PFX_NP}, {"66", PFX_66},         {"F3", PFX_F3},
                 {"F2", PFX_F2}, {"nF3", 0xf & ~PFX_F3}, {"nFx", PFX_NP | PFX_66}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (!strcmp(w, table[i].name))
            return table[i].mask;
    return 0;
}

static bool is_hex2(const char *w)
{
    return isxdigit((unsigned char)w[0]) && isxdigit((unsigned char)w[1]) && !islower((unsigned char)w[0]) &&
           !islower((unsigned char)w[1]);
}

// "VEX.256.66.0F38.W0": vector length, prefix, map and W of a VEX form.
static void parse_vex(struct row *r, char *word)
{
    r->vex = true;
    r->mask[DIM_PFX] = 0;
    for (char *p = strtok(word + 4, "."); p; p = strtok(NULL, ".")) {
        if (!strcmp(p, "128") || !strcmp(p, "L0"))
            r->mask[DIM_L] = 1;
        else if (!strcmp(p, "256"))
            r->mask[DIM_L] = 2;
        else if (!strcmp(p, "W0") || !strcmp(p, "W1"))
            r->mask[DIM_W] = p[1] == '0' ? 1 : 2;
        else if (!strcmp(p, "0F"))
            r->space = 4;
        else if (!strcmp(p, "0F38"))
            r->space = 5;
        else if (!strcmp(p, "0F3A"))
            r->space = 6;
        else if (prefix_mask(p))
            r->mask[DIM_PFX] = prefix_mask(p);
        else if (strcmp(p, "LIG") && strcmp(p, "WIG"))
            die(r, "VEX part %s?", p);
    }
    if (!r->mask[DIM_PFX] || r->space < 4)
        die(r, "VEX form without prefix or map");
}

static void parse_opcode(struct row *r, const char *w)
{
    r->first = r->last = (int)strtoul(w, NULL, 16);
    if (!strcmp(w + 2, "+r"))
        r->last = r->first + 7;
    else if (!strcmp(w + 2, "+cc"))
        r->last = r->first + 15;
    else if (w[2] == '-' && is_hex2(w + 3))
        r->last = (int)strtoul(w + 3, NULL, 16);
    else if (w[2])
        die(r, "opcode %s?", w);
}

// A literal ModRM byte: "C1", or "C0+i" for eight of them.
static void parse_modrm_literal(struct row *r, const char *w)
{
    unsigned v = (unsigned)strtoul(w, NULL, 16);
    if (v < 0xc0)
        die(r, "ModRM literal %s names memory", w);
    r->modrm = true;
    r->mask[DIM_MOD] = 2;
    r->mask[DIM_REG] = 1u << (v >> 3 & 7);
    if (!strcmp(w + 2, "+i"))
        return;
    if (w[2])
        die(r, "ModRM %s?", w);
    r->mask[DIM_RM] = 1u << (v & 7);
}

static void parse_encoding_word(struct row *r, char *w, bool *opcode_seen)
{
    if (!strncmp(w, "VEX.", 4))
        parse_vex(r, w);
    else if (w[0] == '/' && w[1] == 'r')
        r->modrm = true;
    else if (w[0] == '/' && w[1] >= '0' && w[1] <= '7') {
        r->modrm = true;
        r->mask[DIM_REG] = 1u << (w[1] - '0');
    } else if (!strcmp(w, "reg") || !strcmp(w, "mem"))
        r->mask[DIM_MOD] = w[0] == 'm' ? 1 : 2;
    else if (*opcode_seen && (w[0] == 'W' || w[0] == 'B') && (w[1] == '0' || w[1] == '1') && !w[2])
        r->mask[w[0] == 'W' ? DIM_W : DIM_B] = w[1] == '0' ? 1 : 2;
    else if (!*opcode_seen && r->space == 0 && prefix_mask(w))
        r->mask[DIM_PFX] = prefix_mask(w);
    else if (!*opcode_seen && !r->vex && r->space == 0 && !strcmp(w, "0F"))
        r->space = 1;
    else if (!*opcode_seen && !r->vex && r->space == 1 && (!strcmp(w, "38") || !strcmp(w, "3A")))
        r->space = w[1] == '8' ? 2 : 3;
    else if (!*opcode_seen && is_hex2(w)) {
        parse_opcode(r, w);
        *opcode_seen = true;
    } else if (is_hex2(w))
        parse_modrm_literal(r, w);
    else
        die(r, "encoding word %s?", w);
}

static void parse_encoding(struct row *r)
{
    const char *s = r->enc;
    char w[48];
    bool opcode_seen = false;
    for (int d = 0; d < DIM_COUNT; d++)
        r->mask[d] = (1u << dim_size[d]) - 1;
    while (next_word(&s, w, sizeof w))
        parse_encoding_word(r, w, &opcode_seen);
    if (!opcode_seen)
        die(r, "no opcode");
    if (has_attr(r, "I64"))
        r->mask[DIM_MODE] = 1;
    if (has_attr(r, "O64"))
        r->mask[DIM_MODE] = 2;
}

// --- operands --------------------------------------------------------------------------------------------------------

// What a decoder needs to fill one operand; the generated table has one entry for each distinct pattern.
struct pattern {
    char word[24];
    const char *kind_reg, *kind_mem; // operand kind where ModRM names a register, or memory
    const char *source;              // which field holds the register number
    int mask, base;
    const char *by; // what selects among the three sizes
    int size_reg[3], size_mem[3];
};
// Pattern 0 is "no operand".
static struct pattern patterns[MAX_PATTERNS] = {{"none", "NONE", "NONE", "NO", 0, 0, "OS", {0}, {0}}};
static int pattern_count = 1;

static const struct {
    const char *name, *by;
    int size[3];
} sizes[] = {
    {"", "OS", {0, 0, 0}},         {"b", "OS", {1, 1, 1}},        {"w", "OS", {2, 2, 2}},
    {"d", "OS", {4, 4, 4}},        {"q", "OS", {8, 8, 8}},        {"t", "OS", {10, 10, 10}},
    {"dq", "OS", {16, 16, 16}},    {"qq", "OS", {32, 32, 32}},    {"v", "OS", {2, 4, 8}},
    {"z", "OS", {2, 4, 4}},        {"y", "OS", {4, 4, 8}},        {"p", "OS", {4, 6, 10}},
    {"a", "OS", {4, 8, 8}},        {"s", "MODE", {6, 6, 10}},     {"r", "MODE", {4, 4, 8}},
    {"x", "VL", {16, 32, 0}},      {"ps", "VL", {16, 32, 0}},     {"pd", "VL", {16, 32, 0}},
    {"ss", "OS", {4, 4, 4}},       {"sd", "OS", {8, 8, 8}},       {"xh", "VL", {8, 16, 0}},
    {"xq", "VL", {4, 8, 0}},       {"xo", "VL", {2, 4, 0}},       {"env", "OS", {14, 28, 28}},
    {"sav", "OS", {94, 108, 108}}, {"fx", "OS", {512, 512, 512}}, {"n", "OS", {0, 0, 0}},
};

static const struct {
    const char *letter, *kind_reg, *kind_mem, *source;
    int mask;
    unsigned mod; // ModRM.mod constraint that the letter brings: 1 memory, 2 register, 3 either
} letters[] = {
    {"E", "GPR", "MEM", "RM", 15, 3},        {"R", "GPR", "NONE", "RM", 15, 2},
    {"M", "NONE", "MEM", "NO", 0, 1},        {"G", "GPR", "GPR", "REG", 15, 3},
    {"Z", "GPR", "GPR", "OPR", 15, 3},       {"B", "GPR", "GPR", "VVVV", 15, 3},
    {"S", "SEG", "SEG", "REG", 7, 3},        {"C", "CR", "CR", "REG", 15, 3},
    {"D", "DR", "DR", "REG", 15, 3},         {"P", "MMX", "MMX", "REG", 7, 3},
    {"Q", "MMX", "MEM", "RM", 7, 3},         {"N", "MMX", "NONE", "RM", 7, 2},
    {"V", "XMM", "XMM", "REG", 15, 3},       {"W", "XMM", "MEM", "RM", 15, 3},
    {"U", "XMM", "NONE", "RM", 15, 2},       {"H", "XMM", "XMM", "VVVV", 15, 3},
    {"L", "XMM", "XMM", "IS4", 15, 3},       {"O", "MEM", "MEM", "NO", 0, 3},
    {"X", "STR_SRC", "STR_SRC", "NO", 0, 3}, {"Y", "STR_DST", "STR_DST", "NO", 0, 3},
    {"I", "IMM", "IMM", "NO", 0, 3},         {"J", "REL", "REL", "NO", 0, 3},
    {"A", "FAR", "FAR", "NO", 0, 3},
};

static const struct {
    const char *name, *kind;
    int number;
    const char *size;
} fixed[] = {
    {"AL", "GPR", X86_RAX, "b"}, {"rAX", "GPR", X86_RAX, "v"}, {"zAX", "GPR", X86_RAX, "z"},
    {"CL", "GPR", X86_RCX, "b"}, {"DX", "GPR", X86_RDX, "w"},  {"AX", "GPR", X86_RAX, "w"},
    {"ES", "SEG", X86_ES, "w"},  {"CS", "SEG", X86_CS, "w"},   {"SS", "SEG", X86_SS, "w"},
    {"DS", "SEG", X86_DS, "w"},  {"FS", "SEG", X86_FS, "w"},   {"GS", "SEG", X86_GS, "w"},
    {"ST", "ST", 0, "t"},        {"XMM0", "XMM", 0, "dq"},     {"1", "IMM", 0, "b"},
    {"Ib2", "IMM2", 0, "b"},
};

static void set_sizes(struct row *r, struct pattern *p, int *size, const char *suffix)
{
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(sizes[i].name, suffix))
            continue;
        if (p->by && strcmp(p->by, sizes[i].by) && strcmp(sizes[i].by, "OS"))
            die(r, "operand %s: sizes by two rules", p->word);
        if (!p->by || strcmp(sizes[i].by, "OS"))
            p->by = sizes[i].by;
        memcpy(size, sizes[i].size, sizeof sizes[i].size);
        return;
    }
    die(r, "operand %s: size %s?", p->word, suffix);
}

static bool fixed_operand(struct row *r, struct pattern *p)
{
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (strcmp(fixed[i].name, p->word))
            continue;
        p->kind_reg = p->kind_mem = fixed[i].kind;
        p->source = "NO";
        p->base = fixed[i].number;
        set_sizes(r, p, p->size_reg, fixed[i].size);
        memcpy(p->size_mem, p->size_reg, sizeof p->size_mem);
        return true;
    }
    return false;
}

// The immediate an operand makes the decoder fetch.
static void note_immediate(struct row *r, const char *w)
{
    static const char *const kinds[][2] = {{"Ib", "U8"},    {"sIb", "S8"},   {"Iw", "U16"},     {"Iz", "Z"},
                                           {"Iv", "V"},     {"Jb", "S8"},    {"Jz", "Z"},       {"Ap", "FAR"},
                                           {"Ob", "MOFFS"}, {"Ov", "MOFFS"}, {"Ib2", "SECOND"}, {"1", "ONE"}};
    const char *kind = w[0] == 'L' ? "IS4" : NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(w, kinds[i][0]))
            kind = kinds[i][1];
    if (!kind)
        return;
    if (!strcmp(kind, "SECOND"))
        kind = r->imm && !strcmp(r->imm, "U16") ? "U16_U8" : "U8_U8";
    else if (r->imm && strcmp(kind, r->imm))
        die(r, "two immediates");
    r->imm = kind;
}

// "Rv/Mw": register and memory alternatives of different size.
static void letter_operand(struct row *r, struct pattern *p)
{
    char word[24];
    snprintf(word, sizeof word, "%s", p->word[0] == 's' && p->word[1] == 'I' ? p->word + 1 : p->word);
    char *slash = strchr(word, '/');
    if (slash) {
        *slash = 0;
        if (slash[1] != 'M')
            die(r, "operand %s: expected /M", p->word);
    }
    if (!strcmp(word, "STi")) {
        p->kind_reg = "ST", p->kind_mem = "NONE", p->source = "RM", p->mask = 7;
        set_sizes(r, p, p->size_reg, "t");
        return;
    }
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        if (word[0] != letters[i].letter[0])
            continue;
        p->kind_reg = letters[i].kind_reg;
        p->kind_mem = slash ? "MEM" : letters[i].kind_mem;
        p->source = letters[i].source;
        p->mask = letters[i].mask;
        set_sizes(r, p, p->size_reg, word + 1);
        set_sizes(r, p, p->size_mem, slash ? slash + 2 : word + 1);
        if (r->modrm && !slash && !has_attr(r, "MODANY"))
            r->mask[DIM_MOD] &= letters[i].mod;
        return;
    }
    die(r, "operand %s?", p->word);
}

static int find_pattern(const struct pattern *p)
{
    for (int i = 0; i < pattern_count; i++)
        if (!strcmp(patterns[i].word, p->word))
            return i;
    if (pattern_count == MAX_PATTERNS)
        die(NULL, "too many operand patterns");
    patterns[pattern_count] = *p;
    return pattern_count++;
}

// "=Gv", "+Ev", "Ib", "~M": access, then the operand. Read is the default, ~ is no access.
static void parse_operands(struct row *r)
{
    const char *s = r->opnds;
    char w[24];
    while (next_word(&s, w, sizeof w)) {
        struct pattern p = {0};
        int access = 1;
        const char *name = w;
        if (strchr("=+~", w[0])) {
            access = w[0] == '=' ? 2 : w[0] == '+' ? 3 : 0;
            name++;
        }
        snprintf(p.word, sizeof p.word, "%s", name);
        if (!strcmp(name, "M"))
            access = 0;
        note_immediate(r, name);
        if (!fixed_operand(r, &p))
            letter_operand(r, &p);
        if (strstr("STR_SRC STR_DST MEM", p.kind_mem))
            r->has_mem = true;
        if (r->nopnd == 4)
            die(r, "too many operands");
        r->access[r->nopnd] = access;
        r->pattern[r->nopnd++] = find_pattern(&p);
    }
}

// --- facts -----------------------------------------------------------------------------------------------------------

// The six status flags as columns O S Z A P C, then letters of control flags (lower case read, upper case written).
static void parse_flags(const struct row *r, unsigned *rd, unsigned *wr, unsigned *un)
{
    static const unsigned column[6] = {X86_FL_OF, X86_FL_SF, X86_FL_ZF, X86_FL_AF, X86_FL_PF, X86_FL_CF};
    static const char names[] = "ditn";
    static const unsigned control[] = {X86_FL_DF, X86_FL_IF, X86_FL_TF, X86_FL_NT};
    const char *s = r->flags;
    char w[16];
    *rd = *wr = *un = 0;
    while (next_word(&s, w, sizeof w)) {
        bool columns = strlen(w) == 6;
        for (int i = 0; w[i]; i++) {
            const char *c = columns ? NULL : strchr(names, tolower((unsigned char)w[i]));
            unsigned bit = columns ? column[i] : c ? control[c - names] : 0;
            if (!strchr(columns ? "m01xrucv-" : "ditnDITN", w[i]))
                die(r, "flag letter %c", w[i]);
            if (columns ? strchr("xrcv", w[i]) != NULL : islower((unsigned char)w[i]))
                *rd |= bit;
            if (columns ? strchr("m01xc", w[i]) != NULL : isupper((unsigned char)w[i]))
                *wr |= bit;
            if (columns && strchr("uv", w[i]))
                *un |= bit;
        }
    }
}

static void parse_implicit(const struct row *r, unsigned *rd, unsigned *wr)
{
    static const struct {
        const char *name;
        int bit;
    } regs[] = {{"A", 0},  {"C", 1},    {"D", 2},   {"B", 3},    {"SP", 4},   {"BP", 5},    {"SI", 6},
                {"DI", 7}, {"R11", 11}, {"X0", 16}, {"X87", 17}, {"MEM", 18}, {"STACK", 19}};
    const char *s = r->implicit;
    char w[16];
    *rd = *wr = 0;
    while (next_word(&s, w, sizeof w)) {
        const char *name = strchr("=+", w[0]) ? w + 1 : w;
        size_t i = 0;
        while (i < sizeof regs / sizeof regs[0] && strcmp(regs[i].name, name))
            i++;
        if (i == sizeof regs / sizeof regs[0])
            die(r, "implicit %s?", w);
        if (w[0] != '=')
            *rd |= 1u << regs[i].bit;
        if (name != w)
            *wr |= 1u << regs[i].bit;
    }
    for (int i = 0; i < r->nopnd; i++) {
        if (strncmp(patterns[r->pattern[i]].kind_reg, "STR_", 4))
            continue;
        *rd |= r->access[i] & 1 ? 1u << 18 : 0;
        *wr |= r->access[i] & 2 ? 1u << 18 : 0;
    }
}

static const char *class_of(const struct row *r)
{
    unsigned rd, wr;
    if (has_attr(r, "BRANCH"))
        return "BRANCH";
    if (has_attr(r, "PRIV"))
        return "PRIV";
    if (has_attr(r, "SENS"))
        return "SENS";
    if (has_attr(r, "IDENT"))
        return "IDENT";
    parse_implicit(r, &rd, &wr);
    return r->has_mem || ((rd | wr) & 3u << 18) ? "MEM" : "IDENT";
}

// Attributes only the decoder wants to know; the rest of the words are ISA_ATTR_* or classes.
static bool decoder_attr(const char *w)
{
    return !strcmp(w, "NEAR") || !strcmp(w, "MODANY") || !strcmp(w, "FARMEM") || !strcmp(w, "SEGLOAD") ||
           !strcmp(w, "GATHER");
}

static bool class_attr(const char *w)
{
    return !strcmp(w, "BRANCH") || !strcmp(w, "PRIV") || !strcmp(w, "SENS") || !strcmp(w, "IDENT");
}

static void print_attrs(const struct row *r)
{
    const char *s = r->attr;
    char w[32];
    printf("0");
    while (next_word(&s, w, sizeof w))
        if (!decoder_attr(w) && !class_attr(w))
            printf(" | ISA_ATTR_%s", w);
    if (has_attr(r, "NEAR"))
        printf(" | ISA_ATTR_DF64");
    if (has_attr(r, "GATHER"))
        printf(" | ISA_ATTR_VSIB");
}

// --- names -----------------------------------------------------------------------------------------------------------

static bool name_taken(const struct row *r)
{
    for (struct row *o = rows; o < r; o++)
        if (!strcmp(o->name, r->name))
            return true;
    return false;
}

// Form names are the operation and its operands; a second encoding of the same adds its opcode.
static void name_row(struct row *r)
{
    const char *s = r->opnds;
    char w[24];
    size_t n = (size_t)snprintf(r->name, sizeof r->name, "%s", r->op);
    while (next_word(&s, w, sizeof w)) {
        const char *name = strchr("=+~", w[0]) ? w + 1 : w;
        r->name[n++] = '_';
        for (; *name && n + 1 < sizeof r->name; name++)
            if (isalnum((unsigned char)*name))
                r->name[n++] = *name;
        r->name[n] = 0;
    }
    if (!name_taken(r))
        return;
    n += (size_t)snprintf(r->name + n, sizeof r->name - n, "_%02X", r->first);
    for (int i = 0; i < 8 && name_taken(r); i++) {
        if (r->mask[DIM_REG] != 0xff)
            snprintf(r->name + n, sizeof r->name - n, "_%d%c", __builtin_ctz(r->mask[DIM_REG]), "\0BCDEFGH"[i]);
        else
            snprintf(r->name + n, sizeof r->name - n, "_%d", i + 2);
    }
    if (name_taken(r))
        die(r, "name %s is taken", r->name);
}

static void index_ops(void)
{
    int ops = 0;
    for (int i = 0; i < row_count; i++) {
        rows[i].op_index = -1;
        for (int j = 0; j < i && rows[i].op_index < 0; j++)
            if (!strcmp(rows[i].op, rows[j].op))
                rows[i].op_index = rows[j].op_index;
        if (rows[i].op_index < 0)
            rows[i].op_index = ops++;
    }
}

// --- the look-up tree ------------------------------------------------------------------------------------------------

#define ENTRY_NODE 0x8000
#define ENTRY_MODRM 0x4000

static uint16_t nodes[MAX_NODES]; // a node is its dimension followed by one entry for each value
static int node_words = 1;        // word 0 unused, so that entry 0 is "no form"
static uint16_t roots[SPACES][256];
static const char *tails[SPACES][256]; // immediate that an opcode without a valid form still takes

static void check_overlap(struct row *const *set, int n)
{
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) {
            bool meet = true;
            for (int d = 0; d < DIM_COUNT; d++)
                meet = meet && (set[i]->mask[d] & set[j]->mask[d]);
            if (meet)
                die(set[i], "overlaps %s \"%s\" \"%s\"", set[j]->op, set[j]->enc, set[j]->opnds);
        }
        if (set[i]->modrm != set[0]->modrm)
            die(set[i], "only some forms of the opcode have a ModRM byte");
    }
}

static int store_node(const uint16_t *node, int words)
{
    for (int i = 1; i + words <= node_words; i++)
        if (!memcmp(nodes + i, node, sizeof *node * (size_t)words))
            return i;
    if (node_words + words > ENTRY_MODRM)
        die(NULL, "tree too large");
    memcpy(nodes + node_words, node, sizeof *node * (size_t)words);
    node_words += words;
    return node_words - words;
}

static uint16_t build(struct row *const *set, int n, const unsigned *box)
{
    uint16_t node[9];
    int split = -1;
    if (n == 0)
        return 0;
    for (int d = 0; d < DIM_COUNT && split < 0; d++)
        for (int i = 0; i < n; i++)
            if ((set[i]->mask[d] & box[d]) != box[d])
                split = d;
    if (split < 0)
        return (uint16_t)(set[0] - rows + 1);
    node[0] = (uint16_t)split;
    for (int v = 0; v < dim_size[split]; v++) {
        struct row *sub[MAX_ROWS / 8];
        unsigned sub_box[DIM_COUNT];
        int m = 0;
        for (int i = 0; i < n; i++)
            if (set[i]->mask[split] & box[split] & 1u << v)
                sub[m++] = set[i];
        memcpy(sub_box, box, sizeof sub_box);
        sub_box[split] = 1u << v;
        node[v + 1] = build(sub, m, sub_box);
    }
    return (uint16_t)(ENTRY_NODE | store_node(node, dim_size[split] + 1));
}

static void build_roots(void)
{
    unsigned box[DIM_COUNT];
    for (int d = 0; d < DIM_COUNT; d++)
        box[d] = (1u << dim_size[d]) - 1;
    for (int space = 0; space < SPACES; space++) {
        for (int opcode = 0; opcode < 256; opcode++) {
            struct row *set[MAX_ROWS / 8];
            int n = 0;
            for (int i = 0; i < row_count; i++)
                if (rows[i].space == space && rows[i].first <= opcode && opcode <= rows[i].last)
                    set[n++] = &rows[i];
            check_overlap(set, n);
            roots[space][opcode] = build(set, n, box);
            tails[space][opcode] = "NONE";
            for (int i = 0; i < n; i++)
                if (set[i]->imm && strcmp(set[i]->imm, "ONE"))
                    tails[space][opcode] = set[i]->imm;
            if (n && set[0]->modrm)
                roots[space][opcode] |= ENTRY_MODRM;
        }
    }
}

// --- output ----------------------------------------------------------------------------------------------------------

static void print_enums(void)
{
    int ops = 0;
    printf("// Generated by isagen from insns.def and features.def.\n#ifndef ISA_GEN_H\n#define ISA_GEN_H\n\n");
    printf("enum isa_op {\n");
    for (int i = 0; i < row_count; i++)
        if (rows[i].op_index == ops && ++ops)
            printf("    ISA_OP_%s,\n", rows[i].op);
    printf("    ISA_OP_COUNT\n};\n\nenum isa_form {\n    ISA_FORM_NONE,\n");
    for (int i = 0; i < row_count; i++)
        printf("    ISA_FORM_%s,\n", rows[i].name);
    printf("    ISA_FORM_COUNT\n};\n\nenum isa_feature {\n    ISA_FEAT_NONE, // every processor\n");
#define F(id, name, leaf, subleaf, reg, bit) printf("    ISA_FEAT_" #id ",\n");
#include "isa/features.def"
#undef F
    printf("    ISA_FEAT_COUNT\n};\n\n#endif\n");
}

static void print_forms(void)
{
    int ops = 0;
    printf("const char *const isa_op_names[ISA_OP_COUNT] = {\n");
    for (int i = 0; i < row_count; i++)
        if (rows[i].op_index == ops && ++ops)
            printf("    \"%s\",\n", rows[i].op);
    printf("};\n\nconst struct isa_form_info isa_forms[ISA_FORM_COUNT] = {\n    {.name = \"NONE\"},\n");
    for (int i = 0; i < row_count; i++) {
        struct row *r = &rows[i];
        unsigned rd, wr, un, ird, iwr;
        parse_flags(r, &rd, &wr, &un);
        parse_implicit(r, &ird, &iwr);
        printf("    {\"%s\", ISA_OP_%s, ISA_CLASS_%s, ISA_FEAT_%s, %d, {%d, %d, %d, %d},\n     ", r->name, r->op,
               class_of(r), r->feature, r->nopnd, r->access[0], r->access[1], r->access[2], r->access[3]);
        print_attrs(r);
        printf(", 0x%x, 0x%x, 0x%x, 0x%x, 0x%x,\n     {", rd, wr, un, ird, iwr);
        for (int j = 0; j < 4; j++)
            printf("%sISA_FIELD_%s", j ? ", " : "", patterns[r->pattern[j]].source);
        printf("}},\n");
    }
    printf("};\n\n");
}

static void print_features(void)
{
    printf("const struct isa_feature_info isa_features[ISA_FEAT_COUNT] = {\n    {\"none\", 0, 0, 0, 0},\n");
#define F(id, name, leaf, subleaf, reg, bit) \
    printf("    {\"%s\", 0x%xu, %du, ISA_CPUID_" #reg ", %d},\n", name, leaf, subleaf, bit);
#include "isa/features.def"
#undef F
    printf("};\n\n");
}

static bool uses_source(const struct row *r, const char *source)
{
    for (int i = 0; i < r->nopnd; i++)
        if (!strcmp(patterns[r->pattern[i]].source, source))
            return true;
    return false;
}

static bool uses_kind(const struct row *r, const char *kind)
{
    for (int i = 0; i < r->nopnd; i++)
        if (!strcmp(patterns[r->pattern[i]].kind_reg, kind))
            return true;
    return false;
}

static bool sized_by_mode(const struct row *r)
{
    for (int i = 0; i < r->nopnd; i++)
        if (!strcmp(patterns[r->pattern[i]].by, "MODE"))
            return true;
    return false;
}

// Sizes by vector length are those of 128 bits in the ordinary columns, and have the ones of 256 apart.
static void print_pattern(const struct pattern *p)
{
    bool by_vl = !strcmp(p->by, "VL");
    const int *r = p->size_reg, *m = p->size_mem;
    bool ymm = !by_vl && r[0] == 32 && !strcmp(p->kind_reg, "XMM");
    bool byte_reg = !strcmp(p->kind_reg, "GPR") && r[0] == 1;
    bool byte_mem = !strcmp(p->kind_mem, "GPR") && m[0] == 1;
    printf("    {{ISA_OPND_%s, ISA_OPND_%s}, {%d, %d}, SRC_%s, %d, %d, BY_%s, ", ymm ? "YMM" : p->kind_reg,
           ymm && !strcmp(p->kind_mem, "XMM") ? "YMM" : p->kind_mem, byte_reg ? 4 : 0, byte_mem ? 4 : 0, p->source,
           p->mask, p->base, p->by);
    if (by_vl)
        printf("{{%d, %d, %d}, {%d, %d, %d}}, {%d, %d}}, // %s\n", r[0], r[0], r[0], m[0], m[0], m[0], r[1], m[1],
               p->word);
    else
        printf("{{%d, %d, %d}, {%d, %d, %d}}, {0, 0}}, // %s\n", r[0], r[1], r[2], m[0], m[1], m[2], p->word);
}

static void print_decoder_forms(void)
{
    printf("static const struct form_code form_codes[ISA_FORM_COUNT] = {\n    {0},\n");
    for (int i = 0; i < row_count; i++) {
        struct row *r = &rows[i];
        const char *s = r->attr;
        char w[32];
        printf("    {ISA_OP_%s, 0", r->op);
        while (next_word(&s, w, sizeof w))
            if (decoder_attr(w) || !strcmp(w, "LOCK") || !strcmp(w, "DF64"))
                printf(" | FC_%s", w);
        if (has_attr(r, "NEAR"))
            printf(" | FC_DF64");
        if (uses_source(r, "VVVV"))
            printf(" | FC_VVVV");
        if (uses_kind(r, "SEG") || uses_kind(r, "CR") || uses_kind(r, "DR"))
            printf(" | FC_REGCHECK");
        if (sized_by_mode(r))
            printf(" | FC_MODESIZE");
        printf(", IMM_%s, %d, {%d, %d, %d, %d}},\n", r->imm ? r->imm : "NONE", r->nopnd, r->pattern[0], r->pattern[1],
               r->pattern[2], r->pattern[3]);
    }
    printf("};\n\nstatic const struct operand_code operand_codes[] = {\n");
    for (int i = 0; i < pattern_count; i++)
        print_pattern(&patterns[i]);
    printf("};\n\n");
}

static void print_tree(void)
{
    printf("enum { ENTRY_NODE = 0x%x, ENTRY_MODRM = 0x%x };\n\n", ENTRY_NODE, ENTRY_MODRM);
    printf("enum {");
    for (int d = 0; d < DIM_COUNT; d++)
        printf(" DIM_%s,", dim_name[d]);
    printf(" DIM_COUNT };\n\nstatic const u16 tree_roots[%d][256] = {\n", SPACES);
    for (int space = 0; space < SPACES; space++) {
        printf("    {");
        for (int i = 0; i < 256; i++)
            printf("%s0x%x,", i % 16 ? " " : "\n        ", roots[space][i]);
        printf("\n    },\n");
    }
    printf("};\n\nstatic const u8 tree_tails[%d][256] = {\n", SPACES);
    for (int space = 0; space < SPACES; space++) {
        printf("    {");
        for (int i = 0; i < 256; i++)
            printf("%sIMM_%s,", i % 8 ? " " : "\n        ", tails[space][i]);
        printf("\n    },\n");
    }
    printf("};\n\nstatic const u16 tree_nodes[%d] = {", node_words);
    for (int i = 0; i < node_words; i++)
        printf("%s0x%x,", i % 16 ? " " : "\n    ", nodes[i]);
    printf("\n};\n");
}

int main(int argc, char **argv)
{
    while (row_count < MAX_ROWS && rows[row_count].op)
        row_count++;
    for (int i = 0; i < row_count; i++) {
        parse_encoding(&rows[i]);
        parse_operands(&rows[i]);
        name_row(&rows[i]);
    }
    index_ops();
    build_roots();
    if (argc == 2 && !strcmp(argv[1], "enums")) {
        print_enums();
        return 0;
    }
    if (argc != 2 || strcmp(argv[1], "tables"))
        die(NULL, "usage: isagen enums|tables");
    printf("// Generated by isagen from insns.def and features.def.\n\n");
    print_features();
    print_forms();
    print_decoder_forms();
    print_tree();
    return 0;
}
