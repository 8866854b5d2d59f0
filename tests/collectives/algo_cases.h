/*
 * algo_cases.h - what every all-to-all algorithm must do, as cases that its test file calls by name
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ALGO_CASES_H
#define XP_ALGO_CASES_H

#include "tests/harness/world.h"

struct algo_cases {
    const char *algo;
    const struct world *worlds;
    size_t nworlds;
};

/* One exchange with the algorithm, against the plain reference. */
void algo_run(const struct algo_cases *a, const struct world *w, struct exchange e);

/* Over all worlds. */
void algo_raw_every_pattern_and_type(const struct algo_cases *a);
void algo_exact_keeps_every_bit_of_copies_and_nan(const struct algo_cases *a);
void algo_bounded_keeps_its_promise(const struct algo_cases *a);
void algo_random_cases(const struct algo_cases *a);
void algo_gives_the_bits_of_flat(const struct algo_cases *a);

void algo_many_chunks_and_calls(const struct algo_cases *a, const struct world *w);
/* The slow hop over UCX, as it is in use; skipped without UCX. The world names the transport. */
void algo_over_ucx(const struct algo_cases *a, const struct world *w);

/* Every rank, or every rank of a node alike, sends the same 20 rows to everybody: how often they cross. */
void algo_copies_cross_once(const char *algo, const struct world *w, int alike_in_node);

#endif
