// What 'info' shows.

#include <string.h>

#include "cli/disks.h"
#include "cli/monitor.h"
#include "cli/pagewalk.h"
#include "cli/report.h"
#include "core/mmu.h"
#include "dev/virtio_balloon.h"
#include "host/blockio.h"
#include "pogo/version.h"

#define DUMP_SIZE 16384
#define STATS_SIZE 4096

static void dump(struct monitor *m, const char *name, const struct dev_ops *ops, void *dev)
{
    char text[DUMP_SIZE] = "";

    if (!ops->dump)
        return;
    ops->dump(dev, text, sizeof(text));
    size_t len = strlen(text);
    fprintf(m->out, "%s: %s%s", name, text, len && text[len - 1] == '\n' ? "" : "\n");
}

static void info_registers(struct monitor *m, char *args)
{
    unsigned chosen = m->cpu;

    if (strcmp(monitor_word(&args), "-a")) {
        report_cpu(m->out, monitor_cpu(m));
        return;
    }
    for (m->cpu = 0; m->cpu < m->vm->board->m.vcpu_count; m->cpu++)
        report_cpu(m->out, monitor_cpu(m));
    m->cpu = chosen;
}

static void info_cpus(struct monitor *m, char *args)
{
    static const char *const doing[] = {[CPU_RUNNING] = "running",
                                        [CPU_HALTED] = "halted",
                                        [CPU_WAIT_SIPI] = "waiting for its start",
                                        [CPU_SHUTDOWN] = "shut down"};
    struct machine *machine = &m->vm->board->m;

    (void)args;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        struct vcpu *v = machine->vcpu[i];
        v->engine->pull_state(v);
        fprintf(m->out, "%c CPU #%u: %s, pc=0x%llx, %llu instructions%s\n", i == m->cpu ? '*' : ' ', i,
                doing[v->cpu.activity], (unsigned long long)(v->cpu.seg[X86_CS].base + v->cpu.rip),
                (unsigned long long)v->insns, v->uncounted ? " and those not counted" : "");
    }
}

static void info_mem(struct monitor *m, char *args)
{
    (void)args;
    pagewalk_ranges(m->out, monitor_cpu(m));
}

struct tlb_counts {
    unsigned valid, global, writable, large;
};

static struct tlb_counts count_entries(const struct tlb_table *t)
{
    struct tlb_counts n = {0};

    for (unsigned i = 0; i < TLB_WORDS; i++) {
        const struct tlb_bits *b = &t->bits[i];
        n.valid += (unsigned)__builtin_popcountll(b->valid);
        n.global += (unsigned)__builtin_popcountll(b->global);
        n.writable += (unsigned)__builtin_popcountll(b->writable);
        n.large += (unsigned)__builtin_popcountll(b->large);
    }
    return n;
}

// Entries of the software TLB, by address space and by who accesses.
static void show_tlb(FILE *out, const struct tlb *t)
{
    static const char *const views[TLB_VIEW_COUNT] = {
        [TLB_USER] = "user", [TLB_SUPER] = "supervisor", [TLB_SUPER_AC] = "supervisor with AC"};

    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        const struct tlb_context *c = &t->ctx[i];
        if (!c->used && i != t->cur_ctx)
            continue;
        for (unsigned v = 0; v < TLB_VIEW_COUNT; v++) {
            const struct tlb_counts n = count_entries(&c->view[v]);
            if (n.valid)
                fprintf(out, "%cTLB of PCID %u, %s: %u of %u entries, %u writable, %u global, %u of large pages\n",
                        i == t->cur_ctx ? '*' : ' ', c->pcid, views[v], n.valid, TLB_ENTRIES, n.writable, n.global,
                        n.large);
        }
    }
}

static void info_tlb(struct monitor *m, char *args)
{
    struct vcpu *v = monitor_cpu(m);

    (void)args;
    show_tlb(m->out, &v->tlb);
    pagewalk_pages(m->out, v);
}

static void show_counts(FILE *out, const u64 *count, unsigned n, unsigned first)
{
    for (unsigned i = 0; i < n; i++)
        if (count[i])
            fprintf(out, "%6u: %llu\n", first + i, (unsigned long long)count[i]);
}

