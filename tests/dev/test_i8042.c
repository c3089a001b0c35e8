// The keyboard controller with its keyboard and mouse, as drivers talk to them.
#include "dev/i8042.h"

#include "dev/rig.h"

struct rig {
    struct rig_clock t;
    struct i8042 c;
    struct rig_wire irq[2];
    unsigned resets, a20_changes;
    bool a20;
};

static void on_a20(void *sink, bool on)
{
    struct rig *r = sink;

    r->a20 = on;
    r->a20_changes++;
}

static void on_reset(void *sink)
{
    ((struct rig *)sink)->resets++;
}

static void start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    rig_start(&r->t);
    r->c.irq[0] = rig_line(&r->irq[0]);
    r->c.irq[1] = rig_line(&r->irq[1]);
    r->c.set_a20 = on_a20;
    r->c.reset_machine = on_reset;
    r->c.sink = r;
    r->c.clock = &r->t.clock;
    assert_int_equal(i8042_init(&r->c), 0);
}

static u8 status(struct rig *r)
{
    return (u8)i8042_command_ops.read(&r->c, 0, 1);
}

static void command(struct rig *r, u8 val)
{
    i8042_command_ops.write(&r->c, 0, 1, val);
}

static void data(struct rig *r, u8 val)
{
    i8042_data_ops.write(&r->c, 0, 1, val);
}

static u8 get(struct rig *r)
{
    return (u8)i8042_data_ops.read(&r->c, 0, 1);
}

// Wait for a byte as a driver does; -1 when none comes. Bytes of the mouse are 0x100 and above.
static int next(struct rig *r)
{
    for (unsigned i = 0; i < 10; i++) {
        u8 s = status(r);
        if (s & 1)
            return get(r) | (s & 0x20 ? 0x100 : 0);
        rig_advance(&r->t, 100 * US);
    }
    return -1;
}

#define EXPECT(r, ...) \
    do { \
        static const int want_[] = {__VA_ARGS__}; \
        for (unsigned i_ = 0; i_ < sizeof(want_) / sizeof(want_[0]); i_++) \
            assert_int_equal(next(r), want_[i_]); \
        assert_int_equal(next(r), -1); \
    } while (0)

static u8 command_byte(struct rig *r)
{
    command(r, 0x20);
    return (u8)next(r);
}

static void set_command_byte(struct rig *r, u8 val)
{
    command(r, 0x60);
    data(r, val);
}

static void mouse(struct rig *r, u8 val)
{
    command(r, 0xd4);
    data(r, val);
}

// --- controller -----------------------------------------------------------------------------------------------------------

static void as_firmware_leaves_it(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    assert_int_equal(status(&r), 0x14);
    assert_int_equal(command_byte(&r), 0x65);
    assert_int_equal(status(&r), 0x1c); // the last write was a command
    assert_false(r.a20);
    i8042_key(&r.c, 0x1e, true);
    assert_true(r.irq[0].level);
    assert_int_equal(status(&r), 0x1d);
    assert_int_equal(get(&r), 0x1e);
    assert_false(r.irq[0].level);
    assert_int_equal(status(&r), 0x1c);
}

static void controller_commands(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_command_byte(&r, 0xff); // bit 7 does not stay
    assert_int_equal(command_byte(&r), 0x7f);
    command(&r, 0xa8);
    assert_int_equal(command_byte(&r), 0x5f);
    command(&r, 0xae);
    assert_int_equal(command_byte(&r), 0x4f);
    command(&r, 0xa7);
    command(&r, 0xad);
    assert_int_equal(command_byte(&r), 0x7f);
    command(&r, 0x65); // RAM
    data(&r, 0xa5);
    command(&r, 0x25);
    EXPECT(&r, 0xa5);
    command(&r, 0xaa);
    EXPECT(&r, 0x55);
    command(&r, 0xab);
    EXPECT(&r, 0x00);
    command(&r, 0xa9);
    EXPECT(&r, 0x00);
    command(&r, 0xa4);
    EXPECT(&r, 0xf1);
    command(&r, 0xd2);
    data(&r, 0x12);
    EXPECT(&r, 0x12);
    command(&r, 0xd3);
    data(&r, 0x5a);
    EXPECT(&r, 0x15a);
    command(&r, 0xc0);
    EXPECT(&r, 0xa0);
    command(&r, 0xd1); // a command in place of the parameter
    command(&r, 0xaa);
    EXPECT(&r, 0x55);
    assert_int_equal(r.resets, 0);
}

