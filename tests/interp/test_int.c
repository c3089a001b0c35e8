// The integer instructions where the processor they run on cannot be asked: REP in the middle of things, ports and their
// permission bitmap, and the interrupt flag in all its disguises (IOPL, VME, PVI). Results of plain arithmetic and memory
// operations are held against the real processor elsewhere.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/testvm.h"

#include "engine/interp/interp.h"

#define RAM_SIZE 0x100000u
#define CODE 0x1000u
#define TSS 0x2000u
#define DATA 0x8000u
#define STACK 0x7000u
#define NONE (-1)

static struct testvm *vm;
static struct cpu *c;

// --- a device that records, and asks for attention ---------------------------------------------------------------------------

#define PORT 0x100u

struct probe_dev {
    unsigned reads, writes;
    unsigned kick_at; // ask for an exit at the n-th access
    u8 written[64];
};

static struct probe_dev dev;

static void dev_access(unsigned total)
{
    if (total == dev.kick_at)
        vcpu_request(vm->v, VCPU_REQ_EXIT);
}

static u64 dev_read(void *self, u64 off, unsigned size)
{
    (void)self;
    (void)off;
    (void)size;
    dev_access(++dev.reads);
    return 0x40 + dev.reads;
}

static void dev_write(void *self, u64 off, unsigned size, u64 val)
{
    (void)self;
    (void)off;
    (void)size;
    dev.written[dev.writes % sizeof dev.written] = (u8)val;
    dev_access(++dev.writes);
}

static const struct dev_ops dev_ops = {.name = "probe", .read = dev_read, .write = dev_write};

// --- the machine ------------------------------------------------------------------------------------------------------------

static int set_up(void **state)
{
    (void)state;
    vm = testvm_create(testvm_engine(), RAM_SIZE, NULL);
    c = &vm->v->cpu;
    memset(&dev, 0, sizeof dev);
    return bus_add(&vm->machine->bus, PORT, 8, &dev_ops, &dev);
}

static int tear_down(void **state)
{
    (void)state;
    testvm_destroy(vm);
    return 0;
}

static void flat(unsigned seg, u32 attr, u64 base, u32 limit)
{
    c->seg[seg] = (struct x86_seg){.sel = (u16)(seg << 3), .attr = attr, .base = base, .limit = limit};
}

// Flat 32-bit protected mode at privilege `cpl`, with a TSS whose I/O bitmap starts at 0x68.
static void enter_pmode(unsigned cpl)
{
    u32 dpl = cpl << X86_SEG_DPL_SHIFT;
    for (unsigned i = 0; i < 6; i++)
        flat(i, 0xc093 | dpl, 0, 0xffffffff);
    flat(X86_CS, 0xc09b | dpl, 0, 0xffffffff);
    flat(X86_TR, 0x8b, TSS, 0x68 + 0x40);
    vm->ram[TSS + 102] = 0x68;
    vm->ram[TSS + 103] = 0;
    c->cr0 = X86_CR0_PE | X86_CR0_ET;
    c->cr4 = 0;
    c->cpl = (u8)cpl;
    c->rflags = X86_FL_RSVD1;
    c->rip = CODE;
    c->gpr[X86_RSP] = STACK;
}

static void enter_v86(void)
{
    enter_pmode(3);
    for (unsigned i = 0; i < 6; i++)
        flat(i, 0xf3, 0, 0xffff);
    c->rflags |= X86_FL_VM;
}

// Run the instruction at CODE; the vector it raised, or NONE.
static int step(const void *code, size_t len)
{
    testvm_put_code(vm, CODE, code, len);
    c->rip = CODE;
    c->event.type = CPU_EVENT_NONE;
    testvm_run(vm, 1);
    int vector = c->event.type == CPU_EVENT_NONE ? NONE : c->event.vector;
    c->event.type = CPU_EVENT_NONE;
    return vector;
}

#define STEP(...) step((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

// --- repetition -------------------------------------------------------------------------------------------------------------

// A request leaves a REP between two iterations, and the instruction carries on from there.
static void test_rep_interrupted(void **state)
{
    (void)state;
    enter_pmode(0);
    for (unsigned i = 0; i < 8; i++)
        vm->ram[DATA + i] = (u8)(i + 1);
    testvm_put_code(vm, CODE, "\xf3\x6e\xf4", 3); // rep outsb; hlt
    c->gpr[X86_RCX] = 8;
    c->gpr[X86_RSI] = DATA;
    c->gpr[X86_RDX] = PORT;
    dev.kick_at = 3;
    struct vm_exit e = testvm_run(vm, 100);
    assert_int_equal(e.reason, VM_EXIT_KICK);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->gpr[X86_RCX], 5);
    assert_int_equal(c->gpr[X86_RSI], DATA + 3);
    e = testvm_run(vm, 100);
    assert_int_equal(e.reason, VM_EXIT_HALT);
    assert_int_equal(dev.writes, 8);
    assert_memory_equal(dev.written, "\1\2\3\4\5\6\7\10", 8);
}

