/*
 * combine.c - rows back: units made for a hop, and their sum at home
 *
 * Where a hop between nodes carries sums, a unit is the sum of what this node has of a token: f32, slots ascending, rounded once.
 * Every other unit is a row as it is. At home: slots ascending over rows; over sums nodes ascending, the own node's part in f32.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/moe.h"
#include "collectives/rowmath.h"

/* acc = sum over entries [begin, end) of weight * their row in `from`, columns at .. at + n - 1. */
static void sum_entries(float *acc, const struct xp_moe *m, const struct xp_map_level *v, size_t begin, size_t end, const char *from,
                        int weighted, size_t at, size_t n)
{
    memset(acc, 0, n * sizeof *acc);
    for (size_t i = begin; i < end; i++)
        xp_row_add(acc, from + v->unit[i] * m->shape.row_bytes, m->shape.dtype, at, n, weighted ? v->entry[i].weight : 1);
}

void xp_units_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from, int weighted)
{
    const struct xp_map_level *v = &map->level[hop + 1];
    const struct xp_map_hop *p = &map->hop[hop];
    size_t bytes = m->shape.row_bytes, dim = m->shape.dim;
    float acc[XP_ROW_BLOCK];
    for (size_t u = 0; u < p->units_in; u++) {
        size_t begin = p->first[u], end = p->first[u + 1];
        char *out = m->out + u * bytes;
        if (!map->sum || hop != m->slow_hop || !xp_entry_is_far(m, map, &v->entry[begin])) {
            memcpy(out, (const char *)from + v->unit[begin] * bytes, bytes);
            continue;
        }
        for (size_t at = 0; at < dim; at += XP_ROW_BLOCK) {
            size_t n = dim - at < XP_ROW_BLOCK ? dim - at : XP_ROW_BLOCK;
            sum_entries(acc, m, v, begin, end, from, weighted, at, n);
            xp_row_store(out, m->shape.dtype, at, n, acc);
        }
    }
}

/* The entries of one token at home whose rows or sums are added in one go: those of one node where sums travel, else all. */
static size_t part_end(const struct xp_moe *m, const struct xp_map *map, size_t begin, size_t end)
{
    const struct xp_map_level *v = &map->level[0];
    const int *node_of = m->shape.comm->node_of;
    if (!map->sum)
        return end;
    int node = node_of[map->rank_of[v->entry[begin].expert]];
    size_t i = begin + 1;
    while (i < end && node_of[map->rank_of[v->entry[i].expert]] == node)
        i++;
    return i;
}

static void add_token(float *acc, float *part, struct xp_moe *m, const struct xp_map *map, size_t begin, size_t end, const char *from,
                      int weighted, size_t at, size_t n)
{
    const struct xp_map_level *v = &map->level[0];
    memset(acc, 0, n * sizeof *acc);
    for (size_t i = begin; i < end;) {
        size_t stop = part_end(m, map, i, end);
        if (map->sum && xp_entry_is_far(m, map, &v->entry[i])) {
            /* Several units only in flat: one for every rank of the node. */
            for (size_t k = i; k < stop; k++)
                if (k == i || v->unit[k] != v->unit[k - 1])
                    xp_row_add(acc, from + v->unit[k] * m->shape.row_bytes, m->shape.dtype, at, n, 1);
        } else {
            sum_entries(part, m, v, i, stop, from, weighted, at, n);
            for (size_t k = 0; k < n; k++)
                acc[k] += part[k];
        }
        i = stop;
    }
}

void xp_units_home(struct xp_moe *m, const struct xp_map *map, const void *from, int weighted, void *y)
{
    const struct xp_map_level *v = &map->level[0];
    float acc[XP_ROW_BLOCK], part[XP_ROW_BLOCK];
    size_t begin = 0;
    for (size_t t = 0; t < map->tokens; t++) {
        size_t end = begin;
        while (end < v->entries && v->entry[end].token == t)
            end++;
        for (size_t at = 0; at < m->shape.dim; at += XP_ROW_BLOCK) {
            size_t n = m->shape.dim - at < XP_ROW_BLOCK ? m->shape.dim - at : XP_ROW_BLOCK;
            add_token(acc, part, m, map, begin, end, from, weighted, at, n);
            xp_row_store((char *)y + t * m->shape.row_bytes, m->shape.dtype, at, n, acc);
        }
        begin = end;
    }
}
