// Code that leads from page to page while the pages move: a maze whose rooms are mapped, unmapped, made non-executable and rewritten at
// random in three address spaces, with and without PCIDs, against a model of what the walk must add up to. Then the same code at two
// linear addresses, of which one lies at an end of what is canonical, or of the address space.
//
// QEMU's TCG differs in 48 checks: it faults where a jump to no canonical address has gone to, and not at the jump.
#include "code.h"

const char guest_name[] = "escpage64";

#define CR4_PCIDE 0x20000ull
#define NOFLUSH (1ull << 63)
#define ROOMS 8u   // pages of the window that change; behind them is one that ends the walk
#define SHEETS 16u // physical pages for them
#define SPACES 3u
#define LAST SHEETS // physical page of the end
#define SHEET(n) (PHYS + (n)*4096u)
#define EXECUTABLE (PTE_P | PTE_W | PTE_U)

// --- pages of code ------------------------------------------------------------------------------------------------------

// A sheet, with its number in several places:
//   000  two bytes that end an instruction at ffd
//   002  ADD EAX, id; JMP to 002 of the next page
//   100  ADD EAX, id; DEC ECX; JZ over JMP to 100 of the next page; RET
//   200  ADD EAX, id; CALL 200 of the next page; LEA EAX, [RAX + 2 * RAX]; RET
//   300  ADD EAX, id; ADD RDX, 4096; JMP RDX
//   400  ADD EAX, id; JC to itself + 3, which never is; PUSH of 400 in the next page by way of LEA; RET
//   ff7  ADD EAX, id8; NOP; NOP; NOP; ADD EAX, imm32 whose upper half lies at 000 of the next page
// The last page has RET at all of them, but at 000.
static u32 id_of[SHEETS + 1];

static void put32(u8 *at, u32 v)
{
    for (unsigned i = 0; i < 4; i++)
        ((volatile u8 *)at)[i] = (u8)(v >> 8 * i);
}

static void put_id(u8 *sheet, u32 id)
{
    *(volatile u16 *)sheet = (u16)(id * 3);
    static const u16 at[] = {3, 0x101, 0x201, 0x301, 0x401};
    for (unsigned i = 0; i < 5; i++)
        put32(sheet + at[i], id);
    sheet[0xff9] = (u8)(id & 0x7f);
    *(volatile u16 *)(sheet + 0xffe) = (u16)id;
}

static void put_sheet(unsigned n)
{
    u8 *s = flat + n * 4096;
    for (unsigned i = 0; i < 4096; i++)
        ((volatile u8 *)s)[i] = 0xcc;
    if (n == LAST) {
        s[0] = 0x11;
        s[1] = 0x22;
        s[2] = s[0x100] = s[0x200] = s[0x300] = s[0x400] = 0xc3;
        return;
    }
    PUT(s + 2, 0x05, 0, 0, 0, 0, 0xe9, 0xf6, 0x0f, 0, 0);
    PUT(s + 0x100, 0x05, 0, 0, 0, 0, 0xff, 0xc9, 0x74, 0x05, 0xe9, 0xf2, 0x0f, 0, 0, 0xc3);
    PUT(s + 0x200, 0x05, 0, 0, 0, 0, 0xe8, 0xf6, 0x0f, 0, 0, 0x8d, 0x04, 0x40, 0xc3);
    PUT(s + 0x300, 0x05, 0, 0, 0, 0, 0x48, 0x81, 0xc2, 0, 0x10, 0, 0, 0xff, 0xe2);
    PUT(s + 0x400, 0x05, 0, 0, 0, 0, 0x48, 0x8d, 0x35, 0xf4, 0x0f, 0, 0, 0x56, 0xc3);
    PUT(s + 0xff7, 0x83, 0xc0, 0, 0x90, 0x90, 0x90, 0x05, 0, 0);
    s[0xff9] = 0;
    id_of[n] = 0x1000 * n + 7;
    put_id(s, id_of[n]);
}

// What the bytes at ffe of one sheet and at 000 of another make together.
static u32 joined(unsigned a, unsigned b)
{
    u32 upper = b == LAST ? 0x2211 : (u16)(id_of[b] * 3);
    return (u16)id_of[a] | upper << 16;
}

// --- the maze -----------------------------------------------------------------------------------------------------------

// What is mapped in each space.
struct room {
    unsigned sheet;
    enum { OPEN, ABSENT, NO_EXECUTE } state;
};

static struct space {
    u64 cr3, *pte;
    struct room room[ROOMS];
    bool stale; // changed while another was in use: what is known of it must be forgotten on the way in
} space[SPACES];
static struct space *now;
static bool pcids;

