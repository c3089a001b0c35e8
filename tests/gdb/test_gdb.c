// gdb's remote protocol, scripted: what a client sends, what must come back, and what becomes of the machine.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/gdb_session.h"
#include "core/cpuid.h"
#include "core/debug.h"
#include "core/fake_host.h"

#define RAM (1u << 20)

// The other end: collects what the session sends and what it orders.
struct peer {
    struct fake_machine *f;
    struct vcpu second;
    struct gdb_session s;
    char out[4 * GDB_FRAME_MAX];
    size_t out_len;
    unsigned stops, resumes, kills, hang_ups;
    bool goes;   // the client is found to have gone when something is sent
    u64 resumed; // vCPUs of the last order to go on; 0: none since looked at
    char monitored[64];
};

static void peer_send(void *self, const void *buf, size_t len)
{
    struct peer *p = self;
    assert_true(p->out_len + len < sizeof(p->out));
    memcpy(p->out + p->out_len, buf, len);
    p->out_len += len;
    p->out[p->out_len] = 0;
    if (p->goes)
        gdb_session_close(&p->s);
}

static void peer_stop(void *self)
{
    ((struct peer *)self)->stops++;
}

static void peer_resume(void *self, u64 cpus)
{
    ((struct peer *)self)->resumed = cpus;
    ((struct peer *)self)->resumes++;
}

static void peer_kill(void *self)
{
    ((struct peer *)self)->kills++;
}

static void peer_hang_up(void *self)
{
    ((struct peer *)self)->hang_ups++;
}

static void peer_monitor(void *self, const char *command)
{
    struct peer *p = self;
    snprintf(p->monitored, sizeof(p->monitored), "%s", command);
    gdb_session_print(&p->s, "ab", 2);
}

static const struct gdb_ops ops = {peer_send, peer_stop, peer_resume, peer_kill, peer_hang_up, peer_monitor};

static struct peer *peer_new(void)
{
    struct peer *p = aligned_alloc(64, (sizeof(*p) + 63) & ~63ull);
    assert_non_null(p);
    memset(p, 0, sizeof(*p));
    p->f = fake_machine_new(RAM);
    vcpu_init(&p->second, &p->f->machine, 1, NULL);
    assert_int_equal(machine_add_vcpu(&p->f->machine, &p->second), 0);
    gdb_session_init(&p->s, &p->f->machine, &ops, p);
    return p;
}

static int setup(void **state)
{
    struct peer *p = peer_new();
    *state = p;
    gdb_session_open(&p->s);
    assert_int_equal(p->stops, 1);
    return 0;
}

static int teardown(void **state)
{
    struct peer *p = *state;
    fake_machine_free(p->f);
    free(p);
    return 0;
}

static void type(struct peer *p, const char *bytes, size_t len)
{
    p->out_len = 0;
    p->out[0] = 0;
    gdb_session_input(&p->s, (const u8 *)bytes, len);
}

// One packet with a right checksum.
static void packet(struct peer *p, const char *data, size_t len)
{
    char frame[GDB_FRAME_MAX + 8];
    u8 sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (u8)(sum + (u8)data[i]);
    frame[0] = '$';
    memcpy(frame + 1, data, len);
    snprintf(frame + 1 + len, 4, "#%02x", sum);
    type(p, frame, len + 4);
}

// The data of the only packet that was sent, "" also when it was none; acknowledgements and checksum are checked.
static const char *said(struct peer *p)
{
    static char data[GDB_FRAME_MAX];
    const char *at = p->out;
    u8 sum = 0;
    if (*at == '+')
        at++;
    if (*at != '$')
        return p->out_len == (size_t)(at - p->out) ? "(nothing)" : "(noise)";
    const char *end = strrchr(at, '#');
    assert_non_null(end);
    assert_int_equal(strlen(end), 3);
    for (const char *c = ++at; c < end; c++)
        sum = (u8)(sum + (u8)*c);
    assert_int_equal(strtoul(end + 1, NULL, 16), sum);
    snprintf(data, sizeof(data), "%.*s", (int)(end - at), at);
    return data;
}

static const char *ask(struct peer *p, const char *text)
{
    packet(p, text, strlen(text));
    return said(p);
}

