/*
 * shm_segment.h - the shared memory between ranks of a node: layout and life
 *
 * Every rank owns one segment, its inbox: a doorbell, and for every rank of its node two rings (one a lane) that this peer
 * writes and the owner reads. All indices are byte counts that only grow.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SHM_SEGMENT_H
#define XP_SHM_SEGMENT_H

#include <stdatomic.h>
#include <sys/types.h>

#include "lib/transport/transport.h"

#define XP_SHM_APART 128 /* bytes between words of different writers: a cache line and the one prefetched with it */
#define XP_SHM_SLOTS 16  /* messages of one peer that may be under pull at once */

/* A message under pull: the sender offers it, the receiver copies it straight out of the sender's memory. */
enum xp_shm_slot_state {
    XP_SHM_FREE = 0,
    XP_SHM_OFFERED,   /* by the sender */
    XP_SHM_READING,   /* by the receiver, threads of one process only: the sender may not take its buffer back just now */
    XP_SHM_DONE,      /* by the receiver */
    XP_SHM_REFUSED,   /* by the receiver: the kernel does not let it read; send it through the ring */
    XP_SHM_WITHDRAWN  /* by the sender */
};

struct xp_shm_ring {
    _Alignas(XP_SHM_APART) _Atomic uint64_t head; /* bytes written, by the peer */
    _Alignas(XP_SHM_APART) _Atomic uint64_t tail; /* bytes read, by the owner */
};

struct xp_shm_slot {
    _Alignas(64) _Atomic uint32_t state;
};

struct xp_shm_pair {
    struct xp_shm_ring lane[2];
    _Alignas(XP_SHM_APART) _Atomic uint32_t may_pull; /* by the owner: it can read the peer's memory */
    struct xp_shm_slot slot[XP_SHM_SLOTS];
};

struct xp_shm_layout {
    int peers;           /* ranks of the node, the owner included (its own place stays empty) */
    size_t ring_size[2]; /* powers of two */
    size_t pairs_at, rings_at, bytes;
};

struct xp_shm_segment {
    struct xp_shm_layout layout;
    unsigned char *base;
    int lock; /* the owner's descriptor, which holds a lock on the file while it has a name; -1: none */
    char name[64];
};

/* What a peer must know; travels as the transport's address. */
struct xp_shm_address {
    uint64_t magic, process, cookie, cookie_at;
    int64_t pid;
    uint64_t bytes;
    char name[64];
};

void xp_shm_layout(struct xp_shm_layout *l, int peers);

/* Creates and maps this rank's segment under a name nobody can guess. Names that killed ranks left behind are removed. */
xp_status xp_shm_segment_create(struct xp_shm_segment *s, int peers, uint64_t job, char *err, size_t err_size);
/* Maps a peer's segment; threads of one process share one mapping. */
xp_status xp_shm_segment_attach(struct xp_shm_segment *s, int peers, const struct xp_shm_address *a, char *err, size_t err_size);
/* Removes the name; the memory lives until the last one detaches. */
void xp_shm_segment_unlink(struct xp_shm_segment *s);
void xp_shm_segment_detach(struct xp_shm_segment *s);

/* A number that threads of one process share and no other process has. */
uint64_t xp_shm_process(void);
uint64_t xp_shm_random(void);

static inline _Atomic uint64_t *xp_shm_doorbell(const struct xp_shm_segment *s)
{
    return (_Atomic uint64_t *)(s->base + XP_SHM_APART);
}

static inline struct xp_shm_pair *xp_shm_pair(const struct xp_shm_segment *s, int from)
{
    return (struct xp_shm_pair *)(s->base + s->layout.pairs_at) + from;
}

static inline unsigned char *xp_shm_ring_data(const struct xp_shm_segment *s, int from, enum xp_lane lane)
{
    size_t both = s->layout.ring_size[0] + s->layout.ring_size[1];

    return s->base + s->layout.rings_at + (size_t)from * both + (lane == XP_LANE_BULK ? s->layout.ring_size[0] : 0);
}

#endif
