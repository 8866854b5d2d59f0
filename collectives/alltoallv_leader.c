/*
 * alltoallv_leader.c - through the lowest rank of each node: gather, leaders among each other, scatter (HetuMoE, arXiv 2203.14685)
 *
 * Every rank hands its rows for other nodes to the leader of its node; leaders exchange one stream per pair of nodes, in which
 * rows that are copies of each other cross once, whoever sent them; the leader hands on what arrives while later rows are still
 * under way. Rows inside a node go directly. Fewest and longest messages on the slow hop, at the price of all of a node's rows
 * passing through one process.
 *
 * Order of a call
 *   1 every rank sends headers; the one to the leader also says how many rows go to, and are expected of, each rank of the
 *     other nodes. A leader sends its own headers only when those of its node are here, since they say what to post.
 *   2 with all headers, and all counts in agreement, rows move. A disagreement anywhere ends the call on every rank before any
 *     row has moved.
 *
 * Order of rows, everywhere: by node; then sender; then receiver; each in the order of comm->node_ranks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/cost.h"
#include "collectives/near.h"
#include "collectives/wire.h"

struct leader {
    const struct xp_shape *shape;
    int far;               /* ranks of other nodes */
    char *out_arena, *in_arena; /* leader: rows of the node that leave it, and that come for it */
    size_t out_rows, in_rows;

    struct xp_counts counts;
    struct xp_pipe pipe;
    struct xp_near near;         /* index 0 leads */
    struct xp_segment *send_seg; /* [size] in the order of comm->node_ranks */
    struct xp_segment *recv_seg; /* [size] in the same order */
    uint64_t *tail;          /* [2 far] */
    /* all but the leader */
    struct xp_segment *far_seg; /* [size]: send_seg without the own node */
    struct xp_send_stream gather_out;
    struct xp_recv_stream *fan_in; /* [nodes] */
    /* the leader */
    struct xp_segment *gather_seg; /* [locals][far] places in out_arena */
    struct xp_recv_stream *gather_in; /* [locals] */
    struct xp_segment *out_seg;    /* [nodes] a node's rows in out_arena */
    struct xp_send_stream *node_out; /* [nodes] */
    struct xp_segment *in_seg;     /* [nodes] a node's rows in in_arena */
    struct xp_segment *fan_seg;    /* [locals][far] of these, the rows of one sender for one receiver */
    struct xp_recv_stream *node_in; /* [nodes] */
    int *handed_over;              /* [nodes] the own rows among them are in the caller's memory */
    struct xp_send_stream *fan_out; /* [nodes][locals] */
    enum { LEADER_HEADERS, LEADER_COUNTS, LEADER_GATHER, LEADER_ROWS } phase;
    int turn, active;
};

static int leads(const struct leader *h)
{
    return h->near.index == 0;
}

static int leader_of(const struct xp_comm *c, int node)
{
    return c->node_ranks[c->node_start[node]];
}

/* Position of the first rank of a node among the ranks of other nodes. */
static int far_start(const struct xp_comm *c, int node)
{
    return c->node_start[node] - (node > c->node ? c->node_size[c->node] : 0);
}

/* Position in comm->node_ranks of the i-th rank of other nodes. */
static int far_rank(const struct xp_comm *c, int i)
{
    return i < c->node_start[c->node] ? i : i + c->node_size[c->node];
}

static size_t tail_words(const struct xp_comm *c)
{
    int smallest = c->size;
    for (int i = 0; i < c->nodes; i++)
        smallest = c->node_size[i] < smallest ? c->node_size[i] : smallest;
    return 2 * (size_t)(c->size - smallest);
}

static double leader_score(const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    if (c->size > XP_STREAM_MAX_RANKS || XP_COUNTS_HEADER + 8 * tail_words(c) > XP_CTRL_MAX)
        return -1;
    return xp_cost_leader(s);
}

/* ---- create ---------------------------------------------------------------------------------------------------------- */

