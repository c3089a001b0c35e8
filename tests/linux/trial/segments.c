// Code of the other width in the same program, and segments of the program's own.
#include "trial.h"

#include <asm/ldt.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

static volatile unsigned signals, last_vector;
static volatile uintptr_t last_ip;

static void look(int sig, siginfo_t *info, void *uc)
{
    greg_t *g = ((ucontext_t *)uc)->uc_mcontext.gregs;
    (void)info;
    if (sig == SIGALRM)
        return;
    signals++;
    last_vector = (unsigned)g[REG_TRAPNO];
    last_ip = (uintptr_t)CTX(uc, IP);
    if (sig == SIGILL)
        CTX(uc, IP) += 2;
    // A fault of a segment: BX says where to go on.
    if (sig == SIGSEGV || sig == SIGBUS)
        CTX(uc, IP) = g[BITS == 64 ? 11 : 8];
}

static void look_at_signals(void)
{
    own_signal_stack();
    handle(SIGTRAP, look, SA_ONSTACK);
    handle(SIGILL, look, SA_ONSTACK);
    handle(SIGALRM, look, SA_ONSTACK | SA_RESTART);
    handle(SIGSEGV, look, SA_ONSTACK);
    handle(SIGBUS, look, SA_ONSTACK);
}

#ifdef __x86_64__
_Static_assert(REG_RBX == 11, "look() knows where BX is");
// 32-bit code in a 64-bit program, with a stack and data below 4 GiB.
__asm__(
    ".data\nother_sp: .quad 0\nother_far: .long other_body\n.word 0x23\n.balign 16\nother_data: .long 0,0,0,0\n"
    ".bss\n.balign 4096\nother_stack: .space 65536\nother_top: .space 64\n.text\n"
    "other: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp,other_sp\n"
    "mov $other_top,%rsp; lcall *other_far; mov other_sp,%rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".code32\nother_body: mov $0x2b,%eax; mov %eax,%ds; mov %eax,%es; push $0; mov $1000,%ecx\n"
    "1: inc %edx; pusha; push %ds; pop %es; popa; lea (%ecx,%edx,4),%eax; add %eax,(%esp); call 2f; dec %ecx; jnz 1b\n"
    "mov $20,%eax; int $0x80; mov %eax,other_data; int3; ud2\n"
    "mov $other_data+0x1000,%esi; mov $-0x1000,%edi; mov (%esi,%edi),%ebx; mov %ebx,other_data+4\n"
    "pop %eax; mov %eax,other_data+8; daa; das; aad; xor %eax,%eax; mov %eax,%ds; mov %eax,%es; mov $1234,%eax; lret\n"
    "2: push %ebp; mov %esp,%ebp; enter $16,$0; leave; pop %ebp; ret\n"
    ".code64\n");
extern const char other[];
extern volatile u32 other_data[4];

u64 trial_other_width(void)
{
    u64 n = 0;
    u32 sum = 0;
    look_at_signals();
    tick_every(300);
    do {
        signals = 0;
        u32 r = (u32)call_with(other, 0);
        if (r != 1234 || signals != 2 || last_vector != 6)
            fail("32-bit code gives %u, with %u signals, the last of vector %u", r, signals, last_vector);
        if (other_data[0] != (u32)getpid() || other_data[1] != other_data[0])
            fail("getpid() by 32-bit code: %u and %u", other_data[0], other_data[1]);
        (void)sum;
        n++;
    } while (more());
    tick_every(0);
    return n;
}
#else
_Static_assert(REG_EBX == 8, "look() knows where BX is");
__asm__(
    ".data\nother_data: .long 0,0,0,0\n.text\n"
    "other: push %ebx; push %ebp; push %esi; push %edi; lcall $0x33,$other_body; pop %edi; pop %esi; pop %ebp; pop %ebx; ret\n"
    ".code64\nother_body: mov $0,%r15d; mov $1000,%ecx; mov $0x123456789abcdef0,%r12\n"
    "1: inc %r15; push %r15; pop %r14; cmp %r14,%r15; jne 2f; lea (%r12,%rcx,8),%r13; dec %ecx; jnz 1b\n"
    "mov $39,%eax; syscall; mov %eax,other_data(%rip); int3; ud2; shr $32,%r13; mov %r13d,%eax; lretl\n"
    "2: mov $1,%eax; lretl\n"
    ".code32\n");
extern const char other[];
extern volatile u32 other_data[4];
static const char *vsyscall;

