/*
 * xp_perf.h - what the benchmarks of xp_perf share: the options, the rows, and where results and errors go
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_H
#define XP_PERF_H

#include "crosspress/crosspress.h"
#include "perf/bench.h"
#include "perf/memory.h"
#include "perf/rows.h"

/* Of xp_perf moe; zero where not given. */
struct moe_options {
    int experts, k, refine;        /* refine -1: none */
    const char *topk, *weights, *routing, *expert, *preset;
    double rate, alpha;
    int alpha_fixed, backward, exposed;
    xp_centroid centroid;
    xp_combine_sum combine;
};

struct options {
    const char *command;
    int spawn, nodes;              /* 0: the launcher's environment */
    size_t rows, dim;              /* dim 0: the default */
    int rows_given;
    xp_dtype dtype;
    int dtype_given;
    const char *data, *input;
    xp_mode mode;                  /* XP_MODE_DEFAULT: CROSSPRESS_MODE */
    double eps;                    /* 0: CROSSPRESS_EPS */
    xp_eps_ref eps_ref;
    xp_dither dither;
    xp_memory memory;
    const char *codec, *algo, *transport;
    uint64_t seed;
    int iters, check;
    const char *json;
    struct moe_options moe;
};

/* One rank's view of a run. */
struct perf {
    const struct options *opt;
    struct row_source rows;
    struct json json;              /* rank 0 only */
    char *error;                   /* one line; shared with the parent under --spawn */
    size_t error_size;
};

/* Remembers the line that explains a failure (the first one stays) and returns 1, the exit code of a failed run. */
int perf_fail(struct perf *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Shows "what: done of all" on a terminal, nothing elsewhere; all == 0 wipes it. */
void perf_progress(const char *what, int done, int all);

/* Creates the comm of --transport and the launcher's environment, and opens the memory of --memory. Returns 0 or perf_fail. */
int perf_comm(struct perf *p, xp_comm **comm, struct memory *memory);

/* The transport of a plan: NCCL where --transport says so, which is none of a comm. */
const char *perf_plan_transport(const struct options *o);

/* What to call a plan that could not be made. */
const char *perf_plan_name(const struct options *o, const struct memory *m);

const char *perf_mode_name(xp_mode m);
const char *perf_dtype_name(xp_dtype t);

/* The benchmarks. Each returns the exit code of its rank: 0, or 1 with p->error filled. */
int bench_links(struct perf *p);
int bench_hash(struct perf *p);
int bench_codec(struct perf *p);
int bench_alltoallv(struct perf *p);
int bench_fold(struct perf *p);
int bench_moe(struct perf *p);

/* What reports of a group have in common: "shm+ucx", the transports of this rank's peers; the instruction set in use. */
void perf_name_transports(const struct perf *p, const xp_comm *c, char *text, size_t size);
const char *perf_isa(const xp_comm *c);

#endif
