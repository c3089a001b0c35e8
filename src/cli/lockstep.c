// Driving two machines side by side, and the search for the instruction that makes them differ.
#include "cli/lockstep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/report.h"

// What another process, which looks closer, finds out. In memory that both share.
struct finding {
    bool found;
    u64 insns;
    struct lockstep_result result;
};

struct pair {
    const struct lockstep_config *c;
    struct side a, b;
    u64 good[DEPTH_ALL + 1];   // there everything that this depth looks at was the same
    u64 bad;                   // and not there
    enum lockstep_depth depth; // of the comparison that found it
    bool record;               // keep the last steps
    struct lockstep_history history;
    struct cpu before; // the first machine's processor before its last step
    size_t echoed, searched;
    u64 told_ns, start_ns;
    struct finding *finding;
};

// --- running --------------------------------------------------------------------------------------------------------------

static int create(struct pair *p, struct error *err)
{
    const struct lockstep_config *c = p->c;
    int ret = side_create(&p->a, c->o, c->engine[0], &c->tuning[0], c->script, c->log[0], err);

    memset(p->good, 0, sizeof(p->good));
    return ret ? ret : side_create(&p->b, c->o, c->engine[1], &c->tuning[1], c->script, c->log[1], err);
}

static void destroy(struct pair *p)
{
    side_destroy(&p->a);
    side_destroy(&p->b);
}

static void remember(struct pair *p, const struct lockstep_step *s)
{
    struct lockstep_history *h = &p->history;

    h->step[h->count++ % LOCKSTEP_HISTORY] = *s;
}

// One step of the first machine, kept in the history. Repeated steps at one place (idle time, iterations) are kept once.
static void step(struct pair *p)
{
    struct side *s = &p->a;
    const struct cpu *c = &s->v->cpu;
    bool long_mode = cpu_64bit(c);
    struct lockstep_step now = {.insns = s->v->insns,
                                .rip = c->rip,
                                .base = long_mode ? 0 : c->seg[X86_CS].base,
                                .type = c->event.type,
                                .vector = c->event.vector};
    const struct lockstep_step *last = &p->history.step[(p->history.count - 1) % LOCKSTEP_HISTORY];

    now.mode = (u8)(long_mode ? ISA_MODE_64 : c->seg[X86_CS].attr & X86_SEG_DB ? ISA_MODE_32 : ISA_MODE_16);
    now.len = (u8)report_peek(s->v, long_mode ? c->rip : (u32)(c->seg[X86_CS].base + c->rip), now.bytes, LOCKSTEP_CODE);
    p->before = *c;
    now.kind = side_step(s);
    if (now.kind == SIDE_EVENT && now.type == CPU_EVENT_NONE) {
        now.type = CPU_EVENT_EXTERNAL;
        now.vector = c->event.vector; // what was delivered is still there
    }
    if (!p->history.count || last->insns != now.insns || last->rip != now.rip || last->kind != now.kind)
        remember(p, &now);
}

static void run_first(struct pair *p, u64 target)
{
    if (!p->record)
        side_run(&p->a, target);
    while (p->record && !p->a.ended && p->a.v->insns < target)
        step(p);
}

// The end of the piece that begins at `at`: pieces are the same in every run.
static u64 piece_end(const struct lockstep_config *c, u64 at)
{
    u64 end = at - at % c->every + c->every;

    for (unsigned i = 0; i < c->dumps; i++)
        if (c->dump_at[i] > at && c->dump_at[i] < end)
            end = c->dump_at[i];
    return end < c->limit ? end : c->limit;
}

// How closely to look at the end of a piece. Also the same in every run, since looking for written pages slows later stores down.
static enum lockstep_depth piece_depth(const struct lockstep_config *c, u64 at, u64 end)
{
    if (end % (c->every * c->memory_every))
        return DEPTH_STATE;
    return at / c->full_every != end / c->full_every ? DEPTH_ALL : DEPTH_MEMORY;
}

static u64 insns(const struct pair *p)
{
    return p->a.v->insns;
}

static bool ended(const struct pair *p)
{
    return p->a.ended || p->b.ended;
}

// Run one piece. False: the machines differ now.
static bool run_piece(struct pair *p)
{
    u64 at = insns(p), end = piece_end(p->c, at);
    enum lockstep_depth depth = piece_depth(p->c, at, end);

    run_first(p, end);
    side_run(&p->b, end);
    if (ended(p))
        depth = DEPTH_ALL;
    if (!lockstep_same(&p->a, &p->b, depth)) {
        p->bad = insns(p) > p->b.v->insns ? insns(p) : p->b.v->insns;
        p->depth = depth;
        return false;
    }
    for (int d = DEPTH_STATE; d <= (int)depth; d++)
        p->good[d] = insns(p);
    return true;
}

