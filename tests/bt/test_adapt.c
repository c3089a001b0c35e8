// Accesses that keep going slow: are they counted, do they become special and go back, and do they then the same as in the interpreter?
// A made-up device keeps a log of what is asked of it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "interp/xfer_env.h"

#include "engine/bt/bt.h"

#define DEVICE 0x180000u // mapped, and no RAM there
#define DEVICE_SIZE 0x2000u
#define DATA 0x40000u
#define TURNS 200u
#define LOG 4096u

static struct env *e;

// --- the device -----------------------------------------------------------------------------------------------------------------

static struct {
    u64 reads, writes;
    u64 exit_at; // which access asks the processor to stop
    struct {
        u32 off;
        u8 size, write;
        u64 val;
    } log[LOG];
} device;

static void note(u64 off, unsigned size, bool write, u64 val)
{
    u64 n = device.reads + device.writes;
    if (n < LOG) {
        device.log[n].off = (u32)off;
        device.log[n].size = (u8)size;
        device.log[n].write = write;
        device.log[n].val = val;
    }
    if (n + 1 == device.exit_at)
        vcpu_request(e->t->v, VCPU_REQ_EXIT);
}

static u64 device_read(void *dev, u64 off, unsigned size)
{
    u64 val = 0x8081828384858687ull * (device.reads + 1);
    (void)dev;
    note(off, size, false, val);
    device.reads++;
    return val;
}

static void device_write(void *dev, u64 off, unsigned size, u64 val)
{
    (void)dev;
    note(off, size, true, val);
    device.writes++;
}

static const struct dev_ops device_ops = {.name = "made up", .read = device_read, .write = device_write};

// --- a machine ------------------------------------------------------------------------------------------------------------------

static void begin(const char *engine)
{
    void *state;
    env_engine = engine;
    env_long(&state);
    e = state;
    memset(&device, 0, sizeof device);
    assert_int_equal(mem_add_mmio(&e->t->machine->mem, DEVICE, DEVICE_SIZE, &device_ops, NULL, "made up"), 0);
    for (unsigned g = 0; g < 16; g++)
        e->c->gpr[g] = g == X86_RSP ? STACK0 : 0x0102030405060708ull * g;
    for (unsigned i = 0; i < 0x3000; i++)
        e->t->ram[DATA + i] = (u8)(i * 7 + (i >> 8));
}

static void end(void)
{
    void *state = e;
    env_free(&state);
}

static int start(void **state)
{
    (void)state;
    begin("bt");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    end();
    return 0;
}

static struct bt *engine(void)
{
    return e->t->v->engine_state;
}

static const struct adapt *counts(void)
{
    return &engine()->adapt;
}

// Code at CODE: `turns` times `body`, then HLT. RCX counts. Returns its length.
static unsigned put_loop(const char *body, unsigned len, u32 turns)
{
    u8 code[256];
    unsigned n = 0;
    code[n++] = 0xb9; // mov ecx, turns
    memcpy(code + n, &turns, 4);
    n += 4;
    memcpy(code + n, body, len);
    n += len;
    i32 back = -(i32)len - 8;
    memcpy(code + n, "\xff\xc9\x0f\x85", 4); // dec ecx; jnz
    memcpy(code + n + 4, &back, 4);
    n += 8;
    code[n++] = 0xf4;
    testvm_put_code(e->t, CODE, code, n);
    return n;
}

static void run_from(u64 rip)
{
    e->c->rip = rip;
    e->c->activity = CPU_RUNNING;
    struct vm_exit x = testvm_run(e->t, ENGINE_NO_BUDGET);
    assert_int_equal(x.reason, VM_EXIT_HALT);
}

static void run_loop(const char *body, unsigned len, u32 turns)
{
    put_loop(body, len, turns);
    run_from(CODE);
    assert_int_equal(e->c->gpr[X86_RCX] & 0xffffffff, 0);
}
#define LOOP(s, turns) run_loop(s, sizeof(s) - 1, turns)

