/*
 * counts.c - the headers that open a call (counts.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/counts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/books.h"
#include "collectives/pipeline.h"
#include "collectives/wire.h"

#define COUNTS_MAGIC 0x54435058u /* "XPCT" */

/* Mixes three words; only equality of sums matters, so any good mixer does (splitmix64's finaliser, twice). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t pair_hash(int from, int to, uint64_t rows)
{
    return mix(mix((uint64_t)from << 32 | (uint32_t)to) + rows * 0x9e3779b97f4a7c15u + 1);
}

xp_status xp_counts_create(struct xp_counts *k, const struct xp_shape *s, size_t max_tail)
{
    size_t n = (size_t)s->comm->size;
    memset(k, 0, sizeof *k);
    k->shape = s;
    k->header_max = XP_COUNTS_HEADER + 8 * max_tail;
    if (k->header_max > XP_CTRL_MAX)
        return XP_ERR_UNSUPPORTED;
    k->peers = calloc(n, sizeof *k->peers);
    k->buffers = calloc(2 * n, k->header_max);
    if (!k->peers || !k->buffers) {
        xp_counts_destroy(k);
        return XP_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < n; i++) {
        k->peers[i].out = k->buffers + 2 * i * k->header_max;
        k->peers[i].in = k->peers[i].out + k->header_max;
    }
    return XP_OK;
}

void xp_counts_destroy(struct xp_counts *k)
{
    free(k->peers);
    free(k->buffers);
    memset(k, 0, sizeof *k);
}

void xp_counts_begin(struct xp_counts *k, const struct xp_call *c)
{
    struct xp_comm *comm = k->shape->comm;
    k->call = *c;
    k->missing = comm->size - 1;
    k->own_sent = k->own_expected = 0;
    k->disagree = k->no_room = 0;
    for (int i = 0; i < comm->size; i++) {
        struct xp_counts_peer *p = &k->peers[i];
        k->own_sent += pair_hash(comm->rank, i, c->send_rows[i]);
        k->own_expected += pair_hash(i, comm->rank, c->recv_rows[i]);
        p->state = XP_COUNTS_WAITING;
        p->sent = 0;
        if (i != comm->rank)
            xp_comm_recv(comm, i, XP_LANE_CTRL, xp_tag(k->shape->id, c->seq, XP_STREAM_HEAD, 0), p->in, k->header_max, &p->recv);
    }
    k->sum_sent = k->own_sent;
    k->sum_expected = k->own_expected;
    if (c->send_rows[comm->rank] != c->recv_rows[comm->rank])
        k->disagree = 1;
}

void xp_counts_send(struct xp_counts *k, int peer, const uint64_t *tail, size_t words, xp_stats *stats)
{
    const struct xp_shape *s = k->shape;
    struct xp_counts_peer *p = &k->peers[peer];
    xp_put32(p->out, COUNTS_MAGIC);
    xp_put32(p->out + 4, s->id);
    xp_put32(p->out + 8, k->call.seq);
    xp_put32(p->out + 12, (uint32_t)words | (uint32_t)k->call.grad_weights << 31);
    xp_put64(p->out + 16, s->config_hash);
    xp_put64(p->out + 24, k->call.send_rows[peer]);
    xp_put64(p->out + 32, k->call.recv_rows[peer]);
    xp_put64(p->out + 40, k->own_sent);
    xp_put64(p->out + 48, k->own_expected);
    xp_books_say(s->books, peer, p->out + 56);
    for (size_t i = 0; i < words; i++)
        xp_put64(p->out + XP_COUNTS_HEADER + 8 * i, tail[i]);
    size_t len = XP_COUNTS_HEADER + 8 * words;
    xp_comm_send(s->comm, peer, XP_LANE_CTRL, xp_tag(s->id, k->call.seq, XP_STREAM_HEAD, 0), p->out, len, &p->send);
    p->sent = 1;
    xp_count_sent(s->comm, stats, peer, len);
}

static xp_status read_header(struct xp_counts *k, int peer)
{
    const struct xp_shape *s = k->shape;
    struct xp_counts_peer *p = &k->peers[peer];
    uint32_t words = xp_get32(p->in + 12) & INT32_MAX;
    if (p->recv.len < XP_COUNTS_HEADER || xp_get32(p->in) != COUNTS_MAGIC ||
        p->recv.len != XP_COUNTS_HEADER + 8 * (size_t)words)
        return xp_error(s->comm, XP_ERR_CORRUPT, "alltoallv: the header of rank %d is damaged", peer);
    if (xp_get32(p->in + 4) != s->id || xp_get32(p->in + 8) != k->call.seq)
        return xp_comm_revoke(s->comm, XP_ERR_MISMATCH, "alltoallv: rank %d is in call %u of plan %u, rank %d in call %u of plan %u", peer,
                        xp_get32(p->in + 8), xp_get32(p->in + 4), s->comm->rank, k->call.seq, s->id);
    if (xp_get64(p->in + 16) != s->config_hash)
        return xp_comm_revoke(s->comm, XP_ERR_MISMATCH, "alltoallv: ranks %d and %d have different settings for plan %u", peer,
                        s->comm->rank, s->id);
    int wanted = (int)(xp_get32(p->in + 12) >> 31);
    if (wanted != k->call.grad_weights)
        return xp_comm_revoke(s->comm, XP_ERR_MISMATCH, "combine_backward: rank %d wants gradients of the weights, rank %d does not",
                              wanted ? peer : s->comm->rank, wanted ? s->comm->rank : peer);
    p->sends = xp_get64(p->in + 24);
    p->expects = xp_get64(p->in + 32);
    k->sum_sent += xp_get64(p->in + 40);
    k->sum_expected += xp_get64(p->in + 48);
    xp_books_hear(s->books, peer, p->in + 56);
    p->tail = p->in + XP_COUNTS_HEADER;
    p->tail_words = words;
    p->state = XP_COUNTS_HERE;
    k->missing--;
    if (!xp_counts_agree(k, peer))
        k->disagree = 1;
    return XP_OK;
}

xp_status xp_counts_progress(struct xp_counts *k, int *moved)
{
    struct xp_comm *c = k->shape->comm;
    if (!k->missing)
        return XP_OK;
    for (int i = 0; i < c->size; i++) {
        struct xp_counts_peer *p = &k->peers[i];
        if (i == c->rank || p->state != XP_COUNTS_WAITING || p->recv.status == XP_IN_PROGRESS)
            continue;
        if (p->recv.status < 0)
            return xp_error(c, p->recv.status == XP_ERR_MISMATCH ? XP_ERR_CORRUPT : p->recv.status,
                            "alltoallv: receiving the counts of rank %d failed: %s", i, xp_status_string(p->recv.status));
        xp_status st = read_header(k, i);
        if (st != XP_OK)
            return st;
        ++*moved;
    }
    return XP_OK;
}

int xp_counts_here(const struct xp_counts *k, int peer)
{
    return k->peers[peer].state == XP_COUNTS_HERE;
}

int xp_counts_agree(const struct xp_counts *k, int peer)
{
    const struct xp_counts_peer *p = &k->peers[peer];
    return p->sends == k->call.recv_rows[peer] && p->expects == k->call.send_rows[peer];
}

int xp_counts_done(const struct xp_counts *k)
{
    if (k->missing)
        return 0;
    for (int i = 0; i < k->shape->comm->size; i++)
        if (i != k->shape->comm->rank && (!k->peers[i].sent || k->peers[i].send.status == XP_IN_PROGRESS))
            return 0;
    return 1;
}

static xp_status say(struct xp_comm *c, int from, int to, uint64_t sent, uint64_t expected)
{
    return xp_error(c, XP_ERR_MISMATCH, "alltoallv: rank %d sends %llu rows, rank %d expects %llu", from, (unsigned long long)sent,
                    to, (unsigned long long)expected);
}

xp_status xp_counts_verdict(const struct xp_counts *k)
{
    struct xp_comm *c = k->shape->comm;
    int me = c->rank;
    for (int i = 0; k->disagree && i < c->size; i++) {
        if (i == me && k->call.send_rows[i] != k->call.recv_rows[i])
            return say(c, me, me, k->call.send_rows[i], k->call.recv_rows[i]);
        if (i == me)
            continue;
        if (k->peers[i].sends != k->call.recv_rows[i])
            return say(c, i, me, k->peers[i].sends, k->call.recv_rows[i]);
        if (k->peers[i].expects != k->call.send_rows[i])
            return say(c, me, i, k->call.send_rows[i], k->peers[i].expects);
    }
    if (k->sum_sent != k->sum_expected)
        return xp_error(c, XP_ERR_MISMATCH, "alltoallv: other ranks disagree about their counts; their own errors name them");
    if (k->no_room)
        return xp_error(c, XP_ERR_INTERNAL, "alltoallv: counts agree, but exceed the maxima of the plan");
    return XP_OK;
}

size_t xp_counts_waiting(const struct xp_counts *k, char *text, size_t size)
{
    size_t len = strlen(text);
    int first = 1;
    for (int i = 0; i < k->shape->comm->size && len + 1 < size; i++) {
        if (i == k->shape->comm->rank || k->peers[i].state == XP_COUNTS_HERE)
            continue;
        len += (size_t)snprintf(text + len, size - len, "%s%d", first ? (len ? ", counts of rank " : "counts of rank ") : ", ", i);
        first = 0;
    }
    return len < size ? len : size - 1;
}

void xp_counts_cancel(struct xp_counts *k)
{
    struct xp_comm *c = k->shape->comm;
    for (int i = 0; i < c->size; i++) {
        struct xp_counts_peer *p = &k->peers[i];
        if (i == c->rank)
            continue;
        if (p->state == XP_COUNTS_WAITING && p->recv.status == XP_IN_PROGRESS)
            xp_comm_cancel(c, i, &p->recv);
        if (p->sent && p->send.status == XP_IN_PROGRESS)
            xp_comm_cancel(c, i, &p->send);
    }
}