static u64 make_space(struct space *s, unsigned n)
{
    if (n)
        return other_space(&s->pte);
    s->pte = pte_of(WINDOW);
    return read_cr3() & 0x000ffffffffff000ull;
}

static u32 seed = 4711;

static u32 next_random(u32 below)
{
    seed = seed * 1664525 + 1013904223;
    return (u32)((u64)(seed >> 4) * below >> 28);
}

static void invpcid(u64 type, u64 pcid, u64 linear)
{
    struct {
        u64 pcid, linear;
    } d = {pcid, linear};
    __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

static bool has_invpcid;

static void write_entry(struct space *s, unsigned i)
{
    static const u64 bits[] = {EXECUTABLE, 0, EXECUTABLE | PTE_NX};
    const struct room *r = &s->room[i];
    ((volatile u64 *)s->pte)[i] = r->state == ABSENT ? 0 : SHEET(r->sheet) | bits[r->state];
}

static void change_room(void)
{
    struct space *s = next_random(3) ? now : &space[next_random(SPACES)];
    unsigned i = next_random(ROOMS), x = next_random(10);
    s->room[i].state = x == 0 ? ABSENT : x == 1 ? NO_EXECUTE : OPEN;
    if (x > 2)
        s->room[i].sheet = next_random(SHEETS);
    write_entry(s, i);
    if (s == now && next_random(4))
        invlpg(code + i * 4096 + next_random(4096));
    else if (s == now)
        write_cr3(s->cr3);
    else if (pcids && has_invpcid && next_random(2))
        invpcid(next_random(3), s->cr3 & 0xfff, WINDOW + i * 4096);
    else
        s->stale = true;
}

static void change_space(void)
{
    struct space *s = &space[next_random(SPACES)];
    bool keep = pcids && !s->stale && next_random(3);
    write_cr3(s->cr3 | (keep ? NOFLUSH : 0));
    s->stale = false;
    now = s;
}

// By the memory's own address, through the window where it can be, or with one byte of it only.
static void change_sheet(void)
{
    unsigned n = next_random(SHEETS);
    u8 *at = flat + n * 4096;
    for (unsigned i = 0; i < ROOMS && next_random(2); i++)
        if (now->room[i].sheet == n && now->room[i].state != ABSENT)
            at = code + i * 4096;
    id_of[n] = next_random(3) ? id_of[n] + 1 : next_random(1 << 20);
    put_id(at, id_of[n]);
    serialize();
}

struct walk {
    u32 sum;
    int vector; // -1: it arrives
    u32 error;
    u64 ip, cr2;
};

// The first room from `i` on that cannot be entered.
static unsigned closed(unsigned i)
{
    while (i < ROOMS && now->room[i].state == OPEN)
        i++;
    return i;
}

static u32 id_at(unsigned room)
{
    return id_of[now->room[room].sheet];
}

static const u16 ways[] = {2, 0x100, 0x200, 0x300, 0x400, 0xff7};

static struct walk expected(unsigned way, unsigned from, unsigned steps)
{
    struct walk w = {0, -1, 0, 0, 0};
    unsigned end = closed(from), first = from;
    u64 at = WINDOW + end * 4096 + ways[way];
    bool early = way == 1 && from + steps <= end;
    if (early)
        end = from + steps;
    if (way == 5 && end > from) { // the rest of it begins at 002 of the next page
        w.sum = (id_at(from) & 0x7f) +
                (end > from + 1 || end == ROOMS
                     ? joined(now->room[from].sheet, from + 1 == ROOMS ? LAST : now->room[from + 1].sheet)
                     : 0);
        at = end == from + 1 ? WINDOW + from * 4096 + 0xffd : WINDOW + end * 4096 + 2;
        first = from + 1;
    }
    for (unsigned i = first; i < end; i++)
        w.sum += id_at(i);
    if (way == 2)
        for (unsigned i = first; i < end; i++)
            w.sum *= 3;
    if (end < ROOMS && !early) {
        w.vector = 14;
        w.error = now->room[end].state == ABSENT ? 16 : 17;
        w.ip = at;
        w.cr2 = way == 5 && end == from + 1 ? WINDOW + end * 4096 : at;
    }
    return w;
}

__attribute__((noinline)) static u32 walk(u64 at, u32 steps)
{
    u32 sum = 0;
    TRY(__asm__ volatile("call *%1" : "+a"(sum) : "d"(at), "c"(steps) : "rsi", "memory", "cc"));
    return sum;
}

static void run_maze(unsigned count)
{
    unsigned wrong = 0, done = 0, faults = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned x = next_random(20);
        if (x < 5)
            change_room();
        else if (x < 7)
            change_space();
        else if (x < 9)
            change_sheet();
        unsigned way = next_random(6), from = next_random(ROOMS), steps = 1 + next_random(ROOMS);
        struct walk want = expected(way, from, steps);
        u64 at = WINDOW + from * 4096 + ways[way];
        u32 sum = walk(at, steps);
        bool ok = trap.vector == want.vector &&
                  (want.vector < 0 ? sum == want.sum
                                   : trap.error == want.error && trap.ip == want.ip && trap.cr2 == want.cr2);
        done++;
        faults += want.vector >= 0;
        if (!ok && wrong++ < 5)
            print("walk %u: way %x from %u: sum %x, not %x; trap %d, not %d, error %lx ip %lx, not %lx, cr2 %lx\n", i,
                  ways[way], from, sum, want.sum, trap.vector, want.vector, (unsigned long)trap.error,
                  (unsigned long)trap.ip, (unsigned long)want.ip, (unsigned long)trap.cr2);
    }
    CHECK(faults > count / 20 && faults < count);
    check_at(wrong == 0, __FILE__, __LINE__, "%u of %u walks", wrong, done);
}

