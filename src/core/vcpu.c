// Life of a virtual processor around its architectural state: creation, RESET and INIT.
#include "core/vcpu.h"

#include "core/cpuid.h"
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
