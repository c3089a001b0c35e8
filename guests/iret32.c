// Interrupt and trap gates of both sizes, and the ways back, in 32-bit protected mode: frames between rings, flags, every check of
// gate and code segment with IDT and EXT bits, the DPL checks of INT n, INT3 and INTO; IRET and far RET to outer rings with
// every check, and the data segments that they take away.
//
// QEMU 7.2's TCG differs in 7 checks: targets outside the limit of the code segment (3), error codes without EXT (2), and #NP
// instead of #SS for an absent SS (2).
#include "rings32.h"

const char guest_name[] = "iret32";

#define IDT_ERR(v) ((v)*8 + 2)
#define INT16 6
#define NOT_PRESENT 0x80
#define USER_SP ((word)ring_stack[3] + 512)

BODY(body_iret, "iret");
BODY(body_iretw, "iretw");
BODY(body_flags, "pushf; pop %eax; mov %eax, seen_flags; iret");
static word seen_flags __attribute__((used));

// --- interrupt gates ----------------------------------------------------------------------------------------------------

static word raise_int(word arg)
{
    __asm__ volatile("int $0x91" ::: "memory", "eax");
    return arg;
}

static void between_rings(void)
{
    for (unsigned from = 1; from < 4; from++) {
        for (unsigned to = 0; to < 4; to++) {
            set_gate(VEC, (word)body_iret, (u16)RCODE(to), INT32, 3, 0);
            run_ring(from, raise_int, 7);
            if (to > from) { // outwards there is no way by INT
                CHECK_TRAP_ERR(13, SEL(to));
                continue;
            }
            CHECK_TRAP(LAND);
            CHECK_EQ(ring_result, 7);
            CHECK_EQ(seen_cs, RCODE(to));
            CHECK_EQ(seen_ss, RDATA(to));
            CHECK_EQ(seen_stack[1], RCODE(from));
            CHECK_EQ(seen_stack[2], landed.flags);
            if (to == from)
                continue;
            CHECK_EQ(seen_esp, INNER_TOP(to) - 20);
            CHECK_EQ(seen_stack[4], RDATA(from));
            CHECK(seen_stack[3] > (word)ring_stack[from] && seen_stack[3] < (word)ring_stack[from] + 1024);
        }
    }
    TRY(raise_int(0)); // from ring 0 to ring 3
    CHECK_TRAP_ERR(13, SEL(3));
    // Conforming code does not change the ring.
    set_desc(SEL_X, 0, 0xfffff, 0xc09f);
    set_gate(VEC, (word)body_iret, SEL_X, INT32, 3, 0);
    run_ring(2, raise_int, 7);
    CHECK_TRAP(LAND);
    CHECK_EQ(seen_cs, SEL_X | 2);
    CHECK_EQ(seen_ss, RDATA(2));
}

static void gate_flags(void)
{
    word after;
    for (unsigned type = 14; type < 16; type++) {
        set_gate(VEC, (word)body_flags, SEL_CODE, type, 0, 0);
        __asm__ volatile("push $0x3246; popf; stc; int %1; pushf; push $2; popf; pop %0"
                         : "=r"(after)
                         : "i"(VEC)
                         : "memory", "eax", "cc");
        CHECK_EQ(after & 0xffff, 0x3247);
        CHECK_EQ(seen_stack[2] & 0xffff, 0x3247);
        CHECK_EQ(seen_flags & 0x3f00, type == 15 ? 0x3200 : 0x3000);
    }
    __asm__ volatile("push $0x4002; popf; int %1; pushf; push $2; popf; pop %0"
                     : "=r"(after)
                     : "i"(VEC)
                     : "memory", "eax", "cc");
    CHECK(seen_stack[2] & 0x4000);
    CHECK(!(seen_flags & 0x4000));
    CHECK(after & 0x4000);
}

// 16-bit gates store words; the code that is interrupted needs an EIP below 64 KiB.
__asm__(".text\n"
        "words_int: int $0x91\n"
        "  lret\n");
extern u8 words_int[];

