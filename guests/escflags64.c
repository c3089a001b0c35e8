// The flags in the frames of exceptions: every kind of instruction that sets flags, then up to three that leave them alone but overwrite
// what they were made of, then one that traps. The frame must have what PUSHF right after the first would have given. In place of what
// traps there are also instructions that look at flags, alone, in pairs and in loops: they must find what POPF brings back right before them.
//
// QEMU's TCG is no peer: it faults where a jump has gone to, and not at the jump.
#include "code.h"

const char guest_name[] = "escflags64";

#define REGION 0x01000000ul // code goes here, some 5 KB for each producer
#define ABSENT 0x60000000ul
#define NON_CANONICAL 0x0000900000000000ull
#define READERS_EACH 18 // a third of them right behind the producer
#define FL_COMPARED 0xcd5u

struct text {
    const u8 *from, *to;
    const char *name;
    u64 vector, where;
};
enum { AT, AFTER, ELSEWHERE }; // where IP is

#define TEXT(table, text, vector, where) \
    __asm__(".pushsection .rodata.code, \"a\"; 771: " text "; 772: .popsection\n" \
            ".pushsection .rodata.names, \"a\"; 773: .asciz \"" text "\"; .popsection\n" \
            ".pushsection .rodata." table ", \"a\"; .quad 771b, 772b, 773b, " #vector ", " #where "; .popsection");
#define PRODUCER(text) TEXT("producers", text, 0, 0)
#define NEUTRAL(text) TEXT("neutrals", text, 0, 0)
#define TRAPS(vector, where, text) TEXT("traps", text, vector, where)
#define READER(text) TEXT("readers", text, 0, 0)
#define LABEL(table, label) __asm__(".pushsection .rodata." table ", \"a\"; .globl " label "; " label ": .popsection");

__asm__(".set AT, 0; .set AFTER, 1; .set ELSEWHERE, 2");
LABEL("producers", "producers")
LABEL("neutrals", "neutrals")
LABEL("traps", "traps")
LABEL("readers", "readers")
#include "escflags64_ways.def"
LABEL("producers", "producers_end")
LABEL("neutrals", "neutrals_end")
LABEL("traps", "traps_end")
LABEL("readers", "readers_end")
extern const struct text producers[], producers_end[], neutrals[], neutrals_end[], traps[], traps_end[];
extern const struct text readers[], readers_end[];

static u64 scratch[4] __attribute__((aligned(16)));

struct values {
    u64 a, b, c, m, flags;
};

static u32 seed = 99;

static u64 next_random(void)
{
    u64 v = 0;
    for (unsigned i = 0; i < 4; i++) {
        seed = seed * 1664525 + 1013904223;
        v = v << 16 | seed >> 16;
    }
    return v;
}

static u64 next_value(void)
{
    static const u64 some[] = {0,
                               1,
                               0x7f,
                               0x80,
                               0xff,
                               0x7fff,
                               0x8000,
                               0xffff,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0xffffffffffffffff,
                               0x0f0f0f0f0f0f0f0f,
                               0x8080808080808080};
    u64 r = next_random();
    return r & 3 ? some[r >> 8 & 15] : next_random();
}

static void load_scratch(const struct values *v)
{
    for (unsigned i = 0; i < 4; i++)
        ((volatile u64 *)scratch)[i] = i ? v->m * 3 : v->m;
}

u8 stack[4096] __attribute__((aligned(16)));
u64 stack_pointer;

// What calls it: all registers of `v` and others, flags, and the same stack each time.
#define CALL_TEXT \
    "push %%rbp; mov %%rsp, stack_pointer; mov $stack + 4096, %%rsp; mov (%%rsi), %%rax; mov 8(%%rsi), %%rcx; mov 16(%%rsi), %%rdx; mov %%rdi, %%rbp\n" \
    "mov %%rax, %%r10; mov %%rax, %%r11; mov %%rcx, %%r15; xor %%r9d, %%r9d; pushq 32(%%rsi); popf\n" \
    "mov $0x1122334455667788, %%rsi; call *%%rbp; mov stack_pointer, %%rsp; pop %%rbp; cld"
#define CALL_CLOBBERS "rax", "rcx", "rdx", "r9", "r10", "r11", "r14", "r15", "memory", "cc"

__attribute__((noinline)) static void run(const u8 *fn, const struct values *v)
{
    load_scratch(v);
    TRY({
        register u64 r8 __asm__("r8") = ABSENT;
        register u64 r12 __asm__("r12") = NON_CANONICAL;
        const struct values *rsi = v;
        const u8 *rdi = fn;
        __asm__ volatile(CALL_TEXT : "+S"(rsi), "+D"(rdi) : "b"(scratch), "r"(r8), "r"(r12) : "r13", CALL_CLOBBERS);
    });
}

// The flags that PUSHF gives: in R13.
__attribute__((noinline)) static u64 expected(const u8 *fn, const struct values *v)
{
    register u64 r13 __asm__("r13");
    const struct values *rsi = v;
    const u8 *rdi = fn;
    load_scratch(v);
    __asm__ volatile(CALL_TEXT : "=r"(r13), "+S"(rsi), "+D"(rdi) : "b"(scratch) : "r8", "r12", CALL_CLOBBERS);
    return r13;
}

struct seen {
    u64 result, flags; // R14, R13
};

__attribute__((noinline)) static struct seen look(const u8 *fn, const struct values *v)
{
    register u64 r13 __asm__("r13");
    register u64 r14 __asm__("r14") = 0;
    const struct values *rsi = v;
    const u8 *rdi = fn;
    load_scratch(v);
    __asm__ volatile(CALL_TEXT
                     : "=r"(r13), "+r"(r14), "+S"(rsi), "+D"(rdi)
                     : "b"(scratch)
                     : "r8", "r12", "rax", "rcx", "rdx", "r9", "r10", "r11", "r15", "memory", "cc");
    return (struct seen){r14, r13};
}

// --- code ---------------------------------------------------------------------------------------------------------------

struct made {
    u8 *at, *trap;
    const struct text *neutral[3];
    const struct text *traps;
};
#define MAX_MADE 256
static struct made made[MAX_MADE];
static u8 *next_code = (u8 *)REGION;

static void put_text(const struct text *t)
{
    put_bytes(next_code, t->from, (unsigned)(t->to - t->from));
    next_code += t->to - t->from;
}

static void make(const struct text *producer, const struct text *t, unsigned k, struct made *m)
{
    next_code = (u8 *)(((u64)next_code + 15) & ~15ull);
    *m = (struct made){next_code, NULL, {NULL, NULL, NULL}, t};
    put_text(producer);
    for (unsigned i = 0; i < k; i++) {
        m->neutral[i] = &neutrals[next_random() % (u64)(neutrals_end - neutrals)];
        put_text(m->neutral[i]);
    }
    m->trap = next_code;
    put_text(t);
    *next_code++ = 0xc3;
}

static void report(const struct text *producer, const struct made *m, const struct values *v, u64 want)
{
    static unsigned shown;
    if (shown++ > 30)
        return;
    print("%s", producer->name);
    for (unsigned i = 0; i < 3 && m->neutral[i]; i++)
        print("; %s", m->neutral[i]->name);
    print("; %s: trap %d at %lx (code %lx) flags %lx, not %lx; a %lx b %lx c %lx m %lx flags %lx\n", m->traps->name,
          trap.vector, (unsigned long)trap.ip, (unsigned long)m->at, (unsigned long)trap.flags, (unsigned long)want,
          (unsigned long)v->a, (unsigned long)v->b, (unsigned long)v->c, (unsigned long)v->m, (unsigned long)v->flags);
}

static bool right(const struct made *m, u64 want)
{
    const struct text *t = m->traps;
    word ip = t->where == AT ? (word)m->trap : t->where == AFTER ? (word)m->trap + (word)(t->to - t->from) : ABSENT;
    return trap.vector == (int)t->vector && trap.ip == ip && !((trap.flags ^ want) & FL_COMPARED);
}

static void all_of(const struct text *producer)
{
    unsigned n = 0, wrong = 0, runs = 0;
    next_code = (u8 *)(((u64)next_code + 15) & ~15ull);
    u8 *reference = next_code;
    put_text(producer);
    PUT(next_code, 0x9c, 0x41, 0x5d, 0xc3); // PUSHF; POP R13; RET
    next_code += 4;
    for (const struct text *t = traps; t < traps_end; t++)
        for (unsigned k = 0; k < 4 && n < MAX_MADE; k++)
            make(producer, t, k, &made[n++]);
    for (unsigned i = 0; i < 4; i++) {
        struct values v = {next_value(), next_value(), next_value(), next_value(), 2 | (next_random() & 0x8d5)};
        u64 want = expected(reference, &v);
        for (unsigned k = i & 1; k < n; k += 2) {
            u64 df = want;
            for (unsigned j = 0; j < 3 && made[k].neutral[j]; j++)
                if (*made[k].neutral[j]->from == 0xfc) // CLD
                    df &= ~0x400ull;
            run(made[k].at, &v);
            runs++;
            if (!right(&made[k], df) && ++wrong)
                report(producer, &made[k], &v, df);
        }
    }
    check_at(wrong == 0, __FILE__, __LINE__, "%s: %u of %u runs", producer->name, wrong, runs);
}

static u8 *start_code(const struct text *producer)
{
    next_code = (u8 *)(((u64)next_code + 15) & ~15ull);
    u8 *at = next_code;
    put_text(producer);
    return at;
}

static void end_code(void)
{
    PUT(next_code, 0x9c, 0x41, 0x5d, 0xc3); // PUSHF; POP R13; RET
    next_code += 4;
}

// A producer, `k` neutrals, a reader, whose results must be those with POPF between the neutrals and the reader.
static unsigned compare_reader(const struct text *producer, const struct text *reader, unsigned k)
{
    const struct text *between[3];
    for (unsigned i = 0; i < k; i++)
        do
            between[i] = &neutrals[next_random() % (u64)(neutrals_end - neutrals)];
        while (*between[i]->from == 0xfc ||
               *between[i]->from == 0xe8); // CLD, which POPF would undo; CALL for its address
    const u8 *plain = start_code(producer);
    for (unsigned i = 0; i < k; i++)
        put_text(between[i]);
    put_text(reader);
    end_code();
    const u8 *sure = start_code(producer);
    PUT(next_code, 0x9c, 0x41, 0x5d); // PUSHF; POP R13
    next_code += 3;
    for (unsigned i = 0; i < k; i++)
        put_text(between[i]);
    PUT(next_code, 0x41, 0x55, 0x9d); // PUSH R13; POPF
    next_code += 3;
    put_text(reader);
    end_code();
    unsigned wrong = 0;
    for (unsigned i = 0; i < 4; i++) {
        struct values v = {next_value(), next_value(), next_value(), next_value(), 2 | (next_random() & 0x8d5)};
        struct seen got = look(plain, &v), want = look(sure, &v);
        if (got.result == want.result && !((got.flags ^ want.flags) & FL_COMPARED))
            continue;
        if (++wrong == 1)
            print("%s; %s%s%s; %s: %lx, not %lx, flags %lx, not %lx\n", producer->name, k ? between[0]->name : "",
                  k > 1 ? "; " : "", k > 1 ? between[1]->name : "", reader->name, (unsigned long)got.result,
                  (unsigned long)want.result, (unsigned long)got.flags, (unsigned long)want.flags);
    }
    return wrong;
}

static void readers_of(const struct text *producer)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < READERS_EACH; i++)
        wrong += compare_reader(producer, &readers[next_random() % (u64)(readers_end - readers)], i % 3);
    check_at(wrong == 0, __FILE__, __LINE__, "%s, and what looks at flags: %u wrong", producer->name, wrong);
}

void guest_main(void)
{
    *pte_of(ABSENT) = 0;
    set_gate(0x90, (word)gate_stub(0x90), SEL_CODE, 14, 3, 0);
    write_cr3(read_cr3());
    set_gate(0x91, (word)gate_stub(0x91), SEL_DATA, 14, 3, 0); // #GP
    for (const struct text *p = producers; p < producers_end; p++)
        all_of(p);
    for (const struct text *p = producers; p < producers_end; p++)
        readers_of(p);
}
