// Rings 0 to 3 in 32-bit guests: flat segments and stacks for each, running a function in one of them, and bodies that note where
// a call or an interrupt got to.
#ifndef RINGS32_H
#define RINGS32_H

#include "guest.h"

#define SEL(n) (SEL_FREE + 8 * (n))
#define RCODE(r) (SEL(r) | (r))       // flat code of ring r
#define RDATA(r) (SEL(4 + (r)) | (r)) // flat data of ring r
#define SEL_GATE SEL(8)
#define SEL_X SEL(9) // for whatever a test needs
#define SEL_Y SEL(10)
#define SEL_Z SEL(11)
#define LAND 0x90
#define VEC 0x91
#define INT32 14

static u8 ring_stack[4][1024] __attribute__((aligned(16)));
static u8 inner_stack[3][4096] __attribute__((aligned(16))); // SS0..SS2 of the TSS
#define INNER_TOP(r) ((word)inner_stack[r] + 4096)

// What the bodies below saw: selectors, ESP, and the stack from ESP up.
static word seen_cs __attribute__((used)), seen_ss __attribute__((used)), seen_esp __attribute__((used));
static u32 seen_stack[40] __attribute__((used));

#define BODY(name, leave) \
    __asm__(".text\n" #name ":\n" \
            "  movl %cs, %eax; movl %eax, seen_cs\n" \
            "  movl %ss, %eax; movl %eax, seen_ss\n" \
            "  movl %esp, seen_esp\n" \
            "  pushl %esi; pushl %edi; pushl %ecx\n" \
            "  movl seen_esp, %esi; movl $seen_stack, %edi; movl $40, %ecx; cld; rep ss movsl\n" \
            "  popl %ecx; popl %edi; popl %esi\n" \
            "  " leave "\n"); \
    extern u8 name[]

static void set_desc(u16 sel, u32 base, u32 limit, u32 attr)
{
    gdt[sel / 8] = make_desc(base, limit, attr);
}

static struct trap_frame landed;
static word ring_result;

static bool on_land(struct trap_frame *f)
{
    landed = *f;
    ring_result = f->eax;
    return false;
}

__attribute__((naked)) static void ring_return(void)
{
    __asm__ volatile("int $0x90");
}

__attribute__((noinline)) static void run_ring(unsigned ring, word (*fn)(word), word arg)
{
    word *sp = (word *)(ring_stack[ring] + sizeof ring_stack[ring] - 160);
    sp[0] = (word)ring_return;
    sp[1] = arg;
    u16 data = (u16)RDATA(ring);
    word flags = read_flags() & ~0x200u;
    TRY(__asm__ volatile("mov %w0, %%ds; mov %w0, %%es\n"
                         "push %0; push %1; push %2; push %3; push %4; iret" ::"r"((word)data),
                         "r"(sp), "r"(flags | user_flags), "r"(RCODE(ring)), "r"(fn)
                         : "memory"));
}

static void rings_init(void)
{
    for (unsigned r = 0; r < 4; r++) {
        set_desc(SEL(r), 0, 0xfffff, 0xc09b | r << 5);
        set_desc(SEL(4 + r), 0, 0xfffff, 0xc093 | r << 5);
    }
    tss.esp0 = INNER_TOP(0);
    tss.ss0 = RDATA(0);
    tss.esp1 = INNER_TOP(1);
    tss.ss1 = RDATA(1);
    tss.esp2 = INNER_TOP(2);
    tss.ss2 = RDATA(2);
    trap_handler[LAND] = on_land;
    set_gate(LAND, (word)gate_stub(LAND), SEL_CODE, INT32, 3, 0);
}

#endif
