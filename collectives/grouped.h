/*
 * grouped.h - the inside of the exchange of rows in device memory by one group of sends and receives on a stream (NCCL)
 *
 * The rows of a call go from device to device in one exchange of the transport: those of the own node, and all of them where nothing is
 * coded, as they are; those for other nodes as the rows' bytes of frames. What a receiver must know first travels as messages of
 * the host: the counts, as in every exchange, and for coded rows the *heads*: for each frame a byte, 0 where its rows travel raw,
 * else 1 and the frame's payload up to the rows' bytes (FORMAT.md, codec quant), whose lengths follow from it.
 *
 * Where nothing is coded and every rank says with its counts that all of them are the same number, the rows go by the transport's
 * all-to-all.
 *
 * The plans of a MoE layer have one communicator among them (shape->shares): their exchanges never run beside each other.
 *
 * Frames of one kind that follow one another are one piece. Both ends make the pieces from the heads, so they list the same.
 *
 * No rank enqueues its group before it knows that all counts agree, which all ranks find alike, and has all heads. From then on the device
 * waits for the peers; the host asks it, and aborts the communicator when a peer is gone or the deadline has passed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_GROUPED_H
#define XP_GROUPED_H

#include "collectives/counts.h"
#include "collectives/device_call.h"
#include "collectives/device_coder.h"
#include "collectives/pipeline.h"

/* What each rank says of its transport when a plan is created. */
struct xp_group_address {
    int32_t status, can_alltoall;
    uint64_t len;
    uint8_t address[XP_ADDRESS_MAX];
    char text[160];
};

/* The coded rows for or from one peer. */
struct xp_heads {
    size_t row, rows;     /* in the caller's buffer */
    size_t frame, frames; /* sent: the first one in the batch */
    uint8_t *bytes;       /* the message, */
    size_t cap, len;      /* and its length */
    struct xp_op op;
};

struct xp_piece_list {
    struct xp_piece *piece;
    size_t count;
};

struct xp_grouped {
    const struct xp_shape *shape;
    const struct xp_device *dev;
    struct xp_transport *group;
    int can_alltoall;     /* on every rank */
    struct xp_device_lanes lanes; /* one stream */
    struct xp_pool pinned, memory;
    struct xp_device_coder *coder; /* NULL: rows travel as they are */
    struct xp_counts counts;
    uint8_t *head_memory;
    struct xp_heads *out, *in; /* [size]; rows 0: nothing coded */
    struct xp_piece_list send, recv;
    /* of the call */
    const struct xp_call *call;
    xp_stats *stats;
    int active;
    uint64_t even;        /* rows to and from every rank, the same for all and not coded; 0: not so */
    enum { XP_GROUP_ENTERED, XP_GROUP_COUNTS, XP_GROUP_HEADS, XP_GROUP_JOINING, XP_GROUP_MOVING, XP_GROUP_OVER } phase;
};

/* grouped_heads.c: the messages of the host, and the pieces that follow from them. */
size_t xp_grouped_frames(const struct xp_shape *s, size_t rows); /* most frames of a call */
size_t xp_grouped_head_bytes(const struct xp_shape *s, size_t rows); /* most bytes of all heads */
/* Posts the receives of heads; lists the frames to code. */
void xp_grouped_heads_begin(struct xp_grouped *g);
/* Once rows are coded: sends the heads. */
void xp_grouped_heads_send(struct xp_grouped *g);
/* XP_OK: all have come and gone. XP_IN_PROGRESS, error. */
xp_status xp_grouped_heads_progress(struct xp_grouped *g);
void xp_grouped_heads_cancel(struct xp_grouped *g);
/* Fills g->send and g->recv. XP_ERR_CORRUPT, XP_ERR_SYSTEM. */
xp_status xp_grouped_make_pieces(struct xp_grouped *g);
/* Enqueues what brings the received bytes to their places. 0 or a cudaError_t. */
int xp_grouped_decode(struct xp_grouped *g);

#endif
