// KVM's paravirtual clock. The formats are those of Linux' Documentation/virt/kvm/x86/msr.rst.
//
// The record says: at TSC `tsc_timestamp` virtual time was `system_time`; since then it went on at the TSC's constant rate. The records
// of all processors speak of one moment, so that none can see time ahead of another's. It is published when the guest asks for it and whenever that relation changes, not periodically: the host's monotonic clock and
// its TSC drift apart by parts per million only.
#include "core/pvclock.h"

#include "core/cpuid.h"
#include "core/machine.h"
#include "core/msr.h"

#define MSR_WALL_CLOCK_OLD 0x11u
#define MSR_SYSTEM_TIME_OLD 0x12u
#define SYSTEM_TIME_ENABLE 1ull
#define FLAG_TSC_STABLE 1u    // the records of all processors agree
#define FLAG_GUEST_STOPPED 2u // set by the host, cleared by the guest
#define NS_PER_S 1000000000ull

struct time_info {
    u32 version, pad0; // odd while the record changes
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    i8 tsc_shift;
    u8 flags, pad[2];
};

struct wall_clock {
    u32 version, sec, nsec;
};

_Static_assert(sizeof(struct time_info) == 32, "layout is the guest's");

bool pvclock_is_msr(const struct vcpu *v, u32 index)
{
    bool ours = index == MSR_WALL_CLOCK_OLD || index == MSR_SYSTEM_TIME_OLD || index == X86_MSR_KVM_WALL_CLOCK_NEW ||
                index == X86_MSR_KVM_SYSTEM_TIME_NEW;
    return ours && v->machine && v->model && cpu_model_has_kvmclock(v->model);
}

static bool is_wall_clock(u32 index)
{
    return index == MSR_WALL_CLOCK_OLD || index == X86_MSR_KVM_WALL_CLOCK_NEW;
}

void pvclock_read(const struct vcpu *v, u32 index, u64 *val)
{
    *val = is_wall_clock(index) ? v->cpu.msr.kvm_wall_clock : v->cpu.msr.kvm_system_time;
}

// ns = (ticks << shift) * mul >> 32, with mul as large as fits 32 bits.
static void scale(u64 hz, struct time_info *t)
{
    int shift = 0;
    while (hz <= NS_PER_S) {
        hz <<= 1;
        shift++;
    }
    while (hz >> 1 > NS_PER_S) {
        hz >>= 1;
        shift--;
    }
    t->tsc_shift = (i8)shift;
    t->tsc_to_system_mul = (u32)((NS_PER_S << 32) / hz);
}

void pvclock_update(struct vcpu *v)
{
    u64 msr = v->cpu.msr.kvm_system_time;
    if (!(msr & SYSTEM_TIME_ENABLE))
        return;
    struct machine *m = v->machine;
    gpa a = msr & ~SYSTEM_TIME_ENABLE;
    struct time_info t = {0};
    if (!mem_read(&m->mem, a, &t.version, sizeof t.version))
        return;
    t.version |= 1;
    if (!mem_write(&m->mem, a, &t.version, sizeof t.version))
        return;
    scale(v->model->tsc_hz, &t);
    t.flags = FLAG_TSC_STABLE;
    if (m->clock.icount) { // the TSC is made of virtual time
        t.system_time = clock_now(&m->clock);
        t.tsc_timestamp = vcpu_tsc(v);
    } else {
        t.system_time = m->clock.pair_ns;
        t.tsc_timestamp = m->clock.pair_tsc + v->cpu.msr.tsc_offset;
    }
    mem_write(&m->mem, a, &t, sizeof t);
    t.version++;
    mem_write(&m->mem, a, &t.version, sizeof t.version);
}

void pvclock_held_up(struct vcpu *v)
{
    // Another thread's: it may set the register at this moment.
    u64 msr = __atomic_load_n(&v->cpu.msr.kvm_system_time, __ATOMIC_RELAXED);
    gpa a = (msr & ~SYSTEM_TIME_ENABLE) + offsetof(struct time_info, flags);
    u8 flags;

    if (!(msr & SYSTEM_TIME_ENABLE) || !mem_read(&v->machine->mem, a, &flags, 1))
        return;
    flags |= FLAG_GUEST_STOPPED;
    mem_write(&v->machine->mem, a, &flags, 1);
}

// The wall clock at virtual time 0.
static void write_wall_clock(struct vcpu *v, gpa a)
{
    struct machine *m = v->machine;
    struct wall_clock w = {0};
    if (!mem_read(&m->mem, a, &w.version, sizeof w.version))
        return;
    u64 start = (u64)clock_utc(&m->clock);
    w.version = (w.version | 1) + 1;
    w.sec = (u32)(start / NS_PER_S);
    w.nsec = (u32)(start % NS_PER_S);
    mem_write(&m->mem, a, &w, sizeof w);
}

bool pvclock_write(struct vcpu *v, u32 index, u64 val)
{
    if (is_wall_clock(index)) {
        v->cpu.msr.kvm_wall_clock = val;
        write_wall_clock(v, val);
    } else {
        __atomic_store_n(&v->cpu.msr.kvm_system_time, val, __ATOMIC_RELAXED);
        pvclock_update(v);
    }
    return true;
}