#define EXPECT(request, reply) assert_string_equal(ask(p, request), reply)

// Register number by name, from the description that the client gets.
static unsigned reg(struct peer *p, const char *name)
{
    char what[32];
    unsigned n = 0;
    snprintf(what, sizeof(what), "<reg name=\"%s\"", name);
    const char *xml = p->s.regs.xml, *here = strstr(xml, what);
    assert_non_null(here);
    for (const char *r = xml; (r = strstr(r, "<reg ")) && r < here; r++)
        n++;
    return n;
}

static const char *read_reg(struct peer *p, const char *name)
{
    char text[32];
    snprintf(text, sizeof(text), "p%x", reg(p, name));
    return ask(p, text);
}

static const char *write_reg(struct peer *p, const char *name, const char *hex)
{
    char text[96];
    snprintf(text, sizeof(text), "P%x=%s", reg(p, name), hex);
    return ask(p, text);
}

// --- frames -----------------------------------------------------------------------------------------------------------------

static void test_frames(void **state)
{
    struct peer *p = *state;
    type(p, "++$qC#b4", 8);
    assert_string_equal(p->out, "+$QC1#c5");
    type(p, "-", 1); // lost: again
    assert_string_equal(p->out, "$QC1#c5");
    type(p, "$qC#b5", 6); // wrong sum
    assert_string_equal(p->out, "-");
    type(p, "$qC#xy", 6);
    assert_string_equal(p->out, "-");
    type(p, "noise$qC#B4", 11);
    assert_string_equal(p->out, "+$QC1#c5");
    type(p, "$q", 2); // in pieces
    assert_string_equal(p->out, "");
    type(p, "C#b", 3);
    type(p, "4", 1);
    assert_string_equal(p->out, "+$QC1#c5");
    type(p, "$#00", 4);
    assert_string_equal(p->out, "+$#00");
    EXPECT("QStartNoAckMode", "OK");
    type(p, "$qC#00$qC#b4", 12); // sums do not count any more
    assert_string_equal(p->out, "$QC1#c5$QC1#c5");
    type(p, "-", 1);
    assert_string_equal(p->out, "");
}

static void test_overlong(void **state)
{
    struct peer *p = *state;
    static char big[2 * GDB_PACKET_MAX];
    memset(big, 'm', sizeof(big));
    EXPECT("QStartNoAckMode", "OK");
    type(p, "$", 1);
    gdb_session_input(&p->s, (const u8 *)big, sizeof(big));
    type(p, "#00", 3);
    assert_string_equal(said(p), "E07");
    memset(big, '0', GDB_PACKET_MAX);
    big[0] = 'm';
    type(p, "$", 1);
    gdb_session_input(&p->s, (const u8 *)big, GDB_PACKET_MAX);
    type(p, "#00", 3);
    assert_string_equal(said(p), "E16");
}

