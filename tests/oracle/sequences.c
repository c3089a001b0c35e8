// One worker's sequences: made with the interpreter, run in the reference (an engine, or the host's processor) and in the engine that is
// tested: fresh, again and again (an engine may do something else when code is hot), and with stops after every few instructions.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engines.h"
#include "oracle/oracle.h"

#define AGAIN 4 // runs of the same code, after the first
#define BATCH 64

struct worker {
    const struct orc_sequence_run *run;
    struct orc_guest *maker, *against, *engine,
        *uncounted; // the last: the engine again, without a budget; NULL for the interpreter
    struct orc_native *native;
    struct orc_rng rng;
    const struct orc_item *mutant; // self-check: the instruction that the engine leaves out
    struct orc_case mutated;
    struct orc_result want, got; // of the last comparison
};

// --- running ------------------------------------------------------------------------------------------------------------

// Whether the next instruction, as the sequence has made it by then, is one that can be compared.
static bool comparable(struct worker *w, const struct orc_case *c, u64 off)
{
    struct insn in;
    if (isa_decode(orc_guest_arena(w->maker) + off, 15, c->mode, orc_isa_options, &in) != ISA_OK)
        return !w->native; // the host has instructions that the model has not
    return !orc_unwanted(&w->run->o, &in) && !orc_excluded(in.form, c->mode);
}

// Follow the sequence: does it come to an end, do all its instructions qualify, and does it leave its exit alone?
static bool sound(struct worker *w, const struct orc_case *c)
{
    const struct cpu *cpu = orc_guest_cpu(w->maker);
    u64 end = c->in.rip + c->len, base = orc_code_base(c) - ORC_ARENA;
    u8 leave[12];
    orc_guest_begin(w->maker, c);
    const u8 *exit = orc_guest_arena(w->maker) + c->land[0];
    memcpy(leave, exit, sizeof leave);
    for (unsigned i = 0; cpu->rip != end; i++) {
        if (i == ORC_SEQUENCE_STEPS)
            return false;
        if (cpu->rip + base > ORC_ARENA_SIZE - 16)
            break; // it faults
        if (!comparable(w, c, cpu->rip + base))
            return false;
        if (!orc_guest_step(w->maker))
            break;
    }
    return !memcmp(leave, exit, sizeof leave);
}

// What only an engine can be asked: accesses outside of the arena, where the host has something of its own; traps after the end.
static bool fit_for_host(struct worker *w, const struct orc_case *c)
{
    struct orc_result *r = &w->got;
    if (!sound(w, c))
        return false;
    orc_guest_run_sequence(w->maker, c, true, 0, r);
    bool outside = r->vector == X86_EXC_PF && r->cr2 - ORC_ARENA >= ORC_ARENA_SIZE;
    return !r->hang && !outside && r->vector != X86_EXC_DB && !(r->out.rflags & X86_FL_TF);
}

// The host's answer. False: it has none.
static bool ask_host(struct worker *w, const struct orc_case *c)
{
    if (!fit_for_host(w, c))
        return false;
    memcpy(orc_native_case(w->native, 0, 0), c, sizeof *c);
    orc_native_submit(w->native, 0, 0, 1);
    if (orc_native_wait(w->native) >= 0)
        return false;
    memcpy(&w->want, orc_native_result(w->native, 0, 0), sizeof w->want);
    return true;
}

static bool ask_reference(struct worker *w, const struct orc_case *c)
{
    if (w->native)
        return ask_host(w, c);
    orc_guest_run_sequence(w->against, c, true, 0, &w->want);
    return true;
}

static void run_engine(struct worker *w, struct orc_guest *g, const struct orc_case *c, bool fresh, u64 slices)
{
    if (w->mutant) {
        memcpy(&w->mutated, c, sizeof *c);
        memset(w->mutated.code + w->mutant->off, 0x90, w->mutant->len);
        c = &w->mutated;
    }
    orc_guest_run_sequence(g, c, fresh, slices, &w->got);
}

// The last run ended like the reference's.
static bool agrees(const struct worker *w, const struct orc_case *c)
{
    if (orc_differs(c, &w->want, &w->got))
        return false;
    return w->native || (w->want.fcs == w->got.fcs && w->want.fds == w->got.fds);
}

