// Walks of whole page tables. SDM 3A 4.3 to 4.5.
//
//             levels   index bits    entry    large pages
//   32-bit      2      10 10         4 bytes  4 MiB (CR4.PSE)
//   PAE         3      2 9 9         8        2 MiB
//   4-level     4      9 9 9 9       8        1 GiB, 2 MiB

#include "cli/pagewalk.h"

#include "core/machine.h"

#define MAX_TABLES 16384
#define MAX_LINES 100000

struct walk {
    FILE *out;
    const struct mem *mem;
    unsigned entry, index_bits; // bytes of an entry, bits of an index
    bool pse, canonical;
    unsigned tables, lines; // seen so far
    bool ranges, open;      // print ranges; one is open
    gva from, to;
    u64 prot;
};

// Flags that restrict at every level, so that a set bit means "less"; X86_PTE_W and _U inverted.
#define RESTRICT(pte) ((~(pte) & (X86_PTE_W | X86_PTE_U)) | ((pte)&X86_PTE_NX))

static void end_range(struct walk *w)
{
    if (w->open)
        fprintf(w->out, "%016llx-%016llx %016llx %c%c%c%c\n", (unsigned long long)w->from, (unsigned long long)w->to,
                (unsigned long long)(w->to - w->from), w->prot & X86_PTE_U ? '-' : 'u', 'r',
                w->prot & X86_PTE_W ? '-' : 'w', w->prot & X86_PTE_NX ? '-' : 'x');
    w->lines += w->open;
    w->open = false;
}

static void add_range(struct walk *w, gva a, u64 size, u64 prot)
{
    if (w->open && w->to == a && w->prot == prot) {
        w->to += size;
        return;
    }
    end_range(w);
    w->open = true;
    w->from = a;
    w->to = a + size;
    w->prot = prot;
}

static void add_page(struct walk *w, gva a, u64 pte, u64 size, bool large)
{
    static const struct {
        u64 bit;
        char letter;
    } flags[] = {{X86_PTE_NX, 'X'},  {X86_PTE_G, 'G'},   {X86_PTE_D, 'D'}, {X86_PTE_A, 'A'},
                 {X86_PTE_PCD, 'C'}, {X86_PTE_PWT, 'T'}, {X86_PTE_U, 'U'}, {X86_PTE_W, 'W'}};
    gpa phys = pte & 0xffffffffff000ull & ~(size - 1);

    // PSE-36: bits 32 to 39 of a 4 MiB page's address.
    if (large && w->entry == 4)
        phys |= (pte >> 13 & 0xff) << 32;
    fprintf(w->out, "%016llx: %016llx %c", (unsigned long long)a, (unsigned long long)phys, large ? 'P' : '-');
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        fputc(pte & flags[i].bit ? flags[i].letter : '-', w->out);
    fputc('\n', w->out);
    w->lines++;
}

static void walk_table(struct walk *w, gpa table, unsigned level, gva base, u64 prot, unsigned entries)
{
    unsigned shift = 12 + (level - 1) * w->index_bits;

    if (w->tables++ > MAX_TABLES)
        return;
    for (unsigned i = 0; i < entries && w->lines < MAX_LINES; i++) {
        gva a = base | (gva)i << shift;
        u64 pte = 0;

        if (w->canonical && level == 4 && i >= 256)
            a |= 0xffff000000000000ull;
        if (!mem_read(w->mem, table + i * w->entry, &pte, w->entry) || !(pte & X86_PTE_P))
            continue;
        // PAE's top level has neither permissions nor large pages.
        bool top = w->entry == 8 && !w->canonical && level == 3;
        bool large = level > 1 && !top && (pte & X86_PTE_PS) && w->pse && level < 4;
        u64 less = top ? prot : prot | RESTRICT(pte);
        if (level > 1 && !large)
            walk_table(w, pte & 0xffffffffff000ull, level - 1, a, less, 1u << w->index_bits);
        else if (w->ranges)
            add_range(w, a, 1ull << shift, less);
        else
            add_page(w, a, pte, 1ull << shift, large);
    }
}

static void walk(FILE *out, const struct vcpu *v, bool ranges)
{
    const struct cpu *c = &v->cpu;
    struct walk w = {.out = out, .mem = &v->machine->mem, .ranges = ranges, .entry = 8, .index_bits = 9, .pse = true};

    if (!(c->cr0 & X86_CR0_PG)) {
        fprintf(out, "paging is off\n");
        return;
    }
    if (cpu_long_mode(c)) {
        w.canonical = true;
        walk_table(&w, c->cr3 & 0xffffffffff000ull, 4, 0, 0, 512);
    } else if (c->cr4 & X86_CR4_PAE) {
        walk_table(&w, c->cr3 & 0xffffffe0u, 3, 0, 0, 4);
    } else {
        w.entry = 4;
        w.index_bits = 10;
        w.pse = c->cr4 & X86_CR4_PSE;
        walk_table(&w, c->cr3 & 0xfffff000u, 2, 0, 0, 1024);
    }
    end_range(&w);
    if (w.tables > MAX_TABLES || w.lines >= MAX_LINES)
        fprintf(out, "... and more: the rest is left out\n");
}

void pagewalk_pages(FILE *out, const struct vcpu *v)
{
    walk(out, v, false);
}

void pagewalk_ranges(FILE *out, const struct vcpu *v)
{
    walk(out, v, true);
}
