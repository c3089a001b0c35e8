// The AML writer; see aml.h.

#include "board/aml.h"

static void put(struct aml *a, u8 byte)
{
    blob_put(&a->out, 1, byte);
}

static void put_ext(struct aml *a, u8 op)
{
    put(a, 0x5b);
    put(a, op);
}

void aml_op(struct aml *a, enum aml_op op)
{
    put(a, (u8)op);
}

// --- names and data ------------------------------------------------------------------------------------------------------

static void put_segment(struct aml *a, const char *s, size_t n)
{
    char seg[4] = {'_', '_', '_', '_'};

    if (n == 0 || n > sizeof(seg)) {
        a->bad = true;
        return;
    }
    memcpy(seg, s, n);
    blob_bytes(&a->out, seg, sizeof(seg));
}

void aml_path(struct aml *a, const char *path)
{
    size_t segments = 1;

    while (*path == '\\' || *path == '^')
        put(a, (u8)*path++);
    for (const char *p = path; *p; p++)
        segments += *p == '.';
    if (segments == 2) {
        put(a, 0x2e);
    } else if (segments > 2) {
        put(a, 0x2f);
        put(a, (u8)segments);
    }
    for (; segments; segments--) {
        size_t n = strcspn(path, ".");
        put_segment(a, path, n);
        path += n + (path[n] == '.');
    }
}

void aml_int(struct aml *a, u64 val)
{
    if (val <= 1) {
        put(a, (u8)val);
    } else if (val <= 0xff) {
        put(a, 0x0a);
        blob_put(&a->out, 1, val);
    } else if (val <= 0xffff) {
        put(a, 0x0b);
        blob_put(&a->out, 2, val);
    } else if (val <= 0xffffffff) {
        put(a, 0x0c);
        blob_put(&a->out, 4, val);
    } else {
        put(a, 0x0e);
        blob_put(&a->out, 8, val);
    }
}

void aml_string(struct aml *a, const char *s)
{
    put(a, 0x0d);
    blob_bytes(&a->out, s, strlen(s) + 1);
}

void aml_name(struct aml *a, const char *path)
{
    put(a, AML_NAME);
    aml_path(a, path);
}

void aml_name_int(struct aml *a, const char *path, u64 val)
{
    aml_name(a, path);
    aml_int(a, val);
}

