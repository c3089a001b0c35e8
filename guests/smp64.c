// Several processors in long mode: starting them, interrupts between them, atomics and locks under contention, the memory model,
// TLB shootdown, code that another processor changes. Processors count what they see, and sums must come out exactly; only the
// bootstrap processor prints.
#include "guest.h"

const char guest_name[] = "smp64";

#define MAX_CPUS 16
#define TRAMPOLINE 0x8000
#define VEC_WAKE 0x30
#define VEC_SHOOT 0x31
#define VEC_MESH 0x40 // + sender

#define LAPIC 0xfee00000ul
#define LAPIC_ID 0x20
#define LAPIC_EOI 0xb0
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310

#define ICR_BUSY 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_NMI 0x400u
#define ICR_INIT 0x500u
#define ICR_SIPI 0x600u
#define ICR_OTHERS 0xc0000u

static unsigned cpus;

static u32 lapic_read(unsigned reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static unsigned self(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

static void send(unsigned cpu, u32 icr)
{
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR, icr);
    while (lapic_read(LAPIC_ICR) & ICR_BUSY)
        ;
}

static void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

static void delay(unsigned us)
{
    for (unsigned i = 0; i < us; i++)
        outb(0x80, 0);
}

// A round that needs several processors takes as long as the host takes to let all of them run. So such tests end after this many
// ticks of the TSC, a third of a second or less, or after their rounds.
#define SOME_TIME 800000000ull

#define AS_ATOMIC(x) (*(volatile __typeof__(x) *)&(x))

static void add(volatile u32 *p, u32 n)
{
    __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST);
}

// --- starting ---------------------------------------------------------------------------------------------------------------

// From real mode straight to long mode: the page at TRAMPOLINE, with the operands at its end.
__asm__(".pushsection .rodata\n"
        ".code16\n"
        ".globl trampoline, trampoline_end\n"
        "trampoline:\n"
        "  cli\n"
        "  xorw %ax, %ax\n"
        "  movw %ax, %ds\n"
        "  lgdtl 0x8f00\n"
        "  movl 0x8f10, %eax\n"
        "  movl %eax, %cr3\n"
        "  movl $0x620, %eax\n"
        "  movl %eax, %cr4\n"
        "  movl $0xc0000080, %ecx\n"
        "  rdmsr\n"
        "  orl $0x901, %eax\n"
        "  wrmsr\n"
        "  movl $0x80010033, %eax\n"
        "  movl %eax, %cr0\n"
        "  ljmpl $0x08, $ap_entry\n"
        "trampoline_end:\n"
        ".code64\n"
        ".popsection\n"
        ".globl ap_entry\n"
        "ap_entry:\n"
        "  movl $0x10, %eax\n"
        "  movl %eax, %ds\n"
        "  movl %eax, %es\n"
        "  movl %eax, %ss\n"
        "  lidt ap_idt\n"
        "  movl $1, %eax\n"
        "  lock xaddl %eax, ap_started\n"
        "  incl %eax\n"
        "  shll $13, %eax\n"
        "  leaq ap_stacks(%rax), %rsp\n"
        "  xorl %ebp, %ebp\n"
        "  call ap_main\n"
        "  ud2\n");

extern u8 trampoline[], trampoline_end[];
struct table_reg ap_idt;
volatile u32 ap_started;
u8 ap_stacks[MAX_CPUS * 2][8192] __attribute__((aligned(16))); // a restarted processor takes a new one
extern struct table_reg gdt_reg;
void ap_main(void);

// Work for all: the bootstrap processor counts `generation` up, the others run `job` and count `done`.
static void (*volatile job)(unsigned cpu);
static volatile u32 generation, done, ready;
static volatile u32 bsp_flags; // processors that think they are the bootstrap processor
static volatile u32 id_mask;

static bool on_wake(struct trap_frame *f)
{
    (void)f;
    lapic_write(LAPIC_EOI, 0);
    return true;
}

