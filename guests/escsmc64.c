// Code that overwrites itself at every distance: the next instruction and one a hundred further on, behind branches that are taken and
// not, behind the start of the loop, after the call that is going on, in the loop that an interrupt came from, at the instruction that
// faults. Then programs made at random over one another, against a model.
#include "code.h"

const char guest_name[] = "escsmc64";

#define LAPIC 0xfee00000ul
#define VEC_TIMER 0x40
#define ABSENT 0x60000000ul

static u8 *put32(u8 *at, u64 v)
{
    *(volatile u32 *)at = (u32)v;
    return at + 4;
}

// LEA R8, [R8 + 1], n times; with `jumps`, a branch that is never taken (of flags that say equal), or one that always is, among them.
enum { STRAIGHT, NOT_TAKEN, TAKEN, KINDS };
static u8 *put_filler(u8 *at, unsigned n, unsigned kind)
{
    for (unsigned i = 0; i < n; i++) {
        if (i == n / 2 && kind == NOT_TAKEN) {
            PUT(at, 0x75, 0x10); // JNE
            at += 2;
        } else if (i == n / 2 && kind == TAKEN) {
            PUT(at, 0x74, 0x02, 0x0f, 0x0b); // JE over UD2
            at += 4;
        }
        PUT(at, 0x4d, 0x8d, 0x40, 0x01);
        at += 4;
    }
    return at;
}

// A store of ECX (4 bytes, 1 byte, or 4 that only start in the last byte) to an immediate of 4 bytes.
static u8 *put_store(u8 *at, unsigned width, const u8 *to)
{
    at[0] = width == 1 ? 0x88 : 0x89;
    at[1] = 0x0d;
    return put32(at + 2, (u64)(to - (at + 6)));
}

__attribute__((noinline)) static u32 call_with(const void *fn, u64 cx, u64 si, u64 di)
{
    u64 result;
    register u64 r8 __asm__("r8") = 0;
    __asm__ volatile("cmp %%eax, %%eax; call *%5"
                     : "=a"(result), "+c"(cx), "+S"(si), "+D"(di), "+r"(r8)
                     : "r"(fn), "0"(0)
                     : "rdx", "r9", "r10", "r11", "memory", "cc");
    return (u32)result;
}

// Store, filler, MOV EAX, imm32; RET.
static void forward(unsigned start, unsigned n, unsigned kind, unsigned width)
{
    u8 *first = code + start, *at = put_filler(first + 6, n, kind);
    put_store(first, width, at + 1);
    put_return(at, 0x01020304);
    for (u32 i = 0; i < 4; i++) {
        u32 v = 0x11223300 + i * 0x1010101;
        CHECK_EQ(call_with(first, v, 0, 0), width == 1 ? 0x01020300 | (v & 0xff) : v);
    }
}

// L: MOV EAX, imm32; filler; INC DWORD of it; DEC ESI; JNZ L; RET.
static void backward(unsigned start, unsigned n, unsigned kind)
{
    u8 *first = code + start;
    put_return(first, 7);
    PUT(first + 5, 0x39, 0xc0); // CMP EAX, EAX: for the branches
    u8 *at = put_filler(first + 7, n, kind);
    PUT(at, 0xff, 0x05);
    at = put32(at + 2, (u64)(first + 1 - (at + 6)));
    PUT(at, 0xff, 0xce, 0x0f, 0x85);
    at = put32(at + 4, (u64)(first - (at + 8)));
    *at = 0xc3;
    for (u32 i = 0; i < 3; i++) {
        put32(first + 1, i);
        CHECK_EQ(call_with(first, 0, 50, 0), i + 49);
    }
}

// CALL F; filler; MOV EAX, imm32; RET. F, behind `depth` further calls, stores to it.
static void under_a_call(unsigned start, unsigned n, unsigned depth, unsigned kind)
{
    u8 *first = code + start, *at = put_filler(first + 5, n, kind), *target = at, *f = code + 0x1800;
    put_return(target, 0);
    first[0] = 0xe8;
    put32(first + 1, (u64)(f - (first + 5)));
    for (unsigned i = 0; i < depth; i++) { // CALL the next; CMP EAX, EAX; RET
        PUT(f, 0xe8, 0x03, 0, 0, 0, 0x39, 0xc0, 0xc3);
        f += 8;
    }
    f = put_store(f, 4, target + 1);
    *f = 0xc3;
    for (u32 i = 0; i < 4; i++)
        CHECK_EQ(call_with(first, 0x5000 + i, 0, 0), 0x5000 + i);
}

