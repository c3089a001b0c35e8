// System instructions in long mode: SYSCALL and SYSRET, MSRs and their checks, control registers and their checks, SWAPGS and
// FSGSBASE, RDTSC rules, XSETBV, PCID and INVPCID.
//
// No peer: QEMU 7.2's TCG makes none of the checks of MSR and control-register values, so that the guest ruins itself there.
#include "guest.h"

const char guest_name[] = "sys64";

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

static bool has(u32 leaf, unsigned reg, unsigned bit)
{
    u32 r[4];
    cpuid(leaf, 0, r);
    return r[reg] >> bit & 1;
}

#define USED __attribute__((used))

// --- SYSCALL -------------------------------------------------------------------------------------------------------------

static word sys_rcx USED, sys_r11 USED, sys_flags USED, sys_cs USED, sys_ss USED, sys_rsp USED, sys_arg USED;
static u32 sys_x87[7] USED, user_cs USED;
extern u8 syscall_entry[], user_after_syscall[];

__asm__(".text\n"
        "syscall_entry:\n"
        "  mov %rcx, sys_rcx(%rip)\n"
        "  mov %r11, sys_r11(%rip)\n"
        "  mov %rsp, sys_rsp(%rip)\n"
        "  mov %rdi, sys_arg(%rip)\n"
        "  fnstenv sys_x87(%rip)\n"
        "  lea trap_stack+16384(%rip), %rsp\n"
        "  pushf\n"
        "  pop sys_flags(%rip)\n"
        "  mov %cs, %rax\n"
        "  mov %rax, sys_cs(%rip)\n"
        "  mov %ss, %rax\n"
        "  mov %rax, sys_ss(%rip)\n"
        "  mov sys_rsp(%rip), %rsp\n"
        "  mov $99, %eax\n"
        "  sysretq\n");

static word user_syscall(word arg)
{
    word result, cs, ss, flags;
    __asm__ volatile("mov %%cs, user_cs(%%rip)\n"
                     "fninit\n"
                     "fld1\n"
                     "fstp %%st\n"
                     "xor %%eax, %%eax\n" // ZF
                     "syscall\n"
                     "user_after_syscall: pushf\n"
                     "pop %3\n"
                     "mov %%cs, %1\n"
                     "mov %%ss, %2\n"
                     : "=a"(result), "=&r"(cs), "=&r"(ss), "=&r"(flags)
                     : "D"(arg)
                     : "rcx", "r11", "memory");
    return result | cs << 16 | ss << 32 | (flags & 0xffff) << 48;
}

static void syscall_sysret(void)
{
    // SYSCALL loads CS from STAR[47:32], SS = CS + 8; SYSRET to 64-bit code: CS = STAR[63:48] + 16, SS = STAR[63:48] + 8. The flat
    // GDT has user code at 18 and user data at 20, so a SYSRET pair of its own is needed: 60 base, 68 data, 70 code.
    gdt[0x68 / 8] = 0x00cff3000000ffffull;
    gdt[0x70 / 8] = 0x00affb000000ffffull;
    wrmsr(MSR_STAR, (u64)SEL_CODE << 32 | (u64)0x63 << 48);
    wrmsr(MSR_LSTAR, (word)syscall_entry);
    wrmsr(MSR_SFMASK, 0x4700); // NT, DF, IF, TF
    user_flags = 0x400;        // DF
    run_user(user_syscall, 0x1234);
    user_flags = 0;
    CHECK_TRAP(0x80);
    CHECK_EQ(sys_arg, 0x1234);
    CHECK_EQ(user_result & 0xffff, 99);
    CHECK_EQ(user_result >> 16 & 0xffff, 0x73);
    CHECK_EQ(user_result >> 32 & 0xffff, 0x6b);
    CHECK(user_result >> 48 & 0x400); // DF restored from R11
    CHECK_EQ(sys_rcx, (word)user_after_syscall);
    CHECK(sys_r11 & 0x400);
    CHECK_EQ(sys_flags & 0x4700, 0);
    CHECK(sys_flags & 0x40); // not masked
    CHECK_EQ(sys_cs, SEL_CODE);
    CHECK_EQ(sys_ss, SEL_CODE + 8);
    // The x87's pointer is to the instruction that the user ran.
    CHECK_EQ(sys_x87[4] & 0xffff, has(7, 1, 13) ? 0 : user_cs);
    // Without EFER.SCE both are undefined.
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
    run_user(user_syscall, 0);
    CHECK_TRAP(6);
    TRY(__asm__ volatile("sysretq"));
    CHECK_TRAP(6);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
}

