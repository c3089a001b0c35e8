// Compatibility mode: 32- and 16-bit code called from 64-bit code, where operands, addresses and segments are those of protected
// mode, but interrupts, gates, SYSCALL and SYSENTER those of long mode. And the whole way down, to protected and to real mode,
// and back.
//
// No peer: QEMU 7.2's TCG lets 64-bit code turn paging off, and does not survive that. Of the other checks it differs in 7: there
// are no segment limits and types in compatibility mode, bases have 64 bits, and AMD's SYSENTER works in long mode.
#include "guest.h"

const char guest_name[] = "compat64";

#define SEL(n) (SEL_FREE + 8 * (n))
#define LAND 0x90
#define VEC 0x91
#define LOW ((u8 *)0x8000) // code for 16-bit segments and real mode
#define LOW_DATA ((volatile u16 *)0x7000)
#define FS_BASE 0xc0000100

struct regs {
    u64 a, b, c, d, si, di, r8, r15;
};

// Far call with 32-bit operands; the fragments return with a 32-bit far RET.
static struct regs call_far(u32 offset, u16 sel, struct regs r)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {offset, sel};
    register u64 r8 __asm__("r8") = r.r8, r15 __asm__("r15") = r.r15;
    __asm__ volatile("lcall *%8"
                     : "+a"(r.a), "+b"(r.b), "+c"(r.c), "+d"(r.d), "+S"(r.si), "+D"(r.di), "+r"(r8), "+r"(r15)
                     : "m"(p)
                     : "memory", "cc");
    r.r8 = r8;
    r.r15 = r15;
    return r;
}

