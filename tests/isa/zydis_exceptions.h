// Where the decoder and Zydis differ on purpose, with the reason. Included by zydis_diff.c; QUIRKS.md repeats the list.
// "Processor" is what AMD family 19h was seen to do.

static bool op_in(const struct pair *p, const u16 *ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p->in.op == ops[i])
            return true;
    return false;
}

#define OP_IN(p, ...) op_in(p, (const u16[]){__VA_ARGS__}, sizeof((const u16[]){__VA_ARGS__}) / sizeof(u16))

static bool z_ok(const struct pair *p, ZydisMnemonic m)
{
    return ZYAN_SUCCESS(p->zstatus) && p->z.mnemonic == m;
}

static bool pause_rex_b(const struct pair *p)
{
    return p->in.op == ISA_OP_XCHG && z_ok(p, ZYDIS_MNEMONIC_PAUSE);
}

static bool prefetch_reg(const struct pair *p)
{
    return p->status == ISA_INVALID && z_ok(p, ZYDIS_MNEMONIC_NOP) && p->z.opcode == 0x0d;
}

static bool prefetch_space(const struct pair *p)
{
    return p->in.op == ISA_OP_PREFETCH;
}

static bool x87_alias(const struct pair *p)
{
    return p->in.op == ISA_OP_FSTP && z_ok(p, ZYDIS_MNEMONIC_FSTPNCE);
}

static bool cr8_by_lock(const struct pair *p)
{
    return p->in.op == ISA_OP_MOV_CR && p->options & ISA_OPT_AMD && p->zstatus == ZYDIS_STATUS_ILLEGAL_LOCK;
}

static bool amd_pinsr_w1(const struct pair *p)
{
    return p->status == ISA_INVALID && p->mode != ISA_MODE_64 &&
           (z_ok(p, ZYDIS_MNEMONIC_VPINSRD) || z_ok(p, ZYDIS_MNEMONIC_VPEXTRD));
}

static bool sib_without_base(const struct pair *p)
{
    return p->mode == ISA_MODE_64 && p->in.adsize == 4 && p->in.base == ISA_REG_NONE && p->in.rex & ISA_REX_B;
}

static bool ud_without_modrm(const struct pair *p)
{
    return OP_IN(p, ISA_OP_UD0, ISA_OP_UD1);
}

static bool far_amd(const struct pair *p)
{
    return p->options & ISA_OPT_AMD && p->in.rex & ISA_REX_W &&
           OP_IN(p, ISA_OP_JMP_FAR, ISA_OP_CALL_FAR, ISA_OP_LSS, ISA_OP_LFS, ISA_OP_LGS);
}

static bool fixed_operand_size(const struct pair *p)
{
    return OP_IN(p, ISA_OP_MOV_CR, ISA_OP_MOV_DR, ISA_OP_VMREAD, ISA_OP_VMWRITE, ISA_OP_IN, ISA_OP_OUT, ISA_OP_ADCX,
                 ISA_OP_ADOX, ISA_OP_INVEPT, ISA_OP_INVVPID, ISA_OP_INVPCID, ISA_OP_CMPXCHG8B, ISA_OP_SGDT, ISA_OP_SIDT,
                 ISA_OP_LGDT, ISA_OP_LIDT, ISA_OP_CLWB, ISA_OP_CLFLUSHOPT, ISA_OP_VMCLEAR, ISA_OP_VMXON);
}

static bool hint_nop(const struct pair *p)
{
    return p->in.op == ISA_OP_NOP && p->in.has_modrm;
}

static bool selector_register(const struct pair *p)
{
    return OP_IN(p, ISA_OP_LAR, ISA_OP_LSL) && p->in.modrm >= 0xc0;
}

static bool cache_line(const struct pair *p)
{
    return OP_IN(p, ISA_OP_CLFLUSH, ISA_OP_CLFLUSHOPT, ISA_OP_CLWB);
}

static bool mask_to_gpr(const struct pair *p)
{
    return OP_IN(p, ISA_OP_MOVMSKPS, ISA_OP_MOVMSKPD, ISA_OP_VMOVMSKPS, ISA_OP_VMOVMSKPD, ISA_OP_PMOVMSKB,
                 ISA_OP_VPMOVMSKB) &&
           p->in.rex & ISA_REX_W;
}

