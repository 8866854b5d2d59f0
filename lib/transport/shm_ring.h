/*
 * shm_ring.h - one lane from one peer: a ring of fragments with a single writer and a single reader
 *
 * A fragment is a head of 64 bytes and a payload padded to 64, so that heads never wrap and copies are aligned.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SHM_RING_H
#define XP_SHM_RING_H

#include "lib/transport/shm_segment.h"

enum xp_shm_kind {
    XP_SHM_FIRST = 1, /* begins a message of len bytes under tag */
    XP_SHM_MORE,      /* goes on with it */
    XP_SHM_ABORT,     /* its sender took it back */
    XP_SHM_PULL       /* a message of len bytes to be read at address `at` of the sender; slot says when that is done */
};

struct xp_shm_fragment {
    _Alignas(64) uint32_t kind;
    uint32_t bytes; /* of payload */
    uint64_t tag, len, at;
    uint32_t slot;
};

struct xp_shm_writer {
    struct xp_shm_ring *ring;
    unsigned char *data;
    size_t size;
    uint64_t head, tail; /* own index, and the reader's as last seen */
};

struct xp_shm_reader {
    struct xp_shm_ring *ring;
    unsigned char *data;
    size_t size;
    uint64_t head, tail; /* the writer's index as last seen, and the own one */
};

/* Bytes of payload a fragment could carry now (0: no fragment at all, not even an empty one); looks at the reader's index only if
 * what was last seen holds fewer than `want`. */
size_t xp_shm_ring_room(struct xp_shm_writer *w, size_t want);
/* Writes one fragment; there is room. */
void xp_shm_ring_put(struct xp_shm_writer *w, const struct xp_shm_fragment *f, const void *payload);

/* Copies the next fragment's head (0: there is none). It stays in the ring until taken. */
int xp_shm_ring_peek(struct xp_shm_reader *r, struct xp_shm_fragment *f);
/* Whether a head can be true: a peer's memory is not to be trusted with our bounds. */
int xp_shm_ring_sane(const struct xp_shm_reader *r, const struct xp_shm_fragment *f);
/* Copies its payload to dst (NULL: nowhere) and frees its place. */
void xp_shm_ring_take(struct xp_shm_reader *r, uint32_t bytes, void *dst);

#endif
