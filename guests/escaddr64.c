// Every general register as base, index, source and destination, in every form of address: scales, displacements, 32-bit addresses, FS and
// GS with bases that wrap around, high-byte registers, RSP as anything that it can be. All registers are loaded before the instruction
// and stored after it; what it must have done is worked out here.
#include "code.h"

const char guest_name[] = "escaddr64";

#define REGION 0x01000000ul
#define REGION_SIZE 0x00200000ul
#define DATA 0x00c00000ul
#define NONE 16u

u64 regs_in[16], regs_out[16], saved_sp;

enum op {
    LOAD,
    STORE,
    ADD_TO,
    ADD_FROM,
    ZERO_EXTEND,
    SIGN_EXTEND,
    EXCHANGE,
    LEA,
    PUSH,
    POP,
    STORE_IMM,
    XADD,
    SET,
    MOVE_CONDITIONALLY,
    COUNT_UP,
    OPS
};

struct form {
    enum op op;
    unsigned size; // 1, 2, 4, 8
    unsigned reg, base, index, scale;
    i32 disp;
    unsigned mod; // 0, 1, 2; 3: no base, 32-bit displacement
    bool high;    // reg is AH, CH, DH or BH
    bool short_address;
    unsigned seg; // 0, 1 FS, 2 GS
};

static u64 seg_base[3];

static u32 next_random(u32 below)
{
    static u32 seed = 77;
    seed = seed * 1664525 + 1013904223;
    return (u32)((u64)(seed >> 4) * below >> 28);
}

static u64 next_value(void)
{
    return (u64)next_random(1 << 28) << 40 ^ (u64)next_random(1 << 28) << 16 ^ next_random(1 << 28);
}

static u64 truncate(u64 v, unsigned size)
{
    return size == 8 ? v : v & ((1ull << 8 * size) - 1);
}

// --- encoding -----------------------------------------------------------------------------------------------------------

static u8 *put_absolute(u8 *at, unsigned opcode, unsigned reg, const u64 *where)
{
    u32 a = (u32)(u64)where;
    u8 b[8] = {(u8)(0x48 | (reg & 8) >> 1),
               (u8)opcode,
               (u8)((reg & 7) << 3 | 4),
               0x25,
               (u8)a,
               (u8)(a >> 8),
               (u8)(a >> 16),
               (u8)(a >> 24)};
    put_bytes(at, b, 8);
    return at + 8;
}

static u8 *put_operand(u8 *at, const struct form *f, unsigned reg)
{
    bool sib = f->index != NONE || f->mod == 3 || (f->base & 7) == 4;
    *at++ = (u8)((f->mod & 3) % 3 << 6 | (reg & 7) << 3 | (sib ? 4 : f->base & 7));
    if (sib)
        *at++ = (u8)(f->scale << 6 | (f->index == NONE ? 4 : f->index & 7) << 3 | (f->mod == 3 ? 5 : f->base & 7));
    unsigned bytes = f->mod == 1 ? 1 : f->mod >= 2 ? 4 : 0;
    for (unsigned i = 0; i < bytes; i++)
        *at++ = (u8)((u32)f->disp >> 8 * i);
    return at;
}

static u8 *put_insn(u8 *at, const struct form *f)
{
    static const u8 opcodes[OPS] = {0x8a, 0x88, 0x00, 0x02, 0xb6, 0xbe, 0x86, 0x8d,
                                    0xff, 0x8f, 0xc6, 0xc0, 0x94, 0x44, 0xfe};
    bool two =
        f->op == ZERO_EXTEND || f->op == SIGN_EXTEND || f->op == XADD || f->op == SET || f->op == MOVE_CONDITIONALLY;
    bool sized = f->op != LEA && f->op != PUSH && f->op != POP && f->op != SET && f->op != MOVE_CONDITIONALLY &&
                 f->op != ZERO_EXTEND && f->op != SIGN_EXTEND;
    unsigned reg = f->high ? (f->reg & 3) + 4 : f->reg;
    if (f->op == PUSH)
        reg = 6;
    else if (f->op == POP || f->op == STORE_IMM || f->op == SET || f->op == COUNT_UP)
        reg = 0;
    if (f->seg)
        *at++ = f->seg == 1 ? 0x64 : 0x65;
    if (f->short_address)
        *at++ = 0x67;
    if (f->size == 2 && sized)
        *at++ = 0x66;
    u8 rex = (u8)((f->size == 8 && f->op != PUSH && f->op != POP ? 8 : 0) | (reg & 8) >> 1 |
                  (f->index != NONE ? (f->index & 8) >> 2 : 0) | (f->mod != 3 ? (f->base & 8) >> 3 : 0));
    if (!f->high)
        *at++ = (u8)(0x40 | rex);
    if (two)
        *at++ = 0x0f;
    *at++ = (u8)(opcodes[f->op] + (sized && f->size > 1));
    at = put_operand(at, f, reg);
    if (f->op == STORE_IMM)
        for (unsigned i = 0; i < (f->size == 8 ? 4 : f->size); i++)
            *at++ = (u8)(0x91 + i);
    return at;
}

