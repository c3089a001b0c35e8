// Options, worker processes, totals.
//
// Each worker has its own native child and its own engine. It fills one buffer of cases while the child runs the other, then
// runs the engine over the finished one and compares. Workers add to counters in shared memory.
#include <errno.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/engines.h"
#include "oracle/oracle.h"

#define BATCH 256
#define MAX_JOBS 64

struct options {
    u64 seed, cases, per_form, tune;
    const char *form;
    int mode; // enum isa_mode, or -1
    const char *engine;
    unsigned jobs, max_reports;
    bool selfcheck, counts, undef, list;
    bool sequence, modify;
    unsigned length;
    const char *against;
};

struct totals {
    _Atomic u64 passed, failed, undef, faults, reports, crashes, endless, instructions;
    _Atomic u32 form_cases[ISA_FORM_COUNT], form_failed[ISA_FORM_COUNT], form_undef[ISA_FORM_COUNT];
    _Atomic u32 found[ORC_MAX_MUTANTS]; // mutants: cases that told on them
};

// A stretch of cases of one form and mode: `count` seeds from ORC_SEED(form, mode1, first).
struct plan {
    u16 form;
    u8 mode1;
    u64 first, count;
};

static struct options opt = {.seed = 1,
                             .cases = 100000,
                             .mode = -1,
                             .engine = "interp",
                             .jobs = 1,
                             .max_reports = 10,
                             .modify = true,
                             .length = 32,
                             .against = "interp"};
static struct totals *tot;
static struct plan *plans;
static unsigned plan_count;

static void add_plan(unsigned form, unsigned mode1, u64 first, u64 count)
{
    plans[plan_count++] = (struct plan){(u16)form, (u8)mode1, first, count};
}

static bool form_wanted(unsigned form)
{
    if (!opt.form)
        return true;
    const char *op = isa_op_names[isa_forms[form].op];
    size_t n = strlen(opt.form);
    return !strcasecmp(isa_forms[form].name, opt.form) || !strcasecmp(op, opt.form) ||
           (n && opt.form[n - 1] == '*' && !strncasecmp(op, opt.form, n - 1)) ||
           (n && opt.form[n - 1] == '*' && !strncasecmp(isa_forms[form].name, opt.form, n - 1));
}

// Forms one by one (--form, --per-form), or whatever the seed says.
static int make_plans(void)
{
    plans = calloc(ISA_FORM_COUNT * ISA_MODE_COUNT + 1, sizeof *plans);
    if (!plans)
        return -ENOMEM;
    if (!opt.form && !opt.per_form) {
        unsigned mode1 = opt.mode >= 0 ? (unsigned)opt.mode + 1 : opt.seed >> 46 & 3;
        add_plan((unsigned)(opt.seed >> 48), mode1, opt.seed, opt.cases);
        return 0;
    }
    unsigned chosen = 0, modes;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned f = 1; f < ISA_FORM_COUNT; f++) {
            if (!form_wanted(f))
                continue;
            modes = 0;
            for (unsigned m = 0; m < ISA_MODE_COUNT; m++)
                if ((opt.mode < 0 || opt.mode == (int)m) && orc_encodable(f, m) && !orc_excluded(f, m))
                    modes |= 1u << m;
            unsigned count = (unsigned)__builtin_popcount(modes);
            u64 n = opt.per_form ? opt.per_form : opt.cases / (chosen ? chosen : 1) + 1;
            if (!pass)
                chosen += count > 0;
            for (unsigned m = 0; pass && m < ISA_MODE_COUNT; m++)
                if (modes >> m & 1)
                    add_plan(f, m + 1, opt.seed, (n + count - 1) / count);
        }
    if (chosen)
        return 0;
    fprintf(stderr, "oracle: --form %s: no such form or operation in this mode\n", opt.form);
    return -EINVAL;
}

// --- one worker ---------------------------------------------------------------------------------------------------------

struct cursor {
    unsigned plan;
    u64 at;
};

