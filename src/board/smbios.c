// SMBIOS: an entry point, then structures of a formatted part and a set of strings, which the part refers to by number.

#include "board/smbios.h"

#include <errno.h>
#include <stdio.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define MAX_STRINGS 6
#define DIMM_MAX (16 * GIB) // a memory device's size field counts MiB in 15 bits

struct smbios {
    const struct smbios_params *p;
    struct blob out;
    size_t at;      // of the structure in the making
    size_t largest; // structure
    unsigned count;
    const char *string[MAX_STRINGS];
    unsigned strings;
};

static void put(struct smbios *s, unsigned n, u64 val)
{
    blob_put(&s->out, n, val);
}

static void begin(struct smbios *s, u8 type, u16 handle)
{
    s->at = s->out.len;
    s->strings = 0;
    put(s, 1, type);
    put(s, 1, 0); // length, to come
    put(s, 2, handle);
}

// A byte that names a string.
static void put_string(struct smbios *s, const char *text)
{
    if (!text || !text[0] || s->strings == MAX_STRINGS) {
        put(s, 1, 0);
        return;
    }
    s->string[s->strings++] = text;
    put(s, 1, s->strings);
}

static void end(struct smbios *s)
{
    size_t n;

    blob_patch(&s->out, s->at + 1, 1, s->out.len - s->at);
    for (unsigned i = 0; i < s->strings; i++)
        blob_bytes(&s->out, s->string[i], strlen(s->string[i]) + 1);
    put(s, s->strings ? 1 : 2, 0);
    n = s->out.len - s->at;
    if (n > s->largest)
        s->largest = n;
    s->count++;
}

static void bios(struct smbios *s)
{
    begin(s, 0, 0x0000);
    put_string(s, "pogo");
    put_string(s, s->p->version);
    put(s, 2, 0xe800); // where the segment begins
    put_string(s, "01/01/2025");
    put(s, 1, 0);           // 64 KiB
    put(s, 8, 1 << 3);      // no characteristics are given
    put(s, 1, 0x01);        // ACPI
    put(s, 1, 0x1c);        // target content distribution, UEFI no, virtual machine
    put(s, 4, 0xffff0000u); // release 0.0; no embedded controller
    end(s);
}

static void system_information(struct smbios *s)
{
    begin(s, 1, 0x0100);
    put_string(s, "pogo");
    put_string(s, "pogo PC (i440FX + PIIX)");
    put_string(s, s->p->version);
    put_string(s, NULL);
    blob_zero(&s->out, 16); // UUID: not set
    put(s, 1, 6);           // woken by the power switch
    put_string(s, NULL);
    put_string(s, "Virtual Machine");
    end(s);
}

static void chassis(struct smbios *s)
{
    begin(s, 3, 0x0300);
    put_string(s, "pogo");
    put(s, 1, 1); // other
    put_string(s, s->p->version);
    put_string(s, NULL);
    put_string(s, NULL);
    put(s, 3, 0x030303); // boot-up, power supply and thermal state: safe
    put(s, 1, 2);        // security: unknown
    put(s, 4, 0);
    put(s, 4, 0); // height, cords, no contained elements
    put_string(s, NULL);
    end(s);
}

static void processor(struct smbios *s)
{
    const struct smbios_params *p = s->p;
    unsigned cores = p->cpus < 255 ? p->cpus : 255;

    begin(s, 4, 0x0400);
    put_string(s, "CPU 0");
    put(s, 1, 3); // central processor
    put(s, 1, 1); // family: other
    put_string(s, p->cpu_vendor);
    put(s, 4, p->signature);
    put(s, 4, p->features);
    put_string(s, p->cpu_name);
    put(s, 1, 0); // voltage
    put(s, 2, 0); // external clock: unknown
    put(s, 2, 0); // speeds: unknown
    put(s, 2, 0);
    put(s, 1, 0x41);              // populated, enabled
    put(s, 1, 1);                 // upgrade: other
    put(s, 6, 0xffffffffffffull); // caches: no information
    put_string(s, NULL);
    put_string(s, NULL);
    put_string(s, NULL);
    put(s, 1, cores);
    put(s, 1, cores);
    put(s, 1, cores);
    put(s, 2, 1 << 2 | 1 << 3); // 64-bit, several cores
    put(s, 2, 1);               // family again
    end(s);
}