static word user_sysret(word arg)
{
    __asm__ volatile("sysretq");
    return arg;
}

// --- MSRs ------------------------------------------------------------------------------------------------------------------

static word user_rdmsr(word arg)
{
    return rdmsr((u32)arg);
}

static void msrs(void)
{
    TRY(rdmsr(0x12345678));
    CHECK_TRAP_ERR(13, 0);
    TRY(wrmsr(0x12345678, 0));
    CHECK_TRAP_ERR(13, 0);
    run_user(user_rdmsr, MSR_EFER);
    CHECK_TRAP_ERR(13, 0);
    run_user(user_sysret, 0);
    CHECK_TRAP_ERR(13, 0);
    // Addresses have to be canonical.
    static const u32 address_msr[] = {MSR_LSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE};
    for (volatile unsigned i = 0; i < 4; i = i + 1) {
        volatile u64 old = rdmsr(address_msr[i]);
        TRY(wrmsr(address_msr[i], 0x0000800000000000ull));
        CHECK_TRAP_ERR(13, 0);
        CHECK_EQ(rdmsr(address_msr[i]), old);
        wrmsr(address_msr[i], 0xffff800000001234ull);
        CHECK_EQ(rdmsr(address_msr[i]), 0xffff800000001234ull);
        wrmsr(address_msr[i], old);
    }
    // EFER: reserved bits, LME with paging on, LMA ignored.
    u64 efer = rdmsr(MSR_EFER);
    CHECK(efer & 0x400);
    TRY(wrmsr(MSR_EFER, efer | 1ull << 40));
    CHECK_TRAP_ERR(13, 0);
    TRY(wrmsr(MSR_EFER, efer & ~0x100ull));
    CHECK_TRAP_ERR(13, 0);
    // PAT: types 2, 3 and above 7 do not exist.
    u64 pat = rdmsr(0x277);
    TRY(wrmsr(0x277, 0x0002));
    CHECK_TRAP_ERR(13, 0);
    TRY(wrmsr(0x277, 0x0800));
    CHECK_TRAP_ERR(13, 0);
    wrmsr(0x277, 0x0007040600070406ull);
    CHECK_EQ(rdmsr(0x277), 0x0007040600070406ull);
    wrmsr(0x277, pat);
    // TSC: writable, and runs.
    wrmsr(0x10, 1000);
    u64 t = rdmsr(0x10);
    CHECK(t >= 1000 && t < 1000000000000ull);
}

// --- control registers ---------------------------------------------------------------------------------------------------------

static word user_cr(word arg)
{
    (void)arg;
    return read_cr0();
}

