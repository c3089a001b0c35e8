// The PC board: memory map, devices and how they are wired.
//
// One block of host memory is all the guest's RAM; an offset into it below 3 GiB is the guest-physical address, the rest lies from
// 4 GiB on. Parts of it that a hole or the ROM hides are simply not mapped.

#include "board/pc.h"

#include <errno.h>
#include <string.h>

#include "core/cpuid.h"
#include "core/mmu.h"
#include "core/msr.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define VGA_HOLE 0xa0000ull
#define EBDA 0x9fc00ull // firmware keeps the last KiB of low memory for itself
#define PCI_HOLE (3 * GIB)
#define ROM_LOW_SIZE (128 * KIB) // at most so much of the firmware is seen below 1 MiB, too

// --- what sits where ------------------------------------------------------------------------------------------------------

enum pc_condition {
    ALWAYS,
    WITH_COM1,
    WITH_COM2,
    WITH_COM3,
    WITH_COM4,
    WITH_DEBUGCON,
    WITH_DEBUG_EXIT,
    WITH_TESTDEV,
    WITH_PVPANIC
};

struct pc_row {
    u16 base, count;
    const struct dev_ops *ops;
    size_t dev; // offset of the instance in struct pc
    u8 max_size;
    enum pc_condition when;
};

// A base of 0: chosen by an option, see add_ports().
static const struct pc_row pc_rows[] = {
    {0x0020, 2, &i8259_ops, offsetof(struct pc, pic.window[0]), 1, ALWAYS},
    {0x0040, 4, &i8254_ops, offsetof(struct pc, pit), 1, ALWAYS},
    {0x0060, 1, &i8042_data_ops, offsetof(struct pc, i8042), 1, ALWAYS},
    {0x0061, 1, &i8254_port61_ops, offsetof(struct pc, pit), 1, ALWAYS},
    {0x0064, 1, &i8042_command_ops, offsetof(struct pc, i8042), 1, ALWAYS},
    {0x0070, 2, &mc146818_ops, offsetof(struct pc, rtc), 1, ALWAYS},
    {0x0080, 1, &post_port_ops, offsetof(struct pc, post), 1, ALWAYS},
    {PIIX4_APM_PORT, 2, &piix4_apm_ops, offsetof(struct pc, pm), 1, ALWAYS},
    {0x0092, 1, &port92_ops, offsetof(struct pc, port92), 1, ALWAYS},
    {0x00a0, 2, &i8259_ops, offsetof(struct pc, pic.window[1]), 1, ALWAYS},
    {0x00e0, 4, &testdev_echo_ops, offsetof(struct pc, testdev), 4, WITH_TESTDEV},
    {0x00ed, 1, &post_port_ops, offsetof(struct pc, post), 1, ALWAYS},
    {0x00f0, 2, &fpu_error_ops, offsetof(struct pc, fpu_error), 1, ALWAYS},
    {0x02e8, 8, &uart_ops, offsetof(struct pc, uart[3]), 1, WITH_COM4},
    {0x02f8, 8, &uart_ops, offsetof(struct pc, uart[1]), 1, WITH_COM2},
    {0x03e8, 8, &uart_ops, offsetof(struct pc, uart[2]), 1, WITH_COM3},
    {0x03f8, 8, &uart_ops, offsetof(struct pc, uart[0]), 1, WITH_COM1},
    {0x04d0, 2, &i8259_elcr_ops, offsetof(struct pc, pic), 1, ALWAYS},
    {FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_ops, offsetof(struct pc, fw_cfg), 2, ALWAYS},
    {FW_CFG_DMA_PORT, FW_CFG_DMA_PORTS, &fw_cfg_dma_ops, offsetof(struct pc, fw_cfg), 4, ALWAYS},
    {PCI_HOST_PORT, 8, &pci_host_ops, offsetof(struct pc, pci), 4, ALWAYS},
    {0x2000, TESTDEV_IRQS, &testdev_irq_ops, offsetof(struct pc, testdev), 1, WITH_TESTDEV},
    {0, 1, &debug_console_ops, offsetof(struct pc, debugcon), 1, WITH_DEBUGCON},
    {0, 1, &pvpanic_ops, offsetof(struct pc, pvpanic), 1, WITH_PVPANIC},
    {0, 0, &debug_exit_ops, offsetof(struct pc, debug_exit), 4, WITH_DEBUG_EXIT},
};

#define IRQ_PIT 0
#define IRQ_KEYBOARD 1
#define IRQ_COM2 3
#define IRQ_COM1 4
#define IRQ_RTC 8
#define IRQ_MOUSE 12
#define IRQ_FPU 13

