// IN and OUT, and what every port access shares: permission, I/O breakpoints, the bus. INS and OUTS are in string.c.
#include "core/machine.h"
#include "engine/interp/operand.h"

// The I/O permission bitmap of the TSS: one bit for each port, read as the two bytes that hold the first port's bit, and all
// ones beyond the segment limit. SDM 1 19.5.2.
static bool bitmap_allows(struct interp *x, u16 port, unsigned size)
{
    const struct x86_seg *tr = &x->c->seg[X86_TR];
    unsigned type = tr->attr & X86_SEG_TYPE;
    if ((tr->attr & X86_SEG_UNUSABLE) || (type != X86_SYS_TSS_AVAIL && type != X86_SYS_TSS_BUSY) || tr->limit < 103)
        return false;
    u64 wrap = size_mask(cpu_long_mode(x->c) ? 8 : 4);
    u64 off = interp_sys_load(x, (tr->base + 102) & wrap, 2) + port / 8;
    if (off + 1 > tr->limit)
        return false;
    u64 bits = interp_sys_load(x, (tr->base + off) & wrap, 2) >> (port & 7);
    return !(bits & ((1u << size) - 1));
}

void interp_check_io(struct interp *x, u16 port, unsigned size)
{
    const struct cpu *c = x->c;
    if (!cpu_v8086(c) && c->cpl <= cpu_iopl(c)) // real mode too: CPL is 0
        return;
    if (!bitmap_allows(x, port, size))
        interp_gp0(x);
}

// Breakpoints on ports trap after the instruction. They need CR4.DE. SDM 3B 18.2.4.
static void check_watch(struct interp *x, u16 port, unsigned size)
{
    static const u8 length[4] = {1, 2, 8, 4};
    const struct cpu *c = x->c;
    if (!(c->cr4 & X86_CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++) {
        if (!(c->dr7 & (X86_DR7_L(n) | X86_DR7_G(n))) || X86_DR7_RW(c->dr7, n) != 2)
            continue;
        u64 len = length[X86_DR7_LEN(c->dr7, n)];
        u64 base = c->dr[n] & ~(len - 1);
        if (port < base + len && base < (u64)port + size)
            x->dr6_trap |= X86_DR6_B(n);
    }
}

static void trace_port(struct interp *x, const char *what, u16 port, unsigned size, u32 val)
{
    const struct host *h = x->v->machine->host;

    if (UNLIKELY(host_logs(h, LOG_IO)))
        host_logf(h, LOG_IO, "%s port %04x size %u value %x at %lx", what, port, size, val, x->c->rip);
}

u32 interp_in(struct interp *x, u16 port, unsigned size)
{
    if (UNLIKELY(x->debug_on))
        check_watch(x, port, size);
    u32 val = bus_in(&x->v->machine->bus, port, size);
    trace_port(x, "in", port, size, val);
    return val;
}

void interp_out(struct interp *x, u16 port, unsigned size, u32 val)
{
    if (UNLIKELY(x->debug_on))
        check_watch(x, port, size);
    val &= (u32)size_mask(size);
    trace_port(x, "out", port, size, val);
    bus_out(&x->v->machine->bus, port, size, val);
}

static u16 port_operand(struct interp *x, const struct insn *in, unsigned i)
{
    if (in->opnd[i].kind == ISA_OPND_IMM)
        return (u8)in->imm;
    return (u16)x->c->gpr[X86_RDX];
}

void op_in(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u16 port = port_operand(x, in, 1);
    interp_check_io(x, port, size);
    gpr_set(x->c, X86_RAX, size, interp_in(x, port, size));
}

void op_out(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[1].size;
    u16 port = port_operand(x, in, 0);
    interp_check_io(x, port, size);
    interp_out(x, port, size, (u32)x->c->gpr[X86_RAX]);
}
