// Do usual exceptions, interrupts and IRETs really go past the interpreter? What becomes of them is the business of guests (fault64): they see no
// difference, and so cannot tell.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "interp/xfer_env.h"

#include "engine/bt/bt.h"

#define TURNS 100

static struct env *e;

static int start(void **state)
{
    env_engine = "bt";
    env_long(state);
    e = *state;
    return 0;
}

static int start32(void **state)
{
    env_engine = "bt";
    env_protected(state);
    e = *state;
    return 0;
}

static struct bt *engine(void)
{
    return e->t->v->engine_state;
}

// Run the code at CODE up to its HLT.
static void run(const char *code, size_t len)
{
    testvm_put_code(e->t, CODE, code, len);
    e->c->rip = CODE;
    testvm_run(e->t, 100000);
    assert_int_equal(e->c->rip, CODE + len);
    assert_int_equal(e->c->gpr[X86_RCX], 0);
}

// Where C may use vector registers, they are the interpreter's.
static void needs_light_calls(void)
{
    if (BT_VEC_EAGER)
        skip();
}

static u64 stepped(unsigned op)
{
    return engine()->stepped[op].loop + engine()->stepped[op].inside;
}

// A gate for `vector` to a handler that does this.
static void handle(unsigned vector, const char *handler, size_t len)
{
    set_idt64(e, (u8)vector, CODE64, HANDLER, 0x8e, 0);
    testvm_put_code(e->t, HANDLER, handler, len);
}

static void returns_without_the_interpreter(void **state)
{
    static const char code[] = "\xb9\x64\0\0\0"         // mov ecx, 100
                               "\x48\x89\xe0"           // again: mov rax, rsp
                               "\x6a\x10\x50\x9c"       // push DATA0; push rax; pushfq
                               "\x68\x90\0\0\0"         // push CODE64
                               "\x48\x8d\x15\x03\0\0\0" // lea rdx, [next]
                               "\x52\x48\xcf"           // push rdx; iretq
                               "\xff\xc9\x75\xe4"       // next: dec ecx; jnz again
                               "\xf4";                  // hlt
    (void)state;
    _Static_assert(TURNS == 0x64 && DATA0 == 0x10 && CODE64 == 0x90, "in the code");
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.irets, TURNS - 2, TURNS);
    assert_in_range(stepped(ISA_OP_IRET), 0, 2);
}

static void page_faults_without_the_interpreter(void **state)
{
    static const char handler[] = "\x48\x83\x44\x24\x08\x07" // add qword [rsp+8], 7
                                  "\x48\x83\xc4\x08"         // add rsp, 8
                                  "\x48\xcf";                // iretq
    static const char code[] = "\xb9\x64\0\0\0"              // mov ecx, 100
                               "\x8a\x04\x25\0\0\x20\0"      // again: mov al, [0x200000]
                               "\xff\xc9\x75\xf5"            // dec ecx; jnz again
                               "\xf4";                       // hlt
    (void)state;
    handle(X86_EXC_PF, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.page_faults, TURNS - 2, TURNS);
    assert_in_range(engine()->stats.irets, TURNS - 2, TURNS);
    assert_in_range(stepped(ISA_OP_IRET) + stepped(ISA_OP_MOV), 0, 6);
}

static void soft_interrupts_without_the_interpreter(void **state)
{
    static const char handler[] = "\x48\xcf";     // iretq
    static const char code[] = "\xb9\x64\0\0\0"   // mov ecx, 100
                               "\xcd\x40\xcc"     // again: int 0x40; int3
                               "\xff\xc9\x75\xf9" // dec ecx; jnz again
                               "\xf4";            // hlt
    (void)state;
    handle(0x40, handler, sizeof handler - 1);
    handle(X86_EXC_BP, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.soft_ints, 2 * TURNS - 2, 2 * TURNS);
    assert_in_range(stepped(ISA_OP_INT) + stepped(ISA_OP_INT3), 0, 4);
}

static void divide_errors_without_the_interpreter(void **state)
{
    static const char handler[] = "\x48\x83\x04\x24\x02" // add qword [rsp], 2
                                  "\x48\xcf";            // iretq
    static const char code[] = "\xb9\x64\0\0\0"          // mov ecx, 100
                               "\x31\xd2\x31\xdb"        // xor edx, edx; xor ebx, ebx
                               "\xf7\xf3"                // again: div ebx
                               "\xff\xc9\x75\xfa"        // dec ecx; jnz again
                               "\xf4";                   // hlt
    (void)state;
    handle(X86_EXC_DE, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.exceptions, TURNS - 2, TURNS);
    assert_in_range(stepped(ISA_OP_DIV), 0, 2);
}