static bool pc_has(const struct pc_options *o, enum pc_condition when)
{
    switch (when) {
    case WITH_COM1:
    case WITH_COM2:
    case WITH_COM3:
    case WITH_COM4: return o->serial[when - WITH_COM1];
    case WITH_DEBUGCON: return o->debugcon;
    case WITH_DEBUG_EXIT: return o->debug_exit;
    case WITH_TESTDEV: return o->testdev;
    case WITH_PVPANIC: return o->pvpanic;
    default: return true;
    }
}

static int add_ports(struct pc *b, const struct pc_options *o, struct error *err)
{
    for (size_t i = 0; i < ARRAY_LEN(pc_rows); i++) {
        struct pc_row r = pc_rows[i];
        int ret;

        if (!pc_has(o, r.when))
            continue;
        if (r.when == WITH_DEBUGCON)
            r.base = o->debugcon_base;
        if (r.when == WITH_PVPANIC)
            r.base = o->pvpanic_port;
        if (r.when == WITH_DEBUG_EXIT) {
            r.base = o->debug_exit_base;
            r.count = o->debug_exit_size;
        }
        ret = bus_add(&b->m.bus, r.base, r.count, r.ops, (u8 *)b + r.dev);
        if (ret)
            return error_set(
                err, ret, "-device %s: ports 0x%x to 0x%x are taken by another device or out of range; choose others",
                r.ops->name, r.base, r.base + r.count - 1);
        bus_set_sizes(&b->m.bus, r.base, 1, r.max_size);
    }
    return 0;
}

// --- wiring ---------------------------------------------------------------------------------------------------------------

static void set_intr(void *sink, unsigned n, bool level)
{
    struct pc *b = sink;
    struct vcpu *v = b->m.vcpu[n];

    if (!level) {
        vcpu_request_clear(v, VCPU_REQ_INTR);
        return;
    }
    vcpu_request(v, VCPU_REQ_INTR);
    b->m.host->ops->wake(b->m.host->self, v->id);
}

// The 8259's pin goes to LINT0 of the bootstrap processor.
static void set_lint0(void *sink, unsigned n, bool level)
{
    struct pc *b = sink;

    (void)n;
    lapic_set_lint0(&b->lapic[0], level);
}

// Every processor finds its own local APIC where its APIC_BASE says.
static u64 lapic_page_read(void *dev, u64 off, unsigned size)
{
    struct pc *b = dev;

    return lapic_ops.read(&b->lapic[b->m.mem.accessor], off, size);
}

static void lapic_page_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct pc *b = dev;

    lapic_ops.write(&b->lapic[b->m.mem.accessor], off, size, val);
}

static const struct dev_ops lapic_page_ops = {.name = "lapic", .read = lapic_page_read, .write = lapic_page_write};

// The usual place, which a processor may have left.
static u64 lapic_default_read(void *dev, u64 off, unsigned size)
{
    struct pc *b = dev;

    return lapic_page(&b->lapic[b->m.mem.accessor]) == LAPIC_BASE ? lapic_page_read(dev, off, size) : ~0ull;
}

static void lapic_default_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct pc *b = dev;

    if (lapic_page(&b->lapic[b->m.mem.accessor]) == LAPIC_BASE)
        lapic_page_write(dev, off, size, val);
}

static const struct dev_ops lapic_default_ops = {
    .name = "lapic", .read = lapic_default_read, .write = lapic_default_write};

// APIC_BASE may have changed. In the thread that runs the processor, or at rest.
static void place_lapic(struct pc *b, u32 id)
{
    gpa page = lapic_page(&b->lapic[id]), last = page && page != LAPIC_BASE ? page | (MEM_PAGE_SIZE - 1) : 0;

    if (b->m.mem.own_last[id] == last)
        return;
    b->m.mem.own_last[id] = last;
    tlb_flush_all(&b->m.vcpu[id]->tlb);
}

// What a processor asks of its local APIC comes from its own thread, outside the device lock.
static struct pc *board_of(struct lapic *l)
{
    return l->bus;
}

static int ack_intr(void *intc)
{
    struct lapic *l = intc;
    struct pc *b = board_of(l);

    lock_take(&b->m.dev_lock);
    int vector = lapic_extint(l) ? i8259_ack(&b->pic) : lapic_ack(l);
    lock_drop(&b->m.dev_lock);
    return vector;
}

static bool intc_msr_read(void *intc, u32 index, u64 *val)
{
    struct lapic *l = intc;
    struct pc *b = board_of(l);

    lock_take(&b->m.dev_lock);
    bool ok = lapic_msr_read(l, index, val);
    lock_drop(&b->m.dev_lock);
    return ok;
}

static bool intc_msr_write(void *intc, u32 index, u64 val)
{
    struct lapic *l = intc;
    struct pc *b = board_of(l);

    lock_take(&b->m.dev_lock);
    bool ok = lapic_msr_write(l, index, val);
    place_lapic(b, l->id);
    lock_drop(&b->m.dev_lock);
    return ok;
}

