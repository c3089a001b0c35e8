// Comparing two machines, and printing where they differ. The quick way answers yes or no; the long way, which prints, runs once.
#include <string.h>

#include "cli/lockstep.h"
#include "cli/report.h"
#include "core/cpu_fields.h"
#include "core/hash.h"
#include "isa/disasm.h"

// Requests that the guest can tell; the others are between engine and machine.
#define VISIBLE (VCPU_REQ_INTR | VCPU_REQ_NMIS | VCPU_REQ_SMI | VCPU_REQ_INIT | VCPU_REQ_SIPI)
#define DUMP_SIZE 640
#define MEMORY_LINES 16

// --- memory ---------------------------------------------------------------------------------------------------------------

// The n-th piece of RAM, also where ROM hides it; NULL past the end. Both machines have the same ones.
static const struct mem_region *ram_at(const struct mem *m, unsigned n)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->region[i].kind == MEM_RAM && !m->region[i].shadow && !n--)
            return &m->region[i];
    return n < m->shadow_count ? &m->shadow[n].view[MEM_SHADOW_READ | MEM_SHADOW_WRITE] : NULL;
}

static u64 flag_word(const struct mem_region *r, u64 page)
{
    u64 w;

    memcpy(&w, (const void *)(r->page_flags + page), sizeof(w));
    return w;
}

#define DIRTY_WORD (0x0101010101010101ull * MEM_PAGE_DIRTY)

// The first page from `page` on that is to be compared, or the number of pages.
static u64 next_page(const struct mem_region *a, const struct mem_region *b, u64 page, bool all)
{
    u64 pages = a->size >> MEM_PAGE_SHIFT;

    while (page < pages && !all) {
        if (page % 8 == 0 && page + 8 <= pages && !((flag_word(a, page) | flag_word(b, page)) & DIRTY_WORD)) {
            page += 8;
            continue;
        }
        if ((a->page_flags[page] | b->page_flags[page]) & MEM_PAGE_DIRTY)
            break;
        page++;
    }
    return page;
}

static bool region_same(const struct mem_region *a, const struct mem_region *b, bool all)
{
    for (u64 page = 0; (page = next_page(a, b, page, all)) < a->size >> MEM_PAGE_SHIFT; page++)
        if (memcmp(a->host + (page << MEM_PAGE_SHIFT), b->host + (page << MEM_PAGE_SHIFT), MEM_PAGE_SIZE))
            return false;
    return true;
}

static bool clear_dirty(const struct mem_region *a, const struct mem_region *b)
{
    bool any = false;

    for (u64 page = 0; (page = next_page(a, b, page, false)) < a->size >> MEM_PAGE_SHIFT; page++) {
        atomic_fetch_and(&a->page_flags[page], (u8)~MEM_PAGE_DIRTY);
        atomic_fetch_and(&b->page_flags[page], (u8)~MEM_PAGE_DIRTY);
        any = true;
    }
    return any;
}

static bool memory_same(struct side *a, struct side *b, bool all)
{
    const struct mem *ma = &a->board->m.mem, *mb = &b->board->m.mem;
    const struct mem_region *r;
    bool any = false;

    for (unsigned n = 0; (r = ram_at(ma, n)); n++)
        if (!region_same(r, ram_at(mb, n), all))
            return false;
    for (unsigned n = 0; (r = ram_at(ma, n)); n++)
        any |= clear_dirty(r, ram_at(mb, n));
    if (any) { // the next store to each page is to set its flag
        tlb_protect_all(&a->v->tlb);
        tlb_protect_all(&b->v->tlb);
    }
    return true;
}

static void print_bytes(FILE *out, const char *name, const u8 *p, const u8 *other, unsigned n)
{
    fprintf(out, "    %-8s", name);
    for (unsigned i = 0; i < n; i++)
        fprintf(out, p[i] == other[i] ? " %02x " : "[%02x]", p[i]);
    fprintf(out, "\n");
}

