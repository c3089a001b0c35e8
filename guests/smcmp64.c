// Two processors, one of which changes the code that the other runs: by the protocols that the manual (SDM 3A 8.1.3) and kernels use,
// and by stores of a whole aligned instruction, which a processor sees either before or after. What ran must be one of the versions
// that there were, and after an acknowledgement the new one.
//
// No peer: QEMU's TCG reads code byte by byte, and now and then runs half of an old instruction with half of a new one.
#include "code.h"

const char guest_name[] = "smcmp64";

#define TRAMPOLINE 0x8000
#define VEC_SYNC 0x31
#define LAPIC 0xfee00000ul
#define ICR_BUSY 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_INIT 0x500u
#define ICR_SIPI 0x600u
#define ICR_OTHERS 0xc0000u
#define SOME_TIME 600000000ull // ticks; the host may have one processor for both

static u32 lapic_read(unsigned reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static void send(u32 icr)
{
    lapic_write(0x300, icr);
    while (lapic_read(0x300) & ICR_BUSY)
        ;
}

static void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

// --- starting the other -------------------------------------------------------------------------------------------------

__asm__(".pushsection .rodata\n"
        ".code16\n"
        "trampoline:\n"
        "  cli; xorw %ax, %ax; movw %ax, %ds\n"
        "  lgdtl 0x8f00\n"
        "  movl 0x8f10, %eax; movl %eax, %cr3\n"
        "  movl $0x620, %eax; movl %eax, %cr4\n"
        "  movl $0xc0000080, %ecx; rdmsr; orl $0x901, %eax; wrmsr\n"
        "  movl $0x80010033, %eax; movl %eax, %cr0\n"
        "  ljmpl $0x08, $other_entry\n"
        "trampoline_end:\n"
        ".code64\n"
        ".popsection\n"
        "other_entry:\n"
        "  movl $0x10, %eax; movl %eax, %ds; movl %eax, %es; movl %eax, %ss\n"
        "  lidt other_idt\n"
        "  movq $other_stack + 8192, %rsp\n"
        "  xorl %ebp, %ebp\n"
        "  call other_main\n");
extern u8 trampoline[], trampoline_end[];
extern struct table_reg gdt_reg;
struct table_reg other_idt;
u8 other_stack[8192] __attribute__((aligned(16)));
void other_main(void);

// What the other processor found. Its side of a round: `latest` before and after a run of the code.
static volatile u32 latest, runs, too_old, too_new, torn;

static void (*volatile job)(void);
static volatile u32 ready, finish, done;

// Runs jobs with interrupts on.
void other_main(void)
{
    lapic_write(0xf0, 0x1ff);
    __asm__ volatile("sti");
    ready = 1;
    for (;;) {
        void (*fn)(void) = job;
        if (!fn) {
            pause();
            continue;
        }
        fn();
        job = NULL;
        done = 1;
    }
}

static bool start_other(void)
{
    u8 *page = (u8 *)TRAMPOLINE;
    for (unsigned i = 0; i < (unsigned)(trampoline_end - trampoline); i++)
        page[i] = trampoline[i];
    *(u16 *)(page + 0xf00) = gdt_reg.limit;
    *(u32 *)(page + 0xf02) = (u32)gdt_reg.base;
    *(u32 *)(page + 0xf10) = (u32)read_cr3();
    __asm__ volatile("sidt %0" : "=m"(other_idt));
    lapic_write(0xf0, 0x1ff);
    send(ICR_OTHERS | ICR_ASSERT | ICR_INIT);
    for (unsigned i = 0; i < 10000; i++)
        outb(0x80, 0);
    send(ICR_OTHERS | ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12);
    for (u64 start = rdtsc(); !ready && rdtsc() - start < 20000000000ull;)
        pause();
    CHECK_EQ(ready, 1);
    return ready;
}

// Rounds go on until there were enough, or they took long enough, but not before the other has had its share.
static bool more(u32 rounds, u32 wanted, u64 start)
{
    u64 ticks = rdtsc() - start;
    return (rounds <= wanted && ticks < SOME_TIME) || (runs < 10 && ticks < 20000000000ull);
}

static void start_job(void (*fn)(void))
{
    finish = done = 0;
    __atomic_store_n(&job, fn, __ATOMIC_SEQ_CST);
}

static void end_job(void)
{
    finish = 1;
    while (!done)
        pause();
}

static void judge(u32 before, u32 got, u32 after)
{
    runs++;
    if (got < before)
        too_old++;
    if (got > after + 1)
        too_new++;
}

static void check_judgement(const char *how, u32 rounds)
{
    check_at(!too_old && !too_new && !torn, how, (int)rounds, "of %u runs %u were too old, %u too new, %u torn", runs,
             too_old, too_new, torn);
    CHECK(runs > 0);
    runs = too_old = too_new = torn = latest = 0;
}

// --- whole instructions, stored at once ---------------------------------------------------------------------------------

// The immediate of MOV EAX, imm32 is aligned, and changes without any protocol: what runs is never older than what ran before, and
// reaches the newest in the end.
static void run_immediate(void)
{
    u32 last = 0;
    while (!finish) {
        u32 got = call(code + 3);
        runs++;
        if (got < last)
            too_old++;
        if (got > latest + 1)
            too_new++;
        last = got;
    }
    while (call(code + 3) != latest) // this must end
        serialize();
}

static void aligned_stores(u8 *through, const char *how)
{
    put_return(code + 3, 0);
    start_job(run_immediate);
    u32 i = 1;
    for (u64 start = rdtsc(); more(i, 3000, start); i++) {
        __atomic_store_n((u32 *)(through + 4), i, __ATOMIC_SEQ_CST);
        latest = i;
        pause();
    }
    end_job();
    check_judgement(how, i);
}

// A jump of two aligned bytes that goes to one of two places, or NOP: the static keys of kernels.
static void run_jump(void)
{
    while (!finish) {
        u32 got = call(code);
        runs++;
        if (got != 1 && got != 2 && got != 3)
            torn++;
    }
}

static void jump_targets(void)
{
    static const u16 versions[3] = {0x0eeb, 0x1eeb, 0x9066}; // JMP +16, JMP +32, 66 NOP
    put_return(code + 2, 3);
    put_return(code + 16, 1);
    put_return(code + 32, 2);
    *(volatile u16 *)code = versions[0];
    start_job(run_jump);
    u32 i = 0;
    for (u64 start = rdtsc(); more(i, 3000, start); i++) {
        *(volatile u16 *)code = versions[i % 3];
        pause();
    }
    end_job();
    check_judgement("jumps", i);
}

// --- with a protocol ----------------------------------------------------------------------------------------------------

// The flag of SDM 8.1.3: the other waits at a flag, serializes, and runs.
static volatile u32 flag, answer;

static void run_when_told(void)
{
    for (u32 seen = 0; !finish;) {
        if (flag == seen) {
            pause();
            continue;
        }
        seen = flag;
        serialize();
        answer = call(code);
        runs++;
        __atomic_store_n(&flag, ++seen, __ATOMIC_SEQ_CST);
    }
}

static void by_flag(void)
{
    flag = 0;
    start_job(run_when_told);
    u32 wrong = 0, i = 0;
    for (u64 start = rdtsc(); more(i, 1000, start); i++) {
        put_return((i & 1 ? code : alias), 0x1000 + i); // byte by byte, and in another form every third time
        if (i % 3 == 0)
            PUT(code + 5, 0x83, 0xc0, 0x00, 0xc3); // ADD EAX, 0; RET
        __atomic_store_n(&flag, flag + 1, __ATOMIC_SEQ_CST);
        while (flag & 1)
            pause();
        wrong += answer != 0x1000 + i;
    }
    end_job();
    CHECK_EQ(wrong, 0);
    check_judgement("by a flag", i);
}

// By an interrupt: the other stops in the handler while the code changes, and serializes.
static volatile u32 stopped, go_on;

static bool on_sync(struct trap_frame *f)
{
    u32 mine = go_on;
    stopped = 1;
    while (go_on == mine)
        pause();
    serialize();
    if (f->ip - (word)(code + 0x20) < 8) // in the middle of what is no more
        f->ip = (word)(code + 0x20);
    lapic_write(0xb0, 0);
    stopped = 2;
    return true;
}

static void run_judged(void)
{
    while (!finish) {
        u32 before = latest, got = call(code + 0x20), after = latest;
        judge(before, got, after);
    }
}

static void by_interrupt(void)
{
    trap_handler[VEC_SYNC] = on_sync;
    put_return(code + 0x20, 0);
    start_job(run_judged);
    u32 i = 1;
    for (u64 start = rdtsc(); more(i, 1000, start); i++) {
        stopped = 0;
        send(ICR_OTHERS | ICR_ASSERT | VEC_SYNC);
        while (stopped != 1)
            pause();
        // In place, or moved by a byte, with a NOP in front.
        if (i & 1) {
            code[0x20] = 0x90;
            put_return(code + 0x21, i);
        } else {
            put_return(code + 0x20, i);
        }
        go_on = go_on + 1;
        while (stopped != 2)
            pause();
        latest = i;
    }
    end_job();
    check_judgement("by an interrupt", i);
}

// As Linux does: INT3 over the first byte, everybody serializes, the rest, everybody serializes, the first byte. Who meets the INT3
// goes on behind the instruction with what it will do.
static volatile u32 poke_value, traps;

static bool on_int3(struct trap_frame *f)
{
    if (f->ip != (word)code + 0x41)
        return false;
    traps++;
    f->rax = poke_value;
    f->ip += 4;
    return true;
}

static void sync_other(void)
{
    stopped = 0;
    send(ICR_OTHERS | ICR_ASSERT | VEC_SYNC);
    while (stopped != 1)
        pause();
    go_on = go_on + 1;
    while (stopped != 2)
        pause();
}

static void run_poked(void)
{
    while (!finish) {
        u32 before = latest, got = call(code + 0x40), after = latest;
        judge(before, got, after);
    }
}

static void text_poke(void)
{
    trap_handler[3] = on_int3;
    put_return(code + 0x40, 0);
    start_job(run_poked);
    u32 i = 1;
    for (u64 start = rdtsc(); more(i, 1000, start); i++) {
        poke_value = i;
        *(volatile u8 *)(code + 0x40) = 0xcc;
        sync_other();
        for (unsigned k = 1; k < 5; k++)
            *(volatile u8 *)(alias + 0x40 + k) = (u8)(i >> 8 * (k - 1));
        sync_other();
        *(volatile u8 *)(code + 0x40) = 0xb8;
        sync_other();
        latest = i;
    }
    end_job();
    check_judgement("by INT3", i);
    trap_handler[3] = NULL;
}

// The page changes under the other: a shootdown of its translation, to a page that has other code.
static bool on_shoot(struct trap_frame *f)
{
    (void)f;
    invlpg(code + 4096);
    lapic_write(0xb0, 0);
    stopped = 2;
    return true;
}

static void run_remapped(void)
{
    while (!finish) {
        u32 before = latest, got = call(code + 4096), after = latest;
        judge(before, got, after);
    }
}

static void remapped(void)
{
    trap_handler[VEC_SYNC] = on_shoot;
    put_return(flat + 4096, 0);
    start_job(run_remapped);
    u32 i = 1;
    for (u64 start = rdtsc(); more(i, 1000, start); i++) {
        put_return(flat + (1 + (i & 1)) * 4096, i); // not the page in use
        stopped = 0;
        __atomic_store_n(&code_pte[1], (PHYS + (1 + (i & 1)) * 4096) | PTE_ALL, __ATOMIC_SEQ_CST);
        send(ICR_OTHERS | ICR_ASSERT | VEC_SYNC);
        while (stopped != 2)
            pause();
        invlpg(code + 4096);
        latest = i;
    }
    end_job();
    check_judgement("by remapping", i);
    map_back(1);
}

// Both write data beside the code that both run, and code to each other in turns.
static u32 both(u32 n)
{
    u32 wrong = 0;
    for (u32 i = 0; i < n; i++) {
        u64 got;
        __asm__ volatile("call *%1" : "=a"(got) : "r"(code + 0x80) : "memory", "cc"); // LOCK XADD [RIP + x], EAX of 1
        wrong += got == 0;
    }
    return wrong;
}

static void run_both(void)
{
    torn += both(2000);
    runs++;
}

static void shared_page(void)
{
    // MOV EAX, 1; LOCK XADD [RIP + 0x100 - 13], EAX; INC EAX; RET
    PUT(code + 0x80, 0xb8, 1, 0, 0, 0, 0xf0, 0x0f, 0xc1, 0x05, 0xf3, 0, 0, 0, 0xff, 0xc0, 0xc3);
    *(volatile u32 *)(code + 0x180) = 0;
    start_job(run_both);
    torn += both(2000);
    end_job();
    CHECK_EQ(*(volatile u32 *)(code + 0x180), 4000);
    check_judgement("data beside code", 0);
}

void guest_main(void)
{
    code_init();
    put_return(code + 3, 0);
    if (!start_other())
        return;
    aligned_stores(code, "aligned stores");
    aligned_stores(alias, "aligned stores through another page");
    aligned_stores(flat, "aligned stores through a large page");
    jump_targets();
    by_flag();
    by_interrupt();
    text_poke();
    remapped();
    shared_page();
}
