// Segments that change under code that has run: base, limit, type and size of CS, DS, ES, FS and SS, by other descriptors, by loads in the
// code itself, in 32-bit and 16-bit segments. Each piece of code is laid down once and then run again and again.
//
// No peer: QEMU's TCG does not check segment limits and types at accesses.
#include "code.h"

const char guest_name[] = "smcseg32";

#define A_DATA 0x4093 // 32-bit, present, DPL 0, writable
#define A_RODATA 0x4091
#define A_DOWN 0x4097 // expand-down
#define A_DATA16 0x0093
#define A_DOWN16 0x0097
#define A_CODE 0x409b  // 32-bit, readable
#define A_XCODE 0x4099 // execute-only
#define A_CODE16 0x009b
#define A_DPL3 0x0060
#define SEL(n) (SEL_FREE + 8 * (n))
#define AREA (PHYS + 0x4000)
#define area ((volatile u32 *)AREA)

static u16 put(unsigned n, u32 base, u32 limit, u32 attr)
{
    gdt[SEL(n) / 8] = make_desc(base, limit, attr);
    return (u16)SEL(n);
}

static u32 far_eax;

__attribute__((noinline)) static void far_call(u16 sel, u32 off)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {off, sel};
    far_eax = 0;
    TRY(__asm__ volatile("lcall *%1" : "=a"(far_eax) : "m"(p), "0"(0) : "ecx", "edx", "memory", "cc"));
}

// --- CS -----------------------------------------------------------------------------------------------------------------

// Code of several instructions, under every limit that cuts it somewhere. The first instruction that does not fit faults, whatever
// ran before.
static void code_limit(void)
{
    static const u8 piece[] = {0xb8, 1, 2, 3, 4, 0x40, 0x8d, 0x40, 0x01, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x90, 0xcb};
    static const u8 starts[] = {0, 5, 6, 9, 14, 15, 16};
    put_bytes(code + 0x10, piece, sizeof piece);
    for (u32 limit = 0x10; limit < 0x24; limit++)
        for (unsigned i = 0; i < 3; i++) { // not cut, cut, not cut
            u32 l = i == 1 ? limit : 0xfff;
            unsigned k = 0;
            while (k < 6 && 0x10u + starts[k + 1] - 1 <= l)
                k++;
            far_call(put(0, PHYS, l, A_CODE), 0x10);
            if (k == 6) {
                CHECK_TRAP(-1);
                CHECK_EQ(far_eax, 0x04030203);
            } else {
                CHECK_TRAP_ERR(13, 0);
                CHECK_EQ(trap.ip, 0x10u + starts[k]);
                CHECK_EQ(trap.cs, SEL(0));
            }
        }
    // A loop, and a jump out of the limit: XOR EAX, EAX; L: INC EAX; CMP EAX, 100; JNZ L; JMP +0x100; there: far RET.
    PUT(code + 0x40, 0x31, 0xc0, 0x40, 0x83, 0xf8, 0x64, 0x75, 0xfa, 0xe9, 0x00, 0x01, 0x00, 0x00);
    code[0x14d] = 0xcb;
    for (unsigned i = 0; i < 8; i++) {
        u32 limit = i & 1 ? 0x14c : 0x14d;
        far_call(put(0, PHYS, limit, A_CODE), 0x40);
        if (i & 1) {
            CHECK_TRAP_ERR(13, 0);
            CHECK_EQ(trap.ip, 0x48); // the jump
        } else {
            CHECK_EQ(far_eax, 100);
        }
    }
}

// One offset, several bases: other code; one place, several bases: CALL and CS: data see other offsets.
static void code_base(void)
{
    for (u32 i = 0; i < 4; i++)
        PUT(code + 0x1000 * i + 0x20, 0xb8, 0, 0, 0, 0, 0xcb);
    for (unsigned i = 0; i < 12; i++) {
        u32 k = i * 7 & 3;
        code[0x1000 * k + 0x21] = (u8)(i + 1);
        far_call(put(0, PHYS + 0x1000 * k, 0xffff, A_CODE), 0x20);
        CHECK_EQ(far_eax, i + 1);
    }
    // CALL +0; POP EAX; ADD EAX, CS:[0x80]; far RET
    PUT(code + 0x100, 0xe8, 0, 0, 0, 0, 0x58, 0x2e, 0x03, 0x05, 0x80, 0, 0, 0, 0xcb);
    for (unsigned i = 0; i < 12; i++) {
        u32 off = (i * 5 & 7) * 0x20;
        *(volatile u32 *)(code + 0x100 - off + 0x80) = off == 0x80 ? 0x00e8u : 0x10000 * i;
        if (off == 0x80) // it would overwrite itself
            continue;
        far_call(put(0, PHYS + 0x100 - off, 0xffff, A_CODE), off);
        CHECK_EQ(far_eax, off + 5 + 0x10000 * i);
    }
}