static void print_memory(FILE *out, const struct lockstep_config *c, struct side *a, struct side *b)
{
    const struct mem_region *ra, *rb;
    unsigned lines = 0;

    for (unsigned n = 0; (ra = ram_at(&a->board->m.mem, n)); n++) {
        rb = ram_at(&b->board->m.mem, n);
        for (u64 off = 0; off < ra->size; off += 16) {
            if (off % MEM_PAGE_SIZE == 0 && !memcmp(ra->host + off, rb->host + off, MEM_PAGE_SIZE)) {
                off += MEM_PAGE_SIZE - 16;
                continue;
            }
            if (!memcmp(ra->host + off, rb->host + off, 16) || ++lines > MEMORY_LINES)
                continue;
            bool known = (ra->page_flags[off >> 12] | rb->page_flags[off >> 12]) & MEM_PAGE_DIRTY;
            fprintf(out, "  memory at %llx%s\n", (unsigned long long)(ra->base + off),
                    known ? "" : " (in a page that was not marked as written)");
            print_bytes(out, c->engine[0]->name, ra->host + off, rb->host + off, 16);
            print_bytes(out, c->engine[1]->name, rb->host + off, ra->host + off, 16);
        }
    }
    if (lines > MEMORY_LINES)
        fprintf(out, "  and %u more lines of 16 bytes\n", lines - MEMORY_LINES);
}

// --- devices --------------------------------------------------------------------------------------------------------------

struct device {
    const char *name;
    void (*dump)(void *dev, char *buf, size_t size); // NULL: it has nothing to say
    void *dev;
    const u8 *config; // PCI configuration space, or NULL
};

static struct device of_ops(const struct dev_ops *ops, void *dev)
{
    return ops ? (struct device){ops->name, ops->dump, dev, NULL} : (struct device){"", NULL, NULL, NULL};
}

// The n-th device: on the port bus, in memory, on the PCI bus, and the local APIC. False past the end.
static bool device_at(struct side *s, unsigned n, struct device *d)
{
    struct machine *m = &s->board->m;
    const struct pci_bus *pci = &s->board->pci;

    if (n < m->bus.count) {
        *d = of_ops(m->bus.region[n].ops, m->bus.region[n].dev);
        return true;
    }
    n -= m->bus.count;
    if (n < m->mem.count) {
        *d = of_ops(m->mem.region[n].ops, m->mem.region[n].dev);
        return true;
    }
    n -= m->mem.count;
    if (n < pci->count) {
        const struct pci_dev *p = pci->order[n];
        *d = (struct device){p->ops->name, p->ops->dump, p->self, p->config};
        return true;
    }
    *d = of_ops(&lapic_ops, &s->board->lapic[0]);
    return n == pci->count;
}

// What it says of its state, and a fingerprint of its configuration space.
static void device_dump(const struct device *d, char text[DUMP_SIZE])
{
    size_t n;

    text[0] = 0;
    if (d->dump)
        d->dump(d->dev, text, DUMP_SIZE);
    n = strlen(text);
    if (d->config)
        snprintf(text + n, DUMP_SIZE - n, " configuration %016llx",
                 (unsigned long long)hash_bytes(HASH_START, d->config, PCI_CONFIG_SIZE));
}

static bool devices_same(struct side *a, struct side *b, FILE *out)
{
    char ta[DUMP_SIZE], tb[DUMP_SIZE];
    struct device da, db;
    bool same = true;

    for (unsigned n = 0; device_at(a, n, &da) && device_at(b, n, &db); n++) {
        device_dump(&da, ta);
        device_dump(&db, tb);
        if (!strcmp(ta, tb))
            continue;
        same = false;
        if (out)
            fprintf(out, "  device %s\n    %s\n    %s\n", da.name, ta, tb);
    }
    return same;
}

// --- clock and interrupts -------------------------------------------------------------------------------------------------

static bool clock_same(const struct clock *a, const struct clock *b)
{
    if (a->next_deadline != b->next_deadline || a->icount_skipped_ns != b->icount_skipped_ns || a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++)
        if (a->timer[i]->deadline_ns != b->timer[i]->deadline_ns)
            return false;
    return true;
}