void ap_main(void)
{
    unsigned cpu = self();
    u32 seen = generation;

    lapic_write(LAPIC_SVR, 0x1ff);
    if (rdmsr(0x1b) & 0x100)
        add(&bsp_flags, 1);
    __atomic_fetch_or(&id_mask, 1u << cpu, __ATOMIC_SEQ_CST);
    add(&ready, 1);
    for (;;) {
        __asm__ volatile("cli");
        if (generation == seen) {
            __asm__ volatile("sti; hlt" ::: "memory");
            continue;
        }
        __asm__ volatile("sti");
        seen++;
        job(cpu);
        add(&done, 1);
    }
}

static void run_all(void (*fn)(unsigned cpu))
{
    done = 0;
    job = fn;
    __atomic_store_n(&generation, generation + 1, __ATOMIC_SEQ_CST);
    send(0, ICR_OTHERS | ICR_ASSERT | VEC_WAKE);
    fn(0);
    while (done != cpus - 1)
        pause();
}

// The number of processors, from the firmware configuration device.
static unsigned count_cpus(void)
{
    outw(0x510, 5);
    unsigned n = inb(0x511);
    return n | (unsigned)inb(0x511) << 8;
}

static void wait_ready(unsigned n)
{
    for (u64 start = rdtsc(); ready != n && rdtsc() - start < 20000000000ull;)
        pause();
}

static void start_all(void)
{
    u8 *page = (u8 *)TRAMPOLINE;
    for (unsigned i = 0; i < (unsigned)(trampoline_end - trampoline); i++)
        page[i] = trampoline[i];
    *(u16 *)(page + 0xf00) = gdt_reg.limit;
    *(u32 *)(page + 0xf02) = (u32)gdt_reg.base;
    *(u32 *)(page + 0xf10) = (u32)read_cr3();
    __asm__ volatile("sidt %0" : "=m"(ap_idt));
    trap_handler[VEC_WAKE] = on_wake;
    lapic_write(LAPIC_SVR, 0x1ff);
    send(0, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
    delay(10000);
    CHECK_EQ(ready, 0);
    send(0, ICR_OTHERS | ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12);
    delay(200);
    send(0, ICR_OTHERS | ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12); // those that run take no notice
    wait_ready(cpus - 1);
    CHECK_EQ(ready, cpus - 1);
    CHECK_EQ(ap_started, cpus - 1);
    CHECK_EQ(bsp_flags, 0);
    CHECK_EQ(id_mask, (1u << cpus) - 2);
    CHECK(rdmsr(0x1b) & 0x100);
}

// INIT stops a processor in the middle of anything; SIPI starts it anew.
static volatile u32 spinning;

static void spin_last(unsigned cpu)
{
    if (cpu != cpus - 1)
        return;
    add(&spinning, 1);
    for (;;)
        AS_ATOMIC(spinning) = spinning + 1;
}

static void restart_one(void)
{
    done = 0;
    job = spin_last;
    __atomic_store_n(&generation, generation + 1, __ATOMIC_SEQ_CST);
    send(0, ICR_OTHERS | ICR_ASSERT | VEC_WAKE);
    while (done != cpus - 2 || spinning < 100)
        pause();
    send(cpus - 1, ICR_ASSERT | ICR_INIT);
    delay(1000);
    ready = cpus - 2;
    send(cpus - 1, ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12);
    wait_ready(cpus - 1);
    CHECK_EQ(ready, cpus - 1);
    u32 stopped = spinning;
    delay(1000);
    CHECK_EQ(spinning, stopped);
}

// --- atomics and locks ---------------------------------------------------------------------------------------------------------

#define ROUNDS 3000u

static volatile u32 lock, ticket_next, ticket_now;
static u32 guarded, guarded_by_ticket; // plain memory under a lock
static volatile u32 by_inc, by_xadd, by_cmpxchg;
static volatile u64 by_cmpxchg8b;
static volatile u32 split_words[32] __attribute__((aligned(64)));
static u64 pair[2] __attribute__((aligned(16)));
static volatile u32 bits[MAX_CPUS];
static volatile u32 xchg_sum;

static void take(void)
{
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        while (lock)
            pause();
}

static void contend(unsigned cpu)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        take();
        guarded++;
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
        __asm__ volatile("lock incl %0" : "+m"(by_inc));
        add(&by_xadd, 3);
        // Across two cache lines, and unaligned.
        __asm__ volatile("lock addl $1, %0" : "+m"(*(volatile u32 *)((volatile u8 *)split_words + 62)));
        for (u32 old = by_cmpxchg; !__atomic_compare_exchange_n(&by_cmpxchg, &old, old + 1, false, 5, 5);)
            ;
        // Every bit that somebody sets, somebody finds set.
        __asm__ volatile("lock btsl %1, %0" : "+m"(bits[i & 7]) : "r"(cpu) : "cc");
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        u32 a = (u32)by_cmpxchg8b, d = (u32)(by_cmpxchg8b >> 32);
        u8 ok;
        do {
            u64 next = ((u64)d << 32 | a) + 0x100000001ull;
            __asm__ volatile("lock cmpxchg8b %1; sete %0"
                             : "=q"(ok), "+m"(by_cmpxchg8b), "+a"(a), "+d"(d)
                             : "b"((u32)next), "c"((u32)(next >> 32))
                             : "cc");
        } while (!ok);
    }
}

