// Registers as gdb numbers and names them: one table per machine, from which come the target description (XML), the 'g' packet and
// single reads and writes. 64-bit processor models are i386:x86-64 whatever mode they are in, as gdb cannot change its mind later;
// models without long mode are i386.
#ifndef POGO_CLI_GDB_REGS_H
#define POGO_CLI_GDB_REGS_H

#include "core/vcpu.h"

#define GDB_MAX_REGS 128
#define GDB_REG_MAX_SIZE 16
#define GDB_XML_SIZE 16384

enum gdb_reg_kind {
    GDB_REG_GPR,
    GDB_REG_RIP,
    GDB_REG_FLAGS,
    GDB_REG_SEL,
    GDB_REG_ST,
    GDB_REG_X87, // control registers in gdb's order: fctrl fstat ftag fiseg fioff foseg fooff fop
    GDB_REG_XMM,
    GDB_REG_MXCSR,
    GDB_REG_YMMH,
    GDB_REG_BASE, // segment base; `index`: enum x86_sreg
    GDB_REG_KERNEL_GS,
    GDB_REG_CR,
    GDB_REG_EFER,
    GDB_REG_DTABLE, // base of 0: the GDT, 1: the IDT
};

struct gdb_reg {
    u8 kind, index;
    u8 size; // bytes, little-endian in packets
};

struct gdb_regs {
    unsigned count;
    struct gdb_reg reg[GDB_MAX_REGS];
    u32 xml_len;
    char xml[GDB_XML_SIZE];
};

// The registers of a processor of this model (NULL: every feature).
void gdb_regs_init(struct gdb_regs *r, const struct cpu_model *model);
// Value of a register of `v`, `size` bytes of it.
void gdb_reg_read(const struct gdb_reg *reg, const struct vcpu *v, u8 *out);
// False when the processor cannot have this value now, or not without more changing with it (a selector in protected mode, CR0.PG);
// then nothing has changed. The machine is at rest.
bool gdb_reg_write(const struct gdb_reg *reg, struct vcpu *v, const u8 *in);

#endif
