// Interrupts in loops of every kind: tight ones on registers, on memory, of calls and returns, of string instructions, of indirect jumps,
// in one page and across two, in rings 0 and 3, in 64-bit and compatibility code.
//
// Every loop goes through the same states over and over. It is first run in single steps, which collects them all: instruction
// pointer, general registers, flags, the top of the stack and eight bytes of memory. Then a timer interrupts it at random times, and each interrupted state
// must be one of those: an engine that lets an interrupt in between two instructions must have all of the state as it is there.
//
// QEMU's TCG is no peer: it also takes interrupts at REP instructions of which nothing is left to do.
#include "guest.h"

const char guest_name[] = "escintr64";

#define LAPIC 0xfee00000ul
#define VEC_TIMER 0x40
#define FL_TF 0x100u
#define FL_IF 0x200u
#define FL_RF 0x10000u
#define INTERRUPTS 120u
#define MAX_STATES 16384u

// --- loops --------------------------------------------------------------------------------------------------------------

// Entered with all registers zero, but for RSP; `cells` is zero, too.
enum { ANY, RING0, COMPAT, CHANGING, RING3 }; // RING3: frames of interrupts would be in the loop's way
struct loop {
    const u8 *code;
    const char *name;
    u64 kind;
};
extern const struct loop loops[], loops_end[];

u8 cells[8] __attribute__((aligned(8)));
u8 string_a[8192] __attribute__((aligned(4096))), string_b[8192] __attribute__((aligned(4096)));

