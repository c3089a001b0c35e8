// PS/2 keyboard and mouse.

#include "dev/ps2.h"

#include <string.h>

#define ACK 0xfa
#define RESEND 0xfe // to the host: what was that?
#define SELF_TEST_OK 0xaa

// --- queues -----------------------------------------------------------------------------------------------------------------

static void put(struct ps2_queue *q, u8 byte)
{
    if (q->count < PS2_QUEUE_SIZE)
        q->data[(q->head + q->count++) % PS2_QUEUE_SIZE] = byte;
}

static u8 get(struct ps2_queue *q)
{
    u8 byte = q->data[q->head];

    q->head = (q->head + 1) % PS2_QUEUE_SIZE;
    q->count--;
    return byte;
}

static void clear(struct ps2_queue *q)
{
    q->count = 0;
}

// --- scan codes ---------------------------------------------------------------------------------------------------------------

// Set 1 codes by set 2 code, from the controller's ROM.
static const u8 set1_of[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, // 00
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, // 10
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, // 20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, // 30
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, // 40
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, // 50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, // 60
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, // 70
};

#define SET1_F7 0x41
#define SET1_SYSRQ 0x54
#define SET2_F7 0x83
#define SET2_SYSRQ 0x84

u8 ps2_translate(u8 set2)
{
    if (set2 < 128)
        return set1_of[set2];
    if (set2 == SET2_F7)
        return SET1_F7;
    return set2 == SET2_SYSRQ ? SET1_SYSRQ : set2;
}

static u8 set2_of(u8 set1)
{
    if (set1 == SET1_F7)
        return SET2_F7;
    if (set1 == SET1_SYSRQ)
        return SET2_SYSRQ;
    for (u8 i = 1; i < 128; i++)
        if (set1_of[i] == set1)
            return i;
    return 0;
}

// Set 3 has a code of its own for each key. By name of the key (set 1 code), those without a prefix first.
static const u8 set3_of_plain[0x60] = {
    0x00, 0x08, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d, // 00
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x11, 0x1c, 0x1b, // 10
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5c, 0x1a, 0x22, 0x21, 0x2a, // 20
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7e, 0x19, 0x29, 0x14, 0x07, 0x0f, 0x17, 0x1f, 0x27, // 30
    0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x76, 0x5f, 0x6c, 0x75, 0x7d, 0x84, 0x6b, 0x73, 0x74, 0x7c, 0x69, // 40
    0x72, 0x7a, 0x70, 0x71, 0x57, 0x00, 0x13, 0x56, 0x5e,                                           // 50
};
static const u8 set3_of_extended[0x60] = {
    [0x1c] = 0x79, [0x1d] = 0x58, [0x35] = 0x77, [0x37] = 0x57, [0x38] = 0x39, [0x46] = 0x62, [0x47] = 0x6e,
    [0x48] = 0x63, [0x49] = 0x6f, [0x4b] = 0x61, [0x4d] = 0x6a, [0x4f] = 0x65, [0x50] = 0x60, [0x51] = 0x6d,
    [0x52] = 0x67, [0x53] = 0x64, [0x5b] = 0x8b, [0x5c] = 0x8c, [0x5d] = 0x8d,
};

static u8 set3_of(u8 key)
{
    u8 code = key & 0x7f;

    if (code >= sizeof(set3_of_plain))
        return 0;
    return key & 0x80 ? set3_of_extended[code] : set3_of_plain[code];
}

// --- keyboard -----------------------------------------------------------------------------------------------------------------

#define KEY_EXTENDED 0x80
#define KEY_PRINT 0xb7
#define KEY_PAUSE 0xc6

#define DEFAULT_TYPEMATIC 0x2b // 10.9 characters a second after 500 ms

// Key types of set 3.
#define TYPE_REPEATS 1
#define TYPE_BREAKS 2

// The type at power-on: shifts and the like tell of being let go, keys that type repeat, others do neither.
static u8 default_type(u8 key)
{
    static const u8 shifts[] = {0x1d, 0x2a, 0x36, 0x38, 0x3a}; // left Ctrl, both Shift, left Alt, Caps Lock
    // Keypad +, the key beside the left Shift, arrows, Delete.
    static const u8 typing[] = {0x4e, 0x56, 0xc8, 0xcb, 0xcd, 0xd0, 0xd3};

    if (memchr(shifts, key, sizeof(shifts)))
        return TYPE_BREAKS;
    if (memchr(typing, key, sizeof(typing)))
        return TYPE_REPEATS;
    return key > 0x01 && key < 0x3b && key != 0x37 ? TYPE_REPEATS : 0; // not Esc, nor keypad *
}

