// The two devices at a PS/2 controller: an enhanced keyboard (scan-code sets 1 to 3) and a mouse with a wheel. Facts from the
// IBM PS/2 Hardware Interface Technical Reference (keyboard, auxiliary device) and Microsoft's description of the IntelliMouse.
//
// Each is a protocol machine on its own: bytes from the host go in by *_receive(), bytes for the host are taken out by
// *_take() when the wire is free. Queues are bounded: keys that find no room are dropped whole, movements add up.
#ifndef POGO_DEV_PS2_H
#define POGO_DEV_PS2_H

#include "pogo/types.h"

#define PS2_QUEUE_SIZE 64
#define PS2_SET3_SIZE 0x90

struct ps2_queue {
    u8 data[PS2_QUEUE_SIZE];
    u8 head, count;
};

struct ps2_keyboard {
    struct ps2_queue keys, replies; // replies go first
    u8 expects;                     // command whose parameter comes next, or 0
    u8 set;                         // scan-code set, 1 to 3
    u8 type[PS2_SET3_SIZE];         // of the key with that set 3 code: whether it repeats, and tells of being let go
    u8 down[32];                    // bit map of the keys that are down
    u8 leds;                        // bit 0 scroll lock, 1 num lock, 2 caps lock
    u8 rate;                        // typematic rate and delay as set
    u8 last;                        // byte sent last, for resending
    bool scanning;
    bool overrun; // keys were lost since the queue last emptied, and the host was told
};

#define PS2_MOUSE_LEFT 0x01
#define PS2_MOUSE_RIGHT 0x02
#define PS2_MOUSE_MIDDLE 0x04
#define PS2_MOUSE_4TH 0x08
#define PS2_MOUSE_5TH 0x10

struct ps2_mouse {
    struct ps2_queue reports, replies;
    u8 expects;
    u8 id;         // 0; 3 with a wheel, 4 with five buttons, after the host's knock
    u8 knock[3];   // the last three sample rates
    u8 rate;       // reports a second
    u8 resolution; // 0..3: counts per millimetre as a power of two
    u8 last;
    bool remote, wrap, reporting, double_scale;
    int dx, dy, dz; // movement not yet reported; y up, z towards the user
    u8 buttons, told_buttons;
};

// Power-on state, with the self-test done and told, or not (firmware has seen it).
void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_mouse_reset(struct ps2_mouse *m);
// Next byte for the host. False: nothing to say.
bool ps2_keyboard_take(struct ps2_keyboard *k, u8 *byte);
bool ps2_mouse_take(struct ps2_mouse *m, u8 *byte);
// A byte from the host.
void ps2_keyboard_receive(struct ps2_keyboard *k, u8 byte);
void ps2_mouse_receive(struct ps2_mouse *m, u8 byte);

// A key went down (or repeats), or up. Keys are named by their set 1 make code, 0x01..0x7f, plus 0x80 for those with an
// E0 prefix: 0x1e A, 0x9d right Ctrl, 0xc8 up arrow. 0xb7 is Print Screen, 0xc6 Pause. Others are ignored.
void ps2_keyboard_key(struct ps2_keyboard *k, u8 key, bool down);
// The mouse moved (x right, y up, z towards the user) and has these buttons down.
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u8 buttons);

// Set 1 code of a set 2 code, as the controller translates. Codes that it does not know are themselves.
u8 ps2_translate(u8 set2);

#endif