static void loopback_interrupts(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_command_byte(&r, 0x03);
    command(&r, 0xd3);
    data(&r, 0xa5);
    assert_true(r.irq[1].level);
    assert_false(r.irq[0].level);
    assert_int_equal(get(&r), 0xa5);
    assert_false(r.irq[1].level);
    set_command_byte(&r, 0x00);
    command(&r, 0xd2);
    data(&r, 0x33);
    assert_false(r.irq[0].level);
    set_command_byte(&r, 0x01); // enabling shows what is there
    assert_true(r.irq[0].level);
    // An answer that replaces another is an interrupt of its own.
    r.irq[0].rises = 0;
    command(&r, 0x20);
    assert_int_equal(r.irq[0].rises, 1);
    assert_int_equal(get(&r), 0x01);
}

static void a20_and_reset(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    command(&r, 0xd0);
    EXPECT(&r, 0xcd);
    command(&r, 0xdf);
    assert_true(r.a20);
    command(&r, 0xd0);
    EXPECT(&r, 0xcf);
    command(&r, 0xdd);
    assert_false(r.a20);
    command(&r, 0xd1);
    data(&r, 0xdf);
    assert_true(r.a20);
    assert_int_equal(r.resets, 0);
    command(&r, 0xff); // pulses nothing
    command(&r, 0xfd);
    assert_int_equal(r.resets, 0);
    command(&r, 0xfe);
    assert_int_equal(r.resets, 1);
    command(&r, 0xd1);
    data(&r, 0x02);
    assert_int_equal(r.resets, 2);
    i8042_key(&r.c, 0x1e, true);
    command(&r, 0xd0);
    EXPECT(&r, 0xdf, 0x1e); // the key's byte was put aside
    i8042_reset(&r.c);
    assert_false(r.a20);
}

// A device's byte in the output buffer does not get lost when the controller answers.
static void answers_overtake(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    command(&r, 0xa8);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, false);
    command(&r, 0x20);
    command(&r, 0x20);
    EXPECT(&r, 0x45, 0x1e, 0x9e);
}

// --- keyboard ---------------------------------------------------------------------------------------------------------------

