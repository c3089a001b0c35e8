// Real-mode instructions against captures from an 80286.
//
//   cpu286 [--engine NAME] [--data DIR] [--form FORM] [--verbose]
//
// Each capture is an instruction with its registers and memory before and after, up to the HLT that follows it. Differences are
// allowed only where the 286 differs from later processors; `known[]` below lists every such case with its reason. Without the
// data the test is skipped (exit 77).
#include <errno.h>
#include <jansson.h>

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
    u32 flag_address;
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
    json_t *code = json_object_get(o, "bytes"), *before = json_object_get(o, "initial"), *after = json_object_get(o, "final");
    json_t *exc = json_object_get(o, "exception");
    c->code_len = (unsigned)json_array_size(code);
    for (unsigned i = 0; i < c->code_len && i < sizeof c->code; i++)
        c->code[i] = (u8)json_integer_value(json_array_get(code, i));
    c->exception = exc ? (int)json_integer_value(json_object_get(exc, "number")) : -1;
    c->flag_address = exc ? (u32)json_integer_value(json_object_get(exc, "flag_address")) & (RAM_SIZE - 1) : 0;
    if (!c->form || !c->name || !read_regs(json_object_get(before, "regs"), &c->before))
        return false;
    c->after = c->before;
    c->flags_mask = flags_mask(meta, c->form);
    return read_regs(json_object_get(after, "regs"), &c->after) && read_bytes(json_object_get(before, "ram"), &c->ram) &&
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

// Compare memory on every page that was written: initial bytes, overlaid by the final ones, zero elsewhere. Restores zero.
static bool compare_ram(struct testvm *t, const struct capture *c, char *why, size_t size)
{
    bool same = true;
    for (unsigned i = 0; i < c->ram_after.count; i++) {
        u32 a = c->ram_after.addr[i];
        u8 got = t->ram[a], want = c->ram_after.val[i], mask = 0xff;
        if (c->exception >= 0 && (a == c->flag_address || a == c->flag_address + 1)) {
            u16 m = FLAG_BITS & c->flags_mask;
            mask = a == c->flag_address ? (u8)m : (u8)(m >> 8);
        }
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
        t->flags[p] = 0;
        tlb_protect_gpa(&t->v->tlb, p << 12);
    }
    return same;
}

static bool compare_regs(const struct cpu *c, const struct capture *cap, char *why, size_t size)
{
    static const char *const name[8] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const seg[4] = {"es", "cs", "ss", "ds"};
    const struct regs *r = &cap->after;
    for (unsigned i = 0; i < 8; i++) {
        if ((u16)c->gpr[i] != r->r[i]) {
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

static bool run_capture(struct testvm *t, const struct capture *c, char *why, size_t size)
{
    for (unsigned i = 0; i < c->ram.count; i++)
        t->ram[c->ram.addr[i]] = c->ram.val[i];
    set_state(t, &c->before);
    tlb_flush_all(&t->v->tlb);
    struct vm_exit e = testvm_run(t, 200000);
    bool same = true;
    if (e.reason != VM_EXIT_HALT) {
        snprintf(why, size, "no halt (exit %d)", e.reason);
        same = false;
    }
    if (same)
        same = compare_regs(&t->v->cpu, c, why, size);
    char ram_why[96];
    if (!compare_ram(t, c, ram_why, sizeof ram_why) && same) {
        snprintf(why, size, "%s", ram_why);
        same = false;
    }
    return same;
}

// --- known differences ----------------------------------------------------------------------------------------------------------

static const struct known {
    const char *form; // prefix of the form's name; "" any
    bool (*applies)(const struct capture *c);
    const char *reason;
} known[] = {
#include "known286.inc"
};

static const char *known_reason(const struct capture *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        if (strncmp(c->form, known[i].form, strlen(known[i].form)) == 0 && (!known[i].applies || known[i].applies(c)))
            return known[i].reason;
    }
    return NULL;
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
    unsigned passed = 0, failed = 0, skipped = 0, differ = 0;
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
            bool same = run_capture(t, &c, why, sizeof why);
            const char *reason = same ? NULL : known_reason(&c);
            if (same) {
                passed++;
            } else if (reason) {
                skipped++;
            } else {
                failed++;
                if (verbose || failed <= 20)
                    printf("%s  %s: %s\n", c.form, c.name, why);
            }
            differ += !same;
        }
        json_decref(o);
    }
    free(line);
    pclose(f);
    json_decref(meta);
    testvm_destroy(t);
    printf("%u captures differ in ways that are known of the 286\n", skipped);
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    if (passed == 0)
        return 2;
    return failed != 0;
}
