// What is an exception of the case and what is the harness'; what has to be equal; and how a difference is shown.
//
// `want` is the host's result. Two things of the host are not the processor's: Linux reports every user access to the upper
// half as a protection fault (it hides what is mapped there), and RF after a completed instruction is only visible while the
// exit runs.
#include <stdio.h>
#include <string.h>

#include "isa/disasm.h"
#include "oracle/layout.h"
#include "oracle/oracle.h"

// The instruction completed: where it went on.
void orc_completed(struct orc_result *r, u64 rip)
{
    r->vector = ORC_NO_VECTOR;
    r->error = 0;
    r->cr2 = 0;
    r->out.rip = rip;
}

// Exceptions that come from the harness' landing places rather than from the instruction.
void orc_normalise(const struct orc_case *c, struct orc_result *r, const u64 exits[2])
{
    u64 base = ORC_ARENA - orc_code_base(c);
    if (c->flags & ORC_F_SEQUENCE) // filler stops the engine, too
        return;
    // Filler: INT3 everywhere where there is no exit.
    bool own = c->insn.op == ISA_OP_INT3 || (c->insn.op == ISA_OP_INT && c->insn.imm == X86_EXC_BP);
    if (r->vector == X86_EXC_BP && !(own && r->out.rip == c->in.rip + c->len)) {
        orc_completed(r, r->out.rip - 1);
        return;
    }
    // Arrived where nothing can be fetched: the end of a page, or wherever a branch went.
    if (r->vector == X86_EXC_PF && (r->error & X86_PF_I) && r->out.rip != c->in.rip) {
        orc_completed(r, r->out.rip);
        return;
    }
    // The same at the end of the code segment.
    if (r->vector == X86_EXC_GP && r->error == 0 && r->out.rip != c->in.rip) {
        for (unsigned k = 0; k < c->nland; k++)
            if (r->out.rip == base + c->land[k]) {
                orc_completed(r, r->out.rip);
                return;
            }
    }
    // TF that the instruction itself set, or whose trap a MOV SS held back, traps after the jump to the exit.
    if (r->vector == X86_EXC_DB) {
        for (unsigned k = 0; k < 2; k++)
            if (r->out.rip == exits[k] || r->out.rip == THUNKS + k * THUNK_SIZE) {
                orc_completed(r, base + c->land[k]);
                r->out.sel[X86_CS] = c->in.sel[X86_CS];
                return;
            }
    }
}

// Upper halves mean nothing outside 64-bit mode, nor after having been there.
static u64 gpr_mask(const struct orc_case *c, const struct orc_result *want)
{
    return c->mode == ISA_MODE_64 && want->out.sel[X86_CS] == ORC_SEL_USER_CS ? ~0ull : 0xffffffffull;
}

static bool completed(const struct orc_result *r)
{
    return r->vector == ORC_NO_VECTOR;
}

// Completed, if only to be stopped by a single-step trap.
static bool executed(const struct orc_result *r)
{
    return completed(r) || r->vector == X86_EXC_DB;
}

// Flags that the manuals leave undefined after this case.
static u64 undefined_flags(const struct orc_case *c, const struct orc_result *want)
{
    return c->valid && executed(want) ? isa_forms[c->insn.form].flags_undef : 0;
}

// Addresses from here on are the kernel's, the last page of the lower half among them.
#define LINUX_TASK_SIZE 0x7ffffffff000ull

static u64 flags_mask(const struct orc_result *want)
{
    return (u64)X86_FL_ALL & ~(completed(want) ? (u64)X86_FL_RF : 0);
}

static bool upper_half(const struct orc_result *r)
{
    return r->vector == X86_EXC_PF && r->cr2 >= LINUX_TASK_SIZE;
}

static bool exception_differs(const struct orc_result *a, const struct orc_result *b)
{
    u32 ignore = upper_half(a) ? X86_PF_P : 0;
    return a->vector != b->vector || ((a->error ^ b->error) & ~ignore) ||
           (a->vector == X86_EXC_PF && a->cr2 != b->cr2) || a->hang || b->hang;
}

