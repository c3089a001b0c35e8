// Do usual page faults and IRETs really go past the interpreter? What becomes of them is the business of guests (fault64): they see no
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

static u64 stepped(unsigned op)
{
    return engine()->stepped[op].loop + engine()->stepped[op].inside;
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
    put(e, IDT + 14 * 16, 8, (u64)0x8e00 << 32 | (u64)CODE64 << 16 | (HANDLER & 0xffff) | (u64)(HANDLER >> 16) << 48);
    put(e, IDT + 14 * 16 + 8, 8, 0);
    testvm_put_code(e->t, HANDLER, handler, sizeof handler - 1);
    run(code, sizeof code - 1);
    assert_in_range(engine()->stats.page_faults, TURNS - 2, TURNS);
    assert_in_range(engine()->stats.irets, TURNS - 2, TURNS);
    assert_in_range(stepped(ISA_OP_IRET) + stepped(ISA_OP_MOV), 0, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(returns_without_the_interpreter, start, env_free),
        cmocka_unit_test_setup_teardown(page_faults_without_the_interpreter, start, env_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