static void keys_in_set_1(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, false);
    EXPECT(&r, 0x1e, 0x9e);
    i8042_key(&r.c, 0xc8, true); // up
    i8042_key(&r.c, 0xc8, false);
    EXPECT(&r, 0xe0, 0x48, 0xe0, 0xc8);
    i8042_key(&r.c, 0xb7, true);
    i8042_key(&r.c, 0xb7, false);
    EXPECT(&r, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
    i8042_key(&r.c, 0xc6, true);
    i8042_key(&r.c, 0xc6, false);
    EXPECT(&r, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    // Every key comes out as it went in, translated or in the keyboard's own set 1.
    for (unsigned own = 0; own < 2; own++) {
        for (unsigned key = 1; key < 0x80; key++) {
            i8042_key(&r.c, (u8)key, true);
            assert_int_equal(next(&r), key);
            i8042_key(&r.c, (u8)key, false);
            assert_int_equal(next(&r), key | 0x80);
        }
        data(&r, 0xf0);
        EXPECT(&r, 0xfa);
        data(&r, 0x01);
        EXPECT(&r, 0xfa);
        set_command_byte(&r, 0x25);
    }
    i8042_key(&r.c, 0xc6, true);
    EXPECT(&r, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    i8042_key(&r.c, 0xb7, true);
    i8042_key(&r.c, 0x9d, false);
    EXPECT(&r, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0x9d);
}

static void keys_in_set_2(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_command_byte(&r, 0x25);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, false);
    EXPECT(&r, 0x1c, 0xf0, 0x1c);
    i8042_key(&r.c, 0x41, true); // F7
    i8042_key(&r.c, 0xc8, false);
    EXPECT(&r, 0x83, 0xe0, 0xf0, 0x75);
    i8042_key(&r.c, 0xb7, true);
    i8042_key(&r.c, 0xb7, false);
    EXPECT(&r, 0xe0, 0x12, 0xe0, 0x7c, 0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12);
    i8042_key(&r.c, 0xc6, true);
    EXPECT(&r, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
}

static void choose_set(struct rig *r, u8 set)
{
    data(r, 0xf0);
    data(r, set);
    EXPECT(r, 0xfa, 0xfa);
}

static void press(struct rig *r, u8 key)
{
    i8042_key(&r->c, key, true);
    i8042_key(&r->c, key, false);
}

// One code for each key; whether it repeats and tells of being let go is set key by key.
static void keys_in_set_3(void **state)
{
    struct rig r;
    u8 seen[256] = {0};

    (void)state;
    start(&r);
    set_command_byte(&r, 0x25);
    choose_set(&r, 3);
    data(&r, 0xf0);
    data(&r, 0x00);
    EXPECT(&r, 0xfa, 0xfa, 0x03);
    press(&r, 0x1e); // A types, and repeats
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, false);
    EXPECT(&r, 0x1c, 0x1c, 0x1c);
    i8042_key(&r.c, 0x2a, true); // Shift is let go
    i8042_key(&r.c, 0x2a, true);
    i8042_key(&r.c, 0x2a, false);
    EXPECT(&r, 0x12, 0xf0, 0x12);
    i8042_key(&r.c, 0x3b, true); // F1 does neither
    i8042_key(&r.c, 0x3b, true);
    i8042_key(&r.c, 0x3b, false);
    EXPECT(&r, 0x07);
    press(&r, 0xc6);
    press(&r, 0xb7);
    press(&r, 0xc8);
    press(&r, 0xdb);
    press(&r, 0x4a);
    press(&r, 0x54);
    press(&r, 0x5f); // no such key
    EXPECT(&r, 0x62, 0x57, 0x63, 0x8b, 0x84, 0x57);
    // All keys at once, and single ones.
    data(&r, 0xfa);
    EXPECT(&r, 0xfa);
    press(&r, 0x3b);
    EXPECT(&r, 0x07, 0xf0, 0x07);
    data(&r, 0xf8);
    EXPECT(&r, 0xfa);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1e, false);
    EXPECT(&r, 0x1c, 0xf0, 0x1c);
    data(&r, 0xfd);
    data(&r, 0x1c);
    data(&r, 0x84);
    EXPECT(&r, 0xfa, 0xfa, 0xfa);
    data(&r, 0xee); // ends the list
    EXPECT(&r, 0xee);
    press(&r, 0x1e);
    press(&r, 0x4a);
    press(&r, 0x1f);
    EXPECT(&r, 0x1c, 0x84, 0x1b, 0xf0, 0x1b);
    data(&r, 0xf9);
    EXPECT(&r, 0xfa);
    press(&r, 0x1f);
    EXPECT(&r, 0x1b);
    // No two keys have the same code, but for Print Screen's two names.
    data(&r, 0xf7);
    EXPECT(&r, 0xfa);
    for (unsigned key = 1; key < 256; key++) {
        int code;
        press(&r, (u8)key);
        code = next(&r);
        if (code >= 0 && key != 0xb7)
            assert_int_equal(seen[code]++, 0);
        assert_int_equal(next(&r), -1);
    }
    // The other sets know nothing of types.
    choose_set(&r, 2);
    press(&r, 0x1e);
    EXPECT(&r, 0x1c, 0xf0, 0x1c);
    // Translated, the numbers of the sets look odd, and codes go by the same table.
    set_command_byte(&r, 0x65);
    choose_set(&r, 3);
    data(&r, 0xf0);
    data(&r, 0x00);
    EXPECT(&r, 0xfa, 0xfa, 0x3f);
    data(&r, 0xf8);
    EXPECT(&r, 0xfa);
    press(&r, 0x1e);
    EXPECT(&r, 0x1e, 0x9e);
    // Defaults are set 2.
    data(&r, 0xf6);
    EXPECT(&r, 0xfa);
    press(&r, 0xc8);
    EXPECT(&r, 0xe0, 0x48, 0xe0, 0xc8);
}

static void polled_input_port(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    command(&r, 0xc2);
    assert_int_equal(status(&r), 0xac);
    i8042_key(&r.c, 0x1e, true);
    assert_int_equal(status(&r), 0xad);
    command(&r, 0xc1);
    assert_int_equal(status(&r), 0x0d);
    command(&r, 0xae); // until the next command
    assert_int_equal(status(&r), 0x1d);
    assert_int_equal(get(&r), 0x1e);
}

