// Near control transfers of flat code. Direct ones follow the link in their cell; indirect ones ask where this address led last
// time. What neither knows leaves the run, and the loop looks it up.
//
// In 64-bit mode a target that is not canonical is the branch's own fault: the interpreter raises it.
#include "engine/cache/exec.h"

// --- conditional ------------------------------------------------------------------------------------------------------------

#define DEFINE_JCC(cc_, ...) \
    static HANDLER(jcc_near_##cc_) \
    { \
        if (UNLIKELY(!cond_known(e, 0x##cc_))) \
            PASS(slow_flags); \
        if (cond_now(c, e, 0x##cc_)) \
            FOLLOW(o, (i64)o->rest - 1); \
        NEXT; \
    } \
    static HANDLER(jcc_far_##cc_) \
    { \
        if (UNLIKELY(!cond_known(e, 0x##cc_))) \
            PASS(slow_flags); \
        if (cond_now(c, e, 0x##cc_)) \
            FOLLOW_FAR(o, (i64)o->rest - 1, true); \
        NEXT; \
    }
EACH_CC(DEFINE_JCC, )
#define JCC_NEAR(cc_, ...) jcc_near_##cc_,
#define JCC_FAR(cc_, ...) jcc_far_##cc_,
static cell_fn *const jcc_forms[2][16] = {{EACH_CC(JCC_NEAR, )}, {EACH_CC(JCC_FAR, )}};

// --- unconditional ------------------------------------------------------------------------------------------------------------

static HANDLER(jmp_near)
{
    FOLLOW(o, 0);
}

static HANDLER(jmp_far)
{
    FOLLOW_FAR(o, 0, true);
}

HANDLER(next_run)
{
    FOLLOW(o, 0);
}

HANDLER(next_page)
{
    FOLLOW_FAR(o, 0, false);
}

// Before anything has happened.
#define CHECK_TARGET(target, size) \
    if (size == 8 && UNLIKELY(!gva_canonical(target))) \
    PASS(slow_branch)

// The return address goes to the stack first; when that faults, nothing has happened.
#define PUSH_RETURN(size) \
    u64 ret = e->page_rip + o->next; \
    u64 sp = reg_get(c, X86_RSP, size) - size; \
    u8 *to; \
    if (UNLIKELY(!probe(e, size == 8 ? sp : (u32)sp, size, true, &to))) \
    PASS(slow_branch)
#define COMMIT_RETURN(size) \
    host_store(to, size, ret); \
    reg_set(c, X86_RSP, size, sp)

#define DEFINE_CALL(size) \
    static HANDLER(call_near_##size) \
    { \
        PUSH_RETURN(size); \
        COMMIT_RETURN(size); \
        FOLLOW(o, 0); \
    } \
    static HANDLER(call_far_##size) \
    { \
        CHECK_TARGET(e->page_rip + (u64)(i64)o->disp, size); \
        PUSH_RETURN(size); \
        COMMIT_RETURN(size); \
        FOLLOW_FAR(o, 0, false); \
    }
DEFINE_CALL(4)
DEFINE_CALL(8)

// --- indirect -------------------------------------------------------------------------------------------------------------------

// Go to `target`; where it is not known, leave with it as RIP. The instruction ends its run.
#define JUMP_TO(target) \
    do { \
        struct run *r_ = jump_find(e, target); \
        if (UNLIKELY(!r_)) { \
            c->rip = (target); \
            PASS(leave_at_rip); \
        } \
        e->page_rip = (target) & ~4095ull; \
        ENTER(r_); \
    } while (0)

// The target is in RIP.
static HANDLER(leave_at_rip)
{
    (void)o;
    sync_at(e, c->rip, left);
    DONE;
}

#define DEFINE_INDIRECT_MEM(kind, size) \
    static HANDLER(jmp_m_##size##_##kind) \
    { \
        MEM_OR(slow_branch, p, kind, size, false); \
        u64 target = host_load(p, size); \
        CHECK_TARGET(target, size); \
        JUMP_TO(target); \
    } \
    static HANDLER(call_m_##size##_##kind) \
    { \
        MEM_OR(slow_branch, p, kind, size, false); \
        u64 target = host_load(p, size); \
        CHECK_TARGET(target, size); \
        PUSH_RETURN(size); \
        COMMIT_RETURN(size); \
        JUMP_TO(target); \
    }
#define DEFINE_INDIRECT(size) \
    static HANDLER(jmp_r_##size) \
    { \
        u64 target = reg_get(c, o->dst, size); \
        CHECK_TARGET(target, size); \
        JUMP_TO(target); \
    } \
    static HANDLER(call_r_##size) \
    { \
        u64 target = reg_get(c, o->dst, size); \
        CHECK_TARGET(target, size); \
        PUSH_RETURN(size); \
        COMMIT_RETURN(size); \
        JUMP_TO(target); \
    } \
    static HANDLER(ret_##size) \
    { \
        u64 sp = reg_get(c, X86_RSP, size); \
        u8 *from; \
        if (UNLIKELY(!probe(e, sp, size, false, &from))) \
            PASS(slow_branch); \
        u64 target = host_load(from, size); \
        CHECK_TARGET(target, size); \
        reg_set(c, X86_RSP, size, sp + size + o->imm); \
        JUMP_TO(target); \
    } \
    EACH_EA(DEFINE_INDIRECT_MEM, size)

DEFINE_INDIRECT(4)
DEFINE_INDIRECT(8)

struct branch_forms {
    cell_fn *call[2], *ret, *jmp_r, *call_r, *jmp_m[EA_COUNT], *call_m[EA_COUNT];
};
#define JMP_M(kind, size) [kind] = jmp_m_##size##_##kind,
#define CALL_M(kind, size) [kind] = call_m_##size##_##kind,
#define BRANCH_ROW(size) \
    { \
        {call_near_##size, call_far_##size}, ret_##size, jmp_r_##size, call_r_##size, {EACH_EA(JMP_M, size)}, \
        { \
            EACH_EA(CALL_M, size) \
        } \
    }
static const struct branch_forms branch_forms[2] = {BRANCH_ROW(4), BRANCH_ROW(8)};

// --- choice ---------------------------------------------------------------------------------------------------------------------

// Fill in where a direct branch goes. False where it cannot be told relative to the page.
static bool set_target(const struct insn *in, struct cell *o, bool *far)
{
    i64 target = (i64)o->next + in->imm;
    if (target < INT32_MIN || target > INT32_MAX)
        return false;
    o->disp = (i32)target;
    o->link = NULL;
    o->next_in = 0;
    o->seg = CELL_DIRECT;
    *far = target < 0 || target > 4095;
    return true;
}

cell_fn *select_branch(const struct cache *e, const struct insn *in, struct cell *o)
{
    unsigned size = in_64bit(e) ? 8 : 4;
    if (!(e->mode & RUN_FLAT) || in->opsize != size)
        return NULL;
    const struct branch_forms *f = &branch_forms[size == 8];
    unsigned kind = in->opnd[0].kind;
    bool far;
    switch (in->op) {
    case ISA_OP_JCC: o->cc = in->opcode & 15; return set_target(in, o, &far) ? jcc_forms[far][in->opcode & 15] : NULL;
    case ISA_OP_JMP:
        if (kind == ISA_OPND_REL)
            return set_target(in, o, &far) ? (far ? jmp_far : jmp_near) : NULL;
        return kind == ISA_OPND_GPR ? f->jmp_r : kind == ISA_OPND_MEM ? f->jmp_m[ea_kind(e, in)] : NULL;
    case ISA_OP_CALL:
        if (kind == ISA_OPND_REL)
            return set_target(in, o, &far) ? f->call[far] : NULL;
        return kind == ISA_OPND_GPR ? f->call_r : kind == ISA_OPND_MEM ? f->call_m[ea_kind(e, in)] : NULL;
    case ISA_OP_RET: o->imm = in->nopnd ? (u16)in->imm : 0; return f->ret;
    default: return NULL;
    }
}
