/*
 * grouped.h - the inside of the exchange of rows in device memory by one group of sends and receives on a stream (NCCL)
 *
 * The rows of a call go from device to device in one exchange of the transport: those of the own node, and all of them in raw mode, as they
 * are; those for other nodes as the rows' bytes of frames in bounded mode, and without their copies in exact mode. What a receiver must
 * know first travels as messages of the host: the counts, as in every exchange, and *heads*. In bounded mode: for each frame a byte, 0 where
 * its rows travel raw, else 1 and the frame's payload up to the rows' bytes (FORMAT.md, codec quant), whose lengths follow from it. In exact
 * mode: the row map (rowmap.h), which names every row distinct where leaving copies out would not pay. No more rows than one message may have
 * (CROSSPRESS_CHUNK) travel without a head, as they are: their copies are not worth another message.
 *
 * Where there are no heads and every rank says with its counts that all of them are the same number, the rows go by the transport's
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

/* The rows for or from one peer, and their head. */
struct xp_heads {
    size_t row, rows;     /* in the caller's buffer; rows: 0 where there is no head */
    size_t frame, frames; /* coded; sent: the first one in the batch */
    size_t distinct;      /* rows that travel as they are, if not coded; fewer than `rows`: copies are left out, and */
    size_t place;         /* the others begin here in the memory for them */
    uint8_t *bytes;       /* the message, */
    size_t cap, len;      /* and its length */
    struct xp_op op;
};

/* What finds copies of rows, sends the distinct ones and spreads those received. Beside dev: pinned memory. */
struct xp_copies {
    struct xp_gpu gpu;          /* on the plan's stream */
    void *known;                /* event: copy_of is on the host */
    struct xp_gpu_frame *frame; /* the rows for each peer that has a head, */
    size_t frames;              /* of the call */
    uint32_t *copy_of;          /* [max_send_rows] as xp_cuda_row_copies has it */
    uint32_t *index;            /* [max_send_rows] the distinct rows that are gathered, */
    size_t gathered;            /* of the call */
    uint32_t *spread;           /* [max_recv_rows] which of the rows in staging memory each is, */
    size_t staged;              /* of the call */
    uint32_t *map;              /* [max_send_rows or max_recv_rows] of one peer */
    struct {
        struct xp_gpu_frame *frame;
        void *scratch;
        uint32_t *copy_of, *index, *spread;
        char *rows, *staging;   /* distinct rows to send, and received */
    } dev;
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
    struct xp_device_coder *coder; /* NULL: rows are not coded */
    struct xp_copies *copies;      /* NULL: copies of rows are not looked for */
    struct xp_counts counts;
    uint8_t *head_memory;
    struct xp_heads *out, *in; /* [size] */
    struct xp_piece_list send, recv;
    /* of the call */
    const struct xp_call *call;
    xp_stats *stats;
    int active;
    uint64_t even;        /* rows to and from every rank, the same for all and without heads; 0: not so */
    enum { XP_GROUP_ENTERED, XP_GROUP_COUNTS, XP_GROUP_HEADS, XP_GROUP_JOINING, XP_GROUP_MOVING, XP_GROUP_OVER } phase;
};

/* grouped_heads.c: the messages of the host, and the pieces that follow from them. */
size_t xp_grouped_frames(const struct xp_shape *s, size_t rows); /* most frames of a call */
size_t xp_grouped_head_bytes(const struct xp_shape *s, size_t rows); /* most bytes of all heads */
/* Posts the receives of heads; lists the rows for which there are some to send, and the frames to code. */
void xp_grouped_heads_begin(struct xp_grouped *g);
/* Once rows are coded, or their copies known: sends the heads. */
void xp_grouped_heads_send(struct xp_grouped *g);
/* XP_OK: all have come and gone. XP_IN_PROGRESS, error. */
xp_status xp_grouped_heads_progress(struct xp_grouped *g);
void xp_grouped_heads_cancel(struct xp_grouped *g);
/* Fills g->send and g->recv. XP_ERR_CORRUPT, XP_ERR_SYSTEM. */
xp_status xp_grouped_make_pieces(struct xp_grouped *g);
/* Enqueues what brings the received bytes to their places. 0 or a cudaError_t. */
int xp_grouped_decode(struct xp_grouped *g);

/* grouped_copies.c: copies of rows. Those that return int: 0 or a cudaError_t, if nothing else is said. */
int xp_grouped_copies_create(struct xp_grouped *g);
void xp_grouped_copies_destroy(struct xp_grouped *g);
/* Enqueues the search among the rows that have heads; g->copies->known is recorded behind it. */
int xp_grouped_copies_find(struct xp_grouped *g);
/* When that has come: decides what travels, and writes the head. Returns its bytes. */
size_t xp_grouped_copies_write(struct xp_grouped *g, struct xp_heads *h);
/* When all are written: enqueues the gathering of rows. */
int xp_grouped_copies_gather(struct xp_grouped *g);
/* Reads the head that has come. Returns whether it is one. */
int xp_grouped_copies_read(struct xp_grouped *g, struct xp_heads *h);
/* Enqueues what brings the received rows to their places. */
int xp_grouped_copies_spread(struct xp_grouped *g);

#endif