static void assert_served(enum adapt_reason why, u64 slow, u64 all)
{
    assert_int_equal(counts()->served[why] + counts()->slow[why], all);
    assert_in_range(counts()->slow[why], 1, slow);
}

// --- counting -------------------------------------------------------------------------------------------------------------------

static void devices_become_special(void **state)
{
    (void)state;
    LOOP("\x8b\x04\x25\x10\0\x18\0", TURNS); // mov eax, [DEVICE + 0x10]
    assert_int_equal(device.reads, TURNS);
    assert_int_equal(counts()->specialised, 1);
    assert_served(ADAPT_DEVICE, 10, TURNS);
    LOOP("\x89\x04\x25\x10\0\x18\0", TURNS); // mov [DEVICE + 0x10], eax
    assert_int_equal(device.writes, TURNS);
    assert_int_equal(counts()->specialised, 2);
    assert_served(ADAPT_DEVICE, 20, 2 * TURNS);
}

static void a_few_times_is_not_enough(void **state)
{
    (void)state;
    LOOP("\x8b\x04\x25\x10\0\x18\0", 7);
    assert_int_equal(device.reads, 7);
    assert_int_equal(counts()->specialised, 0);
}

static void crossings_become_special(void **state)
{
    u64 want;
    (void)state;
    LOOP("\x48\x8b\x04\x25\xfd\x0f\x04\0", TURNS); // mov rax, [DATA + 0xffd]
    memcpy(&want, e->t->ram + DATA + 0xffd, 8);
    assert_int_equal(e->c->gpr[X86_RAX], want);
    assert_served(ADAPT_CROSSING, 10, TURNS);
    LOOP("\x48\x89\x1c\x25\xfb\x0f\x04\0", TURNS); // mov [DATA + 0xffb], rbx
    assert_memory_equal(e->t->ram + DATA + 0xffb, &e->c->gpr[X86_RBX], 8);
    assert_served(ADAPT_CROSSING, 20, 2 * TURNS);
    LOOP("\x03\x1c\x25\xfe\x0f\x04\0", TURNS); // add ebx, [DATA + 0xffe]
    assert_served(ADAPT_CROSSING, 30, 3 * TURNS);
}

// A store beside the code that does it, and one into other code of that page.
static void stores_beside_code_become_special(void **state)
{
    (void)state;
    LOOP("\xff\xc3\x89\x1c\x25\0\x08\x01\0", TURNS); // inc ebx; mov [CODE + 0x800], ebx
    assert_memory_equal(e->t->ram + CODE + 0x800, &e->c->gpr[X86_RBX], 4);
    assert_served(ADAPT_CODE, 10, TURNS);
    assert_int_equal(engine()->keeper.dropped, 0);
}

// The store becomes special beside code, and then hits what is called in between.
static void stores_into_code_are_seen(void **state)
{
    static const char body[] = "\x89\x1c\x25\x01\x08\x01\0" // mov [CODE + 0x801], ebx
                               "\xe8\xef\x07\0\0"           // call CODE + 0x800
                               "\x01\xc2\xff\xc3";          // add edx, eax; inc ebx
    static const char called[] = "\xb8\0\0\0\0\xc3";        // mov eax, 0; ret
    (void)state;
    testvm_put_code(e->t, CODE + 0x800, called, sizeof called - 1);
    e->c->gpr[X86_RBX] = 1;
    e->c->gpr[X86_RDX] = 0;
    LOOP(body, TURNS);
    assert_int_equal(e->c->gpr[X86_RDX], TURNS * (TURNS + 1) / 2);
}

// When its code is gone, a page is as others are.
static void page_ceases_to_have_code(void **state)
{
    static const char other[] = "\xc3";
    (void)state;
    e->c->gpr[X86_RSI] = HANDLER + 0x800;
    e->c->gpr[X86_RCX] = TURNS;
    testvm_put_code(e->t, HANDLER, other, 1);
    put_loop("\x89\x1e", 2, TURNS); // mov [rsi], ebx
    e->c->gpr[X86_RSP] = STACK0 - 8;
    put(e, STACK0 - 8, 8, CODE);
    run_from(HANDLER); // which returns to the loop
    assert_served(ADAPT_CODE, 10, TURNS);
    hva page = (hva)e->t->ram + HANDLER;
    u64 n = 0;
    assert_false(codecache_drop(engine(), page, 0, MEM_PAGE_SIZE, &n)); // as when it is evicted
    u64 before = counts()->served[ADAPT_CODE] + counts()->slow[ADAPT_CODE];
    e->c->gpr[X86_RCX] = TURNS;
    run_from(CODE + 5);
    assert_in_range(counts()->served[ADAPT_CODE] + counts()->slow[ADAPT_CODE], before, before + 2);
}

