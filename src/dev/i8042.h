// Intel 8042 keyboard controller of the PC/AT and PS/2, with a keyboard and a mouse: ports 0x60 (data) and 0x64 (command, status),
// interrupts 1 and 12, the A20 gate and the reset line. Facts from the IBM PS/2 Hardware Interface Technical Reference.
#ifndef POGO_DEV_I8042_H
#define POGO_DEV_I8042_H

#include "core/clock.h"
#include "core/dev.h"
#include "dev/ps2.h"

// Where the byte in the output buffer comes from.
enum i8042_source { I8042_NONE, I8042_CONTROLLER, I8042_KEYBOARD, I8042_MOUSE };

struct i8042_byte {
    u8 data;
    u8 source; // enum i8042_source; NONE: empty
    bool aux;  // shown as the mouse's
};

struct i8042 {
    u8 ram[32];            // [0] is the command byte
    u8 command;            // command whose parameter comes next, or 0
    u8 poll;               // C1 or C2: the status shows half of the input port, until the next command
    bool wrote_command;    // the last write was to port 0x64
    bool a20;              // output port bit 1
    bool release;          // translation: a break prefix has been seen
    u8 last;               // what an empty output buffer shows
    struct i8042_byte out; // output buffer
    struct i8042_byte put_aside;
    u64 ready_ns; // devices need until then for their next byte
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;

    // Links, kept over a reset.
    struct irq_line irq[2]; // keyboard, mouse
    void (*set_a20)(void *sink, bool on);
    void (*reset_machine)(void *sink);
    void *sink;
    struct clock *clock;
    struct clock_timer timer;
};

extern const struct dev_ops i8042_data_ops;    // port 0x60
extern const struct dev_ops i8042_command_ops; // port 0x64

// Links are set by the caller before; adds a timer to the clock. Returns 0 or a negative errno.
int i8042_init(struct i8042 *c);
// State as firmware leaves it: keyboard on with its interrupt, codes translated to set 1, mouse off.
void i8042_reset(struct i8042 *c);
// The user's hands: see ps2.h for how keys, directions and buttons are named. With the device lock held.
void i8042_key(struct i8042 *c, u8 key, bool down);
void i8042_mouse(struct i8042 *c, int dx, int dy, int dz, u8 buttons);

#endif