static unsigned fill(struct orc_native *n, unsigned buffer, struct cursor *k, unsigned job)
{
    unsigned count = 0;
    while (count < BATCH && k->plan < plan_count) {
        const struct plan *p = &plans[k->plan];
        if (k->at >= p->count) {
            k->plan++;
            k->at = 0;
            continue;
        }
        u64 i = k->at++;
        if (i % opt.jobs != job)
            continue;
        orc_generate(ORC_SEED(p->form, p->mode1, p->first + i), orc_native_case(n, buffer, count++));
    }
    return count;
}

static void report(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    if (atomic_fetch_add(&tot->reports, 1) >= opt.max_reports)
        return;
    orc_report(c, want, got);
    fflush(stdout);
}

static void try_mutants(const struct orc_case *c, const struct orc_result *want, const struct orc_result *got)
{
    static struct orc_result m;
    for (unsigned i = 0; i < orc_mutant_count; i++) {
        if (tot->found[i] >= 100)
            continue;
        memcpy(&m, got, offsetof(struct orc_result, bytes));
        memcpy(m.bytes, got->bytes, got->nlines * ORC_LINE);
        orc_mutants[i].apply(c, &m);
        if (orc_differs(c, want, &m))
            tot->found[i]++;
    }
}

struct worker {
    struct orc_native *n;
    struct orc_guest *g, *uncounted; // every other case runs without a budget where it can
    bool running;                    // a batch is with the native child
    unsigned submitted;
};

static void submit(struct worker *w, unsigned buffer, unsigned first, unsigned count)
{
    orc_native_submit(w->n, buffer, first, count);
    w->running = true;
    w->submitted = first + count;
}

// Wait for the submitted cases; when one of them kills the child, go on behind it.
static void finish(struct worker *w)
{
    while (w->running) {
        int bad = orc_native_wait(w->n);
        if (bad < 0)
            break;
        tot->crashes++;
        orc_native_resubmit(w->n, (unsigned)bad + 1, w->submitted - (unsigned)bad - 1);
    }
    w->running = false;
}

// A difference counts when the host gives the same answer again: on some processors a context switch in mid-case costs the x87
// pointers, and once in a million far calls into 64-bit code that fault, one does not come back.
static bool really_differs(struct worker *w, unsigned buffer, unsigned i, const struct orc_result *got)
{
    const struct orc_case *c = orc_native_case(w->n, buffer, i);
    struct orc_result *want = orc_native_result(w->n, buffer, i);
    for (unsigned tries = 0; tries < 2; tries++) {
        if (!orc_differs(c, want, got))
            return false;
        if (want->hang && tries)
            return true;
        finish(w);
        submit(w, buffer, i, 1);
        finish(w);
    }
    // The engine's guest lacks what else is mapped in the native child: libraries, stack, the sanitizer's shadow.
    return orc_differs(c, want, got) && !(got->vector == X86_EXC_PF && orc_native_maps(w->n, got->cr2));
}

static void check_one(struct worker *w, unsigned buffer, unsigned i)
{
    static struct orc_result got;
    const struct orc_case *c = orc_native_case(w->n, buffer, i);
    const struct orc_result *want = orc_native_result(w->n, buffer, i);
    bool jumps = c->valid && orc_jumps(&c->insn); // these are stepped
    orc_guest_run(w->uncounted && (i & 1) && !jumps ? w->uncounted : w->g, c, &got);
    unsigned form = c->valid ? c->insn.form : c->form;
    tot->form_cases[form]++;
    tot->faults += want->vector != ORC_NO_VECTOR;
    if (really_differs(w, buffer, i, &got)) {
        tot->failed++;
        tot->form_failed[form]++;
        report(c, want, &got);
        return;
    }
    tot->passed++;
    if (orc_undef_differs(c, want, &got)) {
        tot->undef++;
        tot->form_undef[form]++;
        if (opt.undef)
            report(c, want, &got);
    }
    if (opt.selfcheck)
        try_mutants(c, want, &got);
}

