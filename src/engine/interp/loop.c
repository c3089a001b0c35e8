// The run loop: what happens between instructions, and how faults become events.
//
// One step is: deliver a pending event, or look at requests from outside; fetch and decode; run the handler; commit RIP; collect
// debug traps. A fault in a handler comes back through longjmp into interp_run(), which turns it into the pending event
// (double and triple faults are formed here), so delivery happens in one place whatever the source.
//
// Priorities between instructions follow SDM 3A table 6-2: traps of the previous instruction, NMI, external interrupt, code
// breakpoint, faults of the fetch, faults of decoding.
#include <string.h>

#include "engine/interp/engine_interp.h"
#include "engine/interp/interp.h"
#include "engine/interp/trace.h"

// --- raising ------------------------------------------------------------------------------------------------------------

static _Noreturn void raise_event(struct interp *x, const struct cpu_event *ev)
{
    x->raised = *ev;
    longjmp(x->fault, 1);
}

_Noreturn void interp_raise(struct interp *x, unsigned vector)
{
    raise_event(x, &(struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = (u8)vector});
}

_Noreturn void interp_raise_err(struct interp *x, unsigned vector, u32 err)
{
    if (x->ext && vector >= X86_EXC_TS && vector <= X86_EXC_GP)
        err |= X86_ERR_EXT;
    raise_event(
        x, &(struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = (u8)vector, .has_error = true, .error = err});
}

_Noreturn void interp_raise_pf(struct interp *x, const struct mmu_fault *f)
{
    raise_event(
        x,
        &(struct cpu_event){
            .type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_PF, .has_error = true, .error = f->error, .cr2 = f->addr});
}

_Noreturn void interp_raise_db(struct interp *x, u32 dr6)
{
    raise_event(x, &(struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_DB, .dr6 = dr6});
}

// SDM 3A table 6-4 and 6-5.
enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum fault_class fault_class(const struct cpu_event *ev)
{
    if (ev->type != CPU_EVENT_EXCEPTION)
        return BENIGN;
    switch (ev->vector) {
    case X86_EXC_DE:
    case X86_EXC_TS:
    case X86_EXC_NP:
    case X86_EXC_SS:
    case X86_EXC_GP:
    case X86_EXC_CP: return CONTRIBUTORY;
    case X86_EXC_PF: return PAGE_FAULT;
    default: return BENIGN;
    }
}

static void shutdown(struct interp *x)
{
    x->c->activity = CPU_SHUTDOWN;
    x->c->event.type = CPU_EVENT_NONE;
    interp_stop(x, VM_EXIT_SHUTDOWN);
}

void interp_take_fault(struct interp *x)
{
    struct cpu *c = x->c;
    c->gpr[X86_RSP] = x->restart_rsp;
    x->dr6_trap = 0;
    x->rep_more = false;
    x->shadow_next = 0;
    if (x->stop && x->exit.reason == VM_EXIT_DEBUG) // watched accesses do not count, a step goes on to the handler
        x->stop = x->watch_hit = false;
    c->event = x->raised;
    if (!x->delivering)
        return;
    x->delivering = false;
    x->ext = false;
    if (x->budget) // an attempt counts: #AC can follow #AC for ever
        x->budget--;
    if (x->delivered.type == CPU_EVENT_EXCEPTION && x->delivered.vector == X86_EXC_DF) {
        shutdown(x);
        return;
    }
    enum fault_class first = fault_class(&x->delivered), second = fault_class(&x->raised);
    if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second != BENIGN)) {
        c->event = (struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_DF, .has_error = true};
        // The page fault that turned into a double fault still loads CR2. SDM 3A 6.15.
        if (second == PAGE_FAULT)
            c->cr2 = x->raised.cr2;
    }
}

// --- caches ---------------------------------------------------------------------------------------------------------------

void interp_mode_changed(struct interp *x)
{
    const struct cpu *c = x->c;
    if (cpu_64bit(c))
        x->mode = ISA_MODE_64;
    else
        x->mode = c->seg[X86_CS].attr & X86_SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
    x->view = mmu_view(c);
    x->debug_on = (c->dr7 & 0xff) || (x->points && x->points->watch_count);
    x->break_on = (c->dr7 & 0xff) || (x->points && x->points->break_count) || x->v->debug_step;
    x->align_on = (c->cr0 & X86_CR0_AM) && (c->rflags & X86_FL_AC) && c->cpl == 3;
}

