// A decoded instruction, and what the instruction table says about its form.
//
// src/isa/insns.def is the one table of the instruction set. Each of its rows is a *form* (one opcode with one
// operand pattern, `enum isa_form`); forms of one mnemonic share an *operation* (`enum isa_op`, named ISA_OP_ + the
// manual's mnemonic, with the condition-code families folded into JCC, SETCC and CMOVCC). A generator turns the table into
// the enums and the opcode look-up tree at build time (build*/gen/isa_gen.h), so every user sees the same rows.
//
// Decoding is a pure function of bytes, mode and options: it allocates nothing and touches no mutable global.
#ifndef POGO_ISA_INSN_H
#define POGO_ISA_INSN_H

#include "pogo/types.h"

#include "isa/x86.h"
#include "isa_gen.h" // generated: enum isa_op, enum isa_form, ISA_OP_COUNT, ISA_FORM_COUNT

#define ISA_MAX_LEN 15
#define ISA_MAX_OPERANDS 4
#define ISA_REG_NONE 0xff // no base or index register
#define ISA_REG_RIP 0xfe  // base is the address of the next instruction

// Default sizes of the code segment: CS.D clear, CS.D set, CS.L set.
enum isa_mode { ISA_MODE_16, ISA_MODE_32, ISA_MODE_64, ISA_MODE_COUNT };

enum isa_operand_kind {
    ISA_OPND_NONE,
    ISA_OPND_GPR,     // reg = X86_RAX..X86_R15, low `size` bytes
    ISA_OPND_GPR8H,   // AH CH DH BH: reg = X86_RAX..X86_RBX, bits 15:8
    ISA_OPND_MEM,     // the ModRM or moffs memory operand: seg, base, index, scale, disp of the instruction
    ISA_OPND_STR_SRC, // string source seg:rSI (override allowed), XLAT's seg:rBX+AL is MEM-less and handled by XLAT
    ISA_OPND_STR_DST, // string destination ES:rDI
    ISA_OPND_IMM,     // insn.imm, already extended as the form says; constant operands (shift by 1) too
    ISA_OPND_IMM2,    // insn.imm2: second immediate (ENTER's level)
    ISA_OPND_REL,     // insn.imm: signed displacement from the next instruction
    ISA_OPND_FAR,     // imm2:imm, a far pointer in the instruction
    ISA_OPND_SEG,     // reg = X86_ES..X86_GS
    ISA_OPND_CR,      // reg = control register number
    ISA_OPND_DR,      // reg = debug register number
    ISA_OPND_ST,      // reg = x87 stack index
    ISA_OPND_MMX,     // reg = 0..7
    ISA_OPND_XMM,     // reg = 0..15; size 16, or less where only the low part is used
    ISA_OPND_YMM,     // reg = 0..15; size 32
    ISA_OPND_KIND_COUNT
};

struct isa_operand {
    u8 kind;  // enum isa_operand_kind
    u8 reg;   // of registers only
    u16 size; // bytes accessed (of an immediate: encoded); 0: only an address (LEA, INVLPG, prefetch) or, for the XSAVE
              // family, as much as XCR0 says
};

// Prefixes seen (struct insn.prefix). REP and REPNE hold only the last of F2/F3 seen; a prefix that is mandatory for the
// form (SSE's F3 and so on) is still recorded here.
#define ISA_PFX_LOCK 0x01
#define ISA_PFX_REP 0x02    // F3
#define ISA_PFX_REPNE 0x04  // F2
#define ISA_PFX_OPSIZE 0x08 // 66
#define ISA_PFX_ADSIZE 0x10 // 67
#define ISA_PFX_SEG 0x20    // a segment override that took effect
#define ISA_PFX_REX 0x40    // a REX byte right before the opcode

// struct insn.rex, also filled from VEX (un-inverted).
#define ISA_REX_B 1
#define ISA_REX_X 2
#define ISA_REX_R 4
#define ISA_REX_W 8

enum isa_encoding { ISA_ENC_LEGACY, ISA_ENC_VEX2, ISA_ENC_VEX3 };

// Opcode maps: one-byte, 0F, 0F 38, 0F 3A.
enum isa_map { ISA_MAP_1, ISA_MAP_0F, ISA_MAP_0F38, ISA_MAP_0F3A, ISA_MAP_COUNT };

