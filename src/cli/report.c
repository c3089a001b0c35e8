// Register dump and code listing.

#include "cli/report.h"

#include "core/machine.h"
#include "core/mmu.h"
#include "isa/disasm.h"

#define CODE_LINES 4

static void print_gprs(FILE *out, const struct cpu *c)
{
    static const char *const names[X86_GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                     "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};

    for (unsigned i = 0; i < X86_GPR_COUNT; i++)
        fprintf(out, "%s=%016llx%c", names[i], (unsigned long long)c->gpr[i], i % 4 == 3 ? '\n' : ' ');
}

static void print_flags(FILE *out, const struct cpu *c)
{
    static const struct {
        u32 bit;
        const char *name;
    } flags[] = {
        {X86_FL_CF, "CF"}, {X86_FL_PF, "PF"}, {X86_FL_AF, "AF"},   {X86_FL_ZF, "ZF"},
        {X86_FL_SF, "SF"}, {X86_FL_TF, "TF"}, {X86_FL_IF, "IF"},   {X86_FL_DF, "DF"},
        {X86_FL_OF, "OF"}, {X86_FL_NT, "NT"}, {X86_FL_RF, "RF"},   {X86_FL_VM, "VM"},
        {X86_FL_AC, "AC"}, {X86_FL_ID, "ID"}, {X86_FL_VIF, "VIF"}, {X86_FL_VIP, "VIP"},
    };

    fprintf(out, "rip=%016llx rflags=%08llx [", (unsigned long long)c->rip, (unsigned long long)c->rflags);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (c->rflags & flags[i].bit)
            fprintf(out, " %s", flags[i].name);
    fprintf(out, " ] iopl=%u cpl=%u\n", cpu_iopl(c), c->cpl);
}

static void print_segment(FILE *out, const char *name, const struct x86_seg *s)
{
    fprintf(out, "%s=%04x base=%016llx limit=%08x attr=%04x%s\n", name, s->sel, (unsigned long long)s->base, s->limit,
            s->attr & 0xffff, s->attr & X86_SEG_UNUSABLE ? " (null)" : "");
}

static void print_system(FILE *out, const struct cpu *c)
{
    static const char *const names[X86_SREG_COUNT] = {"es ", "cs ", "ss ", "ds ", "fs ", "gs ", "ldt", "tr "};

    for (unsigned i = 0; i < X86_SREG_COUNT; i++)
        print_segment(out, names[i], &c->seg[i]);
    fprintf(out, "gdt=%016llx limit=%04x  idt=%016llx limit=%04x\n", (unsigned long long)c->gdtr.base, c->gdtr.limit,
            (unsigned long long)c->idtr.base, c->idtr.limit);
    fprintf(out, "cr0=%08llx cr2=%016llx cr3=%016llx cr4=%08llx cr8=%llx\n", (unsigned long long)c->cr0,
            (unsigned long long)c->cr2, (unsigned long long)c->cr3, (unsigned long long)c->cr4,
            (unsigned long long)c->cr8);
    fprintf(out, "dr0=%016llx dr1=%016llx dr2=%016llx dr3=%016llx dr6=%08llx dr7=%08llx\n",
            (unsigned long long)c->dr[0], (unsigned long long)c->dr[1], (unsigned long long)c->dr[2],
            (unsigned long long)c->dr[3], (unsigned long long)c->dr6, (unsigned long long)c->dr7);
    fprintf(out, "efer=%04llx xcr0=%llx fcw=%04x fsw=%04x mxcsr=%08x\n", (unsigned long long)c->msr.efer,
            (unsigned long long)c->xcr0, c->xs.fcw, c->xs.fsw, c->xs.mxcsr);
}

static const char *mode_name(const struct cpu *c)
{
    if (cpu_real_mode(c))
        return "real mode";
    if (cpu_v8086(c))
        return "virtual-8086 mode";
    if (cpu_64bit(c))
        return "64-bit mode";
    return cpu_long_mode(c) ? "compatibility mode" : "protected mode";
}

// Bytes at linear address `a`, as far as they can be read.
size_t report_peek(const struct vcpu *v, gva a, u8 *buf, size_t len)
{
    size_t n = 0;
    gpa phys;

    while (n < len && mmu_peek(v, a + n, &phys) && mem_read(&v->machine->mem, phys, buf + n, 1))
        n++;
    return n;
}

static void print_code(FILE *out, const struct vcpu *v)
{
    const struct cpu *c = &v->cpu;
    bool is64 = cpu_64bit(c);
    enum isa_mode mode = is64 ? ISA_MODE_64 : c->seg[X86_CS].attr & X86_SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
    u64 rip = c->rip;

    for (unsigned line = 0; line < CODE_LINES; line++) {
        u8 bytes[ISA_MAX_LEN];
        char text[128];
        size_t have = report_peek(v, is64 ? rip : (u32)(c->seg[X86_CS].base + rip), bytes, sizeof(bytes)), len;

        if (!have) {
            fprintf(out, "%s %016llx: no memory\n", line ? "  " : "=>", (unsigned long long)rip);
            return;
        }
        len = isa_disasm(bytes, have, mode, rip, text, sizeof(text));
        fprintf(out, "%s %016llx: %s\n", line ? "  " : "=>", (unsigned long long)rip, text);
        if (!len)
            return;
        rip += len;
    }
}

void report_cpu(FILE *out, const struct vcpu *v)
{
    fprintf(out, "cpu %u in %s after %llu instructions%s\n", v->id, mode_name(&v->cpu), (unsigned long long)v->insns,
            v->uncounted ? " and those not counted" : "");
    print_gprs(out, &v->cpu);
    print_flags(out, &v->cpu);
    print_system(out, &v->cpu);
    print_code(out, v);
}

void report_icount(FILE *out, const struct machine *m)
{
    u64 ns = clock_now(&m->clock);

    fprintf(out, "pogo: %llu instructions, %llu.%09llu seconds of virtual time, state %016llx\n",
            (unsigned long long)m->vcpu[0]->insns, (unsigned long long)(ns / 1000000000),
            (unsigned long long)(ns % 1000000000), (unsigned long long)machine_hash(m));
}
