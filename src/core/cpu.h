// The architectural state of one virtual processor.
//
// `struct cpu` is the one interchange format between engines, snapshots and the debugger: it holds what the manuals
// define and nothing that an engine invented. Between two calls of engine_ops.run() it is complete and exact, at an
// instruction boundary. It is plain data: copying it copies the processor.
//
// Invariants (cpu_check() asserts them):
//  - rflags has bit 1 set and only bits of X86_FL_ALL otherwise;
//  - EFER.LMA == EFER.LME && CR0.PG;
//  - cpl is 0 in real mode, 3 in v8086 mode, and SS.DPL in every mode at instruction boundaries, unless SS is unusable;
//  - MXCSR has no reserved bits set (engines load it into the host's);
//  - upper halves of RIP and GPRs may be nonzero outside 64-bit mode only as left over from it (the manuals leave them
//    undefined; we keep them).
#ifndef POGO_CORE_CPU_H
#define POGO_CORE_CPU_H

#include "isa/x86.h"
#include "pogo/types.h"

struct x86_seg {
    u16 sel;
    u32 attr;  // X86_SEG_*: access rights, X86_SEG_UNUSABLE after loading a null selector
    u32 limit; // in bytes, granularity already applied
    u64 base;
};

struct x86_dtable {
    u64 base;
    u16 limit;
};

// XSAVE area, standard format: legacy region, header, AVX component. SDM 1 13.4.
struct x86_xsave {
    u16 fcw, fsw;
    u8 ftw; // abridged tag: bit set = register valid
    u8 rsvd0;
    u16 fop;
    u64 fip, fdp; // FIP and FDP as in the 64-bit format; the 32-bit format's selectors are in fcs, fds of struct cpu
    u32 mxcsr, mxcsr_mask;
    u8 st[8][16]; // ST0..ST7 (top of stack first), 10 bytes used each
    u8 xmm[16][16];
    u8 rsvd1[96];
    u64 xstate_bv, xcomp_bv;
    u8 rsvd2[48];
    u8 ymmh[16][16]; // upper halves of YMM0..15
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct x86_xsave) == 832, "XSAVE area: legacy 512, header 64, AVX 256");
_Static_assert(offsetof(struct x86_xsave, xmm) == 160, "FXSAVE layout");
_Static_assert(offsetof(struct x86_xsave, xstate_bv) == 512, "XSAVE header");

enum cpu_activity { CPU_RUNNING, CPU_HALTED, CPU_WAIT_SIPI, CPU_SHUTDOWN };

// What has to happen before the next instruction; at most one. Set by whoever finds it, consumed by event delivery.
enum cpu_event_type {
    CPU_EVENT_NONE,
    CPU_EVENT_EXTERNAL, // external interrupt, already acknowledged
    CPU_EVENT_NMI,
    CPU_EVENT_EXCEPTION, // hardware exception (fault, trap or abort)
    CPU_EVENT_SOFT_INT,  // INT n
    CPU_EVENT_PRIV_INT,  // INT1
    CPU_EVENT_SOFT_EXC,  // INT3, INTO
};

struct cpu_event {
    u8 type; // enum cpu_event_type
    u8 vector;
    bool has_error;
    u8 insn_len; // soft events: length of the instruction, to compute the return address
    u32 error;
    u64 cr2; // page faults: the faulting linear address, loaded into CR2 at delivery
    u32 dr6; // debug exceptions: bits to merge into DR6 at delivery
};

// Interrupt shadow. SDM 3A 6.8.3: one instruction after STI or after a load of SS.
#define CPU_SHADOW_STI 1
#define CPU_SHADOW_MOVSS 2

#define CPU_MTRR_VAR 8
#define CPU_MCE_BANKS 4

