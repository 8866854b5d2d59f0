/*
 * exchange.c - rows, counts, the plain reference, and the body that most tests run (world.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/values.h"
#include "tests/harness/world.h"

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

size_t pattern_rows(enum pattern p, int ranks, int from, int to, size_t rows, uint64_t seed)
{
    switch (p) {
    case UNIFORM: return rows;
    case ALL_ZERO: return 0;
    case DIAGONAL: return from == to ? rows : 0;
    case HOT_PEER: return to == ranks / 2 ? 4 * rows : (size_t)(from % 2);
    case RANDOM_SKEW: {
        uint64_t h = mix(seed ^ mix((uint64_t)from << 8 | (uint64_t)to));
        return h % 4 == 0 ? 0 : h % 4 == 1 ? (h >> 8) % 3 : (h >> 8) % (2 * rows + 1);
    }
    case ONE_PAIR: return from == ranks - 1 && to == 0 ? rows : 0;
    case EMPTY_RANK: return from == 0 || to == ranks - 1 ? 0 : rows + (size_t)to;
    case PATTERNS: break;
    }
    return 0;
}

/* ---- values ---------------------------------------------------------------------------------------------------------- */

/* Which content row r from one rank to another has: rows with the same number are equal. */
static uint64_t content(const struct exchange *e, int from, int to, size_t r, int call)
{
    uint64_t own = mix(mix(e->seed + (uint64_t)call) ^ (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ r);
    if (e->filling == COPIES)
        return mix(e->seed + (uint64_t)call) ^ (uint64_t)from << 40 ^ own % 5; /* equal rows also for different ranks */
    if (e->filling == SOME_COPIES && own % 3 == 0)
        return mix(e->seed) ^ own % 11;
    return own;
}

/* A NaN with a payload of its own, of any float type. */
static void put_nan(void *row, xp_dtype t, size_t i, uint64_t payload)
{
    size_t size = xp_dtype_size(t);
    memset((char *)row + size * i, 0xff, size);
    ((uint8_t *)row)[size * i] = (uint8_t)(0x80 | payload);
}

static void fill_row(const struct exchange *e, void *row, uint64_t number)
{
    int poison = e->filling == WITH_NAN && number % 4 == 0;
    for (size_t i = 0; i < e->dim; i++) {
        uint64_t h = mix(number + i * 0x632be59bd9b4e019u);
        if (e->dtype == XP_BYTE)
            ((uint8_t *)row)[i] = (uint8_t)(h >> 20);
        else if (poison && h % 3 == 0 && h & 8)
            put_nan(row, e->dtype, i, h >> 30);
        else if (poison && h % 3 == 0)
            value_put(row, e->dtype, i, h & 16 ? INFINITY : -INFINITY);
        else
            value_put(row, e->dtype, i, (double)(h >> 40) / (1 << 23) - 1); /* -1 .. 1 */
    }
}

void *exchange_send(const struct exchange *e, int ranks, int rank, int call, size_t *rows)
{
    size_t row_bytes = e->dim * xp_dtype_size(e->dtype), total = 0;
    for (int to = 0; to < ranks; to++)
        total += rows[to] = pattern_rows(e->pattern, ranks, rank, to, e->rows, e->seed + (uint64_t)call);
    char *buf = malloc(total * row_bytes + 1), *at = buf;
    for (int to = 0; to < ranks; to++)
        for (size_t r = 0; r < rows[to]; r++, at += row_bytes)
            fill_row(e, at, content(e, rank, to, r, call));
    return buf;
}

void *exchange_reference(const struct exchange *e, int ranks, int rank, int call, size_t *rows)
{
    size_t row_bytes = e->dim * xp_dtype_size(e->dtype), total = 0, sent[WORLD_MAX];
    for (int from = 0; from < ranks; from++)
        total += rows[from] = pattern_rows(e->pattern, ranks, from, rank, e->rows, e->seed + (uint64_t)call);
    char *buf = malloc(total * row_bytes + 1), *at = buf;
    for (int from = 0; from < ranks; from++) {
        char *theirs = exchange_send(e, ranks, from, call, sent), *mine = theirs;
        for (int to = 0; to < rank; to++)
            mine += sent[to] * row_bytes;
        memcpy(at, mine, sent[rank] * row_bytes);
        at += sent[rank] * row_bytes;
        free(theirs);
    }
    return buf;
}

size_t exchange_most_rows(const struct exchange *e, int ranks)
{
    size_t most = 0;
    for (int call = 0; call < (e->calls ? e->calls : 1); call++) {
        for (int a = 0; a < ranks; a++) {
            size_t out = 0, in = 0;
            for (int b = 0; b < ranks; b++) {
                out += pattern_rows(e->pattern, ranks, a, b, e->rows, e->seed + (uint64_t)call);
                in += pattern_rows(e->pattern, ranks, b, a, e->rows, e->seed + (uint64_t)call);
            }
            most = out > most ? out : most;
            most = in > most ? in : most;
        }
    }
    return most;
}

/* ---- comparison -------------------------------------------------------------------------------------------------------- */

void exchange_compare(const struct exchange *e, const void *got, const void *want, size_t rows, char *why)
{
    size_t row_bytes = e->dim * xp_dtype_size(e->dtype);
    double eps = e->mode == XP_MODE_BOUNDED ? e->eps : 0;
    for (size_t r = 0; r < rows; r++) {
        const char *g = (const char *)got + r * row_bytes, *w = (const char *)want + r * row_bytes;
        if (memcmp(g, w, row_bytes) == 0)
            continue;
        double off = NAN, norm = NAN;
        if (eps > 0) {
            off = value_distance(g, w, e->dtype, e->dim);
            norm = value_norm(w, e->dtype, e->dim);
        }
        if (off <= eps * norm * (1 + 1e-6))
            continue;
        snprintf(why, WORLD_TEXT, "row %zu of %zu differs: |x' - x| = %g, |x| = %g, eps %g", r, rows, sqrt(off), sqrt(norm), eps);
        return;
    }
}

const char *exchange_text(const struct exchange *e, const struct world *w)
{
    static _Thread_local char text[300];
    size_t len = 0;
    len += (size_t)snprintf(text, sizeof text, "nodes");
    for (int k = 0; w->nodes[k]; k++)
        len += (size_t)snprintf(text + len, sizeof text - len, " %d", w->nodes[k]);
    snprintf(text + len, sizeof text - len, "%s pattern %d filling %d rows %zu dim %zu dtype %d mode %d algo %s codec %s seed %llu",
             w->interleaved ? " interleaved" : "", e->pattern, e->filling, e->rows, e->dim, e->dtype, e->mode,
             e->algo ? e->algo : "auto", e->codec ? e->codec : "auto", (unsigned long long)e->seed);
    return text;
}

/* ---- the body ------------------------------------------------------------------------------------------------------------ */

void exchange_plan(const struct exchange *e, int ranks, xp_plan_desc *d)
{
    xp_plan_desc_init(d);
    d->dtype = e->dtype;
    d->dim = e->dim;
    d->max_send_rows = d->max_recv_rows = exchange_most_rows(e, ranks);
    d->mode = e->mode;
    d->eps = e->eps;
    d->algo = e->algo;
    d->codec = e->codec;
    d->dither = e->dither;
}

#define GUARD 64

static void one_call(const struct exchange *e, xp_comm *comm, xp_plan *plan, int rank, int call, char *why)
{
    int ranks = xp_comm_size(comm);
    size_t row_bytes = e->dim * xp_dtype_size(e->dtype), out[WORLD_MAX], in[WORLD_MAX], total = 0;
    void *send = exchange_send(e, ranks, rank, call, out), *want = exchange_reference(e, ranks, rank, call, in);
    for (int i = 0; i < ranks; i++)
        total += in[i];
    unsigned char *got = malloc(total * row_bytes + GUARD);
    memset(got, 0xa5, total * row_bytes + GUARD);
    xp_status st = xp_alltoallv(plan, send, out, got, in, NULL);
    if (st != XP_OK)
        snprintf(why, WORLD_TEXT, "call %d: %s: %.300s", call, xp_status_string(st), xp_comm_last_error(comm));
    else
        exchange_compare(e, got, want, total, why);
    for (size_t i = 0; i < GUARD && !why[0]; i++)
        if (got[total * row_bytes + i] != 0xa5)
            snprintf(why, WORLD_TEXT, "call %d wrote %zu bytes behind the receive buffer", call, i + 1);
    free(send);
    free(want);
    free(got);
}

static int leads(xp_comm *comm, int rank)
{
    for (int i = 0; i < rank; i++)
        if (xp_comm_node_of(comm, i) == xp_comm_node_of(comm, rank))
            return 0;
    return 1;
}

/* Rows for rank `to` that a rank sends over the slow hop: its own; with algorithm leader all or none of its node's. */
static uint64_t far_rows(xp_comm *comm, const struct exchange *e, const char *algo, int rank, int to, int call)
{
    int ranks = xp_comm_size(comm), node = xp_comm_node_of(comm, rank), leader = strcmp(algo, "leader") == 0;
    uint64_t rows = 0;
    if (xp_comm_node_of(comm, to) == node || (leader && !leads(comm, rank)))
        return 0;
    for (int from = 0; from < ranks; from++)
        if (from == rank || (leader && xp_comm_node_of(comm, from) == node))
            rows += pattern_rows(e->pattern, ranks, from, to, e->rows, e->seed + (uint64_t)call);
    return rows;
}

static void check_stats(const struct exchange *e, xp_comm *comm, xp_plan *plan, int rank, char *why)
{
    int ranks = xp_comm_size(comm), calls = e->calls ? e->calls : 1;
    uint64_t rows = 0, far = 0;
    xp_stats s = {.size = sizeof s};
    xp_status st = xp_plan_stats(plan, &s);
    for (int call = 0; call < calls; call++) {
        for (int to = 0; to < ranks; to++) {
            size_t n = to == rank ? 0 : pattern_rows(e->pattern, ranks, rank, to, e->rows, e->seed + (uint64_t)call);
            rows += n;
            far += far_rows(comm, e, s.algo, rank, to, call);
        }
    }
    if (st != XP_OK)
        snprintf(why, WORLD_TEXT, "xp_plan_stats failed");
    else if (s.calls != (uint64_t)calls || s.rows_sent != rows || s.raw_bytes != rows * e->dim * xp_dtype_size(e->dtype))
        snprintf(why, WORLD_TEXT, "stats: %llu calls, %llu rows, not %d and %llu", (unsigned long long)s.calls,
                 (unsigned long long)s.rows_sent, calls, (unsigned long long)rows);
    else if (s.rows_unique > far || (e->mode == XP_MODE_RAW && s.rows_unique != far))
        snprintf(why, WORLD_TEXT, "stats: %llu rows crossed, %llu were for other nodes", (unsigned long long)s.rows_unique,
                 (unsigned long long)far);
    else if (e->mode == XP_MODE_BOUNDED && s.err_ref_max > e->eps)
        snprintf(why, WORLD_TEXT, "stats: error %g beyond eps %g", s.err_ref_max, e->eps);
    else if (e->mode == XP_MODE_RAW && s.bypassed)
        snprintf(why, WORLD_TEXT, "stats: raw mode has nothing to bypass");
    else if (e->algo && strcmp(s.algo, e->algo) != 0)
        snprintf(why, WORLD_TEXT, "stats: algorithm %s, not %s", s.algo, e->algo);
}

void exchange_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct exchange *e = arg;
    xp_plan_desc d;
    xp_plan *plan;
    exchange_plan(e, xp_comm_size(comm), &d);
    xp_status st = xp_plan_create(&plan, comm, &d);
    if (st != XP_OK) {
        snprintf(why, WORLD_TEXT, "xp_plan_create: %s: %.300s", xp_status_string(st), xp_comm_last_error(comm));
        return;
    }
    for (int call = 0; call < (e->calls ? e->calls : 1) && !why[0]; call++)
        one_call(e, comm, plan, rank, call, why);
    if (!why[0])
        check_stats(e, comm, plan, rank, why);
    xp_plan_destroy(plan);
}
