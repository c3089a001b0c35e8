// poll(2) over a small table. Callbacks may add and remove anything, so each look at the table starts from what is in it now.

#include "host/loop.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#define NS_PER_S 1000000000ull

u64 loop_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * NS_PER_S + (u64)ts.tv_nsec;
}

int loop_add(struct loop *l, struct loop_watch *w)
{
    if (l->watches == LOOP_MAX_WATCHES)
        return -ENOSPC;
    l->watch[l->watches++] = w;
    return 0;
}

void loop_remove(struct loop *l, const struct loop_watch *w)
{
    for (unsigned i = 0; i < l->watches; i++)
        if (l->watch[i] == w) {
            l->watch[i] = l->watch[--l->watches];
            return;
        }
}

int loop_add_timer(struct loop *l, struct loop_timer *t)
{
    if (l->timers == LOOP_MAX_TIMERS)
        return -ENOSPC;
    l->timer[l->timers++] = t;
    return 0;
}

void loop_remove_timer(struct loop *l, const struct loop_timer *t)
{
    for (unsigned i = 0; i < l->timers; i++)
        if (l->timer[i] == t) {
            l->timer[i] = l->timer[--l->timers];
            return;
        }
}

static u64 next_timer(const struct loop *l)
{
    u64 at = LOOP_NEVER;

    for (unsigned i = 0; i < l->timers; i++)
        if (l->timer[i]->at_ns < at)
            at = l->timer[i]->at_ns;
    return at;
}

static void fire_timers(struct loop *l)
{
    u64 now = loop_now();

    for (unsigned i = 0; i < l->timers && !l->end; i++) {
        struct loop_timer *t = l->timer[i];
        if (t->at_ns > now)
            continue;
        t->at_ns = LOOP_NEVER;
        t->fire(t->arg);
    }
}

// Somebody may have been removed, or have been given another descriptor, by who was called before.
static void dispatch(struct loop *l, struct loop_watch *w, const struct pollfd *p)
{
    for (unsigned i = 0; i < l->watches; i++)
        if (l->watch[i] == w) {
            if (w->fd == p->fd)
                w->ready(w->arg, p->revents);
            return;
        }
}

static struct timespec until(u64 at, u64 max_ns)
{
    u64 now = loop_now(), wait = at <= now ? 0 : at - now;

    if (wait > max_ns)
        wait = max_ns;
    return (struct timespec){.tv_sec = (time_t)(wait / NS_PER_S), .tv_nsec = (long)(wait % NS_PER_S)};
}

void loop_step(struct loop *l, u64 max_ns)
{
    struct loop_watch *who[LOOP_MAX_WATCHES];
    struct pollfd p[LOOP_MAX_WATCHES];
    unsigned n = 0;
    u64 at = next_timer(l);

    for (unsigned i = 0; i < l->watches; i++) {
        struct loop_watch *w = l->watch[i];
        if (w->fd < 0 || (!w->events && !w->hangup))
            continue;
        who[n] = w;
        p[n++] = (struct pollfd){.fd = w->fd, .events = w->events};
    }
    struct timespec ts = until(at, max_ns);
    int ready = ppoll(p, n, at == LOOP_NEVER && max_ns == LOOP_NEVER ? NULL : &ts, NULL);
    for (unsigned i = 0; ready > 0 && i < n && !l->end; i++)
        if (p[i].revents)
            dispatch(l, who[i], &p[i]);
    fire_timers(l);
}

void loop_run(struct loop *l)
{
    while (!l->end)
        loop_step(l, LOOP_NEVER);
}