// Run pieces up to `stop`, the last one step by step.
static bool run_to(struct pair *p, u64 stop)
{
    bool same = true;

    while (same && !ended(p) && insns(p) < stop) {
        p->record = piece_end(p->c, insns(p)) >= stop;
        same = run_piece(p);
    }
    return same;
}

// --- looking closer -------------------------------------------------------------------------------------------------------

// Call `look` in a copy of the process. Returns whether it found something; false, too, when there can be no copy or it dies.
static bool probe(struct pair *p, void (*look)(struct pair *p, u64 arg), u64 arg)
{
    int status;
    pid_t pid;

    memset(p->finding, 0, sizeof(*p->finding));
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        look(p, arg);
        fflush(NULL);
        _exit(0);
    }
    if (pid < 0)
        return false;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status) {
        fprintf(p->c->out, "  a closer look ended with status %x\n", (unsigned)status);
        return false;
    }
    return p->finding->found;
}

static void found_at(struct pair *p, u64 at)
{
    p->finding->found = true;
    p->finding->insns = at;
}

static void report(struct pair *p, u64 run)
{
    const struct lockstep_config *c = p->c;
    const struct lockstep_step *last = &p->history.step[(p->history.count - 1) % LOCKSTEP_HISTORY];
    u64 ns = clock_now(&p->a.board->m.clock);

    p->finding->result = (struct lockstep_result){
        .different = true, .narrowed = true, .insns = last->insns + 1, .run = run, .rip = last->rip};
    fprintf(c->out, "\n%s and %s differ behind instruction %llu, at %llu ns of virtual time%s\n", c->engine[0]->name,
            c->engine[1]->name, (unsigned long long)last->insns + 1, (unsigned long long)ns,
            p->depth == DEPTH_ALL ? ", in memory that was not marked as written" : "");
    if (run)
        fprintf(c->out, "only when they run %llu instructions without a stop, of which this is the last\n",
                (unsigned long long)run);
    fprintf(c->out, "\n");
    lockstep_print_history(c->out, &p->history);
    lockstep_print(c->out, c, &p->a, &p->b, &p->before);
}

// Instruction by instruction up to the point where a difference is known to be.
static void look_at_each(struct pair *p, u64 bad)
{
    p->record = true;
    while (!ended(p) && insns(p) < bad) {
        u64 next = insns(p) + 1;
        run_first(p, next);
        side_run(&p->b, next);
        if (!lockstep_same(&p->a, &p->b, p->depth)) {
            found_at(p, insns(p));
            report(p, 0);
            return;
        }
    }
}

// Piece by piece, comparing each time a multiple of `step` is reached.
static void look_at_pieces(struct pair *p, u64 step)
{
    u64 bad = p->bad, checked = insns(p);

    p->record = false;
    while (!ended(p) && insns(p) < bad) {
        u64 end = piece_end(p->c, insns(p));
        side_run(&p->a, end);
        side_run(&p->b, end);
        if (end - checked < step && end < bad && !ended(p))
            continue;
        checked = end;
        if (!lockstep_same(&p->a, &p->b, p->depth)) {
            found_at(p, end);
            return;
        }
    }
}

static void look_at_run(struct pair *p, u64 run)
{
    u64 end = insns(p) + run;

    side_run(&p->a, end);
    side_run(&p->b, end);
    if (!lockstep_same(&p->a, &p->b, p->depth))
        found_at(p, end);
}

static void report_run(struct pair *p, u64 run)
{
    u64 end = insns(p) + run;

    p->record = true;
    run_first(p, end);
    side_run(&p->b, end);
    if (lockstep_same(&p->a, &p->b, p->depth))
        return;
    found_at(p, end);
    report(p, run);
}

// The shortest run from here that goes wrong, `most` being one that does.
static u64 shortest_run(struct pair *p, u64 most)
{
    u64 right = 0;

    while (most - right > 1) {
        u64 run = right + (most - right) / 2;
        if (probe(p, look_at_run, run))
            most = run;
        else
            right = run;
    }
    return most;
}

// The machines are at the last good point and have to differ at p->bad. Go to the beginning of the piece in which that comes about.
static bool narrow(struct pair *p)
{
    u64 every = p->c->every, step;

    while (p->bad - insns(p) > every) {
        step = (p->bad - insns(p)) / 64;
        step = step > every ? step - step % every : every;
        if (!probe(p, look_at_pieces, step))
            return false;
        p->bad = p->finding->insns;
        if (p->bad - insns(p) <= step) {
            if (step == every)
                break;
            continue;
        }
        u64 bad = p->bad; // run_to() sets it when it meets a difference itself
        if (!run_to(p, bad - step))
            return false;
        p->bad = bad;
    }
    return true;
}

