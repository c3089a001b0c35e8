// Locked read-modify-writes against their plain selves in every size; CMPXCHG, CMPXCHG8B and CMPXCHG16B; operands across cache
// lines and pages; page faults that leave memory alone, and dirty bits that even a failed comparison sets. Which instructions
// take LOCK at all is in lock64.
//
// QEMU 7.2's TCG differs in 1 check: across two pages, a page fault of a locked instruction looks like a read.
#include "guest.h"

const char guest_name[] = "atomics";

#define WINDOW 0x40000000ull // two pages: remapped here
#define PHYS 0x00a00000ull
#define CF 1
#define ZF 0x40
#define STATUS 0x8d5

static u8 code[32] __attribute__((aligned(64)));
static u64 area[32] __attribute__((aligned(64)));
static u64 *pte; // of WINDOW's two pages

struct regs {
    u64 ax, bx, cx, dx, di, flags;
};

// Execute code[] with these registers.
static struct regs run(struct regs r)
{
    TRY(__asm__ volatile("push %%rbp\n"
                         "push %5\n"
                         "popf\n"
                         "call *%6\n"
                         "pushf\n"
                         "pop %5\n"
                         "pop %%rbp\n"
                         "cld\n"
                         : "+a"(r.ax), "+b"(r.bx), "+c"(r.cx), "+d"(r.dx), "+D"(r.di), "+&r"(r.flags)
                         : "r"(code)
                         : "rsi", "memory", "cc"));
    return r;
}

static unsigned put_code(const u8 *bytes, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        code[i] = bytes[i];
    code[len] = 0xc3;
    return len;
}

// --- locked against plain -----------------------------------------------------------------------------------------------

// One- or two-byte opcode (0x100: after 0F), the ModRM byte without its memory operand, size of the immediate.
struct form {
    u16 op;
    u8 reg, imm;
};

static const struct form forms[] = {
    {0x00, 1, 0},  {0x08, 1, 0},  {0x10, 1, 0},     {0x18, 1, 0},  {0x20, 1, 0},  {0x28, 1, 0},
    {0x30, 1, 0},  {0x80, 0, 1},  {0x80, 1, 1},     {0x80, 2, 1},  {0x80, 3, 1},  {0x80, 4, 1},
    {0x80, 5, 1},  {0x80, 6, 1},  {0x82 + 1, 0, 1}, {0x83, 2, 1},  {0x83, 5, 1},  {0xf6, 2, 0},
    {0xf6, 3, 0},  {0xfe, 0, 0},  {0xfe, 1, 0},     {0x86, 1, 0},  {0x1b0, 1, 0}, {0x1c0, 1, 0},
    {0x1ab, 1, 0}, {0x1b3, 1, 0}, {0x1bb, 1, 0},    {0x1ba, 5, 1}, {0x1ba, 6, 1}, {0x1ba, 7, 1},
};

static bool has_byte_form(const struct form *f)
{
    return f->op != 0x83 && f->op != 0x1ab && f->op != 0x1b3 && f->op != 0x1bb && f->op != 0x1ba;
}

// size 0..3: byte, word, doubleword, quadword.
static void encode(const struct form *f, unsigned size, bool lock)
{
    u8 b[16];
    unsigned n = 0;
    if (lock)
        b[n++] = 0xf0;
    if (size == 1)
        b[n++] = 0x66;
    if (size == 3)
        b[n++] = 0x48;
    if (f->op & 0x100)
        b[n++] = 0x0f;
    b[n++] = (u8)(f->op + (size && has_byte_form(f)));
    b[n++] = (u8)(f->reg << 3 | 7);
    unsigned imm = f->op == 0x80 && size ? (size == 1 ? 2 : 4) : f->imm;
    for (unsigned i = 0; i < imm; i++)
        b[n++] = (u8)(0x95 + 0x11 * i);
    put_code(b, n);
}

static void one_form(const struct form *f, unsigned size, unsigned at, u64 value)
{
    struct regs r[2];
    u64 after[2][4];
    for (unsigned lock = 0; lock < 2; lock++) {
        for (unsigned i = 0; i < 4; i++)
            area[6 + i] = value * (i + 1) + i;
        encode(f, size, lock);
        r[lock] = run((struct regs){value, 7, 0x8000000180008083ull, 3, (u64)&area[6] + at, 2 | CF});
        CHECK_TRAP(-1);
        for (unsigned i = 0; i < 4; i++)
            after[lock][i] = area[6 + i];
    }
    bool same = r[0].ax == r[1].ax && r[0].cx == r[1].cx && !((r[0].flags ^ r[1].flags) & STATUS);
    for (unsigned i = 0; i < 4; i++)
        same = same && after[0][i] == after[1][i];
    check_at(same, __FILE__, __LINE__, "opcode %x /%u size %u at %u: locked differs: %lx %lx, flags %lx %lx", f->op,
             f->reg, size, at, after[0][0], after[1][0], r[0].flags, r[1].flags);
}

