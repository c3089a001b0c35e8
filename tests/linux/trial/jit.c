// Code that a program makes: written in place, through another view of its pages, by the kernel, by a child; run right away.
#include "trial.h"

#include <fcntl.h>
#include <sys/uio.h>

// --- a compiler ---------------------------------------------------------------------------------------------------------------

#define CODE_MAX 400

struct function {
    u8 code[CODE_MAX];
    unsigned len;
    u32 result; // for the argument
    u32 arg;
};

static void emit(struct function *f, const void *bytes, unsigned n)
{
    memcpy(f->code + f->len, bytes, n);
    f->len += n;
}

static void emit_op32(struct function *f, u8 op, u32 imm)
{
    emit(f, &op, 1);
    emit(f, &imm, 4);
}

static u32 rol(u32 v, unsigned n)
{
    return n % 32 ? v << n % 32 | v >> (32 - n % 32) : v;
}

// One operation on EAX, in the code and in the result. Backward loops and branches over a few bytes among them.
static void compile_one(struct function *f)
{
    u32 imm = noise();
    switch (noise() % 9) {
    case 0:
        emit_op32(f, 0x05, imm); // add
        f->result += imm;
        break;
    case 1:
        emit_op32(f, 0x35, imm); // xor
        f->result ^= imm;
        break;
    case 2:
        emit_op32(f, 0x2d, imm); // sub
        f->result -= imm;
        break;
    case 3:
        emit(f, "\x69\xc0", 2); // imul
        emit(f, &imm, 4);
        f->result *= imm;
        break;
    case 4:
        emit(f, "\xc1\xc0", 2); // rol
        emit(f, &imm, 1);
        f->result = rol(f->result, imm & 31);
        break;
    case 5:
        emit(f, "\x89\xc2\x8d\x04\x42", 5); // mov edx,eax; lea eax,[xDX+xAX*2]
        f->result *= 3;
        break;
    case 6:
        emit(f, "\xa8\x01\x74\x05", 4); // test al,1; jz over the next
        emit_op32(f, 0x05, imm);
        f->result += f->result & 1 ? imm : 0;
        break;
    case 7:
        emit_op32(f, 0xb9, imm % 9 + 1);            // mov ecx: that many times
        emit(f, "\x83\xc0\x05\xff\xc9\x75\xf9", 7); // add eax,5; dec ecx; jnz
        f->result += 5 * (imm % 9 + 1);
        break;
    default:
        emit(f, "\xf7\xd0", 2); // not
        f->result = ~f->result;
        break;
    }
}

static void compile(struct function *f)
{
    unsigned n = 1 + noise() % 24;
    f->len = 0;
    f->arg = noise();
    f->result = f->arg;
    emit(f, "\x89\xf8", 2); // mov eax,edi
    while (n--)
        compile_one(f);
    emit(f, "\xc3", 1);
}

static void check(const char *how, const struct function *f, const void *code)
{
    u32 r = (u32)call_with(code, f->arg);
    if (r != f->result)
        fail("%s: code at %p gives %x, not %x", how, code, r, f->result);
}

// --- in place -----------------------------------------------------------------------------------------------------------------

#define FUNCTIONS 40
#define AREA (FUNCTIONS * CODE_MAX / PAGE + 2)
static struct function functions[FUNCTIONS];

static u8 *home(u8 *area, unsigned i)
{
    return area + i * CODE_MAX + 13 * i % 7;
}

