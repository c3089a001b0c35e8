// The LOCK prefix on every instruction of the one- and two-byte opcode maps, with a memory and with a register operand: allowed
// or #UD, which comes before everything else that the instruction could raise.
//
// No peer: QEMU 7.2's TCG executes most of the others as if the prefix was not there.
#include "guest.h"

const char guest_name[] = "lock64";

#define NON_CANONICAL 0x0000900000000000ull

static u8 code[32] __attribute__((aligned(64)));
static u64 area[8] __attribute__((aligned(64)));

static bool lockable(bool two_byte, unsigned op, unsigned reg)
{
    if (two_byte) {
        switch (op) {
        case 0xab: // BTS
        case 0xb3: // BTR
        case 0xbb: // BTC
        case 0xb0:
        case 0xb1: // CMPXCHG
        case 0xc0:
        case 0xc1: return true;     // XADD
        case 0xba: return reg > 4;  // BTS, BTR, BTC by immediate
        case 0xc7: return reg == 1; // CMPXCHG8B
        default: return false;
        }
    }
    switch (op) {
    case 0x80:
    case 0x81:
    case 0x83: return reg != 7; // all but CMP
    case 0x86:
    case 0x87: return true; // XCHG
    case 0xf6:
    case 0xf7: return reg == 2 || reg == 3; // NOT, NEG
    case 0xfe:
    case 0xff: return reg < 2;                 // INC, DEC
    default: return op < 0x38 && (op & 7) < 2; // the arithmetic forms that write memory
    }
}

static bool is_prefix(unsigned op)
{
    return op == 0x0f || (op & ~0x18u) == 0x26 || (op >= 0x40 && op < 0x50) || (op >= 0x64 && op < 0x68) ||
           op == 0xf0 || op == 0xf2 || op == 0xf3;
}

static unsigned immediate_bytes(bool two_byte, unsigned op)
{
    if (two_byte)
        return op == 0xba;
    return op == 0x81 ? 4 : op == 0x80 || op == 0x83;
}

__attribute__((noinline)) static void run(word rdi)
{
    word zero = 0; // bit offsets stay inside the operand
    TRY(__asm__ volatile("push %%rbp; mov %1, %%rax; mov %1, %%rbx; mov %1, %%rcx; mov %1, %%rdx; mov %1, %%rsi;"
                         "mov %1, %%rbp; call *%2; pop %%rbp; cld"
                         : "+D"(rdi)
                         : "r"(zero), "r"(code)
                         : "rax", "rbx", "rcx", "rdx", "rsi", "memory", "cc"));
}

static void one_opcode(bool two_byte, unsigned op, unsigned modrm)
{
    unsigned n = 0, memory = modrm < 0xc0;
    code[n++] = 0xf0;
    if (two_byte)
        code[n++] = 0x0f;
    code[n++] = (u8)op;
    code[n++] = (u8)modrm;
    n += immediate_bytes(two_byte, op);
    code[n] = 0xc3;
    bool allowed = memory && lockable(two_byte, op, modrm >> 3 & 7);
    if (allowed && modrm >> 3 == 4 && op == (two_byte ? 0xc1 : 0x87))
        return; // they would change RSP
    // What is not allowed must not look at its operand.
    run(allowed ? (word)area : NON_CANONICAL);
    int want = allowed ? -1 : 6;
    if (trap.vector == want && (allowed || trap.ip == (word)code))
        passed++;
    else
        check_at(false, __FILE__, __LINE__, "lock %s%02x /%02x: trap %d at %lx, not %d", two_byte ? "0f " : "", op,
                 modrm, trap.vector, trap.ip, want);
}

static void opcode_maps(void)
{
    for (unsigned i = 0; i < 512; i++) {
        unsigned op = i & 255;
        bool two_byte = i > 255;
        // AMD processors take LOCK MOV CR0 for CR8.
        if (two_byte ? op == 0x20 || op == 0x22 : is_prefix(op))
            continue;
        for (unsigned reg = 0; reg < 8; reg++) {
            one_opcode(two_byte, op, reg << 3 | 7);
            one_opcode(two_byte, op, 0xc0 | reg << 3 | 7);
        }
    }
}

void guest_main(void)
{
    opcode_maps();
}
