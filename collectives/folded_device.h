/*
 * folded_device.h - folded mode with rows in device memory: what folded.h does with rows, as launches
 *
 * Clusters are chosen on the host, from numbers that the device finds of every token: its energy and its sketch. Rows of tokens and of virtual
 * tokens stay on the device; what crosses is these numbers one way, cluster, weight and alpha of every slot the other way, and sums over the probes. All
 * of it is bit for bit what a folder finds that has the rows itself.
 *
 * Mean centroids without a bound for outliers, sequences too; for others the host must see rows while it chooses.
 *
 * Functions return 0, a cudaError_t, or XP_DEVICE_NOT_READY where the device must be asked again: then they are to be called again, with the same
 * arguments. They enqueue on `stream`, which the caller orders behind what it was before, and never wait. The current device is the plan's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FOLDED_DEVICE_H
#define XP_FOLDED_DEVICE_H

#include "collectives/folded.h"

struct xp_device;

/* Whether layers with these knobs can be folded so. */
int xp_fold_device_serves(const xp_moe_desc *moe);

/* A folder's part; the folder was created with `elsewhere`, and outlives it. */
struct xp_fold_device;
int xp_fold_device_create(struct xp_fold_device **out, struct xp_folder *f, const struct xp_device *dev);
void xp_fold_device_destroy(struct xp_fold_device *d);

/* A fold's part: rows of its tokens and virtual tokens, and lists. */
struct xp_fold_rows;
int xp_fold_rows_create(struct xp_fold_rows **out, struct xp_fold_device *d, struct xp_fold *s);
void xp_fold_rows_destroy(struct xp_fold_rows *r);

/* Virtual tokens as the coder takes them; seen by the experts, they are rows xp_fold_rows_seen() and following of the same array. */
void *xp_fold_rows_made(const struct xp_fold_rows *r);
size_t xp_fold_rows_seen(const struct xp_fold_rows *r);
/* Where what comes home must be: results of combine, and J^T G, which all folds share. */
void *xp_fold_rows_results(const struct xp_fold_rows *r);
void *xp_fold_device_gradients(const struct xp_fold_device *d);
/* G, of xp_fold_device_combine_backward. */
const void *xp_fold_rows_sums(const struct xp_fold_rows *r);

/* An operation begins. */
void xp_fold_device_begin(struct xp_fold_device *d);
/* Forward, before dispatch, one after the other: all that clusters are chosen from; the step before has let go of the fold's lists; xp_fold_choose; the rows
 * of virtual tokens. */
int xp_fold_device_survey(struct xp_fold_device *d, size_t tokens, const void *x, void *stream);
int xp_fold_device_free(const struct xp_fold_rows *r);
xp_status xp_fold_device_choose(struct xp_fold_rows *r, const struct xp_fold_tokens *t);
int xp_fold_device_make(struct xp_fold_rows *r, const void *x, void *stream);
/* In the place of xp_fold_end. */
int xp_fold_device_end(struct xp_fold_rows *r);
/* The others of folded.h; results, and gradients, are in their places. weights: the gradients of the weights follow, for xp_fold_device_weights. */
int xp_fold_device_combine(struct xp_fold_rows *r, void *y, void *stream);
int xp_fold_device_combine_backward(struct xp_fold_rows *r, const void *grad_y, int weights, void *stream);
int xp_fold_device_weights(struct xp_fold_rows *r, float *grad_weight);
int xp_fold_device_dispatch_backward(struct xp_fold_rows *r, const void *grad_y, void *grad_x, void *stream);

/* Copies the centroids as seen to the host, and waits for them. */
int xp_fold_device_centroids(const struct xp_fold_rows *r, void *centroid);

#endif
