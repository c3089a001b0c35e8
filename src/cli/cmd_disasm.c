// pogo disasm: bytes on the command line or a file, as instructions.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmd.h"
#include "host/file.h"
#include "isa/disasm.h"

#define MAX_FILE (1ull << 30)

static void usage(void)
{
    printf("usage: pogo disasm [--16|--32|--64] [--base ADDRESS] HEX...\n"
           "       pogo disasm [--16|--32|--64] [--base ADDRESS] --file FILE\n\n"
           "  --16, --32, --64   mode of the code (default --64)\n"
           "  --base ADDRESS     address of the first byte (default 0)\n"
           "  --file FILE        raw bytes from a file\n"
           "  HEX                bytes in hexadecimal, together or apart: 48 89c3\n");
}

static void print_one(const u8 *bytes, size_t len, u64 rip, const char *text)
{
    printf("%08llx  ", (unsigned long long)rip);
    for (size_t i = 0; i < 15; i++)
        if (i < len)
            printf("%02x ", bytes[i]);
        else if (i < 10)
            printf("   ");
    printf(" %s\n", text);
}

static void disassemble(const struct file_data *code, enum isa_mode mode, u64 base)
{
    u64 at = 0;

    while (at < code->size) {
        char text[128];
        size_t len = isa_disasm(code->bytes + at, code->size - at, mode, base + at, text, sizeof(text));

        if (!len)
            len = 1; // go on behind the first byte of what is no instruction
        print_one(code->bytes + at, len, base + at, text);
        at += len;
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Append the bytes that one argument spells.
static int add_hex(struct file_data *code, const char *arg, struct error *err)
{
    size_t len = strlen(arg);
    u8 *p = realloc(code->bytes, code->size + len / 2 + 1);

    if (!p)
        return error_set(err, -ENOMEM, "disasm: no memory for %zu characters", len);
    code->bytes = p;
    for (size_t i = 0; i < len; i += 2) {
        int high = hex_digit(arg[i]), low = i + 1 < len ? hex_digit(arg[i + 1]) : -1;

        if (high < 0 || low < 0)
            return error_set(err, -EINVAL,
                             "disasm: %s: not bytes in hexadecimal (two digits each); use --file to name a file", arg);
        code->bytes[code->size++] = (u8)(high << 4 | low);
    }
    return 0;
}

struct disasm_options {
    enum isa_mode mode;
    u64 base;
    const char *file;
    bool help;
};

// Takes the option at argv[*i], if there is one. Returns 1 when it did, 0 when it is no option, or a negative errno.
static int take_option(struct disasm_options *o, int argc, char **argv, int *i, struct error *err)
{
    const char *arg = argv[*i];
    char *rest;

    if (arg[0] != '-')
        return 0;
    if (!strcmp(arg, "--16"))
        o->mode = ISA_MODE_16;
    else if (!strcmp(arg, "--32"))
        o->mode = ISA_MODE_32;
    else if (!strcmp(arg, "--64"))
        o->mode = ISA_MODE_64;
    else if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
        o->help = true;
    else if (strcmp(arg, "--file") && strcmp(arg, "--base"))
        return error_set(err, -EINVAL, "disasm: %s: unknown option; 'pogo disasm --help' lists them", arg);
    else if (*i + 1 == argc)
        return error_set(err, -EINVAL, "disasm: %s: needs an argument", arg);
    else if (!strcmp(arg, "--file"))
        o->file = argv[++*i];
    else {
        errno = 0;
        o->base = strtoull(argv[++*i], &rest, 0);
        if (argv[*i][0] < '0' || argv[*i][0] > '9' || *rest || errno)
            return error_set(err, -EINVAL, "disasm: --base %s: not a number of 64 bits", argv[*i]);
    }
    return 1;
}

static int collect(struct disasm_options *o, struct file_data *code, int argc, char **argv, struct error *err)
{
    for (int i = 0; i < argc; i++) {
        int ret = take_option(o, argc, argv, &i, err);

        if (ret == 0)
            ret = add_hex(code, argv[i], err);
        if (ret < 0)
            return ret;
    }
    if (o->help)
        return 0;
    if (o->file && code->size)
        return error_set(err, -EINVAL, "disasm: both bytes and --file; give one of them");
    if (o->file)
        return file_load(o->file, "disasm --file", MAX_FILE, code, err);
    if (!code->size)
        return error_set(err, -EINVAL, "disasm: no bytes; give some in hexadecimal, or --file FILE");
    return 0;
}

int cmd_disasm(int argc, char **argv)
{
    struct disasm_options o = {.mode = ISA_MODE_64};
    struct file_data code = {0};
    struct error err;
    int ret = collect(&o, &code, argc, argv, &err);

    if (!ret && o.help)
        usage();
    else if (!ret)
        disassemble(&code, o.mode, o.base);
    file_free(&code);
    return ret ? cmd_fail(&err) : CMD_OK;
}