#define FRAGMENT(name, code) \
    __asm__(".text\n .code32\n" #name ": " code "; lret\n .code64\n"); \
    extern u8 name[]
#define CALL32(name, ...) call_far((u32)(word)(name), SEL_CODE32, (struct regs){__VA_ARGS__})

// --- operands and addresses ---------------------------------------------------------------------------------------------

FRAGMENT(f_push, "mov %esp, %ebx; push %eax; sub %esp, %ebx; pop %ecx");
FRAGMENT(f_inc, ".byte 0x40");
FRAGMENT(f_nop, "nop");
FRAGMENT(f_wrap, "mov 0x80000000(%ebx), %eax");
FRAGMENT(f_absolute, ".byte 0x8b, 0x05; .long compat_value");
FRAGMENT(f_legacy, "pusha; popa; mov $0x1234, %eax; aam; push %ds; pop %es; mov $5, %ecx; arpl %cx, %dx");
FRAGMENT(f_fs, "mov %fs:(%ebx), %eax");
FRAGMENT(f_fs_store, "mov %eax, %fs:(%ebx)");
FRAGMENT(f_cr3, "mov %cr3, %eax");
FRAGMENT(f_string, "cld; rep movsb");
static u32 compat_value __attribute__((used)) = 0xfeedf00d;

static void operands(void)
{
    struct regs r = CALL32(f_push, .a = 0x1122334455667788ull);
    CHECK_EQ(r.b, 4);
    CHECK_EQ(r.c, 0x55667788);
    CHECK_EQ(CALL32(f_inc, .a = 0x11111111ffffffffull).a, 0); // written registers lose their upper halves
    r = CALL32(f_nop, .r8 = 0x1122334455667788ull, .r15 = 0x99aabbccddeeff00ull);
    CHECK_EQ(r.r8, 0x1122334455667788ull);
    CHECK_EQ(r.r15, 0x99aabbccddeeff00ull);
    CHECK_EQ(CALL32(f_wrap, .b = (word)&compat_value + 0x80000000u).a, 0xfeedf00d);
    CHECK_EQ(CALL32(f_wrap, .b = ((word)&compat_value + 0x80000000u) | 0xabcdull << 48).a, 0xfeedf00d);
    CHECK_EQ(CALL32(f_absolute, .a = 0).a, 0xfeedf00d);
    r = CALL32(f_legacy, .d = 0xf2); // instructions that 64-bit code does not have
    CHECK_EQ(r.a, 0x502);
    CHECK_EQ(r.d & 3, 2);
    CHECK_EQ(CALL32(f_cr3, .a = ~0ull).a, read_cr3());
    static u8 from[8] = "compat", to[8];
    r = CALL32(f_string, .si = (word)from | 1ull << 40, .di = (word)to | 1ull << 41, .c = 7 | 1ull << 42);
    CHECK_EQ(to[5], 't');
    CHECK_EQ(r.c, 0);
    CHECK_EQ(r.si, (word)from + 7);
}

static void load_fs(u16 sel)
{
    __asm__ volatile("mov %w0, %%fs" ::"r"(sel) : "memory");
}

__attribute__((noinline)) static u64 fs_access(const u8 *fragment, u32 offset)
{
    struct regs r = {0};
    TRY(r = CALL32(fragment, .b = offset));
    return r.a;
}

static void segments(void)
{
    gdt[SEL(0) / 8] = make_desc((u32)(word)&compat_value, 3, 0x4093);
    load_fs(SEL(0));
    CHECK_EQ(fs_access(f_fs, 0), 0xfeedf00d);
    fs_access(f_fs, 1);
    CHECK_TRAP_ERR(13, 0);
    CHECK_EQ(trap.cs, SEL_CODE32);
    u32 v;
    TRY(__asm__ volatile("mov %%fs:1, %0" : "=r"(v))); // 64-bit code knows no limits
    CHECK_TRAP(-1);
    gdt[SEL(0) / 8] = make_desc((u32)(word)&compat_value, 0xfffff, 0xc091);
    load_fs(SEL(0));
    fs_access(f_fs_store, 0); // read-only
    CHECK_TRAP_ERR(13, 0);
    load_fs(0);
    fs_access(f_fs, 0);
    CHECK_TRAP_ERR(13, 0);
    // Linear addresses have 32 bits: the base wraps, and only its lower half counts.
    gdt[SEL(0) / 8] = make_desc(0xfffff000, 0xfffff, 0xc093);
    load_fs(SEL(0));
    CHECK_EQ(fs_access(f_fs, (u32)(word)&compat_value + 0x1000), 0xfeedf00d);
    wrmsr(FS_BASE, 0x0000123400000000ull + (word)&compat_value);
    CHECK_EQ(fs_access(f_fs, 0), 0xfeedf00d);
    CHECK_TRAP(-1);
    load_fs(0);
}

// --- interrupts and far transfers ---------------------------------------------------------------------------------------

static struct trap_frame seen;

static bool note(struct trap_frame *f)
{
    seen = *f;
    f->rax = 0xaaaa0000bbbb1111ull;
    return true;
}

FRAGMENT(f_int, "mov %esp, %ebx; int $0x91; sub %esp, %ebx");
FRAGMENT(f_jump, "ljmp $8, $1f; .code64; 1: movabs $0x123456789abcdef0, %rdx; .byte 0xcb; .code32");
FRAGMENT(f_gate, "mov %esp, %ebx; lcall $0x68, $0x12345678; sub %esp, %ebx"); // SEL(1)
__asm__(".text\n"
        "gate_target: movabs $0x0fedcba987654321, %rdx; mov %cs, %ecx; mov 8(%rsp), %rsi; mov (%rsp), %rdi; lretq\n");
extern u8 gate_target[];

static void transfers(void)
{
    trap_handler[VEC] = note;
    struct regs r = CALL32(f_int, .a = 1);
    CHECK_EQ(r.b, 0);
    CHECK_EQ(r.a & 0xffffffff, 0xbbbb1111);
    CHECK_EQ(seen.cs, SEL_CODE32);
    CHECK_EQ(seen.ss, SEL_DATA);
    CHECK_EQ(seen.sp >> 32, 0);
    CHECK_EQ(seen.ip, (word)f_int + 4);
    CHECK_EQ(CALL32(f_jump, .d = 0).d, 0x123456789abcdef0ull);
    gdt[SEL(1) / 8] =
        ((word)gate_target & 0xffff) | (u64)SEL_CODE << 16 | 0x8cull << 40 | ((word)gate_target >> 16 & 0xffff) << 48;
    gdt[SEL(2) / 8] = 0;
    r = CALL32(f_gate, .d = 0);
    CHECK_EQ(r.b, 0);
    CHECK_EQ(r.d & 0xffffffff, 0x87654321);
    CHECK_EQ(r.c, SEL_CODE);
    CHECK_EQ(r.si, SEL_CODE32); // 8-byte slots
    CHECK_EQ(r.di, (word)f_gate + 9);
}

static void put_low(const u8 *code, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        LOW[i] = code[i];
}

static void sixteen_bits(void)
{
    // INC AX; MOV CX, SP; PUSH AX; SUB CX, SP; POP DX; MOV AX, [BX + 7000]; INT 91; RETF (32-bit)
    static const u8 code[] = {0x40, 0x89, 0xe1, 0x50, 0x29, 0xe1, 0x5a, 0x8b, 0x87, 0x00, 0x70, 0xcd, 0x91, 0x66, 0xcb};
    put_low(code, sizeof code);
    *(volatile u16 *)0x6000 = 0x4711;
    struct regs r = call_far(0x8000, SEL_CODE16, (struct regs){.a = 0x1234ffff, .b = 0xf000, .c = 0, .d = 0x5555});
    CHECK_EQ(r.c, 2);
    CHECK_EQ(r.d, 0);
    CHECK_EQ(seen.rax & 0xffffffff, 0x12344711); // addresses wrap at 64 KiB
    CHECK_EQ(seen.cs, SEL_CODE16);
    CHECK_EQ(seen.ip, 0x800d);
}

// --- system calls -------------------------------------------------------------------------------------------------------

__asm__(".text\n .code32\n"
        "ring3_syscall: syscall; ud2\n"
        "ring3_sysenter: sysenter; ud2\n"
        ".code64\n"
        "entry_64: int $0x90\n" // from the system-call entry, in ring 0
        "land_32: int $0x90\n");
extern u8 ring3_syscall[], ring3_sysenter[], entry_64[], land_32[];

static bool land(struct trap_frame *f)
{
    seen = *f;
    return false;
}

__attribute__((noinline)) static void enter_ring3(const u8 *ip)
{
    static word f[5];
    f[0] = (word)ip;
    f[1] = SEL_UCODE32;
    f[2] = 0x246;
    f[3] = (word)user_stack + 4096;
    f[4] = SEL_UDATA;
    TRY(__asm__ volatile("mov %0, %%rsp; iretq" ::"r"(f) : "memory"));
}

static void system_calls(void)
{
    u32 r[4];
    cpuid(0, 0, r);
    bool amd = r[1] == 0x68747541;
    trap_handler[LAND] = land;
    set_gate(LAND, (word)gate_stub(LAND), SEL_CODE, 14, 3, 0);
    wrmsr(0xc0000081, (u64)SEL_UCODE32 << 48 | (u64)SEL_CODE << 32); // STAR
    wrmsr(0xc0000082, 0);                                            // LSTAR: for 64-bit code only
    wrmsr(0xc0000083, (word)entry_64);                               // CSTAR
    wrmsr(0xc0000084, 0x200);                                        // the mask
    wrmsr(0x174, SEL_CODE);
    wrmsr(0x175, (word)trap_stack + 4096);
    wrmsr(0x176, (word)entry_64);
    enter_ring3(ring3_syscall);
    if (amd) { // Intel knows SYSCALL in 64-bit code only, AMD SYSENTER outside long mode only
        CHECK_TRAP(LAND);
        CHECK_EQ(seen.cs, SEL_CODE);
        CHECK_EQ(seen.rcx, (word)ring3_syscall + 2);
        CHECK_EQ(seen.r11 & 0x246, 0x246);
        CHECK_EQ(seen.flags & 0x200, 0);
    } else {
        CHECK_TRAP(6);
    }
    enter_ring3(ring3_sysenter);
    if (amd) {
        CHECK_TRAP(6);
    } else {
        CHECK_TRAP(LAND);
        CHECK_EQ(seen.cs, SEL_CODE);
        CHECK_EQ(seen.sp, (word)trap_stack + 4096);
    }
    // SYSRET with 32-bit operands returns to compatibility code.
    TRY(__asm__ volatile("sysretl" ::"c"(0xffff00000000ull + (word)land_32), "d"(0) : "r11", "memory"));
    CHECK_TRAP(LAND);
    CHECK_EQ(seen.cs, SEL_UCODE32);
    CHECK_EQ(seen.ip, (word)land_32 + 2);
    CHECK_EQ(seen.ss, SEL_UCODE32 + 8); // by number; nobody looks at the descriptor
}

// --- down to real mode --------------------------------------------------------------------------------------------------

// Runs at 8000; leaves what it saw at 7000.
#define AT(label) "(" #label " - descent + 0x8000)"
__asm__(
    ".text\n"
    ".code32\n"
    "descent:\n" // compatibility mode
    "  mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n"
    "  mov $0xc0000080, %ecx; rdmsr; mov %ax, 0x7000\n" // LMA is gone
    "  and $~0x100, %eax; wrmsr\n"
    "  ljmp $0x38, $" AT(
        pm16) "\n"
              ".code16\n"
              "pm16: mov $0x40, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
              "  mov %cr0, %eax; and $~1, %eax; mov %eax, %cr0\n"
              "  ljmp $0, $" AT(
                  real) "\n"
                        "real: xor %ax, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov $0x6f00, %sp\n"
                        "  lidtl " AT(
                            ivt) "\n"
                                 "  smsw 0x7002\n"
                                 "  mov %cs, 0x7004\n"
                                 "  int $0x60\n"
                                 "  mov %sp, 0x7008\n"
                                 "  mov $0x1234, %ax; mov %ax, %ds; mov 0x10, %cx; xor %ax, %ax; mov %ax, %ds; mov %cx, 0x700a\n"
                                 "  mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
                                 "  ljmpl $0x28, $" AT(
                                     pm32) "\n"
                                           ".code32\n"
                                           "pm32: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; mov %ebx, %esp\n"
                                           "  mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; rdmsr; mov %ax, 0x700c\n"
                                           "  mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n" // compatibility mode again
                                           "  rdmsr; mov %ax, 0x700e\n"
                                           "  lret\n"
                                           ".code16\n"
                                           "handler: movw $0x6060, 0x7006; iret\n"
                                           ".code32\n"
                                           "ivt: .word 0x3ff; .long 0\n"
                                           "descent_end:\n"
                                           ".code64\n");
extern u8 descent[], descent_end[], handler[];

static void down_and_up(void)
{
    struct table_reg idtr;
    struct __attribute__((packed)) {
        u32 offset;
        u16 sel;
    } p = {(u32)(word)LOW, SEL_CODE32};
    __asm__ volatile("sidt %0" : "=m"(idtr));
    put_low(descent, (unsigned)(descent_end - descent));
    *(volatile u16 *)(0x60 * 4) = (u16)(handler - descent + 0x8000);
    *(volatile u16 *)(0x60 * 4 + 2) = 0;
    *(volatile u16 *)(0x12340 + 0x10) = 0xd5d5;
    for (unsigned i = 0; i < 8; i++)
        LOW_DATA[i] = 0;
    // EBX tells where the frame of the far call lies.
    __asm__ volatile("lea -8(%%rsp), %%rbx; lcall *%0" ::"m"(p) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
    __asm__ volatile("lidt %0" ::"m"(idtr));
    CHECK_EQ(LOW_DATA[0] & 0x500, 0x100);
    CHECK_EQ(LOW_DATA[1] & 1, 0);
    CHECK_EQ(LOW_DATA[2], 0);
    CHECK_EQ(LOW_DATA[3], 0x6060);
    CHECK_EQ(LOW_DATA[4], 0x6f00);
    CHECK_EQ(LOW_DATA[5], 0xd5d5);
    CHECK_EQ(LOW_DATA[6] & 0x500, 0x100);
    CHECK_EQ(LOW_DATA[7] & 0x500, 0x500);
    TRY(__asm__ volatile("ud2"));
    CHECK_TRAP(6);
    CHECK_EQ(trap.cs, SEL_CODE);
}

void guest_main(void)
{
    operands();
    segments();
    transfers();
    sixteen_bits();
    system_calls();
    down_and_up();
    down_and_up();
    TRY(write_cr0(read_cr0() & ~0x80000000ull)); // not from 64-bit code
    CHECK_TRAP_ERR(13, 0);
}