static bool svm_registers(const struct pair *p)
{
    return OP_IN(p, ISA_OP_VMRUN, ISA_OP_VMLOAD, ISA_OP_VMSAVE, ISA_OP_SKINIT, ISA_OP_INVLPGA, ISA_OP_CLZERO);
}

static bool sbb(const struct pair *p)
{
    return p->in.op == ISA_OP_SBB;
}

static bool shift_by_one(const struct pair *p)
{
    return p->in.map == ISA_MAP_1 && (p->in.opcode == 0xd0 || p->in.opcode == 0xd1);
}

static bool pushes_flags(const struct pair *p)
{
    return OP_IN(p, ISA_OP_INT, ISA_OP_INT1, ISA_OP_INT3, ISA_OP_INTO);
}

static bool bextr(const struct pair *p)
{
    return p->in.op == ISA_OP_BEXTR;
}

static bool vex_test(const struct pair *p)
{
    return OP_IN(p, ISA_OP_VPTEST, ISA_OP_VTESTPS, ISA_OP_VTESTPD);
}

// Zydis has these write their destination only, but part of it (or, for BSF and BSR of zero, all of it) stays.
static bool merging(const struct pair *p)
{
    const struct isa_form_info *f = &isa_forms[p->in.form];
    return OP_IN(p, ISA_OP_BSF, ISA_OP_BSR) || (f->attr & ISA_ATTR_SSE && f->access[0] == (ISA_ACC_R | ISA_ACC_W));
}

static bool rep_string(const struct pair *p)
{
    return isa_forms[p->in.form].attr & ISA_ATTR_REP && p->in.prefix & (ISA_PFX_REP | ISA_PFX_REPNE);
}

static bool address_only(const struct pair *p)
{
    return p->in.nopnd == 1 && p->in.opnd[0].kind == ISA_OPND_MEM && p->in.opnd[0].size == 0;
}

static bool movsxd_16(const struct pair *p)
{
    return p->in.op == ISA_OP_MOVSXD && p->in.opsize == 2;
}

static bool near_branch_66(const struct pair *p)
{
    return p->options & ISA_OPT_AMD && p->mode == ISA_MODE_64 && p->in.opsize == 2 &&
           (isa_forms[p->in.form].cls == ISA_CLASS_BRANCH);
}

static bool wbnoinvd(const struct pair *p)
{
    return p->in.op == ISA_OP_WBNOINVD;
}

// Neither Zydis' nor our result means the instruction is good; the processor stops at the opcode.
static bool padlock_at_end(const struct pair *p)
{
    u8 last = p->bytes[p->in.len - 1];
    return p->status == ISA_INVALID && p->bytes[p->in.len - 2] == 0x0f && (last == 0xa6 || last == 0xa7);
}

// SDM 3B table 23-5: the conversions between MMX and floating point.
static bool mmx_conversion(const struct pair *p)
{
    return OP_IN(p, ISA_OP_CVTPI2PS, ISA_OP_CVTPS2PI, ISA_OP_CVTTPS2PI, ISA_OP_CVTPD2PI, ISA_OP_CVTTPD2PI);
}

static bool unaligned(const struct pair *p)
{
    return OP_IN(p, ISA_OP_MOVUPS, ISA_OP_MOVUPD, ISA_OP_MOVDQU, ISA_OP_LDDQU, ISA_OP_PCMPESTRI, ISA_OP_PCMPESTRM,
                 ISA_OP_PCMPISTRI, ISA_OP_PCMPISTRM);
}

static bool cmpxchg16b(const struct pair *p)
{
    return p->in.op == ISA_OP_CMPXCHG16B;
}