static void contend_fair(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        u32 mine = __atomic_fetch_add(&ticket_next, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&ticket_now, __ATOMIC_ACQUIRE) != mine)
            pause();
        guarded_by_ticket++;
        __atomic_store_n(&ticket_now, mine + 1, __ATOMIC_RELEASE);
    }
}

// CMPXCHG16B: the halves always belong together. XCHG: what is put in comes out exactly once.
static volatile u32 torn;

static void contend_wide(unsigned cpu)
{
    static volatile u32 slot;
    u32 sum = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 a = 0, d = 0;
        u8 ok;
        do {
            u64 b = a + 1, c = d + 2;
            __asm__ volatile("lock cmpxchg16b %1; sete %0"
                             : "=q"(ok), "+m"(*(__int128 *)pair), "+a"(a), "+d"(d)
                             : "b"(b), "c"(c)
                             : "cc");
            if (d != a * 2)
                add(&torn, 1);
        } while (!ok);
        u32 out = cpu * ROUNDS + i;
        __asm__ volatile("xchgl %0, %1" : "+r"(out), "+m"(slot));
        sum += out;
    }
    add(&xchg_sum, sum);
    if (cpu == 0) {
        while (done != cpus - 1)
            pause();
        add(&xchg_sum, slot);
    }
}

static void atomics(void)
{
    u32 n = cpus * ROUNDS, all = (1u << cpus) - 1;
    run_all(contend);
    CHECK_EQ(guarded, n);
    CHECK_EQ(by_inc, n);
    CHECK_EQ(by_xadd, n * 3);
    CHECK_EQ(by_cmpxchg, n);
    CHECK_EQ(by_cmpxchg8b, n * 0x100000001ull);
    CHECK_EQ(*(u32 *)((u8 *)split_words + 62), n);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(bits[i], all);
    run_all(contend_fair);
    CHECK_EQ(guarded_by_ticket, cpus * (ROUNDS / 4));
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 13 & 1))
        return;
    run_all(contend_wide);
    CHECK_EQ(torn, 0);
    CHECK_EQ(pair[0], n);
    CHECK_EQ(pair[1], n * 2);
    CHECK_EQ(xchg_sum, n * (n - 1) / 2);
}

// --- the memory model ------------------------------------------------------------------------------------------------------------

#define LITMUS 3000

