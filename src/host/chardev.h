// Character devices: the far ends of serial lines, debug consoles, the monitor and whatever else talks in bytes.
//
//   vCPU threads (device lock held)            thread in control
//   chardev_put, chardev_write  -> out ring -> descriptor (terminal, file, pipe, pty, socket)
//   chardev_get, chardev_read   <- in ring  <- descriptor, through the escape keys of a multiplexed device
//
// A vCPU's thread never waits here. When a peer is slow, a device sees chardev_room() false and can show its guest a busy
// transmitter; a guest that sends all the same is made to pause (chardevs.stall) before anything is lost. Only when a peer takes
// nothing for CHARDEV_PATIENCE_MS is output dropped, until it takes something again. Without a peer output is discarded. A pipe at
// standard output whose reader has gone is told to the owner of the devices (chardevs.broken), also when nothing is written.
//
// Everything but what is marked is for the thread in control.
#ifndef POGO_HOST_CHARDEV_H
#define POGO_HOST_CHARDEV_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "host/loop.h"
#include "pogo/error.h"
#include "pogo/types.h"

#define CHARDEV_MAX 32
#define CHARDEV_MAX_FRONTS 4
#define CHARDEV_OUT_SIZE 65536u
#define CHARDEV_OUT_READY (CHARDEV_OUT_SIZE - 4096) // above: chardev_room() is false
#define CHARDEV_OUT_STALL (CHARDEV_OUT_SIZE - 2048) // above: processors are asked to pause
#define CHARDEV_IN_SIZE 4096u
#define CHARDEV_PATIENCE_MS 5000

enum chardev_kind {
    CHARDEV_NULL,
    CHARDEV_STDIO,
    CHARDEV_FILE,
    CHARDEV_PIPE,
    CHARDEV_PTY,
    CHARDEV_UNIX,
    CHARDEV_TCP,
    CHARDEV_KIND_COUNT
};

// Which keys the device takes for itself: Ctrl-A and another.
enum chardev_keys { CHARDEV_KEYS_OFF, CHARDEV_KEYS_TTY, CHARDEV_KEYS_ON }; // TTY: if the input is a terminal

// What to open. Strings stay the caller's for as long as the device lives.
struct chardev_spec {
    enum chardev_kind kind;
    const char *id;
    const char *path;        // FILE, PIPE, UNIX, PTY (a symbolic link to make, or NULL)
    const char *host, *port; // TCP; no host: any address
    bool server, wait;       // UNIX, TCP: listen; be there only when somebody has connected
    bool append;             // FILE
    bool nodelay;            // TCP
    bool mux;                // several users, who share the input by Ctrl-A c
    unsigned reconnect;      // seconds until a client tries again; 0: not at all
    enum chardev_keys keys;
};

enum chardev_event {
    CHARDEV_OPENED, // a peer is there
    CHARDEV_CLOSED, // it has gone
    CHARDEV_BREAK,  // the user wants a break condition on the line
    CHARDEV_FOCUS,  // the input of a multiplexed device goes here from now on
};

struct chardev;
struct chardevs;

// Where a socket listens or connects to.
#define CHARDEV_MAX_ADDRESSES 4
struct chardev_address {
    struct sockaddr_storage addr;
    socklen_t len;
};

// Somebody at this end. Callbacks may be NULL.
struct chardev_front {
    void *arg;
    void (*input)(void *arg); // there is something for chardev_get()
    void (*room)(void *arg);  // chardev_room() was false, and is true again
    void (*event)(void *arg, enum chardev_event e);
    bool no_input; // output alone: never has the focus

    struct chardev *dev;    // set by chardev_attach()
    _Atomic u32 head, tail; // in ring: consumed, produced; free-running
    u8 in[CHARDEV_IN_SIZE];
};

struct chardev {
    struct chardev_spec spec;
    struct chardevs *all;
    struct chardev_front *front[CHARDEV_MAX_FRONTS];
    unsigned fronts, focus;
    bool terminal, escaped; // input is a terminal; Ctrl-A was typed
    bool at_end;            // nothing more to read
    bool background;        // the terminal is another job's: reading from it would stop this process

    int in_fd, out_fd;    // -1: none
    int listen_fd;        // or, of a client, the socket that is being connected
    bool own_in, own_out; // to be closed
    bool regular;         // out_fd never blocks for long: no need to poll it
    bool fifo;            // out_fd has a reader who can go
    unsigned chunk;       // bytes that a write to out_fd takes without blocking, as far as is known; 0: any number
    struct loop_watch in_watch, out_watch, listen_watch;
    struct loop_timer
        timer; // next look at a pty without a peer, or at a terminal that is another job's, or next try of a client
    struct chardev_address address[CHARDEV_MAX_ADDRESSES];
    unsigned addresses, address_next; // known; to be tried next
    bool unlink_path;
    char name[128]; // where a pty or a socket is to be found

