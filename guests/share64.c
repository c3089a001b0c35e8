// Accesses near each other, as an engine that translates may take them together: fields of a structure, pushes and pops, by all that a
// register can be known to hold. Each piece of code runs in one go, and once instruction by instruction, by single-steps: both must
// come to the same registers, flags, memory, page-table entries and faults. The data lies at every distance from a page's end, in pages
// that are absent, read-only, clean, full of code or a device, mapped to different frames from run to run, and often enough that an
// engine may change its mind about the piece. First known pieces, then random ones.
//
// QEMU's TCG differs in 2 checks, the one of `locked` and the one of all random pieces: in one go it has other flags than in single-steps
// after CMPXCHG8B and at some faults.
#include "guest.h"

const char guest_name[] = "share64";

#define HIGH 0xffffc04040400000ul // three pages that follow each other ...
#define LOW 0x40400000ul          // ... three others where 32-bit addresses of them lead ...
#define AFAR (HIGH + (1ul << 32)) // ... and these again where a displacement that is taken for one too long leads
#define FRAMES 0x00a00000ul       // their memory, in another order
#define CODE 0x01000000ul         // where the pieces are run ...
#define CODE_SIZE 0x00200000ul
#define WRITABLE (HIGH + 0x200000) // ... and written
#define PAGES 3u
#define WORDS (2 * PAGES * 512)
#define ENTRIES (3 * PAGES)
#define ALL (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)
#define TF 0x100ul
#define RF 0x10000ul
#define CR0_WP 0x10000ul
#define LAPIC 0xfee00000ul
#define LAPIC_LDR 0xd0

struct setup {
    const char *name;
    u64 entry[PAGES]; // attributes; 0: absent
    bool user;        // at CPL 3
    bool no_wp;
    bool code;   // the pages hold code that has been run
    bool device; // page 0 is the local APIC
};

struct outcome {
    struct trap_frame f;
    u64 cr2, pte[ENTRIES];
};

static struct trap_frame first; // registers to begin with
static struct outcome got, want[2];
static u64 *pte[ENTRIES];
static u64 template[WORDS], want_memory[2][WORDS];
static u8 gate_stack[16384] __attribute__((aligned(16)));
static u8 *next_code = (u8 *)CODE;
static unsigned steps, faults, clean;

// --- running ------------------------------------------------------------------------------------------------------------

static void copy(void *to, const void *from, u64 words)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

static bool same(const void *a, const void *b, u64 words)
{
    bool equal;
    __asm__ volatile("cmp %%eax, %%eax; repe cmpsq" : "=@cce"(equal), "+D"(a), "+S"(b), "+c"(words)::"memory");
    return equal;
}

// With the registers in *f.
__attribute__((naked, noinline)) static void enter(struct trap_frame *f)
{
    __asm__ volatile("mov %%rdi, %%rsp; jmp trap_return" ::"D"(f));
}

static bool on_trap(struct trap_frame *f)
{
    if (f->vector == 1) {
        steps++;
        write_dr6(0);
        return true;
    }
    got.f = *f;
    got.cr2 = read_cr2();
    return false;
}

// Where page i (from PAGES on: of LOW, then of AFAR) is. No two neighbours follow each other.
static u64 frame_of(unsigned i, unsigned order)
{
    static const u8 n[2][2 * PAGES] = {{4, 0, 2, 5, 1, 3}, {1, 5, 0, 2, 4, 3}};
    return FRAMES + 4096 * n[order][i < 2 * PAGES ? i : i - PAGES];
}

// What memory holds at first, at offset `off` of page i.
static u64 template_at(unsigned i, unsigned off, unsigned order)
{
    return template[(frame_of(i, order) - FRAMES + off) / 8];
}

static u8 *page_at(unsigned i)
{
    static const u64 start[] = {HIGH, LOW, AFAR};
    return (u8 *)start[i / PAGES] + i % PAGES * 4096;
}

