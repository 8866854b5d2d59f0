/*
 * algo_cases.c - what every all-to-all algorithm must do (algo_cases.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/collectives/algo_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/transport/transport.h"
#include "tests/harness/random.h"

#define EACH_WORLD(w) for (const struct world *w = a->worlds; w < a->worlds + a->nworlds && !why[0]; w++)

static const char *run(const struct world *w, world_body body, struct exchange *e)
{
    static char text[2 * WORLD_TEXT];
    const char *why = world_run(w, body, e);
    if (!why[0])
        return "";
    snprintf(text, sizeof text, "%s: %s", exchange_text(e, w), why);
    return text;
}

const char *algo_run(const struct algo_cases *a, const struct world *w, struct exchange e)
{
    e.algo = a->algo;
    return run(w, exchange_body, &e);
}

const char *algo_raw_every_pattern_and_type(const struct algo_cases *a)
{
    static const size_t dims[] = {1, 3, 129, 768};
    const char *why = "";
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum pattern p = 0; p < PATTERNS && !why[0]; p++, n++)
            why = algo_run(a, w, (struct exchange){.pattern = p, .rows = 9, .dim = dims[n % 4], .dtype = XP_BF16 + n % 4, .mode = XP_MODE_RAW});
    return why;
}

const char *algo_exact_keeps_every_bit_of_copies_and_nan(const struct algo_cases *a)
{
    const char *why = "";
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum filling f = 0; f < FILLINGS && !why[0]; f++, n++)
            why = algo_run(a, w, (struct exchange){.pattern = RANDOM_SKEW, .filling = f, .rows = 60, .dim = 64, .dtype = XP_BF16 + n % 4,
                                     .mode = XP_MODE_EXACT, .seed = n});
    return why;
}

const char *algo_bounded_keeps_its_promise(const struct algo_cases *a)
{
    const char *why = "";
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum filling f = 0; f < FILLINGS && !why[0]; f++, n++)
            why = algo_run(a, w, (struct exchange){.pattern = UNIFORM, .filling = f, .rows = 50, .dim = 200, .dtype = XP_BF16 + n % 3,
                                     .mode = XP_MODE_BOUNDED, .eps = 0.03, .codec = n % 2 ? "quant" : NULL, .seed = n});
    return why;
}

const char *algo_random_cases(const struct algo_cases *a)
{
    const char *why = "";
    char name[40];
    snprintf(name, sizeof name, "%s, random_cases", a->algo);
    struct random r = random_start(name);
    for (int i = 0; i < 60 && !why[0]; i++) {
        const struct world *w = &a->worlds[random_below(&r, a->nworlds)];
        xp_mode mode = XP_MODE_RAW + (xp_mode)random_below(&r, 3);
        why = algo_run(a, w, (struct exchange){.pattern = random_below(&r, PATTERNS), .filling = random_below(&r, FILLINGS),
                                 .rows = random_below(&r, 80), .dim = 1 + random_below(&r, 300),
                                 .dtype = XP_BF16 + random_below(&r, mode == XP_MODE_BOUNDED ? 3 : 4), .mode = mode,
                                 .eps = mode == XP_MODE_BOUNDED ? 0.01 + 0.2 * random_unit(&r) : 0, .seed = random_bits(&r),
                                 .calls = 3});
    }
    return why;
}

const char *algo_many_chunks_and_calls(const struct algo_cases *a, const struct world *w)
{
    const char *why = "";
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED && !why[0]; mode++)
        why = algo_run(a, w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 500, .dim = 2048, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .calls = 3});
    return why;
}

/* Two plans, one of each algorithm, on the same rows. */
static void both_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct exchange e = *(const struct exchange *)arg;
    const char *const names[] = {"flat", e.algo};
    int ranks = xp_comm_size(comm);
    size_t out[WORLD_MAX], in[WORLD_MAX], bytes = 0;
    void *send = exchange_send(&e, ranks, rank, 0, out);
    free(exchange_reference(&e, ranks, rank, 0, in));
    for (int i = 0; i < ranks; i++)
        bytes += in[i] * e.dim * xp_dtype_size(e.dtype);
    char *got[2];
    for (int k = 0; k < 2; k++) {
        xp_plan_desc d;
        xp_plan *plan;
        e.algo = names[k];
        exchange_plan(&e, ranks, &d);
        got[k] = calloc(1, bytes + 1);
        if (xp_plan_create(&plan, comm, &d) != XP_OK || xp_alltoallv(plan, send, out, got[k], in, NULL) != XP_OK)
            snprintf(why, WORLD_TEXT, "%s: %.300s", names[k], xp_comm_last_error(comm));
        xp_plan_destroy(plan);
    }
    if (!why[0] && memcmp(got[0], got[1], bytes) != 0)
        snprintf(why, WORLD_TEXT, "flat and %s differ", names[1]);
    free(got[0]);
    free(got[1]);
    free(send);
}

