// Life of a virtual processor around its architectural state: creation, RESET and INIT.
#include "core/vcpu.h"

#include "core/cpuid.h"
#include "core/machine.h"
#include "core/mmu.h"

// RDX after RESET and INIT. SDM 3A 9.1.2.
static u32 signature(const struct cpu_model *m)
{
    return m ? cpu_model_signature(m) : 0x600;
}

void vcpu_init(struct vcpu *v, struct machine *m, u32 id, const struct cpu_model *model)
{
    __builtin_memset(v, 0, sizeof(*v));
    v->machine = m;
    v->id = id;
    v->model = model;
    tlb_init(&v->tlb);
    vcpu_reset(v);
}

void vcpu_reset(struct vcpu *v)
{
    vcpu_request_clear(v, VCPU_REQ_NMIS | VCPU_REQ_INIT | VCPU_REQ_SIPI);
    cpu_reset(&v->cpu, v->id == 0);
    v->cpu.gpr[X86_RDX] = signature(v->model);
    mmu_state_changed(v);
}

void vcpu_init_ipi(struct vcpu *v)
{
    cpu_init_ipi(&v->cpu, v->id == 0);
    v->cpu.gpr[X86_RDX] = signature(v->model);
    mmu_state_changed(v);
}

// The finalizer of SplitMix64: every bit of the result depends on every bit of x.
static u64 mix(u64 x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

bool vcpu_random(const struct vcpu *v, bool seed, u64 *val)
{
    bool ok;

    if (v->machine && v->machine->clock.icount) {
        *val = mix(2 * v->insns + seed + 0x9e3779b97f4a7c15ull);
        return true;
    }
    if (seed)
        __asm__ volatile("rdseed %0" : "=r"(*val), "=@ccc"(ok) : : "cc");
    else
        __asm__ volatile("rdrand %0" : "=r"(*val), "=@ccc"(ok) : : "cc");
    return ok;
}
