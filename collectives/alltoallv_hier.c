/*
 * alltoallv_hier.c - between nodes first, then inside the node
 *
 * Rank (node a, index g) sends all its rows for node b, whatever their rank there, as one stream to the proxy of b: index
 * g mod size of b. Rows that are copies of each other cross once, also when they go to different ranks of b. The proxy hands
 * the rows on over shared memory while later ones still arrive. Rows for the own node go directly.
 *
 * Order of a call
 *   1 every rank posts what it receives inside its node, and sends headers to the ranks of its node; the header to a local rank
 *     also says how many rows are expected of each rank that this one is the proxy for
 *   2 with all local headers, a proxy posts the node streams, and headers go to the other nodes
 *   3 with all headers, and all counts in agreement, rows move. A disagreement anywhere ends the call on every rank before
 *     any row has moved.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/cost.h"
#include "collectives/near.h"
#include "collectives/wire.h"

struct hier {
    const struct xp_shape *shape;
    int *sources;       /* [nsources] ranks of other nodes whose streams this rank takes in for its node */
    int nsources;
    size_t tail_words;  /* most sources of any rank of the comm */
    size_t arena_rows;
    char *arena;        /* rows on their way through this rank */

    struct xp_counts counts;
    struct xp_pipe pipe;
    struct xp_near near;
    struct xp_segment *send_seg; /* [size] in the order of comm->node_ranks: a node's segments lie together */
    struct xp_segment *recv_seg; /* [size] by rank */
    struct xp_send_stream *node_out; /* [nodes] to the proxies */
    struct xp_recv_stream *node_in;  /* [nsources] as a proxy */
    struct xp_segment *node_in_seg;  /* [nsources][locals] */
    struct xp_send_stream *fan_out;  /* [nsources][locals] from node_in on to the local ranks */
    struct xp_recv_stream *fan_in;   /* [size] rows of a rank of another node, through its proxy here */
    uint64_t *tail;
    enum { HIER_LOCAL, HIER_COUNTS, HIER_ROWS } phase;
    int turn, active;
};

/* ---- who serves whom ------------------------------------------------------------------------------------------------ */

/* The rank of `node` that takes in the rows of `source`. */
static int proxy_of(const struct xp_comm *c, int source, int node)
{
    return c->node_ranks[c->node_start[node] + c->local_index[source] % c->node_size[node]];
}

/* The ranks of other nodes whose proxy in its node is `proxy`, in the order of node_ranks. out may be NULL. */
static int sources_of(const struct xp_comm *c, int proxy, int *out)
{
    int n = 0;
    for (int i = 0; i < c->size; i++) {
        int source = c->node_ranks[i];
        if (c->node_of[source] == c->node_of[proxy] || proxy_of(c, source, c->node_of[proxy]) != proxy)
            continue;
        if (out)
            out[n] = source;
        n++;
    }
    return n;
}

static size_t most_sources(const struct xp_comm *c)
{
    int most = 0;
    for (int i = 0; i < c->size; i++) {
        int n = sources_of(c, i, NULL);
        most = n > most ? n : most;
    }
    return (size_t)most;
}

static double hier_score(const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    if (c->size > XP_STREAM_MAX_RANKS || XP_COUNTS_HEADER + 8 * most_sources(c) > XP_CTRL_MAX)
        return -1;
    return xp_cost_hier(s);
}

/* ---- create ---------------------------------------------------------------------------------------------------------- */

/* Most rows that can pass through this rank: what its sources can send, or its node can take. */
static size_t passing_rows(const struct hier *h)
{
    size_t sent = 0, taken = 0;
    for (int i = 0; i < h->nsources; i++)
        sent = xp_add_saturated(sent, h->shape->peer_max_send[h->sources[i]]);
    for (int i = 0; i < h->near.locals; i++)
        taken = xp_add_saturated(taken, h->shape->peer_max_recv[h->near.local[i]]);
    return sent < taken ? sent : taken;
}

static void hier_destroy(void *state)
{
    struct hier *h = state;
    if (!h)
        return;
    xp_counts_destroy(&h->counts);
    xp_pipe_destroy(&h->pipe);
    free(h->sources);
    free(h->arena);
    free(h->send_seg);
    free(h->recv_seg);
    xp_near_destroy(&h->near);
    free(h->node_out);
    free(h->node_in);
    free(h->node_in_seg);
    free(h->fan_out);
    free(h->fan_in);
    free(h->tail);
    free(h);
}

