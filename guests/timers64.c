// The PC's timers against each other, as kernels calibrate them: 8254 channels 0 and 2, HPET and local APIC timer, each over some 50 ms of
// the TSC; then the interrupts of each, counted over the same time. On a host that has no time for the guest a tick may come
// late, and several late ones are one, but what is read is never wrong. QEMU's 8254 differs in one check: it lets the output wait for the count.
#include "guest.h"

const char guest_name[] = "timers64";

#define PIT_HZ 1193182ull
#define HPET 0xfed00000ul
#define LAPIC 0xfee00000ul
#define WINDOW_MS 50

#define VEC_TIMER 0x40
#define VEC_SPURIOUS 0xff
#define VEC_IRQ0 0x20
#define VEC_IRQ8 0x28

static u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

static u32 lapic_read(unsigned reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static u64 hpet_read(unsigned reg)
{
    return *(volatile u64 *)(HPET + reg);
}

static void hpet_write(unsigned reg, u64 val)
{
    *(volatile u64 *)(HPET + reg) = val;
}

// Something that happened between two readings of the TSC.
struct moment {
    u64 before, after, value;
};

static u64 middle(const struct moment *m)
{
    return m->before + (m->after - m->before) / 2;
}

// Read a counter as closely to the TSC as a few tries allow: the host may take the processor away at any time.
static struct moment read_at(u64 (*counter)(void))
{
    struct moment best = {0, ~0ull, 0};
    for (unsigned i = 0; i < 20; i++) {
        struct moment m;
        m.before = rdtsc();
        m.value = counter();
        m.after = rdtsc();
        if (m.after - m.before < best.after - best.before)
            best = m;
    }
    return best;
}

static u64 hpet_hz, tsc_hz; // of the TSC as measured by the HPET

static void wait_tsc(u64 ticks)
{
    u64 start = rdtsc();
    while (rdtsc() - start < ticks)
        __asm__ volatile("pause");
}

// Within 1%.
static bool close_to(u64 a, u64 b)
{
    u64 d = a > b ? a - b : b - a;
    return d * 100 < b;
}

#define CHECK_RATE(what, got, want) \
    check_at(close_to((got), (want)), __FILE__, __LINE__, what ": %lu, not %lu", (unsigned long)(got), \
             (unsigned long)(want))

// Hz of a counter that counts up within `mask`, by the TSC.
static u64 rate(u64 (*counter)(void), u64 mask, unsigned ms)
{
    struct moment a = read_at(counter);
    wait_tsc(tsc_hz / 1000 * ms);
    struct moment b = read_at(counter);
    return ((b.value - a.value) & mask) * (tsc_hz / 1000) / ((middle(&b) - middle(&a)) / 1000);
}

// --- counters -----------------------------------------------------------------------------------------------------------------

static u64 hpet_counter(void)
{
    return hpet_read(0xf0);
}

static void measure_tsc(void)
{
    CHECK((hpet_read(0) >> 32) > 0 && (hpet_read(0) >> 32) <= 100000000);
    hpet_hz = 1000000000000000ull / (hpet_read(0) >> 32);
    hpet_write(0x10, 0);
    hpet_write(0xf0, 0);
    CHECK_EQ(hpet_read(0xf0), 0);
    hpet_write(0x10, 1);
    struct moment a = read_at(hpet_counter);
    while (hpet_counter() - a.value < hpet_hz / 1000 * WINDOW_MS)
        __asm__ volatile("pause");
    struct moment b = read_at(hpet_counter);
    tsc_hz = (middle(&b) - middle(&a)) * (hpet_hz / 1000) / ((b.value - a.value) / 1000);
    CHECK(tsc_hz > 100000000);
    u32 r[4];
    cpuid(0x40000000, 0, r);
    if (r[0] >= 0x40000010 && r[0] < 0x40000100) {
        cpuid(0x40000010, 0, r);
        CHECK_RATE("TSC as CPUID tells", r[0] * 1000ull, tsc_hz);
    }
}

static u64 pit0_counter(void)
{
    outb(0x43, 0x00); // latch
    u64 low = inb(0x40);
    return 0 - (low | (u64)inb(0x40) << 8);
}

static void pit_channel_0(void)
{
    outb(0x43, 0x34); // mode 2, a whole turn
    outb(0x40, 0);
    outb(0x40, 0);
    CHECK_RATE("8254 channel 0", rate(pit0_counter, 0xffff, 40), PIT_HZ);
}

// As kernels do it: channel 2 in mode 0, its output polled at port 0x61.
static void pit_channel_2(void)
{
    u32 count = PIT_HZ * WINDOW_MS / 1000;
    u64 hz = 0;
    outb(0x43, 0xb0);
    CHECK(!(inb(0x61) & 0x20)); // the control word alone takes the output down
    for (unsigned tries = 0; tries < 20 && !hz; tries++) {
        struct moment start, end = {0};
        outb(0x61, (inb(0x61) & ~2u) | 1);
        outb(0x43, 0xb0);
        outb(0x42, (u8)count);
        start.before = rdtsc();
        outb(0x42, (u8)(count >> 8));
        start.after = end.before = rdtsc();
        for (;;) {
            u64 now = rdtsc();
            bool out = inb(0x61) & 0x20;
            end.after = rdtsc();
            if (out)
                break;
            end.before = now;
        }
        u64 ticks = middle(&end) - middle(&start);
        u64 unsure = end.after - end.before + start.after - start.before;
        if (unsure < ticks / 400)
            hz = count * (tsc_hz / 1000) / (ticks / 1000);
    }
    CHECK_RATE("8254 channel 2", hz, PIT_HZ);
    outb(0x61, inb(0x61) & ~3u);
}

static u64 lapic_counter(void)
{
    return 0 - (u64)lapic_read(0x390);
}

static u64 lapic_hz;

static void lapic_timer(void)
{
    lapic_write(0xf0, 0x100 | VEC_SPURIOUS);
    lapic_write(0x3e0, 0xb); // by 1
    lapic_write(0x320, 0x10000 | VEC_TIMER);
    lapic_write(0x380, 0xffffffff);
    lapic_hz = rate(lapic_counter, 0xffffffff, WINDOW_MS);
    CHECK_RATE("local APIC timer, twice", rate(lapic_counter, 0xffffffff, WINDOW_MS), lapic_hz);
    lapic_write(0x3e0, 0x3); // by 16
    lapic_write(0x380, 0xffffffff);
    CHECK_RATE("local APIC timer by 16", rate(lapic_counter, 0xffffffff, WINDOW_MS) * 16, lapic_hz);
    u32 r[4];
    cpuid(0x40000000, 0, r);
    if (r[0] >= 0x40000010 && r[0] < 0x40000100) {
        cpuid(0x40000010, 0, r);
        CHECK_RATE("local APIC timer as CPUID tells", r[1] * 1000ull, lapic_hz);
    }
}

// --- interrupts -----------------------------------------------------------------------------------------------------------------

static volatile unsigned ticks;

static bool on_irq0(struct trap_frame *f)
{
    (void)f;
    ticks = ticks + 1;
    outb(0x20, 0x20);
    return true;
}

static bool on_irq8(struct trap_frame *f)
{
    (void)f;
    outb(0x70, 0x0c);
    if (inb(0x71) & 0x40)
        ticks = ticks + 1;
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    return true;
}

static bool on_timer(struct trap_frame *f)
{
    (void)f;
    ticks = ticks + 1;
    lapic_write(0xb0, 0);
    return true;
}

static void pic_init(u8 mask_master, u8 mask_slave)
{
    outb(0x20, 0x11);
    outb(0x21, VEC_IRQ0);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, VEC_IRQ8);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, mask_master);
    outb(0xa1, mask_slave);
}