static void maze(void)
{
    u32 r[4];
    for (unsigned n = 0; n <= SHEETS; n++)
        put_sheet(n);
    for (unsigned n = SPACES; n-- > 0;) {
        space[n].cr3 = make_space(&space[n], n);
        for (unsigned i = 0; i < ROOMS; i++) {
            space[n].room[i] = (struct room){(i + 3 * n) % SHEETS, OPEN};
            write_entry(&space[n], i);
        }
        space[n].pte[ROOMS] = SHEET(LAST) | EXECUTABLE;
    }
    now = &space[0];
    write_cr3(now->cr3);
    run_maze(30000);
    cpuid(1, 0, r);
    if (!(r[2] >> 17 & 1))
        return;
    cpuid(7, 0, r);
    has_invpcid = r[1] >> 10 & 1;
    write_cr3(space[0].cr3);
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned n = 0; n < SPACES; n++) {
        space[n].cr3 |= n + 1;
        space[n].stale = true;
    }
    pcids = true;
    now = &space[0];
    write_cr3(now->cr3);
    now->stale = false;
    run_maze(60000);
    write_cr3(space[0].cr3 & ~0xfffull);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

// --- ends of the address space ------------------------------------------------------------------------------------------

#define LOWER_END 0x0000800000000000ull
#define UPPER_START 0xffff800000000000ull

// Code at `off` in the first page of the window, and at the same place in a page at an edge: what happens there.
struct edge {
    const char *name;
    u16 off;
    u8 bytes[16], len;
    bool low;   // the edge is below: the page is the first of the upper half
    int vector; // at the edge, with error code 0
    i64 ip;     // from the start of the code, or of the noncanonical part if `at_edge`
    bool at_edge;
};

static const struct edge edges[] = {
    {"run off", 0xff8, {0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}, 8, false, 13, 0, true},
    {"run off, flags", 0xffa, {0xff, 0xc0, 0xff, 0xc8, 0xff, 0xc0}, 6, false, 13, 0, true},
    {"cross", 0xffc, {0x90, 0xb8, 1, 2}, 4, false, 13, 1, false},
    {"jump short", 0xff0, {0xeb, 0x1e}, 2, false, 13, 0, false},
    {"jump", 0xfe0, {0x90, 0xe9, 0x2a, 0, 0, 0}, 6, false, 13, 1, false},
    {"jump conditionally", 0xff0, {0x39, 0xc0, 0x74, 0x1c}, 4, false, 13, 2, false},
    {"call", 0xff0, {0xe8, 0x1b, 0, 0, 0}, 5, false, 13, 0, false},
    {"loop", 0xff0, {0xb9, 2, 0, 0, 0, 0xe2, 0x19}, 7, false, 13, 5, false},
    {"load", 0xf00, {0x8b, 0x05, 0x0a, 1, 0, 0, 0xc3}, 7, false, 13, 0, false},
    {"load across", 0xf00, {0x48, 0x8b, 0x05, 0xf5, 0, 0, 0, 0xc3}, 8, false, 13, 0, false},
    {"store", 0xf00, {0x01, 0x05, 0x0a, 1, 0, 0, 0xc3}, 7, false, 13, 0, false},
    {"jump by memory", 0xf00, {0xff, 0x25, 0x0a, 1, 0, 0}, 6, false, 13, 0, false},
    {"return to the end", 0xff9, {0xeb, 0x00, 0xe8, 0x00, 0xf0, 0xff, 0xff}, 7, false, 13, -0xff9, false},
    {"jump back", 0x10, {0xe9, 0xe0, 0xff, 0xff, 0xff}, 5, true, 13, 0, false},
    {"load back", 0x10, {0x8b, 0x05, 0xe0, 0xff, 0xff, 0xff, 0xc3}, 7, true, 13, 0, false},
    {"store across back", 0x10, {0x89, 0x05, 0xe8, 0xff, 0xff, 0xff, 0xc3}, 7, true, 13, 0, false},
    {"call back", 0x20, {0x90, 0xe8, 0xca, 0xff, 0xff, 0xff, 0xc3}, 7, true, 13, 1, false},
};