static void intc_cr8_written(void *intc)
{
    struct lapic *l = intc;
    struct pc *b = board_of(l);

    lock_take(&b->m.dev_lock);
    lapic_cr8_written(l);
    lock_drop(&b->m.dev_lock);
}

static u64 lapic_tsc(void *cpu)
{
    return vcpu_tsc(cpu);
}

// What an interrupt message does to a processor beside interrupting it.
static void lapic_event(void *cpu, enum lapic_mode mode, u8 vector)
{
    struct vcpu *v = cpu;
    struct host *h = v->machine->host;

    switch (mode) {
    case LAPIC_NMI: vcpu_nmi(v); break;
    case LAPIC_INIT: vcpu_request(v, VCPU_REQ_INIT); break;
    case LAPIC_SIPI:
        v->sipi_vector = vector;
        vcpu_request(v, VCPU_REQ_SIPI);
        break;
    default: return; // no system management mode: SMIs have no effect
    }
    h->ops->wake(h->self, v->id);
}

// The interrupt bus between processors, I/O APIC and message-signalled interrupts. Lowest priority goes to one of those
// addressed: in turn, so that none gets all. `from` is NULL for messages that no processor sent; shorthand: see below.
static void apic_send(struct pc *b, const struct apic_message *m, const struct lapic *from, unsigned shorthand)
{
    for (unsigned i = 0; i < b->m.vcpu_count; i++) {
        unsigned n = m->mode == LAPIC_LOWEST ? (b->lowest_next + i) % b->m.vcpu_count : i;
        struct lapic *to = &b->lapic[n];
        bool target = shorthand == 0   ? lapic_addressed(to, m->dest, m->logical)
                      : shorthand == 1 ? to == from
                                       : shorthand == 2 || to != from;

        if (!target)
            continue;
        lapic_accept(to, (enum lapic_mode)m->mode, m->vector, m->level);
        if (m->mode == LAPIC_LOWEST) {
            b->lowest_next = (n + 1) % b->m.vcpu_count;
            return;
        }
    }
}

// An interrupt command. Destination shorthands: 0 as addressed, 1 self, 2 all, 3 all but self. SDM 3A 11.6.1. The INIT level
// de-assert that old guests send has had no meaning since the Pentium 4.
static void lapic_send(void *bus, struct lapic *from, u32 icr, u32 dest)
{
    struct apic_message m = {
        .vector = (u8)icr, .mode = icr >> 8 & 7, .logical = icr >> 11 & 1, .level = icr >> 15 & 1, .dest = dest};

    if (m.mode == LAPIC_INIT && m.level && !(icr >> 14 & 1))
        return;
    if (m.mode != LAPIC_FIXED && m.mode != LAPIC_LOWEST)
        m.level = false;
    apic_send(bus, &m, from, icr >> 18 & 3);
}

static void apic_deliver(void *bus, const struct apic_message *m)
{
    struct pc *b = bus;

    struct apic_message all = *m;

    // Everybody, also for processors in x2APIC mode, whose destinations are wider than the message's.
    if (m->dest == 0xff && !m->logical)
        all.dest = ~0u;
    if (m->mode != LAPIC_EXTINT) // an 8259 behind an input: its interrupts come through LINT0
        apic_send(b, &all, NULL, 0);
}

static void apic_eoi(void *bus, u8 vector)
{
    struct pc *b = bus;

    ioapic_eoi(&b->ioapic, vector);
}

// SDM 3A 11.11: address 0xfee00000 | destination << 12 | logical << 2, data: vector, mode, trigger.
void pc_msi(void *board, u64 addr, u32 data)
{
    struct apic_message m = {.vector = (u8)data,
                             .mode = data >> 8 & 7,
                             .level = data >> 15 & 1,
                             .logical = addr >> 2 & 1,
                             .dest = addr >> 12 & 0xff};

    if (addr >> 20 == LAPIC_BASE >> 20)
        apic_deliver(board, &m);
}

// An ISA interrupt reaches the 8259 and the I/O APIC, whose input 0 is the 8259's: IRQ 0 comes at 2. It has two sources.
static void set_irq(struct pc *b, unsigned source, unsigned n, bool level)
{
    b->isa_irq[source] = (u16)((b->isa_irq[source] & ~(1u << n)) | (u32)level << n);
    level = (b->isa_irq[0] | b->isa_irq[1]) >> n & 1;
    i8259_set_irq(&b->pic, n, level);
    ioapic_set_irq(&b->ioapic, n ? n : 2, level);
}

static void set_isa_irq(void *sink, unsigned n, bool level)
{
    set_irq(sink, 0, n, level);
}

static void set_pci_irq(void *sink, unsigned n, bool level)
{
    set_irq(sink, 1, n, level);
}

struct irq_line pc_isa_irq(struct pc *b, unsigned n)
{
    return (struct irq_line){set_isa_irq, b, n};
}