// Take the interrupt that is pending, if there is one: its source is stopped.
static void drain(void)
{
    __asm__ volatile("sti; nop; nop; cli");
}

// Interrupts in WINDOW_MS: never more than there are, and on a host that is late some fewer.
static void count_ticks(const char *what, unsigned want)
{
    ticks = 0;
    u64 start = rdtsc(), end = start + tsc_hz / 1000 * WINDOW_MS;
    __asm__ volatile("sti");
    while (rdtsc() < end)
        __asm__ volatile("pause");
    __asm__ volatile("cli");
    u64 most = (rdtsc() - start) * want / (tsc_hz / 1000 * WINDOW_MS) + 2;
    check_at(ticks <= most && ticks >= want / 10, __FILE__, __LINE__, "%s: %u interrupts, not %u", what, ticks, want);
}

static void pit_interrupts(void)
{
    trap_handler[VEC_IRQ0] = on_irq0;
    lapic_write(0x350, 0x700); // LINT0: from the 8259
    pic_init(0xfe, 0xff);
    for (unsigned mode = 2; mode <= 3; mode++) {
        outb(0x43, 0x30 | mode << 1);
        outb(0x40, 1193 & 0xff); // 1 kHz
        outb(0x40, 1193 >> 8);
        count_ticks("8254", WINDOW_MS);
    }
    outb(0x43, 0x30); // mode 0: once
    drain();
    outb(0x40, 0);
    outb(0x40, 0x10);
    count_ticks("8254 once", 1);
    CHECK_EQ(ticks, 1);
}

