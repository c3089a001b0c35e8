// Real-mode instructions against captures from an 80286.
//
//   cpu286 [--engine NAME] [--data DIR] [--form FORM] [--verbose]
//
// Each capture is an instruction with its registers and memory before and after, up to the HLT that follows it. Two things are
// adapted to later processors for all captures: flag bits 12 to 15 are not compared (the 286 has them fixed in real mode), and the
// handler of vector 13 also serves vector 12 (the 286 raises 13 for stack accesses beyond the limit). Beyond that differences are
// allowed only where `known[]` says why. Without the data the test is skipped (exit 77).
#include <errno.h>
#include <jansson.h>

#include "isa/insn.h"
#include "lib/testvm.h"

#define RAM_SIZE (16u << 20)
#define MAX_BYTES 512

struct bytes {
    unsigned count;
    u32 addr[MAX_BYTES];
    u8 val[MAX_BYTES];
};

struct regs {
    u16 r[8], seg[4], ip, flags; // seg: ES CS SS DS
};

struct capture {
    const char *form, *name;
    u8 code[16];
    unsigned code_len;
    struct regs before, after;
    struct bytes ram, ram_after;
    int exception; // -1: none
    u16 flags_mask;
};

static bool read_regs(json_t *o, struct regs *r)
{
    static const char *const name[8] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const seg[4] = {"es", "cs", "ss", "ds"};
    json_t *v;
    for (unsigned i = 0; i < 8; i++) {
        if ((v = json_object_get(o, name[i])))
            r->r[i] = (u16)json_integer_value(v);
    }
    for (unsigned i = 0; i < 4; i++) {
        if ((v = json_object_get(o, seg[i])))
            r->seg[i] = (u16)json_integer_value(v);
    }
    if ((v = json_object_get(o, "ip")))
        r->ip = (u16)json_integer_value(v);
    if ((v = json_object_get(o, "flags")))
        r->flags = (u16)json_integer_value(v);
    return json_is_object(o);
}

static bool read_bytes(json_t *a, struct bytes *b)
{
    b->count = (unsigned)json_array_size(a);
    if (b->count > MAX_BYTES)
        return false;
    for (unsigned i = 0; i < b->count; i++) {
        json_t *pair = json_array_get(a, i);
        b->addr[i] = (u32)json_integer_value(json_array_get(pair, 0)) & (RAM_SIZE - 1);
        b->val[i] = (u8)json_integer_value(json_array_get(pair, 1));
    }
    return true;
}

// The flag bits that are defined after a form: metadata.json, opcodes.OPCODE[.reg.N].flags-mask.
static u16 flags_mask(json_t *meta, const char *form)
{
    char opcode[8] = "", reg[4] = "";
    sscanf(form, "%7[^.].%3s", opcode, reg);
    json_t *o = json_object_get(json_object_get(meta, "opcodes"), opcode);
    if (reg[0])
        o = json_object_get(json_object_get(o, "reg"), reg);
    json_t *m = json_object_get(o, "flags-mask");
    return m ? (u16)json_integer_value(m) : 0xffff;
}

static bool read_capture(json_t *o, json_t *meta, struct capture *c)
{
    memset(c, 0, sizeof *c);
    c->form = json_string_value(json_object_get(o, "form"));
    c->name = json_string_value(json_object_get(o, "name"));
    json_t *code = json_object_get(o, "bytes"), *before = json_object_get(o, "initial"),
           *after = json_object_get(o, "final");
    json_t *exc = json_object_get(o, "exception");
    c->code_len = (unsigned)json_array_size(code);
    for (unsigned i = 0; i < c->code_len && i < sizeof c->code; i++)
        c->code[i] = (u8)json_integer_value(json_array_get(code, i));
    c->exception = exc ? (int)json_integer_value(json_object_get(exc, "number")) : -1;
    if (!c->form || !c->name || !read_regs(json_object_get(before, "regs"), &c->before))
        return false;
    c->after = c->before;
    c->flags_mask = flags_mask(meta, c->form);
    return read_regs(json_object_get(after, "regs"), &c->after) &&
           read_bytes(json_object_get(before, "ram"), &c->ram) &&
           read_bytes(json_object_get(after, "ram"), &c->ram_after);
}

// --- running -------------------------------------------------------------------------------------------------------------------

static const u8 seg_order[4] = {X86_ES, X86_CS, X86_SS, X86_DS};

static void set_state(struct testvm *t, const struct regs *r)
{
    struct cpu *c = &t->v->cpu;
    cpu_reset(c, true);
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = r->r[i];
    for (unsigned i = 0; i < 4; i++) {
        c->seg[seg_order[i]].sel = r->seg[i];
        c->seg[seg_order[i]].base = (u32)r->seg[i] << 4;
        c->seg[seg_order[i]].limit = 0xffff;
    }
    c->rip = r->ip;
    c->rflags = (r->flags & 0x0fd5u) | X86_FL_RSVD1;
}

#define FLAG_BITS 0x0fd5u // what real mode has on every processor: bits 12..15 differ on the 286