// area[8] begins a cache line: offset 0 to 15 from area[6] are aligned, misaligned, and across the line.
static void against_plain(void)
{
    static const u64 values[] = {0, 0x7f7f7f7f7f7f7f7full, 0x8000000180008083ull, ~0ull};
    for (unsigned i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        bool bits = forms[i].op == 0x1ab || forms[i].op == 0x1b3 || forms[i].op == 0x1bb;
        for (unsigned size = has_byte_form(&forms[i]) ? 0 : 1; size < 4; size++) {
            for (unsigned at = 0; at < 16; at += 5) {
                for (unsigned v = 0; v < 4 && !bits; v++)
                    one_form(&forms[i], size, at, values[v]);
            }
        }
    }
}

// Bit offsets reach outside the operand, in both directions.
static void bit_strings(void)
{
    static const i32 offsets[] = {0, 63, 64, 200, -1, -65};
    for (unsigned i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        u64 cx = (u64)(i64)offsets[i];
        unsigned at = (unsigned)(16 + (offsets[i] >> 6)), bit = offsets[i] & 63;
        for (unsigned k = 0; k < 32; k++)
            area[k] = 0;
        put_code((const u8[]){0xf0, 0x48, 0x0f, 0xab, 0x0f}, 5); // LOCK BTS [rdi], rcx
        struct regs r = run((struct regs){.cx = cx, .di = (u64)&area[16], .flags = 2});
        CHECK_EQ(r.flags & CF, 0);
        CHECK_EQ(area[at], 1ull << bit);
        r = run((struct regs){.cx = cx, .di = (u64)&area[16], .flags = 2});
        CHECK_EQ(r.flags & CF, CF);
        put_code((const u8[]){0xf0, 0x48, 0x0f, 0xbb, 0x0f}, 5); // LOCK BTC
        run((struct regs){.cx = cx, .di = (u64)&area[16], .flags = 2});
        CHECK_EQ(area[at], 0);
    }
}

// --- compare and exchange -----------------------------------------------------------------------------------------------

static void cmpxchg(void)
{
    put_code((const u8[]){0xf0, 0x0f, 0xb1, 0x0f}, 4); // LOCK CMPXCHG [rdi], ecx
    area[0] = 0x1111111122222222ull;
    struct regs r = run((struct regs){.ax = 0xffffffff22222222ull, .cx = 0x33333333, .di = (u64)area, .flags = 2});
    CHECK(r.flags & ZF);
    CHECK_EQ(area[0], 0x1111111133333333ull);
    r = run((struct regs){.ax = 0xffffffff44444444ull, .cx = 0x55555555, .di = (u64)area, .flags = 2});
    CHECK(!(r.flags & ZF));
    CHECK_EQ(area[0], 0x1111111133333333ull);
    CHECK_EQ(r.ax, 0x33333333);
    put_code((const u8[]){0xf0, 0x0f, 0xc1, 0x0f}, 4); // LOCK XADD [rdi], ecx
    r = run((struct regs){.cx = ~0ull, .di = (u64)area, .flags = 2});
    CHECK_EQ(r.cx, 0x33333333);
    CHECK_EQ(area[0], 0x1111111133333332ull);
    CHECK(r.flags & CF);
}

static void cmpxchg8b(void)
{
    for (unsigned at = 0; at < 64; at += 3) {
        u64 *p = (u64 *)((u8 *)area + at);
        *p = 0x1122334455667788ull;
        put_code((const u8[]){0xf0, 0x0f, 0xc7, 0x0f}, 4);
        struct regs r = {
            .ax = 0x55667788, .dx = 0x11223344, .bx = 0xbbbbbbbb, .cx = 0xcccccccc, .di = (u64)p, .flags = 2};
        r = run(r);
        CHECK_EQ(r.flags & STATUS, ZF);
        CHECK_EQ(*p, 0xccccccccbbbbbbbbull);
        r.flags = STATUS | 2;
        r = run(r);
        CHECK_EQ(r.flags & STATUS, STATUS & ~ZF); // no other flag changes
        CHECK_EQ(r.ax, 0xbbbbbbbb);
        CHECK_EQ(r.dx, 0xcccccccc);
    }
}

