// Registers for gdb. The order is the one that gdb's standard features ask for; system registers have the names that QEMU
// gives them, so that scripts find them.

#include "cli/gdb_regs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/cpuid.h"
#include "core/machine.h"
#include "core/mmu.h"

// --- the table and its description ------------------------------------------------------------------------------------------

__attribute__((format(printf, 2, 3))) static void say(struct gdb_regs *r, const char *fmt, ...)
{
    va_list ap;
    u32 room = GDB_XML_SIZE - r->xml_len;

    va_start(ap, fmt);
    int n = vsnprintf(r->xml + r->xml_len, room, fmt, ap);
    va_end(ap);
    r->xml_len += n < 0 ? 0 : (u32)n < room ? (u32)n : room - 1;
}

static void add(struct gdb_regs *r, enum gdb_reg_kind kind, unsigned index, unsigned size, const char *type,
                const char *name)
{
    r->reg[r->count++] = (struct gdb_reg){.kind = (u8)kind, .index = (u8)index, .size = (u8)size};
    say(r, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>", name, size * 8, type);
}

static void add_numbered(struct gdb_regs *r, enum gdb_reg_kind kind, unsigned count, unsigned size, const char *type,
                         const char *prefix, const char *suffix)
{
    char name[32];

    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s%u%s", prefix, i, suffix);
        add(r, kind, i, size, type, name);
    }
}

struct bit {
    const char *name;
    u8 at;
};