static void sixteen_bit_gates(void)
{
    struct far_ptr p = {0, SEL_Y};
    set_desc(SEL_X, (word)body_iretw, 0xffff, 0x409b);
    set_desc(SEL_Y, (word)words_int, 0xffff, 0x409b);
    for (unsigned type = INT16; type < 8; type++) {
        word before, after;
        set_gate(VEC, 0, SEL_X, type, 0, 0);
        __asm__ volatile("pushl $0x240202; popf; mov %%esp, %0; lcall *%2; sub %%esp, %0; pushf; pop %1; push $2; popf"
                         : "=&r"(before), "=&r"(after)
                         : "m"(p)
                         : "memory", "eax", "cc");
        CHECK_EQ(before, 0);
        CHECK_EQ(after & 0x240202, 0x240202); // the upper half of EFLAGS stays
        const u16 *words = (const u16 *)seen_stack;
        CHECK_EQ(words[0], 2);
        CHECK_EQ(words[1], SEL_Y);
        CHECK_EQ(words[2] & 0x202, 0x202);
    }
}

static void fire(void)
{
    TRY(__asm__ volatile("int $0x91" ::: "memory", "eax"));
}

static void gate_checks(void)
{
    for (unsigned type = 0; type < 16; type++) {
        if (type >= 5 && (type & 7) >= 5 && type != 13) // task gate, and the four that are right
            continue;
        set_gate(VEC, (word)body_iret, SEL_CODE, type, 0, 0);
        fire();
        CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    }
    set_gate(VEC, (word)body_iret, SEL_CODE, INT32, 0, 0);
    gate_absent(VEC);
    fire();
    CHECK_TRAP_ERR(11, IDT_ERR(VEC));
    static const u16 bad[] = {0, SEL_DATA, SEL_TSS, GDT_ENTRIES * 8, 4};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        set_gate(VEC, (word)body_iret, bad[i], INT32, 0, 0);
        fire();
        CHECK_TRAP_ERR(13, bad[i]);
    }
    set_desc(SEL_X, 0, 0xfffff, 0xc09b & ~NOT_PRESENT);
    set_gate(VEC, (word)body_iret, SEL_X, INT32, 0, 0);
    fire();
    CHECK_TRAP_ERR(11, SEL_X);
    set_desc(SEL_X, 0, 0xff, 0x409b); // the target is outside the limit
    fire();
    CHECK_TRAP_ERR(13, 0);
    // EXT: set for faults, not for INT n.
    gate_absent(6);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP_ERR(11, IDT_ERR(6) | 1);
    TRY(__asm__ volatile("int $6"));
    CHECK_TRAP_ERR(11, IDT_ERR(6));
    set_gate(6, 0, SEL_DATA, INT32, 0, 0);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP_ERR(13, SEL_DATA | 1);
    reset_gate(6);
    // The limit of the IDT.
    struct table_reg whole, part;
    __asm__ volatile("sidt %0" : "=m"(whole));
    part = whole;
    part.limit = VEC * 8 + 6;
    __asm__ volatile("lidt %0" ::"m"(part));
    fire();
    __asm__ volatile("lidt %0" ::"m"(whole));
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
}

static word raise_int3(word arg)
{
    __asm__ volatile("int3");
    return arg;
}

static word raise_into(word arg)
{
    __asm__ volatile("add %0, %0; into" ::"r"(arg) : "cc");
    return 7;
}

static word raise_bound(word arg)
{
    i32 limits[2] = {0, 9};
    __asm__ volatile("bound %0, %1" ::"r"(arg), "m"(limits));
    return 7;
}