static xp_status allocate(struct hier *h)
{
    const struct xp_comm *c = h->shape->comm;
    size_t n = (size_t)c->size, m = (size_t)h->near.locals, src = (size_t)h->nsources, bytes;
    h->send_seg = calloc(n, sizeof *h->send_seg);
    h->recv_seg = calloc(n, sizeof *h->recv_seg);
    h->node_out = calloc((size_t)c->nodes, sizeof *h->node_out);
    h->node_in = calloc(src + 1, sizeof *h->node_in);
    h->node_in_seg = calloc(src * m + 1, sizeof *h->node_in_seg);
    h->fan_out = calloc(src * m + 1, sizeof *h->fan_out);
    h->fan_in = calloc(n, sizeof *h->fan_in);
    h->tail = calloc(h->tail_words + 1, sizeof *h->tail);
    if (__builtin_mul_overflow(h->arena_rows, h->shape->row_bytes, &bytes))
        return XP_ERR_NO_MEMORY;
    h->arena = malloc(bytes + 1);
    return h->send_seg && h->recv_seg && h->node_out && h->node_in && h->node_in_seg &&
                   h->fan_out && h->fan_in && h->tail && h->arena
               ? XP_OK
               : XP_ERR_NO_MEMORY;
}

static struct xp_pipe_limits limits_of(const struct hier *h)
{
    const struct xp_shape *s = h->shape;
    size_t n = (size_t)s->comm->size, m = (size_t)h->near.locals, src = (size_t)h->nsources;
    struct xp_pipe_limits l = {.recv_rows = s->max_recv_rows + h->arena_rows, .recv_segments = m + n + src * m};
    if (s->comm->nodes > 1 && (s->dedup || s->coder)) {
        l.send_rows_staged = s->max_send_rows;
        l.send_streams_staged = (size_t)s->comm->nodes - 1;
        l.recv_rows_staged = h->arena_rows;
        l.recv_streams_staged = src;
    }
    return l;
}

static xp_status hier_create(void **state, const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    struct hier *h = calloc(1, sizeof *h);
    if (!h)
        return XP_ERR_NO_MEMORY;
    h->shape = s;
    h->tail_words = most_sources(c);
    h->sources = calloc((size_t)c->size, sizeof *h->sources);
    xp_status st = xp_near_create(&h->near, c);
    if (st == XP_OK && !h->sources)
        st = XP_ERR_NO_MEMORY;
    if (st == XP_OK) {
        h->nsources = sources_of(c, c->rank, h->sources);
        h->arena_rows = passing_rows(h);
        st = allocate(h);
    }
    struct xp_pipe_limits l = limits_of(h);
    if (st == XP_OK)
        st = xp_counts_create(&h->counts, s, h->tail_words);
    if (st == XP_OK)
        st = xp_pipe_create(&h->pipe, s, &l);
    if (st != XP_OK) {
        hier_destroy(h);
        return st;
    }
    *state = h;
    return XP_OK;
}

/* ---- step 1: inside the node ------------------------------------------------------------------------------------------ */

static void lay_out_segments(struct hier *h, const struct xp_call *call)
{
    const struct xp_comm *c = h->shape->comm;
    size_t row_bytes = h->shape->row_bytes;
    char *from = (char *)(uintptr_t)call->send, *to = call->recv;
    for (int i = 0; i < c->size; i++) {
        h->send_seg[c->node_start[c->node_of[i]] + c->local_index[i]] = (struct xp_segment){from, call->send_rows[i]};
        h->recv_seg[i] = (struct xp_segment){to, call->recv_rows[i]};
        from += call->send_rows[i] * row_bytes;
        to += call->recv_rows[i] * row_bytes;
    }
}

static struct xp_segment *node_segments(struct hier *h, int node)
{
    return h->send_seg + h->shape->comm->node_start[node];
}

/* Words of the header to a local rank: rows expected of each of its sources. */
static size_t expected_of_sources(struct hier *h, int local, const struct xp_call *call)
{
    const struct xp_comm *c = h->shape->comm;
    size_t n = 0;
    for (int i = 0; i < c->size; i++) {
        int source = c->node_ranks[i];
        if (c->node_of[source] != c->node && proxy_of(c, source, c->node) == local)
            h->tail[n++] = call->recv_rows[source];
    }
    return n;
}

