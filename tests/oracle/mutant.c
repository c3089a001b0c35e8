// Wrong behaviours, each in one condition, that a wrong engine might show. `oracle --selfcheck` applies them to the engine's
// answers and counts those that the comparison finds: it shows that the generator reaches the conditions and that nothing
// compared is masked away.
#include <string.h>

#include "oracle/oracle.h"

static bool done(const struct orc_result *r)
{
    return r->vector == ORC_NO_VECTOR;
}

static bool is(const struct orc_case *c, unsigned op)
{
    return c->valid && c->insn.op == op;
}

static bool dest_is(const struct orc_case *c, unsigned kind, unsigned size)
{
    return c->valid && c->insn.nopnd && c->insn.opnd[0].kind == kind && (!size || c->insn.opnd[0].size == size);
}

static bool has_memory(const struct orc_case *c)
{
    for (unsigned i = 0; c->valid && i < c->insn.nopnd; i++)
        if (c->insn.opnd[i].kind == ISA_OPND_MEM)
            return true;
    return false;
}

static u64 *dest(const struct orc_case *c, struct orc_result *r)
{
    return &r->out.gpr[c->insn.opnd[0].reg];
}

static u32 attr(const struct orc_case *c)
{
    return c->valid ? isa_forms[c->insn.form].attr : 0;
}

static void restart(const struct orc_case *c, struct orc_result *r)
{
    r->out = c->in;
    r->nlines = 0;
}

static void fault(const struct orc_case *c, struct orc_result *r, unsigned vector, u32 error)
{
    restart(c, r);
    r->vector = (u8)vector;
    r->error = error;
    r->out.rflags |= X86_FL_RF;
}

static bool rep(const struct orc_case *c)
{
    return c->valid && (c->insn.prefix & (ISA_PFX_REP | ISA_PFX_REPNE)) && (attr(c) & (ISA_ATTR_REP | ISA_ATTR_REPCC));
}

static unsigned shift_count(const struct orc_case *c)
{
    const struct isa_operand *o = &c->insn.opnd[c->insn.nopnd - 1];
    return o->kind == ISA_OPND_IMM ? (u8)c->insn.imm : (u8)c->in.gpr[X86_RCX];
}

static bool is_shift(const struct orc_case *c)
{
    return is(c, ISA_OP_SHL) || is(c, ISA_OP_SHR) || is(c, ISA_OP_SAR);
}

#define M(name) static void name(__attribute__((unused)) const struct orc_case *c, struct orc_result *r)

// --- flags --------------------------------------------------------------------------------------------------------------

M(shift_by_zero_clears_carry)
{
    if (is_shift(c) && done(r) && (shift_count(c) & 31) == 0)
        r->out.rflags &= ~(u64)X86_FL_CF;
}

M(shift_by_zero_sets_zf)
{
    if (is(c, ISA_OP_SHL) && done(r) && (shift_count(c) & 31) == 0)
        r->out.rflags |= X86_FL_ZF;
}

M(shift_64_masks_count_to_31)
{
    if (is(c, ISA_OP_SHL) && done(r) && dest_is(c, ISA_OPND_GPR, 8) && (shift_count(c) & 32))
        *dest(c, r) = c->in.gpr[c->insn.opnd[0].reg] << (shift_count(c) & 31);
}

M(inc_changes_carry)
{
    if (is(c, ISA_OP_INC) && done(r))
        r->out.rflags &= ~(u64)X86_FL_CF;
}

M(neg_of_zero_sets_carry)
{
    if (is(c, ISA_OP_NEG) && done(r) && (r->out.rflags & X86_FL_ZF))
        r->out.rflags |= X86_FL_CF;
}

M(parity_of_whole_result)
{
    if (is(c, ISA_OP_ADD) && done(r) && dest_is(c, ISA_OPND_GPR, 4)) {
        bool odd = __builtin_parity((u32)*dest(c, r));
        r->out.rflags = (r->out.rflags & ~(u64)X86_FL_PF) | (odd ? 0 : X86_FL_PF);
    }
}

M(adc_loses_aux_carry_of_carry_in)
{
    if (is(c, ISA_OP_ADC) && done(r) && (c->in.rflags & X86_FL_CF))
        r->out.rflags &= ~(u64)X86_FL_AF;
}

