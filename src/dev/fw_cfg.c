// Items, their directory, and the two ways of reading them; see fw_cfg.h.

#include "dev/fw_cfg.h"

#include <errno.h>
#include <string.h>

#define ID_TRADITIONAL 1u
#define ID_DMA 2u

// --- items --------------------------------------------------------------------------------------------------------------

static const struct fw_cfg_item *find(const struct fw_cfg *f, u16 key)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->item[i].key == key)
            return &f->item[i];
    return NULL;
}

static const u8 *bytes_of(const struct fw_cfg_item *it)
{
    return it->bytes ? it->bytes : it->value;
}

static int add(struct fw_cfg *f, const struct fw_cfg_item *it)
{
    if (find(f, it->key))
        return -EEXIST;
    if (f->count == FW_CFG_MAX_ITEMS)
        return -ENOSPC;
    f->item[f->count++] = *it;
    return 0;
}

int fw_cfg_add(struct fw_cfg *f, u16 key, const void *bytes, u32 size)
{
    return add(f, &(struct fw_cfg_item){.key = key, .bytes = bytes, .size = size});
}

int fw_cfg_add_value(struct fw_cfg *f, u16 key, u64 val, u32 size)
{
    struct fw_cfg_item it = {.key = key, .size = size};

    memcpy(it.value, &val, sizeof(val));
    return add(f, &it);
}

static void put_be32(u8 *p, u32 val)
{
    val = __builtin_bswap32(val);
    memcpy(p, &val, 4);
}

static u32 get_be32(const u8 *p)
{
    u32 val;

    memcpy(&val, p, 4);
    return __builtin_bswap32(val);
}

// The directory: the number of files, and for each its size, its key, two bytes of nothing and its name; numbers are big-endian.
static int add_file(struct fw_cfg *f, const char *name, struct fw_cfg_item *it)
{
    u8 *row = f->dir + 4 + f->files * FW_CFG_DIR_ROW;
    size_t len = strlen(name);
    int ret;

    if (!len || len >= FW_CFG_NAME_SIZE)
        return -EINVAL;
    for (unsigned i = 0; i < f->files; i++)
        if (!strcmp((const char *)f->dir + 4 + i * FW_CFG_DIR_ROW + 8, name))
            return -EEXIST;
    if (f->files == FW_CFG_MAX_FILES)
        return -ENOSPC;
    it->key = (u16)(FW_CFG_FIRST_FILE + f->files);
    ret = add(f, it);
    if (ret)
        return ret;
    put_be32(row, it->size);
    put_be32(row + 4, (u32)it->key << 16);
    memcpy(row + 8, name, len);
    put_be32(f->dir, ++f->files);
    return 0;
}

int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *bytes, u32 size)
{
    return add_file(f, name, &(struct fw_cfg_item){.bytes = bytes, .size = size});
}

int fw_cfg_add_writable_file(struct fw_cfg *f, const char *name, void *bytes, u32 size)
{
    return add_file(f, name, &(struct fw_cfg_item){.bytes = bytes, .writable = bytes, .size = size});
}

int fw_cfg_add_file_value(struct fw_cfg *f, const char *name, u64 val, u32 size)
{
    struct fw_cfg_item it = {.size = size};

    memcpy(it.value, &val, sizeof(val));
    return add_file(f, name, &it);
}

