/*
 * folded_cells.c - Lloyd rounds that look only where the nearest centroid may be
 *
 * A round compares every row of an expert with every centroid: work that grows with the square of the rows. So all tokens of the step are
 * clustered once for all experts; the clusters are the *cells*. An expert's rows begin as parts of cells, which is near to what its
 * rounds will make of them, and a round compares a row with the centroids in cells near to its own only. (The inverted lists of
 * nearest-neighbour search: Jegou, Douze, Schmid, PAMI 2011.)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/folded_impl.h"

#define CELL_ROUNDS 2
#define ENOUGH 16 /* centroids for a row to be compared with, */
#define LEAST 8   /* and so few that it is compared with all */

/* ---- the cells of a step ---------------------------------------------------------------------------------------------- */

/* The cells nearest to each, itself the first, nearer ones before others. */
static void find_near(struct xp_folder *f)
{
    const unsigned s = f->sketch_values;

    for (unsigned g = 0; g < f->cells; g += XP_FOLD_APART) {
        const unsigned n = f->cells - g < XP_FOLD_APART ? f->cells - g : XP_FOLD_APART;

        f->kernels.distances(f->cell + g * s, n, s, f->cell, f->cells, f->apart);
        for (unsigned i = 0; i < n; i++)
            f->kernels.closest(f->apart + i * f->cells, f->cells, XP_FOLD_NEAR, f->near + (g + i) * XP_FOLD_NEAR);
    }
}

/* Buckets need not be as many as the cells: wide ones hold rows that are alike. */
static unsigned seed_width(const struct xp_folder *f, size_t cells)
{
    const unsigned most = f->sketch_values / f->knobs.hashes;

    if (f->knobs.width)
        return f->knobs.width;
    return cells < most ? (unsigned)cells : most;
}

void xp_fold_find_cells(struct xp_folder *f, size_t tokens)
{
    struct xp_clusters *c = &f->clusters;
    const unsigned s = f->sketch_values;
    const size_t wanted = (size_t)(f->knobs.rate * (double)tokens), most = wanted < XP_FOLD_CELLS ? wanted + 1 : XP_FOLD_CELLS;
    const unsigned w = seed_width(f, most);

    f->cells = 0;
    if (f->knobs.refine == 0 || tokens == 0)
        return;
    xp_fold_group_buckets(f, f->sketch, tokens, w);
    xp_clusters_split(c, f->sketch, s, f->knobs.hashes * w, most);
    xp_clusters_refine(c, &f->kernels, f->sketch, s, CELL_ROUNDS, most);
    f->cells = (unsigned)c->count;
    memcpy(f->cell, c->centroids, f->cells * s * sizeof(*f->cell));
    memcpy(f->cell_of, c->of, tokens * sizeof(*f->cell_of));
    find_near(f);
}

/* ---- rounds ---------------------------------------------------------------------------------------------------------------- */

/* start, and f->next: where a cell's begin in a list of n by cell. */
static void begin_list(struct xp_folder *f, const uint32_t *cell_of, size_t n, uint32_t *start)
{
    memset(start, 0, (f->cells + 1) * sizeof(*start));
    for (size_t i = 0; i < n; i++)
        start[cell_of[i] + 1]++;
    for (unsigned g = 0; g < f->cells; g++) {
        start[g + 1] += start[g];
        f->next[g] = start[g];
    }
}

/* f->probe: the rows by cell, their sketches in f->probe_sketch. */
static void list_rows(struct xp_folder *f, size_t rows)
{
    const size_t bytes = f->sketch_values * sizeof(*f->part);

    for (size_t r = 0; r < rows; r++)
        f->row_cell[r] = f->cell_of[f->token[r]];
    begin_list(f, f->row_cell, rows, f->probe_start);
    for (size_t r = 0; r < rows; r++) {
        const uint32_t at = f->next[f->row_cell[r]]++;

        f->probe[at] = (uint32_t)r;
        memcpy(f->probe_sketch + at * f->sketch_values, f->part + r * f->sketch_values, bytes);
    }
}

/* The cell of most of a cluster's rows, if there is one (the vote of Boyer and Moore), else of some. */
static uint32_t cell_of_cluster(const struct xp_folder *f, size_t k)
{
    const struct xp_clusters *c = &f->clusters;
    uint32_t cell = 0, votes = 0;

    for (size_t i = c->start[k]; i < c->start[k + 1]; i++) {
        const uint32_t g = f->row_cell[c->order[i]];

        if (votes == 0)
            cell = g;
        votes += g == cell ? 1u : -1u;
    }
    return cell;
}

/* f->seed: the seeds by the cell that they are in. */
static void list_seeds(struct xp_folder *f, size_t seeds)
{
    for (size_t k = 0; k < seeds; k++)
        f->ids[k] = cell_of_cluster(f, f->clusters.seed[k]);
    begin_list(f, f->ids, seeds, f->seed_start);
    for (size_t k = 0; k < seeds; k++)
        f->seed[f->next[f->ids[k]]++] = (uint32_t)k;
}

/*
 * The ENOUGH seeds in cells near to g, or all that there are: f->seen, which has room for one more cell's. Returns how many. Most cells have one
 * seed or none, in no order that a branch could follow.
 */
static size_t list_seen(struct xp_folder *f, unsigned g)
{
    const uint16_t *near = f->near + g * XP_FOLD_NEAR;
    const uint32_t *start = f->seed_start, *seed = f->seed;
    const unsigned cells = f->cells < XP_FOLD_NEAR ? f->cells : XP_FOLD_NEAR;
    uint32_t *seen = f->seen;
    size_t n = 0;

    for (unsigned i = 0; i < cells && n < ENOUGH; i++) {
        const uint32_t first = start[near[i]], count = start[near[i] + 1] - first;

        seen[n] = seed[first];
        for (uint32_t k = 1; k < count && n + k < ENOUGH; k++)
            seen[n + k] = seed[first + k];
        n += count;
    }
    return n < ENOUGH ? n : ENOUGH;
}

/* Rows of a cell join the nearest centroid that they see; where they see few, that of all. */
static void search_cell(struct xp_folder *f, unsigned g, size_t seeds)
{
    const unsigned s = f->sketch_values;
    const uint32_t first = f->probe_start[g], n = f->probe_start[g + 1] - first;
    const int16_t *rows = f->probe_sketch + (size_t)first * s;
    size_t seen;

    if (n == 0)
        return;
    seen = list_seen(f, g);
    if (seen >= LEAST)
        f->kernels.assign_listed(rows, n, s, f->clusters.centroids, f->seen, seen, f->ids);
    else
        f->kernels.assign(rows, n, s, f->clusters.centroids, seeds, f->ids);
    for (uint32_t i = 0; i < n; i++)
        f->clusters.of[f->probe[first + i]] = f->ids[i];
}

void xp_fold_group_cells(struct xp_folder *f, size_t rows)
{
    list_rows(f, rows);
    xp_clusters_group(&f->clusters, f->row_cell, rows);
}

void xp_fold_refine(struct xp_folder *f, size_t budget)
{
    struct xp_clusters *c = &f->clusters;

    for (unsigned round = 0; round < f->knobs.refine; round++) {
        const size_t seeds = xp_clusters_seed(c, f->part, f->sketch_values, budget);

        list_seeds(f, seeds);
        for (unsigned g = 0; g < f->cells; g++)
            search_cell(f, g, seeds);
        xp_clusters_regroup(c, seeds);
    }
}