u64 trial_jit_rewrite(void)
{
    u64 n = 0;
    u8 *rwx = map(NULL, AREA * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    u8 *wx = map(NULL, AREA * PAGE, PROT_READ | PROT_WRITE);
    do {
        unsigned i = n < FUNCTIONS ? (unsigned)n : noise() % FUNCTIONS;
        struct function *f = &functions[i];
        compile(f);
        memcpy(home(rwx, i), f->code, f->len);
        protect(wx, AREA * PAGE, PROT_READ | PROT_WRITE);
        memcpy(home(wx, i), f->code, f->len);
        protect(wx, AREA * PAGE, PROT_READ | PROT_EXEC);
        for (unsigned k = 0; k < (n < FUNCTIONS ? n + 1 : FUNCTIONS); k++) {
            check("in place", &functions[k], home(rwx, k));
            check("after mprotect()", &functions[k], home(wx, k));
        }
        n++;
    } while (more());
    return n;
}

// Written at one address, run at another; the code's pages hold data that it writes, too.
u64 trial_jit_two_views(void)
{
    u64 n = 0;
    int fd = memfd_create("trial", 0);
    if (fd < 0 || ftruncate(fd, AREA * PAGE))
        fail("memfd_create: %s", strerror(errno));
    u8 *rw = mmap(NULL, AREA * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    u8 *rx = mmap(NULL, AREA * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    u8 *rx2 = mmap(NULL, AREA * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (rw == MAP_FAILED || rx == MAP_FAILED || rx2 == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    do {
        unsigned i = n < FUNCTIONS ? (unsigned)n : noise() % FUNCTIONS;
        struct function *f = &functions[i];
        compile(f);
        memcpy(home(rw, i), f->code, f->len);
        *(volatile u32 *)(rw + (AREA - 1) * PAGE - 8) += 1;
        for (unsigned k = 0; k < (n < FUNCTIONS ? n + 1 : FUNCTIONS); k++) {
            check("the first view", &functions[k], home(rx, k));
            check("the second view", &functions[k], home(rx2, k));
        }
        n++;
    } while (more());
    return n;
}

// --- by the kernel --------------------------------------------------------------------------------------------------------------

u64 trial_jit_kernel_writes(void)
{
    u64 n = 0;
    u8 *area = map(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    int fd[2], file = memfd_create("trial", 0);
    if (pipe(fd) || file < 0 || ftruncate(file, 2 * PAGE))
        fail("pipe: %s", strerror(errno));
    u8 *shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    do {
        struct function f;
        unsigned at = noise() % (2 * PAGE - CODE_MAX);
        compile(&f);
        struct iovec from = {f.code, f.len}, to = {area + at, f.len};
        switch (n % 3) {
        case 0:
            if (write(fd[1], f.code, f.len) != (ssize_t)f.len || read(fd[0], area + at, f.len) != (ssize_t)f.len)
                fail("read: %s", strerror(errno));
            check("read() from a pipe", &f, area + at);
            break;
        case 1:
            if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)f.len)
                fail("process_vm_writev: %s", strerror(errno));
            check("another process's store", &f, area + at);
            break;
        default:
            if (pwrite(file, f.code, f.len, (off_t)at) != (ssize_t)f.len)
                fail("pwrite: %s", strerror(errno));
            check("pwrite() to a file that is mapped", &f, shared + at);
            break;
        }
        n++;
    } while (more());
    return n;
}

// A child changes code that it shares with its parent by copy on write.
u64 trial_jit_forked(void)
{
    u64 n = 0;
    u8 *area = map(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    do {
        struct function f, g;
        unsigned at = noise() % (2 * PAGE - CODE_MAX);
        compile(&f);
        compile(&g);
        memcpy(area + at, f.code, f.len);
        check("before a fork", &f, area + at);
        pid_t pid = fork();
        if (pid == 0) {
            check("in a child", &f, area + at);
            memcpy(area + at, g.code, g.len);
            check("a child's own", &g, area + at);
            _exit(0);
        }
        check("a parent's", &f, area + at);
        if (reap(pid) != 0)
            fail("the child did not end well");
        check("a parent's, after its child", &f, area + at);
        n++;
    } while (more());
    return n;
}

// --- other pages at the same addresses ------------------------------------------------------------------------------------------

// Half of a function is on a page that is exchanged: an instruction may lie across the boundary, or a jump may cross it.
u64 trial_jit_remapped(void)
{
    static struct function f[4];
    u8 *area = map(NULL, 2 * PAGE, PROT_NONE);
    u64 n = 0;
    int fd = memfd_create("trial", 0);
    if (fd < 0 || ftruncate(fd, 8 * PAGE))
        fail("memfd_create: %s", strerror(errno));
    u8 *all = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    // Four pages that begin with the end of the same function: only a constant in it differs.
    do {
        unsigned which = noise() % 4, boundary = noise() % 11;
        static const u8 code[] = {0x89, 0xf8, 0x05, 1, 0, 0, 0,    0x35, 2,    0,   0,
                                  0,    0xe8, 1,    0, 0, 0, 0xc3, 0x40, 0x40, 0xc3};
        u8 *start = area + PAGE - 2 - boundary;
        for (unsigned i = 0; i < 4; i++) {
            u8 page[2 * PAGE] = {0};
            memcpy(page + (start - area), code, sizeof code);
            page[start - area + 8] = (u8)(i * 16 + n % 16);
            // inc eax, in 64 bits FF C0
            memcpy(page + (start - area) + 18, "\xff\xc0\xc3", 3);
            memcpy(all + 2 * i * PAGE, page, 2 * PAGE);
            f[i].arg = noise();
            f[i].result = ((f[i].arg + 1) ^ (u32)(i * 16 + n % 16)) + 1;
        }
        for (unsigned k = 0; k < 12; k++, which = noise() % 4) {
            unsigned first = boundary < 7 ? noise() % 4 : which;
            if (mmap(area, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, (off_t)(2 * first * PAGE)) ==
                    MAP_FAILED ||
                mmap(area + PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd,
                     (off_t)((2 * which + 1) * PAGE)) == MAP_FAILED)
                fail("mmap: %s", strerror(errno));
            // The constant is on the second page unless the boundary is behind it.
            for (unsigned r = 0; r < 3; r++)
                check("pages exchanged", &f[which], start);
        }
        n++;
    } while (more());
    return n;
}

// --- code that changes itself ---------------------------------------------------------------------------------------------------

#ifdef __x86_64__
// Stores to an immediate right ahead, then to one that has run, around a loop; repeated stores over what comes next; a push onto it.
__asm__(
    ".data\n.balign 4096\nself: mov %edi,1f+1(%rip); inc %ecx; nop\n1: mov $0x12345678,%eax; ret\n"
    "self_loop: xor %eax,%eax; mov $5,%ecx\n1: add $1,%eax; incl 1b+2-3(%rip); dec %ecx; jnz 1b; ret\n"
    "self_stos: mov %edi,%eax; lea 1f(%rip),%rdi; mov $6,%ecx; mov $0x90,%al; rep stosb; xor %eax,%eax\n1: mov $7,%al; mov $7,%al; "
    "mov $7,%al; inc %eax; ret\n"
    "self_push: mov %rsp,%rdx; lea 1f+8(%rip),%rsp; mov %rdi,%rax; push %rax; mov %rdx,%rsp; xor %eax,%eax; nop\n"
    "1: inc %eax; inc %eax; inc %eax; inc %eax; ret\n"
    "self_call: lea 1f(%rip),%rdx; movl $0xc3c0ff90,(%rdx); call *%rdx; ret\n"
    "1: ud2; ud2; ret\n"
    ".balign 4096\n.text\n");
#else
__asm__(
    ".data\n.balign 4096\nself: mov %edi,1f+1; inc %ecx; nop\n1: mov $0x12345678,%eax; ret\n"
    "self_loop: xor %eax,%eax; mov $5,%ecx\n1: add $1,%eax; incl 1b+2-3; dec %ecx; jnz 1b; ret\n"
    "self_stos: mov %edi,%eax; lea 1f,%edi; mov $6,%ecx; mov $0x90,%al; rep stosb; xor %eax,%eax\n1: mov $7,%al; mov $7,%al; "
    "mov $7,%al; inc %eax; ret\n"
    "self_push: mov %esp,%edx; lea 1f+4,%esp; mov %edi,%eax; push %eax; mov %edx,%esp; xor %eax,%eax; nop\n"
    "1: .byte 0xff,0xc0,0xff,0xc0; inc %eax; inc %eax; ret\n"
    "self_call: lea 1f,%edx; movl $0xc3c0ff90,(%edx); call *%edx; ret\n"
    "1: ud2; ud2; ret\n"
    ".balign 4096\n.text\n");
#endif
extern u8 self[], self_loop[], self_stos[], self_push[], self_call[];

u64 trial_jit_self(void)
{
    u64 n = 0;
    u8 keep[PAGE];
    protect(self, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(keep, self, PAGE);
    do {
        u32 v = noise(), r = (u32)call_with(self, v);
        if (r != v)
            fail("an immediate just written is %x, not %x", r, v);
        memcpy(self, keep, PAGE);
        n++;
        if ((r = (u32)call_with(self_stos, 0)) != 1)
            fail("code that was overwritten with NOPs gives %u", r);
        if ((r = (u32)call_with(self_call, 0)) == 0)
            fail("a function just written gives %u", r);
#ifdef __x86_64__
        if ((r = (u32)call_with(self_push, 0x9090909090909090)) != 0)
            fail("code under a push gives %u", r);
#else
        if ((r = (u32)call_with(self_push, 0x90909090)) != 2)
            fail("code under a push gives %u", r);
#endif
        memcpy(self, keep, PAGE);
    } while (more());
    return n;
}