// --- what it does -------------------------------------------------------------------------------------------------------

static u64 address(const struct form *f, const u64 *r)
{
    u64 a = (u64)(i64)f->disp + (f->mod != 3 ? r[f->base] : 0) + (f->index != NONE ? r[f->index] << f->scale : 0);
    return f->short_address ? (u32)a : a;
}

static u64 get_reg(const struct form *f, const u64 *r)
{
    return f->high ? r[f->reg & 3] >> 8 & 0xff : truncate(r[f->reg], f->size);
}

static void set_reg(const struct form *f, u64 *r, unsigned size, u64 v)
{
    if (f->high) {
        r[f->reg & 3] = (r[f->reg & 3] & ~0xff00ull) | (v & 0xff) << 8;
        return;
    }
    u64 keep = size < 4 ? r[f->reg] & ~((1ull << 8 * size) - 1) : 0;
    r[f->reg] = keep | truncate(v, size);
}

static u64 load(u64 at, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= (u64)((volatile u8 *)at)[i] << 8 * i;
    return v;
}

// Registers after the instruction; *memory is what is at the operand then, of *size bytes, or *size is 0. ZF is set and CF is not.
static void model(const struct form *f, u64 *r, u64 linear, u64 *memory, unsigned *size)
{
    u64 m = load(linear, 8), reg = get_reg(f, r), mem = truncate(m, f->size);
    *size = f->size;
    *memory = mem;
    switch (f->op) {
    case LOAD: set_reg(f, r, f->size, mem); break;
    case STORE: *memory = reg; break;
    case ADD_TO: *memory = mem + reg; break;
    case ADD_FROM: set_reg(f, r, f->size, mem + reg); break;
    case ZERO_EXTEND: set_reg(f, r, f->size, m & 0xff); break;
    case SIGN_EXTEND: set_reg(f, r, f->size, (u64)(i64)(signed char)m); break;
    case EXCHANGE:
        *memory = reg;
        set_reg(f, r, f->size, mem);
        break;
    case LEA: set_reg(f, r, f->size, address(f, r)); break;
    case PUSH:
        r[4] -= 8;
        *size = 0;
        break;
    case POP:
        r[4] += 8;
        *memory = load(r[4] - 8, 8);
        *size = 8;
        break;
    case STORE_IMM:
        *memory = f->size == 1 ? 0x91 : f->size == 2 ? 0x9291 : f->size == 4 ? 0x94939291 : 0xffffffff94939291;
        break;
    case XADD:
        *memory = mem + reg;
        set_reg(f, r, f->size, mem);
        break;
    case SET:
        *memory = 1;
        *size = 1;
        break;
    case MOVE_CONDITIONALLY: set_reg(f, r, f->size, mem); break;
    default: *memory = mem + 1; break;
    }
    *memory = truncate(*memory, *size ? *size : 8);
}

// --- cases --------------------------------------------------------------------------------------------------------------

static struct form draw(void)
{
    struct form f = {.op = (enum op)next_random(OPS),
                     .size = 1u << next_random(4),
                     .reg = next_random(16),
                     .base = next_random(16),
                     .index = NONE};
    f.mod = next_random(8) ? next_random(3) : 3;
    if (next_random(2)) {
        f.index = next_random(16);
        f.scale = next_random(4);
    }
    if (f.index == 4)
        f.index = NONE;
    if (f.index == f.base && f.index != NONE && f.mod != 3) // one register must be able to have the right value
        f.index = f.base == 15 ? 14 : f.base + 1 == 4 ? 5 : f.base + 1;
    bool wide = f.op == LEA || f.op == ZERO_EXTEND || f.op == SIGN_EXTEND || f.op == MOVE_CONDITIONALLY;
    if (wide && f.size < 4)
        f.size = 4;
    if (f.op == PUSH || f.op == POP)
        f.size = 8;
    f.high =
        f.size == 1 && f.op <= EXCHANGE && !wide && f.base < 8 && (f.index < 8 || f.index == NONE) && next_random(2);
    if (f.mod == 0 && (f.base & 7) == 5)
        f.mod = 1;
    f.short_address = !next_random(4);
    f.seg = f.op == LEA ? 0 : next_random(6) < 3 ? next_random(3) : 0;
    if ((f.op == PUSH || f.op == POP) && f.base == 4) // RSP must be good for the stack, too
        f.seg = 0;
    f.disp = f.mod == 1 ? (i32)next_random(256) - 128 : f.mod == 2 ? (i32)next_random(8192) - 4096 : 0;
    return f;
}

