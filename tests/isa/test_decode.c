// Corner cases of the decoder, one row each. Those marked "seen" are what an AMD family 19h processor was observed to
// do, also where the manuals are silent or Zydis disagrees; rows that end with bytes missing say how far it fetches
// before #UD.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "isa/insn.h"

struct row {
    const char *hex;
    u8 mode, status; // enum isa_mode, enum isa_status
    i16 op;          // enum isa_op where the status is ISA_OK; -1: any
    u8 len;          // bytes used; 0: all
    u32 options;
};

#define M16 ISA_MODE_16
#define M32 ISA_MODE_32
#define M64 ISA_MODE_64
#define OP(name) ISA_OP_##name
#define BAD(hex, mode) \
    { \
        hex, mode, ISA_INVALID, -1, 0, 0 \
    }
#define CUT(hex, mode) \
    { \
        hex, mode, ISA_TRUNCATED, -1, 0, 0 \
    }
#define GOOD(hex, mode, name) \
    { \
        hex, mode, ISA_OK, OP(name), 0, 0 \
    }

static const struct row rows[] = {
    // Prefixes: the last of F2 and F3 counts, REX only right before the opcode.
    GOOD("f2f390", M64, PAUSE),
    GOOD("f3f290", M64, NOP),
    GOOD("f390", M64, PAUSE),
    GOOD("f34190", M64, XCHG), // seen
    GOOD("4190", M64, XCHG),
    GOOD("4890", M64, NOP),
    GOOD("f3660f58c0", M64, ADDSS),
    GOOD("66f20f38f1c3", M64, CRC32),
    GOOD("f30fbcc3", M64, TZCNT),
    GOOD("f20fbcc3", M64, BSF), // seen
    BAD("0fb8c0", M64),
    BAD("f20fb8c0", M64), // seen
    BAD("660f77", M64),   // seen: EMMS takes no prefix
    BAD("f30fc303", M64), // seen
    BAD("660faee8", M64), // seen: nor do the fences
    BAD("f30fc7f0", M64), // seen
    GOOD("660fc7f0", M64, RDRAND),
    GOOD("f30fc70b", M64, CMPXCHG8B), // seen
    GOOD("f30f01fc", M64, CLZERO),    // seen: any prefix
    BAD("660f01d0", M64),             // seen: XGETBV takes none
    GOOD("f30f09", M64, WBNOINVD),
    {"f30fbcc3", M64, ISA_OK, OP(BSF), 0, ISA_OPT_NO_TZCNT},
    {"f30fbdc3", M64, ISA_OK, OP(LZCNT), 0, ISA_OPT_NO_TZCNT},
    {"f30fbdc3", M64, ISA_OK, OP(BSR), 0, ISA_OPT_NO_LZCNT},
    {"f30f09", M64, ISA_OK, OP(WBINVD), 0, ISA_OPT_NO_WBNOINVD},

    // Length.
    GOOD("666666666666666666666666666690", M64, NOP),
    {"6666666666666666666666666666666690", M64, ISA_TOO_LONG, -1, 15, 0},
    {"66666666666666666666666666660f04", M64, ISA_TOO_LONG, -1, 15, 0}, // seen: #GP before #UD
    {"666666666666666666666666666666", M64, ISA_TOO_LONG, -1, 15, 0},   // seen: even when nothing follows
    CUT("6666666666666666666666666666", M64),

    // LOCK.
    GOOD("f00003", M64, ADD),
    BAD("f000c0", M64),
    BAD("f03803", M64), // CMP
    BAD("f00203", M64), // memory is the source
    BAD("f00fa303", M64),
    GOOD("f00fab03", M64, BTS),
    BAD("f00fba2301", M64), // BT
    GOOD("f00fba2b01", M64, BTS),
    GOOD("f08703", M64, XCHG),
    BAD("f090", M64),
    BAD("f00f20c0", M64),
    {"f00f20c0", M64, ISA_OK, OP(MOV_CR), 0, ISA_OPT_AMD}, // seen: CR8
    {"f0440f20c0", M64, ISA_INVALID, -1, 0, ISA_OPT_AMD},  // seen
    {"f00f20d0", M64, ISA_INVALID, -1, 0, ISA_OPT_AMD},    // seen

    // Registers that do not exist.
    BAD("8cf0", M64),
    BAD("8ecb", M64), // MOV CS
    GOOD("8ed3", M64, MOV),
    BAD("0f20c8", M64),
    BAD("440f20c8", M64),
    GOOD("440f20c0", M64, MOV_CR),
    BAD("440f21c0", M64),
    GOOD("0f2000", M64, MOV_CR), // mod is ignored
    BAD("0f2028", M64),

    // Memory-only and register-only forms.
    BAD("8dc0", M64),
    GOOD("0f01f8", M64, SWAPGS),
    BAD("0f01f8", M32),
    BAD("0f0dc3", M64), // seen
    GOOD("0f0d13", M64, PREFETCH),
    GOOD("0f18c0", M64, NOP),
    GOOD("f30f1efa", M64, NOP),
    BAD("0fc7c8", M64),

    // Opcodes that exist in some modes only.
    BAD("06", M64),
    GOOD("06", M32, PUSH),
    BAD("d6", M64),
    GOOD("d6", M32, SALC),
    GOOD("82c001", M32, ADD),
    BAD("82c001", M64),
    GOOD("63c0", M32, ARPL),
    GOOD("63c0", M64, MOVSXD),
    GOOD("f1", M64, INT1),
    GOOD("dbe0", M64, FENI),
    BAD("dbe5", M64),
    BAD("ded8", M64),
    GOOD("dfc0", M64, FFREEP),
    GOOD("f6c800", M64, TEST),
    GOOD("d1f0", M64, SHL),

    // LES and LDS against VEX; VEX and its prefixes.
    GOOD("c503", M32, LDS),
    GOOD("c403", M16, LES),
    GOOD("c5f858c0", M32, VADDPS),
    GOOD("c5f858c0", M16, VADDPS),
    BAD("66c5f858c0", M64),
    BAD("f3c5f858c0", M64),
    BAD("f0c5f85800", M64),
    BAD("40c5f858c0", M64),
    GOOD("65c5f85800", M64, VADDPS),
    BAD("c4e07858c0", M64),
    BAD("c4e47800c0", M64),
    BAD("c5f077", M64), // vvvv unused
    GOOD("c5f877", M64, VZEROUPPER),
    BAD("c5f21003", M64),
    GOOD("c5fa1003", M64, VMOVSS),
    BAD("c5fd6ec0", M64),           // VEX.L
    GOOD("c5fe5103", M64, VSQRTSS), // seen: ignored for scalars
    BAD("c4e2f918c0", M64),         // VEX.W
    BAD("c4e27cf3c8", M64),
    GOOD("c4e1f96ec0", M32, VMOVD), // seen: W ignored outside 64-bit mode
    BAD("c4e3f916c000", M32),       // seen: but not here
    BAD("c4e139290b", M32),         // seen: all of an unused vvvv must be ones
    GOOD("c4e238f2c3", M32, ANDN),  // seen: a used one has three bits
    GOOD("c4e261900c13", M64, VPGATHERDD),
    BAD("c4e271900c13", M64), // mask is destination
    BAD("c4e261900c0b", M64), // index is destination
    BAD("c4e261900b", M64),   // no SIB
    BAD("67c4e261900c13", M32),

    // Not in the table: EVEX, XOP, 3DNow!.
    BAD("62f17c4858c0", M64),
    BAD("8fe978c0c0", M64),
    BAD("0f0fc08a", M64),
    GOOD("6203", M32, BOUND),
    GOOD("8fc0", M64, POP),

    // How much is fetched before #UD, all seen.
    BAD("0f04", M64),
    BAD("0fa6", M64),
    BAD("0f24", M64),
    CUT("f08b", M64),
    CUT("f08b05", M64),
    CUT("c57d47", M64),
    CUT("66c5f8", M64),
    CUT("66c5f85805", M64),
    CUT("c6f9", M64),
    CUT("ffbf", M64),
    CUT("0f38ff", M64),
    CUT("0f3affc0", M64),
    BAD("0f3affc000", M64),
    CUT("9a", M64),
    CUT("82c0", M64),
    CUT("d4", M64),
    CUT("8c3d", M64),
    CUT("8fea78c0c0", M64),
    CUT("8f3b", M32),
    CUT("62f37d4800c0", M64),
    BAD("62f47d4800c0", M64),
    CUT("0f0fc0", M64),
    CUT("c4e178c2c0", M64),
    BAD("c4e17977", M64),
    GOOD("0fb9", M64, UD1),
    GOOD("0fff", M64, UD0),
};