static void print_clock(FILE *out, const struct clock *a, const struct clock *b)
{
    if (a->icount_skipped_ns != b->icount_skipped_ns)
        fprintf(out, "  idle time %llu ns, %llu ns\n", (unsigned long long)a->icount_skipped_ns,
                (unsigned long long)b->icount_skipped_ns);
    for (unsigned i = 0; i < a->count && i < b->count; i++)
        if (a->timer[i]->deadline_ns != b->timer[i]->deadline_ns)
            fprintf(out, "  timer %u due at %lld, %lld\n", i, (long long)a->timer[i]->deadline_ns,
                    (long long)b->timer[i]->deadline_ns);
}

static bool interrupts_same(const struct side *a, const struct side *b)
{
    return !((atomic_load(&a->v->request) ^ atomic_load(&b->v->request)) & VISIBLE) &&
           !memcmp(a->board->isa_irq, b->board->isa_irq, sizeof(a->board->isa_irq)) &&
           a->board->uart_irq == b->board->uart_irq;
}

static void print_interrupts(FILE *out, const struct side *a, const struct side *b)
{
    u32 ra = atomic_load(&a->v->request) & VISIBLE, rb = atomic_load(&b->v->request) & VISIBLE;

    if (ra != rb)
        fprintf(out, "  requests %x, %x (VCPU_REQ_*)\n", ra, rb);
    if (!interrupts_same(a, b) && ra == rb)
        fprintf(out, "  interrupt lines: board %04x, %04x; PCI %04x, %04x\n", a->board->isa_irq[0],
                b->board->isa_irq[0], a->board->isa_irq[1], b->board->isa_irq[1]);
}

// --- consoles and the end -------------------------------------------------------------------------------------------------

// Output only grows, and what was there was compared: a tail is enough.
static bool output_same(const struct side *a, const struct side *b)
{
    for (unsigned i = 0; i < SIDE_STREAMS; i++) {
        const struct side_stream *sa = &a->stream[i], *sb = &b->stream[i];
        size_t tail = sa->len < 65536 ? sa->len : 65536;
        if (sa->len != sb->len || (tail && memcmp(sa->bytes + sa->len - tail, sb->bytes + sb->len - tail, tail)))
            return false;
    }
    return true;
}

static void print_output(FILE *out, const struct side *a, const struct side *b)
{
    for (unsigned i = 0; i < SIDE_STREAMS; i++) {
        const struct side_stream *sa = &a->stream[i], *sb = &b->stream[i];
        size_t n = 0;
        while (n < sa->len && n < sb->len && sa->bytes[n] == sb->bytes[n])
            n++;
        if (n < sa->len || n < sb->len)
            fprintf(out, "  console %u: %zu, %zu bytes, the same up to byte %zu\n", i, sa->len, sb->len, n);
    }
}

static bool end_same(const struct side *a, const struct side *b)
{
    return a->ended == b->ended && (!a->ended || (a->exit.reason == b->exit.reason && a->exit.code == b->exit.code));
}

// --- all ------------------------------------------------------------------------------------------------------------------

bool lockstep_same(struct side *a, struct side *b, enum lockstep_depth depth)
{
    return a->v->insns == b->v->insns && cpu_same(&a->v->cpu, &b->v->cpu) && end_same(a, b) && interrupts_same(a, b) &&
           clock_same(&a->board->m.clock, &b->board->m.clock) && output_same(a, b) &&
           (depth < DEPTH_MEMORY || (devices_same(a, b, NULL) && memory_same(a, b, depth == DEPTH_ALL)));
}

// A value as people write it: the highest byte first.
static void value(char *text, const u8 *p, unsigned size)
{
    for (unsigned i = size; i-- > 0; text += 2)
        sprintf(text, "%02x", p[i]);
    *text = 0;
}

