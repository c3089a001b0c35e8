// The translator's code for the snippets of snippets.S, as text: one file for each group, written to the directory that is the argument.
// golden.sh compares them with the committed ones.
//
// Nothing in it depends on the host: features of the processor are taken to be all there, and what the host leaves in undefined flags is
// taken to be what most do.
#include "lib/testvm.h"

#include "engine/bt/translate.h"

#define PAGE 0x4000

struct snippet {
    const char *name; // GROUP/NAME
    const u8 *code, *end;
    u16 bits, off, counting, user;
};

extern const struct snippet snippets[];

static FILE *out;

static void put_line(void *host, enum host_log category, const char *text)
{
    (void)host, (void)category;
    fprintf(out, "%s\n", text);
}

static unsigned count_insns(const struct snippet *s, enum isa_mode mode)
{
    unsigned n = 0;
    struct insn in;

    for (const u8 *p = s->code; p < s->end; p += in.len, n++) {
        if (isa_decode(p, (size_t)(s->end - p), mode, 0, &in) != ISA_OK) {
            fprintf(stderr, "%s: cannot be decoded\n", s->name);
            exit(2);
        }
    }
    return n;
}

static void print(struct testvm *t, const struct snippet *s)
{
    struct bt *b = t->v->engine_state;
    enum isa_mode mode = s->bits == 64 ? ISA_MODE_64 : ISA_MODE_32;
    const struct bt_recipe compared = {.kind = RECIPE_CMP, .size = 4, .a = X86_RAX, .b = X86_RBX};
    bool variant = strstr(s->name, "/variant");

    codecache_flush(b);
    b->mode = (u8)(mode | BLOCK_FLAT | (s->user ? BLOCK_USER : 0));
    b->in.mode = mode;
    b->counting = s->counting;
    b->limit = count_insns(s, mode);
    b->host_flags = (struct host_flags){.logic_same = true, .shifts_clean = true, .imul_clean = true};
    b->plain = true;
    b->has_bmi2 = b->by_gs = true; // on any host
    b->ctx->page_base = 0;
    memset(t->ram + PAGE, 0x90, 2 * 4096);
    memcpy(t->ram + PAGE + s->off, s->code, (size_t)(s->end - s->code));
    fprintf(out, "=== %s%s%s%s\n", s->name, s->bits == 64 ? "" : ", 32-bit", s->counting ? ", counting" : "",
            s->user ? ", CPL 3" : "");
    if (!translate(b, s->off, b->mode | (variant ? BLOCK_VARIANT : 0), (hva)t->ram + PAGE, PAGE, &compared))
        fprintf(out, "not translated\n");
    fprintf(out, "\n");
}

static FILE *group_file(const char *dir, const char *name, size_t len, bool first)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%.*s.txt", dir, (int)len, name);
    f = fopen(path, first ? "we" : "ae");
    if (!f) {
        fprintf(stderr, "%s: cannot be written\n", path);
        exit(2);
    }
    return f;
}

int main(int argc, char **argv)
{
    struct testvm *t = testvm_create("bt", 1 << 20, NULL);
    struct host_ops ops = *t->host.ops;
    const struct snippet *s = snippets;
    size_t last = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: golden DIRECTORY\n");
        return 2;
    }
    ops.log = put_line;
    t->host.ops = &ops;
    t->host.log_mask = 1u << LOG_BT;
    for (; s->name; s++) {
        size_t len = (size_t)(strchr(s->name, '/') - s->name);
        bool first = s == snippets || len != last || memcmp(s->name, s[-1].name, len) != 0;

        out = group_file(argv[1], s->name, len, first);
        print(t, s);
        fclose(out);
        last = len;
    }
    testvm_destroy(t);
    return 0;
}
