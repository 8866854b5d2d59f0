/*
 * staged.h - the inside of the exchange of rows in device memory over transports of the host
 *
 * Rows travel in chunks. On the way out a chunk is copied to pinned memory and sent from there; on the way in it comes to pinned memory and is
 * copied to its place. Two streams of the plan's own carry the copies, so that both directions run beside each other and beside the
 * messages. A transport that takes device memory gets the rows themselves. Where the plan codes rows, chunks for other nodes are frames, made
 * and taken apart on the device (device_coder.h); both ends know it, so no head message says so.
 *
 * Order: both streams begin behind what the caller's stream had been given when the call began, and when the exchange ends the caller's
 * stream waits for the last copy. The host never waits for the device but by asking again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_STAGED_H
#define XP_STAGED_H

#include "collectives/counts.h"
#include "collectives/device_call.h"
#include "collectives/device_coder.h"
#include "collectives/pipeline.h"
#include "lib/device.h"

/* Rows that travel as one message. */
struct xp_chunk {
    int peer;
    unsigned form;   /* enum xp_stream_form: PLAIN or CODED */
    uint32_t number; /* within the stream of this peer */
    size_t row, rows; /* the first one's place in the caller's buffer */
};

/* The rows for one peer, as far as they have not been dealt into chunks. */
struct xp_out_peer {
    size_t row, left;
    uint32_t number;
    int coded;
    int settled; /* its header is here and has been acted upon */
    int refused; /* its counts are not ours: nothing is sent */
};

/* Chunks that are coded together. */
struct xp_out_batch {
    enum { XP_BATCH_FREE, XP_BATCH_CODING, XP_BATCH_CODED } state;
    struct xp_device_batch *coded;
    struct xp_chunk *chunks; /* [coder.batch_frames] */
    size_t next, open;       /* next: to be given a slot; open: not completed yet */
};

/* A chunk on its way out. */
struct xp_out_slot {
    enum { XP_SLOT_FREE, XP_SLOT_COPYING, XP_SLOT_READY, XP_SLOT_SENDING } state;
    struct xp_chunk chunk;
    struct xp_out_batch *batch; /* NULL: plain rows */
    size_t frame;     /* within the batch */
    uint8_t *buf;     /* pinned */
    const void *from; /* what is sent: buf, or rows in device memory */
    size_t len;
    void *event;      /* the copy has been done */
    struct xp_op op;
};

/* A chunk on its way in. */
struct xp_arrival {
    struct xp_chunk chunk;
    uint8_t *staging; /* pinned; NULL: it comes to its place by itself */
    struct xp_op op;
};

struct xp_in_peer {
    struct xp_arrival *first, *end, *next; /* next: those before it have been taken in */
};

struct xp_staged {
    const struct xp_shape *shape;
    const struct xp_device *dev;
    struct xp_device_lanes lanes;
    struct xp_pool pinned, memory; /* memory: of the device */
    struct xp_device_coder *coder; /* NULL: rows travel as they are */
    struct xp_counts counts;
    /* of the call */
    const struct xp_call *call;
    xp_stats *stats;
    int active, begun;     /* begun: receives are posted and headers sent */
    /* out */
    struct xp_out_peer *to; /* [size] */
    struct xp_out_slot *slots;
    size_t nslots;
    int turn[2];           /* the peer that was dealt last, plain and coded */
    struct xp_out_batch batch[XP_DEVICE_BATCHES];
    /* in */
    struct xp_in_peer *from; /* [size] */
    struct xp_arrival *arrivals;
    uint8_t *staging;
    struct xp_device_frame *run; /* frames that are decoded together; as many as arrivals */
};

/* Whether a transport takes the memory of the device from here to this peer. */
int xp_staged_direct(const struct xp_staged *s, int peer);

/* staged_send.c */
size_t xp_staged_slots(const struct xp_shape *s);
size_t xp_staged_chunk_bytes(const struct xp_shape *s, size_t rows, int coded); /* most bytes of a chunk */
void xp_staged_send_begin(struct xp_staged *s);
xp_status xp_staged_send_progress(struct xp_staged *s, int *moved);
int xp_staged_send_done(const struct xp_staged *s, int peer);
void xp_staged_send_cancel(struct xp_staged *s);

/* staged_recv.c */
size_t xp_staged_arrivals(const struct xp_shape *s);
size_t xp_staged_arrival_bytes(const struct xp_shape *s); /* pinned memory for all of them */
void xp_staged_recv_begin(struct xp_staged *s);
xp_status xp_staged_recv_progress(struct xp_staged *s, int *moved);
int xp_staged_recv_done(const struct xp_staged *s, int peer);
/* Nothing will come of this peer. */
void xp_staged_recv_refuse(struct xp_staged *s, int peer);
void xp_staged_recv_cancel(struct xp_staged *s);

#endif