static int worker(unsigned job)
{
    const char *why = "";
    struct worker w = {.n = orc_native_start(BATCH)};
    if (!w.n)
        return 2;
    w.g = orc_guest_create(engine_find(opt.engine), &why);
    if (!w.g) {
        fprintf(stderr, "oracle: engine %s: %s\n", opt.engine, why);
        return 2;
    }
    if (strcmp(opt.engine, "interp") != 0 && (w.uncounted = orc_guest_create(engine_find(opt.engine), &why)))
        orc_guest_uncounted(w.uncounted);
    struct cursor k = {0, 0};
    unsigned b = 0, count[2];
    count[b] = fill(w.n, b, &k, job);
    if (count[b])
        submit(&w, b, 0, count[b]);
    for (; count[b]; b = !b) {
        count[!b] = fill(w.n, !b, &k, job);
        finish(&w);
        if (count[!b])
            submit(&w, !b, 0, count[!b]);
        for (unsigned i = 0; i < count[b]; i++)
            check_one(&w, b, i);
    }
    finish(&w);
    orc_guest_destroy(w.g);
    if (w.uncounted)
        orc_guest_destroy(w.uncounted);
    orc_native_stop(w.n);
    return 0;
}

static int sequence_worker(unsigned job)
{
    struct orc_sequence_run run = {.o = {opt.length, !strcmp(opt.against, "host"), opt.modify},
                                   .seed = opt.seed,
                                   .count = opt.cases,
                                   .engine = opt.engine,
                                   .against = opt.against,
                                   .job = job,
                                   .jobs = opt.jobs,
                                   .max_reports = opt.max_reports,
                                   .selfcheck = opt.selfcheck,
                                   .passed = &tot->passed,
                                   .failed = &tot->failed,
                                   .faulted = &tot->faults,
                                   .endless = &tot->endless,
                                   .reports = &tot->reports,
                                   .instructions = &tot->instructions};
    return orc_sequences(&run);
}

// --- the whole ------------------------------------------------------------------------------------------------------------

static int run_workers(void)
{
    pid_t pid[MAX_JOBS];
    fflush(stdout);
    for (unsigned j = 0; j < opt.jobs; j++) {
        pid[j] = fork();
        if (pid[j] == 0) {
            int rc = opt.sequence ? sequence_worker(j) : worker(j);
            fflush(stdout);
            _exit(rc);
        }
        if (pid[j] < 0) {
            perror("oracle: fork");
            return 2;
        }
    }
    int worst = 0;
    for (unsigned j = 0; j < opt.jobs; j++) {
        int st;
        waitpid(pid[j], &st, 0);
        if (st) {
            fprintf(stderr, "oracle: worker %u ended with status %x\n", j, st);
            worst = 2;
        }
    }
    return worst;
}

static void print_counts(void)
{
    for (unsigned f = 1; f < ISA_FORM_COUNT; f++) {
        if (!(opt.counts && tot->form_cases[f]) && !tot->form_failed[f] && !(opt.undef && tot->form_undef[f]))
            continue;
        printf("  %-40s %8u cases %8u failed %8u with other undefined flags\n", isa_forms[f].name, tot->form_cases[f],
               tot->form_failed[f], tot->form_undef[f]);
    }
}

static int selfcheck_result(void)
{
    unsigned found = 0;
    for (unsigned i = 0; i < orc_mutant_count; i++) {
        found += tot->found[i] > 0;
        if (opt.counts || !tot->found[i])
            printf("  %-40s %s\n", orc_mutants[i].name,
                   !tot->found[i]        ? "NOT FOUND"
                   : tot->found[i] < 100 ? "rare"
                                         : "found");
    }
    // Two may hide in one run.
    bool ok = found + 2 >= orc_mutant_count;
    printf("%u of %u wrong behaviours found\n", found, orc_mutant_count);
    printf("%u passed, %u failed\n", found, ok ? 0 : orc_mutant_count - found);
    return ok ? 0 : 1;
}