static void undefined_instructions_without_the_interpreter(void **state)
{
    static const char handler[] = "\x48\x83\x04\x24\x02" // add qword [rsp], 2
                                  "\x48\xcf";            // iretq
    static const char code[] = "\xb9\x64\0\0\0"          // mov ecx, 100
                               "\x0f\x0b"                // again: ud2
                               "\xff\xc9\x75\xfa"        // dec ecx; jnz again
                               "\xf4";                   // hlt
    (void)state;
    handle(X86_EXC_UD, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.exceptions, TURNS - 2, TURNS);
    assert_in_range(stepped(ISA_OP_UD2), 0, 2);
}

// What the interpreter raises is delivered without it.
static void other_faults_are_delivered_past_the_interpreter(void **state)
{
    static const char handler[] = "\x48\x83\xc4\x08"     // add rsp, 8
                                  "\x48\x83\x04\x24\x02" // add qword [rsp], 2
                                  "\x48\xcf";            // iretq
    static const char code[] = "\xb9\x64\0\0\0"          // mov ecx, 100
                               "\xb8\xf0\xff\0\0"        // mov eax, 0xfff0
                               "\x8e\xd8"                // again: mov ds, ax
                               "\xff\xc9\x75\xfa"        // dec ecx; jnz again
                               "\xf4";                   // hlt
    (void)state;
    handle(X86_EXC_GP, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.exceptions, TURNS - 2, TURNS);
}

static unsigned acknowledged;

static int acknowledge(void *intc)
{
    (void)intc;
    if (++acknowledged == TURNS)
        vcpu_request_clear(e->t->v, VCPU_REQ_INTR);
    return 0x40;
}

static void interrupts_without_the_interpreter(void **state)
{
    static const char handler[] = "\xff\xc1\x48\xcf"; // inc ecx; iretq
    static const char code[] = "\x31\xc9\xfb\x90"     // xor ecx, ecx; sti; nop
                               "\x83\xf9\x64\x75\xfb" // again: cmp ecx, 100; jnz again
                               "\x31\xc9\xf4";        // xor ecx, ecx; hlt
    (void)state;
    handle(0x40, handler, sizeof handler - 1);
    acknowledged = 0;
    e->t->v->intc.ack = acknowledge;
    vcpu_request(e->t->v, VCPU_REQ_INTR);
    run(code, sizeof code - 1);
    assert_int_equal(acknowledged, TURNS);
    assert_in_range(engine()->stats.interrupts, TURNS - 2, TURNS);
}

// A group of accesses on both sides of a page's end.
static void groups_that_fail_without_the_interpreter(void **state)
{
    static const char code[] = "\xb9\x64\0\0\0"   // mov ecx, 100
                               "\xbb\0\0\x03\0"   // mov ebx, 0x30000
                               "\x48\x8b\x43\xf8" // again: mov rax, [rbx - 8]
                               "\x48\x8b\x13"     // mov rdx, [rbx]
                               "\xff\xc9\x75\xf5" // dec ecx; jnz again
                               "\xf4";            // hlt
    (void)state;
    testvm_put_code(e->t, 0x2fff8, "\x88\x77\x66\x55\x44\x33\x22\x11\0\xff\xee\xdd\xcc\xbb\xaa\x99", 16);
    run(code, sizeof code - 1);
    assert_true(e->c->gpr[X86_RAX] == 0x1122334455667788 && e->c->gpr[X86_RDX] == 0x99aabbccddeeff00);
    assert_in_range(engine()->stats.unshared, 1, TURNS);
    assert_in_range(stepped(ISA_OP_MOV), 0, 2);
}

// 100 times each; what they do is sys64's business.
static void system_instructions_without_the_interpreter(void **state)
{
    static const char code[] = "\xbe\x64\0\0\0"               // mov esi, 100
                               "\x31\xc0\x31\xc9\x0f\xa2"     // again: xor eax, eax; xor ecx, ecx; cpuid
                               "\xb9\x02\x01\0\xc0\x0f\x32"   // mov ecx, KERNEL_GS_BASE; rdmsr
                               "\xff\xc0\x0f\x30"             // inc eax; wrmsr
                               "\x0f\x20\xd8\x0f\x22\xd8"     // mov rax, cr3; mov cr3, rax
                               "\x0f\x01\x3c\x25\0\x10\x10\0" // invlpg [0x101000]
                               "\x0f\x06\x0f\x21\xf8"         // clts; mov rax, dr7
                               "\xff\xce\x75\xd6"             // dec esi; jnz again
                               "\x31\xc9\xf4";                // xor ecx, ecx; hlt
    (void)state;
    needs_light_calls();
    run(code, sizeof code - 1);
    assert_int_equal(e->c->msr.kernel_gs_base, TURNS);
    assert_in_range(engine()->stats.light, 5 * (TURNS - 2), 5 * TURNS);
    assert_in_range(engine()->stats.inner_steps + engine()->stats.steps, 0, 30);
}

