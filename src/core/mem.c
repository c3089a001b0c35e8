// Guest-physical memory. The regions are a sorted array of disjoint ranges; look-ups try the largest RAM regions first
// and fall back to a binary search. What is in no region is a hole: reads give all ones, writes vanish.
#include "core/mem.h"

#include <errno.h>

static int region_check(const struct mem *m, const struct mem_region *r)
{
    gpa last = r->base + (r->size - 1);

    if (r->size == 0 || last < r->base || (m->phys_mask && last > m->phys_mask))
        return -EINVAL;
    if (r->kind == MEM_MMIO) {
        if (!r->ops)
            return -EINVAL;
    } else if (((r->base | r->size | (hva)r->host) & (MEM_PAGE_SIZE - 1)) || !r->host || !r->page_flags) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < m->count; i++) {
        const struct mem_region *o = &m->region[i];
        if (r->base <= o->base + (o->size - 1) && o->base <= last)
            return -EEXIST;
    }
    return m->count == MEM_MAX_REGIONS ? -ENOSPC : 0;
}

static void choose_hot(struct mem *m)
{
    u64 size[MEM_HOT] = {0};

    for (unsigned i = 0; i < MEM_HOT; i++)
        m->hot[i] = MEM_MAX_REGIONS;
    for (unsigned i = 0; i < m->count; i++) {
        u64 s = m->region[i].kind == MEM_RAM ? m->region[i].size : 0;
        if (s > size[0]) {
            size[1] = size[0];
            m->hot[1] = m->hot[0];
            size[0] = s;
            m->hot[0] = i;
        } else if (s > size[1]) {
            size[1] = s;
            m->hot[1] = i;
        }
    }
}

static int region_add(struct mem *m, const struct mem_region *r)
{
    int err = region_check(m, r);
    if (err)
        return err;

    unsigned at = m->count;
    for (; at > 0 && m->region[at - 1].base > r->base; at--)
        m->region[at] = m->region[at - 1];
    m->region[at] = *r;
    m->count++;
    choose_hot(m);
    return 0;
}

int mem_add_ram(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name)
{
    struct mem_region r = {
        .base = base, .size = size, .kind = MEM_RAM, .host = host, .page_flags = page_flags, .name = name};
    return region_add(m, &r);
}

int mem_add_rom(struct mem *m, gpa base, u64 size, u8 *host, _Atomic u8 *page_flags, const char *name)
{
    struct mem_region r = {
        .base = base, .size = size, .kind = MEM_ROM, .host = host, .page_flags = page_flags, .name = name};
    return region_add(m, &r);
}

int mem_add_mmio(struct mem *m, gpa base, u64 size, const struct dev_ops *ops, void *dev, const char *name)
{
    struct mem_region r = {.base = base, .size = size, .kind = MEM_MMIO, .ops = ops, .dev = dev, .name = name};
    return region_add(m, &r);
}

// --- shadow memory ---------------------------------------------------------------------------------------------------

int mem_add_shadow(struct mem *m, gpa base, u64 size, const struct mem_region *rom, const struct mem_region *ram,
                   const char *name)
{
    struct mem_region r = {.base = base,
                           .size = size,
                           .kind = MEM_ROM,
                           .host = rom->host,
                           .page_flags = rom->page_flags,
                           .shadow = (u8)(m->shadow_count + 1),
                           .name = name};
    struct mem_shadow *s = &m->shadow[m->shadow_count];

    if (m->shadow_count == MEM_MAX_SHADOWS)
        return -ENOSPC;
    if (!ram->host || !ram->page_flags || ((hva)ram->host & (MEM_PAGE_SIZE - 1)))
        return -EINVAL;
    int err = region_add(m, &r);
    if (err)
        return err;
    m->shadow_count++;
    r.shadow = 0;
    for (u32 what = 0; what < ARRAY_LEN(s->view); what++) {
        struct mem_region *v = &s->view[what];
        *v = r;
        if (what & MEM_SHADOW_READ) {
            v->kind = what & MEM_SHADOW_WRITE ? MEM_RAM : MEM_ROM;
            v->host = ram->host;
            v->page_flags = ram->page_flags;
        } else if (what & MEM_SHADOW_WRITE) {
            v->under = ram->host;
            v->under_flags = ram->page_flags;
        }
    }
    atomic_init(&s->now, 0);
    return 0;
}

