/*
 * intake.c - rows are put to use while others of their hop are on their way
 *
 * Between two messages a rank has time to lay out what has come, and what needed no message. So of the work after the last hop only that on
 * the last rows is left when it ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe.h"

void xp_intake_begin(struct xp_moe *m, int hop, int outward, const void *from, const void *own)
{
    struct xp_intake *in = &m->intake;
    const struct xp_map_hop *p = &m->map->hop[hop];
    size_t rows = 0, entries = 0;
    in->from = from;
    in->own = own;
    in->count = outward ? p->rows_from : p->units_from;
    in->token = in->at = 0;
    in->placed = m->call.place != NULL;
    for (int i = 0; i < m->shape.comm->size; i++) {
        in->first[i] = rows;
        rows += in->count[i];
        in->entry[i] = entries;
        entries += p->entries_from[i];
        in->entry_end[i] = entries;
    }
}

size_t xp_intake_here(const struct xp_moe *m, int peer)
{
    const struct xp_channel *ch = &m->channel[m->step[m->at].channel];
    if (!m->calling)
        return m->intake.count[peer];
    return ch->ops->arrived ? ch->ops->arrived(ch->state, peer) : 0;
}