static void say_flags(struct gdb_regs *r, const char *id, unsigned size, const struct bit *bits, unsigned count)
{
    say(r, "<flags id=\"%s\" size=\"%u\">", id, size);
    for (unsigned i = 0; i < count; i++)
        say(r, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", bits[i].name, bits[i].at, bits[i].at);
    say(r, "</flags>");
}

static void add_core_gprs(struct gdb_regs *r, bool is64)
{
    static const struct bit eflags[] = {{"CF", 0},  {"", 1},    {"PF", 2},   {"AF", 4},   {"ZF", 6},  {"SF", 7},
                                        {"TF", 8},  {"IF", 9},  {"DF", 10},  {"OF", 11},  {"NT", 14}, {"RF", 16},
                                        {"VM", 17}, {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21}};
    static const struct {
        const char *name64, *name32;
        u8 reg;
    } low[2][8] = {
        {{"rax", 0, X86_RAX},
         {"rbx", 0, X86_RBX},
         {"rcx", 0, X86_RCX},
         {"rdx", 0, X86_RDX},
         {"rsi", 0, X86_RSI},
         {"rdi", 0, X86_RDI},
         {"rbp", 0, X86_RBP},
         {"rsp", 0, X86_RSP}},
        {{0, "eax", X86_RAX},
         {0, "ecx", X86_RCX},
         {0, "edx", X86_RDX},
         {0, "ebx", X86_RBX},
         {0, "esp", X86_RSP},
         {0, "ebp", X86_RBP},
         {0, "esi", X86_RSI},
         {0, "edi", X86_RDI}},
    };
    static const char *const high[] = {"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    unsigned size = is64 ? 8 : 4;
    const char *word = is64 ? "int64" : "int32", *code = "code_ptr", *data = "data_ptr";

    say_flags(r, "i386_eflags", 4, eflags, ARRAY_LEN(eflags));
    for (unsigned i = 0; i < 8; i++) {
        u8 reg = low[!is64][i].reg;
        add(r, GDB_REG_GPR, reg, size, reg == X86_RSP || reg == X86_RBP ? data : word,
            is64 ? low[0][i].name64 : low[1][i].name32);
    }
    for (unsigned i = 0; is64 && i < 8; i++)
        add(r, GDB_REG_GPR, X86_R8 + i, 8, word, high[i]);
    add(r, GDB_REG_RIP, 0, size, code, is64 ? "rip" : "eip");
    add(r, GDB_REG_FLAGS, 0, 4, "i386_eflags", "eflags");
}

static void add_core(struct gdb_regs *r, bool is64)
{
    static const struct {
        const char *name;
        u8 seg;
    } segs[] = {{"cs", X86_CS}, {"ss", X86_SS}, {"ds", X86_DS}, {"es", X86_ES}, {"fs", X86_FS}, {"gs", X86_GS}};
    static const char *const x87[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};

    say(r, "<feature name=\"org.gnu.gdb.i386.core\">");
    add_core_gprs(r, is64);
    for (unsigned i = 0; i < ARRAY_LEN(segs); i++)
        add(r, GDB_REG_SEL, segs[i].seg, 4, "int32", segs[i].name);
    add_numbered(r, GDB_REG_ST, 8, 10, "i387_ext", "st", "");
    for (unsigned i = 0; i < ARRAY_LEN(x87); i++)
        add(r, GDB_REG_X87, i, 4, "int", x87[i]);
    say(r, "</feature>");
}

static void add_vectors(struct gdb_regs *r, bool is64, bool avx)
{
    static const struct bit mxcsr[] = {{"IE", 0}, {"DE", 1}, {"ZE", 2}, {"OE", 3},  {"UE", 4},  {"PE", 5},  {"DAZ", 6},
                                       {"IM", 7}, {"DM", 8}, {"ZM", 9}, {"OM", 10}, {"UM", 11}, {"PM", 12}, {"FZ", 15}};
    static const struct {
        const char *id, *type;
        u8 count;
        const char *field;
    } views[] = {{"v4f", "ieee_single", 4, "v4_float"}, {"v2d", "ieee_double", 2, "v2_double"},
                 {"v16i8", "int8", 16, "v16_int8"},     {"v8i16", "int16", 8, "v8_int16"},
                 {"v4i32", "int32", 4, "v4_int32"},     {"v2i64", "int64", 2, "v2_int64"}};
    unsigned count = is64 ? 16 : 8;

    say(r, "<feature name=\"org.gnu.gdb.i386.sse\">");
    for (unsigned i = 0; i < ARRAY_LEN(views); i++)
        say(r, "<vector id=\"%s\" type=\"%s\" count=\"%u\"/>", views[i].id, views[i].type, views[i].count);
    say(r, "<union id=\"vec128\">");
    for (unsigned i = 0; i < ARRAY_LEN(views); i++)
        say(r, "<field name=\"%s\" type=\"%s\"/>", views[i].field, views[i].id);
    say(r, "<field name=\"uint128\" type=\"uint128\"/></union>");
    say_flags(r, "i386_mxcsr", 4, mxcsr, ARRAY_LEN(mxcsr));
    add_numbered(r, GDB_REG_XMM, count, 16, "vec128", "xmm", "");
    add(r, GDB_REG_MXCSR, 0, 4, "i386_mxcsr", "mxcsr");
    say(r, "</feature>");
    if (!avx)
        return;
    say(r, "<feature name=\"org.gnu.gdb.i386.avx\">");
    add_numbered(r, GDB_REG_YMMH, count, 16, "uint128", "ymm", "h");
    say(r, "</feature>");
}

static void say_system_flags(struct gdb_regs *r, unsigned size)
{
    static const struct bit cr0[] = {{"PE", 0},  {"MP", 1},  {"EM", 2},  {"TS", 3},  {"ET", 4}, {"NE", 5},
                                     {"WP", 16}, {"AM", 18}, {"NW", 29}, {"CD", 30}, {"PG", 31}};
    static const struct bit cr4[] = {{"VME", 0},    {"PVI", 1},      {"TSD", 2},   {"DE", 3},    {"PSE", 4},
                                     {"PAE", 5},    {"MCE", 6},      {"PGE", 7},   {"PCE", 8},   {"OSFXSR", 9},
                                     {"OSXMM", 10}, {"UMIP", 11},    {"LA57", 12}, {"VMXE", 13}, {"FSGSBASE", 16},
                                     {"PCIDE", 17}, {"OSXSAVE", 18}, {"SMEP", 20}, {"SMAP", 21}};
    static const struct bit efer[] = {{"SCE", 0}, {"LME", 8}, {"LMA", 10}, {"NXE", 11}, {"SVME", 12}, {"FFXSR", 14}};

    say_flags(r, "x86_cr0", size, cr0, ARRAY_LEN(cr0));
    say_flags(r, "x86_cr4", size, cr4, ARRAY_LEN(cr4));
    say_flags(r, "x86_efer", 8, efer, ARRAY_LEN(efer));
}

static void add_system(struct gdb_regs *r, bool is64)
{
    static const struct {
        const char *name;
        u8 seg;
    } bases[] = {{"cs_base", X86_CS}, {"ss_base", X86_SS}, {"ds_base", X86_DS},    {"es_base", X86_ES},
                 {"fs_base", X86_FS}, {"gs_base", X86_GS}, {"ldt_base", X86_LDTR}, {"tr_base", X86_TR}};
    unsigned size = is64 ? 8 : 4;
    const char *word = is64 ? "int64" : "int32";

    if (is64) {
        say(r, "<feature name=\"org.gnu.gdb.i386.segments\">");
        add(r, GDB_REG_BASE, X86_FS, 8, "int64", "fs_base");
        add(r, GDB_REG_BASE, X86_GS, 8, "int64", "gs_base");
        say(r, "</feature>");
    }
    say(r, "<feature name=\"org.pogo.x86.system\">");
    say_system_flags(r, size);
    if (is64)
        add(r, GDB_REG_KERNEL_GS, 0, 8, word, "k_gs_base");
    add(r, GDB_REG_CR, 0, size, "x86_cr0", "cr0");
    add(r, GDB_REG_CR, 2, size, word, "cr2");
    add(r, GDB_REG_CR, 3, size, word, "cr3");
    add(r, GDB_REG_CR, 4, size, "x86_cr4", "cr4");
    if (is64) {
        add(r, GDB_REG_CR, 8, 8, word, "cr8");
        add(r, GDB_REG_EFER, 0, 8, "x86_efer", "efer");
    }
    for (unsigned i = 0; i < ARRAY_LEN(bases); i++)
        if (!is64 || (bases[i].seg != X86_FS && bases[i].seg != X86_GS))
            add(r, GDB_REG_BASE, bases[i].seg, size, word, bases[i].name);
    add(r, GDB_REG_DTABLE, 0, size, word, "gdt_base");
    add(r, GDB_REG_DTABLE, 1, size, word, "idt_base");
    say(r, "</feature>");
}

void gdb_regs_init(struct gdb_regs *r, const struct cpu_model *model)
{
    bool is64 = cpu_model_offers(model, ISA_FEAT_LM), avx = cpu_model_offers(model, ISA_FEAT_AVX);

    r->count = 0;
    r->xml_len = 0;
    say(r, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>");
    say(r, "<architecture>%s</architecture>", is64 ? "i386:x86-64" : "i386");
    add_core(r, is64);
    add_vectors(r, is64, avx);
    add_system(r, is64);
    say(r, "</target>");
}

// --- x87 --------------------------------------------------------------------------------------------------------------------

static unsigned x87_top(const struct x86_xsave *xs)
{
    return xs->fsw >> 11 & 7;
}

// Two bits for each register by physical number, as FNSTENV stores them. SDM 1 8.1.7.
static u16 full_tags(const struct x86_xsave *xs)
{
    u16 tags = 0;

    for (unsigned phys = 0; phys < 8; phys++) {
        const u8 *st = xs->st[(phys - x87_top(xs)) & 7];
        u64 mantissa;
        memcpy(&mantissa, st, 8);
        unsigned exponent = (st[8] | st[9] << 8) & 0x7fff, tag;
        if (!(xs->ftw >> phys & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else
            tag = exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
        tags |= (u16)(tag << phys * 2);
    }
    return tags;
}

static u8 abridged_tags(u16 tags)
{
    u8 valid = 0;

    for (unsigned phys = 0; phys < 8; phys++)
        valid |= (u8)(((tags >> phys * 2 & 3) != 3) << phys);
    return valid;
}

static u32 read_x87(const struct cpu *c, unsigned index)
{
    const struct x86_xsave *xs = &c->xs;
    bool wide = cpu_64bit(c);

    switch (index) {
    case 0: return xs->fcw;
    case 1: return xs->fsw;
    case 2: return full_tags(xs);
    case 3: return wide ? (u32)(xs->fip >> 32) : c->fcs;
    case 4: return (u32)xs->fip;
    case 5: return wide ? (u32)(xs->fdp >> 32) : c->fds;
    case 6: return (u32)xs->fdp;
    default: return xs->fop;
    }
}

// Bits that do not exist fall away; ES and B follow from the flags and their masks, as the processor has it.
static void set_words(struct x86_xsave *xs, u16 fcw, u16 fsw)
{
    const u16 derived = X86_FSW_ES | X86_FSW_B;

    xs->fcw = (fcw & 0x1f3f) | 0x0040;
    xs->fsw = fsw & (u16)~derived;
    if (xs->fsw & ~xs->fcw & 0x3f)
        xs->fsw |= derived;
}

static u64 with_high(u64 old, u32 high)
{
    return (u32)old | (u64)high << 32;
}

static void write_x87(struct cpu *c, unsigned index, u32 val)
{
    struct x86_xsave *xs = &c->xs;
    bool wide = cpu_64bit(c);

    switch (index) {
    case 0: set_words(xs, (u16)val, xs->fsw); break;
    case 1: set_words(xs, xs->fcw, (u16)val); break;
    case 2: xs->ftw = abridged_tags((u16)val); break;
    case 3: wide ? (void)(xs->fip = with_high(xs->fip, val)) : (void)(c->fcs = (u16)val); break;
    case 4: xs->fip = (xs->fip & ~0xffffffffull) | val; break;
    case 5: wide ? (void)(xs->fdp = with_high(xs->fdp, val)) : (void)(c->fds = (u16)val); break;
    case 6: xs->fdp = (xs->fdp & ~0xffffffffull) | val; break;
    default: xs->fop = val & 0x7ff; break;
    }
}

// --- reading ----------------------------------------------------------------------------------------------------------------

static u64 read_cr(const struct cpu *c, unsigned index)
{
    switch (index) {
    case 0: return c->cr0;
    case 2: return c->cr2;
    case 3: return c->cr3;
    case 4: return c->cr4;
    default: return c->cr8;
    }
}

static u64 read_number(const struct gdb_reg *reg, const struct cpu *c)
{
    switch (reg->kind) {
    case GDB_REG_GPR: return c->gpr[reg->index];
    case GDB_REG_RIP: return c->rip;
    case GDB_REG_FLAGS: return c->rflags;
    case GDB_REG_SEL: return c->seg[reg->index].sel;
    case GDB_REG_X87: return read_x87(c, reg->index);
    case GDB_REG_MXCSR: return c->xs.mxcsr;
    case GDB_REG_BASE: return c->seg[reg->index].base;
    case GDB_REG_KERNEL_GS: return c->msr.kernel_gs_base;
    case GDB_REG_CR: return read_cr(c, reg->index);
    case GDB_REG_EFER: return c->msr.efer;
    default: return reg->index ? c->idtr.base : c->gdtr.base;
    }
}

void gdb_reg_read(const struct gdb_reg *reg, const struct vcpu *v, u8 *out)
{
    const struct cpu *c = &v->cpu;

    switch (reg->kind) {
    case GDB_REG_ST: memcpy(out, c->xs.st[reg->index], 10); return;
    case GDB_REG_XMM: memcpy(out, c->xs.xmm[reg->index], 16); return;
    case GDB_REG_YMMH: memcpy(out, c->xs.ymmh[reg->index], 16); return;
    default: break;
    }
    u64 val = read_number(reg, c);
    memcpy(out, &val, reg->size);
}

// --- writing ----------------------------------------------------------------------------------------------------------------

// In real and virtual-8086 mode a selector is an address; elsewhere it names a descriptor, and only the guest loads those.
static bool write_selector(struct cpu *c, unsigned seg, u32 val)
{
    if (val == c->seg[seg].sel)
        return true;
    if (cpu_pmode(c) || val > 0xffff)
        return false;
    c->seg[seg].sel = (u16)val;
    c->seg[seg].base = val << 4;
    return true;
}

static bool write_flags(struct cpu *c, u64 val)
{
    if ((val ^ c->rflags) & X86_FL_VM)
        return false;
    c->rflags = (val & X86_FL_ALL) | X86_FL_RSVD1;
    return true;
}

static bool write_cr3(struct vcpu *v, u64 val)
{
    struct cpu *c = &v->cpu;
    bool is_long = cpu_long_mode(c);
    u64 width = v->model && v->model->maxphyaddr ? v->model->maxphyaddr : 48;

    if (is_long ? val >> width : val >> 32)
        return false;
    if (!is_long && (c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !mmu_load_pdptes(v, val))
        return false;
    c->cr3 = val;
    return true;
}

// Only bits whose change needs nothing else to change, and that every processor of ours has a meaning for.
static bool write_bits(u64 *reg, u64 val, u64 can_change)
{
    if ((val ^ *reg) & ~can_change)
        return false;
    *reg = val;
    return true;
}

static bool write_cr(struct vcpu *v, unsigned index, u64 val)
{
    static const u64 cr0_bits = X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM;
    static const u64 cr4_bits = X86_CR4_TSD | X86_CR4_DE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR |
                                X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_SMEP | X86_CR4_SMAP;
    struct cpu *c = &v->cpu;
    bool ok;

    switch (index) {
    case 0: ok = write_bits(&c->cr0, val, cr0_bits); break;
    case 2: c->cr2 = val; return true;
    case 3: ok = write_cr3(v, val); break;
    case 4: ok = write_bits(&c->cr4, val, cr4_bits); break;
    default:
        if (!write_bits(&c->cr8, val, 15))
            return false;
        if (v->intc.cr8_written)
            v->intc.cr8_written(v->intc.intc);
        return true;
    }
    if (ok)
        mmu_state_changed(v);
    return ok;
}

static bool write_base(u64 *base, const struct cpu *c, u64 val)
{
    if (cpu_long_mode(c) ? !gva_canonical(val) : val >> 32)
        return false;
    *base = val;
    return true;
}

static bool write_mxcsr(struct vcpu *v, u64 val)
{
    u32 valid = X86_MXCSR_VALID;

    // Not where the host's own instructions would refuse it.
    if (v->model && cpu_model_has(v->model, ISA_FEAT_MISALIGNSSE))
        valid |= X86_MXCSR_MM;
    if (val & ~(u64)valid)
        return false;
    v->cpu.xs.mxcsr = (u32)val;
    return true;
}

static bool write_efer(struct vcpu *v, u64 val)
{
    if (!write_bits(&v->cpu.msr.efer, val, X86_EFER_SCE | X86_EFER_NXE))
        return false;
    mmu_state_changed(v);
    return true;
}

bool gdb_reg_write(const struct gdb_reg *reg, struct vcpu *v, const u8 *in)
{
    struct cpu *c = &v->cpu;
    u64 val = 0;

    if (reg->size <= 8)
        memcpy(&val, in, reg->size);
    switch (reg->kind) {
    case GDB_REG_GPR: c->gpr[reg->index] = val; return true;
    case GDB_REG_RIP: c->rip = val; return true;
    case GDB_REG_FLAGS: return write_flags(c, val);
    case GDB_REG_SEL: return write_selector(c, reg->index, (u32)val);
    case GDB_REG_ST: memcpy(c->xs.st[reg->index], in, 10); return true;
    case GDB_REG_X87: write_x87(c, reg->index, (u32)val); return true;
    case GDB_REG_XMM: memcpy(c->xs.xmm[reg->index], in, 16); return true;
    case GDB_REG_MXCSR: return write_mxcsr(v, val);
    case GDB_REG_YMMH: memcpy(c->xs.ymmh[reg->index], in, 16); return true;
    case GDB_REG_BASE: return write_base(&c->seg[reg->index].base, c, val);
    case GDB_REG_KERNEL_GS: return write_base(&c->msr.kernel_gs_base, c, val);
    case GDB_REG_CR: return write_cr(v, reg->index, val);
    case GDB_REG_EFER: return write_efer(v, val);
    default: return false;
    }
}
