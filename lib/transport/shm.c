/*
 * shm.c - the transport between ranks of one node (processes or threads): shared memory
 *
 * shm_segment.c holds the memory, shm_ring.c one lane of one pair, shm_send.c and shm_receive.c the two halves; this file is
 * the table: opening, posting, progress, ending.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/shm_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ADDRESS_MAGIC 0x3172646173687378ull
#define SLAB 64 /* records allocated at a time */

/* ------------------------------------------------------------------ records */

/* Adds a slab of `count` records of `size` bytes whose first member links the spare ones. */
static void *more_records(struct xp_shm *t, size_t size, int count)
{
    unsigned char *slab = calloc(1, sizeof(void *) + size * (size_t)count);

    if (slab == NULL)
        return NULL;
    *(void **)slab = t->slabs;
    t->slabs = slab;
    unsigned char *first = slab + sizeof(void *);
    for (int i = 0; i + 1 < count; i++)
        *(void **)(first + size * (size_t)i) = first + size * (size_t)(i + 1);
    return first;
}

struct xp_shm_request *xp_shm_request_new(struct xp_shm *t)
{
    if (t->spare_requests == NULL)
        t->spare_requests = more_records(t, sizeof(struct xp_shm_request), SLAB);
    struct xp_shm_request *r = t->spare_requests;
    if (r == NULL)
        return NULL;
    t->spare_requests = r->next;
    memset(r, 0, sizeof *r);
    r->slot = -1;
    return r;
}

struct xp_shm_message *xp_shm_message_new(struct xp_shm *t)
{
    if (t->spare_messages == NULL)
        t->spare_messages = more_records(t, sizeof(struct xp_shm_message), SLAB);
    struct xp_shm_message *m = t->spare_messages;
    if (m == NULL)
        return NULL;
    t->spare_messages = m->next;
    unsigned char *spool = m->spool;
    size_t spool_size = m->spool_size;
    memset(m, 0, sizeof *m);
    m->spool = spool;
    m->spool_size = spool_size;
    return m;
}

void xp_shm_message_free(struct xp_shm *t, struct xp_shm_message *m)
{
    if (m->spool_size > XP_CTRL_MAX) { /* early bulk: rare, and large */
        free(m->spool);
        m->spool = NULL;
        m->spool_size = 0;
    }
    m->next = t->spare_messages;
    t->spare_messages = m;
}

void xp_shm_append(struct xp_shm_requests *l, struct xp_shm_request *r)
{
    r->next = NULL;
    if (l->last != NULL)
        l->last->next = r;
    else
        l->first = r;
    l->last = r;
}

void xp_shm_unlink(struct xp_shm_requests *l, struct xp_shm_request *r)
{
    struct xp_shm_request *before = NULL;

    for (struct xp_shm_request *i = l->first; i != r; i = i->next)
        before = i;
    if (before != NULL)
        before->next = r->next;
    else
        l->first = r->next;
    if (l->last == r)
        l->last = before;
}

void xp_shm_finish(struct xp_shm *t, struct xp_shm_request *r, xp_status s, size_t len)
{
    r->op->len = len;
    r->op->impl = NULL;
    r->op->status = s;
    r->next = t->spare_requests;
    t->spare_requests = r;
}

/* ------------------------------------------------------------------ opening */

static int shm_available(char *why, size_t why_size)
{
    if (access("/dev/shm", W_OK | X_OK) == 0)
        return 1;
    snprintf(why, why_size, "/dev/shm: %s", strerror(errno));
    return 0;
}

static void shm_close(struct xp_transport *base);

static int count_peers(struct xp_shm *t)
{
    const struct xp_transport_env *e = &t->env;

    t->peers = 0;
    for (int r = 0; r < e->size; r++) {
        t->local_of[r] = e->node_of[r] == e->node_of[e->rank] ? t->peers++ : -1;
        if (r == e->rank)
            t->me = t->local_of[r];
    }
    return t->peers;
}