struct irq_line pc_pci_irq(struct pc *b, unsigned n)
{
    return (struct irq_line){set_pci_irq, b, n};
}

static void power_off(void *sink, int status)
{
    struct pc *b = sink;

    machine_stop(&b->m, VM_EXIT_POWEROFF, status);
}

static void ask_reset(void *sink)
{
    struct pc *b = sink;

    machine_stop(&b->m, VM_EXIT_RESET, 0);
}

// Two gates drive the line: port 0x92 and the keyboard controller. Either lets it through.
static void update_a20(struct pc *b)
{
    bool on = b->a20_fast || b->a20_keyboard;

    atomic_store(&b->m.a20_mask, on ? ~0ull : ~(1ull << 20));
    for (unsigned i = 0; i < b->m.vcpu_count; i++)
        vcpu_request(b->m.vcpu[i], VCPU_REQ_A20);
}

static void set_a20_fast(void *sink, bool on)
{
    struct pc *b = sink;

    b->a20_fast = on;
    update_a20(b);
}

static void set_a20_keyboard(void *sink, bool on)
{
    struct pc *b = sink;

    b->a20_keyboard = on;
    update_a20(b);
}

static int wire_lapic(struct pc *b, struct vcpu *v)
{
    struct lapic *l = &b->lapic[v->id];
    u64 tsc_hz = v->model->tsc_hz;
    int ret;

    l->cr8 = &v->cpu.cr8;
    l->clock = &b->m.clock;
    l->tsc_hz = tsc_hz ? tsc_hz : b->m.host->tsc_hz;
    // The crystal that CPUID leaf 0x15 tells of.
    l->timer_hz = l->tsc_hz >= CPUID_CRYSTAL_RATIO ? l->tsc_hz / CPUID_CRYSTAL_RATIO : 1;
    l->intr = (struct irq_line){set_intr, b, v->id};
    l->tsc = lapic_tsc;
    l->event = lapic_event;
    l->send = lapic_send;
    l->eoi = apic_eoi;
    l->cpu = v;
    l->bus = b;
    ret = lapic_init(l, v->id);
    lapic_reset(l, v->cpu.msr.apic_base);
    return ret;
}

static int wire_lapics(struct pc *b)
{
    int ret = mem_add_mmio(&b->m.mem, LAPIC_BASE, LAPIC_SIZE, &lapic_default_ops, b, "lapic");

    b->m.mem.own_ops = &lapic_page_ops;
    b->m.mem.own_dev = b;
    if (!ret)
        ret = mem_add_mmio(&b->m.mem, IOAPIC_BASE, IOAPIC_SIZE, &ioapic_ops, &b->ioapic, "ioapic");
    b->ioapic.deliver = apic_deliver;
    b->ioapic.bus = b;
    ioapic_reset(&b->ioapic);

    for (unsigned i = 0; i < b->m.vcpu_count && !ret; i++)
        ret = wire_lapic(b, b->m.vcpu[i]);
    return ret;
}

// The 8254 and the RTC, unless the HPET has taken their places.
static void set_timer_irq(void *sink, unsigned n, bool level)
{
    struct pc *b = sink;

    b->timer_irq = (u16)((b->timer_irq & ~(1u << n)) | (unsigned)level << n);
    if (!hpet_legacy(&b->hpet))
        set_isa_irq(b, n, level);
}

// The HPET has taken the wires of the 8254 and the RTC, or given them back.
static void switch_timer_irqs(void *board)
{
    struct pc *b = board;
    u16 levels = hpet_legacy(&b->hpet) ? 0 : b->timer_irq;

    set_isa_irq(b, IRQ_PIT, levels >> IRQ_PIT & 1);
    set_isa_irq(b, IRQ_RTC, levels >> IRQ_RTC & 1);
}

static int wire_i8042(struct pc *b)
{
    b->i8042.irq[0] = pc_isa_irq(b, IRQ_KEYBOARD);
    b->i8042.irq[1] = pc_isa_irq(b, IRQ_MOUSE);
    b->i8042.set_a20 = set_a20_keyboard;
    b->i8042.reset_machine = ask_reset;
    b->i8042.sink = b;
    b->i8042.clock = &b->m.clock;
    return i8042_init(&b->i8042);
}

