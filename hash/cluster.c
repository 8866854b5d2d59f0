/*
 * cluster.c - bucket ids to stable clusters, and their refinement
 *
 * Grouping is open addressing (id -> cluster number in order of first appearance), then a counting sort.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/cluster.h"
#include "hash/variants.h"

#include <stdlib.h>
#include <string.h>

#define LINE 64

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Slots of the hash table: a power of two, at most half full. A slot is two words: id, cluster + 1 (0 = free). */
static unsigned table_bits(size_t rows)
{
    unsigned bits = 4;

    while (((size_t)1 << bits) < 2 * rows)
        bits++;
    return bits;
}

xp_status xp_clusters_init(struct xp_clusters *c, size_t max_rows, unsigned max_sketch)
{
    const size_t words = round_up((max_rows + 1) * sizeof(uint32_t), LINE);
    const size_t means = round_up(max_rows * max_sketch * sizeof(int16_t), LINE);
    size_t table;
    char *p;

    memset(c, 0, sizeof(*c));
    if (max_rows >= (size_t)1 << 31 || max_sketch > XP_HASH_MAX_WIDTH)
        return XP_ERR_INVALID_ARG;
    table = ((size_t)2 << table_bits(max_rows)) * sizeof(uint32_t);
    p = c->memory = aligned_alloc(LINE, 4 * words + means + table);
    if (!p)
        return XP_ERR_NO_MEMORY;
    c->max_rows = max_rows;
    c->max_sketch = max_sketch;
    c->of = (uint32_t *)p;
    c->start = (uint32_t *)(p + words);
    c->order = (uint32_t *)(p + 2 * words);
    c->seed = (uint32_t *)(p + 3 * words);
    c->centroids = (int16_t *)(p + 4 * words);
    c->table = (uint32_t *)(p + 4 * words + means);
    c->start[0] = 0;
    c->mean = xp_sketch_mean_c;
    return XP_OK;
}

void xp_clusters_fini(struct xp_clusters *c)
{
    free(c->memory);
    memset(c, 0, sizeof(*c));
}

/* start and order from of: a stable counting sort. */
static void sort_rows(struct xp_clusters *c)
{
    uint32_t *next = c->table;

    memset(c->start, 0, (c->count + 1) * sizeof(*c->start));
    for (size_t r = 0; r < c->rows; r++)
        c->start[c->of[r] + 1]++;
    for (size_t k = 0; k < c->count; k++) {
        c->start[k + 1] += c->start[k];
        next[k] = c->start[k];
    }
    for (size_t r = 0; r < c->rows; r++)
        c->order[next[c->of[r]]++] = (uint32_t)r;
}

void xp_clusters_group(struct xp_clusters *c, const uint32_t *ids, size_t rows)
{
    const unsigned bits = table_bits(rows);
    const size_t mask = ((size_t)1 << bits) - 1;
    uint32_t count = 0;

    memset(c->table, 0, ((size_t)2 << bits) * sizeof(*c->table));
    for (size_t r = 0; r < rows; r++) {
        size_t slot = ids[r] * 0x9E3779B1u >> (32 - bits);
        uint32_t *entry;

        while (entry = c->table + 2 * slot, entry[1] && entry[0] != ids[r])
            slot = (slot + 1) & mask;
        if (!entry[1]) {
            entry[0] = ids[r];
            entry[1] = ++count;
        }
        c->of[r] = entry[1] - 1;
    }
    c->rows = rows;
    c->count = count;
    sort_rows(c);
}

/* Gives the clusters that still have rows new numbers, by first appearance. */
static void renumber(struct xp_clusters *c)
{
    uint32_t *number = c->table, count = 0;

    memset(number, 0, c->count * sizeof(*number));
    for (size_t r = 0; r < c->rows; r++) {
        if (!number[c->of[r]])
            number[c->of[r]] = ++count;
        c->of[r] = number[c->of[r]] - 1;
    }
    c->count = count;
    sort_rows(c);
}

