// The table of struct cpu's fields. A test holds it against the structure: a field that is missing here fails it.
#include "core/cpu_fields.h"

#include "core/hash.h"

static const char *const gpr_names[X86_GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_names[X86_SREG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

#define AT(member) ((u16)offsetof(struct cpu, member))
#define SIZE(member) ((u16)sizeof(((struct cpu *)0)->member))
#define ONE(name, member) \
    { \
        name, NULL, AT(member), SIZE(member), 0, 1 \
    }
#define MANY(name, member) \
    { \
        name, NULL, AT(member), SIZE(member[0]), SIZE(member[0]), SIZE(member) / SIZE(member[0]) \
    }
#define SEGS(name, part) \
    { \
        name, seg_names, AT(seg[0].part), SIZE(seg[0].part), SIZE(seg[0]), X86_SREG_COUNT \
    }
#define MSR(name) ONE(#name, msr.name)

// In the order in which they are looked at: what differs most often comes first.
static const struct cpu_field fields[] = {
    ONE("rip", rip),
    {"", gpr_names, AT(gpr), 8, 8, X86_GPR_COUNT},
    ONE("rflags", rflags),
    ONE("cpl", cpl),
    ONE("activity", activity),
    ONE("shadow", shadow),
    ONE("event.type", event.type),
    ONE("event.vector", event.vector),
    ONE("event.has_error", event.has_error),
    ONE("event.insn_len", event.insn_len),
    ONE("event.error", event.error),
    ONE("event.cr2", event.cr2),
    ONE("event.dr6", event.dr6),
    SEGS("selector", sel),
    SEGS("base", base),
    SEGS("limit", limit),
    SEGS("attr", attr),
    ONE("gdtr.base", gdtr.base),
    ONE("gdtr.limit", gdtr.limit),
    ONE("idtr.base", idtr.base),
    ONE("idtr.limit", idtr.limit),
    ONE("cr0", cr0),
    ONE("cr2", cr2),
    ONE("cr3", cr3),
    ONE("cr4", cr4),
    ONE("cr8", cr8),
    ONE("xcr0", xcr0),
    MANY("dr", dr),
    ONE("dr6", dr6),
    ONE("dr7", dr7),
    MANY("pdpte", pdpte),
    ONE("nmi_blocked", nmi_blocked),
    ONE("nmi_pending", nmi_pending),
    ONE("a20_mask", a20_mask),
    ONE("pending_dr6", pending_dr6),
    MSR(efer),
    MSR(star),
    MSR(lstar),
    MSR(cstar),
    MSR(sfmask),
    MSR(kernel_gs_base),
    MSR(sysenter_cs),
    MSR(sysenter_esp),
    MSR(sysenter_eip),
    MSR(pat),
    MSR(apic_base),
    MSR(misc_enable),
    MSR(debugctl),
    MSR(tsc_aux),
    MSR(xss),
    MSR(spec_ctrl),
    MSR(tsc_offset),
    MSR(tsc_adjust),
    MSR(mtrr_def_type),
    MANY("mtrr_base", msr.mtrr_base),
    MANY("mtrr_mask", msr.mtrr_mask),
    MANY("mtrr_fix", msr.mtrr_fix),
    MSR(mcg_status),
    MSR(mcg_ctl),
    MANY("mce_bank", msr.mce_bank),
    MSR(syscfg),
    MSR(hwcr),
    MSR(vm_cr),
    MSR(kvm_wall_clock),
    MSR(kvm_system_time),
    ONE("fcw", xs.fcw),
    ONE("fsw", xs.fsw),
    ONE("ftw", xs.ftw),
    ONE("fop", xs.fop),
    ONE("fip", xs.fip),
    ONE("fcs", fcs),
    ONE("fdp", xs.fdp),
    ONE("fds", fds),
    ONE("mxcsr", xs.mxcsr),
    ONE("mxcsr_mask", xs.mxcsr_mask),
    {"st", NULL, AT(xs.st), 10, 16, 8},
    MANY("xmm", xs.xmm),
    MANY("ymmh", xs.ymmh),
    ONE("xstate_bv", xs.xstate_bv),
    ONE("xcomp_bv", xs.xcomp_bv),
};

const struct cpu_field *cpu_field_at(unsigned n)
{
    return n < ARRAY_LEN(fields) ? &fields[n] : NULL;
}

static char *put(char *to, const char *end, const char *text)
{
    while (*text && to < end)
        *to++ = *text++;
    return to;
}

void cpu_field_name(const struct cpu_field *f, unsigned n, char name[CPU_FIELD_NAME])
{
    const char *end = name + CPU_FIELD_NAME - 1;
    char number[3] = {(char)('0' + n / 10), (char)('0' + n % 10), 0};
    char *to = name;

    if (f->names) {
        to = put(to, end, f->names[n]);
        to = put(to, end, f->name[0] ? "." : "");
    }
    to = put(to, end, f->name);
    if (f->count > 1 && !f->names)
        to = put(to, end, n < 10 ? number + 1 : number);
    *to = 0;
}

bool cpu_same(const struct cpu *a, const struct cpu *b)
{
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        const struct cpu_field *f = &fields[i];
        // What lies without gaps is compared at once.
        unsigned size = f->size == f->stride ? f->size * f->count : f->size;
        unsigned count = f->size == f->stride ? 1 : f->count;
        for (unsigned n = 0; n < count; n++)
            if (__builtin_memcmp(cpu_field_value(a, f, n), cpu_field_value(b, f, n), size))
                return false;
    }
    return true;
}

u64 cpu_hash(const struct cpu *c)
{
    u64 h = HASH_START;

    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        for (unsigned n = 0; n < fields[i].count; n++)
            h = hash_bytes(h, cpu_field_value(c, &fields[i], n), fields[i].size);
    return h;
}
