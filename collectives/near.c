/*
 * near.c - rows inside the node (near.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/near.h"

#include <stdlib.h>
#include <string.h>

xp_status xp_near_create(struct xp_near *n, const struct xp_comm *c)
{
    size_t m = (size_t)c->node_size[c->node];
    memset(n, 0, sizeof *n);
    n->local = c->node_ranks + c->node_start[c->node];
    n->locals = c->node_size[c->node];
    n->index = c->local_index[c->rank];
    n->out_seg = calloc(m, sizeof *n->out_seg);
    n->in_seg = calloc(m, sizeof *n->in_seg);
    n->out = calloc(m, sizeof *n->out);
    n->in = calloc(m, sizeof *n->in);
    return n->out_seg && n->in_seg && n->out && n->in ? XP_OK : XP_ERR_NO_MEMORY;
}

void xp_near_destroy(struct xp_near *n)
{
    free(n->out_seg);
    free(n->in_seg);
    free(n->out);
    free(n->in);
    memset(n, 0, sizeof *n);
}

static void lay_out_segments(struct xp_near *n, const struct xp_shape *s, const struct xp_call *call)
{
    const struct xp_comm *c = s->comm;
    char *from = (char *)(uintptr_t)call->send, *to = call->recv;
    for (int i = 0; i < c->size; i++) {
        if (c->node_of[i] == c->node) {
            n->out_seg[c->local_index[i]] = (struct xp_segment){from, call->send_rows[i]};
            n->in_seg[c->local_index[i]] = (struct xp_segment){to, call->recv_rows[i]};
        }
        from += call->send_rows[i] * s->row_bytes;
        to += call->recv_rows[i] * s->row_bytes;
    }
}

void xp_near_begin(struct xp_near *n, struct xp_pipe *p, const struct xp_call *call)
{
    lay_out_segments(n, p->shape, call);
    for (int i = 0; i < n->locals; i++) {
        if (i == n->index)
            continue;
        xp_send_begin(&n->out[i], p, n->local[i], XP_STREAM_PLAIN, &n->out_seg[i], 1, 0);
        xp_recv_begin(&n->in[i], p, n->local[i], XP_STREAM_PLAIN, &n->in_seg[i], 1, 0);
    }
    xp_self_copy_begin(&n->self, &n->out_seg[n->index], &n->in_seg[n->index], p->shape->row_bytes);
}

int xp_near_headers_here(const struct xp_near *n, const struct xp_counts *k)
{
    for (int i = 0; i < n->locals; i++)
        if (i != n->index && !xp_counts_here(k, n->local[i]))
            return 0;
    return 1;
}

xp_status xp_near_check_tails(const struct xp_near *n, const struct xp_counts *k, size_t words)
{
    for (int i = 0; i < n->locals; i++)
        if (i != n->index && k->peers[n->local[i]].tail_words != words)
            return xp_error(k->shape->comm, XP_ERR_CORRUPT, "alltoallv: the header of rank %d is damaged", n->local[i]);
    return XP_OK;
}

xp_status xp_near_round(struct xp_near *n, struct xp_round *r)
{
    xp_status st = XP_OK;
    for (int i = 1; st == XP_OK && i < n->locals; i++) {
        int peer = (n->index + i) % n->locals;
        st = xp_round_send(r, &n->out[peer]);
        if (st == XP_OK)
            st = xp_round_recv(r, &n->in[peer]);
    }
    return st;
}

int xp_near_here(const struct xp_near *n, int i)
{
    return i == n->index || xp_recv_done(&n->in[i]);
}

void xp_near_cancel(struct xp_near *n)
{
    for (int i = 0; i < n->locals; i++) {
        xp_send_cancel(&n->out[i]);
        xp_recv_cancel(&n->in[i]);
    }
}
