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

#define LINE 64 /* of a cache */

/* Rows of experts lie anywhere: they are asked for a row ahead. */
static void fetch(const void *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)row + i);
}

/* The sum over the entries of a unit of weight * their row. */
static void leave_sum(struct xp_moe *m, const struct xp_map_level *v, struct xp_span unit, const char *from, int weighted, void *out)
{
    size_t n = 0;
    for (size_t i = unit.begin; i < unit.end; i++)
        m->term[n++] = (struct xp_sum_term){from + v->unit[i] * m->shape.row_bytes, weighted ? v->entry[i].weight : 1, i + 1 == unit.end};
    m->kernels.row_sum(m->term, n, m->shape.dtype, m->shape.dim, out);
}

/* Nothing is summed: units are rows. */
static void list_units(struct xp_moe *m, const struct xp_map *map, int hop, const char *from)
{
    const struct xp_map_hop *p = &map->hop[hop];
    size_t bytes = m->shape.row_bytes, first = 0, me = (size_t)m->shape.comm->rank;
    for (size_t u = 0; u < p->units_in; u++)
        m->sort[u] = map->level[hop + 1].unit[p->unit[u].begin];
    for (size_t to = 0; to < me; to++)
        first += p->units_to[to];
    for (size_t u = first; u < first + p->units_to[me]; u++)
        memcpy(m->out + u * bytes, from + m->sort[u] * bytes, bytes);
}

void xp_units_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from, int weighted)
{
    const struct xp_map_level *v = &map->level[hop + 1];
    const struct xp_map_hop *p = &map->hop[hop];
    size_t bytes = m->shape.row_bytes;
    if (!map->sum) {
        list_units(m, map, hop, from);
        return;
    }
    for (size_t u = 0; u < p->units_in; u++) {
        const struct xp_span unit = p->unit[u];
        char *out = m->out + u * bytes;
        for (size_t i = unit.end; u + 1 < p->units_in && i < p->unit[u + 1].end; i++)
            fetch((const char *)from + v->unit[i] * bytes, bytes);
        if (hop == m->slow_hop && xp_entry_is_far(m, map, &v->entry[unit.begin]))
            leave_sum(m, v, unit, from, weighted, out);
        else
            memcpy(out, (const char *)from + v->unit[unit.begin] * bytes, bytes);
    }
}

/* What comes home for an entry. */
static const char *home_row(const struct xp_moe *m, const struct xp_map *map, size_t i)
{
    const struct xp_map_level *v = &map->level[0];
    return (xp_entry_stays(m, map, &v->entry[i]) ? m->intake.own : m->intake.from) + v->unit[i] * m->shape.row_bytes;
}

/* Whether it has come. */
static int is_home(const struct xp_moe *m, const struct xp_map *map, size_t i)
{
    const struct xp_map_level *v = &map->level[0];
    const struct xp_entry *e = &v->entry[i];
    const int peer = xp_path_at(m->shape.comm, m->shape.path, e->source, map->rank_of[e->expert], 1);
    return xp_entry_stays(m, map, e) || v->unit[i] - m->intake.first[peer] < xp_intake_here(m, peer);
}

/* The terms of a token's row: what far nodes summed is a part for itself, and so are the rows of the own node together; where nothing is
 * summed all rows make one part. */
static size_t list_terms(struct xp_moe *m, const struct xp_map *map, struct xp_span token, int weighted)
{
    const struct xp_map_level *v = &map->level[0];
    size_t n = 0;
    for (size_t i = token.begin; i < token.end; i++) {
        const struct xp_entry *e = &v->entry[i], *next = i + 1 < token.end ? e + 1 : NULL;
        const int summed = map->sum && xp_entry_is_far(m, map, e);
        const char *row = home_row(m, map, i);
        if (summed && n && m->term[n - 1].row == row) /* of the unit before */
            continue;
        m->term[n++] = (struct xp_sum_term){row, weighted && !summed ? e->weight : 1, summed || !next || (map->sum && xp_entry_is_far(m, map, next))};
    }
    return n;
}

static struct xp_span entries_of(const struct xp_map_level *v, size_t begin, size_t token)
{
    size_t end = begin;
    while (end < v->entries && v->entry[end].token == token)
        end++;
    return (struct xp_span){(uint32_t)begin, (uint32_t)end};
}

static int all_home(const struct xp_moe *m, const struct xp_map *map, struct xp_span token)
{
    for (size_t i = token.begin; m->calling && i < token.end; i++)
        if (!is_home(m, map, i))
            return 0;
    return 1;
}

size_t xp_units_home(struct xp_moe *m, const struct xp_map *map, int weighted, size_t most)
{
    const struct xp_map_level *v = &map->level[0];
    struct xp_intake *in = &m->intake;
    struct xp_span token = entries_of(v, in->at, in->token);
    size_t done = 0;
    while (in->token < map->tokens && done < most && all_home(m, map, token)) {
        const struct xp_span next = entries_of(v, token.end, in->token + 1);
        for (size_t i = next.begin; i < next.end; i++)
            fetch(home_row(m, map, i), m->shape.row_bytes);
        const size_t n = list_terms(m, map, token, weighted);
        m->kernels.row_sum(m->term, n, m->shape.dtype, m->shape.dim, (char *)m->op.out + in->token * m->shape.row_bytes);
        token = next;
        in->token++;
        in->at = next.begin;
        done++;
    }
    return done;
}