static void distances(void)
{
    static const u16 starts[] = {0, 0x333, 0xff0, 0xf80};
    for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++)
        for (unsigned n = 0; n < 140; n = n < 16 ? n + 1 : n + 9)
            for (unsigned kind = 0; kind < KINDS; kind++) {
                forward(starts[s], n, kind, 4);
                forward(starts[s], n, kind, 1);
                backward(starts[s], n, kind);
                under_a_call(starts[s], n, n % 5, kind);
            }
}

// --- exceptions ---------------------------------------------------------------------------------------------------------

static u8 *patch_at;
static unsigned patched;
static const u8 *patch_bytes;
static unsigned patch_len;

// After UD2: changes something in the block that it came from.
static bool on_ud(struct trap_frame *f)
{
    put32(patch_at, f->rcx);
    patched++;
    f->ip += 2;
    return true;
}

// A page fault turns its own instruction into another, of the same or of another length, which is then run.
static bool on_pf(struct trap_frame *f)
{
    put_bytes((u8 *)f->ip, patch_bytes, patch_len);
    patched++;
    return true;
}

static void in_handlers(void)
{
    trap_handler[6] = on_ud;
    for (unsigned before = 0; before < 4; before++)
        for (unsigned n = 0; n < 40; n += 3) {
            u8 *at = put_filler(code + 0xfc0, before, STRAIGHT);
            PUT(at, 0x0f, 0x0b);
            at = put_filler(at + 2, n, STRAIGHT);
            put_return(at, 0);
            patch_at = at + 1;
            for (u32 i = 0; i < 3; i++)
                CHECK_EQ(call_with(code + 0xfc0, 0x900 + i, 0, 0), 0x900 + i);
        }
    trap_handler[6] = NULL;
    trap_handler[14] = on_pf;
    static const u8 same[] = {0x89, 0xc8};                                 // MOV EAX, ECX for MOV EAX, [RDI]
    static const u8 longer[] = {0x8d, 0x44, 0x09, 0x05, 0xc3};             // LEA EAX, [RCX + RCX + 5]; RET
    static const u8 prefix[] = {0xf3, 0x90, 0x31, 0xc0, 0xff, 0xc0, 0xc3}; // PAUSE; XOR EAX, EAX; INC EAX; RET
    static const struct {
        const u8 *bytes;
        u8 len;
    } patches[] = {{same, sizeof same}, {longer, sizeof longer}, {prefix, sizeof prefix}};
    for (unsigned k = 0; k < 3; k++)
        for (unsigned before = 0; before < 5; before++)
            for (u32 i = 0; i < 4; i++) {
                u8 *at = put_filler(code + 0xff4, before, STRAIGHT);
                PUT(at, 0x8b, 0x07, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90);
                patch_bytes = patches[k].bytes;
                patch_len = patches[k].len;
                patched = 0;
                u32 want = k == 0 ? i : k == 1 ? 2 * i + 5 : 1;
                CHECK_EQ(call_with(code + 0xff4, i, 0, ABSENT), want);
                CHECK_EQ(patched, 1);
                CHECK_EQ(call_with(code + 0xff4, i, 0, ABSENT), want);
            }
    trap_handler[14] = NULL;
}

// --- interrupts ---------------------------------------------------------------------------------------------------------

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

// Ends the loop that it interrupts by changing it.
static bool on_timer(struct trap_frame *f)
{
    (void)f;
    lapic_write(0xb0, 0);
    put_bytes(patch_at, patch_bytes, patch_len);
    patched++;
    return true;
}

