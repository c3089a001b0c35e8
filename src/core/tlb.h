// The software TLB.
//
// One direct-mapped table per *view* (privilege of the access) and *context* (PCID). A tag match proves everything a
// fast path needs: the page is mapped, the access permitted for that view, it is plain RAM, and for writes also that
// the guest's dirty bit and our dirty flag are set and no engine holds code from it. Everything else takes the slow
// path (mmu.h).
//
// The probe is `off = a - tag; if (off <= 4096 - size) host = off + page`, or `a + addend`: one compare for hit, permission and page
// crossing. An invalid tag is the address of a page whose entry is another one, so that no address at all, canonical or not,
// matches it where it is looked for.
//
// Pages that are not memory are entered, too, so that those of a device need not be looked for in the page tables each time. Their
// tags are the address of a page with another entry (tlb_device_tag()), so nothing matches them either; tlb_device() asks for them.
//
// Execution keys. An engine that has once found code by way of a tag wants to go there again without a probe, also when the entry has
// meanwhile made room for another. tlb.key[] is a number for "this address space at this privilege, with the executable pages that it has
// had so far": as long as it is the same, every page from which code was executed (whose tag_x was valid) under it may still be
// taken to be mapped where it was, and executable, as a processor might have kept it. It is another one as soon as the guest may expect
// one of these pages to be forgotten; flushes of addresses that hold data do not touch it.
#ifndef POGO_CORE_TLB_H
#define POGO_CORE_TLB_H

#include "pogo/types.h"

#define TLB_BITS 12
#define TLB_ENTRIES (1u << TLB_BITS)
#define TLB_WORDS (TLB_ENTRIES / 64)
#define TLB_CONTEXTS 8
#define TLB_FILTER_BITS 9
#define TLB_INVALID 0x8000000000000000ull // see tlb_invalid()

enum tlb_view { TLB_USER, TLB_SUPER, TLB_SUPER_AC, TLB_VIEW_COUNT }; // AC: SMAP lifted by EFLAGS.AC

struct tlb_entry {
    gva tag_r, tag_w;
    u64 addend; // what to add to a linear address in the page for the host's
    hva page;   // host address of the page
};

// Bitmaps of 64 entries.
struct tlb_bits {
    u64 valid;    // some tag is valid; the others are subsets of this
    u64 global;   // survives CR3 loads
    u64 writable; // tag_w is valid
    u64 large;    // 4 KiB fragment of a large page: INVLPG of any address in that page must find it
};

// The bitmaps name entries by index, so that a flush costs what was filled since the last one and not the size of the
// table.
struct tlb_table {
    struct tlb_entry e[TLB_ENTRIES]; // first: engines that have one of them find the rest
    gva tag_x[TLB_ENTRIES];
    gpa phys[TLB_ENTRIES]; // guest-physical page; low bits: log2 of the size of the guest's page (12, 21, 22, 30)
    struct tlb_bits bits[TLB_WORDS];
    u64 local; // words of the bitmaps that may name entries that are not global
    // How many fragments of large pages there are, by a hash of where: of those of 2 and 4 MiB, and of 1 GiB.
    u16 large_4m[1u << TLB_FILTER_BITS], large_1g[1u << TLB_FILTER_BITS];
};

#define TLB_CODE_BITS 15
#define TLB_CODE_WORDS ((1u << TLB_CODE_BITS) / 64)

// The pages that were executable under a key and its predecessors since a flush, as a filter: it may take others for them.
struct tlb_code {
    u64 key;
    bool any;
    bool large;                 // some are parts of large pages
    bool global;                // some survive CR3 loads
    u64 filter[TLB_CODE_WORDS]; // two bits for each of them
};

struct tlb_context {
    u16 pcid;
    bool used;
    u64 last_use;
    struct tlb_code user;
    struct tlb_code own; // of supervisor pages that are not global; none: the key is that of tlb.shared
    struct tlb_table view[TLB_VIEW_COUNT];
};

struct tlb {
    struct tlb_table *cur; // the current context's views: cur[enum tlb_view]
    u64 key[2];            // execution keys of the current context: [1] for CPL 3. The lower half is never 0
    unsigned cur_ctx;
    u64 last_key;           // keys are drawn from this, and never again
    struct tlb_code shared; // global supervisor pages, of all contexts: a kernel's code, mostly
    u64 use_clock;
    bool low_globals; // global entries for the lower half of the address space have been made
    struct tlb_context ctx[TLB_CONTEXTS];
};