static void keyboard_commands(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_command_byte(&r, 0x25);
    data(&r, 0xff);
    EXPECT(&r, 0xfa, 0xaa);
    data(&r, 0xf2);
    EXPECT(&r, 0xfa, 0xab, 0x83);
    data(&r, 0xee);
    EXPECT(&r, 0xee);
    data(&r, 0xed);
    EXPECT(&r, 0xfa);
    data(&r, 0x05);
    EXPECT(&r, 0xfa);
    assert_int_equal(r.c.keyboard.leds, 5);
    data(&r, 0xed); // without waiting
    data(&r, 0x02);
    EXPECT(&r, 0xfa, 0xfa);
    data(&r, 0xed); // a command in place of the parameter
    EXPECT(&r, 0xfa);
    data(&r, 0xee);
    EXPECT(&r, 0xee);
    assert_int_equal(r.c.keyboard.leds, 2);
    data(&r, 0xf3);
    data(&r, 0x20);
    EXPECT(&r, 0xfa, 0xfa);
    data(&r, 0xf0);
    data(&r, 0x00);
    EXPECT(&r, 0xfa, 0xfa, 0x02);
    data(&r, 0xf0);
    data(&r, 0x04); // not there
    EXPECT(&r, 0xfa, 0xfe);
    data(&r, 0x42);
    EXPECT(&r, 0xfe);
    data(&r, 0xf5);
    EXPECT(&r, 0xfa);
    i8042_key(&r.c, 0x1e, true);
    EXPECT(&r, -1);
    data(&r, 0xf4);
    EXPECT(&r, 0xfa);
    i8042_key(&r.c, 0x1e, true);
    EXPECT(&r, 0x1c);
    data(&r, 0xfe);
    EXPECT(&r, 0x1c);
    // With translation the identity comes out translated, which is how it is on every PC.
    set_command_byte(&r, 0x65);
    data(&r, 0xf2);
    EXPECT(&r, 0xfa, 0xab, 0x41);
}

static void interface_off(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    command(&r, 0xad);
    i8042_key(&r.c, 0x1e, true);
    EXPECT(&r, -1);
    command(&r, 0xae);
    EXPECT(&r, 0x1e);
    command(&r, 0xad);
    data(&r, 0xee); // a byte for the keyboard turns its interface on
    EXPECT(&r, 0xee);
    assert_int_equal(command_byte(&r), 0x65);
}

// Reading again before the next byte has come gives the same one.
static void bytes_take_time(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    i8042_key(&r.c, 0x1e, true);
    i8042_key(&r.c, 0x1f, true);
    assert_int_equal(get(&r), 0x1e);
    assert_int_equal(status(&r) & 1, 0);
    assert_int_equal(get(&r), 0x1e);
    assert_int_equal(r.irq[0].rises, 1);
    rig_advance(&r.t, MS);
    assert_int_equal(r.irq[0].rises, 2);
    assert_int_equal(get(&r), 0x1f);
}

static void keyboard_overrun(void **state)
{
    struct rig r;
    unsigned n = 0;
    int byte, last = 0;

    (void)state;
    start(&r);
    set_command_byte(&r, 0x25);
    for (unsigned i = 0; i < 1000; i++)
        i8042_key(&r.c, 0xc8, i & 1);
    data(&r, 0xee); // answers still get through
    while ((byte = next(&r)) >= 0) {
        last = byte == 0xee ? last : byte;
        n++;
    }
    assert_in_range(n, 32, PS2_QUEUE_SIZE + 2);
    assert_int_equal(last, 0x00);
    i8042_key(&r.c, 0x1e, true);
    EXPECT(&r, 0x1c);
}

// --- mouse ------------------------------------------------------------------------------------------------------------------

