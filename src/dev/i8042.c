// Keyboard controller.
//
// One output buffer serves the controller and both devices. A controller's answer goes in at once; a device's byte that it finds
// there is put aside and comes back after it. Devices need a while for each byte, as on the wire: a program that reads the data
// port twice in one interrupt gets the same byte twice.

#include "dev/i8042.h"

#include <stdio.h>
#include <string.h>

#define STATUS_FULL 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX_FULL 0x20

#define CB_IRQ_KEYBOARD 0x01
#define CB_IRQ_MOUSE 0x02
#define CB_SYSTEM 0x04
#define CB_KEYBOARD_OFF 0x10
#define CB_MOUSE_OFF 0x20
#define CB_TRANSLATE 0x40

#define INPUT_PORT 0xa0 // not locked, colour display

#define OUT_RESET 0x01
#define OUT_A20 0x02
#define OUT_KEYBOARD 0x10
#define OUT_AUX 0x20
#define OUT_WIRED 0xcc

#define BYTE_NS 250000 // a third of what the wire takes; enough for every handler to end

static void update_irq(struct i8042 *c)
{
    bool full = c->out.source != I8042_NONE;

    irq_set(c->irq[0], full && !c->out.aux && (c->ram[0] & CB_IRQ_KEYBOARD));
    irq_set(c->irq[1], full && c->out.aux && (c->ram[0] & CB_IRQ_MOUSE));
}

// The keyboard's next byte, translated if so set: a break prefix becomes bit 7 of the code after it.
static bool take_keyboard(struct i8042 *c, u8 *byte)
{
    while (ps2_keyboard_take(&c->keyboard, byte)) {
        if (!(c->ram[0] & CB_TRANSLATE))
            return true;
        if (*byte == 0xf0) {
            c->release = true;
            continue;
        }
        *byte = ps2_translate(*byte) | (c->release ? 0x80 : 0);
        c->release = false;
        return true;
    }
    return false;
}

static bool take(struct i8042 *c)
{
    u8 byte;

    if (!(c->ram[0] & CB_KEYBOARD_OFF) && take_keyboard(c, &byte))
        c->out = (struct i8042_byte){byte, I8042_KEYBOARD, false};
    else if (!(c->ram[0] & CB_MOUSE_OFF) && ps2_mouse_take(&c->mouse, &byte))
        c->out = (struct i8042_byte){byte, I8042_MOUSE, true};
    else
        return false;
    return true;
}

// Fill an empty output buffer if there is something.
static void refill(struct i8042 *c)
{
    u64 now = clock_now(c->clock);

    if (c->out.source == I8042_NONE && c->put_aside.source != I8042_NONE) {
        c->out = c->put_aside;
        c->put_aside.source = I8042_NONE;
    } else if (c->out.source == I8042_NONE) {
        if (now >= c->ready_ns)
            take(c);
        else
            clock_arm(c->clock, &c->timer, c->ready_ns);
    }
    update_irq(c);
}

static void on_timer(void *dev, u64 now)
{
    (void)now;
    refill(dev);
}

// The controller itself has something to say, or pretends to be a device.
static void answer(struct i8042 *c, u8 byte, bool aux)
{
    if (c->out.source > I8042_CONTROLLER)
        c->put_aside = c->out;
    c->out = (struct i8042_byte){byte, I8042_CONTROLLER, aux};
    irq_set(c->irq[aux], false); // a new byte is a new interrupt
    update_irq(c);
}

static u64 read_data(void *dev, u64 off, unsigned size)
{
    struct i8042 *c = dev;

    (void)off, (void)size;
    if (c->out.source == I8042_NONE)
        return c->last;
    if (c->out.source != I8042_CONTROLLER)
        c->ready_ns = clock_now(c->clock) + BYTE_NS;
    c->last = c->out.data;
    c->out.source = I8042_NONE;
    update_irq(c);
    refill(c);
    return c->last;
}

static u64 read_status(void *dev, u64 off, unsigned size)
{
    const struct i8042 *c = dev;
    bool full = c->out.source != I8042_NONE;
    u8 low = (full ? STATUS_FULL : 0) | (c->ram[0] & CB_SYSTEM) | (c->wrote_command ? STATUS_COMMAND : 0);

    (void)off, (void)size;
    if (c->poll)
        return low | (c->poll == 0xc1 ? INPUT_PORT << 4 & 0xf0 : INPUT_PORT & 0xf0);
    return low | STATUS_UNLOCKED | (full && c->out.aux ? STATUS_AUX_FULL : 0);
}

// --- commands -----------------------------------------------------------------------------------------------------------------

static void write_ram(struct i8042 *c, unsigned n, u8 val)
{
    c->ram[n] = n ? val : val & 0x7f;
    if (n == 0)
        refill(c);
}

static u8 output_port(const struct i8042 *c)
{
    bool full = c->out.source != I8042_NONE;

    return (u8)(OUT_WIRED | OUT_RESET | (c->a20 ? OUT_A20 : 0) | (full && !c->out.aux ? OUT_KEYBOARD : 0) |
                (full && c->out.aux ? OUT_AUX : 0));
}