static int wire_timers(struct pc *b, const struct pc_options *o)
{
    u64 low = pc_low_ram(b);
    int ret;

    b->pit.irq = (struct irq_line){set_timer_irq, b, IRQ_PIT};
    b->pit.clock = &b->m.clock;
    ret = i8254_init(&b->pit);
    if (ret)
        return ret;
    b->rtc.irq = (struct irq_line){set_timer_irq, b, IRQ_RTC};
    b->rtc.clock = &b->m.clock;
    b->rtc.slew = o->rtc_slew;
    for (unsigned n = 0; n < HPET_PINS; n++)
        b->hpet.pin[n] = (struct irq_line){ioapic_set_irq, &b->ioapic, n};
    b->hpet.legacy[0] = pc_isa_irq(b, IRQ_PIT);
    b->hpet.legacy[1] = pc_isa_irq(b, IRQ_RTC);
    b->hpet.switched = switch_timer_irqs;
    b->hpet.board = b;
    b->hpet.clock = &b->m.clock;
    ret = hpet_init(&b->hpet);
    if (!ret)
        ret = mem_add_mmio(&b->m.mem, HPET_BASE, HPET_SIZE, &hpet_ops, &b->hpet, "hpet");
    if (ret)
        return ret;
    return mc146818_init(&b->rtc, clock_utc(&b->m.clock) + (i64)clock_now(&b->m.clock) + o->rtc_shift_s * 1000000000,
                         low, b->ram_size - low);
}

#define CMOS_BOOT_3 0x38 // upper half: third
#define CMOS_BOOT_12 0x3d

// Drives by the numbers that firmware finds in CMOS memory: floppy disk, hard disk, CD, network. Three places.
static void tell_boot_order(struct pc *b, const char *letters)
{
    static const char known[] = "acdn";
    u8 place[3] = {0};
    unsigned n = 0;

    for (; letters && *letters && n < ARRAY_LEN(place); letters++) {
        const char *k = strchr(known, *letters);
        if (k)
            place[n++] = (u8)(k - known + 1);
    }
    b->rtc.reg[CMOS_BOOT_3] = (u8)(place[2] << 4);
    b->rtc.reg[CMOS_BOOT_12] = (u8)(place[1] << 4 | place[0]);
}

// COM1 shares its interrupt with COM3, and COM2 with COM4.
static void set_uart_irq(void *sink, unsigned n, bool level)
{
    struct pc *b = sink;

    b->uart_irq = (u8)((b->uart_irq & ~(1u << n)) | (unsigned)level << n);
    set_isa_irq(b, n & 1 ? IRQ_COM2 : IRQ_COM1, b->uart_irq >> (n & 1) & 0x05);
}

static int wire_uarts(struct pc *b, const struct pc_options *o)
{
    int ret = 0;

    for (unsigned i = 0; i < PC_SERIALS && !ret; i++) {
        const struct pc_peer *p = &o->serial_peer[i];
        struct uart *u = &b->uart[i];

        u->irq = (struct irq_line){set_uart_irq, b, i};
        u->tx = p->tx;
        u->room = p->room;
        u->rx = p->rx;
        u->out = p->out;
        u->in = p->in;
        u->clock = &b->m.clock;
        ret = uart_init(u);
    }
    return ret;
}

static void wire(struct pc *b, const struct pc_options *o)
{
    b->debugcon = (struct debug_console){o->debugcon_peer.tx, o->debugcon_peer.out};
    b->debug_exit = (struct debug_exit){power_off, b};
    b->pvpanic = (struct pvpanic){power_off, b};
    b->pvpanic_port = o->pvpanic ? o->pvpanic_port : 0;
    b->port92 = (struct port92){0, set_a20_fast, ask_reset, b};
    port92_ops.reset(&b->port92);
    b->fpu_error = (struct fpu_error){.irq = pc_isa_irq(b, IRQ_FPU), .ignne = &b->m.vcpu[0]->ignne};
    b->m.vcpu[0]->ferr = (struct irq_line){fpu_error_ferr, &b->fpu_error, 0};
    for (unsigned i = 0; i < 16; i++)
        b->testdev.irq[i] = pc_isa_irq(b, i);
}

// Code that some engine derived from memory has changed.
static void code_write(void *owner, gpa base, u64 len)
{
    struct pc *b = owner;

    // One engine can tell when it holds nothing of the page any more, several cannot: they start over.
    if (b->m.vcpu_count > 1)
        mmu_unprotect_page(&b->m, base);
    for (unsigned i = 0; i < b->m.vcpu_count; i++) {
        struct vcpu *v = b->m.vcpu[i];
        if (v->engine && v->engine->invalidate)
            v->engine->invalidate(v, base, len);
    }
}

// --- memory ---------------------------------------------------------------------------------------------------------------

static void *alloc(struct pc *b, bool ram, const char *name, u64 size, struct error *err)
{
    struct host *h = b->m.host;
    void *p =
        ram && h->ops->ram_alloc ? h->ops->ram_alloc(h->self, name, size) : h->ops->mem_alloc(h->self, name, size);

    if (!p)
        error_format(
            err,
            "%s: cannot allocate %llu bytes of host memory; give the guest less (-m), or raise the limit (ulimit -v)",
            name, (unsigned long long)size);
    return p;
}

static void release(struct host *h, void *p, u64 size)
{
    if (p)
        h->ops->mem_free(h->self, p, size);
}

static u64 flags_size(u64 bytes)
{
    return ((bytes >> MEM_PAGE_SHIFT) + MEM_PAGE_SIZE - 1) & ~(u64)(MEM_PAGE_SIZE - 1);
}

