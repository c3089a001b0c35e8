// Calls and returns that do not pair: deeper than anybody keeps a record of, returns that nobody called, calls that nobody returns from,
// unwinding over thousands of frames, a stack for each call, return addresses that change, and stack pointers that lead nowhere.
//
// QEMU's TCG is no peer: it faults where a return has gone to, and not at the return.
#include "code.h"

const char guest_name[] = "escret64";

#define STACKS 0x01000000ul // 4 MiB
#define STACKS_END 0x01400000ul
#define ABSENT 0x60000000ul // two pages, the second of which may be there
#define NON_CANONICAL 0x0000800000000000ul
#define IST_SS 1
#define IST_OTHER 2

static u8 ist_stack[2][8192] __attribute__((aligned(16)));

// Run some text on a stack of its own. In: RAX, RCX, RDX. Out: RAX, RDX. It comes back with RSP as it was, or RBP holding that.
#define ON_STACK(sp, text, a, c, d) \
    ({ \
        u64 rax_ = (u64)(a), rcx_ = (u64)(c), rdx_ = (u64)(d); \
        register u64 sp_ __asm__("r8") = (u64)(sp); \
        __asm__ volatile("push %%rbp; mov %%rsp, %%rbp; mov %%r8, %%rsp; " text "; mov %%rbp, %%rsp; pop %%rbp" \
                         : "+a"(rax_), "+c"(rcx_), "+d"(rdx_), "+r"(sp_) \
                         : \
                         : "rbx", "rsi", "rdi", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc"); \
        got_d = rdx_; \
        rax_; \
    })
static u64 got_d;

// --- depth --------------------------------------------------------------------------------------------------------------

// All of them return, in two functions by turns; each adds one on the way back.
static void deep(void)
{
    static const u32 depth[] = {1, 10, 1000, 5000, 30000, 100000};
    for (unsigned i = 0; i < 2 * sizeof depth / sizeof *depth; i++) {
        u32 n = depth[i / 2];
        CHECK_EQ(ON_STACK(STACKS_END,
                          "call 1f; jmp 9f; 1: dec %%ecx; jz 3f; call 2f; inc %%rax; ret\n"
                          "2: dec %%ecx; jz 3f; call 1b; lea 1(%%rax), %%rax; ret; 3: ret; 9:",
                          0, n, 0),
                 n - 1);
    }
}

// A tree of calls: 2^n leaves.
static void tree(void)
{
    for (unsigned n = 1; n < 15; n += 3)
        CHECK_EQ(ON_STACK(STACKS_END,
                          "call 1f; jmp 9f; 1: test %%ecx, %%ecx; jz 2f; push %%rcx; dec %%ecx; call 1b\n"
                          "mov (%%rsp), %%rcx; dec %%ecx; call 1b; pop %%rcx; ret; 2: inc %%rax; ret; 9:",
                          0, n, 0),
                 1ul << n);
}

// Up and down around a depth, over and over.
static void up_and_down(void)
{
    u64 want = 0;
    for (u32 i = 1; i <= 300; i++)
        want += i & 127;
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "mov $300, %%edx; 1: mov %%edx, %%ecx; and $127, %%ecx; inc %%ecx; call 2f; dec %%edx; jnz 1b; jmp 9f\n"
            "2: dec %%ecx; jz 3f; call 2b; inc %%rax; 3: ret; 9:",
            0, 0, 0),
        want);
}

// --- without a partner --------------------------------------------------------------------------------------------------

// PUSH and RET instead of a jump; thousands of addresses on the stack, each of which returns to the next.
static void returns_alone(void)
{
    u64 *sp = (u64 *)STACKS_END;
    u64 gadget[4];
    __asm__ volatile(
        "lea 1f(%%rip), %0; lea 2f(%%rip), %1; lea 3f(%%rip), %2; lea 4f(%%rip), %3; jmp 5f\n"
        "1: inc %%eax; ret; 2: add $100, %%rax; ret; 3: add $10000, %%rax; nop; ret; 4: inc %%eax; ret $8; 5:"
        : "=r"(gadget[0]), "=r"(gadget[1]), "=r"(gadget[2]), "=r"(gadget[3]));
    for (unsigned round = 0; round < 3; round++) {
        u64 want = 0;
        sp = (u64 *)STACKS_END;
        *--sp = 0; // the way out
        u64 *out = sp;
        for (unsigned i = 0; i < 20000; i++) {
            unsigned k = (i * 2654435761u >> 13) % (round + 2);
            if (sp == out && k == 3)
                k = 0;
            if (k == 3) { // drops a word behind the address that it goes to
                u64 next = *sp;
                *sp = 0x1234;
                *--sp = next;
            }
            want += k == 0 || k == 3 ? 1 : k == 1 ? 100 : 10000;
            *--sp = gadget[k];
        }
        CHECK_EQ(ON_STACK(sp, "lea 9f(%%rip), %%rbx; mov %%rbx, (%%rdx); ret; 9:", 0, 0, out), want);
    }
    CHECK_EQ(ON_STACK(STACKS_END, "1: lea 2f(%%rip), %%rbx; push %%rbx; ret; ud2; 2: inc %%rax; dec %%ecx; jnz 1b", 0,
                      50000, 0),
             50000);
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "1: lea 2f(%%rip), %%rbx; push %%rbx; ret $0xfff8; 2: lea -0xfff8(%%rsp), %%rsp; inc %%rax; dec %%ecx; jnz 1b",
            0, 100, 0),
        100);
}

