// Segmentation in 32-bit protected mode: limits, types, privilege and presence checks of segment loads with their error codes,
// expand-down segments, the accessed bit, far transfers through code segments, call gates and returns between rings.
//
// No peer: QEMU's TCG does not check segment limits and types at accesses.
#include "guest.h"

const char guest_name[] = "seg32";

#define A_DATA 0x93   // present, DPL 0, writable, accessed
#define A_CODE 0x9b   // present, DPL 0, readable, accessed
#define A_G_DB 0xc000 // 4 KiB granular, 32-bit
#define SEL(n) (SEL_FREE + 8 * (n))

static u8 area[8192] __attribute__((aligned(4096)));

static u16 put(unsigned n, u32 base, u32 limit, u32 attr)
{
    gdt[SEL(n) / 8] = make_desc(base, limit, attr);
    return (u16)SEL(n);
}

static void load_ds(u16 sel)
{
    __asm__ volatile("mov %w0, %%ds" ::"r"(sel) : "memory");
}
static void load_ss(u16 sel)
{
    __asm__ volatile("mov %w0, %%ss" ::"r"(sel) : "memory");
}
static void load_fs(u16 sel)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(sel) : "memory");
}

static u32 fs_read(u32 off)
{
    u32 v;
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(v) : "r"(off) : "memory");
    return v;
}

static void fs_write(u32 off, u32 v)
{
    __asm__ volatile("movl %0, %%fs:(%1)" ::"r"(v), "r"(off) : "memory");
}

static void limits(void)
{
    load_fs(put(0, (u32)area, 0xfff, A_DATA | 0x4000));
    fs_write(0xffc, 0x12345678);
    CHECK_EQ(*(u32 *)(area + 0xffc), 0x12345678);
    TRY(fs_read(0xffd));
    CHECK_TRAP_ERR(13, 0);
    TRY(fs_write(0x1000, 1));
    CHECK_TRAP_ERR(13, 0);
    TRY(fs_read(0xffffffff));
    CHECK_TRAP_ERR(13, 0);
    // Granularity.
    load_fs(put(0, (u32)area, 1, A_DATA | A_G_DB));
    CHECK_EQ(fs_read(0x1ffc), 0);
    TRY(fs_read(0x1ffd));
    CHECK_TRAP_ERR(13, 0);
    // Expand-down: valid offsets are above the limit.
    load_fs(put(0, (u32)area, 0xfff, 0x97 | 0x4000));
    TRY(fs_read(0xfff));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(fs_read(0x1000), 0);
    load_fs(put(0, (u32)area, 0xfff, 0x97)); // 16-bit: the top is 0xffff
    TRY(fs_read(0xfffd));
    CHECK_TRAP_ERR(13, 0);
    TRY(fs_read(0x10000));
    CHECK_TRAP_ERR(13, 0);
    // Types.
    load_fs(put(0, (u32)area, 0xfff, 0x91)); // read-only
    CHECK_EQ(fs_read(0x10), 0);
    TRY(fs_write(0x10, 1));
    CHECK_TRAP_ERR(13, 0);
    load_fs(put(0, (u32)area, 0xfff, 0x9b)); // readable code
    CHECK_EQ(fs_read(0x10), 0);
    TRY(fs_write(0x10, 1));
    CHECK_TRAP_ERR(13, 0);
    // A null selector loads, and faults at use.
    load_fs(3);
    TRY(fs_read(0));
    CHECK_TRAP_ERR(13, 0);
    load_fs(0);
}

static void load_checks(void)
{
    TRY(load_fs(GDT_ENTRIES * 8)); // beyond the table
    CHECK_TRAP_ERR(13, GDT_ENTRIES * 8);
    __asm__ volatile("lldt %w0" ::"r"(0));
    TRY(load_fs(0x0c)); // LDT: none
    CHECK_TRAP_ERR(13, 0x0c);
    TRY(load_fs(put(0, 0, 0xfffff, 0x99))); // execute-only code
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(load_fs(SEL_TSS)); // system segment
    CHECK_TRAP_ERR(13, SEL_TSS);
    TRY(load_fs(put(0, 0, 0xfffff, A_DATA & ~0x80))); // not present
    CHECK_TRAP_ERR(11, SEL(0));
    TRY(load_fs((u16)(put(0, 0, 0xfffff, A_DATA) | 3))); // RPL 3 > DPL 0
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(load_fs((u16)(put(0, 0, 0xfffff, 0x9f) | 3))); // conforming code: any RPL
    CHECK_TRAP(-1);
    // SS: writable data, RPL = DPL = CPL, not null.
    TRY(load_ss(0));
    CHECK_TRAP_ERR(13, 0);
    TRY(load_ss(put(0, 0, 0xfffff, 0x91 | A_G_DB)));
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(load_ss((u16)(put(0, 0, 0xfffff, A_DATA | A_G_DB) | 1)));
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(load_ss(put(0, 0, 0xfffff, 0xb3 | A_G_DB))); // DPL 1
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(load_ss(put(0, 0, 0xfffff, (A_DATA & ~0x80) | A_G_DB)));
    CHECK_TRAP_ERR(12, SEL(0));
    load_ss(put(0, 0, 0xfffff, A_DATA | A_G_DB));
    load_ss(SEL_DATA);
    // The accessed bit is set in the table.
    load_ds(put(0, 0, 0xfffff, 0x92 | A_G_DB));
    CHECK_EQ(gdt[SEL(0) / 8] >> 40 & 1, 1);
    load_ds(SEL_DATA);
}