static const struct exception exceptions[] = {
    {ASPECT_NAME, pause_rex_b, "F3 REX.B 90 is XCHG r8, rAX on the processor, PAUSE for Zydis"},
    {ASPECT_OPERAND, pause_rex_b, "F3 REX.B 90 is XCHG r8, rAX on the processor, PAUSE for Zydis"},
    {ASPECT_VALIDITY, prefetch_reg, "0F 0D with a register is #UD on the processor, a no-operation for Zydis"},
    {ASPECT_NAME, prefetch_space, "0F 0D /2 (PREFETCHWT1) is a plain PREFETCH on the processor"},
    {ASPECT_NAME, x87_alias, "D9 D8+i is FSTP here, FSTPNCE for Zydis"},
    {ASPECT_VALIDITY, cr8_by_lock, "LOCK MOV CR0 is MOV CR8 on AMD; Zydis does not know it"},
    {ASPECT_VALIDITY, amd_pinsr_w1, "VPINSRD and VPEXTRD with W1 outside 64-bit mode are #UD on the processor"},
    {ASPECT_OPERAND, sib_without_base,
     "SIB without base under 67 and REX.B: Zydis invents r13d, the processor has no base"},
    {ASPECT_LENGTH, ud_without_modrm, "UD0 and UD1 have no ModRM byte on the processor"},
    {ASPECT_VALIDITY, ud_without_modrm, "UD0 and UD1 have no ModRM byte on the processor"},
    {ASPECT_VALIDITY, padlock_at_end, "0F A6 and 0F A7 have no ModRM byte on the processor"},
    {ASPECT_NAME, wbnoinvd, "F3 0F 09 is WBNOINVD; Zydis 4.0 calls it WBINVD"},
    {ASPECT_OPERAND, movsxd_16, "MOVSXD r16 reads 32 bits on the processor"},
    {ASPECT_SIZES, near_branch_66, "66 on near branches in 64-bit mode: AMD honours it, Zydis only for some of them"},
    {ASPECT_OPERAND, near_branch_66, "66 on near branches in 64-bit mode: AMD honours it, Zydis only for some of them"},
    {ASPECT_ACCESS, address_only, "INVLPG and the prefetches use an address only"},
    {ASPECT_SIZES, far_amd, "far pointers in memory ignore REX.W on AMD"},
    {ASPECT_OPERAND, far_amd, "far pointers in memory ignore REX.W on AMD"},
    {ASPECT_SIZES, fixed_operand_size,
     "insn.opsize is what the prefixes say even where the form does not depend on it"},
    {ASPECT_SIZES, hint_nop, "hint no-operations: Zydis lets a mandatory prefix change the operand size"},
    {ASPECT_OPERAND, hint_nop, "hint no-operations: Zydis shows other operands for some"},
    {ASPECT_ACCESS, hint_nop, "hint no-operations access nothing"},
    {ASPECT_OPERAND, selector_register, "LAR and LSL use 16 bits of a source register"},
    {ASPECT_OPERAND, cache_line, "cache line operations name one byte here, 64 for Zydis"},
    {ASPECT_OPERAND, mask_to_gpr, "the mask moves write 32 bits (and clear the rest) with REX.W too"},
    {ASPECT_OPERAND, svm_registers, "the rAX and ECX operands of SVM instructions and CLZERO are implicit here"},
    {ASPECT_FLAGS, sbb, "SBB defines AF (SDM 2B); Zydis calls it undefined"},
    {ASPECT_FLAGS, shift_by_one, "shifts and rotates by the constant 1 define OF"},
    {ASPECT_FLAGS, pushes_flags, "software interrupts store the flags"},
    {ASPECT_FLAGS, bextr, "BEXTR clears CF and OF (SDM 2A)"},
    {ASPECT_FLAGS, vex_test, "VPTEST and VTESTPx clear OF, SF, AF, PF (SDM 2C)"},
    {ASPECT_ACCESS, merging, "a destination that keeps a part of its old value counts as read"},
    {ASPECT_ATTR, mmx_conversion, "CVTxPI and CVTPI2PS have no exception class in Zydis"},
    {ASPECT_ATTR, unaligned, "exception class 4 includes some that need no alignment"},
    {ASPECT_ATTR, cmpxchg16b, "CMPXCHG16B needs alignment, and has no exception class in Zydis"},
    {ASPECT_ACCESS, rep_string, "a repeated string instruction may run zero times"},
};
