// Expressions, and memory and values in the formats that debuggers have made usual.

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/monitor.h"
#include "core/mmu.h"
#include "isa/disasm.h"

#define MAX_COUNT 65536u

// --- expressions ----------------------------------------------------------------------------------------------------------

static bool register_value(const struct cpu *c, const char *name, size_t len, u64 *out)
{
    static const char *const gprs[X86_GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    const struct {
        const char *name;
        u64 value;
    } others[] = {{"rip", c->rip},
                  {"pc", c->seg[X86_CS].base + c->rip},
                  {"sp", c->gpr[X86_RSP]},
                  {"eflags", c->rflags},
                  {"rflags", c->rflags},
                  {"cr0", c->cr0},
                  {"cr2", c->cr2},
                  {"cr3", c->cr3},
                  {"cr4", c->cr4},
                  {"efer", c->msr.efer},
                  {"cs.base", c->seg[X86_CS].base},
                  {"ds.base", c->seg[X86_DS].base},
                  {"ss.base", c->seg[X86_SS].base},
                  {"fs.base", c->seg[X86_FS].base},
                  {"gs.base", c->seg[X86_GS].base}};

    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        // $eax is the lower half of $rax.
        bool half = i < 8 && len == 3 && name[0] == 'e' && !strncmp(name + 1, gprs[i] + 1, 2);
        if (half || (strlen(gprs[i]) == len && !strncmp(gprs[i], name, len))) {
            *out = half ? (u32)c->gpr[i] : c->gpr[i];
            return true;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (strlen(others[i].name) == len && !strncmp(others[i].name, name, len)) {
            *out = others[i].value;
            return true;
        }
    *out = (u32)c->rip;
    return len == 3 && !strncmp(name, "eip", 3);
}

// A text and what is left of it; errors are told once.
struct expression {
    struct monitor *m;
    const char *text, *at;
    unsigned depth;
    bool failed;
};

#define MAX_DEPTH 64

static u64 fail(struct expression *x, const char *what)
{
    if (!x->failed)
        fprintf(x->m->out, "%s: %s\n", *x->at ? x->at : x->text, what);
    x->failed = true;
    return 0;
}

static bool take(struct expression *x, char c)
{
    x->at += strspn(x->at, " \t");
    if (*x->at != c)
        return false;
    x->at++;
    return true;
}

static u64 operations(struct expression *x, unsigned level);

static u64 operand(struct expression *x)
{
    static const char signs[] = "-+~(";
    size_t len;
    u64 value;

    for (const char *sign = signs; *sign; sign++) {
        if (!take(x, *sign))
            continue;
        if (++x->depth > MAX_DEPTH)
            return fail(x, "nested too deeply");
        value = *sign == '(' ? operations(x, 0) : operand(x);
        x->depth--;
        if (*sign == '(' && !x->failed && !take(x, ')'))
            return fail(x, "a ) is missing");
        return *sign == '-' ? -value : *sign == '~' ? ~value : value;
    }
    if (take(x, '$')) {
        len = strspn(x->at, "abcdefghijklmnopqrstuvwxyz0123456789._");
        if (!register_value(&monitor_cpu(x->m)->cpu, x->at, len, &value))
            return fail(x, "no such register");
    } else {
        len = strspn(x->at, "0123456789abcdefABCDEFxX");
        if (!parse_number(x->at, len, ~0ull, &value))
            return fail(x, "not a number; hexadecimal ones begin with 0x, registers with $");
    }
    x->at += len;
    return value;
}

static u64 apply(struct expression *x, char op, u64 a, u64 b)
{
    switch (op) {
    case '|': return a | b;
    case '^': return a ^ b;
    case '&': return a & b;
    case '+': return a + b;
    case '-': return a - b;
    case '*': return a * b;
    default: break;
    }
    if (!b)
        return fail(x, "division by zero");
    return op == '/' ? a / b : a % b;
}

// Binary operators, the loosest first.
static u64 operations(struct expression *x, unsigned level)
{
    static const char *const levels[] = {"|", "^", "&", "+-", "*/%"};
    u64 value;
    char op;

    if (level == ARRAY_LEN(levels))
        return operand(x);
    value = operations(x, level + 1);
    for (;;) {
        x->at += strspn(x->at, " \t");
        op = *x->at;
        if (x->failed || !op || !strchr(levels[level], op))
            return value;
        x->at++;
        value = apply(x, op, value, operations(x, level + 1));
    }
}

bool monitor_eval(struct monitor *m, const char *text, u64 *out)
{
    struct expression x = {.m = m, .text = text, .at = text};

    *out = operations(&x, 0);
    if (!x.failed && *x.at)
        fail(&x, "not understood; there are + - * / % & | ^ ~ and brackets");
    return !x.failed;
}

bool monitor_eval_word(struct monitor *m, char **args, u64 *out)
{
    return monitor_eval(m, monitor_word(args), out);
}

// --- formats --------------------------------------------------------------------------------------------------------------

struct format {
    unsigned count, size; // size: bytes
    char letter;          // x d u o c i
};

// "/10xw" and what follows. False, with a message, when it is none.
static bool parse_format(struct monitor *m, char **args, struct format *f)
{
    char *word;
    unsigned long count = 0;

    *args += strspn(*args, " \t");
    if (**args != '/')
        return true;
    word = monitor_word(args) + 1;
    if (isdigit((u8)*word))
        count = strtoul(word, &word, 10);
    f->count = count && count < MAX_COUNT ? (unsigned)count : count ? MAX_COUNT : f->count;
    for (; *word; word++) {
        const char *sizes = "bhwg", *at = strchr(sizes, *word);
        if (at)
            f->size = 1u << (at - sizes);
        else if (strchr("xduoci", *word))
            f->letter = *word;
        else {
            fprintf(m->out, "/%s: a format is a count, one of x d u o c i, and one of b h w g\n", word);
            return false;
        }
    }
    return true;
}

static void put_value(FILE *out, const struct format *f, u64 val)
{
    unsigned bits = f->size * 8;
    i64 extended = (i64)(val << (64 - bits)) >> (64 - bits);

    switch (f->letter) {
    case 'd': fprintf(out, "%lld", (long long)extended); break;
    case 'u': fprintf(out, "%llu", (unsigned long long)val); break;
    case 'o': fprintf(out, "0%llo", (unsigned long long)val); break;
    case 'c':
        if (val >= ' ' && val <= '~' && val != '\'' && val != '\\')
            fprintf(out, "'%c'", (int)val);
        else
            fprintf(out, "'\\x%02llx'", (unsigned long long)val);
        break;
    default: fprintf(out, "0x%0*llx", (int)f->size * 2, (unsigned long long)val);
    }
}

// Bytes at an address, as far as they can be read without an effect on devices.
static size_t peek(struct vcpu *v, u64 a, bool physical, u8 *buf, size_t len)
{
    size_t n = 0;
    gpa phys = a;

    while (n < len && (physical || mmu_peek(v, a + n, &phys)) &&
           mem_read(&v->machine->mem, physical ? a + n : phys, buf + n, 1))
        n++;
    return n;
}

static void dump_code(struct monitor *m, struct vcpu *v, u64 a, unsigned count, bool physical)
{
    const struct cpu *c = &v->cpu;
    enum isa_mode mode = cpu_64bit(c) ? ISA_MODE_64 : c->seg[X86_CS].attr & X86_SEG_DB ? ISA_MODE_32 : ISA_MODE_16;

    while (count--) {
        u8 bytes[ISA_MAX_LEN];
        char text[128];
        size_t have = peek(v, a, physical, bytes, sizeof(bytes)), len;

        if (!have) {
            fprintf(m->out, "0x%016llx: cannot be read\n", (unsigned long long)a);
            return;
        }
        len = isa_disasm(bytes, have, mode, a, text, sizeof(text));
        fprintf(m->out, "0x%016llx:  %s\n", (unsigned long long)a, text);
        a += len ? len : 1;
    }
}

void monitor_dump(struct monitor *m, char *args, bool physical)
{
    struct format f = {1, 4, 'x'};
    struct vcpu *v = monitor_cpu(m);
    u64 a;

    if (!parse_format(m, &args, &f) || !monitor_eval(m, args, &a))
        return;
    if (f.letter == 'i') {
        dump_code(m, v, a, f.count, physical);
        return;
    }
    f.size = f.letter == 'c' ? 1 : f.size;
    for (unsigned i = 0, row = 16 / f.size; i < f.count; i++, a += f.size) {
        u64 val = 0;
        if (i % row == 0)
            fprintf(m->out, "%s%016llx:", i ? "\n" : "", (unsigned long long)a);
        if (peek(v, a, physical, (u8 *)&val, f.size) < f.size) {
            fprintf(m->out, " cannot be read");
            break;
        }
        fputc(' ', m->out);
        put_value(m->out, &f, val);
    }
    fputc('\n', m->out);
}

void monitor_print(struct monitor *m, char *args)
{
    struct format f = {1, 8, 'x'};
    u64 val;

    if (!parse_format(m, &args, &f) || !monitor_eval(m, args, &val))
        return;
    if (f.letter == 'x')
        fprintf(m->out, "0x%llx", (unsigned long long)val);
    else
        put_value(m->out, &f, f.letter == 'c' ? val & 0xff : val);
    fputc('\n', m->out);
}

// --- ports ----------------------------------------------------------------------------------------------------------------

static bool parse_port(struct monitor *m, char **args, struct format *f, u64 *port)
{
    if (!parse_format(m, args, f) || !monitor_eval_word(m, args, port))
        return false;
    if (*port <= 0xffff && f->size <= 4)
        return true;
    fprintf(m->out, "ports are 0 to 0xffff, sizes b h w\n");
    return false;
}

void monitor_port_in(struct monitor *m, char *args)
{
    struct format f = {1, 1, 'x'};
    u64 port;

    if (parse_port(m, &args, &f, &port))
        fprintf(m->out, "port%c[0x%04llx] = 0x%0*x\n", " bw l"[f.size], (unsigned long long)port, (int)f.size * 2,
                bus_in(&m->vm->board->m.bus, (u16)port, f.size));
}

void monitor_port_out(struct monitor *m, char *args)
{
    struct format f = {1, 1, 'x'};
    u64 port, val;

    if (parse_port(m, &args, &f, &port) && monitor_eval(m, args, &val))
        bus_out(&m->vm->board->m.bus, (u16)port, f.size, (u32)val);
}

// --- files ----------------------------------------------------------------------------------------------------------------

static bool save_page(struct monitor *m, struct vcpu *v, FILE *file, u64 a, u64 n, bool physical)
{
    u8 page[MEM_PAGE_SIZE];
    gpa phys = a;

    if ((!physical && !mmu_peek(v, a, &phys)) || !mem_read(&v->machine->mem, phys, page, n)) {
        fprintf(m->out, "0x%llx: cannot be read\n", (unsigned long long)a);
        return false;
    }
    if (fwrite(page, n, 1, file) != 1) {
        fprintf(m->out, "cannot write: %s\n", strerror(errno));
        return false;
    }
    return true;
}

void monitor_save(struct monitor *m, char *args, bool physical)
{
    struct vcpu *v = monitor_cpu(m);
    u64 a, size, n;

    if (!monitor_eval_word(m, &args, &a) || !monitor_eval_word(m, &args, &size))
        return;
    args += strspn(args, " \t");
    // "FILE" as QEMU wants it, or FILE.
    size_t len = strlen(args);
    if (len > 1 && args[0] == '"' && args[len - 1] == '"') {
        args[len - 1] = 0;
        args++;
    }
    FILE *file = *args ? fopen(args, "we") : NULL;
    if (!file) {
        fprintf(m->out, "%s: cannot create: %s\n", args, *args ? strerror(errno) : "give the name of a file");
        return;
    }
    for (; size; a += n, size -= n) {
        n = MEM_PAGE_SIZE - (a & (MEM_PAGE_SIZE - 1));
        n = n < size ? n : size;
        if (!save_page(m, v, file, a, n, physical))
            break;
    }
    if (fclose(file))
        fprintf(m->out, "%s: cannot write: %s\n", args, strerror(errno));
}