    pthread_mutex_t lock; // protects what follows
    bool connected;       // somebody is there to read
    bool waiting;         // chardev_room() was false
    bool stalled;         // the processors pause for this device
    bool stuck;           // the peer does not read: drop what does not fit
    u32 head, tail;       // out ring: sent, put; free-running
    u64 dropped;
    u8 out[CHARDEV_OUT_SIZE];
};

struct chardevs {
    struct loop *loop;
    struct chardev *dev[CHARDEV_MAX];
    unsigned count;
    bool draining;                // the machine has ended: nobody wants input
    struct loop_watch wake_watch; // eventfd: some ring needs a look
    struct loop_timer flush_timer;
    _Atomic bool woken;
    bool pipe_ignored;       // whoever started this process had SIGPIPE ignored
    _Atomic unsigned stalls; // devices that are stalled
    // Any thread: a device's ring is nearly full. Then, in the thread in control: none is any more.
    void (*stall)(void *arg);
    void (*unstall)(void *arg);
    void (*quit)(void *arg);   // Ctrl-A x
    void (*broken)(void *arg); // nobody reads standard output any more; called once
    void (*waits)(void *arg, const struct chardev *c,
                  const char *option); // opening it waits for a connection from now on
    void *arg;
};

// Returns 0 or a negative errno. What follows `stalls` is the caller's to set. SIGPIPE and SIGXFSZ are ignored
// from now on.
int chardevs_init(struct chardevs *s, struct loop *loop);
// The machine starts, or the process was stopped and goes on (as a shell's 'fg' has it): have the terminal, if one is used and not
// another job's, give keys as they are typed.
void chardevs_raw(struct chardevs *s);
// Write now what is taken without blocking.
void chardevs_flush(struct chardevs *s);
// Write what is still buffered, for as long as somebody takes some of it every `patience_ms`; stop early when `loop->end` is set by
// a callback.
void chardevs_drain(struct chardevs *s, unsigned patience_ms);
// Close and release everything.
void chardevs_fini(struct chardevs *s);

// Open a device. `option` names the command line option it came from in messages. Returns 0 and *out, which belongs to `s`, or a
// negative errno with *err set.
int chardev_create(struct chardevs *s, const struct chardev_spec *spec, const char *option, struct chardev **out,
                   struct error *err);
// By spec.id; NULL if there is none.
struct chardev *chardev_find(struct chardevs *s, const char *id);
// Returns 0, or -EBUSY when the device is taken, or -ENOSPC.
int chardev_attach(struct chardev *c, struct chardev_front *f);
void chardev_detach(struct chardev_front *f);
// Has anybody attached?
bool chardev_used(const struct chardev *c);
// The same as chardev_write(), but waits for room as long as the peer takes something. For users in the thread in control (monitor,
// debugger).
void chardev_print(struct chardev_front *f, const void *buf, size_t len);

// For any thread. The processors have waited long enough: from now on the devices that they wait for drop what does not fit.
void chardevs_give_up(struct chardevs *s);
// For any thread; calls for one front do not overlap.
void chardev_put(void *front, u8 byte);
size_t chardev_write(struct chardev_front *f, const void *buf, size_t len); // returns how much fitted
bool chardev_room(void *front);                                             // may more be put?
int chardev_get(void *front);                                               // -1 when there is nothing
size_t chardev_read(struct chardev_front *f, void *buf, size_t len);
bool chardev_connected(struct chardev_front *f);

// --- between the files of this module -----------------------------------------------------------------------------------------

// One function per kind: sets the descriptors of *c.
int chardev_open_stdio(struct chardev *c, const char *option, struct error *err);
int chardev_open_file(struct chardev *c, const char *option, struct error *err);
int chardev_open_pipe(struct chardev *c, const char *option, struct error *err);
int chardev_open_pty(struct chardev *c, const char *option, struct error *err);
int chardev_open_socket(struct chardev *c, const char *option, struct error *err);
// A peer is there (its descriptors are set), or has gone: closes them.
void chardev_peer_came(struct chardev *c);
void chardev_peer_left(struct chardev *c);
// What descriptors are watched for follows the state of the rings.
void chardev_update(struct chardev *c);

#endif