static xp_status allocate(struct xp_shm *t)
{
    t->local_of = calloc((size_t)t->env.size, sizeof *t->local_of);
    if (t->local_of == NULL)
        return XP_ERR_NO_MEMORY;
    size_t words = (size_t)(2 * count_peers(t) + 63) / 64;
    t->peer = calloc((size_t)t->peers, sizeof *t->peer);
    t->readable = calloc(words, sizeof *t->readable);
    t->writable = calloc(words, sizeof *t->writable);
    t->spare_requests = more_records(t, sizeof(struct xp_shm_request), SLAB * 4);
    t->spare_messages = more_records(t, sizeof(struct xp_shm_message), SLAB * 4);
    if (t->peer == NULL || t->readable == NULL || t->writable == NULL || t->spare_requests == NULL || t->spare_messages == NULL)
        return XP_ERR_NO_MEMORY;
    return XP_OK;
}

static xp_status shm_open_transport(struct xp_transport **out, const struct xp_transport_env *env, void *address,
                                    size_t *address_len, char *err, size_t err_size)
{
    struct xp_shm *t = calloc(1, sizeof *t);
    xp_status s = XP_ERR_NO_MEMORY;

    snprintf(err, err_size, "shm: out of memory");
    if (t == NULL)
        return s;
    t->base.ops = &xp_transport_shm;
    t->env = *env;
    s = allocate(t);
    if (s == XP_OK)
        s = xp_shm_segment_create(&t->inbox, t->peers, env->job, err, err_size);
    if (s != XP_OK) {
        shm_close(&t->base);
        return s;
    }
    t->cookie = xp_shm_random();
    struct xp_shm_address a = {ADDRESS_MAGIC, xp_shm_process(), t->cookie, (uintptr_t)&t->cookie, getpid(), t->inbox.layout.bytes, ""};
    memcpy(a.name, t->inbox.name, sizeof a.name);
    memcpy(address, &a, sizeof a);
    *address_len = sizeof a;
    *out = &t->base;
    return XP_OK;
}

static void connect_lane(struct xp_shm *t, struct xp_shm_peer *p, int place, enum xp_lane lane)
{
    size_t size = t->inbox.layout.ring_size[lane];

    p->out[lane].ring = (struct xp_shm_writer){&xp_shm_pair(&p->segment, t->me)->lane[lane],
                                               xp_shm_ring_data(&p->segment, t->me, lane), size, 0, 0};
    p->in[lane].ring = (struct xp_shm_reader){&xp_shm_pair(&t->inbox, place)->lane[lane],
                                              xp_shm_ring_data(&t->inbox, place, lane), size, 0, 0};
}

static xp_status shm_connect(struct xp_transport *base, int peer, const void *address, size_t address_len, char *err, size_t err_size)
{
    struct xp_shm *t = (struct xp_shm *)base;
    struct xp_shm_address a;

    if (peer < 0 || peer >= t->env.size || peer == t->env.rank || t->local_of[peer] < 0) {
        snprintf(err, err_size, "shm: rank %d is not another rank of this node", peer);
        return XP_ERR_INVALID_ARG;
    }
    if (address_len != sizeof a || (memcpy(&a, address, sizeof a), a.magic != ADDRESS_MAGIC)) {
        snprintf(err, err_size, "shm: what rank %d sent is not an address", peer);
        return XP_ERR_MISMATCH;
    }
    int place = t->local_of[peer];
    struct xp_shm_peer *p = &t->peer[place];
    xp_status s = xp_shm_segment_attach(&p->segment, t->peers, &a, err, err_size);
    if (s != XP_OK)
        return s;
    p->pid = (pid_t)a.pid;
    p->same_process = a.pid == getpid() && a.process == xp_shm_process();
    connect_lane(t, p, place, XP_LANE_CTRL);
    connect_lane(t, p, place, XP_LANE_BULK);
    uint32_t may_pull = p->same_process || xp_shm_can_pull(&a);
    atomic_store_explicit(&xp_shm_pair(&t->inbox, place)->may_pull, may_pull, memory_order_release);
    p->connected = 1;
    return XP_OK;
}

