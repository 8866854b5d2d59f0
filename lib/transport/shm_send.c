/*
 * shm_send.c - the sending half of the shared memory transport
 *
 * Small messages go through the ring in fragments, so that one copy in and one copy out overlap. A large message is offered
 * instead: the receiver copies it straight out of this rank's memory and says so in a slot.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/shm_state.h"

#include <sched.h>
#include <string.h>

#define FRAGMENT ((size_t)32 << 10)    /* most bytes in one, so that the reader starts soon */
#define FRAGMENT_MIN ((size_t)4 << 10) /* do not chase the reader with crumbs */
#define PULL_MIN ((size_t)32 << 10)    /* from here on one copy beats two */
#define BUDGET ((size_t)128 << 10)     /* bytes of one lane in one call: the others get their turn */

static void ring_bell(struct xp_shm *t, struct xp_shm_peer *p, int lane)
{
    int bit = 2 * t->me + lane;

    atomic_fetch_or_explicit(xp_shm_doorbell(&p->segment) + bit / 64, 1ull << (bit % 64), memory_order_release);
}

static struct xp_shm_pair *pair_of(struct xp_shm *t, struct xp_shm_peer *p)
{
    return xp_shm_pair(&p->segment, t->me);
}

static void put(struct xp_shm *t, struct xp_shm_peer *p, int lane, const struct xp_shm_fragment *f, const void *payload)
{
    xp_shm_ring_put(&p->out[lane].ring, f, payload);
    ring_bell(t, p, lane);
}

/* Offers the message to be pulled. 0: not this one, not now. */
static int offer(struct xp_shm *t, struct xp_shm_peer *p, struct xp_shm_request *r)
{
    struct xp_shm_pair *pair = pair_of(t, p);

    if (r->lane != XP_LANE_BULK || r->len < PULL_MIN || p->offers == (1u << XP_SHM_SLOTS) - 1 ||
        atomic_load_explicit(&pair->may_pull, memory_order_relaxed) == 0)
        return 0;
    int slot = __builtin_ctz(~p->offers);
    p->offers |= 1u << slot;
    t->offers++;
    p->offered[slot] = r;
    r->slot = slot;
    atomic_store_explicit(&pair->slot[slot].state, XP_SHM_OFFERED, memory_order_relaxed);
    struct xp_shm_fragment f = {XP_SHM_PULL, 0, r->tag, r->len, (uintptr_t)r->buf, (uint32_t)slot};
    put(t, p, r->lane, &f, NULL);
    return 1;
}

/* Writes the next fragment of the first message; 0: no room. */
static int write_fragment(struct xp_shm *t, struct xp_shm_peer *p, int lane, struct xp_shm_request *r)
{
    struct xp_shm_out *o = &p->out[lane];
    size_t left = r->len - r->done, want = left < FRAGMENT ? left : FRAGMENT;
    size_t room = xp_shm_ring_room(&o->ring, want);

    if (room < want && room < FRAGMENT_MIN)
        return 0;
    if (want > room)
        want = room;
    struct xp_shm_fragment f = {r->done == 0 ? XP_SHM_FIRST : XP_SHM_MORE, (uint32_t)want, r->tag, r->len, 0, 0};
    put(t, p, lane, &f, r->buf + r->done);
    r->done += want;
    return 1;
}

int xp_shm_push(struct xp_shm *t, int peer, int lane)
{
    struct xp_shm_peer *p = &t->peer[peer];
    struct xp_shm_out *o = &p->out[lane];
    size_t written = 0;
    int moved = 0;

    while ((o->queue.first != NULL || o->abort) && written < BUDGET) {
        struct xp_shm_request *r = o->queue.first;
        struct xp_shm_fragment abort_it = {XP_SHM_ABORT, 0, 0, 0, 0, 0};

        if (xp_shm_ring_room(&o->ring, 1) == 0)
            break;
        moved++;
        if (o->abort) {
            put(t, p, lane, &abort_it, NULL);
            o->abort = 0;
            continue;
        }
        if (r->done == 0 && offer(t, p, r)) {
            xp_shm_unlink(&o->queue, r);
            continue;
        }
        size_t before = r->done;
        if (!write_fragment(t, p, lane, r)) {
            moved--;
            break;
        }
        written += r->done - before;
        if (r->done == r->len) {
            xp_shm_unlink(&o->queue, r);
            xp_shm_finish(t, r, XP_OK, r->len);
        }
    }
    if (o->queue.first != NULL || o->abort)
        xp_shm_mark(t->writable, peer, lane);
    return moved;
}

static void free_slot(struct xp_shm *t, struct xp_shm_peer *p, int slot)
{
    atomic_store_explicit(&pair_of(t, p)->slot[slot].state, XP_SHM_FREE, memory_order_relaxed);
    p->offered[slot] = NULL;
    p->offers &= ~(1u << slot);
    t->offers--;
}

static int collect_from(struct xp_shm *t, int peer)
{
    struct xp_shm_peer *p = &t->peer[peer];
    int moved = 0;

    for (unsigned left = p->offers; left != 0; left &= left - 1) {
        int slot = __builtin_ctz(left);
        struct xp_shm_request *r = p->offered[slot];
        uint32_t state = atomic_load_explicit(&pair_of(t, p)->slot[slot].state, memory_order_acquire);

        if (state != XP_SHM_DONE && state != XP_SHM_REFUSED)
            continue;
        free_slot(t, p, slot);
        moved++;
        if (r == NULL)
            continue;
        r->slot = -1;
        if (state == XP_SHM_DONE) {
            xp_shm_finish(t, r, XP_OK, r->len);
        } else { /* the receiver has also cleared may_pull: it goes through the ring now */
            xp_shm_append(&p->out[r->lane].queue, r);
            xp_shm_mark(t->writable, peer, r->lane);
        }
    }
    return moved;
}

int xp_shm_collect_offers(struct xp_shm *t)
{
    int moved = 0;

    for (int peer = 0; peer < t->peers && t->offers > 0; peer++) {
        if (t->peer[peer].offers != 0)
            moved += collect_from(t, peer);
    }
    return moved;
}

/* Takes an offer back. Returns whether the receiver had it already. */
static int withdraw(struct xp_shm *t, struct xp_shm_peer *p, int slot)
{
    _Atomic uint32_t *state = &pair_of(t, p)->slot[slot].state;

    for (;;) {
        uint32_t is = XP_SHM_OFFERED;

        if (atomic_compare_exchange_strong_explicit(state, &is, XP_SHM_WITHDRAWN, memory_order_acq_rel, memory_order_acquire))
            return 0;
        if (is != XP_SHM_READING)
            return is == XP_SHM_DONE;
        sched_yield(); /* a thread of this process is inside a copy of at most PULL_STEP bytes */
    }
}

void xp_shm_cancel_send(struct xp_shm *t, struct xp_shm_request *r, xp_status s)
{
    struct xp_shm_peer *p = &t->peer[r->peer];
    struct xp_shm_out *o = &p->out[r->lane];

    if (r->slot >= 0) {
        p->offered[r->slot] = NULL;
        xp_shm_finish(t, r, withdraw(t, p, r->slot) ? XP_OK : s, 0);
        return;
    }
    xp_shm_unlink(&o->queue, r);
    if (r->done > 0 && !p->failed) {
        o->abort = 1;
        xp_shm_mark(t->writable, r->peer, r->lane);
    }
    xp_shm_finish(t, r, s, 0);
}
