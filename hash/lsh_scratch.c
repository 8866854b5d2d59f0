/*
 * lsh_scratch.c - the memory of codec lsh, and the defaults of its knobs
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/lsh_scratch.h"

#include <stdlib.h>

/* One hash of width 128 gives up to 256 buckets; Lloyd rounds in 64 values of the sketch make them as good as k-means. */
#define WIDTH 128
#define ROUNDS 2
#define REFINE 3
#define SKETCH 64

static unsigned default_width(size_t dim, unsigned hashes)
{
    unsigned w = WIDTH;

    while (w > 4 && w * hashes > xp_hash_width(dim))
        w /= 2;
    return w;
}

xp_status xp_lsh_create(struct xp_coder *c)
{
    struct xp_coder_desc *d = &c->desc;
    struct xp_hasher_desc h = { .dim = d->dim, .sketch = SKETCH, .seed = d->seed };
    xp_status s;

    d->lsh_hashes = d->lsh_hashes ? d->lsh_hashes : 1;
    d->lsh_width = d->lsh_width ? d->lsh_width : default_width(d->dim, d->lsh_hashes);
    d->lsh_rounds = d->lsh_rounds ? d->lsh_rounds : ROUNDS;
    d->lsh_refine = d->lsh_refine ? d->lsh_refine : REFINE;
    d->lsh_center = d->lsh_center >= 0;
    h.k = d->lsh_hashes;
    h.w = d->lsh_width;
    h.rounds = d->lsh_rounds;
    c->lsh = calloc(1, sizeof(*c->lsh));
    if (!c->lsh)
        return XP_ERR_NO_MEMORY;
    s = xp_hasher_init(&c->lsh->hasher, &h);
    if (s) {
        free(c->lsh);
        c->lsh = NULL;
    }
    return s;
}

xp_status xp_lsh_reserve(struct xp_coder *c, size_t rows)
{
    struct xp_lsh_scratch *l = c->lsh;

    xp_clusters_fini(&l->clusters);
    free(l->sketch);
    l->sketch = aligned_alloc(64, (rows * l->hasher.sketch * sizeof(*l->sketch) + 127) / 64 * 64);
    if (!l->sketch || xp_clusters_init(&l->clusters, rows, l->hasher.sketch))
        return XP_ERR_NO_MEMORY;
    l->clusters.mean = c->kernels.sketch_mean;
    return XP_OK;
}

void xp_lsh_destroy(struct xp_coder *c)
{
    if (!c->lsh)
        return;
    xp_clusters_fini(&c->lsh->clusters);
    xp_hasher_fini(&c->lsh->hasher);
    free(c->lsh->sketch);
    free(c->lsh);
    c->lsh = NULL;
}