// Make the machines anew and find the instruction. The engines may have run into the difference by an accident that does not come again.
static int search(struct pair *p, struct lockstep_result *r, struct error *err)
{
    enum lockstep_depth depth = p->depth == DEPTH_STATE ? DEPTH_MEMORY : p->depth; // it may have been in memory before
    u64 good = p->good[depth], bad = p->bad;
    FILE *out = p->c->out;
    int ret;

    fprintf(out, "\na difference between instructions %llu and %llu; looking for it\n", (unsigned long long)good,
            (unsigned long long)bad);
    lockstep_print(out, p->c, &p->a, &p->b, NULL);
    *r = (struct lockstep_result){.different = true, .insns = bad};
    destroy(p);
    ret = create(p, err);
    if (ret)
        return ret;
    bool again = run_to(p, good);
    p->bad = bad;
    p->depth = depth;
    if (!again || !narrow(p)) {
        fprintf(out, "the second run went another way: an engine does not repeat itself\n");
        return 0;
    }
    if (probe(p, look_at_each, p->bad)) {
        *r = p->finding->result;
        return 0;
    }
    u64 run = p->bad - insns(p);
    if (probe(p, look_at_run, run) && probe(p, report_run, shortest_run(p, run)))
        *r = p->finding->result;
    else
        fprintf(out, "a closer look made the difference go away\n");
    return 0;
}

// --- the run --------------------------------------------------------------------------------------------------------------

static void echo(struct pair *p)
{
    const struct side_stream *t = &p->a.stream[0];

    if (!p->c->echo || p->echoed == t->len)
        return;
    fwrite(t->bytes + p->echoed, 1, t->len - p->echoed, stdout);
    fflush(stdout);
    p->echoed = t->len;
}

// Has the guest written what one waits for?
static bool said(struct pair *p)
{
    const struct side_stream *t = &p->a.stream[0];
    const char *text = p->c->until;
    size_t len = text ? strlen(text) : 0, from = p->searched;

    if (!text || t->len == p->searched)
        return false;
    p->searched = t->len;
    from = from > len ? from - len : 0;
    return memmem(t->bytes + from, t->len - from, text, len);
}

static void dump(struct pair *p)
{
    const struct lockstep_config *c = p->c;

    for (unsigned i = 0; i < c->dumps; i++)
        if (c->dump_at[i] == insns(p))
            report_cpu(c->out, p->a.v);
}

static void tell_progress(struct pair *p)
{
    struct host *h = &p->a.host.host;
    u64 now = h->ops->now_ns(h->self), ns = clock_now(&p->a.board->m.clock);

    if (!p->c->progress || now - p->told_ns < 1000000000)
        return;
    p->told_ns = now;
    if (!p->start_ns)
        p->start_ns = now;
    fprintf(stderr, "lockstep: %llu million instructions, %.3f s of virtual time, %llu s\n",
            (unsigned long long)insns(p) / 1000000, (double)ns / 1e9,
            (unsigned long long)(now - p->start_ns) / 1000000000);
}

static int compare(struct pair *p, struct lockstep_result *r, struct error *err)
{
    bool same = true;

    while (same && !ended(p) && insns(p) < p->c->limit && !said(p)) {
        same = run_piece(p);
        echo(p);
        tell_progress(p);
        if (same)
            dump(p);
    }
    if (same && !lockstep_same(&p->a, &p->b, DEPTH_ALL)) {
        same = false;
        p->bad = insns(p);
        p->depth = DEPTH_ALL;
    }
    if (!same)
        return search(p, r, err);
    *r = (struct lockstep_result){.insns = insns(p), .hash = machine_hash(&p->a.board->m)};
    fprintf(p->c->out, "\n%s and %s are the same for %llu instructions, %.6f s of virtual time, state %016llx (%s)\n",
            p->c->engine[0]->name, p->c->engine[1]->name, (unsigned long long)insns(p),
            (double)clock_now(&p->a.board->m.clock) / 1e9, (unsigned long long)r->hash,
            p->a.ended ? side_end_name(&p->a) : "asked to stop here");
    return 0;
}

int lockstep(const struct lockstep_config *c, struct lockstep_result *r, struct error *err)
{
    struct pair *p = aligned_alloc(64, (sizeof(*p) + 63) & ~(size_t)63); // struct cpu wants it
    int ret;

    if (!p)
        return error_set(err, -ENOMEM, "lockstep: no memory");
    memset(p, 0, sizeof(*p));
    p->c = c;
    p->finding = mmap(NULL, sizeof(*p->finding), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ret = p->finding == MAP_FAILED ? error_set(err, -ENOMEM, "lockstep: no memory") : create(p, err);
    if (!ret)
        ret = compare(p, r, err);
    destroy(p);
    if (p->finding != MAP_FAILED)
        munmap(p->finding, sizeof(*p->finding));
    free(p);
    return ret;
}