void interp_stop(struct interp *x, enum vm_exit_reason reason)
{
    x->stop = true;
    x->exit = (struct vm_exit){.reason = reason};
}

void interp_stop_debug(struct interp *x, enum debug_cause cause, gva a)
{
    x->stop = true;
    x->exit = (struct vm_exit){.reason = VM_EXIT_DEBUG, .code = cause, .addr = a};
}

// --- between instructions ---------------------------------------------------------------------------------------------------

static void deliver_pending(struct interp *x)
{
    struct cpu *c = x->c;
    x->delivered = c->event;
    x->delivering = true;
    x->ext = c->event.type != CPU_EVENT_SOFT_INT && c->event.type != CPU_EVENT_SOFT_EXC;
    x->restart_rsp = c->gpr[X86_RSP];
    x->dr6_trap = 0;
    x->resume_rf = false;
    if (host_logs(x->v->machine->host, LOG_INT))
        interp_trace_event(x, &x->delivered);
    interp_deliver(x, &x->delivered);
    x->delivering = false;
    x->ext = false;
    c->event.type = CPU_EVENT_NONE;
    c->shadow = 0;
    c->activity = CPU_RUNNING;
    if (x->dr6_trap) { // a data breakpoint that the frame met, or the T bit of the new task
        c->event = (struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_DB, .dr6 = x->dr6_trap};
        x->dr6_trap = 0;
    }
}

// Requests that do not depend on the guest's state. Returns true when run() has to return.
static bool serve_requests(struct interp *x, u32 req)
{
    struct vcpu *v = x->v;
    if (req & VCPU_REQ_A20)
        mmu_a20_update(v);
    if (req & VCPU_REQ_TLB) {
        vcpu_request_clear(v, VCPU_REQ_TLB);
        mmu_serve_tlb_requests(v);
    }
    if (req & VCPU_REQ_INIT) {
        vcpu_request_clear(v, VCPU_REQ_INIT);
        vcpu_init_ipi(v);
        interp_mode_changed(x);
    }
    if (req & VCPU_REQ_SIPI) {
        vcpu_request_clear(v, VCPU_REQ_SIPI);
        if (x->c->activity == CPU_WAIT_SIPI) {
            x->c->activity = CPU_RUNNING;
            interp_load_seg_real(x, X86_CS, (u16)(v->sipi_vector << 8));
            x->c->rip = 0;
        }
    }
    if (req & VCPU_REQ_SMI) // there is no system management mode
        vcpu_request_clear(v, VCPU_REQ_SMI);
    if (req & VCPU_REQ_EXIT) {
        vcpu_request_clear(v, VCPU_REQ_EXIT);
        int reason = atomic_load(&v->machine->stop_reason);
        interp_stop(x, reason >= 0 ? (enum vm_exit_reason)reason : VM_EXIT_KICK);
        x->exit.code = atomic_load(&v->machine->stop_code);
        return true;
    }
    if (req & VCPU_REQ_TIMER) {
        vcpu_request_clear(v, VCPU_REQ_TIMER);
        interp_stop(x, VM_EXIT_BUDGET);
        return true;
    }
    return false;
}

static bool spend_budget(struct interp *x)
{
    if (x->budget == 0) {
        interp_stop(x, VM_EXIT_BUDGET);
        return false;
    }
    x->budget--;
    return true;
}

// NMI and external interrupts: make the one that is due the pending event.
static void take_interrupt(struct interp *x)
{
    struct vcpu *v = x->v;
    struct cpu *c = x->c;
    u32 req = atomic_load_explicit(&v->request, memory_order_acquire);
    if (req & VCPU_REQ_NMIS)
        vcpu_latch_nmi(v);
    if (v->debug_step == DEBUG_STEP_QUIET && c->activity == CPU_RUNNING)
        return;
    if (c->nmi_pending && !c->nmi_blocked && !c->shadow) {
        c->nmi_pending = false;
        c->event = (struct cpu_event){.type = CPU_EVENT_NMI, .vector = X86_EXC_NMI};
        return;
    }
    if (!(req & VCPU_REQ_INTR) || !(c->rflags & X86_FL_IF) || c->shadow || !v->intc.ack)
        return;
    int vector = v->intc.ack(v->intc.intc);
    if (vector >= 0)
        c->event = (struct cpu_event){.type = CPU_EVENT_EXTERNAL, .vector = (u8)vector};
}