M(loop_writes_zf)
{
    if (is(c, ISA_OP_LOOP) && done(r) && (u32)r->out.gpr[X86_RCX] == 0)
        r->out.rflags ^= X86_FL_ZF;
}

M(popf_sets_iopl)
{
    if (is(c, ISA_OP_POPF) && done(r))
        r->out.rflags |= X86_FL_IOPL;
}

M(fault_frame_without_rf)
{
    if (r->vector == X86_EXC_PF)
        r->out.rflags &= ~(u64)X86_FL_RF;
}

M(cld_keeps_df)
{
    if (is(c, ISA_OP_CLD) && done(r))
        r->out.rflags |= c->in.rflags & X86_FL_DF;
}

M(bt_writes_zf)
{
    if (is(c, ISA_OP_BT) && done(r))
        r->out.rflags &= ~(u64)X86_FL_ZF;
}

// --- registers ----------------------------------------------------------------------------------------------------------

M(mov_32_keeps_upper_half)
{
    if (is(c, ISA_OP_MOV) && done(r) && c->mode == ISA_MODE_64 && dest_is(c, ISA_OPND_GPR, 4))
        *dest(c, r) |= c->in.gpr[c->insn.opnd[0].reg] & 0xffffffff00000000ull;
}

M(false_cmov_32_keeps_upper_half)
{
    if (is(c, ISA_OP_CMOVCC) && done(r) && c->mode == ISA_MODE_64 && dest_is(c, ISA_OPND_GPR, 4) &&
        *dest(c, r) == (u32)c->in.gpr[c->insn.opnd[0].reg])
        *dest(c, r) = c->in.gpr[c->insn.opnd[0].reg];
}

M(high_byte_written_to_low)
{
    if (c->valid && done(r) && dest_is(c, ISA_OPND_GPR8H, 0)) {
        u64 was = c->in.gpr[c->insn.opnd[0].reg];
        *dest(c, r) = (was & ~0xffull) | (*dest(c, r) >> 8 & 0xff);
    }
}

M(movsx_is_movzx)
{
    if (is(c, ISA_OP_MOVSX) && done(r))
        *dest(c, r) &= c->insn.opnd[1].size == 1 ? ~(u64)0xff00 : ~(u64)0xffff0000;
}

M(push_rsp_pushes_new_value)
{
    if (is(c, ISA_OP_PUSH) && done(r) && r->nlines && c->insn.opnd[0].kind == ISA_OPND_GPR &&
        c->insn.opnd[0].reg == X86_RSP) {
        unsigned at = (unsigned)r->out.gpr[X86_RSP] & (ORC_LINE - 1);
        r->bytes[0][at] = (u8)(r->bytes[0][at] - c->insn.opsize);
    }
}

M(leave_forgets_rbp)
{
    if (is(c, ISA_OP_LEAVE) && done(r))
        r->out.gpr[X86_RBP] = c->in.gpr[X86_RBP];
}

M(failing_cmpxchg_keeps_accumulator)
{
    if (is(c, ISA_OP_CMPXCHG) && done(r) && !(r->out.rflags & X86_FL_ZF))
        r->out.gpr[X86_RAX] = c->in.gpr[X86_RAX];
}

M(lea_16_writes_32)
{
    if (is(c, ISA_OP_LEA) && done(r) && dest_is(c, ISA_OPND_GPR, 2))
        *dest(c, r) &= 0xffff;
}

M(div_remainder_lost)
{
    if (is(c, ISA_OP_DIV) && done(r) && c->insn.opnd[0].size > 1)
        r->out.gpr[X86_RDX] = c->in.gpr[X86_RDX];
}

M(bsf_of_zero_writes)
{
    if (is(c, ISA_OP_BSF) && done(r) && (r->out.rflags & X86_FL_ZF))
        *dest(c, r) = 0;
}

M(next_rip_forgets_prefix)
{
    if (is(c, ISA_OP_XCHG) && done(r) && (c->insn.prefix & ISA_PFX_LOCK))
        r->out.rip--;
}

M(wrfsbase_32_sign_extends)
{
    if (is(c, ISA_OP_WRFSBASE) && done(r) && c->insn.opnd[0].size == 4)
        r->out.fs_base = (u64)(i64)(i32)r->out.fs_base;
}

M(segment_load_drops_rpl)
{
    if (is(c, ISA_OP_MOV) && done(r) && dest_is(c, ISA_OPND_SEG, 0) && (r->out.sel[c->insn.opnd[0].reg] & 0xfffc))
        r->out.sel[c->insn.opnd[0].reg] &= 0xfffc;
}