struct insn {
    u16 form;  // enum isa_form
    u16 op;    // enum isa_op
    u8 len;    // bytes, 1..15
    u8 mode;   // enum isa_mode
    u8 opsize; // effective operand size in bytes: 2, 4 or 8 (stack and near-branch defaults applied)
    u8 adsize; // effective address size in bytes: 2, 4 or 8
    u8 prefix; // ISA_PFX_*
    u8 seg;    // segment of the memory or string-source operand: override or default
    u8 rex;    // ISA_REX_*
    u8 enc;    // enum isa_encoding
    u8 map;    // enum isa_map
    u8 opcode; // last opcode byte; its low 4 bits are the condition of JCC, SETCC, CMOVCC
    u8 modrm;  // raw byte where has_modrm
    u8 has_modrm;
    u8 opcode_off; // offsets into the instruction's bytes, for re-encoding: opcode byte (VEX: also the opcode) ...
    u8 modrm_off;  // ... ModRM byte ...
    u8 imm_off;    // ... first immediate byte (== len when there is none)
    u8 vvvv;       // VEX.vvvv un-inverted; 0 when unused
    u8 vl;         // vector length in bytes for VEX forms: 16 or 32; 0 for legacy forms
    u8 base;       // memory operand: X86_RAX.., ISA_REG_RIP or ISA_REG_NONE
    u8 index;      // X86_RAX.. or ISA_REG_NONE; for VSIB forms the vector register number
    u8 scale;      // log2: 0..3
    u8 nopnd;      // operands in use, in the manual's order
    u8 disp_size;  // bytes of displacement in the encoding: 0, 1, 2, 4 or 8 (moffs)
    i64 disp;      // sign-extended displacement, or the whole moffs address
    i64 imm;
    u32 imm2;
    struct isa_operand opnd[ISA_MAX_OPERANDS];
};

// What can be wrong with the bytes.
enum isa_status {
    ISA_OK,
    ISA_TRUNCATED, // ran out of the bytes given, valid so far
    ISA_INVALID,   // no such instruction: #UD
    ISA_TOO_LONG,  // more than 15 bytes: #GP(0)
};

// Decoder options: where vendors differ. (AMD honours 66 on near branches in 64-bit mode; Intel ignores it.)
#define ISA_OPT_AMD 0x1
// Features whose absence does not make their encodings invalid: processors before them ignore the F3 prefix.
#define ISA_OPT_NO_TZCNT 0x2    // F3 0F BC is BSF
#define ISA_OPT_NO_LZCNT 0x4    // F3 0F BD is BSR
#define ISA_OPT_NO_WBNOINVD 0x8 // F3 0F 09 is WBINVD

// Decode one instruction from `bytes`, of which `avail` may be read (15 are always enough). Fills *in* completely on
// ISA_OK; on other results only in->len (bytes looked at) is meaningful. Like processors, takes all bytes of an
// instruction whose shape is known before it judges it. SDM 2A chapter 2, APM 3 chapter 1.
enum isa_status isa_decode(const u8 *bytes, size_t avail, enum isa_mode mode, u32 options, struct insn *in);

// --- what the table says about a form -------------------------------------------------------------------------------

enum isa_class {
    ISA_CLASS_IDENT,  // harmless in any mode
    ISA_CLASS_MEM,    // harmless once its memory operand is translated (or when it is a register)
    ISA_CLASS_BRANCH, // control flow
    ISA_CLASS_SENS,   // sensitive, whether or not it traps on hardware
    ISA_CLASS_PRIV,   // privileged
};

// Operand access (bits).
#define ISA_ACC_R 1
#define ISA_ACC_W 2

// Attributes of a form.
#define ISA_ATTR_LOCK (1u << 0)       // LOCK allowed with a memory destination
#define ISA_ATTR_REP (1u << 1)        // REP repeats it (INS, OUTS, MOVS, STOS, LODS)
#define ISA_ATTR_REPCC (1u << 2)      // REPE/REPNE repeat it (CMPS, SCAS)
#define ISA_ATTR_X87 (1u << 3)        // uses x87 state: #NM by CR0.EM/TS, waits for #MF unless NOWAIT
#define ISA_ATTR_X87_NOWAIT (1u << 4) // FNxxx: does not check for pending x87 exceptions
#define ISA_ATTR_MMX (1u << 5)        // uses MMX state: #UD by CR0.EM, #NM by TS, #MF pending
#define ISA_ATTR_SSE (1u << 6)        // legacy SSE: #UD by CR0.EM or CR4.OSFXSR=0, #NM by TS
#define ISA_ATTR_AVX (1u << 7)     // VEX vector: #UD unless CR4.OSXSAVE and XCR0[2:1]=11, PE and not v8086; #NM by TS
#define ISA_ATTR_VEX_GPR (1u << 8) // VEX on general registers (BMI): #UD in real and v8086 mode
#define ISA_ATTR_FPEXC (1u << 9)   // can set MXCSR exception flags and raise #XM
#define ISA_ATTR_ALIGN (1u << 10)  // memory operand must be aligned to its size or #GP(0)
#define ISA_ATTR_VSIB (1u << 11)   // index is a vector register (gathers)
#define ISA_ATTR_NATIVE (1u << 12) // executed through isa/native thunks rather than a handler
#define ISA_ATTR_I64 (1u << 13)    // invalid in 64-bit mode
#define ISA_ATTR_O64 (1u << 14)    // only in 64-bit mode
#define ISA_ATTR_PMODE (1u << 15)  // #UD in real and v8086 mode (ARPL, LAR, LLDT, ...)
#define ISA_ATTR_DF64 (1u << 16)   // operand size defaults to 64 in 64-bit mode (PUSH, POP, near branches ...)