__attribute__((noinline)) static void go(u64 at)
{
    // The frame of a fault in there comes to lie where a CALL would have pushed.
    TRY(__asm__ volatile(
        "push %%rbp; mov %%rsp, %%rbp; and $-16, %%rsp; sub $8, %%rsp; call *%0; mov %%rbp, %%rsp; pop %%rbp" ::"r"(at),
        "a"(0), "d"(0)
        : "rcx", "memory", "cc"));
}

static void at_edges(void)
{
    u64 *low = pte_of(LOWER_END - 4096), *high = pte_of(UPPER_START);
    for (unsigned i = 0; i < 3; i++)
        map_back(i);
    for (unsigned k = 0; k < sizeof edges / sizeof *edges; k++) {
        const struct edge *e = &edges[k];
        // The page in question is the middle one; its neighbours return.
        for (unsigned i = 0; i < 3 * 4096; i++)
            ((volatile u8 *)flat)[i] = 0xc3;
        *(volatile u64 *)(flat + 8192 + 0x10) = (u64)code; // where "jump by memory" leads
        put_bytes(flat + 4096 + e->off, e->bytes, e->len);
        serialize();
        u64 edge = e->low ? UPPER_START : LOWER_END - 4096, end = e->low ? UPPER_START : LOWER_END;
        *(volatile u64 *)(e->low ? high : low) = SHEET(1) | EXECUTABLE;
        invlpg((void *)edge);
        for (unsigned i = 0; i < 6; i++) {
            go(WINDOW + 4096 + e->off);
            check_at(trap.vector == -1, __FILE__, __LINE__, "%s in the window: trap %d at %lx", e->name, trap.vector,
                     (unsigned long)trap.ip);
            go(edge + e->off);
            u64 ip = e->at_edge ? end : edge + e->off + (u64)e->ip;
            check_at(trap.vector == e->vector && trap.error == 0 && trap.ip == ip, __FILE__, __LINE__,
                     "%s at the edge: trap %d error %lx at %lx, not %lx", e->name, trap.vector,
                     (unsigned long)trap.error, (unsigned long)trap.ip, (unsigned long)ip);
        }
    }
    *low = *high = 0;
    write_cr3(read_cr3());
}

// The last page and the first: jumps, calls and operands relative to RIP wrap around.
static void around(void)
{
    u64 *pte = pte_of(0xfffffffffffff000ull), *zero = pte_of(0);
    u64 saved = *zero;
    for (unsigned i = 0; i < 3 * 4096; i++)
        ((volatile u8 *)flat)[i] = 0xc3;
    *pte = SHEET(0) | EXECUTABLE;
    *zero = SHEET(1) | EXECUTABLE;
    write_cr3(read_cr3());
    // At ff0: JMP to 100 of the next page; at f00: CALL of that; at f40: MOV EAX, [200 of the next page]; at f80: LEA RAX of it.
    PUT(flat + 0xff0, 0xe9, 0x0b, 1, 0, 0);
    PUT(flat + 0xf00, 0xe8, 0xfb, 1, 0, 0, 0xff, 0xc0, 0xc3);
    PUT(flat + 0xf40, 0x8b, 0x05, 0xba, 2, 0, 0, 0xff, 0x05, 0xb4, 2, 0, 0, 0xc3);
    PUT(flat + 0xf80, 0x48, 0x8d, 0x05, 0x79, 2, 0, 0, 0xc3);
    put_return(flat + 4096 + 0x100, 77);
    *(volatile u32 *)(flat + 4096 + 0x200) = 1000;
    // And back: at 180 of the next page, JMP to fc0 of this one; at 1c0, MOV EAX from fd0.
    PUT(flat + 4096 + 0x180, 0xe9, 0x3b, 0xfe, 0xff, 0xff);
    PUT(flat + 4096 + 0x1c0, 0x8b, 0x05, 0x0a, 0xfe, 0xff, 0xff, 0xc3);
    put_return(flat + 0xfc0, 88);
    *(volatile u32 *)(flat + 0xfd0) = 99;
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(call((void *)0xfffffffffffffff0ull), 77);
        CHECK_EQ(call((void *)0xffffffffffffff00ull), 78);
        CHECK_EQ(call((void *)0xffffffffffffff40ull), 1000 + i);
        u64 a;
        __asm__ volatile("call *%1" : "=a"(a) : "r"(0xffffffffffffff80ull) : "memory");
        CHECK_EQ(a, 0x200);
        CHECK_EQ(call((void *)0x180), 88);
        CHECK_EQ(call((void *)0x1c0), 99);
    }
    *zero = saved;
    *pte = 0;
    write_cr3(read_cr3());
}