static void calls_alone(void)
{
    CHECK_EQ(ON_STACK(STACKS_END, "1: call 2f; 2: pop %%rbx; inc %%rax; dec %%ecx; jnz 1b", 0, 100000, 0), 100000);
    CHECK_EQ(
        ON_STACK(STACKS_END, "1: call 2f; ud2; 2: lea 8(%%rsp), %%rsp; inc %%rax; dec %%ecx; jnz 1b", 0, 100000, 0),
        100000);
    // Nobody ever returns: the stack fills.
    CHECK_EQ(ON_STACK(STACKS_END, "1: call 2f; ud2; 2: inc %%rax; dec %%ecx; jnz 1b", 0, 300000, 0), 300000);
    // One call, many returns to its address, by pushing it again.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "call 1f; inc %%rax; dec %%ecx; jz 9f; push %%rbx; ret; 1: mov (%%rsp), %%rbx; ret; 9:", 0, 10000,
                      0),
             10000);
}

// As longjmp() does: from some depth right back to the start.
static void unwinding(void)
{
    for (unsigned depth = 1; depth < 10000; depth = depth * 3 + 1)
        CHECK_EQ(ON_STACK(STACKS_END,
                          "1: mov %%edx, %%ecx; mov %%rsp, %%rbx; call 2f; ud2; 2: dec %%ecx; jz 3f; call 2b; ud2\n"
                          "3: mov %%rbx, %%rsp; inc %%rax; call 4f; cmp $40, %%eax; jb 1b; jmp 9f; 4: ret; 9:",
                          0, 0, depth),
                 40);
    // From a depth to the middle of it.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "mov $2000, %%ecx; xor %%ebx, %%ebx; call 1f; jmp 9f\n"
                      "1: cmp $1000, %%ecx; jne 2f; mov %%rsp, %%rbx; 2: dec %%ecx; jz 3f; call 1b; inc %%rax; ret\n"
                      "3: mov %%rbx, %%rsp; ret; 9:",
                      0, 0, 0),
             1000);
}

// --- stacks -------------------------------------------------------------------------------------------------------------

// Coroutines in a ring: each yields to the next by changing stacks and returning.
static void coroutines(void)
{
    for (unsigned n = 2; n <= 512; n *= 4) {
        u64 entry, *sp = (u64 *)STACKS_END;
        __asm__ volatile(
            "lea 1f(%%rip), %0; jmp 2f; 1: inc %%rax; call 3f; add $2, %%rax; call 3f; jmp 1b\n"
            "3: mov %%rsp, (%%rdx); add $8, %%rdx; cmp %%rdi, %%rdx; cmove %%rsi, %%rdx; dec %%ecx; jz 4f; mov (%%rdx), %%rsp; ret\n"
            "4: mov %%rbx, %%rsp; ret; 2:"
            : "=r"(entry));
        u64 *table = (u64 *)STACKS;
        for (unsigned i = 0; i < n; i++) {
            sp = (u64 *)(STACKS_END - 0x1000 - i * 0x400);
            *--sp = entry;
            table[i] = (u64)sp;
        }
        u32 switches = n * 40; // every one does it 40 times, half of them with 1 and half with 2
        CHECK_EQ(ON_STACK(STACKS_END,
                          "lea (%%rdx,%%rax,8), %%rdi; mov %%rdx, %%rsi; xor %%eax, %%eax; call 1f; jmp 9f\n"
                          "1: mov %%rsp, %%rbx; mov (%%rdx), %%rsp; ret; 9:",
                          n, switches, table),
                 n * 20 * 3);
    }
    // Two functions that call each other on each other's stack.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "lea -0x10000(%%rsp), %%rdx; 1: call 2f; dec %%ecx; jnz 1b; jmp 9f\n"
                      "2: pop %%rbx; xchg %%rsp, %%rdx; push %%rbx; call 3f; inc %%rax; ret; 3: inc %%rax; ret; 9:",
                      0, 1000, 0),
             2000);
}