static void info_irq(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;

    (void)args;
    fprintf(m->out, "IRQ statistics for i8259:\n");
    show_counts(m->out, b->pic.chip[0].count, 8, 0);
    show_counts(m->out, b->pic.chip[1].count, 8, 8);
    fprintf(m->out, "IRQ statistics for ioapic:\n");
    show_counts(m->out, b->ioapic.count, IOAPIC_PINS, 0);
    for (unsigned i = 0; i < b->m.vcpu_count; i++)
        fprintf(m->out, "CPU #%u local APIC: %llu interrupts taken; requests %03x\n", i,
                (unsigned long long)b->lapic[i].count, atomic_load(&b->m.vcpu[i]->request));
    fprintf(m->out, "ISA interrupts up: board %04x PCI %04x\n", b->isa_irq[0], b->isa_irq[1]);
}

static void info_lapic(struct monitor *m, char *args)
{
    char name[32];

    (void)args;
    snprintf(name, sizeof(name), "CPU #%u local APIC", m->cpu);
    dump(m, name, &lapic_ops, &m->vm->board->lapic[m->cpu]);
}

static void info_pic(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;

    (void)args;
    dump(m, "pic0", &i8259_ops, &b->pic.window[0]);
    dump(m, "pic1", &i8259_ops, &b->pic.window[1]);
    dump(m, "ioapic", &ioapic_ops, &b->ioapic);
}

static void info_devices(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;

    (void)args;
    for (unsigned i = 0; i < b->m.bus.count; i++) {
        const struct bus_region *r = &b->m.bus.region[i];
        char name[64];
        snprintf(name, sizeof(name), "%s at port 0x%llx", r->ops->name, (unsigned long long)r->base);
        dump(m, name, r->ops, r->dev);
    }
    for (unsigned i = 0; i < b->m.mem.count; i++) {
        const struct mem_region *r = &b->m.mem.region[i];
        // The page of the local APICs and the PCI windows have no state of their own.
        if (r->kind == MEM_MMIO && r->ops->dump)
            dump(m, r->name, r->ops, r->dev);
    }
    for (unsigned i = 0; i < b->pci.count; i++) {
        const struct pci_dev *d = b->pci.order[i];
        char text[DUMP_SIZE] = "";
        if (!d->ops->dump)
            continue;
        d->ops->dump(d->self, text, sizeof(text));
        size_t len = strlen(text);
        fprintf(m->out, "pci %02x.%x: %s%s", d->devfn >> 3, d->devfn & 7u, text,
                len && text[len - 1] == '\n' ? "" : "\n");
    }
}

static void info_mtree(struct monitor *m, char *args)
{
    static const char *const kinds[] = {[MEM_RAM] = "ram", [MEM_ROM] = "rom", [MEM_MMIO] = "i/o"};
    struct machine *machine = &m->vm->board->m;

    (void)args;
    fprintf(m->out, "memory\n");
    for (unsigned i = 0; i < machine->mem.count; i++) {
        const struct mem_region *r = mem_find(&machine->mem, machine->mem.region[i].base);
        fprintf(m->out, "  %016llx-%016llx %s %s\n", (unsigned long long)r->base,
                (unsigned long long)(r->base + (r->size - 1)), kinds[r->kind], r->name);
    }
    fprintf(m->out, "I/O ports\n");
    for (unsigned i = 0; i < machine->bus.count; i++) {
        const struct bus_region *r = &machine->bus.region[i];
        fprintf(m->out, "  %04llx-%04llx %s\n", (unsigned long long)r->base,
                (unsigned long long)(r->base + r->size - 1), r->ops->name);
    }
}

static void info_qtree(struct monitor *m, char *args)
{
    struct pc *b = m->vm->board;
    const struct bus *ports = &b->m.bus;

    (void)args;
    fprintf(m->out, "bus: pci.0\n");
    for (unsigned i = 0; i < b->pci.count; i++) {
        const struct pci_dev *d = b->pci.order[i];
        fprintf(m->out, "  dev: %s, addr %02x.%x, id %04x:%04x\n", d->ops->name, d->devfn >> 3, d->devfn & 7u,
                pci_get16(d->config, PCI_VENDOR_ID), pci_get16(d->config, PCI_DEVICE_ID));
    }
    fprintf(m->out, "bus: isa.0\n");
    for (unsigned i = 0; i < ports->count; i++)
        fprintf(m->out, "  dev: %s, ports %04llx-%04llx\n", ports->region[i].ops->name,
                (unsigned long long)ports->region[i].base,
                (unsigned long long)(ports->region[i].base + ports->region[i].size - 1));
    fprintf(m->out, "bus: system\n");
    for (unsigned i = 0; i < b->m.vcpu_count; i++)
        fprintf(m->out, "  dev: cpu %u and its local APIC, engine %s\n", i, b->m.vcpu[i]->engine->name);
    for (unsigned i = 0; i < b->m.mem.count; i++)
        if (b->m.mem.region[i].kind == MEM_MMIO)
            fprintf(m->out, "  dev: %s, memory %llx\n", b->m.mem.region[i].name,
                    (unsigned long long)b->m.mem.region[i].base);
}