static void cmpxchg16b(void)
{
    u32 c[4];
    cpuid(1, 0, c);
    put_code((const u8[]){0xf0, 0x48, 0x0f, 0xc7, 0x0f}, 5);
    struct regs r = {.ax = 1, .dx = 2, .bx = 3, .cx = 4, .di = (u64)area, .flags = 2};
    if (!(c[2] >> 13 & 1)) {
        run(r);
        CHECK_TRAP(6);
        return;
    }
    area[0] = 1;
    area[1] = 2;
    r = run(r);
    CHECK_EQ(r.flags & STATUS, ZF);
    CHECK_EQ(area[0], 3);
    CHECK_EQ(area[1], 4);
    r = run(r);
    CHECK_EQ(r.flags & STATUS, 0);
    CHECK_EQ(r.ax, 3);
    CHECK_EQ(r.dx, 4);
    area[1] = 5; // only the upper half differs
    r = run(r);
    CHECK(!(r.flags & ZF));
    CHECK_EQ(r.dx, 5);
    // Alignment, with and without LOCK.
    for (unsigned lock = 0; lock < 2; lock++) {
        if (!lock)
            put_code((const u8[]){0x48, 0x0f, 0xc7, 0x0f}, 4);
        for (unsigned at = 1; at < 16; at++) {
            r.di = (u64)area + at;
            run(r);
            CHECK_TRAP_ERR(13, 0);
        }
    }
    put_code((const u8[]){0xf0, 0x48, 0x0f, 0xc7, 0xcf}, 5); // register operand
    run(r);
    CHECK_TRAP(6);
}

// --- pages --------------------------------------------------------------------------------------------------------------

static void map(unsigned page, u64 entry)
{
    pte[page] = entry;
    invlpg((void *)(WINDOW + page * 4096));
}

static void page_faults(void)
{
    map(0, PHYS | PTE_P | PTE_W);
    map(1, (PHYS + 4096) | PTE_P | PTE_W);
    // Across two pages that are not neighbours in memory elsewhere.
    u64 *p = (u64 *)(WINDOW + 4096 - 3);
    *p = 0x00ffffffffffffffull;
    put_code((const u8[]){0xf0, 0x48, 0xff, 0x07}, 4); // LOCK INC qword [rdi]
    run((struct regs){.di = (u64)p, .flags = 2});
    CHECK_TRAP(-1);
    CHECK_EQ(*p, 0x0100000000000000ull);
    map(1, (PHYS + 4096) | PTE_P); // the second page is read-only
    run((struct regs){.di = (u64)p, .flags = 2});
    CHECK_TRAP_ERR(14, 3);
    CHECK_EQ(trap.cr2, WINDOW + 4096);
    CHECK_EQ(*p, 0x0100000000000000ull);
    map(1, 0);
    run((struct regs){.di = (u64)p, .flags = 2});
    CHECK_TRAP_ERR(14, 2); // a write, though it starts with a read
    CHECK_EQ(trap.cr2, WINDOW + 4096);
    // A comparison that fails writes all the same.
    static const u8 compares[][5] = {
        {0xf0, 0x48, 0x0f, 0xb1, 0x0f}, {0x90, 0x48, 0x0f, 0xb1, 0x0f}, {0x90, 0xf0, 0x0f, 0xc7, 0x0f}};
    for (unsigned i = 0; i < 3; i++) {
        put_code(compares[i], 5);
        map(0, PHYS | PTE_P);
        *(volatile u64 *)PHYS = 12345;
        run((struct regs){.ax = 1, .di = WINDOW, .flags = 2});
        CHECK_TRAP_ERR(14, 3);
        map(0, PHYS | PTE_P | PTE_W);
        run((struct regs){.ax = 1, .di = WINDOW, .flags = 2});
        CHECK_TRAP(-1);
        CHECK_EQ(pte[0] & (PTE_A | PTE_D), PTE_A | PTE_D);
        CHECK_EQ(*(volatile u64 *)PHYS, 12345);
    }
    // XCHG is locked without being asked.
    put_code((const u8[]){0x48, 0x87, 0x0f}, 3);
    map(0, PHYS | PTE_P);
    struct regs r = run((struct regs){.cx = 5, .di = WINDOW, .flags = 2});
    CHECK_TRAP_ERR(14, 3);
    (void)r;
    CHECK_EQ(*(volatile u64 *)PHYS, 12345);
}

void guest_main(void)
{
    pte = pte_of(WINDOW);
    pte_of(WINDOW + 4096);
    against_plain();
    bit_strings();
    cmpxchg();
    cmpxchg8b();
    cmpxchg16b();
    page_faults();
}