static void in_interrupts(void)
{
    // Loops in which a byte or some become RET or another branch. Those with two pages have the second half in the next.
    static const u8 ret[] = {0xc3}, over[] = {0x00};
    static const struct {
        u8 bytes[24], at, len;
        const u8 *patch;
        u8 second[8], second_len;
    } loops[] = {
        {{0xff, 0xc0, 0xeb, 0xfc}, 2, 1, ret, {0}, 0},                            // INC EAX; JMP
        {{0xeb, 0xfe, 0xc3}, 1, 1, over, {0}, 0},                                 // JMP to itself
        {{0xff, 0xc0, 0x39, 0xc0, 0x74, 0xfa, 0xc3}, 5, 1, over, {0}, 0},         // ...; CMP EAX, EAX; JE
        {{0xe8, 0x02, 0, 0, 0, 0xeb, 0xf9, 0xff, 0xc0, 0xc3}, 5, 1, ret, {0}, 0}, // CALL +2; JMP; INC EAX; RET
        {{0xff, 0xc0, 0xe9, 0xf9, 0x0f, 0, 0}, 0, 1, ret, {0xff, 0xc1, 0xe9, 0xf9, 0xef, 0xff, 0xff}, 7}, // two pages
        {{0xff, 0xc0, 0xb9, 2, 0, 0, 0, 0xe2, 0xfe, 0xeb, 0xf5}, 9, 1, ret, {0}, 0}, // with LOOP to itself
        {{0x48, 0x8d, 0x15, 0, 0, 0, 0, 0xff, 0xc0, 0xff, 0xe2},
         7,
         1,
         ret,
         {0},
         0}, // LEA RDX of the next; INC EAX; JMP RDX
        {{0x53, 0x5b, 0xff, 0x05, 0xf8, 0x01, 0, 0, 0xeb, 0xf6},
         8,
         1,
         ret,
         {0},
         0}, // PUSH; POP; INC memory of the same page; JMP
    };
    trap_handler[VEC_TIMER] = on_timer;
    lapic_write(0xf0, 0x1ff);
    lapic_write(0x3e0, 0xb);
    lapic_write(0x320, VEC_TIMER);
    for (unsigned k = 0; k < sizeof loops / sizeof *loops; k++)
        for (unsigned i = 0; i < 12; i++) {
            put_bytes(code, loops[k].bytes, sizeof loops[k].bytes);
            put_bytes(code + 4096, loops[k].second, loops[k].second_len);
            patch_at = (i & 1 ? alias : code) + loops[k].at;
            patch_bytes = loops[k].patch;
            patch_len = loops[k].len;
            patched = 0;
            lapic_write(0x380, 2000 + 1777 * i);
            __asm__ volatile("sti; call *%0; cli" ::"r"(code), "a"(0), "b"(0) : "rcx", "rdx", "memory", "cc");
            CHECK_EQ(patched, 1);
        }
    lapic_write(0x320, 0x10000);
    trap_handler[VEC_TIMER] = NULL;
}

// --- across pages -------------------------------------------------------------------------------------------------------

// A store of 8 bytes from the end of one page, of data or of code, into the first instruction of the next.
static void across_pages(void)
{
    for (unsigned k = 1; k < 8; k++)
        for (unsigned with_code = 0; with_code < 2; with_code++) {
            u8 *second = code + 4096;
            if (with_code)
                put_return(code + 0x100, 1);
            for (u32 i = 0; i < 4; i++) {
                put_return(second, 0x44332211);
                CHECK_EQ(call(second), 0x44332211);
                if (with_code)
                    CHECK_EQ(call(code + 0x100), 1);
                u8 bytes[8];
                for (unsigned j = 0; j < 8; j++) {
                    u8 *at = second - k + j;
                    bytes[j] = at == second || at > second + 4 ? *at : (u8)(0x50 + i + j);
                }
                u64 v;
                __builtin_memcpy(&v, bytes, 8);
                *(volatile u64 *)(second - k) = v;
                u32 want;
                __builtin_memcpy(&want, second + 1, 4);
                CHECK_EQ(call(second), want);
            }
        }
}

// --- at random ----------------------------------------------------------------------------------------------------------

static u32 next_random(u32 below)
{
    static u32 seed = 5;
    seed = seed * 1664525 + 1013904223;
    return (u32)((u64)(seed >> 4) * below >> 28);
}

#define ARENA_FROM 0xf00u
#define ARENA_SIZE 0x200u

