/*
 * dispatch.c - rows outward: gathered for a hop, put into expert layout; and the scalars that come back for weights
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/moe.h"
#include "collectives/rowmath.h"

void xp_rows_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from)
{
    const struct xp_map_hop *p = &map->hop[hop];
    size_t bytes = m->shape.row_bytes, first = 0, me = (size_t)m->shape.comm->rank;
    for (size_t to = 0; to < me; to++)
        first += p->rows_to[to];
    for (size_t i = first; i < first + p->rows_to[me]; i++)
        memcpy(m->out + i * bytes, (const char *)from + p->gather[i] * bytes, bytes);
}

static void scale_row(void *out, const void *in, xp_dtype t, size_t dim, float w)
{
    float acc[XP_ROW_BLOCK];
    for (size_t at = 0; at < dim; at += XP_ROW_BLOCK) {
        size_t n = dim - at < XP_ROW_BLOCK ? dim - at : XP_ROW_BLOCK;
        for (size_t i = 0; i < n; i++)
            acc[i] = -0.0f; /* what is added to it stays as it is, the sign of a zero included */
        xp_row_add(acc, in, t, at, n, w);
        xp_row_store(out, t, at, n, acc);
    }
}

/* The gradient of an expert's result: weight * grad_y; with the expert's rows also <grad_y, row>, in the order of the entries. */
static void arrive_grad(struct xp_moe *m, const struct xp_map_level *v, size_t i, const char *grad)
{
    const struct xp_moe_shape *s = &m->shape;
    size_t at = v->unit[i] * s->row_bytes;
    if (m->op.second)
        m->dots[v->unit[i]] = xp_row_dot(grad, (const char *)m->op.second + at, s->dtype, s->dim);
    scale_row((char *)m->op.out + at, grad, s->dtype, s->dim, v->entry[i].weight);
}

/* Entries of one peer. */
static size_t arrive_from(struct xp_moe *m, const struct xp_map *map, int peer, size_t most)
{
    const struct xp_map_level *v = &map->level[m->hops];
    const struct xp_intake *in = &m->intake;
    const size_t bytes = m->shape.row_bytes, begin = in->entry[peer], here = in->first[peer] + xp_intake_here(m, peer);
    size_t i = begin;
    for (; i < in->entry_end[peer] && i - begin < most; i++) {
        const int stays = xp_entry_stays(m, map, &v->entry[i]);
        if (!stays && v->row[i] >= here)
            break;
        if (!stays && in->placed)
            continue;
        const char *row = (stays ? in->own : in->from) + v->row[i] * bytes;
        if (m->op.kind == XP_MOE_COMBINE_BACKWARD && !m->folded)
            arrive_grad(m, v, i, row);
        else
            memcpy((char *)m->op.out + v->unit[i] * bytes, row, bytes);
    }
    in->entry[peer] = i;
    return i - begin;
}

size_t xp_rows_arrive(struct xp_moe *m, const struct xp_map *map, size_t most)
{
    size_t n = 0;
    for (int peer = 0; peer < m->shape.comm->size && n < most; peer++)
        n += arrive_from(m, map, peer, most - n);
    return n;
}

/* One scalar per entry, back over a hop: `from` is in the order in which entries came back to the level behind it. */
void xp_scalars_leave(struct xp_moe *m, const struct xp_map *map, int hop, const float *from)
{
    const struct xp_map_level *v = &map->level[hop + 1];
    float *out = (float *)(void *)m->records_out;
    for (size_t i = 0; i < v->entries; i++)
        out[i] = from[v->back[i]];
}

void xp_scalars_home(struct xp_moe *m, const struct xp_routing *r, const float *from, float *grad_weight)
{
    const struct xp_map_level *v = &r->map.level[0];
    memset(grad_weight, 0, r->map.tokens * (size_t)r->topk * sizeof *grad_weight);
    for (size_t i = 0; i < v->entries; i++)
        grad_weight[v->entry[i].token * (size_t)r->topk + v->entry[i].slot] = from[v->back[i]];
}