static void unlink_names(struct xp_shm *t)
{
    if (t->settled || t->inbox.base == NULL)
        return;
    xp_shm_segment_unlink(&t->inbox);
    for (int i = 0; i < t->peers; i++) { /* also those of peers that may not live to do it */
        if (t->peer[i].connected)
            xp_shm_segment_unlink(&t->peer[i].segment);
    }
    t->settled = 1;
}

static void shm_settled(struct xp_transport *base)
{
    unlink_names((struct xp_shm *)base);
}

/* ------------------------------------------------------------------ posting */

/* A request for the operation, or NULL: it has ended already. */
static struct xp_shm_request *post(struct xp_shm *t, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len,
                                   struct xp_op *op)
{
    int place = peer >= 0 && peer < t->env.size ? t->local_of[peer] : -1;

    op->len = 0;
    op->impl = op->impl2 = NULL;
    op->status = XP_ERR_INVALID_ARG;
    if (place < 0 || !t->peer[place].connected)
        return NULL;
    op->status = XP_ERR_REMOTE;
    if (t->peer[place].failed)
        return NULL;
    op->status = XP_ERR_NO_MEMORY;
    struct xp_shm_request *r = xp_shm_request_new(t);
    if (r == NULL)
        return NULL;
    op->status = XP_IN_PROGRESS;
    op->impl = r;
    r->op = op;
    r->peer = place;
    r->lane = lane;
    r->tag = tag;
    r->buf = (unsigned char *)buf;
    r->len = len;
    return r;
}

static xp_status shm_send(struct xp_transport *base, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len,
                          struct xp_op *op)
{
    struct xp_shm *t = (struct xp_shm *)base;

    if (lane == XP_LANE_CTRL && len > XP_CTRL_MAX) {
        op->impl = NULL;
        return op->status = XP_ERR_INVALID_ARG;
    }
    struct xp_shm_request *r = post(t, peer, lane, tag, buf, len, op);
    if (r == NULL)
        return op->status;
    r->sending = 1;
    struct xp_shm_requests *queue = &t->peer[r->peer].out[lane].queue;
    int alone = queue->first == NULL;
    xp_shm_append(queue, r);
    if (alone)
        xp_shm_push(t, r->peer, lane);
    return op->status;
}

static xp_status shm_recv(struct xp_transport *base, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op)
{
    struct xp_shm *t = (struct xp_shm *)base;
    struct xp_shm_request *r = post(t, peer, lane, tag, buf, cap, op);

    if (r != NULL && !xp_shm_claim_early(t, r))
        xp_shm_append(&t->peer[r->peer].in[lane].posted, r);
    return op->status;
}

/* ------------------------------------------------------------------ progress */

static int read_lanes(struct xp_shm *t)
{
    _Atomic uint64_t *bell = xp_shm_doorbell(&t->inbox);
    int words = (2 * t->peers + 63) / 64, moved = 0;

    for (int w = 0; w < words; w++) {
        uint64_t bits = t->readable[w];

        t->readable[w] = 0;
        if (atomic_load_explicit(&bell[w], memory_order_relaxed) != 0)
            bits |= atomic_exchange_explicit(&bell[w], 0, memory_order_acquire);
        for (; bits != 0; bits &= bits - 1) {
            int bit = 64 * w + __builtin_ctzll(bits);

            if (bit / 2 < t->peers && t->peer[bit / 2].connected)
                moved += xp_shm_drain(t, bit / 2, bit % 2);
        }
    }
    return moved;
}

static int write_lanes(struct xp_shm *t)
{
    int words = (2 * t->peers + 63) / 64, moved = 0;

    for (int w = 0; w < words; w++) {
        uint64_t bits = t->writable[w];

        t->writable[w] = 0;
        for (; bits != 0; bits &= bits - 1) {
            int bit = 64 * w + __builtin_ctzll(bits);

            moved += xp_shm_push(t, bit / 2, bit % 2);
        }
    }
    return moved;
}

static int shm_progress(struct xp_transport *base)
{
    struct xp_shm *t = (struct xp_shm *)base;
    int moved = read_lanes(t) + write_lanes(t);

    if (t->pulls.first != NULL)
        moved += xp_shm_pull(t);
    if (t->offers > 0)
        moved += xp_shm_collect_offers(t);
    return moved;
}