// ARPL writes only when it changes the selector: no fault on read-only memory otherwise.
static bool arpl_fs(u32 off, u16 rpl)
{
    bool zf;
    __asm__ volatile("arpl %w2, %%fs:(%1)" : "=@ccz"(zf) : "r"(off), "r"(rpl) : "memory");
    return zf;
}

static void arpl_read_only(void)
{
    *(u16 *)area = 0xfff2;
    load_fs(put(0, (u32)area, 0xfff, 0x91));
    volatile bool zf = true;
    TRY(zf = arpl_fs(0, 2));
    CHECK_TRAP(-1);
    CHECK(!zf);
    TRY(arpl_fs(0, 3));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(*(u16 *)area, 0xfff2);
    load_fs(0);
}

// The descriptor is cached: changing the table changes nothing until the next load.
static void cached(void)
{
    *(u32 *)area = 42;
    load_fs(put(0, (u32)area, 0xfff, A_DATA | 0x4000));
    gdt[SEL(0) / 8] = 0;
    CHECK_EQ(fs_read(0), 42);
    load_fs(0);
}

// --- far transfers -------------------------------------------------------------------------------------------------------------

static word far_result __attribute__((used));

__asm__(".text\n"
        "far_target: movl $77, far_result\n"
        "  lret\n"
        "far_target_4: movl 8(%esp), %eax\n" // first parameter pushed before a far call
        "  movl %eax, far_result\n"
        "  lret $4\n"
        "far_ud: ud2\n");
extern u8 far_target[], far_target_4[], far_ud[];

static void far_call(u32 off, u16 sel)
{
    struct far_ptr p = {off, sel};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "eax");
}

static void far_jump(u32 off, u16 sel)
{
    struct far_ptr p = {off, sel};
    __asm__ volatile("ljmp *%0" ::"m"(p) : "memory");
}

static u16 call_gate(unsigned n, u32 target, u16 sel, unsigned dpl, unsigned params, unsigned type)
{
    gdt[SEL(n) / 8] = (target & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
                      (u64)(target >> 16) << 48;
    return (u16)SEL(n);
}

static void far_transfers(void)
{
    far_result = 0;
    far_call((u32)far_target, SEL_CODE);
    CHECK_EQ(far_result, 77);
    TRY(far_jump(0, 0));
    CHECK_TRAP_ERR(13, 0);
    TRY(far_call((u32)far_target, put(0, 0, 0xfffff, A_DATA | A_G_DB)));
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(far_call((u32)far_target, put(0, 0, 0xfffff, (A_CODE & ~0x80) | A_G_DB)));
    CHECK_TRAP_ERR(11, SEL(0));
    TRY(far_call((u32)far_target, put(0, 0, 0xfffff, 0xfb | A_G_DB))); // DPL 3 from ring 0
    CHECK_TRAP_ERR(13, SEL(0));
    TRY(far_call(0x100000, put(0, 0, 0xff, A_CODE | 0x4000))); // outside the limit
    CHECK_TRAP_ERR(13, 0);
    far_result = 0;
    far_call((u32)far_target, put(0, 0, 0xfffff, 0x9f | A_G_DB)); // conforming
    CHECK_EQ(far_result, 77);
    // Call gate to the same ring; the offset in the instruction is ignored.
    far_result = 0;
    far_call(0xdead, call_gate(1, (u32)far_target, SEL_CODE, 0, 0, 12));
    CHECK_EQ(far_result, 77);
    TRY(far_call(0, call_gate(1, (u32)far_target, 0, 0, 0, 12))); // null code selector
    CHECK_TRAP_ERR(13, 0);
    TRY(far_call(0, call_gate(1, (u32)far_target, SEL_DATA, 0, 0, 12)));
    CHECK_TRAP_ERR(13, SEL_DATA);
    (void)call_gate(1, (u32)far_target, SEL_CODE, 0, 0, 12);
    gdt[SEL(1) / 8] &= ~(0x80ull << 40);
    TRY(far_call(0, SEL(1)));
    CHECK_TRAP_ERR(11, SEL(1));
    // A 16-bit gate has 16 bits of offset, whatever stands where a 32-bit gate has more.
    TRY(far_jump(0, call_gate(1, 0xdead0000, put(0, (u32)far_ud, 0xffff, A_CODE | 0x4000), 0, 0, 4)));
    CHECK_TRAP(6);
    CHECK_EQ(trap.ip, 0);
}

// From ring 3 through a call gate: stack switch, parameters copied, return with RET n.
static word user_gate(word arg)
{
    struct far_ptr p = {0, (u16)(SEL(1) | 3)};
    __asm__ volatile("push %1; lcall *%0" ::"m"(p), "r"(arg) : "memory", "eax");
    return 5;
}

static word user_gate_low(word arg)
{
    struct far_ptr p = {0, (u16)(SEL(2) | 3)};
    __asm__ volatile("lcall *%0" ::"m"(p) : "memory", "eax");
    return arg;
}

static void ring_gates(void)
{
    call_gate(1, (u32)far_target_4, SEL_CODE, 3, 1, 12);
    call_gate(2, (u32)far_target, SEL_CODE, 0, 0, 12);
    far_result = 0;
    run_user(user_gate, 1234);
    CHECK_TRAP(0x80);
    CHECK_EQ(user_result, 5);
    CHECK_EQ(far_result, 1234);
    run_user(user_gate_low, 0); // gate DPL 0
    CHECK_TRAP_ERR(13, SEL(2));
}

void guest_main(void)
{
    limits();
    load_checks();
    cached();
    arpl_read_only();
    far_transfers();
    ring_gates();
}