/* Most rows that leave this node, and that come for it. */
static void passing_rows(struct leader *h)
{
    const struct xp_shape *s = h->shape;
    size_t taken = 0;
    for (int i = 0; i < s->comm->size; i++) {
        if (s->comm->node_of[i] == s->comm->node) {
            h->out_rows = xp_add_saturated(h->out_rows, s->peer_max_send[i]);
            taken = xp_add_saturated(taken, s->peer_max_recv[i]);
        } else {
            h->in_rows = xp_add_saturated(h->in_rows, s->peer_max_send[i]);
        }
    }
    h->in_rows = taken < h->in_rows ? taken : h->in_rows;
}

static void leader_destroy(void *state)
{
    struct leader *h = state;
    if (!h)
        return;
    xp_counts_destroy(&h->counts);
    xp_pipe_destroy(&h->pipe);
    free(h->out_arena);
    free(h->in_arena);
    free(h->send_seg);
    free(h->recv_seg);
    xp_near_destroy(&h->near);
    free(h->tail);
    free(h->far_seg);
    free(h->fan_in);
    free(h->gather_seg);
    free(h->gather_in);
    free(h->out_seg);
    free(h->node_out);
    free(h->in_seg);
    free(h->fan_seg);
    free(h->node_in);
    free(h->handed_over);
    free(h->fan_out);
    free(h);
}

static char *arena(const struct leader *h, size_t rows)
{
    size_t bytes;
    if (__builtin_mul_overflow(rows, h->shape->row_bytes, &bytes) || bytes == SIZE_MAX)
        return NULL;
    return malloc(bytes + 1);
}

static xp_status allocate_leader(struct leader *h)
{
    size_t nodes = (size_t)h->shape->comm->nodes, m = (size_t)h->near.locals, far = (size_t)h->far;
    passing_rows(h);
    h->out_arena = arena(h, h->out_rows);
    h->in_arena = arena(h, h->in_rows);
    h->gather_seg = calloc(m * far + 1, sizeof *h->gather_seg);
    h->gather_in = calloc(m, sizeof *h->gather_in);
    h->out_seg = calloc(nodes, sizeof *h->out_seg);
    h->node_out = calloc(nodes, sizeof *h->node_out);
    h->in_seg = calloc(nodes, sizeof *h->in_seg);
    h->fan_seg = calloc(m * far + 1, sizeof *h->fan_seg);
    h->node_in = calloc(nodes, sizeof *h->node_in);
    h->handed_over = calloc(nodes, sizeof *h->handed_over);
    h->fan_out = calloc(nodes * m, sizeof *h->fan_out);
    return h->out_arena && h->in_arena && h->gather_seg && h->gather_in && h->out_seg && h->node_out && h->in_seg &&
                   h->fan_seg && h->node_in && h->handed_over && h->fan_out
               ? XP_OK
               : XP_ERR_NO_MEMORY;
}

static xp_status allocate(struct leader *h)
{
    size_t n = (size_t)h->shape->comm->size;
    h->send_seg = calloc(n, sizeof *h->send_seg);
    h->recv_seg = calloc(n, sizeof *h->recv_seg);
    h->tail = calloc(tail_words(h->shape->comm) + 1, sizeof *h->tail);
    h->far_seg = calloc(n, sizeof *h->far_seg);
    h->fan_in = calloc((size_t)h->shape->comm->nodes, sizeof *h->fan_in);
    if (!h->send_seg || !h->recv_seg || !h->tail || !h->far_seg || !h->fan_in)
        return XP_ERR_NO_MEMORY;
    return leads(h) ? allocate_leader(h) : XP_OK;
}

static struct xp_pipe_limits limits_of(const struct leader *h)
{
    const struct xp_shape *s = h->shape;
    size_t n = (size_t)s->comm->size, m = (size_t)h->near.locals, far = (size_t)h->far;
    struct xp_pipe_limits l = {.recv_rows = s->max_recv_rows, .recv_segments = m + n};
    if (leads(h)) {
        l.recv_rows += h->out_rows + h->in_rows;
        l.recv_segments += m * far + (size_t)s->comm->nodes;
    }
    if (leads(h) && s->comm->nodes > 1 && (s->dedup || s->coder)) {
        l.send_rows_staged = h->out_rows;
        l.recv_rows_staged = h->in_rows;
        l.send_streams_staged = l.recv_streams_staged = (size_t)s->comm->nodes - 1;
    }
    return l;
}