static void memory_array(struct smbios *s, u64 total, unsigned dimms)
{
    bool large = total >> 10 >= 0x80000000u;

    begin(s, 16, 0x1000);
    put(s, 1, 1); // other location
    put(s, 1, 3); // system memory
    put(s, 1, 6); // multi-bit ECC
    put(s, 4, large ? 0x80000000u : total >> 10);
    put(s, 2, 0xfffe);
    put(s, 2, dimms);
    put(s, 8, large ? total : 0);
    end(s);
}

static void memory_device(struct smbios *s, unsigned n, u64 size)
{
    char name[16];

    snprintf(name, sizeof(name), "DIMM %u", n);
    begin(s, 17, (u16)(0x1100 + n));
    put(s, 2, 0x1000);
    put(s, 2, 0xfffe);
    put(s, 2, 0xffff); // widths: unknown
    put(s, 2, 0xffff);
    put(s, 2, size < 32 * MIB ? 0x8000 | size >> 10 : size / MIB); // bit 15: in KiB
    put(s, 1, 9);                                                  // DIMM
    put(s, 1, 0);
    put_string(s, name);
    put_string(s, NULL);
    put(s, 1, 7); // RAM
    put(s, 2, 2); // other
    put(s, 2, 0);
    put_string(s, "pogo");
    put(s, 3, 0); // serial, tag, part numbers
    put(s, 1, 0);
    put(s, 4, 0);
    put(s, 2, 0);
    put(s, 6, 0); // voltages: unknown
    end(s);
}

static void memory_range(struct smbios *s, unsigned n, u64 base, u64 size)
{
    bool far = (base + size - 1) >> 10 >= 0xffffffffu;

    begin(s, 19, (u16)(0x1300 + n));
    put(s, 4, far ? 0xffffffffu : base >> 10);
    put(s, 4, far ? 0xffffffffu : (base + size - 1) >> 10);
    put(s, 2, 0x1000);
    put(s, 1, 1);
    put(s, 8, far ? base : 0);
    put(s, 8, far ? base + size - 1 : 0);
    end(s);
}

static void memory(struct smbios *s)
{
    const struct smbios_params *p = s->p;
    u64 total = p->ram_low + p->ram_high;
    unsigned dimms = (unsigned)((total + DIMM_MAX - 1) / DIMM_MAX);

    memory_array(s, total, dimms);
    for (unsigned i = 0; i < dimms; i++) {
        u64 left = total - i * DIMM_MAX;
        memory_device(s, i, left < DIMM_MAX ? left : DIMM_MAX);
    }
    memory_range(s, 0, 0, p->ram_low);
    if (p->ram_high)
        memory_range(s, 1, p->high_base, p->ram_high);
}

static void boot_information(struct smbios *s)
{
    begin(s, 32, 0x2000);
    blob_zero(&s->out, 6);
    put(s, 1, 0); // no errors
    end(s);
}

static void entry_point(struct smbios *s, u64 base)
{
    struct blob b = {.buf = s->out.buf, .size = SMBIOS_ENTRY_SIZE};

    blob_bytes(&b, "_SM_", 4);
    blob_put(&b, 1, 0);
    blob_put(&b, 1, SMBIOS_ENTRY_SIZE);
    blob_put(&b, 2, 0x0802); // 2.8
    blob_put(&b, 2, s->largest);
    blob_zero(&b, 6);
    blob_bytes(&b, "_DMI_", 5);
    blob_put(&b, 1, 0);
    blob_put(&b, 2, s->out.len - SMBIOS_ENTRY_ROOM);
    blob_put(&b, 4, base + SMBIOS_ENTRY_ROOM);
    blob_put(&b, 2, s->count);
    blob_put(&b, 1, 0x28);
    blob_patch(&b, 0x15, 1, blob_checksum(&b, 0x10, SMBIOS_ENTRY_SIZE - 0x10));
    blob_patch(&b, 4, 1, blob_checksum(&b, 0, SMBIOS_ENTRY_SIZE));
}

long smbios_build(const struct smbios_params *p, u8 *buf, size_t size, u64 base)
{
    struct smbios s = {.p = p, .out = {.buf = buf, .size = size}};

    blob_zero(&s.out, SMBIOS_ENTRY_ROOM);
    bios(&s);
    system_information(&s);
    chassis(&s);
    processor(&s);
    memory(&s);
    boot_information(&s);
    begin(&s, 127, 0x7f00);
    end(&s);
    if (s.out.full)
        return -ENOSPC;
    entry_point(&s, base);
    return (long)s.out.len;
}