static void default_types(struct ps2_keyboard *k)
{
    for (unsigned key = 1; key < 256; key++)
        if (set3_of((u8)key))
            k->type[set3_of((u8)key)] = default_type((u8)key);
}

static void keyboard_defaults(struct ps2_keyboard *k)
{
    clear(&k->keys);
    k->overrun = false;
    k->set = 2;
    k->rate = DEFAULT_TYPEMATIC;
    k->expects = 0;
    default_types(k);
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
    u8 down[sizeof(k->down)];

    memcpy(down, k->down, sizeof(down)); // a finger stays where it is
    memset(k, 0, sizeof(*k));
    memcpy(k->down, down, sizeof(down));
    keyboard_defaults(k);
    k->scanning = true;
}

bool ps2_keyboard_take(struct ps2_keyboard *k, u8 *byte)
{
    struct ps2_queue *q = k->replies.count ? &k->replies : &k->keys;

    if (!q->count)
        return false;
    *byte = k->last = get(q);
    if (!k->keys.count)
        k->overrun = false;
    return true;
}

// All of a key's bytes, or none of them.
static void send_key(struct ps2_keyboard *k, const u8 *bytes, unsigned n)
{
    if (k->keys.count + n < PS2_QUEUE_SIZE) { // one is left for the mark below
        for (unsigned i = 0; i < n; i++)
            put(&k->keys, bytes[i]);
    } else if (!k->overrun) {
        put(&k->keys, k->set == 1 ? 0xff : 0x00);
        k->overrun = true;
    }
}

static void send_set1(struct ps2_keyboard *k, u8 key, bool down)
{
    u8 b[2] = {0xe0, (u8)((key & 0x7f) | (down ? 0 : 0x80))};

    if (key & KEY_EXTENDED)
        send_key(k, b, 2);
    else
        send_key(k, b + 1, 1);
}

static void send_set2(struct ps2_keyboard *k, u8 key, bool down)
{
    u8 b[3], code = set2_of(key & 0x7f);
    unsigned n = 0;

    if (!code)
        return;
    if (key & KEY_EXTENDED)
        b[n++] = 0xe0;
    if (!down)
        b[n++] = 0xf0;
    b[n++] = code;
    send_key(k, b, n);
}

static void send_set3(struct ps2_keyboard *k, u8 key, bool down, bool again)
{
    u8 code = set3_of(key), b[2] = {0xf0, code};

    if (!code)
        return;
    if (down && (!again || (k->type[code] & TYPE_REPEATS)))
        send_key(k, b + 1, 1);
    else if (!down && (k->type[code] & TYPE_BREAKS))
        send_key(k, b, 2);
}

// Pause sends make and break at once, and nothing when it is let go.
static void send_pause(struct ps2_keyboard *k)
{
    static const u8 set1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
    static const u8 set2[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};

    if (k->set == 1)
        send_key(k, set1, sizeof(set1));
    else
        send_key(k, set2, sizeof(set2));
}

// Print Screen comes with a shift that nobody pressed around it.
static void send_print(struct ps2_keyboard *k, bool down)
{
    static const u8 set1[2][4] = {{0xe0, 0xb7, 0xe0, 0xaa}, {0xe0, 0x2a, 0xe0, 0x37}};
    static const u8 set2_up[] = {0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12}, set2_down[] = {0xe0, 0x12, 0xe0, 0x7c};

    if (k->set == 1)
        send_key(k, set1[down], 4);
    else if (down)
        send_key(k, set2_down, sizeof(set2_down));
    else
        send_key(k, set2_up, sizeof(set2_up));
}

void ps2_keyboard_key(struct ps2_keyboard *k, u8 key, bool down)
{
    bool again = k->down[key / 8] >> key % 8 & 1;

    k->down[key / 8] = (u8)((k->down[key / 8] & ~(1u << key % 8)) | (unsigned)down << key % 8);
    if (!k->scanning || !(key & 0x7f))
        return;
    if (k->set == 3) {
        send_set3(k, key, down, again);
    } else if (key == KEY_PAUSE) {
        if (down)
            send_pause(k);
    } else if (key == KEY_PRINT) {
        send_print(k, down);
    } else if (k->set == 1) {
        send_set1(k, key, down);
    } else {
        send_set2(k, key, down);
    }
}

// The key type that a command sets: F7 to FA for all keys, FB to FD for single ones.
static u8 type_of(u8 command)
{
    switch (command) {
    case 0xf7:
    case 0xfb: return TYPE_REPEATS;
    case 0xf8:
    case 0xfc: return TYPE_BREAKS;
    case 0xfa: return TYPE_REPEATS | TYPE_BREAKS;
    default: return 0;
    }
}