// Readable or not, 32 or 16 bits: the same bytes by one selector.
static void code_type(void)
{
    PUT(code + 0x200, 0x2e, 0xa1, 0x00, 0x03, 0x00, 0x00, 0xcb); // MOV EAX, CS:[0x300]; far RET
    *(volatile u32 *)(code + 0x300) = 77;
    for (unsigned i = 0; i < 6; i++) {
        far_call(put(0, PHYS, 0xffff, i & 1 ? A_XCODE : A_CODE), 0x200);
        if (i & 1)
            CHECK_TRAP_ERR(13, 0);
        else
            CHECK_EQ(far_eax, 77);
    }
    // 32: MOV EAX, 01EB1234; far RET. 16: MOV AX, 1234; JMP +1; far RET of 32 bits.
    PUT(code + 0x210, 0xb8, 0x34, 0x12, 0xeb, 0x01, 0xcb, 0x66, 0xcb);
    for (unsigned i = 0; i < 8; i++) {
        code[0x211] = (u8)(i * 3);
        for (unsigned k = 0; k < 2; k++) {
            far_call(put(0, PHYS, 0xffff, k ? A_CODE16 : A_CODE), 0x210);
            CHECK_EQ(far_eax, (k ? 0x1200 : 0x01eb1200) + i * 3);
        }
    }
}

// --- data segments ------------------------------------------------------------------------------------------------------

static const struct segment {
    u32 base, limit, attr;
    u32 low, high; // offsets that can be accessed
    bool writable;
} segments[] = {
    {AREA, 0xfff, A_DATA, 0, 0xfff, true},
    {AREA, 0x7f, A_DATA, 0, 0x7f, true},
    {AREA - 0x80, 0xfff, A_DATA, 0, 0xfff, true},
    {AREA, 0xfff, A_RODATA, 0, 0xfff, false},
    {AREA, 0x7f, A_DOWN, 0x80, 0xffffffff, true},
    {AREA, 0x17f, A_DOWN, 0x180, 0xffffffff, true},
    {AREA, 0x7f, A_DOWN16, 0x80, 0xffff, true},
    {AREA, 0x83, A_DATA, 0, 0x83, true},
    {AREA, 0x82, A_DATA, 0, 0x82, true},
    {AREA, 0xfff, A_CODE, 0, 0xfff, false},
    {AREA, 0, 0xc093, 0, 0xfff, true}, // by pages
    {0, 0xfffff, 0xc093, 0, 0xffffffff, true},
};
#define SEGMENTS (sizeof segments / sizeof *segments)

// The code, with DS or another segment register, EBX and ECX. The handlers reload DS.
__attribute__((noinline)) static u32 access(const void *fn, unsigned reg, u16 sel, u32 ebx, u32 ecx)
{
    u32 result = 0;
    switch (reg) {
    case 0:
        TRY(__asm__ volatile("mov %w5, %%ds; call *%1; push %%ss; pop %%ds"
                             : "=a"(result)
                             : "r"(fn), "b"(ebx), "c"(ecx), "0"(0), "d"(sel)
                             : "memory", "cc"));
        break;
    case 1:
        TRY(__asm__ volatile("mov %w5, %%es; call *%2; push %%ss; pop %%es"
                             : "=a"(result)
                             : "D"(ebx), "b"(fn), "c"(ecx), "0"(0), "d"(sel)
                             : "memory", "cc"));
        break;
    default:
        TRY(__asm__ volatile("mov %w5, %%fs; call *%1"
                             : "=a"(result)
                             : "r"(fn), "b"(ebx), "c"(ecx), "0"(0), "d"(sel)
                             : "memory", "cc"));
    }
    return result;
}

static bool allowed(const struct segment *s, u32 off, unsigned size, bool write)
{
    return off >= s->low && off + size - 1 <= s->high && off + size - 1 >= off && (s->writable || !write);
}