static void control_registers(void)
{
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    TRY(write_cr0(cr0 & ~1ull)); // PG without PE
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr0((cr0 | 1u << 29) & ~(1ull << 30))); // NW without CD
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr0(cr0 | 1ull << 32));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(read_cr0(), cr0);
    TRY(write_cr4(cr4 & ~0x20ull)); // PAE in long mode
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr4(cr4 | 1u << 15));
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr4(cr4 | 1ull << 40));
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(read_cr4(), cr4);
    TRY(write_cr3(read_cr3() | 1ull << 60));
    CHECK_TRAP_ERR(13, 0);
    run_user(user_cr, 0);
    CHECK_TRAP_ERR(13, 0);
    // CR8: four bits.
    TRY(__asm__ volatile("mov %0, %%cr8" ::"r"(16ull)));
    CHECK_TRAP_ERR(13, 0);
    u64 v;
    __asm__ volatile("mov %1, %%cr8; mov %%cr8, %0; mov %2, %%cr8" : "=&r"(v) : "r"(9ull), "r"(0ull));
    CHECK_EQ(v, 9);
    // TS: #NM for FPU instructions, MP decides for WAIT.
    write_cr0(cr0 | 8);
    TRY(__asm__ volatile("fninit"));
    CHECK_TRAP(7);
    TRY(__asm__ volatile("fwait"));
    CHECK_TRAP(7);
    TRY(__asm__ volatile("movaps %xmm0, %xmm1"));
    CHECK_TRAP(7);
    write_cr0((cr0 | 8) & ~2ull);
    TRY(__asm__ volatile("fwait"));
    CHECK_TRAP(-1);
    __asm__ volatile("clts");
    CHECK_EQ(read_cr0() & 8, 0);
    // EM.
    write_cr0(cr0 | 4);
    TRY(__asm__ volatile("fninit"));
    CHECK_TRAP(7);
    TRY(__asm__ volatile("movaps %xmm0, %xmm1"));
    CHECK_TRAP(6);
    write_cr0(cr0);
    // OSFXSR.
    write_cr4(cr4 & ~0x200ull);
    TRY(__asm__ volatile("movaps %xmm0, %xmm1"));
    CHECK_TRAP(6);
    write_cr4(cr4);
    // LMSW cannot clear PE.
    __asm__ volatile("lmsw %w0" ::"r"(cr0 & 0xfffe));
    CHECK_EQ(read_cr0(), cr0);
}

// --- SWAPGS and FSGSBASE ---------------------------------------------------------------------------------------------------------

static word user_swapgs(word arg)
{
    __asm__ volatile("swapgs");
    return arg;
}

static void gs_base(void)
{
    wrmsr(MSR_GS_BASE, 0x1000);
    wrmsr(MSR_KERNEL_GS_BASE, 0x2000);
    __asm__ volatile("swapgs");
    CHECK_EQ(rdmsr(MSR_GS_BASE), 0x2000);
    CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x1000);
    run_user(user_swapgs, 0);
    CHECK_TRAP_ERR(13, 0);
    if (has(7, 1, 0)) {
        u64 v;
        TRY(__asm__ volatile("rdgsbase %0" : "=r"(v)));
        CHECK_TRAP(6); // CR4.FSGSBASE is clear
        write_cr4(read_cr4() | 0x10000);
        __asm__ volatile("rdgsbase %0" : "=r"(v));
        CHECK_EQ(v, 0x2000);
        __asm__ volatile("wrfsbase %0" ::"r"(0x123456789ull));
        CHECK_EQ(rdmsr(MSR_FS_BASE), 0x123456789ull);
        TRY(__asm__ volatile("wrfsbase %0" ::"r"(1ull << 47)));
        CHECK_TRAP_ERR(13, 0);
        write_cr4(read_cr4() & ~0x10000ull);
    }
    static u64 cell = 77;
    u64 v;
    wrmsr(MSR_FS_BASE, (u64)&cell - 16);
    __asm__ volatile("mov %%fs:16, %0" : "=r"(v));
    CHECK_EQ(v, 77);
    // Loading a null selector: Intel clears the base, AMD keeps it; then a flat one clears it on both.
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_DATA));
    CHECK_EQ(rdmsr(MSR_FS_BASE), 0);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

// --- RDTSC, XSETBV ---------------------------------------------------------------------------------------------------------------

static word user_rdtsc(word arg)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | arg;
}