static u32 getpid_by_vdso(void)
{
    u32 r;
    __asm__ volatile("call *%1" : "=a"(r) : "m"(vsyscall), "0"(20) : "memory", "ecx", "edx");
    return r;
}

// 64-bit code in a 32-bit program where the kernel has it, and the system calls of 32-bit programs: SYSENTER or SYSCALL, and INT 0x80.
u64 trial_other_width(void)
{
    struct utsname un;
    u64 n = 0;
    u32 cs;
    uname(&un);
    __asm__("mov %%cs,%0" : "=r"(cs));
    vsyscall = (const char *)getauxval(AT_SYSINFO);
    look_at_signals();
    tick_every(300);
    do {
        u32 r;
        __asm__ volatile("int $0x80" : "=a"(r) : "0"(20) : "memory");
        if (r != (u32)getpid())
            fail("getpid() by INT 0x80: %u", r);
        if (vsyscall && (r = getpid_by_vdso()) != (u32)getpid())
            fail("getpid() by the vDSO: %u", r);
        if (cs == 0x23 && n % 16 == 0) {
            signals = 0;
            r = (u32)call_with(other, 0);
            if (r != 0x12345678 || signals != 2 || last_vector != 6 || other_data[0] != (u32)getpid())
                fail("64-bit code gives %x, with %u signals, pid %u", r, signals, other_data[0]);
        }
        n++;
    } while (more());
    tick_every(0);
    return n;
}
#endif

// --- segments of our own ---------------------------------------------------------------------------------------------------------

// False: the kernel has no 16-bit segments.
static bool set_segment(unsigned entry, uintptr_t base, u32 limit, unsigned contents, bool read_only, bool big)
{
    struct user_desc d = {.entry_number = entry,
                          .base_addr = (u32)base,
                          .limit = limit,
                          .seg_32bit = big,
                          .contents = contents & 3,
                          .read_exec_only = read_only,
                          .useable = 1};
    if (syscall(SYS_modify_ldt, 1, &d, sizeof d) == 0)
        return true;
    if (big || errno != EINVAL)
        fail("modify_ldt: %s", strerror(errno));
    return false;
}

static bool have_segments(void)
{
    char entry[8];
    return syscall(SYS_modify_ldt, 0, entry, sizeof entry) >= 0;
}

#define SELECTOR(entry) ((entry) << 3 | 7)

static u8 *low_page(void)
{
    u8 *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS
#ifdef MAP_32BIT
                     | MAP_32BIT
#endif
                 ,
                 -1, 0);
    if (p == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    for (unsigned i = 0; i < 4 * PAGE; i++)
        p[i] = (u8)(i * 5 + 1);
    return p;
}

#ifdef __x86_64__
// In 64-bit code only the bases of FS and GS count.
u64 trial_local_segments(void)
{
    u64 n = 0;
    if (!have_segments())
        return 1;
    u8 *p = low_page();
    look_at_signals();
    do {
        for (unsigned i = 0; i < 8; i++) {
            u32 v;
            unsigned at = noise() % (2 * PAGE);
            set_segment(i, (uintptr_t)p + i * 256, 0xff, 0, false, true);
            __asm__ volatile("mov %1,%%gs; mov %%gs:(%2),%0; mov %3,%%gs"
                             : "=&r"(v)
                             : "r"(SELECTOR(i)), "r"((uintptr_t)at), "r"(0));
            if (memcmp(&v, p + i * 256 + at, 4))
                fail("segment %u at %x has %x", i, at, v);
        }
        n++;
    } while (more());
    return n;
}
#else
// Each loads a selector from AX, goes on at 1 when it faults, and returns 1 when it does not.
#define SEG_CODE(name, insns) \
    __asm__(".text\nseg_" #name ": push %ebx; push %ebp; mov $1f,%ebx; xor %ebp,%ebp; " insns "; inc %ebp\n" \
            "1: push %ss; pop %es; push %ss; pop %ds; mov %ebp,%eax; pop %ebp; pop %ebx; ret\n"); \
    extern const char seg_##name[];
