// The host side: a child process that runs cases on the real processor.
//
// Parent and child share one mapping with two buffers of cases and results, and wake each other through futexes; while the
// child runs one buffer, the parent fills and checks the other. Inside the child nothing but the arena, the context page and the
// exit thunks lies below 4 GiB, and a seccomp filter leaves it futex, write to stderr and exit: whatever a random
// instruction does, it can only spoil this child, which the parent then replaces.
#include <asm/ldt.h>
#include <errno.h>
#include <immintrin.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "oracle/layout.h"
#include "oracle/native.h"
#include "oracle/oracle.h"

_Static_assert(offsetof(struct orc_state, xs) == ST_XS, "layout.h");
_Static_assert(offsetof(struct orc_state, gpr) == ST_GPR, "layout.h");
_Static_assert(offsetof(struct orc_state, rip) == ST_RIP, "layout.h");
_Static_assert(offsetof(struct orc_state, rflags) == ST_RFLAGS, "layout.h");
_Static_assert(offsetof(struct orc_state, fs_base) == ST_FS, "layout.h");
_Static_assert(offsetof(struct orc_state, gs_base) == ST_GS, "layout.h");
_Static_assert(offsetof(struct orc_state, sel) == ST_SEL, "layout.h");

struct native_ctx {
    u64 gpr[16];
    u64 rflags;
    u64 target;
    u64 host_rsp, host_fs, host_gs;
    u32 land, pad;
    u64 exit[2];
    u64 fs, gs;
    u16 sel[6];
    u16 pad2[2];
    u64 out_xs;
    u8 in_test, pad3[3];
    u8 segs, pad4[3];
    u32 env[7];
};
_Static_assert(offsetof(struct native_ctx, rflags) == CTX_RFLAGS, "layout.h");
_Static_assert(offsetof(struct native_ctx, target) == CTX_TARGET, "layout.h");
_Static_assert(offsetof(struct native_ctx, host_rsp) == CTX_HOST_RSP, "layout.h");
_Static_assert(offsetof(struct native_ctx, land) == CTX_LAND, "layout.h");
_Static_assert(offsetof(struct native_ctx, exit) == CTX_EXIT, "layout.h");
_Static_assert(offsetof(struct native_ctx, fs) == CTX_FS, "layout.h");
_Static_assert(offsetof(struct native_ctx, sel) == CTX_SEL, "layout.h");
_Static_assert(offsetof(struct native_ctx, out_xs) == CTX_OUT_XS, "layout.h");
_Static_assert(offsetof(struct native_ctx, in_test) == CTX_IN_TEST, "layout.h");
_Static_assert(offsetof(struct native_ctx, segs) == CTX_SEGS, "layout.h");
_Static_assert(offsetof(struct native_ctx, env) == CTX_ENV, "layout.h");

struct shared {
    _Atomic u32 request; // bumped by the parent
    _Atomic u32 done;    // bumped by the child
    _Atomic u32 current; // case being run
    u32 buffer, first, count;
};

struct orc_native {
    struct shared *sh;
    struct orc_case *cases[2];
    struct orc_result *results[2];
    unsigned batch;
    size_t size;
    u32 expected; // value of `done` that ends the submitted batch
    pid_t pid;
};

// The child's own.
static struct native_ctx *const ctx = (struct native_ctx *)CTX;
static u8 *alias; // read-write view of the arena
static struct orc_result *cur_result;

static long futex(_Atomic u32 *word, int op, u32 val, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, op, val, timeout, NULL, 0);
}

// --- child: set-up ------------------------------------------------------------------------------------------------------