// Registers such that the operand is at `linear`. False: not with this form.
static bool aim(struct form *f, u64 linear, u64 *r)
{
    for (unsigned i = 0; i < 16; i++)
        r[i] = next_value();
    r[4] = DATA + 0x8000 + 8 * next_random(64);
    if (f->index != NONE)
        r[f->index] = next_random(256);
    u64 off = linear - seg_base[f->seg];
    if (f->short_address && off >> 32)
        return false;
    if (f->mod == 3) {
        u64 d = off - (f->index != NONE ? r[f->index] << f->scale : 0);
        if (f->disp || (u64)(i64)(i32)d != d) // its displacement is there already, or does not reach
            return false;
        f->disp = (i32)d;
        return true;
    }
    u64 base = off - (u64)(i64)f->disp - (f->index != NONE ? r[f->index] << f->scale : 0);
    if (f->short_address && f->base != 4)
        base = (u32)base | next_value() << 32;
    r[f->base] = base;
    return true;
}

static unsigned failures, cases;

static void check(const struct form *f, const u8 *fn, u64 linear, const u64 *r)
{
    u64 want[16], memory, pushed = load(linear, 8);
    unsigned size;
    for (unsigned i = 0; i < 16; i++)
        want[i] = regs_in[i] = r[i];
    u64 before = load(linear - 8, 8), after = load(linear + 8, 8);
    if (f->op == POP) // RSP counts as a base after it has moved
        linear += f->base == 4 && f->mod != 3 ? 8 : 0;
    model(f, want, linear, &memory, &size);
    __asm__ volatile("push %%rbp; cmp %%eax, %%eax; call *%0; pop %%rbp" ::"a"(fn)
                     : "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                       "memory", "cc");
    unsigned bad = 0;
    for (unsigned i = 0; i < 16; i++)
        bad |= (regs_out[i] != want[i]) << i;
    bool mem_bad = (size && load(linear, size) != memory) || (f->op == PUSH && load(want[4], 8) != pushed);
    if (f->op != POP && f->op != PUSH)
        mem_bad |= load(linear - 8, 8) != before || load(linear + 8, 8) != after;
    cases++;
    if ((bad || mem_bad) && failures++ < 10)
        print(
            "op %u size %u reg %u%s base %u index %u scale %u disp %x mod %u seg %u%s: registers %x memory %u: %lx, not %lx\n",
            f->op, f->size, f->reg, f->high ? " high" : "", f->base, f->index, f->scale, (u32)f->disp, f->mod, f->seg,
            f->short_address ? " short" : "", bad, mem_bad, (unsigned long)load(linear, 8), (unsigned long)memory);
}

static void one_form(u8 *at)
{
    u64 r[16], linear = DATA + 0x2000 + next_random(0x1000);
    struct form f = draw();
    if (f.op == PUSH || f.op == POP)
        linear = DATA + 0x2000 + 64 * next_random(64);
    if (!aim(&f, linear, r))
        return;
    u8 *fn = at;
    at = put_absolute(at, 0x89, 4, &saved_sp);
    for (unsigned i = 16; i-- > 0;)
        at = put_absolute(at, 0x8b, i, &regs_in[i]);
    at = put_insn(at, &f);
    for (unsigned i = 0; i < 16; i++)
        at = put_absolute(at, 0x89, i, &regs_out[i]);
    at = put_absolute(at, 0x8b, 4, &saved_sp);
    *at = 0xc3;
    __asm__ volatile("" ::: "memory");
    // Its first run, and others that find the code there.
    check(&f, fn, linear, r);
    for (unsigned i = 0; i < 3 && f.mod != 3; i++) {
        linear = (linear & ~0xfffull) + (f.op == PUSH || f.op == POP ? 64 * next_random(60) : next_random(0xff8));
        if (aim(&f, linear, r))
            check(&f, fn, linear, r);
    }
}

void guest_main(void)
{
    static const u64 bases[][2] = {{0x1000, 0x12345678},
                                   {0xffffffffffffb000, 0x10},
                                   {0xffffffff80000000, 0xfffffffffffffff8},
                                   {0x00007ffff0000000, 0}};
    u8 *at = (u8 *)REGION;
    for (unsigned i = 0; i < 0x10000; i += 8)
        *(volatile u64 *)(DATA + i) = next_value();
    for (unsigned k = 0; k < 4; k++) {
        seg_base[1] = bases[k][0];
        seg_base[2] = bases[k][1];
        wrmsr(0xc0000100, seg_base[1]);
        wrmsr(0xc0000101, seg_base[2]);
        failures = cases = 0;
        for (unsigned i = 0; i < 2500; i++) {
            one_form(at);
            at += 320;
            if (at > (u8 *)REGION + REGION_SIZE)
                at = (u8 *)REGION;
        }
        CHECK(cases > 5000);
        CHECK_EQ(failures, 0);
    }
}