// ADD EAX, imm8 or imm32; LEA EAX, [RAX + disp8]; INC EAX; ROL EAX, imm8; JMP over some bytes; a store of AL into what lies ahead; RET.
static unsigned put_random(u8 *at, bool only3)
{
    u8 b[8] = {0x83, 0xc0, (u8)next_random(256), 0, 0, 0, 0, 0};
    unsigned len = 3, x = only3 ? next_random(3) : next_random(9);
    if (x == 1) {
        b[0] = 0x8d;
        b[1] = 0x40;
    } else if (x == 2) {
        b[0] = 0xc1;
        b[2] &= 31;
    } else if (x == 3 || x == 4) {
        b[0] = 0x05;
        for (unsigned i = 1; i < 5; i++)
            b[i] = (u8)next_random(256);
        len = 5;
    } else if (x == 5) {
        b[0] = 0xff;
        len = 2;
    } else if (x == 6) {
        b[0] = 0xeb;
        b[1] = (u8)(next_random(8) ? 0 : 1 + next_random(6));
        len = 2 + b[1];
        for (unsigned i = 2; i < len; i++)
            b[i] = 0xcc;
    } else if (x == 7) { // MOV [RIP + n], AL: an immediate of one byte comes after it, often enough
        b[0] = 0x88;
        b[1] = 0x05;
        b[2] = 2;
        len = 6;
    }
    put_bytes(at, b, len);
    if (x == 7) {
        PUT(at + len, 0x83, 0xc0, 0x00);
        len += 3;
    }
    return len;
}

// What a run from there gives; the stores are made in the copy alone.
static u32 model(u8 *mem, unsigned at)
{
    u32 a = 0;
    for (;;) {
        const u8 *p = mem + at;
        u32 imm;
        __builtin_memcpy(&imm, p + 1, 4);
        switch (p[0]) {
        case 0xc3: return a;
        case 0x05:
            a += imm;
            at += 5;
            break;
        case 0xff:
            a++;
            at += 2;
            break;
        case 0xeb: at += 2u + p[1]; break;
        case 0x88:
            mem[at + 6 + p[2]] = (u8)a;
            at += 6;
            break;
        case 0xc1:
            a = p[2] & 31 ? a << (p[2] & 31) | a >> (32 - (p[2] & 31)) : a;
            at += 3;
            break;
        default:
            a += (u32)(i32)(signed char)p[2];
            at += 3;
            break;
        }
    }
}

static void at_random(void)
{
    static u8 copy[ARENA_SIZE + 64];
    u16 start[200];
    unsigned wrong = 0, count = 0;
    u8 *base = code + ARENA_FROM;
    for (unsigned round = 0; round < 20000; round++) {
        if (count == 0 || next_random(12) == 0) { // another program, over the last one
            unsigned at = next_random(ARENA_SIZE / 2), end = at + 16 + next_random(ARENA_SIZE / 2 - 20);
            for (count = 0; at < end && count < 199; count++) {
                start[count] = (u16)at;
                at += put_random(base + at, false);
            }
            base[at] = 0xc3;
        } else if (next_random(2)) { // one instruction of three bytes becomes another
            unsigned k = next_random(count);
            u8 *at = base + start[k];
            if (at[0] == 0x83 || at[0] == 0xc1 || at[0] == 0x8d)
                put_random(next_random(3) ? at : alias + ARENA_FROM + start[k], true);
            serialize();
        }
        for (unsigned i = 0; i < sizeof copy; i++)
            copy[i] = base[i];
        unsigned from = start[next_random(3) ? 0 : next_random(count)];
        u32 want = model(copy, from), got = call_with(base + from, 0, 0, 0);
        bool same = got == want;
        for (unsigned i = 0; i < sizeof copy; i++)
            same &= copy[i] == base[i];
        if (!same && wrong++ < 5)
            print("round %u from %x: %x, not %x\n", round, from, got, want);
    }
    CHECK_EQ(wrong, 0);
}

void guest_main(void)
{
    code_init();
    *pte_of(ABSENT) = 0;
    write_cr3(read_cr3());
    distances();
    in_handlers();
    in_interrupts();
    across_pages();
    at_random();
}
