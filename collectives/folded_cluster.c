/*
 * folded_cluster.c - the rows of one expert to a wanted number of clusters
 *
 * Parts of cells (folded_cells.c), as many as clusters are wanted, then Lloyd rounds on the sketches. Without rounds this is plain LSH:
 * cross-polytope buckets, cut out of the sketch so that their width can be any number, not only a power of two.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "collectives/folded_impl.h"

#define MIX 0x9E3779B1u /* joins codes that do not fit 32 bits side by side */

/* k argmaxes, each over w coordinates of its own: index and sign of the largest, the lowest index of equals. */
static uint32_t bucket(const int16_t *v, unsigned k, unsigned w, uint32_t combine)
{
    uint32_t id = 0;

    for (unsigned b = 0; b < k; b++, v += w) {
        unsigned best = 0;
        int largest = -1;

        for (unsigned i = 0; i < w; i++) {
            const int size = abs(v[i]);

            best = size > largest ? i : best;
            largest = size > largest ? size : largest;
        }
        id = id * combine + 2 * best + (v[best] < 0);
    }
    return id;
}

size_t xp_fold_group_buckets(struct xp_folder *f, const int16_t *sketch, size_t rows, unsigned w)
{
    const unsigned k = f->knobs.hashes;
    uint64_t buckets = 1;

    for (unsigned b = 0; b < k && buckets <= UINT32_MAX; b++)
        buckets *= 2 * w;
    for (size_t r = 0; r < rows; r++)
        f->ids[r] = w ? bucket(sketch + r * f->sketch_values, k, w, buckets <= UINT32_MAX ? 2 * w : MIX) : 0;
    xp_clusters_group(&f->clusters, f->ids, rows);
    return f->clusters.count;
}

/* The widest hash that makes no more than `budget` buckets (more buckets come with more width, nearly always). Returns its width;
 * 0: one bucket. */
static unsigned tune_width(struct xp_folder *f, size_t rows, size_t budget)
{
    unsigned low = 0, high = f->sketch_values / f->knobs.hashes;

    while (low < high) {
        const unsigned w = (low + high + 1) / 2;

        if (xp_fold_group_buckets(f, f->part, rows, w) <= budget)
            low = w;
        else
            high = w - 1;
    }
    xp_fold_group_buckets(f, f->part, rows, low);
    return low;
}

void xp_fold_cluster(struct xp_folder *f, const struct xp_rows *in, size_t budget)
{
    struct xp_clusters *c = &f->clusters;
    unsigned w = f->knobs.width;

    if (f->knobs.refine) {
        xp_fold_group_cells(f, in->rows);
        xp_clusters_split(c, f->part, f->sketch_values, 0, budget);
        xp_fold_refine(f, budget);
        xp_clusters_split(c, f->part, f->sketch_values, 0, budget);
        return;
    }
    if (w)
        xp_fold_group_buckets(f, f->part, in->rows, w);
    else
        w = tune_width(f, in->rows, budget);
    /* Plain LSH of a width that was asked for makes what it makes. */
    if (!f->knobs.width)
        xp_clusters_split(c, f->part, f->sketch_values, f->knobs.hashes * w, budget);
}

void xp_fold_part_sequences(struct xp_folder *f, size_t rows)
{
    struct xp_clusters *c = &f->clusters;
    uint32_t *met = f->counter;

    /* Row number m of a sequence in a cluster goes to part m of it; m is below the cluster's size, so start + m is free. */
    for (size_t k = 0; k < c->count; k++) {
        for (size_t i = c->start[k]; i < c->start[k + 1]; i++)
            f->ids[c->order[i]] = c->start[k] + met[f->sequence[f->token[c->order[i]]]]++;
        for (size_t i = c->start[k]; i < c->start[k + 1]; i++)
            met[f->sequence[f->token[c->order[i]]]] = 0;
    }
    xp_clusters_group(c, f->ids, rows);
}
