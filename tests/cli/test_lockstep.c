// Does lockstep find what is wrong? Engines with one seeded defect each, made from the interpreter, are held against it; the report has to
// name the very instruction. The guest is a small ROM in real mode with a timer interrupt.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/lockstep.h"
#include "core/machine.h"
#include "engine/engines.h"

// --- the guest ------------------------------------------------------------------------------------------------------------

#define ROM_SIZE 65536u
#define ENTRY 0x0000u // offset in the ROM, and in segment f000
#define HANDLER 0x0100u

// Sets up the 8254 for 1 kHz and its interrupt, and counts: memory, registers, the console.
static const u8 entry_code[] = {
    0xfa,                               // cli
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // xor ax, ax; mov ds, ax; mov es, ax
    0x8e, 0xd0, 0xbc, 0x00, 0x80,       // mov ss, ax; mov sp, 8000h
    0xc7, 0x06, 0x20, 0x00, 0x00, 0x01, // mov word [20h], HANDLER
    0xc7, 0x06, 0x22, 0x00, 0x00, 0xf0, // mov word [22h], f000h
    0xb0, 0x11, 0xe6, 0x20,             // mov al, 11h; out 20h, al
    0xb0, 0x08, 0xe6, 0x21,             // mov al, 8; out 21h, al
    0xb0, 0x04, 0xe6, 0x21,             // mov al, 4; out 21h, al
    0xb0, 0x01, 0xe6, 0x21,             // mov al, 1; out 21h, al
    0xb0, 0xfe, 0xe6, 0x21,             // mov al, feh; out 21h, al
    0xb0, 0x34, 0xe6, 0x43,             // mov al, 34h; out 43h, al
    0xb0, 0xa9, 0xe6, 0x40,             // mov al, a9h; out 40h, al
    0xb0, 0x04, 0xe6, 0x40,             // mov al, 4; out 40h, al
    0xfb,                               // sti
    // loop:
    0x41,                   // inc cx
    0x01, 0xca,             // add dx, cx
    0x89, 0x16, 0x00, 0x20, // mov [2000h], dx
    0x89, 0xcb,             // mov bx, cx
    0x81, 0xe3, 0xfe, 0x0f, // and bx, 0ffeh
    0x11, 0x97, 0x00, 0x30, // adc [bx + 3000h], dx
    0x39, 0xd3,             // cmp bx, dx
    0x75, 0xeb,             // jne loop
    0xeb, 0xe9,             // jmp loop
};
static const u8 handler_code[] = {
    0x50,                   // push ax
    0xb0, 0x2e,             // mov al, '.'
    0xba, 0xf8, 0x03,       // mov dx, 3f8h
    0xee,                   // out dx, al
    0xb0, 0x20, 0xe6, 0x20, // mov al, 20h; out 20h, al
    0xff, 0x06, 0x00, 0x40, // inc word [4000h]
    0x58,                   // pop ax
    0xcf,                   // iret
};
static const u8 reset_code[] = {0xea, 0x00, 0x00, 0x00, 0xf0}; // jmp f000:0000

static char rom_name[] = "/tmp/pogo-lockstep.XXXXXX";

static int make_rom(void **state)
{
    static u8 rom[ROM_SIZE];
    int fd = mkstemp(rom_name);

    (void)state;
    memcpy(rom + ENTRY, entry_code, sizeof(entry_code));
    memcpy(rom + HANDLER, handler_code, sizeof(handler_code));
    memcpy(rom + 0xfff0, reset_code, sizeof(reset_code));
    if (fd < 0 || write(fd, rom, ROM_SIZE) != ROM_SIZE)
        return -1;
    return close(fd);
}

static int remove_rom(void **state)
{
    (void)state;
    return unlink(rom_name);
}

// --- engines with a defect ------------------------------------------------------------------------------------------------