static xp_status hier_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct hier *h = state;
    const struct xp_shape *s = h->shape;
    const struct xp_comm *c = s->comm;
    xp_pipe_begin(&h->pipe, call, stats);
    xp_counts_begin(&h->counts, call);
    lay_out_segments(h, call);
    h->phase = HIER_LOCAL;
    h->turn = 0;
    h->active = 1;
    xp_near_begin(&h->near, &h->pipe, call);
    for (int i = 0; i < c->size; i++) {
        int proxy = proxy_of(c, i, c->node);
        memset(&h->fan_in[i], 0, sizeof h->fan_in[i]);
        if (c->node_of[i] != c->node && proxy != c->rank)
            xp_recv_begin(&h->fan_in[i], &h->pipe, proxy, XP_STREAM_RELAY + (unsigned)i, &h->recv_seg[i], 1, 0);
    }
    for (int b = 0; b < c->nodes; b++) {
        memset(&h->node_out[b], 0, sizeof h->node_out[b]);
        if (b != c->node)
            xp_send_begin(&h->node_out[b], &h->pipe, proxy_of(c, c->rank, b), XP_STREAM_PLAIN, node_segments(h, b),
                          (size_t)c->node_size[b], s->dedup || s->coder);
    }
    for (int i = 0; i < h->nsources; i++)
        memset(&h->node_in[i], 0, sizeof h->node_in[i]);
    memset(h->fan_out, 0, (size_t)h->nsources * (size_t)h->near.locals * sizeof *h->fan_out);
    for (int i = 1; i < h->near.locals; i++) {
        int to = h->near.local[(h->near.index + i) % h->near.locals];
        xp_counts_send(&h->counts, to, h->tail, expected_of_sources(h, to, call), stats);
    }
    return XP_OK;
}

/* ---- step 2: the node streams ------------------------------------------------------------------------------------------ */

/* Rows that local rank i expects of source number k. */
static uint64_t expected(const struct hier *h, int k, int i)
{
    if (i == h->near.index)
        return h->recv_seg[h->sources[k]].rows;
    return xp_get64(h->counts.peers[h->near.local[i]].tail + 8 * k);
}

/* Gives every stream of a source its places: the arena, or for this rank's own rows the caller's memory. Returns 0 when more
 * is expected than the sources can send: then counts disagree, and no row will move. */
static int place_sources(struct hier *h)
{
    size_t used = 0;
    for (int k = 0; k < h->nsources; k++) {
        for (int i = 0; i < h->near.locals; i++) {
            uint64_t rows = expected(h, k, i);
            if (rows > h->arena_rows - used)
                return 0;
            char *base = i == h->near.index ? h->recv_seg[h->sources[k]].base : h->arena + used * h->shape->row_bytes;
            h->node_in_seg[k * h->near.locals + i] = (struct xp_segment){base, rows};
            used += rows;
        }
    }
    return 1;
}

static xp_status open_node_streams(struct hier *h)
{
    const struct xp_shape *s = h->shape;
    const struct xp_comm *c = s->comm;
    xp_status st = xp_near_check_tails(&h->near, &h->counts, (size_t)h->nsources);
    if (st != XP_OK)
        return st;
    h->phase = HIER_COUNTS;
    h->counts.no_room = !place_sources(h);
    for (int k = 0; !h->counts.no_room && k < h->nsources; k++) {
        struct xp_segment *seg = &h->node_in_seg[k * h->near.locals];
        xp_recv_begin(&h->node_in[k], &h->pipe, h->sources[k], XP_STREAM_PLAIN, seg, (size_t)h->near.locals, s->dedup || s->coder);
        for (int i = 0; i < h->near.locals; i++) {
            if (i == h->near.index)
                continue;
            struct xp_send_stream *fan = &h->fan_out[k * h->near.locals + i];
            xp_send_begin(fan, &h->pipe, h->near.local[i], XP_STREAM_RELAY + (unsigned)h->sources[k], &seg[i], 1, 0);
            fan->ready = 0;
        }
    }
    for (int i = 1; i < c->size; i++) {
        int to = (c->rank + i) % c->size;
        if (c->node_of[to] != c->node)
            xp_counts_send(&h->counts, to, NULL, 0, h->pipe.stats);
    }
    return XP_OK;
}

/* ---- step 3: rows -------------------------------------------------------------------------------------------------------- */

/* One source: what has come of its stream goes on to the local ranks. */
static xp_status step_source(struct hier *h, int k, struct xp_round *r)
{
    struct xp_recv_stream *in = &h->node_in[k];
    xp_status st = xp_round_recv(r, in);
    size_t first = 0;
    for (int i = 0; st == XP_OK && i < h->near.locals; i++) {
        struct xp_send_stream *fan = &h->fan_out[k * h->near.locals + i];
        size_t rows = h->node_in_seg[k * h->near.locals + i].rows, here = in->complete > first ? in->complete - first : 0;
        if (fan->pipe) {
            fan->ready = here < rows ? here : rows;
            st = xp_round_send(r, fan);
        }
        first += rows;
    }
    return st;
}