// A block of memory and its flags. Returns 0 or -ENOMEM with *err set; pc_destroy() frees what there is.
static int alloc_block(struct pc *b, const char *name, u64 size, u8 **bytes, _Atomic u8 **flags, struct error *err)
{
    *bytes = alloc(b, true, name, size, err);
    *flags = *bytes ? alloc(b, false, "pogo-flags", flags_size(size), err) : NULL;
    return *flags ? 0 : -ENOMEM;
}

static int alloc_memory(struct pc *b, const struct pc_options *o, struct error *err)
{
    int ret;

    b->ram_size = o->ram;
    ret = alloc_block(b, "pogo-ram", b->ram_size, &b->ram, &b->ram_flags, err);
    if (!ret)
        ret = alloc_block(b, "pogo-blank", I440FX_LAST_AREA_SIZE, &b->blank, &b->blank_flags, err);
    if (ret)
        return ret;
    memset(b->blank, 0xff, I440FX_LAST_AREA_SIZE);
    if (!o->bios)
        return 0;
    // A ROM that is no multiple of an area's size ends at the top of its last one.
    b->rom_size = (o->bios_size + I440FX_AREA_SIZE - 1) & ~(I440FX_AREA_SIZE - 1);
    ret = alloc_block(b, "pogo-rom", b->rom_size, &b->rom, &b->rom_flags, err);
    if (ret)
        return ret;
    memset(b->rom, 0xff, b->rom_size - o->bios_size);
    memcpy(b->rom + (b->rom_size - o->bios_size), o->bios, o->bios_size);
    return 0;
}

// RAM at [base, end) of guest-physical memory, as far as there is that much, from `offset` on in the block.
static int add_ram(struct pc *b, gpa base, gpa end, u64 offset, const char *name)
{
    u64 size = end - base;

    if (offset >= b->ram_size)
        return 0;
    if (size > b->ram_size - offset)
        size = b->ram_size - offset;
    return mem_add_ram(&b->m.mem, base, size, b->ram + offset, b->ram_flags + (offset >> MEM_PAGE_SHIFT), name);
}

static gpa area_base(unsigned area)
{
    return I440FX_AREA_BASE + area * I440FX_AREA_SIZE;
}

// What the host bridge switches between RAM and ROM.
static int add_area(struct pc *b, unsigned area)
{
    u64 low = b->rom_size < ROM_LOW_SIZE ? b->rom_size : ROM_LOW_SIZE;
    u64 size = area == I440FX_AREAS - 1 ? I440FX_LAST_AREA_SIZE : I440FX_AREA_SIZE;
    gpa base = area_base(area);
    struct mem_region rom = {.host = b->blank, .page_flags = b->blank_flags};
    struct mem_region ram = {.host = b->ram + base, .page_flags = b->ram_flags + (base >> MEM_PAGE_SHIFT)};
    int ret;

    if (base >= MIB - low) {
        u64 off = b->rom_size - (MIB - base);
        rom.host = b->rom + off;
        rom.page_flags = b->rom_flags + (off >> MEM_PAGE_SHIFT);
    }
    ret = mem_add_shadow(&b->m.mem, base, size, &rom, &ram, "upper");
    if (!b->rom_size)
        mem_shadow_set(&b->m.mem, base, MEM_SHADOW_READ | MEM_SHADOW_WRITE); // as the host bridge will say
    return ret;
}

// With the device lock held, or while the machine is at rest.
void pc_map_areas(void *board, u32 reads, u32 writes)
{
    struct pc *b = board;
    bool changed = false;

    for (unsigned i = 0; i < I440FX_AREAS; i++) {
        u32 what = (reads >> i & 1 ? MEM_SHADOW_READ : 0) | (writes >> i & 1 ? MEM_SHADOW_WRITE : 0);
        changed |= mem_shadow_set(&b->m.mem, area_base(i), what);
    }
    if (changed)
        mmu_map_changed(&b->m);
}

static int map_memory(struct pc *b, struct error *err)
{
    struct mem *m = &b->m.mem;
    int ret = add_ram(b, 0, VGA_HOLE, 0, "low");

    for (unsigned i = 0; i < I440FX_AREAS && !ret; i++)
        ret = add_area(b, i);
    if (!ret)
        ret = add_ram(b, MIB, PCI_HOLE, MIB, "main");
    if (!ret && b->rom_size)
        ret = mem_add_rom(m, PC_HIGH_RAM - b->rom_size, b->rom_size, b->rom, b->rom_flags, "rom");
    if (!ret)
        ret = add_ram(b, PC_HIGH_RAM, PC_HIGH_RAM + PC_MAX_RAM, PCI_HOLE, "high");
    if (ret)
        return error_set(
            err, ret,
            "-m: %llu MiB reach past the processor model's physical addresses; give less or choose another -cpu",
            (unsigned long long)(b->ram_size / MIB));
    return 0;
}