static const char usage[] =
    "usage: oracle [options]\n"
    "  --seed S      first seed; with --cases 1 reproduces one case (1)\n"
    "  --cases N     how many cases (100000)\n"
    "  --form NAME   only this form or operation; a trailing * matches operations\n"
    "  --per-form N  N cases of every form\n"
    "  --mode M      64, 32 or 16 only\n"
    "  --engine E    engine to check (interp)\n"
    "  --jobs J      worker processes (1)\n"
    "  --reports R   how many differences to print (10)\n"
    "  --counts      cases per form\n"
    "  --undef       also print differences in undefined flags\n"
    "  --list        what is not compared, and why\n"
    "  --selfcheck   check that wrong behaviours are found\n"
    "  --sequence    cases of many instructions, with branches, loops and changes to themselves\n"
    "  --against E   sequences: the engine, or \"host\", that is right (interp)\n"
    "  --length N    sequences: at most this many instructions drawn (32)\n"
    "  --tune N      engines with other block lengths, less memory, without some optimisations: a number draws them (0: no)\n"
    "  --no-modify   sequences: without changes to themselves\n";

static u64 number(const char *text, const char *option)
{
    char *end;
    errno = 0;
    u64 v = strtoull(text, &end, 0);
    if (errno || *end || end == text) {
        fprintf(stderr, "oracle: --%s %s: not a number\n", option, text);
        exit(1);
    }
    return v;
}

enum {
    O_SEED = 256,
    O_CASES,
    O_FORM,
    O_PER_FORM,
    O_MODE,
    O_ENGINE,
    O_JOBS,
    O_REPORTS,
    O_COUNTS,
    O_UNDEF,
    O_LIST,
    O_SELF,
    O_SEQUENCE,
    O_AGAINST,
    O_LENGTH,
    O_NO_MODIFY,
    O_TUNE
};

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seed", 1, 0, O_SEED},           {"cases", 1, 0, O_CASES},     {"form", 1, 0, O_FORM},
        {"per-form", 1, 0, O_PER_FORM},   {"mode", 1, 0, O_MODE},       {"engine", 1, 0, O_ENGINE},
        {"jobs", 1, 0, O_JOBS},           {"reports", 1, 0, O_REPORTS}, {"counts", 0, 0, O_COUNTS},
        {"undef", 0, 0, O_UNDEF},         {"list", 0, 0, O_LIST},       {"selfcheck", 0, 0, O_SELF},
        {"sequence", 0, 0, O_SEQUENCE},   {"against", 1, 0, O_AGAINST}, {"length", 1, 0, O_LENGTH},
        {"no-modify", 0, 0, O_NO_MODIFY}, {"tune", 1, 0, O_TUNE},       {0, 0, 0, 0},
    };
    int o, m;
    while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (o) {
        case O_SEED: opt.seed = number(optarg, "seed"); break;
        case O_CASES: opt.cases = number(optarg, "cases"); break;
        case O_FORM: opt.form = optarg; break;
        case O_PER_FORM: opt.per_form = number(optarg, "per-form"); break;
        case O_MODE:
            m = atoi(optarg);
            opt.mode = m == 16 ? ISA_MODE_16 : m == 32 ? ISA_MODE_32 : ISA_MODE_64;
            break;
        case O_ENGINE: opt.engine = optarg; break;
        case O_JOBS: opt.jobs = (unsigned)number(optarg, "jobs"); break;
        case O_REPORTS: opt.max_reports = (unsigned)number(optarg, "reports"); break;
        case O_COUNTS: opt.counts = true; break;
        case O_UNDEF: opt.undef = true; break;
        case O_LIST: opt.list = true; break;
        case O_SELF: opt.selfcheck = true; break;
        case O_SEQUENCE: opt.sequence = true; break;
        case O_AGAINST: opt.against = optarg; break;
        case O_LENGTH: opt.length = (unsigned)number(optarg, "length"); break;
        case O_NO_MODIFY: opt.modify = false; break;
        case O_TUNE: opt.tune = number(optarg, "tune"); break;
        default: fputs(usage, stderr); exit(1);
        }
    }
    bool reference = !strcmp(opt.against, "host") || engine_find(opt.against);
    if (opt.jobs < 1 || opt.jobs > MAX_JOBS || !engine_find(opt.engine) || !reference || opt.length < 2 ||
        opt.length > 100) {
        fprintf(stderr, "oracle: --jobs must be 1..%d, --length 2..100, --engine and --against one that is built in\n",
                MAX_JOBS);
        exit(1);
    }
}

