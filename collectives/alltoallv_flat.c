/*
 * alltoallv_flat.c - every pair of ranks directly
 *
 * Receives from everybody are posted, then headers go out in the order rank + 1, rank + 2, ... A stream to a peer starts when its
 * header is here and agrees, whatever the others do. A pair that disagrees moves no rows; all other rows move, so that nothing
 * is left in the transports, and the call ends with the error on every rank.
 *
 * Where rows are never coded, few rows travel in the header itself: then nothing waits for a peer's permission.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/cost.h"
#include "collectives/counts.h"
#include "collectives/pipeline.h"
#include "collectives/selfcopy.h"

#define IN_HEADER 2048 /* most bytes of rows that travel in a header */
#define FIRST_CHUNKS 2 /* of a stream, which leave before the rows of the next one are looked at */

struct flat {
    const struct xp_shape *shape;
    struct xp_counts counts;
    struct xp_pipe pipe;
    struct xp_send_stream *send; /* [size] */
    struct xp_recv_stream *recv;
    struct xp_segment *send_seg, *recv_seg;
    char *settled; /* [size] header seen and acted upon */
    uint64_t tail[IN_HEADER / 8]; /* rows of a header that is about to leave */
    size_t tail_bytes; /* most bytes of them; 0: there are none */
    const char *ready; /* of the call, */
    const struct xp_ahead *ahead; /* likewise; NULL: */
    int sends_known; /* how many rows leave is known */
    struct xp_self_copy self;
    int turn;      /* which stream is offered work first */
    int active;
};

static double flat_score(const struct xp_shape *s)
{
    return xp_cost_flat(s);
}

static void flat_destroy(void *state)
{
    struct flat *f = state;
    if (!f)
        return;
    xp_counts_destroy(&f->counts);
    xp_pipe_destroy(&f->pipe);
    free(f->send);
    free(f->recv);
    free(f->send_seg);
    free(f->recv_seg);
    free(f->settled);
    free(f);
}

static struct xp_pipe_limits limits_of(const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    size_t n = (size_t)c->size, far = n - (size_t)c->node_size[c->node];
    struct xp_pipe_limits l = {.recv_rows = s->max_recv_rows, .recv_segments = n};
    if (far && (s->dedup || s->coder)) {
        l.send_rows_staged = s->max_send_rows;
        l.recv_rows_staged = s->max_recv_rows;
        l.send_streams_staged = l.recv_streams_staged = far;
        l.numbers_rows = 1;
    }
    return l;
}

static xp_status flat_create(void **state, const struct xp_shape *s)
{
    size_t n = (size_t)s->comm->size;
    struct xp_pipe_limits l = limits_of(s);
    struct flat *f = calloc(1, sizeof *f);
    if (!f)
        return XP_ERR_NO_MEMORY;
    f->shape = s;
    f->send = calloc(n, sizeof *f->send);
    f->recv = calloc(n, sizeof *f->recv);
    f->send_seg = calloc(n, sizeof *f->send_seg);
    f->recv_seg = calloc(n, sizeof *f->recv_seg);
    f->settled = calloc(n, 1);
    xp_status st = f->send && f->recv && f->send_seg && f->recv_seg && f->settled ? XP_OK : XP_ERR_NO_MEMORY;
    f->tail_bytes = s->dedup || s->coder ? 0 : IN_HEADER / s->row_bytes * s->row_bytes;
    if (st == XP_OK)
        st = xp_counts_create(&f->counts, s, (f->tail_bytes + 7) / 8);
    if (st == XP_OK)
        st = xp_pipe_create(&f->pipe, s, &l);
    if (st != XP_OK) {
        flat_destroy(f);
        return st;
    }
    *state = f;
    return XP_OK;
}

/* The rows of a stream that go with the header, to f->tail. Returns how many words they are. */
static size_t fill_tail(struct flat *f, const struct xp_call *call, struct xp_send_stream *out)
{
    const size_t bytes = out->rows * f->shape->row_bytes, words = (bytes + 7) / 8;
    if (bytes == 0 || bytes > f->tail_bytes || call->ready || call->at)
        return 0;
    f->tail[words - 1] = 0;
    memcpy(f->tail, out->seg->base, bytes);
    out->rows = 0;
    return words;
}