// --- changed addresses --------------------------------------------------------------------------------------------------

static void changed_addresses(void)
{
    // Past the next instruction; back to before the call; to another place altogether, each time.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: call 2f; add $100, %%rax; inc %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: addq $4, (%%rsp); ret; 9:",
                      0, 5000, 0),
             5000);
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: inc %%rax; call 2f; jmp 9f; 2: dec %%ecx; jz 3f; subq $8, (%%rsp); ret; 3: ret; 9:", 0, 5000,
                      0),
             5000);
    // Into the middle of an instruction: MOV EAX, imm32 whose immediate is INC EDX; NOP; JMP over nothing.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: call 2f; mov $0x90c2ff90, %%ebx; dec %%ecx; jnz 1b; jmp 9f\n"
                      "2: test $1, %%cl; jz 3f; incq (%%rsp); 3: ret; 9:",
                      0, 4000, 0),
             0);
    CHECK_EQ(got_d, 2000);
    // By turns: the caller's address and one more.
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "1: call 2f; inc %%rax; nop; dec %%ecx; jnz 1b; jmp 9f; 2: mov %%ecx, %%edx; and $3, %%edx; jnz 3f; addq $3, (%%rsp); 3: ret; 9:",
            0, 4000, 0),
        3000);
    // Two addresses on the stack change places.
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: call 2f; add $1, %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: call 3f; add $10, %%rax; ret\n"
                      "3: pop %%rbx; pop %%rsi; push %%rbx; push %%rsi; ret; 9:",
                      0, 1, 0),
             1);
}

static void other_ways_back(void)
{
    // JMP, far RET, IRETQ, and RET with what it drops, by turns.
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "1: call 2f; inc %%rax; mov %%ecx, %%edx; push %%rdx; push %%rdx; call 3f; inc %%rax; call 4f; inc %%rax; call 5f\n"
            "inc %%rax; call 6f; inc %%rax; dec %%ecx; jnz 1b; jmp 9f\n"
            "2: pop %%rbx; jmp *%%rbx\n"
            "3: ret $16\n"
            "4: pop %%rbx; mov %%cs, %%esi; push %%rsi; push %%rbx; lretq\n"
            "5: pop %%rbx; mov %%rsp, %%rdi; mov %%ss, %%esi; push %%rsi; push %%rdi; pushf; mov %%cs, %%esi; push %%rsi; push %%rbx; iretq\n"
            "6: lea 8(%%rsp), %%rsp; jmp *-8(%%rsp); 9:",
            0, 3000, 0),
        15000);
    // Far calls and near ones in each other. (A far RET drops 16 bytes.)
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "1: call 2f; inc %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: mov %%cs, %%esi; push %%rsi; call 3f; inc %%rax; ret\n"
            "3: call 4f; inc %%rax; lretq; 4: ret; 9:",
            0, 3000, 0),
        9000);
    // Calls by memory and by register, one that pushes what it is called by, a call of the stack's top.
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "lea 2f(%%rip), %%rbx; push %%rbx; push %%rbx; 1: call *%%rbx; call *(%%rsp); call *8(%%rsp); lea (%%rsp), %%r10; call *(%%r10)\n"
            "mov %%rbx, %%r11; call *%%r11; mov %%rbx, %%r15; call *%%r15; dec %%ecx; jnz 1b; jmp 9f; 2: inc %%rax; ret; 9:",
            0, 3000, 0),
        18000);
    // The return address is popped as data, and the stack pointer by a pop.
    CHECK_EQ(
        ON_STACK(
            STACKS_END,
            "1: call 2f; inc %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: push %%rsp; pop %%rsp; pushq (%%rsp); popq (%%rsp); mov %%rsp, %%rsi; push %%rsi; "
            "mov (%%rsp), %%rsp; ret; 9:",
            0, 1000, 0),
        1000);
}

// --- traps between call and return --------------------------------------------------------------------------------------

static unsigned trapped;

static bool skip_ud2(struct trap_frame *f)
{
    trapped++;
    f->ip += 2;
    return true;
}

// Drops the innermost call.
static bool return_for_it(struct trap_frame *f)
{
    trapped++;
    f->ip = *(u64 *)f->sp;
    f->sp += 8;
    return true;
}