// With TF set every iteration traps, with RIP on the instruction until the last.
static void test_rep_single_step(void **state)
{
    (void)state;
    enter_pmode(0);
    c->rflags |= X86_FL_TF;
    c->gpr[X86_RCX] = 3;
    c->gpr[X86_RDI] = DATA;
    for (unsigned left = 2;; left--) {
        assert_int_equal(STEP(0xf3, 0xaa), X86_EXC_DB);
        assert_int_equal(c->gpr[X86_RCX], left);
        if (left == 0)
            break;
        assert_int_equal(c->rip, CODE);
    }
    assert_int_equal(c->rip, CODE + 2);
}

// REP MOVS over several pages against an element-by-element copy, in both directions and with every kind of overlap.
static void test_rep_movs(void **state)
{
    (void)state;
    static u8 model[RAM_SIZE];
    enter_pmode(0);
    testvm_put_code(vm, CODE, "\xf3\xa4\xf4\xf3\xa5\xf4", 6); // rep movsb; hlt; rep movsd; hlt
    for (unsigned i = 0; i < 64; i++) {
        unsigned size = i & 1 ? 4 : 1, count = 1 + (i * 997) % 3000;
        int distance = (int)(i % 16 < 8 ? i % 8 : i * 1237 % 9000) * (i & 2 ? 1 : -1);
        bool down = i & 4;
        u32 src = 0x20000 + i * 3, dst = (u32)((int)src + distance);
        for (u32 a = 0x10000; a < 0x40000; a++)
            vm->ram[a] = (u8)(a * 7 ^ a >> 8);
        memcpy(model, vm->ram, RAM_SIZE);
        for (unsigned n = 0; n < count; n++) {
            u32 off = (down ? 0u - n : n) * size;
            u8 element[4];
            memcpy(element, model + (u32)(src + off), size);
            memcpy(model + (u32)(dst + off), element, size);
        }
        c->rip = CODE + (size == 4 ? 3 : 0);
        c->rflags = X86_FL_RSVD1 | (down ? X86_FL_DF : 0);
        c->gpr[X86_RCX] = count;
        c->gpr[X86_RSI] = src;
        c->gpr[X86_RDI] = dst;
        c->activity = CPU_RUNNING;
        assert_int_equal(testvm_run(vm, 100).reason, VM_EXIT_HALT);
        assert_int_equal(c->gpr[X86_RCX], 0);
        assert_int_equal((u32)c->gpr[X86_RDI], dst + (down ? 0u - count : count) * size);
        assert_memory_equal(vm->ram + 0x8000, model + 0x8000, RAM_SIZE - 0x8000);
    }
}

// An interrupt that IF holds back does not slow a REP down to single iterations.
static void test_rep_masked_interrupt(void **state)
{
    (void)state;
    enter_pmode(0);
    testvm_put_code(vm, CODE, "\xf3\xaa", 2);
    c->gpr[X86_RCX] = 5000;
    c->gpr[X86_RDI] = DATA;
    vcpu_request(vm->v, VCPU_REQ_INTR);
    testvm_run(vm, 2000); // the budget bounds iterations of a call
    assert_int_equal(c->gpr[X86_RCX] < 4000, true);
}

// --- ports ------------------------------------------------------------------------------------------------------------------

// INS does not touch the port when its destination cannot be written.
static void test_ins_probes(void **state)
{
    (void)state;
    enter_pmode(0);
    c->seg[X86_ES].limit = DATA;
    c->gpr[X86_RDX] = PORT;
    c->gpr[X86_RDI] = DATA + 1;
    assert_int_equal(STEP(0x6c), X86_EXC_GP);
    assert_int_equal(dev.reads, 0);
    c->gpr[X86_RDI] = DATA;
    assert_int_equal(STEP(0x6c), NONE);
    assert_int_equal(dev.reads, 1);
    assert_int_equal(vm->ram[DATA], 0x41);
}

static void deny_port(unsigned port)
{
    vm->ram[TSS + 0x68 + port / 8] |= (u8)(1u << (port & 7));
}

