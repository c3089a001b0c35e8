// Hot code under observation: breakpoints at every instruction of a loop that has run for long, single-stepping into it, through it and
// out of it, watched data, general detect, and interrupts of the local APIC's timer after ever longer times, so that every instruction
// gets its turn. Whatever the loop computes must come out the same.
#include "code.h"

const char guest_name[] = "smcdebug64";

#define FL_TF 0x100u
#define FL_RF 0x10000u
#define LOOPS 1000u
#define HEAT 20000u

#define LAPIC 0xfee00000ul
#define VEC_TIMER 0x40

// XOR EAX, EAX; MOV ECX, EDI; L: ADD EAX, ECX; CALL F; INC DWORD [RSI]; CMP ECX, 1; SETE DL; DEC ECX; JNZ L; RET; F: LEA EAX, [RAX + 1]; RET
static const u8 loop[] = {0x31, 0xc0, 0x89, 0xf9, 0x01, 0xc8, 0xe8, 0x0d, 0x00, 0x00, 0x00, 0xff, 0x06, 0x83,
                          0xf9, 0x01, 0x0f, 0x94, 0xc2, 0xff, 0xc9, 0x75, 0xed, 0xc3, 0x8d, 0x40, 0x01, 0xc3};
static const u8 starts[] = {0, 2, 4, 6, 11, 13, 16, 19, 21, 23, 24, 27}; // its instructions
#define INSNS sizeof starts
#define IN_LOOP(k) ((k) >= 2 && (k) != 9)
#define SUM(n) ((n) * ((n) + 1) / 2 + (n))
#define STEPS(n) (3 + 9 * (n)) // instructions that it executes

static u32 counter;

static u32 run_loop(u32 n)
{
    u64 result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(code), "D"((u64)n), "S"(&counter) : "rcx", "rdx", "memory", "cc");
    return (u32)result;
}

// --- debug exceptions ---------------------------------------------------------------------------------------------------

static unsigned hits, hits_at[sizeof loop];
static word dr6_seen;

static bool on_debug(struct trap_frame *f)
{
    hits++;
    dr6_seen |= read_dr6();
    write_dr6(0xffff0ff0);
    if (f->ip - (word)code < sizeof loop)
        hits_at[f->ip - (word)code]++;
    f->flags |= FL_RF;
    return true;
}

static void forget(void)
{
    hits = 0;
    dr6_seen = 0;
    for (unsigned i = 0; i < sizeof loop; i++)
        hits_at[i] = 0;
}

static void breakpoints(void)
{
    for (unsigned k = 0; k < INSNS; k++) {
        CHECK_EQ(run_loop(HEAT), SUM(HEAT)); // hot before
        forget();
        write_dr0((word)code + starts[k]);
        write_dr7(0x402);
        u32 result = run_loop(LOOPS);
        write_dr7(0x400);
        CHECK_EQ(result, SUM(LOOPS));
        CHECK_EQ(hits, IN_LOOP(k) ? LOOPS : 1);
        CHECK_EQ(hits_at[starts[k]], hits);
        CHECK_EQ(dr6_seen & 15, 1);
        forget();
        CHECK_EQ(run_loop(LOOPS), SUM(LOOPS)); // and not after
        CHECK_EQ(hits, 0);
    }
    // All four, on instructions that follow each other, and one on no instruction's first byte.
    forget();
    write_dr0((word)code + starts[2]);
    write_dr1((word)code + starts[3]);
    write_dr2((word)code + starts[10]);
    write_dr3((word)code + starts[7] + 1);
    write_dr7(0x4aa);
    u32 result = run_loop(LOOPS);
    write_dr7(0x400);
    CHECK_EQ(result, SUM(LOOPS));
    CHECK_EQ(hits, 3 * LOOPS);
    CHECK_EQ(dr6_seen & 15, 7);
}