void aml_name_string(struct aml *a, const char *path, const char *s)
{
    aml_name(a, path);
    aml_string(a, s);
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

// Three letters of five bits each and four digits, in big-endian order. ACPI 6.4 19.3.4.
void aml_name_eisa(struct aml *a, const char *path, const char *id)
{
    u32 val = 0;

    aml_name(a, path);
    if (strlen(id) != 7) {
        a->bad = true;
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        val = val << 5 | (u32)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        val = val << 4 | hex_digit(id[i]);
    aml_int(a, __builtin_bswap32(val));
}

// --- what has a length ----------------------------------------------------------------------------------------------------

static void open_length(struct aml *a, bool buffer)
{
    if (a->depth == AML_MAX_DEPTH) {
        a->bad = true;
        return;
    }
    a->open[a->depth].at = a->out.len;
    a->open[a->depth++].buffer = buffer;
}

// The length counts its own bytes: one for up to 63, else the lowest four bits and up to three bytes. ACPI 6.4 20.2.4.
static void insert_length(struct aml *a, size_t at, size_t n)
{
    u8 bytes[4];
    size_t extra = n + 1 <= 0x3f ? 0 : n + 2 <= 0xfff ? 1 : n + 3 <= 0xfffff ? 2 : 3;

    n += 1 + extra;
    bytes[0] = extra ? (u8)(extra << 6 | (n & 15)) : (u8)n;
    for (size_t i = 0; i < extra; i++)
        bytes[1 + i] = (u8)(n >> (4 + 8 * i));
    blob_insert(&a->out, at, bytes, 1 + extra);
}

// The size of a buffer that holds n bytes, as a word: no buffer of ours is that long.
static void insert_buffer_size(struct aml *a, size_t at, size_t n)
{
    u8 bytes[3] = {0x0b, (u8)n, (u8)(n >> 8)};

    if (n <= 0xff) {
        bytes[0] = 0x0a;
        blob_insert(&a->out, at, bytes, 2);
    } else {
        a->bad |= n > 0xffff;
        blob_insert(&a->out, at, bytes, 3);
    }
}

void aml_end(struct aml *a)
{
    size_t at;

    if (!a->depth) {
        a->bad = true;
        return;
    }
    a->depth--;
    at = a->open[a->depth].at;
    if (a->open[a->depth].buffer) {
        blob_put(&a->out, 2, 0x0079); // end tag; a checksum of zero means none
        insert_buffer_size(a, at, a->out.len - at);
    }
    insert_length(a, at, a->out.len - at);
}

void aml_begin_scope(struct aml *a, const char *path)
{
    put(a, 0x10);
    open_length(a, false);
    aml_path(a, path);
}

void aml_begin_device(struct aml *a, const char *path)
{
    put_ext(a, 0x82);
    open_length(a, false);
    aml_path(a, path);
}

void aml_begin_method(struct aml *a, const char *path, unsigned args, bool serialized)
{
    put(a, 0x14);
    open_length(a, false);
    aml_path(a, path);
    put(a, (u8)(args | (serialized ? 8 : 0)));
}

void aml_begin_if(struct aml *a)
{
    put(a, 0xa0);
    open_length(a, false);
}

void aml_begin_package(struct aml *a, unsigned elements)
{
    a->bad |= elements > 255;
    put(a, 0x12);
    open_length(a, false);
    put(a, (u8)elements);
}

void aml_pci_region(struct aml *a, const char *path, u64 off, u64 len)
{
    put_ext(a, 0x80);
    aml_path(a, path);
    put(a, 2); // PCI_Config
    aml_int(a, off);
    aml_int(a, len);
}

void aml_begin_byte_field(struct aml *a, const char *region)
{
    put_ext(a, 0x81);
    open_length(a, false);
    aml_path(a, region);
    put(a, 1); // ByteAcc, NoLock, Preserve
}

void aml_field(struct aml *a, const char *name, unsigned bits)
{
    a->bad |= bits > 0x3f;
    put_segment(a, name, strlen(name));
    put(a, (u8)bits);
}

// --- resources --------------------------------------------------------------------------------------------------------------

void aml_begin_resources(struct aml *a)
{
    put(a, 0x11);
    open_length(a, true);
}

void aml_res_io(struct aml *a, u16 base, u8 len)
{
    put(a, 0x47);
    put(a, 1); // all 16 bits decoded
    blob_put(&a->out, 2, base);
    blob_put(&a->out, 2, base);
    put(a, 1);
    put(a, len);
}

void aml_res_irq(struct aml *a, u16 mask)
{
    put(a, 0x22);
    blob_put(&a->out, 2, mask);
}

void aml_res_irq_level_low(struct aml *a, u16 mask)
{
    put(a, 0x23);
    blob_put(&a->out, 2, mask);
    put(a, 0x18);
}

void aml_res_memory32(struct aml *a, u32 base, u32 len)
{
    put(a, 0x86);
    blob_put(&a->out, 2, 9);
    put(a, 1); // read-write
    blob_put(&a->out, 4, base);
    blob_put(&a->out, 4, len);
}

// Address space descriptor: type 0 memory, 1 I/O, 2 bus numbers; fields of `width` bytes. Minimum and maximum are fixed, and the
// decode is positive, what a bridge produces.
static void put_window(struct aml *a, u8 tag, u8 type, u8 type_flags, unsigned width, u64 first, u64 last)
{
    put(a, tag);
    blob_put(&a->out, 2, 3 + 5 * width);
    put(a, type);
    put(a, 0x0c);
    put(a, type_flags);
    blob_put(&a->out, width, 0); // granularity
    blob_put(&a->out, width, first);
    blob_put(&a->out, width, last);
    blob_put(&a->out, width, 0); // translation
    blob_put(&a->out, width, last - first + 1);
}

void aml_res_bus_numbers(struct aml *a, u16 first, u16 last)
{
    put_window(a, 0x88, 2, 0, 2, first, last);
}

void aml_res_io_window(struct aml *a, u16 first, u16 last)
{
    put_window(a, 0x88, 1, 3, 2, first, last); // the entire range
}

void aml_res_memory_window(struct aml *a, u32 first, u32 last, bool cacheable)
{
    put_window(a, 0x87, 0, cacheable ? 3 : 1, 4, first, last);
}

void aml_res_memory64_window(struct aml *a, u64 first, u64 last)
{
    put_window(a, 0x8a, 0, 1, 8, first, last);
}