static void rtc_interrupts(void)
{
    trap_handler[VEC_IRQ8] = on_irq8;
    pic_init(0xfb, 0xfe);
    outb(0x70, 0x0a);
    outb(0x71, 0x26); // 1024 Hz
    outb(0x70, 0x0b);
    outb(0x71, 0x42);
    outb(0x70, 0x0c);
    inb(0x71);
    count_ticks("RTC", WINDOW_MS * 1024 / 1000);
    outb(0x70, 0x0b);
    outb(0x71, 0x02);
    pic_init(0xff, 0xff);
}

static void lapic_interrupts(void)
{
    trap_handler[VEC_TIMER] = on_timer;
    lapic_write(0x3e0, 0xb);
    lapic_write(0x320, 0x20000 | VEC_TIMER); // periodic
    lapic_write(0x380, (u32)(lapic_hz / 1000));
    count_ticks("local APIC timer", WINDOW_MS);
    lapic_write(0x380, 0);
    drain();
    lapic_write(0x320, VEC_TIMER);
    lapic_write(0x380, (u32)(lapic_hz / 1000));
    count_ticks("local APIC timer once", 1);
    CHECK_EQ(ticks, 1);
    u32 r[4];
    cpuid(1, 0, r);
    if (r[2] >> 24 & 1) {
        lapic_write(0x320, 0x40000 | VEC_TIMER);
        drain();
        __asm__ volatile("mfence" ::: "memory");
        u64 deadline = rdtsc() + tsc_hz / 1000;
        wrmsr(0x6e0, deadline);
        ticks = 0;
        __asm__ volatile("sti");
        while (!ticks && rdtsc() < deadline + tsc_hz)
            __asm__ volatile("pause");
        __asm__ volatile("cli");
        CHECK_EQ(ticks, 1);
        CHECK(rdtsc() >= deadline); // late perhaps, early never
        CHECK_EQ(rdmsr(0x6e0), 0);
    }
    lapic_write(0x320, 0x10000);
}

// Timer 0 in place of the 8254.
static void hpet_interrupts(void)
{
    pic_init(0xfe, 0xff);
    outb(0x43, 0x30); // the 8254 keeps quiet
    hpet_write(0x10, 0);
    hpet_write(0xf0, 0);
    hpet_write(0x100, 0x4c); // periodic, set the comparator too
    hpet_write(0x108, hpet_hz / 1000);
    hpet_write(0x108, hpet_hz / 1000);
    hpet_write(0x10, 3); // on, legacy replacement
    count_ticks("HPET", WINDOW_MS);
    hpet_write(0x100, 0);
    drain();
    hpet_write(0x108, hpet_counter() + hpet_hz / 100);
    hpet_write(0x100, 0x04); // once
    count_ticks("HPET once", 1);
    CHECK_EQ(ticks, 1);
    hpet_write(0x100, 0);
    hpet_write(0x10, 1);
    pic_init(0xff, 0xff);
}

void guest_main(void)
{
    measure_tsc();
    pit_channel_0();
    pit_channel_2();
    lapic_timer();
    pit_interrupts();
    rtc_interrupts();
    lapic_interrupts();
    hpet_interrupts();
}
