// Calls without returns and returns without calls: what a machine that pairs them must see through.
#include "trial.h"

#include <setjmp.h>

#define DEPTH 100000

static jmp_buf out;
static sigjmp_buf signal_out;
static volatile u32 bottom;

__attribute__((noinline)) static u32 sink(u32 n, u32 h, bool jump)
{
    volatile u32 mark = h ^ n;
    if (n == 0) {
        bottom++;
        if (jump)
            longjmp(out, 7);
        return h;
    }
    u32 r = sink(n - 1, h * 31 + n, jump);
    if (mark != (h ^ n))
        fail("a frame at depth %u has changed", n);
    return r ^ n;
}

static u32 sink_result(u32 n, u32 h)
{
    u32 x = 0;
    for (; n; n--) {
        h = h * 31 + n;
        x ^= n;
    }
    return h ^ x;
}

static void *big_stack;

// On a stack with room for it.
static void on_stack(void *top, void (*f)(void))
{
#ifdef __x86_64__
    __asm__ volatile("mov %%rsp,%%rbx; mov %0,%%rsp; call *%1; mov %%rbx,%%rsp"
                     :
                     : "r"(top), "r"(f)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
#else
    __asm__ volatile("mov %%esp,%%esi; mov %0,%%esp; call *%1; mov %%esi,%%esp"
                     :
                     : "r"(top), "r"(f)
                     : "esi", "eax", "ecx", "edx", "memory", "cc");
#endif
}

static void deep(void)
{
    u32 r = sink(DEPTH, 1, false);
    if (r != sink_result(DEPTH, 1))
        fail("%u calls and as many returns: %x", DEPTH, r);
    for (volatile u32 i = 0; i < 3; i++) {
        int v = setjmp(out);
        if (v == 0) {
            sink(DEPTH, i, true);
            fail("longjmp() returned");
        }
        if (v != 7)
            fail("longjmp(7) gives %d", v);
    }
}

u64 trial_deep_calls(void)
{
    volatile u64 n = 0;
    size_t size = DEPTH * 160ul;
    big_stack = map(NULL, size, PROT_READ | PROT_WRITE);
    do {
        on_stack((char *)big_stack + size - 256, deep);
        n++;
    } while (more());
    return n;
}

// --- out of a stack that is full, and out of handlers -------------------------------------------------------------------------

static void overflow(int sig, siginfo_t *info, void *uc)
{
    (void)sig;
    (void)info;
    (void)uc;
    siglongjmp(signal_out, 1);
}

__attribute__((noinline)) static u32 sink_forever(u32 n)
{
    volatile u32 here[8] = {n};
    bottom = n;
    return n == 0xffffffff ? 0 : sink_forever(n + 1) + here[n % 8];
}

static void fall(void)
{
    sink_forever(1);
}

static void jumps_between(unsigned levels)
{
    static jmp_buf at[16];
    volatile unsigned sum = 0;
    if (levels == 0)
        longjmp(at[noise() % 15 + 1], 1);
    if (setjmp(at[levels]) == 0)
        jumps_between(levels - 1);
    sum += levels;
    if (sum != levels)
        fail("a local variable after longjmp(): %u", sum);
}

u64 trial_jumps_out(void)
{
    volatile u64 n = 0;
    own_signal_stack();
    handle(SIGSEGV, overflow, SA_ONSTACK);
    char *stack = map(NULL, 64 * PAGE, PROT_READ | PROT_WRITE);
    protect(stack, PAGE, PROT_NONE);
    do {
        bottom = 0;
        if (sigsetjmp(signal_out, 1) == 0) {
            on_stack(stack + 64 * PAGE - 64, fall);
            fail("a stack without end");
        }
        if (bottom < 1000)
            fail("the stack is full after %u calls", bottom);
        for (unsigned i = 0; i < 100; i++)
            jumps_between(15);
        n++;
    } while (more());
    return n;
}

// --- coroutines ---------------------------------------------------------------------------------------------------------------

#define COROUTINES 100
static ucontext_t home, context[COROUTINES];
static u32 progress[COROUTINES];

static void coroutine(int id)
{
    u32 own = (u32)id;
    for (;;) {
        own = own * 5 + 1;
        progress[id] = own;
        int next = (id + 1) % COROUTINES;
        swapcontext(&context[id], next ? &context[next] : &home);
    }
}

// The same without the kernel: stacks that are switched by hand.
static void *fast_sp[2];
void fast_body(void);
void fast_switch(void **save, void *load);
#ifdef __x86_64__
__asm__(".text\nfast_switch: push %rbx; push %rbp; mov %rsp,(%rdi); mov %rsi,%rsp; pop %rbp; pop %rbx; ret\n");
#else
__asm__(".text\nfast_switch: mov 4(%esp),%eax; mov 8(%esp),%edx; push %ebx; push %ebp; push %esi; push %edi\n"
        "mov %esp,(%eax); mov %edx,%esp; pop %edi; pop %esi; pop %ebp; pop %ebx; ret\n");
#endif
static volatile u32 fast_count;

void fast_body(void)
{
    for (;;) {
        fast_count += 3;
        fast_switch(&fast_sp[1], fast_sp[0]);
    }
}

static void fast_coroutines(void)
{
    static uintptr_t stack[2048];
    uintptr_t *sp = stack + 2040;
    *--sp = 0;
    *--sp = (uintptr_t)fast_body;
    for (unsigned i = 0; i < (BITS == 64 ? 2 : 4); i++)
        *--sp = 0;
    fast_sp[1] = sp;
    fast_count = 0;
    for (unsigned i = 0; i < 20000; i++)
        fast_switch(&fast_sp[0], fast_sp[1]);
    if (fast_count != 60000)
        fail("%u from a coroutine", fast_count);
}

u64 trial_coroutines(void)
{
    static u32 want[COROUTINES];
    volatile u64 n = 0;
    char *stacks = map(NULL, COROUTINES * 4 * PAGE, PROT_READ | PROT_WRITE);
    for (int i = 0; i < COROUTINES; i++) {
        want[i] = (u32)i;
        getcontext(&context[i]);
        context[i].uc_stack.ss_sp = stacks + i * 4 * PAGE;
        context[i].uc_stack.ss_size = 4 * PAGE;
        context[i].uc_link = NULL;
        makecontext(&context[i], (void (*)(void))coroutine, 1, i);
    }
    do {
        swapcontext(&home, &context[0]);
        for (unsigned i = 0; i < COROUTINES; i++) {
            want[i] = want[i] * 5 + 1;
            if (progress[i] != want[i])
                fail("coroutine %u is at %x, not %x", i, progress[i], want[i]);
        }
        if (n % 16 == 0)
            fast_coroutines();
        n++;
    } while (more());
    return n;
}

// --- returns that no call belongs to --------------------------------------------------------------------------------------------

// Each part adds to AX; a part that goes wrong returns a large number.
#ifdef __x86_64__
__asm__(".text\nodd: xor %eax,%eax\n"
        // a jump by RET
        "lea 1f(%rip),%rdx; push %rdx; inc %eax; ret; ud2\n"
        // a call that returns behind its arguments
        "1: mov %rsp,%rcx; push $5; push $6; call 3f; cmp %rsp,%rcx; jne 9f\n"
        // a call that is no call
        "call 1f; 1: pop %rdx; lea 1b(%rip),%rcx; cmp %rcx,%rdx; jne 9f; inc %eax\n"
        // a return address that the callee changes
        "call 4f; ud2; inc %eax\n"
        // far returns and IRET to where it is
        "mov %cs,%ecx; push %rcx; lea 1f(%rip),%rdx; push %rdx; lretq; ud2\n"
        "1: inc %eax; mov %rsp,%rsi; mov %ss,%ecx; push %rcx; push %rsi; pushfq; mov %cs,%ecx; push %rcx\n"
        "lea 1f(%rip),%rdx; push %rdx; iretq; ud2\n"
        // the same function from two places, returning to the other's caller
        "1: inc %eax; lea 1f(%rip),%rdx; call 5f; ud2; 1: call 6f; inc %eax; ret\n"
        "3: inc %eax; ret $16\n"
        "4: addq $2,(%rsp); ret\n"
        "5: mov %rdx,(%rsp); ret\n"
        "6: call 7f; ud2; 7: add $8,%rsp; inc %eax; ret\n"
        "9: mov $1000,%eax; ret\n");
#else
__asm__(".text\nodd: xor %eax,%eax\n"
        "push $1f; inc %eax; ret; ud2\n"
        "1: mov %esp,%ecx; push $5; push $6; call 3f; cmp %esp,%ecx; jne 9f\n"
        "call 1f; 1: pop %edx; cmp $1b,%edx; jne 9f; inc %eax\n"
        "call 4f; ud2; inc %eax\n"
        "push %cs; push $1f; lret; ud2\n"
        "1: inc %eax; pushf; push %cs; push $1f; iret; ud2\n"
        "1: inc %eax; mov $1f,%edx; call 5f; ud2; 1: call 6f; inc %eax; ret\n"
        "3: inc %eax; ret $8\n"
        "4: addl $2,(%esp); ret\n"
        "5: mov %edx,(%esp); ret\n"
        "6: call 7f; ud2; 7: add $4,%esp; inc %eax; ret\n"
        "9: mov $1000,%eax; ret\n");
#endif
extern const char odd[];

u64 trial_odd_returns(void)
{
    u64 n = 0;
    do {
        for (unsigned i = 0; i < 200; i++) {
            u32 r = (u32)call_with(odd, 0);
            if (r != 8)
                fail("%u of 8 parts", r);
        }
        n++;
    } while (more());
    return n;
}