// As far as the host tells (want->x87_pointers).
static bool pointers_differ(const struct orc_result *want, const struct orc_result *got)
{
    const struct x86_xsave *a = &want->out.xs, *b = &got->out.xs;
    if (want->x87_pointers == ORC_X87_UNKNOWN)
        return false;
    u64 mask = want->x87_pointers == ORC_X87_ENV ? 0xffffffff : ~0ull;
    if (want->x87_pointers == ORC_X87_ENV && (want->fcs != got->fcs || want->fds != got->fds))
        return true;
    return a->fop != b->fop || ((a->fip ^ b->fip) & mask) || ((a->fdp ^ b->fdp) & mask);
}

static bool x87_differs(const struct x86_xsave *a, const struct x86_xsave *b)
{
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw)
        return true;
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a->st[i], b->st[i], 10))
            return true;
    return false;
}

static bool memory_differs(const struct orc_result *a, const struct orc_result *b)
{
    return a->nlines != b->nlines || a->overflow != b->overflow || memcmp(a->line, b->line, a->nlines * 2u) ||
           memcmp(a->bytes, b->bytes, a->nlines * ORC_LINE);
}

// Registers whose values are the host's own (time, random numbers, what CPUID tells): only what lies above the written part is
// compared. Nothing in the guest's may be left of the old value there.
static u64 own_value_mask(const struct orc_case *c, unsigned reg)
{
    const struct insn *in = &c->insn;
    if (!c->valid)
        return 0;
    switch (in->op) {
    case ISA_OP_RDTSC: return reg == X86_RAX || reg == X86_RDX ? 0xffffffff : 0;
    case ISA_OP_RDTSCP: return reg <= X86_RDX ? 0xffffffff : 0;
    case ISA_OP_CPUID: return reg <= X86_RBX ? 0xffffffff : 0;
    case ISA_OP_XGETBV: return reg == X86_RAX ? 0xffffffff : 0;
    case ISA_OP_RDPID: return reg == in->opnd[0].reg ? 0xffffffff : 0;
    case ISA_OP_RDRAND:
    case ISA_OP_RDSEED:
        if (reg != in->opnd[0].reg)
            return 0;
        return in->opnd[0].size == 8 ? ~0ull : (1ull << in->opnd[0].size * 8) - 1;
    default: return 0;
    }
}

// Null selectors count as equal: returning from the kernel clears the RPL that an instruction left in one.
static bool selectors_differ(const struct orc_state *a, const struct orc_state *b)
{
    for (unsigned i = 0; i < 6; i++)
        if (a->sel[i] != b->sel[i] && ((a->sel[i] | b->sel[i]) & ~X86_SEL_RPL))
            return true;
    return false;
}

// The host's per-processor segment, whose limit is the processor's number.
static bool host_only(const struct orc_case *c, const struct orc_result *got)
{
    return c->valid && c->insn.op == ISA_OP_LSL && completed(got) &&
           (u16)got->out.gpr[c->insn.opnd[0].reg] == ORC_CPU_LIMIT;
}

static bool jumps_far(const struct insn *in)
{
    return in->op == ISA_OP_JMP_FAR || in->op == ISA_OP_CALL_FAR || in->op == ISA_OP_RET_FAR || in->op == ISA_OP_IRET;
}

bool orc_jumps(const struct insn *in)
{
    return jumps_far(in) || isa_forms[in->form].cls == ISA_CLASS_BRANCH;
}

// A branch whose target, by chance, is the instruction itself, the middle of an exit, or where exits go: the host ran on there,
// and what came of it is nothing of the instruction's.
static bool went_astray(const struct orc_case *c, const struct orc_result *got)
{
    u16 cs = got->out.sel[X86_CS];
    u64 base = (cs & X86_SEL_TI) && (cs >> 3) < ORC_LDT_COUNT ? orc_ldt[cs >> 3].base : 0;
    u64 to = got->out.rip + base, off = to - ORC_ARENA;
    // Only what jumps can go anywhere: another instruction that has not moved from its place is simply wrong.
    if (!c->valid || !completed(got) || !orc_jumps(&c->insn))
        return false;
    for (unsigned k = 0; k < c->nland; k++)
        if (off > c->land[k] && off < c->land[k] + 8u)
            return true;
    // An exit tells of one code segment only.
    if (jumps_far(&c->insn) && off == c->land[0] && cs != c->in.sel[X86_CS])
        return true;
    return (to >= CTX && to < THUNKS + 4096) || (off >= c->code_off && off < c->code_off + (u64)c->len);
}