// Set by the code itself: the very next instruction is one with a breakpoint.
static void breakpoint_ahead(void)
{
    // MOV DR7, RDX; NOP; NOP; RET
    PUT(code + 0x100, 0x0f, 0x23, 0xfa, 0x90, 0x90, 0xc3);
    for (unsigned i = 0; i < 6; i++) {
        forget();
        write_dr0((word)code + 0x103 + i / 2);
        __asm__ volatile("call *%0" ::"r"(code + 0x100), "d"(i & 1 ? 0x402ul : 0x400ul) : "memory");
        write_dr7(0x400);
        CHECK_EQ(hits, i & 1);
    }
}

// Data that hot code writes or reads is watched.
static void watchpoints(void)
{
    static const u32 dr7[4] = {0x000d0402, 0x000f0402, 0x000d0402, 0x00050402}; // 4 bytes written, accessed; 2 bytes
    for (unsigned i = 0; i < 4; i++) {
        run_loop(HEAT);
        forget();
        write_dr0((word)&counter);
        write_dr7(dr7[i]);
        u32 result = run_loop(LOOPS);
        write_dr7(0x400);
        CHECK_EQ(result, SUM(LOOPS));
        CHECK_EQ(hits, LOOPS);
        CHECK_EQ(hits_at[starts[5]], LOOPS); // traps after INC
        forget();
        write_dr0((word)&counter + 4);
        write_dr7(dr7[i]);
        run_loop(LOOPS);
        write_dr7(0x400);
        CHECK_EQ(hits, 0);
    }
}

static void general_detect(void)
{
    PUT(code + 0x120, 0x0f, 0x21, 0xc0, 0xc3); // MOV RAX, DR0
    for (unsigned i = 0; i < 4; i++) {
        write_dr7(i & 1 ? 0x2400 : 0x400);
        trap_fn *saved = trap_handler[1];
        trap_handler[1] = NULL;
        try_call(code + 0x120);
        trap_handler[1] = saved;
        CHECK_TRAP(i & 1 ? 1 : -1);
        write_dr6(0xffff0ff0);
        write_dr7(0x400);
    }
}

// --- single step --------------------------------------------------------------------------------------------------------

static void single_step(void)
{
    run_loop(HEAT);
    for (unsigned i = 0; i < 3; i++) {
        u64 result;
        forget();
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; call *%1; pushf; andl $~0x100, (%%rsp); popf"
                         : "=a"(result)
                         : "r"(code), "D"(100ul), "S"(&counter)
                         : "rcx", "rdx", "memory", "cc");
        CHECK_EQ(result, SUM(100));
        CHECK_EQ(hits, STEPS(100) + 4); // CALL, and PUSHF, AND, POPF
        CHECK(dr6_seen & 0x4000);
        for (unsigned k = 2; k < INSNS; k++)
            CHECK_EQ(hits_at[starts[k]], IN_LOOP(k) ? 100 : 1);
        run_loop(HEAT);
    }
}

// TF set in the middle of a hot loop, by the handler of a breakpoint, for five instructions.
static unsigned stepping;
static word stepped[8];

static bool on_step(struct trap_frame *f)
{
    write_dr6(0xffff0ff0);
    if (!(f->flags & FL_TF)) {
        stepping = 0;
        f->flags |= FL_TF | FL_RF;
        write_dr7(0x400);
        return true;
    }
    if (stepping < 8)
        stepped[stepping++] = f->ip - (word)code;
    if (stepping == 5)
        f->flags &= ~(word)FL_TF;
    return true;
}

static void step_for_a_while(void)
{
    trap_handler[1] = on_step;
    for (unsigned k = 2; k < 9; k++) {
        CHECK_EQ(run_loop(HEAT), SUM(HEAT));
        write_dr0((word)code + starts[k]);
        write_dr7(0x402);
        CHECK_EQ(run_loop(LOOPS), SUM(LOOPS));
        CHECK_EQ(stepping, 5);
        static const u8 path[] = {4, 6, 24, 27, 11, 13, 16, 19, 21, 4, 6, 24, 27, 11, 13};
        unsigned at = 0;
        while (path[at] != starts[k])
            at++;
        for (unsigned i = 0; i < 5; i++)
            CHECK_EQ(stepped[i], path[at + 1 + i]);
        write_dr7(0x400);
    }
    trap_handler[1] = on_debug;
}

