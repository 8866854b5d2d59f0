/*
 * algo_cases.h - what every all-to-all algorithm must do, as cases that its test file calls by name
 *
 * A case returns "" or what went wrong first; the test asserts that it HOLDS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ALGO_CASES_H
#define XP_ALGO_CASES_H

#include "tests/harness/world.h"

#define HOLDS(a_case) \
    do { \
        const char *why_ = (a_case); \
        cr_assert(why_[0] == 0, "%s", why_); \
    } while (0)

struct algo_cases {
    const char *algo;
    const struct world *worlds;
    size_t nworlds;
};

/* One exchange with the algorithm, against the plain reference. */
const char *algo_run(const struct algo_cases *a, const struct world *w, struct exchange e);

/* Over all worlds. */
const char *algo_raw_every_pattern_and_type(const struct algo_cases *a);
const char *algo_exact_keeps_every_bit_of_copies_and_nan(const struct algo_cases *a);
const char *algo_bounded_keeps_its_promise(const struct algo_cases *a);
const char *algo_random_cases(const struct algo_cases *a);
const char *algo_gives_the_bits_of_flat(const struct algo_cases *a);

const char *algo_many_chunks_and_calls(const struct algo_cases *a, const struct world *w);
/* The slow hop over UCX, as it is in use. The world names the transport. */
int algo_has_ucx(void);
const char *algo_over_ucx(const struct algo_cases *a, const struct world *w);

/* Every rank, or every rank of a node alike, sends the same 20 rows to everybody: how often a rank sends each of them over the slow hop. */
typedef int algo_crossings(const xp_comm *comm, int rank);
const char *algo_copies_cross(const char *algo, const struct world *w, int alike_in_node, algo_crossings *crossings);

#endif