const char *algo_gives_the_bits_of_flat(const struct algo_cases *a)
{
    const char *why = "";
    EACH_WORLD(w) {
        for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_EXACT && !why[0]; mode++) {
            struct exchange e = {.pattern = RANDOM_SKEW, .filling = WITH_NAN, .rows = 70, .dim = 33, .dtype = XP_F32, .mode = mode,
                                 .algo = a->algo};
            why = run(w, both_body, &e);
        }
    }
    return why;
}

int algo_has_ucx(void)
{
    char why_not[200];
    return xp_transport_ucx.available(why_not, sizeof why_not);
}

const char *algo_over_ucx(const struct algo_cases *a, const struct world *w)
{
    const char *why = "";
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED && !why[0]; mode++)
        why = algo_run(a, w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 300, .dim = 1000, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .calls = 4,
                                  .codec = mode == XP_MODE_BOUNDED ? "quant" : NULL});
    return why;
}

struct copies {
    const char *algo;
    int alike_in_node;
    algo_crossings *crossings;
};

static int content(const struct copies *c, const xp_comm *comm, int rank)
{
    return c->alike_in_node ? xp_comm_node_of(comm, rank) : rank;
}

static void copies_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct copies *copies = arg;
    int ranks = xp_comm_size(comm), far = 0;
    enum { ROWS = 20, DIM = 512 };
    size_t counts[WORLD_MAX];
    float *send = malloc((size_t)ranks * ROWS * DIM * 4), *recv = calloc((size_t)ranks * ROWS * DIM, 4);
    for (int i = 0; i < ranks; i++) {
        counts[i] = ROWS;
        far += xp_comm_node_of(comm, i) != xp_comm_node_of(comm, rank);
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < DIM; k++)
                send[((size_t)i * ROWS + (size_t)r) * DIM + (size_t)k] = (float)(content(copies, comm, rank) * 1000 + r) + (float)k / DIM;
    }
    xp_plan_desc d;
    xp_plan *plan;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = (size_t)ranks * ROWS;
    d.mode = XP_MODE_EXACT;
    d.algo = copies->algo;
    xp_stats s = {.size = sizeof s};
    if (xp_plan_create(&plan, comm, &d) != XP_OK || xp_alltoallv(plan, send, counts, recv, counts, NULL) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    for (int i = 0; i < ranks; i++)
        if (recv[((size_t)i * ROWS + 7) * DIM + 5] != (float)(content(copies, comm, i) * 1000 + 7) + 5.0f / DIM)
            snprintf(why, WORLD_TEXT, "row 7 of rank %d is wrong", i);
    xp_plan_stats(plan, &s);
    uint64_t want = ROWS * (uint64_t)copies->crossings(comm, rank);
    if (s.rows_unique != want)
        snprintf(why, WORLD_TEXT, "%llu rows crossed, not %llu", (unsigned long long)s.rows_unique, (unsigned long long)want);
    if (s.wire_bytes_slow < want * DIM * 4 || s.wire_bytes_slow > want * DIM * 4 + (unsigned)far * 120 + 1024)
        snprintf(why, WORLD_TEXT, "%llu bytes crossed", (unsigned long long)s.wire_bytes_slow);
    xp_plan_destroy(plan);
    free(send);
    free(recv);
}

const char *algo_copies_cross(const char *algo, const struct world *w, int alike_in_node, algo_crossings *crossings)
{
    struct copies copies = {algo, alike_in_node, crossings};
    return world_run(w, copies_body, &copies);
}
