/*
 * check.c - compares every variant of every kernel with its C version, and times them
 *
 *     checkkernels [--seed N] [--isa c|avx2|avx512|avx512bf16] [--kernel NAME] [--bench [SECONDS]]
 *
 * Prints TAP. Fails when a comparison fails, when a variant was never compared, and when a kernel has no row here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct check_row *const groups[] = {check_hash_rows, check_rans_rows, check_uniform_rows, check_typed_rows, check_fold_rows, check_quant_rows};
#define GROUPS (sizeof(groups) / sizeof(groups[0]))

static const size_t first_slot = offsetof(struct xp_kernels, energy);
typedef void (*any_fn)(void);

struct options {
    uint64_t seed;
    int only_isa; /* -1: all; -2: one that this CPU lacks */
    const char *kernel;
    int bench;
    double seconds;
};

static char current[64]; /* for the signal handler */

static void on_fault(int sig)
{
    static const char head[] = "Bail out! memory fault in ";

    if (write(1, head, sizeof(head) - 1) < 0 || write(1, current, strlen(current)) < 0 || write(1, "\n", 1) < 0)
        _exit(2);
    _exit(1);
}

static any_fn entry(const struct xp_kernels *k, size_t slot)
{
    any_fn f;

    memcpy(&f, (const char *)k + slot, sizeof(f));
    return f;
}

/* Does this table bring a function of its own for the slot? */
static int is_variant(const struct xp_kernels *tables, int isa, size_t slot)
{
    const any_fn f = entry(&tables[isa], slot);

    return f && (isa == XP_ISA_C || f != entry(&tables[isa - 1], slot));
}

static const struct check_row *row_of(size_t slot)
{
    for (size_t g = 0; g < GROUPS; g++)
        for (const struct check_row *r = groups[g]; r->name; r++)
            if (r->slot == slot)
                return r;
    return NULL;
}

static void begin(struct check *c, const struct options *o, const struct check_row *row, int isa)
{
    *c = (struct check){.seed = o->seed, .state = o->seed, .kernel = row->name, .isa = xp_isa_name(isa), .seconds = o->seconds};
    snprintf(current, sizeof(current), "%s %s, seed %llu", c->kernel, c->isa, (unsigned long long)o->seed);
}

static int compare_one(const struct options *o, const struct xp_kernels *tables, const struct check_row *row, int isa,
                       int number)
{
    struct check c;
    int ok;

    begin(&c, o, row, isa);
    row->compare(&c, &tables[XP_ISA_C], &tables[isa]);
    ok = c.compared > 0 && c.failed == 0;
    printf("%sok %d - %s %s: %zu comparisons, %zu differ\n", ok ? "" : "not ", number, c.kernel, c.isa, c.compared, c.failed);
    fflush(stdout);
    return ok;
}

static void bench_one(const struct options *o, const struct xp_kernels *tables, const struct check_row *row, int isa)
{
    struct check c;

    begin(&c, o, row, isa);
    row->bench(&c, &tables[isa]);
}

/* Walks all kernels and all their variants; returns the number of failures. */
static int walk(const struct options *o, const struct xp_kernels *tables, int top)
{
    int number = 0, failures = 0;

    for (size_t slot = first_slot; slot < sizeof(struct xp_kernels); slot += sizeof(any_fn)) {
        const struct check_row *row = row_of(slot);

        if (!entry(&tables[XP_ISA_C], slot))
            continue;
        if (!row) {
            printf("not ok %d - the kernel in slot %zu has no row in checkkernels\n", ++number,
                   (slot - first_slot) / sizeof(any_fn));
            failures++;
            continue;
        }
        if (o->kernel && strcmp(o->kernel, row->name))
            continue;
        for (int isa = XP_ISA_C; isa <= top; isa++) {
            if (!is_variant(tables, isa, slot) || (o->only_isa >= 0 && o->only_isa != isa))
                continue;
            if (o->bench)
                bench_one(o, tables, row, isa);
            else
                failures += !compare_one(o, tables, row, isa, ++number);
        }
    }
    if (!o->bench) {
        printf("%sok %d - something was compared\n", number > 0 ? "" : "not ", number + 1);
        failures += number == 0;
        printf("1..%d\n", number + 1);
    }
    return failures;
}

static int usage(const char *why, const char *text)
{
    fprintf(stderr, "checkkernels: %s%s\nusage: checkkernels [--seed N] [--isa c|avx2|avx512|avx512bf16] [--kernel NAME] [--bench [SECONDS]]\n",
            why, text);
    return 2;
}

static int parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (!strcmp(argv[i], "--bench")) {
            o->bench = 1;
            if (value && value[0] != '-')
                o->seconds = atof(argv[++i]);
        } else if (!value) {
            return usage("unknown option or no value: ", argv[i]);
        } else if (!strcmp(argv[i], "--seed")) {
            o->seed = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(argv[i], "--kernel")) {
            o->kernel = argv[++i];
        } else if (!strcmp(argv[i], "--isa")) {
            if ((o->only_isa = xp_isa_parse(argv[++i])) == -1)
                return usage("unknown isa: ", argv[i]);
        } else {
            return usage("unknown option: ", argv[i]);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32, .only_isa = -1, .seconds = 0.5};
    struct xp_kernels tables[XP_ISA_BEST + 1];
    const int top = xp_cpu_isa();

    if (parse(&o, argc, argv))
        return 2;
    if (o.only_isa == -2) {
        printf("1..0 # SKIP this CPU lacks it\n");
        return 0;
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    printf("# checkkernels --seed %llu, cpu %s\n", (unsigned long long)o.seed, xp_isa_name(top));
    for (int isa = XP_ISA_C; isa <= top; isa++)
        xp_kernels_init(&tables[isa], isa);
    return walk(&o, tables, top) ? 1 : 0;
}