/* Means, packed, of the clusters of more than least_rows rows and of the first `equals` that have just as many. */
static size_t mean_sketches(struct xp_clusters *c, const int16_t *sketch, unsigned s, size_t least_rows, size_t equals)
{
    size_t seeds = 0;

    for (size_t k = 0; k < c->count; k++) {
        const size_t size = c->start[k + 1] - c->start[k];
        if (size < least_rows || (size == least_rows && equals == 0))
            continue;
        equals -= size == least_rows;
        c->mean(sketch, s, c->order + c->start[k], size, c->centroids + seeds * s);
        c->seed[seeds++] = (uint32_t)k;
    }
    return seeds;
}

/* The size such that fewer than max clusters are larger; *equals of those that have this very size still fit. */
static size_t seed_threshold(const struct xp_clusters *c, size_t max, size_t *equals)
{
    uint32_t *of_size = c->table; /* rows + 1 words */
    size_t size = c->rows, above = 0;

    memset(of_size, 0, (c->rows + 1) * sizeof(*of_size));
    for (size_t k = 0; k < c->count; k++)
        of_size[c->start[k + 1] - c->start[k]]++;
    while (size > 1 && above + of_size[size] < max)
        above += of_size[size--];
    *equals = max - above;
    return size;
}

size_t xp_clusters_seed(struct xp_clusters *c, const int16_t *sketch, unsigned s, size_t max_clusters)
{
    size_t least_rows = 1, equals = SIZE_MAX;

    if (max_clusters > 0 && max_clusters < c->count)
        least_rows = seed_threshold(c, max_clusters, &equals);
    return mean_sketches(c, sketch, s, least_rows, equals);
}

void xp_clusters_regroup(struct xp_clusters *c, size_t seeds)
{
    c->count = seeds;
    renumber(c);
}

void xp_clusters_refine(struct xp_clusters *c, const struct xp_kernels *k, const int16_t *sketch, unsigned s,
                        unsigned rounds, size_t max_clusters)
{
    if (c->rows == 0)
        return;
    if (rounds == 0 && max_clusters > 0 && max_clusters < c->count)
        rounds = 1;
    for (unsigned round = 0; round < rounds; round++) {
        const size_t seeds = xp_clusters_seed(c, sketch, s, max_clusters);

        k->assign(sketch, c->rows, s, c->centroids, seeds, c->of);
        xp_clusters_regroup(c, seeds);
    }
    xp_clusters_seed(c, sketch, s, 0);
}

/* Rows of cluster k whose coordinate j has not the sign of the cluster's first row go to cluster `to`. Returns how many. */
static size_t split_one(struct xp_clusters *c, size_t k, const int16_t *sketch, unsigned s, unsigned j, uint32_t to)
{
    const uint32_t *rows = c->order + c->start[k], *end = c->order + c->start[k + 1];
    const int negative = sketch[(size_t)*rows * s + j] < 0;
    size_t moved = 0;

    for (; rows < end; rows++) {
        if ((sketch[(size_t)*rows * s + j] < 0) == negative)
            continue;
        c->of[*rows] = to;
        moved++;
    }
    return moved;
}

void xp_clusters_split(struct xp_clusters *c, const int16_t *sketch, unsigned s, unsigned first, size_t count)
{
    for (unsigned pass = 0; pass < s && c->count < count; pass++) {
        size_t equals, least = seed_threshold(c, count - c->count, &equals), before = c->count;
        uint32_t next = (uint32_t)before;

        for (size_t k = 0; k < before; k++) {
            const size_t size = c->start[k + 1] - c->start[k];

            if (size < 2 || size < least || (size == least && equals == 0))
                continue;
            equals -= size == least;
            next += split_one(c, k, sketch, s, (first + pass) % s, next) > 0;
        }
        c->count = next;
        if (next > before)
            renumber(c);
    }
}

uint64_t xp_clusters_distortion(const struct xp_clusters *c, const int16_t *sketch, unsigned s)
{
    uint64_t total = 0;

    for (size_t r = 0; r < c->rows; r++) {
        const int16_t *a = sketch + r * s, *m = c->centroids + (size_t)c->of[r] * s;
        for (unsigned j = 0; j < s; j++) {
            const int64_t d = a[j] - m[j];
            total += (uint64_t)(d * d);
        }
    }
    return total;
}