static void prepare(const struct setup *s, unsigned order)
{
    copy((void *)FRAMES, template, WORDS);
    for (unsigned i = 0; i < ENTRIES; i++) {
        u64 e = s->entry[i % PAGES];
        u64 where = s->device && i == 0 ? LAPIC : frame_of(i, order);
        *(volatile u64 *)pte[i] = e ? where | e : 0;
        invlpg(page_at(i));
    }
    for (unsigned i = 0; s->code && i < PAGES; i++)
        __asm__ volatile("call *%0" ::"r"(page_at(i) + 0xa00) : "eax", "memory");
    if (s->device)
        *(volatile u32 *)(LAPIC + LAPIC_LDR) = 0x12000000;
    write_cr0(s->no_wp ? read_cr0() & ~CR0_WP : read_cr0() | CR0_WP);
    write_cr2(0);
    __asm__ volatile("fninit; xorps %xmm0, %xmm0; xorps %xmm1, %xmm1");
}

static void run(const struct setup *s, const u8 *at, unsigned bits, unsigned order, bool step)
{
    prepare(s, order);
    struct trap_frame f = first;
    f.ip = (u64)at;
    f.cs = bits == 64 ? (s->user ? SEL_UCODE : SEL_CODE) : s->user ? SEL_UCODE32 : SEL_CODE32;
    f.ss = s->user ? SEL_UDATA : SEL_DATA;
    f.flags |= step ? TF : 0;
    got.f.vector = 255;
    TRY(enter(&f));
    got.f.flags &= ~(TF | RF);
    for (unsigned i = 0; i < ENTRIES; i++)
        got.pte[i] = *(volatile u64 *)pte[i];
}

static bool as_wanted(unsigned order)
{
    return same(&got, &want[order], sizeof got / 8) && same((void *)FRAMES, want_memory[order], WORDS);
}

static void report(const char *name, const struct setup *s, u64 at, unsigned order, unsigned n)
{
    static unsigned reports;
    if (reports++ > 12)
        return;
    const struct outcome *w = &want[order];
    print("%s, %s, data at %lx, run %u: trap %lx error %lx ip %lx cr2 %lx flags %lx, not %lx %lx %lx %lx %lx\n", name,
          s->name, at, n, got.f.vector, got.f.error, got.f.ip, got.cr2, got.f.flags, w->f.vector, w->f.error, w->f.ip,
          w->cr2, w->f.flags);
    const u64 *a = (const u64 *)&got, *b = (const u64 *)w;
    static const char *const names[] = {"r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
                                        "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax"};
    for (unsigned i = 0; i < 15; i++)
        if (a[i] != b[i])
            print("    %s %lx, not %lx\n", names[i], a[i], b[i]);
    if (got.f.sp != w->f.sp)
        print("    rsp %lx, not %lx\n", got.f.sp, w->f.sp);
    for (unsigned i = 0; i < ENTRIES; i++)
        if (got.pte[i] != w->pte[i])
            print("    entry of page %lx %lx, not %lx\n", (u64)page_at(i), got.pte[i], w->pte[i]);
    for (unsigned i = 0; i < WORDS; i++)
        if (((volatile u64 *)FRAMES)[i] != want_memory[order][i]) {
            print("    memory at %lx %lx, not %lx\n", FRAMES + 8 * i, ((volatile u64 *)FRAMES)[i],
                  want_memory[order][i]);
            break;
        }
}

// One piece at one place: what it should do, and then what it does, again and again, with its pages here and there.
static bool try_piece(const char *name, const u8 *at, unsigned bits, const struct setup *s, unsigned runs)
{
    for (unsigned order = 0; order < 2; order++) {
        run(s, at, bits, order, true);
        want[order] = got;
        copy(want_memory[order], (void *)FRAMES, WORDS);
        faults += got.f.vector != 3;
    }
    for (unsigned i = 0; i < runs; i++) {
        unsigned order = i / 3 & 1;
        run(s, at, bits, order, false);
        if (!as_wanted(order)) {
            report(name, s, bits == 64 ? first.rbx : (u32)first.rbx, order, i);
            return false;
        }
    }
    clean++;
    return true;
}

