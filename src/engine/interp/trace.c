// Logging of executed instructions and delivered events. Only called when the category is on.
#include "engine/interp/trace.h"

#include "isa/disasm.h"

void interp_trace_insn(struct interp *x, const struct insn *in)
{
    struct host *h = x->v->machine->host;
    const struct cpu *c = x->c;
    if (host_logs(h, LOG_ASM)) {
        char text[96];
        isa_disasm(x->insn_bytes, in->len, x->mode, c->rip, text, sizeof text);
        host_logf(h, LOG_ASM, "%04x:%08lx  %s", c->seg[X86_CS].sel, c->rip, text);
    }
    if (host_logs(h, LOG_CPU)) {
        host_logf(h, LOG_CPU, "rax=%lx rcx=%lx rdx=%lx rbx=%lx rsp=%lx rbp=%lx rsi=%lx rdi=%lx", c->gpr[0], c->gpr[1],
                  c->gpr[2], c->gpr[3], c->gpr[4], c->gpr[5], c->gpr[6], c->gpr[7]);
        host_logf(h, LOG_CPU, "r8=%lx r9=%lx r10=%lx r11=%lx r12=%lx r13=%lx r14=%lx r15=%lx rip=%lx rfl=%lx",
                  c->gpr[8], c->gpr[9], c->gpr[10], c->gpr[11], c->gpr[12], c->gpr[13], c->gpr[14], c->gpr[15], c->rip,
                  c->rflags);
    }
}

void interp_trace_event(struct interp *x, const struct cpu_event *ev)
{
    static const char *const type[] = {"none", "external", "nmi", "exception", "int n", "int1", "int3/into"};
    const struct cpu *c = x->c;
    host_logf(x->v->machine->host, LOG_INT, "v=%02x e=%04x %s cpl=%u ip=%04x:%lx sp=%04x:%lx fl=%lx cr2=%lx",
              ev->vector, ev->error, type[ev->type], c->cpl, c->seg[X86_CS].sel, c->rip, c->seg[X86_SS].sel,
              c->gpr[X86_RSP], c->rflags, ev->cr2);
}