static void dpl_checks(void)
{
    set_gate(VEC, (word)body_iret, (u16)RCODE(0), INT32, 2, 0);
    run_ring(3, raise_int, 7);
    CHECK_TRAP_ERR(13, IDT_ERR(VEC));
    run_ring(2, raise_int, 7);
    CHECK_TRAP(LAND);
    run_ring(3, raise_int3, 0);
    CHECK_TRAP(3);
    run_ring(3, raise_into, 1);
    CHECK_TRAP(LAND);
    run_ring(3, raise_into, 0x7fffffff);
    CHECK_TRAP(4);
    set_gate(3, (word)gate_stub(3), SEL_CODE, INT32, 0, 0);
    set_gate(4, (word)gate_stub(4), SEL_CODE, INT32, 0, 0);
    run_ring(3, raise_int3, 0);
    CHECK_TRAP_ERR(13, IDT_ERR(3));
    run_ring(3, raise_into, 0x7fffffff);
    CHECK_TRAP_ERR(13, IDT_ERR(4));
    reset_gate(3);
    reset_gate(4);
    run_ring(3, raise_bound, 9); // #BR is a fault: nobody asks for the gate's DPL
    CHECK_TRAP(LAND);
    run_ring(3, raise_bound, 10);
    CHECK_TRAP(5);
    run_ring(3, raise_bound, (word)-1);
    CHECK_TRAP(5);
}

// --- IRET and far RET ---------------------------------------------------------------------------------------------------

static word frame_stack[256];
#define FRAME (frame_stack + 248)

static void iret_to(word cs, word ss)
{
    static word *const f = FRAME;
    f[0] = (word)ring_return;
    f[1] = cs;
    f[2] = 2;
    f[3] = USER_SP;
    f[4] = ss;
    TRY(__asm__ volatile("mov %0, %%esp; iret" ::"r"(f) : "memory"));
}

static void lret_to(word cs, word ss)
{
    static word *const f = FRAME;
    f[0] = (word)ring_return;
    f[1] = cs;
    f[4] = USER_SP; // behind two parameters
    f[5] = ss;
    TRY(__asm__ volatile("mov %0, %%esp; lret $8" ::"r"(f) : "memory"));
}

static void expect(int line, word cs, word ss, int vector, word error)
{
    for (unsigned i = 0; i < 2; i++) {
        if (i)
            lret_to(cs, ss);
        else
            iret_to(cs, ss);
        bool same_ring = (cs & 3) == 0;
        bool ok = trap.vector == vector;
        if (vector == LAND)
            ok = ok && trap.cs == cs && (same_ring || (trap.ss == ss && trap.sp == USER_SP + 8 * i));
        else
            ok = ok && trap.error == error && trap.cs == SEL_CODE;
        check_at(ok, __FILE__, line, "%s %x, %x: trap %d error %x at %x:%x, stack %x:%x", i ? "ret" : "iret", cs, ss,
                 trap.vector, trap.error, trap.cs, trap.ip, trap.ss, trap.sp);
    }
}
#define EXPECT(cs, ss, vector, error) expect(__LINE__, (cs), (ss), (vector), (error))

static u16 put(u32 attr)
{
    set_desc(SEL_X, 0, 0xfffff, attr);
    return SEL_X;
}

static void returns(void)
{
    for (unsigned ring = 0; ring < 4; ring++)
        EXPECT(RCODE(ring), RDATA(ring), LAND, 0);
    EXPECT(put(0xc09f) | 3, RDATA(3), LAND, 0); // conforming, DPL 0
    EXPECT(put(0xc0df) | 2, RDATA(2), LAND, 0); // conforming, DPL 2
    EXPECT(put(0xc0df) | 1, RDATA(1), 13, SEL_X);
    EXPECT(0, RDATA(0), 13, 0);
    EXPECT(3, RDATA(3), 13, 0);
    EXPECT(GDT_ENTRIES * 8 | 3, RDATA(3), 13, GDT_ENTRIES * 8);
    EXPECT(4, RDATA(0), 13, 4);
    EXPECT(RDATA(3), RDATA(3), 13, SEL(7));
    EXPECT(SEL_TSS, RDATA(0), 13, SEL_TSS);
    EXPECT(SEL(0) | 3, RDATA(3), 13, SEL(0)); // DPL below RPL
    EXPECT(SEL(3), RDATA(0), 13, SEL(3));     // DPL above RPL
    EXPECT(put(0xc0fb & ~NOT_PRESENT) | 3, RDATA(3), 11, SEL_X);
    EXPECT(put(0xc09b & ~NOT_PRESENT), RDATA(0), 11, SEL_X);
    set_desc(SEL_Y, 0, 0xff, 0x40fb); // outside the limit
    EXPECT(SEL_Y | 3, RDATA(3), 13, 0);
    // The stack.
    EXPECT(RCODE(3), 0, 13, 0);
    EXPECT(RCODE(3), 3, 13, 0);
    EXPECT(RCODE(3), SEL(7) | 2, 13, SEL(7)); // RPL
    EXPECT(RCODE(3), SEL(6) | 3, 13, SEL(6)); // DPL
    EXPECT(RCODE(3), RCODE(3), 13, SEL(3));   // code
    EXPECT(RCODE(3), put(0xc0f1) | 3, 13, SEL_X);
    EXPECT(RCODE(3), put(0xc073) | 3, 12, SEL_X);
    EXPECT(RCODE(3), GDT_ENTRIES * 8 | 3, 13, GDT_ENTRIES * 8);
}

