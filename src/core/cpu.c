// Processor state after RESET and INIT (SDM 3A table 9-1, APM 2 14.1.3) and its invariants.
#include "core/cpu.h"

#define CR0_AFTER_RESET (X86_CR0_CD | X86_CR0_NW | X86_CR0_ET)
#define APIC_BASE_DEFAULT 0xfee00000ull
#define APIC_BASE_BSP 0x100u
#define APIC_BASE_ENABLE 0x800u
#define PAT_AFTER_RESET 0x0007040600070406ull
#define MISC_ENABLE_FAST_STRINGS 1u

static void reset_segments(struct cpu *c)
{
    for (unsigned i = 0; i < X86_SREG_COUNT; i++)
        c->seg[i] = (struct x86_seg){.attr = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A, .limit = 0xffff};
    c->seg[X86_CS].sel = 0xf000;
    c->seg[X86_CS].base = 0xffff0000;
    c->seg[X86_CS].attr |= X86_SEG_CODE;
    c->seg[X86_LDTR].attr = X86_SEG_P | X86_SYS_LDT;
    c->seg[X86_TR].attr = X86_SEG_P | X86_SYS_TSS_BUSY;
    c->gdtr = c->idtr = (struct x86_dtable){.base = 0, .limit = 0xffff};
}

// What RESET and INIT have in common.
static void reset_common(struct cpu *c, bool bsp)
{
    for (unsigned i = 0; i < X86_GPR_COUNT; i++)
        c->gpr[i] = 0;
    c->rip = 0xfff0;
    c->rflags = X86_FL_RSVD1;
    reset_segments(c);
    c->cr2 = c->cr3 = c->cr4 = c->cr8 = 0;
    for (unsigned i = 0; i < 4; i++)
        c->dr[i] = c->pdpte[i] = 0;
    c->dr6 = X86_DR6_FIXED;
    c->dr7 = X86_DR7_FIXED;
    c->cpl = 0;
    c->activity = bsp ? CPU_RUNNING : CPU_WAIT_SIPI;
    c->shadow = 0;
    c->pending_dr6 = 0;
    c->nmi_blocked = c->nmi_pending = false;
    c->event = (struct cpu_event){.type = CPU_EVENT_NONE};
    c->msr.efer = 0;
    c->msr.debugctl = 0;
}

void cpu_reset(struct cpu *c, bool bsp)
{
    __builtin_memset(c, 0, sizeof(*c));
    reset_common(c, bsp);
    c->cr0 = CR0_AFTER_RESET;
    c->xcr0 = X86_XCR0_X87;
    c->a20_mask = ~0ull;
    c->msr.apic_base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (bsp ? APIC_BASE_BSP : 0);
    c->msr.pat = PAT_AFTER_RESET;
    c->msr.misc_enable = MISC_ENABLE_FAST_STRINGS;
    // RESET leaves the x87 as no FNINIT does: FCW 0x40 and all registers valid zeros. Since that differs from what
    // XRSTOR takes for the initial state, XSTATE_BV names the components.
    c->xs.fcw = 0x0040;
    c->xs.ftw = 0xff;
    c->xs.mxcsr = X86_MXCSR_DEFAULT;
    c->xs.mxcsr_mask = X86_MXCSR_VALID;
    c->xs.xstate_bv = X86_XCR0_X87 | X86_XCR0_SSE;
}

void cpu_init_ipi(struct cpu *c, bool bsp)
{
    u64 cache = c->cr0 & (X86_CR0_CD | X86_CR0_NW);

    reset_common(c, bsp);
    c->cr0 = cache | X86_CR0_ET;
}

static bool check_cpl(const struct cpu *c)
{
    if ((cpu_real_mode(c) && c->cpl != 0) || (cpu_v8086(c) && c->cpl != 3))
        return false;
    // A null SS is legal in 64-bit mode; its DPL field is not architectural then.
    return (c->seg[X86_SS].attr & X86_SEG_UNUSABLE) || c->cpl == X86_SEG_DPL(c->seg[X86_SS].attr);
}

const char *cpu_check(const struct cpu *c)
{
    bool lma = c->msr.efer & X86_EFER_LMA;
    bool lme = c->msr.efer & X86_EFER_LME;
    bool paging = c->cr0 & X86_CR0_PG;

    if (!(c->rflags & X86_FL_RSVD1) || (c->rflags & ~(u64)(X86_FL_ALL | X86_FL_RSVD1)))
        return "rflags: reserved bits";
    if (lma != (lme && paging))
        return "efer: LMA is not LME and CR0.PG";
    if (lma && !(c->cr4 & X86_CR4_PAE))
        return "efer: LMA without CR4.PAE";
    if (paging && !(c->cr0 & X86_CR0_PE))
        return "cr0: PG without PE";
    if (cpu_v8086(c) && (lma || cpu_real_mode(c)))
        return "rflags: VM in long or real mode";
    if (c->cpl > 3 || !check_cpl(c))
        return "cpl: does not follow from mode and SS";
    if (c->activity > CPU_SHUTDOWN)
        return "activity: unknown";
    if (c->event.type > CPU_EVENT_SOFT_EXC)
        return "event: unknown type";
    if (c->xs.mxcsr & ~(X86_MXCSR_VALID | X86_MXCSR_MM))
        return "mxcsr: reserved bits";
    if (c->a20_mask != ~0ull && c->a20_mask != ~(1ull << 20))
        return "a20_mask: neither on nor off";
    return NULL;
}

static bool is_flat(const struct x86_seg *s, u32 must, u32 must_not)
{
    return s->base == 0 && s->limit == ~0u && (s->attr & must) == must && !(s->attr & (must_not | X86_SEG_UNUSABLE));
}

bool cpu_flat32(const struct cpu *c)
{
    const u32 data = X86_SEG_W, not_data = X86_SEG_CODE | X86_SEG_E;
    return cpu_pmode(c) && is_flat(&c->seg[X86_CS], X86_SEG_CODE, 0) &&
           is_flat(&c->seg[X86_SS], data | X86_SEG_DB, not_data) && is_flat(&c->seg[X86_DS], data, not_data) &&
           is_flat(&c->seg[X86_ES], data, not_data);
}