static size_t parse_hex(const char *hex, u8 *out)
{
    size_t n = 0;
    for (; hex[0] && hex[1]; hex += 2) {
        unsigned byte;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        out[n++] = (u8)byte;
    }
    return n;
}

// Rows run at the very end of a mapped page, so that reading past what is available faults.
static void test_rows(void **state)
{
    u8 *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)state;
    assert_ptr_not_equal(page, MAP_FAILED);
    assert_int_equal(mprotect(page + 4096, 4096, PROT_NONE), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        struct insn in;
        u8 bytes[32];
        size_t n = parse_hex(r->hex, bytes);
        u8 *at = page + 4096 - n;
        memcpy(at, bytes, n);
        enum isa_status status = isa_decode(at, n, r->mode, r->options, &in);
        if (status != r->status || (r->len && in.len != r->len) ||
            (status == ISA_OK && (in.len != n || in.op != r->op)))
            fail_msg("%s in mode %d: status %d, length %d, %s", r->hex, r->mode, status, in.len,
                     status == ISA_OK ? isa_op_names[in.op] : "-");
    }
    munmap(page, 8192);
}

static struct insn decode(const char *hex, enum isa_mode mode, u32 options)
{
    struct insn in;
    u8 bytes[64] = {0};
    size_t n = parse_hex(hex, bytes);
    assert_int_equal(isa_decode(bytes, n, mode, options, &in), ISA_OK);
    assert_int_equal(in.len, n);
    return in;
}

