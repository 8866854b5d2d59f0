/*
 * shm_receive.c - the receiving half of the shared memory transport: matching, early messages, pulling
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/shm_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUDGET ((size_t)128 << 10)      /* bytes of one lane in one call */
#define PULL_STEP ((size_t)1 << 20)     /* bytes of one pull in one call */
#define EARLY_CTRL_MAX ((size_t)4 << 20)  /* bytes that wait for their receives, a peer; beyond that the lane waits */
#define EARLY_BULK_MAX ((size_t)64 << 20)

/* ------------------------------------------------------------------ lists */

static void append_message(struct xp_shm_messages *l, struct xp_shm_message *m)
{
    m->next = NULL;
    if (l->last != NULL)
        l->last->next = m;
    else
        l->first = m;
    l->last = m;
}

static void unlink_message(struct xp_shm_messages *l, struct xp_shm_message *m)
{
    struct xp_shm_message *before = NULL;

    for (struct xp_shm_message *i = l->first; i != m; i = i->next)
        before = i;
    if (before != NULL)
        before->next = m->next;
    else
        l->first = m->next;
    if (l->last == m)
        l->last = before;
}

static struct xp_shm_request *take_posted(struct xp_shm_in *in, uint64_t tag)
{
    for (struct xp_shm_request *r = in->posted.first; r != NULL; r = r->next) {
        if (r->tag == tag) {
            xp_shm_unlink(&in->posted, r);
            return r;
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ slots of pulled messages */

static _Atomic uint32_t *slot_of(struct xp_shm *t, const struct xp_shm_message *m)
{
    return &xp_shm_pair(&t->inbox, m->peer)->slot[m->slot].state;
}

/* Hands the slot back; 0: the sender has taken the message back, what was read is not it. */
static int answer(struct xp_shm *t, const struct xp_shm_message *m, uint32_t with)
{
    uint32_t is = XP_SHM_OFFERED;

    if (atomic_compare_exchange_strong_explicit(slot_of(t, m), &is, with, memory_order_acq_rel, memory_order_acquire))
        return 1;
    atomic_store_explicit(slot_of(t, m), XP_SHM_DONE, memory_order_release);
    return 0;
}

/* ------------------------------------------------------------------ messages */

/* The receive waits again, for a message that comes once more or never. */
static void repost(struct xp_shm *t, struct xp_shm_message *m)
{
    struct xp_shm_request *r = m->request;

    if (r == NULL)
        return;
    r->message = NULL;
    m->request = NULL;
    xp_shm_append(&t->peer[m->peer].in[m->lane].posted, r);
}

/* Gives a message to a receive. One that does not fit ends the receive, and nobody wants the message any more. */
static void attach(struct xp_shm *t, struct xp_shm_message *m, struct xp_shm_request *r)
{
    if (m->len > r->len) {
        m->unwanted = 1;
        xp_shm_finish(t, r, XP_ERR_MISMATCH, m->len);
        return;
    }
    m->request = r;
    r->message = m;
}

static void complete(struct xp_shm *t, struct xp_shm_message *m)
{
    if (m->request != NULL)
        xp_shm_finish(t, m->request, XP_OK, m->len);
    xp_shm_message_free(t, m);
}

static size_t early_max(int lane)
{
    return lane == XP_LANE_CTRL ? EARLY_CTRL_MAX : EARLY_BULK_MAX;
}

/* Room for a message that nobody has asked for yet; 0: not now. */
static int spool(struct xp_shm_in *in, struct xp_shm_message *m)
{
    size_t need = m->lane == XP_LANE_CTRL ? XP_CTRL_MAX : m->len; /* buffers of the CTRL lane are used again */

    if (m->pull)
        return 1;
    if (in->early_bytes + need > early_max(m->lane))
        return 0;
    if (m->spool_size < need) {
        unsigned char *bigger = realloc(m->spool, need);

        if (bigger == NULL)
            return 0;
        m->spool = bigger;
        m->spool_size = need;
    }
    in->early_bytes += need;
    return 1;
}

static void leave_early(struct xp_shm_in *in, struct xp_shm_message *m)
{
    unlink_message(&in->early, m);
    if (!m->pull)
        in->early_bytes -= m->lane == XP_LANE_CTRL ? XP_CTRL_MAX : m->len;
}

/* A new message: to its receive, or to the early ones. NULL: it must wait in the ring. */
static struct xp_shm_message *begin(struct xp_shm *t, int peer, int lane, const struct xp_shm_fragment *f)
{
    struct xp_shm_in *in = &t->peer[peer].in[lane];
    struct xp_shm_message *m = xp_shm_message_new(t);

    if (m == NULL)
        return NULL;
    m->tag = f->tag;
    m->len = (size_t)f->len;
    m->at = f->at;
    m->slot = (int)f->slot;
    m->pull = f->kind == XP_SHM_PULL;
    m->peer = peer;
    m->lane = lane;
    struct xp_shm_request *r = take_posted(in, f->tag);
    if (r != NULL) {
        attach(t, m, r);
        return m;
    }
    if (!spool(in, m)) {
        xp_shm_message_free(t, m);
        return NULL;
    }
    append_message(&in->early, m);
    return m;
}

static void start_pull(struct xp_shm *t, struct xp_shm_message *m)
{
    if (m->unwanted) {
        answer(t, m, XP_SHM_DONE);
        xp_shm_message_free(t, m);
    } else {
        append_message(&t->pulls, m);
    }
}

/* ------------------------------------------------------------------ the ring */

static void take_payload(struct xp_shm *t, struct xp_shm_in *in, const struct xp_shm_fragment *f)
{
    struct xp_shm_message *m = in->current;
    unsigned char *dst = NULL;

    if (f->bytes > 0 && m->request != NULL)
        dst = m->request->buf + m->got;
    else if (f->bytes > 0 && !m->unwanted)
        dst = m->spool + m->got;
    xp_shm_ring_take(&in->ring, f->bytes, dst);
    m->got += f->bytes;
    if (m->got < m->len)
        return;
    in->current = NULL;
    if (m->request != NULL || m->unwanted)
        complete(t, m);
}

static void take_abort(struct xp_shm *t, struct xp_shm_in *in)
{
    struct xp_shm_message *m = in->current;

    xp_shm_ring_take(&in->ring, 0, NULL);
    in->current = NULL;
    if (m->request == NULL && !m->unwanted)
        leave_early(in, m);
    repost(t, m);
    xp_shm_message_free(t, m);
}

/* Handles the fragment at the front. 0: it has to stay. */
static int take_fragment(struct xp_shm *t, int peer, int lane, const struct xp_shm_fragment *f)
{
    struct xp_shm_in *in = &t->peer[peer].in[lane];
    int begins = f->kind == XP_SHM_FIRST || f->kind == XP_SHM_PULL;

    if (!xp_shm_ring_sane(&in->ring, f) || begins != (in->current == NULL) ||
        (f->kind == XP_SHM_MORE && f->bytes > in->current->len - in->current->got) ||
        (f->kind == XP_SHM_FIRST && lane == XP_LANE_CTRL && f->len > XP_CTRL_MAX)) {
        xp_shm_corrupt(t, peer, "a fragment in the ring makes no sense");
        return 0;
    }
    if (f->kind == XP_SHM_ABORT) {
        take_abort(t, in);
        return 1;
    }
    if (begins) {
        struct xp_shm_message *m = begin(t, peer, lane, f);

        if (m == NULL)
            return 0;
        if (m->pull) {
            xp_shm_ring_take(&in->ring, 0, NULL);
            if (m->request != NULL || m->unwanted)
                start_pull(t, m);
            return 1;
        }
        in->current = m;
    }
    take_payload(t, in, f);
    return 1;
}

int xp_shm_drain(struct xp_shm *t, int peer, int lane)
{
    struct xp_shm_in *in = &t->peer[peer].in[lane];
    struct xp_shm_fragment f;
    size_t read = 0;
    int moved = 0;

    while (!t->peer[peer].failed && xp_shm_ring_peek(&in->ring, &f)) {
        if (read >= BUDGET || !take_fragment(t, peer, lane, &f)) {
            xp_shm_mark(t->readable, peer, lane);
            break;
        }
        read += f.bytes;
        moved++;
    }
    return moved;
}

/* ------------------------------------------------------------------ pulling */

static ssize_t read_peer(pid_t pid, void *dst, uint64_t at, size_t len)
{
    struct iovec to = {dst, len}, from = {(void *)(uintptr_t)at, len};

    return process_vm_readv(pid, &to, 1, &from, 1, 0);
}

int xp_shm_can_pull(const struct xp_shm_address *a)
{
    uint64_t seen = 0;

    return read_peer((pid_t)a->pid, &seen, a->cookie_at, sizeof seen) == (ssize_t)sizeof seen && seen == a->cookie;
}

/* Copies the next bytes. 0: the sender took it back, or the kernel refused (and then it comes through the ring). */
static int pull_step(struct xp_shm *t, struct xp_shm_message *m)
{
    struct xp_shm_peer *p = &t->peer[m->peer];
    unsigned char *dst = m->request->buf + m->got;
    size_t n = m->len - m->got < PULL_STEP ? m->len - m->got : PULL_STEP;

    if (p->same_process) {
        if (!answer(t, m, XP_SHM_READING))
            return 0;
        memcpy(dst, (const unsigned char *)(uintptr_t)m->at + m->got, n);
        atomic_store_explicit(slot_of(t, m), XP_SHM_OFFERED, memory_order_release);
    } else {
        ssize_t r = read_peer(p->pid, dst, m->at + m->got, n);

        if (r <= 0) {
            atomic_store_explicit(&xp_shm_pair(&t->inbox, m->peer)->may_pull, 0, memory_order_relaxed);
            answer(t, m, XP_SHM_REFUSED);
            return 0;
        }
        n = (size_t)r;
    }
    m->got += n;
    return m->got < m->len || answer(t, m, XP_SHM_DONE);
}

int xp_shm_pull(struct xp_shm *t)
{
    struct xp_shm_message *m = t->pulls.first;

    if (m == NULL)
        return 0;
    unlink_message(&t->pulls, m);
    if (!pull_step(t, m)) {
        repost(t, m);
        xp_shm_message_free(t, m);
    } else if (m->got == m->len) {
        complete(t, m);
    } else {
        append_message(&t->pulls, m);
    }
    return 1;
}

/* ------------------------------------------------------------------ receives */

int xp_shm_claim_early(struct xp_shm *t, struct xp_shm_request *r)
{
    struct xp_shm_in *in = &t->peer[r->peer].in[r->lane];
    struct xp_shm_message *m = in->early.first;

    while (m != NULL && m->tag != r->tag)
        m = m->next;
    if (m == NULL)
        return 0;
    leave_early(in, m);
    attach(t, m, r);
    if (m->pull) {
        start_pull(t, m);
        return 1;
    }
    if (m->request != NULL && m->got > 0)
        memcpy(m->request->buf, m->spool, m->got);
    if (m != in->current)
        complete(t, m);
    return 1;
}

void xp_shm_cancel_recv(struct xp_shm *t, struct xp_shm_request *r, xp_status s)
{
    struct xp_shm_message *m = r->message;

    if (m == NULL) {
        xp_shm_unlink(&t->peer[r->peer].in[r->lane].posted, r);
    } else if (m->pull) {
        unlink_message(&t->pulls, m);
        answer(t, m, XP_SHM_DONE);
        xp_shm_message_free(t, m);
    } else { /* the rest of it still comes through the ring */
        m->request = NULL;
        m->unwanted = 1;
    }
    xp_shm_finish(t, r, s, 0);
}

void xp_shm_drop_messages(struct xp_shm *t, int peer)
{
    for (int lane = 0; lane < 2; lane++) {
        struct xp_shm_in *in = &t->peer[peer].in[lane];
        struct xp_shm_message *m;

        if (in->current != NULL && in->current->unwanted)
            xp_shm_message_free(t, in->current);
        in->current = NULL;
        while ((m = in->early.first) != NULL) {
            leave_early(in, m);
            xp_shm_message_free(t, m);
        }
    }
}