static volatile u32 sb_x[LITMUS * 16], sb_y[LITMUS * 16]; // a cache line for each round
static u8 sb_seen[2][LITMUS];
static volatile u32 sb_rounds = LITMUS;
static volatile u32 meet[2], message, flag, reordered, tears;
static volatile u64 last_tsc;
static volatile u32 warps, tsc_lock;

static void rendezvous(unsigned cpu, u32 round)
{
    meet[cpu] = round;
    while (meet[!cpu] < round)
        pause();
}

// Store, fence, load on two processors: at least one sees the other's store. SDM 3A 9.2.3.4.
static void store_buffering(unsigned cpu)
{
    u64 start = rdtsc();
    if (cpu > 1)
        return;
    for (u32 i = 0; i < sb_rounds; i++) {
        if (cpu == 0 && rdtsc() - start > SOME_TIME)
            sb_rounds = i + 1; // before the other can go past it
        rendezvous(cpu, i + 1);
        volatile u32 *mine = cpu ? &sb_y[i * 16] : &sb_x[i * 16], *other = cpu ? &sb_x[i * 16] : &sb_y[i * 16];
        *mine = 1;
        if (i & 1)
            __asm__ volatile("mfence" ::: "memory");
        else
            __asm__ volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
        sb_seen[cpu][i] = (u8)*other;
    }
}

// Stores are seen in order, loads are not reordered: no fence needed. 64-bit stores are whole.
static void message_passing(unsigned cpu)
{
    static volatile u64 whole;
    if (cpu == 0) {
        for (u32 i = 1; i <= 20000; i++) {
            message = i;
            __asm__ volatile("" ::: "memory");
            flag = i;
            whole = (u64)i << 32 | i;
        }
        return;
    }
    for (u32 f = 0; f < 20000;) {
        f = flag;
        __asm__ volatile("" ::: "memory");
        if (message < f)
            add(&reordered, 1);
        u64 w = whole;
        if ((u32)w != w >> 32)
            add(&tears, 1);
        pause();
    }
}

// Time never goes backward from one processor to the next.
static void tsc_order(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < 2000; i++) {
        while (__atomic_exchange_n(&tsc_lock, 1, __ATOMIC_ACQUIRE))
            pause();
        u64 now = rdtsc();
        if (now < last_tsc)
            warps = warps + 1;
        last_tsc = now;
        __atomic_store_n(&tsc_lock, 0, __ATOMIC_RELEASE);
    }
}

static void memory_model(void)
{
    unsigned both_missed = 0;
    run_all(store_buffering);
    for (unsigned i = 0; i < sb_rounds; i++)
        both_missed += !sb_seen[0][i] && !sb_seen[1][i];
    CHECK_EQ(both_missed, 0);
    run_all(message_passing);
    CHECK_EQ(reordered, 0);
    CHECK_EQ(tears, 0);
    run_all(tsc_order);
    CHECK_EQ(warps, 0);
}

// --- interrupts ------------------------------------------------------------------------------------------------------------------

#define MESH_ROUNDS 300

static volatile u32 sent[MAX_CPUS], acks[MAX_CPUS][MAX_CPUS]; // [sender][target]
static volatile u32 nmis[MAX_CPUS], nmis_sent;

static bool on_mesh(struct trap_frame *f)
{
    unsigned from = (unsigned)f->vector - VEC_MESH, cpu = self();
    acks[from][cpu] = acks[from][cpu] + 1;
    lapic_write(LAPIC_EOI, 0);
    return true;
}

static bool on_nmi(struct trap_frame *f)
{
    unsigned cpu = self();
    (void)f;
    nmis[cpu] = nmis[cpu] + 1;
    return true;
}