static void info_pci(struct monitor *m, char *args)
{
    char text[DUMP_SIZE] = "";

    (void)args;
    pci_bus_dump(&m->vm->board->pci, text, sizeof(text));
    fputs(text, m->out);
}

static const char *drive_name(const struct drive_option *d, unsigned n, char *buf, size_t size)
{
    snprintf(buf, size, "drive%u", n);
    return d->id ? d->id : buf;
}

static void info_block(struct monitor *m, char *args)
{
    const struct disks *disks = m->vm->disks;
    char buf[32];

    (void)args;
    if (!m->o || !m->o->drive_count)
        fprintf(m->out, "no disks\n");
    for (unsigned i = 0; m->o && disks && i < m->o->drive_count; i++) {
        const struct drive_option *d = &m->o->drive[i];
        const struct blk_backend *b = disks->backend[i];
        fprintf(m->out, "%s: %s (raw%s%s)\n", drive_name(d, i, buf, sizeof(buf)), d->file ? d->file : d->node,
                b && b->readonly ? ", read-only" : "", d->snapshot ? ", snapshot" : "");
        if (b)
            fprintf(m->out, "    %llu bytes in blocks of %u, cache mode %s%s%s\n", (unsigned long long)b->size,
                    b->logical, d->writethrough ? "writethrough" : "writeback", d->no_flush ? ", no flushes" : "",
                    d->unmap ? ", discards give space back" : "");
        else
            fprintf(m->out, "    no device has it\n");
    }
}

static void info_blockstats(struct monitor *m, char *args)
{
    const struct disks *disks = m->vm->disks;
    struct blockio_stats s;
    char buf[32];

    (void)args;
    for (unsigned i = 0; m->o && disks && i < m->o->drive_count; i++) {
        if (!disks->backend[i])
            continue;
        lock_take(&m->vm->board->m.dev_lock);
        blockio_stats(disks->backend[i], &s);
        lock_drop(&m->vm->board->m.dev_lock);
        fprintf(m->out,
                "%s: rd_bytes=%llu wr_bytes=%llu rd_operations=%llu wr_operations=%llu flush_operations=%llu "
                "unmap_bytes=%llu zero_bytes=%llu failed_operations=%llu\n",
                drive_name(&m->o->drive[i], i, buf, sizeof(buf)), (unsigned long long)s.bytes[BLK_READ],
                (unsigned long long)s.bytes[BLK_WRITE], (unsigned long long)s.requests[BLK_READ],
                (unsigned long long)s.requests[BLK_WRITE], (unsigned long long)s.requests[BLK_FLUSH],
                (unsigned long long)s.bytes[BLK_DISCARD], (unsigned long long)s.bytes[BLK_ZERO],
                (unsigned long long)s.errors);
    }
}

// Statistics are those of the last time that somebody asked; this asks again.
static void info_balloon(struct monitor *m, char *args)
{
    static const char *const names[BALLOON_STAT_COUNT] = {
        "swap_in",      "swap_out",         "major_faults", "minor_faults",        "free_memory",
        "total_memory", "available_memory", "disk_caches",  "hugetlb_allocations", "hugetlb_failures"};
    struct pc *b = m->vm->board;
    u64 actual;

    (void)args;
    if (!b->balloon) {
        fprintf(m->out, "no balloon\n");
        return;
    }
    lock_take(&b->m.dev_lock);
    actual = virtio_balloon_actual(b->balloon); // as the guest says
    fprintf(m->out, "balloon: actual=%llu\n",
            (unsigned long long)(actual < b->ram_size ? b->ram_size - actual : 0) >> 20);
    fprintf(m->out, "given back: %llu MiB\n", (unsigned long long)(b->balloon->discarded >> 20));
    for (unsigned i = 0; i < BALLOON_STAT_COUNT; i++)
        if (b->balloon->stat[i] != BALLOON_UNKNOWN)
            fprintf(m->out, "%s=%llu\n", names[i], (unsigned long long)b->balloon->stat[i]);
    virtio_balloon_ask(b->balloon);
    lock_drop(&b->m.dev_lock);
}