void fw_cfg_init(struct fw_cfg *f, struct mem *mem)
{
    memset(f, 0, sizeof(*f));
    f->mem = mem;
    fw_cfg_add(f, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_value(f, FW_CFG_ID, ID_TRADITIONAL | (mem ? ID_DMA : 0), 4);
    fw_cfg_add(f, FW_CFG_FILE_DIR, f->dir, sizeof(f->dir));
}

// --- ports --------------------------------------------------------------------------------------------------------------

static void select_item(struct fw_cfg *f, u16 key)
{
    f->selector = key;
    f->offset = 0;
}

static u64 fw_cfg_read(void *dev, u64 off, unsigned size)
{
    struct fw_cfg *f = dev;
    const struct fw_cfg_item *it = find(f, f->selector);

    if (off != 1 || size != 1 || !it || f->offset >= it->size)
        return 0;
    return bytes_of(it)[f->offset++];
}

static void fw_cfg_write(void *dev, u64 off, unsigned size, u64 val)
{
    if (off == 0 && size == 2)
        select_item(dev, (u16)val);
}

static void fw_cfg_reset(void *dev)
{
    struct fw_cfg *f = dev;

    select_item(f, 0);
    f->dma = 0;
}

const struct dev_ops fw_cfg_ops = {.name = "fw_cfg", .reset = fw_cfg_reset, .read = fw_cfg_read, .write = fw_cfg_write};

// --- DMA ----------------------------------------------------------------------------------------------------------------

struct command {
    u32 control, len;
    u64 addr;
};

// Bytes that the selected item has left, at most `len`.
static u32 left(const struct fw_cfg *f, const struct fw_cfg_item *it, u32 len)
{
    u32 n = it && f->offset < it->size ? it->size - f->offset : 0;

    return n < len ? n : len;
}

// What the item does not have is read as zeros.
static bool dma_read(struct fw_cfg *f, const struct fw_cfg_item *it, const struct command *c)
{
    static const u8 zeros[MEM_PAGE_SIZE];
    u32 n = left(f, it, c->len), part;

    if (n && !mem_write(f->mem, c->addr, bytes_of(it) + f->offset, n))
        return false;
    f->offset += n;
    for (; n < c->len; n += part) {
        part = c->len - n < MEM_PAGE_SIZE ? c->len - n : MEM_PAGE_SIZE;
        if (!mem_write(f->mem, c->addr + n, zeros, part))
            return false;
    }
    return true;
}

// All of it must fit.
static bool dma_write(struct fw_cfg *f, const struct fw_cfg_item *it, const struct command *c)
{
    if (!it || !it->writable || left(f, it, c->len) != c->len)
        return false;
    if (!mem_read(f->mem, c->addr, it->writable + f->offset, c->len))
        return false;
    f->offset += c->len;
    return true;
}

static bool dma_run(struct fw_cfg *f, const struct command *c)
{
    const struct fw_cfg_item *it;

    if (c->control & FW_CFG_DMA_SELECT)
        select_item(f, (u16)(c->control >> 16));
    it = find(f, f->selector);
    if (c->control & FW_CFG_DMA_READ)
        return dma_read(f, it, c);
    if (c->control & FW_CFG_DMA_WRITE)
        return dma_write(f, it, c);
    if (c->control & FW_CFG_DMA_SKIP)
        f->offset += left(f, it, c->len);
    return true;
}

static void dma_start(struct fw_cfg *f)
{
    u64 at = f->dma;
    u8 raw[FW_CFG_DMA_SIZE], status[4];
    bool ok;

    f->dma = 0;
    ok = mem_read(f->mem, at, raw, sizeof(raw));
    if (ok) {
        struct command c = {.control = get_be32(raw),
                            .len = get_be32(raw + 4),
                            .addr = (u64)get_be32(raw + 8) << 32 | get_be32(raw + 12)};
        ok = dma_run(f, &c);
    }
    put_be32(status, ok ? 0 : FW_CFG_DMA_ERROR);
    mem_write(f->mem, at, status, sizeof(status));
}

static u64 dma_port_read(void *dev, u64 off, unsigned size)
{
    static const u8 signature[] = "QEMU CFG";
    u64 val = 0;

    if (!((struct fw_cfg *)dev)->mem)
        return ~0ull;
    for (unsigned i = 0; i < size && off + i < FW_CFG_DMA_PORTS; i++)
        val |= (u64)signature[off + i] << i * 8;
    return val;
}

static void dma_port_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct fw_cfg *f = dev;
    u32 half = __builtin_bswap32((u32)val);

    if (!f->mem || size != 4)
        return;
    if (off == 0) {
        f->dma = (u64)half << 32;
    } else if (off == 4) {
        f->dma |= half;
        dma_start(f);
    }
}

const struct dev_ops fw_cfg_dma_ops = {.name = "fw_cfg-dma", .read = dma_port_read, .write = dma_port_write};
