// Traps: the C side of the stubs, TRY and user mode.
#include "guest.h"

struct trap_info trap = {.vector = -1};
trap_fn *trap_handler[256];
struct try_buf *try_current;
word user_result, user_flags;
u8 user_stack[8192] __attribute__((aligned(4096), section(".user_data")));
u8 trap_stack[16384] __attribute__((aligned(4096)));

void trap_entry(struct trap_frame *f);
_Noreturn void try_resume(struct try_buf *b, int vector);
void enter_user(word ip, word sp, word arg);

void trap_entry(struct trap_frame *f)
{
    trap.vector = (int)f->vector;
    trap.error = f->error;
    trap.ip = f->ip;
    trap.cs = f->cs;
    trap.flags = f->flags;
    trap.sp = f->sp;
    trap.ss = f->ss;
    trap.cr2 = read_cr2();
    trap.count++;
    trap_fn *fn = trap_handler[f->vector & 255];
    if (fn && fn(f))
        return;
    if (try_current)
        try_resume(try_current, trap.vector);
    print("unexpected trap %d error %lx at %lx:%lx flags %lx sp %lx cr2 %lx\n", trap.vector, (unsigned long)trap.error,
          (unsigned long)trap.cs, (unsigned long)trap.ip, (unsigned long)trap.flags, (unsigned long)trap.sp,
          (unsigned long)trap.cr2);
    failed++;
    guest_exit(1);
}

// Where a user function returns to: hands its result over with INT 0x80.
__attribute__((naked)) USER static void user_return(void)
{
    __asm__ volatile("int $0x80; 1: jmp 1b");
}

static bool on_user_return(struct trap_frame *f)
{
#ifdef __x86_64__
    user_result = f->rax;
#else
    user_result = f->eax;
#endif
    return false;
}

void run_user(word (*fn)(word), word arg)
{
    word *sp = (word *)(user_stack + sizeof user_stack - 64);
    bool smap = read_cr4() >> 21 & 1;
    if (smap)
        __asm__ volatile("stac" ::: "cc", "memory");
#ifndef __x86_64__
    *--sp = arg;
#endif
    *--sp = (word)user_return;
    if (smap)
        __asm__ volatile("clac" ::: "cc", "memory");
    if (!trap_handler[0x80])
        trap_handler[0x80] = on_user_return;
    TRY(enter_user((word)fn, (word)sp, arg));
}