// --- strings and branches -------------------------------------------------------------------------------------------------

M(rep_of_zero_count_moves_once)
{
    if (rep(c) && done(r) && is(c, ISA_OP_STOS) && c->in.gpr[X86_RCX] == 0)
        r->out.gpr[X86_RDI] += c->insn.opnd[0].size;
}

M(rep_leaves_count)
{
    if (rep(c) && done(r) && is(c, ISA_OP_SCAS))
        r->out.gpr[X86_RCX] = c->in.gpr[X86_RCX];
}

M(df_ignored_by_lods)
{
    if (is(c, ISA_OP_LODS) && done(r) && !rep(c) && (c->in.rflags & X86_FL_DF))
        r->out.gpr[X86_RSI] = c->in.gpr[X86_RSI] + c->insn.opnd[0].size;
}

M(jcxz_tests_full_register)
{
    if (is(c, ISA_OP_JCXZ) && done(r) && c->in.gpr[X86_RCX] != 0)
        r->out.rip = c->in.rip + c->len;
}

M(jcc_16_not_truncated)
{
    if (is(c, ISA_OP_JCC) && done(r) && c->insn.opsize == 2 && c->mode == ISA_MODE_32 && r->out.rip < 0x10000)
        r->out.rip |= c->in.rip & 0xffff0000;
}

M(loop_16_counts_in_32)
{
    if (is(c, ISA_OP_LOOP) && done(r) && c->insn.adsize == 2)
        r->out.gpr[X86_RCX] = c->in.gpr[X86_RCX] - 1;
}

// --- memory and faults ------------------------------------------------------------------------------------------------------

M(cr2_is_page_start)
{
    if (r->vector == X86_EXC_PF)
        r->cr2 &= ~4095ull;
}

M(cr2_of_crossing_is_operand_start)
{
    if (r->vector == X86_EXC_PF && has_memory(c) && (r->cr2 & 4095) == 0)
        r->cr2 -= 1;
}

M(rmw_fault_reported_as_read)
{
    if (r->vector == X86_EXC_PF && has_memory(c) && (attr(c) & ISA_ATTR_LOCK))
        r->error &= ~(u32)X86_PF_W;
}

M(fetch_fault_without_i)
{
    if (r->vector == X86_EXC_PF)
        r->error &= ~(u32)X86_PF_I;
}

M(write_to_read_only_allowed)
{
    if (r->vector == X86_EXC_PF && (r->error & (X86_PF_P | X86_PF_W)) == (X86_PF_P | X86_PF_W) && r->cr2 >> 47 == 0)
        r->vector = ORC_NO_VECTOR;
}

M(store_before_crossing_fault)
{
    if (r->vector == X86_EXC_PF && is(c, ISA_OP_MOV) && (r->error & X86_PF_W) && (r->cr2 & 4095) == 0 && !r->nlines) {
        unsigned off = (unsigned)(r->cr2 - ORC_ARENA);
        if (off > ORC_LINE && off < ORC_ARENA_SIZE && orc_page_kind[(off - 1) >> 12] == ORC_RW) {
            r->nlines = 1;
            r->line[0] = (u16)(off - ORC_LINE);
            memcpy(r->bytes[0], orc_pristine + off - ORC_LINE, ORC_LINE);
            r->bytes[0][ORC_LINE - 1] ^= 0xff;
        }
    }
}

M(store_one_byte_short)
{
    if (done(r) && is(c, ISA_OP_MOV) && dest_is(c, ISA_OPND_MEM, 8) && r->nlines == 2)
        r->nlines = 1;
}

M(page_end_check_off_by_one)
{
    // A load whose last byte is the page's last byte seen as crossing into the absent page.
    if (done(r) && has_memory(c) && c->npatch == 1 && ((c->patch[0].off + c->patch[0].len) & 4095) == 0)
        fault(c, r, X86_EXC_PF, X86_PF_U);
}

M(misaligned_sse_allowed)
{
    if (r->vector == X86_EXC_GP && (attr(c) & ISA_ATTR_ALIGN))
        r->vector = ORC_NO_VECTOR;
}

M(no_alignment_check)
{
    if (r->vector == X86_EXC_AC)
        r->vector = ORC_NO_VECTOR;
}