// A new place for code, every time: engines remember how one did.
static u8 *put_code(const u8 *from, u64 bytes)
{
    u8 *at = next_code;
    for (u64 i = 0; i < bytes; i++)
        ((volatile u8 *)at)[i + (WRITABLE - CODE)] = from[i];
    next_code += bytes + 5;
    return at;
}

// Data near `at`.
static void set_registers(u64 at)
{
    first = (struct trap_frame){.rbx = at,
                                .rdi = at,
                                .rsi = at + 0x20,
                                .rbp = at + 0x40,
                                .sp = at + 0x60,
                                .r10 = at + 8,
                                .r11 = at + 0x10,
                                .r15 = at + 0x18,
                                .r14 = at + 0x28,
                                .rcx = 2,
                                .r8 = 3,
                                .r9 = (u64)pte[at >> 12 & 3],
                                .rax = 0x1122334455667788,
                                .rdx = 0x0123456789abcdef,
                                .r12 = 0x1212121212121212,
                                .r13 = 0x1313131313131313,
                                .flags = 0x802};
}

// --- known pieces -------------------------------------------------------------------------------------------------------

#define CASE(name, bits, text) \
    __asm__(".pushsection .rodata; .code" #bits "; .intel_syntax noprefix\npiece_" #name ": " text \
            "; int3\npiece_" #name "_end:\n.att_syntax prefix; .code64; .popsection\n"); \
    extern const u8 piece_##name[], piece_##name##_end[];
#include "share64_cases.def"
#undef CASE

static const struct piece {
    const char *name;
    unsigned bits;
    const u8 *code, *end;
} pieces[] = {
#define CASE(name, bits, text) {#name, bits, piece_##name, piece_##name##_end},
#include "share64_cases.def"
#undef CASE
};
#define PIECES (sizeof pieces / sizeof *pieces)

static const struct setup setups[] = {
    {.name = "plain", .entry = {ALL, ALL, ALL}},
    {.name = "second page absent", .entry = {ALL, 0, ALL}},
    {.name = "first page absent", .entry = {0, ALL, ALL}},
    {.name = "clean", .entry = {ALL & ~PTE_D, ALL & ~(PTE_A | PTE_D), ALL & ~PTE_D}},
    {.name = "first page clean", .entry = {ALL & ~(PTE_A | PTE_D), ALL, ALL}},
    {.name = "read-only", .entry = {ALL & ~PTE_W, ALL & ~PTE_W, ALL}},
    {.name = "second page read-only", .entry = {ALL, ALL & ~(PTE_W | PTE_D), ALL}},
    {.name = "read-only, clean, CR0.WP = 0",
     .entry = {ALL & ~(PTE_W | PTE_D), ALL & ~(PTE_W | PTE_D), ALL},
     .no_wp = true},
    {.name = "code", .entry = {ALL, ALL, ALL}, .code = true},
    {.name = "CPL 3", .entry = {ALL, ALL & ~PTE_D, ALL}, .user = true},
    {.name = "CPL 3, read-only", .entry = {ALL & ~PTE_W, ALL & ~PTE_U, ALL}, .user = true},
};
#define SETUPS (sizeof setups / sizeof *setups)

// From the page's end. The first ones with every setup.
static const int positions[] = {-0x200, -8, -16, -48, -128, -3, -4, -12, -24, -32, -40, -64, -96, -256, 0, -1};

static void known(const struct piece *p)
{
    unsigned bad = 0;
    for (unsigned i = 0; i < SETUPS; i++)
        for (unsigned k = 0; k < (i == 0 ? sizeof positions / sizeof *positions : 6); k++) {
            set_registers((p->bits == 64 ? HIGH : LOW) + 4096 + (u64)(i64)positions[k]);
            const u8 *at = put_code(p->code, (u64)(p->end - p->code));
            bad += !try_piece(p->name, at, p->bits, &setups[i], (i + k) % 4 == 1 ? 24 : 4);
        }
    check_at(!bad, p->name, 0, "%u places were bad", bad);
}

static void every_known(void)
{
    for (unsigned i = 0; i < PIECES; i++)
        known(&pieces[i]);
    CHECK(faults > 300);
    CHECK(next_code < (u8 *)CODE + CODE_SIZE);
    CHECK(steps > 10000);
}

// Copy the instructions of `text` to a new place.
#define PUT_PIECE(text) \
    ({ \
        const u8 *from_, *to_; \
        __asm__ volatile(".pushsection .rodata; .intel_syntax noprefix\n771: " text \
                         "; int3\n772: .att_syntax prefix; .popsection; mov $771b, %0; mov $772b, %1" \
                         : "=r"(from_), "=r"(to_)); \
        put_code(from_, (u64)(to_ - from_)); \
    })

// What must be, whatever single-steps say.
static void dirty_bits(void)
{
    static const struct setup untouched = {.name = "untouched",
                                           .entry = {PTE_P | PTE_W | PTE_U, PTE_P | PTE_W | PTE_U, 0}},
                              forbidden = {.name = "forbidden", .entry = {PTE_P | PTE_U, ALL & ~PTE_W, 0}};
    const u8 *at = PUT_PIECE("mov rax, [rbx]; mov rdx, [r9]; mov [rbx + 8], rax; mov r12, [r9]; mov r13, [rbx + 16]");
    for (unsigned i = 0; i < 40; i++) {
        set_registers(HIGH + 0x800);
        run(&untouched, at, 64, i & 1, false);
        CHECK_EQ(got.f.vector, 3);
        CHECK_EQ(got.f.rdx & (PTE_A | PTE_D), PTE_A);
        CHECK_EQ(got.f.r12 & (PTE_A | PTE_D), PTE_A | PTE_D);
        CHECK_EQ(got.pte[1] & (PTE_A | PTE_D), 0);
    }
    at = PUT_PIECE("mov rax, [rbx]; cmp rax, rdx; je 1f; mov rdx, [r9]; cmp rdx, rax; nop; mov [rbx + 8], rax; 1:");
    for (unsigned i = 0; i < 40; i++) {
        set_registers(HIGH + 0x800);
        bool leaves = i & 1;
        if (leaves)
            first.rdx = template_at(0, 0x800, 0);
        const struct setup *s = i & 2 ? &forbidden : &untouched;
        run(s, at, 64, 0, false);
        CHECK_EQ(got.f.vector, leaves || s == &untouched ? 3 : 14);
        if (!leaves)
            CHECK_EQ(got.f.rdx & (PTE_A | PTE_D), PTE_A);
        CHECK_EQ(got.pte[0] & (PTE_A | PTE_D), leaves || s == &forbidden ? PTE_A : PTE_A | PTE_D);
        if (got.f.vector == 14) {
            CHECK_EQ(got.f.error, 3);
            CHECK_EQ(got.cr2, HIGH + 0x808);
        }
    }
}

// A write into code that has been run, in the group of a read: a function, and an instruction of the same piece.
static void code_changes(void)
{
    static const struct setup plain = {.name = "plain", .entry = {ALL, ALL, ALL}, .code = true};
    const u8 *at =
        PUT_PIECE("mov rax, [rbx]; mov rdx, [rbx + 8]; mov [rbx + 1], ecx; call rbx; mov edi, eax; mov r12, [rbx];"
                  "inc dword ptr [rbx + 1]; call rbx");
    for (u32 i = 0; i < 40; i++) {
        set_registers(HIGH + 0xa00);
        first.sp = HIGH + 0x1800;
        first.rcx = 0x1000 + 3 * i;
        run(&plain, at, 64, i & 1, false);
        CHECK_EQ(got.f.vector, 3);
        CHECK_EQ(got.f.rdi, first.rcx);
        CHECK_EQ(got.f.rax, first.rcx + 1);
        CHECK_EQ(got.f.rdx, template_at(0, 0xa08, i & 1));
    }
    at = PUT_PIECE(
        "lea rbx, [rip + 1f]; add rbx, r14; mov eax, [rbx]; mov [rbx + 1], ecx; mov edx, [rbx + 1]; 1: mov edi, 5; mov rsi, [rbx]");
    for (u32 i = 0; i < 40; i++) {
        set_registers(HIGH + 0x800);
        first.rcx = 0x2000 + 5 * i;
        first.r14 = WRITABLE - CODE;
        run(&plain, at, 64, i & 1, false);
        CHECK_EQ(got.f.vector, 3);
        CHECK_EQ(got.f.rdi, first.rcx);
        CHECK_EQ(got.f.rdx, first.rcx);
    }
}

static void device(void)
{
    static const struct setup s = {.name = "device", .entry = {ALL | PTE_PCD, ALL, ALL}, .device = true},
                              plain = {.name = "plain", .entry = {ALL, ALL, ALL}};
    const u8 *at =
        PUT_PIECE("mov eax, [rbx + 0x80]; mov r12d, [rbx + 0xd0]; mov [rbx + 0xd0], ecx; mov r13d, [rbx + 0xd0];"
                  "mov edx, [rbx + 0x20]");
    u32 version = *(volatile u32 *)(LAPIC + 0x20);
    for (u32 i = 0; i < 60; i++) {
        set_registers(HIGH);
        first.rcx = (0x20 + i) << 24;
        bool is_device = i < 30 || i & 1;
        run(is_device ? &s : &plain, at, 64, 0, false);
        CHECK_EQ(got.f.vector, 3);
        CHECK_EQ(got.f.r13, first.rcx);
        if (is_device) {
            CHECK_EQ(got.f.rax, 0);
            CHECK_EQ(got.f.r12, 0x12000000);
            CHECK_EQ(got.f.rdx, version);
            CHECK_EQ(*(volatile u32 *)(LAPIC + LAPIC_LDR), first.rcx);
        }
    }
}

// In the middle of a piece.
static void remapped(void)
{
    static const struct setup plain = {.name = "plain", .entry = {ALL, ALL, ALL}};
    const u8 *at = PUT_PIECE("mov rax, [rbx]; mov [rbx + 8], rcx; mov rdx, [r9]; mov [r9], r8; invlpg [rbx];"
                             "mov r12, [rbx]; mov [rbx + 8], r12; mov r13, [rbx + 16]");
    for (unsigned i = 0; i < 20; i++) {
        set_registers(HIGH + 0x400);
        first.r8 = frame_of(1, 0) | ALL;
        run(&plain, at, 64, 0, false);
        CHECK_EQ(got.f.vector, 3);
        volatile u64 *was = (u64 *)(frame_of(0, 0) + 0x400), *is = (u64 *)(frame_of(1, 0) + 0x400);
        CHECK_EQ(got.f.rax, was[0]);
        CHECK_EQ(was[1], 2);
        CHECK_EQ(got.f.r12, is[0]);
        CHECK_EQ(is[1], is[0]);
        CHECK_EQ(got.f.r13, is[2]);
    }
}

// --- random pieces ------------------------------------------------------------------------------------------------------

enum { NONE = 16, LOCK = 0xf0 };

static bool wide; // 64-bit code
static u8 *out;

static u32 next_random(u32 below)
{
    static u32 seed = 1234;
    seed = seed * 1664525 + 1013904223;
    return (u32)((u64)(seed >> 4) * below >> 28);
}

// Registers that hold pointers, small numbers, anything.
static unsigned pointer(void)
{
    static const u8 r[] = {3, 5, 6, 7, 4, 3, 10, 11, 15, 14};
    return r[next_random(wide ? 10 : 6)];
}

static unsigned number(void)
{
    static const u8 r[] = {1, 8, 9};
    return r[next_random(wide ? 3 : 1)];
}

static unsigned anything(void)
{
    static const u8 r[] = {0, 2, 12, 13};
    return r[next_random(wide ? 4 : 2)];
}

static unsigned any_register(void)
{
    return next_random(4) ? anything() : next_random(3) ? pointer() : number();
}

static unsigned full_size(void)
{
    return wide ? 8 : 4;
}

static unsigned any_size(void)
{
    static const u8 sizes[] = {4, 4, 1, 2, 8, 8, 8};
    return sizes[next_random(wide ? 7 : 4)];
}

struct operand {
    unsigned base, index, scale;
    i32 disp;
    u8 segment;
    bool half; // a 32-bit address in 64-bit code
};

static struct operand any_operand(void)
{
    struct operand m = {.base = pointer(), .index = NONE, .disp = (i32)next_random(160) - 48};
    if (!next_random(8))
        m.disp = (i32)next_random(600) - 300;
    if (next_random(2))
        m.disp &= ~7;
    if (!next_random(4)) {
        m.index = number();
        m.scale = next_random(4);
    }
    if (!next_random(24))
        m.segment = next_random(2) ? 0x64 : 0x65;
    m.half = wide && !next_random(24);
    return m;
}

// Prefixes and opcode (0fxx: of two bytes). Without a size it is what the code's mode makes of it.
static void put_opcode(unsigned prefix, unsigned size, unsigned opcode, unsigned reg, unsigned index, unsigned base)
{
    if (size == 2)
        *out++ = 0x66;
    if (prefix)
        *out++ = (u8)prefix;
    unsigned rex = (size == 8 ? 8 : 0) | (reg & 8) >> 1 | (index != NONE ? (index & 8) >> 2 : 0) | (base & 8) >> 3;
    if (wide && (rex || size == 1))
        *out++ = (u8)(0x40 | rex);
    if (opcode > 0xff)
        *out++ = 0x0f;
    *out++ = (u8)opcode;
}

static void put_imm(unsigned size, u32 v)
{
    for (unsigned i = 0; i < size; i++)
        *out++ = (u8)(v >> 8 * i);
}

static void on_memory(unsigned prefix, unsigned size, unsigned opcode, unsigned reg)
{
    struct operand m = any_operand();
    if (m.segment)
        *out++ = m.segment;
    if (m.half)
        *out++ = 0x67;
    put_opcode(prefix, size, opcode, reg, m.index, m.base);
    bool sib = m.index != NONE || (m.base & 7) == 4, small = m.disp >= -128 && m.disp < 128;
    *out++ = (u8)((small ? 0x40 : 0x80) | (reg & 7) << 3 | (sib ? 4 : m.base & 7));
    if (sib)
        *out++ = (u8)(m.scale << 6 | (m.index == NONE ? 4 : m.index & 7) << 3 | (m.base & 7));
    put_imm(small ? 1 : 4, (u32)m.disp);
}

static void on_register(unsigned size, unsigned opcode, unsigned reg, unsigned rm)
{
    put_opcode(0, size, opcode, reg, NONE, rm);
    *out++ = (u8)(0xc0 | (reg & 7) << 3 | (rm & 7));
}

// Opcodes of operations on bytes have bit 0 clear.
static unsigned sized(unsigned opcode, unsigned size)
{
    return size == 1 ? opcode : opcode | 1;
}

static void put_access(void)
{
    unsigned size = any_size();
    switch (next_random(12)) {
    case 0:
    case 1:
    case 2:
        on_memory(0, size, sized(0x8a, size), size == full_size() && !next_random(4) ? pointer() : anything());
        break;
    case 3:
    case 4:
    case 5: on_memory(0, size, sized(0x88, size), any_register()); break;
    case 6: on_memory(0, size, sized(0x00, size), any_register()); break;
    case 7: on_memory(0, size, sized(0x02, size), anything()); break;
    case 8:
        on_memory(0, size, sized(0xc6, size), 0);
        put_imm(size == 8 ? 4 : size, next_random(1 << 28));
        break;
    case 9: on_memory(0, size, sized(0x38, size), any_register()); break;
    case 10: on_memory(0, full_size(), next_random(2) ? 0xfb6 : 0xfbf, anything()); break;
    default: on_memory(0, 1, 0xf90 + next_random(16), 0); break;
    }
}

static void put_exchange(void)
{
    unsigned size = next_random(3) ? full_size() : any_size();
    switch (next_random(6)) {
    case 0:
        on_memory(next_random(2) ? LOCK : 0, size, sized(0xfc0, size), next_random(2) ? pointer() : anything());
        break;
    case 1: on_memory(next_random(2) ? LOCK : 0, size, sized(0xfb0, size), any_register()); break;
    case 2: on_memory(0, size, sized(0x86, size), next_random(2) ? pointer() : anything()); break;
    case 3: on_memory(LOCK, size, sized(0xfe, size), next_random(2)); break;
    case 4: on_memory(LOCK, size, sized(0x00, size), any_register()); break;
    default: on_memory(next_random(2) ? LOCK : 0, 0, 0xfc7, 1); break; // CMPXCHG8B
    }
}

static void put_stack(void)
{
    unsigned reg = any_register();
    switch (next_random(10)) {
    case 0:
    case 1:
    case 2: put_opcode(0, 0, 0x50 + (reg & 7), 0, NONE, reg); break;
    case 3:
        put_opcode(0, 0, 0x6a, 0, NONE, 0);
        put_imm(1, next_random(256));
        break;
    case 4:
    case 5:
        reg = next_random(5) ? anything() : pointer();
        put_opcode(0, 0, 0x58 + (reg & 7), 0, NONE, reg);
        break;
    case 6: on_memory(0, 0, 0xff, 6); break;
    case 7: on_memory(0, 0, 0x8f, 0); break;
    case 8:
        on_register(full_size(), 0x83, next_random(2) ? 5 : 0, 4); // ADD, SUB
        put_imm(1, next_random(8) * 8);
        break;
    default:
        if (next_random(3))
            on_register(full_size(), 0x8b, next_random(2) ? 5 : 4, next_random(2) ? 5 : 4);
        else
            put_opcode(0, 0, 0xc9, 0, NONE, 0); // LEAVE
        break;
    }
}

// Mostly the whole register, and mostly in a way that can be followed.
static void put_change(void)
{
    static const u8 sizes[] = {8, 8, 8, 8, 8, 4, 2, 1};
    unsigned size = sizes[next_random(8)], reg = next_random(4) ? pointer() : number();
    if (!wide && size == 8)
        size = 4;
    switch (next_random(9)) {
    case 0: on_register(size, sized(0x8a, size), pointer(), pointer()); break;
    case 1: on_memory(0, size == 1 ? 4 : size, 0x8d, pointer()); break;
    case 2:
        on_register(size, size == 1 ? 0x80 : 0x83, next_random(2) ? 0 : 5, reg);
        put_imm(1, next_random(3) ? next_random(32) : 256 - next_random(32));
        break;
    case 3: on_register(size, sized(0xfe, size), next_random(2), reg); break;
    case 4: on_register(full_size(), 0x87, pointer(), pointer()); break;
    case 5: on_register(size == 1 ? 4 : size, 0xf40 + next_random(16), pointer(), pointer()); break;
    case 6: on_memory(0, full_size(), 0xf40 + next_random(16), pointer()); break;
    case 7:
        if (size == 1) {
            on_register(1, 0xc6, 0, pointer());
            put_imm(1, next_random(256));
        } else {
            on_register(full_size(), 0xfc1, pointer(), number()); // XADD
        }
        break;
    default: on_register(full_size(), 0x11, number(), pointer()); break; // ADC
    }
}

static void put_other(void)
{
    unsigned x = next_random(2), n;
    switch (next_random(9)) {
    case 0: on_memory(0, 0, 0xf10, x); break; // MOVUPS
    case 1: on_memory(0, 0, 0xf11, x); break;
    case 2: on_memory(0, 0, next_random(2) ? 0xf28 : 0xf29, x); break; // MOVAPS
    case 3: on_memory(0x66, 0, 0xfd6, x); break;                       // MOVQ
    case 4: on_memory(0x66, 0, 0xffc, x); break;                       // PADDB
    case 5:
        on_memory(0, 0, 0xdf, 5); // FILD, FISTP
        on_memory(0, 0, 0xdf, 7);
        break;
    case 6: on_memory(0, 0, next_random(2) ? 0xf18 : 0xf1f, 1); break; // PREFETCHT0, NOP
    case 7:
        n = number(); // BTS
        on_memory(0, 4, 0xfab, n);
        on_register(4, 0x39, n, n);
        break;
    default:
        put_opcode(0, 0, 0xe8, 0, NONE, 0); // CALL to the next instruction
        put_imm(4, 0);
        break;
    }
}

static void put_insn(void)
{
    unsigned x = next_random(32);
    if (x < 14)
        put_access();
    else if (x < 21)
        put_stack();
    else if (x < 26)
        put_change();
    else if (x < 28)
        put_exchange();
    else if (x < 30)
        put_other();
    else { // a jump over one instruction, or not
        u8 *jump = out;
        out += 2;
        put_access();
        jump[0] = (u8)(0x70 + next_random(16));
        jump[1] = (u8)(out - jump - 2);
    }
}

static void dump(const u8 *at, unsigned n)
{
    print("    %u-bit code at %lx:", wide ? 64 : 32, (u64)at);
    for (unsigned i = 0; i < n; i++)
        print(" %02x", at[i]);
    print("\n");
}

static void one_random(void)
{
    static u8 buf[64 * 16];
    wide = next_random(4);
    out = buf;
    for (unsigned n = 3 + next_random(next_random(4) ? 14 : 40); n > 0; n--)
        put_insn();
    *out++ = 0xcc;
    u32 back = next_random(3) ? 8 * next_random(20) : next_random(3) ? next_random(160) : 0x300;
    if (!next_random(4))
        back &= ~15u;
    set_registers((wide ? HIGH : LOW) + 4096 - back + (next_random(4) ? 0 : 4096));
    first.r9 = 1;
    first.flags |= next_random(2) | (next_random(2) ? 0x40 : 0) | (next_random(2) ? 0x80 : 0);
    const struct setup *s = &setups[next_random(2) ? 0 : next_random(SETUPS)];
    const u8 *at = put_code(buf, (u64)(out - buf));
    if (!try_piece("random", at, wide ? 64 : 32, s, next_random(16) ? 4 : 24))
        dump(at, (unsigned)(out - buf));
}

static void every_random(void)
{
    enum { COUNT = 3000 };
    unsigned was = clean, bad = faults;
    for (unsigned i = 0; i < COUNT; i++)
        one_random();
    CHECK_EQ(clean - was, COUNT);
    CHECK(faults - bad > COUNT / 4 && faults - bad < 2 * COUNT * 3 / 4);
}

// --------------------------------------------------------------------------------------------------------------------------

// Random pieces come across anything. What is not put back before each run must not be there.
static void keep_what_is_needed(void)
{
    extern u8 image_end[];
    u64 *writable = pte_of(WRITABLE);
    for (u64 a = 0; a < 32u << 20; a += 4096) {
        u64 *entry = pte_of(a & ~0x1ffffful) + (a >> 12 & 511);
        if (a >= CODE && a < CODE + CODE_SIZE) {
            writable[(a - CODE) >> 12] = a | ALL;
            *entry = a | (ALL & ~PTE_W);
        } else if ((a < FRAMES || a >= FRAMES + WORDS * 8) && (a < 1u << 20 || a >= (u64)image_end)) {
            *entry = 0;
        }
    }
}

static void init(void)
{
    static const u8 vectors[] = {0, 1, 3, 6, 12, 13, 14, 17};
    for (unsigned i = 0; i < sizeof vectors; i++) {
        set_gate(vectors[i], (u64)gate_stub(vectors[i]), SEL_CODE, 14, vectors[i] == 3 ? 3 : 0, 1);
        trap_handler[vectors[i]] = on_trap;
    }
    tss.ist[0] = (u64)gate_stack + sizeof gate_stack;
    for (unsigned i = 0; i < ENTRIES; i++)
        pte[i] = pte_of((u64)page_at(i));
    for (unsigned i = PAGES; i < 512; i++)
        pte[PAGES][i] = 0; // there was a large page
    keep_what_is_needed();
    write_cr3(read_cr3());
    // All pointers, to somewhere in the first pages, and in each page a function: MOV EAX, 5; RET.
    for (unsigned i = 0; i < WORDS; i++)
        template[i] = i % 512 == 0x140 ? 0xc300000005b8 : HIGH + 0x208 + (i * 0x130 + i / 512 * 0x40) % 0x1df0;
    wrmsr(0xc0000100, 0x28);
}

void guest_main(void)
{
    init();
    dirty_bits();
    code_changes();
    device();
    remapped();
    every_known();
    every_random();
}