static void mouse_commands(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    command(&r, 0xa8);
    mouse(&r, 0xff);
    EXPECT(&r, 0x1fa, 0x1aa, 0x100);
    mouse(&r, 0xf2);
    EXPECT(&r, 0x1fa, 0x100);
    mouse(&r, 0xe9);
    EXPECT(&r, 0x1fa, 0x100, 0x102, 0x164);
    mouse(&r, 0xe8);
    mouse(&r, 0x03);
    mouse(&r, 0xe7);
    mouse(&r, 0xf4);
    EXPECT(&r, 0x1fa, 0x1fa, 0x1fa, 0x1fa);
    i8042_mouse(&r.c, 0, 0, 0, PS2_MOUSE_LEFT | PS2_MOUSE_RIGHT);
    EXPECT(&r, 0x10b, 0x100, 0x100);
    mouse(&r, 0xe9);
    EXPECT(&r, 0x1fa, 0x135, 0x103, 0x164);
    mouse(&r, 0xe8);
    mouse(&r, 0x04); // there is none
    EXPECT(&r, 0x1fa, 0x1fe);
    mouse(&r, 0x42);
    EXPECT(&r, 0x1fe);
    mouse(&r, 0xf6);
    EXPECT(&r, 0x1fa);
    mouse(&r, 0xe9);
    EXPECT(&r, 0x1fa, 0x105, 0x102, 0x164);
    mouse(&r, 0xee); // echo everything
    mouse(&r, 0x12);
    mouse(&r, 0xf2);
    mouse(&r, 0xec);
    EXPECT(&r, 0x1fa, 0x112, 0x1f2, 0x1fa);
    mouse(&r, 0xfe);
    EXPECT(&r, 0x1fa);
}

static void set_rates(struct rig *r, u8 a, u8 b, u8 c)
{
    const u8 rates[] = {a, b, c};

    for (unsigned i = 0; i < 3; i++) {
        mouse(r, 0xf3);
        mouse(r, rates[i]);
        EXPECT(r, 0x1fa, 0x1fa);
    }
}

static void wheel_and_buttons(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_rates(&r, 200, 200, 80); // five buttons only after the wheel
    mouse(&r, 0xf2);
    EXPECT(&r, 0x1fa, 0x100);
    mouse(&r, 0xf4);
    EXPECT(&r, 0x1fa);
    i8042_mouse(&r.c, 0, 0, 5, 0); // a plain mouse says nothing of it
    EXPECT(&r, -1);
    set_rates(&r, 200, 100, 80);
    mouse(&r, 0xf2);
    EXPECT(&r, 0x1fa, 0x103);
    i8042_mouse(&r.c, 1, -2, 3, 0);
    EXPECT(&r, 0x128, 0x101, 0x1fe, 0x103);
    i8042_mouse(&r.c, 0, 0, -1, 0);
    EXPECT(&r, 0x108, 0x100, 0x100, 0x1ff);
    set_rates(&r, 200, 200, 80);
    mouse(&r, 0xf2);
    EXPECT(&r, 0x1fa, 0x104);
    i8042_mouse(&r.c, 0, 0, -9, PS2_MOUSE_4TH | PS2_MOUSE_MIDDLE);
    EXPECT(&r, 0x10c, 0x100, 0x100, 0x118, 0x10c, 0x100, 0x100, 0x11f);
    mouse(&r, 0xff);
    EXPECT(&r, 0x1fa, 0x1aa, 0x100);
}

static void movement(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    i8042_mouse(&r.c, 100, 100, 0, 0); // nobody listens yet
    mouse(&r, 0xf4);
    EXPECT(&r, 0x1fa);
    i8042_mouse(&r.c, 300, -300, 0, 0); // more than a report holds
    EXPECT(&r, 0x128, 0x1ff, 0x100, 0x128, 0x12d, 0x1d4);
    // What moves while a report is on its way comes in one.
    for (unsigned i = 0; i < 100; i++)
        i8042_mouse(&r.c, 1, 0, 0, 0);
    EXPECT(&r, 0x108, 0x101, 0x100, 0x108, 0x163, 0x100);
    mouse(&r, 0xe7); // 2:1
    EXPECT(&r, 0x1fa);
    i8042_mouse(&r.c, 4, -10, 0, 0);
    EXPECT(&r, 0x128, 0x106, 0x1ec);
    // Every click is told, however fast.
    i8042_mouse(&r.c, 0, 0, 0, PS2_MOUSE_LEFT);
    i8042_mouse(&r.c, 0, 0, 0, 0);
    i8042_mouse(&r.c, 0, 0, 0, PS2_MOUSE_LEFT);
    i8042_mouse(&r.c, 0, 0, 0, 0);
    EXPECT(&r, 0x109, 0x100, 0x100, 0x108, 0x100, 0x100, 0x109, 0x100, 0x100, 0x108, 0x100, 0x100);
    i8042_mouse(&r.c, 5, 5, 0, 0);
    assert_int_equal(next(&r), 0x108);
    mouse(&r, 0xe6); // cuts the report off
    EXPECT(&r, 0x1fa);
}