static xp_status leader_create(void **state, const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    struct leader *h = calloc(1, sizeof *h);
    if (!h)
        return XP_ERR_NO_MEMORY;
    h->shape = s;
    h->far = c->size - c->node_size[c->node];
    xp_status st = xp_near_create(&h->near, c);
    if (st == XP_OK)
        st = allocate(h);
    struct xp_pipe_limits l = limits_of(h);
    if (st == XP_OK)
        st = xp_counts_create(&h->counts, s, tail_words(c));
    if (st == XP_OK)
        st = xp_pipe_create(&h->pipe, s, &l);
    if (st != XP_OK) {
        leader_destroy(h);
        return st;
    }
    *state = h;
    return XP_OK;
}

/* ---- step 1: headers --------------------------------------------------------------------------------------------------- */

static void lay_out_segments(struct leader *h, const struct xp_call *call)
{
    const struct xp_comm *c = h->shape->comm;
    size_t row_bytes = h->shape->row_bytes;
    char *from = (char *)(uintptr_t)call->send, *to = call->recv;
    for (int i = 0; i < c->size; i++) {
        int at = c->node_start[c->node_of[i]] + c->local_index[i];
        h->send_seg[at] = (struct xp_segment){from, call->send_rows[i]};
        h->recv_seg[at] = (struct xp_segment){to, call->recv_rows[i]};
        from += call->send_rows[i] * row_bytes;
        to += call->recv_rows[i] * row_bytes;
    }
    for (int i = 0; i < h->far; i++) {
        h->far_seg[i] = h->send_seg[far_rank(c, i)];
        h->tail[i] = h->far_seg[i].rows;
        h->tail[h->far + i] = h->recv_seg[far_rank(c, i)].rows;
    }
}

/* What a rank that does not lead has to do with its leader. */
static void begin_follower(struct leader *h)
{
    const struct xp_comm *c = h->shape->comm;
    xp_send_begin(&h->gather_out, &h->pipe, h->near.local[0], XP_STREAM_RELAY + (unsigned)c->rank, h->far_seg, (size_t)h->far, 0);
    for (int b = 0; b < c->nodes; b++)
        if (b != c->node)
            xp_recv_begin(&h->fan_in[b], &h->pipe, h->near.local[0], XP_STREAM_RELAY + (unsigned)leader_of(c, b),
                          &h->recv_seg[c->node_start[b]], (size_t)c->node_size[b], 0);
}

static void send_headers(struct leader *h)
{
    const struct xp_comm *c = h->shape->comm;
    for (int i = 1; i < c->size; i++) {
        int to = (c->rank + i) % c->size;
        xp_counts_send(&h->counts, to, h->tail, to == h->near.local[0] ? 2 * (size_t)h->far : 0, h->pipe.stats);
    }
}

static void clear_streams(struct leader *h)
{
    size_t nodes = (size_t)h->shape->comm->nodes, m = (size_t)h->near.locals;
    memset(&h->gather_out, 0, sizeof h->gather_out);
    memset(h->fan_in, 0, nodes * sizeof *h->fan_in);
    if (!leads(h))
        return;
    memset(h->gather_in, 0, m * sizeof *h->gather_in);
    memset(h->node_out, 0, nodes * sizeof *h->node_out);
    memset(h->node_in, 0, nodes * sizeof *h->node_in);
    memset(h->handed_over, 0, nodes * sizeof *h->handed_over);
    memset(h->fan_out, 0, nodes * m * sizeof *h->fan_out);
}

static xp_status leader_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct leader *h = state;
    xp_pipe_begin(&h->pipe, call, stats);
    xp_counts_begin(&h->counts, call);
    lay_out_segments(h, call);
    clear_streams(h);
    h->phase = LEADER_HEADERS;
    h->turn = 0;
    h->active = 1;
    xp_near_begin(&h->near, &h->pipe, call);
    if (leads(h))
        return XP_OK;
    begin_follower(h);
    send_headers(h);
    h->phase = LEADER_COUNTS;
    return XP_OK;
}