bool orc_differs(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    if (host_only(c, got) || went_astray(c, got))
        return false;
    const struct orc_state *a = &want->out, *b = &got->out;
    u64 gm = gpr_mask(c, want);
    if (exception_differs(want, got) || a->rip != b->rip)
        return true;
    for (unsigned i = 0; i < (c->mode == ISA_MODE_64 ? 16u : 8u); i++)
        if ((a->gpr[i] ^ b->gpr[i]) & gm & ~(executed(want) ? own_value_mask(c, i) : 0))
            return true;
    if ((a->rflags ^ b->rflags) & flags_mask(want) & ~undefined_flags(c, want))
        return true;
    if (selectors_differ(a, b) || a->fs_base != b->fs_base || a->gs_base != b->gs_base)
        return true;
    if (pointers_differ(want, got) || x87_differs(&a->xs, &b->xs) || a->xs.mxcsr != b->xs.mxcsr)
        return true;
    if (memcmp(a->xs.xmm, b->xs.xmm, sizeof a->xs.xmm) || memcmp(a->xs.ymmh, b->xs.ymmh, sizeof a->xs.ymmh))
        return true;
    return memory_differs(want, got);
}

bool orc_undef_differs(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    return completed(got) && ((want->out.rflags ^ got->out.rflags) & undefined_flags(c, want));
}

// --- report -------------------------------------------------------------------------------------------------------------

static const char *const gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};

static void show_vector(const char *name, unsigned i, const u8 *in, const u8 *want, const u8 *got, unsigned len)
{
    if (!memcmp(want, got, len))
        return;
    const u8 *rows[] = {in, want, got};
    static const char *const label[] = {"in  ", "want", "got "};
    for (unsigned r = 0; r < 3; r++) {
        printf("  %s%-2u %s ", name, i, label[r]);
        for (unsigned b = len; b-- > 0;)
            printf("%02x%s", rows[r][b], b % 8 == 0 && b ? "_" : "");
        printf("\n");
    }
}

static void show_word(const char *name, u64 in, u64 want, u64 got)
{
    if (want != got)
        printf("  %-7s in %016lx want %016lx got %016lx  (diff %lx)\n", name, in, want, got, want ^ got);
}

static void show_state(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    const struct orc_state *i = &c->in, *a = &want->out, *b = &got->out;
    for (unsigned n = 0; n < (c->mode == ISA_MODE_64 ? 16u : 8u); n++)
        show_word(gpr_names[n], i->gpr[n], a->gpr[n] & gpr_mask(c, want), b->gpr[n] & gpr_mask(c, want));
    show_word("rip", i->rip, a->rip, b->rip);
    show_word("rflags", i->rflags, a->rflags & flags_mask(want), b->rflags & flags_mask(want));
    for (unsigned n = 0; n < 6; n++)
        show_word(seg_names[n], i->sel[n], a->sel[n], b->sel[n]);
    show_word("fs_base", i->fs_base, a->fs_base, b->fs_base);
    show_word("gs_base", i->gs_base, a->gs_base, b->gs_base);
    show_word("fcw", i->xs.fcw, a->xs.fcw, b->xs.fcw);
    show_word("fsw", i->xs.fsw, a->xs.fsw, b->xs.fsw);
    show_word("ftw", i->xs.ftw, a->xs.ftw, b->xs.ftw);
    if (pointers_differ(want, got)) {
        show_word("fop", i->xs.fop, a->xs.fop, b->xs.fop);
        show_word("fip", i->xs.fip, a->xs.fip, b->xs.fip);
        show_word("fdp", i->xs.fdp, a->xs.fdp, b->xs.fdp);
        show_word("fcs", 0, want->fcs, got->fcs);
        show_word("fds", 0, want->fds, got->fds);
    }
    show_word("mxcsr", i->xs.mxcsr, a->xs.mxcsr, b->xs.mxcsr);
    for (unsigned n = 0; n < 8; n++)
        show_vector("st", n, i->xs.st[n], a->xs.st[n], b->xs.st[n], 10);
    for (unsigned n = 0; n < 16; n++) {
        show_vector("xmm", n, i->xs.xmm[n], a->xs.xmm[n], b->xs.xmm[n], 16);
        show_vector("ymmh", n, i->xs.ymmh[n], a->xs.ymmh[n], b->xs.ymmh[n], 16);
    }
}