// Everything that is due at an instruction boundary. Returns false when run() has to return.
//
// A delivery can lead to the next with no instruction in between, and a guest can arrange that for ever (a data breakpoint on
// the stack of the #DB handler, say). So requests are served before each, and all but the first use up budget.
static bool boundary(struct interp *x)
{
    struct vcpu *v = x->v;
    struct cpu *c = x->c;
    for (bool first = true;; first = false) {
        if (x->stop)
            return false;
        u32 req = atomic_load_explicit(&v->request, memory_order_acquire);
        if ((req & ~(VCPU_REQ_INTR | VCPU_REQ_NMIS)) && serve_requests(x, req))
            return false;
        if (c->event.type == CPU_EVENT_NONE && c->activity != CPU_WAIT_SIPI && c->activity != CPU_SHUTDOWN)
            take_interrupt(x);
        if (c->event.type == CPU_EVENT_NONE)
            break;
        if (!first && !spend_budget(x))
            return false;
        deliver_pending(x);
        if (UNLIKELY(v->debug_step) && !x->stop)
            interp_stop_debug(x, DEBUG_STEP, 0);
    }
    if (c->activity == CPU_RUNNING)
        return true;
    interp_stop(x, c->activity == CPU_SHUTDOWN ? VM_EXIT_SHUTDOWN : VM_EXIT_HALT);
    return false;
}

// --- fetch and decode -------------------------------------------------------------------------------------------------------

static _Noreturn void undefined(struct interp *x, const struct insn *in)
{
    if (host_logs(x->v->machine->host, LOG_UNIMP))
        host_logf(x->v->machine->host, LOG_UNIMP, "no handler for %s at %lx", isa_forms[in->form].name, x->c->rip);
    interp_ud(x);
}

static void no_handler(struct interp *x, const struct insn *in)
{
    undefined(x, in);
}

static void not_offered(struct interp *x, const struct insn *in)
{
    (void)in;
    interp_ud(x);
}

static interp_fn *const handlers[ISA_OP_COUNT] = {
#define OP(op, fn) [ISA_OP_##op] = fn,
#include "engine/interp/ops_int.def"
#include "engine/interp/ops_simd.def"
#include "engine/interp/ops_sys.def"
#include "engine/interp/ops_xfer.def"
#undef OP
};

interp_fn *interp_handler(unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    if (handlers[f->op])
        return handlers[f->op];
    return f->attr & ISA_ATTR_NATIVE ? interp_native : NULL;
}

static void memo_fill(struct interp *x, struct interp_memo *m, const u8 *bytes)
{
    const struct isa_form_info *f = &isa_forms[m->insn.form];
    unsigned len = m->insn.len;
    memset(m->bytes, 0, sizeof m->bytes);
    memset(m->mask, 0, sizeof m->mask);
    memcpy(m->bytes, bytes, len);
    memset(m->mask, 0xff, len);
    m->mode = (u8)x->mode;
    m->pmode_only = (f->attr & (ISA_ATTR_PMODE | ISA_ATTR_VEX_GPR | ISA_ATTR_AVX)) != 0;
    m->fn = interp_handler(m->insn.form);
    if (!m->fn)
        m->fn = no_handler;
    if (!cpu_model_offers(x->v->model, f->feature))
        m->fn = not_offered;
}

// Raise what a decoding failure means.
static _Noreturn void bad_code(struct interp *x, enum isa_status st)
{
    if (st == ISA_TOO_LONG)
        interp_gp0(x);
    interp_ud(x);
}

