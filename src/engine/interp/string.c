// String instructions.
//
// An iteration is complete, with rSI, rDI and rCX updated, before the next one begins, so a fault or an interrupt in the middle
// of a REP needs nothing undone: RIP stays on the instruction, which carries on with what the registers say. A handler does
// many iterations in one call but hands back to the run loop (x->rep_more) when somebody wants the processor.
//
// Every run starts with one iteration on the slow path, which makes all the checks (segment type, alignment, breakpoints) and
// fills the TLB; `bulk` functions then take the rest of the page at once, as a host string instruction on host addresses:
// overlapping operands come out as the architecture says. What is not plain RAM never gets a host address and goes on one by
// one.
#include "engine/interp/operand.h"
#include "isa/alu.h"

#define STRING_CHUNK 65536 // iterations before the run loop gets to look around

typedef void iteration_fn(struct interp *x, const struct insn *in);
// Do up to `n` iterations; returns how many were done, with rSI and rDI moved.
typedef u64 bulk_fn(struct interp *x, const struct insn *in, u64 n);

static u64 index_get(const struct interp *x, const struct insn *in, unsigned reg)
{
    return gpr_get(x->c, reg, in->adsize);
}

// Step an index register by `n` elements. With 32-bit addresses in 64-bit mode this clears the upper half; registers whose REP
// count is zero from the start keep theirs.
static void advance(struct interp *x, const struct insn *in, unsigned reg, u64 n)
{
    u64 bytes = n * in->opnd[0].size;
    u64 v = x->c->gpr[reg];
    gpr_set(x->c, reg, in->adsize, x->c->rflags & X86_FL_DF ? v - bytes : v + bytes);
}

// --- repetition -----------------------------------------------------------------------------------------------------------

// Something that the run loop has to look at before the next iteration. An interrupt that is masked anyway does not count:
// it would reduce the REP instructions of its handler to single steps.
static bool interrupted(const struct interp *x)
{
    const struct cpu *c = x->c;
    u32 req = atomic_load_explicit(&x->v->request, memory_order_relaxed);
    if (!(c->rflags & X86_FL_IF))
        req &= ~VCPU_REQ_INTR;
    return req || (c->rflags & X86_FL_TF) || x->dr6_trap || x->stop;
}

static bool condition_ends(const struct interp *x, const struct insn *in)
{
    bool zf = x->c->rflags & X86_FL_ZF;
    return in->prefix & ISA_PFX_REP ? !zf : zf;
}

// `conditional`: CMPS and SCAS, which also end by ZF. `bulk` may be NULL.
static void repeat(struct interp *x, const struct insn *in, iteration_fn *one, bulk_fn *bulk, bool conditional)
{
    struct cpu *c = x->c;
    if (!(in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE))) {
        one(x, in);
        return;
    }
    u64 count = index_get(x, in, X86_RCX);
    if (count == 0)
        return;
    u64 left = STRING_CHUNK;
    if (x->debug_on || x->align_on)
        bulk = NULL;
    for (;;) {
        one(x, in);
        gpr_set(c, X86_RCX, in->adsize, --count);
        if (count == 0 || (conditional && condition_ends(x, in)))
            return;
        if (--left == 0 || interrupted(x))
            break;
        if (!bulk)
            continue;
        u64 done = bulk(x, in, count < left ? count : left);
        gpr_set(c, X86_RCX, in->adsize, count -= done);
        if (count == 0 || (done && conditional && condition_ends(x, in)))
            return;
        left -= done;
        if (left == 0 || interrupted(x))
            break;
    }
    x->rep_more = true;
}

// Host address of the string element at the index register `reg`, or NULL; *n is lowered to the number of elements that
// follow (in the direction of DF) in the same page, within the segment and before the index wraps. The element before it has
// passed the segment's type checks.
static u8 *element_host(struct interp *x, const struct insn *in, unsigned seg, unsigned reg, bool write, u64 *n)
{
    const struct x86_seg *s = &x->c->seg[seg];
    unsigned size = in->opnd[0].size;
    u64 off = index_get(x, in, reg), last = size_mask(in->adsize);
    gva a = off;
    if (x->mode == ISA_MODE_64) {
        a += seg >= X86_FS ? s->base : 0;
    } else {
        if (!(s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_E))
            return NULL;
        a = (u32)(off + s->base);
        last = s->limit < last ? s->limit : last;
    }
    if (off > last || last - off < size - 1)
        return NULL;
    u8 *host = (u8 *)(write ? tlb_write : tlb_read)(&x->v->tlb, x->view, a, size);
    if (!host)
        return NULL;
    u64 page_off = a & 4095, room;
    if (x->c->rflags & X86_FL_DF) {
        room = (off < page_off ? off : page_off) / size + 1;
    } else {
        u64 to_last = last - off, to_page_end = 4095 - page_off;
        room = ((to_last < to_page_end ? to_last : to_page_end) + 1) / size;
    }
    *n = room < *n ? room : *n;
    return host;
}

