// A virtual processor at work: its architectural state plus what the machine needs to run it (TLB, requests from other
// threads, links). Engines attach their own state through `engine_state`.
#ifndef POGO_CORE_VCPU_H
#define POGO_CORE_VCPU_H

#include <stdatomic.h>

#include "core/cpu.h"
#include "core/dev.h"
#include "core/tlb.h"

struct machine;
struct engine_ops;
struct cpu_model;

// Bits of vcpu.request: set by any thread (atomic OR), looked at by the engine at instruction boundaries (interp) or at
// block ends and back edges (bt). Level-like bits stay until the cause goes away; others are cleared by the taker.
#define VCPU_REQ_INTR 0x01u // INTR is asserted (level): intc.ack() will give a vector
#define VCPU_REQ_NMI 0x02u  // edge
#define VCPU_REQ_SMI 0x04u
#define VCPU_REQ_INIT 0x08u
#define VCPU_REQ_SIPI 0x10u
#define VCPU_REQ_TIMER 0x20u // the next timer is due before the budget ends: leave engine_ops.run() with VM_EXIT_BUDGET
#define VCPU_REQ_EXIT 0x40u  // leave engine_ops.run() with VM_EXIT_KICK
#define VCPU_REQ_TLB 0x80u   // TLB work queued by another vCPU, or by a device
#define VCPU_REQ_A20 0x100u  // machine.a20_mask changed
#define VCPU_REQ_NMI2 0x200u // a second NMI came before the first was taken; see vcpu_nmi()
#define VCPU_REQ_CODE 0x400u // code was written to that the engine may hold; see engine_ops.invalidate
#define VCPU_REQ_NMIS (VCPU_REQ_NMI | VCPU_REQ_NMI2)

// The interrupt controller as the processor sees it (PIC, later LAPIC).
struct vcpu_intc {
    int (*ack)(void *intc); // acknowledge: vector 0..255, or -1 when the line went away
    void *intc;
    // MSRs that a local APIC answers: x2APIC registers (0x800-0x8ff) and TSC_DEADLINE; APIC_BASE is announced through
    // msr_write after msr.c has checked and stored it. False means #GP(0). NULL: no local APIC, those MSRs do not
    // exist.
    bool (*msr_read)(void *intc, u32 index, u64 *val);
    bool (*msr_write)(void *intc, u32 index, u64 val);
    void (*cr8_written)(void *intc); // CR8 was written, which is TPR[7:4]; NULL: nobody cares
    const u8 *
        tpr_low; // TPR[3:0], which that clears: 0 here, and the value CR8 has already, and it does nothing. May be NULL
};

// TLB work from other threads: pages to take write permission from. A full queue turns into "all pages". And: the map has
// changed, see mmu_map_changed().
#define VCPU_TLB_QUEUE 16

struct vcpu_tlb_queue {
    _Atomic u64 slot[VCPU_TLB_QUEUE]; // page | 1, or 0 when free
    _Atomic bool all;
    _Atomic u32 pending; // posted and not yet done
    _Atomic bool map_changed;
    _Atomic bool asleep; // outside run(), and back in it only after another look at this: as good as done
};

struct vcpu {
    struct cpu cpu; // first: hot
    _Atomic u32 request;
    u32 id;
    struct machine *machine;
    const struct cpu_model *model;
    u64 insns;      // instructions retired; faulting ones do not count, repeated ones count once, when they are done
    bool uncounted; // the engine ran instructions that `insns` leaves out, which it may as long as run() has no budget
    struct vcpu_intc intc;
    // x87 errors as the PC/AT reports them (CR0.NE clear): the FERR# output, what it was last set to, and the IGNNE#
    // input. Without a line waiting instructions behave as with IGNNE# asserted. SDM 1 appendix D.
    struct irq_line ferr;
    bool ferr_asserted, ignne;
    u8 sipi_vector;
    u8 debug_step;         // enum debug_step: the debugger's order, changed only while outside run()
    _Atomic u32 *doorbell; // the engine's: set to 1 after every change of `request`; NULL: it looks at that itself
    // The engine's, or NULL: called when a page walk is about to leave plain memory (tables in a device, code on their pages). All else
    // that mmu_fill() does leaves vector registers alone.
    void (*before_device)(struct vcpu *v);
    const struct engine_ops *engine;
    void *engine_state;
    struct vcpu_tlb_queue tlb_queue;
    struct tlb tlb;
};

// Tell the engine to look at `request`.
static inline void vcpu_ring(struct vcpu *v)
{
    if (v->doorbell)
        atomic_store_explicit(v->doorbell, 1, memory_order_release);
}

static inline void vcpu_request(struct vcpu *v, u32 bits)
{
    atomic_fetch_or_explicit(&v->request, bits, memory_order_release);
    vcpu_ring(v);
}

static inline void vcpu_request_clear(struct vcpu *v, u32 bits)
{
    atomic_fetch_and_explicit(&v->request, ~bits, memory_order_acq_rel);
}

// An NMI has arrived; from any thread. A processor takes one at once and latches the next meanwhile, so two that come together
// are two: a vCPU whose thread is late must not make them one.
static inline void vcpu_nmi(struct vcpu *v)
{
    if (atomic_fetch_or_explicit(&v->request, VCPU_REQ_NMI, memory_order_acq_rel) & VCPU_REQ_NMI)
        vcpu_request(v, VCPU_REQ_NMI2);
    vcpu_ring(v);
}

// For engines: latch what has arrived in cpu.nmi_pending. While NMIs are blocked, all that come are one; before, one is latched
// only when the one before it is taken.
static inline void vcpu_latch_nmi(struct vcpu *v)
{
    u32 came;

    if (v->cpu.nmi_pending && !v->cpu.nmi_blocked)
        return;
    came = atomic_fetch_and_explicit(&v->request, ~VCPU_REQ_NMIS, memory_order_acq_rel) & VCPU_REQ_NMIS;
    if (came == VCPU_REQ_NMIS && !v->cpu.nmi_blocked)
        vcpu_request(v, VCPU_REQ_NMI);
    v->cpu.nmi_pending |= came != 0;
}

// Make *v a vCPU of `m` (which may be NULL in tests of the processor alone) in the state after RESET. Does not add it
// to the machine's list.
void vcpu_init(struct vcpu *v, struct machine *m, u32 id, const struct cpu_model *model);
// RESET, or INIT: architectural state (RDX: the model's signature), TLB emptied. `id` 0 is the bootstrap processor. RESET also
// forgets events that were on their way (NMI, INIT, SIPI); INTR is the interrupt controller's to withdraw.
void vcpu_reset(struct vcpu *v);
void vcpu_init_ipi(struct vcpu *v);
// 64 bits for RDRAND and RDSEED (`seed`); false: none just now. The host's, but in icount mode, where runs repeat: then they follow from the
// instruction's number. The models offer these instructions only where the host has them.
bool vcpu_random(const struct vcpu *v, bool seed, u64 *val);

#endif