// Bytes of one instruction's first page at `lin`, through RAM or, slowly, anything else. Returns how many are in buf.
static unsigned fetch_page(struct interp *x, gva lin, u8 *buf, unsigned max)
{
    unsigned n = 4096 - (unsigned)(lin & 4095);
    if (n > max)
        n = max;
    hva h = tlb_exec(&x->v->tlb, x->view, lin);
    gpa phys = 0;
    if (!h) {
        struct mmu_fault f;
        if (!mmu_fill(x->v, lin, MMU_EXEC, x->view, &h, &phys, &f))
            interp_raise_pf(x, &f);
    }
    if (h) {
        memcpy(buf, (const void *)h, n);
    } else {
        for (unsigned i = 0; i < n; i++)
            buf[i] = (u8)mem_cpu_load(&x->v->machine->mem, x->v->id, phys + i, 1);
    }
    return n;
}

// Fetch and decode where the quick way does not do: near a page end, near the segment limit, not in RAM. Pages are touched
// only when the decoder asks for their bytes, so that faults come as on the processor.
static struct interp_memo *fetch_slow(struct interp *x, struct interp_memo *m, gva lin, u64 room)
{
    u8 *buf = x->fetch_buf;
    unsigned max = room < ISA_MAX_LEN ? (unsigned)room : ISA_MAX_LEN;
    if (max == 0)
        interp_gp0(x);
    m->mode = 0xff; // memo holds nothing until it is filled: the second page may fault
    unsigned n = fetch_page(x, lin, buf, max);
    enum isa_status st = isa_decode(buf, n, x->mode, x->isa_options, &m->insn);
    if (st == ISA_TRUNCATED && n < max) {
        gva next = lin + n;
        if (x->mode != ISA_MODE_64)
            next = (u32)next;
        n += fetch_page(x, next, buf + n, max - n);
        st = isa_decode(buf, n, x->mode, x->isa_options, &m->insn);
    }
    if (st == ISA_TRUNCATED)
        interp_gp0(x); // ran into the segment limit or the canonical boundary
    if (st != ISA_OK)
        bad_code(x, st);
    memo_fill(x, m, buf);
    x->insn_bytes = buf;
    return m;
}

// Bytes from RIP to the end of the code segment or of the canonical half; none where RIP is not canonical (at most 16 matter).
static u64 code_room(const struct interp *x)
{
    const struct cpu *c = x->c;
    if (x->mode == ISA_MODE_64) {
        u64 room = c->rip >> 63 ? 0 - c->rip : (1ull << 47) - c->rip;
        return room <= 1ull << 47 ? room : 0;
    }
    u64 limit = c->seg[X86_CS].limit;
    return c->rip <= limit ? limit - c->rip + 1 : 0;
}

static inline bool memo_hit(const struct interp *x, const struct interp_memo *m, const u8 *code)
{
    u64 w[2];
    memcpy(w, code, 16);
    return m->mode == (u8)x->mode && !(((w[0] ^ m->bytes[0]) & m->mask[0]) | ((w[1] ^ m->bytes[1]) & m->mask[1]));
}

static inline struct interp_memo *fetch(struct interp *x)
{
    struct cpu *c = x->c;
    gva lin = x->mode == ISA_MODE_64 ? c->rip : (u32)(c->rip + c->seg[X86_CS].base);
    struct interp_memo *m = &x->memo[(lin ^ lin >> INTERP_MEMO_BITS) & (INTERP_MEMO - 1)];
    u64 room = code_room(x);
    if (UNLIKELY((lin & 4095) > 4096 - 16 || room < 16))
        return fetch_slow(x, m, lin, room);
    hva h = tlb_exec(&x->v->tlb, x->view, lin);
    if (UNLIKELY(!h))
        return fetch_slow(x, m, lin, room);
    const u8 *code = (const u8 *)h;
    if (UNLIKELY(!memo_hit(x, m, code))) {
        // Decode from a private copy: another processor may be writing these bytes.
        memcpy(x->fetch_buf, code, 16);
        m->mode = 0xff;
        enum isa_status st = isa_decode(x->fetch_buf, ISA_MAX_LEN, x->mode, x->isa_options, &m->insn);
        if (st != ISA_OK)
            bad_code(x, st);
        memo_fill(x, m, x->fetch_buf);
    }
    x->insn_bytes = (const u8 *)m->bytes;
    return m;
}