static void check_operand(const struct insn *in, unsigned i, unsigned kind, unsigned reg, unsigned size)
{
    assert_true(i < in->nopnd);
    assert_int_equal(in->opnd[i].kind, kind);
    if (kind != ISA_OPND_MEM && kind != ISA_OPND_IMM && kind != ISA_OPND_REL)
        assert_int_equal(in->opnd[i].reg, reg);
    assert_int_equal(in->opnd[i].size, size);
}

static void check_address(const struct insn *in, unsigned seg, unsigned base, unsigned index, unsigned scale, i64 disp)
{
    assert_int_equal(in->seg, seg);
    assert_int_equal(in->base, base);
    assert_int_equal(in->index, index);
    assert_int_equal(in->scale, scale);
    assert_int_equal(in->disp, disp);
}

static void test_addresses(void **state)
{
    (void)state;
    struct insn in = decode("488b448df8", M64, 0); // mov rax, [rbp+rcx*4-8]
    check_operand(&in, 0, ISA_OPND_GPR, X86_RAX, 8);
    check_operand(&in, 1, ISA_OPND_MEM, 0, 8);
    check_address(&in, X86_SS, X86_RBP, X86_RCX, 2, -8);
    assert_int_equal(in.disp_size, 1);
    in = decode("8b0510000000", M64, 0);
    check_address(&in, X86_DS, ISA_REG_RIP, ISA_REG_NONE, 0, 16);
    in = decode("8b0510000080", M32, 0);
    check_address(&in, X86_DS, ISA_REG_NONE, ISA_REG_NONE, 0, (i32)0x80000010);
    in = decode("8b042510000000", M64, 0); // SIB without base and index
    check_address(&in, X86_DS, ISA_REG_NONE, ISA_REG_NONE, 0, 16);
    in = decode("67418b042510000000", M64, 0); // REX.B does not bring a base back (seen)
    check_address(&in, X86_DS, ISA_REG_NONE, ISA_REG_NONE, 0, 16);
    assert_int_equal(in.adsize, 4);
    in = decode("438b442500", M64, 0); // r13 + r12
    check_address(&in, X86_DS, X86_R13, X86_R12, 0, 0);
    in = decode("8b0424", M64, 0);
    check_address(&in, X86_SS, X86_RSP, ISA_REG_NONE, 0, 0);
    in = decode("658b0424", M64, 0);
    check_address(&in, X86_GS, X86_RSP, ISA_REG_NONE, 0, 0);
    in = decode("653e8b03", M64, 0); // DS after GS changes nothing in 64-bit mode (seen)
    check_address(&in, X86_GS, X86_RBX, ISA_REG_NONE, 0, 0);
    in = decode("653e8b03", M32, 0);
    check_address(&in, X86_DS, X86_RBX, ISA_REG_NONE, 0, 0);
    in = decode("8b42fe", M16, 0); // [bp+si-2]
    check_address(&in, X86_SS, X86_RBP, X86_RSI, 0, -2);
    in = decode("8b0e3412", M16, 0);
    check_address(&in, X86_DS, ISA_REG_NONE, ISA_REG_NONE, 0, 0x1234);
    in = decode("48a1efcdab8967452301", M64, 0);
    check_operand(&in, 1, ISA_OPND_MEM, 0, 8);
    check_address(&in, X86_DS, ISA_REG_NONE, ISA_REG_NONE, 0, 0x0123456789abcdef);
    in = decode("c4e261900c13", M64, 0); // vpgatherdd xmm1, [rbx+xmm2], xmm3
    check_address(&in, X86_DS, X86_RBX, 2, 0, 0);
    check_operand(&in, 1, ISA_OPND_MEM, 0, 4);
}