bool mem_shadow_set(struct mem *m, gpa base, u32 what)
{
    for (unsigned i = 0; i < m->shadow_count; i++)
        if (m->shadow[i].view[0].base == base)
            return atomic_exchange(&m->shadow[i].now, what & 3) != (what & 3);
    return false;
}

static const struct mem_region *current_view(const struct mem *m, const struct mem_region *r)
{
    const struct mem_shadow *s;

    if (LIKELY(!r->shadow))
        return r;
    s = &m->shadow[r->shadow - 1];
    return &s->view[atomic_load_explicit(&s->now, memory_order_acquire)];
}

// --- look-up and access ----------------------------------------------------------------------------------------------

const struct mem_region *mem_find_slow(const struct mem *m, gpa a)
{
    unsigned lo = 0, hi = m->count;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct mem_region *r = &m->region[mid];
        if (a < r->base)
            hi = mid;
        else if (a - r->base < r->size)
            return current_view(m, r);
        else
            lo = mid + 1;
    }
    return NULL;
}

static bool is_memory(const struct mem_region *r)
{
    return r && (r->kind == MEM_RAM || r->kind == MEM_ROM);
}

u8 *mem_ptr(const struct mem *m, gpa a, u64 len, bool write)
{
    const struct mem_region *r = mem_find(m, a);

    if (!is_memory(r) || (write && r->kind != MEM_RAM))
        return NULL;
    u64 off = a - r->base;
    return len <= r->size - off ? r->host + off : NULL;
}

_Atomic u8 *mem_flags(const struct mem *m, gpa a)
{
    const struct mem_region *r = mem_find(m, a);
    return is_memory(r) ? &r->page_flags[(a - r->base) >> MEM_PAGE_SHIFT] : NULL;
}

static void set_dirty(_Atomic u8 *page_flags, u64 off, u64 len)
{
    if (!len)
        return;
    for (u64 page = off >> MEM_PAGE_SHIFT; page <= (off + len - 1) >> MEM_PAGE_SHIFT; page++)
        mem_flag_set(&page_flags[page], MEM_PAGE_DIRTY);
}

// Tell engines of bytes [off, off+len) of a RAM region that lie in pages with code.
static void tell_engines(struct mem *m, const struct mem_region *r, u64 off, u64 len)
{
    for (u64 done = 0; done < len;) {
        u64 at = off + done;
        u64 part = MEM_PAGE_SIZE - (at & (MEM_PAGE_SIZE - 1));
        if (part > len - done)
            part = len - done;
        _Atomic u8 *flags = &r->page_flags[at >> MEM_PAGE_SHIFT];
        if (UNLIKELY(atomic_load_explicit(flags, memory_order_acquire) & MEM_PAGE_CODE) && m->code_write)
            m->code_write(m->owner, r->base + at, part);
        done += part;
    }
}

// Bytes [off, off+len) of a RAM region have changed. The fence orders the bytes before the look at the flags: an engine sets the
// flag first and reads the bytes after, so either it reads the new bytes or we see its flag.
static void after_write(struct mem *m, const struct mem_region *r, u64 off, u64 len)
{
    atomic_thread_fence(memory_order_seq_cst);
    tell_engines(m, r, off, len);
}

u8 *mem_write_ptr(struct mem *m, gpa a, u64 len)
{
    const struct mem_region *r = mem_find(m, a);

    if (!r || r->kind != MEM_RAM || len > r->size - (a - r->base))
        return NULL;
    set_dirty(r->page_flags, a - r->base, len);
    tell_engines(m, r, a - r->base, len);
    return r->host + (a - r->base);
}