static void test_io_bitmap(void **state)
{
    (void)state;
    enter_pmode(3);
    c->gpr[X86_RDX] = PORT;
    assert_int_equal(STEP(0xec), NONE);
    deny_port(PORT + 1);
    assert_int_equal(STEP(0xec), NONE);
    assert_int_equal(STEP(0x66, 0xed), X86_EXC_GP); // two ports: the second is denied
    assert_int_equal(STEP(0xed), X86_EXC_GP);
    c->gpr[X86_RDX] = PORT + 2;
    assert_int_equal(STEP(0xed), NONE);
    c->rflags |= X86_FL_IOPL;
    c->gpr[X86_RDX] = PORT + 1;
    assert_int_equal(STEP(0xec), NONE); // IOPL 3 needs no bitmap ...
    enter_v86();
    c->rflags |= X86_FL_IOPL;
    assert_int_equal(STEP(0xec), X86_EXC_GP); // ... but v8086 mode does
    c->gpr[X86_RDX] = PORT;
    assert_int_equal(STEP(0xec), NONE);
    // Both bytes that hold a port's bit must lie within the limit.
    c->gpr[X86_RDX] = 0x1f7;
    assert_int_equal(STEP(0xec), NONE);
    c->gpr[X86_RDX] = 0x200;
    assert_int_equal(STEP(0xec), X86_EXC_GP);
    c->gpr[X86_RDX] = PORT;
    c->seg[X86_TR].limit = 103 - 1;
    assert_int_equal(STEP(0xec), X86_EXC_GP);
    c->seg[X86_TR].limit = 0xa8;
    c->seg[X86_TR].attr = 0x80 | X86_SYS_TSS16_BUSY; // has no bitmap
    assert_int_equal(STEP(0xec), X86_EXC_GP);
}

// --- flags --------------------------------------------------------------------------------------------------------------------

static bool flag(u64 f)
{
    return c->rflags & f;
}

static void test_cli_sti(void **state)
{
    (void)state;
    for (unsigned iopl = 0; iopl < 4; iopl++) {
        for (unsigned cpl = 0; cpl < 4; cpl++) {
            enter_pmode(cpl);
            c->rflags |= iopl << X86_FL_IOPL_SHIFT;
            bool allowed = cpl <= iopl;
            assert_int_equal(STEP(0xfb), allowed ? NONE : X86_EXC_GP);
            assert_int_equal(flag(X86_FL_IF), allowed);
            assert_int_equal(c->shadow, allowed ? CPU_SHADOW_STI : 0);
            assert_int_equal(STEP(0xfb), allowed ? NONE : X86_EXC_GP); // IF was set: no shadow
            assert_int_equal(c->shadow, 0);
            c->rflags |= X86_FL_IF;
            assert_int_equal(STEP(0xfa), allowed ? NONE : X86_EXC_GP);
            assert_int_equal(flag(X86_FL_IF), !allowed);
        }
    }
}

// CPL 3 under PVI, v8086 mode under VME: CLI and STI work on VIF, and STI faults while an interrupt is pending (VIP).
static void test_virtual_interrupts(void **state)
{
    (void)state;
    for (unsigned v86 = 0; v86 < 2; v86++) {
        if (v86)
            enter_v86();
        else
            enter_pmode(3);
        c->cr4 = v86 ? X86_CR4_PVI : X86_CR4_VME; // the other one's bit does not help
        assert_int_equal(STEP(0xfb), X86_EXC_GP);
        c->cr4 = v86 ? X86_CR4_VME : X86_CR4_PVI;
        assert_int_equal(STEP(0xfb), NONE);
        assert_true(flag(X86_FL_VIF) && !flag(X86_FL_IF));
        assert_int_equal(STEP(0xfa), NONE);
        assert_false(flag(X86_FL_VIF));
        c->rflags |= X86_FL_VIP;
        assert_int_equal(STEP(0xfb), X86_EXC_GP);
        assert_false(flag(X86_FL_VIF));
    }
    enter_pmode(2); // PVI is for CPL 3 only
    c->cr4 = X86_CR4_PVI;
    assert_int_equal(STEP(0xfa), X86_EXC_GP);
}

static u32 top_of_stack(unsigned size)
{
    u32 v = 0;
    memcpy(&v, vm->ram + (c->gpr[X86_RSP] & 0xffff), size);
    return v;
}