static void traps_between(void)
{
    trap_handler[6] = skip_ud2;
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: call 2f; inc %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: ud2; call 3f; ud2; ret; 3: ud2; ret; 9:", 0,
                      1000, 0),
             1000);
    CHECK_EQ(trapped, 3000);
    trap_handler[6] = return_for_it;
    CHECK_EQ(ON_STACK(STACKS_END,
                      "1: call 2f; inc %%rax; dec %%ecx; jnz 1b; jmp 9f; 2: call 3f; inc %%rax; ret; 3: ud2; 9:", 0,
                      1000, 0),
             2000);
    trap_handler[6] = NULL;
    CHECK_EQ(trapped, 4000);
}

// --- faults -------------------------------------------------------------------------------------------------------------

struct step {
    const u8 *code;
    const char *name;
    int vector; // with a stack pointer that is not canonical
    u64 reads;  // first access: where from RSP; or WRITES
    u64 error;  // of the page fault
};

#define STEP(text, vector_, reads_, error_) \
    ({ \
        const u8 *at_; \
        __asm__ volatile(".pushsection .text.steps, \"ax\"; 771: " text "; ud2; .popsection; mov $771b, %0" \
                         : "=r"(at_)); \
        (struct step){at_, text, vector_, (u64)(reads_), error_}; \
    })

// Go there with a stack pointer and nothing else.
__attribute__((noinline)) static void go(const u8 *code, u64 sp)
{
    TRY(__asm__ volatile("mov %1, %%rsp; mov %1, %%rbp; jmp *%0" ::"r"(code), "r"(sp), "a"(0), "c"(0) : "memory"));
}

static u64 frame_sp;
static bool note_frame(struct trap_frame *f)
{
    frame_sp = f->sp;
    return false;
}

static void bad_stacks(void)
{
    const struct step steps[] = {
        STEP("push %%rax", 12, -8, 2),
        STEP("push $1", 12, -8, 2),
        STEP("pushf", 12, -8, 2),
        STEP("call .+64", 12, -8, 2),
        STEP("call *%%rax", 12, -8, 2),
        STEP("push stack_word(%%rip)", 12, -8, 2),
        STEP("pop %%rax", 12, 0, 0),
        STEP("popf", 12, 0, 0),
        STEP("ret", 12, 0, 0),
        STEP("ret $16", 12, 0, 0),
        STEP("pop stack_word(%%rip)", 12, 0, 0),
        STEP("mov (%%rsp), %%rax", 12, 0, 0),
        STEP("mov %%eax, 4(%%rsp)", 12, 4, 2),
        STEP("add %%rax, (%%rbp)", 12, 0, 2),
        STEP("leave", 12, 0, 0),
        STEP("enter $0, $0", 12, -8, 2),
        STEP("xchg %%rax, -16(%%rsp)", 12, -16, 2),
        STEP("pushw %%ax", 12, -2, 2),
        STEP("popw %%ax", 12, 0, 0),
        STEP("call *8(%%rsp)", 12, 8, 0),
        STEP("jmp *(%%rsp)", 12, 0, 0),
        STEP("iretq", 12, 16, 0),
        STEP("lretq", 12, 8, 0),
        STEP("push %%fs", 12, -8, 2),
        STEP("pop %%fs", 12, 0, 0),
    };
    static const u8 vectors[] = {12, 13, 14};
    for (unsigned i = 0; i < 3; i++) {
        set_gate(vectors[i], (word)gate_stub(vectors[i]), SEL_CODE, 14, 0, IST_SS);
        trap_handler[vectors[i]] = note_frame;
    }
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
            const struct step *s = &steps[i];
            u64 bad[] = {NON_CANONICAL + 0x100, 0x8000000000000000, 0xdead000000000100};
            for (unsigned k = 0; k < 3; k++) {
                frame_sp = 1;
                go(s->code, bad[k]);
                check_at(trap.vector == s->vector && trap.error == 0 && trap.ip == (word)s->code && frame_sp == bad[k],
                         __FILE__, __LINE__, "%s at %lx: trap %d error %lx at +%lx sp %lx", s->name,
                         (unsigned long)bad[k], trap.vector, (unsigned long)trap.error,
                         (unsigned long)(trap.ip - (word)s->code), (unsigned long)frame_sp);
            }
            u64 sp = ABSENT + 0x800;
            frame_sp = 1;
            go(s->code, sp);
            check_at(trap.vector == 14 && trap.error == s->error && trap.ip == (word)s->code &&
                         trap.cr2 == sp + s->reads && frame_sp == sp,
                     __FILE__, __LINE__, "%s at %lx: trap %d error %lx at +%lx cr2 %lx sp %lx", s->name,
                     (unsigned long)sp, trap.vector, (unsigned long)trap.error,
                     (unsigned long)(trap.ip - (word)s->code), (unsigned long)trap.cr2, (unsigned long)frame_sp);
        }
    for (unsigned i = 0; i < 3; i++) {
        reset_gate(vectors[i]);
        trap_handler[vectors[i]] = NULL;
    }
}

