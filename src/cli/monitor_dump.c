// Expressions, and memory and values in the formats that debuggers have made usual.

#include <ctype.h>
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

static bool term_value(struct monitor *m, const char *text, size_t len, u64 *out)
{
    if (len && text[0] == '$') {
        if (register_value(&monitor_cpu(m)->cpu, text + 1, len - 1, out))
            return true;
        fprintf(m->out, "%.*s: no such register\n", (int)len, text);
        return false;
    }
    if (parse_number(text, len, ~0ull, out))
        return true;
    fprintf(m->out, "%.*s: not a number; hexadecimal ones begin with 0x, registers with $\n", (int)len, text);
    return false;
}

bool monitor_eval(struct monitor *m, const char *text, u64 *out)
{
    char sign = '+';

    *out = 0;
    do {
        u64 value;
        text += strspn(text, " \t");
        size_t len = strcspn(text, "+- \t");
        if (!term_value(m, text, len, &value))
            return false;
        *out += sign == '+' ? value : -value;
        text += len;
        text += strspn(text, " \t");
        sign = *text;
    } while (sign && (sign == '+' || sign == '-') && *++text);
    if (!sign)
        return true;
    fprintf(m->out, "%s: only + and - are understood\n", text);
    return false;
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