static void test_operands(void **state)
{
    (void)state;
    struct insn in = decode("88e0", M64, 0);
    check_operand(&in, 1, ISA_OPND_GPR8H, X86_RAX, 1); // ah
    in = decode("4088e0", M64, 0);
    check_operand(&in, 1, ISA_OPND_GPR, X86_RSP, 1); // spl
    in = decode("83c0ff", M64, 0);
    assert_int_equal(in.imm, -1);
    in = decode("48c7c0ffffffff", M64, 0);
    assert_int_equal(in.imm, -1);
    in = decode("48b8efcdab8967452301", M64, 0);
    assert_int_equal(in.imm, 0x0123456789abcdef);
    in = decode("cd80", M64, 0);
    assert_int_equal(in.imm, 0x80);
    in = decode("c8fffe03", M64, 0);
    assert_int_equal(in.imm, 0xfeff);
    assert_int_equal(in.imm2, 3);
    in = decode("9a785634120800", M32, 0);
    check_operand(&in, 0, ISA_OPND_FAR, 0, 6);
    assert_int_equal(in.imm, 0x12345678);
    assert_int_equal(in.imm2, 8);
    in = decode("d1e0", M64, 0);
    assert_int_equal(in.imm, 1);
    in = decode("c4c3714bc3f0", M64, 0); // vblendvpd xmm0, xmm1, xmm11, xmm15
    check_operand(&in, 2, ISA_OPND_XMM, 11, 16);
    check_operand(&in, 3, ISA_OPND_XMM, 15, 16);
    in = decode("c4e3714bc3f0", M32, 0);
    check_operand(&in, 3, ISA_OPND_XMM, 7, 16);
    in = decode("c5fc1003", M64, 0);
    check_operand(&in, 0, ISA_OPND_YMM, 0, 32);
    check_operand(&in, 1, ISA_OPND_MEM, 0, 32);
    in = decode("660f3a14c001", M64, 0); // pextrb eax, xmm0, 1
    check_operand(&in, 0, ISA_OPND_GPR, X86_RAX, 4);
    in = decode("660f3a140301", M64, 0);
    check_operand(&in, 0, ISA_OPND_MEM, 0, 1);
    in = decode("0f01d8", M64, 0);
    assert_int_equal(in.nopnd, 0);
}