static void test_malformed(void **state)
{
    struct peer *p = *state;
    static const char *const bad[] = {
        "m",
        "m0",
        "m0,",
        "m,4",
        "m0,4x",
        "m00000000000000000,4",
        "M0,2:00",
        "M0,1:0g",
        "M0,1:0000",
        "M0,1",
        "X0,2:a",
        "X0,1:ab",
        "X0,1:}",
        "X0,ffffffff:",
        "p",
        "pfff",
        "P",
        "P0",
        "P0=",
        "P0=00",
        "P0=00000000000000000000",
        "Pfff=00",
        "G",
        "G00",
        "Hg",
        "Hg3",
        "Hgx",
        "Hc99999999999999999",
        "T",
        "T3",
        "cx",
        "sx",
        "c1,2",
        "C",
        "C5;",
        "C5x",
        "vCont",
        "vCont;",
        "vCont;x",
        "vCont;c:9",
        "vCont;c:",
        "vCont;C",
        "vCont;c;",
        "Z",
        "Z0",
        "Z0,1",
        "Z0,1,",
        "Z2,0,0",
        "Z2,ffffffffffffffff,2",
        "z2,0",
        "qThreadExtraInfo,",
        "qThreadExtraInfo,7",
        "qThreadExtraInfo,-1",
        "qXfer:features:read:other.xml:0,10",
        "qXfer:features:read:target.xml:0",
        "qXfer:features:read:target.xml:fffffff,10",
        "qRcmd,0",
        "qRcmd,zz",
        "Qqemu.PhyMemMode:2",
        "Qqemu.sstep=0",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *reply = ask(p, bad[i]);
        if (reply[0] != 'E')
            fail_msg("%s: %s", bad[i], reply);
        assert_int_equal(p->resumed, 0);
    }
    static const char *const unknown[] = {
        "", "!", "R", "b", "Z5,0,1", "Hx1", "qCRC:0,1", "vMustReplyEmpty", "qXfer:auxv:read::0,1", "QStartNoAckModes"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        EXPECT(unknown[i], "");
}

// --- registers --------------------------------------------------------------------------------------------------------------

static void test_registers(void **state)
{
    struct peer *p = *state;
    struct cpu *c = &p->f->vcpu.cpu;
    c->gpr[X86_RBX] = 0x1122334455667788;
    c->gpr[X86_R15] = 0xf;
    c->msr.kernel_gs_base = 0x42;
    c->seg[X86_FS].base = 0xfb;
    EXPECT("p1", "8877665544332211");
    EXPECT("pf", "0f00000000000000");
    assert_string_equal(read_reg(p, "rip"), "f0ff000000000000");
    assert_string_equal(read_reg(p, "cs"), "00f00000");
    assert_string_equal(read_reg(p, "cs_base"), "0000ffff00000000");
    assert_string_equal(read_reg(p, "fs_base"), "fb00000000000000");
    assert_string_equal(read_reg(p, "k_gs_base"), "4200000000000000");
    assert_string_equal(read_reg(p, "cr0"), "1000006000000000");
    assert_string_equal(read_reg(p, "ftag"), "55550000");
    assert_string_equal(write_reg(p, "rax", "0102030405060708"), "OK");
    assert_true(c->gpr[X86_RAX] == 0x0807060504030201);
    assert_string_equal(write_reg(p, "xmm3", "000102030405060708090a0b0c0d0e0f"), "OK");
    assert_int_equal(c->xs.xmm[3][15], 15);
    assert_string_equal(write_reg(p, "ymm3h", "000102030405060708090a0b0c0d0e0f"), "OK");
    assert_int_equal(c->xs.ymmh[3][15], 15);
    // The second processor's are its own.
    EXPECT("Hg2", "OK");
    assert_string_equal(read_reg(p, "rax"), "0000000000000000");
    EXPECT("Hg0", "OK"); // any: stays
    EXPECT("qC", "QC2");
}

// Everything that 'g' gives can be written back, and then nothing has changed.
static void test_all_registers(void **state)
{
    struct peer *p = *state;
    static char all[GDB_PACKET_MAX];
    static struct cpu before;
    struct cpu *c = &p->f->vcpu.cpu;
    size_t bytes = 0;
    for (unsigned i = 0; i < p->s.regs.count; i++)
        bytes += p->s.regs.reg[i].size;
    c->rip = 0x123456;
    c->xs.fsw = 3 << 11;
    c->xs.ftw = 0x18;
    c->xs.st[0][9] = 0x3f;
    c->xs.st[0][7] = 0x80;
    before = *c;
    snprintf(all, sizeof(all), "G%s", ask(p, "g"));
    assert_int_equal(strlen(all), 1 + 2 * bytes);
    EXPECT(all, "OK");
    assert_memory_equal(c, &before, sizeof(before));
    assert_string_equal(read_reg(p, "ftag"), "3ffd0000"); // register 3 is valid, 4 is zero
}

// Values that the processor could not have.
static void test_refused_registers(void **state)
{
    struct peer *p = *state;
    struct cpu *c = &p->f->vcpu.cpu;
    assert_string_equal(write_reg(p, "mxcsr", "00000100"), "E16");
    assert_string_equal(write_reg(p, "eflags", "02000200"), "E16");       // VM
    assert_string_equal(write_reg(p, "cr0", "1100006000000000"), "E16");  // PE
    assert_string_equal(write_reg(p, "cr4", "2000000000000000"), "E16");  // PAE
    assert_string_equal(write_reg(p, "efer", "0001000000000000"), "E16"); // LME
    assert_string_equal(write_reg(p, "cr3", "0000000000000080"), "E16");
    assert_string_equal(write_reg(p, "idt_base", "0000000000000000"), "E16");
    assert_string_equal(write_reg(p, "cr0", "1600006000000000"), "OK"); // MP, EM
    assert_string_equal(write_reg(p, "cr8", "0500000000000000"), "OK");
    assert_int_equal(c->cr8, 5);
    assert_string_equal(write_reg(p, "eflags", "ffffffff"), "E16");
    assert_string_equal(write_reg(p, "eflags", "fffffdff"), "OK");
    assert_string_equal(write_reg(p, "fctrl", "ffff0000"), "OK");
    assert_string_equal(write_reg(p, "fstat", "ffff0000"), "OK");
    assert_null(cpu_check(c));
    assert_string_equal(write_reg(p, "ds", "34120000"), "OK"); // real mode: an address
    assert_int_equal(c->seg[X86_DS].base, 0x12340);
    c->rflags = 2;
    c->cr0 |= X86_CR0_PE;
    assert_string_equal(write_reg(p, "ds", "08000000"), "E16");
    assert_string_equal(write_reg(p, "ds", "34120000"), "OK"); // no change
}

static void test_description(void **state)
{
    struct peer *p = *state;
    static char xml[GDB_XML_SIZE];
    char text[64];
    size_t at = 0;
    for (;;) {
        snprintf(text, sizeof(text), "qXfer:features:read:target.xml:%zx,3fb", at);
        const char *part = ask(p, text);
        size_t n = strlen(part + 1);
        memcpy(xml + at, part + 1, n + 1);
        at += n;
        if (part[0] == 'l')
            break;
        assert_int_equal(part[0], 'm');
        assert_int_equal(n, 0x3fb);
    }
    assert_string_equal(xml, p->s.regs.xml);
    assert_non_null(strstr(xml, "<architecture>i386:x86-64</architecture>"));
    assert_string_equal(xml + strlen(xml) - 9, "</target>");
    assert_int_equal(reg(p, "rip"), 16);
    assert_int_equal(reg(p, "st0"), 24);
    assert_true(p->s.regs.xml_len < GDB_XML_SIZE - 1000);
    assert_true(p->s.regs.count < GDB_MAX_REGS - 8);
}

static void test_description_32(void **state)
{
    (void)state;
    static struct gdb_regs r;
    struct cpu_model m = {.name = "486"};
    gdb_regs_init(&r, &m);
    assert_non_null(strstr(r.xml, "<architecture>i386</architecture>"));
    assert_non_null(strstr(r.xml, "<reg name=\"eip\" bitsize=\"32\""));
    assert_null(strstr(r.xml, "rax"));
    assert_null(strstr(r.xml, "ymm"));
    assert_null(strstr(r.xml, "efer\" bit"));
    assert_int_equal(r.reg[1].index, X86_RCX);
    assert_int_equal(r.reg[8].kind, GDB_REG_RIP);
}

// --- memory -----------------------------------------------------------------------------------------------------------------

static void test_memory(void **state)
{
    struct peer *p = *state;
    u8 *ram = p->f->ram;
    memcpy(ram + 0xffe, "\x12\x34\x56\x78", 4);
    EXPECT("mffe,4", "12345678");
    EXPECT("mffe,0", "");
    EXPECT("M1fff,2:abCD", "OK");
    assert_memory_equal(ram + 0x1fff, "\xab\xcd", 2);
    packet(p, "X3000,4:a}\x03}]b", 14);
    assert_string_equal(said(p), "OK");
    assert_memory_equal(ram + 0x3000, "a#}b", 4);
    EXPECT("X3000,0:", "OK");
    // What is there, then an error where nothing is.
    EXPECT("mffffe,4", "0000");
    EXPECT("m100000,4", "E0e");
    EXPECT("Mfffff,2:0000", "E0e");
    EXPECT("mffffffffffffffff,8", "E0e");
    EXPECT("m100000000,1", "E0e"); // beyond what this mode addresses
    const char *most = ask(p, "m0,ffffff");
    assert_int_equal(strlen(most), GDB_PACKET_MAX);
}

// Linear addresses go through the current processor's tables, physical ones do not.
static void test_paged_memory(void **state)
{
    struct peer *p = *state;
    u8 *ram = p->f->ram;
    const u64 entries[][2] = {{0x1ff8, 0x3003}, {0x3ff0, 0x4003}, {0x4000, 0x5003}, {0x5000, 0x6003}, {0x5010, 0x8003}};
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        memcpy(ram + entries[i][0], &entries[i][1], 8);
    fake_paging_on(p->f, 0x1000, X86_CR4_PAE, X86_EFER_LME);
    ram[0x6010] = 0x77;
    ram[0x8000] = 0x88;
    EXPECT("mffffffff80000010,1", "77");
    EXPECT("mffffffff80002000,1", "88");
    EXPECT("mffffffff80001000,1", "E0e");
    EXPECT("mffffffff80000ffe,4", "0000"); // as far as it goes
    EXPECT("m7fffffff80000010,1", "E0e");  // not canonical
    EXPECT("m6010,1", "E0e");
    EXPECT("qqemu.PhyMemMode", "0");
    EXPECT("Qqemu.PhyMemMode:1", "OK");
    EXPECT("qqemu.PhyMemMode", "1");
    EXPECT("m6010,1", "77");
    EXPECT("M8000,1:99", "OK");
    EXPECT("Qqemu.PhyMemMode:0", "OK");
    EXPECT("mffffffff80002000,1", "99");
    EXPECT("Hg2", "OK"); // the second processor has no paging
    EXPECT("m6010,1", "77");
    assert_int_equal(ram[0x5000], 3); // no accessed bits
}

// --- running ----------------------------------------------------------------------------------------------------------------

static void stopped(struct peer *p, unsigned cpu, enum debug_cause cause, gva a)
{
    struct vm_exit e = {.reason = VM_EXIT_DEBUG, .code = cause, .addr = a};
    p->out_len = 0;
    p->resumed = 0;
    gdb_session_stopped(&p->s, p->f->machine.vcpu[cpu], &e);
}

static void test_run(void **state)
{
    struct peer *p = *state;
    struct vcpu *v = &p->f->vcpu;
    EXPECT("?", "T05thread:1;");
    EXPECT("vCont?", "vCont;c;C;s;S");
    EXPECT("c", "(nothing)");
    assert_int_equal(p->resumed, 3);
    assert_true(p->s.running);
    stopped(p, 1, DEBUG_STEP, 0);
    assert_string_equal(said(p), "T05thread:2;");
    EXPECT("qC", "QC2");
    // A step with the others running, then with the others at rest.
    EXPECT("vCont;s:1;c", "(nothing)");
    assert_int_equal(p->resumed, 3);
    assert_int_equal(v->debug_step, DEBUG_STEP_QUIET);
    assert_int_equal(p->second.debug_step, DEBUG_STEP_NONE);
    stopped(p, 0, DEBUG_STEP, 0);
    assert_int_equal(v->debug_step, DEBUG_STEP_NONE);
    EXPECT("vCont;S05:2", "(nothing)");
    assert_int_equal(p->resumed, 2);
    assert_int_equal(p->second.debug_step, DEBUG_STEP_QUIET);
    stopped(p, 1, DEBUG_STEP, 0);
    EXPECT("s", "(nothing)");
    assert_int_equal(p->second.debug_step, DEBUG_STEP_QUIET);
    assert_int_equal(p->resumed, 3);
    stopped(p, 1, DEBUG_STEP, 0);
    EXPECT("Hc1", "OK");
    EXPECT("c1234", "(nothing)");
    assert_int_equal(p->resumed, 1);
    assert_int_equal(v->cpu.rip, 0x1234);
    stopped(p, 0, DEBUG_STEP, 0);
    EXPECT("Hc-1", "OK");
    EXPECT("C05;4321", "(nothing)");
    assert_int_equal(p->resumed, 3);
    assert_int_equal(v->cpu.rip, 0x4321);
}

static void test_interrupt(void **state)
{
    struct peer *p = *state;
    type(p, "\x03", 1); // stopped already
    assert_string_equal(p->out, "");
    EXPECT("vCont;c", "(nothing)");
    type(p, "\x03", 1);
    assert_string_equal(said(p), "T02thread:1;");
    assert_int_equal(p->stops, 2);
    assert_false(p->s.running);
    // A stop of which the session has not asked: the monitor's.
    EXPECT("c", "(nothing)");
    p->out_len = 0;
    gdb_session_stopped(&p->s, NULL, NULL);
    assert_string_equal(said(p), "T02thread:1;");
    stopped(p, 1, DEBUG_BREAK, 0); // comes late: already told
    assert_int_equal(p->out_len, 0);
    // The monitor sets the machine going behind the client's back: it stops, but the client did not ask.
    p->out_len = 0;
    gdb_session_continued(&p->s);
    stopped(p, 1, DEBUG_BREAK, 0);
    assert_int_equal(p->out_len, 0);
    assert_false(p->s.running);
    gdb_session_continued(&p->s);
    type(p, "\x03", 1);
    assert_int_equal(p->out_len, 0);
    assert_int_equal(p->stops, 3);
    // A packet while the machine runs stops it.
    EXPECT("c", "(nothing)");
    EXPECT("qC", "QC2");
    assert_int_equal(p->stops, 4);
    assert_false(p->s.running);
}

static void test_step_mode(void **state)
{
    struct peer *p = *state;
    EXPECT("qqemu.sstepbits", "ENABLE=1,NOIRQ=2");
    EXPECT("qqemu.sstep", "0x3");
    EXPECT("Qqemu.sstep=0x1", "OK");
    EXPECT("s", "(nothing)");
    assert_int_equal(p->f->vcpu.debug_step, DEBUG_STEP_ANY);
    stopped(p, 0, DEBUG_STEP, 0);
    EXPECT("Qqemu.sstep=3", "OK");
    EXPECT("s", "(nothing)");
    assert_int_equal(p->f->vcpu.debug_step, DEBUG_STEP_QUIET);
}

static void test_breakpoints(void **state)
{
    struct peer *p = *state;
    struct debug_points *d = &p->f->machine.debug;
    EXPECT("qSupported:xmlRegisters=i386",
           "PacketSize=4000;qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+");
    EXPECT("Z0,1000,1", "OK");
    EXPECT("Z0,1000,1", "OK");
    EXPECT("Z1,2000,1;X1,1", "OK"); // no conditions were offered: whatever follows
    assert_int_equal(d->break_count, 2);
    EXPECT("c", "(nothing)");
    stopped(p, 0, DEBUG_BREAK, 0x1000);
    assert_string_equal(said(p), "T05thread:1;"); // the client does not know more
    EXPECT("qSupported:swbreak+;hwbreak+",
           "PacketSize=4000;qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+");
    EXPECT("c", "(nothing)");
    stopped(p, 0, DEBUG_BREAK, 0x1000);
    assert_string_equal(said(p), "T05thread:1;swbreak:;");
    EXPECT("c", "(nothing)");
    stopped(p, 1, DEBUG_BREAK, 0x2000);
    assert_string_equal(said(p), "T05thread:2;hwbreak:;");
    EXPECT("z0,1000,1", "OK");
    EXPECT("z0,1000,1", "OK");
    EXPECT("z1,2000,1", "OK");
    assert_int_equal(d->break_count, 0);
    for (unsigned i = 0; i < DEBUG_MAX_BREAKS; i++) {
        char text[32];
        snprintf(text, sizeof(text), "Z0,%x,1", i);
        EXPECT(text, "OK");
    }
    EXPECT("Z0,ffff,1", "E1c");
}

static void test_watchpoints(void **state)
{
    struct peer *p = *state;
    EXPECT("Z2,100,4", "OK");
    EXPECT("Z3,200,8", "OK");
    EXPECT("Z4,300,1", "OK");
    EXPECT("c", "(nothing)");
    stopped(p, 0, DEBUG_WRITE, 0x102);
    assert_string_equal(said(p), "T05thread:1;watch:102;");
    EXPECT("c", "(nothing)");
    stopped(p, 0, DEBUG_READ, 0x200);
    assert_string_equal(said(p), "T05thread:1;rwatch:200;");
    EXPECT("c", "(nothing)");
    stopped(p, 1, DEBUG_READ, 0x300);
    assert_string_equal(said(p), "T05thread:2;awatch:300;");
    EXPECT("z2,100,4", "OK");
    EXPECT("z3,200,8", "OK");
    EXPECT("z4,300,1", "OK");
    assert_int_equal(p->f->machine.debug.watch_count, 0);
}

// --- threads, queries, the end ----------------------------------------------------------------------------------------------

static void test_threads(void **state)
{
    struct peer *p = *state;
    EXPECT("qfThreadInfo", "m1,2");
    EXPECT("qsThreadInfo", "l");
    EXPECT("T1", "OK");
    EXPECT("T2", "OK");
    EXPECT("qThreadExtraInfo,2", "4350552331205b77616974696e6720666f7220534950495d"); // CPU#1 [waiting for SIPI]
    EXPECT("qAttached", "1");
    EXPECT("qSymbol::", "OK");
}

static void test_monitor(void **state)
{
    struct peer *p = *state;
    packet(p, "qRcmd,696e666f", 14);
    assert_string_equal(p->out, "+$O6162#1e$OK#9a");
    assert_string_equal(p->monitored, "info");
}

static void test_detach(void **state)
{
    struct peer *p = *state;
    EXPECT("Z0,1000,1", "OK");
    EXPECT("D", "OK");
    assert_int_equal(p->resumed, 3);
    assert_int_equal(p->hang_ups, 1);
    assert_int_equal(p->f->machine.debug.break_count, 0);
    stopped(p, 0, DEBUG_BREAK, 0x1000); // nobody to tell
    assert_int_equal(p->out_len, 0);
    gdb_session_open(&p->s);
    EXPECT("qC", "QC1");
}

static void test_disconnect(void **state)
{
    struct peer *p = *state;
    EXPECT("Z2,1000,4", "OK");
    EXPECT("vCont;s:1", "(nothing)");
    gdb_session_close(&p->s);
    assert_int_equal(p->stops, 2); // what the engines look at changes only while they rest
    assert_int_equal(p->resumed, 3);
    assert_int_equal(p->f->machine.debug.watch_count, 0);
    assert_int_equal(p->f->vcpu.debug_step, DEBUG_STEP_NONE);
    p->resumed = 0;
    gdb_session_close(&p->s);
    assert_int_equal(p->resumed, 0);
}

// What engines look at changes only before the machine goes on.
static void test_gone_while_sending(void **state)
{
    struct peer *p = *state;
    p->f->vcpu.cpu.gpr[X86_RAX] = 5;
    p->goes = true;
    packet(p, "P0=0000000000000000", 19);
    assert_int_equal(p->f->vcpu.cpu.gpr[X86_RAX], 5);
    assert_int_equal(p->resumes, 1);
    gdb_session_open(&p->s);
    p->goes = false;
    EXPECT("QStartNoAckMode", "OK");
    p->goes = true;
    packet(p, "D", 1);
    assert_int_equal(p->resumes, 2);
    gdb_session_open(&p->s);
    p->goes = false;
    EXPECT("QStartNoAckMode", "OK");
    EXPECT("vCont;c", "(nothing)");
    p->goes = true;
    stopped(p, 0, DEBUG_BREAK, 0x1000);
    assert_false(p->s.open);
    assert_int_equal(p->resumes, 4);
}

static void test_end(void **state)
{
    struct peer *p = *state;
    EXPECT("k", "(nothing)");
    EXPECT("vKill;1", "OK");
    assert_int_equal(p->kills, 2);
    EXPECT("c", "(nothing)");
    p->out_len = 0;
    gdb_session_ended(&p->s, 33);
    assert_string_equal(said(p), "W21");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_frames),        T(test_overlong),
        T(test_malformed),     T(test_registers),
        T(test_all_registers), T(test_refused_registers),
        T(test_description),   T(test_description_32),
        T(test_memory),        T(test_paged_memory),
        T(test_run),           T(test_interrupt),
        T(test_step_mode),     T(test_breakpoints),
        T(test_watchpoints),   T(test_threads),
        T(test_monitor),       T(test_detach),
        T(test_disconnect),    T(test_gone_while_sending),
        T(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