u64 pc_low_ram(const struct pc *b)
{
    return b->ram_size < PCI_HOLE ? b->ram_size : PCI_HOLE;
}

unsigned pc_memory_map(const struct pc *b, struct boot_range *out)
{
    u64 low = pc_low_ram(b), rom = b->rom_size ? b->rom_size : 256 * KIB;
    unsigned n = 0;

    out[n++] = (struct boot_range){0, EBDA, BOOT_RANGE_RAM};
    out[n++] = (struct boot_range){EBDA, VGA_HOLE - EBDA, BOOT_RANGE_RESERVED};
    out[n++] = (struct boot_range){MIB - 64 * KIB, 64 * KIB, BOOT_RANGE_RESERVED};
    if (low > MIB)
        out[n++] = (struct boot_range){MIB, low - MIB, BOOT_RANGE_RAM};
    out[n++] = (struct boot_range){PC_HIGH_RAM - rom, rom, BOOT_RANGE_RESERVED};
    if (b->ram_size > PCI_HOLE)
        out[n++] = (struct boot_range){PC_HIGH_RAM, b->ram_size - PCI_HOLE, BOOT_RANGE_RAM};
    return n;
}

// --- life -----------------------------------------------------------------------------------------------------------------

static int check_options(const struct pc_options *o, struct error *err)
{
    if (o->ram < PC_MIN_RAM || o->ram > PC_MAX_RAM || o->ram % MEM_PAGE_SIZE)
        return error_set(err, -EINVAL, "-m: %llu bytes; must be a multiple of 4 KiB from %llu MiB to %llu GiB",
                         (unsigned long long)o->ram, PC_MIN_RAM / MIB, PC_MAX_RAM / GIB);
    if (o->cpus > MACHINE_MAX_VCPUS)
        return error_set(err, -EINVAL, "-smp: %u processors; must be from 1 to %d", o->cpus, MACHINE_MAX_VCPUS);
    if (o->icount.num && o->cpus > 1)
        return error_set(err, -EINVAL,
                         "-icount: virtual time follows the instructions of one processor; leave -smp %u away",
                         o->cpus);
    if (o->bios && (o->bios_size < PC_MIN_BIOS || o->bios_size > PC_MAX_BIOS))
        return error_set(err, -EINVAL, "-bios: the image has %llu bytes; must be from %llu KiB to %llu MiB",
                         (unsigned long long)o->bios_size, PC_MIN_BIOS / KIB, PC_MAX_BIOS / MIB);
    return 0;
}

static int create_vcpu(struct pc *b, const struct pc_options *o, struct error *err)
{
    struct vcpu *v = alloc(b, false, "pogo-vcpu", sizeof(*v), err);
    u32 id = b->m.vcpu_count;
    int ret;

    if (!v)
        return -ENOMEM;
    vcpu_init(v, &b->m, id, o->model);
    v->intc = (struct vcpu_intc){.ack = ack_intr,
                                 .intc = &b->lapic[id],
                                 .msr_read = intc_msr_read,
                                 .msr_write = intc_msr_write,
                                 .cr8_written = intc_cr8_written,
                                 .tpr_low = &b->lapic[id].tpr_low};
    b->m.tuning = o->tuning;
    machine_add_vcpu(&b->m, v);
    ret = o->engine->vcpu_create(v);
    if (ret)
        return error_set(err, ret, "-accel %s: cannot create a vCPU: %s", o->engine->name, strerror(-ret));
    v->engine = o->engine;
    vcpu_tsc_write(v, 0);
    v->cpu.msr.tsc_adjust = 0; // the counter starts there; nobody adjusted it
    return 0;
}

static int create_vcpus(struct pc *b, const struct pc_options *o, struct error *err)
{
    const char *why = "no reason given";
    int ret = o->engine->probe ? o->engine->probe(&why) : 0;

    if (ret)
        return error_set(err, ret, "-accel %s: not usable here: %s", o->engine->name, why);
    for (unsigned i = 0; i < (o->cpus ? o->cpus : 1) && !ret; i++)
        ret = create_vcpu(b, o, err);
    // The counters of all processors agree: guests compare them.
    for (unsigned i = 1; i < b->m.vcpu_count && !ret; i++)
        b->m.vcpu[i]->cpu.msr.tsc_offset = b->m.vcpu[0]->cpu.msr.tsc_offset;
    return ret;
}