// --- MOVS -----------------------------------------------------------------------------------------------------------------

static void movs_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 v = interp_load(x, in->seg, index_get(x, in, X86_RSI), size);
    interp_store(x, X86_ES, index_get(x, in, X86_RDI), size, v);
    advance(x, in, X86_RSI, 1);
    advance(x, in, X86_RDI, 1);
}

static void host_movs(u8 *dst, const u8 *src, u64 n, unsigned size, bool down)
{
#define MOVS(suffix) \
    if (down) \
        __asm__ volatile("std\n\trep movs" suffix "\n\tcld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc"); \
    else \
        __asm__ volatile("rep movs" suffix : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); \
    break
    switch (size) {
    case 1: MOVS("b");
    case 2: MOVS("w");
    case 4: MOVS("l");
    default: MOVS("q");
    }
#undef MOVS
}

static u64 movs_bulk(struct interp *x, const struct insn *in, u64 n)
{
    const u8 *src = element_host(x, in, in->seg, X86_RSI, false, &n);
    u8 *dst = element_host(x, in, X86_ES, X86_RDI, true, &n);
    if (!src || !dst)
        return 0;
    host_movs(dst, src, n, in->opnd[0].size, x->c->rflags & X86_FL_DF);
    advance(x, in, X86_RSI, n);
    advance(x, in, X86_RDI, n);
    return n;
}

void op_movs(struct interp *x, const struct insn *in)
{
    repeat(x, in, movs_one, movs_bulk, false);
}

// --- STOS, LODS -----------------------------------------------------------------------------------------------------------

static void stos_one(struct interp *x, const struct insn *in)
{
    interp_store(x, X86_ES, index_get(x, in, X86_RDI), in->opnd[0].size, x->c->gpr[X86_RAX]);
    advance(x, in, X86_RDI, 1);
}

static u64 stos_bulk(struct interp *x, const struct insn *in, u64 n)
{
    if (x->c->rflags & X86_FL_DF)
        return 0;
    u8 *dst = element_host(x, in, X86_ES, X86_RDI, true, &n);
    if (!dst)
        return 0;
    u64 count = n, val = x->c->gpr[X86_RAX];
    switch (in->opnd[0].size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(count) : "a"(val) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(count) : "a"(val) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(val) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(count) : "a"(val) : "memory"); break;
    }
    advance(x, in, X86_RDI, n);
    return n;
}

void op_stos(struct interp *x, const struct insn *in)
{
    repeat(x, in, stos_one, stos_bulk, false);
}

static void lods_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    gpr_set(x->c, X86_RAX, size, interp_load(x, in->seg, index_get(x, in, X86_RSI), size));
    advance(x, in, X86_RSI, 1);
}

void op_lods(struct interp *x, const struct insn *in)
{
    repeat(x, in, lods_one, NULL, false);
}

// --- CMPS, SCAS -----------------------------------------------------------------------------------------------------------

// Which operand is read first shows when neither can be: it is the destination, but for REPE CMPSB (measured on AMD).
static void cmps_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 rsi = index_get(x, in, X86_RSI), rdi = index_get(x, in, X86_RDI), a, b;
    if (size == 1 && (in->prefix & ISA_PFX_REP)) {
        a = interp_load(x, in->seg, rsi, size);
        b = interp_load(x, X86_ES, rdi, size);
    } else {
        b = interp_load(x, X86_ES, rdi, size);
        a = interp_load(x, in->seg, rsi, size);
    }
    alu_sub(size, a, b, &x->c->rflags);
    advance(x, in, X86_RSI, 1);
    advance(x, in, X86_RDI, 1);
}

static void scas_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u64 b = interp_load(x, X86_ES, index_get(x, in, X86_RDI), size);
    alu_sub(size, x->c->gpr[X86_RAX], b, &x->c->rflags);
    advance(x, in, X86_RDI, 1);
}