/* Rows that local rank i sends to (what = 0), or expects of (what = 1), the k-th rank of other nodes. */
static uint64_t told(const struct leader *h, int i, int what, int k)
{
    if (i == h->near.index)
        return h->tail[what * h->far + k];
    return xp_get64(h->counts.peers[h->near.local[i]].tail + 8 * (what * h->far + k));
}

/* Places of the rows that leave the node. Returns 0 when they are more than the maxima of the plan allow. */
static int place_outgoing(struct leader *h)
{
    const struct xp_comm *c = h->shape->comm;
    size_t used = 0;
    for (int b = 0; b < c->nodes; b++) {
        if (b == c->node)
            continue;
        h->out_seg[b] = (struct xp_segment){h->out_arena + used * h->shape->row_bytes, 0};
        for (int i = 0; i < h->near.locals; i++) {
            for (int k = far_start(c, b); k < far_start(c, b) + c->node_size[b]; k++) {
                uint64_t rows = told(h, i, 0, k);
                if (rows > h->out_rows - used)
                    return 0;
                h->gather_seg[i * h->far + k] = (struct xp_segment){h->out_arena + used * h->shape->row_bytes, rows};
                h->out_seg[b].rows += rows;
                used += rows;
            }
        }
    }
    return 1;
}

/* Places of the rows that come for the node. */
static int place_incoming(struct leader *h)
{
    const struct xp_comm *c = h->shape->comm;
    size_t used = 0;
    for (int b = 0; b < c->nodes; b++) {
        h->in_seg[b] = (struct xp_segment){h->in_arena + used * h->shape->row_bytes, 0};
        for (int k = far_start(c, b); b != c->node && k < far_start(c, b) + c->node_size[b]; k++) {
            for (int i = 0; i < h->near.locals; i++) {
                uint64_t rows = told(h, i, 1, k);
                if (rows > h->in_rows - used)
                    return 0;
                h->fan_seg[i * h->far + k] = (struct xp_segment){h->in_arena + used * h->shape->row_bytes, rows};
                h->in_seg[b].rows += rows;
                used += rows;
            }
        }
    }
    return 1;
}

/* With the headers of the node here: everything is posted, and the own headers say so. */
static xp_status open_streams(struct leader *h)
{
    const struct xp_shape *s = h->shape;
    const struct xp_comm *c = s->comm;
    xp_status st = xp_near_check_tails(&h->near, &h->counts, 2 * (size_t)h->far);
    if (st != XP_OK)
        return st;
    h->phase = LEADER_COUNTS;
    h->counts.no_room = !place_outgoing(h) || !place_incoming(h);
    for (int i = 1; !h->counts.no_room && i < h->near.locals; i++)
        xp_recv_begin(&h->gather_in[i], &h->pipe, h->near.local[i], XP_STREAM_RELAY + (unsigned)h->near.local[i], &h->gather_seg[i * h->far],
                      (size_t)h->far, 0);
    for (int b = 0; !h->counts.no_room && b < c->nodes; b++) {
        if (b == c->node)
            continue;
        int first = far_start(c, b);
        xp_recv_begin(&h->node_in[b], &h->pipe, leader_of(c, b), XP_STREAM_PLAIN, &h->in_seg[b], 1, s->dedup || s->coder);
        xp_send_begin(&h->node_out[b], &h->pipe, leader_of(c, b), XP_STREAM_PLAIN, &h->out_seg[b], 1, s->dedup || s->coder);
        for (int i = 1; i < h->near.locals; i++) {
            struct xp_send_stream *fan = &h->fan_out[b * h->near.locals + i];
            xp_send_begin(fan, &h->pipe, h->near.local[i], XP_STREAM_RELAY + (unsigned)leader_of(c, b), &h->fan_seg[i * h->far + first],
                          (size_t)c->node_size[b], 0);
            fan->ready = 0;
        }
    }
    send_headers(h);
    return XP_OK;
}

