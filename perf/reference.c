/*
 * reference.c - the plain reference of an exchange: what a rank must have received, and by how much it differs
 *
 * Nothing of the library is used: the rows come from the source, the distance is taken in f64 over the received bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for comparing one row, and which row it is. */
struct probe {
    const struct reference *ref;
    void *want;
    size_t *counts;
    int source;
    size_t row;
};

static void miss(const struct probe *p, struct reference_result *out, const char *how, double error)
{
    if (out->missed++ != 0)
        return;
    snprintf(out->first, sizeof(out->first), "rank %d: row %zu of rank %d %s (relative error %.6g, eps %.6g)",
             p->ref->rank, p->row, p->source, how, error, p->ref->eps);
}

static void check_row(const struct probe *p, const void *got, struct reference_result *out)
{
    /* Sums in f32 inside the library may round the other way at the very edge. */
    const double limit = p->ref->eps * (1.0 + 1e-6);
    int same = memcmp(got, p->want, p->ref->rows->row_bytes) == 0;
    double error = rows_distance(p->ref->rows, p->want, got);

    out->checked++;
    if (!same && (p->ref->eps == 0.0 || p->source == p->ref->rank))
        miss(p, out, "is not what was sent", error);
    else if (!(error <= limit) && !same)
        miss(p, out, "is further off than promised", error);
    if (p->ref->counted[p->source]) {
        out->err_rows++;
        out->err_sum += error;
        out->err_max = error > out->err_max ? error : out->err_max;
    }
}

static void check_all(struct probe *p, const char *recv, struct reference_result *out)
{
    const struct reference *ref = p->ref;

    for (p->source = 0; p->source < ref->nranks; p->source++) {
        uint64_t number = (uint64_t)p->source * ref->T;

        rows_spread(ref->T, ref->nranks, p->source, p->counts);
        for (int d = 0; d < ref->rank; d++)
            number += p->counts[d];
        for (p->row = 0; p->row < p->counts[ref->rank]; p->row++, recv += ref->rows->row_bytes) {
            rows_get(ref->rows, number + p->row, p->want);
            check_row(p, recv, out);
        }
    }
}

int reference_check(const struct reference *ref, const void *recv, struct reference_result *out)
{
    struct probe p = {.ref = ref};
    int bad;

    *out = (struct reference_result){0};
    p.want = malloc(ref->rows->row_bytes);
    p.counts = malloc((size_t)ref->nranks * sizeof(size_t));
    bad = p.want == NULL || p.counts == NULL;
    if (!bad)
        check_all(&p, recv, out);
    free(p.want);
    free(p.counts);
    return bad ? -1 : 0;
}