static void die(const char *what)
{
    dprintf(2, "oracle: native child: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void map_arena(void)
{
    int fd = memfd_create("oracle-arena", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, ORC_ARENA_SIZE))
        die("memfd");
    alias = mmap(NULL, ORC_ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (alias == MAP_FAILED)
        die("mmap");
    memcpy(alias, orc_pristine, ORC_ARENA_SIZE);
    static const int prot[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC,
                               PROT_READ | PROT_WRITE | PROT_EXEC};
    for (unsigned i = 0; i < ORC_PAGES; i++) {
        if (orc_page_kind[i] == ORC_ABSENT)
            continue;
        u8 *at = (u8 *)(uintptr_t)(ORC_ARENA + i * 4096);
        if (mmap(at, 4096, prot[orc_page_kind[i]], MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, i * 4096) == MAP_FAILED)
            die("mmap of the arena");
        (void)*(volatile u8 *)at;
    }
    close(fd);
}

static void map_context(void)
{
    if (mmap(ctx, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        die("mmap of the context");
    memset(ctx, 0, sizeof *ctx);
    ctx->exit[0] = (u64)orc_native_exit0;
    ctx->exit[1] = (u64)orc_native_exit1;
    ctx->host_fs = _readfsbase_u64();
    ctx->host_gs = _readgsbase_u64();
    u8 *t = mmap((void *)THUNKS, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (t == MAP_FAILED)
        die("mmap of the exit thunks");
    for (unsigned i = 0; i < 2; i++) {
        u32 slot = CTX + CTX_EXIT + i * 8;
        memcpy(t + i * THUNK_SIZE, "\xff\x24\x25", 3); // jmp *abs32
        memcpy(t + i * THUNK_SIZE + 3, &slot, 4);
    }
    if (mprotect(t, 4096, PROT_READ | PROT_EXEC))
        die("mprotect");
}

static void set_ldt(void)
{
    for (unsigned i = 0; i < ORC_LDT_COUNT; i++) {
        const struct orc_ldt_desc *l = &orc_ldt[i];
        struct user_desc d = {.entry_number = i,
                              .base_addr = l->base,
                              .limit = l->limit,
                              .seg_32bit = l->seg_32bit,
                              .contents = (l->code ? 2 : 0) | (l->expdown_or_conforming ? 1 : 0),
                              .read_exec_only = !l->read_or_write,
                              .limit_in_pages = l->pages,
                              .seg_not_present = !l->present};
        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof d))
            die("modify_ldt");
    }
}

static void set_signals(void)
{
    static u8 stack[65536] __attribute__((aligned(64)));
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    if (sigaltstack(&ss, NULL))
        die("sigaltstack");
    struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))orc_native_signal;
    static const int sig[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP, SIGSYS};
    for (unsigned i = 0; i < ARRAY_LEN(sig); i++)
        sigaction(sig[i], &sa, NULL);
}

static void set_seccomp(void)
{
#define ALLOW_NR(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW_NR(SYS_futex),
        ALLOW_NR(SYS_exit_group),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
#undef ALLOW_NR
    struct sock_fprog p = {.len = ARRAY_LEN(f), .filter = f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
        die("seccomp");
}

// --- child: running -----------------------------------------------------------------------------------------------------

// From the signal entry: note the state of the frame.
void orc_native_fault(void *ucontext)
{
    const ucontext_t *uc = ucontext;
    const greg_t *g = uc->uc_mcontext.gregs;
    if (!ctx->in_test) {
        static const char msg[] = "oracle: native child: signal outside of a test\n";
        if (write(2, msg, sizeof msg - 1) < 0)
            _exit(3);
        _exit(2);
    }
    struct orc_result *r = cur_result;
    static const u8 order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    for (unsigned i = 0; i < 16; i++)
        r->out.gpr[i] = (u64)g[order[i]];
    r->out.rip = (u64)g[REG_RIP];
    r->out.rflags = (u64)g[REG_EFL];
    r->vector = (u8)g[REG_TRAPNO];
    r->error = (u32)g[REG_ERR];
    r->cr2 = r->vector == X86_EXC_PF ? (u64)g[REG_CR2] : 0;
    memcpy(&r->out.xs, uc->uc_mcontext.fpregs, sizeof r->out.xs);
    memcpy(r->out.sel, ctx->sel, sizeof r->out.sel);
    r->out.sel[X86_CS] = (u16)g[REG_CSGSFS];
    r->out.sel[X86_SS] = (u16)((u64)g[REG_CSGSFS] >> 48);
    r->out.fs_base = ctx->fs;
    r->out.gs_base = ctx->gs;
    r->x87_pointers = r->out.xs.fsw & X86_FSW_ES ? ORC_X87_XSAVE : ORC_X87_UNKNOWN;
}

// XSAVE on AMD processors gives the x87 pointers only while an exception is pending; FNSTENV always does.
static void read_pointers(struct orc_result *r)
{
    const u32 *w = ctx->env;
    r->x87_pointers = ORC_X87_ENV;
    r->out.xs.fip = w[3];
    r->out.xs.fop = w[4] >> 16 & 0x7ff;
    r->fcs = (u16)w[4];
    r->out.xs.fdp = w[5];
    r->fds = (u16)w[6];
}

static void run_once(const struct orc_case *c, struct orc_result *r)
{
    orc_place(alias, c, true);
    cur_result = r;
    ctx->out_xs = (u64)&r->out.xs;
    ctx->segs = c->mode != ISA_MODE_64 || (c->flags & ORC_F_SEGS);
    int way = ENTER_64;
    if (c->flags & ORC_F_SINGLE_STEP)
        way = c->mode == ISA_MODE_64 ? ENTER_IRET : ENTER_IRET_LEGACY;
    else if (c->mode != ISA_MODE_64)
        way = ENTER_FAR;
    ctx->target = c->in.rip | (way == ENTER_FAR ? (u64)c->in.sel[X86_CS] << 32 : 0);
    r->nlines = 0;
    r->overflow = 0;
    r->hang = 0;
    ctx->in_test = 1;
    if (orc_native_enter(&c->in, way)) {
        orc_normalise(c, r, ctx->exit);
    } else {
        memcpy(r->out.gpr, ctx->gpr, sizeof r->out.gpr);
        r->out.rflags = ctx->rflags;
        read_pointers(r);
        orc_completed(r, ORC_ARENA - orc_code_base(c) + c->land[ctx->land]);
        memcpy(r->out.sel, c->in.sel, sizeof r->out.sel);
        if (ctx->segs) {
            memcpy(r->out.sel, ctx->sel, sizeof r->out.sel);
            r->out.sel[X86_CS] = c->in.sel[X86_CS];
            r->out.fs_base = ctx->fs;
            r->out.gs_base = ctx->gs;
        }
    }
    if (!ctx->segs) {
        memcpy(r->out.sel, c->in.sel, sizeof r->out.sel);
        r->out.fs_base = c->in.fs_base;
        r->out.gs_base = c->in.gs_base;
    }
    orc_place(alias, c, false);
    orc_collect(alias, r);
}

// For the same reason a context switch in mid-case clears the pointers: then once more.
static void run_case(const struct orc_case *c, struct orc_result *r)
{
    for (unsigned tries = 0; tries < 3; tries++) {
        run_once(c, r);
        const struct x86_xsave *x = &r->out.xs;
        if (r->x87_pointers != ORC_X87_ENV || (x->fop && x->fip && x->fdp))
            return;
    }
}

static _Noreturn void child_main(struct orc_native *n)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    map_arena();
    map_context();
    set_ldt();
    set_signals();
    set_seccomp();
    struct shared *sh = n->sh;
    u32 seen = atomic_load(&sh->done);
    for (;;) {
        while (atomic_load(&sh->request) == seen)
            futex(&sh->request, FUTEX_WAIT, seen, NULL);
        seen++;
        unsigned end = sh->first + sh->count;
        for (unsigned i = sh->first; i < end; i++) {
            atomic_store_explicit(&sh->current, i, memory_order_relaxed);
            run_case(&n->cases[sh->buffer][i], &n->results[sh->buffer][i]);
        }
        atomic_store(&sh->done, seen);
        futex(&sh->done, FUTEX_WAKE, 1, NULL);
    }
}

// --- parent -------------------------------------------------------------------------------------------------------------

static int spawn(struct orc_native *n)
{
    atomic_store(&n->sh->request, 0);
    atomic_store(&n->sh->done, 0);
    n->expected = 0;
    n->pid = fork();
    if (n->pid == 0)
        child_main(n);
    return n->pid < 0 ? -errno : 0;
}

struct orc_native *orc_native_start(unsigned batch)
{
    struct orc_native *n = calloc(1, sizeof *n);
    size_t cases = batch * sizeof(struct orc_case), results = batch * sizeof(struct orc_result);
    if (!n)
        return NULL;
    n->batch = batch;
    n->size = 4096 + 2 * (cases + results);
    u8 *p = mmap(NULL, n->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("oracle: mmap");
        free(n);
        return NULL;
    }
    n->sh = (struct shared *)p;
    for (unsigned i = 0; i < 2; i++) {
        n->cases[i] = (struct orc_case *)(p + 4096 + i * (cases + results));
        n->results[i] = (struct orc_result *)(p + 4096 + i * (cases + results) + cases);
    }
    if (spawn(n)) {
        perror("oracle: fork");
        munmap(p, n->size);
        free(n);
        return NULL;
    }
    return n;
}

struct orc_case *orc_native_case(struct orc_native *n, unsigned buffer, unsigned i)
{
    return &n->cases[buffer][i];
}

struct orc_result *orc_native_result(struct orc_native *n, unsigned buffer, unsigned i)
{
    return &n->results[buffer][i];
}

void orc_native_submit(struct orc_native *n, unsigned buffer, unsigned first, unsigned count)
{
    n->sh->buffer = buffer;
    n->sh->first = first;
    n->sh->count = count;
    n->expected++;
    atomic_fetch_add(&n->sh->request, 1);
    futex(&n->sh->request, FUTEX_WAKE, 1, NULL);
}

void orc_native_resubmit(struct orc_native *n, unsigned first, unsigned count)
{
    orc_native_submit(n, n->sh->buffer, first, count);
}

// A child that makes no progress for this long hangs in one instruction.
#define HANG_SLICES 150
#define SLICE_NS 100000000

int orc_native_wait(struct orc_native *n)
{
    u32 last = ~0u;
    unsigned still = 0;
    for (;;) {
        u32 done = atomic_load(&n->sh->done);
        if (done == n->expected)
            return -1;
        struct timespec t = {0, SLICE_NS};
        long rc = futex(&n->sh->done, FUTEX_WAIT, done, &t);
        if (rc == 0 || errno != ETIMEDOUT)
            continue;
        int status;
        bool dead = waitpid(n->pid, &status, WNOHANG) == n->pid;
        u32 cur = atomic_load(&n->sh->current);
        still = cur == last ? still + 1 : 0;
        last = cur;
        if (!dead && still < HANG_SLICES)
            continue;
        if (!dead) {
            kill(n->pid, SIGKILL);
            waitpid(n->pid, &status, 0);
        }
        if (dead && WIFEXITED(status) && WEXITSTATUS(status) == 1) {
            fprintf(stderr, "oracle: the native child cannot be set up\n");
            _exit(2);
        }
        n->results[n->sh->buffer][cur].hang = dead ? 1 : 2;
        spawn(n);
        return (int)cur;
    }
}

bool orc_native_maps(const struct orc_native *n, u64 a)
{
    char path[32], line[512];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)n->pid);
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        unsigned long first, end;
        found = sscanf(line, "%lx-%lx", &first, &end) == 2 && a >= first && a < end;
    }
    if (f)
        fclose(f);
    return found;
}

void orc_native_stop(struct orc_native *n)
{
    kill(n->pid, SIGKILL);
    waitpid(n->pid, NULL, 0);
    munmap(n->sh, n->size);
    free(n);
}