SEG_CODE(read1, "mov seg_selector,%es; movb %es:(%edi),%dl")
SEG_CODE(read4, "mov seg_selector,%es; movl %es:(%edi),%edx; mov %edx,seg_value")
SEG_CODE(ds_read4, "mov seg_selector,%ds; movl (%edi),%edx; movl %edx,%ss:seg_value")
SEG_CODE(write4, "mov seg_selector,%es; mov $0x5555aaaa,%edx; movl %edx,%es:(%edi)")
SEG_CODE(stos4, "mov seg_selector,%es; mov $0x5555aaaa,%eax; mov $3,%ecx; rep stosl")
SEG_CODE(rmw4, "mov seg_selector,%ds; lock addl $1,(%edi)")
SEG_CODE(fs_read4, "push %fs; mov seg_selector,%fs; movl %fs:(%edi),%edx; pop %fs; mov %edx,seg_value")
SEG_CODE(
    stack,
    "mov %ss,%edx; mov %esp,%esi; mov seg_selector,%ss; lea 64(%edi),%esp; push $0x77; push $0x78; pop %eax; pop %eax; "
    "mov %edx,%ss; mov %esi,%esp; mov %eax,seg_value")
SEG_CODE(far, "lcall *far_pointer; mov %eax,seg_value")
static volatile u32 seg_value __attribute__((used)), seg_selector __attribute__((used));
static volatile struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) far_pointer __attribute__((used));
__asm__(".globl seg_value, seg_selector, far_pointer");

static void try_segment(const char *name, const char *code, u32 at, bool good)
{
    signals = 0;
    u32 r = (u32)call_with(code, at);
    if ((r != 0) != good || signals != !good || (!good && last_vector != 13))
        fail("%s at %x: %u signals, the last of vector %u", name, at, signals, last_vector);
}
#define TRY(code, at, good) try_segment(#code, seg_##code, at, good)

static void expect_value(u8 *at)
{
    if (memcmp((const u32 *)&seg_value, at, 4))
        fail("%x, not %x", seg_value, *(u32 *)at);
}

static void try_data(u8 *p)
{
    u32 limit = 64 + noise() % 2000;
    seg_selector = SELECTOR(1);
    set_segment(1, (uintptr_t)p, limit, 0, false, true);
    for (unsigned i = 0; i < 5; i++) {
        u32 at = noise() % (limit - 3);
        TRY(read4, at, true);
        expect_value(p + at);
        TRY(ds_read4, at, true);
        expect_value(p + at);
        TRY(fs_read4, at, true);
        expect_value(p + at);
    }
    TRY(read1, limit, true);
    TRY(read1, limit + 1, false);
    TRY(read4, limit - 3, true);
    TRY(read4, limit - 2, false);
    TRY(read4, 0xfffffffe, false);
    TRY(write4, limit - 3, true);
    TRY(write4, limit - 2, false);
    TRY(rmw4, limit - 2, false);
    TRY(stos4, limit - 11, true);
    TRY(stos4, limit + 1, false);
    TRY(stack, 0, limit >= 64);
    set_segment(1, (uintptr_t)p, limit, 0, true, true);
    TRY(read4, 8, true);
    TRY(write4, 8, false);
    TRY(rmw4, 8, false);
    // Expanding down, everything above the limit is inside.
    set_segment(1, (uintptr_t)p, limit, 1, false, true);
    TRY(read1, limit, false);
    TRY(read1, limit + 1, true);
    TRY(read4, limit - 1, false);
}

static void try_code(u8 *p)
{
    // mov eax, 0x12345678; ret far, at an offset that only its base makes right
    memcpy(p + PAGE, "\xb8\x78\x56\x34\x12\xcb", 6);
    set_segment(2, (uintptr_t)p, 2 * PAGE, 2, false, true);
    far_pointer.selector = SELECTOR(2);
    far_pointer.offset = PAGE;
    TRY(far, 0, true);
    if (seg_value != 0x12345678)
        fail("code in a segment of its own gives %x", seg_value);
    // 16-bit: mov ax, 0x1234; shl eax by 16 with a prefix; mov ax, 0x5678; add ax, 1; ret far of 32 bits
    memcpy(p + PAGE, "\xb8\x34\x12\x66\xc1\xe0\x10\xb8\x78\x56\x05\x01\x00\x66\xcb", 15);
    bool small = set_segment(2, (uintptr_t)p, 2 * PAGE, 2, false, false);
    if (small)
        TRY(far, 0, true);
    if (small && seg_value != 0x12345679)
        fail("16-bit code gives %x", seg_value);
    // Behind its limit.
    set_segment(2, (uintptr_t)p, PAGE - 1, 2, false, true);
    TRY(far, 0, false);
}

u64 trial_local_segments(void)
{
    u64 n = 0;
    if (!have_segments())
        return 1;
    u8 *p = low_page();
    look_at_signals();
    do {
        try_data(p);
        for (unsigned i = 0; i < 4 * PAGE; i++)
            p[i] = (u8)(i * 5 + 1);
        try_code(p);
        n++;
    } while (more());
    return n;
}
#endif