void mem_written(struct mem *m, gpa a, u64 len)
{
    const struct mem_region *r = mem_find(m, a);

    if (r && r->kind == MEM_RAM && len <= r->size - (a - r->base)) {
        set_dirty(r->page_flags, a - r->base, len);
        after_write(m, r, a - r->base, len);
    }
}

bool mem_read(const struct mem *m, gpa a, void *buf, u64 len)
{
    u8 *to = buf;

    while (len) {
        const struct mem_region *r = mem_find(m, a);
        if (!is_memory(r))
            return false;
        u64 off = a - r->base;
        u64 part = len < r->size - off ? len : r->size - off;
        __builtin_memcpy(to, r->host + off, part);
        to += part;
        a += part;
        len -= part;
        if (a == 0 && len) // the range wraps past the end of the address space
            return false;
    }
    return true;
}

bool mem_write(struct mem *m, gpa a, const void *buf, u64 len)
{
    const u8 *from = buf;

    while (len) {
        const struct mem_region *r = mem_find(m, a);
        if (!r || r->kind != MEM_RAM)
            return false;
        u64 off = a - r->base;
        u64 part = len < r->size - off ? len : r->size - off;
        set_dirty(r->page_flags, off, part);
        __builtin_memcpy(r->host + off, from, part);
        after_write(m, r, off, part);
        from += part;
        a += part;
        len -= part;
        if (a == 0 && len)
            return false;
    }
    return true;
}

static u64 size_mask(unsigned size)
{
    return size == 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

// Where an access by `cpu` goes: its own page, or what the map says.
static const struct mem_region *find_for(const struct mem *m, u32 cpu, gpa a, struct mem_region *own)
{
    if (!mem_is_own(m, cpu, a))
        return mem_find(m, a);
    *own = (struct mem_region){.base = a & ~(gpa)(MEM_PAGE_SIZE - 1),
                               .size = MEM_PAGE_SIZE,
                               .kind = MEM_MMIO,
                               .ops = m->own_ops,
                               .dev = m->own_dev};
    return own;
}

u64 mem_cpu_load(struct mem *m, u32 cpu, gpa a, unsigned size)
{
    struct mem_region own;
    const struct mem_region *r = find_for(m, cpu, a, &own);

    if (!r && size == 1)
        return 0xff;
    if (!r || size > r->size - (a - r->base)) {
        // Begins in a hole or leaves its region: byte by byte.
        u64 val = 0;
        for (unsigned i = 0; i < size; i++)
            val |= mem_cpu_load(m, cpu, a + i, 1) << (i * 8);
        return val;
    }
    u64 off = a - r->base;
    if (r->kind == MEM_MMIO) {
        lock_take(m->lock);
        m->accessor = cpu;
        u64 val = r->ops->read ? r->ops->read(r->dev, off, size) : ~0ull;
        lock_drop(m->lock);
        return val & size_mask(size);
    }
    return mem_host_load(r->host + off, size);
}

void mem_cpu_store(struct mem *m, u32 cpu, gpa a, unsigned size, u64 val)
{
    struct mem_region own;
    const struct mem_region *r = find_for(m, cpu, a, &own);

    if (!r && size == 1)
        return;
    if (!r || size > r->size - (a - r->base)) {
        for (unsigned i = 0; i < size; i++)
            mem_cpu_store(m, cpu, a + i, 1, (val >> (i * 8)) & 0xff);
        return;
    }
    u64 off = a - r->base;
    if (r->kind == MEM_MMIO) {
        lock_take(m->lock);
        m->accessor = cpu;
        if (r->ops->write)
            r->ops->write(r->dev, off, size, val & size_mask(size));
        lock_drop(m->lock);
    } else if (r->kind == MEM_RAM) {
        set_dirty(r->page_flags, off, size);
        mem_host_store(r->host + off, size, val);
        after_write(m, r, off, size);
    } else if (r->under) { // no engine has code from there: it forgot when this was hidden
        set_dirty(r->under_flags, off, size);
        mem_host_store(r->under + off, size, val);
    }
}