// --- interrupts at every instruction ------------------------------------------------------------------------------------

static volatile u32 ticks, outside, next_count;
static u32 ticks_at[sizeof loop];

static u32 lapic_read(unsigned reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

// One shot after another, each a little longer than the one before, round and round.
static bool on_timer(struct trap_frame *f)
{
    word off = f->ip - (word)code;
    ticks++;
    if (off < sizeof loop)
        ticks_at[off]++;
    else
        outside++;
    next_count = next_count >= 4000 ? 1 : next_count + 1 + next_count / 16;
    lapic_write(0xb0, 0);
    lapic_write(0x380, next_count);
    return true;
}

static void timer_storm(void)
{
    unsigned wrong = 0, odd = 0;
    trap_handler[VEC_TIMER] = on_timer;
    lapic_write(0xf0, 0x1ff);
    lapic_write(0x3e0, 0xb); // as fast as it can be
    lapic_write(0x320, VEC_TIMER);
    next_count = 1;
    lapic_write(0x380, 1);
    counter = 0;
    __asm__ volatile("sti");
    u32 rounds = 0;
    for (; (rounds < 2000 && ticks < 3000) || (ticks <= 20 && rounds < 2000000); rounds++) // an engine may be fast
        wrong += run_loop(LOOPS) != SUM(LOOPS);
    __asm__ volatile("cli");
    lapic_write(0x320, 0x10000);
    CHECK_EQ(wrong, 0);
    CHECK_EQ(counter, rounds * LOOPS);
    CHECK(ticks > 20);
    for (unsigned i = 0; i < sizeof loop; i++) { // only at instructions
        bool start = false;
        for (unsigned k = 0; k < INSNS; k++)
            start |= starts[k] == i;
        odd += start ? 0 : ticks_at[i];
    }
    CHECK_EQ(odd, 0);
}

// With interrupts closed most of the time: STI; NOP; CLI opens them after NOP, STI; CLI never, and POPF at once.
static volatile word tick_ip;

static bool on_tick(struct trap_frame *f)
{
    tick_ip = f->ip - (word)code;
    lapic_write(0xb0, 0);
    return true;
}

static void interrupt_windows(void)
{
    static const struct {
        u8 bytes[8];
        i32 at; // where the interrupt comes, or -1
    } windows[] = {{{0xfb, 0x90, 0xfa, 0xc3}, 2}, {{0xfb, 0xfa, 0x90, 0xc3}, -1}, {{0x53, 0x9d, 0xfa, 0xc3}, 2}};
    trap_handler[VEC_TIMER] = on_tick;
    lapic_write(0x380, 0); // the storm is over, but for one that is pending
    __asm__ volatile("sti; nop; cli");
    lapic_write(0x320, VEC_TIMER);
    for (unsigned w = 0; w < sizeof windows / sizeof *windows; w++) {
        put_bytes(code + 0x200 + 16 * w, windows[w].bytes, 8);
        for (unsigned i = 0; i < 6; i++) {
            bool pending = i & 1;
            tick_ip = ~(word)0;
            if (pending) {
                lapic_write(0x380, 1);
                while (!(lapic_read(0x220) & 1)) // IRR, vector 40
                    ;
            }
            __asm__ volatile("call *%0" ::"r"(code + 0x200 + 16 * w), "b"(0x202ul) : "memory", "cc");
            word want = pending && windows[w].at >= 0 ? 0x200 + 16 * w + (word)windows[w].at : ~(word)0;
            CHECK_EQ(tick_ip, want);
            if (pending && windows[w].at < 0) // take it
                __asm__ volatile("sti; nop; cli");
        }
    }
    lapic_write(0x320, 0x10000);
}

void guest_main(void)
{
    code_init();
    put_bytes(code, loop, sizeof loop);
    trap_handler[1] = on_debug;
    breakpoints();
    breakpoint_ahead();
    watchpoints();
    general_detect();
    single_step();
    step_for_a_while();
    timer_storm();
    interrupt_windows();
}