static void gate_a20(struct i8042 *c, bool on)
{
    if (c->a20 == on)
        return;
    c->a20 = on;
    c->set_a20(c->sink, on);
}

// Commands with a parameter, when that has come.
static void run_with(struct i8042 *c, u8 command, u8 val)
{
    switch (command) {
    case 0xd1: // output port
        gate_a20(c, val & OUT_A20);
        if (!(val & OUT_RESET))
            c->reset_machine(c->sink);
        break;
    case 0xd2: answer(c, val, false); break;
    case 0xd3: answer(c, val, true); break;
    case 0xd4:
        c->ram[0] &= (u8)~CB_MOUSE_OFF;
        ps2_mouse_receive(&c->mouse, val);
        refill(c);
        break;
    default: write_ram(c, command & 0x1f, val); break;
    }
}

static void run(struct i8042 *c, u8 command)
{
    switch (command) {
    case 0xa4: answer(c, 0xf1, false); break; // no password
    case 0xa7: c->ram[0] |= CB_MOUSE_OFF; break;
    case 0xa8: write_ram(c, 0, c->ram[0] & (u8)~CB_MOUSE_OFF); break;
    case 0xa9: // interface tests: nothing wrong
    case 0xab: answer(c, 0x00, false); break;
    case 0xaa:
        c->ram[0] |= CB_SYSTEM;
        answer(c, 0x55, false);
        break;
    case 0xad: c->ram[0] |= CB_KEYBOARD_OFF; break;
    case 0xae: write_ram(c, 0, c->ram[0] & (u8)~CB_KEYBOARD_OFF); break;
    case 0xc0: answer(c, INPUT_PORT, false); break;
    case 0xc1:
    case 0xc2: c->poll = command; break;
    case 0xd0: answer(c, output_port(c), false); break;
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: c->command = command; break;
    case 0xdd:
    case 0xdf: gate_a20(c, command & OUT_A20); break;
    case 0xe0: answer(c, 0x00, false); break; // test inputs: both clocks low
    default:
        if (command >= 0x20 && command < 0x40)
            answer(c, c->ram[command & 0x1f], false);
        else if (command >= 0x60 && command < 0x80)
            c->command = command;
        else if (command >= 0xf0 && !(command & OUT_RESET)) // pulse output bits low
            c->reset_machine(c->sink);
        break;
    }
}

static void write_command(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8042 *c = dev;

    (void)off, (void)size;
    c->wrote_command = true;
    c->command = c->poll = 0;
    run(c, (u8)val);
}

static void write_data(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8042 *c = dev;
    u8 command = c->command;

    (void)off, (void)size;
    c->wrote_command = false;
    c->command = 0;
    if (command) {
        run_with(c, command, (u8)val);
        return;
    }
    c->ram[0] &= (u8)~CB_KEYBOARD_OFF;
    ps2_keyboard_receive(&c->keyboard, (u8)val);
    refill(c);
}

// --- life ---------------------------------------------------------------------------------------------------------------------

void i8042_key(struct i8042 *c, u8 key, bool down)
{
    ps2_keyboard_key(&c->keyboard, key, down);
    refill(c);
}

void i8042_mouse(struct i8042 *c, int dx, int dy, int dz, u8 buttons)
{
    ps2_mouse_move(&c->mouse, dx, dy, dz, buttons);
    refill(c);
}

void i8042_reset(struct i8042 *c)
{
    memset(c->ram, 0, sizeof(c->ram));
    c->ram[0] = CB_IRQ_KEYBOARD | CB_SYSTEM | CB_TRANSLATE | CB_MOUSE_OFF;
    c->command = c->last = c->poll = 0;
    c->wrote_command = c->release = false;
    c->out.source = c->put_aside.source = I8042_NONE;
    c->ready_ns = 0;
    c->a20 = false; // the board's other A20 gate is on
    c->set_a20(c->sink, false);
    clock_disarm(c->clock, &c->timer);
    ps2_keyboard_reset(&c->keyboard);
    ps2_mouse_reset(&c->mouse);
    update_irq(c);
}

int i8042_init(struct i8042 *c)
{
    int ret;

    c->timer = (struct clock_timer){.fire = on_timer, .dev = c};
    ret = clock_add_timer(c->clock, &c->timer);
    if (!ret)
        i8042_reset(c);
    return ret;
}

static void reset(void *dev)
{
    i8042_reset(dev);
}

static void dump(void *dev, char *buf, size_t size)
{
    const struct i8042 *c = dev;

    snprintf(buf, size,
             "command byte %02x output %s%02x a20 %d, keyboard set %u leds %u queued %u, mouse id %u queued %u",
             c->ram[0],
             c->out.source == I8042_NONE ? "empty "
             : c->out.aux                ? "aux "
                                         : "",
             c->out.data, c->a20, c->keyboard.set, c->keyboard.leds, c->keyboard.keys.count, c->mouse.id,
             c->mouse.reports.count);
}

const struct dev_ops i8042_data_ops = {
    .name = "i8042", .reset = reset, .read = read_data, .write = write_data, .dump = dump};
const struct dev_ops i8042_command_ops = {.name = "i8042-command", .read = read_status, .write = write_command};