static xp_status counts_round(struct leader *h, int *moved)
{
    xp_status st = xp_counts_progress(&h->counts, moved);
    if (st == XP_OK && h->phase == LEADER_HEADERS && xp_near_headers_here(&h->near, &h->counts)) {
        st = open_streams(h);
        ++*moved;
    }
    if (st != XP_OK)
        return st;
    if (h->phase == LEADER_HEADERS || !xp_counts_done(&h->counts))
        return XP_IN_PROGRESS;
    st = xp_counts_verdict(&h->counts);
    if (st != XP_OK)
        return st;
    h->phase = leads(h) ? LEADER_GATHER : LEADER_ROWS;
    return XP_IN_PROGRESS;
}

/* ---- step 2: rows -------------------------------------------------------------------------------------------------------- */

/* The own rows that leave the node join those of the others. */
static void copy_own_rows(struct leader *h)
{
    for (int k = 0; k < h->far; k++)
        if (h->far_seg[k].rows)
            memcpy(h->gather_seg[k].base, h->far_seg[k].base, h->far_seg[k].rows * h->shape->row_bytes);
}

/* When the node's rows are together they are looked at as one batch, and leave. */
static xp_status gather_round(struct leader *h, struct xp_round *r)
{
    struct xp_round gathered = {.encodes = r->encodes, .decodes = r->decodes, .done = 1, .moved = r->moved};
    xp_status st = XP_OK;
    for (int i = 1; st == XP_OK && i < h->near.locals; i++)
        st = xp_round_recv(&gathered, &h->gather_in[i]);
    r->done = 0;
    if (st != XP_OK || !gathered.done)
        return st;
    copy_own_rows(h);
    h->pipe.all.data = h->out_arena;
    h->pipe.all.rows = 0;
    for (int b = 0; b < h->shape->comm->nodes; b++)
        h->pipe.all.rows += h->out_seg[b].rows;
    h->phase = LEADER_ROWS;
    return XP_OK;
}

/* How many rows for local rank i, of the node's ranks, are among the first `complete` rows of node b's stream. */
static size_t ready_for(const struct leader *h, int b, int i, size_t complete)
{
    const struct xp_comm *c = h->shape->comm;
    size_t before = 0, ready = 0;
    for (int k = far_start(c, b); k < far_start(c, b) + c->node_size[b]; k++) {
        for (int j = 0; j < h->near.locals; j++) {
            size_t rows = h->fan_seg[j * h->far + k].rows, here = complete > before ? complete - before : 0;
            if (j == i)
                ready += here < rows ? here : rows;
            before += rows;
        }
    }
    return ready;
}

static void hand_over_own(struct leader *h, int b)
{
    const struct xp_comm *c = h->shape->comm;
    for (int k = far_start(c, b); k < far_start(c, b) + c->node_size[b]; k++)
        if (h->fan_seg[k].rows)
            memcpy(h->recv_seg[far_rank(c, k)].base, h->fan_seg[k].base, h->fan_seg[k].rows * h->shape->row_bytes);
    h->handed_over[b] = 1;
}

/* What has come of another node's stream goes on to the local ranks. */
static xp_status scatter_round(struct leader *h, int b, struct xp_round *r)
{
    struct xp_recv_stream *in = &h->node_in[b];
    xp_status st = xp_round_recv(r, in);
    for (int i = 1; st == XP_OK && in->pipe && i < h->near.locals; i++) {
        struct xp_send_stream *fan = &h->fan_out[b * h->near.locals + i];
        fan->ready = ready_for(h, b, i, in->complete);
        st = xp_round_send(r, fan);
    }
    if (st == XP_OK && in->pipe && !h->handed_over[b] && xp_recv_done(in))
        hand_over_own(h, b);
    return st;
}

static xp_status leader_rows(struct leader *h, struct xp_round *r)
{
    const struct xp_comm *c = h->shape->comm;
    xp_status st = XP_OK;
    for (int i = 0; st == XP_OK && i < c->nodes; i++) {
        int b = (h->turn + i) % c->nodes;
        if (h->phase == LEADER_ROWS)
            st = xp_round_send(r, &h->node_out[b]);
        if (st == XP_OK)
            st = scatter_round(h, b, r);
    }
    return st;
}

