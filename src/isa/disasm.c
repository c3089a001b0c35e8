// Zydis behind one function. The decoder state is set up anew for every call: it is a handful of words, and a call
// prints one line of a log.
#include "isa/disasm.h"

#include <stdio.h>

#include <Zydis/Zydis.h>

static void init_decoder(ZydisDecoder *decoder, enum isa_mode mode)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[ISA_MODE_COUNT] = {
        [ISA_MODE_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [ISA_MODE_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [ISA_MODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
    };
    ZydisDecoderInit(decoder, modes[mode].machine, modes[mode].stack);
}

size_t isa_disasm(const u8 *bytes, size_t len, enum isa_mode mode, u64 rip, char *buf, size_t size)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    if (!size)
        return 0;
    init_decoder(&decoder, mode);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, bytes, len, &insn, operands)) ||
        ZYAN_FAILED(ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, buf, size,
                                                    rip, NULL))) {
        snprintf(buf, size, "(bad)");
        return 0;
    }
    return insn.length;
}
