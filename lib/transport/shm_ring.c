/*
 * shm_ring.c - one lane from one peer: a ring of fragments with a single writer and a single reader
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/shm_ring.h"

#include <string.h>

#define HEAD sizeof(struct xp_shm_fragment)

_Static_assert(sizeof(struct xp_shm_fragment) == 64, "a fragment's head is one cache line");

static size_t padded(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

size_t xp_shm_ring_room(struct xp_shm_writer *w, size_t want)
{
    size_t room = w->size - (size_t)(w->head - w->tail);

    if (room < HEAD + padded(want)) {
        w->tail = atomic_load_explicit(&w->ring->tail, memory_order_acquire);
        room = w->size - (size_t)(w->head - w->tail);
    }
    return room > HEAD && room <= w->size ? room - HEAD : 0;
}

void xp_shm_ring_put(struct xp_shm_writer *w, const struct xp_shm_fragment *f, const void *payload)
{
    size_t at = (size_t)w->head & (w->size - 1);

    memcpy(w->data + at, f, HEAD);
    at = (at + HEAD) & (w->size - 1);
    size_t to_end = w->size - at;
    if (f->bytes <= to_end) {
        if (f->bytes > 0)
            memcpy(w->data + at, payload, f->bytes);
    } else {
        memcpy(w->data + at, payload, to_end);
        memcpy(w->data, (const unsigned char *)payload + to_end, f->bytes - to_end);
    }
    w->head += HEAD + padded(f->bytes);
    atomic_store_explicit(&w->ring->head, w->head, memory_order_release);
}

int xp_shm_ring_peek(struct xp_shm_reader *r, struct xp_shm_fragment *f)
{
    if (r->head == r->tail) {
        r->head = atomic_load_explicit(&r->ring->head, memory_order_acquire);
        if (r->head == r->tail)
            return 0;
    }
    memcpy(f, r->data + ((size_t)r->tail & (r->size - 1)), HEAD);
    return 1;
}

int xp_shm_ring_sane(const struct xp_shm_reader *r, const struct xp_shm_fragment *f)
{
    uint64_t there = r->head - r->tail;

    return there <= r->size && f->kind >= XP_SHM_FIRST && f->kind <= XP_SHM_PULL && HEAD + padded(f->bytes) <= there &&
           f->bytes <= f->len && (f->kind != XP_SHM_PULL || f->slot < XP_SHM_SLOTS);
}

void xp_shm_ring_take(struct xp_shm_reader *r, uint32_t bytes, void *dst)
{
    size_t at = ((size_t)r->tail + HEAD) & (r->size - 1);
    size_t to_end = r->size - at;

    if (dst == NULL || bytes == 0) {
        /* nothing to keep */
    } else if (bytes <= to_end) {
        memcpy(dst, r->data + at, bytes);
    } else {
        memcpy(dst, r->data + at, to_end);
        memcpy((unsigned char *)dst + to_end, r->data, bytes - to_end);
    }
    r->tail += HEAD + padded(bytes);
    atomic_store_explicit(&r->ring->tail, r->tail, memory_order_release);
}
