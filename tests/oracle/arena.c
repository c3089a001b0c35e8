// The arena: page kinds, the LDT, contents before every case, and what a case adds to them.
#include <immintrin.h>
#include <string.h>

#include "oracle/layout.h"
#include "oracle/oracle.h"

u8 orc_page_kind[ORC_PAGES] = {
    [1] = ORC_RW, [3] = ORC_RO, [4] = ORC_RW,  [5] = ORC_RW,  [6] = ORC_RO,
    [8] = ORC_RX, [9] = ORC_RX, [11] = ORC_RX, [13] = ORC_RX, [14] = ORC_RW,
};

void orc_arena_for_sequences(void)
{
    orc_page_kind[8] = orc_page_kind[9] = ORC_RWX;
}

static bool holds_code(unsigned page)
{
    return orc_page_kind[page] == ORC_RX || orc_page_kind[page] == ORC_RWX;
}

#define DATA .read_or_write = true, .present = true
#define CODE .code = true, .read_or_write = true, .present = true

const struct orc_ldt_desc orc_ldt[ORC_LDT_COUNT] = {
    [ORC_LDT_CODE16] = {ORC_ARENA, 0xffff, CODE},
    [ORC_LDT_DATA16] = {ORC_ARENA, 0xffff, DATA},
    [ORC_LDT_DATA32] = {ORC_ARENA, 0xffff, .seg_32bit = true, DATA},
    [ORC_LDT_SMALL] = {ORC_ARENA + 4 * 4096, 0x17ff, .seg_32bit = true, DATA},
    [ORC_LDT_EXPDOWN] = {ORC_ARENA, 0x47ff, .seg_32bit = true, .expdown_or_conforming = true, DATA},
    [ORC_LDT_EXPDOWN16] = {ORC_ARENA, 0x4fff, .expdown_or_conforming = true, DATA},
    [ORC_LDT_RO] = {ORC_ARENA, 0xffff, .seg_32bit = true, .present = true},
    [ORC_LDT_NOTPRESENT] = {ORC_ARENA, 0xffff, .seg_32bit = true, .read_or_write = true},
    [ORC_LDT_CODE32] = {0, 0xfffff, .seg_32bit = true, .pages = true, CODE},
    [ORC_LDT_XONLY] = {0, 0xfffff, .seg_32bit = true, .pages = true, .code = true, .present = true},
    [ORC_LDT_CONFORMING] = {0, 0xfffff, .seg_32bit = true, .code = true, .expdown_or_conforming = true, .pages = true},
    [ORC_LDT_SHORT16] = {ORC_ARENA, ORC_SHORT_LIMIT, CODE},
    [ORC_LDT_SHORT32] = {ORC_ARENA, ORC_SHORT_LIMIT, .seg_32bit = true, CODE},
    [ORC_LDT_PAGEGRAN] = {ORC_ARENA + 3 * 4096, 1, .seg_32bit = true, .pages = true, DATA},
};

u8 orc_pristine[ORC_ARENA_SIZE];

u64 orc_code_base(const struct orc_case *c)
{
    u16 sel = c->in.sel[X86_CS];
    return c->mode != ISA_MODE_64 && (sel & X86_SEL_TI) ? orc_ldt[sel >> 3].base : 0;
}

#define FILLER 0xcc // INT3

// Jump from arena offset `at` to exit k: FF 24 25 disp32; in legacy modes a far jump through the thunk.
static unsigned exit_code(const struct orc_case *c, unsigned k, u8 *code)
{
    u32 slot = CTX + CTX_EXIT + k * 8, thunk = THUNKS + k * THUNK_SIZE;
    unsigned n = 0;
    if (c->mode == ISA_MODE_64) {
        memcpy(code, "\xff\x24\x25", 3);
        memcpy(code + 3, &slot, 4);
        return 7;
    }
    if (c->mode == ISA_MODE_16)
        code[n++] = 0x66;
    code[n++] = 0xea;
    memcpy(code + n, &thunk, 4);
    code[n + 4] = ORC_SEL_USER_CS;
    code[n + 5] = 0;
    return n + 6;
}

// Where consecutive bytes of code may be written.
static void put_code(u8 *arena, u32 off, const u8 *bytes, unsigned len)
{
    for (unsigned i = 0; i < len && off + i < ORC_ARENA_SIZE; i++)
        if (holds_code((off + i) / 4096))
            arena[off + i] = bytes ? bytes[i] : FILLER;
}

void orc_place(u8 *arena, const struct orc_case *c, bool place)
{
    if (place) {
        for (unsigned i = 0; i < c->npatch; i++)
            memcpy(arena + c->patch[i].off, c->data + c->patch[i].data, c->patch[i].len);
    }
    for (unsigned k = 0; k < c->nland; k++) {
        u8 code[8];
        unsigned len = exit_code(c, k, code);
        put_code(arena, c->land[k], place ? code : NULL, len);
    }
    put_code(arena, c->code_off, place ? c->code : NULL, c->len);
}

static void collect_page(u8 *arena, unsigned page, struct orc_result *r)
{
    u8 *m = arena + page * 4096;
    const u8 *p = orc_pristine + page * 4096;
    if (!memcmp(m, p, 4096))
        return;
    for (unsigned i = 0; i < 4096; i += ORC_LINE) {
        if (!memcmp(m + i, p + i, ORC_LINE))
            continue;
        if (r->nlines < ORC_MAX_LINES) {
            r->line[r->nlines] = (u16)(page * 4096 + i);
            memcpy(r->bytes[r->nlines++], m + i, ORC_LINE);
        } else {
            r->overflow = 1;
        }
        memcpy(m + i, p + i, ORC_LINE);
    }
}

void orc_collect(u8 *arena, struct orc_result *r)
{
    for (unsigned i = 0; i < ORC_PAGES; i++)
        if (orc_page_kind[i] == ORC_RW || orc_page_kind[i] == ORC_RWX)
            collect_page(arena, i, r);
}