static void keyboard_parameter(struct ps2_keyboard *k, u8 command, u8 val)
{
    u8 answer = ACK;

    switch (command) {
    case 0xed: k->leds = val & 7; break;
    case 0xf3: k->rate = val & 0x7f; break;
    case 0xfb: // types of single keys, as many as come
    case 0xfc:
    case 0xfd:
        if (val < PS2_SET3_SIZE)
            k->type[val] = type_of(command);
        k->expects = command;
        break;
    case 0xf0:
        if (val > 3)
            answer = RESEND;
        else if (val)
            k->set = val;
        if (val)
            clear(&k->keys); // what waits there is of the other set
        break;
    }
    put(&k->replies, answer);
    if (command == 0xf0 && !val)
        put(&k->replies, k->set);
}

static void keyboard_command(struct ps2_keyboard *k, u8 command)
{
    switch (command) {
    case 0xed: // LEDs
    case 0xf0: // scan-code set
    case 0xf3: // typematic
    case 0xfb: // key types of set 3
    case 0xfc:
    case 0xfd:
        k->expects = command;
        put(&k->replies, ACK);
        break;
    case 0xee: put(&k->replies, 0xee); break; // echo
    case 0xf2:                                // identify
        put(&k->replies, ACK);
        put(&k->replies, 0xab);
        put(&k->replies, 0x83);
        break;
    case 0xf4: // enable
        clear(&k->keys);
        k->overrun = false;
        k->scanning = true;
        put(&k->replies, ACK);
        break;
    case 0xf5: // defaults, and disable
    case 0xf6: // defaults
        keyboard_defaults(k);
        k->scanning = command == 0xf6 && k->scanning;
        put(&k->replies, ACK);
        break;
    case 0xf7: // key types of set 3, for all keys
    case 0xf8:
    case 0xf9:
    case 0xfa:
        memset(k->type, type_of(command), sizeof(k->type));
        put(&k->replies, ACK);
        break;
    case 0xfe: put(&k->replies, k->last); break; // resend
    case 0xff:                                   // reset
        ps2_keyboard_reset(k);
        put(&k->replies, ACK);
        put(&k->replies, SELF_TEST_OK);
        break;
    default: put(&k->replies, RESEND); break;
    }
}

void ps2_keyboard_receive(struct ps2_keyboard *k, u8 byte)
{
    u8 command = k->expects;

    k->expects = 0;
    if (command && byte < (command < 0xfb ? 0x80 : 0xe0)) // no command begins below
        keyboard_parameter(k, command, byte);
    else // also in place of a parameter
        keyboard_command(k, byte);
}

// --- mouse --------------------------------------------------------------------------------------------------------------------

#define REPORT_ONE 0x08 // always set in the first byte
#define REPORT_X_SIGN 0x10
#define REPORT_Y_SIGN 0x20

static void mouse_defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->remote = m->wrap = m->reporting = m->double_scale = false;
    m->expects = 0;
    m->dx = m->dy = m->dz = 0;
    clear(&m->reports);
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    u8 buttons = m->buttons;

    memset(m, 0, sizeof(*m));
    m->buttons = m->told_buttons = buttons;
    mouse_defaults(m);
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

// What is left of a movement after `v` of it was reported. What does not fit into a report goes into the next.
static int take_step(int *v, int low, int high)
{
    int step = clamp(*v, low, high);

    *v -= step;
    return step;
}

// Scaling 2:1 speeds up all but small movements. Streaming only.
static int scale(const struct ps2_mouse *m, int v)
{
    static const int small[] = {0, 1, 1, 3, 6, 9};
    int size = v < 0 ? -v : v;

    if (!m->double_scale || m->remote)
        return v;
    size = size < 6 ? small[size] : size * 2;
    return clamp(v < 0 ? -size : size, -256, 255);
}

static void put_report(struct ps2_mouse *m, struct ps2_queue *q)
{
    int x = scale(m, take_step(&m->dx, -256, 255)), y = scale(m, take_step(&m->dy, -256, 255));

    put(q, (u8)((m->buttons & 7) | REPORT_ONE | (x < 0 ? REPORT_X_SIGN : 0) | (y < 0 ? REPORT_Y_SIGN : 0)));
    put(q, (u8)x);
    put(q, (u8)y);
    if (m->id == 3)
        put(q, (u8)take_step(&m->dz, -128, 127));
    else if (m->id == 4)
        put(q, (u8)((take_step(&m->dz, -8, 7) & 15) | (m->buttons & 0x18) << 1));
    m->told_buttons = m->buttons;
}