u64 stack_word;

// Where a return goes: to nothing, to what is not canonical, to what may not be executed, from a stack half in an absent page.
static void bad_targets(void)
{
    u64 *sp = (u64 *)(STACKS_END - 64);
    for (unsigned i = 0; i < 20; i++) {
        struct step s[] = {STEP("ret", 0, 0, 0), STEP("ret $8", 0, 0, 0), STEP("jmp *(%%rsp)", 0, 0, 0),
                           STEP("call *(%%rsp)", 0, 0, 0)};
        const struct step *t = &s[i % 4];
        sp[0] = NON_CANONICAL + i;
        set_gate(13, (word)gate_stub(13), SEL_CODE, 14, 0, IST_OTHER);
        trap_handler[13] = note_frame;
        go(t->code, (u64)sp);
        CHECK_TRAP_ERR(13, 0);
        CHECK_EQ(trap.ip, (word)t->code);
        CHECK_EQ(frame_sp, (u64)sp);
        reset_gate(13);
        trap_handler[13] = NULL;
        sp[0] = ABSENT + i;
        set_gate(14, (word)gate_stub(14), SEL_CODE, 14, 0, IST_OTHER);
        trap_handler[14] = note_frame;
        go(t->code, (u64)sp);
        CHECK_TRAP_ERR(14, 16);
        CHECK_EQ(trap.ip, ABSENT + i);
        CHECK_EQ(trap.cr2, ABSENT + i);
        CHECK_EQ(frame_sp, (u64)sp + (i % 4 == 0 ? 8 : i % 4 == 1 ? 16 : i % 4 == 2 ? 0 : -8ul));
        // Half of the address in a page that is there, half in one that is not.
        go(t->code, ABSENT - 4);
        CHECK_TRAP_ERR(14, 0);
        CHECK_EQ(trap.cr2, ABSENT);
        CHECK_EQ(trap.ip, (word)t->code);
        CHECK_EQ(frame_sp, ABSENT - 4);
        reset_gate(14);
        trap_handler[14] = NULL;
    }
}

// A deep stack whose lower pages come into being as calls fault on them, and vanish before the returns.
static unsigned mapped;

static bool map_stack(struct trap_frame *f)
{
    (void)f;
    *pte_of(trap.cr2) = ((STACKS + trap.cr2 - ABSENT) & ~4095ul) | PTE_ALL;
    invlpg((void *)trap.cr2);
    mapped++;
    return true;
}

static void growing_stack(void)
{
    u64 top = ABSENT + 0x40000;
    set_gate(14, (word)gate_stub(14), SEL_CODE, 14, 0, IST_OTHER);
    trap_handler[14] = map_stack;
    for (unsigned round = 0; round < 3; round++) {
        mapped = 0;
        for (u64 a = ABSENT; a < top; a += 4096) {
            *pte_of(a) = 0;
            invlpg((void *)a);
        }
        // At the bottom every page is taken away again, and comes back by a fault of a return.
        CHECK_EQ(
            ON_STACK(
                top,
                "mov %%rax, %%rsi; xor %%eax, %%eax; mov $20000, %%ecx; call 1f; jmp 9f\n"
                "1: dec %%ecx; jz 2f; call 1b; inc %%rax; ret\n"
                "2: movq $0, (%%rdx); add $8, %%rdx; cmp %%rsi, %%rdx; jne 2b; mov %%cr3, %%rbx; mov %%rbx, %%cr3; ret; 9:",
                pte_of(top - 4096) + 1, 0, pte_of(ABSENT)),
            19999);
        CHECK_EQ(mapped, 2 * ((20000 * 8 + 4095) / 4096));
    }
    reset_gate(14);
    trap_handler[14] = NULL;
}

void guest_main(void)
{
    *pte_of(ABSENT) = 0;
    *pte_of(ABSENT - 4096) = (STACKS + 0x1000) | PTE_ALL;
    write_cr3(read_cr3());
    tss.ist[IST_SS - 1] = (word)ist_stack[0] + sizeof ist_stack[0];
    tss.ist[IST_OTHER - 1] = (word)ist_stack[1] + sizeof ist_stack[1];
    deep();
    tree();
    up_and_down();
    returns_alone();
    calls_alone();
    unwinding();
    coroutines();
    changed_addresses();
    other_ways_back();
    traps_between();
    bad_stacks();
    bad_targets();
    growing_stack();
}
