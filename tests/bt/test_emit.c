// Every helper of the emitter, with every register and every size of displacement, read back by Zydis.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>

#include "engine/bt/emit.h"

#define DELTA 0x10000000ull // from where code is written to where it runs

static u8 buffer[64];
static struct emit e;
static ZydisDecodedInstruction z;
static ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
static const i32 disps[] = {0, 1, -1, 127, 128, -128, -129, 0x12345678, INT32_MAX, INT32_MIN};

static void begin(void)
{
    memset(buffer, 0xcc, sizeof(buffer));
    e = (struct emit){.p = buffer, .end = buffer + sizeof(buffer), .to_exec = DELTA};
}

// What was emitted is one instruction with this mnemonic.
static void decoded(ZydisMnemonic mnemonic)
{
    ZydisDecoder d;

    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, buffer, sizeof(buffer), &z, op)));
    assert_int_equal(z.length, e.p - buffer);
    assert_int_equal(z.mnemonic, mnemonic);
}

static void is_reg(const ZydisDecodedOperand *o, unsigned size, unsigned reg)
{
    ZydisRegisterClass cls = size == 8 ? ZYDIS_REGCLASS_GPR64 : size == 4 ? ZYDIS_REGCLASS_GPR32 : ZYDIS_REGCLASS_GPR16;

    assert_int_equal(o->type, ZYDIS_OPERAND_TYPE_REGISTER);
    assert_int_equal(o->reg.value, ZydisRegisterEncode(cls, (u8)reg));
}

static ZydisRegister wide(unsigned reg)
{
    return ZydisRegisterEncode(ZYDIS_REGCLASS_GPR64, (u8)reg);
}

static void is_mem(const ZydisDecodedOperand *o, int base, int index, unsigned scale, i64 disp)
{
    assert_int_equal(o->type, ZYDIS_OPERAND_TYPE_MEMORY);
    assert_int_equal(o->mem.base, base < 0 ? ZYDIS_REGISTER_NONE : wide((unsigned)base));
    assert_int_equal(o->mem.index, index < 0 ? ZYDIS_REGISTER_NONE : wide((unsigned)index));
    if (index >= 0)
        assert_int_equal(o->mem.scale, 1u << scale);
    assert_int_equal(o->mem.disp.value, disp);
}

static void registers(void **state)
{
    (void)state;
    for (unsigned size = 4; size <= 8; size += 4)
        for (unsigned a = 0; a < 16; a++)
            for (unsigned b = 0; b < 16; b++) {
                begin();
                emit_mov_rr(&e, size, a, b);
                decoded(ZYDIS_MNEMONIC_MOV);
                is_reg(&op[0], size, a);
                is_reg(&op[1], size, b);
                begin();
                emit_rr(&e, size, 0x1b7, a, b);
                decoded(ZYDIS_MNEMONIC_MOVZX);
                is_reg(&op[0], size, a);
                is_reg(&op[1], 2, b);
            }
}

static void base_and_displacement(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 8; size *= 2)
        for (unsigned r = 0; r < 16; r++)
            for (unsigned base = 0; base < 16; base++)
                for (size_t i = 0; i < ARRAY_LEN(disps); i++) {
                    begin();
                    emit_rm(&e, size, 0x8b, r, base, disps[i]);
                    decoded(ZYDIS_MNEMONIC_MOV);
                    is_reg(&op[0], size, r);
                    is_mem(&op[1], (int)base, -1, 0, disps[i]);
                }
}

static void indexed(void **state)
{
    (void)state;
    for (unsigned size = 4; size <= 8; size += 4)
        for (unsigned base = 0; base < 16; base++)
            for (unsigned index = 0; index < 16; index++)
                for (unsigned scale = 0; scale < 4; scale++)
                    for (size_t i = 0; i < ARRAY_LEN(disps); i++) {
                        unsigned to = (base * 5 + index) & 15;
                        bool none = index == X86_RSP;
                        begin();
                        emit_lea(&e, size, to, base, index, scale, disps[i]);
                        decoded(ZYDIS_MNEMONIC_LEA);
                        is_reg(&op[0], size, to);
                        is_mem(&op[1], (int)base, none ? -1 : (int)index, scale, disps[i]);
                        if (none)
                            continue;
                        begin();
                        emit_lea_index(&e, size, to, index, scale, disps[i]);
                        decoded(ZYDIS_MNEMONIC_LEA);
                        is_reg(&op[0], size, to);
                        is_mem(&op[1], -1, (int)index, scale, disps[i]);
                    }
}