M(stack_fault_as_gp)
{
    if (r->vector == X86_EXC_SS)
        r->vector = X86_EXC_GP;
}

M(selector_error_code_lost)
{
    if (r->vector == X86_EXC_GP && r->error)
        r->error = 0;
}

M(int_error_without_idt_bit)
{
    if (is(c, ISA_OP_INT) && r->vector == X86_EXC_GP)
        r->error &= ~X86_ERR_IDT;
}

M(not_present_segment_as_gp)
{
    if (r->vector == X86_EXC_NP)
        r->vector = X86_EXC_GP;
}

M(expand_down_limit_off_by_one)
{
    if (c->mode == ISA_MODE_32 && c->valid && has_memory(c) && r->vector == X86_EXC_GP && !r->error &&
        c->in.sel[c->insn.seg] == ORC_LDT_SEL(ORC_LDT_EXPDOWN))
        r->vector = ORC_NO_VECTOR;
}

M(lock_on_register_allowed)
{
    if (!c->valid && r->vector == X86_EXC_UD)
        r->vector = X86_EXC_GP;
}

M(divide_overflow_ignored)
{
    if (r->vector == X86_EXC_DE)
        r->vector = ORC_NO_VECTOR;
}

M(single_step_lost)
{
    if ((c->flags & ORC_F_SINGLE_STEP) && r->vector == X86_EXC_DB)
        r->vector = ORC_NO_VECTOR;
}

M(privileged_instruction_allowed)
{
    if (is(c, ISA_OP_CLI) && r->vector == X86_EXC_GP)
        r->vector = ORC_NO_VECTOR;
}

// --- vectors and x87 --------------------------------------------------------------------------------------------------------

M(daz_ignored)
{
    if (done(r) && (attr(c) & ISA_ATTR_FPEXC) && (c->in.xs.mxcsr & X86_MXCSR_DAZ) && !(r->out.xs.mxcsr & 2) &&
        (r->out.xs.mxcsr & 0x20))
        r->out.xs.mxcsr |= 2;
}

M(ftz_ignored)
{
    if (done(r) && (attr(c) & ISA_ATTR_FPEXC) && (c->in.xs.mxcsr & X86_MXCSR_FTZ) && (r->out.xs.mxcsr & 0x10) &&
        !(c->in.xs.mxcsr & 0x10))
        r->out.xs.mxcsr &= ~0x20u;
}

M(sticky_flags_cleared)
{
    if (done(r) && (attr(c) & ISA_ATTR_FPEXC))
        r->out.xs.mxcsr &= ~(c->in.xs.mxcsr & X86_MXCSR_FLAGS);
}

M(unmasked_simd_exception_ignored)
{
    if (r->vector == X86_EXC_XM)
        r->vector = ORC_NO_VECTOR;
}

M(vex_128_keeps_upper_half)
{
    if (done(r) && c->valid && c->insn.enc != ISA_ENC_LEGACY && dest_is(c, ISA_OPND_XMM, 16))
        memcpy(r->out.xs.ymmh[c->insn.opnd[0].reg], c->in.xs.ymmh[c->insn.opnd[0].reg], 16);
}

M(legacy_sse_clears_upper_half)
{
    if (done(r) && c->valid && c->insn.enc == ISA_ENC_LEGACY && dest_is(c, ISA_OPND_XMM, 16))
        memset(r->out.xs.ymmh[c->insn.opnd[0].reg], 0, 16);
}

M(movss_load_keeps_upper_lanes)
{
    if (done(r) && is(c, ISA_OP_MOVSS) && has_memory(c) && dest_is(c, ISA_OPND_XMM, 0))
        memcpy(r->out.xs.xmm[c->insn.opnd[0].reg] + 4, c->in.xs.xmm[c->insn.opnd[0].reg] + 4, 12);
}

M(maskmov_stores_all)
{
    if (done(r) && is(c, ISA_OP_MASKMOVDQU) && r->nlines)
        r->bytes[0][c->in.gpr[X86_RDI] & (ORC_LINE - 1)] ^= 1;
}

M(fld_leaves_top)
{
    if (done(r) && is(c, ISA_OP_FLD))
        r->out.xs.fsw = (u16)((r->out.xs.fsw & ~0x3800) | (c->in.xs.fsw & 0x3800));
}