// Where an exception pushed byte `n` of the flags: above CS and IP on the final stack.
static u32 pushed_flags(const struct capture *c, unsigned n)
{
    return ((u32)c->after.seg[2] << 4) + (u16)(c->after.r[4] + 4 + n);
}

// Compare memory on every page that was written: initial bytes, overlaid by the final ones, zero elsewhere. Restores zero.
static bool compare_ram(struct testvm *t, const struct capture *c, char *why, size_t size)
{
    bool same = true;
    for (unsigned i = 0; i < c->ram_after.count; i++) {
        u32 a = c->ram_after.addr[i];
        u8 got = t->ram[a], want = c->ram_after.val[i], mask = 0xff;
        if (c->exception >= 0 && a == pushed_flags(c, 0))
            mask = (u8)(FLAG_BITS & c->flags_mask);
        else if (c->exception >= 0 && a == pushed_flags(c, 1))
            mask = (u8)((FLAG_BITS & c->flags_mask) >> 8);
        if (same && ((got ^ want) & mask)) {
            snprintf(why, size, "memory %06x is %02x, not %02x", a, got, want);
            same = false;
        }
        t->ram[a] = 0;
    }
    for (unsigned i = 0; i < c->ram.count; i++) {
        u32 a = c->ram.addr[i];
        bool changed = false;
        for (unsigned k = 0; k < c->ram_after.count; k++)
            changed |= c->ram_after.addr[k] == a;
        if (same && !changed && t->ram[a] != c->ram.val[i]) {
            snprintf(why, size, "memory %06x is %02x, not unchanged %02x", a, t->ram[a], c->ram.val[i]);
            same = false;
        }
        t->ram[a] = 0;
    }
    for (u64 p = 0; p < RAM_SIZE >> 12; p++) {
        if (!(t->flags[p] & MEM_PAGE_DIRTY))
            continue;
        for (u32 a = (u32)(p << 12); a < (p + 1) << 12; a++) {
            if (t->ram[a] && same) {
                snprintf(why, size, "memory %06x was written: %02x", a, t->ram[a]);
                same = false;
            }
            t->ram[a] = 0;
        }
        atomic_fetch_and(&t->flags[p], (u8)~MEM_PAGE_DIRTY);
        tlb_protect_gpa(&t->v->tlb, p << 12);
    }
    return same;
}

#define IGNORE_STRING_REGS (1u << X86_RCX | 1u << X86_RSI | 1u << X86_RDI)

static bool compare_regs(const struct cpu *c, const struct capture *cap, u32 ignore, char *why, size_t size)
{
    static const char *const name[8] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const seg[4] = {"es", "cs", "ss", "ds"};
    const struct regs *r = &cap->after;
    for (unsigned i = 0; i < 8; i++) {
        if ((u16)c->gpr[i] != r->r[i] && !(ignore >> i & 1)) {
            snprintf(why, size, "%s is %04x, not %04x", name[i], (u16)c->gpr[i], r->r[i]);
            return false;
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        if (c->seg[seg_order[i]].sel != r->seg[i]) {
            snprintf(why, size, "%s is %04x, not %04x", seg[i], c->seg[seg_order[i]].sel, r->seg[i]);
            return false;
        }
    }
    if ((u16)c->rip != r->ip) {
        snprintf(why, size, "ip is %04x, not %04x", (u16)c->rip, r->ip);
        return false;
    }
    u16 mask = FLAG_BITS & cap->flags_mask;
    if (((u16)c->rflags ^ r->flags) & mask) {
        snprintf(why, size, "flags are %04x, not %04x (mask %04x)", (u16)c->rflags & mask, r->flags & mask, mask);
        return false;
    }
    return true;
}

static bool run_capture(struct testvm *t, const struct capture *c, u32 ignore, char *why, size_t size)
{
    for (unsigned i = 0; i < c->ram.count; i++)
        t->ram[c->ram.addr[i]] = c->ram.val[i];
    if (c->exception == X86_EXC_GP)
        memcpy(t->ram + X86_EXC_SS * 4, t->ram + X86_EXC_GP * 4, 4);
    t->v->engine->invalidate(t->v, 0, RAM_SIZE);
    set_state(t, &c->before);
    tlb_flush_all(&t->v->tlb);
    struct vm_exit e = testvm_run(t, 200000);
    bool same = true;
    if (e.reason != VM_EXIT_HALT) {
        snprintf(why, size, "no halt (exit %d)", e.reason);
        same = false;
    }
    if (same)
        same = compare_regs(&t->v->cpu, c, ignore, why, size);
    if (c->exception == X86_EXC_GP)
        memset(t->ram + X86_EXC_SS * 4, 0, 4);
    char ram_why[96];
    if (!compare_ram(t, c, ram_why, sizeof ram_why) && same) {
        snprintf(why, size, "%s", ram_why);
        same = false;
    }
    return same;
}

// --- known differences ----------------------------------------------------------------------------------------------------------

static bool decodes(const struct capture *c, bool without_lock)
{
    u8 code[16] = {0};
    unsigned n = 0;
    bool prefix = true;
    for (unsigned i = 0; i < c->code_len && i < sizeof c->code; i++) {
        u8 b = c->code[i];
        prefix = prefix && (b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26);
        if (!(prefix && without_lock && b == 0xf0))
            code[n++] = b;
    }
    struct insn in;
    return isa_decode(code, sizeof code, ISA_MODE_16, 0, &in) == ISA_OK;
}

// Later processors raise #UD for LOCK before instructions that do not write memory in one go; the 286 runs them.
static bool lock_ignored(const struct capture *c)
{
    return !decodes(c, false) && decodes(c, true);
}

// More than 10 bytes: #GP on the 286, fine up to 15 on later ones.
static bool longer_than_ten(const struct capture *c)
{
    return c->exception == X86_EXC_GP && c->code_len - 1 > 10; // without the HLT
}

// String instructions whose word at offset ffff faults: the 286 has already moved its registers; later processors restart.
static bool string_moved(const struct capture *c)
{
    struct insn in;
    return c->exception == X86_EXC_GP && isa_decode(c->code, sizeof c->code, ISA_MODE_16, 0, &in) == ISA_OK &&
           (isa_forms[in.form].attr & (ISA_ATTR_REP | ISA_ATTR_REPCC));
}

// Selectors 4 and 5: FS and GS from the 386 on.
static bool fs_or_gs(const struct capture *c)
{
    struct insn in;
    if (isa_decode(c->code, sizeof c->code, ISA_MODE_16, 0, &in) != ISA_OK)
        return false;
    for (unsigned i = 0; i < in.nopnd; i++) {
        if (in.opnd[i].kind == ISA_OPND_SEG && in.opnd[i].reg >= X86_FS)
            return c->exception == X86_EXC_UD;
    }
    return false;
}

static const struct known {
    const char *form; // prefix of the form's name; "" any
    bool (*applies)(const struct capture *c);
    u32 ignore; // registers that may differ, all else has to be the same; 0: skipped altogether
    const char *reason;
} known[] = {
    {"", lock_ignored, 0, "LOCK where later processors raise #UD"},
    {"", longer_than_ten, 0, "instructions longer than 10 bytes fault on the 286"},
    {"", string_moved, IGNORE_STRING_REGS, "string registers moved before the fault at offset ffff"},
    {"8", fs_or_gs, 0, "FS and GS do not exist"},
};

static int known_reason(const struct capture *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        if (strncmp(c->form, known[i].form, strlen(known[i].form)) == 0 && known[i].applies(c))
            return (int)i;
    }
    return -1;
}