// Breakpoints on the first byte of the instruction that comes next. The guest's are faults (SDM 3B 18.3.1.1); false: one of the
// debugger's, leave it alone. A step ends after the instruction or, when it faults, after the delivery of that.
static bool check_code_breakpoints(struct interp *x)
{
    const struct cpu *c = x->c;
    gva lin = x->mode == ISA_MODE_64 ? c->rip : (u32)(c->rip + c->seg[X86_CS].base);
    u32 hit = 0;
    if (x->v->debug_step) {
        interp_stop_debug(x, DEBUG_STEP, 0);
    } else if (x->points && debug_break_at(x->points, lin)) {
        interp_stop_debug(x, DEBUG_BREAK, lin);
        return false;
    }
    // Intel processors hold code breakpoints back in the shadow of MOV SS, AMD's do not.
    bool held_back = (c->shadow & CPU_SHADOW_MOVSS) && !(x->isa_options & ISA_OPT_AMD);
    if (c->rflags & X86_FL_RF || held_back)
        return true;
    for (unsigned n = 0; n < 4; n++) {
        if ((c->dr7 & (X86_DR7_L(n) | X86_DR7_G(n))) && X86_DR7_RW(c->dr7, n) == 0 && c->dr[n] == lin)
            hit |= X86_DR6_B(n);
    }
    if (hit)
        interp_raise_db(x, hit);
    return true;
}

// --- one instruction ----------------------------------------------------------------------------------------------------------

#define DEBUGCTL_BTF 2u // TF traps taken branches only. SDM 3B 18.4.3

// Traps that become due after the instruction, unless it casts a MOV SS shadow, which holds them back. SDM 3A 6.8.3.
static void debug_traps(struct interp *x, bool single_step)
{
    struct cpu *c = x->c;
    u32 dr6 = x->dr6_trap | c->pending_dr6;
    x->dr6_trap = 0;
    c->pending_dr6 = 0;
    if (c->shadow & CPU_SHADOW_MOVSS) {
        c->pending_dr6 = dr6;
        return;
    }
    if (single_step)
        dr6 |= X86_DR6_BS;
    if (dr6 && c->event.type == CPU_EVENT_NONE)
        c->event = (struct cpu_event){.type = CPU_EVENT_EXCEPTION, .vector = X86_EXC_DB, .dr6 = dr6};
}

// From the handler to the traps after it. RIP and restart_rsp are set, the bytes in x->insn_bytes.
static inline void run_handler(struct interp *x, interp_fn *fn, const struct insn *in)
{
    struct cpu *c = x->c;
    u64 next = c->rip + in->len;
    if (x->mode != ISA_MODE_64)
        next = (u32)next;
    x->next_rip = next;
    bool tf = c->rflags & X86_FL_TF;
    x->tf_cleared = false;
    fn(x, in);
    if (UNLIKELY(x->rep_more)) {
        // Between iterations RIP stays and RF is seen as set. SDM 3B 18.3.1.1. Single-step traps of AMD processors show it clear.
        x->rep_more = false;
        if (!(tf && x->isa_options & ISA_OPT_AMD))
            c->rflags |= X86_FL_RF;
        x->budget += !tf && !x->dr6_trap;
    } else {
        c->rip = x->next_rip;
        if (UNLIKELY(c->rflags & X86_FL_RF) && !x->resume_rf)
            c->rflags &= ~(u64)X86_FL_RF;
        x->v->insns++;
    }
    x->resume_rf = false;
    c->shadow = x->shadow_next;
    x->shadow_next = 0;
    if (UNLIKELY(tf || x->dr6_trap || c->pending_dr6))
        debug_traps(x, tf && !x->tf_cleared && (x->next_rip != next || !(c->msr.debugctl & DEBUGCTL_BTF)));
}

unsigned interp_step(struct interp *x)
{
    struct cpu *c = x->c;
    x->restart_rsp = c->gpr[X86_RSP];
    if (UNLIKELY(x->break_on) && !check_code_breakpoints(x))
        return ISA_OP_COUNT;
    struct interp_memo *m = fetch(x);
    if (UNLIKELY(m->pmode_only) && !cpu_pmode(c))
        interp_ud(x);
    if (UNLIKELY(x->trace))
        interp_trace_insn(x, &m->insn);
    run_handler(x, m->fn, &m->insn);
    return m->insn.op;
}

void interp_call(struct interp *x, interp_fn *fn, const struct insn *in, const u8 *bytes)
{
    x->restart_rsp = x->c->gpr[X86_RSP];
    x->insn_bytes = bytes;
    run_handler(x, fn, in);
}

