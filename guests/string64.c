// String instructions over pages: operands that need the same entry of a direct-mapped TLB, that overlap, also by two linear addresses
// of one page, that begin and end anywhere in their pages; faults in the middle, which leave what has been done and the registers
// that say so.
#include "code.h"

const char guest_name[] = "string64";

#define AREA 0x01000000u // 16 MiB on: free memory
#define LOW(i) ((u8 *)(u64)(AREA + (i)))

struct regs {
    u64 ax, cx, si, di;
    word flags;
};

enum { MOVSB, MOVSQ, REP_MOVSB, REP_MOVSW, REP_MOVSQ, REP_STOSB, REP_STOSL, REPE_CMPSB, REPE_CMPSL, REPNE_SCASB, WAYS };

static void run(unsigned way, struct regs *r)
{
#define RUN(text) \
    __asm__ volatile(text "\n\tpushf; pop %4" \
                     : "+a"(r->ax), "+c"(r->cx), "+S"(r->si), "+D"(r->di), "=r"(r->flags) \
                     : \
                     : "memory", "cc"); \
    break
    switch (way) {
    case MOVSB: RUN("movsb");
    case MOVSQ: RUN("movsq");
    case REP_MOVSB: RUN("rep movsb");
    case REP_MOVSW: RUN("rep movsw");
    case REP_MOVSQ: RUN("rep movsq");
    case REP_STOSB: RUN("rep stosb");
    case REP_STOSL: RUN("rep stosl");
    case REPE_CMPSB: RUN("repe cmpsb");
    case REPE_CMPSL: RUN("repe cmpsl");
    default: RUN("repne scasb");
    }
#undef RUN
}

static unsigned size_of(unsigned way)
{
    return way == MOVSQ || way == REP_MOVSQ ? 8 : way == REP_STOSL || way == REPE_CMPSL ? 4 : way == REP_MOVSW ? 2 : 1;
}

static void fill(u8 *at, unsigned n, unsigned seed)
{
    for (unsigned i = 0; i < n; i++)
        ((volatile u8 *)at)[i] = (u8)((i * 7 + seed) % 251);
}

static bool same(const u8 *a, const u8 *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (((const volatile u8 *)a)[i] != ((const volatile u8 *)b)[i])
            return false;
    return true;
}

// --- two operands, one entry ------------------------------------------------------------------------------------------------

static void one_entry(void)
{
    for (unsigned shift = 18; shift < 24; shift++) {
        u8 *src = LOW(0x100), *dst = LOW(0x100 + (1u << shift) % 0xf00000);
        for (unsigned way = 0; way < WAYS; way++) {
            struct regs r = {.ax = 0x5a, .cx = 16, .si = (u64)src, .di = (u64)dst};
            fill(src, 256, way);
            fill(dst, 256, way);
            run(way, &r);
            bool repeated = way >= REP_MOVSB, compares = way >= REPE_CMPSB;
            unsigned moved = (repeated ? 16 : 1) * size_of(way);
            if (way == REP_STOSB || way == REP_STOSL) {
                CHECK_EQ(*(volatile u8 *)dst, 0x5a);
            } else if (!compares) {
                CHECK(same(src, dst, 256));
            }
            if (way != REPNE_SCASB)
                CHECK_EQ(r.di, (u64)dst + moved);
            if (repeated && way != REPNE_SCASB)
                CHECK_EQ(r.cx, 0);
        }
    }
}

// --- anywhere in the pages ----------------------------------------------------------------------------------------------------

