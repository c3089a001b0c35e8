// The nanobenchmarks' harness, shared by the guest and a native program: cycles of the time-stamp counter per operation.
//
// A sample is a loop of `n` operations; n is doubled until one sample takes long enough that the clock's own cost does not count. Each
// line gives the minimum, the median and the 95th percentile of the samples in cycles per operation:
//
//   nano NAME MINIMUM MEDIAN P95
//
// and `nano NAME -` where the machine does not have it. The host program defines nano_print before it includes this.
#ifndef NANO_H
#define NANO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NANO_MAX_SAMPLES 101
#define NANO_STEP 64 // operations come in multiples of this

struct nano_op {
    const char *name;
    void (*run)(uint64_t n);
    // All of these may be NULL.
    bool (*begin)(void);       // false: the machine does not have it
    void (*setup)(uint64_t n); // before each sample, not timed
    void (*end)(void);
    uint64_t least; // operations in one sample; 0: NANO_STEP
    uint64_t max;   // 0: any number
    bool user;      // at the lowest privilege
};

static unsigned nano_samples = NANO_MAX_SAMPLES;
static uint64_t nano_enough = 200000; // cycles of a sample
static uint64_t nano_sample[NANO_MAX_SAMPLES];
static unsigned nano_wrong; // results that are not sane

static inline uint64_t nano_tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (uint64_t)hi << 32 | lo;
}

static void nano_sort(uint64_t *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        uint64_t x = v[i];
        unsigned k = i;
        for (; k && v[k - 1] > x; k--)
            v[k] = v[k - 1];
        v[k] = x;
    }
}

static void nano_number(uint64_t tenths)
{
    nano_print(" %lu.%lu", (unsigned long)(tenths / 10), (unsigned long)(tenths % 10));
}

// The samples, in tenths of a cycle per operation.
static void nano_report(const char *name)
{
    nano_sort(nano_sample, nano_samples);
    nano_print("nano %s", name);
    nano_number(nano_sample[0]);
    nano_number(nano_sample[nano_samples / 2]);
    nano_number(nano_sample[(nano_samples - 1) * 95 / 100]);
    nano_print("\n");
    if (!nano_sample[nano_samples / 2])
        nano_wrong++;
}

// `timed` runs n operations at the privilege that they want and returns the cycles.
static void nano_measure(const struct nano_op *op, uint64_t (*timed)(const struct nano_op *op, uint64_t n))
{
    if (op->begin && !op->begin()) {
        nano_print("nano %s -\n", op->name);
        return;
    }
    uint64_t n = op->least ? op->least : NANO_STEP;
    for (;;) {
        if (op->setup)
            op->setup(n);
        if (timed(op, n) >= nano_enough || (op->max && n * 2 > op->max))
            break;
        n *= 2;
    }
    for (unsigned i = 0; i < nano_samples; i++) {
        if (op->setup)
            op->setup(n);
        nano_sample[i] = timed(op, n) * 10 / n;
    }
    if (op->end)
        op->end();
    nano_report(op->name);
}

// --- what needs nothing of the system ------------------------------------------------------------------------------------------

void nano_call_direct(uint64_t n);
void nano_call_indirect(uint64_t n);
void nano_call_two_targets(uint64_t n);
void nano_call_recursive(uint64_t n);
void nano_read(uint64_t n);
void nano_write(uint64_t n);
void nano_modify(uint64_t n);
void nano_read_cross(uint64_t n);
void nano_write_cross(uint64_t n);
void nano_copy(uint64_t n);
void nano_rdtsc(uint64_t n);
void nano_cpuid(uint64_t n);

static const struct nano_op nano_user_ops[] = {
    {.name = "call-direct", .run = nano_call_direct},
    {.name = "call-indirect", .run = nano_call_indirect},
    {.name = "call-two-targets", .run = nano_call_two_targets},
    {.name = "call-recursive", .run = nano_call_recursive},
    {.name = "read", .run = nano_read},
    {.name = "write", .run = nano_write},
    {.name = "modify", .run = nano_modify},
    {.name = "read-cross", .run = nano_read_cross},
    {.name = "write-cross", .run = nano_write_cross},
    {.name = "copy-page", .run = nano_copy},
    {.name = "rdtsc", .run = nano_rdtsc},
    {.name = "cpuid", .run = nano_cpuid},
};
#define NANO_USER_OPS (sizeof nano_user_ops / sizeof nano_user_ops[0])

static uint64_t nano_timed(const struct nano_op *op, uint64_t n)
{
    uint64_t start = nano_tsc();
    op->run(n);
    return nano_tsc() - start;
}

// --- code that has never run ------------------------------------------------------------------------------------------------------

#define NANO_COLD_INSNS 8000u
#define NANO_COLD_BYTES 65536u // room for them
#define NANO_COLD_DATA 4096u

static uint64_t nano_seed = 88172645463325252ull;

static uint32_t nano_random(uint32_t below)
{
    nano_seed ^= nano_seed << 13;
    nano_seed ^= nano_seed >> 7;
    nano_seed ^= nano_seed << 17;
    return (uint32_t)(nano_seed >> 32) % below;
}

struct nano_code {
    uint8_t *at;
    uint32_t insns; // that run, one time each
    uint32_t calls; // of them, functions called
};

static void nano_byte(struct nano_code *c, uint32_t v)
{
    *c->at++ = (uint8_t)v;
}

// One of RAX, RCX, RDX, RSI, RDI.
static uint32_t nano_reg(void)
{
    static const uint8_t regs[] = {0, 1, 2, 6, 7};
    return regs[nano_random(sizeof regs)];
}