static bool streaming(const struct ps2_mouse *m)
{
    return m->reporting && !m->remote && !m->wrap;
}

static bool has_news(const struct ps2_mouse *m)
{
    return m->dx || m->dy || m->dz || m->buttons != m->told_buttons;
}

bool ps2_mouse_take(struct ps2_mouse *m, u8 *byte)
{
    // A movement is reported when the one before is on its way.
    if (!m->replies.count && !m->reports.count && streaming(m) && has_news(m))
        put_report(m, &m->reports);
    struct ps2_queue *q = m->replies.count ? &m->replies : &m->reports;
    if (!q->count)
        return false;
    *byte = m->last = get(q);
    return true;
}

static int add(int sum, int v)
{
    return clamp(sum + clamp(v, -0x10000, 0x10000), -0x10000, 0x10000);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u8 buttons)
{
    bool click = (buttons & 0x1f) != m->buttons;

    // Before the buttons change what was is reported: a click must not get lost between two reports.
    if (click && streaming(m) && m->buttons != m->told_buttons && m->reports.count + 4 <= PS2_QUEUE_SIZE)
        put_report(m, &m->reports);
    m->buttons = buttons & 0x1f;
    m->dx = add(m->dx, dx);
    m->dy = add(m->dy, dy);
    m->dz = m->id ? add(m->dz, dz) : 0; // a plain mouse has no wheel
}

// The host knocks with sample rates to ask whether there is more than a plain mouse here.
static void set_rate(struct ps2_mouse *m, u8 rate)
{
    m->rate = rate;
    m->knock[0] = m->knock[1];
    m->knock[1] = m->knock[2];
    m->knock[2] = rate;
    if (m->knock[0] != 200 || rate != 80)
        return;
    if (m->knock[1] == 100)
        m->id = 3;
    else if (m->knock[1] == 200 && m->id == 3)
        m->id = 4;
}

static void put_status(struct ps2_mouse *m)
{
    u8 b = m->buttons;

    put(&m->replies, (u8)(m->remote << 6 | m->reporting << 5 | m->double_scale << 4 | (b & PS2_MOUSE_LEFT) << 2 |
                          (b & PS2_MOUSE_MIDDLE) >> 1 | (b & PS2_MOUSE_RIGHT) >> 1));
    put(&m->replies, m->resolution);
    put(&m->replies, m->rate);
}

// Commands of one byte that change something. False: none of them.
static bool mouse_setting(struct ps2_mouse *m, u8 command)
{
    switch (command) {
    case 0xe6: m->double_scale = false; return true;
    case 0xe7: m->double_scale = true; return true;
    case 0xea: m->remote = false; return true;
    case 0xec: m->wrap = false; return true;
    case 0xee: m->wrap = true; return true;
    case 0xf0: m->remote = true; return true;
    case 0xf4: // from here on
        m->reporting = true;
        m->dx = m->dy = m->dz = 0;
        return true;
    case 0xf5: m->reporting = false; return true;
    case 0xf6: mouse_defaults(m); return true;
    case 0xe8: // resolution
    case 0xf3: // sample rate
        m->expects = command;
        return true;
    default: return false;
    }
}

static void mouse_command(struct ps2_mouse *m, u8 command)
{
    if (command == 0xfe) {
        put(&m->replies, m->last);
        return;
    }
    if (command == 0xff)
        ps2_mouse_reset(m);
    bool known = mouse_setting(m, command) || command == 0xe9 || command == 0xeb || command == 0xf2 || command == 0xff;
    put(&m->replies, known ? ACK : RESEND);
    switch (command) {
    case 0xe9: put_status(m); break;
    case 0xeb: put_report(m, &m->replies); break;
    case 0xf2: put(&m->replies, m->id); break;
    case 0xff:
        put(&m->replies, SELF_TEST_OK);
        put(&m->replies, m->id);
        break;
    }
}

static void mouse_parameter(struct ps2_mouse *m, u8 command, u8 val)
{
    if (command == 0xf3)
        set_rate(m, val);
    else if (val < 4)
        m->resolution = val;
    put(&m->replies, command == 0xf3 || val < 4 ? ACK : RESEND);
}

void ps2_mouse_receive(struct ps2_mouse *m, u8 byte)
{
    u8 command = m->expects;

    // A byte from the host cuts off a report that is on its way.
    clear(&m->reports);
    m->expects = 0;
    if (m->wrap && byte != 0xff && byte != 0xec)
        put(&m->replies, byte);
    else if (command)
        mouse_parameter(m, command, byte);
    else
        mouse_command(m, byte);
}