static void remote_mode(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    mouse(&r, 0xf0);
    mouse(&r, 0xf4);
    EXPECT(&r, 0x1fa, 0x1fa);
    i8042_mouse(&r.c, 7, 0, 0, PS2_MOUSE_MIDDLE);
    EXPECT(&r, -1);
    mouse(&r, 0xeb);
    EXPECT(&r, 0x1fa, 0x10c, 0x107, 0x100);
    mouse(&r, 0xeb);
    EXPECT(&r, 0x1fa, 0x10c, 0x100, 0x100);
    mouse(&r, 0xea);
    EXPECT(&r, 0x1fa);
    i8042_mouse(&r.c, 1, 0, 0, 0);
    EXPECT(&r, 0x108, 0x101, 0x100);
}

static void mouse_interrupt(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    set_command_byte(&r, 0x47);
    mouse(&r, 0xf4);
    assert_true(r.irq[1].level);
    EXPECT(&r, 0x1fa);
    r.irq[1].rises = 0;
    i8042_mouse(&r.c, 1, 2, 0, 0);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(r.irq[1].rises, i);
        assert_int_equal(status(&r) & 0x21, 0x21);
        get(&r);
        rig_advance(&r.t, MS);
    }
    assert_int_equal(r.irq[0].rises, 0);
    command(&r, 0xa7);
    i8042_mouse(&r.c, 1, 2, 0, 0);
    EXPECT(&r, -1);
    command(&r, 0xa8);
    EXPECT(&r, 0x108, 0x101, 0x102);
}

// Whatever is written and typed, queues stay in their bounds and the controller answers afterwards.
static void anything(void **state)
{
    struct rig r;
    u64 seed = 3;

    (void)state;
    start(&r);
    for (unsigned i = 0; i < 300000; i++) {
        u32 v = rig_random(&seed);
        switch (v >> 28) {
        case 0: command(&r, (u8)v); break;
        case 1: data(&r, (u8)v); break;
        case 2: i8042_key(&r.c, (u8)v, v >> 8 & 1); break;
        case 3: i8042_mouse(&r.c, (int)v, (int)(v << 7), (i8)v, (u8)(v >> 9)); break;
        case 4: mouse(&r, (u8)v); break;
        case 5: mouse(&r, 0xf4); break;
        case 6: rig_advance(&r.t, v & 0xfffff); break;
        default: status(&r), get(&r); break;
        }
    }
    for (unsigned i = 0; i < 1000 && next(&r) >= 0; i++)
        ;
    command(&r, 0xaa);
    assert_int_equal(next(&r), 0x55);
    mouse(&r, 0xff);
    EXPECT(&r, 0x1fa, 0x1aa, 0x100);
    set_command_byte(&r, 0x65);
    data(&r, 0xff);
    EXPECT(&r, 0xfa, 0xaa);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_firmware_leaves_it),
        cmocka_unit_test(controller_commands),
        cmocka_unit_test(loopback_interrupts),
        cmocka_unit_test(a20_and_reset),
        cmocka_unit_test(answers_overtake),
        cmocka_unit_test(keys_in_set_1),
        cmocka_unit_test(keys_in_set_2),
        cmocka_unit_test(keys_in_set_3),
        cmocka_unit_test(polled_input_port),
        cmocka_unit_test(keyboard_commands),
        cmocka_unit_test(interface_off),
        cmocka_unit_test(bytes_take_time),
        cmocka_unit_test(keyboard_overrun),
        cmocka_unit_test(mouse_commands),
        cmocka_unit_test(wheel_and_buttons),
        cmocka_unit_test(movement),
        cmocka_unit_test(remote_mode),
        cmocka_unit_test(mouse_interrupt),
        cmocka_unit_test(anything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