static void ports_are_counted(void **state)
{
    (void)state;
    if (BT_VEC_EAGER)
        skip();                    // the interpreter has them then
    LOOP("\xe4\x80\xe6\x80", 320); // in al, 0x80; out 0x80, al
    assert_int_equal(counts()->served[ADAPT_PORT], 640);
    u64 sum = 0;
    for (unsigned i = 0; i < ADAPT_SETS * ADAPT_WAYS; i++)
        sum += counts()->site[i].count[ADAPT_PORT];
    assert_int_equal(sum, 640);
}

static void can_be_switched_off(void **state)
{
    (void)state;
    testvm_tuning.off = BT_OPT_ADAPT;
    begin("bt");
    testvm_tuning.off = 0;
    LOOP("\x8b\x04\x25\x10\0\x18\0", TURNS);
    assert_int_equal(counts()->specialised, 0);
    assert_int_equal(counts()->slow[ADAPT_DEVICE], TURNS);
    end();
}

// --- going back -----------------------------------------------------------------------------------------------------------------

#define TOUCH "\x0f\x01\x3e\x8b\x06" // invlpg [rsi]; mov eax, [rsi]

static void put_touch(void)
{
    put_loop(TOUCH, sizeof TOUCH - 1, 0);
}

// The same code each time.
static void touch(u64 where, u32 turns)
{
    e->c->gpr[X86_RSI] = where;
    e->c->gpr[X86_RCX] = turns;
    run_from(CODE + 5);
}

// Each time it goes back it takes twice as long to become special again, and in the end it does not. The code stays the same.
static void goes_back_and_then_no_more(void **state)
{
    (void)state;
    put_touch();
    touch(DEVICE, TURNS);
    assert_int_equal(counts()->specialised, 1);
    for (unsigned n = 1; n <= 5; n++) {
        touch(DATA, 100);
        assert_int_equal(counts()->reverted, n);
        touch(DEVICE, TURNS);
        assert_int_equal(counts()->specialised, n < 5 ? n + 1 : 5);
        touch(DATA, 10); // too few
        assert_int_equal(counts()->reverted, n);
        touch(DEVICE, 10);
    }
    u64 slow = counts()->slow[ADAPT_DEVICE];
    touch(DEVICE, TURNS);
    assert_int_equal(counts()->slow[ADAPT_DEVICE], slow + TURNS);
}

// --- things that go away --------------------------------------------------------------------------------------------------------

static void sites_go_with_their_blocks(void **state)
{
    (void)state;
    put_touch();
    touch(DEVICE, TURNS);
    u64 reads = device.reads;
    codecache_flush(engine());
    touch(DEVICE, TURNS);
    assert_int_equal(device.reads, reads + TURNS);
    assert_int_equal(counts()->specialised, 2);
    // Another block at that place.
    run_loop("\x0f\x01\x3e\x8b\x46\x04", 6, TURNS); // invlpg [rsi]; mov eax, [rsi + 4]
    assert_int_equal(device.reads, reads + 2 * TURNS);
    assert_int_equal(device.log[reads + 2 * TURNS - 1].off, 4);
}

