// The small devices of the board: a few bytes of state each, or none.
#ifndef POGO_DEV_MISC_H
#define POGO_DEV_MISC_H

#include "core/dev.h"

// Debug exit: a write of `val` ends the guest with status (val << 1) | 1. Reads give zero.
struct debug_exit {
    void (*exit)(void *sink, int status);
    void *sink;
};
extern const struct dev_ops debug_exit_ops;

// Panic device (QEMU's pvpanic, docs/specs/pvpanic): an operating system that has panicked writes bit 0, and that ends the guest
// with PVPANIC_STATUS. Bit 1, a crash kernel that takes over, is not asked for.
#define PVPANIC_PORT 0x505
#define PVPANIC_STATUS 6 // none that a debug exit has
#define PVPANIC_PANICKED 1u
struct pvpanic {
    void (*exit)(void *sink, int status);
    void *sink;
};
extern const struct dev_ops pvpanic_ops;

// Debug console (port 0xe9 hack of Bochs): bytes written go out; a read gives 0xe9, which is how guests detect it.
struct debug_console {
    void (*tx)(void *peer, u8 byte);
    void *peer;
};
extern const struct dev_ops debug_console_ops;

// Port 0x80 (POST codes, I/O delay), 0xed: remembers the last byte for the dump and gives it back.
struct post_port {
    u8 last;
};
extern const struct dev_ops post_port_ops;

// x87 error logic of the PC/AT, ports 0xf0 and 0xf1: FERR# latches interrupt 13; a write takes the interrupt back and, while FERR#
// is asserted, lets the processor go on over the error (IGNNE#).
struct fpu_error {
    struct irq_line irq;
    bool *ignne; // the processor's input
    bool ferr;
};
extern const struct dev_ops fpu_error_ops;
// FERR# changed; an irq_line sink.
void fpu_error_ferr(void *dev, unsigned n, bool level);

// Port 0x92, system control port A: bit 0 resets on its rising edge, bit 1 is the A20 gate.
struct port92 {
    u8 val;
    void (*set_a20)(void *sink, bool on);
    void (*reset_machine)(void *sink);
    void *sink;
};
extern const struct dev_ops port92_ops;

// Test device: what unit-test kernels for virtual machines use. Three windows: at 0xe0 an echo register of 4 bytes; at 0x2000 + n one
// byte, whose bit 0 is the level of interrupt input n; in memory 64 KiB that behave like RAM but are a device.
#define TESTDEV_IRQS 24
#define TESTDEV_MEM_BASE 0xff000000ull
#define TESTDEV_MEM_SIZE 0x10000u
struct testdev {
    u32 echo;
    struct irq_line irq[TESTDEV_IRQS];
    u8 mem[TESTDEV_MEM_SIZE];
};
extern const struct dev_ops testdev_echo_ops;
extern const struct dev_ops testdev_irq_ops;
extern const struct dev_ops testdev_mem_ops;

#endif