static void data_segments(void)
{
    static const struct {
        u8 bytes[10];
        u8 size, reg;
        bool write, indirect;                                                            // through EBX
    } pieces[] = {{{0x8b, 0x03, 0xc3}, 4, 0, false, true},                               // MOV EAX, [EBX]
                  {{0x89, 0x0b, 0xc3}, 4, 0, true, true},                                // MOV [EBX], ECX
                  {{0x0f, 0xb6, 0x43, 0x03, 0xc3}, 1, 0, false, true},                   // MOVZX EAX, BYTE [EBX + 3]
                  {{0x00, 0x0b, 0xc3}, 1, 0, true, true},                                // ADD [EBX], CL
                  {{0xa1, 0x80, 0x00, 0x00, 0x00, 0xc3}, 4, 0, false, false},            // MOV EAX, [80]
                  {{0xf0, 0xff, 0x05, 0x80, 0x00, 0x00, 0x00, 0xc3}, 4, 0, true, false}, // LOCK INC DWORD [80]
                  {{0x64, 0x8b, 0x03, 0xc3}, 4, 2, false, true},                         // MOV EAX, FS:[EBX]
                  {{0x64, 0x66, 0x89, 0x0b, 0xc3}, 2, 2, true, true},                    // MOV FS:[EBX], CX
                  {{0xdd, 0x03, 0xdd, 0xd8, 0xc3}, 8, 0, false, true}};                  // FLD QWORD [EBX]; FSTP ST0
    static const u32 offsets[] = {0x80, 0x7c, 0x7d, 0x81, 0, 0xffc, 0xffd, 0xfffd};
    __asm__ volatile("fninit");
    for (unsigned p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        put_bytes(code + 0x400, pieces[p].bytes, 10);
        for (unsigned i = 0; i < SEGMENTS * 8 * 2; i++) {
            const struct segment *s = &segments[i * 5 % SEGMENTS];
            u32 off = pieces[p].indirect ? offsets[i / 3 % 8] : 0x80;
            if (s->base == 0)
                off += pieces[p].indirect ? AREA : 0;
            u32 at = off + (pieces[p].bytes[2] == 0x43 ? 3 : 0);
            u32 *there = (u32 *)(s->base + at);
            bool ok = allowed(s, at, pieces[p].size, pieces[p].write);
            if (ok && s->base == 0 && !pieces[p].indirect)
                continue; // address 80
            u32 value = 0x12340000 + i;
            __builtin_memcpy(there, &value, 4);
            u32 got = access(code + 0x400, pieces[p].reg, put(1, s->base, s->limit, s->attr), off, value + 1);
            if (!ok) {
                CHECK_TRAP_ERR(13, 0);
                CHECK_EQ(trap.ip, (word)code + 0x400);
            } else {
                CHECK_TRAP(-1);
                if (!pieces[p].write && pieces[p].size == 4)
                    CHECK_EQ(got, value);
            }
        }
    }
}

// The code loads its own segment register: MOV DS, CX; MOV EAX, [EBX]; another load; MOV EDX, [EBX]...
static void loads_in_the_code(void)
{
    // MOV DS, CX; MOV EAX, [EBX]; MOV DS, DX; ADD EAX, [EBX]; RET
    PUT(code + 0x500, 0x8e, 0xd9, 0x8b, 0x03, 0x8e, 0xda, 0x03, 0x03, 0xc3);
    area[0] = 1;
    area[0x100] = 100;
    area[0x200] = 10000;
    for (unsigned i = 0; i < 9; i++) {
        u32 a = i % 3, b = i / 3;
        static const u32 value[3] = {1, 100, 10000};
        u32 result;
        put(2, AREA + a * 0x400, 0xfff, A_DATA);
        put(3, AREA + b * 0x400, 0xfff, A_DATA);
        __asm__ volatile("call *%1; push %%ss; pop %%ds"
                         : "=a"(result)
                         : "D"(code + 0x500), "b"(0), "c"(SEL(2)), "d"(SEL(3))
                         : "memory", "cc");
        CHECK_EQ(result, value[a] + value[b]);
    }
    // A descriptor that changes is nothing to a register that is loaded.
    put(2, AREA, 0xfff, A_DATA);
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL(2)));
    PUT(code + 0x520, 0x64, 0xa1, 0, 0, 0, 0, 0xc3);
    CHECK_EQ(call(code + 0x520), 1);
    put(2, AREA + 0x400, 0xfff, A_DATA);
    CHECK_EQ(call(code + 0x520), 1);
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL(2)));
    CHECK_EQ(call(code + 0x520), 100);
    // No segment at all.
    for (unsigned i = 0; i < 4; i++) {
        __asm__ volatile("mov %w0, %%fs" ::"r"(i & 1 ? 0 : SEL(2)));
        try_call(code + 0x520);
        if (i & 1)
            CHECK_TRAP_ERR(13, 0);
        else
            CHECK_TRAP(-1);
    }
}

// String instructions: through ES, from DS or FS; a limit in the middle leaves the registers where it ended.
static void strings(void)
{
    PUT(code + 0x600, 0xf3, 0xaa, 0x89, 0xf8, 0xc3); // REP STOSB; MOV EAX, EDI; RET
    for (unsigned i = 0; i < 12; i++) {
        static const u32 limits[3] = {0xfff, 0x1f, 0x0f};
        for (unsigned k = 0; k < 16; k++)
            area[k] = 0x55555555;
        access(code + 0x600, 1, put(1, AREA, limits[i % 3], A_DATA), 8, 0x10);
        CHECK_TRAP(i % 3 == 2 ? 13 : -1);
        CHECK_EQ(area[1], 0x55555555);
        CHECK_EQ(area[2], 0);
        CHECK_EQ(area[3], 0);
        CHECK_EQ(area[4], i % 3 == 2 ? 0x55555555 : 0);
        CHECK_EQ(area[6], 0x55555555);
    }
}