static void test_pushf_v86(void **state)
{
    (void)state;
    enter_v86();
    assert_int_equal(STEP(0x9c), X86_EXC_GP);
    c->cr4 = X86_CR4_VME;
    assert_int_equal(STEP(0x66, 0x9c), X86_EXC_GP); // 32 bits: not even under VME
    c->rflags |= X86_FL_VIF | X86_FL_CF;
    assert_int_equal(STEP(0x9c), NONE);
    assert_int_equal(top_of_stack(2), X86_FL_IOPL | X86_FL_IF | X86_FL_CF | X86_FL_RSVD1);
    c->rflags = (c->rflags & ~(u64)X86_FL_VIF) | X86_FL_IF;
    assert_int_equal(STEP(0x9c), NONE);
    assert_int_equal(top_of_stack(2), X86_FL_IOPL | X86_FL_CF | X86_FL_RSVD1);
    c->rflags |= X86_FL_IOPL | X86_FL_RF;
    assert_int_equal(STEP(0x66, 0x9c), NONE); // IOPL 3: the real flags, but VM and RF read as 0
    assert_int_equal(top_of_stack(4), X86_FL_IOPL | X86_FL_IF | X86_FL_CF | X86_FL_RSVD1);
}

static int popf(unsigned size, u32 val)
{
    c->gpr[X86_RSP] = STACK;
    memcpy(vm->ram + STACK, &val, 4);
    u8 code[2] = {0x66, 0x9d};
    bool prefix = (size == 2) != (cpu_v8086(c) != 0);
    return prefix ? step(code, 2) : step(code + 1, 1);
}

static void test_popf_v86(void **state)
{
    (void)state;
    enter_v86();
    assert_int_equal(popf(2, 0), X86_EXC_GP);
    c->cr4 = X86_CR4_VME;
    assert_int_equal(popf(4, 0), X86_EXC_GP);
    assert_int_equal(popf(2, X86_FL_TF), X86_EXC_GP);
    assert_int_equal(popf(2, X86_FL_IF | X86_FL_CF | X86_FL_IOPL), NONE);
    assert_int_equal(c->rflags, X86_FL_VM | X86_FL_VIF | X86_FL_CF | X86_FL_RSVD1);
    c->rflags |= X86_FL_VIP | X86_FL_IF;
    assert_int_equal(popf(2, X86_FL_IF), X86_EXC_GP);
    assert_int_equal(popf(2, X86_FL_ZF), NONE);
    assert_int_equal(c->rflags, X86_FL_VM | X86_FL_VIP | X86_FL_IF | X86_FL_ZF | X86_FL_RSVD1);
    c->rflags = X86_FL_VM | X86_FL_IOPL | X86_FL_RSVD1;
    assert_int_equal(popf(4, 0xffffffff & ~(X86_FL_IOPL | X86_FL_TF)), NONE); // IF moves, IOPL does not
    assert_int_equal(c->rflags, (X86_FL_ALL & ~(X86_FL_VIF | X86_FL_VIP | X86_FL_RF | X86_FL_TF)) | X86_FL_RSVD1);
}

// Which bits move at which privilege. SDM 2B table 4-17.
static void test_popf_pmode(void **state)
{
    (void)state;
    const u32 never = X86_FL_VM | X86_FL_VIF | X86_FL_VIP | X86_FL_RF;
    for (unsigned cpl = 0; cpl < 4; cpl++) {
        for (unsigned iopl = 0; iopl < 4; iopl++) {
            for (unsigned size = 2; size <= 4; size += 2) {
                u32 may = X86_FL_ALL & ~(never | X86_FL_IF | X86_FL_IOPL);
                may |= cpl <= iopl ? X86_FL_IF : 0;
                may |= cpl == 0 ? X86_FL_IOPL : 0;
                may &= size == 2 ? 0xffff : 0xffffffff;
                enter_pmode(cpl);
                u32 old = X86_FL_RSVD1 | iopl << X86_FL_IOPL_SHIFT;
                c->rflags = old;
                assert_int_equal(popf(size, 0xffffffff), NONE);
                assert_int_equal(c->rflags, old | may);
                enter_pmode(cpl);
                old = (X86_FL_ALL & ~(u32)(X86_FL_IOPL | X86_FL_VM | X86_FL_TF | X86_FL_AC)) | X86_FL_RSVD1 |
                      iopl << X86_FL_IOPL_SHIFT;
                c->rflags = old;
                assert_int_equal(popf(size, 0), NONE);
                assert_int_equal(c->rflags, (old & ~may & ~(u32)X86_FL_RF));
            }
        }
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(test_rep_interrupted), T(test_rep_single_step), T(test_rep_movs),   T(test_rep_masked_interrupt),
        T(test_ins_probes),      T(test_io_bitmap),       T(test_cli_sti),    T(test_virtual_interrupts),
        T(test_pushf_v86),       T(test_popf_v86),        T(test_popf_pmode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