static void tsc_and_xcr(void)
{
    run_user(user_rdtsc, 0);
    CHECK_TRAP(0x80);
    write_cr4(read_cr4() | 4); // TSD
    run_user(user_rdtsc, 0);
    CHECK_TRAP_ERR(13, 0);
    TRY(user_rdtsc(0));
    CHECK_TRAP(-1);
    write_cr4(read_cr4() & ~4ull);
    if (!has(1, 2, 26))
        return;
    TRY(__asm__ volatile("xgetbv" ::"c"(0) : "rax", "rdx"));
    CHECK_TRAP(6); // OSXSAVE is clear
    CHECK(!has(1, 2, 27));
    write_cr4(read_cr4() | 0x40000);
    CHECK(has(1, 2, 27));
    TRY(__asm__ volatile("xsetbv" ::"c"(0), "a"(2), "d"(0))); // x87 must stay
    CHECK_TRAP_ERR(13, 0);
    TRY(__asm__ volatile("xsetbv" ::"c"(0), "a"(5), "d"(0))); // AVX without SSE
    CHECK_TRAP_ERR(13, 0);
    TRY(__asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0x80000000)));
    CHECK_TRAP_ERR(13, 0);
    TRY(__asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0)));
    CHECK_TRAP(-1);
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    CHECK_EQ(lo, 3);
    TRY(__asm__ volatile("vxorps %ymm0, %ymm0, %ymm0"));
    CHECK_TRAP(6); // XCR0.AVX is clear
    if (has(1, 2, 28)) {
        __asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
        TRY(__asm__ volatile("vxorps %ymm0, %ymm0, %ymm0"));
        CHECK_TRAP(-1);
        __asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
    }
    write_cr4(read_cr4() & ~0x40000ull);
}

// --- PCID ------------------------------------------------------------------------------------------------------------------------

static void invpcid(u64 type, u64 pcid, u64 address)
{
    struct {
        u64 pcid, address;
    } d = {pcid, address};
    __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

static void pcid(void)
{
    if (!has(1, 2, 17))
        return;
    u64 cr3 = read_cr3();
    TRY(write_cr3(cr3 | 1ull << 63)); // bit 63 without PCIDE
    CHECK_TRAP_ERR(13, 0);
    TRY(write_cr4(read_cr4() | 0x20000)); // CR3[11:0] is 0
    CHECK_TRAP(-1);
    volatile u8 *window = (volatile u8 *)0x40000000;
    u64 *pte = pte_of(0x40000000);
    *(volatile u8 *)0xa00000 = 1;
    *(volatile u8 *)0xa01000 = 2;
    *pte = 0xa00000 | PTE_P | PTE_W;
    invlpg((void *)window);
    CHECK_EQ(*window, 1);
    write_cr3(cr3 | 5);
    CHECK_EQ(*window, 1);
    *pte = 0xa01000 | PTE_P | PTE_W;
    invlpg((void *)window); // of PCID 5 only
    CHECK_EQ(*window, 2);
    write_cr3(cr3); // flushes PCID 0
    CHECK_EQ(*window, 2);
    write_cr3(cr3 | 5 | 1ull << 63);
    CHECK_EQ(*window, 2);
    CHECK_EQ(read_cr3(), cr3 | 5);
    if (has(7, 1, 10)) {
        *pte = 0xa00000 | PTE_P | PTE_W;
        invpcid(0, 5, 0x40000000);
        CHECK_EQ(*window, 1);
        *pte = 0xa01000 | PTE_P | PTE_W;
        invpcid(1, 5, 0);
        CHECK_EQ(*window, 2);
        *pte = 0xa00000 | PTE_P | PTE_W;
        invpcid(2, 0, 0);
        CHECK_EQ(*window, 1);
        *pte = 0xa01000 | PTE_P | PTE_W;
        invpcid(3, 0, 0);
        CHECK_EQ(*window, 2);
        TRY(invpcid(4, 0, 0));
        CHECK_TRAP_ERR(13, 0);
        TRY(invpcid(0, 0x1000, 0));
        CHECK_TRAP_ERR(13, 0);
        TRY(invpcid(0, 0, 1ull << 47));
        CHECK_TRAP_ERR(13, 0);
    }
    write_cr3(cr3);
    write_cr4(read_cr4() & ~0x20000ull);
    write_cr3(cr3 | 0x18);                // PWT and PCD are allowed without PCIDs
    TRY(write_cr4(read_cr4() | 0x20000)); // CR3[11:0] is not 0
    CHECK_TRAP_ERR(13, 0);
    write_cr3(cr3);
}

void guest_main(void)
{
    syscall_sysret();
    msrs();
    control_registers();
    gs_base();
    tsc_and_xcr();
    pcid();
}