struct cpu_msrs {
    u64 efer, star, lstar, cstar, sfmask, kernel_gs_base;
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 pat, apic_base, misc_enable, debugctl, tsc_aux, xss, spec_ctrl;
    u64 tsc_offset; // guest TSC = host TSC (or virtual clock ticks) + tsc_offset
    u64 tsc_adjust;
    u64 mtrr_def_type, mtrr_base[CPU_MTRR_VAR], mtrr_mask[CPU_MTRR_VAR], mtrr_fix[11];
    u64 mcg_status, mcg_ctl, mce_bank[CPU_MCE_BANKS][4]; // CTL, STATUS, ADDR, MISC of each bank
    u64 syscfg, hwcr, vm_cr;
    u64 kvm_wall_clock, kvm_system_time;
};

struct cpu {
    u64 gpr[X86_GPR_COUNT];
    u64 rip;
    u64 rflags;
    struct x86_seg seg[X86_SREG_COUNT]; // ES CS SS DS FS GS LDTR TR
    struct x86_dtable gdtr, idtr;
    u64 cr0, cr2, cr3, cr4, cr8;
    u64 xcr0;
    u64 dr[4], dr6, dr7;
    u64 pdpte[4]; // PAE page-directory pointers, loaded by MOV CR3 and the like. SDM 3A 4.4.1
    u8 cpl;
    u8 activity; // enum cpu_activity
    bool nmi_blocked;
    bool nmi_pending; // one NMI is latched while blocked
    u16 fcs, fds;     // x87 instruction and data selectors, kept for the 16- and 32-bit formats
    u64 a20_mask;     // ANDed with guest-physical addresses: ~0, or bit 20 clear
    // Written at every instruction, so not in one word with `activity` and `nmi_pending`, which are read at every
    // instruction: a compiler that tests those two with one load would have it wait for the store each time.
    u8 shadow;       // CPU_SHADOW_*
    u32 pending_dr6; // DR6 bits of debug traps held back by a MOV SS shadow
    struct cpu_event event;
    struct cpu_msrs msr;
    struct x86_xsave xs;
};

static inline bool cpu_real_mode(const struct cpu *c)
{
    return !(c->cr0 & X86_CR0_PE);
}

static inline bool cpu_v8086(const struct cpu *c)
{
    return (c->rflags & X86_FL_VM) != 0;
}

// Protected mode proper: neither real nor v8086 mode; long mode included.
static inline bool cpu_pmode(const struct cpu *c)
{
    return (c->cr0 & X86_CR0_PE) && !(c->rflags & X86_FL_VM);
}

static inline bool cpu_long_mode(const struct cpu *c)
{
    return (c->msr.efer & X86_EFER_LMA) != 0;
}

// 64-bit code, as opposed to compatibility mode.
static inline bool cpu_64bit(const struct cpu *c)
{
    return (c->msr.efer & X86_EFER_LMA) && (c->seg[X86_CS].attr & X86_SEG_L);
}

static inline unsigned cpu_iopl(const struct cpu *c)
{
    return (c->rflags & X86_FL_IOPL) >> X86_FL_IOPL_SHIFT;
}

// Protected mode whose ES, CS, SS and DS cover the 4 GiB, the data segments writable, SS with a 32-bit stack pointer.
bool cpu_flat32(const struct cpu *c);

// Canonical for 48-bit linear addresses.
static inline bool gva_canonical(gva a)
{
    return (u64)((i64)(a << 16) >> 16) == a;
}

// State after power-on or RESET (SDM 3A table 9-1): CS base 0xffff0000, RIP 0xfff0. `bsp`: mark APIC_BASE as bootstrap.
void cpu_reset(struct cpu *c, bool bsp);
// State after INIT: as RESET, but XSAVE state, MTRRs, TSC and most MSRs stay. SDM 3A 9.1.
void cpu_init_ipi(struct cpu *c, bool bsp);
// Assert the invariants above; for debug builds and tests. Returns NULL or the name of the broken one.
const char *cpu_check(const struct cpu *c);

#endif
