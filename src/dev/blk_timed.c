// Requests wait in a list for the timer. When it fires each is given to the backend alone and waited for, with the machine standing still, so
// it does not show how long that takes, nor in which order a backend with several threads is done.
#include "dev/blk_timed.h"

#include <errno.h>

static struct blk_timed *of(struct blk_backend *b)
{
    return (struct blk_timed *)b; // its first member
}

static int start(struct blk_backend *b, struct lock *dev_lock)
{
    struct blk_backend *inner = of(b)->inner;

    return inner->ops->start(inner, dev_lock);
}

static void submit(struct blk_backend *b, struct blk_request *r)
{
    struct blk_timed *t = of(b);

    if (!t->first)
        clock_arm(t->clock, &t->timer, clock_now(t->clock) + BLK_TIMED_NS);
    r->next = NULL;
    *t->last = r;
    t->last = &r->next;
}

// Answers may bring new requests, which wait for their own time.
static void answer_all(struct blk_timed *t, bool cancel)
{
    struct blk_request *r = t->first, *next;
    struct blk_backend *inner = t->inner;

    t->first = NULL;
    t->last = &t->first;
    clock_disarm(t->clock, &t->timer);
    for (; r; r = next) {
        next = r->next;
        if (cancel) {
            r->result = -ECANCELED;
            r->done(r, next);
        } else {
            inner->ops->submit(inner, r);
            inner->ops->drain(inner, false);
        }
    }
}

static void drain(struct blk_backend *b, bool cancel)
{
    struct blk_timed *t = of(b);

    while (t->first)
        answer_all(t, cancel);
}

static void fire(void *dev, u64 now_ns)
{
    (void)now_ns;
    answer_all(dev, false);
}

static const struct blk_backend_ops timed_ops = {.start = start, .submit = submit, .drain = drain};

int blk_timed_init(struct blk_timed *t, struct blk_backend *inner, struct clock *clock)
{
    *t = (struct blk_timed){.b = *inner, .inner = inner, .clock = clock};
    t->b.ops = &timed_ops;
    t->last = &t->first;
    t->timer = (struct clock_timer){.fire = fire, .dev = t};
    return clock_add_timer(clock, &t->timer);
}
