// Frames of gdb's remote protocol: `$data#checksum`, acknowledgements, and the escapes inside (gdb manual, appendix E). Bytes come
// in one by one; nothing is trusted and everything is bounded.
#ifndef POGO_CLI_GDB_PACKET_H
#define POGO_CLI_GDB_PACKET_H

#include "pogo/types.h"

#define GDB_PACKET_MAX 16384u // bytes between $ and #, both ways

enum gdb_rx {
    GDB_RX_MORE,      // nothing complete yet
    GDB_RX_PACKET,    // data[0..len) is a packet, followed by a 0 byte
    GDB_RX_BAD,       // a frame whose checksum is wrong
    GDB_RX_OVERLONG,  // a frame that did not fit
    GDB_RX_INTERRUPT, // Ctrl-C outside a packet
    GDB_RX_NAK,       // the last packet sent is to be sent again
};

struct gdb_receiver {
    enum { GDB_BETWEEN, GDB_IN_DATA, GDB_IN_SUM, GDB_IN_SUM_2 } state;
    bool no_sums; // checksums no longer count (QStartNoAckMode)
    bool overlong;
    u8 sum, told; // checksum of the data so far, and as the sender has it
    bool bad_sum; // what should be its digits are none
    u32 len;
    u8 data[GDB_PACKET_MAX + 1];
};

enum gdb_rx gdb_receive(struct gdb_receiver *r, u8 byte);

// A packet being written. What does not fit is dropped and `full` is set.
struct gdb_writer {
    u32 len; // bytes of the packet's data
    bool full;
    u8 data[GDB_PACKET_MAX];
};

void gdb_put_char(struct gdb_writer *w, u8 c);
void gdb_put_text(struct gdb_writer *w, const char *text);
void gdb_put_number(struct gdb_writer *w, u64 val);              // hexadecimal, no leading zeros
void gdb_put_hex(struct gdb_writer *w, const void *p, size_t n); // two digits a byte, in memory's order
void gdb_put_raw(struct gdb_writer *w, const void *p, size_t n); // binary, escaped
// The frame around it: returns its length in `out`, which has room for GDB_FRAME_MAX.
#define GDB_FRAME_MAX (GDB_PACKET_MAX + 4)
u32 gdb_frame(const struct gdb_writer *w, u8 *out);

// Parsing: text that is consumed from the front.
struct gdb_text {
    const u8 *p, *end;
};

bool gdb_take_char(struct gdb_text *t, u8 c); // true when it was next
bool gdb_take_word(struct gdb_text *t, const char *word);
bool gdb_take_number(struct gdb_text *t, u64 *val);       // hexadecimal, 1 to 16 digits
bool gdb_take_hex(struct gdb_text *t, u8 *out, size_t n); // exactly n bytes
// Undo the escapes of the rest of `t`: exactly n bytes. In place is allowed.
bool gdb_take_raw(struct gdb_text *t, u8 *out, size_t n);
static inline bool gdb_at_end(const struct gdb_text *t)
{
    return t->p == t->end;
}

#endif