static void print_flags(FILE *out, u64 differ)
{
    static const struct {
        u64 bit;
        const char *name;
    } flags[] = {{X86_FL_CF, "CF"}, {X86_FL_PF, "PF"}, {X86_FL_AF, "AF"}, {X86_FL_ZF, "ZF"}, {X86_FL_SF, "SF"},
                 {X86_FL_TF, "TF"}, {X86_FL_IF, "IF"}, {X86_FL_DF, "DF"}, {X86_FL_OF, "OF"}, {X86_FL_NT, "NT"},
                 {X86_FL_RF, "RF"}, {X86_FL_VM, "VM"}, {X86_FL_AC, "AC"}};

    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (differ & flags[i].bit)
            fprintf(out, " %s", flags[i].name);
}

// RIP, the general registers and the flags always; the rest where it differs or has just changed.
static void print_processors(FILE *out, const struct lockstep_config *c, const struct cpu *a, const struct cpu *b,
                             const struct cpu *before)
{
    const struct cpu_field *f;
    char name[CPU_FIELD_NAME], ta[80], tb[80], told[80];

    fprintf(out, "\n    %-16s %-18s %-18s %-18s\n", "", before ? "before" : "", c->engine[0]->name,
            c->engine[0] == c->engine[1] ? "again" : c->engine[1]->name);
    for (unsigned i = 0; (f = cpu_field_at(i)); i++)
        for (unsigned n = 0; n < f->count; n++) {
            const u8 *va = cpu_field_value(a, f, n), *vb = cpu_field_value(b, f, n);
            const u8 *old = before ? cpu_field_value(before, f, n) : va;
            bool differs = memcmp(va, vb, f->size), changed = memcmp(va, old, f->size) || memcmp(vb, old, f->size);
            if (i > 2 && !differs && !changed)
                continue;
            cpu_field_name(f, n, name);
            value(ta, va, f->size);
            value(tb, vb, f->size);
            value(told, old, f->size);
            fprintf(out, "%s %-16s %-18s %-18s %-18s", differs ? "***" : "   ", name, before ? told : "", ta, tb);
            if (differs && f->offset == offsetof(struct cpu, rflags))
                print_flags(out, a->rflags ^ b->rflags);
            fprintf(out, "\n");
        }
    fprintf(out, "\n");
}

void lockstep_print(FILE *out, const struct lockstep_config *c, struct side *a, struct side *b,
                    const struct cpu *before)
{
    if (a->v->insns != b->v->insns)
        fprintf(out, "  instructions retired: %llu, %llu\n", (unsigned long long)a->v->insns,
                (unsigned long long)b->v->insns);
    if (!end_same(a, b))
        fprintf(out, "  the guest's end: %s (%d); %s (%d)\n", side_end_name(a), a->exit.code, side_end_name(b),
                b->exit.code);
    print_processors(out, c, &a->v->cpu, &b->v->cpu, before);
    print_interrupts(out, a, b);
    print_clock(out, &a->board->m.clock, &b->board->m.clock);
    print_output(out, a, b);
    devices_same(a, b, out);
    print_memory(out, c, a, b);
}

void lockstep_print_history(FILE *out, const struct lockstep_history *h)
{
    u64 first = h->count > LOCKSTEP_HISTORY ? h->count - LOCKSTEP_HISTORY : 0;

    for (u64 i = first; i < h->count; i++) {
        const struct lockstep_step *s = &h->step[i % LOCKSTEP_HISTORY];
        char text[128] = "(no memory)";
        if (s->kind == SIDE_EVENT)
            snprintf(text, sizeof(text), "  ... delivery of %s %u",
                     s->type == CPU_EVENT_EXTERNAL ? "interrupt" : "event", s->vector);
        else if (s->kind == SIDE_IDLE)
            snprintf(text, sizeof(text), "  ... idle");
        else if (s->len)
            isa_disasm(s->bytes, s->len, (enum isa_mode)s->mode, s->rip, text, sizeof(text));
        fprintf(out, "%s %12llu  %016llx  %s%s\n", i + 1 == h->count ? "=>" : "  ", (unsigned long long)s->insns + 1,
                (unsigned long long)s->rip, text, s->kind == SIDE_FAULT ? "   (faults)" : "");
    }
}