int main(int argc, char **argv)
{
    const char *engine = "interp", *dir = "../shared/data/cpu286", *only = NULL;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--engine") && i + 1 < argc)
            engine = argv[++i];
        else if (!strcmp(argv[i], "--data") && i + 1 < argc)
            dir = argv[++i];
        else if (!strcmp(argv[i], "--form") && i + 1 < argc)
            only = argv[++i];
        else if (!strcmp(argv[i], "--verbose"))
            verbose = true;
    }
    char path[512], command[600];
    snprintf(path, sizeof path, "%s/metadata.json", dir);
    json_error_t err;
    json_t *meta = json_load_file(path, 0, &err);
    if (!meta) {
        printf("skipped: no 80286 captures in %s\n", dir);
        return 77;
    }
    snprintf(command, sizeof command, "gzip -dc '%s/tests.jsonl.gz'", dir);
    FILE *f = popen(command, "r");
    if (!f) {
        fprintf(stderr, "cannot run %s: %s\n", command, strerror(errno));
        return 2;
    }
    struct testvm *t = testvm_create(engine, RAM_SIZE, NULL);
    unsigned passed = 0, failed = 0, skipped = 0, by_reason[ARRAY_LEN(known)] = {0};
    char *line = NULL;
    size_t cap = 0;
    static struct capture c;
    while (getline(&line, &cap, f) > 0) {
        json_t *o = json_loads(line, 0, &err);
        if (!o || !read_capture(o, meta, &c)) {
            fprintf(stderr, "malformed capture: %.80s\n", line);
            return 2;
        }
        if (!only || !strcmp(only, c.form)) {
            char why[128];
            bool same = run_capture(t, &c, 0, why, sizeof why);
            int reason = same ? -1 : known_reason(&c);
            if (reason >= 0 && known[reason].ignore && !run_capture(t, &c, known[reason].ignore, why, sizeof why))
                reason = -1;
            if (same) {
                passed++;
            } else if (reason >= 0) {
                skipped++;
                by_reason[reason]++;
            } else {
                failed++;
                if (verbose || failed <= 20)
                    printf("%s  %s: %s\n", c.form, c.name, why);
            }
        }
        json_decref(o);
    }
    free(line);
    pclose(f);
    json_decref(meta);
    testvm_destroy(t);
    for (unsigned i = 0; i < ARRAY_LEN(known); i++)
        printf("skipped: %u captures: %s\n", by_reason[i], known[i].reason);
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    if (passed == 0)
        return 2;
    return failed != 0;
}