// Something else happens than with the reference, in any of the ways to run it.
static bool differs(void *arg, const struct orc_case *c)
{
    struct worker *w = arg;
    if (!ask_reference(w, c) || w->want.hang)
        return false;
    for (unsigned i = 0; i < 2 + AGAIN; i++) {
        u64 slices = i == 1 + AGAIN ? orc_mix(c->seed) | 1 : 0;
        run_engine(w, w->engine, c, i == 0, slices);
        if (!agrees(w, c))
            return true;
    }
    for (unsigned i = 0; w->uncounted && i < 1 + AGAIN; i++) {
        run_engine(w, w->uncounted, c, i == 0, 0);
        if (!agrees(w, c))
            return true;
    }
    return false;
}

// The host's answer counts when it is the same several times, and is about what both sides have. See really_differs in main.c.
static bool surely_differs(void *arg, const struct orc_case *c)
{
    struct worker *w = arg;
    if (!sound(w, c))
        return false;
    for (unsigned i = 0; i < (w->native ? 3u : 1u); i++)
        if (!differs(w, c))
            return false;
    return !(w->native && w->got.vector == X86_EXC_PF && orc_native_maps(w->native, w->got.cr2));
}

static void report(struct worker *w, struct orc_sequence *q)
{
    if (atomic_fetch_add(w->run->reports, 1) >= w->run->max_reports)
        return;
    orc_minimise(q, surely_differs, w);
    for (unsigned i = 0; i < 3 && !differs(w, &q->c); i++)
        ;
    orc_sequence_report(q, &w->want, &w->got);
    fflush(stdout);
}

// Self-check: leave an instruction out on one side. Not every one matters: counts of those that were noticed are the result. What
// is noticed must still be when everything else is gone that can be.
static void check_self(struct worker *w, struct orc_sequence *q)
{
    struct orc_item left_out = q->item[orc_below(&w->rng, q->items)];
    w->mutant = &left_out;
    bool found = differs(w, &q->c);
    if (found && orc_chance(&w->rng, 5)) {
        orc_minimise(q, differs, w);
        found = differs(w, &q->c);
    }
    w->mutant = NULL;
    atomic_fetch_add(found ? w->run->passed : w->run->failed, 1);
}

static void check_one(struct worker *w, u64 seed)
{
    static struct orc_sequence q;
    const struct orc_sequence_run *run = w->run;
    orc_sequence_generate(w->maker, &run->o, seed, &q);
    if (w->native && !fit_for_host(w, &q.c)) {
        atomic_fetch_add(run->endless, 1);
        return;
    }
    if (run->selfcheck) {
        check_self(w, &q);
        return;
    }
    atomic_fetch_add(run->instructions, q.items);
    bool bad = differs(w, &q.c);
    atomic_fetch_add(run->endless, w->want.hang == 4);
    atomic_fetch_add(run->faulted, w->want.vector != ORC_NO_VECTOR && !w->want.hang);
    if (bad && surely_differs(w, &q.c)) {
        atomic_fetch_add(run->failed, 1);
        report(w, &q);
        return;
    }
    atomic_fetch_add(run->passed, 1);
}

static struct orc_guest *guest(const char *engine)
{
    const char *why = "not built in";
    const struct engine_ops *ops = engine_find(engine);
    struct orc_guest *g = ops ? orc_guest_create(ops, &why) : NULL;
    if (!g)
        fprintf(stderr, "oracle: engine %s: %s\n", engine, why);
    return g;
}

int orc_sequences(const struct orc_sequence_run *run)
{
    static struct worker w;
    w.run = run;
    w.rng.s = run->seed + run->job;
    if (!strcmp(run->against, "host"))
        w.native = orc_native_start(BATCH);
    else
        w.against = guest(run->against);
    w.maker = guest("interp");
    w.engine = guest(run->engine);
    if (strcmp(run->engine, "interp") != 0 && (w.uncounted = guest(run->engine)))
        orc_guest_uncounted(w.uncounted);
    if (!w.maker || !w.engine || (!w.native && !w.against))
        return 2;
    for (u64 i = run->job; i < run->count; i += run->jobs)
        check_one(&w, run->seed + i);
    orc_guest_destroy(w.maker);
    orc_guest_destroy(w.engine);
    if (w.uncounted)
        orc_guest_destroy(w.uncounted);
    if (w.against)
        orc_guest_destroy(w.against);
    if (w.native)
        orc_native_stop(w.native);
    return 0;
}
