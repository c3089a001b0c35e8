// The local APIC: xAPIC registers in memory, x2APIC registers as MSRs, the timer, and interrupt acceptance.
// SDM 3A chapter 11 (10 in older editions), APM 2 chapter 16.
//
// The board puts the APIC's page where lapic_page() says. `eoi` is how the I/O APIC
// learns of the end of level-triggered interrupts.
#ifndef POGO_DEV_LAPIC_H
#define POGO_DEV_LAPIC_H

#include "core/clock.h"
#include "core/dev.h"

#define LAPIC_BASE 0xfee00000ull
#define LAPIC_SIZE 0x1000

// Delivery modes (ICR and LVT bits 10:8).
enum lapic_mode {
    LAPIC_FIXED,
    LAPIC_LOWEST,
    LAPIC_SMI,
    LAPIC_REMOTE_READ,
    LAPIC_NMI,
    LAPIC_INIT,
    LAPIC_SIPI,
    LAPIC_EXTINT
};

enum lapic_lvt {
    LAPIC_LVT_TIMER,
    LAPIC_LVT_THERMAL,
    LAPIC_LVT_PERF,
    LAPIC_LVT_LINT0,
    LAPIC_LVT_LINT1,
    LAPIC_LVT_ERROR,
    LAPIC_LVT_COUNT
};

struct lapic {
    u32 id;      // x2APIC ID; what the xAPIC's is at first
    u8 xapic_id; // guests may write it
    u64 base;    // copy of APIC_BASE: enabled, x2APIC mode
    u32 ldr, dfr, svr, esr, esr_pending, lvt[LAPIC_LVT_COUNT];
    u64 icr;
    u32 isr[8], irr[8], tmr[8];
    u8 tpr_low; // TPR[3:0]; TPR[7:4] is *cr8
    u32 timer_initial, timer_divide;
    u32 timer_from;  // count at timer_start; 0: stopped
    u64 timer_start; // virtual ns
    u64 tsc_deadline;
    bool lint0, out;
    u64 count; // interrupts that the processor has taken, for the monitor

    // Links, kept over a reset.
    u64 *cr8; // the processor's
    struct clock *clock;
    struct clock_timer timer;
    u64 timer_hz, tsc_hz;
    struct irq_line intr;                                           // to the processor
    u64 (*tsc)(void *cpu);                                          // guest TSC
    void (*event)(void *cpu, enum lapic_mode mode, u8 vector);      // NMI, SMI, INIT and SIPI for the processor
    void (*send)(void *bus, struct lapic *from, u32 icr, u32 dest); // an interrupt command for anybody
    void (*eoi)(void *bus, u8 vector);                              // end of a level-triggered interrupt; may be NULL
    void *cpu, *bus;
};

extern const struct dev_ops lapic_ops; // the page in memory

// Links are set by the caller before; adds the timer to the clock. Returns 0 or a negative errno.
int lapic_init(struct lapic *l, u32 id);
// State after RESET or INIT (which keeps the id). The bootstrap processor's LINT0 passes the 8259's interrupts, as firmware leaves it.
void lapic_reset(struct lapic *l, u64 apic_base);
// x2APIC registers (0x800..0x8ff), TSC_DEADLINE, and the announcement of a new APIC_BASE. False: #GP(0).
bool lapic_msr_read(struct lapic *l, u32 index, u64 *val);
bool lapic_msr_write(struct lapic *l, u32 index, u64 val);
// Where the page in memory is now; 0: there is none, the APIC is off or in x2APIC mode.
u64 lapic_page(const struct lapic *l);
// CR8 was written.
void lapic_cr8_written(struct lapic *l);
// Level of the wire from the 8259.
void lapic_set_lint0(struct lapic *l, bool level);
// Does the 8259's interrupt go straight to the processor now?
bool lapic_extint(const struct lapic *l);
// Acknowledge: the vector, or -1 when there is none above the processor's priority.
int lapic_ack(struct lapic *l);
// Is this one addressed? SDM 3A 11.6.2.
bool lapic_addressed(const struct lapic *l, u32 dest, bool logical);
// An interrupt message has arrived.
void lapic_accept(struct lapic *l, enum lapic_mode mode, u8 vector, bool level);

#endif
