/*
 * world.h - exchanges on ranks that are threads, and what they are compared with
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_WORLD_H
#define XP_TEST_WORLD_H

#include "crosspress/crosspress.h"

#define WORLD_MAX 16
#define WORLD_TEXT 400

/* What one rank does. Writes into why (WORLD_TEXT bytes, "" before) what went wrong. */
typedef void (*world_body)(xp_comm *comm, int rank, void *arg, char *why);

/*
 * Ranks on simulated nodes: nodes[k] ranks on node k, until a 0. interleaved: ranks are dealt to the nodes in turn, as far as
 * those have room. Everything goes over shared memory unless a transport is named.
 */
struct world {
    int nodes[WORLD_MAX];
    int interleaved;
    const char *transport;
    double timeout;        /* of every wait; 0: 20 s */
    int no_watchdog;       /* for worlds that run beside each other */
    const char *allow[8];  /* errors and warnings that may be logged; any other fails the run */
};

/* Runs a body on every rank. Returns "" or what went wrong first (text of this thread). */
const char *world_run(const struct world *w, world_body body, void *arg);
int world_ranks(const struct world *w);

/* Numbers of rows from one rank to another. */
enum pattern { UNIFORM, ALL_ZERO, DIAGONAL, HOT_PEER, RANDOM_SKEW, ONE_PAIR, EMPTY_RANK, PATTERNS };
size_t pattern_rows(enum pattern p, int ranks, int from, int to, size_t rows, uint64_t seed);

/* What the rows hold. */
enum filling { DISTINCT, COPIES, SOME_COPIES, WITH_NAN, FILLINGS };

/* One kind of exchange, on all ranks alike. */
struct exchange {
    enum pattern pattern;
    enum filling filling;
    size_t rows, dim; /* rows: per pair, as pattern_rows takes it */
    xp_dtype dtype;
    xp_mode mode;
    double eps;
    const char *algo, *codec;
    xp_dither dither;
    uint64_t seed;
    int calls;        /* one after another on one plan; each with other rows. 0: 1 */
};

/* The send buffer of a rank in call number `call`, and its counts. The caller frees it. */
void *exchange_send(const struct exchange *e, int ranks, int rank, int call, size_t *rows);
/* The plain reference: what `rank` must receive, and its counts. The caller frees it. */
void *exchange_reference(const struct exchange *e, int ranks, int rank, int call, size_t *rows);
size_t exchange_most_rows(const struct exchange *e, int ranks); /* of any rank, sent or received */

/* Compares received with expected rows, each within eps (0: bit for bit) by sums in f64. Writes why. */
void exchange_compare(const struct exchange *e, const void *got, const void *want, size_t rows, char *why);

/* A body that creates a plan, makes the calls of a struct exchange (arg), compares, and checks the statistics. */
void exchange_body(xp_comm *comm, int rank, void *arg, char *why);

void exchange_plan(const struct exchange *e, int ranks, xp_plan_desc *d);
/* One line that tells one case from another. */
const char *exchange_text(const struct exchange *e, const struct world *w);

#endif