// Everybody interrupts everybody, at the same time.
static void mesh(unsigned cpu)
{
    u64 start = rdtsc();
    __asm__ volatile("sti");
    for (u32 i = 1; i <= MESH_ROUNDS && rdtsc() - start < SOME_TIME; i++) {
        sent[cpu] = i;
        if (i & 1) {
            for (unsigned to = 0; to < cpus; to++)
                if (to != cpu)
                    send(to, ICR_ASSERT | (VEC_MESH + cpu));
        } else {
            send(0, ICR_OTHERS | ICR_ASSERT | (VEC_MESH + cpu));
        }
        for (unsigned to = 0; to < cpus; to++)
            while (to != cpu && acks[cpu][to] != i)
                pause();
    }
    if (cpu)
        return;
    while (done != cpus - 1) // they still need the answers
        pause();
    __asm__ volatile("cli");
}

static void wait_job(unsigned cpu)
{
    while (cpu && nmis[cpu] < nmis_sent)
        pause();
}

static void interrupts(void)
{
    for (unsigned i = 0; i < cpus; i++)
        trap_handler[VEC_MESH + i] = on_mesh;
    trap_handler[2] = on_nmi;
    run_all(mesh);
    unsigned wrong = 0;
    for (unsigned from = 0; from < cpus; from++)
        for (unsigned to = 0; to < cpus; to++)
            wrong += acks[from][to] != (from == to ? 0 : sent[from]);
    CHECK_EQ(wrong, 0);
    // NMIs, one after the other, to processors that are busy or asleep; interrupts may be off.
    done = 0;
    nmis_sent = ~0u;
    job = wait_job;
    __atomic_store_n(&generation, generation + 1, __ATOMIC_SEQ_CST);
    send(0, ICR_OTHERS | ICR_ASSERT | VEC_WAKE);
    u64 start = rdtsc();
    for (u32 i = 1; i <= MESH_ROUNDS && rdtsc() - start < SOME_TIME; i++) {
        send(0, ICR_OTHERS | ICR_ASSERT | ICR_NMI);
        for (unsigned cpu = 1; cpu < cpus; cpu++)
            while (nmis[cpu] < i)
                pause();
    }
    nmis_sent = nmis[1];
    while (done != cpus - 1)
        pause();
    wrong = 0;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        wrong += nmis[cpu] != nmis_sent;
    CHECK_EQ(wrong, 0);
    CHECK_EQ(nmis[0], 0);
}

// --- translations and code that change -----------------------------------------------------------------------------------------

#define WINDOW 0x70000000ul
#define SHOTS 300

static u32 frames[2][1024] __attribute__((aligned(4096)));
static volatile u32 shot_acks, shot_changed, shot_round, stale, wrong_code, finish;
static u8 code[64] __attribute__((aligned(64)));

// mov eax, imm32; ret: the immediate is aligned, so that it changes at once.
#define CODE_IMM 4

static bool on_shoot(struct trap_frame *f)
{
    u32 r[4];
    (void)f;
    invlpg((void *)WINDOW);
    u32 changed = shot_changed;
    add(&shot_acks, 1);
    while (shot_changed == changed) // out of the way of code that changes
        pause();
    cpuid(0, 0, r); // serializes: code that was changed before is seen after
    add(&shot_acks, 1);
    lapic_write(LAPIC_EOI, 0);
    return true;
}

// What is read and run belongs to this round or, while it begins, to the one before.
static void look(unsigned cpu)
{
    if (cpu == 0)
        return;
    while (!finish) {
        u32 before = shot_round;
        u32 data = *(volatile u32 *)WINDOW;
        u32 ran = ((u32(*)(void))(code + CODE_IMM - 1))();
        u32 after = shot_round;
        if (data < before || data > after + 1)
            add(&stale, 1);
        if (ran < before || ran > after + 1)
            add(&wrong_code, 1);
        pause();
    }
}

// Make everybody forget the translation and see the code return n.
static void shoot(u32 n)
{
    shot_acks = 0;
    send(0, ICR_OTHERS | ICR_ASSERT | VEC_SHOOT);
    while (shot_acks != cpus - 1)
        pause();
    shot_acks = 0;
    *(volatile u32 *)(code + CODE_IMM) = n;
    shot_changed = shot_changed + 1;
    while (shot_acks != cpus - 1)
        pause();
}

