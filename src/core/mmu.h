// Address translation: the page walk of SDM 3A chapter 4 (32-bit, PSE, PAE, 4-level) and access to linear memory on top
// of the software TLB. Nothing here raises an exception itself: a fault comes back as a struct mmu_fault for the engine
// to deliver.
#ifndef POGO_CORE_MMU_H
#define POGO_CORE_MMU_H

#include "core/mem.h"
#include "core/vcpu.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

// Page-fault information, as it will be pushed and put into CR2.
struct mmu_fault {
    gva addr;
    u32 error; // X86_PF_*
};

struct mmu_page {
    gpa addr;      // of the byte asked for
    u64 page_size; // 4 KiB, 2 MiB, 4 MiB or 1 GiB
    bool global;
    u64 prot;   // X86_PTE_W | X86_PTE_U | X86_PTE_NX, combined over all levels
    bool dirty; // the leaf's D bit is now set
};

// Current view of ordinary data accesses: by CPL and EFLAGS.AC.
static inline enum tlb_view mmu_view(const struct cpu *c)
{
    if (c->cpl == 3)
        return TLB_USER;
    return c->rflags & X86_FL_AC ? TLB_SUPER_AC : TLB_SUPER;
}

// Walk the guest's tables for one access; sets accessed and (for writes) dirty bits atomically in guest memory. Returns
// true and *page, or false and *fault. Without paging the address is physical. Does not consult or fill the TLB. `a` is
// canonical in 64-bit mode (engines check that before: it is a segmentation-level fault).
bool mmu_walk(struct vcpu *v, gva a, enum mmu_access access, enum tlb_view view, struct mmu_page *page,
              struct mmu_fault *fault);
// The same without side effects and for the debugger: no A/D updates, no permission checks.
bool mmu_peek(const struct vcpu *v, gva a, gpa *out);

// Slow path of a TLB probe: walk, fill the TLB (pages that are not memory: for tlb_device()), and give the host address of `a` for this
// access in *host. *host is 0 where the access must go through mem_load/mem_store on *phys (always set): MMIO, holes,
// the page that a processor has for itself, writes to ROM and writes to a page with code. (A locked operation on a page with code: mem_write_ptr.) Returns false
// with *fault on a page fault, after dropping what the TLB held for `a` (SDM 3A 4.10.4.1). All that for the page of `a`
// alone.
bool mmu_fill(struct vcpu *v, gva a, enum mmu_access access, enum tlb_view view, hva *host, gpa *phys,
              struct mmu_fault *fault);

bool mmu_load_slow(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 *val, struct mmu_fault *fault);
bool mmu_store_slow(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 val, struct mmu_fault *fault);

// Linear access of 1, 2, 4 or 8 bytes (may cross a page; then both pages are checked before anything is written, and a
// fault names the first faulting byte in the page that faults). Returns false with *fault set. Outside 64-bit mode an
// access at the end of the 4 GiB wraps.
static inline bool mmu_load(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 *val, struct mmu_fault *fault)
{
    hva p = tlb_read(&v->tlb, view, a, size);
    if (UNLIKELY(!p))
        return mmu_load_slow(v, a, size, view, val, fault);
    *val = mem_host_load((const void *)p, size);
    return true;
}

static inline bool mmu_store(struct vcpu *v, gva a, unsigned size, enum tlb_view view, u64 val, struct mmu_fault *fault)
{
    hva p = tlb_write(&v->tlb, view, a, size);
    if (UNLIKELY(!p))
        return mmu_store_slow(v, a, size, view, val, fault);
    mem_host_store((void *)p, size, val);
    return true;
}

// Any length up to a page: all pages are checked before the first byte moves.
bool mmu_read_buf(struct vcpu *v, gva a, void *buf, unsigned len, enum tlb_view view, struct mmu_fault *fault);
bool mmu_write_buf(struct vcpu *v, gva a, const void *buf, unsigned len, enum tlb_view view, struct mmu_fault *fault);
// Check that [a, a+len) can be accessed, as a real access would fault, without moving data (sets A/D bits as an access
// would).
bool mmu_probe(struct vcpu *v, gva a, unsigned len, enum mmu_access access, enum tlb_view view,
               struct mmu_fault *fault);

// Tell the MMU that a control register changed: `cpu` holds the new value already. Flushes what the manuals say (SDM 3A
// 4.10.4.1) and what the TLB's views depend on.
void mmu_cr0_changed(struct vcpu *v, u64 old);
void mmu_cr4_changed(struct vcpu *v, u64 old);
void mmu_efer_changed(struct vcpu *v, u64 old);
// cpu.cr3 was loaded, bit 63 taken off; `noflush`: that bit, only with CR4.PCIDE.
void mmu_cr3_loaded(struct vcpu *v, bool noflush);
// MOV to CR3, with what bit 63 means under CR4.PCIDE. False: #GP(0), state unchanged. SDM 3A 2.5, 4.10.4.1; APM 2 3.1.2.
bool mmu_write_cr3(struct vcpu *v, u64 val);
// INVPCID. False: #GP(0), state unchanged. SDM 2A.
bool mmu_invpcid(struct vcpu *v, u64 type, const u64 desc[2]);
// Take over machine.a20_mask (VCPU_REQ_A20). Called by the engine between instructions.
void mmu_a20_update(struct vcpu *v);
// All of `cpu` may have changed (reset, snapshot, another engine): forget everything and make the right PCID current.
void mmu_state_changed(struct vcpu *v);
// Load the four PDPTEs from CR3 (PAE without long mode). Returns false when a present one has reserved bits set:
// #GP(0), state unchanged. SDM 3A 4.4.1.
bool mmu_load_pdptes(struct vcpu *v, u64 cr3);

// INVLPG: entries for `a` of the current PCID, and global ones.
static inline void mmu_invlpg(struct vcpu *v, gva a)
{
    tlb_flush_gva(&v->tlb, a);
}

// An engine is about to derive code from the RAM or ROM page at `page`: set MEM_PAGE_CODE and take write permission for
// it from every vCPU's TLB, so that later stores reach mem.code_write. Cheap when the flag is set already; nothing else
// may set it. `self` is the vCPU of the calling thread, or NULL. For `self` it has happened on return. Other vCPUs find
// it in their queue (VCPU_REQ_TLB) and may still write through an old tag until they have run mmu_serve_tlb_requests():
// who reads the page's bytes must do so after mmu_queue_empty() is true for each of them. With one vCPU that is
// trivially so.
void mmu_protect_page(struct machine *m, struct vcpu *self, gpa page);
// No engine holds code from the page any more: stores to it need not be told of.
void mmu_unprotect_page(struct machine *m, gpa page);
// Do what other vCPUs queued; on VCPU_REQ_TLB, by the thread that runs `v`.
void mmu_serve_tlb_requests(struct vcpu *v);
bool mmu_queue_empty(const struct vcpu *v); // or nothing of it can matter before it is
// What an area of shadow memory is has changed (mem_shadow_set() said so): every vCPU forgets all its translations, and what
// its engine derived from code there (engine_ops.invalidate), when it serves VCPU_REQ_TLB, which engines look at before the
// instruction after the one that reached a device. Any thread.
void mmu_map_changed(struct machine *m);

#endif