bool interp_ready(struct interp *x)
{
    struct vcpu *v = x->v;
    if (UNLIKELY(x->stop || x->c->event.type != CPU_EVENT_NONE || x->c->activity != CPU_RUNNING || x->c->nmi_pending ||
                 atomic_load_explicit(&v->request, memory_order_relaxed))) {
        if (x->budget == 0 && !x->stop) {
            interp_stop(x, VM_EXIT_BUDGET);
            return false;
        }
        if (!boundary(x))
            return false;
    }
    return spend_budget(x);
}

// --- the engine -----------------------------------------------------------------------------------------------------------------

void interp_enter(struct interp *x, u64 budget)
{
    const struct machine *m = x->v->machine;
    x->budget = budget;
    x->stop = x->watch_hit = false;
    x->points = m->debug.break_count || m->debug.watch_count ? &m->debug : NULL;
    x->delivering = x->ext = false;
    x->trace = host_logs(m->host, LOG_ASM) || host_logs(m->host, LOG_CPU);
    x->restart_rsp = x->c->gpr[X86_RSP];
    interp_mode_changed(x);
}

static struct vm_exit interp_run(struct vcpu *v, u64 budget)
{
    struct interp *x = v->engine_state;
    interp_enter(x, budget);
    if (setjmp(x->fault))
        interp_take_fault(x);
    while (interp_ready(x))
        interp_step(x);
    return x->exit;
}

static int interp_probe(const char **why)
{
    (void)why;
    return 0;
}

// Decoder options of a CPU model. Without a model, everything is offered.
static u32 isa_options_of(const struct cpu_model *model)
{
    if (!model)
        return 0;
    return (cpu_model_is_amd(model) ? ISA_OPT_AMD : 0) | (cpu_model_has(model, ISA_FEAT_BMI1) ? 0 : ISA_OPT_NO_TZCNT) |
           (cpu_model_has(model, ISA_FEAT_ABM) ? 0 : ISA_OPT_NO_LZCNT) |
           (cpu_model_has(model, ISA_FEAT_WBNOINVD) ? 0 : ISA_OPT_NO_WBNOINVD);
}

int interp_init(struct interp *x, struct vcpu *v)
{
    x->v = v;
    x->c = &v->cpu;
    for (unsigned i = 0; i < INTERP_MEMO; i++)
        x->memo[i].mode = 0xff;
    x->isa_options = isa_options_of(v->model);
    return interp_simd_init(x);
}

void interp_fini(struct interp *x)
{
    interp_simd_fini(x);
}

static int interp_vcpu_create(struct vcpu *v)
{
    struct host *h = v->machine->host;
    struct interp *x = h->ops->mem_alloc(h->self, "interp", sizeof *x);
    if (!x)
        return -12; // -ENOMEM
    int err = interp_init(x, v);
    if (err)
        h->ops->mem_free(h->self, x, sizeof *x);
    else
        v->engine_state = x;
    return err;
}

static void interp_vcpu_destroy(struct vcpu *v)
{
    struct host *h = v->machine->host;
    interp_fini(v->engine_state);
    h->ops->mem_free(h->self, v->engine_state, sizeof(struct interp));
    v->engine_state = NULL;
}

static void interp_sync(struct vcpu *v)
{
    (void)v; // the architectural state is always in vcpu.cpu
}

static void interp_invalidate(struct vcpu *v, gpa base, u64 len)
{
    (void)v; // decoded instructions are validated by their bytes
    (void)base;
    (void)len;
}

static void interp_kick(struct vcpu *v)
{
    vcpu_request(v, VCPU_REQ_EXIT);
}

static void interp_stats(struct vcpu *v, char *buf, size_t size)
{
    (void)v;
    if (size)
        buf[0] = 0;
}

const struct engine_ops interp_engine = {
    .name = "interp",
    .probe = interp_probe,
    .vcpu_create = interp_vcpu_create,
    .run = interp_run,
    .pull_state = interp_sync,
    .push_state = interp_sync,
    .invalidate = interp_invalidate,
    .kick = interp_kick,
    .stats = interp_stats,
    .vcpu_destroy = interp_vcpu_destroy,
};
