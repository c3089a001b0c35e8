// Disassembly for logs and reports, in Intel syntax through Zydis. Not part of the freestanding core.
#ifndef POGO_ISA_DISASM_H
#define POGO_ISA_DISASM_H

#include "isa/insn.h"

// Print the instruction at `bytes` (`len` of them may be read) into buf, always NUL-terminated when size > 0. `rip` is
// its address, from which branch targets are computed. Returns the instruction's length, or 0 for bytes that Zydis does not
// decode, which print as "(bad)". Allocates nothing.
size_t isa_disasm(const u8 *bytes, size_t len, enum isa_mode mode, u64 rip, char *buf, size_t size);

#endif