enum defect {
    NONE,
    REGISTER,
    FLAG,
    MEMORY,
    QUIET_MEMORY,
    LOST_INTERRUPT,
    LONG_RUNS,
    CONSOLE,
    ONE_MORE,
    VECTOR_REGISTER,
    CLOCK,
    DEVICE,
    PCI_CONFIG,
};

static struct {
    enum defect kind;
    u64 at;  // behind this instruction
    u64 run; // LONG_RUNS: only when so many are run at once
} defect;

static void spoil(struct vcpu *v)
{
    struct machine *m = v->machine;
    u8 byte = 0x55;

    switch (defect.kind) {
    case REGISTER: v->cpu.gpr[X86_RSI] ^= 0x10000; break;
    case LONG_RUNS: v->cpu.gpr[X86_RDI]++; break;
    case FLAG: v->cpu.rflags ^= X86_FL_AF; break;
    case VECTOR_REGISTER: v->cpu.xs.ymmh[15][15] = 1; break;
    case MEMORY: mem_write(&m->mem, 0x12345, &byte, 1); break;
    case QUIET_MEMORY: *mem_ptr(&m->mem, 0x12345, 1, true) = byte; break;
    case CONSOLE: bus_out(&m->bus, 0x3f8, 1, 'x'); break;
    case DEVICE: bus_out(&m->bus, 0x43, 1, 0xb0); break; // channel 2 of the 8254
    case PCI_CONFIG: bus_out(&m->bus, 0xcf8, 4, 0x80000860), bus_out(&m->bus, 0xcfc, 1, 9); break;
    case CLOCK: clock_skip(&m->clock, 1); break;
    default: break;
    }
}

static struct vm_exit faulty_run(struct vcpu *v, u64 budget)
{
    const struct engine_ops *interp = engine_find("interp");
    u64 before = v->insns;
    bool here = defect.kind && before < defect.at && before + budget >= defect.at;
    struct vm_exit e;

    if (defect.kind == LOST_INTERRUPT && before >= defect.at && before < defect.at + defect.run &&
        atomic_load(&v->request) & VCPU_REQ_INTR && v->cpu.rflags & X86_FL_IF)
        v->intc.ack(v->intc.intc); // taken, and never delivered
    if (!here || (defect.kind == LONG_RUNS && budget < defect.run))
        return interp->run(v, budget);
    e = interp->run(v, defect.at - before);
    if (v->insns != defect.at)
        return e;
    if (defect.kind == ONE_MORE)
        return interp->run(v, 1 + before + budget - defect.at);
    spoil(v);
    return before + budget > defect.at ? interp->run(v, before + budget - defect.at) : e;
}

static struct engine_ops faulty;

// --- the tests ------------------------------------------------------------------------------------------------------------

static struct lockstep_result result;
static char report[65536];

static void run_config(struct lockstep_config *c, struct run_options *o)
{
    struct error err = {.text = ""};
    FILE *out = tmpfile();
    size_t n;

    assert_non_null(out);
    faulty = *engine_find("interp");
    faulty.name = "faulty";
    faulty.run = faulty_run;
    c->o = o;
    c->engine[0] = engine_find("interp");
    c->engine[1] = &faulty;
    c->log[0] = c->log[1] = stderr;
    c->out = out;
    if (lockstep(c, &result, &err))
        fail_msg("%s", err.text);
    rewind(out);
    n = fread(report, 1, sizeof(report) - 1, out);
    report[n] = 0;
    fclose(out);
}

static void compare(u64 every, u64 memory_every, u64 full_every, u64 limit)
{
    struct lockstep_config c = {.every = every, .memory_every = memory_every, .full_every = full_every, .limit = limit};
    char *argv[] = {"-bios", rom_name, "-m", "4", "-icount", "7", "-no-reboot"};
    struct run_options o;
    struct error err;

    assert_int_equal(options_parse(&o, 7, argv, &err), 0);
    run_config(&c, &o);
    options_free(&o);
}

