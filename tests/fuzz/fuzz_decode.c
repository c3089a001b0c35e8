// Any bytes in any mode: the decoder stays within them, and what it reports is consistent.
#include <stdlib.h>
#include <string.h>

#include "isa/insn.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void check(const struct insn *in, size_t avail)
{
    bool ok = in->len >= 1 && in->len <= ISA_MAX_LEN && in->len <= avail && in->form < ISA_FORM_COUNT &&
              in->op < ISA_OP_COUNT && in->nopnd <= ISA_MAX_OPERANDS && in->imm_off <= in->len &&
              in->opcode_off < in->len && in->scale <= 3;

    for (unsigned i = 0; i < in->nopnd; i++)
        ok = ok && in->opnd[i].kind < ISA_OPND_KIND_COUNT;
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct insn in;

    if (size < 2)
        return 0;
    // A buffer of exactly the bytes on offer, so that the sanitizer sees a read beyond.
    size_t avail = size - 1;
    u8 *code = malloc(avail);
    memcpy(code, data + 1, avail);
    for (size_t at = 0; at < avail;) {
        enum isa_status s =
            isa_decode(code + at, avail - at, data[0] % ISA_MODE_COUNT, data[0] & 4 ? ISA_OPT_AMD : 0, &in);
        if (s == ISA_OK)
            check(&in, avail - at);
        at += s == ISA_OK ? in.len : 1;
    }
    free(code);
    return 0;
}