// OP reg, [RBX + disp32] with a REX prefix, or none.
static void nano_memory(struct nano_code *c, uint32_t rex, uint32_t opcode)
{
    uint32_t disp = nano_random(NANO_COLD_DATA / 16 - 1) * 16;
    if (rex)
        nano_byte(c, rex);
    if (opcode > 255)
        nano_byte(c, opcode >> 8);
    nano_byte(c, opcode);
    nano_byte(c, 0x83 | nano_reg() << 3);
    for (unsigned i = 0; i < 4; i++)
        nano_byte(c, disp >> 8 * i);
}

// Arithmetic between registers, or with an 8-bit immediate.
static void nano_arithmetic(struct nano_code *c)
{
    static const uint8_t opcodes[] = {0x01, 0x09, 0x21, 0x29, 0x31, 0x39, 0x89, 0x85};
    if (nano_random(2))
        nano_byte(c, 0x48);
    if (nano_random(3)) {
        nano_byte(c, opcodes[nano_random(sizeof opcodes)]);
        nano_byte(c, 0xc0 | nano_reg() << 3 | nano_reg());
    } else {
        nano_byte(c, 0x83);
        nano_byte(c, 0xc0 | nano_random(8) << 3 | nano_reg());
        nano_byte(c, nano_random(256));
    }
}

// CMP EAX, EAX and a branch that is taken over a few bytes, or is not taken.
static void nano_branch(struct nano_code *c)
{
    bool taken = nano_random(2);
    nano_byte(c, 0x39);
    nano_byte(c, 0xc0);
    nano_byte(c, taken ? 0x74 : 0x75);
    nano_byte(c, 5);
    nano_byte(c, 0xb8 | nano_reg()); // MOV reg, imm32
    for (unsigned i = 0; i < 4; i++)
        nano_byte(c, nano_random(256));
    c->insns += taken ? 1 : 2;
}

// A jump over a function that counts in R11D, and a call of it.
static void nano_call(struct nano_code *c)
{
    static const uint8_t bytes[] = {0xeb, 0x04, 0x41, 0xff, 0xc3, 0xc3, 0xe8, 0xf7, 0xff, 0xff, 0xff};
    for (unsigned i = 0; i < sizeof bytes; i++)
        nano_byte(c, bytes[i]);
    c->insns += 3;
    c->calls++;
}

static void nano_insn(struct nano_code *c)
{
    c->insns++;
    switch (nano_random(16)) {
    case 0:
    case 1: nano_memory(c, 0x48, 0x8b); break;   // MOV reg, [mem]
    case 2: nano_memory(c, 0x48, 0x89); break;   // MOV [mem], reg
    case 3: nano_memory(c, 0, 0x03); break;      // ADD reg, [mem]
    case 4: nano_memory(c, 0, 0x0fb6); break;    // MOVZX reg, byte [mem]
    case 5: nano_memory(c, 0x48, 0x8d); break;   // LEA
    case 6: nano_memory(c, 0, 0x0f10); break;    // MOVUPS xmm, [mem]
    case 7: nano_memory(c, 0, 0x0f11); break;    // MOVUPS [mem], xmm
    case 8: nano_memory(c, 0x48, 0x0faf); break; // IMUL reg, [mem]
    case 9:
    case 10: nano_branch(c); break;
    case 11: nano_call(c); break;
    default: nano_arithmetic(c); break;
    }
}

// A function (RDI: NANO_COLD_DATA bytes) of straight code that returns how many calls it made; like no other.
static struct nano_code nano_make(uint8_t *at)
{
    static const uint8_t prologue[] = {0x53, 0x48, 0x89, 0xfb,
                                       0x45, 0x31, 0xdb};             // PUSH RBX; MOV RBX, RDI; XOR R11D, R11D
    static const uint8_t epilogue[] = {0x44, 0x89, 0xd8, 0x5b, 0xc3}; // MOV EAX, R11D; POP RBX; RET
    struct nano_code c = {.at = at, .insns = 6};
    for (unsigned i = 0; i < sizeof prologue; i++)
        nano_byte(&c, prologue[i]);
    while (c.insns < NANO_COLD_INSNS)
        nano_insn(&c);
    for (unsigned i = 0; i < sizeof epilogue; i++)
        nano_byte(&c, epilogue[i]);
    __asm__ volatile("" ::: "memory");
    return c;
}

// Cycles per instruction of code that runs for the first time, and for the third. `memory` has data, and then room for the code of all
// the samples, which no code has run from.
static void nano_cold(uint8_t *memory)
{
    static uint64_t warm[NANO_MAX_SAMPLES];
    uint8_t *at = memory + NANO_COLD_DATA;
    for (unsigned i = 0; i < nano_samples; i++) {
        struct nano_code c = nano_make(at);
        uint32_t (*run)(uint8_t *) = (uint32_t(*)(uint8_t *))(uintptr_t)at;
        uint64_t cycles[3];
        for (unsigned k = 0; k < 3; k++) {
            uint64_t start = nano_tsc();
            nano_wrong += run(memory) != c.calls;
            cycles[k] = nano_tsc() - start;
        }
        nano_sample[i] = cycles[0] * 10 / c.insns;
        warm[i] = cycles[2] * 10 / c.insns;
        at += NANO_COLD_BYTES;
    }
    nano_report("cold-code");
    for (unsigned i = 0; i < nano_samples; i++)
        nano_sample[i] = warm[i];
    nano_report("warm-code");
}

#endif