static xp_status rows_round(struct hier *h, struct xp_round *r)
{
    const struct xp_comm *c = h->shape->comm;
    xp_status st = XP_OK;
    for (int i = 0; st == XP_OK && i < c->nodes; i++)
        st = xp_round_send(r, &h->node_out[(c->node + 1 + h->turn + i) % c->nodes]);
    for (int k = 0; st == XP_OK && k < h->nsources; k++)
        st = step_source(h, (h->turn + k) % h->nsources, r);
    for (int i = 0; st == XP_OK && i < c->size; i++)
        st = xp_round_recv(r, &h->fan_in[i]);
    if (st == XP_OK)
        st = xp_near_round(&h->near, r);
    h->turn = (h->turn + 1) % (1 << 20);
    return st;
}

/* Time that is spent waiting for headers is used to look at the rows. */
static void prepare_one(struct hier *h, int *moved)
{
    for (int b = 0; b < h->shape->comm->nodes; b++) {
        if (!h->node_out[b].pipe || h->node_out[b].prepared)
            continue;
        xp_send_prepare(&h->node_out[b]);
        ++*moved;
        return;
    }
}

static xp_status counts_round(struct hier *h, int *moved)
{
    xp_status st = xp_counts_progress(&h->counts, moved);
    if (st == XP_OK && h->phase == HIER_LOCAL && xp_near_headers_here(&h->near, &h->counts)) {
        st = open_node_streams(h);
        ++*moved;
    }
    if (st != XP_OK)
        return st;
    prepare_one(h, moved);
    if (h->phase == HIER_LOCAL || !xp_counts_done(&h->counts))
        return XP_IN_PROGRESS;
    st = xp_counts_verdict(&h->counts);
    if (st != XP_OK)
        return st;
    h->phase = HIER_ROWS;
    return XP_IN_PROGRESS;
}

static xp_status hier_progress(void *state, int *moved)
{
    struct hier *h = state;
    int copied = xp_self_copy_progress(&h->near.self, moved);
    if (h->phase != HIER_ROWS) {
        xp_status st = counts_round(h, moved);
        if (h->phase != HIER_ROWS)
            return st;
    }
    struct xp_round r = {.encodes = 1, .decodes = 1, .done = copied, .moved = moved};
    xp_status st = xp_pipe_reap(&h->pipe, moved);
    if (st == XP_OK)
        st = rows_round(h, &r);
    return st == XP_OK ? xp_round_end(&r, &h->pipe) : st;
}

static void hier_waiting_for(void *state, char *text, size_t size)
{
    struct hier *h = state;
    const struct xp_comm *c = h->shape->comm;
    text[0] = 0;
    size_t len = xp_counts_waiting(&h->counts, text, size);
    for (int i = 0; h->phase == HIER_ROWS && i < c->size && len + 1 < size; i++) {
        if (c->node_of[i] == c->node) {
            if (!xp_near_here(&h->near, c->local_index[i]))
                len += (size_t)snprintf(text + len, size - len, "%srows of rank %d", len ? ", " : "", i);
        } else if (h->fan_in[i].pipe && !xp_recv_done(&h->fan_in[i])) {
            len += (size_t)snprintf(text + len, size - len, "%srows of rank %d through rank %d", len ? ", " : "", i,
                                    h->fan_in[i].peer);
        }
    }
    for (int k = 0; h->phase == HIER_ROWS && k < h->nsources && len + 1 < size; k++)
        if (!xp_recv_done(&h->node_in[k]))
            len += (size_t)snprintf(text + len, size - len, "%srows of rank %d for this node", len ? ", " : "", h->sources[k]);
}

static void hier_finish(void *state)
{
    struct hier *h = state;
    const struct xp_comm *c = h->shape->comm;
    if (!h->active)
        return;
    h->active = 0;
    xp_counts_cancel(&h->counts);
    xp_near_cancel(&h->near);
    for (int i = 0; i < c->size; i++)
        xp_recv_cancel(&h->fan_in[i]);
    for (int b = 0; b < c->nodes; b++)
        xp_send_cancel(&h->node_out[b]);
    for (int k = 0; k < h->nsources; k++)
        xp_recv_cancel(&h->node_in[k]);
    for (int k = 0; k < h->nsources * h->near.locals; k++)
        xp_send_cancel(&h->fan_out[k]);
    xp_pipe_cancel(&h->pipe);
}

const struct xp_algo_ops xp_algo_hier = {
    .size = sizeof(struct xp_algo_ops),
    .name = "hier",
    .about = "between nodes first (one stream per node, copies once), then inside the node",
    .score = hier_score,
    .create = hier_create,
    .start = hier_start,
    .progress = hier_progress,
    .waiting_for = hier_waiting_for,
    .finish = hier_finish,
    .destroy = hier_destroy,
};