static xp_status flat_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct flat *f = state;
    const struct xp_shape *s = f->shape;
    const struct xp_comm *c = s->comm;
    int n = c->size, me = c->rank, codes = s->dedup || s->coder;
    char *from = (char *)(uintptr_t)call->send, *to = call->recv;
    size_t sent = 0, received = 0;
    xp_pipe_begin(&f->pipe, call, stats);
    xp_counts_begin(&f->counts, call);
    memset(f->settled, 0, (size_t)n);
    f->ready = call->ready;
    f->ahead = call->ahead;
    f->sends_known = !call->ahead;
    f->turn = 0;
    f->active = 1;
    for (int i = 0; i < n; i++) {
        int may_code = codes && c->node_of[i] != c->node;
        f->send_seg[i] = (struct xp_segment){from, call->send_rows[i]};
        f->recv_seg[i] = (struct xp_segment){to, call->recv_rows[i]};
        from += call->send_rows[i] * s->row_bytes;
        to += call->recv_rows[i] * s->row_bytes;
        if (i != me) {
            xp_send_begin(&f->send[i], &f->pipe, i, XP_STREAM_PLAIN, &f->send_seg[i], 1, may_code);
            xp_recv_begin(&f->recv[i], &f->pipe, i, XP_STREAM_PLAIN, &f->recv_seg[i], 1, may_code);
            f->send[i].first = sent;
            f->recv[i].ahead = call->ahead != NULL;
            if (call->ahead) /* no row is looked at, and heads say the same however late others are */
                xp_send_prepare(&f->send[i]);
            f->recv[i].to = call->to;
            f->recv[i].place = call->place ? call->place + received : NULL;
        }
        sent += call->send_rows[i];
        received += call->recv_rows[i];
    }
    xp_self_copy_begin(&f->self, &f->send_seg[me], &f->recv_seg[me], s->row_bytes);
    for (int i = 1; i < n; i++) {
        const int peer = (me + i) % n;
        xp_counts_send(&f->counts, peer, f->tail, fill_tail(f, call, &f->send[peer]), stats);
    }
    return XP_OK;
}

static int is_ready(const struct flat *f, int peer)
{
    return !f->ready || f->ready[peer];
}

/* Rows that came with a header. */
static xp_status take_tail(struct flat *f, int peer)
{
    const struct xp_counts_peer *p = &f->counts.peers[peer];
    const size_t bytes = f->recv[peer].rows * f->shape->row_bytes;
    if (p->tail_words != (bytes + 7) / 8)
        return xp_error(f->shape->comm, XP_ERR_CORRUPT, "alltoallv: the header of rank %d is damaged", peer);
    xp_recv_take(&f->recv[peer], (const char *)p->tail);
    return XP_OK;
}

/* Acts on a header that has come: a pair that disagrees moves nothing. */
static xp_status settle(struct flat *f, int peer)
{
    f->settled[peer] = 1;
    if (xp_counts_agree(&f->counts, peer))
        return f->counts.peers[peer].tail_words ? take_tail(f, peer) : XP_OK;
    struct xp_send_stream *out = &f->send[peer];
    xp_recv_cancel(&f->recv[peer]);
    f->recv[peer].rows = 0;
    out->rows = 0;
    out->prepared = 1;
    out->form = XP_STREAM_PLAIN; /* its rows may have been looked at, and a head be waiting */
    return XP_OK;
}

/* The next stream whose rows are to be looked at, in the order in which headers go out; -1: none now. */
static int to_look_at(const struct flat *f)
{
    int n = f->shape->comm->size, me = f->shape->comm->rank, found = -1;
    for (int i = n - 1; i > 0; i--) {
        int to = (me + i) % n;
        if (f->send[to].rows && !f->send[to].prepared && is_ready(f, to))
            found = to;
    }
    return found;
}

/* A call that went ahead: how many rows leave is known now. */
static void learn_sends(struct flat *f)
{
    if (f->sends_known || !f->ahead->send_rows)
        return;
    for (int i = 0; i < f->shape->comm->size; i++)
        if (i != f->shape->comm->rank)
            xp_send_end(&f->send[i], f->ahead->send_rows[i]);
    f->sends_known = 1;
}

/* And how many come from a peer. */
static xp_status learn_receives(struct flat *f, int peer)
{
    const struct xp_ahead *a = f->ahead;
    size_t before = 0;
    for (int i = 0; i < peer; i++)
        before += a->recv_rows[i];
    const xp_status st = xp_recv_end(&f->recv[peer], a->recv_rows[peer], a->to, a->place ? a->place + before : NULL);
    return st == XP_IN_PROGRESS ? XP_OK : st;
}