// Each loop is a NOP, which no step comes before, and some text that goes on for ever.
#define LOOP(name, kind, text) \
    __asm__(".pushsection .text; .balign 16; 771: nop; " text "; ud2; .code64; .popsection\n" \
            ".pushsection .rodata.names, \"a\"; 772: .asciz \"" name "\"; .popsection\n" \
            ".pushsection .rodata.loops, \"a\"; .quad 771b, 772b, " #kind "; .popsection");
#define LOOP_ANY(name, text) LOOP(name, 0, text)
#define LOOP_RING0(name, text) LOOP(name, 1, text)
#define LOOP_CHANGING(name, text) LOOP(name, 3, text)
#define LOOP_RING3(name, text) LOOP(name, 4, text)
#define LOOP_COMPAT(name, text) LOOP(name, 2, ".code32; " text)

__asm__(".pushsection .rodata.loops, \"a\"; .globl loops; loops: .popsection");

LOOP_ANY("dec jnz", "1: mov $50, %ecx; 2: dec %ecx; jnz 2b; jmp 1b")
LOOP_ANY("cmp jb", "1: xor %eax, %eax; 2: add $3, %eax; cmp $90, %eax; jb 2b; jmp 1b")
LOOP_ANY("test jz", "1: inc %al; test $0x15, %al; jz 1b; js 1b; jmp 1b")
LOOP_ANY("bare jump", "1: jmp 1b")
LOOP_ANY("live flags", "1: inc %al; jmp 1b")
LOOP_ANY("carry", "stc; 1: rcl $1, %rax; jmp 1b")
LOOP_ANY(
    "carry chain",
    "1: add $0x35, %al; adc $0, %ah; adc $0x41, %dl; sbb %cl, %cl; and $0x0f, %ah; and $0x1f, %al; and $0x83, %dl; jmp 1b")
LOOP_ANY("inc keeps carry", "1: add $0x47, %al; inc %cl; dec %dl; jc 1b; lahf; and $7, %cl; and $7, %dl; jmp 1b")
LOOP_ANY("cmov", "1: add $0x2b, %al; cmovc %eax, %ecx; setp %dl; cmovno %ecx, %ebx; jmp 1b")
LOOP_ANY("shifts", "1: inc %cl; and $31, %cl; mov $0x12345678, %eax; shl %cl, %eax; sar %cl, %eax; rol $3, %ax; jmp 1b")
LOOP_ANY("memory inc", "1: incb cells(%rip); jmp 1b")
LOOP_ANY("memory dec jnz", "1: movb $40, cells(%rip); 2: decb cells(%rip); jnz 2b; jmp 1b")
LOOP_ANY("memory adc", "1: addb $0x37, cells(%rip); adcb $1, cells+1(%rip); andb $3, cells+1(%rip); jmp 1b")
LOOP_ANY("memory cmp",
         "1: addb $0x11, cells(%rip); mov cells(%rip), %al; cmp cells(%rip), %ah; ja 1b; xor %al, %ah; jmp 1b")
LOOP_ANY("exchange", "1: inc %al; xchg %al, cells(%rip); lock; xaddb %al, cells+1(%rip); xor %eax, %eax; jmp 1b")
LOOP_ANY(
    "locked",
    "1: lock; incb cells(%rip); mov cells(%rip), %al; mov $7, %cl; lock; cmpxchgb %cl, cells(%rip); mov $0x37, %al; "
    "lock; cmpxchgb %cl, cells(%rip); jmp 1b")
LOOP_ANY("calls", "1: call 2f; jmp 1b; 2: call 3f; call 3f; ret; 3: ret")
LOOP_ANY(
    "calls with work",
    "1: call 2f; inc %al; and $3, %al; jmp 1b; 2: call 3f; add %al, %cl; and $7, %cl; ret; 3: ror $1, %dl; inc %dl; ret")
LOOP_ANY("recursion", "1: mov $20, %ecx; call 2f; jmp 1b; 2: dec %ecx; jz 3f; call 2b; inc %al; and $1, %al; 3: ret")
LOOP_ANY("deep recursion", "1: mov $200, %ecx; call 2f; jmp 1b; 2: dec %ecx; jz 3f; call 2b; 3: ret")
LOOP_ANY("call without return", "1: call 2f; 2: pop %rax; xor %eax, %eax; jmp 1b")
LOOP_ANY("return without call", "1: lea 2f(%rip), %rax; push %rax; ret; 2: lea 1b(%rip), %rax; push %rax; ret")
LOOP_ANY("changed return", "1: call 2f; ud2; 3: inc %al; jmp 1b; 2: addq $3b - 1b - 5, (%rsp); ret")
LOOP_ANY("return and pop", "1: push %rax; push %rcx; call 2f; inc %al; and $15, %al; jmp 1b; 2: ret $16")
LOOP_ANY("two stacks", "lea -512(%rsp), %rbx; 1: call 2f; inc %al; and $15, %al; jmp 1b; "
                       "2: pop %rcx; xchg %rsp, %rbx; push %rcx; ret")
LOOP_ANY("loop", "1: mov $30, %ecx; 2: inc %al; loop 2b; jmp 1b")
LOOP_ANY("loopne", "1: mov $30, %ecx; 2: inc %al; cmp $17, %al; loopne 2b; jrcxz 1b; xor %eax, %eax; jmp 1b")
LOOP_ANY("rep movsb", "1: lea string_a(%rip), %rsi; lea string_b+3(%rip), %rdi; mov $100, %ecx; rep movsb; jmp 1b")
LOOP_ANY("rep movsq across pages",
         "1: lea string_a+4001(%rip), %rsi; lea string_b+3777(%rip), %rdi; mov $80, %ecx; rep movsq; jmp 1b")
LOOP_ANY("rep stosb", "1: lea string_b+4050(%rip), %rdi; mov $100, %ecx; rep stosb; jmp 1b")
LOOP_ANY("rep stosd down", "std; 1: lea string_b+4150(%rip), %rdi; mov $60, %ecx; rep stosl; jmp 1b")
LOOP_ANY("repne scasb", "mov $1, %al; 1: lea string_a+4000(%rip), %rdi; mov $150, %ecx; repne scasb; jmp 1b")
LOOP_ANY("repe cmpsb",
         "1: lea string_a(%rip), %rsi; lea string_a+64(%rip), %rdi; mov $90, %ecx; repe cmpsb; setz %al; jmp 1b")
LOOP_ANY("rep lodsw", "1: lea string_a(%rip), %rsi; mov $50, %ecx; rep lodsw; jmp 1b")
LOOP_ANY("lods stos",
         "1: lea string_a+4080(%rip), %rsi; lea string_b+4090(%rip), %rdi; mov $30, %ecx; 2: lodsb; inc %al; stosb; "
         "dec %ecx; jnz 2b; jmp 1b")
LOOP_ANY("indirect jump",
         "lea 4f(%rip), %rbx; 1: inc %eax; and $3, %eax; jmp *(%rbx,%rax,8); 2: inc %cl; jmp 1b; 3: dec %cl; jmp 1b; "
         "5: ror $1, %cl; and $15, %ecx; jmp 1b; .balign 8; 4: .quad 2b, 3b, 5b, 1b")
LOOP_ANY("indirect call",
         "lea 2f(%rip), %rdx; 1: call *%rdx; inc %al; jmp 1b; 2: lea 3f(%rip), %rcx; jmp *%rcx; 3: ret")
LOOP_ANY("jumps between pages", ".balign 4096; 1: inc %al; jmp 2f; .balign 4096; 2: dec %cl; jnz 3f; 3: jmp 1b")
LOOP_ANY("across a page end",
         ".balign 4096; .skip 4089; 1: inc %al; add $0x1001, %ecx; and $0xf00f, %ecx; and $15, %al; jmp 1b")
LOOP_ANY("calls between pages", ".balign 4096; 1: inc %al; call 2f; jmp 1b; .balign 4096; 2: dec %cl; ret")
LOOP_ANY("r10 r11 r15", "1: inc %r10b; mov %r10, %r11; add %r11, %r15; and $0xff, %r15d; lea (%r10,%r15), %r11; jmp 1b")
LOOP_ANY("r10 in memory",
         "lea cells(%rip), %r15; 1: incb (%r15); movzbl (%r15), %r10d; mov %r10, %r11; push %r11; pop %r10; jmp 1b")
LOOP_RING3("stack", "1: push %rax; push $5; pop %rcx; popq cells(%rip); sub $64, %rsp; lea 64(%rsp), %rsp; jmp 1b")
LOOP_RING3("enter leave", "1: enter $32, $0; inc %al; mov %al, -8(%rbp); leave; jmp 1b")
LOOP_RING3("rsp counts",
           "mov %rsp, %rbp; 1: sub $8, %rsp; lea 256(%rsp), %rax; cmp %rax, %rbp; jne 1b; mov %rbp, %rsp; jmp 1b")
LOOP_ANY("high bytes",
         "1: inc %ah; add %ah, %bl; mov %bl, %dh; and $15, %dh; and $31, %bl; mov %dh, cells(%rip); jmp 1b")
LOOP_ANY("mul div",
         "1: inc %cl; or $1, %cl; mov $200, %eax; mul %cl; xor %edx, %edx; movzbl %cl, %ecx; div %ecx; jmp 1b")
LOOP_ANY("vectors",
         "1: inc %al; movq %rax, %xmm0; paddb %xmm0, %xmm0; movq %xmm0, %rcx; movq %xmm0, cells(%rip); jmp 1b")
LOOP_ANY("x87", "fninit; 1: fildl cells(%rip); fistpl cells+4(%rip); incb cells(%rip); jmp 1b")
LOOP_CHANGING("changes itself", "1: mov $0, %al; incb 1b+1(%rip); jmp 1b")
LOOP_ANY("long block", "1: .rept 100; inc %al; rol $1, %cl; xor %al, %cl; .endr; xor %ecx, %ecx; and $7, %al; jmp 1b")
LOOP_ANY("long block on memory",
         "1: .rept 60; incb cells(%rip); mov cells(%rip), %al; .endr; andb $3, cells(%rip); jmp 1b")
LOOP_RING0("cli sti", "1: cli; inc %al; sti; nop; nop; jmp 1b")
LOOP_RING0("cr3", "1: mov %cr3, %rax; mov %rax, %cr3; inc %cl; jmp 1b")
LOOP_RING0("invlpg", "lea cells(%rip), %rbx; 1: invlpg (%rbx); incb (%rbx); mov (%rbx), %al; jmp 1b")
LOOP_RING0("port", "1: inc %al; out %al, $0x80; jmp 1b")
LOOP_RING0("cpuid", "1: xor %eax, %eax; xor %ecx, %ecx; cpuid; inc %r8b; jmp 1b")
LOOP_RING0("far return", "1: mov %cs, %eax; push %rax; lea 2f(%rip), %rcx; push %rcx; lretq; 2: inc %dl; jmp 1b")
LOOP_RING0("iret", "1: mov %ss, %eax; lea -64(%rsp), %rbx; push %rax; push %rsp; pushfq; mov %cs, %eax; push %rax; "
                   "lea 2f(%rip), %rcx; push %rcx; addq $8, 24(%rsp); iretq; 2: inc %dl; jmp 1b")
LOOP_COMPAT("compatibility: dec jnz", "1: mov $50, %ecx; 2: dec %ecx; jnz 2b; jmp 1b")
LOOP_COMPAT("compatibility: memory", "1: incb cells; movzbl cells, %eax; mov %eax, cells + 4; jmp 1b")
LOOP_COMPAT("compatibility: calls", "1: call 2f; inc %al; jmp 1b; 2: push %eax; pusha; popa; pop %ecx; ret")
LOOP_COMPAT("compatibility: strings",
            "1: mov $string_a, %esi; mov $string_b + 4090, %edi; mov $40, %ecx; rep movsb; jmp 1b")
LOOP_COMPAT("compatibility: inc dec", "1: inc %eax; .byte 0x49; and $63, %eax; and $63, %ecx; jmp 1b")

__asm__(".pushsection .rodata.loops, \"a\"; .globl loops_end; loops_end: .popsection");

// --- states -------------------------------------------------------------------------------------------------------------

static const struct loop *running;
static bool ring3;
static u64 states[MAX_STATES];
static unsigned state_count, strange, taken;
static bool overflow;
static u8 loop_stack[2][8192] __attribute__((aligned(4096)));

static u64 mix(u64 h, u64 v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static u64 hash_of(const struct trap_frame *f)
{
    const u64 *reg = (const u64 *)f;
    u64 h = 1, cell;
    __builtin_memcpy(&cell, cells, 8);
    for (unsigned i = 0; i < 15; i++)
        h = mix(h, reg[i]);
    h = mix(mix(h, f->sp), f->ip);
    h = mix(mix(h, f->cs), f->flags & ~(u64)(FL_TF | FL_RF));
    h = mix(mix(h, cell), *(const volatile u64 *)running->code);
    for (unsigned i = 0; i < 3; i++)
        h = mix(h, ((const u64 *)f->sp)[i] & ~(u64)(FL_TF | FL_RF));
    return h ? h : 1;
}

// Find it, or put it in. True: it was there.
static bool look_up(u64 h, bool insert)
{
    unsigned at = (unsigned)(h % MAX_STATES);
    for (; states[at]; at = (at + 1) % MAX_STATES)
        if (states[at] == h)
            return true;
    if (insert) {
        states[at] = h;
        state_count++;
    }
    return false;
}

static bool on_step(struct trap_frame *f)
{
    if (state_count > MAX_STATES * 3 / 4) {
        overflow = true;
        return false;
    }
    return !look_up(hash_of(f), true);
}

static u32 seed = 12345;

static u32 next_random(void)
{
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

static void lapic_write(unsigned reg, u32 val)
{
    *(volatile u32 *)(LAPIC + reg) = val;
}

static u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

// Ticks of the timer in some 1000 of the TSC.
static u32 ticks;

static void calibrate(void)
{
    u64 start = rdtsc();
    lapic_write(0x320, 0x10000 | VEC_TIMER);
    lapic_write(0x380, ~0u);
    while (rdtsc() - start < 1000000)
        ;
    ticks = (~0u - *(volatile u32 *)(LAPIC + 0x390)) / 1000;
    lapic_write(0x380, 0);
    lapic_write(0x320, VEC_TIMER);
}

// In some microseconds.
static void arm(void)
{
    u32 t = ticks * (1000 + next_random() % 4000) / 1000;
    lapic_write(0x380, t ? t : 1);
}

static bool on_timer(struct trap_frame *f)
{
    taken++;
    lapic_write(0xb0, 0);
    if (f->ip != (u64)running->code && !look_up(hash_of(f), false) && strange++ < 2) {
        print(
            "%s, ring %d: never at %lx: ax %lx cx %lx dx %lx bx %lx sp %lx bp %lx si %lx di %lx flags %lx cells %lx\n",
            running->name, ring3 ? 3 : 0, (unsigned long)(f->ip - (u64)running->code), (unsigned long)f->rax,
            (unsigned long)f->rcx, (unsigned long)f->rdx, (unsigned long)f->rbx, (unsigned long)f->sp,
            (unsigned long)f->rbp, (unsigned long)f->rsi, (unsigned long)f->rdi, (unsigned long)f->flags,
            *(unsigned long *)cells);
        print("  r8 %lx r9 %lx r10 %lx r11 %lx r12 %lx r13 %lx r14 %lx r15 %lx\n", (unsigned long)f->r8,
              (unsigned long)f->r9, (unsigned long)f->r10, (unsigned long)f->r11, (unsigned long)f->r12,
              (unsigned long)f->r13, (unsigned long)f->r14, (unsigned long)f->r15);
    }
    if (taken == INTERRUPTS)
        return false;
    arm();
    return true;
}

// --- running ------------------------------------------------------------------------------------------------------------

__attribute__((noinline)) static void enter(const struct loop *l, u64 flags)
{
    struct {
        u64 ip, cs, flags, sp, ss;
    } frame;
    frame.ip = (u64)l->code;
    frame.cs = l->kind == COMPAT ? (ring3 ? SEL_UCODE32 : SEL_CODE32) : (ring3 ? SEL_UCODE : SEL_CODE);
    frame.flags = flags | 2;
    frame.sp = (u64)loop_stack[ring3] + sizeof loop_stack[0] - 64;
    frame.ss = ring3 ? SEL_UDATA : SEL_DATA;
    *(volatile u64 *)cells = 0;
    if (l->kind == CHANGING)
        *(volatile u8 *)(l->code + 2) = 0;
    TRY(__asm__ volatile("mov %0, %%rsp\n"
                         "mov %1, %%ds; mov %1, %%es\n"
                         "xor %%eax, %%eax; xor %%ecx, %%ecx; xor %%edx, %%edx; xor %%ebx, %%ebx; xor %%ebp, %%ebp\n"
                         "xor %%esi, %%esi; xor %%edi, %%edi; xor %%r8d, %%r8d; xor %%r9d, %%r9d; xor %%r10d, %%r10d\n"
                         "xor %%r11d, %%r11d; xor %%r12d, %%r12d; xor %%r13d, %%r13d; xor %%r14d, %%r14d\n"
                         "xor %%r15d, %%r15d; iretq" ::"r"(&frame),
                         "r"((u32)frame.ss)
                         : "memory"));
}

static void run(const struct loop *l)
{
    running = l;
    state_count = strange = taken = 0;
    overflow = false;
    for (unsigned i = 0; i < MAX_STATES; i++)
        states[i] = 0;
    enter(l, FL_TF | FL_IF);
    check_at(trap.vector == 1 && !overflow, __FILE__, __LINE__, "%s, ring %d: trap %d at %lx after %u steps", l->name,
             ring3 ? 3 : 0, trap.vector, (unsigned long)(trap.ip - (u64)l->code), state_count);
    arm();
    enter(l, FL_IF);
    check_at(trap.vector == VEC_TIMER && taken == INTERRUPTS, __FILE__, __LINE__, "%s, ring %d: trap %d at %lx",
             l->name, ring3 ? 3 : 0, trap.vector, (unsigned long)(trap.ip - (u64)l->code));
    check_at(strange == 0, __FILE__, __LINE__, "%s, ring %d: %u of %u interrupts in a state that does not exist",
             l->name, ring3 ? 3 : 0, strange, taken);
}

void guest_main(void)
{
    for (unsigned i = 0; i < sizeof string_a; i++)
        string_a[i] = (u8)(i % 64 == 0 ? 1 : 2 + i % 3);
    trap_handler[1] = on_step;
    trap_handler[VEC_TIMER] = on_timer;
    lapic_write(0xf0, 0x1ff);
    lapic_write(0x3e0, 0xb);
    calibrate();
    for (const struct loop *l = loops; l < loops_end; l++)
        for (unsigned r = l->kind == RING3; r < (l->kind == RING0 ? 1 : 2); r++) {
            ring3 = r;
            run(l);
        }
}