static void same(void **state)
{
    u64 hash;

    (void)state;
    defect.kind = NONE;
    compare(1024, 8, 1 << 16, 200000);
    assert_false(result.different);
    assert_int_equal(result.insns, 200000);
    assert_non_null(strstr(report, "are the same for 200000 instructions"));
    hash = result.hash;
    compare(1, 1, 1 << 16, 3000);
    assert_false(result.different);
    assert_true(result.hash != hash);
    compare(77, 3, 1 << 16, 200000);
    assert_true(result.hash == hash); // however it is cut
}

// Each kind of defect, at several places: the report names the instruction.
static void found(void **state)
{
    static const struct {
        enum defect kind;
        const char *says;
    } rows[] = {
        {REGISTER, "*** rsi"},       {FLAG, " AF\n"},
        {MEMORY, "memory at 12340"}, {CLOCK, "idle time"},
        {CONSOLE, "console 0"},      {VECTOR_REGISTER, "*** ymmh15"},
        {DEVICE, "device i8254"},    {PCI_CONFIG, "device PIIX3"},
    };
    static const u64 places[] = {1, 1000, 1024, 5000, 65536, 70001};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (size_t n = 0; n < ARRAY_LEN(places); n++) {
            defect.kind = rows[i].kind;
            defect.at = places[n];
            // The guest soon sets the flags anew, which hides the defect from who looks rarely.
            compare(rows[i].kind == FLAG ? 1 : 1024, 16, 1 << 24, 100000);
            if (!result.different || result.insns != places[n])
                fail_msg("defect %d at %llu was found at %llu:\n%s", rows[i].kind, (unsigned long long)places[n],
                         (unsigned long long)result.insns, report);
            if (!strstr(report, rows[i].says))
                fail_msg("no \"%s\" in:\n%s", rows[i].says, report);
            assert_non_null(strstr(report, "=>"));
        }
}

// A store that bypasses the flags of written pages is found all the same, later.
static void quiet_memory(void **state)
{
    (void)state;
    defect.kind = QUIET_MEMORY;
    defect.at = 44321;
    compare(256, 4, 1 << 15, 200000);
    assert_true(result.different && result.narrowed);
    assert_int_equal(result.insns, 44321);
    assert_non_null(strstr(report, "not marked as written"));
}

// The handler that does not run makes the difference: at its first instruction.
static void lost_interrupt(void **state)
{
    (void)state;
    defect.kind = LOST_INTERRUPT;
    defect.at = 30000;
    defect.run = 8000;
    compare(1024, 16, 1 << 24, 100000);
    assert_true(result.different);
    assert_non_null(strstr(report, "delivery of interrupt 8"));
}

// An engine that does not stop where it should.
static void one_more(void **state)
{
    (void)state;
    defect.kind = ONE_MORE;
    defect.at = 2048;
    compare(1024, 16, 1 << 24, 100000);
    assert_true(result.different);
    assert_non_null(strstr(report, "instructions retired"));
}

// A defect that single steps do not show: the shortest run that does, and its last instruction.
static void long_runs(void **state)
{
    (void)state;
    for (defect.run = 2; defect.run < 200; defect.run *= 6) {
        defect.kind = LONG_RUNS;
        defect.at = 8192 + 300;
        compare(1024, 16, 1 << 24, 100000);
        assert_true(result.different && result.narrowed);
        assert_int_equal(result.insns, 8192 + 300);
        assert_int_equal(result.run, 300);
        assert_non_null(strstr(report, "without a stop"));
        assert_non_null(strstr(report, "*** rdi"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same),           cmocka_unit_test(found),    cmocka_unit_test(quiet_memory),
        cmocka_unit_test(lost_interrupt), cmocka_unit_test(one_more), cmocka_unit_test(long_runs),
    };

    return cmocka_run_group_tests(tests, make_rom, remove_rom);
}