// Does each record of a special site lead there and back?
static void check_records(void)
{
    struct bt *b = engine();
    for (u32 i = 0; i < ADAPT_SETS * ADAPT_WAYS; i++) {
        const struct adapt_site *a = &b->adapt.site[i];
        const u8 *jump = b->cache.mem.write + a->jump;
        bool there = false;
        u32 number;
        i32 rel;
        if (a->state != ADAPT_SPECIAL)
            continue;
        memcpy(&number, jump - 5, 4);
        memcpy(&rel, jump, 4);
        assert_int_equal(number, i);
        assert_int_equal(bt_exec(b, a->jump + 4) + (u64)(i64)rel, b->glue[BT_ADAPT]);
        for (unsigned p = 0; p < BT_PARTS; p++)
            there |= a->site - b->cache.part[p].meta < b->cache.part[p].meta_used;
        assert_true(there);
        assert_int_equal(((const struct bt_site *)bt_near(b, a->site))->op, a->op);
    }
}

// More sites than there is room for, again and again, with a code cache that holds a part of them.
static void many_sites(void **state)
{
    enum { SITES = 6000, EACH = 10, TURNS_OF_ALL = 3, LEN = 16 };
    u8 *code = malloc(SITES * LEN + 64);
    unsigned n = 0;
    u32 turns = TURNS_OF_ALL;
    (void)state;
    testvm_tuning.memory = 1 << 20;
    begin("bt");
    testvm_tuning.memory = 0;
    code[n++] = 0xb9;
    memcpy(code + n, &turns, 4);
    n += 4;
    for (unsigned i = 0; i < SITES;
         i++) { // mov edx, EACH; again: mov eax, [DEVICE + 4 * (i % 1024)]; dec edx; jnz again
        u32 at = DEVICE + i % 1024 * 4;
        memcpy(code + n, "\xba\x0a\0\0\0\x8b\x04\x25", 8);
        memcpy(code + n + 8, &at, 4);
        memcpy(code + n + 12, "\xff\xca\x75\xf5", 4);
        n += LEN;
    }
    i32 back = -(i32)(SITES * LEN) - 8;
    memcpy(code + n, "\xff\xc9\x0f\x85", 4);
    memcpy(code + n + 4, &back, 4);
    n += 8;
    code[n++] = 0xf4;
    testvm_put_code(e->t, CODE + 0x30000, code, n);
    e->c->rip = CODE + 0x30000;
    testvm_run(e->t, ENGINE_NO_BUDGET);
    assert_int_equal(e->c->gpr[X86_RCX], 0);
    assert_int_equal(device.reads, SITES * EACH * TURNS_OF_ALL);
    for (unsigned i = 0; i < LOG; i++)
        assert_int_equal(device.log[i].off, i / EACH % 1024 * 4);
    assert_true(engine()->stats.evictions > BT_PARTS);
    assert_true(counts()->specialised > 1000);
    check_records();
    free(code);
    end();
}

// --- the same as in the interpreter ---------------------------------------------------------------------------------------------

// All with [rsi] for memory operand.
#define WAY(s) \
    { \
        s, sizeof(s) - 1 \
    }
