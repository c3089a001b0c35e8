// Descriptor tables in 32-bit protected mode: LAR, LSL, VERR and VERW over all 32 types at every privilege, LLDT and segments,
// code and gates of the LDT, LTR, ARPL.
//
// QEMU 7.2's TCG differs in 1 check: LTR takes a null selector.
#include "rings32.h"

const char guest_name[] = "desc32";

#define PRESENT 0x80
#define SYSTEM(type) (PRESENT | (type))

// --- LAR, LSL, VERR, VERW -----------------------------------------------------------------------------------------------

struct answers {
    bool lar, lsl, verr, verw;
    u32 lar_value, lsl_value;
};

static struct answers got; // written from every ring: one result word is not enough

static word query(word sel)
{
    struct answers a = {.lar_value = 0xdeadbeef, .lsl_value = 0xdeadbeef};
    __asm__ volatile("lar %2, %0" : "+r"(a.lar_value), "=@ccz"(a.lar) : "r"(sel));
    __asm__ volatile("lsl %2, %0" : "+r"(a.lsl_value), "=@ccz"(a.lsl) : "r"(sel));
    __asm__ volatile("verr %w1" : "=@ccz"(a.verr) : "r"(sel));
    __asm__ volatile("verw %w1" : "=@ccz"(a.verw) : "r"(sel));
    got = a;
    return 1;
}

// SDM 2A LAR, LSL; 2B VERR.
static struct answers expected(unsigned type, unsigned dpl, unsigned rpl, unsigned cpl)
{
    static const u16 lar_system = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
    static const u16 lsl_system = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
    bool system = type < 16, code = !system && type & 8;
    bool conforming = code && type & 4;
    bool visible = conforming || (dpl >= rpl && dpl >= cpl);
    return (struct answers){
        .lar = visible && (!system || lar_system >> type & 1),
        .lsl = visible && (!system || lsl_system >> type & 1),
        .verr = visible && !system && (!code || type & 2),
        .verw = visible && !system && !code && type & 2,
    };
}

static void one_query(unsigned type, unsigned dpl, unsigned rpl, unsigned cpl, bool present)
{
    u32 attr = type | dpl << 5 | (present ? PRESENT : 0) | 0xd000;
    set_desc(SEL_X, 0x12345678, 0x54321, attr);
    if (cpl)
        run_ring(cpl, query, SEL_X | rpl);
    else
        query(SEL_X | rpl);
    struct answers want = expected(type, dpl, rpl, cpl);
    u32 lar = 0xdeadbeef, lsl = 0xdeadbeef;
    if (want.lar)
        lar = (u32)(gdt[SEL_X / 8] >> 32) & 0xf0ff00;
    if (want.lsl)
        lsl = 0x54321fff;
    u32 lar_mask = want.lar ? 0xfff0ffff : ~0u; // limit bits 19:16 are undefined
    bool ok = got.lar == want.lar && got.lsl == want.lsl && got.verr == want.verr && got.verw == want.verw;
    ok = ok && (got.lar_value & lar_mask) == lar && got.lsl_value == lsl;
    check_at(ok, __FILE__, __LINE__, "type %x dpl %u rpl %u cpl %u: lar %d %x lsl %d %x verr %d verw %d", type, dpl,
             rpl, cpl, got.lar, got.lar_value, got.lsl, got.lsl_value, got.verr, got.verw);
}

static void all_types(void)
{
    for (unsigned type = 0; type < 32; type++) {
        for (unsigned n = 0; n < 64; n++)
            one_query(type, n & 3, n >> 2 & 3, n >> 4, n & 1); // presence does not count
    }
}

static void odd_selectors(void)
{
    static const u16 none[] = {0, 3, GDT_ENTRIES * 8, 0xfff8, 4, 0x14};
    for (unsigned i = 0; i < sizeof none / sizeof none[0]; i++) {
        query(none[i]);
        CHECK(!got.lar && !got.lsl && !got.verr && !got.verw);
        CHECK_EQ(got.lar_value, 0xdeadbeef);
        CHECK_EQ(got.lsl_value, 0xdeadbeef);
    }
    // 16-bit operands: the lower half, the upper one stays.
    u32 lar = 0xdeadbeef, lsl = 0xdeadbeef;
    set_desc(SEL_X, 0, 0x54321, 0x4093);
    __asm__ volatile("larw %w2, %w0; lslw %w2, %w1" : "+r"(lar), "+r"(lsl) : "r"(SEL_X));
    CHECK_EQ(lar, 0xdead9300);
    CHECK_EQ(lsl, 0xdead4321);
}

// --- LDT ----------------------------------------------------------------------------------------------------------------

static u64 ldt[8] __attribute__((aligned(8)));
static u32 value = 0x600d;

static void lldt(u16 sel)
{
    __asm__ volatile("lldt %w0" ::"r"(sel) : "memory");
}

static u16 sldt(void)
{
    u16 sel;
    __asm__ volatile("sldt %0" : "=r"(sel));
    return sel;
}

__attribute__((noinline)) static void ltr(u16 sel)
{
    TRY(__asm__ volatile("ltr %w0" ::"r"(sel)));
}

static void load_fs(u16 sel)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(sel) : "memory");
}

static u32 fs_read(void)
{
    u32 v;
    __asm__ volatile("mov %%fs:0, %0" : "=r"(v));
    return v;
}

static word user_lldt(word sel)
{
    lldt((u16)sel);
    return 1;
}

static word user_sldt(word arg)
{
    return sldt() + arg;
}

static void expect_lldt(u16 sel, int vector, word error)
{
    TRY(lldt(sel));
    CHECK_TRAP_ERR(vector, error);
    CHECK_EQ(sldt(), SEL_Y); // unchanged
}