// --- one page, several places -------------------------------------------------------------------------------------------

// A loop runs at two addresses by turns; each time round it writes to itself through the other one.
static void two_places(void)
{
    // L: MOV EAX, 0; INC DWORD [RDI + 1]; CPUID (with the old EAX and so on saved); ADD R8D, EAX; DEC ESI; JNZ L; RET
    unsigned n = PUT_ASM(
        flat,
        "1: mov $0, %%eax; incl 1(%%rdi); mov %%eax, %%r9d; xor %%eax, %%eax; xor %%ecx, %%ecx; cpuid; add %%r9d, %%r8d; xchg %%rdi, %%r10; dec %%esi; jnz 1b; ret");
    CHECK(n < 64);
    for (unsigned k = 0; k < 4; k++) {
        register u64 sum __asm__("r8") = 0;
        register u64 other __asm__("r10") = (u64)(k & 1 ? code : flat);
        u64 rdi = (u64)(k & 2 ? alias : flat), rsi = 500;
        put32(flat + 1, 0);
        serialize();
        __asm__ volatile("call *%4"
                         : "+r"(sum), "+r"(other), "+D"(rdi), "+S"(rsi)
                         : "r"(k & 1 ? alias : code)
                         : "rax", "rbx", "rcx", "rdx", "r9", "memory", "cc");
        CHECK_EQ(sum, 500 * 499 / 2);
    }
}

// The instruction after INVLPG, MOV CR3 or a store to the page table comes from the new page, from wherever the branch was.
static void vanishing_chain(void)
{
    // In page 0: L: CALL RSI (which changes page 1); then a jump to page 1, which comes back with RET.
    PUT(flat, 0x51, 0xff, 0xd6, 0x59, 0xe8, 0xf7, 0x0f, 0, 0, 0xe2, 0xf5, 0xc3);
    for (unsigned n = 1; n < 4; n++) { // page 1: ADD EBX, n; JMP +3; ...; RET
        PUT(flat + n * 4096, 0x83, 0xc3, 0, 0xeb, 0x03, 0x90, 0x90, 0x90, 0xc3);
        flat[n * 4096 + 2] = (u8)n;
    }
    // What RSI does: R8 counts 0 1 2; MOV [RDI], entry of R8; INVLPG.
    static u64 entries[3];
    const u8 *change;
    __asm__ volatile(
        ".pushsection .text.change, \"ax\"; 771: inc %%r8d; cmp $3, %%r8d; jb 1f; xor %%r8d, %%r8d; 1: mov (%%r9,%%r8,8), %%rax\n"
        "mov %%rax, (%%rdi); invlpg (%%rdx); ret; .popsection; mov $771b, %0"
        : "=r"(change));
    for (unsigned i = 0; i < 3; i++)
        entries[i] = SHEET(i + 1) | EXECUTABLE;
    for (unsigned k = 0; k < 3; k++) {
        u64 sum = 0, rcx = 3000;
        register u64 r8 __asm__("r8") = k;
        register u64 *r9 __asm__("r9") = entries;
        __asm__ volatile("call *%4"
                         : "+b"(sum), "+c"(rcx), "+r"(r8)
                         : "S"(change), "r"(code), "D"(&code_pte[1]), "d"(code + 4096), "r"(r9)
                         : "rax", "memory", "cc");
        CHECK_EQ(sum, 6000);
    }
    map_back(1);
}

void guest_main(void)
{
    maze();
    code_init();
    at_edges();
    around();
    two_places();
    vanishing_chain();
}
