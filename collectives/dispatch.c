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
    size_t bytes = m->shape.row_bytes;
    for (size_t i = 0; i < p->rows_out; i++)
        memcpy(m->out + i * bytes, (const char *)from + p->gather[i] * bytes, bytes);
}

/* The row of an entry that has come. */
static const char *row_of(const struct xp_moe *m, const struct xp_map *map, size_t i, const void *from, const void *own)
{
    const struct xp_map_level *v = &map->level[m->hops];
    return (const char *)(xp_entry_stays(m, map, &v->entry[i]) ? own : from) + v->row[i] * m->shape.row_bytes;
}

void xp_rows_arrive(struct xp_moe *m, const struct xp_map *map, const void *from, const void *own, void *rows)
{
    const struct xp_map_level *v = &map->level[m->hops];
    size_t bytes = m->shape.row_bytes;
    for (size_t i = 0; i < v->entries; i++)
        memcpy((char *)rows + v->unit[i] * bytes, row_of(m, map, i, from, own), bytes);
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

/* Gradients of the expert results: weight * grad_y; with the expert's rows also <grad_y, row>, in the order of the entries. */
void xp_rows_arrive_grad(struct xp_moe *m, const struct xp_map *map, const void *from, const void *own, const void *expert_rows,
                         void *grad_rows)
{
    const struct xp_map_level *v = &map->level[m->hops];
    const struct xp_moe_shape *s = &m->shape;
    for (size_t i = 0; i < v->entries; i++) {
        const char *grad = row_of(m, map, i, from, own);
        size_t at = v->unit[i] * s->row_bytes;
        if (expert_rows)
            m->dots[v->unit[i]] = xp_row_dot(grad, (const char *)expert_rows + at, s->dtype, s->dim);
        scale_row((char *)grad_rows + at, grad, s->dtype, s->dim, v->entry[i].weight);
    }
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