static void ldt_loads(void)
{
    set_desc(SEL_Y, (word)ldt, 4 * 8 - 1, SYSTEM(2));
    TRY(lldt(SEL_Y));
    CHECK_TRAP(-1);
    CHECK_EQ(sldt(), SEL_Y);
    expect_lldt(SEL_DATA, 13, SEL_DATA);
    expect_lldt(SEL_TSS, 13, SEL_TSS);
    expect_lldt(SEL_Y | 4, 13, SEL_Y | 4); // not from the LDT
    expect_lldt(GDT_ENTRIES * 8, 13, GDT_ENTRIES * 8);
    set_desc(SEL_X, (word)ldt, 31, 2);
    expect_lldt(SEL_X, 11, SEL_X);
    run_ring(3, user_lldt, SEL_Y);
    CHECK_TRAP_ERR(13, 0);
    run_ring(3, user_sldt, 0);
    CHECK_EQ(ring_result, SEL_Y);
}

static void ldt_segments(void)
{
    ldt[0] = ldt[1] = make_desc((word)&value, 3, 0x40f3); // entry 0 of an LDT is an entry like the others
    ldt[2] = make_desc(0, 0xfffff, 0xc0fb);
    ldt[3] = make_desc((word)&value, 3, 0x4073);
    ldt[4] = ldt[1];
    TRY(load_fs(4 | 3));
    CHECK_TRAP(-1);
    CHECK_EQ(fs_read(), 0x600d);
    TRY(load_fs(0x1f)); // not present
    CHECK_TRAP_ERR(11, 0x1c);
    TRY(load_fs(0x24)); // outside the LDT
    CHECK_TRAP_ERR(13, 0x24);
    TRY(load_fs(0x0c));
    CHECK_TRAP(-1);
    ldt[1] = 0; // the register keeps what it loaded
    CHECK_EQ(fs_read(), 0x600d);
    // Ring 3 code from the LDT.
    TRY(__asm__ volatile("push %0; push %1; push $2; push $0x17; push %2; iret" ::"r"(RDATA(3)),
                         "r"((word)ring_stack[3] + 512), "r"(ring_return)
                         : "memory"));
    CHECK_TRAP(LAND);
    CHECK_EQ(landed.cs, 0x17);
    // An interrupt handler's code from the LDT, and a call gate in it.
    set_gate(VEC, (word)ring_return, 0x14, INT32, 3, 0); // DPL 3: not from ring 0
    TRY(__asm__ volatile("int $0x91"));
    CHECK_TRAP_ERR(13, 0x14);
    ldt[2] = make_desc(0, 0xfffff, 0xc09b);
    TRY(__asm__ volatile("int $0x91"));
    CHECK_TRAP(LAND);
    CHECK_EQ(landed.cs, 0x14);
    ldt[1] = ((word)ring_return & 0xffff) | 0x14ull << 16 | 0x8cull << 40 | (u64)((word)ring_return >> 16) << 48;
    TRY(__asm__ volatile("lcall $0x0c, $0"));
    CHECK_TRAP(LAND);
    CHECK_EQ(landed.cs, 0x14);
    // System segments are not found in it.
    ldt[3] = make_desc((word)&tss, 103, SYSTEM(9));
    ltr(0x1c);
    CHECK_TRAP_ERR(13, 0x1c);
    // The LDT itself is cached too; without one, its selectors fault.
    gdt[SEL_Y / 8] = 0;
    TRY(load_fs(4));
    CHECK_TRAP(-1);
    lldt(3);
    CHECK_EQ(sldt(), 3);
    TRY(load_fs(4));
    CHECK_TRAP_ERR(13, 4);
    load_fs(0);
}

// --- LTR ----------------------------------------------------------------------------------------------------------------

static void task_register(void)
{
    static const u8 types[] = {0, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 0x12, 0x1a};
    u16 tr;
    for (unsigned i = 0; i < sizeof types; i++) {
        set_desc(SEL_X, (word)&tss, 103, SYSTEM(types[i]));
        ltr(SEL_X);
        if (trap.vector != 13 || trap.error != SEL_X)
            break; // the check below tells
    }
    CHECK_TRAP_ERR(13, SEL_X);
    ltr(0);
    CHECK_TRAP_ERR(13, 0);
    set_desc(SEL_X, (word)&tss, 103, 9);
    ltr(SEL_X);
    CHECK_TRAP_ERR(11, SEL_X);
    for (unsigned type = 1; type < 10; type += 8) { // available, of 16 and 32 bits
        set_desc(SEL_X, (word)&tss, 103, SYSTEM(type));
        ltr(SEL_X);
        CHECK_TRAP(-1);
        CHECK_EQ(gdt[SEL_X / 8] >> 40 & 15, type | 2); // busy now
    }
    __asm__ volatile("str %0" : "=r"(tr));
    CHECK_EQ(tr, SEL_X);
    run_ring(3, user_sldt, 0); // the new one works
    CHECK_TRAP(LAND);
}

// --- ARPL ---------------------------------------------------------------------------------------------------------------

static void arpl(void)
{
    for (unsigned n = 0; n < 16; n++) {
        u16 to = 0xabc0 | (n & 3), from = 0x1230 | (n >> 2);
        bool adjusted;
        u16 memory = to;
        __asm__ volatile("arpl %2, %0" : "+m"(memory), "=@ccz"(adjusted) : "r"(from));
        bool want = (n & 3) < n >> 2;
        CHECK_EQ(adjusted, want);
        CHECK_EQ(memory, want ? 0xabc0 | n >> 2 : to);
    }
}

void guest_main(void)
{
    rings_init();
    lldt(0); // a reset leaves one at address 0
    all_types();
    odd_selectors();
    ldt_loads();
    ldt_segments();
    task_register();
    arpl();
}