// What a page walk found out about a page, for tlb_fill().
struct tlb_page {
    hva host;       // host address of the 4 KiB page
    gpa phys;       // guest-physical address of the 4 KiB page
    unsigned shift; // log2 of the size of the guest's page
    bool global;
    bool r, w, x; // which tags become valid
    bool device;  // it is not memory: the tags are for tlb_device()
};

static inline unsigned tlb_index(gva a)
{
    return (unsigned)(a >> 12) & (TLB_ENTRIES - 1);
}

// The invalid tag of entry i: a page of another entry, and not canonical.
static inline gva tlb_invalid(unsigned i)
{
    return TLB_INVALID | (i ? 0 : 0x1000);
}

// Host pointer for an access that lies within one page, or 0: take the slow path.
static inline hva tlb_read(const struct tlb *t, enum tlb_view view, gva a, unsigned size)
{
    const struct tlb_entry *e = &t->cur[view].e[tlb_index(a)];
    u64 off = a - e->tag_r;
    return off <= 4096u - size ? e->page + off : 0;
}

static inline hva tlb_write(const struct tlb *t, enum tlb_view view, gva a, unsigned size)
{
    const struct tlb_entry *e = &t->cur[view].e[tlb_index(a)];
    u64 off = a - e->tag_w;
    return off <= 4096u - size ? e->page + off : 0;
}

static inline hva tlb_exec(const struct tlb *t, enum tlb_view view, gva a)
{
    const struct tlb_table *tab = &t->cur[view];
    u64 off = a - tab->tag_x[tlb_index(a)];
    return off <= 4095u ? tab->e[tlb_index(a)].page + off : 0;
}

static inline gva tlb_device_tag(gva page)
{
    return page ^ 0x1000;
}

// Is the access one to a page that is not memory, and permitted? Then *phys is where.
static inline bool tlb_device(const struct tlb *t, enum tlb_view view, gva a, bool write, gpa *phys)
{
    unsigned i = tlb_index(a);
    const struct tlb_table *tab = &t->cur[view];
    if ((write ? tab->e[i].tag_w : tab->e[i].tag_r) != tlb_device_tag(a & ~0xfffull))
        return false;
    *phys = (tab->phys[i] & ~0xfffull) | (a & 0xfff);
    return true;
}

// Must be called before the first probe: a zeroed table would match page 0. The memory was zeroed before the first call; another
// one goes on with new keys.
void tlb_init(struct tlb *t);
// Enter the page that holds `a` into the current context. Replaces the entry as a whole, so its tags are never a
// mixture of two states of the guest's tables.
void tlb_fill(struct tlb *t, enum tlb_view view, gva a, const struct tlb_page *p);
// Everything, global entries and all contexts too. All keys are new ones.
void tlb_flush_all(struct tlb *t);
// Non-global entries of the current context (MOV CR3 without PCID).
void tlb_flush_nonglobal(struct tlb *t);
// One linear page of the current context, and global entries for it of every context (INVLPG).
void tlb_flush_gva(struct tlb *t, gva a);
// The same, but of a large page the 4 KiB around `a` alone (a page fault: only what would translate `a` has to go).
void tlb_flush_page(struct tlb *t, gva a);
// Entries of one PCID: one address, or all non-global ones (INVPCID types 0 and 1).
void tlb_flush_pcid_gva(struct tlb *t, u16 pcid, gva a);
void tlb_flush_pcid(struct tlb *t, u16 pcid);
// All contexts but global entries (INVPCID type 3).
void tlb_flush_all_nonglobal(struct tlb *t);
// Make `pcid` current, keeping what its context still holds (MOV CR3 with bit 63 set) or flushing it.
void tlb_switch_pcid(struct tlb *t, u16 pcid, bool flush);
// Drop write permission (code was taken from the page, or its dirty flag was cleared) or everything for a physical
// page.
void tlb_protect_gpa(struct tlb *t, gpa page);
void tlb_protect_all(struct tlb *t); // write permission of every entry
void tlb_flush_gpa(struct tlb *t, gpa page);

#endif