static void shootdown(void)
{
    u64 *pte = pte_of(WINDOW);
    code[CODE_IMM - 1] = 0xb8;
    code[CODE_IMM + 4] = 0xc3;
    frames[0][0] = 0;
    *pte = (u64)frames[0] | PTE_P | PTE_W;
    trap_handler[VEC_SHOOT] = on_shoot;
    done = finish = 0;
    job = look;
    __atomic_store_n(&generation, generation + 1, __ATOMIC_SEQ_CST);
    shoot(0); // nobody has the old mapping any more
    u64 start = rdtsc();
    for (u32 i = 1; i <= SHOTS && rdtsc() - start < SOME_TIME; i++) {
        frames[i & 1][0] = i;
        __atomic_store_n(pte, (u64)frames[i & 1] | PTE_P | PTE_W, __ATOMIC_SEQ_CST);
        invlpg((void *)WINDOW);
        shoot(i);
        shot_round = i; // from here on nobody may see the old
        for (unsigned j = 0; j < 50; j++)
            pause();
    }
    finish = 1;
    while (done != cpus - 1)
        pause();
    CHECK_EQ(stale, 0);
    CHECK_EQ(wrong_code, 0);
}

// Accessed and dirty bits are set atomically: none of those that other processors set at the same time gets lost.
static void touch(unsigned cpu)
{
    for (unsigned page = 0; page < 64; page++) {
        volatile u8 *p = (volatile u8 *)(WINDOW + 0x200000 + page * 4096);
        if ((page + cpu) & 1)
            (void)p[cpu];
        else
            p[cpu] = 1;
    }
}

static void accessed_dirty(void)
{
    unsigned lost = 0;
    u64 *pte = NULL;
    for (unsigned page = 0; page < 64; page++) {
        pte = pte_of(WINDOW + 0x200000 + page * 4096);
        *pte = (u64)frames[page & 1] | PTE_P | PTE_W;
    }
    pte -= 63;
    write_cr3(read_cr3());
    run_all(touch);
    for (unsigned page = 0; page < 64; page++)
        lost += (pte[page] & (PTE_A | PTE_D)) != (PTE_A | PTE_D);
    CHECK_EQ(lost, 0);
}

// --- sleeping ---------------------------------------------------------------------------------------------------------------------

#define PINGS 500

static volatile u32 ball, last_ball = PINGS * 2;

// Two processors wake each other; a wake-up that got lost would leave both asleep for ever.
static void ping_pong(unsigned cpu)
{
    u64 start = rdtsc();
    if (cpu > 1)
        return;
    for (;;) {
        __asm__ volatile("cli");
        u32 b = ball;
        if (b >= last_ball)
            break;
        if (cpu == 0 && (b & 1) == 0 && rdtsc() - start > SOME_TIME)
            last_ball = b + 1; // it still goes to the other
        if ((b & 1) != cpu) {
            __asm__ volatile("sti; hlt" ::: "memory");
            continue;
        }
        ball = b + 1;
        send(!cpu, ICR_ASSERT | VEC_WAKE);
    }
    if (cpu)
        __asm__ volatile("sti");
}

static void sleeping(void)
{
    run_all(ping_pong);
    CHECK_EQ(ball, last_ball);
}

void guest_main(void)
{
    cpus = count_cpus();
    CHECK(cpus >= 2 && cpus <= MAX_CPUS);
    if (cpus < 2 || cpus > MAX_CPUS)
        return;
    start_all();
    atomics();
    memory_model();
    interrupts();
    shootdown();
    accessed_dirty();
    sleeping();
    restart_one();
    run_all(contend_fair);
    CHECK_EQ(guarded_by_ticket, 2 * cpus * (ROUNDS / 4));
}
