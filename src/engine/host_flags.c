// The host's flags; see host_flags.h.
#include "engine/host_flags.h"

#include "isa/alu.h"

static const u64 samples[] = {0, 1, 0x80, 0x8000, 0x80000000u, 0x8000000000000000u, 0x123456789abcdef1u, ~0ull};

// Status flags that come out different after `op` on the same operands when they were different before.
static u64 flags_kept(unsigned op, unsigned size, u64 a, u64 b)
{
    u64 fl[2] = {0, X86_FL_STATUS};
    for (unsigned k = 0; k < 2; k++) {
        switch (op) {
        case 0: alu_shl(size, a, (u8)b, &fl[k]); break;
        case 1: alu_shr(size, a, (u8)b, &fl[k]); break;
        case 2: alu_sar(size, a, (u8)b, &fl[k]); break;
        default: alu_imul2(size, a, b, &fl[k]); break;
        }
    }
    return fl[0] ^ fl[1];
}

// Do AND, OR and XOR leave the flags that TEST leaves for the same result?
static bool logic_is_same(void)
{
    bool same = true;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ARRAY_LEN(samples) * ARRAY_LEN(samples); i++) {
            u64 a = samples[i % ARRAY_LEN(samples)], b = samples[i / ARRAY_LEN(samples)];
            u64 fl[4] = {0, 0, 0, 0};
            alu_and(size, a, b, &fl[0]);
            alu_and(size, a & b, a & b, &fl[1]);
            same &= fl[0] == fl[1];
            alu_or(size, a, b, &fl[0]);
            alu_and(size, a | b, a | b, &fl[1]);
            same &= fl[0] == fl[1];
            alu_xor(size, a, b, &fl[2]);
            alu_and(size, a ^ b, a ^ b, &fl[3]);
            same &= fl[2] == fl[3];
        }
    }
    return same;
}

struct host_flags host_flags_study(void)
{
    u64 shifts = 0, product = 0, product_always = ~0ull;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned i = 0; i < ARRAY_LEN(samples); i++) {
            for (unsigned n = 1; n < (size == 8 ? 64 : 32); n++) {
                for (unsigned op = 0; op < 3; op++)
                    shifts |= flags_kept(op, size, samples[i], n);
            }
            for (unsigned j = 0; j < ARRAY_LEN(samples) && size > 1; j++) {
                u64 kept = flags_kept(3, size, samples[i], samples[j]);
                product |= kept;
                product_always &= kept;
            }
        }
    }
    return (struct host_flags){
        .shifts_clean = !shifts,
        .imul_clean = !product,
        .imul_partial = product == product_always && product == (X86_FL_STATUS & ~(X86_FL_CF | X86_FL_OF)),
        .logic_same = logic_is_same(),
    };
}

u32 host_flags_killed(const struct host_flags *h, const struct insn *in)
{
    if (isa_is_repeated(in))
        return 0;
    switch (in->op) {
    case ISA_OP_ADD:
    case ISA_OP_OR:
    case ISA_OP_ADC:
    case ISA_OP_SBB:
    case ISA_OP_AND:
    case ISA_OP_SUB:
    case ISA_OP_XOR:
    case ISA_OP_CMP:
    case ISA_OP_CMPS:
    case ISA_OP_SCAS:
    case ISA_OP_TEST:
    case ISA_OP_XADD:
    case ISA_OP_CMPXCHG:
    case ISA_OP_NEG: return X86_FL_STATUS;
    case ISA_OP_INC:
    case ISA_OP_DEC: return X86_FL_STATUS & ~X86_FL_CF;
    case ISA_OP_SHL:
    case ISA_OP_SHR:
    case ISA_OP_SAR:
        return h->shifts_clean && in->opnd[1].kind == ISA_OPND_IMM && in->imm & (in->opnd[0].size == 8 ? 63 : 31)
                   ? X86_FL_STATUS
                   : 0;
    case ISA_OP_IMUL: return h->imul_clean && in->nopnd > 1 ? X86_FL_STATUS : 0;
    case ISA_OP_COMISS:
    case ISA_OP_COMISD:
    case ISA_OP_UCOMISS:
    case ISA_OP_UCOMISD:
    case ISA_OP_VCOMISS:
    case ISA_OP_VCOMISD:
    case ISA_OP_VUCOMISS:
    case ISA_OP_VUCOMISD:
    case ISA_OP_PTEST:
    case ISA_OP_VPTEST:
    case ISA_OP_VTESTPS:
    case ISA_OP_VTESTPD:
    case ISA_OP_PCMPISTRI:
    case ISA_OP_PCMPISTRM:
    case ISA_OP_VPCMPISTRI:
    case ISA_OP_VPCMPISTRM: return X86_FL_STATUS;
    default: return 0;
    }
}