static void anywhere(void)
{
    static const unsigned lengths[] = {0, 1, 7, 8, 63, 64, 100, 4095, 4096, 4097, 9000};
    static const unsigned offsets[] = {0, 1, 8, 2048, 4088, 4095};
    for (unsigned l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (unsigned o = 0; o < 36; o++) {
            u8 *src = LOW(offsets[o % 6]), *dst = LOW(0x8000 + offsets[o / 6]);
            unsigned n = lengths[l];
            fill(src, n + 8, o);
            fill(dst - 8, n + 16, 100);
            struct regs r = {.cx = n, .si = (u64)src, .di = (u64)dst};
            run(REP_MOVSB, &r);
            CHECK(same(src, dst, n) && r.cx == 0 && r.si == (u64)src + n && r.di == (u64)dst + n);
            CHECK(dst[-1] == (7 * 7 + 100) % 251 && dst[n] == ((n + 8) * 7 + 100) % 251);
            if (!n)
                continue;
            r = (struct regs){.cx = n, .si = (u64)src, .di = (u64)dst};
            run(REPE_CMPSB, &r);
            CHECK(r.cx == 0 && r.flags & 0x40);
            dst[n - 1] ^= 1;
            r = (struct regs){.cx = n + 5, .si = (u64)src, .di = (u64)dst};
            run(REPE_CMPSB, &r);
            CHECK(r.cx == 5 && !(r.flags & 0x40) && r.di == (u64)dst + n);
            r = (struct regs){.ax = 0, .cx = n, .di = (u64)dst};
            run(REP_STOSB, &r);
            dst[n] = 0xee;
            r = (struct regs){.ax = 0xee, .cx = ~0ull, .di = (u64)dst};
            run(REPNE_SCASB, &r);
            CHECK(r.cx == ~0ull - n - 1 && r.flags & 0x40);
        }
}

// A comparison of nothing leaves the flags.
static void nothing(void)
{
    u64 set, clear;
    __asm__ volatile(
        "xor %%ecx, %%ecx; stc; repe cmpsb; setc %%al; movzbl %%al, %%eax; mov %%rax, %0; xor %%ecx, %%ecx; clc; "
        "repne scasb; setc %%al; movzbl %%al, %%eax; mov %%rax, %1"
        : "=&r"(set), "=&r"(clear)
        : "S"(AREA), "D"(AREA)
        : "rax", "rcx", "cc");
    CHECK_EQ(set, 1);
    CHECK_EQ(clear, 0);
}

// --- overlapping ------------------------------------------------------------------------------------------------------------

// A copy onto itself a little further on repeats the first bytes, through either address of the memory.
static void overlapping(void)
{
    for (unsigned k = 0; k < 2; k++)
        for (unsigned apart = 1; apart < 70; apart += apart < 10 ? 1 : 9) {
            u8 *dst = (k ? alias : code) + 4000 + apart;
            fill(code + 4000, 600, apart);
            struct regs r = {.cx = 500, .si = (u64)code + 4000, .di = (u64)dst};
            run(REP_MOVSB, &r);
            bool right = true;
            for (unsigned i = 0; i < 500 + apart; i++)
                right &= code[4000 + i] == (i % apart * 7 + apart) % 251;
            CHECK(right);
            CHECK_EQ(r.di, (u64)dst + 500);
        }
}

// --- faults -------------------------------------------------------------------------------------------------------------------

struct trap_frame at_fault;    // not static: the compiler must not think that nobody else changes it
static volatile unsigned mend; // page to map again
static bool on_fault(struct trap_frame *f)
{
    at_fault = *f;
    map_back(mend);
    return true;
}

static void faulting(void)
{
    trap_handler[14] = on_fault;
    for (unsigned way = REP_MOVSB; way < WAYS; way++)
        for (unsigned i = 0; i < 12; i++) {
            unsigned size = size_of(way), before = 16 * (i + 1);
            u8 *src = code + 4096 - 32, *dst = code + 3 * 4096 - before;
            bool stores = way <= REP_STOSL, fills = way == REP_STOSB || way == REP_STOSL;
            fill(src, 512, 1);
            fill(dst, 512, way == REPE_CMPSB || way == REPE_CMPSL ? 1 : 3);
            unsigned count = 400 / size;
            mend = 3;
            map(3, i & 1 ? 0 : PHYS + 3 * 4096);
            struct regs r = {.ax = 0xff, .cx = count, .si = (u64)src, .di = (u64)dst};
            at_fault = (struct trap_frame){.vector = 0};
            run(way, &r);
            CHECK_EQ(at_fault.vector, 14);
            CHECK_EQ(at_fault.rcx, count - before / size);
            CHECK_EQ(at_fault.rdi, (u64)code + 3 * 4096);
            CHECK_EQ(at_fault.rsi, (u64)src + (fills || way == REPNE_SCASB ? 0 : before));
            CHECK_EQ(at_fault.error & 2, stores ? 2 : 0);
            CHECK_EQ(r.cx, 0);
            CHECK_EQ(r.di, (u64)dst + count * size);
            if (stores && !fills)
                CHECK(same(src, dst, count * size));
        }
    trap_handler[14] = NULL;
}

void guest_main(void)
{
    code_init();
    one_entry();
    anywhere();
    nothing();
    overlapping();
    faulting();
}