static void near_memory(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 8; size *= 2)
        for (unsigned r = 0; r < 16; r++)
            for (size_t i = 0; i < ARRAY_LEN(disps); i++) {
                const u8 *addr = buffer + DELTA + disps[i] / 2;
                ZyanU64 there;
                begin();
                emit_load(&e, size, r, addr);
                decoded(ZYDIS_MNEMONIC_MOV);
                is_reg(&op[0], size, r);
                assert_true(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&z, &op[1], (u64)buffer + DELTA, &there)));
                assert_int_equal(there, (u64)addr);
                begin();
                emit_store_imm(&e, addr, 0x87654321);
                decoded(ZYDIS_MNEMONIC_MOV);
                assert_true(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&z, &op[0], (u64)buffer + DELTA, &there)));
                assert_int_equal(there, (u64)addr);
                assert_int_equal((u32)op[1].imm.value.u, 0x87654321);
            }
}

static void constants(void **state)
{
    static const u64 values[] = {0,           1,     0x7fffffff,         0x80000000,         0xffffffff,
                                 0x100000000, ~0ull, 0xffffffff80000000, 0xffffffff7fffffff, 0x123456789abcdef0};
    static const ZydisMnemonic names[] = {ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_OR,  ZYDIS_MNEMONIC_ADC,
                                          ZYDIS_MNEMONIC_SBB, ZYDIS_MNEMONIC_AND, ZYDIS_MNEMONIC_SUB,
                                          ZYDIS_MNEMONIC_XOR, ZYDIS_MNEMONIC_CMP};

    (void)state;
    for (unsigned r = 0; r < 16; r++) {
        for (size_t i = 0; i < ARRAY_LEN(values); i++) {
            begin();
            emit_mov_imm(&e, r, values[i]);
            decoded(ZYDIS_MNEMONIC_MOV);
            is_reg(&op[0], values[i] <= 0xffffffffu ? 4 : 8, r);
            assert_true(z.operand_width == 32 || op[1].imm.value.u == values[i]);
            assert_int_equal((u32)op[1].imm.value.u, (u32)values[i]);
        }
        for (unsigned digit = 0; digit < 8; digit++)
            for (unsigned size = 4; size <= 8; size += 4)
                for (size_t i = 0; i < ARRAY_LEN(disps); i++) {
                    begin();
                    emit_alu_imm(&e, size, digit, r, disps[i]);
                    decoded(names[digit]);
                    is_reg(&op[0], size, r);
                    assert_int_equal((i32)op[1].imm.value.s, disps[i]);
                }
    }
}

static void goes_to(u64 target)
{
    ZyanU64 there;

    assert_true(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&z, &op[0], (u64)buffer + DELTA, &there)));
    assert_int_equal(there, target);
}

static void jumps(void **state)
{
    // In the order of condition codes.
    static const ZydisMnemonic names[] = {
        ZYDIS_MNEMONIC_JO, ZYDIS_MNEMONIC_JNO, ZYDIS_MNEMONIC_JB,  ZYDIS_MNEMONIC_JNB,
        ZYDIS_MNEMONIC_JZ, ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JBE, ZYDIS_MNEMONIC_JNBE,
        ZYDIS_MNEMONIC_JS, ZYDIS_MNEMONIC_JNS, ZYDIS_MNEMONIC_JP,  ZYDIS_MNEMONIC_JNP,
        ZYDIS_MNEMONIC_JL, ZYDIS_MNEMONIC_JNL, ZYDIS_MNEMONIC_JLE, ZYDIS_MNEMONIC_JNLE};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(disps); i++) {
        u64 target = (u64)buffer + DELTA + (u64)(i64)(disps[i] / 2);
        for (unsigned cc = CC_O; cc <= CC_G; cc++) {
            begin();
            emit_jcc_to(&e, cc, target);
            decoded(names[cc]);
            goes_to(target);
        }
        begin();
        emit_jmp_to(&e, target);
        decoded(ZYDIS_MNEMONIC_JMP);
        goes_to(target);
        begin();
        emit_patch(&e, emit_call(&e), target);
        decoded(ZYDIS_MNEMONIC_CALL);
        goes_to(target);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(registers), cmocka_unit_test(base_and_displacement),
                                       cmocka_unit_test(indexed),   cmocka_unit_test(near_memory),
                                       cmocka_unit_test(constants), cmocka_unit_test(jumps)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
