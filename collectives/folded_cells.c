/*
 * folded_cells.c - Lloyd rounds that look only where the nearest centroid may be
 *
 * A round compares every row of an expert with every centroid: work that grows with the square of the rows. So all tokens of the step are
 * parted into a few cells, once for all experts, and each knows the cells that it is nearest to; a round then compares it with the
 * centroids in those only. (The inverted lists of nearest-neighbour search, with several probes: Jegou, Douze, Schmid, PAMI 2011.)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/folded_impl.h"

#define CELL_ROUNDS 2
#define FEW 128 /* centroids that every row is compared with: less than that has no need of cells */

/* ---- the cells of a step ---------------------------------------------------------------------------------------------- */

static uint32_t dot(const int16_t *a, const int16_t *b, unsigned s)
{
    int32_t sum = 0;

    for (unsigned i = 0; i < s; i++)
        sum = (int32_t)((uint32_t)sum + (uint32_t)(a[i] * b[i]));
    return (uint32_t)sum;
}

/* |a - c|^2, modulo 2^32 as kernel assign has it; cc: |c|^2. */
static uint32_t distance(const int16_t *a, uint32_t aa, const int16_t *c, uint32_t cc, unsigned s)
{
    return aa + cc - 2 * dot(a, c, s);
}

/* The XP_FOLD_PROBED nearest of the cells, the nearest first. */
static void find_near(const struct xp_folder *f, const int16_t *v, const uint32_t *norm, uint8_t *near)
{
    const uint32_t vv = dot(v, v, f->sketch_values);
    uint32_t best[XP_FOLD_PROBED];

    for (unsigned g = 0; g < f->cells; g++) {
        const uint32_t d = distance(v, vv, f->cell + g * f->sketch_values, norm[g], f->sketch_values);
        unsigned at = g < XP_FOLD_PROBED ? g : XP_FOLD_PROBED - 1;

        if (g >= XP_FOLD_PROBED && d >= best[at])
            continue;
        for (; at > 0 && d < best[at - 1]; at--) {
            best[at] = best[at - 1];
            near[at] = near[at - 1];
        }
        best[at] = d;
        near[at] = (uint8_t)g;
    }
}

void xp_fold_find_cells(struct xp_folder *f, size_t tokens, size_t budget)
{
    struct xp_clusters *c = &f->clusters;
    const unsigned s = f->sketch_values;
    uint32_t norm[XP_FOLD_CELLS];

    f->cells = 0;
    if (f->knobs.refine == 0 || budget < FEW)
        return;
    xp_fold_group_buckets(f, f->sketch, tokens, XP_FOLD_CELLS / 2);
    xp_clusters_refine(c, &f->kernels, f->sketch, s, CELL_ROUNDS, XP_FOLD_CELLS);
    if (c->count <= XP_FOLD_PROBED)
        return;
    f->cells = (unsigned)c->count;
    memcpy(f->cell, c->centroids, f->cells * s * sizeof(*f->cell));
    for (unsigned g = 0; g < f->cells; g++)
        norm[g] = dot(f->cell + g * s, f->cell + g * s, s);
    for (size_t t = 0; t < tokens; t++)
        find_near(f, f->sketch + t * s, norm, f->near + t * XP_FOLD_PROBED);
}

/* ---- rounds ---------------------------------------------------------------------------------------------------------------- */