// Where an operand's register number stands in the encoding: ModRM.reg, ModRM.rm, the opcode's low bits, VEX.vvvv, imm8[7:4].
enum isa_field { ISA_FIELD_NO, ISA_FIELD_REG, ISA_FIELD_RM, ISA_FIELD_OPR, ISA_FIELD_VVVV, ISA_FIELD_IS4 };

struct isa_form_info {
    const char *name; // the row's name
    u16 op;
    u8 cls;     // enum isa_class
    u8 feature; // enum isa_feature that gates it (generated from features.def)
    u8 nopnd;
    u8 access[ISA_MAX_OPERANDS]; // ISA_ACC_* of each operand
    u32 attr;                    // ISA_ATTR_*
    u32 flags_read;              // X86_FL_* bits
    u32 flags_written;           // defined on exit
    u32 flags_undef;             // left undefined by the manuals
    u32 implicit_read;           // ISA_IMPLICIT_* beyond the operands; bits 0..15 are GPRs
    u32 implicit_written;
    u8 field[ISA_MAX_OPERANDS]; // enum isa_field of each operand
};

extern const struct isa_form_info isa_forms[ISA_FORM_COUNT];
extern const char *const isa_op_names[ISA_OP_COUNT]; // "ADD", "JCC", ...

// Number of the operand that is the ModRM or moffs memory operand, or -1.
static inline int isa_memory_operand(const struct insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].kind == ISA_OPND_MEM)
            return (int)i;
    }
    return -1;
}

// Does a prefix repeat it?
static inline bool isa_is_repeated(const struct insn *in)
{
    return in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE) && isa_forms[in->form].attr & (ISA_ATTR_REP | ISA_ATTR_REPCC);
}

// Flags that this instruction reads: the form's, narrowed to the condition of JCC, SETCC and CMOVCC; a repeated CMPS or SCAS
// may run zero times and then passes all of them through.
static inline u32 isa_flags_read(const struct insn *in)
{
    static const u16 of_condition[8] = {X86_FL_OF,
                                        X86_FL_CF,
                                        X86_FL_ZF,
                                        X86_FL_CF | X86_FL_ZF,
                                        X86_FL_SF,
                                        X86_FL_PF,
                                        X86_FL_SF | X86_FL_OF,
                                        X86_FL_SF | X86_FL_OF | X86_FL_ZF};
    if (in->op == ISA_OP_JCC || in->op == ISA_OP_SETCC || in->op == ISA_OP_CMOVCC)
        return of_condition[in->opcode >> 1 & 7];
    const struct isa_form_info *f = &isa_forms[in->form];
    if (f->attr & ISA_ATTR_REPCC && in->prefix & (ISA_PFX_REP | ISA_PFX_REPNE))
        return f->flags_read | X86_FL_STATUS;
    return f->flags_read;
}

#define ISA_IMPLICIT_GPR(r) (1u << (r))
#define ISA_IMPLICIT_XMM0 (1u << 16)
#define ISA_IMPLICIT_X87 (1u << 17)
#define ISA_IMPLICIT_MEM (1u << 18)   // memory that no ModRM operand names: strings, XLAT, MASKMOVDQU
#define ISA_IMPLICIT_STACK (1u << 19) // memory at rSP

// A CPUID feature bit; rows of src/isa/features.def. Index 0 (ISA_FEAT_NONE) is what every processor has.
enum isa_cpuid_reg { ISA_CPUID_EAX, ISA_CPUID_EBX, ISA_CPUID_ECX, ISA_CPUID_EDX };

struct isa_feature_info {
    const char *name; // as QEMU spells it
    u32 leaf, subleaf;
    u8 reg; // enum isa_cpuid_reg
    u8 bit;
};

extern const struct isa_feature_info isa_features[ISA_FEAT_COUNT];

#endif