/*
 * One round over all peers. Coding work is rationed, so that a round is short and messages keep moving. The link waits for the first
 * chunks, and a look at rows takes longer than making them: they come first, then looks, then the other chunks.
 */
static xp_status stream_round(struct flat *f, int *moved, int *done)
{
    int n = f->shape->comm->size, me = f->shape->comm->rank, encodes = 1, decodes = 1, none = 0, look = to_look_at(f);
    for (int i = 1; i < n; i++) {
        int to = (me + 1 + (f->turn + i) % (n - 1)) % n;
        struct xp_send_stream *out = &f->send[to];
        struct xp_recv_stream *in = &f->recv[to];
        xp_status st = XP_OK;
        if (!f->settled[to] && xp_counts_here(&f->counts, to))
            st = settle(f, to);
        if (f->ahead)
            out->ready = f->ahead->made[to];
        if (st == XP_OK && in->ahead && f->ahead->recv_rows)
            st = learn_receives(f, to);
        if (st == XP_OK && f->settled[to] && out->prepared && is_ready(f, to))
            st = xp_send_progress(out, look < 0 || out->chunk < FIRST_CHUNKS ? &encodes : &none, moved);
        if (st == XP_OK)
            st = xp_recv_progress(in, &decodes, moved);
        if (st != XP_OK)
            return st;
        *done &= f->settled[to] && xp_send_done(out) && xp_recv_done(in);
    }
    if (look >= 0 && encodes > 0) { /* whether or not its header is here */
        xp_send_prepare(&f->send[look]);
        ++*moved;
    }
    f->turn = n > 1 ? (f->turn + 1) % (n - 1) : 0;
    return XP_OK;
}

static xp_status flat_progress(void *state, int *moved)
{
    struct flat *f = state;
    int done = 1;
    learn_sends(f);
    xp_status st = xp_counts_progress(&f->counts, moved);
    if (st == XP_OK)
        st = xp_pipe_reap(&f->pipe, moved);
    if (st == XP_OK)
        st = stream_round(f, moved, &done);
    if (st != XP_OK)
        return st;
    done &= is_ready(f, f->shape->comm->rank) && xp_self_copy_progress(&f->self, moved);
    done &= !f->ahead || (f->sends_known && f->ahead->recv_rows);
    if (!done || !xp_counts_done(&f->counts) || !xp_pipe_idle(&f->pipe))
        return XP_IN_PROGRESS;
    st = xp_counts_verdict(&f->counts);
    if (st == XP_OK)
        xp_pipe_end(&f->pipe);
    return st;
}

static size_t flat_arrived(const void *state, int peer)
{
    const struct flat *f = state;
    return peer == f->shape->comm->rank ? 0 : f->recv[peer].complete;
}

static void flat_waiting_for(void *state, char *text, size_t size)
{
    struct flat *f = state;
    text[0] = 0;
    size_t len = xp_counts_waiting(&f->counts, text, size);
    for (int i = 0; i < f->shape->comm->size && len + 1 < size; i++) {
        if (i == f->shape->comm->rank || !xp_counts_here(&f->counts, i))
            continue;
        if (!xp_recv_done(&f->recv[i]))
            len += (size_t)snprintf(text + len, size - len, "%srows of rank %d", len ? ", " : "", i);
        else if (!xp_send_done(&f->send[i]))
            len += (size_t)snprintf(text + len, size - len, "%srank %d to take rows", len ? ", " : "", i);
    }
}

static void flat_finish(void *state)
{
    struct flat *f = state;
    if (!f->active)
        return;
    f->active = 0;
    xp_counts_cancel(&f->counts);
    for (int i = 0; i < f->shape->comm->size; i++) {
        if (i == f->shape->comm->rank)
            continue;
        xp_send_cancel(&f->send[i]);
        xp_recv_cancel(&f->recv[i]);
    }
    xp_pipe_cancel(&f->pipe);
}

const struct xp_algo_ops xp_algo_flat = {
    .size = sizeof(struct xp_algo_ops),
    .name = "flat",
    .about = "every pair of ranks directly",
    .heeds_ready = 1,
    .goes_ahead = 1,
    .score = flat_score,
    .create = flat_create,
    .start = flat_start,
    .progress = flat_progress,
    .arrived = flat_arrived,
    .waiting_for = flat_waiting_for,
    .finish = flat_finish,
    .destroy = flat_destroy,
};
