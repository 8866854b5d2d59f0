/*
 * folded.h - LSH-MoE on one rank: rows of each expert become centroids before they travel, and rows again when results are home
 *
 * Nothing in here communicates: the centroids (and probe rows) of a step are handed to dispatch and combine as if they were
 * tokens with one expert each ("virtual tokens"). Sources: LSH-MoE, arXiv 2411.08446, algorithm 1 and equations (4), (5);
 * the backward formulas are those of the public header.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FOLDED_H
#define XP_FOLDED_H

#include "hash/codec.h"

/* What all steps of a plan share: knobs, scratch, alpha and rate of every expert. */
struct xp_folder;

struct xp_folder_desc {
    xp_dtype dtype;
    size_t dim, max_tokens;
    int experts, max_topk;
    const xp_moe_desc *moe;  /* read during creation only; every default resolved in here */
    const char *codec;       /* form of far centroids and results: "raw" (as they are), "fp8", "int8", ... a fixed format; NULL, "auto": "int8" */
    enum xp_isa isa;
    uint64_t seed;
    int elsewhere;           /* rows, of tokens and virtual tokens, are where the folder does not reach: folded_device.h */
};

xp_status xp_folder_create(struct xp_folder **out, const struct xp_folder_desc *d);
void xp_folder_destroy(struct xp_folder *f);

/*
 * The coder that rows of virtual tokens must go through on their way to far experts, so that these get what xp_fold_seen says: of
 * fixed format, and row-wise, whatever rows share a frame. mode is XP_MODE_RAW where no coder is needed; max_rows is 0.
 * Returns XP_OK; XP_ERR_INVALID_ARG (unknown name); XP_ERR_UNSUPPORTED (not a fixed format), as xp_folder_create does.
 */
xp_status xp_folder_coder(const struct xp_folder_desc *d, struct xp_coder_desc *out);

/* One step's clusters: what forward makes and backward needs again. Belongs to a routing; used again for the next one. */
struct xp_fold;
xp_status xp_fold_create(struct xp_fold **out, struct xp_folder *f);
void xp_fold_destroy(struct xp_fold *s);

/* One step's tokens, as the routing keeps them: the arrays are read until the step's backward is done. */
struct xp_fold_tokens {
    size_t tokens;
    int topk;
    const int32_t *expert;   /* [tokens][topk], -1 = none */
    const float *weight;     /* [tokens][topk] */
    const int32_t *sequence; /* [tokens] or NULL */
    const int32_t *order;    /* [experts] in which they are clustered; NULL: ascending. Read until all are chosen */
};

/*
 * Forward, before dispatch: clusters the rows of every expert, picks probes. Afterwards the step has xp_fold_count() virtual
 * tokens: centroids first, expert by expert in the order of the step, then probes likewise. Ids are kept until the next call.
 */
xp_status xp_fold_make(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x);
/*
 * The same in parts: xp_fold_begin; xp_fold_choose_next for every expert in the order of the step, each adds its clusters behind those before;
 * xp_fold_choose_probes adds the probes of all behind them. xp_fold_choose does all of that. Then everything is known but the rows. Of clusters
 * [first, end) that are chosen xp_fold_average makes the means, of many in less time than one by one; of virtual tokens [first, end), probes or
 * with means, xp_fold_fill makes the rows. Both leave x as it is, and may come between choices. xp_fold_end follows when all are made. Nothing
 * else is made with the folder meanwhile.
 */
xp_status xp_fold_begin(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x);
xp_status xp_fold_choose_next(struct xp_fold *s, const void *x);
void xp_fold_choose_probes(struct xp_fold *s, const void *x);
size_t xp_fold_chosen(const struct xp_fold *s); /* experts of the order that have their clusters */
xp_status xp_fold_choose(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x);
void xp_fold_average(struct xp_fold *s, const void *x, size_t first, size_t end);
xp_status xp_fold_fill(struct xp_fold *s, size_t first, size_t end);
void xp_fold_end(struct xp_fold *s, const void *x);
/* From now on xp_fold_make leaves virtual tokens in store, as they are coded for far experts. It has room for all slots. */
struct xp_coded_rows;
void xp_fold_keep(struct xp_fold *s, struct xp_coded_rows *store);
size_t xp_fold_count(const struct xp_fold *s);           /* virtual tokens, probes included */
size_t xp_fold_clusters(const struct xp_fold *s);        /* centroids among them */
size_t xp_fold_clusters_of(const struct xp_fold *s, size_t expert); /* of these, the expert's, once they are chosen; */
size_t xp_fold_probes_of(const struct xp_fold *s, size_t expert);   /* likewise its probes */
const int32_t *xp_fold_expert(const struct xp_fold *s);  /* [count] expert of a virtual token */
/* [count][dim] rows of the virtual tokens: as they must be handed to the coder for far experts, and as every expert will see
 * them (coded and decoded again; the same rows when codec is "raw"). Near experts are sent `seen`; residuals are taken from it. */
const void *xp_fold_rows(const struct xp_fold *s);
const void *xp_fold_seen(const struct xp_fold *s);
const int32_t *xp_fold_cluster_of(const struct xp_fold *s); /* [tokens][topk] cluster of a slot, -1 = none */
const float *xp_fold_alpha_of(const struct xp_fold *s);     /* [tokens][topk] alpha of a slot, as xp_fold_combine used it */

/* Where xp_fold_combine keeps the results: whoever puts them there spares it a copy. */
void *xp_fold_results(struct xp_fold *s);

/* Forward, after combine: results [count][dim] of the virtual tokens -> y[tokens][dim] = sum over k of weight * (E(c_j) + alpha (x - c_j)).
 * Fits alpha and the error estimate from the probes; keeps what backward needs. */
void xp_fold_combine(struct xp_fold *s, const void *x, const void *results, void *y);

/* Backward of it: G [count][dim] (zeros for probes) and grad_weight [tokens][topk] (NULL: not wanted) from grad_y [tokens][dim].
 * grad_weight needs x and the results given to xp_fold_combine, which are kept as row type. */
void xp_fold_combine_backward(struct xp_fold *s, const void *grad_y, const void *x, void *G, float *grad_weight);

/* Backward of the centroids: JG [count][dim] = J^T G of the experts -> grad_x [tokens][dim]. */
void xp_fold_dispatch_backward(struct xp_fold *s, const void *grad_y, const void *JG, void *grad_x);

/* Figures of the last step, for xp_stats; fold_err is a running estimate over steps. */
struct xp_fold_stats { double rate, rho, fold_err; uint64_t clusters, probes; };
struct xp_fold_stats xp_fold_stats(const struct xp_fold *s);

#endif