/* f->probe: the rows that are near a cell, cell by cell, with their sketches in f->probe_sketch; start: where a cell's begin. */
static void list_probes(struct xp_folder *f, size_t rows, uint32_t *start)
{
    const unsigned s = f->sketch_values;
    uint32_t next[XP_FOLD_CELLS];

    memset(start, 0, (f->cells + 1) * sizeof(*start));
    for (size_t r = 0; r < rows; r++)
        for (unsigned p = 0; p < XP_FOLD_PROBED; p++)
            start[f->near[f->token[r] * XP_FOLD_PROBED + p] + 1]++;
    for (unsigned g = 0; g < f->cells; g++) {
        start[g + 1] += start[g];
        next[g] = start[g];
    }
    for (size_t r = 0; r < rows; r++) {
        f->norm[r] = dot(f->part + r * s, f->part + r * s, s);
        for (unsigned p = 0; p < XP_FOLD_PROBED; p++) {
            const uint32_t at = next[f->near[f->token[r] * XP_FOLD_PROBED + p]]++;

            f->probe[at] = (uint32_t)r;
            memcpy(f->probe_sketch + at * s, f->part + r * s, s * sizeof(*f->part));
        }
    }
}

/* Orders the seeds by the cell that they are in: f->seed, their sketches in f->seed_sketch, the squares of those; start as above. */
static void sort_seeds(struct xp_folder *f, size_t seeds, uint32_t *start)
{
    const struct xp_clusters *c = &f->clusters;
    const unsigned s = f->sketch_values;
    uint32_t next[XP_FOLD_CELLS];

    f->kernels.assign(c->centroids, seeds, s, f->cell, f->cells, f->ids);
    memset(start, 0, (f->cells + 1) * sizeof(*start));
    for (size_t k = 0; k < seeds; k++)
        start[f->ids[k] + 1]++;
    for (unsigned g = 0; g < f->cells; g++) {
        start[g + 1] += start[g];
        next[g] = start[g];
    }
    for (size_t k = 0; k < seeds; k++) {
        const uint32_t at = next[f->ids[k]]++;

        f->seed[at] = (uint32_t)k;
        f->seed_norm[at] = dot(c->centroids + k * s, c->centroids + k * s, s);
        memcpy(f->seed_sketch + at * s, c->centroids + k * s, s * sizeof(*f->part));
    }
}

/* Rows that are near a cell join the nearest of the centroids there if they have met none that is nearer. */
static void try_cell(struct xp_folder *f, const uint32_t *rows, const uint32_t *seeds)
{
    struct xp_clusters *c = &f->clusters;
    const unsigned s = f->sketch_values;
    const uint32_t n = rows[1] - rows[0];

    if (n == 0 || seeds[1] == seeds[0])
        return;
    f->kernels.assign(f->probe_sketch + (size_t)rows[0] * s, n, s, f->seed_sketch + (size_t)seeds[0] * s, seeds[1] - seeds[0], f->ids);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t r = f->probe[rows[0] + i];
        const uint32_t m = seeds[0] + f->ids[i];
        const uint32_t d = distance(f->part + (size_t)r * s, f->norm[r], f->seed_sketch + (size_t)m * s, f->seed_norm[m], s);

        if (d < f->distance[r]) {
            f->distance[r] = d;
            c->of[r] = f->seed[m];
        }
    }
}

void xp_fold_refine(struct xp_folder *f, size_t rows, size_t budget)
{
    struct xp_clusters *c = &f->clusters;
    uint32_t near[XP_FOLD_CELLS + 1], seed[XP_FOLD_CELLS + 1];

    if (f->cells == 0 || budget < FEW) {
        xp_clusters_refine(c, &f->kernels, f->part, f->sketch_values, f->knobs.refine, budget);
        return;
    }
    list_probes(f, rows, near);
    for (unsigned round = 0; round < f->knobs.refine; round++) {
        const size_t seeds = xp_clusters_seed(c, f->part, f->sketch_values, budget);

        sort_seeds(f, seeds, seed);
        memset(f->distance, 0xff, rows * sizeof(*f->distance));
        for (unsigned g = 0; g < f->cells; g++)
            try_cell(f, near + g, seed + g);
        /* No centroid near: all are looked at. */
        for (size_t r = 0; r < rows; r++)
            if (f->distance[r] == UINT32_MAX)
                f->kernels.assign(f->part + r * f->sketch_values, 1, f->sketch_values, c->centroids, seeds, c->of + r);
        xp_clusters_regroup(c, seeds);
    }
}