static xp_status rows_round(struct leader *h, struct xp_round *r)
{
    const struct xp_comm *c = h->shape->comm;
    xp_status st = XP_OK;
    if (h->phase == LEADER_GATHER)
        st = gather_round(h, r);
    if (st == XP_OK && leads(h))
        st = leader_rows(h, r);
    if (st == XP_OK)
        st = xp_round_send(r, &h->gather_out);
    for (int b = 0; st == XP_OK && b < c->nodes; b++)
        st = xp_round_recv(r, &h->fan_in[b]);
    if (st == XP_OK)
        st = xp_near_round(&h->near, r);
    h->turn = (h->turn + 1) % (1 << 20);
    return st;
}

static xp_status leader_progress(void *state, int *moved)
{
    struct leader *h = state;
    int copied = xp_self_copy_progress(&h->near.self, moved);
    if (h->phase != LEADER_GATHER && h->phase != LEADER_ROWS) {
        xp_status st = counts_round(h, moved);
        if (st != XP_IN_PROGRESS || (h->phase != LEADER_GATHER && h->phase != LEADER_ROWS))
            return st;
    }
    struct xp_round r = {.encodes = 1, .decodes = 1, .done = copied, .moved = moved};
    xp_status st = xp_pipe_reap(&h->pipe, moved);
    if (st == XP_OK)
        st = rows_round(h, &r);
    return st == XP_OK ? xp_round_end(&r, &h->pipe) : st;
}

static void leader_waiting_for(void *state, char *text, size_t size)
{
    struct leader *h = state;
    const struct xp_comm *c = h->shape->comm;
    int rows = h->phase == LEADER_GATHER || h->phase == LEADER_ROWS;
    text[0] = 0;
    size_t len = xp_counts_waiting(&h->counts, text, size);
    for (int i = 0; rows && i < h->near.locals && len + 1 < size; i++)
        if (!xp_near_here(&h->near, i) || (leads(h) && h->gather_in[i].pipe && !xp_recv_done(&h->gather_in[i])))
            len += (size_t)snprintf(text + len, size - len, "%srows of rank %d", len ? ", " : "", h->near.local[i]);
    for (int b = 0; rows && b < c->nodes && len + 1 < size; b++)
        if ((h->fan_in[b].pipe && !xp_recv_done(&h->fan_in[b])) || (leads(h) && h->node_in[b].pipe && !xp_recv_done(&h->node_in[b])))
            len += (size_t)snprintf(text + len, size - len, "%srows of node %d through rank %d", len ? ", " : "", b,
                                    leads(h) ? leader_of(c, b) : h->near.local[0]);
}

static void leader_finish(void *state)
{
    struct leader *h = state;
    const struct xp_comm *c = h->shape->comm;
    if (!h->active)
        return;
    h->active = 0;
    xp_counts_cancel(&h->counts);
    xp_send_cancel(&h->gather_out);
    xp_near_cancel(&h->near);
    for (int i = 0; leads(h) && i < h->near.locals; i++)
        xp_recv_cancel(&h->gather_in[i]);
    for (int b = 0; b < c->nodes; b++) {
        xp_recv_cancel(&h->fan_in[b]);
        if (!leads(h))
            continue;
        xp_send_cancel(&h->node_out[b]);
        xp_recv_cancel(&h->node_in[b]);
        for (int i = 0; i < h->near.locals; i++)
            xp_send_cancel(&h->fan_out[b * h->near.locals + i]);
    }
    xp_pipe_cancel(&h->pipe);
}

const struct xp_algo_ops xp_algo_leader = {
    .size = sizeof(struct xp_algo_ops),
    .name = "leader",
    .about = "gathered at one rank of each node, one stream per pair of nodes, scattered",
    .score = leader_score,
    .create = leader_create,
    .start = leader_start,
    .progress = leader_progress,
    .waiting_for = leader_waiting_for,
    .finish = leader_finish,
    .destroy = leader_destroy,
};