// A page with code is filled at once, not element by element.
static void fills_pages_with_code_without_the_interpreter(void **state)
{
    static const char code[] = "\xe8\xfb\x0f\0\0"      // call HANDLER
                               "\xbf\0\x10\x01\0"      // mov edi, HANDLER
                               "\xb9\xff\x0f\0\0"      // mov ecx, 4095
                               "\xb0\x5a\xf3\xaa\xf4"; // mov al, 0x5a; rep stosb; hlt
    (void)state;
    testvm_put_code(e->t, HANDLER, "\xc3", 1);
    e->t->ram[HANDLER + 4095] = 0x77;
    run(code, sizeof code - 1);
    for (unsigned i = 0; i < 4095; i++)
        assert_int_equal(e->t->ram[HANDLER + i], 0x5a);
    assert_int_equal(e->t->ram[HANDLER + 4095], 0x77);
    assert_true(e->c->gpr[X86_RDI] == HANDLER + 4095 && !(e->c->rflags & X86_FL_RF));
    assert_in_range(stepped(ISA_OP_STOS), 0, 2);
}

static void vector_state_is_saved_without_the_interpreter(void **state)
{
    static const char code[] = "\xb9\x64\0\0\0\x31\xd2"            // mov ecx, 100; xor edx, edx
                               "\xb8\x07\0\0\0"                    // mov eax, 7
                               "\x66\x48\x0f\x6e\xc9"              // again: movq xmm1, rcx
                               "\x48\x0f\xc7\x24\x25\0\0\x03\0"    // xsavec64 [0x30000]
                               "\x66\x0f\xef\xc9"                  // pxor xmm1, xmm1
                               "\x48\x0f\xae\x2c\x25\0\0\x03\0"    // xrstor64 [0x30000]
                               "\x66\x48\x0f\x7e\xcb\x39\xcb"      // movq rbx, xmm1; cmp ebx, ecx
                               "\x75\x05\xff\xc9\x75\xd8\xf4\xf4"; // jnz out; dec ecx; jnz again; hlt; out: hlt
    (void)state;
    needs_light_calls();
    e->c->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
    e->c->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    testvm_put_code(e->t, CODE, code, sizeof code - 1);
    e->c->rip = CODE;
    testvm_run(e->t, 100000);
    assert_int_equal(e->c->gpr[X86_RCX], 0);
    assert_in_range(engine()->stats.light, 2 * (TURNS - 2), 2 * TURNS);
    assert_in_range(stepped(ISA_OP_XSAVEC) + stepped(ISA_OP_XRSTOR), 0, 4);
}

// Rounding modes come and go; a value that unmasks an exception is the interpreter's.
static void mxcsr_is_moved_without_the_interpreter(void **state)
{
    static const char code[] = "\xb9\x64\0\0\0"                 // mov ecx, 100
                               "\x0f\xae\x1c\x25\0\0\x03\0"     // again: stmxcsr [0x30000]
                               "\x80\x34\x25\x01\0\x03\0\x20"   // xor byte [0x30001], 0x20
                               "\x0f\xae\x14\x25\0\0\x03\0"     // ldmxcsr [0x30000]
                               "\xff\xc9\x75\xe4"               // dec ecx; jnz again
                               "\x66\xc7\x04\x25\0\0\x03\0\0\0" // mov word [0x30000], 0
                               "\x0f\xae\x14\x25\0\0\x03\0"     // ldmxcsr [0x30000]
                               "\xf4";                          // hlt
    (void)state;
    e->c->cr4 |= X86_CR4_OSFXSR;
    e->c->xs.mxcsr = X86_MXCSR_DEFAULT;
    run(code, sizeof code - 1);
    assert_int_equal(e->c->xs.mxcsr, 0);
    assert_int_equal(e->t->ram[0x30001], 0);
    assert_in_range(stepped(ISA_OP_LDMXCSR) + stepped(ISA_OP_STMXCSR), 1, 4);
}

static void handle32(unsigned vector, const char *handler, size_t len)
{
    set_idt(e, (u8)vector, CODE0, HANDLER, 0xee);
    testvm_put_code(e->t, HANDLER, handler, len);
}