// Both return how many of the `n` (at least 1) comparisons were made and leave the flags of the last one.
static u64 host_cmps(const u8 *src, const u8 *dst, u64 n, unsigned size, bool equal, u64 *fl)
{
    u64 left = n, f;
#define CMPS(suffix) \
    if (equal) \
        __asm__ volatile("repe cmps" suffix "\n\t" ALU_OUT \
                         : "+S"(src), "+D"(dst), "+c"(left), "=&a"(f) \
                         : \
                         : "memory", "cc"); \
    else \
        __asm__ volatile("repne cmps" suffix "\n\t" ALU_OUT \
                         : "+S"(src), "+D"(dst), "+c"(left), "=&a"(f) \
                         : \
                         : "memory", "cc"); \
    break
    switch (size) {
    case 1: CMPS("b");
    case 2: CMPS("w");
    case 4: CMPS("l");
    default: CMPS("q");
    }
#undef CMPS
    alu_flags_unpack(fl, (u16)f);
    return n - left;
}

static u64 host_scas(u64 val, const u8 *dst, u64 n, unsigned size, bool equal, u64 *fl)
{
    u64 left = n;
#define SCAS(suffix) \
    if (equal) \
        __asm__ volatile("repe scas" suffix "\n\t" ALU_OUT : "+D"(dst), "+c"(left), "+a"(val) : : "memory", "cc"); \
    else \
        __asm__ volatile("repne scas" suffix "\n\t" ALU_OUT : "+D"(dst), "+c"(left), "+a"(val) : : "memory", "cc"); \
    break
    switch (size) {
    case 1: SCAS("b");
    case 2: SCAS("w");
    case 4: SCAS("l");
    default: SCAS("q");
    }
#undef SCAS
    alu_flags_unpack(fl, (u16)val);
    return n - left;
}

static u64 cmps_bulk(struct interp *x, const struct insn *in, u64 n)
{
    if (x->c->rflags & X86_FL_DF)
        return 0;
    const u8 *src = element_host(x, in, in->seg, X86_RSI, false, &n);
    const u8 *dst = element_host(x, in, X86_ES, X86_RDI, false, &n);
    if (!src || !dst)
        return 0;
    n = host_cmps(src, dst, n, in->opnd[0].size, in->prefix & ISA_PFX_REP, &x->c->rflags);
    advance(x, in, X86_RSI, n);
    advance(x, in, X86_RDI, n);
    return n;
}

static u64 scas_bulk(struct interp *x, const struct insn *in, u64 n)
{
    if (x->c->rflags & X86_FL_DF)
        return 0;
    const u8 *dst = element_host(x, in, X86_ES, X86_RDI, false, &n);
    if (!dst)
        return 0;
    n = host_scas(x->c->gpr[X86_RAX], dst, n, in->opnd[0].size, in->prefix & ISA_PFX_REP, &x->c->rflags);
    advance(x, in, X86_RDI, n);
    return n;
}

void op_cmps(struct interp *x, const struct insn *in)
{
    repeat(x, in, cmps_one, cmps_bulk, true);
}

void op_scas(struct interp *x, const struct insn *in)
{
    repeat(x, in, scas_one, scas_bulk, true);
}

// --- INS, OUTS --------------------------------------------------------------------------------------------------------------

// A port is not read unless the value can be stored.
static void ins_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    u16 port = (u16)x->c->gpr[X86_RDX];
    u64 off = index_get(x, in, X86_RDI);
    interp_probe_store(x, X86_ES, off, size);
    interp_store(x, X86_ES, off, size, interp_in(x, port, size));
    advance(x, in, X86_RDI, 1);
}

// The permission counts even when the repeat count is zero.
void op_ins(struct interp *x, const struct insn *in)
{
    interp_check_io(x, (u16)x->c->gpr[X86_RDX], in->opnd[0].size);
    repeat(x, in, ins_one, NULL, false);
}

static void outs_one(struct interp *x, const struct insn *in)
{
    unsigned size = in->opnd[1].size;
    u16 port = (u16)x->c->gpr[X86_RDX];
    u64 v = interp_load(x, in->seg, index_get(x, in, X86_RSI), size);
    interp_out(x, port, size, (u32)v);
    u64 rsi = x->c->gpr[X86_RSI];
    gpr_set(x->c, X86_RSI, in->adsize, x->c->rflags & X86_FL_DF ? rsi - size : rsi + size);
}

void op_outs(struct interp *x, const struct insn *in)
{
    interp_check_io(x, (u16)x->c->gpr[X86_RDX], in->opnd[1].size);
    repeat(x, in, outs_one, NULL, false);
}