static void info_chardev(struct monitor *m, char *args)
{
    (void)args;
    for (unsigned i = 0; i < m->vm->chars.count; i++) {
        struct chardev *c = m->vm->chars.dev[i];
        fprintf(m->out, "%s: %s, %s, %u users, %u bytes waiting, %llu lost\n", c->spec.id ? c->spec.id : "-",
                *c->name ? c->name : "null", c->connected ? "connected" : "nobody there", c->fronts, c->tail - c->head,
                (unsigned long long)c->dropped);
    }
}

static void show_rate(struct monitor *m, const char *when, u64 insns, u64 ns, bool uncounted)
{
    fprintf(m->out, "%s: %llu.%03llu s of guest time, %s%llu million instructions a second\n", when,
            (unsigned long long)(ns / 1000000000), (unsigned long long)(ns / 1000000 % 1000),
            uncounted ? "more than " : "", (unsigned long long)(ns ? insns * 1000 / ns : 0));
}

static void info_stats(struct monitor *m, char *args)
{
    struct machine *machine = &m->vm->board->m;
    u64 now = clock_now(&machine->clock), total = 0;
    bool uncounted = false;

    (void)args;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        struct vcpu *v = machine->vcpu[i];
        char text[STATS_SIZE] = "";

        total += v->insns;
        fprintf(m->out, "CPU #%u: %llu instructions%s\n", i, (unsigned long long)v->insns,
                v->uncounted ? " and those not counted: translated code counts only with -icount" : "");
        uncounted |= v->uncounted;
        if (v->engine->stats)
            v->engine->stats(v, text, sizeof(text));
        if (*text)
            fprintf(m->out, "  %s: %s\n", v->engine->name, text);
    }
    show_rate(m, "since the start", total, now, uncounted);
    // A reset sets neither back.
    if (m->stats_ns && now >= m->stats_ns && total >= m->stats_insns)
        show_rate(m, "since the last time", total - m->stats_insns, now - m->stats_ns, uncounted);
    m->stats_ns = now;
    m->stats_insns = total;
}

static void info_bt(struct monitor *m, char *args)
{
    struct machine *machine = &m->vm->board->m;

    (void)args;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        struct vcpu *v = machine->vcpu[i];
        char text[STATS_SIZE] = "";

        if (strcmp(v->engine->name, "bt")) {
            fprintf(m->out, "the engine is %s, which translates nothing\n", v->engine->name);
            return;
        }
        v->engine->stats(v, text, sizeof(text));
        fprintf(m->out, "CPU #%u: %s", i, text);
    }
}

static void info_status(struct monitor *m, char *args)
{
    static const char *const names[] = {
        [VM_RUNNING] = "running", [VM_STOPPED] = "paused", [VM_OFF] = "paused (shutdown)", [VM_ENDED] = "ended"};

    (void)args;
    fprintf(m->out, "VM status: %s\n", names[vm_state(m->vm)]);
}

static void info_name(struct monitor *m, char *args)
{
    (void)args;
    if (m->o && m->o->name)
        fprintf(m->out, "%s\n", m->o->name);
}

static void info_version(struct monitor *m, char *args)
{
    (void)args;
    fprintf(m->out, "%s\n", POGO_VERSION);
}

static const struct {
    const char *name, *help;
    void (*show)(struct monitor *m, char *args);
} topics[] = {
#define MONITOR(id, name, brief, args, help)
#define MONITOR_INFO(id, name, help) {name, help, info_##id},
#include "cli/monitor.def"
#undef MONITOR
#undef MONITOR_INFO
};

const char *monitor_info_name(size_t n)
{
    return n < ARRAY_LEN(topics) ? topics[n].name : NULL;
}

void monitor_list_info(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(topics); i++)
        fprintf(out, "info %s -- %s\n", topics[i].name, topics[i].help);
}

void monitor_info(struct monitor *m, char *args)
{
    char *name = monitor_word(&args);

    if (!*name) {
        monitor_list_info(m->out);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(topics); i++)
        if (!strcmp(topics[i].name, name)) {
            topics[i].show(m, args);
            return;
        }
    fprintf(m->out, "info %s: unknown topic; 'info' lists them\n", name);
}