static const struct {
    const char *code;
    unsigned len;
} ways[] = {
    WAY("\x8a\x06"),                 // mov al, [rsi]
    WAY("\x8a\x26"),                 // mov ah, [rsi]
    WAY("\x8a\x3e"),                 // mov bh, [rsi]
    WAY("\x40\x8a\x3e"),             // mov dil, [rsi]
    WAY("\x44\x8a\x16"),             // mov r10b, [rsi]
    WAY("\x66\x8b\x06"),             // mov ax, [rsi]
    WAY("\x66\x44\x8b\x1e"),         // mov r11w, [rsi]
    WAY("\x8b\x2e"),                 // mov ebp, [rsi]
    WAY("\x44\x8b\x3e"),             // mov r15d, [rsi]
    WAY("\x48\x8b\x26"),             // mov rsp, [rsi]
    WAY("\x48\x8b\x1e"),             // mov rbx, [rsi]
    WAY("\x4c\x8b\x26"),             // mov r12, [rsi]
    WAY("\x4c\x8b\x16"),             // mov r10, [rsi]
    WAY("\x0f\xb6\x06"),             // movzx eax, byte [rsi]
    WAY("\x66\x0f\xb6\x06"),         // movzx ax, byte [rsi]
    WAY("\x48\x0f\xb7\x16"),         // movzx rdx, word [rsi]
    WAY("\x0f\xbe\x06"),             // movsx eax, byte [rsi]
    WAY("\x66\x0f\xbe\x06"),         // movsx ax, byte [rsi]
    WAY("\x48\x0f\xbf\x06"),         // movsx rax, word [rsi]
    WAY("\x4c\x63\x1e"),             // movsxd r11, [rsi]
    WAY("\x66\x63\x06"),             // movsxd ax, [rsi]
    WAY("\x88\x06"),                 // mov [rsi], al
    WAY("\x88\x26"),                 // mov [rsi], ah
    WAY("\x44\x88\x3e"),             // mov [rsi], r15b
    WAY("\x66\x89\x16"),             // mov [rsi], dx
    WAY("\x89\x26"),                 // mov [rsi], esp
    WAY("\x4c\x89\x16"),             // mov [rsi], r10
    WAY("\x48\x89\x1e"),             // mov [rsi], rbx
    WAY("\xc6\x06\x85"),             // mov byte [rsi], 0x85
    WAY("\x66\xc7\x06\x85\x86"),     // mov word [rsi], 0x8685
    WAY("\xc7\x06\x85\x86\x87\x88"), // mov dword [rsi], 0x88878685
    WAY("\x48\xc7\x06\x85\x86\x87\x88"),
    WAY("\x8c\x1e"),                     // mov [rsi], ds
    WAY("\x8e\x26"),                     // mov fs, [rsi]: refused
    WAY("\x03\x06"),                     // add eax, [rsi]
    WAY("\x01\x06"),                     // add [rsi], eax
    WAY("\x80\x3e\x12"),                 // cmp byte [rsi], 0x12
    WAY("\xf7\x06\x85\x86\x87\x88"),     // test dword [rsi], imm
    WAY("\x0f\x44\x06"),                 // cmovz eax, [rsi]
    WAY("\x0f\x94\x06"),                 // setz [rsi]
    WAY("\x87\x06"),                     // xchg [rsi], eax
    WAY("\xf0\x0f\xc1\x06"),             // lock xadd [rsi], eax
    WAY("\x0f\xba\x26\x05"),             // bt dword [rsi], 5
    WAY("\x0f\xa3\x06"),                 // bt [rsi], eax
    WAY("\x0f\xaf\x06"),                 // imul eax, [rsi]
    WAY("\x0f\xc3\x06"),                 // movnti [rsi], eax
    WAY("\xa4\x48\xff\xce\x48\xff\xcf"), // movsb; dec rsi; dec rdi
    WAY("\xff\x36\x58"),                 // push [rsi]; pop rax
    WAY("\x8f\x06\x50"),                 // pop [rsi]; push rax
    WAY("\x0f\x10\x06"),                 // movups xmm0, [rsi]
    WAY("\x0f\x11\x06"),                 // movups [rsi], xmm0
    WAY("\xf3\x0f\x6f\x0e"),             // movdqu xmm1, [rsi]
    WAY("\x66\x0f\x6e\x16"),             // movd xmm2, [rsi]
    WAY("\xdb\x06\xdd\xd8"),             // fild dword [rsi]; fstp st0
};

struct outcome {
    struct cpu cpu;
    u8 data[0x3000];
    u64 reads, writes;
    u8 log[sizeof device.log];
    u64 served, specialised;
};

