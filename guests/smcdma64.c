// Code that a disk writes: sectors of this very image, read by virtio-blk into pages that have run, into the page that waits for them, and
// beside code that goes on running.
//
// The driver is as small as it can be: the legacy port interface, one request at a time, no interrupts.
#include "code.h"

const char guest_name[] = "smcdma64";

#define SECTOR 512u

// What to find on the disk: a sector that begins with MOV EAX, n; RET and ends with a mark, for n = 0x5000 and 0x5001.
#define MARKED(n) \
    __asm__(".pushsection .rodata; .balign 512; .byte 0xb8; .long " #n \
            "; .byte 0xc3; .fill 490, 1, 0x90; .ascii \"sector of \"; .long " #n "; .short 0; .popsection")
MARKED(0x5000);
MARKED(0x5001);

// --- the driver ---------------------------------------------------------------------------------------------------------

// Legacy registers, virtio 1.2, 4.1.4.10.
#define REG_FEATURES 4
#define REG_QUEUE_PFN 8
#define REG_QUEUE_SIZE 12
#define REG_QUEUE_SELECT 14
#define REG_NOTIFY 16
#define REG_STATUS 18

struct desc {
    u64 at;
    u32 len;
    u16 flags, next;
};

static u16 port, queue_size;
static u8 queue[3 * 4096] __attribute__((aligned(4096))); // for 256 descriptors
static struct {
    u32 type, reserved;
    u64 sector;
} request;
static volatile u8 request_status;
static u16 requests;

static volatile u16 *used_index(void)
{
    u32 avail_end = queue_size * 16u + 6 + queue_size * 2u;
    return (volatile u16 *)(queue + ((avail_end + 4095) & ~4095u) + 2);
}

static u32 pci_read(unsigned dev, unsigned reg)
{
    outl(0xcf8, 0x80000000u | dev << 11 | reg);
    return inl(0xcfc);
}

static bool find_disk(void)
{
    for (unsigned dev = 0; dev < 32; dev++) {
        if (pci_read(dev, 0) != 0x10011af4)
            continue;
        u32 bar = pci_read(dev, 0x10);
        outl(0xcf8, 0x80000000u | dev << 11 | 4);
        outl(0xcfc, (pci_read(dev, 4) & 0xffff) | 5); // ports, bus master
        port = (u16)(bar & ~3u);
        return bar & 1;
    }
    return false;
}

static void start_disk(void)
{
    outb((u16)(port + REG_STATUS), 0);
    outb((u16)(port + REG_STATUS), 1);
    outb((u16)(port + REG_STATUS), 3);
    outl((u16)(port + REG_FEATURES), 0);
    outw((u16)(port + REG_QUEUE_SELECT), 0);
    queue_size = inw((u16)(port + REG_QUEUE_SIZE));
    outl((u16)(port + REG_QUEUE_PFN), (u32)(word)queue >> 12);
    outb((u16)(port + REG_STATUS), 7);
}

static void submit(u64 sector, u64 phys, u32 len)
{
    struct desc *d = (struct desc *)queue;
    u16 *avail = (u16 *)(queue + queue_size * 16u);
    request.type = 0;
    request.sector = sector;
    request_status = 0xff;
    d[0] = (struct desc){(u64)&request, 16, 1, 1};
    d[1] = (struct desc){phys, len, 3, 2};
    d[2] = (struct desc){(u64)&request_status, 1, 2, 0};
    avail[2 + requests % queue_size] = 0;
    __atomic_store_n(&avail[1], ++requests, __ATOMIC_SEQ_CST);
    outw((u16)(port + REG_NOTIFY), 0);
}

static void wait(void)
{
    while (*used_index() != requests)
        __asm__ volatile("pause");
}

static void read_disk(u64 sector, u64 phys, u32 len)
{
    submit(sector, phys, len);
    wait();
    serialize();
}

// --- tests --------------------------------------------------------------------------------------------------------------

static u64 sector_of[2];

static bool find_sectors(void)
{
    static u8 buffer[SECTOR] __attribute__((aligned(512)));
    u32 end = inl((u16)(port + 20));
    for (u32 s = 0; s < end && !(sector_of[0] && sector_of[1]); s++) {
        read_disk(s, (u64)buffer, SECTOR);
        u32 n;
        __builtin_memcpy(&n, buffer + 506, 4);
        if (buffer[496] == 's' && buffer[497] == 'e' && buffer[505] == ' ' && (n & ~1u) == 0x5000)
            sector_of[n & 1] = s;
    }
    return sector_of[0] && sector_of[1];
}

static void over_code(void)
{
    for (u32 i = 0; i < 20; i++) {
        put_return(code, i);
        CHECK_EQ(call(code), i);
        read_disk(sector_of[i & 1], PHYS, SECTOR);
        CHECK_EQ(request_status, 0);
        CHECK_EQ(call(code), 0x5000 + (i & 1));
        CHECK_EQ(call(alias), 0x5000 + (i & 1));
        code[1] = 0x77;
        CHECK_EQ(call(code), 0x5077);
    }
    // A page full of sectors, called in each; one of them changes.
    for (u32 s = 0; s < 8; s++)
        read_disk(sector_of[s & 1], PHYS + s * SECTOR, SECTOR);
    for (u32 i = 0; i < 8; i++) {
        for (u32 s = 0; s < 8; s++)
            CHECK_EQ(call(code + s * SECTOR), 0x5000 + ((s & 1) ^ (s < i)));
        read_disk(sector_of[~i & 1], PHYS + i * SECTOR, SECTOR);
    }
    // Two sectors at once, over the end of a page: an instruction there gets a new second half.
    for (u32 i = 0; i < 4; i++) {
        put_return(code + 4096 - 2, 0x12345678);
        CHECK_EQ(call(code + 4096 - 2), 0x12345678);
        read_disk(sector_of[i & 1], PHYS + 4096, SECTOR); // B8 n... becomes the rest of the immediate
        CHECK_EQ(code[4095], 0x78);
        PUT(code + 4096 + 3, 0xc3);
        CHECK_EQ(call(code + 4096 - 2), i & 1 ? 0x5001b878 : 0x5000b878);
    }
}

// Waits on a page, runs on into what the disk writes there. CMP [RDI], CX; JNE; CPUID; then the sector.
static void while_waiting(void)
{
    for (u32 i = 0; i < 20; i++) {
        u64 got;
        put_return(code + 0x200, 1);
        PUT(code + 0x1f9, 0x66, 0x39, 0x37, 0x75, 0xfb, 0x0f, 0xa2);
        u16 old = *used_index();
        __asm__ volatile("push %%rbx; call *%1; pop %%rbx"
                         : "=a"(got)
                         : "r"(code + 0x1f9), "D"(used_index()), "S"(old), "0"(0)
                         : "rcx", "rdx", "r8", "r9", "memory", "cc"); // once without waiting
        CHECK_EQ(got, 1);
        submit(sector_of[i & 1], PHYS + 0x200, SECTOR);
        __asm__ volatile("push %%rbx; call *%1; pop %%rbx"
                         : "=a"(got)
                         : "r"(code + 0x1f9), "D"(used_index()), "S"(requests), "0"(0)
                         : "rcx", "rdx", "r8", "r9", "memory", "cc");
        CHECK_EQ(got, 0x5000 + (i & 1));
    }
}

// The disk writes beside code that runs all the time and is not touched.
static void beside(void)
{
    put_return(code, 0);
    u32 wrong = 0, calls = 0;
    for (u32 i = 0; i < 20; i++) {
        code[1] = (u8)i;
        submit(sector_of[i & 1], PHYS + 0x200, SECTOR);
        do {
            wrong += call(code) != i;
            calls++;
        } while (*used_index() != requests);
        serialize();
        CHECK_EQ(call(code + 0x200), 0x5000 + (i & 1));
    }
    CHECK_EQ(wrong, 0);
    CHECK(calls >= 20);
}

void guest_main(void)
{
    code_init();
    CHECK(find_disk());
    if (!port)
        return;
    start_disk();
    CHECK(queue_size > 2 && queue_size <= 256);
    bool found = find_sectors();
    CHECK(found);
    if (!found)
        return;
    over_code();
    while_waiting();
    beside();
}