// The bytes of one line in a result: changed, or pristine.
static const u8 *line_of(const struct orc_result *r, u16 off)
{
    for (unsigned i = 0; i < r->nlines; i++)
        if (r->line[i] == off)
            return r->bytes[i];
    return orc_pristine + off;
}

static void show_memory(const struct orc_result *want, const struct orc_result *got)
{
    const struct orc_result *side[] = {want, got};
    for (unsigned s = 0; s < 2; s++)
        for (unsigned i = 0; i < side[s]->nlines; i++) {
            u16 off = side[s]->line[i];
            const u8 *a = line_of(want, off), *b = line_of(got, off);
            if (!memcmp(a, b, ORC_LINE) || (s == 1 && line_of(want, off) != orc_pristine + off))
                continue;
            printf("  memory %08x:\n    want ", ORC_ARENA + off);
            for (unsigned k = 0; k < ORC_LINE; k++)
                printf("%02x", a[k]);
            printf("\n    got  ");
            for (unsigned k = 0; k < ORC_LINE; k++)
                printf(a[k] == b[k] ? ".." : "%02x", b[k]);
            printf("\n");
        }
    if (want->overflow != got->overflow)
        printf("  more changed memory than a result holds: want %d got %d\n", want->overflow, got->overflow);
}

static void show_outcome(const char *who, const struct orc_result *r)
{
    static const char *const hang[] = {"", " (process died)", " (no end)", " (shutdown or engine error)",
                                       " (goes on and on)"};
    if (completed(r))
        printf("  %s: completed%s\n", who, hang[r->hang]);
    else
        printf("  %s: vector %u error %x cr2 %lx%s\n", who, r->vector, r->error, r->cr2, hang[r->hang]);
}

static void show_inputs(const struct orc_case *c)
{
    const struct orc_state *s = &c->in;
    for (unsigned n = 0; n < (c->mode == ISA_MODE_64 ? 16u : 8u); n++)
        printf("%s %s %016lx", n % 4 == 0 ? "  in:" : "", gpr_names[n], s->gpr[n]), n % 4 == 3 ? puts("") : 0;
    printf("  in: rip %lx rflags %lx fcw %x fsw %x ftw %x mxcsr %x", s->rip, s->rflags, s->xs.fcw, s->xs.fsw, s->xs.ftw,
           s->xs.mxcsr);
    if (c->flags & ORC_F_SEGS) {
        for (unsigned n = 0; n < 6; n++)
            printf(" %s %x", seg_names[n], s->sel[n]);
        printf(" fs_base %lx gs_base %lx", s->fs_base, s->gs_base);
    }
    printf("\n");
    for (unsigned i = 0; i < c->npatch; i++) {
        printf("  in: memory %08x ", ORC_ARENA + c->patch[i].off);
        for (unsigned k = 0; k < c->patch[i].len && k < 48; k++)
            printf("%02x", c->data[c->patch[i].data + k]);
        printf("%s\n", c->patch[i].len > 48 ? "..." : "");
    }
}

void orc_report(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    static const char *const modes[] = {"16", "32", "64"};
    char text[128] = "";
    isa_disasm(c->code, 15, c->mode, c->in.rip, text, sizeof text);
    printf("seed 0x%016lx %s-bit %s%s: ", c->seed, modes[c->mode], isa_forms[c->valid ? c->insn.form : c->form].name,
           c->valid ? "" : " (invalid)");
    for (unsigned i = 0; i < c->len; i++)
        printf("%02x", c->code[i]);
    printf("  %s\n", text);
    orc_report_states(c, want, got);
}

void orc_report_states(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    show_inputs(c);
    show_outcome("want", want);
    show_outcome("got ", got);
    if (want->hang || got->hang)
        return;
    show_state(c, want, got);
    show_memory(want, got);
}
