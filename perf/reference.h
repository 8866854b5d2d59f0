/*
 * reference.h - the plain reference of an exchange: what a rank must have received, and by how much it differs
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_REFERENCE_H
#define XP_PERF_REFERENCE_H

#include "perf/rows.h"

struct reference {
    const struct row_source *rows;
    size_t T;              /* rows every rank sends */
    int rank, nranks;
    double eps;            /* 0: every byte must match */
    const int *counted;    /* [nranks] whether rows of that rank count in err_mean and err_max */
};

struct reference_result {
    uint64_t checked, missed;
    double err_sum, err_max; /* relative L2 error in f64, of the counted rows */
    uint64_t err_rows;
    char first[160];         /* the first miss in words */
};

/* Compares what `rank` received with what the ranks sent. Returns 0, or -1 without memory. */
int reference_check(const struct reference *ref, const void *recv, struct reference_result *out);

#endif