// Flags of a comparison have to come through, and those of the operation.
static void run_way(const char *name, unsigned n, u64 where, u64 exit_at, struct outcome *o)
{
    u8 body[64];
    unsigned len = 0;
    begin(name);
    e->c->cr4 |= X86_CR4_OSFXSR;
    e->c->gpr[X86_RSI] = where;
    e->c->gpr[X86_RDI] = DATA + 0x2800;
    e->c->gpr[X86_RSP] = STACK0;
    memcpy(body, "\x83\xf9\x15", 3); // cmp ecx, 21
    len += 3;
    memcpy(body + len, ways[n].code, ways[n].len);
    len += ways[n].len;
    memcpy(body + len, "\x41\x0f\x92\xc0\x49\x0f\xc8", 7); // setb r8b; bswap r8
    len += 7;
    put_loop((char *)body, len, 40);
    device.exit_at = exit_at;
    e->c->rip = CODE;
    testvm_run(e->t, ENGINE_NO_BUDGET);
    memset(o, 0, sizeof *o);
    o->cpu = *e->c;
    memcpy(o->data, e->t->ram + DATA, sizeof o->data);
    o->reads = device.reads;
    o->writes = device.writes;
    memcpy(o->log, device.log, sizeof device.log);
    if (!strcmp(name, "bt")) {
        o->specialised = counts()->specialised;
        for (unsigned i = 0; i < ADAPT_REASONS; i++)
            o->served += counts()->served[i];
    }
    end();
}

static u64 compare(u64 where, u64 exit_at)
{
    static struct outcome want, got;
    u64 served = 0;
    for (unsigned n = 0; n < ARRAY_LEN(ways); n++) {
        run_way("interp", n, where, exit_at, &want);
        run_way("bt", n, where, exit_at, &got);
        served += got.served;
        got.served = got.specialised = 0;
        for (unsigned g = 0; g < 16; g++)
            if (want.cpu.gpr[g] != got.cpu.gpr[g])
                print_error("way %u at %llx: register %u\n", n, (unsigned long long)where, g);
        if (want.cpu.rip != got.cpu.rip || want.cpu.rflags != got.cpu.rflags)
            print_error("way %u at %llx: rip %llx, not %llx, or flags\n", n, (unsigned long long)where,
                        (unsigned long long)got.cpu.rip, (unsigned long long)want.cpu.rip);
        assert_memory_equal(want.cpu.gpr, got.cpu.gpr, sizeof want.cpu.gpr);
        assert_int_equal(want.cpu.rip, got.cpu.rip);
        assert_int_equal(want.cpu.rflags, got.cpu.rflags);
        assert_memory_equal(want.cpu.xs.xmm, got.cpu.xs.xmm, sizeof want.cpu.xs.xmm);
        assert_int_equal(want.reads, got.reads);
        assert_int_equal(want.writes, got.writes);
        assert_memory_equal(want.log, got.log, sizeof want.log);
        assert_memory_equal(want.data, got.data, sizeof want.data);
    }
    return served;
}

static void same_as_interpreter(void **state)
{
    (void)state;
    assert_true(compare(DEVICE + 0x20, 0) > 30 * 25);
    assert_true(compare(DEVICE + 0xffd, 0) > 0); // across pages of a device
    assert_true(compare(DATA + 0xfff, 0) > 30 * 25);
    compare(DATA + 0xffd, 0);
    compare(DATA + 0xff1, 0);
    assert_true(compare(CODE + 0x400, 0) > 30 * 8);
    compare(CODE + 0xffd, 0);
    compare(0x17fffd, 0); // from where nothing is into a device
}

// Something comes up in the middle: before the next instruction is when it is seen, with flags as they are.
static void same_when_interrupted(void **state)
{
    (void)state;
    for (u64 n = 2; n < 36; n += 11)
        compare(DEVICE + 0x20, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(devices_become_special, start, stop),
        cmocka_unit_test_setup_teardown(a_few_times_is_not_enough, start, stop),
        cmocka_unit_test_setup_teardown(crossings_become_special, start, stop),
        cmocka_unit_test_setup_teardown(stores_beside_code_become_special, start, stop),
        cmocka_unit_test_setup_teardown(stores_into_code_are_seen, start, stop),
        cmocka_unit_test_setup_teardown(page_ceases_to_have_code, start, stop),
        cmocka_unit_test_setup_teardown(ports_are_counted, start, stop),
        cmocka_unit_test(can_be_switched_off),
        cmocka_unit_test_setup_teardown(goes_back_and_then_no_more, start, stop),
        cmocka_unit_test_setup_teardown(sites_go_with_their_blocks, start, stop),
        cmocka_unit_test(many_sites),
        cmocka_unit_test(same_as_interpreter),
        cmocka_unit_test(same_when_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