static void list_exclusions(void)
{
    unsigned compared = 0;
    for (unsigned f = 1; f < ISA_FORM_COUNT; f++) {
        bool any = false;
        for (unsigned m = 0; m < ISA_MODE_COUNT; m++)
            any |= orc_encodable(f, m);
        const char *why = orc_excluded(f, ISA_MODE_64);
        if (!any)
            why = "no encoding found";
        if (why)
            printf("%-40s %s\n", isa_forms[f].name, why);
        else
            compared++;
    }
    printf("%u forms compared\n", compared);
}

// What the harness needs of the host beyond what the program needs. NULL when all is there.
static const char *missing(void)
{
    if (!__builtin_cpu_supports("avx"))
        return "the processor has no AVX";
    if (!(getauxval(AT_HWCAP2) & 2))
        return "the kernel does not let user code use FSGSBASE";
    u8 ldt[8];
    if (syscall(SYS_modify_ldt, 0, ldt, sizeof ldt) < 0)
        return "the kernel has no modify_ldt";
    return NULL;
}

static int sequence_result(int rc, double s)
{
    u64 all = tot->passed + tot->failed;
    printf(
        "seed %lu engine %s against %s: %lu sequences, %.0f a second, %.1f instructions each, %lu faulted, %lu not compared\n",
        opt.seed, opt.engine, opt.against, all, (double)all / s, all ? (double)tot->instructions / (double)all : 0,
        tot->faults, tot->endless);
    if (rc)
        printf("a worker died\n");
    if (opt.selfcheck && !rc) {
        bool ok = tot->passed >= all / 2;
        printf("one instruction left out: noticed in %lu of %lu\n%u passed, %u failed\n", tot->passed, all, ok, !ok);
        return ok ? 0 : 1;
    }
    printf("%lu passed, %lu failed\n", tot->passed, tot->failed + (rc != 0));
    return rc || tot->failed ? 1 : 0;
}

static int run_engine(void)
{
    if (make_plans())
        return 1;
    orc_guest_tune(opt.tune);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    int rc = run_workers();
    clock_gettime(CLOCK_MONOTONIC, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    print_counts();
    u64 all = tot->passed + tot->failed;
    if (opt.sequence)
        return sequence_result(rc, s);
    printf(
        "seed %lu engine %s: %lu cases, %.0f a second, %lu faulted, %lu with other undefined flags, %lu killed the native "
        "child\n",
        opt.seed, opt.engine, all, (double)all / s, tot->faults, tot->undef, tot->crashes);
    if (rc)
        printf("a worker died\n");
    else if (opt.selfcheck)
        return selfcheck_result();
    printf("%lu passed, %lu failed\n", tot->passed, tot->failed + (rc != 0));
    return rc || tot->failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    const char *what = opt.sequence && strcmp(opt.against, "host") ? NULL : missing();
    if (what) {
        printf("skipped: %s\n", what);
        return 77;
    }
    if (opt.sequence)
        orc_arena_for_sequences();
    orc_values_init();
    orc_encode_init();
    orc_gen_init();
    if (opt.list) {
        list_exclusions();
        return 0;
    }
    tot = mmap(NULL, sizeof *tot, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tot == MAP_FAILED)
        return 1;
    return run_engine();
}
