// A hostile debugger: any bytes on the wire, against a machine that really runs when it is told to. Whatever is asked, nothing is
// read or written outside the guest, the processor's state stays one that cpu_check() allows, and it can be run.
//
// The first byte of an input chooses the processor's mode and how the rest is taken: as it is, or as packets that end at each
// newline, which need no frame and no checksum then.
#include "cli/gdb_session.h"
#include "lib/testvm.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RAM 0x10000u
#define PML4 0x1000u // and the levels below on the pages that follow; the first 2 MiB are mapped twice
#define CODE 0x8000u

static struct testvm *t;
static struct gdb_session session;
static bool go;

static void wire(void *self, const void *buf, size_t len)
{
    (void)self;
    if (!len || len > GDB_FRAME_MAX || (len > 1 && *(const char *)buf != '$'))
        abort();
}

static void stop(void *self)
{
    (void)self;
    go = false;
}

static void resume(void *self, u64 cpus)
{
    (void)self;
    if (cpus != 1)
        abort();
    go = true;
}

static void nothing(void *self)
{
    (void)self;
}

static void monitor(void *self, const char *command)
{
    (void)self;
    gdb_session_print(&session, command, strlen(command));
}

static const struct gdb_ops ops = {wire, stop, resume, nothing, nothing, monitor};

static void check(void)
{
    const char *broken = cpu_check(&t->v->cpu);
    if (broken) {
        fprintf(stderr, "%s\n", broken);
        abort();
    }
}

// Let the machine run a little, if it is to, and tell the session why it stopped.
static void run(void)
{
    check();
    if (!go)
        return;
    struct vm_exit e = testvm_run(t, 50);
    check();
    go = false;
    if (e.reason == VM_EXIT_DEBUG)
        gdb_session_stopped(&session, t->v, &e);
    else
        gdb_session_stopped(&session, NULL, NULL);
}

static void enter(bool is_long)
{
    static const u64 entries[][2] = {{PML4, PML4 + 0x1003},
                                     {PML4 + 0xff8, PML4 + 0x1003},
                                     {PML4 + 0x1000, PML4 + 0x2003},
                                     {PML4 + 0x1ff0, PML4 + 0x2003},
                                     {PML4 + 0x2000, 0x83}};
    struct cpu *c = &t->v->cpu;
    memset(t->ram, 0, RAM);
    memset(t->ram + CODE, 0x90, 0x100);
    cpu_reset(c, true);
    c->seg[X86_CS].base = 0;
    c->rip = CODE;
    if (is_long) {
        for (size_t i = 0; i < ARRAY_LEN(entries); i++)
            memcpy(t->ram + entries[i][0], &entries[i][1], 8);
        c->cr0 |= X86_CR0_PE | X86_CR0_PG;
        c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
        c->cr3 = PML4;
        c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
        c->seg[X86_CS].attr |= X86_SEG_L;
    }
    mmu_state_changed(t->v);
    atomic_store(&t->v->request, 0);
}

static void feed(const u8 *buf, size_t len)
{
    gdb_session_input(&session, buf, len);
    run();
}

static void feed_packets(const u8 *data, size_t size)
{
    feed((const u8 *)"$QStartNoAckMode#b0", 19);
    while (size && session.open) {
        const u8 *end = memchr(data, '\n', size);
        size_t len = end ? (size_t)(end - data) : size;
        gdb_session_input(&session, (const u8 *)"$", 1);
        gdb_session_input(&session, data, len);
        feed((const u8 *)"#00", 3);
        len += end != NULL;
        data += len;
        size -= len;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    if (!t) {
        t = testvm_create("interp", RAM, NULL);
        gdb_session_init(&session, t->machine, &ops, NULL);
    }
    if (!size)
        return 0;
    enter(data[0] & 1);
    go = false;
    gdb_session_open(&session);
    if (data[0] & 2)
        feed(data + 1, size - 1);
    else
        feed_packets(data + 1, size - 1);
    gdb_session_close(&session);
    if (t->machine->debug.break_count || t->machine->debug.watch_count || t->v->debug_step)
        abort();
    return 0;
}