static word iret_inward(word arg)
{
    __asm__ volatile("pushf; push $0x60; push %0; iret" ::"r"(arg)); // SEL(0)
    return arg;
}

static word lret_inward(word arg)
{
    __asm__ volatile("push $0x60; push %0; lret" ::"r"(arg));
    return arg;
}

// ES, FS and GS in ring `arg` after a far call to a gate whose body loaded them; DS stands for what is flat and allowed.
__asm__(".text\n"
        "load_segments:\n"
        "  mov segments, %es; mov segments+2, %fs; mov segments+4, %gs; mov segments+6, %ds\n"
        "  lret\n");
extern u8 load_segments[];
static u16 segments[4] __attribute__((used));

static word segments_after(word data)
{
    struct far_ptr p = {0, SEL_GATE | 3};
    word es, fs, gs, ds;
    __asm__ volatile("lcall *%4; mov %%es, %0; mov %%fs, %1; mov %%gs, %2; mov %%ds, %3; mov %w5, %%ds; mov %w5, %%es"
                     : "=&r"(es), "=&r"(fs), "=&r"(gs), "=&r"(ds)
                     : "m"(p), "r"(data)
                     : "memory");
    return es | fs << 8 | gs << 16 | ds << 24;
}

// A return takes away what the outer ring may not have: data and readable code with a lower DPL; conforming code stays.
static void lost_segments(void)
{
    gdt[SEL_GATE / 8] =
        ((word)load_segments & 0xffff) | (u64)SEL(0) << 16 | 0xecull << 40 | (u64)((word)load_segments >> 16) << 48;
    put(0xc09f);
    for (unsigned ring = 1; ring < 4; ring++) {
        segments[0] = RDATA(1);
        segments[1] = SEL_X;
        segments[2] = RDATA(2);
        segments[3] = RDATA(0);
        run_ring(ring, segments_after, RDATA(ring));
        CHECK_TRAP(LAND);
        CHECK_EQ(ring_result, (ring <= 1 ? RDATA(1) : 0) | SEL_X << 8 | (ring <= 2 ? RDATA(2) << 16 : 0));
        segments[0] = RCODE(0);
        segments[1] = RDATA(3);
        segments[2] = RCODE(3);
        segments[3] = RCODE(1);
        run_ring(ring, segments_after, RDATA(ring));
        CHECK_TRAP(LAND);
        CHECK_EQ(ring_result, RDATA(3) << 8 | RCODE(3) << 16 | (ring <= 1 ? (word)RCODE(1) << 24 : 0));
    }
    __asm__ volatile("mov %w0, %%fs; mov %w0, %%gs" ::"r"(0));
}

void guest_main(void)
{
    rings_init();
    between_rings();
    gate_flags();
    sixteen_bit_gates();
    gate_checks();
    dpl_checks();
    returns();
    run_ring(3, iret_inward, (word)ring_return);
    CHECK_TRAP_ERR(13, SEL(0));
    run_ring(3, lret_inward, (word)ring_return);
    CHECK_TRAP_ERR(13, SEL(0));
    lost_segments();
}