/* ------------------------------------------------------------------ ending */

static void end_request(struct xp_shm *t, struct xp_shm_request *r, xp_status s)
{
    if (r->sending)
        xp_shm_cancel_send(t, r, s);
    else
        xp_shm_cancel_recv(t, r, s);
}

static void shm_cancel(struct xp_transport *base, struct xp_op *op)
{
    if (op->status == XP_IN_PROGRESS && op->impl != NULL)
        end_request((struct xp_shm *)base, op->impl, XP_ERR_STATE);
}

/* Ends everything under way with one peer; nothing of it is looked at any more. */
static void end_peer(struct xp_shm *t, int place, xp_status s)
{
    struct xp_shm_peer *p = &t->peer[place];

    if (!p->connected || p->failed)
        return;
    p->failed = 1;
    for (struct xp_shm_message *m = t->pulls.first, *next; m != NULL; m = next) {
        next = m->next;
        if (m->peer == place)
            end_request(t, m->request, s);
    }
    for (int lane = 0; lane < 2; lane++) {
        while (p->out[lane].queue.first != NULL)
            end_request(t, p->out[lane].queue.first, s);
        while (p->in[lane].posted.first != NULL)
            end_request(t, p->in[lane].posted.first, s);
        if (p->in[lane].current != NULL && p->in[lane].current->request != NULL)
            end_request(t, p->in[lane].current->request, s);
        p->out[lane].abort = 0;
    }
    for (int slot = 0; slot < XP_SHM_SLOTS; slot++) {
        if (p->offered[slot] != NULL)
            end_request(t, p->offered[slot], s);
    }
    t->offers -= __builtin_popcount(p->offers);
    p->offers = 0;
    xp_shm_drop_messages(t, place);
}

static void shm_fail(struct xp_transport *base, int peer)
{
    struct xp_shm *t = (struct xp_shm *)base;

    if (peer >= 0 && peer < t->env.size && t->local_of[peer] >= 0)
        end_peer(t, t->local_of[peer], XP_ERR_REMOTE);
}

void xp_shm_corrupt(struct xp_shm *t, int place, const char *what)
{
    int rank = 0;

    while (t->local_of[rank] != place)
        rank++;
    if (t->env.log != NULL)
        t->env.log(t->env.comm, XP_LOG_ERROR, "shm: %s, from rank %d", what, rank);
    end_peer(t, place, XP_ERR_CORRUPT);
}

static void shm_close(struct xp_transport *base)
{
    struct xp_shm *t = (struct xp_shm *)base;

    for (int i = 0; t->peer != NULL && i < t->peers; i++)
        end_peer(t, i, XP_ERR_STATE);
    if (t->peer != NULL)
        unlink_names(t);
    for (int i = 0; t->peer != NULL && i < t->peers; i++)
        xp_shm_segment_detach(&t->peer[i].segment);
    xp_shm_segment_detach(&t->inbox);
    for (struct xp_shm_message *m = t->spare_messages; m != NULL; m = m->next)
        free(m->spool);
    for (void *slab = t->slabs, *next; slab != NULL; slab = next) {
        next = *(void **)slab;
        free(slab);
    }
    free(t->local_of);
    free(t->peer);
    free(t->readable);
    free(t->writable);
    free(t);
}

static int shm_flushed(struct xp_transport *base)
{
    (void)base;
    return 1; /* it lies in the segment, which outlives its writer */
}

const struct xp_transport_ops xp_transport_shm = {
    .size = sizeof(struct xp_transport_ops),
    .name = "shm",
    .about = "shared memory between ranks of one node, processes or threads",
    .available = shm_available,
    .open = shm_open_transport,
    .connect = shm_connect,
    .settled = shm_settled,
    .send = shm_send,
    .recv = shm_recv,
    .progress = shm_progress,
    .cancel = shm_cancel,
    .fail = shm_fail,
    .flushed = shm_flushed,
    .close = shm_close,
};