static int build(struct pc *b, const struct pc_options *o, struct error *err)
{
    int ret = alloc_memory(b, o, err);

    b->m.mem.phys_mask = o->model->maxphyaddr < 64 ? (1ull << o->model->maxphyaddr) - 1 : 0;
    b->m.mem.code_write = code_write;
    b->m.mem.owner = b;
    if (!ret)
        ret = map_memory(b, err);
    if (!ret)
        ret = create_vcpus(b, o, err);
    if (ret)
        return ret;
    ret = wire_lapics(b);
    if (ret)
        return error_set(err, ret, "the local APIC at 0x%llx does not fit the memory map; use a smaller -bios",
                         LAPIC_BASE);
    if (o->testdev)
        ret = mem_add_mmio(&b->m.mem, TESTDEV_MEM_BASE, TESTDEV_MEM_SIZE, &testdev_mem_ops, &b->testdev, "testdev");
    if (ret)
        return error_set(err, ret, "-device pc-testdev: its memory at 0x%llx is taken; use a smaller -bios",
                         TESTDEV_MEM_BASE);
    i8259_init(&b->pic, (struct irq_line){set_lint0, b, 0});
    ret = wire_timers(b, o);
    if (!ret)
        ret = wire_i8042(b);
    if (!ret)
        ret = wire_uarts(b, o);
    if (ret)
        return error_set(err, ret, "no room for the board's timers");
    ret = pc_wire_pci(b);
    if (ret)
        return error_set(err, ret, "the PCI bus does not fit the memory map; use a smaller -bios");
    wire(b, o);
    ret = add_ports(b, o, err);
    if (ret)
        return ret;
    tell_boot_order(b, o->boot);
    ret = pc_fill_fw_cfg(b, o);
    return ret ? error_set(err, ret,
                           "fw_cfg: no room for what it is to tell; give less memory (-m) or fewer processors (-smp)")
               : 0;
}

int pc_create(struct host *host, const struct pc_options *o, struct pc **out, struct error *err)
{
    struct pc *b;
    int ret = check_options(o, err);

    if (ret)
        return ret;
    b = host->ops->mem_alloc(host->self, "pogo-board", sizeof(*b));
    if (!b)
        return error_set(err, -ENOMEM,
                         "cannot allocate host memory for the machine; free some, or raise the limit (ulimit -v)");
    machine_init(&b->m, host);
    if (o->icount.num)
        clock_use_icount(&b->m.clock, o->icount.num, o->icount.den, o->icount.utc_ns);
    ret = build(b, o, err);
    if (ret) {
        pc_destroy(b);
        return ret;
    }
    *out = b;
    return 0;
}

void pc_destroy(struct pc *b)
{
    struct host *h = b->m.host;

    for (unsigned i = 0; i < b->m.vcpu_count; i++) {
        struct vcpu *v = b->m.vcpu[i];
        if (v->engine)
            v->engine->vcpu_destroy(v);
        release(h, v, sizeof(*v));
    }
    pc_free_virtio(b);
    pc_free_fw_cfg(b);
    release(h, (void *)b->blank_flags, flags_size(I440FX_LAST_AREA_SIZE));
    release(h, b->blank, I440FX_LAST_AREA_SIZE);
    release(h, (void *)b->rom_flags, flags_size(b->rom_size));
    release(h, b->rom, b->rom_size);
    release(h, (void *)b->ram_flags, flags_size(b->ram_size));
    release(h, b->ram, b->ram_size);
    release(h, b, sizeof(*b));
}

void pc_reset(struct pc *b)
{
    for (unsigned i = 0; i < b->m.vcpu_count; i++) {
        struct vcpu *v = b->m.vcpu[i];
        v->engine->pull_state(v);
        vcpu_reset(v);
        atomic_store(&v->request, 0);
    }
    lock_take(&b->m.dev_lock); // disk I/O may be ending in other threads
    for (unsigned i = 0; i < b->m.vcpu_count; i++) {
        lapic_reset(&b->lapic[i], b->m.vcpu[i]->cpu.msr.apic_base);
        place_lapic(b, i);
    }
    i8259_reset(&b->pic);
    ioapic_reset(&b->ioapic);
    hpet_reset(&b->hpet);
    i8254_reset(&b->pit);
    mc146818_reset(&b->rtc);
    fw_cfg_ops.reset(&b->fw_cfg);
    i8042_reset(&b->i8042);
    for (unsigned i = 0; i < PC_SERIALS; i++)
        uart_reset(&b->uart[i]);
    port92_ops.reset(&b->port92);
    fpu_error_ops.reset(&b->fpu_error);
    pci_bus_reset(&b->pci);
    lock_drop(&b->m.dev_lock);
    for (unsigned i = 0; i < b->m.vcpu_count; i++)
        b->m.vcpu[i]->engine->push_state(b->m.vcpu[i]);
    machine_resume(&b->m);
}

void pc_serial_input(struct pc *b, unsigned n)
{
    uart_poll(&b->uart[n]);
}

void pc_serial_room(struct pc *b, unsigned n)
{
    uart_tx_ready(&b->uart[n]);
}

void pc_serial_break(struct pc *b, unsigned n)
{
    uart_break(&b->uart[n]);
}