static void transfers_of_32_bits_without_the_interpreter(void **state)
{
    static const char handler[] = "\xcf";         // iret
    static const char code[] = "\xb9\x64\0\0\0"   // mov ecx, 100
                               "\xcd\x40\xcc"     // again: int 0x40; int3
                               "\xff\xc9\x75\xf9" // dec ecx; jnz again
                               "\xf4";            // hlt
    (void)state;
    handle32(0x40, handler, sizeof handler - 1);
    handle32(X86_EXC_BP, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.soft_ints, 2 * TURNS - 2, 2 * TURNS);
    assert_in_range(engine()->stats.irets, 2 * TURNS - 2, 2 * TURNS);
    assert_in_range(stepped(ISA_OP_INT) + stepped(ISA_OP_INT3) + stepped(ISA_OP_IRET), 0, 6);
}

// A call from CPL 3 and back, and the segment registers that go with it.
static void privilege_changes_of_32_bits_without_the_interpreter(void **state)
{
    static const char handler[] = "\x1e\x06\x0f\xa0" // push ds; push es; push fs
                                  "\xba\x23\0\0\0"   // mov edx, DATA3 | 3
                                  "\x8e\xda\x8e\xc2" // mov ds, edx; mov es, edx
                                  "\x0f\xa1\x07\x1f" // pop fs; pop es; pop ds
                                  "\xcf";            // iret
    static const char code[] = "\xcd\x40\xeb\xfc";   // again: int 0x40; jmp again
    (void)state;
    needs_light_calls();
    at_level(e, 3);
    handle32(0x40, handler, sizeof handler - 1);
    testvm_put_code(e->t, CODE, code, sizeof code - 1);
    testvm_run(e->t, TURNS * 12);
    assert_int_equal(e->c->cpl, 3);
    assert_int_equal(e->c->seg[X86_DS].sel, DATA3 | 3);
    assert_in_range(engine()->stats.soft_ints, TURNS - 2, TURNS);
    assert_in_range(engine()->stats.irets, TURNS - 2, TURNS);
    assert_in_range(engine()->stats.inner_steps + engine()->stats.steps, 0, 40);
}

static void sysenter_and_sysexit_without_the_interpreter(void **state)
{
    static const char kernel[] = "\x49\x89\xda"      // dec ecx; mov edx, ebx
                                 "\x87\xcf\x0f\x35"; // xchg ecx, edi; sysexit
    static const char code[] =
        "\x87\xcf\x89\xe7\x0f\x34"; // again: xchg ecx, edi; mov edi, esp; sysenter, which comes back to again
    (void)state;
    e->c->msr.sysenter_cs = 0x200;
    e->c->msr.sysenter_eip = HANDLER;
    e->c->msr.sysenter_esp = STACK0;
    testvm_put_code(e->t, HANDLER, kernel, sizeof kernel - 1);
    testvm_put_code(e->t, CODE, code, sizeof code - 1);
    at_level(e, 3);
    e->c->gpr[X86_RBX] = CODE;
    testvm_run(e->t, TURNS * 7);
    assert_int_equal(stepped(ISA_OP_SYSENTER) + stepped(ISA_OP_SYSEXIT), 0);
    assert_in_range(engine()->stats.light, 2 * TURNS - 4, 2 * TURNS);
}

// A branch that could not be linked, because no budget was left for its target, says nothing of flags somewhere else.
static void forgets_branches_that_were_not_linked(void **state)
{
    static const char code[] = "\xba\0\0\0\0\xbf\x04\0\0\0\x31\xc0" // mov edx, 0; mov edi, 4; xor eax, eax
                               "\xf8\x8b\x34\x25\0\0\x03\0"         // again: clc; mov esi, [0x30000]
                               "\x83\xd0\0\x83\xc2\x01"             // adc eax, 0; add edx, 1
                               "\x39\xfa\x72\xee\xf4";              // cmp edx, edi; jb again; hlt
    (void)state;
    testvm_put_code(e->t, CODE, code, sizeof code - 1);
    e->c->rip = CODE;
    testvm_run(e->t, 10); // to the second CLC
    testvm_run(e->t, 1000);
    assert_int_equal(e->c->gpr[X86_RDX], 4);
    assert_int_equal(e->c->gpr[X86_RAX], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(returns_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(page_faults_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(soft_interrupts_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(divide_errors_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(undefined_instructions_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(other_faults_are_delivered_past_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(interrupts_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(groups_that_fail_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(system_instructions_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(fills_pages_with_code_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(vector_state_is_saved_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(transfers_of_32_bits_without_the_interpreter, start32, env_free),
        cmocka_unit_test_setup_teardown(privilege_changes_of_32_bits_without_the_interpreter, start32, env_free),
        cmocka_unit_test_setup_teardown(sysenter_and_sysexit_without_the_interpreter, start32, env_free),
        cmocka_unit_test_setup_teardown(forgets_branches_that_were_not_linked, start, env_free),
        cmocka_unit_test_setup_teardown(mxcsr_is_moved_without_the_interpreter, start, env_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