M(stack_underflow_without_c1_rule)
{
    if (done(r) && (attr(c) & ISA_ATTR_X87) && (r->out.xs.fsw & 0x40) && !(c->in.xs.fsw & 0x40))
        r->out.xs.fsw ^= 0x200;
}

M(mmx_keeps_tags)
{
    if (done(r) && (attr(c) & ISA_ATTR_MMX))
        r->out.xs.ftw = c->in.xs.ftw;
}

M(mmx_write_leaves_exponent)
{
    if (done(r) && (attr(c) & ISA_ATTR_MMX) && dest_is(c, ISA_OPND_MMX, 0))
        memset(r->out.xs.st[c->insn.opnd[0].reg & 7] + 8, 0, 2);
}

M(x87_pointer_not_updated)
{
    if (done(r) && is(c, ISA_OP_FADD))
        r->out.xs.fip = c->in.xs.fip;
}

M(x87_data_pointer_has_no_address)
{
    if (done(r) && is(c, ISA_OP_FADD) && has_memory(c))
        r->out.xs.fdp = c->in.xs.fdp;
}

M(pending_x87_exception_ignored)
{
    if (r->vector == X86_EXC_MF)
        r->vector = ORC_NO_VECTOR;
}

M(rounding_control_ignored_by_fist)
{
    if (done(r) && is(c, ISA_OP_FIST) && (c->in.xs.fcw & 0xc00) == 0x800 && r->nlines)
        r->bytes[0][orc_operand_address(c) & (ORC_LINE - 1)] ^= 1;
}

#undef M
#define M(name) {#name, name},

const struct orc_mutant orc_mutants[] = {
    M(shift_by_zero_clears_carry) M(shift_by_zero_sets_zf) M(shift_64_masks_count_to_31) M(inc_changes_carry)
        M(neg_of_zero_sets_carry) M(parity_of_whole_result) M(adc_loses_aux_carry_of_carry_in) M(loop_writes_zf) M(
            popf_sets_iopl) M(fault_frame_without_rf) M(cld_keeps_df) M(bt_writes_zf) M(mov_32_keeps_upper_half)
            M(false_cmov_32_keeps_upper_half) M(high_byte_written_to_low) M(movsx_is_movzx) M(push_rsp_pushes_new_value)
                M(leave_forgets_rbp) M(failing_cmpxchg_keeps_accumulator) M(lea_16_writes_32) M(div_remainder_lost) M(
                    bsf_of_zero_writes) M(next_rip_forgets_prefix) M(wrfsbase_32_sign_extends) M(segment_load_drops_rpl)
                    M(rep_of_zero_count_moves_once) M(rep_leaves_count) M(df_ignored_by_lods)
                        M(jcxz_tests_full_register) M(jcc_16_not_truncated) M(loop_16_counts_in_32) M(cr2_is_page_start)
                            M(cr2_of_crossing_is_operand_start) M(rmw_fault_reported_as_read) M(fetch_fault_without_i)
                                M(write_to_read_only_allowed) M(store_before_crossing_fault) M(store_one_byte_short)
                                    M(page_end_check_off_by_one) M(misaligned_sse_allowed) M(no_alignment_check)
                                        M(stack_fault_as_gp) M(selector_error_code_lost) M(int_error_without_idt_bit)
                                            M(not_present_segment_as_gp) M(expand_down_limit_off_by_one) M(
                                                lock_on_register_allowed) M(divide_overflow_ignored) M(single_step_lost)
                                                M(privileged_instruction_allowed) M(daz_ignored) M(ftz_ignored)
                                                    M(sticky_flags_cleared) M(unmasked_simd_exception_ignored)
                                                        M(vex_128_keeps_upper_half) M(legacy_sse_clears_upper_half)
                                                            M(movss_load_keeps_upper_lanes) M(maskmov_stores_all)
                                                                M(fld_leaves_top) M(stack_underflow_without_c1_rule)
                                                                    M(mmx_keeps_tags) M(mmx_write_leaves_exponent)
                                                                        M(x87_pointer_not_updated)
                                                                            M(x87_data_pointer_has_no_address)
                                                                                M(pending_x87_exception_ignored) M(
                                                                                    rounding_control_ignored_by_fist)};
const unsigned orc_mutant_count = ARRAY_LEN(orc_mutants);
_Static_assert(ARRAY_LEN(orc_mutants) <= ORC_MAX_MUTANTS, "oracle.h");