// 16-bit code: its offsets wrap at 64 KiB where 32-bit offsets go on.
static void data_from_16_bit_code(void)
{
    u16 cs = put(4, PHYS, 0xffff, A_CODE16);
    // MOV DS, DX... is done by the caller: MOV FS, word; MOV EAX, FS:[BX + SI]; far RET of 32 bits
    PUT(code + 0x700, 0x66, 0x64, 0x8b, 0x00, 0x66, 0xcb);
    for (unsigned i = 0; i < 12; i++) {
        const struct segment *s = &segments[i * 5 % (SEGMENTS - 1)];
        u32 off = i & 1 ? 0x80 : 0x100;
        u32 value = 0x7000 + i;
        *(volatile u32 *)(s->base + off) = value;
        put(1, s->base, s->limit, s->attr);
        __asm__ volatile("mov %w0, %%fs" ::"r"(SEL(1)));
        struct __attribute__((packed)) {
            u32 offset;
            u16 sel;
        } p = {0x700, cs};
        static volatile u32 result;
        TRY(__asm__ volatile("lcall *%0; mov %%eax, %1" ::"m"(p), "m"(result), "b"(off + 0x10), "S"(0xfff0)
                             : "eax", "memory"));
        if (allowed(s, off, 4, false)) {
            CHECK_TRAP(-1);
            CHECK_EQ(result, value);
        } else {
            CHECK_TRAP_ERR(13, 0);
        }
    }
}

// --- the stack ----------------------------------------------------------------------------------------------------------

static word user_ss, user_esp;

// In ring 3: SS and ESP as asked for, a push, a pop, and the old ones back. Returns ESP as it was after the push.
USER static word user_push(word at)
{
    word result;
    __asm__ volatile("mov %%esp, %%esi; mov %%ss, %%edi; mov %1, %%edx; mov %2, %%ecx; call *%3"
                     : "=a"(result)
                     : "m"(user_ss), "m"(user_esp), "r"(at)
                     : "ecx", "edx", "esi", "edi", "memory");
    return result;
}

static void stack_segments(void)
{
    static const struct {
        u32 limit, attr, esp;
        bool ok;
        u32 after;
    } stacks[] = {
        {0xffff, A_DATA | A_DPL3, 0x100, true, 0xfc},
        {0xff, A_DATA | A_DPL3, 0x104, false, 0},
        {0xff, A_DATA | A_DPL3, 0x100, true, 0xfc},
        {0x7f, A_DOWN | A_DPL3, 0x84, true, 0x80},
        {0x80, A_DOWN | A_DPL3, 0x84, false, 0},
        {0xffff, A_DATA16 | A_DPL3, 0x12340100, true, 0x123400fc}, // SP alone
        {0xffff, A_DATA16 | A_DPL3, 0x12340000, true, 0x1234fffc},
        {0xffff, A_DATA | A_DPL3, 0x12340100, false, 0},
        {0x7f, A_DOWN16 | A_DPL3, 0x100, true, 0xfc},
        {0xff, A_DOWN16 | A_DPL3, 0x100, false, 0},
    };
    // MOV SS, EDX; MOV ESP, ECX; PUSH EDX; MOV EAX, ESP; POP EDX; MOV SS, EDI; MOV ESP, ESI (less the return address); JMP [ESP - 4]
    PUT(code + 0x800, 0x8e, 0xd2, 0x89, 0xcc, 0x52, 0x89, 0xe0, 0x5a, 0x8e, 0xd7, 0x89, 0xf4, 0xff, 0x64, 0x24, 0xfc);
    for (unsigned i = 0; i < 3 * sizeof stacks / sizeof *stacks; i++) {
        unsigned k = i * 3 % (sizeof stacks / sizeof *stacks);
        user_ss = put(5, AREA, stacks[k].limit, stacks[k].attr) | 3;
        user_esp = stacks[k].esp;
        run_user(user_push, (word)code + 0x800);
        if (stacks[k].ok) {
            CHECK_TRAP(0x80);
            CHECK_EQ(user_result, stacks[k].after);
        } else {
            CHECK_TRAP_ERR(12, 0);
            CHECK_EQ(trap.ip, (word)code + 0x804);
            CHECK_EQ(trap.sp, stacks[k].esp);
        }
    }
}

void guest_main(void)
{
    code_limit();
    code_base();
    code_type();
    data_segments();
    loads_in_the_code();
    strings();
    data_from_16_bit_code();
    stack_segments();
}
