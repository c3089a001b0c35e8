// Faults of programs: which signal, what the handler is told, and that the instruction has changed nothing.
#include "trial.h"

#define EFL_KNOWN 0x8d5 // the flags of arithmetic

enum argument { NOTHING, READ_ONLY, NO_ACCESS, ODD, EDGE, EDGE_READ_ONLY, NO_CODE, STRANGE };
enum place { ZERO, HERE, THERE, BEHIND }; // si_addr: 0, the instruction, the argument, the page behind the argument

// name, before, the instruction that faults, after, argument, signal, si_code, si_addr, exception
#define SNIPPETS(X) \
    X(div0, "xorl %edx,%edx; movl $5,%eax; xorl %ecx,%ecx", "divl %ecx", "", NOTHING, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(idiv_overflow, "movl $0x80000000,%eax; movl $-1,%edx; movl $-1,%ecx", "idivl %ecx", "", NOTHING, SIGFPE, \
      FPE_INTDIV, HERE, 0) \
    X(div8, "movl $0x1234,%eax; movb $2,%cl", "divb %cl", "", NOTHING, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(idiv16, "movw $0x7fff,%dx; movw $3,%cx", "idivw %cx", "", NOTHING, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(div_memory, "xorl %eax,%eax; cltd; " ZERO_ARG, "divl (" R(di) ")", "", EDGE, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(ud2, "", "ud2", "", NOTHING, SIGILL, ILL_ILLOPN, HERE, 6) \
    X(lock_mov, "", ".byte 0xf0,0x89,0xc0", "", NOTHING, SIGILL, ILL_ILLOPN, HERE, 6) \
    X(hlt, "", "hlt", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(cli, "", "cli", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(sti, "", "sti", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(in, "movl $0x80,%edx", "inb %dx,%al", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(out, "", "outb %al,$0x80", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(read_cr0, "", "mov %cr0," R(ax), "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(read_dr7, "", "mov %dr7," R(ax), "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(lgdt, "", "lgdt (" R(sp) ")", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(wrmsr, "movl $0x174,%ecx", "wrmsr", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(invlpg, "", "invlpg (" R(sp) ")", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(int_hole, "", "int $0x60", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(bad_ds, "movl $0xfff8,%eax", "movl %eax,%ds", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(null_ss, "xorl %eax,%eax", "movl %eax,%ss", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(read_none, "", "movl (" R(di) "),%eax", "", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(write_read_only, "", "movl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(add_read_only, "", "addl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(lock_add, "", "lock addl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(adc_read_only, "stc", "adcw $7,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(neg_read_only, "", "negb (" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(shl_read_only, "", "shll $3,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(bts_read_only, "xorl %eax,%eax", "btsl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(xchg_read_only, "", "xchgl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(xadd_read_only, "", "xaddl %eax,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(cmpxchg_differs, "movl $-5,%eax", "cmpxchgl %ecx,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(cmpxchg8b_differs, "movl $-5,%eax", "cmpxchg8b (" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(setc_read_only, "", "setc (" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(pop_read_only, "push " R(ax), "pop (" R(di) ")", "lea " POPPED "(" R(sp) ")," R(sp), READ_ONLY, SIGSEGV, \
      SEGV_ACCERR, THERE, 14) \
    X(push_none, "", "push (" R(di) ")", "", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(fst_read_only, "fld1", "fstpl (" R(di) ")", "fstp %st(0)", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(movups_read_only, "", "movups %xmm0,(" R(di) ")", "", READ_ONLY, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(edge_word, "", "movw %ax,-1(" R(di) ")", "", EDGE, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_long, "", "movl %eax,-3(" R(di) ")", "", EDGE, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_read, "", "movl -1(" R(di) "),%eax", "", EDGE, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_movq, "", "movq %xmm0,-5(" R(di) ")", "", EDGE, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_movups, "", "movups %xmm0,-15(" R(di) ")", "", EDGE_READ_ONLY, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_add, "", "addl $1,-2(" R(di) ")", "", EDGE_READ_ONLY, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_xchg, "", "xchgl %eax,-2(" R(di) ")", "", EDGE_READ_ONLY, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_fstp, "fld1", "fstpl -4(" R(di) ")", "fstp %st(0)", EDGE_READ_ONLY, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(edge_movs, "mov " R(sp) "," R(si), "movsl", "", EDGE, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(movaps_odd, "", "movaps (" R(di) "),%xmm1", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(movaps_odd_store, "", "movaps %xmm1,(" R(di) ")", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(addps_odd, "", "addps (" R(di) "),%xmm1", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(movntdq_odd, "", "movntdq %xmm1,(" R(di) ")", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(fxsave_odd, "", "fxsave (" R(di) ")", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(jump_none, "", "jmp *" R(di), "", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(jump_no_code, "", "jmp *" R(di), "", NO_CODE, SIGSEGV, SEGV_ACCERR, THERE, 14)

#ifdef __x86_64__
#define ZERO_ARG "sub $8,%rdi; movl $0,(%rdi)"
#define POPPED "8"
#define SNIPPETS_BITS(X) \
    X(div64, "movq $-1,%rdx; movq $3,%rcx", "divq %rcx", "", NOTHING, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(push_es, "", ".byte 0x06", "", NOTHING, SIGILL, ILL_ILLOPN, HERE, 6) \
    X(strange_load, "", "movl (%rdi),%eax", "", STRANGE, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(strange_store, "", "movups %xmm0,64(%rdi)", "", STRANGE, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(strange_push, "mov %rsp,%rax; mov %rdi,%rsp", "push %rcx", "mov %rax,%rsp", STRANGE, SIGBUS, SI_KERNEL, ZERO, \
      12) \
    X(strange_rbp, "push %rbp; mov %rdi,%rbp", "mov %eax,8(%rbp)", "pop %rbp", STRANGE, SIGBUS, SI_KERNEL, ZERO, 12) \
    X(strange_ret, "push %rdi", "ret", "pop %rdi", STRANGE, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(strange_jump, "", "jmp *%rdi", "", STRANGE, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(strange_call, "", "call *%rdi", "", STRANGE, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(cmpxchg16b_odd, "", "cmpxchg16b (%rdi)", "", ODD, SIGSEGV, SI_KERNEL, ZERO, 13) \
    X(edge_quad, "", "movq %rax,-7(%rdi)", "", EDGE_READ_ONLY, SIGSEGV, SEGV_ACCERR, BEHIND, 14) \
    X(push_stack, "mov %rsp,%rax; lea 8(%rdi),%rsp", "push %rcx", "mov %rax,%rsp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, \
      THERE, 14) \
    X(call_stack, "mov %rsp,%rax; lea 8(%rdi),%rsp", "call .", "mov %rax,%rsp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, \
      THERE, 14) \
    X(ret_stack, "mov %rsp,%rax; mov %rdi,%rsp", "ret", "mov %rax,%rsp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(leave_stack, "push %rbp; mov %rsp,%rax; mov %rdi,%rbp", "leave", "mov %rax,%rsp; pop %rbp", NO_ACCESS, SIGSEGV, \
      SEGV_ACCERR, THERE, 14)
#else
#define ZERO_ARG "sub $8,%edi; movl $0,(%edi)"
#define POPPED "4"
#define SNIPPETS_BITS(X) \
    X(aam0, "", "aam $0", "", NOTHING, SIGFPE, FPE_INTDIV, HERE, 0) \
    X(into, "movb $0x7f,%al; addb $1,%al", "into; nop", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 4) \
    X(push_stack, "mov %esp,%eax; lea 4(%edi),%esp", "push %ecx", "mov %eax,%esp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, \
      THERE, 14) \
    X(call_stack, "mov %esp,%eax; lea 4(%edi),%esp", "call .", "mov %eax,%esp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, \
      THERE, 14) \
    X(ret_stack, "mov %esp,%eax; mov %edi,%esp", "ret", "mov %eax,%esp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(popa_stack, "mov %esp,%eax; mov %edi,%esp", "popa", "mov %eax,%esp", NO_ACCESS, SIGSEGV, SEGV_ACCERR, THERE, 14) \
    X(bad_gs, "movl $0x1230,%eax", "movl %eax,%es", "", NOTHING, SIGSEGV, SI_KERNEL, ZERO, 13)
#endif

#define SNIPPET_CODE(name, before, insn, after, ...) \
    __asm__(".text\nsnip_" #name ": " before "\nsnip_at_" #name ": " insn "\nsnip_out_" #name ": " after "\nret\n"); \
    extern const char snip_##name[], snip_at_##name[], snip_out_##name[];
SNIPPETS(SNIPPET_CODE)
SNIPPETS_BITS(SNIPPET_CODE)

static const struct snippet {
    const char *name, *code, *at, *out;
    enum argument argument;
    int sig, si_code;
    enum place place;
    int vector;
} snippets[] = {
#define SNIPPET_ROW(name, before, insn, after, ...) {#name, snip_##name, snip_at_##name, snip_out_##name, __VA_ARGS__},
    SNIPPETS(SNIPPET_ROW) SNIPPETS_BITS(SNIPPET_ROW)};

static struct {
    volatile int count, sig, code;
    volatile uintptr_t addr, ip, sp, ax, cx, si, di, flags, vector, error;
    uintptr_t out; // where the handler goes on; 0: where it was
    void (*mend)(void);
} seen;

static void look(int sig, siginfo_t *info, void *uc)
{
    greg_t *g = ((ucontext_t *)uc)->uc_mcontext.gregs;
    seen.sig = sig;
    seen.code = info->si_code;
    seen.addr = (uintptr_t)info->si_addr;
    seen.ip = (uintptr_t)CTX(uc, IP);
    seen.sp = (uintptr_t)CTX(uc, SP);
    seen.ax = (uintptr_t)CTX(uc, AX);
    seen.cx = (uintptr_t)CTX(uc, CX);
    seen.si = (uintptr_t)CTX(uc, SI);
    seen.di = (uintptr_t)CTX(uc, DI);
    seen.flags = (uintptr_t)g[REG_EFL];
    seen.vector = (uintptr_t)g[REG_TRAPNO];
    seen.error = (uintptr_t)g[REG_ERR];
    if (++seen.count > 100)
        fail("signal %d again and again at %lx for %lx", sig, (long)seen.ip, (long)seen.addr);
    g[REG_EFL] &= ~(greg_t)FLAG_AC;
    if (seen.out)
        CTX(uc, IP) = (greg_t)seen.out;
    if (seen.mend)
        seen.mend();
}

static void look_at_faults(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    own_signal_stack();
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        handle(signals[i], look, SA_ONSTACK);
}

// Pages of each kind: some that may be written, some read-only, some not to be touched.
static char *pages, *pages_read_only, *pages_none;

static void make_pages(void)
{
    pages = map(NULL, 6 * PAGE, PROT_READ | PROT_WRITE);
    memset(pages, 0x5a, 6 * PAGE);
    pages_read_only = pages + 2 * PAGE;
    pages_none = pages + 4 * PAGE;
    protect(pages_read_only, PAGE, PROT_READ);
    protect(pages_none, PAGE, PROT_NONE);
}

static uintptr_t argument(enum argument a)
{
    switch (a) {
    case READ_ONLY: return (uintptr_t)pages_read_only + 128;
    case NO_ACCESS: return (uintptr_t)pages_none + 64;
    case ODD: return (uintptr_t)pages + 8 + 1;
    case EDGE: return (uintptr_t)pages_none;
    case EDGE_READ_ONLY: return (uintptr_t)pages_read_only;
    case NO_CODE: return (uintptr_t)pages + 32;
    case STRANGE: return (uintptr_t)0x800000000000ull + 0x1000;
    default: return 0;
    }
}

// Are the pages as they were?
static void pages_unchanged(const char *name)
{
    static char want[PAGE];
    memset(want, 0x5a, PAGE);
    for (unsigned i = 0; i < 6; i++)
        if (i != 4 && memcmp(pages + i * PAGE, want, PAGE - 8))
            fail("%s: page %u has changed", name, i);
}

static void try_snippet(const struct snippet *s)
{
    uintptr_t arg = argument(s->argument), addr = 0, at = (uintptr_t)s->at;
    seen.count = 0;
    seen.out = (uintptr_t)s->out;
    call_with(s->code, arg);
    if (s->place == HERE)
        addr = at;
    else if (s->place == THERE)
        addr = arg;
    else if (s->place == BEHIND)
        addr = arg;
    if (!strncmp(s->name, "jump_", 5))
        at = arg;
    if (!strcmp(s->name, "into"))
        at++;
    if (seen.count != 1)
        fail("%s: %d signals", s->name, seen.count);
    if (seen.sig != s->sig || seen.code != s->si_code || seen.ip != at || seen.vector != (uintptr_t)s->vector)
        fail("%s: signal %d code %d at %lx vector %lx, not %d %d at %lx", s->name, seen.sig, seen.code, (long)seen.ip,
             (long)seen.vector, s->sig, s->si_code, (long)at);
    if (seen.addr != addr)
        fail("%s: address %lx, not %lx", s->name, (long)seen.addr, (long)addr);
    pages_unchanged(s->name);
}

// Each kind many times in a row, so that the code is hot, and all kinds in turn.
static u64 try_snippets(bool addresses)
{
    u64 n = 0;
    look_at_faults();
    make_pages();
    do {
        for (unsigned i = 0; i < ARRAY_SIZE(snippets); i++)
            for (unsigned k = 0; k < 30 && (snippets[i].vector == 14) == addresses; k++)
                try_snippet(&snippets[i]);
        n++;
    } while (more());
    return n;
}

u64 trial_divide_and_trap(void)
{
    return try_snippets(false);
}

u64 trial_bad_addresses(void)
{
    return try_snippets(true);
}

// --- stores of which a part could be done -----------------------------------------------------------------------------------

// Every distance from the end of the page, with what the instruction found in memory and flags left alone.
#define HALF_CODE(name, insn, size) \
    __asm__(".text\nhalf_" #name ": movl $0x01234567,%eax; movl $0x5a5a5a5a,%ecx; stc\nhalf_at_" #name ": " insn \
            "\nhalf_out_" #name ": ret\n"); \
    extern const char half_##name[], half_at_##name[], half_out_##name[];
#define HALVES(X) \
    X(mov2, "movw %ax,(" R(di) ")", 2) \
    X(mov4, "movl %eax,(" R(di) ")", 4) \
    X(imm4, "movl $0x77,(" R(di) ")", 4) \
    X(rmw4, "adcl %eax,(" R(di) ")", 4) \
    X(inc2, "incw (" R(di) ")", 2) \
    X(lock4, "lock orl %eax,(" R(di) ")", 4) \
    X(xchg4, "xchgl %eax,(" R(di) ")", 4) \
    X(xadd4, "lock xaddl %eax,(" R(di) ")", 4) \
    X(shld4, "shldl $5,%eax,(" R(di) ")", 4) \
    X(stos4, "stosl", 4) \
    X(movlps8, "movlps %xmm0,(" R(di) ")", 8) \
    X(fist8, "fistpll (" R(di) ")", 8) \
    X(fbstp10, "fbstp (" R(di) ")", 10) \
    X(fstp10, "fstpt (" R(di) ")", 10) \
    X(movdqu16, "movdqu %xmm0,(" R(di) ")", 16) \
    X(fnsave, "fnsave (" R(di) ")", 108)
HALVES(HALF_CODE)

static const struct half {
    const char *name, *code, *at, *out;
    unsigned size;
} halves[] = {
#define HALF_ROW(name, insn, size) {#name, half_##name, half_at_##name, half_out_##name, size},
    HALVES(HALF_ROW)};

static void try_half(const struct half *h, char *edge, unsigned inside)
{
    seen.count = 0;
    seen.out = (uintptr_t)h->out;
    __asm__ volatile("fninit; fldpi" ::: "memory");
    call_with(h->code, (uintptr_t)edge - inside);
    if (seen.count != 1 || seen.sig != SIGSEGV || seen.code != SEGV_ACCERR || seen.ip != (uintptr_t)h->at)
        fail("%s with %u bytes inside: %d signals, %d at %lx", h->name, inside, seen.count, seen.sig, (long)seen.ip);
    // A store of many parts may have begun: it names a byte of the page all the same.
    if (seen.addr < (uintptr_t)edge || seen.addr >= (uintptr_t)edge + h->size)
        fail("%s with %u bytes inside: address %lx, not %p", h->name, inside, (long)seen.addr, (void *)edge);
    if (seen.ax != 0x01234567 || seen.di != (uintptr_t)edge - inside || !(seen.flags & FLAG_CF))
        fail("%s with %u bytes inside changed registers: %lx %lx %lx", h->name, inside, (long)seen.ax, (long)seen.di,
             (long)seen.flags);
    for (unsigned i = 1; i <= inside && h->size <= 16; i++)
        if (edge[-(int)i] != 0x5a)
            fail("%s stored a part of what it could not store", h->name);
}

u64 trial_half_stores(void)
{
    u64 n = 0;
    look_at_faults();
    make_pages();
    do {
        for (unsigned i = 0; i < ARRAY_SIZE(halves); i++)
            for (unsigned inside = 0; inside < halves[i].size; inside++) {
                try_half(&halves[i], pages_read_only, inside);
                try_half(&halves[i], pages_none, inside);
                memset(pages_none - 128, 0x5a, 128);
                memset(pages_read_only - 128, 0x5a, 128);
            }
        n++;
    } while (more());
    __asm__ volatile("fninit");
    return n;
}

// --- repeated string instructions that fault on their way --------------------------------------------------------------------

static char *page_to_open;

static void open_page(void)
{
    protect(page_to_open, PAGE, PROT_READ | PROT_WRITE);
}

// `code`, which is a string instruction with a prefix, reads (`from`) or writes over the boundary of a page that is opened when it has come there.
static void try_string(const char *code, char *area, unsigned unit, bool from, bool moves, bool down)
{
    bool to = !from;
    unsigned before = noise() % 600, after = 1 + noise() % 600;
    char *edge = area + PAGE, *source = area + 4 * PAGE;
    page_to_open = down ? edge - PAGE : edge;
    char *begin = down ? edge + ((long)before - 1) * unit : edge - before * unit;
    for (unsigned i = 0; i < 2 * PAGE; i++)
        source[i] = (char)(i * 7);
    memset(area, 0x11, 2 * PAGE);
    if (from)
        memcpy(area, source, 2 * PAGE);
    protect(page_to_open, PAGE, PROT_NONE);
    uintptr_t cx = before + after, si = (uintptr_t)begin, di = (uintptr_t)begin;
    if (!from)
        si = di - (uintptr_t)area + (uintptr_t)source;
    if (!to)
        di = si - (uintptr_t)area + (uintptr_t)source + 2 * PAGE;
    uintptr_t si0 = si, di0 = di;
    seen.count = 0;
    seen.out = 0;
    u32 ax = down;
    __asm__ volatile("test %%eax,%%eax; jz 1f; std; 1: call *%4; cld"
                     : "+c"(cx), "+S"(si), "+D"(di), "+a"(ax)
                     : "d"(code)
                     : "memory", "cc");
    long step = (down ? -1l : 1l) * (long)unit;
    uintptr_t side = from ? seen.si : seen.di, side0 = from ? si0 : di0;
    if (seen.count != 1 || seen.cx != after || side != side0 + (uintptr_t)(step * (long)before))
        fail("a string of units of %u: %d signals, %lu of %u left, at %lx from %lx", unit, seen.count, (long)seen.cx,
             after, (long)side, (long)side0);
    if (cx || (from ? si - si0 : di - di0) != (uintptr_t)(step * (long)(before + after)))
        fail("a string of units of %u ended with %lu left", unit, (long)cx);
    size_t size = (before + after) * unit, back = down ? size - unit : 0;
    if (moves && memcmp((char *)di0 - back, (char *)si0 - back, size))
        fail("a string of units of %u moved something else", unit);
}

#define STRING_CODE(name, insn) __asm__(".text\n" name ": " insn "; ret\n");
STRING_CODE("str_movsb", "rep movsb")
STRING_CODE("str_movsw", "rep movsw")
STRING_CODE("str_movsl", "rep movsl")
STRING_CODE("str_stosb", "rep stosb")
STRING_CODE("str_stosl", "rep stosl")
STRING_CODE("str_lodsw", "rep lodsw")
STRING_CODE("str_cmpsb", "repe cmpsb")
STRING_CODE("str_scasb", "movb $0x77,%al; repne scasb")
extern const char str_movsb[], str_movsw[], str_movsl[], str_stosb[], str_stosl[], str_lodsw[], str_cmpsb[],
    str_scasb[];

u64 trial_strings_that_fault(void)
{
    u64 n = 0;
    look_at_faults();
    seen.mend = open_page;
    char *area = map(NULL, 10 * PAGE, PROT_READ | PROT_WRITE);
    do {
        for (unsigned down = 0; down < 2; down++) {
            try_string(str_movsb, area, 1, true, true, down);
            try_string(str_movsb, area, 1, false, true, down);
            try_string(str_movsw, area, 2, true, true, down);
            try_string(str_movsl, area, 4, false, true, down);
            try_string(str_stosb, area, 1, false, false, down);
            try_string(str_stosl, area, 4, false, false, down);
            try_string(str_lodsw, area, 2, true, false, down);
            memset(area + 6 * PAGE, 0, 2 * PAGE);
            try_string(str_scasb, area, 1, false, false, down);
            for (unsigned i = 0; i < 2 * PAGE; i++)
                area[6 * PAGE + i] = (char)(i * 7);
            try_string(str_cmpsb, area, 1, true, false, down);
        }
        n++;
    } while (more());
    return n;
}

// --- faults whose reason the handler takes away ------------------------------------------------------------------------------

#define WINDOW 64
static char *window;

static void open_window(void)
{
    char *p = (char *)(seen.addr & ~(PAGE - 1));
    if (p < window || p >= window + WINDOW * PAGE)
        fail("a fault at %lx", (long)seen.addr);
    protect(p, PAGE, PROT_READ | PROT_WRITE);
}

// A memory of demand: each access faults once a page, and then goes through.
u64 trial_faults_mended(void)
{
    u64 n = 0;
    look_at_faults();
    seen.out = 0;
    seen.mend = open_window;
    window = map(NULL, WINDOW * PAGE, PROT_READ | PROT_WRITE);
    u8 *shadow = map(NULL, WINDOW * PAGE, PROT_READ | PROT_WRITE);
    do {
        madvise(window, WINDOW * PAGE, MADV_DONTNEED);
        memset(shadow, 0, WINDOW * PAGE);
        protect(window, WINDOW * PAGE, PROT_NONE);
        for (unsigned i = 0; i < 8 * WINDOW; i++) {
            size_t at = noise() % (WINDOW * PAGE - 8);
            u64 v = noise() * 0x100000001ull;
            seen.count = 0;
            *(volatile u64 *)(window + at) += v;
            *(volatile u64 *)(shadow + at) += v;
        }
        for (unsigned i = 0; i < WINDOW; i++) {
            seen.count = 0;
            if (memcmp(window + i * PAGE, shadow + i * PAGE, PAGE))
                fail("page %u is not what was stored there", i);
        }
        n++;
    } while (more());
    return n;
}