static void test_sizes(void **state)
{
    static const struct {
        const char *hex;
        u8 mode, opsize;
        u32 options;
    } sizes[] = {
        {"50", M64, 8, 0},
        {"6650", M64, 2, 0},
        {"664850", M64, 8, 0},
        {"9c", M32, 4, 0},
        {"cf", M64, 4, 0},
        {"48cf", M64, 8, 0},
        {"e900000000", M64, 8, 0},
        {"66e900000000", M64, 8, 0},
        {"e900000000", M64, 8, ISA_OPT_AMD},
        {"66e90000", M64, 2, ISA_OPT_AMD},
        {"6648e900000000", M64, 8, ISA_OPT_AMD},
        {"66c3", M64, 2, ISA_OPT_AMD},
        {"66c3", M64, 8, 0},
        {"48ff2b", M64, 8, 0},
        {"48ff2b", M64, 4, ISA_OPT_AMD},
        {"6648ff2b", M64, 4, ISA_OPT_AMD},
        {"66ff2b", M64, 2, ISA_OPT_AMD},
        {"480fb403", M64, 4, ISA_OPT_AMD},
        {"b80000", M16, 2, 0},
        {"66b800000000", M16, 4, 0},
        {"c8000000", M64, 8, 0},
        {"0fa0", M64, 8, 0},
        {"ff33", M64, 8, 0},
        {"c4e2f8f2c3", M32, 4, 0},
        {"c4e2f8f2c3", M64, 8, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct insn in = decode(sizes[i].hex, sizes[i].mode, sizes[i].options);
        if (in.opsize != sizes[i].opsize)
            fail_msg("%s in mode %d: operand size %d", sizes[i].hex, sizes[i].mode, in.opsize);
    }
    struct insn in = decode("66630424", M64, 0);
    check_operand(&in, 0, ISA_OPND_GPR, X86_RAX, 2);
    check_operand(&in, 1, ISA_OPND_MEM, 0, 4); // seen
}

static void test_encoding(void **state)
{
    (void)state;
    struct insn in = decode("2e664883442408ff", M64, 0);
    assert_int_equal(in.opcode_off, 3);
    assert_int_equal(in.modrm_off, 4);
    assert_int_equal(in.imm_off, 7);
    assert_int_equal(in.rex, ISA_REX_W);
    assert_int_equal(in.prefix, ISA_PFX_OPSIZE | ISA_PFX_REX);
    in = decode("c4e3f90dc001", M64, 0);
    assert_int_equal(in.enc, ISA_ENC_VEX3);
    assert_int_equal(in.map, ISA_MAP_0F3A);
    assert_int_equal(in.opcode_off, 3);
    assert_int_equal(in.imm_off, 5);
    assert_int_equal(in.vl, 16);
    in = decode("0f84000000ff", M64, 0);
    assert_int_equal(in.opcode & 15, 4);
    assert_int_equal(in.imm, (i32)0xff000000);
    in = decode("66486690", M64, 0); // a REX that something follows is void
    assert_int_equal(in.rex, 0);
    assert_int_equal(in.prefix, ISA_PFX_OPSIZE);
}

static void test_flags_read(void **state)
{
    (void)state;
    struct insn in = decode("7400", M64, 0);
    assert_int_equal(isa_flags_read(&in), X86_FL_ZF);
    in = decode("0f4fc0", M64, 0);
    assert_int_equal(isa_flags_read(&in), X86_FL_ZF | X86_FL_SF | X86_FL_OF);
    in = decode("a6", M64, 0);
    assert_int_equal(isa_flags_read(&in), X86_FL_DF);
    in = decode("f3a6", M64, 0);
    assert_int_equal(isa_flags_read(&in), X86_FL_DF | X86_FL_STATUS);
    in = decode("0f05", M64, 0); // R11 gets them
    assert_int_equal(isa_flags_read(&in) & X86_FL_STATUS, X86_FL_STATUS);
    in = decode("0f07", M32, 0); // outside long mode they stay
    assert_int_equal(isa_flags_read(&in) & X86_FL_STATUS, X86_FL_STATUS);
    in = decode("cf", M32, 0); // NT: a task returns
    assert_int_equal(isa_flags_read(&in) & X86_FL_NT, X86_FL_NT);
}

// Implicit registers of which some operand size leaves a part count as read.
static void test_implicit_merges(void **state)
{
    (void)state;
    static const char *const merging[] = {"6699", "66f7e3", "66f7eb", "d6", "6661", "66c9", "98", "9f", "d7"};
    for (size_t i = 0; i < ARRAY_LEN(merging); i++) {
        struct insn in = decode(merging[i], M32, 0);
        const struct isa_form_info *f = &isa_forms[in.form];
        assert_int_not_equal(f->implicit_written & 0xffff, 0);
        assert_int_equal(f->implicit_written & 0xffff & ~f->implicit_read, 0);
    }
    struct insn in = decode("c8100002", M32, 0); // ENTER copies outer frame pointers
    assert_int_not_equal(isa_forms[in.form].implicit_read & ISA_IMPLICIT_STACK, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_operands),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_flags_read),
        cmocka_unit_test(test_implicit_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
